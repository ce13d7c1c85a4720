"""Files from the web, each whole and checked or not there."""

import hashlib
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from aigc_jax.data import store
from aigc_jax.errors import UserError

PATIENCE_S = 20  # without an answer for so long, there is no web


class File(NamedTuple):
    """A file's address, its name here, and the sha256 of its content (unzipped when gzipped)."""

    url: str
    name: str
    sha256: str


def fetch(files: Iterable[File], folder: Path, dataset: str) -> None:
    """Downloads what is not in `folder` yet; a rerun goes on with the files that lack.

    Raises:
      UserError: no answer, or another content than expected. The line names the other way in.
    """
    with store.storage(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            final = folder / file.name
            if final.is_file() and _sha256(final) == file.sha256:
                continue
            part = folder / f".{file.name}.part"
            try:
                with (
                    urllib.request.urlopen(file.url, timeout=PATIENCE_S) as answer,
                    part.open("wb") as opened,
                ):
                    shutil.copyfileobj(answer, opened)
                if (found := _sha256(part)) != file.sha256:
                    raise UserError(
                        f"{file.url} has the sha256 {found}, expected {file.sha256}; it was thrown "
                        f"away. Take the file elsewhere: `aigc data prepare {dataset} --from PATH`."
                    )
                part.replace(final)
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                reason = getattr(error, "reason", error)
                raise UserError(
                    f"{dataset} is fetched from the web, and {file.url} gave no answer ({reason})."
                    f" Without the web: copy its files here and run `aigc data prepare {dataset} "
                    "--from PATH`."
                ) from None
            finally:
                part.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    """Returns the sha256 of a file's content, unzipped; "" of a gzip that is cut off."""
    try:
        return hashlib.sha256(store.content(path)).hexdigest()
    except UserError:
        return ""

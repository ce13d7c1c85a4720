"""What evaluators keep: arrays and floors that cost much to make, and the protocols of scores."""

import io
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.train.storage import storage_errors, write_atomic

Arrays = dict[str, np.ndarray]
# Of the trials that are evaluated at the same time one makes it, and the others find it made.
making = threading.RLock()


def keep_arrays(
    cache: Path | None, fingerprint: str, key: str, make: Callable[[], Arrays]
) -> Arrays:
    """Returns what `make()` returns, from the cache where it is.

    Args:
      cache: folder, or None to keep nothing. fingerprint: of the data.
      key: a file name that says all else that the arrays depend on.
    """
    with making:
        return _kept_or_made(cache / f"{fingerprint[:32]}-{key}.npz" if cache else None, make)


def _kept_or_made(kept: Path | None, make: Callable[[], Arrays]) -> Arrays:
    if kept and kept.is_file():
        try:
            # From memory: NumPy leaves a file that it can't read open.
            with np.load(io.BytesIO(kept.read_bytes()), allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            pass  # cut off by a power failure: made anew
    made = make()
    if kept and jax.process_index() == 0:
        encoded = io.BytesIO()
        np.savez(encoded, **made)  # type: ignore[arg-type]
        with storage_errors(kept):
            kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(kept, encoded.getvalue())
    return made


def keep_floors(
    cache: Path | None, fingerprint: str, key: str, make: Callable[[], dict[str, float]]
) -> dict[str, float]:
    """Returns the floors that `make()` returns, from the cache where they are; else as of
    `keep_arrays`.
    """
    cached = cache / f"{fingerprint[:32]}-{key}.json" if cache else None
    with making:
        if cached and cached.is_file():
            return dict(json.loads(cached.read_text()))
        floors = make()
        if cached:
            with storage_errors(cached):
                cached.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(cached, json.dumps(floors, indent=2) + "\n")
        return floors


def add_protocol(run: Path | None, metric: str, protocol: dict[str, Any]) -> None:
    """Writes under which protocol a metric was measured to RUN/protocols.json.

    Raises:
      UserError: as of `noted`.
    """
    if jax.process_index() != 0 or run is None:
        return
    path = run / "protocols.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    both = noted(known, metric, protocol, f"{metric} of {run} was measured")
    if both != known:
        write_atomic(path, json.dumps(both, indent=2) + "\n")


def noted(
    known: dict[str, Any], metric: str, protocol: dict[str, Any], whose: str
) -> dict[str, Any]:
    """Returns the protocols that are known, by metric, and this one, as JSON holds it.

    Args:
      known: protocols. metric, protocol: to add. whose: how the message begins.

    Raises:
      UserError: the same metric is there under another protocol: two scores that can't be compared
        would stand under one name.
    """
    said = json.loads(json.dumps(protocol))
    if known.get(metric, said) != said:
        different = [k for k in {**known[metric], **said} if known[metric].get(k) != said.get(k)]
        raise UserError(
            f"{whose} under another protocol (other {', '.join(different)}); give the evaluator"
            " another title=."
        )
    return {**known, metric: said}

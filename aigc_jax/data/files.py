"""Text files: which there are, what they say, and how they are cut into documents."""

import re
from pathlib import Path

from aigc_jax.errors import UserError

SUFFIXES = (".txt", ".md")
# Patterns by name; any other word is taken as the separator itself.
SEPARATORS = {"lines": r"\n", "paragraphs": r"\n(?:\r?\n)+"}


def text_files(path: Path) -> list[Path]:
    """Returns the file itself, or a folder's text files sorted by path.

    Raises:
      UserError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(
        p
        for p in path.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
    )
    if not files:
        raise UserError(
            f"The folder {path} has no text: expected files ending in {' or '.join(SUFFIXES)}. "
            "Name the file itself if it is called otherwise."
        )
    return files


def cut(texts: list[str], documents: str | None) -> list[str]:
    """Cuts texts into documents, or joins them into one, as `make` says of `documents`."""
    if documents is None:
        return ["\n".join(texts)]
    if documents == "files":
        return texts
    own = documents.replace("\\n", "\n").replace("\\t", "\t")
    mark = re.compile(SEPARATORS.get(documents, re.escape(own)))
    pieces = [piece for whole in texts for piece in mark.split(whole)]
    if documents in SEPARATORS:
        pieces = [piece.strip("\r\n") for piece in pieces]
    return [piece for piece in pieces if piece.strip()]


def read_text(path: Path) -> str:
    """Returns a file's text as it stands, without a byte-order mark.

    Raises:
      UserError: it can't be read, or is no UTF-8; the message has the offset of the first bad byte.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise UserError(f"The text {path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x}. "
            "Convert it first, for instance by `iconv -f LATIN1 -t UTF-8`."
        ) from None
    return text.removeprefix("\ufeff")

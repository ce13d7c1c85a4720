"""What every tokenizer is, and the checks they share.

Letters: V = size of the vocabulary, N = number of ids.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from aigc_jax.errors import UserError

END = "<|endoftext|>"  # how the end-of-document token is written out by `decode`


class Tokenizer(Protocol):
    """Text to ids and back. Pure: no file is read after it is built."""

    @property
    def name(self) -> str:
        """The module in `aigc_jax/tokenizers/` that `load.from_dict` builds it from."""

    @property
    def vocab_size(self) -> int:
        """V: ids are in [0, V)."""

    @property
    def end(self) -> int | None:
        """The id of the end-of-document token, or None. `encode` never returns it."""

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 [N]. Raises UserError for a character that the vocabulary lacks."""

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of `ids` [N]. Raises UserError for an id outside [0, V)."""

    def pieces(self) -> Sequence[bytes]:
        """Returns the bytes that each id stands for, [V]; `END` for the end token."""

    def token_bytes(self) -> np.ndarray:
        """Returns int32 [V]: the UTF-8 bytes each id stands for, 0 for the end token."""

    def to_dict(self) -> dict[str, Any]:
        """Returns what `load.from_dict` needs, as JSON values; key "name" says which kind."""


def utf8(text: str) -> bytes:
    """Returns `text` as UTF-8; raises UserError for half a surrogate pair (a badly typed byte)."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"Character {error.start} of the text is {text[error.start]!r}, half a character that "
            "UTF-8 can't write; expected valid Unicode text. Retype or convert it to UTF-8."
        ) from None


def check_ids(ids: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """Returns `ids` as int64 [N]; raises UserError when one is not in [0, vocab_size)."""
    array = np.asarray(ids).reshape(-1)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise UserError(f"Ids to decode are {array.dtype}, expected whole numbers.")
    wrong = (array < 0) | (array >= vocab_size)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise UserError(
            f"Id {int(array[at])} at position {at} is outside the vocabulary of {vocab_size} "
            f"(0 to {vocab_size - 1}). Use the tokenizer that the model was trained with."
        )
    return array.astype(np.int64)


def from_pieces(pieces: Sequence[bytes], ids: np.ndarray) -> str:
    """Joins the bytes of `ids` [N]; bytes that are no valid UTF-8 become U+FFFD."""
    return b"".join([pieces[i] for i in ids.tolist()]).decode("utf-8", errors="replace")

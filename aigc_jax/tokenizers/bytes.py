"""One id per byte of UTF-8: any text, no training, V = 256 (257 with an end token)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aigc_jax.tokenizers.base import END, check_ids, from_pieces, utf8


@dataclass(frozen=True)
class BytesTokenizer:
    """Id = byte. With `with_end`, id 256 ends a document."""

    with_end: bool = False
    name: str = "bytes"

    @property
    def vocab_size(self) -> int:
        """256, or 257 with the end token."""
        return 256 + self.with_end

    @property
    def end(self) -> int | None:
        """256, or None."""
        return 256 if self.with_end else None

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 [bytes of the text]."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text; cut characters become U+FFFD. Raises UserError for a wrong id."""
        return from_pieces(self.pieces(), check_ids(ids, self.vocab_size))

    def pieces(self) -> Sequence[bytes]:
        """Returns each byte, [V]."""
        return [*(bytes([i]) for i in range(256)), *[END.encode()] * self.with_end]

    def token_bytes(self) -> np.ndarray:
        """Returns int32 [V]: ones, and 0 for the end token."""
        return np.array([1] * 256 + [0] * self.with_end, np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Returns the name and whether there is an end token."""
        return {"name": self.name, "end": self.with_end}


def from_dict(saved: dict[str, Any]) -> BytesTokenizer:
    """Rebuilds what `to_dict` saved."""
    return BytesTokenizer(bool(saved["end"]))

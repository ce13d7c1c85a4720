"""One id per character: the sorted symbols of a text, as in nanoGPT's `shakespeare_char`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.tokenizers.base import END, check_ids, utf8


def _codes(text: str) -> np.ndarray:
    """Returns the code points of `text`, uint32 [N]."""
    utf8(text)  # answers half a surrogate pair in plain words
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


@dataclass(frozen=True)
class CharTokenizer:
    """Id = rank of the character in `symbols` (sorted, no doubles); the end token comes last."""

    symbols: str
    with_end: bool = False
    name: str = "char"
    _ids: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.symbols or list(self.symbols) != sorted(set(self.symbols)):
            raise UserError(
                "The symbols of a character tokenizer must be sorted, each once, at least one; "
                f"got {self.symbols[:40]!r}."
            )
        codes = _codes(self.symbols)
        # One look-up per character; the last entry answers every code point past the table.
        ids = np.full(int(codes.max()) + 2, -1, np.int32)
        ids[codes] = np.arange(len(codes), dtype=np.int32)
        object.__setattr__(self, "_ids", ids)

    @property
    def vocab_size(self) -> int:
        """The number of symbols, plus one for the end token."""
        return len(self.symbols) + self.with_end

    @property
    def end(self) -> int | None:
        """The last id, or None."""
        return len(self.symbols) if self.with_end else None

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 [characters]. Raises UserError naming characters that are unknown."""
        ids: np.ndarray = self._ids[np.minimum(_codes(text), len(self._ids) - 1)]
        if len(ids) and ids.min() < 0:
            known = set(self.symbols)
            strange = list(dict.fromkeys(c for c in text if c not in known))
            named = ", ".join(f"{c!r} (U+{ord(c):04X})" for c in strange[:8])
            more = f" and {len(strange) - 8} more" if len(strange) > 8 else ""
            raise UserError(
                f"The text has characters that the vocabulary lacks: {named}{more}. "
                f"It knows {len(known)}: {self.symbols[:120]!r}. "
                "Leave them out, or train with the tokenizer 'bytes' or 'bpe'."
            )
        return ids

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text of `ids` [N]. Raises UserError for an id outside [0, V)."""
        pieces = [*self.symbols, END]
        return "".join([pieces[i] for i in check_ids(ids, self.vocab_size).tolist()])

    def pieces(self) -> Sequence[bytes]:
        """Returns the UTF-8 of each symbol, [V]."""
        return [*(c.encode() for c in self.symbols), *[END.encode()] * self.with_end]

    def token_bytes(self) -> np.ndarray:
        """Returns int32 [V]: 1 to 4 bytes a symbol, 0 for the end token."""
        return np.array([len(c.encode()) for c in self.symbols] + [0] * self.with_end, np.int32)

    def to_dict(self) -> dict[str, Any]:
        """Returns the symbols and whether there is an end token."""
        return {"name": self.name, "symbols": self.symbols, "end": self.with_end}


def from_dict(saved: dict[str, Any]) -> CharTokenizer:
    """Rebuilds what `to_dict` saved."""
    return CharTokenizer(str(saved["symbols"]), bool(saved["end"]))


def learn(texts: Iterable[str], *, end: bool = False) -> CharTokenizer:
    """Returns the tokenizer of every character that occurs in `texts`."""
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    return CharTokenizer("".join(sorted(seen)), end)

"""Byte-level byte-pair encoding, trained offline by HF `tokenizers` (Sennrich et al. 2016).

Text is cut into words by GPT-2's pattern, a word into bytes, and bytes are merged. Any text can be
encoded. `tokenizers` is imported when the first text is encoded, since a typo must be answered
before that.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.tokenizers.base import END, check_ids, from_pieces, utf8

BYTES = 256  # a vocabulary has every byte, so that no text is unknown
CHUNK = 1 << 16  # characters given to the encoder at once; it is slow on one long string
# A single newline between two printed characters: the word pattern cuts there whatever stands
# around, so a text encoded in such chunks gives the same ids as in one piece.
_CUT = re.compile(r"\S\n(?=\S)")


def byte_letters() -> list[str]:
    """Returns the printable letter that stands for each byte, [256].

    Source: GPT-2's `encoder.py` (Radford et al. 2019): printable Latin-1 bytes stand for
    themselves, the others take the code points from 256 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters, spare = [], 256
    for byte in range(256):
        if byte in printable:
            letters.append(chr(byte))
        else:
            letters.append(chr(spare))
            spare += 1
    return letters


def chunks(text: str, size: int = CHUNK) -> Iterator[str]:
    """Cuts `text` into pieces of about `size` characters where encoding allows it."""
    start = 0
    while start < len(text):
        found = _CUT.search(text, start + size)
        stop = found.end() if found else len(text)
        yield text[start:stop]
        start = stop


class BpeTokenizer:
    """Byte-level BPE over `tokens` [V] (written in byte letters) and `merges` ("a b", in order)."""

    def __init__(
        self, tokens: Sequence[str], merges: Sequence[str], end: int | None, name: str = "bpe"
    ) -> None:
        self.name = name
        self.end = end
        self._tokens = list(tokens)
        self._merges = list(merges)
        values = {letter: byte for byte, letter in enumerate(byte_letters())}
        try:
            self._pieces = [
                END.encode() if i == end else bytes([values[c] for c in token])
                for i, token in enumerate(self._tokens)
            ]
        except KeyError as error:
            raise UserError(f"The BPE vocabulary has {error}, which stands for no byte.") from None

    @cached_property
    def _encoder(self) -> Any:
        """The encoder of `tokenizers`."""
        from tokenizers import Tokenizer
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel

        vocab = {token: i for i, token in enumerate(self._tokens)}
        pairs = [(left, right) for left, right in (m.split(" ") for m in self._merges)]
        encoder = Tokenizer(BPE(vocab=vocab, merges=pairs))
        encoder.pre_tokenizer = ByteLevel(add_prefix_space=False)
        return encoder

    @property
    def vocab_size(self) -> int:
        """The number of tokens, the end token included."""
        return len(self._tokens)

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 [tokens]; the end token's spelling in `text` is plain text."""
        utf8(text)
        found = self._encoder.encode_batch_fast(list(chunks(text)))
        parts = [np.array(one.ids, np.int32) for one in found]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Returns the text; cut characters become U+FFFD. Raises UserError for a wrong id."""
        return from_pieces(self._pieces, check_ids(ids, self.vocab_size))

    def pieces(self) -> Sequence[bytes]:
        """Returns the bytes of each token, [V]."""
        return self._pieces

    def token_bytes(self) -> np.ndarray:
        """Returns int32 [V]: the bytes of each token, 0 for the end token."""
        return np.array(
            [0 if i == self.end else len(p) for i, p in enumerate(self._pieces)], np.int32
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns tokens and merges whole, so that sampling needs no other file."""
        return {
            "name": self.name,
            "tokens": self._tokens,
            "merges": self._merges,
            "end": self.end,
        }


def from_dict(saved: dict[str, Any]) -> BpeTokenizer:
    """Rebuilds what `to_dict` saved."""
    end = saved["end"]
    return BpeTokenizer(
        saved["tokens"], saved["merges"], None if end is None else int(end), str(saved["name"])
    )


def learn(texts: Iterable[str], *, vocab_size: int, end: bool = False) -> BpeTokenizer:
    """Trains on `texts` alone, with nothing downloaded.

    Args:
      texts: what to count pairs in.
      vocab_size: how many tokens to stop at, at least 256 (257 with `end`); a short text stops
        earlier, when no pair is left that occurs twice.
      end: whether the last id is an end-of-document token.

    Raises:
      UserError: `vocab_size` has no room for the 256 bytes.
    """
    if vocab_size < BYTES + end:
        raise UserError(
            f"vocab_size={vocab_size} is too small for byte-level BPE: expected at least "
            f"{BYTES + end}, the bytes themselves{' and the end token' if end else ''}."
        )
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    encoder = Tokenizer(BPE())
    encoder.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=vocab_size - end,
        min_frequency=2,
        initial_alphabet=byte_letters(),
        show_progress=False,
    )
    encoder.train_from_iterator((c for t in texts for c in chunks(t)), trainer)
    ranked = sorted(encoder.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in ranked]
    merges = _merges(encoder.to_str())
    return BpeTokenizer([*tokens, END] if end else tokens, merges, len(tokens) if end else None)


def _merges(saved: str) -> list[str]:
    """Reads the merges out of `tokenizers`' own JSON, in which they are pairs or "a b"."""
    import json

    found = json.loads(saved)["model"]["merges"]
    return [m if isinstance(m, str) else " ".join(m) for m in found]

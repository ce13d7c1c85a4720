"""Text from tokens as they come: characters in pieces, stop strings across tokens."""

import codecs
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from aigc_jax.generate.request import Finish


class Tokenizer(Protocol):
    """What is asked of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """V: ids are in [0, V)."""

    @property
    def end(self) -> int | None:
        """The id that ends a text, or None."""

    def encode(self, text: str) -> np.ndarray:
        """Returns int32 [tokens]. Raises UserError for a character that the vocabulary lacks."""

    def pieces(self) -> Sequence[bytes]:
        """Returns the bytes that each id stands for, [V]."""


class Writer:
    """One text in the making. What `write` and `close` return adds up to the whole text.

    Nothing is returned too early: the bytes of a character wait for each other, and so does what
    may be the beginning of a stop string. Bytes that are no UTF-8 become U+FFFD.

    Args:
      pieces: the bytes of each id. end: the id that ends the text, or None.
      stop: strings that end it, none of them empty. Where several are complete, the one that was
        complete first counts, and of these the one that began first.

    Attributes:
      finish: why it has ended, or None.
    """

    def __init__(self, pieces: Sequence[bytes], end: int | None, stop: Sequence[str]) -> None:
        self._pieces, self._end, self._stop = pieces, end, stop
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""  # may become a stop string
        self.finish: Finish | None = None

    def write(self, token: int) -> str:
        """Takes the next token and returns the text that is certain now.

        After the end token or a stop string, `finish` is set and nothing more is to be written.
        """
        if token == self._end:
            self.finish = "end"
            return self._rest()
        return self._add(self._decoder.decode(self._pieces[token]))

    def close(self) -> str:
        """Ends the text by its length and returns what was held back; "" if it had ended."""
        if self.finish is not None:
            return ""
        self.finish = "length"
        return self._rest()

    def _rest(self) -> str:
        # A character cut short is a U+FFFD, which may complete a stop string.
        return self._add(self._decoder.decode(b"", final=True)) + self._flush()

    def _add(self, text: str) -> str:
        self._held += text
        found = [(self._held.find(stop), len(stop)) for stop in self._stop]
        complete = [(at + size, at) for at, size in found if at >= 0]
        if complete:
            sure = self._held[: min(complete)[1]]
            self._held, self.finish = "", "stop"
            return sure
        size = len(self._held) - self._unsure()
        sure, self._held = self._held[:size], self._held[size:]
        return sure

    def _flush(self) -> str:
        text, self._held = self._held, ""
        return text

    def _unsure(self) -> int:
        """The length of the longest end of what is held that a stop string begins with."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stop):
                return size
        return 0

"""A trained language model that writes text: the whole of it, or as it comes."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.generate.decode import CHUNK, Decoding, Programs, Row
from aigc_jax.generate.logits import Active, active
from aigc_jax.generate.request import KNOBS, Completion, Request, request
from aigc_jax.generate.text import Tokenizer, Writer

LOOK = 16  # tokens between two looks for stop strings
STREAM = 4  # tokens between two pieces of a stream


@dataclass
class _Text:
    """One row: the request, its tokens, which of its `n` texts, and what was written so far."""

    request: Request
    prompt: np.ndarray
    index: int
    writer: Writer
    parts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)

    def take(self, tokens: list[int]) -> tuple[str, int]:
        """Returns the text of new tokens and how many of them there was use for."""
        pieces = []
        for token in tokens:
            pieces.append(self.writer.write(token))
            if self.writer.finish:
                break
        self.tokens.extend(tokens[: len(pieces)])
        return "".join(pieces), len(pieces)

    def completion(self) -> Completion:
        assert self.writer.finish is not None
        return Completion(
            prompt=self.request.prompt,
            index=self.index,
            seed=self.request.seed,
            text="".join(self.parts),
            finish_reason=self.writer.finish,
            tokens=tuple(self.tokens),
            logprobs=tuple(self.logprobs),
            raw_logprobs=tuple(self.raw),
        )


class Model:
    """Weights, tokenizer and programs.

        model = aigc_jax.load("runs/x")
        print(model.generate("ROMEO:", n=2, max_tokens=200, temperature=0.8)[0].text)

    Args:
      programs: the network's. params: its parameters. tokenizer: the one it was trained with.

    Attributes:
      context: the most tokens that the model looks back on, and that a prompt may have.
      step: the training step of the weights.
    """

    def __init__(
        self, programs: Programs, params: Any, tokenizer: Tokenizer, *, step: int = 0
    ) -> None:
        self.context: int = programs.network.context
        self.step = step
        self._programs, self._params, self._tokenizer = programs, params, tokenizer
        self._pieces = tokenizer.pieces()

    def generate(
        self,
        prompts: str | Request | Iterable[str | Request],
        *,
        batch_size: int = 32,
        **knobs: Any,
    ) -> list[Completion]:
        """Writes texts.

        Args:
          prompts: one or many.
          batch_size: the most texts at once, 1 or more; what is written does not depend on it.
          knobs: fields of `Request`, for all of the prompts.

        Returns:
          The `n` texts of the first prompt, then those of the second, and so on.

        Raises:
          UserError: a setting out of its range, an empty prompt, one with characters that the
            vocabulary lacks or longer than the context, all of it before anything is written;
            weights that give no numbers.
        """
        return list(self.each(prompts, batch_size=batch_size, **knobs))

    def each(
        self,
        prompts: str | Request | Iterable[str | Request],
        *,
        batch_size: int = 32,
        **knobs: Any,
    ) -> Iterator[Completion]:
        """Like `generate`, but yields the texts of a batch as soon as it is done."""
        if batch_size < 1:
            raise UserError(f"batch_size={batch_size}: expected 1 or more.")
        texts = self._prepare(prompts, knobs)
        # One program for all batches.
        what = active([text.request for text in texts]) if texts else Active()
        return self._batches(texts, batch_size, what)

    def stream(self, prompt: str | Request, **knobs: Any) -> Generator[str, None, Completion]:
        """Writes one text and yields it in pieces, none of them empty, as it comes.

        The pieces add up to the text that `generate` gives; the generator's return value is the
        whole `Completion`. Arguments and errors as there; `n` must be 1.
        """
        texts = self._prepare(prompt, knobs)
        if len(texts) != 1:
            raise UserError(f"n={len(texts)}: expected 1; one text at a time can be streamed.")
        return self._stream(texts[0])

    def _prepare(
        self, prompts: str | Request | Iterable[str | Request], knobs: dict[str, Any]
    ) -> list[_Text]:
        """Checks all requests and makes their rows."""
        several = [prompts] if isinstance(prompts, str | Request) else prompts
        texts = []
        for prompt in several:
            asked = _request(prompt, knobs)
            asked.check(self._tokenizer.vocab_size)
            tokens = self._tokenizer.encode(asked.prompt)
            if len(tokens) > self.context:
                raise UserError(
                    f"The prompt {asked.prompt[:20]!r}... has {len(tokens)} tokens; the model's"
                    f" context is {self.context}. Shorten it."
                )
            for index in range(asked.n):
                writer = Writer(self._pieces, self._tokenizer.end, asked.stop)
                texts.append(_Text(asked, tokens, index, writer))
        return texts

    def _batches(self, texts: list[_Text], size: int, what: Active) -> Iterator[Completion]:
        for first in range(0, len(texts), size):
            batch = texts[first : first + size]
            most = LOOK if any(text.request.stop for text in batch) else CHUNK
            for _ in self._write(batch, most, what):
                pass
            yield from (text.completion() for text in batch)

    def _stream(self, text: _Text) -> Generator[str, None, Completion]:
        yield from self._write([text], STREAM, active([text.request]))
        return text.completion()

    def _write(self, batch: Sequence[_Text], most: int, what: Active) -> Iterator[str]:
        """Writes a batch to its end, and yields what is new of its first text."""
        rows = [Row(text.prompt, text.request.max_tokens, text.request) for text in batch]
        keys = _keys(
            np.array([text.request.seed for text in batch], np.uint32),
            np.array([text.index for text in batch], np.uint32),
        )
        decoding = Decoding(
            self._programs, self._params, rows, keys, end=self._tokenizer.end, what=what
        )
        while decoding.live.any():
            chunk = decoding.advance(most)
            for i, text in enumerate(batch):
                count = int(chunk.valid[i])
                if not count:
                    continue
                piece, taken = text.take(chunk.tokens[i, :count].tolist())
                text.logprobs.extend(chunk.logprobs[i, :taken].tolist())
                text.raw.extend(chunk.raw[i, :taken].tolist())
                if text.writer.finish:
                    decoding.live[i] = False
                elif not decoding.live[i]:
                    piece += text.writer.close()
                text.parts.append(piece)
                if i == 0 and piece:
                    yield piece


@jax.jit
def _keys(seed_B: jax.Array, index_B: jax.Array) -> jax.Array:
    """A random key for each text of each request."""
    return jax.vmap(lambda seed, i: jax.random.fold_in(jax.random.key(seed), i))(seed_B, index_B)


def _request(prompt: str | Request, knobs: dict[str, Any]) -> Request:
    if isinstance(prompt, Request):
        return request({name: getattr(prompt, name) for name in KNOBS} | knobs)
    return request({"prompt": prompt, **knobs})

"""What may be asked of a model and what it answers. Plain Python: asking needs no JAX."""

import dataclasses
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from aigc_jax.errors import UserError, nearest

SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The distribution to draw from; see `generate.logits` for the order and the definitions.

    Attributes:
      temperature: 0 or above; 0 is greedy, and then top-k, top-p and min-p change nothing.
      top_k: the k likeliest tokens; 0 for all.
      top_p: in (0, 1], the fewest likeliest tokens whose probabilities reach it (Holtzman et al.
        2020, arXiv:1904.09751).
      min_p: in [0, 1], tokens with at least this share of the likeliest one's probability (Nguyen
        et al. 2024, arXiv:2407.01082).
      repetition_penalty: above 0; 1 is none. Over the prompt and what was written.
      presence_penalty, frequency_penalty: 0 is none. Over what was written.
      logit_bias: what is added to the logits of some tokens, {id: finite number}.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)

    def check(self, vocab_size: int | None = None) -> None:
        """Raises UserError for a number out of its range.

        Args:
          vocab_size: V, to hold the ids of `logit_bias` against; None when it isn't known yet.
        """
        _number(self, "temperature", "0 (greedy) or above", lambda x: x >= 0)
        _whole(self, "top_k", 0)
        _number(self, "top_p", "a number in (0, 1]", lambda x: 0 < x <= 1)
        _number(self, "min_p", "a number in [0, 1]", lambda x: 0 <= x <= 1)
        _number(self, "repetition_penalty", "a number above 0 (1 is none)", lambda x: x > 0)
        for name in ("presence_penalty", "frequency_penalty"):
            _number(self, name, "a finite number (0 is none)", lambda x: True)
        if not isinstance(self.logit_bias, Mapping):
            raise UserError(f"logit_bias={self.logit_bias!r}: expected {{id: number}}.")
        for token, value in self.logit_bias.items():
            if not _is_whole(token) or token < 0 or (vocab_size and token >= vocab_size):
                most = f"0 to {vocab_size - 1}, the vocabulary" if vocab_size else "0 or above"
                raise UserError(f"logit_bias: id {token!r}: expected a token's id, {most}.")
            if not _is_number(value):
                raise UserError(f"logit_bias: {token}={value!r}: expected a finite number.")


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """A prompt and how to go on from it.

    Attributes:
      prompt: at least one character; its tokens must fit the model's context.
      n: how many texts, 1 or more.
      max_tokens: tokens to write at most, 1 or more.
      stop: strings that end a text, none of them empty. They are not part of it.
      seed: in [0, 2^32). The texts follow from the request alone, whatever else is asked for.
    """

    prompt: str = field(kw_only=False)
    n: int = 1
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0

    def check(self, vocab_size: int | None = None) -> None:
        """Raises UserError for an empty prompt or a setting out of its range."""
        if not isinstance(self.prompt, str):
            raise UserError(f"prompt={self.prompt!r}: expected a text.")
        if not self.prompt:
            raise UserError("The prompt is empty; expected at least one character.")
        _whole(self, "n", 1)
        _whole(self, "max_tokens", 1)
        if not isinstance(self.stop, tuple) or not all(isinstance(s, str) for s in self.stop):
            raise UserError(f"stop={self.stop!r}: expected texts.")
        if not all(self.stop):
            raise UserError("A stop string is empty; expected at least one character in each.")
        if not _is_whole(self.seed) or not 0 <= self.seed < SEEDS:
            raise UserError(f"seed={self.seed!r}: expected a whole number from 0 to {SEEDS - 1}.")
        super().check(vocab_size)


Finish = Literal["end", "stop", "length"]


@dataclass(frozen=True)
class Completion:
    """What a model wrote.

    Attributes:
      prompt: what it went on from. index: which of the request's `n` texts. seed: the request's.
      text: what was written, up to the end token or the stop string, without these.
      finish_reason: "end" by the end token, "stop" by a stop string, "length" by `max_tokens`.
      tokens: the ids drawn, the last of them included: the end token, or the one that completed
        the stop string.
      logprobs: of each token, in the distribution it was drawn from. Natural logarithms; 0 for
        greedy ones.
      raw_logprobs: the same in the model's own distribution, before bias, penalties, temperature
        and filters.
    """

    prompt: str
    index: int
    seed: int
    text: str
    finish_reason: Finish
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    raw_logprobs: tuple[float, ...]


KNOBS = tuple(f.name for f in dataclasses.fields(Request))


def request(knobs: Mapping[str, Any]) -> Request:
    """Makes and checks a request from plain values, as JSON has them.

    `stop` may be one text, and the ids in `logit_bias` may be texts.

    Raises:
      UserError: an unknown name, no prompt, or a value out of its range.
    """
    values = dict(knobs)
    for name in values:
        if name not in KNOBS:
            raise UserError(
                f"A request has no '{name}'.{nearest(str(name), KNOBS)} It has {', '.join(KNOBS)}."
            )
    if "prompt" not in values:
        raise UserError("A request has no prompt.")
    stop = values.get("stop", ())
    values["stop"] = (stop,) if isinstance(stop, str) else _tuple(stop)
    bias = values.get("logit_bias", {})
    if isinstance(bias, Mapping):
        values["logit_bias"] = {_id(token): value for token, value in bias.items()}
    made = Request(**values)
    made.check()
    return made


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _id(token: Any) -> Any:
    return int(token) if isinstance(token, str) and token.isdecimal() else token


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _number(of: Any, name: str, expected: str, right: Any) -> None:
    value = getattr(of, name)
    if not _is_number(value) or not right(value):
        raise UserError(f"{name}={value!r}: expected {expected}.")


def _whole(of: Any, name: str, least: int) -> None:
    value = getattr(of, name)
    if not _is_whole(value) or value < least:
        raise UserError(f"{name}={value!r}: expected a whole number, {least} or above.")

"""From a model's logits to the distribution that is sampled from.

In this order, for each row by its own numbers:

1. logit bias,
2. repetition penalty, then frequency and presence penalty,
3. (temperature 0 takes the likeliest token here)
4. temperature,
5. top-k, 6. top-p, 7. min-p, each among the tokens that those before it have left.

Bias before penalties as in vLLM's sampler; the rest in the order of Hugging Face's
`generation`. A neutral number leaves its row's distribution as it is.

Letters in names: B rows, V vocabulary, N biased tokens of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.generate.request import Sampling


class Knobs(NamedTuple):
    """The numbers of each row, traced: other numbers need no other program.

    Attributes:
      temperature, top_p, min_p, repetition, presence, frequency: float32 [B].
      top_k: int32 [B].
      bias_ids: int32 [B, N], V where a row has fewer. bias: float32 [B, N].
    """

    temperature: jax.Array | np.ndarray
    top_k: jax.Array | np.ndarray
    top_p: jax.Array | np.ndarray
    min_p: jax.Array | np.ndarray
    repetition: jax.Array | np.ndarray
    presence: jax.Array | np.ndarray
    frequency: jax.Array | np.ndarray
    bias_ids: jax.Array | np.ndarray
    bias: jax.Array | np.ndarray


class Active(NamedTuple):
    """Which steps some row asks for, static: what nobody asks for is not in the program."""

    draw: bool = True
    bias: bool = False
    repetition: bool = False
    counts: bool = False
    top_k: bool = False
    top_p: bool = False
    min_p: bool = False


class Tally(NamedTuple):
    """What the penalties look at; None where no row has such a penalty.

    Attributes:
      prompt_BV: bool, whether a token stands in the prompt.
      counts_BV: int32, how often a token was drawn.
    """

    prompt_BV: jax.Array | np.ndarray | None = None
    counts_BV: jax.Array | np.ndarray | None = None


def active(rows: Sequence[Sampling]) -> Active:
    """Returns what at least one of `rows` asks for."""
    return Active(
        draw=any(r.temperature > 0 for r in rows),
        bias=any(r.logit_bias for r in rows),
        repetition=any(r.repetition_penalty != 1 for r in rows),
        counts=any(r.presence_penalty or r.frequency_penalty for r in rows),
        top_k=any(r.top_k and r.temperature > 0 for r in rows),
        top_p=any(r.top_p < 1 and r.temperature > 0 for r in rows),
        min_p=any(r.min_p and r.temperature > 0 for r in rows),
    )


def knobs(rows: Sequence[Sampling], vocab_size: int) -> Knobs:
    """Stacks the numbers of `rows`, on the host."""
    most = max(len(r.logit_bias) for r in rows)
    width = 1 << (most - 1).bit_length() if most else 0  # few programs for many sizes
    ids = np.full((len(rows), width), vocab_size, np.int32)
    bias = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        ids[i, : len(row.logit_bias)] = list(row.logit_bias.keys())
        bias[i, : len(row.logit_bias)] = np.clip(list(row.logit_bias.values()), -1e30, 1e30)

    def column(name: str) -> np.ndarray:
        # What float32 can't hold is as good as the most that it can be trusted with.
        wide = np.array([getattr(row, name) for row in rows], np.float64)
        return wide.clip(-1e30, 1e30).astype(np.float32)

    return Knobs(
        temperature=column("temperature"),
        # More than V keeps all, as V does.
        top_k=np.array([min(row.top_k, vocab_size) for row in rows], np.int32),
        top_p=column("top_p"),
        min_p=column("min_p"),
        repetition=column("repetition_penalty"),
        presence=column("presence_penalty"),
        frequency=column("frequency_penalty"),
        bias_ids=ids,
        bias=bias,
    )


def tally(prompts: Sequence[np.ndarray], vocab_size: int, what: Active) -> Tally:
    """Begins what the penalties look at: the prompts' tokens, and none drawn."""
    shape = (len(prompts), vocab_size)
    prompt_BV = None
    if what.repetition:
        prompt_BV = np.zeros(shape, bool)
        for i, prompt in enumerate(prompts):
            prompt_BV[i, prompt] = True
    counted = what.counts or what.repetition
    return Tally(prompt_BV, np.zeros(shape, np.int32) if counted else None)


def count(before: Tally, token_B: jax.Array) -> Tally:
    """Adds one drawn token a row."""
    if before.counts_BV is None:
        return before
    counts_BV = jnp.asarray(before.counts_BV)
    rows = jnp.arange(token_B.shape[0])
    return before._replace(counts_BV=counts_BV.at[rows, token_B].add(1))


def penalize(logits_BV: jax.Array, by: Knobs, seen: Tally, what: Active) -> jax.Array:
    """Adds the biases, then applies the penalties. float32 [B, V].

    Repetition: a token of the prompt or drawn before has its logit divided by the penalty where
    it is above 0 and multiplied where it is below (Keskar et al. 2019, arXiv:1909.05858, section
    4.1, with the sign as Hugging Face's `RepetitionPenaltyLogitsProcessor` treats it). Frequency
    and presence: minus count * frequency, minus presence if count > 0, where the count is of
    tokens drawn and the prompt does not count (OpenAI, API reference).
    """
    if what.bias:
        rows = jnp.arange(logits_BV.shape[0])[:, None]
        logits_BV = logits_BV.at[rows, by.bias_ids].add(by.bias, mode="drop")
    if what.repetition:
        assert seen.prompt_BV is not None and seen.counts_BV is not None
        penalty = jnp.asarray(by.repetition)[:, None]
        worse = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = jnp.where(seen.prompt_BV | (seen.counts_BV > 0), worse, logits_BV)
    if what.counts:
        assert seen.counts_BV is not None
        drawn = jnp.asarray(seen.counts_BV).astype(jnp.float32)
        logits_BV = logits_BV - drawn * jnp.asarray(by.frequency)[:, None]
        logits_BV = logits_BV - (drawn > 0) * jnp.asarray(by.presence)[:, None]
    return logits_BV


def restrict(logits_BV: jax.Array, by: Knobs, what: Active) -> jax.Array:
    """Temperature, top-k, top-p and min-p.

    Equal logits stand or fall together: where the last token that top-k or top-p lets in has
    equals, they come in too.

    Returns:
      float32 [B, V], the log of the distribution but for a constant; the likeliest token has 0,
      a token that can't be drawn has -inf. A row of temperature 0 is treated as if it had 1.
    """
    warmth = jnp.asarray(by.temperature)[:, None]
    logits_BV = logits_BV - logits_BV.max(-1, keepdims=True)  # no overflow in what follows
    logits_BV = logits_BV / jnp.where(warmth > 0, warmth, 1.0)
    if what.top_k or what.top_p:
        order_BV = _ordered(logits_BV)
    if what.top_k:
        k_B = jnp.asarray(by.top_k)
        least = _threshold(order_BV, jnp.ones_like(logits_BV), k_B.astype(jnp.float32))
        keep = (k_B == 0)[:, None] | (order_BV >= least[:, None])
        logits_BV = jnp.where(keep, logits_BV, -jnp.inf)
    if what.top_p:
        p_B = jnp.asarray(by.top_p)
        mass_BV = jnp.exp(logits_BV)
        least = _threshold(order_BV, mass_BV, p_B * mass_BV.sum(-1))
        # However small p is, the likeliest token stays.
        least = jnp.minimum(least, order_BV.max(-1))
        keep = (p_B >= 1)[:, None] | (order_BV >= least[:, None])
        logits_BV = jnp.where(keep, logits_BV, -jnp.inf)
    if what.min_p:
        # The likeliest has 0 here, so this is p >= min_p * max(p).
        least = jnp.log(jnp.asarray(by.min_p))[:, None]
        logits_BV = jnp.where(logits_BV >= least, logits_BV, -jnp.inf)
    return logits_BV


def _ordered(x: jax.Array) -> jax.Array:
    """float32 -> uint32 that are in the same order; no NaN."""
    x = jnp.where(x == 0, 0.0, x)  # -0 is equal to 0, but its bits are not
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    top = jnp.uint32(1 << 31)
    return jnp.where(bits >= top, ~bits, bits | top)


def _threshold(order_BV: jax.Array, weight_BV: jax.Array, target_B: jax.Array) -> jax.Array:
    """Returns the largest t of each row whose members, order >= t, weigh at least the target.

    Found bit by bit, 32 sums over V: exact, and much faster than sorting a big vocabulary on a
    CPU. uint32 [B]; 0 where all of them together weigh less.
    """

    def bit(i: jax.Array, least_B: jax.Array) -> jax.Array:
        tried = least_B | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        weight = jnp.where(order_BV >= tried[:, None], weight_BV, 0.0).sum(-1)
        return jnp.where(weight >= target_B, tried, least_B)

    return jax.lax.fori_loop(0, 32, bit, jnp.zeros(order_BV.shape[:1], jnp.uint32))

"""One token a row from logits, and the log-probabilities that go with it.

Letters in names: B rows, V vocabulary, G groups of tokens, M tokens of a group.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from aigc_jax.generate.logits import Active, Knobs, Tally, penalize, restrict


class Drawn(NamedTuple):
    """One token a row.

    Attributes:
      token: int32 [B].
      logprob: float32 [B], its log-probability in the distribution it was drawn from; 0 where the
        temperature is 0.
      raw: float32 [B], its log-probability in the model's own distribution, before any knob.
    """

    token: jax.Array
    logprob: jax.Array
    raw: jax.Array


def draw(
    logits_BV: jax.Array, keys_B: jax.Array, index: jax.Array, by: Knobs, seen: Tally, what: Active
) -> Drawn:
    """Draws one token a row.

    Args:
      logits_BV: float32, the model's.
      keys_B: a random key a row. index: int32 [], how many tokens were drawn before; the draw
        follows from fold_in(key, index), so neither from other rows nor from calls before.
      by, seen, what: see `generate.logits`.
    """
    changed_BV = penalize(logits_BV, by, seen, what)
    token_B = changed_BV.argmax(-1).astype(jnp.int32)
    logprob_B = jnp.zeros(token_B.shape, jnp.float32)
    if what.draw:
        final_BV = restrict(changed_BV, by, what)
        weight_BV = jnp.exp(final_BV)
        drawn_B = pick(weight_BV, jax.vmap(lambda key: _bits(key, index))(keys_B))
        log_p_B = _at(final_BV, drawn_B) - jnp.log(weight_BV.sum(-1))
        warm_B = jnp.asarray(by.temperature) > 0
        token_B = jnp.where(warm_B, drawn_B, token_B)
        logprob_B = jnp.where(warm_B, log_p_B, 0.0)
    raw_B = _at(logits_BV, token_B) - jax.nn.logsumexp(logits_BV, axis=-1)
    return Drawn(token_B, logprob_B, raw_B)


def pick(weight_BV: jax.Array, bits_B2: jax.Array) -> jax.Array:
    """Draws an index of each row, in proportion to its weights.

    By inverting the distribution function twice: a group of about sqrt(V) tokens, then a token of
    the group. That needs two random numbers a row where Gumbel noise needs V, keeps the sums short
    and thus exact, and a token far below 2^-24 still has its chance within its group.

    Args:
      weight_BV: float32, 0 or above, the largest of a row about 1. What has 0 is never drawn.
      bits_B2: uint32, random.

    Returns:
      int32 [B].
    """
    batch, size = weight_BV.shape
    members = 1 << max(0, (size - 1).bit_length() + 1) // 2
    groups = -(-size // members)
    weight_BV = jnp.pad(weight_BV, ((0, 0), (0, groups * members - size)))
    weight_BGM = weight_BV.reshape(batch, groups, members)
    # In (0, 1), both ends left out: 23 bits and a half.
    u_B2 = ((bits_B2 >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
    group_B = _invert(weight_BGM.sum(-1), u_B2[:, 0])
    weight_BM = jnp.take_along_axis(weight_BGM, group_B[:, None, None], axis=1)[:, 0]
    return group_B * members + _invert(weight_BM, u_B2[:, 1])


def _invert(weight_BM: jax.Array, u_B: jax.Array) -> jax.Array:
    """Returns the first index at which the running sum exceeds u times the whole, int32 [B]."""
    sums_BM = jnp.cumsum(weight_BM, axis=-1)
    above = sums_BM > (u_B * sums_BM[:, -1])[:, None]
    # A sum in several lanes may waver by a rounding, and u * sum may round to the sum itself:
    # neither may ever choose what has no weight.
    chosen = (above & (weight_BM > 0)).argmax(-1)
    found = jnp.take_along_axis(weight_BM, chosen[:, None], axis=1)[:, 0] > 0
    return jnp.where(found, chosen, weight_BM.argmax(-1)).astype(jnp.int32)


def _bits(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.random.bits(jax.random.fold_in(key, index), (2,), jnp.uint32)


def _at(x_BV: jax.Array, index_B: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BV, index_B[:, None], axis=1)[:, 0]

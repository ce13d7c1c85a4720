"""Losses of one token. Each returns a value per token; the caller averages with a mask.

Letters in names: N tokens, C width, V vocabulary, G symbols in a chunk of the vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Scores(NamedTuple):
    """What is known of a token's prediction; float32 [...] each, in nats.

    loss: the cross-entropy of the target. log_z: the log of the partition function. even: the
    cross-entropy of the uniform distribution, the mean of the loss over all V symbols. best: int32,
    the likeliest symbol (the lowest id among equals). What is not used is not computed.
    """

    loss: jax.Array
    log_z: jax.Array
    even: jax.Array
    best: jax.Array


def cross_entropy(logits: jax.Array, targets: jax.Array) -> Scores:
    """Scores integer targets.

    Args:
      logits: [..., V], any float type; the sum over V is taken in float32.
      targets: int [...], in [0, V).
    """
    logits = logits.astype(jnp.float32)
    # The largest logit is subtracted before the exponential and added after: no overflow, and
    # the gradient does not go through the maximum.
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    best = logits.argmax(-1).astype(jnp.int32)
    return Scores(log_z - chosen, log_z, log_z - logits.mean(-1), best)


def chunked_cross_entropy(
    x_NC: jax.Array, head_VC: jax.Array, targets_N: jax.Array, *, chunk: int, cap: float = 0.0
) -> Scores:
    """`cross_entropy` of the logits x @ head^T, which never exist as a whole: the vocabulary is
    gone through in chunks, forward and (each chunk computed again) backward. The same values and
    gradients for N * chunk instead of N * V numbers of memory, and one more product.

    Args:
      x_NC, head_VC: of the dtype that the product is computed in; sums are float32.
      targets_N: int, in [0, V).
      chunk: G, 1 or more.
      cap: the logits stay within +-cap by tanh; 0 for none.
    """
    size, tokens = head_VC.shape[0], x_NC.shape[0]
    chunks = -(-size // chunk)
    padded = jnp.pad(head_VC, ((0, chunks * chunk - size), (0, 0)))

    def add(carry: tuple, part: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        top, total, chosen, everything, best = carry
        first, head_GC = part
        logits = jnp.einsum("nc,gc->ng", x_NC, head_GC, preferred_element_type=jnp.float32)
        if cap:
            logits = cap * jnp.tanh(logits / cap)
        ids_1G = (first + jnp.arange(chunk, dtype=jnp.int32))[None]
        real = ids_1G < size
        logits = jnp.where(real, logits, -jnp.inf)
        # The largest so far is subtracted before the exponential: its gradient cancels.
        here = jax.lax.stop_gradient(logits.max(-1))
        higher = jnp.maximum(top, here)
        total = total * jnp.exp(top - higher) + jnp.exp(logits - higher[:, None]).sum(-1)
        chosen += jnp.where(ids_1G == targets_N[:, None], logits, 0.0).sum(-1)
        everything += jnp.where(real, logits, 0.0).sum(-1)
        winner = first + logits.argmax(-1).astype(jnp.int32)
        best = jnp.where(here > top, winner, best)
        return (higher, total, chosen, everything, best), None

    zero = jnp.zeros(tokens, jnp.float32)
    # Below every logit, and not infinite: the first rescaling must not be inf - inf.
    start = (zero + jnp.finfo(jnp.float32).min, zero, zero, zero, zero.astype(jnp.int32))
    first_K = jnp.arange(chunks, dtype=jnp.int32) * chunk
    parts = (first_K, padded.reshape(chunks, chunk, -1))
    # The scan's backward pass then keeps [N] numbers a chunk and makes the logits anew.
    (top, total, chosen, everything, best), _ = jax.lax.scan(jax.checkpoint(add), start, parts)
    log_z = top + jnp.log(total)
    return Scores(log_z - chosen, log_z, log_z - everything / size, best)


def label_smoothed(scores: Scores, share: float) -> jax.Array:
    """Returns the loss against softened targets.

    Args:
      share: in [0, 1); of the target's probability, spread evenly over all V symbols (Szegedy et
        al. 2016, arXiv:1512.00567, section 7).
    """
    return (1.0 - share) * scores.loss + share * scores.even


def z_loss(log_z: jax.Array) -> jax.Array:
    """Returns log(Z)^2 per token, which keeps the logits from drifting (PaLM, arXiv:2204.02311,
    section 5).
    """
    return jnp.square(log_z)

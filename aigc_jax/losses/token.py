"""Losses of one token. Each returns a value per token; the caller averages with a mask."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, targets: jax.Array, *, label_smoothing: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy of integer targets, in nats.

    Args:
      logits: [..., V], any float type; the sum over V is taken in float32.
      targets: int [...], in [0, V).
      label_smoothing: in [0, 1); the share of the target's probability that is spread evenly over
        all V symbols (Szegedy et al. 2016, arXiv:1512.00567, section 7).

    Returns:
      The loss, float32 [...], and the log of the partition function, float32 [...], which
      `z_loss` takes.
    """
    logits = logits.astype(jnp.float32)
    # The largest logit is subtracted before the exponential and added after: no overflow, and
    # the gradient does not go through the maximum.
    log_z = jax.nn.logsumexp(logits, axis=-1)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_z - chosen
    if label_smoothing:
        even = log_z - logits.mean(-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * even
    return loss, log_z


def z_loss(log_z: jax.Array) -> jax.Array:
    """Returns log(Z)^2 per token, which keeps the logits from drifting (PaLM, arXiv:2204.02311,
    section 5).
    """
    return jnp.square(log_z)

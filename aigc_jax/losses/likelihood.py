"""How likely an observation is under a decoder's output: log-densities, summed over the last axis.

Letters in names: D observed values, in the last axis; the axes before it are the examples.
"""

import math

import jax
import jax.numpy as jnp

LEVELS = 256  # of an 8-bit value; [-1, 1] is cut into as many bins
# Log-scales are kept within these: e^7 is 500 times the data's range, e^-7 a ninth of a bin. The
# lower one is PixelCNN++'s.
LOG_SCALE = (-7.0, 7.0)


def bernoulli(logits: jax.Array, x: jax.Array) -> jax.Array:
    """Returns log p(x) of independent bits, in nats, float32 [...].

    Args:
      logits: [..., D], log p / (1 - p); finite at any size.
      x: [..., D], in [0, 1]. Between 0 and 1 it is the cross-entropy of a gray value, no
        log-probability of anything: such numbers compare with nothing.
    """
    # log(1 + e^l) without overflow. Of the ways to write it, XLA's CPU compiler makes this one
    # twice as fast as `jax.nn.softplus`, and its gradient three times.
    log_z = jnp.maximum(logits, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    return (x * logits - log_z).astype(jnp.float32).sum(-1)


def discretized_logistic(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    """Returns log p(x) of independent 8-bit values, in nats, float32 [...].

    Args: as of `log_bin`, with D in the last axis.
    """
    return log_bin(mean, log_scale, x).astype(jnp.float32).sum(-1)


def log_bin(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    """Returns log p(x) of each 8-bit value by itself, in nats.

    A value has the logistic distribution's mass of its bin, 2/255 wide; the first and the last bin
    reach to infinity (Kingma et al. 2016, arXiv:1606.04934; Salimans et al. 2017,
    arXiv:1701.05517, section 2.1). The 256 probabilities of a value add up to 1.

    Args:
      mean, x: [...], x in [-1, 1]: (2 level - 255) / 255.
      log_scale: [...] or 1 where it is shared; taken within `LOG_SCALE`.
    """
    log_scale = jnp.clip(log_scale, *LOG_SCALE)
    half, inverse = 1.0 / (LEVELS - 1), jnp.exp(-log_scale)
    upper, lower = (x + half - mean) * inverse, (x - half - mean) * inverse
    first, last = x < -1.0 + half, x > 1.0 - half
    # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), and a - b is the bin's width
    # over the scale, wherever the bin lies: no difference of nearly equal numbers is taken.
    inside = jnp.log(-jnp.expm1(-2.0 * half * inverse))
    log_p: jax.Array = (
        jnp.where(last, 0.0, jax.nn.log_sigmoid(upper))
        + jnp.where(first, 0.0, jax.nn.log_sigmoid(-lower))
        + jnp.where(first | last, 0.0, jnp.broadcast_to(inside, upper.shape))
    )
    return log_p


def gaussian(mean: jax.Array, log_scale: jax.Array, x: jax.Array) -> jax.Array:
    """Returns log p(x) of independent normal values, a density, in nats, float32 [...].

    Args:
      mean, x: [..., D].
      log_scale: log of the standard deviation, [..., D] or 1 where it is shared; taken within
        `LOG_SCALE`.
    """
    log_scale = jnp.clip(log_scale, *LOG_SCALE)
    error = (x - mean) * jnp.exp(-log_scale)
    log_p = -0.5 * jnp.square(error) - log_scale - 0.5 * math.log(2.0 * math.pi)
    return log_p.astype(jnp.float32).sum(-1)

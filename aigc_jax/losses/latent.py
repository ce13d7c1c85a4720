"""What a latent variable costs, and bounds on the likelihood of what it explains.

Letters in names: K samples, B examples, L latent values.
"""

import math

import jax
import jax.numpy as jnp


def kl_standard(mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Returns KL(N(mean, exp logvar), N(0, 1)) of each value, in nats, shape as given.

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def kl(
    mean: jax.Array, logvar: jax.Array, other_mean: jax.Array, other_logvar: jax.Array
) -> jax.Array:
    """Returns KL(N(mean, exp logvar), N(other_mean, exp other_logvar)) of each value, in nats."""
    gap = jnp.square(mean - other_mean) * jnp.exp(-other_logvar)
    ratio = logvar - other_logvar
    # Of many latents that cost next to nothing, exp(ratio) - 1 would leave rounding alone.
    return 0.5 * (gap + jnp.expm1(ratio) - ratio)


def log_normal(z: jax.Array, mean: jax.Array, logvar: jax.Array) -> jax.Array:
    """Returns the log-density of each value under N(mean, exp logvar), in nats."""
    error = jnp.square(z - mean) * jnp.exp(-logvar)
    return -0.5 * (error + logvar + math.log(2.0 * math.pi))


def log_standard(z: jax.Array) -> jax.Array:
    """Returns the log-density of each value under N(0, 1), in nats."""
    return -0.5 * (jnp.square(z) + math.log(2.0 * math.pi))


def free_bits(cost_NL: jax.Array, floor: jax.Array, weight_N: jax.Array) -> jax.Array:
    """Returns the costs with those of a latent below the floor replaced by the floor.

    The mean over the examples of its sum is that of max(floor, the batch's mean cost) over the
    latents (Kingma et al. 2016, arXiv:1606.04934, appendix C, each latent a group of its own): a
    latent that costs less is not pushed down any further.

    Args:
      cost_NL: KL, or an estimate of it, by example and latent.
      floor: in nats, a scalar; 0 or below leaves the costs alone, negative estimates too.
      weight_N: what an example counts for in the mean, 0 for padding.
    """
    weight_N1 = weight_N[:, None]
    mean_1L = (cost_NL * weight_N1).sum(0, keepdims=True) / jnp.maximum(weight_N1.sum(), 1e-30)
    low_1L = (floor > 0) & (mean_1L < floor)
    return jnp.where(low_1L, floor, cost_NL)


def importance_bound(log_w_KB: jax.Array) -> jax.Array:
    """Returns log mean_k w of each example, [B]: a lower bound on log p(x) in expectation, which
    rises with K; at K = 1 it is the evidence bound.

    Its gradient by differentiation is the exact one of the K-sample bound: each sample's, weighted
    by w_k / sum w (Burda et al. 2016, arXiv:1509.00519, section 3).

    Args:
      log_w_KB: log p(x, z) - log q(z | x) of the samples.
    """
    return jax.nn.logsumexp(log_w_KB, axis=0) - math.log(log_w_KB.shape[0])

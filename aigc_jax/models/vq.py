"""Vector quantization: the nearest code, its gradient, and a codebook learned by moving averages.

Letters in names: N vectors, D width, K codes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Codebook(NamedTuple):
    """K codes and what they are averages of.

    Attributes:
      vectors_KD: the codes. counts_K: moving average of how many vectors chose each in a step.
      sums_KD: moving average of the sums of those vectors.
    """

    vectors_KD: jax.Array
    counts_K: jax.Array
    sums_KD: jax.Array


def init(key: jax.Array, codes: int, width: int) -> Codebook:
    """Returns K small random codes that none has chosen yet; where unused codes are restarted, the
    first step replaces them by vectors of its batch.
    """
    vectors_KD = jax.random.normal(key, (codes, width)) / codes
    return Codebook(vectors_KD, jnp.zeros(codes), jnp.zeros((codes, width)))


def nearest(z_ND: jax.Array, vectors_KD: jax.Array) -> jax.Array:
    """Returns the code nearest to each vector (the lowest of equals), int32 [N]."""
    # The vector's own norm is the same for all codes.
    score_NK = 2.0 * (z_ND @ vectors_KD.T) - jnp.square(vectors_KD).sum(-1)[None]
    return score_NK.argmax(-1).astype(jnp.int32)


def straight_through(z: jax.Array, quantized: jax.Array) -> jax.Array:
    """Returns `quantized`; its gradient goes to `z` unchanged (van den Oord et al. 2017,
    arXiv:1711.00937, section 3.2).
    """
    return z + jax.lax.stop_gradient(quantized - z)


def moved(
    book: Codebook, z_ND: jax.Array, codes_N: jax.Array, weight_N: jax.Array, decay: jax.Array
) -> Codebook:
    """Returns the codebook after one step: a code is the mean of what chose it, by moving averages
    (van den Oord et al. 2017, appendix A.1). A code that was never chosen stays.

    Args:
      z_ND: what the encoder gave; codes_N: what it chose. weight_N: 0 for what does not count.
      decay: in [0, 1), of both averages.
    """
    hot_NK = jax.nn.one_hot(codes_N, book.counts_K.shape[0]) * weight_N[:, None]
    counts_K = decay * book.counts_K + (1.0 - decay) * hot_NK.sum(0)
    sums_KD = decay * book.sums_KD + (1.0 - decay) * (hot_NK.T @ z_ND)
    used_K1 = (counts_K > 1e-20)[:, None]
    means_KD = sums_KD / jnp.where(used_K1, counts_K[:, None], 1.0)
    return Codebook(jnp.where(used_K1, means_KD, book.vectors_KD), counts_K, sums_KD)


def restarted(
    book: Codebook, z_ND: jax.Array, weight_N: jax.Array, key: jax.Array, share: jax.Array
) -> Codebook:
    """Returns the codebook with the dead codes replaced by random vectors of the batch (Dhariwal et
    al. 2020, arXiv:2005.00341, section 3.1), as if each had been used as much as the average.

    Args:
      z_ND: what the encoder gave. weight_N: 1, or 0 for what does not count.
      key: what the draw follows from.
      share: a code is dead when it is used less than this share of the average, 1/K of all; 0
        restarts none.
    """
    codes = book.counts_K.shape[0]
    # By the running sum of the weights: K random numbers, where noise for every pair would be K*N.
    sums_N = jnp.cumsum(weight_N)
    point_K = jnp.minimum(jax.random.uniform(key, (codes,)) * sums_N[-1], sums_N[-1] - 0.5)
    chosen_K = jnp.searchsorted(sums_N, point_K, side="right")
    fresh_KD = z_ND[chosen_K]
    average = weight_N.sum() / codes
    dead_K = (book.counts_K < share * average) & (average > 0)
    counts_K = jnp.where(dead_K, average, book.counts_K)
    return Codebook(
        jnp.where(dead_K[:, None], fresh_KD, book.vectors_KD),
        counts_K,
        jnp.where(dead_K[:, None], fresh_KD * average, book.sums_KD),
    )


def perplexity(counts_K: jax.Array) -> jax.Array:
    """Returns how many codes are in use, exp of the entropy of their shares: 1 to K, float32 []."""
    total = jnp.maximum(counts_K.sum(), 1e-20)
    shares_K = counts_K / total
    return jnp.exp(-jax.scipy.special.xlogy(shares_K, shares_K).sum())

"""From a decoder's output to a likelihood, a picture and a draw; and from gray values to bits.

Letters in names: N examples, S = H * W pixels, C channels, D = S * C observed values, P planes: the
numbers that a decoder gives for a pixel.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.random import threefry2x32_p

from aigc_jax.errors import UserError, nearest
from aigc_jax.losses import logistic_mixture
from aigc_jax.losses.likelihood import LOG_SCALE, bernoulli, discretized_logistic, gaussian

LIKELIHOODS = ("bernoulli", "discretized_logistic", "gaussian", "logistic_mixture")
OF_LEVELS = ("discretized_logistic", "logistic_mixture")  # of 8-bit values, so in bits a value
SCALES = ("fixed", "shared", "pixel")
BINARIZATIONS = ("dynamic", "fixed", "none")


class Observation(NamedTuple):
    """p(x | z) of one kind. `out` is what a decoder gives, [..., S * P], pixel by pixel;
    `log_scale` float32 [1].

    Attributes:
      planes: P, of C channels: C, or 2 C where a value has a scale of its own (a pixel's C
        locations, then its C scales), or what `losses.logistic_mixture.parts` takes apart.
      learned: whether `log_scale` is one trained number for all values.
      log_scale: where it begins, or stays.
      log_p: (out, x [..., D], log_scale) -> nats [...].
      mean: out -> [..., D] in [-1, 1], the picture that is shown.
      draw: (keys [N], out [N, S * P], log_scale) -> [N, D] in [-1, 1].
    """

    planes: int
    learned: bool
    log_scale: float
    log_p: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    mean: Callable[[jax.Array], jax.Array]
    draw: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def observation(
    likelihood: str, scale: str, sigma: float, *, channels: int = 1, mixtures: int = 10
) -> Observation:
    """Makes the likelihood that a recipe names.

    Args:
      likelihood: "bernoulli", of bits; "discretized_logistic", of 8-bit values; "gaussian";
        "logistic_mixture", of 8-bit values, a pixel's channels together.
      scale: of "discretized_logistic" and "gaussian". "fixed": `sigma`; "shared": one learned
        number that begins there (Rybkin et al. 2021, arXiv:2006.13202); "pixel": one from the
        decoder for each value.
      sigma: above 0; the values span [-1, 1].
      channels: C. mixtures: components of a "logistic_mixture", 1 or more.

    Raises:
      UserError: another name, a sigma of 0 or less, no component.
    """
    for word, value, known in (
        ("likelihood", likelihood, LIKELIHOODS),
        ("scale", scale, SCALES),
    ):
        if value not in known:
            raise UserError(
                f"task.{word} is {value!r}; expected one of {', '.join(known)}."
                f"{nearest(value, known)}"
            )
    if not 0.0 < sigma < math.inf:
        raise UserError(f"task.sigma={sigma}: expected a number above 0.")
    if mixtures < 1:
        raise UserError(f"task.mixtures={mixtures}: expected 1 or more.")
    if likelihood == "bernoulli":
        return Observation(channels, False, 0.0, _bernoulli, _bernoulli_mean, _bernoulli_draw)
    if likelihood == "logistic_mixture":
        return _mixture(channels, mixtures)
    return _located(likelihood, scale, sigma, channels)


def _mixture(channels: int, mixtures: int) -> Observation:
    sizes = {"channels": channels, "mixtures": mixtures}
    return Observation(
        logistic_mixture.numbers(**sizes),
        False,
        0.0,
        lambda out, x, _: logistic_mixture.log_p(out, x, **sizes),
        lambda out: logistic_mixture.mean(out, **sizes),
        lambda keys_N, out, _: logistic_mixture.draw(keys_N, out, **sizes),
    )


def _located(likelihood: str, scale: str, sigma: float, channels: int) -> Observation:
    """Values that are independent, each with a location and a scale."""
    own = scale == "pixel"
    density = gaussian if likelihood == "gaussian" else discretized_logistic

    def parts(out: jax.Array, log_scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not own:
            return out, log_scale.reshape((1,) * out.ndim)
        each = out.reshape(*out.shape[:-1], -1, 2, channels)
        mean, log_own = (each[..., i, :].reshape(*out.shape[:-1], -1) for i in (0, 1))
        return mean, log_own + math.log(sigma)  # so that a decoder that gives 0 begins at sigma

    def log_p(out: jax.Array, x: jax.Array, log_scale: jax.Array) -> jax.Array:
        mean, log_scale = parts(out, log_scale)
        return density(mean, log_scale, x)

    def mean(out: jax.Array) -> jax.Array:
        return jnp.clip(parts(out, jnp.zeros(1))[0], -1.0, 1.0)

    def draw(keys_N: jax.Array, out: jax.Array, log_scale: jax.Array) -> jax.Array:
        mean, log_scale = parts(out, log_scale)
        noise = jax.random.normal if likelihood == "gaussian" else jax.random.logistic
        noise_ND = jax.vmap(lambda key: noise(key, mean.shape[1:]))(keys_N)
        if likelihood == "gaussian":
            return jnp.clip(mean + jnp.exp(jnp.clip(log_scale, *LOG_SCALE)) * noise_ND, -1.0, 1.0)
        return logistic_mixture.level(mean, log_scale, noise_ND)

    planes = 2 * channels if own else channels
    return Observation(planes, scale == "shared", math.log(sigma), log_p, mean, draw)


def _bernoulli(out: jax.Array, x: jax.Array, log_scale: jax.Array) -> jax.Array:
    return bernoulli(out, x)


def _bernoulli_mean(out: jax.Array) -> jax.Array:
    return 2.0 * jax.nn.sigmoid(out) - 1.0


def _bernoulli_draw(keys_N: jax.Array, out: jax.Array, log_scale: jax.Array) -> jax.Array:
    bits_ND = jax.vmap(lambda key: random_bits(key, out.shape[1]))(keys_N)
    return 2.0 * binarized(_bernoulli_mean(out), bits_ND) - 1.0


def random_bits(key: jax.Array, *shape: int) -> jax.Array:
    """Returns uint32 of this shape, 16 random bits each.

    A hash gives 64 bits, so four numbers: a quarter of the work of `jax.random.uniform`, which
    would be a good part of a small VAE's step on CPU. The four are of one row (the last axis), so
    that devices that hold different rows exchange nothing.
    """
    *rows, width = shape
    each = (*rows, -(-width // 4))
    row = jnp.arange(math.prod(rows), dtype=jnp.uint32).reshape(*rows, 1)
    column = jnp.arange(each[-1], dtype=jnp.uint32)
    one, two = jax.random.key_data(key).reshape(-1)[:2]
    words = threefry2x32_p.bind(
        one, two, jnp.broadcast_to(row, each), jnp.broadcast_to(column, each)
    )
    quarters = [part for word in words for part in (word >> 16, word & 0xFFFF)]
    return jnp.concatenate(quarters, axis=-1)[..., :width]


def binarized(x: jax.Array, bits: jax.Array) -> jax.Array:
    """Returns 1 with probability (x + 1) / 2, else 0, float32 of x's shape.

    -1 always gives 0 and 1 always 1; in between a probability is exact to 2^-17.

    Args:
      x: in [-1, 1]. bits: of `random_bits`, of the same shape.
    """
    chance = (bits.astype(jnp.float32) + 0.5) * 2.0**-16
    return (chance < 0.5 * x + 0.5).astype(jnp.float32)

"""Filling in what a mask hides, by searching the latents of a generator that knows such pictures.

Yeh et al. 2017 (arXiv:1607.07539), with squared error for their weighted context loss and the
latents' prior in place of a discriminator, so that a VAE's decoder serves as well.

Letters: N pictures, R starts, L latent numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Decode = Callable[[jax.Array], jax.Array]


class Filled(NamedTuple):
    """x: the pictures with their holes filled, [N, ...]; z: the latents found, [N, L]; error: mean
    squared error on what could be seen, [N].
    """

    x: jax.Array
    z: jax.Array
    error: jax.Array


def fill(
    decode: Decode,
    x: jax.Array,
    seen: jax.Array,
    z_RNL: jax.Array,
    *,
    steps: int,
    lr: float,
    prior: float,
) -> Filled:
    """Searches latents that make what can be seen, and takes the rest from what they make.

    Args:
      decode: [M, L] -> [M, ...], pictures in [-1, 1].
      x: [N, ...] pictures; hidden pixels are not looked at.
      seen: as x, 1 where a pixel can be seen and 0 where it is hidden.
      z_RNL: where the search begins, R starts for each picture; the best of them counts.
      steps: of Adam, with the learning rate `lr`.
      prior: weight of |z|^2 / L, beside the mean squared error on what can be seen.
    """
    starts, number, size = z_RNL.shape
    known = seen.reshape(1, number, -1)
    target = x.reshape(1, number, -1)
    adam = optax.adam(lr)

    def errors(z_RNL: jax.Array) -> jax.Array:
        made = decode(z_RNL.reshape(starts * number, size)).reshape(starts, number, -1)
        squared = ((made - target) ** 2 * known).sum(-1)
        return squared / jnp.maximum(known.sum(-1), 1.0)

    def loss(z_RNL: jax.Array) -> jax.Array:
        return (errors(z_RNL) + prior * (z_RNL**2).mean(-1)).sum()

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        z_RNL, state = carry
        updates, state = adam.update(jax.grad(loss)(z_RNL), state)
        return (optax.apply_updates(z_RNL, updates), state), None

    (z_RNL, _), _ = jax.lax.scan(step, (z_RNL, adam.init(z_RNL)), None, length=steps)
    error_RN = errors(z_RNL)
    best_N = error_RN.argmin(0)
    z_NL = z_RNL[best_N, jnp.arange(number)]
    made = decode(z_NL).reshape(x.shape)
    return Filled(seen * x + (1.0 - seen) * made, z_NL, error_RN.min(0))

"""Filling holes: latents that explain what can be seen, on a decoder whose answer is known."""

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.generate.inpaint import fill


def test_a_linear_decoder_is_solved() -> None:
    rng = np.random.default_rng(0)
    basis = jnp.asarray(rng.normal(size=(2, 12)), jnp.float32)

    def decode(z: jax.Array) -> jax.Array:
        return (z @ basis).reshape(-1, 3, 4, 1)

    z = jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)
    x = decode(z)
    seen = jnp.ones((5, 3, 4, 1)).at[:, :, 2:].set(0.0)
    # What is hidden must not be looked at: there it is wrong by far.
    spoilt = x + 9.0 * (1.0 - seen)
    starts = jnp.asarray(rng.normal(size=(4, 5, 2)), jnp.float32)
    filled = fill(decode, spoilt, seen, starts, steps=400, lr=0.05, prior=0.0)
    np.testing.assert_allclose(filled.z, z, atol=1e-2)
    np.testing.assert_allclose(filled.x, x, atol=3e-2)
    assert (filled.x[:, :, :2] == spoilt[:, :, :2]).all()
    assert filled.error.max() < 1e-4
    # A strong prior keeps the latents small.
    held = fill(decode, spoilt, seen, starts, steps=400, lr=0.05, prior=100.0)
    assert np.abs(held.z).max() < 0.2


def test_the_best_of_several_starts_counts() -> None:
    def decode(z: jax.Array) -> jax.Array:
        return jnp.where(z > 0, z, -0.1)  # a start below 0 has no slope to climb

    x, seen = jnp.full((1, 1), 0.5), jnp.ones((1, 1))
    starts = jnp.array([[[-1.0]], [[1.0]], [[-2.0]]])
    filled = fill(decode, x, seen, starts, steps=300, lr=0.05, prior=0.0)
    np.testing.assert_allclose(filled.z, [[0.5]], atol=1e-2)

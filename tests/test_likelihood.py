"""Likelihoods, divergences and bits: by hand, against float64, at extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.errors import UserError
from aigc_jax.losses import latent
from aigc_jax.losses.likelihood import bernoulli, discretized_logistic, gaussian
from aigc_jax.losses.observation import binarized, observation, random_bits

LEVELS = (2.0 * np.arange(256) - 255.0) / 255.0


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def test_by_hand() -> None:
    # Probabilities of a one: 1/2 and 3/4.
    logits = jnp.array([[0.0, math.log(3.0)]])
    np.testing.assert_allclose(
        bernoulli(logits, jnp.array([[1.0, 1.0]])), [math.log(3 / 8)], rtol=1e-6
    )
    np.testing.assert_allclose(
        bernoulli(logits, jnp.array([[0.0, 0.0]])), [math.log(1 / 8)], rtol=1e-6
    )
    # Two standard deviations of 1/2 away: density of N(0, 1) at 2, twice as high.
    found = gaussian(jnp.array([[0.0]]), jnp.full((1, 1), math.log(0.5)), jnp.array([[1.0]]))
    np.testing.assert_allclose(
        found, [math.log(2.0) - 2.0 - 0.5 * math.log(2 * math.pi)], rtol=1e-6
    )
    # The scale is 1/255, half a bin's width: a mean on the middle bin's centre has the mass
    # sigmoid(1) - sigmoid(-1); one at black has all below the first edge, sigmoid(1).
    scale = jnp.full((1, 1), -math.log(255.0))
    middle, black = jnp.full((1, 1), LEVELS[128]), jnp.full((1, 1), -1.0)
    one = 1 / (1 + math.exp(-1.0))
    np.testing.assert_allclose(
        discretized_logistic(middle, scale, middle), [math.log(2 * one - 1)], rtol=1e-5
    )
    np.testing.assert_allclose(
        discretized_logistic(black, scale, black), [math.log(one)], rtol=1e-4
    )
    np.testing.assert_allclose(
        discretized_logistic(-black, scale, -black), [math.log(one)], rtol=1e-4
    )


def test_equal_their_float64_twins() -> None:
    rng = np.random.default_rng(0)
    out, x = rng.normal(size=(3, 5, 7)) * 3, rng.integers(0, 2, (3, 5, 7)).astype(float)
    p = sigmoid(out)
    np.testing.assert_allclose(
        bernoulli(jnp.float32(out), jnp.float32(x)),
        (x * np.log(p) + (1 - x) * np.log(1 - p)).sum(-1),
        rtol=2e-6,
    )
    mean, scale = rng.uniform(-1.2, 1.2, (2, 300, 1))
    scale = 3 * scale - 2
    level = rng.integers(0, 256, (300, 1))
    level[:50], level[50:100] = 0, 255
    y = LEVELS[level]
    upper = sigmoid((y + 1 / 255 - mean) / np.exp(scale))
    lower = sigmoid((y - 1 / 255 - mean) / np.exp(scale))
    mass = np.where(level == 255, 1.0, upper) - np.where(level == 0, 0.0, lower)
    near = mass[:, 0] > 1e-9  # of the others float64 itself loses too much
    assert near.mean() > 0.6
    found = discretized_logistic(*map(jnp.float32, (mean, scale, y)))
    np.testing.assert_allclose(found[near], np.log(mass[near, 0]), rtol=1e-4, atol=1e-5)
    pairs = [x.reshape(150, 2) for x in map(jnp.float32, (mean, scale, y))]
    np.testing.assert_allclose(
        discretized_logistic(*pairs), found.reshape(150, 2).sum(1), rtol=1e-6
    )
    normal = -0.5 * ((y - mean) / np.exp(scale)) ** 2 - scale - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(
        gaussian(*map(jnp.float32, (mean, scale, y))), normal.sum(-1), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("mean", "log_scale"), [(0.3, -2.0), (-1.5, -6.0), (0.999, 3.0)])
def test_the_256_values_of_a_pixel_have_probability_one(mean: float, log_scale: float) -> None:
    values = jnp.asarray(LEVELS, jnp.float32)[:, None]
    log_p = discretized_logistic(jnp.full_like(values, mean), jnp.full((1, 1), log_scale), values)
    np.testing.assert_allclose(np.exp(np.asarray(log_p, np.float64)).sum(), 1.0, rtol=1e-4)


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic", "gaussian"])
@pytest.mark.parametrize("size", [200.0, -200.0])
def test_outputs_of_200_stay_finite(likelihood: str, size: float) -> None:
    pixels = observation(likelihood, "pixel", 1.0)
    x = jnp.array([[-1.0, 0.0, 1.0]] if likelihood != "bernoulli" else [[0.0, 0.5, 1.0]])
    for scale in (size, -size, 0.0):
        rest = [jnp.full((1, 3), scale)] if pixels.planes == 2 else []
        out = jnp.concatenate([jnp.full((1, 3), size), *rest], axis=1)
        value, slope = jax.value_and_grad(lambda o: pixels.log_p(o, x, jnp.zeros(1)).sum())(out)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    if likelihood == "bernoulli":
        wanted = [-200.0, -100.0, 0.0] if size > 0 else [0.0, -100.0, -200.0]
        np.testing.assert_allclose(value, sum(wanted))
        np.testing.assert_allclose(slope, x - (size > 0), atol=1e-6)


def test_kl_of_normals() -> None:
    # By hand: N(1, 1) against N(0, 1) is 1/2; N(0, e^2) is (e^2 - 1 - 2) / 2.
    found = latent.kl_standard(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(found, [0.5, (math.e**2 - 3) / 2], rtol=1e-6)
    rng = np.random.default_rng(1)
    m, v, n, w = rng.normal(size=(4, 3))
    twin = 0.5 * ((m - n) ** 2 / np.exp(w) + np.exp(v - w) - 1 - v + w)
    np.testing.assert_allclose(latent.kl(*map(jnp.float32, (m, v, n, w))), twin, rtol=1e-5)
    np.testing.assert_allclose(
        latent.kl(jnp.float32(m), jnp.float32(v), jnp.zeros(3), jnp.zeros(3)),
        latent.kl_standard(jnp.float32(m), jnp.float32(v)),
        rtol=1e-5,
    )
    # Against sampling: the mean of log q - log p.
    z = m + np.exp(v / 2) * rng.normal(size=(200_000, 3))
    rows = [jnp.float32(x)[None] for x in (m, v, n, w)]
    ratio = latent.log_normal(jnp.float32(z), *rows[:2]) - latent.log_normal(
        jnp.float32(z), *rows[2:]
    )
    error = np.std(ratio, axis=0) / math.sqrt(len(z))
    assert (np.abs(np.mean(ratio, axis=0) - twin) < 5 * error).all()
    np.testing.assert_allclose(
        latent.log_standard(jnp.float32(z[:5])),
        latent.log_normal(jnp.float32(z[:5]), jnp.zeros((1, 3)), jnp.zeros((1, 3))),
        rtol=1e-6,
    )


def test_free_bits_by_hand() -> None:
    cost = jnp.array([[0.1, 3.0], [0.3, 1.0], [9.0, 9.0]])
    real = jnp.array([1.0, 1.0, 0.0])  # the last row is padding
    found = latent.free_bits(cost, jnp.float32(0.5), real)
    # The first latent costs 0.2 in the mean, the second 2.
    np.testing.assert_allclose(found[:2], [[0.5, 3.0], [0.5, 1.0]])
    np.testing.assert_allclose(latent.free_bits(-cost, jnp.float32(0.0), real), -cost)
    slope = jax.grad(lambda c: (latent.free_bits(c, jnp.float32(0.5), real) * real[:, None]).sum())
    np.testing.assert_allclose(slope(cost), [[0, 1], [0, 1], [0, 0]])


def test_the_importance_bound_and_its_gradient() -> None:
    log_w = jnp.log(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(
        latent.importance_bound(log_w), [math.log(2.0), math.log(5.0)], rtol=1e-6
    )
    slope = jax.grad(lambda w: latent.importance_bound(w).sum())(log_w)
    np.testing.assert_allclose(slope, [[0.25, 0.5], [0.75, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(latent.importance_bound(log_w[:1]), log_w[0])
    huge = latent.importance_bound(jnp.array([[-1e4], [-2e4]]))
    np.testing.assert_allclose(huge, [-1e4 - math.log(2.0)], rtol=1e-6)


def test_bits_have_the_probability_of_their_pixel() -> None:
    key = jax.random.key(3)
    bits = random_bits(key, 5, 20_001)  # odd: a word is cut in two
    assert bits.shape == (5, 20_001)
    assert int(bits.max()) < 65_536
    values = np.asarray(bits).ravel()
    # Uniform; the rows, and the four numbers of a hash, unlike each other.
    assert abs(values.mean() / 65_535 - 0.5) < 5 * math.sqrt(1 / 12 / values.size)
    # A row has 5,001 hashes, whose first numbers come first, then all second ones.
    quarters = np.concatenate([np.asarray(bits)[:, 5_001 * i :][:, :4_998] for i in range(4)])
    alike = np.corrcoef(quarters) - np.eye(20)
    assert abs(alike).max() < 5 / math.sqrt(4_998)
    assert not np.array_equal(bits, random_bits(jax.random.key(4), 5, 20_001))
    x = jnp.broadcast_to(jnp.array([-1.0, -0.5, 0.0, 0.9, 1.0])[:, None], bits.shape)
    ones = np.asarray(binarized(x, bits))
    assert set(np.unique(ones)) == {0.0, 1.0}
    share = ones.mean(1)
    assert (share[0], share[4]) == (0.0, 1.0)
    np.testing.assert_allclose(share[1:4], [0.25, 0.5, 0.95], atol=5 * 0.5 / math.sqrt(20_001))


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic", "gaussian"])
def test_draws_follow_the_likelihood(likelihood: str) -> None:
    pixels = observation(likelihood, "pixel", 0.25)
    keys = jax.random.split(jax.random.key(5), 20_000)
    out = jnp.broadcast_to(jnp.array([[0.3, 0.0]])[:, : pixels.planes], (20_000, pixels.planes))
    drawn = np.asarray(pixels.draw(keys, out, jnp.zeros(1)))
    assert drawn.shape == (20_000, 1)
    assert np.abs(drawn).max() <= 1.0
    if likelihood == "bernoulli":
        assert set(np.unique(drawn)) == {-1.0, 1.0}
        np.testing.assert_allclose((drawn > 0).mean(), sigmoid(np.float64(0.3)), atol=0.02)
    elif likelihood == "gaussian":
        np.testing.assert_allclose(np.median(drawn), 0.3, atol=0.01)
        np.testing.assert_allclose((drawn < 0.3 - 0.25).mean(), 0.1587, atol=0.015)
    else:
        np.testing.assert_allclose((drawn < 0.3 - 0.25).mean(), sigmoid(np.float64(-1)), atol=0.015)
        levels = (drawn + 1) * 127.5
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    np.testing.assert_allclose(
        pixels.mean(out[:1]),
        [[2 * sigmoid(np.float64(0.3)) - 1 if likelihood == "bernoulli" else 0.3]],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("bernouli", "fixed", 1.0), "Did you mean 'bernoulli'"),
        (("gaussian", "pixels", 1.0), "Did you mean 'pixel'"),
        (("gaussian", "fixed", 0.0), "task.sigma=0.0: expected a number above 0"),
    ],
)
def test_likelihoods_that_are_none(settings: tuple[str, str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        observation(*settings)

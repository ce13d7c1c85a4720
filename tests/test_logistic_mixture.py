"""The mixture of discretized logistics: against float64, its sums, its draws, at extremes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.errors import UserError
from aigc_jax.losses import logistic_mixture
from aigc_jax.losses.likelihood import discretized_logistic
from aigc_jax.losses.observation import observation

LEVELS = (2.0 * np.arange(256) - 255.0) / 255.0
log_p = jax.jit(logistic_mixture.log_p, static_argnums=(2, 3))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def bins(mean: np.ndarray, log_scale: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The mass of each value's bin, by differences of the distribution function."""
    upper = sigmoid((x + 1 / 255 - mean) / np.exp(log_scale))
    lower = sigmoid((x - 1 / 255 - mean) / np.exp(log_scale))
    return np.where(x > 0.999, 1.0, upper) - np.where(x < -0.999, 0.0, lower)


def twin(out: np.ndarray, x: np.ndarray, mixtures: int) -> float:
    """One row in float64, written out for three channels: a loop over pixels and components."""
    total = 0.0
    for pixel, (red, green, blue) in zip(
        out.reshape(-1, 10, mixtures), x.reshape(-1, 3), strict=True
    ):
        logits, means, scales, pulls = np.split(pixel, [1, 4, 7])
        share = np.exp(logits[0]) / np.exp(logits[0]).sum()
        mass = 0.0
        for m in range(mixtures):
            a, b, c = np.tanh(pulls[:, m])
            mass += share[m] * float(
                bins(means[0, m], scales[0, m], red)
                * bins(means[1, m] + a * red, scales[1, m], green)
                * bins(means[2, m] + b * red + c * green, scales[2, m], blue)
            )
        total += math.log(mass)
    return total


def random_out(rows: int, pixels: int, channels: int, mixtures: int) -> np.ndarray:
    rng = np.random.default_rng(channels)
    size = pixels * logistic_mixture.numbers(channels, mixtures)
    return rng.normal(0.0, 0.7, (rows, size))


def test_it_equals_its_float64_twin_and_grows_no_wrong_axes() -> None:
    rng = np.random.default_rng(1)
    out = random_out(6, 4, 3, 2).reshape(2, 3, -1)
    x = LEVELS[rng.integers(0, 256, (1, 3, 12))]
    x[0, 0, :3], x[0, 1, :3] = -1.0, 1.0
    found = log_p(jnp.float32(out), jnp.float32(x), 3, 2)
    assert found.shape == (2, 3)
    expected = [[twin(out[k, i], x[0, i], 2) for i in range(3)] for k in range(2)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_one_component_of_one_channel_is_the_plain_logistic() -> None:
    out = random_out(5, 3, 1, 1)
    x = np.random.default_rng(2).choice(LEVELS, (5, 3))
    each = out.reshape(5, 3, 3)
    np.testing.assert_allclose(
        log_p(jnp.float32(out), jnp.float32(x), 1, 1),
        discretized_logistic(jnp.float32(each[..., 1]), jnp.float32(each[..., 2]), jnp.float32(x)),
        rtol=1e-6,
    )


def test_the_values_of_a_pixel_have_probability_one() -> None:
    # Both channels of one pixel: all 256 x 256 values. One out of 16 of the first would do, as the
    # second adds up to 1 for each; all of them also say so of the first.
    out = jnp.float32(random_out(1, 1, 2, 3))
    pairs = np.stack(np.meshgrid(LEVELS, LEVELS, indexing="ij"), axis=-1).reshape(-1, 2)
    found = log_p(out, jnp.float32(pairs), 2, 3)
    mass = np.exp(np.asarray(found, np.float64)).reshape(256, 256)
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-4)
    # The first channel by itself is the mixture without the second.
    each = logistic_mixture.parts(out, 2, 3)
    alone = jnp.concatenate([each.logits[0, 0], each.mean[0, 0, 0], each.log_scale[0, 0, 0]])
    first = log_p(alone[None], jnp.float32(LEVELS)[:, None], 1, 3)
    np.testing.assert_allclose(np.log(mass.sum(1)), first, rtol=1e-4)
    # A third channel adds up to 1 for given two.
    out = jnp.float32(random_out(1, 1, 3, 3))
    given = np.column_stack([np.full(256, LEVELS[40]), np.full(256, LEVELS[200]), LEVELS])
    third = log_p(out, jnp.float32(given), 3, 3)
    each = logistic_mixture.parts(out, 3, 3)
    two = [each.logits[0, 0], *each.mean[0, 0, :2], *each.log_scale[0, 0, :2], each.pull[0, 0, 0]]
    two[-1] = jnp.arctanh(two[-1])
    both = log_p(jnp.concatenate(two)[None], jnp.float32(given[:1, :2]), 2, 3)
    np.testing.assert_allclose(jax.nn.logsumexp(third), both[0], rtol=1e-4)


def test_extreme_outputs_stay_finite() -> None:
    pixels = observation("logistic_mixture", "shared", 1.0, channels=3, mixtures=2)
    rng = np.random.default_rng(0)
    out = jnp.float32(200.0 * rng.choice([-1.0, 0.0, 1.0], (4, 20)))
    x = jnp.float32([[-1.0, 0.0 + 1 / 255, 1.0]])
    ask = jax.value_and_grad(lambda o: pixels.log_p(o, x, jnp.zeros(1)).sum())
    value, slope = jax.jit(ask)(out)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    drawn = jax.jit(pixels.draw)(jax.random.split(jax.random.key(0), 4), out, jnp.zeros(1))
    for picture in (drawn, pixels.mean(out)):
        assert np.isfinite(picture).all()
        assert np.abs(picture).max() <= 1.0


def test_draws_follow_the_likelihood_and_their_mean_is_the_picture() -> None:
    number, (channels, mixtures) = 20_000, (2, 2)
    pixels = observation("logistic_mixture", "shared", 1.0, channels=channels, mixtures=mixtures)
    # 1/4 and 3/4; red at -0.5 and 0.5, narrow; green 0.1 with a pull of +-tanh(1).
    row = [0.0, math.log(3.0), -0.5, 0.5, 0.1, 0.1, -4.0, -4.0, -4.0, -4.0, 1.0, -1.0]
    out = jnp.broadcast_to(jnp.float32([row]), (number, 12))
    keys = jax.random.split(jax.random.key(1), number)
    drawn = np.asarray(jax.jit(pixels.draw)(keys, out, jnp.zeros(1)))
    assert drawn.shape == (number, 2)
    np.testing.assert_allclose((drawn + 1) * 127.5, np.rint((drawn + 1) * 127.5), atol=1e-4)
    right = drawn[:, 0] > 0
    np.testing.assert_allclose(right.mean(), 0.75, atol=0.015)
    assert abs(np.corrcoef(right, drawn[:, 1])[0, 1]) < 0.05  # both pulls end at 0.1 - 0.38
    slope = np.polyfit(drawn[right, 0], drawn[right, 1], 1)[0]
    np.testing.assert_allclose(slope, -math.tanh(1.0), atol=0.05)
    slope = np.polyfit(drawn[~right, 0], drawn[~right, 1], 1)[0]
    np.testing.assert_allclose(slope, math.tanh(1.0), atol=0.05)
    np.testing.assert_allclose(pixels.mean(out[:1])[0], drawn.mean(0), atol=0.02)
    # The mean log-probability of what is drawn is minus the entropy, and a histogram knows it.
    found = np.asarray(log_p(out, jnp.float32(drawn), channels, mixtures))
    whole, times = np.unique(np.rint((drawn + 1) * 127.5), axis=0, return_counts=True)
    assert len(whole) < number / 4
    share = times / number
    plain = (share * np.log(share)).sum()
    assert plain > found.mean() > plain - len(whole) / number  # its bias: (cells - 1) / 2 n


def test_bad_settings() -> None:
    with pytest.raises(UserError, match=r"task\.mixtures=0: expected 1 or more"):
        observation("logistic_mixture", "shared", 1.0, mixtures=0)
    with pytest.raises(UserError, match="Did you mean 'logistic_mixture'"):
        observation("logistic_mixtur", "shared", 1.0)

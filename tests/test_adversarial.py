"""Losses of two players and penalties on a slope: by hand, in float64, and at the extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from aigc_jax.losses import adversarial
from aigc_jax.losses.adversarial import GAMES, PENALTIES

LN = np.log
# What each player loses at real logit 0 and made logit ln 3 (a probability of 3/4 of "real").
BY_HAND = {
    "saturating": (LN(2) + LN(4), -LN(4)),
    "non_saturating": (LN(2) + LN(4), LN(4 / 3)),
    "hinge": (1 + 1 + LN(3), -LN(3)),
    "least_squares": (0.5 * (1 + LN(3) ** 2), 0.5 * (LN(3) - 1) ** 2),
    "wasserstein": (LN(3), -LN(3)),
    # With one pair, the mean of the other side is its only member.
    "relativistic_average": (2 * LN(4), 2 * LN(4 / 3)),
    "relativistic_pairing": (LN(4), LN(4 / 3)),
}


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def relativistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return softplus(-(a - b.mean())) + softplus(b - a.mean())


TWINS = {
    "saturating": (lambda r, f: softplus(-r) + softplus(f), lambda r, f: -softplus(f)),
    "non_saturating": (lambda r, f: softplus(-r) + softplus(f), lambda r, f: softplus(-f)),
    "hinge": (lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f), lambda r, f: -f),
    "least_squares": (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda r, f: (f - 1) ** 2 / 2),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic_average": (relativistic, lambda r, f: relativistic(f, r)),
    "relativistic_pairing": (lambda r, f: softplus(f - r), lambda r, f: softplus(r - f)),
}


def test_every_game_is_tested() -> None:
    assert set(GAMES) == set(BY_HAND) == set(TWINS)


@pytest.mark.parametrize("name", GAMES)
def test_a_game_by_hand(name: str) -> None:
    real, made = jnp.zeros(1), jnp.full(1, LN(3), jnp.float32)
    found = GAMES[name].discriminator(real, made), GAMES[name].generator(real, made)
    np.testing.assert_allclose(np.concatenate(found), BY_HAND[name], rtol=1e-6)


@pytest.mark.parametrize("name", GAMES)
def test_a_game_equals_its_twin_and_stays_finite(name: str) -> None:
    rng = np.random.default_rng(3)
    real, made = rng.normal(0, 3, (2, 64))
    for player, twin in zip(GAMES[name], TWINS[name], strict=True):
        found = player(jnp.float32(real), jnp.float32(made))
        assert found.shape == (64,)  # a value for each: the caller takes the mean
        np.testing.assert_allclose(found, twin(real, made), rtol=2e-5, atol=2e-5)
        far = jnp.array([-200.0, 200.0, 0.0])
        values, gradient = jax.value_and_grad(
            lambda f, p=player: p(-f, f).sum()  # type: ignore[misc]
        )(far)
        assert np.isfinite(values) and np.isfinite(gradient).all()


@pytest.mark.parametrize("name", GAMES)
def test_the_players_want_opposite_things(name: str) -> None:
    real, made = jnp.array([0.3, -0.2]), jnp.array([0.1, 0.4])
    down = jax.grad(lambda f: GAMES[name].discriminator(real, f).sum())(made)
    up = jax.grad(lambda f: GAMES[name].generator(real, f).sum())(made)
    assert (down > 0).all() and (up < 0).all()


def test_slopes_of_a_plane_and_of_a_bowl() -> None:
    x = jnp.array([[1.0, 2.0], [0.0, -1.0], [0.0, 0.0]])
    plane = adversarial.squared_slope(lambda x: x @ jnp.array([3.0, 4.0]), x)
    np.testing.assert_allclose(plane, [25.0, 25.0, 25.0])
    bowl = adversarial.squared_slope(lambda x: 0.5 * (x**2).sum(1), x)
    np.testing.assert_allclose(bowl, [5.0, 1.0, 0.0])
    np.testing.assert_allclose(adversarial.zero_centred(plane), [12.5, 12.5, 12.5])
    np.testing.assert_allclose(adversarial.one_centred(plane), [16.0, 16.0, 16.0], rtol=1e-6)
    np.testing.assert_allclose(PENALTIES["gradient_penalty_0"][1](plane), [25.0, 25.0, 25.0])


def test_where_each_penalty_looks() -> None:
    key, real, made = jax.random.key(0), jnp.zeros((500, 2)), jnp.ones((500, 2))
    real = real.at[::2].set(1.0)
    at = {name: np.asarray(points(key, real, made)) for name, (points, _) in PENALTIES.items()}
    assert (at["r1"] == real).all() and (at["r2"] == made).all()
    for name in ("gradient_penalty", "gradient_penalty_0"):
        share = at[name][1::2]  # between 0 and 1, the same in all coordinates
        assert (share[:, 0] == share[:, 1]).all() and 0 <= share.min() < 0.05
        assert 0.95 < share.max() <= 1 and (at[name][::2] == 1).all()
    moved = at["dragan"] - np.asarray(real)
    # The standard deviation of half ones, half zeros is 1/2; half of that, times two uniforms.
    assert moved.min() >= 0 and 0.2 < moved.max() <= 0.25
    np.testing.assert_allclose(moved.mean(), 0.25 / 4, rtol=0.1)


def test_a_flat_discriminator_makes_no_nan() -> None:
    def penalty(scale: jax.Array) -> jax.Array:
        slope = adversarial.squared_slope(lambda x: scale * x.sum(1), jnp.ones((2, 3)))
        return adversarial.one_centred(slope).sum()

    assert np.isfinite(jax.grad(penalty)(jnp.zeros(())))


def test_a_penalty_has_the_gradient_of_finite_differences() -> None:
    def penalty(w: jax.Array) -> jax.Array:
        slope = adversarial.squared_slope(lambda x: jnp.tanh(x @ w).sum(1), x)
        return (adversarial.zero_centred(slope) + adversarial.one_centred(slope)).mean()

    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))
        w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)))
        check_grads(penalty, (w,), order=1, modes=["rev"])


# Penalty -> what it makes of slopes [B], written out.
CENTRES = {
    "r1": lambda slope: slope**2 / 2,
    "r2": lambda slope: slope**2 / 2,
    "gradient_penalty": lambda slope: (slope - 1) ** 2,
    "gradient_penalty_0": lambda slope: slope**2,
    "dragan": lambda slope: (slope - 1) ** 2,
}


def test_every_penalty_has_a_twin() -> None:
    assert set(CENTRES) == set(PENALTIES)


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_equals_finite_differences_in_float64(name: str) -> None:
    """Of a discriminator of two layers, at the points that the penalty looks at."""
    rng = np.random.default_rng(5)
    real, made = rng.normal(size=(2, 6, 2, 3))
    w, v = rng.normal(size=(6, 4)), rng.normal(size=4)
    points, centre = PENALTIES[name]
    at = points(jax.random.key(3), jnp.float32(real), jnp.float32(made))
    found = centre(
        adversarial.squared_slope(
            lambda x: jnp.tanh(x.reshape(6, -1) @ jnp.float32(w)) @ jnp.float32(v), at
        )
    )

    def judge(x: np.ndarray) -> np.ndarray:
        return np.tanh(x @ w) @ v

    x, h = np.asarray(at, np.float64).reshape(6, -1), 1e-5
    slopes = [(judge(x + h * e) - judge(x - h * e)) / (2 * h) for e in np.eye(6)]
    want = CENTRES[name](np.linalg.norm(slopes, axis=0))
    assert found.shape == (6,)
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_lecam_equals_its_twin() -> None:
    rng = np.random.default_rng(6)
    real, made, means = rng.normal(0, 3, 32), rng.normal(0, 3, 32), rng.normal(size=2)
    found = adversarial.lecam(*map(jnp.float32, (real, made, *means)))
    want = np.square(real - means[1]) + np.square(made - means[0])
    np.testing.assert_allclose(found, want, rtol=1e-4)


def test_lecam_by_hand() -> None:
    found = adversarial.lecam(
        jnp.array([1.0, 2.0]), jnp.array([-1.0, 0.0]), jnp.array(3.0), jnp.array(-2.0)
    )
    np.testing.assert_allclose(found, [9.0 + 16.0, 16.0 + 9.0])


def test_codes_found_again_by_hand() -> None:
    """A code 2 scales from its mean, with scale 1; a category of two at probability 3/4; one of
    three at probability 1/3.
    """
    answer = jnp.array([[1.0, 0.0, 0.0, LN(3), 5.0, 5.0, 5.0]])
    code, hot = jnp.array([[3.0]]), jnp.array([[0.0, 1.0, 0.0, 0.0, 1.0]])
    found = adversarial.code_nll(answer, code, hot, (2, 3))
    np.testing.assert_allclose(found, [2.0 + LN(4 / 3) + LN(3)], rtol=1e-6)
    found = adversarial.code_nll(answer[:, 2:4], code[:, :0], hot[:, :2], (2,))
    np.testing.assert_allclose(found, [LN(4 / 3)], rtol=1e-6)


def test_codes_found_again_equal_their_twin_and_stay_finite() -> None:
    rng, sizes = np.random.default_rng(4), (4, 2)
    answer, code = rng.normal(0, 3, (32, 10)), rng.normal(size=(32, 2))
    chosen = [rng.integers(0, size, 32) for size in sizes]
    hot = np.concatenate([np.eye(size)[c] for size, c in zip(sizes, chosen, strict=True)], axis=1)
    log_scale = 3 * np.tanh(answer[:, 2:4] / 3)
    want = (0.5 * ((code - answer[:, :2]) / np.exp(log_scale)) ** 2 + log_scale).sum(1)
    for logits, c in zip((answer[:, 4:8], answer[:, 8:]), chosen, strict=True):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        want -= np.log(p[np.arange(32), c])
    found = adversarial.code_nll(*map(jnp.float32, (answer, code, hot)), sizes)
    assert found.shape == (32,)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)
    far = jax.value_and_grad(
        lambda a: adversarial.code_nll(a, jnp.float32(code), jnp.float32(hot), sizes).sum()
    )(jnp.float32(200.0 * answer))
    assert all(np.isfinite(x).all() for x in far)


def test_class_cross_entropy_by_hand_and_far_out() -> None:
    logits = jnp.array([[0.0, LN(3)], [200.0, -200.0]])
    found = adversarial.class_cross_entropy(logits, jnp.array([1, 1]))
    np.testing.assert_allclose(found, [LN(4 / 3), 400.0], rtol=1e-6)

"""The K-sample bound against closed forms, and the pictures of an autoencoder's latents."""

import math
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from autoencoder import batch_of, context_of, random_weights, task_of

from aigc_jax.core.task import Weights, row_keys
from aigc_jax.errors import UserError
from aigc_jax.evals import active_units, bound, latents

SIGMA = 0.5


def linear_gaussian(rows: int = 7) -> tuple[Any, Any, np.ndarray]:
    """x = W z + noise with a normal posterior that is off by a share, and log p(x) exactly."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(5, 2)), rng.normal(size=(rows, 5))
    covariance = w @ w.T + SIGMA**2 * np.eye(5)
    _, determinant = np.linalg.slogdet(covariance)
    exact = -0.5 * (
        (x @ np.linalg.inv(covariance) * x).sum(1) + determinant + 5 * math.log(2 * math.pi)
    )
    precision = np.eye(2) + w.T @ w / SIGMA**2
    mean = 0.8 * x @ w @ np.linalg.inv(precision) / SIGMA**2
    scale = 1.3 * np.sqrt(1 / np.diag(precision))

    def log_weights(
        weights: Any, batch: Any, key: jax.Array, first: jax.Array, *, k: int, binarize: str
    ) -> jax.Array:
        def one(row_key: jax.Array, number: jax.Array) -> jax.Array:
            return jax.random.normal(jax.random.fold_in(row_key, number), (2,))

        keys = row_keys(key, batch["index"])
        noise = jax.vmap(jax.vmap(one, (0, None)), (None, 0))(keys, first + jnp.arange(k))
        center = (jnp.float32(mean))[batch["index"]][None]
        z = center + noise * jnp.float32(scale)[None, None]
        error = batch["x"][None] - z @ jnp.float32(w).T
        log_p = -0.5 * jnp.square(error / SIGMA).sum(-1) - 5 * math.log(SIGMA)
        log_p -= 2.5 * math.log(2 * math.pi) + 0.5 * jnp.square(z).sum(-1)
        log_q = -0.5 * jnp.square(noise).sum(-1) - math.log(scale.prod())
        return log_p - log_q

    batch = {
        "x": x.astype(np.float32),
        "index": np.arange(rows, dtype=np.int32),
        "mask": np.ones(rows, np.float32),
    }
    return SimpleNamespace(functions={"log_weights": log_weights}), batch, exact


def judged(context: Any, weights: Any = None, **settings: Any) -> float:
    found = bound.make(context, **settings)(weights, 3)
    (value,) = found.values()
    return value


def test_the_bound_grows_to_the_exact_likelihood() -> None:
    task, whole, exact = linear_gaussian(500)
    context = context_of(task, whole, 500)
    found = [judged(context, samples=k, chunk=50, binarize="none") for k in (1, 5, 50, 5000)]
    assert all(late < early for early, late in pairwise(found))
    assert found[0] + exact.mean() > 0.05  # the proposal is off: one sample is not enough
    assert found[3] == pytest.approx(-exact.mean(), abs=2e-3)


def test_neither_chunk_nor_batch_changes_the_answer() -> None:
    task, whole, _ = linear_gaussian()
    one = judged(context_of(task, whole, 4), samples=10, chunk=10)
    for size, chunk in ((4, 3), (7, 64)):  # 3 does not divide 10; 7 needs no padding
        assert judged(context_of(task, whole, size), samples=10, chunk=chunk) == pytest.approx(
            one, rel=1e-6
        )
    log_w = task.functions["log_weights"](
        None, whole, jax.random.key(0), np.int32(0), k=10, binarize="none"
    )
    plain = np.logaddexp.reduce(np.asarray(log_w, np.float64), axis=0) - math.log(10)
    assert one == pytest.approx(-plain.mean(), rel=1e-6)
    first = judged(context_of(task, whole, 4), samples=10, chunk=3, rows=3)
    assert first == pytest.approx(-plain[:3].mean(), rel=1e-6)


def test_the_metric_says_what_it_depends_on() -> None:
    task, whole, _ = linear_gaussian()
    context = context_of(task, whole)
    names = [
        next(iter(bound.make(context, **settings)(None, 0)))
        for settings in (
            {"samples": 3},
            {"samples": 1, "binarize": "fixed", "rows": 5},
            {"samples": 2, "binarize": "none"},
        )
    ]
    assert names == ["test_dynamic/iwae_3", "test_first_5_rows_fixed/iwae_1", "test_gray/iwae_2"]


def test_with_one_sample_it_is_the_evidence_bound_of_the_task() -> None:
    task = task_of(objective="iwae")
    weights, whole = random_weights(task), batch_of(6)
    found = judged(context_of(task, whole), weights, samples=1)
    total, count = task.eval(weights, whole, jax.random.key(0))["loss"]
    assert found == pytest.approx(float(total / count), rel=1e-5)
    assert judged(context_of(task, whole), weights, samples=200) < found


def test_very_unlikely_rows_stay_finite() -> None:
    task, whole, _ = linear_gaussian()
    whole = {**whole, "x": whole["x"] * 1e3}
    found = judged(context_of(task, whole), samples=20, chunk=7)
    assert math.isfinite(found)
    assert found > 1e5


def test_active_units_by_hand() -> None:
    # Variances over the rows: 1, 0.01 less a little, 0.
    z = np.array([[1.0, 0.099, 2.0], [-1.0, -0.099, 2.0]] * 3, np.float32)

    def features(weights: Any, batch: Any) -> jax.Array:
        return jnp.asarray(z)[batch["index"]]

    whole = batch_of(6)
    context = context_of(SimpleNamespace(functions={"features": features}), whole)  # type: ignore[arg-type]
    assert active_units.make(context, split="test")(Weights({}, {}), 0) == {"test/active_units": 1}
    judge = active_units.make(context, split="test", threshold=0.009)
    assert judge(Weights({}, {}), 0) == {"test/active_units": 2}
    said = {"data": "", "split": "test", "threshold": 0.009}
    assert context.protocols == {"test/active_units": said}, "the later one's"


def test_ways_between_vectors() -> None:
    a, b = np.array([[3.0, 0.0], [1.0, 1.0]]), np.array([[0.0, 3.0], [2.0, 2.0]])
    way = latents.between(a, b, 3, "spherical")
    half = 3 / math.sqrt(2)
    np.testing.assert_allclose(way[0], [[3, 0], [half, half], [0, 3]], atol=1e-12)
    np.testing.assert_allclose(way[1], [[1, 1], [1.5, 1.5], [2, 2]])  # parallel: no arc
    np.testing.assert_allclose(latents.between(a, b, 3, "linear")[0, 1], [1.5, 1.5])
    moved = latents.traversals(np.array([5.0, 6.0, 7.0]), np.array([2, 0]), 3, 2.0)
    np.testing.assert_array_equal(moved[0], [[5, 6, -2], [5, 6, 0], [5, 6, 2]])
    np.testing.assert_array_equal(moved[1, :, 0], [-2, 0, 2])


@pytest.mark.parametrize("conditional", [False, True])
def test_latents_are_drawn(conditional: bool) -> None:
    task = task_of(conditional=conditional)
    weights, whole = random_weights(task), batch_of(5)
    context = context_of(task, whole)
    judge = latents.make(context, split="test", number=3, steps=4)
    assert judge(weights, 7) == {}
    drawn = dict(context.drawn)
    assert {name for _, name in drawn} == {"reconstructions", "traversals", "interpolations"}
    high = wide = 4 + 2  # pixels of a picture and the gap after it
    assert drawn[7, "reconstructions"].shape == (2 * high + 2, 3 * wide + 2)
    assert drawn[7, "traversals"].shape == (3 * high + 2, 4 * wide + 2)
    top = np.rint((whole["x"][0, :, :, 0] + 1) * 127.5)
    np.testing.assert_array_equal(drawn[7, "reconstructions"][2:6, 2:6], top)
    way = drawn[7, "interpolations"]
    assert way.shape == (3 * high + 2, 4 * wide + 2)
    if not conditional:
        # The first way ends where the second begins.
        end = way[2:6, 2 + 3 * wide : 6 + 3 * wide]
        np.testing.assert_array_equal(end, way[2 + high : 6 + high, 2:6])
    judge(weights, 8)
    np.testing.assert_array_equal(context.drawn[8, "traversals"], drawn[7, "traversals"])


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (bound, {"split": "tset"}, "no split 'tset'; it has test. Did you mean 'test'"),
        (bound, {"samples": 0}, "samples=0: expected 1"),
        (bound, {}, "function 'log_weights', which this task lacks; its functions: decode"),
        (active_units, {"split": "test"}, "needs the task's function 'features'"),
        (active_units, {"split": "test", "threshold": 0.0}, "threshold=0.0: expected"),
        (latents, {"split": "test"}, "draws what an autoencoder of images gives back"),
        (latents, {"split": "test", "steps": 1}, "steps=1: expected 1 and 2"),
    ],
)
def test_what_can_not_be_judged(module: Any, settings: dict[str, Any], message: str) -> None:
    task: Any = SimpleNamespace(functions={"decode": None})
    with pytest.raises(UserError, match=message):
        module.make(context_of(task, batch_of()), **settings)


def test_bits_that_the_likelihood_is_not_of_are_refused_before_the_run() -> None:
    task = task_of(likelihood="discretized_logistic", binarize="none")
    context = context_of(task, batch_of(6))
    with pytest.raises(UserError, match=r"binarize=.dynamic. makes bits, .* is of gray"):
        bound.make(context, split="test", samples=2)
    bound.make(context, split="test", samples=2, binarize="none")

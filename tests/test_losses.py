"""Token losses: by hand, against float64, by finite differences, at extremes."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from aigc_jax.losses.token import (
    Scores,
    chunked_cross_entropy,
    cross_entropy,
    label_smoothed,
    z_loss,
)


def test_by_hand() -> None:
    # exp(logits) = 1, 3: probabilities 1/4 and 3/4.
    logits = jnp.array([[0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    loss, log_z, even, best = cross_entropy(logits, jnp.array([1, 0]))
    np.testing.assert_allclose(even, [(math.log(4 / 3) + math.log(4)) / 2] * 2, rtol=1e-6)
    assert best.tolist() == [1, 1]
    np.testing.assert_allclose(loss, [math.log(4 / 3), math.log(4)], rtol=1e-6)
    np.testing.assert_allclose(log_z, [math.log(4)] * 2, rtol=1e-6)
    np.testing.assert_allclose(z_loss(log_z), [math.log(4) ** 2] * 2, rtol=1e-6)
    # A fifth of the target is spread over both symbols: 9/10 and 1/10.
    smooth = label_smoothed(cross_entropy(logits, jnp.array([1, 0])), 0.2)
    expected = [
        0.9 * math.log(4 / 3) + 0.1 * math.log(4),
        0.1 * math.log(4 / 3) + 0.9 * math.log(4),
    ]
    np.testing.assert_allclose(smooth, expected, rtol=1e-6)


def twin(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    """Minus the sum over symbols of target probability times log-probability, in float64."""
    logits = logits.astype(np.float64)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    size = logits.shape[-1]
    wanted = np.eye(size)[targets] * (1 - smoothing) + smoothing / size
    return -(wanted * np.log(probabilities)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_equals_its_float64_twin(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5, 11)).astype(np.float32) * 6
    targets = rng.integers(0, 11, (3, 5)).astype(np.int32)
    scores = cross_entropy(jnp.asarray(logits), jnp.asarray(targets))
    found, log_z = label_smoothed(scores, smoothing), scores.log_z
    assert found.shape == (3, 5)
    np.testing.assert_allclose(found, twin(logits, targets, smoothing), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(
        log_z, np.log(np.exp(logits.astype(np.float64)).sum(-1)), rtol=1e-6, atol=1e-6
    )


def test_gradients_equal_finite_differences_and_the_closed_form() -> None:
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(4, 7)), jnp.float32)
    targets = jnp.array([0, 3, 6, 3])

    @jax.jit
    def total(logits: jax.Array) -> jax.Array:
        scores = cross_entropy(logits, targets)
        loss, log_z = label_smoothed(scores, 0.2), scores.log_z
        return (loss + 0.3 * z_loss(log_z)).sum()

    check_grads(total, (logits,), order=1, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    wanted = 0.8 * np.eye(7)[np.asarray(targets)] + 0.2 / 7
    log_z = np.log(np.exp(np.asarray(logits, np.float64)).sum(-1, keepdims=True))
    expected = p - wanted + 0.3 * 2 * log_z * p
    np.testing.assert_allclose(jax.grad(total)(logits), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_stay_finite(dtype: jnp.dtype, smoothing: float) -> None:
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    targets = jnp.array([1, 0, 1])

    @jax.jit
    def both(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = cross_entropy(logits, targets)
        loss, log_z = label_smoothed(scores, smoothing), scores.log_z
        return (loss + z_loss(log_z)).sum(), loss

    (_, loss), gradient = jax.value_and_grad(both, has_aux=True)(logits)
    assert loss.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert np.isfinite(loss).all()
    assert np.isfinite(gradient.astype(jnp.float32)).all()
    big = float(logits[0, 0].astype(jnp.float32))  # bfloat16 rounds 1e4
    # Without smoothing 2 big, ln 3, ln 2; with it the mean over symbols comes in: big, ln 3, and
    # ln 2 plus two thirds of big.
    exact = [2 * big, math.log(3), math.log(2)]
    even = [big, math.log(3), math.log(2) + 2 * big / 3]
    mixed = [(1 - smoothing) * a + smoothing * b for a, b in zip(exact, even, strict=True)]
    np.testing.assert_allclose(loss, mixed, rtol=1e-3)


def test_the_sum_over_symbols_of_bfloat16_logits_is_taken_in_float32() -> None:
    # 4,096 equal symbols: a bfloat16 sum would stop growing at 256.
    loss = cross_entropy(jnp.zeros((1, 4096), jnp.bfloat16), jnp.array([7])).loss
    np.testing.assert_allclose(loss, [math.log(4096)], rtol=1e-6)


def test_values_are_per_token_so_that_a_mask_leaves_no_trace() -> None:
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.normal(size=(2, 4, 5)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 5, (2, 4)))
    mask = jnp.array([[1.0, 1, 0, 0], [1, 0, 1, 0]])

    def masked(logits: jax.Array) -> jax.Array:
        scores = cross_entropy(logits, targets)
        loss, log_z = label_smoothed(scores, 0.1), scores.log_z
        return ((loss + 0.1 * z_loss(log_z)) * mask).sum()

    gradient = np.abs(np.asarray(jax.grad(masked)(logits))).max(-1)
    np.testing.assert_array_equal(gradient > 0, np.asarray(mask) > 0)


def chunked(chunk: int, cap: float = 0.0) -> Callable[..., Scores]:
    return partial(chunked_cross_entropy, chunk=chunk, cap=cap)


def whole(x: jax.Array, head: jax.Array, targets: jax.Array, cap: float = 0.0) -> Scores:
    logits = jnp.einsum("nc,vc->nv", x, head, preferred_element_type=jnp.float32)
    return cross_entropy(cap * jnp.tanh(logits / cap) if cap else logits, targets)


def drawn(size: int = 23, tokens: int = 6, dtype: Any = jnp.float32) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(4)
    x, head = rng.normal(size=(tokens, 5)) * 2, rng.normal(size=(size, 5))
    targets = rng.permutation(size)[:tokens]
    return jnp.asarray(x, dtype), jnp.asarray(head, dtype), jnp.asarray(targets, jnp.int32)


def weighed(scores: Scores) -> jax.Array:
    """A sum that no field is missing from, each token with a weight of its own."""
    each = jnp.arange(1.0, len(scores.loss) + 1)
    return (each * (scores.loss + 0.3 * z_loss(scores.log_z) + 0.2 * scores.even)).sum()


# 23 symbols: chunks that fit, that leave a rest, of one symbol, and larger than the vocabulary.
@pytest.mark.parametrize("cap", [0.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 22, 23, 64])
def test_chunks_of_the_vocabulary_give_the_same_values_and_gradients(
    chunk: int, cap: float
) -> None:
    x, head, targets = drawn()
    found, expected = jax.jit(chunked(chunk, cap))(x, head, targets), whole(x, head, targets, cap)
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=2e-6, atol=2e-6, err_msg=name)
    ours = jax.jit(jax.grad(lambda x, h: weighed(chunked(chunk, cap)(x, h, targets)), (0, 1)))
    twin = jax.grad(lambda x, h: weighed(whole(x, h, targets, cap)), (0, 1))
    for a, b in zip(ours(x, head), twin(x, head), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    assert len(set(np.asarray(expected.best).tolist())) > 1


def test_chunks_of_extreme_and_of_equal_logits() -> None:
    x = jnp.array([[1e4], [-1e4], [0.0]])
    head = jnp.array([[-1.0], [0.5], [1.0], [1.0], [-1.0]])
    found = chunked(2)(x, head, jnp.array([0, 2, 4]))
    np.testing.assert_allclose(
        found.loss, [2e4 + math.log(2), 2e4 + math.log(2), math.log(5)], rtol=1e-6
    )
    assert found.best.tolist() == [2, 0, 0]  # the lowest id among equals
    gradient = jax.grad(lambda x: weighed(chunked(2)(x, head, jnp.array([0, 2, 4]))))(x)
    assert np.isfinite(gradient).all()


def test_chunks_never_make_all_logits() -> None:
    x, head, targets = drawn(size=4096, tokens=6)

    def shapes(function: Callable[..., Any]) -> set[tuple[int, ...]]:
        made = set()

        def walk(jaxpr: Any) -> None:
            for eqn in jaxpr.eqns:
                made.update(v.aval.shape for v in eqn.outvars)
                for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
                    if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                        walk(getattr(inner, "jaxpr", inner))

        walk(jax.make_jaxpr(jax.grad(function, (0, 1)))(x, head).jaxpr)
        return made

    def largest(function: Callable[..., Any]) -> int:
        # What has a column for each token; the head itself is [V, C] in both.
        return max(math.prod(s) for s in shapes(function) if 6 in s)

    assert largest(lambda x, h: whole(x, h, targets).loss.sum()) == 6 * 4096
    assert largest(lambda x, h: chunked(64)(x, h, targets).loss.sum()) <= 6 * 64


def test_bfloat16_chunks_are_summed_in_float32() -> None:
    x, head, targets = drawn(size=500, dtype=jnp.bfloat16)
    found, expected = chunked(64)(x, head, targets), whole(x, head, targets)
    assert found.loss.dtype == jnp.float32
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)

"""Accumulation is the big batch, however unevenly it is padded."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import optim, tree
from aigc_jax.core.task import State, single, supervised, weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.errors import UserError
from aigc_jax.losses.token import cross_entropy
from aigc_jax.tasks import lm

ROWS, TIME, VOCAB = 8, 6, 5
# Tokens that count in each row. With 4 micro-batches of every 4th row they have 12, 2, 0 and 5.
LENGTHS = [6, 1, 0, 4, 6, 1, 0, 1]


def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (ROWS, TIME + 1))
    mask = np.arange(TIME) < np.array(LENGTHS)[:, None]
    return {
        "inputs": jnp.asarray(tokens[:, :-1], jnp.int32),
        "targets": jnp.asarray(tokens[:, 1:], jnp.int32),
        "mask": jnp.asarray(mask, jnp.float32),
    }


def bigram(accumulate: int, *, mean_of_means: bool = False) -> Any:
    """A table of logits, by the last token; plain SGD of rate 1, so a step is minus its gradient.

    `mean_of_means` divides within each micro-batch: the mistake that the test must be able to see.
    """

    def loss(params: Any, variables: Any, batch: Any, key: Any, hyper: Any) -> Any:
        logits = params["model"]["table"][batch["inputs"]]
        values = cross_entropy(logits, batch["targets"]).loss
        total, count = (values * batch["mask"]).sum(), batch["mask"].sum()
        right = ((logits.argmax(-1) == batch["targets"]) * batch["mask"]).sum()
        metrics = {"loss": (total, count), "right": (right, count)}
        if mean_of_means:
            metrics["loss"] = (total / jnp.maximum(count, 1.0), jnp.float32(1))
        return metrics, {"seen": variables["seen"] + count}

    def variables(key: jax.Array) -> Any:
        table = jax.random.normal(key, (VOCAB, VOCAB))
        return {"model": {"table": table}}, {"seen": jnp.float32(0)}

    optimizer = optim.make(10, name="sgd", schedule="constant", rules=((".*", {"label": "all"}),))
    return supervised(variables, loss, optimizer, accumulate=accumulate)


def hyper(**changes: float) -> dict[str, jax.Array]:
    return {k: jnp.float32(v) for k, v in {**optim.HYPER, **lm.HYPER, **changes}.items()}


def one_step(made: Any, **changes: float) -> tuple[State, State, dict[str, float]]:
    init, step = made
    before = jax.jit(init)(jax.random.key(1), hyper(lr=1.0, **changes))
    after, metrics = jax.jit(step)(before, batch())
    return before, after, {k: float(s) / float(w) for k, (s, w) in metrics.items()}


def gradient(before: State, after: State) -> np.ndarray:
    return np.asarray(before.params["model"]["table"] - after.params["model"]["table"])


def test_the_gradient_is_that_of_the_mean_over_tokens_in_float64() -> None:
    before, after, metrics = one_step(bigram(1))
    table = np.asarray(before.params["model"]["table"], np.float64)
    rows = {k: np.asarray(v) for k, v in batch().items()}
    expected, total = np.zeros_like(table), 0.0
    for a, b in zip(*(rows[k][rows["mask"] > 0] for k in ("inputs", "targets")), strict=True):
        p = np.exp(table[a]) / np.exp(table[a]).sum()
        total -= np.log(p[b])
        expected[a] += p - np.eye(VOCAB)[b]
    count = sum(LENGTHS)
    np.testing.assert_allclose(gradient(before, after), expected / count, rtol=1e-4, atol=1e-6)
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-6)


@pytest.mark.parametrize("k", [2, 4, 8])
def test_micro_batches_give_the_gradient_and_the_metrics_of_the_whole(k: int) -> None:
    before, whole, metrics = one_step(bigram(1))
    _, split, other = one_step(bigram(k))
    np.testing.assert_allclose(gradient(before, split), gradient(before, whole), atol=3e-7)
    assert other.keys() == metrics.keys() == {"loss", "right", "grad_norm", "lr", "update/all"}
    for name in metrics:
        assert other[name] == pytest.approx(metrics[name], rel=1e-6), name
    assert float(split.vars["seen"]) == float(whole.vars["seen"]) == sum(LENGTHS)


def test_a_mean_of_means_would_be_seen() -> None:
    before, whole, _ = one_step(bigram(1, mean_of_means=True))
    _, split, _ = one_step(bigram(4, mean_of_means=True))
    assert np.abs(gradient(before, split) - gradient(before, whole)).max() > 0.01


def language_model(accumulate: int, **settings: Any) -> Any:
    arrays = {k: ArraySpec((ROWS, TIME), "int32") for k in ("inputs", "targets", "mask")}
    facts = {"vocab_size": VOCAB, "context": TIME, "token_bytes": np.arange(VOCAB)}
    model = {"name": "transformer", "layers": 1, "heads": 2, "width": 8}
    optimizer = optim.make(10, name="sgd", schedule="constant")
    return lm.make(Spec(arrays, facts), optimizer, model, accumulate=accumulate, **settings)


def test_a_language_model_accumulates_with_smoothing_and_z_loss() -> None:
    ends = []
    for k in (1, 4):
        task = language_model(k, label_smoothing=0.1)
        before, after, metrics = one_step((task.init, task.step), z_loss=0.01)
        ends.append((after.params, metrics))
        assert tree.first_difference(before.params, jax.device_get(after.params))
    (whole, metrics), (split, other) = ends
    for (name, a), (_, b) in zip(*map(tree.named_leaves, (whole, split)), strict=True):
        np.testing.assert_allclose(a, b, atol=3e-7, err_msg=name)
    for name in metrics:
        assert other[name] == pytest.approx(metrics[name], rel=3e-6), name


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (3, "task.accumulate=3 does not divide the batch of 8; choose run.batch_size as a multip"),
        (0, "task.accumulate=0: expected 1 or more"),
        (-1, "task.accumulate=-1: expected 1 or more"),
    ],
)
def test_micro_batches_that_do_not_fit(k: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        one_step(bigram(k))


def test_a_batch_without_a_single_token_changes_nothing() -> None:
    init, step = bigram(2)
    before = jax.jit(init)(jax.random.key(1), hyper(lr=1.0))
    after, _ = jax.jit(step)(before, {**batch(), "mask": jnp.zeros((ROWS, TIME))})
    assert tree.first_difference(before.params, jax.device_get(after.params)) is None


def test_each_step_and_each_micro_batch_has_a_key_of_its_own() -> None:
    seen: list[bytes] = []

    def loss(params: Any, variables: Any, batch: Any, key: Any, hyper: Any) -> Any:
        jax.debug.callback(lambda k: seen.append(np.asarray(k).tobytes()), jax.random.key_data(key))
        return {"loss": single((params["model"]["w"] * batch["x"]).sum())}, variables

    optimizer = optim.make(10, name="sgd", rules=((".*", {}),))
    init, step = supervised(
        lambda key: ({"model": {"w": jnp.ones(())}}, {}), loss, optimizer, accumulate=2
    )
    state = init(jax.random.key(1), hyper())
    step = jax.jit(step)
    for _ in range(2):
        state, _ = step(state, {"x": jnp.ones(4)})
    jax.effects_barrier()
    assert len(seen) == len(set(seen)) == 4


def test_no_buffer_is_in_a_state_twice() -> None:
    optimizer = optim.make(10, name="sgd", ema=True, rules=((".*", {}),))
    init, step = supervised(
        lambda key: ({"model": {"w": jnp.ones(3)}}, {}),
        lambda params, variables, batch, key, hyper: (
            {"loss": single((params["model"]["w"] * batch["x"]).sum())},
            variables,
        ),
        optimizer,
    )
    # Not compiled, as a compiled one copies by itself; a step that is given both would refuse.
    state = init(jax.random.key(0), hyper())
    state, _ = jax.jit(step, donate_argnums=0)(state, {"x": jnp.ones(3)})
    assert (state.params["model"]["w"] < state.ema["model"]["w"]).all()


def test_a_state_is_judged_by_its_average_where_it_keeps_one() -> None:
    init, _ = bigram(1)
    state = jax.jit(init)(jax.random.key(0), hyper())
    assert weights(state).params is not state.params
    assert weights(state).params == state.params
    average = {"model": {"table": jnp.ones((VOCAB, VOCAB))}}
    assert weights(state.replace(ema=average)).params == average
    assert weights(state).vars == state.vars
    kept = {"seen": jnp.zeros(()), "other": 1, "ema": {"seen": jnp.ones(())}}
    averaged = state.replace(vars=kept)
    judged = weights(averaged).vars
    assert judged["seen"] == 1 and judged["other"] == 1

"""What the language model's task measures, and what it does not look at."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import optim
from aigc_jax.core.task import Task, Weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.errors import UserError
from aigc_jax.models.transformer import Transformer
from aigc_jax.tasks import lm

ROWS, TIME, VOCAB = 3, 6, 7
BYTES = np.array([1, 1, 2, 3, 4, 1, 0])  # the last is a special token


def make(**settings: Any) -> Task:
    arrays = {k: ArraySpec((ROWS, TIME), "int32") for k in ("inputs", "targets")}
    facts = {"vocab_size": VOCAB, "context": TIME, "token_bytes": BYTES}
    model = {"name": "transformer", "layers": 1, "heads": 2, "width": 8} | settings.pop("model", {})
    return lm.make(Spec(arrays, facts), optim.make(10), model, **settings)


def hyper(**changes: float) -> dict[str, jax.Array]:
    return {k: jnp.float32(v) for k, v in {**optim.HYPER, **lm.HYPER, **changes}.items()}


def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, VOCAB, (ROWS, TIME + 1))
    mask = np.arange(TIME) < np.array([6, 2, 4])[:, None]
    return {
        "inputs": jnp.asarray(tokens[:, :-1], jnp.int32),
        "targets": jnp.asarray(tokens[:, 1:], jnp.int32),
        "mask": jnp.asarray(mask, jnp.float32),
    }


def means(metrics: Any) -> dict[str, float]:
    return {k: float(s) / float(w) for k, (s, w) in metrics.items()}


def test_the_metrics_by_numpy() -> None:
    task = make(label_smoothing=0.2)
    state = jax.jit(task.init)(jax.random.key(0), hyper(z_loss=0.05))
    rows = {k: np.asarray(v) for k, v in batch().items()}
    network = Transformer(VOCAB, TIME, layers=1, heads=2, width=8)
    logits, _ = jax.jit(network.apply)({"params": state.params["model"]}, batch()["inputs"])
    logits = np.asarray(logits, np.float64)[rows["mask"] > 0]
    targets = rows["targets"][rows["mask"] > 0]
    log_z = np.log(np.exp(logits).sum(-1))
    nll = log_z - logits[np.arange(len(targets)), targets]
    smooth = 0.8 * nll + 0.2 * (log_z - logits.mean(-1))
    bits = nll.sum() / math.log(2) / BYTES[targets].sum()

    judged = means(jax.jit(task.eval)(Weights(state.params, {}), batch(), jax.random.key(0)))
    assert judged == pytest.approx(
        {
            "loss": nll.mean(),
            "bits_per_byte": bits,
            "accuracy": (logits.argmax(-1) == targets).mean(),
        },
        rel=1e-5,
    )
    trained = means(jax.jit(task.step)(state, batch())[1])
    assert trained["nll"] == pytest.approx(nll.mean(), rel=1e-5)
    assert trained["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert trained["loss"] == pytest.approx((smooth + 0.05 * log_z**2).mean(), rel=1e-5)
    assert {"grad_norm", "lr", "update/matrices", "update/vectors"} < trained.keys()


def test_masked_targets_and_padding_leave_no_trace() -> None:
    task = make()
    params = jax.jit(task.init)(jax.random.key(0), hyper()).params
    compiled = jax.jit(task.eval)
    hidden = np.asarray(batch()["mask"]) == 0
    other = {k: np.array(v) for k, v in batch().items()}
    other["targets"][hidden] = 5
    other["inputs"][hidden] = 6  # they stand after all that counts

    def judge(rows: Any) -> Any:
        return compiled(Weights(params, {}), rows, jax.random.key(0))

    assert not np.array_equal(other["targets"], batch()["targets"])
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(a == b), judge(batch()), judge(other)))


def test_perplexity_is_the_exponential_of_the_bare_cross_entropy() -> None:
    finish = make().finish
    assert finish({"loss": math.log(50.0)})["perplexity"] == pytest.approx(50.0)
    assert finish({"loss": 9.0, "nll": math.log(50.0)})["perplexity"] == pytest.approx(50.0)
    assert finish({"loss": 1e4})["perplexity"] == math.inf
    assert math.isnan(finish({"loss": math.nan})["perplexity"])
    assert finish({}) == {}  # not one target counted: no perplexity of 1


def test_dropout_trains_with_the_steps_key_and_never_evaluates() -> None:
    task = make(model={"dropout": 0.5})
    # A step of size zero: what differs between two of them is the key alone.
    state = jax.jit(task.init)(jax.random.key(0), hyper(lr=0.0))
    step = jax.jit(task.step)
    later, first = step(state, batch())
    again, second = step(later, batch())
    assert float(first["loss"][0]) == float(step(state, batch())[1]["loss"][0])
    assert float(first["loss"][0]) != float(second["loss"][0])
    evaluate = jax.jit(task.eval)
    judged = [
        evaluate(Weights(s.params, {}), batch(), jax.random.key(i))["loss"][0]
        for i, s in enumerate((state, again))
    ]
    assert float(judged[0]) == float(judged[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_smoothing": 1.0}, r"task\.label_smoothing=1\.0: expected a number in \[0, 1\)"),
        ({"label_smoothing": -0.1}, r"task\.label_smoothing=-0\.1"),
        ({"model": {"name": "transfomer"}}, "Did you mean 'transformer'"),
        ({"model": {"width": 9}}, "width=9 is not a multiple of heads=2; try width=8"),
        ({"accumulate": 0}, "task.accumulate=0"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(**settings)

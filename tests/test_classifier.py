"""The classifier: what it is made of, what it counts, and that it learns."""

from typing import Any

import jax
import numpy as np
import pytest

from aigc_jax.core import config, optim
from aigc_jax.core.task import weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.errors import UserError
from aigc_jax.losses.token import cross_entropy
from aigc_jax.tasks import classifier

MODEL = {"name": "cnn", "widths": (4, 6), "hidden": 16, "dropout": 0.0}
FACTS = {"unit": "images", "shape": (9, 8, 1), "classes": 3}


def make(model: dict[str, Any] = MODEL, facts: dict[str, Any] = FACTS, **settings: Any) -> Any:
    spec = Spec({"x": ArraySpec((12, *facts["shape"]), "float32")}, facts)
    return classifier.make(spec, optim.make(60, schedule="constant"), model, **settings)


def rows(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A bright bar at the top, in the middle or at the bottom, in noise."""
    draw = np.random.default_rng(seed)
    label = draw.integers(0, 3, n).astype(np.int32)
    x = draw.normal(0, 0.3, (n, 9, 8, 1)).astype(np.float32)
    for i, place in enumerate(label):
        x[i, 3 * place : 3 * place + 3] += 0.7
    return {"x": x, "label": label, "index": np.arange(n, dtype=np.int32)}


def hyper(**changes: float) -> dict[str, np.ndarray]:
    return {k: np.float32(v) for k, v in {**optim.HYPER, **changes}.items()}


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    task = make()
    state = jax.jit(task.init)(jax.random.key(0), hyper(lr=0.01))
    step = jax.jit(task.step)
    for i in range(60):
        state, _ = step(state, rows(12, i))
    return task, weights(state)


def test_it_learns_what_can_be_seen(trained: tuple[Any, Any]) -> None:
    task, known = trained
    found = jax.jit(task.eval)(known, rows(64, 999), jax.random.key(0))
    assert float(found["accuracy"][0]) / 64 > 0.95


def test_its_metrics_by_hand_and_padding_counts_zero(trained: tuple[Any, Any]) -> None:
    task, known = trained
    batch = rows(6, 7)
    logits = task.functions["logits"](known, batch)
    loss = cross_entropy(logits, batch["label"]).loss
    whole = task.eval(known, batch, jax.random.key(0))
    np.testing.assert_allclose(whole["loss"], (loss.sum(), 6), rtol=1e-6)
    assert whole["accuracy"][0] == (logits.argmax(-1) == batch["label"]).sum()
    padded = {k: np.concatenate([v, np.zeros_like(v[:2])]) for k, v in batch.items()}
    padded["mask"] = np.array([1] * 6 + [0] * 2, np.float32)
    # Rows that would count as right, if they counted.
    padded["label"][6:] = task.functions["logits"](known, padded)[6:].argmax(-1)
    for name, pair in task.eval(known, padded, jax.random.key(0)).items():
        np.testing.assert_allclose(pair, whole[name], rtol=1e-6)


def test_features_are_what_the_last_layer_reads(trained: tuple[Any, Any]) -> None:
    task, known = trained
    x = rows(5)["x"]
    features, logits = (task.functions[name](known, {"x": x}) for name in ("features", "logits"))
    assert features.shape == (5, 16) and (features >= 0).all() and logits.shape == (5, 3)
    head = known.params["model"]["head"]
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"][None], logits, rtol=1e-5)


def test_smoothing_and_dropout_are_for_training_alone() -> None:
    batch = rows(12)
    plain, other = make(), make({**MODEL, "dropout": 0.5}, label_smoothing=0.3)
    state = jax.jit(plain.init)(jax.random.key(0), hyper())
    one, two = (jax.jit(t.eval)(weights(state), batch, jax.random.key(0)) for t in (plain, other))
    assert one["loss"][0] == two["loss"][0]
    losses = [float(jax.jit(t.step)(state, batch)[1]["loss"][0]) for t in (plain, other)]
    assert losses[0] == pytest.approx(float(one["loss"][0]), rel=1e-5)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_bad_input() -> None:
    for facts, words in (
        ({**FACTS, "classes": 0}, "images of 0 classes"),
        ({**FACTS, "classes": 1}, "images of 1 classes"),
        ({**FACTS, "unit": "tokens"}, "tokens of 3 classes"),
        ({**FACTS, "shape": (3, 9, 1)}, "3 x 9 are too small for 2 stages"),
    ):
        with pytest.raises(UserError, match=words):
            make(facts=facts)
    for change, words in (
        ({"widths": ()}, "at least one stage"),
        ({"hidden": 0}, "1 or more of each"),
        ({"dropout": 1.0}, r"dropout=1\.0"),
    ):
        with pytest.raises(UserError, match=words):
            make({**MODEL, **change})
    with pytest.raises(UserError, match=r"label_smoothing=1\.0"):
        make(label_smoothing=1.0)


def test_the_recipe_is_complete() -> None:
    found = config.to_dict(config.load("configs/classifier/mnist.py"))
    assert found["task"]["model"]["widths"] == (32, 64)
    assert found["run"]["best"] == "-validation/accuracy"

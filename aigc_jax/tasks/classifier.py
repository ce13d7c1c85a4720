"""Classification of images: what judges of samples are made of."""

from typing import Any

import jax
import jax.numpy as jnp

from aigc_jax.core.config import maker
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.core.task import Batch, Metrics, Task, Weights, supervised
from aigc_jax.errors import UserError
from aigc_jax.losses.token import cross_entropy, label_smoothed


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
    label_smoothing: float = 0.0,
    accumulate: int = 1,
) -> Task:
    """Makes the task.

    Batches hold `x` float32 [B, H, W, C] and `label` int32 [B]; `mask` float32 [B] where some rows
    are padding. Metrics: "loss", cross-entropy in nats an image (smoothed in training, bare in
    evaluation), and "accuracy".

    Functions: "features" (weights, x_BHWC) -> [B, hidden], the layer before the last; "logits"
    (weights, x_BHWC) -> float32 [B, classes].

    Args:
      spec: the data's spec; reads the facts shape and classes.
      optimizer: from `core.optim.make`.
      model: `name` of a module in `models/` and its settings. The module takes `classes` and
        `shape`; has `check()` and a method `features`, and is called with `deterministic`.
      label_smoothing: see `losses.token.label_smoothed`.
      accumulate: micro-batches a step.

    Raises:
      UserError: data without labels or of one class only, or sizes that don't fit.
    """
    facts = spec.facts
    classes = facts.get("classes", 0)
    if facts.get("unit") != "images" or classes < 2:
        raise UserError(
            f"a classifier needs labelled images of two classes or more; this data has"
            f" {facts.get('unit', 'something else')} of {classes} classes."
        )
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"task.label_smoothing={label_smoothing}: expected a number in [0, 1).")
    network = maker("models", model["name"])(
        classes=classes,
        shape=tuple(facts["shape"]),
        **{key: value for key, value in model.items() if key != "name"},
    )
    network.check()

    def scores(logits_BV: jax.Array, batch: Batch) -> tuple[Metrics, Any]:
        found = cross_entropy(logits_BV, batch["label"])
        mask = batch.get("mask", jnp.ones_like(found.loss))
        right = (found.best == batch["label"]) * mask
        metrics = {
            "loss": ((found.loss * mask).sum(), mask.sum()),
            "accuracy": (right.sum(), mask.sum()),
        }
        return metrics, (found, mask)

    def loss(
        params: Any, variables: Any, batch: Batch, key: jax.Array, hyper: Hyper
    ) -> tuple[Metrics, Any]:
        logits = network.apply(
            {"params": params["model"]}, batch["x"], deterministic=False, rngs={"dropout": key}
        )
        metrics, (found, mask) = scores(logits, batch)
        smooth = (label_smoothed(found, label_smoothing) * mask).sum()
        return {**metrics, "loss": (smooth, mask.sum())}, variables

    def init_variables(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        image = jnp.zeros((1, *facts["shape"]), jnp.float32)
        return {"model": network.init(key, image)["params"]}, {}

    init, step = supervised(init_variables, loss, optimizer, accumulate=accumulate)

    def logits(weights: Weights, batch: Batch) -> jax.Array:
        return network.apply({"params": weights.params["model"]}, batch["x"])

    def hidden(weights: Weights, batch: Batch) -> jax.Array:
        return network.apply({"params": weights.params["model"]}, batch["x"], method="features")

    def evaluate(weights: Weights, batch: Batch, key: jax.Array) -> Metrics:
        return scores(logits(weights, batch), batch)[0]

    return Task(init, step, evaluate, functions={"features": hidden, "logits": logits})

"""Autoregressive language modelling: the next token given those before it."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core.config import maker
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.core.task import Batch, Metrics, Task, Weights, supervised
from aigc_jax.errors import UserError
from aigc_jax.generate.sampler import Sampler
from aigc_jax.losses.token import (
    Scores,
    chunked_cross_entropy,
    cross_entropy,
    label_smoothed,
    z_loss,
)
from aigc_jax.models.activations import size, sizes

HYPER = {"z_loss": 0.0}  # weight of log(Z)^2 in the loss


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
    label_smoothing: float = 0.0,
    vocab_chunk: int = 0,
    accumulate: int = 1,
) -> Task:
    """Makes the task.

    Batches hold `inputs`, `targets` int32 [B, T] and `mask` float32 [B, T] (1 where the target
    counts); with packed documents also `segments` and `positions` int32 [B, T]; with tokens that
    see each other both ways, `prefix` int32 [B], how many of them begin each row.

    Metrics: "loss" is what is minimized, in nats per token; "nll" (training) the bare
    cross-entropy, without label smoothing and z-loss, which is the "loss" of an evaluation;
    "bits_per_byte" the same in bits per UTF-8 byte of the text, by which two tokenizers can be
    compared; "accuracy" (evaluation) the share of targets that were the likeliest token.

    Args:
      spec: the data's spec; reads the facts vocab_size, context, token_bytes.
      optimizer: from `core.optim.make`.
      model: `name` of a module in `models/` and its settings. The module takes `vocab_size` and
        `context`; `check()` raises UserError for sizes that do not fit; `empty_cache` makes what
        sampling remembers; `rates()` multiplies learning rates, see `core.optim.Optimizer`;
        called and answering as `models.transformer.Transformer`.
      label_smoothing: see `losses.token.label_smoothed`.
      vocab_chunk: go through the vocabulary in chunks of this size instead of making all logits;
        see `losses.token.chunked_cross_entropy`. 0: all at once, faster where they fit.
      accumulate: micro-batches a step.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"task.label_smoothing={label_smoothing}: expected a number in [0, 1).")
    if vocab_chunk < 0:
        raise UserError(f"task.vocab_chunk={vocab_chunk}: expected 0 (all at once) or more.")
    facts = spec.facts
    network = maker("models", model["name"])(
        vocab_size=facts["vocab_size"],
        context=facts["context"],
        **{key: value for key, value in model.items() if key != "name"},
    )
    network.check()
    bytes_of_token = np.asarray(facts["token_bytes"], np.float32)

    def forward(params: Any, batch: Batch, **knobs: Any) -> Any:
        knobs |= {"positions_BT": batch.get("positions"), "segments_BT": batch.get("segments")}
        knobs |= {"prefix_B": batch.get("prefix")}
        return network.apply({"params": params["model"]}, batch["inputs"], **knobs)

    def predict(params: Any, batch: Batch, **knobs: Any) -> Scores:
        if not vocab_chunk:
            return cross_entropy(forward(params, batch, **knobs)[0], batch["targets"])
        x_BTC, _ = forward(params, batch, method="features", **knobs)
        flat = chunked_cross_entropy(
            x_BTC.reshape(-1, x_BTC.shape[-1]),
            network.head(params["model"]).astype(x_BTC.dtype),
            batch["targets"].reshape(-1),
            chunk=vocab_chunk,
            cap=network.logit_cap,
        )
        return Scores(*(x.reshape(batch["targets"].shape) for x in flat))

    def scores(nll: jax.Array, batch: Batch) -> Metrics:
        mask = batch["mask"]
        size = jnp.asarray(bytes_of_token)[batch["targets"]]
        total = (nll * mask).sum()
        return {
            "loss": (total, mask.sum()),
            "bits_per_byte": (total / math.log(2), (size * mask).sum()),
        }

    def loss(
        params: Any, variables: Any, batch: Batch, key: jax.Array, hyper: Hyper
    ) -> tuple[Metrics, Any]:
        found = predict(params, batch, deterministic=False, rngs={"dropout": key})
        metrics, mask = scores(found.loss, batch), batch["mask"]
        trained = label_smoothed(found, label_smoothing) if label_smoothing else found.loss
        trained = trained + hyper["z_loss"] * z_loss(found.log_z)
        metrics |= {"nll": metrics["loss"], "loss": ((trained * mask).sum(), mask.sum())}
        return metrics, variables

    def init_variables(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        tokens = jnp.zeros((1, facts["context"]), jnp.int32)
        return {"model": network.init(key, tokens)["params"]}, {}

    def drawn_loss(
        params: Any, variables: Any, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        logits = forward(params, batch)[0]
        drawn = jax.random.categorical(key, jax.lax.stop_gradient(logits.astype(jnp.float32)))
        return (cross_entropy(logits, drawn).loss * batch["mask"]).sum(), batch["mask"].sum()

    if rates := network.rates():
        optimizer = optimizer.scaled(rates)
    init, step = supervised(
        init_variables, loss, optimizer, accumulate=accumulate,
        drawn_loss=None if vocab_chunk else drawn_loss,
    )  # fmt: skip

    def evaluate(weights: Weights, batch: Batch, key: jax.Array) -> Metrics:
        found = predict(weights.params, batch)
        right = (found.best == batch["targets"]) * batch["mask"]
        return {**scores(found.loss, batch), "accuracy": (right.sum(), batch["mask"].sum())}

    def activations(weights: Weights, batch: Batch) -> Metrics:
        (logits, _), kept = forward(
            weights.params, batch, capture_intermediates=True, mutable=["intermediates"]
        )
        mask_N = batch["mask"].reshape(-1)
        last = size(logits.reshape(len(mask_N), -1), mask_N)
        return {**sizes(kept["intermediates"], mask_N), "logits": last}

    return Task(init, step, evaluate, Sampler(network), _finish, {"activations": activations})


def _finish(means: dict[str, float]) -> dict[str, float]:
    """Adds perplexity, exp of the mean cross-entropy; infinite beyond what a float holds."""
    nll = means.get("nll", means.get("loss"))
    if nll is None:  # not one target counted
        return means
    return {**means, "perplexity": math.inf if nll >= 700 else math.exp(nll)}

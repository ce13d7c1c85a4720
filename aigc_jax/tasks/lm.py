"""Autoregressive language modelling: the next token given those before it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core.config import maker
from aigc_jax.core.optim import Hyper, Optimizer
from aigc_jax.core.task import Batch, Metrics, Task, Weights, supervised
from aigc_jax.errors import UserError
from aigc_jax.generate.decode import decode, windows
from aigc_jax.losses.token import cross_entropy, z_loss

HYPER = {"z_loss": 0.0}  # weight of log(Z)^2 in the loss


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
    label_smoothing: float = 0.0,
    accumulate: int = 1,
) -> Task:
    """Makes the task.

    Batches hold `inputs`, `targets` int32 [B, T] and `mask` float32 [B, T] (1 where the target
    counts); with packed documents also `segments` and `positions` int32 [B, T].

    Metrics: "loss" is what is minimized, in nats per token; "nll" (training) the bare
    cross-entropy, without label smoothing and z-loss, which is the "loss" of an evaluation;
    "bits_per_byte" the same in bits per UTF-8 byte of the text, by which two tokenizers can be
    compared; "accuracy" (evaluation) the share of targets that were the likeliest token.

    Args:
      spec: the data's spec; reads the facts vocab_size, context, token_bytes.
      optimizer: from `core.optim.make`.
      model: `name` of a module in `models/` and its settings. The module takes `vocab_size` and
        `context`; `check()` raises UserError for sizes that do not fit; `empty_cache(batch)` makes
        what sampling remembers; and it is called and answers as `models.transformer.Transformer`.
      label_smoothing: see `losses.token.cross_entropy`.
      accumulate: micro-batches a step.
    """
    if not 0.0 <= label_smoothing < 1.0:
        raise UserError(f"task.label_smoothing={label_smoothing}: expected a number in [0, 1).")
    facts = spec.facts
    network = maker("models", model["name"])(
        vocab_size=facts["vocab_size"],
        context=facts["context"],
        **{key: value for key, value in model.items() if key != "name"},
    )
    network.check()
    bytes_of_token = np.asarray(facts["token_bytes"], np.float32)

    def forward(params: Any, batch: Batch, **knobs: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        logits, _ = network.apply(
            {"params": params["model"]},
            batch["inputs"],
            positions_BT=batch.get("positions"),
            segments_BT=batch.get("segments"),
            **knobs,
        )
        nll, log_z = cross_entropy(logits, batch["targets"])
        return logits, nll, log_z

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
        logits, nll, log_z = forward(params, batch, deterministic=False, rngs={"dropout": key})
        metrics = scores(nll, batch)
        trained = nll
        if label_smoothing:
            trained, _ = cross_entropy(logits, batch["targets"], label_smoothing=label_smoothing)
        trained = trained + hyper["z_loss"] * z_loss(log_z)
        mask = batch["mask"]
        return {**metrics, "nll": metrics["loss"], "loss": ((trained * mask).sum(), mask.sum())}, (
            variables
        )

    def init_variables(key: jax.Array) -> tuple[dict[str, Any], dict[str, Any]]:
        tokens = jnp.zeros((1, facts["context"]), jnp.int32)
        return {"model": network.init(key, tokens)["params"]}, {}

    init, step = supervised(init_variables, loss, optimizer, accumulate=accumulate)

    def evaluate(weights: Weights, batch: Batch, key: jax.Array) -> Metrics:
        logits, nll, _ = forward(weights.params, batch)
        right = (logits.argmax(-1) == batch["targets"]) * batch["mask"]
        return {**scores(nll, batch), "accuracy": (right.sum(), batch["mask"].sum())}

    return Task(init, step, evaluate, _sampler(network), _finish)


def _finish(means: dict[str, float]) -> dict[str, float]:
    """Adds perplexity, exp of the mean cross-entropy; infinite beyond what a float holds."""
    nll = means.get("nll", means.get("loss"))
    if nll is None:  # not one target counted
        return means
    return {**means, "perplexity": math.inf if nll >= 700 else math.exp(nll)}


def _sampler(network: Any) -> Callable[..., np.ndarray]:
    context = network.context

    def extend(
        weights: Weights, prompt: jax.Array, key: jax.Array, temperature: jax.Array, *,
        count: int, top_k: int,
    ) -> jax.Array:  # fmt: skip
        def forward(tokens: jax.Array, cache: Any) -> Any:
            return network.apply({"params": weights.params["model"]}, tokens, cache=cache)

        return decode(
            forward, network.empty_cache(prompt.shape[0]), prompt, key,
            count=count, temperature=temperature, top_k=top_k,
        )  # fmt: skip

    compiled = jax.jit(extend, static_argnames=("count", "top_k"))

    def sample(
        weights: Weights,
        key: jax.Array,
        *,
        prompt: np.ndarray,
        count: int = 256,
        temperature: float = 1.0,
        top_k: int = 0,
    ) -> np.ndarray:
        """Continues prompts.

        Args:
          weights: from `core.task.weights`. key: the whole output follows from it.
          prompt: int [B, P], 1 <= P <= context. count: tokens to write.
          temperature: 0 or above; 0 is greedy. top_k: 0 for all tokens.

        Returns:
          int32 [B, P + count], the prompt included.

        Raises:
          UserError: a prompt that does not fit, or a setting out of its range.
        """
        if temperature < 0:
            raise UserError(f"temperature={temperature}: expected 0 (greedy) or above.")
        if top_k < 0 or count < 0:
            raise UserError(f"top_k={top_k}, count={count}: expected 0 or above.")
        tokens = np.asarray(prompt, np.int32)
        plan = windows(tokens.shape[1], count, context)
        for i, (read, write) in enumerate(plan):
            new = compiled(
                weights, tokens[:, -read:], jax.random.fold_in(key, i), jnp.float32(temperature),
                count=write, top_k=top_k,
            )  # fmt: skip
            tokens = np.concatenate([tokens, np.asarray(new)], axis=1)
        return tokens[:, : prompt.shape[1] + count]

    return sample

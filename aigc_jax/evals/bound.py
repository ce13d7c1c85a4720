"""The K-sample bound on the likelihood of a split, in memory that does not grow with K.

Letters in names: K samples, k of one call, B rows.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError, nearest


class Running(NamedTuple):
    """log of the sum of weights so far is top + log(total): float32 [B] each."""

    top: jax.Array
    total: jax.Array


def make(
    context: Any,
    *,
    split: str = "test",
    samples: int = 5000,
    chunk: int = 50,
    binarize: Literal["dynamic", "fixed", "none"] = "dynamic",
    rows: int = 0,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator of -log p(x), bounded from above by `samples` importance samples a row
    (Burda et al. 2016, arXiv:1509.00519, section 3), in nats per example.

    The metric is called by all that it depends on: "test_dynamic/iwae_5000", or, with fewer rows,
    "test_first_1000_rows_dynamic/iwae_5000". "gray" stands there for binarize="none". A row's bits
    and samples follow from its place in the split, so the answer depends neither on `chunk` nor on
    the size of a batch.

    Args:
      context: what the wiring knows; reads `data`, `functions`, `place`. Any task will do that has
        the function "log_weights", see `tasks.vae.make`.
      split: its name in the data.
      samples: K. chunk: k, samples on the devices at once, for every row of a batch.
      binarize: how gray values become bits.
      rows: only the first so many rows; 0 for all.

    Raises:
      UserError: no such split, no samples, a task without such a function, or whose likelihood is
        not of such bits.
    """
    for name, value, least in (("samples", samples, 1), ("chunk", chunk, 1), ("rows", rows, 0)):
        if value < least:
            raise UserError(f"evals: {name}={value}: expected {least} or more.")
    if split not in (known := list(context.data.splits)):
        raise UserError(
            f"evals: the data has no split '{split}'; it has {', '.join(known)}."
            f"{nearest(split, known)}"
        )
    if "log_weights" not in context.functions:
        has = ", ".join(context.functions) or "none"
        raise UserError(
            "evals: 'bound' needs the task's function 'log_weights', which this task lacks; its"
            f" functions: {has}."
        )
    if check := context.functions.get("check_bits"):
        check(binarize)
    part = context.data.splits[split]
    chunk = min(chunk, samples)
    log_weights = jax.jit(context.functions["log_weights"], static_argnames=("k", "binarize"))
    title = "train_exact" if split == "train" else split
    title += f"_first_{rows}_rows" if rows else ""
    title += "_gray" if binarize == "none" else f"_{binarize}"
    shard, key = (jax.process_index(), jax.process_count()), jax.random.key(0)

    def of_batch(weights: Weights, batch: Any) -> Any:
        running = Running(
            jnp.full_like(batch["mask"], jnp.finfo(jnp.float32).min),
            jnp.zeros_like(batch["mask"]),
        )
        for first in range(0, samples, chunk):
            # The last call may make more than are asked for: one program for all of them.
            log_w = log_weights(weights, batch, key, np.int32(first), k=chunk, binarize=binarize)
            running = _added(running, log_w, np.int32(samples - first))
        return _closed(running, batch["mask"], batch["index"], np.int32(rows))

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        total, weight = 0.0, 0.0
        for i in range(part.batches):
            batch = context.place(part.batch(i, shard))
            pair = jax.device_get(of_batch(weights, batch))
            if rows and not pair[1]:
                break  # splits go through their rows in order
            total, weight = total + float(pair[0]), weight + float(pair[1])
        return {f"{title}/iwae_{samples}": total / weight + math.log(samples)}

    return evaluate


@jax.jit
def _added(running: Running, log_w_KB: jax.Array, wanted: jax.Array) -> Running:
    """Adds the first `wanted` of these samples."""
    places_K1 = jnp.arange(log_w_KB.shape[0], dtype=jnp.int32)[:, None]
    log_w_KB = jnp.where(places_K1 < wanted, log_w_KB, -jnp.inf)
    top = jnp.maximum(running.top, log_w_KB.max(0))
    total = running.total * jnp.exp(running.top - top) + jnp.exp(log_w_KB - top[None]).sum(0)
    return Running(top, total)


@jax.jit
def _closed(
    running: Running, mask: jax.Array, index: jax.Array, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the sum of -log(sum of weights) over the rows that count, and their number."""
    mask = mask * ((rows == 0) | (index < rows))
    nats = -(running.top + jnp.log(running.total))
    return jnp.where(mask > 0, nats * mask, 0.0).sum(), mask.sum()

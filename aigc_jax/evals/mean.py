"""The exact mean of every metric over a whole split."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import Metrics, Weights
from aigc_jax.errors import UserError, nearest


def make(
    context: Any,
    *,
    split: str = "validation",
    limit: int = 0,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that goes through a split once; nothing is dropped, padding counts zero.

    Sums are taken in float64 over batches, so the answer depends on the batch size by rounding
    alone.

    Args:
      context: what the wiring knows; reads `data`, `eval_batches` and `finish`.
      split: its name in the data.
      limit: only the first so many batches; 0 for all. The metrics are then called
        "validation_first_8/loss".

    Raises:
      UserError: no such split, or a limit below 0.
    """
    if limit < 0:
        raise UserError(f"evals: limit={limit}: expected 0 (all batches) or above.")
    if split not in context.data.splits:
        known = list(context.data.splits)
        raise UserError(
            f"evals: the data has no split '{split}'; it has {', '.join(known)}."
            f"{nearest(split, known)}"
        )
    part = context.data.splits[split]
    batches = min(part.batches, limit) if limit else part.batches
    # "train/" is what the loop writes while it goes, a mean over changing weights.
    title = "train_exact" if split == "train" else split
    title += f"_first_{limit}" if limit else ""

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        totals: dict[str, list[float]] = {}
        # Some batches are under way while those before them are added up.
        waiting: tuple[int, Metrics] | None = None
        i = 0
        while i < batches or waiting:
            sent, waiting = waiting, None
            if i < batches:
                waiting = context.eval_batches(weights, part.batch, i, batches)
                i += waiting[0]
            if sent is not None:
                n, metrics = sent
                for name, (total, weight) in jax.device_get(metrics).items():
                    pair = totals.setdefault(name, [0.0, 0.0])
                    pair[0] += float(total[:n].sum(dtype=np.float64))
                    pair[1] += float(weight[:n].sum(dtype=np.float64))
        means = {name: total / weight for name, (total, weight) in totals.items() if weight}
        return {f"{title}/{name}": value for name, value in context.finish(means).items()}

    return evaluate

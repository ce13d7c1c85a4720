"""How large the activations of each layer are: the coordinate check of a parametrization."""

import math
from collections.abc import Callable
from typing import Any

import jax

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError, nearest


def make(
    context: Any, *, split: str = "validation", batch: int = 0
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator of "coordinates/LAYER": the root mean square of what each layer gives.

    Over widths it stays what it is under muP, after any number of steps, and grows under the
    standard parametrization (Yang et al. 2022, arXiv:2203.03466, appendix D.1).

    Args:
      context: what the wiring knows; reads `data`, `functions`, `place`. The task has the function
        "activations" (weights, batch) -> {layer: (sum of squares, how many numbers)}.
      split: its name in the data. batch: which of its batches is looked at.

    Raises:
      UserError: no such split or batch, or a task without such a function.
    """
    if split not in (known := list(context.data.splits)):
        raise UserError(
            f"evals: the data has no split '{split}'; it has {', '.join(known)}."
            f"{nearest(split, known)}"
        )
    part = context.data.splits[split]
    if not 0 <= batch < part.batches:
        raise UserError(f"evals: batch={batch}: '{split}' has 0 to {part.batches - 1}.")
    if "activations" not in context.functions:
        raise UserError("evals: 'coordinates' needs the task's 'activations'; it has none.")
    compiled = jax.jit(context.functions["activations"])
    shard = (jax.process_index(), jax.process_count())

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        sums = jax.device_get(compiled(weights, context.place(part.batch(batch, shard))))
        return {
            f"coordinates/{layer}": math.sqrt(total / count)
            for layer, (total, count) in sums.items()
            if count
        }

    return evaluate

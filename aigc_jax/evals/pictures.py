"""A grid of a model's samples, drawn beside the curves."""

from collections.abc import Callable
from typing import Any

import jax

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError
from aigc_jax.metrics.picture_grid import grid


def make(
    context: Any,
    *,
    number: int = 64,
    columns: int = 8,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that writes RUN/samples/STEP-samples.png.

    The same key at every step, so that what changes is the model. A model with labels draws them
    in turn, so that a grid as wide as there are classes has one in each column.

    Args:
      context: what the wiring knows; reads `data`, `sample`, `write_picture`.
      number: samples. columns: of the grid.

    Raises:
      UserError: a task without samples, data that is no images, or no samples asked for.
    """
    shape = context.data.spec.facts.get("shape", ())
    if context.sample is None or len(shape) != 3:
        raise UserError("evals: 'pictures' draws images; this task or its data has none.")
    if number < 1 or columns < 1:
        raise UserError(f"evals: number={number}, columns={columns}: expected 1 or more of both.")

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        images = context.sample(weights, jax.random.key(0), number=number)
        context.write_picture(step, "samples", grid(images, columns))
        return {}

    return evaluate

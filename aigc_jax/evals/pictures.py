"""A grid of a model's samples, drawn beside the curves."""

from collections.abc import Callable
from typing import Any

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError
from aigc_jax.evals.drawing import Drawing
from aigc_jax.metrics.picture_grid import grid


def make(
    context: Any,
    *,
    number: int = 64,
    columns: int = 8,
    truncation: float = 0.0,
    standing: int = 0,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that writes RUN/samples/STEP-samples.png.

    The same key at every step, so that what changes is the model. A model with labels draws them
    in turn, so that a grid as wide as there are classes has one in each column.

    Args:
      context: what the wiring knows; reads `data`, `sample`, `knobs`, `functions`, `write_picture`.
      number: samples. columns: of the grid.
      truncation, standing: how samples are drawn; see `evals.drawing`.

    Raises:
      UserError: a task without samples, data that is no images, or no samples asked for.
    """
    shape = context.data.spec.facts.get("shape", ())
    if context.sample is None or len(shape) != 3:
        raise UserError("evals: 'pictures' draws images; this task or its data has none.")
    if number < 1 or columns < 1:
        raise UserError(f"evals: number={number}, columns={columns}: expected 1 or more of both.")

    drawing = Drawing(context, truncation, standing)

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        context.write_picture(step, "samples", grid(drawing.once(weights, number), columns))
        return {}

    return evaluate

"""What binarized pictures cost without a model, and given the picture: a VAE's two bounds."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError

_LEAST = 1e-6  # a pixel that is always black in training may be white once


def make(
    context: Any,
    *,
    split: str = "validation",
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that adds two levels to the run's floors of "SPLIT/loss", in nats.

    Bits are 1 with probability (x + 1) / 2, each drawn for itself; both levels are exact means over
    them. "independent pixels": each pixel is 1 with its mean over the training part. "the gray
    picture": the entropy of the bits given the picture, which no model that sees bits alone can get
    below. They depend on the data alone and are made once per data set. A task whose likelihood is
    not of bits gets none, and a warning: its nats are another measure.

    Args:
      context: what the wiring knows; reads `data`, `functions`, `add_floors` and `warn`.
      split: of the data.

    Raises:
      UserError: no such split, or data that is no images.
    """
    data = context.data
    if data.spec.facts.get("unit") != "images" or split not in data.splits:
        raise UserError(
            f"evals: 'pixels' measures images of a split; this data has no images called '{split}'."
        )
    made = False
    try:
        context.functions["check_bits"]("dynamic")
    except (KeyError, UserError):
        context.warn("evals: 'pixels' says what bits cost, and this task models none: no floors.")
        made = True

    def pictures(name: str) -> Iterator[np.ndarray]:
        part = data.splits[name]
        for i in range(part.batches):
            batch = part.batch(i, (0, 1))
            x = batch["x"][batch["mask"] > 0].astype(np.float64)
            yield (x.reshape(len(x), -1) + 1.0) / 2.0

    def levels() -> dict[str, float]:
        total, count = 0.0, 0
        for p_ND in pictures("train"):
            total, count = total + p_ND.sum(0), count + len(p_ND)
        mean_D = np.clip(total / count, _LEAST, 1 - _LEAST)
        sums = np.zeros(3)
        for p_ND in pictures(split):
            sums += (_cost(p_ND, mean_D[None]), _cost(p_ND, p_ND), len(p_ND))
        return {"independent pixels": sums[0] / sums[2], "the gray picture": sums[1] / sums[2]}

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        nonlocal made
        if not made:
            context.add_floors(f"{split}/loss", f"pixels-{split}", levels)
            made = True
        return {}

    return evaluate


def _cost(p_ND: np.ndarray, q_ND: np.ndarray) -> float:
    """The sum over rows and pixels of the cross-entropy of bits with p under bits with q."""
    tiny = np.finfo(np.float64).tiny
    one, zero = np.log(np.maximum(q_ND, tiny)), np.log(np.maximum(1.0 - q_ND, tiny))
    return -float((p_ND * one + (1.0 - p_ND) * zero).sum())

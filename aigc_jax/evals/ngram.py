"""The n-gram ladder: what counting alone scores on the same data, for every curve to be held to."""

from collections.abc import Callable
from typing import Any

import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError
from aigc_jax.metrics.ngram import witten_bell


def make(
    context: Any,
    *,
    orders: int = 6,
    split: str = "validation",
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that fits the ladder once and adds it to the run's floors.

    Interpolated Witten-Bell models of orders 1 to `orders` (`metrics.ngram`), fitted to the
    training part and scored on the whole of `split`, in nats per token. It depends on the data
    alone, so it is kept under the data's fingerprint and made once per data set.

    Args:
      context: what the wiring knows; reads `data` and `add_floors`.
      orders: the highest, at least 1.
      split: its name in the data.

    Raises:
      UserError: data without a sequence of tokens, no such split, or an order below 1.
    """
    ids = context.data.ids
    if split not in ids or "train" not in ids:
        raise UserError(
            f"evals: 'ngram' counts tokens; this data has no sequence of them called '{split}'."
        )
    if orders < 1:
        raise UserError(f"evals: orders={orders}: expected 1 or more.")
    made = False

    def ladder() -> dict[str, float]:
        scored = witten_bell(
            ids["train"],
            ids[split],
            symbols=context.data.spec.facts["vocab_size"],
            orders=orders,
        )
        names = ["unigram", *(f"{k}-gram" for k in range(2, orders + 1))]
        return {name: float(-np.log(p).mean()) for name, p in zip(names, scored, strict=True)}

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        nonlocal made
        if not made:
            context.add_floors(f"{split}/loss", f"ngram-{orders}-{split}", ladder)
            made = True
        return {}

    return evaluate

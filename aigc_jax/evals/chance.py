"""What guessing scores, for a curve of accuracies to be held to."""

from collections.abc import Callable
from typing import Any

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError


def make(context: Any, *, split: str = "validation") -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that adds the floor "chance" to the run's "SPLIT/accuracy", and no score.

    Args:
      context: what the wiring knows; reads the fact `chance` of the data, and `add_floors`.
      split: its name in the data.

    Raises:
      UserError: the data does not say what guessing scores, or has no such split.
    """
    facts = context.data.spec.facts
    if "chance" not in facts or split not in context.data.splits:
        raise UserError(
            f"evals: 'chance' wants data that say what guessing scores on '{split}'; these do not."
        )
    made = False

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        nonlocal made
        if not made:
            context.add_floors(
                f"{split}/accuracy", f"chance-{split}", lambda: {"chance": facts["chance"]}
            )
            made = True
        return {}

    return evaluate

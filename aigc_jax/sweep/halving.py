"""Successive halving: the losers of each rung stop, the rest share what they leave."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from aigc_jax.errors import UserError


class Halving(NamedTuple):
    """When trials are compared, and how many go on (Jamieson & Talwalkar 2016, arXiv:1502.07943,
    Algorithm 1, over steps).

    Attributes:
      metric: of the evaluators; direction: "minimize" or "maximize".
      factor: at each rung the best 1 / `factor` of those that are left go on, at least one.
      rungs: how often. They stand at steps * factor^-rungs, ..., steps / factor, moved up to the
        next evaluation.
    """

    metric: str
    direction: str = "minimize"
    factor: int = 3
    rungs: int = 2

    def steps(self, last: int, every: int) -> list[int]:
        """The steps of the rungs in a run of `last` steps that is evaluated every so many.

        Raises:
          UserError: no evaluation before the last step, so that there is nothing to compare.
        """
        if not 0 < every < last:
            raise UserError(
                f"halving compares trials before their last step, {last}, and run.eval_every is"
                f" {every}; set it to {max(1, last // self.factor**self.rungs)}."
            )
        wanted = [last / self.factor**i for i in range(self.rungs, 0, -1)]
        marks = {math.ceil(step / every) * every for step in wanted}
        return sorted(step for step in marks if step < last)

    def left(self, number: int, rung: int) -> int:
        """How many of `number` trials go on after a rung, counted from 0."""
        return max(1, number // self.factor ** (rung + 1))

    def best(self, scores: Sequence[float], count: int) -> list[int]:
        """Which trials are the best so many, rising; no number is the worst score."""
        sign = -1.0 if self.direction == "maximize" else 1.0

        def rank(i: int) -> tuple[bool, float, int]:
            lost = math.isnan(scores[i])
            return lost, 0.0 if lost else sign * scores[i], i

        return sorted(sorted(range(len(scores)), key=rank)[:count])

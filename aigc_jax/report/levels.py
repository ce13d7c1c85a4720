"""A score between its floors and ceilings."""

import math
from collections.abc import Mapping

from aigc_jax.core.units import figure
from aigc_jax.report.groups import NONE

AROUND = ("next worse", "next better")
"""What the two sides of a score are called in a table."""


def around(value: float | None, levels: Mapping[str, float], *, higher: bool) -> tuple[str, str]:
    """Returns the nearest reference that is worse than a score, and the nearest at least as good.

    Args:
      value: the score. levels: what trivial models and real data score, by name.
      higher: whether a larger score is the better one.

    Returns:
      Two cells, such as ("noise 685.1000", "real (train) 1.4000"); NONE where there is no such one.
    """
    if value is None or not math.isfinite(value):
        return NONE, NONE
    sign = 1 if higher else -1
    known = {name: level for name, level in levels.items() if math.isfinite(level)}
    worse = [name for name in known if sign * known[name] < sign * value]
    better = [name for name in known if name not in worse]

    def near(names: list[str]) -> str:
        closest = min(names, key=lambda name: abs(known[name] - value), default=None)
        return NONE if closest is None else f"{closest} {figure(known[closest])}"

    return near(worse), near(better)

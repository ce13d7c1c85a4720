"""How long after the training part the held-out part is understood: grokking's delay."""

import math
from collections.abc import Sequence
from typing import Any

from aigc_jax.sweep.analyses import Curve, Found, Quantity, of_seeds


def delay(
    trials: Sequence[Any],
    study: Any,
    *,
    train: str,
    validation: str,
    threshold: float = 0.99,
) -> Found:
    """The steps between two accuracies' first passing of a threshold, by row.

    A run whose validation never passes has its last step in place of that step, so that its delay
    is a lower bound; "reached: ROW" tells how many do. Source of what is looked for: Power et al.
    2022, arXiv:2201.02177, figure 1.

    Args:
      trials: `verdicts.Trial`s. train, validation: names of the two metrics, both in the run's
        rows. threshold: of both.

    Returns:
      "delay: ROW", "fitted: ROW" (when the training part passes) and "understood: ROW" (when the
      held-out part does) in steps; "reached: ROW", the share of seeds whose validation passes.
    """
    by_row: dict[str, dict[int, tuple[float, float, bool]]] = {}
    for trial in trials:
        first, second = (_passed(trial.run, name, threshold) for name in (train, validation))
        end = float(trial.run.step)
        fitted, understood = (end if math.isinf(x) else x for x in (first, second))
        by_row.setdefault(trial.row, {})[trial.seed] = (fitted, understood, second < math.inf)
    found: dict[str, Quantity] = {}
    for row, seeds in by_row.items():
        # Of a seed that never understands, the end of its run bounds both from below.
        steps = "steps" if all(v[2] for v in seeds.values()) else "steps or more"
        waits = {seed: max(b - a, 0.0) for seed, (a, b, _) in seeds.items()}
        found[f"delay: {row}"] = of_seeds(waits, steps)
        found[f"fitted: {row}"] = of_seeds({s: v[0] for s, v in seeds.items()}, "steps")
        found[f"understood: {row}"] = of_seeds({s: v[1] for s, v in seeds.items()}, steps)
        found[f"reached: {row}"] = of_seeds({s: float(v[2]) for s, v in seeds.items()}, "share")
    curves = [
        Curve(f"{trial.row}{'' if part == validation else ' (train)'}", *trial.run.series(part))
        for trial in trials
        for part in (train, validation)
        if trial.seed == 0 and trial.run.series(part).steps
    ]
    return Found(found, curves, "step", "accuracy (seed 0)", log_x=True)


def _passed(run: Any, metric: str, threshold: float) -> float:
    """The first step at which a metric is at the threshold or above; inf for never."""
    steps, values = run.series(metric)
    return next((float(s) for s, v in zip(steps, values, strict=True) if v >= threshold), math.inf)

"""Two ways to read a loss over learning rates: how much it minds them, and where it is lowest."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_jax.sweep.analyses import Curve, Found, Quantity, of_seeds

# Row -> seed -> learning rate -> score.
_Scores = dict[str, dict[int, dict[float, float]]]


def lr_sensitivity(
    trials: Sequence[Any], study: Any, *, initial: float, parameter: str = "hyper.lr"
) -> Found:
    """How much worse the loss gets, on average, when the learning rate is off its best.

    Mean over the learning rates of min(loss, initial) - the lowest loss, for each row and seed:
    with rates evenly spaced on a log scale, the expectation over a log-uniform one. Source:
    Wortsman et al. 2023, arXiv:2309.14322, section 2.2.

    Args:
      trials: `verdicts.Trial`s. initial: the loss before training; also that of a run whose numbers
        went bad. parameter: what the rows sweep.

    Returns:
      The quantities "sensitivity: ROW" and "lowest: ROW" in the metric's unit.
    """
    scores = _scores(trials, study.metric.name, parameter, bad=initial)
    found: dict[str, Quantity] = {}
    for row, seeds in scores.items():
        lowest = {seed: min(by_rate.values()) for seed, by_rate in seeds.items()}
        off = {
            seed: sum(min(v, initial) for v in by_rate.values()) / len(by_rate) - lowest[seed]
            for seed, by_rate in seeds.items()
        }
        found[f"sensitivity: {row}"] = of_seeds(off, study.metric.unit)
        found[f"lowest: {row}"] = of_seeds(lowest, study.metric.unit)
    return Found(found, _curves(scores), "learning rate", study.metric.name, log_x=True)


def optimum(
    trials: Sequence[Any],
    study: Any,
    *,
    group: str,
    size: str,
    parameter: str = "hyper.lr",
    bad: float = math.inf,
    grows: Sequence[str] = (),
) -> Found:
    """Where the best learning rate lies in each row, and how far it moves with the model's size.

    The minimum of the parabola through the lowest point and its neighbours on a log2 scale; at an
    end of the grid the end itself, which is then a bound.

    Args:
      trials: `verdicts.Trial`s. group: the tag by which rows belong together. size: the tag that
        orders a group. parameter: what the rows sweep. bad: the score of a run whose numbers went
        bad. grows: metrics that are followed over the sizes in the rows that do not sweep it.

    Returns:
      "log2 optimum: ROW"; "drift: GROUP", the log2 of the best rate at the largest size over that
      at the smallest; and "moved: GROUP", its absolute value; by seed, in octaves. "growth of
      METRIC: GROUP", the slope of its log over the log of the size.
    """
    sign = 1.0 if study.metric.direction == "minimize" else -1.0
    scores = _scores(trials, study.metric.name, parameter, bad=sign * bad)
    best = {
        row: {seed: _lowest({x: sign * y for x, y in v.items()}) for seed, v in seeds.items()}
        for row, seeds in scores.items()
    }
    found = {f"log2 optimum: {row}": of_seeds(values, "log2") for row, values in best.items()}
    tags = {row.name: row.tags for row in study.rows if row.name in best}
    for name in dict.fromkeys(tag[group] for tag in tags.values()):
        own = [row for row in best if tags[row][group] == name]
        rows = sorted(own, key=lambda row: tags[row][size])
        small, large = best[rows[0]], best[rows[-1]]
        shift = {seed: large[seed] - small[seed] for seed in large if seed in small}
        if len(rows) > 1 and shift:
            found[f"drift: {name}"] = of_seeds(shift, "octaves")
            moved = {seed: abs(value) for seed, value in shift.items()}
            found[f"moved: {name}"] = of_seeds(moved, "octaves")
    for metric in grows:
        fixed = [trial for trial in trials if parameter not in trial.point]
        found |= _growth(fixed, study, metric, group, size)
    return Found(found, _curves(scores), "learning rate", study.metric.name, log_x=True)


def _growth(
    trials: Sequence[Any], study: Any, metric: str, group: str, size: str
) -> dict[str, Quantity]:
    """The slope of log metric over log size in each group, by seed (least squares)."""
    points: dict[str, dict[int, list[tuple[float, float]]]] = {}
    tags = {row.name: row.tags for row in study.rows}
    for trial in trials:
        value = trial.scores.get(metric, math.nan)
        if value > 0 and math.isfinite(value):
            own = points.setdefault(tags[trial.row][group], {}).setdefault(trial.seed, [])
            own.append((math.log(tags[trial.row][size]), math.log(value)))
    found = {}
    for name, seeds in points.items():
        slopes = {seed: _slope(pairs) for seed, pairs in seeds.items() if len(pairs) > 1}
        if slopes:
            found[f"growth of {metric}: {name}"] = of_seeds(slopes)
    return found


def _slope(pairs: Sequence[tuple[float, float]]) -> float:
    mx, my = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
    return sum((x - mx) * (y - my) for x, y in pairs) / sum((x - mx) ** 2 for x, _ in pairs)


def _scores(trials: Sequence[Any], metric: str, parameter: str, bad: float) -> _Scores:
    found: _Scores = {}
    for trial in trials:
        if parameter in trial.point:
            value = trial.scores.get(metric, math.nan)
            by_seed = found.setdefault(trial.row, {}).setdefault(trial.seed, {})
            by_seed[float(trial.point[parameter])] = value if math.isfinite(value) else bad
    return found


def _lowest(scores: Mapping[float, float]) -> float:
    """log2 of the rate with the lowest score, by a parabola where it has finite neighbours."""
    rates = sorted(scores)
    i = min(range(len(rates)), key=lambda j: scores[rates[j]])
    middle = math.log2(rates[i])
    if 0 < i < len(rates) - 1:
        xs = [math.log2(rates[j]) - middle for j in (i - 1, i + 1)]
        ys = [scores[rates[j]] - scores[rates[i]] for j in (i - 1, i + 1)]
        # y = a x + b x^2 through both neighbours and the origin.
        b = (ys[1] / xs[1] - ys[0] / xs[0]) / (xs[1] - xs[0])
        a = ys[0] / xs[0] - b * xs[0]
        if math.isfinite(b) and b > 0:
            return middle - a / (2 * b)
    return middle


def _curves(scores: _Scores) -> list[Curve]:
    """The mean over seeds by rate, a curve a row, with the lowest and the highest seed."""
    curves = []
    for row, seeds in scores.items():
        rates = sorted({rate for by_rate in seeds.values() for rate in by_rate})
        columns = [[by[rate] for by in seeds.values() if rate in by] for rate in rates]
        means = [sum(column) / len(column) for column in columns]
        ends = [[pick(column) for column in columns] for pick in (min, max)]
        curves.append(Curve(row, rates, means, *ends))
    return curves

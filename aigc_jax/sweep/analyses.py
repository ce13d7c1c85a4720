"""What a study's trials say together: quantities that no single trial has.

An analysis is a function (trials, study, **settings) -> `Found`. A study names one, `"analysis":
{"name": "lr_sensitivity", ...}`, and its claims speak of the quantities by their names. A row that
lacks a trial has no quantity.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aigc_jax.errors import UserError, nearest
from aigc_jax.report import statistics


class Quantity(NamedTuple):
    """A number with its 95 % interval.

    `by_seed` has it for each seed, where it is known for each; else `draws` are of the bootstrap.
    """

    value: float
    low: float
    high: float
    unit: str = ""
    by_seed: Mapping[int, float] = {}
    draws: Any = None

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def minus(self, other: "Quantity | float") -> "Quantity":
        """Returns the difference: seed by seed where both have seeds, else draw by draw."""
        if not isinstance(other, Quantity):
            return self._replace(
                value=self.value - other, low=self.low - other, high=self.high - other,
                by_seed={}, draws=None,
            )  # fmt: skip
        seeds = [seed for seed in self.by_seed if seed in other.by_seed]
        if seeds:
            mine, others = ([q.by_seed[s] for s in seeds] for q in (self, other))
            gap = statistics.paired(others, mine)
            return Quantity(gap.difference, gap.low, gap.high, self.unit)
        if self.draws is None or other.draws is None or len(self.draws) != len(other.draws):
            return Quantity(self.value - other.value, math.nan, math.nan, self.unit)
        return of_draws(self.value - other.value, self.draws - other.draws, self.unit)


class Curve(NamedTuple):
    """A line of the study's picture: [n] xs, ys and the ends of intervals; nan breaks it."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


class Found(NamedTuple):
    """What an analysis found, and what to draw of it (no curves: the rows are drawn)."""

    quantities: dict[str, Quantity]
    curves: Sequence[Curve] = ()
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False


_OF_RUNS = ("delay", "scaling_law")  # they read run folders, and not scores alone


def check(section: Mapping[str, Any], label: str) -> None:
    """Raises UserError unless a study's `analysis` names one of these and its settings."""
    known = _known()
    name = section.get("name")
    if name not in known:
        hint = nearest(str(name), known)
        raise UserError(f"{label}: there is no analysis '{name}'.{hint} There are:"
                        f" {', '.join(known)}.")  # fmt: skip
    settings = dict(list(inspect.signature(known[name]).parameters.items())[2:])
    for key in section:
        if key not in ("name", *settings):
            raise UserError(
                f"{label}: analysis '{name}' has no setting '{key}'.{nearest(key, settings)}"
            )
    for key, parameter in settings.items():
        if parameter.default is parameter.empty and key not in section:
            raise UserError(f"{label}: analysis '{name}' needs the setting '{key}'.")


def check_claims(study: Any, label: str) -> None:
    """Raises UserError for a claim of a quantity, or a tag, that the analysis can't find.

    Args:
      study: a `study.Study`. label: its file, for messages.
    """
    if study.analysis and study.analysis["name"] == "rows":
        _check_tags(study, label)
    for i, claim in enumerate(study.claims):
        for name in (claim.quantity, claim.than):
            if isinstance(name, str):
                _check_quantity(name, study, f"{label}: claim {i}")


def _check_tags(study: Any, label: str) -> None:
    over, by = (study.analysis.get(key, "") for key in ("over", "by"))
    if by and not over:
        raise UserError(f"{label}: analysis by='{by}' draws lines over a tag; say which by 'over'.")
    for row in study.rows:
        for key, tag in (("over", over), ("by", by)):
            if tag and tag not in row.tags:
                raise UserError(
                    f"{label}: analysis {key}='{tag}': row '{row.name}' has no such tag."
                )
        value = row.tags.get(over, 1)
        if not isinstance(value, int | float) or value <= 0:
            raise UserError(
                f"{label}: analysis over='{over}' draws on a logarithmic axis, and row"
                f" '{row.name}' has {value!r}."
            )


def _check_quantity(name: str, study: Any, where: str) -> None:
    """A quantity is called "WHAT: ROW"; some are of a tag that rows share."""
    what, mark, of = name.partition(": ")
    known = {str(x): 0 for row in study.rows for x in (row.name, *row.tags.values())}
    if mark and of not in known:
        raise UserError(f"{where}: no quantity is of '{of}'.{nearest(of, known)}")
    if study.analysis["name"] == "rows" and (not mark or what not in study.metrics):
        raise UserError(
            f"{where}: '{name}' is no 'METRIC: ROW', which 'rows' finds."
            f"{nearest(what, study.metrics)}"
        )


def analyse(study: Any, trials: Sequence[Any]) -> Found:
    """Runs the analysis that a study names, on those of its rows of which every trial is through.

    An analysis that reads run folders leaves out rows with a trial that was run elsewhere.

    Args:
      study: a `study.Study`. trials: `verdicts.Trial`s.
    """
    whole = through(trials)
    if study.analysis is None:
        return Found({})
    if study.analysis["name"] in _OF_RUNS:
        whole -= {trial.row for trial in trials if trial.run is None}
    ended = [trial for trial in trials if trial.row in whole]
    if not ended:
        return Found({})
    settings = {key: value for key, value in study.analysis.items() if key != "name"}
    found: Found = _known()[study.analysis["name"]](ended, study, **settings)
    return found


def _known() -> dict[str, Callable[..., Found]]:
    from aigc_jax.sweep import delays, learning_rates, scaling

    return {
        "rows": rows,
        "lr_sensitivity": learning_rates.lr_sensitivity,
        "optimum": learning_rates.optimum,
        "delay": delays.delay,
        "scaling_law": scaling.scaling_law,
    }


def through(trials: Sequence[Any]) -> set[str]:
    """Returns the rows of which every trial is through.

    Args:
      trials: `verdicts.Trial`s.
    """
    return {t.row for t in trials} - {t.row for t in trials if t.state == "unfinished"}


def rows(trials: Sequence[Any], study: Any, over: str = "", by: str = "") -> Found:
    """Each row's score by seed, as quantities: for claims that one row is better than another.

    Of a tuned row, its best point's. A row with a trial whose numbers went bad is left out.

    Args:
      trials: `verdicts.Trial`s.
      over, by: tags of the rows, for the picture: scores over the one, a line for each value of the
        other. Without `over`, each row has a line of its own.

    Returns:
      "METRIC: ROW" for each metric of the study and each row.
    """
    found: dict[str, Quantity] = {}
    for name, point in best_points(trials, study).items():
        own = [t for t in trials if t.row == name and t.point == point]
        for metric in study.metrics.values():
            values = {trial.seed: trial.scores.get(metric.name, math.nan) for trial in own}
            if all(map(math.isfinite, values.values())):
                found[f"{metric.name}: {name}"] = of_seeds(values, metric.unit)
    return Found(found)


def best_points(trials: Sequence[Any], study: Any) -> dict[str, Any]:
    """Returns each row's point with the best mean of the first metric; bad numbers come last."""
    points: dict[str, dict[str, list[Any]]] = {}
    for trial in trials:
        points.setdefault(trial.row, {}).setdefault(repr(trial.point), []).append(trial)
    name, sign = study.metric.name, 1.0 if study.metric.direction == "minimize" else -1.0

    def mean(group: list[Any]) -> float:
        values = [sign * trial.scores.get(name, math.nan) for trial in group]
        return sum(values) / len(values) if all(map(math.isfinite, values)) else math.inf

    return {row: min(groups.values(), key=mean)[0].point for row, groups in points.items()}


def of_seeds(values: Mapping[int, float], unit: str = "") -> Quantity:
    """Makes a quantity from its value for each seed, with Student's t interval."""
    found = statistics.interval(list(values.values()))
    return Quantity(found.mean, found.low, found.high, unit, dict(values))


def of_draws(value: float, draws: Any, unit: str = "") -> Quantity:
    """Makes a quantity from its estimate and the bootstrap's, [R], by their percentiles."""
    import numpy as np

    low, high = np.percentile(draws, (2.5, 97.5))
    return Quantity(value, float(low), float(high), unit, {}, draws)

"""Runs that differ only in their seed, as one configuration; and which of two is better."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from aigc_jax.core.units import figure
from aigc_jax.report import statistics
from aigc_jax.report.statistics import UNTOLD, Comparison

SEED = "run.seed"
NONE = "–"
"""Stands where a run lacks a setting or a metric."""

T = TypeVar("T")


class Scores(NamedTuple):
    """The scores of one configuration under one metric.

    Attributes:
      by_seed: of the finished runs, finite ones only. diverged: runs that ended on bad numbers, or
        finished without a number. repeats: runs with a seed that another has too; the first counts.
    """

    by_seed: Mapping[Any, float]
    diverged: int
    repeats: int

    @property
    def values(self) -> list[float]:
        """One a seed."""
        return list(self.by_seed.values())


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted path: value} of a configuration."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def varied(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the paths that are not the same in all of these flat configurations, sorted.

    A configuration that is empty, of a run that died before it wrote one, is left out.
    """
    known = [one for one in settings if one]
    values: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for one in known:
        for path, value in one.items():
            values.setdefault(path, set()).add(repr(value))
            counts[path] = counts.get(path, 0) + 1
    return sorted(p for p in values if len(values[p]) > 1 or counts[p] < len(known))


def without_seed(settings: Mapping[str, Any]) -> str:
    """Returns what two runs of one configuration have in common, as a key."""
    return repr(sorted((path, repr(v)) for path, v in settings.items() if path != SEED))


def gathered(items: Sequence[T], keys: Sequence[Any]) -> list[list[T]]:
    """Returns the items with equal keys together, in the order of the first of each."""
    found: dict[Any, list[T]] = {}
    for item, key in zip(items, keys, strict=True):
        found.setdefault(key, []).append(item)
    return list(found.values())


def scores(runs: Sequence[tuple[Any, str, float | None]]) -> Scores:
    """Sums up (seed, state, last value of a metric) of each run of one configuration.

    A run that ended on bad numbers stands there as finished with nan.
    """
    by_seed: dict[Any, float] = {}
    diverged = repeats = 0
    seen = set()
    for seed, state, value in runs:
        if state != "finished" or value is None:
            continue
        if seed in seen:
            repeats += 1
            continue
        seen.add(seed)
        if math.isfinite(value):
            by_seed[seed] = value
        else:
            diverged += 1
    return Scores(by_seed, diverged, repeats)


def against(a: Scores, b: Scores, level: float = statistics.LEVEL) -> Comparison | None:
    """Compares B with A: by pairs where both have the same seeds, twice or more; else by Welch.

    Returns None where a side has no score.
    """
    if not a.by_seed or not b.by_seed:
        return None
    common = [seed for seed in a.by_seed if seed in b.by_seed]
    # A few seeds in common among many that are not: the pairs alone would throw most scores away.
    if len(common) >= 2 and 2 * len(common) >= min(len(a.by_seed), len(b.by_seed)):
        mine, others = ([one.by_seed[seed] for seed in common] for one in (a, b))
        return statistics.paired(mine, others, level)
    return statistics.welch(a.values, b.values, level)


def answer(found: Comparison, higher: bool, over: str = "seeds") -> str:
    """Returns the answer to "is B better than A?", and what it rests on, as one line.

    Args:
      over: what the values of a side are of.
    """
    word = statistics.better(found, higher)
    size = f"{found.difference:+.4g}"
    if math.isinf(found.low):
        return f"{UNTOLD}: {size} with one seed, which has no spread; 2 seeds or more are needed"
    way = f"paired over {found.n}" if found.paired else f"Welch, {found.n}"
    way += f" {over}" if found.paired else f" {over} or more each"
    spread = f"[{found.low:+.4g}, {found.high:+.4g}]"
    tests = [f"p {_p(found.p)}"] if math.isfinite(found.p) else []
    tests.append(f"permutation p {_p(found.permutation_p)}")
    line = f"{word}: {size} {spread} ({100 * found.level:.3g} %; {way}; {', '.join(tests)})"
    if word != UNTOLD:
        return line
    if found.seeds_needed is None:
        return f"{line}; no number of {over} up to 10,000 would tell a difference so small"
    return (
        f"{line}; if the difference is as measured, {found.seeds_needed} {over} each tell it with"
        " 80 % power"
    )


def _p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def told(values: Sequence[float]) -> tuple[str, str, str]:
    """Returns the mean, its t interval and its bootstrap interval, as texts."""
    if not values:
        return NONE, NONE, NONE
    found = statistics.interval(values)
    if math.isinf(found.low):
        return figure(found.mean), "one seed", NONE
    drawn = statistics.bootstrap(values)
    return figure(found.mean), span(found.low, found.high), span(drawn.low, drawn.high)


def span(low: float, high: float) -> str:
    """Returns an interval as text."""
    return f"{figure(low)} to {figure(high)}"


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Returns the last words of dotted paths, as many as tell them apart."""
    found = {}
    for path in paths:
        words = path.split(".")
        for n in range(1, len(words) + 1):
            tail = ".".join(words[-n:])
            if sum(other == tail or other.endswith("." + tail) for other in paths) == 1:
                break
        found[path] = tail
    return found


def letter(number: int) -> str:
    """Returns A, B, ..., Z, AA, AB, ... for 0, 1, ..."""
    text = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text


def as_json(value: Any) -> str:
    """Returns a setting as one types it; a text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def brief(value: Any) -> str:
    """Returns a setting to look at: a drawn number has six digits, and not seventeen."""
    return f"{value:.6g}" if isinstance(value, float) and len(repr(value)) > 8 else as_json(value)

"""`aigc sweep-report`: a sweep as one HTML page, and as a table for a terminal."""

import math
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from aigc_jax.core.units import clock, figure
from aigc_jax.report import groups, html, plots
from aigc_jax.report import table as text_table
from aigc_jax.report.importance import Importance, importance
from aigc_jax.report.svg import Line, chart
from aigc_jax.sweep.rerun import Reruns
from aigc_jax.sweep.results import Configuration, Results, Row, configurations

_BEST = 10  # configurations with their commands
_CURVES = ("validation", "train", "third")  # styles of the three best
_AXES = 7  # settings side by side
_TITLED = 300  # trials; of more, no dot says which it is
_COLUMNS = 8  # settings in a table for a terminal
_PALE = 400  # curves behind those of the best


def render(found: Results) -> str:
    """Returns the report of a sweep, finished or not, as one self-contained HTML page."""
    ranked, again = configurations(found), Reruns(found)
    matters = _importance(found)
    order = [path for path, _ in matters.shares] if matters else []
    order += [path for path in found.settings if path not in order]
    return html.page(
        "sweep.html.j2",
        name=found.root.resolve().name,
        states=states(found),
        metric=found.metric,
        better="higher" if found.higher else "lower",
        headline=_headline(found, ranked),
        facts=_facts(found, ranked),
        warnings=found.warnings,
        short=groups.short_names(found.paths),
        paths=order,
        best=[_best(found, ranked, i, again) for i in range(min(_BEST, len(ranked)))],
        seeds=any(len(one.rows) > 1 for one in ranked),
        configurations=len(ranked),
        curves=_curves(found, ranked),
        parallel=_parallel(found, order) if order else "",
        importance=_bars(matters) if matters else [],
        method=matters.method if matters else "",
        marginals=_marginals(found, order),
        head=["", "trial", "state", "step", found.metric or "", "best", "trained", *found.paths],
        rows=[_cells(found, i, row, found.paths) for i, row in enumerate(found.rows)],
        names=[row.path.name for row in found.rows],
        sweep=found.sweep,
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def as_text(found: Results, most: int) -> str:
    """Returns the trials, the best first, as a table of at most so many rows for a terminal."""
    paths = found.paths[:_COLUMNS]
    short = groups.short_names(found.paths)
    head = ["", "id", "state", "step", found.metric or "score", "best", "trained"]
    rows = [_cells(found, i, row, paths) for i, row in enumerate(found.rows[:most])]
    parts = [f"{found.root}: {states(found)}"]
    if found.metric:
        parts[0] += f"; {found.metric}, {'higher' if found.higher else 'lower'} is better"
    parts.append(text_table.table([*head, *(short[path] for path in paths)], rows))
    left = len(found.rows) - most
    if left > 0:
        parts.append(f"{left} more are in {found.root / 'results.csv'}")
    ranked = configurations(found)
    if any(len(one.rows) > 1 for one in ranked):
        parts.append(_over_seeds(found, ranked[:most], paths))
    return "\n\n".join([*parts, *(f"warning: {warning}" for warning in found.warnings)])


def _over_seeds(found: Results, ranked: Sequence[Configuration], paths: Sequence[str]) -> str:
    """The configurations, each with its mean over seeds."""
    own = [path for path in paths if path in found.settings]
    short = groups.short_names(found.paths)
    head = ["", "seeds", "mean", "95 % interval (t)", "95 % (bootstrap)", *(short[p] for p in own)]
    rows = [
        [str(i + 1), _seeds(one), *groups.told(one.scores.values),
         *(groups.brief(one.settings[path]) for path in own)]
        for i, one in enumerate(ranked)
    ]  # fmt: skip
    return text_table.table(head, rows)


def _seeds(one: Configuration) -> str:
    diverged = f", {one.scores.diverged} diverged" if one.scores.diverged else ""
    return f"{len(one.scores.values)}{diverged}"


def states(found: Results) -> str:
    """Returns how many trials are in which state: "12 finished, 1 failed"."""
    counts = Counter(row.state for row in found.rows)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def _score(found: Results, row: Row) -> float:
    return row.scores.get(found.metric or "", math.nan)


def _cells(found: Results, place: int, row: Row, paths: Sequence[str]) -> list[str]:
    """A row of the table of trials."""
    known = (found.metric or "") in row.scores
    best = row.best.get(found.metric or "")
    step = str(row.step) if row.steps in (None, row.step) else f"{row.step} of {row.steps}"
    return [
        str(place + 1) if place < len(found.ranked) else "",
        row.id,
        row.state,
        step,
        figure(_score(found, row)) if known else groups.NONE,
        f"{figure(best[1])} at {best[0]}" if best else groups.NONE,
        clock(row.wall),
        *(groups.brief(row.point[path]) if path in row.point else groups.NONE for path in paths),
    ]


def _headline(found: Results, ranked: Sequence[Configuration]) -> dict[str, str] | None:
    if not ranked or not ranked[0].scores.values:
        return None
    mean, spread, _ = groups.told(ranked[0].scores.values)
    count = len(ranked[0].scores.values)
    return {
        "value": mean,
        "spread": f"95 % interval {spread}, over {count} seeds" if count > 1 else "one seed",
        "settings": ", ".join(_words(found, ranked[0])),
    }


def _words(found: Results, one: Configuration) -> list[str]:
    short = groups.short_names(found.paths)
    return [f"{short[path]} = {groups.brief(value)}" for path, value in one.settings.items()]


def _facts(found: Results, ranked: Sequence[Configuration]) -> list[tuple[str, str]]:
    walls = [row.wall for row in found.rows if row.wall is not None]
    facts = [("trials", str(len(found.rows))), ("finished", str(len(found.ranked)))]
    if len(ranked) != len(found.ranked):
        facts.append(("configurations", str(len(ranked))))
    # Not their sum: trials of one program were trained in the same time.
    return [*facts, ("longest trial", clock(max(walls)))] if walls else facts


def _best(
    found: Results, ranked: Sequence[Configuration], place: int, again: Reruns
) -> dict[str, Any]:
    """A configuration with its scores, its rival's answer and its commands."""
    one = ranked[place]
    mean, spread, drawn = groups.told(one.scores.values)
    # Each of the others is asked about: together they may err in 5 % of all cases.
    level = 1 - 0.05 / max(1, min(_BEST, len(ranked)) - 1)
    told = groups.against(one.scores, ranked[0].scores, level) if place else None
    commands, exact = again.of(one.rows)
    return {
        "place": place + 1,
        "words": ", ".join(_words(found, one)) or one.rows[0].path.name,
        "mean": mean,
        "spread": spread,
        "drawn": drawn,
        "seeds": _seeds(one),
        "answer": groups.answer(told, found.higher) if told and len(one.rows) > 1 else "",
        "commands": commands,
        "exact": exact,
    }


def _curves(found: Results, ranked: Sequence[Configuration]) -> list[str]:
    """The score over the steps, a line a trial; wide and narrow."""
    metric = found.metric or ""
    chosen = ranked[: len(_CURVES)]
    named = {row.path for one in chosen for row in one.rows}
    pale = [row for row in found.rows if row.path not in named and metric in row.curves]
    every = max(1, math.ceil(len(pale) / _PALE))
    drawn = [(row, "", "others faint") for row in pale[::every]]
    for place, one in reversed(list(enumerate(chosen))):
        drawn += [
            (row, "" if k else f"{place + 1}.", _CURVES[place]) for k, row in enumerate(one.rows)
        ]
    lines = []
    for row, label, style in drawn:
        xs, ys = row.curves[metric]
        lines.append(Line(xs, ys, label, style))
    values = [
        value for row in found.rows if metric in row.curves for value in row.curves[metric][1]
    ]
    if not lines or not values:
        return []
    return [
        chart(
            lines, title=f"{metric} of all trials", x_label="step", y_label=html.title_of(metric),
            y_range=plots.window(values, found.higher), width=width, height=height,
        )
        for width, height in ((860, 400), (400, 330))
    ]  # fmt: skip


def _drawn(found: Results) -> list[Row]:
    """The ranked trials whose settings are known."""
    return [row for row in found.ranked if row.settings]


def _scores(found: Results) -> list[float]:
    return [_score(found, row) for row in _drawn(found)]


def _column(found: Results, path: str) -> list[Any]:
    """A setting of each of these trials, None where one lacks it."""
    return [row.settings.get(path) for row in _drawn(found)]


def _axis(found: Results, path: str) -> plots.Axis:
    name = groups.short_names(found.paths)[path]
    return plots.axis_of(name, _column(found, path), path in found.log)


def _parallel(found: Results, paths: Sequence[str]) -> str:
    if len(_drawn(found)) < 2:
        return ""
    shown = [_axis(found, path) for path in paths[:_AXES]]
    label = html.title_of(found.metric or "")
    return plots.parallel(shown, _scores(found), y_label=label, higher=found.higher)


def _marginals(found: Results, paths: Sequence[str]) -> list[html.Chart]:
    if len(_drawn(found)) < 2:
        return []
    titles = [row.path.name for row in _drawn(found)]
    return [
        html.Chart(
            path,
            plots.marginal(
                _axis(found, path),
                _scores(found),
                y_label=html.title_of(found.metric or ""),
                higher=found.higher,
                titles=titles if len(titles) <= _TITLED else (),
            ),
        )
        for path in paths
    ]


def _importance(found: Results) -> Importance | None:
    columns = {path: _column(found, path) for path in found.settings}
    sign = -1 if found.higher else 1
    return importance(columns, [sign * score for score in _scores(found)], frozenset(found.log))


def _bars(matters: Importance) -> list[tuple[str, float, str]]:
    return [(path, 100 * share, f"{100 * share:.1f} %") for path, share in matters.shares]

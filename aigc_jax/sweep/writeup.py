"""A study's results for a reader: a table for the terminal, README.md, and a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.core.units import clock
from aigc_jax.report.table import table
from aigc_jax.sweep.analyses import Curve, Found
from aigc_jax.sweep.study import SMOKE, Metric, Scale, Study, points
from aigc_jax.sweep.verdicts import NOT_RUN

BEGIN = "<!-- written by aigc reproduce; what stands outside of these two lines stays -->"
END = "<!-- the end of what aigc reproduce writes -->"
_WORDS = {"minimize": "lower is better", "maximize": "higher is better"}


def figure(value: Any) -> str:
    """A number in four significant digits or so; "" for none."""
    if value is None or not isinstance(value, int | float) or math.isnan(value):
        return ""
    return f"{value:.3f}" if 0.1 <= abs(value) < 1000 else f"{value:.4g}"


def ours(row: Mapping[str, Any]) -> str:
    """Mean and interval of one of the record's rows."""
    if not row["values"]:
        return "diverged" if row["diverged"] else ""
    text = figure(_number(row["mean"]))
    if len(row["values"]) > 1:
        low, high = (figure(_number(end)) for end in row["interval_95"])
        text += f" ({low} to {high})"
    return text + (f", {row['diverged']} diverged" if row["diverged"] else "")


def quantity(found: Any) -> str:
    """A quantity with its interval and unit."""
    known = math.isfinite(found.low) and math.isfinite(found.high)
    ends = f" ({figure(found.low)} to {figure(found.high)})" if known else ""
    return f"{figure(found.value)}{ends} {found.unit}".rstrip()


def said(point: Mapping[str, Any]) -> str:
    """A point in words: "lr 0.001, weight_decay 1"."""
    return ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in point.items())


def as_text(study: Study, record: Mapping[str, Any]) -> str:
    """Returns paper against ours, for the terminal."""
    rows = [
        [_named(row), row["metric"], figure(row["published"]), ours(row), str(len(row["values"])),
         row["verdict"] or "–"]
        for row in record["rows"] if row["chosen"]
    ]  # fmt: skip
    parts = [table(["row", "metric", "paper", "ours (95 %)", "seeds", "verdict"], rows)]
    parts += [
        f"claim: {claim['says']}: {claim['verdict']}"
        + (f" ({claim['ours']})" if claim["ours"] else "")
        for claim in record["claims"]
    ]
    return "\n".join(parts)


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['row']}: {said(row['point'])}" if row["point"] else str(row["row"])


def readme(study: Study, record: Mapping[str, Any], before: str, picture: Mapping[str, str]) -> str:
    """Returns the README.md of a study's results.

    Args:
      record: of all scales. before: the file as it was, whose own words stay. picture: the file's
        name of each scale that has one.
    """
    parts = [_head(study)]
    for name, scale in study.scales.items():
        if name in record["scales"]:
            parts.append(_scale(study, scale, record["scales"][name], picture.get(name, "")))
        elif name != SMOKE:
            parts.append(_not_run(study, scale))
    body = "\n\n".join([BEGIN, *parts, END])
    if BEGIN in before and END in before:
        head, _, rest = before.partition(BEGIN)
        return head + body + rest.partition(END)[2]
    return f"{before.rstrip()}\n\n{body}\n" if before.strip() else f"# {study.title}\n\n{body}\n"


def _head(study: Study) -> str:
    paper = study.paper
    where = f"arXiv:{paper['arxiv']}" if paper["arxiv"] else paper["url"]
    place = f", {paper['place']}" if paper["place"] else ""
    lines = [f"{study.question} Published in: {paper['title']} ({where}{place}).".strip()]
    for metric in study.metrics.values():
        unit = f" ({metric.unit})" if metric.unit else ""
        at = "at the last step" if metric.at == "last" else "best of all evaluations"
        lines.append(
            f"`{metric.name}` ({at}; {_WORDS[metric.direction]}): {metric.protocol}{unit}."
        )
    lines.append(
        'A verdict is "match" where our 95 % interval (Student\'s t over the seeds; one seed has'
        ' none) meets the published value with its tolerance, "near" where it meets twice that,'
        ' "better" where the row is one-sided and ours lies beyond, else "miss". A claim is'
        ' "match" where the whole interval lies on the claimed side (of seeds that all say the'
        ' same, where there are six), "near" where only the mean does.'
    )
    if study.notes:
        lines.append(study.notes)
    return "\n\n".join(lines)


def _not_run(study: Study, scale: Any) -> str:
    rows = [
        f"| {row.name} | {_published(row.published, metric.name)} | | {NOT_RUN} |"
        for row in study.rows
        for metric in study.metrics.values()
        if (scale.rows is None or row.name in scale.rows)
        and (metric is study.metric or metric.name in (row.published or {}))
    ]
    return "\n".join([
        f"## {scale.name}: not run", "", f"Cost: {scale.cost}", "",
        "| row | paper | ours | verdict |", "|---|---|---|---|", *rows,
    ])  # fmt: skip


def _published(published: Mapping[str, float] | None, metric: str) -> str:
    return figure((published or {}).get(metric))


def _scale(study: Study, scale: Scale, record: Mapping[str, Any], picture: str) -> str:
    parts = [f"## {scale.name}: {_summary(record)}"]
    if not record["judged"]:
        parts.append("The published values hold for another scale and judge nothing here.")
    for metric in study.metrics.values():
        if table := _table(study, scale, metric, record):
            parts.append(table)
    if record["claims"]:
        rows = [
            f"| {claim['says']}{_source(claim)} | {claim['ours']} | {claim['verdict']} |"
            for claim in record["claims"]
        ]
        parts.append("\n".join(["| claim | ours (95 %) | verdict |", "|---|---|---|", *rows]))
        if len(rows) > 1:
            parts.append(
                f"Each of the {len(rows)} claims is judged by itself: of twenty that are not true,"
                " about one is a match by chance."
            )
    if record["quantities"]:
        rows = [
            f"| {name} | {_interval(q)} | {q['unit']} |" for name, q in record["quantities"].items()
        ]
        parts.append("\n".join(["| quantity | ours (95 %) | unit |", "|---|---|---|", *rows]))
    if tuned := [row for row in record["rows"] if _is_tuned(study, row)]:
        parts.append(_tuned(study, tuned))
    if picture:
        parts.append(f"![{study.title}]({picture})")
    parts.append(f"```sh\n{record['command']}\n```")
    env = record["environment"]
    where = f"{env['cores']} cores ({env['cpu']})" if "cores" in env else "?"
    parts.append(
        f"Took {clock(record['wall_seconds'])} on {where}; stated cost: {scale.cost}"
        " [record.json](record.json) has every seed's scores, commits, hashes and environment."
    )
    return "\n\n".join(parts)


def _summary(record: Mapping[str, Any]) -> str:
    words = [row["verdict"] for row in record["rows"] if row["chosen"] and row["verdict"]]
    words += [claim["verdict"] for claim in record["claims"]]
    counted = [f"{words.count(word)} {word}" for word in dict.fromkeys(words)]
    return ", ".join(counted) or "nothing to judge"


def _source(claim: Mapping[str, Any]) -> str:
    return f" ({claim['source']})" if claim["source"] else ""


def _interval(q: Mapping[str, Any]) -> str:
    value, low, high = (_number(q[key]) for key in ("value", "low", "high"))
    known = math.isfinite(low) and math.isfinite(high)
    return figure(value) + (f" ({figure(low)} to {figure(high)})" if known else "")


def _table(study: Study, scale: Scale, metric: Metric, record: Mapping[str, Any]) -> str:
    """One metric's rows between their references; "" where this scale has none to show."""
    rows: list[str] = []
    order = {row.name: i for i, row in enumerate(study.rows)}
    shown = metric.name == (scale.metric or study.metric.name)
    chosen = [
        row
        for row in record["rows"]
        if row["metric"] == metric.name
        and row["chosen"]
        and (shown or row["values"] or row["published"] is not None)
    ]
    known = {row["row"] for row in chosen}
    chosen += [
        {"row": row.name, "point": {}, "published": published, "tolerance": row.tolerance
         if row.tolerance is not None else metric.tolerance, "values": {}, "diverged": 0,
         "verdict": NOT_RUN}
        for row in study.rows
        for published in [(row.published or {}).get(metric.name)]
        if row.name not in known and (scale.rows is None or row.name in scale.rows)
        and (shown or published is not None)
    ]  # fmt: skip
    if not chosen:
        return ""
    around: dict[str, float] | None = None
    for row in sorted(chosen, key=lambda r: order.get(r["row"], len(order))):
        own = _levels(record["floors"].get(metric.name, {}), row["row"])
        if around is None or (row["values"] and own != around):
            rows += [
                f"| *{name}* | | {figure(_number(value))} | | |" for name, value in own.items()
            ]
            around = own
        tolerance = f" ± {figure(row['tolerance'])}" if row["published"] is not None else ""
        rows.append(
            f"| {_named(row)} | {figure(row['published'])}{tolerance} | {ours(row)} |"
            f" {len(row['values'])} | {row['verdict'] or '–'} |"
        )
    head = [f"`{metric.name}`", "", "| row | paper | ours (95 %) | seeds | verdict |"]
    return "\n".join([*head, "|---|---|---|---|---|", *rows])


def _levels(found: Mapping[str, Any], row: str) -> dict[str, float]:
    """Returns what stands around a row's score: {label: value}, floors first.

    Args:
      found: of one metric, from a record's "floors".
    """
    measured = found.get("measured", {}).get(row, {})
    return {**found.get("stated_floors", {}), **measured, **found.get("stated_ceilings", {})}


def _is_tuned(study: Study, row: Mapping[str, Any]) -> bool:
    found = next((own for own in study.rows if own.name == row["row"]), None)
    return bool(found and found.tune and row["metric"] == study.metric.name)


def _tuned(study: Study, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"| {row['row']} | {said(row['point'])}{' (best)' if row['chosen'] else ''} | {ours(row)} |"
        f" {len(row['values'])} |"
        for row in rows
    ]
    head = ["Everything that was tried of the tuned rows:", "", "| row | tried | ours | seeds |"]
    return "\n".join([*head, "|---|---|---|---|", *lines])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


# --- the plan ---------------------------------------------------------------------------------


def as_plan(study: Study, scale: Any, counts: Mapping[str, tuple[int, int]], left: int) -> str:
    """Returns what a scale would run: rows, points, trials, how many of them are finished.

    Args:
      counts: row -> (trials, of these finished). left: trials to run; rows may share some.
    """
    rows = [
        [row.name, row.recipe, str(len(points(row, scale))), str(counts[row.name][0]),
         str(counts[row.name][1])]
        for row in study.rows if row.name in counts
    ]  # fmt: skip
    lines = [f"{study.title}, scale {scale.name}"]
    lines += [table(["row", "recipe", "points", "trials", "finished"], rows)]
    return "\n".join([*lines, f"to run: {left} trials; cost of all: {scale.cost}"])


# --- the picture ------------------------------------------------------------------------------


def draw(study: Study, scale: Scale, record: Mapping[str, Any], found: Found, out: Path) -> bool:
    """Draws the analysis' curves, or each row's mean and interval beside the published value.

    Returns:
      Whether there was anything to draw; `out` is written only then, as a PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metric = study.metrics[scale.metric] if scale.metric else study.metric
    rows = [r for r in record["rows"]
            if r["metric"] == metric.name and r["chosen"] and r["values"]]  # fmt: skip
    if not rows:
        return False
    canvas = Figure(figsize=(8.0, 4.6), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(canvas)
    axes = canvas.add_subplot()
    if found.curves:
        _draw_curves(axes, found)
    elif over := (study.analysis or {}).get("over"):
        _draw_over(axes, study, metric, rows, over)
    else:
        _draw_rows(axes, metric, rows)
    axes.set_title(study.title, loc="left", fontsize=11, fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    # Without the date and the version: the same results are the same file.
    canvas.savefig(out, format="png", metadata={"Software": None})
    return True


def _draw_curves(axes: Any, found: Found) -> None:
    for curve in found.curves:
        (line,) = axes.plot(curve.xs, curve.ys, marker="o", markersize=3, label=curve.label)
        _shade(axes, curve, line.get_color())
    axes.set(xlabel=found.x_label, ylabel=found.y_label)
    axes.set_xscale("log" if found.log_x else "linear")
    axes.set_yscale("log" if found.log_y else "linear")
    axes.legend(fontsize=7, frameon=False)


def _shade(axes: Any, curve: Curve, colour: str) -> None:
    if curve.lows:
        axes.fill_between(curve.xs, curve.lows, curve.highs, color=colour, alpha=0.15, linewidth=0)


def _draw_over(
    axes: Any, study: Study, metric: Metric, rows: Sequence[Mapping[str, Any]], over: str
) -> None:
    """Scores over a tag of the rows, with their intervals; of the rows that the study has today."""
    tags = {row.name: row.tags for row in study.rows}
    rows = [row for row in rows if row["row"] in tags]
    by = (study.analysis or {}).get("by", "")
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: float(tags[row["row"]][over])):
        lines.setdefault(str(tags[row["row"]].get(by, "")), []).append(row)
    for label, own in lines.items():
        xs, means = [tags[p["row"]][over] for p in own], [_number(p["mean"]) for p in own]
        ends = [[_number(end) for end in p["interval_95"]] for p in own]
        size = [[m - low, high - m] for m, (low, high) in zip(means, ends, strict=True)]
        axes.errorbar(xs, means, yerr=list(zip(*size, strict=True)), marker="o", capsize=3,
                      label=label or None)  # fmt: skip
    axes.set_xscale("log")
    at = sorted({tags[row["row"]][over] for row in rows})
    axes.set_xticks(at, [str(x) for x in at])
    axes.minorticks_off()
    axes.set_xlabel(over)
    unit = f"\n[{metric.unit}]" if metric.unit else ""
    axes.set_ylabel(f"{metric.name}{unit}", fontsize=8)
    if by:
        axes.legend(title=by, fontsize=8, frameon=False)


def _draw_rows(axes: Any, metric: Metric, rows: Sequence[Mapping[str, Any]]) -> None:
    for place, row in enumerate(reversed(rows)):
        low, high = (_number(end) for end in row["interval_95"])
        mean = _number(row["mean"])
        axes.errorbar(mean, place, xerr=[[mean - low], [high - mean]], fmt="o", color="#3b78b5",
                      capsize=3, label="ours, 95 %" if not place else None)  # fmt: skip
        if row["published"] is not None:
            axes.plot(row["published"], place, "D", color="#c2521b", markersize=6, zorder=0,
                      label=None)  # fmt: skip
    if any(row["published"] is not None for row in rows):
        axes.plot([], [], "D", color="#c2521b", label="published")
    axes.set_yticks(range(len(rows)), [_named(row) for row in reversed(rows)], fontsize=8)
    axes.set_xlabel(f"{metric.name} {f'[{metric.unit}]' if metric.unit else ''}")
    axes.legend(fontsize=8)  # framed: its mark is no row

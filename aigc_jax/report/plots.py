"""Charts of many trials as inline SVG: one setting against the score, and all settings at once."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from aigc_jax.report.curve import ticks
from aigc_jax.report.svg import Frame, axes, clip, framed, tick_text

_FEW = 12  # values of a setting; of more, no line is drawn through them
_NAMED = 8  # categories that are written out
_NONE = "–"
_LONGEST = 12  # characters of a category
_APART = 0.04  # of an axis: how far trials with one value of few are spread, to be seen at all


class Axis(NamedTuple):
    """Where the trials stand on a setting's axis: a place in [0, 1] for each, and the ticks."""

    name: str
    places: list[float]
    ticks: list[tuple[float, str]]


def axis_of(name: str, values: Sequence[Any], log: bool = False) -> Axis:
    """Returns the axis of a setting: of numbers, linear or logarithmic; else of its values in turn.

    Args:
      name: what is written at it.
      values: [n], one a trial; all numbers (above 0 for a logarithmic axis), or anything; None,
        where a trial lacks the setting, stands below the numbers.
      log: whether equal factors are equal distances.
    """
    there = [value for value in values if value is not None]
    if not there or not all(map(_is_number, there)) or (log and min(there) <= 0):
        texts = [_NONE if value is None else str(value) for value in values]
        kinds = sorted(set(texts))
        at = {kind: (i + 0.5) / len(kinds) for i, kind in enumerate(kinds)}
        every = math.ceil(len(kinds) / _NAMED)
        named = [(at[kind], _short(kind)) for kind in kinds[::every]]
        return Axis(name, [at[text] for text in texts], named)
    low, high = (_scaled(end, log) for end in (min(there), max(there)))
    foot = 0.0 if len(there) == len(values) else 0.15

    def place(value: float | None) -> float:
        if value is None:
            return 0.0
        share = (_scaled(value, log) - low) / (high - low) if high > low else 0.5
        return foot + (1 - foot) * share

    distinct = sorted(set(there))
    if len(distinct) <= 6:
        marks = distinct
    elif log:
        decades = range(math.floor(low), math.ceil(high) + 1)
        powers = [10.0**k for k in decades if low <= k <= high]
        steps = [
            m * 10.0**k
            for k in decades
            for m in (1, 2, 5)
            if low <= _scaled(m * 10.0**k, True) <= high
        ]
        marks = (
            powers if len(powers) > 2 else steps if len(steps) > 1 else [distinct[0], distinct[-1]]
        )
    else:
        marks = ticks(distinct[0], distinct[-1], 4)
    named, last = ([(0.0, _NONE)], 0.0) if foot else ([], -1.0)
    for mark in marks:
        if place(mark) - last > 0.09:  # else its text would stand in the one before
            named.append((place(mark), tick_text(float(f"{mark:.3g}"))))
            last = place(mark)
    return Axis(name, [place(value) for value in values], named)


def window(values: Sequence[float], higher: bool) -> tuple[float, float]:
    """Returns the ends of a y-axis that shows the better part of many scores well.

    A few that are far worse than the rest must not flatten them: the axis then reaches half as far
    again as what 4 of 5 stay within.
    """
    finite = sorted((v for v in values if math.isfinite(v)), reverse=higher)
    if not finite:
        return 0.0, 1.0
    best, most, worst = finite[0], finite[int(0.8 * (len(finite) - 1))], finite[-1]
    if abs(worst - best) > 3 * abs(most - best) > 0:
        worst = best + 1.5 * (most - best)
    low, high = min(best, worst), max(best, worst)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - pad, high + pad


def marginal(
    axis: Axis,
    scores: Sequence[float],
    *,
    y_label: str,
    higher: bool,
    titles: Sequence[str] = (),
    width: int = 400,
    height: int = 230,
) -> str:
    """Returns a chart of one setting against the score: a dot a trial.

    A setting of few values also has the best score (orange) and the median (blue) at each of them.
    A score outside of the window is a dot at its edge; one that is no number is at the worse edge.
    """
    low, high = window(scores, higher)
    frame = framed((-0.05, 1.05, low, high), width, height, 16)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(axis.name)} against {escape(y_label)}">',
        *axes(frame, axis.name, y_label, width, height, axis.ticks),
    ]
    for i, (place, score) in enumerate(zip(apart(axis.places), scores, strict=True)):
        inside = low <= score <= high
        y = clip(_pixel(frame, score, higher), frame)
        title = f"<title>{escape(titles[i])}</title>" if titles else ""
        parts.append(
            f'<circle class="dot {"train" if inside else "out"}" cx="{frame.x(place):.1f}" '
            f'cy="{y:.1f}" r="2.5">{title}</circle>'
        )
    places = sorted(set(axis.places))
    if 1 < len(places) <= _FEW:
        best: list[str] = []
        middle: list[str] = []
        for place in places:
            own = sorted(
                (_pixel(frame, s, higher) for p, s in zip(axis.places, scores, strict=True)
                 if p == place), reverse=not higher,
            )  # fmt: skip
            for line, y in ((best, own[0]), (middle, own[len(own) // 2])):
                line.append(f"{frame.x(place):.1f},{clip(y, frame):.1f}")
        parts.append(f'<polyline class="curve train" points="{" ".join(middle)}"/>')
        parts.append(f'<polyline class="curve validation" points="{" ".join(best)}"/>')
    return "\n".join([*parts, "</svg>"])


def apart(places: Sequence[float]) -> list[float]:
    """Moves trials with the same place a little apart, where there are few places.

    The same trials always come out the same: steps of the golden ratio fill the room evenly.
    """
    if len(set(places)) > _FEW or len(set(places)) == len(places):
        return list(places)
    return [p + _APART * (k * 0.6180339887 % 1 - 0.5) for k, p in enumerate(places)]


def _pixel(frame: Frame, score: float, higher: bool) -> float:
    """A score's height; below or above the frame for one that is no number."""
    if math.isfinite(score):
        return frame.y(score)
    return frame.bottom + 1 if higher else frame.top - 1


def parallel(
    axes_: Sequence[Axis],
    scores: Sequence[float],
    *,
    y_label: str,
    higher: bool,
    width: int = 860,
    height: int = 340,
) -> str:
    """Returns all settings side by side, the score at the right: a line a trial.

    The best tenth is orange, the rest of the better half blue, the others are pale.
    """
    order = sorted(range(len(scores)), key=lambda i: _worst_first(scores[i], higher))
    low, high = window(scores, higher)
    frame = Frame(60, 44, width - 60, height - 34, 0, len(axes_), low, high)
    score_axis = Axis(y_label, [], [(v, tick_text(v)) for v in ticks(low, high, 6)])
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Settings side by side">',
    ]
    spread = [apart(axis.places) for axis in axes_]
    for done, i in enumerate(order):
        left = len(order) - done  # this one and those that are better
        style = "others faint"
        if left <= max(1, len(order) // 10):
            style = "validation"
        elif left <= len(order) // 2:
            style = "train pale"
        heights = [frame.bottom - p[i] * (frame.bottom - frame.top) for p in spread]
        heights.append(clip(_pixel(frame, scores[i], higher), frame))
        points = " ".join(f"{frame.x(k):.1f},{y:.1f}" for k, y in enumerate(heights))
        parts.append(f'<polyline class="curve {style}" points="{points}"/>')
    for k, axis in enumerate([*axes_, score_axis]):
        x = frame.x(k)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.bottom}"/>'
            f'<text class="name" text-anchor="middle" x="{x:.1f}" y="{18 + 14 * (k % 2)}">'
            f"{escape(axis.name)}</text>"
        )
        for place, text in axis.ticks:
            y = frame.y(place) if axis is score_axis else frame.bottom - place * (
                frame.bottom - frame.top
            )  # fmt: skip
            anchor, gap = ("start", 6) if axis is score_axis else ("end", -6)
            parts.append(
                f'<text class="tick halo" text-anchor="{anchor}" x="{x + gap:.1f}" '
                f'y="{y + 4:.1f}">{escape(text)}</text>'
            )
    return "\n".join([*parts, "</svg>"])


def _worst_first(score: float, higher: bool) -> tuple[bool, float]:
    return math.isfinite(score), (score if higher else -score) if math.isfinite(score) else 0.0


def _scaled(value: float, log: bool) -> float:
    return math.log10(value) if log else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"

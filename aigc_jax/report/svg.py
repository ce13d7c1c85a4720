"""Charts as inline SVG. Colours come from the page's style sheet, so dark and light both read."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from aigc_jax.core.units import figure
from aigc_jax.report.curve import quantile, spread, thin, ticks


class Line(NamedTuple):
    """A curve: [n] xs and ys, a label at its end ("" for none), and a CSS class for its colour."""

    xs: Sequence[float]
    ys: Sequence[float]
    label: str
    style: str
    dots: bool = False


class Frame(NamedTuple):
    """Maps values to pixels inside a plot's rectangle."""

    left: float
    top: float
    right: float
    bottom: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        """Returns the pixel of a value on the x-axis."""
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return self.left + share * (self.right - self.left)

    def y(self, value: float) -> float:
        """Returns the pixel of a value on the y-axis."""
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.bottom - share * (self.bottom - self.top)


def tick_text(value: float) -> str:
    """Returns a tick's label: 0.5, 2, 1.5k, 2e-04."""
    if value == 0:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.6g}{letter}"
    if abs(value) < 1e-3:
        return f"{value:.1e}".replace(".0e", "e")
    return f"{value:.6g}"


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    y_label: str,
    levels: Mapping[str, float] | None = None,
    width: int = 400,
    height: int = 230,
    from_zero: bool = False,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Returns one chart as an <svg> element, labelled at its lines and not in a legend.

    Args:
      lines: the curves; long ones are thinned, values that are not finite break them.
      title: what a screen reader says; the page prints its own heading.
      x_label: the x-axis with its unit.
      y_label: the y-axis with its unit.
      levels: horizontal dashed lines by name, such as floors.
      width: in pixels of the drawing; it scales with the page.
      height: likewise.
      from_zero: whether the y-axis starts at 0.
      y_range: the ends of the y-axis; None: what shows the curves well.
    """
    levels = {k: v for k, v in (levels or {}).items() if math.isfinite(v)}
    labels = [line.label for line in lines if line.label] + list(levels)
    longest = max((len(label) for label in labels), default=0)
    limit = limits(lines, levels, from_zero=from_zero)
    if y_range is not None:
        limit = (*limit[:2], *y_range)
    frame = framed(limit, width, height, 14 + 7 * longest if labels else 14)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        *axes(frame, x_label, y_label, width, height),
    ]
    ends: list[tuple[float, str, str]] = []
    for name, value in levels.items():
        y = frame.y(value)
        parts.append(
            f'<line class="level" x1="{frame.left:.1f}" x2="{frame.right:.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        ends.append((y, name, "level-text"))
    for line in lines:
        parts += _curve(line, frame)
        last = next(filter(math.isfinite, reversed(line.ys)), None)
        if line.label and last is not None:
            ends.append((clip(frame.y(last), frame), line.label, line.style))
    places = spread([y for y, _, _ in ends], 14, frame.top + 4, frame.bottom - 2)
    for (_, label, style), y in zip(ends, places, strict=True):
        parts.append(
            f'<text class="end {style}" x="{frame.right + 8:.1f}" y="{y + 4:.1f}">'
            f"{escape(label)}</text>"
        )
    return "\n".join([*parts, "</svg>"])


def limits(
    lines: Sequence[Line], levels: Mapping[str, float], *, from_zero: bool = False
) -> tuple[float, float, float, float]:
    """Returns (lowest x, highest x, lowest y, highest y) of a frame that shows the curves well.

    A spike must not flatten the rest: the top is what all but 1 in 200 points stay below.
    """
    xs = [x for line in lines if line.xs for x in (line.xs[0], line.xs[-1])] or [0.0, 1.0]
    ends = [*levels.values(), *(quantile(line.ys, share) for line in lines for share in (0, 0.995))]
    finite = [value for value in ends if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if from_zero:
        low = min(0.0, low)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    x_low, x_high = min(xs), max(xs)
    if 0 < x_low < 0.1 * x_high:
        x_low = 0
    return (
        x_low,
        x_high if x_high > x_low else x_low + 1,
        low if from_zero and low == 0 else low - pad,
        high + pad,
    )


def framed(
    limit: tuple[float, float, float, float], width: int, height: int, right_margin: float
) -> Frame:
    """Returns the plot's rectangle for these limits: room for the ticks, the names, the labels."""
    x_low, x_high, y_low, y_high = limit
    longest = max(len(tick_text(value)) for value in ticks(y_low, y_high, height // 45))
    right, bottom = width - right_margin, height - 42
    return Frame(28 + 7 * longest, 10, right, bottom, x_low, x_high, y_low, y_high)


def axes(
    frame: Frame,
    x_label: str,
    y_label: str,
    width: int,
    height: int,
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> list[str]:
    """Returns the grid, the ticks and the names of both axes; None: ticks at round numbers of x."""
    parts = []
    for value in ticks(frame.y_low, frame.y_high, height // 45):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left:.1f}" x2="{frame.right:.1f}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" text-anchor="end" x="{frame.left - 7:.1f}" y="{y + 4:.1f}">'
            f"{tick_text(value)}</text>"
        )
    if x_ticks is None:
        round_ones = ticks(frame.x_low, frame.x_high, 4 if width < 600 else 8)
        x_ticks = [(value, tick_text(value)) for value in round_ones]
    for value, text in x_ticks:
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{frame.x(value):.1f}" '
            f'y="{frame.bottom + 17:.1f}">{escape(text)}</text>'
        )
    middle = (frame.top + frame.bottom) / 2
    parts.append(
        f'<line class="axis" x1="{frame.left:.1f}" x2="{frame.right:.1f}" '
        f'y1="{frame.bottom:.1f}" y2="{frame.bottom:.1f}"/>'
        f'<text class="name" text-anchor="middle" x="{(frame.left + frame.right) / 2:.1f}" '
        f'y="{height - 6}">{escape(x_label)}</text>'
        f'<text class="name" text-anchor="middle" transform="rotate(-90)" x="{-middle:.1f}" '
        f'y="12">{escape(y_label)}</text>'
    )
    return parts


def clip(y: float, frame: Frame) -> float:
    """Returns a pixel moved to the nearest edge of the plot, where it lies outside."""
    return min(max(y, frame.top), frame.bottom)


def _curve(line: Line, frame: Frame) -> list[str]:
    """One path a stretch of finite values; a lone point becomes a dot."""
    xs, ys = thin(line.xs, line.ys)
    stretches: list[list[str]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            stretches[-1].append(f"{frame.x(x):.1f},{clip(frame.y(y), frame):.1f}")
        elif stretches[-1]:
            stretches.append([])
    parts = [
        f'<polyline class="curve {line.style}" points="{" ".join(points)}"/>'
        for points in stretches
        if len(points) > 1
    ]
    dotted = [p for points in stretches for p in points if line.dots or len(points) == 1]
    for point in dotted:
        cx, cy = point.split(",")
        parts.append(f'<circle class="dot {line.style}" cx="{cx}" cy="{cy}" r="3"/>')
    return parts


def scale(
    result: float, levels: Mapping[str, float], *, name: str, better: str, width: int = 860
) -> str:
    """Returns a ruler with the result between what trivial models and the best possible one get.

    Args:
      result: the score.
      levels: the reference scores by name.
      name: what the result is called on the ruler.
      better: "lower" or "higher": the bar is drawn from the worst reference to the result.
      width: in pixels of the drawing.
    """
    points = {k: v for k, v in levels.items() if math.isfinite(v)}
    if not points or not math.isfinite(result):
        return ""
    values = [*points.values(), result]
    pad = 0.08 * (max(values) - min(values)) or 0.5
    frame = Frame(20, 0, width - 20, 1, min(values) - pad, max(values) + pad, 0, 1)
    worst = max(points.values()) if better == "lower" else min(points.values())
    line_y = 52.0
    ends = sorted((frame.x(worst), frame.x(result)))
    ordered = sorted(points.items(), key=lambda item: item[1])
    places = [frame.x(value) for _, value in ordered]
    least = 11 + 3.3 * max(len(key) for key in points) * 2
    texts = spread(places, least, 20 + least / 2, width - 20 - least / 2)
    parts = [
        f'<svg viewBox="0 0 {width} 104" role="img" '
        f'aria-label="{escape(f"{name} {figure(result)} between its references")}">',
        f'<line class="axis" x1="20" x2="{width - 20}" y1="{line_y}" y2="{line_y}"/>',
        f'<line class="gain" x1="{ends[0]:.1f}" x2="{ends[1]:.1f}" y1="{line_y}" y2="{line_y}"/>',
    ]
    for (key, value), x, at in zip(ordered, places, texts, strict=True):
        parts.append(
            f'<polyline class="tickmark" points="{x:.1f},{line_y - 6} {x:.1f},{line_y + 8} '
            f'{at:.1f},{line_y + 18}"/>'
            f'<text class="level-text" text-anchor="middle" x="{at:.1f}" y="{line_y + 32}">'
            f"{escape(key)}</text>"
            f'<text class="tick" text-anchor="middle" x="{at:.1f}" y="{line_y + 47}">'
            f"{figure(value)}</text>"
        )
    x = frame.x(result)
    anchor = "start" if x < 120 else "end" if x > width - 120 else "middle"
    parts.append(
        f'<circle class="dot validation" cx="{x:.1f}" cy="{line_y}" r="7"/>'
        f'<text class="result" text-anchor="{anchor}" x="{x:.1f}" y="{line_y - 18}">'
        f"{escape(name)} {figure(result)}</text></svg>"
    )
    return "\n".join(parts)

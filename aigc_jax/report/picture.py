"""One picture of a run: its curve between its floors, and what the model writes by then."""

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aigc_jax.core.units import figure
from aigc_jax.errors import UserError
from aigc_jax.report.curve import spread, thin
from aigc_jax.report.folder import Picture, Run
from aigc_jax.report.html import axis_label, main_lines, title_of
from aigc_jax.report.svg import limits, tick_text

_INK, _SOFT, _RULE, _LEVEL = "#1c2024", "#5d6670", "#e2e4e6", "#7a5ea8"
_COLOURS = {"train": "#3b78b5", "validation": "#c2521b"}
_THIRD = "#4d8a4f"
_TOP = 0.86  # where both panels end, as a share of the picture's height


def picture(run: Run, out: Path, *, lines: int = 18, columns: int = 44) -> None:
    """Draws the headline metric against the step, and the last sample beside it, as a PNG.

    Args:
      run: the run, finished or not.
      out: the file to write: 1600 x 720 pixels, 990 wide where there is no sample.
      lines: how many lines of the sample are shown.
      columns: how wide they are, in characters.

    Raises:
      UserError: there is no metric to draw yet.
      OSError: `out` can't be written.
    """
    metric = run.headline
    if not metric:
        raise UserError(f"{run.path} has no metrics to draw yet.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    samples, drawn = run.samples, run.pictures
    beside = bool(samples or drawn)
    canvas = Figure(figsize=(10.0 if beside else 6.2, 4.5), dpi=160, facecolor="white")
    FigureCanvasAgg(canvas)
    ratios = [1.5, 1] if beside else [1]
    grid = canvas.add_gridspec(
        1,
        len(ratios),
        width_ratios=ratios,
        left=0.07 if beside else 0.11,
        right=0.985 if beside else 0.8,
        top=_TOP,
        bottom=0.125,
        wspace=0.34,
    )
    _draw_curve(canvas.add_subplot(grid[0]), run, metric)
    if drawn:
        # The plain samples where there are any, else whatever comes first.
        last = drawn.get("samples", next(iter(drawn.values())))[-1]
        _draw_picture(canvas.add_subplot(grid[1]), last)
    elif samples:
        text = _wrapped(samples[-1].text, lines, columns)
        _draw_sample(canvas.add_subplot(grid[1]), samples[-1].step, text)
    # Named, or the ending of the file's name would choose another format.
    canvas.savefig(out, format="png")


def _draw_curve(axes: Any, run: Run, metric: str) -> None:
    levels: Mapping[str, float] = run.floors.get(metric, {})
    curves = main_lines(run, metric)
    x_low, x_high, y_low, y_high = limits(curves, levels)
    ends: list[tuple[float, str, str]] = []
    for name, level in levels.items():
        axes.axhline(level, color=_LEVEL, linewidth=1, dashes=(5, 4))
        ends.append((level, f"{name} {level:.2f}", _LEVEL))
    for line in curves:
        colour = _COLOURS.get(line.style.split()[0], _THIRD)
        pale = "pale" in line.style
        axes.plot(
            *thin(line.xs, line.ys),
            color=colour,
            linewidth=0.7 if pale else 1.7,
            alpha=0.4 if pale else 1,
            marker="o" if line.dots else None,
            markersize=3.5,
        )
        if line.label and line.ys:
            ends.append((line.ys[-1], f"{line.label} {line.ys[-1]:.2f}", colour))
    axes.set(xlim=(x_low, x_high + 0.008 * (x_high - x_low)), ylim=(y_low, y_high))
    gap = 0.045 * (y_high - y_low)
    places = spread([min(max(y, y_low), y_high) for y, _, _ in ends], gap, y_low, y_high)
    for (_, text, colour), y in zip(ends, places, strict=True):
        axes.annotate(
            text,
            (1.02, y),
            xycoords=("axes fraction", "data"),
            color=colour,
            fontsize=9,
            va="center",
            fontweight="normal" if colour == _LEVEL else "bold",
        )
    last = run.last(metric)
    heading = f"{title_of(metric)} {figure(last[1])} at step {last[0]}" if last else metric
    axes.set_title(heading, loc="left", fontsize=12, color=_INK, fontweight="bold", pad=14)
    axes.set_xlabel("step", color=_SOFT, fontsize=9)
    axes.set_ylabel(axis_label(run, metric), color=_SOFT, fontsize=9)
    axes.xaxis.set_major_formatter(lambda value, _: tick_text(value))
    axes.tick_params(colors=_SOFT, labelsize=8.5, length=0)
    axes.grid(axis="y", color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)


def _draw_picture(axes: Any, picture: Picture) -> None:
    from matplotlib.image import imread

    pixels = imread(picture.path)
    axes.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None, interpolation="nearest")
    name = picture.path.stem.partition("-")[2].replace("_", " ")
    axes.set_title(
        f"{name.capitalize()} at step {picture.step}",
        loc="left",
        fontsize=12,
        color=_INK,
        fontweight="bold",
        pad=14,
    )
    axes.set_axis_off()


def _draw_sample(axes: Any, step: int, text: str) -> None:
    axes.set_title(
        f"What it writes at step {step}",
        loc="left",
        fontsize=12,
        color=_INK,
        fontweight="bold",
        pad=14,
    )
    axes.set_axis_off()
    axes.text(
        0,
        1,
        text.replace("$", r"\$"),  # matplotlib would read a formula between two of them
        transform=axes.transAxes,
        family="monospace",
        fontsize=8.2,
        linespacing=1.45,
        va="top",
        color=_INK,
    )


def _wrapped(text: str, lines: int, columns: int) -> str:
    """Returns the first `lines` lines, the long ones broken, and characters that can be drawn."""
    drawn = "".join(c if c == "\n" or c.isprintable() else " " for c in text.strip("\n"))
    drawn = re.sub(r"\n{3,}", "\n\n", drawn)
    rows = [
        row
        for line in drawn.split("\n")
        for row in (textwrap.wrap(line, columns, drop_whitespace=False) or [""])
    ]
    return "\n".join(rows[:lines])

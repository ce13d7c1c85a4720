"""Numbers as a person reads them. Files never go through here: they keep every digit."""

import math
from typing import Any

LOOP_METRICS = ("train/", "time/", "speed/", "memory/")
"""What the metrics of the training loop begin with; any other metric came from an evaluator.

The times are seconds a step, means over the steps since the row before:

  time/step        from the end of a step to the end of the next, evaluations and saves left out.
  time/data        of it: waiting for batches from the pipeline.
  time/dispatch    of it: copying batches to the devices and sending them their program.
  time/wait        of it: waiting for the devices.
  time/evaluation  besides: evaluations since the row before, over its steps.
  time/save        besides: what saving held up; the rest of it goes on in the background.
"""


def human(number: float) -> str:
    """Returns a count in three digits or so: 950, 15.2k, 152k, 3.1M."""
    if not math.isfinite(number):
        return str(number)
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            scaled = number / size
            digits = 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}".removesuffix(".0") + letter
    return f"{number:.0f}" if abs(number) >= 10 else f"{number:.3g}"


def clock(seconds: float | None) -> str:
    """Returns a span of time as 0:42, 12:05, 3:20:10 or 2d 03:20; "?" where it is unknown."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02d}:{minute:02d}"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def figure(value: Any) -> str:
    """Returns a metric or a setting: four decimals or an exponent for a float, others as typed."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value if isinstance(value, str) else repr(value)
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value) or value == 0:
        return str(value)
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:.4f}"
    return f"{value:.3g}"

"""Sums of metrics and of time between two rows of the log."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_PARTS = ("data", "dispatch", "wait", "evaluation", "save")
_SLOW = 0.3  # a share of the time that is worth a word
_IDLE = 0.1  # where the devices' share is above this, they are what a step waits for
_WORTH = 1.0  # seconds of a window; below it nothing is slow


class Meter:
    """Adds up what happens between two rows.

    Args:
      warn: takes one line, once, where steps wait for data while the devices have nothing to do.

    Attributes:
      sums: metric -> [sum, weight] since the last row, in float64; saved with a checkpoint, so
        that the row after a resume is the one that an uninterrupted run writes.
      step_seconds: what one step took in the last dispatch; 0 before the first.
    """

    def __init__(self, warn: Callable[[str], None] = lambda line: None) -> None:
        self._warn, self._windows = warn, 0
        self.sums: dict[str, list[float]] = {}
        self.step_seconds = 0.0
        self._mark = time.perf_counter()
        self.clear()

    def clear(self) -> None:
        """Begins the next row."""
        self.sums = {}
        self._parts = dict.fromkeys(_PARTS, 0.0)
        self._total, self._steps = 0.0, 0

    def start(self) -> None:
        """Time counts from now on: what was done since the last step was not training."""
        self._mark = time.perf_counter()

    def passed(self, part: str) -> None:
        """The time since the last step went into "evaluation" or "save"; it is no step's."""
        now = time.perf_counter()
        self._parts[part] += now - self._mark
        self._mark = now

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Adds the time of the block to "data", "dispatch" or "wait"."""
        begin = time.perf_counter()
        yield
        self._parts[part] += time.perf_counter() - begin

    def done(self, steps: int) -> None:
        """Counts `steps` as done, in the time since the call before."""
        now = time.perf_counter()
        self.step_seconds = (now - self._mark) / steps
        self._total += now - self._mark
        self._steps += steps
        self._mark = now

    def add(self, metrics: Mapping[str, tuple[float, float]]) -> None:
        """Adds the (sum, weight) pairs of one step."""
        for name, (total, weight) in metrics.items():
            pair = self.sums.setdefault(name, [0.0, 0.0])
            pair[0] += total
            pair[1] += weight

    def means(self) -> dict[str, float]:
        """Returns the mean of each metric; one without any weight is left out."""
        return {name: total / weight for name, (total, weight) in self.sums.items() if weight}

    def speeds(self, unit: str, flops: int, peak: float | None) -> dict[str, float]:
        """Returns seconds a step, by part and in all, and the rate of work; see `core.units`.

        Args:
          unit: what the weight of the metric "loss" counts. flops: of one step.
          peak: FLOP/s of all devices, or None where it is unknown.
        """
        if not self._steps:  # a row right after a resume
            return {"time/step": math.nan, f"speed/{unit}_per_s": math.nan}
        row = {f"time/{part}": seconds / self._steps for part, seconds in self._parts.items()}
        row["time/step"] = self._total / self._steps
        self._look_at_data()
        row[f"speed/{unit}_per_s"] = self.sums.get("loss", [0.0, 0.0])[1] / self._total
        if peak:
            row["speed/mfu"] = flops * self._steps / self._total / peak
        return row

    def _look_at_data(self) -> None:
        """Warns of a slow data pipeline: once, and not of the first window, in which all begins.

        Data is made while the devices work, so what it takes is lost time only where they have
        nothing left to do: where nobody waits for them.
        """
        self._windows += 1
        data, wait = (self._parts[part] / self._total for part in ("data", "wait"))
        slow = data > _SLOW and wait < _IDLE and self._total > _WORTH
        if self._windows < 2 or not slow:
            return
        self._windows = -(1 << 62)
        rate = self._steps / self._parts["data"]
        self._warn(
            f"slow data: {100 * data:.0f} % of the time of the last {self._steps} steps went by"
            f" waiting for batches, of which {rate:.3g} a second come. Prepare the data once"
            " (`aigc data`), put it on a faster disk, give the run more CPU cores, or make a step"
            " do more (run.batch_size)."
        )


def shown(row: Mapping[str, float], unit: str) -> dict[str, float]:
    """Returns what a person watches, by short names, from a row of the log."""
    fields = {
        "loss": row.get("train/loss", math.nan),
        "grad": row.get("train/grad_norm", math.nan),
        "lr": row.get("train/lr", math.nan),
        f"{unit}/s": row[f"speed/{unit}_per_s"],
    }
    return fields | ({"mfu": row["speed/mfu"]} if "speed/mfu" in row else {})

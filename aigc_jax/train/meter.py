"""Sums of metrics and of time between two rows of the log."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Meter:
    """Adds up what happens between two rows.

    Attributes:
      sums: metric -> [sum, weight] since the last row, in float64; saved with a checkpoint, so
        that the row after a resume is the one that an uninterrupted run writes.
      step_seconds: what one step took in the last dispatch; 0 before the first.
    """

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}
        self.step_seconds = 0.0
        self._mark = time.perf_counter()
        self.clear()

    def clear(self) -> None:
        """Begins the next row."""
        self.sums = {}
        self._parts = dict.fromkeys(("data", "dispatch", "wait"), 0.0)
        self._total, self._steps = 0.0, 0

    def start(self) -> None:
        """Time counts from now on: what was done since the last step was not training."""
        self._mark = time.perf_counter()

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
        """Returns seconds a step, by part and in all, and the rate of work.

        Args:
          unit: what the weight of the metric "loss" counts. flops: of one step.
          peak: FLOP/s of all devices, or None where it is unknown.
        """
        if not self._steps:  # a row right after a resume
            return {"time/step": math.nan, f"speed/{unit}_per_s": math.nan}
        row = {f"time/{part}": seconds / self._steps for part, seconds in self._parts.items()}
        row["time/step"] = self._total / self._steps
        row[f"speed/{unit}_per_s"] = self.sums.get("loss", [0.0, 0.0])[1] / self._total
        if peak:
            row["speed/mfu"] = flops * self._steps / self._total / peak
        return row


def shown(row: Mapping[str, float], unit: str) -> dict[str, float]:
    """Returns what a person watches, by short names, from a row of the log."""
    fields = {
        "loss": row.get("train/loss", math.nan),
        "grad": row.get("train/grad_norm", math.nan),
        "lr": row.get("train/lr", math.nan),
        f"{unit}/s": row[f"speed/{unit}_per_s"],
    }
    return fields | ({"mfu": row["speed/mfu"]} if "speed/mfu" in row else {})

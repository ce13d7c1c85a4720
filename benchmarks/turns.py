"""Processes that take turns at the same work on one machine, and the table of what they took.

A worker is a script that reads lines of JSON: the first says what to build, each later one how many
steps to take; it answers each of those with a line of JSON: `seconds`, `memory` (peak, bytes) and
what else it measured. Taking turns in one process group cancels a machine's slow drift; ratios of
neighbouring turns are what is reported.
"""

import json
import os
import statistics
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

HERE = Path(__file__).parent
# The same allocator settings for both sides: keep big blocks instead of giving them back.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(2**31 - 1), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_ARENA_MAX": "1",
}  # fmt: skip


class Worker:
    """One process that takes steps when it is asked to."""

    def __init__(self, python: str, script: str, told: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [python, str(HERE / script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, env={**os.environ, **ALLOCATOR, "PYTHONPATH": str(HERE.parent)},
        )  # fmt: skip
        self._tell(told)

    def _tell(self, words: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()

    def run(self, steps: int) -> dict[str, Any]:
        """Takes steps; returns what the worker measured."""
        return self.begin(steps)()

    def begin(self, steps: int) -> Callable[[], dict[str, Any]]:
        """Lets it begin; the function returned waits for what it measured."""
        self._tell({"steps": steps})
        return self._answer

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended; see its message above")
        return json.loads(line)  # type: ignore[no-any-return]


class Runs(Protocol):
    """What takes turns: a worker, or several that work together."""

    def run(self, steps: int) -> dict[str, Any]:
        """Takes steps; returns what was measured."""


def take_turns(
    everyone: Mapping[str, Runs], *, rounds: int, seconds: float, warm: int, most: int = 10_000
) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Warms up, then lets each worker take its turn in every round.

    Args:
      seconds: how long a turn of the first worker is, about. warm: steps before anything counts.
      most: the most steps a turn has.

    Returns:
      The steps of a turn, and for each worker its answers, one a round.
    """
    for worker in everyone.values():
        worker.run(warm)
    some = min(most, max(2, warm))
    first = next(iter(everyone.values())).run(some)["seconds"] / some
    steps = min(most, max(2, round(seconds / first)))
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in everyone}
    for _ in range(rounds):
        for name, worker in everyone.items():
            answers[name].append(worker.run(steps))
    return steps, answers


def ratios(answers: dict[str, list[dict[str, Any]]], name: str) -> tuple[float, float, float]:
    """Quartiles of how many times as fast as the first worker this one was, round by round."""
    base = next(iter(answers.values()))
    found = [b["seconds"] / a["seconds"] for b, a in zip(base, answers[name], strict=True)]
    low, middle, high = statistics.quantiles(found, n=4)
    return low, middle, high


def median_ms(rows: list[dict[str, Any]], steps: int) -> float:
    """Milliseconds a step, the median over the rounds."""
    return 1e3 * statistics.median(row["seconds"] for row in rows) / steps

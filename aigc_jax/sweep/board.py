"""What a person sees of a sweep while it runs: a table on a terminal, plain lines anywhere else."""

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState

from aigc_jax.core.units import clock, figure
from aigc_jax.sweep import folder
from aigc_jax.sweep.say import say

_WORDS = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_LONG = re.compile(r"\d+\.\d{7,}(e-?\d+)?")
_ROWS = 16  # of the table: what runs, then what ended last


class Board:
    """Shows trials; a context manager that gives the terminal back.

    Args:
      root: the sweep folder. sweep: what it says. say: takes a plain line.
      live: whether to draw a table; None looks whether stdout is a terminal.
    """

    def __init__(
        self,
        root: Path,
        sweep: folder.Sweep,
        say: Callable[[str], None] = say,
        live: bool | None = None,
    ) -> None:
        self.root, self.sweep, self.say = root, sweep, say
        plain = not sys.stdout.isatty() or os.environ.get("TERM", "") in ("dumb", "")
        self._wants_live = not plain if live is None else live
        self._live: Any = None
        self._ended: set[int] = set()
        self._begin = time.monotonic()
        self._first: int | None = None  # trials that had ended before this start

    def __enter__(self) -> Self:
        if self._wants_live:
            from rich.live import Live

            self._live = Live(auto_refresh=False, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, known: Sequence[FrozenTrial], workers: Sequence[str]) -> None:
        """Shows how the trials stand now: the newest of each id. workers: their names."""
        ended = [trial for trial in known if trial.state in _ENDED]
        if self._first is None:
            self._first = len(ended)
            self._ended = {trial.number for trial in ended}
            if ended:
                self.say(f"{len(ended)} of {len(known)} trials have ended before")
        new = [trial for trial in ended if trial.number not in self._ended]
        before = len(ended) - len(new)
        for place, trial in enumerate(sorted(new, key=_when), before + 1):
            self._ended.add(trial.number)
            # The table has no room for why; it redirects what is printed to above itself.
            if self._live is None or trial.state == TrialState.FAIL:
                self.say(f"[{place}/{len(known)}] {said_of(trial, self.sweep.metric)}")
        if self._live is not None:
            self._live.update(self._table(known, len(workers)), refresh=True)

    def eta(self, known: Sequence[FrozenTrial]) -> float | None:
        """Seconds until all have ended, as fast as it went since this start; None: not known."""
        ended = sum(trial.state in _ENDED for trial in known)
        new = ended - (self._first or 0)
        if new <= 0:
            return None
        return (len(known) - ended) * (time.monotonic() - self._begin) / new

    def _table(self, known: Sequence[FrozenTrial], workers: int) -> Any:
        from rich.table import Table

        ended = [trial for trial in known if trial.state in _ENDED]
        running = [trial for trial in known if trial.state == TrialState.RUNNING]
        best = best_of(known, self.sweep.direction)
        eta = self.eta(known)
        title = f"{self.root}: {len(ended)} of {len(known)} trials"
        title += f", {workers} worker{'s' * (workers != 1)}" if workers else ""
        title += f", best {figure(best.value)}" if best and best.value is not None else ""
        title += f", eta {clock(eta)}" if eta else ""
        table = Table(title=title, title_justify="left")
        for name in ("trial", "state", "step", self.sweep.metric, "time"):
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        recent = sorted(ended, key=_when, reverse=True)
        for trial in [*running, *recent][:_ROWS]:
            step, value = _progress(self.root, trial, self.sweep.metric)
            state = _WORDS[trial.state] + (" (best)" if trial is best else "")
            table.add_row(_short(name_of(trial)), state, step, value, clock(_seconds(trial)))
        return table


def _short(name: str) -> str:
    """A folder's name with its drawn numbers to six digits; the id at its end tells it apart."""
    return _LONG.sub(lambda found: f"{float(found[0]):.6g}", name)


def _when(trial: FrozenTrial) -> str:
    return str(trial.datetime_complete)


def name_of(trial: FrozenTrial) -> str:
    """What a trial is called: its run folder's name, or the first of them."""
    runs = trial.user_attrs.get("runs") or [f"trial {trial.number}"]
    return f"{runs[0]} and {len(runs) - 1} more" if len(runs) > 1 else str(runs[0])


def said_of(trial: FrozenTrial, metric: str) -> str:
    """One line on a trial that has ended."""
    line = f"{name_of(trial)}: {_WORDS[trial.state]}"
    if trial.state == TrialState.FAIL:
        return f"{line}: {trial.user_attrs.get('error', 'its process died again and again')}"
    if trial.value is not None:
        line += f", {metric} {figure(trial.value)}"
    return f"{line} ({clock(_seconds(trial))})"


def best_of(known: Sequence[FrozenTrial], direction: str) -> FrozenTrial | None:
    """The best of the trials that are finished, or None."""
    done = [t for t in known if t.state == TrialState.COMPLETE and t.value is not None]
    sign = -1 if direction == "maximize" else 1
    return min(done, key=lambda t: sign * (t.value or 0.0), default=None)


def summary(root: Path, sweep: folder.Sweep, known: Sequence[FrozenTrial]) -> list[str]:
    """What to say at the end."""
    counts = [
        f"{sum(trial.state == state for trial in known)} {word}"
        for state, word in _WORDS.items()
        if any(trial.state == state for trial in known)
    ]
    lines = [f"{root}: {len(known)} trials: {', '.join(counts) or 'none'}"]
    best = best_of(known, sweep.direction)
    if best is not None:
        lines.append(f"best {sweep.metric} {figure(best.value or 0.0)}: {root / name_of(best)}")
    return lines


def _progress(root: Path, trial: FrozenTrial, metric: str) -> tuple[str, str]:
    """How far a trial is, and its latest score."""
    if trial.state in _ENDED:
        return "", "" if trial.value is None else figure(trial.value)
    for name in reversed(trial.user_attrs.get("runs") or []):
        try:
            said = json.loads((root / name / "status.json").read_text(encoding="utf-8"))
            value = float(said["last"].get(metric, math.nan))
            shown = "" if math.isnan(value) else figure(value)
            return f"{said['step']}/{said['steps']}", shown
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "", ""


def _seconds(trial: FrozenTrial) -> float:
    if trial.datetime_start is None:
        return 0.0
    import datetime

    end = trial.datetime_complete or datetime.datetime.now()
    return (end - trial.datetime_start).total_seconds()

"""One trial of a group: what it is, and what it writes."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.core import past
from aigc_jax.core.task import State, Weights
from aigc_jax.train.checkpoint import Checkpoints
from aigc_jax.train.log import MetricsLog, Status
from aigc_jax.train.meter import Meter
from aigc_jax.train.settings import Settings

Evaluator = Callable[[Any, int], dict[str, float]]


class Trial(NamedTuple):
    """One member of a group.

    Attributes:
      workdir: its run folder; it exists and is ours. config: whole, for the loggers.
      seed, hyper: what it differs in. batch_at: step -> its batch; one object for trials that see
        the same.
      evaluators: as the loop's. place: puts its weights where these expect them.
      lane: trials of different lanes may be evaluated at the same time.
      command: what goes on with it alone.
    """

    workdir: Path
    config: Mapping[str, Any]
    seed: int
    hyper: Mapping[str, float]
    batch_at: Callable[[int], dict[str, np.ndarray]]
    evaluators: Mapping[str, Evaluator]
    command: str
    place: Callable[[Weights], Weights] = lambda weights: weights
    lane: int = 0


class Desk:
    """What a trial writes with: log, status, checkpoints.

    Attributes:
      bad: steps that were undone. last: its newest value of each metric.
      over: "" while it goes on, else its last state ("finished", "stopped" or "failed").
      reason: why it failed.
    """

    def __init__(self, trial: Trial, settings: Settings) -> None:
        self.trial, self.settings, self.meter, self.bad = trial, settings, Meter(), 0
        self.last: dict[str, float] = {}
        self.over, self.reason = "", ""
        self.store = Checkpoints(trial.workdir / "checkpoints", keep=settings.keep)
        self.log: MetricsLog | None = None

    def open(self, start: int, notes: Mapping[str, Any] | None) -> None:
        """Opens the log at a step; `notes` are its checkpoint's, None for a new run."""
        if notes is not None:
            self.bad = notes["bad"]
            self.meter.sums = {name: list(pair) for name, pair in notes["window"].items()}
            self.last = {name: float(value) for name, value in notes["last"].items()}
        self.status = Status(self.trial.workdir)
        self.status.start(start)
        self.log = MetricsLog(
            self.trial.workdir,
            keep_to=None if notes is None else start,
            keep_evaluation=notes is not None and notes["evaluated"] == start,
            tensorboard=self.settings.tensorboard,
            wandb=self.settings.wandb,
            config=self.trial.config,
            run_name=self.trial.workdir.name,
        )

    def write(self, step: int, row: dict[str, float], wall: float) -> None:
        """Adds a row to the log."""
        assert self.log is not None
        self.log.write(step, row, wall)
        self.last.update(row)

    def save(self, state: State, wall: float, evaluated: int | None) -> None:
        """Saves a checkpoint in the background."""
        assert self.log is not None
        self.log.flush()
        notes = {
            "shift": 0,
            "bad": self.bad,
            "evaluated": evaluated,
            "wall": wall,
            "window": {name: list(pair) for name, pair in self.meter.sums.items()},
            "last": {name: repr(float(value)) for name, value in self.last.items()},
            "hyper": past.noted(self.trial.hyper),
        }
        self.store.save(state, notes, {})

    def say(self, kind: str, reason: str, step: int, wall: float) -> None:
        """Writes the status; it tells of the trial's own command, not of the sweep's."""
        own = {"command": shlex.split(self.trial.command)} if self.trial.command else {}
        self.status.write(
            kind, reason=reason, step=step, steps=self.settings.steps, wall=wall, last=self.last,
            next="" if kind == "finished" else self.trial.command, **own,
        )  # fmt: skip

    def end(self, kind: str, reason: str, step: int, wall: float) -> None:
        """Writes the last status, once what was saved is on the disk."""
        self.store.finish()
        self.say(kind, reason, step, wall)
        self.over = kind

    def close(self) -> None:
        """Closes the files."""
        self.store.close()
        if self.log is not None:
            self.log.close()

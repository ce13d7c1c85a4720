"""A group of trials that run as one program, each with a run folder as if it had run alone."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aigc_jax.core.task import Task, weights
from aigc_jax.sweep import vectorised
from aigc_jax.train import guard
from aigc_jax.train.checkpoint import Checkpoints
from aigc_jax.train.log import MetricsLog, Status
from aigc_jax.train.meter import Meter
from aigc_jax.train.settings import Settings
from aigc_jax.train.signals import Interrupted, Signals

Evaluator = Callable[[Any, int], dict[str, float]]


class Trial(NamedTuple):
    """One member of a group.

    Attributes:
      workdir: its run folder; it exists and is ours. config: whole, for the loggers.
      seed, hyper: what it differs in. batch_at: step -> its batch.
      evaluators: as the loop's. command: what goes on with it alone.
    """

    workdir: Path
    config: Mapping[str, Any]
    seed: int
    hyper: Mapping[str, float]
    batch_at: Callable[[int], dict[str, np.ndarray]]
    evaluators: Mapping[str, Evaluator]
    command: str


class _Desk:
    """What a trial writes with; `notes` are its checkpoint's, None for a new one."""

    def __init__(
        self, trial: Trial, settings: Settings, start: int, notes: Mapping[str, Any] | None
    ) -> None:
        self.trial, self.meter, self.bad = trial, Meter(), 0
        self.last: dict[str, float] = {}
        if notes is not None:
            self.bad = notes["bad"]
            self.meter.sums = {name: list(pair) for name, pair in notes["window"].items()}
            self.last = {name: float(value) for name, value in notes["last"].items()}
        self.status = Status(trial.workdir)
        self.status.start(start)
        self.log = MetricsLog(
            trial.workdir,
            keep_to=None if notes is None else start,
            keep_evaluation=notes is not None and notes["evaluated"] == start,
            tensorboard=settings.tensorboard,
            wandb=settings.wandb,
            config=trial.config,
            run_name=trial.workdir.name,
        )

    def write(self, step: int, row: dict[str, float], wall: float) -> None:
        self.log.write(step, row, wall)
        self.last.update(row)


class Group:
    """Runs trials together. `run()` starts them or goes on with them.

    A step that goes bad (`train.guard`) is undone for its trial alone; the others never notice.

    Args:
      task: what all of them learn. trials: at least one; all with the same shapes.
      settings: the section `run` of all, but for the seed. signals: installed by the caller.
      say: takes a line for the person who watches.
    """

    def __init__(
        self,
        task: Task,
        trials: Sequence[Trial],
        *,
        settings: Settings,
        signals: Signals,
        say: Callable[[str], None] = print,
    ) -> None:
        self.task, self.trials, self.settings = task, list(trials), settings
        self.signals, self.say = signals, say
        self.step, self.walls = 0, 0.0
        self.evaluated: int | None = None
        self._born = time.perf_counter()

    @property
    def wall(self) -> float:
        """Seconds over all starts. All trials share them."""
        return self.walls + time.perf_counter() - self._born

    def run(self) -> str:
        """Trains to the end (returns "") or to a signal (returns its name)."""
        stores = [
            Checkpoints(t.workdir / "checkpoints", keep=self.settings.keep) for t in self.trials
        ]
        try:
            notes = self._open(stores)
            desks = [
                _Desk(t, self.settings, self.step, said)
                for t, said in zip(self.trials, notes, strict=True)
            ]
            try:
                return self._steps(stores, desks)
            finally:
                for desk in desks:
                    desk.log.close()
        finally:
            for store in stores:
                store.close()

    def _open(self, stores: list[Checkpoints]) -> list[Any]:
        """Compiles, and restores the trials where all of them have a checkpoint of one step.

        Returns:
          The notes saved with each trial, or None for each.
        """
        trials = [(t.seed, t.hyper) for t in self.trials]
        shapes = self.trials[0].batch_at(0)
        from aigc_jax.train.program import capacity

        most = capacity(
            self.settings.steps_per_call,
            {f"{i}/{n}": x for i in range(len(trials)) for n, x in shapes.items()},
        )
        init = guard.guarded_init(self.task.init)
        step = guard.guarded_step(self.task.step, policy="skip", spike=self.settings.spike)
        self.together = vectorised.build(init, step, trials, shapes, most)
        common = set.intersection(*(set(store.steps()) for store in stores))
        if not common:
            return [None] * len(self.trials)
        self.step = max(common)
        target = jax.eval_shape(lambda s: vectorised.trial(s, 0), self.together.state)
        here = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), target)
        found = [store.restore(target, here, self.step) for store in stores]
        parts, notes = zip(*[pair for pair in found if pair is not None], strict=True)
        self.together = self.together._replace(state=vectorised.stack(parts, self.together.state))
        self.walls = max(float(said["wall"]) for said in notes)
        # All were saved together, so one speaks for all.
        self.evaluated = notes[0]["evaluated"]
        self.say(f"resumed {len(parts)} trials at step {self.step}")
        return list(notes)

    def _due(self, every: int) -> bool:
        return self.step >= self.settings.steps or bool(every and self.step % every == 0)

    def _steps(self, stores: list[Checkpoints], desks: list[_Desk]) -> str:
        s, state = self.settings, self.together.state
        while True:
            due = self._due(s.eval_every) and self.evaluated != self.step
            if due and not self.signals.asked:
                try:
                    self._evaluate(state, desks)
                    self.evaluated = self.step
                except Interrupted:
                    pass
            ended, asked = self.step >= s.steps, self.signals.asked
            if ended or asked or (self.step and self._due(s.save_every)):
                self._save(state, stores, desks)
            if ended or asked:
                for store, desk in zip(stores, desks, strict=True):
                    store.finish()
                    kind = "stopped" if asked and not ended else "finished"
                    self._write_status(desk, kind, asked or "")
                return "" if ended else asked or ""
            marks = [e - self.step % e for e in (s.log_every, s.eval_every, s.save_every) if e]
            n = max(1, min(self.together.capacity, s.steps - self.step, *marks))
            # One trial after another: its order of examples is at hand then.
            rows = [[t.batch_at(self.step + i) for i in range(n)] for t in self.trials]
            state, metrics = self.together.run(state, self.together.place(rows), np.int32(n))
            self._read(jax.device_get(metrics), n, desks)

    def _read(self, metrics: dict[str, Any], n: int, desks: list[_Desk]) -> None:
        """Adds up n steps of every trial; writes a row where one is due."""
        for i in range(n):
            for j, desk in enumerate(desks):
                values = {
                    name: (float(a[i, j]), float(b[i, j])) for name, (a, b) in metrics.items()
                }
                if values.pop("bad")[0]:
                    desk.bad += 1
                else:
                    desk.meter.add(values)
        self.step += n
        if not self._due(self.settings.log_every):
            return
        losses = []
        for desk in desks:
            means = desk.meter.means()
            row = {f"train/{k}": v for k, v in self.task.finish(means).items()} if means else {}
            if desk.bad:
                row["train/bad_total"] = float(desk.bad)
            desk.write(self.step, row, self.wall)
            losses.append(row.get("train/loss", math.nan))
            desk.meter.clear()
            self._write_status(desk, "running", "")
        spread = f"{np.nanmin(losses):.4f} to {np.nanmax(losses):.4f}"
        self.say(f"step {self.step}/{self.settings.steps}  loss {spread}  {self.wall:.0f} s")

    def _evaluate(self, state: Any, desks: list[_Desk]) -> None:
        for i, desk in enumerate(desks):
            judged, row = weights(vectorised.trial(state, i)), {}
            for evaluate in desk.trial.evaluators.values():
                self.signals.raise_if_asked()
                row.update(evaluate(judged, self.step))
            if row:
                desk.write(self.step, row, self.wall)

    def _save(self, state: Any, stores: list[Checkpoints], desks: list[_Desk]) -> None:
        for i, (store, desk) in enumerate(zip(stores, desks, strict=True)):
            desk.log.flush()
            notes = {
                "shift": 0,
                "bad": desk.bad,
                "evaluated": self.evaluated,
                "wall": self.wall,
                "window": {name: list(pair) for name, pair in desk.meter.sums.items()},
                "last": {name: repr(float(value)) for name, value in desk.last.items()},
            }
            store.save(vectorised.trial(state, i), notes, {})

    def _write_status(self, desk: _Desk, state: str, reason: str) -> None:
        desk.status.write(
            state, reason=reason, step=self.step, steps=self.settings.steps, wall=self.wall,
            last=desk.last, next="" if state == "finished" else desk.trial.command,
        )  # fmt: skip

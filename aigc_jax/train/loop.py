"""The one training loop. It is handed a task and knows no family of models.

At every step s, in this order: evaluate, save, look for signals, and only then draw data and take
the next steps. So what is saved at s has been evaluated at s, and a resumed run repeats nothing.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from aigc_jax.core import past
from aigc_jax.core.flops import count_flops
from aigc_jax.core.task import State, Task, Weights, weights
from aigc_jax.errors import StorageError, UserError
from aigc_jax.train import fingerprint, guard, peak, peers, program, sharding, shards
from aigc_jax.train.autopsy import dump
from aigc_jax.train.checkpoint import Checkpoints
from aigc_jax.train.ledger import Ledger
from aigc_jax.train.log import MetricsLog, NoLog, warn
from aigc_jax.train.meter import Meter, shown
from aigc_jax.train.profile import Trace
from aigc_jax.train.progress import Progress
from aigc_jax.train.records import Records
from aigc_jax.train.settings import Settings
from aigc_jax.train.signals import Interrupted, Signals

Evaluator = Callable[[Weights, int], dict[str, float]]


class Outcome(NamedTuple):
    """How a run ended: "finished" or "stopped" (by the signal `reason`), and with what."""

    kind: str
    reason: str
    state: State
    last: dict[str, float]


class _Call(NamedTuple):
    """A dispatch whose metrics have not been fetched."""

    first: int
    n: int
    metrics: Any


class Loop:
    """One run. `run()` starts it or goes on with it.

    Args:
      task: what is learned.
      batch_at: step -> this host's rows of the batch, as NumPy arrays.
      evaluators: by name; each gives metrics, named whole ("validation/loss").
      placement: the mesh and its rules.
      settings: the section `run`.
      hyper: the section `hyper`.
      workdir: the run folder; it exists and is ours.
      signals: installed by the caller.
      config: the whole config, for the loggers.
      unit: what the weight of the metric "loss" counts, "tokens" or "images".
      changed_hyper: names in `hyper` whose configured value replaces the restored one.
      prepare: changes a fresh state (weights from another run).
      opened: called once the state is there and the step compiled, before anything is written
        about it: a start that fails earlier leaves the folder as it was.
      command: what to type to go on.
      told: takes (step, scores) after each evaluation; it may ask `signals` to stop the run there.
      profile: which steps are traced.
    """

    def __init__(
        self,
        task: Task,
        batch_at: Callable[[int], dict[str, np.ndarray]],
        evaluators: Mapping[str, Evaluator],
        placement: sharding.Placement,
        *,
        settings: Settings,
        hyper: Mapping[str, float],
        workdir: Path,
        signals: Signals,
        config: Mapping[str, Any],
        unit: str = "examples",
        changed_hyper: tuple[str, ...] = (),
        prepare: Callable[[State], State] = lambda state: state,
        opened: Callable[[], None] = lambda: None,
        command: str = "",
        told: Callable[[int, dict[str, float]], None] = lambda step, scores: None,
        profile: Trace | None = None,
    ) -> None:
        settings.check()
        self.task, self.batch_at, self.evaluators = task, batch_at, evaluators
        self.placement, self.settings, self.workdir = placement, settings, workdir
        self.signals, self.config, self.unit = signals, config, unit
        self.hyper, self.changed_hyper, self.prepare = dict(hyper), changed_hyper, prepare
        self.opened, self.command, self.told = opened, command, told
        self.profile, self.meter = profile or Trace(), Meter(warn)
        self._init = guard.guarded_init(task.init)
        self._step = guard.guarded_step(task.step, policy=settings.on_bad, spike=settings.spike)
        if settings.fingerprint:
            self._step = fingerprint.stamped(self._step, int(settings.fingerprint))
        self.step = self.bad = self.shift = 0  # shift: batches that rollbacks have passed over
        self.evaluated: int | None = None
        self._pending: _Call | None = None
        self._shapes: Any = None  # of a batch, once something is compiled for it
        self._wall_before, self._born = 0.0, time.perf_counter()
        self._last_save = self._born

    # --- beginning ---------------------------------------------------------------------------

    def _fresh(self) -> tuple[Any, ...]:
        arrays = {name: np.float32(value) for name, value in self.hyper.items()}
        return jax.random.key(self.settings.seed), arrays

    def _open(self) -> float:
        """Restores the newest checkpoint, or makes a new state; returns the clock saved with it."""
        self.step, self.shift, self.evaluated = 0, 0, None
        self.meter.clear()
        abstract = jax.eval_shape(self._init, *self._fresh())
        restored = self.checkpoints.restore(abstract, self.placement.state(abstract))
        self._restored = restored is not None
        if restored is None:
            self.state = self.prepare(sharding.create(self.placement, self._init, *self._fresh()))
            return 0.0
        self.state, notes = restored
        before = self.state.hyper
        new = past.moved(notes, self.hyper, self.changed_hyper)
        new = {n: jax.device_put(np.float32(v), before[n].sharding) for n, v in new.items()}
        self.state = self.state.replace(hyper={**before, **new})
        self.step = int(self.state.step)
        self.shift, self.evaluated = notes["shift"], notes["evaluated"]
        self.bad = max(self.bad, notes["bad"])
        self.meter.sums = {name: list(pair) for name, pair in notes["window"].items()}
        self.records.last = {name: float(value) for name, value in notes["last"].items()}
        return float(notes["wall"])

    @property
    def log(self) -> MetricsLog | NoLog:
        """Where evaluators show texts and pictures; there is none before the first step."""
        return self.records.log

    def _open_records(self) -> None:
        keep_to = self.step if self._restored else None
        self.records.open(keep_to, self.evaluated == self.step, self.state, self._shapes)

    def _compile(self) -> None:
        rows = self.batch_at(self.step + self.shift)
        self._shapes = shape = program.global_batch(rows, self.placement)
        abstract = jax.eval_shape(lambda s: s, self.state)
        self.program = program.build(
            self._step, abstract, shape, self.placement, self.settings.steps_per_call
        )
        self.flops = count_flops(self.task.step, abstract, shape)
        self.peak = peak.Peak()

    # --- the loop ----------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Trains to the end, or until a signal.

        Raises:
          BadNumbers: see `Settings.on_bad`. StorageError: the disk; the last checkpoint is whole.
        """
        with Ledger(lambda: self.step, warn) as ledger:
            self.records = Records(self.workdir, self.settings, self.config, ledger, self.command)
            return self._run()

    def _run(self) -> Outcome:
        s = self.settings
        self._write_status("running", "starting")
        peers.here().on_end = lambda words: self._write_status("failed", words)
        self.checkpoints = Checkpoints(
            self.workdir / "checkpoints", keep=s.keep, best=s.best, keep_best=s.keep_best, warn=warn
        )
        try:
            self._wall_before = self._open()
            self.records.start(self.step)
            with Progress(s.steps, self.step, unit="steps") as self.progress:
                if self.placement.mesh.size > 1:
                    self.progress.note(self.placement.words(self.state))
                if self.step:
                    self.progress.note(f"resumed {self.workdir} at step {self.step}")
                if self.step < s.steps and not peers.here().agree(self.signals.asked):
                    self.progress.doing("compiling")
                    self._compile()
                    self.progress.doing("")
                self.opened()
                self._open_records()
                reason = self._steps()
                if words := self.records.compiled:
                    self.progress.note(words)
        except BaseException as error:
            peers.here().settle()
            self.checkpoints.close()
            with contextlib.suppress(StorageError):  # the first error is the one to tell
                self._write_status("failed", str(error).split("\n")[0] or type(error).__name__)
            raise
        finally:
            self.profile.close()
            self.checkpoints.close()
            self.records.close()
        kind = "stopped" if reason else "finished"
        self._write_status(kind, reason)
        return Outcome(kind, reason, self.state, self.records.last)

    def _steps(self) -> str:
        """Runs until the end (returns "") or a signal (returns its name)."""
        self.meter.start()
        while True:
            try:
                if self._due(self.settings.eval_every) and self.evaluated != self.step:
                    self._drain()
                    self._evaluate()
                ended = self.step >= self.settings.steps
                # What clocks and signals say differs from process to process: one decides.
                asked, save, n = peers.here().agree(self._plan(ended))
                if save:
                    self._save()
                if ended or asked:
                    self.checkpoints.finish()
                    return "" if ended and self.evaluated == self.step else asked or ""
                self._advance(n)
            except guard.Rollback as bad:
                self._roll_back(bad)

    def _plan(self, ended: bool) -> tuple[str | None, bool, int]:
        """Which signal has come, whether to save, and how many steps to take then."""
        asked = self.signals.asked
        if ended or asked:
            return asked, True, 0
        n = self.settings.ahead(self.step, self.program.capacity, self.meter.step_seconds)
        return None, self._save_due(), self.profile.cut(self.step, n)

    def _save_due(self) -> bool:
        minutes = (time.perf_counter() - self._last_save) / 60
        late = bool(self.settings.save_minutes) and minutes > self.settings.save_minutes
        return late or (self.step > 0 and self._due(self.settings.save_every))

    def _due(self, every: int) -> bool:
        return self.step >= self.settings.steps or bool(every and self.step % every == 0)

    def _advance(self, n: int) -> None:
        """Sends n steps to the devices, then reads the metrics of the dispatch before."""
        self.profile.before(self.step, self._drain)
        with self.meter.timed("data"):
            rows = [self.batch_at(self.step + self.shift + i) for i in range(n)]
        with self.meter.timed("dispatch"), self.profile.step(self.step):
            batches = program.stack(rows, self.program.capacity, self.placement)
            self.state, metrics = self.program.run(self.state, batches, np.int32(n))
        sent, self.step = _Call(self.step, n, metrics), self.step + n
        self._drain(sent)
        self.profile.after(self.step, self._drain)

    def _drain(self, sent: _Call | None = None) -> None:
        """Reads the metrics that are still on the devices, but those of what was just sent."""
        before, self._pending = self._pending, sent
        if before is not None:
            self._read(before)

    def _read(self, call: _Call) -> None:
        with self.meter.timed("wait"):
            metrics = jax.device_get(call.metrics)
        self.meter.done(call.n)
        if fingerprint.METRIC in metrics:
            self.records.prints(call.first, metrics.pop(fingerprint.METRIC)[: call.n])
        for i in range(call.n):
            values = {name: (float(a[i]), float(b[i])) for name, (a, b) in metrics.items()}
            if values["bad"][0]:
                self._on_bad(call.first + i, values)
            else:
                del values["bad"]
                self.meter.add(values)
        s, end = self.settings, call.first + call.n
        if end >= s.steps or (s.log_every and end % s.log_every == 0):
            self._log_row(end)
        else:
            self.progress.advance(end)

    # --- what happens at boundaries ----------------------------------------------------------

    @property
    def wall(self) -> float:
        """Seconds of this run over all its starts."""
        return self._wall_before + time.perf_counter() - self._born

    def _log_row(self, step: int) -> None:
        self.checkpoints.seal()
        means = self.meter.means()  # of none, where every step was bad
        row = {f"train/{name}": v for name, v in self.task.finish(means).items()} if means else {}
        row |= self.meter.speeds(self.unit, self.flops, self.peak.value)
        if self.bad:
            row["train/bad_total"] = float(self.bad)
        self.records.write(step, row, self.wall)
        self.progress.update(step, shown(row, self.unit), row["time/step"])
        self._write_status("running", "")
        self.meter.clear()

    def _evaluate(self) -> None:
        """Runs all evaluators; a signal gives it up, and the next start evaluates here again."""
        s = self.settings
        self.progress.doing("evaluating")
        row: dict[str, float] = {}
        judged = weights(self.state)
        try:
            for evaluate in self.evaluators.values():
                self.signals.raise_if_asked()
                row.update(evaluate(judged, self.step))
        except Interrupted:
            return
        except UserError as error:
            # What an evaluator refuses can be mended, and the same command goes on from here.
            if self.step and type(error) is UserError and jax.process_count() == 1:
                self._save()
                self.checkpoints.finish()
            raise
        finally:
            self.progress.doing("")
            if hasattr(self, "peak"):
                self.peak.measure()
            self.meter.passed("evaluation")
        if row:
            s.check_best(row, begins=self.step == 0)
            self.records.write(self.step, row, self.wall)
            words = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
            self.progress.note(f"step {self.step}  {words}")
        self.evaluated = self.step
        self.told(self.step, row)

    def _save(self) -> None:
        self._drain()
        self.records.flush()
        notes = {
            "shift": self.shift,
            "bad": self.bad,
            "evaluated": self.evaluated,
            "wall": self.wall,
            # A copy: the notes are written in the background, while the next steps are added.
            "window": {name: list(pair) for name, pair in self.meter.sums.items()},
            "last": {name: repr(float(value)) for name, value in self.records.last.items()},
            "hyper": past.noted(self.hyper),
        }
        self.checkpoints.save(self.state, notes, self.records.scores(self.step))
        self._last_save = time.perf_counter()
        self.meter.passed("save")

    def _write_status(self, state: str, reason: str) -> None:
        eta = self.progress.eta if hasattr(self, "progress") else None
        self.records.status(
            state, reason, step=self.step, steps=self.settings.steps, wall=self.wall, eta_s=eta
        )

    # --- bad numbers -------------------------------------------------------------------------

    def _on_bad(self, step: int, pairs: dict[str, tuple[float, float]]) -> None:
        """Counts a bad step; dumps what made it; stops, or goes back behind it."""
        policy, index = self.settings.on_bad, step + self.shift
        self.bad += 1
        metrics = {n: total / weight for n, (total, weight) in pairs.items() if weight}
        loss, norm = (metrics.get(name, math.nan) for name in ("loss", "grad_norm"))
        what = f"step {step}: loss {loss:.4g}, gradient norm {norm:.4g}"
        batch = self.batch_at(index)
        if policy == "skip" and self.bad <= self.settings.max_bad:
            folder, _ = dump(self.workdir, step, metrics, batch, index)
            self.progress.note(f"bad numbers at {what}; skipped, see {folder}")
            return
        self._pending = None
        folder, found = dump(
            self.workdir, step, metrics, shards.gather(batch, self.placement), index,
            state=shards.copy(self._replay(step), self.placement), step_fn=self.task.step,
        )  # fmt: skip
        if policy != "rollback" or self.bad > self.settings.max_bad:
            raise guard.stopping(policy, what, self.bad, found, folder)
        raise guard.Rollback(step, what)

    def _roll_back(self, bad: guard.Rollback) -> None:
        """Goes on from the last checkpoint, with the batches that follow the bad one."""
        shift = self.shift
        self._open()
        self.shift = shift + bad.step - self.step + 1
        self._open_records()
        self.progress.note(f"bad numbers at {bad.what}; back to step {self.step}")
        self.meter.start()

    def _replay(self, step: int) -> State:
        """Returns the state before `step`, by going through the steps since the checkpoint."""
        shift = self.shift
        self.checkpoints.finish()
        self._open()
        self.shift = shift
        while self.step < step:
            rows = [self.batch_at(self.step + shift)]
            batches = program.stack(rows, self.program.capacity, self.placement)
            self.state, _ = self.program.run(self.state, batches, np.int32(1))
            self.step += 1
        return self.state

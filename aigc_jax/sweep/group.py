"""A group of trials that run as one program, each with a run folder as if it had run alone."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import State, Task, weights
from aigc_jax.errors import UserError
from aigc_jax.sweep import criterion, vectorised
from aigc_jax.sweep.criterion import NoMetricError
from aigc_jax.sweep.desk import Desk, Trial
from aigc_jax.sweep.halving import Halving
from aigc_jax.sweep.say import say
from aigc_jax.train import guard
from aigc_jax.train.ledger import Ledger
from aigc_jax.train.program import capacity
from aigc_jax.train.settings import Settings
from aigc_jax.train.signals import Interrupted, Signals

PRUNED = "pruned"  # why a trial that lost has stopped


class TooBig(Exception):
    """The trials don't fit into memory together: so many bytes."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Group:
    """Runs trials together. `run()` starts them or goes on with them.

    A step that goes bad (`train.guard`) is undone for its trial alone. Once a trial has had as many
    as its settings allow (none, unless run.on_bad is "skip"; "rollback" counts as "skip" here) it
    has failed: it is computed on, unread, until at most half of the program's trials are alive;
    these then get a program of their own. The others never notice.

    Args:
      task: what all of them learn. trials: at least one; all with the same shapes.
      settings: the section `run` of all, but for the seed. signals: installed by the caller.
      prepare: changes a fresh state (weights from another run).
      metric: what trials are judged by, which their evaluations must give; "" for nothing.
      halving: stops the losers on the way, or None. number: trials at the first start, of which
        some may have ended before this one; 0 for those given.
      split: devices that trials leave over share the rows of each trial's batches.
      room: bytes that there are on a device; 0 for no limit.
      say: takes a line for the person who watches.

    Attributes:
      desks: one a trial, with its end; after `run`, `desk.over` says how each ended.
    """

    def __init__(
        self,
        task: Task,
        trials: Sequence[Trial],
        *,
        settings: Settings,
        signals: Signals,
        prepare: Callable[[State], State] | None = None,
        metric: str = "",
        halving: Halving | None = None,
        number: int = 0,
        split: bool = False,
        room: int = 0,
        say: Callable[[str], None] = say,
    ) -> None:
        self.task, self.settings, self.signals = task, settings, signals
        self.prepare, self.split, self.room, self.say = prepare, split, room, say
        self.metric, self.halving = metric, halving
        self.number = number or len(trials)
        self.desks = [Desk(trial, settings) for trial in trials]
        self.going = list(self.desks)  # one a row of the state; those that failed stand in it too
        self.rungs = halving.steps(settings.steps, settings.eval_every) if halving else []
        self.step, self.walls = 0, 0.0
        self.evaluated: int | None = None
        self._born = time.perf_counter()

    @property
    def wall(self) -> float:
        """Seconds over all starts. All trials share them."""
        return self.walls + time.perf_counter() - self._born

    @property
    def alive(self) -> list[Desk]:
        """Those that go on."""
        return [desk for desk in self.going if not desk.over]

    def run(self) -> str:
        """Trains to the end (returns "") or to a signal (returns its name).

        Raises:
          TooBig: before anything has run or was written. NoMetricError: after an evaluation that
            did not give the metric; UserError: an evaluator refused. All trials are saved then.
        """
        try:
            # A program of their own for those that are left is no mistake: nothing is warned of.
            with Ledger(lambda: self.step, lambda line: None) as self._ledger:
                self._open()
                return self._steps()
        finally:
            for desk in self.desks:
                desk.close()

    # --- beginning ---------------------------------------------------------------------------

    def _mesh(self) -> Any:
        """Where the states of those that go on live."""
        rows = self.settings.batch_size if self.split else 1
        return vectorised.mesh_of(len(self.going), rows)

    def _compile(self) -> None:
        """Makes the program for the rows that the state has now."""
        trials = [desk.trial for desk in self.going]
        self.shared = all(trial.batch_at is trials[0].batch_at for trial in trials)
        shapes = trials[0].batch_at(0)
        copies = 1 if self.shared else len(trials)
        arrays = {f"{i}/{name}": x for i in range(copies) for name, x in shapes.items()}
        most = capacity(self.settings.steps_per_call, arrays)
        step = guard.guarded_step(self.task.step, policy="skip", spike=self.settings.spike)
        self.program = vectorised.build(
            step, self.state, shapes, most, self._mesh(), shared=self.shared
        )

    def _open(self) -> None:
        """Makes or restores the states, compiles, opens the logs."""
        init = guard.guarded_init(self.task.init)
        trials = [(desk.trial.seed, desk.trial.hyper) for desk in self.going]
        common = set.intersection(*(set(desk.store.steps()) for desk in self.going))
        notes: list[Any] = [None] * len(trials)
        if common:
            self.step = max(common)
            self.state, notes = self._restored(init)
            self.walls = max(float(said["wall"]) for said in notes)
            # All were saved together, so one speaks for all.
            self.evaluated = notes[0]["evaluated"]
        else:
            self.state = vectorised.begin(init, trials, self._mesh())
            if self.prepare is not None:
                rows = range(len(trials))
                self.state = vectorised.stack(
                    [self.prepare(vectorised.trial(self.state, i)) for i in rows], self._mesh()
                )
        self._compile()
        if self.room and self.program.size > self.room and len(trials) > 1:
            raise TooBig(self.program.size)
        if common:
            self.say(f"resumed {len(trials)} trials at step {self.step}")
        for desk, said in zip(self.going, notes, strict=True):
            desk.open(self.step, said)
        folders = [desk.trial.workdir for desk in self.going]
        self._ledger.open(*folders, start=self.going[0].status.starts)

    def _restored(self, init: Any) -> tuple[State, list[Any]]:
        trial = self.going[0].trial
        hyper = {name: np.float32(value) for name, value in trial.hyper.items()}
        target = jax.eval_shape(init, jax.random.key(0), hyper)
        here = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), target)
        found = [desk.store.restore(target, here, self.step) for desk in self.going]
        parts, notes = zip(*[pair for pair in found if pair is not None], strict=True)
        return vectorised.stack(parts, self._mesh()), list(notes)

    # --- the loop ----------------------------------------------------------------------------

    def _due(self, every: int) -> bool:
        return self.step >= self.settings.steps or bool(every and self.step % every == 0)

    def _steps(self) -> str:
        s = self.settings
        while self.alive:
            due = self._due(s.eval_every) and self.evaluated != self.step
            if due and not self.signals.asked:
                try:
                    self._evaluate()
                    self.evaluated = self.step
                except Interrupted:
                    pass
                except UserError as error:
                    # What an evaluator refuses can be mended; a full disk takes no save.
                    if isinstance(error, NoMetricError) or type(error) is UserError:
                        self._save(self.alive)
                        for desk in self.alive:
                            desk.end("failed", str(error), self.step, self.wall)
                    raise
            if self.step in self.rungs and self.evaluated == self.step:
                self._halve()
            ended, asked = self.step >= s.steps, self.signals.asked
            if ended or asked or (self.step and self._due(s.save_every)):
                self._save(self.alive)
            if ended or asked:
                kind = "stopped" if asked and not ended else "finished"
                for desk in self.alive:
                    desk.end(kind, asked or "", self.step, self.wall)
                return "" if ended else asked or ""
            marks = [e - self.step % e for e in (s.log_every, s.eval_every, s.save_every) if e]
            n = max(1, min(self.program.capacity, s.steps - self.step, *marks))
            self._advance(n)
        return ""

    def _advance(self, n: int) -> None:
        # One trial after another: its order of examples is at hand then.
        seen: dict[int, list[Any]] = {}
        for desk in self.going[:1] if self.shared else self.going:
            at = desk.trial.batch_at
            if id(at) not in seen:
                seen[id(at)] = [at(self.step + i) for i in range(n)]
        rows = (
            list(seen.values())
            if self.shared
            else [seen[id(desk.trial.batch_at)] for desk in self.going]
        )
        self.state, metrics = self.program.run(self.state, self.program.place(rows), np.int32(n))
        self._read(jax.device_get(metrics), n)

    def _read(self, metrics: dict[str, Any], n: int) -> None:
        """Adds up n steps of every trial; writes a row where one is due."""
        most = self.settings.max_bad if self.settings.on_bad != "stop" else 0
        failed = []
        for j, desk in enumerate(self.going):
            for i in range(n):
                if desk.over or desk in failed:
                    break
                pairs = {name: (float(a[i, j]), float(b[i, j])) for name, (a, b) in metrics.items()}
                if not pairs.pop("bad")[0]:
                    desk.meter.add(pairs)
                    continue
                desk.bad += 1
                if desk.bad > most:
                    failed.append(desk)
                    desk.reason = f"bad numbers at step {self.step + i} ({desk.bad} in all)"
        self.step += n
        if self._due(self.settings.log_every):
            self._log()
        for desk in failed:
            self._drop([desk], "failed", desk.reason)
        self._repack()

    def _log(self) -> None:
        losses = []
        for desk in self.alive:
            means = desk.meter.means()
            row = {f"train/{k}": v for k, v in self.task.finish(means).items()} if means else {}
            if desk.bad:
                row["train/bad_total"] = float(desk.bad)
            desk.write(self.step, row, self.wall)
            losses.append(row.get("train/loss", math.nan))
            desk.meter.clear()
            desk.say("running", "", self.step, self.wall)
        known = [loss for loss in losses if math.isfinite(loss)]
        spread = f"{min(known):.4f} to {max(known):.4f}" if known else "none"
        self.say(f"step {self.step}/{self.settings.steps}  loss {spread}  {self.wall:.0f} s")

    # --- what happens at boundaries ----------------------------------------------------------

    def _evaluate(self) -> None:
        lanes: dict[int, list[int]] = {}
        for i, desk in enumerate(self.going):
            if not desk.over:
                lanes.setdefault(desk.trial.lane, []).append(i)
        failed = threading.Event()
        with ThreadPoolExecutor(len(lanes), "evaluation") as pool:
            ends = [pool.submit(self._evaluate_some, rows, failed) for rows in lanes.values()]
        errors = [error for end in ends if (error := end.exception())]
        # What went wrong comes before a signal that another lane has seen.
        for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
            raise error

    def _evaluate_some(self, rows: list[int], failed: threading.Event) -> None:
        """Evaluates trials one after another, until one of any lane fails."""
        try:
            self._evaluate_rows(rows, failed)
        except BaseException:
            failed.set()
            raise

    def _evaluate_rows(self, rows: list[int], failed: threading.Event) -> None:
        for i in rows:
            if failed.is_set():
                return
            trial, row = self.going[i].trial, {}
            judged = trial.place(weights(vectorised.trial(self.state, i)))
            for evaluate in trial.evaluators.values():
                self.signals.raise_if_asked()
                row.update(evaluate(judged, self.step))
            if row:
                self.going[i].write(self.step, row, self.wall)
                if self.metric:
                    criterion.check(self.metric, row, trial.workdir)

    def _save(self, desks: list[Desk]) -> None:
        for i, desk in enumerate(self.going):
            if desk in desks:
                desk.save(vectorised.trial(self.state, i), self.wall, self.evaluated)

    def _drop(self, desks: list[Desk], kind: str, reason: str) -> None:
        """Ends trials before the others."""
        self._save(desks)
        for desk in desks:
            desk.end(kind, reason, self.step, self.wall)
            self.say(f"step {self.step}  {desk.trial.workdir.name}: {kind}, {reason}")

    def _repack(self) -> None:
        """Gives those that are alive a program of their own, once at most half of it is needed."""
        rows = [i for i, desk in enumerate(self.going) if not desk.over]
        if 2 * len(rows) > len(self.going) or not rows or self.step >= self.settings.steps:
            return
        parts = [vectorised.trial(self.state, i) for i in rows]
        self.going = [self.going[i] for i in rows]
        self.state = vectorised.stack(parts, self._mesh())
        self._compile()
        self.say(f"step {self.step}  {len(rows)} trials go on in a program of their own")

    def _halve(self) -> None:
        assert self.halving is not None
        alive, metric = self.alive, self.halving.metric
        lacking = [desk for desk in alive if metric not in desk.last]
        if lacking:
            self.say(f"aigc: warning: no '{metric}' to halve by at step {self.step}")
            return
        # Counted from the whole, so that a group that goes on at a rung is not halved twice.
        left = self.halving.left(self.number, self.rungs.index(self.step))
        stay = self.halving.best([desk.last[metric] for desk in alive], left)
        lost = [desk for i, desk in enumerate(alive) if i not in stay]
        self._drop(lost, "stopped", PRUNED)
        self._repack()

"""One trial as Ray Tune runs it: in a process of its own, in the run folder that every engine uses.

Imported only where Ray is installed, by `sweep.ray` and in Ray's processes.
"""

import importlib
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune

from aigc_jax.core import config as configs
from aigc_jax.errors import UserError
from aigc_jax.sweep import criterion, exploit
from aigc_jax.train.lock import Lock
from aigc_jax.train.signals import Early, Signals

PRUNED, PAUSED = "pruned", "population"
_POLL = 0.2  # seconds between two looks for the driver's wish to stop
_PATIENCE = 60.0  # seconds in which the process of a dead driver lets go of a run folder


class Order(NamedTuple):
    """What every trial of a sweep is told; plain values, since it travels.

    Attributes:
      function: "module:function", see `sweep.ray.run`. cwd: where paths in the config begin.
      metric, direction: what is compared. asked: a file that appears when all shall stop; it holds
        the reason. population: after so many steps a trial stops and looks whether to go on from
        another one's checkpoint (PBT); 0 never. memory: the part of an accelerator's that it may
        take, 0 for what JAX takes by itself.
    """

    function: str
    cwd: str
    metric: str
    direction: str
    asked: str
    population: int
    memory: float

    def compared(self, score: float) -> float:
        """The score as schedulers can compare it: not a number is as bad as any number."""
        worst = 1e300 if self.direction == "minimize" else -1e300
        return score if math.isfinite(score) else worst


class _Running:
    """A run in a thread, which waits at each evaluation until it is told to go on."""

    def __init__(
        self, run: Callable[[Signals, Callable[..., None]], Any], order: Order, workdir: Path
    ) -> None:
        self.signals = Signals(saves=False)
        self._run, self._order, self._workdir = run, order, workdir
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._onward = threading.Semaphore(0)
        self._row: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _told(self, step: int, scores: dict[str, float]) -> None:
        if self._order.metric not in scores:
            criterion.check(self._order.metric, scores, self._workdir)
            return
        score = float(scores[self._order.metric])
        self._row = {"step": step, "score": self._order.compared(score)}
        if not self._order.population:
            self._said.put(dict(self._row))
            self._onward.acquire()
        elif step and step % self._order.population == 0:
            self.signals.ask(PAUSED)  # saved at this very step, then the thread ends

    def _work(self) -> None:
        row: dict[str, Any] = {"done": True}
        try:
            end = self._run(self.signals, self._told)
            state, reason, row["step"] = end.kind, end.reason, int(end.state.step)
            if state == "finished":
                criterion.check(self._order.metric, end.last, self._workdir)
        except criterion.NoMetricError as error:
            # True of all trials: the driver stops them. Its folder says "failed", and why.
            state, reason, row["fatal"] = "stopped", str(error), True
        except (Exception, Early) as error:
            state, reason = "failed", str(error).split("\n")[0] or type(error).__name__
            if not isinstance(error, UserError):
                traceback.print_exc()
        if (state, reason) == ("stopped", PAUSED):
            row = {"done": False}
            state, reason = PAUSED, ""
        elif (state, reason) == ("stopped", PRUNED):
            state, reason = PRUNED, ""
        self._said.put({**self._row, **row, "state": state, "reason": reason})

    def onward(self) -> None:
        """Lets it go on after an evaluation."""
        self._onward.release()

    def next(self) -> dict[str, Any]:
        """Waits for its next evaluation, or its end."""
        asked = Path(self._order.asked)
        while True:
            try:
                return self._said.get(timeout=_POLL)
            except queue.Empty:
                if asked.exists():
                    self.signals.ask(asked.read_text() or "stopped")

    def end(self, reason: str) -> None:
        """Asks it to save and stop, and waits until it has."""
        self.signals.ask(reason)
        self.onward()
        self._thread.join()


class Trial(tune.Trainable):
    """What Ray Tune starts, asks for results, stops and hands from trial to trial.

    A stop is a saved one: the run's status says "pruned", and the folder can be gone on with. Ray's
    own checkpoints hold a few words and no weights: those are in the run folder.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Takes a trial on; nothing runs before the first `step`."""
        self._order, trial = Order(**config["order"]), config["trial"]
        self._trial, self._workdir = trial, Path(trial["workdir"])
        self._running: _Running | None = None
        self._past: deque[dict[str, Any]] | None = None
        os.chdir(self._order.cwd)
        # Ray's process has another one: relative recipes and their neighbours are found from here.
        if self._order.cwd not in sys.path:
            sys.path.insert(0, self._order.cwd)
        if self._order.memory:
            os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{self._order.memory:.3f}"

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Goes over to another trial in the same process, where JAX is warm."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Saves what is running."""
        if self._running is not None:
            asked = Path(self._order.asked)
            self._running.end((asked.read_text() or "stopped") if asked.exists() else PRUNED)
            self._running = None

    def step(self) -> dict[str, Any]:
        """Runs to the next evaluation."""
        if self._past is None:
            self._past = deque() if self._order.population else self._evaluated()
        if self._past:
            return self._past.popleft()
        if Path(self._order.asked).exists() and self._running is None:
            return {"state": "stopped", "done": True}
        if self._running is None:
            wait_for(self._workdir)
            self._running = _Running(self._run, self._order, self._workdir)
        else:
            self._running.onward()
        row = self._running.next()
        if "state" in row:
            self._running = None
        return row

    def _evaluated(self) -> deque[dict[str, Any]]:
        """What an earlier start has evaluated, so that the pruner knows it in a new driver."""
        return deque(
            {"step": step, "score": self._order.compared(score), "past": True}
            for step, score in evaluations(self._workdir, self._order.metric)
        )

    def _run(self, signals: Signals, told: Callable[..., None]) -> Any:
        module, _, name = self._order.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        cfg = configs.load(self._trial["recipe"], self._trial["overrides"])
        allowed: tuple[str, ...] = ()
        if self._order.population:
            exploit.settle(self._workdir)
            cfg.hyper.update(self._trial["hyper"])
            allowed = ("hyper",)
        return function(
            cfg, self._workdir, signals=signals, command=self._trial["command"], told=told,
            allowed=allowed,
        )  # fmt: skip

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Keeps where the weights are; for a population, hard links to them."""
        said = {"workdir": str(self._workdir), "kept": ""}
        if self._order.population and self._running is None:
            said["kept"] = str(exploit.keep(self._workdir) or "")
        Path(checkpoint_dir, "trial.json").write_text(json.dumps(said))

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Goes on from a better trial's weights, where the checkpoint is not our own."""
        said = json.loads(Path(checkpoint, "trial.json").read_text())
        if said["kept"] and Path(said["workdir"]) != self._workdir:
            exploit.take(self._workdir, Path(said["kept"]), dict(self._trial["hyper"]))


def evaluations(workdir: Path, metric: str) -> list[tuple[int, float]]:
    """Returns (step, score) of all evaluations that a run folder knows."""
    from aigc_jax.report.folder import Run, is_run

    if not is_run(workdir):
        return []
    series = Run(workdir).series(metric)
    return list(zip(series.steps, series.values, strict=True))


def wait_for(workdir: Path) -> None:
    """Waits while a process that is about to die still holds the run folder."""
    limit = time.monotonic() + _PATIENCE
    while (workdir / ".lock").exists():
        try:
            with Lock(workdir):
                return
        except UserError:
            if time.monotonic() > limit:
                return  # whoever holds it is named in the error of the run itself
            time.sleep(_POLL)

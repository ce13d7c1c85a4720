"""How Ray Tune gets trials and compares them. Imported only where Ray is installed."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining
from ray.tune.search import Searcher

from aigc_jax.sweep.plans import Planned
from aigc_jax.train.signals import Signals
from aigc_jax.train.storage import write_atomic


class Asked(Searcher):
    """Hands trials of a `sweep.ray.Source` to Ray Tune, and what they score back to it.

    Nothing of it is saved by Ray: a driver that dies leaves the source and the run folders, and
    those know all.

    Args:
      source: of trials. first: one that was asked for already.
      wrap: what Ray's process is told of one. signals: no trial begins once one has come.
    """

    def __init__(
        self, source: Any, first: Planned, wrap: Callable[[Planned], dict[str, Any]],
        signals: Signals,
    ) -> None:  # fmt: skip
        super().__init__()
        self._source, self._wrap, self._signals = source, wrap, signals
        self._first: Planned | None = first
        self._live: dict[str, Planned] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial."""
        if self._signals.asked:
            return Searcher.FINISHED
        planned, self._first = self._first or self._source.ask(), None
        if planned is None:
            return Searcher.FINISHED
        self._live[trial_id] = planned
        return {"trial": self._wrap(planned)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Passes a score on."""
        if "score" in result and "past" not in result:
            self._source.report(self._live[trial_id], int(result["step"]), float(result["score"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Passes on how a trial has ended; one that was only stopped has not ended."""
        planned, said = self._live.pop(trial_id), result or {}
        state = "failed" if error else str(said.get("state", "pruned"))
        if state == "stopped":
            return
        value = float(said["score"]) if "score" in said else None
        if value is not None and state == "pruned" and "past" not in said:
            self._source.report(planned, int(said["step"]), value)
        self._source.tell(planned, state, value)

    def save(self, checkpoint_path: str) -> None:
        """Saves nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restores nothing."""


class Watch(tune.Callback):
    """Says how trials end, and passes a signal on to all of them.

    Attributes:
      failed: how many trials have. fatal: what makes the sweep senseless, in words.
    """

    def __init__(
        self, signals: Signals, asked: Path, metric: str, say: Callable[[str], None]
    ) -> None:
        self._signals, self._asked, self._metric, self._say = signals, asked, metric, say
        self.failed, self.fatal = 0, ""

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Looks for a signal, several times a second."""
        asked = self._signals.asked or ("stopped" if self.fatal else "")
        if asked and not self._asked.exists():
            write_atomic(self._asked, asked)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says what came of it."""
        said = trial.last_result
        state = said.get("state", "pruned")
        self.failed += state == "failed"
        if said.get("fatal"):
            self.fatal = said["reason"]
            return
        score = f", {self._metric} {said['score']:.6g}" if "score" in said else ""
        reason = f" ({said['reason']})" if said.get("reason") else ""
        self._say(f"{trial}: {state} at step {said.get('step', 0)}{score}{reason}")

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says that a process died."""
        self._say(f"{trial}: its process died; it goes on from its checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Says that it was given up."""
        self.failed += 1
        self._say(f"{trial}: its process died again and again; given up")


def name(trial: Any) -> str:
    """What Ray calls a trial: as its run folder."""
    return Path(trial.config["trial"]["workdir"]).name


class Halt(tune.Stopper):
    """Stops all trials once a file is there."""

    def __init__(self, asked: Path) -> None:
        self._asked = asked

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No single trial is stopped by this."""
        return False

    def stop_all(self) -> bool:
        """Whether the file is there."""
        return self._asked.exists()


class Population(PopulationBasedTraining):
    """Ray's PBT for trials that keep their own folder, seed and name when they exploit another."""

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> Any:
        new, operations = super()._get_new_config(trial, trial_to_clone)
        own = copy.deepcopy(trial.config)
        own["trial"]["hyper"] = new["trial"]["hyper"]
        return own, operations


def halving(
    kind: str, direction: str, *, first: int, last: int,
    past: Iterable[tuple[str, list[tuple[int, float]]]] = (),
) -> ASHAScheduler:  # fmt: skip
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934).

    Args:
      kind: "asha", one bracket; "hyperband", three that begin to stop later and later.
      first, last: the steps at which a trial can be stopped first, and at which it ends.
      past: (id, [(step, score)]) of the trials that have ended before this driver began, so that
        the others are compared with them too.
    """
    reduction = 4 if kind == "asha" else 3
    rungs = int(math.log(max(1, last / first), reduction)) + 1
    scheduler = ASHAScheduler(
        time_attr="step", metric="score", mode="min" if direction == "minimize" else "max",
        grace_period=first, max_t=last, reduction_factor=reduction,
        brackets=1 if kind == "asha" else min(3, rungs), stop_last_trials=False,
    )  # fmt: skip
    controller: Any = None  # it asks for none
    for name, rows in past:
        one: Any = SimpleNamespace(trial_id=name)
        scheduler.on_trial_add(controller, one)
        for step, score in rows:
            scheduler.on_trial_result(controller, one, {"step": step, "score": score})
        scheduler.on_trial_remove(controller, one)
    return scheduler


def population(
    direction: str, *, interval: int, points: Iterable[Mapping[str, float]]
) -> Population:
    """Population-based training over the numbers in `hyper` that the points set.

    Args:
      interval: steps between two looks at the others. points: name in `hyper` -> value, of each.
    """
    ranges: dict[str, tuple[float, float]] = {}
    for point in points:
        for name, value in point.items():
            low, high = ranges.get(name, (value, value))
            ranges[name] = (min(low, value), max(high, value))
    mutations = {
        name: tune.loguniform(low, high)
        if low > 0 and 10 * low <= high
        else tune.uniform(low, max(high, low + 1e-12))
        for name, (low, high) in ranges.items()
    }
    return Population(
        time_attr="step", metric="score", mode="min" if direction == "minimize" else "max",
        perturbation_interval=interval, hyperparam_mutations={"trial": {"hyper": mutations}},
        quantile_fraction=0.25, log_config=False,
    )  # fmt: skip

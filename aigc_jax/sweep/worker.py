"""One process of a sweep: takes a trial, trains it, tells the study, until none is left."""

import contextlib
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from aigc_jax.core import config
from aigc_jax.errors import StorageError, UserError
from aigc_jax.sweep import criterion, folder, plans, trials
from aigc_jax.sweep.criterion import NoMetricError
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.space import Space
from aigc_jax.train.lock import Lock
from aigc_jax.train.signals import Early, Signals

STOPPED = 75  # as `aigc train`
FAILED = 3  # a trial failed; the others are done
# (trial, signals, told) -> how it ended: kind, reason, last.
Train = Callable[[Planned, Signals, Callable[[int, Mapping[str, float]], None]], Any]


class _Stopped(Exception):
    """A signal came: the trial is saved, or has not begun."""


class _Failed(Exception):
    """This trial can't be trained; the others go on."""


class _Taken(Exception):
    """Another process trains in this trial's folder at the moment."""


class Worker:
    """Trains trials of a sweep folder one after another.

    Args:
      root: the sweep folder, with its sweep.json and study.db.
      train: trains one trial in this process.
      wal: as of `trials.study_of`.
    """

    def __init__(self, root: Path, train: Train, *, wal: bool = True) -> None:
        self.root, self.train, self.sweep = root, train, folder.read(root)
        self.study = trials.study_of(root, direction=self.sweep.direction, wal=wal, check=False)
        said = self.study.user_attrs
        self.sampler = str(said["sampler"])
        self.prunes = said["pruner"] != "none"
        self.study.pruner = trials.pruner(said["pruner"], said["every"], said["steps"])
        self.space = Space.read(self.sweep.space) if self.sweep.space else None
        self.host = socket.gethostname()
        self.signals = Signals()
        self._asking = contextlib.ExitStack()
        self._fatal: UserError | None = None
        self._failures, self._stopped = 0, False

    def stop(self) -> None:
        """Asks for a saved stop, from another thread; once."""
        if not self.signals.asked:
            os.kill(os.getpid(), 15)

    def run(self) -> int:
        """Returns 0 when no trial is left, 3 if one that it took failed, 75 after a signal.

        Raises:
          StorageError: the disk. NoMetricError: no trial can be judged.
        """
        with Signals() as outer, trials.database_errors(self.root):
            self.signals = self._outer = outer
            while not (outer.asked or self._stopped):
                if not self._take():
                    return FAILED if self._failures else 0
                if self._fatal is not None:
                    raise self._fatal
                self.signals = outer
        return STOPPED

    def _take(self) -> bool:
        """Trains the next trial; False where none waits."""
        study, self._done = self.study, ""
        with self._asking as asking:
            asking.enter_context(trials.one_at_a_time(self.root))
            known = study.get_trials(deepcopy=False)
            if not any(trial.state == TrialState.WAITING for trial in known):
                return False
            # A new one each time, seeded by how far the study is: a sweep that was stopped goes on
            # with the points that it would have had.
            begun = sum(trial.state != TrialState.WAITING for trial in known)
            if self.space is not None and self.space.draws:
                study.sampler = trials.sampler(self.sampler, begun)
            try:
                study.optimize(self._objective, n_trials=1, catch=(_Failed,))
            except _Stopped:
                self._stopped = True
                trials.again(study, self._frozen())
            except _Taken:
                trials.again(study, self._frozen())
                time.sleep(1.0)
            except ValueError as error:
                # Taken for dead and begun again by another: the run folder has what came of it.
                if "Cannot tell" not in str(error):
                    raise
        return True

    def _frozen(self) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self._number]

    def _objective(self, trial: optuna.Trial) -> float:
        self._number = trial.number
        trial.set_user_attr("worker", trials.token(self.host))
        self._asking.close()
        try:
            return self._runs(trial, self._planned(trial))
        except (_Stopped, _Taken, _Failed, optuna.TrialPruned):
            raise
        except Early as signal:
            raise _Stopped(str(signal)) from None
        except (StorageError, NoMetricError) as error:
            self._fatal = error
            raise _Stopped from error
        except UserError as error:
            raise self._failed(trial, str(error)) from error
        except Exception as error:
            if isinstance(error, optuna.exceptions.OptunaError):
                raise
            traceback.print_exc()
            raise self._failed(trial, f"{type(error).__name__}: {error}") from error

    def _failed(self, trial: optuna.Trial, reason: str) -> _Failed:
        print(f"aigc: {reason}", file=sys.stderr, flush=True)
        self._failures += 1
        trial.set_user_attr("error", " ".join(reason.split()))
        return _Failed(reason)

    def _planned(self, trial: optuna.Trial) -> list[Planned]:
        """The runs of a trial: one, or a list of them for each point that is drawn."""
        said = trial.user_attrs
        if "id" in said:
            cfg = config.load(said["recipe"], said["overrides"])
            if not config.digest(cfg).startswith(said["id"]):
                raise UserError(
                    f"{said['recipe']} gives another config now than when the sweep was started;"
                    " start the sweep's command again, with another --workdir."
                )
            path = self.root / said["runs"][0]
            words = tuple(said["overrides"])
            return [Planned(said["id"], {}, said["recipe"], words, config.to_dict(cfg), path)]
        assert self.space is not None
        point = trials.suggest(trial, self.space.draws)
        points = ({**point, **more} for more in self.space.points())
        planned = plans.plan(self.sweep.recipe, self.sweep.overrides, points, self.root)
        trial.set_user_attr("runs", [run.workdir.name for run in planned])
        return planned

    def _runs(self, trial: optuna.Trial, planned: list[Planned]) -> float:
        scores: list[float] = []
        for run in planned:
            said = folder.outcome(run.workdir, self.sweep.metric)
            if said.state == "pruned":
                raise optuna.TrialPruned
            score = said.score
            if said.state != "finished":
                score = self._one(trial, run, alone=len(planned) == 1)
            if math.isnan(score):
                raise self._failed(trial, f"{run.workdir.name}: {self.sweep.metric} is nan")
            scores.append(score)
            if self.prunes and len(scores) < len(planned):
                self._report(trial, len(scores), folder.scored(scores))
                if trial.should_prune():
                    raise optuna.TrialPruned
        return folder.scored(scores)

    def _one(self, trial: optuna.Trial, run: Planned, *, alone: bool) -> float:
        """Trains one run; returns its score."""
        metric = self.sweep.metric
        if run.workdir.exists():
            try:
                with Lock(run.workdir):
                    pass
            except StorageError:
                raise
            except UserError as busy:
                raise _Taken(str(busy)) from None
        with Signals(saves=False) as signals:
            self.signals = signals
            if self._outer.asked:  # it came just before
                raise _Stopped(self._outer.asked)

            def told(step: int, scores: Mapping[str, float]) -> None:
                if metric not in scores:
                    criterion.check(metric, scores, run.workdir)
                elif alone and self.prunes and step and not math.isnan(scores[metric]):
                    self._report(trial, step, scores[metric])
                    if trial.should_prune():
                        signals.ask("pruned")

            print(f"--- {run.command}", flush=True)
            outcome = self.train(run, signals, told)
        if outcome.kind == "stopped":
            raise optuna.TrialPruned if outcome.reason == "pruned" else _Stopped(outcome.reason)
        criterion.check(metric, outcome.last, run.workdir)
        return float(outcome.last.get(metric, math.nan))

    def _report(self, trial: optuna.Trial, step: int, value: float) -> None:
        # What was evaluated before a crash and once more after it counts once.
        if step not in self._frozen().intermediate_values:
            trial.report(float(value), step)

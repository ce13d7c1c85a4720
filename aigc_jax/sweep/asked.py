"""A search as another engine asks for it: one point after another, from the sweep's study."""

import contextlib
import math
import socket
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from aigc_jax.errors import UserError
from aigc_jax.sweep import folder, local, plans, trials
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.space import Space

_STATES = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


class Asked:
    """Gives trials and takes their scores; see `sweep.ray.Source`. For one process alone.

    Args:
      root: the sweep folder, with its sweep.json. number: of trials, earlier ones counted.
      sampler: by name.

    Raises:
      UserError: each point is to run several times, which such an engine can't; or as
        `local.prepare`.
    """

    def __init__(self, root: Path, *, number: int, sampler: str) -> None:
        self.root, self.sampler, self.sweep = root, sampler, folder.read(root)
        self.space = Space.read(self.sweep.space)
        if self.space.size > 1:
            raise UserError(
                f"each point that is drawn would run {self.space.size} times (a grid, or --seeds);"
                " for that take --engine=local."
            )
        self.study = local.prepare(root, None, number=number, sampler=sampler, beats=False)
        self._asked: dict[str, Any] = {}

    def ask(self) -> Planned | None:
        """The next trial, None when there are no more."""
        with trials.database_errors(self.root), trials.one_at_a_time(self.root):
            known = self.study.get_trials(deepcopy=False)
            if not any(trial.state == TrialState.WAITING for trial in known):
                return None
            begun = sum(trial.state != TrialState.WAITING for trial in known)
            self.study.sampler = trials.sampler(self.sampler, begun)
            trial = self.study.ask()
            trial.set_user_attr("worker", trials.token(socket.gethostname()))
            point = {**trials.suggest(trial, self.space.draws), **self.space.point(0)}
            run = plans.plan(self.sweep.recipe, self.sweep.overrides, [point], self.root)[0]
            trial.set_user_attr("runs", [run.workdir.name])
            self._asked[run.id] = trial
        return run

    def report(self, run: Planned, step: int, value: float) -> None:
        """A trial has been judged at a step."""
        trial = self._asked[run.id]
        with trials.database_errors(self.root):
            reported = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
            if step not in reported and not math.isnan(value):
                trial.report(float(value), step)

    def tell(self, run: Planned, state: str, value: float | None) -> None:
        """A trial has ended: "finished", "pruned" or "failed", with its last score."""
        trial = self._asked.pop(run.id)
        with trials.database_errors(self.root), contextlib.suppress(ValueError):
            if state == "finished" and value is not None and not math.isnan(value):
                self.study.tell(trial, float(value))
            else:
                self.study.tell(trial, state=_STATES.get(state, TrialState.FAIL))

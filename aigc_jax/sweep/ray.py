"""The engine "ray": the planned trials of a sweep on Ray Tune, on one machine or many.

A trial is a process of Ray's that trains in the run folder which every engine uses, so a sweep can
change engines at any time. When the driver dies, the same command goes on from the run folders and
not by `Tuner.restore`: they hold all that matters (checkpoints, scores, how each trial ended), they
are right even where Ray's own record of them is behind or lost, and they are all that a sweep begun
with another engine has. What the pruner knew is read back from their metrics.
"""

import contextlib
import importlib
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from aigc_jax.errors import UserError, nearest
from aigc_jax.sweep import exploit
from aigc_jax.sweep.criterion import NoMetricError
from aigc_jax.sweep.folder import outcome
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.say import say
from aigc_jax.train.lock import Lock
from aigc_jax.train.signals import Signals

PRUNERS = ("none", "asha", "hyperband", "pbt")
FAILED, STOPPED = 3, 75
_RETRIES = 3  # of a trial whose process died; an error of the trial itself is not tried again
_STORE = 100 * 2**20  # bytes; weights don't travel, and Ray wants 75 MB at least
_LONGEST = 40  # characters: what Ray adds has 60
_SETTINGS = {  # how Ray behaves; what the user has set counts
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a config begin where the command was typed
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # a run writes its own log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # some evaluations lack the metric
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_THRESHOLD_S": "30",
}


class Source(Protocol):
    """Where trials come from that are not known before: an Optuna study, asked and told.

    All of it is called in the driver, one call at a time.
    """

    def ask(self) -> Planned | None:
        """The next trial, or None when there are no more. Trials left half-done come first."""

    def report(self, trial: Planned, step: int, value: float) -> None:
        """A trial has been judged."""

    def tell(self, trial: Planned, state: str, value: float | None) -> None:
        """A trial has ended: "finished", "pruned" or "failed"; `value` is its last score."""


def run(
    planned: Sequence[Planned] | Source,
    root: Path,
    *,
    workers: int,
    metric: str,
    direction: str = "minimize",
    pruner: str = "none",
    trial: str = "aigc_jax.cli.warm:one",
    say: Callable[[str], None] = say,
) -> int:
    """Runs the trials; those that are finished are not run again.

    Args:
      planned: a finite list, or what gives one trial after another.
      root: the sweep folder; on a disk that all machines see. workers: trials at a time.
      metric: what trials are judged by. direction: "minimize" or "maximize".
      pruner: "none", "asha", "hyperband" or "pbt" (a finite list alone, all of one shape).
      trial: "module:function" that runs one trial in its process:
        function(cfg, workdir, *, signals, command, told, allowed) -> Outcome.
      say: takes a line for the person who watches.

    Returns:
      0, all are finished or pruned; 3, some failed; 75, stopped by a signal: the same call goes on.

    Raises:
      UserError: Ray isn't installed, a pruner that doesn't fit, or a metric that nobody gives.
    """
    _check(planned, pruner)
    _imported()
    source = _Listed(planned, metric, pruner) if isinstance(planned, Sequence) else planned
    first = source.ask()
    if first is None:
        return 0
    hidden = root.absolute() / exploit.HIDDEN
    hidden.mkdir(parents=True, exist_ok=True)
    with Lock(root):  # as every engine's driver holds it
        _sweep_up(hidden)
        job = _Job(source, first, hidden, workers, metric, direction, pruner, trial, say)
        try:
            stopped, failed = job.run()
        finally:
            _sweep_up(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
    if stopped:
        say(f"{root}: stopped by {stopped}; the same command goes on.")
        return STOPPED
    return FAILED if failed else 0


class _Listed:
    """A `Source` that is a list; what has ended before is left out."""

    def __init__(self, planned: Sequence[Planned], metric: str, pruner: str) -> None:
        ended = {"finished"} if pruner == "none" else {"finished", "pruned"}
        states = [outcome(p.workdir, metric).state for p in planned]
        self.todo = [p for p, state in zip(planned, states, strict=True) if state not in ended]
        self.ended = [p for p, state in zip(planned, states, strict=True) if state in ended]

    def ask(self) -> Planned | None:
        return self.todo.pop(0) if self.todo else None

    def report(self, trial: Planned, step: int, value: float) -> None:
        pass

    def tell(self, trial: Planned, state: str, value: float | None) -> None:
        pass


class _Job(NamedTuple):
    """One call of `run`; `hidden` is the folder for what Ray writes."""

    source: Source
    first: Planned
    hidden: Path
    workers: int
    metric: str
    direction: str
    pruner: str
    trial: str
    say: Callable[[str], None]

    def run(self) -> tuple[str, int]:
        """Returns the signal that stopped it, or "", and how many trials failed."""
        with _ray(self.workers, self.hidden), Signals() as signals:
            from ray import tune

            from aigc_jax.sweep import ray_search as search
            from aigc_jax.sweep.ray_trial import Trial

            share = min(1.0, _accelerators() / self.workers)
            order = self._order(share)
            watch = search.Watch(signals, Path(order["asked"]), self.metric, self.say)
            if self.pruner == "pbt":
                everyone = [self.first, *_rest(self.source)]
                trials = tune.grid_search([self._wrap(planned) for planned in everyone])
                space, asked = {"order": order, "trial": trials}, None
                scheduler = search.population(
                    self.direction, interval=order["population"],
                    points=[self._wrap(planned)["hyper"] for planned in everyone],
                )  # fmt: skip
            else:
                space = {"order": order}
                asked = search.Asked(self.source, self.first, self._wrap, signals)
                scheduler = self._halving(search)
            tune.Tuner(
                tune.with_resources(Trial, {"cpu": 1, "gpu": share}),
                param_space=space,
                tune_config=tune.TuneConfig(
                    search_alg=asked, scheduler=scheduler, num_samples=-1 if asked else 1,
                    max_concurrent_trials=self.workers if asked else None, reuse_actors=True,
                    trial_name_creator=search.name, trial_dirname_creator=search.name,
                ),
                run_config=tune.RunConfig(
                    name="tune", storage_path=str(self.hidden), verbose=0, callbacks=[watch],
                    stop=search.Halt(Path(order["asked"])),
                    failure_config=tune.FailureConfig(max_failures=_RETRIES),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()  # fmt: skip
        if watch.fatal:
            raise NoMetricError(watch.fatal)
        return signals.asked or "", watch.failed

    def _order(self, share: float) -> dict[str, Any]:
        settings = self.first.config["run"]
        every = settings["eval_every"]
        if self.pruner != "none" and not 0 < every < settings["steps"]:
            raise UserError(
                f"--pruner={self.pruner} compares trials while they run: set run.eval_every (now"
                f" {every}) to less than run.steps."
            )
        # About ten generations: each costs a save and a restore.
        often = every * max(1, round(settings["steps"] / (10 * every))) if every else 0
        return {
            "function": self.trial,
            "cwd": os.getcwd(),
            "metric": self.metric,
            "direction": self.direction,
            "asked": str(self.hidden / "asked"),
            "population": often if self.pruner == "pbt" else 0,
            # Of JAX's own default, 0.75 of the memory.
            "memory": 0.75 * share if 0 < share < 1 else 0.0,
        }

    def _wrap(self, planned: Planned) -> dict[str, Any]:
        """What Ray's process is told of a trial."""
        now = exploit.hyper(planned.workdir) if self.pruner == "pbt" else {}
        names = [path.removeprefix("hyper.") for path in planned.point if path.startswith("hyper.")]
        return {
            "recipe": planned.recipe,
            "overrides": list(planned.overrides),
            "workdir": str(planned.workdir.absolute()),
            "command": planned.command,
            "hyper": {name: now.get(name, planned.config["hyper"][name]) for name in names},
        }

    def _halving(self, search: Any) -> Any:
        if self.pruner == "none":
            return None
        from aigc_jax.sweep.ray_trial import evaluations

        settings = self.first.config["run"]
        ended = self.source.ended if isinstance(self.source, _Listed) else []
        return search.halving(
            self.pruner, self.direction, first=settings["eval_every"], last=settings["steps"],
            past=[(p.id, evaluations(p.workdir, self.metric)) for p in ended],
        )  # fmt: skip


def _rest(source: Source) -> Iterator[Planned]:
    while (planned := source.ask()) is not None:
        yield planned


def _check(planned: Sequence[Planned] | Source, pruner: str) -> None:
    """Raises UserError for a pruner that isn't there or doesn't fit the trials."""
    if pruner not in PRUNERS:
        raise UserError(
            f"--pruner={pruner}: --engine=ray has {', '.join(PRUNERS)}.{nearest(pruner, PRUNERS)}"
        )
    if pruner != "pbt":
        return
    if not isinstance(planned, Sequence):
        raise UserError(
            "--pruner=pbt needs a finite list of trials, such as a grid: it makes new values itself"
            " as the trials run."
        )
    others = {path for p in planned for path in p.point if not _is_number(path)}
    if others:
        raise UserError(
            f"--pruner=pbt: the trials differ in {', '.join(sorted(others))}, and weights pass from"
            " one to another; only hyper.* and run.seed may differ."
        )
    if not any(path.startswith("hyper.") for p in planned for path in p.point):
        raise UserError("--pruner=pbt: the trials set nothing in hyper.*, which it would change.")


def _is_number(path: str) -> bool:
    return path.startswith("hyper.") or path == "run.seed"


def _imported() -> None:
    """Loads Ray Tune, quietly.

    Raises:
      UserError: it isn't installed.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        importlib.import_module("ray.tune")
    except ImportError as error:
        raise UserError(
            "--engine=ray needs Ray Tune, which is not installed"
            f" ({error}): pip install 'aigc-jax[ray]'."
        ) from None


def _accelerators() -> float:
    import ray

    return float(ray.cluster_resources().get("GPU", 0.0))


@contextlib.contextmanager
def _ray(workers: int, hidden: Path) -> Iterator[None]:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine and ends it again."""
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray's own handler calls sys.exit, which would end a sweep unsaved.
    before = signal.getsignal(signal.SIGTERM)
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(log_to_driver=False, logging_level=logging.ERROR,
                     runtime_env={"env_vars": _environment()})  # fmt: skip
        else:
            # Not under `hidden`: the path of a unix socket has 107 bytes at most.
            home = tempfile.mkdtemp(prefix="aigc-ray-", dir=_short_folder())
            (hidden / "home").write_text(home)
            ray.init(
                address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False,
                logging_level=logging.ERROR, object_store_memory=_STORE, _temp_dir=home,
            )  # fmt: skip
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)


def _short_folder() -> str:
    """The folder for temporary files, or /tmp where its name is too long for a socket below it."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST else "/tmp"


def _environment() -> dict[str, str]:
    """What the processes of a cluster must know as those of this machine do."""
    kept = ("JAX_", "XLA_", "AIGC_", "XDG_", "LIBTPU_")
    return {name: value for name, value in os.environ.items() if name.startswith(kept)}


def _sweep_up(hidden: Path) -> None:
    """Removes what this driver, or one that was killed, has left."""
    with contextlib.suppress(OSError):
        home = Path((hidden / "home").read_text())
        if home.name.startswith("aigc-ray-"):
            shutil.rmtree(home, ignore_errors=True)
    for path in hidden.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

"""The trials of a sweep as an Optuna study in ROOT/study.db: made, taken, ended, begun again.

A trial of a list stands in the study with its config's id in `user_attrs`; one of a search with the
number of its slot, and a sampler chooses its point when a worker takes it. All of them are put in
before a worker starts, so no two workers ever make the same one.
"""

import contextlib
import fcntl
import json
import math
import os
import socket
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from aigc_jax.errors import StorageError, UserError, nearest
from aigc_jax.sweep import folder, search
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.space import Choice, Distribution, Float, Int
from aigc_jax.train.storage import storage_errors

SAMPLERS = ("tpe", "cmaes", "qmc", "grid", "random")
PRUNERS = ("none", "median", "hyperband", "asha")
NAME = "sweep"
RETRIES = 3  # of a trial whose process died
_HEARTBEAT, _GRACE = 15, 180  # seconds; compiling may starve the thread that beats
_FULL = ("disk is full", "disk I/O error", "readonly database", "unable to open database")
_SEED = 1  # of all samplers; the number of the trial is added


def study_of(
    root: Path,
    *,
    direction: Any = "minimize",
    wal: bool = True,
    beats: bool = True,
    check: bool = True,
) -> optuna.Study:
    """Opens the study of a sweep folder, made if it isn't there.

    Args:
      root: the sweep folder. direction: "minimize" or "maximize", of a new one.
      wal: write-ahead logging, which is fast and needs a disk of this machine.
      beats: whether those who take trials give signs of life, as `Study.optimize` does.
      check: the version of the file, which takes a moment; whoever made the study has done it.

    Raises:
      UserError: the file is of another version of Optuna, or no database. StorageError: the disk.
    """
    path = root / "study.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with database_errors(root), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with storage_errors(path), contextlib.closing(sqlite3.connect(path, timeout=60)) as plain:
            plain.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(
            max_retry=RETRIES, inherit_intermediate_values=True
        )
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{path}",
            engine_kwargs={"connect_args": {"timeout": 60}},
            skip_compatibility_check=not check,
            heartbeat_interval=_HEARTBEAT if beats else None,
            grace_period=_GRACE,
            heartbeat_stale_trial_callback=retry,
        )
        if wal:  # then a commit need not wait for the disk: a loss of power costs the last ones
            sqlalchemy.event.listen(
                storage.engine, "connect", lambda c, _: c.execute("PRAGMA synchronous=NORMAL")
            )
            storage.engine.dispose()
        return optuna.create_study(
            study_name=NAME, storage=storage, direction=direction, load_if_exists=True
        )


@contextlib.contextmanager
def database_errors(root: Path) -> Iterator[None]:
    """Turns what can go wrong with study.db into one line."""
    path = root / "study.db"
    try:
        yield
    except UserError:
        raise
    except (
        optuna.exceptions.StorageInternalError,
        sqlalchemy.exc.DBAPIError,
        sqlite3.Error,
        RuntimeError,
        AssertionError,
    ) as error:
        text = f"{error} {error.__cause__ or ''}"
        if any(word in text for word in _FULL):
            raise StorageError(
                f"can't write {path}: the disk is full, read-only or gone; nothing saved is lost;"
                " make room and start the same command again"
            ) from error
        if "no longer compatible" in text or "Can't locate revision" in text:
            raise UserError(
                f"{path} is in use by another version of Optuna than the {optuna.__version__} here."
                " Install that one, or move the file away: finished trials are known by their run"
                " folders."
            ) from error
        if "not a database" in text or "malformed" in text:
            raise UserError(
                f"{path} is damaged. Move it away: finished trials are known by their run folders."
            ) from error
        raise


@contextlib.contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Held while a trial is taken, until it says who has it; the system lets go of a dead one's."""
    with storage_errors(root / ".ask"), open(root / ".ask", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sampler(name: str, number: int) -> optuna.samplers.BaseSampler:
    """Makes a sampler by name, for the trial of this number: the same one chooses the same.

    Raises:
      UserError: no such sampler, or a package that it needs is missing.
    """
    check_name("sampler", name, SAMPLERS)
    made = optuna.samplers
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "cmaes":
            search.check_package(name)
            return made.CmaEsSampler(seed=_SEED + number, warn_independent_sampling=False)
        if name == "qmc":  # all processes walk one sequence
            return made.QMCSampler(
                scramble=True, seed=_SEED, warn_independent_sampling=False,
                warn_asynchronous_seeding=False,
            )  # fmt: skip
        if name == "tpe":
            return made.TPESampler(seed=_SEED + number, constant_liar=True)
    return made.RandomSampler(seed=_SEED + number)


def pruner(name: str, every: int, steps: int) -> optuna.pruners.BasePruner:
    """Makes a pruner by name.

    Args:
      every: steps between two evaluations; steps: of a whole run.

    Raises:
      UserError: no such pruner.
    """
    check_name("pruner", name, PRUNERS)
    made, first = optuna.pruners, max(1, every or steps)
    if name == "median":
        return made.MedianPruner(n_startup_trials=4, n_warmup_steps=first)
    if name == "hyperband":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return made.HyperbandPruner(
                min_resource=first, max_resource=max(first, steps), reduction_factor=3
            )
    if name == "asha":
        return made.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3)
    return made.NopPruner()


def check_name(what: str, name: str, names: Sequence[str]) -> None:
    """Raises UserError for a name that isn't there."""
    if name not in names:
        raise UserError(f"--{what}={name}: expected {', '.join(names)}.{nearest(name, names)}")


def suggest(trial: optuna.Trial, draws: Mapping[str, Distribution]) -> dict[str, Any]:
    """Lets the sampler choose a point."""
    point: dict[str, Any] = {}
    for path, drawn in draws.items():
        if isinstance(drawn, Choice):
            shown = _shown(drawn)
            chosen = trial.suggest_categorical(path, shown)
            point[path] = drawn.values[shown.index(chosen)]
        elif isinstance(drawn, Int):
            point[path] = trial.suggest_int(path, drawn.low, drawn.high, log=drawn.log)
        else:
            point[path] = trial.suggest_float(path, drawn.low, drawn.high, log=drawn.log)
    return point


def _shown(drawn: Choice) -> list[Any]:
    """The values as Optuna can keep them: what is no scalar becomes text."""
    scalar = bool | int | float | str | None
    return [v if isinstance(v, scalar) else json.dumps(v) for v in drawn.values]


# --- putting trials in ---------------------------------------------------------------------------


def put_list(study: optuna.Study, planned: Sequence[Planned], metric: str) -> None:
    """Puts in the trials of a list that are not in yet; those that failed get another try.

    A trial whose run folder says that it is done counts as done whatever the study says.
    """
    newest = latest(study, "id")
    for trial in planned:
        known, said = newest.get(trial.id), folder.outcome(trial.workdir, metric)
        if known and (known.state == TrialState.WAITING or known.state == TrialState.RUNNING):
            continue
        done = said.state in ("finished", "pruned") and not math.isnan(said.score)
        if done and known and known.state in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        attrs = {
            "id": trial.id, "recipe": trial.recipe, "overrides": list(trial.overrides),
            "point": json.dumps(trial.point), "runs": [trial.workdir.name],
        }  # fmt: skip
        if done:
            _put_done(study, attrs, said)
        else:
            study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=attrs))


def put_slots(
    study: optuna.Study,
    number: int,
    found: Sequence[tuple[dict[str, Any], list[str], folder.Outcome]],
    draws: Mapping[str, Distribution],
) -> None:
    """Puts in the trials of a search, up to this number; those that failed get another try.

    Args:
      found: (point, names of its run folders, how it ended) of trials that run folders know of and
        the study doesn't. draws: what is searched.
    """
    newest = latest(study, "slot")
    known = {tuple(t.user_attrs["runs"]) for t in newest.values() if "runs" in t.user_attrs}
    free = [slot for slot in range(number) if slot not in newest]
    for point, names, said in found:
        if tuple(names) not in known and free:
            params = {
                path: _shown(d)[list(d.values).index(point[path])]
                if isinstance(d, Choice) else point[path]
                for path, d in draws.items()
            }  # fmt: skip
            attrs = {"slot": free.pop(0), "runs": names}
            _put_done(study, attrs, said, params, {p: distribution(d) for p, d in draws.items()})
    for slot in free:
        attrs = {"slot": slot}
        study.add_trial(optuna.create_trial(state=TrialState.WAITING, user_attrs=attrs))
    for trial in newest.values():
        if trial.state == TrialState.FAIL:
            again(study, trial)


def _put_done(
    study: optuna.Study, attrs: dict[str, Any], said: folder.Outcome, params: Any = None,
    distributions: Any = None,
) -> None:  # fmt: skip
    pruned = said.state == "pruned"
    study.add_trial(
        optuna.create_trial(
            state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
            value=said.score, params=params, distributions=distributions, user_attrs=attrs,
            intermediate_values={said.step: said.score},
        )
    )  # fmt: skip


def distribution(drawn: Distribution) -> optuna.distributions.BaseDistribution:
    """What Optuna calls it."""
    if isinstance(drawn, Choice):
        return optuna.distributions.CategoricalDistribution(_shown(drawn))
    kind = optuna.distributions.IntDistribution if isinstance(drawn, Int) else None
    if kind is not None:
        return kind(int(drawn.low), int(drawn.high), log=drawn.log)
    assert isinstance(drawn, Float)
    return optuna.distributions.FloatDistribution(drawn.low, drawn.high, log=drawn.log)


# --- reading and beginning again -----------------------------------------------------------------


def latest(study: optuna.Study, key: str = "") -> dict[Any, FrozenTrial]:
    """The newest trial under each id or slot: earlier ones of it were begun again."""
    found: dict[Any, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        for name in [key] if key else ["id", "slot"]:
            if name in trial.user_attrs:
                found[trial.user_attrs[name]] = trial
    return found


def again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Puts an ended trial in once more, with its point and what it has reported; not as a retry."""
    kept = {k: v for k, v in trial.user_attrs.items() if k not in ("worker", "error")}
    study.add_trial(
        optuna.create_trial(
            state=TrialState.WAITING, params=trial.params, distributions=trial.distributions,
            user_attrs=kept, system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
    )  # fmt: skip


def rescue(study: optuna.Study, root: Path, alive: Sequence[str], host: str) -> list[FrozenTrial]:
    """Begins the trials again whose process has died, up to `RETRIES` times each.

    Args:
      alive: the names of the workers of that machine that are known to run. host: the machine whose
        dead are meant; the trials of workers on others are left to their heartbeats. Where it is
        this one, a worker that still runs is seen, whoever started it: a job of SLURM's here.

    Returns:
      Those trials.
    """
    found = []
    # Under the lock no worker stands between taking a trial and saying so.
    with one_at_a_time(root):
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = str(trial.user_attrs.get("worker", ""))
            elsewhere = worker and worker.partition(":")[0] != host
            if worker in alive or elsewhere or _works(worker, root):
                continue
            study.tell(trial.number, state=TrialState.FAIL)
            found.append(trial)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback(
            max_retry=RETRIES, inherit_intermediate_values=True
        )
    for trial in found:
        retry(study, trial)
    return found


def _works(worker: str, root: Path) -> bool:
    """Whether it is a process of this machine that was started for this folder, and still runs."""
    host, _, pid = worker.rpartition(":")
    process = Path("/proc") / pid
    try:
        words = (process / "cmdline").read_text(errors="replace").split("\0")
        here = (process / "cwd").resolve()
    except OSError:  # it has ended; or this system has no /proc, and the lock of the run must do
        return False
    started = (here / word for word in words if word and word.endswith(root.name))
    return host == socket.gethostname() and any(
        path.resolve() == root.resolve() for path in started
    )


def token(host: str, pid: int | None = None) -> str:
    """The name of a worker: its machine and process."""
    return f"{host}:{pid or os.getpid()}"

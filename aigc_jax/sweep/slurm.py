"""The engine "slurm": workers of one sweep as jobs of a cluster, through submitit.

A job is one worker on the sweep's study. Before its time is up, or when it is preempted, SLURM
signals it: the worker saves its trial and the job puts itself into the queue again. The jobs belong
to SLURM: they go on when the driver ends, and the same command finds and watches them.
"""

import contextlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.errors import UserError, nearest
from aigc_jax.sweep.say import say
from aigc_jax.train.lock import Lock
from aigc_jax.train.signals import Signals
from aigc_jax.train.storage import write_atomic

FAILED, STOPPED = 3, 75
CLUSTERS = ("slurm", "local")
# How one calls them, and what submitit does.
_ALIASES = {
    "cpus": "cpus_per_task", "gpus": "gpus_per_node", "parallel": "array_parallelism",
    "name": "job_name",
}  # fmt: skip
_OURS = ("cluster", "requeues", "poll")
_FREE = "sbatch."  # in front of an option of sbatch that submitit has no name for
_MINUTES, _REQUEUES, _POLL = 60, 100, 10.0
_GRACE = 600.0  # seconds between SIGTERM and the end of a preempted job, at most


class Options(NamedTuple):
    """What was typed after --slurm=.

    Attributes:
      cluster: "slurm", or "local" for processes of this machine.
      requeues: how often a job that has run out of time goes into the queue again.
      poll: seconds between two looks at the jobs. parameters: submitit's, of `SlurmExecutor`.
    """

    cluster: str
    requeues: int
    poll: float
    parameters: dict[str, Any]


class Work:
    """One worker as a job: what submitit pickles, starts on a node, and asks to save itself.

    Args:
      root: the sweep folder. worker: the command. cwd: where it starts.
    """

    def __init__(self, root: str, worker: Sequence[str], cwd: str) -> None:
        self.root, self.worker, self.cwd = root, list(worker), cwd

    def __call__(self) -> int:
        """Runs the worker; returns its exit code."""
        import submitit

        note = Path(self.root) / "slurm" / f"{submitit.JobEnvironment().job_id}.worker"
        # A job that was killed before it could save comes back here.
        with contextlib.suppress(OSError):
            revive(Path(self.root), [note.read_text()])
        self._child = subprocess.Popen(self.worker, cwd=self.cwd)
        note.write_text(f"{os.uname().nodename}:{self._child.pid}")
        self._wait()
        note.unlink(missing_ok=True)
        code = self._child.wait()
        if code == STOPPED:
            # A SIGTERM reached the worker and not this process (submitit passes over it): SLURM is
            # about to end the job. One that ended by itself would not come back into the queue.
            time.sleep(_GRACE)
        return code

    def _wait(self) -> None:
        # Not `Popen.wait`, whose lock the signal handler would wait for for ever.
        os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)

    def checkpoint(self) -> Any:
        """Saves the trial; submitit calls it on SLURM's signal and requeues what it returns."""
        import submitit

        self._child.send_signal(signal.SIGTERM)
        self._wait()
        return submitit.helpers.DelayedSubmission(Work(self.root, self.worker, self.cwd))


def run(
    root: Path,
    *,
    workers: int,
    worker: Sequence[str],
    options: Sequence[str] = (),
    say: Callable[[str], None] = say,
) -> int:
    """Submits workers and waits for them.

    Args:
      root: the sweep folder, on a disk that all nodes see; sweep.json and study.db are there.
      workers: jobs, those of an earlier start that still wait or run counted.
      worker: the command of one: it takes trials until none is left, and saves and exits with 75
        on SIGTERM.
      options: "KEY=VALUE" as typed after --slurm=: partition, time, cpus, gpus, mem, ...
      say: takes a line for the person who watches.

    Returns:
      0, all trials have ended; 3, some failed; 75, some are left: the same call goes on.

    Raises:
      UserError: submitit isn't installed, there is no SLURM here, a wrong option, or another
        process does the same.
    """
    asked = read(options)
    home = root.absolute() / "slurm"
    executor = _executor(home, asked)
    home.mkdir(parents=True, exist_ok=True)
    with Lock(root), Signals() as signals:
        jobs = _alive(home, executor)
        if not jobs:  # then whatever the study says is running is not
            revive(root)
        more = workers - len(jobs)
        if jobs:
            say(f"{len(jobs)} jobs of an earlier start: {_ids(jobs)}")
        if more > 0:
            work = Work(str(root.absolute()), worker, os.getcwd())
            jobs += executor.submit_array([work] * more)
            _write(home, jobs)
            say(f"submitted {more} jobs: {_ids(jobs[-more:])}; their logs: {home}")
        _watch(jobs, asked, signals, say)
        if signals.asked:
            _leave(jobs, asked, say)
            return STOPPED
        revive(root)
    return _ended(root, say)


def check(options: Sequence[str]) -> None:
    """Raises UserError for options that are wrong, or where there is no SLURM to take them."""
    asked = read(options)
    if asked.cluster == "slurm" and shutil.which("srun") is None:
        raise UserError(
            "--engine=slurm: there is no SLURM on this machine (no srun); start the sweep on a"
            " login node."
        )


def read(words: Iterable[str]) -> Options:
    """Reads "KEY=VALUE" words.

    Raises:
      UserError: no such key, or a value that it doesn't take.
    """
    known = _parameters()
    found: dict[str, Any] = {"time": _MINUTES}
    ours: dict[str, str] = {}
    for word in words:
        key, mark, value = word.partition("=")
        name = _ALIASES.get(key, key)
        if not mark or not value:
            raise UserError(f"--slurm={word}: expected KEY=VALUE, such as --slurm=partition=gpu.")
        if key in _OURS:
            ours[key] = value
        elif key.startswith(_FREE):
            found.setdefault("additional_parameters", {})[key.removeprefix(_FREE)] = value
        elif name not in known:
            names = sorted({*known, *_ALIASES, *_OURS})
            raise UserError(
                f"--slurm={word}: there is no option '{key}'.{nearest(key, names)} Any other one of"
                f" sbatch is {_FREE}NAME=VALUE; there are {', '.join(names)}."
            )
        elif name == "time":
            found[name] = minutes(value)
        elif name in ("setup", "teardown", "srun_args"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = _typed(word, value, known[name])
    cluster = ours.get("cluster", "slurm")
    if cluster not in CLUSTERS:
        raise UserError(f"--slurm=cluster={cluster}: expected {' or '.join(CLUSTERS)}.")
    # SLURM itself requeues what it kills; a log is one file over all starts.
    found["additional_parameters"] = {"requeue": True, **found.get("additional_parameters", {})}
    return Options(
        cluster,
        _typed("requeues", ours.get("requeues", str(_REQUEUES)), "int"),
        float(_typed("poll", ours.get("poll", str(int(_POLL))), "int")),
        {"job_name": "aigc-sweep", "stderr_to_stdout": True, **found},
    )


def minutes(value: str) -> int:
    """Returns what SLURM means by a time: "90" minutes, "2:30:00", "1-12", "1-12:00".

    Raises:
      UserError: it means nothing.
    """
    days, dash, rest = value.rpartition("-")
    parts = rest.split(":")
    try:
        numbers = [int(part) for part in parts]
        if dash:  # D-H, D-H:M, D-H:M:S
            hours, mins, secs, *more = [*numbers, 0, 0][: max(3, len(numbers))]
        elif len(numbers) == 3:
            (hours, mins, secs), more = numbers, []
        else:  # M or M:S
            (mins, secs, *more), hours = [*numbers, 0][: max(2, len(numbers))], 0
        if more or min(numbers) < 0:
            raise ValueError
        total = (int(days) * 24 if dash else 0) * 60 + hours * 60 + mins + (secs > 0)
        if total < 1:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--slurm=time={value}: expected minutes, H:M:S or D-H:M, such as 90 or 2:30:00."
        ) from None
    return total


def revive(root: Path, dead: Sequence[str] | None = None) -> None:
    """Puts the trials of dead workers back into the study.

    Args:
      dead: their names in the study, "host:pid"; None for whoever holds a trial.
    """
    from optuna.trial import TrialState

    from aigc_jax.sweep import folder, trials

    if not (root / "study.db").exists():
        return
    study = trials.study_of(root, direction=folder.read(root).direction, wal=False)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    names = {str(trial.user_attrs.get("worker", "")) for trial in running}
    gone = names if dead is None else names & set(dead)
    for host in {name.partition(":")[0] for name in gone}:
        trials.rescue(study, root, sorted(names - gone), host)


def _parameters() -> dict[str, str]:
    """The names of submitit's parameters for SLURM, and their types as annotated."""
    try:
        from submitit.slurm import slurm
    except ImportError as error:
        raise UserError(
            f"--engine=slurm needs submitit, which is not installed ({error}): pip install"
            " 'aigc-jax[slurm]'."
        ) from None
    signature = inspect.signature(slurm._make_sbatch_string).parameters
    names = slurm._get_default_parameters()
    return {n: str(signature[n].annotation) for n in names if n != "additional_parameters"}


def _typed(word: str, value: str, annotation: str) -> Any:
    if "bool" in annotation and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if "int" in annotation:
        if not value.isdigit():
            raise UserError(f"--slurm={word}: expected a whole number, got '{value}'.")
        return int(value)
    return value


def _executor(home: Path, asked: Options) -> Any:
    """Makes submitit's executor; UserError where there is no SLURM."""
    import submitit

    if asked.cluster == "local":
        executor: Any = submitit.LocalExecutor(home, max_num_timeout=asked.requeues)
        executor.update_parameters(
            timeout_min=asked.parameters["time"],
            gpus_per_node=asked.parameters.get("gpus_per_node", 0),
            signal_delay_s=asked.parameters.get("signal_delay_s", 30), stderr_to_stdout=True,
        )  # fmt: skip
        return executor
    try:
        executor = submitit.SlurmExecutor(home, max_num_timeout=asked.requeues)
    except RuntimeError as error:
        raise UserError(
            f"--engine=slurm: there is no SLURM on this machine ({error}); start the sweep on a"
            " login node."
        ) from None
    executor.update_parameters(**asked.parameters)
    return executor


def _alive(home: Path, executor: Any) -> list[Any]:
    """The jobs of earlier starts that still wait or run."""
    try:
        ids = json.loads((home / "jobs.json").read_text())
    except (OSError, ValueError):
        return []
    jobs = [executor.job_class(folder=home, job_id=str(name)) for name in ids]
    return [job for job in jobs if not _done(job)]


def _done(job: Any) -> bool:
    # A local job of another process has none to ask; its number is that of its process.
    if getattr(job, "_process", "") is None:
        try:
            os.kill(int(job.job_id), 0)
        except (OSError, ValueError):
            return True
        return bool(job.paths.result_pickle.exists())
    return bool(job.done())


def _write(home: Path, jobs: Sequence[Any]) -> None:
    write_atomic(home / "jobs.json", json.dumps([job.job_id for job in jobs]) + "\n")


def _ids(jobs: Sequence[Any]) -> str:
    return ", ".join(str(job.job_id) for job in jobs)


def _watch(
    jobs: Sequence[Any], asked: Options, signals: Signals, say: Callable[[str], None]
) -> None:
    """Waits until all jobs have ended, or a signal comes."""
    left = list(jobs)
    while left and not signals.asked:
        for job in [job for job in left if _done(job)]:
            left.remove(job)
            say(f"job {job.job_id}: {job.state.lower()}; {len(left)} left")
        limit = time.monotonic() + asked.poll
        while left and time.monotonic() < limit and not signals.asked:
            time.sleep(min(0.1, asked.poll))


def _leave(jobs: Sequence[Any], asked: Options, say: Callable[[str], None]) -> None:
    ends = "scancel" if asked.cluster == "slurm" else "kill"
    say(
        "the jobs go on; the same command watches them again, and"
        f" `{ends} {' '.join(str(job.job_id) for job in jobs)}` ends them"
    )


def _ended(root: Path, say: Callable[[str], None]) -> int:
    """Says what came of the sweep, as the study has it."""
    from optuna.trial import TrialState

    from aigc_jax.sweep import board, folder, trials

    sweep = folder.read(root)
    study = trials.study_of(root, direction=sweep.direction, wal=False)
    known = list(trials.latest(study).values())
    for line in board.summary(root, sweep, known):
        say(line)
    if any(trial.state in (TrialState.WAITING, TrialState.RUNNING) for trial in known):
        say(f"{root}: the jobs have ended before all trials had; the same command goes on")
        return STOPPED
    return FAILED if any(trial.state == TrialState.FAIL for trial in known) else 0

"""The engine "local": worker processes of this machine on one Optuna study.

The driver starts workers and looks after them; it trains nothing itself. A worker whose process
dies is replaced, and its trial goes on from its checkpoint. When the driver dies, its workers save
and end; the same command goes on.
"""

import contextlib
import fcntl
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from optuna.trial import TrialState

from aigc_jax.errors import StorageError, UserError
from aigc_jax.sweep import board, folder, search, trials
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.say import say
from aigc_jax.sweep.space import Space
from aigc_jax.sweep.worker import FAILED, STOPPED
from aigc_jax.train.lock import Lock
from aigc_jax.train.signals import Signals
from aigc_jax.train.storage import storage_errors

PROGRAM = (sys.executable, "-m", "aigc_jax.cli.main")
_POLL = 0.1  # seconds between two looks at the processes
_LOOK = 1.0  # seconds, at least, between two looks at the study
_STILLBORN = 3  # workers in a row that die without having taken a trial


def prepare(
    root: Path,
    planned: Sequence[Planned] | None,
    *,
    number: int = 0,
    sampler: str = "tpe",
    pruner: str = "none",
    wal: bool = True,
    beats: bool = True,
) -> Any:
    """Makes the study of a sweep folder, or brings it up to date, and returns it.

    Nobody may be at work on it from this machine; what dead processes left is begun again.

    Args:
      root: with its sweep.json. planned: the list; None for a search.
      number: of trials, of a search. sampler, pruner: names. wal, beats: as of `trials.study_of`.

    Raises:
      UserError: names that aren't there, a database of another version. StorageError: the disk.
    """
    sweep = folder.read(root)
    with trials.database_errors(root):
        study = trials.study_of(root, direction=sweep.direction, wal=wal, beats=beats)
        trials.check_name("sampler", sampler, trials.SAMPLERS)
        trials.check_name("pruner", pruner, trials.PRUNERS)
        trials.rescue(study, root, [], socket.gethostname())
        run = search.settings(sweep, planned)
        attrs = {"sampler": sampler, "pruner": pruner, "every": run["eval_every"],
                 "steps": run["steps"]}  # fmt: skip
        for name, value in attrs.items():
            study.set_user_attr(name, value)
        if planned is not None:
            trials.put_list(study, planned, sweep.metric)
        else:
            space = Space.read(sweep.space)
            trials.put_slots(study, number, search.found(root, sweep, space), space.draws)
        return study


def run(
    root: Path,
    planned: Sequence[Planned] | None,
    *,
    workers: int = 1,
    number: int = 0,
    sampler: str = "tpe",
    pruner: str = "none",
    say: Callable[[str], None] = say,
) -> int:
    """Runs the trials of a sweep folder; returns 0, 3 (some failed) or 75 (stopped by a signal).

    Args:
      root, planned, number, sampler, pruner: see `prepare`. workers: processes.
      say: takes a line for the person who watches.

    Raises:
      UserError: another process runs this sweep, or a mistake in all trials. StorageError: the
        disk; nothing saved is lost.
    """
    if workers < 1:
        raise UserError(f"--workers={workers}: expected 1 or more.")
    with Lock(root), Signals() as signals:
        _wait_for_others(root, signals, say)
        study = prepare(root, planned, number=number, sampler=sampler, pruner=pruner)
        with trials.database_errors(root):
            return Driver(root, study, workers, signals, say).run()


def _wait_for_others(root: Path, signals: Signals, say: Callable[[str], None]) -> None:
    """Waits until the workers of a driver that died have saved and ended."""
    with storage_errors(root / ".workers"), open(root / ".workers", "a") as file:
        told = False
        while not signals.asked:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            if not told:
                say("waiting for the workers of an earlier start to save and end")
                told = True
            time.sleep(_POLL)


class _Process(NamedTuple):
    """A worker: its place (which device, which cores), and its process."""

    place: int
    popen: subprocess.Popen[bytes]
    log: Path


class Driver:
    """Starts workers, replaces those that die, shows how it goes.

    Args:
      root: the sweep folder, locked. study: of it, prepared. workers: processes at a time.
      signals: installed. say: takes a line.
    """

    def __init__(
        self, root: Path, study: Any, workers: int, signals: Signals, say: Callable[[str], None]
    ) -> None:
        self.root, self.study, self.signals, self.say = root, study, signals, say
        self.sweep, self.host = folder.read(root), socket.gethostname()
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        self.workers = min(workers, len(waiting))
        self.board = board.Board(root, self.sweep, say)
        self.processes: list[_Process] = []
        self._stillborn, self._fatal = 0, ""
        self._code, self._looked, self._passed_on = 0, 0.0, False

    def run(self) -> int:
        """Returns the exit code; raises UserError where no trial can be trained."""
        with self.board:
            try:
                self.board.show(self._known(), [])
                for place in range(self.workers):
                    self._start(place)
                while self.processes:
                    self._turn()
                    time.sleep(_POLL)
                # A worker that ended well saw nothing to do; one that died since left something.
                while not (self.signals.asked or self._fatal) and self._left():
                    self._start(0)
                    while self.processes:
                        self._turn()
                        time.sleep(_POLL)
            finally:
                self._end_all()
                self.board.show(self._known(), [])
        if self._fatal:
            raise (StorageError if self._code == StorageError.exit_code else UserError)(self._fatal)
        if self.signals.asked:
            self.say(f"{self.root}: stopped by {self.signals.asked}; the same command goes on")
            return STOPPED
        for line in board.summary(self.root, self.sweep, self._known()):
            self.say(line)
        return FAILED if any(t.state == TrialState.FAIL for t in self._known()) else 0

    def _known(self) -> list[Any]:
        return list(trials.latest(self.study).values())

    def _left(self) -> bool:
        self._rescue()
        return any(t.state == TrialState.WAITING for t in self._known())

    def _start(self, place: int) -> None:
        logs = self.root / "logs"
        command = [*PROGRAM, "sweep-worker", str(self.root), "--watched"]
        cores = cores_of(place, self.workers)
        if cores and not devices(os.environ):
            command.append(f"--cores={','.join(map(str, cores))}")
        path = logs / f"worker-{place}.log"
        with storage_errors(path):
            logs.mkdir(exist_ok=True)
            with open(path, "ab") as log, open(self.root / ".workers", "a") as held:
                # Held by the worker for as long as it lives, whatever becomes of us.
                fcntl.flock(held, fcntl.LOCK_SH)
                popen = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=log, stderr=log,
                    pass_fds=[held.fileno()],
                    start_new_session=True,  # Ctrl-C is ours to pass on
                    env={**os.environ, **environment(place, self.workers, os.environ)},
                )  # fmt: skip
        self.processes.append(_Process(place, popen, path))

    def _turn(self) -> None:
        """One look at the processes, and now and then at the study."""
        if self.signals.asked and not self._passed_on:
            self._passed_on = True
            for process in self.processes:
                process.popen.terminate()
        for process in list(self.processes):
            code = process.popen.poll()
            if code is not None and process in self.processes:
                self.processes.remove(process)
                self._ended(process, code)
        # Looking takes longer the more trials there are; it shall cost a twentieth at most.
        if time.monotonic() - self._looked > _LOOK:
            begin = time.monotonic()
            self.board.show(self._known(), [f"{self.host}:{p.popen.pid}" for p in self.processes])
            self._looked = time.monotonic() + 20 * (time.monotonic() - begin)

    def _ended(self, process: _Process, code: int) -> None:
        """Looks at how a worker has ended, and starts another one where that is called for."""
        _let_go(process)
        if code in (0, FAILED):
            return
        lost = self._rescue()
        if self.signals.asked or self._fatal:
            return
        if code in (UserError.exit_code, StorageError.exit_code):
            self._code, self._fatal = code, _last_words(process.log, self.root, code)
            self._end_all()
            return
        if code != STOPPED:
            self._stillborn = 0 if lost else self._stillborn + 1
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            for trial in lost:
                name = trial.user_attrs.get("runs", ["a trial"])[0]
                self.say(f"a worker died ({how}) in {name}; it goes on from its checkpoint")
            if self._stillborn >= _STILLBORN:
                self._code = 2
                self._fatal = f"workers die at their start ({how}); see {process.log}"
                return
        if any(t.state == TrialState.WAITING for t in self._known()):
            self._start(process.place)

    def _rescue(self) -> list[Any]:
        alive = [trials.token(self.host, p.popen.pid) for p in self.processes]
        return trials.rescue(self.study, self.root, alive, self.host)

    def _end_all(self) -> None:
        """Lets all workers save and end, and waits for them."""
        for process in self.processes:
            if not self._passed_on:
                process.popen.terminate()
        for process in self.processes:
            process.popen.wait()
            _let_go(process)
        if self.processes and not self._fatal:
            self._rescue()
        self.processes.clear()


def _let_go(process: _Process) -> None:
    """Closes our end of what told the worker that we live."""
    if process.popen.stdin:
        process.popen.stdin.close()


def _last_words(log: Path, root: Path, code: int) -> str:
    """What a worker complained of."""
    if code == StorageError.exit_code:
        return (
            f"can't write under {root}: the disk is full, read-only or gone (see {log}); nothing"
            " saved is lost; make room and start the same command again"
        )
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    said = [line for line in lines if line.startswith("aigc: ")]
    return said[-1].removeprefix("aigc: ") if said else f"a worker gave up; see {log}"


def devices(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """The accelerators of this machine, as (variable, value) that let a process see one of them."""
    if env.get("JAX_PLATFORMS", "").split(",")[0] == "cpu":
        return []
    for variable, pattern in (("CUDA_VISIBLE_DEVICES", "nvidia"), ("TPU_VISIBLE_CHIPS", "accel")):
        if variable in env:
            names = [word.strip() for word in env[variable].split(",") if word.strip()]
        else:
            found = (path.name.removeprefix(pattern) for path in Path("/dev").glob(f"{pattern}*"))
            names = sorted((name for name in found if name.isdigit()), key=int)
        if names:
            return [(variable, name) for name in names]
    return []


def environment(
    place: int,
    workers: int,
    env: Mapping[str, str],
    found: Sequence[tuple[str, str]] | None = None,
) -> dict[str, str]:
    """What a worker's environment has of its own: one accelerator each, where there are several.

    Args:
      place: 0, 1, ... of `workers`. env: the driver's. found: `devices(env)`, for tests.

    Workers that share a GPU share its memory.
    """
    there = devices(env) if found is None else found
    if workers < 2 or not there:
        return {}
    variable, name = there[place % len(there)]
    own = {variable: name}
    if variable == "TPU_VISIBLE_CHIPS":
        own |= {"TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    elif workers > len(there) and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in env:
        share = 0.9 / math.ceil(workers / len(there))
        own["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{share:.3f}"
    return own


def cores_of(place: int, workers: int, cores: Sequence[int] | None = None) -> list[int]:
    """The cores of one of several workers: a share of its own, or one where there are too few."""
    if workers < 2 or not hasattr(os, "sched_getaffinity"):
        return []
    mine = sorted(os.sched_getaffinity(0)) if cores is None else list(cores)
    if workers >= len(mine):
        return [mine[place % len(mine)]]
    return mine[place * len(mine) // workers : (place + 1) * len(mine) // workers]

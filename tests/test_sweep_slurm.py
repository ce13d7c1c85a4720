"""The engine "slurm": what submitit is given, and real jobs on processes in place of a cluster."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process
import pytest
import slurm_worker
from optuna.trial import TrialState

from aigc_jax.cli import launch
from aigc_jax.errors import UserError
from aigc_jax.sweep import folder, local, slurm, trials
from aigc_jax.sweep.plans import plan

TESTS = Path(__file__).resolve().parent
STUBS = {
    "srun": "exit 1",
    "sbatch": 'cp "$1" "$0.given"; echo Submitted batch job 4242',
    "sacct": "echo 'JobID|State|NodeList'; cat $0.says",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A sweep folder with two trials that wait; what works on it is gone at the end."""
    process.recipe(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{TESTS.parent}:{TESTS}")
    root = tmp_path / "sweep"
    folder.claim(root, folder.Sweep("recipe.py", [], {}, "score", "minimize"))
    prepared(root)
    yield root
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(root) in (path / "cmdline").read_text():
                os.kill(int(path.name), signal.SIGKILL)


def prepared(root: Path) -> None:
    points: list[dict[str, Any]] = [{"hyper.lr": 0.1}, {"hyper.lr": 0.2}]
    local.prepare(root, plan("recipe.py", [], points, root), wal=False)


def run(root: Path, *options: str, workers: int = 1) -> tuple[int, str]:
    """Returns the exit code, and what was said."""
    lines: list[str] = []
    code = slurm_worker.drive(root, *options, workers=workers, say=lines.append)
    return code, "\n".join(lines)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands, as far as submitit calls them; returns their folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@contextlib.contextmanager
def meanwhile(do: Callable[[], None]) -> Iterator[None]:
    """Does something in a thread; what goes wrong there comes out here."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            do()
        except BaseException as error:
            errors.append(error)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()
    for error in errors:
        raise error


def until(met: Callable[[], Any]) -> Any:
    limit = time.monotonic() + process.PATIENCE
    while not (found := met()):
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.01)
    return found


def held(root: Path) -> int:
    """The process of the worker whose trial waits at 10."""
    for file in root.glob("*/count"):
        if file.read_text() == "10":
            return int((file.parent / "pid").read_text())
    return 0


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_preempted_job_saves_and_comes_back_into_the_queue(root: Path) -> None:
    def preempt() -> None:
        pid = until(lambda: held(root))
        os.kill(parent(pid), signal.SIGUSR2)  # what SLURM sends to the job
        until(lambda: not Path(f"/proc/{pid}").exists())
        (root / "go").touch()  # for the other trial and the next start

    with meanwhile(preempt):
        code, said = run(root, "cluster=local", "poll=1")
    assert code == 0, said
    assert "2 trials" in said and "best score 0.1" in said
    starts = sorted(file.read_text().split() for file in root.glob("*/starts"))
    assert starts == [["0"], ["0", "10"]], "it goes on where it was saved"
    log = next((root / "slurm").glob("*.out")).read_text()
    assert "SIGTERM: saving" in log and "Requeued job" in log
    # Nothing is left to do, and the same command says so at once.
    assert run(root, "cluster=local", "poll=1")[0] == 0


def test_the_jobs_outlive_the_driver_and_a_killed_one_is_begun_again(root: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-m", "slurm_worker", str(root), "drive"])
    pid = until(lambda: held(root))
    task = parent(pid)
    driver.kill()
    driver.wait()
    # The same command looks at the study before it looks for jobs: this one's worker is alive.
    prepared(root)
    study = trials.study_of(root, wal=False, beats=False)
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    assert [t.user_attrs["worker"] for t in running] == [f"{os.uname().nodename}:{pid}"]

    def kill() -> None:
        os.kill(task, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)

    with meanwhile(kill):
        code, said = run(root, "cluster=local", "poll=1")
    assert "1 jobs of an earlier start" in said and "submitted" not in said
    assert code == 75 and "the jobs have ended before all trials had" in said
    (root / "go").touch()
    prepared(root)
    code, said = run(root, "cluster=local", "poll=1")
    assert code == 0 and "submitted 1 jobs" in said, said
    assert ["0", "10"] in [file.read_text().split() for file in root.glob("*/starts")]


def test_trials_of_dead_workers_on_other_machines_are_begun_again(root: Path) -> None:
    def held_by(worker: str) -> None:
        study = trials.study_of(root, wal=False, beats=False)
        study.ask().set_user_attr("worker", worker)

    def states() -> list[str]:
        return [t.state.name for t in trials.latest(trials.study_of(root, wal=False)).values()]

    held_by("node7:12")
    held_by("node8:12")
    assert states() == ["RUNNING", "RUNNING"]
    slurm.revive(root, ["node8:13"])
    assert states() == ["RUNNING", "RUNNING"], "that one holds none"
    slurm.revive(root, ["node8:12"])
    assert states() == ["RUNNING", "WAITING"]
    slurm.revive(root)
    assert states() == ["WAITING", "WAITING"]


def test_the_script_says_what_was_asked_for(root: Path, cluster: Path) -> None:
    (cluster / "sacct.says").write_text("4242_0|COMPLETED|n1\n4242_1|FAILED|n2\n")
    words = (
        "partition=gpu", "time=2:30:00", "cpus=4", "gpus=1", "mem=32GB", "parallel=1",
        "setup=module load cuda", "setup=export A=1", "sbatch.reservation=lab", "exclusive=true",
        "poll=1",
    )  # fmt: skip
    code, said = run(root, *words, workers=2)
    assert code == 75 and "job 4242_1: failed; 0 left" in said, "no trial was trained"
    lines = (cluster / "sbatch.given").read_text().splitlines()
    for line in (
        "--partition=gpu", "--time=150", "--cpus-per-task=4", "--gpus-per-node=1", "--mem=32GB",
        "--array=0-1%1", "--reservation=lab", "--exclusive", "--requeue", "--open-mode=append",
        "--signal=USR2@90", "--job-name=aigc-sweep",
    ):  # fmt: skip
        assert f"#SBATCH {line}" in lines, line
    assert lines.index("module load cuda") < lines.index("export A=1")
    command = shlex.split(lines[-2] if lines[-1] == "" else lines[-1])
    assert command[0] == "srun" and command[-1] == str(root / "slurm")
    # The jobs are known again; those that have ended are not waited for.
    (cluster / "sacct.says").write_text("4242_0|RUNNING|n1\n4242_1|FAILED|n2\n")
    found = slurm._alive(root / "slurm", slurm._executor(root / "slurm", slurm.read(words)))
    assert [job.job_id for job in found] == ["4242_0"]


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("partiton=gpu", "Did you mean 'partition'?"),
        ("partition", "expected KEY=VALUE"),
        ("gpus=all", "expected a whole number, got 'all'"),
        ("time=soon", "expected minutes, H:M:S or D-H:M"),
        ("time=0", "expected minutes"),
        ("cluster=pbs", "expected slurm or local"),
    ],
)
def test_a_wrong_option_is_one_line(word: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        slurm.read([word])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "found"),
    [("90", 90), ("2:30", 3), ("2:30:00", 150), ("1-12", 2160), ("1-0:30", 1470),
     ("1-1:1:1", 1502)],
)  # fmt: skip
def test_times_are_read_as_slurm_reads_them(word: str, found: int) -> None:
    assert slurm.minutes(word) == found


def test_where_there_is_no_slurm_one_line_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="there is no SLURM on this machine") as error:
        run(root)
    assert "\n" not in str(error.value) and not (root / "slurm").exists()
    # `aigc sweep` asks before it writes anything.
    with pytest.raises(UserError, match="there is no SLURM on this machine"):
        launch.check_options("slurm", [], [])
    with pytest.raises(UserError, match=r"Did you mean 'partition'\?"):
        launch.check_options("slurm", [], ["partiton=gpu"])


def test_without_submitit_the_line_names_the_extra(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == "submitit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'aigc-jax\[slurm\]'"):
        run(root)

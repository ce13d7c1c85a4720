"""Many processes make one run: real ones, of this machine, that meet, agree, die and go on."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process import Process, devices

from aigc_jax.cli import processes, wire
from aigc_jax.errors import LostPeer, UserError
from aigc_jax.train import cluster, peers
from aigc_jax.train.cluster import Cluster, detect
from aigc_jax.train.peers import Star

RECIPE = """
from ml_collections import ConfigDict


def get_config(arg=None):
    return ConfigDict({
        "task": {
            "name": "lm",
            "model": {"name": "transformer", "layers": 1, "heads": 2, "width": 8},
        },
        "data": {"name": "text", "path": "text.txt", "context": 8},
        "hyper": {"lr": 0.01, "warmup": 2.0},
        "evals": {"validation": {"name": "mean", "limit": 2}},
        "run": {"steps": 12, "batch_size": 4, "log_every": 1, "eval_every": 4, "save_every": 4,
                "steps_per_call": 2, "tensorboard": False},
    })
"""
# Notes what each process reads; it leaves the numbers alone.
READS = """
import json, os
from aigc_jax.data.prefetch import Prefetcher
get = Prefetcher.get
def noted(self, step):
    rows = get(self, step)
    with open("rows-" + os.environ.get("JAX_PROCESS_ID", "all"), "a") as file:
        file.write(json.dumps([step, rows["inputs"].tolist()]) + "\\n")
    return rows
Prefetcher.get = noted
"""
# Ends this process in the evaluation of step 4: one batch has been sent.
IN_EVALUATION = """
import os
from aigc_jax.train import evaluation
several, calls = evaluation.Judge.several, []
def dies(*args):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), 9)
    return several(*args)
evaluation.Judge.several = dies
"""
# In the save of step 8: begun by both, its files not yet whole.
IN_SAVE = """
import os
from orbax.checkpoint import CheckpointManager
save = CheckpointManager.save
def dies(self, step, **rest):
    if step == 8:
        from orbax.checkpoint._src.checkpointers.async_checkpointer import _AsyncManager
        _AsyncManager.start_async_commit = lambda *a, **k: os.kill(os.getpid(), 9)
    return save(self, step, **rest)
CheckpointManager.save = dies
"""
# Says that it is at a step, and waits there for its signal.
AT_STEP = """
import os, time
from aigc_jax.train.loop import Loop
advance = Loop._advance
def slow(self, n):
    if self.step >= {step}:
        open("there", "w").close()
        time.sleep(0.05)
    return advance(self, n)
Loop._advance = slow
"""
# Spoils batch 6, and in it the second process's rows alone.
SPOILT = """
import os
from aigc_jax.data.prefetch import Prefetcher
get = Prefetcher.get
def spoilt(self, step):
    rows = get(self, step)
    if step == 6 and os.environ.get("JAX_PROCESS_ID") != "0":
        rows = {**rows, "mask": rows["mask"].copy()}
        rows["mask"][-2:] = float("nan")
    return rows
Prefetcher.get = spoilt
"""
# Hangs for ever as it reads batch 6, alive and well otherwise.
HANGS = """
import time
from aigc_jax.data.prefetch import Prefetcher
get = Prefetcher.get
def hangs(self, step):
    while step == 6:
        time.sleep(0.1)
    return get(self, step)
Prefetcher.get = hangs
"""
TWO_DEVICES = devices(2)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


def pair(folder: Path, *words: str, first: tuple[str, str] = ("", ""), **env: str) -> list[Process]:
    """Starts two processes of one run, as a cluster would."""
    address = f"127.0.0.1:{free_port()}"
    return [
        Process("train", "recipe.py", *words, folder=folder, first=first[i],
                JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i),
                **env)
        for i in range(2)
    ]  # fmt: skip


def alone(folder: Path, *words: str, first: str = "") -> Process:
    """One process with two pretended devices, to its end."""
    process = Process(
        "train", "recipe.py", *words, folder=folder, first=first, XLA_FLAGS=TWO_DEVICES
    )
    assert process.end() == 0, process.err
    return process


def curve(run: Path) -> dict[int, dict[str, float]]:
    """The metrics of each step, without what clocks gave."""
    found: dict[int, dict[str, float]] = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        kept = {k: v for k, v in row.items() if k.startswith(("train/", "validation"))}
        found.setdefault(row["step"], {}).update(kept)
    return found


def rows(path: Path) -> dict[int, list[Any]]:
    """What a process has read, by step."""
    return {step: read for step, read in map(json.loads, path.read_text().splitlines())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("processes")
    (made / "text.txt").write_text("a bird in the hand is worth two in the bush, they say\n" * 60)
    (made / "recipe.py").write_text(RECIPE)
    return made


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[int, dict[str, float]]:
    """The curve of one process that nothing has happened to."""
    alone(folder, "--workdir=whole", first=READS)
    found = curve(folder / "whole")
    assert set(found) == set(range(13))
    assert "train/loss" in found[12] and any(k.startswith("validation") for k in found[8])
    return found


def close(one: dict[int, dict[str, float]], other: dict[int, dict[str, float]]) -> None:
    """Asserts that two curves are the same but for the order of a sum."""
    assert one.keys() == other.keys()
    for step, row in one.items():
        assert row.keys() == other[step].keys()
        for name, value in row.items():
            assert other[step][name] == pytest.approx(value, rel=2e-5, abs=1e-6), (step, name)


@pytest.mark.slow
def test_two_processes_are_one_run(folder: Path, whole: dict[int, dict[str, float]]) -> None:
    both = pair(folder, "--workdir=both", first=(READS, READS))
    codes = [process.end() for process in both]
    assert codes == [0, 0], both[0].err + both[1].err
    close(whole, curve(folder / "both"))
    # Each reads rows of its own, and together they are the batches of one process, in order.
    together, parts = rows(folder / "rows-all"), [rows(folder / f"rows-{i}") for i in range(2)]
    assert len(together) >= 12
    for step, batch in together.items():
        assert [len(part[step]) for part in parts] == [2, 2]
        assert parts[0][step] + parts[1][step] == batch
    # One of them talks.
    assert "finished at step 12" in both[0].out
    assert "step" not in both[1].out
    starts = json.loads((folder / "both" / "status.json").read_text())["starts"]
    assert len(starts) == 1
    assert {p.name for p in (folder / "both" / "checkpoints").iterdir()} == {
        "8", "12", "seal-8.json", "seal-12.json"
    }  # fmt: skip


@pytest.mark.slow
def test_a_run_whose_processes_die_goes_on_to_the_same_end(
    folder: Path, whole: dict[int, dict[str, float]]
) -> None:
    run = folder / "dies"

    def dead(first: str) -> None:
        """Starts it; the second process dies of what is planted, and the first sees it."""
        both = pair(folder, "--workdir=dies", first=("", first))
        assert both[1].end() == -signal.SIGKILL
        fell = time.monotonic()
        assert both[0].end() == LostPeer.exit_code, both[0].err
        assert time.monotonic() - fell < 10
        line = both[0].err.splitlines()[-1]
        assert line.startswith(f"aigc: process 1 (pid {both[1].pid} on ")
        assert line.endswith(
            "of 2 has died; ending here too; the same command goes on from the last checkpoint."
        )
        status = json.loads((run / "status.json").read_text())
        assert status["state"] == "failed"
        assert status["reason"].endswith("has died")

    dead(IN_EVALUATION)
    assert not list((run / "checkpoints").glob("[0-9]*"))
    dead(IN_SAVE)
    assert [p.name for p in (run / "checkpoints").glob("[0-9]*") if p.name.isdigit()] == ["4"]

    # A signal to the second: both save at one step.
    both = pair(folder, "--workdir=dies", first=(AT_STEP.format(step=6),) * 2)
    assert both[1].until((folder / "there").exists)
    both[1].send(signal.SIGTERM)
    assert [process.end() for process in both] == [75, 75], both[0].err + both[1].err
    assert "resumed dies at step 4" in both[0].out
    assert "stopped by SIGTERM of process 1" in both[0].out
    steps = sorted(int(p.name) for p in (run / "checkpoints").glob("[0-9]*"))
    assert steps[0] >= 4 and 6 <= steps[-1] < 12
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"

    # The rest on another number of processes.
    alone(folder, "--workdir=dies")
    close(whole, curve(run))


@pytest.mark.slow
def test_a_process_that_hangs_is_told_by_where_it_is(folder: Path) -> None:
    """It answers, so nobody takes it for dead; the first one waits for it in a step."""
    both = pair(folder, "--workdir=hung", first=("", HANGS), AIGC_HUNG_SECONDS="4")
    try:
        assert both[0].until(lambda: "have not met for 4 s" in both[0].err)
        line = next(x for x in both[0].err.splitlines() if "have not met" in x)
        assert line.startswith("aigc: warning: the processes have not met for 4 s: process 0 (pid ")
        first, second = line.split("; ")[:2]
        assert " is at aigc_jax/train/loop.py:" in first
        assert second.startswith(f"process 1 (pid {both[1].pid} on ")
        assert " is at <string>:" in second  # the line that was planted
        assert "have not met" not in both[1].err
    finally:
        for process in both:
            process.send(signal.SIGKILL)


@pytest.mark.slow
def test_processes_are_started_here(folder: Path, whole: dict[int, dict[str, float]]) -> None:
    """`--processes=2`: one is killed as it goes; the same command goes on."""
    words = ("train", "recipe.py", "--workdir=here", "--processes=2")
    killed = Process(*words, folder=folder)
    assert killed.until((folder / "here" / "checkpoints" / "4").exists)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    assert killed.end() == LostPeer.exit_code
    assert f"process 1 of 2 (pid {children[1]}) was ended by SIGKILL" in killed.err
    again = Process(*words, folder=folder)
    assert again.end() == 0, again.err
    assert "resumed here at step" in again.out
    close(whole, curve(folder / "here"))
    status = json.loads((folder / "here" / "status.json").read_text())
    assert "--processes=0" not in " ".join(status["command"])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "said", "threads"), [(2, "", "4"), (16, "", "1"), (2, "3", "3")])
def test_processes_share_the_cores_unless_the_environment_says_otherwise(
    count: int, said: str, threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more threads than cores gloo waits for one: 1.6 times a step of one process, for 1.4."""
    monkeypatch.setattr(wire, "cores", lambda: 8)
    monkeypatch.setenv("NPROC", said)
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *words, env, **rest: seen.append(env))
    processes._start(0, count, "127.0.0.1:1", ["train"], None)
    assert [env["NPROC"] for env in seen] == [threads]


def test_numbers_that_go_bad_on_one_process_are_bad_on_all(folder: Path) -> None:
    """They stop all; then, with another policy, all go back to one checkpoint and on from there."""
    run, first = folder / "bad", (SPOILT, SPOILT)
    both = pair(folder, "--workdir=bad", first=first)
    assert [process.end() for process in both] == [3, 3], both[0].err + both[1].err
    assert "bad numbers at step 6: loss nan" in both[0].err
    assert "first not finite: mask in the batch" in both[0].err
    # The batch is there whole, though the first process never read its bad half.
    mask = np.load(run / "bad" / "6" / "batch.npz")["mask"]
    assert np.isnan(mask).all(1).tolist() == [False, False, True, True]

    back = ("--config.run.on_bad=rollback", "--allow-change=run.on_bad")
    both = pair(folder, "--workdir=bad", *back, first=first)
    assert [process.end() for process in both] == [0, 0], both[0].err + both[1].err
    assert "bad numbers at step 6" in both[0].out
    assert "back to step 4" in both[0].out
    alone(folder, "--workdir=bad-alone", *back[:1], first=SPOILT)
    found = curve(run)
    assert found[12]["train/bad_total"] == 1.0
    close(curve(folder / "bad-alone"), found)


def test_hosts_that_differ_or_are_missing_are_one_line(folder: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    both = [
        Process("train", "recipe.py", "--workdir=never", f"--config.hyper.lr=0.0{i + 1}",
                folder=folder, JAX_PROCESS_ID=str(i), **env)
        for i in range(2)
    ]  # fmt: skip
    assert [process.end() for process in both] == [2, 2]
    for process in both:
        assert process.err == (
            "aigc: the processes differ: hyper.lr: 0.01 on process 0, 0.02 on process 1. Start all"
            " of them with the same command, code and packages.\n"
        )
    # Nobody at the address; then nobody who comes to it.
    lost = Process("train", "recipe.py", "--workdir=never", folder=folder, JAX_PROCESS_ID="1",
                   AIGC_START_SECONDS="0.5", **env)  # fmt: skip
    lonely = Process("train", "recipe.py", "--workdir=never", folder=folder, JAX_PROCESS_ID="0",
                     AIGC_START_SECONDS="0.5", **{**env, "JAX_COORDINATOR_ADDRESS":
                                                  f"127.0.0.1:{free_port()}"})  # fmt: skip
    assert lost.end() == LostPeer.exit_code
    assert lost.err.startswith(
        f"aigc: process 1 of 2 can't reach process 0 at {address} (Connection refused, for 0.5 s);"
    )
    assert lonely.end() == LostPeer.exit_code
    assert "process 1 of 2 did not come to 127.0.0.1" in lonely.err
    assert lost.err.count("\n") == lonely.err.count("\n") == 1
    assert not (folder / "never").exists()


# --- the star, in threads of one process ---------------------------------------------------------


def star(count: int, act: Any, **knobs: Any) -> list[Any]:
    """Runs `act(star)` in one thread for each process; gives what it returned or raised."""
    address, found = f"127.0.0.1:{free_port()}", [None] * count

    def one(index: int) -> None:
        made = Star(index, count, address, **knobs)
        try:
            found[index] = act(made)
        except Exception as error:
            found[index] = error  # type: ignore[call-overload]
            made.leave(str(error), 5)
        finally:
            made.leave()
            made._watcher.join(10)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def wait(met: Callable[[], Any]) -> None:
    """Waits until `met()`, or in vain."""
    limit = time.monotonic() + 20
    while not met() and time.monotonic() < limit:
        time.sleep(0.02)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The codes that watchers have ended the process with."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise SystemExit  # of the watcher's thread

    hook = threading.excepthook
    monkeypatch.setattr(
        threading, "excepthook", lambda e: None if e.exc_type is SystemExit else hook(e)
    )
    monkeypatch.setattr(os, "_exit", end)
    yield codes


def test_all_get_what_process_0_says() -> None:
    def act(star: Star) -> Any:
        first = star.agree(["SIGTERM" if star.index == 0 else None, star.index])
        everyone = star.everyone("names", f"p{star.index}")
        again = star.everyone("names", star.index)
        star.leave()
        return first, everyone, again

    for found in star(3, act):
        assert found == (["SIGTERM", 0], ["p0", "p1", "p2"], [0, 1, 2])


def test_a_barrier_names_who_is_missing(ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def act(star: Star) -> Any:
        if star.index == 2:
            wait(lambda: ends)
        else:
            star.everyone("the save", within=0.3)

    monkeypatch.setattr(peers, "_GRACE", 0.1)
    found = star(3, act)
    assert isinstance(found[0], LostPeer)
    assert str(found[0]).startswith("process 2 (pid ")
    assert str(found[0]).endswith("did not come to 'the save' within 0.3 s.")


def test_a_signal_of_any_reaches_process_0() -> None:
    said: list[str] = []

    def act(star: Star) -> None:
        star.on_asked = said.append
        if star.index == 1:
            star.asked = lambda: "SIGTERM"
        wait(lambda: said)
        star.everyone("end")
        star.leave()

    star(2, act)
    assert said == ["SIGTERM of process 1"]


def test_an_error_of_one_ends_the_others_after_a_while(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_GRACE", 0.3)
    heard: list[str] = []

    def act(star: Star) -> None:
        star.on_end = heard.append
        if star.index == 1:
            star.leave("no such file", 2)
        else:
            wait(lambda: len(ends) == 2)

    star(3, act)
    assert ends == [LostPeer.exit_code] * 2
    assert all("process 1 (pid " in s and s.endswith("has ended: no such file") for s in heard)


def test_a_silent_process_is_dead(ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_PING", 100.0)
    heard: list[str] = []

    def act(star: Star) -> None:
        star.on_end = heard.append
        wait(lambda: ends)

    star(2, act, patience=0.5)
    assert ends
    assert any("has been silent for 0.5 s" in words for words in heard)


def test_processes_that_go_on_are_not_told_and_those_that_stand_are_told_again(
    ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_PING", 0.05)
    told: list[tuple[int, str]] = []
    turns = 0

    def act(star: Star) -> None:
        nonlocal turns
        star.on_hung = lambda words: told.append((star.index, words))
        for _ in range(8):
            star.agree(None)
            time.sleep(0.25)
        turns = len(told)
        wait(lambda: len(told) >= turns + 2)
        star.everyone("end")
        star.leave()

    star(2, act, hung=1.5)
    assert turns == 0
    assert [index for index, _ in told[:2]] == [0, 0]
    assert told[0][1].startswith("the processes have not met for 1.5 s: process 0 (pid ")
    assert "; process 1 (pid " in told[0][1]
    assert not ends


def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("", 0)) as door:
        port = door.getsockname()[1]
        with pytest.raises(UserError, match=rf"can't listen at a:{port} .*choose another one"):
            Star(0, 2, f"a:{port}", within=0.2)


# --- what the environment says -------------------------------------------------------------------

PLAIN = {"JAX_COORDINATOR_ADDRESS": "h:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
TORCHRUN = {
    "MASTER_ADDR": "h", "MASTER_PORT": "29500", "WORLD_SIZE": "16", "RANK": "9", "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
}  # fmt: skip
SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}  # fmt: skip
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        (PLAIN, Cluster("variables", "h:1234", 4, 3)),
        ({**PLAIN, "JAX_LOCAL_DEVICE_IDS": "0,1"}, Cluster("variables", "h:1234", 4, 3, (0, 1))),
        ({**PLAIN, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
        (TORCHRUN, Cluster("torchrun", "h:29500", 16, 9, (1,))),
        # torchrun's own store has that port.
        ({**TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "True"},
         Cluster("torchrun", "h:29501", 16, 9, (1,))),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"},
         Cluster("torchrun", "h:29500", 16, 9)),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"MASTER_ADDR": "h", "MASTER_PORT": "1"}, None),
        (SLURM, Cluster("slurm", None, 4, 2, (0,))),
        # One task a node has all of its accelerators; so has one that SLURM has given its own.
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, Cluster("slurm", None, 4, 2)),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0"}, Cluster("slurm", None, 4, 2)),
        ({**SLURM, "CUDA_VISIBLE_DEVICES": "0,1"}, Cluster("slurm", None, 4, 2, (0,))),
        # A job of one task, as each of a sweep's; a batch script beside its steps.
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
         None),
        ({**SLURM, "JAX_COORDINATOR_ADDRESS": "h:1"}, Cluster("slurm", "h:1", 4, 2, (0,))),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE":
          "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_MCA_orte_hnp_uri": "x"},
         Cluster("ompi", None, 4, 1, (1,))),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Cluster("tpu")),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, Cluster("tpu")),
        (POD, Cluster("kubernetes")),
        ({**POD, "JAX_COORDINATOR_ADDRESS": "job-0.svc:8476", "JAX_NUM_PROCESSES": "4"},
         Cluster("variables", "job-0.svc:8476", 4, 2)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)  # fmt: skip
def test_the_environment_is_understood(environ: dict[str, str], found: Cluster | None) -> None:
    assert detect(environ) == found


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "has some of JAX_COORDINATOR_ADDRESS"),
        ({**PLAIN, "JAX_COORDINATOR_ADDRESS": "h"}, "'h': expected HOST:PORT of process 0"),
        ({**PLAIN, "JAX_COORDINATOR_ADDRESS": "h:99999"}, "expected HOST:PORT of process 0"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "h", "MASTER_PORT": "65536"},
            "MASTER_PORT=65536: expected a port",
        ),
        ({**PLAIN, "JAX_PROCESS_ID": "4"}, "this is process 4 of 4"),
        ({**PLAIN, "JAX_PROCESS_ID": "two"}, "gives 'two' for a number"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "no MASTER_ADDR, MASTER_PORT"),
    ],
)
def test_half_an_environment_is_one_line(environ: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        detect(environ)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("word", ["soon", "0", "-1", "inf", "nan"])
def test_seconds_that_are_none_are_one_line(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_START_SECONDS", word)
    with pytest.raises(UserError, match=f"AIGC_START_SECONDS={word}: expected seconds, above 0"):
        cluster.join(Cluster("variables", "h:1", 2, 0), {}, None)


def test_a_pod_that_cannot_find_the_others_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"pip install 'jax\[k8s\]'") as caught:
        cluster.join(Cluster("kubernetes"), {}, None)
    assert "--processes=1" in str(caught.value)


def test_the_differences_of_hosts_are_named() -> None:
    first = {"jax": "1", "hyper.lr": "0.1"}
    assert cluster.difference([first, dict(first)]) == ""
    words = cluster.difference([first, first, {"jax": "2", "hyper.lr": "0.1", "x": "3"}])
    assert "jax: 1 on process 0, 2 on process 2; x: nothing on process 0, 3 on process 2" in words
    many = {str(i): "" for i in range(9)}
    assert "; and 4 more." in cluster.difference([{}, many])
    assert set(cluster.versions()) == {"aigc_jax", "jax", "jaxlib", "python", "git commit"}

"""Stopped or killed at any moment, a run goes on and ends with the bits of an untouched one."""

import contextlib
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import process
import pytest
import toy

from aigc_jax.cli import check_resume

STOPPED = 75
AT = """
import os, signal
import {module} as room
def planted(*args, _before={target}, **kwargs):
    global count
    count += 1
    if count == {nth}:
        os.kill(os.getpid(), signal.{signal})
    return _before(*args, **kwargs)
count = 0
{target} = planted
"""


def at(module: str, target: str, number: str = "SIGTERM", nth: int = 1) -> str:
    """Code that sends this process a signal when `target` of a module is called the nth time."""
    return AT.format(module=module, target=f"room.{target}", signal=number, nth=nth)


def paused_at_save(nth: int) -> str:
    """Code that lets the nth save wait until there is a file `go-on`."""
    wait = (
        "print('paused', flush=True); import time\n"
        "        while not os.path.exists('go-on'): time.sleep(0.01)"
    )
    code = at("aigc_jax.train.loop", "Loop._save", nth=nth)
    return code.replace("os.kill(os.getpid(), signal.SIGTERM)", wait)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and in `whole` what it gives when nothing disturbs it."""
    folder = tmp_path_factory.mktemp("resume")
    process.recipe(folder)
    done = train(folder, "whole")
    assert done.code == 0, done.err
    assert done.err == "", "a quiet run has nothing on stderr"
    return folder


def train(home: Path, name: str, first: str = "") -> process.Process:
    return process.aigc("train", "recipe.py", f"--workdir={name}", folder=home, first=first)


def begin(home: Path, name: str, first: str = "") -> process.Process:
    return process.Process("train", "recipe.py", f"--workdir={name}", folder=home, first=first)


def equals_whole(home: Path, name: str) -> None:
    """Asserts that a run has ended as the undisturbed one did, in every bit."""
    with contextlib.chdir(home):
        assert check_resume.compare(Path("whole"), Path(name)) is None
    assert toy.rows(home / name) == toy.rows(home / "whole")
    for sample in (home / "whole" / "samples").iterdir():
        assert (home / name / "samples" / sample.name).read_text() == sample.read_text()
    assert toy.status(home / name)["state"] == "finished"


MOMENTS = {
    "compile": at("aigc_jax.train.program", "build"),
    "restore": at("aigc_jax.train.checkpoint", "Checkpoints.restore", "SIGINT"),
    "step": at("aigc_jax.train.loop", "Loop._advance", nth=4),
    "evaluation": at("aigc_jax.evals.mean", "jax.device_get", "SIGINT", nth=5),
    "sampling": at("aigc_jax.generate.sampler", "Decoding", nth=2),
    "save": at("aigc_jax.train.checkpoint", "Checkpoints.save"),
    "end": at("aigc_jax.train.loop", "Loop._log_row", nth=4),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_saves_and_the_same_command_goes_on(home: Path, moment: str) -> None:
    stopped = train(home, moment, first=MOMENTS[moment])
    name = "SIGINT" if "SIGINT" in MOMENTS[moment] else "SIGTERM"
    assert f"aigc: {name}: saving" in stopped.err
    assert "Traceback" not in stopped.err
    assert stopped.code == STOPPED
    found = toy.status(home / moment)
    assert (found["state"], found["reason"]) == ("stopped", name)
    assert found["next"] == f"aigc train recipe.py --workdir={moment}"
    saved = [int(p.name) for p in (home / moment / "checkpoints").glob("[0-9]*")]
    assert max(saved) == found["step"], "the state of this very step is saved"
    more = train(home, moment)
    assert more.code == 0, more.err
    equals_whole(home, moment)


def test_kill_9_during_a_save_several_times(home: Path) -> None:
    """Killed as soon as the half-written folder shows; the one before is left each time."""
    before, kills = -1, 0
    for _ in range(4):
        run = begin(home, "save9")
        half = home / "save9" / "checkpoints"
        if not run.until(lambda half=half: list(half.glob("*.orbax-checkpoint-tmp*"))):
            break
        run.send(signal.SIGKILL)
        assert run.end() == -signal.SIGKILL
        kills += 1
        whole = [int(p.name) for p in half.glob("*") if p.name.isdigit()]
        assert max(whole, default=-1) >= before
        before = max(whole, default=-1)
    assert kills >= 2
    last = train(home, "save9")
    assert last.code == 0, last.err
    equals_whole(home, "save9")
    assert not list((home / "save9" / "checkpoints").glob("*tmp*"))


def test_kill_9_at_random_moments(home: Path) -> None:
    draw = random.Random(5)
    for _ in range(3):
        run = begin(home, "random9")
        mark = f"step {draw.choice([0, 3, 4, 6, 8, 9])}"
        ended = not run.until(lambda run=run, mark=mark: mark in run.out or "resumed" in run.out)
        if not ended:
            run.send(signal.SIGKILL)
        if run.end() == 0:
            break
    last = train(home, "random9")
    assert last.code == 0, last.err
    equals_whole(home, "random9")


def test_a_second_signal_ends_at_once_and_leaves_the_checkpoints_whole(home: Path) -> None:
    """The run hangs, as on a dead disk, so that the first one is never answered."""
    run = begin(home, "second", first=paused_at_save(2))
    assert run.until(lambda: "paused" in run.out)
    assert run.until(lambda: (home / "second" / "checkpoints" / "4").is_dir())
    run.send(signal.SIGTERM)
    assert run.until(lambda: "saving, then stopping" in run.err)
    assert run.poll() is None
    run.send(signal.SIGTERM)
    assert run.end() == 130
    assert "stopped at once; the last checkpoint is whole" in run.err
    assert (home / "second" / "checkpoints" / "4").is_dir()
    more = train(home, "second")
    assert more.code == 0, more.err
    assert "resumed second at step 4" in more.out
    equals_whole(home, "second")


def test_a_damaged_newest_checkpoint_costs_only_its_steps(home: Path) -> None:
    stopped = train(home, "damaged", first=at("aigc_jax.train.loop", "Loop._advance", nth=6))
    assert stopped.code == STOPPED
    newest = max((home / "damaged" / "checkpoints").glob("[0-9]*"), key=lambda p: int(p.name))
    file = max((newest / "state").rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    more = train(home, "damaged")
    assert more.code == 0, more.err
    assert f"aigc: warning: checkpoint {newest.name} is damaged" in more.err
    assert more.err.count("\n") == 1
    equals_whole(home, "damaged")


def test_looking_at_a_run_does_not_disturb_it(home: Path) -> None:
    """`aigc eval` while it is saving: a half-written folder stays, and the run ends as always."""
    run = begin(home, "watched", first=paused_at_save(3))
    assert run.until(lambda: "paused" in run.out)
    assert run.until(lambda: (home / "watched" / "checkpoints" / "8").is_dir())
    half = home / "watched" / "checkpoints" / "99.orbax-checkpoint-tmp"
    half.mkdir()
    before = sorted(p.name for p in half.parent.iterdir())
    looked = process.aigc("eval", "watched", "--json", folder=home)
    assert looked.code == 0, looked.err
    assert looked.err == ""
    assert json.loads(looked.out)["step"] == 8
    (line,) = (home / "watched" / "evals.jsonl").read_text().splitlines()
    said = json.loads(line)
    row = next(r for r in toy.rows(home / "watched") if r["step"] == 8 and "validation" in str(r))
    assert said["metrics"] == {name: row[name] for name in said["metrics"]} != {}
    assert sorted(p.name for p in half.parent.iterdir()) == before
    half.rmdir()
    (home / "go-on").touch()
    assert run.end() == 0, run.err
    equals_whole(home, "watched")


# --- check-resume ----------------------------------------------------------------------------


def check(home: Path, name: str, fault: str = "") -> process.Process:
    (home / name).write_text((home / "recipe.py").read_text() + fault)
    return process.aigc("check-resume", name, "--steps=8", folder=home)


@pytest.mark.slow
def test_check_resume_says_bit_exact(home: Path) -> None:
    done = check(home, "exact.py")
    assert done.out == "bit-exact: 8 steps = 4 steps + SIGKILL + 4 steps\n"
    assert done.code == 0


# A recipe is Python, so it can spoil the process that reads it.
OTHER_DATA_IN_EACH_PROCESS = """

from aigc_jax.data import prefetch

class Spoiled(prefetch.Prefetcher):
    def __init__(self, fetch, start, depth=2):
        import os
        super().__init__(lambda step: fetch(step + os.getpid() % 1000), start, depth)

prefetch.Prefetcher = Spoiled
"""


@pytest.mark.slow
def test_check_resume_names_the_tensor_that_differs(home: Path) -> None:
    done = check(home, "spoiled.py", OTHER_DATA_IN_EACH_PROCESS)
    assert done.code == check_resume.DIFFERS
    assert done.out.startswith("NOT bit-exact after 4 steps, SIGKILL, 4 steps: ")
    assert "values differ, by" in done.out
    assert "/" in done.out.split(": ")[1]


def test_check_resume_needs_an_even_number_of_steps(home: Path) -> None:
    done = process.aigc("check-resume", "recipe.py", "--steps=7", folder=home)
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_compare_names_what_differs_in_the_metrics(home: Path, tmp_path: Path) -> None:
    other: Any = tmp_path / "other"
    shutil.copytree(home / "whole", other)
    lines = (other / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[2])
    name = next(key for key in row if key.startswith(("train/", "validation")))
    row[name] += 1e-9
    lines[2] = json.dumps(row)
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with contextlib.chdir(home):
        found = check_resume.compare(Path("whole"), other)
    assert found is not None
    assert f"step {row['step']}: {name} is" in found

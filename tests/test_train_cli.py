"""`aigc train` in real processes: refusals, exit codes, locks, disks."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import process
import pytest
import toy
from test_resume import at

from aigc_jax.cli import check_resume

FEW = ("--config.run.steps=4", "--config.run.eval_every=0")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, and a finished run of four steps in `done`."""
    folder = tmp_path_factory.mktemp("cli")
    process.recipe(folder)
    done = train(folder, "done", *FEW)
    assert done.code == 0, done.err
    return folder


def train(home: Path, name: str, *words: str, first: str = "") -> process.Process:
    return process.aigc("train", "recipe.py", f"--workdir={name}", *words, folder=home, first=first)


def refused(done: process.Process, *words: str, code: int = 2) -> None:
    """Asserts a refusal in one line that holds all the words."""
    assert done.code == code, f"{done.code}\n{done.out}\n{done.err}"
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("aigc: ")
    for word in words:
        assert word in done.err, done.err


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.name != ".lock"}


# --- the run folder --------------------------------------------------------------------------


def test_a_run_folder_holds_what_describes_the_run(home: Path) -> None:
    folder = home / "done"
    names = {p.name for p in folder.iterdir()}
    assert names >= {
        "config.json", "env.json", "data.json", "tokenizer.json", "floors.json", "metrics.jsonl",
        "status.json", "samples", "checkpoints", "report.html", ".lock",
    }  # fmt: skip
    env = json.loads((folder / "env.json").read_text())
    assert env["command"][:2] == ["aigc", "train"]
    assert env["packages"]["jax"]
    assert env["devices"]["count"] == 1
    facts = json.loads((folder / "data.json").read_text())
    assert len(facts["fingerprint"]) == 64
    assert "token_bytes" not in facts
    floors = json.loads((folder / "floors.json").read_text())["validation/loss"]
    assert 0 < floors["unigram"] < floors["uniform"]
    assert not [p for p in folder.rglob("*") if p.name.endswith(".tmp")]


def test_debug_is_twenty_steps_in_a_folder_of_its_own(home: Path) -> None:
    done = process.aigc(
        "train", "recipe.py", "--debug", "--config.run.tensorboard=true",
        "--config.evals.validation.limit=1", folder=home,
    )  # fmt: skip
    assert done.code == 0, done.err
    folder = home / "runs" / "recipe-debug"
    steps = [row["step"] for row in toy.rows(folder) if "train/loss" in row]
    assert steps == list(range(1, 21))
    assert done.err == ""
    assert list((folder / "tb").glob("events*"))


def test_dry_run_builds_everything_and_writes_nothing(home: Path) -> None:
    before = files(home / "done")
    done = train(home, "nowhere", "--dry-run")
    assert done.code == 0, done.err
    assert not (home / "nowhere").exists()
    assert "params/" not in done.out
    assert "model/embed" in done.out
    assert "parameters:" in done.out
    assert train(home, "done", "--dry-run", "--config.run.steps=9").code == 0
    assert files(home / "done") == before


# --- a changed config ------------------------------------------------------------------------


def test_a_changed_config_is_refused_with_the_difference(home: Path) -> None:
    before = files(home / "done")
    done = train(home, "done", *FEW, "--config.hyper.lr=0.5", "--config.run.seed=3")
    refused(done, "hyper.lr: 0.01 -> 0.5", "run.seed: 0 -> 3", "--allow-change=hyper.lr")
    one = train(home, "done", *FEW, "--config.hyper.lr=0.5", "--config.run.seed=3",
                "--allow-change=hyper")  # fmt: skip
    refused(one, "run.seed: 0 -> 3")
    assert "hyper.lr:" not in one.err
    assert files(home / "done") == before


def test_a_change_that_is_allowed_is_kept(home: Path) -> None:
    assert train(home, "change", *FEW).code == 0
    more = ("--config.run.steps=6", "--config.run.eval_every=0", "--config.hyper.lr=0.5")
    done = train(home, "change", *more, "--allow-change=hyper", "--allow-change=run.steps")
    assert done.code == 0, done.err
    assert "resumed change at step 4" in done.out
    row = toy.rows(home / "change")[-2]
    assert row["step"] == 6
    assert row["train/lr"] > 0.05, "the new learning rate is the one that trains"
    saved = json.loads((home / "change" / "config.json").read_text())
    assert (saved["hyper"]["lr"], saved["run"]["steps"]) == (0.5, 6)
    # From now on the new one is the run's own.
    assert train(home, "change", *more).code == 0
    refused(train(home, "change", *FEW), "hyper.lr: 0.5 -> 0.01")


@pytest.mark.parametrize(
    ("name", "words"),
    [("hyper.lrr", "Did you mean 'hyper.lr'?"), ("model", "no such setting or section")],
)
def test_a_misspelt_allow_change_is_told(home: Path, name: str, words: str) -> None:
    refused(train(home, "done", *FEW, f"--allow-change={name}"), words)


def test_a_change_that_does_not_fit_leaves_the_run_as_it_was(home: Path) -> None:
    assert train(home, "fit", *FEW).code == 0
    before = json.loads((home / "fit" / "config.json").read_text())
    wide = train(home, "fit", *FEW, "--config.task.model.width=16", "--allow-change=task")
    refused(wide, "differently shaped: ", "params/model/embed", "[16]")
    assert json.loads((home / "fit" / "config.json").read_text()) == before
    again = train(home, "fit", *FEW)
    assert again.code == 0, again.err
    assert "resumed fit at step 4" in again.out


def test_before_anything_is_saved_the_config_may_change(home: Path) -> None:
    bad = train(home, "early", *FEW, "--config.task.accumulate=3")
    refused(bad, "does not divide the batch of 4")
    good = train(home, "early", *FEW, "--config.task.accumulate=2")
    assert good.code == 0, good.err


def test_another_text_under_the_same_path_is_refused(home: Path) -> None:
    text = home / "own.txt"
    text.write_text((home / "text.txt").read_text())
    words = (*FEW, "--config.data.path=own.txt")
    assert train(home, "text", *words).code == 0
    text.write_text(text.read_text()[:-60] + "two in the hand")
    refused(train(home, "text", *words), "was trained on other data", "--allow-change=data")
    done = train(home, "text", *words, "--allow-change=data")
    assert done.code == 0, done.err
    assert train(home, "text", *words).code == 0


# --- exit codes ------------------------------------------------------------------------------


def test_bad_numbers_are_exit_code_3(home: Path) -> None:
    # The search for the operation that made the NaN has a test of its own; it takes long.
    brief = "import aigc_jax.train.autopsy as room\nroom._trace = lambda *_: {}"
    words = ("--config.hyper.lr=1e38", "--config.hyper.warmup=0")
    done = train(home, "nan", *words, first=brief)
    assert done.code == 3
    assert done.err.count("\n") == 1
    assert "bad numbers at step" in done.err
    assert "--config.run.on_bad=skip" in done.err
    assert toy.status(home / "nan")["state"] == "failed"
    assert list((home / "nan" / "bad").glob("*/batch.npz"))


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_while_data_are_prepared_stops_at_once(home: Path, number: str) -> None:
    done = train(home, f"data-{number}", first=at("aigc_jax.data.text", "_source", number))
    refused(done, f"{number}: stopped before the first step", code=75)
    assert not (home / f"data-{number}").exists()


def test_a_signal_while_a_resume_prepares_its_data_loses_nothing(home: Path) -> None:
    before = files(home / "done" / "checkpoints")
    done = train(home, "done", *FEW, first=at("aigc_jax.data.text", "_source"))
    refused(done, "SIGTERM: stopped before the first step", code=75)
    assert files(home / "done" / "checkpoints") == before
    assert train(home, "done", *FEW).code == 0


def test_a_bug_is_a_traceback_and_exit_code_1(home: Path) -> None:
    bug = "import aigc_jax.train.program as p\np.stack = lambda *_: 1 / 0"
    done = train(home, "bug", *FEW, first=bug)
    assert done.code == 1
    assert "ZeroDivisionError" in done.err
    found = toy.status(home / "bug")
    assert (found["state"], found["reason"]) == ("failed", "division by zero")


# --- one process, one folder -----------------------------------------------------------------


def test_a_second_process_is_refused_with_the_pid_of_the_first(home: Path) -> None:
    wait = at("aigc_jax.train.loop", "Loop._save").replace(
        "os.kill(os.getpid(), signal.SIGTERM)",
        "print('holding', flush=True); import time; time.sleep(600)",
    )
    first = process.Process("train", "recipe.py", "--workdir=held", *FEW, folder=home, first=wait)
    assert first.until(lambda: "holding" in first.out)
    refused(train(home, "held", *FEW), f"process {first.pid} on ", "held is in use")
    first.send(signal.SIGKILL)
    assert first.end() == -signal.SIGKILL
    # The lock dies with its holder.
    assert train(home, "held", *FEW).code == 0


# --- disks -----------------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_folder(home: Path) -> None:
    (home / "file").write_text("mine")
    refused(train(home, "file", *FEW), "--workdir=file", "a file stands in its place")
    refused(train(home, "file/below", *FEW), "a file stands in its place")
    assert (home / "file").read_text() == "mine"


@contextlib.contextmanager
def disk(folder: Path, *options: str) -> Iterator[None]:
    """A small disk of its own at `folder`, where the system lets us mount one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_disk_is_exit_code_4(home: Path) -> None:
    with disk(home / "readonly", "ro,size=1m"):
        refused(train(home, "readonly/run", *FEW), "Read-only", "choose another --workdir", code=4)


FULL = """
import os
def fill():
    with open("small/ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
"""


def newest(run: Path) -> int:
    """The step of the newest whole checkpoint."""
    names = [p.name for p in (run / "checkpoints").iterdir()]
    return max(int(name) for name in names if name.isdigit())


@pytest.mark.parametrize("room", ["Loop._save", "Loop._log_row"])
def test_a_full_disk_stops_the_run_with_its_last_checkpoint_intact(home: Path, room: str) -> None:
    whole = home / "whole"
    if not whole.exists():
        assert train(home, "whole").code == 0
    name = f"small-{room}"
    with disk(home / "small", "size=4m"):
        fault = FULL + at("aigc_jax.train.loop", room, nth=3).replace(
            "os.kill(os.getpid(), signal.SIGTERM)", "fill()"
        )
        done = train(home, "small/run", first=fault)
        refused(done, "aigc: can't write ", "small/run", "the disk is full", code=4)
        assert newest(home / "small/run") in (4, 8), "that of 8 may have been under way"
        still = train(home, "small/run")
        assert still.code == 4
        assert still.err.count("\n") == 1, still.err
        # What the first start left half-written is gone, and may have made room for one more.
        kept = newest(home / "small/run")
        (home / "small/ballast").unlink()
        more = train(home, "small/run")
        assert more.code == 0, more.err
        assert f"resumed small/run at step {kept}" in more.out
        with contextlib.chdir(home):
            assert check_resume.compare(Path("whole"), Path("small/run")) is None
        assert toy.rows(home / "small/run") == toy.rows(whole), name


def test_a_full_disk_without_a_mount(home: Path) -> None:
    """A limit on the size of files stops writes in the same way, and needs no rights."""
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + at(
        "aigc_jax.train.loop", "Loop._save"
    ).replace(
        "os.kill(os.getpid(), signal.SIGTERM)",
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))",
    )
    done = train(home, "limit", *FEW, first=limit)
    assert done.code == 4, done.err[-1800:]
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1
    more = train(home, "limit", *FEW)
    assert more.code == 0, more.err

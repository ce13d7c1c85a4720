"""The engine "ray": real trials on a Ray of this machine, and what must hold without one."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import process
import pytest
import ray_driver

from aigc_jax.cli import train
from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.sweep import exploit, ray
from aigc_jax.sweep.folder import outcome
from aigc_jax.sweep.plans import Planned, plan
from aigc_jax.train.signals import Signals

TESTS = Path(__file__).resolve().parent
EVALUATED = [0, 4, 8, 12]


@contextlib.contextmanager
def driver(folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Starts tests/ray_driver.py; whatever happens, it and its Ray are gone at the end."""
    home = tempfile.mkdtemp(prefix="aigc-ray-", dir="/tmp")  # short: it holds sockets
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "TMPDIR": home}
    with open(folder / "out", "a") as out:
        child = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "ray_driver", *words, home], cwd=folder,
            stdout=out, stderr=subprocess.STDOUT, text=True, env=environment,
        )  # fmt: skip
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(60)
        until(lambda: not of(home))
        shutil.rmtree(home, ignore_errors=True)


def of(home: str) -> list[str]:
    """The processes that Ray has started in this home."""
    return [line for line in processes() if home in line]


def processes() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (path / "stat").read_text().rpartition(")")[2].split()[0]
            words = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
            if state != "Z":
                yield words.decode(errors="replace")


def until(met: Callable[[], Any], child: subprocess.Popen[str] | None = None) -> None:
    limit = time.monotonic() + 2 * process.PATIENCE
    while not met():
        assert child is None or child.poll() is None, "the driver ended"
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def scores(workdir: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    pairs = [(row["step"], row[ray_driver.METRIC]) for row in rows if ray_driver.METRIC in row]
    assert len(dict(pairs)) == len(pairs), "a step was evaluated twice"
    return dict(pairs)


def alone(trial: Planned, workdir: Path, stop: int | None = None) -> None:
    """What any other engine does with a trial; stopped at a step, saved."""
    signals = Signals()

    def told(step: int, found: dict[str, float]) -> None:
        if step == stop:
            signals.ask("SIGTERM")

    cfg = config.load(trial.recipe, trial.overrides)
    train.one(cfg, workdir, signals=signals, command=trial.command, told=told)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    process.recipe(tmp_path, samples=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_begun_elsewhere_survives_the_death_of_a_trial_and_of_the_driver(
    there: Path,
) -> None:
    finished, half, killed, last = ray_driver.planned(Path("sweep"), ray_driver.RATES)
    alone(finished, finished.workdir)
    alone(half, half.workdir, stop=4)
    alone(killed, there / "undisturbed")
    before = {p: p.read_bytes() for p in finished.workdir.rglob("*") if p.is_file()}
    assert list(scores(half.workdir)) == [0, 4]
    beside = half.workdir / "at-8", killed.workdir / "at-8"
    with driver(there, "killed") as child:
        until(lambda: all(path.exists() and path.read_text() for path in beside), child)
        pid = int(beside[1].read_text())
        os.kill(pid, signal.SIGKILL)
        until(lambda: beside[1].read_text() not in ("", str(pid)), child)
        pids = [int(path.read_text()) for path in beside]
        child.kill()
        until(lambda: not any(map(alive, pids)))
    assert "its process died; it goes on" in (there / "out").read_text()
    assert not last.workdir.exists()
    (there / "sweep" / "go").touch()
    with driver(there, "killed") as child:
        assert child.wait(2 * process.PATIENCE) == 0, (there / "out").read_text()
    for trial in (half, killed, last):
        assert outcome(trial.workdir, ray_driver.METRIC).state == "finished"
        assert list(scores(trial.workdir)) == EVALUATED
    # What was killed in the middle ends as if nothing had been.
    assert scores(killed.workdir) == scores(there / "undisturbed")
    assert {p: p.read_bytes() for p in finished.workdir.rglob("*") if p.is_file()} == before
    assert not (there / "sweep" / ".ray").exists()
    # And each of them is a plain run that any hand can go on with.
    status = json.loads((killed.workdir / "status.json").read_text())
    assert shlex.join(status["command"]) == killed.command


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pruners_and_signals(there: Path) -> None:
    with driver(there, "pruned") as child:
        assert child.wait(2 * process.PATIENCE) == 0, (there / "out").read_text()
    out = (there / "out").read_text()
    assert "codes 75 0 0 0 2" in out
    assert "stopped by SIGTERM" in out
    # Halving: the good rate was stopped, saved and gone on with.
    good, *bad = ray_driver.planned(Path("asha"), (0.02, 0.01, 1e-7))
    assert outcome(good.workdir, ray_driver.METRIC).state == "finished"
    assert list(scores(good.workdir)) == EVALUATED
    # The bad ones end at the first evaluation, saved.
    for trial in bad:
        assert outcome(trial.workdir, ray_driver.METRIC)[:2] == ("pruned", 4)
        assert exploit.newest(trial.workdir) == 4
    # The population: the bad rate has gone on from the good one's weights, with another rate.
    donor, taker = ray_driver.planned(Path("population"), (0.02, 1e-6))
    taken = exploit.last(taker.workdir)
    assert taken["from"] == donor.workdir.name and taken["hyper"]["lr"] == 0.02
    assert 1e-6 < taken["new"]["lr"] == exploit.hyper(taker.workdir)["lr"]
    assert exploit.hyper(donor.workdir)["lr"] == 0.02
    rows = [json.loads(s) for s in (taker.workdir / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 12
    # The compiled step read the new rate: the schedule is below its peak at the end.
    rate = next(row["train/lr"] for row in rows if row["step"] == 12 and "train/lr" in row)
    assert 0.1 * taken["new"]["lr"] < rate < taken["new"]["lr"]
    # ... and was not compiled anew for it: one process, one program for all starts of both.
    compiled = [
        (row["name"], row["by"].partition(":")[0])
        for trial in (donor, taker)
        if (trial.workdir / "compiles.jsonl").exists()
        for row in map(json.loads, (trial.workdir / "compiles.jsonl").read_text().splitlines())
    ]
    assert compiled.count(("several", "aigc_jax/train/program.py")) == 1
    assert len(json.loads((taker.workdir / "status.json").read_text())["starts"]) > 1
    # By the command: a table of both seeds; a metric that nobody gives trains nothing.
    table = (there / "typed" / "results.csv").read_text().splitlines()
    assert len(table) == 3 and all("finished" in row for row in table[1:])
    assert "the evaluations give" in out and f"Did you mean '{ray_driver.METRIC}'?" in out
    (first,) = (there / "misspelt").glob("*/status.json")
    assert json.loads(first.read_text())["step"] == 0
    assert not any((there / name / ".ray").exists() for name in ("typed", "misspelt"))


# --- without a Ray -------------------------------------------------------------------------------


def trials(*points: dict[str, Any]) -> list[Planned]:
    return plan("recipe.py", [], points, Path("sweep"))


@pytest.mark.parametrize(
    ("pruner", "points", "words"),
    [
        ("ahsa", [{"hyper.lr": 0.1}], "Did you mean 'asha'?"),
        ("median", [{"hyper.lr": 0.1}], "--engine=ray has none, asha, hyperband, pbt"),
        ("pbt", [{"hyper.lr": 0.1, "data.context": 4}], "differ in data.context"),
        ("pbt", [{"run.seed": 0}, {"run.seed": 1}], "nothing in hyper"),
    ],
)
def test_a_pruner_that_does_not_fit_is_one_line(
    there: Path, pruner: str, points: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(UserError) as error:
        ray.run(trials(*points), Path("sweep"), workers=1, metric="x", pruner=pruner)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert not Path("sweep").exists()


def test_without_ray_the_line_names_the_extra(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray", "ray.tune"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'aigc-jax\[ray\]'"):
        ray.run(trials({"hyper.lr": 0.1}), Path("sweep"), workers=1, metric="x")


def test_what_ended_in_an_earlier_driver_counts_in_the_pruner() -> None:
    from aigc_jax.sweep.ray_search import halving

    nobody: Any = None

    rows = [(4, 1.0), (16, 0.5)]
    for past, decision in (([("a", rows), ("b", rows)], "STOP"), ([], "CONTINUE")):
        scheduler = halving("asha", "minimize", first=4, last=64, past=past)
        trial: Any = SimpleNamespace(trial_id="new")
        scheduler.on_trial_add(nobody, trial)
        found = scheduler.on_trial_result(nobody, trial, {"step": 4, "score": 3.0})
        assert found == decision
    # More is better: then the same score is a good one.
    scheduler = halving("asha", "maximize", first=4, last=64, past=[("a", rows), ("b", rows)])
    scheduler.on_trial_add(nobody, trial)
    assert scheduler.on_trial_result(nobody, trial, {"step": 4, "score": 3.0}) == "CONTINUE"


def test_a_source_is_asked_and_told_once() -> None:
    from ray.tune.search import Searcher

    from aigc_jax.sweep.ray_search import Asked

    class Listening:
        def __init__(self) -> None:
            self.left: list[Any] = ["b"]
            self.heard: list[Any] = []

        def ask(self) -> Any:
            return self.left.pop() if self.left else None

        def report(self, *said: Any) -> None:
            self.heard.append(said)

        def tell(self, *said: Any) -> None:
            self.heard.append(said)

    source, signals = Listening(), Signals()
    asked = Asked(source, "a", lambda p: {"name": p}, signals)  # type: ignore[arg-type]
    assert asked.suggest("1") == {"trial": {"name": "a"}}
    assert asked.suggest("2") == {"trial": {"name": "b"}}
    assert asked.suggest("3") == Searcher.FINISHED
    asked.on_trial_result("1", {"step": 4, "score": 2.0, "past": True})
    asked.on_trial_result("1", {"step": 8, "score": 1.0})
    asked.on_trial_complete("1", {"step": 12, "score": 0.5, "state": "finished"})
    asked.on_trial_complete("2", {"step": 4, "score": 9.0})
    assert source.heard == [
        ("a", 8, 1.0), ("a", "finished", 0.5), ("b", 4, 9.0), ("b", "pruned", 9.0)
    ]  # fmt: skip
    # One that a signal stopped has not ended, and none begins after it.
    source.left, asked = ["d"], Asked(source, "c", lambda p: {"name": p}, signals)  # type: ignore[arg-type]
    asked.suggest("4")
    asked.on_trial_complete("4", {"step": 4, "score": 1.0, "state": "stopped"})
    signals.ask("SIGTERM")
    assert asked.suggest("5") == Searcher.FINISHED
    assert len(source.heard) == 4


# --- going on from another one's checkpoint ------------------------------------------------------


def fake(root: Path, name: str, lr: float, *steps: int) -> Path:
    """A run folder with the shape of one, and no weights."""
    run = root / name
    run.mkdir(exist_ok=True)
    for step in steps:
        (run / "checkpoints" / str(step) / "state").mkdir(parents=True)
        (run / "checkpoints" / str(step) / "state" / "data").write_text(f"{name} at {step}")
        (run / "checkpoints" / f"seal-{step}.json").write_text("{}")
    (run / "config.json").write_text(json.dumps({"hyper": {"lr": lr}, "run": {"seed": 7}}))
    return run


def weights(run: Path) -> str:
    return (run / "checkpoints" / str(exploit.newest(run)) / "state" / "data").read_text()


def test_a_run_takes_the_weights_of_another(tmp_path: Path) -> None:
    good, bad = fake(tmp_path, "good", 0.1, 4, 8), fake(tmp_path, "bad", 9.0, 8)
    kept = exploit.keep(good)
    assert kept is not None
    shutil.rmtree(good / "checkpoints")  # the run itself keeps only its newest
    assert exploit.take(bad, kept, {"lr": 0.12})
    assert weights(bad) == "good at 8"
    assert (bad / "checkpoints" / "seal-8.json").exists()
    # Until a checkpoint has the new number, the config names the one that the weights know.
    assert exploit.hyper(bad) == {"lr": 0.1}
    assert json.loads((bad / "config.json").read_text())["run"] == {"seed": 7}
    (bad / "checkpoints" / "12").mkdir()
    (bad / "config.json").write_text(json.dumps({"hyper": {"lr": 0.12}}))
    assert not exploit.take(bad, kept, {"lr": 0.12}), "it is further already"
    exploit.settle(bad)
    assert exploit.newest(bad) == 12 and exploit.hyper(bad) == {"lr": 0.12}


def test_only_the_newest_are_kept_for_others(tmp_path: Path) -> None:
    run = fake(tmp_path, "run", 0.1)
    assert exploit.keep(run) is None
    for step in (4, 8, 12, 16, 20):
        fake(tmp_path, "run", 0.1, step)
        kept = exploit.keep(run)
    assert kept is not None
    assert sorted(p.name for p in kept.parent.iterdir()) == ["12", "16", "20"]
    file = kept / "checkpoints" / "20" / "state" / "data"
    assert file.samefile(run / "checkpoints" / "20" / "state" / "data"), "no second copy"


@pytest.mark.parametrize("after", range(12))
def test_a_kill_in_the_middle_of_taking_leaves_one_or_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    good, bad = fake(tmp_path, "good", 0.1, 8), fake(tmp_path, "bad", 9.0, 4)
    kept = exploit.keep(good)
    assert kept is not None
    left = [after]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return function(*args, **more)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(exploit.shutil, "rmtree", counted(shutil.rmtree))
        patch.setattr(exploit, "_link", counted(exploit._link))
        patch.setattr(exploit, "write_atomic", counted(exploit.write_atomic))
        patch.setattr(Path, "rename", counted(Path.rename))
        with contextlib.suppress(KeyboardInterrupt):
            exploit.take(bad, kept, {"lr": 0.12})
    exploit.settle(bad)
    old = weights(bad) == "bad at 4" and exploit.hyper(bad) == {"lr": 9.0}
    new = weights(bad) == "good at 8" and exploit.hyper(bad) == {"lr": 0.1}
    assert old != new
    assert exploit.last(bad).get("step") == (8 if new else None)
    assert not (bad / ".exploit").exists()
    if new:
        assert len((bad / "population.jsonl").read_text().splitlines()) == 1

"""Studies: their format, their verdicts, runs that go on, records that are verified."""

import json
import math
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import process
import pytest
import toy
from matplotlib.axes import Axes
from ml_collections import ConfigDict

from aigc_jax.cli import launch, train, verify, wire
from aigc_jax.cli.main import main
from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.sweep import analyses, record, scaling, study, verdicts, writeup
from aigc_jax.sweep.analyses import of_draws, of_seeds
from aigc_jax.sweep.study import Claim

ROOT = Path(__file__).resolve().parent.parent
assert toy.ROWS  # imported for its compilation cache
STUDIES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "experiments").glob("*.py")
    if "def get_study" in path.read_text(encoding="utf-8")
)
TOY = """
def get_study():
    return {
        "title": "A toy",
        "question": "Is it low?",
        "paper": {"title": "None", "url": "example.org", "place": "table 1"},
        "metrics": {"validation_first_3/loss": {
            "direction": "minimize", "protocol": "three batches", "tolerance": 0.3,
            "floors": {"uniform": 3.0}, "ceilings": {"oracle": 0.1}}},
        "rows": (
            {"name": "plain", "recipe": "recipe.py", "published": {"validation_first_3/loss": 2.9},
             "seeds": 2, "conditions": "as here"},
            {"name": "tuned", "recipe": "recipe.py", "tune": {"hyper.lr": (0.001, 0.003)},
             "published": {"validation_first_3/loss": 0.5}, "seeds": 1},
            {"name": "ours", "recipe": "recipe.py", "published": None,
             "overrides": {"hyper.lr": 0.02}},
        ),
        "scales": {
            "smoke": {"cost": "nothing", "seeds": 1, "overrides": {"run.steps": 4}},
            "cpu": {"cost": "seconds", "overrides": {"run.steps": 12, "run.save_every": 0}},
        },
    }
"""


SHELF = wire.Shelf()  # trials that differ in numbers alone are compiled once


def one_by_one(planned: Any, root: Path, *, stop_after: int = 99, **_: Any) -> int:
    """An engine for tests: each trial in this process, one after another."""
    from aigc_jax.train.signals import Signals

    for i, one in enumerate(planned):
        if i == stop_after:
            return 75
        with Signals(saves=False) as signals:
            cfg = ConfigDict(one.config, allow_dotted_keys=True)
            train.one(
                cfg, one.workdir, signals=signals, command=one.command, parts=SHELF.parts
            )  # fmt: skip
    return 0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    process.recipe(folder, samples=False)
    (folder / "experiments").mkdir()
    (folder / "experiments/toy.py").write_text(TOY)
    return folder


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    monkeypatch.setattr(launch, "check_engine", lambda engine: None)
    monkeypatch.setattr(launch, "launch", one_by_one)
    return home


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Runs a command; asserts its exit code, and of a refusal that it is one line."""
    capsys.readouterr()
    found = main(words)
    out, err = capsys.readouterr()
    assert found == code, out + err
    if code == 2:
        assert err.count("\n") == 1, err
        return err
    return out


# --- the format -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES)
def test_every_study_in_the_repository_can_be_planned(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    found = study.read(Path(path))
    assert f"aigc reproduce {path}" in (ROOT / path).read_text(encoding="utf-8")
    assert "smoke" in found.scales
    scale = found.scales["smoke"]
    few = scale._replace(rows=(scale.rows or [row.name for row in found.rows])[:2])
    jobs = study.jobs(found, few, [], tmp_path)
    assert jobs
    assert len({job.planned.workdir for job in jobs}) == len({job.planned.id for job in jobs})


@pytest.mark.parametrize("path", STUDIES)
def test_pages_in_the_repository_say_what_their_records_do(
    path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`aigc reproduce --page` would change none of them, and no table on them is empty."""
    monkeypatch.chdir(ROOT)
    name = Path(path).stem
    shutil.copytree(ROOT / "experiments/results" / name, tmp_path / name)
    assert main(["reproduce", path, "--page", f"--results={tmp_path / name}"]) == 0
    text = (tmp_path / name / "README.md").read_text(encoding="utf-8")
    committed = ROOT / "experiments/results" / name / "README.md"
    assert text == committed.read_text(encoding="utf-8")
    assert not re.search(r"\|---\|\n\n", text)


def test_there_are_studies() -> None:
    assert len(STUDIES) >= 8


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("def get_study", "def get_config", "defines no get_study"),
        ("    return {", "    return [] and {", "get_study returns list; expected a dict"),
        ('"published": None,', "", "row 'ours' has no published value to be judged by"),
        ('"question"', '"qestion"', "has no key 'qestion'. Did you mean 'question'?"),
        ('"title": "A toy",', "", "lacks 'title'"),
        ('"seeds": 2', '"seeds": "2"', "'seeds' is '2', of another type"),
        ('"seeds": 2', '"seeds": 0', "seeds is 0; expected 1 or more"),
        ('"minimize"', '"down"', "expected minimize or maximize"),
        ('"tolerance": 0.3,', "", "neither it nor metric 'validation_first_3/loss' has a"),
        ('"name": "tuned"', '"name": "plain"', "two rows are called 'plain'"),
        ('"url": "example.org", ', "", "neither 'arxiv' nor 'url'"),
        ('{"validation_first_3/loss": 2.9}', '{"validation/loss": 2.9}', "there is no metric"),
        ("(0.001, 0.003)", "0.001", "expected a tuple of values to try"),
        ("    return {", "    return 1 / 0 + {", "experiments/bad.py:3: ZeroDivisionError"),
        ('"scales": {', '"analysis": {"name": "scaling"}, "scales": {', "no analysis 'scaling'"),
        ('"scales": {', '"analysis": {"name": "delay", "trian": 1}, "scales": {',
         "no setting 'trian'. Did you mean 'train'?"),
        ('"scales": {', '"claims": ({"says": "x", "quantity": "y", "less_than": 1},), "scales": {',
         "no 'analysis' that finds"),
        ('"scales": {', '"analysis": {"name": "lr_sensitivity"}, "scales": {',
         "needs the setting 'initial'"),
        ('"scales": {', '"analysis": {"name": "rows"}, "claims": ({"says": "x", "quantity":'
         ' "validation_first_3/loss: plane", "less_than": 1},), "scales": {',
         "no quantity is of 'plane'. Did you mean 'plain'?"),
        ('"scales": {', '"analysis": {"name": "rows"}, "claims": ({"says": "x", "quantity":'
         ' "loss: plain", "less_than": 1},), "scales": {', "is no 'METRIC: ROW'"),
        ('"cost": "seconds"', '"cost": "seconds", "values": {"hyper.lrr": (1,)}',
         "no row sweeps or tunes 'hyper.lrr'. Did you mean 'hyper.lr'?"),
        ('{"validation_first_3/loss": 2.9}', "{}", "has no published value to be judged by"),
        ('{"validation_first_3/loss": 2.9}', '{"validation_first_3/loss": float("nan")}', "is nan"),
        ('"tolerance": 0.3', '"tolerance": -0.3', "tolerance is -0.3; expected 0 or more"),
        ('{"hyper.lr": (0.001, 0.003)}', '{"run.seed": (1, 2)}', "give seeds=N"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_study_is_refused_in_one_line(
    old: str, new: str, complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in TOY
    (here / "experiments/bad.py").write_text(TOY.replace(old, new))
    assert complaint in said(capsys, "reproduce", "experiments/bad.py", "--dry-run", code=2)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["toi"], "there is no study 'toi'. Did you mean 'toy'?"),
        (["toy", "--scale=cpus"], "toy has no scale 'cpus'. Did you mean 'cpu'?"),
        (["toy", "--only=plane"], "toy has no row 'plane'. Did you mean 'plain'?"),
        (["toy", "--config.hyper.lrr=1"], "Did you mean 'hyper.lr'"),
        (["toy", "--workers=0"], "--workers=0"),
        (["toy", "--workers=2"], "--engine=vectorised is one process"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_in_one_line(
    words: list[str], complaint: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in said(capsys, "reproduce", *words, code=2)
    assert not (here / "runs").exists()


def test_two_rows_with_one_config_are_one_trial(here: Path, tmp_path: Path) -> None:
    text = TOY.replace('{"hyper.lr": 0.02}', '{"hyper.lr": 0.003}')
    (here / "experiments/twice.py").write_text(text)
    found = study.read(Path("experiments/twice.py"))
    jobs = study.jobs(found, found.scales["cpu"], [], tmp_path)
    by_row = {(job.row.name, str(job.point)): job.planned for job in jobs}
    shared = by_row["ours", "{}"]
    assert by_row["tuned", "{'hyper.lr': 0.003}"] == shared
    assert (len(jobs), len({job.planned.id for job in jobs})) == (5, 4)
    shared.workdir.mkdir()
    # Found again by its id, however the rows are called.
    renamed = found._replace(rows=[found.rows[2]._replace(name="renamed")])
    (again,) = study.jobs(renamed, found.scales["cpu"], [], tmp_path)
    assert again.planned.workdir == shared.workdir


# --- verdicts ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "higher", "free", "word"),
    [
        (1.95, 2.05, False, False, "match"),
        (2.2, 2.3, False, False, "near"),
        (2.31, 2.4, False, False, "miss"),
        (1.6, 1.69, False, False, "miss"),
        (1.6, 1.69, False, True, "better"),
        (2.31, 2.4, False, True, "miss"),
        (2.31, 2.4, True, True, "better"),
        (2.0, 9.0, False, False, "match"),
    ],
)
def test_a_verdict(low: float, high: float, higher: bool, free: bool, word: str) -> None:
    assert verdicts.verdict(2.0, 0.15, low, high, higher=higher, free=free) == word


def test_a_claim_is_judged_by_the_interval_of_the_difference() -> None:
    cpu: Any = SimpleNamespace(name="cpu", judged=True)
    known = {
        "a": of_seeds({0: 1.0, 1: 1.1, 2: 1.2}),
        "b": of_seeds({0: 2.0, 1: 2.2, 2: 2.1}),
        "c": of_seeds({0: 0.9, 1: 1.2, 2: 1.25}),
        "one": of_seeds({0: 0.5}),
        "d": of_draws(0.1, np.linspace(0.05, 0.15, 101)),
        "five": of_seeds(dict.fromkeys(range(5), 1.0)),
        "six": of_seeds(dict.fromkeys(range(6), 1.0)),
    }

    def judged(quantity: str, relation: str, than: Any, tolerance: float = 0.0) -> str:
        claim = Claim("", quantity, relation, than, tolerance, "")
        return verdicts.judge_claim(claim, known, cpu)[1]

    assert judged("a", "less_than", "b") == "match"
    assert judged("a", "more_than", "b") == "miss"
    assert judged("a", "less_than", "c") == "near"  # by its mean alone
    assert judged("one", "less_than", 1.0) == "near"  # one seed has no interval
    assert judged("d", "more_than", 0.0) == "match"
    assert judged("d", "about", 0.2, 0.02) == "miss"
    assert judged("d", "about", 0.2, 0.06) == "match"
    assert judged("nobody", "less_than", 1.0) == "not run"
    # Seeds that all say the same tell little of the next one.
    assert judged("five", "more_than", 0.9) == "near"
    assert judged("six", "more_than", 0.9) == "match"
    assert judged("six", "less_than", 0.9) == "miss"


# --- running ----------------------------------------------------------------------------------


def test_reproduce_goes_on_judges_and_is_verified(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here / "experiments/results/toy"
    assert "to run: 5 trials" in said(capsys, "reproduce", "toy", "--dry-run")
    assert not (here / "runs").exists()
    # The page of a study that nobody has run says just that.
    said(capsys, "reproduce", "toy", "--page")
    page = (home / "README.md").read_text()
    assert "## cpu: not run" in page and "| plain | 2.900 | | not run |" in page
    assert [path.name for path in home.iterdir()] == ["README.md"]
    assert not (here / "runs").exists()

    # Cut short after two trials: the row that is whole is judged, the others are not.
    monkeypatch.setattr(launch, "launch", lambda *a, **k: one_by_one(*a, stop_after=2, **k))
    out = said(capsys, "reproduce", "toy", code=75)
    assert "to go on: aigc reproduce toy --scale=cpu" in out
    cpu = json.loads((home / "record.json").read_text())["scales"]["cpu"]
    rows = {r["row"]: r for r in cpu["rows"]}
    assert rows["plain"]["verdict"] in ("match", "near")
    assert rows["ours"]["verdict"] == "not run"
    before = {p: p.stat().st_mtime_ns for p in (here / "runs").rglob("metrics.jsonl")}
    assert len(before) == 2

    monkeypatch.setattr(launch, "launch", one_by_one)
    out = said(capsys, "reproduce", "toy", f"--config.data.path={here / 'text.txt'}", "--dry-run")
    assert "to run: 5 trials" in out  # another path is another config
    out = said(capsys, "reproduce", "toy")
    assert "to run: 3 trials" in out
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())

    page, found = (home / "README.md").read_text(), json.loads((home / "record.json").read_text())
    cpu = found["scales"]["cpu"]
    rows = {(r["row"], str(r["point"])): r for r in cpu["rows"]}
    # A planted value far from what anything here can score.
    (best,) = (r for r in cpu["rows"] if r["row"] == "tuned" and r["chosen"])
    assert best["verdict"] == "miss"
    assert best["mean"] == min(r["mean"] for r in cpu["rows"] if r["row"] == "tuned")
    assert rows["ours", "{}"]["verdict"] == ""
    assert len(cpu["trials"]) == 5
    assert "| *uniform* | | 3.000 |" in page and "| *oracle* | | 0.100 |" in page
    assert "| plain | 2.900 ± 0.300 |" in page
    assert (home / "cpu.png").stat().st_size > 5000
    assert cpu["environment"]["packages"]["jax"]
    assert all(len(trial["data_sha256"]) == 64 for trial in cpu["trials"])
    for text in (page, (home / "record.json").read_text()):
        assert str(here) not in text and "/tmp" not in text

    assert said(capsys, "verify", "toy").count(": match: the recorded curve") == 3


# Waits after a save at step 4 while "hold" names the width of its program, until it is to stop.
HELD = """
import os, time
from aigc_jax.sweep.group import Group

def held(self, desks):
    save(self, desks)
    for desk in desks:
        desk.store.finish()
    width = str(desks[0].trial.config["task"]["model"]["width"])
    while self.step == 4 and not self.signals.asked and os.path.exists("hold" + width):
        time.sleep(0.01)

save, Group._save = Group._save, held
"""
NARROW_AND_WIDE = """
def get_study():
    return {
        "title": "Two programs",
        "paper": {"title": "None", "url": "example.org"},
        "metrics": {"validation_first_3/loss": {
            "direction": "minimize", "protocol": "three batches", "tolerance": 0.3}},
        "rows": (
            {"name": "narrow", "recipe": "recipe.py", "published": {"validation_first_3/loss": 2.9},
             "sweep": {"hyper.lr": (0.01, 0.02)}},
            {"name": "wide", "recipe": "recipe.py", "published": {"validation_first_3/loss": 2.8},
             "overrides": {"task.model.width": 16}},
        ),
        "scales": {"cpu": {"cost": "seconds", "overrides": {
            "run.steps": 8, "run.eval_every": 4, "run.save_every": 4, "run.log_every": 2}}},
    }
"""


def test_reproduce_survives_a_kill_and_ctrl_c(tmp_path: Path) -> None:
    process.recipe(tmp_path, samples=False)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/two.py").write_text(NARROW_AND_WIDE)
    runs = tmp_path / "runs/two/cpu"

    def held_at(width: int, number: int) -> process.Process:
        """Starts the study; returns when so many trials of this width have saved and wait."""
        (tmp_path / f"hold{width}").touch()
        started = process.Process("reproduce", "two", folder=tmp_path, first=HELD)
        row = {8: "narrow", 16: "wide"}[width]
        saved = lambda: len(list(runs.glob(f"{row},*/checkpoints/seal-4.json"))) == number  # noqa: E731
        assert started.until(saved, 0.02), started.err
        return started

    killed = held_at(8, 2)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.end() == -signal.SIGKILL
    (tmp_path / "hold8").unlink()

    stopped = held_at(16, 1)  # the narrow ones are gone on with, and finished
    os.killpg(stopped.pid, signal.SIGINT)  # as a terminal does
    assert stopped.end() == 75, stopped.err
    assert "resumed 2 trials at step 4" in stopped.out
    assert "stopped; to go on: aigc reproduce two --scale=cpu" in stopped.out
    results = tmp_path / "experiments/results/two"
    half = json.loads((results / "record.json").read_text())["scales"]["cpu"]
    assert [row["verdict"] for row in half["rows"]] == ["match", "match", "not run"]
    (tmp_path / "hold16").unlink()
    finished = {p: p.read_bytes() for d in runs.glob("narrow,*") for p in d.iterdir()
                if p.is_file()}  # fmt: skip

    last = process.aigc("reproduce", "two", folder=tmp_path)
    assert last.code == 0, last.err
    assert "to run: 1 trials" in last.out
    assert {p: p.read_bytes() for p in finished} == finished, "it was run again"
    starts = {path.name.partition(",")[0]: [start["from step"] for start in said["starts"]]
              for path in runs.glob("*,*") for said in [toy.status(path)]}  # fmt: skip
    assert starts == {"narrow": [0, 4], "wide": [0, 6]}, "a signal saves what has been trained"

    whole = process.aigc(
        "reproduce", "two", "--workdir=whole", "--results=uncut", folder=tmp_path
    )  # fmt: skip
    assert whole.code == 0, whole.err

    def told(folder: Path) -> Any:
        """What is said of the results, but for when they were made."""
        cpu = json.loads((folder / "record.json").read_text())["scales"]["cpu"]
        trials = [{**trial, "wall_seconds": 0} for trial in cpu["trials"]]
        page = (folder / "README.md").read_text().splitlines()
        return cpu["rows"], trials, cpu["bands"], [line for line in page if line.startswith("|")]

    assert told(results) == told(tmp_path / "uncut")


def test_verify_sees_another_recipe_another_curve_and_other_data(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here / "experiments/results/toy"
    recipe, text = here / "recipe.py", here / "text.txt"
    before, letters = recipe.read_text(), text.read_text()
    recipe.write_text(before.replace('"lr": 0.01', '"lr": 0.03'))
    out = said(capsys, "verify", "toy", "--row=plain", code=5)
    assert "hyper.lr: 0.01 -> 0.03" in out
    recipe.write_text(before)
    text.write_text(letters.replace("bird", "crow"))
    assert "plain: miss: other data" in said(capsys, "verify", "toy", "--row=plain", code=5)
    text.write_text(letters)

    whole = json.loads((home / "record.json").read_text())
    band = whole["scales"]["cpu"]["bands"]["plain"]
    assert band["seeds"] == 2 and band["steps"][-1] <= 12
    band["low"] = [value + 1.0 for value in band["high"]]
    band["high"] = [value + 2.0 for value in band["high"]]
    other = here / "other"
    other.mkdir()
    (other / "record.json").write_text(json.dumps(whole))
    out = said(capsys, "verify", "toy", "--row=plain", f"--results={other}", code=5)
    assert "plain: miss: train/loss" in out and "the band is" in out
    assert "no band of row 'plane'" in said(capsys, "verify", "toy", "--row=plane", code=2)
    assert "has no record to verify" in said(capsys, "verify", "toy", "--results=n", code=2)


def test_the_beginning_of_a_run_knows_its_whole_length(here: Path) -> None:
    cfg = config.to_dict(config.load("recipe.py"))
    cut = verify._beginning(cfg, [3])
    assert (cut.run.steps, cut.optim.decay_steps) == (3, 12)
    cut = verify._beginning({**cfg, "optim": {**cfg["optim"], "decay_steps": 9}}, [3])
    assert cut.optim.decay_steps == 9
    assert not cut.evals and not cut.run.best


def test_a_row_alone_and_what_others_wrote_stay(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = here / "experiments/results/toy"
    page = home / "README.md"
    page.write_text("# Mine\n\nBefore.\n\n" + page.read_text().partition("\n\n")[2] + "\nAfter.\n")
    earlier = json.loads((home / "record.json").read_text())["scales"]["cpu"]
    # On another machine, without these run folders: one row is run there, the others' results stay.
    out = said(capsys, "reproduce", "toy", "--workdir=elsewhere", "--only=ours")
    assert "to run: 1 trials" in out
    cpu = json.loads((home / "record.json").read_text())["scales"]["cpu"]
    assert [t for t in cpu["trials"] if t["row"] != "ours"] == [
        t for t in earlier["trials"] if t["row"] != "ours"
    ]
    assert {r["row"]: r["verdict"] for r in cpu["rows"]}["tuned"] in ("miss", "")
    assert cpu["bands"].keys() == earlier["bands"].keys()
    text = page.read_text()
    assert text.startswith("# Mine\n\nBefore.\n\n") and text.endswith("\nAfter.\n")
    assert text.count(writeup.BEGIN) == 1


def test_seeds_run_on_two_machines_are_one_row(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a start elsewhere has not run yet, or is cut off in, stands as it was recorded."""
    file = here / "experiments/results/toy/record.json"
    whole = json.loads(file.read_text())
    for trial in whole["scales"]["cpu"]["trials"]:
        trial["scores"] = {"validation_first_3/loss": 2.0}
    file.write_text(json.dumps(whole))
    monkeypatch.setattr(launch, "launch", lambda *a, **k: one_by_one(*a, stop_after=1, **k))
    said(capsys, "reproduce", "toy", "--workdir=third", code=75)
    cpu = json.loads(file.read_text())["scales"]["cpu"]
    plain, *others = [r for r in cpu["rows"] if r["chosen"]]
    assert plain["row"] == "plain" and plain["values"]["1"] == 2.0 != plain["values"]["0"]
    assert plain["mean"] == pytest.approx(1.0 + plain["values"]["0"] / 2)
    assert all(set(row["values"].values()) == {2.0} for row in others)
    assert cpu["bands"] == whole["scales"]["cpu"]["bands"]
    assert len(cpu["trials"]) == len(whole["scales"]["cpu"]["trials"])
    # Measured by another protocol: not joined, and the recorded row stays whole.
    other = json.loads(json.dumps(whole))
    for trial in other["scales"]["cpu"]["trials"]:
        assert trial["protocols_sha256"] == {}  # a plain mean has none
        trial["protocols_sha256"] = {"validation_first_3/loss": "of another classifier"}
    file.write_text(json.dumps(other))
    with monkeypatch.context() as patch:
        ours = property(lambda trial: {"validation_first_3/loss": "ours"} if trial.run else {})
        patch.setattr(verdicts.Trial, "protocols", ours)
        said(capsys, "reproduce", "toy", "--workdir=sixth", code=75)
    kept = json.loads(file.read_text())["scales"]["cpu"]
    assert {r["row"]: r for r in kept["rows"]} == {
        r["row"]: r for r in other["scales"]["cpu"]["rows"]
    }
    assert [t for t in kept["trials"] if t["row"] == "plain"] == [
        t for t in other["scales"]["cpu"]["trials"] if t["row"] == "plain"
    ]
    file.write_text(json.dumps({**whole, "scales": {**whole["scales"], "cpu": cpu}}))
    # Another recipe since: the recorded row stays, whole, until it is run whole again.
    recipe = here / "recipe.py"
    text = recipe.read_text()
    recipe.write_text(text.replace('"batch_size": 4', '"batch_size": 2'))
    assert recipe.read_text() != text
    try:
        said(capsys, "reproduce", "toy", "--workdir=fourth", code=75)
        assert json.loads(file.read_text())["scales"]["cpu"]["rows"] == cpu["rows"]
        monkeypatch.setattr(launch, "launch", lambda *a, **k: one_by_one(*a, stop_after=2, **k))
        said(capsys, "reproduce", "toy", "--workdir=fourth", "--only=plain")
        rows = json.loads(file.read_text())["scales"]["cpu"]["rows"]
        assert 2.0 not in next(r for r in rows if r["row"] == "plain")["values"].values()
        assert sum(2.0 in r["values"].values() for r in rows) == len(rows) - 1
    finally:
        recipe.write_text(text)


def test_other_settings_make_no_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = here / "experiments/results/toy/record.json"
    before = file.read_text()
    words = ("--only=ours", "--workdir=warm", "--config.hyper.lr=0.5")
    said(capsys, "reproduce", "toy", *words)
    assert file.read_text() == before
    (row,) = [r for r in json.loads((here / "warm/cpu/results/record.json").read_text())
              ["scales"]["cpu"]["rows"] if r["row"] == "ours"]  # fmt: skip
    assert row["values"]
    assert "--page runs nothing" in said(capsys, "reproduce", "toy", "--page", words[2], code=2)


def test_a_scale_with_a_metric_of_its_own_has_a_picture(tmp_path: Path) -> None:
    """The study's first metric may not be measured there at all."""
    path = tmp_path / "two.py"
    own = '"few": {"direction": "minimize", "protocol": "a few rows"}'
    text = TOY.replace('{"oracle": 0.1}}}', f'{{"oracle": 0.1}}}}, {own}}}')
    path.write_text(text.replace('"cost": "seconds"', '"cost": "seconds", "metric": "few"'))
    read = study.read(path)
    row = {"row": "ours", "metric": "few", "chosen": True, "point": {}, "published": None,
           "values": [1.0, 2.0], "mean": 1.5, "interval_95": [1.0, 2.0]}  # fmt: skip
    for name, drawn in (("cpu", True), ("smoke", False)):
        out = tmp_path / f"{name}.png"
        found = writeup.draw(read, read.scales[name], {"rows": [row]}, analyses.Found({}), out)
        assert found == out.is_file() == drawn


def test_rows_of_other_data_stand_between_their_own_levels(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(TOY.replace('"floors": {"uniform": 3.0}, ', ""))
    read = study.read(path)
    metric = read.metric.name

    def row(name: str) -> dict[str, Any]:
        return {"row": name, "metric": metric, "chosen": True, "point": {}, "published": None,
                "values": {"0": 1.0}, "mean": 1.0, "interval_95": [1.0, 1.0], "diverged": 0,
                "verdict": ""}  # fmt: skip

    def shown(floors: dict[str, Any]) -> list[str]:
        found = {"floors": {metric: floors}, "rows": [row("plain"), row("ours")]}
        lines = writeup._table(read, read.scales["cpu"], read.metric, found).splitlines()[4:]
        cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines]
        return [name + (f" {value}" if name[0] == "*" else "") for name, _, value in cells]

    stated = {"stated_floors": {}, "stated_ceilings": {"oracle": 0.1}}
    # As older records have it: one set for all rows.
    file, rows = tmp_path / "record.json", [row("plain"), row("ours")]
    scale = {"rows": rows, "floors": {metric: {**stated, "measured": {"real": 8.0}}}}
    file.write_text(json.dumps({"format": record.FORMAT, "scales": {"cpu": scale}}))
    old = record.load(file)["scales"]["cpu"]["floors"][metric]
    assert old["measured"] == {"plain": {"real": 8.0}, "ours": {"real": 8.0}}
    assert shown(old) == ["*real* 8.000", "*oracle* 0.100", "plain", "tuned", "ours"]
    both = {**stated, "measured": {**old["measured"], "ours": {"real": 25.0}}}
    assert shown(both) == [
        "*real* 8.000", "*oracle* 0.100", "plain", "tuned",
        "*real* 25.000", "*oracle* 0.100", "ours",
    ]  # fmt: skip


def test_scores_are_drawn_over_a_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curve.py"
    text = TOY.replace('"scales": {', '"analysis": {"name": "rows", "over": "k"}, "scales": {')
    path.write_text(text)
    with pytest.raises(UserError, match="analysis over='k': row 'plain' has no such tag"):
        study.read(path)
    for name, k, kind in (("plain", 50, "a"), ("tuned", 7, "b"), ("ours", 5, "a")):
        text = text.replace(f'"{name}", ', f'"{name}", "tags": {{"k": {k}, "kind": "{kind}"}}, ')
    for wrong, words in (
        ('"over": "kind"', "logarithmic axis, and row 'plain' has 'a'"),
        ('"by": "kind"', "say which by 'over'"),
    ):
        path.write_text(text.replace('"over": "k"', wrong))
        with pytest.raises(UserError, match=words):
            study.read(path)
    path.write_text(text.replace('"over": "k"', '"over": "k", "by": "kind"'))
    read = study.read(path)
    means = {"plain": 3.0, "tuned": 1.0, "ours": 2.0, "gone": 9.0}
    rows = [{"row": name, "metric": read.metric.name, "chosen": True, "point": {},
             "published": None, "values": [1.0, 2.0], "mean": mean,
             "interval_95": [mean - 0.5, mean + 0.25]}
            for name, mean in means.items()]  # fmt: skip
    seen: list[Any] = []

    drawn = Axes.errorbar

    def errorbar(self: Any, xs: Any, ys: Any, yerr: Any, **rest: Any) -> Any:
        seen.append((xs, ys, yerr, rest["label"]))
        return drawn(self, xs, ys, yerr, **rest)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    out = tmp_path / "curve.png"
    assert writeup.draw(read, read.scales["cpu"], {"rows": rows}, analyses.Found({}), out)
    assert seen == [
        ([5, 50], [2.0, 3.0], [(0.5, 0.5), (0.25, 0.25)], "a"),
        ([7], [1.0], [(0.5,), (0.25,)], "b"),
    ]


def test_a_smoke_run_is_no_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = here / "experiments/results/toy"
    before = (home / "record.json").read_text()
    out = said(capsys, "reproduce", "toy", "--scale=smoke", "--only=plain")
    assert "not judged" in out
    assert (home / "record.json").read_text() == before
    assert (here / "runs/toy/smoke/results/README.md").is_file()


def test_an_older_record_stays_under_earlier(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text('{"runs": [1, 2]}')
    found = record.load(tmp_path / "record.json")
    assert found["earlier"] == {"runs": [1, 2]} and found["scales"] == {}
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(UserError, match="holds no valid JSON"):
        record.load(tmp_path / "record.json")


def test_paths_of_the_machine_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/input.txt").write_text("x")
    assert record.hidden(str(tmp_path / "data/input.txt")) == "INPUT.TXT"
    assert record.hidden("data/input.txt") == "INPUT.TXT"
    assert record.hidden(str(tmp_path / "data")) == "FOLDER"
    assert record.hidden("tiny_shakespeare") == "tiny_shakespeare"
    assert record.hidden("runs/sft") == "runs/sft"
    word = record.hidden_word(f"--config.data.path={tmp_path}/data/input.txt")
    assert word == "--config.data.path=INPUT.TXT"


# --- analyses ---------------------------------------------------------------------------------

Made = Callable[..., list[Any]]


def trials_of(scores: dict[str, dict[float, list[float]]]) -> list[Any]:
    """Row -> learning rate -> score by seed, nan for one that diverged."""
    return [
        verdicts.Trial(row, {"hyper.lr": lr}, seed, "", "diverged" if math.isnan(v) else "finished",
                       {"loss": v}, None)
        for row, by_rate in scores.items() for lr, values in by_rate.items()
        for seed, v in enumerate(values)
    ]  # fmt: skip


def a_study(analysis: dict[str, Any], rows: Any = ()) -> Any:
    metric = SimpleNamespace(name="loss", direction="minimize", unit="nats")
    return SimpleNamespace(metric=metric, analysis=analysis, rows=rows)


def test_lr_sensitivity_by_hand() -> None:
    trials = trials_of({"a": {0.1: [1.0, 2.0], 1.0: [3.0, 2.5], 10.0: [math.nan, 9.0]}})
    found = analyses.analyse(a_study({"name": "lr_sensitivity", "initial": 4.0}), trials)
    # Seed 0: (1 + 3 + 4) / 3 - 1; seed 1: (2 + 2.5 + 4) / 3 - 2.
    got = found.quantities["sensitivity: a"].by_seed
    assert got == pytest.approx({0: 8 / 3 - 1, 1: 8.5 / 3 - 2})
    assert found.quantities["lowest: a"].value == 1.5


def test_the_optimum_is_the_parabolas_and_its_drift_is_in_octaves() -> None:
    def bowl(at: float) -> dict[float, list[float]]:
        return {2.0**k: [(k - at) ** 2, (k - at - 1) ** 2] for k in range(-8, 1)}

    rows = [
        SimpleNamespace(name=f"{kind}{width}", tags={"kind": kind, "width": width})
        for kind in ("mup", "standard") for width in (32, 128)
    ]  # fmt: skip
    trials = trials_of(
        {"mup32": bowl(-4.3), "mup128": bowl(-4.1), "standard32": bowl(-3), "standard128": bowl(-5)}
    )
    asked = {"name": "optimum", "group": "kind", "size": "width"}
    found = analyses.analyse(a_study(asked, rows), trials).quantities
    assert found["log2 optimum: mup32"].by_seed == pytest.approx({0: -4.3, 1: -3.3})
    assert found["drift: mup"].value == pytest.approx(0.2)
    assert found["drift: standard"].value == pytest.approx(-2.0)
    assert found["moved: standard"].by_seed == pytest.approx({0: 2.0, 1: 2.0})
    assert not any(name.startswith("growth") for name in found)
    # Rows at one learning rate: what is followed over the width.
    fixed = [
        verdicts.Trial(row.name, {}, 0, "", "finished", {"size": row.tags["width"] ** power}, None)
        for row, power in zip(rows, (0, 0, 1.5, 1.5), strict=True)
    ]
    found = analyses.analyse(a_study({**asked, "grows": ("size",)}, rows), fixed).quantities
    assert found["growth of size: mup"].value == pytest.approx(0.0)
    assert found["growth of size: standard"].value == pytest.approx(1.5)


def test_rows_are_compared_at_their_best_points() -> None:
    trials = trials_of({"a": {0.1: [1.0, 1.2], 1.0: [0.5, 2.5]}, "b": {0.1: [math.nan, 0.0]}})
    made = a_study({"name": "rows"})
    made.metrics = {"loss": SimpleNamespace(name="loss", unit="nats")}
    found = analyses.analyse(made, trials).quantities
    assert found["loss: a"].by_seed == {0: 1.0, 1: 1.2}
    assert set(found) == {"loss: a"}  # a seed of the other diverged


def test_a_row_without_all_its_trials_has_no_quantity() -> None:
    trials = trials_of({"a": {0.1: [1.0]}, "b": {0.1: [1.0]}})
    trials[1] = trials[1]._replace(state="unfinished")
    found = analyses.analyse(a_study({"name": "lr_sensitivity", "initial": 4.0}), trials)
    assert set(found.quantities) == {"sensitivity: a", "lowest: a"}


def test_the_delay_between_two_accuracies() -> None:
    def run(jump: int) -> Any:
        steps = list(range(0, 1001, 100))
        series = {
            "train/accuracy": (steps, [1.0 if s >= 200 else 0.1 for s in steps]),
            "validation/accuracy": (steps, [1.0 if s >= jump else 0.1 for s in steps]),
        }
        from aigc_jax.report.folder import Series

        return SimpleNamespace(step=1000, series=lambda name: Series(*series[name]))

    trials = [
        verdicts.Trial("wd", {}, seed, "", "finished", {}, run(jump))
        for seed, jump in enumerate((700, 900, 5000))
    ]
    asked = {"name": "delay", "train": "train/accuracy", "validation": "validation/accuracy"}
    found = analyses.analyse(a_study(asked), trials).quantities
    assert found["delay: wd"].by_seed == {0: 500.0, 1: 700.0, 2: 800.0}
    assert found["delay: wd"].unit == "steps or more", "seed 2 never understood"
    assert analyses.analyse(a_study(asked), trials[:2]).quantities["delay: wd"].unit == "steps"
    assert found["reached: wd"].value == pytest.approx(2 / 3)


def test_the_scaling_law_finds_the_exponents_it_was_made_of() -> None:
    n, d = (x.ravel() for x in np.meshgrid([1e4, 4e4, 2e5, 1e6], [1e5, 4e5, 2e6, 1e7]))
    loss = 1.2 + 20 * n**-0.34 + 30 * d**-0.28
    e, a, b, alpha, beta = scaling.fit(n, d, loss)
    assert (e, a, b) == pytest.approx((1.2, 20.0, 30.0), rel=0.02)
    assert (alpha, beta) == pytest.approx((0.34, 0.28), rel=0.01)
    assert scaling._slopes(np.array([1e4, 1e5]), np.array([1.0, 1.0]), np.array([2.0, 1.0]))[0] == (
        pytest.approx(math.log10(2))
    )


def test_a_fit_that_begins_without_a_floor_finds_the_one_there_is() -> None:
    n, d = (x.ravel() for x in np.meshgrid([1e4, 1e5, 1e6], [1e5, 1e6, 1e7]))
    loss = 1.3 + 20.0 * n**-0.35 + 30.0 * d**-0.3
    found = scaling.fit(n, d, loss, start=(3e-9, 3.0, 3.0, 0.05, 0.05), every=4)
    np.testing.assert_allclose(found, (1.3, 20.0, 30.0, 0.35, 0.3), rtol=1e-3)


def test_the_weights_of_the_blocks_are_counted_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    import jax

    from aigc_jax.models.transformer import Transformer

    monkeypatch.chdir(ROOT)
    cfg = config.to_dict(config.load("configs/lm/tiny_char.py"))
    model = {k: v for k, v in cfg["task"]["model"].items() if k != "name"}
    network = Transformer(vocab_size=7, context=8, **model)
    tokens = jax.ShapeDtypeStruct((1, 8), "int32")
    shapes = jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]
    kernels = [
        leaf.size for name, block in shapes.items() if name.startswith("block_")
        for leaf in jax.tree.leaves(block) if leaf.ndim == 2
    ]  # fmt: skip
    assert scaling.block_parameters(cfg) == sum(kernels)
    assert scaling.tokens(cfg) == 500 * 12 * 64

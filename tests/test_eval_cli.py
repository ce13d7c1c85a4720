"""`aigc eval`: any evaluator on a checkpoint; what it stores, prints, refuses and leaves alone."""

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import process
import pytest
import tiny

from aigc_jax.cli.main import main
from aigc_jax.errors import StorageError
from aigc_jax.report.compare import show
from aigc_jax.report.evals import as_text
from aigc_jax.report.folder import Evaluation, Run
from aigc_jax.report.levels import around
from aigc_jax.train.scores import Scores

OWN = ("config.json", "metrics.jsonl", "status.json", "protocols.json", "floors.json", "data.json",
       "env.json", "report.html")  # fmt: skip
FEW = ("--config.evals.few.name=modes", "--config.evals.few.number=6")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three trained runs: a GAN of points, one of images, a language model."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "configs").symlink_to(Path(__file__).resolve().parent.parent / "configs")
    process.recipe(folder)
    for name, recipe in (("ring", "configs/gan/ring.py"), ("digits", "configs/gan/mnist_mlp.py")):
        words = tiny.words(recipe, "--config.run.tensorboard=False")
        done = process.aigc("train", recipe, *words, f"--workdir={name}", folder=folder)
        assert done.code == 0, done.err
    done = process.aigc("train", "recipe.py", "--workdir=text", folder=folder)
    assert done.code == 0, done.err
    return folder


@pytest.fixture
def ring(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run of points; commands typed in this process stand beside it."""
    shutil.copytree(home / "ring", tmp_path / "ring")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ring"


def hashes(run: Path) -> dict[str, str]:
    """Of every file of a run."""
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.rglob("*"))
        if file.is_file()
    }


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines()]


def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str, str]:
    """Runs a command in this process."""
    monkeypatch.setattr(sys, "argv", ["/x/bin/aigc", *words])
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


# --- what is stored --------------------------------------------------------------------------


def test_the_run_s_evaluators_measure_again_and_change_nothing(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(ring)
    code, out, err = typed(monkeypatch, capsys, "eval", "ring", "--json")
    assert (code, err) == (0, "")
    after = hashes(ring)
    assert set(OWN) <= before.keys()
    assert {name: after.pop(name) for name in before} == before
    assert list(after) == ["evals.jsonl"]
    (line,) = lines(ring)
    run = Run(ring)
    assert line["metrics"] == {name: run.last(name)[1] for name in line["metrics"]}  # type: ignore[index]
    assert {"modes/found", "validation_first_10/loss"} <= line["metrics"].keys()
    assert line["protocols"] == run.protocols
    assert (line["step"], line["command"]) == (4, "aigc eval ring --json")
    assert line["floors"] == {}  # those are in floors.json, where the run has put them
    assert {"date", "commit", "dirty"} <= line.keys()
    assert line["environment"]["packages"]["jax"]
    said = json.loads(out)
    assert said == line | {"path": "ring", "floors": said["floors"]}
    assert said["floors"]["modes/found"] == run.floors["modes/found"]


def test_a_typed_evaluator_keeps_its_protocol_and_floors_to_its_line(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(ring)
    for only in (["--only=modes"], [*FEW, "--only=few", "--step=2"]):
        assert typed(monkeypatch, capsys, "eval", "ring", *only)[0] == 0
    assert {name: hashes(ring)[name] for name in before} == before
    own, few = lines(ring)
    assert own["metrics"].keys() == few["metrics"].keys() == own["protocols"].keys()
    assert (own["step"], few["step"]) == (4, 2)
    assert own["protocols"]["modes/found"]["number"] == 8
    assert few["protocols"]["modes/found"]["number"] == 6
    assert few["floors"]["modes/found"].keys() == {"real (validation)", "noise"}
    run = Run(ring)
    first, second = run.evaluations
    assert run.levels(first, "modes/found") == run.floors["modes/found"]
    assert run.levels(second, "modes/found") == few["floors"]["modes/found"]
    assert typed(monkeypatch, capsys, "report", "ring")[0] == 0
    page = (ring / "report.html").read_text().partition("Judged again by aigc eval")[2]
    later = page.partition("<h3>Step 4</h3>")[2].partition("<h3>Step 2</h3>")
    for found, shown in ((own, later[0]), (few, later[2])):
        assert f'<td class="number">{show(float(found["metrics"]["modes/found"]))}</td>' in shown
        assert "real (validation)" in shown or "noise" in shown
        assert f"number {found['protocols']['modes/found']['number']}" in shown


def test_the_settings_of_a_run_s_own_evaluator_can_be_typed(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--only=validation", "--config.evals.validation.limit=2")
    assert typed(monkeypatch, capsys, "eval", "ring", *words)[0] == 0
    # Another module in its place takes none of its settings.
    words = ("--only=validation", "--config.evals.validation.name=modes",
             "--config.evals.validation.number=7")  # fmt: skip
    assert typed(monkeypatch, capsys, "eval", "ring", *words)[0] == 0
    first, second = lines(ring)
    assert "validation_first_2/loss" in first["metrics"]
    assert second["protocols"]["modes/found"]["number"] == 7


def test_splits_are_gone_through_whole(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = typed(monkeypatch, capsys, "eval", "ring", "--split=train", "--split=validation")
    assert code == 0 and "train_exact/loss" in out
    (line,) = lines(ring)
    assert {name.partition("/")[0] for name in line["metrics"]} == {"train_exact", "validation"}


def test_floors_of_the_run_s_own_measure_go_where_floors_go(tmp_path: Path) -> None:
    protocol = {"number": 10, "split": "test"}
    (tmp_path / "protocols.json").write_text(json.dumps({"x/fid": protocol}))
    (tmp_path / "floors.json").write_text(json.dumps({"validation/loss": {"uniform": 4.0}}))

    def scores(number: int, floor: float) -> Scores:
        found = Scores(tmp_path, tmp_path / "cache", "f" * 64)
        found.add_protocol("x/fid", {"number": number, "split": "test"})
        found.add_floors("x/fid", f"x-{number}", lambda: {"noise": floor})
        found.add({"x/fid": 1.0, "validation/loss": float("nan")})
        return found

    own, other = scores(10, 90.0), scores(5, 70.0)
    other.add_floors("validation/loss", "ladder", lambda: {"unigram": 3.0})
    for one in (own, other):
        one.store(one.line(3, "aigc eval"))
    assert json.loads((tmp_path / "floors.json").read_text()) == {
        "validation/loss": {"uniform": 4.0, "unigram": 3.0},
        "x/fid": {"noise": 90.0},
    }
    assert [line["floors"] for line in lines(tmp_path)] == [{}, {"x/fid": {"noise": 70.0}}]
    assert lines(tmp_path)[0]["metrics"]["validation/loss"] == "nan"


def test_a_torn_line_takes_none_with_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    scores = Scores(tmp_path, tmp_path / "cache", "f" * 64)
    line = scores.line(3, "aigc eval")
    scores.store(line)
    with open(tmp_path / "evals.jsonl", "a") as file:
        file.write('{"step": 4, "met')
    scores.store(line)
    assert [one.step for one in Run(tmp_path).evaluations] == [3, 3]


def test_texts_and_pictures_leave_the_run_s_own_alone(home: Path) -> None:
    before = hashes(home / "text" / "samples")
    words = ("--config.evals.samples.count=3", "--only=samples")
    done = process.aigc("eval", "text", *words, folder=home)
    assert (done.code, done.err) == (0, "")
    assert "no evaluator gave a score" in done.out
    (line,) = lines(home / "text")
    assert line["command"] == f"aigc eval text {' '.join(words)}" and line["metrics"] == {}
    written = home / "text" / line["samples"] / "samples" / "00000012.txt"
    assert len(written.read_text()) < len((home / "text/samples/00000012.txt").read_text())
    assert hashes(home / "text" / "samples") == before


def test_data_that_have_moved_are_named(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "text"
    shutil.copytree(home / "text", run)
    shutil.copy(home / "text.txt", tmp_path / "moved.txt")
    lost = process.aigc("eval", run, "--only=validation", folder=tmp_path)
    assert lost.code == 2 and lost.err.count("\n") == 1
    words = ("--only=validation", "--config.data.path=moved.txt")
    done = process.aigc("eval", run, *words, folder=tmp_path)
    assert done.code == 0, done.err
    (tmp_path / "moved.txt").write_text("other words\n" * 60)
    other = process.aigc("eval", run, *words, folder=tmp_path)
    assert other.code == 2 and "was trained on other data" in other.err


def test_where_nothing_can_be_stored_the_numbers_are_printed(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Scores, line: Any) -> None:
        raise StorageError("can't write: the disk is full")

    monkeypatch.setattr(Scores, "store", full)
    code, out, err = typed(monkeypatch, capsys, "eval", "ring", "--only=modes")
    assert code == 4 and "modes/found" in out
    assert err == "aigc: can't write: the disk is full\n"


# --- what is printed --------------------------------------------------------------------------


def test_scores_stand_between_floors_and_ceilings(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    floors = json.loads((ring / "floors.json").read_text())
    floors["modes/reverse_kl"]["a fool"] = 99.0
    floors["modes/quality"]["a fool"] = -1.0
    (ring / "floors.json").write_text(json.dumps(floors))
    code, out, _ = typed(monkeypatch, capsys, "eval", "ring")
    assert code == 0
    rows = {line.split()[0]: line.split() for line in out.splitlines()}
    assert rows["metric"] == ["metric", "next", "worse", "score", "next", "better"]
    run = Run(ring)
    for metric, higher in (("modes/reverse_kl", False), ("modes/quality", True)):
        value = run.last(metric)[1]  # type: ignore[index]
        worse, better = around(value, floors[metric], higher=higher)
        assert worse != "–" != better
        assert rows[metric] == f"{metric} {worse} {show(value)} {better}".split()
    assert "protocol: centers 8; sigma 0.01; data " in out and "; number 8; seed 0" in out


def test_what_protocols_have_in_common_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    protocols = {"a": {"number": 5, "k": 3}, "b": {"number": 5, "k": 3}, "c": {"number": 5}}
    text = as_text(Run(tmp_path), Evaluation(1, {}, protocols, {}, ""))
    assert text.splitlines()[2:] == ["protocol: number 5", "  a, b: k 3"]


def test_the_nearest_reference_on_either_side() -> None:
    levels = {"noise": 9.0, "mean image": 7.0, "real": 1.0, "broken": float("nan")}
    assert around(5.0, levels, higher=False) == ("mean image 7.0000", "real 1.0000")
    assert around(5.0, levels, higher=True) == ("real 1.0000", "mean image 7.0000")
    assert around(9.5, levels, higher=False) == ("–", "noise 9.0000")
    assert around(1.0, levels, higher=False) == ("mean image 7.0000", "real 1.0000")  # reached
    assert around(float("nan"), levels, higher=False) == ("–", "–")
    assert around(None, levels, higher=False) == ("–", "–")


# --- what is refused --------------------------------------------------------------------------

REFUSED = {
    "eval rong": "rong is no run folder",
    "eval ring --step=3": "ring has no checkpoint at step 3; it has 2, 4",
    "eval ring --only=mods": "--only=mods: there is no such evaluator. Did you mean 'modes'?",
    "eval ring --config.evals.modes.numbr=6": "Did you mean 'evals.modes.number'?",
    "eval ring --config.evals.modes.number=six": "expected int",
    "eval ring --config.evals.few.name=mode": "there is no 'mode' in evals. Did you mean 'modes'?",
    "eval ring --config.hyper.lr=1": "--config.hyper.lr=1: `aigc eval` takes settings of evals",
    "eval ring --config.run.seed=1": "those that the weights were trained with",
    "eval ring --split=tset": "the data has no split 'tset'; it has train, validation",
    f"eval ring {' '.join(FEW)}": "another evaluator of this call (see --only) measures it under",
    "eval digits --only=fid --config.evals.fid.name=image_quality "
    "--config.evals.fid.number=4": "needs weights=RUN",
    "eval digits --only=fid --config.evals.fid.name=image_quality "
    "--config.evals.fid.extractor=inception --config.evals.fid.weights=no.pth "
    "--config.evals.fid.number=4 --config.evals.fid.scores=('frechet',)": "no.pth",
    "eval digits --only=m --config.evals.m.name=modes "
    "--config.evals.m.classifier=nowhere --config.evals.m.number=4": "nowhere is no run folder",
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_mistake_is_one_line_and_writes_nothing(
    home: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(home)
    before = hashes(home / "ring"), hashes(home / "digits")
    code, out, err = typed(monkeypatch, capsys, *command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert REFUSED[command] in err
    assert (hashes(home / "ring"), hashes(home / "digits")) == before


def test_a_run_without_a_checkpoint(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(ring / "checkpoints")
    code, _, err = typed(monkeypatch, capsys, "eval", "ring")
    assert code == 2 and err == "aigc: ring has no checkpoint yet.\n"
    assert not (ring / "evals.jsonl").exists()


# --- compared ---------------------------------------------------------------------------------


def test_what_was_measured_later_is_compared_under_one_protocol(
    ring: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twin = ring.parent / "twin"
    shutil.copytree(ring, twin)
    code, out, _ = typed(monkeypatch, capsys, "compare", "ring", "twin")
    assert code == 0 and "by aigc eval" not in out
    assert "next worse" in out and "noise " in out  # the curves' own floors
    assert typed(monkeypatch, capsys, "eval", "ring", *FEW, "--only=few")[0] == 0
    code, out, _ = typed(monkeypatch, capsys, "compare", "ring", "twin")
    assert code == 0 and "by aigc eval" not in out  # of one run alone there is nothing to compare
    assert typed(monkeypatch, capsys, "eval", "twin", "--only=modes")[0] == 0
    code, out, _ = typed(monkeypatch, capsys, "compare", "ring", "twin")
    assert code == 0 and "by aigc eval" not in out
    assert "`aigc eval`: not compared, since measured under different protocols: modes/" in out
    assert "number 6 against 8" in out
    # The latest under a protocol in common counts, be another one later.
    for step in ("--step=4", "--step=2"):
        assert typed(monkeypatch, capsys, "eval", "ring", "--only=modes", step)[0] == 0
    assert typed(monkeypatch, capsys, "eval", "ring", *FEW, "--only=few")[0] == 0
    code, out, _ = typed(monkeypatch, capsys, "compare", "ring", "twin", "--json")
    found = json.loads(out)["evals"]
    assert code == 0 and found["incomparable"] == {}
    assert [one["step"] for one in found["scores"]["modes/found"]] == [2, 4]
    code, out, _ = typed(
        monkeypatch, capsys, "compare", "ring", "twin", "--metric=modes/reverse_kl"
    )
    table = out.partition("by aigc eval")[2].splitlines()[2:4]
    assert [row.split()[:3] for row in table] == [
        ["modes/reverse_kl", "ring", "2"],
        ["modes/reverse_kl", "twin", "4"],
    ]

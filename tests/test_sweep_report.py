"""A sweep folder read back: rows, files, configurations, the page, and comparisons over seeds."""

import csv
import json
import math
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet
import pytest
from process import recipe

import aigc_jax
from aigc_jax.cli import main as command
from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.report import importance as importances
from aigc_jax.report import plots
from aigc_jax.report.importance import importance, shares
from aigc_jax.report.statistics import interval
from aigc_jax.sweep import page, results, space
from aigc_jax.sweep.plans import plan
from aigc_jax.sweep.rerun import Reruns

ROOT = Path(aigc_jax.__file__).resolve().parents[1]
METRIC = "validation/loss"
RATES = (0.001, 0.01, 0.1)
LUCK = (0.0, 0.02, -0.01, 0.013, -0.017)  # what the seed alone does


def trial(
    root: Path,
    name: str,
    settings: dict[str, Any],
    score: float | str,
    *,
    steps: int = 100,
    data: str = "f" * 64,
    protocol: Any = None,
    **status: Any,
) -> Path:
    """A run folder as training leaves it; its validation loss falls to `score`."""
    path = root / name
    path.mkdir(parents=True)
    nested: dict[str, Any] = {}
    for key, value in {"run.steps": steps, **settings}.items():
        section, rest = key.split(".", 1)
        nested.setdefault(section, {})[rest] = value
    rows = []
    for step in range(20, steps + 1, 20):
        last = score if step == steps else 3.0 - step / steps
        rows.append({"step": step, "wall": step / 10, "train/loss": 2.0, "train/lr": 0.1})
        rows.append({"step": step, "wall": step / 10, METRIC: last, "validation/accuracy": 0.5})
    said = {"state": "finished", "reason": "", "step": steps, "steps": steps, "wall": steps / 10,
            "command": ["aigc", "train", "gone.py", f"--workdir={path}"]}  # fmt: skip
    files = {
        "config.json": nested,
        "status.json": said | status,
        "data.json": {"fingerprint": data},
    }
    if protocol:
        files["protocols.json"] = {METRIC: protocol}
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def score_of(rate: float, seed: int) -> float:
    """Best at 0.01; a seed does about the same to all rates."""
    own = 0.004 * math.sin(100 * rate + 5 * seed)
    return 1.5 + 0.2 * abs(math.log10(rate) + 2) + LUCK[seed] + own


def folder_of_seeds(
    root: Path, rates: tuple[float, ...] = RATES, seeds: int = 3, **more: Any
) -> Path:
    """Trials over a learning rate, best at 0.01, with some seeds each."""
    for rate in rates:
        for seed in range(seeds):
            score = score_of(rate, seed)
            settings = {"hyper.lr": rate, "run.seed": seed}
            trial(root, f"lr={rate},seed={seed}", settings, score,
                  **more)  # fmt: skip
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder_of_seeds(tmp_path / "sweep")


def call(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = command.main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


# --- reading -----------------------------------------------------------------------------------


def test_rows_say_what_the_folders_hold(root: Path) -> None:
    rows = results.collect(root)
    assert len(rows) == 9
    assert rows[0].point == {"hyper.lr": 0.001, "run.seed": 0}  # what differs, and no more
    assert rows[0].settings["run.steps"] == 100
    assert (rows[0].state, rows[0].step, rows[0].wall, rows[0].seed) == ("finished", 100, 10.0, 0)
    assert rows[4].scores == {
        METRIC: score_of(0.01, 1),
        "validation/accuracy": 0.5,
        "train/loss": 2.0,
    }
    assert rows[4].best[METRIC] == (100, score_of(0.01, 1))
    assert rows[4].curves[METRIC][0] == [20, 40, 60, 80, 100]
    assert "train/lr" not in rows[4].curves


def test_the_best_stands_first_and_seeds_are_one_configuration(root: Path) -> None:
    found = results.read(root)
    assert (found.metric, found.higher, found.warnings) == (METRIC, False, [])
    scores = [row.scores[METRIC] for row in found.ranked]
    assert scores == sorted(scores) and len(scores) == 9
    first, *others = results.configurations(found)
    assert first.settings == {"hyper.lr": 0.01} and len(others) == 2
    assert [row.seed for row in first.rows] == [0, 1, 2]
    assert first.mean == pytest.approx(sum(score_of(0.01, i) for i in range(3)) / 3)
    assert [one.settings["hyper.lr"] for one in others] == [0.001, 0.1]
    assert found.log == {"hyper.lr"}


def test_sweep_json_says_the_metric_its_direction_and_what_is_drawn_log(root: Path) -> None:
    drawn = space.product(space.draw("hyper.lr", space.Float(0.001, 0.002, True)),
                          space.grid("run.seed", [0, 1]))  # fmt: skip
    said = {"recipe": "x.py", "overrides": [], "space": drawn.to_dict(), "metric": METRIC,
            "direction": "maximize"}  # fmt: skip
    (root / "sweep.json").write_text(json.dumps(said))
    for path in root.glob("lr=0.1*"):
        shutil.rmtree(path)
    found = results.read(root)
    assert found.higher and found.ranked[0].scores[METRIC] == max(
        row.scores[METRIC] for row in found.rows
    )
    assert found.log == {"hyper.lr"}  # 0.001 to 0.01 alone would not be
    assert not results.read(root, "train/loss").higher
    (root / "sweep.json").write_text('{"recipe": "x.')
    damaged = results.read(root)
    assert not damaged.higher and damaged.log == set()
    assert any("damaged" in warning for warning in damaged.warnings)


def break_status(path: Path) -> None:
    (path / "status.json").write_text('{"state": "fini')


def break_metrics(path: Path) -> None:
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text[: len(text) * 2 // 3])


def break_config(path: Path) -> None:
    (path / "config.json").unlink()


def garble(path: Path) -> None:
    (path / "metrics.jsonl").write_bytes(b"\xff\x00\n{}\n[]\n")


@pytest.mark.parametrize("spoil", [break_status, break_metrics, break_config, garble])
def test_a_broken_trial_spoils_no_other(root: Path, spoil: Callable[[Path], None]) -> None:
    sound = results.read(root).ranked[0].path
    broken = results.read(root).ranked[-1].path
    spoil(broken)
    found = results.read(root)
    assert found.ranked[0].path == sound and len(found.rows) == 9
    kept = [row for row in found.ranked if row.path != broken]
    assert len(kept) == 8
    if spoil is not break_config:  # it did finish, and has a score
        assert len(found.ranked) == 8 and found.rows[-1].path == broken
    text = page.render(found) + page.as_text(found, 30)
    assert "8 finished" in text or "9 finished" in text
    results.write(found)


def test_the_unfinished_appear_with_their_state_and_are_not_ranked(root: Path) -> None:
    best = {"hyper.lr": 0.01, "run.seed": 9}
    trial(root, "a-pruned", best, 0.1, state="stopped", reason="pruned", step=40)
    trial(root, "b-failed", best, 0.1, state="failed", reason="bad numbers")
    trial(root, "c-died", best, 0.1, state="running")
    (root / "d-begun").mkdir()
    (root / "d-begun" / "status.json").write_text('{"state": "running", "host": "elsewhere"}')
    found = results.read(root)
    assert len(found.ranked) == 9 and found.ranked[0].scores[METRIC] > 1
    states = {row.path.name: row.state for row in found.rows}
    assert states["a-pruned"] == "pruned" and states["b-failed"] == "failed"
    assert {states["c-died"], states["d-begun"]} <= {"died", "unknown"}
    text = page.as_text(found, 30)
    assert "9 finished, " in text and "1 pruned" in text
    rendered = page.render(found)
    for word in ("pruned", "failed"):
        assert f">{word}<" in rendered


def test_other_protocols_other_data_and_earlier_steps_are_not_ranked(tmp_path: Path) -> None:
    root = folder_of_seeds(tmp_path / "s", protocol={"number": 1000})
    trial(root, "other-protocol", {"hyper.lr": 0.5, "run.seed": 0}, 0.1, protocol={"number": 10})
    trial(root, "other-data", {"hyper.lr": 0.5, "run.seed": 1}, 0.1, data="e" * 64,
          protocol={"number": 1000})  # fmt: skip
    early = trial(root, "early", {"hyper.lr": 0.5, "run.seed": 2}, 0.1, protocol={"number": 1000})
    lines = (early / "metrics.jsonl").read_text().splitlines()
    (early / "metrics.jsonl").write_text("\n".join(lines[:-1]))
    found = results.read(root)
    assert len(found.ranked) == 9 and found.ranked[0].scores[METRIC] > 1
    said = " ".join(found.warnings)
    assert "under another protocol than most and are not ranked: other-protocol" in said
    assert "on other data than most and are not ranked: other-data" in said
    assert f"no {METRIC} at their last step and are not ranked: early" in said


STOPPED = {"state": "failed", "reason": "bad numbers at step 41 (1 in all); see RUN/bad"}


@pytest.mark.parametrize("ended", [{"score": "nan"}, {"score": 0.1, "step": 41, **STOPPED}])
def test_a_seed_without_a_number_does_not_flatter_its_configuration(
    root: Path, ended: dict[str, Any]
) -> None:
    trial(root, "bad", {"hyper.lr": 0.01, "run.seed": 7}, **ended)
    first, *_, last = results.configurations(results.read(root))
    assert first.settings == {"hyper.lr": 0.001}
    assert last.settings == {"hyper.lr": 0.01} and last.scores.diverged == 1
    assert "3, 1 diverged" in page.as_text(results.read(root), 30)


# --- the files ---------------------------------------------------------------------------------


def test_csv_and_parquet_hold_the_same_table(root: Path) -> None:
    trial(root, "odd", {"hyper.lr": 1, "run.seed": 3, "data.sizes": [1, 2]}, "inf")
    found = results.read(root)
    text, columns = results.write(found)
    lines = list(csv.DictReader(text.read_text().splitlines()))
    table = pyarrow.parquet.read_table(columns).to_pylist()
    assert len(lines) == len(table) == 10
    assert lines[0].keys() == table[0].keys()
    for line, other in zip(lines, table, strict=True):
        assert line["folder"] == other["folder"] and line["state"] == other["state"]
        assert float(line["config.hyper.lr"]) == other["config.hyper.lr"]
        assert float(line[METRIC]) == pytest.approx(other[METRIC])
        assert int(line["config.run.seed"]) == other["config.run.seed"]
    odd = next(row for row in table if row["folder"] == "odd")
    assert odd["config.data.sizes"] == "[1, 2]" and odd[METRIC] == math.inf
    assert table[0]["config.data.sizes"] is None and lines[0]["config.data.sizes"] == ""
    assert table[0][f"{METRIC} (best step)"] == 100


# --- running again -----------------------------------------------------------------------------


def real_sweep(root: Path, tmp_path: Path) -> list[Any]:
    """The folder of a real recipe's trials: two rates, another width, two seeds."""
    points = [
        {"hyper.lr": rate, "task.model.width": width, "run.seed": seed}
        for rate, width in ((0.1, 8), (0.003, 16))
        for seed in (0, 4)
    ]
    planned = plan(str(recipe(tmp_path)), ["--config.run.steps=100"], points, root)
    for one in planned:
        path = trial(root, one.workdir.name, {}, 1 + one.point["run.seed"] / 100)
        (path / "config.json").write_text(config.to_json(one.config))
    return planned


@pytest.mark.parametrize("by", ["sweep.json", "recorded command"])
def test_the_command_to_rerun_gives_the_very_config(tmp_path: Path, by: str) -> None:
    planned = real_sweep(tmp_path / "s", tmp_path)
    said = {"recipe": planned[0].recipe, "overrides": ["--config.run.steps=100"], "space": {},
            "metric": METRIC, "direction": "minimize"}  # fmt: skip
    if by == "sweep.json":
        (tmp_path / "s" / "sweep.json").write_text(json.dumps(said))
    else:  # one program ran them all, so its command is in every folder
        words = ["/x/bin/aigc", "sweep", planned[0].recipe, "--seeds=2", "--config.run.steps=100"]
        for one in planned:
            status = json.loads((one.workdir / "status.json").read_text())
            (one.workdir / "status.json").write_text(json.dumps(status | {"command": words}))
    found = results.read(tmp_path / "s")
    configs = {one.workdir: one.config for one in planned}
    seen = set()
    for one in results.configurations(found):
        commands, exact = Reruns(found).of(one.rows)
        assert exact and len(commands) == 2
        for line, row in zip(commands, one.rows, strict=True):
            words = shlex.split(line)
            assert words[:2] == ["aigc", "train"] and words[-1] == f"--workdir={row.path}-again"
            assert config.diff(config.load(words[2], words[3:-1]), configs[row.path]) == []
            seen.add(row.path)
    assert seen == set(configs)
    assert "--config.task.model.width=16" in page.render(found)


def test_without_the_recipe_it_is_the_recorded_command(root: Path) -> None:
    found = results.read(root)
    commands, exact = Reruns(found).of(found.ranked[:1])
    assert not exact and commands == [found.ranked[0].command]
    assert "aigc train gone.py" in commands[0]
    assert "could not be checked" in page.render(found)


# --- the page ----------------------------------------------------------------------------------


def test_the_page_shows_everything_and_asks_nothing_of_any_server(root: Path) -> None:
    found = results.read(root)
    text = page.render(found)
    assert not re.search(r"https?:|src=|<link|<script|@import|url\(", text)
    best = interval([score_of(0.01, seed) for seed in range(3)])
    assert f"{best.mean:.4f}" in text and f"{best.low:.4f} to {best.high:.4f}" in text
    for words in ("Best configurations", "All settings side by side", "What matters",
                  "Setting by setting", "Is 1 better than 2? yes", f"{METRIC} against steps",
                  "aigc train gone.py"):  # fmt: skip
        assert words in re.sub("</?span>", "", text), words
    assert len(re.findall(r"<tr title=", text)) == 9
    # Each took 10 s. Their sum would count the time of trials of one program many times.
    assert re.search(r"longest trial.{0,60}\b0:10\b", text, re.DOTALL)
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        tree = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, tree.attrib["viewBox"].split())
        assert "nan" not in drawing
        for line in tree.iter("polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width and 0 <= y <= height


def test_the_page_escapes_what_settings_say(tmp_path: Path) -> None:
    for i, word in enumerate(("<script>alert(1)</script>", "b")):
        trial(tmp_path, f"t{i}", {"data.name": word, "run.seed": 0}, 1.0 + i)
    text = page.render(results.read(tmp_path))
    assert "<script>" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize("trials", [0, 1, 2])
def test_a_page_of_hardly_a_trial(tmp_path: Path, trials: int) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "status.json").write_text("{}")
    for i in range(trials):
        trial(tmp_path, f"t{i}", {"hyper.lr": 0.1 * (i + 1), "run.seed": 0}, 1.0)
    found = results.read(tmp_path)
    text = page.render(found)
    assert ("No trial has finished with a score yet" in text) == (trials == 0)
    results.write(found)
    assert f"{trials} finished" in page.as_text(found, 5) or not trials


def test_an_axis_is_log_where_asked_for_and_ordered_by_value() -> None:
    axis = plots.axis_of("lr", [0.001, 0.1, 0.01], log=True)
    assert axis.places == pytest.approx([0, 1, 0.5])
    assert [text for _, text in axis.ticks] == ["0.001", "0.01", "0.1"]
    assert plots.axis_of("lr", [1, 3, 2]).places == pytest.approx([0, 1, 0.5])
    named = plots.axis_of("name", ["b", "a", "b"])
    assert named.places == [0.75, 0.25, 0.75] and named.ticks == [(0.25, "a"), (0.75, "b")]
    missing = plots.axis_of("beta", [1.0, None, 2.0])
    assert missing.places == pytest.approx([0.15, 0, 1]) and missing.ticks[0] == (0.0, "–")


@pytest.mark.parametrize("higher", [False, True])
def test_a_trial_that_diverged_does_not_flatten_the_others(higher: bool) -> None:
    sign = -1 if higher else 1
    low, high = plots.window([sign * (1 + i / 10) for i in range(9)] + [sign * 1e6], higher)
    assert high - low < 2.5 and low < sign < high


def test_importance_finds_what_matters_with_and_without_optuna(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = [10 ** -(i % 5) for i in range(60)]
    names = ["a" if i % 2 else "b" for i in range(60)]
    noise = [random.Random(i).random() for i in range(60)]
    scores = [math.log10(r) ** 2 + 0.3 * (n == "a") for r, n in zip(rates, names, strict=True)]
    columns = {"noise": noise, "name": names, "lr": rates, "same": [1] * 60}
    found = importance(columns, scores, frozenset({"lr"}))
    assert found is not None and found.method == importances.FANOVA
    assert found.shares[0][0] == "lr" and "same" not in dict(found.shares)
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = importance(columns, scores, frozenset({"lr"}))
    assert found is not None and found.method == importances.SHARES
    assert found.shares[0][0] == "lr" and dict(found.shares)["noise"] < 0.05
    assert importance(columns, [1.0] * 60) is None
    assert importance({"lr": rates[:7]}, scores[:7]) is None


def test_shares_by_hand() -> None:
    # Two groups, (1, 2, 3) and (4, 5, 6): of 17.5 there are 4 within; 1 - 4 / 17.5 * 5 / 4.
    found = shares({"x": ["a"] * 3 + ["b"] * 3, "y": ["a", "b"] * 3}, [1, 2, 3, 4, 5, 6])
    assert found["x"] == pytest.approx(1 - 4 / 17.5 * 5 / 4)
    assert found["y"] == 0  # 16 of 17.5 within: less than chance would explain


# --- the commands ------------------------------------------------------------------------------


def test_sweep_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "sweep-report", root, "--rows=4")
    assert code == 0 and out.splitlines()[-1] == str(root / "report.html")
    lines = out.splitlines()
    assert lines[0].endswith(f"9 finished; {METRIC}, lower is better")
    assert re.match(r" *1  \S+ +finished +100 +1\.4", lines[4])
    assert "5 more are in" in out
    mean = interval([score_of(0.01, seed) for seed in range(3)])
    assert re.search(f"{mean.mean:.4f} +{mean.low:.4f} to {mean.high:.4f}", out)
    for name in ("report.html", "results.csv", "results.parquet"):
        assert (root / name).stat().st_size > 500
    # Its own files do not disturb the next one; another metric, another place.
    code, out, _ = call(capsys, "sweep-report", root, "--metric=validation/accuracy",
                        f"--out={root.parent / 'x.html'}")  # fmt: skip
    assert code == 0 and "higher is better" in out and (root.parent / "x.html").is_file()


def test_sweep_report_refuses_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for words, part in {
        (tmp_path / "empty",): "holds no runs yet",
        (tmp_path / "swep",): "Did you mean 'sweep'?",
        (root, "--metric=validation/los"): "Did you mean 'validation/loss'?",
        (root, f"--out={tmp_path}"): "no place for a file",
        (root, "--rows=0"): "expected 1 or more",
    }.items():
        code, out, err = call(capsys, "sweep-report", *words)
        assert code == 2 and part in err and len(err.splitlines()) == 1 and not out
    assert not (root / "report.html").exists()


def test_sweep_report_needs_no_jax(root: Path) -> None:
    program = f"""
import sys
from aigc_jax.cli import main
assert main.main(["sweep-report", {str(root)!r}]) == 0
assert main.main(["compare", {str(root)!r}]) == 0
assert "jax" not in sys.modules
"""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_compare_two_sweeps_of_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = folder_of_seeds(tmp_path / "a", rates=(0.01,), seeds=5)
    b = tmp_path / "b"
    for seed in range(5):
        score = score_of(0.01, seed) - 0.1 + (0.01, -0.01, 0.005, 0.0, -0.004)[seed]
        trial(b, f"s{seed}", {"hyper.lr": 0.02, "run.seed": seed}, score)
    code, out, _ = call(capsys, "compare", a, b, f"--metric={METRIC}")
    assert code == 0 and "is B better than A? yes: -0.0998 [" in out
    assert "paired over 5 seeds" in out and "10 runs, 10 finished" in out
    mean = interval([score_of(0.01, seed) for seed in range(5)])
    assert re.search(rf"A +5  {mean.mean:.4f} +{mean.low:.4f} to {mean.high:.4f}", out)
    code, out, _ = call(capsys, "compare", b, a, f"--metric={METRIC}", "--json")
    (answer,) = json.loads(out)["seeds"]["answers"]
    assert answer["answer"] == "no" and answer["paired"] and answer["n"] == 5
    assert answer["difference"] == pytest.approx(0.0998)


def test_compare_two_sweeps_at_the_settings_that_both_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = folder_of_seeds(tmp_path / "a", rates=(0.001, 0.01, 0.1), seeds=3)
    b, gain = tmp_path / "b", {0.01: (0.1, 0.13, 0.09), 0.1: (0.02, 0.03, 0.04), 1.0: (9, 9, 9)}
    for rate, gains in gain.items():
        for seed, less in enumerate(gains):
            more = {"optim.name": "lion", "hyper.lr": rate, "run.seed": seed}
            trial(b, f"lr={rate},seed={seed}", more, score_of(rate, seed) - less)
    _, out, _ = call(capsys, "compare", a, b, f"--metric={METRIC}", "--json")
    (row,) = json.loads(out)["matched"]
    assert [pair["settings"] for pair in row["pairs"]] == [{"hyper.lr": 0.01}, {"hyper.lr": 0.1}]
    # By seed: -(0.1 + 0.02) / 2, -(0.13 + 0.03) / 2, -(0.09 + 0.04) / 2.
    wanted = interval([-0.06, -0.08, -0.065])
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(wanted)
    assert (row["over"], row["n"], row["answer"], row["wins"]) == ("seeds", 3, "yes", 2)
    _, out, _ = call(capsys, "compare", a, b, f"--metric={METRIC}")
    line = f"is {b} better than {a}? yes: -0.06833 ["
    assert "at the same settings" in out and line in out and "in 2 of 2 settings" in out
    # One seed: the settings are what is paired. One that diverged is no pair.
    for path in (*a.glob("*,seed=[12]"), *b.glob("*,seed=[12]")):
        shutil.rmtree(path)
    trial(b, "nan", {"optim.name": "lion", "hyper.lr": 0.001, "run.seed": 0}, "nan")
    trial(b, "fine", {"optim.name": "lion", "hyper.lr": 0.001, "run.seed": 1}, 0.5)
    _, out, _ = call(capsys, "compare", a, b, f"--metric={METRIC}", "--json")
    (row,) = json.loads(out)["matched"]
    assert (row["over"], row["n"], row["left_out"]) == ("settings", 2, 1)
    wanted = interval([-0.1, -0.02])
    assert (row["difference"], row["low"], row["high"]) == pytest.approx(wanted)
    # The other way round it is no better, and other data are not compared at all.
    _, out, _ = call(capsys, "compare", b, a, f"--metric={METRIC}")
    assert f"is {a} better than {b}? can't be told: +0.06" in out
    folder_of_seeds(tmp_path / "c", rates=(0.01, 0.1), data="e" * 64)
    _, out, _ = call(capsys, "compare", a, tmp_path / "c", f"--metric={METRIC}")
    assert f"is {tmp_path / 'c'} better than {a}? not compared: they saw different data" in out


def test_without_pyarrow_there_is_the_csv_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = results.read(root)
    before = [path.read_bytes() for path in results.write(found)]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (path,) = results.write(found)
    assert path.read_bytes() == before[0] and not (root / "results.parquet").exists()
    err = capsys.readouterr().err
    assert "no results.parquet, since pyarrow is not installed" in err and err.count("\n") == 1


def test_compare_without_matching_seeds_is_welch_and_may_not_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = folder_of_seeds(tmp_path / "a", rates=(0.01,))
    for seed, score in ((10, 1.49), (11, 1.53), (12, 1.47)):
        trial(tmp_path / "b", f"s{seed}", {"hyper.lr": 0.02, "run.seed": seed}, score)
    _, out, _ = call(capsys, "compare", a, tmp_path / "b", f"--metric={METRIC}")
    assert "is B better than A? can't be told: -" in out
    assert re.search(r"Welch.*if the difference is as measured, \d+ seeds each tell it", out)


def test_compare_groups_a_folder_by_seeds(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "compare", root, f"--metric={METRIC}", "--json")
    seeds = json.loads(out)["seeds"]
    assert [group["settings"] for group in seeds["groups"]] == [
        {"hyper.lr": 0.01}, {"hyper.lr": 0.001}, {"hyper.lr": 0.1},
    ]  # fmt: skip
    asked = [(row["a"], row["b"], row["answer"]) for row in seeds["answers"]]
    assert asked == [("B", "A", "yes"), ("C", "A", "yes")]
    assert {row["level"] for row in seeds["answers"]} == {0.975}  # two questions share the 5 %
    assert any("chosen by these seeds" in warning for warning in seeds["warnings"])
    # Runs given one by one: in their order.
    runs = sorted(root.glob("lr=0.1,*")) + sorted(root.glob("lr=0.01,*"))
    _, out, _ = call(capsys, "compare", *runs, f"--metric={METRIC}")
    assert "is B better than A? yes" in out and "setting" in out


def test_compare_does_not_compare_what_does_not_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = folder_of_seeds(tmp_path / "a", rates=(0.01,))
    folder_of_seeds(tmp_path / "b", rates=(0.02,), data="e" * 64)
    _, out, _ = call(capsys, "compare", a, tmp_path / "b", f"--metric={METRIC}")
    assert "is B better than A? not compared: they saw different data" in out
    folder_of_seeds(tmp_path / "c", rates=(0.02,), protocol={"number": 10})
    _, out, _ = call(capsys, "compare", a, tmp_path / "c", f"--metric={METRIC}")
    assert "measured under different protocols" in out and "better than" not in out


def test_compare_says_whose_seeds_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = folder_of_seeds(tmp_path / "a", rates=(0.01,))
    b = folder_of_seeds(tmp_path / "b", rates=(0.02,))
    trial(b, "nan", {"hyper.lr": 0.02, "run.seed": 7}, "nan")
    trial(b, "twice", {"hyper.lr": 0.02, "run.seed": 0}, 0.1)
    trial(b, "bad", {"hyper.lr": 0.02, "run.seed": 6}, 0.1, **STOPPED)
    trial(b, "died", {"hyper.lr": 0.02, "run.seed": 8}, 0.1, state="failed", reason="OSError")
    break_status(trial(b, "torn", {"hyper.lr": 0.02, "run.seed": 9}, 0.1))
    code, out, _ = call(capsys, "compare", a, b, f"--metric={METRIC}")
    assert code == 0
    assert f"B: 2 ended without a finite {METRIC}" in out
    assert "B: 1 runs repeat a seed" in out and "not finished: " in out
    assert "torn: status.json can't be read" in out
    assert "paired over 3 seeds" in out


def test_single_runs_have_no_statistics(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = call(capsys, "compare", *sorted(root.glob("*seed=0*")))
    assert "better than" not in out and "interval" not in out


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(UserError):
            results.collect(path)

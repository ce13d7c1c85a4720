"""Run folders read back: status, compare, diff, the HTML report and the picture."""

import argparse
import contextlib
import fcntl
import json
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

import aigc_jax
from aigc_jax.cli import compare as compare_command
from aigc_jax.cli import diff as diff_command
from aigc_jax.cli import report as report_command
from aigc_jax.cli import status as status_command
from aigc_jax.core.units import clock, human
from aigc_jax.errors import StorageError, UserError
from aigc_jax.report.compare import as_text, compare, diff_text, differences
from aigc_jax.report.curve import quantile, smooth, spread, thin, ticks
from aigc_jax.report.folder import Run, find_runs
from aigc_jax.report.html import render, time_shares
from aigc_jax.report.picture import picture
from aigc_jax.report.status import describe, overview
from aigc_jax.report.svg import Line, chart, scale

ROOT = Path(aigc_jax.__file__).resolve().parents[1]
FLOORS = {"uniform": 4.174, "unigram": 3.347, "5-gram": 1.666}
HOSTILE = "<script>alert('x')</script> & \"quoted\" $x_1$"


def make_run(path: Path, *, every: int = 50, steps: int = 2000, **status: Any) -> Path:
    """A run of a language model, as training leaves it."""
    (path / "samples").mkdir(parents=True)
    (path / "checkpoints" / str(steps)).mkdir(parents=True)
    (path / "checkpoints" / f"{steps + 1}.orbax-checkpoint-tmp").mkdir()
    with open(path / "metrics.jsonl", "w") as file:
        for step in range(every, steps + 1, every):
            loss = 1.75 + 2.4 * math.exp(-9 * step / steps)
            row: dict[str, Any] = {"step": step, "wall": step * 0.012, "train/loss": loss}
            row |= {"train/lr": 1e-3 * (1 - step / steps), "train/grad_norm": 0.6 + step % 7 / 10}
            row |= {"train/bad": 0.0, "time/data": 0.001, "time/wait": 0.008, "time/step": 0.01}
            row |= {"speed/tokens_per_s": 64000.0, "train/update/head": 1e-3}
            file.write(json.dumps(row) + "\n")
            if step % (steps // 8) == 0:
                scores = {"validation/loss": loss + 0.06, "validation/accuracy": 1 / loss}
                file.write(json.dumps({"step": step, "wall": step * 0.012, **scores}) + "\n")
    for step in (0, steps // 2, steps):
        (path / "samples" / f"{step}.txt").write_text(f"sample of {step}\n{HOSTILE}\n")
    said = {
        "state": "finished", "reason": "", "step": steps, "steps": steps, "wall": steps * 0.012,
        "updated": datetime.now(UTC).isoformat(), "pid": 1, "host": socket.gethostname(),
        "command": ["/x/bin/aigc", "train", "configs/lm/shakespeare_char.py", "--workdir=my runs"],
        "starts": [{"from step": 0}, {"from step": 812, "after": "died at step 900"}],
    }  # fmt: skip
    files = {
        "status.json": said | status,
        "config.json": {
            "task": {"name": "lm", "model": {"name": "transformer", "layers": 3}},
            "data": {"name": "text"},
            "run": {"steps": steps},
        },
        "env.json": {"python": "3.11", "git": {"commit": "abc", "diff": "-old\n+<new>"}},
        "data.json": {"fingerprint": "f" * 64, "unit": "tokens"},
        "floors.json": {"validation/loss": FLOORS},
    }
    for name, content in files.items():
        (path / name).write_text(json.dumps(content))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(make_run(tmp_path / "first"))


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    with open(path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


# --- reading a folder ------------------------------------------------------------------------


def test_a_half_written_row_is_left_out(run: Run) -> None:
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2050, "train/lo')
    assert run.last("train/loss") == (2000, pytest.approx(1.75, abs=1e-2))
    assert len(run.rows) == 48


def test_final_and_best(run: Run) -> None:
    with open(run.path / "metrics.jsonl", "a") as file:
        for step, loss, accuracy in ((9, "nan", 0.1), (2001, 1.0, 0.9), (2003, 1.5, 0.2)):
            scores = {"validation/loss": loss, "validation/accuracy": accuracy}
            file.write(json.dumps({"step": step, "wall": 0} | scores) + "\n")
    assert run.last("validation/loss") == (2003, 1.5)
    assert run.best("validation/loss") == (2001, 1.0)
    assert run.best("validation/accuracy") == (2001, 0.9)
    assert math.isnan(run.series("validation/loss").values[0])
    assert run.best("nothing") is None


@pytest.mark.parametrize(("said", "best"), [("-validation/x", 3.0), ("validation/x", 1.0)])
def test_the_config_says_which_way_is_better(run: Run, said: str, best: float) -> None:
    run.config["run"]["best"] = said
    with open(run.path / "metrics.jsonl", "w") as file:
        for step, value in ((1, 2.0), (2, 3.0), (3, 1.0)):
            file.write(json.dumps({"step": step, "wall": 0, "validation/x": value}) + "\n")
    assert run.best("validation/x") == ({3.0: 2, 1.0: 3}[best], best)


def test_of_equal_steps_the_later_row_counts(run: Run) -> None:
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1000, "wall": 0, "validation/loss": 7.0}\n')
    steps, values = run.series("validation/loss")
    assert steps == sorted(set(steps))
    assert values[steps.index(1000)] == 7.0


def test_what_is_no_run_folder_is_said_so(tmp_path: Path) -> None:
    make_run(tmp_path / "shakespeare")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"not there.*Did you mean 'shakespeare'\?"):
        Run(tmp_path / "shakespear")
    with pytest.raises(UserError, match=r"neither config\.json nor status\.json"):
        Run(tmp_path / "empty")
    with pytest.raises(UserError, match="a file, not a run folder"):
        Run(tmp_path / "shakespeare" / "config.json")
    (tmp_path / "shakespeare" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json holds no valid JSON"):
        _ = Run(tmp_path / "shakespeare").config


# --- status ----------------------------------------------------------------------------------


def test_state_is_read_from_the_lock_and_not_only_from_the_last_words(tmp_path: Path) -> None:
    run = Run(make_run(tmp_path / "x", state="running"))
    assert run.state == "died"  # as kill -9 leaves it
    (run.path / ".lock").touch()
    assert run.state == "died"
    with held(run.path):
        assert run.state == "running"
    assert run.state == "died"
    elsewhere = Run(make_run(tmp_path / "y", state="running", host="another"))
    assert elsewhere.state == "unknown"
    assert "said to be running on another" in describe(elsewhere)


def test_asking_for_the_status_does_not_take_the_lock(run: Run) -> None:
    (run.path / ".lock").touch()
    assert not run.locked()
    with held(run.path):
        pass


def test_status_says_what_to_type_next(tmp_path: Path) -> None:
    died = describe(Run(make_run(tmp_path / "a b", state="running", step=1200)))
    assert "died without a word" in died
    assert "next     aigc train configs/lm/shakespeare_char.py '--workdir=my runs'" in died
    assert "checkpoint of step 2000" in died
    assert "train/loss 1.75" in died and "tokens_per_s 64k" in died and "(step 2000)" in died
    assert f"aigc report '{tmp_path}/c d'" in describe(Run(make_run(tmp_path / "c d")))
    stopped = make_run(tmp_path / "e", state="stopped", reason="SIGTERM", next="aigc train e.py")
    assert re.search(r"reason +SIGTERM", describe(Run(stopped)))
    assert "next     aigc train e.py" in describe(Run(stopped))
    with held(make_run(tmp_path / "f", state="running")):
        assert f"next     aigc status {tmp_path}/f" in describe(Run(tmp_path / "f"))


def test_a_run_that_writes_its_report_is_not_called_running_in_it(run: Run) -> None:
    with held(run.path):
        assert run.state == "finished"


def test_status_of_a_run_that_wrote_nothing_yet(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert "step     0" in describe(Run(tmp_path))


def test_overview_finds_runs_below_a_folder(tmp_path: Path) -> None:
    for name in ("b", "a", "deep/er/c"):
        make_run(tmp_path / name)
    found = find_runs(tmp_path)
    assert [path.name for path in found] == ["a", "b", "c"]
    lines = overview([Run(path) for path in found]).splitlines()
    assert len(lines) == 5
    assert "2000 of 2000 (100 %)" in lines[2] and "validation/loss 1.81" in lines[2]


# --- compare and diff ------------------------------------------------------------------------


def other_run(path: Path) -> Run:
    made = make_run(path, steps=1000)
    config = json.loads((made / "config.json").read_text())
    config["task"]["model"]["layers"] = 4
    config["run"]["extra"] = [1, 2]
    (made / "config.json").write_text(json.dumps(config))
    (made / "data.json").write_text(json.dumps({"fingerprint": "e" * 64}))
    return Run(made)


def test_compare(run: Run, tmp_path: Path) -> None:
    result = compare([run, other_run(tmp_path / "second")])
    assert result["metrics"] == ["validation/accuracy", "validation/loss", "train/loss"]
    assert result["differences"] == {
        "run.extra": ["–", [1, 2]],
        "run.steps": [2000, 1000],
        "task.model.layers": [3, 4],
    }
    assert result["runs"][1]["metrics"]["validation/loss"]["final_step"] == 1000
    assert result["runs"][0]["wall"] == 24.0
    assert any("different data" in warning for warning in result["warnings"])
    text = as_text(result)
    assert "different data" in text and "task.model.layers" in text
    assert "task.name" not in text  # it does not differ
    json.dumps(result, allow_nan=False)


def test_compare_shows_the_nearest_floor_and_ceiling(run: Run, tmp_path: Path) -> None:
    second = make_run(tmp_path / "second", steps=1000)
    (second / "floors.json").unlink()
    result = compare([run, Run(second)], ["validation/loss"])
    assert result["floors"] == {"validation/loss": [FLOORS, {}]}
    rows = [line.split() for line in as_text(result).splitlines() if "validation/loss" in line]
    assert rows[0][2:7] == ["unigram", "3.3470", "1.8103", "5-gram", "1.6660"]
    assert rows[1][2:5] == ["–", "1.8103", "–"]
    (run.path / "floors.json").unlink()
    text = as_text(compare([Run(run.path), Run(second)], ["validation/loss"]))
    assert "next worse" not in text and "–" not in text


def test_covered_modes_are_better_the_more_there_are(run: Run) -> None:
    assert run.higher_is_better("modes/covered") and run.higher_is_better("modes/found")
    assert not run.higher_is_better("modes/reverse_kl")


def test_compare_does_not_warn_of_equal_data(run: Run, tmp_path: Path) -> None:
    result = compare([run, Run(make_run(tmp_path / "second"))], ["validation/loss"])
    assert result["warnings"] == [] and result["differences"] == {}
    assert result["metrics"] == ["validation/loss"]
    assert "No setting differs." in as_text(result)


def test_compare_refuses(run: Run) -> None:
    with pytest.raises(UserError, match=r"'validation/los'.*Did you mean 'validation/loss'\?"):
        compare([run, run], ["validation/los"])
    with pytest.raises(UserError, match="two runs or more, got 1"):
        compare([run])


def test_differences_of_three(run: Run) -> None:
    found = differences([{"a": 1, "b": (1,)}, {"a": 1, "b": [1]}, {"a": 2, "b": (1,)}])
    assert found == {"a": [1, 1, 2]}


def test_diff_of_recipes_and_runs(tmp_path: Path) -> None:
    recipe = ROOT / "configs/lm/shakespeare_char.py"
    assert diff_text(str(recipe), str(recipe)) == "No setting differs."
    mine = tmp_path / "mine.py"
    mine.write_text(recipe.read_text().replace('"layers": 4', '"layers": 5'))
    found = diff_text(str(recipe), str(mine)).splitlines()[2:]
    assert [line.split() for line in found] == [["task.model.layers", "4", "5"]]
    made = make_run(tmp_path / "run")
    assert "task.model.layers" in diff_text(str(made), str(recipe))
    assert diff_text(str(made), str(made / "config.json")) == "No setting differs."
    with pytest.raises(UserError, match=r"neither.*Did you mean 'mine\.py'\?"):
        diff_text(str(recipe), str(tmp_path / "mine.pi"))


# --- the report ------------------------------------------------------------------------------


def test_report_asks_nothing_of_any_server(run: Run) -> None:
    page = render(run)
    assert not re.search(r"https?:|src=|<link|<script|@import|url\(", page)


def test_report_escapes_what_the_model_wrote(run: Run) -> None:
    page = render(run)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;alert") == 3
    assert "+&lt;new&gt;" in page


def test_report_shows_the_run(run: Run) -> None:
    page = render(run)
    final = run.last("validation/loss")
    assert final is not None and f"{final[1]:.4f}" in page
    for words in (*FLOORS, "nats per token", "Learning rate", "Gradient norm", "tokens/s",
                  "Step 0", "Step 2000", "died at step 900", "aigc train configs/lm"):  # fmt: skip
        assert words in page, words
    assert re.search(r"task\.model\.layers</td>\s*<td[^>]*>3</td>\s*<td[^>]*>4</td>", page)
    for floor in FLOORS:  # on the ruler and in the chart, each drawn wide and narrow
        assert page.count(f">{floor}<") == 4
    assert "f" * 64 in page
    assert ">Bad<" not in page  # 0 throughout


def test_every_drawing_is_well_formed_and_inside_its_frame(run: Run) -> None:
    with open(run.path / "metrics.jsonl", "a") as file:
        for i in range(300):
            norm = -1e6 if i == 200 else 1e6 if i == 100 else 1.0
            file.write(json.dumps({"step": 2001 + i, "wall": 0, "train/grad_norm": norm}) + "\n")
    drawings = re.findall(r"<svg.*?</svg>", render(run), re.DOTALL)
    assert len(drawings) >= 8
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, tree.attrib["viewBox"].split())
        assert "nan" not in drawing
        for line in tree.iter("polyline"):
            for point in line.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width and 0 <= y <= height


@pytest.mark.parametrize("content", ["", '{"step": 5, "wall": 1, "train/loss": "nan"}\n'])
def test_report_of_a_run_with_hardly_a_metric(run: Run, content: str) -> None:
    (run.path / "metrics.jsonl").write_text(content)
    page = render(Run(run.path))
    assert ("No metric has been written yet" in page) == (not content)


def test_report_of_a_run_that_died_at_once(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "failed", "reason": "no <data>"}')
    assert "no &lt;data&gt;" in render(Run(tmp_path))


def test_time_shares_add_up_to_the_whole_step(run: Run) -> None:
    shares = {name: round(percent) for name, percent, _ in time_shares(run)}
    assert shares == {"wait": 80, "data": 10, "other": 10}


def test_a_long_run_is_drawn_thin_and_its_numbers_stay_exact(tmp_path: Path) -> None:
    path = make_run(tmp_path / "long", every=1, steps=100_000)
    lines = (path / "metrics.jsonl").read_text().splitlines()
    spike = json.loads(lines[77_777]) | {"train/grad_norm": 123.456, "train/loss": 0.5}
    (path / "metrics.jsonl").write_text(
        "\n".join([*lines[:77_777], json.dumps(spike), *lines[77_778:]])
    )
    run = Run(path)
    start = time.process_time()
    page = render(run)
    assert time.process_time() - start < 30  # 3 s on an idle machine
    assert len(page) < 600_000
    assert len(run.series("train/loss").steps) == 100_000
    assert run.best("train/loss") == (spike["step"], 0.5)
    assert "Highest value 123.4560" in page


def test_report_needs_no_jax_and_a_typo_no_numpy(run: Run) -> None:
    program = f"""
import sys
from aigc_jax.cli import compare, diff, report, status
from aigc_jax.report import compare, folder, html, picture, status
assert not {{"numpy", "matplotlib", "jinja2", "jax"}} & set(sys.modules)
html.render(folder.Run({str(run.path)!r}))
picture.picture(folder.Run({str(run.path)!r}), {str(run.path / "x.png")!r})
assert "jax" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_picture(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "picture"  # no ending: it is a PNG all the same
    picture(run, out)
    content = out.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(content[16:20]), int.from_bytes(content[20:24])) == (1600, 720)
    for file in (run.path / "samples").iterdir():
        file.unlink()
    picture(Run(run.path), out)
    assert int.from_bytes(out.read_bytes()[16:20]) < 1600
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no metrics to draw"):
        picture(Run(run.path), out)


# --- the commands ----------------------------------------------------------------------------


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for command in (status_command, compare_command, diff_command, report_command):
        command.add(subparsers)
    args = parser.parse_args(words)
    return int(args.run(args))


def test_commands(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "second")
    first, second = str(run.path), str(tmp_path / "second")
    assert call("status", first) == 0
    assert "finished" in capsys.readouterr().out
    assert call("status", str(tmp_path)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert call("compare", str(tmp_path), first, "--json") == 0
    assert [r["name"] for r in json.loads(capsys.readouterr().out)["runs"]] == ["first", "second"]
    assert call("compare", first, second, "--metric", "train/loss") == 0
    assert "train/loss" in capsys.readouterr().out
    assert call("diff", first, second) == 0
    assert capsys.readouterr().out == "No setting differs.\n"
    assert call("report", first, "--picture", str(tmp_path / "p.png")) == 0
    assert capsys.readouterr().out.splitlines() == [f"{first}/report.html", f"{tmp_path}/p.png"]
    assert (run.path / "report.html").read_text().startswith("<!doctype html>")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_report_refuses_a_place_that_is_none(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no place for a file"):
        call("report", str(run.path), "--output", str(tmp_path))
    with pytest.raises(UserError, match="no place for a file"):
        call("report", str(run.path), "--output", str(tmp_path / "no" / "x.html"))
    with pytest.raises(StorageError, match="/proc"):
        call("report", str(run.path), "--output", "/proc/x.html")


# --- curves ----------------------------------------------------------------------------------


def test_thinning_keeps_ends_extremes_and_gaps() -> None:
    xs = list(range(50_000))
    ys = [math.sin(x / 5000) for x in xs]
    ys[12_345], ys[23_456], ys[34_567] = 99.0, -99.0, math.nan
    kept_xs, kept_ys = thin(xs, ys, 100)
    assert len(kept_xs) <= 500 and kept_xs == sorted(set(kept_xs))
    assert (kept_xs[0], kept_xs[-1]) == (0, 49_999)
    assert {12_345, 23_456, 34_567} <= set(kept_xs)
    assert all(ys[x] == y or math.isnan(y) for x, y in zip(kept_xs, kept_ys, strict=True))
    assert thin(xs[:300], ys[:300], 100) == (xs[:300], ys[:300])


def test_smoothing_is_not_late() -> None:
    line = [5.0 - 0.01 * i for i in range(300)]
    assert smooth(line) == pytest.approx(line)
    wave = [x + 0.5 * (-1) ** i for i, x in enumerate(line)]
    assert max(abs(a - b) for a, b in zip(smooth(wave)[20:-20], line[20:-20], strict=True)) < 0.1
    broken = smooth([1.0, math.nan, 3.0, 5.0, 7.0], 0.1)
    assert math.isnan(broken[1]) and broken[2:] == [4.0, 5.0, 7.0]


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 2000, 8) == [0, 250, 500, 750, 1000, 1250, 1500, 1750, 2000]
    assert ticks(1.49, 4.3, 5) == pytest.approx([2, 3, 4])
    assert ticks(-1e-4, 1e-4, 4) == pytest.approx([-1e-4, -5e-5, 0, 5e-5, 1e-4])
    assert ticks(3, 3) == [3]


def test_labels_are_spread() -> None:
    placed = spread([10, 11, 50, 99], 14, 0, 100)
    assert sorted(placed) == placed and placed[2] == 50 and placed[3] == 99
    assert placed[1] - placed[0] >= 14
    crowded = spread([100, 100, 100], 14, 0, 100)
    assert sorted(crowded) == pytest.approx([72, 86, 100])


def test_quantile() -> None:
    assert quantile([5.0, math.nan, 1.0, math.inf, 3.0], 0.5) == 3.0
    assert math.isnan(quantile([math.nan], 0.5))


def test_a_chart_of_an_empty_curve_is_an_empty_frame() -> None:
    tree = ElementTree.fromstring(
        chart([Line([], [], "none yet", "train")], title="t", x_label="x", y_label="y")
    )
    assert not list(tree.iter("polyline"))


def test_a_spike_does_not_flatten_the_curve_and_nan_breaks_it() -> None:
    ys = [1.0 + x % 5 / 10 for x in range(1000)]
    ys[500], ys[700] = 1e6, math.nan
    tree = ElementTree.fromstring(
        chart([Line(range(1000), ys, "", "train")], title="t", x_label="x", y_label="y")
    )
    curves = [line for line in tree.iter("polyline") if "curve" in line.attrib["class"]]
    assert len(curves) == 2
    heights = [float(p.split(",")[1]) for line in curves for p in line.attrib["points"].split()]
    assert max(heights) - sorted(heights)[50] > 80


@pytest.mark.parametrize(("better", "worst"), [("lower", 4.0), ("higher", 1.0)])
def test_the_ruler_starts_from_the_worst_reference(better: str, worst: float) -> None:
    tree = ElementTree.fromstring(
        scale(2.0, {"a": 4.0, "b": 1.0}, name="run", better=better, width=400)
    )
    (gain,) = [line for line in tree.iter("line") if line.attrib["class"] == "gain"]
    (dot,) = tree.iter("circle")
    ends = {gain.attrib["x1"], gain.attrib["x2"]}
    assert dot.attrib["cx"] in ends
    (other,) = ends - {dot.attrib["cx"]}
    assert (float(other) > float(dot.attrib["cx"])) == (worst > 2.0)


def test_units() -> None:
    assert [human(x) for x in (0.25, 12, 999.4, 999.9, 15_230, 152_300, 3.1e6)] == [
        "0.25", "12", "999", "1k", "15.2k", "152k", "3.1M",
    ]  # fmt: skip
    assert [clock(x) for x in (42, 725, 12_010, 184_800, None, math.nan)] == [
        "0:42", "12:05", "3:20:10", "2d 03:20", "?", "?",
    ]  # fmt: skip


def test_scores_stand_between_their_floors_and_pictures_are_in_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "drawn")
    page = render(Run(folder))
    assert "uniform 4.174; unigram 3.347; 5-gram 1.666" in page.replace("4.1740", "4.174").replace(
        "3.3470", "3.347"
    ).replace("1.6660", "1.666")
    assert "data:image/png" not in page
    for step in range(0, 2001, 250):
        Image.new("L", (4, 4), step // 10).save(folder / "samples" / f"{step:08d}-samples.png")
    Image.new("RGB", (4, 4)).save(folder / "samples" / "00002000-two_words.png")
    drawn = Run(folder)
    assert [p.step for p in drawn.pictures["samples"]] == list(range(0, 2001, 250))
    page = render(drawn)
    # Four of nine, the first and the last among them, and the one of the other name.
    assert page.count("data:image/png;base64,") == 5
    assert "Two words" in page and "samples at step 0" in page and "samples at step 2000" in page
    out = tmp_path / "picture.png"
    picture(drawn, out)
    with Image.open(out) as opened:
        assert opened.size == (1600, 720)

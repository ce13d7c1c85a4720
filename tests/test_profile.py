"""Where a step's time goes: the trace of a few steps, the parts of a step, what is told of them."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import process
import pytest
import toy

from aigc_jax.errors import UserError
from aigc_jax.train import profile
from aigc_jax.train.meter import Meter

# An evaluator whose arrays grow, and so compile anew.
GROWING = """
import importlib
import jax, numpy as np
mean = importlib.import_module("aigc_jax.evals.mean")
made = mean.make

@jax.jit
def judge(x):
    return x.mean()

def make(*args, **knobs):
    evaluate = made(*args, **knobs)
    def more(weights, step):
        judge(np.ones(3 + step, np.float32))
        return evaluate(weights, step)
    return more

mean.make = make
"""


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`aigc train --profile=5:7`, in which something is compiled again."""
    home = tmp_path_factory.mktemp("home")
    process.recipe(home, samples=False)
    return home, process.aigc(
        "train", "recipe.py", "--workdir=run", "--profile=5:7", "--config.run.steps=8",
        "--config.run.keep=3",
        folder=home, first=GROWING,
    )  # fmt: skip


def test_train_writes_a_trace(traced: Any) -> None:
    home, run = traced
    assert run.code == 0, run.err
    assert "trace of steps 5:7: xprof run/profile" in run.out
    assert list((home / "run" / "profile").rglob("*.xplane.pb"))


def test_train_tells_of_a_recompile_and_what_has_changed(traced: Any) -> None:
    _, run = traced
    assert "aigc: warning: step 4: judge at" in run.err
    assert "was compiled once more" in run.err
    assert "array 0 is float32[7], before float32[3]" in run.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("7:5", "--profile=7:5: expected FIRST:END"),
        ("5", "--profile=5: expected FIRST:END"),
        ("-1:3", "--profile=-1:3: expected FIRST:END"),
        ("5:5", "--profile=5:5: expected FIRST:END"),
        ("5:90", "the run ends at step 20"),
        ("2:4", "the run goes on from step 8; choose later steps"),
    ],
)
def test_steps_that_cannot_be_traced_are_one_line(tmp_path: Path, words: str, told: str) -> None:
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        profile.parse(words, tmp_path, 20)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trace_changes_no_bit_and_holds_just_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    traced = toy.loop(tmp_path / "a", eval_every=6, save_every=6, log_every=1,
                      more={"profile": profile.Trace(tmp_path / "p", 3, 8)})  # fmt: skip
    advance = traced._advance

    def watched(n: int) -> None:
        calls.append((traced.step, n))
        advance(n)

    traced._advance = watched  # type: ignore[method-assign]
    state = traced.run().state
    # `_advance` itself begins and ends the trace.
    inside = calls[calls.index("start") - 1 : calls.index("stop")]
    steps = [call[0] + i for call in inside if call != "start" for i in range(call[1])]
    assert steps == [3, 4, 5, 6, 7]
    plain = toy.loop(tmp_path / "b", eval_every=6, save_every=6, log_every=1).run().state
    for name, leaf in toy.leaves(plain).items():
        np.testing.assert_array_equal(toy.leaves(state)[name], leaf)


def test_a_dispatch_ends_where_the_trace_does() -> None:
    trace = profile.Trace(Path("unused"), 10, 13)
    assert [trace.cut(step, 8) for step in (0, 5, 10, 12, 13)] == [8, 5, 3, 1, 8]
    assert profile.Trace().cut(5, 8) == 8


def test_an_error_ends_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))

    def batch_at(step: int) -> Any:
        if step == 5:
            raise RuntimeError("the data are gone")
        return toy.batch(step)

    run = toy.loop(tmp_path / "run", batch_at=batch_at,
                   more={"profile": profile.Trace(tmp_path / "p", 3, 8)})  # fmt: skip
    with pytest.raises(RuntimeError, match="gone"):
        run.run()
    assert calls == ["start", "stop"]


# --- the parts of a step ----------------------------------------------------------------------


def test_the_parts_of_a_step_stand_in_the_metrics(tmp_path: Path) -> None:
    def evaluate(weights: Any, step: int) -> dict[str, float]:
        time.sleep(0.1)
        return {"validation/loss": 1.0}

    toy.loop(tmp_path, steps=8, eval_every=4, save_every=4, evaluators={"v": evaluate}).run()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "time/step" in row]
    parts = {"data", "dispatch", "wait", "evaluation", "save", "step"}
    for row in rows:
        assert {name for name in row if name.startswith("time/")} == {f"time/{p}" for p in parts}
        # One evaluation lies before each row, and no step has its time.
        assert 4 * row["time/evaluation"] >= 0.1
    assert rows[0]["time/save"] == 0 < rows[1]["time/save"]


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("data", "wait", "windows", "warned"),
    [
        (0.5, 0.0, 2, True),
        (0.5, 0.0, 1, False),  # the first window, in which all begins
        (0.2, 0.0, 2, False),
        (0.6, 0.4, 2, False),  # made while the devices worked
        (0.0005, 0.0, 2, False),  # tiny steps
    ],
)
def test_a_slow_pipeline_is_named_once(
    monkeypatch: pytest.MonkeyPatch, data: float, wait: float, windows: int, warned: bool
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    said: list[str] = []
    meter = Meter(said.append)
    total = 1e-3 if data < 1e-2 else 1.0
    for _ in range(windows + 2 * warned):
        for _ in range(10):
            with meter.timed("data"):
                clock.now += data
            with meter.timed("wait"):
                clock.now += wait
            clock.now += total - data - wait
            meter.done(1)
        meter.speeds("examples", 0, None)
        meter.clear()
    assert len(said) == warned
    if warned:
        assert said[0].startswith("slow data: 50 % of the time of the last 10 steps")
        assert "2 a second" in said[0]
        assert "\n" not in said[0]


def test_a_run_that_waits_for_its_data_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(step: int) -> Any:
        time.sleep(0.3)
        return toy.batch(step)

    toy.loop(tmp_path, steps=9, log_every=4, batch_at=slow).run()
    assert capsys.readouterr().err.count("aigc: warning: slow data:") == 1

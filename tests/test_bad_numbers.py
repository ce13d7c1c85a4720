import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from aigc_jax.core import tree
from aigc_jax.train import guard
from aigc_jax.train.guard import BadNumbers
from aigc_jax.train.loop import Loop
from aigc_jax.train.signals import Signals

NAN = float("nan")


def poisoned(*steps: int, factor: float = NAN) -> Any:
    """Data whose targets at `steps` are multiplied by `factor`."""
    return lambda step: toy.batch(step, poison=dict.fromkeys(steps, factor))


def reports(folder: Path) -> dict[str, dict[str, Any]]:
    return {p.parent.name: json.loads(p.read_text()) for p in folder.glob("bad/*/report.json")}


# --- stop ------------------------------------------------------------------------------------


def test_stop_names_the_tensor_dumps_the_batch_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    run = toy.loop(tmp_path, batch_at=poisoned(6), save_every=4, steps_per_call=1)
    with pytest.raises(BadNumbers, match=r"step 6: loss nan.*y in the batch") as caught:
        run.run()
    assert "--config.run.on_bad=skip" in str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    dumped = np.load(tmp_path / "bad" / "6" / "batch.npz")
    np.testing.assert_array_equal(dumped["x"], toy.batch(6)["x"])
    assert np.isnan(dumped["y"]).all()
    report = reports(tmp_path)["6"]
    assert (report["first_nonfinite"], report["in"], report["batch"]) == ("y", "batch", 6)
    found = toy.status(tmp_path)
    assert found["state"] == "failed"
    assert "step 6" in found["reason"]
    # The same command with clean data goes on from the last checkpoint.
    whole = toy.loop(tmp_path / "whole", save_every=4, steps_per_call=1).run()
    done = toy.loop(tmp_path, save_every=4, steps_per_call=1).run()
    toy.same(whole.state, done.state)
    assert toy.rows(tmp_path) == toy.rows(tmp_path / "whole")


def test_stop_traces_a_nan_that_the_model_makes_to_its_line(tmp_path: Path) -> None:
    """The batch is fine; the square root of a negative number inside the loss is not."""
    plain = toy.task()

    def step(state: Any, batch: Any) -> Any:
        state, metrics = plain.step(state, batch)
        below = jnp.where(state.step == 4, -1.0, 1.0)
        first = state.params["model"]["first"]
        broken = {**first, "kernel": first["kernel"] * jnp.sqrt(below)}
        total = metrics["loss"][0] * jnp.sqrt(below)
        state = state.replace(params={"model": {**state.params["model"], "first": broken}})
        return state, {**metrics, "loss": (total, metrics["loss"][1])}

    run = toy.loop(tmp_path, of=plain._replace(step=step), steps_per_call=2, log_every=2)
    with pytest.raises(BadNumbers, match="params/model/first/kernel in the state after the step"):
        run.run()
    report = reports(tmp_path)["3"]
    assert report["first_nonfinite"] == "params/model/first/kernel"
    assert "test_bad_numbers.py" in report["made_by"]
    assert "sqrt(below)" in report["made_by"]


def test_the_message_gives_the_mean_not_the_sum(tmp_path: Path) -> None:
    run = toy.loop(tmp_path, batch_at=poisoned(3, factor=1e30), steps_per_call=1)
    with pytest.raises(BadNumbers) as caught:
        run.run()
    assert "loss inf" in str(caught.value)
    metrics = reports(tmp_path)["3"]["metrics"]
    assert metrics["lr"] == pytest.approx(0.05, rel=1)


def test_an_update_that_is_not_finite_is_bad_though_the_loss_is(tmp_path: Path) -> None:
    """Otherwise the next checkpoint holds it, and there is no way back."""
    plain = toy.task()

    def step(state: Any, batch: Any) -> Any:
        state, metrics = plain.step(state, batch)
        size = jnp.where(state.step == 3, jnp.inf, 1.0)
        return state, {**metrics, "update/vectors": (size, jnp.float32(1))}

    run = toy.loop(tmp_path, of=plain._replace(step=step), save_every=1, steps_per_call=1)
    with pytest.raises(BadNumbers, match="step 2"):
        run.run()
    assert max(run.checkpoints.steps()) == 2


# --- skip ------------------------------------------------------------------------------------


def test_skip_leaves_the_state_as_it_was_but_for_the_count(tmp_path: Path) -> None:
    step = jax.jit(guard.guarded_step(toy.task().step, policy="skip", spike=0.0))
    hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}
    state = guard.guarded_init(toy.task().init)(jax.random.key(0), hyper)
    for i in range(3):
        state, metrics = step(state, toy.batch(i))
        assert float(metrics["bad"][0]) == 0.0
    after, metrics = step(state, poisoned(3)(3))
    assert float(metrics["bad"][0]) == 1.0
    before, now = toy.leaves(state), toy.leaves(after)
    assert [n for n in before if before[n].tobytes() != now[n].tobytes()] == ["step"]
    assert int(after.step) == 4


def test_skip_finishes_and_equals_a_run_whose_bad_steps_do_nothing(tmp_path: Path) -> None:
    done = toy.loop(
        tmp_path / "a", batch_at=poisoned(3, 4, 9), on_bad="skip", log_every=4, save_every=6
    ).run()
    assert done.kind == "finished"
    task = toy.task()
    step, fresh = jax.jit(task.step), guard.guarded_init(task.init)
    state = fresh(jax.random.key(0), {n: np.float32(v) for n, v in toy.HYPER.items()})
    losses = {}
    for i in range(12):
        if i in (3, 4, 9):
            state = state.replace(step=state.step + 1)
            continue
        state, metrics = step(state, toy.batch(i))
        losses[i] = float(metrics["loss"][0]) / 8
    expected, found = toy.leaves(state), toy.leaves(done.state)
    for name in expected:
        if not name.startswith("vars/guard"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6)
    rows = toy.rows(tmp_path / "a")
    windows = [(0, 1, 2), (5, 6, 7), (8, 10, 11)]
    for row, window in zip(rows, windows, strict=True):
        assert row["train/loss"] == pytest.approx(np.mean([losses[i] for i in window]), rel=1e-5)
    assert [row["train/bad_total"] for row in rows] == [1.0, 2.0, 3.0]
    assert sorted(reports(tmp_path / "a")) == ["3", "4", "9"]
    assert float(found["vars/guard/count"]) == 9.0


def test_skip_counts_over_a_resume_and_stops_after_max_bad(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"on_bad": "skip", "save_every": 6, "steps_per_call": 1}
    toy.loop(tmp_path, batch_at=poisoned(2, 7), steps=6, **knobs).run()
    run = toy.loop(tmp_path, batch_at=poisoned(2, 7), max_bad=1, **knobs)
    with pytest.raises(BadNumbers, match=r"step 7.*2 in all.*on_bad=rollback"):
        run.run()
    more = toy.loop(tmp_path, batch_at=poisoned(2, 7), max_bad=2, **knobs).run()
    assert more.kind == "finished"
    assert toy.rows(tmp_path)[-1]["train/bad_total"] == 2.0


def test_a_window_of_bad_steps_alone_gives_a_row_without_made_up_numbers(tmp_path: Path) -> None:
    def finish(means: dict[str, float]) -> dict[str, float]:
        return {**means, "perplexity": float(np.exp(means.get("loss", 0.0)))}

    task = toy.task()._replace(finish=finish)
    toy.loop(tmp_path, of=task, batch_at=poisoned(4, 5), on_bad="skip", log_every=2, steps=8).run()
    row = next(row for row in toy.rows(tmp_path) if row["step"] == 6)
    assert set(row) == {"step", "train/bad_total"}


# --- rollback --------------------------------------------------------------------------------


def renumbered(*skipped: int) -> Any:
    """The clean data with some batches left out."""
    rest = [i for i in range(100) if i not in skipped]
    return lambda step: toy.batch(rest[step])


def test_rollback_goes_on_behind_the_bad_batch(tmp_path: Path) -> None:
    """From the checkpoint at 4, with the batches 7, 8, ...; so batches 4 to 6 are passed over."""
    knobs: dict[str, Any] = {"save_every": 4, "log_every": 2, "eval_every": 4}
    calls: list[int] = []

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        calls.append(step)
        return {"validation/loss": float(np.sum(weights.params["model"]["first"]["kernel"]))}

    run = toy.loop(
        tmp_path / "a", batch_at=poisoned(6), on_bad="rollback", evaluators={"v": evaluate}, **knobs
    )
    run._born -= 1000.0
    done = run.run()
    assert done.kind == "finished"
    assert calls == [0, 4, 8, 12]
    assert 1000 < run.wall < 1500, "the clock counted the time before the checkpoint twice"
    clean = toy.loop(
        tmp_path / "b", batch_at=renumbered(4, 5, 6), on_bad="rollback",
        evaluators={"v": evaluate}, **knobs,
    ).run()  # fmt: skip
    toy.same(done.state, clean.state)
    rows = toy.rows(tmp_path / "a")
    totals = [(row["step"], row.pop("train/bad_total", 0.0)) for row in rows]
    assert rows == toy.rows(tmp_path / "b")
    assert [total for step, total in totals if step > 4 and total] == [1.0] * 4
    assert list(reports(tmp_path / "a")) == ["6"]


def test_a_resume_after_a_rollback_keeps_the_shift_and_the_count(tmp_path: Path) -> None:
    seen: list[int] = []
    signals = Signals()

    def batch_at(index: int) -> dict[str, np.ndarray]:
        seen.append(index)
        if index == 12:
            signals.asked = "SIGTERM"
        return poisoned(6)(index)

    knobs: dict[str, Any] = {"on_bad": "rollback", "save_every": 4, "steps_per_call": 1}
    whole = toy.loop(tmp_path / "a", batch_at=poisoned(6), **knobs).run()
    first = toy.loop(tmp_path / "b", batch_at=batch_at, more={"signals": signals}, **knobs).run()
    assert (first.kind, int(first.state.step)) == ("stopped", 10)
    seen.clear()
    done = toy.loop(tmp_path / "b", batch_at=batch_at, **knobs).run()
    assert seen[0] == 13
    assert max(seen) == 14
    toy.same(whole.state, done.state)
    assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")
    assert toy.rows(tmp_path / "b")[-1]["train/bad_total"] == 1.0


def test_rollback_without_a_checkpoint_begins_anew_behind_the_batch(tmp_path: Path) -> None:
    done = toy.loop(tmp_path / "a", batch_at=poisoned(2), on_bad="rollback", log_every=2).run()
    clean = toy.loop(tmp_path / "b", batch_at=renumbered(0, 1, 2), on_bad="rollback", log_every=2)
    toy.same(done.state, clean.run().state)


def test_rollback_stops_after_max_bad_with_a_dump_of_each(tmp_path: Path) -> None:
    run = toy.loop(
        tmp_path, batch_at=poisoned(5, 7, 8), on_bad="rollback", max_bad=2, save_every=4,
        steps_per_call=1,
    )  # fmt: skip
    with pytest.raises(BadNumbers, match=r"3 in all.*on_bad=skip"):
        run.run()
    # 5 is bad at step 5, 7 (after 6) at step 5, and 8 at step 4.
    assert sorted(reports(tmp_path)) == ["4-batch-8", "5", "5-batch-7"]
    assert max(run.checkpoints.steps()) == 4


# --- spikes ----------------------------------------------------------------------------------


def bad_marks(losses: list[float], *, spike: float) -> list[int]:
    """Feeds losses to the guard and returns which of them it calls bad."""

    def step(state: Any, batch: Any) -> Any:
        return state.replace(step=state.step + 1), {"loss": (batch, jnp.float32(1))}

    hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}
    state = guard.guarded_init(toy.task().init)(jax.random.key(0), hyper)
    wrapped = guard.guarded_step(step, policy="skip", spike=spike)
    _, metrics = jax.lax.scan(wrapped, state, jnp.asarray(losses, jnp.float32))
    return np.flatnonzero(np.asarray(metrics["bad"][0])).tolist()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_a_spike_is_so_many_deviations_above_the_running_mean(scale: float) -> None:
    """Also where the loss varies by a thousandth of itself, as late in a run."""
    draw = np.random.default_rng(0).normal(size=400)
    losses = 3.0 + 0.1 * scale * draw
    losses[50] += 10 * scale  # too early to tell
    quiet = losses.copy()
    quiet[50] = 3.0
    assert bad_marks(list(quiet), spike=6.0) == []
    quiet[250] = 3.0 + 0.1 * scale * 8
    quiet[300] = 3.0 + 0.1 * scale * 4.5
    quiet[350] = 3.0 - 100 * 0.1 * scale  # far below is no spike
    assert bad_marks(list(quiet), spike=6.0) == [250]
    assert bad_marks(list(quiet), spike=0.0) == []
    assert bad_marks(list(losses), spike=6.0) == []


def test_a_constant_loss_has_no_spikes_by_rounding() -> None:
    losses = [2.5] * 200 + [2.5 * (1 + 1e-6)] * 100
    assert bad_marks(losses, spike=3.0) == []


def test_a_run_rolls_back_behind_a_spike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_WARM", 10.0)
    done = toy.loop(
        tmp_path / "a", batch_at=poisoned(25, factor=1e3), on_bad="rollback", spike=8.0, steps=40,
        save_every=10, log_every=0, hyper={**toy.HYPER, "lr": 0.01},
    ).run()  # fmt: skip
    assert done.kind == "finished"
    assert list(reports(tmp_path / "a")) == ["25"]
    assert reports(tmp_path / "a")["25"]["first_nonfinite"] is None
    assert tree.first_nonfinite(toy.leaves(done.state)) is None


def test_the_guard_is_part_of_the_state(tmp_path: Path) -> None:
    run: Loop = toy.loop(tmp_path, steps=3)
    state = run.run().state
    assert set(state.vars["guard"]) == {"mean", "variance", "count"}
    assert float(state.vars["guard"]["count"]) == 3.0

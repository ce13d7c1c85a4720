import gc
import json
import os
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import toy

from aigc_jax.core import tree
from aigc_jax.data.prefetch import Prefetcher
from aigc_jax.errors import UserError
from aigc_jax.train import evaluation, loop, program, sharding
from aigc_jax.train.checkpoint import Checkpoints
from aigc_jax.train.signals import Interrupted, Signals


def counting(calls: list[Any], signals: Signals | None = None, stop_at: int | None = None) -> Any:
    """An evaluator that notes its steps, and at `stop_at` behaves as a signal makes it behave."""

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        if step == stop_at and signals is not None:
            signals.asked = "SIGTERM"
            signals.raise_if_asked()
        calls.append(step)
        kernel = np.asarray(weights.params["model"]["first"]["kernel"], np.float64)
        return {"validation/loss": float(kernel.sum())}

    return {"validation": evaluate}


def steps_with(rows: list[dict[str, Any]], name: str) -> list[int]:
    return [row["step"] for row in rows if name in row]


# --- one program for any number of steps -----------------------------------------------------


def test_the_bits_of_a_step_do_not_depend_on_how_many_one_dispatch_takes() -> None:
    placement, task = sharding.make(), toy.task()
    step = loop.guard.guarded_step(task.step, policy="skip", spike=6.0)
    init = loop.guard.guarded_init(task.init)
    hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}

    def state() -> Any:
        return sharding.create(placement, init, jax.random.key(3), hyper)

    shapes = program.global_batch(toy.batch(0), placement)
    built = program.build(step, jax.eval_shape(state), shapes, placement, 8)
    whole, metrics = built.run(
        state(), program.stack([toy.batch(i) for i in range(8)], 8, placement), np.int32(8)
    )
    losses, single = [], state()
    for parts in ([0], [1], [2], [3], [4], [5], [6], [7]):
        batches = program.stack([toy.batch(i) for i in parts], 8, placement)
        single, one = built.run(single, batches, np.int32(1))
        losses.append(np.asarray(one["loss"][0])[0])
    toy.same(whole, single)
    assert np.asarray(metrics["loss"][0]).tobytes() == np.asarray(losses).tobytes()
    uneven = state()
    for parts in ([0, 1, 2], [3], [4, 5, 6, 7]):
        batches = program.stack([toy.batch(i) for i in parts], 8, placement)
        uneven, _ = built.run(uneven, batches, np.int32(len(parts)))
    toy.same(whole, uneven)
    assert int(whole.step) == 8


def test_capacity_is_as_set_or_as_many_as_small_batches_allow() -> None:
    array = np.zeros((1 << 20,), np.float32)
    assert program.capacity(5, {"x": array}) == 5
    assert program.capacity(0, {"x": array}) == 8
    assert program.capacity(0, {"x": array[:4]}) == 64
    assert program.capacity(0, {"x": np.zeros(1 << 25, np.float32)}) == 1


# --- rows ------------------------------------------------------------------------------------


def expected_losses(steps: int) -> list[float]:
    """The loss of each step, by an independent loop without a program, a meter or a log."""
    task = toy.task()
    hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}
    state = task.init(jax.random.key(0), hyper)
    step = jax.jit(task.step)
    found = []
    for i in range(steps):
        state, metrics = step(state, toy.batch(i))
        total, weight = metrics["loss"]
        found.append(float(total) / float(weight))
    return found


def test_rows_stand_at_their_steps_and_hold_the_means_since_the_row_before(tmp_path: Path) -> None:
    done = toy.loop(tmp_path, steps=10, log_every=4, steps_per_call=4).run()
    losses = expected_losses(10)
    rows = toy.rows(tmp_path)
    assert [row["step"] for row in rows] == [4, 8, 10]
    for row, window in zip(rows, (losses[:4], losses[4:8], losses[8:]), strict=True):
        assert row["train/loss"] == pytest.approx(np.mean(window), rel=1e-5)
    assert done.kind == "finished"
    assert int(done.state.step) == 10


@pytest.mark.parametrize("per_call", [1, 3, 0])
def test_rows_and_state_do_not_depend_on_steps_per_call(tmp_path: Path, per_call: int) -> None:
    reference = toy.loop(tmp_path / "a", steps=10, log_every=3, steps_per_call=10).run()
    done = toy.loop(tmp_path / "b", steps=10, log_every=3, steps_per_call=per_call).run()
    a, b = toy.leaves(reference.state), toy.leaves(done.state)
    for name in a:
        if per_call == 1:  # another program: XLA may fuse it differently
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-6, err_msg=name)
        else:
            assert a[name].tobytes() == b[name].tobytes(), name
    if per_call != 1:
        assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")


def test_the_sums_between_two_rows_survive_a_checkpoint(tmp_path: Path) -> None:
    """A row at 8 must count the steps 5 and 6, which were taken before the kill at 6."""
    toy.loop(tmp_path / "whole", steps=12, log_every=4, save_every=6, steps_per_call=1).run()
    resumed = stopped_at(tmp_path / "cut", 5, steps=12, log_every=4, save_every=6)
    assert resumed.kind == "finished"
    assert toy.rows(tmp_path / "cut") == toy.rows(tmp_path / "whole")
    assert len(toy.rows(tmp_path / "cut")) == 3


def stopped_at(folder: Path, at: int, **settings: Any) -> loop.Outcome:
    """Runs up to a signal that comes with the data of step `at`, then starts again."""
    signals = Signals()

    def batch_at(step: int) -> dict[str, np.ndarray]:
        if step == at:
            signals.asked = "SIGTERM"
        return toy.batch(step)

    settings["steps_per_call"] = 1  # so that the stop is at `at` + 1
    first = toy.loop(folder, batch_at=batch_at, more={"signals": signals}, **settings)
    assert first.run().kind == "stopped"
    assert toy.status(folder)["state"] == "stopped"
    return toy.loop(folder, **settings).run()


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_stop_anywhere_leaves_no_trace(tmp_path: Path, at: int) -> None:
    knobs: dict[str, Any] = {"steps": 12, "log_every": 4, "eval_every": 3, "save_every": 6}
    calls: list[Any] = []
    whole = toy.loop(tmp_path / "a", evaluators=counting(calls), steps_per_call=1, **knobs).run()
    resumed = stopped_at(tmp_path / "b", at, evaluators=counting([]), **knobs)
    toy.same(whole.state, resumed.state)
    assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")
    assert calls == [0, 3, 6, 9, 12]
    assert [start["from step"] for start in toy.status(tmp_path / "b")["starts"]] == [0, at + 1]


def test_the_clock_goes_on_and_is_not_counted_twice(tmp_path: Path) -> None:
    first = toy.loop(tmp_path, steps=4)
    first._born -= 1000.0  # as if it had taken so long
    first.run()
    again = toy.loop(tmp_path, steps=4)
    again.run()
    assert 1000 < again.wall < 1300
    assert 1000 < toy.status(tmp_path)["wall"] < 1300


# --- order at a boundary ---------------------------------------------------------------------


def test_first_evaluate_then_save_and_only_then_draw_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, int]] = []
    save = Checkpoints.save

    def saving(self: Any, state: Any, notes: Any, metrics: Any) -> None:
        assert notes["evaluated"] == int(state.step)
        order.append(("save", int(state.step)))
        save(self, state, notes, metrics)

    def batch_at(step: int) -> dict[str, np.ndarray]:
        order.append(("draw", step))
        return toy.batch(step)

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        order.append(("evaluate", step))
        return {"validation/loss": 1.0}

    monkeypatch.setattr(Checkpoints, "save", saving)
    toy.loop(
        tmp_path, batch_at=batch_at, evaluators={"v": evaluate}, steps=4, eval_every=2,
        save_every=2, steps_per_call=1,
    ).run()  # fmt: skip
    # The first draw is for the shapes.
    assert order == [
        ("draw", 0), ("evaluate", 0), ("draw", 0), ("draw", 1), ("evaluate", 2), ("save", 2),
        ("draw", 2), ("draw", 3), ("evaluate", 4), ("save", 4),
    ]  # fmt: skip


def test_the_evaluation_at_the_restored_step_is_there_exactly_once(tmp_path: Path) -> None:
    calls: list[Any] = []
    knobs: dict[str, Any] = {"steps": 8, "eval_every": 4, "save_every": 4, "steps_per_call": 1}
    stopped_at(tmp_path, 4, evaluators=counting(calls), **knobs)
    assert calls == [0, 4, 8]
    assert steps_with(toy.rows(tmp_path), "validation/loss") == [0, 4, 8]


@pytest.mark.parametrize("at", [0, 4, 8])
def test_an_interrupted_evaluation_is_done_again(tmp_path: Path, at: int) -> None:
    knobs: dict[str, Any] = {"steps": 8, "eval_every": 4, "save_every": 4}
    whole = toy.loop(tmp_path / "a", evaluators=counting([]), **knobs).run()
    signals, calls = Signals(), []
    evaluators = counting(calls, signals, stop_at=at)
    first = toy.loop(
        tmp_path / "b", evaluators=evaluators, more={"signals": signals}, **knobs
    ).run()
    assert (first.kind, first.reason, int(first.state.step)) == ("stopped", "SIGTERM", at)
    done = toy.loop(tmp_path / "b", evaluators=counting(calls), **knobs).run()
    assert done.kind == "finished"
    assert calls == [0, 4, 8]
    toy.same(whole.state, done.state)
    assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")


def test_an_evaluator_that_refuses_costs_no_step(tmp_path: Path) -> None:
    knobs: dict[str, Any] = {"steps": 8, "eval_every": 8, "save_every": 0}
    whole = toy.loop(tmp_path / "a", evaluators=counting([]), **knobs).run()
    inner = counting([])["validation"]

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        if step:
            raise UserError("two samples are too few")
        return inner(weights, step)

    with pytest.raises(UserError, match="too few"):
        toy.loop(tmp_path / "b", evaluators={"v": evaluate}, **knobs).run()
    calls: list[Any] = []
    done = toy.loop(tmp_path / "b", evaluators=counting(calls), **knobs).run()
    assert calls == [8], "no step was taken again"
    toy.same(whole.state, done.state)
    assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")


def test_a_stop_right_after_the_first_evaluation_keeps_its_row(tmp_path: Path) -> None:
    signals, calls = Signals(), []
    inner = counting(calls)["validation"]

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        found = inner(weights, step)
        signals.asked = "SIGTERM"
        return found

    first = toy.loop(tmp_path, evaluators={"v": evaluate}, more={"signals": signals}, eval_every=6)
    assert int(first.run().state.step) == 0
    toy.loop(tmp_path, evaluators=counting(calls), eval_every=6).run()
    assert calls == [0, 6, 12]
    assert steps_with(toy.rows(tmp_path), "validation/loss") == [0, 6, 12]


def test_a_signal_before_anything_is_compiled_stops_at_step_0_without_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signals = Signals()
    signals.asked = "SIGINT"
    monkeypatch.setattr(program, "build", lambda *_: pytest.fail("compiled"))
    done = toy.loop(tmp_path, more={"signals": signals}, eval_every=3).run()
    assert (done.kind, done.reason, int(done.state.step)) == ("stopped", "SIGINT", 0)
    assert (tmp_path / "checkpoints" / "0").is_dir()


# --- nothing is due, or everything is done ---------------------------------------------------


def test_with_every_interval_zero_only_the_end_is_logged_evaluated_and_saved(
    tmp_path: Path,
) -> None:
    calls: list[Any] = []
    knobs = {"log_every": 0, "eval_every": 0, "save_every": 0}
    done = toy.loop(tmp_path, evaluators=counting(calls), steps=7, **knobs).run()
    assert calls == [7]
    rows = toy.rows(tmp_path)
    assert steps_with(rows, "train/loss") == [7]
    assert rows[0]["train/loss"] == pytest.approx(np.mean(expected_losses(7)), rel=1e-5)
    assert [p.name for p in (tmp_path / "checkpoints").glob("[0-9]*")] == ["7"]
    assert done.last["validation/loss"] == rows[-1]["validation/loss"]


def test_a_run_that_is_done_finishes_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    first = toy.loop(tmp_path, evaluators=counting(calls), steps=6).run()
    rows = toy.rows(tmp_path)
    monkeypatch.setattr(program, "build", lambda *_: pytest.fail("compiled"))
    again = toy.loop(tmp_path, evaluators=counting(calls), steps=6).run()
    assert again.kind == "finished"
    assert calls == [6]
    assert toy.rows(tmp_path) == rows
    toy.same(first.state, again.state)
    fewer = toy.loop(tmp_path, evaluators=counting(calls), steps=3).run()  # fewer than were done
    assert (fewer.kind, int(fewer.state.step)) == ("finished", 6)


def test_more_steps_go_on_where_the_run_had_ended(tmp_path: Path) -> None:
    task = toy.task()
    whole = toy.loop(tmp_path / "a", of=task, steps=12, log_every=3).run()
    toy.loop(tmp_path / "b", of=task, steps=6, log_every=3).run()
    more = toy.loop(tmp_path / "b", of=task, steps=12, log_every=3).run()
    toy.same(whole.state, more.state)
    assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")


def test_the_status_says_how_a_run_ended(tmp_path: Path) -> None:
    toy.loop(tmp_path, steps=4).run()
    found = toy.status(tmp_path)
    assert (found["state"], found["step"], found["next"]) == ("finished", 4, "")

    def broken(step: int) -> dict[str, np.ndarray]:
        if step >= 6:
            raise OSError("the data are gone\nand more")
        return toy.batch(step)

    with pytest.raises(OSError, match="are gone"):
        toy.loop(tmp_path, steps=8, batch_at=broken, more={"command": "aigc train x"}).run()
    found = toy.status(tmp_path)
    assert (found["state"], found["reason"], found["next"]) == (
        "failed", "the data are gone", "aigc train x",
    )  # fmt: skip
    assert [s["from step"] for s in found["starts"]] == [0, 4]


# --- hyper and weights from elsewhere --------------------------------------------------------


def test_a_changed_number_takes_effect_on_resume_and_the_others_stay(tmp_path: Path) -> None:
    task = toy.task()
    toy.loop(tmp_path / "a", of=task, steps=4).run()
    hyper = {**toy.HYPER, "lr": 0.0}
    frozen = toy.loop(
        tmp_path / "a", of=task, steps=8, hyper=hyper, more={"changed_hyper": ("lr",)}
    ).run()
    found = toy.leaves(frozen.state)
    assert found["hyper/lr"] == 0.0
    assert found["hyper/ema_decay"] == np.float32(0.9)
    toy.loop(tmp_path / "b", of=task, steps=4).run()
    before = toy.leaves(toy.loop(tmp_path / "b", of=task, steps=4).run().state)
    name = "params/model/first/kernel"
    assert found[name].tobytes() == before[name].tobytes()
    plain = toy.leaves(toy.loop(tmp_path / "b", of=task, steps=8).run().state)
    assert found[name].tobytes() != plain[name].tobytes()


def test_a_start_that_fails_before_its_first_step_is_not_announced(tmp_path: Path) -> None:
    opened: list[int] = []

    def uneven(step: int) -> dict[str, np.ndarray]:
        return {"x": np.zeros((8, 3), np.float32), "y": np.zeros((8,), np.float32)}

    with pytest.raises((TypeError, UserError)):
        toy.loop(tmp_path, batch_at=uneven, more={"opened": lambda: opened.append(1)}).run()
    assert opened == []
    toy.loop(tmp_path, steps=2, more={"opened": lambda: opened.append(2)}).run()
    assert opened == [2]


def test_a_misspelt_best_is_told_before_any_work(tmp_path: Path) -> None:
    run = toy.loop(tmp_path, evaluators=counting([]), eval_every=4, best="validation/los")
    with pytest.raises(UserError, match=r"validation/los'.*Did you mean 'validation/loss'"):
        run.run()


# --- no growth, no compiling again -----------------------------------------------------------


def eval_context(calls: list[Any], sample: Any = None) -> evaluation.Context:
    task = toy.task()

    def traced(weights: Any, batch: Any, key: jax.Array) -> Any:
        calls.append("trace")
        return task.eval(weights, batch, key)

    class Data:
        tokenizer = None
        fingerprint = "toy"

    return evaluation.context(
        task._replace(eval=traced, sample=sample),
        Data(),
        sharding.make(),
        Signals(),
    )


def test_nothing_is_traced_again_after_the_first_evaluation(tmp_path: Path) -> None:
    traces: list[Any] = []
    context = eval_context(traces)

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        _, metrics = context.eval_batches(weights, lambda i, shard: toy.batch(step), 0, 1)
        total, weight = metrics["loss"]
        return {"validation/loss": float(total[0]) / float(weight[0])}

    steps_traced: list[int] = []
    task = toy.task()

    def step(state: Any, batch: Any) -> Any:
        steps_traced.append(1)
        return task.step(state, batch)

    run = toy.loop(tmp_path, of=task._replace(step=step), evaluators={"v": evaluate}, steps=9,
                   eval_every=3, save_every=3, log_every=2)  # fmt: skip
    seen: list[int] = []
    advance = run._advance

    def watched(n: int) -> None:
        advance(n)
        seen.append(len(steps_traced))

    run._advance = watched  # type: ignore[method-assign]
    with jax.log_compiles(False):
        run.run()
    assert traces == ["trace"]
    assert len(set(seen)) == 1, "the step was traced again while the run went on"


def test_a_signal_gives_up_an_evaluation_between_two_batches_and_sampling_before_it() -> None:
    calls: list[Any] = []
    context = eval_context(calls, sample=lambda *_: calls.append("sampled"))
    signals = Signals()
    wrapped = signals.interruptible(lambda: calls.append("called"))
    wrapped()
    signals.asked = "SIGTERM"
    with pytest.raises(Interrupted):
        wrapped()
    assert context.sample is not None
    assert calls == ["called"]


def test_2000_steps_with_evaluations_saves_and_a_restore_pile_nothing_up(tmp_path: Path) -> None:
    """Two halves: the second restores what the first saved. Each looks at itself as it goes."""
    looks: dict[int, dict[str, float]] = {}

    def look(weights: Any, step: int) -> dict[str, float]:
        gc.collect()
        looks[step] = {
            "arrays": len(jax.live_arrays()),
            "threads": threading.active_count(),
            "files open": len(os.listdir("/proc/self/fd")),
            "MB": int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6,
            # Not `rglob`: it fails where a save renames a folder while it is listed.
            "files": sum(len(folders) + len(files) for _, folders, files in os.walk(tmp_path)),
        }
        return {"validation/loss": float(step % 7)}

    task = toy.task(steps=2000)
    for steps in (1000, 2000):
        toy.loop(
            tmp_path, of=task, evaluators={"v": look}, steps=steps, eval_every=100, save_every=200,
            log_every=50, steps_per_call=50, keep=1, best="validation/loss",
        ).run()  # fmt: skip
    assert max(looks) == 2000
    early = {name: max(looks[s][name] for s in (300, 400, 500)) for name in looks[0]}
    for end in (1000, 2000):
        late = {name: max(looks[end - back][name] for back in (0, 100, 200)) for name in looks[0]}
        # A save that is under way has threads and half-written files of its own.
        allowed = {"arrays": 5, "threads": 8, "files open": 8, "MB": 40, "files": 40}
        piled = {n: (early[n], late[n]) for n in late if late[n] > early[n] + allowed[n]}
        assert not piled
    rows = [json.loads(line) for line in (tmp_path / "compiles.jsonl").read_text().splitlines()]
    assert not [row["name"] for row in rows if row["again"]], "compiled after warm-up"
    assert len(rows) == len({(row["name"], row["by"], row["start"], str(row["arrays"]))
                             for row in rows})  # fmt: skip
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").glob("[0-9]*"))
    assert len(kept) <= 2
    assert 2000 in kept
    assert len(list((tmp_path / "checkpoints").iterdir())) <= 2 * len(kept)


def test_the_thread_that_draws_data_ends_with_the_run(tmp_path: Path) -> None:
    with Prefetcher(toy.batch, 0, depth=4) as prefetcher:
        toy.loop(tmp_path, steps=6, batch_at=prefetcher.get).run()
    assert not [t for t in threading.enumerate() if t.name in ("prefetch",) or "seal" in t.name]


def test_metrics_file_is_strict_json(tmp_path: Path) -> None:
    nan = {"v": lambda weights, step: {"validation/loss": float("nan")}}
    toy.loop(tmp_path, steps=2, evaluators=nan).run()
    text = (tmp_path / "metrics.jsonl").read_text()
    for line in text.splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert toy.rows(tmp_path)[-1]["validation/loss"] == "nan"


def test_path_names_of_a_state_are_plain(tmp_path: Path) -> None:
    done = toy.loop(tmp_path, steps=1).run()
    names = [name for name, _ in tree.named_leaves(done.state)]
    assert "params/model/first/kernel" in names
    assert "ema/model/first/bias" in names

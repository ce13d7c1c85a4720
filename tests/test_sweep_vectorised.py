"""Trials as one program: equal to runs alone, masked where they fail, halved, split by memory."""

import csv
import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import process
import pytest
import tiny
import toy
from test_resume import at
from test_train_cli import FULL, disk

from aigc_jax.cli import launch, together, train, wire
from aigc_jax.core import config, tree
from aigc_jax.errors import UserError
from aigc_jax.sweep import memory, plans, vectorised
from aigc_jax.sweep.group import Group
from aigc_jax.sweep.halving import Halving
from aigc_jax.sweep.plans import Planned
from aigc_jax.train import adapt
from aigc_jax.train.signals import Signals

RECIPE = "configs/lm/tiny_char.py"  # samples nothing, which would take most of the time
LRS = (1e-3, 3e-3, 1e-2, 3e-2)
SHELF = wire.Shelf()  # of the runs alone: most of them differ in numbers and compile once


def plan(root: Path, points: list[dict[str, Any]], *changes: str) -> list[Planned]:
    words = [
        "--config.run.steps=8", "--config.run.eval_every=2", "--config.run.save_every=4",
        "--config.run.log_every=2", "--config.run.tensorboard=False",
        "--config.run.steps_per_call=2", "--config.task.model.layers=1",
    ]  # fmt: skip
    return plans.plan(RECIPE, tiny.words(RECIPE, *words, *changes), points, root)


def alone(trial: Planned, folder: Path) -> list[dict[str, Any]]:
    cfg = config.load(trial.recipe, trial.overrides)
    with Signals(saves=False) as signals:
        train.one(cfg, folder, signals=signals, parts=SHELF.parts)
    return toy.rows(folder)


def losses(rows: list[dict[str, Any]], name: str = "train/loss") -> list[float]:
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("seeds", [(0,), (0, 1)], ids=["one seed", "two seeds"])
def test_a_sweep_of_learning_rates_equals_the_runs_alone(
    seeds: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[bool] = []
    build = vectorised.build

    def seen(*args: Any, shared: bool) -> Any:
        built.append(shared)
        return build(*args, shared=shared)

    monkeypatch.setattr(vectorised, "build", seen)
    points = [{"hyper.lr": lr, "run.seed": seed} for lr in LRS[:2] for seed in seeds]
    planned = plan(tmp_path / "sweep", points)
    assert together.run(planned, tmp_path / "sweep") == 0
    assert built == [len(seeds) == 1]  # one program; one batch for all where all see the same
    ends = []
    for trial in (planned[0], planned[-1]):
        mine = toy.rows(trial.workdir)
        theirs = alone(trial, tmp_path / trial.id)
        for name in ("train/loss", "validation/loss", "train/grad_norm"):
            a, b = losses(mine, name), losses(theirs, name)
            assert len(a) == len(b) > 0
            np.testing.assert_allclose(a, b, rtol=1e-4)
        ends.append(losses(mine, "validation/loss")[-1])
        said = toy.status(trial.workdir)
        assert said["state"] == "finished" and shlex.join(said["command"]) == trial.command
    assert ends[0] != ends[1]
    # Again: nothing is left to do.
    built.clear()
    assert together.run(planned, tmp_path / "sweep") == 0
    assert not built


def test_one_program_and_separate_processes_write_the_same_table(tmp_path: Path) -> None:
    points = [{"hyper.lr": lr, "run.seed": seed} for lr in LRS[:2] for seed in (0, 1)]
    tables: list[dict[str, dict[str, str]]] = []
    for engine in ("vectorised", "local"):
        root = tmp_path / engine
        assert launch.launch(plan(root, points), root, engine=engine, workers=2) == 0
        with open(root / "results.csv", newline="", encoding="utf-8") as file:
            tables.append({row["id"]: row for row in csv.DictReader(file)})
    one, other = tables
    assert one.keys() == other.keys() and len(one) == 4
    own = ("path", "wall", "command", "time/", "speed/", "memory/")  # of a place, or of a clock
    compared = set()
    for trial, row in one.items():
        names = [name for name in other[trial] if not name.startswith(own)]
        assert not {n for n in row if not n.startswith(own)} ^ set(names)
        for name in names:
            a, b = row[name], other[trial][name]
            try:
                assert float(a) == pytest.approx(float(b), rel=1e-3), name
            except ValueError:
                assert a == b, name
        compared |= set(names)
    wanted = {"state", "config.hyper.lr", "config.run.seed", "validation/loss", "train/loss"}
    assert wanted <= compared


def test_a_trial_that_goes_bad_is_masked_and_the_others_do_not_notice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = [{"hyper.lr": lr} for lr in (*LRS[:3], math.inf)]
    planned = plan(tmp_path, points)
    assert together.run(planned, tmp_path) == together.FAILED
    *good, bad = planned
    assert toy.status(bad.workdir)["state"] == "failed"
    assert "bad numbers at step" in toy.status(bad.workdir)["reason"]
    assert "3 finished, 1 failed" in capsys.readouterr().out
    for trial in good:
        assert toy.status(trial.workdir)["state"] == "finished"
    np.testing.assert_allclose(
        losses(toy.rows(good[1].workdir)), losses(alone(good[1], tmp_path / "one")), rtol=1e-4
    )


def test_a_metric_that_nobody_gives_stops_all_before_the_first_step(tmp_path: Path) -> None:
    planned = plan(tmp_path, [{"hyper.lr": lr} for lr in LRS[:2]])
    with pytest.raises(UserError, match="Did you mean 'validation/loss'"):
        together.run(planned, tmp_path, metric="validation/los")
    said = [toy.status(trial.workdir) for trial in planned]
    assert [(s["state"], s["step"]) for s in said] == [("failed", 0)] * 2
    assert all("validation/los" in s["reason"] for s in said)
    # With the right one, the same trials go on.
    assert together.run(planned, tmp_path, metric="validation/loss") == 0


def test_an_evaluator_that_refuses_costs_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(tmp_path, [{"hyper.lr": lr} for lr in LRS[:2]])
    evaluate = Group._evaluate_rows

    def refuse(self: Group, *args: Any) -> None:
        if self.step:
            raise UserError("two samples are too few")
        evaluate(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "_evaluate_rows", refuse)
        with pytest.raises(UserError, match="too few"):
            together.run(planned, tmp_path)
    for trial in planned:
        said = toy.status(trial.workdir)
        assert said["state"] == "failed" and said["step"] > 0 and "too few" in said["reason"]
        assert (trial.workdir / "checkpoints" / str(said["step"])).is_dir()
    assert together.run(planned, tmp_path) == 0


def test_most_trials_bad_and_the_rest_get_a_program_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(tmp_path, [{"hyper.lr": lr} for lr in (LRS[0], math.inf, 1e38, 3e38)])
    assert together.run(planned, tmp_path) == together.FAILED
    assert "1 trials go on in a program of their own" in capsys.readouterr().out
    assert toy.status(planned[0].workdir)["step"] == 8
    np.testing.assert_allclose(
        losses(toy.rows(planned[0].workdir)), losses(alone(planned[0], tmp_path / "one")), rtol=1e-4
    )


def test_halving_drops_the_losers_and_repacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    halving = Halving("validation/loss", factor=2, rungs=2)
    planned = plan(tmp_path / "s", [{"hyper.lr": lr} for lr in LRS])
    assert together.run(planned, tmp_path / "s", halving=halving) == 0
    said = [toy.status(trial.workdir) for trial in planned]
    assert sorted(s["step"] for s in said) == [2, 2, 4, 8]
    out = capsys.readouterr().out
    assert "3 pruned" in out and "1 finished" in out
    at = {
        step: [next((r["validation/loss"] for r in toy.rows(t.workdir)
                     if r["step"] == step and "validation/loss" in r), math.nan) for t in planned]
        for step in (2, 4)
    }  # fmt: skip
    # Those that went on are those that were best.
    assert {i for i, s in enumerate(said) if s["step"] > 2} == set(np.argsort(at[2])[:2])
    winner = next(i for i, s in enumerate(said) if s["step"] == 8)
    assert winner == int(np.nanargmin(at[4]))
    np.testing.assert_allclose(
        losses(toy.rows(planned[winner].workdir)),
        losses(alone(planned[winner], tmp_path / "one")), rtol=1e-4,
    )  # fmt: skip
    # A pruned trial can still be trained to its end, alone.
    loser = next(i for i, s in enumerate(said) if s["step"] == 2)
    assert said[loser]["reason"] == "pruned" and str(planned[loser].workdir) in said[loser]["next"]
    assert alone(planned[loser], planned[loser].workdir)[-1]["step"] == 8


class Cut(BaseException):
    """Stands for a kill."""


def test_halving_goes_on_where_it_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    halving = Halving("validation/loss", factor=2, rungs=1)
    points = [{"hyper.lr": lr} for lr in LRS]
    whole = plan(tmp_path / "whole", points)
    assert together.run(whole, tmp_path / "whole", halving=halving) == 0
    cut = plan(tmp_path / "cut", points)
    placed, calls = vectorised._placed, []

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # after the rung at step 4, before step 8
            raise Cut
        return placed(*args, **more)

    monkeypatch.setattr(vectorised, "_placed", counted)
    with pytest.raises(Cut):
        together.run(cut, tmp_path / "cut", halving=halving)
    assert sum(toy.status(t.workdir).get("reason") == "pruned" for t in cut) == 2
    assert together.run(cut, tmp_path / "cut", halving=halving) == 0
    for one, other in zip(whole, cut, strict=True):
        a, b = toy.status(one.workdir), toy.status(other.workdir)
        assert (a["state"], a["reason"], a["step"]) == (b["state"], b["reason"], b["step"])
        np.testing.assert_allclose(
            losses(toy.rows(one.workdir)), losses(toy.rows(other.workdir)), rtol=1e-5
        )


def test_rungs_and_survivors() -> None:
    halving = Halving("loss", factor=3, rungs=2)
    assert halving.steps(900, 100) == [100, 300]
    assert halving.steps(1000, 100) == [200, 400]
    assert halving.steps(1000, 400) == [400]
    assert [halving.left(9, rung) for rung in (0, 1)] == [3, 1]
    assert halving.left(2, 0) == 1
    assert halving.best([3.0, math.nan, 1.0, -math.inf], 2) == [2, 3]
    assert halving._replace(direction="maximize").best([3.0, math.nan, 1.0, -math.inf], 2) == [0, 2]
    for every in (0, 900, 1000):
        with pytest.raises(UserError, match=r"set it to 100"):
            halving.steps(900, every)


def test_trials_that_do_not_fit_together_run_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: list[tuple[int, int]] = []
    build = vectorised.build

    def seen(step: Any, state: Any, *args: Any, **more: Any) -> Any:
        made = build(step, state, *args, **more)
        sizes.append((jax.tree.leaves(state)[0].shape[0], made.size))
        return made

    monkeypatch.setattr(vectorised, "build", seen)
    planned = plan(tmp_path / "a", [{"hyper.lr": lr} for lr in LRS])
    assert together.run(planned, tmp_path / "a") == 0
    ((number, size),) = sizes
    assert number == 4
    monkeypatch.setattr(memory, "room", lambda: size - 1)
    sizes.clear()
    parts = plan(tmp_path / "b", [{"hyper.lr": lr} for lr in LRS])
    assert together.run(parts, tmp_path / "b") == 0
    assert [number for number, _ in sizes] == [4, 2, 2]
    assert "half of them at once" in capsys.readouterr().out
    for one, other in zip(planned, parts, strict=True):
        np.testing.assert_allclose(
            losses(toy.rows(one.workdir)), losses(toy.rows(other.workdir)), rtol=1e-4
        )


def test_there_is_room() -> None:
    assert memory.room() > 1 << 26


def test_trials_of_other_shapes_are_other_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []
    build = vectorised.build

    def seen(step: Any, state: Any, *args: Any, **more: Any) -> Any:
        numbers.append(jax.tree.leaves(state)[0].shape[0])
        return build(step, state, *args, **more)

    monkeypatch.setattr(vectorised, "build", seen)
    points = [{"hyper.lr": lr, "task.model.width": width} for width in (16, 32) for lr in LRS[:2]]
    assert together.run(plan(tmp_path, points), tmp_path) == 0
    assert numbers == [2, 2]


def test_weights_of_another_run_begin_each_trial(tmp_path: Path) -> None:
    (first,) = plan(tmp_path, [{"hyper.lr": 1e-2}])
    alone(first, tmp_path / "first")
    start = "--config.init_from=" + json.dumps(
        {"params/model": f"{tmp_path / 'first'}/params/model"}
    )
    planned = plan(tmp_path / "s", [{"hyper.lr": lr} for lr in LRS[:2]], start)
    assert together.run(planned, tmp_path / "s") == 0
    begun = losses(toy.rows(planned[0].workdir), "validation/loss")[0]
    assert begun == pytest.approx(losses(toy.rows(tmp_path / "first"), "validation/loss")[-1])


MESHES = """
import aigc_jax.sweep.vectorised as vectorised
made = vectorised.mesh_of
def shown(*args):
    mesh = made(*args)
    print("mesh", dict(mesh.shape))
    return mesh
vectorised.mesh_of = shown
"""


# Each lane waits until the other one is there too: one after another they would never meet.
TWO = """
import os, threading
from aigc_jax.sweep.group import Group
os.sched_getaffinity = lambda pid: {0, 1}
both, rows = threading.Barrier(2, timeout=60), Group._evaluate_rows
def meet(self, *args):
    both.wait()
    rows(self, *args)
Group._evaluate_rows = meet
"""


def test_trials_are_spread_over_the_cores_and_are_the_same_trials(tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(Path(__file__).resolve().parent.parent / "configs")
    whole = "configs/lm/shakespeare_char.py"  # with samples
    typed = ["sweep", whole, "--seeds=2", *tiny.words(whole, "--config.run.steps=20")]
    two = "import os; os.sched_getaffinity = lambda pid: {0, 1}"
    spread = process.aigc(*typed, "--workdir=spread", folder=tmp_path, first=TWO)
    assert spread.code == 0, spread.err
    flags = process.devices(1)
    one = process.aigc(*typed, "--workdir=one", folder=tmp_path, XLA_FLAGS=flags, first=two)
    assert one.code == 0, one.err
    # Devices that trials leave over share their rows.
    flags = process.devices(4)
    four = process.aigc(*typed, "--workdir=four", folder=tmp_path, XLA_FLAGS=flags, first=MESHES)
    assert four.code == 0, four.err
    assert "mesh {'trials': 2, 'data': 2}" in four.out
    for seed in ("seed=0", "seed=1"):
        a, b, c = (toy.trial(tmp_path / name, seed) for name in ("spread", "one", "four"))
        devices = [json.loads((run / "env.json").read_text())["devices"] for run in (a, b, c)]
        assert [said["count"] for said in devices] == [2, 1, 4]
        for name in ("train/loss", "validation/loss"):
            for other in (a, c):
                np.testing.assert_allclose(
                    losses(toy.rows(other), name), losses(toy.rows(b), name), rtol=1e-6
                )
        # All of the state (parameters, moments, counts, keys), as near as on other meshes; and what
        # they write.
        ends = [adapt.read_state(run / "checkpoints/20/state") for run in (a, b, c)]
        texts = [sorted((run / "samples").glob("*.txt")) for run in (a, b, c)]
        assert texts[1]
        for i in (0, 2):
            pairs = zip(tree.named_leaves(ends[i]), tree.named_leaves(ends[1]), strict=True)
            for (leaf, x), (_, y) in pairs:
                most = float(np.abs(y).max(initial=0.01))
                np.testing.assert_allclose(x, y, rtol=0, atol=3e-6 * most, err_msg=leaf)
            assert [x.read_text() for x in texts[i]] == [y.read_text() for y in texts[1]]


# Eight lanes ask for the parts of one tree that nobody has asked for before, again and again.
LANES = """
import sys, threading
import jax.numpy as jnp
from aigc_jax.train import adapt
from aigc_jax.sweep import vectorised
sys.setswitchinterval(1e-6)
mesh, wrong = vectorised.mesh_of(8), []
def look(tree, i, gate):
    gate.wait()
    try:
        part = vectorised.trial(tree, i)
        assert all((x == i).all() for x in part), part
    except Exception as error:
        wrong.append(repr(error))
for _ in range(60):
    tree = vectorised.stack([[jnp.full(3, i)] * 20 for i in range(8)], mesh)
    gate = threading.Barrier(8)
    lanes = [threading.Thread(target=look, args=(tree, i, gate)) for i in range(8)]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
sys.exit("; ".join(wrong) or None)
"""


def test_lanes_may_ask_for_their_trials_at_the_same_moment() -> None:
    environment = {**os.environ, "XLA_FLAGS": process.devices(8)}
    done = subprocess.run(
        [sys.executable, "-c", LANES], env=environment, capture_output=True, text=True,
        timeout=process.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]


def test_the_compiler_s_cache_is_there_though_jax_was_imported_first(tmp_path: Path) -> None:
    program = (
        "import jax; from aigc_jax.cli import wire; wire.start_jax();"
        " print(jax.config.jax_compilation_cache_dir)"
    )
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True,
        env={**kept, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(process.HOUSE)},
    )  # fmt: skip
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "aigc_jax" / "xla")


HALVED = """

def get_sweep(h):
    return h.grid("hyper.lr", [0.001, 0.01, 0.03])
"""


def test_halving_as_typed(tmp_path: Path) -> None:
    with process.recipe(tmp_path).open("a") as file:
        file.write(HALVED)
    typed = ["sweep", "recipe.py", "--pruner=halving", "--config.run.eval_every=2"]
    metric = "--metric=validation_first_3/loss"
    done = process.aigc(*typed, metric, folder=tmp_path)
    assert done.code == 0, done.err
    root = tmp_path / "runs/recipe-sweep"
    said = [toy.status(toy.trial(root, f"lr={lr}")) for lr in (0.001, 0.01, 0.03)]
    assert sorted(s["step"] for s in said) == [2, 2, 12]  # rungs at a ninth, and at a third
    assert [s["reason"] for s in said].count("pruned") == 2
    wrong = process.aigc(*typed, metric, "--engine=local", folder=tmp_path)
    assert wrong.code == 2 and "vectorised has it" in wrong.err and wrong.err.count("\n") == 1
    late = process.aigc(*typed, "--config.run.eval_every=12", "--workdir=late", folder=tmp_path)
    assert late.code == 2 and "run.eval_every" in late.err and late.err.count("\n") == 1


def test_a_full_disk_stops_all_trials_with_their_last_checkpoints_intact(tmp_path: Path) -> None:
    process.recipe(tmp_path, samples=False)
    typed = ["sweep", "recipe.py", "--seeds=2", "--config.run.save_every=4"]
    whole = process.aigc(*typed, "--workdir=whole", folder=tmp_path)
    assert whole.code == 0, whole.err
    with disk(tmp_path / "small", "size=8m"):
        fault = FULL + at("aigc_jax.sweep.group", "Group._save", nth=3).replace(
            "os.kill(os.getpid(), signal.SIGTERM)", "fill()"
        )
        done = process.aigc(*typed, "--workdir=small/sweep", folder=tmp_path, first=fault)
        assert done.code == 4, done.err
        assert "the disk is full" in done.err and "Traceback" not in done.err
        (tmp_path / "small/ballast").unlink()
        more = process.aigc(*typed, "--workdir=small/sweep", folder=tmp_path)
        assert more.code == 0, more.err
        # Each from its last whole checkpoint, which may be another for each.
        assert "resumed " in more.out and " at step 0" not in more.out
        for seed in ("seed=0", "seed=1"):
            a, b = (toy.rows(toy.trial(tmp_path / n, seed)) for n in ("whole", "small/sweep"))
            assert [row["step"] for row in a] == [row["step"] for row in b]
            for name in ("train/loss", "validation_first_3/loss"):
                assert losses(a, name)
                np.testing.assert_allclose(losses(a, name), losses(b, name), rtol=1e-5)

"""Saved, sealed, damaged, kept, deleted."""

import errno
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from aigc_jax.cli.wire import initial_weights
from aigc_jax.core.task import State
from aigc_jax.errors import StorageError, UserError
from aigc_jax.train.checkpoint import Checkpoints
from aigc_jax.train.graft import initial


def state(value: float, *, width: int = 5, extra: bool = False) -> State:
    """A state whose arrays all hold `value`."""
    layer = {"kernel": jnp.full((width, 2), value), "bias": jnp.full((2,), value, jnp.bfloat16)}
    return State(
        step=jnp.int32(value),
        key=jax.random.key(int(value)),
        params={"model": {"first": layer, **({"second": dict(layer)} if extra else {})}},
        opt={},
        vars={},
        ema={},
        hyper={"lr": jnp.float32(value)},
    )


def target(**knobs: Any) -> tuple[Any, Any]:
    abstract = jax.eval_shape(lambda: state(0, **knobs))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return abstract, jax.tree.map(lambda _: device, abstract)


def folder_of(path: Path) -> Path:
    return path / "checkpoints"


def save(path: Path, *steps: int, metrics: Any = None, **knobs: Any) -> Checkpoints:
    checkpoints = Checkpoints(folder_of(path), **knobs)
    for step in steps:
        scores = {} if metrics is None else {"validation/loss": metrics[step]}
        checkpoints.save(state(step), {"at": step}, scores)
    checkpoints.finish()
    checkpoints.close()
    return checkpoints


def kept(path: Path) -> list[int]:
    return sorted(int(p.name) for p in folder_of(path).iterdir() if p.name.isdigit())


def largest(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(folder: Path) -> None:
    file = largest(folder)
    file.write_bytes(file.read_bytes()[:-20])


def flip(folder: Path) -> None:
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x10
    file.write_bytes(bytes(content))


def delete(folder: Path) -> None:
    largest(folder).unlink()


def empty_notes(folder: Path) -> None:
    (folder / "notes" / "metadata").write_text("")


DAMAGE: list[Callable[[Path], None]] = [truncate, flip, delete, empty_notes]


# --- policies --------------------------------------------------------------------------------


def test_the_newest_stay(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert kept(tmp_path) == [3, 4]
    assert sorted(p.name for p in folder_of(tmp_path).glob("seal-*")) == [
        "seal-3.json", "seal-4.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("best", "keep_best", "stay"),
    [
        ("validation/loss", 1, [2, 5]),
        ("-validation/loss", 1, [4, 5]),
        ("validation/loss", 2, [2, 3, 5]),
    ],
)
def test_the_best_stay_besides(tmp_path: Path, best: str, keep_best: int, stay: list[int]) -> None:
    losses = {1: 5.0, 2: 1.0, 3: 2.0, 4: 9.0, 5: 3.0}
    save(tmp_path, *losses, metrics=losses, keep=1, best=best, keep_best=keep_best)
    assert kept(tmp_path) == stay


def test_one_that_was_not_scored_or_is_nan_is_never_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder_of(tmp_path), keep=1, best="validation/loss")
    losses: list[Any] = [None, 2.0, float("nan"), None]
    for step, loss in enumerate(losses):
        checkpoints.save(state(step), {}, {} if loss is None else {"validation/loss": loss})
    checkpoints.finish()
    checkpoints.close()
    assert kept(tmp_path) == [1, 3]


def test_a_run_scores_a_checkpoint_by_its_own_evaluation_only(tmp_path: Path) -> None:
    """Saved at 4, 8 and 12, evaluated at 0, 6 and 12: the score of 6 is not that of 8."""
    worse = {"v": lambda weights, step: {"validation/loss": float(step)}}
    toy.loop(tmp_path, steps=12, save_every=4, eval_every=6, keep=1, best="validation/loss",
             evaluators=worse).run()  # fmt: skip
    assert kept(tmp_path) == [12]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder_of(tmp_path))
    checkpoints.save(state(1), {"n": 1}, {})
    checkpoints.save(state(1), {"n": 2}, {})
    checkpoints.finish()
    found = checkpoints.restore(*target())
    checkpoints.close()
    assert found is not None
    assert found[1] == {"n": 1}


# --- what comes back -------------------------------------------------------------------------


def test_every_bit_and_every_dtype_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 3)
    checkpoints = Checkpoints(folder_of(tmp_path))
    found = checkpoints.restore(*target())
    checkpoints.close()
    assert found is not None
    toy.same(found[0], state(3))
    assert found[0].params["model"]["first"]["bias"].dtype == jnp.bfloat16
    assert jnp.issubdtype(found[0].key.dtype, jax.dtypes.prng_key)
    assert found[1] == {"at": 3}


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder_of(tmp_path))
    assert checkpoints.restore(*target()) is None
    checkpoints.close()


def test_what_is_saved_does_not_change_while_donated_steps_go_on(tmp_path: Path) -> None:
    """4 MB, overwritten in place at once; the same bits as a save that is waited for."""
    step = jax.jit(
        lambda s: s.replace(step=s.step + 1, params=jax.tree.map(lambda x: x * 2 + 1, s.params)),
        donate_argnums=0,
    )

    def run(folder: Path, wait: bool) -> list[Any]:
        now = state(0, width=500_000)
        abstract = jax.eval_shape(lambda: now)
        places = jax.tree.map(lambda x: x.sharding, now)
        checkpoints = Checkpoints(folder, keep=10)
        for _ in range(3):
            checkpoints.save(now, {}, {})
            if wait:
                checkpoints.finish()
            for _ in range(4):
                now = step(now)
        checkpoints.finish()
        found = [checkpoints.restore(abstract, places, s) for s in checkpoints.steps()]
        checkpoints.close()
        return [pair[0] for pair in found if pair]

    background, blocking = run(tmp_path / "a", False), run(tmp_path / "b", True)
    assert len(background) == 3
    for one, other in zip(background, blocking, strict=True):
        toy.same(one, other)


def test_notes_do_not_change_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop hands over its sums and adds to them at once; a slow disk must not see that."""
    handed: list[Any] = []
    run = toy.loop(tmp_path, steps=8, save_every=2, log_every=8, steps_per_call=1)
    saving = Checkpoints.save

    def keep(self: Any, state: Any, notes: Any, metrics: Any) -> None:
        handed.append((notes, json.dumps(notes["window"])))
        saving(self, state, notes, metrics)

    monkeypatch.setattr(Checkpoints, "save", keep)
    run.run()
    assert len(handed) == 4
    assert "loss" in handed[0][1]
    for notes, then in handed:
        assert json.dumps(notes["window"]) == then


# --- damage ----------------------------------------------------------------------------------


# Without a seal, one flipped bit may lie where nothing reads it.
@pytest.mark.parametrize(
    ("damage", "sealed"), [*((d, True) for d in DAMAGE), (truncate, False), (delete, False)]
)
def test_a_damaged_newest_falls_back_to_the_one_before(
    tmp_path: Path, damage: Callable[[Path], None], sealed: bool
) -> None:
    save(tmp_path, 1, 2, keep=3)
    damage(folder_of(tmp_path) / "2")
    if not sealed:
        (folder_of(tmp_path) / "seal-2.json").unlink()
    warnings: list[str] = []
    checkpoints = Checkpoints(folder_of(tmp_path), warn=warnings.append)
    found = checkpoints.restore(*target())
    assert found is not None
    toy.same(found[0], state(1))
    assert len(warnings) == 1
    assert warnings[0].startswith("checkpoint 2 is damaged (")
    assert "\n" not in warnings[0]
    assert len(list(folder_of(tmp_path).glob("damaged-2-*"))) == 1
    # The step can be saved again.
    checkpoints.save(state(2), {"again": 1}, {})
    checkpoints.finish()
    assert checkpoints.steps() == [1, 2]
    checkpoints.close()


def test_a_run_whose_newest_checkpoint_is_damaged_ends_as_if_nothing_had_been(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    knobs: dict[str, Any] = {"save_every": 3, "log_every": 2, "steps_per_call": 2}
    task = toy.task()
    whole = toy.loop(tmp_path / "a", of=task, steps=12, **knobs).run()
    toy.loop(tmp_path / "b", of=task, steps=9, **knobs).run()
    flip(tmp_path / "b" / "checkpoints" / "9")
    done = toy.loop(tmp_path / "b", of=task, steps=12, **knobs).run()
    toy.same(whole.state, done.state)
    assert toy.rows(tmp_path / "a") == toy.rows(tmp_path / "b")
    assert "aigc: warning: checkpoint 9 is damaged" in capsys.readouterr().err


def test_one_without_a_seal_is_given_a_try_and_sealed(tmp_path: Path) -> None:
    """Its process was killed between the save and the seal."""
    save(tmp_path, 1, 2)
    seal = folder_of(tmp_path) / "seal-2.json"
    before = seal.read_text()
    for content in (None, "", "[]", '{"half'):
        seal.unlink()
        if content is not None:
            seal.write_text(content)
        warnings: list[str] = []
        checkpoints = Checkpoints(folder_of(tmp_path), warn=warnings.append)
        found = checkpoints.restore(*target())
        checkpoints.finish()
        checkpoints.close()
        assert found is not None
        assert found[1] == {"at": 2}
        assert warnings == []
        assert seal.read_text() == before


def test_when_all_are_damaged_it_is_one_line_and_nothing_is_deleted(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in (1, 2):
        truncate(folder_of(tmp_path) / str(step))
    checkpoints = Checkpoints(folder_of(tmp_path), warn=lambda line: None)
    with pytest.raises(UserError, match=r"None of the checkpoints.*Start anew") as caught:
        checkpoints.restore(*target())
    checkpoints.close()
    assert "\n" not in str(caught.value)
    assert len(list(folder_of(tmp_path).glob("damaged-*"))) == 2


def test_another_model_is_the_users_mistake_and_no_damage(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    before = sorted(p.name for p in folder_of(tmp_path).iterdir())
    checkpoints = Checkpoints(folder_of(tmp_path), warn=lambda line: pytest.fail(line))
    with pytest.raises(UserError) as caught:
        checkpoints.restore(*target(width=6, extra=True))
    words = str(caught.value)
    assert "missing: params/model/second/bias [2], params/model/second/kernel [6, 2]" in words
    assert "differently shaped: params/model/first/kernel [5, 2] for [6, 2]" in words
    assert "\n" not in words
    assert checkpoints.restore(*target()) is not None
    checkpoints.close()
    assert sorted(p.name for p in folder_of(tmp_path).iterdir()) == before


def test_a_failure_that_is_not_in_the_files_moves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)

    def short_of_memory(*_: Any, **__: Any) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")

    checkpoints = Checkpoints(folder_of(tmp_path))
    monkeypatch.setattr(checkpoints._manager, "restore", short_of_memory)
    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoints.restore(*target())
    checkpoints.close()
    assert kept(tmp_path) == [1]


def test_read_only_moves_nothing_and_makes_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    truncate(folder_of(tmp_path) / "2")
    (folder_of(tmp_path) / "3.orbax-checkpoint-tmp").mkdir()
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    warnings: list[str] = []
    checkpoints = Checkpoints(folder_of(tmp_path), read_only=True, warn=warnings.append)
    found = checkpoints.restore(*target())
    assert found is not None
    assert found[1] == {"at": 1}
    with pytest.raises(UserError, match=r"checkpoint of step 2 .*Choose another --step"):
        checkpoints.restore(*target(), 2)
    checkpoints.close()
    assert len(warnings) == 2
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_a_reader_follows_a_run_that_deletes_what_it_was_about_to_read(tmp_path: Path) -> None:
    save(tmp_path, 1)
    reader = Checkpoints(folder_of(tmp_path), read_only=True, warn=lambda line: pytest.fail(line))
    save(tmp_path, 2, 3, keep=1)
    assert kept(tmp_path) == [3]
    found = reader.restore(*target())
    reader.close()
    assert found is not None
    assert found[1] == {"at": 3}


def test_many_quick_saves_with_one_kept_never_stumble_over_a_seal(tmp_path: Path) -> None:
    save(tmp_path, *range(25), keep=1)
    assert kept(tmp_path) == [24]
    names = sorted(p.name for p in folder_of(tmp_path).iterdir())
    assert names == ["24", "seal-24.json"]


def test_a_failed_save_says_so_in_one_error_and_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(folder_of(tmp_path))
    checkpoints.save(state(1), {}, {})
    checkpoints.finish()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(StorageError, match="No space left"):
        checkpoints.save(state(2), {}, {})
    (folder_of(tmp_path) / "2.orbax-checkpoint-tmp").mkdir()
    checkpoints.close()
    assert sorted(p.name for p in folder_of(tmp_path).iterdir()) == ["1", "seal-1.json"]


def test_a_number_that_changed_on_the_disk_is_found_by_the_seal(tmp_path: Path) -> None:
    """It loads as well as any other."""
    checkpoints = Checkpoints(folder_of(tmp_path))
    for step in (1, 2):
        checkpoints.save(state(step, width=4000), {"at": step}, {})
    checkpoints.finish()
    checkpoints.close()
    flip(folder_of(tmp_path) / "2" / "state")
    said: list[str] = []
    checkpoints = Checkpoints(folder_of(tmp_path), warn=said.append, read_only=True)
    found = checkpoints.restore(*target(width=4000))
    checkpoints.close()
    assert found is not None
    assert found[1] == {"at": 1}
    assert len(said) == 1
    assert "has changed or is missing" in said[0]


def test_arrays_are_not_compressed_and_busy_ends_with_the_seal(tmp_path: Path) -> None:
    checkpoints = Checkpoints(folder_of(tmp_path))
    assert not checkpoints.busy()
    checkpoints.save(state(1, width=4000), {}, {})
    assert checkpoints.busy()
    limit = time.monotonic() + 60
    while checkpoints.busy() and time.monotonic() < limit:
        time.sleep(0.01)
    assert (folder_of(tmp_path) / "seal-1.json").exists()
    checkpoints.close()
    # All of the kernel's 8,000 numbers are one and the same: compressed they would be nothing.
    assert largest(folder_of(tmp_path) / "1" / "state").stat().st_size > 4 * 8000


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
def test_what_writes_gives_way_to_the_steps(tmp_path: Path) -> None:
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    checkpoints = Checkpoints(folder_of(tmp_path))
    checkpoints.save(state(1), {}, {})
    checkpoints.finish()
    nice: dict[str, list[int]] = {}
    for path in Path("/proc/self/task").iterdir():
        name = (path / "comm").read_text()
        nice.setdefault(name, []).append(os.getpriority(os.PRIO_PROCESS, int(path.name)))
    writing = [n for name in nice if name.startswith("ts_") for n in nice[name]]
    assert writing and max(writing) > ours
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == ours
    checkpoints.close()


# --- weights of another run ------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    toy.loop(folder, steps=6, save_every=3).run()
    return folder


def kernel_of(run: Path) -> np.ndarray:
    """What a run that goes on reads of its newest checkpoint."""
    loop, checkpoints = toy.loop(run), Checkpoints(run / "checkpoints", read_only=True)
    abstract = jax.eval_shape(loop._init, *loop._fresh())
    restored = checkpoints.restore(abstract, loop.placement.state(abstract))
    checkpoints.close()
    assert restored is not None
    return np.asarray(restored[0].params["model"]["first"]["kernel"])


def start_from(folder: Path, init_from: dict[str, str], **knobs: Any) -> Any:
    return toy.loop(folder, steps=1, more={"prepare": initial_weights(init_from)}, **knobs)


def test_init_from_grafts_the_parameters_and_their_average(other: Path, tmp_path: Path) -> None:
    run = start_from(tmp_path, {"params/model": f"{other}/params/model"})
    run.settings = run.settings._replace(steps=1)
    seen: dict[str, Any] = {}

    def evaluate(weights: Any, step: int) -> dict[str, float]:
        if step == 0:
            seen["ema"] = np.asarray(weights.params["model"]["first"]["kernel"])
            seen["params"] = np.asarray(run.state.params["model"]["first"]["kernel"])
            seen["opt"] = toy.leaves(run.state)
        return {}

    run.evaluators = {"v": evaluate}
    run.settings = run.settings._replace(eval_every=1)
    run.run()
    source = kernel_of(other)
    np.testing.assert_array_equal(seen["params"], source)
    np.testing.assert_array_equal(seen["ema"], source)
    assert all(not v.any() for k, v in seen["opt"].items() if "/mu/" in k or "/nu/" in k)


def test_init_from_takes_a_part(other: Path, tmp_path: Path) -> None:
    part = {"params/model/first": f"{other}/params/model/first"}
    run = start_from(tmp_path, part, of=toy.task(hidden=3))
    run.checkpoints = Checkpoints(tmp_path / "checkpoints")
    run._open()
    source = kernel_of(other)
    np.testing.assert_array_equal(run.state.params["model"]["first"]["kernel"], source)
    assert run.state.params["model"]["hidden"]["kernel"].any()
    run.checkpoints.close()


@pytest.mark.parametrize(
    ("there", "here", "task", "words"),
    [
        ("params/model", "params/model", {"width": 6}, "shaped: first/kernel [4] for [6]"),
        ("params/model", "params/model", {"hidden": 3}, "missing: hidden/kernel"),
        ("params/model/first", "params/model", {}, "extra: bias [], kernel [4]"),
        ("params/modle", "params/model", {}, "it has: model"),
        ("params/model", "params/modle", {}, "it has: model"),
        ("params/model", "params/model/first/bias/x", {}, "nothing below it"),
        ("params/model", "opt/main", {}, "must begin with params/"),
        ("opt/main", "params/model", {}, "is no part of a run"),
    ],
)
def test_init_from_lists_what_does_not_fit(
    other: Path, tmp_path: Path, there: str, here: str, task: dict[str, int], words: str
) -> None:
    run = start_from(tmp_path, {here: f"{other}/{there}"}, of=toy.task(**task))
    with pytest.raises(UserError) as caught:
        run.run()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_init_from_a_folder_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in"):
        initial(state(0), {"params/model": f"{tmp_path}/nowhere/params/model"})


def test_init_from_passes_over_a_damaged_newest(
    other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(other, copy)
    assert kept(copy) == [3, 6]
    truncate(copy / "checkpoints" / "6" / "state")
    loop = toy.loop(tmp_path / "new")
    part = "params/model/first"
    new = initial(loop._init(*loop._fresh()), {part: f"{copy}/{part}"})
    found = np.asarray(new.params["model"]["first"]["kernel"])
    assert "can't read checkpoint 6" in capsys.readouterr().err
    shutil.rmtree(copy / "checkpoints" / "6")
    np.testing.assert_array_equal(found, kernel_of(copy))
    assert (found != kernel_of(other)).any()

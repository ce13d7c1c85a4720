"""When runs differ: hashes of what goes into each step, and what `aigc bisect` makes of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import process
import pytest
import toy

from aigc_jax.cli import check_resume
from aigc_jax.cli.main import main
from aigc_jax.core.fingerprint import fingerprint, fingerprint_host
from aigc_jax.core.task import Task
from aigc_jax.errors import UserError
from aigc_jax.report import prints
from aigc_jax.report.bisect import FLAG, bisect, rerun
from aigc_jax.report.folder import Run
from aigc_jax.train import fingerprint as run_prints
from aigc_jax.train import guard
from aigc_jax.train.guard import BadNumbers
from aigc_jax.train.settings import Settings

KERNEL = "params/model/first/kernel"

# --- the hash --------------------------------------------------------------------------------


def arrays() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 4, 5))
    return {
        "float32": x.astype(np.float32),
        "bfloat16": x.astype(ml_dtypes.bfloat16),
        "float16": x.astype(np.float16),
        "float8": x.astype(ml_dtypes.float8_e4m3fn),
        "complex64": (x + 1j * x[::-1]).astype(np.complex64),
        "int8": draw.integers(-9, 9, (7,)).astype(np.int8),
        "int4": draw.integers(-8, 8, (7,)).astype(ml_dtypes.int4),
        "uint32": draw.integers(0, 1 << 32, (5, 3), np.uint32),
        "bool": x[0] > 0,
        "scalar": np.float32(3.5).reshape(()),
        "none": np.zeros((0, 3), np.float32),
    }


def test_numpy_agrees_with_the_devices_for_every_dtype() -> None:
    given = arrays()
    found = jax.jit(lambda xs: {name: fingerprint(x) for name, x in xs.items()})(given)
    for name, x in given.items():
        assert int(found[name]) == fingerprint_host(x), name
    assert len({int(value) for value in found.values()}) == len(given)
    key = jax.random.key(3)
    assert int(fingerprint(key)) == fingerprint_host(np.asarray(jax.random.key_data(key)))


def test_a_known_value_worked_out_by_hand() -> None:
    """Elements 1 and 2 as integers: mix(1) + mix(2 + golden), by Python's own integers."""

    def mix(word: int) -> int:
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            word = (word ^ (word >> shift)) * factor % 2**32
        return word

    expected = (mix(1) + mix(2 + 0x9E3779B9)) % 2**32
    assert fingerprint_host(np.array([1, 2], np.int32)) == expected


def test_every_single_bit_the_signs_and_the_order_show() -> None:
    x = arrays()["float32"]
    whole = fingerprint_host(x)
    seen = {whole}
    for element in range(x.size):
        for bit in range(32):
            words = x.copy().reshape(-1).view(np.uint32)
            words[element] ^= np.uint32(1 << bit)
            seen.add(fingerprint_host(words.view(np.float32).reshape(x.shape)))
    assert len(seen) == 1 + 32 * x.size
    others = [-x, x[::-1], x.transpose(0, 2, 1), x.reshape(4, 3, 5)[::-1], np.roll(x, 1, axis=2)]
    assert whole not in [fingerprint_host(other) for other in others]
    zeros = np.zeros(4, np.float32)
    assert fingerprint_host(zeros) != fingerprint_host(-zeros)


ON_FOUR = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from aigc_jax.core.fingerprint import fingerprint, fingerprint_host

mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)
for spec in (P(), P("a"), P("b", "a"), P(None, "a", "b"), P(("a", "b"))):
    placed = jax.device_put(x, NamedSharding(mesh, spec))
    whole = NamedSharding(mesh, P())
    step = jax.jit(fingerprint, in_shardings=placed.sharding, out_shardings=whole)
    assert int(step(placed)) == fingerprint_host(x), spec
    text = step.lower(placed).compile().as_text()
    assert "all-gather" not in text, spec
print("agree")
"""


def test_the_hash_does_not_depend_on_how_an_array_is_split() -> None:
    env = {**os.environ, "XLA_FLAGS": process.devices(4), "PYTHONPATH": str(process.HOUSE)}
    done = subprocess.run([sys.executable, "-c", ON_FOUR], env=env, capture_output=True, text=True)
    assert done.stdout == "agree\n", done.stderr


# --- a run with fingerprints -----------------------------------------------------------------


def changed_at(step: int | None, leaf: str = "kernel", bit: int = 0) -> Task:
    """The toy task; the state that goes into `step` has one bit of one weight the other way."""
    plain = toy.task()

    def changed(state: Any, batch: Any) -> Any:
        state, metrics = plain.step(state, batch)
        first = state.params["model"]["first"]
        words = jax.lax.bitcast_convert_type(first[leaf], jnp.uint32)
        mask = jnp.where(state.step == (-1 if step is None else step), 1 << bit, 0)
        place = (jnp.arange(words.size) == words.size - 1).reshape(words.shape)
        words = words ^ jnp.where(place, mask, 0).astype(jnp.uint32)
        first = {**first, leaf: jax.lax.bitcast_convert_type(words, jnp.float32)}
        model = {**state.params["model"], "first": first}
        return state.replace(params={"model": model}), metrics

    return plain._replace(step=changed)


def swapped_at(step: int | None) -> Callable[[int], Any]:
    """The toy data with two rows of the batch of `step` in each other's place."""

    def batch(index: int) -> Any:
        rows = toy.batch(index)
        order = [1, 0, *range(2, toy.ROWS)] if index == step else list(range(toy.ROWS))
        return {name: np.ascontiguousarray(x[order]) for name, x in rows.items()}

    return batch


def train(folder: Path, config: dict[str, Any] | None = None, **knobs: Any) -> Run:
    """A toy run with fingerprints, with what a run folder has besides."""
    toy.loop(folder, **{"fingerprint": True, "steps_per_call": 5, **knobs}).run()
    (folder / "config.json").write_text(json.dumps(config or {"run": {"seed": 0}}))
    (folder / "env.json").write_text(json.dumps({"packages": {"jax": jax.__version__}}))
    return Run(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("base") / "a", save_every=4, keep=3, of=changed_at(None))


def no_checkpoint(step: int) -> str | None:
    raise AssertionError("the fingerprints tell it all")


def test_a_row_for_every_step_and_the_checkpoint_is_what_went_into_its_step(base: Run) -> None:
    found = prints.read(base.path)
    assert sorted(found.rows) == list(range(12))
    assert found.starts == [0]
    names = list(found.row(0))
    assert names[:3] == ["batch/x", "batch/y", "key"]
    assert names.index("hyper/lr") < names.index(KERNEL) < names.index("vars/guard/mean")
    saved = run_prints.of_checkpoint(base.path / "checkpoints", 8)
    row = found.row(8)
    both = [name for name in row if name in saved]
    assert len(both) == len(row) - 3
    assert {n: row[n] for n in both} == {n: saved[n] for n in both}
    x = toy.batch(7)["x"]
    assert found.row(7)["batch/x"] == f"{fingerprint_host(x):08x}"
    key = jax.random.fold_in(jax.random.key(0), 7)
    assert found.row(7)["key"] == f"{fingerprint_host(np.asarray(jax.random.key_data(key))):08x}"
    assert len({found.row(step)[KERNEL] for step in range(12)}) == 12


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("per_call", [1, 5])
def test_a_run_with_fingerprints_has_the_bits_of_one_without(
    tmp_path: Path, every: int, per_call: int
) -> None:
    plain = toy.loop(tmp_path / "plain", steps_per_call=per_call).run()
    printed = toy.loop(tmp_path / "printed", steps_per_call=per_call, fingerprint=every).run()
    toy.same(plain.state, printed.state)
    assert toy.rows(tmp_path / "plain") == toy.rows(tmp_path / "printed")
    assert not (tmp_path / "plain" / run_prints.FILE).exists()
    assert sorted(prints.read(tmp_path / "printed").rows) == list(range(0, 12, every))


def test_without_the_flag_the_step_is_the_guarded_one_and_nothing_else(tmp_path: Path) -> None:
    run = toy.loop(tmp_path)
    hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}
    state = jax.eval_shape(run._init, jax.random.key(0), hyper)
    bare = guard.guarded_step(run.task.step, policy="stop", spike=0.0)
    texts = [str(jax.make_jaxpr(f)(state, toy.batch(0))) for f in (run._step, bare)]
    assert texts[0] == texts[1]


def test_trials_under_vmap_have_the_fingerprints_they_have_alone() -> None:
    task = toy.task()
    init = guard.guarded_init(task.init)
    step = run_prints.stamped(guard.guarded_step(task.step, policy="skip", spike=0.0), 2)
    hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}
    keys = jnp.stack([jax.random.key(seed) for seed in (1, 2)])
    batch = {name: jnp.asarray(x) for name, x in toy.batch(0).items()}

    def of(key: jax.Array) -> jax.Array:
        return step(init(key, hyper), batch)[1][run_prints.METRIC]

    both = jax.jit(jax.vmap(of))(keys)
    for i, alone in enumerate(map(jax.jit(of), keys)):
        np.testing.assert_array_equal(np.asarray(both[i]), np.asarray(alone))


def test_a_wrong_interval_is_refused() -> None:
    with pytest.raises(UserError, match=r"run\.fingerprint=-1: expected 0 or more"):
        Settings(fingerprint=-1).check()


# --- planted differences ---------------------------------------------------------------------


def test_one_bit_of_one_weight_is_found_at_its_step(base: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "b", of=changed_at(7))
    found = bisect(base, other, no_checkpoint)
    assert (found.same, found.step, found.tensor, found.by) == (False, 7, KERNEL, "fingerprints")
    text = "\n".join(found.lines)
    assert f"the parameters        other, 1 of 2 tensors: {KERNEL}" in text
    assert "the averages          the same" in text
    assert "The arithmetic differed: all that went into step 6 was the same" in text


def test_a_swapped_row_of_a_batch_is_found_at_its_step(base: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "b", of=changed_at(None), batch_at=swapped_at(5))
    found = bisect(base, other, no_checkpoint)
    assert (found.step, found.tensor) == (5, "batch/x")
    text = "\n".join(found.lines)
    assert "The data differed first" in text
    assert "the parameters        the same" in text


def test_another_seed_is_told_by_the_key(base: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "b", {"run": {"seed": 3}}, of=changed_at(None), seed=3)
    found = bisect(base, other, no_checkpoint)
    assert (found.step, found.tensor) == (0, "key")
    assert found.config == {"run.seed": [0, 3]}
    assert "The key differed first" in "\n".join(found.lines)
    assert "Other at the same step: the parameters and the averages." in "\n".join(found.lines)


def test_another_learning_rate_is_told_by_its_name(base: Run, tmp_path: Path) -> None:
    hyper = {**toy.HYPER, "lr": toy.HYPER["lr"] * (1 + 1e-6)}
    other = train(tmp_path / "b", of=changed_at(None), hyper=hyper)
    found = bisect(base, other, no_checkpoint)
    assert (found.step, found.tensor) == (0, "hyper/lr")
    assert "A number that the step reads differed first" in "\n".join(found.lines)


def test_other_first_weights_are_told_as_such(base: Run, tmp_path: Path) -> None:
    def prepare(state: Any) -> Any:
        model = jax.tree.map(lambda x: x + 1e-3, state.params["model"])
        return state.replace(params={"model": model})

    other = train(tmp_path / "b", of=changed_at(None), more={"prepare": prepare})
    found = bisect(base, other, no_checkpoint)
    assert found.step == 0
    assert found.tensor == "params/model/first/bias"
    assert "The runs began with other numbers" in "\n".join(found.lines)


def test_between_two_rows_of_an_interval_nothing_is_claimed(base: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "b", of=changed_at(7), fingerprint=3)
    found = bisect(base, other, no_checkpoint)
    assert found.step == 9
    text = "\n".join(found.lines)
    assert "All was the same at step 6; between it and step 9 nothing is known" in text
    assert "4 steps could be compared" in text


def test_what_was_restored_wrongly_is_told(base: Run, tmp_path: Path) -> None:
    """The other run is stopped at 8, and goes on from a checkpoint that another run made."""
    train(tmp_path / "b", of=changed_at(6, bit=20), steps=8, save_every=4)
    other = train(tmp_path / "b", of=changed_at(None), save_every=4)
    file = tmp_path / "b" / run_prints.FILE
    good = (base.path / run_prints.FILE).read_bytes().split(b"\n")[:9]
    bad = file.read_bytes().split(b"\n")[9:]
    file.write_bytes(b"\n".join([*good, *bad]))
    found = bisect(base, other, no_checkpoint)
    assert found.step == 8
    assert "was started again at this very step" in "\n".join(found.lines)


def test_the_last_step_is_told_by_the_checkpoint_after_it(base: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "b", of=changed_at(12), save_every=4)
    places = [run.path / "checkpoints" for run in (base, other)]
    found = bisect(base, other, lambda step: run_prints.difference(*places, step))
    assert (found.step, found.tensor, found.by) == (12, KERNEL, "checkpoints")
    assert "1 of 4 values differ" in found.lines[0]


# --- the same, other lengths, missing files --------------------------------------------------


def test_two_runs_that_are_the_same(base: Run, tmp_path: Path, capsys: Any) -> None:
    other = train(tmp_path / "b", of=changed_at(None), save_every=4)
    assert main(["bisect", str(base.path), str(other.path)]) == 0
    out = capsys.readouterr().out
    assert "are the same at all 12 steps that both have fingerprints of (steps 0 to 11)" in out
    assert "The checkpoints of step 12, after the last of them, are the same too." in out
    assert "No setting differs." in out
    assert "The environment is the same." in out


def test_remarks_of_one_line_each(base: Run, tmp_path: Path) -> None:
    """A shorter run, stopped in between, without env.json and with another tensor."""
    train(tmp_path / "b", of=changed_at(None), steps=4, save_every=4)
    other = train(tmp_path / "b", of=changed_at(None), steps=8, save_every=4)
    (tmp_path / "b" / "env.json").unlink()
    found = bisect(base, other, no_checkpoint)
    assert found.same
    assert "at all 8 steps" in found.lines[0]
    assert found.lines[1:] == [
        f"{other.path} has no env.json: that can't be compared.",
        f"{base.path} has fingerprints up to step 11, {other.path} up to step 7.",
        f"{other.path} was started again at step 4.",
    ]


def test_without_fingerprints_metrics_and_checkpoints_tell_what_they_can(
    base: Run, tmp_path: Path, capsys: Any
) -> None:
    other = train(
        tmp_path / "my run", of=changed_at(6, bit=23), fingerprint=0, save_every=4, keep=3
    )
    status = json.loads((other.path / "status.json").read_text())
    words = ["/x/aigc", "train", "recipe.py", "--workdir", "my run", "--config.run.fingerprint=2"]
    (other.path / "status.json").write_text(json.dumps({**status, "command": words}))
    capsys.readouterr()
    assert main(["bisect", str(base.path), str(other.path), "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["by"]) == (8, "metrics")
    text = "\n".join(found["lines"])
    assert "Checkpoints that are the same: of step 4." in text
    assert "The checkpoints of step 8 differ: params/model/first/" in text
    assert f"{other.path} has no fingerprints" in text
    again = f"aigc train recipe.py {FLAG} --workdir='{other.path}-fingerprint'"
    assert again == rerun(Run(other.path))
    assert f"  {again}" in found["lines"]
    assert f"  aigc bisect {base.path}-fingerprint '{other.path}-fingerprint'" in found["lines"]


def test_nothing_in_common_is_said(base: Run, tmp_path: Path, capsys: Any) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "status.json").write_text("{}")
    found = bisect(base, Run(bare), no_checkpoint)
    assert "have nothing in common that could be compared" in found.lines[0]
    assert main(["bisect", str(base.path), str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not there" in capsys.readouterr().err


# --- resumed, killed, rolled back ------------------------------------------------------------


def test_a_run_that_goes_back_has_each_step_once(tmp_path: Path) -> None:
    poisoned = lambda step: toy.batch(step, poison={6: float("nan")})  # noqa: E731
    toy.loop(tmp_path, batch_at=poisoned, save_every=4, steps_per_call=2, fingerprint=True,
             on_bad="rollback").run()  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / run_prints.FILE).read_text().splitlines()]
    assert [row["step"] for row in rows if "prints" in row] == list(range(12))
    found = prints.read(tmp_path)
    assert found.starts == [0, 4]
    # Step 4 was taken with the batch after the bad one.
    assert found.row(4)["batch/x"] == f"{fingerprint_host(toy.batch(7)['x']):08x}"


def test_the_step_that_went_bad_is_there_too(tmp_path: Path) -> None:
    poisoned = lambda step: toy.batch(step, poison={6: float("nan")})  # noqa: E731
    with pytest.raises(BadNumbers):
        toy.loop(tmp_path, batch_at=poisoned, steps_per_call=1, fingerprint=True).run()
    assert {5, 6} <= set(prints.read(tmp_path).rows)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, run whole with fingerprints and without."""
    folder = tmp_path_factory.mktemp("home")
    recipe = process.recipe(folder)
    # Without samples, which take longest to compile.
    lines = [line for line in recipe.read_text().splitlines() if '"samples"' not in line]
    recipe.write_text("\n".join(lines))
    for name, words in (("plain", []), ("whole", [FLAG])):
        done = process.aigc("train", "recipe.py", f"--workdir={name}", *words, folder=folder)
        assert done.code == 0, done.err
        assert done.err == ""
    return folder


def test_a_language_model_has_the_same_bits_with_fingerprints(home: Path) -> None:
    with contextlib.chdir(home):
        assert check_resume.compare(Path("plain"), Path("whole")) is None


def test_kill_9_and_resume_leave_one_consistent_file(home: Path) -> None:
    words = ["train", "recipe.py", "--workdir=killed", FLAG]
    for mark in ("step 6", "step 9"):
        run = process.Process(*words, folder=home)
        if run.until(lambda run=run, mark=mark: mark in run.out):
            run.send(signal.SIGKILL)
        run.end()
    last = process.aigc(*words, folder=home)
    assert last.code == 0, last.err
    whole, killed = prints.read(home / "whole"), prints.read(home / "killed")
    assert killed.rows == whole.rows
    lines = (home / "killed" / run_prints.FILE).read_text().splitlines()
    assert len(lines) == 12 + len(killed.starts)
    found = process.aigc("bisect", "whole", "killed", folder=home)
    assert found.code == 0, found.err
    assert "are the same at all 12 steps" in found.out
    assert found.err == ""


def test_the_command_prints_steps_and_checkpoints(home: Path) -> None:
    found = process.aigc("fingerprint", "whole", folder=home)
    assert found.code == 0, found.err
    lines = found.out.splitlines()
    assert lines[0].split() == ["step", "batch", "key", "hyper", "params", "vars", "opt", "ema"]
    eight, saved = (
        next(line.split()[-5:] for line in lines if line.startswith(head))
        for head in ("8 ", "checkpoint 8")
    )
    assert eight == saved
    one = process.aigc("fingerprint", "whole", "--step=8", folder=home)
    assert "The checkpoint is what went into step 8: all" in one.out
    assert one.err == ""
    none = process.aigc("fingerprint", "whole", "--step=99", folder=home)
    assert (none.code, none.err.count("\n")) == (2, 1)
    assert "fingerprints of steps 0 to 11, checkpoints of 8, 12" in none.err

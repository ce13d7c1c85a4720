"""A checkpoint goes on in another form: another mesh, other layers, another dtype, in another run.

The meshes have a process of their own each, since the number of devices is set before JAX starts.
"""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import process
import pytest
from test_resume import at

from aigc_jax.core import tree
from aigc_jax.core.task import State
from aigc_jax.errors import UserError
from aigc_jax.models.stacking import stack
from aigc_jax.train import adapt, graft
from aigc_jax.train.checkpoint import Checkpoints

LAYERS = 3


def curve(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 8x1 devices, and one that was killed as step 9 began; it had saved at 6."""
    home = tmp_path_factory.mktemp("home")
    process.recipe(home, samples=False)
    done = process.aigc(*words("whole"), folder=home, XLA_FLAGS=process.devices(8))
    assert done.code == 0, done.err
    ninth = at("aigc_jax.train.loop", "Loop._advance", "SIGKILL", nth=9)
    dead = process.aigc(
        *words("killed"), folder=home, first=SEALED + ninth, XLA_FLAGS=process.devices(8)
    )
    assert dead.code == -signal.SIGKILL, dead.err
    assert [p.name for p in (home / "killed/checkpoints").iterdir() if p.is_dir()] == ["6"]
    return home


# A save goes on in the background; the tests want it done before the kill.
SEALED = """
from aigc_jax.train.loop import Loop
save = Loop._save
def sealed(self):
    save(self)
    self.checkpoints.finish()
Loop._save = sealed
"""


def words(run: str, *more: str) -> list[str]:
    return ["train", "recipe.py", f"--workdir={run}", "--config.run.batch_size=8",
            "--config.run.keep=5", "--config.run.save_every=6", "--config.run.log_every=1",
            "--config.run.eval_every=0", "--config.run.steps_per_call=1", *more]  # fmt: skip


def changed(path: str, value: Any) -> tuple[str, str]:
    return f"--config.{path}={value}", f"--allow-change={path}"


# What it goes on with, on how many devices, how near its curve is to the undisturbed one.
MOVES = {
    "4x2": (changed("mesh.fsdp", 2), 8, 2e-6),
    "2x1": ((), 2, 2e-6),
    "1": ((), 1, 2e-6),
    "two processes": (("--processes=2",), 1, 2e-6),
    "scanned layers": (changed("task.model.scan", True), 1, 2e-6),
    "bfloat16 parameters": (changed("task.model.param_dtype", "bfloat16"), 1, 1e-2),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_killed_run_goes_on_in_another_form_on_the_same_curve(home: Path, name: str) -> None:
    more, count, near = MOVES[name]
    shutil.copytree(home / "killed", home / name)
    went = process.aigc(*words(name, *more), folder=home, XLA_FLAGS=process.devices(count))
    assert went.code == 0, went.err
    assert f"resumed {name} at step 6" in went.out
    expected, got = curve(home / "whole"), curve(home / name)
    assert len(expected) == len(got) == 12
    assert got[:6] == expected[:6]
    np.testing.assert_allclose(got[6:], expected[6:], rtol=near)
    # One that does not go on from where it was is farther away.
    assert abs(expected[6] - expected[0]) > 2 * near * expected[0]


def test_a_changed_mesh_is_refused_with_what_permits_it(home: Path) -> None:
    refused = process.aigc(*words("whole", "--config.mesh.fsdp=2", "--config.mesh.tensor=2"),
                           folder=home)  # fmt: skip
    assert refused.code == 2
    assert "--allow-change=mesh.fsdp --allow-change=mesh.tensor to go on" in refused.err


def whole_state(dtype: Any = jnp.float32, *, seed: int = 0) -> State:
    """A state of unrolled layers whose numbers are all different, with moments and an average."""
    draw = np.random.default_rng(seed)

    def network() -> dict[str, Any]:
        layer = lambda: {"mlp": {"kernel": draw.normal(size=(4, 2)), "bias": draw.normal(size=2)}}  # noqa: E731
        made = {f"block_{i}": layer() for i in range(LAYERS)} | {"embed": draw.normal(size=(5, 4))}
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), made)

    moments = [{"count": jnp.int32(3), "mu": {"model": network()}}, {}]
    return State(
        jnp.int32(3), jax.random.key(1), {"model": network()}, {"main": moments}, {},
        {"model": network()}, {"lr": jnp.float32(0.1)},
    )  # fmt: skip


def scanned(state: State) -> State:
    main = state.opt["main"]
    mu = {"model": stack(main[0]["mu"]["model"])}
    return state.replace(
        params={"model": stack(state.params["model"])},
        ema={"model": stack(state.ema["model"])},
        opt={"main": [{**main[0], "mu": mu}, main[1]]},
    )


def place(state: State) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda _: device, state)


def through(folder: Path, saved: State, wanted: State) -> State:
    """Saves one state and restores it in the form of another."""
    checkpoints = Checkpoints(folder, warn=pytest.fail)
    try:
        checkpoints.save(saved, {}, {})
        checkpoints.finish()
        restored = checkpoints.restore(jax.eval_shape(lambda: wanted), place(wanted))
    finally:
        checkpoints.close()
    assert restored is not None
    return restored[0]


def same(got: State, expected: State) -> None:
    raw = lambda s: s.replace(key=jax.random.key_data(s.key))  # noqa: E731
    assert tree.first_difference(raw(got), raw(expected)) is None


def test_unrolled_layers_become_scanned_ones_and_back(tmp_path: Path) -> None:
    state = whole_state()
    other = scanned(whole_state(seed=9))
    same(through(tmp_path / "a", state, other), scanned(state))
    same(through(tmp_path / "b", scanned(state), whole_state(seed=9)), state)


def test_parameters_take_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    state = whole_state()
    half = whole_state(jnp.bfloat16)
    same(through(tmp_path / "a", state, half), half)
    back = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, half)
    same(through(tmp_path / "b", half, state), back)
    # Both at once.
    same(through(tmp_path / "c", state, scanned(half)), scanned(half))


def test_layers_that_do_not_fit_are_listed_by_their_own_names(tmp_path: Path) -> None:
    state = whole_state()
    fewer = dict(state.params["model"])
    del fewer["block_1"]
    for saved, wanted, told in (
        (state.replace(params={"model": fewer}), scanned(state),
         "missing: params/model/blocks/mlp/bias [3, 2], params/model/blocks/mlp/kernel [3, 4, 2];"
         " extra: params/model/block_0/mlp/bias [2]"),
        (scanned(state), state.replace(params={"model": fewer}),
         "extra: params/model/blocks/mlp/bias [3, 2]"),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            through(tmp_path / told[:5], saved, wanted)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def test_lists_are_sorted_as_a_person_counts_and_short() -> None:
    names = {f"block_{i}/x": jnp.zeros((i,)) for i in range(12)}
    words = adapt.plan(names, {}).problems
    assert words.startswith("missing: block_0/x [0], block_1/x [1], block_2/x [2], ")
    assert words.endswith("block_7/x [7] and 4 more")


# --- into another run -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one checkpoint of unrolled layers."""
    folder = tmp_path_factory.mktemp("other")
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(whole_state(), {}, {})
    checkpoints.finish()
    checkpoints.close()
    return folder


def test_a_pattern_renames_takes_a_part_and_says_what_it_left(other: Path) -> None:
    source, fresh = whole_state().params["model"], whole_state(seed=9)
    renamed = {f"layer{i}": fresh.params["model"][f"block_{i}"] for i in range(LAYERS)}
    fresh = fresh.replace(params={"model": {**renamed, "embed": fresh.params["model"]["embed"]}},
                          ema={}, opt={})  # fmt: skip
    said: list[str] = []
    entry = {r"params/model/layer([01])/(.*)": rf"{other}/params/model/block_\1/\2"}
    new = graft.initial(fresh, entry, said.append).params["model"]
    for i in range(LAYERS):
        expected = source[f"block_{i}"] if i < 2 else renamed["layer2"]
        assert tree.first_difference(new[f"layer{i}"], expected) is None
    assert len(said) == 1
    assert "4 arrays (20 numbers)" in said[0]
    assert said[0].endswith(
        "left as initialised: params/model/embed [5, 4], params/model/layer2/mlp/bias [2],"
        " params/model/layer2/mlp/kernel [4, 2]"
    )


def test_a_whole_part_goes_into_scanned_layers_and_their_average(other: Path) -> None:
    fresh = scanned(whole_state(jnp.bfloat16, seed=9))
    new = graft.initial(fresh, {"params/model": f"{other}/ema/model"}, lambda line: None)
    expected = scanned(whole_state(jnp.bfloat16)).ema
    assert tree.first_difference(new.params, expected) is None
    assert tree.first_difference(new.ema, expected) is None


@pytest.mark.parametrize(
    ("here", "there", "told"),
    [
        (r"params/model/block_(\d)/(.*)", r"params/model/b_\1/\2", "missing: params/model/b_0/mlp"),
        (r"params/model/(embed)", r"params/model/block_0/mlp/kernel", "[4, 2] for [5, 4]"),
        (r"params/model/block_(\d)", r"params/model/b_\1", "matches none of this model's arrays"),
        (r"params/model/block_(\d/.*)", r"params/model/embed", "for several arrays"),
        (r"params/model/(block_\d/.*)", r"params/model/\2", "is no pattern and replacement"),
        (r"params/model/(*)", r"params/model/\1", "is no pattern and replacement"),
    ],
)
def test_a_pattern_that_does_not_fit_is_one_line(
    other: Path, here: str, there: str, told: str
) -> None:
    with pytest.raises(UserError) as caught:
        graft.initial(whole_state(seed=9), {here: f"{other}/{there}"})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# --- memory -----------------------------------------------------------------------------------

MEMORY = """
import resource, sys
import jax, jax.numpy as jnp
from pathlib import Path
from aigc_jax.core.task import State
from aigc_jax.train.checkpoint import Checkpoints

LAYERS, WIDTH = 4, 1024
PARTS = {"a": 2, "b": 1, "c": 4, "d": 1, "e": 3, "f": 1}  # stacks of 16 to 64 MiB, 192 in all


def state(form):
    whole = {part: (size * WIDTH, WIDTH) for part, size in PARTS.items()}
    one = lambda i: {part: {"kernel": jnp.full(shape, float(i))} for part, shape in whole.items()}
    if form == "scanned":
        net = {"blocks": {p: {"kernel": jnp.zeros((LAYERS, *s))} for p, s in whole.items()}}
    else:
        net = {f"block_{i}": one(i) for i in range(LAYERS)}
    return State(jnp.int32(1), jax.random.key(0), {"model": net}, {}, {}, {}, {})


what, folder, form = sys.argv[1:]
checkpoints = Checkpoints(Path(folder))
if what == "save":
    checkpoints.save(state(form), {}, {})
    checkpoints.finish()
else:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: state(form))
    jax.jit(lambda: jnp.stack([jnp.zeros(9)] * LAYERS))()
    rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    before = rss()
    restored = checkpoints.restore(shapes, jax.tree.map(lambda _: device, shapes))
    jax.block_until_ready(restored)
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(restored[0].params))
    print((rss() - before) / size)
checkpoints.close()
"""


@pytest.mark.parametrize("kept", ["unrolled", "scanned"])
@pytest.mark.parametrize("wanted", ["unrolled", "scanned"])
def test_a_restore_needs_one_copy_in_host_memory(kept: str, wanted: str, tmp_path: Path) -> None:
    (tmp_path / "memory.py").write_text(MEMORY)

    def run(*more: str) -> str:
        ended = subprocess.run(
            [sys.executable, str(tmp_path / "memory.py"), *more], capture_output=True, text=True,
            env={"PYTHONPATH": str(process.HOUSE), "PATH": "/usr/bin:/bin",
                 "HOME": str(tmp_path), "PYTHONWARNINGS": "error",
                 "MALLOC_MMAP_THRESHOLD_": "1048576"},  # what is freed counts as free
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run("save", str(tmp_path / "checkpoints"), kept)
    # Of 201 MB: one copy, and the few arrays that are being read; the largest is a third of all.
    assert float(run("restore", str(tmp_path / "checkpoints"), wanted)) < 1.5

"""Devices agree: eight pretended ones, in a process of their own, since JAX counts them once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import process
import pytest
from jax.sharding import AbstractMesh

from aigc_jax.errors import UserError
from aigc_jax.train import sharding
from aigc_jax.train.program import global_batch

ON_EIGHT = """
import sys, tempfile
from pathlib import Path
import jax, numpy as np
import toy
from aigc_jax.core import tree
from aigc_jax.errors import UserError
from aigc_jax.train import program, sharding

assert jax.device_count() == 8
base = Path(tempfile.mkdtemp())
task = toy.task(steps=10, width=4, hidden=16)


def refused(words, **mesh):
    try:
        placement = sharding.make(**mesh)
        placement.state(jax.eval_shape(task.init, jax.random.key(0), hyper))
        program.global_batch(toy.batch(0), placement)
    except UserError as error:
        assert words in str(error) and "\\n" not in str(error), str(error)
    else:
        raise AssertionError(f"{mesh} was taken")


def run(name, mesh, keep):
    loop = toy.loop(base / name, of=task, steps=10, log_every=1, mesh=mesh, steps_per_call=4)
    state = loop.run().state
    keep[name] = (toy.leaves(state), toy.rows(base / name), state)
    return loop


hyper = {name: np.float32(value) for name, value in toy.HYPER.items()}
meshes = {
    "one": None,
    "8x1": {"data": -1},
    "4x2": {"data": 4, "tensor": 2, "rules": (("hidden/kernel", (None, "tensor")),)},
    "fsdp": {"data": -1, "fsdp": 4},
}
found = {}
for name, mesh in meshes.items():
    if mesh is None:  # one device of the eight
        place = sharding.Placement(jax.sharding.Mesh(
            np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), sharding.AXES))
        made, sharding.make = sharding.make, lambda **_: place
        run(name, {}, found)
        sharding.make = made
    else:
        run(name, mesh, found)
reference, rows, _ = found["one"]
for name in ("8x1", "4x2", "fsdp"):
    leaves, others, state = found[name]
    for leaf in reference:
        np.testing.assert_allclose(
            leaves[leaf], reference[leaf], rtol=2e-5, atol=2e-6, err_msg=leaf)
    for a, b in zip(rows, others, strict=True):
        for metric in a:
            assert abs(a[metric] - b[metric]) <= 1e-5 * max(1, abs(a[metric])), (name, metric, a, b)
moved = np.abs(found["one"][0]["params/model/hidden/kernel"]
               - toy.leaves(task.init(jax.random.key(0), hyper))["params/model/hidden/kernel"])
assert moved.max() > 1e-2, "nothing was learned, so nothing was compared"

# A ruled parameter and its optimizer's moments are split in bytes; others are whole everywhere.
state = found["fsdp"][2]
for part in (state.params, state.opt, state.ema):
    for name, leaf in tree.named_leaves(part):
        split = name.endswith("hidden/kernel") or name.endswith("first/kernel")
        sizes = {shard.data.nbytes for shard in leaf.addressable_shards}
        assert sizes == {leaf.nbytes // (4 if split else 1)}, (name, sizes)
assert len(found["one"][2].params["model"]["hidden"]["kernel"].devices()) == 1

# The rows of a batch are split, in order, over the batch axes.
placement = sharding.make(**meshes["4x2"])
rows = toy.batch(0)
stacked = program.stack([rows], 2, placement)["x"]
assert stacked.shape == (2, 8, 4)
for shard in stacked.addressable_shards:
    assert shard.data.shape == (2, 2, 4)
    np.testing.assert_array_equal(shard.data[0], rows["x"][shard.index[1]])
assert len({shard.index[1].start for shard in stacked.addressable_shards}) == 4
assert sharding.make(**meshes["fsdp"]).data_shards == 8
assert sharding.put(rows, placement.batch())["x"].sharding.spec == jax.P(("data", "fsdp"))

# How a state is spread, in words; slices of devices that pretend are runs of them.
words = sharding.make(fsdp=4).words(jax.eval_shape(task.init, jax.random.key(0), hyper))
assert words.startswith("mesh: 8 devices (data 2, fsdp 4); each holds "), words
assert "leaves are whole on each, 76B (the largest: key, 8B)" in words, words
assert "NOTHING" not in words
idle = sharding.make(data=2, tensor=2, sequence=2)
words = idle.words(jax.eval_shape(task.init, jax.random.key(0), hyper))
assert words.endswith("NOTHING is split over sequence, tensor: its devices repeat the same work")
slices = sharding.make(data=4, tensor=2, slices=2).mesh.devices
assert [d.id for d in slices[:2].ravel()] == [0, 1, 2, 3]

# A checkpoint of one mesh is restored on another.
half = toy.loop(base / "move", of=task, steps=5, log_every=1, mesh=meshes["4x2"]).run()
other = toy.loop(base / "move", of=task, steps=10, log_every=1, mesh=meshes["8x1"]).run()
for name, value in toy.leaves(other.state).items():
    np.testing.assert_allclose(value, reference[name], rtol=2e-5, atol=2e-6, err_msg=name)

refused("asks for 6 devices and there are 8", data=3, tensor=2)
refused("must multiply to a divisor of 8", data=-1, tensor=3)
refused("the others than 'data' must multiply to a divisor of 8", data=-1, fsdp=16)
refused("is not a multiple of mesh axis 'fsdp' (8)", data=1, fsdp=8,
        rules=(("first/kernel", ("fsdp",)),))
refused("'kernell' claims nothing", rules=(("kernell", ()),))
refused("mesh.slices=3: expected a divisor", slices=3)
refused("knows no other axis", mapper="pmap", fsdp=2)
toy.ROWS = 6
refused("run.batch_size=6 is not a multiple of the 8 parts")
refused("choose 8, or split something else")
print("eight agree")
"""


@pytest.mark.slow
def test_one_device_eight_and_four_by_two_agree(tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", ON_EIGHT],
        env={
            **os.environ,
            "XLA_FLAGS": process.devices(8),
            "PYTHONPATH": os.pathsep.join([str(here), str(process.HOUSE)]),
            "TMPDIR": str(tmp_path),
        },
        capture_output=True, text=True, timeout=process.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("eight agree\n")


@pytest.mark.parametrize(
    ("mesh", "words"),
    [
        ({"data": 2}, "asks for 2 devices and there are 1"),
        ({"data": -1, "fsdp": -1}, "at most one -1"),
        ({"data": 0}, "sizes of 1 or more"),
        ({"tensor": -2}, "sizes of 1 or more"),
        ({"slices": 0}, "expected a divisor of the data axis (1)"),
        ({"mapper": "vmap"}, "expected jit or pmap"),
        ({"rules": (("kernel", ("model",)),)}, "names axis 'model'; there are data, fsdp"),
        ({"rules": (("kernel", ("...", "model?")),)}, "names axis 'model'"),
        ({"rules": (".*",)}, "(regular expression, spec) pairs"),
        ({"rules": ((".*", "data"),)}, "(regular expression, spec) pairs"),
        ({"rules": ((".*", (0,)),)}, "(regular expression, spec) pairs"),
        ({"rules": ((".*", ("data", "data")),)}, "an axis twice"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_line(mesh: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        sharding.make(**mesh)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((("weight", ()),), "'weight' claims nothing"),
        ((("(", ()),), "is not a regular expression"),
        ((("kernel", ()), ("layer/kernel", ())), "'layer/kernel' claims nothing"),
    ],
)
def test_a_rule_that_does_nothing_is_refused(rules: Any, words: str) -> None:
    placement = sharding.make(rules=rules)
    leaf = jax.ShapeDtypeStruct((3, 2), np.float32)
    with pytest.raises(UserError, match=r"mesh\.rules") as caught:
        placement.state({"layer": {"kernel": leaf}})
    assert words in str(caught.value)


def leaf(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def test_the_first_rule_that_is_found_claims_a_leaf() -> None:
    placement = sharding.make(rules=(("kernel", (None, "data")),))
    found = placement.state({"kernel": leaf(3, 2), "bias": leaf(3, 2), "kernel_scale": leaf()})
    assert found["kernel"].spec == jax.P(None, "data")
    assert found["bias"].spec == jax.P()
    assert found["kernel_scale"].spec == jax.P()


def spec(name: str, shape: tuple[int, ...], rules: Any = (), **sizes: int) -> Any:
    """What rules and DEFAULT say of one leaf, on a mesh of these sizes; no device is needed."""
    whole = {axis: sizes.get(axis, 1) for axis in sharding.AXES}
    mesh = AbstractMesh(tuple(whole.values()), tuple(whole))
    placement = sharding.Placement(mesh, rules)  # type: ignore[arg-type]
    nested: Any = leaf(*shape)
    for part in reversed(name.split("/")):
        nested = {part: nested}
    return jax.tree.leaves(placement.state(nested))[0].spec


BLOCK = "params/model/block_3"


def test_what_xla_differentiates_wrongly_is_refused() -> None:
    """See decision 0018; a transformer says where its activations lie, and is right."""
    rules = (("kernel$", ("tensor", "fsdp")),)
    dense = "params/model/encoder/hidden_0/kernel"
    for name in (dense, f"opt/mu/{dense}"):
        with pytest.raises(UserError, match=r"hidden_0/kernel is split .* wrong gradients"):
            spec(name, (8, 16), rules, fsdp=2, tensor=2)
    assert spec(dense, (8, 16), rules, data=2, tensor=2) == jax.P("tensor", "fsdp")
    both = (("kernel$", (None, ("fsdp", "tensor"))),)
    assert spec(dense, (8, 16), both, fsdp=2, tensor=2) == jax.P(None, ("fsdp", "tensor"))
    block = spec(f"{BLOCK}/mlp/out/kernel", (8, 16), rules, fsdp=2, tensor=2)
    assert block == jax.P("tensor", "fsdp")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        (f"{BLOCK}/attention/qkv/kernel", (8, 24), ("fsdp", "tensor")),
        (f"{BLOCK}/attention/out/kernel", (8, 8), ("tensor", "fsdp")),
        (f"{BLOCK}/mlp/gate/kernel", (8, 24), ("fsdp", "tensor")),
        (f"{BLOCK}/mlp/out/kernel", (24, 8), ("tensor", "fsdp")),
        (f"{BLOCK}/mlp/hidden/bias", (24,), ("tensor",)),
        (f"{BLOCK}/mlp/out/bias", (8,), ()),
        (f"{BLOCK}/mlp_norm/scale", (8,), ()),
        # Stacked layers, and what an optimizer keeps of a matrix.
        ("params/model/blocks/mlp/out/kernel", (3, 24, 8), (None, "tensor", "fsdp")),
        ("opt/main/mu/model/block_0/mlp/out/kernel", (24, 8), ("tensor", "fsdp")),
        ("opt/main/rows/model/block_0/mlp/out/kernel", (24,), ()),
        ("opt/main/nu/model/block_0/mlp/out/kernel", (7, 8), (None, "fsdp")),
        # A vocabulary goes where it divides.
        ("params/model/embed", (12, 8), ("tensor", "fsdp")),
        ("params/model/embed", (65, 8), (None, "fsdp")),
        ("params/model/position_embed", (12, 8), ()),
        # Other networks, by what a layer gives.
        ("params/generator/up_0/kernel", (4, 4, 6, 8), (None, None, None, "fsdp")),
        ("params/generator/out/kernel", (4, 4, 8, 3), ()),
    ],
)
def test_the_default_rules(name: str, shape: tuple[int, ...], expected: tuple[Any, ...]) -> None:
    assert spec(name, shape, fsdp=2, tensor=2) == jax.P(*expected)


def test_a_parameter_that_does_not_divide_is_named() -> None:
    with pytest.raises(UserError) as caught:
        spec(f"{BLOCK}/mlp/out/kernel", (24, 8), tensor=5)
    assert (
        f"{BLOCK}/mlp/out/kernel has shape [24, 8], and 24 is not a multiple of mesh axis"
        in str(caught.value)
    )


def test_a_batch_is_global() -> None:
    shapes = global_batch({"x": np.zeros((8, 3), np.int32)}, sharding.make())
    assert shapes["x"].shape == (8, 3)
    assert shapes["x"].dtype == np.int32

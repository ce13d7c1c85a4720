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
fsdp = (("hidden/kernel", (None, "model")), (".*", ()))
meshes = {
    "one": None,
    "8x1": {"axes": (("data", -1), ("model", 1))},
    "4x2": {"axes": (("data", 4), ("model", 2)), "rules": fsdp},
    "fsdp": {"axes": (("data", 2), ("model", 4)), "rules": fsdp, "batch_axes": ("data", "model")},
}
found = {}
for name, mesh in meshes.items():
    if mesh is None:  # one device of the eight
        only = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
        place = sharding.Placement(only, ((".*", ()),), ("data",))
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
        split = "hidden/kernel" in name
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
assert sharding.put(rows, placement.batch())["x"].sharding.spec == jax.P(("data",))

# A checkpoint of one mesh is restored on another.
half = toy.loop(base / "move", of=task, steps=5, log_every=1, mesh=meshes["4x2"]).run()
other = toy.loop(base / "move", of=task, steps=10, log_every=1, mesh=meshes["8x1"]).run()
for name, value in toy.leaves(other.state).items():
    np.testing.assert_allclose(value, reference[name], rtol=2e-5, atol=2e-6, err_msg=name)

refused("asks for 6 devices and there are 8", axes=(("data", 3), ("model", 2)))
refused("asks for 6 devices", axes=(("data", -1), ("model", 3)))
refused("is not a multiple of mesh axis 'model' (8)", axes=(("data", 1), ("model", 8)),
        rules=(("first/kernel", ("model",)), (".*", ())))
refused("no rule claims", axes=(("data", 8),), rules=(("kernel", ()),))
refused("an axis twice", axes=(("data", 8),), rules=((".*", ("data", "data")),))
toy.ROWS = 6
refused("run.batch_size=6 is not a multiple of the 8 parts", axes=(("data", 8),))
print("eight agree")
"""


@pytest.mark.slow
def test_one_device_eight_and_four_by_two_agree(tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", ON_EIGHT],
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
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
        ({"axes": (("data", 2),)}, "asks for 2 devices and there are 1"),
        ({"axes": (("data", -1), ("model", -1))}, "at most one -1"),
        ({"axes": (("data", 0),)}, "sizes of 1 or more"),
        ({"axes": (("data", -2),)}, "sizes of 1 or more"),
        ({"axes": ()}, "(name, size) pairs"),
        ({"axes": ("data", -1)}, "(name, size) pairs"),
        ({"axes": (("data", "all"),)}, "(name, size) pairs"),
        ({"axes": (("data", 1), ("data", 1))}, "names of their own"),
        ({"axes": (("rows", 1),)}, "names axis 'data'; axes has rows"),
        ({"rules": (("kernel", ("model",)), (".*", ()))}, "names axis 'model'; axes has data"),
        ({"rules": (".*",)}, "(regular expression, spec) pairs"),
        ({"rules": ((".*", "data"),)}, "(regular expression, spec) pairs"),
        ({"rules": ((".*", (0,)),)}, "(regular expression, spec) pairs"),
        ({"batch_axes": ()}, "expected one axis or more"),
        ({"batch_axes": ("data", "data")}, "each once"),
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
        ((("weight", ()),), "no rule claims layer/kernel"),
        ((("(", ()), (".*", ())), "is not a regular expression"),
    ],
)
def test_a_leaf_without_a_rule_is_refused(rules: Any, words: str) -> None:
    placement = sharding.make(rules=rules)
    leaf = jax.ShapeDtypeStruct((3, 2), np.float32)
    with pytest.raises(UserError, match=r"mesh\.rules") as caught:
        placement.state({"layer": {"kernel": leaf}})
    assert words in str(caught.value)


def test_the_first_rule_that_is_found_claims_a_leaf() -> None:
    placement = sharding.make(rules=(("kernel", (None, "data")), (".*", ())))
    leaf = jax.ShapeDtypeStruct((3, 2), np.float32)
    scalar = jax.ShapeDtypeStruct((), np.float32)
    found = placement.state({"kernel": leaf, "bias": leaf, "kernel_scale": scalar})
    assert found["kernel"].spec == jax.P(None, "data")
    assert found["bias"].spec == jax.P()
    assert found["kernel_scale"].spec == jax.P()


def test_a_batch_is_global() -> None:
    shapes = global_batch({"x": np.zeros((8, 3), np.int32)}, sharding.make())
    assert shapes["x"].shape == (8, 3)
    assert shapes["x"].dtype == np.int32

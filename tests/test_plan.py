"""What is planned before a run: collectives of a program's text, formulas, rooflines, proposals."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import process
import pytest

from aigc_jax.cli import ahead
from aigc_jax.cli.main import main
from aigc_jax.core import devices
from aigc_jax.errors import UserError
from aigc_jax.models.transformer import Transformer
from aigc_jax.train import collectives, estimate, formulas, hlo, proposals
from aigc_jax.train.collectives import Collective
from aigc_jax.train.formulas import Plan, Shape

MESH = {"data": 2, "fsdp": 2, "tensor": 2}

PROGRAM = """
HloModule example

%body (carry: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %carry = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %part = f32[8,4]{1,0} get-tuple-element(%carry), index=1
  %whole = f32[16,4]{1,0} all-gather(%part), replica_groups=[4,2]<=[2,2,2]T(2,0,1), dimensions={0}
  %piece = f32[8,4]{1,0} slice(%whole), slice={[0:8], [0:4]}
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%i, %piece)
}

%cond (carry.1: (s32[], f32[8,4])) -> pred[] {
  %carry.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%carry.1), index=0
  %limit = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%keep (whole.1: f32[8,4], at: s32[]) -> f32[4,4] {
  %whole.1 = f32[8,4]{1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %mine = f32[4,4]{1,0} dynamic-slice(%whole.1, %at, %at), dynamic_slice_sizes={4,4}
}

ENTRY %main (x: f32[8,4], y: s32[]) -> (f32[4,4], f32[8,4]) {
  %x = f32[8,4]{1,0} parameter(0)
  %y = s32[] parameter(1)
  %start = (s32[], f32[8,4]{1,0}) tuple(%y, %x)
  %loop = (s32[], f32[8,4]{1,0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %sum = (f32[8,4]{1,0}, /*index=1*/f32[8,4]{1,0}) all-reduce(%x, %x), replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
  %first = f32[8,4]{1,0} get-tuple-element(%sum), index=0
  %second = f32[8,4]{1,0} get-tuple-element(%sum), index=1
  %mine.1 = f32[4,4]{1,0} fusion(%first, %y), kind=kLoop, calls=%keep
  %all = f32[8,4]{1,0} negate(%second)
  %moved = f32[8,4]{1,0} collective-permute(%all), source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %alone = f32[8,4]{1,0} all-reduce(%moved), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}
  %long = f32[8,8]{1,0} all-gather(%moved), replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([2,2,2]T(1,0,2)) {'b'}, dimensions={1}
  ROOT %out = (f32[4,4]{1,0}, f32[8,4]{1,0}) tuple(%mine.1, %all)
}
"""  # noqa: E501


def test_a_programs_collectives_are_read() -> None:
    found, unknown = collectives.find(PROGRAM, MESH)
    got = {(c.kind, c.axes, c.parts, c.bytes, c.times) for c in found}
    f32 = 4 * 8 * 4  # the bytes of an [8, 4]
    assert got == {
        # (2,0,1) puts tensor outermost, so that pairs differ in fsdp; three turns of the loop.
        ("all-gather", ("fsdp",), 2, 2 * f32, 3),
        # One half of the sum's first array is kept: scattered over fsdp, the halves then summed.
        ("reduce-scatter", ("fsdp",), 2, f32, 1),
        ("all-reduce", ("data",), 2, f32 / 2, 1),
        ("all-reduce", ("data", "fsdp"), 4, f32, 1),
        ("collective-permute", ("tensor",), 2, f32, 1),
        # Its own mesh has the two outer axes swapped: its 'b' is data.
        ("all-gather", ("data",), 2, 2 * f32, 1),
    }
    assert unknown == 0
    by_kind = {(c.kind, c.axes): c for c in found}
    assert by_kind["all-gather", ("data",)].group == (0, 4)
    assert by_kind["reduce-scatter", ("fsdp",)].split
    # Rings: a half is sent of what is gathered by two, three halves of what four sum.
    assert by_kind["all-gather", ("fsdp",)].sent == 3 * f32
    assert by_kind["all-reduce", ("data", "fsdp")].sent == 1.5 * f32
    assert collectives.table(found)["fsdp"] == {"all-gather": 6 * f32, "reduce-scatter": f32}


@pytest.mark.parametrize(
    ("groups", "axes", "group"),
    [
        ("replica_groups=[2,4]<=[8]", ("fsdp", "tensor"), (0, 1, 2, 3)),
        ("replica_groups=[1,8]<=[8]", ("data", "fsdp", "tensor"), tuple(range(8))),
        ("replica_groups={}", ("data", "fsdp", "tensor"), tuple(range(8))),
        ("replica_groups=[4,2]<=[4,2]T(1,0)", ("fsdp",), (0, 2)),
        ("replica_groups=mesh['a'=8] {'a':(2)2}", ("fsdp",), (0, 2)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}", ("data",), (0, 4)),
    ],
)
def test_groups_are_read_in_every_form(
    groups: str, axes: tuple[str, ...], group: tuple[int, ...]
) -> None:
    text = (
        "ENTRY %main (x: f32[8]) -> f32[8] {\n  %x = f32[8]{0} parameter(0)\n"
        f"  ROOT %sum = f32[8]{{0}} all-reduce(%x), {groups}, to_apply=%add\n}}\n"
    )
    (found,), _ = collectives.find(text, MESH)
    assert (found.axes, found.group, found.bytes) == (axes, group, 32)


def test_16_bits_that_the_cpu_widens_count_as_16() -> None:
    text = """
%round (a: f32[8]) -> bf16[8] {
  %a = f32[8]{0} parameter(0)
  ROOT %b = bf16[8]{0} convert(%a)
}

ENTRY %main (x: bf16[8]) -> (bf16[8], f32[16]) {
  %x = bf16[8]{0} parameter(0)
  %wide = f32[8]{0} convert(%x)
  %sum = f32[8]{0} all-reduce(%wide), replica_groups=[4,2]<=[8], to_apply=%add
  %thin = bf16[8]{0} fusion(%sum), kind=kLoop, calls=%round
  %whole = f32[16]{0} all-gather(%wide), replica_groups=[4,2]<=[8], dimensions={0}
  %none = f32[16]{0} negate(%whole)
  %twice = bf16[8]{0} add(%thin, %thin)
  ROOT %out = (bf16[8]{0}, f32[16]{0}) tuple(%twice, %none)
}
"""
    found, _ = collectives.find(text, MESH)
    assert {c.kind: c.bytes for c in found} == {"all-reduce": 16, "all-gather": 32}


def test_a_loop_of_unknown_length_counts_once_and_is_told() -> None:
    untold = PROGRAM.replace("known_trip_count", "init")
    found, unknown = collectives.find(untold, MESH)
    assert (unknown, max(c.times for c in found)) == (0, 5)  # what its condition compares with
    found, unknown = collectives.find(untold.replace("constant(5)", "parameter(1)"), MESH)
    assert unknown == 1
    assert {c.times for c in found} == {1}
    assert hlo.size("bf16", (3, 2)) == 12
    assert hlo.size("pred", (5,)) == 5
    assert hlo.size("f8e4m3fn", (4,)) == 4


def test_a_roofline_by_hand() -> None:
    device = devices.Device("X", 100.0, 50.0, 1e3, 10.0, 2, 4.0, 1.0, "nobody")
    near = Collective("all-gather", ("tensor",), 2, (0, 1), 8.0, 3)
    # Two groups of two: 16 bytes, half of them within at 4 a second; between, half at 2 together.
    far = Collective("all-reduce", ("data",), 4, (0, 1, 2, 3), 16.0, 1)
    assert estimate.seconds(near, device) == 3 * 8 * 0.5 / 4
    assert estimate.seconds(far, device) == 2 * max(16 * 0.5 / 4, 16 * 0.5 / 2)
    alone = far._replace(parts=2, group=(0, 2))
    assert estimate.seconds(alone, device) == 2 * 16 * 0.5 / 1
    step = estimate.step(device, 2, 500.0, 400.0, 20.0, [near, far])
    assert (step.products, step.memory, step.hidden, step.exposed) == (5.0, 2.0, 8.0, 3.0)
    assert step.seconds == 8.0 + 3.0
    assert step.mfu == pytest.approx(400 / 100 / 11)
    assert step.bound == "data"


# GPT-2's smallest, as published: 124,439,808 parameters, of which 102,144 are biases.
GPT2 = Shape(12, 768, 12, 768, 3072, 2, 50257, 1024, 1024, True, 2, 2, 0, True)


def test_formulas_by_hand() -> None:
    assert GPT2.parameters == 124_439_808 - 102_144
    mesh = {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 2}
    plan = Plan(mesh, 64, 2, "none")
    assert plan.places(GPT2) == 64 * 1024 / 2 / 8
    work, own = formulas.flops(GPT2, plan)
    attend = 12 * 12 * 768 * 1024  # per token, forward and backward
    assert own == 64 * 1024 * (6 * (12 * GPT2.block + 50257 * 768) + attend)
    assert work == own + 64 * 1024 * attend / 6  # half of a forward pass of attention again
    found = {(c.kind, c.axes, c.bytes): c.times for c in formulas.collectives(GPT2, plan)}
    # Four sums of [B, T, C] a layer and micro-batch, and two more for embedding and logits.
    assert found["all-reduce", ("tensor",), 64 * 1024 / 2 / 8 * 768 * 2] == 2 * (4 * 12 + 2)
    assert found["all-gather", ("fsdp",), 2 * GPT2.block / 2] == 2 * 2 * 12
    assert found["all-reduce", ("data",), 2 * GPT2.block / 2 / 4] == 2 * 12
    state = formulas.memory(GPT2, plan)["state"]
    assert state == 4 * 3 * ((12 * GPT2.block + 50257 * 768) / 8 + GPT2.small)


@pytest.mark.parametrize(
    "options",
    [
        {"mlp": "gelu"},
        {"mlp": "gelu_tanh", "dtype": "bfloat16"},
        {"mlp": "swiglu", "dtype": "bfloat16", "kv_heads": 2},
        {"mlp": "relu2", "dtype": "bfloat16"},
        {"attention": "plain", "dtype": "bfloat16"},
        {"remat": "dots_no_batch", "dtype": "bfloat16"},
        {"attention": "plain", "remat": "dots_no_batch"},
        {"mlp": "swiglu", "remat": "dots_no_batch"},
        {"remat": "full", "dtype": "bfloat16"},
        {"qk_norm": True, "dtype": "bfloat16"},
        {"qk_norm": True, "kv_heads": 2, "positions": "rope", "norm": "rmsnorm"},
        {"attention": "plain", "attention_cap": 20.0},
        {"remat": "dots_no_batch", "qk_norm": True},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_activations_on_paper_are_what_jax_hands_from_one_pass_to_the_other(
    options: dict[str, Any],
) -> None:
    import jax
    import jax.numpy as jnp

    layers, time, width = 3, 80, 32
    chosen = {"attention": "blockwise", **options}
    network = Transformer(7, time, layers=layers, width=width, heads=4, scan=True, **chosen)
    tokens = jnp.zeros((1, time), jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), tokens)["params"]

    def forward(params: Any) -> jax.Array:
        y = network.apply({"params": params}, tokens, method="features")[0]
        return y.astype(jnp.float32).sum()

    kept = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(forward, p)[1], params))
    weights = [x.shape for x in jax.tree.leaves(params)]
    least = layers * time * width // 4  # numbers a row or a head are left out on paper
    found = sum(
        x.size * x.dtype.itemsize
        for x in kept
        if x.shape[:1] == (layers,) and x.shape not in weights and x.size >= least
    )

    shape = formulas.of_model(network, slots=2, chunk=0)
    plan = Plan({}, 1, 1, options.get("remat", "none"))
    deeper = shape._replace(layers=shape.layers + 1)
    more, less = (formulas.memory(one, plan)["activations"] for one in (deeper, shape))
    assert more - less == pytest.approx(found / layers, rel=1e-6)


def test_proposals_fit_or_are_none() -> None:
    device = devices.find("v5e")
    found = proposals.search(GPT2, 64, 1, 8, device)
    assert found
    seconds = [float(f"{p.time.seconds:.3g}") for p in found]
    assert seconds == sorted(seconds)
    assert all(p.bytes <= 0.9 * 16e9 and p.plan.devices == 8 for p in found)
    assert found[0].time.mfu > 0.5
    # 124 million numbers of four bytes, thrice, are 1.5 GB: on one device of 1 GB never.
    small = device._replace(memory=1e9)
    assert proposals.search(GPT2, 64, 1, 1, small) == []
    least = proposals.smallest(GPT2, 64, 1, 1, small)
    assert least is not None
    assert least.bytes > 1e9
    # On eight of 2 GB it must be split, and rows gone through in parts.
    tight = proposals.search(GPT2, 64, 1, 8, device._replace(memory=2e9))
    assert tight
    assert tight[0].plan.of("fsdp") * tight[0].plan.of("tensor") > 1


def test_a_recipe_for_one_device_keeps_its_rows_at_once_on_many() -> None:
    """480 rows in 40 parts are 12 at once on one device; on eight the same 12 are 5 parts."""
    found = proposals.search(GPT2, 480, 40, 8, devices.find("h100"))
    assert found[0].plan.mesh == {"data": 8, "fsdp": 1, "sequence": 1, "tensor": 1}
    assert found[0].plan.accumulate == 5
    alone = proposals.search(GPT2, 480, 40, 1, devices.find("h100"))
    assert alone[0].plan.accumulate == 40
    tried = {one.plan.accumulate for one in found}
    assert {1, 3, 5, 40, 60} <= tried
    assert all(480 % parts == 0 for parts in tried)


def test_a_proposal_adds_what_the_recipe_does_not_say() -> None:
    base = {
        "mesh": {"data": -1, "fsdp": 1, "sequence": 1, "tensor": 1},
        "task": {"accumulate": 4, "model": {"remat": "none", "scan": False}},
    }
    mesh = {"data": 2, "fsdp": 4, "sequence": 1, "tensor": 1}
    one = SimpleNamespace(plan=Plan(mesh, 64, 4, "full"))
    assert ahead._words(one, base, False) == [
        "--config.mesh.fsdp=4", "--config.task.model.remat=full", "--config.task.model.scan=True",
    ]  # fmt: skip
    scanned = {**base, "task": {"accumulate": 4, "model": {"remat": "full", "scan": True}}}
    assert ahead._words(one, scanned, False) == ["--config.mesh.fsdp=4"]
    whole = SimpleNamespace(plan=Plan({"data": 8}, 64, 4, "none"))
    assert ahead._words(whole, base, False) == []
    # With --mesh, what was given is not the recipe's own.
    assert ahead._words(one, base, True) == [
        "--config.mesh.data=2", "--config.mesh.fsdp=4", "--config.mesh.sequence=1",
        "--config.mesh.tensor=1", "--config.task.model.remat=full",
        "--config.task.model.scan=True",
    ]  # fmt: skip


LAUNCHES = """
%inner (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %twice = f32[4]{0} add(%a, %a)
}

%body (carry: (s32[], f32[4])) -> (s32[], f32[4]) {
  %carry = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[4]{0} get-tuple-element(%carry), index=1
  %y = f32[4]{0} fusion(%x), kind=kLoop, calls=%inner
  %z = f32[4]{0} call(%y), to_apply=%inner
  ROOT %next = (s32[], f32[4]{0}) tuple(%i, %z)
}

%cond (carry.1: (s32[], f32[4])) -> pred[] {
  ROOT %less = pred[] constant(true)
}

%short (b: f32[4]) -> f32[4] {
  ROOT %b = f32[4]{0} parameter(0)
}

%long (c: f32[4]) -> f32[4] {
  %c = f32[4]{0} parameter(0)
  %d = f32[4]{0} copy(%c)
  ROOT %e = f32[4]{0} custom-call(%d), custom_call_target="library"
}

ENTRY %main (p: f32[4], q: s32[]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %q = s32[] parameter(1)
  %start = (s32[], f32[4]{0}) tuple(%q, %p)
  %loop = (s32[], f32[4]{0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %out = f32[4]{0} get-tuple-element(%loop), index=1
  %flat = f32[4]{0} bitcast(%out)
  ROOT %end = f32[4]{0} conditional(%q, %flat, %flat), branch_computations={%short, %long}
}
"""  # noqa: E501


def test_launched_kernels_are_counted() -> None:
    """Loops as often as they turn, calls by what is in them, the longest of branches."""
    found = hlo.launched(hlo.parse(LAUNCHES))
    assert found == {"fusion": 3, "add": 3, "copy": 1, "custom-call": 1}
    assert found.total() == 8
    untold = hlo.launched(hlo.parse(LAUNCHES.replace("known_trip_count", "init")))
    assert untold["fusion"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices=none"], "--devices: expected a number of 1 or more, got 'none'"),
        (["--devices=0"], "--devices: expected a number of 1 or more"),
        (["--devices=1024"], "up to 512 can be simulated"),
        (["--devices=8", "--mesh=data:3,fsdp:2"], "the axes multiply to 6 and there are 8"),
        (["--devices=8", "--mesh=fsdp:16"], "the axes multiply to 16 and there are 8"),
        (["--mesh=fdsp:4"], "there is no axis 'fdsp'. Did you mean 'fsdp'?"),
        (["--mesh=fsdp:2,fsdp:4"], "the axis 'fsdp' stands there twice"),
        (["--mesh=fsdp:four"], "expected a number of 1 or more, got 'four'"),
        (["--target=v5q"], "there is no such device. Did you mean 'v5"),
        (["--target=h100", "--tokens=many"], "--tokens=many: expected a positive number"),
        (["--tokens=3B"], "add --target=DEVICE"),
        (["--devices=8"], "JAX has started in this process"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import jax

    jax.devices()
    monkeypatch.chdir(tmp_path)
    process.recipe(tmp_path)
    assert main(["plan", "recipe.py", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_sizes_are_read() -> None:
    def asked(devices: str | None, mesh: str | None) -> tuple[int, dict[str, int]]:
        return ahead.asked(SimpleNamespace(devices=devices, mesh=mesh))  # type: ignore[arg-type]

    assert asked("8", None) == (8, {})
    assert asked(None, "data:4,fsdp:2") == (8, {"data": 4, "fsdp": 2})
    assert asked("8", "tensor:2") == (8, {"tensor": 2, "data": 4})
    assert estimate.tokens("1.5T") == 1.5e12
    assert estimate.tokens("2e9") == 2e9
    with pytest.raises(UserError, match="expected a positive"):
        estimate.tokens("-3B")


ON_EIGHT = """
import json, os, sys
from aigc_jax.cli import ahead, wire
from aigc_jax.core import config
from aigc_jax.errors import UserError

ahead.simulate(8)
B, T, C = 16, 8, 16
words = ["--config.task.model.layers=1", "--config.task.model.width=16",
         "--config.task.model.positions=rope", "--config.run.batch_size=16"]


def compiled(*more, **mesh):
    sizes = [f"--config.mesh.{a}={mesh[a] if a in mesh else 1}"
             for a in ("data", "fsdp", "sequence", "tensor")]
    return ahead.Planned(wire.parts(config.load("recipe.py", [*words, *sizes, *more]))).compile()


def total(one, kind, axis, at_least=0):
    return sum(c.bytes * c.times for c in one.collectives
               if c.kind == kind and c.axes == (axis,) and c.bytes >= at_least)


# What splits nothing makes nothing faster.
from aigc_jax.core.devices import find
products = {}
for axis in ("data", "tensor"):
    mesh = [f"--config.mesh.{a}={8 if a == axis else 1}" for a in ("data", "tensor")]
    spec = os.path.join(os.environ["PYTHONPATH"], "configs/gan/ring.py")
    made = ahead.Planned(wire.parts(config.load(spec, [*mesh, "--config.run.batch_size=96"])))
    made.compile()
    assert made.numbers["idle_axes"] == (["tensor"] if axis == "tensor" else [])
    products[axis] = made.on(find("h100"), None)["products"]
assert abs(products["tensor"] / products["data"] - 8) < 1e-6, products

one = compiled(data=8)
P = one.numbers["parameters"]
V = one.built.data.spec.facts["vocab_size"]
assert one.numbers["devices"] == 8 and set(one.numbers["collective_bytes"]) == {"data"}
# The gradients once, the tied embedding's twice, and a few numbers of metrics and norms.
extra = total(one, "all-reduce", "data") - 4 * (P + V * C)
assert 0 <= extra <= 400, extra
shape, plan = one.paper()
from aigc_jax.train import formulas
assert shape.parameters == P, (shape.parameters, P)
assert formulas.flops(shape, plan)[0] == one.numbers["flops_a_step"]

both = compiled(fsdp=4, tensor=2)
block = 4 * 12 * C * C // 2  # of one half of the matrices
# Each parameter once, and nothing of what the optimizer keeps, which is twice as much.
assert total(both, "all-gather", "fsdp", 256) == block + 4 * V * C, both.collectives
assert total(both, "reduce-scatter", "fsdp") == block, both.collectives
assert both.numbers["argument_bytes"] < one.numbers["argument_bytes"] / 2
sums = [c for c in both.collectives
        if c.kind == "all-reduce" and c.axes == ("tensor",) and c.bytes == B // 4 * T * C * 4]
# Four in the block; V is odd here, so the embedding is not split and has none.
assert V % 2 == 1
assert sum(c.times for c in sums) == 4, both.collectives

try:
    compiled("--config.run.batch_size=12", data=8)
except UserError as error:
    assert "batch_size=12 is not a multiple of the 8 parts" in str(error)
else:
    raise AssertionError("12 rows went over 8 devices")

# A mesh that splits the state and may not save its memory is told.
def advised(*more):
    return wire.advice(wire.parts(config.load("recipe.py", [*words[1:], *more])))


deep = "--config.task.model.layers=3"
assert advised(deep, "--config.mesh.fsdp=2").startswith("mesh.fsdp=2 with unrolled layers: ")
assert not advised(deep, "--config.mesh.fsdp=2", "--config.task.model.scan=True")
assert not advised(deep)

# What does not divide as it is given may divide in another way, and that is proposed.
import contextlib, io, json
from aigc_jax.cli.main import main
ahead.simulate = lambda count: None  # done above
ask = ["plan", "recipe.py", "--devices=8", "--target=h100", "--json", *words[:3]]
with contextlib.redirect_stdout(io.StringIO()) as said:
    assert main([*ask, "--config.run.batch_size=12"]) == 0
found = json.loads(said.getvalue())
assert found["target"]["refused"].startswith("run.batch_size=12 is not a multiple of the 8 parts")
settings = found["proposal"]["settings"]
sizes = dict(word.removeprefix("--config.").split("=") for word in settings)
over = int(sizes.get("mesh.data", 1)) * int(sizes.get("mesh.fsdp", 1))
rest = int(sizes.get("mesh.tensor", 1)) * int(sizes.get("mesh.sequence", 1))
assert found["proposal"]["fits"] and rest > 1 and 12 % (8 // rest) == 0, settings
with contextlib.redirect_stdout(io.StringIO()) as said:
    assert main([*ask[:-4], *words[:3], "--config.run.batch_size=12"]) == 0
assert "as given" in said.getvalue() and "refused: run.batch_size=12" in said.getvalue()
with contextlib.redirect_stderr(io.StringIO()) as said:
    assert main([*ask, "--config.run.batch_size=1", "--config.data.context=7"]) == 2
assert said.getvalue().startswith("aigc: run.batch_size=1 is not a multiple of the 8 parts")
# Another mistake is no matter of the mesh: nothing is proposed.
rules = "--config.mesh.rules=(('nosuch', ('fsdp',)),)"
from types import SimpleNamespace
from aigc_jax.train import proposals
search = proposals.search
as_given = [SimpleNamespace(plan=formulas.Plan({"data": 8}, 16, 1, "none"))]
for sizes in ([], ["--mesh=data:8"], ["--mesh=fsdp:8"]):
    # The first time, what is proposed is what was given and refused.
    proposals.search = search if sizes else lambda *a: as_given
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main([*ask, *sizes, "--config.run.batch_size=16", rules]) == 2
    assert said.getvalue().startswith("aigc: ") and "nosuch" in said.getvalue(), said.getvalue()
    assert len(said.getvalue().splitlines()) == 1
print("as by hand")
"""


def test_compiled_programs_exchange_what_is_worked_out_by_hand(tmp_path: Path) -> None:
    process.recipe(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT],
        env={**os.environ, "PYTHONPATH": str(process.HOUSE)},
        cwd=tmp_path, capture_output=True, text=True, timeout=process.PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.endswith("as by hand\n")

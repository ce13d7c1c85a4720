"""Weak and strong scaling of four GPTs, 1 to 4,096 devices: on paper, and compiled where it can be.

    python benchmarks/scaling_tables.py paper [--target=h100] [--only=strong]
    python benchmarks/scaling_tables.py compiled [NUMBER ...]

`paper` prints the tables of docs/scaling.md from `train.formulas` and `train.estimate`, in a
second and without JAX. `compiled` compiles programs for simulated devices, scanned layers and
abstract arrays, and prints what they hold and exchange next to the formulas: for all of CASES, or
for those whose numbers are given. A compilation takes some seconds of one core, whatever the depth.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from aigc_jax.core import devices
from aigc_jax.train import formulas, proposals
from aigc_jax.train.formulas import Plan, Shape


class Model(NamedTuple):
    """A GPT: 4 C inner width, GELU, no biases, learned positions, a tied embedding of 50,304."""

    layers: int
    width: int
    heads: int
    context: int
    rows: int  # of a batch that stays the same however many devices there are
    dtype: str = "bfloat16"

    def shape(self) -> Shape:
        """Its shape, with AdamW's two moments and blockwise attention."""
        return Shape(
            self.layers, self.width, self.heads, self.width, 4 * self.width, 2, VOCABULARY,
            self.context, self.context, tied=True, slots=2, chunk=0,
            narrow=4 if self.dtype == "float32" else 2, long=True,
        )  # fmt: skip


VOCABULARY = 50_304  # GPT-2's 50,257, rounded up to a multiple of 128
MODELS = {
    "124M": Model(12, 768, 12, 1024, 512),
    "1.3B": Model(24, 2048, 16, 2048, 512),
    "7B": Model(32, 4096, 32, 2048, 2048),
    "70B": Model(80, 8192, 64, 4096, 1024),
}
COUNTS = (1, 8, 64, 512, 4096)
A_DEVICE = {"124M": 32, "1.3B": 8, "7B": 4, "70B": 2}  # rows, in weak scaling
SCHEMES = ("data", "fsdp", "fsdp+tensor", "fsdp+tensor+sequence")

FLOAT32 = {"124M float32": MODELS["124M"]._replace(dtype="float32")}

# What is compiled: model, mesh, rows of a batch, policy.
CASES: list[tuple[str, dict[str, int], int, str]] = [
    ("124M", {"data": 8}, 64, "none"),
    ("124M", {"fsdp": 8}, 64, "none"),
    ("124M", {"data": 8, "fsdp": 8}, 64, "full"),
    ("1.3B", {"fsdp": 16, "tensor": 4}, 64, "full"),
    ("7B", {"data": 4, "fsdp": 16, "tensor": 8}, 128, "full"),
    ("7B", {"fsdp": 16, "sequence": 4, "tensor": 8}, 32, "full"),
    ("70B", {"fsdp": 64, "tensor": 8}, 64, "full"),
    ("124M float32", {"fsdp": 8}, 64, "none"),
]


def meshes(scheme: str, count: int, device: devices.Device) -> Iterator[dict[str, int]]:
    """Yields the meshes of a scheme: it splits nothing that its name does not say, but rows."""
    names = scheme.split("+")
    for mesh in proposals.meshes(count, min(8, device.group)):
        if scheme == "data":
            if mesh["data"] == count:
                yield mesh
        elif all((mesh[axis] > 1) == (axis in names) for axis in ("fsdp", "tensor", "sequence")):
            yield mesh


def best(shape: Shape, rows: int, scheme: str, count: int, device: devices.Device) -> Any:
    """Returns the fastest plan of a scheme that fits, or the smallest one, or None."""
    found = []
    for mesh in meshes(scheme, count, device):
        for remat in formulas.REMAT:
            for turns in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512):
                plan = Plan(mesh, rows, turns, remat)
                if formulas.fits(shape, plan):
                    found.append(proposals.weigh(shape, plan, device))
    room = proposals.ROOM * device.memory
    return min(
        (p for p in found if p.bytes <= room), key=lambda p: p.time.seconds,
        default=min(found, key=lambda p: p.bytes, default=None),
    )  # fmt: skip


def paper(target: str, kinds: list[str]) -> None:
    """Prints a table for each model and kind of scaling."""
    device = devices.find(target)
    for kind in kinds:
        for name, model in MODELS.items():
            shape = model.shape()
            batch = f"{model.rows} rows" if kind == "strong" else f"{A_DEVICE[name]} rows a device"
            print(
                f"\n**{name}, {kind} scaling on {target}.** {shape.parameters / 1e9:.3g}B"
                f" parameters, {model.layers} layers of {model.width},"
                f" rows of {model.context:,}, {batch}.\n"
            )
            print(
                "| devices | scheme | mesh | policy, parts | GB a device | GB sent | MFU | bound |"
            )
            print("|---|---|---|---|---|---|---|---|")
            for count in COUNTS:
                rows = model.rows if kind == "strong" else A_DEVICE[name] * count
                lines = {s: best(shape, rows, s, count, device) for s in SCHEMES}
                print_count(shape, count, lines, device)


def print_count(shape: Shape, count: int, lines: dict[str, Any], device: devices.Device) -> None:
    """Prints a line for each scheme; the fastest that fits in bold."""
    room = proposals.ROOM * device.memory
    fit = {s: p for s, p in lines.items() if p is not None and p.bytes <= room}
    winner = min(fit, key=lambda s: fit[s].time.seconds, default=None)
    for scheme, p in lines.items():
        if p is None:
            continue
        mesh = " ".join(f"{a} {n}" for a, n in p.plan.mesh.items() if n > 1) or "-"
        sent = sum(one.sent for one in formulas.collectives(shape, p.plan)) / 1e9
        said = f"{p.bytes / 1e9:.3g}"
        if scheme not in fit:
            print(f"| {count:,} | {scheme} | {mesh} | {p.plan.remat}, {p.plan.accumulate}"
                  f" | {said} | {sent:.3g} | does not fit | |")  # fmt: skip
            continue
        mfu = f"{100 * p.time.mfu:.0f} %"
        mfu = f"**{mfu}**" if scheme == winner else mfu
        print(f"| {count:,} | {scheme} | {mesh} | {p.plan.remat}, {p.plan.accumulate} | {said}"
              f" | {sent:.3g} | {mfu} | {p.time.bound} |")  # fmt: skip


def built(model: Model, mesh: dict[str, int], rows: int, remat: str) -> Any:
    """Makes the parts of a run of abstract arrays on the first devices."""
    import jax
    import numpy as np
    from jax.sharding import AxisType, Mesh

    from aigc_jax.cli import wire
    from aigc_jax.core import config, optim
    from aigc_jax.data.base import ArraySpec, Spec
    from aigc_jax.train import sharding
    from aigc_jax.train.settings import Settings

    plain = config.to_dict(config.load("configs/lm/gpt2_124m.py"))
    plain["task"] |= {"accumulate": 1, "vocab_chunk": 0}
    plain["task"]["model"] |= {
        "layers": model.layers, "width": model.width, "heads": model.heads, "remat": remat,
        "scan": True, "attention": "blockwise", "mlp": "gelu_tanh",
        "dtype": model.dtype,
    }  # fmt: skip
    plain["run"]["batch_size"] = rows
    size = rows, model.context
    arrays = {
        "inputs": ArraySpec(size, "int32"), "targets": ArraySpec(size, "int32"),
        "mask": ArraySpec(size, "float32"),
    }  # fmt: skip
    facts = {"vocab_size": VOCABULARY, "context": model.context, "unit": "tokens",
             "token_bytes": np.ones(VOCABULARY, np.int32)}  # fmt: skip
    spec = Spec(arrays, facts)
    settings = Settings(**plain["run"])
    task = config.build("tasks", plain["task"], spec=spec,
                        optimizer=optim.make(settings.steps, **plain["optim"]))  # fmt: skip
    sizes = {axis: mesh.get(axis, 1) for axis in sharding.AXES}
    first = jax.devices()[: int(np.prod(list(sizes.values())))]
    kinds = (AxisType.Auto,) * len(sizes)
    placed = Mesh(np.asarray(first).reshape(tuple(sizes.values())), sharding.AXES, axis_types=kinds)
    data: Any = argparse.Namespace(spec=spec)
    return wire.Parts(plain, settings, data, task, sharding.Placement(placed))


def compiled(numbers: list[int]) -> None:
    """Compiles cases and prints them next to the formulas."""
    from aigc_jax.cli import ahead

    ahead.simulate(max(_size(mesh) for _, mesh, _, _ in CASES))
    print("| | model | mesh | rows | policy | state and batch, GB | the rest, GB"
          " | the same, all float32 on paper | sent over: compiled / on paper, GB"
          " | FLOPs / on paper |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for i in numbers or range(len(CASES)):
        name, mesh, rows, remat = CASES[i]
        done = ahead.Planned(built({**MODELS, **FLOAT32}[name], mesh, rows, remat)).compile()
        shape, plan = done.paper()
        print(_line(i, name, mesh, rows, remat, done, shape, plan), flush=True)


def _line(
    i: int, name: str, mesh: dict[str, int], rows: int, remat: str, done: Any, shape: Shape,
    plan: Plan,
) -> str:  # fmt: skip
    on_paper = formulas.memory(shape, plan)
    state = on_paper.pop("state")
    rest = sum(on_paper.values())
    wide = formulas.memory(shape._replace(narrow=4), plan)  # as the CPU's compiler has it
    widest = sum(wide.values()) - wide["state"]
    numbers = done.numbers
    sent = []
    for axis in formulas.AXES:
        ours, theirs = (
            sum(c.sent for c in found if axis in c.axes) / 1e9
            for found in (done.collectives, formulas.collectives(shape, plan))
        )
        if theirs:
            sent.append(f"{axis} {ours:.3g} / {theirs:.3g} = {ours / theirs:.2f}")
    words = " ".join(f"{axis} {n}" for axis, n in mesh.items())
    arguments, temporary = numbers["argument_bytes"], numbers["temporary_bytes"]
    return (
        f"| {i} | {name} | {words} | {rows} | {remat}"
        f" | {arguments / 1e9:.3g} / {state / 1e9:.3g} = {arguments / state:.2f}"
        f" | {temporary / 1e9:.3g} / {rest / 1e9:.3g} = {temporary / rest:.2f}"
        f" | {temporary / widest:.2f}"
        f" | {'; '.join(sent)} | {numbers['flops_a_step'] / formulas.flops(shape, plan)[0]:.3f} |"
    )


def _size(mesh: dict[str, int]) -> int:
    count = 1
    for n in mesh.values():
        count *= n
    return count


def main() -> None:
    """Reads the words and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("paper", "compiled"))
    parser.add_argument("numbers", nargs="*", type=int)
    parser.add_argument("--target", default="h100")
    parser.add_argument("--only", choices=("strong", "weak"))
    args = parser.parse_args()
    if args.what == "compiled":
        compiled(args.numbers)
    else:
        paper(args.target, [args.only] if args.only else ["strong", "weak"])


if __name__ == "__main__":
    sys.exit(main())

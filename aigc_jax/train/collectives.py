"""What the devices of a compiled program say to each other: kinds, bytes, and mesh axes."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from aigc_jax.train import hlo

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_MOVES = ("bitcast", "copy", "convert", "transpose", "reshape")
_NARROW = ("bf16", "f16")


class Collective(NamedTuple):
    """One kind of exchange, of arrays of one size, over the same axes.

    Attributes:
      kind: of KINDS. axes: of the mesh, over which devices exchange.
      parts: how many devices are in a group. group: their numbers in the mesh, of one group.
      bytes: of the whole array: what is gathered, reduced or scattered, in each group.
      times: how often in a step.
      split: this was an all-reduce of which each device keeps a part; see `find`.
    """

    kind: str
    axes: tuple[str, ...]
    parts: int
    group: tuple[int, ...]
    bytes: float
    times: int
    split: bool = False

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step, by the ring algorithms (Chan et al. 2007)."""
        once = self.bytes * self.times
        if self.kind == "collective-permute":
            return once
        share = (self.parts - 1) / self.parts
        return once * share * (2 if self.kind == "all-reduce" else 1)


def find(text: str, mesh: Mapping[str, int]) -> tuple[list[Collective], int]:
    """Reads the collectives of a program.

    CPU's compiler has no pass that makes a reduce-scatter. Where each device keeps only its part of
    what an all-reduce gave, accelerators do a reduce-scatter (and an all-reduce of the parts, where
    the group was larger): such a pair is counted so, with `split` set. Nor does it send 16 bits: it
    widens them to float32 before and rounds after. Where that is seen in the text, 16 are counted.

    Args:
      text: of the compiled program. mesh: axes and sizes, outermost first.

    Returns:
      The collectives, equal ones summed, and the number of loops of which the text does not say how
      often they turn (counted once).
    """
    module = hlo.parse(text)
    found: list[Collective] = []
    unknown = _walk(module, module.entry, 1, dict(mesh), found)
    return merged(found), unknown


def merged(found: Iterable[Collective]) -> list[Collective]:
    """Sums those that differ only in times, largest first."""
    counts: dict[Collective, int] = {}
    for one in found:
        key = one._replace(times=0)
        counts[key] = counts.get(key, 0) + one.times
    rows = [key._replace(times=count) for key, count in counts.items()]
    return sorted(rows, key=lambda one: -one.sent)


def table(found: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """Returns {axes: {kind: bytes a step}}; of what is gathered or reduced, per group."""
    rows: dict[str, dict[str, float]] = {}
    for one in found:
        row = rows.setdefault("+".join(one.axes), {})
        row[one.kind] = row.get(one.kind, 0.0) + one.bytes * one.times
    return rows


def _walk(
    module: hlo.Module, name: str, times: int, mesh: dict[str, int], found: list[Collective]
) -> int:
    unknown = 0
    computation = module.computations[name]
    for one in computation.instructions.values():
        kind = one.opcode.removesuffix("-start")
        if kind in KINDS:
            found += [c._replace(times=times) for c in _read(module, computation, one, kind, mesh)]
        elif one.opcode == "while":
            again = hlo.turns(module, one)
            unknown += not again
            for body in re.findall(r"body=%?([\w.\-]+)", one.rest):
                unknown += _walk(module, body, times * max(1, again), mesh, found)
        elif one.opcode == "conditional":  # of branches the dearest
            branches: list[list[Collective]] = []
            for branch in hlo.called(one):
                inside: list[Collective] = []
                unknown += _walk(module, branch, times, mesh, inside)
                branches.append(inside)
            found += max(branches, key=lambda b: sum(c.sent for c in b), default=[])
        elif one.opcode in ("call", "fusion", "async-start"):
            for inner in hlo.called(one):
                unknown += _walk(module, inner, times, mesh, found)
    return unknown


def _read(
    module: hlo.Module,
    computation: hlo.Computation,
    one: hlo.Instruction,
    kind: str,
    mesh: dict[str, int],
) -> list[Collective]:
    """Returns an instruction's collectives; none where nobody has a partner."""
    total = math.prod(mesh.values())
    if kind == "collective-permute":
        pairs = _pairs(one.rest)
        axes = _axes([list(p) for p in pairs], mesh)
        half = 2 if one.opcode.endswith("-start") else 1
        payload = sum(hlo.size(*s) for s in one.shapes if s[1]) / half
        pair = next((p for p in pairs if p[0] != p[1]), (0, 0))
        return [Collective(kind, axes, 2, pair, payload, 1)] if axes else []
    groups = _groups(one.rest, total)
    parts, axes = len(groups[0]), _axes(groups, mesh)
    if parts == 1 or not axes:
        return []
    sizes = [hlo.size(*shape) for shape in one.shapes]
    base = Collective(kind, axes, parts, tuple(groups[0]), sum(sizes), 1)
    if kind != "all-reduce":
        if one.operands and _was_narrow(module, computation, one.operands[0]):
            base = base._replace(bytes=base.bytes / 2)
        if kind == "all-gather" and one.opcode.endswith("-start"):  # (parts, wholes)
            return [base._replace(bytes=base.bytes * parts / (parts + 1))]
        return [base._replace(bytes=base.bytes * (parts if kind == "reduce-scatter" else 1))]
    kept: dict[int, float] = {}
    for i, bytes_ in enumerate(sizes):
        share, narrow = _kept(module, computation, one, i if len(sizes) > 1 else None)
        share = share if parts % share == 0 else 1
        kept[share] = kept.get(share, 0.0) + bytes_ / (1 + narrow)
    whole = [base._replace(bytes=kept.pop(1))] if 1 in kept else []
    return whole + [c for share in kept for c in _split(base, share, kept[share], mesh)]


def _split(one: Collective, share: int, size: float, mesh: dict[str, int]) -> list[Collective]:
    """An all-reduce of which each device keeps one of `share` parts, as accelerators do it."""
    one = one._replace(bytes=size)
    if share == one.parts:
        return [one._replace(kind="reduce-scatter", split=True)]
    inner = [axis for axis in one.axes if mesh[axis] == share]
    if not inner:
        return [one]
    axis = "fsdp" if "fsdp" in inner else inner[-1]
    others = tuple(name for name in one.axes if name != axis)
    first = one.group[0]
    near = tuple(i for i in one.group if _same(i, first, others, mesh))
    far = tuple(i for i in one.group if _same(i, first, (axis,), mesh))
    return [
        one._replace(kind="reduce-scatter", axes=(axis,), parts=share, group=near, split=True),
        one._replace(
            axes=others, parts=one.parts // share, group=far, bytes=size / share, split=True
        ),
    ]


def _same(a: int, b: int, axes: tuple[str, ...], mesh: dict[str, int]) -> bool:
    places = np.unravel_index([a, b], tuple(mesh.values()))
    return all(places[list(mesh).index(axis)][0] == places[list(mesh).index(axis)][1]
               for axis in axes)  # fmt: skip


def _kept(
    module: hlo.Module, computation: hlo.Computation, one: hlo.Instruction, index: int | None
) -> tuple[int, bool]:
    """Returns k where all that is read of an all-reduce is one of k equal parts, else 1.

    And whether all of it is rounded to 16 bits before anything else: CPU's compiler has widened it.
    """
    shape = one.shapes[index or 0][1]
    names = [one.name]
    if index is not None:
        names = [
            user.name
            for user in computation.users(one.name)
            if f"index={index}" in re.findall(r"index=\d+", user.rest)
        ]
    uses = [use for name in names for use in _uses(module, [(computation, one)], name, False)]
    shares = {
        math.prod(shape) // max(1, math.prod(use.shapes[0][1]))
        if use.opcode == "dynamic-slice"
        else 1
        for use, _ in uses
    }
    share = shares.pop() if len(shares) == 1 else 1
    return share, bool(uses) and all(narrow for _, narrow in uses)


def _uses(
    module: hlo.Module,
    frames: list[tuple[hlo.Computation, hlo.Instruction]],
    name: str,
    narrow: bool,
) -> Iterator[tuple[hlo.Instruction, bool]]:
    """Yields who reads an array, behind what only moves it, and whether it was rounded before.

    Args:
      frames: the computation that it is in, and those that this one is called from.
    """
    computation, caller = frames[-1]
    for user in computation.users(name):
        if user.opcode in ("fusion", "call"):
            inside = module.computations[hlo.called(user)[0]]
            inputs = [i for i in inside.instructions.values() if i.opcode == "parameter"]
            for one in inputs:
                if user.operands[int(one.rest.strip("()").split(")")[0])] == name:
                    yield from _uses(module, [*frames, (inside, user)], one.name, narrow)
        elif user.opcode in _MOVES:
            rounds = user.opcode == "convert" and user.shapes[0][0] in _NARROW
            if not user.root:
                yield from _uses(module, frames, user.name, narrow or rounds)
            elif len(frames) > 1:
                yield from _uses(module, frames[:-1], caller.name, narrow or rounds)
            else:
                yield user, narrow or rounds
        else:
            yield user, narrow


def _was_narrow(module: hlo.Module, computation: hlo.Computation, name: str) -> bool:
    """Whether an array was widened from 16 bits just before."""
    one = computation.instructions.get(name)
    while one is not None and one.operands:
        if one.opcode == "convert":
            source = computation.instructions.get(one.operands[0])
            return source is not None and source.shapes[0][0] in _NARROW
        if one.opcode in ("fusion", "call"):
            computation = module.computations[hlo.called(one)[0]]
            one = next((i for i in computation.instructions.values() if i.root), None)
        elif one.opcode in _MOVES:
            one = computation.instructions.get(one.operands[0])
        else:
            return False
    return False


def _groups(rest: str, total: int) -> list[list[int]]:
    """Reads replica_groups in its three forms: lists, an iota, and axes of a mesh."""
    if found := re.search(r"replica_groups=(mesh\[.*?\](?:, device_ids=\(.*?\))? \{.*?\})", rest):
        return _mesh_groups(found[1])
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest):
        rows = _iota(found[2], found[3]).reshape(_ints(found[1]))
        return rows.tolist()  # type: ignore[no-any-return]
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", rest):
        return [_ints(group) for group in re.findall(r"\{([\d,]+)\}", found[1])]
    return [list(range(total))]


def _mesh_groups(text: str) -> list[list[int]]:
    """Groups along axes of a mesh of its own: mesh['a'=2,'b'=4], device_ids=(...) {'b'}.

    An axis may be named in part, 'b':(2)2 is the two in the middle of what is split as [2, 2, ...].
    """
    sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", text)}
    ids = np.arange(math.prod(sizes.values()))
    if order := re.search(r"device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\)", text):
        ids = _iota(order[1], order[2])
    shape: list[int] = []
    chosen: list[int] = []
    used = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", text[text.rindex("{") :])
    for name, n in sizes.items():
        parts = sorted((int(before or 1), int(own or n)) for axis, before, own in used
                       if axis == name)  # fmt: skip
        done = 1
        for before, own in parts:
            shape += [before // done, own]
            chosen.append(len(shape) - 1)
            done = before * own
        shape.append(n // done)
    others = [i for i in range(len(shape)) if i not in chosen]
    size = math.prod(shape[i] for i in chosen)
    rows = ids.reshape(shape).transpose(*others, *chosen).reshape(-1, size)
    return rows.tolist()  # type: ignore[no-any-return]


def _iota(shape: str, order: str | None) -> np.ndarray:
    dims = _ints(shape)
    ids = np.arange(math.prod(dims)).reshape(dims)
    return (ids.transpose(_ints(order)) if order else ids).reshape(-1)


def _ints(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _pairs(rest: str) -> list[tuple[int, int]]:
    text = rest[rest.find("source_target_pairs=") :]
    return [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", text.split("}}")[0] + "}")]


def _axes(groups: list[list[int]], mesh: dict[str, int]) -> tuple[str, ...]:
    """Returns the axes along which the members of some group differ."""
    varies = set()
    for group in groups:
        for axis, place in zip(mesh, np.unravel_index(group, tuple(mesh.values())), strict=True):
            if len(set(place.tolist())) > 1:
                varies.add(axis)
    return tuple(axis for axis in mesh if axis in varies)

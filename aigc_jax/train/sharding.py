"""Where arrays live: a mesh of named axes, rules from paths to partition specs, sharded creation.

The axes, from the outermost (slow links) to the innermost (fast ones):

  data      copies of the state; a batch's rows are split over them.
  fsdp      a batch's rows are split, and so is the state (ZeRO-3: Rajbhandari et al. 2020,
            arXiv:1910.02054): parameters are gathered layer by layer when they are used.
  sequence  the places of a row are split; keys and values are gathered (context parallelism).
  tensor    matrices are split within a layer (Shoeybi et al. 2019, arXiv:1909.08053).
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aigc_jax.core import tree
from aigc_jax.core.units import human
from aigc_jax.errors import UserError
from aigc_jax.train.reuse import canonical

Tree = Any
Rule = tuple[str, tuple[Any, ...]]

AXES = ("data", "fsdp", "sequence", "tensor")
ROWS = ("data", "fsdp")  # what a batch's rows are split over

# In a spec: an axis, several, or None for each dimension; "..." in front, and the rest stands for
# the last dimensions (so a rule also holds for layers that are stacked); "axis?" where it divides.
_TRANSFORMER: tuple[Rule, ...] = (
    # It says where its activations lie (`models/layout.py`). Columns, then rows, so that each half
    # of a block ends in one sum.
    (r"block(s|_\d+)/(attention/qkv|mlp/hidden|mlp/gate)/kernel$", ("...", "fsdp", "tensor")),
    (r"block(s|_\d+)/(attention|mlp)/out/kernel$", ("...", "tensor", "fsdp")),
    (r"block(s|_\d+)/(attention/qkv|mlp/hidden|mlp/gate)/bias$", ("...", "tensor")),
    (r"(^|/)(embed|head)$", ("tensor?", "fsdp?")),
)
DEFAULT: tuple[Rule, ...] = (
    *_TRANSFORMER,
    # Any other network, convolutions too: by what a layer gives.
    (r"kernel$", ("...", "fsdp?")),
    (r"", ()),
)


class Placement(NamedTuple):
    """A mesh and the rules that place a state on it.

    Attributes:
      mesh: of the axes in AXES. rules: a recipe's own, which come first.
      mapper: "jit", or "pmap" for plain data parallelism through `jax.pmap`.
    """

    mesh: Mesh
    rules: tuple[Rule, ...] = ()
    mapper: str = "jit"

    @property
    def data_shards(self) -> int:
        """In how many parts a batch is split."""
        return math.prod(self.mesh.shape[axis] for axis in ROWS)

    def scope(self) -> Any:
        """A context in which programs are traced: models see the mesh (`models/layout.py`)."""
        several = self.mesh.size > 1 and self.mapper == "jit"
        return jax.set_mesh(self.mesh) if several else contextlib.nullcontext()

    def state(self, abstract: Tree) -> Tree:
        """Returns a sharding for each leaf of a state, from the rules.

        Raises:
          UserError: a rule of the recipe that claims nothing, a pattern that is none, a dimension
            of a parameter that its axis does not divide, or an array that XLA would split wrongly.
        """
        rules = (*self.rules, *DEFAULT)
        claims = tree.claim(abstract, [pattern for pattern, _ in rules], "mesh.rules")
        own = tree.claim(abstract, [pattern for pattern, _ in DEFAULT], "mesh.rules")
        claimed = set(jax.tree.leaves(claims))
        for i, (pattern, _) in enumerate(self.rules):
            if i not in claimed:
                raise UserError(
                    f"mesh.rules: {pattern!r} claims nothing; rules are searched in paths such as"
                    f" {_example(abstract)}, and the first that is found wins."
                )

        def placed(name: str, leaf: Any, claim: int, default: int) -> NamedSharding:
            spec = _spec(self.mesh, name, leaf, rules[claim][1])
            if default >= len(_TRANSFORMER):
                _refuse_two_ways(self.mesh, name, spec)
            return NamedSharding(self.mesh, spec)

        return tree.map_named(placed, abstract, claims, own)

    def whole(self, abstract: Tree) -> list[tuple[str, int]]:
        """Returns the path and the bytes of each leaf that every device holds whole."""
        where = dict(tree.named_leaves(self.state(abstract)))
        return [
            (name, math.prod(leaf.shape) * leaf.dtype.itemsize)
            for name, leaf in tree.named_leaves(abstract)
            if where[name].is_fully_replicated
        ]

    def idle(self, abstract: Tree) -> list[str]:
        """Returns the axes that split nothing: devices along them repeat each other's work."""
        named = tree.named_leaves(self.state(abstract))
        used = {axis for _, where in named for entry in where.spec for axis in _axes(entry)}
        if any("attention/" in name for name, _ in named):
            used.add("sequence")  # attention splits the places of a row over it
        return [
            axis for axis, size in self.mesh.shape.items()
            if size > 1 and axis not in used | set(ROWS)
        ]  # fmt: skip

    def words(self, abstract: Tree) -> str:
        """Says in one line how a state is spread, and what is not."""
        sizes = ", ".join(f"{axis} {n}" for axis, n in self.mesh.shape.items() if n > 1)
        head = f"mesh: {self.mesh.size} device{'s' * (self.mesh.size > 1)}"
        if not sizes:
            return head
        whole = self.whole(abstract)
        total, kept = tree.size_bytes(abstract), sum(size for _, size in whole)
        line = f"{head} ({sizes}); each holds {human(self._bytes(abstract))}B of {human(total)}B"
        if whole and kept < total:
            largest = max(whole, key=lambda item: item[1])
            line += (
                f"; {len(whole)} leaves are whole on each, {human(kept)}B"
                f" (the largest: {largest[0]}, {human(largest[1])}B)"
            )
        if idle := self.idle(abstract):
            line += f"; NOTHING is split over {', '.join(idle)}: its devices repeat the same work"
        return line

    def _bytes(self, abstract: Tree) -> int:
        shardings = jax.tree.leaves(self.state(abstract))
        return sum(
            math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf, where in zip(jax.tree.leaves(abstract), shardings, strict=True)
        )

    def batches(self) -> NamedSharding:
        """Returns the sharding of stacked batches [K, B, ...]: the rows are split."""
        return NamedSharding(self.mesh, PartitionSpec(None, ROWS))

    def batch(self) -> NamedSharding:
        """Returns the sharding of one batch [B, ...]: the rows are split."""
        return NamedSharding(self.mesh, PartitionSpec(ROWS))

    def replicated(self) -> NamedSharding:
        """Returns the sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())


def _example(abstract: Tree) -> str:
    names = [name for name, _ in tree.named_leaves(abstract)]
    return next((name for name in names if name.startswith("params/")), names[0])


def _spec(mesh: Mesh, name: str, leaf: Any, entries: tuple[Any, ...]) -> PartitionSpec:
    """Turns a rule's spec into that of one leaf."""
    rank = len(leaf.shape)
    if entries and entries[0] == "...":
        entries = entries[1:]
        # An optimizer's smaller statistics of a matrix go by the matrix's name.
        entries = (None,) * (rank - len(entries)) + entries if rank >= len(entries) else ()
    # Only a parameter must divide; what is derived of it may have another shape.
    strict = name.startswith("params/")
    found: list[Any] = []
    for size, entry in zip(leaf.shape, entries, strict=False):
        axes = _axes(entry)
        kept: list[str] = []
        for axis in axes:
            wanted = axis.removesuffix("?")
            parts = math.prod(mesh.shape[a] for a in [*kept, wanted])
            if size % parts == 0:
                kept.append(wanted)
            elif strict and wanted == axis:
                raise UserError(
                    f"mesh.rules: {name} has shape {list(leaf.shape)}, and {size} is not a"
                    f" multiple of mesh axis '{axis}' ({parts}); change the rule, the mesh or the"
                    f" width ('{axis}?' splits only where it divides)."
                )
        found.append(tuple(kept) if len(kept) > 1 else kept[0] if kept else None)
    while found and found[-1] is None:
        found.pop()
    return PartitionSpec(*found)


def _refuse_two_ways(mesh: Mesh, name: str, spec: PartitionSpec) -> None:
    """Raises UserError for what XLA's partitioner differentiates wrongly; see decision 0018."""
    where = {
        axis: i for i, entry in enumerate(spec) for axis in _axes(entry) if mesh.shape[axis] > 1
    }
    if "fsdp" in where and "tensor" in where and where["fsdp"] != where["tensor"]:
        raise UserError(
            f"mesh.rules: {name} is split over 'fsdp' in one dimension, over 'tensor' in another;"
            " outside of a transformer, XLA's partitioner then gives wrong gradients. Split it over"
            " one of the two."
        )


def _axes(entry: Any) -> tuple[str, ...]:
    if entry is None:
        return ()
    return (entry,) if isinstance(entry, str) else tuple(entry)


def make(
    *,
    data: int = -1,
    fsdp: int = 1,
    sequence: int = 1,
    tensor: int = 1,
    slices: int = 1,
    rules: tuple = (),
    mapper: Literal["jit", "pmap"] = "jit",
) -> Placement:
    """Makes a mesh of the devices that there are.

    Args:
      data, fsdp, sequence, tensor: sizes of the axes; see the top of this file. One may be -1,
        which takes what the others leave.
      slices: how many groups of devices with slow links between them (slices of TPUs, nodes of
        GPUs); "data" is split over them, the other axes stay within one.
      rules: (regular expression, spec) pairs. The first expression found in the path of a leaf of
        the state ("params/model/block_0/mlp/hidden/kernel") claims it; the spec names a mesh axis,
        several or None for each dimension, () replicates. ("...", "fsdp") speaks of the last
        dimension; "fsdp?" splits only where it divides. What they don't claim goes by DEFAULT.
      mapper: "jit" lets the compiler split a program for all devices at once; "pmap" runs one copy
        of the step on each device, which exchange gradients, of tasks with one loss.

    Raises:
      UserError: sizes that do not multiply to the number of devices; rules of another form; an
        axis that is not there.
    """
    sizes = dict(zip(AXES, (data, fsdp, sequence, tensor), strict=True))
    _fill(sizes, jax.device_count())
    _check_rules(rules)
    if slices < 1 or sizes["data"] % slices:
        raise UserError(
            f"mesh.slices={slices}: expected a divisor of the data axis ({sizes['data']}), which is"
            " what is split over slices."
        )
    if mapper not in ("jit", "pmap"):
        raise UserError(f"mesh.mapper='{mapper}': expected jit or pmap.")
    others = {axis: n for axis, n in sizes.items() if n > 1 and axis != "data"}
    if mapper == "pmap" and (others or jax.process_count() > 1):
        raise UserError(
            "mesh.mapper='pmap' splits rows over the devices of one process and knows no other"
            f" axis; got {others or f'{jax.process_count()} processes'}. Use mapper='jit'."
        )
    kinds = (AxisType.Auto,) * len(AXES)
    mesh = Mesh(_arranged(tuple(sizes.values()), slices), AXES, axis_types=kinds)
    return Placement(mesh, _tuples(rules), mapper)


def alone(index: int = 0) -> Placement:
    """Everything on one device, the first or another, however many there are."""
    shape = np.array([jax.devices()[index]]).reshape((1,) * len(AXES))
    return Placement(Mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES)), (), "jit")


def _fill(sizes: dict[str, int], devices: int) -> None:
    """Puts what the others leave in place of -1."""
    said = ", ".join(f"{axis}={n}" for axis, n in sizes.items())
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f"mesh: {said}: expected sizes of 1 or more, and at most one -1.")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if free:
        sizes[free[0]] = max(1, devices // fixed)
    if math.prod(sizes.values()) != devices:
        advice = "give one axis the size -1 to take them all"
        if free:
            advice = f"the others than '{free[0]}' must multiply to a divisor of {devices}"
        raise UserError(
            f"mesh: {said} asks for {math.prod(sizes.values())} devices and there are {devices};"
            f" {advice}."
        )


def _arranged(shape: tuple[int, ...], slices: int) -> np.ndarray:
    """Lays the devices out so that the inner axes have the fast links."""
    devices = jax.devices()
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    within = (shape[0] // slices, *shape[1:])
    groups: dict[int, int] = {}
    for device in devices:
        group = getattr(device, "slice_index", None)
        group = device.process_index if group is None else group
        groups[group] = groups.get(group, 0) + 1
    if len(groups) == slices:
        return mesh_utils.create_hybrid_device_mesh(
            within,
            (slices, *(1,) * len(within[1:])),
            devices,
            process_is_granule=getattr(devices[0], "slice_index", None) is None,
            allow_split_physical_axes=True,
        )
    if len(groups) == 1:  # devices that pretend to be many: a run of them is a slice
        return np.asarray(devices).reshape(shape)
    raise UserError(f"mesh.slices={slices}: the devices are in {len(groups)} groups.")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, tuple | list) else value


def _check_rules(rules: tuple) -> None:
    """Raises UserError where the tuples of a config are not nested as `make` says."""
    for rule in rules:
        pair = isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
        if not pair or not isinstance(rule[1], tuple) or not all(map(_is_entry, rule[1])):
            raise UserError(
                f"mesh.rules: expected (regular expression, spec) pairs, got {rule!r}; written as"
                ' (("kernel$", (None, "fsdp")),).'
            )
        entries = rule[1][1:] if rule[1][:1] == ("...",) else rule[1]
        used = [axis.removesuffix("?") for entry in entries for axis in _axes(entry)]
        for axis in used:
            if axis not in AXES:
                raise UserError(
                    f"mesh.rules: {rule[0]!r} names axis '{axis}'; there are {', '.join(AXES)}."
                )
        if len(used) != len(set(used)):
            raise UserError(f"mesh.rules: {rule[1]} names an axis twice; one array has it once.")


def _is_entry(entry: Any) -> bool:
    """Whether it stands for a dimension in a spec: None, an axis, or several."""
    if isinstance(entry, tuple):
        return bool(entry) and all(isinstance(name, str) for name in entry)
    return entry is None or isinstance(entry, str)


def create(placement: Placement, init: Callable[..., Tree], *args: Any) -> Tree:
    """Runs `init(*args)` so that every leaf is born where it will live.

    Nothing is ever whole on one device that the rules split.
    """
    init = canonical(init)
    sharding = placement.state(jax.eval_shape(init, *args))
    with placement.scope():
        return jax.jit(init, out_shardings=sharding)(*args)


def put(rows: Tree, sharding: NamedSharding) -> Tree:
    """Makes global arrays of this process's rows, on its devices."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)

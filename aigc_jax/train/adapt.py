"""A saved state read into another form: layers scanned or unrolled, another dtype, a part of it.

Each device reads its own part of each array, in the dtype that it is wanted in, a few arrays at a
time, since what is under way from the files is in host memory; what has to be stacked or sliced is
made on the devices, and its source freed before the next is read. So no process ever holds more
than one copy of what it restores, and one more of the few that are being read.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from aigc_jax.core import tree

_LISTED = 8  # names of a kind in a message
_PORTION = 2**24  # bytes that are not worth reading in parts
_ONE, _ALL = re.compile(r"(^|/)block_(\d+)/"), re.compile(r"(^|/)blocks/")


class Source(NamedTuple):
    """Where an array comes from: one saved array, a layer of one, or some (or one) stacked."""

    names: tuple[str, ...]
    layer: int | None = None
    stacked: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is the saved array itself."""
        return self.layer is None and not self.stacked


class Plan(NamedTuple):
    """How arrays come from saved ones.

    Attributes:
      sources: by the name of what is wanted. problems: what does not fit, in words; "" where all
        does.
    """

    sources: dict[str, Source]
    problems: str


def plan(here: Mapping[str, Any], there: Mapping[str, Any]) -> Plan:
    """Finds where each of the arrays `here` comes from among those `there`.

    A name with "block_3/" fits the fourth layer of the array with "blocks/" in its place, whose
    first axis are the layers, and the other way round (`models/stacking.py`).

    Args:
      here: what is wanted, by name. there: what was saved. Of both only the shapes are read.
    """
    sources = {name: found for name in here if (found := _source(name, here[name], there))}
    taken: dict[str, set[int | None]] = {}
    for source in sources.values():
        for name in source.names:
            taken.setdefault(name, set()).add(source.layer)
    used = {n for n, layers in taken.items() if None in layers or len(layers) == there[n].shape[0]}
    fitting = {
        name: here[name] if not source.plain else there[source.names[0]]
        for name, source in sources.items()
    }
    extra = {name: there[name] for name in there if name not in used}
    return Plan(sources, misfit(here, {**extra, **fitting}))


def _source(name: str, leaf: Any, there: Mapping[str, Any]) -> Source | None:
    if name in there:
        return Source((name,))
    shape = tuple(leaf.shape)
    if _ALL.search(name) and shape:
        pieces = tuple(_ALL.sub(rf"\g<1>block_{i}/", name) for i in range(shape[0]))
        if all(p in there and tuple(there[p].shape) == shape[1:] for p in pieces):
            return Source(pieces, stacked=True)
    if found := _ONE.search(name):
        whole = _ONE.sub(r"\g<1>blocks/", name, count=1)
        if whole in there:
            count, *rest = there[whole].shape
            if tuple(rest) == shape and int(found[2]) < count:
                return Source((whole,), int(found[2]))
    return None


def misfit(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """Says which of the arrays `here` are missing `there`, extra, or of another shape; "" if none.

    Sorted, with shapes, a few of each kind.

    Args:
      here: what is wanted, by name. there: what was found.
    """
    both = [name for name in here if name in there]
    problems = {
        "missing": listed({n: here[n] for n in here if n not in there}),
        "extra": listed({n: there[n] for n in there if n not in here}),
        "differently shaped": shortened(
            f"{name} {list(there[name].shape)} for {list(here[name].shape)}"
            for name in both
            if tuple(here[name].shape) != tuple(there[name].shape)
        ),
    }
    return "; ".join(f"{what}: {names}" for what, names in problems.items() if names)


def listed(arrays: Mapping[str, Any]) -> str:
    """Returns names with their shapes, sorted, a few of them."""
    return shortened(f"{name} {list(leaf.shape)}" for name, leaf in arrays.items())


def shortened(words: Iterable[str]) -> str:
    """Returns words, sorted as a person counts, a few of them and how many more there are.

    Parameters first: what an optimizer or an average keeps of them only says the same again.
    """

    def natural(word: str) -> list[Any]:
        parts = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", word)]
        return [not word.startswith("params/"), *parts]

    every = sorted(words, key=natural)
    more = f" and {len(every) - _LISTED} more" if len(every) > _LISTED else ""
    return ", ".join(every[:_LISTED]) + more


def saved(item: Path) -> tree.Tree:
    """Returns what a checkpoint holds, nested as it was; each leaf has `shape` and `dtype`.

    Args:
      item: RUN/checkpoints/STEP/state.
    """
    with ocp.StandardCheckpointer() as reader:
        return reader.metadata(item.absolute()).item_metadata.tree


def read(
    item: Path,
    there: tree.Tree,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    sources: Mapping[str, Source],
    processes: ocp.options.MultiprocessingOptions | None = None,
) -> dict[str, jax.Array]:
    """Reads arrays of a checkpoint and nothing else of it.

    Args:
      item: RUN/checkpoints/STEP/state. there: what it holds, from `saved`.
      wanted: by name; shapes, dtypes and shardings as they shall be. sources: see `plan`.
      processes: those that read at the same time, each its own parts; all of them by default.
    """
    made: dict[str, jax.Array] = {}
    options = processes or ocp.options.MultiprocessingOptions()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
        for names in _groups(wanted, sources):
            some = {name: wanted[name] for name in names}
            made |= _read_some(reader, item, there, some, sources)
    return {name: made[name] for name in wanted}


def _groups(
    wanted: Mapping[str, jax.ShapeDtypeStruct], sources: Mapping[str, Source]
) -> list[list[str]]:
    """What is read together, the largest first, while little else is held: what has the same
    source, and of others so many as are not larger than the largest or a portion of all.
    """
    joined: dict[tuple[str, ...], list[str]] = {}
    for name in wanted:
        joined.setdefault(sources[name].names, []).append(name)

    def size(names: list[str]) -> int:
        return sum(tree.size_bytes(wanted[name]) for name in names)

    sizes = {source: size(names) for source, names in joined.items()}
    room = max([_PORTION, sum(sizes.values()) // 8, *sizes.values()])
    groups: list[list[str]] = []
    left = 0
    for source in sorted(sizes, key=lambda source: sizes[source], reverse=True):
        if sizes[source] > left:
            groups.append([])
            left = room
        groups[-1] += joined[source]
        left -= sizes[source]
    return groups


def _read_some(
    reader: ocp.Checkpointer,
    item: Path,
    metadata: tree.Tree,
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    sources: Mapping[str, Source],
) -> dict[str, jax.Array]:
    there = dict(tree.named_leaves(metadata))
    asked: dict[str, jax.ShapeDtypeStruct] = {}
    for name, leaf in wanted.items():
        for source in sources[name].names:
            asked[source] = _as_saved(leaf, sources[name], there[source])
    shapes = tree.map_named(lambda name, _: asked.get(name, ocp.PLACEHOLDER), metadata)
    found = reader.restore(
        item.absolute(),
        args=ocp.args.PyTreeRestore(
            item=shapes,
            restore_args=ocp.checkpoint_utils.construct_restore_args(shapes),
            partial_restore=True,
        ),
    )
    arrays = {n: x for n, x in tree.named_leaves(found) if x is not ocp.PLACEHOLDER}
    return _assembled(arrays, wanted, {name: sources[name] for name in wanted})


def _as_saved(leaf: Any, source: Source, saved: Any) -> jax.ShapeDtypeStruct:
    """How a saved array is read, so that what is made of it needs to move as little as can be."""
    where = leaf.sharding
    if not source.plain and isinstance(where, NamedSharding):
        # The layers are never split over devices.
        spec = (None, *where.spec) if source.layer is not None else where.spec[1:]
        where = NamedSharding(where.mesh, PartitionSpec(*spec))
    return jax.ShapeDtypeStruct(saved.shape, leaf.dtype, sharding=where)


def _assembled(
    arrays: dict[str, Any],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    sources: Mapping[str, Source],
) -> dict[str, jax.Array]:
    """Stacks and slices; a source is freed as soon as nothing needs it."""
    made: dict[str, jax.Array] = {}
    layers: dict[str, dict[int, str]] = {}
    for name, source in sources.items():
        if source.plain:
            made[name] = arrays[source.names[0]]
        elif source.layer is not None:
            layers.setdefault(source.names[0], {})[source.layer] = name
        else:
            pieces = [arrays.pop(piece) for piece in source.names]
            made[name] = jax.jit(
                lambda *pieces: jnp.stack(pieces), out_shardings=wanted[name].sharding
            )(*pieces)
            _free(pieces)
    for whole, names in layers.items():
        picked = jax.jit(
            lambda x, at=tuple(names): [x[i] for i in at],
            out_shardings=[wanted[name].sharding for name in names.values()],
        )(arrays[whole])
        made |= dict(zip(names.values(), picked, strict=True))
        _free([arrays.pop(whole)])
    return made


def _free(arrays: list[Any]) -> None:
    for x in arrays:
        if isinstance(x, jax.Array):
            jax.block_until_ready(x)
            x.delete()


def read_state(item: Path) -> tree.Tree:
    """Reads a saved state as host arrays, nested as it was, without knowing what saved it.

    Args:
      item: RUN/checkpoints/STEP/state.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    with ocp.StandardCheckpointer() as reader:
        found = reader.metadata(item.absolute()).item_metadata.tree
        shapes = jax.tree.map(
            lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), found
        )
        return jax.tree.map(np.asarray, reader.restore(item.absolute(), shapes))

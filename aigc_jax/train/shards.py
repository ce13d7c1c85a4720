"""This process's part of what all share: which rows it reads, and a copy of what is spread."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from aigc_jax.errors import UserError
from aigc_jax.train.sharding import Placement, put

Tree = Any


def rows(placement: Placement) -> tuple[int, int]:
    """Returns (shard, shards): which rows of a batch this process reads, for `data.batch`.

    Processes that share a row's work (the axes "tensor" and "sequence" go across them) read the
    same rows.

    Raises:
      UserError: the mesh gives this process rows that are no run of them.
    """
    if jax.process_count() == 1:
        return 0, 1
    # One row for each part: those whose index is on a device of ours.
    parts = placement.data_shards
    where = placement.batch().addressable_devices_indices_map((parts,))
    slices = [index[0] for index in where.values() if index is not None]
    mine = sorted({row for part in slices for row in range(*part.indices(parts))})
    first, size = mine[0], len(mine)
    if mine != list(range(first, first + size)) or first % size or parts % size:
        raise UserError(
            f"mesh: a batch is split in {parts} parts (data x fsdp), and process"
            f" {jax.process_index()} would read parts {mine}, which is no even share of them; let"
            " each axis divide the devices of a process, or be a multiple of them."
        )
    return first // size, parts // size


def copy(tree: Tree, placement: Placement) -> Tree:
    """Returns a tree whole and on one device of this process, where several processes share it.

    All of them must ask for it. With one process it is the tree as it is.
    """
    if jax.process_count() == 1:
        return tree
    whole = _gather(placement.replicated())(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), whole)


@functools.cache
def _gather(everywhere: jax.sharding.NamedSharding) -> Callable[[Tree], Tree]:
    gathered: Callable[[Tree], Tree] = jax.jit(lambda tree: tree, out_shardings=everywhere)
    return gathered


def gather(rows: dict[str, Any], placement: Placement) -> dict[str, Any]:
    """Returns the whole batch that these rows are this process's part of; as `copy`."""
    if jax.process_count() == 1:
        return rows
    found: dict[str, Any] = copy(put(rows, placement.batch()), placement)
    return found

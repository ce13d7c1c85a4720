"""How activations lie on a mesh. Models name the axes; without a mesh nothing is said or done.

A program that is traced for several devices is traced inside `jax.set_mesh`. From parameters and
batches alone the compiler would have to guess where activations go, and guesses badly just where it
matters: it gathers a batch instead of a matrix.
"""

import math
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

ROWS = ("data", "fsdp")  # what the rows of a batch are split over


def parts(axis: str) -> int:
    """In how many parts the mesh that is traced for splits an axis; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return 1
    kind = dict(zip(mesh.axis_names, mesh.axis_types, strict=True)).get(axis)
    return mesh.shape[axis] if kind == AxisType.Auto else 1


def pin(x: jax.Array, *dims: Any) -> jax.Array:
    """Says where an activation lies: the identity, and nothing at all without a mesh.

    Args:
      dims: for each dimension an axis, a tuple of axes, or None for one that is whole everywhere.
        An axis that does not divide its dimension is left out.
    """
    entries: list[Any] = []
    for size, dim in zip(x.shape, dims, strict=True):
        axes = () if dim is None else (dim,) if isinstance(dim, str) else dim
        split = tuple(axis for axis in axes if parts(axis) > 1)
        entries.append(split if split and size % math.prod(map(parts, split)) == 0 else None)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or all(parts(axis) == 1 for axis in mesh.axis_names):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*entries))

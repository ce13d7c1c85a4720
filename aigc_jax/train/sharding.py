"""Where arrays live: a mesh, rules from parameter paths to partition specs, sharded creation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aigc_jax.core import tree
from aigc_jax.errors import UserError
from aigc_jax.train.reuse import canonical

Tree = Any


class Placement(NamedTuple):
    """A mesh and the rules that place a state on it; batches are split over `batch_axes`."""

    mesh: Mesh
    rules: tuple[tuple[str, tuple[Any, ...]], ...]
    batch_axes: tuple[str, ...]

    @property
    def data_shards(self) -> int:
        """In how many parts a batch is split."""
        return math.prod(self.mesh.shape[axis] for axis in self.batch_axes)

    def state(self, abstract: Tree) -> Tree:
        """Returns a sharding for each leaf of a state, from the rules.

        Raises:
          UserError: a leaf that no rule claims, or a dimension that its axis does not divide.
        """
        claims = tree.claim(abstract, [pattern for pattern, _ in self.rules], "mesh.rules")

        def one(name: str, leaf: Any, claim: int) -> NamedSharding:
            spec = self.rules[claim][1]
            for size, axis in zip(leaf.shape, spec, strict=False):
                parts = math.prod(self.mesh.shape[a] for a in np.atleast_1d(axis)) if axis else 1
                if size % parts:
                    raise UserError(
                        f"mesh.rules: {name} has shape {list(leaf.shape)}, and {size} is not a"
                        f" multiple of mesh axis '{axis}' ({parts}); change the rule or the width."
                    )
            return NamedSharding(self.mesh, PartitionSpec(*spec[: len(leaf.shape)]))

        return tree.map_named(one, abstract, claims)

    def batches(self) -> NamedSharding:
        """Returns the sharding of stacked batches [K, B, ...]: the rows are split."""
        return NamedSharding(self.mesh, PartitionSpec(None, self.batch_axes))

    def batch(self) -> NamedSharding:
        """Returns the sharding of one batch [B, ...]: the rows are split."""
        return NamedSharding(self.mesh, PartitionSpec(self.batch_axes))

    def replicated(self) -> NamedSharding:
        """Returns the sharding of what every device holds whole."""
        return NamedSharding(self.mesh, PartitionSpec())


def make(
    *,
    axes: tuple = (("data", -1),),
    rules: tuple = ((".*", ()),),
    batch_axes: tuple[str, ...] = ("data",),
) -> Placement:
    """Makes a mesh of the devices that there are.

    Args:
      axes: (name, size) pairs; one size may be -1, which takes what the others leave.
      rules: (regular expression, spec) pairs. The first expression found in the path of a leaf of
        the state ("params/model/block_0/mlp/hidden/kernel") claims it; the spec names a mesh axis
        or None for each dimension, and () replicates.
      batch_axes: the axes that split a batch's rows.

    Raises:
      UserError: sizes that do not multiply to the number of devices; an axis that is not there.
    """
    _check_form(axes, rules, batch_axes)
    devices = jax.device_count()
    names, sizes = [axis[0] for axis in axes], [axis[1] for axis in axes]
    free = [i for i, size in enumerate(sizes) if size == -1]
    fixed = math.prod(size for size in sizes if size != -1)
    if len(free) > 1 or fixed < 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh.axes={axes}: expected sizes of 1 or more, and at most one -1.")
    if free:
        sizes[free[0]] = max(1, devices // fixed)
    if math.prod(sizes) != devices:
        raise UserError(
            f"mesh.axes={axes} asks for {math.prod(sizes)} devices and there are {devices};"
            " give one axis the size -1 to take them all."
        )
    used = {a for _, spec in rules for axis in spec if axis for a in np.atleast_1d(axis).tolist()}
    for axis in [*used, *batch_axes]:
        if axis not in names:
            raise UserError(
                f"mesh: a rule or batch_axes names axis '{axis}'; axes has {', '.join(names)}."
            )
    for _, spec in rules:
        twice = [a for axis in spec if axis for a in np.atleast_1d(axis).tolist()]
        if len(twice) != len(set(twice)):
            raise UserError(f"mesh.rules: {spec} names an axis twice; one array has it once.")
    mesh = jax.make_mesh(tuple(sizes), tuple(names), axis_types=(AxisType.Auto,) * len(sizes))
    return Placement(mesh, tuple(rules), tuple(batch_axes))


def _check_form(axes: tuple, rules: tuple, batch_axes: tuple[str, ...]) -> None:
    """Raises UserError where the tuples of a config are not nested as `make` says."""
    good = isinstance(axes, tuple) and all(
        isinstance(a, tuple) and len(a) == 2 and isinstance(a[0], str) and type(a[1]) is int
        for a in axes
    )
    if not good or not axes or len({a[0] for a in axes}) != len(axes):
        raise UserError(
            f"mesh.axes={axes}: expected (name, size) pairs with names of their own, written as"
            ' (("data", 2), ("model", -1)).'
        )
    for rule in rules:
        pair = isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
        if not pair or not isinstance(rule[1], tuple) or not all(map(_is_axis, rule[1])):
            raise UserError(
                f"mesh.rules: expected (regular expression, spec) pairs, got {rule!r}; written as"
                ' (("kernel$", (None, "model")), (".*", ())).'
            )
    if not batch_axes or len(set(batch_axes)) != len(batch_axes):
        raise UserError(f"mesh.batch_axes={batch_axes}: expected one axis or more, each once.")


def _is_axis(entry: Any) -> bool:
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
    return jax.jit(init, out_shardings=sharding)(*args)


def put(rows: Tree, sharding: NamedSharding) -> Tree:
    """Makes global arrays of this process's rows, on its devices."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), rows)

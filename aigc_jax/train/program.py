"""The compiled program of the loop: several steps per dispatch, the state donated."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import replicas
from aigc_jax.core.task import Batch, Metrics, State
from aigc_jax.errors import UserError
from aigc_jax.train import shards
from aigc_jax.train.reuse import canonical
from aigc_jax.train.sharding import Placement, put

_MOST_STEPS = 64
_MOST_BYTES = 32 << 20  # of stacked batches, waiting on the devices
_MOST_PROGRAMS = 4  # that are kept for the runs to come in this process


class Program(NamedTuple):
    """`run(state, batches, n)` takes n steps, 1 <= n <= `capacity`, and returns stacked metrics.

    One program for every n, so that a step's bits do not depend on where the loop paused.
    """

    run: Callable[[State, Batch, Any], tuple[State, Metrics]]
    capacity: int
    compiled: Any  # jax.stages.Compiled, for its memory analysis


def capacity(steps_per_call: int, arrays: Mapping[str, Any]) -> int:
    """Returns the most steps of one dispatch: as set, or as many as small batches allow.

    Args:
      steps_per_call: 0 chooses. arrays: of one batch, by name; their shapes and dtypes are read.
    """
    size = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in arrays.values())
    return steps_per_call or max(1, min(_MOST_STEPS, _MOST_BYTES // max(1, size)))


def global_batch(rows: Mapping[str, np.ndarray], placement: Placement) -> dict[str, Any]:
    """Returns the shapes of the batch of all hosts, from this host's rows.

    Raises:
      UserError: the mesh can't split the rows evenly.
    """
    _, hosts = shards.rows(placement)
    shapes = {
        name: jax.ShapeDtypeStruct((x.shape[0] * hosts, *x.shape[1:]), x.dtype)
        for name, x in rows.items()
    }
    count = next(iter(shapes.values())).shape[0]
    if count % (parts := placement.data_shards):
        below = count - count % parts
        near = f"{below} or {below + parts}" if below else str(parts)
        raise UserError(
            f"run.batch_size={count} is not a multiple of the {parts} parts that the mesh splits a"
            f" batch into; choose {near}, or split something else (mesh.tensor, mesh.sequence)."
        )
    return shapes


def build(
    step: Callable[[State, Batch], tuple[State, Metrics]],
    abstract_state: State,
    abstract_batch: Mapping[str, Any],
    placement: Placement,
    steps_per_call: int,
) -> Program:
    """Compiles the program before anything is run.

    A run after another in one process that differs only in numbers (`State.hyper`, the key) gets
    the program of the first.

    Args:
      step: a task's step, guarded.
      abstract_state: shapes and dtypes. abstract_batch: those of one GLOBAL batch.
      placement: where both live. steps_per_call: 0 chooses.
    """
    step = canonical(step)
    leaves, shape = jax.tree.flatten((abstract_state, dict(abstract_batch)))
    kinds = tuple((x.shape, str(x.dtype)) for x in leaves)
    key = (step, shape, kinds, placement, steps_per_call)
    if key not in _programs:
        _programs[key] = _compiled(step, abstract_state, abstract_batch, placement, steps_per_call)
        if len(_programs) > _MOST_PROGRAMS:
            _programs.popitem(last=False)
    _programs.move_to_end(key)
    return _programs[key]


_programs: OrderedDict[Any, Program] = OrderedDict()


def _compiled(
    step: Callable[[State, Batch], tuple[State, Metrics]],
    abstract_state: State,
    abstract_batch: Mapping[str, Any],
    placement: Placement,
    steps_per_call: int,
) -> Program:
    most = capacity(steps_per_call, abstract_batch)
    with placement.scope():
        shapes = jax.eval_shape(step, abstract_state, abstract_batch)[1]

    def several(state: State, batches: Batch, n: jax.Array) -> tuple[State, Metrics]:
        def body(i: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, stacked = carry
            state, metrics = step(state, jax.tree.map(lambda x: x[i], batches))
            return state, jax.tree.map(lambda rows, m: rows.at[i].set(m), stacked, metrics)

        stacked = jax.tree.map(lambda m: jnp.zeros((most, *m.shape), m.dtype), shapes)
        if most == 1:
            return body(jnp.int32(0), (state, stacked))
        return jax.lax.fori_loop(0, n, body, (state, stacked))

    where = placement.state(abstract_state)
    stacked_batch = {
        name: jax.ShapeDtypeStruct((most, *x.shape), x.dtype) for name, x in abstract_batch.items()
    }
    if placement.mapper == "pmap":
        return _copies(step, several, abstract_state, stacked_batch, placement)
    with placement.scope():
        compiled = (
            jax.jit(
                several,
                donate_argnums=0,
                in_shardings=(where, placement.batches(), placement.replicated()),
                out_shardings=(where, placement.replicated()),
            )
            .lower(abstract_state, stacked_batch, jax.ShapeDtypeStruct((), jnp.int32))
            .compile()
        )
    return Program(compiled, most, compiled)


def _copies(
    step: Callable[[State, Batch], tuple[State, Metrics]],
    several: Callable[[State, Batch, Any], tuple[State, Metrics]],
    state: State,
    stacked: Mapping[str, Any],
    placement: Placement,
) -> Program:
    """Compiles one copy of the program for each device, with its own rows: `jax.pmap`.

    Raises:
      UserError: a step that exchanges nothing between the copies: they would part.
    """
    copies = placement.data_shards
    shapes = {
        name: jax.ShapeDtypeStruct(
            (copies, x.shape[0], x.shape[1] // copies, *x.shape[2:]), x.dtype
        )
        for name, x in stacked.items()
    }
    rows = {name: jax.ShapeDtypeStruct(x.shape[2:], x.dtype) for name, x in shapes.items()}
    traced = jax.make_jaxpr(step, axis_env=[(replicas.AXIS, copies)])(state, rows)
    if "psum" not in str(traced):
        raise UserError(
            "mesh.mapper='pmap': this task's step is written for a whole batch and exchanges"
            " nothing between devices; use mapper='jit'."
        )
    mapped = jax.pmap(several, replicas.AXIS, in_axes=(None, 0, None), out_axes=None)
    compiled = mapped.lower(state, shapes, jax.ShapeDtypeStruct((), jnp.int32)).compile()

    def run(state: State, batches: Batch, n: Any) -> tuple[State, Metrics]:
        def split(x: jax.Array) -> jax.Array:
            return x.reshape(x.shape[0], copies, -1, *x.shape[2:]).swapaxes(0, 1)

        return compiled(state, jax.tree.map(split, batches), n)  # type: ignore[no-any-return]

    return Program(run, next(iter(stacked.values())).shape[0], compiled)


def stack(rows: list[dict[str, np.ndarray]], most: int, placement: Placement) -> Batch:
    """Stacks this host's rows of up to `most` batches, padded with zeros, on the devices."""
    missing = most - len(rows)
    stacked = {
        name: np.stack([row[name] for row in rows] + [np.zeros_like(rows[0][name])] * missing)
        for name in rows[0]
    }
    return put(stacked, placement.batches())  # type: ignore[no-any-return]

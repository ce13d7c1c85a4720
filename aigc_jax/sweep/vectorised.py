"""Trials that differ only in seed and in `hyper`, as ONE compiled program.

Letters: N trials, K steps of one dispatch.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aigc_jax.core.task import Batch, Metrics, State

Tree = Any
Step = Callable[[State, Batch], tuple[State, Metrics]]
_SHARDS = threading.Lock()


class Together(NamedTuple):
    """What takes steps with N trials.

    Attributes:
      run: (state, batches, n) -> (state, metrics): n steps, 1 <= n <= `capacity`. Every leaf of the
        state begins with N, batches with K and N (K alone if all trials see the same), metrics come
        back with K and N. The state is given away.
      capacity: K.
      place: stacks rows for `run`: N lists (one, if all see the same) of up to K batches, as NumPy
        arrays.
      size: bytes that a call takes on one device, the state included.
    """

    run: Any
    capacity: int
    place: Callable[[list[list[dict[str, np.ndarray]]]], Batch]
    size: int


def mesh_of(number: int, rows: int = 1) -> Mesh:
    """Spreads trials over as many devices as divide their number: nothing passes between them. Of
    the devices that are left as many as divide the rows of a batch share those of a trial.

    Args:
      number: of trials. rows: of a batch; 1 to leave batches whole.
    """
    total = jax.device_count()
    apart = max(n for n in range(1, total + 1) if number % n == 0)
    shared = max(n for n in range(1, total // apart + 1) if rows % n == 0)
    return jax.make_mesh(
        (apart, shared), ("trials", "data"), (AxisType.Auto,) * 2,
        devices=jax.devices()[: apart * shared],
    )  # fmt: skip


def begin(
    init: Callable[..., State], trials: Sequence[tuple[int, Mapping[str, float]]], mesh: Mesh
) -> State:
    """Makes the first states of trials, one index a trial.

    Args:
      init: (key, hyper) -> State, of one trial. trials: (seed, hyper) of each.
      mesh: from `mesh_of`.
    """
    keys = jnp.stack([jax.random.key(seed) for seed, _ in trials])
    hyper = {
        name: np.array([numbers[name] for _, numbers in trials], np.float32)
        for name in trials[0][1]
    }
    where = NamedSharding(mesh, PartitionSpec("trials"))
    return jax.jit(jax.vmap(init), out_shardings=where)(keys, hyper)


def trial(stacked: Tree, i: int) -> Tree:
    """Returns one trial's part of a stacked tree, on a device that holds it."""
    leaves, shape = jax.tree.flatten(stacked)
    # JAX makes the list of an array's shards when it is first asked for, and another thread that
    # asks at that moment gets it half made.
    with _SHARDS:
        held = [shard.index[0].indices(len(leaves[0])) for shard in leaves[0].addressable_shards]
        place = next(k for k, (begin, end, _) in enumerate(held) if begin <= i < end)
        local = [leaf.addressable_shards[place].data for leaf in leaves]
    return _row(jax.tree.unflatten(shape, local), np.int32(i - held[place][0]))


@jax.jit
def _row(stacked: Tree, i: jax.Array) -> Tree:
    return jax.tree.map(lambda x: x[i], stacked)


def stack(parts: Sequence[Tree], mesh: Mesh) -> Tree:
    """Puts the trees of single trials together, spread over the devices of a mesh."""
    where, first = NamedSharding(mesh, PartitionSpec("trials")), jax.devices()[0]

    def together(*rows: jax.Array) -> jax.Array:
        return jax.device_put(jnp.stack(jax.device_put(list(rows), first)), where)

    return jax.tree.map(together, *parts)


def build(
    step: Step, state: State, shapes: Mapping[str, Any], most: int, mesh: Mesh, *, shared: bool
) -> Together:
    """Compiles the common step.

    Args:
      step: of one trial. state: of N, or its shapes. shapes: of one trial's batch, by name.
      most: K. mesh: where the state is. shared: all trials see the same batches, so these are
        there once.
    """
    number = jax.tree.leaves(state)[0].shape[0]
    by_trial = NamedSharding(mesh, PartitionSpec("trials"))
    by_step = NamedSharding(mesh, PartitionSpec(None, "trials"))
    whole = NamedSharding(mesh, PartitionSpec())
    dims = (None, "data") if shared else (None, "trials", "data")
    rows = NamedSharding(mesh, PartitionSpec(*dims))

    several = jax.vmap(step, in_axes=(0, None if shared else 0))
    lead = () if shared else (number,)
    batch = {n: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype) for n, x in shapes.items()}
    stacked = {n: jax.ShapeDtypeStruct((most, *x.shape), x.dtype) for n, x in batch.items()}
    found = jax.eval_shape(several, state, batch)[1]

    def run(state: State, batches: Batch, n: jax.Array) -> tuple[State, Metrics]:
        def body(i: jax.Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
            state, rows = carry
            state, metrics = several(state, jax.tree.map(lambda x: x[i], batches))
            return state, jax.tree.map(lambda row, m: row.at[i].set(m), rows, metrics)

        rows = jax.tree.map(lambda m: jnp.zeros((most, *m.shape), m.dtype), found)
        return jax.lax.fori_loop(0, n, body, (state, rows))

    compiled = (
        jax.jit(
            run,
            donate_argnums=0,
            in_shardings=(by_trial, rows, whole),
            out_shardings=(by_trial, by_step),
        )
        .lower(state, stacked, jax.ShapeDtypeStruct((), jnp.int32))
        .compile()
    )
    memory = compiled.memory_analysis()  # None where the backend has none to give
    size = memory.argument_size_in_bytes + memory.temp_size_in_bytes if memory else 0
    place = partial(_placed, most=most, sharding=rows, shared=shared)
    return Together(compiled, most, place, int(size))


def _placed(
    trials: list[list[dict[str, np.ndarray]]], *, most: int, sharding: Any, shared: bool
) -> Batch:
    """Stacks the batches of up to K steps, padded with zeros: arrays [K, N, ...] or [K, ...]."""
    placed = {}
    for name, like in trials[0][0].items():
        rows = np.zeros((most, len(trials), *like.shape), like.dtype)
        for i, steps in enumerate(trials):
            for k, batch in enumerate(steps):
                rows[k, i] = batch[name]
        placed[name] = jax.device_put(rows[:, 0] if shared else rows, sharding)
    return placed

"""Trials that differ only in seed and in `hyper`, as ONE compiled program.

Letters: N trials, K steps of one dispatch.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from aigc_jax.core.task import Batch, Metrics, State

Tree = Any


class Together(NamedTuple):
    """The state of N trials, and what takes steps with it.

    Attributes:
      state: a `State` whose leaves all begin with N, one index a trial.
      run: (state, batches, n) -> (state, metrics): n steps, 1 <= n <= `capacity`. Batches begin
        with K and N, metrics come back so. The state is given away.
      capacity: K.
      place: stacks rows for `run`: N lists of up to K batches, as NumPy arrays.
    """

    state: State
    run: Any
    capacity: int
    place: Any


def build(
    init: Any, step: Any, trials: Sequence[tuple[int, Mapping[str, float]]],
    shapes: Mapping[str, Any], most: int,
) -> Together:  # fmt: skip
    """Makes N first states and compiles their common step.

    With several devices and a number of trials that they divide, each device has its own trials and
    nothing passes between them; else all trials are on all devices.

    Args:
      init: (key, hyper) -> State, of one trial. step: (State, Batch) -> (State, Metrics).
      trials: (seed, hyper) of each.
      shapes: of one trial's batch, by name. most: K.
    """
    number = len(trials)
    devices = jax.devices() if number % jax.device_count() == 0 else jax.devices()[:1]
    mesh = jax.make_mesh((len(devices),), ("trials",), (AxisType.Auto,), devices=devices)
    by_trial = NamedSharding(mesh, PartitionSpec("trials"))
    by_step = NamedSharding(mesh, PartitionSpec(None, "trials"))
    whole = NamedSharding(mesh, PartitionSpec())

    keys = jnp.stack([jax.random.key(seed) for seed, _ in trials])
    hyper = {
        name: np.array([numbers[name] for _, numbers in trials], np.float32)
        for name in trials[0][1]
    }
    state = jax.jit(jax.vmap(init), out_shardings=by_trial)(keys, hyper)
    several = jax.vmap(step)
    stacked = {
        name: jax.ShapeDtypeStruct((most, number, *x.shape), x.dtype) for name, x in shapes.items()
    }
    one = {name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in stacked.items()}
    found = jax.eval_shape(several, state, one)[1]

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
            in_shardings=(by_trial, by_step, whole),
            out_shardings=(by_trial, by_step),
        )
        .lower(state, stacked, jax.ShapeDtypeStruct((), jnp.int32))
        .compile()
    )
    return Together(state, compiled, most, partial(_placed, most=most, sharding=by_step))


def _placed(trials: list[list[dict[str, np.ndarray]]], *, most: int, sharding: Any) -> Batch:
    """Stacks N trials' batches of up to K steps, padded with zeros: arrays [K, N, ...]."""
    placed = {}
    for name, like in trials[0][0].items():
        rows = np.zeros((most, len(trials), *like.shape), like.dtype)
        for i, steps in enumerate(trials):
            for k, batch in enumerate(steps):
                rows[k, i] = batch[name]
        placed[name] = jax.device_put(rows, sharding)
    return placed


def trial(stacked: Tree, i: int) -> Tree:
    """Returns one trial's part of a stacked tree, on the first device."""
    device = jax.devices()[0]
    return jax.tree.map(lambda x: jax.device_put(x[i], device), stacked)


def stack(parts: Sequence[Tree], like: Tree) -> Tree:
    """Puts the trees of single trials together again, placed as `like` is."""
    return jax.tree.map(lambda old, *x: jax.device_put(jnp.stack(x), old.sharding), like, *parts)

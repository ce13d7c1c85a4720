"""Steps that run as one copy for each device (`jax.pmap`), each with its own rows of the batch.

Such a copy sees its rows alone, so what is summed over the batch must be summed over the copies as
well. Under `jit` a program is written for the whole batch, and nothing here does anything.
"""

from typing import Any

import jax
import jax.numpy as jnp

AXIS = "data"

Tree = Any


def mapped() -> bool:
    """Whether the function that is traced is one of several copies."""
    try:
        jax.lax.axis_index(AXIS)
    except NameError:
        return False
    return True


def total(tree: Tree) -> Tree:
    """Returns the sum of each leaf over the copies."""
    return jax.lax.psum(tree, AXIS) if mapped() else tree


def mean(tree: Tree) -> Tree:
    """Returns the mean of each float leaf over the copies; the others are equal anyway."""
    if not mapped():
        return tree
    return jax.tree.map(
        lambda x: jax.lax.pmean(x, AXIS) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def own(key: jax.Array) -> jax.Array:
    """Returns a key of this copy's own, so that no two draw the same."""
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS)) if mapped() else key

"""Moving averages of parameters, in float32 whatever the parameters are in."""

from typing import Any

import jax
import jax.numpy as jnp

from aigc_jax.core import tree

Tree = Any


def begin(params: Tree) -> Tree:
    """Returns a copy: a step donates both, and one buffer can't be given away twice."""
    return jax.tree.map(jnp.copy, tree.widened(params))


def move(decay: jax.Array, average: Tree, params: Tree) -> Tree:
    """Returns decay * average + (1 - decay) * params.

    Args:
      decay: float32 scalar. average: from `begin`. params: of the same structure.
    """
    return jax.tree.map(
        lambda old, new: (decay * old + (1.0 - decay) * new).astype(old.dtype), average, params
    )

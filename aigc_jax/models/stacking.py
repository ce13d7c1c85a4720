"""Between the parameters of unrolled layers and those of scanned ones."""

from typing import Any

import jax
import jax.numpy as jnp


def stack(params: dict[str, Any]) -> dict[str, Any]:
    """Turns the parameters of unrolled layers (`block_0`, `block_1`, ...) into those of scanned
    ones (`blocks`, with a leading layer axis). Any pytree of them: gradients, averages too.
    """
    rest = {name: value for name, value in params.items() if not name.startswith("block_")}
    blocks = [params[f"block_{i}"] for i in range(len(params) - len(rest))]
    return {**rest, "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def unstack(params: dict[str, Any]) -> dict[str, Any]:
    """Undoes `stack`."""
    rest = {name: value for name, value in params.items() if name != "blocks"}
    layers = len(jax.tree.leaves(params["blocks"])[0])
    blocks = {
        f"block_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
        for i in range(layers)
    }
    return {**rest, **blocks}

"""How large what the layers of a model give is: what a coordinate check looks at.

Letters: N = tokens, L = scanned layers.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

# The embeddings pass through it before the first block.
_RENAMED = {"dropout": "embedding"}


def sizes(kept: Mapping[str, Any], mask_N: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns (sum of squares, how many numbers) of what each part of a model gave.

    Args:
      kept: flax's collection "intermediates" of a model called with `capture_intermediates`; its
        parts give [B, T, C], scanned ones [L, B, T, C], and so do parts that give it first.
      mask_N: float32 [B * T], 1 for the tokens that count.

    Returns:
      By name: the model's parts ("embedding", "final_norm", "block_0") and theirs
      ("block_0/attention", "block_0/mlp", ...), norms within blocks left out.
    """
    found = {}
    for path, x in _outputs(kept, ()):
        if len(path) == 2 and path[1].endswith("norm"):
            continue
        if path[0] == "blocks":
            for i, layer in enumerate(x):
                found["/".join((f"block_{i}", *path[1:]))] = size(layer, mask_N)
        else:
            found["/".join(_RENAMED.get(name, name) for name in path)] = size(x, mask_N)
    return found


def size(x: jax.Array, mask_N: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (sum of squares, how many numbers) of the rows that count, float32."""
    squares_N = jnp.square(x.astype(jnp.float32)).sum(-1).reshape(-1)
    return (squares_N * mask_N).sum(), mask_N.sum() * x.shape[-1]


def _outputs(kept: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Any, jax.Array]]:
    for name, inner in kept.items():
        if name == "__call__":
            if path:
                yield path, inner[0][0] if isinstance(inner[0], tuple) else inner[0]
        elif len(path) < 2:
            yield from _outputs(inner, (*path, name))

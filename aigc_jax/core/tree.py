"""Pytrees by path: names, sizes, rules, first differences."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.errors import UserError

Tree = Any


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a JAX key path as "model/block_0/attention/query/kernel"."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def named_leaves(tree: Tree) -> list[tuple[str, Any]]:
    """Returns (path, leaf) pairs in JAX's own order."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_named(function: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
    """Like `jax.tree.map`, with the leaf's path as the first argument."""
    return jax.tree_util.tree_map_with_path(
        lambda path, *leaves: function(path_name(path), *leaves), tree, *rest
    )


def widened(tree: Tree) -> Tree:
    """Returns the tree with what is narrower than float32 as float32, in which sums don't stall."""
    narrow = (jnp.bfloat16, jnp.float16)
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype in narrow else x, tree)


def count(tree: Tree) -> int:
    """Returns the number of scalars in all leaves."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in jax.tree.leaves(tree))


def size_bytes(tree: Tree) -> int:
    """Returns the bytes that all leaves take, from shapes and dtypes alone."""
    # An element of a typed random key has a size of its own, which its dtype knows too.
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def first_match(name: str, patterns: Sequence[str]) -> int | None:
    """Returns the index of the first regular expression found in `name`, or None."""
    return next((i for i, pattern in enumerate(patterns) if re.search(pattern, name)), None)


def claim(tree: Tree, patterns: Sequence[str], what: str) -> Tree:
    """Gives every leaf the index of the first pattern that its path matches.

    Args:
      tree: any pytree.
      patterns: regular expressions, searched in the leaf's path; the first that is found wins.
      what: the setting that the patterns come from, for the message ("optim.rules").

    Returns:
      A tree of ints of the same structure.

    Raises:
      UserError: a leaf that no pattern claims, or a pattern that is not a regular expression.
    """
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"{what}: {pattern!r} is not a regular expression ({error})."
            ) from error
    claims = {name: first_match(name, patterns) for name, _ in named_leaves(tree)}
    lost = [name for name, index in claims.items() if index is None]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise UserError(
            f"{what}: no rule claims {', '.join(lost[:3])}{more}; add a rule for it,"
            " or end the rules with a catch-all ('.*', {})."
        )
    return map_named(lambda name, _: claims[name], tree)


def first_difference(a: Tree, b: Tree) -> str | None:
    """Compares two trees of host arrays bit by bit.

    Returns:
      None when they are the same, otherwise one line that names the first leaf that differs.
    """
    left, right = dict(named_leaves(a)), dict(named_leaves(b))
    for name in [*left, *(name for name in right if name not in left)]:
        if name not in left or name not in right:
            return f"{name} is only in the {'first' if name in left else 'second'}"
        x, y = np.asarray(left[name]), np.asarray(right[name])
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{name}: {x.dtype}{list(x.shape)} against {y.dtype}{list(y.shape)}"
        if x.tobytes() != y.tobytes():
            # Counted in bits as well: 0.0 is not -0.0, and a NaN is equal to itself.
            raw = [np.frombuffer(a.tobytes(), np.uint8).reshape(a.size, -1) for a in (x, y)]
            differ = int((raw[0] != raw[1]).any(1).sum())
            gaps = np.abs(np.subtract(x, y, dtype=np.float64)).ravel()
            gap = gaps[~np.isnan(gaps)].max(initial=0.0)
            return f"{name}: {differ} of {x.size} values differ, by {gap:.3g} at most"
    return None


def first_nonfinite(tree: Tree) -> str | None:
    """Returns the path of the first floating-point leaf that holds a NaN or an infinity."""
    for name, leaf in named_leaves(tree):
        array = np.asarray(leaf)
        if array.dtype.kind not in "fc" and str(array.dtype) != "bfloat16":
            continue
        if not np.isfinite(array.astype(np.float32)).all():
            return name
    return None

"""A run's own network as an extractor of features.

Letters in names: B images of a chunk, N images.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import tree
from aigc_jax.errors import UserError
from aigc_jax.metrics.image import Extractor


def of_run(
    run: str,
    functions: Mapping[str, Callable[..., jax.Array]],
    weights: Any,
    *,
    kind: str,
    shape: Sequence[int],
    record: Mapping[str, Any],
    sha256: str = "",
    chunk: int = 256,
) -> Extractor:
    """Makes an extractor of the functions "features" and "logits" of a run's task.

    Args:
      run: its folder, for messages.
      functions: of the task, (weights, {"x": x_BHWC}) -> [B, D] each. "features" may have any
        number of axes behind the first; they are laid out flat.
      weights: what they read.
      kind: "classifier", whose scores are named so and which must have "logits"; or "run", any
        network.
      shape: H, W, C of the images that it was trained on.
      record: what else to note: step, seed, accuracy.
      sha256: what `digest(weights)` must be; "" for any.
      chunk: images at once.

    Raises:
      UserError: a function is missing or the hash is another; later, images of another shape.
    """
    for name in ("features", "logits") if kind == "classifier" else ("features",):
        if name not in functions:
            known = ", ".join(functions) or "none"
            raise UserError(
                f"extractor='{kind}': the task of {run} has no function '{name}'; it has: {known}."
            )
    found = digest(weights)
    if sha256 and sha256.lower() != found:
        raise UserError(f"the weights of {run} have the sha256 {found}; expected {sha256}.")
    features, logits = functions["features"], functions.get("logits")

    @jax.jit
    def both(weights: Any, x_BHWC: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        # What the two have in common is compiled once.
        batch = {"x": x_BHWC}
        y = features(weights, batch)
        return y.reshape(y.shape[0], -1), logits(weights, batch) if logits else None

    def check(theirs: Sequence[int]) -> None:
        if tuple(theirs) != tuple(shape):
            raise UserError(
                f"images of {' x '.join(map(str, theirs))}: {run} was trained on"
                f" {' x '.join(map(str, shape))}, and its features are taken of no other."
            )

    def extract(x_NHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        check(x_NHWC.shape[1:])
        parts = []
        for begin in range(0, len(x_NHWC), chunk):
            x = np.asarray(x_NHWC[begin : begin + chunk], np.float32)
            real = len(x)
            x = np.pad(x, ((0, chunk - real), *[(0, 0)] * (x.ndim - 1)))
            parts.append([None if a is None else np.asarray(a)[:real] for a in both(weights, x)])
        first, second = zip(*parts, strict=True)
        return np.concatenate(first), np.concatenate(second) if logits else None

    classes = 0
    if logits:
        image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        classes = int(jax.eval_shape(logits, weights, {"x": image}).shape[-1])
    layer = getattr(features, "__name__", "features")
    noted = {"weights_sha256": found, "layer": layer, "resize": "none", **record}
    return Extractor(kind, extract, check, classes, noted)


def digest(weights: Any) -> str:
    """Returns the sha256 of all arrays, with their names, types and shapes."""
    made = hashlib.sha256()
    for name, leaf in tree.named_leaves(weights):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        made.update(f"{name} {array.dtype} {array.shape}\n".encode())
        made.update(array.tobytes())
    return made.hexdigest()

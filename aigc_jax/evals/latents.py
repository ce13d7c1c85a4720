"""What an autoencoder's latents say, as pictures: reconstructions, traversals, interpolations."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError, nearest
from aigc_jax.metrics.picture_grid import grid


def make(
    context: Any,
    *,
    split: str = "validation",
    number: int = 8,
    steps: int = 9,
    reach: float = 2.5,
    path: Literal["spherical", "linear"] = "spherical",
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that writes RUN/samples/STEP-NAME.png of some rows, the same each time.

    "reconstructions": originals over what comes back. "traversals": a row of pictures for each
    latent of the split's first image, the latent going from -reach to reach and the others staying;
    the `number` latents that vary most over the rows shown. "interpolations": from each image to
    the next. A task without an encoder to a vector has the first picture alone.

    Args:
      context: what the wiring knows; reads `data`, `functions`, `write_picture`. The task has the
        function "reconstruct" (weights, batch, key) -> x, and for the others "decode" (weights, z,
        label or None) -> x with "codes", or where there are none "features", (weights, batch) ->
        z [B, L].
      split: its name in the data; rows of its first batch are shown.
      number: rows, and latents traversed. steps: pictures of a path. reach: in the prior's standard
        deviations.
      path: "spherical" keeps to the lengths that latents of a normal prior have (White 2016,
        arXiv:1609.04468), "linear" is the straight line.

    Raises:
      UserError: data that is no images, no such split, no rows asked for, or a task without such
        functions.
    """
    if number < 1 or steps < 2:
        raise UserError(f"evals: number={number}, steps={steps}: expected 1 and 2, or more.")
    if split not in (known := list(context.data.splits)):
        raise UserError(
            f"evals: the data has no split '{split}'; it has {', '.join(known)}."
            f"{nearest(split, known)}"
        )
    if "reconstruct" not in context.functions or len(context.data.spec.facts["shape"]) != 3:
        raise UserError(
            "evals: 'latents' draws what an autoencoder of images gives back; this task or its data"
            " has none."
        )
    key, told = jax.random.key(0), "label" in context.data.spec.arrays
    reconstruct = jax.jit(context.functions["reconstruct"])
    encoded = context.functions.get("codes", context.functions.get("features"))
    has_vectors = encoded is not None and "decode" in context.functions
    encode = jax.jit(encoded) if has_vectors else None
    decode = jax.jit(context.functions["decode"]) if has_vectors else None

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        # The same rows on every host: few, and only one of them writes.
        batch = context.data.splits[split].batch(0, (0, 1))
        shown = min(number, int(batch["mask"].sum()))
        again = np.asarray(reconstruct(weights, batch, key))[:shown]
        both = np.concatenate([batch["x"][:shown], again])
        context.write_picture(step, "reconstructions", grid(both, shown))
        if encode is None or decode is None:
            return {}
        z_NL = np.asarray(encode(weights, batch))[:shown]

        def drawn(name: str, z: np.ndarray, places: np.ndarray) -> None:
            """Decodes [rows, steps, L]; a row is told the label of the image at its place."""
            label = np.repeat(batch["label"][places], steps) if told else None
            x = decode(weights, z.reshape(-1, z.shape[-1]).astype(np.float32), label)
            context.write_picture(step, name, grid(np.asarray(x), steps))

        axes = np.argsort(-z_NL.var(0), kind="stable")[:number]
        drawn("traversals", traversals(z_NL[0], axes, steps, reach), np.zeros(len(axes), int))
        following = np.roll(z_NL, -1, axis=0)
        drawn("interpolations", between(z_NL, following, steps, path), np.arange(shown))
        return {}

    return evaluate


def traversals(z_L: np.ndarray, axes: np.ndarray, steps: int, reach: float) -> np.ndarray:
    """Returns [axes, steps, L]: in row i only latent axes[i] moves, from -reach to reach."""
    found = np.tile(z_L, (len(axes), steps, 1))
    for row, axis in zip(found, axes, strict=True):
        row[:, axis] = np.linspace(-reach, reach, steps)
    return found


def between(a_NL: np.ndarray, b_NL: np.ndarray, steps: int, path: str) -> np.ndarray:
    """Returns the ways from a to b, both ends included, [N, steps, L]."""
    t = np.linspace(0.0, 1.0, steps)[None, :, None]
    a, b = a_NL[:, None], b_NL[:, None]
    straight = (1.0 - t) * a + t * b
    if path == "linear":
        return straight
    sizes = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b)]
    cosine = (a * b).sum(-1, keepdims=True) / np.maximum(sizes[0] * sizes[1], 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    sine = np.sin(angle)
    curved = (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / np.maximum(sine, 1e-12)
    # Between parallel vectors there is no arc: the line is the way.
    return np.where(sine > 1e-4, curved, straight)

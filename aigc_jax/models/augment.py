"""Augmentations that a discriminator sees and a gradient passes through.

"diffaugment": every example, all of brightness, saturation, contrast, translation and cutout (Zhao
et al. 2020, arXiv:2006.10738). "ada": each of its changes with probability p, which the task raises
or lowers with the discriminator's overfitting (Karras et al. 2020, arXiv:2006.06676): flips,
quarter turns, whole-pixel translations, brightness, contrast, saturation, cutout. The changes that
need resampling (scaling, free rotation) and the filters of that paper are left out.

Letters: B batch, H height, W width, C channels. Pixels are in [-1, 1].
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

POLICIES = ("none", "diffaugment", "ada")


def augment(policy: str, key: jax.Array, x_BHWC: jax.Array, p: jax.Array) -> jax.Array:
    """Returns the changed examples, of the same shape.

    Args:
      policy: one of POLICIES. key: of all draws. x_BHWC: the examples.
      p: float32 [], the probability of each change; read by "ada" alone.
    """
    if policy == "none":
        return x_BHWC
    changes = _DIFFAUGMENT if policy == "diffaugment" else _ADA
    for i, change in enumerate(changes):
        inner = jax.random.fold_in(key, i)
        changed = change(inner, x_BHWC)
        if policy == "ada":
            rows = (x_BHWC.shape[0], 1, 1, 1)
            chosen = jax.random.uniform(jax.random.fold_in(inner, 1), rows) < p
            changed = jnp.where(chosen, changed, x_BHWC)
        x_BHWC = changed
    return x_BHWC


def _per_row(key: jax.Array, x: jax.Array, low: float, high: float) -> jax.Array:
    return jax.random.uniform(key, (x.shape[0], 1, 1, 1), minval=low, maxval=high)


def brightness(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Adds a number of [-0.5, 0.5)."""
    return x_BHWC + _per_row(key, x_BHWC, -0.5, 0.5)


def saturation(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Scales the distance from gray by [0, 2); without colour, nothing."""
    gray = x_BHWC.mean(-1, keepdims=True)
    return (x_BHWC - gray) * _per_row(key, x_BHWC, 0.0, 2.0) + gray


def contrast(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Scales the distance from the picture's mean by [0.5, 1.5)."""
    mean = x_BHWC.mean((1, 2, 3), keepdims=True)
    return (x_BHWC - mean) * _per_row(key, x_BHWC, 0.5, 1.5) + mean


def translation(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Moves by up to an eighth of each side, whole pixels; black comes in."""
    batch, height, width, _ = x_BHWC.shape
    far = (max(1, round(height / 8)), max(1, round(width / 8)))
    keys = jax.random.split(key)
    moved = x_BHWC + 1.0  # black is 0
    for axis, most in enumerate(far):
        shift = jax.random.randint(keys[axis], (batch,), -most, most + 1)
        size = (height, width)[axis]
        place = jnp.arange(size)[None, :] + shift[:, None]
        inside = (place >= 0) & (place < size)
        shape = (batch, size, 1, 1) if axis == 0 else (batch, 1, size, 1)
        rows = jnp.clip(place, 0, size - 1).reshape(shape)
        moved = jnp.take_along_axis(moved, rows, axis=axis + 1) * inside.reshape(shape)
    return moved - 1.0


def cutout(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Makes a square of half the side gray, its centre anywhere."""
    batch, height, width, _ = x_BHWC.shape
    keys = jax.random.split(key)
    covered = jnp.ones((batch, 1, 1, 1), bool)
    for axis, size in enumerate((height, width)):
        centre = jax.random.randint(keys[axis], (batch, 1), 0, size + 1)
        first = centre - size // 4
        place = jnp.arange(size)[None, :]
        line = (place >= first) & (place < first + size // 2)
        covered &= line.reshape((batch, size, 1, 1) if axis == 0 else (batch, 1, size, 1))
    return jnp.where(covered, 0.0, x_BHWC)


def flip(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Left becomes right: half of the time."""
    chosen = jax.random.bernoulli(key, 0.5, (x_BHWC.shape[0], 1, 1, 1))
    return jnp.where(chosen, x_BHWC[:, :, ::-1], x_BHWC)


def quarter_turn(key: jax.Array, x_BHWC: jax.Array) -> jax.Array:
    """Turns squares by 0, 1, 2 or 3 right angles; leaves other pictures."""
    if x_BHWC.shape[1] != x_BHWC.shape[2]:
        return x_BHWC
    turns = jax.random.randint(key, (x_BHWC.shape[0], 1, 1, 1), 0, 4)
    return jnp.select(
        [turns == k for k in range(4)], [jnp.rot90(x_BHWC, k, axes=(1, 2)) for k in range(4)]
    )


_Change = Callable[[jax.Array, jax.Array], jax.Array]
_DIFFAUGMENT: tuple[_Change, ...] = (brightness, saturation, contrast, translation, cutout)
_ADA: tuple[_Change, ...] = (flip, quarter_turn, *_DIFFAUGMENT)

"""Augmentations that a discriminator sees and a gradient passes through.

"diffaugment": every example, all of brightness, saturation, contrast, translation and cutout (Zhao
et al. 2020, arXiv:2006.10738).

"ada" and "fixed": each of many changes by chance (Karras et al. 2020, arXiv:2006.06676, appendix
B): flips, quarter turns, whole-pixel translations; scaling, rotation, stretching, fractions of a
pixel; brightness, contrast, inverted luma, hue, saturation; cutout. What moves pixels is one
transformation, resampled once; what turns colours is one matrix. "ada" has its strength raised or
lowered by the discriminator's overfitting, "fixed" is told it. That paper's band filters and noise,
which it found to be of no use, are left out.

Letters: B batch, H height, W width, C channels. Pixels are in [-1, 1].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

POLICIES = ("none", "diffaugment", "ada", "fixed")
KARRAS = ("ada", "fixed")

# The wavelet sym6 (Daubechies 1992, table 8.1): a low pass that is orthogonal to itself moved by
# two, so that what is doubled and halved again is what it was. Twelve taps of sum sqrt(2).
_SYM6 = np.array([
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
])  # fmt: skip
_CENTRE = 5  # of its mass, in taps
_EDGE = 3  # pixels beyond the picture that the filter needs


class Strength(NamedTuple):
    """How often each change is made, float32 [] each: of place, of colour, of cutout."""

    p: jax.Array
    colour: jax.Array
    cutout: jax.Array


def augment(policy: str, key: jax.Array, x_BHWC: jax.Array, strength: Strength) -> jax.Array:
    """Returns the changed examples, of the same shape.

    Args:
      policy: one of POLICIES. key: of all draws. x_BHWC: the examples; for KARRAS, C is 1 or 3.
      strength: read by KARRAS alone.
    """
    if policy == "none":
        return x_BHWC
    if policy in KARRAS:
        keys = jax.random.split(key, 3)
        x_BHWC = moved(x_BHWC, placement(keys[0], x_BHWC.shape, strength.p))
        x_BHWC = coloured(x_BHWC, colours(keys[1], x_BHWC.shape[0], strength.colour))
        chance = jax.random.uniform(jax.random.fold_in(keys[2], 1), (x_BHWC.shape[0], 1, 1, 1))
        return jnp.where(chance < strength.cutout, cutout(keys[2], x_BHWC), x_BHWC)
    for i, change in enumerate(_DIFFAUGMENT):
        x_BHWC = change(jax.random.fold_in(key, i), x_BHWC)
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
    """Moves by up to an eighth of each side, whole pixels; gray comes in."""
    batch, height, width, _ = x_BHWC.shape
    far = (max(1, round(height / 8)), max(1, round(width / 8)))
    keys = jax.random.split(key)
    moved = x_BHWC
    for axis, most in enumerate(far):
        shift = jax.random.randint(keys[axis], (batch,), -most, most + 1)
        size = (height, width)[axis]
        place = jnp.arange(size)[None, :] + shift[:, None]
        inside = (place >= 0) & (place < size)
        shape = (batch, size, 1, 1) if axis == 0 else (batch, 1, size, 1)
        rows = jnp.clip(place, 0, size - 1).reshape(shape)
        moved = jnp.take_along_axis(moved, rows, axis=axis + 1) * inside.reshape(shape)
    return moved


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


def _matrix(rows: list[list[jax.Array | float]], batch: int) -> jax.Array:
    """[B, n, m] of numbers and of arrays [B]."""
    return jnp.stack(
        [jnp.stack([jnp.broadcast_to(jnp.float32(x), (batch,)) for x in row], -1) for row in rows],
        -2,
    )


def _turn(angle_B: jax.Array) -> jax.Array:
    cos, sin = jnp.cos(angle_B), jnp.sin(angle_B)
    zero = jnp.zeros_like(cos)
    return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], len(zero))


def _scale(x_B: jax.Array, y_B: jax.Array) -> jax.Array:
    return _matrix([[x_B, 0.0, 0.0], [0.0, y_B, 0.0], [0.0, 0.0, 1.0]], len(x_B))


def _shift(x_B: jax.Array, y_B: jax.Array) -> jax.Array:
    return _matrix([[1.0, 0.0, x_B], [0.0, 1.0, y_B], [0.0, 0.0, 1.0]], len(x_B))


def placement(key: jax.Array, shape: tuple[int, ...], p: jax.Array) -> jax.Array:
    """Draws where each pixel of the changed picture comes from, float32 [B, 3, 3].

    A matrix takes (x, y, 1) in the new picture, in pixels from its middle, to the old one.

    Args:
      key: of the draws. shape: (B, H, W, C). p: of each change.
    """
    batch, height, width, _ = shape
    # All at once: each draw of its own is a program of its own to compile.
    keys = jax.random.split(key, 3)
    chance = jax.random.uniform(keys[0], (8, batch))
    even = jax.random.uniform(keys[1], (6, batch), minval=-1.0)
    normal = jax.random.normal(keys[2], (4, batch))
    # Turned before or after the stretching, or both: all in all with chance p.
    half = 1.0 - jnp.sqrt(jnp.clip(1.0 - p, 0.0, 1.0))

    def or_not(i: int, value: jax.Array, still: float, share: jax.Array = p) -> jax.Array:
        return jnp.where(chance[i] < share, value, still)

    flip_B = or_not(0, jnp.where(even[0] < 0, -1.0, 1.0), 1.0)
    turns_B = or_not(1, jnp.floor(2.0 * (even[1] + 1.0)), 0.0)
    whole_x, whole_y = (
        or_not(2, jnp.round(even[2 + i] * 0.125 * n), 0.0) for i, n in enumerate((width, height))
    )
    scale_B = or_not(3, jnp.exp2(0.2 * normal[0]), 1.0)
    before_B = or_not(4, jnp.pi * even[4], 0.0, half)
    stretch_B = or_not(5, jnp.exp2(0.2 * normal[1]), 1.0)
    after_B = or_not(6, jnp.pi * even[5], 0.0, half)
    part_x, part_y = (
        or_not(7, normal[2 + i] * 0.125 * n, 0.0) for i, n in enumerate((width, height))
    )
    found = _scale(flip_B, jnp.ones_like(flip_B))
    for step in (
        _turn(turns_B * (jnp.pi / 2)),
        _shift(-whole_x, -whole_y),
        _scale(1.0 / scale_B, 1.0 / scale_B),
        _turn(before_B),
        _scale(1.0 / stretch_B, stretch_B),
        _turn(after_B),
        _shift(-part_x, -part_y),
    ):
        found = jnp.einsum("bij,bjk->bik", found, step, precision="highest")
    return found


def _doubling(size: int) -> np.ndarray:
    """A side, continued by its mirror image, on a grid twice as fine: [2 (3 size - 2), size]."""
    border = size - 1
    mirrored = np.pad(np.arange(size), border, mode="reflect") if border else np.zeros(1, int)
    found = np.zeros((2 * len(mirrored), size))
    for i, pixel in enumerate(mirrored):
        for tap, weight in enumerate(_SYM6):
            if 0 <= (k := 2 * i - _CENTRE + tap) < len(found):
                found[k, pixel] += np.sqrt(2.0) * weight
    return found


def _halving(size: int) -> np.ndarray:
    """A side and its edges back from the fine grid: [size, 2 (size + 2 _EDGE)]."""
    found = np.zeros((size, 2 * (size + 2 * _EDGE)))
    for i in range(size):
        for tap, weight in enumerate(_SYM6):
            found[i, 2 * (i + _EDGE) - _CENTRE + tap] = weight / np.sqrt(2.0)
    return found


def moved(x_BHWC: jax.Array, inverse_B33: jax.Array) -> jax.Array:
    """Returns the pictures with each pixel taken from where a matrix says; see `placement`.

    Pictures are continued by their mirror image and doubled by the filter, read between four pixels
    each, and halved by the filter again. Beyond three times the picture there is gray.
    """
    batch, height, width, channels = x_BHWC.shape
    fine = jnp.einsum(
        "oh,bhwc,pw->bopc", jnp.float32(_doubling(height)), x_BHWC, jnp.float32(_doubling(width)),
        precision="highest",
    )  # fmt: skip
    # Fine pixel k of a side stands at k / 2 pixels from the first one.
    axes = [jnp.arange(2 * (n + 2 * _EDGE)) / 2.0 - _EDGE - (n - 1) / 2.0 for n in (width, height)]
    x_N, y_N = (grid.reshape(-1) for grid in jnp.meshgrid(*axes))
    at_B3N = jnp.einsum(
        "bij,jn->bin", inverse_B33, jnp.stack([x_N, y_N, jnp.ones_like(x_N)]), precision="highest"
    )
    column, row = (
        2.0 * (at_B3N[:, i] + (n - 1) / 2.0 + (n - 1)) for i, n in enumerate((width, height))
    )
    read = _between(fine, row, column)
    sides = (2 * (height + 2 * _EDGE), 2 * (width + 2 * _EDGE))
    return jnp.einsum(
        "ho,bopc,wp->bhwc", jnp.float32(_halving(height)), read.reshape(batch, *sides, channels),
        jnp.float32(_halving(width)), precision="highest",
    )  # fmt: skip


def _between(x_BHWC: jax.Array, row_BN: jax.Array, column_BN: jax.Array) -> jax.Array:
    """Bilinear readings at N places, 0 outside: [B, N, C]."""
    batch, height, width, channels = x_BHWC.shape
    flat = x_BHWC.reshape(batch, height * width, channels)
    top, left = jnp.floor(row_BN), jnp.floor(column_BN)
    total = jnp.zeros((batch, row_BN.shape[1], channels), x_BHWC.dtype)
    for i in (0.0, 1.0):
        for j in (0.0, 1.0):
            y, x = top + i, left + j
            weight = (1.0 - jnp.abs(row_BN - y)) * (1.0 - jnp.abs(column_BN - x))
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            place = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
            pixel = jnp.take_along_axis(flat, place.astype(jnp.int32)[:, :, None], axis=1)
            total += jnp.where(inside, weight, 0.0)[:, :, None] * pixel
    return total


def colours(key: jax.Array, batch: int, p: jax.Array) -> jax.Array:
    """Draws what becomes of (red, green, blue, 1), float32 [B, 3, 4]; p: of each change."""
    keys = jax.random.split(key, 3)
    chance = jax.random.uniform(keys[0], (5, batch))
    even = jax.random.uniform(keys[1], (2, batch), minval=-1.0)
    normal = jax.random.normal(keys[2], (3, batch))

    def or_not(i: int, value: jax.Array, still: float) -> jax.Array:
        return jnp.where(chance[i] < p, value, still)

    bright_B = or_not(0, 0.2 * normal[0], 0.0)
    contrast_B = or_not(1, jnp.exp2(0.5 * normal[1]), 1.0)
    luma_B = or_not(2, jnp.where(even[0] < 0, -1.0, 1.0), 1.0)
    hue_B = or_not(3, jnp.pi * even[1], 0.0)
    saturation_B = or_not(4, jnp.exp2(normal[2]), 1.0)
    # Along the axis of grays: the mean colour. Across it: a plane, in which hue is an angle.
    along = jnp.full((1, 3, 3), 1.0 / 3.0)
    across = jnp.eye(3)[None] - along
    axis = jnp.float32([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])[None] / jnp.sqrt(3.0)
    cos, sin = jnp.cos(hue_B)[:, None, None], jnp.sin(hue_B)[:, None, None]
    turned = saturation_B[:, None, None] * (cos * across + sin * axis)
    mixed = contrast_B[:, None, None] * (luma_B[:, None, None] * along + turned)
    # Brightness is added first, to all three alike, so that only what lies along the grays sees it.
    offset = jnp.broadcast_to((bright_B * contrast_B * luma_B)[:, None, None], (batch, 3, 1))
    return jnp.concatenate([mixed, offset], -1)


def coloured(x_BHWC: jax.Array, change_B34: jax.Array) -> jax.Array:
    """Returns the pictures in other colours; C is 3, or 1, and gray stays gray."""
    channels = x_BHWC.shape[-1]
    x = jnp.broadcast_to(x_BHWC, (*x_BHWC.shape[:3], 3))
    x = jnp.einsum("bij,bhwj->bhwi", change_B34[:, :, :3], x, precision="highest")
    x = x + change_B34[:, None, None, :, 3]
    return x if channels == 3 else x.mean(-1, keepdims=True)


_Change = Callable[[jax.Array, jax.Array], jax.Array]
_DIFFAUGMENT: tuple[_Change, ...] = (brightness, saturation, contrast, translation, cutout)

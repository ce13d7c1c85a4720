"""Pictures side by side in one picture.

Letters: N pictures, H height, W width, C channels.
"""

import math

import numpy as np

from aigc_jax.errors import UserError

GAP = 2  # pixels between two pictures, and around them all
BACKGROUND = 255


def grid(images_NHWC: np.ndarray, columns: int = 0) -> np.ndarray:
    """Lays pictures out row by row.

    Args:
      images_NHWC: [N, H, W, C], C = 1 or 3, or [N, H, W]: floats in [-1, 1] (what lies outside is
        cut off, NaN is black), or uint8 as they are.
      columns: pictures in a row; 0 for about as many as there are rows.

    Returns:
      uint8 [rows * (H + 2) + 2, columns * (W + 2) + 2], with a last axis of 3 where C = 3; white
      between the pictures and in places that none fills.

    Raises:
      UserError: no picture, another number of axes or channels, or `columns` below 0.
    """
    images = np.asarray(images_NHWC)
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise UserError(
            f"A grid of pictures from an array of shape {np.shape(images_NHWC)}: expected"
            " [N, H, W, C] with one picture or more and C = 1 or 3."
        )
    if columns < 0:
        raise UserError(f"A grid of {columns} columns: expected 0 (as fits) or more.")
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = -(-count // columns)
    shape = (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels)
    pixels = np.full(shape, BACKGROUND, np.uint8)
    for place, image in enumerate(to_bytes(images)):
        top = GAP + place // columns * (height + GAP)
        left = GAP + place % columns * (width + GAP)
        pixels[top : top + height, left : left + width] = image
    return pixels if channels == 3 else pixels[..., 0]


def to_bytes(images: np.ndarray) -> np.ndarray:
    """Returns floats in [-1, 1] as uint8 of the same shape, rounded; uint8 comes back as it is."""
    if images.dtype == np.uint8:
        return images
    scaled = (np.asarray(images, np.float32) + 1.0) * 127.5
    return np.clip(np.rint(np.nan_to_num(scaled, nan=0.0)), 0, 255).astype(np.uint8)

"""The three ways of resizing that published scores were measured under. They change FID.

Parmar, Zhang & Zhu 2022, arXiv:2104.11222, compare them. Letters: N images, H, W, C.
"""

from typing import Literal

import numpy as np

# "tf1": bilinear, corners of pixel 0 on each other, nothing smoothed when it shrinks: the graph of
# 2015, and torch-fidelity. "torch": bilinear, centers of pixels on each other, nothing smoothed:
# pytorch-fid. "clean": Pillow's bicubic, smoothed when it shrinks: clean-fid.
Resize = Literal["tf1", "clean", "torch"]


def weights(old: int, new: int, mode: str) -> np.ndarray:
    """Returns the matrix that resizes one axis bilinearly, float32 [new, old].

    Args:
      mode: "tf1" or "torch". Places are computed in float32, as both do.
    """
    scale, out = np.float32(old / new), np.arange(new, dtype=np.float32)
    if mode == "torch":
        half = np.float32(0.5)
        place = np.maximum((out + half) * scale - half, np.float32(0.0))
    else:
        place = out * scale
    low = np.minimum(place.astype(np.int64), old - 1)
    share = (place - low.astype(np.float32)).astype(np.float32)
    matrix = np.zeros((new, old), np.float32)
    rows = np.arange(new)
    np.add.at(matrix, (rows, low), 1 - share)
    np.add.at(matrix, (rows, np.minimum(low + 1, old - 1)), share)
    return matrix


def bicubic(pixels_NHWC: np.ndarray, side: int) -> np.ndarray:
    """Resizes to a square by Pillow's bicubic filter, in floats: no rounding to 256 levels.

    Args:
      pixels_NHWC: uint8. side: pixels.

    Returns:
      float32 [N, side, side, C], cut off to [0, 255].
    """
    from PIL import Image

    def one(plane_HW: np.ndarray) -> np.ndarray:
        image = Image.fromarray(plane_HW.astype(np.float32))
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))

    resized = [
        np.stack([one(x_HWC[..., c]) for c in range(x_HWC.shape[-1])], -1) for x_HWC in pixels_NHWC
    ]
    return np.clip(np.stack(resized), 0.0, 255.0)

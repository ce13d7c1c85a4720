"""MNIST's idx files: arrays with a four-byte head (LeCun's format), gzipped or not."""

import re
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aigc_jax.errors import UserError

_NAME = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")
_UBYTE = 0x08  # the only element type of MNIST and its kin
SPLITS = {"train": "train", "t10k": "test"}  # the files' word and TFDS's


class Digits(NamedTuple):
    """images uint8 [N, H, W], labels uint8 [N]."""

    images: np.ndarray
    labels: np.ndarray


def parse(raw: bytes, path: Path) -> np.ndarray:
    """Returns the uint8 array of an unzipped idx file; `path` is for messages.

    Raises:
      UserError: it is no idx file of bytes, or its length is not what its head says.
    """
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != _UBYTE or not 1 <= raw[3] <= 3:
        raise UserError(
            f"{path} is no idx file of bytes: it begins with 0x{raw[:4].hex()}, expected "
            "0x000008 and the number of dimensions."
        )
    head = 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:head].ljust(head - 4, b"\0"))
    expected = head + int(np.prod(shape))
    if len(raw) != expected:
        raise UserError(
            f"{path} has {len(raw)} bytes, expected {expected} for its shape {shape}. "
            "Copy it again."
        )
    return np.frombuffer(raw, np.uint8, offset=head).reshape(shape)


def files(folder: Path) -> dict[tuple[str, str], Path]:
    """Returns the idx files in `folder` by (split, "images" or "labels"); {} when there is none.

    Raises:
      UserError: some of the four are there and some are not.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        if match := _NAME.fullmatch(path.name):
            found.setdefault((SPLITS[match[1]], match[2]), path)
    missing = [
        f"{word}-{what}-idx{3 if what == 'images' else 1}-ubyte[.gz]"
        for word, split in SPLITS.items()
        for what in ("images", "labels")
        if (split, what) not in found
    ]
    if found and missing:
        raise UserError(f"The folder {folder} lacks {', '.join(missing)}; expected all four files.")
    return found


def pair(images: np.ndarray, labels: np.ndarray, folder: Path) -> Digits:
    """Returns images with their labels; raises UserError when they don't fit each other."""
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise UserError(
            f"Images {images.shape} and labels {labels.shape} in {folder} don't fit: expected "
            "[N, height, width] and [N]."
        )
    return Digits(images, labels)

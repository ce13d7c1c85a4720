"""Images: MNIST's idx files, any folder of pictures, or a TFDS data set of images by name.

A batch is x float32 [B, H, W, C] in [-1, 1]; label int32 [B], where there are labels; index int32
[B], the row's place in its part; mask float32 [B], 1 for a row and 0 for padding.
"""

import hashlib
import json
from typing import Literal

import numpy as np

from aigc_jax.data import order, rows
from aigc_jax.data.base import Batch, Data
from aigc_jax.data.decode import BACKGROUNDS, FILTERS, FITS
from aigc_jax.data.image_sources import PARTS, find
from aigc_jax.data.image_store import Part, Prepared, Settings, prepared
from aigc_jax.errors import UserError, nearest

SHARE = 0.9  # trained on, where the data has no part to judge by and no share is given


def make(
    *,
    batch_size: int,
    seed: int,
    path: str = "mnist",
    size: int = 0,
    crop: int = 0,
    fit: Literal["resize", "pad"] = "resize",
    channels: int = 0,
    flip: bool = False,
    labels: str = "auto",
    field: str = "image",
    train_share: float | None = None,
    filter: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "lanczos",
    background: Literal["black", "white"] = "white",
    broken_share: float = 0.01,
) -> Data:
    """Returns batches of images, decoded once and kept as uint8 (uint16 where they have 16 bits).

    Args:
      batch_size: rows of the global batch, B.
      seed: of the order of training and of the flips; it changes no split.
      path: a folder with MNIST's four idx files (gzipped or not), a folder of pictures, a name of
        `aigc data list` (fetched when it is not there), or a TFDS data set's "name" or
        "name/config".
      size: pixels of both sides; 0 keeps the pictures as they are, then all must agree.
      crop: pixels of both sides cut out of the middle before scaling, 0 for none (CelebA is
        often cropped to 148, 160 or 178).
      fit: "resize" scales the shorter side to `size` and keeps the middle; "pad" keeps the pixels
        and puts black (-1) around them, as 28 becomes 32.
      channels: 1 grey (ITU-R BT.601), 3 colour, 0 as it is: 1 where all pictures are grey, else 3.
      flip: mirrors each training row with probability 1/2, fixed by (seed, step, row).
      labels: "auto" takes them where there are some: the field "label" of a TFDS data set; a
        folder's labels.json, else its subfolders where there are at least two; "none" ignores
        them; "folders" wants subfolders; any other text is the path of a JSON file {picture: label}
        or a TFDS data set's field.
      field: which field of a TFDS data set is the image.
      train_share: share of the training part that is trained on; the rest, drawn once and for all
        seeds alike, is for validation, and a part for testing then stays one. None takes the
        data's own part for validation or testing where there is one, else 0.9; 1.0 insists on it.
      filter: how Pillow scales; all but "nearest" with antialiasing.
      background: what stands behind transparent pixels.
      broken_share: pictures that can't be read are left out and named; more than this share is an
        error.

    Raises:
      UserError: nothing is found, too much of it is broken, labels or sizes don't fit, or a
        setting is wrong.
    """
    check(size, fit, train_share)
    if crop < 0:
        raise UserError(f"data.crop is {crop}; expected a number of pixels, or 0 for none.")
    if channels not in (0, 1, 3):
        raise UserError(f"data.channels is {channels}; expected 1, 3, or 0 for as it is.")
    if not 0 <= broken_share <= 1:
        raise UserError(f"data.broken_share is {broken_share}; expected a share from 0 to 1.")
    _one_of("filter", filter, tuple(FILTERS))
    _one_of("background", background, tuple(BACKGROUNDS))
    settings = Settings(size, crop, fit, channels, filter, background)
    source = find(path, labels, field)
    kept = prepared(source, settings, broken_share)
    chosen, share = divided(kept, source.name, train_share)
    parts = {name: reader(kept.parts[part], places) for name, (part, places) in chosen.items()}
    facts = {
        "unit": "images",
        "shape": kept.parts["train"].images.shape[1:],
        "classes": len(kept.class_names),
        "class_names": kept.class_names,
        "source": source.name,
        "broken": len(kept.broken),
    }
    identity = json.dumps([kept.key, share])
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return rows.make_data(parts, facts, fingerprint, batch_size=batch_size, seed=seed, flip=flip)


def check(size: int, fit: str, train_share: float | None) -> None:
    """Raises UserError for a setting that no data could make right."""
    if size < 0:
        raise UserError(f"data.size is {size}; expected a number of pixels, or 0 for as it is.")
    _one_of("fit", fit, FITS)
    if train_share is not None and not 0 < train_share <= 1:
        raise UserError(f"data.train_share is {train_share}; expected above 0 and at most 1.")


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise UserError(
            f"data.{name} is {value!r}; expected one of {', '.join(options)}."
            f"{nearest(value, options)}"
        )


def divided(
    kept: Prepared, name: str, train_share: float | None
) -> tuple[dict[str, tuple[str, np.ndarray | None]], float | None]:
    """Says which pictures are trained on and which are for validation and testing.

    Returns:
      {split: (part, rows int64 of it, or None for all)}, and the share that was cut (None where the
      data's own parts were taken).

    Raises:
      UserError: the share can't be had of these parts.
    """
    own = kept.parts
    if "validation" in own:
        if train_share not in (None, 1.0):
            raise UserError(
                f"{name} has its own part for validation; expected data.train_share=None, not "
                f"{train_share}."
            )
        return {part: (part, None) for part in PARTS if part in own}, None
    if "test" in own and train_share in (None, 1.0):
        return {"train": ("train", None), "validation": ("test", None)}, None
    share = SHARE if train_share is None else train_share
    total = len(own["train"].images)
    if share == 1.0 or total < 2:
        raise UserError(
            f"{name} has no part for validation, which is cut off its {total} pictures; expected "
            "at least 2 of them, and data.train_share below 1."
        )
    # Stream SPLIT of seed 0, whatever the run's seed: runs are judged by the same rows.
    drawn = order.permutation(0, order.SPLIT, 0, total)
    cut = min(max(round(total * share), 1), total - 1)
    parts: dict[str, tuple[str, np.ndarray | None]] = {
        "train": ("train", drawn[:cut]),
        "validation": ("train", drawn[cut:]),
    }
    if "test" in own:
        parts["test"] = ("test", None)
    return parts, share


def reader(part: Part, chosen: np.ndarray | None = None) -> rows.Rows:
    """Returns the rows of a part, or those that are `chosen`, int [N]."""
    images, labels = part.images, part.labels

    def at(index: np.ndarray) -> Batch:
        places = index if chosen is None else chosen[index]
        batch = {"x": images.take(places, axis=0)}
        if labels is not None:
            batch["label"] = labels[places]
        return batch

    return rows.Rows(len(images) if chosen is None else len(chosen), at)

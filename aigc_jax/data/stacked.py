"""Stacked MNIST: three digits as the channels of one image, 1,000 modes to find.

Batches are as in `images`; the label is the mode, 100 * first + 10 * second + third digit.
"""

import hashlib
import json
from typing import Literal

import numpy as np

from aigc_jax.data import order, rows
from aigc_jax.data.base import Batch, Data
from aigc_jax.data.image_sources import find
from aigc_jax.data.image_store import Part, Settings, prepared
from aigc_jax.data.images import check, divided
from aigc_jax.errors import UserError

FORMAT = 1  # of the triples; a new number for every change of what is drawn


def make(
    *,
    batch_size: int,
    seed: int,
    path: str = "mnist",
    size: int = 28,
    fit: Literal["resize", "pad"] = "resize",
    number: int = 128_000,
    held_out: int = 26_000,
    triples_seed: int = 0,
    train_share: float | None = None,
) -> Data:
    """Returns batches of three random grey images each, stacked as red, green and blue.

    As in PacGAN (Lin et al. 2018, section 4.2, after Metz et al. 2017): 128,000 training images of
    random digits of the training part, 26,000 to compare with of the part that it is judged by.

    Args:
      batch_size: rows of the global batch, B.
      seed: of the order of training; which digits are stacked is the same for all seeds.
      path: images with labels, as in `images`.
      size: pixels of both sides; 32 suits networks that halve it several times.
      fit: "resize" or "pad", as in `images`.
      number: images of the training part. held_out: of the validation part.
      triples_seed: which digits are stacked.
      train_share: as in `images`.

    Raises:
      UserError: as in `images`; the images have no labels; a number is below 1.
    """
    check(size, fit, train_share)
    for name, value in (("size", size), ("number", number), ("held_out", held_out)):
        if value < 1:
            raise UserError(f"data.{name} is {value}; expected at least 1.")
    source = find(path)
    settings = Settings(size, 0, fit, 1, "lanczos", "black")
    kept = prepared(source, settings, 0.0)
    digits = len(kept.class_names)
    if not digits:
        raise UserError(f"{source.name} has no labels; stacking needs the class of each image.")
    own, share = divided(kept, source.name, train_share)
    counts = {"train": number, "validation": held_out}
    parts = {
        name: _stacked(kept.parts[origin], chosen, digits, counts[name], (triples_seed, place))
        for place, (name, (origin, chosen)) in enumerate(own.items())
        if name in counts
    }
    facts = {
        "unit": "images",
        "shape": (size, size, 3),
        "classes": digits**3,
        "class_names": tuple(
            ",".join(kept.class_names[d] for d in _digits(mode, digits))
            for mode in range(digits**3)
        ),
        "source": f"stacked {source.name}",
    }
    identity = [FORMAT, kept.key, share, number, held_out, triples_seed]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return rows.make_data(parts, facts, fingerprint, batch_size=batch_size, seed=seed)


def _digits(mode: int, base: int) -> tuple[int, int, int]:
    return mode // base**2, mode // base % base, mode % base


def _stacked(
    part: Part, chosen: np.ndarray | None, base: int, number: int, stream: tuple[int, int]
) -> rows.Rows:
    """Returns rows of three images each, drawn with replacement from (seed, place of the part)."""
    total = len(part.images) if chosen is None else len(chosen)
    bits = order.raw_bits(stream[0], rows.TRIPLES, stream[1], 3 * number)
    triples = (bits % np.uint64(total)).astype(np.int64).reshape(number, 3)
    if chosen is not None:
        triples = chosen[triples]
    assert part.labels is not None
    labels = part.labels[triples].astype(np.int32) @ np.array([base**2, base, 1], np.int32)
    images = part.images[..., 0]

    def at(index: np.ndarray) -> Batch:
        x = np.empty((len(index), *images.shape[1:], 3), images.dtype)
        for c in range(3):  # several times as fast as moving the axis of all
            x[..., c] = images.take(triples[index, c], axis=0)
        return {"x": x, "label": labels[index]}

    return rows.Rows(number, at)

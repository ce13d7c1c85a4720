"""Data of independent rows (images, points): shuffled epochs to train on, splits to judge by.

Letters: B = rows of the global batch, b = rows of this host, N = rows of a part.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.data import order
from aigc_jax.data.base import ArraySpec, Batch, Data, Shard, Spec, Split, rows_of
from aigc_jax.errors import UserError

# Purposes of random numbers; `order` has 1 to 3.
FLIPS, POINTS, TRIPLES = 4, 5, 6


class Rows(NamedTuple):
    """A part of N rows. `at(index int64 [b])` returns "x", and "label" where there are labels.

    x is float32 as it goes into the batch, or pixels as they are stored, uint8 or uint16.
    """

    total: int
    at: Callable[[np.ndarray], Batch]


def make_data(
    parts: Mapping[str, Rows],
    facts: Mapping[str, Any],
    fingerprint: str,
    *,
    batch_size: int,
    seed: int,
    flip: bool = False,
) -> Data:
    """Returns the batches of `parts`, which have "train" and "validation".

    Args:
      parts: by name. facts: of the spec; `unit`, `shape`, `classes`, `class_names` and `source`
        are given, `examples` is added. fingerprint: of the content and how it was prepared.
      batch_size: B. seed: of the order. flip: whether to mirror half of the training rows.

    Raises:
      UserError: the batch size is below 1, or a part is empty.
    """
    if batch_size < 1:
        raise UserError(f"run.batch_size is {batch_size}; expected at least 1.")
    for name, part in parts.items():
        if part.total < 1:
            raise UserError(f"{facts['source']} has nothing in its {name} part.")
    arrays = {"x": ArraySpec((batch_size, *facts["shape"]), "float32")}
    if facts["classes"]:
        arrays["label"] = ArraySpec((batch_size,), "int32")
    arrays["index"] = ArraySpec((batch_size,), "int32")
    arrays["mask"] = ArraySpec((batch_size,), "float32")
    examples = {name: part.total for name, part in parts.items()}
    return Data(
        spec=Spec(arrays, {**facts, "examples": examples}),
        batch=Shuffled(parts["train"], batch_size, seed, flip),
        splits={name: cover(part, batch_size) for name, part in parts.items()},
        tokenizer=None,
        fingerprint=fingerprint,
    )


class Shuffled:
    """Each row once an epoch, in a new order each epoch; epochs follow without a gap."""

    def __init__(self, part: Rows, batch_size: int, seed: int, flip: bool) -> None:
        self._part, self._batch_size = part, batch_size
        self._seed, self._flip = seed, flip

    def __call__(self, step: int, shard: Shard) -> Batch:
        """Returns this host's rows of the batch of `step`."""
        mine = rows_of(shard, self._batch_size)
        index = order.shuffled(self._seed, step, self._batch_size, self._part.total)[mine]
        batch = self._part.at(index)
        if self._flip:
            mirrored = flips(self._seed, step, self._batch_size)[mine]
            _mirror(batch["x"], np.flatnonzero(mirrored))
        return _completed(batch, index)


def _mirror(x: np.ndarray, rows: np.ndarray) -> None:
    """Turns some rows of x [b, H, W, C] left to right, in place.

    Channel by channel: twice to three times as fast as all at once for C = 3.
    """
    before = x.take(rows, axis=0)
    after = np.empty_like(before)
    for c in range(x.shape[-1]):
        after[..., c] = before[:, :, ::-1, c]
    x[rows] = after


def flips(seed: int, step: int, count: int) -> np.ndarray:
    """Returns bool [count], each True by half, fixed by (seed, step, row)."""
    words = order.raw_bits(seed, FLIPS, step, -(-count // 64)).astype("<u8")
    return np.unpackbits(words.view(np.uint8), count=count).astype(bool)


def cover(part: Rows, batch_size: int) -> Split:
    """Returns a split that has every row exactly once, in order; zeros fill the last batch."""
    batches = -(-part.total // batch_size)

    def batch(number: int, shard: Shard) -> Batch:
        if not 0 <= number < batches:
            raise IndexError(f"batch {number} of a split of {batches}")
        index = np.arange(number * batch_size, (number + 1) * batch_size, dtype=np.int64)
        index = index[rows_of(shard, batch_size)]
        inside = index[index < part.total]
        # A host may have nothing but padding; row 0 then gives the shapes.
        found = _completed(part.at(inside if len(inside) else index[:1] * 0), inside)
        if len(inside) == len(index):
            return found
        padded = {}
        for name, array in found.items():
            padded[name] = np.zeros((len(index), *array.shape[1:]), array.dtype)
            padded[name][: len(inside)] = array[: len(inside)]
        return padded

    return Split(batches, batch)


def _completed(batch: Batch, index: np.ndarray) -> Batch:
    """Adds the rows' places in their part and the mask of real rows; makes numbers of pixels."""
    if batch["x"].dtype != np.float32:
        batch["x"] = signed(batch["x"])
    batch["index"] = index.astype(np.int32)
    batch["mask"] = np.ones(len(index), np.float32)
    return batch


def signed(pixels: np.ndarray) -> np.ndarray:
    """Returns float32 in [-1, 1] of uint8 or uint16: 0 is -1 and the highest value is 1, exactly.

    Subtracting is exact and the division rounds once; both run at the speed of memory.
    """
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    x = pixels.astype(np.float32)
    x -= half
    x /= half
    return x

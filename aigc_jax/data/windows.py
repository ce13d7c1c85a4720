"""A stream of token ids, cut into rows of a language model's batch.

Letters: N = ids in the stream, B = rows, T = context, W = windows.
"""

from typing import NamedTuple

import numpy as np

from aigc_jax.data import order
from aigc_jax.data.base import Batch, Shard, Split, rows_of


class Stream(NamedTuple):
    """Token ids, one after another, and where documents begin.

    `starts` [N] is 1 at the first token of each document, or None where the text is one whole.
    `joined` says that a document begins with the end token: then the token before it may learn to
    predict it, and nothing is masked. Otherwise a document's first token follows from nothing.
    """

    ids: np.ndarray
    starts: np.ndarray | None
    joined: bool


def to_batch(rows: np.ndarray, starts: np.ndarray | None, joined: bool) -> Batch:
    """Makes the arrays of a batch from windows of T + 1 ids.

    Args:
      rows: [B, T+1] ids.
      starts: [B, T+1], 1 where a document begins, or None.
      joined: whether the first token of a document may be predicted, see `Stream`.

    Returns:
      inputs, targets int32 [B, T], mask float32 [B, T]; with `starts` also segments (from 1 in each
      row) and positions (from 0 in each segment), int32 [B, T].
    """
    batch = {
        "inputs": rows[:, :-1].astype(np.int32),
        "targets": rows[:, 1:].astype(np.int32),
        "mask": np.ones((rows.shape[0], rows.shape[1] - 1), np.float32),
    }
    if starts is None:
        return batch
    first = starts[:, :-1].astype(np.int32)
    first[:, 0] = 1  # a row that begins inside a document sees only its part of it
    place = np.arange(first.shape[1], dtype=np.int32)
    batch["segments"] = np.cumsum(first, axis=1, dtype=np.int32)
    batch["positions"] = place - np.maximum.accumulate(place * first, axis=1)
    if not joined:
        batch["mask"] -= starts[:, 1:]
    return batch


class Windows:
    """Rows of T + 1 ids of a stream, copied row by row out of the memory-mapped file."""

    def __init__(self, stream: Stream, context: int) -> None:
        self._stream = stream
        self._context = context
        view = np.lib.stride_tricks.sliding_window_view
        enough = len(stream.ids) > context
        self._ids = view(stream.ids, context + 1) if enough else stream.ids[:0, None]
        self._starts = None
        if stream.starts is not None:
            self._starts = view(stream.starts, context + 1) if enough else stream.starts[:0, None]

    def at(self, offsets: np.ndarray) -> Batch:
        """Returns the rows that begin at `offsets` [B], each in [0, N - T)."""
        starts = None if self._starts is None else self._starts[offsets]
        return to_batch(self._ids[offsets], starts, self._stream.joined)

    def covering(self, offsets: np.ndarray) -> Batch:
        """Like `at`, but a row may begin anywhere: what lies past the end is padding.

        Padding has mask 0, input and target 0, segment 0 and position 0.
        """
        total, width = len(self._stream.ids), self._context + 1
        rows = np.zeros((len(offsets), width), self._stream.ids.dtype)
        starts = None
        if self._stream.starts is not None:
            starts = np.zeros((len(offsets), width), np.uint8)
        for row, offset in enumerate(offsets.tolist()):
            stop = min(offset + width, total)
            if offset < stop:
                rows[row, : stop - offset] = self._stream.ids[offset:stop]
                if starts is not None and self._stream.starts is not None:
                    starts[row, : stop - offset] = self._stream.starts[offset:stop]
        batch = to_batch(rows, starts, self._stream.joined)
        # Column t predicts id offset + t + 1.
        inside = offsets[:, None] + np.arange(1, width) < total
        for name, array in batch.items():
            batch[name] = np.where(inside, array, 0).astype(array.dtype)
        return batch


class RandomCrops:
    """nanoGPT's order: each row of each step begins anywhere in the stream."""

    def __init__(self, stream: Stream, context: int, batch_size: int, seed: int) -> None:
        self._windows = Windows(stream, context)
        self._high = len(stream.ids) - context
        self._batch_size, self._seed = batch_size, seed

    def __call__(self, step: int, shard: Shard) -> Batch:
        """Returns this host's rows of the batch of `step`."""
        offsets = order.crops(self._seed, step, self._batch_size, self._high)
        return self._windows.at(offsets[rows_of(shard, self._batch_size)])


class ShuffledWindows:
    """Epochs: non-overlapping windows, each target once an epoch, in a new order each epoch."""

    def __init__(self, stream: Stream, context: int, batch_size: int, seed: int) -> None:
        self._windows = Windows(stream, context)
        self._total = (len(stream.ids) - 1) // context
        self._context, self._batch_size, self._seed = context, batch_size, seed

    def __call__(self, step: int, shard: Shard) -> Batch:
        """Returns this host's rows of the batch of `step`."""
        drawn = order.shuffled(self._seed, step, self._batch_size, self._total)
        return self._windows.at(drawn[rows_of(shard, self._batch_size)] * self._context)


def cover(stream: Stream, context: int, batch_size: int) -> Split:
    """Returns a split that predicts every token but the first exactly once, in order."""
    windows = Windows(stream, context)
    count = -(-(len(stream.ids) - 1) // context)
    batches = -(-count // batch_size)

    def batch(index: int, shard: Shard) -> Batch:
        if not 0 <= index < batches:
            raise IndexError(f"batch {index} of a split of {batches}")
        rows = np.arange(index * batch_size, (index + 1) * batch_size, dtype=np.int64)
        return windows.covering(rows[rows_of(shard, batch_size)] * context)

    return Split(batches, batch)

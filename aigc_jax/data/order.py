"""The order of training examples: a pure function of (seed, step), the same on any machine.

Numbers are Philox4x64 raw bits (Salmon et al. 2011), which NumPy keeps stable across versions, as
it does not keep `permutation` or `integers`. One seed has 2**64 streams by `purpose`, and each
stream 2**64 blocks by step or epoch.
"""

from functools import lru_cache

import numpy as np

CROPS, EPOCHS, SPLIT = 1, 2, 3  # purposes: no two share a stream
_WORD = (1 << 64) - 1


def raw_bits(seed: int, purpose: int, block: int, count: int) -> np.ndarray:
    """Returns uint64 [count], fixed by the three numbers (taken modulo 2**64)."""
    key = (seed & _WORD) | (purpose << 64)
    return np.random.Philox(key=key, counter=(block & _WORD) << 64).random_raw(count)


def crops(seed: int, step: int, count: int, high: int) -> np.ndarray:
    """Returns int64 [count] offsets in [0, high), independent of each other.

    The remainder favours small offsets by high / 2**64, less than one in 10**9.
    """
    return (raw_bits(seed, CROPS, step, count) % np.uint64(high)).astype(np.int64)


@lru_cache(maxsize=16)
def permutation(seed: int, purpose: int, epoch: int, count: int) -> np.ndarray:
    """Returns a shuffled int64 [count] of 0 .. count - 1; the last 16 are kept."""
    shuffled = np.argsort(raw_bits(seed, purpose, epoch, count), kind="stable")
    shuffled.flags.writeable = False  # shared by all callers
    return shuffled


def shuffled(seed: int, step: int, count: int, total: int) -> np.ndarray:
    """Returns int64 [count]: which of `total` examples the step draws, each once an epoch.

    Epochs follow each other without a gap: a step may end one epoch and begin the next.
    """
    index = np.arange(step * count, (step + 1) * count, dtype=np.int64)
    epochs, places = np.divmod(index, total)
    drawn = np.empty(count, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        drawn[here] = permutation(seed, EPOCHS, epoch, total)[places[here]]
    return drawn

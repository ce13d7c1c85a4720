"""Interpolated Witten-Bell n-gram models: the ladder that a language model has to climb."""

import numpy as np


def witten_bell(
    train: np.ndarray, test: np.ndarray, *, symbols: int, orders: int = 6
) -> list[np.ndarray]:
    """Fits n-gram models of every order to one sequence and scores another.

    P_k(w | h) = (c(h, w) + T(h) P_{k-1}(w | h')) / (c(h) + T(h)), where c counts in `train`, T(h)
    is the number of different symbols that follow h there, h' drops the oldest symbol of h, and
    P_0 is uniform over `symbols`. A history that `train` lacks leaves the lower order as it is.
    The first symbols of `test` are scored with the history that they have.
    (Witten & Bell 1991, method C; interpolated as in Chen & Goodman 1999, section 2.6.)

    Args:
      train: int [N], in [0, symbols). test: int [M], likewise.
      symbols: the size of the vocabulary.
      orders: the highest order, at least 1; an order k looks at k - 1 symbols before.

    Returns:
      For each order from 1, the probability of each symbol of `test`: float64 [M].

    Raises:
      ValueError: an empty sequence, or an order below 1.
    """
    if orders < 1 or len(train) == 0 or len(test) == 0:
        raise ValueError(
            f"orders={orders}, {len(train)} symbols to fit and {len(test)} to score: expected 1 or"
            " more of each"
        )
    train, test = np.asarray(train, np.int64), np.asarray(test, np.int64)
    probability = np.full(len(test), 1.0 / symbols)
    # The history before each symbol, as the rank of its n-gram among those in `train`; -1 in `test`
    # where `train` lacks it, and in both where the sequence has not yet so many symbols.
    before_train = np.zeros(len(train), np.int64)
    before_test = np.zeros(len(test), np.int64)
    ladder = []
    for order in range(1, orders + 1):
        known = before_train >= 0
        codes = before_train[known] * symbols + train[known]
        grams, counts = np.unique(codes, return_counts=True)
        # Grams are sorted by history, so the sums per history are sums of runs.
        histories, first, types = np.unique(grams // symbols, return_index=True, return_counts=True)
        totals = np.add.reduceat(counts, first)

        place = _find(histories, before_test)
        seen = place >= 0
        gram = _find(grams, np.where(before_test >= 0, before_test * symbols + test, -1))
        count = np.where(gram >= 0, counts[gram], 0)
        total, kinds = totals[place], types[place]
        mixed = (count + kinds * probability) / (total + kinds)
        probability = np.where(seen, mixed, probability)
        ladder.append(probability)
        if order < orders:
            before_train = _shift(_find(grams, np.where(known, before_train, -1) * symbols + train))
            before_test = _shift(gram)
    return ladder


def _find(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the index of each value in a sorted table, -1 where it is not there."""
    index = np.minimum(np.searchsorted(table, values), len(table) - 1)
    return np.where(table[index] == values, index, -1)


def _shift(grams: np.ndarray) -> np.ndarray:
    """The n-gram that ends at a symbol is the history of the next one."""
    return np.concatenate([[-1], grams[:-1]])

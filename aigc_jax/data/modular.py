"""Arithmetic modulo a prime as rows of tokens: the table on which grokking was seen.

A row is five tokens, "a op b = c"; a model reads the first four and is judged on the last. Letters:
p = the modulus, B = rows of a batch, N = rows of a part.
"""

import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from aigc_jax.data import order
from aigc_jax.data.base import ArraySpec, Batch, Data, Shard, Spec, Split, rows_of
from aigc_jax.errors import UserError, nearest

FORMAT = 1  # of the table and its split; a new number for every change of what is in a part
CONTEXT = 4  # tokens that a model reads of a row

# c of int64 a and b; what is taken modulo p afterwards. Division is the product's inverse: the
# row "a / b = c" is made from b and c.
OPERATIONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda c, b: c * b,
    "squares": lambda a, b: a * a + b * b,
    "cubic": lambda a, b: a * a * a + a * b,
}


def make(
    *,
    batch_size: int,
    seed: int,
    operation: Literal["add", "subtract", "multiply", "divide", "squares", "cubic"] = "add",
    modulus: int = 97,
    train_share: float = 0.5,
    split_seed: int = 0,
) -> Data:
    """Returns batches for a language model: `inputs`, `targets` int32 [B, 4] and `mask` float32
    [B, 4], which is 1 at the answer alone.

    Tokens 0 .. p - 1 are the numbers, p is the operation's sign and p + 1 the sign of equality. All
    p^2 pairs (a, b) are in the table, "a + b" and "b + a" as two rows; of division, the pairs with
    b other than 0. Facts also has `chance`, the accuracy of guessing, 1/p.

    Source: Power et al. 2022, arXiv:2201.02177, appendix A.1.1.

    Args:
      batch_size: B; may be the whole training part (`round(train_share * N)` rows of all N).
      seed: of the order of training, in epochs.
      operation: c modulo p: "add" a + b, "subtract" a - b, "multiply" a b, "divide" a / b (p a
        prime), "squares" a^2 + b^2, "cubic" a^3 + a b.
      modulus: p, 2 or more.
      train_share: of the table that is trained on, above 0 and below 1; the rest is validation.
      split_seed: which rows these are. Runs with other seeds share the split.

    Raises:
      UserError: a setting is out of range, or a part would be empty.
    """
    if batch_size < 1:
        raise UserError(f"run.batch_size is {batch_size}; expected at least 1.")
    if not 0 < train_share < 1:
        raise UserError(f"data.train_share is {train_share}; expected a number between 0 and 1.")
    rows = table(operation, modulus)
    cut = round(len(rows) * train_share)
    if not 0 < cut < len(rows):
        raise UserError(
            f"data.train_share is {train_share}, which leaves {cut} of {len(rows)} rows to train"
            " on; expected some rows in both parts."
        )
    places = order.permutation(split_seed, order.SPLIT, 0, len(rows))
    parts = {"train": rows[places[:cut]], "validation": rows[places[cut:]]}
    facts: dict[str, Any] = {
        "vocab_size": modulus + 2,
        "context": CONTEXT,
        "token_bytes": np.zeros(modulus + 2, np.int32),
        "unit": "tokens",
        "floors": {"chance": math.log(modulus)},
        "chance": 1.0 / modulus,
        "examples": {name: len(part) for name, part in parts.items()},
        "tokens": {name: len(part) for name, part in parts.items()},
        "source": f"{operation} modulo {modulus}",
    }
    identity = [FORMAT, operation, modulus, train_share, split_seed]
    arrays = {"inputs": "int32", "targets": "int32", "mask": "float32"}
    return Data(
        spec=Spec({k: ArraySpec((batch_size, CONTEXT), v) for k, v in arrays.items()}, facts),
        batch=Shuffled(parts["train"], batch_size, seed),
        splits={name: cover(part, batch_size) for name, part in parts.items()},
        tokenizer=None,
        fingerprint=hashlib.sha256(json.dumps(identity).encode()).hexdigest(),
    )


def table(operation: str, modulus: int) -> np.ndarray:
    """Returns all rows "a op b = c", int32 [N, 5], by a and then by b.

    Raises:
      UserError: no such operation, a modulus below 2, or division modulo what is no prime.
    """
    if operation not in OPERATIONS:
        raise UserError(
            f"data.operation is {operation!r}.{nearest(operation, OPERATIONS)} There are:"
            f" {', '.join(OPERATIONS)}."
        )
    if modulus < 2:
        raise UserError(f"data.modulus is {modulus}; expected 2 or more.")
    if operation == "divide" and any(modulus % k == 0 for k in range(2, math.isqrt(modulus) + 1)):
        raise UserError(f"data.modulus is {modulus}; division needs a prime, as 97.")
    numbers = np.arange(modulus, dtype=np.int64)
    a, b = (x.ravel() for x in np.meshgrid(numbers, numbers, indexing="ij"))
    c = OPERATIONS[operation](a, b) % modulus
    if operation == "divide":
        # c b = a: of all (c, b) with b other than 0, each pair (a, b) comes once.
        a, c = c, a
        kept = np.lexsort((b, a))
        kept = kept[b[kept] != 0]
        a, b, c = a[kept], b[kept], c[kept]
    sign, equal = np.full_like(a, modulus), np.full_like(a, modulus + 1)
    return np.stack([a, sign, b, equal, c], axis=1).astype(np.int32)


class Shuffled:
    """Each row once an epoch, in a new order each epoch; epochs follow without a gap."""

    def __init__(self, part: np.ndarray, batch_size: int, seed: int) -> None:
        self._part, self._batch_size, self._seed = part, batch_size, seed

    def __call__(self, step: int, shard: Shard) -> Batch:
        """Returns this host's rows of the batch of `step`."""
        places = order.shuffled(self._seed, step, self._batch_size, len(self._part))
        return _to_batch(self._part[places[rows_of(shard, self._batch_size)]])


def cover(part: np.ndarray, batch_size: int) -> Split:
    """Returns a split that has every row exactly once, in order; zeros fill the last batch."""
    batches = -(-len(part) // batch_size)

    def batch(number: int, shard: Shard) -> Batch:
        if not 0 <= number < batches:
            raise IndexError(f"batch {number} of a split of {batches}")
        places = np.arange(number * batch_size, (number + 1) * batch_size, dtype=np.int64)
        places = places[rows_of(shard, batch_size)]
        inside = places < len(part)
        found = _to_batch(part[np.where(inside, places, 0)])
        return {name: array * inside[:, None].astype(array.dtype) for name, array in found.items()}

    return Split(batches, batch)


def _to_batch(rows: np.ndarray) -> Batch:
    mask = np.zeros((len(rows), CONTEXT), np.float32)
    mask[:, -1] = 1.0
    return {"inputs": rows[:, :-1].copy(), "targets": rows[:, 1:].copy(), "mask": mask}

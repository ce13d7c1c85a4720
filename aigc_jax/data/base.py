"""What a source of data is: a spec, and a batch as a pure function of the step.

Letters: B = rows of the global batch, T = context (tokens a row), V = size of the vocabulary.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.tokenizers.base import Tokenizer

Batch = dict[str, np.ndarray]
Shard = tuple[int, int]  # (this host's index, number of hosts)


class ArraySpec(NamedTuple):
    """Shape and dtype name of one array of the global batch."""

    shape: tuple[int, ...]
    dtype: str


class Spec(NamedTuple):
    """What a task is built from: one GLOBAL training batch, and facts about the data.

    A language model's facts are `vocab_size` (V), `context` (T), `token_bytes` (int32 [V], UTF-8
    bytes per id, 0 for specials), `unit` ("tokens"), `floors` ({"uniform": ln V, "unigram": nats
    per token of the training unigram on the validation part}), `tokens` (ids in each split) and
    `source`.
    """

    arrays: dict[str, ArraySpec]
    facts: dict[str, Any]


class Split(NamedTuple):
    """A part of the data, covered exactly once by batches 0 .. batches - 1.

    The last batch is padded with rows of mask 0, never dropped.
    """

    batches: int
    batch: Callable[[int, Shard], Batch]


class Data(NamedTuple):
    """A source. `batch(step, (shard, shards))` gives this host's rows of the step's batch.

    The rows of all hosts, one host after another, are the same for any number of hosts. `splits`
    has at least "validation" and "train". `fingerprint` is a sha256 of the content and of the
    settings it was prepared with. `ids` has the whole sequence of tokens of a split, int [N], where
    the data is one; it is empty elsewhere.
    """

    spec: Spec
    batch: Callable[[int, Shard], Batch]
    splits: dict[str, Split]
    tokenizer: Tokenizer | None
    fingerprint: str
    ids: Mapping[str, np.ndarray] = MappingProxyType({})


def rows_of(shard: Shard, batch_size: int) -> slice:
    """Returns which rows of a batch of B belong to `shard`.

    Raises:
      UserError: B is not divisible by the number of hosts.
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(f"shard {index} of {count} does not exist")
    if batch_size % count:
        raise UserError(
            f"run.batch_size={batch_size} can't be divided among {count} hosts; "
            f"take {batch_size // count * count or count} or {(batch_size // count + 1) * count}."
        )
    rows = batch_size // count
    return slice(index * rows, (index + 1) * rows)

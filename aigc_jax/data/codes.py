"""Pictures as rows of codes, for a language model that learns the prior of a VQ-VAE.

Letters: N rows (one a picture), T codes of a row, K codes, B rows of a batch.
"""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.data import order, store
from aigc_jax.data.base import ArraySpec, Batch, Data, Shard, Spec, Split, rows_of
from aigc_jax.errors import UserError

PARTS = ("train", "validation")


class Part(NamedTuple):
    """Codes [N, T], any kind of whole numbers, and the token that each row begins with, [N]."""

    codes: np.ndarray
    begin: np.ndarray


def make(
    *,
    batch_size: int,
    seed: int,
    path: str = "codes",
    codes: int = 0,
    labels: bool = False,
    train_share: float = 0.9,
) -> Data:
    """Returns rows of codes, each from its first code to its last.

    Tokens 0 .. K - 1 are the codes. A row's first input is a token of its own, K (or K + label with
    `labels`), so that the first code is predicted and sampled as all others are; no token ends a
    row, which has T codes always. The vocabulary is K + 1 (or K + the number of labels).

    Args:
      batch_size: B. seed: of the order of training.
      path: a .npy file of whole numbers [N, T] or [N, h, w] (read row by row), or a folder with
        `train.npy` and `validation.npy`, and, for labels, `train_labels.npy` and
        `validation_labels.npy`, [N] each.
      codes: K; 0 takes the largest code there is, plus 1.
      labels: a row begins with its label: the prior is conditional.
      train_share: of a single file's rows; the last ones are for validation.

    Raises:
      UserError: no such file, or what it holds are no rows of codes.
    """
    if batch_size < 1:
        raise UserError(f"run.batch_size is {batch_size}; expected at least 1.")
    found, digest = _read(Path(path).expanduser(), labels, train_share)
    largest = max(int(part.codes.max()) for part in found.values())
    size = codes or largest + 1
    if not largest < size:
        raise UserError(
            f"{path} has the code {largest}; data.codes={codes} allows 0 to {codes - 1}."
        )
    classes = max(int(part.begin.max()) for part in found.values()) + 1
    parts = {name: Part(part.codes, part.begin + size) for name, part in found.items()}
    context = parts["train"].codes.shape[1]
    facts: dict[str, Any] = {
        "vocab_size": size + classes,
        "context": context,
        "token_bytes": np.zeros(size + classes, np.int32),
        "unit": "tokens",
        "floors": _floors(parts, size),
        "tokens": {name: part.codes.size for name, part in parts.items()},
        "source": path,
        "codes": size,
        "classes": classes if labels else 0,
    }
    shape = (batch_size, context)
    arrays = {"inputs": "int32", "targets": "int32", "mask": "float32"}
    digest.update(repr((size, labels, train_share)).encode())
    return Data(
        spec=Spec({name: ArraySpec(shape, dtype) for name, dtype in arrays.items()}, facts),
        batch=Shuffled(parts["train"], batch_size, seed),
        splits={name: cover(part, batch_size) for name, part in parts.items()},
        tokenizer=None,
        fingerprint=digest.hexdigest(),
    )


class Shuffled:
    """Each row once an epoch, in a new order each epoch."""

    def __init__(self, part: Part, batch_size: int, seed: int) -> None:
        self._part, self._batch_size, self._seed = part, batch_size, seed

    def __call__(self, step: int, shard: Shard) -> Batch:
        """Returns this host's rows of the batch of `step`."""
        total = len(self._part.codes)
        places = order.shuffled(self._seed, step, self._batch_size, total)
        return _to_batch(self._part, places[rows_of(shard, self._batch_size)])


def cover(part: Part, batch_size: int) -> Split:
    """Returns a split that has every row exactly once, in order; zeros fill the last batch."""
    total = len(part.codes)
    batches = -(-total // batch_size)

    def batch(number: int, shard: Shard) -> Batch:
        if not 0 <= number < batches:
            raise IndexError(f"batch {number} of a split of {batches}")
        places = np.arange(number * batch_size, (number + 1) * batch_size, dtype=np.int64)
        places = places[rows_of(shard, batch_size)]
        inside = places < total
        found = _to_batch(part, np.where(inside, places, 0))
        return {name: array * inside[:, None].astype(array.dtype) for name, array in found.items()}

    return Split(batches, batch)


def _to_batch(part: Part, places: np.ndarray) -> Batch:
    targets = part.codes[places].astype(np.int32)
    begin = part.begin[places].astype(np.int32)[:, None]
    return {
        "inputs": np.concatenate([begin, targets[:, :-1]], axis=1),
        "targets": targets,
        "mask": np.ones(targets.shape, np.float32),
    }


def _read(path: Path, labels: bool, train_share: float) -> tuple[dict[str, Part], Any]:
    """Returns the parts, `begin` being the label or 0, and a sha256 of the files' content."""
    digest = hashlib.sha256()
    if path.is_dir():
        parts = {}
        for name in PARTS:
            array = _array(path / f"{name}.npy", digest)
            begin = np.zeros(len(array), np.int64)
            if labels:
                begin = _labels(path / f"{name}_labels.npy", len(array), digest)
            parts[name] = Part(array, begin)
    elif labels:
        raise UserError(f"data.labels=True needs a folder with train_labels.npy; {path} is none.")
    else:
        if not 0 < train_share < 1:
            raise UserError(
                f"data.train_share is {train_share}; expected a number between 0 and 1."
            )
        array = _array(path, digest)
        cut = min(max(round(len(array) * train_share), 1), len(array) - 1)
        halves = (array[:cut], array[cut:])
        parts = {
            name: Part(half, np.zeros(len(half), np.int64))
            for name, half in zip(PARTS, halves, strict=True)
        }
    lengths = {name: part.codes.shape[1] for name, part in parts.items()}
    if len(set(lengths.values())) > 1 or not all(len(part.codes) for part in parts.values()):
        rows = {name: part.codes.shape for name, part in parts.items()}
        raise UserError(
            f"{path}: expected rows of one length in both parts and at least one in each, got"
            f" {rows['train']} for training and {rows['validation']} for validation."
        )
    return parts, digest


def _load(path: Path, digest: Any) -> np.ndarray:
    if not path.is_file():
        raise UserError(
            f"there are no codes at {path}; make them with a trained VQ-VAE (aigc encode RUN"
            " --output=FOLDER) and name that folder or a .npy file in data.path."
        )
    digest.update(bytes.fromhex(store.sha256_of(path)))
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} is no .npy file: {str(error).splitlines()[0]}") from None
    if found.dtype.kind not in "iu":
        raise UserError(f"{path} holds {found.dtype}; expected whole numbers.")
    return found


def _array(path: Path, digest: Any) -> np.ndarray:
    found = _load(path, digest)
    if found.ndim not in (2, 3) or 0 in found.shape:
        raise UserError(
            f"{path} has the shape {found.shape}; expected [rows, codes] or [rows, h, w], none of"
            " them 0."
        )
    flat = np.asarray(found).reshape(len(found), -1)
    if flat.min() < 0:
        raise UserError(f"{path} has the code {flat.min()}; expected 0 or above.")
    return flat


def _labels(path: Path, rows: int, digest: Any) -> np.ndarray:
    found = np.asarray(_load(path, digest))
    if found.shape != (rows,) or found.min() < 0:
        raise UserError(
            f"{path} has the shape {found.shape}; expected {rows} labels of 0 or above, one for"
            " each row of codes."
        )
    return found.astype(np.int64)


def _floors(parts: dict[str, Part], codes: int) -> dict[str, float]:
    """Returns what a model has to beat, nats per code of the validation part.

    "uniform" is ln K; "unigram" the training part's frequencies, one added to each count; "place"
    the same by place in the row.
    """
    train, judged = parts["train"].codes, parts["validation"].codes
    counts = np.bincount(np.asarray(train, np.int64).ravel(), minlength=codes) + 1.0
    nats = np.log(counts.sum()) - np.log(counts)
    by_place = []
    for column, held in zip(train.T, judged.T, strict=True):
        here = np.bincount(np.asarray(column, np.int64), minlength=codes) + 1.0
        by_place.append((np.log(here.sum()) - np.log(here))[held].mean())
    return {
        "uniform": math.log(codes),
        "unigram": float(nats[judged].mean()),
        "place": float(np.mean(by_place)),
    }

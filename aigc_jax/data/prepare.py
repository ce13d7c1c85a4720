"""The user's files as a data set in TFDS's format, readable without TensorFlow."""

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.data import store
from aigc_jax.data.files import read_text, text_files
from aigc_jax.errors import UserError

ABOUT = "about.json"
OWN_VERSION = "1.0.0"
PART_NAMES = ("train", "validation", "test")


class Recipe(NamedTuple):
    """How a known name is prepared: TFDS's version, the sha256 of the raw contents, the splits.

    `shares` cuts one text into train, validation and test by per cent of its characters, the way
    TFDS does; empty keeps each file one example of "train".
    """

    version: str
    sha256: tuple[str, ...]
    shares: tuple[int, ...] = ()


def check_new_name(name: str) -> None:
    """Raises UserError unless `name` can be a TFDS data set's name and a folder's."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(
            f"{name!r} can't be a data set's name: expected lower-case letters, digits and "
            "underscores, a letter first."
        )


def prepare(name: str, path: Path, final: Path, recipe: Recipe | None) -> None:
    """Writes the data set `final` from `path`, under the caller's lock.

    Args:
      name: the data set's.
      path: a folder with MNIST's four idx files (gzipped or not), a text, or a folder of texts.
      final: replaced when it is there.
      recipe: of a known name; None for the user's own.

    Raises:
      UserError: the files are not understood, or are not what a known name stands for.
    """
    from aigc_jax.data import idx  # here, since a misspelt name is answered before NumPy is loaded

    images = idx.files(path) if path.is_dir() else {}
    print(f"Preparing {name} from {path}.", file=sys.stderr)
    with store.filling(final) as temporary:
        if images:
            _images(name, path, images, temporary, recipe)
        else:
            _texts(name, path, temporary, recipe)
        seal(temporary, "images" if images else "text", f"files at {path.name}")


def seal(folder: Path, content: str, source: str) -> None:
    """Writes `about.json`: what the data set is, and the sha256 of every file in it."""
    files = {
        str(p.relative_to(folder)): store.sha256_of(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    facts = {"content": content, "source": source, "files": files}
    (folder / ABOUT).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _check_known(name: str, contents: Iterable[bytes], recipe: Recipe | None) -> None:
    """Raises UserError when a known name is given other contents than it stands for."""
    if recipe is None:
        return
    found = [hashlib.sha256(content).hexdigest() for content in contents]
    if sorted(found) != sorted(recipe.sha256):
        raise UserError(
            f"These files are not {name}: their contents have the sha256 "
            f"{', '.join(f[:12] for f in found)}, expected "
            f"{', '.join(s[:12] for s in recipe.sha256)} (first 12 digits). Give your own data "
            "another name."
        )


def _texts(name: str, path: Path, folder: Path, recipe: Recipe | None) -> None:
    """One example a file, or one a share of the text."""
    files = text_files(path)
    if recipe is not None:
        _check_known(name, (file.read_bytes() for file in files), recipe)
    for file in files:
        if not read_text(file):
            raise UserError(f"The text {file} is empty; expected some text in UTF-8.")
    from aigc_jax.data import writer

    splits: dict[str, Any]
    if recipe is not None and recipe.shares:
        splits = {
            part: [{"text": piece}]
            for part, piece in zip(
                PART_NAMES, _shares(read_text(files[0]), recipe.shares), strict=True
            )
        }
    else:
        splits = {"train": ({"text": read_text(file)} for file in files)}
    version = recipe.version if recipe else OWN_VERSION
    about = f"{len(files)} text file(s) from {path.name}"
    writer.write(folder, name, version, writer.text_features(), splits, about)


def _shares(whole: str, shares: tuple[int, ...]) -> list[str]:
    """Cuts a text by per cent; each cut is made in what is left, as TFDS's tiny_shakespeare."""
    pieces, left = [], 100
    for share in shares[:-1]:
        cut = int(len(whole) * share / left)
        pieces.append(whole[:cut])
        whole, left = whole[cut:], left - share
    return [*pieces, whole]


def _images(
    name: str,
    path: Path,
    files: dict[tuple[str, str], Path],
    folder: Path,
    recipe: Recipe | None,
) -> None:
    """Images with labels, split "train" and "test"."""
    from aigc_jax.data import idx

    raw = {key: store.content(file) for key, file in files.items()}
    _check_known(name, raw.values(), recipe)
    arrays = {key: idx.parse(content, files[key]) for key, content in raw.items()}
    digits = {
        split: idx.pair(arrays[split, "images"], arrays[split, "labels"], path)
        for split in idx.SPLITS.values()
    }
    shapes = {d.images.shape[1:] for d in digits.values()}
    if len(shapes) != 1 or not all(len(d.labels) for d in digits.values()):
        raise UserError(f"The images of {path} differ in shape or are none: {sorted(shapes)}.")
    from aigc_jax.data import writer

    classes = 1 + max(int(d.labels.max()) for d in digits.values())
    height, width = shapes.pop()
    writer.write(
        folder,
        name,
        recipe.version if recipe else OWN_VERSION,
        writer.image_features(height, width, classes),
        {split: writer.image_examples(*d) for split, d in digits.items()},
        f"images and labels from {path.name}",
    )

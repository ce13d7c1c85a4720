"""A folder of pictures: which there are, to which part and class each belongs."""

import hashlib
import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aigc_jax.data import decode
from aigc_jax.data.image_store import Contents, Item, Source, content_of
from aigc_jax.errors import UserError, nearest

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm",
    ".pbm", ".jp2", ".tga", ".avif",
)  # fmt: skip
PARTS = {
    "train": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test",
}  # fmt: skip
LABELS = "labels.json"  # read where it lies in the folder and data.labels is "auto"


def listing(folder: Path) -> list[str]:
    """Returns the names of the pictures below `folder`, with / between; hidden ones are left out.

    In an order that looks random but follows from each one's own name: classes are mixed whatever
    part of it is looked at, and a new picture moves no other.
    """
    top, found = str(folder), []
    for root, folders, files in os.walk(top):  # as texts: paths would take most of the time
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(root, top).replace(os.sep, "/")
        found += [
            name if below == "." else f"{below}/{name}"
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found, key=lambda name: hashlib.sha256(os.fsencode(name)).digest())


def source(folder: Path, labels: str) -> Source:
    """Returns the pictures of a folder; see `images.make` for `labels`.

    Raises:
      UserError: there are none, or the labels don't fit them.
    """
    names = listing(folder)
    if not names:
        raise UserError(
            f"The folder {folder} has no pictures: expected files ending in "
            f"{', '.join(SUFFIXES[:7])} and the like, or MNIST's four idx files."
        )
    named, depth = _parts(folder, names)
    classes, class_names = _labels(folder, names, depth, labels)
    digest = hashlib.sha256(content_of(folder, names).encode())
    digest.update(json.dumps([sorted(classes.items()), class_names]).encode())

    def contents() -> Contents:
        wide, color = _heads(folder, names)
        parts = {
            part: [Item(n, partial(_read, folder / n, classes.get(n, -1))) for n in inside]
            for part, inside in named.items()
        }
        return Contents(parts, class_names, wide, color)

    return Source(folder.name or str(folder), digest.hexdigest(), contents)


def _read(path: Path, label: int) -> tuple[np.ndarray, int]:
    return decode.read(path), label


def _parts(folder: Path, names: list[str]) -> tuple[dict[str, list[str]], int]:
    """Returns names by part, and how many folders stand before those of the classes.

    Subfolders named as parts are parts, if one of them is named train.

    Raises:
      UserError: there are parts, and pictures that are in none of them.
    """
    firsts = {name.split("/")[0] for name in names if "/" in name}
    if not any(PARTS.get(first.lower()) == "train" for first in firsts):
        return {"train": names}, 0
    parts: dict[str, list[str]] = {}
    for name in names:
        first = name.split("/")[0]
        if "/" not in name or first.lower() not in PARTS:
            raise UserError(
                f"{folder} has parts ({', '.join(sorted(f for f in firsts if f.lower() in PARTS))})"
                f" and {name} is in none of them; move it into one, or rename the folders."
            )
        parts.setdefault(PARTS[first.lower()], []).append(name)
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}, 1


def _labels(
    folder: Path, names: list[str], depth: int, labels: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Returns the class of each picture by name, and the names of the classes."""
    if labels == "none":
        return {}, ()
    if labels == "auto":
        if (folder / LABELS).is_file():
            return _numbered(_from_json(folder, folder / LABELS, names), str(folder / LABELS))
        given = _subfolders(names, depth)
        if len(set(given.values())) < 2 and (not given or len(given) == len(names)):
            return {}, ()
    elif labels == "folders":
        given = _subfolders(names, depth)
    else:
        path = Path(labels).expanduser()
        path = path if path.is_file() else folder / labels
        if not path.is_file():
            options = ("auto", "none", "folders")
            raise UserError(
                f"data.labels is {labels!r}; expected 'auto', 'none', 'folders', or a JSON file, "
                f"and {path} is none.{nearest(labels, options)}"
            )
        return _numbered(_from_json(folder, path, names), str(path))
    _complete(given, names, f"{folder}, whose subfolders are the classes,")
    return _numbered(given, f"{folder}, by subfolders,")


def _subfolders(names: list[str], depth: int) -> dict[str, str]:
    """Returns the class of each picture that lies in a subfolder (of its part)."""
    return {name: name.split("/")[depth] for name in names if name.count("/") > depth}


def _from_json(folder: Path, path: Path, names: list[str]) -> dict[str, int] | dict[str, str]:
    """Reads {name: label} and holds it against the pictures that there are."""
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The labels {path} can't be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(read, dict):
        raise UserError(f"{path} holds a {type(read).__name__}; expected {{picture: label}}.")
    for name, label in read.items():
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise UserError(
                f"The label of {name} in {path} is {label!r}; expected a whole number or a text."
            )
    kinds = {type(label) for label in read.values()}
    if len(kinds) > 1:
        raise UserError(f"{path} has numbers and texts as labels; expected one kind.")
    known = set(names)
    if absent := [name for name in read if name not in known]:
        raise UserError(
            f"{path} has labels for {len(absent)} pictures that are not in {folder}, the first "
            f"{absent[0]}.{nearest(absent[0], names) if len(names) < 10_000 else ''} Names are "
            "relative to the folder, with / between."
        )
    _complete(read, names, str(path))
    return read


def _complete(labels: dict[str, Any], names: list[str], owner: str) -> None:
    """Raises UserError when a picture has no label."""
    if bare := [name for name in names if name not in labels]:
        raise UserError(
            f"{owner} has no label for {len(bare)} of {len(names)} pictures, the first {bare[0]}; "
            "give every picture one, or set data.labels='none'."
        )


def _numbered(
    labels: dict[str, int] | dict[str, str], owner: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Numbers the classes from 0 in their order; raises UserError when there is one only."""
    distinct: list[Any] = sorted(set(labels.values()))
    if len(distinct) < 2:
        raise UserError(
            f"{owner} has one class only ({distinct[0]!r}); expected at least 2, or "
            "data.labels='none'."
        )
    number = {label: i for i, label in enumerate(distinct)}
    return {name: number[label] for name, label in labels.items()}, tuple(map(str, distinct))


def _heads(folder: Path, names: list[str]) -> tuple[bool, bool]:
    """Returns whether some picture is wide, and whether some is in colour."""
    wide = color = False
    for name in names:
        try:
            head = decode.head(folder / name)
        except Exception:  # broken: decoding it will say why
            continue
        wide, color = wide or head.wide, color or head.color
        if wide and color:
            break
    return wide, color


def lines(folder: Path) -> list[str]:
    """Describes a folder of pictures from their heads: parts, classes, sizes, modes.

    Raises:
      UserError: as `source`.
    """
    pictures = listing(folder)
    if not pictures:
        source(folder, "none")  # says what is expected
    parts, depth = _parts(folder, pictures)
    classes, names = _labels(folder, pictures, depth, "auto")
    sizes, modes, broken = Counter[tuple[int, int]](), Counter[str](), []
    for picture in pictures:
        try:
            head = decode.head(folder / picture)
        except Exception:
            broken.append(picture)
        else:
            sizes[head.width, head.height] += 1
            modes[head.mode + (" (16 bits)" if head.wide else "")] += 1
    said = [f"{folder}: {len(pictures):,} pictures"]
    said += [f"part {part}: {len(inside):,}" for part, inside in parts.items()]
    counts = Counter(classes.values())
    said.append(f"classes: {len(names)}" if names else "classes: none (no labels)")
    said += [f"  {name}: {counts[i]:,}" for i, name in enumerate(names[:20])]
    said += ["  ..."] if len(names) > 20 else []
    said.append("sizes: " + _most(Counter({f"{w}x{h}": n for (w, h), n in sizes.items()})))
    if len(sizes) > 1:
        least = min(min(size) for size in sizes)
        said.append(f"  they differ: set data.size (the shortest side of all is {least})")
    said.append("modes: " + _most(modes))
    if broken:
        said.append(f"without a readable head: {len(broken):,}, the first {broken[0]}")
    return said


def _most(counts: Counter[str]) -> str:
    """Names the most frequent with their counts."""
    common = [f"{name} ({count:,})" for name, count in counts.most_common(5)]
    more = len(counts) - len(common)
    return ", ".join(common) + (f" and {more} more" if more else "")

"""Where images come from by name: idx files, a folder of pictures, a TFDS data set."""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from aigc_jax.data import decode, idx, pictures, store, tfds
from aigc_jax.data.image_store import CHUNK, Contents, Item, Source, content_of
from aigc_jax.errors import UserError, nearest

PARTS = ("train", "validation", "test")


def find(path: str, labels: str = "auto", field: str = "image") -> Source:
    """Returns where the images that `path` names come from; see `make`.

    Raises:
      UserError: there is nothing of that name, or its labels don't fit.
    """
    from aigc_jax.data import catalogue

    if not path:
        raise UserError("data.path is empty; expected a folder or the name of a data set.")
    folder = Path(path).expanduser()
    if folder.is_dir():
        if files := idx.files(folder):
            return _idx_source(folder.name, folder, files, labels)
        return pictures.source(folder, labels)
    if folder.exists():
        raise UserError(
            f"{path} is a file; expected a folder of pictures, or one with MNIST's four idx files."
        )
    known = catalogue.names()
    if path in known and (content := catalogue.content_of(path)) != "images":
        raise UserError(f"{path} is a data set of kind {content}; expected images.")
    if path in known and catalogue.kind_of(path) == "wheel":
        folder = catalogue.ready(path)
        return _idx_source(path, folder, idx.files(folder), labels)
    if path in known or any((root / path).is_dir() for root in tfds.roots()):
        return _tfds_source(path, labels, field)
    images = [name for name in known if catalogue.content_of(name) == "images"]
    raise UserError(
        f"No folder or data set of images called {path!r}.{nearest(path, images)} Expected a "
        f"folder, one of {', '.join(images)}, or a TFDS data set that is in "
        f"{' or '.join(str(root) for root in tfds.roots())}."
    )


def _idx_source(name: str, folder: Path, files: dict[tuple[str, str], Path], labels: str) -> Source:
    """MNIST's four files and those of its kin."""
    if labels not in ("auto", "none"):
        raise UserError(
            f"data.labels is {labels!r}, but idx files bring their labels; expected 'auto' or "
            "'none'."
        )
    content = content_of(folder, [path.name for path in files.values()])
    digest = hashlib.sha256(content.encode() + labels.encode())

    def contents() -> Contents:
        found = {key: idx.parse(store.content(path), path) for key, path in files.items()}
        digits = {
            split: idx.pair(found[split, "images"], found[split, "labels"], folder)
            for split in idx.SPLITS.values()
        }
        top = max(int(part.labels.max(initial=0)) for part in digits.values())
        names = tuple(str(i) for i in range(top + 1)) if labels != "none" else ()
        parts = {
            split: [
                Item(f"{split} image {i}", partial(_grey, image, int(label)))
                for i, (image, label) in enumerate(zip(*part, strict=True))
            ]
            for split, part in digits.items()
        }
        return Contents(parts, names, wide=False, color=False)

    return Source(name, digest.hexdigest(), contents)


def _grey(image: np.ndarray, label: int) -> tuple[np.ndarray, int]:
    return image[..., None], label


def _tfds_source(name: str, labels: str, field: str) -> Source:
    """A TFDS data set with an image field and, perhaps, a label field."""
    folder = tfds.find(name)
    files = sorted(p.name for p in folder.iterdir() if ".array_record" in p.name)
    digest = hashlib.sha256(content_of(folder, files).encode())
    digest.update(repr((labels, field)).encode())
    return Source(name, digest.hexdigest(), partial(_tfds_contents, name, folder, labels, field))


def _tfds_contents(name: str, folder: Path, labels: str, field: str) -> Contents:
    """Opens the parts of a TFDS data set that are called train, validation and test."""
    import tensorflow_datasets
    from absl import logging

    logging.set_verbosity(logging.ERROR)  # TFDS advises on image decoders
    sizes = tfds.split_sizes(folder)
    tfds.source_of(name, folder, "train")  # says which splits there are, if it isn't one
    builder = tensorflow_datasets.builder_from_directory(folder)
    features = builder.info.features
    if field not in features:
        raise UserError(
            f"{name} has no field {field!r}; it has {', '.join(features)}."
            f"{nearest(field, features)}"
        )
    image, wanted = features[field], _label_field(name, features, labels)
    if not isinstance(image, tensorflow_datasets.features.Image):
        raise UserError(f"The field {field!r} of {name} is no image but {image}.")
    packed = {field: tensorflow_datasets.decode.SkipDecoding()}  # `decode` keeps 16 bits
    parts = {}
    for part in (p for p in PARTS if p in sizes):
        rows = _blocks(builder.as_data_source(split=part, decoders=packed))
        parts[part] = [
            Item(f"{part} example {place}", partial(_example, rows, place, field, wanted))
            for place in range(sizes[part])
        ]
    names = tuple(map(str, features[wanted].names)) if wanted else ()
    wide = np.dtype(image.np_dtype) == np.uint16
    return Contents(parts, names, wide, (image.shape[-1] or 3) > 2)


def _blocks(opened: Any) -> Callable[[int], list[dict[str, Any]]]:
    """Returns what reads examples CHUNK * n and those after it, at once: that is faster."""

    @lru_cache(maxsize=64)
    def block(number: int) -> list[dict[str, Any]]:
        begin = number * CHUNK
        return list(opened.__getitems__(list(range(begin, min(begin + CHUNK, len(opened))))))

    return block


def _example(
    block: Callable[[int], list[dict[str, Any]]], place: int, field: str, wanted: str | None
) -> tuple[np.ndarray, int]:
    """Reads one example's picture and its class."""
    row = block(place // CHUNK)[place % CHUNK]
    return decode.read(row[field]), -1 if wanted is None else int(row[wanted])


def _label_field(name: str, features: Any, labels: str) -> str | None:
    """Returns which field has the class, or None; raises UserError when the one named can't be."""
    if labels == "none":
        return None
    wanted = "label" if labels == "auto" else labels
    if wanted in features and hasattr(features[wanted], "names"):
        return wanted
    if labels == "auto":
        return None
    classes = [key for key in features if hasattr(features[key], "names")]
    raise UserError(
        f"data.labels is {labels!r}, no class label of {name}; it has "
        f"{', '.join(classes) or 'none'}.{nearest(labels, classes)}"
    )

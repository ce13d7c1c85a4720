"""Writes examples as a TFDS data set in array_record files, without TensorFlow.

TFDS's own helper for this (`store_as_tfds_dataset`) asks for TensorFlow, and so do the builders of
MNIST and tiny_shakespeare; a builder of ours does not. Importing this file imports TFDS (2 s).
"""

import contextlib
import io
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

Examples = Iterable[dict[str, Any]]


class _Handed(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """A builder of examples that are handed to it; `write` names it and gives it a version."""

    def __init__(
        self, *, features: Any, splits: dict[str, Examples], about: str, **settings: Any
    ) -> None:
        self._features, self._splits, self._about = features, splits, about
        super().__init__(file_format="array_record", **settings)

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            features=self._features,
            description=self._about,
            disable_shuffling=True,  # keeps the order: a text's files stay sorted
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {name: self._generate_examples(rows) for name, rows in self._splits.items()}

    def _generate_examples(self, rows: Examples) -> Iterator[tuple[int, dict[str, Any]]]:
        yield from enumerate(rows)


def write(
    folder: Path, name: str, version: str, features: Any, splits: dict[str, Examples], about: str
) -> None:
    """Writes `folder`/`version`, which `tfds.builder_from_directory` reads.

    Args:
      folder: exists; nothing of the name `name` is in it.
      name: the data set's name, lower case with underscores.
      version: "1.0.0" and the like.
      features: a `tfds.features.FeaturesDict`.
      splits: the examples of each split, in order.
      about: one line.
    """
    members = {"name": name, "VERSION": tfds.core.Version(version)}
    kind = type(f"Handed_{name}", (_Handed,), members, skip_registration=True)
    builder = kind(
        features=features, splits=splits, about=about, data_dir=str(folder), version=version
    )
    tfds.disable_progress_bar()
    # TFDS prints its own story; `aigc` says the one line that matters.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare()
    (folder / name / version).rename(folder / version)
    shutil.rmtree(folder / name)
    shutil.rmtree(folder / "downloads", ignore_errors=True)


def text_features() -> Any:
    """One field, `text`, as in TFDS's tiny_shakespeare."""
    return tfds.features.FeaturesDict({"text": tfds.features.Text()})


def image_features(height: int, width: int, classes: int) -> Any:
    """`image` [H, W, 1] and `label`, as in TFDS's mnist."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(height, width, 1)),
            "label": tfds.features.ClassLabel(num_classes=classes),
        }
    )


def image_examples(images: np.ndarray, labels: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields images uint8 [N, H, W] as PNG bytes: given an array, TFDS would ask for TensorFlow."""
    from PIL import Image

    for image, label in zip(images, labels, strict=True):
        packed = io.BytesIO()
        Image.fromarray(image).save(packed, "PNG")
        yield {"image": packed.getvalue(), "label": int(label)}

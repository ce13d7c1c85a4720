"""The evaluators of images and modes: what they score, keep, note and refuse."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import process
import pytest
import tiny

from aigc_jax.errors import UserError
from aigc_jax.evals import drawing, image_quality, modes
from aigc_jax.evals import pictures as pictures_of
from aigc_jax.interop.extractors import of_run
from aigc_jax.metrics import frechet
from aigc_jax.metrics.moments import moments
from aigc_jax.report.compare import as_text, compare
from aigc_jax.report.folder import Run
from aigc_jax.train.evaluation import Desk, add_floors
from aigc_jax.train.kept import add_protocol, keep_arrays
from aigc_jax.train.log import history

SHAPE, CLASSES = (16, 16, 1), 3
SIZES = {"train": 90, "validation": 50}


def pictures(seed: int, n: int) -> np.ndarray:
    """Bars of three classes, at -.5 or so, in noise."""
    draw = np.random.default_rng(seed)
    x = draw.uniform(-0.2, 0.2, (n, *SHAPE)).astype(np.float32) - 0.5
    for i in range(n):
        x[i, 5 * (i % 3) : 5 * (i % 3) + 5] += 1
    return x


def cover(x: np.ndarray, rows: int = 16) -> Any:
    """A split as the rooms of data make it: padded at its end."""

    def batch(i: int, shard: tuple[int, int]) -> dict[str, np.ndarray]:
        assert shard == (0, 1)
        part = x[i * rows : (i + 1) * rows]
        pad, real = rows - len(part), np.arange(rows) < len(part)
        return {
            "x": np.concatenate([part, np.zeros((pad, *x.shape[1:]), x.dtype)]),
            "index": i * rows * real + np.arange(rows) * real,
            "mask": real.astype(np.float32),
        }

    return SimpleNamespace(batches=-(-len(x) // rows), batch=batch)


def functions() -> dict[str, Any]:
    """A network: the means of blocks of 4 x 4, and which third is the brightest."""

    def blocks(weights: Any, batch: Any) -> Any:
        x = batch["x"]
        return weights["scale"] * x.reshape(x.shape[0], 4, 4, 4, 4, -1).mean((2, 4, 5))

    def thirds(weights: Any, batch: Any) -> Any:
        x = batch["x"]
        return 9.0 * x[:, :15].reshape(x.shape[0], 3, -1).mean(-1)

    return {"features": blocks, "logits": thirds}


def extractor(spec: dict[str, str], shape: tuple[int, ...] = SHAPE) -> Any:
    if not spec["weights"]:
        raise UserError("no run folder is named")
    return of_run(
        spec["weights"], functions(), {"scale": np.float32(2)}, kind=spec["kind"], shape=shape,
        record={"accuracy": 0.99, "seed": 1, "step": 7}, sha256=spec["sha256"], chunk=20,
    )  # fmt: skip


def context(folder: Path, **changes: Any) -> Any:
    run, cache = folder / "run", folder / "cache"
    run.mkdir(parents=True, exist_ok=True)
    facts = {"unit": "images", "shape": SHAPE, "classes": CLASSES, "examples": SIZES}
    parts = {"train": cover(pictures(1, 90)), "validation": cover(pictures(2, 50))}
    data = SimpleNamespace(spec=SimpleNamespace(facts=facts), splits=parts, fingerprint="f" * 64)
    drawn: list[int] = []

    def sample(weights: Any, key: Any, *, number: int) -> np.ndarray:
        drawn.append(number)
        return pictures(int(jax.random.key_data(key)[-1]) % 1000, number) + weights

    made = {
        "data": data, "sample": sample, "drawn": drawn, "last_step": 100, "knobs": (),
        "functions": {},
        "extractor": extractor,
        "add_floors": partial(add_floors, Desk(run, cache), data.fingerprint),
        "keep": partial(keep_arrays, cache, data.fingerprint),
        "add_protocol": partial(add_protocol, run),
        "history": lambda name: history(run / "metrics.jsonl", name),
    }  # fmt: skip
    return SimpleNamespace(**(made | changes))


KNOBS: dict[str, Any] = {
    "weights": "runs/judge", "number": 40, "kernel_size": 20, "kernel_subsets": 4,
    "msssim_pairs": 9,
}  # fmt: skip
EVERYTHING = ("frechet", "infinity", "kernel", "score", "precision", "density", "msssim")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, float]]:
    folder = tmp_path_factory.mktemp("judged")
    handed = context(folder)
    return folder, handed, image_quality.make(handed, scores=EVERYTHING, **KNOBS)(0.25, 100)


def test_scores_have_the_extractors_name_and_never_inceptions(judged: Any) -> None:
    _, _, values = judged
    assert list(values) == [
        f"classifier/{name}"
        for name in ("cfd", "cfd_infinity", "ckd", "ckd_std", "classifier_score",
                     "classifier_score_std", "precision", "recall", "density", "coverage", "msssim")
    ]  # fmt: skip
    assert np.isfinite(list(values.values())).all()
    assert 2.5 < values["classifier/classifier_score"] <= 3


def test_the_distance_is_that_of_the_features(judged: Any) -> None:
    _, handed, values = judged
    chosen = np.random.RandomState(0).permutation(50)[:40]
    network, weights = functions()["features"], {"scale": np.float32(2)}
    key = jax.random.fold_in(jax.random.key(0), 0)
    sets = (handed.sample(0.25, key, number=40), pictures(2, 50)[np.sort(chosen)])
    a, b = (moments(np.asarray(network(weights, {"x": x})).reshape(40, -1)) for x in sets)
    assert values["classifier/cfd"] == pytest.approx(frechet.distance(a, b), rel=1e-4)


def test_floors_and_ceilings_stand_beside_each_score(judged: Any) -> None:
    folder, _, values = judged
    floors = json.loads((folder / "run" / "floors.json").read_text())
    assert floors.keys() == {name for name in values if not name.endswith("_std")}
    for levels in floors.values():
        # The validation part has not twice 40 rows; the training part has 40.
        assert list(levels) == ["real (train)", "noise", "mean image"]
    distances = floors["classifier/cfd"]
    assert distances["real (train)"] < 0.25 * min(distances["noise"], distances["mean image"])
    assert distances["real (train)"] < values["classifier/cfd"] < distances["noise"]
    assert floors["classifier/classifier_score"]["mean image"] == pytest.approx(1)
    assert floors["classifier/coverage"]["mean image"] < 0.2
    assert floors["classifier/msssim"]["mean image"] == pytest.approx(1)


def test_real_features_and_floors_are_made_once(judged: Any) -> None:
    folder, _, values = judged
    calls: list[int] = []

    def counted(spec: dict[str, str]) -> Any:
        made = extractor(spec)

        def extract(x: np.ndarray) -> Any:
            calls.append(len(x))
            return made.extract(x)

        return made._replace(extract=extract)

    handed = context(folder, extractor=counted)
    assert image_quality.make(handed, scores=EVERYTHING, **KNOBS)(0.25, 100) == values
    assert sum(calls) == 40  # the samples alone


def test_the_protocol_is_written_down(judged: Any) -> None:
    folder, _, _ = judged
    said = json.loads((folder / "run" / "protocols.json").read_text())
    first = said["classifier/cfd"]
    assert first["number"] == 40 and first["split"] == "validation" and first["data"] == "f" * 64
    network = first["extractor"]
    assert network["kind"] == "classifier" and len(network["weights_sha256"]) == 64
    assert network["layer"] == "blocks" and network["accuracy"] == 0.99 and network["seed"] == 1
    assert "kernel_size" in said["classifier/ckd"] and "kernel_size" not in first
    assert not [word for word in ("runs/judge", str(folder)) if word in json.dumps(said)]


def test_another_protocol_on_the_same_curve_is_refused_before_the_run(judged: Any) -> None:
    folder, _, _ = judged
    with pytest.raises(UserError, match=r"classifier/cfd .*other number\); give .* another title"):
        image_quality.make(context(folder), **{**KNOBS, "number": 30})
    other = image_quality.make(context(folder), **{**KNOBS, "number": 30, "title": "few"})
    assert "few/cfd" in other(0.0, 100)
    # What one score does not depend on may differ.
    image_quality.make(context(folder), scores=("frechet",), **{**KNOBS, "kernel_size": 9})


def test_when_it_is_run(tmp_path: Path) -> None:
    knobs = {**KNOBS, "scores": ("frechet",), "floors": False}
    last_only = image_quality.make(context(tmp_path), **knobs)
    assert [bool(last_only(0.0, step)) for step in (50, 99, 100)] == [False, False, True]
    often = image_quality.make(context(tmp_path), **knobs, every=20)
    assert [bool(often(0.0, step)) for step in (10, 20, 100)] == [False, True, True]
    always = image_quality.make(context(tmp_path, last_step=None), **knobs)
    assert always(0.0, 3)
    assert not (tmp_path / "run" / "floors.json").exists()


def test_samples_come_in_chunks_of_their_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "CHUNK", 15)
    handed = context(tmp_path)
    draws = drawing.Drawing(handed, 0.0, 0)
    parts = list(draws.chunks(0.0, 40))
    assert handed.drawn == [15, 15, 10]
    assert not np.array_equal(parts[0], parts[1])
    again = list(draws.chunks(0.0, 40))
    np.testing.assert_array_equal(np.concatenate(parts), np.concatenate(again))


def test_the_floor_takes_other_rows_of_the_same_split_where_it_can(tmp_path: Path) -> None:
    reals = image_quality.Reals(context(tmp_path).data, "train", 45, 0)
    first = np.concatenate(list(reals.chosen()))
    split, batches = reals.others()  # type: ignore[misc]
    both = np.concatenate([first, *batches])
    assert split == "train" and len(np.unique(both.reshape(90, -1), axis=0)) == 90
    # Not the first rows, which a folder has ordered by class.
    assert not np.array_equal(first, pictures(1, 90)[:45])


def test_a_floor_that_is_missing_is_told(tmp_path: Path) -> None:
    warned: list[str] = []

    def made(number: int, floors: bool) -> None:
        handed = context(tmp_path / f"{number}-{floors}", warn=warned.append)
        knobs = {**KNOBS, "split": "train", "number": number, "floors": floors}
        image_quality.make(handed, **knobs)

    made(50, True)
    made(51, False)
    assert not warned
    made(51, True)
    assert warned == [
        "evals: there are no 51 other real images, so the scores have no floor of real ones;"
        " number=50 would have."
    ]


def test_bad_input_is_said_before_the_run(tmp_path: Path) -> None:
    for changes, words in (
        ({"split": "test"}, "no split 'test'"),
        ({"number": 51}, "number=51 images, and 'validation' has 50"),
        ({"number": 1}, "expected 0 or more, 2 or more"),
        ({"resize": "clean"}, "resize='clean' is for extractor='inception'; 'classifier' is shown"),
        ({"every": -1}, "every=-1"),
        ({"scores": ("frechet", "fid")}, "no score 'fid'"),
        ({"kernel_size": 1000}, "too few for 'kernel', which needs 1000"),
        ({"weights": ""}, "no run folder"),
        ({"weights_sha256": "0" * 64}, "have the sha256 .* expected 0000"),
    ):
        with pytest.raises(UserError, match=words) as said:
            image_quality.make(context(tmp_path), **{**KNOBS, **changes})
        assert "\n" not in str(said.value)
    with pytest.raises(UserError, match="this task samples none"):
        image_quality.make(context(tmp_path, sample=None), **KNOBS)
    other = partial(extractor, shape=(28, 28, 1))
    with pytest.raises(UserError, match="16 x 16 x 1: runs/judge was trained on 28 x 28 x 1"):
        image_quality.make(context(tmp_path, extractor=other), **KNOBS)
    with pytest.raises(UserError, match="has no function 'logits'; it has: features"):
        blocks = {"features": functions()["features"]}
        of_run("runs/x", blocks, {}, kind="classifier", shape=SHAPE, record={})


def test_kept_arrays_that_are_cut_off_are_made_anew(tmp_path: Path) -> None:
    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"a": np.arange(3.0)}

    made: list[int] = []
    for _ in range(2):
        assert keep_arrays(tmp_path, "f" * 64, "k", make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:50])
    assert keep_arrays(tmp_path, "f" * 64, "k", make)["a"].tolist() == [0, 1, 2]
    assert len(made) == 2
    keep_arrays(tmp_path, "g" * 64, "k", make)
    assert len(made) == 3


# --- modes --------------------------------------------------------------------------------------


def points(seed: int, n: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centers = np.array([[-1, 0], [1, 0], [0, 1.0]])[draw.integers(0, 3, n)]
    return (centers + 0.01 * draw.normal(size=(n, 2))).astype(np.float32)


def mixture(folder: Path, **changes: Any) -> Any:
    facts = {"unit": "points", "shape": (2,), "classes": 3, "examples": SIZES, "sigma": 0.01,
             "centres": ((-1.0, 0.0), (1.0, 0.0), (0.0, 1.0))}  # fmt: skip
    parts = {"train": cover(points(1, 90)), "validation": cover(points(2, 50))}
    data = SimpleNamespace(spec=SimpleNamespace(facts=facts), splits=parts, fingerprint="f" * 64)

    def sample(weights: Any, key: Any, *, number: int) -> np.ndarray:
        return points(5, number) * np.float32([1, 0])  # the third mode falls between the others

    return context(folder, **{"data": data, "sample": sample, **changes})


ON_A_DEVICE = """
import sys
import jax, numpy as np
from aigc_jax.cli import wire
from aigc_jax.train import sharding
wanted = {"kind": "classifier", "weights": sys.argv[1], "sha256": "", "resize": ""}
judge = wire.extractor(wanted, sharding.alone(1))
features, logits = judge.extract(np.zeros((3, 8, 8, 1), np.float32))
print(len(features), logits.shape[1], {
    tuple(device.id for device in x.devices()) for x in jax.live_arrays() if x.ndim == 4})
"""


def test_a_network_that_judges_is_on_the_device_of_what_it_judges(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ON_A_DEVICE, str(tiny.classifier_run())],
        capture_output=True, text=True, env={**os.environ, "XLA_FLAGS": process.devices(2)},
    )  # fmt: skip
    assert ended.stdout == "3 10 {(1,)}\n", ended.stdout + ended.stderr


def test_modes_of_a_mixture(tmp_path: Path) -> None:
    found = modes.make(mixture(tmp_path), number=50)(None, 100)
    assert found["modes/found"] == found["modes/covered"] == 2
    assert 0.5 < found["modes/quality"] < 0.8
    floors = json.loads((tmp_path / "run" / "floors.json").read_text())
    assert floors["modes/found"]["real (validation)"] == 3
    assert floors["modes/quality"]["real (validation)"] > 0.9
    assert floors["modes/quality"]["noise"] < 0.1
    assert floors["modes/reverse_kl"]["real (validation)"] < 0.1
    assert (
        json.loads((tmp_path / "run" / "protocols.json").read_text())["modes/found"]["number"] == 50
    )
    assert modes.make(mixture(tmp_path), number=50)(None, 99) == {}


# Modes covered so far, of three -> whether a fall to one is told.
FALLS = {(): False, (2,): False, (3,): True, (2, 3, 1): False, (3, 1, 2): True}


@pytest.mark.parametrize("before", FALLS)
def test_a_fall_below_half_of_the_modes_is_told_once(
    tmp_path: Path, before: tuple[int, ...]
) -> None:
    said: list[str] = []
    handed = mixture(
        tmp_path,
        warn=said.append,
        sample=lambda weights, key, number: np.float32([[1, 0]] * number),
    )
    rows = [{"step": i, "modes/covered": n} for i, n in enumerate(before)]
    lines = [json.dumps(row) for row in [*rows, {"step": 9, "train/loss": "nan"}]]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 10, "modes/c']))
    assert modes.make(handed, number=50, every=1)(None, 7)["modes/covered"] == 1
    assert said == [
        "modes/covered: 1 of 3 modes at step 7, less than half of the 3 that this run had reached:"
        " its samples collapse."
    ] * FALLS[before]  # fmt: skip


def test_modes_of_stacked_digits(tmp_path: Path) -> None:
    def stacked(seed: int, n: int) -> np.ndarray:
        draw = np.random.default_rng(seed)
        gray = pictures(seed, 30)[:, ..., 0]
        return np.stack([gray[draw.integers(0, 30, n)] for _ in range(3)], -1)

    facts = {"unit": "images", "shape": (16, 16, 3), "classes": 27, "examples": SIZES}
    parts = {"train": cover(stacked(1, 90)), "validation": cover(stacked(2, 50))}
    data = SimpleNamespace(spec=SimpleNamespace(facts=facts), splits=parts, fingerprint="f" * 64)

    def sample(weights: Any, key: Any, *, number: int) -> np.ndarray:
        # Classes 0 or 1, 2, and 0: two modes of 27.
        x = pictures(3, 90)[..., 0]
        i = np.arange(number)
        return np.stack([x[3 * (i % 20) + i % 2], x[3 * (i % 20) + 2], x[3 * (i % 20)]], -1)

    handed = context(tmp_path, data=data, sample=sample)
    found = modes.make(handed, number=40, classifier="runs/judge")(None, 100)
    kl = pytest.approx(np.log(27 / 2))
    assert found == {"modes/found": 2, "modes/covered": 2, "modes/reverse_kl": kl}
    real = json.loads((tmp_path / "run" / "floors.json").read_text())["modes/found"]
    assert real["real (validation)"] > 15
    with pytest.raises(UserError, match="needs a classifier of one channel"):
        modes.make(handed, number=40)


def test_modes_need_what_they_count(tmp_path: Path) -> None:
    handed = mixture(tmp_path)
    del handed.data.spec.facts["sigma"]
    with pytest.raises(UserError, match="knows its centres and sigma"):
        modes.make(handed, number=50)
    with pytest.raises(UserError, match="number=51"):
        modes.make(mixture(tmp_path), number=51)
    with pytest.raises(UserError, match="draws none"):
        modes.make(mixture(tmp_path, sample=None))


# --- how samples are drawn ----------------------------------------------------------------------


def truncated(folder: Path, **changes: Any) -> Any:
    """Samples that are told a truncation and are brighter by it and by the standing statistics."""

    def sample(weights: Any, key: Any, *, number: int, truncation: float = 0.0) -> np.ndarray:
        return pictures(3, number) + np.float32(weights) + truncation

    def standing(weights: Any, key: Any, batches: int, size: int) -> Any:
        return weights + 0.001 * batches * size

    return context(
        folder, sample=sample, knobs=("truncation",), functions={"standing": standing}, **changes
    )


def test_pictures_and_scores_are_of_samples_drawn_as_it_is_set(tmp_path: Path) -> None:
    seen: dict[str, np.ndarray] = {}
    handed = truncated(tmp_path, write_picture=lambda step, name, x: seen.update({name: x}))
    shades = []
    for settings in ({}, {"truncation": 0.25}, {"standing": 2}, {"truncation": 0.2, "standing": 1}):
        pictures_of.make(handed, number=4, columns=4, **settings)(0.0, 1)
        shades.append(seen["samples"].astype(float).mean())
    # Half of the 255 levels to a unit; what is white already gets no brighter.
    assert shades[1] - shades[0] > 20 and shades[2] - shades[0] > 15
    assert shades[3] == pytest.approx(shades[0] + 0.3 / 0.25 * (shades[1] - shades[0]), rel=0.02)
    plain, near, again = (
        image_quality.make(truncated(tmp_path / name), scores=("frechet",), **settings, **KNOBS)(
            0.0, 100
        )["classifier/cfd"]
        for name, settings in {
            "a": {}, "b": {"truncation": 0.25}, "c": {"standing": 2, "truncation": 0.05},
        }.items()
    )  # fmt: skip
    assert plain < near == pytest.approx(again, rel=1e-4)


def test_how_samples_are_drawn_is_in_the_record_where_it_is_not_the_default(tmp_path: Path) -> None:
    for name, settings in {"a": {}, "b": {"truncation": 0.5, "standing": 3}}.items():
        handed = truncated(tmp_path / name)
        image_quality.make(handed, scores=("frechet",), **settings, **KNOBS)
        said = json.loads((tmp_path / name / "run" / "protocols.json").read_text())
        found = said["classifier/cfd"]
        assert {key: found[key] for key in ("truncation", "standing") if key in found} == settings
    a, b = (
        a_run(
            tmp_path / f"{name}-run",
            json.loads((tmp_path / name / "run" / "protocols.json").read_text())["classifier/cfd"],
            1.0,
        )
        for name in "ab"
    )
    found = compare([a, b])
    assert found["incomparable"]["classifier/cfd"]["truncation"] == ["–", 0.5]
    assert "not compared" in as_text(found)
    facts = {"knobs": ("truncation",)}
    modes.make(mixture(tmp_path / "m", **facts), number=50, truncation=0.5)
    said = json.loads((tmp_path / "m" / "run" / "protocols.json").read_text())
    assert said["modes/covered"]["truncation"] == 0.5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"truncation": 0.5}, "truncation=0.5: this task's samples have none"),
        ({"standing": 5}, "standing=5: this task has no batch statistics"),
        ({"truncation": -1.0}, "expected 0"),
        ({"standing": -1}, "expected 0"),
    ],
)
def test_samples_that_a_task_can_not_draw_are_refused_before_the_run(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    for make in (image_quality.make, modes.make):
        with pytest.raises(UserError, match=words):
            make(context(tmp_path), **{**KNOBS, **settings} if make is image_quality.make else
                 {"classifier": "runs/judge", "number": 40, **settings})  # fmt: skip
    with pytest.raises(UserError, match=words):
        pictures_of.make(context(tmp_path), **settings)


# --- two runs -----------------------------------------------------------------------------------


def a_run(folder: Path, protocol: dict[str, Any] | None, cfd: float) -> Run:
    folder.mkdir()
    row = {"step": 9, "wall": 1.0, "classifier/cfd": cfd, "validation/loss": 1.0}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "config.json").write_text("{}")
    (folder / "status.json").write_text(json.dumps({"state": "finished", "step": 9}))
    if protocol:
        (folder / "protocols.json").write_text(json.dumps({"classifier/cfd": protocol}))
    return Run(folder)


def test_scores_of_different_protocols_are_not_compared(tmp_path: Path) -> None:
    first = {"number": 10_000, "extractor": {"resize": "tf1", "weights_sha256": "a" * 64}}
    runs = [a_run(tmp_path / "a", first, 3.0), a_run(tmp_path / "b", first, 4.0)]
    found = compare(runs)
    assert "classifier/cfd" in found["metrics"] and not found["incomparable"]
    other = {"number": 5000, "extractor": {"resize": "clean", "weights_sha256": "a" * 64}}
    runs[1] = a_run(tmp_path / "c", other, 0.5)
    found = compare(runs)
    assert found["metrics"] == ["validation/loss"]
    assert found["incomparable"] == {
        "classifier/cfd": {"extractor.resize": ["tf1", "clean"], "number": [10_000, 5000]}
    }
    text = " ".join(as_text(found).split())
    assert "not compared, since measured under different protocols: classifier/cfd" in text
    assert "extractor.resize tf1 against clean; number 10000 against 5000" in text
    assert "0.5" not in text
    # One without a record, and one without the score at all.
    assert compare([runs[0], a_run(tmp_path / "d", None, 1.0)])["incomparable"]
    silent = a_run(tmp_path / "e", None, 1.0)
    (tmp_path / "e" / "metrics.jsonl").write_text(
        '{"step": 9, "wall": 1.0, "validation/loss": 2.0}\n'
    )
    found = compare([runs[0], silent])
    assert "classifier/cfd" in found["metrics"] and not found["incomparable"]

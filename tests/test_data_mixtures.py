"""Points of mixtures of Gaussians: the sets, their statistics, their batches."""

import math
from typing import Any

import numpy as np
import pytest

from aigc_jax.core import schema
from aigc_jax.data import mixtures
from aigc_jax.data.base import Data
from aigc_jax.errors import UserError

ALL = (0, 1)


GOLDEN_LABELS = [7, 2, 4]
GOLDEN_X: list[list[float]] = [
    [0.7119721, -0.6804423],
    [0.0130027, 0.992471],
    [-1.0093832, 0.0025256],
]


def make(**settings: Any) -> Data:
    return mixtures.make(**{"batch_size": 50, "seed": 0, "number": 4000, **settings})


def whole(data: Data, split: str) -> dict[str, np.ndarray]:
    """A split's rows in one piece, padding left out."""
    part = data.splits[split]
    batches = [part.batch(i, ALL) for i in range(part.batches)]
    joined = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
    return {key: x[joined["mask"] > 0] for key, x in joined.items()}


def as_set(x: np.ndarray) -> set[tuple[float, float]]:
    return {(a, b) for a, b in x.tolist()}


def test_the_signature_is_a_schema() -> None:
    assert schema.required("data", "mixtures") == ["batch_size", "seed"]


def test_ring_and_grid_are_those_of_the_papers() -> None:
    ring, grid = make(), make(mixture="grid")
    centres = np.array(ring.spec.facts["centres"])
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(centres[0], [1, 0], atol=1e-12)
    np.testing.assert_allclose(centres[1], [math.sqrt(0.5)] * 2, atol=1e-12)
    assert len(centres) == 8
    assert ring.spec.facts["sigma"] == 0.01
    line = (-4.0, -2.0, 0.0, 2.0, 4.0)
    assert set(grid.spec.facts["centres"]) == {(x, y) for x in line for y in line}
    assert grid.spec.facts["sigma"] == 0.05
    assert grid.spec.facts["classes"] == len(grid.spec.facts["class_names"]) == 25
    assert mixtures.make(batch_size=1, seed=0).spec.facts["examples"]["train"] == 100_000


@pytest.mark.parametrize("mixture", ["ring", "grid"])
def test_each_mode_is_a_normal_cloud_of_its_share(mixture: str) -> None:
    number = 50_000
    data = make(mixture=mixture, number=number, batch_size=5000)
    rows, facts = whole(data, "train"), data.spec.facts
    modes = facts["classes"]
    counts = np.bincount(rows["label"], minlength=modes)
    expected = number / modes
    # Chi-square with K - 1 degrees of freedom: mean K - 1, variance 2 (K - 1).
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - (modes - 1)) < 5 * math.sqrt(2 * (modes - 1))
    z = (rows["x"] - np.array(facts["centres"])[rows["label"]]) / facts["sigma"]
    assert abs(z.mean(axis=0)).max() < 5 / math.sqrt(number)
    assert abs((z**2).mean(axis=0) - 1).max() < 5 * math.sqrt(2 / number)
    assert abs((z[:, 0] * z[:, 1]).mean()) < 5 / math.sqrt(number)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / (2 * number))
    # Rayleigh: a share exp(-9 / 2) lies beyond three sigma.
    outside = (np.linalg.norm(z, axis=1) > 3).mean()
    assert abs(outside - math.exp(-4.5)) < 5 * math.sqrt(math.exp(-4.5) / number)


def test_points_are_the_same_for_all_seeds_and_their_order_is_not() -> None:
    one, other = make(seed=0), make(seed=1)
    assert one.fingerprint == other.fingerprint
    a, b = whole(one, "train"), whole(other, "train")
    np.testing.assert_array_equal(a["x"], b["x"])
    assert not np.array_equal(one.batch(0, ALL)["x"], other.batch(0, ALL)["x"])
    drawn = make(points_seed=1)
    assert drawn.fingerprint != one.fingerprint
    points = as_set(a["x"])
    assert not points & as_set(whole(drawn, "train")["x"])
    held = as_set(whole(one, "validation")["x"])
    assert len(held) == 10_000
    assert not points & held


def test_points_stay_the_same_from_version_to_version() -> None:
    rows = whole(make(number=3), "train")
    assert rows["label"].tolist() == GOLDEN_LABELS
    np.testing.assert_allclose(rows["x"], np.array(GOLDEN_X), rtol=1e-6, atol=1e-6)


def test_batch_is_as_the_spec_says() -> None:
    data = make(held_out=120)
    batch = data.batch(3, ALL)
    assert {k: (x.shape, str(x.dtype)) for k, x in batch.items()} == {
        k: tuple(s) for k, s in data.spec.arrays.items()
    }
    assert list(batch) == ["x", "label", "index", "mask"]
    assert data.spec.facts["unit"] == "points"
    assert data.spec.facts["shape"] == (2,)
    assert data.tokenizer is None
    rows = whole(data, "train")
    np.testing.assert_array_equal(batch["x"], rows["x"][batch["index"]])
    last = data.splits["validation"].batch(2, ALL)
    assert last["mask"].tolist() == [1.0] * 20 + [0.0] * 30
    assert not last["x"][20:].any()
    parts = [data.batch(3, (i, 5)) for i in range(5)]
    for key, x in batch.items():
        np.testing.assert_array_equal(np.concatenate([p[key] for p in parts]), x)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mixture": "rings"}, "expected 'ring' or 'grid'. Did you mean 'ring'"),
        ({"mixture": "grid", "modes": 24}, "24, no square, as a grid needs; expected 16 or 25"),
        ({"modes": 0}, "data.modes is 0"),
        ({"number": 0}, "data.number is 0"),
        ({"sigma": 0.0}, "data.sigma is 0.0; expected a number above 0"),
        ({"scale": math.nan}, "data.scale is nan"),
        ({"batch_size": 0}, "run.batch_size is 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)

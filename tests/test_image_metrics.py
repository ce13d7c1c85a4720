"""Scores of images: against torch-fidelity and prdc, closed forms, brute force, sets by hand."""

import importlib.util
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aigc_jax.errors import UserError
from aigc_jax.metrics import frechet, manifold, moments, msssim
from aigc_jax.metrics.frechet import distance, infinity
from aigc_jax.metrics.image import (
    NAMES,
    NEEDS,
    Extractor,
    Pass,
    Settings,
    all_scores,
    check,
    to_uint8,
)
from aigc_jax.metrics.kernel import kernel_distance
from aigc_jax.metrics.manifold import density_coverage, precision_recall, radii
from aigc_jax.metrics.modes import counted_modes, gaussian_modes, reverse_kl
from aigc_jax.metrics.moments import Moments, Streaming
from aigc_jax.metrics.score import inception_score

GOLDEN = Path(__file__).parent / "golden"
NAMED = ("near", "wide", "far")


def maker(name: str) -> Any:
    """A script that made golden files: what it drew is drawn again."""
    spec = importlib.util.spec_from_file_location(name, GOLDEN / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def g() -> Any:
    return maker("make_image_metrics")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((GOLDEN / "image_metrics.json").read_text())


# --- parity with torch-fidelity and prdc on the same features -----------------------------------


@pytest.mark.parametrize("name", NAMED)
def test_frechet_is_that_of_torch_fidelity(g: Any, golden: Any, name: str) -> None:
    a, b = g.cases()[name]
    theirs = golden[name]["frechet_inception_distance"]
    found = distance(moments.moments(a), moments.moments(b))
    np.testing.assert_allclose(found, theirs, rtol=2e-5)


@pytest.mark.parametrize("name", NAMED)
def test_kernel_is_that_of_torch_fidelity(g: Any, golden: Any, name: str) -> None:
    a, b = g.cases()[name]
    found = kernel_distance(a, b, subsets=g.KERNEL_SUBSETS, size=g.KERNEL_SIZE)
    theirs = [golden[name][f"kernel_inception_distance_{s}"] for s in ("mean", "std")]
    np.testing.assert_allclose(found, theirs, rtol=1e-9)


@pytest.mark.parametrize("name", NAMED)
def test_precision_and_recall_are_those_of_torch_fidelity(g: Any, golden: Any, name: str) -> None:
    a, b = g.cases()[name]
    theirs = [golden[name][s] for s in ("precision", "recall")]
    np.testing.assert_allclose(precision_recall(a, b), theirs, rtol=1e-6)


@pytest.mark.parametrize("name", NAMED)
def test_density_and_coverage_are_those_of_prdc(g: Any, golden: Any, name: str) -> None:
    a, b = g.cases()[name]
    theirs = [golden[name]["prdc"][s] for s in ("density", "coverage")]
    np.testing.assert_allclose(density_coverage(a, b), theirs, rtol=1e-12)


def test_the_score_is_that_of_torch_fidelity(g: Any, golden: Any) -> None:
    found = inception_score(g.logits(), splits=g.SPLITS)
    theirs = [golden["score"][f"inception_score_{s}"] for s in ("mean", "std")]
    np.testing.assert_allclose(found, theirs, rtol=1e-12)


# --- moments ------------------------------------------------------------------------------------


def drawn(n: int, d: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(n, d)) @ draw.normal(size=(d, d))


@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_batches_add_up_to_the_whole(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "BLOCK", 32)
    x = drawn(101, 5) + 1e6  # a mean that would eat all digits of a plain sum of squares
    stream = Streaming(5)
    for i in range(0, len(x), batch):
        stream.add(x[i : i + batch])
    found = stream.moments()
    assert found.n == 101
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.cov, np.cov(x, rowvar=False), rtol=1e-8)
    # Asking changes nothing, and more can be added.
    stream.add(x[:50])
    both = np.concatenate([x, x[:50]])
    np.testing.assert_allclose(stream.moments().cov, np.cov(both, rowvar=False), rtol=1e-8)


@pytest.mark.parametrize("cut", [0, 1, 30, 101])
def test_merged_streams_are_one(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "BLOCK", 16)
    x = drawn(101, 5)
    x[30:] += 3
    one, other = Streaming(5), Streaming(5)
    one.add(x[:cut])
    other.add(x[cut:])
    one.merge(other)
    found = one.moments()
    np.testing.assert_allclose(found.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.cov, np.cov(x, rowvar=False), rtol=1e-12, atol=1e-12)


def test_float32_features_are_added_in_float64() -> None:
    x = (1000 + drawn(5000, 3)).astype(np.float32)
    found = moments.moments(x)
    twin = np.cov(x.astype(np.float64), rowvar=False)
    np.testing.assert_allclose(found.cov, twin, rtol=1e-10)
    assert found.cov.dtype == found.mean.dtype == np.float64


def test_memory_does_not_grow_with_the_number() -> None:
    def peak(batches: int) -> int:
        x = np.ones((500, 64), np.float32)
        tracemalloc.start()
        stream = Streaming(64)
        for _ in range(batches):
            stream.add(x)
        stream.moments()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(200) < 1.1 * peak(10)


# --- closed forms -------------------------------------------------------------------------------


def test_frechet_of_known_gaussians() -> None:
    eye, zero = np.eye(3), np.zeros(3)
    one = Moments(9, zero, eye)
    assert distance(one, one) == pytest.approx(0, abs=1e-12)
    assert distance(one, Moments(9, zero + 2.0, eye)) == pytest.approx(12)
    # Commuting covariances: the sum of (sigma_a - sigma_b)^2.
    wide = Moments(9, zero, np.diag([4.0, 9.0, 0.0]))
    assert distance(one, wide) == pytest.approx(1 + 4 + 1)
    # Of one dimension each, along (1, 1) and (1, 0): tr sqrt is |u.v| = 1.
    a, b = np.outer([1, 1], [1, 1]), np.outer([1, 0], [1, 0])
    found = distance(Moments(9, zero[:2], a * 1.0), Moments(9, zero[:2], b * 1.0))
    assert found == pytest.approx(2 + 1 - 2)


def test_frechet_of_singular_covariances_is_exact() -> None:
    x = drawn(10, 200)  # 10 samples of 200 features
    same = distance(moments.moments(x), moments.moments(x[::-1].copy()))
    assert abs(same) < 1e-9 * np.trace(moments.moments(x).cov)
    constant = Moments(10, np.ones(200), np.zeros((200, 200)))
    assert distance(constant, constant) == 0
    trace = np.trace(moments.moments(x - x.mean(0)).cov)
    assert distance(moments.moments(x - x.mean(0)), constant) == pytest.approx(trace + 200)


def test_the_extrapolated_distance_has_less_bias() -> None:
    draw = np.random.default_rng(0)
    truth = Moments(10**9, np.zeros(20), np.eye(20))
    x = draw.normal(size=(4000, 20))
    plain, far = distance(moments.moments(x), truth), infinity(x, truth)
    assert plain > 0.02  # the bias of 4,000 samples
    assert abs(far) < 0.25 * plain
    assert far == infinity(x, truth)  # no draw that isn't seeded


def test_the_extrapolation_is_a_line_in_one_over_n(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frechet, "distance", lambda a, b, root_b: 5.0 + 300.0 / a.n)
    assert infinity(drawn(100, 2), moments.moments(drawn(9, 2))) == pytest.approx(5)


def test_kernel_by_hand() -> None:
    x, y = np.array([[1.0], [0.0]]), np.array([[2.0], [0.0]])
    # k(1, 0) = 1 twice in each set; across: k(1, 2) = 27 and three ones.
    found = kernel_distance(x, y, subsets=3, size=2)
    assert found == pytest.approx((1 + 1 - 2 * 30 / 4, 0))


def test_score_by_hand() -> None:
    sure = np.eye(4).repeat(5, 0) * 1e3  # each class five times, without a doubt
    assert inception_score(sure, splits=1) == pytest.approx((4, 0))
    assert inception_score(np.zeros((20, 4)), splits=2) == pytest.approx((1, 0))
    assert inception_score(sure[:5], splits=1).mean == pytest.approx(1)  # one class alone


# --- balls --------------------------------------------------------------------------------------


def brute(x: np.ndarray, y: np.ndarray, k: int) -> dict[str, float]:
    """Everything at once, by the definitions; in float64."""

    def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    reach_x, reach_y = (np.sort(apart(z, z), 1)[:, k] for z in (x, y))
    far = apart(x, y)
    return {
        "precision": (far <= reach_y[None]).any(1).mean(),
        "recall": (far <= reach_x[:, None]).any(0).mean(),
        "density": (far < reach_y[None]).sum() / (k * len(x)),
        "coverage": (far < reach_y[None]).any(0).mean(),
    }


@pytest.mark.parametrize("block", [5, 16, 1024])
@pytest.mark.parametrize("k", [1, 4])
def test_blocks_of_distances_give_what_all_at_once_give(
    block: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifold, "BLOCK", block)
    x, y = 100 + drawn(43, 3), 100 + 0.8 * drawn(31, 3, seed=1)
    found = {**precision_recall(x, y, k=k)._asdict(), **density_coverage(x, y, k=k)._asdict()}
    twin = brute(x, y, k)
    assert found == pytest.approx(twin)
    assert 0 < twin["precision"] < 1 and 0 < twin["recall"] < 1


def test_a_point_on_the_border_and_one_on_itself() -> None:
    y = np.array([[0.0], [2.0], [10.0]])  # reach 2, 2, 8
    # 4 lies on the border of the second ball and inside the third.
    assert radii(y, k=1).tolist() == [4, 4, 64]
    on = np.array([[-2.0], [-2.0]])  # on the first border alone
    assert precision_recall(on, y, k=1).precision == 1
    assert density_coverage(on, y, k=1) == (0, 0)
    # A collapsed generator has balls of no extent, and still is precise where it stands.
    collapsed = np.full((9, 1), 2.0) + 0.0
    assert precision_recall(collapsed, y, k=1) == (1, pytest.approx(1 / 3))
    assert precision_recall(collapsed + 1e-3, y, k=1).recall == 0


def test_equal_features_are_at_distance_zero_however_they_round() -> None:
    x = np.repeat(1e3 + drawn(5, 700), 8, 0).astype(np.float32)
    assert (radii(x, k=7) == 0).all()
    assert (radii(x, k=8) > 0).all()


# --- likeness -----------------------------------------------------------------------------------


def test_msssim_of_equal_of_inverted_and_of_shifted_images() -> None:
    x = np.random.default_rng(0).uniform(size=(3, 32, 44, 2))
    np.testing.assert_allclose(msssim.msssim(x, x), 1, rtol=1e-12)
    noisy = np.clip(x + 0.1 * np.random.default_rng(1).normal(size=x.shape), 0, 1)
    near, far = msssim.msssim(x, noisy), msssim.msssim(x, 1 - x)
    assert ((near > 0.5) & (near < 1)).all()
    assert (far == 0).all()
    np.testing.assert_allclose(msssim.msssim(noisy, x), near, rtol=1e-12)
    # Flat images: no structure, the luminance of the coarsest scale alone.
    flat = msssim.msssim(np.full((1, 16, 16, 1), 0.5), np.full((1, 16, 16, 1), 0.25))
    assert flat == pytest.approx((2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4))


def test_one_scale_is_the_window_pixel_by_pixel() -> None:
    a, b = np.random.default_rng(0).uniform(size=(2, 1, 13, 12, 1))
    window = np.exp(-((np.arange(11) - 5) ** 2) / 4.5)
    window = np.outer(window, window) / window.sum() ** 2
    found = []
    for i in range(3):
        for j in range(2):
            p, q = a[0, i : i + 11, j : j + 11, 0], b[0, i : i + 11, j : j + 11, 0]
            m, n = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
            cov = (window * (p - m) * (q - n)).sum()
            light = (2 * m * n + 1e-4) / (m * m + n * n + 1e-4)
            found.append(light * (2 * cov + 9e-4) / (vp + vq + 9e-4))
    assert (
        msssim.scales(13, 12) == 1 and msssim.scales(22, 30) == 2 and msssim.scales(999, 176) == 5
    )
    np.testing.assert_allclose(msssim.msssim(a, b), max(np.mean(found), 0), rtol=1e-12)


def test_likeness_is_measured_within_a_class() -> None:
    draw = np.random.default_rng(0)
    first, second = draw.uniform(size=(2, 1, 16, 16, 1))
    x = np.concatenate([first.repeat(4, 0), second.repeat(4, 0)])
    label = np.array([0] * 4 + [1] * 4)
    assert msssim.within_class(x, label, pairs=20) == pytest.approx(1)
    assert msssim.within_class(x, label % 1, pairs=60) < 0.9
    assert msssim.within_class(x[:5], label[:5], pairs=20) == pytest.approx(1)  # one is left out


# --- modes --------------------------------------------------------------------------------------


def test_modes_by_hand() -> None:
    centers = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    x = np.array([[0.0, 0.29], [0.0, 0.31], [0.0, 0.0], [1.0, 0.1], [0.4, 0.9], [0.1, 0.0]])
    # (0, .31) and (.4, .9) are too far from any; the latter is nearest to the third.
    found = gaussian_modes(x, centers, 0.1)
    share = np.array([4, 1, 1]) / 6
    kl = (share * np.log(share * 4)).sum()
    assert found == pytest.approx((2, 2, 4 / 6, kl))
    assert counted_modes(np.array([0, 0, 5]), 6)[:3] == (2, 2, None)
    # A mode is covered by a fifth of its even share: here of 50, so 10 samples are just enough.
    for rare, covered in ((9, 1), (10, 2)):
        mode = np.repeat([0, 1], [100 - rare, rare])
        assert counted_modes(mode, 2)[:2] == (2, covered)
    # Two of these are not good, which leaves too few.
    x = np.repeat(centers[:2], [90, 10], 0)
    x[-2:] += 0.4
    assert gaussian_modes(x, centers[:2], 0.1)[:2] == (2, 1)
    assert reverse_kl(np.arange(7), 7) == pytest.approx(0)
    assert reverse_kl(np.zeros(7, int), 7) == pytest.approx(np.log(7))


def test_real_data_have_the_figures_of_the_table() -> None:
    angle = np.arange(8) * np.pi / 4
    centers = np.stack([np.cos(angle), np.sin(angle)], 1)
    draw = np.random.default_rng(0)
    x = centers[draw.integers(0, 8, 250_000)] + 0.01 * draw.normal(size=(250_000, 2))
    found = gaussian_modes(x, centers, 0.01)
    assert found.found == found.covered == 8
    noise = gaussian_modes(draw.uniform(-1.1, 1.1, (2500, 2)), centers, 0.01)
    assert noise.found > noise.covered == 0
    assert found.quality == pytest.approx(1 - np.exp(-4.5), abs=2e-3)  # .9889
    few = [
        gaussian_modes(x[i : i + 2500], centers, 0.01).reverse_kl for i in range(0, 250_000, 2500)
    ]
    assert np.mean(few) == pytest.approx(0.0014, abs=3e-4)


# --- all from one pass --------------------------------------------------------------------------


def extractor(calls: list[int]) -> Extractor:
    def extract(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(x))
        flat = x.reshape(len(x), -1)
        return flat[:, ::40].astype(np.float32), flat[:, :5]

    return Extractor("classifier", extract, lambda shape: None, 5, {})


def test_one_pass_serves_all_scores() -> None:
    draw = np.random.default_rng(0)
    x, y = (draw.uniform(-1, 1, (60, 16, 16, 1)).astype(np.float32) for _ in range(2))
    settings = Settings(tuple(NEEDS), kernel_size=30, kernel_subsets=3, msssim_pairs=9)
    calls: list[int] = []
    seen = []
    for images in (x, y):
        walk = Pass(settings, extractor(calls))
        for i in range(0, 60, 25):
            walk.add(images[i : i + 25])
        seen.append(walk.done())
    assert calls == [25, 25, 10] * 2
    found = all_scores(*seen, NAMES["classifier"], settings)
    assert list(found) == list(settings.outputs(NAMES["classifier"]))
    assert not [name for name in found if "fid" in name or "kid" in name or "inception" in name]
    a, b = (z.reshape(60, -1)[:, ::40] for z in (x, y))
    assert found["cfd"] == pytest.approx(distance(moments.moments(a), moments.moments(b)))
    assert found["ckd"] == pytest.approx(kernel_distance(a, b, subsets=3, size=30).mean)
    assert found["recall"] == precision_recall(a, b).recall
    assert found["coverage"] == density_coverage(a, b).coverage
    assert found["cfd_infinity"] != found["cfd"]
    # What no score needs is not kept.
    walk = Pass(Settings(("frechet",)), extractor([]))
    walk.add(x)
    assert walk.done()[2:] == (None, None, None)


def test_levels_of_a_picture() -> None:
    levels = np.arange(256)
    assert to_uint8((levels / 127.5 - 1).astype(np.float32)).tolist() == levels.tolist()
    assert to_uint8(np.array([-3.0, 3.0])).tolist() == [0, 255]


# --- bad input ----------------------------------------------------------------------------------

SHAPE = (16, 16, 1)


@pytest.mark.parametrize(
    ("settings", "n", "shape", "words"),
    [
        (Settings(("fid",)), 99, SHAPE, "no score 'fid'; there are"),
        (Settings(("kernal",)), 99, SHAPE, "Did you mean 'kernel'"),
        (Settings(()), 99, SHAPE, "no score asked for"),
        (Settings(("kernel",)), 999, SHAPE, "number=999 images are too few for 'kernel'"),
        (Settings(("precision",)), 3, SHAPE, "too few for 'precision', which needs 4"),
        (Settings(("density",)), 5, SHAPE, "too few for 'density', which needs 6"),
        (Settings(("infinity",)), 19, SHAPE, "too few for 'infinity'"),
        (Settings(("msssim",)), 99, (8, 8, 1), "expected 11 x 11 or more"),
        (Settings(("precision",), precision_k=0), 99, SHAPE, "expected 1 or more each"),
    ],
)
def test_what_would_fail_is_said_before(
    settings: Settings, n: int, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(UserError, match=words) as said:
        check(settings, extractor([]), n, shape)
    assert "\n" not in str(said.value)


def test_an_extractor_without_logits_gives_no_score() -> None:
    blind = extractor([])._replace(classes=0)
    with pytest.raises(UserError, match="'score' needs a classifier"):
        check(Settings(("score",)), blind, 99, SHAPE)


def test_bad_features_and_images() -> None:
    x = np.ones((9, 4))
    with pytest.raises(UserError, match="9 and 9 samples: expected at least one subset, of 2 to 9"):
        kernel_distance(x, x, size=10)
    with pytest.raises(UserError, match="9-th nearest neighbour among 9 samples"):
        precision_recall(x, x, k=9)
    with pytest.raises(UserError, match="expected 1 or more"):
        density_coverage(x[:3], x, k=3)
    with pytest.raises(UserError, match="10 splits of 9 samples"):
        inception_score(x)
    with pytest.raises(UserError, match="expected 20"):
        infinity(x, moments.moments(x))
    with pytest.raises(UserError, match="needs two or more"):
        moments.moments(x[:1])
    with pytest.raises(UserError, match="expected \\[N, 3\\]"):
        Streaming(3).add(x)
    with pytest.raises(UserError, match="between 4 and 3 features"):
        distance(moments.moments(x), moments.moments(x[:, :3]))
    with pytest.raises(UserError, match="no class has two samples"):
        msssim.within_class(np.ones((2, 16, 16, 1)), np.arange(2))
    broken = x.copy()
    broken[3, 2] = np.nan
    with pytest.raises(UserError, match="not finite"):
        moments.moments(broken)
    with pytest.raises(UserError, match="not finite"):
        gaussian_modes(broken, np.ones((2, 4)), 0.1)
    with pytest.raises(UserError, match="expected \\[N, 2\\]"):
        gaussian_modes(x, np.ones((2, 2)), 0.1)
    image = np.full((1, *SHAPE), np.inf, np.float32)
    with pytest.raises(UserError, match="pixels that are not finite"):
        Pass(Settings(("frechet",)), extractor([])).add(image)

"""All scores of a set of images from one pass of its features.

Letters in names: N images judged, M of the real data, D features, V classes of the extractor.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aigc_jax.errors import UserError, nearest
from aigc_jax.metrics import frechet
from aigc_jax.metrics.kernel import kernel_distance
from aigc_jax.metrics.manifold import density_coverage, precision_recall
from aigc_jax.metrics.moments import Moments, Streaming
from aigc_jax.metrics.msssim import scales, within_class
from aigc_jax.metrics.score import inception_score

# What can be asked for, and what it needs: the moments of the features, each feature vector, each
# vector of logits, the images themselves.
NEEDS: dict[str, frozenset[str]] = {
    "frechet": frozenset({"moments"}),
    "infinity": frozenset({"moments", "features"}),
    "kernel": frozenset({"features"}),
    "score": frozenset({"logits"}),
    "precision": frozenset({"features"}),
    "density": frozenset({"features"}),
    "msssim": frozenset({"images", "logits"}),
}


class Names(NamedTuple):
    """What three of the scores are called with an extractor: "fid" belongs to Inception alone."""

    frechet: str
    kernel: str
    score: str


NAMES = {
    "inception": Names("fid", "kid", "inception_score"),
    "classifier": Names("cfd", "ckd", "classifier_score"),
    "run": Names("rfd", "rkd", "run_score"),
}


class Extractor(NamedTuple):
    """What turns images into features.

    Attributes:
      kind: "inception", "classifier" or "run"; the scores are called by it, see NAMES.
      extract: float32 [N, H, W, C] in [-1, 1] -> (features [N, D], logits [N, V] or None), in one
        pass and in memory that does not depend on N.
      check: (H, W, C) -> None; raises UserError for images that it does not take.
      classes: V, or 0 without logits.
      record: all that a score depends on: hash of the weights, layer, resizing. JSON can hold it.
    """

    kind: str
    extract: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    check: Callable[[Sequence[int]], None]
    classes: int
    record: dict[str, Any]

    @property
    def names(self) -> Names:
        """What its scores are called."""
        return NAMES[self.kind]


class Settings(NamedTuple):
    """Which scores, and their own settings. See the functions that compute them."""

    wanted: tuple[str, ...]
    kernel_subsets: int = 100
    kernel_size: int = 1000
    score_splits: int = 10
    precision_k: int = 3
    density_k: int = 5
    infinity_points: int = 15
    msssim_pairs: int = 1000

    def needs(self) -> frozenset[str]:
        """What has to be kept of each image: some of "moments", "features", "logits", "images"."""
        return frozenset().union(*(NEEDS[name] for name in self.wanted))

    def of(self, wanted: str) -> dict[str, int]:
        """The settings that one of the scores depends on."""
        values = self._asdict()
        return {name: values[name] for name in values if name.startswith(f"{wanted}_")}

    def outputs(self, names: Names) -> dict[str, str]:
        """What the wanted scores are called, each with the score that it belongs to."""
        known = {
            "frechet": (names.frechet,),
            "infinity": (f"{names.frechet}_infinity",),
            "kernel": (names.kernel, f"{names.kernel}_std"),
            "score": (names.score, f"{names.score}_std"),
            "precision": ("precision", "recall"),
            "density": ("density", "coverage"),
            "msssim": ("msssim",),
        }
        return {output: wanted for wanted in self.wanted for output in known[wanted]}


class Features(NamedTuple):
    """What one pass over images leaves; an array is None where no score needs it.

    moments: of the features, None without a Fréchet distance. features: [N, D]. logits: [N, V].
    images: uint8 [N, H, W, C].
    """

    n: int
    moments: Moments | None
    features: np.ndarray | None
    logits: np.ndarray | None
    images: np.ndarray | None


def check(settings: Settings, extractor: Extractor, n: int, shape: Sequence[int]) -> None:
    """Says before the run what would fail after it.

    Args:
      n: images on either side. shape: H, W, C.

    Raises:
      UserError: no such score, an extractor without logits for one that needs them, too few
        images for one, or images that the extractor does not take.
    """
    extractor.check(shape)
    if not settings.wanted:
        raise UserError(f"evals: no score asked for; there are: {', '.join(NEEDS)}.")
    for name in settings.wanted:
        if name not in NEEDS:
            raise UserError(
                f"evals: no score '{name}'; there are: {', '.join(NEEDS)}.{nearest(name, NEEDS)}"
            )
        if "logits" in NEEDS[name] and not extractor.classes:
            raise UserError(f"evals: '{name}' needs a classifier; this extractor gives no logits.")
    least = {
        "frechet": 2,
        "infinity": 20,
        "kernel": settings.kernel_size,
        "score": settings.score_splits,
        "precision": settings.precision_k + 1,
        "density": settings.density_k + 1,
        "msssim": 2,
    }
    for name in settings.wanted:
        if n < least[name]:
            raise UserError(
                f"evals: number={n} images are too few for '{name}', which needs {least[name]}."
            )
    if settings.kernel_size < 2 or min(settings[1:]) < 1:
        raise UserError(f"evals: {settings[1:]}: expected 1 or more each, kernel_size 2 or more.")
    if "msssim" in settings.wanted:
        scales(*shape[:2])


class Pass:
    """Goes over images batch by batch and keeps what the scores need of them."""

    def __init__(self, settings: Settings, extractor: Extractor) -> None:
        self._needs, self._extractor = settings.needs(), extractor
        self._stream: Streaming | None = None
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in self._needs - {"moments"}}
        self._n = 0

    def add(self, x_NHWC: np.ndarray) -> None:
        """Takes images in, float32 in [-1, 1].

        Raises:
          UserError: pixels or features that are not finite.
        """
        if not np.isfinite(x_NHWC).all():
            raise UserError("images with pixels that are not finite (NaN or infinite).")
        features, logits = self._extractor.extract(x_NHWC)
        self._n += len(x_NHWC)
        if "moments" in self._needs:
            self._stream = self._stream or Streaming(features.shape[1])
            self._stream.add(features)
        for name, value in (("features", features), ("logits", logits)):
            if name in self._needs and value is not None:
                self._kept[name].append(value)
        if "images" in self._needs:
            self._kept["images"].append(to_uint8(x_NHWC))

    def done(self) -> Features:
        """Returns what all the images left."""
        kept = {name: np.concatenate(rows) for name, rows in self._kept.items() if rows}
        return Features(
            self._n,
            self._stream.moments() if self._stream else None,
            kept.get("features"),
            kept.get("logits"),
            kept.get("images"),
        )


def repeated(one: Features, n: int) -> Features:
    """Returns what n copies of a single image would leave, of whose pass `one` is the result."""

    def rows(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else np.repeat(x[:1], n, axis=0)

    return Features(n, one.moments, rows(one.features), rows(one.logits), rows(one.images))


def all_scores(
    judged: Features, real: Features, names: Names, settings: Settings
) -> dict[str, float]:
    """Returns the wanted scores of one set of images against another.

    Args:
      judged, real: from passes of the same extractor under the same settings.
      names: the extractor's.
    """
    found: dict[str, float] = {}
    for wanted in settings.wanted:
        if wanted == "frechet":
            assert judged.moments and real.moments
            found[names.frechet] = frechet.distance(judged.moments, real.moments)
        elif wanted == "score":
            assert judged.logits is not None
            mean, std = inception_score(judged.logits, splits=settings.score_splits)
            found |= {names.score: mean, f"{names.score}_std": std}
        elif wanted == "msssim":
            assert judged.logits is not None and judged.images is not None
            found["msssim"] = within_class(
                judged.images / 255.0, judged.logits.argmax(1), pairs=settings.msssim_pairs
            )
        else:
            found |= _from_vectors(wanted, judged, real, names, settings)
    return found


def _from_vectors(
    wanted: str, judged: Features, real: Features, names: Names, settings: Settings
) -> dict[str, float]:
    """The scores that need each vector of features."""
    x, y = judged.features, real.features
    assert x is not None and y is not None
    if wanted == "infinity":
        assert real.moments
        far = frechet.infinity(x, real.moments, points=settings.infinity_points)
        return {f"{names.frechet}_infinity": far}
    if wanted == "kernel":
        mean, std = kernel_distance(
            x, y, subsets=settings.kernel_subsets, size=settings.kernel_size
        )
        return {names.kernel: mean, f"{names.kernel}_std": std}
    if wanted == "precision":
        return precision_recall(x, y, k=settings.precision_k)._asdict()
    return density_coverage(x, y, k=settings.density_k)._asdict()


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Rounds values in [-1, 1] to the 256 levels that a picture file has."""
    return np.clip(np.rint((x + 1.0) * 127.5), 0, 255).astype(np.uint8)

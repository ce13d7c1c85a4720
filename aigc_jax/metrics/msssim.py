"""Multi-scale structural similarity, and its mean within a class: how alike the samples are."""

import numpy as np

from aigc_jax.errors import UserError

# Wang, Simoncelli & Bovik 2003, "Multiscale structural similarity for image quality assessment",
# section 3.2: exponents of the scales, the finest first.
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW, SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # times the square of the range, which is 1 here


def scales(height: int, width: int) -> int:
    """Returns how many scales an image has room for: the window must fit into the coarsest.

    Raises:
      UserError: the window does not fit into the image itself.
    """
    if (side := min(height, width)) < WINDOW:
        raise UserError(
            f"MS-SSIM of images of {height} x {width}: expected {WINDOW} x {WINDOW} or more."
        )
    return min(len(EXPONENTS), 1 + int(np.log2(side / WINDOW)))


def msssim(a_BHWC: np.ndarray, b_BHWC: np.ndarray) -> np.ndarray:
    """Returns the similarity of each pair of images, float64 [B], 1 for equal ones.

    The five scales of Wang et al. 2003 where the image has room for them, else the finest of them,
    their exponents scaled to the same sum; each channel by itself, then the mean.

    Args:
      a_BHWC, b_BHWC: values in [0, 1].

    Raises:
      UserError: images smaller than the window.
    """
    count = scales(*a_BHWC.shape[1:3])
    exponents = np.array(EXPONENTS[:count]) / sum(EXPONENTS[:count])
    a, b = a_BHWC.astype(np.float64), b_BHWC.astype(np.float64)
    product = np.ones((a.shape[0], a.shape[3]))
    for i, exponent in enumerate(exponents):
        if i:
            a, b = _halved(a), _halved(b)
        structure, whole = _similarity(a, b)
        # Of the coarsest scale alone, the luminance counts too. A negative correlation has no
        # fractional power: it counts as none.
        product *= np.maximum(whole if i == count - 1 else structure, 0.0) ** exponent
    return product.mean(1)


def within_class(
    x_BHWC: np.ndarray, label_B: np.ndarray, *, pairs: int = 1000, seed: int = 2020
) -> float:
    """Returns the mean similarity of pairs of different samples of one class.

    Higher than real data's own: the generator repeats itself. (Odena et al. 2017,
    arXiv:1610.09585, section 4.2.) Classes count alike; those with fewer than two samples can't.

    Args:
      x_BHWC: values in [0, 1]. label_B: int, each sample's class.
      pairs: drawn in all, divided evenly among the classes.

    Raises:
      UserError: no class has two samples, or images smaller than the window.
    """
    draw = np.random.RandomState(seed)
    places = [np.flatnonzero(label_B == c) for c in np.unique(label_B)]
    places = [p for p in places if len(p) > 1]
    if not places:
        raise UserError("MS-SSIM within class: no class has two samples; take more samples.")
    each, means = max(1, pairs // len(places)), []
    for rows in places:
        first = draw.randint(0, len(rows), each)
        other = (first + draw.randint(1, len(rows), each)) % len(rows)
        values = [
            msssim(x_BHWC[rows[first[i : i + 64]]], x_BHWC[rows[other[i : i + 64]]])
            for i in range(0, each, 64)
        ]
        means.append(np.concatenate(values).mean())
    return float(np.mean(means))


def _halved(x_BHWC: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    b, h, w, c = x_BHWC.shape
    return x_BHWC[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _blurred(x_BHWC: np.ndarray) -> np.ndarray:
    places = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(places**2) / (2.0 * SIGMA**2))
    window /= window.sum()
    view = np.lib.stride_tricks.sliding_window_view
    rows = view(x_BHWC, WINDOW, axis=1) @ window
    return np.asarray(view(rows, WINDOW, axis=2) @ window)


def _similarity(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns contrast times structure, and that times luminance: means over the image, [B, C]."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    var = _blurred(a * a) + _blurred(b * b) - mean_a**2 - mean_b**2
    cov = _blurred(a * b) - mean_a * mean_b
    structure = (2.0 * cov + _C2) / (var + _C2)
    luminance = (2.0 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return structure.mean((1, 2)), (structure * luminance).mean((1, 2))

"""The Fréchet distance between two sets of features, and what it tends to with more samples.

On Inception's features this is FID; on others it has their name.
"""

import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.metrics.moments import Moments, moments


def root(cov: np.ndarray) -> np.ndarray:
    """Returns R with R R^T = cov, float64 [D, rank].

    Directions whose variance is lost in the rounding of the largest are left out, so that a
    singular covariance (fewer samples than features, a feature that never fires) is no special
    case, and no rounding error comes back as its much larger square root.
    """
    values, vectors = np.linalg.eigh(cov)
    kept = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])


def distance(a: Moments, b: Moments, *, root_b: np.ndarray | None = None) -> float:
    """Returns |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((A B)^(1/2)), for covariances A and B.

    (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500, equation 6.) The last trace is the
    sum of the square roots of the eigenvalues of A B. With A = R R^T and B = Q Q^T these roots are
    the singular values of R^T Q: real, never negative, and exact to rounding itself, where an
    eigenvalue that should be zero gives its square root.

    Args:
      root_b: `root(b.cov)` where it is known; half of the time.

    Raises:
      UserError: different numbers of features.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"a Fréchet distance between {len(a.mean)} and {len(b.mean)} features: expected the"
            " features of one extractor."
        )
    product = root(a.cov).T @ (root(b.cov) if root_b is None else root_b)
    shared = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(a.cov) + np.trace(b.cov) - 2.0 * shared)


def infinity(x_ND: np.ndarray, reference: Moments, *, points: int = 15, seed: int = 2020) -> float:
    """Returns the distance that infinitely many samples would have.

    The bias of the distance is linear in 1/N to first order: it is measured on random subsets
    between a tenth of the samples and all of them, evenly spaced in size, and the line in 1/N is
    read off at zero. (Chong & Forsyth 2020, arXiv:1911.07023, section 4.) Only the bias of the
    judged samples is taken out, not that of the reference; and the line is one only where even the
    smallest subset has several times as many samples as features.

    Args:
      x_ND: features of the judged samples. reference: of the real data.
      points: sizes of subset. seed: draws the subsets.

    Raises:
      UserError: fewer than 20 samples, or fewer than two points.
    """
    if len(x_ND) < 20 or points < 2:
        raise UserError(
            f"an extrapolated distance from {len(x_ND)} samples at {points} sizes: expected 20"
            " samples or more, and two sizes or more."
        )
    draw, known = np.random.RandomState(seed), root(reference.cov)
    sizes = np.linspace(len(x_ND) // 10, len(x_ND), points).astype(int)
    values = [
        distance(
            moments(x_ND[draw.choice(len(x_ND), size, replace=False)]), reference, root_b=known
        )
        for size in sizes
    ]
    _, at_zero = np.polyfit(1.0 / sizes, values, 1)
    return float(at_zero)

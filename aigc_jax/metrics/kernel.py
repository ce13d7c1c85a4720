"""The kernel distance between two sets of features; on Inception's features, KID."""

from typing import NamedTuple

import numpy as np

from aigc_jax.errors import UserError


class Kernel(NamedTuple):
    """mean, std: over the subsets."""

    mean: float
    std: float


def kernel_distance(
    x_ND: np.ndarray, y_MD: np.ndarray, *, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> Kernel:
    """Returns the squared maximum mean discrepancy under the kernel (x.y / D + 1)^3.

    Unbiased, so around zero (and below it as often as above) for equal distributions; the mean over
    random subsets of both. (Binkowski et al. 2018, arXiv:1801.01401, section 4.) The draws are
    those of torch-fidelity, whose generator NumPy keeps as it is.

    Args:
      x_ND: features of the judged samples. y_MD: of the real data.
      subsets: how many. size: rows of each, drawn without replacement.

    Raises:
      UserError: fewer rows than a subset has, a subset of fewer than two, or no subset.
    """
    least = min(len(x_ND), len(y_MD))
    if subsets < 1 or not 2 <= size <= least:
        raise UserError(
            f"a kernel distance over {subsets} subsets of {size} from {len(x_ND)} and {len(y_MD)}"
            f" samples: expected at least one subset, of 2 to {least} rows; set kernel_size, or"
            " take more samples."
        )
    draw = np.random.RandomState(seed)
    found = np.empty(subsets)
    for i in range(subsets):
        x = x_ND[draw.choice(len(x_ND), size, replace=False)].astype(np.float64)
        y = y_MD[draw.choice(len(y_MD), size, replace=False)].astype(np.float64)
        within = _off_diagonal(x) + _off_diagonal(y)
        found[i] = within / (size * (size - 1)) - 2.0 * _cubic(x, y).mean()
    return Kernel(float(found.mean()), float(found.std()))


def _cubic(x_ND: np.ndarray, y_MD: np.ndarray) -> np.ndarray:
    one = x_ND @ y_MD.T / x_ND.shape[1] + 1.0
    return one * one * one  # `** 3` takes ten times as long


def _off_diagonal(x_ND: np.ndarray) -> float:
    gram = _cubic(x_ND, x_ND)
    return float(gram.sum() - np.trace(gram))

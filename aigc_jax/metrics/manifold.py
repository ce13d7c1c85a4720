"""Precision, recall, density and coverage: does one set of features lie among the other's balls?

A ball stands around each sample and reaches to its k-th nearest neighbour of the same set. All
distances are gone through in blocks: no [N, M] array is ever whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from aigc_jax.errors import UserError

BLOCK = 1024  # rows of a block of distances: 8 MB


class PrecisionRecall(NamedTuple):
    """precision: share of the judged samples inside a real ball. recall: the other way round."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """density: real balls around a judged sample, over k; above 1 where they lie dense. coverage:
    share of the real balls that hold a judged sample.
    """

    density: float
    coverage: float


def precision_recall(x_ND: np.ndarray, y_MD: np.ndarray, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991, equations 1, 2).

    Args:
      x_ND: features of the judged samples. y_MD: of the real data.
      k: which neighbour a ball reaches to, the sample itself not counted; its border belongs to it.

    Raises:
      UserError: a set with no more than k samples.
    """
    radii_x, radii_y = radii(x_ND, k=k), radii(y_MD, k=k)
    inside_y, inside_x = np.zeros(len(x_ND), bool), np.zeros(len(y_MD), bool)
    for rows, columns, squared in _blocks(x_ND, y_MD):
        inside_y[rows] |= (squared <= radii_y[columns][None]).any(1)
        inside_x[columns] |= (squared <= radii_x[rows][:, None]).any(0)
    return PrecisionRecall(float(inside_y.mean()), float(inside_x.mean()))


def density_coverage(x_ND: np.ndarray, y_MD: np.ndarray, *, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797, equations 4, 6).

    As in the authors' code, a ball's border does not belong to it.

    Args:
      x_ND: features of the judged samples. y_MD: of the real data.
      k: which neighbour a real ball reaches to, the sample itself not counted.

    Raises:
      UserError: a set with no more than k samples.
    """
    _enough(x_ND, k)
    radii_y = radii(y_MD, k=k)
    held, covered = 0, np.zeros(len(y_MD), bool)
    for _, columns, squared in _blocks(x_ND, y_MD):
        within = squared < radii_y[columns][None]
        held += int(within.sum())
        covered[columns] |= within.any(0)
    return DensityCoverage(held / (k * len(x_ND)), float(covered.mean()))


def radii(x_ND: np.ndarray, *, k: int) -> np.ndarray:
    """Returns the squared distance of each sample to its k-th nearest other one, float64 [N].

    Raises:
      UserError: no more than k samples, or k below 1.
    """
    _enough(x_ND, k)
    best = np.full((len(x_ND), k), np.inf)
    for rows, columns, squared in _blocks(x_ND, x_ND):
        if rows.start == columns.start:
            np.fill_diagonal(squared, np.inf)  # not its own neighbour
        nearer = squared if squared.shape[1] <= k else np.partition(squared, k - 1, 1)[:, :k]
        best[rows] = np.partition(np.concatenate([best[rows], nearer], 1), k - 1, 1)[:, :k]
    return best.max(1)


def _enough(x_ND: np.ndarray, k: int) -> None:
    if not 1 <= k < len(x_ND):
        raise UserError(
            f"the {k}-th nearest neighbour among {len(x_ND)} samples: expected 1 or more, and"
            f" {k + 1} samples or more."
        )


def _blocks(x_ND: np.ndarray, y_MD: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yields (rows of x, rows of y, squared distances between them, float64)."""
    # Far from the origin the differences would be lost in the squares.
    center = y_MD.mean(0, dtype=np.float64)[None]
    for i in range(0, len(x_ND), BLOCK):
        x = x_ND[i : i + BLOCK] - center
        square_x = (x * x).sum(1)[:, None]
        for j in range(0, len(y_MD), BLOCK):
            y = y_MD[j : j + BLOCK] - center
            both = square_x + (y * y).sum(1)[None]
            squared = both - 2.0 * (x @ y.T)
            # Equal vectors have distance zero, whatever the products round to: a collapsed
            # generator's balls have no extent.
            squared[squared < 1e-13 * both] = 0.0
            yield slice(i, i + len(x)), slice(j, j + len(y)), squared

"""Mean and covariance of a stream of feature vectors, in float64 and in memory that does not grow.

Letters in names: N vectors, D features of each.
"""

from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dsyrk

from aigc_jax.errors import UserError

BLOCK = 2048  # rows gathered before they are folded in: a product of few rows is all overhead


class Moments(NamedTuple):
    """n: how many vectors. mean: float64 [D]. cov: float64 [D, D], divided by n - 1."""

    n: int
    mean: np.ndarray
    cov: np.ndarray


class Streaming:
    """Adds up feature vectors, batch by batch; two of them can be merged.

    Holds the mean and the sum of the outer products of the deviations from it, so a mean far from
    zero costs no digits: a block's own deviations, and one for the way between the block's mean and
    the mean so far (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance",
    equation 2.1). Memory: two of D x D and of BLOCK x D numbers, whatever N is.

    Args:
      features: D.
    """

    def __init__(self, features: int) -> None:
        self.n = 0
        self._mean = np.zeros(features)
        # The upper triangle of the sum, zeros below; the product adds in place to Fortran's order.
        self._sum = np.zeros((features, features), order="F")
        # One row more than a block: the deviation of the mean is folded in by the same product.
        self._rows = np.empty((BLOCK + 1, features))
        self._waiting = 0

    def add(self, x_ND: np.ndarray) -> None:
        """Takes vectors in.

        Args:
          x_ND: any float type.

        Raises:
          UserError: another number of features, or one that is not finite.
        """
        if x_ND.ndim != 2 or x_ND.shape[1] != len(self._mean):
            raise UserError(
                f"features of shape {list(x_ND.shape)}: expected [N, {len(self._mean)}]."
            )
        start = 0
        while start < len(x_ND):
            taken = min(BLOCK - self._waiting, len(x_ND) - start)
            self._rows[self._waiting : self._waiting + taken] = x_ND[start : start + taken]
            self._waiting += taken
            start += taken
            if self._waiting == BLOCK:
                self._fold()

    def _fold(self) -> None:
        if not self._waiting:
            return
        rows = self._rows[: self._waiting]
        mean = rows.mean(0)
        if not np.isfinite(mean).all():
            self._waiting = 0
            raise UserError(
                "features that are not finite (NaN or infinite): look for broken pixels, or for a"
                " generator that diverged."
            )
        rows -= mean
        self._join(self._waiting, mean, rows=self._waiting)
        self._waiting = 0

    def _join(self, n: int, mean: np.ndarray, *, rows: int) -> None:
        """Adds n vectors with this mean, whose deviations stand in the first so many rows."""
        way, total = mean - self._mean, self.n + n
        self._rows[rows] = way * np.sqrt(self.n * n / total)
        block = self._rows[: rows + 1]
        # block.T is in Fortran's order: added in place, half of the products, no copy.
        dsyrk(1.0, block.T, beta=1.0, c=self._sum, overwrite_c=1)
        self._mean = self._mean + way * (n / total)
        self.n = total

    def merge(self, other: "Streaming") -> None:
        """Adds all that another has seen; the other stays as it is but for its waiting rows."""
        self._fold()
        other._fold()
        if other.n:
            self._join(other.n, other._mean, rows=0)
            self._sum += other._sum

    def moments(self) -> Moments:
        """Returns mean and unbiased covariance of all vectors so far.

        Raises:
          UserError: fewer than two vectors.
        """
        self._fold()
        if self.n < 2:
            raise UserError(f"{self.n} feature vectors: a covariance needs two or more.")
        cov = self._sum + self._sum.T
        np.fill_diagonal(cov, self._sum.diagonal())
        cov /= self.n - 1
        return Moments(self.n, self._mean.copy(), cov)


def moments(x_ND: np.ndarray) -> Moments:
    """Returns mean and unbiased covariance of vectors that are all there."""
    stream = Streaming(x_ND.shape[1])
    stream.add(x_ND)
    return stream.moments()

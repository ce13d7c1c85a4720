"""Which modes of a known mixture a generator reaches, and how evenly."""

from typing import NamedTuple

import numpy as np

from aigc_jax.errors import UserError

COVERED = 0.2  # of a mode's even share


class Modes(NamedTuple):
    """What samples reach.

    Attributes:
      found: modes with at least one (high-quality) sample.
      covered: modes with so many of these as a fifth of an even share of all samples. Noise finds
        most modes of a grid and covers none.
      quality: share of the samples within 3 sigma of their mode, or None where that is not defined.
      reverse_kl: nats.
    """

    found: int
    covered: int
    quality: float | None
    reverse_kl: float


def gaussian_modes(x_ND: np.ndarray, centers_KD: np.ndarray, sigma: float) -> Modes:
    """Judges samples of a mixture of equal round Gaussians.

    A sample belongs to the nearest center; it is of high quality within 3 sigma of it (Srivastava
    et al. 2017, arXiv:1705.07761, section 4.1). A mode is found where it has a high-quality sample;
    the reverse divergence counts all samples (Lin et al. 2018, arXiv:1712.04086, section 4.1).

    Args:
      x_ND: samples. centers_KD: of the modes. sigma: standard deviation in each direction.

    Raises:
      UserError: shapes that do not fit, or a sample that is not finite.
    """
    if x_ND.ndim != 2 or not len(x_ND) or x_ND.shape[1] != centers_KD.shape[1]:
        raise UserError(
            f"samples of shape {list(x_ND.shape)}: expected [N, {centers_KD.shape[1]}], with N of"
            " 1 or more."
        )
    if not np.isfinite(x_ND).all():
        raise UserError("samples that are not finite: the generator has diverged.")
    way = x_ND.astype(np.float64)[:, None] - centers_KD.astype(np.float64)[None]
    squared_NK = (way**2).sum(-1)
    mode_N = squared_NK.argmin(1)
    good_N = squared_NK.min(1) <= (3.0 * sigma) ** 2
    good_K = np.bincount(mode_N[good_N], minlength=len(centers_KD))
    return Modes(
        *_reached(good_K, len(x_ND)), float(good_N.mean()), reverse_kl(mode_N, len(centers_KD))
    )


def counted_modes(mode_N: np.ndarray, count: int) -> Modes:
    """Judges samples whose modes a classifier named.

    Args:
      mode_N: int, in [0, count). count: modes that there are, all equally likely in the data.
    """
    found, covered = _reached(np.bincount(mode_N, minlength=count), len(mode_N))
    return Modes(found, covered, None, reverse_kl(mode_N, count))


def _reached(good_K: np.ndarray, number: int) -> tuple[int, int]:
    """Modes found and modes covered, of the good samples in each; `number`: of all samples."""
    return int((good_K > 0).sum()), int((good_K >= COVERED * number / len(good_K)).sum())


def reverse_kl(mode_N: np.ndarray, count: int) -> float:
    """Returns KL(the samples' shares of the modes || even shares), in nats.

    Even the data's own samples have (count - 1) / (2 N) of it, roughly.
    """
    share = np.bincount(mode_N, minlength=count) / len(mode_N)
    seen = share[share > 0]
    return float((seen * np.log(seen * count)).sum())

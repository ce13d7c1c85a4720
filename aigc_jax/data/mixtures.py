"""Points of a mixture of Gaussians in the plane: the ring and the grid on which modes are counted.

A batch is x float32 [B, 2]; label int32 [B], the mode a point was drawn from; index int32 [B], its
place in its part; mask float32 [B], 1 for a point and 0 for padding. Letter: K = modes.
"""

import hashlib
import json
import math
from typing import Literal

import numpy as np

from aigc_jax.data import order, rows
from aigc_jax.data.base import Batch, Data
from aigc_jax.errors import UserError, nearest

FORMAT = 1  # of the points; a new number for every change of what is drawn
MODES = {"ring": 8, "grid": 25}
SIGMA = {"ring": 0.01, "grid": 0.05}


def make(
    *,
    batch_size: int,
    seed: int,
    mixture: Literal["ring", "grid"] = "ring",
    modes: int | None = None,
    sigma: float | None = None,
    scale: float = 1.0,
    number: int = 100_000,
    held_out: int = 10_000,
    points_seed: int = 0,
) -> Data:
    """Returns batches of points; facts also has `centres`, K pairs (x, y), and `sigma`.

    The sets are those of PacGAN (Lin et al. 2018, section 4.1, after Srivastava et al. 2017):
    each point takes one of the modes at random, all alike, and 100,000 of them are trained on.

    Args:
      batch_size: rows of the global batch, B.
      seed: of the order of training; the points are the same for all seeds.
      mixture: "ring" has its modes on a circle of radius `scale`, the first at (scale, 0); "grid"
        on a square grid around the origin, 2 * `scale` apart.
      modes: K; None is 8 on the ring and 25 on the grid, where it must be a square.
      sigma: standard deviation of each mode in each direction; None is 0.01 on the ring and 0.05 on
        the grid, whatever `scale` is.
      scale: a length, see `mixture`.
      number: points of the training part.
      held_out: points of the validation part, drawn apart.
      points_seed: which points; another number gives another draw of both parts.

    Raises:
      UserError: a setting is out of range.
    """
    if mixture not in MODES:
        raise UserError(
            f"data.mixture is {mixture!r}; expected 'ring' or 'grid'.{nearest(mixture, MODES)}"
        )
    count = MODES[mixture] if modes is None else modes
    width = SIGMA[mixture] if sigma is None else sigma
    for name, value in (("modes", count), ("number", number), ("held_out", held_out)):
        if value < 1:
            raise UserError(f"data.{name} is {value}; expected at least 1.")
    for name, length in (("sigma", width), ("scale", scale)):
        if not 0 < length < math.inf:
            raise UserError(f"data.{name} is {length}; expected a number above 0.")
    centres = centres_of(mixture, count, scale)
    parts = {
        "train": _points(centres, width, number, points_seed, 0),
        "validation": _points(centres, width, held_out, points_seed, 1),
    }
    facts = {
        "unit": "points",
        "shape": (2,),
        "classes": count,
        "class_names": tuple(f"({x:.4g}, {y:.4g})" for x, y in centres),
        "source": f"{mixture} of {count} Gaussians",
        "centres": tuple((float(x), float(y)) for x, y in centres),
        "sigma": float(width),
    }
    identity = [FORMAT, facts["source"], facts["centres"], width, number, held_out, points_seed]
    fingerprint = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    return rows.make_data(parts, facts, fingerprint, batch_size=batch_size, seed=seed)


def centres_of(mixture: str, count: int, scale: float) -> np.ndarray:
    """Returns float64 [K, 2]; raises UserError where a grid of K is no square."""
    if mixture == "ring":
        angles = 2 * np.pi * np.arange(count) / count
        return scale * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    side = math.isqrt(count)
    if side * side != count:
        raise UserError(
            f"data.modes is {count}, no square, as a grid needs; expected {side * side} or "
            f"{(side + 1) ** 2}."
        )
    line = scale * (2.0 * np.arange(side) - (side - 1))
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(count, 2)


def _points(
    centres: np.ndarray, sigma: float, number: int, points_seed: int, part: int
) -> rows.Rows:
    """Draws the points of a part.

    The normal numbers are made here (Box and Muller 1958) of bits that NumPy keeps stable, as it
    does not keep its own normal numbers.
    """
    bits = order.raw_bits(points_seed, rows.POINTS, part, 3 * number).reshape(3, number)
    modes = (bits[0] % np.uint64(len(centres))).astype(np.int32)
    # The upper 53 bits, moved by a half: inside (0, 1), never on its border.
    uniform = ((bits[1:] >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    x = (centres[modes] + sigma * normal).astype(np.float32)

    def at(index: np.ndarray) -> Batch:
        return {"x": x[index], "label": modes[index]}

    return rows.Rows(number, at)

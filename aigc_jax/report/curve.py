"""Makes a curve ready to be drawn: thinning, smoothing, ticks. The data stay untouched."""

import math
from collections.abc import Sequence
from itertools import accumulate


def thin(
    xs: Sequence[float], ys: Sequence[float], buckets: int = 400
) -> tuple[list[float], list[float]]:
    """Keeps of a long curve what the eye can tell apart: each bucket's ends and extremes.

    A peak one point wide is still drawn, which it would not be if every n-th point were taken.

    Args:
      xs: [n], rising.
      ys: [n]; nan and inf are kept, one a bucket, so that the line breaks there.
      buckets: the curve comes out with at most five times as many points.

    Returns:
      The kept xs and ys, in their order; all of them where n is small.
    """
    size = len(xs)
    if size <= 4 * buckets:
        return list(xs), list(ys)
    kept: list[int] = []
    for bucket in range(buckets):
        part = range(bucket * size // buckets, (bucket + 1) * size // buckets)
        finite = [i for i in part if math.isfinite(ys[i])]
        picked = {part[0], part[-1]}
        if len(finite) < len(part):
            picked.add(next(i for i in part if not math.isfinite(ys[i])))
        if finite:
            picked |= {min(finite, key=ys.__getitem__), max(finite, key=ys.__getitem__)}
        kept += sorted(picked)
    return [xs[i] for i in kept], [ys[i] for i in kept]


def smooth(ys: Sequence[float], share: float = 0.04) -> list[float]:
    """Returns means over a window around each point, `share` of the curve wide.

    The window is symmetric, and so narrower near the ends: a falling curve is not drawn late, as
    an exponential average would. Values that are not finite stay and enter no mean.
    """
    half = max(1, round(share * len(ys) / 2))
    finite = [math.isfinite(y) for y in ys]
    sums = [0.0, *accumulate(y if ok else 0.0 for y, ok in zip(ys, finite, strict=True))]
    counts = [0, *accumulate(finite)]
    out = []
    for i, y in enumerate(ys):
        reach = min(half, i, len(ys) - 1 - i)
        first, last = i - reach, i + reach + 1
        out.append((sums[last] - sums[first]) / (counts[last] - counts[first]) if finite[i] else y)
    return out


def quantile(ys: Sequence[float], share: float) -> float:
    """Returns the value that `share` of the finite ones don't exceed; nan if there is none."""
    import numpy as np

    values = np.asarray(ys, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return math.nan
    place = min(finite.size - 1, int(share * finite.size))
    return float(np.partition(finite, place)[place])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns about `count` round numbers (1, 2, 2.5 or 5 times a power of ten) in [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 2.5, 5, 10) if size * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves labels apart: returns positions near the `wanted` ones, at least `gap` from each other.

    Args:
      wanted: where each label would like to be.
      gap: the least distance.
      low: no label goes below it, as long as there is room.
      high: nor above it.
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [wanted[i] for i in order]
    for k in range(len(placed)):
        placed[k] = max(placed[k], low if k == 0 else placed[k - 1] + gap)
    ceiling = high
    for k in reversed(range(len(placed))):
        placed[k] = min(placed[k], ceiling)
        ceiling = placed[k] - gap
    out = [0.0] * len(wanted)
    for k, i in enumerate(order):
        out[i] = placed[k]
    return out

"""Statistics for a Fréchet distance: ours as a stream, against NumPy's covariance of all features.

    python benchmarks/image_statistics.py                    # 50,000 features of 2,048, 5 rounds
    python benchmarks/image_statistics.py --number 20000     # less memory

torch-fidelity 0.4 keeps all features and calls `numpy.mean` and `numpy.cov` on them, in the dtype
they have (float32); `numpy.cov` goes over to float64. That is the other side here. Both sides are
given the features in batches of 500, as an extractor hands them over; each runs in a process of its
own, the two in turns, and the peak of memory is the process's own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BATCH = 500


def batches(number: int, features: int) -> Iterator[np.ndarray]:
    """Features as a ReLU and an average leave them: positive, float32. The same at every call."""
    draw = np.random.default_rng(0)
    some = np.abs(draw.normal(0.4, 0.3, (BATCH, features))).astype(np.float32)
    for i in range(0, number, BATCH):
        # New numbers at no cost that would count: the batch turned around.
        yield np.roll(some, i // BATCH, axis=1)[: number - i]


def streamed(number: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Ours."""
    from aigc_jax.metrics.moments import Streaming

    stream = Streaming(features)
    for x in batches(number, features):
        stream.add(x)
    _, mean, cov = stream.moments()
    return mean, cov


def kept(number: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Theirs."""
    x = np.concatenate(list(batches(number, features)))
    return np.mean(x, axis=0), np.cov(x, rowvar=False)


SIDES = {"ours": streamed, "theirs": kept}


def one(side: str, number: int, features: int) -> None:
    """Runs one side once and prints what it took as a line of JSON."""
    SIDES[side](2 * BATCH, 64)  # imports, threads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    mean, cov = SIDES[side](number, features)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"seconds": seconds, "megabytes": (peak - before) / 1024}
    print(json.dumps(found | {"sums": [float(mean.sum()), float(cov.trace()), float(cov.sum())]}))


def main() -> None:
    """Lets both sides take turns and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=tuple(SIDES))
    told = parser.parse_args()
    if told.side:
        one(told.side, told.number, told.features)
        return
    rows: dict[str, list[dict]] = {side: [] for side in SIDES}
    for _ in range(told.rounds):
        for side in SIDES:
            words = [sys.executable, __file__, f"--side={side}", f"--number={told.number}",
                     f"--features={told.features}"]  # fmt: skip
            said = subprocess.run(words, check=True, capture_output=True, text=True,
                                  cwd=Path(__file__).parent.parent)  # fmt: skip
            rows[side].append(json.loads(said.stdout.splitlines()[-1]))
    np.testing.assert_allclose(rows["ours"][0]["sums"], rows["theirs"][0]["sums"], rtol=1e-5)
    for side, answers in rows.items():
        seconds = statistics.median(row["seconds"] for row in answers)
        memory = statistics.median(row["megabytes"] for row in answers)
        print(f"{side:7} {seconds:7.2f} s {memory:8.0f} MB")
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(*rows.values(), strict=True)]
    print("ours is times as fast:", *(f"{ratio:.2f}" for ratio in sorted(ratios)))


if __name__ == "__main__":
    main()

"""Many seeds as one program against as many processes one after another.

    python benchmarks/seeds.py --recipe=configs/gan/grid.py --seeds=10 --steps=2000

Whole commands, from start to end: Python, imports, compiling, data, steps, evaluations, saves. Both
have the same settings and a warm compilation cache (each is run once before, briefly). The sweep is
timed before and after the processes; prints its two times, theirs, and the ratios.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time


def timed(*words: str, cache: str) -> float:
    """Seconds of one `aigc WORDS...`."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "aigc_jax.cli.main", *words], check=True,
        stdout=subprocess.DEVNULL, env={**os.environ, "XDG_CACHE_HOME": cache},
    )  # fmt: skip
    return time.perf_counter() - begin


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="configs/gan/grid.py")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        cache = f"{folder}/cache"

        def settings(steps: int) -> list[str]:
            return [args.recipe, f"--config.run.steps={steps}", "--config.run.tensorboard=False"]

        def sweep(name: str, steps: int) -> float:
            where = f"--workdir={folder}/{name}"
            return timed("sweep", *settings(steps), f"--seeds={args.seeds}", where, cache=cache)

        def alone(name: str, steps: int, seed: int) -> float:
            own = [f"--config.run.seed={seed}", f"--workdir={folder}/{name}-{seed}"]
            return timed("train", *settings(steps), *own, cache=cache)

        sweep("warm", 10)
        alone("warm-alone", 10, 0)
        before = sweep("before", args.steps)
        each = [alone("alone", args.steps, seed) for seed in range(args.seeds)]
        after = sweep("after", args.steps)
    total = sum(each)
    print(f"{args.recipe}: {args.seeds} seeds, {args.steps} steps, {os.cpu_count()} cores\n")
    print(f"one program: {before:.1f} s and {after:.1f} s")
    print(f"{args.seeds} processes: {total:.1f} s, each {min(each):.1f} to {max(each):.1f} s")
    print(f"ratio: {total / before:.2f} and {total / after:.2f}")


if __name__ == "__main__":
    main()

"""What a trial of the local engine costs beyond its training, against plain `aigc train`.

    python benchmarks/sweep_overhead.py --trials=4 --rounds=3

Whole commands with a warm compilation cache, interleaved: one `aigc train`; a sweep of one trial with
one worker; a sweep of several. Of a sweep's time, what further trials add is a trial's cost, and the
rest is the start of the driver and of its worker. Medians over the rounds.
"""  # noqa: E501

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = """
from ml_collections import ConfigDict

def get_config(arg=None):
    return ConfigDict({{
        "task": {{"name": "lm", "model": {{"name": "transformer", "layers": 2, "heads": 4,
                                           "width": 64}}}},
        "data": {{"name": "text", "path": {text!r}, "context": 64}},
        "hyper": {{"lr": 1e-3, "warmup": 50.0}},
        "evals": {{"validation": {{"name": "mean"}}}},
        "run": {{"steps": {steps}, "batch_size": 12, "eval_every": 250, "tensorboard": False}},
    }})

def get_sweep(h):
    return h.grid("hyper.lr", [1e-3 * (1 + i) for i in range(int(1e6))])
"""


def seconds(folder: Path, command: str, *words: str) -> float:
    """Runs one whole command in a folder of its own."""
    begin = time.perf_counter()
    where = tempfile.mkdtemp(dir=folder)
    subprocess.run(
        [sys.executable, "-m", "aigc_jax.cli.main", command, str(folder / "recipe.py"), *words,
         f"--workdir={where}/run"],
        check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
    )  # fmt: skip
    return time.perf_counter() - begin


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 3000)
        text = RECIPE.format(text=str(folder / "text.txt"), steps=args.steps)
        (folder / "recipe.py").write_text(text)
        ways = {
            "plain": lambda: seconds(folder, "train"),
            "one": lambda: seconds(folder, "sweep", "--engine=local", "--trials=1"),
            "all": lambda: seconds(folder, "sweep", "--engine=local", f"--trials={args.trials}"),
        }
        ways["plain"]()  # fills the cache
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(args.rounds):
            for way, run in ways.items():
                found[way].append(run())
    plain, one, several = (statistics.median(found[way]) for way in ("plain", "one", "all"))
    each = (several - one) / (args.trials - 1)
    rows = [
        ("aigc train", plain),
        ("aigc sweep, one trial", one),
        (f"aigc sweep, {args.trials} trials", several),
        ("a sweep's start (its driver, its worker)", one - plain),
        ("each further trial", each),
        ("  beyond aigc train", each - plain),
        (f"overhead a trial, of {args.trials}", several / args.trials - plain),
    ]
    for label, value in rows:
        print(f"{label:45} {value:7.2f} s")


if __name__ == "__main__":
    main()

"""The table and the page of a sweep of 1,000 finished trials: how long do they take?

    python benchmarks/sweep_report.py --trials=1000

Makes run folders as `aigc train` leaves them, with made-up scores: 200 configurations of the
recipe with five seeds each, 20 evaluations and 100 rows of training. Times the whole command
`aigc sweep-report`, from start to end, three times.
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aigc_jax.core import config
from aigc_jax.sweep import plans


def make(root: Path, recipe: str, trials: int) -> None:
    """Makes the run folders."""
    draw = random.Random(0)
    points = []
    for _ in range(math.ceil(trials / 5)):
        point = {
            "hyper.lr": 10 ** draw.uniform(-4, -1),
            "hyper.weight_decay": draw.choice([0.0, 0.1]),
            "task.model.layers": draw.choice([2, 4, 6]),
        }
        points += [{**point, "run.seed": seed} for seed in range(5)]
    planned = plans.plan(recipe, [], points[:trials], root)
    root.mkdir(parents=True, exist_ok=True)
    said = {"recipe": recipe, "overrides": [], "space": {}, "metric": "validation/loss",
            "direction": "minimize"}  # fmt: skip
    (root / "sweep.json").write_text(json.dumps(said))
    for trial in planned:
        trial.workdir.mkdir()
        rate, depth = trial.point["hyper.lr"], trial.point["task.model.layers"]
        end = 1.7 + 0.15 * (math.log10(rate) + 2.7) ** 2 + 0.2 / depth + draw.gauss(0, 0.02)
        rows = []
        for step in range(20, 2001, 20):
            loss = end + 2.4 * math.exp(-6 * step / 2000) + draw.gauss(0, 0.03)
            row = {"step": step, "wall": step / 80, "train/loss": loss, "train/lr": rate,
                   "train/grad_norm": 0.8, "train/bad": 0.0, "speed/tokens_per_s": 64000.0,
                   "time/data": 0.001, "time/wait": 0.009, "time/step": 0.01}  # fmt: skip
            rows.append(row)
            if step % 100 == 0:
                more = {"validation/loss": loss, "validation/bits_per_byte": loss / math.log(2)}
                rows.append({"step": step, "wall": step / 80, **more})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (trial.workdir / "metrics.jsonl").write_text(text)
        (trial.workdir / "config.json").write_text(config.to_json(trial.config))
        status = {"state": "finished", "reason": "", "step": 2000, "steps": 2000, "wall": 25.0,
                  "command": trial.command.split()}  # fmt: skip
        (trial.workdir / "status.json").write_text(json.dumps(status))
        (trial.workdir / "data.json").write_text(json.dumps({"fingerprint": "f" * 64}))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="configs/lm/shakespeare_char.py")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="to keep the sweep in")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        root = args.folder or Path(folder) / "sweep"
        make(root, args.recipe, args.trials)
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            words = [sys.executable, "-m", "aigc_jax.cli.main", "sweep-report", str(root)]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - begin)
        sizes = {p.name: p.stat().st_size for p in root.iterdir() if p.is_file()}
    print(f"{args.trials} trials: {', '.join(f'{t:.1f} s' for t in times)}")
    print(", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sorted(sizes.items())))


if __name__ == "__main__":
    main()

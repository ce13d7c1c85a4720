"""Do auxiliary networks keep a GAN from collapse? Ring and grid, each variant with ten seeds.

    python experiments/mode_collapse.py --folder=runs/mode_collapse > table.md

Every variant of `configs/gan/ring.py` and `grid.py` is one `aigc sweep --seeds=N`, one compiled
program for all seeds. What is there already is not run again, so the command may be stopped and
repeated. Differences are taken seed by seed against the plain GAN and against packing two (PacGAN),
which costs nothing; intervals are 95 %, Student's t over the seeds. A claim is printed as "fewer
modes lost" only where the interval of the difference lies above 0.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

VARIANTS = ("plain", "encoder", "info", "feature_matching", "packing2", "packing4", "unrolled",
            "r3gan")  # fmt: skip
METRICS = ("modes/found", "modes/quality", "modes/reverse_kl")
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
T95 = {1: 12.706, 2: 4.303, 4: 2.776, 7: 2.365, 9: 2.262, 19: 2.093}


def last(run: Path, steps: int) -> dict[str, float] | None:
    """The counts of modes at the end of a run, or None."""
    try:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    except OSError:
        return None
    found = [row for row in rows if row.get("step") == steps and METRICS[0] in row]
    return {name: float(found[-1][name]) for name in METRICS} if found else None


def interval(values: list[float]) -> tuple[float, float]:
    """The mean and half of its 95 % interval."""
    if len(values) < 2:
        return values[0], float("inf")
    half = T95[len(values) - 1] * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), half


def shown(values: list[float], digits: int) -> str:
    """Mean and half interval, as in a table."""
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def verdict(values: list[float]) -> str:
    """What a difference in modes found says."""
    mean, half = interval(values)
    word = "more" if mean - half > 0 else "fewer" if mean + half < 0 else "no difference shown"
    return f"{mean:+.1f} ± {half:.1f}: {word}"


def main() -> None:
    """Runs what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/mode_collapse"))
    parser.add_argument("--seeds", type=int, default=10, choices=[n + 1 for n in T95])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--mixtures", nargs="*", default=["ring", "grid"])
    parser.add_argument("--only", nargs="*", default=list(VARIANTS))
    args = parser.parse_args()

    for mixture in args.mixtures:
        results: dict[str, list[dict[str, float]]] = {}
        for variant in args.only:
            folder = args.folder / f"{mixture}_{variant}"
            runs = [folder / f"seed_{seed}" for seed in range(args.seeds)]
            if any(last(run, args.steps) is None for run in runs):
                command = [
                    sys.executable, "-m", "aigc_jax.cli.main", "sweep",
                    f"configs/gan/{mixture}.py:{variant}", f"--seeds={args.seeds}",
                    f"--workdir={folder}", f"--config.run.steps={args.steps}",
                    "--config.run.tensorboard=False",
                ]  # fmt: skip
                subprocess.run(command, check=True, stdout=sys.stderr)
            found = [last(run, args.steps) for run in runs]
            results[variant] = [row for row in found if row is not None]
            floors = json.loads((runs[0] / "floors.json").read_text())
        table(mixture, results, floors, args)


def table(mixture: str, results: dict, floors: dict, args: argparse.Namespace) -> None:
    """Prints one mixture's rows."""
    print(f"\n## {mixture}: {args.seeds} seeds, {args.steps} steps\n")
    print(
        "| | modes found | high quality % | reverse KL | modes against plain | against packing2 |"
    )
    print("|---|---|---|---|---|---|")
    for label in next(iter(floors.values())):
        cells = [floors[name][label] for name in METRICS]
        print(f"| {label} | {cells[0]:.0f} | {100 * cells[1]:.1f} | {cells[2]:.4f} | | |")
    for variant, rows in results.items():
        columns = {name: [row[name] for row in rows] for name in METRICS}
        against = []
        for other in ("plain", "packing2"):
            if other not in results or other == variant:
                against.append("")
                continue
            pairs = zip(rows, results[other], strict=True)
            against.append(verdict([a[METRICS[0]] - b[METRICS[0]] for a, b in pairs]))
        quality = [100 * value for value in columns["modes/quality"]]
        print(
            f"| {variant} | {shown(columns['modes/found'], 1)} | {shown(quality, 1)} |"
            f" {shown(columns['modes/reverse_kl'], 3)} | {against[0]} | {against[1]} |"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()

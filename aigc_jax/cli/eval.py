"""`aigc eval RUN`: the exact scores of a checkpoint."""

import argparse
import json
from pathlib import Path
from typing import Any

from aigc_jax.cli import wire


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("eval", help="score a run's checkpoint over whole splits")
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument("--split", action="append", help="of the data; may be given again")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates."""
    from aigc_jax.train import evaluation
    from aigc_jax.train.signals import Signals

    done = wire.trained(args.run_folder, args.step)
    from aigc_jax.evals import mean

    built = done.parts
    with Signals() as signals:
        context = evaluation.context(built.task, built.data, built.placement, signals)
        row: dict[str, float] = {}
        for split in args.split or ["validation"]:
            row |= mean.make(context, split=split)(done.weights, done.step)
    if args.json:
        print(json.dumps({"run": str(args.run_folder), "step": done.step, **row}))
        return 0
    floors = built.data.spec.facts.get("floors", {})
    print(f"{args.run_folder} at step {done.step}")
    for name, value in row.items():
        print(f"  {name:32} {value:.5f}")
    for name, value in floors.items():
        print(f"  {'validation/loss of ' + name:32} {value:.5f}")
    return 0

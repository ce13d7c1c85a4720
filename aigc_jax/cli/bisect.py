"""`aigc bisect RUN RUN`: the first step and the first tensor at which two runs part."""

import argparse
import json
from pathlib import Path
from typing import Any

DIFFERS = 5


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "bisect",
        help="the first step and the first tensor at which two runs part",
        description="Exact where both ran with --config.run.fingerprint=true; otherwise as far as"
        " metrics and checkpoints tell. Exit codes: 0 no difference; 5 they part.",
    )
    for name in ("a", "b"):
        parser.add_argument(name, metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares two runs."""
    from aigc_jax.report.bisect import as_json, as_text, bisect
    from aigc_jax.report.folder import Run

    def checkpoint(step: int) -> str | None:
        from aigc_jax.cli import wire

        wire.start_jax()
        from aigc_jax.train.fingerprint import difference

        return difference(args.a / "checkpoints", args.b / "checkpoints", step)

    verdict = bisect(Run(args.a), Run(args.b), checkpoint)
    print(json.dumps(as_json(verdict)) if args.json else as_text(verdict))
    return 0 if verdict.same else DIFFERS

"""`aigc fingerprint RUN`: the hashes that a run wrote down, and those of its checkpoints."""

import argparse
import json
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "fingerprint",
        help="hashes of what went into each step, and of checkpoints",
        description="A run writes them with --config.run.fingerprint=true (or an interval in"
        " steps); a checkpoint has them always. `aigc bisect` compares two runs.",
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--step", type=int, metavar="N", help="every tensor of this step")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints fingerprints."""
    from aigc_jax.cli import wire
    from aigc_jax.errors import UserError
    from aigc_jax.report import prints
    from aigc_jax.report.folder import Run

    found = Run(args.run_folder)
    written = prints.read(found.path)
    saved = [s for s in found.checkpoints if args.step in (None, s)]
    if args.step is None and not written.rows and not saved:
        raise UserError(f"{found.path} has neither fingerprints nor checkpoints.")
    if args.step is not None and args.step not in written.rows and not saved:
        span = f"steps {min(written.rows)} to {max(written.rows)}" if written.rows else "no step"
        raise UserError(
            f"{found.path} has nothing of step {args.step}: fingerprints of {span}, checkpoints of"
            f" {', '.join(map(str, found.checkpoints)) or 'no step'}."
        )
    states: dict[int, dict[str, str]] = {}
    if saved:
        wire.start_jax()
        from aigc_jax.train.fingerprint import of_checkpoint

        states = {step: of_checkpoint(found.path / "checkpoints", step) for step in saved}
    if args.json:
        steps = [args.step] if args.step is not None else sorted(written.rows)
        rows = {step: written.row(step) for step in steps if step in written.rows}
        print(json.dumps({"steps": rows, "checkpoints": states}))
    elif args.step is None:
        print(prints.overview(written, states))
    else:
        print(prints.one_step(written, states.get(args.step, {}), args.step))
    return 0

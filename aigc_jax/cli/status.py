"""`aigc status RUN`: what happened to a run, and what to type next."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "status",
        help="what happened to a run, and what to type next",
        description="Says how a run is doing and what to type next. For a folder that holds runs, "
        "lists them.",
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="a run folder, or one of runs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the state of one run, or a table of all runs in a folder."""
    from aigc_jax.report.folder import Run, find_runs
    from aigc_jax.report.status import describe, overview

    found = find_runs(args.path)
    if not found or found == [args.path]:
        print(describe(Run(args.path)))
    else:
        print(overview([Run(path) for path in found]))
    return 0

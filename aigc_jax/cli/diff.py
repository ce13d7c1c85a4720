"""`aigc diff A B`: the settings in which two runs or two recipes differ."""

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "diff",
        help="the settings in which two runs or recipes differ",
        description="Compares two configurations, defaults included, and prints what differs.",
    )
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar=name.upper(), help="a run folder, a config.json, or a recipe.py[:ARG]"
        )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the differing settings."""
    from aigc_jax.report.compare import diff_text

    print(diff_text(args.a, args.b))
    return 0

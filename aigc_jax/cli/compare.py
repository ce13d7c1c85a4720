"""`aigc compare RUN...`: the scores of several runs, and the settings that differ."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "compare",
        help="scores of several runs, and what differs between them",
        description="Sets runs beside each other: final and best metrics, training time, and the "
        "settings that differ. A folder that holds runs stands for all of them.",
    )
    parser.add_argument("paths", metavar="RUN", type=Path, nargs="+", help="run folders")
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help='such as "validation/loss"; may be given several times',
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison."""
    import json

    from aigc_jax.report.compare import as_text, compare, plain
    from aigc_jax.report.folder import Run, find_runs

    paths = [path for given in args.paths for path in find_runs(given) or [given]]
    result = compare([Run(path) for path in dict.fromkeys(paths)], args.metric)
    print(json.dumps(plain(result), indent=2, allow_nan=False) if args.json else as_text(result))
    return 0

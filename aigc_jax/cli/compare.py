"""`aigc compare PATH...`: the scores of runs or sweeps, and the settings that differ."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "compare",
        help="scores of several runs or sweeps, what differs, and which is better over seeds",
        description="Sets runs beside each other: final and best metrics, training time, and the "
        "settings that differ. A folder that holds runs stands for all of them. Runs that differ "
        "only in their seed are one configuration: its mean with a 95 % interval, and whether one "
        "configuration is better than another: yes, no, or how many seeds would tell.",
    )
    parser.add_argument(
        "paths", metavar="PATH", type=Path, nargs="+", help="run folders, or folders of runs"
    )
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

    sources: dict[Path, str] = {}
    for given in args.paths:
        found = find_runs(given)
        for path in found or [given]:
            sources.setdefault(path, "" if found in ([], [given]) else str(given))
    runs = [Run(path, lenient=True) for path in sources]
    result = compare(runs, args.metric, list(sources.values()))
    print(json.dumps(plain(result), indent=2, allow_nan=False) if args.json else as_text(result))
    return 0

"""`aigc sweep-report ROOT`: the trials of a sweep as a table, as files, and as one HTML page."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "sweep-report",
        help="the trials of a sweep: a table, results.csv and .parquet, and one HTML page",
        description="Reads the run folders in a sweep folder, finished or not. Prints the trials, "
        "the best first; writes ROOT/results.csv, ROOT/results.parquet and one HTML page: the best "
        "configurations with their commands, curves, settings against the score, what matters.",
    )
    parser.add_argument("root", metavar="ROOT", type=Path, help="a folder of runs")
    parser.add_argument("--metric", help="to rank by (default: the sweep's own)")
    parser.add_argument("--out", type=Path, help="where to write the page (ROOT/report.html)")
    parser.add_argument("--rows", type=int, default=30, help="printed at most (default: 30)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table, writes the files, and prints where the page is."""
    from aigc_jax.errors import UserError
    from aigc_jax.sweep import page, results
    from aigc_jax.train.storage import write_atomic

    out = args.out or args.root / "report.html"
    if args.rows < 1:
        raise UserError(f"--rows={args.rows}: expected 1 or more.")
    if args.out is not None and (out.is_dir() or not out.parent.is_dir()):
        raise UserError(f"--out={out} is no place for a file; give a name in a folder that exists.")
    found = results.read(args.root, args.metric)
    results.write(found)
    write_atomic(out, page.render(found))
    print(page.as_text(found, args.rows))
    print(f"\n{out}")
    return 0

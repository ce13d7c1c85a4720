"""`aigc report RUN`: a run as one HTML file."""

import argparse
from pathlib import Path
from typing import Any


def add(subparsers: Any) -> None:
    """Adds the command to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="a run as one HTML file: curves, samples, configuration",
        description="Writes report.html, which needs no server and no network to be read.",
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("--output", type=Path, help="where to write it (RUN/report.html)")
    parser.add_argument("--picture", type=Path, help="also draw the curve and a sample as a PNG")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the report, and prints where it is."""
    from aigc_jax.errors import UserError
    from aigc_jax.report.folder import Run
    from aigc_jax.report.html import render
    from aigc_jax.train.storage import storage_errors, write_atomic

    found = Run(args.path)
    output = args.output or args.path / "report.html"
    for path in filter(None, (output, args.picture)):
        if path.is_dir() or not path.parent.is_dir():
            raise UserError(f"{path} is no place for a file; give a name in a folder that exists.")
    write_atomic(output, render(found))
    print(output)
    if args.picture:
        from aigc_jax.report.picture import picture

        with storage_errors(args.picture):
            picture(found, args.picture)
        print(args.picture)
    return 0

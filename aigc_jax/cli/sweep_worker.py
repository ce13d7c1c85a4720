"""`aigc sweep-worker ROOT`: one process of a sweep, started by `aigc sweep` and by SLURM."""

import argparse
import os
import threading
from pathlib import Path
from typing import Any

from aigc_jax.cli import train, wire


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "sweep-worker",
        help="one process of a sweep; `aigc sweep` starts it",
        description="Takes trials of a sweep folder until none waits; exit codes as `aigc sweep`.",
    )
    parser.add_argument("root", type=Path, metavar="ROOT", help="the sweep folder")
    parser.add_argument("--cores", default="", help="of the processor, to stay on: 0,1")
    parser.add_argument("--watched", action="store_true", help="stop when stdin closes")
    parser.add_argument("--no-wal", action="store_true", help="the folder is on a network disk")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains trials until none is left."""
    if args.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in args.cores.split(",")})
    from aigc_jax.sweep.worker import Worker

    shelf = wire.Shelf()

    def one(trial: Any, signals: Any, told: Any) -> Any:
        return train.one(
            trial.config, trial.workdir, signals=signals, command=trial.command, told=told,
            parts=shelf.parts,
        )  # fmt: skip

    worker = Worker(args.root, one, wal=not args.no_wal)
    if args.watched:
        # The one who started us holds the other end: it closes when that process dies.
        threading.Thread(target=_watch, args=(worker,), daemon=True).start()
    return worker.run()


def _watch(worker: Any) -> None:
    # Not by sys.stdin: its lock would be held when the process ends.
    while os.read(0, 4096):
        pass
    worker.stop()

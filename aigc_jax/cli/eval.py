"""`aigc eval RUN`: what a checkpoint scores, by the run's evaluators and by any that are typed."""

import argparse
import functools
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.cli import wire
from aigc_jax.core import overrides as override_words
from aigc_jax.errors import UserError, nearest


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "eval",
        help="score a run's checkpoint by its evaluators, or by others",
        description="Runs the evaluators of the run's config on a checkpoint, and any that are"
        " typed: --config.evals.fid.name=image_quality --config.evals.fid.number=5000. The scores"
        " stand between floors and ceilings where these are known, and are appended to"
        " RUN/evals.jsonl; the run's own curves stay as they are, and the run may go on meanwhile.",
    )
    parser.add_argument("run_folder", metavar="RUN", type=Path)
    parser.add_argument("--step", type=int, help="the checkpoint (default: the newest)")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="an evaluator, as the section evals calls it; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--split", action="append", default=[], metavar="SPLIT",
        help="only the exact mean over this part of the data; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.set_defaults(run=run, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Evaluates."""
    _refuse_others(args.overrides)
    exact = [
        f"--config.evals.{split}.{setting}"
        for split in args.split
        for setting in ("name=mean", f"split={split}", "limit=0")
    ]
    cfg = wire.read_config(args.run_folder, [*args.overrides, *exact])
    names = _chosen(cfg["evals"], [*args.only, *args.split], args.run_folder)
    cfg["evals"] = {name: cfg["evals"][name] for name in names}
    done = wire.trained(args.run_folder, args.step, cfg)

    from aigc_jax.data.store import cache_root
    from aigc_jax.report.evals import as_text
    from aigc_jax.report.folder import Evaluation, Run
    from aigc_jax.train import evaluation
    from aigc_jax.train.log import strict
    from aigc_jax.train.scores import Scores
    from aigc_jax.train.signals import Signals

    built = done.parts
    scores = Scores(args.run_folder, cache_root() / "floors", built.data.fingerprint)
    judges = wire.evaluators(
        built,
        Signals(),  # not installed: there is nothing to save, so a signal ends the command
        args.run_folder,
        functools.partial(evaluation.write_sample, scores.folder),
        functools.partial(evaluation.write_picture, scores.folder),
        scores,
    )
    for judge in judges.values():
        scores.add(judge(done.weights, done.step))
    line = scores.line(done.step, shlex.join(["aigc", *sys.argv[1:]]))
    try:
        scores.store(line)
    finally:  # where the disk is full, the numbers are not lost with it
        found, own = Evaluation.of(line), Run(args.run_folder)
        floors = {metric: own.levels(found, metric) for metric in found.metrics}
        said = {"path": str(args.run_folder), **line, "floors": strict(floors)}
        print(json.dumps(said, allow_nan=False) if args.json else as_text(own, found))
    return 0


def _refuse_others(overrides: Sequence[str]) -> None:
    """Refuses settings of what the weights were trained with."""
    for item in map(override_words.read, overrides):
        if not item.path.startswith("evals.") and item.path != "data.path":
            raise UserError(
                f"{item.word}: `aigc eval` takes settings of evals, and data.path where the data"
                " have moved; all others are those that the weights were trained with."
            )


def _chosen(evals: Iterable[str], only: Sequence[str], run_folder: Path) -> list[str]:
    """The names of the evaluators to run."""
    known = list(evals)
    if not known:
        raise UserError(
            f"{run_folder} has no evaluators; type one, as in --config.evals.test.name=mean"
            " --config.evals.test.split=test."
        )
    for name in only:
        if name not in known:
            raise UserError(
                f"--only={name}: there is no such evaluator.{nearest(name, known)} There are:"
                f" {', '.join(known)}"
            )
    return list(dict.fromkeys(only)) or known

"""`aigc verify STUDY`: makes the first steps of a study's rows again, for its record to judge."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from aigc_jax.cli import reproduce, train, wire
from aigc_jax.errors import UserError

DIFFERENT = 5  # as `aigc check-resume`: a check found a difference
_SAME = 1e-3  # relative: what another machine's rounding may make of the first steps


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "verify",
        help="runs the first steps of a study's rows and compares them with the recorded ones",
        description="Exit codes: 0 all within the band; 2 a mistake in what was asked; 5 a recipe"
        " or a curve is no longer the recorded one; 75 stopped by a signal.",
    )
    parser.add_argument("study", metavar="STUDY", help="experiments/NAME.py, or NAME")
    parser.add_argument("--row", action="append", default=[], help="may be repeated (default: all)")
    parser.add_argument("--scale", help="whose record (default: the first that has one)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where record.json stands")
    parser.set_defaults(run=run, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Verifies row by row."""
    from aigc_jax.sweep import record
    from aigc_jax.sweep import study as studies
    from aigc_jax.train.signals import Early, Interrupted, Signals

    study = studies.read(studies.find(args.study))
    folder = args.results or reproduce.home(study)
    scales = record.load(folder / "record.json")["scales"]
    if not scales:
        raise UserError(
            f"{study.name} has no record to verify; `aigc reproduce {args.study}` makes one."
        )
    name = args.scale or next(iter(scales))
    reproduce.chosen(scales, name, f"{study.name} has no record of scale")
    scale = reproduce.chosen(study.scales, name, f"{study.name} has no scale")
    bands = scales[name]["bands"]
    rows = args.row or list(bands)
    for row in rows:
        reproduce.chosen(bands, row, f"{study.name}'s record has no band of row")
    with tempfile.TemporaryDirectory() as place:
        jobs = {}
        for job in studies.jobs(study, scale, args.overrides, Path(place)):
            band = bands.get(job.row.name)
            if band and job.seed == band["seed"] and dict(job.point) == band["point"]:
                jobs[job.row.name] = job
        bad, shelf = 0, wire.Shelf()
        for row in rows:
            if row not in jobs:
                print(f"{row}: miss: the study no longer has the recorded point", flush=True)
                bad += 1
                continue
            try:
                with Signals(saves=False) as signals:
                    run = Path(place) / "run"
                    bad += not _verify(row, jobs[row], bands[row], run, signals, shelf.parts)
            except (Early, Interrupted):
                print("stopped; nothing is kept of it")
                return train.STOPPED
    return DIFFERENT if bad else 0


def _verify(
    row: str, job: Any, band: dict[str, Any], place: Path, signals: Any, parts: Any
) -> bool:
    """Runs a row's first steps in a folder of its own; says, and returns, whether they fit."""
    import shutil

    from aigc_jax.report.folder import Run
    from aigc_jax.sweep import record
    from aigc_jax.train.signals import Early

    if differences := record.changed(band["config"], job.planned.config):
        words = "; ".join(f"{path}: {old!r} -> {new!r}" for path, old, new in differences)
        print(f"{row}: miss: the recipe is no longer the recorded one ({words})", flush=True)
        return False
    outcome = train.one(
        _beginning(job.planned.config, band["steps"]), place, signals=signals,
        command=job.planned.command, parts=parts,
    )  # fmt: skip
    if outcome.kind == "stopped":
        raise Early(outcome.reason)
    run = Run(place)
    steps, values = run.series(band["metric"])
    got = dict(zip(steps, values, strict=True))
    fingerprint = run.fingerprint
    shutil.rmtree(place)
    if fingerprint != band["data_sha256"]:
        print(f"{row}: miss: other data: {fingerprint[:12]} against {band['data_sha256'][:12]}")
        return False
    return _judged(row, band, got)


def _judged(row: str, band: dict[str, Any], got: dict[int, float]) -> bool:
    """Says where a curve leaves the band, or how near it is to the recorded one."""
    worst = 0.0
    for step, then, low, high in zip(
        band["steps"], band["curve"], band["low"], band["high"], strict=True
    ):
        value = got.get(step, float("nan"))
        if not low <= value <= high:
            print(f"{row}: miss: {band['metric']} {value:.4f} at step {step}; the band is"
                  f" {low:.4f} to {high:.4f}", flush=True)  # fmt: skip
            return False
        worst = max(worst, abs(value - then) / max(abs(then), 1e-12))
    how = "the recorded curve" if worst <= _SAME else "within the band"
    print(f"{row}: match: {how} to step {band['steps'][-1]} (seed {band['seed']}; largest"
          f" difference {100 * worst:.2g} %)", flush=True)  # fmt: skip
    return True


def _beginning(config: dict[str, Any], steps: list[int]) -> Any:
    """The recorded run's config, to be stopped early: the schedule still knows the whole length."""
    from ml_collections import ConfigDict

    whole = config["run"]["steps"]
    end = config["optim"]["decay_steps"] or whole
    cut = {
        **config,
        "evals": {},
        "optim": {**config["optim"], "decay_steps": end},
        "run": {**config["run"], "steps": steps[-1], "best": "", "eval_every": 0, "save_every": 0,
                "tensorboard": False},
    }  # fmt: skip
    return ConfigDict(cut, allow_dotted_keys=True)

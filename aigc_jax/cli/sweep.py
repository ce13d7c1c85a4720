"""`aigc sweep CONFIG`: many runs of a recipe, as its `get_sweep(h)` says."""

import argparse
import random
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.cli import front, launch, train
from aigc_jax.core import config, recipe
from aigc_jax.errors import UserError, nearest
from aigc_jax.sweep import plans, space
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.space import Choice, Point, Space

MANY = 10_000  # trials of a list that are asked about before they are planned
SEARCHED = 50  # trials of a search
_SHOWN = 10  # trials that a dry run lists of very many
SAMPLERS = ("tpe", "cmaes", "qmc", "grid", "random")


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "sweep",
        help="many runs: the recipe's get_sweep(h), several seeds, or both",
        description="Each trial has a run folder of its own in WORKDIR, as if it had run alone;"
        " `aigc train` goes on with any of them. The same command again skips what is finished and"
        " goes on with the rest. Exit codes: 0 all finished; 2 a mistake in what was asked; 3 some"
        " trials failed; 4 the disk; 75 stopped by a signal, saved.",
    )
    front.add_config_arguments(parser)
    parser.add_argument("--sweep", default="", metavar="NAME,NAME",
                        help="which of the recipe's sweeps; several are multiplied")  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N",
                        help="each trial with N seeds, from run.seed on")  # fmt: skip
    parser.add_argument("--trials", type=int, metavar="N",
                        help=f"of a search (default {SEARCHED}), or so many of a grid")  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--engine", help=f"{', '.join(launch.ENGINES)} (default: vectorised where trials differ"
        " only in hyper and seed and nothing is searched or pruned, else local)",
    )  # fmt: skip
    parser.add_argument("--workdir", type=Path, help="the sweep folder (default: runs/RECIPE-NAME)")
    parser.add_argument("--metric", help="what trials are judged by; '-NAME' where more is better"
                        " (default: run.best, else validation/loss)")  # fmt: skip
    parser.add_argument("--sampler", help="tpe (default of a search), cmaes, qmc, random; of a"
                        " grid: grid (default), random")  # fmt: skip
    parser.add_argument("--pruner", default="none", help="median, hyperband, asha; pbt (ray);"
                        " halving (vectorised)")  # fmt: skip
    parser.add_argument("--slurm", action="append", default=[], metavar="KEY=VALUE",
                        help="of the jobs: partition, time, cpus, gpus, mem, ...")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="list the trials, write nothing")
    parser.add_argument("--yes", action="store_true", help=f"don't ask above {MANY:,} trials")
    parser.set_defaults(run=run)


class Asked(NamedTuple):
    """What was typed, checked: the whole space, and the trials where it is a list."""

    space: Space
    planned: list[Planned] | None  # None: a search
    number: int
    root: Path
    engine: str
    sampler: str
    metric: str
    direction: str
    judged: bool  # somebody said by what: it must be there


def run(args: argparse.Namespace) -> int:
    """Checks everything, then runs the trials."""
    asked = _asked(args)
    if args.dry_run:
        return _dry_run(asked, args.config)
    from aigc_jax.sweep import folder

    launch.check_engine(asked.engine)
    sweep = folder.Sweep(
        args.config, args.overrides, asked.space.to_dict(), asked.metric, asked.direction
    )
    folder.claim(asked.root, sweep)
    knobs = {
        "engine": asked.engine, "workers": args.workers or 1, "pruner": args.pruner,
        "options": args.slurm,
    }  # fmt: skip
    if asked.planned is None:
        code = launch.search(asked.root, number=asked.number, sampler=asked.sampler, **knobs)
    else:
        code = launch.launch(
            asked.planned, asked.root, metric=asked.metric, direction=asked.direction,
            judged=asked.judged, **knobs,
        )  # fmt: skip
    if code == train.STOPPED:
        print(f"to go on: {shlex.join(['aigc', *sys.argv[1:]])}")
    return code


def _asked(args: argparse.Namespace) -> Asked:
    """Checks what was typed, down to every setting of every trial."""
    for name in ("seeds", "trials"):
        number = getattr(args, name)
        if number is not None and number < 1:
            raise UserError(f"--{name}={number}: expected 1 or more.")
    if args.engine is not None:
        launch.check_engine(args.engine)
    cfg = config.to_dict(config.load(args.config, args.overrides))
    names = [name for name in args.sweep.split(",") if name]
    whole = _space(args, names, cfg["run"]["seed"])
    metric, direction = _metric(args.metric, cfg["run"]["best"])
    root = args.workdir or _default_root(args.config, names, whole)
    searched = bool(whole.draws)
    sampler = args.sampler or ("tpe" if searched else "grid")
    _check_sampler(sampler, whole)
    planned = None
    number = args.trials or SEARCHED
    if searched:
        _check_draws(args, whole)
    else:
        number = min(whole.size, args.trials or whole.size)
        _ask_about(number, whole.size, args.yes or args.dry_run)
        shown = _SHOWN if args.dry_run and number > MANY else number
        points = _points(whole, shown, sampler)
        planned = _planned(args, points, root)
    engine = args.engine or _engine(planned, args)
    launch.check_pruner(engine, args.pruner)
    if engine == "vectorised" and searched:
        raise UserError("--engine=vectorised runs a list of trials; a search needs --engine=local.")
    launch.check_workers(engine, args.workers)
    launch.check_options(engine, planned or (), args.slurm)
    judged = bool(args.metric or cfg["run"]["best"] or args.pruner != "none")
    return Asked(whole, planned, number, root, engine, sampler, metric, direction, judged)


def _space(args: argparse.Namespace, names: list[str], first: int) -> Space:
    """The recipe's space, with the seeds."""
    label = args.config
    made = recipe.read_sweep(args.config, space.Algebra)
    if args.seeds and not names and isinstance(made, dict):
        made = None  # sweeps with names are not meant where none is named
    found = space.chosen(made, names, label)
    if args.seeds is None:
        if found is None:
            raise UserError(
                f"{label} has no get_sweep(h); define one, or give --seeds=N for the same run with"
                " N seeds."
            )
        return found
    seeds = space.grid("run.seed", range(first, first + args.seeds))
    if found is None:
        return seeds
    if "run.seed" in found.paths:
        raise UserError(f"--seeds={args.seeds}: the sweep of {label} sets run.seed itself.")
    return space.product(found, seeds)


def _metric(typed: str | None, best: str) -> tuple[str, str]:
    name = typed or best or "validation/loss"
    return name.removeprefix("-"), "maximize" if name.startswith("-") else "minimize"


def _default_root(spec: str, names: list[str], whole: Space) -> Path:
    kind = "-".join(names) or ("seeds" if whole.paths == ["run.seed"] else "sweep")
    return Path(f"{train.default_workdir(spec, False)}-{kind}")


def _check_sampler(sampler: str, whole: Space) -> None:
    _check_name("sampler", sampler, SAMPLERS)
    if whole.draws and sampler == "grid":
        raise UserError(
            f"--sampler=grid: a distribution where a grid is needed, at '{next(iter(whole.draws))}'"
            "; write h.grid(path, values), or choose tpe, cmaes, qmc or random."
        )
    if not whole.draws and sampler not in ("grid", "random"):
        raise UserError(
            f"--sampler={sampler} draws from distributions and this space is a grid; write"
            " h.draw(path, h.Float(low, high)), or choose grid or random."
        )
    if sampler == "cmaes":
        _check_numbers(whole)


def _check_numbers(whole: Space) -> None:
    """CMA-ES is for numbers: says what it would draw by lot, or that there is nothing else."""
    from aigc_jax.sweep import search

    search.check_package("cmaes")
    choices = [path for path, drawn in whole.draws.items() if isinstance(drawn, Choice)]
    if len(choices) == len(whole.draws):
        raise UserError(
            f"--sampler=cmaes is for numbers, and '{choices[0]}' is an h.Choice; choose tpe, qmc or"
            " random."
        )
    if choices:
        said = f"{', '.join(choices)} is drawn by lot; tpe learns about it too"
        print(f"cmaes is for numbers: {said}", flush=True)


def _check_name(what: str, name: str, names: Sequence[str]) -> None:
    if name not in names:
        raise UserError(f"--{what}={name}: expected {', '.join(names)}.{nearest(name, names)}")


def _ask_about(number: int, size: int, yes: bool) -> None:
    """Asks before a list of very many trials; without a terminal that is an error."""
    if number <= MANY or yes:
        return
    said = f"the grid has {size:,} trials"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(
            f"{said}; give --yes to start them all, or --trials=N --sampler=random for some."
        )
    print(f"{said}. Start {number:,}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UserError(f"{said}; nothing was started.")


def _points(whole: Space, number: int, sampler: str) -> Iterator[Point]:
    """The points of a grid: the first ones, or some by lot; with more trials the first stay."""
    if sampler == "grid" or number >= whole.size:
        return (whole.point(i) for i in range(number))
    draw, seen = random.Random(0), dict[int, None]()
    while len(seen) < number:
        seen[draw.randrange(whole.size)] = None
    return (whole.point(i) for i in seen)


def _planned(args: argparse.Namespace, points: Iterator[Point], root: Path) -> list[Planned]:
    try:
        return plans.plan(args.config, args.overrides, points, root)
    except UserError as error:
        raise UserError(f"the sweep of {args.config}: {error}") from None


def _check_draws(args: argparse.Namespace, whole: Space) -> None:
    """Checks the settings of a search, at both ends of each distribution and at each choice."""
    first: Point = whole.point(0)
    ends: dict[str, list[Any]] = {}
    for path, drawn in whole.draws.items():
        ends[path] = list(drawn.values) if isinstance(drawn, Choice) else [drawn.low, drawn.high]
        first[path] = ends[path][0]
    corners = [first, *({**first, path: v} for path, values in ends.items() for v in values[1:])]
    corners += [{**first, **whole.point(i)} for i in range(1, whole.size)]
    _planned(args, iter(corners), Path())


def _engine(planned: list[Planned] | None, args: argparse.Namespace) -> str:
    """The vectorised one where it can run all trials and no processes are asked for."""
    several = (args.workers or 1) > 1
    other = args.pruner not in launch.PRUNERS["vectorised"]
    if planned is None or other or several or len(planned) < 2:
        return "local"
    kinds = {plans.structure(trial.config) for trial in planned}
    prints = any(trial.config["run"]["fingerprint"] for trial in planned)
    return "vectorised" if len(kinds) == 1 and not prints else "local"


def _dry_run(asked: Asked, spec: str) -> int:
    if asked.planned is None:
        print(f"{asked.number} trials of {spec}, drawn by {asked.sampler}:")
        for path, drawn in asked.space.draws.items():
            print(f"  {path}: {drawn}")
        if asked.space.size > 1:
            print(f"  each with {asked.space.size} settings, judged by their mean")
    for trial in asked.planned or []:
        said = "  ".join(f"{path}={value}" for path, value in trial.point.items())
        print(f"{trial.id}  {said}")
    if asked.planned is not None and len(asked.planned) < asked.number:
        print(f"... the first {len(asked.planned)} of {asked.number:,}; only these were checked")
    count = asked.number
    sign = "more" if asked.direction == "maximize" else "less"
    print(f"{count} trials in {asked.root}, engine {asked.engine}; judged by {asked.metric}, {sign}"
          " is better")  # fmt: skip
    return 0

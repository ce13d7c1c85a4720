"""`aigc sweep CONFIG --seeds=N`: the same run with N seeds, as one program."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_jax.cli import front, train, wire
from aigc_jax.core import config
from aigc_jax.errors import UserError


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "sweep",
        help="the same run with several seeds, as one compiled program",
        description="Each seed has a run folder of its own in WORKDIR, as if it had run alone, and"
        " `aigc train CONFIG ... --workdir=WORKDIR/seed_S` goes on with it. The same command again"
        " goes on with all.",
    )
    front.add_config_arguments(parser)
    parser.add_argument("--seeds", type=int, required=True, metavar="N",
                        help="how many, from run.seed on")  # fmt: skip
    parser.add_argument("--workdir", type=Path, help="(default: runs/RECIPE-seeds)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains them all."""
    if args.seeds < 1:
        raise UserError(f"--seeds={args.seeds}: expected 1 or more.")
    root = args.workdir or Path(f"{train.default_workdir(args.config, False)}-seeds")
    return seeds(args.config, args.overrides, args.seeds, root)


def seeds(
    recipe: str,
    overrides: list[str],
    number: int,
    root: Path,
    mixed: Callable[[Any, int], Callable[[int], Any]] | None = None,
) -> int:
    """Trains a recipe with several seeds as one program; returns the exit code.

    Args:
      recipe, overrides: as typed. number: seeds, from run.seed on. root: of the run folders.
      mixed: (data, seed) -> what gives the batch of a step; by default the data's own. Such a run
        can't go on by `aigc train`, and its status names no command.
    """
    first = config.to_dict(config.load(recipe, overrides))["run"]["seed"]
    plans = []
    for seed in range(first, first + number):
        words = [*overrides, f"--config.run.seed={seed}"]
        own = config.load(recipe, words)
        folder = root / f"seed_{seed}"
        train.changed_settings(own, folder, [])
        command = shlex.join(["aigc", "train", recipe, *words, f"--workdir={folder}"])
        plans.append((own, folder, seed, "" if mixed else command))

    from aigc_jax.train.signals import Early, Signals

    try:
        with Signals(saves=False) as signals, contextlib.ExitStack() as held:
            built = wire.parts(plans[0][0])
            for _, folder, _, _ in plans:
                held.enter_context(train.taken(folder))
            return _together(built, plans, signals, root, mixed or _own)
    except Early as signal:
        print(f"aigc: {signal}: stopped before the first step; the same command starts it.",
              file=sys.stderr)  # fmt: skip
        return train.STOPPED


def _own(data: Any, seed: int) -> Callable[[int], Any]:
    return lambda step: data.batch(step, (0, 1))


def _together(
    built: wire.Parts,
    plans: list[Any],
    signals: Any,
    root: Path,
    mixed: Callable[[Any, int], Callable[[int], Any]],
) -> int:
    from aigc_jax.report.folder import Run
    from aigc_jax.report.html import render
    from aigc_jax.sweep.group import Group, Trial
    from aigc_jax.train import evaluation
    from aigc_jax.train.environment import environment
    from aigc_jax.train.storage import write_atomic

    where, trials = environment(), []
    for cfg, folder, seed, command in plans:
        plain = config.to_dict(cfg)
        settings = built.settings._replace(seed=seed)
        data = config.build("data", plain["data"], batch_size=settings.batch_size, seed=seed)
        own = built._replace(config=plain, settings=settings, data=data)
        train.check_data(own, folder, [])
        train.write_folder(own, folder, where)

        def write_sample(step: int, text: str, folder: Path = folder) -> None:
            evaluation.write_sample(folder, step, text)

        def write_picture(step: int, name: str, pixels: Any, folder: Path = folder) -> None:
            evaluation.write_picture(folder, step, name, pixels)

        judges = wire.evaluators(own, signals, folder, write_sample, write_picture)
        batch_at = mixed(data, seed)
        trials.append(Trial(folder, plain, seed, plain["hyper"], batch_at, judges, command))
    group = Group(built.task, trials, settings=built.settings, signals=signals)
    signals.saves = True
    asked = group.run()
    for trial in trials:
        write_atomic(trial.workdir / "report.html", render(Run(trial.workdir)))
    print(f"{root}: {len(trials)} trials {'stopped' if asked else 'finished'} at step {group.step}")
    return train.STOPPED if asked else 0

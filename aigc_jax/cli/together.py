"""Trials that run as one program: the wiring."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aigc_jax.cli import train, wire
from aigc_jax.core import config
from aigc_jax.errors import UserError
from aigc_jax.sweep import plans
from aigc_jax.sweep.plans import Planned
from aigc_jax.sweep.say import say

FAILED = 3  # some trials failed, the others are done
_LANES = 8  # evaluations at the same time: each may hold what an evaluator gathers
Mixed = Callable[[Any, int], Callable[[int], Any]]


def run(
    planned: Sequence[Planned],
    root: Path,
    *,
    metric: str = "",
    halving: Any = None,
    mixed: Mixed | None = None,
) -> int:
    """Trains trials, those that differ only in `hyper` and the seed as one program.

    Those that are finished or pruned are not run again. A program that takes more memory than there
    is gets half of the trials, and so on.

    Args:
      planned: the trials. root: the sweep's folder, to speak of it.
      metric: what they are judged by; "" for nothing.
      halving: a `sweep.halving.Halving`, or None to train all to their ends.
      mixed: (data, seed) -> what gives the batch of a step; by default the data's own. Such a run
        can't go on by `aigc train`, and its status names no command.

    Returns:
      0, all are finished or pruned; 3, some failed; 75, stopped by a signal.

    Raises:
      UserError: among others, evaluations that don't give the metric.
    """
    from aigc_jax.train.signals import Early, Signals

    check(planned)
    alike: dict[str, list[Planned]] = {}
    for trial in planned:
        alike.setdefault(plans.structure(trial.config), []).append(trial)
    waiting, codes = list(alike.values()), [0]
    try:
        with Signals(saves=False) as signals:
            while waiting:
                members = waiting.pop(0)
                found = _one_program(members, signals, metric, halving, mixed)
                if isinstance(found, int):
                    codes.append(found)
                else:
                    waiting = [*found, *waiting]
                if signals.asked:
                    return train.STOPPED
                signals.saves = False
    except Early as signal:
        print(f"aigc: {signal}: stopped before the first step; the same command starts it.",
              file=sys.stderr)  # fmt: skip
        return train.STOPPED
    say(f"{root}: {len(planned)} trials; {_counted(planned)}")
    return max(codes)


def check(planned: Iterable[Planned]) -> None:
    """Raises UserError for trials that can't be part of one program, before anything is written."""
    if any(trial.config["run"]["fingerprint"] for trial in planned):
        raise UserError(
            "run.fingerprint: trials of one program have none, since they round otherwise than runs"
            " alone; choose --engine=local, or leave it out."
        )


def seeds(
    recipe: str, overrides: list[str], number: int, root: Path, mixed: Mixed | None = None
) -> tuple[int, list[Planned]]:
    """Trains a recipe with several seeds, from run.seed on; returns the exit code and the trials.

    Arguments as `run`'s.
    """
    first = config.to_dict(config.load(recipe, overrides))["run"]["seed"]
    points = [{"run.seed": seed} for seed in range(first, first + number)]
    planned = plans.plan(recipe, overrides, points, root)
    return run(planned, root, mixed=mixed), planned


def _own(data: Any, seed: int) -> Callable[[int], Any]:
    return lambda step: data.batch(step, (0, 1))


def _state(trial: Planned) -> tuple[str, str]:
    """How a trial has ended, and why; "" where it has not begun."""
    from aigc_jax.report.folder import Run, is_run

    if not is_run(trial.workdir):
        return "", ""
    said = Run(trial.workdir).status
    return str(said.get("state", "")), str(said.get("reason", ""))


def _counted(planned: Iterable[Planned]) -> str:
    """How many trials ended how, in words."""
    ends = [reason if reason == "pruned" else state for state, reason in map(_state, planned)]
    return ", ".join(f"{ends.count(end)} {end}" for end in dict.fromkeys(ends))


def _one_program(
    members: list[Planned], signals: Any, metric: str, halving: Any, mixed: Mixed | None
) -> int | list[list[Planned]]:
    """Trains the members that are left; returns an exit code, or smaller lists to train instead."""
    from aigc_jax.sweep import memory
    from aigc_jax.sweep.group import PRUNED, Group, TooBig

    left = [m for m in members if _state(m)[0] != "finished" and _state(m)[1] != PRUNED]
    if not left:
        return 0
    if halving is None and len(parts := _by_checkpoint(left)) > 1:
        return parts
    with contextlib.ExitStack() as held:
        # A mesh of the user's own stays as it is.
        plain = all(said in (1, -1, (), [], "jit") for said in left[0].config["mesh"].values())
        alone = plain and wire.device_a_core()
        built = wire.parts(left[0].config, alone=alone)
        if halving is not None:
            halving.steps(built.settings.steps, built.settings.eval_every)
        for member in left:
            train.changed_settings(member.config, member.workdir, [])
            held.enter_context(train.taken(member.workdir))
        group = Group(
            built.task,
            _trials(built, left, signals, mixed, alone),
            settings=built.settings,
            signals=signals,
            prepare=wire.initial_weights(built.config["init_from"])
            if built.config["init_from"]
            else None,
            metric=metric,
            halving=halving,
            number=len(members),
            split=not alone,  # pretended devices share the cores already
            room=memory.room(),
        )
        signals.saves = True
        try:
            group.run()
        except TooBig as big:
            half = (len(members) + 1) // 2
            say(f"{len(left)} trials take {big.size >> 20:,} MiB together: half of them at once")
            return [members[:half], members[half:]]
        _write_reports(left)
    return FAILED if any(desk.over == "failed" for desk in group.desks) else 0


def _put(weights: Any, where: Any) -> Any:
    import jax

    return jax.device_put(weights, where)


def _by_checkpoint(left: list[Planned]) -> list[list[Planned]]:
    """Splits trials by their newest checkpoint: one may have gone on alone meanwhile."""
    at: dict[int, list[Planned]] = {}
    for trial in left:
        folder = trial.workdir / "checkpoints"
        steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
        at.setdefault(max(steps, default=-1), []).append(trial)
    return list(at.values())


def _trials(
    built: wire.Parts, left: list[Planned], signals: Any, mixed: Mixed | None, alone: bool
) -> list[Any]:
    """Writes the run folders and makes what each trial needs; trials of one seed share data.

    Args:
      alone: each trial is evaluated on one device, as many at a time as there are devices, but
        for a few; else
        one after another, with their batches spread over all devices.
    """
    import jax

    from aigc_jax.sweep.desk import Trial
    from aigc_jax.train import evaluation, sharding
    from aigc_jax.train.environment import environment

    count = min(jax.device_count(), _LANES)
    lanes = [sharding.alone(i) for i in range(count)] if alone else [built.placement]
    where, trials = environment(), []
    by_seed: dict[int, tuple[Any, Callable[[int], Any]]] = {}
    for i, member in enumerate(left):
        plain, folder = member.config, member.workdir
        settings = built.settings._replace(seed=plain["run"]["seed"])
        seed = settings.seed
        if seed not in by_seed:
            data = config.build("data", plain["data"], batch_size=settings.batch_size, seed=seed)
            by_seed[seed] = (data, (mixed or _own)(data, seed))
        data, batch_at = by_seed[seed]
        lane = i * len(lanes) // len(left)  # where its state is, if the devices divide them
        own = built._replace(config=plain, settings=settings, data=data, placement=lanes[lane])
        train.check_data(own, folder, [])
        train.write_folder(own, folder, where)

        def write_sample(step: int, text: str, folder: Path = folder) -> None:
            evaluation.write_sample(folder, step, text)

        def write_picture(step: int, name: str, pixels: Any, folder: Path = folder) -> None:
            evaluation.write_picture(folder, step, name, pixels)

        judges = wire.evaluators(own, signals, folder, write_sample, write_picture)
        command = "" if mixed else member.command
        place = partial(_put, where=lanes[lane].replicated())
        trials.append(
            Trial(folder, plain, seed, plain["hyper"], batch_at, judges, command, place, lane)
        )
    return trials


def _write_reports(left: list[Planned]) -> None:
    from aigc_jax.report.folder import Run
    from aigc_jax.report.html import render
    from aigc_jax.train.storage import write_atomic

    for trial in left:
        write_atomic(trial.workdir / "report.html", render(Run(trial.workdir)))

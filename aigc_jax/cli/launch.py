"""Runs planned trials, or a search, with one of the engines. Only wiring."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aigc_jax.errors import UserError, nearest
from aigc_jax.sweep.plans import Planned

ENGINES = ("local", "vectorised", "ray", "slurm")
PRUNERS = {
    "local": ("none", "median", "hyperband", "asha"),
    "vectorised": ("none", "halving"),
    "ray": ("none", "hyperband", "asha", "pbt"),
    "slurm": ("none", "median", "hyperband", "asha"),
}
FAILED = 3  # some trials failed, the others are done
# What an engine needs that the core doesn't bring: the extra's name, and its packages.
EXTRAS = {
    "local": ("sweep", ("optuna",)),
    "ray": ("ray", ("ray",)),
    "slurm": ("slurm", ("submitit", "optuna")),
}


def launch(
    planned: Sequence[Planned],
    root: Path,
    *,
    engine: str = "local",
    workers: int = 1,
    metric: str = "validation/loss",
    direction: str = "minimize",
    judged: bool = True,
    pruner: str = "none",
    options: Sequence[str] = (),
) -> int:
    """Runs trials to their ends; those that are finished are not run again.

    Writes ROOT/results.csv and results.parquet, also where it is stopped.

    Args:
      planned: from `sweep.plans.plan`. root: the sweep folder; made here.
      engine: "local", processes on this machine; "vectorised", one program; "ray" or "slurm".
      workers: processes, of the engines that have any.
      metric: what a trial is judged by; direction: "minimize" or "maximize".
      judged: the trials must give the metric. False: one program goes on without; the others need
        it to rank their trials.
      pruner: "none", "median", "hyperband" or "asha"; Ray has no "median" and has "pbt", one
        program has "halving" alone. options: of the job, for SLURM.

    Returns:
      0, all are finished; 3, some failed; 75, stopped by a signal: the same call goes on.

    Raises:
      UserError: an engine that isn't there or not installed, or a mistake in all trials.
      StorageError: the disk; nothing saved is lost.
    """
    check_engine(engine)
    check_pruner(engine, pruner)
    from aigc_jax.sweep import folder

    if not planned:
        raise UserError("no trials: an empty space.")
    folder.adopt(root, planned[0].recipe, metric, direction)
    try:
        if engine == "vectorised":
            from aigc_jax.cli import together
            from aigc_jax.sweep.halving import Halving

            halving = Halving(metric, direction) if pruner == "halving" else None
            return together.run(planned, root, metric=metric if judged else "", halving=halving)
        if engine == "ray":
            from aigc_jax.sweep import ray

            return ray.run(
                planned, root, workers=workers, metric=metric, direction=direction, pruner=pruner
            )
        return _on_study(root, planned, engine, workers, options, pruner=pruner)
    finally:
        write_results(root, metric)


def search(
    root: Path,
    *,
    engine: str = "local",
    workers: int = 1,
    number: int = 50,
    sampler: str = "tpe",
    pruner: str = "none",
    options: Sequence[str] = (),
) -> int:
    """Runs trials whose points a sampler draws; the sweep folder says from what.

    Args:
      root: with its sweep.json. number: of trials, earlier ones counted. sampler: by name.
      engine, workers, pruner, options, returns and raises: as `launch`.
    """
    check_engine(engine)
    from aigc_jax.sweep import folder

    sweep = folder.read(root)
    try:
        if engine == "ray":
            check_engine("local")
            from aigc_jax.sweep import asked, ray

            source = asked.Asked(root, number=number, sampler=sampler)
            return ray.run(
                source, root, workers=workers, metric=sweep.metric, direction=sweep.direction,
                pruner=pruner,
            )  # fmt: skip
        return _on_study(
            root, None, engine, workers, options, number=number, sampler=sampler, pruner=pruner
        )
    finally:
        write_results(root, sweep.metric)


def _on_study(
    root: Path, planned: Sequence[Planned] | None, engine: str, workers: int,
    options: Sequence[str], **knobs: Any,
) -> int:  # fmt: skip
    """The engines whose workers share a study."""
    from aigc_jax.sweep import local

    if engine == "local":
        return local.run(root, planned, workers=workers, **knobs)
    from aigc_jax.sweep import slurm

    slurm.check(options)
    # On a disk of several machines there is no write-ahead log.
    local.prepare(root, planned, wal=False, **knobs)
    worker = [*local.PROGRAM, "sweep-worker", str(root), "--no-wal"]
    return slurm.run(root, workers=workers, worker=worker, options=options)


def write_results(root: Path, metric: str) -> None:
    """Writes the table of what there is; a sweep that failed early has none."""
    from aigc_jax.sweep import results

    try:
        results.write(results.read(root, metric))
    except UserError as error:
        if error.__context__ is None:  # else what stopped the sweep is the thing to tell
            print(f"aigc: warning: no table of results: {error}", file=sys.stderr)


def check_pruner(engine: str, pruner: str) -> None:
    """Raises UserError for a pruner that the engine doesn't have."""
    names = PRUNERS[engine]
    if pruner not in names:
        owners = [other for other in ENGINES if pruner in PRUNERS[other]]
        verb = "have" if len(owners) > 1 else "has"
        hint = f" {' and '.join(owners)} {verb} it." if owners else nearest(pruner, names)
        raise UserError(
            f"--pruner={pruner}: expected {', '.join(names)} with --engine={engine}.{hint}"
        )


def check_options(engine: str, planned: Sequence[Planned], options: Sequence[str]) -> None:
    """Checks what an engine can't do, or has no options for, before anything is written.

    Raises:
      UserError: fingerprints in one program; a wrong option of SLURM's, or one for another engine.
    """
    if engine == "vectorised":
        from aigc_jax.cli import together

        together.check(planned)
    if engine == "slurm":
        from aigc_jax.sweep import slurm

        check_engine(engine)
        slurm.check(options)
    elif options:
        raise UserError(f"--slurm={options[0]}: an option of --engine=slurm, and this is {engine}.")


def check_workers(engine: str, workers: int | None) -> None:
    """Raises UserError for a number of processes that is none, or that the engine has no use for.

    Args:
      workers: as typed; None where nobody said.
    """
    if workers is not None and workers < 1:
        raise UserError(f"--workers={workers}: expected 1 or more.")
    if workers is not None and engine == "vectorised":
        raise UserError(
            f"--workers={workers}: --engine=vectorised is one process; choose --engine=local."
        )


def check_engine(engine: str) -> None:
    """Raises UserError for an engine that isn't there, or whose packages aren't installed."""
    if engine not in ENGINES:
        raise UserError(
            f"--engine={engine}: expected {', '.join(ENGINES)}.{nearest(engine, ENGINES)}"
        )
    extra, packages = EXTRAS.get(engine, ("", ()))
    for package in packages:
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            extra = "sweep" if package == "optuna" else extra
            raise UserError(
                f"--engine={engine} needs the package {package}, which is not installed: pip"
                f" install 'aigc-jax[{extra}]'."
            )

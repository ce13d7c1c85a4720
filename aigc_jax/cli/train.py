"""`aigc train CONFIG`: starts a run, or goes on with it."""

import argparse
import contextlib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aigc_jax.cli import front, processes, wire
from aigc_jax.core import config
from aigc_jax.errors import UserError, nearest

STOPPED = 75  # as EX_TEMPFAIL: the same command goes on
DEBUG = (
    "--config.run.steps=20",
    "--config.run.log_every=1",
    "--config.run.eval_every=10",
    "--config.run.save_every=10",
)


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "train",
        help="train, or go on with a run: the same command again resumes it",
        description="Exit codes: 0 finished; 2 a mistake in what was asked; 3 stopped on bad"
        " numbers; 4 the disk; 5 another process of the run has died, 75 stopped by a signal,"
        " saved: the same command goes on after both.",
    )
    front.add_config_arguments(parser)
    parser.add_argument("--workdir", type=Path, help="the run folder (default: runs/RECIPE)")
    parser.add_argument("--debug", action="store_true", help="20 steps, everything logged")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything, print it, write nothing"
    )
    parser.add_argument(
        "--allow-change", action="append", default=[], metavar="PATH",
        help="resume although this setting (or section) of the run has changed",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, default=0, metavar="N",
        help="N processes of this machine, on its CPU; 1: this one alone; 0 (the default): what"
        " SLURM, Kubernetes, a TPU pod, torchrun or JAX_NUM_PROCESSES says",
    )  # fmt: skip
    parser.add_argument(
        "--profile", default="", metavar="FIRST:END",
        help="write a trace of these steps into RUN/profile, for xprof",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains."""
    overrides = [*(DEBUG if args.debug else ()), *args.overrides]
    cfg = config.load(args.config, overrides)
    workdir = args.workdir or default_workdir(args.config, args.debug)
    if args.dry_run:
        return _dry_run(cfg)
    allowed = _allowed(cfg, args.allow_change)
    changed_settings(cfg, workdir, allowed)  # before JAX, and before other processes are met
    if args.processes not in (0, 1):
        return processes.launch(args.processes, sys.argv[1:])

    from aigc_jax.train.signals import Early, Signals

    command = shlex.join(["aigc", *sys.argv[1:]])
    try:
        with Signals(saves=False) as signals, joined(cfg, args.processes, signals) as told:
            command = told or command
            outcome = one(cfg, workdir, signals=signals, command=command, allowed=allowed,
                          profile=args.profile)  # fmt: skip
            print(f"{workdir}: {outcome.kind} at step {int(outcome.state.step)}; report: "
                  f"{workdir / 'report.html'}")  # fmt: skip
            if outcome.kind == "stopped":
                print(f"stopped by {outcome.reason}; to go on: {command}")
    except Early as signal:
        print(f"aigc: {signal}: stopped before the first step; the same command starts it.",
              file=sys.stderr)  # fmt: skip
        return STOPPED
    return STOPPED if outcome.kind == "stopped" else 0


@contextlib.contextmanager
def joined(cfg: Any, processes: int, signals: Any) -> Iterator[str | None]:
    """Makes this process one of several, where it was started as such, until the end.

    Gives the command that started them all, if it is another one than this process's.

    Raises:
      UserError: hosts that differ. LostPeer: hosts that are missing.
    """
    wire.start_jax()
    from aigc_jax.train import cluster, peers

    found = None if processes == 1 else cluster.detected(os.environ)
    if found is None:
        yield None
        return
    try:
        flat = {name: value for name, value, _ in config.diff(cfg, {})}
        star = cluster.join(found, flat, signals)
    except BaseException as error:
        peers.here().leave(*_last_word(error))
        raise
    try:
        with contextlib.ExitStack() as held:
            star.parent = int(os.environ.get("AIGC_PARENT", 0)) or None
            if star.index:  # one of them talks
                quiet = held.enter_context(open(os.devnull, "w"))
                held.enter_context(contextlib.redirect_stdout(quiet))
            yield os.environ.get("AIGC_COMMAND")
            cluster.part(star)
    except BaseException as error:
        words, code = _last_word(error)
        if isinstance(error, Exception) and not isinstance(error, UserError):
            traceback.print_exc()
        else:
            who = f"process {star.index}: " if star.index else ""
            print(f"aigc: {who}{words}", file=sys.stderr, flush=True)
        star.leave(words, code)
        if star.count > 1:
            # At the end of Python, JAX would wait for the others, who may never come.
            os._exit(code)
        raise


def _last_word(error: BaseException) -> tuple[str, int]:
    """One line and the exit code for what went wrong in one process of several."""
    from aigc_jax.train.signals import Early

    if isinstance(error, Early):
        return f"{error}: stopped before the first step; the same command starts it", STOPPED
    return str(error).split("\n")[0] or type(error).__name__, getattr(error, "exit_code", 1)


def one(
    cfg: Any,
    workdir: Path,
    *,
    signals: Any,
    command: str | None = None,
    told: Callable[[int, dict[str, float]], None] | None = None,
    allowed: Sequence[str] = (),
    parts: Callable[[Any], wire.Parts] = wire.parts,
    profile: str = "",
) -> Any:
    """One run in this process: starts it, or goes on with it, and writes its report.

    Args:
      cfg: complete. workdir: the run folder; made and locked here. command: what to type to go on
        with it; it is also what the folder says it was started by. None: as this process was.
      signals: installed by the caller, with `saves=False`: set to True once there is something to
        save. told: as the loop's. allowed: settings that may differ from the folder's.
      parts: makes the parts of the run; another one may keep some from run to run.
      profile: "FIRST:END", steps to trace; see `train.profile`.

    Returns:
      A `train.loop.Outcome`.

    Raises:
      UserError: a mistake in what was asked. StorageError: the disk. BadNumbers: see
      `Settings.on_bad`. Early: a signal before the first step.
    """
    from aigc_jax.train import peers

    changed_settings(cfg, workdir, allowed)
    command = command or shlex.join(["aigc", *sys.argv[1:]])
    with contextlib.ExitStack() as held:
        fresh = not workdir.exists()
        if not fresh:
            held.enter_context(taken(workdir))
        built = parts(cfg)
        trace = _trace(profile, workdir, built.settings.steps)
        if fresh:  # only now, so that a mistake leaves no empty folder behind
            held.enter_context(taken(workdir))
        # Once more: another process may have been here before we had the lock.
        changed = changed_settings(cfg, workdir, allowed)
        check_data(built, workdir, allowed)
        peers.here().everyone("the run folder")  # what was compared above is about to change
        held.enter_context(_said_to_be(command))
        return _train(built, workdir, signals, changed, command, told, trace)


def _trace(words: str, workdir: Path, steps: int) -> Any:
    from aigc_jax.train.profile import parse

    return parse(words, workdir, steps)


@contextlib.contextmanager
def _said_to_be(command: str) -> Iterator[None]:
    """Lets the run folder tell of this command, whatever process trains it."""
    before = sys.argv
    words = shlex.split(command)
    sys.argv = before if words[1:] == before[1:] else words
    try:
        yield
    finally:
        sys.argv = before


def taken(workdir: Path) -> Any:
    """Makes the run folder and returns its lock."""
    from aigc_jax.train import peers
    from aigc_jax.train.lock import Lock
    from aigc_jax.train.storage import storage_errors

    if peers.here().index:
        return contextlib.nullcontext()  # process 0 has it
    with storage_errors(workdir):
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(
                f"--workdir={workdir}: expected a folder, and a file stands in its place; choose"
                " another."
            ) from None
    return Lock(workdir)


def default_workdir(spec: str, debug: bool) -> Path:
    """Returns runs/RECIPE, or runs/RECIPE-debug."""
    path, _, argument = spec.partition(":")
    name = "-".join(filter(None, [Path(path).stem, argument, "debug" if debug else ""]))
    return Path("runs") / name


def _allowed(cfg: Any, words: list[str]) -> list[str]:
    """Checks that what may change is a setting or a section."""
    known = {name for name, _, _ in config.diff(cfg, {})}
    known |= {name.rpartition(".")[0] for name in known} | set(cfg)
    names = [word.removeprefix("--").removeprefix("config.") for word in words]
    for name in names:
        if name not in known:
            raise UserError(
                f"--allow-change={name}: there is no such setting or section.{nearest(name, known)}"
            )
    return names


def _saved(workdir: Path) -> bool:
    """Whether there is a checkpoint, and so something that a changed config could spoil."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))


def changed_settings(cfg: Any, workdir: Path, allowed: Sequence[str]) -> tuple[str, ...]:
    """Compares the config with the one that the checkpoints of the run folder were made with.

    Returns:
      The names in `hyper` that were allowed to change.

    Raises:
      UserError: something else has changed; the differences are listed.
    """
    path = workdir / "config.json"
    if not path.is_file() or not _saved(workdir):
        return ()
    # Filled, so that a knob that the code has gained since does not read as a change.
    saved = config.fill(config.from_json(path.read_text()), str(path))
    differences = config.diff(saved, cfg)
    known = [name for name, _, _ in differences]
    refused = [
        d for d in differences if not any(d[0] == a or d[0].startswith(f"{a}.") for a in allowed)
    ]
    if refused:
        words = "; ".join(f"{name}: {old!r} -> {new!r}" for name, old, new in refused)
        raise UserError(
            f"{workdir} holds a run with another config ({words}). Give another --workdir, or"
            f" {' '.join(f'--allow-change={name}' for name, _, _ in refused)} to go on with the new"
            " value" + ("s." if len(refused) > 1 else ".")
        )
    return tuple(n.removeprefix("hyper.") for n in known if n.startswith("hyper."))


def check_data(built: wire.Parts, workdir: Path, allowed: Sequence[str]) -> None:
    """Raises UserError when the text behind an unchanged config has become another one."""
    words = wire.other_data(workdir, built.data.fingerprint) if _saved(workdir) else ""
    if words and "data" not in allowed:
        raise UserError(f"{words} Give another --workdir, or --allow-change=data to go on.")


def _train(
    built: wire.Parts,
    workdir: Path,
    signals: Any,
    changed: tuple[str, ...],
    command: str,
    told: Callable[[int, dict[str, float]], None] | None,
    trace: Any,
) -> Any:
    import jax

    from aigc_jax.data.prefetch import Prefetcher
    from aigc_jax.report.folder import Run
    from aigc_jax.report.html import render
    from aigc_jax.train import evaluation, shards
    from aigc_jax.train.environment import environment
    from aigc_jax.train.log import warn
    from aigc_jax.train.loop import Loop
    from aigc_jax.train.program import capacity
    from aigc_jax.train.storage import write_atomic

    shard, writes = shards.rows(built.placement), jax.process_index() == 0
    if words := wire.advice(built):
        warn(words)

    def write_sample(step: int, text: str) -> None:
        evaluation.write_sample(workdir, step, text)
        loop.log.text(step, "sample", text)

    def write_picture(step: int, name: str, pixels: Any) -> None:
        evaluation.write_picture(workdir, step, name, pixels)
        loop.log.picture(step, name, pixels)

    most = capacity(built.settings.steps_per_call, built.data.spec.arrays)
    with Prefetcher(lambda step: built.data.batch(step, shard), 0, depth=2 * most) as prefetcher:
        loop = Loop(
            built.task,
            prefetcher.get,
            wire.evaluators(built, signals, workdir, write_sample, write_picture),
            built.placement,
            settings=built.settings,
            hyper=built.config["hyper"],
            workdir=workdir,
            signals=signals,
            config=built.config,
            unit=built.data.spec.facts.get("unit", "examples"),
            changed_hyper=changed,
            prepare=wire.initial_weights(built.config["init_from"]),
            opened=lambda: write_folder(built, workdir, environment()) if writes else None,
            command=command,
            profile=trace,
            **({"told": told} if told else {}),
        )
        signals.saves = True
        outcome = loop.run()
    if writes:
        write_atomic(workdir / "report.html", render(Run(workdir)))
    return outcome


def write_folder(built: wire.Parts, workdir: Path, environment: dict[str, Any]) -> None:
    """Writes what describes the run, before its first step."""
    from aigc_jax.train.log import strict
    from aigc_jax.train.storage import write_atomic

    # Floors that evaluators have added stay, as long as they are of this data.
    same = not wire.other_data(workdir, built.data.fingerprint)
    facts = {
        name: value
        for name, value in built.data.spec.facts.items()
        if not hasattr(value, "shape") or value.shape == ()
    }
    files = {
        "env.json": json.dumps(strict(environment), indent=2),
        "data.json": json.dumps(strict({"fingerprint": built.data.fingerprint, **facts}), indent=2),
        # Last: a folder with a config is a run.
        "config.json": config.to_json(built.config).rstrip(),
    }
    if facts.get("floors") and not (same and (workdir / "floors.json").is_file()):
        files["floors.json"] = json.dumps(strict({"validation/loss": facts["floors"]}), indent=2)
    if built.data.tokenizer is not None:
        files["tokenizer.json"] = json.dumps(built.data.tokenizer.to_dict(), ensure_ascii=False)
    for name, text in sorted(files.items(), key=lambda item: item[0] == "config.json"):
        write_atomic(workdir / name, text + "\n")


def _dry_run(cfg: Any) -> int:
    built = wire.parts(cfg)
    import jax

    from aigc_jax.core import tree

    hyper = {name: jax.ShapeDtypeStruct((), "float32") for name in built.config["hyper"]}
    state = jax.eval_shape(built.task.init, jax.random.key(0), hyper)
    where = dict(tree.named_leaves(built.placement.state(state)))
    for name, leaf in tree.named_leaves(state.params):
        spec = where[f"params/{name}"].spec
        print(f"{name:60} {leaf.dtype}{list(leaf.shape)}" + (f"  {spec}" if any(spec) else ""))
    print(f"parameters: {tree.count(state.params):,}; state: {tree.size_bytes(state):,} bytes")
    for name, spec in built.data.spec.arrays.items():
        print(f"batch {name}: {spec.dtype}{list(spec.shape)}")
    print(f"{built.placement.words(state)}; config: {config.digest(cfg)[:12]}")
    if words := wire.advice(built):
        print(words)
    return 0

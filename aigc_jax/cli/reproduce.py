"""`aigc reproduce STUDY`: runs a study of a paper and sets its table beside ours."""

import argparse
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aigc_jax.cli import launch
from aigc_jax.errors import UserError, nearest


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "reproduce",
        help="runs a study in experiments/ and sets the paper's table beside ours",
        description="The same command again goes on: what is finished is not run again. Any"
        " setting of all trials can be changed with --config.SECTION.NAME=VALUE. Exit codes: 0"
        " all is run; 2 a mistake in what was asked; 3 some trials failed; 75 stopped by a signal.",
    )
    parser.add_argument("study", metavar="STUDY", help="experiments/NAME.py, or NAME")
    parser.add_argument("--scale", default="cpu", help="one of the study's scales (default: cpu)")
    parser.add_argument("--engine", default="vectorised", help=", ".join(launch.ENGINES))
    parser.add_argument("--workers", type=int, metavar="N",
                        help="processes, of the engines that have any (default: 1)")  # fmt: skip
    parser.add_argument("--workdir", type=Path, help="of the run folders (default: runs/NAME)")
    parser.add_argument("--results", type=Path, metavar="DIR",
                        help="of the table (default: results/NAME beside the study)")  # fmt: skip
    parser.add_argument("--only", action="append", default=[], metavar="ROW",
                        help="run this row alone; may be repeated")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan, run nothing")
    parser.add_argument("--page", action="store_true",
                        help="run nothing; judge the claims and write README.md of what the"
                        " record has, at all scales")  # fmt: skip
    parser.set_defaults(run=run, overrides=[])


def run(args: argparse.Namespace) -> int:
    """Plans, runs what is missing, judges, writes."""
    from aigc_jax.sweep import study as studies
    from aigc_jax.sweep import verdicts, writeup
    from aigc_jax.train.storage import storage_errors, write_atomic

    study = studies.read(studies.find(args.study))
    if args.page:
        if args.dry_run or args.only:
            raise UserError("--page writes the whole page and runs nothing; use it without"
                            " --dry-run and --only.")  # fmt: skip
        if args.overrides:
            raise UserError("--page runs nothing, so it takes no --config.SECTION.NAME.")
        return _page(study, args.results or home(study))
    scale = chosen(study.scales, args.scale, f"{study.name} has no scale")
    for name in args.only:
        chosen({row.name: row for row in study.rows}, name, f"{study.name} has no row")
        if scale.rows is not None and name not in scale.rows:
            raise UserError(f"{study.name}: row '{name}' is not run at scale {scale.name}.")
    launch.check_engine(args.engine)
    launch.check_workers(args.engine, args.workers)
    root = (args.workdir or Path("runs") / study.name) / scale.name
    jobs = studies.jobs(study, scale, args.overrides, root)
    counts: dict[str, tuple[int, int]] = {}
    for job in jobs:
        if not args.only or job.row.name in args.only:
            trials, done = counts.get(job.row.name, (0, 0))
            ended = verdicts.state(job.planned.workdir) != verdicts.UNFINISHED
            counts[job.row.name] = (trials + 1, done + ended)
    planned = {job.planned.id: job.planned for job in jobs
               if job.row.name in counts
               and verdicts.state(job.planned.workdir) == verdicts.UNFINISHED}  # fmt: skip
    print(writeup.as_plan(study, scale, counts, len(planned)), flush=True)
    if args.dry_run:
        return 0
    launch.check_options(args.engine, list(planned.values()), ())
    code, begin = 0, time.monotonic()
    clock = root / "wall"
    spent = float(clock.read_text()) if clock.is_file() else 0.0
    if planned:
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
        try:
            watched = study.metrics[scale.metric] if scale.metric else study.metric
            code = launch.launch(
                list(planned.values()), root, engine=args.engine, workers=args.workers or 1,
                metric=watched.name, direction=watched.direction,
            )  # fmt: skip
        finally:
            spent += time.monotonic() - begin
            write_atomic(clock, f"{spent:.1f}\n")
    _write(study, scale, jobs, _home(args, study, scale, root), _command(args, study), spent)
    if code == 75:
        print(f"stopped; to go on: {_typed(args)}")
    return code


def chosen(known: Any, name: str, complaint: str) -> Any:
    """Returns one of a dict's values; UserError, with the nearest name, for a key it hasn't."""
    if name not in known:
        raise UserError(f"{complaint} '{name}'.{nearest(name, known)} There are:"
                        f" {', '.join(known)}.")  # fmt: skip
    return known[name]


def home(study: Any) -> Path:
    """Where a study's results stand: results/NAME beside its file."""
    return Path(study.path).parent / "results" / str(study.name)


def _home(args: argparse.Namespace, study: Any, scale: Any, root: Path) -> Path:
    """What a smoke run gives, or one with other settings, is no result, and stays with its runs."""
    from aigc_jax.sweep.study import SMOKE

    aside = scale.name == SMOKE or _own_settings(args.overrides)
    return args.results or (root / "results" if aside else home(study))


def _own_settings(overrides: Sequence[str]) -> list[str]:
    """Those of the typed settings that say more than where things are on this machine."""
    from aigc_jax.sweep.record import hidden_word

    place = "--config.data.path="
    return [word for word in overrides if not word.startswith(place) and hidden_word(word) == word]


def _command(args: argparse.Namespace, study: Any) -> str:
    """The command for a reader: without places of this machine, nor how it was spread."""
    from aigc_jax.sweep.record import hidden_word

    words = ["aigc", "reproduce", f"experiments/{study.path.name}", f"--scale={args.scale}"]
    return shlex.join([*words, *map(hidden_word, args.overrides)])


def _typed(args: argparse.Namespace) -> str:
    words = ["aigc", "reproduce", args.study, f"--scale={args.scale}", f"--engine={args.engine}"]
    words += [f"--workers={args.workers}"] if args.workers else []
    words += [f"--workdir={args.workdir}"] if args.workdir else []
    words += [f"--results={args.results}"] if args.results else []
    words += [f"--only={name}" for name in args.only]
    return shlex.join([*words, *args.overrides])


def _write(
    study: Any, scale: Any, jobs: Sequence[Any], folder: Path, command: str, wall: float
) -> None:
    """Judges what was run and writes it down; nothing where nothing was."""
    from aigc_jax.sweep import analyses, record, verdicts, writeup
    from aigc_jax.train.storage import storage_errors, write_atomic

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    whole = record.load(folder / "record.json")
    before = whole["scales"].get(scale.name, {})
    trials = verdicts.collect(study, jobs, scale, before.get("trials", ()))
    results = verdicts.judge(study, scale, trials)
    found = analyses.analyse(study, trials)
    fresh = record.of_scale(
        study, scale, trials, results, command=command, wall=wall, quantities=found.quantities
    )
    merged = record.merged(before, fresh, analyses.through(trials))
    merged = record.finished(study, scale, merged, before)
    print(writeup.as_text(study, merged))
    if not merged["trials"]:
        return
    whole["scales"][scale.name] = merged
    write_atomic(folder / "record.json", record.as_json(whole))
    with storage_errors(folder):
        writeup.draw(study, scale, merged, found, folder / f"{scale.name}.png")
    # The page last: whoever finds it finds what it speaks of.
    _page(study, folder)


def _page(study: Any, folder: Path) -> int:
    """Writes README.md from the record; words outside of what the command writes stay.

    Claims are judged again, by the study as it is now. A picture that is missing is drawn, where
    the record has all that is in it.
    """
    from aigc_jax.sweep import analyses, record, writeup
    from aigc_jax.train.storage import storage_errors, write_atomic

    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found = record.load(folder / "record.json")
    for name in study.scales.keys() & found["scales"].keys():
        scale, out = study.scales[name], folder / f"{name}.png"
        made = found["scales"][name] = record.judged_again(study, scale, found["scales"][name])
        if not out.is_file() and (study.analysis or {"name": "rows"})["name"] == "rows":
            with storage_errors(folder):
                writeup.draw(study, scale, made, analyses.Found({}), out)
    pictures = {name: f"{name}.png" for name in study.scales if (folder / f"{name}.png").is_file()}
    if found["scales"]:
        write_atomic(folder / "record.json", record.as_json(found))
    page = folder / "README.md"
    before = page.read_text(encoding="utf-8") if page.is_file() else ""
    write_atomic(page, writeup.readme(study, found, before, pictures))
    print(f"{page} is written.")
    return 0

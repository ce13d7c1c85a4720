"""`aigc check-resume CONFIG`: is N steps the same as N/2, kill -9, N/2, bit for bit?"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aigc_jax.cli import front, wire
from aigc_jax.core import config
from aigc_jax.errors import UserError

DIFFERS = 5
_TIMED = ("time/", "speed/", "memory/")


def add(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "check-resume",
        help="prove that a killed and resumed run equals an uninterrupted one, bit by bit",
        description="Exit codes: 0 bit-exact; 5 the first difference is named.",
    )
    front.add_config_arguments(parser)
    parser.add_argument("--steps", type=int, default=20, help="N, even (default 20)")
    parser.add_argument("--debug", action="store_true", help="show the runs and keep their folders")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs N steps, and N/2 steps + SIGKILL + the rest, then compares everything saved."""
    if args.steps < 4 or args.steps % 2:
        raise UserError(f"--steps={args.steps}: expected an even number of 4 or more.")
    half = args.steps // 2
    knobs = {"steps": args.steps, "save_every": half, "log_every": max(1, half // 3)}
    short = [f"--config.run.{name}={value}" for name, value in knobs.items()]
    short.append("--config.run.tensorboard=false")
    config.load(args.config, [*args.overrides, *short])
    base = Path(tempfile.mkdtemp(prefix="aigc-check-resume-"))
    try:
        words = ["train", args.config, *args.overrides, *short]
        _start([*words, f"--workdir={base / 'whole'}"], args.debug)
        killed = [*words, f"--workdir={base / 'killed'}"]
        _start(killed, args.debug, kill_at=half)
        _start(killed, args.debug)
        difference = compare(base / "whole", base / "killed")
    finally:
        if args.debug:
            print(f"kept: {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    if difference:
        print(f"NOT bit-exact after {half} steps, SIGKILL, {half} steps: {difference}")
        return DIFFERS
    print(f"bit-exact: {args.steps} steps = {half} steps + SIGKILL + {half} steps")
    return 0


def _start(words: list[str], show: bool, kill_at: int | None = None) -> None:
    code = f"from aigc_jax.cli import check_resume as c; c.child({words!r}, {kill_at!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL,
        stdout=None if show else subprocess.PIPE, stderr=None if show else subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    expected = -signal.SIGKILL if kill_at is not None else 0
    if done.returncode != expected:
        tail = (done.stdout or "").strip().splitlines()[-1:] or ["see above"]
        raise UserError(
            f"a run ended with exit code {done.returncode} instead of {expected}: {tail[0]}"
        )


def child(words: list[str], kill_at: int | None) -> None:
    """Runs `aigc` in this process; kills it once the checkpoint at `kill_at` is complete."""
    from aigc_jax.cli.main import main

    if kill_at is not None:
        from aigc_jax.data.prefetch import Prefetcher

        folder = Path(words[-1].removeprefix("--workdir=")) / "checkpoints"
        draw = Prefetcher.get

        def get(self: Any, index: int) -> Any:
            if index > kill_at:
                while not (folder / str(kill_at)).exists():
                    time.sleep(0.01)
                os.kill(os.getpid(), signal.SIGKILL)
            return draw(self, index)

        Prefetcher.get = get  # type: ignore[method-assign]
    sys.exit(main(words))


def compare(a: Path, b: Path) -> str | None:
    """Compares the newest checkpoints and the metrics of two runs; None when they are equal."""
    from aigc_jax.core import tree

    states = []
    for run_folder in (a, b):
        done = wire.trained(run_folder)
        import jax

        host = jax.device_get(done.state.replace(key=jax.random.key_data(done.state.key)))
        states.append(host)
    difference = tree.first_difference(*states)
    if difference:
        return difference
    rows = [_rows(run_folder) for run_folder in (a, b)]
    for one, other in zip(*rows, strict=False):
        if one != other:
            return f"metrics.jsonl at step {one['step']}: {_first(one, other)}"
    if len(rows[0]) != len(rows[1]):
        return f"metrics.jsonl has {len(rows[0])} rows against {len(rows[1])}"
    return None


def _rows(run_folder: Path) -> list[dict[str, Any]]:
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k != "wall" and not k.startswith(_TIMED)}
        for line in lines
    ]


def _first(one: dict[str, Any], other: dict[str, Any]) -> str:
    name = next(n for n in [*one, *other] if one.get(n) != other.get(n))
    return f"{name} is {one.get(name)} against {other.get(name)}"

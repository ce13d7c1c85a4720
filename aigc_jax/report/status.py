"""`aigc status`: what happened to a run, and what to type next."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from aigc_jax.core.units import LOOP_METRICS, clock, figure, human
from aigc_jax.report.folder import Run
from aigc_jax.report.table import table

_SAID = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped; it can go on",
    "failed": "failed",
    "died": "died without a word (killed, or a loss of power); it can go on",
    "unknown": "unknown",
}


_TRAIN = ("train/loss", "train/grad_norm", "train/lr")


def describe(run: Run) -> str:
    """Returns some lines on a run: its state, its last metrics, its clock, and the next command."""
    state = run.state
    head = f"{run.path}: {_SAID.get(state, state)}"
    if state == "unknown" and run.status.get("state") == "running":
        host = run.status.get("host", "another machine")
        head = f"{run.path}: said to be running on {host}, which can't be seen from here"
    lines = [head, f"  step     {_steps(run)}"]
    reason = run.status.get("reason")
    if reason and state not in ("running", "died"):
        lines.append(f"  reason   {reason}")
    lines += _metrics(run)
    lines.append(f"  time     {_time(run, state)}")
    if run.checkpoints:
        lines.append(f"  saved    checkpoint of step {run.checkpoints[-1]}")
    lines.append(f"  next     {next_command(run)}")
    return "\n".join(lines)


def overview(runs: Sequence[Run]) -> str:
    """Returns a table with one line a run."""
    rows = []
    for run in runs:
        metric = run.headline
        last = run.last(metric) if metric else None
        rows.append(
            [
                str(run.path),
                run.state,
                _steps(run),
                f"{metric} {figure(last[1])}" if last else "",
                clock(run.wall),
                _ago(run.updated),
            ]
        )
    return table(["run", "state", "step", "last", "trained", "updated"], rows)


def next_command(run: Run) -> str:
    """Returns what to type next: to watch a run, to go on with it, or to look at what it made."""
    state = run.state
    path = shlex.quote(str(run.path))
    if state == "running":
        return f"aigc status {path}"
    if state == "finished":
        return f"aigc report {path}"
    if state in ("stopped", "failed") and run.status.get("next"):
        return str(run.status["next"])
    return command(run) or f"aigc train CONFIG --workdir={path}"


def command(run: Run) -> str:
    """Returns the command that started the run, which also goes on with it; "" if unknown."""
    words = run.status.get("command") or run.env.get("command")
    if not isinstance(words, list) or not words:
        return str(words or "")
    first = Path(str(words[0]))
    program = [str(first)]
    if first.name == "aigc":
        program = ["aigc"]
    elif first.suffix == ".py" and first.parent.name in ("aigc_jax", "cli"):
        program = ["python", "-m", "aigc_jax.cli.main"]
    return shlex.join([*program, *map(str, words[1:])])


def _steps(run: Run) -> str:
    if not run.steps:
        return str(run.step)
    return f"{run.step} of {run.steps} ({100 * run.step // run.steps} %)"


def _metrics(run: Run) -> list[str]:
    """One line for the numbers of training that matter most, one for the latest evaluation."""
    lines = []
    judged = [name for name in run.metrics if not name.startswith(LOOP_METRICS)]
    speed = [name for name in run.metrics if name.startswith("speed/")]
    for title, names in (("train", [*_TRAIN, *speed]), ("eval", judged)):
        found = [(name, last) for name in names if (last := run.last(name))]
        if not found:
            continue
        step = max(last[0] for _, last in found)
        words = [
            f"{name} {human(value) if name.endswith('_per_s') else figure(value)}"
            for name, (at, value) in found
            if at == step
        ]
        lines.append(f"  {title:<8} {'  '.join(words)}  (step {step})")
    return lines


def _time(run: Run, state: str) -> str:
    words = [f"{clock(run.wall)} of training"]
    eta = run.status.get("eta_s")
    if state == "running" and isinstance(eta, int | float):
        words.append(f"about {clock(eta)} left")
    if run.updated:
        place = f" on {run.status['host']}" if run.status.get("host") else ""
        words.append(f"last heard of {_ago(run.updated)}{place}, process {run.status.get('pid')}")
    return ", ".join(words)


def _ago(moment: datetime | None) -> str:
    if moment is None:
        return "?"
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    if seconds < 90:
        return f"{seconds:.0f} s ago"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min ago"
    return f"{seconds / 3600:.0f} h ago" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} d ago"

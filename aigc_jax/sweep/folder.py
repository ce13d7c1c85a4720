"""A sweep folder: sweep.json, which says what is swept, and what its run folders say of trials."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.errors import UserError
from aigc_jax.train.log import strict
from aigc_jax.train.storage import storage_errors, write_atomic


class Sweep(NamedTuple):
    """What is swept, whatever engine runs it.

    Attributes:
      recipe, overrides: of all trials, as typed.
      space: `Space.to_dict`'s description; {} for a list that was made in another way.
      metric: what a trial is judged by. direction: "minimize" or "maximize".
    """

    recipe: str
    overrides: list[str]
    space: Mapping[str, Any]
    metric: str
    direction: str


def claim(root: Path, sweep: Sweep) -> None:
    """Makes the folder of this sweep, or finds it as an earlier start has left it.

    Raises:
      UserError: the folder holds another sweep, or a run. StorageError: the disk.
    """
    path = root / "sweep.json"
    with storage_errors(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(
                f"--workdir={root}: expected a folder, and a file stands in its place; choose"
                " another."
            ) from None
    if (root / "config.json").exists():
        raise UserError(f"--workdir={root} holds a single run; choose another for the sweep.")
    # As JSON has it, so that what was written equals what is read.
    asked = json.loads(json.dumps(strict(sweep._asdict())))
    if path.is_file():
        there = read(root)._asdict()
        changed = [name for name in asked if asked[name] != there[name]]
        if changed:
            said = "; ".join(
                f"{name}: {_short(there[name])} -> {_short(asked[name])}" for name in changed
            )
            raise UserError(
                f"{root} holds another sweep ({said}). Give another --workdir, or the command that"
                " it was started with."
            )
        return
    write_atomic(path, json.dumps(asked, indent=2) + "\n")


def adopt(root: Path, recipe: str, metric: str, direction: str) -> None:
    """Writes the sweep.json of a list of trials that was made in another way, if it lacks one.

    Raises:
      UserError: the folder can't be one. StorageError: the disk.
    """
    path, mine = root / "sweep.json", Sweep(recipe, [], {}, metric, direction)
    if path.is_file() and not read(root).space:
        said = json.dumps(strict(mine._asdict()), indent=2) + "\n"
        if path.read_text(encoding="utf-8") != said:
            write_atomic(path, said)
    elif not path.is_file():
        claim(root, mine)


def read(root: Path) -> Sweep:
    """Returns what sweep.json says.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path = root / "sweep.json"
    if not path.is_file():
        raise UserError(f"{root} is no sweep folder: it has no sweep.json.")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Sweep(**{name: said[name] for name in Sweep._fields})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); was it edited?") from None


class Outcome(NamedTuple):
    """What a run folder says of its trial: how it ended, at which step, with which score."""

    state: str  # "finished", "pruned", "failed", "" for one that is to go on or to begin
    step: int
    score: float  # nan where the metric was never written
    reason: str


def outcome(workdir: Path, metric: str) -> Outcome:
    """Reads how a trial has ended, from its status.json alone."""
    try:
        said = json.loads((workdir / "status.json").read_text(encoding="utf-8"))
        state, reason = str(said["state"]), str(said.get("reason") or "")
        score, step = _number(said.get("last", {}).get(metric)), int(said.get("step", 0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Outcome("", 0, math.nan, "")
    if state == "stopped" and reason == "pruned":
        state = "pruned"
    return Outcome(state if state in ("finished", "pruned", "failed") else "", step, score, reason)


def scored(values: Sequence[float]) -> float:
    """The score of several runs of one trial: their mean."""
    return sum(values) / len(values)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _short(value: Any, longest: int = 120) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else text[: longest - 3] + "..."

"""`aigc bisect`: the first step and the first tensor at which two runs part, and what caused it.

By their fingerprints, which tell exactly; without them by their metrics and checkpoints, as far as
those tell.
"""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.report.compare import differences, plain, show
from aigc_jax.report.folder import AXES, Run
from aigc_jax.report.prints import GROUPS, Prints, group, read
from aigc_jax.report.status import command
from aigc_jax.report.table import table

FLAG = "--config.run.fingerprint=true"

_TIMED = tuple(name for name in LOOP_METRICS if name != "train/")
_ENVIRONMENT = ("git.diff", "command")  # too long, or never the same
_LISTED = 3

# step -> what differs between the two checkpoints of this step, in words, or None
Checkpoint = Callable[[int], str | None]


class Parting(NamedTuple):
    """Where two runs part.

    Attributes:
      step: the first one that differs. before: the last one before it that was compared and is the
        same; None where it is the first of all.
      names: of the tensors that differ there, in the order of telling.
      counts: tensors of each part in all.
    """

    step: int
    before: int | None
    names: list[str]
    counts: dict[str, int]


class Verdict(NamedTuple):
    """What is known of two runs.

    Attributes:
      same: no difference was found. step, tensor: the first difference.
      by: what it was told by: "fingerprints", "metrics" or "checkpoints".
      lines: all of it in words; the first one is the answer.
      config, environment: path -> the two values, where they are not the same.
    """

    same: bool
    step: int | None
    tensor: str | None
    by: str
    lines: list[str]
    config: dict[str, list[Any]]
    environment: dict[str, list[Any]]


def bisect(a: Run, b: Run, checkpoint: Checkpoint) -> Verdict:
    """Finds where two runs part.

    Args:
      a, b: the runs.
      checkpoint: compares their checkpoints of a step that both have.
    """
    prints = read(a.path), read(b.path)
    runs, settings = (a, b), differences([a.config, b.config]) if a.config and b.config else {}
    around = _environment(a, b)
    common = sorted(prints[0].rows.keys() & prints[1].rows.keys())
    notes = [*_missing(a, b), *_lengths(runs, prints, common), *_starts(runs, prints)]
    if common:
        found = by_prints(*prints, common)
        last = max(a.checkpoints, default=-1)
        if found is None and last in b.checkpoints and last > common[-1]:
            notes += _after(common[-1], last, words := checkpoint(last))
            if words:
                lines = [f"{_pair(a, b)} part between step {common[-1]} and {last}: {words}"]
                return Verdict(False, last, words.split(":")[0], "checkpoints", [*lines, *notes],
                               settings, around)  # fmt: skip
        if found is None:
            span = f"steps {common[0]} to {common[-1]}" if len(common) > 1 else f"step {common[0]}"
            line = (
                f"{_pair(a, b)} are the same at all {len(common)} steps that both have fingerprints"
                f" of ({span}): every batch, key and parameter."
            )
            return Verdict(True, None, None, "fingerprints", [line, *notes], settings, around)
        lines = [f"{_pair(a, b)} part at step {found.step}: {found.names[0]}", *_parts(found)]
        lines += [_cause(found, runs, prints), *notes]
        return Verdict(False, found.step, found.names[0], "fingerprints", lines, settings, around)
    return _coarse(a, b, checkpoint, notes, settings, around)


def by_prints(a: Prints, b: Prints, common: Sequence[int]) -> Parting | None:
    """Compares fingerprints at the steps that both have; None where all are the same."""
    before = None
    for step in common:
        (these, digits), (those, others) = a.rows[step], b.rows[step]
        if digits != others or these != those:
            one, other = a.row(step), b.row(step)
            kinds = [dict(zip(t.names, t.kinds, strict=True)) for t in (these, those)]
            shared = [name for name in these.names if name in other]
            names = [
                name
                for name in shared
                if one[name] != other[name] or kinds[0][name] != kinds[1][name]
            ]
            if names:
                order = list(GROUPS)
                names.sort(key=lambda name: order.index(group(name)))
                counts = {part: sum(group(n) == part for n in shared) for part in order}
                return Parting(step, before, names, counts)
        before = step
    return None


def _pair(a: Run, b: Run) -> str:
    return f"{a.path} and {b.path}"


def _parts(found: Parting) -> list[str]:
    """One line for each part of what went into the step."""
    lines = []
    for part, words in GROUPS.items():
        if not found.counts[part]:
            continue
        names = [name for name in found.names if group(name) == part]
        if not names:
            lines.append(f"  {words:21} the same")
            continue
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        which = f": {', '.join(names[:_LISTED])}{more}" if found.counts[part] > 1 else ""
        number = f", {len(names)} of {found.counts[part]} tensors" if found.counts[part] > 1 else ""
        lines.append(f"  {words:21} other{number}{which}")
    return lines


def _cause(found: Parting, runs: Sequence[Run], prints: Sequence[Prints]) -> str:
    """Says what differed first: the data, the key, a number, or the arithmetic."""
    first = group(found.names[0])
    rest = [GROUPS[p] for p in GROUPS if p != first and any(group(n) == p for n in found.names)]
    also = f" Other at the same step: {_and(rest)}." if rest else ""
    if first in ("batch", "key", "hyper"):
        what = {
            "batch": "The data differed first: this step read another batch.",
            "key": "The key differed first: this step drew other random numbers.",
            "hyper": "A number that the step reads differed first, not the data or the arithmetic.",
        }[first]
        return what + also
    again = [run.path for run, p in zip(runs, prints, strict=True) if found.step in p.starts[1:]]
    if again:
        return (
            f"{_and([str(path) for path in again])} was started again at this very step, with the"
            " same data and key: what was restored is not what the other run had."
        )
    if found.before is None:
        start = "The runs began with other numbers" if found.step == 0 else "They parted earlier"
        return f"{start}: the data and the key are the same." + also
    if found.before < found.step - 1:
        return (
            f"All was the same at step {found.before}; between it and step {found.step} nothing is"
            f" known. With {FLAG} every step is."
        )
    return (
        f"The arithmetic differed: all that went into step {found.before} was the same, and other"
        " numbers came out of it."
    )


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


# --- remarks: one line each ------------------------------------------------------------------


def _missing(a: Run, b: Run) -> list[str]:
    lines = []
    for run in (a, b):
        absent = [n for n in ("config.json", "env.json") if not (run.path / n).is_file()]
        if absent:
            lines.append(f"{run.path} has no {_and(absent)}: that can't be compared.")
    if a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint:
        lines.append("The data are not the same: their content has another hash (data.json).")
    return lines


def _lengths(runs: Sequence[Run], prints: Sequence[Prints], common: Sequence[int]) -> list[str]:
    if any(not p.rows for p in prints):
        return [
            f"{run.path} has no fingerprints (it ran without {FLAG})."
            for run, p in zip(runs, prints, strict=True)
            if not p.rows
        ]
    lines = []
    (first, one), (second, other) = zip(runs, prints, strict=True)
    if abs(max(one.rows) - max(other.rows)) >= max(one.every, other.every):
        lines.append(
            f"{first.path} has fingerprints up to step {max(one.rows)}, {second.path} up to step"
            f" {max(other.rows)}."
        )
    if one.every != other.every:
        lines.append(
            f"{first.path} has fingerprints at every {one.every}. step, {second.path} at every"
            f" {other.every}.: {len(common)} steps could be compared."
        )
    names = [next(iter(p.rows.values()))[0].names for p in prints]
    only = [sorted(set(x) - set(y)) for x, y in (names, names[::-1])]
    for run, alone in zip(runs, only, strict=True):
        if alone:
            lines.append(f"Only {run.path} has {alone[0]}, {len(alone)} tensors in all.")
    return lines


def _starts(runs: Sequence[Run], prints: Sequence[Prints]) -> list[str]:
    lines = []
    for run, p in zip(runs, prints, strict=True):
        said = [s.get("from step") for s in run.status.get("starts", []) if isinstance(s, dict)]
        again = [str(step) for step in (p.starts if p.rows else said)[1:]]
        if again:
            lines.append(f"{run.path} was started again at step {_and(again)}.")
    return lines


def _after(last: int, saved: int, words: str | None) -> list[str]:
    if words:
        return [f"All that went into the steps up to {last} is the same."]
    return [f"The checkpoints of step {saved}, after the last of them, are the same too."]


def _environment(a: Run, b: Run) -> dict[str, list[Any]]:
    found = differences([a.env, b.env]) if a.env and b.env else {}
    rows = {
        path: values
        for path, values in found.items()
        if path not in _ENVIRONMENT and {} not in values  # a section that one of them leaves empty
    }
    if "git.diff" in found:
        rows["git.diff"] = ["other changes that are", "not committed"]
    return rows


# --- without fingerprints --------------------------------------------------------------------


def _coarse(
    a: Run, b: Run, checkpoint: Checkpoint, notes: list[str],
    settings: dict[str, list[Any]], around: dict[str, list[Any]],
) -> Verdict:  # fmt: skip
    """Compares metrics and checkpoints, and says how to learn more."""
    saved = sorted(set(a.checkpoints) & set(b.checkpoints))
    same: list[int] = []
    parted = None
    for step in saved:
        words = checkpoint(step)
        if words:
            parted = (step, words)
            break
        same.append(step)
    row = by_metrics(a, b)
    told = [f"Checkpoints that are the same: of step {_and(list(map(str, same)))}."] if same else []
    told += [f"The checkpoints of step {parted[0]} differ: {parted[1]}"] if parted else []
    more = [f"To learn the step and the tensor, run both again with {FLAG}:"]
    more += [f"  {rerun(run)}" for run in (a, b)] + [f"  aigc bisect {_again(a)} {_again(b)}"]
    if row is None and parted is None:
        steps = len({r["step"] for r in a.rows} & {r["step"] for r in b.rows})
        line = f"{_pair(a, b)} are the same as far as metrics and checkpoints tell"
        lines = [f"{line} ({steps} common steps of metrics.jsonl).", *told, *notes, *more]
        if not steps and not saved:
            lines[0] = f"{_pair(a, b)} have nothing in common that could be compared."
        return Verdict(True, None, None, "metrics", lines, settings, around)
    if row is not None and (parted is None or row[0] <= parted[0]):
        step, name, one, other = row
        line = f"{_pair(a, b)} part at step {step} or before: {name} is {one} against {other}"
        rest = [*told, *notes, *more]
        return Verdict(False, step, name, "metrics", [line, *rest], settings, around)
    assert parted is not None
    line = f"{_pair(a, b)} part at step {parted[0]} or before: {parted[1]}"
    rest = [*told[:-1], *notes, *more]
    name = parted[1].split(":")[0]
    return Verdict(False, parted[0], name, "checkpoints", [line, *rest], settings, around)


def by_metrics(a: Run, b: Run) -> tuple[int, str, Any, Any] | None:
    """Returns the first step at which a metric differs, its name and both values; None without.

    Metrics of time, speed and memory don't count, nor those that only one of the runs has.
    """
    left, right = _by_step(a), _by_step(b)
    for step in sorted(left.keys() & right.keys()):
        for name, value in left[step].items():
            if name in right[step] and right[step][name] != value:
                return step, name, value, right[step][name]
    return None


def _by_step(run: Run) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for row in run.rows:
        kept = {n: v for n, v in row.items() if n not in AXES and not n.startswith(_TIMED)}
        found.setdefault(row["step"], {}).update(kept)
    return found


def _again(run: Run) -> str:
    return shlex.quote(f"{run.path}-fingerprint")


def rerun(run: Run) -> str:
    """Returns the command that makes a run once more with fingerprints, in a folder beside it."""
    words = shlex.split(command(run))
    if "train" not in words[:5]:
        return f"aigc train CONFIG ... {FLAG} --workdir={_again(run)}"
    kept, skip = [], False
    for word in words:
        name = word.partition("=")[0]
        if not skip and name not in ("--workdir", FLAG.partition("=")[0]):
            kept.append(word)
        skip = word in ("--workdir", FLAG.partition("=")[0])
    return f"{shlex.join(kept)} {FLAG} --workdir={_again(run)}"


# --- in words --------------------------------------------------------------------------------


def as_text(verdict: Verdict) -> str:
    """Returns all of a verdict for a terminal."""
    parts = ["\n".join(verdict.lines)]
    sides = ["first", "second"]
    if verdict.config:
        rows = [[path, *map(show, values)] for path, values in verdict.config.items()]
        parts.append(table(["setting", *sides], rows))
    else:
        parts.append("No setting differs.")
    if verdict.environment:
        rows = [[path, *map(show, values)] for path, values in verdict.environment.items()]
        parts.append(table(["environment", *sides], rows))
    else:
        parts.append("The environment is the same.")
    return "\n\n".join(parts)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """Returns a verdict as JSON can hold it."""
    found = verdict._asdict()
    for name in ("config", "environment"):
        found[name] = {path: [plain(v) for v in pair] for path, pair in found[name].items()}
    return found

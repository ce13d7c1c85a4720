"""A sweep folder's trials, read back: as rows, as tables on the disk, as configurations."""

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.core import config
from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.errors import UserError, nearest
from aigc_jax.report import groups, status
from aigc_jax.report.curve import thin
from aigc_jax.report.folder import Run, find_runs, has_diverged
from aigc_jax.report.groups import SEED
from aigc_jax.sweep import folder, space
from aigc_jax.train.log import warn
from aigc_jax.train.storage import write_atomic

_ID = re.compile(r"[0-9a-f]{8}$")
_BUCKETS = 12  # of a curve; it keeps at most five points of each


class Row(NamedTuple):
    """One trial.

    Attributes:
      id: as in its folder's name, else of its config. path: its run folder.
      state: "finished", "pruned", "stopped", "failed", "running", "died", "unknown"; reason: of it.
      step, steps: the latest, the last that is planned (None: nobody said). wall: seconds.
      point: what differs within the sweep, by dotted path, the seed included.
      settings: the whole configuration, flat; {} where the run died before it wrote one.
      scores: metric -> the latest value; at: its step. best: metric -> (step, value) of its best.
      curves: metric -> its values over the steps, thinned, of evaluations and the training loss.
      higher: metrics of which larger is better. headline: what the run would be summed up by.
      fingerprint: of its data. protocols: metric -> how it was measured, as JSON.
      damaged: files that hold no JSON. command: as recorded.
    """

    id: str
    path: Path
    state: str
    reason: str
    step: int
    steps: int | None
    wall: float | None
    point: dict[str, Any]
    settings: Mapping[str, Any]
    scores: dict[str, float]
    at: dict[str, int]
    best: dict[str, tuple[int, float]]
    curves: dict[str, tuple[list[float], list[float]]]
    higher: frozenset[str]
    headline: str | None
    fingerprint: str
    protocols: Mapping[str, str]
    damaged: tuple[str, ...]
    command: str

    @property
    def diverged(self) -> bool:
        """Whether it ended on bad numbers."""
        return has_diverged(self.state, self.reason)

    @property
    def seed(self) -> Any:
        """The run's seed, None where nobody said."""
        return self.settings.get(SEED)


class Results(NamedTuple):
    """A sweep folder.

    Attributes:
      rows: its trials, the best first: finished ones by their score, then the others.
      ranked: those of the rows that finished with a score that compares with the others'.
      paths: the settings that differ. log: those of them that belong on a logarithmic axis.
      metric, higher: what trials are judged by, and whether larger is better.
      sweep: what sweep.json says; None without one, or a damaged one.
      warnings: sentences.
    """

    root: Path
    rows: list[Row]
    ranked: list[Row]
    paths: list[str]
    log: set[str]
    metric: str | None
    higher: bool
    sweep: folder.Sweep | None
    warnings: list[str]

    @property
    def settings(self) -> list[str]:
        """The paths, without the seed."""
        return [path for path in self.paths if path != SEED]


class Configuration(NamedTuple):
    """Trials that differ only in their seed, ranked ones and those that ended on bad numbers."""

    settings: dict[str, Any]
    rows: list[Row]
    scores: groups.Scores

    @property
    def mean(self) -> float:
        """Over the seeds; nan without a finite score."""
        return sum(self.scores.values) / len(self.scores.values) if self.scores.values else math.nan


def collect(root: Path) -> list[Row]:
    """Reads the run folders in a sweep folder, finished or not, in the order of their names.

    A file that is half written or damaged counts as empty and spoils nothing else.

    Raises:
      UserError: there is no such folder, or no run in it.
    """
    if root.is_file():
        raise UserError(f"{root} is a file; give the folder that aigc sweep wrote (--workdir).")
    if not root.is_dir():
        siblings = [p.name for p in root.parent.iterdir()] if root.parent.is_dir() else []
        raise UserError(
            f"{root} is not there; give the folder that aigc sweep wrote (--workdir)."
            + nearest(root.name, siblings)
        )
    runs = find_runs(root)
    if not runs:
        raise UserError(f"{root} holds no runs yet; give the folder that aigc sweep wrote.")
    rows = [_row(path) for path in runs]
    paths = groups.varied([row.settings for row in rows])
    for row in rows:
        row.point.update({path: row.settings[path] for path in paths if path in row.settings})
    return rows


def _row(path: Path) -> Row:
    run = Run(path, lenient=True)
    state, reason = run.state, str(run.status.get("reason") or "")
    if state == "stopped" and reason == "pruned":
        state = "pruned"
    names = run.metrics
    kept = [n for n in names if not n.startswith(LOOP_METRICS) or n == "train/loss"]
    lasts = {name: run.last(name) for name in kept}
    bests = {name: run.best(name) for name in kept}
    found = _ID.search(path.name)
    row = Row(
        id=found[0] if found else config.digest(run.config)[:8] if run.config else path.name,
        path=path, state=state, reason=reason, step=run.step, steps=run.steps, wall=run.wall,
        point={}, settings=groups.flat(run.config),
        scores={name: last[1] for name, last in lasts.items() if last},
        at={name: last[0] for name, last in lasts.items() if last},
        best={name: best for name, best in bests.items() if best},
        curves={name: thin(*run.series(name), _BUCKETS) for name in kept},
        higher=frozenset(name for name in kept if run.higher_is_better(name)),
        headline=run.headline, fingerprint=run.fingerprint,
        protocols={name: json.dumps(said, sort_keys=True) for name, said in run.protocols.items()},
        damaged=(), command=status.command(run),
    )  # fmt: skip
    return row._replace(damaged=tuple(run.damaged))


def read(root: Path, metric: str | None = None) -> Results:
    """Reads a sweep folder and ranks its trials.

    Args:
      root: with or without a sweep.json.
      metric: to rank by; None: the sweep's own, else what most runs would be summed up by.

    Raises:
      UserError: no folder, no runs in it, or a metric that none of them has.
    """
    rows = collect(root)
    warnings: list[str] = []
    sweep = None
    if (root / "sweep.json").exists():
        try:
            sweep = folder.read(root)
        except UserError as error:
            warnings.append(f"{error} It counts as missing.")
    known = sorted({name for row in rows for name in row.scores})
    if metric is not None and metric not in known:
        raise UserError(
            f"no trial has a metric '{metric}'.{nearest(metric, known)} "
            f"They have: {', '.join(known) or 'none'}"
        )
    if metric is None and sweep is not None and sweep.metric in known:
        metric = sweep.metric
    if metric is None:
        wishes = Counter(row.headline for row in rows if row.headline in row.scores)
        metric = wishes.most_common(1)[0][0] if wishes else None
    higher = any(metric in row.higher for row in rows)
    if sweep is not None and metric == sweep.metric:
        higher = sweep.direction == "maximize"
    ranked = _comparable(rows, metric, warnings) if metric else []
    ranked.sort(key=lambda row: _merit(row, metric, higher))
    placed = {row.path for row in ranked}
    others = [row for row in rows if row.path not in placed]
    others.sort(key=_unranked(metric, higher))
    warnings += [
        f"{row.path.name}: {', '.join(row.damaged)} can't be read and counts as empty."
        for row in rows
        if row.damaged
    ]
    paths = groups.varied([row.settings for row in rows])
    return Results(
        root, [*ranked, *others], ranked, paths, _logarithmic(rows, paths, sweep), metric, higher,
        sweep, warnings,
    )  # fmt: skip


def _comparable(rows: Sequence[Row], metric: str, warnings: list[str]) -> list[Row]:
    """The finished trials with a score at their last step, measured as most, on the same data."""
    done = [row for row in rows if row.state == "finished" and metric in row.scores]
    early = [row for row in done if row.steps is not None and row.at[metric] < row.steps]
    if early:
        done = [row for row in done if row.steps is None or row.at[metric] >= row.steps]
        warnings.append(
            f"{len(early)} finished trials have no {metric} at their last step and are not ranked:"
            f" {_listed(early)}"
        )
    for what, key in (
        ("under another protocol", lambda row: row.protocols.get(metric, "")),
        ("on other data", lambda row: row.fingerprint),
    ):
        counts = Counter(key(row) for row in done)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            left = [row for row in done if key(row) != usual]
            done = [row for row in done if key(row) == usual]
            warnings.append(
                f"{len(left)} finished trials were measured {what} than most and are not ranked:"
                f" {_listed(left)}"
            )
    return done


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(row.path.name for row in rows[:3]) + (", ..." if rows[3:] else "")


def _merit(row: Row, metric: str | None, higher: bool) -> tuple[bool, float]:
    value = row.scores.get(metric or "", math.nan)
    return not math.isfinite(value), 0.0 if not math.isfinite(
        value
    ) else -value if higher else value


def _unranked(metric: str | None, higher: bool) -> Any:
    order = ("finished", "running", "pruned", "stopped", "died", "failed", "unknown")

    def key(row: Row) -> Any:
        place = order.index(row.state) if row.state in order else len(order)
        return place, _merit(row, metric, higher), row.path.name

    return key


def _logarithmic(rows: Sequence[Row], paths: Sequence[str], sweep: Any) -> set[str]:
    """Settings that are drawn so, and those whose numbers span more than a factor of 20."""
    found = set()
    if sweep is not None and sweep.space:
        try:
            draws = space.Space.read(sweep.space).draws
        except (KeyError, TypeError, ValueError):
            draws = {}
        found = {path for path, how in draws.items() if getattr(how, "log", False)}
    for path in set(paths) - found - {SEED}:
        values = [row.settings[path] for row in rows if path in row.settings]
        if not values or not all(map(_is_number, values)):
            continue
        if min(values) > 0 and max(values) > 20 * min(values):
            found.add(path)
    return found & set(paths)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def configurations(found: Results) -> list[Configuration]:
    """Returns the trials by configuration, the best mean first.

    One with a seed that ended on bad numbers, or without a finite score, stands behind all that
    have none: the mean of the others would flatter it.
    """
    known = [*found.ranked, *(row for row in found.rows if row.diverged)]
    keys = [groups.without_seed(row.settings) for row in known]
    made = []
    for rows in groups.gathered(known, keys):
        in_order = sorted(rows, key=lambda row: (str(type(row.seed)), row.seed or 0))
        scores = groups.scores(
            [
                (row.seed, "finished", math.nan if row.diverged else row.scores[found.metric or ""])
                for row in in_order
            ]
        )
        settings = {path: rows[0].settings.get(path, groups.NONE) for path in found.settings}
        made.append(Configuration(settings, in_order, scores))
    sign = -1 if found.higher else 1
    return sorted(made, key=lambda c: (not c.scores.values, c.scores.diverged > 0, sign * c.mean))


# --- on the disk -------------------------------------------------------------------------------

_COLUMNS = ("id", "folder", "state", "reason", "step", "steps", "wall_s", "fingerprint", "command")


def table(found: Results) -> tuple[list[str], list[list[Any]]]:
    """Returns the names of the columns and one list of values a trial, None where one lacks it.

    The columns: those of the trial, its settings that differ as "config.hyper.lr", the latest value
    of each metric under its name, and of the sweep's metric the best one with its step.
    """
    metrics = sorted({name for row in found.rows for name in row.scores})
    best = [f"{found.metric} (best)", f"{found.metric} (best step)"] if found.metric else []
    head = [*_COLUMNS, *(f"config.{path}" for path in found.paths), *metrics, *best]
    lines = []
    for row in found.rows:
        line: list[Any] = [
            row.id, str(row.path.relative_to(found.root)), row.state, row.reason, row.step,
            row.steps, row.wall, row.fingerprint, row.command,
        ]  # fmt: skip
        line += [row.point.get(path) for path in found.paths]
        line += [row.scores.get(name) for name in metrics]
        if found.metric:
            at = row.best.get(found.metric)
            line += [at and at[1], at and at[0]]
        lines.append(line)
    return head, lines


def write(found: Results) -> list[Path]:
    """Writes ROOT/results.csv and ROOT/results.parquet, each in one move; returns their paths.

    Without pyarrow it writes the first alone, and says so.

    Raises:
      StorageError: the disk is full or read-only; old files are then still whole.
    """
    head, lines = table(found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([["" if v is None else _plain(v) for v in line] for line in lines])
    plain, columnar = found.root / "results.csv", found.root / "results.parquet"
    columns = {name: _column([line[i] for line in lines]) for i, name in enumerate(head)}
    content = _parquet(columns)
    write_atomic(plain, text.getvalue())
    if content is None:
        warn(f"no {columnar.name}, since pyarrow is not installed; {plain} has the same")
        columnar.unlink(missing_ok=True)  # an earlier one would tell of other trials
        return [plain]
    write_atomic(columnar, content)
    return [plain, columnar]


def _parquet(columns: Mapping[str, list[Any]]) -> bytes | None:
    """The columns as a Parquet file; None where nothing here can write one."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return None
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float) else json.dumps(value)


def _column(values: list[Any]) -> list[Any]:
    """One type a column: numbers as they are, whole ones beside fractions as fractions."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 and kinds <= {bool, int, float, str}:
        return values
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else groups.as_json(value) for value in values]

"""Reads a run folder back, whether the run is finished, going on, or was killed in mid-write."""

import itertools
import json
import operator
import os
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.core.units import LOOP_METRICS
from aigc_jax.errors import UserError, nearest

AXES = ("step", "wall")
_HIGHER = ("accuracy", "reward", "bleu", "f1", "precision", "recall", "density", "coverage",
           "_score", "found", "covered", "quality", "exact", "elbo")  # fmt: skip


class Series(NamedTuple):
    """One metric over a run: `steps` rising, `values` beside them (nan and inf included)."""

    steps: list[int]
    values: list[float]


class Sample(NamedTuple):
    """What the model wrote at one step."""

    step: int
    text: str


class Picture(NamedTuple):
    """What an evaluator drew at one step: the PNG file samples/STEP-NAME.png."""

    step: int
    path: Path


def has_diverged(state: str, reason: str) -> bool:
    """Whether a run's last words are that it ended on bad numbers (`run.on_bad`)."""
    return state == "failed" and reason.startswith("bad numbers")


class Evaluation(NamedTuple):
    """What one `aigc eval` measured: a line of evals.jsonl.

    Attributes:
      step: of the checkpoint. metrics: by name. protocols: how they were measured, by metric.
      floors: of those that the run itself measures otherwise, or not at all.
      samples: the folder of texts and pictures within the run's, "" for none.
    """

    step: int
    metrics: dict[str, float]
    protocols: dict[str, Any]
    floors: dict[str, dict[str, float]]
    samples: str

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "Evaluation":
        """Reads a line."""
        metrics = _numbers({"": line["metrics"]})[""]
        floors, samples = _numbers(line["floors"]), line["samples"] or ""
        return cls(line["step"], metrics, line["protocols"], floors, samples)


def is_run(path: Path) -> bool:
    """Whether `aigc train` has written into this folder."""
    return any((path / name).is_file() for name in ("config.json", "status.json"))


def find_runs(path: Path, depth: int = 3) -> list[Path]:
    """Returns the run folders at or below `path`, in the order of their names."""
    if is_run(path):
        return [path]
    if depth == 0 or not path.is_dir():
        return []
    inside = sorted(
        item for item in path.iterdir() if item.is_dir() and not item.name.startswith(".")
    )
    return [run for item in inside for run in find_runs(item, depth - 1)]


class Run:
    """A run folder, read lazily.

    Args:
      path: the folder that was `aigc train --workdir`.
      lenient: a file that holds no JSON counts as empty, and is named in `damaged`: one broken
        run among many is no reason to show none.

    Raises:
      UserError: there is no such folder, or it is no run folder. Later, on reading, unless
        `lenient`: one of its files holds no JSON.
    """

    def __init__(self, path: Path | str, *, lenient: bool = False) -> None:
        self.path, self.lenient = Path(path), lenient
        self.damaged: list[str] = []
        if not self.path.is_dir():
            parent = self.path.parent
            names = [item.name for item in parent.iterdir()] if parent.is_dir() else []
            kind = "a file, not a run folder" if self.path.exists() else "not there"
            raise UserError(
                f"{self.path} is {kind}; give the folder that aigc train wrote (--workdir)."
                + nearest(self.path.name, names)
            )
        if not is_run(self.path):
            raise UserError(
                f"{self.path} is no run folder: it has neither config.json nor status.json; "
                "give the folder that aigc train wrote (--workdir)."
            )

    @property
    def name(self) -> str:
        """What the run is called: the folder's name."""
        return self.path.resolve().name

    def _json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            if self.lenient:
                self.damaged.append(name)
                return {}
            raise UserError(f"{file} holds no valid JSON ({error}); was it edited?") from error
        return value if isinstance(value, dict) else {"": value}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The complete configuration; empty where the run died before it wrote one."""
        return self._json("config.json")

    @cached_property
    def env(self) -> dict[str, Any]:
        """Versions, devices, flags, git commit."""
        return self._json("env.json")

    @cached_property
    def data(self) -> dict[str, Any]:
        """The data's fingerprint and facts."""
        return self._json("data.json")

    @cached_property
    def status(self) -> dict[str, Any]:
        """What the run last said about itself."""
        return self._json("status.json")

    @cached_property
    def floors(self) -> dict[str, dict[str, float]]:
        """For a metric, what trivial models (and, where known, the ceiling) score on it."""
        return _numbers(self._json("floors.json"))

    @cached_property
    def protocols(self) -> dict[str, Any]:
        """For a metric, how it was measured, where an evaluator said so."""
        return self._json("protocols.json")

    @property
    def fingerprint(self) -> str:
        """The sha256 of the data, "" where it was not written."""
        return str(self.data.get("fingerprint", ""))

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl; a line that is only half there is left out."""
        return self._lines("metrics.jsonl")

    def _lines(self, name: str) -> list[dict[str, Any]]:
        file = self.path / name
        if not file.is_file():
            return []
        lines = [line for line in file.read_bytes().split(b"\n") if line.strip()]
        try:  # all at once is three times as fast as line by line
            rows = json.loads(b"[" + b",".join(lines) + b"]")
        except ValueError:
            rows = list(_readable(lines))
        return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """What `aigc eval` measured, in the order of the calls."""
        return [Evaluation.of(row) for row in self._lines("evals.jsonl")]

    def levels(self, found: Evaluation, metric: str) -> dict[str, float]:
        """Returns what trivial models and real data score on a metric as it was measured there."""
        alike = found.protocols.get(metric) == self.protocols.get(metric)
        return {**(self.floors.get(metric, {}) if alike else {}), **found.floors.get(metric, {})}

    @cached_property
    def _series(self) -> dict[str, Series]:
        # A run has a handful of kinds of rows: turned into columns kind by kind, 100,000 rows
        # take a tenth of a second and not one.
        kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for row in self.rows:
            kinds.setdefault(tuple(row), []).append(row)
        found: dict[str, Series] = {}
        for names, rows in kinds.items():
            steps = [row["step"] for row in rows]
            for name in names:
                if name != "step":
                    values = [row[name] for row in rows]
                    if set(map(type, values)) != {float}:
                        values = list(map(number, values))
                    known = found.setdefault(name, Series([], []))
                    known.steps.extend(steps)
                    known.values.extend(values)
        return {name: _in_order(series) for name, series in found.items()}

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics: evaluations first, then the loop's own."""
        names = [name for name in self._series if name not in AXES]
        return sorted(names, key=lambda name: (name.startswith(LOOP_METRICS), name))

    def series(self, metric: str) -> Series:
        """Returns one metric over the steps; empty where it was never written."""
        return self._series.get(metric, Series([], []))

    def last(self, metric: str) -> tuple[int, float] | None:
        """Returns (step, value) of the latest row that has the metric, or None."""
        steps, values = self.series(metric)
        return (steps[-1], values[-1]) if steps else None

    def setting(self, path: str) -> Any:
        """Returns what the saved config says of "run.steps", None where it says nothing."""
        value: Any = self.config
        for name in path.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def higher_is_better(self, metric: str) -> bool:
        """Whether larger is better: as run.best says it, else judged by the metric's name."""
        best = str(self.setting("run.best") or "")
        if best.removeprefix("-") == metric:
            return best.startswith("-")
        return any(word in metric.rsplit("/", 1)[-1] for word in _HIGHER)

    def best(self, metric: str) -> tuple[int, float] | None:
        """Returns (step, value) of the best finite value (the first of equals), or None."""
        sign = -1 if self.higher_is_better(metric) else 1
        pairs = [
            (sign * value, step)
            for step, value in zip(*self.series(metric), strict=True)
            if value - value == 0
        ]
        return (min(pairs)[1], sign * min(pairs)[0]) if pairs else None

    @property
    def headline(self) -> str | None:
        """The metric that sums the run up: one with floors, else a validation loss, else any."""
        names = self.metrics
        wishes = [*self.floors, "validation/loss"]
        wishes += [n for n in names if not n.startswith(LOOP_METRICS)] + ["train/loss", *names]
        return next((name for name in wishes if name in self._series), None)

    @property
    def step(self) -> int:
        """The latest step that anything in the folder knows of."""
        said = self.status.get("step")
        return max([*self.series("wall").steps[-1:], said if isinstance(said, int) else 0])

    @property
    def steps(self) -> int | None:
        """The step at which the run is to end, None where nobody said."""
        said = self.status.get("steps", self.setting("run.steps"))
        return said if isinstance(said, int) else None

    @property
    def wall(self) -> float | None:
        """Seconds of training over all starts."""
        said = [number(self.status["wall"])] if "wall" in self.status else []
        return max([*self.series("wall").values[-1:], *said], default=None)

    @cached_property
    def samples(self) -> list[Sample]:
        """The files samples/STEP.txt, by step."""
        found = []
        for file in (self.path / "samples").glob("*.txt"):
            digits = "".join(c for c in file.stem.split("_")[0] if c.isdigit())
            if digits:
                text = file.read_text(encoding="utf-8", errors="replace")
                found.append(Sample(int(digits), text))
        return sorted(found)

    @cached_property
    def pictures(self) -> dict[str, list[Picture]]:
        """The files samples/STEP-NAME.png by name, each list by step."""
        found: dict[str, list[Picture]] = {}
        for file in sorted((self.path / "samples").glob("*-*.png")):
            step, _, name = file.stem.partition("-")
            if step.isdecimal():
                found.setdefault(name, []).append(Picture(int(step), file))
        return {name: sorted(found[name]) for name in sorted(found)}

    @property
    def checkpoints(self) -> list[int]:
        """The steps that have a whole checkpoint (unfinished ones carry a longer name)."""
        folder = self.path / "checkpoints"
        names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(name) for name in names if name.isdecimal())

    def locked(self) -> bool:
        """Whether a process on this machine holds the run's lock now; asking doesn't take it."""
        try:
            import fcntl

            handle = os.open(self.path / ".lock", os.O_RDONLY)
        except (ImportError, OSError):
            return False
        try:
            # A shared lock, for an instant: it fails where the run holds its exclusive one.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False

    @property
    def state(self) -> str:
        """How the run is doing.

        "running", "finished", "stopped", "failed"; "died" for one that still says "running" while
        no process holds its lock (kill -9, a loss of power); "unknown" for one on another machine,
        whose lock can't be seen from here, or without any status.
        """
        said = str(self.status.get("state", "unknown"))
        if said not in ("running", "unknown"):
            return said  # it may hold its lock a moment longer, to write its report
        if self.locked():
            return "running"
        return "died" if self.status.get("host") == socket.gethostname() else "unknown"

    @property
    def diverged(self) -> bool:
        """Whether it ended on bad numbers."""
        return has_diverged(self.state, str(self.status.get("reason") or ""))

    @property
    def updated(self) -> datetime | None:
        """When the run last wrote its status."""
        try:
            return datetime.fromisoformat(str(self.status.get("updated")))
        except ValueError:
            return None


def number(value: Any) -> float:
    """Returns a number of metrics.jsonl, where nan and inf stand as strings; else nan."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _numbers(levels: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {
        metric: {name: number(value) for name, value in named.items()}
        for metric, named in levels.items()
        if isinstance(named, dict)
    }


def _in_order(series: Series) -> Series:
    """Returns the series with its steps rising, each once; of equal steps the later row counts."""
    steps = series.steps
    if all(map(operator.lt, steps, itertools.islice(steps, 1, None))):
        return series
    pairs = sorted(dict(zip(*series, strict=True)).items())
    return Series([step for step, _ in pairs], [value for _, value in pairs])


def _readable(lines: list[bytes]) -> Iterator[Mapping[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue  # the process was killed in the middle of this line

"""RUN/evals.jsonl: what checkpoints of a run scored when they were judged again."""

import contextlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aigc_jax.train import kept
from aigc_jax.train.environment import environment
from aigc_jax.train.evaluation import write_floors
from aigc_jax.train.lines import Lines
from aigc_jax.train.lock import alone
from aigc_jax.train.log import strict


class Scores:
    """Takes what evaluators say of one checkpoint; nothing is written before `store`.

    Args:
      run: the run folder. cache: where floors are kept between runs. fingerprint: of the data.

    Attributes:
      folder: RUN/evals/DATE, for texts and pictures; made by whoever writes the first.
    """

    def __init__(self, run: Path, cache: Path, fingerprint: str) -> None:
        self.run, self._cache, self._fingerprint = run, cache, fingerprint
        self._date = datetime.now(UTC)
        self.folder = run / "evals" / self._date.strftime("%Y%m%dT%H%M%S.%fZ")
        self._metrics: dict[str, float] = {}
        self._protocols: dict[str, Any] = {}
        self._floors: dict[str, dict[str, float]] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Takes what an evaluator gave."""
        self._metrics.update(metrics)

    def add_floors(self, metric: str, key: str, make: Callable[[], dict[str, float]]) -> None:
        """Takes floors of a metric; see `train.evaluation.Context`."""
        found = kept.keep_floors(self._cache, self._fingerprint, key, make)
        self._floors[metric] = {**self._floors.get(metric, {}), **found}

    def add_protocol(self, metric: str, protocol: dict[str, Any]) -> None:
        """Takes how a metric is measured.

        Raises:
          UserError: another evaluator of this call measures it otherwise.
        """
        other = f"{metric}: another evaluator of this call (see --only) measures it"
        self._protocols = kept.noted(self._protocols, metric, protocol, other)

    def line(self, step: int, command: str) -> dict[str, Any]:
        """Returns what is to be stored, strict JSON.

        Args:
          step: of the checkpoint. command: as typed.
        """
        where = environment()
        git = where.pop("git") or {}
        found = {
            "date": self._date.isoformat(timespec="seconds"),
            "step": step,
            "command": command,
            "metrics": self._metrics,
            "protocols": self._protocols,
            "floors": self._floors,
            "samples": str(self.folder.relative_to(self.run)) if self.folder.exists() else None,
            "commit": git.get("commit"),
            "dirty": git.get("dirty"),
            "environment": {name: said for name, said in where.items() if name != "command"},
        }
        return dict(strict(found))

    def store(self, line: Mapping[str, Any]) -> None:
        """Appends the line to RUN/evals.jsonl, without the floors that go to RUN/floors.json.

        Those of a metric that the run itself measures otherwise stay in the line, with the protocol
        that they belong to.

        Raises:
          StorageError: the disk is full or read-only. The file ends as it did before.
        """
        said = self.run / "protocols.json"
        own = json.loads(said.read_text()) if said.is_file() else {}
        aside = {}
        for metric, floors in self._floors.items():
            if own.get(metric) == self._protocols.get(metric):
                write_floors(self.run, metric, floors)
            else:
                aside[metric] = floors
        text = json.dumps({**line, "floors": strict(aside)}, allow_nan=False)
        path = self.run / "evals.jsonl"
        with alone(self.run), contextlib.closing(Lines(path)) as file:
            # A loss of power may have left half a line: it must not take this one with it.
            torn = path.read_bytes()[-1:] not in (b"", b"\n")
            file.append(b"\n" * torn + text.encode() + b"\n")

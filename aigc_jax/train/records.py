"""What the loop writes while it goes: metrics, status, fingerprints, and what was compiled."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import State
from aigc_jax.errors import StorageError
from aigc_jax.train.fingerprint import Fingerprints, drop
from aigc_jax.train.ledger import Ledger
from aigc_jax.train.log import MetricsLog, NoLog, Status
from aigc_jax.train.settings import Settings


class Records:
    """The files of one run that grow, under one roof: opened, flushed and closed together.

    Of several processes one writes them; the others keep the numbers alone.

    Args:
      workdir: the run folder; it must exist.
      settings: the section `run`. config: the whole config, for the loggers.
      ledger: entered by the caller.
      command: what to type to go on.

    Attributes:
      log: the metrics, once they are open.
      last: the latest value of each metric.
    """

    log: MetricsLog | NoLog

    def __init__(
        self,
        workdir: Path,
        settings: Settings,
        config: Mapping[str, Any],
        ledger: Ledger,
        command: str,
    ) -> None:
        self.workdir, self.settings, self.config = workdir, settings, config
        self.last: dict[str, float] = {}
        self._ledger, self._command = ledger, command
        self._writes = jax.process_index() == 0
        self._status = Status(workdir)
        self._prints: Fingerprints | None = None
        self._scores: tuple[int, dict[str, float]] = (0, {})  # of the newest step that has any

    def start(self, step: int) -> None:
        """Notes in the status that the run starts, or goes on, from `step`."""
        self._status.start(step)

    def open(self, keep_to: int | None, keep_evaluation: bool, state: State, batch: Any) -> None:
        """Opens the files; a second time (after a rollback) closes and opens them anew.

        Args:
          keep_to: the step that was restored; what was written later goes. None: all goes.
          keep_evaluation: False: what evaluators wrote at `keep_to` goes too.
          state, batch: of the run, or their shapes; no batch where no step will be taken.
        """
        self.close()
        if not self._writes:
            self.log = NoLog()
            return
        self.log = MetricsLog(
            self.workdir,
            keep_to=keep_to,
            keep_evaluation=keep_evaluation,
            tensorboard=self.settings.tensorboard,
            wandb=self.settings.wandb,
            config=self.config,
            run_name=self.workdir.name,
        )
        drop(self.workdir, keep_to)
        every = int(self.settings.fingerprint)
        if every and batch is not None:
            self._prints = Fingerprints(self.workdir, every, state, batch)
        if not self._ledger.is_open:
            self._ledger.open(self.workdir, start=self._status.starts)

    def write(self, step: int, row: Mapping[str, float], wall: float) -> None:
        """Appends a row of metrics, and what was compiled since the one before."""
        self.log.write(step, row, wall)
        self._ledger.write()
        self.last.update(row)
        self._scores = (step, {**self.scores(step), **row})

    def scores(self, step: int) -> dict[str, float]:
        """Returns the metrics of this very step: older ones say nothing of its weights."""
        return self._scores[1] if self._scores[0] == step else {}

    @property
    def compiled(self) -> str:
        """What this process has compiled so far, in one line; "" for nothing."""
        return self._ledger.sentence()

    def prints(self, first: int, found: np.ndarray) -> None:
        """Appends the fingerprints of the steps from `first` on, uint32 [steps, tensors]."""
        if self._prints is not None:
            self._prints.write(first, found)

    def status(self, state: str, reason: str, **fields: Any) -> None:
        """Replaces status.json; `fields` as in `Status.write`."""
        if not self._writes:
            return
        following = "" if state == "finished" else self._command
        self._status.write(state, reason=reason, last=self.last, next=following, **fields)

    def flush(self) -> None:
        """Waits until all is on the disk. Call it before a checkpoint is committed."""
        self.log.flush()
        self._ledger.write()
        if self._prints is not None:
            self._prints.flush()

    def close(self) -> None:
        """Closes what is open. A failure of the disk is not told: every save has flushed it."""
        with contextlib.suppress(StorageError):
            if hasattr(self, "log"):
                self.log.close()
        with contextlib.suppress(StorageError):
            if self._prints is not None:
                self._prints.close()

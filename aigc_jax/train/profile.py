"""A trace of a few steps of a run, for xprof: what each device and each thread did, and when."""

import contextlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from aigc_jax.errors import UserError
from aigc_jax.train.storage import storage_errors

_FORM = re.compile(r"(\d+):(\d+)")


class Trace:
    """Writes the trace of steps [first, end) into a folder; one without steps does nothing.

    What is computed stays the same, to the bit: a dispatch may end earlier, and nothing else.

    Args:
      folder: RUN/profile; `xprof` and TensorBoard open it.
      first, end: steps of the run; end is the first that is not traced.
    """

    def __init__(self, folder: Path | None = None, first: int = 0, end: int = 0) -> None:
        self._folder, self._first, self._end = folder, first, end
        self._on = False

    def cut(self, step: int, n: int) -> int:
        """Returns how many of n steps a dispatch takes, so that it ends where the trace does."""
        marks = [mark - step for mark in (self._first, self._end) if mark > step]
        return min([n, *marks]) if self._folder else n

    def before(self, step: int, drain: Callable[[], None]) -> None:
        """Begins the trace if it is time; `drain` waits for the steps that are under way.

        Raises:
          StorageError: the disk is full or gone.
        """
        if self._folder is None or self._on or step != self._first:
            return
        drain()
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(str(self._folder))
        self._on = True

    def step(self, step: int) -> Any:
        """A context in which a dispatch is sent: the trace shows it under its first step."""
        if not self._on:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after(self, step: int, drain: Callable[[], None]) -> None:
        """Ends the trace if it is time."""
        if self._on and step >= self._end:
            drain()
            self.close()
            print(f"trace of steps {self._first}:{self._end}: xprof {self._folder}", flush=True)

    def close(self) -> None:
        """Ends the trace, however far it is; a second call does nothing."""
        if self._on:
            self._on = False
            try:
                jax.profiler.stop_trace()
            except Exception as error:  # the run is worth more than its trace
                line = str(error).split("\n")[0]
                print(f"aigc: warning: the trace can't be written: {line}", file=sys.stderr)


def parse(words: str, workdir: Path, steps: int) -> Trace:
    """Reads "10:13".

    Args:
      words: "" for no trace. workdir: the run folder. steps: of the run.

    Raises:
      UserError: no two numbers, no step between them, or steps that this start will not take.
    """
    if not words:
        return Trace()
    found = _FORM.fullmatch(words)
    if found is None or int(found[1]) >= int(found[2]):
        raise UserError(
            f"--profile={words}: expected FIRST:END, two steps of the run, such as 10:13 for 10, 11"
            " and 12."
        )
    first, end = int(found[1]), int(found[2])
    if end > steps:
        raise UserError(f"--profile={words}: the run ends at step {steps}; choose earlier steps.")
    saved = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()]
    if first < max(saved, default=0):
        raise UserError(
            f"--profile={words}: the run goes on from step {max(saved)}; choose later steps."
        )
    return Trace(workdir / "profile", first, end)

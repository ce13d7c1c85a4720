"""Fingerprints of a run, step by step: what went into each step, as one number a tensor.

The compiled step computes them on the devices, from the state and the batch as they go INTO it. So
the row of a step has the batch and the key that this step used, and the parameters that all steps
before it made; what the last step made is in its checkpoint (`of_checkpoint`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import tree
from aigc_jax.core.fingerprint import PARTS, fingerprint_host, fingerprints, kind, named_state
from aigc_jax.core.task import Batch, Metrics, State
from aigc_jax.train import checkpoint  # noqa: F401  (it keeps orbax's own log quiet)
from aigc_jax.train.adapt import read_state
from aigc_jax.train.lines import Lines
from aigc_jax.train.log import rewind

METRIC = "fingerprint"
"""Where the metrics of a stamped step hold its fingerprints: uint32 [tensors], no pair."""

FILE = "fingerprints.jsonl"

Step = Callable[[State, Batch], tuple[State, Metrics]]


def tensors(state: State, batch: Batch) -> list[tuple[str, Any]]:
    """Returns (name, array) of what is fingerprinted, in the order in which differences are told.

    "batch/tokens", "key" (the step's own), "hyper/lr", "params/model/...", then "vars", "opt" and
    "ema".
    """
    rows = [(f"batch/{name}", x) for name, x in sorted(batch.items())]
    return [*rows, ("key", jax.random.fold_in(state.key, state.step)), *named_state(state)]


def stamped(step: Step, every: int) -> Step:
    """Adds the metric `METRIC` to a step: fingerprints of what goes into it.

    Args:
      step: of one run, with its guard. What it computes stays the same.
      every: at steps divisible by this; the others have zeros.
    """

    def wrapped(state: State, batch: Batch) -> tuple[State, Metrics]:
        def prints() -> jax.Array:
            return fingerprints(tensors(state, batch))

        if every == 1:
            found = prints()
        else:
            zeros = jnp.zeros((len(tensors(state, batch)),), jnp.uint32)
            found = jax.lax.cond(state.step % every == 0, prints, lambda: zeros)
        new, metrics = step(state, batch)
        return new, {**metrics, METRIC: found}  # type: ignore[dict-item]

    return wrapped


def drop(folder: Path, restored: int | None) -> None:
    """Drops the rows of steps that will be taken once more.

    Args:
      folder: the run folder. restored: the step that a run goes on from; None: it starts anew.
    """
    rewind(folder / FILE, None if restored is None else restored - 1)


class Fingerprints:
    """Appends to RUN/fingerprints.jsonl, which ends with whole lines whatever happens.

    Each start of the run begins with a line of what is in the rows after it:
    {"step", "every", "tensors": ["batch/x float32[8,4]", ...]}. A row is {"step", "prints"}, with
    eight hexadecimal digits for each tensor.

    Args:
      folder: the run folder. every: at steps divisible by this.
      state, batch: of the run, or their shapes.

    Raises:
      StorageError: the disk is full, read-only or gone.
    """

    def __init__(self, folder: Path, every: int, state: State, batch: Batch) -> None:
        self._every, self._file = every, Lines(folder / FILE)
        names: list[str] = []

        def look(state: State, batch: Batch) -> list[Any]:
            named = tensors(state, batch)
            names.extend(name for name, _ in named)
            return [x for _, x in named]

        shapes = jax.eval_shape(look, state, batch)
        self._head = [f"{name} {kind(x)}" for name, x in zip(names, shapes, strict=True)]

    def write(self, first: int, prints: np.ndarray) -> None:
        """Appends the rows of a dispatch.

        Args:
          first: its first step. prints: uint32 [steps, tensors].

        Raises:
          StorageError: the disk is full or gone.
        """
        rows: list[dict[str, Any]] = []
        for step, row in enumerate(prints, first):
            if step % self._every == 0:
                if self._head:
                    rows.append({"step": step, "every": self._every, "tensors": self._head})
                    self._head = []
                rows.append({"step": step, "prints": row.astype(">u4").tobytes().hex()})
        self._file.append("".join(json.dumps(row) + "\n" for row in rows).encode())

    def flush(self) -> None:
        """Waits until every row is on the disk. Call it before a checkpoint is committed."""
        self._file.flush()

    def close(self) -> None:
        """Flushes and closes; a second call does nothing."""
        self._file.close()


def of_checkpoint(folder: Path, step: int) -> dict[str, str]:
    """Returns the fingerprints of all that a checkpoint holds, by name, eight digits each.

    Names are those of `tensors` where both have one; a checkpoint has the run's root key, as
    "root_key", and the step count besides. Of parameters saved at a step it gives what the row of
    that step has.

    Args:
      folder: RUN/checkpoints. step: one that is there.
    """
    saved = read_state(folder / str(step) / "state")
    named = named_state(SimpleNamespace(**saved))
    named += [("root_key", saved["key"]), ("step", saved["step"])]
    return {name: f"{fingerprint_host(np.asarray(x)):08x}" for name, x in named}


def difference(a: Path, b: Path, step: int) -> str | None:
    """Compares two checkpoints bit by bit.

    Args:
      a, b: folders RUN/checkpoints. step: one that both have.

    Returns:
      The first tensor that differs, and by how much; None where all is the same.
    """
    one, other = (read_state(folder / str(step) / "state") for folder in (a, b))
    for part in (*PARTS, "key", "step"):
        if words := tree.first_difference({part: one[part]}, {part: other[part]}):
            return words
    return None

"""What is written down when numbers go bad."""

import json
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aigc_jax.core import tree
from aigc_jax.core.task import Batch, Metrics, State
from aigc_jax.train.log import strict
from aigc_jax.train.storage import storage_errors, write_atomic


def dump(
    workdir: Path,
    step: int,
    metrics: Mapping[str, float],
    batch: Mapping[str, np.ndarray],
    index: int,
    *,
    state: State | None = None,
    step_fn: Callable[[State, Batch], tuple[State, Metrics]] | None = None,
) -> tuple[Path, str]:
    """Writes RUN/bad/STEP/: the batch, the step's metrics, and where the first bad number arose.

    Args:
      workdir: the run folder. step: the bad step. metrics: its metrics. batch: its batch, and
        `index` that batch's number, another one than the step's once a run was rolled back.
      state: the state before the step; with `step_fn`, the task's step, the step is run once more
        to find the first non-finite tensor and the line of code that made it.

    Returns:
      The folder, and the first non-finite tensor in words, "" where none was found.
    """
    folder = workdir / "bad" / (str(step) if index == step else f"{step}-batch-{index}")
    writes = jax.process_index() == 0
    if writes:
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(folder / "batch.npz", **batch)  # type: ignore[arg-type]
    found: dict[str, Any] = {"step": step, "batch": index, "metrics": dict(metrics)}
    if state is not None and step_fn is not None:
        found |= _trace(state, batch, step_fn)
    if writes:
        write_atomic(folder / "report.json", json.dumps(strict(found), indent=2) + "\n")
    name = found.get("first_nonfinite")
    return folder, f"{name} in the {found['in']}" if name else ""


def _trace(state: State, batch: Mapping[str, Any], step_fn: Callable[..., Any]) -> dict[str, Any]:
    for place, part in (("batch", batch), ("state before the step", state.replace(key=None))):
        name = tree.first_nonfinite(part)
        if name:
            return {"first_nonfinite": name, "in": place}
    after, _ = jax.jit(step_fn)(state, batch)
    name = tree.first_nonfinite(after.replace(key=None))
    found = {"first_nonfinite": name, "in": "state after the step", "made_by": None}
    try:
        # Runs operation by operation where the compiled step gives a NaN, and raises at the first.
        with jax.debug_nans(True), jax.debug_infs(True):
            jax.block_until_ready(jax.jit(step_fn)(state, batch))
    except FloatingPointError as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/jax/" not in f.filename]
        made = [f for f in ours if "aigc_jax/train" not in f.filename] or ours
        where = f"{made[-1].filename}:{made[-1].lineno}: {made[-1].line}" if made else ""
        found["made_by"] = f"{str(error).splitlines()[0]} at {where}"
    return found

"""What evaluators are handed: compiled evaluation of a batch, sampling, places to write to."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from aigc_jax.core.task import Metrics, Task, Weights
from aigc_jax.train.sharding import Placement, put
from aigc_jax.train.signals import Signals
from aigc_jax.train.storage import storage_errors, write_atomic


class Context(NamedTuple):
    """Handed to every evaluator's `make`.

    Attributes:
      data: the run's data; `data.splits[name]` has `batches` and `batch`.
      tokenizer: of that data, or None.
      eval_batch: (weights, split.batch, i) -> Metrics, on the devices, not waited for.
      finish: the task's `finish`.
      sample: the task's `sample`, or None.
      write_sample: (step, text) -> None, writes RUN/samples/STEP.txt and tells the loggers.
      add_floors: (metric, key, make) -> None, adds what `make()` returns, a dict of what simpler
        models score, to RUN/floors.json; kept under `key` and the data's fingerprint.
    """

    data: Any
    tokenizer: Any
    eval_batch: Callable[[Weights, Callable[..., Any], int], Metrics]
    finish: Callable[[dict[str, float]], dict[str, float]]
    sample: Callable[..., Any] | None
    write_sample: Callable[[int, str], None]
    add_floors: Callable[[str, str, Callable[[], dict[str, float]]], None]


class Folders(NamedTuple):
    """Where evaluators write: the run folder, and what may be kept between runs; None: nowhere."""

    run: Path | None = None
    cache: Path | None = None


def context(
    task: Task,
    data: Any,
    placement: Placement,
    signals: Signals,
    write_sample: Callable[[int, str], None] = lambda step, text: None,
    folders: Folders = Folders(),  # noqa: B008  (immutable)
) -> Context:
    """Makes the context of a run; what takes long can be interrupted between two calls."""
    compiled = jax.jit(task.eval)
    shard = (jax.process_index(), jax.process_count())
    root = jax.random.key(0)

    def eval_batch(weights: Weights, batch: Callable[..., Any], i: int) -> Metrics:
        return compiled(
            weights, put(batch(i, shard), placement.batch()), jax.random.fold_in(root, i)
        )

    return Context(
        data=data,
        tokenizer=data.tokenizer,
        eval_batch=signals.interruptible(eval_batch),
        finish=task.finish,
        sample=signals.interruptible(task.sample) if task.sample else None,
        write_sample=write_sample,
        add_floors=partial(add_floors, folders, data.fingerprint),
    )


def write_sample(workdir: Path, step: int, text: str) -> None:
    """Writes RUN/samples/STEP.txt."""
    if jax.process_index() == 0:
        folder = workdir / "samples"
        with storage_errors(folder):
            folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{step:08d}.txt", text, sync=False)


def add_floors(
    folders: Folders,
    fingerprint: str,
    metric: str,
    key: str,
    make: Callable[[], dict[str, float]],
) -> None:
    """Adds floors of one metric to RUN/floors.json; makes them once per data set.

    Args:
      folders: where to write. fingerprint: of the data. metric: what they are floors of.
      key: what they are kept under, a file name. make: computes them, {label: value}.
    """
    if jax.process_index() != 0 or folders.run is None:
        return
    kept = folders.cache / f"{fingerprint[:32]}-{key}.json" if folders.cache else None
    if kept and kept.is_file():
        floors = json.loads(kept.read_text())
    else:
        floors = make()
        if kept:
            with storage_errors(kept):
                kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, json.dumps(floors, indent=2) + "\n")
    path = folders.run / "floors.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    known[metric] = {**known.get(metric, {}), **floors}
    write_atomic(path, json.dumps(known, indent=2) + "\n")

"""What evaluators are handed: compiled evaluation of a batch, sampling, places to write to."""

from collections.abc import Callable
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
    """

    data: Any
    tokenizer: Any
    eval_batch: Callable[[Weights, Callable[..., Any], int], Metrics]
    finish: Callable[[dict[str, float]], dict[str, float]]
    sample: Callable[..., Any] | None
    write_sample: Callable[[int, str], None]


def context(
    task: Task,
    data: Any,
    placement: Placement,
    signals: Signals,
    write_sample: Callable[[int, str], None],
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
    )


def write_sample(workdir: Path, step: int, text: str) -> None:
    """Writes RUN/samples/STEP.txt."""
    if jax.process_index() == 0:
        folder = workdir / "samples"
        with storage_errors(folder):
            folder.mkdir(exist_ok=True)
        write_atomic(folder / f"{step:08d}.txt", text, sync=False)

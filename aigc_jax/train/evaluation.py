"""What evaluators are handed: compiled evaluation of a batch, sampling, places to write to."""

import functools
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core.task import Batch, Metrics, Task, Weights
from aigc_jax.errors import UserError
from aigc_jax.train import kept, program, shards
from aigc_jax.train.lock import alone
from aigc_jax.train.log import history, warn
from aigc_jax.train.sharding import Placement, put
from aigc_jax.train.signals import Signals
from aigc_jax.train.storage import storage_errors, write_atomic


class Context(NamedTuple):
    """Handed to every evaluator's `make`.

    Attributes:
      data: the run's data; `data.splits[name]` has `batches` and `batch`.
      tokenizer: of that data, or None.
      eval_batches: (weights, split.batch, i, end) -> (n, Metrics of batches i .. i + n - 1): values
        [K], K >= n, on the devices, not waited for; 1 <= n <= end - i, as many as it likes.
      finish: the task's `finish`.
      sample: the task's `sample`, or None.
      knobs: names of what `sample` can be told beyond what all can.
      functions: the task's other `functions`, by name, not compiled.
      place: this host's rows of a batch -> the global batch, on the devices.
      write_sample: (step, text) -> None, writes RUN/samples/STEP.txt and tells the loggers.
      write_picture: (step, name, uint8 [H, W] or [H, W, 3]) -> None, writes
        RUN/samples/STEP-NAME.png and tells the loggers.
      add_floors: (metric, key, make) -> None, adds what `make()` returns, a dict of what simpler
        models score, to RUN/floors.json; kept under `key` and the data's fingerprint.
      keep: (key, make) -> the dict of arrays that `make()` returns, kept in the same way.
      add_protocol: (metric, protocol) -> None, writes how a metric is measured to
        RUN/protocols.json.
      extractor: the description of a network -> `metrics.image.Extractor`.
      last_step: the run's last, or None where a checkpoint is judged alone.
      history: metric -> its values so far, in order, those of earlier starts of the run too.
      warn: takes one line, for the person who watches.
    """

    data: Any
    tokenizer: Any
    eval_batches: Callable[[Weights, Callable[..., Any], int, int], tuple[int, Metrics]]
    finish: Callable[[dict[str, float]], dict[str, float]]
    sample: Callable[..., Any] | None
    knobs: tuple[str, ...]
    functions: Mapping[str, Callable[..., Any]]
    place: Callable[[Any], Any]
    write_sample: Callable[[int, str], None]
    write_picture: Callable[[int, str, np.ndarray], None]
    add_floors: Callable[[str, str, Callable[[], dict[str, float]]], None]
    keep: Callable[[str, Callable[[], kept.Arrays]], kept.Arrays]
    add_protocol: Callable[[str, dict[str, Any]], None]
    extractor: Callable[[dict[str, Any]], Any]
    last_step: int | None
    history: Callable[[str], list[float]]
    warn: Callable[[str], None]


def _no_extractor(wanted: dict[str, Any]) -> Any:
    raise UserError(f"no network to extract features with is at hand here ({wanted['kind']}).")


class Desk(NamedTuple):
    """What evaluators write with; by default nothing goes anywhere.

    Attributes:
      run: the run folder. cache: where what is kept between runs goes. None: nowhere.
      write_sample, write_picture, extractor, last_step: see `Context`.
    """

    run: Path | None = None
    cache: Path | None = None
    write_sample: Callable[[int, str], None] = lambda step, text: None
    write_picture: Callable[[int, str, np.ndarray], None] = lambda step, name, pixels: None
    extractor: Callable[[dict[str, Any]], Any] = _no_extractor
    last_step: int | None = None


def context(
    task: Task,
    data: Any,
    placement: Placement,
    signals: Signals,
    desk: Desk = Desk(),  # noqa: B008  (immutable)
) -> Context:
    """Makes the context of a run; what takes long can be interrupted between two calls."""

    def place(rows: Any) -> Any:
        return put(rows, placement.batch())

    return Context(
        data=data,
        tokenizer=data.tokenizer,
        eval_batches=signals.interruptible(Judge(task, placement).several),
        finish=task.finish,
        sample=signals.interruptible(sampling(placement, task.sample)) if task.sample else None,
        knobs=getattr(task.sample, "knobs", ()),
        functions={name: whole(placement, call) for name, call in task.functions.items()},
        place=signals.interruptible(place),
        write_sample=desk.write_sample,
        write_picture=desk.write_picture,
        add_floors=functools.partial(add_floors, desk, data.fingerprint),
        keep=functools.partial(kept.keep_arrays, desk.cache, data.fingerprint),
        add_protocol=functools.partial(kept.add_protocol, desk.run),
        extractor=desk.extractor,
        last_step=desk.last_step,
        history=lambda metric: history(desk.run / "metrics.jsonl", metric) if desk.run else [],
        warn=warn,
    )


class Judge:
    """Evaluates several batches in one call of the device, as many as take about `CALL` seconds.

    What a batch gives does not depend, in any bit, on how many are evaluated with it: one program
    does them all, one after another.
    """

    CALL = 0.3  # seconds: a signal waits for two calls at most
    MOST, BYTES = 16, 8 << 20  # batches of a call, and what they take: those left out cost a copy

    def __init__(self, task: Task, placement: Placement) -> None:
        self._several = within(placement, _several(task.eval))
        self._placement, self._shard = placement, shards.rows(placement)
        self._key = jax.random.key(0)
        self._n, self._last, self._sent, self._at = 1, 1, 0, 0.0

    def several(
        self, weights: Weights, batch: Callable[..., Any], i: int, end: int
    ) -> tuple[int, Metrics]:
        """Evaluates batches from i on, `end` and what follows left out; see `Context`."""
        rows = [batch(i, self._shard)]
        most = 1
        if jax.process_count() == 1:  # several would have to agree on what follows from a clock
            size = sum(x.nbytes for x in rows[0].values())
            most = max(1, min(self.MOST, self.BYTES // max(1, size), end))
        n = min(self._pace(i), most, end - i)
        self._last = n
        rows += [batch(i + k, self._shard) for k in range(1, n)]
        stacked = program.stack(rows, most, self._placement)
        return n, self._several(weights, stacked, self._key, np.int32(n))

    def _pace(self, i: int) -> int:
        """Returns how many batches to send. Once two calls are under way, the time between two is
        that of one.
        """
        now = time.perf_counter()
        self._sent = self._sent + 1 if i else 0
        if self._sent > 2:
            per_batch = (now - self._at) / self._last
            self._n = max(1, min(4 * self._last, self.MOST, int(self.CALL / max(per_batch, 1e-9))))
        self._at = now
        return self._n


@functools.lru_cache(maxsize=8)  # runs of one task in one process compile it once
def _several(judge: Callable[[Weights, Batch, jax.Array], Metrics]) -> Callable[..., Metrics]:
    """Compiles (weights, batches [K, ...], key, n) -> metrics [K] of the first n batches."""

    def several(weights: Weights, batches: Batch, key: jax.Array, n: jax.Array) -> Metrics:
        def one(i: Any) -> Metrics:
            return judge(weights, jax.tree.map(lambda x: x[i], batches), key)

        def body(i: jax.Array, rows: Metrics) -> Metrics:
            return jax.tree.map(lambda row, m: row.at[i].set(m), rows, one(i))

        most = jax.tree.leaves(batches)[0].shape[0]
        if most == 1:
            return jax.tree.map(lambda m: m[None], one(0))
        shapes = jax.eval_shape(one, 0)
        rows = jax.tree.map(lambda m: jnp.zeros((most, *m.shape), m.dtype), shapes)
        return jax.lax.fori_loop(0, n, body, rows)

    return jax.jit(several)


def within(placement: Placement, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function, traced for the mesh; itself on one device."""
    if placement.mesh.size == 1:
        return function

    @functools.wraps(function)
    def scoped(*args: Any, **knobs: Any) -> Any:
        with placement.scope():
            return function(*args, **knobs)

    return scoped


def sampling(placement: Placement, sample: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `sample`; of several processes each draws all samples, with weights of its own."""
    if jax.process_count() == 1:
        return within(placement, sample)

    def alone(weights: Weights, *args: Any, **knobs: Any) -> Any:
        return sample(shards.copy(weights, placement), *args, **knobs)

    return alone


def whole(placement: Placement, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function; what it gives is whole on each of several processes."""
    if jax.process_count() == 1:
        return function

    @functools.wraps(function)
    def replicated(*args: Any, **knobs: Any) -> Any:
        found = function(*args, **knobs)
        return jax.lax.with_sharding_constraint(found, placement.replicated())

    return replicated


def write_sample(workdir: Path, step: int, text: str) -> None:
    """Writes RUN/samples/STEP.txt."""
    if jax.process_index() == 0:
        folder = workdir / "samples"
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{step:08d}.txt", text, sync=False)


def write_picture(workdir: Path, step: int, name: str, pixels: np.ndarray) -> None:
    """Writes RUN/samples/STEP-NAME.png from uint8 [H, W] or [H, W, 3]."""
    if jax.process_index() == 0:
        from PIL import Image

        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, format="PNG")
        folder = workdir / "samples"
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / f"{step:08d}-{name}.png", encoded.getvalue(), sync=False)


def add_floors(
    desk: Desk,
    fingerprint: str,
    metric: str,
    key: str,
    make: Callable[[], dict[str, float]],
) -> None:
    """Adds floors of one metric to RUN/floors.json; makes them once per data set.

    Args:
      desk: where to write. fingerprint: of the data. metric: what they are floors of.
      key: what they are kept under, a file name. make: computes them, {label: value}.
    """
    if jax.process_index() == 0 and desk.run is not None:
        write_floors(desk.run, metric, kept.keep_floors(desk.cache, fingerprint, key, make))


def write_floors(run: Path, metric: str, floors: Mapping[str, float]) -> None:
    """Adds floors of one metric to those in RUN/floors.json."""
    path = run / "floors.json"
    with alone(run):  # `aigc eval` may be adding others
        known = json.loads(path.read_text()) if path.is_file() else {}
        known[metric] = {**known.get(metric, {}), **floors}
        write_atomic(path, json.dumps(known, indent=2) + "\n")

"""Checkpoints: the whole `State` and the loop's own notes, saved by orbax in the background.

Each finished checkpoint gets a seal, the SHA-256 of its files. A checkpoint whose seal does not
fit, or that does not load, is set aside with a warning and the one before is taken.
"""

import datetime
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from aigc_jax.core import tree
from aigc_jax.core.task import State
from aigc_jax.errors import UserError
from aigc_jax.train.storage import storage_errors, write_atomic

Notes = dict[str, Any]
_managers = ocp.checkpoint_managers


class _Quiet(logging.Filter):
    """Lets only orbax's errors through: its warnings repeat what `restore` says in one line."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR


def _raw(state: Any) -> Any:
    """Typed random keys as plain uint32, which every version of orbax stores the same way."""
    return state.replace(key=jax.random.key_data(state.key))


def _typed(state: Any) -> Any:
    return state.replace(key=jax.random.wrap_key_data(state.key))


def _file_hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                hashes[str(path.relative_to(folder))] = hashlib.file_digest(
                    file, "sha256"
                ).hexdigest()
    return hashes


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: RUN/checkpoints; made when it is missing.
      keep: how many of the newest stay.
      best: a metric's name, and `keep_best` the number of checkpoints with its lowest values that
        stay besides; "" for none. A leading "-" means that higher is better.
      warn: called with one line when a checkpoint is damaged.
      read_only: for looking at a run that may be going on; nothing is moved or deleted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        best: str = "",
        keep_best: int = 1,
        warn: Callable[[str], None] = print,
        read_only: bool = False,
    ) -> None:
        logging.getLogger("absl").addFilter(_Quiet())
        folder = folder.absolute()
        self._folder, self._warn, self._best, self._read_only = folder, warn, best, read_only
        metric, sign = best.removeprefix("-"), 1.0 if best.startswith("-") else -1.0

        def score(metrics: Any) -> float:
            # Orbax never keeps a NaN as the best.
            return sign * float((metrics or {}).get(metric, "nan"))

        policies: list[Any] = [_managers.LatestN(max(1, keep))]
        if best:
            policies.append(
                _managers.BestN(
                    get_metric_fn=score, n=keep_best, keep_checkpoints_without_metrics=False
                )
            )
        with storage_errors(folder):
            self._manager = ocp.CheckpointManager(
                folder,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=None
                    if read_only
                    else _managers.AnyPreservationPolicy(policies),
                    save_decision_policy=None if read_only else _managers.FixedIntervalPolicy(1),
                    cleanup_tmp_directories=not read_only,
                    read_only=read_only,
                ),
            )
        self._sealer = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._seals: dict[int, Future[None]] = {}
        self._unsealed: int | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a finished checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: State, notes: Notes, metrics: Mapping[str, float]) -> None:
        """Begins to save; returns when the arrays are copied, before they are written.

        Raises:
          StorageError: this save or the one before it could not be written. Older checkpoints are
            whole: a save becomes visible only when it is complete.
        """
        step = int(state.step)
        with storage_errors(self._folder):
            self._manager.wait_until_finished()
            self.seal()
            if step in self._manager.all_steps():
                return
            numbers = {k: float(v) for k, v in metrics.items() if np.isfinite(v)}
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_raw(state)), notes=ocp.args.JsonSave(notes)
                ),
                metrics=numbers if self._best.removeprefix("-") in numbers else None,
            )
            self._unsealed = step

    def seal(self) -> None:
        """Seals the newest checkpoint if its files are complete; never waits for the disk."""
        step = self._unsealed
        if step is None or self._manager.is_saving_in_progress():
            return
        self._manager.check_for_errors()
        self._unsealed = None
        self._seals[step] = self._sealer.submit(self._write_seal, step)

    def _write_seal(self, step: int) -> None:
        if jax.process_index() == 0 and (self._folder / str(step)).exists():
            hashes = _file_hashes(self._folder / str(step))
            write_atomic(self._seal_path(step), json.dumps(hashes, indent=0))
            for old in self._folder.glob("seal-*.json"):
                if not (self._folder / old.stem.removeprefix("seal-")).exists():
                    old.unlink(missing_ok=True)

    def _seal_path(self, step: int) -> Path:
        return self._folder / f"seal-{step}.json"

    def finish(self) -> None:
        """Waits until everything is on the disk and sealed."""
        with storage_errors(self._folder):
            self._manager.wait_until_finished()
            self.seal()
            for future in self._seals.values():
                future.result()
            self._seals.clear()

    def close(self) -> None:
        """Ends the background threads; what they still held to write is given up."""
        self._sealer.shutdown(wait=True)
        self._manager.close()

    def restore(
        self, target: State, sharding: Any, step: int | None = None
    ) -> tuple[State, Notes] | None:
        """Restores the newest checkpoint that is whole.

        Args:
          target: the state's shapes and dtypes, from `jax.eval_shape`.
          sharding: where each leaf goes, a tree like `target`.
          step: this very step instead; then nothing else is tried.

        Returns:
          The state and the notes, or None where there is no checkpoint at all.

        Raises:
          UserError: there are checkpoints and none of them can be read.
        """
        steps = [s for s in self.steps() if step is None or s == step]
        raw = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            jax.eval_shape(_raw, target),
            sharding,
        )
        for candidate in reversed(steps):
            problem = self._damage(candidate)
            if problem is None:
                try:
                    loaded = self._manager.restore(
                        candidate,
                        args=ocp.args.Composite(
                            state=ocp.args.StandardRestore(raw), notes=ocp.args.JsonRestore()
                        ),
                    )
                    return _typed(loaded.state), loaded.notes
                except Exception as error:
                    problem = str(error).strip().split("\n")[0][:200] or type(error).__name__
            self._warn(f"checkpoint {candidate} is damaged ({problem}); trying the one before.")
            if not self._read_only:
                self._set_aside(candidate)
        if steps:
            raise UserError(
                f"None of the checkpoints in {self._folder} can be read; they are kept there as"
                " damaged-STEP. Start anew in another --workdir."
            )
        return None

    def _damage(self, step: int) -> str | None:
        """Compares a checkpoint's files with its seal; one without a seal is given a try."""
        seal = self._seal_path(step)
        if not seal.exists():
            return None
        try:
            expected = json.loads(seal.read_text())
        except ValueError:
            return "its seal can't be read"
        found = _file_hashes(self._folder / str(step))
        wrong = [name for name in expected if expected[name] != found.get(name)]
        return f"file {wrong[0]} has changed or is missing" if wrong else None

    def _set_aside(self, step: int) -> None:
        with storage_errors(self._folder):
            stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
            (self._folder / str(step)).rename(self._folder / f"damaged-{step}-{stamp}")
            self._seal_path(step).unlink(missing_ok=True)
        self._manager.reload()


def read_subtree(folder: Path, path: str) -> tree.Tree:
    """Reads one part of a run's newest checkpoint without knowing its model.

    Args:
      folder: RUN/checkpoints. path: such as "params/model".

    Returns:
      A tree of host arrays, nested as it was.

    Raises:
      UserError: no checkpoint, or no such part (the parts that there are get listed).
    """
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdigit()] if folder.exists() else []
    if not steps:
        raise UserError(f"init_from: no checkpoint in {folder}; has that run saved one?")
    with ocp.StandardCheckpointer() as reader:
        item = folder.absolute() / str(max(steps)) / "state"
        found = reader.metadata(item).item_metadata.tree
        part = found
        for name in path.split("/"):
            if not isinstance(part, dict) or name not in part:
                names = ", ".join(part) if isinstance(part, dict) else "nothing below it"
                raise UserError(f"init_from: no '{name}' of '{path}' in {item}; it has: {names}.")
            part = part[name]
        device = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
        whole = reader.restore(
            item,
            jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=device), found),
        )
    for name in path.split("/"):
        whole = whole[name]
    return jax.tree.map(np.asarray, whole)


def graft(target: tree.Tree, path: str, source: tree.Tree) -> tree.Tree:
    """Puts `source` in the place of the part `path` of a state.

    Raises:
      UserError: the parts differ; missing, extra and differently shaped names are listed.
    """
    attribute, *rest = path.split("/")
    holder = getattr(target, attribute, None)
    if holder is None or attribute not in ("params", "vars", "ema"):
        raise UserError(f"init_from: '{path}' must begin with params/, vars/ or ema/.")
    branch = holder
    for name in rest:
        if name not in branch:
            raise UserError(f"init_from: no '{path}' in this model; it has: {', '.join(branch)}.")
        branch = branch[name]
    here, there = dict(tree.named_leaves(branch)), dict(tree.named_leaves(source))
    shapes = [
        f"{n} {list(there[n].shape)} for {list(here[n].shape)}"
        for n in here
        if n in there and here[n].shape != there[n].shape
    ]
    problems = {
        "missing": [n for n in here if n not in there],
        "extra": [n for n in there if n not in here],
        "differently shaped": shapes,
    }
    if any(problems.values()):
        words = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
        raise UserError(f"init_from: '{path}' does not fit. " + "; ".join(words) + ".")
    by_name = lambda name, leaf: jax.device_put(there[name].astype(leaf.dtype), leaf.sharding)  # noqa: E731
    new = tree.map_named(by_name, branch)
    for i in range(len(rest) - 1, -1, -1):
        outer = holder
        for name in rest[:i]:
            outer = outer[name]
        new = {**outer, rest[i]: new}
    return target.replace(**{attribute: new})

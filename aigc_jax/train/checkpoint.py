"""Checkpoints: the whole `State` and the loop's own notes, saved by orbax in the background.

Each finished checkpoint gets a seal, the SHA-256 of its files. A checkpoint whose seal does not
fit, or that does not load, is set aside with a warning and the one before is taken.
"""

import contextlib
import datetime
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from aigc_jax.core import past, tree
from aigc_jax.core.task import State
from aigc_jax.errors import UserError
from aigc_jax.train import adapt, peers, writers
from aigc_jax.train.storage import storage_errors, write_atomic

Notes = dict[str, Any]
_managers = ocp.checkpoint_managers
_PART = 1 << 22  # bytes that are hashed at once
_REST = 4.0  # and so many times as long as it took there is rest


def _raw(state: Any) -> Any:
    """Typed random keys as plain uint32, which every version of orbax stores the same way."""
    return state.replace(key=jax.random.key_data(state.key))


def _typed(state: Any) -> Any:
    return state.replace(key=jax.random.wrap_key_data(state.key))


def _unshared(state: Any) -> Any:
    """Arrays that no later step touches, where orbax makes none: on a CPU it writes from the
    arrays themselves, and the step that wants to donate them then copies one after another, which
    takes longer.
    """
    if jax.default_backend() != "cpu":
        return state
    places = jax.tree.map(lambda x: x.sharding, state)
    return jax.block_until_ready(jax.device_put(state, places, may_alias=False))


def _file_hashes(folder: Path, hurry: threading.Event | None = None) -> dict[str, str]:
    """SHA-256 of all files. With `hurry`, at a fifth of the speed until it is set: steps are beside
    it, and wait for the same memory.
    """
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                begin = time.perf_counter()
                while part := file.read(_PART):
                    digest.update(part)
                    if hurry:
                        hurry.wait(_REST * (time.perf_counter() - begin))
                        begin = time.perf_counter()
            hashes[str(path.relative_to(folder))] = digest.hexdigest()
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
        several = peers.here().count > 1
        # Named one by one, they meet at barriers that end in time; all of them unnamed would meet
        # in a collective, which never does when one is missing.
        self._processes = ocp.options.MultiprocessingOptions(
            active_processes=set(range(jax.process_count())) if several else None
        )
        with storage_errors(folder):
            if several and not read_only:
                folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                folder,
                handler_registry=writers.handlers(self._processes),
                options=ocp.CheckpointManagerOptions(
                    create=not several,
                    multiprocessing_options=self._processes,
                    preservation_policy=None
                    if read_only
                    else _managers.AnyPreservationPolicy(policies),
                    save_decision_policy=None if read_only else _managers.FixedIntervalPolicy(1),
                    cleanup_tmp_directories=not read_only,
                    read_only=read_only,
                ),
            )
        self._sealer = ThreadPoolExecutor(
            1, thread_name_prefix="seal", initializer=writers.give_way
        )
        self._seals: dict[int, Future[None]] = {}
        self._hurry = threading.Event()  # somebody waits for a seal
        self._unsealed: int | None = None

    def steps(self) -> list[int]:
        """Returns the steps that have a finished checkpoint, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, state: State, notes: Notes, metrics: Mapping[str, float]) -> None:
        """Begins to save; returns when the arrays are copied, before they are written.

        A save needs the memory of another state, of the host, until its files are complete.

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
            arrays = _unshared(_raw(state))
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(arrays), notes=ocp.args.JsonSave(notes)
                ),
                metrics=numbers if self._best.removeprefix("-") in numbers else None,
            )
            self._unsealed = step
            writers.give_way("ts_")  # tensorstore's

    def seal(self) -> None:
        """Seals the newest checkpoint if its files are complete; never waits for the disk."""
        step = self._unsealed
        if step is None or self._manager.is_saving_in_progress():
            return
        with storage_errors(self._folder):
            self._manager.check_for_errors()
        self._unsealed = None
        self._seals[step] = self._sealer.submit(self._write_seal, step)

    def _write_seal(self, step: int) -> None:
        if jax.process_index() == 0:
            # It may be deleted meanwhile, as one too many; then there is nothing to seal.
            with contextlib.suppress(FileNotFoundError):
                hashes = _file_hashes(self._folder / str(step), self._hurry)
                if hashes:
                    write_atomic(self._seal_path(step), json.dumps(hashes, indent=0))
            for old in self._folder.glob("seal-*.json"):
                if not (self._folder / old.stem.removeprefix("seal-")).exists():
                    old.unlink(missing_ok=True)

    def _seal_path(self, step: int) -> Path:
        return self._folder / f"seal-{step}.json"

    def busy(self) -> bool:
        """Whether a save is being written or sealed; seals what is complete, as `seal` does."""
        self.seal()
        return self._unsealed is not None or not all(f.done() for f in self._seals.values())

    def finish(self) -> None:
        """Waits until everything is on the disk and sealed."""
        with storage_errors(self._folder):
            self._manager.wait_until_finished()
            self.seal()
            self._hurry.set()
            for future in self._seals.values():
                future.result()
            self._hurry.clear()
            self._seals.clear()

    def close(self) -> None:
        """Ends the background threads, and removes what a failed save left half-written.

        Says nothing of failures: `finish` does, and on the way out of an error they would hide it.
        """
        self._hurry.set()
        self._sealer.shutdown(wait=True)
        with contextlib.suppress(Exception):
            self._manager.close()
        if not self._read_only and jax.process_index() == 0:
            for _ in range(20):  # writes that are still under way put new files into it
                for half in self._folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(half, ignore_errors=True)
                if not any(self._folder.glob("*.orbax-checkpoint-tmp*")):
                    break
                time.sleep(0.05)

    def restore(
        self, target: State, sharding: Any, step: int | None = None
    ) -> tuple[State, Notes] | None:
        """Restores the newest checkpoint that is whole.

        Args:
          target: the state's shapes and dtypes, from `jax.eval_shape`.
          sharding: where each leaf goes, a tree like `target`; the mesh that saved it, and whether
            its layers were scanned, need not be the same. Arrays take the dtypes of `target`.
          step: this very step instead; then nothing else is tried.

        Returns:
          The state and the notes, or None where there is no checkpoint at all.

        Raises:
          UserError: there are checkpoints and none of them can be read, or a whole one holds
            another state than `target` (names and shapes that differ are listed).
        """
        raw = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            jax.eval_shape(_raw, target),
            sharding,
        )
        tried: set[int] = set()
        group = peers.here()
        # Every process restores its part of one checkpoint, so all must take the same one.
        while steps := group.agree(
            [s for s in self.steps() if s not in tried and step in (None, s)]
        ):
            candidate = steps[-1]
            tried.add(candidate)
            if group.count == 1:
                loaded, problem = self._checked(candidate, raw)
            else:
                problem = group.agree(self._damage(candidate) if group.index == 0 else None)
                if problem is None:
                    loaded, problem = self._load(candidate, raw)
            if problem is None:
                problem = next(filter(None, group.everyone("restored", problem)), None)
                if problem is None:
                    if not self._read_only and self._sealed(candidate) is None:
                        # The process that saved it died first.
                        self._seals[candidate] = self._sealer.submit(self._write_seal, candidate)
                    return _typed(loaded[0]), loaded[1]
            if self._read_only:
                # The run that writes here may have deleted it meanwhile and saved a newer one.
                self._manager.reload()
                if not (self._folder / str(candidate)).exists():
                    continue
            self._warn(f"checkpoint {candidate} is damaged ({problem}); trying the one before.")
            if not self._read_only:
                self._set_aside(candidate)
        if not tried:
            return None
        kept = "" if self._read_only else "; they are kept there as damaged-STEP"
        which = "None of the checkpoints" if step is None else f"The checkpoint of step {step}"
        raise UserError(
            f"{which} in {self._folder} can be read{kept}. "
            + ("Start anew in another --workdir." if step is None else "Choose another --step.")
        )

    def _checked(self, step: int, raw: Any) -> tuple[Any, str | None]:
        """Loads, and compares the files with their seal meanwhile: both read them, and one computes
        while the other waits for the disk.
        """
        with ThreadPoolExecutor(1) as beside:
            check = beside.submit(self._damage, step)
            try:
                loaded, problem = self._load(step, raw)
            except Exception:
                # Of damaged files anything may come; that they are damaged is what to tell.
                if (damage := check.result()) is None:
                    raise
                return None, damage
            return loaded, check.result() or problem

    def _load(self, step: int, raw: Any) -> tuple[Any, str | None]:
        """Returns what orbax restores, or what is wrong with the files."""
        try:
            item = self._folder / str(step) / "state"
            there = adapt.saved(item)
            plan, gained = self._plan(step, raw, there)
            loaded = self._manager.restore(
                step, args=ocp.args.Composite(notes=ocp.args.JsonRestore())
            )
            leaves = dict(tree.named_leaves(raw))
            wanted = {name: leaf for name, leaf in leaves.items() if name not in gained}
            found = adapt.read(item, there, wanted, plan.sources, self._processes)
            for name, value in gained.items():
                self._warn(
                    f"checkpoint {step} is older than the setting {name.replace('/', '.')}, and"
                    f" goes on with {value}, what there was"
                )
                leaf = leaves[name]
                found[name] = jax.device_put(np.asarray(value, leaf.dtype), leaf.sharding)
            return (tree.map_named(lambda name, _: found[name], raw), loaded.notes), None
        except UserError:
            raise
        except Exception as error:
            if self._sealed(step):
                raise  # its files are right, so this is no damage: too little memory, or a bug
            return None, str(error).strip().split("\n")[0][:200] or type(error).__name__

    def _plan(self, step: int, raw: Any, saved: Any) -> tuple[adapt.Plan, dict[str, float]]:
        """Says where the leaves come from, and what those are that the checkpoint is too old for.

        Raises UserError when it holds another state than the one asked for.
        """
        there = dict(tree.named_leaves(saved))
        leaves = dict(tree.named_leaves(raw))
        gained = past.gained(leaves, there)
        plan = adapt.plan({n: leaf for n, leaf in leaves.items() if n not in gained}, there)
        if plan.problems:
            raise UserError(
                f"The checkpoint of step {step} in {self._folder} holds another state than this"
                f" config makes. {plan.problems}. Go back to the config it was saved with, or start"
                " anew in another --workdir."
            )
        return plan, gained

    def _sealed(self, step: int) -> dict[str, str] | None:
        """The hashes of a checkpoint's seal; None without one, or where it can't be read."""
        try:
            seal = json.loads(self._seal_path(step).read_text())
        except (OSError, ValueError):
            return None
        return seal if isinstance(seal, dict) else None

    def _damage(self, step: int) -> str | None:
        """Compares a checkpoint's files with its seal; one without a seal is given a try."""
        expected = self._sealed(step)
        if expected is None:
            return None
        try:
            found = _file_hashes(self._folder / str(step))
        except OSError as error:
            return str(error)
        wrong = [name for name in expected if expected[name] != found.get(name)]
        return f"file {wrong[0]} has changed or is missing" if wrong else None

    def _set_aside(self, step: int) -> None:
        if peers.here().index == 0:
            with storage_errors(self._folder):
                stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
                (self._folder / str(step)).rename(self._folder / f"damaged-{step}-{stamp}")
                self._seal_path(step).unlink(missing_ok=True)
        peers.here().everyone("set aside")
        self._manager.reload()

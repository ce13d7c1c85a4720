"""From a config to the parts of a run. Only wiring: every decision is in the rooms it calls."""

import ctypes
import functools
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aigc_jax.core import config
from aigc_jax.core import overrides as override_words
from aigc_jax.errors import UserError
from aigc_jax.sweep import plans


def start_jax() -> None:
    """Sets what must be set before JAX starts, once and in one place.

    A compilation cache in the user's cache folder, kept apart by kind of CPU, since programs for
    one CPU may not run on another; on Linux, an allocator that keeps big blocks instead of
    returning them to the system after each operation (a third off a small model's step on CPU).
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigc_jax" / "xla"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Commands that this one starts read the environment; JAX may be imported here already.
    folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / _cpu_kind()))
    least = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", float(least))
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(-3, 2**31 - 1)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
            libc.mallopt(-8, 1)  # M_ARENA_MAX: the other arenas ignore both
        except (OSError, AttributeError):
            pass  # another C library, without the knob


@functools.cache  # a process counts its devices once
def device_a_core() -> bool:
    """Makes JAX see a device for each core that this process may use, where a CPU is all there is.

    One trial uses two cores badly (most of its operations are small), two trials side by side use
    them well. Without effect where JAX has started, or where the user says how many there are.

    Returns:
      Whether the CPU stands as several devices because of this function.
    """
    start_jax()
    import jax

    said = "device_count" in os.environ.get("XLA_FLAGS", "")
    if said or jax.config.jax_num_cpu_devices > 0:  # type: ignore[attr-defined]
        return False
    try:
        jax.config.update("jax_num_cpu_devices", cores())
    except RuntimeError:  # JAX has started
        return False
    return jax.default_backend() == "cpu" and jax.device_count() > 1


def cores() -> int:
    """How many cores this process may use."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found or 1


def _cpu_kind() -> str:
    """A short name for the instruction sets of this CPU."""
    import hashlib

    try:
        text = Path("/proc/cpuinfo").read_text()
        flags = next(line for line in text.splitlines() if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return hashlib.sha256(flags.encode()).hexdigest()[:12]


class Parts(NamedTuple):
    """The parts of a run, made from its config."""

    config: dict[str, Any]
    settings: Any  # train.loop.Settings
    data: Any  # data.base.Data
    task: Any  # core.task.Task
    placement: Any  # train.sharding.Placement


def parts(cfg: Any, like: Parts | None = None, *, alone: bool = False) -> Parts:
    """Builds data, placement, optimizer and task. Imports JAX.

    Args:
      cfg: complete. alone: on the first device, whatever the mesh.
      like: parts of an earlier run in this process. Where only `hyper` and the seed differ, its
        task stays, and with the task what is compiled; its data too if the seed is one.
    """
    start_jax()
    plain = config.to_dict(cfg)
    from aigc_jax.core import burn_in, optim
    from aigc_jax.train import sharding
    from aigc_jax.train.settings import Settings

    settings = Settings(**plain["run"])
    settings.check()
    near = (
        like
        if like is not None and plans.structure(plain) == plans.structure(like.config)
        else None
    )
    if near:
        placement = near.placement
    else:
        placement = sharding.alone() if alone else sharding.make(**plain["mesh"])
    if near and near.settings.seed == settings.seed:
        data = near.data
    else:
        data = config.build(
            "data", plain["data"], batch_size=settings.batch_size, seed=settings.seed
        )
    # The task knows its data by their facts: other content, even under one name, has others.
    if near and near.data.fingerprint == data.fingerprint:
        return Parts(plain, settings, data, near.task, placement)
    optimizer = optim.make(settings.steps, **plain["optim"])
    task = config.build("tasks", plain["task"], spec=data.spec, optimizer=optimizer)
    task = burn_in.burning_in(task, optimizer.burn_in, plain["hyper"])
    return Parts(plain, settings, data, task, placement)


def advice(built: Parts) -> str:
    """Says in one line what keeps the mesh of a run from saving memory, or ""."""
    model = built.config["task"].get("model", {})
    size = built.placement.mesh.shape["fsdp"]
    if size == 1 or model.get("scan", True) or model.get("layers", 1) == 1:
        return ""
    return (
        f"mesh.fsdp={size} with unrolled layers: the state is split, and yet each device may gather"
        " all parameters at the beginning of a step and hold them to its end;"
        " --config.task.model.scan=True gathers them layer by layer (a run that has begun:"
        " --allow-change=task.model.scan)."
    )


class Shelf:
    """Keeps the parts of the last run for the next one in this process."""

    def __init__(self) -> None:
        self._last: Parts | None = None

    def parts(self, cfg: Any) -> Parts:
        """Does what `parts` does."""
        self._last = parts(cfg, self._last)
        return self._last


def evaluators(
    built: Parts,
    signals: Any,
    workdir: Path,
    write_sample: Callable[[int, str], None],
    write_picture: Callable[[int, str, Any], None],
    scores: Any = None,
) -> Any:
    """Makes the evaluators of the section `evals`, by name.

    Args:
      built: of the run. signals: see `train.evaluation.context`. workdir: the run folder.
      write_sample, write_picture: see `train.evaluation.Context`.
      scores: the `train.scores.Scores` of a checkpoint that is judged alone; it takes floors and
        protocols, which the run folder has from a run, and has no history.
    """
    from aigc_jax.data.store import cache_root
    from aigc_jax.train import evaluation

    desk = evaluation.Desk(
        workdir, cache_root() / "floors", write_sample, write_picture,
        functools.partial(extractor, placement=built.placement), built.settings.steps,
    )  # fmt: skip
    context = evaluation.context(built.task, built.data, built.placement, signals, desk)
    if scores is not None:
        context = context._replace(
            add_floors=scores.add_floors, add_protocol=scores.add_protocol, last_step=None,
            history=lambda metric: [],
        )  # fmt: skip
    return {
        name: config.build("evals", section, context=context)
        for name, section in built.config["evals"].items()
    }


def extractor(wanted: dict[str, Any], placement: Any) -> Any:
    """Makes the network whose features images are judged by.

    Args:
      wanted: kind, "inception", "classifier" or "run"; weights, a file or a run folder; sha256 of
        them; resize, how Inception's input is made.
      placement: of what is judged. A network trained here is on the first device of it, so that
        several are judged side by side on a device each.

    Raises:
      UserError: the weights are not there, or not the right ones.
    """
    from aigc_jax.data.store import cache_root
    from aigc_jax.interop import extractors, inception
    from aigc_jax.report.folder import Run

    if wanted["kind"] == "inception":
        return inception.extractor(
            wanted["weights"], sha256=wanted["sha256"], resize=wanted["resize"],
            cache=cache_root() / "inception",
        )  # fmt: skip
    if not wanted["weights"]:
        raise UserError(
            f"extractor='{wanted['kind']}' needs weights=RUN, the run folder of a trained network;"
            " for digits, one of configs/classifier/mnist.py."
        )
    folder = Path(wanted["weights"])
    done = trained(folder)
    accuracy = Run(folder).last("validation/accuracy")
    record = {
        "step": done.step,
        "seed": done.parts.settings.seed,
        "accuracy": accuracy[1] if accuracy else None,
    }
    import jax

    from aigc_jax.train import shards

    # Whole on each process: what is judged with it differs from one to the other.
    weights = jax.device_put(
        shards.copy(done.weights, done.parts.placement), placement.mesh.local_devices[0]
    )
    return extractors.of_run(
        str(folder), done.parts.task.functions, weights, kind=wanted["kind"],
        shape=done.parts.data.spec.facts["shape"], record=record, sha256=wanted["sha256"],
    )  # fmt: skip


def read_config(run: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads the config of an existing run, complete and checked, and what was typed into it.

    An evaluator that is given the name of another module begins anew: the settings of the one that
    had its place are not its own.

    Raises:
      UserError: no run folder, or anything wrong in an override, as of `config.load`.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run} is no run folder: it has no config.json.")
    cfg = config.from_json(path.read_text())
    for item in map(override_words.read, overrides):
        if item.names_module and item.path.startswith("evals."):
            key = item.path.split(".")[1]
            if cfg["evals"].get(key, {}).get("name") != item.text:
                cfg["evals"].pop(key, None)
    return config.changed(cfg, overrides, str(path))


def saved(run: Path, cfg: Mapping[str, Any] | None = None) -> Parts:
    """Builds the parts of an existing run from its own config, or from `cfg`, made of it.

    Raises:
      UserError: no run folder, or its data is no longer what it was trained on.
    """
    cfg = read_config(run) if cfg is None else cfg
    built = parts(cfg)
    if words := other_data(run, built.data.fingerprint):
        raise UserError(words)
    return built


def other_data(run: Path, fingerprint: str) -> str:
    """Says that a run was trained on other data than those with this fingerprint, or ""."""
    try:
        before = str(json.loads((run / "data.json").read_text())["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""  # lost: then nothing can be compared
    if before == fingerprint:
        return ""
    return (
        f"{run} was trained on other data: fingerprint {before[:12]} against {fingerprint[:12]} of"
        " what its config names now."
    )


def initial_weights(init_from: dict[str, str]) -> Callable[[Any], Any]:
    """Returns what puts the weights of other runs into a fresh state.

    Args:
      init_from: {"params/model": "runs/pretrained/params/model"}: a part of this run's state, or a
        pattern of names, to a run folder followed by a part of its newest checkpoint.

    Raises:
      UserError: from the function returned: no such run or part, or names and shapes that differ.
    """

    def prepare(state: Any) -> Any:
        from aigc_jax.train.graft import initial

        return initial(state, init_from)

    return prepare


class Trained(NamedTuple):
    """A run read back: its parts, its weights on the devices, and the step that they are of."""

    parts: Parts
    state: Any
    weights: Any
    step: int


def trained(run: Path, step: int | None = None, cfg: Mapping[str, Any] | None = None) -> Trained:
    """Restores a run's newest checkpoint, or the one at `step`, for evaluation and sampling.

    The moving average where the run keeps one. The run itself may go on meanwhile.

    Args:
      run: the folder. step: of the checkpoint; None: the newest. cfg: as of `saved`.

    Raises:
      UserError: no run folder, other data, or no such checkpoint (those there are get listed).
    """
    built = saved(run, cfg)
    import jax
    import numpy as np

    from aigc_jax.core.task import weights
    from aigc_jax.train import guard
    from aigc_jax.train.checkpoint import Checkpoints

    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    abstract = jax.eval_shape(guard.guarded_init(built.task.init), jax.random.key(0), hyper)
    folder = run / "checkpoints"
    there = sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())
    if not there or (step is not None and step not in there):
        which = f"at step {step}" if step is not None else "yet"
        found = f"; it has {', '.join(map(str, there))}" if there else ""
        raise UserError(f"{run} has no checkpoint {which}{found}.")
    checkpoints = Checkpoints(
        folder, read_only=True, warn=lambda line: print(f"aigc: warning: {line}", file=sys.stderr)
    )
    try:
        restored = checkpoints.restore(abstract, built.placement.state(abstract), step)
    finally:
        checkpoints.close()
    if restored is None:
        raise UserError(f"{run} has no checkpoint that can be read.")
    state = restored[0]
    return Trained(built, state, weights(state), int(state.step))

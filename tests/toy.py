"""A toy run for the tests of the loop: a linear model, data from a formula, milliseconds a step."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import optim, tree
from aigc_jax.core.task import Task, supervised
from aigc_jax.train import peak, sharding
from aigc_jax.train.loop import Loop
from aigc_jax.train.settings import Settings
from aigc_jax.train.signals import Signals

ROWS, WIDTH = 8, 4
HYPER = {**optim.HYPER, "lr": 0.05, "warmup": 2.0, "ema_decay": 0.9}
# Each loop would multiply two big matrices to learn how fast this machine is.
peak._SIZE = 8
# The tests start the same few programs again and again. The folder is this session's own.
jax.config.update("jax_compilation_cache_dir", f"{os.environ['XDG_CACHE_HOME']}/xla-toy")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def batch(step: int, *, poison: Mapping[int, float] | None = None) -> dict[str, np.ndarray]:
    """Rows of y = x . (1, 2, 3, 4) + noise; `poison` {step: factor} scales the targets."""
    draw = np.random.Generator(np.random.Philox(key=[7, step]))
    x = draw.normal(size=(ROWS, WIDTH)).astype(np.float32)
    y = (x @ np.arange(1.0, 1 + WIDTH) + 0.01 * draw.normal(size=ROWS)).astype(np.float32)
    return {"x": x, "y": y * np.float32((poison or {}).get(step, 1.0))}


def task(*, steps: int = 12, width: int = WIDTH, hidden: int = 0, ema: bool = True) -> Task:
    """Least squares, with noise from the step's key, so that a wrong key shows."""

    def init_variables(key: jax.Array) -> Any:
        first = {"kernel": 0.1 * jax.random.normal(key, (width,)), "bias": jnp.zeros(())}
        more = {"kernel": 0.1 * jax.random.normal(key, (width, hidden))} if hidden else {}
        return {"model": {"first": first, **({"hidden": more} if hidden else {})}}, {}

    def loss(params: Any, variables: Any, batch: Any, key: jax.Array, hyper: Any) -> Any:
        first = params["model"]["first"]
        x = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
        guess = x @ first["kernel"] + first["bias"]
        if hidden:
            guess = guess + (x @ params["model"]["hidden"]["kernel"]).sum(-1)
        weight = jnp.asarray(batch["y"].shape[0], jnp.float32)
        return {"loss": (((guess - batch["y"]) ** 2).sum(), weight)}, variables

    def evaluate(weights: Any, batch: Any, key: jax.Array) -> Any:
        return loss(weights.params, weights.vars, batch, key, {})[0]

    optimizer = optim.make(steps, ema=ema)
    init, step = supervised(init_variables, loss, optimizer)
    return Task(init, step, evaluate)


def loop(
    folder: Path,
    *,
    batch_at: Callable[[int], dict[str, np.ndarray]] = batch,
    evaluators: Mapping[str, Any] | None = None,
    of: Task | None = None,
    hyper: Mapping[str, float] | None = None,
    mesh: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Loop:
    """Makes a loop in `folder`; `settings` are those of the section `run`, `more` go to Loop."""
    folder.mkdir(parents=True, exist_ok=True)
    knobs = {"steps": 12, "batch_size": ROWS, "log_every": 4, "eval_every": 0, "save_every": 0,
             "tensorboard": False, **settings}  # fmt: skip
    rest = {"signals": Signals(), **(more or {})}
    return Loop(
        of or task(),  # one schedule for all lengths: one program to compile
        batch_at,
        evaluators or {},
        sharding.make(**(mesh or {})),
        settings=Settings(**knobs),
        hyper=hyper or HYPER,
        workdir=folder,
        config={},
        **rest,
    )


def leaves(state: Any) -> dict[str, np.ndarray]:
    """Every array of a state by name, the random key as its bits."""
    plain = jax.device_get(state.replace(key=jax.random.key_data(state.key)))
    return {name: np.asarray(leaf) for name, leaf in tree.named_leaves(plain)}


def same(one: Any, other: Any) -> None:
    """Asserts that two states have the same bits."""
    a, b = leaves(one), leaves(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), f"{name}: {a[name]} against {b[name]}"


def rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without what a clock gave."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timed = ("wall", "time/", "speed/", "memory/")
    return [{k: v for k, v in json.loads(s).items() if not k.startswith(timed)} for s in lines]


def status(folder: Path) -> dict[str, Any]:
    """status.json."""
    found: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return found


def trial(root: Path, said: str) -> Path:
    """The run folder of a sweep that its name begins with, as "lr=0.1,seed=0"."""
    (found,) = root.glob(f"{said}-*")
    return found

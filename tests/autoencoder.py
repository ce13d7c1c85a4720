"""Small images and tasks for the tests of autoencoders."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np

from aigc_jax.core import config, optim, schema
from aigc_jax.core.task import State, Task, Weights, weights
from aigc_jax.data.base import ArraySpec, Data, Spec, Split

FACTS = {"shape": (4, 4, 1), "classes": 3, "unit": "images"}
DENSE = {"name": "vae_mlp", "width": 6, "latent": 3}


def batch_of(rows: int = 4, seed: int = 0, shape: tuple[int, ...] = (4, 4, 1)) -> Any:
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (rows, *shape))
    return {
        "x": ((2.0 * levels - 255) / 255).astype(np.float32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
        "index": np.arange(rows, dtype=np.int32),
        "mask": np.ones(rows, np.float32),
    }


def task_of(name: str = "vae", facts: dict[str, Any] | None = None, **settings: Any) -> Task:
    spec = Spec({}, facts or FACTS)
    optimizer = optim.make(100, name="adam", schedule="constant", rules=((".*", {}),))
    settings = {"name": name, "model": DENSE, **settings}
    made: Task = config.build("tasks", settings, spec=spec, optimizer=optimizer)
    return made


def state_of(task: Task, name: str = "vae", *, real: bool = False, **hyper: float) -> State:
    """A first state: of the task's own `init` if `real`, else of zeros, which compiles nothing."""
    numbers = optim.HYPER | schema.hyper("tasks", name) | {"lr": 0.01} | hyper
    given = {k: np.float32(v) for k, v in numbers.items()}
    if real:
        return task.init(jax.random.key(0), given)
    shapes = jax.eval_shape(task.init, jax.random.key(0), given)
    empty = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes.replace(key=None, hyper={}))
    made: State = empty.replace(key=jax.random.key(0), hyper=given)
    return made


def random_weights(task: Task, name: str = "vae", seed: int = 0, scale: float = 0.4) -> Weights:
    """Weights of normal numbers, without compiling `init`."""
    rng = np.random.default_rng(seed)
    shapes = state_of(task, name)

    def normal(x: Any) -> np.ndarray:
        return rng.normal(0, scale, x.shape).astype(np.float32)

    return weights(
        SimpleNamespace(  # type: ignore[arg-type]
            params=jax.tree.map(normal, shapes.params), vars=jax.tree.map(normal, shapes.vars),
            ema={}, opt={},
        )
    )  # fmt: skip


def context_of(task: Task, whole: Any, batch_size: int = 4) -> Any:
    """What an evaluator is handed, of a split "test" that ends in padding."""
    total = len(whole["mask"])

    def batch(i: int, shard: tuple[int, int]) -> Any:
        part = {k: x[i * batch_size : (i + 1) * batch_size] for k, x in whole.items()}
        short = batch_size - len(part["mask"])
        return {
            k: np.concatenate([x, np.zeros((short, *x.shape[1:]), x.dtype)])
            for k, x in part.items()
        }

    arrays = {k: ArraySpec((batch_size, *x.shape[1:]), str(x.dtype)) for k, x in whole.items()}
    split = Split(-(-total // batch_size), batch)
    spec = Spec(arrays, {**FACTS, "shape": whole["x"].shape[1:]})
    drawn: dict[tuple[int, str], np.ndarray] = {}
    protocols: dict[str, Any] = {}

    def write_picture(step: int, name: str, pixels: np.ndarray) -> None:
        drawn[step, name] = pixels

    return SimpleNamespace(
        data=Data(spec, lambda step, shard: batch(0, shard), {"test": split}, None, ""),
        functions=task.functions,
        place=lambda rows: rows,
        write_picture=write_picture,
        drawn=drawn,
        add_protocol=protocols.__setitem__,
        protocols=protocols,
    )

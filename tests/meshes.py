"""Run by `test_meshes.py` with eight pretended devices: every family on every mesh, and the
collectives of the compiled programs. Prints JSON.

The programs are compiled without LLVM's optimizations (30 % less time): values are compared to a
tolerance here, and what a program exchanges is settled before LLVM sees it.
"""

import functools
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import config, optim, schema, tree
from aigc_jax.core.task import Task, weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.models.transformer import Transformer
from aigc_jax.train import guard, program, sharding
from aigc_jax.train.evaluation import sampling, within

STEPS, ROWS, CONTEXT, VOCAB = 20, 32, 16, 80
GPT = {"name": "transformer", "layers": 1, "heads": 4, "width": 32, "bias": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "lm": {"name": "lm", "model": GPT},
    "accumulate": {"name": "lm", "model": {**GPT, "bias": False}, "accumulate": 4},
    "gan": {
        "name": "gan",
        "model": {
            "name": "dcgan", "latents": 8, "generator_width": 8, "discriminator_width": 8,
        },
    },
    "vae": {"name": "vae", "model": {"name": "vae_mlp", "width": 16, "latent": 8}},
}  # fmt: skip
# Adam divides by what may be rounding alone (the gradient of a bias before a batch norm, or of one
# added to all keys), so most families have SGD, and one without such parameters has Adam.
OPTIMIZERS = {"accumulate": "adamw"}
MESHES: dict[str, dict[str, Any]] = {
    "1": {},
    "8x1": {"data": 8},
    "4x2": {"data": 4, "fsdp": 2},
    "2x2x2": {"data": 2, "fsdp": 2, "tensor": 2},
    "sequence": {"data": 1, "fsdp": 2, "sequence": 2, "tensor": 2},
    "slices": {"data": 2, "fsdp": 4, "slices": 2},
    "pmap": {"mapper": "pmap"},
    "rows": {"data": 1, "sequence": 4, "tensor": 2},
    "fsdp 2": {"data": 1, "fsdp": 2},
    "fsdp 8": {"data": 1, "fsdp": 8},
}

ATTENTION: dict[str, dict[str, Any]] = {
    "causal": {},
    "window": {"window": 5, "kv_heads": 2, "positions": "alibi"},
}


def spec_of(family: str) -> Spec:
    facts: dict[str, Any] = {"shape": (8, 8, 1), "classes": 0}
    if family in ("lm", "accumulate"):
        facts = {"vocab_size": VOCAB, "context": CONTEXT, "token_bytes": np.ones(VOCAB)}
    arrays = batch_of(family, 0)
    return Spec({k: ArraySpec(x.shape, str(x.dtype)) for k, x in arrays.items()}, facts)


def batch_of(family: str, step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([7, step])
    if family in ("lm", "accumulate"):
        tokens = np.cumsum(rng.integers(0, 3, (ROWS, CONTEXT + 1)), 1).astype(np.int32) % VOCAB
        # Rows of many lengths: means of means over devices would show.
        mask = np.arange(CONTEXT) < rng.integers(1, CONTEXT + 1, (ROWS, 1))
        return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "mask": mask.astype("float32")}
    return {
        "x": rng.uniform(-1, 1, (ROWS, 8, 8, 1)).astype(np.float32),
        "label": np.zeros(ROWS, np.int32),
        "index": np.arange(ROWS, dtype=np.int32),
        "mask": np.ones(ROWS, np.float32),
    }


@functools.cache
def task_of(family: str) -> Task:
    section = FAMILIES[family]
    name = OPTIMIZERS.get(family, "sgd")
    optimizer = optim.make(STEPS, ema=True, schedule="constant", name=name)
    made: Task = config.build("tasks", section, spec=spec_of(family), optimizer=optimizer)
    return made


def hyper_of(family: str) -> dict[str, Any]:
    numbers: Mapping[str, Any] = optim.HYPER | schema.hyper("tasks", FAMILIES[family]["name"])
    changes = {"lr": 0.1, "warmup": 2.0}
    if OPTIMIZERS.get(family) == "adamw":
        changes = {"lr": 0.01, "warmup": 2.0, "eps": 1e-4, "weight_decay": 0.1}
    return {k: np.float32(v) for k, v in (dict(numbers) | changes).items()}


def placement_of(mesh: str) -> sharding.Placement:
    sizes = [MESHES[mesh].get(axis, 1) for axis in sharding.AXES]
    if np.prod(sizes) in (1, 2) and mesh != "pmap":  # fewer than there are: not by `make`
        kinds = (jax.sharding.AxisType.Auto,) * len(sizes)
        some = np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes)
        return sharding.Placement(jax.sharding.Mesh(some, sharding.AXES, axis_types=kinds))
    return sharding.make(**MESHES[mesh])


def leaves(state: Any) -> dict[str, np.ndarray]:
    plain = state.replace(key=jax.random.key_data(state.key))
    return {name: np.asarray(leaf) for name, leaf in tree.named_leaves(plain)}


def built(family: str, mesh: str) -> tuple[Any, sharding.Placement, Any]:
    """Returns the compiled program, where its state lives, and what makes one."""
    task, place = task_of(family), placement_of(mesh)
    init = guard.guarded_init(task.init)
    step = guard.guarded_step(task.step, policy="stop", spike=0.0)
    abstract = jax.eval_shape(init, jax.random.key(0), hyper_of(family))
    shapes = program.global_batch(batch_of(family, 0), place)
    # Two steps a call, so that the loop over steps is there as in a run.
    return program.build(step, abstract, shapes, place, 2), place, init


def trained(family: str, mesh: str) -> tuple[dict[str, Any], str]:
    """Returns losses, leaves after the first step and the last, samples; and the program's text."""
    made, place, init = built(family, mesh)
    state = sharding.create(place, init, jax.random.key(0), hyper_of(family))
    found: dict[str, Any] = {"start": leaves(state), "loss": []}
    for i in range(STEPS):
        stacked = program.stack([batch_of(family, i)], made.capacity, place)
        state, metrics = made.run(state, stacked, np.int32(1))
        # The sizes of updates are ratios to parameters, some of them zero at the start.
        means = {
            k: (float(a[0]), float(b[0])) for k, (a, b) in metrics.items() if "update" not in k
        }
        found["loss"].append({k: total / max(weight, 1e-9) for k, (total, weight) in means.items()})
        if i == 0:
            found["first"] = leaves(state)
    found["last"] = leaves(state)
    found["shards"] = {
        name: len({str(s.index) for s in leaf.addressable_shards})
        for name, leaf in tree.named_leaves(state.params)
    }
    judged, task = weights(state), task_of(family)
    row = jax.tree.map(lambda x: x[0], program.stack([batch_of(family, 99)], 1, place))
    found["eval"] = jax.tree.map(float, within(place, jax.jit(task.eval))(judged, row, _key()))
    assert task.sample is not None
    texts = family in ("lm", "accumulate")
    more: dict[str, Any] = {"number": 8}
    if texts:
        more = {"prompt": batch_of(family, 0)["inputs"][:8, :4], "count": 8}
    if mesh != "pmap" or not texts:
        found["sample"] = sampling(place, task.sample)(judged, _key(), **more)
    return found, made.compiled.as_text()


def _key() -> jax.Array:
    return jax.random.key(5)


def far(one: Any, other: Any) -> float:
    """The largest difference, as a share of 1 or the value, whatever is more."""
    worst = 0.0
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        worst = max(worst, float((np.abs(x - y) / np.maximum(1.0, np.abs(x))).max(initial=0.0)))
    return worst


def shapes_of(text: str, kind: str) -> list[str]:
    """The shapes that a compiled program's collectives of one kind give, "f32[4,8]" each."""
    found = []
    for line in text.splitlines():
        made = re.search(rf" = (.*?) {kind}(-start)?\(", line)
        if made:
            found += re.findall(r"[a-z]+\d*\[[\d,]*\]", made[1])
    return found


def scattered(text: str) -> list[str]:
    """The shapes of the parts that a backward pass takes out of sums over all devices.

    Where a device keeps a part of a gradient, the partitioner makes a sum and a slice of it, which
    compilers for accelerators join into one reduce-scatter; the one for CPUs leaves them.
    """
    lines = (line for line in text.splitlines() if "transpose(jvp(" in line)
    found = (re.search(r" = ([a-z]+\d*\[[\d,]*\])\S* dynamic-slice\(", line) for line in lines)
    return [made[1] for made in found if made]


def attended(mesh: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Returns (what the layers give, gradients) of attention by blocks on a mesh that splits the
    places of a row, and of the plain form on one device.
    """
    tokens = np.random.default_rng(3).integers(0, VOCAB, (8, CONTEXT)).astype(np.int32)

    def found(form: str, mesh: str) -> Any:
        knobs: dict[str, Any] = {"attention": form, "attention_block": 3, **options}
        network = Transformer(VOCAB, CONTEXT, layers=1, width=32, heads=4, **knobs)
        params = jax.jit(network.init)(jax.random.key(0), tokens)["params"]
        # Far from the small weights of a start, which attend to all places alike.
        params = jax.tree.map(lambda x: 4.0 * x, params)

        def loss(params: Any, tokens: Any) -> Any:
            y = network.apply({"params": params}, tokens, method="features")[0]
            return jnp.sin(y).sum() / 256, y

        place = placement_of(mesh)
        run = jax.jit(jax.value_and_grad(loss, has_aux=True), in_shardings=(None, place.batch()))
        with place.scope():
            (_, y), gradients = run(params, tokens)
        return jax.device_get((y, gradients))

    return found("blockwise", mesh), found("plain", "1")


def main() -> None:
    report: dict[str, Any] = {}
    for item in sys.argv[1:]:
        family, _, names = item.partition("=")
        if family == "attention":
            report[family] = {}
            for mesh in names.split(","):
                for name, options in ATTENTION.items():
                    blocks, plain = attended(mesh, options)
                    zeros = jax.tree.map(np.zeros_like, plain)
                    report[family][f"{name} {mesh}"] = [far(plain, blocks), far(zeros, plain)]
            continue
        if family == "memory":
            programs = {mesh: built("lm", mesh)[0].compiled for mesh in names.split(",")}
            report[family] = {
                mesh: [made.memory_analysis().argument_size_in_bytes,
                       made.memory_analysis().temp_size_in_bytes]
                for mesh, made in programs.items()
            }  # fmt: skip
            continue
        reference, _ = trained(family, "1")
        before, after = ({k: v for k, v in reference[when].items() if k.startswith("params/")}
                         for when in ("start", "last"))  # fmt: skip
        report[family] = {"moved": far(before, after)}
        for mesh in names.split(","):
            found, text = trained(family, mesh)
            parts = ("loss", "first", "last", "eval", *(["sample"] if "sample" in found else []))
            report[family][mesh] = {
                "far": {part: far(reference[part], found[part]) for part in parts},
                "gathered": shapes_of(text, "all-gather"),
                "summed": shapes_of(text, "all-reduce"),
                "scattered": scattered(text) + shapes_of(text, "reduce-scatter"),
                "shards": found["shards"],
            }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

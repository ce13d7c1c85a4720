"""Programs of a trained model that need JAX alone: its forward pass, and its sampling.

Each is a function of a flat dict of weights, by the names in the weights' file, and of arrays. It
is lowered to StableHLO by `jax.export`, for several platforms in one file; a form that only CPUs
gain from is in the CPU's branch alone. The number of rows is left open where that can be.

Letters: b = rows, P = places of a prompt, N = tokens that are written.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.core import tree
from aigc_jax.core.task import Task, Weights
from aigc_jax.errors import UserError, nearest
from aigc_jax.generate.batched import Batched
from aigc_jax.generate.draw import draw
from aigc_jax.generate.logits import Active, Knobs, Tally
from aigc_jax.generate.sampler import Sampler
from aigc_jax.models.platform import tracing_for

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_OURS = ("guard", "ema")  # of `vars`, the training's own; averages stand in their places already

Flat = dict[str, Any]


class Input(NamedTuple):
    """An argument after the weights; -1 in the shape is the number of rows."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Traceable(NamedTuple):
    """A function (weights, *inputs) -> arrays, what it takes, and what it gives, in words."""

    function: Callable[..., Any]
    inputs: tuple[Input, ...]
    gives: str


class Exported(NamedTuple):
    """A serialized program, and what is said of it."""

    data: bytes
    about: dict[str, Any]


def flat(weights: Weights) -> dict[str, Any]:
    """Returns the weights by name ("params/model/head"), without what only training reads."""
    return dict(tree.named_leaves(_judged(weights)))


def nester(weights: Weights) -> Callable[[Flat], Weights]:
    """Returns what undoes `flat`; of the weights, the structure is read."""
    judged = _judged(weights)
    names, structure = list(flat(weights)), jax.tree.structure(judged)
    return lambda named: jax.tree.unflatten(structure, [named[name] for name in names])


def _judged(weights: Weights) -> Weights:
    return Weights(weights.params, {n: x for n, x in weights.vars.items() if n not in _OURS})


def forward(task: Task, weights: Weights, spec: Any) -> Traceable | None:
    """Returns the forward pass of a family: logits of tokens or of images, examples of latents or
    of codes; None for one that has none of these.

    Args:
      task, weights: of a run; of the weights only shapes are read. spec: of its data.
    """
    facts, has, nested = spec.facts, task.functions, nester(weights)
    if isinstance(task.sample, Sampler):
        network = task.sample.programs.network

        def logits(named: Flat, tokens: jax.Array) -> jax.Array:
            return network.apply({"params": nested(named).params["model"]}, tokens)[0]  # type: ignore[no-any-return]

        tokens = Input("tokens", (-1, network.context), "int32")
        return Traceable(logits, (tokens,), "logits of the token after each, [b, T, V]")
    if "logits" in has:
        images = Input("x", (-1, *facts["shape"]), "float32")
        return Traceable(
            lambda named, x: has["logits"](nested(named), {"x": x}),
            (images,),
            "logits, [b, classes]",
        )
    if "decode" in has:
        size = jax.eval_shape(lambda: has["latents"](jax.random.key(0), 1)).shape[1]
        inputs = [Input("z", (-1, size), "float32")]
        if isinstance(task.sample, Batched) and task.sample.classes:
            inputs.append(Input("label", (-1,), "int32"))
        return Traceable(
            lambda named, z, *label: has["decode"](nested(named), z, *label),
            tuple(inputs),
            "examples, the data's values in [-1, 1]",
        )
    if "decode_codes" in has:
        one = {"x": jax.ShapeDtypeStruct((1, *facts["shape"]), "float32")}
        count = jax.eval_shape(has["codes"], weights, one).shape[1]
        return Traceable(
            lambda named, codes: has["decode_codes"](nested(named), codes),
            (Input("codes", (-1, count), "int32"),),
            "examples, the data's values in [-1, 1]",
        )
    return None


def sampling(task: Task, weights: Weights) -> Traceable | None:
    """Returns the sampling of a family, which draws what `aigc sample` or `aigc draw` does for the
    same key; None for one that draws nothing. Arguments: see `forward`.
    """
    nested = nester(weights)
    key = Input("key", (2,), "uint32")
    if isinstance(task.sample, Batched):
        pure, labelled = task.sample.pure, task.sample.classes > 0

        def examples(named: Flat, key: jax.Array, label: jax.Array) -> jax.Array:
            keys = _row_keys(key, label.shape[0])
            return pure(nested(named), keys, label)  # type: ignore[no-any-return]

        label = Input("label", (-1,), "int32")
        words = "their classes" if labelled else "zeros, which only count the rows"
        return Traceable(examples, (key, label), f"examples, [b, ...]; label: {words}")
    if not isinstance(task.sample, Sampler):
        return None
    network = task.sample.programs.network
    places = max(1, network.context // 2)
    inputs = (
        key,
        Input("prompt", (-1, places), "int32"),
        Input("length", (-1,), "int32"),
        Input("temperature", (), "float32"),
        Input("top_k", (), "int32"),
    )

    def write(named: Flat, *args: jax.Array) -> jax.Array:
        return _write(network, nested(named).params["model"], *args)

    count = network.context - places
    words = (
        f"{count} tokens a row, [b, {count}]; prompt: aligned to the right, `length` tokens of it"
    )
    return Traceable(write, inputs, f"{words}; temperature 0 is greedy, top_k 0 is all")


def _row_keys(key: jax.Array, rows: Any) -> jax.Array:
    root = jax.random.wrap_key_data(key, impl="threefry2x32")
    return jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.arange(rows, dtype=jnp.int32))


def _write(
    network: Any, params: Any, key: jax.Array, prompt_BP: jax.Array, length_B: jax.Array,
    temperature: jax.Array, top_k: jax.Array,
) -> jax.Array:  # fmt: skip
    """Reads prompts, then draws one token after the other; see `generate.decode`. int32 [B, N]."""
    batch, places = prompt_BP.shape
    count, what = network.context - places, Active(draw=True, top_k=True)
    keys_B, ones = _row_keys(key, batch), jnp.ones((batch,), jnp.float32)
    by = Knobs(
        temperature * ones, jnp.clip(top_k, 0, network.vocab_size) * jnp.ones((batch,), jnp.int32),
        ones, 0 * ones, ones, 0 * ones, 0 * ones,
        jnp.zeros((batch, 0), jnp.int32), jnp.zeros((batch, 0), jnp.float32),
    )  # fmt: skip

    def read(tokens_BT: jax.Array, cache: Any, i: Any) -> tuple[jax.Array, Any]:
        logits, cache = network.apply({"params": params}, tokens_BT, cache=cache, last=True)
        return draw(logits[:, -1], keys_B, i, by, Tally(), what).token, cache

    def step(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
        token_B, cache = read(carry[0][:, None], carry[1], i)
        return (token_B, cache), token_B

    cache = network.empty_cache(batch, network.context, places - length_B)
    first_B, cache = read(prompt_BP, cache, jnp.int32(0))
    _, rest_NB = jax.lax.scan(step, (first_B, cache), jnp.arange(1, count, dtype=jnp.int32))
    return jnp.concatenate([first_B[:, None], rest_NB.T], axis=1)


def platforms(words: str) -> tuple[str, ...]:
    """Reads "cpu,cuda,tpu".

    Raises:
      UserError: a platform that there is not, or none.
    """
    names = tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    for name in names:
        if name not in PLATFORMS:
            raise UserError(
                f"--platforms={words}: no platform '{name}'; expected some of"
                f" {', '.join(PLATFORMS)}.{nearest(name, PLATFORMS)}"
            )
    if not names:
        raise UserError(f"--platforms={words}: expected some of {', '.join(PLATFORMS)}.")
    return names


def export(what: Traceable, named: Mapping[str, Any], on: Sequence[str]) -> Exported:
    """Lowers a program for several platforms.

    Args:
      named: the weights, or their shapes and dtypes. on: some of PLATFORMS.

    Raises:
      UserError: the package flatbuffers, in which programs are written, is not there.
    """
    from jax import export as jax_export

    def traced(platform: str) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with tracing_for(platform):
                return what.function(*args)

        return run

    others = [platform for platform in on if platform != "cpu"]
    branches = {"cpu": traced("cpu")} if "cpu" in on else {}

    def program(weights: Flat, *inputs: jax.Array) -> Any:
        if len(branches) + bool(others) == 1:
            return (branches.get("cpu") or traced(others[0]))(weights, *inputs)
        return jax.lax.platform_dependent(
            weights, *inputs, cpu=branches["cpu"], default=traced(others[0])
        )

    shapes = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in named.items()}
    rows: Any
    for rows in (jax_export.symbolic_shape("b")[0], 1):
        inputs = [
            jax.ShapeDtypeStruct(tuple(rows if n == -1 else n for n in i.shape), i.dtype)
            for i in what.inputs
        ]
        try:
            made = jax_export.export(jax.jit(program), platforms=tuple(on))(shapes, *inputs)
            break
        except Exception:  # which operations can't leave a size open, nothing lists
            if rows == 1:
                raise
    try:
        data = bytes(made.serialize())
    except ImportError:
        raise UserError(
            "aigc export writes programs with the package flatbuffers, which JAX does not bring;"
            " install it (pip install flatbuffers), or give --what=weights."
        ) from None
    return Exported(data, _about(what, made, rows, on))


def _about(what: Traceable, made: Any, rows: Any, on: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of a program."""
    letter = lambda shape: [n if isinstance(n, int) else str(n) for n in shape]  # noqa: E731
    return {
        "platforms": list(on),
        "rows": str(rows) if not isinstance(rows, int) else rows,
        "inputs": [
            {
                "name": i.name,
                "shape": letter(rows if n == -1 else n for n in i.shape),
                "dtype": i.dtype,
            }
            for i in what.inputs
        ],
        "outputs": [{"shape": letter(x.shape), "dtype": str(x.dtype)} for x in made.out_avals],
        "gives": what.gives,
        "calling_convention_version": made.calling_convention_version,
    }


def host(named: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the weights as host arrays."""
    return {name: np.asarray(x) for name, x in named.items()}

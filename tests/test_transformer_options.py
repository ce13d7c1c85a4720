"""Each option of the transformer, alone and with others, against a reference in NumPy."""

import math
import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from reference import CONTEXT, VOCAB, WIDTH, expected, forward, loud, model, shapes, tokens

from aigc_jax.core import tree
from aigc_jax.errors import UserError
from aigc_jax.models.dense import TURNED, logits_of
from aigc_jax.models.layers import Attention, Norm, View
from aigc_jax.models.positions import alibi, alibi_slopes, rotate
from aigc_jax.models.stacking import stack, unstack
from aigc_jax.models.transformer import Transformer

# What a call may be given, for three rows.
SEGMENTS = np.repeat([[1, 2, 3], [3, 3, 0], [1, 2, 2]], CONTEXT // 3, axis=1)
RESTARTED = np.array([[np.sum(own[:t] == own[t]) for t in range(CONTEXT)] for own in SEGMENTS])
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "packed": {"segments_BT": jnp.asarray(SEGMENTS), "positions_BT": jnp.asarray(RESTARTED)},
    "prefix": {"prefix_B": jnp.array([7, 0, 2])},
    "moved": {"positions_BT": jnp.asarray(RESTARTED[::-1] + np.arange(3)[:, None])},
}

ROPE = {"positions": "rope"}
ALONE: list[dict[str, Any]] = [
    {},
    *({"kv_heads": kv_heads} for kv_heads in (1, 2, 4)),
    *({"window": window} for window in (1, 3, 50)),
    *({"positions": kind} for kind in ("sinusoidal", "rope", "alibi", "none")),
    {"max_positions": 20},
    {**ROPE, "rope_base": 100.0},
    {**ROPE, "rope_scaling": "linear", "rope_factor": 2.5},
    {**ROPE, "rope_scaling": "ntk", "rope_factor": 8.0, "heads": 2},
    {"positions": "alibi", "heads": 1},
    *({"mlp": kind} for kind in ("gelu_tanh", "swiglu", "relu2")),
    {"mlp_ratio": 2},
    {"norm": "rmsnorm"},
    {"norm_place": "post"},
    {"qk_norm": True},
    {"attention_cap": 1.5},
    {"logit_cap": 2.0},
    {"bias": True},
    {"tied": False},
    {"scan": True, "layers": 3},
]
CHOICES: dict[str, tuple[Any, ...]] = {
    "kv_heads": (0, 1, 2),
    "window": (0, 1, 3, 5),
    "positions": ("learned", "sinusoidal", "rope", "rope", "alibi", "alibi", "none"),
    "mlp": ("gelu", "gelu_tanh", "swiglu", "relu2"),
    "norm": ("layernorm", "rmsnorm"),
    "norm_place": ("pre", "post"),
    "qk_norm": (False, True),
    "attention_cap": (0.0, 0.8),
    "logit_cap": (0.0, 3.0),
    "bias": (False, True),
    "tied": (True, False),
    "layers": (1, 2, 3),
}


def drawn(seed: int) -> dict[str, Any]:
    """Options that fit together, at random."""
    pick = random.Random(seed)
    options = {name: pick.choice(values) for name, values in CHOICES.items()}
    if options["positions"] == "rope":
        scaling = pick.choice(("none", "linear", "ntk"))
        factor = 1.0 if scaling == "none" else pick.choice((1.0, 1.5, 4.0))
        options |= {"rope_scaling": scaling, "rope_factor": factor, "rope_base": 500.0}
    return options


def named(options: dict[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items()) or "defaults"


def close(found: Any, wanted: Any, tolerance: float = 5e-6) -> None:
    gap = np.abs(np.asarray(found, np.float64) - wanted).max() / np.abs(wanted).max()
    assert gap < tolerance


@pytest.mark.parametrize("options", ALONE, ids=named)
def test_each_option_alone_equals_the_reference(options: dict[str, Any]) -> None:
    network = model(**options)
    network.check()
    params, batch = loud(network), tokens(3, CONTEXT)
    for name, arrays in CALLS.items():
        if name == "plain" or not network.scan:
            close(
                forward(network, params, batch, **arrays),
                expected(network, params, batch, **arrays),
            )


@pytest.mark.parametrize("seed", range(14))
def test_options_together_equal_the_reference(seed: int) -> None:
    network = model(**drawn(seed))
    network.check()
    params, batch = loud(network), tokens(3, CONTEXT, seed)
    for arrays in CALLS.values():
        close(forward(network, params, batch, **arrays), expected(network, params, batch, **arrays))


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_small_numbers_meet_the_epsilon_of_each_norm(norm: str) -> None:
    network = model(norm=norm, qk_norm=True)
    params, batch = loud(network), tokens(3, CONTEXT)
    tiny = tree.map_named(
        lambda name, p: p * (1e-3 if "embed" in name or "qkv" in name else 1), params
    )
    close(forward(network, tiny, batch), expected(network, tiny, batch))


def test_only_the_distance_matters_to_rope() -> None:
    batch, places = tokens(3, CONTEXT), np.arange(CONTEXT)[None].repeat(3, axis=0)
    for options in (ROPE, {**ROPE, "rope_scaling": "ntk", "rope_factor": 4.0}):
        network = model(**options)
        params = loud(network)
        plain = forward(network, params, batch)
        np.testing.assert_array_equal(
            plain, forward(network, params, batch, positions_BT=jnp.asarray(places))
        )
        moved = forward(network, params, batch, positions_BT=jnp.asarray(places + 37))
        close(moved, plain, 2e-5)
        stretched = forward(network, params, batch, positions_BT=jnp.asarray(2 * places))
        assert np.abs(stretched - plain).max() > 0.1
    for kind in ("learned", "sinusoidal"):
        network = model(positions=kind, max_positions=50 if kind == "learned" else 0)
        params = loud(network)
        moved = forward(network, params, batch, positions_BT=jnp.asarray(places + 37))
        assert np.abs(moved - forward(network, params, batch)).max() > 0.1


def turns(**settings: Any) -> np.ndarray:
    """The angle by which each pair of a head of width 8 turns in one position, [4]."""
    settings = {"base": 100.0, "scaling": "none", "factor": 1.0} | settings
    ones = jnp.concatenate([jnp.ones((1, 1, 1, 4)), jnp.zeros((1, 1, 1, 4))], axis=-1)
    x, y = np.asarray(rotate(ones, jnp.ones((1, 1), jnp.int32), **settings)).reshape(2, 4)
    np.testing.assert_allclose(np.hypot(x, y), 1, rtol=1e-6)
    return np.arctan2(y, x)


def test_rope_turns_each_pair_at_a_speed_of_its_own() -> None:
    plain = turns()
    np.testing.assert_allclose(plain, 100.0 ** (-np.arange(4) / 4), rtol=1e-5)
    np.testing.assert_allclose(turns(scaling="linear", factor=5.0), plain / 5, rtol=1e-5)
    slowed = plain / turns(scaling="ntk", factor=5.0)
    np.testing.assert_allclose(slowed, 5.0 ** (np.arange(4) / 3), rtol=1e-5)
    assert slowed[0] == pytest.approx(1, rel=1e-5)
    assert slowed[3] == pytest.approx(5, rel=1e-5)


def test_the_slopes_of_alibi_are_the_papers() -> None:
    eight = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(8) == eight
    between = [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    np.testing.assert_allclose(alibi_slopes(12), [*eight, *between])
    for heads in range(1, 40):
        np.testing.assert_allclose(alibi_slopes(heads), reference.alibi_slopes(heads), rtol=1e-12)
    bias = alibi(jnp.array([[[0, 1], [3, -2]]]), 8)
    assert bias.shape == (1, 8, 2, 2)
    np.testing.assert_array_equal(bias[0, 1], [[0, -0.25], [-0.75, -0.5]])


def loss(network: Transformer, batch: jax.Array, **arrays: Any) -> Any:
    def compute(params: Any) -> jax.Array:
        logits = network.apply({"params": params}, batch[:, :-1], **arrays)[0]
        nll = -jax.nn.log_softmax(logits)
        return jnp.take_along_axis(nll, batch[:, 1:, None], axis=-1).mean()

    return jax.value_and_grad(compute)


def test_scanned_layers_are_the_same_function() -> None:
    options = {**ROPE, "kv_heads": 2, "mlp": "swiglu", "norm": "rmsnorm", "qk_norm": True}
    network, batch = model(layers=2, bias=True, **options), tokens(3, CONTEXT + 1)
    scanned = network.clone(scan=True)
    params = loud(network)
    both = stack(params)
    assert jax.tree.map(jnp.shape, both) == jax.tree.map(jnp.shape, shapes(scanned))
    jax.tree.map(np.testing.assert_array_equal, unstack(both), params)
    jax.tree.map(np.testing.assert_array_equal, stack(unstack(both)), both)
    assert "block_1" in params and "blocks" in both and "block_1" not in both
    value, gradient = jax.jit(loss(network, batch))(params)
    other, of_stacked = jax.jit(loss(scanned, batch))(both)
    assert float(value) == pytest.approx(float(other), rel=1e-6)
    jax.tree.map(close, unstack(of_stacked), gradient)
    # The layers are not alike, so that their order matters.
    layers = of_stacked["blocks"]["attention"]["qkv"]["kernel"]
    assert np.abs(np.diff(layers, axis=0)).max() > 0.1 * np.abs(layers).max()


def test_scanned_layers_begin_different_from_each_other() -> None:
    network = model(scan=True, layers=3)
    params = jax.jit(network.init)(jax.random.key(0), tokens(1, 2))["params"]
    for name, leaf in tree.named_leaves(params["blocks"]):
        assert leaf.shape[0] == 3
        if name.endswith("kernel"):
            assert len({float(layer.sum()) for layer in leaf}) == 3, name
            std = 0.02 / math.sqrt(2 * 3) if "/out/" in name else 0.02
            assert float(leaf.std()) == pytest.approx(std, rel=0.1), name


@pytest.mark.parametrize("scan", [False, True])
def test_each_layer_drops_something_else(scan: bool) -> None:
    network = model(scan=scan, dropout=0.5, bias=True, norm="rmsnorm", mlp="relu2")
    params = jax.tree.map(jnp.zeros_like, loud(network))
    params["final_norm"]["scale"] = jnp.ones(WIDTH)
    for name, block in params.items():
        if name.startswith("block"):
            block["mlp"]["out"]["bias"] += 1.0  # a block adds ones, half of them dropped

    def run(key: jax.Array) -> jax.Array:
        variables, batch = {"params": params}, tokens(3, CONTEXT)
        return network.apply(
            variables, batch, deterministic=False, rngs={"dropout": key}, method="features"
        )[0]

    run = jax.jit(run) if scan else run
    x_BTC = np.asarray(run(jax.random.key(0)))
    sums = x_BTC / x_BTC.max(-1, keepdims=True)  # of 0, 2 and 4 if the masks differ, else 0 and 4
    counts = np.bincount(np.rint(2 * sums).astype(int).ravel(), minlength=3) / sums.size
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.08)
    assert np.abs(x_BTC - run(jax.random.key(1))).max() > 0.1


def operations(jaxpr: Any, *names: str) -> list[Any]:
    """The operations of these names, those of programs inside included."""
    inner = [p for e in jaxpr.eqns for p in jax.tree.leaves(list(e.params.values()))]
    below = [getattr(p, "jaxpr", p) for p in inner if hasattr(getattr(p, "jaxpr", p), "eqns")]
    here = [e for e in jaxpr.eqns if e.primitive.name in names]
    return here + [e for program in below for e in operations(program, *names)]


@pytest.mark.parametrize("scan", [False, True])
def test_what_is_computed_again_changes_no_number(scan: bool) -> None:
    batch, found, counts = tokens(3, CONTEXT + 1), {}, {}
    arrays = {"deterministic": False, "rngs": {"dropout": jax.random.key(0)}}
    for remat in ("none", "dots", "dots_no_batch", "offload", "full"):
        network = model(scan=scan, remat=remat, layers=1 + scan, dropout=0.2, mlp="swiglu")
        params, step = loud(network), loss(network, batch, **arrays)
        counts[remat] = len(operations(jax.make_jaxpr(step)(params).jaxpr, "dot_general"))
        if remat in ("none", "full") or scan == (remat == "offload"):  # the others: counted
            found[remat] = jax.jit(step)(params)
    # A block: two products of attention, and qkv, out, hidden, gate, out. Once forwards, twice
    # backwards; what a policy does not keep is computed once more, if the backward pass needs it.
    assert counts["none"] == counts["dots"] == 3 * 7 + 3
    assert counts["dots_no_batch"] == counts["offload"] == counts["none"] + 2
    assert counts["full"] == counts["none"] + 6
    for value, gradient in found.values():
        assert float(value) == pytest.approx(float(found["none"][0]), rel=1e-6)
        jax.tree.map(close, gradient, found["none"][1])


HALF = jnp.dtype("bfloat16")


@pytest.mark.parametrize("name", ["param_dtype", "dtype", "logits_dtype"])
def test_each_dtype_is_that_of_its_own_part(name: str) -> None:
    network = model(**{name: "bfloat16"}, positions="rope", bias=True)
    shape = jax.eval_shape(network.init, jax.random.key(0), tokens(1, 2))["params"]
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(shape)}
    cache = network.empty_cache(3)
    arguments = {"params": shape}, tokens(3, CONTEXT)
    x_BTC, _ = jax.eval_shape(lambda *a: network.apply(*a, method="features"), *arguments)
    logits, after = jax.eval_shape(lambda *a: network.apply(*a, cache=cache), *arguments)
    found = {"param_dtype": dtypes, "dtype": {x_BTC.dtype}, "logits_dtype": {logits.dtype}}
    full = {jnp.dtype("float32")}
    assert found == {each: {HALF} if each == name else full for each in found}
    kept = {leaf.dtype for leaf in jax.tree.leaves((cache.layers, after.layers))}
    assert kept == found["dtype"]


def test_bfloat16_is_near_float32() -> None:
    network, batch = model(layers=1), tokens(3, CONTEXT)
    params = loud(network)
    exact = forward(network, params, batch)
    near = forward(network.clone(dtype="bfloat16"), params, batch)
    gap = np.abs(near - exact).max() / np.abs(exact).max()
    assert 1e-4 < gap < 0.03  # two to three digits: it is close, and it is not the same program
    # The products of the output layer are summed in float32, and leave so.
    assert (near != near.astype(HALF).astype(jnp.float32)).mean() > 0.9
    rounded = forward(network.clone(dtype="bfloat16", logits_dtype="bfloat16"), params, batch)
    np.testing.assert_array_equal(rounded, near.astype(HALF))


def test_half_precision_ends_before_exponentials_and_roots() -> None:
    network = model(dtype="bfloat16", attention_cap=2.0, logit_cap=2.0, qk_norm=True, layers=1)
    program = jax.make_jaxpr(network.apply)({"params": loud(network)}, tokens(3, CONTEXT)).jaxpr
    for name, count in (("exp", 1), ("rsqrt", 5), ("tanh", 2)):
        found = operations(program, name)
        assert [e.outvars[0].aval.dtype for e in found] == [jnp.float32] * count, name
    assert {e.invars[0].aval.dtype for e in operations(program, "dot_general")} == {HALF}


@pytest.mark.parametrize("center", [True, False])
def test_norms_are_computed_in_float32(center: bool) -> None:
    # Near 1024 bfloat16 counts in steps of 8: it has no 1028, the mean of these.
    x = jnp.array([[1024, 1032, 1024, 1032], [3, 300, 3, 3]], HALF)
    norm = Norm(center=center, bias=False, dtype="bfloat16", param_dtype="float32")
    found = norm.apply({"params": {"scale": jnp.ones(4)}}, x)
    assert found.dtype == HALF
    exact = np.asarray(x, np.float64)
    exact -= exact.mean(-1, keepdims=True) if center else 0
    exact /= np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(np.asarray(found, np.float64), exact, rtol=2**-8)


def test_attention_weights_are_computed_in_float32() -> None:
    # Every logit is about 1024, where bfloat16 counts in steps of 4 or 8; ALiBi takes away 1/256
    # per token, less than 1 in all.
    time = 200
    layer = Attention(
        heads=1, kv_heads=1, width=2, dense=partial(nn.Dense, use_bias=False, dtype=HALF),
        qk_norm=None, rotate=None, scale=2**-0.5, cap=0.0, dropout=0.0, std=1.0, out_std=1.0,
    )  # fmt: skip
    steps = jnp.arange(time)
    mask, bias = (
        (steps[:, None] >= steps[None])[None],
        alibi((steps[:, None] - steps[None])[None], 1),
    )
    view = View(mask, steps[None], bias, jnp.int32(0))
    value = (steps % 16 < 8).astype(jnp.float32) * steps / 256
    x_NC = jnp.stack([jnp.ones(time), value], axis=-1).astype(HALF)
    qkv = np.zeros((2, 6), np.float32)
    qkv[0, 0], qkv[0, 2], qkv[1, 4] = 128 * 2**0.5, 8, 1
    params = {"qkv": {"kernel": jnp.asarray(qkv)}, "out": {"kernel": jnp.eye(2)}}
    found = layer.apply({"params": params}, x_NC, view, None)[0][-1, 0]
    weights = np.exp(-(time - 1 - np.arange(time)) / 256)
    exact = (weights / weights.sum() * np.asarray(x_NC[:, 1], np.float64)).sum()
    assert float(found) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("options", [{}, {"bias": True, "mlp": "swiglu"}], ids=named)
def test_blocks_that_begin_at_zero_are_the_identity(options: dict[str, Any]) -> None:
    network = model(zero_init=True, **options)
    batch = tokens(3, CONTEXT)
    params = network.init(jax.random.key(0), batch)["params"]
    embedded = np.asarray(params["embed"], np.float64)[batch]
    embedded += np.asarray(params["position_embed"], np.float64)
    centered = embedded - embedded.mean(-1, keepdims=True)
    normed = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    logits = forward(network, params, batch)
    close(logits, normed @ np.asarray(params["embed"], np.float64).T)
    zeros = {name for name, leaf in tree.named_leaves(params) if not np.any(leaf)}
    assert {name.rsplit("/", 2)[-2] for name in zeros if name.endswith("kernel")} == {"out"}


BAD: list[tuple[dict[str, Any], str]] = [
    *(({name: 0}, rf"\.{name}=0: expected 1 or more") for name in
      ("layers", "heads", "width", "mlp_ratio")),
    *(({name: -1}, rf"\.{name}=-1: expected 0 or more") for name in
      ("kv_heads", "window", "max_positions", "attention_cap", "logit_cap")),
    *(({name: math.nan}, rf"\.{name}=nan: expected") for name in
      ("attention_cap", "logit_cap", "init_std", "rope_base", "dropout")),
    *(({name: math.inf}, rf"\.{name}=inf: expected") for name in
      ("attention_cap", "logit_cap", "init_std", "rope_base")),
    ({"init_std": 0.0}, r"\.init_std=0\.0: expected a number above 0"),
    ({"rope_base": -2.0}, r"\.rope_base=-2\.0: expected a number above 0"),
    ({"dropout": 1.0}, r"\.dropout=1\.0: expected a number in \[0, 1\)"),
    ({"dropout": -0.1}, r"\.dropout=-0\.1: expected a number in \[0, 1\)"),
    *(({name: "float64"}, rf"\.{name}='float64': expected one of float32, bfloat16, float16") for
      name in ("param_dtype", "dtype", "logits_dtype")),
    ({"positions": "rotary"}, "'rotary': expected one of learned, sinusoidal, rope, alibi, none"),
    ({"rope_scaling": "yarn"}, "'yarn': expected one of none, linear, ntk"),
    ({"mlp": "relu"}, "'relu': expected one of gelu, gelu_tanh, swiglu, relu2"),
    ({"norm": "batch"}, "'batch': expected one of layernorm, rmsnorm"),
    ({"norm_place": "both"}, "'both': expected one of pre, post"),
    ({"remat": "all"}, "'all': expected one of none, full, dots, dots_no_batch, offload"),
    ({"remat": "products"}, "'products': expected .*it is called 'dots_no_batch' now"),
    ({"width": 10}, r"width=10 is not a multiple of heads=4; try width=8\."),
    ({"width": 2}, r"width=2 is not a multiple of heads=4; try width=4\."),
    ({"kv_heads": 3}, r"kv_heads=3 does not divide heads=4; it can be 1, 2, 4\."),
    ({"kv_heads": 8}, r"kv_heads=8 does not divide heads=4; it can be 1, 2, 4\."),
    ({**ROPE, "width": 12}, "positions='rope' turns pairs .* width/heads = 3, an odd number"),
    ({"positions": "sinusoidal", "width": 5, "heads": 1}, "needs an even width, not 5"),
    ({"rope_scaling": "linear"}, "rope_scaling='linear' .* go with positions='rope', not 'learn"),
    ({"rope_factor": 2.0}, r"rope_factor=2\.0 go with positions='rope', not 'learned'"),
    ({**ROPE, "rope_factor": 2.0}, r"factor=2\.0 with rope_scaling='none': .*'linear' or 'ntk'"),
    ({**ROPE, "rope_scaling": "ntk", "rope_factor": 0.5}, r"factor=0\.5 .* expected 1 or above"),
    ({**ROPE, "rope_scaling": "ntk", "rope_factor": math.nan}, "rope_factor=nan"),
    ({**ROPE, "max_positions": 99}, "max_positions=99 .* positions='rope' has none. Leave it at 0"),
    ({"max_positions": 11}, r"a context of 12 is longer than the 11 learned positions; .*=12"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD, ids=[named(options) for options, _ in BAD])
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model(**options).check()
    assert str(caught.value).startswith("task.model")
    assert "\n" not in str(caught.value)


GOOD: list[dict[str, Any]] = [
    {"layers": 1, "heads": 1, "width": 1, "mlp_ratio": 1},
    {"kv_heads": 1},
    {"kv_heads": 4},
    {"window": 1},
    {"window": CONTEXT + 1},
    {"dropout": 0.999},
    {"init_std": 1e-9},
    {"attention_cap": 1e-3, "logit_cap": 1e-3},
    {**ROPE, "width": 8, "rope_base": 0.5},
    {**ROPE, "rope_scaling": "linear"},
    {**ROPE, "rope_scaling": "ntk", "rope_factor": 1.0},
    {"positions": "alibi", "width": 12},
    {"positions": "alibi", "heads": 3, "width": 9},
    {"positions": "sinusoidal", "heads": 2, "width": 6},
    {"max_positions": 12},
    {"max_positions": 13},
    {"dtype": "float16", "param_dtype": "bfloat16", "logits_dtype": "bfloat16"},
    {"scan": True, "remat": "dots_no_batch", "norm_place": "post", "zero_init": True},
]


@pytest.mark.parametrize("options", GOOD, ids=named)
def test_options_at_the_edge_of_what_fits(options: dict[str, Any]) -> None:
    network = model(**options)
    network.check()
    logits, _ = jax.eval_shape(
        lambda: network.init_with_output(jax.random.key(0), tokens(2, CONTEXT))[0]
    )
    assert logits.shape == (2, CONTEXT, VOCAB)


def refused() -> Iterator[Any]:
    ints = jnp.zeros((1, 3), jnp.int32)
    cache = model().empty_cache(1, 5)
    row = jnp.zeros((1, CONTEXT + 1), jnp.int32)
    yield row, {}, "13 tokens in a row; the model's context is 12"
    yield row[:, :6], {"cache": cache}, "6 tokens in a row; the cache's room is 5"
    yield ints, {"segments_BT": ints, "cache": cache}, "segments can't be told apart with a cache"
    yield ints, {"segments_BT": ints, "prefix_B": ints[:, 0]}, "pass it or segments, not both"


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("scan", [False, True])
def test_calls_that_do_not_fit(case: int, scan: bool) -> None:
    row, arrays, message = list(refused())[case]
    network = model(scan=scan)
    if "cache" in arrays:
        arrays["cache"] = network.empty_cache(1, 5)
    with pytest.raises(UserError, match=message) as caught:
        jax.eval_shape(lambda p: network.apply({"params": p}, row, **arrays), shapes(network))
    assert "\n" not in str(caught.value)


def test_a_cache_has_room_beyond_the_context() -> None:
    network = model(positions="rope")
    cache, row = network.empty_cache(1, CONTEXT + 2), jnp.zeros((1, CONTEXT + 2), jnp.int32)
    logits, _ = jax.eval_shape(
        lambda p: network.apply({"params": p}, row, cache=cache), shapes(network)
    )
    assert logits.shape == (1, CONTEXT + 2, VOCAB)
    last, _ = jax.eval_shape(
        lambda p: network.apply({"params": p}, row, cache=cache, last=True), shapes(network)
    )
    assert last.shape == (1, 1, VOCAB)


def test_the_last_place_alone_is_the_last_of_all() -> None:
    network = model(logit_cap=3.0)
    params, batch = loud(network), tokens(3, CONTEXT)
    whole = forward(network, params, batch)
    np.testing.assert_allclose(forward(network, params, batch, last=True), whole[:, -1:], rtol=1e-6)


def test_a_gated_mlp_is_as_large_as_another() -> None:
    sizes = {
        kind: tree.count(shapes(model(mlp=kind, width=48)))
        for kind in ("gelu", "gelu_tanh", "relu2", "swiglu")
    }
    assert len(set(sizes.values())) == 1
    hidden = shapes(model(mlp="swiglu", mlp_ratio=3))["block_0"]["mlp"]["hidden"]["kernel"]
    assert hidden.shape == (WIDTH, 32)
    gate = shapes(model(mlp="swiglu", width=20))["block_0"]["mlp"]["gate"]["kernel"]
    assert gate.shape == (20, 56)  # 2/3 of 80, and up to a multiple of 8


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_output_layer_is_the_same_product_for_few_rows(rows: int, dtype: str) -> None:
    rng = np.random.default_rng(rows)
    x, head = (jnp.asarray(rng.normal(size=(n, 24)), dtype) for n in (rows, 37))
    logits = logits_of(x, head, decoding=True)
    assert (logits.shape, logits.dtype) == ((rows, 37), jnp.float32)
    exact = np.asarray(x, np.float64) @ np.asarray(head, np.float64).T
    np.testing.assert_allclose(logits, exact, rtol=1e-5, atol=1e-5)
    # Rows alone take another way, and see no other row.
    alone = jnp.concatenate([logits_of(x[i : i + 1], head, decoding=False) for i in range(rows)])
    np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"bias": True}, {"mlp": "swiglu"}, {"scan": True}], ids=str
)
def test_few_rows_pass_through_turned_kernels_as_through_the_kernels(
    options: dict[str, Any],
) -> None:
    network = model(**options)
    params = loud(network)
    more = network.prepared(params, 3)
    kernels = [path for path, _ in tree.named_leaves(params) if path.endswith("kernel")]
    assert len(tree.named_leaves(more[TURNED])) == len(kernels) > 0

    def read(variables: dict[str, Any]) -> jax.Array:
        cache = network.empty_cache(3, 4)
        _, cache = network.apply(variables, tokens(3, 2)[:, :1], cache=cache, last=True)
        return network.apply(variables, tokens(3, 2)[:, 1:], cache=cache, last=True)[0]

    plain = read({"params": params})
    np.testing.assert_allclose(read({"params": params, **more}), plain, rtol=2e-5, atol=2e-5)
    # They are what is read: without them, or with others, the answer is another.
    halved = {"params": params, TURNED: jax.tree.map(lambda x: x / 2, more[TURNED])}
    assert np.abs(read(halved) - plain).max() > 1e-2


@pytest.mark.parametrize(
    ("rows", "dtype", "platform", "turns"),
    [
        (1, "float32", "cpu", False),
        (2, "float32", "cpu", True),
        (16, "float32", "cpu", True),
        (17, "float32", "cpu", False),
        (8, "bfloat16", "cpu", False),
        (8, "float32", "tpu", False),
    ],
)
def test_kernels_are_turned_where_it_pays(
    rows: int, dtype: str, platform: str, turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), shapes(model()))
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert bool(model().prepared(params, rows)) == turns

"""Attention by blocks against all weights at once, what it remembers, and which form is taken."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CONTEXT, loud, model, tokens

from aigc_jax.core.flops import count_flops
from aigc_jax.errors import UserError
from aigc_jax.models import attention
from aigc_jax.models.attention import MASKED, attention_mask, blockwise, fused
from aigc_jax.models.positions import alibi as slopes

ROWS, TIME, HEADS, DEPTH, BLOCK = 2, 21, 4, 8, 8
SCALE = 0.7
Arrays = tuple[jax.Array, ...]


def plain(
    q: jax.Array, k: jax.Array, v: jax.Array, *, scale: float, cap: float = 0.0,
    alibi: bool = False, window: int = 0, factor: Any = None, **who: Any,
) -> jax.Array:  # fmt: skip
    """The formula, keys repeated; `factor` multiplies the weights."""
    share, time = q.shape[2] // k.shape[2], jnp.arange(q.shape[1])[None]
    k, v = (jnp.repeat(x, share, axis=2) for x in (k, v))
    logits = scale * jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32)
    logits = cap * jnp.tanh(logits / cap) if cap else logits
    if alibi:
        logits += slopes(time[:, :, None] - time[:, None], q.shape[2])
    sees = attention_mask(time, time, window=window, **who)[:, None]
    weights = jax.nn.softmax(jnp.where(sees, logits, MASKED))
    if factor is not None:
        weights *= factor
    return jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v)


def drawn(time: int = TIME, groups: int = HEADS, dtype: Any = jnp.float32) -> Arrays:
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = [(ROWS, time, heads, DEPTH) for heads in (HEADS, groups, groups, HEADS)]
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))


def differentiated(form: Any, arrays: Arrays, **options: Any) -> Any:
    """The output, and the gradients of queries, keys and values."""
    q, k, v, weigh = arrays

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        y = form(q, k, v, scale=SCALE, **options)
        return (y.astype(jnp.float32) * weigh.astype(jnp.float32)).sum(), y

    run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, y), gradients = run(q, k, v)
    return y, gradients


def close(found: Any, wanted: Any, tolerance: float) -> None:
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        assert np.abs(one - other).max() < tolerance * np.abs(other).max()


SEGMENTS = jnp.asarray(np.array([[1] * 9 + [2] * 3 + [1] * 9, [0] * 16 + [5] * 5]))
PREFIX = jnp.array([11, 0])
CASES: dict[str, dict[str, Any]] = {
    "causal, 1 key head": {"groups": 1},
    "window and cap, 2 key heads": {"window": 5, "cap": 0.9, "groups": 2},
    "a window of a block and more": {"window": BLOCK + 2},
    "a window of two": {"window": 2, "alibi": True},
    "prefix": {"prefix_B": PREFIX, "groups": 2},
    "prefix, window, alibi, cap": {"prefix_B": PREFIX, "window": 3, "alibi": True, "cap": 2.0},
    "segments, alibi, 2 key heads": {"segments": (SEGMENTS, SEGMENTS), "alibi": True, "groups": 2},
    "segments and window": {"segments": (SEGMENTS, SEGMENTS), "window": 6},
    "whole blocks": {"time": 3 * BLOCK},
    "one block": {"time": 5},
    "half precision": {"dtype": jnp.bfloat16, "groups": 2, "cap": 5.0},
}


@pytest.mark.parametrize("name", CASES)
def test_blocks_give_the_same_values_and_gradients(name: str) -> None:
    options = dict(CASES[name])
    sizes = {key: options.pop(key) for key in ("time", "groups", "dtype") if key in options}
    arrays = drawn(**sizes)
    found = differentiated(partial(blockwise, block=BLOCK), arrays, **options)
    assert found[0].dtype == arrays[0].dtype
    close(found, differentiated(plain, arrays, **options), 2e-2 if "dtype" in sizes else 5e-6)


def test_who_sees_nothing_gets_zeros_and_no_gradient() -> None:
    start_B, arrays = jnp.array([10, 0]), drawn()
    y, gradients = differentiated(partial(blockwise, block=BLOCK), arrays, start_B=start_B)
    real = (jnp.arange(TIME)[None] >= start_B[:, None])[:, :, None, None]
    alone = (*arrays[:3], jnp.where(real, arrays[3], 0))
    wanted, expected = differentiated(plain, alone, start_B=start_B)
    close((y, gradients), (jnp.where(real, wanted, 0), expected), 5e-6)
    assert not np.any(y[0, :10]) and np.all(np.isfinite(y))


def test_large_logits_stay_finite() -> None:
    q, k, v, weigh = drawn()
    arrays = (1e3 * q, 1e3 * k, v, weigh)
    found = differentiated(partial(blockwise, block=BLOCK), arrays)
    close(found[0], differentiated(plain, arrays)[0], 5e-6)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found))


def test_dropped_weights_are_the_same_ones_backwards() -> None:
    share, (q, k, v, weigh) = 0.3, drawn()
    form = partial(blockwise, block=BLOCK, dropout=share, key=jax.random.key(3))
    # Values that are the columns of a unit matrix show the weights themselves.
    eye = jnp.broadcast_to(jnp.eye(TIME)[None, :, None], (ROWS, TIME, HEADS, TIME))
    wide, long = (jnp.pad(x, [(0, 0)] * 3 + [(0, TIME - DEPTH)]) for x in (q, k))
    dropped = form(wide, long, eye, scale=SCALE).swapaxes(1, 2)
    weights = plain(wide, long, eye, scale=SCALE).swapaxes(1, 2)
    factor = jnp.where(weights > 0, dropped / jnp.where(weights > 0, weights, 1), 0)
    seen = np.asarray(factor)[np.asarray(weights) > 0]
    assert np.all((seen == 0) | (np.abs(seen - 1 / (1 - share)) < 1e-4))
    assert np.mean(seen == 0) == pytest.approx(share, abs=0.05)
    found = differentiated(form, (q, k, v, weigh))
    close(found, differentiated(partial(plain, factor=factor), (q, k, v, weigh)), 1e-5)


def test_rows_and_a_later_beginning_under_vmap() -> None:
    q, k, v, _ = drawn()
    half = partial(blockwise, k_BSKD=k, v_BSKD=v, scale=SCALE, window=6, block=BLOCK)
    halves = jnp.stack([q[:, :10], q[:, 10:20]])
    found = jax.vmap(lambda q, first: half(q, first=first))(halves, jnp.array([0, 10]))
    wanted = plain(q, k, v, scale=SCALE, window=6)
    close(found.swapaxes(0, 1).reshape(ROWS, 20, HEADS, DEPTH), wanted[:, :20], 5e-6)


def temporary(form: Any, time: int) -> int:
    """Bytes that a compiled forward and backward pass needs besides arguments and results."""
    arrays = [jax.ShapeDtypeStruct((1, time, 2, DEPTH), jnp.float32)] * 3
    run = jax.grad(lambda q, k, v: form(q, k, v, scale=SCALE).sum(), (0, 1, 2))
    stated: Any = jax.jit(run).lower(*arrays).compile().memory_analysis()
    return int(stated.temp_size_in_bytes)


def test_memory_grows_with_the_row_and_not_with_its_square() -> None:
    small, middle, large = (temporary(partial(blockwise, block=64), t) for t in (512, 1024, 2048))
    assert small < middle < 2 * small
    assert middle < large < 2 * middle
    assert temporary(plain, 2048) > 10 * large


def test_tiles_that_nobody_looks_into_are_not_gone_through() -> None:
    def work(form: Any, **options: Any) -> int:
        return count_flops(lambda: form(*drawn(16 * BLOCK)[:3], scale=SCALE, **options))

    whole, cut = work(plain), partial(blockwise, block=BLOCK)
    assert work(cut) * 32 == whole * 17
    assert work(cut, window=BLOCK + 1) * 256 == whole * 31  # a tile and the one before it
    assert work(cut, window=BLOCK + 2) * 256 == whole * 45  # its first query sees one more
    assert work(cut, prefix_B=jnp.array([3, 0])) == whole


KNOBS: list[dict[str, Any]] = [
    {"positions": "rope", "kv_heads": 2, "window": 5, "attention_cap": 1.5},
    {"positions": "alibi", "scan": True, "remat": "full"},
    {"positions": "alibi", "remat": "dots", "qk_norm": True},
]


@pytest.mark.parametrize("options", KNOBS, ids=str)
def test_a_model_is_the_same_function_by_blocks(options: dict[str, Any]) -> None:
    batch, params = tokens(3, CONTEXT), loud(model(**options))
    prefix: dict[str, Any] = {} if options.get("scan") else {"prefix_B": jnp.array([7, 0, 2])}

    def run(**how: Any) -> Any:
        network = model(**{**options, **how})

        def loss(params: Any) -> jax.Array:
            without, _ = network.apply({"params": params}, batch)
            with_it, _ = network.apply({"params": params}, batch, **prefix)
            return jnp.square(without).sum() + jnp.square(with_it).sum()

        return jax.jit(jax.value_and_grad(loss))(params)

    wanted = run(attention="plain", remat="none")
    # The sums of a gradient that nearly cancels are compared with its largest entries.
    close(run(attention="blockwise", attention_block=5), wanted, 2e-5)


def test_a_cache_is_read_the_plain_way() -> None:
    batch, network = tokens(3, CONTEXT), model(attention="blockwise", attention_block=4)
    params = {"params": loud(network)}
    found, _ = network.apply(params, batch, cache=network.empty_cache(3))
    np.testing.assert_allclose(found, network.apply(params, batch)[0], rtol=2e-4, atol=2e-4)


def chosen(time: int, **call: Any) -> str:
    grouped = call.pop("grouped", False)
    cached, dropout = call.pop("cached", False), call.pop("dropout", 0.0)
    network = model(width=64, **call)
    return attention.choose(network, time, dropout=dropout, cached=cached, grouped=grouped)


def test_which_form_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    long, half = attention.LONG, {"dtype": "bfloat16"}
    assert [chosen(t) for t in (8, long - 1, long)] == ["plain", "plain", "blockwise"]
    assert chosen(8, attention="blockwise") == "blockwise"
    assert chosen(long, attention="plain") == "plain"
    assert chosen(long, attention="blockwise", cached=True) == "plain"
    assert chosen(8, **half) == "plain"
    monkeypatch.setattr(attention, "_cuda", lambda: True)
    assert [chosen(t, **half) for t in (8, long)] == ["fused", "fused"]
    assert chosen(8) == "plain"
    for other in ({"grouped": True}, {"dropout": 0.1}, {"attention_cap": 1.0},
                  {"positions": "alibi"}, {"heads": 16}):  # fmt: skip
        assert chosen(long, **half, **other) == "blockwise"
    with pytest.raises(UserError, match="knows neither segments"):
        chosen(8, attention="fused", grouped=True)
    model(width=64, heads=8, attention="fused", **half).check()


@pytest.mark.parametrize("window", [0, 5])
def test_what_the_kernel_is_asked_for(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = jax.nn.dot_product_attention, []

    def without_cuda(*arrays: Any, implementation: str, **options: Any) -> jax.Array:
        asked.append(implementation)
        return real(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_cuda)
    q, k, v, _ = drawn(groups=2)
    found = fused(q, k, v, scale=SCALE, window=window)
    close(found, plain(q, k, v, scale=SCALE, window=window), 5e-6)
    assert asked == ["cudnn"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"attention": "flash"}, "'flash': expected one of auto, plain, blockwise, fused"),
    ({"attention_block": -1}, "attention_block=-1: expected 0 or more"),
    ({"attention": "plain", "attention_block": 8}, "attention_block=8 is for .*'blockwise'"),
    ({"attention": "fused", "dtype": "bfloat16"}, "CUDA devices .* there is none here; take 'auto"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=str)
def test_forms_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        model(**options).check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float32"}, "dtype is 'float32'"),
        ({"heads": 16}, "width/heads is 4"),
        ({"attention_cap": 1.0}, "neither attention_cap nor"),
        ({"positions": "alibi"}, "neither attention_cap nor"),
        ({"dropout": 0.1}, "dropout is not 0"),
    ],
    ids=str,
)
def test_what_the_kernel_cannot(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_cuda", lambda: True)
    with pytest.raises(UserError, match=message):
        model(**{"width": 64, "dtype": "bfloat16", "attention": "fused", **options}).check()


def test_what_is_computed_again_is_not_remembered() -> None:
    batch = jnp.zeros((2, 128), jnp.int32)

    def bytes_of(remat: str, **how: Any) -> int:
        network = model(context=128, layers=4, scan=True, remat=remat, **how)
        params = jax.eval_shape(network.init, jax.random.key(0), batch)["params"]
        run = jax.grad(lambda p: jnp.square(network.apply({"params": p}, batch)[0]).sum())
        stated: Any = jax.jit(run).lower(params).compile().memory_analysis()
        return int(stated.temp_size_in_bytes)

    none, dots, few, full = map(bytes_of, ("none", "dots", "dots_no_batch", "full"))
    assert full < few < dots < none
    # What stands in the host's memory is counted with the rest where there is but one memory.
    assert bytes_of("offload") <= few
    by_blocks = {"attention": "blockwise", "attention_block": 32}
    assert bytes_of("dots", **by_blocks) < dots / 2  # no tile's weights are kept

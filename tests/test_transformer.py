"""Who can see whom, proved by gradients; caches, padding and packing against plain passes."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import tree
from aigc_jax.errors import UserError
from aigc_jax.models.transformer import Transformer

VOCAB, CONTEXT, LAYERS, HEADS, WIDTH = 11, 12, 2, 2, 8
SIZES = {"layers": LAYERS, "heads": HEADS, "width": WIDTH}


def model(**settings: Any) -> Transformer:
    return Transformer(**({"vocab_size": VOCAB, "context": CONTEXT} | SIZES | settings))


def shapes(network: Transformer) -> Any:
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def loud(network: Transformer) -> Any:
    """Parameters twenty times the usual size: attention is then far from an average."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(p.ndim == 1, 0.4, p.shape), p.dtype), shapes(network)
    )


def tokens(rows: int, time: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (rows, time)), jnp.int32)


@partial(jax.jit, static_argnums=0)
def forward(network: Transformer, params: Any, tokens_BT: jax.Array, **arrays: Any) -> jax.Array:
    return network.apply({"params": params}, tokens_BT, **arrays)[0]


def sight(network: Transformer, params: Any, tokens_BT: jax.Array, **arrays: Any) -> np.ndarray:
    """How much the logits at place t of row b depend on what was put in at place s of row c.

    Each place of each row takes a row of its own of the position table, which is added to its
    embedding and read nowhere else: the table's gradient is that of the input, whether or not the
    embedding is also the output layer.

    Returns the norms, [B, T, B, T]. A zero is a real zero: not one path leads there.
    """
    batch, time = tokens_BT.shape
    places = jnp.arange(batch * time).reshape(batch, time)
    mix = jax.random.normal(jax.random.key(1), (VOCAB,))

    def seen(table: jax.Array) -> jax.Array:
        logits, _ = network.apply(
            {"params": {**params, "positions": table}}, tokens_BT, positions_BT=places, **arrays
        )
        return logits @ mix

    jacobian = jax.jit(jax.jacrev(seen))(params["positions"])  # [B, T, places, C]
    norms = np.linalg.norm(np.asarray(jacobian), axis=-1)[:, :, : batch * time]
    return norms.reshape(batch, time, batch, time)


@pytest.mark.parametrize("tied", [True, False])
def test_no_token_sees_a_later_one_or_another_row(tied: bool) -> None:
    network = model(tied=tied)
    found = sight(network, loud(network), tokens(2, 6))
    rows, causal = np.eye(2, dtype=bool), np.tri(6, dtype=bool)
    may = rows[:, None, :, None] & causal[None, :, None, :]
    assert (found[~may] == 0.0).all()
    assert found[may].min() > 1e-4


def test_no_token_sees_another_document_of_its_row() -> None:
    network = model()
    segments = jnp.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 3, 3]])
    found = sight(network, loud(network), tokens(2, 6), segments_BT=segments)
    for row, own in enumerate(np.asarray(segments)):
        may = np.tri(6, dtype=bool) & (own[:, None] == own[None, :])
        assert (found[row, :, row][~may] == 0.0).all()
        assert found[row, :, row][may].min() > 1e-4
        assert (found[row, :, 1 - row] == 0.0).all()


def test_documents_packed_in_a_row_are_documents_alone() -> None:
    network = model(bias=True)
    params, row = loud(network), tokens(1, 9)
    segments = jnp.array([[1, 1, 1, 1, 2, 2, 3, 3, 3]])
    positions = jnp.array([[0, 1, 2, 3, 0, 1, 0, 1, 2]])
    packed = forward(network, params, row, segments_BT=segments, positions_BT=positions)
    alone = [forward(network, params, row[:, a:b]) for a, b in ((0, 4), (4, 6), (6, 9))]
    np.testing.assert_allclose(packed, np.concatenate(alone, axis=1), rtol=1e-5, atol=1e-5)
    # Neither without the segments nor without the restarted positions.
    for arrays in ({"positions_BT": positions}, {"segments_BT": segments}):
        other = forward(network, params, row, **arrays)
        np.testing.assert_allclose(other[:, :4], packed[:, :4], rtol=1e-5, atol=1e-5)
        assert np.abs(other - packed)[:, 4:].max(-1).min() > 1e-3


def test_padding_changes_nothing_of_what_stands_before_it() -> None:
    network = model(bias=True)
    params, lengths = loud(network), [4, 2, 3]
    rows = tokens(3, 4)
    inside = jnp.asarray(np.arange(4) < np.array(lengths)[:, None])
    batch = jnp.where(inside, rows, 0)
    whole = forward(network, params, batch, segments_BT=inside.astype(jnp.int32))
    other = forward(network, params, jnp.where(inside, rows, 9), segments_BT=inside.astype(int))
    assert np.isfinite(whole).all()
    for row, length in enumerate(lengths):
        single = forward(network, params, rows[row : row + 1, :length])
        np.testing.assert_allclose(whole[row, :length], single[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(whole[row, :length], other[row, :length])


@pytest.mark.parametrize("pieces", [[1] * CONTEXT, [5, 1, 1, 1, 4], [CONTEXT]])
def test_decoding_with_a_cache_equals_the_whole_pass(pieces: list[int]) -> None:
    network = model(bias=True)
    params, batch = loud(network), tokens(3, CONTEXT)
    whole = forward(network, params, batch)
    step = jax.jit(lambda p, t, c: network.apply({"params": p}, t, cache=c))
    cache, parts, start = network.empty_cache(3), [], 0
    for size in pieces:
        logits, cache = step(params, batch[:, start : start + size], cache)
        parts.append(logits)
        start += size
    assert int(cache.length) == start == CONTEXT
    found = np.concatenate(parts, axis=1)
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)
    # The comparison is worth something: the logits differ much from place to place.
    assert np.abs(np.diff(whole, axis=1)).max(-1).min() > 0.1


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_number_of_parameters_by_hand(bias: bool, tied: bool) -> None:
    network = Transformer(50, 20, layers=3, heads=2, width=16, mlp_ratio=3, bias=bias, tied=tied)
    block = 4 * 16 * 16 + 2 * 16 * 48 + 2 * 16  # attention, MLP, two norms
    if bias:
        block += 4 * 16 + 48 + 16 + 2 * 16
    rest = 50 * 16 + 20 * 16 + 16 + bias * 16 + (not tied) * 50 * 16
    assert tree.count(shapes(network)) == 3 * block + rest


def test_nanogpts_cpu_model_has_its_size() -> None:
    # nanoGPT prints "number of parameters: 0.80M" for this model: without the positions.
    count = tree.count(shapes(Transformer(65, 64))) - 64 * 128
    assert count == 65 * 128 + 4 * 12 * 128**2 + 9 * 128 == 795904


def test_every_part_has_a_name_of_its_own() -> None:
    network = model(bias=True, tied=False)
    names = [name for name, _ in tree.named_leaves(loud(network))]
    both = ("kernel", "bias")
    parts = {
        *(f"attention/{p}/{w}" for p in ("query", "key", "value", "out") for w in both),
        *(f"mlp/{p}/{w}" for p in ("hidden", "out") for w in both),
        *(f"{norm}/{w}" for norm in ("attention_norm", "mlp_norm") for w in ("scale", "bias")),
    }  # fmt: skip
    expected = {f"block_{i}/{part}" for i in range(LAYERS) for part in parts}
    expected |= {"embed", "positions", "head", "final_norm/scale", "final_norm/bias"}
    assert set(names) == expected


FRESH = Transformer(300, 64, layers=2, heads=2, width=128, bias=True, tied=False, init_std=0.03)


@pytest.fixture(scope="module")
def fresh() -> Any:
    return jax.jit(FRESH.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def test_the_first_weights_have_gpt_2s_sizes(fresh: Any) -> None:
    for name, leaf in tree.named_leaves(jax.device_get(fresh)):
        last = name.rsplit("/", 1)[-1]
        if last == "bias":
            assert (leaf == 0).all(), name
        elif last == "scale":
            assert (leaf == 1).all(), name
        else:
            std = 0.03 if last == "kernel" else 0.02
            std /= math.sqrt(2 * FRESH.layers) if "/out/" in name else 1
            assert float(leaf.std()) == pytest.approx(std, rel=0.04), name
            assert abs(float(leaf.mean())) < 0.03 * std, name


@pytest.mark.parametrize("tied", [True, False])
def test_before_training_every_token_is_as_likely(fresh: Any, tied: bool) -> None:
    batch = np.random.default_rng(0).integers(0, 300, (8, 33)).astype(np.int32)
    params = {name: leaf for name, leaf in fresh.items() if name != "head" or not tied}
    logits = forward(FRESH.clone(tied=tied), params, jnp.asarray(batch[:, :-1]))
    loss = -np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), batch[:, 1:, None], -1)
    assert loss.mean() == pytest.approx(math.log(300), abs=0.06)


def test_bfloat16_is_near_float32() -> None:
    network, half = model(), model(dtype="bfloat16")
    params, batch = loud(network), tokens(2, 8)
    exact, near = forward(network, params, batch), forward(half, params, batch)
    assert near.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(loud(half))} == {jnp.dtype("float32")}
    gap = np.abs(near - exact).max() / np.abs(exact).max()
    assert 1e-4 < gap < 0.03  # two to three digits: it is close, and it is not the same program
    cache = half.empty_cache(2)
    assert cache.layers[0].key.dtype == jnp.bfloat16
    cached, _ = jax.jit(half.apply)({"params": params}, batch, cache=cache)
    assert np.abs(cached - exact).max() / np.abs(exact).max() < 0.03


def test_dropout_is_off_unless_asked_for() -> None:
    network = model(dropout=0.5, layers=1)
    params, batch = loud(network), tokens(2, 8)
    plain = forward(model(layers=1), params, batch)
    np.testing.assert_array_equal(forward(network, params, batch), plain)
    run = jax.jit(
        lambda key: network.apply(
            {"params": params}, batch, deterministic=False, rngs={"dropout": key}
        )[0]
    )
    one, two = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(one, run(jax.random.key(0)))
    assert np.abs(one - two).max() > 1e-3 < np.abs(one - plain).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10, "heads": 4}, r"task\.model: width=10 is not a multiple of heads=4; try .*8"),
        ({"width": 2, "heads": 4}, "try width=4"),
        ({"heads": 0}, r"task\.model\.heads=0: expected 1 or more"),
        ({"layers": 0}, r"task\.model\.layers=0"),
        ({"width": -8}, r"task\.model\.width=-8"),
        ({"mlp_ratio": 0}, r"task\.model\.mlp_ratio=0"),
        ({"init_std": 0.0}, r"task\.model\.init_std=0\.0: expected above 0"),
        ({"dropout": 1.0}, r"task\.model\.dropout=1\.0: expected a number in \[0, 1\)"),
        ({"dtype": "float64"}, r"task\.model\.dtype='float64': expected float32, bfloat16"),
    ],
)
def test_sizes_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model(**settings).check()
    model().check()


def test_a_row_longer_than_the_context() -> None:
    network = model()
    row = jax.ShapeDtypeStruct((1, CONTEXT + 1), jnp.int32)
    with pytest.raises(UserError, match="13 tokens in a row; the model's context is 12"):
        jax.eval_shape(lambda p, t: network.apply({"params": p}, t), shapes(network), row)
    row = jax.ShapeDtypeStruct((1, 3), jnp.int32)
    with pytest.raises(UserError, match="segments can't be told apart with a cache"):
        jax.eval_shape(
            lambda p, t: network.apply(
                {"params": p}, t, segments_BT=t, cache=network.empty_cache(1)
            ),
            shapes(network),
            row,
        )

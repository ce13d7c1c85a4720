"""Who can see whom, proved by gradients; caches, padding and packing against plain passes."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import CONTEXT, LAYERS, VOCAB, forward, loud, may_see, model, shapes, tokens

from aigc_jax.core import tree
from aigc_jax.models.transformer import Transformer

# What changes who sees whom, how places are known, or what a cache must hold.
ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tied": False},
    "one_key_head": {"kv_heads": 1},
    "two_key_heads": {"kv_heads": 2},
    "window": {"window": 3},
    "sinusoidal": {"positions": "sinusoidal"},
    "rope": {"positions": "rope", "rope_scaling": "linear", "rope_factor": 2.0},
    "ntk": {"positions": "rope", "rope_scaling": "ntk", "rope_factor": 4.0, "kv_heads": 2},
    "alibi": {"positions": "alibi", "window": 4},
    "no_positions": {"positions": "none"},
    "qk_norm": {"qk_norm": True, "norm": "rmsnorm"},
    "caps": {"attention_cap": 1.5, "logit_cap": 4.0},
    "post": {"norm_place": "post", "mlp": "swiglu"},
    "scan": {"scan": True, "window": 4, "positions": "rope"},
}
OPTIONS = pytest.mark.parametrize("options", ATTENTION.values(), ids=ATTENTION)


def sight(network: Transformer, batch: int, time: int, **arrays: Any) -> np.ndarray:
    """How much the logits at place t of row b depend on what was put in at place s of row c.

    All tokens are different, and only the logits of the others are looked at: what the gradient of
    the embedding then says of a token came in at the token's place, even if the embedding is also
    the output layer.

    Returns the norms, [B, T, B, T]. A zero is a real zero: not one path leads there.
    """
    inputs, params = jnp.arange(batch * time).reshape(batch, time), loud(network)
    mix = jax.random.normal(jax.random.key(1), (VOCAB,)).at[: batch * time].set(0)

    def seen(embed: jax.Array) -> jax.Array:
        variables = {"params": {**params, "embed": embed}}
        return network.apply(variables, inputs, **arrays)[0] @ mix

    compute = jax.jacrev(seen)
    jacobian = (jax.jit(compute) if network.scan else compute)(params["embed"])  # [B, T, V, C]
    norms = np.linalg.norm(np.asarray(jacobian), axis=-1)[:, :, : batch * time]
    return norms.reshape(batch, time, batch, time)


def holds(network: Transformer, found: np.ndarray, may: list[np.ndarray]) -> None:
    """Asserts that row b saw what `may[b]` lets its layers see, and nothing else."""
    for row, one in enumerate(may):
        through = np.linalg.matrix_power(one.astype(int), network.layers) > 0
        assert (found[row, :, row][~through] == 0.0).all()
        assert found[row, :, row][through].min() > 1e-4
        others = [other for other in range(len(may)) if other != row]
        assert (found[row][:, others] == 0.0).all()


@OPTIONS
def test_no_token_sees_a_later_one_or_another_row(options: dict[str, Any]) -> None:
    network = model(**{"layers": 1} | options)
    holds(network, sight(network, 2, 6), [may_see(6, network.window)] * 2)


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("positions", ["learned", "rope", "alibi"])
def test_no_token_sees_another_document_of_its_row(positions: str, window: int) -> None:
    network = model(layers=1, positions=positions, window=window)
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 3, 3]])
    found = sight(network, 2, 6, segments_BT=jnp.asarray(segments))
    holds(network, found, [may_see(6, window, segments=own) for own in segments])


@pytest.mark.parametrize("options", [{}, {"window": 2}, {"positions": "alibi", "kv_heads": 2}])
def test_tokens_of_the_prefix_see_each_other_both_ways(options: dict[str, Any]) -> None:
    network = model(layers=1, **options)
    found = sight(network, 2, 6, prefix_B=jnp.array([4, 1]))
    holds(network, found, [may_see(6, network.window, prefix) for prefix in (4, 1)])
    assert found[0, 0, 0, 3] > 0.0 == found[1, 0, 1, 3]


@pytest.mark.parametrize("window", [1, 2, 3])
def test_each_layer_sees_one_window_further(window: int) -> None:
    network = model(layers=2, window=window)
    found = sight(network, 2, 6)
    holds(network, found, [may_see(6, window)] * 2)
    assert (found[0, 5, 0] > 0).sum() == 2 * (window - 1) + 1


def test_documents_packed_in_a_row_are_documents_alone() -> None:
    network = model(bias=True)
    params, batch = loud(network), tokens(3, CONTEXT)
    ends = np.array([[0, 5, 8, 12], [0, 1, 2, 12], [0, 12, 12, 12]])
    segments, positions = np.zeros((2, 3, CONTEXT), np.int32)
    alone = [np.zeros((3, CONTEXT), np.int32) for _ in range(3)]
    for row in range(3):
        for i in range(3):
            a, b = ends[row, i : i + 2]
            segments[row, a:b], positions[row, a:b] = i + 1, np.arange(b - a)
            alone[i][row, : b - a] = batch[row, a:b]
    restarted = {"positions_BT": jnp.asarray(positions)}
    apart = {"segments_BT": jnp.asarray(segments)}
    packed = forward(network, params, batch, **apart, **restarted)
    for i in range(3):
        single = forward(network, params, jnp.asarray(alone[i]))
        for row in range(3):
            a, b = ends[row, i : i + 2]
            np.testing.assert_allclose(packed[row, a:b], single[row, : b - a], rtol=1e-5, atol=1e-5)
    # Neither without the segments nor without the restarted positions.
    for arrays in (restarted, apart):
        other = forward(network, params, batch, **arrays)
        np.testing.assert_allclose(other[0, :5], packed[0, :5], rtol=1e-5, atol=1e-5)
        assert np.abs(other - packed)[0, 5:].max(-1).min() > 1e-3


def test_padding_changes_nothing_of_what_stands_before_it() -> None:
    network = model(bias=True)
    params, lengths = loud(network), [4, 2, 12]
    rows = tokens(3, CONTEXT)
    inside = jnp.asarray(np.arange(CONTEXT) < np.array(lengths)[:, None])
    segments = inside.astype(jnp.int32)
    whole = forward(network, params, jnp.where(inside, rows, 0), segments_BT=segments)
    other = forward(network, params, jnp.where(inside, rows, 9), segments_BT=segments)
    single = forward(network, params, rows)
    assert np.isfinite(whole).all()
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(whole[row, :length], single[row, :length], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(whole[row, :length], other[row, :length])


@OPTIONS
def test_decoding_with_a_cache_equals_the_whole_pass(options: dict[str, Any]) -> None:
    network = model(bias=True, **options)
    params, batch = loud(network), tokens(3, CONTEXT)
    whole = forward(network, params, batch)
    found, cache = decode(network, params, batch[:, :7], [1] * 7, network.empty_cache(3, SLOTS))
    assert int(cache.length) == 7
    np.testing.assert_allclose(found, whole[:, :7], rtol=1e-5, atol=1e-5)
    # The comparison is worth something: the logits differ much from place to place.
    assert np.abs(np.diff(whole, axis=1)).max(-1).min() > 0.1

    padded, start_B = end_together(batch)
    cache = network.empty_cache(3, SLOTS, start_B=start_B)
    # Several tokens into a cache that holds some already: once, for the time it takes.
    sizes = [6, 6, 1, 1, 1] if network == model(bias=True) else [12, 1, 1, 1]
    found, _ = decode(network, params, padded, sizes, cache)
    same_but_moved(found, whole, start_B)


@pytest.mark.parametrize("name", ["plain", "window", "rope", "alibi", "scan"])
def test_decoding_after_a_prefix_equals_the_whole_pass(name: str) -> None:
    network = model(bias=True, **ATTENTION[name])
    params, batch, prefix_B = loud(network), tokens(3, CONTEXT), jnp.array([4, 1, 2])
    whole = forward(network, params, batch, prefix_B=prefix_B)
    padded, start_B = end_together(batch)
    cache = network.empty_cache(3, SLOTS, start_B=start_B)
    prefix = {"prefix_B": prefix_B}  # of the row's own tokens, wherever they begin
    found, _ = decode(network, params, padded, [12, 1, 1, 1], cache, **prefix)
    same_but_moved(found, whole, start_B)
    causal = forward(network, params, batch)
    gaps = np.abs(whole - causal).max(-1)
    assert gaps[0].max() > 0.1 < gaps[2].max()
    assert gaps[1].max() < 1e-5  # a prefix of one token is none


LENGTHS, SLOTS = (CONTEXT, 8, 5), CONTEXT + 4


def end_together(batch: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows of LENGTHS, moved to the right until they end at the same slot, and where they start."""
    start = np.array([SLOTS - 1 - length for length in LENGTHS], np.int32)
    padded = np.full((3, SLOTS - 1), 7, np.int32)
    for row, length in enumerate(LENGTHS):
        padded[row, start[row] :] = batch[row, :length]
    return jnp.asarray(padded), jnp.asarray(start)


def same_but_moved(found: np.ndarray, whole: jax.Array, start_B: jax.Array) -> None:
    assert np.isfinite(found).all()
    for row, length in enumerate(LENGTHS):
        moved = found[row, int(start_B[row]) :]
        np.testing.assert_allclose(moved, whole[row, :length], rtol=1e-5, atol=1e-5)


def decode(
    network: Transformer, params: Any, batch: jax.Array, sizes: list[int], cache: Any, **arrays: Any
) -> tuple[np.ndarray, Any]:
    """The logits of pieces of these sizes, one after the other; `arrays` go with the first."""
    run = jax.jit(network.apply) if network.scan else network.apply
    parts, start = [], 0
    for size in sizes:
        piece = batch[:, start : start + size]
        logits, cache = run({"params": params}, piece, cache=cache, **arrays)
        parts.append(logits)
        start, arrays = start + size, {}
    return np.concatenate(parts, axis=1), cache


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kv_heads", [0, 1, 2])
def test_a_cache_holds_the_heads_of_keys_alone(kv_heads: int, scan: bool) -> None:
    network = model(kv_heads=kv_heads, scan=scan, layers=3)
    for size in (None, 7):
        shape = (5, kv_heads or 4, size or CONTEXT, 4)
        expected = [(3, *shape)] * 2 if scan else [shape] * 6
        cache = network.empty_cache(5, size)
        assert [leaf.shape for leaf in jax.tree.leaves(cache.layers)] == expected


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
        *(f"attention/{p}/{w}" for p in ("qkv", "out") for w in both),
        *(f"mlp/{p}/{w}" for p in ("hidden", "out") for w in both),
        *(f"{norm}/{w}" for norm in ("attention_norm", "mlp_norm") for w in ("scale", "bias")),
    }  # fmt: skip
    expected = {f"block_{i}/{part}" for i in range(LAYERS) for part in parts}
    expected |= {"embed", "position_embed", "head", "final_norm/scale", "final_norm/bias"}
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


def test_dropout_is_off_unless_asked_for() -> None:
    network = model(dropout=0.5, layers=1)
    params, batch = loud(network), tokens(3, CONTEXT)
    plain = forward(model(layers=1), params, batch)
    np.testing.assert_array_equal(forward(network, params, batch), plain)

    def run(seed: int) -> jax.Array:
        rngs = {"dropout": jax.random.key(seed)}
        return network.apply({"params": params}, batch, deterministic=False, rngs=rngs)[0]

    one, two = run(0), run(1)
    np.testing.assert_array_equal(one, run(0))
    assert np.abs(one - two).max() > 1e-3 < np.abs(one - plain).max()

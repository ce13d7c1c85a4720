"""A transformer in NumPy, float64, from the papers; what ours is held to, and weights to do it on.

One row, one head, one query at a time, and no array that a formula does not name. It shares with
ours the names of the parameters and of the options, and nothing else.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aigc_jax.models.stacking import stack, unstack
from aigc_jax.models.transformer import Transformer

VOCAB, CONTEXT, LAYERS, HEADS, WIDTH = 29, 12, 2, 4, 16


def model(**settings: Any) -> Transformer:
    """The small model of the tests, with other settings where given."""
    sizes = {"context": CONTEXT, "layers": LAYERS, "heads": HEADS, "width": WIDTH}
    return Transformer(**({"vocab_size": VOCAB} | sizes | settings))


def shapes(network: Transformer) -> Any:
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]


def loud(network: Transformer) -> Any:
    """Parameters twenty times the usual size: attention is then far from an average.

    The same for layers that are scanned, but stacked.
    """
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.asarray(rng.normal(p.ndim == 1, 0.4, p.shape), p.dtype),
        shapes(network.clone(scan=False)),
    )
    return stack(params) if network.scan else params


def tokens(rows: int, time: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(0, VOCAB, (rows, time)), jnp.int32)


def forward(network: Transformer, params: Any, tokens_BT: jax.Array, **arrays: Any) -> jax.Array:
    """Logits. Compiled for scanned layers alone: single operations of one shape are compiled once
    for all tests, a whole model for each.
    """
    run = jax.jit(network.apply) if network.scan else network.apply
    return run({"params": params}, tokens_BT, **arrays)[0]


def expected(
    network: Transformer,
    params: Any,
    tokens_BT: Any,
    positions_BT: Any = None,
    segments_BT: Any = None,
    prefix_B: Any = None,
) -> np.ndarray:
    """Logits, float64 [B, T, V]."""
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), unstack(params) if network.scan else params
    )
    rows = []
    for b, row in enumerate(np.asarray(tokens_BT)):
        places = np.arange(len(row)) if positions_BT is None else np.asarray(positions_BT[b])
        sees = may_see(
            len(row),
            window=network.window,
            prefix=0 if prefix_B is None else int(prefix_B[b]),
            segments=None if segments_BT is None else np.asarray(segments_BT[b]),
        )
        rows.append(_row(network, params, row, places, sees))
    return np.stack(rows)


def may_see(time: int, window: int = 0, prefix: int = 0, segments: Any = None) -> np.ndarray:
    """Whether place t may look at place s of the same row, bool [T, S]."""
    sees = np.zeros((time, time), bool)
    for t in range(time):
        for s in range(time):
            sees[t, s] = t - (window or time) < s <= t or (t < prefix and s < prefix)
            if segments is not None and segments[t] != segments[s]:
                sees[t, s] = False
    return sees


def _row(o: Transformer, params: Any, row: Any, places: Any, sees: np.ndarray) -> np.ndarray:
    x = params["embed"][row]
    if o.positions == "learned":
        x = x + params["position_embed"][places]
    if o.positions == "sinusoidal":
        x = x + np.stack([_waves(place, o.width) for place in places])
    for i in range(o.layers):
        block = params[f"block_{i}"]
        for layer, norm, f in (
            ("attention", "attention_norm", partial(_attention, o, places=places, sees=sees)),
            ("mlp", "mlp_norm", partial(_mlp, o)),
        ):
            if o.norm_place == "pre":
                x = x + f(block[layer], _norm(o, block[norm], x))
            else:
                x = _norm(o, block[norm], x + f(block[layer], x))
    if o.norm_place == "pre":
        x = _norm(o, params["final_norm"], x)
    logits = x @ (params["embed"] if o.tied else params["head"]).T
    return o.logit_cap * np.tanh(logits / o.logit_cap) if o.logit_cap else logits


def _waves(place: int, width: int) -> np.ndarray:
    angles = [place / 10_000 ** (2 * i / width) for i in range(width // 2)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def _norm(o: Transformer, p: Any, x: np.ndarray) -> np.ndarray:
    if o.norm == "rmsnorm":
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p["scale"] + p.get("bias", 0.0)


def _dense(p: Any, x: np.ndarray) -> np.ndarray:
    return x @ p["kernel"] + p.get("bias", 0.0)


def _attention(o: Transformer, p: Any, x: Any, *, places: Any, sees: np.ndarray) -> np.ndarray:
    depth, share = o.width // o.heads, o.heads // (o.kv_heads or o.heads)
    columns = _dense(p["qkv"], x).reshape(len(x), -1, depth)
    slopes, heads = alibi_slopes(o.heads), []
    for head in range(o.heads):
        group = head // share * (share + 2)
        query = columns[:, group + head % share]
        key, value = columns[:, group + share], columns[:, group + share + 1]
        if o.qk_norm:
            query, key = _norm(o, p["query_norm"], query), _norm(o, p["key_norm"], key)
        if o.positions == "rope":
            query, key = (
                np.stack([_turn(o, v, place) for v, place in zip(vectors, places, strict=True)])
                for vectors in (query, key)
            )
        out = []
        for t in range(len(x)):
            keys = np.flatnonzero(sees[t])
            scores = np.array([query[t] @ key[s] / math.sqrt(depth) for s in keys])
            if o.attention_cap:
                scores = o.attention_cap * np.tanh(scores / o.attention_cap)
            if o.positions == "alibi":
                scores = scores - slopes[head] * np.abs(t - keys)
            weights = np.exp(scores - scores.max())
            out.append(weights / weights.sum() @ value[keys])
        heads.append(np.stack(out))
    return _dense(p["out"], np.concatenate(heads, axis=-1))


def _turn(o: Transformer, vector: np.ndarray, place: float) -> np.ndarray:
    """Pair i, as the complex number x[i] + x[i + D/2] j, turns by base^(-2i/D) a place."""
    half, base = len(vector) // 2, o.rope_base
    if o.rope_scaling == "ntk":
        base = base * o.rope_factor ** (half / (half - 1))
    if o.rope_scaling == "linear":
        place = place / o.rope_factor
    turned = [
        complex(vector[i], vector[i + half]) * np.exp(1j * place * base ** (-i / half))
        for i in range(half)
    ]
    return np.array([z.real for z in turned] + [z.imag for z in turned])


def alibi_slopes(heads: int) -> list[float]:
    """As in the paper's code (github.com/ofirpress/attention_with_linear_biases)."""
    power = 2 ** math.floor(math.log2(heads))
    if power == heads:
        first = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [first * first**i for i in range(heads)]
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: heads - power]


def _mlp(o: Transformer, p: Any, x: np.ndarray) -> np.ndarray:
    h = _dense(p["hidden"], x)
    if o.mlp == "gelu":
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    elif o.mlp == "gelu_tanh":
        h = h * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (h + 0.044715 * h**3)))
    elif o.mlp == "relu2":
        h = np.maximum(h, 0) ** 2
    elif o.mlp == "swiglu":
        gate = _dense(p["gate"], x)
        h = gate / (1 + np.exp(-gate)) * h
    return _dense(p["out"], h)

"""Attention, and who may look at whom: the plain form, one that goes by blocks, and cuDNN's.

The plain form is in `layers.Attention`: it makes the weights of all queries and keys, [T, S], at
once. `blockwise` never does. It goes through tiles of queries and keys with a running softmax, and
its backward pass makes each tile's weights again from what is kept of a row, one number (Rabe &
Staats 2021, arXiv:2112.05682; Dao et al. 2022, arXiv:2205.14135, algorithms 1 and 4). What it
remembers grows with T + S. Tiles that no query of theirs may look into are not gone through: half
of them in a causal row, nearly all beside a window.

Letters in names: B batch, T query time, S key time, H heads, K heads of keys and values, R = H/K
queries that share a key, D width of a head. Of tiles: I blocks of queries, J of keys, and T and S
are then the places in a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from aigc_jax.errors import UserError
from aigc_jax.models.layout import ROWS, parts, pin
from aigc_jax.models.positions import alibi

# A logit that no softmax sees. Finite, so that a row with nothing to attend to stays finite.
MASKED = -1e30
# Below every logit and far above MASKED: the largest logit of a row that has met none.
LOWEST = MASKED / 2

NAME = "attention"
"""What rematerialization may keep of `blockwise`: its output and one number a row."""

BLOCK = 256
"""Queries, and keys, of a tile, where the model does not say; see docs/memory.md."""

LONG = 1024
"""Rows of this many tokens or more go by blocks, where the model does not say."""


def attention_mask(
    query_BT: jax.Array,
    key_BS: jax.Array,
    *,
    window: int = 0,
    prefix_B: jax.Array | None = None,
    start_B: jax.Array | None = None,
    segments: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Returns who may look at whom, bool [B, T, S].

    Args:
      query_BT, key_BS: int, places counted along the row. No query sees a later key.
      window: a query sees this many places, its own included; 0 for all.
      prefix_B: int, how many places at a row's beginning all see each other, later ones too
        (prefix LM: Raffel et al. 2020, arXiv:1910.10683, section 3.2.1).
      start_B: int, where a row's first real token stands; nobody sees the padding before it.
      segments: int [B, T] of the queries and [B, S] of the keys; nobody sees another segment.
    """
    query, key = query_BT[:, :, None], key_BS[:, None, :]
    mask_BTS = key <= query
    if window:
        mask_BTS &= query - key < window
    if prefix_B is not None:
        mask_BTS |= jnp.maximum(query, key) < prefix_B[:, None, None]
    if start_B is not None:
        mask_BTS &= key >= start_B[:, None, None]
    if segments is not None:
        mask_BTS &= segments[0][:, :, None] == segments[1][:, None, :]
    return mask_BTS


def choose(model: Any, time: int, *, dropout: float, cached: bool, grouped: bool) -> str:
    """Returns the form in which a call attends: "plain", "blockwise" or "fused".

    Args:
      model: a `models.transformer.Transformer`, of which only the options are read.
      time: T. dropout: of this call. cached: there is a cache; decoding is always plain.
      grouped: the call has segments or a prefix, which cuDNN's kernels do not know.

    Raises:
      UserError: "fused" is asked for, and the call has segments or a prefix.
    """
    asked = str(model.attention)
    if cached:
        return "plain"
    if asked == "fused" and grouped:
        raise UserError(
            "task.model.attention='fused' knows neither segments (packed documents) nor prefixes;"
            " take 'blockwise' or 'auto'."
        )
    if asked != "auto":
        return asked
    if not grouped and not unfused(model, dropout):
        return "fused"
    return "blockwise" if time >= LONG else "plain"


def unfused(model: Any, dropout: float) -> str:
    """Returns why cuDNN's kernels cannot serve a model here, or "". See docs/memory.md."""
    depth = model.width // model.heads
    if not _cuda():
        return "it runs on CUDA devices of compute capability 8.0 or more, and there is none here"
    if model.dtype == "float32":
        return "it computes in bfloat16 or float16, and dtype is 'float32'"
    if depth % 8 or depth > 128:
        return f"heads are a multiple of 8 wide, 128 at most, and width/heads is {depth}"
    if model.attention_cap or model.positions == "alibi":
        return "it knows neither attention_cap nor positions='alibi'"
    return "it drops no attention weights, and dropout is not 0" if dropout else ""


def _cuda() -> bool:
    device = jax.local_devices()[0]
    capability = str(getattr(device, "compute_capability", "0"))
    cuda = "cuda" in device.client.platform_version.lower()
    return cuda and float(capability) >= 8.0


def fused(
    q_BTHD: jax.Array, k_BSKD: jax.Array, v_BSKD: jax.Array, *, scale: float, window: int = 0
) -> jax.Array:
    """Attends by cuDNN's kernels, causally; [T, S] is never made. [B, T, H, D], as `blockwise`."""
    return jax.nn.dot_product_attention(
        q_BTHD, k_BSKD, v_BSKD, scale=scale, is_causal=True, implementation="cudnn",
        local_window_size=(window - 1, 0) if window else None,
    )  # fmt: skip


class Form(NamedTuple):
    """What is known of `blockwise` before it runs. keys: S, without padding."""

    scale: float
    cap: float
    window: int
    alibi: bool
    dropout: float
    block: int
    keys: int


class Rows(NamedTuple):
    """What is known of a call's rows; None where there is no such thing.

    first: int32 [], the place of the first query. prefix_B, start_B: see `attention_mask`.
    segments: int [I, B, T] and [J, B, S]. key: of the dropout.
    """

    first: jax.Array | None
    prefix_B: jax.Array | None
    start_B: jax.Array | None
    segments: tuple[jax.Array, jax.Array] | None
    key: jax.Array | None


def blockwise(
    q_BTHD: jax.Array,
    k_BSKD: jax.Array,
    v_BSKD: jax.Array,
    *,
    scale: float,
    cap: float = 0.0,
    window: int = 0,
    alibi: bool = False,
    prefix_B: jax.Array | None = None,
    start_B: jax.Array | None = None,
    segments: tuple[jax.Array, jax.Array] | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    block: int = 0,
    first: jax.Array | None = None,
) -> jax.Array:
    """Attends by tiles; [T, S] is never made, nor a mask of that size.

    The same function of its inputs as the plain form, up to the order of sums. Softmax and sums are
    in float32. Two things differ: a query that may look at nothing gets zeros here (the plain form
    gives the mean of all values), and the dropped weights are as many but others.

    Args:
      q_BTHD: queries. k_BSKD, v_BSKD: K divides H, and keys are not repeated.
      scale: of the products of queries and keys. cap: keeps them within +-cap by tanh; 0 for none.
      window, prefix_B, start_B, segments: see `attention_mask`.
      alibi: see `positions.alibi`.
      dropout: in [0, 1), on the weights. key: of the dropout.
      block: queries and keys of a tile; 0 for BLOCK. T and S need not be multiples.
      first: int32 [], the place of the first query in the row of keys, if that is not 0. All tiles
        are then gone through, since which may be left out is not known before it runs.

    Where a mesh splits the places of a row (its axis "sequence" has several devices), each device
    has its own queries and goes through all keys.

    Returns:
      [B, T, H, D], in the dtype of the queries.
    """
    split = parts("sequence")
    if split > 1 and first is None and q_BTHD.shape[1] % split == 0:
        attend = partial(
            blockwise, scale=scale, cap=cap, window=window, alibi=alibi, prefix_B=prefix_B,
            start_B=start_B, dropout=dropout, key=key, block=block,
        )  # fmt: skip
        return _by_device(attend, split, q_BTHD, k_BSKD, v_BSKD, segments)
    batch, time, heads, depth = q_BTHD.shape
    size, groups = k_BSKD.shape[1], k_BSKD.shape[2]
    block = min(block or BLOCK, max(time, size))
    form = Form(scale, cap, window, alibi, dropout, block, size)
    q_IBTKRD = _cut(q_BTHD, block, axis=1).reshape(-1, batch, block, groups, heads // groups, depth)
    k_JBKSD, v_JBKSD = (_cut(x, block, axis=1).swapaxes(2, 3) for x in (k_BSKD, v_BSKD))
    if segments is not None:
        segments = _cut(segments[0], block, axis=1), _cut(segments[1], block, axis=1)
    rows = Rows(first, prefix_B, start_B, segments, key)
    y_IBKRTD = _tiled(form, q_IBTKRD.transpose(0, 1, 3, 4, 2, 5), k_JBKSD, v_JBKSD, rows)
    y_BITKRD = y_IBKRTD.transpose(1, 0, 4, 2, 3, 5)
    return y_BITKRD.reshape(batch, -1, heads, depth)[:, :time]


def _by_device(
    attend: Callable[..., jax.Array],
    split: int,
    q_BTHD: jax.Array,
    k_BSKD: jax.Array,
    v_BSKD: jax.Array,
    segments: tuple[jax.Array, jax.Array] | None,
) -> jax.Array:
    """Attends with the queries in so many parts at once, one for each device of a row."""
    batch, time = q_BTHD.shape[:2]

    def one(q: jax.Array, segments_BT: jax.Array | None, first: jax.Array) -> jax.Array:
        both = None if segments is None or segments_BT is None else (segments_BT, segments[1])
        return attend(q, k_BSKD, v_BSKD, segments=both, first=first)

    def apart(x: jax.Array) -> jax.Array:
        x = x.reshape(batch, split, time // split, *x.shape[2:])
        return pin(x, ROWS, "sequence", None, *("tensor", None)[: x.ndim - 3])

    firsts = jnp.arange(split, dtype=jnp.int32) * (time // split)
    if segments is None:
        y = jax.vmap(lambda q, first: one(q, None, first), (1, 0), 1)(apart(q_BTHD), firsts)
    else:
        of_queries = apart(jnp.broadcast_to(segments[0], (batch, time)))
        y = jax.vmap(one, (1, 1, 0), 1)(apart(q_BTHD), of_queries, firsts)
    return pin(y.reshape(q_BTHD.shape), ROWS, "sequence", "tensor", None)


def _cut(x: jax.Array, block: int, axis: int) -> jax.Array:
    """Cuts an axis into blocks, padded with zeros; the blocks' axis comes first."""
    rest = -x.shape[axis] % block
    x = jnp.pad(x, [(0, rest if i == axis else 0) for i in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
    return jnp.moveaxis(x, axis, 0)


def _tiles(form: Form, queries: int, keys: int, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Which tiles somebody may look into: the numbers of their blocks of queries and of keys."""
    i, j = np.divmod(np.arange(queries * keys), keys)
    if rows.first is not None or rows.prefix_B is not None:
        return i.astype(np.int32), j.astype(np.int32)
    seen = j <= i
    if form.window:  # the nearest two places are block - 1 closer than the blocks' beginnings
        seen &= (i - j) * form.block - (form.block - 1) < form.window
    return i[seen].astype(np.int32), j[seen].astype(np.int32)


def _logits(
    form: Form, rows: Rows, q_BKRTD: jax.Array, k_BKSD: jax.Array, i: jax.Array, j: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The logits of a tile, float32 [B, K, R, T, S]: products, and with bias and mask."""
    logits = jnp.einsum("bkrtd,bksd->bkrts", q_BKRTD, k_BKSD, preferred_element_type=jnp.float32)
    logits *= form.scale
    if form.cap:
        logits = form.cap * jnp.tanh(logits / form.cap)
    place_T = jnp.arange(form.block, dtype=jnp.int32)
    query_1T, key_1S = (i * form.block + place_T)[None], (j * form.block + place_T)[None]
    if rows.first is not None:
        query_1T += rows.first
    mask_BTS = attention_mask(
        query_1T, key_1S, window=form.window, prefix_B=rows.prefix_B, start_B=rows.start_B,
        segments=None if rows.segments is None else (rows.segments[0][i], rows.segments[1][j]),
    )  # fmt: skip
    if form.keys % form.block:
        mask_BTS &= key_1S[:, None] < form.keys
    biased = logits
    if form.alibi:
        _, groups, share, time, keys = logits.shape
        bias_1HTS = alibi(query_1T[:, :, None] - key_1S[:, None, :], groups * share)
        biased = logits + bias_1HTS.reshape(1, groups, share, time, keys)
    return logits, jnp.where(mask_BTS[:, None, None], biased, MASKED)


def _kept(form: Form, rows: Rows, i: jax.Array, j: jax.Array, shape: Any) -> jax.Array:
    """The factors of dropout of a tile: 0 or 1/(1 - dropout)."""
    assert rows.key is not None
    # By places, so that the devices of a row draw what one device would, where blocks meet.
    query = i * form.block + (0 if rows.first is None else rows.first)
    key = jax.random.fold_in(jax.random.fold_in(rows.key, query), j * form.block)
    return jax.random.bernoulli(key, 1.0 - form.dropout, shape) / (1.0 - form.dropout)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tiled(
    form: Form, q_IBKRTD: jax.Array, k_JBKSD: jax.Array, v_JBKSD: jax.Array, rows: Rows
) -> jax.Array:
    return _forward(form, q_IBKRTD, k_JBKSD, v_JBKSD, rows)[0]


def _forward(
    form: Form, q_IBKRTD: jax.Array, k_JBKSD: jax.Array, v_JBKSD: jax.Array, rows: Rows
) -> tuple[jax.Array, jax.Array]:
    """Returns the output and, for each row, the log of the sum of its exponentials."""

    def add(carry: Any, tile: Any) -> tuple[Any, None]:
        i, j = tile
        sum_BKRTD, total_BKRT, top_BKRT = (_at(x, i) for x in carry)
        v_BKSD = _at(v_JBKSD, j)
        _, logits = _logits(form, rows, _at(q_IBKRTD, i), _at(k_JBKSD, j), i, j)
        higher = jnp.maximum(top_BKRT, logits.max(-1))
        weights = jnp.exp(logits - higher[..., None])
        shrunk = jnp.exp(top_BKRT - higher)
        total_BKRT = total_BKRT * shrunk + weights.sum(-1)
        if form.dropout:
            weights *= _kept(form, rows, i, j, weights.shape)
        more = jnp.einsum(
            "bkrts,bksd->bkrtd", weights.astype(v_BKSD.dtype), v_BKSD,
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        parts = sum_BKRTD * shrunk[..., None] + more, total_BKRT, higher
        return tuple(_put(x, part, i) for x, part in zip(carry, parts, strict=True)), None

    row = jnp.zeros(q_IBKRTD.shape[:-1], jnp.float32)
    start = jnp.zeros(q_IBKRTD.shape, jnp.float32), row, row + LOWEST
    tiles = _tiles(form, len(q_IBKRTD), len(k_JBKSD), rows)
    (sum_IBKRTD, total, top), _ = jax.lax.scan(add, start, tiles)
    total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)  # of a row that sees nothing
    y_IBKRTD = (sum_IBKRTD / total[..., None]).astype(q_IBKRTD.dtype)
    return checkpoint_name(y_IBKRTD, NAME), checkpoint_name(top + jnp.log(total), NAME)


def _keep(form: Form, *arrays: Any) -> tuple[jax.Array, Any]:
    y_IBKRTD, log_IBKRT = _forward(form, *arrays)
    return y_IBKRTD, (arrays, y_IBKRTD, log_IBKRT)


def _backward(form: Form, kept: Any, dy_IBKRTD: jax.Array) -> tuple[Any, ...]:
    (q_IBKRTD, k_JBKSD, v_JBKSD, rows), y_IBKRTD, log_IBKRT = kept
    dtype = q_IBKRTD.dtype
    # The sum over keys of weight times its gradient (Dao et al. 2022, equation 4).
    both = dy_IBKRTD.astype(jnp.float32) * y_IBKRTD.astype(jnp.float32)
    mean_IBKRT = both.sum(-1)
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(carry: Any, tile: Any) -> tuple[Any, None]:
        i, j = tile
        q, k, v, dy = _at(q_IBKRTD, i), _at(k_JBKSD, j), _at(v_JBKSD, j), _at(dy_IBKRTD, i)
        products, logits = _logits(form, rows, q, k, i, j)
        weights = jnp.exp(logits - _at(log_IBKRT, i)[..., None])
        d_weights, used = product("bkrtd,bksd->bkrts", dy, v), weights
        if form.dropout:
            factor = _kept(form, rows, i, j, weights.shape)
            d_weights, used = d_weights * factor, weights * factor
        d_logits = weights * (d_weights - _at(mean_IBKRT, i)[..., None])
        if form.cap:
            d_logits *= 1.0 - jnp.square(products / form.cap)
        d_logits = (form.scale * d_logits).astype(dtype)
        dq, dk, dv = carry
        dq = _put(dq, _at(dq, i) + product("bkrts,bksd->bkrtd", d_logits, k), i)
        dk = _put(dk, _at(dk, j) + product("bkrts,bkrtd->bksd", d_logits, q), j)
        dv = _put(dv, _at(dv, j) + product("bkrts,bkrtd->bksd", used.astype(dtype), dy), j)
        return (dq, dk, dv), None

    start = tuple(jnp.zeros(x.shape, jnp.float32) for x in (q_IBKRTD, k_JBKSD, v_JBKSD))
    tiles = _tiles(form, len(q_IBKRTD), len(k_JBKSD), rows)
    (dq, dk, dv), _ = jax.lax.scan(add, start, tiles)
    return dq.astype(dtype), dk.astype(k_JBKSD.dtype), dv.astype(v_JBKSD.dtype), None


_tiled.defvjp(_keep, _backward)


def _at(x: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, index, keepdims=False)


def _put(x: jax.Array, part: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(x, part, index, 0)

"""Parts that transformers share.

Letters in names: B batch, T query time, S key time, N = B*T, C width, H heads, K heads of keys and
values, R = H/K queries that share a key, D width of a head, F inner width of the MLP.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

# A logit that no softmax sees. Finite, so that a row with nothing to attend to stays finite.
MASKED = -1e30


class LayerCache(NamedTuple):
    """Keys and values of one attention layer, [B, K, S, D] each: as the products read them, so that
    no step of decoding has to turn the whole cache around.
    """

    key: jax.Array
    value: jax.Array


class View(NamedTuple):
    """What the layers of one call share.

    mask_BTS: True where a query may look at a key. positions_BT: int, each token's place in its
    document. bias_BHTS: added to the attention logits, or None. start: int32 scalar, the place in
    the cache where the call's first key goes.
    """

    mask_BTS: jax.Array
    positions_BT: jax.Array
    bias_BHTS: jax.Array | None
    start: jax.Array


def fence(x: jax.Array) -> jax.Array:
    """Keeps XLA's CPU compiler from fusing across this point; nothing on other platforms.

    Without it the backward pass of the residual stream is fused again through all earlier blocks,
    which makes a small model's step 1.3 to 1.4 times slower. The identity, in value and gradient.
    """
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


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


class Norm(nn.Module):
    """Normalization over the last axis, computed in float32. [..., C] -> [..., C] in `dtype`.

    Attributes:
      center: subtract the mean: layer normalization (Ba et al. 2016, arXiv:1607.06450), else RMS
        normalization (Zhang & Sennrich 2019, arXiv:1910.07467).
      bias: whether there is one; only with `center`.
    """

    center: bool
    bias: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if self.center:
            y = y - y.mean(-1, keepdims=True)
        epsilon = 1e-5 if self.center else 1e-6
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + epsilon)
        row, shape = x.shape[-1:], (1,) * (x.ndim - 1) + x.shape[-1:]
        y *= self.param("scale", nn.initializers.ones, row, self.param_dtype).reshape(shape)
        if self.bias and self.center:
            y += self.param("bias", nn.initializers.zeros, row, self.param_dtype).reshape(shape)
        return y.astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2), with fewer
    heads of keys and values than of queries if asked (GQA: Ainslie et al. 2023, arXiv:2305.13245).

    Dense layers see [N, C] rather than [B, T, C]: the same products, but XLA's CPU compiler then
    makes no transposed copies for the weights' gradients. One product makes queries, keys and
    values; its columns are ordered by group (the R queries of a group, its key, its value), so
    that a mesh may split them between groups.

    Attributes:
      heads: H. kv_heads: K, a divisor of H. width: C, a multiple of H.
      dense: makes a dense layer from features, name and kernel_init.
      qk_norm: makes the norm of queries and of keys from a name, or None (Henry et al. 2020,
        arXiv:2010.04245).
      rotate: turns queries and keys by their positions, or None.
      scale: of the attention logits, the products of queries and keys.
      cap: the logits stay within +-cap by tanh (Gemma 2, arXiv:2408.00118, section 2); 0 for none.
      dropout: on the attention weights and on the output.
      std, out_std: standard deviations of the initial weights; the second is the output
        projection's.
    """

    heads: int
    kv_heads: int
    width: int
    dense: Callable[..., nn.Module]
    qk_norm: Callable[..., nn.Module] | None
    rotate: Callable[[jax.Array, jax.Array], jax.Array] | None
    scale: float
    cap: float
    dropout: float
    std: float
    out_std: float

    @nn.compact
    def __call__(
        self, x_NC: jax.Array, view: View, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends.

        Args:
          x_NC: the layer's input. cache: keys and values of earlier calls, or None.

        Returns:
          [N, C], and the cache with this call's keys and values in place.
        """
        q_BTHD, k_BTKD, v_BTKD = self._project(x_NC, view)
        k_BKSD, v_BKSD = k_BTKD.swapaxes(1, 2), v_BTKD.swapaxes(1, 2)
        if cache is not None:
            put = jax.lax.dynamic_update_slice_in_dim
            k_BKSD = put(cache.key, k_BKSD.astype(cache.key.dtype), view.start, axis=2)
            v_BKSD = put(cache.value, v_BKSD.astype(cache.value.dtype), view.start, axis=2)
            cache = LayerCache(k_BKSD, v_BKSD)
        batch, time, _, depth = q_BTHD.shape
        q_BTKRD = q_BTHD.reshape(batch, time, self.kv_heads, -1, depth)
        att_BKRTS = jnp.einsum(
            "btkrd,bksd->bkrts", q_BTKRD, k_BKSD, preferred_element_type=jnp.float32
        )
        att_BHTS = att_BKRTS.reshape(batch, self.heads, time, -1) * self.scale
        if self.cap:
            att_BHTS = self.cap * jnp.tanh(att_BHTS / self.cap)
        if view.bias_BHTS is not None:
            att_BHTS += view.bias_BHTS
        att_BHTS = jnp.where(view.mask_BTS[:, None], att_BHTS, MASKED)
        att_BHTS = jax.nn.softmax(att_BHTS, axis=-1).astype(x_NC.dtype)
        att_BHTS = nn.Dropout(self.dropout, name="dropout_weights")(att_BHTS, deterministic=False)
        att_BKRTS = att_BHTS.reshape(att_BKRTS.shape)
        y_BTKRD = jnp.einsum("bkrts,bksd->btkrd", att_BKRTS, v_BKSD)
        y_NC = self.dense(self.width, name="out", kernel_init=nn.initializers.normal(self.out_std))(
            y_BTKRD.reshape(x_NC.shape)
        )
        return nn.Dropout(self.dropout, name="dropout")(y_NC, deterministic=False), cache

    def _project(self, x_NC: jax.Array, view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries [B, T, H, D], keys and values [B, T, K, D]."""
        batch, time = view.positions_BT.shape
        depth, group = self.width // self.heads, self.heads // self.kv_heads + 2
        qkv = self.dense(
            self.kv_heads * group * depth, name="qkv", kernel_init=nn.initializers.normal(self.std)
        )(x_NC).reshape(batch, time, self.kv_heads, group, depth)
        q = qkv[:, :, :, :-2].reshape(batch, time, self.heads, depth)
        k, v = qkv[:, :, :, -2], qkv[:, :, :, -1]
        if self.qk_norm is not None:
            q, k = self.qk_norm(name="query_norm")(q), self.qk_norm(name="key_norm")(k)
        if self.rotate is not None:
            q, k = self.rotate(q, view.positions_BT), self.rotate(k, view.positions_BT)
        return q, k, v


# Of the MLP, by name. A gated one multiplies the activation of a second product by the first.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),  # arXiv:1606.08415
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),  # GPT-2's
    "swiglu": jax.nn.silu,  # Shazeer 2020, arXiv:2002.05202
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, arXiv:2109.08668
}
GATED = {"swiglu"}


class MLP(nn.Module):
    """Two dense layers with an activation between. [N, C] -> [N, C].

    Attributes:
      activation: a name in ACTIVATIONS. hidden: F. The others: see `Attention`.
    """

    activation: str
    width: int
    hidden: int
    dense: Callable[..., nn.Module]
    dropout: float
    std: float
    out_std: float

    @nn.compact
    def __call__(self, x_NC: jax.Array) -> jax.Array:
        init, act = nn.initializers.normal(self.std), ACTIVATIONS[self.activation]
        h_NF = self.dense(self.hidden, name="hidden", kernel_init=init)(x_NC)
        if self.activation in GATED:
            h_NF = act(self.dense(self.hidden, name="gate", kernel_init=init)(x_NC)) * h_NF
        else:
            h_NF = act(h_NF)
        y_NC = self.dense(self.width, name="out", kernel_init=nn.initializers.normal(self.out_std))(
            h_NF
        )
        return nn.Dropout(self.dropout, name="dropout")(y_NC, deterministic=False)


class Block(nn.Module):
    """Attention, then the MLP, each added to its input. The parts are handed in, ready made.

    The norm stands before the layer (x + f(norm(x)): Xiong et al. 2020, arXiv:2002.04745) or, if
    `post`, after the sum (norm(x + f(x)): Vaswani et al. 2017).
    """

    attention_norm: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module
    post: bool

    def __call__(
        self, x_NC: jax.Array, cache: LayerCache | None, view: View
    ) -> tuple[jax.Array, LayerCache | None]:
        """[N, C] -> [N, C] and the layer's cache; see `Attention`."""
        before, after = self._around(self.attention_norm)
        y_NC, cache = self.attention(before(x_NC), view, cache)
        x_NC = after(x_NC + y_NC)
        before, after = self._around(self.mlp_norm)
        return after(x_NC + self.mlp(before(x_NC))), cache

    def _around(self, norm: Any) -> tuple[Any, Any]:
        """What is done before the layer and after the sum."""
        return ((lambda x: x), norm) if self.post else (norm, (lambda x: x))

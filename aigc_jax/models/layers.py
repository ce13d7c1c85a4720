"""Parts that transformers share.

Letters in names: B batch, T query time, S key time, N = B*T, C width, H heads, K heads of keys and
values, R = H/K queries that share a key, D width of a head, F inner width of the MLP.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.models.attention import MASKED, blockwise, fused
from aigc_jax.models.layout import ROWS, parts, pin
from aigc_jax.models.platform import on_cpu


class LayerCache(NamedTuple):
    """Keys and values of one attention layer, [B, K, S, D] each: as the products read them, so that
    no step of decoding has to turn the whole cache around.
    """

    key: jax.Array
    value: jax.Array


class View(NamedTuple):
    """What the layers of one call share.

    mask_BTS: True where a query may look at a key; None if attention does not go the plain way, and
    then makes its masks itself. positions_BT: int, each token's place in its document. bias_BHTS:
    added to the attention logits, or None. start: int32 scalar, the place in the cache where the
    call's first key goes. prefix_B, segments_BT: see `attention_mask`; read where there is no mask.
    """

    mask_BTS: jax.Array | None
    positions_BT: jax.Array
    bias_BHTS: jax.Array | None
    start: jax.Array
    prefix_B: jax.Array | None = None
    segments_BT: jax.Array | None = None


def fence(x: jax.Array) -> jax.Array:
    """Keeps XLA's CPU compiler from fusing across this point; nothing on other platforms.

    Without it the backward pass of the residual stream is fused again through all earlier blocks,
    which makes a small model's step 1.3 to 1.4 times slower. The identity, in value and gradient.
    """
    return jax.lax.optimization_barrier(x) if on_cpu() else x


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

    One product makes queries, keys and values; its columns are ordered by group (the R queries of a
    group, its key, its value), so that a mesh may split them between groups. Where a mesh splits
    the places of a row, queries stay where they are and keys and values are gathered.

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
      form, window, alibi, block: where a view has no mask: "blockwise" or "fused", and see
        `attention.blockwise`.
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
    form: str = "plain"
    window: int = 0
    alibi: bool = False
    block: int = 0

    @nn.compact
    def __call__(
        self, x_BTC: jax.Array, view: View, cache: LayerCache | None
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends.

        Args:
          x_BTC: the layer's input. cache: keys and values of earlier calls, or None.

        Returns:
          [B, T, C], and the cache with this call's keys and values in place.
        """
        q_BTHD, k_BTKD, v_BTKD = self._project(x_BTC, view)
        if view.mask_BTS is None:
            y_BTHD = self._unmasked(q_BTHD, k_BTKD, v_BTKD, view)
        else:
            y_BTHD, cache = self._plain(q_BTHD, k_BTKD, v_BTKD, view, cache)
        out = self.dense(self.width, name="out", kernel_init=nn.initializers.normal(self.out_std))
        y_BTC = out(y_BTHD.reshape(x_BTC.shape))
        return nn.Dropout(self.dropout, name="dropout")(y_BTC, deterministic=False), cache

    def _plain(
        self,
        q_BTHD: jax.Array,
        k_BTKD: jax.Array,
        v_BTKD: jax.Array,
        view: View,
        cache: LayerCache | None,
    ) -> tuple[jax.Array, LayerCache | None]:
        """All weights at once, [B, H, T, S]; returns [B, T, H, D] and the cache."""
        assert view.mask_BTS is not None
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
        att_BHTS = jax.nn.softmax(att_BHTS, axis=-1).astype(q_BTHD.dtype)
        att_BHTS = nn.Dropout(self.dropout, name="dropout_weights")(att_BHTS, deterministic=False)
        att_BKRTS = att_BHTS.reshape(att_BKRTS.shape)
        y_BTKRD = jnp.einsum("bkrts,bksd->btkrd", att_BKRTS, v_BKSD)
        return y_BTKRD.reshape(q_BTHD.shape), cache

    def _unmasked(
        self, q_BTHD: jax.Array, k_BTKD: jax.Array, v_BTKD: jax.Array, view: View
    ) -> jax.Array:
        """Never makes [T, S], nor a mask of it; returns [B, T, H, D]."""
        if self.form == "fused":
            return fused(q_BTHD, k_BTKD, v_BTKD, scale=self.scale, window=self.window)
        segments = None if view.segments_BT is None else (view.segments_BT, view.segments_BT)
        return blockwise(
            q_BTHD, k_BTKD, v_BTKD, scale=self.scale, cap=self.cap, window=self.window,
            alibi=self.alibi, prefix_B=view.prefix_B, segments=segments, dropout=self.dropout,
            key=self.make_rng("dropout") if self.dropout else None, block=self.block,
        )  # fmt: skip

    def _project(self, x_BTC: jax.Array, view: View) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries [B, T, H, D], keys and values [B, T, K, D]."""
        batch, time = view.positions_BT.shape
        depth, group = self.width // self.heads, self.heads // self.kv_heads + 2
        qkv = self.dense(
            self.kv_heads * group * depth, name="qkv", kernel_init=nn.initializers.normal(self.std)
        )(x_BTC).reshape(batch, time, self.kv_heads, group, depth)
        q = qkv[:, :, :, :-2].reshape(batch, time, self.heads, depth)
        k, v = qkv[:, :, :, -2], qkv[:, :, :, -1]
        if self.qk_norm is not None:
            q, k = self.qk_norm(name="query_norm")(q), self.qk_norm(name="key_norm")(k)
        if self.rotate is not None:
            q, k = self.rotate(q, view.positions_BT), self.rotate(k, view.positions_BT)
        if parts("sequence") > 1:
            q = pin(q, ROWS, "sequence", "tensor", None)
            k, v = (pin(x, ROWS, None, "tensor", None) for x in (k, v))
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
    """Two dense layers with an activation between. [B, T, C] -> [B, T, C].

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
    def __call__(self, x_BTC: jax.Array) -> jax.Array:
        init, act = nn.initializers.normal(self.std), ACTIVATIONS[self.activation]
        h_BTF = self.dense(self.hidden, name="hidden", kernel_init=init)(x_BTC)
        if self.activation in GATED:
            h_BTF = act(self.dense(self.hidden, name="gate", kernel_init=init)(x_BTC)) * h_BTF
        else:
            h_BTF = act(h_BTF)
        y_BTC = self.dense(
            self.width, name="out", kernel_init=nn.initializers.normal(self.out_std)
        )(h_BTF)
        return nn.Dropout(self.dropout, name="dropout")(y_BTC, deterministic=False)


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
        self, x_BTC: jax.Array, cache: LayerCache | None, view: View
    ) -> tuple[jax.Array, LayerCache | None]:
        """[B, T, C] -> [B, T, C] and the layer's cache; see `Attention`."""
        before, after = self._around(self.attention_norm)
        y_BTC, cache = self.attention(before(x_BTC), view, cache)
        x_BTC = pin(after(x_BTC + y_BTC), ROWS, "sequence", None)
        before, after = self._around(self.mlp_norm)
        return pin(after(x_BTC + self.mlp(before(x_BTC))), ROWS, "sequence", None), cache

    def _around(self, norm: Any) -> tuple[Any, Any]:
        """What is done before the layer and after the sum."""
        return ((lambda x: x), norm) if self.post else (norm, (lambda x: x))

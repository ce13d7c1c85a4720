"""Parts that transformers share.

Letters in names: B batch, T query time, S key time, N = B*T, C width, H heads, D width of a head,
V vocabulary.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

# A logit that no softmax sees. Finite, so that a row with nothing to attend to stays finite.
MASKED = -1e30


class LayerCache(NamedTuple):
    """Keys and values of one attention layer, [B, S, H, D] each."""

    key: jax.Array
    value: jax.Array


def fence(x: jax.Array) -> jax.Array:
    """Keeps XLA's CPU compiler from fusing across this point; nothing on other platforms.

    Without it the backward pass of the residual stream is fused again through all earlier blocks,
    which makes a small model's step 1.3 to 1.4 times slower. The identity, in value and gradient.
    """
    return jax.lax.optimization_barrier(x) if jax.default_backend() == "cpu" else x


def attention_mask(
    query_positions: jax.Array,
    key_positions: jax.Array,
    query_segments: jax.Array | None = None,
    key_segments: jax.Array | None = None,
) -> jax.Array:
    """Returns who may look at whom, bool [B, T, S]: no later position, no other segment.

    Args:
      query_positions: int [B, T]. key_positions: int [B, S], counted along the row.
      query_segments, key_segments: int [B, T] and [B, S]; None when a row is one document.
    """
    mask = key_positions[:, None, :] <= query_positions[:, :, None]
    if query_segments is not None and key_segments is not None:
        mask &= key_segments[:, None, :] == query_segments[:, :, None]
    return mask


class LayerNorm(nn.Module):
    """Layer normalization over the last axis, computed in float32 (Ba et al. 2016,
    arXiv:1607.06450). [..., C] -> [..., C] in `dtype`.
    """

    bias: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        mean = x32.mean(-1, keepdims=True)
        variance = jnp.square(x32 - mean).mean(-1, keepdims=True)
        y = (x32 - mean) * jax.lax.rsqrt(variance + 1e-5)
        shape = (1,) * (x.ndim - 1) + (x.shape[-1],)
        y *= self.param("scale", nn.initializers.ones, (x.shape[-1],)).reshape(shape)
        if self.bias:
            y += self.param("bias", nn.initializers.zeros, (x.shape[-1],)).reshape(shape)
        return y.astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

    Dense layers see [N, C] rather than [B, T, C]: the same products, but XLA's CPU compiler then
    makes no transposed copies for the weights' gradients.

    Attributes:
      heads: H. width: C, a multiple of H. dropout: on the attention weights and on the output.
      std, out_std: standard deviations of the initial weights; the second is the output
        projection's.
    """

    heads: int
    width: int
    dropout: float
    bias: bool
    std: float
    out_std: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x_NC: jax.Array,
        mask_BTS: jax.Array,
        *,
        cache: LayerCache | None,
        start: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerCache | None]:
        """Attends.

        Args:
          x_NC: the layer's input. mask_BTS: True where a query may look at a key.
          cache: keys and values of earlier calls, or None. start: int scalar, the place in the
            cache where this call's first key goes. deterministic: no dropout.

        Returns:
          [N, C], and the cache with this call's keys and values in place.
        """
        batch, time, _ = mask_BTS.shape
        depth = self.width // self.heads

        def dense(name: str, std: float) -> nn.Dense:
            return nn.Dense(
                self.width, use_bias=self.bias, dtype=self.dtype, name=name,
                kernel_init=nn.initializers.normal(std),
            )  # fmt: skip

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(batch, time, self.heads, depth)

        q_BTHD = split(dense("query", self.std)(x_NC))
        k_BSHD = split(dense("key", self.std)(x_NC))
        v_BSHD = split(dense("value", self.std)(x_NC))
        if cache is not None and start is not None:
            put = jax.lax.dynamic_update_slice_in_dim
            k_BSHD = put(cache.key, k_BSHD.astype(cache.key.dtype), start, axis=1)
            v_BSHD = put(cache.value, v_BSHD.astype(cache.value.dtype), start, axis=1)
            cache = LayerCache(k_BSHD, v_BSHD)
        att_BHTS = jnp.einsum("bthd,bshd->bhts", q_BTHD, k_BSHD) * depth**-0.5
        att_BHTS = jnp.where(mask_BTS[:, None], att_BHTS.astype(jnp.float32), MASKED)
        att_BHTS = jax.nn.softmax(att_BHTS, axis=-1).astype(self.dtype)
        att_BHTS = nn.Dropout(self.dropout, name="dropout_weights")(
            att_BHTS, deterministic=deterministic
        )
        y_NC = jnp.einsum("bhts,bshd->bthd", att_BHTS, v_BSHD).reshape(x_NC.shape)
        y_NC = dense("out", self.out_std)(y_NC)
        return nn.Dropout(self.dropout, name="dropout")(y_NC, deterministic=deterministic), cache


class MLP(nn.Module):
    """Two dense layers with a GELU between. [N, C] -> [N, C]; `hidden` is the inner width."""

    width: int
    hidden: int
    dropout: float
    bias: bool
    std: float
    out_std: float
    dtype: Any

    @nn.compact
    def __call__(self, x_NC: jax.Array, *, deterministic: bool) -> jax.Array:
        def dense(features: int, name: str, std: float) -> nn.Dense:
            return nn.Dense(
                features, use_bias=self.bias, dtype=self.dtype, name=name,
                kernel_init=nn.initializers.normal(std),
            )  # fmt: skip

        h = jax.nn.gelu(dense(self.hidden, "hidden", self.std)(x_NC), approximate=False)
        y = dense(self.width, "out", self.out_std)(h)
        return nn.Dropout(self.dropout, name="dropout")(y, deterministic=deterministic)

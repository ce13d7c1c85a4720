"""A decoder-only transformer (GPT-2: Radford et al. 2019).

Letters in names: B batch, T query time, S key time, N = B*T, C width, V vocabulary.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError
from aigc_jax.models.layers import MLP, Attention, LayerCache, LayerNorm, attention_mask, fence


class Cache(NamedTuple):
    """What decoding remembers: a `LayerCache` per layer and how many places are filled."""

    layers: tuple[LayerCache, ...]
    length: jax.Array  # int32 []


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). The parts are handed in, ready made."""

    attention_norm: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module

    def __call__(
        self,
        x_NC: jax.Array,
        mask_BTS: jax.Array,
        *,
        cache: LayerCache | None,
        start: jax.Array | None,
        deterministic: bool,
    ) -> tuple[jax.Array, LayerCache | None]:
        """[N, C] -> [N, C] and the layer's cache; see `Attention`."""
        y_NC, cache = self.attention(
            self.attention_norm(x_NC),
            mask_BTS,
            cache=cache,
            start=start,
            deterministic=deterministic,
        )
        x_NC = x_NC + y_NC
        return x_NC + self.mlp(self.mlp_norm(x_NC), deterministic=deterministic), cache


class Transformer(nn.Module):
    """A GPT. The defaults are nanoGPT's recipe for a CPU.

    Attributes:
      vocab_size: V. context: the most positions that it can tell apart.
      layers, heads, width: depth, heads a layer, C; `heads` divides `width`.
      mlp_ratio: the inner width of the MLP over C.
      dropout: in [0, 1), on embeddings, attention weights and both outputs of a block.
      bias: whether dense layers and norms have biases.
      init_std: standard deviation of the initial weights of dense layers; those that write into
        the residual stream begin smaller by sqrt(2 layers) (GPT-2, section 2.3). Embeddings begin
        with 0.02.
      tied: the output layer is the embedding, transposed (Press & Wolf 2017, arXiv:1608.05859).
      dtype: of activations and products; parameters, norms, softmax and logits are float32.
    """

    vocab_size: int
    context: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    mlp_ratio: int = 4
    dropout: float = 0.0
    bias: bool = False
    init_std: float = 0.02
    tied: bool = True
    dtype: str = "float32"

    def check(self) -> None:
        """Raises UserError when the sizes do not fit together."""
        for name in ("layers", "heads", "width", "mlp_ratio"):
            if getattr(self, name) < 1:
                raise UserError(f"task.model.{name}={getattr(self, name)}: expected 1 or more.")
        if self.width % self.heads:
            raise UserError(
                f"task.model: width={self.width} is not a multiple of heads={self.heads};"
                f" try width={self.width // self.heads * self.heads or self.heads}."
            )
        if self.init_std <= 0.0:
            raise UserError(f"task.model.init_std={self.init_std}: expected above 0.")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"task.model.dropout={self.dropout}: expected a number in [0, 1).")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UserError(
                f"task.model.dtype='{self.dtype}': expected float32, bfloat16 or float16."
            )

    def empty_cache(self, batch: int) -> Cache:
        """Returns a cache with room for `context` positions in each of `batch` rows."""
        shape = (batch, self.context, self.heads, self.width // self.heads)
        zeros = jnp.zeros(shape, self.dtype)
        return Cache(tuple(LayerCache(zeros, zeros) for _ in range(self.layers)), jnp.int32(0))

    @nn.compact
    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        cache: Cache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache | None]:
        """Predicts the next token at every place.

        Args:
          tokens_BT: int [B, T], T at most `context`.
          positions_BT: int [B, T], each token's place within its document; counted along the row
            (after what the cache holds) when not given.
          segments_BT: int [B, T], which document of the row a token belongs to; tokens see their
            own document alone. Not together with a cache.
          cache: what earlier calls left; the new tokens stand after them.
          deterministic: False applies dropout, with the random stream "dropout".

        Returns:
          Logits, float32 [B, T, V], and the new cache (None if none was given).

        Raises:
          UserError: T is more than `context`; segments together with a cache.
        """
        batch, time = tokens_BT.shape
        if time > self.context:
            raise UserError(f"{time} tokens in a row; the model's context is {self.context}.")
        if cache is not None and segments_BT is not None:
            raise UserError("segments can't be told apart with a cache; pass one or the other.")
        start = jnp.int32(0) if cache is None else cache.length
        row_BT = jnp.broadcast_to(start + jnp.arange(time), (batch, time))
        if cache is None:
            mask_BTS = attention_mask(row_BT, row_BT, segments_BT, segments_BT)
        else:
            slots_BS = jnp.broadcast_to(jnp.arange(self.context), (batch, self.context))
            mask_BTS = attention_mask(row_BT, slots_BS)
        positions_BT = row_BT if positions_BT is None else positions_BT

        init = nn.initializers.normal(0.02)
        embed = self.param("embed", init, (self.vocab_size, self.width))
        place = self.param("positions", init, (self.context, self.width))
        x_BTC = embed.astype(self.dtype)[tokens_BT] + place.astype(self.dtype)[positions_BT]
        x_NC = x_BTC.reshape(batch * time, self.width)
        x_NC = nn.Dropout(self.dropout, name="dropout")(x_NC, deterministic=deterministic)

        caches = []
        for i in range(self.layers):
            layer = None if cache is None else cache.layers[i]
            x_NC, layer = self._block(i)(
                fence(x_NC), mask_BTS, cache=layer, start=start, deterministic=deterministic
            )
            caches.append(layer)
        x_NC = LayerNorm(self.bias, self.dtype, name="final_norm")(x_NC)

        head = embed if self.tied else self.param("head", init, (self.vocab_size, self.width))
        logits_NV = jnp.einsum(
            "nc,vc->nv", x_NC, head.astype(self.dtype), preferred_element_type=jnp.float32
        )
        if cache is not None:
            cache = Cache(tuple(c for c in caches if c is not None), start + time)
        return logits_NV.reshape(batch, time, self.vocab_size), cache

    def _block(self, index: int) -> Block:
        shared: dict[str, Any] = {
            "width": self.width,
            "dropout": self.dropout,
            "bias": self.bias,
            "std": self.init_std,
            "out_std": self.init_std / (2 * self.layers) ** 0.5,
            "dtype": self.dtype,
            "parent": None,
        }
        return Block(
            attention_norm=LayerNorm(self.bias, self.dtype, parent=None),
            attention=Attention(heads=self.heads, **shared),
            mlp_norm=LayerNorm(self.bias, self.dtype, parent=None),
            mlp=MLP(hidden=self.mlp_ratio * self.width, **shared),
            name=f"block_{index}",
        )


make = Transformer

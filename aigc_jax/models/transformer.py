"""A decoder-only transformer (GPT-2: Radford et al. 2019) and the variants that papers ablate.

Letters in names: see `models.layers`; V vocabulary.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError
from aigc_jax.models import attention, limits, mup
from aigc_jax.models.dense import TURNED, Dense, logits_of, prepared
from aigc_jax.models.layers import (
    GATED,
    MLP,
    Attention,
    Block,
    LayerCache,
    Norm,
    View,
    fence,
)
from aigc_jax.models.layout import ROWS, parts, pin
from aigc_jax.models.positions import alibi, rotate, sinusoidal

# What the backward pass finds instead of computing it again; the rest of a block is recomputed.
# What `attention.blockwise` gave is small and dear, and kept wherever products are.
_POLICIES = jax.checkpoint_policies
_BLOCKWISE = _POLICIES.save_only_these_names(attention.NAME)
REMAT = {
    "full": _POLICIES.nothing_saveable,  # only each block's input
    "dots": _POLICIES.save_from_both_policies(_POLICIES.dots_saveable, _BLOCKWISE),
    "dots_no_batch": _POLICIES.save_from_both_policies(  # what dense layers gave
        _POLICIES.dots_with_no_batch_dims_saveable, _BLOCKWISE
    ),
    "offload": _POLICIES.offload_dot_with_no_batch_dims("device", "pinned_host"),
}


class Cache(NamedTuple):
    """What decoding remembers.

    layers: keys and values, a `LayerCache` per layer, or one with a leading layer axis when the
    layers are scanned. length: int32 [], how many slots are filled. start_B: int32 [B], the slot
    of each row's first token; the slots before it are padding.
    """

    layers: Any
    length: jax.Array
    start_B: jax.Array


class Transformer(nn.Module):
    """A GPT. The defaults are nanoGPT's recipe for a CPU.

    Attributes:
      vocab_size: V. context: the most tokens in a row.
      layers, heads, width: depth, H, C; `heads` divides `width`.
      kv_heads: K, a divisor of `heads`: 1 is multi-query attention, 0 means as many as `heads`.
      window: how many places a query sees, its own included; 0 for all before it.
      positions: "learned" (added), "sinusoidal" (added), "rope", "alibi" or "none".
      max_positions: rows of the learned table, at least `context`; 0 means `context`.
      rope_base, rope_scaling, rope_factor: see `positions.rotate`.
      mlp: "gelu" (exact), "gelu_tanh", "swiglu" or "relu2".
      mlp_ratio: the inner width of the MLP over C; a gated one has 2/3 of it (rounded up to a
        multiple of 8), which makes it as large as the others.
      norm: "layernorm" or "rmsnorm". norm_place: "pre" or "post"; see `Block`.
      qk_norm: normalize queries and keys. attention_cap, logit_cap: keep the attention's logits
        and the output's within +-cap by tanh; 0 for none.
      dropout: in [0, 1), on embeddings, attention weights and both outputs of a block.
      bias: whether dense layers and layer norms have biases.
      init_std: standard deviation of the initial weights of dense layers; those that write into
        the residual stream begin smaller by sqrt(2 layers) (GPT-2, section 2.3).
      embed_std: the same of embeddings, learned positions included. An output layer that is not
        `tied` begins with 0.02.
      zero_init: those that write into the residual stream begin at zero instead.
      base_width, base_heads: width and heads of the model whose learning rate, `init_std` and
        `embed_std` these are, in muP; see `models.mup`. 0 heads: as many as `heads`. A width of 0:
        the standard parameterization.
      tied: the output layer is the embedding, transposed (Press & Wolf 2017, arXiv:1608.05859).
      scan: one compiled block that runs `layers` times, its parameters stacked; see `stack` and
        `unstack`. The same function; compiles faster, and runs slower at small widths.
      attention: how long rows attend: "plain" (all weights at once), "blockwise", "fused" (cuDNN's
        kernels) or "auto": fused where it can be, blockwise from `attention.LONG` tokens a row on,
        else plain. A call with a cache is plain. attention_block: queries, and keys, of a tile of
        "blockwise"; 0 means `attention.BLOCK`.
      remat: what the backward pass finds: "none" for all, "dots" for all products,
        "dots_no_batch" for what dense layers gave, "offload" for the same in the host's memory,
        "full" for a block's input alone. It computes the rest again.
      param_dtype: of the parameters. dtype: of activations and products; norms and softmax are
        float32 inside. logits_dtype: of the output.
    """

    vocab_size: int
    context: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    kv_heads: int = 0
    window: int = 0
    positions: Literal["learned", "sinusoidal", "rope", "alibi", "none"] = "learned"
    max_positions: int = 0
    rope_base: float = 10_000.0
    rope_scaling: Literal["none", "linear", "ntk"] = "none"
    rope_factor: float = 1.0
    mlp: Literal["gelu", "gelu_tanh", "swiglu", "relu2"] = "gelu"
    mlp_ratio: int = 4
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    norm_place: Literal["pre", "post"] = "pre"
    qk_norm: bool = False
    attention_cap: float = 0.0
    logit_cap: float = 0.0
    dropout: float = 0.0
    bias: bool = False
    init_std: float = 0.02
    embed_std: float = 0.02
    zero_init: bool = False
    base_width: int = 0
    base_heads: int = 0
    tied: bool = True
    scan: bool = False
    attention: Literal["auto", "plain", "blockwise", "fused"] = "auto"
    attention_block: int = 0
    remat: Literal["none", "full", "dots", "dots_no_batch", "offload"] = "none"
    param_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    logits_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def check(self) -> None:
        """Raises UserError for options that are out of range or do not fit together."""
        limits.check(self)

    def rates(self) -> dict[str, float]:
        """Multipliers of the learning rate, by regular expressions of paths; see `models.mup`."""
        return self._mup().rates

    def _mup(self) -> mup.Multipliers:
        return mup.multipliers(self.width, self.heads, self.base_width, self.base_heads)

    def empty_cache(
        self, batch: int, size: int | None = None, start_B: jax.Array | None = None
    ) -> Cache:
        """Returns a cache with room for `size` tokens (default: `context`) in each row.

        Args:
          start_B: int32 [B], how many slots at a row's beginning are padding; default none. A
            token's position is counted from there, so `size` may be more than `context`.
        """
        heads = self.kv_heads or self.heads
        shape = (batch, heads, size or self.context, self.width // self.heads)
        if self.scan:
            zeros = jnp.zeros((self.layers, *shape), self.dtype)
            layers: Any = LayerCache(zeros, zeros)
        else:
            zeros = jnp.zeros(shape, self.dtype)
            layers = tuple(LayerCache(zeros, zeros) for _ in range(self.layers))
        start_B = jnp.zeros(batch, jnp.int32) if start_B is None else start_B
        return Cache(layers, jnp.int32(0), start_B)

    prepared = staticmethod(prepared)

    def head(self, params: Any) -> jax.Array:
        """Returns the output layer, [V, C], out of the model's parameters."""
        return params["embed" if self.tied else "head"]

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        prefix_B: jax.Array | None = None,
        cache: Cache | None = None,
        deterministic: bool = True,
        last: bool = False,
    ) -> tuple[jax.Array, Cache | None]:
        """Predicts the next token at every place.

        Args:
          last: only at the last place. The others: see `features`.

        Returns:
          Logits, [B, T, V] ([B, 1, V] if `last`), and the new cache (None if none was given).
        """
        x_BTC, cache = self.features(
            tokens_BT, positions_BT=positions_BT, segments_BT=segments_BT, prefix_B=prefix_B,
            cache=cache, deterministic=deterministic,
        )  # fmt: skip
        x_BTC = x_BTC[:, -1:] if last else x_BTC
        head_VC = pin(self.head(self.variables["params"]), "tensor", None).astype(self.dtype)
        logits_BTV = logits_of(x_BTC, head_VC, decoding=cache is not None)
        if self.logit_cap:
            logits_BTV = self.logit_cap * jnp.tanh(logits_BTV / self.logit_cap)
        logits_BTV = pin(logits_BTV, ROWS, "sequence", "tensor")
        return logits_BTV.astype(self.logits_dtype), cache

    @nn.compact
    def features(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        prefix_B: jax.Array | None = None,
        cache: Cache | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, Cache | None]:
        """Returns what the output layer reads, [B, T, C] in `dtype`, and the new cache.

        Args:
          tokens_BT: int [B, T], T at most `context`, more only with a cache that has room.
          positions_BT: int [B, T], each token's place within its document; counted along the row
            (after what the cache holds) when not given.
          segments_BT: int [B, T], which document of the row a token belongs to; tokens see their
            own document alone. Not together with a cache or a prefix.
          prefix_B: int [B], how many tokens at a row's beginning see each other both ways. With a
            cache the whole prefix comes in the first call.
          cache: what earlier calls left; the new tokens stand after them. The caller counts: more
            tokens over all calls than the cache has slots overwrite the last ones.
          deterministic: False applies dropout, with the random stream "dropout".

        Raises:
          UserError: T is more than `context` or than the cache holds; segments together with a
            cache or a prefix; a mesh that does not divide the heads or the tokens.
        """
        batch, time = tokens_BT.shape
        self._check_call(time, segments_BT, prefix_B, cache)
        dropout = 0.0 if deterministic else self.dropout
        grouped = segments_BT is not None or prefix_B is not None
        form = attention.choose(
            self, time, dropout=dropout, cached=cache is not None, grouped=grouped
        )
        view = self._view(batch, time, positions_BT, segments_BT, prefix_B, cache, form)
        x_BTC = self._embed(tokens_BT, view.positions_BT)
        x_BTC = nn.Dropout(dropout, name="dropout")(x_BTC, deterministic=False)
        x_BTC = pin(x_BTC, ROWS, "sequence", None)
        x_BTC, layers = self._blocks(
            x_BTC, None if cache is None else cache.layers, view, dropout, form
        )
        if self.norm_place == "pre":  # else the last block has ended with a norm
            x_BTC = self._norm()(name="final_norm")(x_BTC)
        if self.base_width:  # here, so that a loss that makes the logits itself sees it too
            x_BTC *= jnp.asarray(self._mup().output, x_BTC.dtype)
        if cache is not None:
            cache = Cache(layers, cache.length + time, cache.start_B)
        return x_BTC, cache

    def _check_call(self, time: int, segments: Any, prefix: Any, cache: Cache | None) -> None:
        room, what = self.context, "the model's context"
        if cache is not None:
            room, what = jax.tree.leaves(cache.layers)[0].shape[-2], "the cache's room"
        if time > room:
            raise UserError(f"{time} tokens in a row; {what} is {room}.")
        if segments is not None and cache is not None:
            raise UserError("segments can't be told apart with a cache; pass one or the other.")
        if segments is not None and prefix is not None:
            raise UserError("a prefix is counted along the row; pass it or segments, not both.")
        groups, split = self.kv_heads or self.heads, parts("tensor")
        if groups % split:
            raise UserError(
                f"mesh.tensor={split} does not divide the model's {groups} heads of keys and"
                " values, which is how attention is split; choose a divisor of it."
            )
        if cache is None and time % parts("sequence"):
            raise UserError(
                f"mesh.sequence={parts('sequence')} does not divide the {time} tokens of a row;"
                " choose data.context as a multiple of it."
            )

    def _view(
        self,
        batch: int,
        time: int,
        positions_BT: jax.Array | None,
        segments_BT: jax.Array | None,
        prefix_B: jax.Array | None,
        cache: Cache | None,
        form: str,
    ) -> View:
        """Works out the masks and positions that all layers share."""
        start = jnp.int32(0) if cache is None else cache.length
        query_1T = (start + jnp.arange(time))[None]
        key_1S = query_1T
        if cache is not None:
            key_1S = jnp.arange(jax.tree.leaves(cache.layers)[0].shape[-2])[None]
        if positions_BT is None:
            padding = 0 if cache is None else cache.start_B[:, None]
            positions_BT = jnp.maximum(jnp.broadcast_to(query_1T, (batch, time)) - padding, 0)
        if prefix_B is not None and cache is not None:
            prefix_B = prefix_B + cache.start_B  # of the row's tokens; the mask counts slots
        if form != "plain":
            return View(None, positions_BT, None, start, prefix_B, segments_BT)
        mask = attention.attention_mask(
            query_1T, key_1S, window=self.window, prefix_B=prefix_B,
            start_B=None if cache is None else cache.start_B,
            segments=None if segments_BT is None else (segments_BT, segments_BT),
        )  # fmt: skip
        bias = None
        if self.positions == "alibi":
            bias = alibi(query_1T[:, :, None] - key_1S[:, None, :], self.heads)
        return View(mask, positions_BT, bias, start)

    def _embed(self, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """Makes the parameters outside of the blocks; returns embeddings, [B, T, C]."""

        def table(name: str, rows: int, std: float) -> jax.Array:
            init = nn.initializers.normal(std)
            return self.param(name, init, (rows, self.width), self.param_dtype)

        embed = table("embed", self.vocab_size, self.embed_std)
        if not self.tied:
            table("head", self.vocab_size, 0.02)
        # On a mesh the table is made whole in width first: rows are found where they are used.
        x_BTC = pin(embed, "tensor", None).astype(self.dtype)[tokens_BT]
        if self.positions == "learned":
            places = table("position_embed", self.max_positions or self.context, self.embed_std)
            x_BTC += places.astype(self.dtype)[positions_BT]
        elif self.positions == "sinusoidal":
            x_BTC += sinusoidal(positions_BT, self.width).astype(self.dtype)
        return x_BTC

    def _blocks(
        self, x_BTC: jax.Array, caches: Any, view: View, dropout: float, form: str
    ) -> tuple[Any, Any]:
        """Runs all blocks; returns [B, T, C] and their caches."""
        block: Any = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT[self.remat], prevent_cse=not self.scan)
        if self.scan:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0, TURNED: 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                length=self.layers,
            )
            return scanned(**self._parts(dropout, form), name="blocks")(x_BTC, caches, view)
        after = []
        for i in range(self.layers):
            one = block(**self._parts(dropout, form), name=f"block_{i}")
            x_BTC, cache = one(fence(x_BTC), None if caches is None else caches[i], view)
            after.append(cache)
        return x_BTC, tuple(after)

    def _norm(self) -> Any:
        center = self.norm == "layernorm"
        return partial(Norm, center, self.bias, self.dtype, self.param_dtype)

    def _parts(self, dropout: float, form: str) -> dict[str, Any]:
        """Makes the parts of one block."""
        norm, std = self._norm(), self.init_std * self._mup().std
        shared: dict[str, Any] = {
            "width": self.width,
            "dense": partial(
                Dense, use_bias=self.bias, dtype=self.dtype, param_dtype=self.param_dtype
            ),
            "dropout": dropout,
            "std": std,
            "out_std": 0.0 if self.zero_init else std / (2 * self.layers) ** 0.5,
            "parent": None,
        }
        attend = Attention(
            heads=self.heads,
            kv_heads=self.kv_heads or self.heads,
            qk_norm=norm if self.qk_norm else None,
            rotate=partial(
                rotate, base=self.rope_base, scaling=self.rope_scaling, factor=self.rope_factor
            )
            if self.positions == "rope"
            else None,
            scale=self._mup().attention,
            cap=self.attention_cap,
            form=form,
            window=self.window,
            alibi=self.positions == "alibi",
            block=self.attention_block,
            **shared,
        )
        hidden = self.mlp_ratio * self.width
        if self.mlp in GATED:
            hidden = -(-hidden * 2 // 3 // 8) * 8
        return {
            "attention_norm": norm(parent=None),
            "attention": attend,
            "mlp_norm": norm(parent=None),
            "mlp": MLP(activation=self.mlp, hidden=hidden, **shared),
            "post": self.norm_place == "post",
        }


make = Transformer

"""Sampling token after token with a cache of keys and values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError

# forward(tokens_BT, cache) -> (logits_BTV, cache)
Forward = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


def choose(
    logits_BV: jax.Array, key: jax.Array, *, temperature: jax.Array, top_k: int
) -> jax.Array:
    """Draws one token a row.

    Args:
      logits_BV: float32. key: consumed. temperature: float scalar; 0 takes the likeliest token.
      top_k: only the k likeliest tokens can be drawn (the lower ids among equals); 0 for all.

    Returns:
      int32 [B].
    """
    ids_BK = None
    if top_k:
        logits_BV, ids_BK = jax.lax.top_k(logits_BV, min(top_k, logits_BV.shape[-1]))
    drawn = jax.random.categorical(key, logits_BV / jnp.maximum(temperature, 1e-6))
    drawn = jnp.where(temperature > 0, drawn, logits_BV.argmax(-1))
    if ids_BK is not None:
        drawn = jnp.take_along_axis(ids_BK, drawn[:, None], axis=1)[:, 0]
    return drawn.astype(jnp.int32)


def decode(
    forward: Forward,
    cache: Any,
    prompt_BP: jax.Array,
    key: jax.Array,
    *,
    count: int,
    temperature: jax.Array,
    top_k: int,
) -> jax.Array:
    """Continues each prompt by `count` tokens, one program: the prompt at once, then a scan.

    Args:
      forward: the model with its weights. cache: empty, with room for P + count positions.
      prompt_BP: int32 [B, P], P at least 1.

    Returns:
      int32 [B, count].
    """
    logits, cache = forward(prompt_BP, cache)

    def step(carry: tuple[jax.Array, Any], i: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
        logits_BV, cache = carry
        token = choose(logits_BV, jax.random.fold_in(key, i), temperature=temperature, top_k=top_k)
        logits, cache = forward(token[:, None], cache)
        return (logits[:, -1], cache), token

    _, tokens = jax.lax.scan(step, (logits[:, -1], cache), jnp.arange(count))
    return tokens.swapaxes(0, 1)


def windows(prompt: int, count: int, context: int) -> list[tuple[int, int]]:
    """Plans the calls of `decode` that write `count` tokens with a model of bounded context.

    When the context is full, its newest half is read again and decoding goes on. All calls after
    the first are alike, so that they share one program; together they may write too many tokens.

    Returns:
      (tokens to read, tokens to write) for each call.

    Raises:
      UserError: an empty prompt or one longer than the context.
    """
    if not 1 <= prompt <= context:
        raise UserError(
            f"The prompt has {prompt} tokens; expected 1 to {context}, the model's context."
        )
    # The last token drawn needs no place in the context: nothing is predicted from it.
    plan = [(prompt, min(count, context - prompt + 1))] if count else []
    read = max(1, context // 2)
    while sum(write for _, write in plan) < count:
        plan.append((read, context - read + 1))
    return plan

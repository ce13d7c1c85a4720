"""Sampling as a task offers it: arrays of tokens in, arrays of tokens out."""

from typing import Any

import jax
import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.generate.decode import CHUNK, Decoding, Programs, Row
from aigc_jax.generate.request import Sampling


class Sampler:
    """The `sample` of a task that writes tokens.

    Attributes:
      programs: the network's compiled programs; `generate.model.Model` writes texts with them.
    """

    def __init__(self, network: Any) -> None:
        self.programs = Programs(network)

    def __call__(
        self,
        weights: Any,
        key: jax.Array,
        *,
        prompt: np.ndarray,
        count: int = 256,
        temperature: float = 1.0,
        top_k: int = 0,
    ) -> np.ndarray:
        """Continues prompts.

        Args:
          weights: has `params`, with the network's as "model". key: row i draws with
            fold_in(key, i), so it does not depend on the others.
          prompt: int [B, P], 1 <= P <= context. count: tokens to write; no token ends a row.
          temperature: 0 or above; 0 is greedy. top_k: 0 for all tokens.

        Returns:
          int32 [B, P + count], the prompt included.

        Raises:
          UserError: a prompt that does not fit, or a setting out of its range.
        """
        sampling = Sampling(temperature=temperature, top_k=top_k)
        sampling.check()
        if count < 0:
            raise UserError(f"count={count}: expected 0 or above.")
        tokens = np.asarray(prompt, np.int32)
        rows = [Row(row, count, sampling) for row in tokens]
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(len(rows)))
        decoding = Decoding(self.programs, weights.params["model"], rows, keys)
        written = [tokens]
        while decoding.live.any():
            chunk = decoding.advance(CHUNK)
            written.append(chunk.tokens)
        return np.concatenate(written, axis=1)[:, : tokens.shape[1] + count]

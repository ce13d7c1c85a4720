"""How an evaluator has samples drawn: truncated, or with batch statistics of their own."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError

CHUNK = 1000  # samples at once
_ROWS = 100  # in each batch that statistics are taken of, as `aigc draw --standing` has it
_STANDING = 2**31 - 1  # what the key of these is folded with, beyond any chunk


class Drawing:
    """Draws samples of a run, the same at every step.

    Both settings are Brock et al. 2019's (arXiv:1809.11096, section 3.1).

    Args:
      context: what the wiring knows; reads `sample`, `knobs` and `functions`.
      truncation: latents beyond it are drawn again; 0 for none.
      standing: of so many batches of 100 samples, batch statistics are taken anew; 0 for those of
        training.
      seed: of the samples.

    Attributes:
      protocol: what is not the default, for the record of a score.

    Raises:
      UserError: a number below 0, or a task that can't be sampled so.
    """

    def __init__(self, context: Any, truncation: float, standing: int, seed: int = 0) -> None:
        if truncation < 0 or standing < 0:
            raise UserError(
                f"evals: truncation={truncation}, standing={standing}: expected 0 (none) or more."
            )
        if truncation and "truncation" not in context.knobs:
            raise UserError(f"evals: truncation={truncation}: this task's samples have none.")
        if standing and "standing" not in context.functions:
            raise UserError(f"evals: standing={standing}: this task has no batch statistics.")
        self._context, self._standing = context, None
        self.key = jax.random.key(seed)
        self._knobs = {"truncation": truncation} if truncation else {}
        self.protocol: dict[str, float] = {**self._knobs}
        if standing:
            self.protocol["standing"] = standing
            again = partial(context.functions["standing"], batches=standing, size=_ROWS)
            self._standing = jax.jit(again)

    def weights(self, weights: Weights) -> Weights:
        """Returns the weights that are sampled with."""
        if self._standing is None:
            return weights
        return self._standing(weights, jax.random.fold_in(self.key, _STANDING))

    def once(self, weights: Weights, number: int) -> np.ndarray:
        """Draws so many samples with the key itself, float32 [number, ...]."""
        return self._sampled(self.weights(weights), self.key, number)

    def chunks(self, weights: Weights, number: int) -> Iterator[np.ndarray]:
        """Draws so many samples in chunks, so that the whole set never is in memory."""
        ready = self.weights(weights)
        for i, begin in enumerate(range(0, number, CHUNK)):
            yield self._sampled(ready, jax.random.fold_in(self.key, i), min(CHUNK, number - begin))

    def _sampled(self, weights: Weights, key: jax.Array, number: int) -> np.ndarray:
        found: np.ndarray = self._context.sample(weights, key, number=number, **self._knobs)
        return found

"""Writes samples of a language model beside the curves."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import Weights


def make(
    context: Any,
    *,
    prompt: str = "\n",
    count: int = 256,
    number: int = 2,
    temperature: float = 0.8,
    top_k: int = 0,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that writes RUN/samples/STEP.txt.

    The same key at every step, so that what changes is the model.

    Args:
      context: what the wiring knows; reads `sample`, `tokenizer`, `write_sample`.
      prompt: where each sample begins. count: tokens to write. number: samples.
      temperature, top_k: see the task's `sample`.
    """

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        ids = np.tile(context.tokenizer.encode(prompt), (number, 1))
        tokens = context.sample(
            weights, jax.random.key(0), prompt=ids, count=count,
            temperature=temperature, top_k=top_k,
        )  # fmt: skip
        texts = [context.tokenizer.decode(row) for row in tokens]
        context.write_sample(step, "\n\n---\n\n".join(texts) + "\n")
        return {}

    return evaluate

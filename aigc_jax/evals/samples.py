"""Writes samples of a language model beside the curves."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError


def make(
    context: Any,
    *,
    prompt: str = "",
    count: int = 256,
    number: int = 2,
    temperature: float = 0.8,
    top_k: int = 0,
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator that writes RUN/samples/STEP.txt.

    The same key at every step, so that what changes is the model.

    Args:
      context: what the wiring knows; reads `data`, `sample`, `tokenizer`, `write_sample`.
      prompt: where each sample begins; "" is the first token of the validation part.
      count: tokens to write. number: samples.
      temperature, top_k: see the task's `sample`.

    Raises:
      UserError: a task or data without text, no samples asked for, or a prompt with characters
        that the vocabulary lacks: before the run, not at its first evaluation.
    """
    if context.sample is None or context.tokenizer is None:
        raise UserError("evals: 'samples' writes text; this task or its data has none.")
    if number < 1:
        raise UserError(f"evals: number={number} samples: expected 1 or more.")
    if prompt:
        start = context.tokenizer.encode(prompt)
    else:
        start = context.data.splits["validation"].batch(0, (0, 1))["inputs"][0, :1]
    ids = np.tile(start, (number, 1))

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        tokens = context.sample(
            weights, jax.random.key(0), prompt=ids, count=count,
            temperature=temperature, top_k=top_k,
        )  # fmt: skip
        texts = [context.tokenizer.decode(row) for row in tokens]
        context.write_sample(step, "\n\n---\n\n".join(texts) + "\n")
        return {}

    return evaluate

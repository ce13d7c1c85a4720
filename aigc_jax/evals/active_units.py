"""How many latents of an autoencoder carry anything."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from aigc_jax.core.task import Weights
from aigc_jax.errors import UserError, nearest


def make(
    context: Any, *, split: str = "validation", threshold: float = 0.01
) -> Callable[[Weights, int], dict[str, float]]:
    """Makes an evaluator of "SPLIT/active_units": latents whose posterior mean varies over the
    split by more than `threshold`, a variance (Burda et al. 2016, arXiv:1509.00519, section 5).

    Args:
      context: what the wiring knows; reads `data`, `functions`, `place`, `add_protocol`. The task
        has the function "features" (weights, batch) -> [B, L].
      split: its name in the data. threshold: above 0.

    Raises:
      UserError: no such split, a threshold of 0 or less, or a task without such a function.
    """
    if split not in (known := list(context.data.splits)):
        raise UserError(
            f"evals: the data has no split '{split}'; it has {', '.join(known)}."
            f"{nearest(split, known)}"
        )
    if not threshold > 0:
        raise UserError(f"evals: threshold={threshold}: expected a variance above 0.")
    if "features" not in context.functions:
        raise UserError("evals: 'active_units' needs the task's function 'features'; it has none.")
    name = f"{'train_exact' if split == 'train' else split}/active_units"
    context.add_protocol(
        name, {"data": context.data.fingerprint, "split": split, "threshold": threshold}
    )
    part = context.data.splits[split]
    shard = (jax.process_index(), jax.process_count())
    features = context.functions["features"]

    @jax.jit
    def moments(weights: Weights, batch: Any) -> Any:
        mean, mask = features(weights, batch), batch["mask"][:, None]
        return mask.sum(), (mean * mask).sum(0), (mean * mean * mask).sum(0)

    def evaluate(weights: Weights, step: int) -> dict[str, float]:
        count, total, squares = 0.0, np.float64(0), np.float64(0)
        for i in range(part.batches):
            found = jax.device_get(moments(weights, context.place(part.batch(i, shard))))
            count += float(found[0])
            total, squares = total + found[1], squares + found[2]
        variance = squares / count - np.square(total / count)
        return {name: float((variance > threshold).sum())}

    return evaluate

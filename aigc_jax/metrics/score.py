"""The Inception score, from any classifier's logits."""

from typing import NamedTuple

import numpy as np

from aigc_jax.errors import UserError


class Score(NamedTuple):
    """mean, std: over the splits. 1 to the number of classes; higher is better."""

    mean: float
    std: float


def inception_score(logits_NV: np.ndarray, *, splits: int = 10, seed: int = 2020) -> Score:
    """Returns exp of the mean KL(p(class | sample) || p(class)), mean and std over splits.

    (Salimans et al. 2016, arXiv:1606.03498, section 4.) The samples are shuffled first, by the draw
    of torch-fidelity, since a generator's may come ordered by class.

    Args:
      logits_NV: one row a sample, V classes.
      splits: parts that have a p(class) of their own.

    Raises:
      UserError: fewer samples than splits.
    """
    n = len(logits_NV)
    if not 1 <= splits <= n:
        raise UserError(
            f"a score over {splits} splits of {n} samples: expected 1 to {n}; set score_splits, or"
            " take more samples."
        )
    logits = logits_NV[np.random.RandomState(seed).permutation(n)].astype(np.float64)
    logits -= logits.max(1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    found = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        p = np.exp(part)
        # A class that no sample has: 0 log 0 = 0, and not a NaN.
        log_marginal = np.log(np.maximum(p.mean(0, keepdims=True), np.finfo(np.float64).tiny))
        found.append(np.exp((p * (part - log_marginal)).sum(1).mean()))
    return Score(float(np.mean(found)), float(np.std(found)))

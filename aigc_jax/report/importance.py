"""How much each varied setting matters for the score."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_FEWEST = 8  # trials; of fewer nothing is said
_BINS = 8  # of a setting with more numbers than that
_FOREST = 200  # trials that the forest sees: its time grows with their square
FANOVA = "fANOVA by a random forest (Optuna); shares of what the forest explains"
SHARES = "share of the variance between a setting's values, each setting alone"


class Importance(NamedTuple):
    """Shares by setting, the largest first, and the method that they come from."""

    shares: list[tuple[str, float]]
    method: str


def importance(
    columns: Mapping[str, Sequence[Any]], scores: Sequence[float], log: frozenset[str] = frozenset()
) -> Importance | None:
    """Says which settings the score depends on.

    The scores enter by their ranks, so that one trial that diverged is just the worst one. With
    Optuna and scikit-learn it is fANOVA, of at most 200 trials drawn from all; else `shares`.

    Args:
      columns: setting -> its value in each trial, [n].
      scores: [n], lower being better; a value that is not finite counts as the worst.
      log: settings that belong on a logarithmic axis.

    Returns:
      None for fewer than 8 trials, or where nothing varies.
    """
    columns = {name: col for name, col in columns.items() if len(set(map(repr, col))) > 1}
    if len(scores) < _FEWEST or not columns:
        return None
    ranks = ranked(scores)
    if len(set(ranks)) == 1:
        return None
    try:
        found, method = _fanova(columns, ranks, log), FANOVA
    except ImportError:
        found, method = shares(columns, ranks), SHARES
    return Importance(sorted(found.items(), key=lambda item: -item[1]), method)


def ranked(scores: Sequence[float]) -> list[float]:
    """Returns ranks from 1, of equal scores their mean; what is not finite comes last."""
    from scipy.stats import rankdata

    return [float(r) for r in rankdata([x if math.isfinite(x) else math.inf for x in scores])]


def shares(columns: Mapping[str, Sequence[Any]], scores: Sequence[float]) -> dict[str, float]:
    """Returns for each setting the share of the scores' variance that lies between its values.

    Numbers of more than 8 values are cut into 8 bins of equal counts. The share is corrected for
    what as many random groups would explain (epsilon squared; Kelley, An Unbiased Correlation
    Ratio Measure, 1935), and is 0 at least. Interactions are in no share.
    """
    import numpy as np

    y = np.asarray(scores, np.float64)
    total = float(((y - y.mean()) ** 2).sum())
    found = {}
    for name, column in columns.items():
        label = _labels(column)
        count = int(label.max()) + 1
        inside = sum(float(((own - own.mean()) ** 2).sum()) for own in
                     (y[label == k] for k in range(count)) if own.size)  # fmt: skip
        free = len(y) - count
        share = 1 - inside / total * (len(y) - 1) / free if free > 0 and total > 0 else 0.0
        found[name] = max(0.0, share)
    return found


def _labels(column: Sequence[Any]) -> Any:
    """The group of each value, from 0."""
    import numpy as np

    if _numbers(column) and len(set(column)) > _BINS:
        x = np.asarray(column, np.float64)
        edges = np.quantile(x, np.linspace(0, 1, _BINS + 1)[1:-1])
        return np.unique(np.searchsorted(edges, x), return_inverse=True)[1]
    return np.unique([repr(value) for value in column], return_inverse=True)[1]


def _numbers(column: Sequence[Any]) -> bool:
    return all(
        isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in column
    )


def _fanova(
    columns: Mapping[str, Sequence[Any]], scores: Sequence[float], log: frozenset[str]
) -> dict[str, float]:
    import optuna
    import sklearn.ensemble  # noqa: F401  (Optuna's fANOVA asks for it only when it is called)
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if len(scores) > _FOREST:
        chosen = sorted(random.Random(0).sample(range(len(scores)), _FOREST))
        scores = [scores[i] for i in chosen]
        columns = {name: [column[i] for i in chosen] for name, column in columns.items()}
    spaces: dict[str, Any] = {}
    for name, column in columns.items():
        if _numbers(column):
            spaces[name] = FloatDistribution(min(column), max(column), log=name in log)
        else:
            spaces[name] = CategoricalDistribution(sorted({repr(value) for value in column}))
    quiet = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        for i, score in enumerate(scores):
            params = {
                name: float(column[i]) if _numbers(column) else repr(column[i])
                for name, column in columns.items()
            }
            study.add_trial(
                optuna.trial.create_trial(params=params, distributions=spaces, value=score)
            )
        judge = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=judge)
        # A setting with one value among the drawn trials is not in what Optuna returns.
        return {name: float(found.get(name, 0.0)) for name in columns}
    finally:
        optuna.logging.set_verbosity(quiet)

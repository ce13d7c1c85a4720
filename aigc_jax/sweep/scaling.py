"""A scaling law: the loss as a function of parameters and training tokens, fitted."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aigc_jax.errors import UserError
from aigc_jax.sweep.analyses import Curve, Found, best_points, of_draws

_NO_FLOOR = 1e-3  # of the lowest loss: a floor below it is none


def scaling_law(
    trials: Sequence[Any], study: Any, *, draws: int = 400, delta: float = 1e-3
) -> Found:
    """Fits L(N, D) = E + A / N^alpha + B / D^beta to the finished trials.

    N is the number of weights in the blocks' products (`block_parameters`), D the training tokens.
    Huber's loss on log L; intervals by drawing the trials anew, with replacement. Source: Hoffmann
    et al. 2022, arXiv:2203.15556, equations 2 and 3 (approach 3). Beside it the slopes without a
    floor of Kaplan et al. 2020, arXiv:2001.08361, equations 1.1 and 1.2: "alpha_N" of log L over
    log N at the largest D, "alpha_D" of log L over log D at the largest N.

    Args:
      trials: `verdicts.Trial`s of the transformer; of a tuned row, those of its best point count.
        draws: of the bootstrap. delta: Huber's.

    Returns:
      "alpha", "beta", "E", "alpha_N", "alpha_D". Too few different sizes: nothing.
    """
    rows = [
        (block_parameters(t.run.config), tokens(t.run.config), t.scores[study.metric.name])
        for t in _tuned(trials, study)
    ]
    if not rows:
        return Found({})
    n, d, loss = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    if len(set(n)) < 3 or len(set(d)) < 3:
        return Found({}, _curves(n, d, loss), "parameters", study.metric.name, True, True)
    best = fit(n, d, loss, delta)
    slopes = _slopes(n, d, loss)
    random = np.random.default_rng(0)
    again = []
    for _ in range(draws):
        chosen = random.integers(0, len(loss), len(loss))
        sub = (n[chosen], d[chosen], loss[chosen])
        if len(set(sub[0])) >= 3 and len(set(sub[1])) >= 3:
            again.append([*fit(*sub, delta, start=best, every=4), *_slopes(*sub)])
    table = np.array(again)
    names = ("E", "A", "B", "alpha", "beta", "alpha_N", "alpha_D")
    values = dict(zip(names, [*best, *slopes], strict=True))
    quantities = {}
    for name in ("alpha", "beta", "E", "alpha_N", "alpha_D"):
        column = table[:, names.index(name)]
        # A draw may have one size alone at the largest budget, and then no slope there.
        column = column[np.isfinite(column)]
        if 2 * len(column) > draws and math.isfinite(values[name]):
            unit = study.metric.unit if name == "E" else ""
            if name == "E" and np.percentile(column, 2.5) < _NO_FLOOR * loss.min():
                unit += ", not told from none"
            quantities[name] = of_draws(values[name], column, unit.lstrip(", "))
    return Found(quantities, _curves(n, d, loss), "parameters", study.metric.name, True, True)


def _tuned(trials: Sequence[Any], study: Any) -> list[Any]:
    """The finished trials of each row's best point."""
    best = best_points(trials, study)
    return [t for t in trials if t.state == "finished" and t.point == best[t.row]]


def fit(
    n: Any,
    d: Any,
    loss: Any,
    delta: float = 1e-3,
    start: Sequence[float] | None = None,
    every: int = 1,
) -> tuple[float, float, float, float, float]:
    """Returns (E, A, B, alpha, beta) of the law that fits best.

    Args:
      n, d, loss: [trials]. delta: of Huber's loss on log L. start: where to begin too; there are
        several places, of which the best end counts, since the fit has hollows: with the floor E
        and without. every: takes each so-many-th of the 12 places.
    """
    from scipy.optimize import least_squares

    log_n, log_d, log_l = np.log(n), np.log(d), np.log(loss)
    # Around their means, or A and alpha (B and beta) would be nearly one parameter.
    mid_n, mid_d = log_n.mean(), log_d.mean()

    def gap(theta: Any) -> Any:
        e, a, b, alpha, beta = theta
        parts = [np.full_like(log_n, e), a - alpha * (log_n - mid_n), b - beta * (log_d - mid_d)]
        return np.logaddexp.reduce(np.stack(parts), axis=0) - log_l

    low = math.log(loss.min())
    starts = [
        [low + math.log(share), *2 * [low + math.log((1 - share) / 2)], alpha, beta]
        for alpha in (0.2, 0.6)
        for beta in (0.2, 0.6)
        for share in (0.2, 0.5, 0.8)
    ][::every]
    if start is not None:
        e, a, b, alpha, beta = start
        starts.append(
            [math.log(e), math.log(a) - alpha * mid_n, math.log(b) - beta * mid_d, alpha, beta]
        )
    bounds = ([-20, -20, -20, 0, 0], [10, 10, 10, 5, 5])
    ends = [
        least_squares(gap, first, bounds=bounds, loss="huber", f_scale=delta, x_scale=0.1)
        for first in (np.clip(s, np.array(bounds[0]) + 1e-6, bounds[1]) for s in starts)
    ]
    e, a, b, alpha, beta = min(ends, key=lambda end: end.cost).x
    scale_a, scale_b = math.exp(a + alpha * mid_n), math.exp(b + beta * mid_d)
    return math.exp(e), scale_a, scale_b, float(alpha), float(beta)


def _slopes(n: Any, d: Any, loss: Any) -> tuple[float, float]:
    """-d log L / d log N at the largest D, -d log L / d log D at the largest N; nan if unknown."""

    def slope(x: Any, chosen: Any) -> float:
        if len(set(x[chosen])) < 2:
            return math.nan
        return -float(np.polyfit(np.log(x[chosen]), np.log(loss[chosen]), 1)[0])

    return slope(n, d == d.max()), slope(d, n == n.max())


def _curves(n: Any, d: Any, loss: Any) -> list[Curve]:
    """The mean loss over parameters, a curve for each number of tokens."""
    curves = []
    for budget in sorted(set(d)):
        sizes = sorted(set(n[d == budget]))
        columns = [loss[(d == budget) & (n == size)] for size in sizes]
        curves.append(
            Curve(f"{budget:,.0f} tokens", sizes, [float(c.mean()) for c in columns],
                  [float(c.min()) for c in columns], [float(c.max()) for c in columns])
        )  # fmt: skip
    return curves


def block_parameters(config: Mapping[str, Any]) -> int:
    """Returns the weights of the products in a transformer's blocks, embeddings left out.

    4 C^2 of the attention and 2 r C^2 of the MLP in each layer (Kaplan et al. 2020, table 1).

    Raises:
      UserError: the config is of no such transformer, or of one with fewer keys and values.
    """
    model = config["task"].get("model", {"name": ""})
    if model["name"] != "transformer" or model["kv_heads"] not in (0, model["heads"]):
        raise UserError("the analysis 'scaling_law' counts the weights of plain transformers only.")
    return int(model["layers"] * (4 + 2 * model["mlp_ratio"]) * model["width"] ** 2)


def tokens(config: Mapping[str, Any]) -> int:
    """Returns how many tokens a run trains on, repetitions included."""
    return int(config["run"]["steps"] * config["run"]["batch_size"] * config["data"]["context"])

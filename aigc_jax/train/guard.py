"""Bad numbers: seen inside the compiled step, answered by the loop.

The guard wraps a task's step. It keeps a running mean and variance of the loss in
`State.vars["guard"]`, marks a step as bad when one of its metrics (the loss, the gradient norm, the
size of an update) is not finite or its loss lies far above that mean, and under the policy "skip"
leaves the state as it was but for the step count. Under "stop" and "rollback" the loop reads the
mark and acts.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from aigc_jax.core.task import Batch, Metrics, State, single
from aigc_jax.errors import UserError

POLICIES = ("stop", "skip", "rollback")
_MEMORY = 0.99  # of the running mean and variance
_LEAST = 1e-5  # least standard deviation, as a share of the mean: rounding is no spike
_WARM = 100.0  # good steps before a spike can be told

Step = Callable[[State, Batch], tuple[State, Metrics]]
Init = Callable[..., State]


class BadNumbers(UserError):
    """The run met a NaN or a spike and its policy was to stop, or it met too many."""

    exit_code = 3


def stopping(policy: str, what: str, number: int, found: str, folder: Path) -> BadNumbers:
    """Returns the error that ends a run, with what to do next.

    Args:
      policy: the run's, one of `POLICIES`. what: the step and its numbers.
      number: bad steps in all. found: the first tensor that is not finite, "" where all are.
      folder: where the batch is.
    """
    others = [name for name in POLICIES[1:] if name != policy]
    return BadNumbers(
        f"bad numbers at {what} ({number} in all);"
        f" first not finite: {found or 'nothing, so the loss jumped'}. The batch is in"
        f" {folder}. Lower hyper.lr, set hyper.clip_norm, or go on with"
        f" --config.run.on_bad={others[0]} --allow-change=run.on_bad"
    )


class Rollback(Exception):
    """Unwinds to the loop, which goes on from the last checkpoint behind the bad batch."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(what)
        self.step, self.what = step, what


def guarded_init(init: Init) -> Init:
    """Adds the guard's numbers to a new state."""

    def wrapped(*args: jax.Array) -> State:
        state = init(*args)
        zeros = {name: jnp.zeros((), jnp.float32) for name in ("mean", "variance", "count")}
        return state.replace(vars={**state.vars, "guard": zeros})

    return wrapped


def guarded_step(step: Step, *, policy: str, spike: float) -> Step:
    """Adds the metric "bad" (0 or 1) to a step and, under "skip", undoes the bad ones.

    Args:
      step: a task's step.
      policy: one of `POLICIES`.
      spike: a loss this many standard deviations above its running mean is bad; 0 never.
    """

    def wrapped(state: State, batch: Batch) -> tuple[State, Metrics]:
        guard = state.vars["guard"]
        new, metrics = step(state, batch)
        total, weight = metrics["loss"]
        loss = total / jnp.maximum(weight, 1e-30)
        good = jnp.all(jnp.stack([jnp.isfinite(pair[0]) for pair in metrics.values()]))
        if spike > 0:
            deviation = jnp.sqrt(guard["variance"] + (_LEAST * guard["mean"]) ** 2)
            good &= (guard["count"] < _WARM) | (loss < guard["mean"] + spike * deviation)
        # Deviations are squared, not losses: the difference of two squares has no digits left once
        # the loss varies by a thousandth. At first every step counts the same.
        share = jnp.maximum(1.0 - _MEMORY, 1.0 / (guard["count"] + 1.0))
        gap = loss - guard["mean"]
        fresh = {
            "mean": guard["mean"] + share * gap,
            "variance": (1.0 - share) * (guard["variance"] + share * gap**2),
            "count": guard["count"] + 1.0,
        }
        if policy == "skip":
            step_number = new.step
            new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
            new = new.replace(step=step_number)
        guard = jax.tree.map(lambda a, b: jnp.where(good, a, b), fresh, guard)
        new = new.replace(vars={**new.vars, "guard": guard})
        return new, {**metrics, "bad": single(1.0 - good.astype(jnp.float32))}

    return wrapped

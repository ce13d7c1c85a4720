"""Bad numbers: seen inside the compiled step, answered by the loop.

The guard wraps a task's step. It keeps a running mean and variance of the loss in
`State.vars["guard"]`, marks a step as bad when its loss or gradient norm is not finite or its loss
lies far above that mean, and under the policy "skip" leaves the state as it was but for the step
count. Under "stop" and "rollback" the loop reads the mark and acts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from aigc_jax.core.task import Batch, Metrics, State, single

POLICIES = ("stop", "skip", "rollback")
_MEMORY = 0.99  # of the running mean and variance
_WARM = 100.0  # good steps before a spike can be told

Step = Callable[[State, Batch], tuple[State, Metrics]]
Init = Callable[..., State]


def guarded_init(init: Init) -> Init:
    """Adds the guard's numbers to a new state."""

    def wrapped(*args: jax.Array) -> State:
        state = init(*args)
        zeros = {name: jnp.zeros((), jnp.float32) for name in ("mean", "square", "count")}
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
        good = jnp.isfinite(loss)
        if "grad_norm" in metrics:
            good &= jnp.isfinite(metrics["grad_norm"][0])
        if spike > 0:
            # The running sums start at zero; dividing by the weight so far removes that bias.
            seen = 1.0 - _MEMORY ** jnp.maximum(guard["count"], 1.0)
            mean = guard["mean"] / seen
            variance = jnp.maximum(guard["square"] / seen - mean**2, 1e-12)
            good &= (guard["count"] < _WARM) | (loss < mean + spike * jnp.sqrt(variance))
        kept = jnp.where(good, loss, 0.0)
        fresh = {
            "mean": _MEMORY * guard["mean"] + (1.0 - _MEMORY) * kept,
            "square": _MEMORY * guard["square"] + (1.0 - _MEMORY) * kept**2,
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

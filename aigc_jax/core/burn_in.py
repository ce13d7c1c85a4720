"""Numbers of `hyper` that begin elsewhere: along half a cosine to where they stay.

The learning rate has schedules of its own (`core.optim.learning_rate`); this is for any number, as
R3GAN moves its penalties, beta_2, averaging and augmentation together (Huang et al. 2024,
arXiv:2501.05441, appendix). Both ends stand in `hyper`, so a sweep may change either and compiles
nothing; the state keeps what was set, and a step reads what it has become.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from aigc_jax.core.task import Batch, Metrics, State, Task, single
from aigc_jax.errors import UserError

STEPS = "burn_in"  # in `hyper`: how many steps it takes
FIRST = "_first"  # added to a number's name: where it begins


def moved(
    hyper: Mapping[str, jax.Array], names: tuple[str, ...], step: jax.Array
) -> dict[str, jax.Array]:
    """Returns the values of some numbers at a step, float32 [] each.

    A number called "..._decay" moves by its half-life in steps, -1 / log2(decay), since that is
    what a person means by half-way: a decay of 0.5 is no half of 0.9999.

    Args:
      hyper: reads each name, "NAME_first" and "burn_in" (steps; 0 for none: the last values).
      names: which move. step: int32 [], from 0.
    """
    s, steps = step.astype(jnp.float32), hyper[STEPS]
    progress = jnp.where(steps > 0, jnp.clip(s / jnp.maximum(steps, 1e-9), 0.0, 1.0), 1.0)
    share = 0.5 * (1.0 - jnp.cos(jnp.pi * progress))
    found = {}
    for name in names:
        first, last = hyper[name + FIRST], hyper[name]
        if name.endswith("_decay"):
            lives = [-1.0 / jnp.log2(x) for x in (first, last)]
            between = jnp.exp2(-1.0 / (lives[0] + share * (lives[1] - lives[0])))
        else:
            between = first + share * (last - first)
        # The ends are exact, also where a half-life is 0 or has no end.
        value = jnp.where(progress >= 1.0, last, jnp.where(progress <= 0.0, first, between))
        found[name] = jnp.asarray(value, jnp.float32)
    return found


def burning_in(task: Task, names: tuple[str, ...], hyper: Mapping[str, float]) -> Task:
    """Returns a task whose step reads moving numbers; each becomes a metric, "hyper/NAME".

    Args:
      task: any. names: what moves; none leaves the task as it is.
      hyper: the config's, which has to have the beginnings.

    Raises:
      UserError: a number has no beginning.
    """
    if not names:
        return task
    for needed in (STEPS, *(name + FIRST for name in names)):
        if needed not in hyper:
            raise UserError(
                f"optim.burn_in={names!r} needs hyper.{needed}, and the config lacks it; set both"
                " in the recipe, where one brings the other."
            )

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        now = moved(state.hyper, names, state.step)
        new, metrics = task.step(state.replace(hyper={**state.hyper, **now}), batch)
        shown = {f"hyper/{name}": single(value) for name, value in now.items()}
        return new.replace(hyper=state.hyper), {**metrics, **shown}

    return task._replace(step=step)

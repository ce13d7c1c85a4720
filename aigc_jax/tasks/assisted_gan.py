"""A GAN helped by auxiliary networks, one side for the discriminator, one for the generator."""

from typing import Any

from aigc_jax.core.optim import Optimizer
from aigc_jax.core.task import Batch, Metrics, State, Task, single
from aigc_jax.tasks.adversarial import Match
from aigc_jax.tasks.auxiliary import lambda_at, make_helpers
from aigc_jax.tasks.gan import make_players
from aigc_jax.tasks.players import Rules

HYPER = {
    "lambda_1": 1.0,  # weight of what helps the discriminator
    "lambda_2": 1.0,  # weight of what helps the generator
    "lambda_warmup": 0.0,  # steps in which both rise from 0
    "lambda_end": 0.0,  # the step at which they have fallen to 0 again; 0: never
    "discriminator_lr": 1.0,
    "r1": 1.0,
    "r2": 1.0,
    "gradient_penalty": 10.0,
    "gradient_penalty_0": 10.0,
    "dragan": 10.0,
    "lecam": 0.3,
    "ada_target": 0.6,
    "ada_images": 500000.0,
    "augment_p": 0.2,
    "augment_colour": 1.0,
    "augment_cutout": 0.0,
}


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
    auxiliaries: tuple[str, ...] = ("encoder",),
    codes: int = 2,
    loss: str = "non_saturating",
    penalties: tuple[str, ...] = (),
    penalty_every: int = 1,
    critic_steps: int = 1,
    packing: int = 1,
    unroll: int = 0,
    augment: str = "none",
    latent: str = "normal",
    own_rows: bool = False,
) -> Task:
    """Makes the task: V(D, G) + lambda_1 L(D, A_D) + lambda_2 L(G, A_G).

    Down by G and A_G, up by D and A_D. Everything else is `gan.make`'s; a metric is added for each
    weight.

    Args:
      spec, optimizer, model: as in `gan.make`.
      auxiliaries: any of "rotation" (beside D), "info", "encoder", "feature_matching" (beside G)
        and "frozen_features" (a second discriminator); see `tasks.auxiliary`.
      codes: how many of the latents "info" finds again.
      loss, penalties, penalty_every, critic_steps, packing, unroll, augment, latent, own_rows: as
        in `gan.make`.

    Raises:
      UserError: as `gan.make`, and a helper that doesn't exist or can't help here.
    """
    rules = Rules(
        loss, penalties, penalty_every, critic_steps, packing, unroll, augment, latent, own_rows
    )
    players = make_players(spec, model, rules)
    match = Match(players, optimizer, make_helpers(auxiliaries, players, codes))
    task = match.task()

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        # The weights of this step enter as the others do; the state keeps what was set.
        weights = {n: lambda_at(state.hyper, n, state.step) for n in ("lambda_1", "lambda_2")}
        new, metrics = task.step(state.replace(hyper={**state.hyper, **weights}), batch)
        shown = {name: single(value) for name, value in weights.items()}
        return new.replace(hyper=state.hyper), {**metrics, **shown}

    return task._replace(step=step)

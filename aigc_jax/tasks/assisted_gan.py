"""A GAN helped by auxiliary networks, one side for the discriminator, one for the generator."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from aigc_jax.core import schema
from aigc_jax.core.config import maker
from aigc_jax.core.optim import Optimizer
from aigc_jax.core.task import Batch, Metrics, State, Task, Weights, single
from aigc_jax.errors import UserError
from aigc_jax.tasks.adversarial import Match
from aigc_jax.tasks.auxiliary import Auxiliary, lambda_at, make_helpers
from aigc_jax.tasks.gan import make_players
from aigc_jax.tasks.players import Players, Rules

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
    categories: tuple[int, ...] = (),
    frozen: str = "",
    frozen_args: tuple = (),
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

    With "encoder" or "info" there is the function "codes" (weights, batch) -> float32 [B, K]: the
    latents that the encoder finds, else what Q finds, means and then each category's
    probabilities. With "encoder" also "reconstruct" (weights, batch, key) -> G(E(x)). Helpers are
    not averaged, the generator is where `optim.ema` says so.

    Args:
      spec, optimizer, model: as in `gan.make`.
      auxiliaries: any of "rotation" (beside D), "info", "encoder", "feature_matching" (beside G)
        and "frozen_features" (a second discriminator); see `tasks.auxiliary`.
      codes: how many of the continuous latents "info" finds again.
      categories: sizes of categorical latents; they are the last of `model.latents`, one-hot, and
        "info" finds them all again.
      frozen: what "frozen_features" looks through: a module of `models/` that a classifier can be
        made of, such as "cnn"; "" for the discriminator's layers. Its weights are random, or a
        run's: init_from={"vars/frozen_features": "runs/mnist-classifier/params/model"}.
      frozen_args: settings of that module, (name, value) each, as that run has them.
      loss, penalties, penalty_every, critic_steps, packing, unroll, augment, latent, own_rows: as
        in `gan.make`.

    Raises:
      UserError: as `gan.make`, a helper that doesn't exist or can't help here, and a frozen
        network that has no features of such examples.
    """
    rules = Rules(
        loss, penalties, penalty_every, critic_steps, packing, unroll, augment, latent, own_rows,
        categories,
    )  # fmt: skip
    players = make_players(spec, model, rules)
    if (frozen or frozen_args) and "frozen_features" not in auxiliaries:
        raise UserError(
            "task.frozen is what 'frozen_features' looks through; add that to task.auxiliaries."
        )
    network = _classifying(spec.facts, frozen, frozen_args) if frozen else None
    helpers = make_helpers(auxiliaries, players, codes, network)
    task = Match(players, optimizer, helpers).task()

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        # The weights of this step enter as the others do; the state keeps what was set.
        weights = {n: lambda_at(state.hyper, n, state.step) for n in ("lambda_1", "lambda_2")}
        new, metrics = task.step(state.replace(hyper={**state.hyper, **weights}), batch)
        shown = {name: single(value) for name, value in weights.items()}
        return new.replace(hyper=state.hyper), {**metrics, **shown}

    return task._replace(step=step, functions={**task.functions, **_inverses(players, helpers)})


def _classifying(facts: Any, name: str, args: tuple) -> nn.Module:
    """Builds a network that classifies examples, and so has features of them."""
    knobs = [key for key, knob in schema.knobs("models", name).items() if not knob.required]
    for pair in args:
        if not isinstance(pair, tuple) or len(pair) != 2 or pair[0] not in knobs:
            raise UserError(
                f"task.frozen_args: expected ('setting', value) pairs of '{name}', got {pair!r}."
                f" There are: {', '.join(knobs)}."
            )
    network: Any = None
    if set(schema.required("models", name)) == {"classes", "shape"}:
        numbers = {"classes": facts["classes"], "shape": tuple(facts["shape"])}
        network = maker("models", name)(**numbers, **dict(args))
    if not hasattr(network, "features"):
        raise UserError(f"task.frozen='{name}' is no classifier of images; 'cnn' is one.")
    network.check()
    return network  # type: ignore[no-any-return]


def _inverses(
    players: Players, helpers: tuple[Auxiliary, ...]
) -> dict[str, Callable[..., jax.Array]]:
    """What leads from examples to latents, and back; see `make`."""
    finds = {helper.name: helper.codes for helper in helpers if helper.codes is not None}
    name = "encoder" if "encoder" in finds else "info"
    if name not in finds:
        return {}

    def codes_of(weights: Weights, batch: Batch) -> jax.Array:
        return finds[name](weights.params[name], batch["x"])

    def reconstruct(weights: Weights, batch: Batch, key: jax.Array) -> jax.Array:
        return players.decode(weights, codes_of(weights, batch), batch.get("label"))

    return {"codes": codes_of} | ({"reconstruct": reconstruct} if name == "encoder" else {})

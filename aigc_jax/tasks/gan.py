"""Generative adversarial networks: a generator and a discriminator, two optimizers, one step."""

from typing import Any

from aigc_jax.core.config import maker
from aigc_jax.core.optim import Optimizer
from aigc_jax.core.task import Task
from aigc_jax.errors import UserError
from aigc_jax.tasks.adversarial import Match
from aigc_jax.tasks.players import Players, Rules

HYPER = {
    "discriminator_lr": 1.0,  # its learning rate, as a multiple of lr
    "r1": 1.0,
    "r2": 1.0,
    "gradient_penalty": 10.0,
    "gradient_penalty_0": 10.0,
    "dragan": 10.0,
    "lecam": 0.3,
    "ada_target": 0.6,  # the mean sign of D(real) that ADA holds
    "ada_images": 500000.0,  # real images in which its strength can go from 0 to 1
    "augment_p": 0.2,  # the chance of each change where task.augment is "fixed"
    "augment_colour": 1.0,  # of each change of colour, as a multiple of that of the others
    "augment_cutout": 0.0,  # of cutout, likewise
}


def make(
    spec: Any,
    optimizer: Optimizer,
    model: dict[str, Any],
    *,
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
    """Makes the task.

    Batches hold `x` float32 [B, ...] and, for a model with labels, `label` int32 [B]; evaluations
    also need `index` and `mask`.

    Metrics of a step: "loss" is what the discriminator minimizes, penalties included,
    "discriminator_loss" and "generator_loss" the bare game; "real_logit" and "made_logit" its mean
    answers, "real_sign" the mean sign on real examples, which nears 1 when it overfits (Karras et
    al. 2020, arXiv:2006.06676); "gradient_ratio" the generator's gradient norm over its own. Of an
    evaluation: "loss" is the cross-entropy of real against made, whatever the game, in nats, and
    "accuracy" the share it tells right: ln 4 and 0.5 when it can't.

    With `optim.ema` the generator is averaged, its batch statistics too, and the average is judged.

    Args:
      spec: the data's spec; reads the facts shape and classes, and the batch's size.
      optimizer: from `core.optim.make`; `hyper.discriminator_lr` gives two time scales (Heusel et
        al. 2017, arXiv:1706.08500).
      model: `name` of a module in `models/` whose `make` gives a `Pair`, and its settings.
      loss: a game of `losses.adversarial`: saturating, non_saturating, hinge, least_squares,
        wasserstein, relativistic_average, relativistic_pairing.
      penalties: any of r1, r2, gradient_penalty, gradient_penalty_0, dragan, lecam; their weights
        are in `hyper`.
      penalty_every: takes them at every so many steps of the discriminator, that many times as
        strong (lazy regularization: Karras et al. 2020, arXiv:1912.04958).
      critic_steps: the discriminator's steps for one of the generator; they share the batch.
      packing: how many examples are judged together (PacGAN).
      unroll: how many answers of the discriminator the generator looks ahead. With Adam, give
        `optim.args=(("eps_root", 1e-12),)`: the gradient passes through its root.
      augment: "none", "diffaugment", "ada" (its strength follows the overfitting and is in the
        state) or "fixed" (the same changes, as often as `hyper.augment_p` says); see
        `models.augment`.
      latent: "normal", or "uniform" in [-1, 1).
      own_rows: the generator's step has rows of its own, as many as one of the discriminator's;
        otherwise it plays against the rows that the discriminator saw last.

    Raises:
      UserError: a name that doesn't exist, or numbers that don't fit each other.
    """
    rules = Rules(
        loss, penalties, penalty_every, critic_steps, packing, unroll, augment, latent, own_rows
    )
    players = make_players(spec, model, rules)
    return Match(players, optimizer).task()


def make_players(spec: Any, model: dict[str, Any], rules: Rules) -> Players:
    """Builds the networks that a config names and checks the rules against them and the data."""
    shape = tuple(spec.facts["shape"])
    settings = {key: value for key, value in model.items() if key != "name"}
    pair = maker("models", model["name"])(shape=shape, classes=spec.facts["classes"], **settings)
    rules.check(shape, spec.arrays["x"].shape[0], pair.labels)
    if sum(rules.categories) > pair.latents:
        raise UserError(
            f"task.categories={rules.categories} take {sum(rules.categories)} latents; the model"
            f" has task.model.latents={pair.latents}."
        )
    return Players(pair, shape, rules, spec.facts["classes"])

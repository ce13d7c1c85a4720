"""Networks that help a GAN: what each adds to whose loss.

The game is V(D, G) + lambda_1 L(D, A_D) + lambda_2 L(G, A_G), played down by G and A_G, up by D and
A_D. Written as losses, which every team minimizes: what stands beside the discriminator is scaled
by lambda_1, what stands beside the generator by lambda_2.

Letters: B examples, Z latent numbers, F features, K numbers that an encoder gives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.core.optim import Hyper
from aigc_jax.errors import UserError, nearest
from aigc_jax.losses.adversarial import (
    GAMES,
    by_category,
    class_cross_entropy,
    code_nll,
    split_answer,
)
from aigc_jax.models.conditioning import Judged
from aigc_jax.tasks.players import Players

Tree = Any
NAMES = ("rotation", "info", "encoder", "feature_matching", "frozen_features")


class Scene(NamedTuple):
    """What a helper can look at while its team's loss is made.

    Attributes:
      x, made: real and made examples, [B, ...], not augmented. z: the latents of the made ones.
      params: of all networks, those of the learning team traced. vars: of the state.
      key: for its draws. judge: examples -> the discriminator's answer.
    """

    x: jax.Array
    made: jax.Array
    z: jax.Array
    params: dict[str, Tree]
    vars: dict[str, Tree]
    key: jax.Array
    judge: Callable[[jax.Array], Judged]


class Auxiliary(NamedTuple):
    """A helper.

    Attributes:
      name: of its parameters in `State.params`, and of its frozen ones in `State.vars`.
      side: "generator" or "discriminator": whose optimizer trains it.
      init: (key, examples) -> parameters; None where it has none.
      critic: Scene -> [B] or [], added to the discriminator's loss times lambda_1; or None.
      generator: the same for the generator's loss, times `weight`; or None.
      weight: "lambda_2", or "lambda_1" where both terms are one game.
      frozen: (key, examples) -> parameters that nothing trains; None where it has none.
      codes: (its parameters, examples) -> what it finds of their latents, [B, K]; or None.
    """

    name: str
    side: str
    init: Callable[[jax.Array, jax.Array], Tree] | None
    critic: Callable[[Scene], jax.Array] | None = None
    generator: Callable[[Scene], jax.Array] | None = None
    weight: str = "lambda_2"
    frozen: Callable[[jax.Array, jax.Array], Tree] | None = None
    codes: Callable[[Tree, jax.Array], jax.Array] | None = None


def make_helpers(
    names: tuple[str, ...], players: Players, codes: int, frozen: nn.Module | None = None
) -> tuple[Auxiliary, ...]:
    """Returns helpers by name.

    Args:
      names: of NAMES, each once. players: whom they help.
      codes: how many of the continuous latents "info" tells from an example.
      frozen: what "frozen_features" looks through; it has a method `features`. None: the
        discriminator's layers.

    Raises:
      UserError: a name that doesn't exist or stands twice, or a helper that these players can't
        have.
    """
    for i, name in enumerate(names):
        if name not in NAMES or name in names[:i]:
            why = "stands twice" if name in NAMES else f"doesn't exist.{nearest(name, NAMES)}"
            raise UserError(
                f"task.auxiliaries: {name!r} {why.rstrip('.')}. There are: {', '.join(NAMES)}."
            )
    makers: dict[str, Callable[[], Auxiliary]] = {
        "rotation": lambda: _rotation(players),
        "info": lambda: _info(players, codes),
        "encoder": lambda: _encoder(players),
        "feature_matching": _feature_matching,
        "frozen_features": lambda: _frozen_features(players, frozen),
    }
    return tuple(makers[name]() for name in names)


def _rotation(players: Players) -> Auxiliary:
    """The discriminator also tells by how many right angles a real picture was turned.

    SSGAN (Chen et al. 2019, arXiv:1811.11212), its term for the discriminator, eq. 4.
    """
    shape = players.shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise UserError(
            "task.auxiliaries: 'rotation' turns square pictures by right angles; this data has the"
            f" shape {shape}."
        )
    head = nn.Dense(4, name="rotation")

    def init(key: jax.Array, x: jax.Array) -> Tree:
        return head.init(key, jnp.zeros((1, _width(players))))["params"]

    def loss(scene: Scene) -> jax.Array:
        size = scene.x.shape[0]
        # A quarter of the batch by each angle: as many examples as without.
        turns = jnp.arange(size) % 4
        turned = jnp.select(
            [(turns == k)[:, None, None, None] for k in range(4)],
            [jnp.rot90(scene.x, k, axes=(1, 2)) for k in range(4)],
        )
        features = scene.judge(turned).features
        logits = head.apply({"params": scene.params["rotation"]}, features)
        return class_cross_entropy(jnp.asarray(logits), turns[:: players.rules.packing])

    if players.rules.packing > 1:
        raise UserError("task.auxiliaries: 'rotation' looks at single pictures; set packing to 1.")
    return Auxiliary("rotation", "discriminator", init, critic=loss)


def _info(players: Players, codes: int) -> Auxiliary:
    """A network tells the first latents from the example made of them, as a normal distribution,
    and each category by its probabilities.

    InfoGAN (Chen et al. 2016, arXiv:1606.03657), eq. 5; Q is a network of its own with the
    discriminator's layers. What it finds: the means, then the probabilities.
    """
    categories, first = players.rules.categories, players.continuous
    if not (0 if categories else 1) <= codes <= first:
        raise UserError(
            f"task.codes={codes}: expected {0 if categories else 1} to {first}, the number of"
            " latents that are no categories."
        )
    network = _encoding(players, 2 * codes + sum(categories))

    def loss(scene: Scene) -> jax.Array:
        answer = network.apply(scene.params["info"], scene.made)
        return code_nll(answer, scene.z[:, :codes], scene.z[:, first:], categories)

    def found(params: Tree, x: jax.Array) -> jax.Array:
        mean, _, logits = split_answer(network.apply(params, x), codes)
        each = [jax.nn.softmax(part) for part in by_category(logits, categories)]
        return jnp.concatenate([mean, *each], axis=-1)

    return Auxiliary("info", "generator", network.init, generator=loss, codes=found)


def _encoder(players: Players) -> Auxiliary:
    """A network inverts the generator: squared error of the latents it finds.

    The reconstruction in latent space of VEEGAN (Srivastava et al. 2017, arXiv:1705.07761), eq. 1,
    without its discriminator of pairs.
    """
    network = _encoding(players, players.pair.latents)

    def loss(scene: Scene) -> jax.Array:
        return ((network.apply(scene.params["encoder"], scene.made) - scene.z) ** 2).mean(-1)

    return Auxiliary("encoder", "generator", network.init, generator=loss, codes=network.apply)


def _feature_matching() -> Auxiliary:
    """The made examples' mean features follow the real ones' (Salimans et al. 2016,
    arXiv:1606.03498, section 3.1). No parameters of its own: A_G is the discriminator's body.
    """

    def loss(scene: Scene) -> jax.Array:
        real = jax.lax.stop_gradient(scene.judge(scene.x).features).mean(0)
        return ((real - scene.judge(scene.made).features.mean(0)) ** 2).sum()

    return Auxiliary("feature_matching", "generator", None, generator=loss)


def _frozen_features(players: Players, given: nn.Module | None) -> Auxiliary:
    """A second discriminator looks through frozen features.

    Sauer et al. 2021 (arXiv:2111.01007) in small: one frozen network, a head of two layers. The
    frozen one has random weights, or those of another run: init_from={"vars/frozen_features":
    "RUN/params/discriminator"}, or "RUN/params/model" of a classifier.
    """
    network = _seeing(players, given)
    head = nn.Sequential(
        [nn.Dense(128, name="hidden"), lambda x: nn.leaky_relu(x, 0.2), nn.Dense(1, name="logits")]
    )
    game = GAMES["hinge"]

    def logits(scene: Scene, x: jax.Array) -> jax.Array:
        params = {"params": scene.params["frozen_features"]}
        seen = network.apply(scene.vars["frozen_features"], x)
        return jnp.asarray(head.apply(params, seen))[:, 0]

    def init(key: jax.Array, x: jax.Array) -> Tree:
        seen = jax.eval_shape(lambda: network.apply(network.init(key, x), x))
        return head.init(key, jnp.zeros((1, seen.shape[1])))["params"]

    return Auxiliary(
        "frozen_features", "discriminator", init,
        critic=lambda s: game.discriminator(logits(s, s.x), logits(s, s.made)),
        generator=lambda s: game.generator(jnp.zeros(()), logits(s, s.made)),
        weight="lambda_1", frozen=network.init,
    )  # fmt: skip


class _Encoding(NamedTuple):
    """A network of (key, examples) -> parameters, and (parameters, examples) -> [B, K]."""

    init: Callable[[jax.Array, jax.Array], Tree]
    apply: Callable[[Tree, jax.Array], jax.Array]


def _seeing(players: Players, given: nn.Module | None) -> _Encoding:
    """Returns what examples look like to the given network, or to the discriminator's layers."""
    if given is not None:
        return _Encoding(
            lambda key, x: given.init(key, x)["params"],
            lambda params, x: given.apply({"params": params}, x, method="features"),  # type: ignore[return-value,arg-type]
        )
    body = _plain(players.pair.discriminator, labels="none")
    return _Encoding(
        lambda key, x: body.init(key, x, _no_labels(x), train=False)["params"],
        lambda params, x: body.apply({"params": params}, x, _no_labels(x), train=False).features,  # type: ignore[union-attr]
    )


def _no_labels(x: jax.Array) -> jax.Array:
    return jnp.zeros((x.shape[0],), jnp.int32)


def _encoding(players: Players, outputs: int) -> _Encoding:
    """Returns an encoder with the discriminator's layers; it sees single examples, no labels."""
    body = _plain(players.pair.discriminator, outputs=outputs)

    def init(key: jax.Array, x: jax.Array) -> Tree:
        return body.init(key, x, _no_labels(x), train=False)["params"]

    def apply(params: Tree, x: jax.Array) -> jax.Array:
        return body.apply({"params": params}, x, _no_labels(x), train=False).logits  # type: ignore[union-attr]

    return _Encoding(init, apply)


def _plain(body: nn.Module, **changes: Any) -> nn.Module:
    """Returns a discriminator's layers without what looks at the batch or bounds the slope."""
    changes |= {"spread": False, "spectral_norm": False, "norm": False}
    return body.clone(**{name: value for name, value in changes.items() if hasattr(body, name)})


def _width(players: Players) -> int:
    """The number of the discriminator's features."""
    x = jnp.zeros((2, *players.shape[:-1], players.shape[-1] * players.rules.packing))
    shapes = jax.eval_shape(
        lambda: players.pair.discriminator.init_with_output(
            jax.random.key(0), x, jnp.zeros((2,), jnp.int32), train=False
        )[0]
    )
    return int(shapes.features.shape[-1])


def lambda_at(hyper: Hyper, name: str, step: jax.Array) -> jax.Array:
    """Returns lambda_1 or lambda_2 at a step: a linear rise, then a linear fall to 0.

    Args:
      hyper: reads the weight itself, `lambda_warmup` (steps of the rise from 0; 0 for none) and
        `lambda_end` (the step where it is 0 again; 0 for never).
      name: "lambda_1" or "lambda_2". step: int32 [].
    """
    s, warmup, end = step.astype(jnp.float32), hyper["lambda_warmup"], hyper["lambda_end"]
    rise = jnp.where(warmup > 0, jnp.clip(s / jnp.maximum(warmup, 1.0), 0.0, 1.0), 1.0)
    fall = jnp.where(
        end > 0, jnp.clip(1.0 - (s - warmup) / jnp.maximum(end - warmup, 1.0), 0.0, 1.0), 1.0
    )
    return hyper[name] * rise * fall

"""What the networks of a GAN have in common: labels, normalization, the discriminator's head.

Letters: B batch, Z latent numbers, L classes, F features, O outputs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError

MOMENTUM = 0.9  # of the running batch statistics
GENERATOR_LABELS = ("none", "concat", "norm")
DISCRIMINATOR_LABELS = ("none", "concat", "projection", "classifier")


class Pair(NamedTuple):
    """The two players, and how many latent numbers the generator takes.

    `generator(z_BZ, label_B, train=...) -> x_B...`; `discriminator(x_B..., label_B, train=...) ->
    Judged`. What they keep besides parameters (batch statistics, spectral vectors) is in the
    collection "batch_stats". `labels` says whether any of the two looks at labels.
    """

    generator: nn.Module
    discriminator: nn.Module
    latents: int
    labels: bool


class Judged(NamedTuple):
    """A discriminator's answer: logits [B, O], features [B, F], class logits [B, L] or None."""

    logits: jax.Array
    features: jax.Array
    classes: jax.Array | None


def check_labels(generator: str, discriminator: str, classes: int, norms: bool = True) -> None:
    """Raises UserError for ways of using labels that don't exist, or labels that don't."""
    for name, value, known in (
        ("generator_labels", generator, GENERATOR_LABELS),
        ("discriminator_labels", discriminator, DISCRIMINATOR_LABELS),
    ):
        if value not in known:
            raise UserError(f"task.model.{name}={value!r}: expected one of {', '.join(known)}.")
        if value != "none" and classes < 2:
            raise UserError(
                f"task.model.{name}={value!r} needs labels of two classes or more; the data has"
                f" {classes}."
            )
    if generator == "norm" and not norms:
        raise UserError(
            "task.model.generator_labels='norm' puts labels into batch normalization, and this"
            " generator has none; use 'concat'."
        )
    if (generator == "none") != (discriminator == "none"):
        raise UserError(
            f"task.model: generator_labels={generator!r} and"
            f" discriminator_labels={discriminator!r}: both players see labels, or none does."
        )


def with_label(x: jax.Array, label_B: jax.Array, classes: int) -> jax.Array:
    """Appends the one-hot label to the last axis, the same at every pixel (Mirza & Osindero 2014,
    arXiv:1411.1784): [B, ..., C] -> [B, ..., C + L].
    """
    hot = jax.nn.one_hot(label_B, classes, dtype=x.dtype)
    hot = hot.reshape(hot.shape[0], *[1] * (x.ndim - 2), classes)
    return jnp.concatenate([x, jnp.broadcast_to(hot, (*x.shape[:-1], classes))], axis=-1)


class ClassNorm(nn.Module):
    """Batch normalization; with classes, a scale and a bias for each of them.

    Conditional batch normalization: Dumoulin et al. 2017 (arXiv:1610.07629), eq. 5.

    Attributes:
      classes: 0 for a plain one. momentum: of the running statistics.
      dtype: of the result; the statistics are float32.
    """

    classes: int = 0
    momentum: float = MOMENTUM
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        own = self.classes == 0
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_scale=own,
            use_bias=own,
            dtype=self.dtype,
            name="norm",
        )(x)
        if own:
            return x
        shape = (self.classes, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape)[label_B]
        bias = self.param("bias", nn.initializers.zeros, shape)[label_B]
        middle = [1] * (x.ndim - 2)
        wide = (x.shape[0], *middle, x.shape[-1])
        return (x * scale.reshape(wide) + bias.reshape(wide)).astype(self.dtype)


def spectral(layer: nn.Module, enabled: bool, train: bool) -> Callable[[jax.Array], jax.Array]:
    """Returns a layer, its kernel divided by its largest singular value if `enabled`.

    Miyato et al. 2018 (arXiv:1802.05957): one step of power iteration each time it is called for
    training. A bias is left alone.
    """
    if not enabled:
        return layer  # type: ignore[return-value]
    wrapped = nn.SpectralNorm(layer, name=f"{layer.name}_spectral")
    return lambda x: wrapped(x, update_stats=train)


def spread_of_batch(features_BF: jax.Array) -> jax.Array:
    """Appends one feature: the standard deviation over the batch, averaged over the features.

    Minibatch standard deviation (Karras et al. 2018, arXiv:1710.10196, section 3), of vectors.
    [B, F] -> [B, F + 1].
    """
    variance_F = jnp.var(features_BF, axis=0)
    spread = jnp.sqrt(variance_F + 1e-8).mean()
    column = jnp.broadcast_to(spread, (features_BF.shape[0], 1))
    return jnp.concatenate([features_BF, column], axis=1)


class Head(nn.Module):
    """From features to an answer.

    "projection" adds the product of features and a vector for the label (Miyato & Koyama 2018,
    arXiv:1802.05637, eq. 3); "classifier" also predicts the label (Odena et al. 2017,
    arXiv:1610.09585).

    Attributes:
      classes: of the data. labels: one of DISCRIMINATOR_LABELS.
      outputs: O, 1 for a discriminator; more where its layers are used as an encoder.
      spread: append the batch's spread to the features (`spread_of_batch`).
      spectral_norm: on its layers. kernel_init: of its kernels. use_bias: in its layers.
    """

    classes: int
    labels: str
    outputs: int = 1
    spread: bool = False
    spectral_norm: bool = False
    kernel_init: Any = nn.initializers.lecun_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, features_BF: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        def dense(width: int, name: str) -> Callable[[jax.Array], jax.Array]:
            layer = nn.Dense(width, kernel_init=self.kernel_init, use_bias=self.use_bias, name=name)
            return spectral(layer, self.spectral_norm, train)

        seen = spread_of_batch(features_BF) if self.spread else features_BF
        logits = dense(self.outputs, "logits")(seen)
        classes = None
        if self.outputs > 1:  # an encoder looks at no label
            return Judged(logits, features_BF, None)
        if self.labels == "projection":
            vectors_BF = dense(features_BF.shape[-1], "label")(
                jax.nn.one_hot(label_B, self.classes, dtype=features_BF.dtype)
            )
            logits = logits + (vectors_BF * features_BF).sum(-1, keepdims=True)
        elif self.labels == "classifier":
            classes = dense(self.classes, "classes")(features_BF)
        return Judged(logits, features_BF, classes)

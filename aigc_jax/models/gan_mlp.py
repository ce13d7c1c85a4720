"""Two multilayer perceptrons, generator and discriminator, for small images and for points.

With the defaults, the pair most used on MNIST: 100-256-512-784 and 784-512-256-1, leaky ReLU of
slope 0.2. Other widths and activations make the logistic pair of Goodfellow et al. 2014
(arXiv:1406.2661) and the networks of the 2D mixtures: maxout in PacGAN (Lin et al. 2018,
arXiv:1712.04086, section 4.1), tanh in unrolled GAN (Metz et al. 2017, arXiv:1611.02163).
"""

import math
from typing import Literal

import flax.linen as nn
import jax

from aigc_jax.errors import UserError
from aigc_jax.models.conditioning import (
    ClassNorm,
    Head,
    Judged,
    Pair,
    check_labels,
    spectral,
    with_label,
)

_MAXOUT = 5  # pieces of a maxout unit (Goodfellow et al. 2013, arXiv:1302.4389)
_ACTIVATIONS = {
    "leaky_relu": lambda x: nn.leaky_relu(x, 0.2),
    "relu": nn.relu,
    "tanh": nn.tanh,
    "maxout": lambda x: x.reshape(*x.shape[:-1], -1, _MAXOUT).max(-1),
}
_OUTPUTS = {
    "tanh": nn.tanh,
    "logistic": lambda x: 2.0 * nn.sigmoid(x) - 1.0,  # gray values in [0, 1], in our range
    "linear": lambda x: x,
}


class Generator(nn.Module):
    """[B, Z] -> [B, *shape]; see `make`."""

    shape: tuple[int, ...]
    classes: int
    widths: tuple[int, ...]
    activation: str
    norm: bool
    output: str
    labels: str

    @nn.compact
    def __call__(self, z_BZ: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        x = with_label(z_BZ, label_B, self.classes) if self.labels == "concat" else z_BZ
        pieces = _MAXOUT if self.activation == "maxout" else 1
        for i, width in enumerate(self.widths):
            x = nn.Dense(width * pieces, use_bias=not self.norm, name=f"hidden_{i}")(x)
            if self.norm:
                classes = self.classes if self.labels == "norm" else 0
                x = ClassNorm(classes, name=f"norm_{i}")(x, label_B, train=train)
            x = _ACTIVATIONS[self.activation](x)
        x = nn.Dense(math.prod(self.shape), name="out")(x)
        return _OUTPUTS[self.output](x).reshape(x.shape[0], *self.shape)


class Discriminator(nn.Module):
    """[B, *shape] -> Judged; see `make`."""

    classes: int
    widths: tuple[int, ...]
    activation: str
    spectral_norm: bool
    spread: bool
    labels: str
    outputs: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        x = x.reshape(x.shape[0], -1)
        if self.labels == "concat" and self.outputs == 1:
            x = with_label(x, label_B, self.classes)
        pieces = _MAXOUT if self.activation == "maxout" else 1
        for i, width in enumerate(self.widths):
            layer = nn.Dense(width * pieces, name=f"hidden_{i}")
            x = _ACTIVATIONS[self.activation](spectral(layer, self.spectral_norm, train)(x))
        head = Head(
            self.classes, self.labels, self.outputs, self.spread, self.spectral_norm, name="head"
        )
        return head(x, label_B, train=train)


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    latents: int = 100,
    generator_widths: tuple[int, ...] = (256, 512),
    discriminator_widths: tuple[int, ...] = (512, 256),
    generator_activation: Literal["leaky_relu", "relu", "tanh", "maxout"] = "leaky_relu",
    discriminator_activation: Literal["leaky_relu", "relu", "tanh", "maxout"] = "leaky_relu",
    norm: bool = False,
    output: Literal["tanh", "logistic", "linear"] = "tanh",
    spectral_norm: bool = False,
    spread: bool = False,
    generator_labels: Literal["none", "concat", "norm"] = "none",
    discriminator_labels: Literal["none", "concat", "projection", "classifier"] = "none",
) -> Pair:
    """Makes both.

    Args:
      shape: of one example, as the data has it. classes: of the data.
      latents: Z. generator_widths, discriminator_widths: of the hidden layers.
      generator_activation, discriminator_activation: "maxout" takes the largest of 5 pieces.
      norm: batch normalization in the generator.
      output: the generator's last function; "linear" for data without bounds.
      spectral_norm: in the discriminator. spread: see `conditioning.spread_of_batch`.
      generator_labels: "concat" or "norm" (conditional batch normalization).
      discriminator_labels: see `conditioning.Head`.

    Raises:
      UserError: a size below 1, or labels that can't be used so.
    """
    if latents < 1 or min((*generator_widths, *discriminator_widths), default=1) < 1:
        raise UserError("task.model: latents and all widths are whole numbers from 1 on.")
    check_labels(generator_labels, discriminator_labels, classes, norm)
    return Pair(
        Generator(
            shape, classes, generator_widths, generator_activation, norm, output, generator_labels
        ),
        Discriminator(
            classes, discriminator_widths, discriminator_activation, spectral_norm, spread,
            discriminator_labels,
        ),
        latents,
        generator_labels != "none",
    )  # fmt: skip

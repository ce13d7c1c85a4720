"""SNGAN's residual networks, for 32x32 pixels and other sizes of 4 * 2^k.

Miyato et al. 2018 (arXiv:1802.05957), appendix B, the networks for CIFAR-10; with labels, the
projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

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

_INIT = nn.initializers.xavier_uniform()


def doubled(x_BHWC: jax.Array) -> jax.Array:
    """Nearest-neighbour upsampling: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x_BHWC, 2, axis=1), 2, axis=2)


def halved(x_BHWC: jax.Array) -> jax.Array:
    """Means of 2x2 pixels: [B, H, W, C] -> [B, H/2, W/2, C]."""
    return nn.avg_pool(x_BHWC, (2, 2), (2, 2))


class UpBlock(nn.Module):
    """Norm, ReLU, double, convolve; norm, ReLU, convolve; plus the doubled input."""

    features: int
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        y = nn.relu(ClassNorm(self.classes, name="norm_1")(x, label_B, train=train))
        y = nn.Conv(self.features, (3, 3), kernel_init=_INIT, use_bias=False, name="conv_1")(
            doubled(y)
        )
        y = nn.relu(ClassNorm(self.classes, name="norm_2")(y, label_B, train=train))
        y = nn.Conv(self.features, (3, 3), kernel_init=_INIT, name="conv_2")(y)
        # A 1x1 convolution and doubling commute: on the small picture it costs a quarter.
        return y + doubled(nn.Conv(self.features, (1, 1), kernel_init=_INIT, name="skip")(x))


class DownBlock(nn.Module):
    """(ReLU,) convolve, ReLU, convolve(, halve); plus the input, halved and projected likewise."""

    features: int
    halve: bool
    first: bool
    spectral_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x: jax.Array, size: int, name: str) -> jax.Array:
            layer = nn.Conv(self.features, (size, size), kernel_init=_INIT, name=name)
            return spectral(layer, self.spectral_norm, train)(x)

        y = x if self.first else nn.relu(x)  # a picture is not cut at zero
        y = conv(nn.relu(conv(y, 3, "conv_1")), 3, "conv_2")
        skip = x
        if self.halve:
            y, skip = halved(y), halved(skip)
        if self.halve or skip.shape[-1] != self.features:
            skip = conv(skip, 1, "skip")
        return y + skip


class Generator(nn.Module):
    """[B, Z] -> [B, H, W, C] in [-1, 1]; see `make`."""

    shape: tuple[int, ...]
    classes: int
    depth: int
    width: int
    labels: str

    @nn.compact
    def __call__(self, z_BZ: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        z = with_label(z_BZ, label_B, self.classes) if self.labels == "concat" else z_BZ
        classes = self.classes if self.labels == "norm" else 0
        side = self.shape[0] >> self.depth
        x = nn.Dense(side * side * self.width, kernel_init=_INIT, name="first")(z)
        x = x.reshape(x.shape[0], side, side, self.width)
        for i in range(self.depth):
            x = UpBlock(self.width, classes, name=f"up_{i}")(x, label_B, train=train)
        x = nn.relu(ClassNorm(name="norm")(x, label_B, train=train))
        return jnp.tanh(nn.Conv(self.shape[-1], (3, 3), kernel_init=_INIT, name="out")(x))


class Discriminator(nn.Module):
    """[B, H, W, C] -> Judged; see `make`."""

    classes: int
    width: int
    spectral_norm: bool
    spread: bool
    labels: str
    outputs: int = 1

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        x, seen = x_BHWC, self.labels == "concat" and self.outputs == 1
        x = with_label(x, label_B, self.classes) if seen else x
        for i, halve in enumerate((True, True, False, False)):
            block = DownBlock(self.width, halve, i == 0, self.spectral_norm, name=f"down_{i}")
            x = block(x, train=train)
        features_BF = nn.relu(x).sum((1, 2))
        head = Head(
            self.classes, self.labels, self.outputs, self.spread, self.spectral_norm, _INIT,
            name="head",
        )  # fmt: skip
        return head(features_BF, label_B, train=train)


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    latents: int = 128,
    generator_width: int = 256,
    discriminator_width: int = 128,
    spectral_norm: bool = True,
    spread: bool = False,
    generator_labels: str = "none",
    discriminator_labels: str = "none",
) -> Pair:
    """Makes both.

    Args:
      shape: (H, W, C), H = W = 4 * 2^k, k from 1 on. classes: of the data.
      latents: Z. generator_width, discriminator_width: channels of every block.
      spectral_norm: in the discriminator. spread: see `conditioning.spread_of_batch`.
      generator_labels: "none", "concat" or "norm" (conditional batch normalization).
      discriminator_labels: see `conditioning.Head`.

    Raises:
      UserError: a shape that the layers can't make, or labels that can't be used so.
    """
    side = shape[0]
    if len(shape) != 3 or side != shape[1] or side < 8 or side & (side - 1):
        raise UserError(
            "task.model 'sngan' makes squares of 8, 16, 32, 64, ... pixels, not"
            f" {'x'.join(map(str, shape))}; set data.size."
        )
    if min(latents, generator_width, discriminator_width) < 1:
        raise UserError("task.model: latents and widths are whole numbers from 1 on.")
    check_labels(generator_labels, discriminator_labels, classes)
    depth = side.bit_length() - 3  # 4 pixels, doubled so often
    return Pair(
        Generator(shape, classes, depth, generator_width, generator_labels),
        Discriminator(classes, discriminator_width, spectral_norm, spread, discriminator_labels),
        latents,
        generator_labels != "none",
    )

"""R3GAN's network at small size: residual blocks without normalization, grouped convolutions.

Huang et al. 2024 (arXiv:2501.05441), section 4 and its figure of "Config E": inverted bottlenecks
with grouped 3x3 convolutions, leaky ReLU, fix-up initialization (Zhang et al. 2019,
arXiv:1901.09321) instead of normalization, no style, no noise. Resampling is nearest or mean
instead of the paper's filters. Trained with the relativistic pairing loss, R1 and R2.
"""

import flax.linen as nn
import jax

from aigc_jax.errors import UserError
from aigc_jax.models.conditioning import Head, Judged, Pair, check_labels, with_label
from aigc_jax.models.sngan import doubled, halved

_GAIN = 2.0 / (1.0 + 0.2**2)  # of leaky ReLU, squared (He et al. 2015)


def _he(scale: float = 1.0) -> nn.initializers.Initializer:
    return nn.initializers.variance_scaling(_GAIN * scale**2, "fan_in", "normal")


def _activate(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


class Block(nn.Module):
    """1x1 wider, grouped 3x3, 1x1 back; added to the input. The last starts at zero.

    Attributes:
      groups: of the 3x3. expand: how much wider it is. blocks: of the whole network, for the
        initial scale: L^(-1/4) for each of the two layers before the last (fix-up, m = 3).
    """

    groups: int
    expand: int
    blocks: int

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        width = x_BHWC.shape[-1]
        scale = self.blocks**-0.25
        y = nn.Conv(width * self.expand, (1, 1), kernel_init=_he(scale), use_bias=False,
                    name="wide")(x_BHWC)  # fmt: skip
        y = _activate(y + _bias(self, "bias_1", y))
        y = nn.Conv(width * self.expand, (3, 3), kernel_init=_he(scale), use_bias=False,
                    feature_group_count=self.groups, name="grouped")(y)  # fmt: skip
        y = _activate(y + _bias(self, "bias_2", y))
        zeros = nn.initializers.zeros
        return x_BHWC + nn.Conv(width, (1, 1), kernel_init=zeros, use_bias=False, name="back")(y)


def _bias(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    return module.param(name, nn.initializers.zeros, (1, 1, 1, x.shape[-1]))


class Generator(nn.Module):
    """[B, Z] -> [B, H, W, C]; see `make`."""

    shape: tuple[int, ...]
    classes: int
    widths: tuple[int, ...]
    blocks: int
    groups: int
    labels: str

    @nn.compact
    def __call__(self, z_BZ: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        z = with_label(z_BZ, label_B, self.classes) if self.labels == "concat" else z_BZ
        side = self.shape[0] >> (len(self.widths) - 1)
        x = nn.Dense(side * side * self.widths[0], kernel_init=_he(), name="first")(z)
        x = x.reshape(x.shape[0], side, side, self.widths[0])
        total = self.blocks * len(self.widths)
        for i, width in enumerate(self.widths):
            if i:
                x = doubled(
                    nn.Conv(width, (1, 1), kernel_init=_he(), use_bias=False, name=f"turn_{i}")(x)
                )
            for j in range(self.blocks):
                x = Block(self.groups, 2, total, name=f"block_{i}_{j}")(x)
        return nn.Conv(self.shape[-1], (1, 1), kernel_init=_he(), use_bias=False, name="out")(x)


class Discriminator(nn.Module):
    """[B, H, W, C] -> Judged; see `make`."""

    classes: int
    widths: tuple[int, ...]
    blocks: int
    groups: int
    spread: bool
    labels: str
    outputs: int = 1

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        x, seen = x_BHWC, self.labels == "concat" and self.outputs == 1
        x = with_label(x, label_B, self.classes) if seen else x
        total = self.blocks * len(self.widths)
        for i, width in enumerate(self.widths):
            if i:
                x = halved(x)
            x = nn.Conv(width, (1, 1), kernel_init=_he(), use_bias=False, name=f"turn_{i}")(x)
            for j in range(self.blocks):
                x = Block(self.groups, 2, total, name=f"block_{i}_{j}")(x)
        # The last pictures become one vector by one weight for each pixel and channel.
        shape = (1, *x.shape[1:])
        weight = self.param(
            "pool", nn.initializers.normal((x.shape[1] * x.shape[2]) ** -0.5), shape
        )
        head = Head(self.classes, self.labels, self.outputs, self.spread, name="head")
        return head((x * weight).sum((1, 2)), label_B, train=train)


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    latents: int = 64,
    widths: tuple[int, ...] = (96, 96, 96, 96),
    blocks: int = 1,
    groups: int = 16,
    spread: bool = False,
    generator_labels: str = "none",
    discriminator_labels: str = "none",
) -> Pair:
    """Makes both, mirror images of each other.

    Args:
      shape: (H, W, C), H = W, a multiple of 2^(number of widths - 1). classes: of the data.
      latents: Z. widths: channels at each size, the smallest picture first.
      blocks: at each size. groups: of the 3x3 convolutions; divides twice each width.
      spread: see `conditioning.spread_of_batch`.
      generator_labels: "none" or "concat". discriminator_labels: see `conditioning.Head`.

    Raises:
      UserError: sizes that don't divide, or labels that can't be used so.
    """
    steps = 1 << (len(widths) - 1)
    if len(shape) != 3 or shape[0] != shape[1] or not widths or shape[0] % steps:
        raise UserError(
            f"task.model 'r3gan' with {len(widths)} widths makes squares of a multiple of {steps}"
            f" pixels, not {'x'.join(map(str, shape))}; set data.size."
        )
    if min(latents, blocks, groups, *widths) < 1 or any(2 * width % groups for width in widths):
        raise UserError(
            f"task.model: groups={groups} must divide twice each of widths={widths}; all whole"
            " numbers from 1 on."
        )
    check_labels(generator_labels, discriminator_labels, classes, norms=False)
    return Pair(
        Generator(shape, classes, widths, blocks, groups, generator_labels),
        Discriminator(classes, widths[::-1], blocks, groups, spread, discriminator_labels),
        latents,
        generator_labels != "none",
    )

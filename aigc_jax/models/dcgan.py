"""DCGAN: convolutions of 4x4 with stride 2, batch normalization, and little else.

Radford et al. 2016 (arXiv:1511.06434), with the sizes of PyTorch's example: 100 latents, 64 times
1, 2, 4, 8 channels for 64x64 pixels, weights of standard deviation 0.02. Other sizes that are
4 * 2^k or 7 * 2^k are made the same way, with fewer or more layers. With two layers a discriminator
sees ten pixels at once and adds up what it found; for digits InfoGAN's networks have a dense layer
behind them (Chen et al. 2016, arXiv:1606.03657, appendix C.1), `hidden`.
"""

from typing import Any, Literal

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
from aigc_jax.models.convolution import Down, Up

_INIT = nn.initializers.normal(0.02)
_SMALLEST = (4, 7)  # sides that the stack of layers may begin at


def _depth(side: int) -> int | None:
    """How often a side can be halved until it is one of the smallest; None if never."""
    halvings = 0
    while side not in _SMALLEST:
        if side % 2 or side < min(_SMALLEST):
            return None
        side, halvings = side // 2, halvings + 1
    return halvings or None


class Generator(nn.Module):
    """[B, Z] -> [B, H, W, C] in [-1, 1]; see `make`."""

    shape: tuple[int, ...]
    classes: int
    depth: int
    width: int
    hidden: int
    labels: str
    dtype: Any

    @nn.compact
    def __call__(self, z_BZ: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        def norm(x: jax.Array, name: str) -> jax.Array:
            classes = self.classes if self.labels == "norm" else 0
            layer = ClassNorm(classes, dtype=self.dtype, name=name)
            return nn.relu(layer(x, label_B, train=train))

        def up(channels: int, name: str) -> nn.Module:
            return Up(channels, bias=False, kernel_init=_INIT, dtype=self.dtype, name=name)

        def dense(features: int, name: str) -> nn.Module:
            return nn.Dense(
                features, use_bias=False, kernel_init=_INIT, dtype=self.dtype, name=name
            )

        z = with_label(z_BZ, label_B, self.classes) if self.labels == "concat" else z_BZ
        if self.hidden:
            z = norm(dense(self.hidden, "hidden")(z), "norm_hidden")
        side, channels = self.shape[0] >> self.depth, self.width << (self.depth - 1)
        # A transposed convolution of a single pixel is a dense layer.
        x = dense(side * side * channels, "first")(z)
        x = norm(x.reshape(x.shape[0], side, side, channels), "norm_0")
        for i in range(1, self.depth):
            channels //= 2
            x = norm(up(channels, f"up_{i}")(x), f"norm_{i}")
        return jnp.tanh(up(self.shape[-1], "out")(x).astype(jnp.float32))


class Discriminator(nn.Module):
    """[B, H, W, C] -> Judged; see `make`."""

    classes: int
    depth: int
    width: int
    hidden: int
    norm: bool
    spectral_norm: bool
    spread: bool
    labels: str
    dtype: Any
    outputs: int = 1

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        x, seen = x_BHWC, self.labels == "concat" and self.outputs == 1
        x = with_label(x, label_B, self.classes) if seen else x
        for i in range(self.depth):
            # A bias before a normalization would be taken away again.
            plain = i == 0 or not self.norm
            layer = Down(
                self.width << i, bias=plain and i > 0, kernel_init=_INIT, dtype=self.dtype,
                name=f"down_{i}",
            )  # fmt: skip
            x = spectral(layer, self.spectral_norm, train)(x)
            if not plain:
                x = ClassNorm(dtype=self.dtype, name=f"norm_{i}")(x, label_B, train=train)
            x = nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], -1)
        if self.hidden:
            last = nn.Dense(
                self.hidden, use_bias=not self.norm, kernel_init=_INIT, dtype=self.dtype,
                name="hidden",
            )  # fmt: skip
            x = spectral(last, self.spectral_norm, train)(x)
            if self.norm:
                x = ClassNorm(dtype=self.dtype, name="norm_hidden")(x, label_B, train=train)
            x = nn.leaky_relu(x, 0.2)
        features_BF = x.astype(jnp.float32)
        head = Head(
            self.classes, self.labels, self.outputs, self.spread, self.spectral_norm, _INIT,
            name="head",
        )  # fmt: skip
        return head(features_BF, label_B, train=train)


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    latents: int = 100,
    generator_width: int = 64,
    discriminator_width: int = 64,
    hidden: int = 0,
    norm: bool = True,
    spectral_norm: bool = False,
    spread: bool = False,
    generator_labels: str = "none",
    discriminator_labels: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Pair:
    """Makes both.

    Args:
      shape: (H, W, C), H = W. classes: of the data.
      latents: Z.
      generator_width, discriminator_width: channels next to the picture, ngf and ndf.
      hidden: units of a dense layer between latents and pictures, and between pictures and logits,
        normalized as the others are; 0 for none.
      norm: batch normalization in the discriminator; without it penalties on its slope are those
        of their papers.
      spectral_norm: in the discriminator. spread: see `conditioning.spread_of_batch`.
      generator_labels: "none", "concat" or "norm" (conditional batch normalization).
      discriminator_labels: see `conditioning.Head`.
      dtype: of activations and products; statistics, parameters and both ends are float32.

    Raises:
      UserError: a shape that the layers can't make, or labels that can't be used so.
    """
    depth = _depth(shape[0]) if len(shape) == 3 and shape[0] == shape[1] else None
    if depth is None:
        raise UserError(
            f"task.model 'dcgan' makes squares of 8, 14, 16, 28, 32, 56, 64, ... pixels, not"
            f" {'x'.join(map(str, shape))}; set data.size."
        )
    if min(latents, generator_width, discriminator_width, hidden + 1) < 1:
        raise UserError("task.model: latents and widths are 1 or more, hidden is 0 or more.")
    check_labels(generator_labels, discriminator_labels, classes)
    kind = jnp.dtype(dtype)
    return Pair(
        Generator(shape, classes, depth, generator_width, hidden, generator_labels, kind),
        Discriminator(
            classes, depth, discriminator_width, hidden, norm, spectral_norm, spread,
            discriminator_labels, kind,
        ),
        latents,
        generator_labels != "none",
    )  # fmt: skip

"""R3GAN's network ("Config E"): residual blocks without normalization, grouped convolutions.

Huang et al. 2024 (arXiv:2501.05441), section 4 and appendix; sizes and initial scales that the
paper leaves open are those of its authors' code (github.com/brownvc/R3GAN). Inverted bottlenecks
with grouped 3x3 convolutions, leaky ReLU, fix-up initialization (Zhang et al. 2019,
arXiv:1901.09321) instead of normalization, no style, no noise. The smallest picture is a learned
basis, weighted by the latents; the discriminator ends in one as well. Trained with the relativistic
pairing loss, R1 and R2.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError
from aigc_jax.models.conditioning import Head, Judged, Pair, check_labels, with_label

_GAIN = 2.0 / (1.0 + 0.2**2)  # of leaky ReLU, squared (He et al. 2015)
# Its authors give the precision of products by size: all but the smallest in bfloat16.
_SMALLEST = jnp.float32


def _normal(gain: float = 1.0) -> nn.initializers.Initializer:
    """Of standard deviation gain / sqrt(fan in)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def _activate(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


def doubled(x_BHWC: jax.Array) -> jax.Array:
    """Twice as many pixels, by the filter [1, 3, 3, 1] / 4 on each side; zeros beyond the edge.

    [1, 2, 1] convolved with the [1, 1] of nearest neighbours; every second zero is skipped, so the
    weights are 1/4 and 3/4. [B, H, W, C] -> [B, 2H, 2W, C].
    """
    for axis in (1, 2):
        before, after = _beside(x_BHWC, axis)
        even, odd = 0.25 * before + 0.75 * x_BHWC, 0.75 * x_BHWC + 0.25 * after
        shape = list(x_BHWC.shape)
        shape[axis] *= 2
        x_BHWC = jnp.stack([even, odd], axis + 1).reshape(shape)
    return x_BHWC


def halved(x_BHWC: jax.Array) -> jax.Array:
    """Half as many pixels, by the filter [1, 3, 3, 1] / 8 on each side; zeros beyond the edge.

    [B, H, W, C] -> [B, H/2, W/2, C]; H and W even.
    """
    for axis in (1, 2):
        shape = list(x_BHWC.shape)
        shape[axis : axis + 1] = [shape[axis] // 2, 2]
        pairs = x_BHWC.reshape(shape)
        left, right = (jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1))
        before, after = _beside(right, axis)[0], _beside(left, axis)[1]
        x_BHWC = 0.125 * (before + after) + 0.375 * (left + right)
    return x_BHWC


def _beside(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """For each place of an axis what stands before it and what stands after it; zeros outside."""
    size, width = x.shape[axis], [(0, 0)] * x.ndim
    width[axis] = (1, 1)
    wide = jnp.pad(x, width)
    return (
        jax.lax.slice_in_dim(wide, 0, size, axis=axis),
        jax.lax.slice_in_dim(wide, 2, size + 2, axis=axis),
    )


def _bias(module: nn.Module, name: str, x: jax.Array) -> jax.Array:
    bias = module.param(name, nn.initializers.zeros, (1, 1, 1, x.shape[-1]))
    return bias.astype(x.dtype)


def _across(features: int, dtype: Any, name: str) -> nn.Conv:
    """A 1x1 convolution between sizes or colours."""
    return nn.Conv(features, (1, 1), kernel_init=_normal(), use_bias=False, dtype=dtype, name=name)


class Block(nn.Module):
    """1x1 wider, grouped 3x3, 1x1 back; added to the input. The last starts at zero.

    Attributes:
      groups: of the 3x3. expand: how much wider it is. blocks: of the whole network, for the
        initial scale: L^(-1/4) for each of the two layers before the last (fix-up, m = 3).
      dtype: of the products.
    """

    groups: int
    expand: int
    blocks: int
    dtype: Any

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        width = x_BHWC.shape[-1]
        init = _normal(_GAIN**0.5 * self.blocks**-0.25)
        conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
        wide = conv(width * self.expand, (1, 1), kernel_init=init, name="wide")
        grouped = conv(
            width * self.expand, (3, 3), kernel_init=init, feature_group_count=self.groups,
            name="grouped",
        )  # fmt: skip
        back = conv(width, (1, 1), kernel_init=nn.initializers.zeros, name="back")
        y = wide(x_BHWC)
        y = grouped(_activate(y + _bias(self, "bias_1", y)))
        return x_BHWC + back(_activate(y + _bias(self, "bias_2", y)))


class Generator(nn.Module):
    """[B, Z] -> [B, H, W, C], float32 without bounds; see `make`."""

    shape: tuple[int, ...]
    classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: tuple[int, ...]
    expand: int
    label_width: int
    labels: str
    dtype: Any

    @nn.compact
    def __call__(self, z_BZ: jax.Array, label_B: jax.Array, *, train: bool) -> jax.Array:
        z = z_BZ
        if self.labels == "concat":
            vectors = self.param("labels", _normal(), (self.classes, self.label_width))
            z = jnp.concatenate([z, vectors[label_B]], axis=1)
        side = self.shape[0] >> (len(self.widths) - 1)
        amount_BC = nn.Dense(
            self.widths[0], kernel_init=_normal(), use_bias=False, name="first"
        )(z)  # fmt: skip
        basis = self.param("basis", nn.initializers.normal(1.0), (1, side, side, self.widths[0]))
        x = basis * amount_BC[:, None, None]
        dtype = _SMALLEST
        for i, width in enumerate(self.widths):
            if i:
                dtype = self.dtype
                x = x.astype(dtype)
                if x.shape[-1] != width:
                    x = _across(width, dtype, f"turn_{i}")(x)
                x = doubled(x)
            for j in range(self.blocks[i]):
                block = Block(self.groups[i], self.expand, sum(self.blocks), dtype,
                              name=f"block_{i}_{j}")  # fmt: skip
                x = block(x)
        return _across(self.shape[-1], dtype, "out")(x).astype(jnp.float32)


class Discriminator(nn.Module):
    """[B, H, W, C] -> Judged; see `make`. Sizes come largest first."""

    classes: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    groups: tuple[int, ...]
    expand: int
    label_width: int
    spread: bool
    labels: str
    dtype: Any
    outputs: int = 1

    @nn.compact
    def __call__(self, x_BHWC: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        x, seen = x_BHWC, self.labels == "concat" and self.outputs == 1
        x = with_label(x, label_B, self.classes) if seen else x
        for i, width in enumerate(self.widths):
            dtype = _SMALLEST if i == len(self.widths) - 1 else self.dtype
            if i == 0:
                x = _across(width, dtype, "in")(x)
            else:
                x = halved(x)
                if x.shape[-1] != width:
                    # Before the next size begins, so in the precision of the one before.
                    x = _across(width, self.dtype, f"turn_{i}")(x)
            x = x.astype(dtype)
            for j in range(self.blocks[i]):
                block = Block(self.groups[i], self.expand, sum(self.blocks), dtype,
                              name=f"block_{i}_{j}")  # fmt: skip
                x = block(x)
        # The last pictures become one vector by one weight for each pixel and channel.
        scale = (x.shape[1] * x.shape[2]) ** -0.5
        basis = self.param("basis", nn.initializers.normal(scale), (1, *x.shape[1:]))
        head = _Head(self.classes, self.labels, self.outputs, self.spread, self.label_width,
                     name="head")  # fmt: skip
        return head((x * basis).sum((1, 2)), label_B, train=train)


class _Head(nn.Module):
    """`conditioning.Head`, but for its "projection", where nothing but the label's vector weighs
    the features: D(x, y) = A(phi(x)) v(y).
    """

    classes: int
    labels: str
    outputs: int
    spread: bool
    width: int

    @nn.compact
    def __call__(self, features_BF: jax.Array, label_B: jax.Array, *, train: bool) -> Judged:
        if self.labels != "projection" or self.outputs > 1:
            head = Head(self.classes, self.labels, self.outputs, self.spread, use_bias=False,
                        kernel_init=_normal(), name="plain")  # fmt: skip
            return head(features_BF, label_B, train=train)
        head = Head(0, "none", self.width, self.spread, use_bias=False, kernel_init=_normal(),
                    name="plain")  # fmt: skip
        judged = head(features_BF, label_B, train=train)
        vectors = self.param("labels", _normal(self.width**-0.5), (self.classes, self.width))
        logits = (judged.logits * vectors[label_B]).sum(1, keepdims=True)
        return Judged(logits, features_BF, None)


def make(
    shape: tuple[int, ...],
    classes: int,
    *,
    latents: int = 64,
    widths: tuple[int, ...] = (96, 96, 96, 96),
    blocks: tuple[int, ...] = (1,),
    groups: tuple[int, ...] = (16,),
    expand: int = 2,
    label_widths: tuple[int, int] = (64, 96),
    spread: bool = False,
    generator_labels: str = "none",
    discriminator_labels: str = "none",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Pair:
    """Makes both, mirror images of each other. The paper's for CIFAR-10: see
    configs/gan/cifar10_r3gan.py.

    Args:
      shape: (H, W, C), H = W, a multiple of 2^(number of widths - 1). classes: of the data.
      latents: Z.
      widths: channels at each size, the smallest picture first (4x4 in the paper).
      blocks, groups: at each size in the same order, or one number for all: how many blocks, and in
        how many groups of channels their 3x3 convolutions are.
      expand: how many times wider a block is inside; `groups` divides that width.
      label_widths: numbers that stand for a label, in the generator ("concat") and in the
        discriminator ("projection").
      spread: see `conditioning.spread_of_batch`.
      generator_labels: "none" or "concat", the label's numbers beside the latents.
      discriminator_labels: see `conditioning.Head`; "projection" is the paper's, the product of the
        label's numbers and as many of the picture's.
      dtype: of activations and products at all sizes but the smallest.

    Raises:
      UserError: sizes that don't divide, or labels that can't be used so.
    """
    sizes = len(widths)
    steps = 1 << max(sizes - 1, 0)
    if len(shape) != 3 or shape[0] != shape[1] or not widths or shape[0] % steps:
        raise UserError(
            f"task.model 'r3gan' with {sizes} widths makes squares of a multiple of {steps}"
            f" pixels, not {'x'.join(map(str, shape))}; set data.size."
        )
    for name, value in (("blocks", blocks), ("groups", groups)):
        if len(value) not in (1, sizes):
            raise UserError(
                f"task.model.{name}={value}: expected one number, or one for each of the"
                f" {sizes} sizes that widths={widths} has."
            )
    blocks, groups = (x * sizes if len(x) == 1 else x for x in (blocks, groups))
    whole = (latents, expand, *widths, *blocks, *groups, *label_widths)
    if min(whole) < 1 or any(expand * w % g for w, g in zip(widths, groups, strict=True)):
        raise UserError(
            f"task.model: groups={groups} must divide expand={expand} times widths={widths}; all"
            " whole numbers from 1 on."
        )
    check_labels(generator_labels, discriminator_labels, classes, norms=False)
    kind = jnp.dtype(dtype)
    return Pair(
        Generator(
            shape, classes, widths, blocks, groups, expand, label_widths[0], generator_labels, kind
        ),
        Discriminator(
            classes, widths[::-1], blocks[::-1], groups[::-1], expand, label_widths[1], spread,
            discriminator_labels, kind,
        ),
        latents,
        generator_labels != "none",
    )  # fmt: skip

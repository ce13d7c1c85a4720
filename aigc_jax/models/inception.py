"""Inception-v3 as the Fréchet Inception distance uses it: the TensorFlow graph of 2015.

Szegedy et al. 2016, arXiv:1512.00567, with that graph's own habits: 1,008 logits, averages that
leave out the padding, and a maximum instead of an average in the last block. Names of modules
follow those of the published PyTorch weights, so a converter needs no table. Letters in names:
B images, H, W height and width, C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

FEATURES, CLASSES = 2048, 1008


class Outputs(NamedTuple):
    """features: [B, 2048], after the last average. logits: [B, 1008] without the bias: the score of
    Salimans et al. 2016 was computed from these.
    """

    features: jax.Array
    logits: jax.Array


class Conv(nn.Module):
    """A convolution, batch normalization with fixed statistics, ReLU.

    Attributes:
      features, kernel, stride: of the convolution. padding: "VALID", or "SAME" (stride 1 only).
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        kernel = self.param(
            "kernel",
            nn.initializers.lecun_normal(),
            (*self.kernel, x_BHWC.shape[-1], self.features),
        )
        zeros, ones, size = nn.initializers.zeros, nn.initializers.ones, (self.features,)
        scale, bias = self.param("scale", ones, size), self.param("bias", zeros, size)
        mean, var = self.param("mean", zeros, size), self.param("var", ones, size)
        y_BHWC = jax.lax.conv_general_dilated(
            x_BHWC,
            kernel,
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision="highest",  # float32, whatever the device likes better
        )
        factor = scale * jax.lax.rsqrt(var + 1e-3)
        row = (1, 1, 1, -1)
        return jax.nn.relu(y_BHWC * factor.reshape(row) + (bias - mean * factor).reshape(row))


def _average(x_BHWC: jax.Array) -> jax.Array:
    return nn.avg_pool(x_BHWC, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _chain(x: jax.Array, *steps: tuple) -> jax.Array:
    """Convolutions one after another: (name, features, kernel[, stride, padding]) each."""
    for name, features, *rest in steps:
        x = Conv(features, *rest, name=name)(x)
    return x


class BlockA(nn.Module):
    """Branches of 1x1, 5x5, twice 3x3 and an average, at a 35 x 35 grid."""

    pool: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                _chain(x, ("branch1x1", 64)),
                _chain(x, ("branch5x5_1", 48), ("branch5x5_2", 64, (5, 5))),
                _chain(
                    x,
                    ("branch3x3dbl_1", 64),
                    ("branch3x3dbl_2", 96, (3, 3)),
                    ("branch3x3dbl_3", 96, (3, 3)),
                ),
                _chain(_average(x), ("branch_pool", self.pool)),
            ],
            axis=-1,
        )


class BlockB(nn.Module):
    """From a 35 x 35 to a 17 x 17 grid."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                _chain(x, ("branch3x3", 384, (3, 3), 2, "VALID")),
                _chain(
                    x,
                    ("branch3x3dbl_1", 64),
                    ("branch3x3dbl_2", 96, (3, 3)),
                    ("branch3x3dbl_3", 96, (3, 3), 2, "VALID"),
                ),
                nn.max_pool(x, (3, 3), (2, 2)),
            ],
            axis=-1,
        )


class BlockC(nn.Module):
    """Branches with kernels of 7 in one direction at a time, at a 17 x 17 grid."""

    inner: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        c, across, down = self.inner, (1, 7), (7, 1)
        return jnp.concatenate(
            [
                _chain(x, ("branch1x1", 192)),
                _chain(
                    x,
                    ("branch7x7_1", c),
                    ("branch7x7_2", c, across),
                    ("branch7x7_3", 192, down),
                ),
                _chain(
                    x,
                    ("branch7x7dbl_1", c),
                    ("branch7x7dbl_2", c, down),
                    ("branch7x7dbl_3", c, across),
                    ("branch7x7dbl_4", c, down),
                    ("branch7x7dbl_5", 192, across),
                ),
                _chain(_average(x), ("branch_pool", 192)),
            ],
            axis=-1,
        )


class BlockD(nn.Module):
    """From a 17 x 17 to an 8 x 8 grid."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.concatenate(
            [
                _chain(x, ("branch3x3_1", 192), ("branch3x3_2", 320, (3, 3), 2, "VALID")),
                _chain(
                    x,
                    ("branch7x7x3_1", 192),
                    ("branch7x7x3_2", 192, (1, 7)),
                    ("branch7x7x3_3", 192, (7, 1)),
                    ("branch7x7x3_4", 192, (3, 3), 2, "VALID"),
                ),
                nn.max_pool(x, (3, 3), (2, 2)),
            ],
            axis=-1,
        )


class BlockE(nn.Module):
    """Branches that end in two kernels of 3 side by side, at an 8 x 8 grid.

    Attributes:
      largest: the last branch takes the maximum, as the second of these blocks does in the graph of
        2015; else the average.
    """

    largest: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        across, down = (1, 3), (3, 1)
        two = _chain(x, ("branch3x3_1", 384))
        four = _chain(x, ("branch3x3dbl_1", 448), ("branch3x3dbl_2", 384, (3, 3)))
        pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME") if self.largest else _average(x)
        return jnp.concatenate(
            [
                _chain(x, ("branch1x1", 320)),
                _chain(two, ("branch3x3_2a", 384, across)),
                _chain(two, ("branch3x3_2b", 384, down)),
                _chain(four, ("branch3x3dbl_3a", 384, across)),
                _chain(four, ("branch3x3dbl_3b", 384, down)),
                _chain(pooled, ("branch_pool", 192)),
            ],
            axis=-1,
        )


class InceptionV3(nn.Module):
    """The whole network. Weights come from a file: see `interop.inception`."""

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        """Returns the features and logits of images.

        Args:
          x_BHWC: float32 in [-1, 1], three channels, 75 x 75 or larger; 299 x 299 by the protocol.
        """
        x = _chain(
            x_BHWC,
            ("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
            ("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
            ("Conv2d_2b_3x3", 64, (3, 3)),
        )
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = _chain(x, ("Conv2d_3b_1x1", 80), ("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"))
        x = nn.max_pool(x, (3, 3), (2, 2))
        blocks: Sequence[nn.Module] = (
            *(BlockA(n, name=f"Mixed_5{i}") for i, n in (("b", 32), ("c", 64), ("d", 64))),
            BlockB(name="Mixed_6a"),
            *(
                BlockC(n, name=f"Mixed_6{i}")
                for i, n in (("b", 128), ("c", 160), ("d", 160), ("e", 192))
            ),
            BlockD(name="Mixed_7a"),
            BlockE(largest=False, name="Mixed_7b"),
            BlockE(largest=True, name="Mixed_7c"),
        )
        for block in blocks:
            x = block(x)
        features_BC = x.mean((1, 2))
        # The bias is part of the published weights; nothing that is computed here reads it.
        return Outputs(features_BC, nn.Dense(CLASSES, use_bias=False, name="fc")(features_BC))

"""Convolutions of 4x4 with stride 2, down and up: what DCGAN and its kin are made of.

XLA's CPU backend runs a transposed convolution, and the gradients of both, many times slower than
the matrix products that they equal. So on CPU they are written as such: pixels are rearranged so
that a window is a row (Shi et al. 2016, arXiv:1609.05158, section 2.2, turned around), and one
product does the rest. Accelerators get the plain form. The choice is made here and nowhere else.

Letters: B batch, H height, W width, C channels in, F channels out.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Init = Callable[..., jax.Array]
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def down(x_BHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 2 and a border of one zero: [B, H, W, C] -> [B, H/2, W/2, F].

    Args:
      x_BHWC: H and W even. kernel: [4, 4, C, F].
    """
    return lax.platform_dependent(x_BHWC, kernel, cpu=_down_product, default=_down_plain)  # type: ignore[no-any-return]


def up(x_BHWC: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transposed convolution: [B, H, W, C] -> [B, 2H, 2W, F].

    As `lax.conv_transpose` with a padding of 2, and as PyTorch's with a padding of 1 and its kernel
    turned by half a turn.

    Args:
      x_BHWC: any size. kernel: [4, 4, C, F].
    """
    return lax.platform_dependent(x_BHWC, kernel, cpu=_up_product, default=_up_plain)  # type: ignore[no-any-return]


def _down_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=_LAYOUT)


def _up_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_transpose(x, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=_LAYOUT)


def _down_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A window of 4x4 pixels is 2x2 blocks of 2x2 pixels, and the stride is one block."""
    batch, height, width, channels = x.shape
    h, w, out = height // 2, width // 2, kernel.shape[-1]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, h + 1, 2, w + 1, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    blocks = x.reshape(batch, h + 1, w + 1, 4 * channels)
    windows = jnp.concatenate(
        [blocks[:, i : i + h, j : j + w] for i in (0, 1) for j in (0, 1)], axis=-1
    )
    matrix = kernel.reshape(2, 2, 2, 2, channels, out).transpose(0, 2, 1, 3, 4, 5)
    flat = windows.reshape(batch * h * w, 16 * channels) @ matrix.reshape(16 * channels, out)
    return flat.reshape(batch, h, w, out)


def _up_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Each pixel gives 4x4 pixels, as 2x2 blocks of 2x2; blocks of neighbours lie on each other."""
    batch, h, w, channels = x.shape
    out = kernel.shape[-1]
    # lax.conv_transpose correlates: the kernel is applied turned around.
    matrix = kernel[::-1, ::-1].reshape(2, 2, 2, 2, channels, out).transpose(4, 0, 2, 1, 3, 5)
    flat = x.reshape(batch * h * w, channels) @ matrix.reshape(channels, 16 * out)
    blocks = flat.reshape(batch, h, w, 2, 2, 4 * out)
    total = sum(
        jnp.pad(blocks[:, :, :, i, j], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0)))
        for i in (0, 1)
        for j in (0, 1)
    )
    pixels = jnp.asarray(total).reshape(batch, h + 1, w + 1, 2, 2, out).transpose(0, 1, 3, 2, 4, 5)
    return pixels.reshape(batch, 2 * h + 2, 2 * w + 2, out)[:, 1:-1, 1:-1]


class Strided(nn.Module):
    """`form`, one of `down` and `up`, with its kernel and, if asked for, a bias."""

    form: Callable[[jax.Array, jax.Array], jax.Array]
    features: int
    bias: bool = True
    kernel_init: Init = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        shape = (4, 4, x_BHWC.shape[-1], self.features)
        y_BHWF = self.form(x_BHWC, self.param("kernel", self.kernel_init, shape))
        if self.bias:
            bias_F = self.param("bias", nn.initializers.zeros, shape[-1:])
            y_BHWF = y_BHWF + bias_F[None, None, None]
        return y_BHWF


Down = partial(Strided, down)
Up = partial(Strided, up)

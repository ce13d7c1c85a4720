"""Convolutions of 4x4 with stride 2, down and up: what DCGAN and its kin are made of.

On CPU they are written as matrix products (see `windows`). Accelerators get the plain form. The
choice is made here and nowhere else.

Letters: B batch, H height, W width, C channels in, F channels out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from aigc_jax.models import windows

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
    return windows.gathered(_FORM, x, kernel.reshape(-1, kernel.shape[-1]))


def _up_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    # lax.conv_transpose correlates: the kernel is applied turned around.
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return windows.scattered(_FORM, x, turned.reshape(-1, turned.shape[-1]))


def _rows(x: jax.Array) -> jax.Array:
    """The windows of 4x4 pixels, row by row, so that they go with a kernel as it is.

    Two pixels side by side are copied at a time (Shi et al. 2016, arXiv:1609.05158, section 2.2,
    turned around): the stride is as long.
    """
    batch, height, width, channels = x.shape
    h, w = height // 2, width // 2
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = x.reshape(batch, h + 1, 2, w + 1, 2 * channels)
    pieces = [x[:, i : i + h, a, j : j + w] for i in (0, 1) for a in (0, 1) for j in (0, 1)]
    return jnp.concatenate(pieces, axis=-1)


_FORM = windows.Form(_rows, stride=2)


class Strided(nn.Module):
    """`form`, one of `down` and `up`, with its kernel and, if asked for, a bias.

    Computed in `dtype`; what is learnt stays float32.
    """

    form: Callable[[jax.Array, jax.Array], jax.Array]
    features: int
    bias: bool = True
    kernel_init: Init = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x_BHWC: jax.Array) -> jax.Array:
        shape = (4, 4, x_BHWC.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y_BHWF = self.form(x_BHWC.astype(self.dtype), kernel.astype(self.dtype))
        if self.bias:
            bias_F = self.param("bias", nn.initializers.zeros, shape[-1:])
            y_BHWF = y_BHWF + bias_F[None, None, None].astype(self.dtype)
        return y_BHWF


Down = partial(Strided, down)
Up = partial(Strided, up)

"""Convolutions on patches: pictures are folded into channels once and unfolded once, and all layers
between see the small grid. No strided and no transposed convolution is needed.

Letters in names: B examples, H, W height and width, C channels, F the side of a patch, h = H/F,
w = W/F, N = B*h*w.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from aigc_jax.errors import UserError
from aigc_jax.models import windows


def fold(x_BHWC: jax.Array, side: int) -> jax.Array:
    """Turns patches into channels: [B, H, W, C] -> [B, h, w, F*F*C]."""
    batch, height, width, channels = x_BHWC.shape
    x = x_BHWC.reshape(batch, height // side, side, width // side, side, channels)
    return x.swapaxes(2, 3).reshape(batch, height // side, width // side, -1)


def unfold(x: jax.Array, side: int) -> jax.Array:
    """Turns channels into patches, the inverse of `fold`: [B, h, w, F*F*C] -> [B, H, W, C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, side, side, channels // side**2)
    return x.swapaxes(2, 3).reshape(batch, height * side, width * side, -1)


def check_patch(shape: tuple[int, ...], patch: int) -> None:
    """Raises UserError where patches do not tile a picture of (H, W, C)."""
    if patch < 1 or shape[0] % patch or shape[1] % patch:
        raise UserError(
            f"task.model.patch={patch}: it has to divide both sides of a picture of"
            f" {shape[0]}x{shape[1]}; choose another, or another data.size."
        )


def _plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return windows.gathered(_NEAR, x, kernel.reshape(-1, kernel.shape[-1]))


def _rows(x: jax.Array) -> jax.Array:
    """The nine shifted copies side by side, in the order of a kernel."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    pieces = [x[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(pieces, axis=-1)


_NEAR = windows.Form(_rows, stride=1)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with a 3x3 kernel and a border of zeros: [B, h, w, C] -> [B, h, w, features].

    On a CPU as matrix products (see `windows`); accelerators get the plain form.

    Args:
      x: the grid. kernel: [3, 3, C, features].
    """
    return lax.platform_dependent(x, kernel, cpu=_product, default=_plain)  # type: ignore[no-any-return]


class Near(nn.Module):
    """`convolve` with its kernel and a bias."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1], self.features)
        y = convolve(x, self.param("kernel", nn.initializers.lecun_normal(), shape))
        return y + self.param("bias", nn.initializers.zeros, shape[-1:])[None, None, None]


class Trunk(nn.Module):
    """A 3x3 convolution to `width` channels, then residual blocks of a 3x3 and a 1x1 convolution
    (van den Oord et al. 2017, arXiv:1711.00937, section 4.1). [B, h, w, *] -> [N, width].
    """

    width: int
    layers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Near(self.width, name="in")(x)
        for i in range(self.layers):
            y = Near(self.width, name=f"wide_{i}")(jax.nn.relu(x))
            y_NC = jax.nn.relu(y).reshape(-1, self.width)
            x = x + nn.Dense(self.width, name=f"narrow_{i}")(y_NC).reshape(x.shape)
        return jax.nn.relu(x).reshape(-1, self.width)

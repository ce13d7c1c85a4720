"""Encoder and decoder of a VQ-VAE, of convolutions on patches. Letters: see `models.patches`; T =
h*w codes of a picture, D their width.
"""

import flax.linen as nn
import jax

from aigc_jax.errors import UserError
from aigc_jax.models.patches import Trunk, check_patch, fold, unfold
from aigc_jax.models.vae_mlp import check_sizes


class VQNetwork(nn.Module):
    """One vector for each patch, which sees its neighbourhood through a residual trunk.

    Attributes:
      shape: (H, W, C). planes: numbers that the decoder gives for a pixel.
      patch: F; T = (H/F) (W/F). code_width: D.
      width, layers: channels and residual blocks of each trunk.
    """

    shape: tuple[int, ...]
    planes: int
    patch: int = 4
    code_width: int = 32
    width: int = 64
    layers: int = 2

    def setup(self) -> None:
        self.encoder = Trunk(self.width, self.layers)
        self.to_code = nn.Dense(self.code_width)
        self.decoder = Trunk(self.width, self.layers)
        self.to_patches = nn.Dense(self.patch**2 * self.planes)

    def check(self) -> None:
        """Raises UserError for sizes that make no network."""
        check_sizes(width=self.width, code_width=self.code_width)
        if self.layers < 0:
            raise UserError(f"task.model.layers={self.layers}: expected 0 or more.")
        if len(self.shape) != 3:
            raise UserError(f"vq_conv reads images; this data's rows have the shape {self.shape}.")
        check_patch(self.shape, self.patch)

    @property
    def small(self) -> tuple[int, int]:
        """The grid of codes, (h, w)."""
        return self.shape[0] // self.patch, self.shape[1] // self.patch

    def __call__(self, x_BD: jax.Array) -> jax.Array:
        """Passes through both halves without quantizing, [B, H * W * planes]."""
        return self.decode(self.encode(x_BD))

    def encode(self, x_BD: jax.Array) -> jax.Array:
        """Returns the vectors of the patches, row by row, [B * T, D]."""
        return self.to_code(self.encoder(fold(x_BD.reshape(-1, *self.shape), self.patch)))

    def decode(self, z_ND: jax.Array) -> jax.Array:
        """Returns what p(x | codes) is made of, [B, H * W * planes], from [B * T, D]."""
        x = self.to_patches(self.decoder(z_ND.reshape(-1, *self.small, self.code_width)))
        x = unfold(x.reshape(-1, *self.small, x.shape[1]), self.patch)
        return x.reshape(x.shape[0], -1)


make = VQNetwork

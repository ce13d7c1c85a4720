"""A variational autoencoder of convolutions, one stochastic layer. Letters: see `models.vae_mlp`
and `models.patches`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError
from aigc_jax.models.patches import Trunk, check_patch, fold, unfold
from aigc_jax.models.vae_mlp import Normal, Pass, check_sizes, one_layer, split, with_label


class ConvVAE(nn.Module):
    """Two convolutional trunks on patches, with a dense layer to and from the latent values. Labels
    are planes of ones and zeros for the encoder, and stand beside the latents for the decoder.

    Attributes:
      shape, classes, planes: as in `models.vae_mlp.DenseVAE`.
      width, layers: channels and residual blocks of each trunk. patch: F. latent: L.
    """

    shape: tuple[int, ...]
    classes: int
    planes: int
    width: int = 64
    layers: int = 2
    patch: int = 4
    latent: int = 32

    def setup(self) -> None:
        height, width, _ = self.shape
        self.small = (height // self.patch, width // self.patch)
        self.encoder = Trunk(self.width, self.layers)
        self.to_latent = nn.Dense(2 * self.latent)
        self.from_latent = nn.Dense(math.prod(self.small) * self.width)
        self.decoder = Trunk(self.width, self.layers)
        self.to_patches = nn.Dense(self.patch**2 * self.planes)

    def check(self) -> None:
        """Raises UserError for sizes that make no network."""
        check_sizes(width=self.width, latent=self.latent)
        if self.layers < 0:
            raise UserError(f"task.model.layers={self.layers}: expected 0 or more.")
        check_patch(self.shape, self.patch)

    @property
    def latents(self) -> tuple[int, ...]:
        return (self.latent,)

    def __call__(
        self, x_BD: jax.Array, label_B: jax.Array | None, noise: tuple[jax.Array, ...]
    ) -> Pass:
        """Encodes, samples and decodes; see `DenseVAE`."""
        posterior = self.posterior(x_BD, label_B)
        return one_layer(posterior, label_B, noise[0], self.decode)

    def posterior(self, x_BD: jax.Array, label_B: jax.Array | None) -> Normal:
        """Returns q(z | x), [B, L]."""
        x = fold(x_BD.reshape(-1, *self.shape), self.patch)
        if label_B is not None:
            hot_B11Y = jax.nn.one_hot(label_B, self.classes)[:, None, None]
            planes = jnp.broadcast_to(hot_B11Y, (*x.shape[:3], self.classes))
            x = jnp.concatenate([x, planes], axis=-1)
        return split(self.to_latent(self.encoder(x).reshape(x.shape[0], -1)))

    def decode(self, z_NL: jax.Array, label_N: jax.Array | None) -> jax.Array:
        """Returns what p(x | z) is made of, [N, S * P]."""
        x = self.from_latent(with_label(z_NL, label_N, self.classes))
        x = self.to_patches(self.decoder(x.reshape(-1, *self.small, self.width)))
        x = unfold(x.reshape(z_NL.shape[0], *self.small, -1), self.patch)
        return x.reshape(z_NL.shape[0], -1)


make = ConvVAE

"""A variational autoencoder with two stochastic layers. Letters: see `models.vae_mlp`; M values of
the upper layer.
"""

import math
from typing import Literal

import flax.linen as nn
import jax

from aigc_jax.models.vae_mlp import (
    Dense,
    Latent,
    Normal,
    Pass,
    check_sizes,
    repeated,
    sampled,
    split,
    with_label,
)


class TwoLayerVAE(nn.Module):
    """Burda et al. 2016 (arXiv:1509.00519, section 5 and appendix C), the network with two
    stochastic layers: x, 2 x 200, z of 100, 2 x 100, y of 50; tanh throughout.

    Both are encoded from the data up, q(z | x) q(y | z), and generated from the top down,
    p(y) p(z | y) p(x | z). So y follows from z, and the divergence of z from its prior, which
    follows from y, is known by sampling alone.

    Attributes:
      shape, classes, planes, activation: as in `models.vae_mlp.DenseVAE`.
      width, upper_width: of the hidden layers between x and z, and between z and y.
      layers: how many each of these stacks has. latent: L. upper_latent: M.
    """

    shape: tuple[int, ...]
    classes: int
    planes: int
    width: int = 200
    upper_width: int = 100
    layers: int = 2
    latent: int = 100
    upper_latent: int = 50
    activation: Literal["relu", "tanh", "silu", "gelu"] = "tanh"

    def setup(self) -> None:
        pixels, act = math.prod(self.shape[:-1]), self.activation
        self.encoder = Dense(self.width, self.layers, 2 * self.latent, act)
        self.upper_encoder = Dense(self.upper_width, self.layers, 2 * self.upper_latent, act)
        self.upper_decoder = Dense(self.upper_width, self.layers, 2 * self.latent, act)
        self.decoder = Dense(self.width, self.layers, self.planes * pixels, act)

    def check(self) -> None:
        """Raises UserError for sizes that make no network."""
        check_sizes(
            width=self.width, upper_width=self.upper_width, layers=self.layers,
            latent=self.latent, upper_latent=self.upper_latent,
        )  # fmt: skip

    @property
    def latents(self) -> tuple[int, ...]:
        return (self.latent, self.upper_latent)

    def __call__(
        self, x_BD: jax.Array, label_B: jax.Array | None, noise: tuple[jax.Array, ...]
    ) -> Pass:
        """Encodes, samples and decodes; see `DenseVAE`."""
        samples, batch, size = noise[0].shape
        lower = Normal(*(x[None] for x in self.posterior(x_BD, label_B)))
        z_KBL = sampled(lower, noise[0])
        z_NL = z_KBL.reshape(samples * batch, size)
        upper_N = split(self.upper_encoder(z_NL))
        upper = Normal(*(x.reshape(samples, batch, -1) for x in upper_N))
        y_KBM = sampled(upper, noise[1])
        prior_N = self.prior(y_KBM.reshape(samples * batch, -1))
        prior = Normal(*(x.reshape(samples, batch, -1) for x in prior_N))
        out = self.decoder(with_label(z_NL, repeated(label_B, samples), self.classes))
        return Pass(
            out.reshape(samples, batch, -1),
            (
                Latent(z_KBL, noise[0], lower, prior, exact=False),
                Latent(y_KBM, noise[1], upper, None, exact=True),
            ),
        )

    def posterior(self, x_BD: jax.Array, label_B: jax.Array | None) -> Normal:
        """Returns q(z | x), [B, L]."""
        return split(self.encoder(with_label(x_BD, label_B, self.classes)))

    def prior(self, y_NM: jax.Array) -> Normal:
        """Returns p(z | y), [N, L]."""
        return split(self.upper_decoder(y_NM))

    def decode(self, code_NZ: jax.Array, label_N: jax.Array | None) -> jax.Array:
        """Returns what p(x | z) is made of, [N, S * P], from a code: z's noise, then y."""
        noise_NL, y_NM = code_NZ[:, : self.latent], code_NZ[:, self.latent :]
        z_NL = sampled(self.prior(y_NM), noise_NL)
        return self.decoder(with_label(z_NL, label_N, self.classes))


make = TwoLayerVAE

"""Variational autoencoders of dense layers, and what every network of the task "vae" is.

Letters in names: K samples, B examples, N = K*B, D = H*W*C observed values, S = H*W pixels, L
latent values of a layer, Z of all layers, P numbers that the decoder gives for a pixel, Y classes.

A network has `latents`, the sizes of its stochastic layers from the data up, and is applied by two
methods. `__call__` encodes, draws and decodes, each draw by noise that it is handed. `decode` goes
down from a code: the noise by which the priors draw, the layers side by side, from the data up. So
one draws from any of them by decoding standard normal numbers. Labels are None where `classes` is
0.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}
LOGVAR = 15.0  # log-variances stay within +-this: beyond it exp and its gradient soon overflow


class Normal(NamedTuple):
    """Independent normal values: their means and log-variances, of one shape."""

    mean: jax.Array
    logvar: jax.Array


class Latent(NamedTuple):
    """One stochastic layer of a pass.

    Attributes:
      z_KBL: the samples. noise_KBL: the standard normal values they were made of.
      posterior: of shape [1, B, L] or [K, B, L].
      prior: [K, B, L], or None for the standard normal.
      exact: whether the KL of posterior and prior as they stand here is the layer's. It is not
        where the prior was computed from something that itself follows from z.
    """

    z_KBL: jax.Array
    noise_KBL: jax.Array
    posterior: Normal
    prior: Normal | None
    exact: bool


class Pass(NamedTuple):
    """The decoder's output, [K, B, S * P], and the stochastic layers from the data up."""

    out: jax.Array
    latents: tuple[Latent, ...]


def split(both: jax.Array) -> Normal:
    """Cuts [..., 2 L] into means and log-variances."""
    mean, logvar = jnp.split(both, 2, axis=-1)
    return Normal(mean, jnp.clip(logvar, -LOGVAR, LOGVAR))


def sampled(normal: Normal, noise: jax.Array) -> jax.Array:
    """Returns samples from standard normal noise (Kingma & Welling 2014, section 2.4)."""
    return normal.mean + jnp.exp(0.5 * normal.logvar) * noise


def with_label(x_ND: jax.Array, label_N: jax.Array | None, classes: int) -> jax.Array:
    """Returns [N, D + Y], the label as a one-hot row behind each example; [N, D] without labels."""
    if label_N is None:
        return x_ND
    return jnp.concatenate([x_ND, jax.nn.one_hot(label_N, classes, dtype=x_ND.dtype)], axis=1)


def repeated(label_B: jax.Array | None, samples: int) -> jax.Array | None:
    """Returns the labels of [K, B] examples in one row, [K * B]."""
    return None if label_B is None else jnp.tile(label_B, samples)


class Dense(nn.Module):
    """Dense layers, an activation after each but the last. [N, D] -> [N, features].

    Attributes:
      width, layers: of those with an activation. features: of the last.
    """

    width: int
    layers: int
    features: int
    activation: str

    @nn.compact
    def __call__(self, x_ND: jax.Array) -> jax.Array:
        act = ACTIVATIONS[self.activation]
        for i in range(self.layers):
            x_ND = act(nn.Dense(self.width, name=f"hidden_{i}")(x_ND))
        return nn.Dense(self.features, name="out")(x_ND)


def check_sizes(**sizes: int) -> None:
    """Raises UserError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"task.model.{name}={size}: expected 1 or more.")


class DenseVAE(nn.Module):
    """One stochastic layer between two stacks of dense layers (Kingma & Welling 2014,
    arXiv:1312.6114, appendix C); with labels, both read them (Sohn et al. 2015).

    Attributes:
      shape: (H, W, C). classes: Y, 0 for no labels. planes: P.
      width, layers: of each stack's hidden layers. latent: L.
      activation: "relu", "tanh", "silu" or "gelu" (by tanh).
    """

    shape: tuple[int, ...]
    classes: int
    planes: int
    width: int = 500
    layers: int = 1
    latent: int = 20
    activation: Literal["relu", "tanh", "silu", "gelu"] = "relu"

    def setup(self) -> None:
        pixels = math.prod(self.shape[:-1])
        # Mean and log-variance come out of one product.
        self.encoder = Dense(self.width, self.layers, 2 * self.latent, self.activation)
        self.decoder = Dense(self.width, self.layers, self.planes * pixels, self.activation)

    def check(self) -> None:
        """Raises UserError for sizes that make no network."""
        check_sizes(width=self.width, latent=self.latent)
        if self.layers < 0:
            raise UserError(f"task.model.layers={self.layers}: expected 0 or more.")

    @property
    def latents(self) -> tuple[int, ...]:
        return (self.latent,)

    def __call__(
        self, x_BD: jax.Array, label_B: jax.Array | None, noise: tuple[jax.Array, ...]
    ) -> Pass:
        """Encodes, samples and decodes.

        Args:
          x_BD: the examples. label_B: int32, or None.
          noise: standard normal [K, B, L] for each stochastic layer.
        """
        posterior = self.posterior(x_BD, label_B)
        return one_layer(posterior, label_B, noise[0], self.decode)

    def posterior(self, x_BD: jax.Array, label_B: jax.Array | None) -> Normal:
        """Returns q(z | x), [B, L]."""
        return split(self.encoder(with_label(x_BD, label_B, self.classes)))

    def decode(self, z_NL: jax.Array, label_N: jax.Array | None) -> jax.Array:
        """Returns what p(x | z) is made of, [N, S * P], from a code."""
        return self.decoder(with_label(z_NL, label_N, self.classes))


def one_layer(
    posterior: Normal, label_B: jax.Array | None, noise_KBL: jax.Array, decode: Any
) -> Pass:
    """Samples the one stochastic layer, whose prior is the standard normal, and decodes it."""
    posterior = Normal(*(x[None] for x in posterior))
    z_KBL = sampled(posterior, noise_KBL)
    samples, batch, size = z_KBL.shape
    out = decode(z_KBL.reshape(samples * batch, size), repeated(label_B, samples))
    latent = Latent(z_KBL, noise_KBL, posterior, None, exact=True)
    return Pass(out.reshape(samples, batch, -1), (latent,))


make = DenseVAE

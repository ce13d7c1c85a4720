"""The very deep hierarchical autoencoder: a ladder of stochastic layers, drawn from the top down.

Letters: see `models.vae_mlp`; h, w the sides of one resolution, F the width, L = h*w*latent, T
layers of a resolution.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.errors import UserError
from aigc_jax.models.patches import convolve
from aigc_jax.models.vae_mlp import (
    LOGVAR,
    Latent,
    Normal,
    Pass,
    check_sizes,
    repeated,
    sampled,
)

gelu = partial(jax.nn.gelu, approximate=False)  # as published; its tanh form is another function


class Conv(nn.Module):
    """A convolution with a border of zeros: [N, h, w, *] -> [N, h, w, features].

    Attributes:
      side: of the kernel, 1 or 3. gain: what the initial weights are multiplied by.
    """

    features: int
    side: int = 1
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Uniform within 1 / sqrt(fan in), where the published networks begin.
        init = (
            nn.initializers.variance_scaling(self.gain**2 / 3.0, "fan_in", "uniform")
            if self.gain
            else nn.initializers.zeros
        )
        shape = (*[self.side] * (2 if self.side > 1 else 0), x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape)
        bias_F = self.param("bias", nn.initializers.zeros, shape[-1:])
        if self.side == 1:  # a product of matrices, of which XLA makes more than of a convolution
            y = (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], self.features)
        else:
            y = convolve(x, kernel)
        return y + bias_F[None, None, None]


class Bottleneck(nn.Module):
    """Four convolutions, a GELU before each: 1x1 to `narrow`, twice 3x3, 1x1 to `features`
    (figure 3 of the paper). Where the grid is 2x2 or less, 3x3 would see little but its border, and
    all are 1x1.

    Attributes:
      gain: of the last; 0 lets it begin with zeros.
    """

    narrow: int
    features: int
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        side = 3 if max(x.shape[1:3]) > 2 else 1
        x = Conv(self.narrow, name="reduce")(gelu(x))
        x = Conv(self.narrow, side, name="first")(gelu(x))
        x = Conv(self.narrow, side, name="second")(gelu(x))
        return Conv(self.features, gain=self.gain, name="expand")(gelu(x))


class EncoderBlock(nn.Module):
    """A residual block of the way up; also the body of a scan."""

    narrow: int
    gain: float

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None, __: None = None) -> tuple[jax.Array, None]:
        return x + Bottleneck(self.narrow, x.shape[-1], self.gain, name="residual")(x), None


class Drawn(NamedTuple):
    """What a stochastic layer drew, [N, h, w, latent] each; a scan puts T in front."""

    z: jax.Array
    posterior: Normal
    prior: Normal


class DecoderBlock(nn.Module):
    """One stochastic layer of the way down (figure 3 of the paper); also the body of a scan.

    From h come the prior and a part of the residual; from h and the encoder's activation the
    posterior; z is projected and added, then a residual block follows. The prior's last layer
    begins with zeros, so that the prior begins as the standard normal.

    Attributes:
      latent: channels of z. gain: of the two layers that add to h.
    """

    narrow: int
    latent: int
    gain: float

    @nn.compact
    def __call__(
        self, h: jax.Array, seen: jax.Array | None, noise: jax.Array
    ) -> tuple[jax.Array, Drawn | None]:
        """Draws by the posterior, or, without the encoder's activation, by the prior."""
        width = h.shape[-1]
        found = Bottleneck(self.narrow, 2 * self.latent + width, 0.0, name="prior")(h)
        prior, more = normal(found[..., : 2 * self.latent]), found[..., 2 * self.latent :]
        drawn = None
        if seen is None:
            z = sampled(prior, noise)
        else:
            both = jnp.concatenate([h, seen], axis=-1)
            posterior = normal(Bottleneck(self.narrow, 2 * self.latent, name="posterior")(both))
            z = sampled(posterior, noise)
            drawn = Drawn(z, posterior, prior)
        h = h + more + Conv(width, gain=self.gain, name="project")(z)
        return h + Bottleneck(self.narrow, width, self.gain, name="residual")(h), drawn


def normal(both: jax.Array) -> Normal:
    """Cuts [..., 2 latent] into means and logarithms of standard deviations, doubled."""
    mean, log_sigma = jnp.split(both, 2, axis=-1)
    return Normal(mean, jnp.clip(2.0 * log_sigma, -LOGVAR, LOGVAR))


class Blocks(nn.Module):
    """Equal blocks, one after another: scanned, so that one is compiled, or unrolled.

    Attributes:
      block: what makes one. count: T. scan: parameters lie stacked in `blocks`; else in `block_0`,
        `block_1`, ...; `models.stacking` turns one into the other. remat: the backward pass
        computes a block's inside again instead of keeping it.
    """

    block: Callable[..., nn.Module]
    settings: dict[str, Any]
    count: int
    scan: bool
    remat: bool

    @nn.compact
    def __call__(self, x: jax.Array, seen: Any = None, noise: Any = None) -> tuple[jax.Array, Any]:
        """Passes through all.

        Args:
          x: [N, h, w, F]. seen: what all blocks are handed. noise: of each block, T in front.
        """
        block: Any = self.block
        if self.remat:
            block = nn.remat(block, prevent_cse=not self.scan)
        if self.scan:
            scanned = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, 0),
                length=self.count,
            )
            return scanned(**self.settings, name="blocks")(x, seen, noise)  # type: ignore[no-any-return]
        found = []
        for i in range(self.count):
            own = None if noise is None else noise[i]
            x, drawn = block(**self.settings, name=f"block_{i}")(x, seen, own)
            found.append(drawn)
        return x, jax.tree.map(lambda *each: jnp.stack(each), *found)


def pooled(x: jax.Array, side: int) -> jax.Array:
    """Averages over side x side pixels; at the lower and right border over those that there are.

    [N, h, w, F] -> [N, ceil(h / side), ceil(w / side), F].
    """
    _, height, width, _ = x.shape
    high, wide = -(-height // side), -(-width // side)
    pad = ((0, 0), (0, high * side - height), (0, wide * side - width), (0, 0))

    def summed(x: jax.Array) -> jax.Array:
        return jnp.pad(x, pad).reshape(-1, high, side, wide, side, x.shape[-1]).sum((2, 4))

    return summed(x) / summed(jnp.ones((1, height, width, 1), x.dtype))


def enlarged(x: jax.Array, side: int, size: tuple[int, int]) -> jax.Array:
    """Repeats each pixel side x side times and cuts to `size`: the way back of `pooled`."""
    x = jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)
    return x[:, : size[0], : size[1]]


class TopDownVAE(nn.Module):
    """Child 2021, "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on
    Images" (arXiv:2011.10650), section 3 and figure 3.

    An encoder goes up from the picture by residual blocks and average pooling, and keeps its
    activation at each resolution. The decoder goes down: a learned bias at each resolution, to
    which the enlarged last one is added, then its stochastic layers. Posteriors and priors go the
    same way down, so that each layer's divergence is exact given the layers above.

    A resolution is a stride: a pixel of it stands for stride x stride of the picture, fewer at the
    lower and right border where the stride does not divide the sides. So any size of picture fits.
    Labels are planes of ones and zeros for the encoder, and a vector added to the top of the
    decoder, so that priors and posteriors know them.

    Attributes:
      shape, classes, planes: as in `models.vae_mlp.DenseVAE`.
      width: F, channels of both ways. latent: channels of each z.
      bottleneck: the share of the width that is left within a block.
      encoder_blocks: (stride, residual blocks) pairs from the picture up, strides rising, each a
        multiple of the one before, from 1. Between two there is one more block, then the pooling.
      decoder_blocks: (stride, stochastic layers) pairs from the top down to stride 1, each stride
        one of the encoder's.
      input_mean, input_std: what the encoder's input is moved and divided by.
      scan: blocks of one resolution run as one compiled block, their parameters stacked.
      remat: the backward pass computes each block's inside again: less memory, a third more work.
    """

    shape: tuple[int, ...]
    classes: int
    planes: int
    width: int = 384
    latent: int = 16
    bottleneck: float = 0.25
    encoder_blocks: tuple = ((1, 11), (2, 6), (4, 6), (8, 3), (32, 3))
    decoder_blocks: tuple = ((32, 1), (8, 3), (4, 6), (2, 11), (1, 22))
    input_mean: float = 0.0
    input_std: float = 1.0
    scan: bool = True
    remat: bool = False

    def setup(self) -> None:
        up, down = self.encoder_blocks, self.decoder_blocks
        narrow = max(int(self.width * self.bottleneck), 1)
        # What each block adds to the sum of all of them is made small (section 3.2).
        rise = {"narrow": narrow, "gain": (sum(n for _, n in up) + len(up) - 1) ** -0.5}
        fall = {"narrow": narrow, "gain": sum(n for _, n in down) ** -0.5, "latent": self.latent}
        self.first = Conv(self.width, 3)
        self.up = {str(s): Blocks(EncoderBlock, rise, n, self.scan, self.remat) for s, n in up}
        self.to = {str(s): EncoderBlock(**rise) for s, _ in up[1:]}
        self.down = {str(s): Blocks(DecoderBlock, fall, n, self.scan, self.remat) for s, n in down}
        zeros = nn.initializers.zeros
        self.start = {
            str(s): self.param(f"start_{s}", zeros, (1, *self.sides(s), self.width))
            for s, _ in down
        }
        if self.classes:
            self.label = nn.Dense(self.width, use_bias=False)
        self.gain = self.param("gain", nn.initializers.ones, (self.width,))
        self.bias = self.param("bias", zeros, (self.width,))
        self.last = Conv(self.planes)

    def check(self) -> None:
        """Raises UserError for sizes that make no network."""
        check_sizes(width=self.width, latent=self.latent)
        if len(self.shape) != 3:
            raise UserError(
                f"vae_top_down reads images; this data's rows have the shape {self.shape}."
            )
        for name, number in (("bottleneck", self.bottleneck), ("input_std", self.input_std)):
            if not 0 < number < math.inf:
                raise UserError(f"task.model.{name}={number}: expected a number above 0.")
        up = check_blocks("encoder_blocks", self.encoder_blocks)
        down = check_blocks("decoder_blocks", self.decoder_blocks)
        if up[0] != 1 or any(b <= a or b % a for a, b in pairwise(up)):
            raise UserError(
                f"task.model.encoder_blocks={self.encoder_blocks}: expected strides that begin at 1"
                " and rise, each a multiple of the one before."
            )
        if down[-1] != 1 or sorted(set(down), reverse=True) != down or set(down) - set(up):
            raise UserError(
                f"task.model.decoder_blocks={self.decoder_blocks}: expected strides that fall to 1,"
                f" each one of the encoder's, {', '.join(map(str, up))}."
            )

    def sides(self, stride: int) -> tuple[int, int]:
        """Height and width of the grid at a stride."""
        return -(-self.shape[0] // stride), -(-self.shape[1] // stride)

    @property
    def latents(self) -> tuple[int, ...]:
        return tuple(
            math.prod(self.sides(stride)) * self.latent
            for stride, count in reversed(self.decoder_blocks)
            for _ in range(count)
        )

    def __call__(
        self, x_BD: jax.Array, label_B: jax.Array | None, noise: tuple[jax.Array, ...]
    ) -> Pass:
        """Encodes, samples and decodes; see `DenseVAE`."""
        samples, batch, _ = noise[0].shape
        seen = {
            stride: jnp.tile(x, (samples, 1, 1, 1))
            for stride, x in self.encode(x_BD, label_B).items()
        }
        flat = tuple(x.reshape(samples * batch, -1) for x in noise)
        out, drawn = self.descend(flat, repeated(label_B, samples), seen)

        def shaped(x: jax.Array) -> jax.Array:
            return x.reshape(samples, batch, -1)

        layers = [
            Latent(shaped(z), own, Normal(*map(shaped, q)), Normal(*map(shaped, p)), exact=True)
            for own, (z, q, p) in zip(noise, drawn, strict=True)
        ]
        return Pass(shaped(out), tuple(layers))

    def encode(self, x_BD: jax.Array, label_B: jax.Array | None) -> dict[int, jax.Array]:
        """Returns the encoder's activation at each stride, [B, h, w, F]."""
        x = (x_BD.reshape(-1, *self.shape) - self.input_mean) / self.input_std
        if label_B is not None:
            hot_B11Y = jax.nn.one_hot(label_B, self.classes)[:, None, None]
            planes = jnp.broadcast_to(hot_B11Y, (*x.shape[:3], self.classes))
            x = jnp.concatenate([x, planes], axis=-1)
        x, before, found = self.first(x), 1, {}
        for stride, _ in self.encoder_blocks:
            if stride > 1:
                x = pooled(self.to[str(stride)](x)[0], stride // before)
            x, _ = self.up[str(stride)](x)
            found[stride], before = x, stride
        return found

    def descend(
        self,
        noise: tuple[jax.Array, ...],
        label_N: jax.Array | None,
        seen: dict[int, jax.Array] | None,
    ) -> tuple[jax.Array, list[Drawn]]:
        """Goes down by the posteriors, or, without the encoder's activations, by the priors.

        Args:
          noise: [N, L] of each layer, from the data up. seen: by stride, [N, h, w, F], or None.

        Returns:
          [N, S * P], and the layers from the data up; none of those where `seen` is None.
        """
        rows, left = noise[0].shape[0], list(noise)
        h, before, drawn = None, 0, []
        for stride, count in self.decoder_blocks:
            size = self.sides(stride)
            start = jnp.broadcast_to(self.start[str(stride)], (rows, *size, self.width))
            if h is not None:
                start = start + enlarged(h, before // stride, size)
            elif label_N is not None:
                start = start + self.label(jax.nn.one_hot(label_N, self.classes))[:, None, None]
            own = [left.pop().reshape(rows, *size, self.latent) for _ in range(count)]
            h, found = self.down[str(stride)](
                start, None if seen is None else seen[stride], jnp.stack(own)
            )
            before = stride
            if seen is not None:
                drawn += [jax.tree.map(lambda x, i=i: x[i], found) for i in range(count)]
        assert h is not None
        h = h * self.gain[None, None, None] + self.bias[None, None, None]
        return self.last(h).reshape(rows, -1), drawn[::-1]

    def decode(self, code_NZ: jax.Array, label_N: jax.Array | None) -> jax.Array:
        """Returns what p(x | z) is made of, [N, S * P], from a code."""
        ends = [sum(self.latents[: i + 1]) for i in range(len(self.latents) - 1)]
        return self.descend(tuple(jnp.split(code_NZ, ends, axis=1)), label_N, None)[0]


def check_blocks(name: str, pairs: Any) -> list[int]:
    """Returns the strides of (stride, count) pairs; UserError for anything else."""
    fine = (
        isinstance(pairs, tuple)
        and pairs
        and all(
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(isinstance(n, int) and n > 0 for n in pair)
            for pair in pairs
        )
    )
    if not fine:
        raise UserError(
            f"task.model.{name}={pairs!r}: expected (stride, count) pairs of whole numbers above 0,"
            " such as ((1, 2), (2, 1))."
        )
    return [stride for stride, _ in pairs]


make = TopDownVAE

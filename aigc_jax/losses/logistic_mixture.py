"""Mixtures of discretized logistics, one for each pixel: PixelCNN++'s likelihood of 8-bit colours.

Salimans et al. 2017 (arXiv:1701.05517), section 2.1 (the mixture) and 2.2 (the channels of a pixel:
each component's location of a channel moves linearly with the channels before it).

Letters in names: N examples, S pixels, C channels, M components, J = C (C - 1) / 2 pairs of
channels, D = S * C observed values.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from aigc_jax.losses.likelihood import LOG_SCALE, log_bin


class Mixture(NamedTuple):
    """A pixel's distribution, taken apart.

    Attributes:
      logits: [..., S, M], of the components. mean: [..., S, C, M], before other channels are known.
      log_scale: [..., S, C, M].
      pull: [..., S, J, M] in [-1, 1]: how far channel c moves with channel b < c, pairs (c, b) in
        the order (1, 0), (2, 0), (2, 1), ...
    """

    logits: jax.Array
    mean: jax.Array
    log_scale: jax.Array
    pull: jax.Array


def numbers(channels: int, mixtures: int) -> int:
    """How many numbers a decoder gives for a pixel: 10 M for three channels, 3 M for one."""
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


def parts(out: jax.Array, channels: int, mixtures: int) -> Mixture:
    """Takes a decoder's output apart.

    Args:
      out: [..., S * numbers(C, M)], pixel by pixel: M logits, C M locations, C M log-scales, J M
        numbers whose tanh is the pull.
    """
    each = out.reshape(*out.shape[:-1], -1, numbers(channels, mixtures))
    logits, rest = each[..., :mixtures], each[..., mixtures:]
    rest = rest.reshape(*rest.shape[:-1], -1, mixtures)
    mean, log_scale = rest[..., :channels, :], rest[..., channels : 2 * channels, :]
    return Mixture(logits, mean, log_scale, jnp.tanh(rest[..., 2 * channels :, :]))


def pulled(mixture: Mixture, channel: int, before: list[jax.Array]) -> jax.Array:
    """Returns where the components have a channel, [..., S, M], once those before it are known.

    Args:
      before: [..., S, M or 1] for each channel before, in [-1, 1].
    """
    first = channel * (channel - 1) // 2
    place = mixture.mean[..., channel, :]
    for other, value in enumerate(before):
        place = place + mixture.pull[..., first + other, :] * value
    return place


def log_p(out: jax.Array, x: jax.Array, channels: int, mixtures: int) -> jax.Array:
    """Returns log p(x), in nats, float32 [...].

    Args:
      out: see `parts`.
      x: [..., D] in [-1, 1], (2 level - 255) / 255, pixel by pixel; axes before the last as in
        `out`, or 1.
    """
    mixture = parts(out, channels, mixtures)
    x = x.reshape(*x.shape[:-1], -1, channels, 1)
    known = [x[..., i, :] for i in range(channels)]
    log_each = [
        log_bin(pulled(mixture, i, known[:i]), mixture.log_scale[..., i, :], known[i])
        for i in range(channels)
    ]
    joint = jax.nn.log_softmax(mixture.logits) + sum(log_each)
    return jax.nn.logsumexp(joint, axis=-1).astype(jnp.float32).sum(-1)


def mean(out: jax.Array, channels: int, mixtures: int) -> jax.Array:
    """Returns the picture that is shown, [..., D] in [-1, 1]: the mean over the components of
    where each has its channels.
    """
    mixture = parts(out, channels, mixtures)
    places: list[jax.Array] = []
    for i in range(channels):
        places.append(jnp.clip(pulled(mixture, i, places), -1.0, 1.0))
    share = jax.nn.softmax(mixture.logits)
    x = jnp.stack([(share * place).sum(-1) for place in places], axis=-1)
    return x.reshape(*out.shape[:-1], -1)


def draw(keys_N: jax.Array, out: jax.Array, channels: int, mixtures: int) -> jax.Array:
    """Draws 8-bit values, [N, D] in [-1, 1], from out [N, ...]; row i by its own key."""

    def one(key: jax.Array, out: jax.Array) -> jax.Array:
        mixture = parts(out, channels, mixtures)
        chosen = jax.random.categorical(jax.random.fold_in(key, 0), mixture.logits)
        hot_SM = jax.nn.one_hot(chosen, mixtures)
        noise_SC = jax.random.logistic(jax.random.fold_in(key, 1), mixture.mean.shape[:2])
        values: list[jax.Array] = []
        for i in range(channels):
            place_S = (pulled(mixture, i, [x[:, None] for x in values]) * hot_SM).sum(-1)
            log_scale_S = (mixture.log_scale[:, i] * hot_SM).sum(-1)
            # Rounded at once: the next channel follows from the value that is seen.
            values.append(level(place_S, log_scale_S, noise_SC[:, i]))
        return jnp.stack(values, axis=-1).reshape(-1)

    return jax.vmap(one)(keys_N, out)


def level(place: jax.Array, log_scale: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns the 8-bit value in whose bin a logistic draw falls, in [-1, 1]."""
    x = jnp.clip(place + jnp.exp(jnp.clip(log_scale, *LOG_SCALE)) * noise, -1.0, 1.0)
    return jnp.round((x + 1.0) * 127.5) / 127.5 - 1.0

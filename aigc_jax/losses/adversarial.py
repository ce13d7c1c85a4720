"""What two players of a GAN minimize, and the penalties on a discriminator's slope.

Letters: B = pairs of a real and a made example; logits are float32 [B], larger for "real". Every
loss returns one value for each of the B; the caller takes their mean.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

softplus = jax.nn.softplus
Logits = jax.Array


class Game(NamedTuple):
    """A zero-sum or other game: what each player minimizes, given (real, made) logits."""

    discriminator: Callable[[Logits, Logits], jax.Array]
    generator: Callable[[Logits, Logits], jax.Array]


def _cross_entropy(real: Logits, made: Logits) -> jax.Array:
    return softplus(-real) + softplus(made)


def _relativistic_average(real: Logits, made: Logits) -> jax.Array:
    return softplus(made.mean(keepdims=True) - real) + softplus(made - real.mean(keepdims=True))


def _relativistic_pairing(real: Logits, made: Logits) -> jax.Array:
    return softplus(made - real)


GAMES = {
    # Goodfellow et al. 2014 (arXiv:1406.2661), eq. 1, and the generator's loss of its section 3.
    "saturating": Game(_cross_entropy, lambda real, made: -softplus(made)),
    "non_saturating": Game(_cross_entropy, lambda real, made: softplus(-made)),
    # Lim & Ye 2017 (arXiv:1705.02894); Miyato et al. 2018 (arXiv:1802.05957), eq. 16 and 17.
    "hinge": Game(
        lambda real, made: jax.nn.relu(1.0 - real) + jax.nn.relu(1.0 + made),
        lambda real, made: -made,
    ),
    # Mao et al. 2017 (arXiv:1611.04076), eq. 9: a = 0, b = c = 1.
    "least_squares": Game(
        lambda real, made: 0.5 * ((real - 1.0) ** 2 + made**2),
        lambda real, made: 0.5 * (made - 1.0) ** 2,
    ),
    # Arjovsky et al. 2017 (arXiv:1701.07875), eq. 2 and 3; needs a slope of at most one.
    "wasserstein": Game(lambda real, made: made - real, lambda real, made: -made),
    # Jolicoeur-Martineau 2019 (arXiv:1807.00734), section 4.2: against the other side's mean.
    "relativistic_average": Game(
        _relativistic_average, lambda real, made: _relativistic_average(made, real)
    ),
    # Ibid., section 4.1; with R1 and R2 it is R3GAN (Huang et al. 2024, arXiv:2501.05441).
    "relativistic_pairing": Game(
        _relativistic_pairing, lambda real, made: _relativistic_pairing(made, real)
    ),
}


def squared_slope(judge: Callable[[jax.Array], Logits], x_B: jax.Array) -> jax.Array:
    """Returns the squared length of a discriminator's gradient at each example, [B].

    Args:
      judge: examples -> logits [B]; each logit a function of its own example alone, but for what
        batch statistics mix.
      x_B: [B, ...].
    """
    gradient = jax.grad(lambda x: judge(x).sum())(x_B)
    return (gradient**2).reshape(x_B.shape[0], -1).sum(1)


def zero_centred(squared_B: jax.Array) -> jax.Array:
    """Half the squared slope: R1 at real examples, R2 at made ones.

    Mescheder et al. 2018 (arXiv:1801.04406), eq. 9 and 10.
    """
    return 0.5 * squared_B


def one_centred(squared_B: jax.Array) -> jax.Array:
    """(slope - 1)^2: Gulrajani et al. 2017 (arXiv:1704.00028), eq. 3."""
    # The derivative of a root at 0 is infinite; a flat discriminator must not make a NaN.
    return (jnp.sqrt(squared_B + 1e-12) - 1.0) ** 2


def between(key: jax.Array, real: jax.Array, made: jax.Array) -> jax.Array:
    """Points on the lines from real examples to made ones, uniform (Gulrajani et al. 2017)."""
    share = jax.random.uniform(key, (real.shape[0], *[1] * (real.ndim - 1)))
    return real + share * (made - real)


def around(key: jax.Array, real: jax.Array) -> jax.Array:
    """Points near real examples: DRAGAN (Kodali et al. 2017, arXiv:1705.07215), as its authors'
    code has it: noise uniform in [0, 1) times half the batch's standard deviation, on a line.
    """
    far, where = jax.random.split(key)
    noise = 0.5 * jnp.std(real) * jax.random.uniform(far, real.shape)
    share = jax.random.uniform(where, (real.shape[0], *[1] * (real.ndim - 1)))
    return real + share * noise


def lecam(real: Logits, made: Logits, mean_real: jax.Array, mean_made: jax.Array) -> jax.Array:
    """Holds each side's logits to the running mean of the other's.

    Tseng et al. 2021 (arXiv:2104.03310), eq. 3. The means are scalars [1] or [].
    """
    return (real - mean_made) ** 2 + (made - mean_real) ** 2


def class_cross_entropy(logits_BL: jax.Array, label_B: jax.Array) -> jax.Array:
    """-log p(label), [B], in nats."""
    chosen = jnp.take_along_axis(logits_BL, label_B[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits_BL, axis=1) - chosen


def code_nll(
    answer_BO: jax.Array, code_BC: jax.Array, hot_BS: jax.Array, categories: tuple[int, ...] = ()
) -> jax.Array:
    """-log Q(code | example), [B], in nats, but for a constant: what Q and the generator of InfoGAN
    minimize (Chen et al. 2016, arXiv:1606.03657, eq. 5 and section 6).

    Each continuous code is normal, with a mean and a logarithm of its scale; each category has
    logits. The logarithm is held within (-3, 3): a scale of 0 would be an infinite reward.

    Args:
      answer_BO: Q's numbers, O = 2C + S: means, raw logarithms of the scales, logits.
      code_BC: the continuous codes. hot_BS: the categories, one-hot and side by side.
      categories: the sizes of these, S in all.
    """
    mean_BC, raw_BC, logits_BS = split_answer(answer_BO, code_BC.shape[1])
    log_scale_BC = 3.0 * jnp.tanh(raw_BC / 3.0)
    error_BC = (code_BC - mean_BC) * jnp.exp(-log_scale_BC)
    nll_B = (0.5 * error_BC**2 + log_scale_BC).sum(-1)
    for logits, hot in zip(*(by_category(x, categories) for x in (logits_BS, hot_BS)), strict=True):
        nll_B += class_cross_entropy(logits, hot.argmax(-1))
    return nll_B


def split_answer(answer_BO: jax.Array, codes: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns means [B, C], raw logarithms of scales [B, C] and logits [B, S]; see `code_nll`."""
    return answer_BO[:, :codes], answer_BO[:, codes : 2 * codes], answer_BO[:, 2 * codes :]


def by_category(x_BS: jax.Array, categories: tuple[int, ...]) -> list[jax.Array]:
    """Cuts what stands side by side into one array for each category."""
    ends = list(itertools.accumulate(categories))
    return [x_BS[:, end - size : end] for end, size in zip(ends, categories, strict=True)]


# Penalties by name: at which points the slope is taken, and what it is held to.
Points = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
PENALTIES: dict[str, tuple[Points, Callable[[jax.Array], jax.Array]]] = {
    "r1": (lambda key, real, made: real, zero_centred),
    "r2": (lambda key, real, made: made, zero_centred),
    "gradient_penalty": (between, one_centred),
    # Thanh-Tung et al. 2019 (arXiv:1902.03984): the squared slope itself, without the half.
    "gradient_penalty_0": (between, lambda squared: squared),
    "dragan": (lambda key, real, made: around(key, real), one_centred),
}
PENALTY_NAMES: tuple[str, ...] = (*PENALTIES, "lecam")

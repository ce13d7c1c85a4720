"""How a transformer knows the order of its tokens.

Letters in names: B batch, T time, C width, H heads, D width of a head.
"""

import math

import jax
import jax.numpy as jnp


def sinusoidal(positions_BT: jax.Array, width: int) -> jax.Array:
    """Returns sines and cosines of falling frequency to add to the embeddings, float32 [B, T, C]
    (Vaswani et al. 2017, arXiv:1706.03762, section 3.5). The sines are in the first half of C.
    """
    angles_BTF = _angles(positions_BT, width, 10_000.0)
    return jnp.concatenate([jnp.sin(angles_BTF), jnp.cos(angles_BTF)], axis=-1)


def rotate(
    x_BTHD: jax.Array, positions_BT: jax.Array, *, base: float, scaling: str, factor: float
) -> jax.Array:
    """Turns pairs of channels by an angle that grows with the position, so that a product of a
    query and a key depends on their distance alone (RoPE: Su et al. 2021, arXiv:2104.09864).

    Channel i is paired with channel i + D/2.

    Args:
      x_BTHD: queries or keys; D is even. positions_BT: int.
      base: the slowest pair turns by about 1/base a position.
      scaling: how positions beyond those of training are reached: "none"; "linear" divides the
        positions by `factor` (Chen et al. 2023, arXiv:2306.15595); "ntk" raises the base so that
        only the slowest pair is slowed by `factor`.
      factor: 1 or above.

    Returns:
      [B, T, H, D], in the dtype of `x_BTHD`; the angles are computed in float32.
    """
    width = x_BTHD.shape[-1]
    if scaling == "ntk":
        base *= factor ** (width / max(width - 2, 1))
    angles_BTF = _angles(positions_BT, width, base)
    if scaling == "linear":
        angles_BTF /= factor
    cos, sin = (f(angles_BTF)[:, :, None].astype(x_BTHD.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x_BTHD, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _angles(positions_BT: jax.Array, width: int, base: float) -> jax.Array:
    frequencies_F = base ** (-jnp.arange(width // 2, dtype=jnp.float32) * 2 / width)
    return positions_BT[..., None].astype(jnp.float32) * frequencies_F[None, None]


def alibi_slopes(heads: int) -> list[float]:
    """Returns how much a head's logits fall per token of distance, [H] (ALiBi: Press et al. 2021,
    arXiv:2108.12409, section 3): 2^(-8h/H) for h = 1 to H.

    Where H is no power of two: those of the power below, then every second one of the power above,
    as in the paper's code.
    """
    below = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * h / below) for h in range(1, below + 1)]
    return slopes + [2 ** (-4 * h / below) for h in range(1, 2 * (heads - below), 2)]


def alibi(distance_BTS: jax.Array, heads: int) -> jax.Array:
    """Returns what ALiBi adds to the logits, float32 [B, H, T, S].

    Args:
      distance_BTS: int, how far the key stands before the query; one ahead of it (in a prefix) is
        as far as one behind.
    """
    slopes_H = jnp.asarray(alibi_slopes(heads), jnp.float32)
    distance = jnp.abs(distance_BTS).astype(jnp.float32)
    return -slopes_H[None, :, None, None] * distance[:, None]

"""Convolutions as matrix products, a few pictures at a time.

XLA's CPU backend runs a transposed convolution, and the gradients of any convolution, many times
slower than the matrix products that they equal. Laid out whole, the windows of a batch are up to
sixteen times as large as the batch, and moving them costs as much as multiplying them; so they are
made, multiplied and forgotten for a few pictures at a time, which stay in the cache (under `vmap`,
as many for each of its rows).

A form lays out each window of a picture as a row, which is linear: rows(x). Of it three maps are
made, each linear in both of its arguments, and each the derivative of the others, so that gradients
of any order keep these forms:

    gathered(x, m)  = rows(x) m               a convolution
    scattered(y, m) = rows^T(y m^T)           a transposed convolution
    matched(x, y)   = y^T rows(x)             what m^T gets as its gradient

Letters: B pictures, H, W height and width, C channels, h, w numbers of windows, K values of a
window, F features.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from aigc_jax.models.layout import ROWS, parts

_BYTES = 4 << 20  # of the windows at a time: of the order of a core's cache


class Form(NamedTuple):
    """A way to lay out windows.

    Attributes:
      rows: linear, [B, H, W, C] -> [B, h, w, K].
      stride: H = stride * h, W = stride * w.
    """

    rows: Callable[[jax.Array], jax.Array]
    stride: int


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def gathered(form: Form, x_BHWC: jax.Array, m_KF: jax.Array) -> jax.Array:
    """Returns each window times a matrix, [B, h, w, F]."""

    def some(x: jax.Array) -> jax.Array:
        rows = form.rows(x)
        return (_flat(rows) @ m_KF).reshape(*rows.shape[:-1], -1)

    return _in_parts(some, _number(x_BHWC.shape, form, m_KF.shape[0]), x_BHWC)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def scattered(form: Form, y: jax.Array, m_KF: jax.Array) -> jax.Array:
    """Lays a window for each pixel of y, [B, h, w, F], and adds where they overlap: [B, H, W, C].

    The transpose of `gathered`, so K has to be a number of values that its windows have.
    """

    def some(y: jax.Array) -> jax.Array:
        rows = (_flat(y) @ m_KF.T).reshape(*y.shape[:-1], -1)
        return _transposed(form, rows)

    pixels = _pixels(form, (*y.shape[:-1], m_KF.shape[0]))
    return _in_parts(some, _number(pixels, form, m_KF.shape[0]), y)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def matched(form: Form, x_BHWC: jax.Array, y: jax.Array) -> jax.Array:
    """Returns how each value of a window goes with each feature of y, [B, h, w, F]: [F, K]."""
    window = jax.eval_shape(form.rows, x_BHWC).shape[-1]
    result = 4 * y.shape[-1] * window  # bytes, which each part adds to
    number = _number(x_BHWC.shape, form, window, result)
    if number == 1:
        return _contracted(_flat(y), _flat(form.rows(x_BHWC)))
    xs, ys = _split(x_BHWC, number), _split(y, number)

    kind = jnp.result_type(x_BHWC, y)

    def some(i: jax.Array, total: jax.Array) -> jax.Array:
        part = _contracted(_flat(ys[:, i]), _flat(form.rows(xs[:, i])))
        return total + part.astype(total.dtype)

    # Parts of a sum in bfloat16 would be lost in it.
    zero = jnp.zeros((y.shape[-1], window), jnp.promote_types(kind, jnp.float32))
    return lax.fori_loop(0, number, some, zero).astype(kind)


def _contracted(y_NF: jax.Array, x_NK: jax.Array) -> jax.Array:
    """y^T x, [F, K], where N is large.

    XLA's CPU backend is up to twice as slow at it as at a product of rows with columns, and puts
    back every transpose that it sees. So the narrower factor is turned, for good.
    """
    if y_NF.shape[-1] <= x_NK.shape[-1]:
        return lax.optimization_barrier(lax.optimization_barrier(y_NF.T) @ x_NK)
    return lax.optimization_barrier(lax.optimization_barrier(x_NK.T) @ y_NF).T


def _gathered_forward(form: Form, x: jax.Array, m: jax.Array) -> tuple[jax.Array, tuple]:
    return gathered(form, x, m), (x, m)


def _gathered_back(form: Form, kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, m = kept
    return scattered(form, g, m), matched(form, x, g).T


def _scattered_forward(form: Form, y: jax.Array, m: jax.Array) -> tuple[jax.Array, tuple]:
    return scattered(form, y, m), (y, m)


def _scattered_back(form: Form, kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    y, m = kept
    return gathered(form, g, m), matched(form, g, y).T


def _matched_forward(form: Form, x: jax.Array, y: jax.Array) -> tuple[jax.Array, tuple]:
    return matched(form, x, y), (x, y)


def _matched_back(form: Form, kept: tuple, g_FK: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, y = kept
    return scattered(form, y, g_FK.T), gathered(form, x, g_FK.T)


gathered.defvjp(_gathered_forward, _gathered_back)
scattered.defvjp(_scattered_forward, _scattered_back)
matched.defvjp(_matched_forward, _matched_back)


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(-1, x.shape[-1])


def _pixels(form: Form, rows: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the pictures that have rows of this shape."""
    batch, h, w, window = rows
    height, width = form.stride * h, form.stride * w
    values = jax.eval_shape(form.rows, jax.ShapeDtypeStruct((1, height, width, 1), jnp.float32))
    return batch, height, width, window // values.shape[-1]


def _transposed(form: Form, rows: jax.Array) -> jax.Array:
    pixels = jax.ShapeDtypeStruct(_pixels(form, rows.shape), rows.dtype)
    return jax.linear_transpose(form.rows, pixels)(rows)[0]  # type: ignore[no-any-return]


def _number(pixels: tuple[int, ...], form: Form, window: int, least: int = 0) -> int:
    """In how many parts a batch goes through: a divisor of its pictures on each device.

    Args:
      pixels: the shape of the pictures. window: values of each. least: bytes a part should have.
    """
    batch, height, width, _ = pixels
    if not isinstance(batch, int):  # an exported program leaves the number open
        return 1
    size = 4 * batch * (height // form.stride) * (width // form.stride) * window
    devices = math.prod(map(parts, ROWS))
    pictures = batch // devices if batch % devices == 0 else 1
    wanted = size / devices / max(_BYTES, least)
    return max((n for n in range(1, pictures + 1) if pictures % n == 0 and n <= wanted), default=1)


def _split(x: jax.Array, number: int) -> jax.Array:
    """[B, ...] -> [B/n, n, ...]: every part has rows of each device that holds some."""
    return x.reshape(x.shape[0] // number, number, *x.shape[1:])


def _in_parts(some: Callable[[jax.Array], jax.Array], number: int, x: jax.Array) -> jax.Array:
    """Applies what treats pictures one by one to a part of the batch at a time."""
    if number == 1:
        return some(x)
    xs = _split(x, number)
    one = jax.eval_shape(some, xs[:, 0])
    out = jnp.zeros((one.shape[0], number, *one.shape[1:]), one.dtype)
    out = lax.fori_loop(0, number, lambda i, out: out.at[:, i].set(some(xs[:, i])), out)
    return out.reshape(-1, *one.shape[1:])

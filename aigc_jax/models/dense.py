"""Dense layers, and how a few rows pass through them while text is written.

XLA's CPU compiler multiplies 2 to 16 rows with a large matrix at a third to a half of the speed at
which it could read that matrix. As a fused sum of products over the rows of the transposed matrix
it reads it once (no [N, F, C] is ever made), so decoding turns the matrices once and then uses the
turned ones; `benchmarks/few_rows.py` measures both. Elsewhere the plain product is used.

Letters: N rows, C input width, F output width.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aigc_jax.models.layout import parts
from aigc_jax.models.platform import on_cpu

TURNED = "turned"
"""The collection of variables that holds transposed kernels, by the paths of the kernels."""


def few(rows: int, dtype: Any) -> bool:
    """Whether so many rows pass faster by `of_turned` than by a product, on this platform."""
    # An exported program may leave the number open; it is no int then.
    return isinstance(rows, int) and on_cpu() and 2 <= rows <= 16 and dtype == jnp.float32


def of_turned(x: jax.Array, kernel_FC: jax.Array) -> jax.Array:
    """Returns x @ kernel^T, [..., C] -> [..., F], as a sum of products."""
    return (kernel_FC[(None,) * (x.ndim - 1)] * x[..., None, :]).sum(-1)


def prepared(params: Any, rows: int) -> dict[str, Any]:
    """Returns variables with which a model reads one token of each of so many rows faster.

    {TURNED: each dense kernel [..., C, F] as [..., F, C]}, or {} where plain products are faster.
    """
    kernels = [x for path, x in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    if not all(few(rows, kernel.dtype) for kernel in kernels):
        return {}
    return {TURNED: _turned(params)}


@jax.jit
def _turned(params: Any) -> Any:
    found = {}
    for name, inner in params.items():
        if isinstance(inner, dict):
            if below := _turned(inner):
                found[name] = below
        elif name == "kernel":
            found[name] = inner.swapaxes(-1, -2)
    return found


class Dense(nn.Dense):
    """`flax.linen.Dense`, which uses its kernel in TURNED where there is one."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[B, T, C] -> [B, T, F]."""
        x, whole = _rows(inputs)
        kernel_FC: Any = self.get_variable(TURNED, "kernel")
        if kernel_FC is None:
            return whole(super().__call__(x))
        y = of_turned(x, kernel_FC)
        if self.use_bias:
            y += self.get_variable("params", "bias")[(None,) * (y.ndim - 1)]
        return whole(y)


def logits_of(x_BTC: jax.Array, head_VC: jax.Array, *, decoding: bool) -> jax.Array:
    """Returns x @ head^T, float32 [B, T, V]; the table of embeddings stands turned already."""
    x, whole = _rows(x_BTC)
    if decoding and few(x.shape[0], x.dtype):
        return whole(of_turned(x, head_VC))
    return whole(jnp.einsum("...c,vc->...v", x, head_VC, preferred_element_type=jnp.float32))


def _rows(x_BTC: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """Returns [B, T, C] as [N, C], and what makes the product whole again.

    The same products, but XLA's CPU compiler then makes no transposed copies for the weights'
    gradients. Not where a mesh splits the places of a row: N would be split in no order that a
    mesh can say, and everything be gathered.
    """
    if parts("sequence") > 1:
        return x_BTC, lambda y: y
    rows, width = x_BTC.shape[:-1], x_BTC.shape[-1]
    return x_BTC.reshape(-1, width), lambda y: y.reshape(*rows, y.shape[-1])

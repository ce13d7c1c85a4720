"""Dense layers, and how a few rows pass through them while text is written.

XLA's CPU compiler multiplies 2 to 16 rows with a large matrix at a third to a half of the speed at
which it could read that matrix. As a fused sum of products over the rows of the transposed matrix
it reads it once (no [N, F, C] is ever made), so decoding turns the matrices once and then uses the
turned ones; `benchmarks/few_rows.py` measures both. Elsewhere the plain product is used.

Letters: N rows, C input width, F output width.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

TURNED = "turned"
"""The collection of variables that holds transposed kernels, by the paths of the kernels."""


def few(rows: int, dtype: Any) -> bool:
    """Whether so many rows pass faster by `of_turned` than by a product, on this platform."""
    return jax.default_backend() == "cpu" and 2 <= rows <= 16 and dtype == jnp.float32


def of_turned(x_NC: jax.Array, kernel_FC: jax.Array) -> jax.Array:
    """Returns x @ kernel^T, [N, F], as a sum of products."""
    return (kernel_FC[None] * x_NC[:, None]).sum(-1)


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
    """`flax.linen.Dense` on [N, C], which uses its kernel in TURNED where there is one."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """[N, C] -> [N, F]."""
        kernel_FC: Any = self.get_variable(TURNED, "kernel")
        if kernel_FC is None:
            return super().__call__(inputs)
        y_NF = of_turned(inputs, kernel_FC)
        if self.use_bias:
            y_NF += self.get_variable("params", "bias")[None]
        return y_NF


def logits_of(x_NC: jax.Array, head_VC: jax.Array, *, decoding: bool) -> jax.Array:
    """Returns x @ head^T, float32 [N, V]; the table of embeddings stands turned already."""
    if decoding and few(x_NC.shape[0], x_NC.dtype):
        return of_turned(x_NC, head_VC)
    return jnp.einsum("nc,vc->nv", x_NC, head_VC, preferred_element_type=jnp.float32)

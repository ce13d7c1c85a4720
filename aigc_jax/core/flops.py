"""Floating-point operations of a function, counted in its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Counts the floating-point operations of all matrix products and convolutions.

    A multiply-add counts as two. What the traced program does counts: the backward pass, every
    turn of a scan, and what rematerialization computes again; a loop whose length is not known
    counts once, of branches the dearest counts. Elementwise work is left out, as is customary for
    model FLOPs (PaLM, arXiv:2204.02311, appendix B).

    Args:
      function: traceable. *args: arrays or their shapes (`jax.ShapeDtypeStruct`).
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            lhs = eqn.invars[0].aval.shape
            total += (
                2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[d] for d in contracted)
            )
        elif name == "conv_general_dilated":
            # Each output value sums over the kernel's window and input channels.
            numbers, rhs = eqn.params["dimension_numbers"], eqn.invars[1].aval.shape
            window = math.prod(rhs) // rhs[numbers.rhs_spec[0]]
            # Zeros that dilation puts between inputs are not work.
            dilated = math.prod(eqn.params["lhs_dilation"])
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * window // dilated
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in eqn.params["branches"])
        else:
            turns = eqn.params["length"] if name == "scan" else 1
            total += turns * sum(_count(inner) for inner in _inner(eqn.params))
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    found = []
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                found.append(item)
            elif hasattr(getattr(item, "jaxpr", None), "eqns"):
                found.append(item.jaxpr)
    return found

"""Which options of a transformer are in range and fit together.

`o` is a `models.transformer.Transformer`, of which only the options are read.
"""

import math
from typing import Any, get_args

from aigc_jax.errors import UserError
from aigc_jax.models.attention import unfused

# What older run folders may say.
_RENAMED = {("remat", "block"): "full", ("remat", "products"): "dots_no_batch"}


def check(o: Any) -> None:
    """Raises UserError, one line that says what came, what was expected and what to do."""

    def no(name: str, expected: str) -> UserError:
        return UserError(f"task.model.{name}={getattr(o, name)!r}: expected {expected}.")

    for name, field in type(o).__dataclass_fields__.items():
        allowed = get_args(field.type)
        if allowed and isinstance(allowed[0], str) and getattr(o, name) not in allowed:
            now = _RENAMED.get((name, getattr(o, name)))
            hint = f" (it is called '{now}' now)" if now else ""
            raise no(name, f"one of {', '.join(allowed)}{hint}")
    for name in ("layers", "heads", "width", "mlp_ratio"):
        if getattr(o, name) < 1:
            raise no(name, "1 or more")
    for name in ("kv_heads", "window", "max_positions", "attention_cap", "logit_cap",
                 "attention_block", "base_width", "base_heads"):  # fmt: skip
        if not 0 <= getattr(o, name) < math.inf:
            raise no(name, "0 or more")
    for name in ("init_std", "embed_std", "rope_base"):
        if not 0.0 < getattr(o, name) < math.inf:
            raise no(name, "a number above 0")
    if not 0.0 <= o.dropout < 1.0:
        raise no("dropout", "a number in [0, 1)")
    if o.base_heads and not o.base_width:
        raise no("base_heads", "0 unless base_width says how wide the base model is")
    _check_together(o)
    _check_memory(o)


def _check_memory(o: Any) -> None:
    if o.attention_block and o.attention not in ("auto", "blockwise"):
        raise UserError(
            f"task.model: attention_block={o.attention_block} is for attention='blockwise' (or"
            f" 'auto'), not '{o.attention}'; leave it at 0."
        )
    why = unfused(o, o.dropout) if o.attention == "fused" else ""
    if why:
        raise UserError(f"task.model.attention='fused' is cuDNN's: {why}; take 'auto'.")


def _check_together(o: Any) -> None:
    if o.width % o.heads:
        raise UserError(
            f"task.model: width={o.width} is not a multiple of heads={o.heads};"
            f" try width={o.width // o.heads * o.heads or o.heads}."
        )
    if o.heads % (o.kv_heads or o.heads):
        fits = [k for k in range(1, o.heads + 1) if o.heads % k == 0]
        raise UserError(
            f"task.model: kv_heads={o.kv_heads} does not divide heads={o.heads};"
            f" it can be {', '.join(map(str, fits))}."
        )
    depth = o.width // o.heads
    if o.positions == "rope" and depth % 2:
        raise UserError(
            f"task.model: positions='rope' turns pairs of channels, and a head has"
            f" width/heads = {depth}, an odd number."
        )
    if o.positions == "sinusoidal" and o.width % 2:
        raise UserError(f"task.model: positions='sinusoidal' needs an even width, not {o.width}.")
    if (o.rope_scaling, o.rope_factor) != ("none", 1.0):
        if o.positions != "rope":
            raise UserError(
                f"task.model: rope_scaling='{o.rope_scaling}' and rope_factor="
                f"{o.rope_factor} go with positions='rope', not '{o.positions}'."
            )
        if o.rope_scaling == "none" or not 1.0 <= o.rope_factor < math.inf:
            raise UserError(
                f"task.model: rope_factor={o.rope_factor} with rope_scaling="
                f"'{o.rope_scaling}': expected 1 or above, and 'linear' or 'ntk'."
            )
    if o.max_positions and o.positions != "learned":
        raise UserError(
            f"task.model: max_positions={o.max_positions} is the size of the learned table;"
            f" positions='{o.positions}' has none. Leave it at 0."
        )
    if 0 < o.max_positions < o.context:
        raise UserError(
            f"task.model: a context of {o.context} is longer than the {o.max_positions}"
            f" learned positions; set task.model.max_positions={o.context} (or 0), or"
            f" data.context={o.max_positions}, or take positions='rope' or 'alibi'."
        )

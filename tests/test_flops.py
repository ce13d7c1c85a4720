"""Floating-point operations against formulas worked out by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import optim
from aigc_jax.core.flops import count_flops
from aigc_jax.core.task import State
from aigc_jax.core.task import weights as weights_of
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.tasks import lm

A, B = jnp.ones((3, 4)), jnp.ones((4, 5))
PRODUCT = 2 * 3 * 4 * 5


def test_a_product_and_its_gradient() -> None:
    assert count_flops(jnp.matmul, A, B) == PRODUCT
    assert count_flops(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), A, B) == 3 * PRODUCT
    batched = count_flops(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b), *map(jnp.stack, ([A] * 7, [B] * 7))
    )
    assert batched == 7 * PRODUCT
    assert count_flops(lambda a: jnp.tanh(a) + a, A) == 0


def test_shapes_are_enough() -> None:
    assert (
        count_flops(jnp.matmul, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (A, B)))
        == PRODUCT
    )


def test_loops_branches_and_nested_functions() -> None:
    square = jnp.ones((4, 4))
    once = 2 * 4**3

    def turns(x: jax.Array) -> Any:
        return jax.lax.scan(lambda c, _: (c @ c, None), x, length=6)

    assert count_flops(turns, square) == 6 * once
    assert count_flops(jax.jit(jax.vmap(turns)), jnp.stack([square] * 2)) == 2 * 6 * once
    endless = lambda x: jax.lax.while_loop(lambda c: c[0, 0] < 9, lambda c: c @ c, x)  # noqa: E731
    assert count_flops(endless, square) == once
    branches = [lambda x: x, lambda x: x @ x @ x, lambda x: x @ x]
    assert count_flops(lambda i, x: jax.lax.switch(i, branches, x), 0, square) == 2 * once


def test_what_is_computed_again_counts_again() -> None:
    def loss(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sin(jnp.sin(a @ b) @ b.T).sum()

    plain = count_flops(jax.grad(loss, (0, 1)), A, B)
    again = count_flops(jax.grad(jax.checkpoint(loss), (0, 1)), A, B)
    assert plain == 6 * PRODUCT
    assert again == plain + 2 * PRODUCT


def test_convolutions() -> None:
    x, kernel = jnp.ones((2, 8, 8, 6)), jnp.ones((3, 3, 6, 10))
    layout = ("NHWC", "HWIO", "NHWC")

    def conv(x: jax.Array, k: jax.Array, **settings: Any) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=layout, **settings
        )

    assert count_flops(conv, x, kernel) == 2 * (2 * 4 * 4 * 10) * (3 * 3 * 6)
    # Backward, the zeros that stand between dilated values are not counted: the same products.
    back = jax.linear_transpose(lambda x: conv(x, kernel), x)
    assert count_flops(back, jnp.ones((2, 4, 4, 10))) == count_flops(conv, x, kernel)
    grouped = jnp.ones((3, 3, 3, 10))
    assert count_flops(lambda x, k: conv(x, k, feature_group_count=2), x, grouped) == (
        2 * (2 * 4 * 4 * 10) * (3 * 3 * 3)
    )


ROWS, TIME, VOCAB, LAYERS, WIDTH, RATIO = 4, 8, 11, 3, 16, 4


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_transformer_forward_and_backward_by_hand(accumulate: int) -> None:
    facts = {"vocab_size": VOCAB, "context": TIME, "token_bytes": np.ones(VOCAB)}
    shapes = {k: ArraySpec((ROWS, TIME), "int32") for k in ("inputs", "targets")}
    model = {"name": "transformer", "layers": LAYERS, "heads": 2, "width": WIDTH}
    task = lm.make(Spec(shapes, facts), optim.make(9), model, accumulate=accumulate)
    batch = {k: jax.ShapeDtypeStruct((ROWS, TIME), jnp.int32) for k in ("inputs", "targets")}
    batch["mask"] = jax.ShapeDtypeStruct((ROWS, TIME), jnp.float32)
    hyper = {k: jnp.float32(v) for k, v in {**optim.HYPER, **lm.HYPER}.items()}
    state = jax.eval_shape(task.init, jax.random.key(0), hyper)

    # A token: query, key, value, out; the two of the MLP; logits and weighted sums over T places.
    weights = 4 * WIDTH**2 + 2 * RATIO * WIDTH**2
    attention = 2 * TIME * WIDTH
    forward = ROWS * TIME * 2 * (LAYERS * (weights + attention) + VOCAB * WIDTH)

    def judge(state: State, batch: Any) -> Any:
        return task.eval(weights_of(state), batch, jax.random.key(0))

    assert count_flops(judge, state, batch) == forward
    # Backward, each product is two: towards its input and towards its weights.
    assert count_flops(task.step, state, batch) == 3 * forward

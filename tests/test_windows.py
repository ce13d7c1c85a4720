"""Convolutions as matrix products: equal to the plain ones, in parts and whole, to any order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.models import convolution, patches, windows

# name -> (plain form, as products, side of its kernel, how it is laid out)
FORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int, windows.Form]] = {
    "down": (convolution._down_plain, convolution._down_product, 4, convolution._FORM),
    "up": (convolution._up_plain, convolution._up_product, 4, convolution._FORM),
    "near": (patches._plain, patches._product, 3, patches._NEAR),
}


@pytest.fixture(params=["whole", "in parts"])
def in_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the pictures of a batch go through one by one."""
    if request.param == "in parts":
        # What a part of `matched` adds to is larger than any part of these small batches.
        monkeypatch.setattr(windows, "_number", lambda pixels, *_: pixels[0])
    jax.clear_caches()  # of what was traced with another number of parts
    return bool(request.param == "in parts")


def arrays(name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    side = FORMS[name][2]
    kernel = rng.normal(size=(side, side, shape[-1], 7))
    return [jnp.asarray(v, dtype) for v in (rng.normal(size=shape), kernel)]


def loops(function: Callable[..., Any], *args: jax.Array) -> str:
    return str(jax.make_jaxpr(function)(*args))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 2, 2, 1), (6, 4, 4, 9)])
def test_equal_plain_convolutions_in_value_and_gradients(
    name: str, shape: tuple[int, ...], in_parts: bool
) -> None:
    """In float64, so that nothing but a wrong formula makes a difference."""
    plain, product, *_ = FORMS[name]
    with jax.enable_x64(True):
        x, kernel = arrays(name, shape)
        assert ("scan" in loops(product, x, kernel)) == (in_parts and shape[0] > 1)
        one, two = plain(x, kernel), product(x, kernel)
        assert one.shape == two.shape
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-12)
        weight = jnp.sin(jnp.arange(one.size, dtype=jnp.float64)).reshape(one.shape)

        def value(form: Callable[..., Any], *args: jax.Array) -> jax.Array:
            return (jnp.tanh(form(*args)) * weight).sum()

        def slope(form: Callable[..., Any], *args: jax.Array) -> jax.Array:
            """What a penalty of the discriminator's slope looks at."""
            by_x, by_kernel = jax.grad(value, (1, 2))(form, *args)
            return (by_x**2).sum() + (by_kernel**3).sum()

        for function in (value, slope):
            for i in (1, 2):
                a, b = (jax.grad(function, i)(form, x, kernel) for form in (plain, product))
                np.testing.assert_allclose(b, a, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", FORMS)
def test_under_vmap_and_within_a_scan(name: str, in_parts: bool) -> None:
    plain, product, *_ = FORMS[name]
    x, kernel = arrays(name, (2, 4, 4, 3), np.float32)
    both = jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel])

    def loss(form: Callable[..., Any], x: jax.Array, kernel: jax.Array) -> jax.Array:
        return (form(x, kernel) ** 2).mean()

    def several(form: Callable[..., Any]) -> Any:
        def body(kernel: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
            return kernel - 0.01 * jax.grad(loss, 2)(form, x, kernel), None

        many = jax.vmap(jax.grad(loss, (1, 2)), (None, 0, 0))(form, *both)
        return many, jax.lax.scan(body, kernel, jnp.stack([x, x]))[0]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4),
        several(plain), several(product),
    )  # fmt: skip


def test_sums_of_parts_in_bfloat16_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient of a kernel is a sum over all pictures: 512 parts that are alike, of which a
    sum in bfloat16 would see no more after the 256th.
    """
    _, product, side, _ = FORMS["down"]
    x, kernel = jnp.ones((512, 2, 2, 1), jnp.bfloat16), jnp.ones((side, side, 1, 1), jnp.bfloat16)

    def loss(kernel: jax.Array) -> jax.Array:
        return product(x, kernel).astype(jnp.float32).sum()

    whole = jax.grad(loss)(kernel)
    monkeypatch.setattr(windows, "_number", lambda pixels, *_: pixels[0])
    jax.clear_caches()
    in_parts = jax.grad(loss)(kernel)
    assert in_parts.dtype == jnp.bfloat16 and float(in_parts.max()) == 512.0
    np.testing.assert_array_equal(in_parts, whole)


def test_an_open_number_of_pictures_goes_whole() -> None:
    """As in an exported program."""
    _, product, side, _ = FORMS["down"]
    shape = jax.export.symbolic_shape("b, 8, 8, 3")
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernel = jnp.ones((side, side, 3, 5))
    made = jax.export.export(jax.jit(lambda x: product(x, kernel)))(x)
    pictures = np.ones((3, 8, 8, 3), np.float32)
    np.testing.assert_allclose(made.call(pictures), product(pictures, kernel), rtol=1e-6)


def test_large_batches_go_in_parts_and_small_ones_whole() -> None:
    _, product, side, form = FORMS["down"]
    kernel = jnp.zeros((side, side, 64, 128))
    # 64 pictures of 32x32x64: 67 MB of windows, of which 4 MiB are made at a time.
    assert windows._number((64, 32, 32, 64), form, side * side * 64) == 16
    assert "scan" in loops(product, jnp.zeros((64, 32, 32, 64)), kernel)
    assert "scan" not in loops(product, jnp.zeros((2, 32, 32, 64)), kernel)
    # A prime number of pictures has no other parts than single ones, which are too small.
    assert windows._number((61, 32, 32, 64), form, side * side * 64) == 1
    # Each part of the kernel's gradient is added to all of it, so that parts are not small then.
    assert windows._number((64, 8, 8, 256), form, 16 * 256) == 4
    assert windows._number((64, 8, 8, 256), form, 16 * 256, least=8 << 20) == 2


def test_the_windows_of_a_whole_batch_are_never_held() -> None:
    """64 pictures of 32x32x64 have windows of 67 MB; their layer and its gradients need less."""
    _, product, *_ = FORMS["down"]
    x, kernel = jnp.zeros((64, 32, 32, 64)), jnp.zeros((4, 4, 64, 128))

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return (product(x, kernel) ** 2).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(x, kernel).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 50e6

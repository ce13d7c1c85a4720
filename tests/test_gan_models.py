"""Networks of GANs: equal forms of a convolution, published sizes, labels, spectral vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import config, tree
from aigc_jax.errors import UserError
from aigc_jax.models import convolution, dcgan, gan_mlp, r3gan, sngan
from aigc_jax.models.augment import augment
from aigc_jax.models.conditioning import ClassNorm, Head, spread_of_batch


@pytest.mark.parametrize("form", ["down", "up"])
@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 2, 2, 1), (3, 4, 4, 5)])
def test_products_equal_convolutions_in_value_and_gradient(
    form: str, shape: tuple[int, ...]
) -> None:
    plain, product = (getattr(convolution, f"_{form}_{kind}") for kind in ("plain", "product"))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 4, shape[-1], 7)), jnp.float32)
    one, two = plain(x, kernel), product(x, kernel)
    side = shape[1] // 2 if form == "down" else shape[1] * 2
    assert one.shape[:2] == (shape[0], side)
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=2e-5)
    weight = jnp.asarray(rng.normal(size=one.shape), jnp.float32)
    for i in (0, 1):
        a, b = (
            jax.grad(lambda *args, f=f: (f(*args) * weight).sum(), argnums=i)(x, kernel)
            for f in (plain, product)
        )
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-4)


def test_down_equals_a_loop_in_float64() -> None:
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(1, 4, 4, 2)), rng.normal(size=(4, 4, 2, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    want = np.zeros((1, 2, 2, 3))
    for i in range(2):
        for j in range(2):
            window = padded[0, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            want[0, i, j] = np.einsum("hwc,hwcf->f", window, kernel)
    found = convolution.down(jnp.float32(x), jnp.float32(kernel))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


def test_the_form_is_chosen_by_platform() -> None:
    x, kernel = jnp.zeros((1, 4, 4, 1)), jnp.zeros((4, 4, 1, 1))
    for form in (convolution.down, convolution.up):
        traced = jax.jit(form).trace(x, kernel)
        assert "stablehlo.convolution" not in traced.lower(lowering_platforms=("cpu",)).as_text()
        assert "stablehlo.convolution" in traced.lower(lowering_platforms=("cuda",)).as_text()


def sizes(pair: Any, shape: tuple[int, ...]) -> tuple[int, int]:
    """Parameters of the generator and of the discriminator."""
    label = jnp.zeros((2,), jnp.int32)
    z, x = jnp.zeros((2, pair.latents)), jnp.zeros((2, *shape))
    shapes = [
        jax.eval_shape(lambda: pair.generator.init(jax.random.key(0), z, label, train=False)),
        jax.eval_shape(lambda: pair.discriminator.init(jax.random.key(0), x, label, train=False)),
    ]
    return tuple(tree.count(s["params"]) for s in shapes)  # type: ignore[return-value]


def test_dcgan_has_the_size_of_pytorchs_example() -> None:
    # 3,576,704 and 2,765,568 there. Ours has a bias in the last layer (1), and none elsewhere.
    shape = (64, 64, 3)
    assert sizes(dcgan.make(shape, 0), shape) == (3_576_704, 2_765_569)


def test_the_classic_pair_has_the_size_of_its_layers() -> None:
    shape = (28, 28, 1)
    generator = 101 * 256 + 257 * 512 + 513 * 784
    discriminator = 785 * 512 + 513 * 256 + 257
    assert sizes(gan_mlp.make(shape, 10), shape) == (generator, discriminator)


PAIRS = {
    "gan_mlp": {"generator_widths": (5,), "discriminator_widths": (6,), "latents": 3},
    "dcgan": {"generator_width": 2, "discriminator_width": 2, "latents": 3},
    "sngan": {"generator_width": 4, "discriminator_width": 4, "latents": 3},
    "r3gan": {"widths": (4, 4), "groups": 2, "latents": 3},
}
LABELS = ("none", "concat", "projection", "classifier")


def build(name: str, **changes: Any) -> Any:
    settings = {**PAIRS[name], **changes}
    return config.maker("models", name)(shape=(8, 8, 1), classes=3, **settings)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("labels", LABELS)
def test_a_pair_makes_and_judges(name: str, labels: str) -> None:
    side = "none" if labels == "none" else "concat"
    pair = build(name, generator_labels=side, discriminator_labels=labels)
    key, label = jax.random.key(0), jnp.array([0, 2])
    z = jax.random.normal(key, (2, 3))
    made, variables = pair.generator.init_with_output(key, z, label, train=False)
    assert made.shape == (2, 8, 8, 1) and made.dtype == jnp.float32
    # A fresh residual block of r3gan or a bias of zero must not make it the same for all latents.
    assert np.abs(made[0] - made[1]).max() > 0
    judge, x = pair.discriminator, jax.random.normal(key, (2, 8, 8, 1))
    own = judge.init(key, x, label, train=False)
    judged = judge.apply(own, x, label, train=False)
    assert judged.logits.shape == (2, 1) and judged.features.shape[0] == 2
    assert (judged.classes is None) == (labels != "classifier")
    other = judge.apply(own, x, jnp.array([1, 1]), train=False)
    moved = np.abs(np.asarray(other.logits - judged.logits)).max() > 0
    assert moved == (labels in ("concat", "projection"))
    elsewhere = pair.generator.apply(variables, z, jnp.array([1, 1]), train=False)
    assert (np.abs(np.asarray(elsewhere - made)).max() > 0) == (side == "concat")


def test_class_norm_has_a_scale_for_each_class() -> None:
    x = jax.random.normal(jax.random.key(0), (64, 5)) * 3.0 + 2.0
    label = jnp.arange(64) % 2
    layer = ClassNorm(2)
    variables = layer.init(jax.random.key(1), x, label, train=False)
    variables["params"]["scale"] = jnp.stack([jnp.ones(5), jnp.full(5, 2.0)])
    variables["params"]["bias"] = jnp.stack([jnp.zeros(5), jnp.ones(5)])
    found, kept = layer.apply(variables, x, label, train=True, mutable=["batch_stats"])
    normal = (np.asarray(x) - np.asarray(x).mean(0)) / np.sqrt(np.asarray(x).var(0) + 1e-5)
    want = np.where(np.asarray(label)[:, None] == 0, normal, 2 * normal + 1)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    running = kept["batch_stats"]["norm"]["mean"]
    np.testing.assert_allclose(running, 0.1 * np.asarray(x).mean(0), rtol=1e-4)


def test_spectral_norm_brings_the_largest_singular_value_to_one() -> None:
    head = Head(2, "none", spectral_norm=True)
    x, label = jax.random.normal(jax.random.key(0), (8, 6)), jnp.zeros(8, jnp.int32)
    variables = head.init(jax.random.key(1), x, label, train=False)
    variables["params"]["logits"]["kernel"] *= 10.0
    for _ in range(3):
        judged, kept = head.apply(variables, x, label, train=True, mutable=["batch_stats"])
        variables = {**variables, **kept}
    kernel = variables["params"]["logits"]["kernel"]
    want = x @ (kernel / jnp.linalg.norm(kernel)) + variables["params"]["logits"]["bias"][None]
    np.testing.assert_allclose(judged.logits, want, rtol=1e-5, atol=1e-6)
    # Evaluation leaves the vectors alone.
    again = head.apply(variables, x, label, train=False)
    np.testing.assert_allclose(again.logits, judged.logits, rtol=1e-5, atol=1e-6)


def test_the_spread_of_a_collapsed_batch_is_nothing() -> None:
    same, other = jnp.ones((4, 3)), jax.random.normal(jax.random.key(0), (4, 3))
    assert spread_of_batch(same)[:, 3].max() < 1e-3
    np.testing.assert_allclose(
        spread_of_batch(other)[:, 3], np.full(4, np.asarray(other).std(0).mean()), rtol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gan_mlp", {"latents": 0}, "from 1 on"),
        ("gan_mlp", {"generator_labels": "norm", "discriminator_labels": "concat"}, "use 'concat'"),
        ("dcgan", {"generator_labels": "concat"}, "both players see labels"),
        ("dcgan", {"discriminator_labels": "projections"}, "expected one of none, concat"),
        ("r3gan", {"groups": 3}, "must divide twice each"),
    ],
)
def test_a_bad_setting_is_answered(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build(name, **changes)


@pytest.mark.parametrize("network", [dcgan, sngan, r3gan])
def test_a_shape_that_can_not_be_made_is_answered(network: Any) -> None:
    for shape in ((9, 9, 1), (16, 8, 1), (2,)):
        with pytest.raises(UserError, match=r"set data\.size"):
            network.make(shape, 0)
    with pytest.raises(UserError, match="needs labels"):
        network.make((16, 16, 1), 0, generator_labels="concat", discriminator_labels="concat")


# --- augmentation ---------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["diffaugment", "ada"])
def test_augmentation_changes_each_example_by_its_own_draw(policy: str) -> None:
    x = jnp.tile(jax.random.uniform(jax.random.key(0), (1, 8, 8, 3), minval=-1), (6, 1, 1, 1))
    one = augment(policy, jax.random.key(1), x, jnp.ones(()))
    again = augment(policy, jax.random.key(1), x, jnp.ones(()))
    assert one.shape == x.shape and (one == again).all()
    assert len(np.unique(np.asarray(one).reshape(6, -1), axis=0)) == 6
    gradient = jax.grad(lambda x: augment(policy, jax.random.key(1), x, jnp.ones(())).sum())(x)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_adas_strength_is_the_share_that_changes() -> None:
    x = jax.random.uniform(jax.random.key(0), (400, 4, 4, 1), minval=-1)

    def changed(p: float) -> float:
        found = augment("ada", jax.random.key(1), x, jnp.float32(p))
        return float((np.abs(np.asarray(found - x)).reshape(400, -1).max(1) > 0).mean())

    assert changed(0.0) == 0.0
    # Seven changes, one of which does nothing to gray pixels, a few nothing by chance.
    assert 0.3 < changed(0.1) < 1 - 0.9**6 + 0.06
    assert changed(1.0) > 0.99
    assert (augment("none", jax.random.key(1), x, jnp.ones(())) == x).all()


def test_translation_moves_whole_pixels_and_brings_in_black() -> None:
    from aigc_jax.models.augment import translation

    x = jnp.ones((300, 8, 8, 1))
    moved = np.asarray(translation(jax.random.key(0), x))
    assert set(np.unique(moved)) == {-1.0, 1.0}
    lost = (moved == -1).sum((1, 2, 3))
    assert set(lost) == {0, 8, 15}  # by none, one side, or both

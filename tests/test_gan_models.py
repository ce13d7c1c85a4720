"""Networks of GANs: equal forms of a convolution, published sizes, labels, spectral vectors."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import config, tree
from aigc_jax.errors import UserError
from aigc_jax.models import augment as augmentation
from aigc_jax.models import convolution, dcgan, gan_mlp, r3gan, sngan
from aigc_jax.models.augment import Strength, augment
from aigc_jax.models.conditioning import ClassNorm, Head, spread_of_batch


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


def test_dcgan_has_infogans_dense_layers() -> None:
    shape = (28, 28, 1)
    # 74-1024-7x7x128-14x14x64-28x28 and back (Chen et al. 2016, appendix C.1), without its last
    # layer of 128 for codes; normalized layers have no bias here.
    generator = 74 * 1024 + 2 * 1024 + 1024 * 6272 + 2 * 128 + 16 * 128 * 64 + 2 * 64 + 16 * 64
    discriminator = 16 * 64 + 16 * 64 * 128 + 2 * 128 + 6272 * 1024 + 2 * 1024 + 1024 + 1
    pair = dcgan.make(shape, 0, latents=74, hidden=1024)
    assert sizes(pair, shape) == (generator, discriminator)


@pytest.mark.parametrize("hidden", [0, 16])
def test_two_convolutions_see_a_whole_digit_through_a_dense_layer_alone(hidden: int) -> None:
    pair = dcgan.make((28, 28, 1), 0, discriminator_width=4, hidden=hidden, norm=False)
    net, label = pair.discriminator, jnp.zeros((4,), jnp.int32)
    x = jnp.zeros((4, 28, 28, 1)).at[1::2, :8].set(1.0).at[2:, 20:].set(1.0)
    variables = net.init(jax.random.key(0), x, label, train=False)
    wide = jax.tree.map(lambda v: 20.0 * v, variables)  # the layers begin nearly linear
    none, top, bottom, both = np.asarray(net.apply(wide, x, label, train=False).logits).ravel()
    apart = abs(both - top - bottom + none)
    assert (apart > 0.01 * abs(both)) == bool(hidden)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dcgan_computes_in_the_dtype_that_it_is_told(dtype: str) -> None:
    pair = dcgan.make((16, 16, 3), 0, generator_width=4, discriminator_width=4, dtype=dtype)
    z, label, x = jnp.ones((2, 100)), jnp.zeros((2,), jnp.int32), jnp.ones((2, 16, 16, 3))
    for net, seen in ((pair.generator, z), (pair.discriminator, x)):
        variables = net.init(jax.random.key(0), seen, label, train=False)
        assert {v.dtype for v in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

        def run(seen: Any, net: Any = net, variables: Any = variables) -> Any:
            return net.apply(variables, seen, label, train=True, mutable=["batch_stats"])

        out, kept = run(seen)
        answer = out if net is pair.generator else out.logits
        assert answer.dtype == jnp.float32 and np.isfinite(answer).all()
        assert {v.dtype for v in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
        text = jax.jit(run).trace(seen).lower(lowering_platforms=("cuda",)).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        assert len(lines) == 2 and all(("bf16" in line) == (dtype == "bfloat16") for line in lines)


def test_the_classic_pair_has_the_size_of_its_layers() -> None:
    shape = (28, 28, 1)
    generator = 101 * 256 + 257 * 512 + 513 * 784
    discriminator = 785 * 512 + 513 * 256 + 257
    assert sizes(gan_mlp.make(shape, 10), shape) == (generator, discriminator)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [({}, (20_781_952, 21_280_512)), ({"labels": "none"}, (20_732_160, 20_683_776))],
)
def test_r3gan_has_the_size_of_its_authors_code(
    labels: dict[str, str], wanted: tuple[int, int]
) -> None:
    """Counted in github.com/brownvc/R3GAN, preset CIFAR10, with and without labels."""
    recipe = Path(__file__).resolve().parent.parent / "configs/gan/cifar10_r3gan.py"
    model = config.to_dict(config.load(str(recipe)))["task"]["model"]
    model |= {"generator_labels": "none", "discriminator_labels": "none"} if labels else {}
    assert model.pop("name") == "r3gan"
    shape = (32, 32, 3)
    assert sizes(r3gan.make(shape, 10, **model), shape) == wanted


def test_r3gans_resampling_equals_a_loop_in_float64() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 6, 3))
    line = np.convolve([1.0, 2.0, 1.0], [1.0, 1.0])
    kernel = np.outer(line, line) / line.sum() ** 2
    up, down = np.zeros((2, 10, 14, 3)), np.zeros((2, 2, 3, 3))
    for i in range(4):  # each pixel lays the filter down, four times as strong, every second place
        for j in range(6):
            patch = 4 * kernel[None, :, :, None] * x[:, i, j][:, None, None]
            up[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += patch
    wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(2):  # each pixel reads by the filter, every second place
        for j in range(3):
            window = wide[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            down[:, i, j] = (window * kernel[None, :, :, None]).sum((1, 2))
    np.testing.assert_allclose(r3gan.doubled(jnp.float32(x)), up[:, 1:-1, 1:-1], atol=1e-6)
    np.testing.assert_allclose(r3gan.halved(jnp.float32(x)), down, atol=1e-6)


def test_r3gan_begins_without_its_blocks_and_trains_all_of_them() -> None:
    pair = r3gan.make((8, 8, 3), 3, latents=5, widths=(8, 6), blocks=(2, 1), groups=(4, 3),
                      label_widths=(2, 4), generator_labels="concat",
                      discriminator_labels="projection", dtype="bfloat16")  # fmt: skip
    key, label = jax.random.key(0), jnp.array([0, 2])
    z, x = jax.random.normal(key, (2, 5)), jax.random.normal(key, (2, 8, 8, 3))
    drawn = {
        "generator": (pair.generator, z), "discriminator": (pair.discriminator, x)
    }  # fmt: skip
    for name, (net, data) in drawn.items():
        params = net.init(key, data, label, train=False)["params"]
        blocks = [block for path, block in params.items() if path.startswith("block")]
        assert len(blocks) == 3 and all((b["back"]["kernel"] == 0).all() for b in blocks)
        # Fix-up: the standard deviation of a layer, times (blocks of all sizes)^(-1/4).
        wide = params["block_0_0"]["wide"]["kernel"]
        want = (2 / 1.04 / wide.shape[2]) ** 0.5 * 3**-0.25
        assert abs(wide.std() / want - 1) < 0.25 and abs(wide.mean()) < want / 2

        def total(params: Any, net: Any = net, data: jax.Array = data) -> tuple[jax.Array, Any]:
            out, kept = net.apply(
                {"params": params}, data, label, train=True,
                capture_intermediates=True, mutable=["intermediates"],
            )  # fmt: skip
            out = out if isinstance(out, jax.Array) else out.logits
            assert out.dtype == jnp.float32
            return (out * jnp.arange(1.0, out.size + 1).reshape(out.shape)).sum(), kept

        for block in blocks:
            block["back"]["kernel"] += 0.1
        gradient, kept = jax.grad(total, has_aux=True)(params)
        for path, leaf in tree.named_leaves(gradient):
            assert leaf.dtype == jnp.float32 and np.abs(np.asarray(leaf)).max() > 0, (name, path)
        # All sizes but the smallest are bfloat16; it is the first of one and the last of the other.
        small, large = ("0", "1") if name == "generator" else ("1", "0")
        made = kept["intermediates"]
        assert made[f"block_{small}_0"]["__call__"][0].dtype == jnp.float32
        assert made[f"block_{large}_0"]["__call__"][0].dtype == jnp.bfloat16


PAIRS = {
    "gan_mlp": {"generator_widths": (5,), "discriminator_widths": (6,), "latents": 3},
    "dcgan": {"generator_width": 2, "discriminator_width": 2, "latents": 3},
    "sngan": {"generator_width": 4, "discriminator_width": 4, "latents": 3},
    "r3gan": {"widths": (4, 4), "groups": (2,), "label_widths": (2, 5), "latents": 3},
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


@pytest.mark.parametrize("name", ["gan_mlp", "dcgan", "sngan"])
def test_spectral_norm_divides_by_the_singular_values_of_numpy(name: str) -> None:
    """After many steps of power iteration, layer by layer, by kernels that NumPy has divided."""
    without = {"norm": False} if name == "dcgan" else {}
    network = build(name, spectral_norm=True, **without).discriminator
    x, label = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.zeros(4, jnp.int32)
    variables = network.init(jax.random.key(1), x, label, train=False)
    params = jax.tree.map(lambda p: 3.0 * p, variables.pop("params"))

    @jax.jit
    def iterated(kept: Any) -> Any:
        apply = lambda i, kept: network.apply(  # noqa: E731
            {"params": params, **kept}, x, label, train=True, mutable=list(kept)
        )[1]
        return jax.lax.fori_loop(0, 3000, apply, kept)

    found = network.apply({"params": params, **iterated(variables)}, x, label, train=False)

    def divided(p: np.ndarray) -> np.ndarray:
        if p.ndim < 2:
            return p
        return p / np.linalg.svd(np.asarray(p, np.float64).reshape(-1, p.shape[-1]))[1][0]

    plain = network.clone(spectral_norm=False)
    want = plain.apply({"params": jax.tree.map(divided, params)}, x, label, train=False)
    np.testing.assert_allclose(found.features, want.features, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.logits, want.logits, rtol=1e-3, atol=1e-4)


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
        ("dcgan", {"hidden": -1}, "hidden is 0 or more"),
        ("dcgan", {"generator_labels": "concat"}, "both players see labels"),
        ("dcgan", {"discriminator_labels": "projections"}, "expected one of none, concat"),
        ("r3gan", {"groups": (3,)}, r"must divide expand=2 times widths=\(4, 4\)"),
        ("r3gan", {"blocks": (1, 1, 1)}, "one for each of the 2 sizes"),
        ("r3gan", {"generator_labels": "norm", "discriminator_labels": "concat"}, "use 'concat'"),
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


def strength(p: float, colour: float = 1.0, cutout: float = 1.0) -> Strength:
    return Strength(jnp.float32(p), jnp.float32(colour * p), jnp.float32(cutout * p))


@pytest.mark.parametrize("policy", ["diffaugment", "fixed"])
def test_augmentation_changes_each_example_by_its_own_draw(policy: str) -> None:
    x = jnp.tile(jax.random.uniform(jax.random.key(0), (1, 8, 8, 3), minval=-1), (6, 1, 1, 1))
    one = augment(policy, jax.random.key(1), x, strength(1.0))
    again = augment(policy, jax.random.key(1), x, strength(1.0))
    assert one.shape == x.shape and (one == again).all()
    assert len(np.unique(np.asarray(one).reshape(6, -1), axis=0)) == 6
    gradient = jax.grad(lambda x: augment(policy, jax.random.key(1), x, strength(1.0)).sum())(x)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_no_chance_is_no_change() -> None:
    x = jax.random.uniform(jax.random.key(0), (5, 8, 6, 3), minval=-1)
    for policy in ("ada", "fixed"):
        found = augment(policy, jax.random.key(1), x, strength(0.0))
        # The filter is orthogonal: what is doubled and halved again is what it was.
        np.testing.assert_allclose(found, x, atol=2e-6)
    assert (augment("none", jax.random.key(1), x, strength(1.0)) == x).all()


def test_how_often_places_and_colours_change_and_how_far() -> None:
    rows, p = 4000, 0.4
    key, shape = jax.random.key(0), (rows, 8, 16, 3)
    inverse = np.asarray(augmentation.placement(key, shape, jnp.float32(p)))
    size = np.linalg.det(inverse)
    scale = -0.5 * np.log2(np.abs(size))
    share = (np.abs(scale) > 1e-5).mean()
    assert abs(share - p) < 0.03 and abs(scale.std() / (0.2 * p**0.5) - 1) < 0.06
    assert abs((size < 0).mean() - p / 2) < 0.03  # half of the chosen are flipped
    # Whole and fractional moves, alone where nothing else was drawn: none at all in (1 - p)^2.
    still = (np.abs(inverse[:, :2, 2]).max(1) < 1e-4).mean()
    assert (1 - p) ** 2 - 0.03 < still < (1 - p) ** 2 + 0.06  # a whole move may be by 0
    # Stretched by s and 1/s: the ratio of the singular values is s^2.
    ratio = np.linalg.svd(inverse[:, :2, :2], compute_uv=False)
    stretch = 0.5 * np.log2(ratio[:, 0] / ratio[:, 1])
    assert abs((stretch > 1e-4).mean() - p) < 0.03
    assert abs(np.sqrt((stretch**2).mean()) / (0.2 * p**0.5) - 1) < 0.06
    # Not turned, neither by right angles nor freely: 1 - 3/4 p, and 1 - p.
    plain = np.abs(inverse[:, 0, 1]) + np.abs(inverse[:, 1, 0]) < 1e-5
    assert abs(plain.mean() - (1 - 0.5 * p) * (1 - p)) < 0.03  # half a turn shows in no corner

    change = np.asarray(augmentation.colours(key, rows, jnp.float32(p)), np.float64)
    gray = change[:, :, :3].sum(2)
    np.testing.assert_allclose(gray, np.tile(gray[:, :1], 3), atol=1e-5)  # gray stays gray
    luma, contrast = np.sign(gray[:, 0]), np.log2(np.abs(gray[:, 0]))
    assert abs((luma < 0).mean() - p / 2) < 0.03
    assert abs((np.abs(contrast) > 1e-5).mean() - p) < 0.03
    assert abs(contrast.std() / (0.5 * p**0.5) - 1) < 0.06
    bright = change[:, 0, 3] / gray[:, 0]
    assert abs((np.abs(bright) > 1e-6).mean() - p) < 0.03
    assert abs(bright.std() / (0.2 * p**0.5) - 1) < 0.06
    across = np.array([1.0, -1.0, 0.0]) / 2**0.5
    turned = change[:, :, :3] @ across / np.abs(gray[:, :1])
    saturation = np.log2(np.linalg.norm(turned, axis=1))
    assert abs((np.abs(saturation) > 1e-4).mean() - p) < 0.03
    assert abs(saturation.std() / p**0.5 - 1) < 0.06
    cosine = turned @ across / np.linalg.norm(turned, axis=1)
    assert abs((cosine < 1 - 1e-6).mean() - p) < 0.03 and cosine.min() < -0.99


def test_pixels_come_from_where_the_matrix_says() -> None:
    x = jax.random.uniform(jax.random.key(0), (2, 6, 6, 3), minval=-1)
    picture = np.asarray(x)

    def by(rows: list[list[float]], x: jax.Array = x) -> np.ndarray:
        matrix = jnp.float32([*rows, [0, 0, 1]])[None]
        return np.asarray(augmentation.moved(x, jnp.repeat(matrix, x.shape[0], 0)))

    # Even the filter knows left from right, so a mirrored picture is right between edges alone.
    mirrored = np.abs(by([[-1, 0, 0], [0, 1, 0]]) - picture[:, :, ::-1]).mean()
    assert mirrored < 0.25 * np.abs(picture - picture[:, :, ::-1]).mean()
    # Two to the right, one down; the mirror image comes in.
    moved = by([[1, 0, -2], [0, 1, -1]])
    want = np.pad(picture, ((0, 0), (1, 0), (2, 0), (0, 0)), mode="reflect")[:, :6, :6]
    np.testing.assert_allclose(moved, want, atol=2e-6)
    # An even picture stays so, however it is turned, scaled and moved by parts of a pixel.
    even = by([[0.9, 0.5, 0.3], [-0.4, 1.2, -0.7]], jnp.full((1, 16, 16, 1), 0.7))
    np.testing.assert_allclose(even, 0.7, atol=1e-5)
    # A slope is read at the right places.
    slope = jnp.broadcast_to((jnp.arange(16.0) - 7.5)[None, None, :, None], (1, 16, 16, 1))
    found = by([[0.5, 0, 1.25], [0, 0.5, 0]], slope)[0, 8, :, 0]
    np.testing.assert_allclose(found, 0.5 * (np.arange(16) - 7.5) + 1.25, atol=0.05)


def test_colours_are_one_matrix_and_gray_pictures_stay_gray() -> None:
    x = jax.random.uniform(jax.random.key(0), (3, 4, 5, 3), minval=-1)
    change = augmentation.colours(jax.random.key(1), 3, jnp.float32(1.0))
    ones = np.concatenate([x, np.ones((3, 4, 5, 1))], -1)
    want = np.stack([pixels @ matrix.T for pixels, matrix in zip(ones, change, strict=True)])
    found = augmentation.coloured(x, change)
    assert np.abs(found - x).max() > 0.1
    np.testing.assert_allclose(found, want, atol=1e-5)
    gray = augmentation.coloured(x[..., :1], change)
    assert gray.shape == (3, 4, 5, 1)
    three = augmentation.coloured(jnp.repeat(x[..., :1], 3, -1), change)
    np.testing.assert_allclose(jnp.repeat(gray, 3, -1), three, atol=1e-5)


def test_translation_moves_whole_pixels_and_brings_in_gray() -> None:
    x = jnp.ones((300, 8, 8, 1))
    moved = np.asarray(augmentation.translation(jax.random.key(0), x))
    assert set(np.unique(moved)) == {0.0, 1.0}
    lost = (moved == 0).sum((1, 2, 3))
    assert set(lost) == {0, 8, 15}  # by none, one side, or both

"""The very deep hierarchical autoencoder: against float64, its init, its ladder, what it learns."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_contract as contract
from autoencoder import batch_of, random_weights, state_of, task_of

from aigc_jax.core import config, optim, tree
from aigc_jax.core.task import Weights
from aigc_jax.data.base import Spec
from aigc_jax.errors import UserError
from aigc_jax.models.stacking import stack
from aigc_jax.models.vae_top_down import TopDownVAE, enlarged, pooled

# Two resolutions of a picture of 3 x 2 pixels: 3x3 kernels on the first, and a stride that does not
# divide its height.
SHAPE = (3, 2, 1)
FACTS = {"shape": SHAPE, "classes": 3, "unit": "images"}
TINY: dict[str, Any] = {
    "name": "vae_top_down",
    "width": 4,
    "latent": 2,
    "bottleneck": 0.5,
    "encoder_blocks": ((1, 1), (2, 2)),
    "decoder_blocks": ((2, 1), (1, 2)),
    "input_mean": 0.1,
    "input_std": 0.7,
}
SINGLE: dict[str, Any] = {**TINY, "encoder_blocks": ((1, 1),), "decoder_blocks": ((1, 1),)}
SEVERAL: dict[str, Any] = {**TINY, "encoder_blocks": ((1, 2),), "decoder_blocks": ((1, 3),)}
SETTINGS: dict[str, Any] = {
    "facts": FACTS,
    "model": TINY,
    "likelihood": "discretized_logistic",
    "scale": "fixed",
    "binarize": "none",
}


# --- a twin in float64 ------------------------------------------------------------------------


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def conv(p: Any, x: np.ndarray) -> np.ndarray:
    """One picture, [h, w, C], pixel by pixel."""
    kernel = p["kernel"]
    if kernel.ndim == 2:
        return x @ kernel + p["bias"]
    wide = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows = [
        [np.einsum("ijc,ijcf->f", wide[i : i + 3, j : j + 3], kernel) for j in range(x.shape[1])]
        for i in range(x.shape[0])
    ]
    return np.array(rows) + p["bias"]


def bottleneck(p: Any, x: np.ndarray) -> np.ndarray:
    for name in ("reduce", "first", "second", "expand"):
        x = conv(p[name], gelu(x))
    return x


def up(p: Any, x: np.ndarray, settings: Any) -> dict[int, np.ndarray]:
    x, found = conv(p["first"], (x - settings["input_mean"]) / settings["input_std"]), {}
    for stride, count in settings["encoder_blocks"]:
        if stride > 1:
            x = x + bottleneck(p[f"to_{stride}"]["residual"], x)
            high, wide = -(-x.shape[0] // 2), -(-x.shape[1] // 2)
            x = np.array(
                [
                    [x[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((0, 1)) for j in range(wide)]
                    for i in range(high)
                ]
            )
        for i in range(count):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], p[f"up_{stride}"]["blocks"])
            x = x + bottleneck(own["residual"], x)
        found[stride] = x
    return found


def twin(params: Any, x: np.ndarray, noise: list[np.ndarray], settings: Any) -> dict[str, Any]:
    """One row and one sample: -log p(x | z), what each layer costs in closed form and by its sample
    (from the top down), and the code.
    """
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params["model"])
    seen, h, left, latent = up(p, x, settings), None, list(noise), settings["latent"]
    costs, samples, codes = [], [], []
    for stride, count in settings["decoder_blocks"]:
        start = p[f"start_{stride}"][0]
        if h is not None:  # nearest: pixel i comes from i // 2
            places = np.ix_(np.arange(start.shape[0]) // 2, np.arange(start.shape[1]) // 2)
            start = start + h[places]
        h = start
        for i in range(count):
            own = jax.tree.map(lambda leaf, i=i: leaf[i], p[f"down_{stride}"]["blocks"])
            found = bottleneck(own["prior"], h)
            m, v, more = np.split(found, [latent, 2 * latent], axis=-1)
            n, w = np.split(
                bottleneck(own["posterior"], np.concatenate([h, seen[stride]], -1)), 2, -1
            )
            eps = left.pop().reshape(n.shape)
            z = n + np.exp(w) * eps  # the heads give log sigma
            costs.append((v - w + ((n - m) ** 2 + np.exp(2 * w)) / (2 * np.exp(2 * v)) - 0.5).sum())
            samples.append((v - w + ((z - m) / np.exp(v)) ** 2 / 2 - eps**2 / 2).sum())
            codes.append(((z - m) / np.exp(v)).reshape(-1))
            h = h + more + conv(own["project"], z)
            h = h + bottleneck(own["residual"], h)
    mean = conv(p["last"], h * p["gain"] + p["bias"])
    upper, lower = ((x + d - mean) / 0.1 for d in (1 / 255, -1 / 255))
    mass = np.where(x > 0.999, 1.0, 1 / (1 + np.exp(-upper)))
    mass = mass - np.where(x < -0.999, 0.0, 1 / (1 + np.exp(-lower)))
    return {
        "log_p": np.log(mass).sum(),
        "costs": costs,
        "samples": samples,
        "code": np.concatenate(codes[::-1]),
    }


def noise_of(key: Any, row: int, number: int, sizes: tuple[int, ...]) -> list[np.ndarray]:
    own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, row), 1), number)
    draws = [jax.random.normal(jax.random.fold_in(own, i), (s,)) for i, s in enumerate(sizes)]
    return [np.asarray(draw, np.float64) for draw in draws]


def ladder(**model: Any) -> tuple[Any, Weights, Any]:
    task = task_of(**{**SETTINGS, "model": {**TINY, **model}})
    return task, random_weights(task, scale=0.3), batch_of(2, shape=SHAPE)


@pytest.fixture(scope="module")
def three() -> tuple[Any, Weights, Any]:
    return ladder()


@pytest.mark.parametrize("model", [SINGLE, TINY], ids=["one", "three"])
def test_the_bound_equals_its_float64_twin(model: Any) -> None:
    task, weights, batch = ladder(**model)
    sizes, key = ((12,), (12, 12, 4))[model is TINY], jax.random.key(4)
    assert task.functions["latents"](key, 2).shape == (2, sum(sizes))
    rows = [twin(weights.params, batch["x"][i], noise_of(key, i, 0, sizes), model) for i in (0, 1)]
    found = {k: float(v[0]) for k, v in jax.jit(task.eval)(weights, batch, key).items()}
    cost = sum(sum(row["costs"]) for row in rows)
    expected = {"reconstruction": -sum(row["log_p"] for row in rows), "kl": cost}
    expected["loss"] = expected["reconstruction"] + cost
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(c > 0.1 for row in rows for c in row["costs"])  # no layer is left out of the sum
    means = [np.zeros(s) for s in sizes]
    code = [twin(weights.params, batch["x"][i], means, model)["code"] for i in (0, 1)]
    features = jax.jit(task.functions["features"])(weights, batch)
    np.testing.assert_allclose(features, code, rtol=1e-4, atol=1e-5)


def test_log_weights_are_those_of_single_samples(three: Any) -> None:
    task, weights, batch = three
    key = jax.random.key(4)
    log_weights = jax.jit(task.functions["log_weights"], static_argnames=("k", "binarize"))
    found = log_weights(weights, batch, key, np.int32(0), k=3, binarize="none")
    for number in (0, 2):
        one = log_weights(weights, batch, key, np.int32(number), k=1, binarize="none")
        np.testing.assert_allclose(one[0], found[number], rtol=1e-5)
    exact = twin(weights.params, batch["x"][1], noise_of(key, 1, 2, (12, 12, 4)), TINY)
    np.testing.assert_allclose(found[2, 1], exact["log_p"] - sum(exact["samples"]), rtol=1e-5)


def test_samples_follow_from_their_keys_and_go_down_by_the_priors(three: Any) -> None:
    task, weights, batch = three
    few, many = (task.sample(weights, jax.random.key(1), number=n) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    assert (few[0] != few[1]).any()
    assert (few != task.sample(weights, jax.random.key(2), number=2)).any()
    still = task.sample(weights, jax.random.key(1), number=2, temperature=0.0)
    np.testing.assert_array_equal(still[0], still[1])
    # What the posterior draws, told as the prior's noise, decodes to what the pass itself gave.
    decode = jax.jit(task.functions["decode"])
    again = jax.jit(task.functions["reconstruct"])(weights, batch, jax.random.key(0))
    code = jax.jit(task.functions["features"])(weights, batch)
    np.testing.assert_allclose(decode(weights, code), again, rtol=1e-4, atol=1e-5)
    # Each layer has a say, the last one and the first one too.
    for place in (0, 12, 27):
        moved = decode(weights, code.at[:, place].add(1.0))
        assert (np.abs(moved - again) > 1e-6).any()


def test_scanned_and_unrolled_blocks_are_equal_and_so_are_those_computed_twice() -> None:
    settings = {k: v for k, v in SEVERAL.items() if k != "name"}
    forms = [
        TopDownVAE(shape=SHAPE, classes=3, planes=2, scan=scan, remat=remat, **settings)
        for scan, remat in ((True, False), (False, False), (True, True))
    ]
    rng = np.random.default_rng(0)
    noise = tuple(rng.normal(size=(2, 2, s)).astype(np.float32) for s in forms[0].latents)
    x, label = rng.uniform(-1, 1, (2, 6)).astype(np.float32), np.array([0, 2])
    shapes = jax.eval_shape(partial(forms[1].init), jax.random.key(0), x, label, noise)["params"]
    loose = jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)
    # The blocks of a resolution, one inside the next level of names.
    tied = {k: stack(v) if k.startswith(("up_", "down_")) else v for k, v in loose.items()}

    def loss(form: TopDownVAE, params: Any) -> jax.Array:
        passed: Any = form.apply({"params": params}, x, label, noise)
        return jnp.square(passed.out).sum() + sum(
            (layer.z_KBL * layer.prior.mean).sum() for layer in passed.latents
        )

    ask = [jax.jit(jax.value_and_grad(partial(loss, form))) for form in forms]
    value, slope = ask[1](loose)
    slope = {k: stack(v) if k.startswith(("up_", "down_")) else v for k, v in slope.items()}
    for i in (0, 2):
        other, gradient = ask[i](tied)
        assert float(other) == pytest.approx(float(value), rel=1e-5)
        assert jax.tree.structure(gradient) == jax.tree.structure(slope)
        for (path, a), (_, b) in zip(*map(tree.named_leaves, (gradient, slope)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4, err_msg=path)
            assert np.abs(a).max() > 0, path  # the gradient reaches every layer, and every block
    assert "checkpoint" in str(jax.make_jaxpr(partial(loss, forms[2]))(tied)) or "remat" in str(
        jax.make_jaxpr(jax.grad(partial(loss, forms[2])))(tied)
    )


def test_what_it_begins_with() -> None:
    settings = {k: v for k, v in SEVERAL.items() if k != "name"}
    form = TopDownVAE(shape=SHAPE, classes=0, planes=1, **settings)
    rng = np.random.default_rng(0)
    noise = tuple(rng.normal(size=(1, 2, s)).astype(np.float32) for s in form.latents)
    x = rng.uniform(-1, 1, (2, 6)).astype(np.float32)

    @jax.jit
    def begin(key: Any) -> Any:
        params = form.init(key, x, None, noise)["params"]
        passed: Any = form.apply({"params": params}, x, None, noise)
        return params, passed.latents

    params, layers = begin(jax.random.key(0))
    for layer in layers:  # every prior is the standard normal, and no posterior is
        np.testing.assert_array_equal(layer.prior.mean, 0.0)
        np.testing.assert_array_equal(layer.prior.logvar, 0.0)
        assert np.abs(layer.posterior.mean).max() > 0
    # Drawn uniformly within gain / sqrt(fan in), the gain from all blocks of a way together.
    for block, count in (("down_1", 3), ("up_1", 2)):
        kernel = np.abs(params[block]["blocks"]["residual"]["expand"]["kernel"])
        assert 0.7 < kernel.max() * math.sqrt(2 * count) <= 1.0
        inner = np.abs(params[block]["blocks"]["residual"]["second"]["kernel"])
        assert 0.7 < inner.max() * math.sqrt(2 * 9) <= 1.0
        assert not np.array_equal(kernel[0], kernel[1])
    # With posterior heads of zeros too, nothing costs anything.
    task = task_of(**{**SETTINGS, "model": SEVERAL})
    flat = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * ("posterior" not in str(path)), params
    )
    weights = Weights({"model": flat}, {})
    found = jax.jit(task.eval)(weights, batch_of(2, shape=SHAPE), jax.random.key(0))
    assert float(found["kl"][0]) == 0.0


CASE = contract.Case(
    settings={
        "model": {
            "name": "vae_top_down",
            "width": 8,
            "latent": 2,
            "encoder_blocks": ((1, 1),),
            "decoder_blocks": ((1, 1),),
        },
        "likelihood": "logistic_mixture",
        "mixtures": 2,
        "binarize": "none",
        "conditional": True,
        "skip_norm": 1e9,
    },
    facts={"shape": (8, 8, 1), "classes": 3},
    batch=contract.images,
    frozen="up_1",
)


@pytest.fixture(scope="module")
def made() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(contract.TINY, "vae", CASE)
        yield "vae", contract.compiled("vae")


@pytest.mark.parametrize(
    "term",
    [
        contract.test_steps_keep_structure_dtypes_and_shapes_and_are_compiled_once,
        contract.test_two_steps_change_every_leaf_that_is_trained,
        contract.test_sums_of_an_evaluation_do_not_depend_on_the_split,
    ],
)
def test_it_keeps_to_the_contract(made: Any, term: Any) -> None:
    term(made)


def test_steps_with_too_long_a_gradient_are_not_taken() -> None:
    batch, settings = batch_of(shape=SHAPE), {**SETTINGS, "model": SINGLE}
    plain = task_of(**settings)
    state = state_of(plain).replace(params=random_weights(plain, scale=0.3).params)
    free, metrics = jax.jit(plain.step)(state, batch)
    assert "skipped" not in metrics
    limit = 1.01 * float(metrics["grad_norm"][0])
    step = jax.jit(task_of(**settings, skip_norm=limit).step)

    def moved(one: Any, other: Any) -> Any:
        return tree.first_difference(*(jax.device_get((x.params, x.opt)) for x in (one, other)))

    new, metrics = step(state, batch)
    assert float(metrics["skipped"][0]) == 0.0
    assert moved(new, free) is None
    assert moved(new, state)
    # Far outside of the data a gradient is longer; and one may be no number.
    for wrong in (20.0 * batch["x"], np.nan * batch["x"]):
        new, metrics = step(state, {**batch, "x": wrong})
        assert not float(metrics["grad_norm"][0]) < limit
        assert float(metrics["skipped"][0]) == 1.0
        assert int(new.step) == 1
        assert moved(new, state) is None


def test_it_learns_what_no_independent_pixels_say() -> None:
    """Pictures are all dark or all light, 3 % of the pixels turned: one bit and a little."""
    rng = np.random.default_rng(0)
    model = {**TINY, "width": 16, "bottleneck": 0.25, "input_mean": 0.5, "input_std": 0.5}
    model |= {"encoder_blocks": ((1, 1), (4, 1)), "decoder_blocks": ((4, 1), (1, 1))}
    facts = {"shape": (4, 4, 1), "classes": 0, "unit": "images"}
    task = task_of(facts=facts, model=model, binarize="fixed")

    def batch(rows: int) -> Any:
        bits = rng.integers(0, 2, (rows, 1, 1, 1)) ^ (rng.random((rows, 4, 4, 1)) < 0.03)
        return {
            "x": (2.0 * bits - 1.0).astype(np.float32),
            "index": np.arange(rows, dtype=np.int32),
            "mask": np.ones(rows, np.float32),
        }

    state = jax.jit(lambda: state_of(task, real=True, lr=5e-3))()
    step = jax.jit(task.step, donate_argnums=0)
    for _ in range(120):
        state, _ = step(state, batch(32))
    total, count = jax.jit(task.eval)(Weights(state.params, {}), batch(200), jax.random.key(0))[
        "loss"
    ]
    floor, least = 16 * math.log(2), 16 * 0.1347 + math.log(2)  # independent pixels; the entropy
    assert least - 0.5 < float(total / count) < 0.5 * floor


def test_pooling_and_the_way_back_by_hand() -> None:
    x = jnp.arange(15, dtype=jnp.float32).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(pooled(x, 2)[0, :, :, 0], [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]])
    np.testing.assert_array_equal(pooled(x, 4)[0, :, :, 0], [[6.5, 9.0]])
    wide = enlarged(pooled(x, 2), 2, (3, 5))[0, :, :, 0]
    np.testing.assert_array_equal(wide[:, 0], [3.0, 3.0, 10.5])
    np.testing.assert_array_equal(wide[0], [3.0, 3.0, 5.0, 5.0, 6.5])


def test_the_published_network_has_its_size() -> None:
    cfg = config.to_dict(config.load("configs/vae/vdvae_cifar10.py"))
    task = config.build(
        "tasks", cfg["task"], spec=Spec({}, {"shape": (32, 32, 3), "classes": 10}),
        optimizer=optim.make(10, rules=((".*", {}),)),
    )  # fmt: skip
    hyper = {k: np.float32(v) for k, v in cfg["hyper"].items()}
    params = jax.eval_shape(task.init, jax.random.key(0), hyper).params
    size = sum(x.size for x in jax.tree.leaves(params))

    def block(inside: int, out: int, narrow: bool) -> int:
        middle = 96 * 96 * (1 if narrow else 9) + 96
        return inside * 96 + 96 + 2 * middle + 96 * out + out

    # Blocks on grids above 2x2, and on 1x1: the encoder's, each with one before a pooling; then the
    # stochastic layers', of three blocks and a projection.
    up = (11 + 1 + 6 + 1 + 6 + 1 + 3 + 1) * block(384, 384, False) + 3 * block(384, 384, True)
    each = [
        block(768, 32, i) + block(384, 32 + 384, i) + block(384, 384, i) + 16 * 384 + 384
        for i in (False, True)
    ]
    down = (3 + 6 + 11 + 22) * each[0] + each[1]
    ends = 27 * 384 + 384 + (1 + 16 + 64 + 256 + 1024) * 384 + 2 * 384 + 384 * 100 + 100
    assert size == up + down + ends == 39_145_700
    assert round(size / 1e6) == 39  # as published
    layers = jax.eval_shape(lambda: task.functions["latents"](jax.random.key(0), 1)).shape[1]
    assert layers == 16 * (1 + 3 * 16 + 6 * 64 + 11 * 256 + 22 * 1024)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"width": 0}, "task.model.width=0: expected 1"),
        ({"bottleneck": 0.0}, "task.model.bottleneck=0.0: expected a number above 0"),
        ({"encoder_blocks": ((2, 1),)}, "strides that begin at 1"),
        ({"encoder_blocks": ((1, 1), (2, 1), (3, 1))}, "each a multiple of the one before"),
        ({"decoder_blocks": ((4, 1), (1, 1))}, "each one of the encoder's, 1, 2"),
        ({"decoder_blocks": ((2, 1),)}, "expected strides that fall to 1"),
        ({"decoder_blocks": ((1, 0),)}, "(stride, count) pairs of whole numbers above 0"),
        ({"decoder_blocks": (1, 2)}, "(stride, count) pairs"),
    ],
)
def test_sizes_that_make_no_network(model: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        task_of(**{**SETTINGS, "model": {**TINY, **model}})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_other_things_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="reads images"):
        task_of(**{**SETTINGS, "facts": {**FACTS, "shape": (6,)}})
    with pytest.raises(UserError, match=r"task\.skip_norm=-1\.0: expected a norm above 0"):
        task_of(**SETTINGS, skip_norm=-1.0)

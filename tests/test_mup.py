"""muP: the standard parametrization at the base width, and activations that do not grow beyond."""

import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import config, optim, tree
from aigc_jax.core.task import Task, weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.errors import UserError
from aigc_jax.evals import coordinates
from aigc_jax.models import mup
from aigc_jax.models.stacking import stack
from aigc_jax.models.transformer import Transformer
from aigc_jax.tasks import lm

ROWS, TIME, VOCAB = 4, 8, 16
BASE = 32


def task(
    width: int, *, rules: Any = None, name: str = "adamw", chunk: int = 0, **model: Any
) -> Task:
    arrays = {k: ArraySpec((ROWS, TIME), "int32") for k in ("inputs", "targets")}
    facts = {"vocab_size": VOCAB, "context": TIME, "token_bytes": np.ones(VOCAB)}
    settings = {"name": "transformer", "layers": 2, "heads": 2, "width": width, **model}
    optimizer = optim.make(
        10, name=name, schedule="constant", **({} if rules is None else {"rules": rules})
    )
    return lm.make(Spec(arrays, facts), optimizer, settings, vocab_chunk=chunk)


def hyper(**changes: float) -> dict[str, jax.Array]:
    return {k: jnp.float32(v) for k, v in {**optim.HYPER, **lm.HYPER, **changes}.items()}


def batch(seed: int = 0) -> dict[str, jax.Array]:
    tokens = np.random.default_rng(seed).integers(0, VOCAB, (ROWS, TIME + 1))
    return {
        "inputs": jnp.asarray(tokens[:, :-1], jnp.int32),
        "targets": jnp.asarray(tokens[:, 1:], jnp.int32),
        "mask": jnp.ones((ROWS, TIME), jnp.float32).at[0, -1].set(0.0),
    }


def trained(made: Task, steps: int, **changes: float) -> Any:
    state, step = jax.jit(made.init)(jax.random.key(0), hyper(**changes)), jax.jit(made.step)
    for _ in range(steps):
        state, _ = step(state, batch())
    return state


def rms(made: Task, state: Any) -> dict[str, float]:
    """The root mean squares, by the evaluator."""

    class Split:
        batches = 1

        @staticmethod
        def batch(i: int, shard: Any) -> Any:
            return batch()

    class Context:
        data = type("Data", (), {"splits": {"validation": Split}})
        functions = made.functions
        place = staticmethod(lambda rows: rows)

    found = coordinates.make(Context)(weights(state), 0)
    return {name.removeprefix("coordinates/"): value for name, value in found.items()}


@pytest.mark.parametrize("options", [{}, {"scan": True, "qk_norm": True, "tied": False}])
def test_at_the_base_width_it_is_the_standard_parametrization(options: dict[str, Any]) -> None:
    options = {"layers": 1, **options}
    plain, based = task(BASE, **options), task(BASE, base_width=BASE, **options)
    one, two = (jax.device_get(trained(made, 3, weight_decay=0.1)) for made in (plain, based))
    assert tree.first_difference(one.params, two.params) is None


def test_the_multipliers_by_the_paper() -> None:
    # m = 4; heads as many, and so of four times the width.
    found = mup.multipliers(width=128, heads=4, base_width=32)
    assert found == mup.Multipliers(0.5, 0.25, 8**0.5 / 32, {mup.MATRICES: 0.25})
    # Four times as many heads of the same width: 1 / sqrt(D) is right for all.
    assert mup.multipliers(128, 16, 32, 4).attention == pytest.approx(8**-0.5)
    assert mup.multipliers(128, 4, 0) == mup.Multipliers(1.0, 1.0, 32**-0.5, {})
    # It shrinks as 1 / D.
    wide = [mup.multipliers(64 * k, 2, 64).attention for k in (1, 4, 16)]
    np.testing.assert_allclose(wide, np.array([1, 1 / 4, 1 / 16]) * 32**-0.5)


def test_first_weights_shrink_in_the_blocks_alone() -> None:
    options = {"layers": 2, "heads": 2, "tied": False, "bias": True, "init_std": 0.1}
    network = Transformer(300, 64, width=128, base_width=8, embed_std=0.3, **options)
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    for name, leaf in tree.named_leaves(jax.device_get(params)):
        std = {"embed": 0.3, "position_embed": 0.3, "head": 0.02}.get(name)
        if name.endswith("kernel"):
            std = 0.1 / 4 / (2 if "/out/" in name else 1)
        if std is not None:
            assert float(leaf.std()) == pytest.approx(std, rel=0.04), name


@pytest.mark.parametrize("options", [{}, {"scan": True, "positions": "rope"}, {"tied": False}])
def test_logits_and_attention_are_scaled(options: dict[str, Any]) -> None:
    plain = Transformer(VOCAB, TIME, layers=2, heads=2, width=BASE, init_std=0.3, **options)
    based = plain.clone(base_width=BASE // 4)
    tokens = batch()["inputs"]
    params = jax.jit(plain.init)(jax.random.key(0), tokens)["params"]
    # What multiplies queries: 1/2 of it is the scale of heads four times as wide as the base's.
    halved = tree.map_named(
        lambda name, x: x * _queries(x, plain.heads) if "qkv" in name else x, params
    )
    expected = plain.apply({"params": halved}, tokens)[0] / 4
    found = based.apply({"params": params}, tokens)[0]
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    assert np.abs(plain.apply({"params": params}, tokens)[0] / 4 - found).max() > 1e-3


def _queries(kernel: jax.Array, heads: int) -> jax.Array:
    """1/2 in the columns of queries, 1 in those of keys and values."""
    columns = np.ones((heads, 3, kernel.shape[-1] // heads // 3), np.float32)
    columns[:, 0] = 0.5
    return jnp.asarray(columns.reshape((1,) * (kernel.ndim - 1) + (-1,)))


@pytest.mark.parametrize("name", ["adamw", "lion", "schedule_free_adamw"])
def test_matrices_take_smaller_steps_and_decay_as_much(name: str) -> None:
    rules = (("scale$", {"decay": 0.0, "lr": 0.5}), (".*", {}))
    settings = {"base_width": BASE // 4, "bias": True, "tied": False, "layers": 1}
    made = task(BASE, name=name, rules=rules, **settings)
    lr, decay = 0.01, 0.2
    start = jax.jit(made.init)(jax.random.key(0), hyper())
    state = trained(made, 1, lr=lr, weight_decay=decay, eps=1e-30)
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (start.params, state.params)), strict=True
    ):
        before, after = np.asarray(a, np.float64), np.asarray(b, np.float64)
        rate = lr * (0.25 if path.endswith("kernel") else 0.5 if path.endswith("scale") else 1.0)
        shrunk = before * (1 - (0.0 if path.endswith("scale") else lr * decay))
        # The first step of such an optimizer is the gradient's sign, where there is a gradient.
        moved = np.abs(after - shrunk) / rate
        assert moved.max() < 1.001, path
        assert np.isclose(moved, 1.0, rtol=1e-3).mean() > 0.2, path


def test_scanned_layers_learn_the_same() -> None:
    options = {"base_width": BASE // 4, "positions": "rope", "mlp": "swiglu"}
    plain, scanned = task(BASE, **options), task(BASE, scan=True, **options)
    state = jax.jit(plain.init)(jax.random.key(0), hyper(lr=0.01))
    other = jax.jit(scanned.init)(jax.random.key(0), hyper(lr=0.01))
    other = other.replace(params={"model": stack(state.params["model"])})
    one, two = jax.jit(plain.step), jax.jit(scanned.step)
    for i in range(2):
        (state, _), (other, _) = one(state, batch(i)), two(other, batch(i))
    expected = stack(state.params["model"])
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (expected, other.params["model"])), strict=True
    ):
        np.testing.assert_allclose(b, a, rtol=2e-3, atol=2e-4, err_msg=path)
    same, found = rms(plain, state), rms(scanned, other)
    assert found == pytest.approx(same, rel=1e-2)
    assert {"embedding", "block_0", "block_1/attention", "block_1/mlp", "logits"} <= set(found)


def test_a_loss_in_chunks_sees_the_same_logits() -> None:
    losses = []
    for chunk in (0, 5):
        made = task(BASE, base_width=8, chunk=chunk, init_std=0.3)
        state = jax.jit(made.init)(jax.random.key(0), hyper())
        total, weight = jax.jit(made.eval)(weights(state), batch(), jax.random.key(0))["loss"]
        losses.append(float(total / weight))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    plain = task(BASE, init_std=0.3)
    state = jax.jit(plain.init)(jax.random.key(0), hyper())
    total, weight = jax.jit(plain.eval)(weights(state), batch(), jax.random.key(0))["loss"]
    assert abs(float(total / weight) - losses[0]) > 1e-3


def test_the_coordinate_check() -> None:
    """Four steps of Adam at eight times the width: each layer's output stays, or grows."""

    def after(width: int, **settings: Any) -> dict[str, float]:
        # Both begin with a variance of 1 / fan_in: all growth is the learning's.
        made = task(width, layers=1, **settings)
        return rms(made, trained(made, 4, lr=0.01))

    narrow = after(64, init_std=0.06)
    flat = after(512, init_std=0.06, base_width=64)
    grown = after(512, init_std=0.06 * (64 / 512) ** 0.5)
    for layer in ("block_0", "block_0/attention", "block_0/mlp"):
        assert 1 / 1.6 < flat[layer] / narrow[layer] < 1.6, layer
        assert grown[layer] > 8 * narrow[layer], layer
    assert flat["logits"] < 1.3 * narrow["logits"] < 0.65 * grown["logits"]


def test_sizes_are_root_mean_squares_of_the_tokens_that_count() -> None:
    made = task(BASE, dropout=0.0)
    state = jax.jit(made.init)(jax.random.key(0), hyper())
    found, tables = rms(made, state), jax.device_get(state.params["model"])
    rows = {name: np.asarray(x) for name, x in batch().items()}
    x_BTC = tables["embed"][rows["inputs"]] + tables["position_embed"]
    counted = x_BTC[rows["mask"] > 0].astype(np.float64)
    assert found["embedding"] == pytest.approx(math.sqrt((counted**2).mean()), rel=1e-5)
    network = Transformer(VOCAB, TIME, layers=2, heads=2, width=BASE)
    logits = np.asarray(network.apply({"params": tables}, rows["inputs"])[0], np.float64)
    logits = logits[rows["mask"] > 0]
    assert found["logits"] == pytest.approx(math.sqrt((logits**2).mean()), rel=1e-5)


@pytest.mark.parametrize("name", ["sgd", "muon", "sophia"])
def test_optimizers_that_other_multipliers_hold_for(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' with task.model.base_width: .* adamw") as caught:
        task(BASE, name=name, base_width=8)
    assert "\n" not in str(caught.value)
    task(BASE, name=name)


def test_a_base_that_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"base_width=-1: expected 0 or more"):
        task(BASE, base_width=-1)
    with pytest.raises(UserError, match=r"base_heads=2: expected 0 unless base_width"):
        task(BASE, base_heads=2)


def test_an_evaluator_asks_for_what_is_there() -> None:
    class Split:
        batches = 2

    class Context:
        data = type("Data", (), {"splits": {"validation": Split}})
        functions: ClassVar[dict[str, Any]] = {}

    for settings, message in (
        ({"split": "validatoin"}, "no split 'validatoin'; .* Did you mean 'validation'"),
        ({"batch": 2}, "batch=2: 'validation' has 0 to 1"),
        ({}, "needs the task's 'activations'; it has none"),
    ):
        with pytest.raises(UserError, match=message):
            coordinates.make(Context, **settings)


def test_the_recipe_of_the_studies_has_widths_and_their_options() -> None:
    recipe = "configs/lm/tiny_shakespeare.py"
    made = {
        arg: config.load(
            recipe + arg, ["--config.task.model.qk_norm=true", "--config.hyper.z_loss=1e-4"]
        )
        for arg in ("", ":w64", ":w128", ":mup64", ":mup128")
    }
    assert config.diff(made[""], made[":w64"]) == []
    for cfg in made.values():
        assert cfg.task.model.qk_norm and cfg.hyper.z_loss == 1e-4
        assert cfg.task.model.width == 16 * cfg.task.model.heads
    differ = {path for path, _, _ in config.diff(made[":w128"], made[":mup128"])}
    assert differ == {f"task.model.{name}" for name in ("base_width", "base_heads", "init_std")}
    # Both begin alike, whatever the width; at the base width they are the same.
    for width in (64, 128):
        plain, wide = (
            Transformer(VOCAB, TIME, **{k: v for k, v in section.items() if k != "name"})
            for section in (
                config.to_dict(made[f":{kind}{width}"])["task"]["model"] for kind in ("w", "mup")
            )
        )
        assert plain.init_std == pytest.approx(wide.init_std * wide._mup().std)
        assert plain._mup().attention == pytest.approx(wide._mup().attention)
        assert wide._mup().output == 64 / width
    for arg in ("w100", "mup", "x128", "w0"):
        with pytest.raises(UserError, match="there are 'w128', 'mup128' and so on"):
            config.load(f"{recipe}:{arg}")

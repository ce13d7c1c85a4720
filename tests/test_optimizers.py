"""Optimizers by name against optax's own functions, driven by hand; what some of them need."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from aigc_jax.core import config, optim, optimizers, tree
from aigc_jax.core.task import Metrics, supervised, weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.errors import UserError
from aigc_jax.tasks import lm
from aigc_jax.train import graft

EVERYTHING = ((".*", {"label": "all"}),)
TWO = (("(bias|scale)$", {"label": "vectors", "decay": 0.0}), (".*", {"label": "matrices"}))
NUMBERS = {"lr": 0.02, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95, "eps": 1e-3,
           "momentum": 0.7, "gamma": 0.4}  # fmt: skip


def hyper(**changes: float) -> dict[str, jax.Array]:
    more = {k: v for numbers in optim.HYPER_OF.values() for k, v in numbers.items()}
    return {k: jnp.float32(v) for k, v in {**optim.HYPER, **more, **changes}.items()}


def arrays(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {"hidden": {"kernel": (4, 3), "bias": (3,)}, "stack": {"kernel": (2, 3, 5)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def ours(name: str, steps: int, rules: Any = EVERYTHING, **numbers: float) -> tuple[Any, Any]:
    """Parameters and optimizer state after some steps; the curvature is that of `arrays`."""
    optimizer = optim.make(10, name=name, schedule="constant", rules=rules)
    given, params = hyper(**numbers), arrays(0)
    opt, update = jax.jit(optimizer.init)(params, given), jax.jit(_told(optimizer))
    for i in range(steps):
        params, opt, _ = update(arrays(10 + i), opt, params, given, jnp.int32(i), arrays(50 + i))
    return params, opt


def _told(optimizer: optim.Optimizer) -> Any:
    def update(grads: Any, opt: Any, params: Any, given: Any, step: Any, diagonal: Any) -> Any:
        return optimizer.update(
            grads, opt, params, given, step, curvature=lambda: jax.tree.map(jnp.square, diagonal)
        )

    return update


def by_hand(transformation: Any, steps: int) -> tuple[Any, Any]:
    params, update = arrays(0), optax.with_extra_args_support(transformation).update
    opt, update = transformation.init(params), jax.jit(update)
    for i in range(steps):
        told = jax.tree.map(jnp.square, arrays(50 + i))
        updates, opt = update(arrays(10 + i), opt, params, curvature=told)
        params = optax.apply_updates(params, updates)
    return params, opt


def optax_of(name: str) -> Any:
    lr, wd, b1, b2, eps = (NUMBERS[k] for k in ("lr", "weight_decay", "b1", "b2", "eps"))
    told = optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(),
        lambda updates, state, params=None, curvature=None, **_: (curvature, state),
    )
    if name == "muon":
        axes = optax.contrib.MuonDimensionNumbers(1, 2)
        return optax.contrib.muon(
            lr, beta=NUMBERS["momentum"], eps=eps, weight_decay=wd, adam_b1=b1, adam_b2=b2,
            adam_weight_decay=wd,
            muon_weight_dimension_numbers={
                "hidden": {"kernel": optax.contrib.MuonDimensionNumbers(), "bias": None},
                "stack": {"kernel": axes},
            },
        )  # fmt: skip
    if name == "sophia":
        return optax.contrib.sophia(
            lr, b1=b1, b2=b2, eps=eps, weight_decay=wd, gamma=NUMBERS["gamma"], update_interval=10,
            hessian_diagonal_fn=told,
        )  # fmt: skip
    if name == "schedule_free_adamw":
        return optax.contrib.schedule_free_adamw(lr, b1=b1, b2=b2, eps=eps, weight_decay=wd)
    if name == "lion":
        return optax.lion(lr, b1=b1, b2=b2, weight_decay=wd)
    return optax.adamw(lr, b1=b1, b2=b2, eps=eps, weight_decay=wd)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "sophia", "schedule_free_adamw"])
def test_an_optimizer_is_optaxs_own(name: str) -> None:
    # Sophia takes in the curvature at step 0 and again at step 10.
    steps = 12 if name == "sophia" else 3
    params, opt = ours(name, steps, **NUMBERS)
    expected, state = by_hand(optax_of(name), steps)
    for (path, a), (_, b) in zip(*map(tree.named_leaves, (params, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=path)
    if name == "schedule_free_adamw":
        answer = optax.contrib.schedule_free_eval_params(state, expected)
        found = optimizers.averaged(opt, params, hyper(**NUMBERS))
        for (path, a), (_, b) in zip(*map(tree.named_leaves, (found, answer)), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6, err_msg=path)
            assert np.abs(np.asarray(a) - dict(tree.named_leaves(params))[path]).max() > 1e-4


@pytest.mark.parametrize("name", ["sophia", "schedule_free_adamw"])
def test_groups_of_parameters_do_not_see_each_other(name: str) -> None:
    """With the same settings, two rules are one."""
    rules = (("bias$", {"label": "a"}), (".*", {"label": "b"}))
    one, opt = ours(name, 3, **NUMBERS)
    two, other = ours(name, 3, rules, **NUMBERS)
    assert tree.first_difference(jax.device_get(one), jax.device_get(two)) is None
    judged = [optimizers.averaged(x, p, hyper(**NUMBERS)) for x, p in ((opt, one), (other, two))]
    assert tree.first_difference(*map(jax.device_get, judged)) is None


def test_muon_takes_each_matrix_of_a_stack_by_itself() -> None:
    params, _ = ours("muon", 1, lr=1.0)
    update = np.asarray(params["stack"]["kernel"] - arrays(0)["stack"]["kernel"], np.float64)
    values = np.linalg.svd(update, compute_uv=False)
    assert values.shape == (2, 3)
    assert (values / (5 / 3) ** 0.5 > 0.6).all() and (values / (5 / 3) ** 0.5 < 1.3).all()


def regression(name: str, **settings: Any) -> tuple[Any, Any, list[int]]:
    """A Gaussian's mean by least squares; labels drawn from it are its mean and noise."""
    traces: list[int] = []

    def loss(params: Any, variables: Any, batch: Any, key: Any, numbers: Any) -> Any:
        traces.append(1)
        error = jnp.square(batch["x"] @ params["model"]["w"] - batch["y"]) / 2
        metrics: Metrics = {"loss": (error.sum(), jnp.float32(error.size))}
        return metrics, variables

    def drawn_loss(params: Any, variables: Any, batch: Any, key: Any) -> Any:
        mean = batch["x"] @ params["model"]["w"]
        label = jax.lax.stop_gradient(mean) + jax.random.normal(key, mean.shape)
        return (jnp.square(mean - label) / 2).sum(), jnp.float32(mean.size)

    def variables(key: jax.Array) -> Any:
        return {"model": {"w": jax.random.normal(key, (3,))}}, {}

    optimizer = optim.make(8, name=name, schedule="constant", rules=EVERYTHING)
    return *supervised(variables, loss, optimizer, drawn_loss=drawn_loss, **settings), traces


def batch_of(step: int, rows: int = 6) -> dict[str, jax.Array]:
    rng = np.random.default_rng(step)
    shapes = (("x", (rows, 3)), ("y", (rows,)))
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes}


@pytest.mark.parametrize("name", ["lion", "muon", "sophia", "schedule_free_adamw"])
def test_every_number_is_an_input_of_one_program(name: str) -> None:
    init, step, traces = regression(name)
    init, step, ends = jax.jit(init), jax.jit(step), []
    told = {"muon": {}, "sophia": {"gamma": 5.0}, "lion": {}, "schedule_free_adamw": {"eps": 0.5}}
    trials = [{}, {"lr": 0.2}, {"b1": 0.2}, {"b2": 0.1}, {"weight_decay": 0.5}, told[name]]
    for numbers in trials:
        state = init(jax.random.key(0), hyper(**{"lr": 0.1, "b2": 0.9, "gamma": 50.0, **numbers}))
        for i in range(9):
            state, _ = step(state, batch_of(i))
        ends.append(np.asarray(state.params["model"]["w"]).tobytes())
    assert len(traces) == step._cache_size() == init._cache_size() == 1
    assert len(set(ends)) == len({str(trial) for trial in trials})


def test_sophias_curvature_is_the_square_of_the_summed_gradient_of_drawn_labels() -> None:
    init, step, _ = regression("sophia", accumulate=2)
    numbers = {"lr": 0.1, "b2": 0.75}
    state = jax.jit(init)(jax.random.key(3), hyper(**numbers))
    step, sizes = jax.jit(step), []
    for i in range(12):
        before, batch = state, batch_of(i, 8)
        state, _ = step(state, batch)
        (sophia,) = optimizers._states(state.opt, optax.contrib.SophiaState)
        (last,) = optimizers._states(before.opt, optax.contrib.SophiaState)
        found, old = (np.asarray(x.nu["model"]["w"], np.float64) for x in (sophia, last))
        sizes.append(found)
        if i % 10:
            np.testing.assert_array_equal(found, old)
            continue
        # The gradient of one label's loss is x (mean - label), minus the noise times x.
        key = jax.random.fold_in(jax.random.fold_in(before.key, i), 1 << 20)
        noise = np.asarray(jax.random.normal(key, (4,)), np.float64)
        first = np.asarray(batch["x"], np.float64)[::2]  # the first micro-batch has every 2nd row
        diagonal = (first * noise[:, None]).sum(0) ** 2 / 4
        np.testing.assert_allclose(found, 0.75 * old + 0.25 * diagonal, rtol=1e-4)
    assert not np.array_equal(sizes[9], sizes[10])


def language(name: str, **settings: Any) -> Any:
    shapes = {k: ArraySpec((4, 6), "int32") for k in ("inputs", "targets")}
    facts = {"vocab_size": 7, "context": 6, "token_bytes": np.ones(7)}
    model = {"name": "transformer", "layers": 1, "heads": 2, "width": 8, "init_std": 0.3}
    optimizer = optim.make(10, name=name, schedule="constant", rules=TWO)
    return lm.make(Spec(shapes, facts), optimizer, model, **settings)


def text(seed: int) -> dict[str, jax.Array]:
    tokens = np.random.default_rng(seed).integers(0, 7, (4, 7))
    mask = (np.arange(6) < np.array([[6], [2], [4], [5]])).astype(np.float32)
    return {
        "inputs": jnp.asarray(tokens[:, :-1], jnp.int32),
        "targets": jnp.asarray(tokens[:, 1:], jnp.int32),
        "mask": jnp.asarray(mask),
    }


def test_sophia_on_language_reads_no_label_and_no_masked_token() -> None:
    task = language("sophia")
    state = jax.jit(task.init)(jax.random.key(0), hyper(**lm.HYPER))
    step, batch = jax.jit(task.step), text(0)

    def curvature(batch: Any, state: Any = state) -> Any:
        found = optimizers._states(step(state, batch)[0].opt, optax.contrib.SophiaState)
        return [jax.device_get(one.nu) for one in found]

    plain = curvature(batch)
    assert len(plain) == 2 and all(np.max(x) > 0 for x in jax.tree.leaves(plain))
    assert all(np.min(x) >= 0 for x in jax.tree.leaves(plain))
    other = curvature({**batch, "targets": 6 - batch["targets"]})
    assert tree.first_difference(plain, other) is None
    hidden = jnp.where(batch["mask"] > 0, batch["inputs"], 6 - batch["inputs"])
    same = jax.tree.map(np.asarray, curvature({**batch, "inputs": hidden}))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9)
    redrawn = curvature(batch, state.replace(key=jax.random.key(1)))
    assert tree.first_difference(plain, redrawn)


def test_schedule_free_weights_are_what_is_judged_sampled_and_grafted() -> None:
    task = language("schedule_free_adamw")
    numbers = hyper(lr=0.05, weight_decay=0.1, **lm.HYPER)
    state = jax.jit(task.init)(jax.random.key(0), numbers)
    for a, b in zip(*map(jax.tree.leaves, (weights(state).params, state.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    step = jax.jit(task.step, donate_argnums=0)
    for i in range(4):
        state, _ = step(state, text(i))
    states = optimizers._states(state.opt, optax.contrib.ScheduleFreeState)
    judged = dict(tree.named_leaves(jax.device_get(weights(state).params)))
    z = {}
    for one in states:
        z |= dict(tree.named_leaves(jax.device_get(one.z)))
    for name, y in tree.named_leaves(jax.device_get(state.params)):
        np.testing.assert_allclose(judged[name], (y - 0.1 * z[name]) / 0.9, rtol=1e-4, atol=1e-6)
        assert not np.array_equal(judged[name], y), name
    assert weights(state).params.keys() == state.params.keys()
    # Another run's weights: then all three sequences begin there.
    source = jax.tree.map(lambda x: np.asarray(x) + 1, jax.device_get(state.params["model"]))
    taken = {f"params/model/{n}": jnp.asarray(x) for n, x in tree.named_leaves(source)}
    state = graft._replaced(state, "params", taken)
    fresh = jax.device_get(weights(state).params["model"])
    for (path, a), (_, b) in zip(*map(tree.named_leaves, (fresh, source)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=path)
    assert step(state, text(0))  # no buffer is in it twice


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "schedule_free_adamw"}, "'schedule_free_adamw' averages by itself .*constant"),
        (
            {"name": "schedule_free_sgd", "schedule": "constant", "ema": True},
            "'schedule_free_sgd' averages by itself .* optim.ema=False",
        ),
        ({"args": (("b1", 0.5),)}, "'b1' of adamw is a number; set hyper.b1"),
        ({"name": "muon", "args": (("beta", 0.5),)}, "'beta' of muon .* set hyper.momentum"),
        ({"args": (("learning_rate", 0.5),)}, "'learning_rate' of adamw .* set hyper.lr"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        optim.make(8, **settings)
    assert "\n" not in str(caught.value)


def test_sophia_wants_a_task_that_draws_labels() -> None:
    for task in (language("sophia", vocab_chunk=3), None):
        init, step = (task.init, task.step) if task else _plain("sophia")
        numbers = hyper(**lm.HYPER)
        state = jax.eval_shape(init, jax.random.key(0), numbers)
        with pytest.raises(
            UserError, match=r"'sophia' wants labels drawn .*; this task draws none"
        ):
            jax.eval_shape(step, state, text(0) if task else batch_of(0))


def _plain(name: str) -> Any:
    def loss(params: Any, variables: Any, batch: Any, key: Any, numbers: Any) -> Any:
        return {"loss": (params["w"].sum(), jnp.float32(1))}, variables

    optimizer = optim.make(8, name=name, rules=EVERYTHING)
    return supervised(lambda key: ({"w": jnp.ones(3)}, {}), loss, optimizer)


def test_a_config_has_the_numbers_of_the_optimizers_that_it_names(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n"
        "    return ConfigDict({'task': {'name': 'lm', 'model': {'name': 'transformer'}},\n"
        "        'data': {'name': 'text'}})\n"
    )
    own = {"momentum", "gamma"}
    assert not own & set(config.load(str(recipe)).hyper)
    cfg = config.load(str(recipe), ["--config.hyper.gamma=0.1", "--config.optim.name=sophia"])
    assert cfg.hyper.gamma == 0.1 and own & set(cfg.hyper) == {"gamma"}

    with pytest.raises(UserError, match=r"hyper\.gamma"):
        config.load(str(recipe), ["--config.hyper.gamma=0.1"])
    recipe.write_text(
        recipe.read_text().replace(
            "'data'", "'optim': {'rules': (('kernel', {'name': 'muon'}), ('.*', {}))}, 'data'"
        )
    )
    assert config.load(str(recipe)).hyper.momentum == 0.95

"""Schedules by hand, optimizers against float64 twins, and numbers that are inputs."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aigc_jax.core import optim, tree
from aigc_jax.core.task import Metrics, supervised
from aigc_jax.errors import UserError


def hyper(**changes: float) -> dict[str, jax.Array]:
    more = {k: v for numbers in optim.HYPER_OF.values() for k, v in numbers.items()}
    return {k: jnp.float32(v) for k, v in {**optim.HYPER, **more, **changes}.items()}


def rates(schedule: str, steps: int, at: list[int], **changes: float) -> list[float]:
    curve = jax.vmap(lambda s: optim.learning_rate(schedule, steps, s, hyper(**changes)))
    return np.asarray(curve(jnp.array(at, jnp.int32)), np.float64).tolist()


# The peak is 0.8; warm-up over 3 steps: a quarter, a half, three quarters, the whole. A schedule
# of 11 steps then has 8 to fall to a tenth: step 3 is its beginning, step 7 its middle.
WARM = [0.2, 0.4, 0.6]


@pytest.mark.parametrize(
    ("schedule", "at", "expected"),
    [
        ("constant", [3, 7, 10, 11, 50], [0.8] * 5),
        ("linear", [3, 5, 7, 11, 50], [0.8, 0.62, 0.44, 0.08, 0.08]),
        # (1 + cos(pi t)) / 2 is 1, 3/4, 1/2, 1/4, 0 at t = 0, 1/3, 1/2, 2/3, 1.
        ("cosine", [3, 7, 11, 50], [0.8, 0.44, 0.08, 0.08]),
        # The last quarter of the 8 steps falls in a straight line: from step 9 to 11.
        ("wsd", [3, 7, 9, 10, 11, 50], [0.8, 0.8, 0.8, 0.44, 0.08, 0.08]),
        # Half at four times the warm-up, a third at nine times; it knows no end.
        ("rsqrt", [3, 12, 27, 300], [0.8, 0.4, 0.8 / 3, 0.08]),
    ],
)
def test_schedules_by_hand(schedule: str, at: list[int], expected: list[float]) -> None:
    knobs = {"lr": 0.8, "warmup": 3.0, "end_ratio": 0.1, "decay_share": 0.25}
    np.testing.assert_allclose(rates(schedule, 11, [0, 1, 2], **knobs), WARM, rtol=1e-6)
    np.testing.assert_allclose(rates(schedule, 11, at, **knobs), expected, rtol=1e-6)


def test_cosine_between_its_middle_and_its_ends() -> None:
    found = rates("cosine", 12, [0, 4, 8, 12], lr=1.0, end_ratio=0.2)
    np.testing.assert_allclose(found, [1.0, 0.2 + 0.8 * 0.75, 0.2 + 0.8 * 0.25, 0.2], rtol=1e-6)


def test_schedules_without_warm_up_begin_at_the_peak() -> None:
    for schedule in (*optim.SCHEDULES, "rsqrt"):
        assert rates(schedule, 100, [0], lr=0.5) == [0.5]
    np.testing.assert_allclose(rates("rsqrt", 100, [1, 4, 16], lr=0.5), [0.5, 0.25, 0.125])


def test_schedules_that_never_leave_the_warm_up_stay_finite() -> None:
    for schedule in (*optim.SCHEDULES, "rsqrt"):
        found = rates(schedule, 5, [0, 4], lr=1.0, warmup=9.0)
        np.testing.assert_allclose(found, [0.1, 0.5], rtol=1e-6)


def test_decay_steps_end_the_schedule_at_another_step_than_the_last() -> None:
    optimizer = optim.make(100, name="sgd", schedule="linear", decay_steps=10)
    params = {"w": jnp.ones(3)}
    numbers = hyper(lr=1.0, end_ratio=0.0)
    opt, update = optimizer.init(params, numbers), jax.jit(optimizer.update)
    for step, lr in ((0, 1.0), (5, 0.5), (10, 0.0), (99, 0.0)):
        _, _, stats = update(params, opt, params, numbers, jnp.int32(step))
        assert float(stats["lr"]) == lr


def parameters() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"hidden": {"kernel": (4, 3), "bias": (3,)}, "norm": {"scale": (3,)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def gradients(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(100 + step)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(size=p.shape) * 3.0 ** (step - 2), jnp.float32),
        parameters(),
    )


def run(optimizer: optim.Optimizer, numbers: dict[str, jax.Array], steps: int = 5) -> Any:
    params = parameters()
    opt = jax.jit(optimizer.init)(params, numbers)
    update, rows = jax.jit(optimizer.update), []
    for step in range(steps):
        params, opt, stats = update(gradients(step), opt, params, numbers, jnp.int32(step))
        rows.append({k: float(v) for k, v in stats.items()})
    return params, rows


def adamw_twin(numbers: dict[str, float], steps: int, total: int) -> tuple[dict, list[dict]]:
    """Loshchilov & Hutter 2019, algorithm 2, in float64, with clipping before it."""
    params = {n: np.asarray(p, np.float64) for n, p in tree.named_leaves(parameters())}
    m = {n: np.zeros_like(p) for n, p in params.items()}
    v = {n: np.zeros_like(p) for n, p in params.items()}
    rows = []
    for step in range(steps):
        grads = {n: np.asarray(g, np.float64) for n, g in tree.named_leaves(gradients(step))}
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        clip = min(1.0, numbers["clip_norm"] / norm)
        warm, peak = numbers["warmup"], numbers["lr"]
        if step < warm:
            lr = peak * (step + 1) / (warm + 1)
        else:
            cosine = 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
            lr = peak * (numbers["end_ratio"] + (1 - numbers["end_ratio"]) * cosine)
        row = {"grad_norm": norm, "lr": lr}
        moved: dict[str, list[float]] = {"matrices": [0.0, 0.0], "vectors": [0.0, 0.0]}
        for n, g in grads.items():
            g = g * clip
            m[n] = numbers["b1"] * m[n] + (1 - numbers["b1"]) * g
            v[n] = numbers["b2"] * v[n] + (1 - numbers["b2"]) * g**2
            t = step + 1
            direction = (m[n] / (1 - numbers["b1"] ** t)) / (
                np.sqrt(v[n] / (1 - numbers["b2"] ** t)) + numbers["eps"]
            )
            if n.endswith("kernel"):  # the mask: neither biases nor scales shrink
                direction = direction + numbers["weight_decay"] * params[n]
            group = moved["matrices" if n.endswith("kernel") else "vectors"]
            group[0] += ((lr * direction) ** 2).sum()
            group[1] += (params[n] ** 2).sum()
            params[n] = params[n] - lr * direction
        row |= {f"update/{k}": math.sqrt(a / b) for k, (a, b) in moved.items()}
        rows.append(row)
    return params, rows


def test_adamw_with_a_decay_mask_equals_its_float64_twin() -> None:
    numbers = {
        "lr": 0.05, "warmup": 2.0, "end_ratio": 0.2, "weight_decay": 0.3, "b1": 0.8, "b2": 0.95,
        "eps": 1e-3, "clip_norm": 2.0,
    }  # fmt: skip
    params, rows = run(optim.make(8), hyper(**numbers))
    expected, expected_rows = adamw_twin(numbers, 5, 8)
    for name, leaf in tree.named_leaves(params):
        np.testing.assert_allclose(leaf, expected[name], rtol=2e-6, atol=2e-7, err_msg=name)
    # Both sides of the clip were there: the gradients grow threefold with each step.
    assert rows[0]["grad_norm"] < numbers["clip_norm"] < rows[4]["grad_norm"]
    for row, other in zip(rows, expected_rows, strict=True):
        assert row.keys() == other.keys()
        for key in row:
            assert row[key] == pytest.approx(other[key], rel=2e-5), key


def test_clipping_scales_the_whole_gradient_and_zero_leaves_it_alone() -> None:
    optimizer = optim.make(10, name="sgd", schedule="constant")
    params = {"a": jnp.zeros(1), "b": {"c": jnp.zeros(1)}}
    grads = {"a": jnp.full(1, 3.0), "b": {"c": jnp.full(1, 4.0)}}

    def step(clip: float) -> list[float]:
        numbers = hyper(lr=1.0, clip_norm=clip)
        opt = optimizer.init(params, numbers)
        new, _, stats = optimizer.update(grads, opt, params, numbers, jnp.int32(0))
        assert float(stats["grad_norm"]) == 5.0  # before clipping
        return [-float(new["a"][0]), -float(new["b"]["c"][0])]

    assert step(1.0) == pytest.approx([0.6, 0.8])
    assert step(5.0) == step(9.0) == step(0.0) == [3.0, 4.0]


def test_an_optimizer_without_decay_of_its_own_gets_the_classic_one() -> None:
    optimizer = optim.make(10, name="sgd", schedule="constant", args=(("momentum", 0.5),))
    params = {"w": jnp.full(1, 2.0)}
    numbers = hyper(lr=0.1, weight_decay=0.25)
    opt = optimizer.init(params, numbers)
    w, trace = 2.0, 0.0
    for step in range(3):
        params, opt, _ = optimizer.update({"w": jnp.ones(1)}, opt, params, numbers, jnp.int32(step))
        trace = 0.5 * trace + 1.0 + 0.25 * w
        w -= 0.1 * trace
        assert float(params["w"][0]) == pytest.approx(w, rel=1e-6)


def test_multipliers_scale_the_rate_and_the_decay_of_what_they_claim() -> None:
    rules = (("slow", {"lr": 0.5, "decay": 4.0}), (".*", {}))
    optimizer = optim.make(10, schedule="constant", rules=rules)
    params = {"fast": jnp.ones(1), "slow": jnp.ones(1)}
    numbers = hyper(lr=0.1, weight_decay=0.2, eps=0.0)
    opt = optimizer.init(params, numbers)
    new, _, stats = optimizer.update(params, opt, params, numbers, jnp.int32(0))
    # Adam's first direction is the gradient's sign, 1.
    assert float(new["fast"][0]) == pytest.approx(1 - 0.1 * (1 + 0.2 * 1), rel=1e-6)
    assert float(new["slow"][0]) == pytest.approx(1 - 0.05 * (1 + 0.8 * 1), rel=1e-6)
    assert stats.keys() == {"grad_norm", "lr", "update/rule_0", "update/rule_1"}


def test_rules_that_share_a_label_are_measured_together() -> None:
    rules = (("a", {"label": "both"}), ("b", {"label": "both"}))
    optimizer = optim.make(10, name="sgd", schedule="constant", rules=rules)
    params = {"a": jnp.full(1, 3.0), "b": jnp.full(1, 4.0)}
    numbers = hyper(lr=1.0)
    opt = optimizer.init(params, numbers)
    grads = {"a": jnp.full(1, 6.0), "b": jnp.zeros(1)}
    stats = optimizer.update(grads, opt, params, numbers, jnp.int32(0))[2]
    assert float(stats["update/both"]) == pytest.approx(6 / 5, rel=1e-6)


def test_a_frozen_leaf_keeps_its_bits_and_its_gradient_is_not_in_the_norm() -> None:
    rules = (("norm", {"freeze": True}), (".*", {"label": "rest"}))
    params, rows = run(optim.make(8, rules=rules), hyper(lr=0.1, weight_decay=0.5))
    before = parameters()
    assert tree.first_difference(jax.device_get(params["norm"]), before["norm"]) is None
    assert not np.array_equal(params["hidden"]["kernel"], before["hidden"]["kernel"])
    for step, row in enumerate(rows):
        trained, all_of_it = gradients(step)["hidden"], gradients(step)
        assert row["grad_norm"] == pytest.approx(float(optax.tree.norm(trained)), rel=1e-6)
        assert row["grad_norm"] < 0.999 * float(optax.tree.norm(all_of_it))
        assert set(row) == {"grad_norm", "lr", "update/rest"}


def test_muon_for_hidden_matrices_beside_adamw() -> None:
    rules = (
        ("hidden/kernel", {"name": "muon", "lr": 10.0, "label": "hidden"}),
        (".*", {"label": "rest"}),
    )
    numbers = hyper(lr=0.01)
    params, _ = run(optim.make(8, schedule="constant", rules=rules), numbers, steps=1)
    plain, _ = run(optim.make(8, schedule="constant"), numbers, steps=1)
    np.testing.assert_array_equal(params["hidden"]["bias"], plain["hidden"]["bias"])
    np.testing.assert_array_equal(params["norm"]["scale"], plain["norm"]["scale"])
    # Muon's update is the gradient with its singular values brought near 1.
    update = np.asarray(params["hidden"]["kernel"] - parameters()["hidden"]["kernel"]) / 0.1
    left, values, right = np.linalg.svd(update)
    scale = math.sqrt(max(1, 4 / 3))
    assert (values / scale > 0.6).all()
    assert (values / scale < 1.3).all()
    g_left, _, g_right = np.linalg.svd(np.asarray(gradients(0)["hidden"]["kernel"]))
    # -U V^T of the gradient is what the update approaches.
    cosine = -np.sum((left[:, :3] @ right) * (g_left[:, :3] @ g_right)) / 3
    assert cosine > 0.999
    adam = np.asarray(plain["hidden"]["kernel"] - parameters()["hidden"]["kernel"])
    assert np.linalg.svd(adam, compute_uv=False)[-1] / np.linalg.norm(adam, 2) < 0.6


def test_a_parameter_that_no_rule_claims_is_an_error() -> None:
    optimizer = optim.make(8, rules=(("kernel$", {}), ("bias$", {})))
    with pytest.raises(UserError, match=r"optim\.rules: no rule claims norm/scale; add a rule"):
        optimizer.init(parameters(), hyper())


@pytest.mark.parametrize("setting", [{"lr": 0.1}, {"freeze": True}, {"name": "sgd"}])
def test_a_rule_that_would_silently_do_nothing_is_an_error(setting: dict[str, Any]) -> None:
    optimizer = optim.make(8, rules=(("hiden/kernel", setting), (".*", {})))
    with pytest.raises(UserError, match="'hiden/kernel' claims no parameter; is it misspelt"):
        optimizer.init(parameters(), hyper())
    # One that only lowers the decay may stand in a recipe for models that have no such parameter.
    optim.make(8, rules=(("embed", {"decay": 0.0}), (".*", {}))).init(parameters(), hyper())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamv"}, r"optim\.name: no optimizer 'adamv' .* Did you mean 'adam"),
        ({"name": "linear_schedule"}, "no optimizer 'linear_schedule'"),
        ({"name": "scale_by_rprop"}, "no optimizer 'scale_by_rprop'"),
        ({"name": "lbfgs"}, "'lbfgs' needs more than gradients and parameters: .*value_fn"),
        ({"name": "schedule_free"}, "schedule_free says: .*'base_optimizer'"),
        ({"schedule": "cosin"}, r"optim\.schedule: no schedule 'cosin'\. Did you mean 'cosine'"),
        ({"rules": ((".*", {"freze": True}),)}, "'freze' is no setting .* Did you mean 'freeze'"),
        ({"rules": ((".*", {"name": "muno"}),)}, "no optimizer 'muno' .* Did you mean 'muon'"),
        ({"rules": ((".*", {"lr": "0.1"}),)}, "'lr' is '0.1'; expected a number"),
        ({"rules": ((".*", {"lr": True}),)}, "'lr' is True; expected a number"),
        ({"rules": ((".*", {"freeze": "no"}),)}, "'freeze' is 'no'; expected True or False"),
        ({"rules": (".*", {"lr": 1.0})}, r"expected \('regex', \{settings\}\) pairs, got '\.\*'"),
        ({"args": (("nestrov", True),)}, "optim.args: optax's adamw says: .*'nestrov'"),
        ({"args": ("nesterov", True)}, r"optim\.args: expected \('argument', value\) pairs"),
    ],
)
def test_wrong_settings_get_one_line_before_anything_is_trained(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        optim.make(8, **settings)
    assert "\n" not in str(caught.value)


def test_a_rule_that_is_no_regular_expression() -> None:
    with pytest.raises(UserError, match=r"optim\.rules: '\(' is not a regular expression"):
        optim.make(8, rules=(("(", {}),)).init(parameters(), hyper())


def regression(ema: bool = True, **settings: Any) -> tuple[Any, Any, list[int]]:
    """Least squares through `supervised`; the list grows by one each time the loss is traced."""
    traces: list[int] = []

    def loss(params: Any, variables: Any, batch: Any, key: Any, numbers: Any) -> Any:
        traces.append(1)
        error = jnp.square(batch["x"] @ params["model"]["w"] - batch["y"])
        metrics: Metrics = {"loss": (error.sum(), jnp.float32(error.size))}
        return metrics, variables

    def variables(key: jax.Array) -> Any:
        return {"model": {"w": jax.random.normal(key, (3,))}}, {}

    optimizer = optim.make(8, ema=ema, rules=((".*", {"label": "w"}),), **settings)
    return *supervised(variables, loss, optimizer), traces


def batch_of(step: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(step)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in (("x", (6, 3)), ("y", 6))}


def test_the_average_follows_the_parameters_by_hand() -> None:
    init, step, _ = regression()
    step = jax.jit(step)
    state = jax.jit(init)(jax.random.key(0), hyper(lr=0.1, ema_decay=0.75))
    expected = np.asarray(state.params["model"]["w"], np.float64)
    for i in range(4):
        state, _ = step(state, batch_of(i))
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["model"]["w"], np.float64)
        np.testing.assert_allclose(state.ema["model"]["w"], expected, rtol=1e-6)
    assert not np.allclose(state.ema["model"]["w"], state.params["model"]["w"], rtol=1e-3)
    assert regression(ema=False)[0](jax.random.key(0), hyper()).ema == {}


NUMBERS: list[dict[str, float]] = [
    {"lr": 0.1},
    {"lr": 0.2},
    {"lr": 0.3},
    {"lr": 0.1, "warmup": 5.0},
    {"lr": 0.1, "weight_decay": 0.5},
    {"lr": 0.1, "b1": 0.5},
    {"lr": 0.1, "clip_norm": 0.1, "eps": 0.1},
]


def train(init: Any, step: Any, numbers: dict[str, float], steps: int = 3) -> np.ndarray:
    state = init(jax.random.key(0), hyper(**numbers))
    for i in range(steps):
        state, _ = step(state, batch_of(i))
    return np.asarray(state.params["model"]["w"])


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_three_learning_rates_cost_one_compilation(name: str) -> None:
    init, step, traces = regression(name=name)
    compiled = jax.jit(step)
    init = jax.jit(init)
    ends = [train(init, compiled, {"lr": lr}) for lr in (0.1, 0.2, 0.3)]
    assert compiled._cache_size() == 1
    assert init._cache_size() == 1
    assert len(traces) == 1
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(ends[a] - ends[b]).max() > 1e-3


def test_every_number_is_an_input_and_many_trials_are_one_program() -> None:
    init, step, traces = regression()
    compiled, init = jax.jit(step), jax.jit(init)
    alone = np.stack([train(init, compiled, numbers) for numbers in NUMBERS])
    assert len(traces) == compiled._cache_size() == 1
    assert len({row.tobytes() for row in alone}) == len(NUMBERS)  # each number made a difference
    trials = [hyper(**numbers) for numbers in NUMBERS]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trials)
    state = jax.vmap(init, in_axes=(None, 0))(jax.random.key(0), stacked)
    together = jax.jit(jax.vmap(step, in_axes=(0, None)))
    for i in range(3):
        state, _ = together(state, batch_of(i))
    np.testing.assert_allclose(state.params["model"]["w"], alone, rtol=1e-5, atol=1e-6)


NARROW = ["adam", "adamw", "sgd", "lion", "muon", "adafactor", "schedule_free_adamw", "lamb"]


@pytest.mark.parametrize("name", NARROW)
def test_bfloat16_parameters_have_moments_and_averages_in_float32(name: str) -> None:
    """In bfloat16 a moment of decay 0.999 never moves; and a step must keep the state's dtypes."""
    free = name.startswith("schedule_free")
    settings: dict[str, Any] = {"name": name, "ema": not free}
    made = optim.make(9, schedule="constant" if free else "cosine", **settings)

    def begin(key: jax.Array) -> tuple[Any, Any]:
        return {"w": jnp.ones((4, 8), jnp.bfloat16), "bias": jnp.zeros(8, jnp.bfloat16)}, {}

    def loss(params: Any, variables: Any, batch: Any, key: Any, numbers: Any) -> Any:
        error = (
            batch["x"] @ params["w"].astype(jnp.float32) + params["bias"][None] - batch["y"]
        ) ** 2
        return {"loss": (error.sum(), jnp.float32(error.size))}, variables

    rng = np.random.default_rng(0)
    batch = {"x": jnp.float32(rng.normal(size=(6, 4))), "y": jnp.float32(rng.normal(size=(6, 8)))}
    for accumulate in (1, 2):
        init, step = supervised(begin, loss, made, accumulate=accumulate)
        state = init(jax.random.key(0), hyper(lr=0.1))
        kinds = jax.tree.map(lambda x: x.dtype, state)
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
        assert jnp.dtype("bfloat16") not in {
            x.dtype for x in jax.tree.leaves((state.opt, state.ema))
        }
        # As the loop does it: in one program, whose carry keeps its types.
        steps = partial(jax.lax.fori_loop, 0, 3, lambda _, s, step=step: step(s, batch)[0])
        end = jax.jit(steps)(state)
        assert jax.tree.map(lambda x: x.dtype, end) == kinds
        for trained in [state.params, end.params]:
            assert np.isfinite(np.asarray(trained["w"], np.float32)).all()
        assert not np.array_equal(state.params["w"], end.params["w"])
        if not free:  # a thousandth of the way, which bfloat16 would round away
            assert 0 < np.abs(np.asarray(end.ema["w"]) - 1.0).max() < 0.01

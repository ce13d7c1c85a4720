"""The step of two players: what each loop over it, each control and each helper really does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from aigc_jax.core import optim, schema, tree
from aigc_jax.core.task import weights
from aigc_jax.data.base import ArraySpec, Spec
from aigc_jax.errors import UserError
from aigc_jax.models import cnn
from aigc_jax.models.conditioning import Pair
from aigc_jax.tasks import adversarial, assisted_gan, gan
from aigc_jax.tasks.auxiliary import NAMES, lambda_at
from aigc_jax.tasks.players import Players, Rules
from aigc_jax.train import guard

ROWS, SIDE = 4, 4
MODEL = {
    "name": "gan_mlp",
    "latents": 3,
    "generator_widths": (5,),
    "discriminator_widths": (6,),
}


def spec(shape: tuple[int, ...] = (SIDE, SIDE, 1), classes: int = 3, rows: int = ROWS) -> Spec:
    return Spec({"x": ArraySpec((rows, *shape), "float32")}, {"shape": shape, "classes": classes})


def batch(seed: int = 0, rows: int = ROWS, shape: tuple[int, ...] = (SIDE, SIDE, 1)) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "x": jnp.asarray(rng.uniform(-1, 1, (rows, *shape)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, rows), jnp.int32),
        "index": jnp.arange(rows, dtype=jnp.int32),
        "mask": jnp.ones(rows),
    }


def optimizer(**settings: Any) -> optim.Optimizer:
    rules = ((".*", {}),)
    return optim.make(10, **{"name": "sgd", "schedule": "constant", "rules": rules} | settings)


def make(kind: Any = gan, *, model: dict[str, Any] | None = None, **settings: Any) -> Any:
    optim_settings = settings.pop("optim", {})
    return kind.make(spec(), optimizer(**optim_settings), {**MODEL, **(model or {})}, **settings)


def hyper(kind: str = "gan", **changes: float) -> dict[str, jax.Array]:
    numbers = optim.HYPER | schema.hyper("tasks", kind) | {"lr": 0.1} | changes
    return {name: jnp.float32(value) for name, value in numbers.items()}


def start(task: Any, **changes: float) -> Any:
    return task.init(jax.random.key(1), hyper("assisted_gan", **changes))


def same(a: Any, b: Any) -> bool:
    return tree.first_difference(jax.device_get(a), jax.device_get(b)) is None


def test_the_critics_steps_are_a_loop_over_parts_of_the_batch() -> None:
    """Two critic steps in one program are two programs of one, but for the generator's step."""
    whole, two = batch(), make(critic_steps=2)
    state, metrics = jax.jit(two.step)(start(two), whole)
    match = two.init.__self__  # the engine that made the task
    key, slow = jax.random.fold_in(jax.random.key(1), 0), start(two)
    for i in range(2):
        part = {name: x[2 * i : 2 * i + 2] for name, x in whole.items()}
        slow, found = match._critic_step(slow, part, jax.random.fold_in(key, i), jnp.int32(i))
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (state.params["discriminator"], slow.params["discriminator"])),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=path)
    assert metrics["loss"][1] == ROWS and found["loss"][1] == ROWS // 2
    slow, _ = match._generator_step(slow, part, jax.random.fold_in(key, 2))
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (state.params["generator"], slow.params["generator"])), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=path)
    assert not same(state.params["generator"], start(two).params["generator"])


def test_a_step_is_the_papers_two_gradients() -> None:
    """One step of SGD against losses and gradients written out here."""
    task = make()
    state, rows = start(task), batch()
    after, metrics = task.step(state, rows)
    match = task.init.__self__
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), 0)
    z_d = jax.random.normal(jax.random.fold_in(key, 0), (ROWS, 3))
    label = jnp.zeros(ROWS, jnp.int32)

    def answer(params: Any, x: jax.Array) -> jax.Array:
        net = match.players.pair.discriminator
        return net.apply({"params": params}, x, label, train=True).logits[:, 0]

    def made(params: Any, z: jax.Array) -> jax.Array:
        return match.players.pair.generator.apply({"params": params}, z, label, train=True)

    def critic(params: Any) -> jax.Array:
        fake = made(state.params["generator"], z_d)
        p_real, p_fake = (jax.nn.sigmoid(answer(params, x)) for x in (rows["x"], fake))
        return -(jnp.log(p_real) + jnp.log(1 - p_fake)).mean()

    value, gradient = jax.value_and_grad(critic)(state.params["discriminator"])
    want = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["discriminator"], gradient)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], value, rtol=1e-5)
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (after.params["discriminator"], want)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)
    key = jax.random.fold_in(jax.random.fold_in(state.key, 0), 1)
    z_g = jax.random.normal(jax.random.fold_in(key, 4), (ROWS, 3))

    def generator(params: Any) -> jax.Array:
        # Against the discriminator that has taken its step.
        return -jnp.log(
            jax.nn.sigmoid(answer(after.params["discriminator"], made(params, z_g)))
        ).mean()

    gradient = jax.grad(generator)(state.params["generator"])
    want = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["generator"], gradient)
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (after.params["generator"], want)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)


def test_two_time_scales() -> None:
    task, rows = make(), batch()
    plain, still = (task.step(start(task, discriminator_lr=v), rows)[0] for v in (1.0, 0.0))
    first = start(task)
    assert same(still.params["discriminator"], first.params["discriminator"])
    assert not same(plain.params["discriminator"], first.params["discriminator"])
    assert not same(still.params["generator"], first.params["generator"])


def test_packing_puts_examples_side_by_side() -> None:
    rules = Rules("hinge", (), 1, 1, 2, 0, "none", "normal")
    players = Players(Pair(None, None, 1, False), (2, 2, 3), rules)  # type: ignore[arg-type]
    x = jnp.arange(4 * 12.0).reshape(4, 2, 2, 3)
    packed = players.pack(x)
    assert packed.shape == (2, 2, 2, 6)
    np.testing.assert_array_equal(packed[0, ..., :3], x[0])
    np.testing.assert_array_equal(packed[0, ..., 3:], x[1])
    np.testing.assert_array_equal(packed[1, ..., 3:], x[3])
    np.testing.assert_array_equal(players.unpack(packed), x)
    points = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_array_equal(players.pack(points), points.reshape(2, 4))


def test_packing_trains_on_pairs() -> None:
    task = make(packing=2)
    state, metrics = task.step(start(task), batch())
    kernel = state.params["discriminator"]["hidden_0"]["kernel"]
    assert kernel.shape == (2 * SIDE * SIDE, 6)
    assert np.isfinite(metrics["loss"][0])
    found = task.eval(weights(state), batch(), jax.random.key(0))
    assert found["loss"][1] == ROWS / 2


def test_lazy_penalties_are_rare_and_as_strong() -> None:
    rows, lazy, eager = batch(), make(penalties=("r1",), penalty_every=2), make(penalties=("r1",))
    none = make()
    ones = [task.step(start(task, r1=5.0), rows)[1]["loss"][0] for task in (lazy, eager, none)]
    np.testing.assert_allclose(ones[0] - ones[2], 2 * (ones[1] - ones[2]), rtol=1e-3)
    assert ones[1] > ones[2]
    state = start(lazy, r1=5.0).replace(step=jnp.int32(1))
    plain = start(none).replace(step=jnp.int32(1))
    np.testing.assert_allclose(
        lazy.step(state, rows)[1]["loss"][0], none.step(plain, rows)[1]["loss"][0], rtol=1e-6
    )


@pytest.mark.parametrize("name", ["r2", "gradient_penalty", "gradient_penalty_0", "dragan"])
def test_a_penalty_enters_by_its_weight(name: str) -> None:
    task, rows = make(penalties=(name,)), batch()
    zero, one, two = (
        float(task.step(start(task, **{name: v}), rows)[1]["loss"][0]) for v in (0.0, 1.0, 2.0)
    )
    assert one > zero
    np.testing.assert_allclose(two - zero, 2 * (one - zero), rtol=1e-3)


def test_lecam_follows_running_means() -> None:
    task, rows = make(penalties=("lecam",)), batch()
    state, metrics = task.step(start(task), rows)
    for kind, name in (("real", "real_logit"), ("made", "made_logit")):
        mean = metrics[name][0] / metrics[name][1]
        np.testing.assert_allclose(state.vars["lecam"][kind], 0.01 * mean, rtol=1e-4)


@pytest.mark.parametrize(("target", "way"), [(-2.0, 1.0), (2.0, 0.0)])
def test_ada_raises_its_strength_where_the_discriminator_overfits(
    target: float, way: float
) -> None:
    task, rows = make(augment="ada"), batch()
    state = start(task, ada_target=target, ada_images=40.0)
    for i in range(2):
        state, metrics = task.step(state, rows)
        np.testing.assert_allclose(state.vars["ada"]["p"], way * 0.1 * (i + 1), rtol=1e-5)
    assert metrics["ada_p"][0] / metrics["ada_p"][1] == state.vars["ada"]["p"]


def test_a_fixed_strength_is_a_number_of_hyper() -> None:
    task, rows = make(augment="fixed"), batch()
    step = jax.jit(task.step)
    off, on = (step(start(task, augment_p=p), rows)[0] for p in (0.0, 0.9))
    assert step._cache_size() == 1 and "ada" not in on.vars
    plain, _ = make().step(start(task), rows)
    for (path, a), (_, b) in zip(*map(tree.named_leaves, (off.params, plain.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=path)
    assert not same(on.params, off.params)


@pytest.mark.parametrize("packing", [1, 2])
def test_a_slope_is_that_of_the_pictures_before_augmentation(
    monkeypatch: pytest.MonkeyPatch, packing: int
) -> None:
    monkeypatch.setattr(adversarial, "augment", lambda policy, key, x, strength: 3.0 * x)
    task, rows = make(augment="fixed", penalties=("r1", "r2"), packing=packing), batch()
    state = start(task, r1=2.0, r2=0.0)
    match = task.init.__self__
    _, metrics = task.step(state, rows)
    game, whole = (metrics[n][0] / metrics[n][1] for n in ("discriminator_loss", "loss"))
    net, label = match.players.pair.discriminator, jnp.zeros(ROWS // packing, jnp.int32)

    def judge(x: jax.Array) -> jax.Array:
        params = {"params": state.params["discriminator"]}
        return net.apply(params, match.players.pack(x), label, train=True).logits.sum()

    # d/dx D(3x) = 3 D'(3x); the squared slope of a pack is the sum over its pictures.
    slope = 3.0 * jax.grad(judge)(3.0 * rows["x"])
    want = 2.0 * 0.5 * (slope**2).sum() / (ROWS // packing)
    np.testing.assert_allclose(whole - game, want, rtol=1e-4)


def test_the_generator_may_have_rows_of_its_own() -> None:
    task, rows = make(own_rows=True, critic_steps=3), batch(rows=8)
    state, match = start(task), task.init.__self__
    after, metrics = task.step(state, rows)
    key, slow = jax.random.fold_in(state.key, 0), state
    for i in range(3):
        part = {name: x[2 * i : 2 * i + 2] for name, x in rows.items()}
        slow, _ = match._critic_step(slow, part, jax.random.fold_in(key, i), jnp.int32(i))
    rest = {name: x[6:] for name, x in rows.items()}
    slow, _ = match._generator_step(slow, rest, jax.random.fold_in(key, 3))
    for (path, a), (_, b) in zip(*map(tree.named_leaves, (after.params, slow.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=path)
    assert metrics["loss"][1] == 6
    # The game is one in which real rows count, so that others would have shown.
    paired = make(own_rows=True, loss="relativistic_pairing")
    other = {**rows, "x": rows["x"].at[4:].multiply(0.5)}
    one, two = (paired.step(start(paired), x)[0].params for x in (rows, other))
    assert same(one["discriminator"], two["discriminator"])
    assert not same(one["generator"], two["generator"])


def test_the_average_has_its_own_batch_statistics() -> None:
    task = make(model={"norm": True}, optim={"ema": True})
    rows, state = batch(), start(task, ema_decay=0.9)
    assert set(state.ema) == {"generator"}
    first = state.vars["generator"]["batch_stats"]["norm_0"]["norm"]["mean"]
    state, _ = task.step(state, rows)
    now = state.vars["generator"]["batch_stats"]["norm_0"]["norm"]["mean"]
    judged = weights(state)
    kept = judged.vars["generator"]["batch_stats"]["norm_0"]["norm"]["mean"]
    np.testing.assert_allclose(kept, 0.9 * first + 0.1 * now, rtol=1e-5)
    assert np.abs(np.asarray(now)).max() > 0
    np.testing.assert_allclose(
        judged.params["generator"]["out"]["bias"],
        0.1 * state.params["generator"]["out"]["bias"],
        rtol=1e-4,
    )
    # What samples, samples with it.
    drawn = task.sample(judged, jax.random.key(0), number=3)
    plain = task.sample(
        judged._replace(vars=state.vars, params=state.params), jax.random.key(0), number=3
    )
    assert np.abs(drawn - plain).max() > 0


def test_unrolling_looks_through_the_discriminators_answer() -> None:
    """The generator's gradient equals that of a loss written with the answer in it."""
    rows, task = batch(), make(unroll=1)
    match, state = task.init.__self__, start(task)
    key = jax.random.key(5)
    after, _ = match._generator_step(state, rows, key)
    plain, _ = make().init.__self__._generator_step(state, rows, key)
    z = match.players.latents(jax.random.fold_in(key, 4), ROWS)
    label = jnp.zeros(ROWS, jnp.int32)

    def judge(params: Any, x: jax.Array) -> jax.Array:
        net = match.players.pair.discriminator
        return net.apply({"params": params}, x, label, train=True).logits[:, 0]

    def loss(params: Any) -> jax.Array:
        net = match.players.pair.generator
        made = net.apply({"params": params}, z, label, train=True)
        rival = state.params["discriminator"]

        def critic(d: Any) -> jax.Array:
            r, f = judge(d, rows["x"]), judge(d, made)
            return (jax.nn.softplus(-r) + jax.nn.softplus(f)).mean()

        rival = jax.tree.map(lambda p, g: p - 0.1 * g, rival, jax.grad(critic)(rival))
        return jax.nn.softplus(-judge(rival, made)).mean()

    gradient = jax.grad(loss)(state.params["generator"])
    want = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["generator"], gradient)
    for (path, a), (_, b) in zip(
        *map(tree.named_leaves, (after.params["generator"], want)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6, err_msg=path)
    assert same(after.params["discriminator"], state.params["discriminator"])
    assert not same(after.params["generator"], plain.params["generator"])


@pytest.mark.parametrize(("step", "due"), [(0, False), (2, True), (4, False)])
def test_unrolling_meets_a_lazy_penalty_only_where_it_is_due(step: int, due: bool) -> None:
    """After step 2 the discriminator takes its step 3; penalties are due at 0, 3, 6."""
    rows, found = batch(), {}
    for penalties in ((), ("r1",)):
        task = make(unroll=1, penalties=penalties, penalty_every=3)
        state = start(task)
        state = state.replace(step=state.step + step)
        after, _ = task.init.__self__._generator_step(state, rows, jax.random.key(5))
        found[penalties] = after.params["generator"]
    assert same(found[()], found["r1",]) != due


def test_an_auxiliary_classifier_is_trained_and_taught_from() -> None:
    labels = {"generator_labels": "concat", "discriminator_labels": "classifier"}
    task = make(model=labels)
    state, metrics = task.step(start(task), batch())
    moved = state.params["discriminator"]["head"]["classes"]["kernel"]
    assert not same(moved, start(task).params["discriminator"]["head"]["classes"]["kernel"])
    assert float(metrics["loss"][0]) > float(metrics["discriminator_loss"][0])


# --- bad numbers ----------------------------------------------------------------------------

GUARDED: dict[str, Any] = {
    "model": {"norm": True, "spectral_norm": True}, "critic_steps": 2, "augment": "ada",
    "penalties": ("lecam",), "optim": {"name": "adam", "ema": True},
}  # fmt: skip


def poisoned(*steps: int) -> Any:
    """Batches of which one pixel is NaN at these steps."""

    def rows(step: int) -> dict[str, np.ndarray]:
        found = {name: np.array(x) for name, x in batch(step).items()}
        if step in steps:
            found["x"][3, 0, 0, 0] = np.nan  # in the second part of the batch alone
        return found

    return rows


def test_a_bad_step_leaves_both_players_as_they_were() -> None:
    task = make(**GUARDED)
    step = jax.jit(guard.guarded_step(task.step, policy="skip", spike=0.0))
    state = guard.guarded_init(task.init)(jax.random.key(1), hyper(ada_images=40.0))
    for i in range(3):
        state, metrics = step(state, poisoned(3)(i))
        assert float(metrics["bad"][0]) == 0.0
    after, metrics = step(state, poisoned(3)(3))
    assert float(metrics["bad"][0]) == 1.0
    before, now = toy.leaves(state), toy.leaves(after)
    for part in ("params/discriminator", "params/generator", "opt/discriminator", "opt/generator",
                 "vars/discriminator", "vars/generator", "vars/ada", "vars/lecam", "vars/ema",
                 "ema/generator"):  # fmt: skip
        assert any(name.startswith(part) for name in before), part
    assert [n for n in before if before[n].tobytes() != now[n].tobytes()] == ["step"]


def test_a_game_rolled_back_is_one_that_never_met_the_bad_rows(tmp_path: Path) -> None:
    """From the checkpoint at 4 behind the batch 6, so that batches 4 to 6 are passed over."""
    rest = [0, 1, 2, 3, *range(7, 20)]
    numbers = {name: float(value) for name, value in hyper(ada_images=40.0).items()}
    runs = [
        toy.loop(tmp_path / name, of=make(**GUARDED), batch_at=rows, hyper=numbers, steps=8,
                 save_every=4, on_bad="rollback").run()
        for name, rows in (("a", poisoned(6)), ("b", lambda step: poisoned()(rest[step])))
    ]  # fmt: skip
    assert (tmp_path / "a" / "bad" / "6").is_dir()
    toy.same(runs[0].state, runs[1].state)


# --- helpers --------------------------------------------------------------------------------


def test_helpers_of_no_weight_change_nothing_of_the_game() -> None:
    rows, plain = batch(), make()
    helped = make(assisted_gan, auxiliaries=NAMES)
    a, _ = jax.jit(plain.step)(start(plain), rows)
    b, _ = jax.jit(helped.step)(start(helped, lambda_1=0.0, lambda_2=0.0), rows)
    for side in ("generator", "discriminator"):
        for (path, x), (_, y) in zip(
            *map(tree.named_leaves, (a.params[side], b.params[side])), strict=True
        ):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7, err_msg=f"{side}/{path}")


LOOKS = {"auxiliaries": ("frozen_features",)}
# Helper -> which networks change with its weight, after one step.
CHANGES = {
    "rotation": {"discriminator", "generator", "rotation"},  # the generator meets another D
    "info": {"generator", "info"},
    "encoder": {"generator", "encoder"},
    "feature_matching": {"generator"},
    "frozen_features": {"generator", "frozen_features"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_helper_moves_what_it_helps(name: str) -> None:
    task, rows = make(assisted_gan, auxiliaries=(name,), codes=1), batch()
    step = jax.jit(task.step)
    none, some = (step(start(task, lambda_1=v, lambda_2=v), rows)[0] for v in (0.0, 0.5))
    moved = {n for n in some.params if not same(none.params[n], some.params[n])}
    assert moved == CHANGES[name]
    if name == "frozen_features":
        first = start(task).vars["frozen_features"]
        assert same(some.vars["frozen_features"], first)


def test_a_classifier_is_what_a_second_discriminator_looks_through() -> None:
    """Its loss against one written out: hinge, on a head behind the classifier's features."""
    task = make(
        assisted_gan, auxiliaries=("frozen_features",), frozen="cnn",
        frozen_args=(("widths", (2,)), ("hidden", 5)),
    )  # fmt: skip
    state, rows = start(task), batch()
    made = -rows["x"]
    network = cnn.make(classes=3, shape=(SIDE, SIDE, 1), widths=(2,), hidden=5)
    kept, head = state.vars["frozen_features"], state.params["frozen_features"]
    assert set(kept) == {"stage_0", "hidden", "head"}  # a classifier's parameters, whole

    def answer(x: jax.Array) -> np.ndarray:
        seen = np.asarray(network.apply({"params": kept}, x, method="features"))
        first, last = (head[f"layers_{i}"] for i in (0, 2))
        h = seen @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
        h = np.where(h > 0, h, 0.2 * h)
        return (h @ np.asarray(last["kernel"]) + np.asarray(last["bias"]))[:, 0]

    scene = SimpleNamespace(x=rows["x"], made=made, params=state.params, vars=state.vars)
    (helper,) = task.init.__self__.helpers
    r, f = answer(rows["x"]), answer(made)
    want = np.maximum(0, 1 - r) + np.maximum(0, 1 + f)
    np.testing.assert_allclose(helper.critic(scene), want, rtol=1e-4)
    np.testing.assert_allclose(helper.generator(scene), -f, rtol=1e-4, atol=1e-6)
    assert np.abs(r - f).max() > 1e-3
    after, _ = jax.jit(task.step)(state, rows)
    assert same(after.vars["frozen_features"], kept)


def test_an_encoder_learns_to_invert() -> None:
    """With the generator held, its loss falls: A_G is minimized, not maximized."""
    task = make(assisted_gan, auxiliaries=("encoder", "info"), codes=2, optim={"name": "adam"})
    state = start(task, lr=0.01, lambda_1=0.0)
    helpers = {h.name: h for h in task.init.__self__.helpers}
    step = jax.jit(task.step)
    z = jax.random.normal(jax.random.key(9), (64, 3))
    match = task.init.__self__

    def losses(state: Any) -> dict[str, float]:
        label = jnp.zeros(64, jnp.int32)
        made, _ = match.players.generate(state.params["generator"], {}, z, label)
        scene = SimpleNamespace(made=made, z=z, params=state.params)
        return {n: float(h.generator(scene).mean()) for n, h in helpers.items()}

    before = losses(state)
    for i in range(60):
        state, _ = step(state, batch(i))
    after = losses(state)
    assert all(after[name] < 0.9 * before[name] for name in before), (before, after)


def test_what_an_encoder_finds_is_codes_and_reconstructions() -> None:
    labels = {"generator_labels": "concat", "discriminator_labels": "projection"}
    task, rows = make(assisted_gan, auxiliaries=("info", "encoder"), model=labels), batch()
    judged, key = weights(start(task)), jax.random.key(0)
    found = task.functions["codes"](judged, rows)
    net = task.init.__self__.players.pair.discriminator.clone(outputs=3)
    params, label = judged.params, jnp.zeros(ROWS, jnp.int32)
    want = net.apply({"params": params["encoder"]}, rows["x"], label, train=False).logits
    np.testing.assert_allclose(found, want, rtol=1e-5)
    again = task.functions["reconstruct"](judged, rows, key)
    made = task.functions["decode"](judged, want, rows["label"])
    np.testing.assert_allclose(again, made, rtol=1e-5)
    other = task.functions["reconstruct"](judged, {**rows, "label": (rows["label"] + 1) % 3}, key)
    assert np.abs(other - again).max() > 1e-3  # by the label of each row
    for helpers in ((), ("rotation", "feature_matching")):
        none = make(assisted_gan, auxiliaries=helpers).functions
        assert not {"codes", "reconstruct"} & none.keys()


def test_what_q_finds_is_means_and_probabilities() -> None:
    task = make(assisted_gan, auxiliaries=("info",), codes=1, categories=(2,))
    rows, judged = batch(), weights(start(task))
    found = task.functions["codes"](judged, rows)
    net, label = task.init.__self__.players.pair.discriminator.clone(outputs=4), rows["label"]
    answer = net.apply({"params": judged.params["info"]}, rows["x"], label, train=False).logits
    np.testing.assert_allclose(found[:, :1], answer[:, :1], rtol=1e-5)  # not the scale
    np.testing.assert_allclose(found[:, 1:], jax.nn.softmax(answer[:, 2:]), rtol=1e-5)
    assert "reconstruct" not in task.functions  # of the other latents it knows nothing


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_categories_are_the_last_latents(latent: str) -> None:
    model = {"latents": 8}
    # Powers of two: of one and the same bits, they would depend on each other.
    task = make(assisted_gan, model=model, categories=(2, 4), latent=latent)
    players = task.init.__self__.players
    z = np.asarray(players.latents(jax.random.key(0), 3000))
    assert z.shape == (3000, 8) and set(z[:, 2:].ravel()) == {0.0, 1.0}
    for part in (z[:, 2:4], z[:, 4:]):
        assert (part.sum(1) == 1).all()
        np.testing.assert_allclose(part.mean(0), 1 / part.shape[1], atol=0.03)
    joint = z[:, 2:4].T @ z[:, 4:] / 3000  # independent of each other
    np.testing.assert_allclose(joint, 1 / 8, atol=0.03)
    assert task.sample.knobs == (("truncation",) if latent == "normal" else ())
    if latent == "uniform":
        return
    players.generate = lambda params, kept, z, label, train: (z, kept)
    keys, label = jax.random.split(jax.random.key(0), 500), jnp.zeros(500, jnp.int32)
    far, near = (players.draw_truncated(weights(start(task)), keys, label, t) for t in (0.0, 0.5))
    np.testing.assert_array_equal(far[:, 2:], near[:, 2:])
    assert np.abs(np.asarray(near)[:, :2]).max() <= 0.5 < np.abs(np.asarray(far)[:, :2]).max()


def test_q_finds_the_categories_of_made_examples() -> None:
    task = make(
        assisted_gan, model={"latents": 5}, auxiliaries=("info",), codes=0, categories=(3,),
        optim={"name": "adam"},
    )  # fmt: skip
    state, step = start(task, lr=0.01), jax.jit(task.step)
    for i in range(100):
        state, _ = step(state, batch(i))
    judged, z = weights(state), task.functions["latents"](jax.random.key(1), 200)
    rows = {**batch(rows=200), "x": task.functions["decode"](judged, z)}
    found = task.functions["codes"](judged, rows)
    assert found.shape == (200, 3)
    assert (found.argmax(1) == z[:, 2:].argmax(1)).mean() > 0.9


def test_weights_rise_and_fall() -> None:
    numbers = hyper("assisted_gan", lambda_1=2.0, lambda_2=3.0)

    def at(step: int, **changes: float) -> float:
        values = {**numbers, **{k: jnp.float32(v) for k, v in changes.items()}}
        return float(lambda_at(values, "lambda_1", jnp.int32(step)))

    assert [at(s) for s in (0, 10, 10_000)] == [2.0, 2.0, 2.0]
    assert [at(s, lambda_warmup=10.0) for s in (0, 5, 10, 99)] == [0.0, 1.0, 2.0, 2.0]
    rising = [at(s, lambda_warmup=10.0, lambda_end=30.0) for s in (5, 10, 20, 30, 31)]
    assert rising == [1.0, 2.0, 1.0, 0.0, 0.0]
    task = make(assisted_gan)
    state, metrics = task.step(start(task, lambda_2=4.0, lambda_warmup=10.0), batch())
    assert metrics["lambda_2"][0] == 0.0 and state.hyper["lambda_2"] == 4.0


# --- samples and bad input ------------------------------------------------------------------


def test_samples_follow_from_key_and_place_alone() -> None:
    task = make(model={"generator_labels": "concat", "discriminator_labels": "projection"})
    judged = weights(start(task))
    task.sample.size = 4
    ten = task.sample(judged, jax.random.key(0), number=10)
    assert ten.shape == (10, SIDE, SIDE, 1) and ten.dtype == np.float32
    np.testing.assert_array_equal(task.sample(judged, jax.random.key(0), number=3), ten[:3])
    again = task.sample(judged, jax.random.key(0), number=10, label=np.arange(10) % 3)
    np.testing.assert_array_equal(again, ten)  # by default the labels come in turn
    other = task.sample(judged, jax.random.key(0), number=10, label=np.ones(10, int))
    assert np.abs(other[0] - ten[0]).max() > 0 and (other[1] == ten[1]).all()
    for bad in (np.zeros(9, int), np.full(10, 3)):
        with pytest.raises(UserError, match="label: expected 10 whole numbers from 0 to 2"):
            task.sample(judged, jax.random.key(0), number=10, label=bad)
    with pytest.raises(UserError, match="number=0"):
        task.sample(judged, jax.random.key(0), number=0)
    with pytest.raises(UserError, match="can't be sampled so"):
        task.sample(judged, jax.random.key(0), number=1, temperature=1.0)


def test_truncation_keeps_latents_near() -> None:
    task = make()
    players = task.init.__self__.players
    seen: list[Any] = []
    players.generate = lambda params, kept, z, label, train: (seen.append(z) or z, kept)
    judged = weights(start(task))
    keys = jax.random.split(jax.random.key(0), 500)
    label = jnp.zeros(500, jnp.int32)
    far, near = (players.draw_truncated(judged, keys, label, truncation=t) for t in (0.0, 0.5))
    assert np.abs(np.asarray(far)).max() > 2.5
    assert np.abs(np.asarray(near)).max() <= 0.5 and np.asarray(near).std() > 0.2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "hinges"}, "Did you mean 'hinge'"),
        ({"penalties": ("r3",)}, "task.penalties: there is no 'r3'"),
        ({"penalty_every": 0}, "expected 1 or more"),
        ({"critic_steps": 3}, "choose a multiple of 3"),
        ({"critic_steps": 2, "packing": 4}, "choose a multiple of 8"),
        ({"critic_steps": 2, "own_rows": True}, r"\(task.own_rows\).*choose a multiple of 3"),
        ({"unroll": -1}, "expected 0"),
        ({"augment": "mixup"}, "task.augment: there is no 'mixup'"),
        ({"latent": "cauchy"}, "task.latent"),
        (
            {
                "packing": 2,
                "model": {"generator_labels": "concat", "discriminator_labels": "concat"},
            },
            "no common label",
        ),
    ],
)
def test_a_bad_rule_is_answered(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auxiliaries": ("encodr",)}, "Did you mean 'encoder'"),
        ({"auxiliaries": ("encoder", "encoder")}, "stands twice"),
        ({"auxiliaries": ("info",), "codes": 4}, "expected 1 to 3"),
        ({"auxiliaries": ("info",), "codes": 0}, "expected 1 to 3"),
        ({"auxiliaries": ("info",), "categories": (2,)}, "expected 0 to 1"),
        ({"frozen": "cnn"}, "add that to task.auxiliaries"),
        ({**LOOKS, "frozen": "cmm"}, "there is no 'cmm' in models"),
        ({**LOOKS, "frozen": "gan_mlp"}, "no classifier of images"),
        ({**LOOKS, "frozen": "transformer"}, "no classifier of images"),
        ({**LOOKS, "frozen": "cnn", "frozen_args": (("width", 3),)}, "There are: widths, hidden"),
        ({**LOOKS, "frozen": "cnn", "frozen_args": (("widths", (2, 2, 2)),)}, "too small"),
        ({"categories": (2, 1)}, "expected 2 or more of each"),
        ({"categories": (2, 2)}, r"take 4 latents.*latents=3"),
        ({"auxiliaries": ("rotation",), "packing": 2}, "set packing to 1"),
    ],
)
def test_a_bad_helper_is_answered(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make(assisted_gan, **settings)


def test_points_are_neither_turned_nor_augmented() -> None:
    for kind, settings, words in (
        (gan, {"augment": "diffaugment"}, "changes images"),
        (assisted_gan, {"auxiliaries": ("rotation",)}, "right angles"),
    ):
        with pytest.raises(UserError, match=words):
            kind.make(spec((2,)), optimizer(), MODEL, **settings)
    with pytest.raises(UserError, match="images of 2 channels have none"):
        gan.make(spec((4, 4, 2)), optimizer(), MODEL, augment="fixed")


def test_standing_statistics_are_those_of_many_batches() -> None:
    task = make(model={"norm": True})
    judged = weights(start(task))
    players = task.init.__self__.players
    again = task.functions["standing"](judged, jax.random.key(3), 5, 40)
    found = again.vars["generator"]["batch_stats"]["norm_0"]["norm"]
    z = jnp.concatenate([players.latents(jax.random.fold_in(jax.random.key(3), i), 40)
                         for i in range(5)])  # fmt: skip
    hidden = z @ judged.params["generator"]["hidden_0"]["kernel"]
    np.testing.assert_allclose(found["mean"], hidden.mean(0), rtol=1e-4, atol=1e-5)
    parts = np.asarray(hidden).reshape(5, 40, -1).var(1).mean(0)
    np.testing.assert_allclose(found["var"], parts, rtol=1e-3)
    assert same(again.params, judged.params)
    plain = make(model={"norm": False})
    with pytest.raises(UserError, match="no batch statistics"):
        plain.functions["standing"](weights(start(plain)), jax.random.key(3), 5, 40)


def test_a_satisfied_hinge_is_no_bad_number() -> None:
    task, rows = make(loss="hinge"), batch()
    state = start(task)
    # Far on the right side for real rows, and the same for made ones: the logits of both are 50.
    head = state.params["discriminator"]["head"]["logits"]
    head["bias"] = head["bias"] + 50.0
    task.init.__self__.game = task.init.__self__.game._replace(
        discriminator=lambda r, f: jax.nn.relu(1.0 - r) + jax.nn.relu(1.0 - f)
    )
    _, metrics = task.step(state, rows)
    assert metrics["grad_norm"][0] == 0.0
    assert all(np.isfinite(pair).all() for pair in metrics.values())

"""What every task must keep to, whatever it learns.

A task found in `tasks/` without an entry in TINY fails: whoever adds one adds its line here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import burn_in, config, optim, schema, tree
from aigc_jax.core.task import State, Task, weights
from aigc_jax.data.base import ArraySpec, Spec


class Case(NamedTuple):
    """How a task is made small, and what it is fed.

    Attributes:
      settings: of the task, its models included.
      facts: what its data says of itself.
      batch: (seed, rows) -> arrays; masked where a row may be.
      frozen: a regular expression, found in the paths of some parameters and not of all.
      optim: settings of the optimizer. hyper: numbers that are not the defaults.
      together: rows of an evaluation that are judged together.
    """

    settings: dict[str, Any]
    facts: dict[str, Any]
    batch: Callable[[int, int], dict[str, np.ndarray]]
    frozen: str
    optim: Mapping[str, Any] = MappingProxyType({})
    hyper: Mapping[str, float] = MappingProxyType({})
    together: int = 1


def language(seed: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 11, (rows, 7)).astype(np.int32)
    mask = np.arange(6) < rng.integers(1, 7, (rows, 1))
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "mask": mask.astype(np.float32),
        "segments": np.tile(np.array([1, 1, 1, 1, 2, 2], np.int32), (rows, 1)),
        "positions": np.tile(np.array([0, 1, 2, 3, 0, 1], np.int32), (rows, 1)),
    }


def images(seed: int, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.uniform(-1, 1, (rows, 8, 8, 1)).astype(np.float32),
        "label": rng.integers(0, 3, rows).astype(np.int32),
        "index": rng.permutation(rows).astype(np.int32),
        "mask": np.ones(rows, np.float32),
    }


MLP = {
    "name": "gan_mlp",
    "latents": 3,
    "generator_widths": (5,),
    "discriminator_widths": (6,),
}
TINY = {
    "lm": Case(
        settings={
            "model": {"name": "transformer", "layers": 1, "heads": 2, "width": 8},
            "accumulate": 2,
        },
        facts={"vocab_size": 11, "context": 6, "token_bytes": np.arange(11)},
        batch=language,
        frozen="position_embed$|qkv",
    ),
    "gan": Case(
        settings={
            "model": {
                "name": "dcgan",
                "latents": 3,
                "generator_width": 2,
                "discriminator_width": 3,
                "norm": False,
                "generator_labels": "norm",
                "discriminator_labels": "projection",
            },
            "penalties": ("r1",),
            "penalty_every": 2,
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="generator/first|discriminator/down_1",
    ),
    "classifier": Case(
        settings={"model": {"name": "cnn", "widths": (2, 3), "hidden": 8}, "accumulate": 2},
        facts={"unit": "images", "shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="stage_0",
    ),
    "assisted_gan": Case(
        settings={
            "model": MLP,
            "auxiliaries": ("rotation", "encoder"),
            "critic_steps": 2,
            "loss": "least_squares",
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="generator/hidden_0|encoder/hidden_0",
    ),
    "vae": Case(
        settings={
            "model": {"name": "vae_mlp", "width": 5, "latent": 3},
            "samples": 2,
            "objective": "iwae",
            "conditional": True,
            "accumulate": 2,
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="encoder/hidden_0",
    ),
    "vqvae": Case(
        settings={
            "model": {"name": "vq_conv", "width": 4, "code_width": 3, "layers": 0},
            "codes": 5,
            "likelihood": "discretized_logistic",
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="decoder/in",
    ),
    # The same tasks with settings that change what a step is: TASK, or TASK-words.
    "gan-packed": Case(
        settings={
            "model": MLP | {"norm": True},
            "packing": 2,
            "unroll": 1,
            "own_rows": True,
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="generator/hidden_0|discriminator/hidden_0",
        optim={"name": "adam", "args": (("eps_root", 1e-6),)},
        together=2,
    ),
    "gan-adaptive": Case(
        settings={
            "model": {
                "name": "dcgan",
                "latents": 3,
                "generator_width": 2,
                "discriminator_width": 3,
                "generator_labels": "concat",
                "discriminator_labels": "classifier",
            },
            "augment": "ada",
            "critic_steps": 2,
            "penalties": ("lecam",),
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="generator/first|discriminator/down_1",
        hyper={"ada_images": 40.0},
    ),
    "assisted_gan-codes": Case(
        settings={
            "model": MLP,
            "auxiliaries": ("info", "feature_matching"),
            "codes": 1,
            "categories": (2,),
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="generator/hidden_0|info/hidden_0",
        optim={"burn_in": ("lr", "lambda_2")},
        hyper={"burn_in": 3.0, "lr_first": 0.02, "lambda_2_first": 0.5},
    ),
    "vae-two_layers": Case(
        settings={
            "model": {
                "name": "vae_two_layers",
                "width": 5,
                "upper_width": 4,
                "latent": 3,
                "upper_latent": 2,
            },
            "samples": 2,
        },
        facts={"shape": (8, 8, 1), "classes": 3},
        batch=images,
        frozen="encoder",
        optim={"burn_in": ("beta",)},
        hyper={"burn_in": 3.0, "beta_first": 0.1},
    ),
}

ROWS = 4
TASKS = list(TINY)
everywhere = pytest.mark.parametrize("name", TASKS)


def test_every_task_is_held_to_the_contract() -> None:
    assert set(schema.names("tasks")) == set(map(task_of, TINY)), (
        "every task of aigc_jax/tasks has a line in TINY, no other has"
    )


def task_of(name: str) -> str:
    return name.partition("-")[0]


def make(name: str, *, frozen: bool = False) -> Task:
    case = TINY[name]
    batch = case.batch(0, ROWS)
    spec = Spec({k: ArraySpec(x.shape, str(x.dtype)) for k, x in batch.items()}, case.facts)
    rules: tuple[Any, ...] = ((".*", {}),)
    if frozen:
        rules = ((case.frozen, {"freeze": True}), *rules)
    optimizer = optim.make(10, ema=True, schedule="constant", rules=rules, **case.optim)
    section = {"name": task_of(name), **case.settings}
    task = config.build("tasks", section, spec=spec, optimizer=optimizer)
    return burn_in.burning_in(task, optimizer.burn_in, case.hyper)


def hyper(name: str, **changes: float) -> dict[str, np.ndarray]:
    own = schema.hyper("tasks", task_of(name)) | {"lr": 0.01} | dict(TINY[name].hyper)
    numbers = optim.HYPER | own | changes
    return {key: np.float32(value) for key, value in numbers.items()}  # type: ignore[misc]


class Made(NamedTuple):
    task: Task
    first: State  # on the host, since a step may be given its buffers
    step: Any  # jitted, its state donated: as the loop does it


def compiled(name: str, *, frozen: bool = False) -> Made:
    task = make(name, frozen=frozen)
    first = jax.jit(task.init)(jax.random.key(1), hyper(name))
    return Made(task, first, jax.jit(task.step, donate_argnums=0))


@pytest.fixture(scope="module", params=TASKS)
def made(request: pytest.FixtureRequest) -> tuple[str, Made]:
    return request.param, compiled(request.param)


def fresh(state: State) -> State:
    """A copy whose buffers may be given away."""
    return jax.tree.map(jnp.copy, state)


def weak(leaf: Any) -> bool:
    return getattr(leaf, "weak_type", False)  # a random key has no such thing


def numbers_of(state: State) -> State:
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


def test_init_is_finite_and_follows_from_the_key(made: tuple[str, Made]) -> None:
    name, (task, state, _) = made
    assert state.step.dtype == jnp.int32
    assert int(state.step) == 0
    assert tree.first_nonfinite(numbers_of(state)) is None
    init = jax.jit(task.init)
    same, other = (init(jax.random.key(k), hyper(name)) for k in (1, 2))
    assert tree.first_difference(numbers_of(same), numbers_of(state)) is None
    assert tree.first_difference(jax.device_get(other.params), jax.device_get(state.params))
    assert set(state.hyper) == set(hyper(name))


def test_steps_keep_structure_dtypes_and_shapes_and_are_compiled_once(
    made: tuple[str, Made],
) -> None:
    name, (_, first, step) = made
    state, metrics = fresh(first), {}
    for i in range(3):
        state, metrics = step(state, TINY[name].batch(i, ROWS))
        assert int(state.step) == i + 1
        assert "loss" in metrics
        for key, pair in metrics.items():
            total, weight = pair
            assert total.shape == weight.shape == (), key
            assert np.isfinite([total, weight]).all(), key
    assert jax.tree.structure(state) == jax.tree.structure(first)
    for (path, a), (_, b) in zip(*map(tree.named_leaves, (state, first)), strict=True):
        assert (a.shape, a.dtype, weak(a)) == (b.shape, b.dtype, weak(b)), path
    assert jax.random.key_data(state.key).tolist() == jax.random.key_data(first.key).tolist()
    assert step._cache_size() == 1
    assert tree.first_difference(jax.device_get(state.hyper), jax.device_get(first.hyper)) is None


def test_two_steps_change_every_leaf_that_is_trained(made: tuple[str, Made]) -> None:
    name, (_, first, step) = made
    state = fresh(first)
    for i in range(2):
        state, _ = step(state, TINY[name].batch(i, ROWS))
    for part in ("params", "ema"):
        before, after = getattr(first, part), getattr(state, part)
        assert before.keys() <= first.params.keys()  # some networks need no average
        for network, leaves in before.items():
            assert jax.tree.structure(leaves) == jax.tree.structure(first.params[network])
        for (path, a), (_, b) in zip(*map(tree.named_leaves, (before, after)), strict=True):
            assert not np.array_equal(a, b), f"{part}/{path} did not change"
    assert tree.first_nonfinite(numbers_of(state)) is None


@everywhere
def test_two_steps_change_no_leaf_that_is_frozen(name: str) -> None:
    _, first, step = compiled(name, frozen=True)
    state = fresh(first)
    for i in range(2):
        state, _ = step(state, TINY[name].batch(i, ROWS))
    claims = tree.claim(first.params, [TINY[name].frozen, ".*"], "the test")
    assert {0, 1} == set(jax.tree.leaves(claims))
    for (path, claim), (_, a), (_, b) in zip(
        *map(tree.named_leaves, (claims, first.params, state.params)), strict=True
    ):
        assert (np.asarray(a).tobytes() == np.asarray(b).tobytes()) == (claim == 0), path


def test_a_donated_state_gives_the_same_bits(made: tuple[str, Made]) -> None:
    name, (task, first, step) = made
    plain = jax.jit(task.step)
    a, b = fresh(first), first
    # As it comes from init, without a copy between: no buffer may be in it twice.
    c = jax.jit(task.init)(jax.random.key(1), hyper(name))
    for i in range(2):
        batch = TINY[name].batch(i, ROWS)
        given = jax.tree.leaves(c)
        (a, one), (b, two), (c, three) = step(a, batch), plain(b, batch), step(c, batch)
        assert any(leaf.is_deleted() for leaf in given)  # it was donated indeed
        assert jax.device_get(one) == jax.device_get(two) == jax.device_get(three)
    for other in (b, c):
        assert tree.first_difference(numbers_of(a), numbers_of(other)) is None


def totals(evaluate: Any, state: State, parts: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        for key, pair in evaluate(weights(state), part, jax.random.key(2)).items():
            found[key] = found.get(key, 0.0) + np.array(pair, np.float64)
    return found


def test_sums_of_an_evaluation_do_not_depend_on_the_split(made: tuple[str, Made]) -> None:
    name, (task, state, _) = made
    evaluate, whole = jax.jit(task.eval), TINY[name].batch(5, 6)

    def rows(*places: int) -> dict[str, np.ndarray]:
        """These rows; -1 is one of padding, zeros all through."""
        return {
            key: np.stack([x[i] if i >= 0 else np.zeros_like(x[0]) for i in places])
            for key, x in whole.items()
        }

    one = totals(evaluate, state, [rows(0, 1, 2, 3, 4, 5)])
    assert all(weight > 0 for _, weight in one.values())
    alone = [[rows(0, 1, 2), rows(3, 4, 5)], [rows(5, 0), rows(4, 1), rows(3, 2)]]
    for parts in (
        *(alone if TINY[name].together == 1 else []),
        [rows(0, 1), rows(2, 3), rows(4, 5)],
        [rows(0, 1, 2, 3), rows(4, 5, -1, -1)],
    ):
        split = totals(evaluate, state, parts)
        assert split.keys() == one.keys()
        for key in one:
            np.testing.assert_allclose(split[key], one[key], rtol=2e-6, err_msg=key)


def test_an_evaluation_follows_from_its_key(made: tuple[str, Made]) -> None:
    name, (task, state, _) = made
    evaluate, batch = jax.jit(task.eval), TINY[name].batch(5, 6)
    one, two = (
        jax.device_get(evaluate(weights(state), batch, jax.random.key(3))) for _ in range(2)
    )
    assert one == two
    means = {key: float(total / weight) for key, (total, weight) in one.items()}
    assert np.isfinite(list(task.finish(means).values())).all()
    assert means.items() <= task.finish(means).items()


def test_trials_run_as_one_program(made: tuple[str, Made]) -> None:
    name, (task, _, step) = made
    trials = [hyper(name), hyper(name, lr=0.05, clip_norm=0.5)]
    seeds = jax.random.split(jax.random.key(9), 2)
    init = jax.jit(task.init)
    together = jax.jit(jax.vmap(task.init))(seeds, jax.tree.map(lambda *x: jnp.stack(x), *trials))
    several = jax.jit(jax.vmap(task.step, in_axes=(0, None)))
    alone = [init(seed, trial) for seed, trial in zip(seeds, trials, strict=True)]
    for i in range(2):
        batch = TINY[name].batch(i, ROWS)
        together, metrics = several(together, batch)
        pairs = [step(state, batch) for state in alone]
        alone = [state for state, _ in pairs]
        for key, (total, _) in metrics.items():
            found = [float(m[key][0]) for _, m in pairs]
            np.testing.assert_allclose(total, found, rtol=2e-4, err_msg=key)
    for trial, state in enumerate(alone):
        for (path, a), (_, b) in zip(
            *map(tree.named_leaves, (together.params, state.params)), strict=True
        ):
            np.testing.assert_allclose(a[trial], b, rtol=1e-3, atol=2e-5, err_msg=path)
    assert tree.first_difference(*(jax.device_get(state.params) for state in alone))

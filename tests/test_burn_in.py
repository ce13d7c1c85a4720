"""Numbers of `hyper` that move: their path, what the state keeps, how a config gets them."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import images_folder

from aigc_jax.cli import wire
from aigc_jax.core import config
from aigc_jax.core.burn_in import burning_in, moved
from aigc_jax.core.task import State, Task, single
from aigc_jax.errors import UserError

RECIPE = str(Path(__file__).resolve().parent.parent / "configs/gan/cifar10_r3gan.py")


def numbers(**values: float) -> dict[str, jax.Array]:
    return {name: jnp.float32(value) for name, value in values.items()}


def at(step: int, hyper: dict[str, jax.Array], name: str) -> float:
    return float(moved(hyper, (name,), jnp.int32(step))[name])


def test_half_a_cosine_from_the_first_value_to_the_last() -> None:
    hyper = numbers(burn_in=8.0, r1_first=5.0, r1=1.0)
    found = [at(s, hyper, "r1") for s in (0, 2, 4, 6, 8, 99)]
    want = [5.0, 3.0 + 2.0**0.5, 3.0, 3.0 - 2.0**0.5, 1.0, 1.0]
    np.testing.assert_allclose(found, want, rtol=1e-6)
    assert found[0] == 5.0 and found[-1] == 1.0  # exactly
    hyper["burn_in"] = jnp.float32(0.0)
    assert [at(s, hyper, "r1") for s in (0, 5)] == [1.0, 1.0]


def test_a_decay_moves_by_its_half_life() -> None:
    lives, steps = (0.0, 5e6 / 512), 2e7 / 512
    last = 0.5 ** (1 / lives[1])
    hyper = numbers(burn_in=steps, ema_decay_first=0.0, ema_decay=last)
    assert at(0, hyper, "ema_decay") == 0.0
    assert at(40_000, hyper, "ema_decay") == np.float32(last)
    for step in (1, 10, 1000, 20_000, 39_000):
        life = lives[1] * 0.5 * (1 - np.cos(np.pi * step / steps))
        # 1 - decay is what counts, and float32 near 1 knows it to a thousandth.
        np.testing.assert_allclose(
            1 - at(step, hyper, "ema_decay"), 1 - 0.5 ** (1 / life), rtol=5e-3
        )
    still = numbers(burn_in=10.0, ema_decay_first=0.5, ema_decay=1.0)
    assert all(np.isfinite(at(s, still, "ema_decay")) for s in (0, 5, 10))


def counting(state: State, batch: Any) -> tuple[State, Any]:
    params = {"model": state.params["model"] + state.hyper["lr"]}
    return state.replace(step=state.step + 1, params=params), {"loss": single(state.hyper["lr"])}


def start(**changes: float) -> State:
    hyper = numbers(**{"lr_first": 4.0, "lr": 2.0, "burn_in": 2.0, **changes})
    zero = jnp.zeros(())
    return State(jnp.zeros((), jnp.int32), jax.random.key(0), {"model": zero}, {}, {}, {}, hyper)


def task(names: tuple[str, ...] = ("lr",)) -> Task:
    plain = Task(lambda key, hyper: start(), counting, lambda *_: {})
    return burning_in(plain, names, {"lr": 2.0, "lr_first": 4.0, "burn_in": 2.0})


def test_a_step_reads_what_has_become_and_the_state_keeps_what_was_set() -> None:
    state, step = start(), jax.jit(task().step)
    for want in (4.0, 3.0, 2.0, 2.0):
        state, metrics = step(state, {})
        assert metrics["loss"][0] == want and metrics["hyper/lr"][0] == want
    assert state.params["model"] == 11.0
    assert state.hyper == {"lr_first": 4.0, "lr": 2.0, "burn_in": 2.0}
    step(state.replace(hyper={**state.hyper, "lr_first": jnp.float32(9.0)}), {})
    assert step._cache_size() == 1
    assert task(()).step is counting


def test_trials_that_differ_in_both_ends_are_one_program() -> None:
    states = [start(lr_first=first, burn_in=steps) for first, steps in ((4.0, 2.0), (8.0, 4.0))]
    together = jax.tree.map(lambda *x: jnp.stack(x), *states)
    step = jax.jit(jax.vmap(task().step, (0, None)))
    for _ in range(2):
        together, _ = step(together, {})
        states = [task().step(state, {})[0] for state in states]
    want = [state.params["model"] for state in states]
    np.testing.assert_allclose(together.params["model"], want, rtol=1e-6)
    assert want[0] != want[1]


def test_a_recipe_has_both_ends_in_hyper() -> None:
    cfg = config.to_dict(config.load(RECIPE, ["--config.hyper.r1_first=0.5"]))
    assert cfg["hyper"]["r1_first"] == 0.5 and cfg["hyper"]["r1"] == 0.005
    again = config.fill(config.from_json(config.to_json(cfg)))
    assert config.diff(cfg, again) == []


@pytest.mark.parametrize(
    ("optim", "hyper", "words"),
    [
        ({"burn_in": ("lr", "r7")}, {}, "optim.burn_in: there is no number 'r7'"),
        ({"burn_in": ("lr",)}, {"burn_in": 5.0}, "lacks 'hyper.lr_first'"),
        ({"burn_in": ("lr",)}, {"lr_first": 5.0}, "lacks 'hyper.burn_in'"),
        ({}, {"lr_first": 5.0}, "hyper.lr_first"),
        ({"burn_in": "lr"}, {}, "optim.burn_in is 'lr'"),
    ],
)
def test_half_a_schedule_is_answered(
    optim: dict[str, Any], hyper: dict[str, float], words: str
) -> None:
    cfg = config.to_dict(config.load(RECIPE))
    plain = {k: v for k, v in cfg["hyper"].items() if not k.endswith("_first") and k != "burn_in"}
    cfg["optim"], cfg["hyper"] = {"name": "adam", **optim}, {**plain, **hyper}
    with pytest.raises(UserError, match=words):
        config.check(config.fill(cfg))


def test_a_number_named_on_the_command_line_alone_is_answered() -> None:
    folder = images_folder()
    words = ["--config.optim.burn_in=lr", f"--config.data.path={folder}"]
    mlp = RECIPE.replace("cifar10_r3gan", "mnist_mlp")
    with pytest.raises(UserError, match=r"needs hyper\.burn_in, and the config lacks it"):
        wire.parts(config.load(mlp, words))

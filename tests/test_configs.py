"""Every recipe, shrunk by one helper, trains two steps and is evaluated."""

import ast
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from tiny import tiny

from aigc_jax.cli import wire
from aigc_jax.core import config
from aigc_jax.core.task import weights

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "configs").rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_how_it_is_run_and_where_it_is_from(recipe: str) -> None:
    said = ast.get_docstring(ast.parse((ROOT / recipe).read_text(encoding="utf-8")))
    assert said
    assert f"aigc train {recipe}" in said
    assert "Source:" in said


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_complete_and_survives_its_file(recipe: str) -> None:
    cfg = config.load(recipe)
    again = config.fill(config.from_json(config.to_json(cfg)))
    assert config.diff(cfg, again) == []
    assert config.to_dict(cfg)["run"]["steps"] >= 100  # the recipe itself is not the tiny one


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_two_steps_and_is_evaluated(recipe: str, tmp_path: Path) -> None:
    cfg = tiny(recipe)
    built = wire.parts(cfg)
    written: dict[int, str] = {}
    signals = SimpleNamespace(interruptible=lambda function: function)
    drawn: dict[tuple[int, str], np.ndarray] = {}

    def draw(step: int, name: str, pixels: np.ndarray) -> None:
        drawn[step, name] = pixels

    judges = wire.evaluators(built, signals, tmp_path, written.__setitem__, draw)
    assert judges.keys() == config.to_dict(cfg)["evals"].keys()

    hyper = {name: np.float32(value) for name, value in built.config["hyper"].items()}
    state = jax.jit(built.task.init)(jax.random.key(0), hyper)
    assert sum(x.size for x in jax.tree.leaves(state.params)) < 100_000  # shrunk indeed
    before, step = jax.device_get(state.params), jax.jit(built.task.step, donate_argnums=0)
    for i in range(2):
        batch = built.data.batch(i, (0, 1))
        assert {k: (x.shape, str(x.dtype)) for k, x in batch.items()} == {
            k: tuple(spec) for k, spec in built.data.spec.arrays.items()
        }
        state, metrics = step(state, batch)
        assert all(np.isfinite(pair).all() for pair in metrics.values())
    assert step._cache_size() == 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    assert any(jax.tree.leaves(moved))

    found: dict[str, float] = {}
    for judge in judges.values():
        found |= judge(weights(state), 2)
    assert np.isfinite(list(found.values())).all()
    best = built.config["run"]["best"]
    assert not best or best.removeprefix("-") in found  # what `run.best` goes by is measured
    if "samples" in judges:
        assert written[2]
    if "pictures" in judges:
        assert all(x.dtype == np.uint8 and x.std() > 0 for x in drawn.values()) and drawn
    if "floors" in judges:
        assert (tmp_path / "floors.json").is_file()

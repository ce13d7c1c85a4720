"""A run that goes on with other numbers: told so and killed right after; or an older one's."""

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import process
import pytest
import toy

from aigc_jax.cli import train, wire
from aigc_jax.core import config, past
from aigc_jax.core.task import State
from aigc_jax.train.checkpoint import Checkpoints
from aigc_jax.train.loop import Loop
from aigc_jax.train.signals import Signals

SHELF = wire.Shelf()


class Killed(BaseException):
    """Stands for a kill: nothing is saved, nothing tidied up."""


def go_on(run: Path, *words: str, allowed: tuple[str, ...] = ()) -> float:
    """Does what `aigc train` does; returns the learning rate of the last step."""
    cfg = config.load("recipe.py", words)
    with Signals(saves=False) as signals:
        train.one(cfg, run, signals=signals, allowed=allowed, parts=SHELF.parts)
    return [row["train/lr"] for row in toy.rows(run) if "train/lr" in row][-1]


def test_a_change_survives_a_kill_before_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.recipe(tmp_path, samples=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.wire, "start_jax", lambda: None)
    still = ("--config.optim.schedule=constant", "--config.hyper.warmup=0")
    faster = (*still, "--config.hyper.lr=0.5")
    advance = Loop._advance

    def killed_at(step: int) -> None:
        def dies(self: Loop, n: int) -> None:
            if self.step >= step:
                raise Killed
            advance(self, n)

        monkeypatch.setattr(Loop, "_advance", dies)

    killed_at(6)
    with pytest.raises(Killed):
        go_on(Path("run"), *still)
    assert Checkpoints(Path("run/checkpoints"), read_only=True).steps() == [4]
    with pytest.raises(Killed):  # told of the change, and killed before step 8 is saved
        go_on(Path("run"), *faster, allowed=("hyper",))
    shutil.copytree("run", "again")
    monkeypatch.setattr(Loop, "_advance", advance)
    # It is the run's own by now: nobody has to be told of it again, and it is not lost.
    assert go_on(Path("run"), *faster) == pytest.approx(0.5)
    # Told again all the same, it is the same change, once.
    assert go_on(Path("again"), *faster, allowed=("hyper",)) == pytest.approx(0.5)
    assert toy.rows(Path("again")) == toy.rows(Path("run"))


def state(**hyper: float) -> State:
    """A state of arrays, without a model."""
    numbers = {name: np.float32(value) for name, value in hyper.items()}
    return jax.device_put(
        State(step=np.int32(4), key=jax.random.key(0), params={"model": {"w": np.ones(3)}}, opt={},
              vars={}, ema={}, hyper=numbers)
    )  # fmt: skip


def test_a_checkpoint_of_muon_from_before_its_momentum_was_a_number(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(state(lr=0.1), {"at": 4}, {})
    saved.finish()
    saved.close()
    said: list[str] = []
    wanted = jax.eval_shape(lambda: state(lr=0.1, momentum=0.5))
    place = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), wanted)
    reader = Checkpoints(tmp_path, warn=said.append)
    found: Any = reader.restore(wanted, place)
    reader.close()
    assert {n: float(x) for n, x in found[0].hyper.items()} == pytest.approx(
        {"lr": 0.1, "momentum": 0.95}  # what optax's Muon took
    )
    assert found[0].hyper["momentum"].dtype == np.float32 and found[1] == {"at": 4}
    np.testing.assert_array_equal(found[0].params["model"]["w"], np.ones(3))
    assert said == ["checkpoint 4 is older than the setting hyper.momentum, and goes on with 0.95,"
                    " what there was"]  # fmt: skip


def test_what_has_moved_since_it_was_saved() -> None:
    notes = {"hyper": past.noted({"lr": 0.1, "b2": float(np.float32(0.3)), "eps": 1e-8})}
    now = {"lr": 0.1, "b2": float(np.float32(0.3)), "eps": 1e-6, "new": 1.0}
    assert past.moved(notes, now) == {"eps": 1e-6}
    assert past.moved(notes, now, ("lr",)) == {"eps": 1e-6, "lr": 0.1}
    assert past.moved({}, now) == {}

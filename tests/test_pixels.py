"""Levels of binarized pictures, by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from autoencoder import task_of

from aigc_jax.data.base import Split
from aigc_jax.errors import UserError
from aigc_jax.evals import pixels
from aigc_jax.tasks.observed import Observed


def context(
    train: Any, judged: Any, floors: dict[str, Any], *, of_bits: bool = True, warned: Any = None
) -> Any:
    def part(x: Any) -> Split:
        rows = np.asarray(x, np.float32).reshape(len(x), 1, 2, 1)
        padded = np.concatenate([rows, np.zeros_like(rows[:1])])
        mask = np.array([1.0] * len(rows) + [0.0], np.float32)
        return Split(1, lambda i, shard: {"x": padded, "mask": mask})

    def add_floors(metric: str, key: str, make: Any) -> None:
        floors[metric] = make()

    spec = SimpleNamespace(facts={"unit": "images"})
    splits = {"train": part(train), "validation": part(judged)}
    seen = Observed((1, 2, 1), "bernoulli" if of_bits else "logistic", "none")
    return SimpleNamespace(
        data=SimpleNamespace(spec=spec, splits=splits),
        functions={"check_bits": seen.check},
        add_floors=add_floors,
        warn=(warned if warned is not None else []).append,
    )


def test_both_levels_by_hand() -> None:
    floors: dict[str, Any] = {}
    # Training: the first pixel is 1 half of the time, the second with 1/4 on the average.
    handed = context([[1, -1], [-1, 0]], [[0, 0], [1, -1]], floors)
    judge = pixels.make(handed)
    assert judge(None, 0) == {} and judge(None, 1) == {}  # type: ignore[arg-type]
    ln = np.log
    gray = -(ln(1 / 2) + (ln(1 / 4) + ln(3 / 4)) / 2)  # p = 1/2, 1/2
    sharp = -(ln(1 / 2) + ln(3 / 4))  # p = 1, 0
    found = floors["validation/loss"]
    assert found["independent pixels"] == pytest.approx((gray + sharp) / 2)
    assert found["the gray picture"] == pytest.approx(2 * ln(2) / 2)


def test_a_likelihood_of_gray_values_gets_no_floors_of_bits() -> None:
    floors: dict[str, Any] = {}
    warned: list[str] = []
    handed = context([[1, -1], [-1, 0]], [[0, 0], [1, -1]], floors, of_bits=False, warned=warned)
    assert pixels.make(handed)(None, 0) == {}  # type: ignore[arg-type]
    assert not floors
    assert warned == ["evals: 'pixels' says what bits cost, and this task models none: no floors."]


@pytest.mark.parametrize("name", ["vae", "vqvae"])
def test_both_kinds_of_autoencoders_say_which_bits_they_are_of(name: str) -> None:
    model = {"model": {"name": "vq_conv"}} if name == "vqvae" else {}
    facts = {"shape": (28, 28, 1), "classes": 10, "unit": "images", "examples": {}}
    gray = task_of(name, facts, likelihood="discretized_logistic", binarize="none", **model)
    with pytest.raises(UserError, match="makes bits"):
        gray.functions["check_bits"]("dynamic")
    bits = task_of(name, facts, likelihood="bernoulli", binarize="dynamic", **model)
    assert bits.functions["check_bits"]("dynamic") is None


def test_what_has_no_images_is_answered() -> None:
    with pytest.raises(UserError, match="no images called 'test'"):
        pixels.make(context([[0, 0]], [[0, 0]], {}), split="test")

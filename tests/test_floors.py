"""The n-gram evaluator: exact, made once per data set, added to what the folder already has."""

import json
import math
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aigc_jax.errors import UserError
from aigc_jax.evals import ngram
from aigc_jax.train.evaluation import Desk, add_floors, write_floors
from aigc_jax.train.lock import alone


def context(desk: Desk, ids: dict[str, Any], fingerprint: str = "a" * 64) -> Any:
    data = SimpleNamespace(ids=ids, spec=SimpleNamespace(facts={"vocab_size": 3}))
    return SimpleNamespace(data=data, add_floors=partial(add_floors, desk, fingerprint))


IDS = {"train": np.array([0, 0, 1], np.uint16), "validation": np.array([0, 1, 2], np.uint16)}


def test_floors_are_added_to_those_there_and_made_once(tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    run.mkdir()
    (run / "floors.json").write_text(json.dumps({"validation/loss": {"uniform": math.log(3)}}))
    # The second time from the cache alone: with these ids it would be another ladder.
    for ids in (IDS, {**IDS, "train": np.array([2, 2, 2])}):
        handed = context(Desk(run, cache), ids)
        evaluate = ngram.make(handed, orders=1)
        assert evaluate(None, 0) == {}
        floors = json.loads((run / "floors.json").read_text())["validation/loss"]
        by_hand = -np.log([(2 + 2 / 3) / 5, (1 + 2 / 3) / 5, (2 / 3) / 5]).mean()
        assert floors == {"uniform": math.log(3), "unigram": pytest.approx(by_hand, rel=1e-12)}
    assert len(list(cache.iterdir())) == 1


def test_other_data_have_floors_of_their_own(tmp_path: Path) -> None:
    desk = Desk(tmp_path, tmp_path / "cache")
    ngram.make(context(desk, IDS, "a" * 64), orders=1)(None, 0)
    first = (tmp_path / "floors.json").read_text()
    other = {**IDS, "train": np.array([2, 2, 2])}
    ngram.make(context(desk, other, "b" * 64), orders=1)(None, 0)
    assert (tmp_path / "floors.json").read_text() != first


def test_two_that_add_floors_at_once_lose_none(tmp_path: Path) -> None:
    (tmp_path / "floors.json").write_text('{"x": {"a": 1.0}}')
    other = threading.Thread(target=write_floors, args=(tmp_path, "x", {"c": 3.0}))
    with alone(tmp_path):
        other.start()
        other.join(0.2)
        assert other.is_alive()
        (tmp_path / "floors.json").write_text('{"x": {"a": 1.0, "b": 2.0}}')
    other.join()
    floors = json.loads((tmp_path / "floors.json").read_text())
    assert floors == {"x": {"a": 1.0, "b": 2.0, "c": 3.0}}


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sequence of them called 'test'"):
        ngram.make(context(Desk(), IDS), split="test")
    with pytest.raises(UserError, match="expected 1 or more"):
        ngram.make(context(Desk(), IDS), orders=0)

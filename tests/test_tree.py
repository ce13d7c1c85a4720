"""Paths, rules and first differences of pytrees."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aigc_jax.core import tree
from aigc_jax.core.task import State
from aigc_jax.errors import UserError

TREE = {"model": {"block_0": {"kernel": np.zeros((2, 3), np.float32)}, "list": [np.int32(1)]}}


def test_names_are_paths_through_dicts_lists_and_dataclasses() -> None:
    names = [name for name, _ in tree.named_leaves(TREE)]
    assert names == ["model/block_0/kernel", "model/list/0"]
    state = State(*(jnp.zeros(()) for _ in range(6)), hyper={"lr": jnp.ones(())})  # type: ignore[arg-type]
    assert [name for name, _ in tree.named_leaves(state)][-1] == "hyper/lr"
    doubled = tree.map_named(lambda name, x, y: f"{name}:{x.size}:{y.size}", TREE, TREE)
    assert doubled["model"]["block_0"]["kernel"] == "model/block_0/kernel:6:6"


def test_counts_and_sizes() -> None:
    assert tree.count(TREE) == 7
    assert tree.size_bytes(TREE) == 28
    shapes = jax.eval_shape(lambda: {"k": jax.random.key(0), "x": jnp.zeros(3, jnp.bfloat16)})
    assert tree.size_bytes(shapes) == 8 + 6


def test_the_first_rule_that_is_found_claims_a_leaf() -> None:
    claims = tree.claim(TREE, ["kernel$", "model", "list"], "rules")
    assert claims == {"model": {"block_0": {"kernel": 0}, "list": [1]}}
    assert tree.first_match("a/b", ["c", "^b"]) is None
    many = {f"p{i}": np.zeros(1) for i in range(5)}
    with pytest.raises(UserError, match="no rule claims p0, p1, p2 and 2 more; add"):
        tree.claim(many, [], "mesh.rules")


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros(2), np.zeros(2), None),
        (np.full(2, np.nan), np.full(2, np.nan), None),
        (np.array([1.0, 2.0]), np.array([1.0, 2.5]), "x: 1 of 2 values differ, by 0.5 at most"),
        (np.array([0.0, 1.0]), np.array([-0.0, 1.0]), "x: 1 of 2 values differ, by 0 at most"),
        (np.array([np.nan, 1.0]), np.array([np.nan, 3.0]), "x: 1 of 2 values differ, by 2 at most"),
        (np.array([True]), np.array([False]), "x: 1 of 1 values differ, by 1 at most"),
        (np.float32(1), np.float32(2), "x: 1 of 1 values differ, by 1 at most"),
        (np.zeros(2), np.zeros((2, 1)), r"x: float64\[2\] against float64\[2, 1\]"),
        (np.zeros(2), np.zeros(2, np.float32), r"x: float64\[2\] against float32\[2\]"),
        (
            np.asarray(jnp.array([1, 2], jnp.bfloat16)),
            np.asarray(jnp.array([1, 3], jnp.bfloat16)),
            "x: 1 of 2 values differ, by 1 at most",
        ),
    ],
)
def test_the_first_difference_is_found_bit_by_bit(a: object, b: object, said: str | None) -> None:
    found = tree.first_difference({"same": np.ones(1), "x": a}, {"same": np.ones(1), "x": b})
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert re.fullmatch(said, found), found


def test_a_leaf_that_one_side_lacks() -> None:
    assert tree.first_difference({"a": np.ones(1)}, {}) == "a is only in the first"
    assert tree.first_difference({}, {"b": np.ones(1)}) == "b is only in the second"


def test_the_first_value_that_is_no_number() -> None:
    good = {"a": np.ones(2), "b": np.array([1, 2]), "c": np.asarray(jnp.ones(2, jnp.bfloat16))}
    assert tree.first_nonfinite(good) is None
    assert tree.first_nonfinite({**good, "d": np.array([1, np.inf])}) == "d"
    bad = np.asarray(jnp.array([1, jnp.nan], jnp.bfloat16))
    assert tree.first_nonfinite({**good, "c": bad, "d": np.array([np.nan])}) == "c"

"""The n-gram ladder against a slow twin, closed forms and its own sum."""

import numpy as np
import pytest

from aigc_jax.metrics.ngram import witten_bell


def slow(train, history, symbol, symbols):
    """P(symbol | history) by the recursion, counted in loops."""
    if history is None:
        return 1.0 / symbols
    follows = [
        train[i + len(history)]
        for i in range(len(train) - len(history))
        if train[i : i + len(history)] == history
    ]
    shorter = history[1:] if history else None
    lower = slow(train, shorter, symbol, symbols)
    if not follows:
        return lower
    kinds = len(set(follows))
    return (follows.count(symbol) + kinds * lower) / (len(follows) + kinds)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_a_slow_twin(seed):
    rng = np.random.default_rng(seed)
    train, test = rng.integers(0, 4, 60).tolist(), rng.integers(0, 4, 25).tolist()
    ladder = witten_bell(np.array(train), np.array(test), symbols=4, orders=4)
    for order, found in enumerate(ladder, 1):
        for i, symbol in enumerate(test):
            history = test[max(0, i - order + 1) : i]
            assert found[i] == pytest.approx(slow(train, history, symbol, 4), rel=1e-12)


def test_sums_to_one_over_the_symbols():
    rng = np.random.default_rng(3)
    train, history = rng.integers(0, 5, 200), rng.integers(0, 5, 3)
    total = sum(
        witten_bell(train, np.append(history, w), symbols=5, orders=4)[-1][-1] for w in range(5)
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_one_symbol_by_hand():
    # Order 1 after "aab": c(a) = 2, c(b) = 1, two kinds of three; P0 = 1/3 over three symbols.
    (order_1,) = witten_bell(np.array([0, 0, 1]), np.array([0, 1, 2]), symbols=3, orders=1)
    np.testing.assert_allclose(order_1, [(2 + 2 / 3) / 5, (1 + 2 / 3) / 5, (2 / 3) / 5])


def test_higher_orders_learn_a_cycle():
    cycle = np.tile([0, 0, 1, 2], 100)
    losses = [-np.log(p).mean() for p in witten_bell(cycle, cycle[:80], symbols=3, orders=3)]
    assert losses[0] > 1.0 > losses[1] > 0.3
    assert losses[2] < 0.1


@pytest.mark.parametrize(("train", "test", "orders"), [([], [1], 2), ([1], [], 2), ([1], [1], 0)])
def test_bad_input(train, test, orders):
    with pytest.raises(ValueError, match="expected 1 or more"):
        witten_bell(np.array(train), np.array(test), symbols=3, orders=orders)

"""The distribution that is sampled from, against float64 NumPy with a sort, and by chi-square."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aigc_jax.generate import logits as of
from aigc_jax.generate.draw import _invert, draw, pick
from aigc_jax.generate.request import Sampling

LOGITS = np.array([0.3, -1.0, 1.2, 0.0, 0.7, -0.4, 0.1, 0.9, 0.7, -2.5, 2.0, -0.1], np.float32)
SIZE = len(LOGITS)
DRAWS = 6000
# 0.9999 quantiles of the chi-square distribution, by degrees of freedom.
LIMIT = {1: 15.1, 2: 18.4, 3: 21.1, 4: 23.5, 5: 25.7, 6: 27.9, 7: 29.9, 8: 31.8, 9: 33.7, 10: 35.6,
         11: 37.4}  # fmt: skip
SETTINGS = {
    "plain": {"temperature": 1.0},
    "cold": {"temperature": 0.5},
    "hot": {"temperature": 2.0},
    "top-k": {"temperature": 1.0, "top_k": 3},
    "top-k with equals": {"temperature": 1.0, "top_k": 4},
    "top-p": {"temperature": 1.0, "top_p": 0.9},
    "min-p": {"temperature": 1.0, "min_p": 0.16},
    "all three": {"temperature": 1.3, "top_k": 9, "top_p": 0.8, "min_p": 0.15},
    "top-k, then top-p": {"temperature": 1.0, "top_k": 3, "top_p": 0.7},
    "bias": {"temperature": 1.0, "logit_bias": {1: 2.5, 10: -1.5}},
    "repetition": {"temperature": 1.0, "repetition_penalty": 1.8},
    "presence": {"temperature": 1.0, "presence_penalty": 0.9},
    "frequency": {"temperature": 1.0, "frequency_penalty": 0.6},
    "everything": {"temperature": 0.9, "top_k": 10, "top_p": 0.9, "min_p": 0.05,
                   "repetition_penalty": 0.7, "presence_penalty": -0.4, "frequency_penalty": 0.3,
                   "logit_bias": {0: 1.0, 11: 0.5}},
}  # fmt: skip
PROMPT, WRITTEN = np.array([2, 9, 2]), [10, 4, 10, 0]


def oracle(
    logits: np.ndarray, by: Sampling, prompt: Any = (), written: Any = ()
) -> np.ndarray:  # fmt: skip
    """The probabilities, float64 [V], written from the definitions."""
    x = logits.astype(np.float64)
    for token, value in by.logit_bias.items():
        x[token] += value
    for token in {*map(int, prompt), *written}:
        x[token] = x[token] / by.repetition_penalty if x[token] > 0 else (
            x[token] * by.repetition_penalty)  # fmt: skip
    for token in set(written):
        x[token] -= written.count(token) * by.frequency_penalty + by.presence_penalty
    if by.temperature == 0:
        return np.eye(len(x))[x.argmax()]
    p = np.exp((x - x.max()) / by.temperature)
    p /= p.sum()
    if 0 < by.top_k < len(p):
        p = np.where(p >= np.sort(p)[-by.top_k], p, 0)
        p /= p.sum()
    if by.top_p < 1:
        falling = np.sort(p)[::-1]
        enough = int((np.cumsum(falling) < by.top_p).sum())
        p = np.where(p >= falling[min(enough, len(p) - 1)], p, 0)
        p /= p.sum()
    p = np.where(p >= by.min_p * p.max(), p, 0)
    return p / p.sum()


def state(rows: list[Sampling], size: int = SIZE) -> tuple[of.Knobs, of.Tally, of.Active]:
    """Knobs and the tally after PROMPT and WRITTEN, for each row."""
    what = of.active(rows)
    seen = of.tally([PROMPT] * len(rows), size, what)
    for token in WRITTEN:
        seen = of.count(seen, jnp.full(len(rows), token))
    return of.knobs(rows, size), seen, what


ALL = of.Active(*[True] * len(of.Active._fields))
_draw = jax.jit(draw, static_argnames="what")


def drawn(rows: list[Sampling], index: int = 0) -> Any:
    """One token a row, by the program that can do everything: one for all of these tests."""
    by, _, _ = state(rows)
    by = by._replace(  # one width for all
        bias_ids=np.pad(by.bias_ids, ((0, 0), (0, 2 - by.bias_ids.shape[1])), constant_values=SIZE),
        bias=np.pad(by.bias, ((0, 0), (0, 2 - by.bias.shape[1]))),
    )
    seen = of.tally([PROMPT], SIZE, ALL)
    for token in WRITTEN:
        seen = of.count(seen, jnp.array([token]))
    seen = jax.tree.map(lambda x: jnp.tile(x, (len(rows), 1)), seen)
    keys = jax.random.split(jax.random.key(3), len(rows))
    tiled = jnp.tile(LOGITS, (len(rows), 1))
    return jax.device_get(_draw(tiled, keys, jnp.int32(index), by, seen, what=ALL))


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_and_log_probabilities_follow_the_distribution(name: str) -> None:
    by = Sampling(**SETTINGS[name])
    p = oracle(LOGITS, by, PROMPT, WRITTEN)
    found = drawn([by] * DRAWS)
    expected, counts = DRAWS * p, np.bincount(found.token, minlength=SIZE)
    assert not counts[p == 0].any(), "what was filtered out was drawn"
    there = p > 0
    chi = ((counts - expected)[there] ** 2 / expected[there]).sum()
    assert chi < LIMIT[there.sum() - 1]
    np.testing.assert_allclose(found.logprob, np.log(p[found.token]), atol=2e-6)
    # Of the distribution really sampled from: over its support they add up to one.
    each = {int(t): float(x) for t, x in zip(found.token, found.logprob, strict=True)}
    missed = p[[t for t in range(SIZE) if t not in each]].sum()
    assert sum(np.exp(x) for x in each.values()) + missed == pytest.approx(1, abs=1e-5)
    assert missed < 1e-3
    raw = oracle(LOGITS, Sampling(temperature=1.0))
    np.testing.assert_allclose(found.raw, np.log(raw[found.token]), atol=2e-6)


def test_the_settings_differ_from_each_other() -> None:
    all_p = [oracle(LOGITS, Sampling(**s), PROMPT, WRITTEN) for s in SETTINGS.values()]
    for i, one in enumerate(all_p):
        for other in all_p[:i]:
            assert DRAWS * ((one - other) ** 2 / np.maximum(other, 1e-3)).sum() > 45


def test_a_top_k_with_equals_keeps_them_all() -> None:
    # Tokens 4 and 8 are equal and stand fourth and fifth.
    p = oracle(LOGITS, Sampling(**SETTINGS["top-k with equals"]))
    assert np.flatnonzero(p).tolist() == [2, 4, 7, 8, 10]


def test_rows_of_one_batch_have_their_own_numbers() -> None:
    def each(rows: list[Sampling]) -> None:
        by, seen, what = state(rows)
        tiled = jnp.tile(LOGITS, (len(rows), 1))
        final = of.restrict(of.penalize(tiled, by, seen, what), by, what)
        for row, x in zip(rows, np.asarray(final, np.float64), strict=True):
            p = np.exp(x) / np.exp(x).sum()
            np.testing.assert_allclose(p, oracle(LOGITS, row, PROMPT, WRITTEN), atol=1e-6)

    rows = [Sampling(**values) for values in SETTINGS.values()]
    assert all(of.active(rows))
    each(rows)
    for name in ("top-p", "repetition"):  # alone, with only their own steps
        each([Sampling(**SETTINGS[name])])
    found = drawn([*rows, Sampling(temperature=0.0)])
    assert (found.token[-1], found.logprob[-1]) == (10, 0.0)


def test_penalties_worked_out_by_hand() -> None:
    by = Sampling(repetition_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25,
                  logit_bias={1: 4.0, 3: -1.0})  # fmt: skip
    what = of.active([by])
    seen = of.tally([np.array([0, 1])], 5, what)
    for token in (1, 2, 2):
        seen = of.count(seen, jnp.array([token]))
    found = of.penalize(jnp.array([[3.0, -1.0, -2.0, 5.0, 1.0]]), of.knobs([by], 5), seen, what)
    # 0: in the prompt, above 0: halved. 1: the bias makes it 3, halved, drawn once: - 0.75.
    # 2: drawn twice, below 0: doubled, - 1.25. 3: bias alone. 4: nothing.
    np.testing.assert_allclose(found, [[1.5, 0.75, -5.25, 4.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    "by",
    [
        {"temperature": 0.0, "top_k": 2, "top_p": 0.1, "min_p": 0.9},
        {"temperature": 1e-5},
        {"temperature": 1e-30},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 1.0, "top_p": 1e-12},
        {"temperature": 1.0, "top_p": 1e-44},
        {"temperature": 1.0, "min_p": 1.0},
        {"temperature": 1.0, "logit_bias": {10: 1e39}},
    ],
)
def test_limits_that_leave_only_the_likeliest(by: dict[str, Any]) -> None:
    found = drawn([Sampling(**by)] * 50)
    assert set(found.token.tolist()) == {10}
    assert set(found.logprob.tolist()) == {0.0}
    assert np.isfinite(found.raw).all()


def test_greedy_takes_what_bias_and_penalties_leave() -> None:
    by = Sampling(temperature=0.0, logit_bias={1: 9.0}, frequency_penalty=0.5)
    assert drawn([by]).token.tolist() == [1]
    assert drawn([Sampling(temperature=0.0, frequency_penalty=0.5)]).token.tolist() == [2]


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_the_filters_equal_a_sort(data: Any) -> None:
    # From a grid, so that many are equal; signs, both zeros, and far apart.
    values = st.sampled_from([-80.0, -1.0, -0.5, -0.25, -0.0, 0.0, 0.25, 0.5, 1.0, 2.0])
    logits = np.array(data.draw(st.lists(values, min_size=2, max_size=9)), np.float32)
    by = Sampling(
        temperature=data.draw(st.sampled_from([0.1, 0.7, 1.0, 3.0])),
        top_k=data.draw(st.integers(0, 12)),
        top_p=data.draw(st.sampled_from([1.0, 0.999, 0.73, 0.31, 0.02])),
        min_p=data.draw(st.sampled_from([0.0, 0.013, 0.4, 1.0])),
    )
    what = of.Active(top_k=True, top_p=True, min_p=True)
    padded = np.full(9, -np.inf, np.float32)  # one shape, one program
    padded[: len(logits)] = logits
    found = np.asarray(_restrict(padded[None], of.knobs([by], 9), what))[0, : len(logits)]
    np.testing.assert_allclose(np.exp(found) / np.exp(found).sum(), oracle(logits, by), atol=1e-6)


_restrict = jax.jit(of.restrict, static_argnums=2)


@settings(deadline=None, max_examples=150)
@example([1.0, 0.0, -0.0, -1.0, -2.0, -3.0], 2)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=6, max_size=6), st.integers(1, 6))
def test_the_threshold_is_the_kth_largest_whatever_the_floats(x: list[float], k: int) -> None:
    values = np.array([x], np.float32)
    small = (values != 0) & (np.abs(values) < 1e-37)
    values[small] = 0  # the device has no subnormal numbers
    order = np.asarray(of._ordered(jnp.asarray(values)))
    least = _threshold(order, jnp.ones((1, 6)), jnp.array([float(k)]))
    np.testing.assert_array_equal((order >= np.asarray(least)[:, None])[0],
                                  values[0] >= np.sort(values[0])[-k])  # fmt: skip


_threshold = jax.jit(of._threshold)


def test_what_nobody_asks_for_is_not_in_the_program() -> None:
    def text(row: Sampling) -> str:
        by, seen, what = state([row])
        run = partial(draw, what=what)
        return str(jax.make_jaxpr(run)(LOGITS[None], jax.random.split(jax.random.key(0), 1), 0,
                                       by, seen))  # fmt: skip

    assert "scan" in text(Sampling(top_k=3))
    assert "scatter" in text(Sampling(logit_bias={1: 2.0}))
    plain = text(Sampling(temperature=1.0))
    assert "cumsum" in plain
    assert not [w for w in ("scan", "while[", "sort[", "scatter") if w in plain]
    assert "cumsum" not in text(Sampling(temperature=0.0, top_k=3))


_pick = jax.jit(pick)


# --- drawing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 37, 300])
def test_an_index_is_drawn_in_proportion(size: int) -> None:
    rng = np.random.default_rng(size)
    weight = rng.gamma(0.5, size=size).astype(np.float32)
    weight[1::3] = 0.0
    bits = rng.integers(0, 2**32, (20000, 2), np.uint32)
    tiled = np.broadcast_to(weight / weight.max(), (len(bits), size))
    found = np.bincount(np.asarray(pick(jnp.asarray(tiled), bits)), minlength=size)
    p = weight.astype(np.float64) / weight.astype(np.float64).sum()
    often = len(bits) * p > 5
    rest = [found[~often].sum()], [len(bits) * p[~often].sum()]
    counts, expected = (np.append(x[often], y) for x, y in zip((found, len(bits) * p), rest,
                                                               strict=True))  # fmt: skip
    degrees = len(counts)
    chi = ((counts - expected) ** 2 / np.maximum(expected, 1)).sum()
    assert chi < degrees + 4 * (2 * degrees) ** 0.5 + 8
    assert not found[weight == 0].any()


def test_what_has_no_weight_is_never_drawn_at_either_edge() -> None:
    rng = np.random.default_rng(0)
    edge = np.array([0, 2**32 - 1, 2**9, 2**32 - 2**9], np.uint32)
    bits = np.stack(np.meshgrid(edge, edge), -1).reshape(-1, 2)
    for size in (1, 3, 17, 1000):
        for _ in range(20):
            weight = (rng.random(size) ** 8 * (rng.random(size) < 0.3)).astype(np.float32)
            weight[rng.integers(size)] = 1.0
            if size > 2:  # nothing at both ends, where rounding would end up
                weight[[0, -1]] = 0.0
                weight[1] = 1.0
            tiled = jnp.asarray(np.broadcast_to(weight, (len(bits), size)))
            assert (weight[np.asarray(_pick(tiled, bits))] > 0).all()


@pytest.mark.parametrize("u", [0.0, 0.5, 1.0 - 2.0**-24, 1.0])
def test_not_even_a_number_at_the_edge_draws_what_has_no_weight(u: float) -> None:
    weight = jnp.array([[0.0, 0.0, 1.0, 0.0, 0.3, 0.0, 0.0]])
    assert int(_invert(weight, jnp.array([u]))[0]) == (2 if u <= 0.5 or u == 1.0 else 4)


def test_rare_tokens_have_their_chance() -> None:
    # Together a ten-thousandth, each below what 24 bits of one random number can tell apart.
    weight = np.full(2**14, 1e-4 / (2**14 - 1), np.float32)
    weight[0] = 1.0
    bits = np.random.default_rng(1).integers(0, 2**32, (40000, 2), np.uint32)
    found = np.concatenate([
        np.asarray(_pick(jnp.broadcast_to(weight, (4000, 2**14)), part))
        for part in bits.reshape(10, 4000, 2)
    ])  # fmt: skip
    # The first group is drawn nearly always, so a rare one comes mostly from the others.
    rare = found[found > 0]
    assert 0 <= len(rare) <= 16  # 4 expected
    assert len(set(rare.tolist())) == len(rare)


def test_a_draw_follows_from_key_and_index_alone() -> None:
    by = Sampling(temperature=1.0)
    many, again, later = drawn([by] * 64), drawn([by] * 64), drawn([by] * 64, index=1)
    np.testing.assert_array_equal(many.token, again.token)
    assert (many.token != later.token).mean() > 0.5
    top = np.asarray(drawn([by] * 32 + [Sampling(temperature=1.0, top_k=2)] * 32).token)
    np.testing.assert_array_equal(many.token[:32], top[:32])

"""Intervals, tests and verdicts over a handful of seeds, held against scipy and known values."""

import math

import numpy as np
import pytest
from scipy import stats

from aigc_jax.report import groups
from aigc_jax.report.statistics import (
    NO,
    UNTOLD,
    YES,
    better,
    bootstrap,
    interval,
    paired,
    seeds_needed,
    welch,
)  # fmt: skip

DRAW = np.random.default_rng(3)
A = DRAW.normal(2.0, 0.1, 5)
B = A + DRAW.normal(-0.1, 0.06, 5)
LONG = DRAW.normal(1.9, 0.3, 9)


def test_interval_by_hand() -> None:
    # Mean 3, standard deviation 1.5811, over the root of 5: 0.70711; t(4, 95 %) is 2.7764.
    found = interval([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.high - 3 == pytest.approx(2.7764 * 0.70711, abs=1e-4)
    assert 3 - found.low == pytest.approx(found.high - 3)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_interval_is_scipys(level: float) -> None:
    low, high = stats.t.interval(level, len(LONG) - 1, LONG.mean(), stats.sem(LONG))
    assert interval(LONG, level) == pytest.approx((LONG.mean(), low, high))


def test_one_value_has_an_interval_without_ends_and_equal_ones_one_without_width() -> None:
    assert interval([2.5]) == (2.5, -math.inf, math.inf)
    assert bootstrap([2.5]) == (2.5, -math.inf, math.inf)
    assert interval([2.5] * 4) == bootstrap([2.5] * 4) == (2.5, 2.5, 2.5)


def test_bootstrap_is_scipys_bca_and_seeded() -> None:
    said = stats.bootstrap(
        (LONG,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(7)
    ).confidence_interval  # fmt: skip
    found = bootstrap(LONG, seed=7)
    assert found == pytest.approx((LONG.mean(), said.low, said.high))
    assert bootstrap(LONG, seed=7) == found != bootstrap(LONG, seed=8)


def test_bootstrap_of_a_skewed_sample_is_skewed() -> None:
    mean, low, high = bootstrap([1, 1, 1, 2, 2, 3, 20])
    assert low > 1 and high - mean > 1.5 * (mean - low)


def test_bootstrap_of_two_values_stays_within_them() -> None:
    assert bootstrap([1.0, 2.0]) == (1.5, 1.0, 2.0)  # where BCa is not defined


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(0)
    samples = draw.normal(size=(400, 5))
    hits = sum(found.low <= 0 <= found.high for found in map(interval, samples))
    assert 0.92 <= hits / 400 <= 0.98
    # What the docstring says of the bootstrap.
    hits = sum(f.low <= 0 <= f.high for f in (bootstrap(x, draws=499) for x in samples))
    assert 0.79 <= hits / 400 <= 0.89


def test_paired_is_scipys() -> None:
    found, said = paired(A, B), stats.ttest_rel(B, A)
    ends = said.confidence_interval()
    assert found[:4] == pytest.approx(((B - A).mean(), ends.low, ends.high, said.pvalue))
    assert found.paired and found.n == 5


def test_welch_is_scipys() -> None:
    found, said = welch(A, LONG), stats.ttest_ind(LONG, A, equal_var=False)
    ends = said.confidence_interval()
    assert found[:4] == pytest.approx((LONG.mean() - A.mean(), ends.low, ends.high, said.pvalue))
    assert not found.paired and found.n == 5


def test_permutation_by_hand() -> None:
    # Of the 32 ways to sign these differences only the observed one and its mirror are as far out.
    assert paired([0] * 5, [1, 2, 3, 4, 5]).permutation_p == pytest.approx(2 / 32)
    # Of the 20 ways to divide these six, only the observed one and its mirror.
    assert welch([1, 2, 3], [4, 5, 6]).permutation_p == pytest.approx(2 / 20)


@pytest.mark.parametrize(("size", "pairs", "each"), [(0.2, 199, 394), (0.5, 34, 64), (0.8, 15, 26),
                                                     (1.0, 10, 17)])  # fmt: skip
def test_seeds_needed_are_those_of_the_tables(size: float, pairs: int, each: int) -> None:
    # Cohen's tables: power 0.8, two-sided 5 %, one sample and two.
    assert seeds_needed(size, lambda n: (1 / math.sqrt(n), n - 1.0)) == pairs
    assert seeds_needed(size, lambda n: (math.sqrt(2 / n), 2 * n - 2.0)) == each


def test_seeds_needed_give_the_power_they_promise() -> None:
    needed = seeds_needed(0.9, lambda n: (1 / math.sqrt(n), n - 1.0))
    assert needed == 12
    draw = np.random.default_rng(1).normal(0.9, 1, (2000, needed))
    told = [interval(x) for x in draw]
    assert sum(found.low > 0 for found in told) / 2000 == pytest.approx(0.8, abs=0.04)


def test_a_difference_that_nobody_could_tell_has_no_number_of_seeds() -> None:
    assert seeds_needed(1e-4, lambda n: (1 / math.sqrt(n), n - 1.0)) is None
    assert paired([1, 2, 3, 4], [1.1, 1.9, 3.1, 3.9]).seeds_needed is None


@pytest.mark.parametrize(("higher", "word"), [(False, YES), (True, NO)])
def test_better_follows_the_direction(higher: bool, word: str) -> None:
    found = paired([2.0, 2.1, 2.2, 2.3, 2.4], [1.5, 1.7, 1.7, 1.9, 1.9])
    assert better(found, higher) == word
    assert better(paired([1, 2, 3, 4], [1.1, 1.8, 3.2, 3.9]), higher) == UNTOLD
    assert better(paired([2.0], [1.0]), higher) == UNTOLD  # one seed


def test_pairs_tell_what_welch_can_not() -> None:
    seeds = np.array([0.0, 1.0, 2.0, 3.0, 4.0])  # what the seed alone does
    gain = np.array([0.1, 0.12, 0.09, 0.11, 0.1])
    assert better(paired(seeds, seeds + gain), True) == YES
    assert better(welch(seeds, seeds + gain), True) == UNTOLD
    assert (welch(seeds, seeds + gain).seeds_needed or 0) > 1000


def test_without_spread_the_permutation_test_decides() -> None:
    few, many = paired([7] * 3, [8] * 3), paired([7] * 6, [8] * 6)
    assert (few.low, few.high, few.permutation_p, few.seeds_needed) == (1, 1, 0.25, 6)
    assert better(few, True) == UNTOLD and better(many, True) == YES
    assert welch([7] * 3, [8] * 3).seeds_needed == 4
    assert better(welch([7] * 4, [8] * 4), True) == YES
    assert better(paired([7] * 9, [7] * 9), True) == UNTOLD
    # What rounding leaves is no spread.
    assert paired([0.1, 1000.1], [0.3, 1000.3]).p != paired([0.1, 1.1], [0.3, 1.4]).p
    assert math.isnan(paired([0.1, 1000.1], [0.3, 1000.3]).p)


def test_a_narrower_level_asks_for_more() -> None:
    loose, strict = paired(A, B, 0.95), paired(A, B, 0.999)
    assert strict.low < loose.low < loose.high < strict.high
    assert (strict.seeds_needed or 0) > (loose.seeds_needed or 0) >= 2


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_no_number_no_interval(values: list) -> None:
    for function in (interval, bootstrap):
        with pytest.raises(ValueError, match="expected finite values"):
            function(values)
    with pytest.raises(ValueError, match="pairs are wanted"):
        paired([1.0], [1.0, 2.0])


# --- scores by seed ----------------------------------------------------------------------------


def test_scores_count_finished_seeds_once() -> None:
    found = groups.scores(
        [(0, "finished", 1.0), (0, "finished", 9.0), (1, "failed", 5.0), (2, "finished", math.nan),
         (3, "finished", None), (4, "finished", 2.0)]
    )  # fmt: skip
    assert found == groups.Scores({0: 1.0, 4: 2.0}, diverged=1, repeats=1)


def test_seeds_that_match_are_paired_and_others_are_not() -> None:
    a = groups.Scores(dict(enumerate([0.0, 1.0, 2.0, 3.0])), 0, 0)
    shuffled = groups.Scores({3: 3.1, 1: 1.1, 0: 0.11, 7: 50.0}, 0, 0)
    found = groups.against(a, shuffled)
    assert found is not None and found.paired and found.n == 3
    assert found.difference == pytest.approx(0.31 / 3)
    strangers = groups.Scores({10: 3.1, 11: 1.1, 0: 0.11, 7: 2.0}, 0, 0)
    found = groups.against(a, strangers)
    assert found is not None and not found.paired
    assert groups.against(a, groups.Scores({}, 2, 0)) is None


def test_an_answer_is_one_line_with_what_it_rests_on() -> None:
    close = paired([2.0, 2.1, 2.2], [1.95, 2.12, 2.1])
    line = groups.answer(close, higher=False)
    assert line.startswith("can't be told: -0.04333 [") and "\n" not in line
    assert "paired over 3 seeds" in line and f"{close.seeds_needed} seeds each" in line
    clear = groups.answer(welch([2.0, 2.1, 2.2], [1.0, 1.1, 1.2]), higher=False)
    assert clear.startswith("yes: -1 [") and "Welch" in clear and "power" not in clear
    assert "2 seeds or more are needed" in groups.answer(paired([1], [2]), higher=True)


def test_short_names_tell_apart() -> None:
    paths = ["hyper.lr", "task.model.width", "task.critic.width", "run.seed"]
    assert groups.short_names(paths) == {
        "hyper.lr": "lr", "task.model.width": "model.width", "task.critic.width": "critic.width",
        "run.seed": "seed",
    }  # fmt: skip
    assert [groups.letter(i) for i in (0, 25, 26, 701, 702)] == ["A", "Z", "AA", "ZZ", "AAA"]

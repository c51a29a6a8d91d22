"""Intervals against enumeration and coverage, curves against a loop."""

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import trim_mean

from downpour.analysis.statistics import (
    bootstrap_band,
    bootstrap_mean,
    common_grid,
    interquartile_mean,
    step_values,
)


@pytest.mark.parametrize("values", [[3.0, 8.0, 1.0, 4.5], [500.0, 500.0, 500.0, 431.0, 470.0], [0.0, 0.0, 9.0]])
def test_interval_is_the_percentiles_of_all_possible_resamples(values: list[float]) -> None:
    means = np.sort([np.mean(sample) for sample in itertools.product(values, repeat=len(values))])
    exact = functools.partial(np.quantile, means, method="inverted_cdf")
    interval = bootstrap_mean(values, resamples=40_000)
    # Between the exact 2 % and 3 % (97 % and 98 %) points: the resamples are drawn, not enumerated.
    assert exact(0.02) <= interval.low <= exact(0.03)
    assert exact(0.97) <= interval.high <= exact(0.98)
    assert interval.mean == pytest.approx(np.mean(values)) and interval.n == len(values)


def test_interval_agrees_with_a_numpy_bootstrap() -> None:
    values = np.random.default_rng(5).gamma(2.0, 50.0, size=12)
    drawn = np.random.default_rng(77).choice(values, size=(60_000, 12)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    interval = bootstrap_mean(values)
    error = values.std(ddof=1) / math.sqrt(12)
    assert interval.low == pytest.approx(low, abs=0.05 * error)
    assert interval.high == pytest.approx(high, abs=0.05 * error)


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 2 000 experiments of 20 seeds each. The percentile bootstrap is the normal interval with the
    # maximum-likelihood variance, so it covers P(|t_19| < 1.96 sqrt(19 / 20)) of them, which is 0.929.
    experiments = np.random.default_rng(0).normal(10.0, 3.0, size=(20, 2000))
    low, high = bootstrap_band(experiments, resamples=1000)
    assert 0.90 < np.mean((low <= 10.0) & (high >= 10.0)) < 0.95


def test_one_seed_has_no_interval_and_none_has_no_mean() -> None:
    one = bootstrap_mean([7.0])
    assert one.mean == 7.0 and one.n == 1 and not one.known and math.isnan(one.low)
    none = bootstrap_mean([math.nan])
    assert none.n == 0 and math.isnan(none.mean) and not none.known


@pytest.mark.filterwarnings("error")
def test_equal_seeds_have_the_interval_of_width_zero() -> None:
    interval = bootstrap_mean([500.0] * 10)
    assert (interval.mean, interval.low, interval.high) == (500.0, 500.0, 500.0)
    assert interval.known


def test_values_that_are_not_finite_are_left_out() -> None:
    assert bootstrap_mean([1.0, math.nan, 3.0, math.inf]) == bootstrap_mean([1.0, 3.0])


@pytest.mark.filterwarnings("error")
def test_band_mixes_points_where_seeds_agree_with_points_where_they_do_not() -> None:
    values = np.array([[0.0, 5.0, 1.0], [10.0, 5.0, 2.0], [20.0, 5.0, 6.0]])
    low, high = bootstrap_band(values)
    assert (low[1], high[1]) == (5.0, 5.0)
    for column in (0, 2):
        alone = bootstrap_mean(values[:, column])
        assert (low[column], high[column]) == pytest.approx((alone.low, alone.high))


def test_the_same_seeds_give_the_same_interval() -> None:
    assert bootstrap_mean([1.0, 5.0, 9.0, 2.0]) == bootstrap_mean([1.0, 5.0, 9.0, 2.0])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_interquartile_mean_is_the_trimmed_mean(values: list[float]) -> None:
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25), abs=1e-6)


def test_interquartile_mean_ignores_one_bad_seed() -> None:
    assert interquartile_mean([500.0, 500.0, 500.0, 9.0]) == 500.0
    assert math.isnan(interquartile_mean([]))


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(-10, 10)), min_size=1, max_size=20),
    st.lists(st.integers(-5, 60), min_size=1, max_size=20),
)
def test_step_values_are_the_newest_ones_at_or_before(points: list[tuple[int, float]], grid: list[int]) -> None:
    points.sort(key=lambda point: point[0])
    x, y = zip(*points, strict=True)
    found = step_values(x, y, np.array(grid, dtype=float))
    for at, value in zip(grid, found, strict=True):
        before = [each for step, each in points if step <= at]
        expected = before[-1] if before and at <= x[-1] else math.nan
        assert value == expected or (math.isnan(value) and math.isnan(expected))


def test_a_curve_does_not_go_on_beyond_its_last_point() -> None:
    found = step_values([10, 20], [1.0, 2.0], np.array([5.0, 10.0, 15.0, 20.0, 21.0]))
    np.testing.assert_array_equal(found, [math.nan, 1.0, 1.0, 2.0, math.nan])
    assert np.isnan(step_values([], [], np.array([1.0, 2.0]))).all()


def test_common_grid_is_the_union_until_it_is_too_long() -> None:
    np.testing.assert_array_equal(common_grid([[0, 10, 20], [5, 10]]), [0, 5, 10, 20])
    long = common_grid([np.arange(0, 10_001)], points=101)
    np.testing.assert_allclose(long, np.arange(0, 10_001, 100))
    assert common_grid([]).size == 0

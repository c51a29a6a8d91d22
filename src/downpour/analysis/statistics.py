"""Means, intervals and curves over seeds.

The protocol is that of Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical
precipice": interval estimates by the percentile bootstrap over seeds, the interquartile mean as robust mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over `n` seeds and its bootstrap interval; `low` and `high` are NaN where `n` is 0 or 1."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there is an interval at all: one seed says nothing about the spread over seeds."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def bootstrap_mean(
    values: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of one number a seed, with its percentile-bootstrap interval. NaN and infinite values are left
    out.

    The interval is the percentile one: with the three to ten seeds that are usual, and returns that pile up
    at a ceiling, it is always defined, where BCa is not. The same values give the same interval (`seed`).
    """
    finite = np.asarray(values, dtype=np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    low, high = bootstrap_band(finite[:, None], confidence=confidence, resamples=resamples, seed=seed)
    return Interval(float(finite.mean()), float(low[0]), float(high[0]), int(finite.size))


def bootstrap_band(
    values: Floats, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats]:
    """Pointwise interval of the mean curve: `values` [seeds, points] without NaN -> low [points], high
    [points].

    Whole curves are resampled, so neighbouring points move together. One seed: NaN everywhere. Points at
    which all seeds agree: the interval is that value (scipy would warn of degenerate data).
    """
    seeds, points = values.shape
    if seeds < 2:
        missing = np.full(points, np.nan)
        return missing, missing.copy()
    low, high = values.mean(axis=0), values.mean(axis=0)
    spread = np.ptp(values, axis=0) > 0
    if spread.any():
        from scipy.stats import bootstrap

        interval = bootstrap(
            (values[:, spread],),
            np.mean,
            axis=0,
            vectorized=True,
            confidence_level=confidence,
            n_resamples=resamples,
            batch=max(1, 4_000_000 // values.size),  # 32 MB of resampled curves at once
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low[spread], high[spread] = interval.low, interval.high
    return low, high


def interquartile_mean(values: ArrayLike) -> float:
    """Mean of the middle half of the finite values, which one bad seed hardly moves. NaN for none."""
    finite = np.asarray(values, dtype=np.float64).ravel()
    finite = np.sort(finite[np.isfinite(finite)])
    if finite.size == 0:
        return math.nan
    cut = finite.size // 4
    return float(finite[cut : finite.size - cut].mean())


def common_grid(positions: Sequence[ArrayLike], points: int = 500) -> Floats:
    """All x positions at which a run has a value; more than `points` become as many evenly spaced ones."""
    arrays = [np.asarray(each, dtype=np.float64) for each in positions]
    union = np.unique(np.concatenate(arrays)) if arrays else np.empty(0)
    return union if union.size <= points else np.linspace(union[0], union[-1], points)


def step_values(x: ArrayLike, y: ArrayLike, grid: Floats) -> Floats:
    """The curve (x, y) on `grid`: the newest value at or before each grid point.

    NaN before the first point and beyond the last one: a run that ended says nothing about later steps. Where
    an x occurs twice, its last value counts.
    """
    x_array: Any = np.asarray(x, dtype=np.float64)
    y_array: Any = np.asarray(y, dtype=np.float64)
    if x_array.size == 0:
        return np.full(grid.shape, np.nan)
    order = np.argsort(x_array, kind="stable")
    x_array, y_array = x_array[order], y_array[order]
    index = np.searchsorted(x_array, grid, side="right") - 1
    inside = (index >= 0) & (grid <= x_array[-1])
    return np.where(inside, y_array[np.clip(index, 0, None)], np.nan)

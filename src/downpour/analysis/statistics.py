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
        """Whether there is an interval, which needs two seeds or more."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def bootstrap_mean(
    values: ArrayLike, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean and percentile-bootstrap interval of one number per seed. NaN and infinite values are left out.

    The percentile interval is always defined, unlike BCa, with three to ten seeds and returns that reach a maximum. The
    same values give the same interval (`seed`).
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
    """Pointwise interval of the mean curve: `values` [seeds, points] without NaN -> low [points], high [points].

    Whole curves are resampled, so neighbouring points vary together. For one seed, the interval is NaN. Where all seeds
    agree, both ends are that value (scipy would warn of degenerate data).
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
    """Mean of the middle half of the finite values, which is robust to outliers. NaN if there are none."""
    finite = np.asarray(values, dtype=np.float64).ravel()
    finite = np.sort(finite[np.isfinite(finite)])
    if finite.size == 0:
        return math.nan
    cut = finite.size // 4
    return float(finite[cut : finite.size - cut].mean())


def common_grid(positions: Sequence[ArrayLike], points: int = 500) -> Floats:
    """The union of the positions; if there are more than `points`, as many evenly spaced ones."""
    arrays = [np.asarray(each, dtype=np.float64) for each in positions]
    union = np.unique(np.concatenate(arrays)) if arrays else np.empty(0)
    return union if union.size <= points else np.linspace(union[0], union[-1], points)


def step_values(x: ArrayLike, y: ArrayLike, grid: Floats) -> Floats:
    """The step function (x, y) on `grid`: the latest value at or before each grid point.

    NaN before the first and after the last x: a run is not extrapolated. If an x occurs twice, its last value counts.
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

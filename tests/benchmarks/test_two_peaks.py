"""`benchmarks/two_peaks.py`, without its runs."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


def test_one_seed_has_no_interval(
    script: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_peaks = script("two_peaks")
    uniform = np.full(len(two_peaks.GRID), 1 / 8)  # on [-4, 4]
    monkeypatch.setattr(two_peaks, "RUNS", tmp_path)
    monkeypatch.setattr(two_peaks, "trained", lambda head, seed: (0.5, uniform))
    assert "| one Gaussian | 1 | 0.5000 | 0.0750 |" in two_peaks.main(1)
    assert (tmp_path / "two_peaks.png").exists()

"""`python src/scale.py` without runs, and without measurements of this machine."""

from collections.abc import Sequence
from typing import Any

import pytest
from tests.scaling.runs import Runs, pushed

from downpour.cost_model import Link, ring
from downpour.scaling import all_reduces, plan, pushes


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    found = Runs()
    monkeypatch.setattr(plan, "run", found)
    truth = Link(5e-5, 1e-9, 1e-10)

    def measure(counts: Sequence[int]) -> Any:
        times = [(ranks, float(n), ring(truth, ranks, n)) for ranks in counts if ranks > 1 for n in all_reduces.SIZES]
        return times, dict.fromkeys(counts, [1e-3] * 5)

    monkeypatch.setattr(all_reduces, "measure", measure)
    monkeypatch.setattr(all_reduces, "adding_time", lambda: truth.gamma)
    monkeypatch.setattr(pushes, "measure", lambda: pushed(64))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    return found

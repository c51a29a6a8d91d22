"""Numbers that change as a run goes on."""

import pytest

from downpour.exploration import Linear


def test_linear_goes_from_start_to_end_and_stays() -> None:
    schedule = Linear(start=1.0, end=0.2, steps=4)
    assert [schedule(step) for step in range(7)] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_linear_may_rise() -> None:
    assert Linear(start=0.4, end=1.0, steps=10)(5) == pytest.approx(0.7)


def test_no_steps_is_the_end() -> None:
    assert Linear(start=1.0, end=0.1, steps=0)(0) == 0.1

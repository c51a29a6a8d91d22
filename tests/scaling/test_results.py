"""Numbers of a scaling measurement, from rates that are given."""

import math

import pytest

from downpour.scaling.plan import ALONE, Case
from downpour.scaling.results import Row, compare


@pytest.mark.parametrize("steps", [0, 100])
def test_a_step_is_one_of_gradient_steps_only(steps: int) -> None:
    """Two processes at 150 samples (or environment steps) per second, one at 100: E_2 = 0.75."""
    alone, two = Row(Case(ALONE, 1, "", 64, steps), 6400), Row(Case("ddp", 2, "", 64, steps, 2, 2), 6400)
    alone.rates, two.rates = [100.0], [150.0]
    compare([alone, two])
    assert two.efficiency == pytest.approx(0.75) and two.waiting == pytest.approx(0.25) and alone.waiting == 0
    if steps:
        assert (alone.step, two.step) == pytest.approx((0.64, 128 / 150))
    else:
        assert math.isnan(alone.step) and math.isnan(two.step)

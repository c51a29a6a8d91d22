"""Figure 2 of van Hasselt et al. (2016): the numbers printed in it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from downpour.analysis.maximum_of_fits import CASES, Case, MaximumOfFits, errors

PRINTED = [(0.61, -0.02), (0.47, 0.02), (3.35, -0.02)]


@pytest.mark.parametrize(("case", "printed"), [*zip(CASES, PRINTED, strict=True)])
def test_the_papers_numbers(case: Case, printed: tuple[float, float]) -> None:
    assert tuple(round(float(error.mean()), 2) for error in errors(case)) == printed


def test_they_are_left_beside_a_run(tmp_path: Path) -> None:
    MaximumOfFits().on_run_end(OmegaConf.create({"hydra": {"run": {"dir": str(tmp_path)}}}))
    assert "| sin(s) | 6 | +0.61 | -0.02 |" in (tmp_path / "maximum_of_fits.md").read_text()
    assert (tmp_path / "maximum_of_fits.png").stat().st_size > 50_000

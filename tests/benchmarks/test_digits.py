"""`benchmarks/digits.py`: the same task for loops without the framework."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from tests.training import composed

from downpour.config import build
from downpour.run import Run

MODELS = Path(__file__).parents[2] / "conf" / "model"


def test_the_training_rows_are_as_many_as_those_of_a_run(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    x, y = script("digits").training_rows()
    data = build(composed("algo=supervised")["data"], run=Run(tmp_path, 0, 100, 100, 1))
    assert len(x) == len(y) == len(data.rows["train"])
    assert x.shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_the_networks_have_the_widths_of_a_run(script: Callable[[str], ModuleType], model: str) -> None:
    conf = yaml.safe_load((MODELS / f"{model}.yaml").read_text())
    assert script("digits").WIDTHS[model].items() <= conf.items()

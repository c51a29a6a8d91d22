"""Every row of docs/equations.md points at code that exists and at a test that exists and knows it."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "equations.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|") and not line.startswith(("|--", "| equation"))
]
UNNUMBERED = [  # what the lecture says without a number
    "synchronous gradient descent",
    "cost log N of an all-reduce",
    "N x M, larger step size",
    "epsilon-greedy",
    "epsilon falling to 0",
    "A = p(x) + noise",
    "replay",
    "target network, theta^- = theta every tau steps",
    "batch normalization",
    "AdaGrad",
    "RMSprop",
    "Adam",
    "backpropagation with dropout",
]


def names_in(path: Path) -> set[str]:
    """Top-level functions and classes of a module."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


def as_written(name: str) -> str:
    """QLearning -> a pattern for the class, and for q_learning, as the command line names it."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    return rf"\b({name}|{snake}|{name.lower()})\b"


def text_of(path: Path) -> str:
    """A test module's, with that of the helpers that it imports."""
    text = path.read_text()
    helpers = re.findall(r"^from (tests\.[\w.]+) import", text, re.MULTILINE)
    return "\n".join([text, *((ROOT / f"{name.replace('.', '/')}.py").read_text() for name in helpers)])


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_a_row_points_somewhere(row: list[str]) -> None:
    code, check = row[2].strip("`"), row[3].strip("`")
    if code.startswith("torch."):
        module, _, symbol = code.rpartition(".")
        assert hasattr(importlib.import_module(module), symbol), code
    else:
        path, symbol = code.split("::")
        assert symbol in names_in(ROOT / "src/downpour" / path), code
    path, name = check.split("::")
    assert name in names_in(ROOT / "tests" / path), check
    assert re.search(as_written(symbol), text_of(ROOT / "tests" / path)), f"{check} never speaks of {symbol}"


def test_no_equation_is_left_out() -> None:
    listed: set[int] = set()
    for row in ROWS:
        for first, last in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", row[0]):
            listed |= set(range(int(first), int(last or first) + 1))
    assert listed == set(range(1, 73))


@pytest.mark.parametrize("what", UNNUMBERED)
def test_no_unnumbered_update_is_left_out(what: str) -> None:
    assert any(row[0] == "unnumbered" and what in row[1] for row in ROWS)

"""Every row of docs/equations.md points at code and at a test that exist."""

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


def names_in(path: Path) -> set[str]:
    """Top-level functions and classes of a module."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds)}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_a_row_points_somewhere(row: list[str]) -> None:
    for cell, folder in ((row[2], "src/downpour"), (row[3], "tests")):
        if cell.startswith("`torch."):
            module, _, name = cell.strip("`").rpartition(".")
            assert hasattr(importlib.import_module(module), name), cell
            continue
        path, name = cell.strip("`").split("::")
        assert name in names_in(ROOT / folder / path), cell


def test_no_equation_is_left_out() -> None:
    listed: set[int] = set()
    for row in ROWS:
        for first, last in re.findall(r"\((\d+)\)(?:-\((\d+)\))?", row[0]):
            listed |= set(range(int(first), int(last or first) + 1))
    assert listed == set(range(1, 73))

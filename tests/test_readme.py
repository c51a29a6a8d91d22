"""What the README shows works as it is typed there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the README's algorithm added to it."""
    tree = tmp_path_factory.mktemp("readme") / "project"
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shown = re.findall(r"`([\w/]+expected_sarsa\.\w+)`\n\n```\w+\n(.*?)```", README, flags=re.DOTALL)
    assert [Path(path).suffix for path, _ in shown] == [".py", ".yaml"]
    for path, text in shown:
        (tree / path).write_text(text)
    return tree


def run(tree: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "src/train.py", "algo=expected_sarsa", "debug=fast", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=240)


def test_added_algorithm_trains(copy: Path) -> None:
    done = run(copy, "hydra.run.dir=outputs/new", "algo.policy_epsilon=0.1")
    assert done.returncode == 0, done.stderr
    assert "policy_epsilon: 0.1" in (copy / "outputs/new/config.yaml").read_text()
    assert (copy / "outputs/new/summary.json").exists()


def test_added_algorithm_has_its_keys_checked(copy: Path) -> None:
    done = run(copy, "hydra.run.dir=outputs/bad", "algo.policy_epsilon=2")
    assert done.returncode == 2
    assert "algo.policy_epsilon=2" in done.stderr and "less than or equal to 1" in done.stderr


def test_tables_name_what_there_is() -> None:
    groups = sorted(p.name for p in (ROOT / "conf").iterdir() if p.is_dir() and p.name != "hydra")
    assert len(groups) > 10
    for group in groups:
        options = {path.stem for path in (ROOT / "conf" / group).glob("[a-z]*.yaml")}
        row = next(line for line in README.splitlines() if line.startswith(f"| `{group}` |"))
        text = README if group == "algo" else row
        missing = {option for option in options if not re.search(rf"\b{option}\b", text)}
        assert not missing, f"README does not mention {group}: {missing}"


def test_links_point_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"

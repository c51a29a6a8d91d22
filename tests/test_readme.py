"""The examples of README.md and docs/extending.md work as they are printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "extending.md")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files that the pages show added to it."""
    tree = tmp_path_factory.mktemp("readme") / "project"
    for folder in ("src", "conf"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for page, files in zip(PAGES, (2, 8), strict=True):
        shown = re.findall(r"`([\w/]+\.(?:py|yaml))`\n\n```\w+\n(.*?)```", page.read_text(), flags=re.DOTALL)
        assert len(shown) == files
        for path, text in shown:
            assert not (tree / path).exists()
            (tree / path).write_text(text)
    return tree


def run(tree: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "src/train.py", "debug=fast", *overrides]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=240)


def test_added_algorithm_trains(copy: Path) -> None:
    done = run(copy, "hydra.run.dir=outputs/new", "algo=expected_sarsa", "algo.policy_epsilon=0.1")
    assert done.returncode == 0, done.stderr
    assert "policy_epsilon: 0.1" in (copy / "outputs/new/config.yaml").read_text()
    assert (copy / "outputs/new/summary.json").exists()


def test_added_algorithm_has_its_keys_checked(copy: Path) -> None:
    done = run(copy, "hydra.run.dir=outputs/bad", "algo=expected_sarsa", "algo.policy_epsilon=2")
    assert done.returncode == 2
    assert "algo.policy_epsilon=2" in done.stderr and "less than or equal to 1" in done.stderr


@pytest.mark.parametrize(
    "overrides",
    [("algo=soft_q_learning", "model=sine", "env=corridor"), ("algo=supervised", "data=rings")],
    ids=" ".join,
)
def test_added_components_train_and_resume(copy: Path, overrides: tuple[str, ...]) -> None:
    directory = f"outputs/{overrides[0].partition('=')[2]}"
    done = run(copy, *overrides, f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    length = "total_env_steps" if "env=corridor" in overrides else "total_gradient_steps"
    again = run(copy, f"resume={directory}", f"{length}=1500")
    assert again.returncode == 0, again.stderr

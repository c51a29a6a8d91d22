"""The runs of a scaling measurement: what `train.py` is given, and what it answers."""

from pathlib import Path

import pytest

from downpour.scaling import plan
from downpour.scaling.plan import Case, Task


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["running in outputs/x", "error: the loss is nan", "there is no checkpoint yet"], "the loss is nan"),
        (["running in outputs/x", "Killed", ""], "Killed"),
        ([], "exit code 3"),
    ],
)
def test_the_reason_of_a_failure_is_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], told: str
) -> None:
    text = "".join(f"{line}\n" for line in lines)
    script = tmp_path / "train.py"
    script.write_text(f"import sys\nsys.stderr.write({text!r})\nsys.exit(3)\n")
    monkeypatch.setattr(plan, "ENTRY_POINT", script)
    assert plan.run([]) == told


@pytest.mark.parametrize(
    ("typed", "steps", "evaluations"),
    [
        (("algo=dqn", "eval_every=500"), 0, ["eval_every=500"]),
        (("algo=supervised", "eval_every=500"), 4000, ["eval_every=100"]),  # 40 evaluations
    ],
)
def test_runs_to_an_accuracy_are_evaluated_as_asked_or_often(
    tmp_path: Path, typed: tuple[str, ...], steps: int, evaluations: list[str]
) -> None:
    task = Task(typed, steps, 64, "eval/return_mean", True)
    found = list(plan.to_accuracy(task, Case("ddp", 2, "", 64, steps, 2, 2), 3, tmp_path))
    assert [each for each in found if each.startswith("eval_every=")] == evaluations
    assert "seed=3" in found and typed[0] in found

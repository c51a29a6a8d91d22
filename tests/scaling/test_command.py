"""`python src/scale.py` that is interrupted, late, or meets a failure: what has been measured is kept."""

import errno
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.scaling.runs import SETTINGS, TASK, Runs, table

from downpour.scaling import command, plan
from downpour.scaling.command import main
from downpour.scaling.plan import ALONE, Case
from downpour.scaling.results import Row, compare

SHORT = (*TASK, "devices=2", "accuracy=0.5", "seeds=3")


def refuse(monkeypatch: pytest.MonkeyPatch, runs: Runs, number: int, failure: str | None) -> None:
    """The run of this number, counted from 1, fails; with None, Ctrl-C is pressed in it."""
    count = 0

    def run(settings: Sequence[str]) -> str:
        nonlocal count
        count += 1
        if count != number:
            return runs(settings)
        if failure is None:
            raise KeyboardInterrupt
        return failure

    monkeypatch.setattr(plan, "run", run)


@pytest.mark.parametrize(
    ("number", "efficiencies", "seeds"),
    [
        (3, [1, 1], ["0", "0"]),  # at the begin of the second turn
        (6, [2, 2], ["1", "0"]),  # with the second seed of one process
    ],
)
def test_ctrl_c_starts_no_other_run(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    efficiencies: list[int],
    seeds: list[str],
) -> None:
    refuse(monkeypatch, runs, number, None)
    assert main([*SHORT, "turns=2", f"out={tmp_path}"], SETTINGS) == 0
    assert len(runs.given) == number - 1
    rows = table(tmp_path)
    assert [len(row["efficiencies"].split()) for row in rows] == efficiencies
    assert [row["seeds"] for row in rows] == seeds


def test_no_run_to_the_accuracy_starts_when_the_time_is_over(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each run takes a minute: after one process and ddp there is time for one more."""
    monkeypatch.setattr(command, "time", SimpleNamespace(monotonic=lambda: 60.0 * len(runs.given)))
    assert main([*SHORT, "turns=1", "minutes=2.5", f"out={tmp_path}"], SETTINGS) == 0
    assert len(runs.given) == 3
    assert [row["seeds"] for row in table(tmp_path)] == ["1", "0"]
    assert capsys.readouterr().err.count("2.5 minutes are over: no more runs") == 1


def test_the_turns_before_a_failure_of_one_process_count(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, runs, 3, "the loss is nan")
    assert main([*TASK, "devices=2", "turns=3", f"out={tmp_path}"], SETTINGS) == 0
    assert len(runs.given) == 2  # then there is nothing to compare with
    assert [len(row["efficiencies"].split()) for row in table(tmp_path)] == [1, 1]
    text = (tmp_path / "scale.md").read_text()
    assert "Failed:\n\n- one process N=1 batch=64: the loss is nan (after 1 turn(s))\n" in text


def test_a_size_that_one_process_cannot_train_leaves_the_others(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, runs, 3, "out of memory")
    sizes = "sizes=model.hidden=[8];model.hidden=[32]"
    assert main([*TASK, "devices=2", "turns=2", sizes, f"out={tmp_path}"], SETTINGS) == 0
    assert [given["model.hidden"] for given in runs.given] == ["[8]"] * 4
    text = (tmp_path / "scale.md").read_text()
    assert "- one process N=1 batch=64 model.hidden=[32]: out of memory\n" in text


def test_the_first_run_is_one_that_must_not_fail(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse(monkeypatch, runs, 1, "the loss is nan")
    assert main([*TASK, f"out={tmp_path}"], SETTINGS) == 2
    assert capsys.readouterr().err.endswith("scale: the loss is nan\n") and not runs.given


def test_nothing_is_trained_to_the_accuracy_without_a_strategy_to_compare(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SHORT, "strategy=fsdp2", "turns=1", f"out={tmp_path}"], SETTINGS) == 1
    assert len(runs.given) == 2
    assert capsys.readouterr().err.endswith("nothing could be measured: strategy=fsdp2: needs a GPU\n")


def test_the_table_is_printed_where_it_cannot_be_written(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(command, "write_text", full)
    assert main([*TASK, "devices=2", "turns=1", f"out={tmp_path}"], SETTINGS) == 2
    shown = capsys.readouterr()
    assert "| one process |" in shown.out
    assert shown.err.endswith(f"scale: out={tmp_path}: cannot be written (No space left on device); choose another\n")


def test_the_recorded_command_can_be_pasted(runs: Runs, tmp_path: Path) -> None:
    typed = [*TASK, "strategy=ddp;ddp strategy.compress=bf16", "devices=2", "turns=1", f"out={tmp_path}"]
    assert main(typed, SETTINGS) == 0
    line = (tmp_path / "scale.md").read_text().splitlines()[0]
    assert shlex.split(line.strip("`")) == ["python", "src/scale.py", *typed]


def test_a_run_with_an_environment_has_no_cost_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_measure_machine", lambda counts: pytest.fail("the machine was measured"))
    cases = [Case(ALONE, 1, "", 64, 0), Case("ddp", 2, "", 64, 0, 2, 2)]  # replay has a batch
    rows = [Row(case, samples=1000, rates=[rate]) for case, rate in zip(cases, (100.0, 150.0), strict=True)]
    compare(rows)
    settings: Any = SimpleNamespace(scaling="weak", servers=1, predict=4, accuracy=None)
    assert command._draw(settings, rows, tmp_path) == ""
    assert (tmp_path / "efficiency.png").exists()

"""Episodes of many independent trials in one run: as many as every trial has finished."""

from pathlib import Path

import pytest
from tests.analysis.runs_factory import write_run

from downpour.analysis.configurations import group
from downpour.analysis.report import report
from downpour.analysis.runs import RunDirectory, find_runs
from downpour.analysis.trials import by_episode, complete, has_trials, trials


def of(path: Path, trials: int, environments: list[int], seed: int = 0) -> RunDirectory:
    """A run whose i-th episode ended in environment `environments[i]`, with return i."""
    write_run(path, seed=seed, config={"env": {"id": "x", "trials": trials}})
    rows = [f"{i + 1},{i},{i},{environment}" for i, environment in enumerate(environments)]
    (path / "episodes.csv").write_text("\n".join(["env_steps,return,length,environment", *rows]) + "\n")
    return RunDirectory(path)


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ([0, 1, 2, 1, 0, 2, 2], [[0, 4], [1, 3], [2, 5]]),
        ([0, 1, 5, 1], [[0], [1], [2]]),  # environments 2 and 5 are of the same trial
        ([0, 1, 0, 1], [[], [], []]),  # the means would be those of trials with short episodes
        ([], [[], [], []]),
    ],
)
def test_unfinished_trials_count(tmp_path: Path, ended: list[int], expected: list[list[float]]) -> None:
    run = of(tmp_path / "run", 3, ended)
    assert complete(run) == len(expected[0])
    returns, lengths = by_episode(run)
    assert returns.tolist() == lengths.tolist() == expected
    assert has_trials(group([run])[0]) == (len(expected[0]) > 0)


def test_runs_that_have_finished_nothing_are_left_out(tmp_path: Path) -> None:
    of(tmp_path / "0", 2, [0, 1, 0, 1])
    of(tmp_path / "1", 2, [0], seed=1)
    configurations = group(map(RunDirectory, find_runs(tmp_path)))
    (line,) = trials(configurations).axes[0].lines
    assert line.get_ydata().tolist() == [0.5, 2.5]
    assert line.get_label().endswith("(2 trials)")


def test_a_report_before_any_episode_has_ended(tmp_path: Path) -> None:
    of(tmp_path / "0", 2, [])
    assert report(find_runs(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out" / "trials.png").exists()

"""Sutton and Barto's Example 6.7, a thousand trials: the part that goes left, against a plain loop and the book."""

import numpy as np
import pytest
from tests.training import train

from downpour.analysis.configurations import group
from downpour.analysis.runs import RunDirectory
from downpour.analysis.trials import by_episode, trials


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    folder = tmp_path_factory.mktemp("trials")
    for algo in ("q_learning", "double_q_learning"):
        train(folder / algo, "experiment=overestimation", f"algo={algo}", "eval_episodes=10")
    return {path.name: RunDirectory(path) for path in folder.iterdir()}


def left(run: RunDirectory) -> np.ndarray:
    """Per cent of the trials that go left in each episode."""
    return 100 * (by_episode(run)[1] - 1).mean(0)


def test_q_learning_goes_left_for_long(runs: dict[str, RunDirectory]) -> None:
    """The book's figure: 94 % around episode 20, 13 to 14 % at 300. A plain loop, 1 500 trials: 94.6, 12.5."""
    found = left(runs["q_learning"])
    assert len(found) >= 300
    assert 92 < found.max() < 97 and 12 < found.argmax() < 32
    assert 48 - 5 < found[0] < 52 + 5  # ties are broken at random
    assert 9.5 < found[290:300].mean() < 15


def test_two_tables_soon_do_not(runs: dict[str, RunDirectory]) -> None:
    """The book's figure: 11 % at 50, 7 % at 300. A plain loop, 1 500 trials: 15 (ties to the first action), 6.8."""
    found = left(runs["double_q_learning"])
    assert found.max() < 58
    assert 9 < found[45:55].mean() < 18
    assert 5 < found[290:300].mean() < 8.5  # 5 is the least: an epsilon of 0.1 draws left half the time


def test_the_picture_has_a_curve_for_each(runs: dict[str, RunDirectory]) -> None:
    figure = trials(group(runs.values()))
    for axes in figure.axes:
        assert [len(np.asarray(line.get_ydata())) >= 300 for line in axes.lines] == [True, True]
    np.testing.assert_allclose(figure.axes[1].lines[0].get_ydata(), 1 + left(runs["double_q_learning"]) / 100)
    assert all("1000 trials" in str(line.get_label()) for line in figure.axes[0].lines)

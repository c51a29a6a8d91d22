"""Estimates beside actual returns: by hand, on a world whose values are exact, and in the picture."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.analysis.runs_factory import write_run
from tests.commands import rows
from tests.training import train
from tests.worlds import Guess, a_run, composed, scripted

from downpour.analysis.configurations import Configuration
from downpour.analysis.overestimation import curves_of, overestimation, truth_of_best
from downpour.analysis.report import report
from downpour.analysis.runs import RunDirectory
from downpour.callbacks.overestimation import Overestimation, discounted_to_come
from downpour.failures import Failed


def test_the_discounted_sums_and_what_a_cut_hides_of_them() -> None:
    reward = np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 1.0], [4.0, 1.0]])  # the third row of the first is a reset
    terminated = np.array([[False, False], [True, False], [False, False], [True, False]])
    ended = terminated | np.array([[False, False], [False, False], [False, False], [False, True]])
    actual, missing = discounted_to_come(reward, terminated, ended, 0.5)
    assert actual.T.tolist() == [[2.0, 2.0, 2.0, 4.0], [1.875, 1.75, 1.5, 1.0]]
    assert missing.T.tolist() == [[0.0, 0.0, 0.0, 0.0], [0.0625, 0.125, 0.25, 0.5]]


class Promises(Guess):
    """Always takes action 0 and promises the number of the step."""

    gamma = 0.5

    def act(self, observation: torch.Tensor, rng: np.random.Generator, **facts: Any) -> np.ndarray:
        return np.zeros(len(observation), np.int64)

    def state_values(self, observation: torch.Tensor) -> torch.Tensor:
        return observation[:, 2]

    def eval(self) -> None:
        """Nothing changes."""

    def train(self, mode: bool) -> None:
        """Nothing changes."""


def measured(tmp_path: Path, environments: Any, policy: Any, **options: Any) -> dict[str, float]:
    """What the callback logs of one evaluation."""
    logged: dict[str, float] = {}
    world = SimpleNamespace(vector=lambda num_envs: environments)
    callback = Overestimation(world, a_run(tmp_path, eval_episodes=4), **options)  # type: ignore[arg-type]
    logger = SimpleNamespace(log_metrics=lambda metrics, step: logged.update(metrics))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(step=100), loggers=[logger], callback_metrics={})
    callback.on_train_epoch_end(trainer, policy)
    callback.teardown(trainer, policy, "fit")
    return logged


def test_every_visited_state_counts_once(tmp_path: Path) -> None:
    """Rewards 1, 2 and 1, 2, 3: the values at steps 0, 1 are 2, 2 and at 0, 1, 2 they are 2.75, 3.5, 3."""
    found = measured(tmp_path, scripted([2], [3]), Promises())
    assert found["eval/value_estimate"] == pytest.approx((0 + 1 + 0 + 1 + 2) / 5)
    assert found["eval/value_actual"] == pytest.approx((2 + 2 + 2.75 + 3.5 + 3) / 5)
    assert found["eval/overestimation"] == found["eval/value_estimate"] - found["eval/value_actual"]


def test_states_too_near_to_a_cut_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cut = scripted([6], terminates=[False])
    found = measured(tmp_path, cut, Promises(), unseen=0.5**4)  # steps 0, 1 and 2 of six
    assert found["eval/value_estimate"] == 1.0
    assert measured(tmp_path, cut, Promises(), unseen=0.0) == {}
    assert "overestimation not measured" in caplog.text


LAKE = ("env=frozen_lake", "+env.kwargs.is_slippery=false", "callbacks=overestimation")


def test_exact_values_are_no_overestimates(tmp_path: Path) -> None:
    train(tmp_path / "run", "algo=value_iteration", *LAKE, "total_gradient_steps=20", "eval_every=10")
    found = [row for row in rows(tmp_path / "run" / "metrics.csv") if row["eval/value_actual"]][-1]
    assert float(found["eval/value_actual"]) == pytest.approx(np.mean(0.99 ** np.arange(6)))
    assert float(found["eval/overestimation"]) == pytest.approx(0, abs=1e-9)
    assert (tmp_path / "run" / "overestimation.png").stat().st_size > 10_000


@pytest.mark.parametrize("option", ["default", "overestimation", "value_distance"])
def test_what_is_measured_is_measured_before_it_is_shown_and_saved(option: str) -> None:
    order = list(composed(f"callbacks={option}", "env=frozen_lake")["callbacks"])
    shown, saved = order.index("progress"), order.index("checkpoint")
    assert all(order.index(name) < min(shown, saved) for name in ("evaluation", option) if name in order)


def test_an_algorithm_without_values_is_told(tmp_path: Path) -> None:
    options = ("callbacks=overestimation", "total_env_steps=100", "eval_every=100")
    with pytest.raises(Failed, match=r"Reinforce learns V\(x\) with algo\.baseline=value only"):
        train(tmp_path / "run", "algo=reinforce", "algo.baseline=none", *options)


def written(path: Path, returns: tuple[float, ...], estimates: tuple[float, ...], actual: tuple[float, ...]) -> Path:
    """A run with evaluations at 1000, 2000, ... and what was compared at each."""
    write_run(path, evaluations=[(1000 * (i + 1), value) for i, value in enumerate(returns)])
    lines = (path / "metrics.csv").read_text().splitlines()
    extra = [f"{1000 * (i + 1)},,,,{e},{a}" for i, (e, a) in enumerate(zip(estimates, actual, strict=True))]
    header = lines[0] + ",eval/value_estimate,eval/value_actual"
    (path / "metrics.csv").write_text("\n".join([header, *(f"{line},," for line in lines[1:]), *extra]) + "\n")
    return path


def test_the_line_is_the_truth_of_the_best_policy(tmp_path: Path) -> None:
    runs = [
        RunDirectory(written(tmp_path / "0", (10.0, 30.0, 20.0), (5.0, 6.0, 7.0), (1.0, 3.0, 2.0))),
        RunDirectory(written(tmp_path / "1", (10.0, 20.0, 30.0), (7.0, 8.0, 9.0), (1.0, 3.0, 5.0))),
    ]
    assert [truth_of_best(run) for run in runs] == [3.0, 5.0]
    both = Configuration({}, {"": "dqn"}, runs)
    x, estimates, truths = curves_of(both)
    assert x.tolist() == [1000, 2000, 3000] and truths.tolist() == [3.0, 5.0]
    assert estimates.tolist() == [[5, 6, 7], [7, 8, 9]]
    line, best = overestimation([both]).axes[0].lines
    assert np.asarray(line.get_ydata()).tolist() == [6, 7, 8]
    assert np.asarray(best.get_ydata()).tolist() == [4, 4]


def test_a_report_on_such_runs_draws_them(tmp_path: Path) -> None:
    written(tmp_path / "runs" / "0", (10.0, 30.0), (5.0, 6.0), (1.0, 3.0))
    report([tmp_path / "runs" / "0"], tmp_path)
    assert (tmp_path / "overestimation.png").stat().st_size > 10_000

"""Value iteration, policy iteration and policy evaluation through the door, against downpour.dynamic_programming."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training import algorithm, resumes_exactly, train

from downpour import dynamic_programming as dp
from downpour.checkpoints import read
from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.environments.tables import table_of
from downpour.failures import Failed


@pytest.mark.parametrize("name", ["value_iteration", "policy_iteration"])
def test_a_run_solves_the_environment(tmp_path: Path, name: str) -> None:
    train(tmp_path / "run", f"algo={name}", "env=frozen_lake", "algo.gamma=0.9")
    found = read(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"]["q"]
    exact = dp.policy_iteration(table_of(Gymnasium(id="FrozenLake-v1")), 0.9).q
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), exact, rtol=0, atol=1e-10)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    residuals = [float(row["train/bellman_residual"]) for row in rows if row["train/bellman_residual"]]
    assert residuals[-1] <= 1e-12 and int(rows[-1]["gradient_steps"]) < 10_000


def saved(directory: Path) -> dict[str, np.ndarray]:
    content = read(directory / "checkpoints" / "last.ckpt")["state_dict"]
    return {name: value.numpy() for name, value in content.items()}


def test_a_finite_horizon_ends_there(tmp_path: Path) -> None:
    """(5): what backward induction finds, for as many steps to go as there were sweeps."""
    train(tmp_path / "run", "algo=value_iteration", "env=frozen_lake", "algo.gamma=1", "algo.horizon=7")
    v, plan = dp.finite_horizon(table_of(Gymnasium(id="FrozenLake-v1")), 7)
    found = saved(tmp_path / "run")
    np.testing.assert_allclose(found["q"].max(1), v[7], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found["plan"], plan)
    assert 0 < v[7].max() < 1 and not np.allclose(v[6], v[7])


def test_a_process_from_a_file_under_a_given_policy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    transition = 0.9 * rng.dirichlet(np.ones(4), (4, 3))
    mdp, start = dp.MDP(transition, rng.standard_normal((4, 3))), rng.dirichlet(np.ones(4))
    np.savez(tmp_path / "mdp.npz", transition=mdp.transition, reward=mdp.reward, start=start)
    policy = rng.dirichlet(np.ones(3), 4)
    np.save(tmp_path / "policy.npy", policy)
    options = ("env=mdp", f"env.path={tmp_path / 'mdp.npz'}", f"algo.policy={tmp_path / 'policy.npy'}", "algo.gamma=1")
    train(tmp_path / "run", "algo=policy_evaluation", *options, "callbacks=value_distance", "eval_episodes=2000")
    v = dp.policy_evaluation(mdp, policy, 1.0)
    np.testing.assert_allclose(saved(tmp_path / "run")["q"], dp.action_values(mdp, v, 1.0), rtol=0, atol=1e-10)
    rows = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    row = {name: value for each in rows for name, value in each.items() if value}  # the last of each
    assert float(row["exact/value_distance"]) < 1e-10
    assert float(row["exact/start_value"]) == pytest.approx(float(start @ v))
    spread = 4 * float(row["eval/return_std"]) / 2000**0.5
    assert float(row["eval/return_mean"]) == pytest.approx(float(start @ v), abs=spread)  # played, not computed


@pytest.mark.parametrize("name", ["policy_iteration", "policy_evaluation"])
def test_a_policy_that_never_ends_has_no_undiscounted_value(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "mdp.npz", transition=np.ones((1, 2, 1)) * [[[1.0], [0.0]]], reward=np.ones((1, 2)))
    given = ("algo.policy=[1,0]",) if name == "policy_evaluation" else ()
    with pytest.raises(
        Failed, match=r"algo\.gamma=1\.0: from state 0 the policy never terminates; use one below 1"
    ) as caught:
        train(tmp_path / "run", f"algo={name}", "env=mdp", f"env.path={tmp_path / 'mdp.npz'}", "algo.gamma=1", *given)
    assert caught.value.code == 2


def test_it_resumes_exactly(tmp_path: Path) -> None:
    resumes_exactly(tmp_path, "algo=value_iteration", "env=frozen_lake", steps=100, counted="gradient_steps")


def test_an_environment_without_a_table_is_answered_with_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="env=frozen_lake, cliff_walking"):
        algorithm(tmp_path, "algo=value_iteration", "env=cartpole")

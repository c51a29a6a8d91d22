"""TD prediction: targets by their definitions, the exact fixed point, the random walk's known values."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tests.training import algorithm, resumes_exactly, train

from downpour import dynamic_programming as dp
from downpour.algorithms.returns import n_step_returns
from downpour.algorithms.td_prediction import TDPrediction
from downpour.callbacks.value_distance import features_of
from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.environments.tables import start_of, table_of
from downpour.networks import Basis

UNIFORM = np.full((5, 2), 0.5)


def walk() -> tuple[dp.MDP, np.ndarray]:
    environment = Gymnasium(id="downpour/RandomWalk-v0")
    return table_of(environment), start_of(environment)


def test_the_walks_values_are_sixths() -> None:
    mdp, _ = walk()
    np.testing.assert_allclose(dp.policy_evaluation(mdp, UNIFORM, 1.0), np.arange(1, 6) / 6)


def test_n_step_returns_by_their_definition() -> None:
    reward, value = torch.tensor([[1.0], [2.0], [4.0], [8.0]]), torch.tensor([[10.0], [20.0], [30.0], [40.0], [50.0]])
    never = torch.zeros(4, 1, dtype=torch.bool)
    ended = torch.tensor([[False], [True], [False], [False]])
    two = n_step_returns(reward, value, never, ended, 0.5, 2)[:, 0]
    assert two.tolist() == [1 + 0.5 * 2 + 0.25 * 30, 2 + 0.5 * 30, 4 + 0.5 * 8 + 0.25 * 50, 8 + 0.5 * 50]
    three = n_step_returns(reward, value, ended, ended, 0.5, 3)[:, 0]
    assert three.tolist() == [1 + 0.5 * 2, 2, 4 + 0.5 * 8 + 0.25 * 50, 8 + 0.5 * 50]


@pytest.mark.parametrize("kind", ["fourier", "polynomial"])
def test_the_expected_step_of_td0_vanishes_at_the_exact_fixed_point(kind: Any) -> None:
    """(60), over every transition as often as the policy makes it, with features too few for the true values."""
    mdp, start = walk()
    gamma = 0.9
    basis: list[Basis] = []

    def network(space: Any, outputs: int) -> Basis:
        basis.append(Basis(space, outputs, kind=kind, order=1))
        return basis[0]

    rule = TDPrediction(spaces.Discrete(5), spaces.Discrete(2), network, lambda p: torch.optim.SGD(p, 1.0), gamma=gamma)
    phi = basis[0].features(torch.arange(5)).double().numpy()
    theta = dp.td_fixed_point(mdp, UNIFORM, start, phi, gamma)
    assert np.abs(phi @ theta - dp.policy_evaluation(mdp, UNIFORM, gamma)).max() > 0.01
    basis[0].linear.weight.data[0] = torch.from_numpy(theta)
    visits = dp.visit_frequencies(mdp, UNIFORM, start)
    steps = torch.zeros(2)
    for x in range(5):
        for a in range(2):
            following = int(mdp.transition[x, a].argmax())
            ends = bool(mdp.transition[x, a].sum() == 0)
            rows = TensorDict(
                {
                    "observation": torch.tensor([[x], [following]]),
                    "reward": torch.tensor([[0.0], [mdp.reward[x, a]]], dtype=torch.float32),
                    "terminated": torch.tensor([[False], [ends]]),
                    "truncated": torch.zeros(2, 1, dtype=torch.bool),
                    "weight": torch.tensor([[0.0], [1.0]]),
                },
                batch_size=[2, 1],
            )
            (batch,) = rule.batches(rows)
            (gradient,) = torch.autograd.grad(rule.loss(batch)[0], list(rule.parameters()))
            steps += 0.5 * visits[x] * gradient[0]
    torch.testing.assert_close(steps, torch.zeros(2), atol=1e-6, rtol=0)


def test_the_fixed_point_is_found_and_the_distance_to_it_logged(tmp_path: Path) -> None:
    """Two features for five states: TD(0) goes where it must, which is not the truth."""
    options = ("model=basis", "model.kind=polynomial", "model.order=1", "optimizer.lr=0.5", "algo.gamma=0.9")
    steps = ("data.num_envs=256", "data.round_steps=4", "total_env_steps=200_000", "eval_every=100_000")
    train(tmp_path / "run", *WALK, *options, *steps)
    row = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))[-2]
    assert float(row["exact/fixed_point_distance"]) < 0.02
    assert float(row["exact/value_distance"]) > 0.04


@pytest.mark.parametrize(
    ("model", "linear"), [("table", True), ("linear", True), ("tiles", True), ("basis", True), ("mlp", False)]
)
def test_the_features_of_what_is_linear(tmp_path: Path, model: str, linear: bool) -> None:
    rule = algorithm(tmp_path, "algo=td_prediction", "env=random_walk", f"model={model}")
    for parameter in rule.parameters():
        torch.nn.init.normal_(parameter)
    phi = features_of(rule, 5)
    assert (phi is not None) == linear
    if model in ("tiles", "basis"):
        np.testing.assert_allclose(phi, rule.value.features(torch.arange(5)).detach(), atol=1e-6)


def test_unit_vectors_as_features_give_the_true_values() -> None:
    mdp, start = walk()
    theta = dp.td_fixed_point(mdp, UNIFORM, start, np.eye(5), 0.9)
    np.testing.assert_allclose(theta, dp.policy_evaluation(mdp, UNIFORM, 0.9), atol=1e-12)


WALK = ("algo=td_prediction", "env=random_walk", "model=table", "optimizer=sgd", "callbacks=value_distance")


@pytest.mark.parametrize(
    "options",
    [
        ("algo.trace=0", "data.round_steps=4"),
        ("algo.trace=0.8", "data.round_steps=8"),
        ("algo.n_step=3", "data.round_steps=8"),
        ("algo.trace=1", "data=episodes"),
    ],
)
def test_each_target_learns_the_walk(tmp_path: Path, options: tuple[str, ...]) -> None:
    length = ("total_env_steps=20000", "eval_every=20000", "data.num_envs=16", "optimizer.lr=0.7")
    train(tmp_path / "run", *WALK, *options, *length)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    rms = [float(row["exact/value_rms"]) for row in rows if row["exact/value_rms"]]
    assert rms[-1] < 0.12


def test_it_resumes_exactly(tmp_path: Path) -> None:
    resumes_exactly(tmp_path, *WALK, "algo.n_step=2", "data.num_envs=2", "data.round_steps=10")


def test_continuous_actions_are_answered_with_environments_that_fit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use env=random_walk"):
        algorithm(tmp_path, "algo=td_prediction", "env=pendulum")

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
from downpour.checkpoints import read
from downpour.config import ConfigError
from downpour.environments import Gymnasium
from downpour.environments.tables import start_of, table_of
from downpour.networks import Basis, Table

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
        ("algo.trace_decay=0", "data.round_steps=4"),
        ("algo.trace_decay=0.8", "data.round_steps=8"),
        ("algo.n_step=3", "data.round_steps=8"),
        ("algo.trace_decay=1", "data=episodes"),
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


def test_sutton_and_bartos_root_mean_square_at_100_episodes() -> None:
    """Example 6.2: alpha = 0.05 from 1/2 everywhere, 0.037 in the book's figure; 500 walks of their own, at once."""
    trials, episodes, alpha = 500, 100, 0.05
    worlds = Gymnasium(id="downpour/RandomWalk-v0", vectorization="table", trials=trials).vector(trials)
    states = worlds.single_observation_space
    rule = TDPrediction(
        states,
        worlds.single_action_space,
        lambda space, outputs: Table(space, outputs, initial=0.5),
        lambda p: torch.optim.SGD(p, 1.0),
        gamma=1.0,
    )
    table, rng = rule.value.weight, np.random.default_rng(0)
    before, _ = worlds.reset(seed=0)
    first, ended, rms = np.zeros(trials, bool), np.zeros(trials, int), np.full(trials, np.nan)
    while np.isnan(rms).any():
        action = rule.act(torch.from_numpy(before), rng, env_steps=0, explore=True)
        after, reward, terminated, truncated, _ = worlds.step(action)
        rows = {
            "observation": np.stack([before, after]),
            "reward": np.stack([reward, reward]).astype(np.float32),
            "terminated": np.stack([terminated, terminated]),
            "truncated": np.stack([truncated, truncated]),
            "weight": np.stack([~first, ~first]).astype(np.float32),
        }
        (batch,) = rule.batches(TensorDict({k: torch.from_numpy(v) for k, v in rows.items()}, [2, trials]))
        count = int(batch["weight"].sum())
        (gradient,) = torch.autograd.grad(rule.loss(batch)[0], [table])
        table.data -= alpha * count * gradient  # the loss is a mean over walks that have nothing to do with each other
        ended += terminated
        new = terminated & (ended == episodes)
        error = table.data.view(trials, 5).numpy()[new] - np.arange(1, 6) / 6
        rms[new] = np.sqrt(np.square(error).mean(1))
        before, first = after, terminated
    assert rms.mean() == pytest.approx(0.037, abs=0.001 + 4 * rms.std() / trials**0.5)
    assert 4 * rms.std() / trials**0.5 < 0.003


# Whose value it is


def expected(policy: np.ndarray, gamma: float = 0.9) -> np.ndarray:
    return dp.policy_evaluation(walk()[0], policy, gamma)


def make(tmp_path: Path, choice: str, *overrides: str) -> Any:
    return algorithm(tmp_path, "algo=td_prediction", "env=random_walk", f"algo.policy={choice}", *overrides)


def test_given_probabilities_are_followed_and_valued(tmp_path: Path) -> None:
    options = ("optimizer.lr=0.5", "data.num_envs=64", "data.round_steps=4", "algo.gamma=0.9", "algo.policy=[0.4,0.6]")
    train(tmp_path / "run", *WALK, *options, "total_env_steps=60_000", "eval_every=60_000")
    row = next(r for r in csv.DictReader((tmp_path / "run" / "metrics.csv").open()) if r["exact/start_value"])
    assert float(row["exact/start_value"]) == pytest.approx(expected(np.full((5, 2), [0.4, 0.6]))[2])
    assert float(row["exact/value_distance"]) < 0.06
    assert float(row["exact/fixed_point_distance"]) == pytest.approx(float(row["exact/value_distance"]), abs=1e-6)


@pytest.mark.parametrize("suffix", ["npy", "csv"])
def test_a_table_says_what_is_done_in_each_state(tmp_path: Path, suffix: str) -> None:
    table = np.random.default_rng(0).dirichlet(np.ones(2), 5)
    path = tmp_path / f"policy.{suffix}"
    np.save(path, table) if suffix == "npy" else np.savetxt(path, table, delimiter=",")
    rule = make(tmp_path, str(path))
    np.testing.assert_allclose(rule.valued_policy(torch.arange(5)), table)
    states = torch.arange(5).repeat(4000)
    drawn = rule.act(states, np.random.default_rng(1), env_steps=0, explore=True).reshape(4000, 5)
    np.testing.assert_allclose(drawn.mean(0), table[:, 1], atol=4 * 0.5 / 4000**0.5)


def test_what_a_run_has_learned_is_valued_as_it_plays(tmp_path: Path) -> None:
    """The greedy policy of Q-learning goes right; the weights of the policy do not learn, and travel along."""
    table = ("model=table", "optimizer=sgd", "optimizer.lr=0.5", "data.num_envs=16", "data.round_steps=8")
    train(tmp_path / "q", "algo=q_learning", "env=random_walk", *table, "total_env_steps=3000", "eval_every=3000")
    length = ("total_env_steps=20_000", "eval_every=20_000", "algo.gamma=0.9", "data.num_envs=16")
    train(tmp_path / "v", *WALK, f"algo.policy={tmp_path / 'q'}", "optimizer.lr=0.7", *length)
    saved = read(tmp_path / "v" / "checkpoints" / "last.ckpt")["state_dict"]
    theirs = read(tmp_path / "q" / "checkpoints" / "best.ckpt")["state_dict"]
    assert torch.equal(saved["policy.algorithm.q.weight"], theirs["q.weight"])
    right = expected(np.tile([0.0, 1.0], (5, 1)))
    np.testing.assert_allclose(saved["value.weight"][2:, 0], right[2:], atol=5e-3)  # the left is never visited


def test_the_value_of_a_learned_policy_with_continuous_actions(tmp_path: Path) -> None:
    small = ("env=continuous_bandit", "model.hidden=[8]", "total_env_steps=200", "eval_every=200")
    train(tmp_path / "policy", "algo=reinforce", *small)
    for choice in ("uniform", tmp_path / "policy"):
        rule = algorithm(tmp_path, "algo=td_prediction", *small, f"algo.policy={choice}")
        action = rule.act(torch.zeros(500, 1), np.random.default_rng(0), env_steps=0, explore=True)
        assert action.shape == (500, 1) and action.dtype == np.float32
        if choice == "uniform":
            assert np.abs(action).max() <= 2 and action.std() == pytest.approx(4 / 12**0.5, rel=0.1)
        else:
            assert (action == rule.policy.algorithm.head.mode(rule.policy.algorithm.policy(torch.zeros(500, 1)))).all()
        assert not any(p.requires_grad for p in rule.policy.parameters())


def test_a_run_that_follows_another_resumes_exactly(tmp_path: Path) -> None:
    train(tmp_path / "p", "algo=reinforce", "env=frozen_lake", "total_env_steps=200", "eval_every=200")
    options = ("algo.policy=" + str(tmp_path / "p"), "env=frozen_lake", "data.num_envs=2")
    resumes_exactly(tmp_path, "algo=td_prediction", "model=table", *options, "optimizer=sgd")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("env=random_walk", "algo.policy=[0.5,0.6]"), "must sum to 1"),
        (("env=random_walk", "algo.policy=[1.5,-0.5]"), "must not be negative"),
        (("env=random_walk", "algo.policy=[0.2,0.3,0.5]"), r"needs \[2\]"),
        (("env=random_walk", "algo.policy=unifrom"), "is not a policy: give uniform, probabilities"),
        (("env=pendulum", "algo.policy=[0.5,0.5]"), "needs discrete actions.*a run directory"),
        (("env=random_walk", "algo.policy={tmp}"), "is not a run directory"),
        (("env=random_walk", "algo.policy={tmp}/bad.npy"), "contains no table of numbers"),
        (("env=cartpole", "algo.policy={tmp}/five.csv"), "needs discrete observations"),
        (("env=cartpole", "algo.policy={tmp}/run"), "was trained with observation_space Discrete"),
    ],
)
def test_policies_that_cannot_be_followed(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    (tmp_path / "bad.npy").write_bytes(b"no numbers")
    np.savetxt(tmp_path / "five.csv", UNIFORM, delimiter=",")
    if "/run" in overrides[1]:
        length = ("total_env_steps=50", "eval_every=50")
        train(tmp_path / "run", "algo=q_learning", "env=random_walk", "model=table", *length)
    with pytest.raises(ConfigError, match=message):
        algorithm(tmp_path, "algo=td_prediction", *(each.format(tmp=tmp_path) for each in overrides))

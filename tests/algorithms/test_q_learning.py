"""Acting, and what a loss leaves behind; the equations themselves are in tests/equations."""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from tests.worlds import a_batch, learner

from downpour.algorithms.dqn import DQN
from downpour.algorithms.q_learning import QLearning, weighted_mean
from downpour.config import ConfigError
from downpour.exploration import Linear
from downpour.networks import MLP, Table


def table_learner(values: list[list[float]], **settings: Any) -> QLearning:
    algorithm = learner(QLearning, Discrete(len(values)), len(values[0]), **settings)
    algorithm.q.weight.data = torch.tensor(values).float()
    return algorithm


def constant(epsilon: float) -> Linear:
    return Linear(start=epsilon, end=epsilon, steps=0)


def test_greedy_is_the_argmax() -> None:
    algorithm = table_learner([[0, 2, 1], [3, -1, 0], [-5, -4, -3]], epsilon=constant(0))
    states = torch.tensor([2, 0, 1, 1])
    action = algorithm.act(states, np.random.default_rng(0), env_steps=0, explore=True)
    assert isinstance(action, np.ndarray)
    assert action.tolist() == [2, 1, 0, 0]


@pytest.mark.parametrize("epsilon", [0.25, 1.0])
def test_epsilon_is_the_chance_of_a_uniform_action(epsilon: float) -> None:
    """The greedy action is among them: it comes with 1 - epsilon + epsilon / K."""
    algorithm = table_learner([[0, 0, 9, 0]], epsilon=constant(epsilon))
    draws = 40_000
    action = algorithm.act(torch.zeros(draws, dtype=torch.long), np.random.default_rng(0), env_steps=0, explore=True)
    expected = np.full(4, epsilon / 4) + np.eye(4)[2] * (1 - epsilon)
    np.testing.assert_allclose(np.bincount(action, minlength=4) / draws, expected, atol=0.01)


def test_environments_of_a_vector_explore_apart() -> None:
    algorithm = table_learner([[0, 0]], epsilon=constant(1))
    rng = np.random.default_rng(0)
    rows = [algorithm.act(torch.zeros(2, dtype=torch.long), rng, env_steps=0, explore=True) for _ in range(200)]
    same = np.mean([one == two for one, two in rows])
    assert 0.35 < same < 0.65


def test_epsilon_follows_the_environment_steps() -> None:
    algorithm = table_learner([[0, 1]], epsilon=Linear(start=1, end=0, steps=100))
    for step, epsilon in ((0, 1.0), (25, 0.75), (100, 0.0), (1000, 0.0)):
        algorithm.act(torch.zeros(1, dtype=torch.long), np.random.default_rng(0), env_steps=step, explore=True)
        assert algorithm.latest["epsilon"] == pytest.approx(epsilon)


def test_every_draw_comes_from_the_given_generator() -> None:
    algorithm = table_learner([[0, 0, 0]], epsilon=constant(1))
    states = torch.zeros(50, dtype=torch.long)
    torch.manual_seed(0)
    one = algorithm.act(states, np.random.default_rng(5), env_steps=0, explore=True)
    torch.manual_seed(1)
    np.random.seed(1)
    two = algorithm.act(states, np.random.default_rng(5), env_steps=0, explore=True)
    assert one.tolist() == two.tolist()


def test_evaluation_has_its_own_epsilon() -> None:
    states = torch.zeros(2000, dtype=torch.long)

    def share(**settings: Any) -> float:
        algorithm = table_learner([[0, 1]], epsilon=constant(1), **settings)
        return float(np.mean(algorithm.act(states, np.random.default_rng(0), env_steps=0, explore=False)))

    assert share() == 1
    assert share(evaluation_epsilon=0.5) == pytest.approx(0.75, abs=0.05)


def test_acting_keeps_no_graph() -> None:
    algorithm = learner(QLearning, Box(-1, 1, (3,)), 2, network=partial(MLP, hidden=[4]))
    with torch.inference_mode(False):
        algorithm.act(torch.zeros(1, 3, requires_grad=True), np.random.default_rng(0), env_steps=0, explore=True)
    assert all(p.grad is None for p in algorithm.parameters())


def test_actions_that_do_not_begin_at_0() -> None:
    """Gymnasium's Discrete(n, start)."""
    algorithm = QLearning(
        observation_space=Discrete(1),
        action_space=Discrete(3, start=5),
        network=Table,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        gamma=0.9,
        epsilon=constant(0),
    )
    algorithm.q.weight.data = torch.tensor([[0.0, 0.0, 1.0]])
    state = torch.tensor([0])
    assert algorithm.act(state, np.random.default_rng(0), env_steps=0, explore=True).tolist() == [7]
    algorithm.epsilon = constant(1)
    many = algorithm.act(state.repeat(100), np.random.default_rng(0), env_steps=0, explore=True)
    assert set(many.tolist()) == {5, 6, 7}
    batch = a_batch(state, state, action=torch.tensor([6]), reward=torch.ones(1), terminated=torch.ones(1).bool())
    gradient = torch.autograd.grad(algorithm.loss(batch)[0], algorithm.q.weight)[0]
    assert gradient.tolist() == [[0, -1, 0]]


@pytest.mark.parametrize("space", [Box(-1, 1, (2,)), MultiDiscrete([2, 3])])
@pytest.mark.parametrize("kind", [QLearning, DQN])
def test_other_actions_are_refused_with_what_would_fit(kind: Any, space: gym.Space) -> None:
    with pytest.raises(ConfigError, match="use algo=") as caught:
        kind(Discrete(2), space, Table, torch.optim.SGD, gamma=0.9, epsilon=constant(0))
    assert str(caught.value).startswith(f"algo={kind.__name__}: ")


def test_td_errors_are_left_in_the_batch() -> None:
    """For prioritized replay, in place: the batch is a view of the round that the stream keeps."""
    algorithm = table_learner([[0, 0], [0, 4]])
    batch = a_batch(
        torch.tensor([0, 1]),
        torch.tensor([1, 0]),
        action=torch.tensor([0, 1]),
        reward=torch.tensor([1.0, 1.0]),
        td_error=torch.zeros(2),
    )
    round = torch.stack([batch, batch.clone()])
    algorithm.loss(round[1])
    assert round["td_error"].tolist() == [[0, 0], [pytest.approx(1 + 0.9 * 4), pytest.approx(1 - 4)]]


@pytest.mark.parametrize("loss", ["squared", "huber"])
def test_importance_weights_multiply_either_loss(loss: str) -> None:
    algorithm = table_learner([[0, 0], [0, 4]], loss=loss)
    state = torch.tensor([0, 1, 1])
    batch = a_batch(state, state, reward=torch.tensor([3.0, 0.2, -1.0]), terminated=torch.ones(3).bool())
    alone = [algorithm.loss(batch[i : i + 1])[0].item() for i in range(3)]
    batch["weight"] = torch.tensor([0.5, 1.0, 0.25])
    expected = (0.5 * alone[0] + alone[1] + 0.25 * alone[2]) / 3
    assert algorithm.loss(batch)[0].item() == pytest.approx(expected)


def test_weight_0_is_no_transition() -> None:
    losses = torch.tensor([1.0, 2.0, 4.0, 100.0])
    assert weighted_mean(losses, None) == losses.mean()
    assert weighted_mean(losses, torch.tensor([1.0, 1.0, 1.0, 0.0])) == losses[:3].mean()
    assert weighted_mean(losses, torch.zeros(4)) == 0


def test_what_follows_is_a_constant() -> None:
    """No gradient flows through Y_t."""
    algorithm = table_learner([[0, 0], [0, 4]])
    batch = a_batch(torch.tensor([0]), torch.tensor([1]))
    gradient = torch.autograd.grad(algorithm.loss(batch)[0], algorithm.q.weight)[0]
    assert gradient[1].tolist() == [0, 0]
    assert gradient[0].tolist() == [pytest.approx(-0.9 * 4), 0]


def test_clipping_says_so_in_the_td_error() -> None:
    algorithm = table_learner([[0, 0], [0, 4]], clip_td_error=1.0)
    batch = a_batch(torch.tensor([0]), torch.tensor([1]), td_error=torch.zeros(1))
    loss, metrics = algorithm.loss(batch)
    assert batch["td_error"].tolist() == [1]
    assert loss.item() == 0.5
    assert set(metrics) == {"q_mean", "td_error"}

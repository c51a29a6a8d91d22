"""(48)-(57): the loss with its expectation inside the square, what one sample makes of it, and which steps descend."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from tensordict import TensorDict
from tests.training import train
from tests.worlds import a_batch, learner
from torch import Tensor

from downpour import dynamic_programming as dp
from downpour.algorithms.q_learning import QLearning
from downpour.environments import Gymnasium
from downpour.environments.tables import table_of
from downpour.networks import GivenFeatures

GAMMA = 0.9


def random_mdp(seed: int, states: int = 5, actions: int = 2) -> dp.MDP:
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states) / 2, size=(states, actions)) * rng.uniform(0.7, 1, (states, actions, 1))
    return dp.MDP(transition, rng.standard_normal((states, actions)))


def every_transition(mdp: dp.MDP) -> tuple[TensorDict, Tensor]:
    """One of each (x, a, x'), ends included, and how likely x' is given (x, a)."""
    states, actions = mdp.reward.shape
    shape = (states, actions, states + 1)
    x, a, y = (torch.from_numpy(index.ravel()) for index in np.indices(shape))
    ends = y == states
    chance = np.concatenate([mdp.transition, 1 - mdp.transition.sum(-1, keepdims=True)], -1)
    reward = torch.from_numpy(mdp.reward.repeat(states + 1)).float()
    batch = a_batch(x, y.clamp(max=states - 1), action=a, reward=reward, terminated=ends)
    return batch, torch.from_numpy(chance.ravel()).float()


def on_features(mdp: dp.MDP, gradient: str, seed: int, features: int = 3) -> Any:
    """Q-learning on random features, fewer than states, at a random theta."""
    generator = torch.Generator().manual_seed(seed)
    states, actions = mdp.reward.shape
    phi = torch.randn(states, features, generator=generator).tolist()
    rule = learner(QLearning, Discrete(states), actions, network=partial(GivenFeatures, phi=phi), gradient=gradient)
    rule.q.linear.weight.data = torch.randn(actions, features, generator=generator)
    return rule


def loss_49(rule: Any, mdp: dp.MDP) -> float:
    q = rule.q(torch.arange(len(mdp.reward))).detach().double().numpy()
    return float(dp.squared_residual(mdp, q, GAMMA).sum())


@pytest.mark.parametrize("seed", range(20))
def test_one_sample_adds_the_variance_of_y(seed: int) -> None:
    """E (50) = (48) + Var(Y | x, a) for every (x, a): the square of one draw is no estimate of the squared mean."""
    mdp = random_mdp(seed)
    rule = on_features(mdp, "residual", seed)
    batch, chance = every_transition(mdp)
    _, _, losses = rule.td_losses(batch, batch["action"])
    sampled = (chance * 2 * losses.detach()).view(*mdp.reward.shape, -1).sum(-1)  # the code halves the square
    q = rule.q(torch.arange(5)).detach().double().numpy()
    best = np.append(q.max(1), 0.0)  # nothing follows an end
    p = chance.view(*mdp.reward.shape, -1).double().numpy()
    variance = GAMMA**2 * ((p * best**2).sum(-1) - (p * best).sum(-1) ** 2)
    np.testing.assert_allclose(sampled, dp.squared_residual(mdp, q, GAMMA) + variance, rtol=1e-4, atol=1e-4)
    assert variance.max() > 0.1


def test_so_the_residual_gradient_does_not_vanish_at_the_solution() -> None:
    """Where transitions are random: there (49) is 0, and the gradient of the expected (50) presses on the variance."""
    mdp = random_mdp(0)
    states, actions = mdp.reward.shape
    for gradient in ("semi", "residual"):
        table = partial(GivenFeatures, phi=np.eye(states).tolist())
        rule = learner(QLearning, Discrete(states), actions, network=table, gradient=gradient)
        rule.q.linear.weight.data = torch.from_numpy(dp.value_iteration(mdp, GAMMA).q.T).float()
        assert loss_49(rule, mdp) < 1e-9
        batch, chance = every_transition(mdp)
        (slope,) = torch.autograd.grad(
            (chance * rule.td_losses(batch, batch["action"])[2]).sum(), [rule.q.linear.weight]
        )
        assert (slope.norm() < 1e-5) == (gradient == "semi")


def two_states(gradient: str, gamma: float) -> Any:
    network = partial(GivenFeatures, phi=[[1.0], [2.0]], initial=1.0)
    return learner(QLearning, Discrete(2), 1, network=network, gradient=gradient, gamma=gamma, lr=0.1)


@pytest.mark.parametrize("gamma", [0.85, 0.9, 0.99])
def test_the_semi_gradient_climbs_where_the_residual_gradient_descends(gamma: float) -> None:
    """Tsitsiklis and Van Roy's two states. By hand, theta = 1: (57) is (6 gamma - 5) / 2, grad L over 2 is
    ((2 gamma - 1)^2 + 4 (gamma - 1)^2) / 2, both positive: along (57) the loss rises."""
    mdp = table_of(Gymnasium(id="downpour/TwoStates-v0"))
    batch = a_batch(torch.tensor([0, 1]), torch.tensor([1, 1]), discount=torch.full((2,), gamma))
    steps, slopes = {}, {}
    for gradient in ("semi", "residual"):
        rule = two_states(gradient, gamma)
        weight = rule.q.linear.weight

        def loss(theta: float) -> float:
            q = np.array([[1.0], [2.0]]) * theta
            return float(dp.squared_residual(mdp, q, gamma).mean()) / 2

        slopes[gradient] = (loss(1 + 1e-6) - loss(1 - 1e-6)) / 2e-6
        steps[gradient] = -float(torch.autograd.grad(rule.loss(batch)[0], [weight])[0])
        before, lengths = loss(1.0), []
        for _ in range(300):
            rule.update(batch)
            lengths.append(loss(float(weight.detach())))
        rises = [after > at for at, after in zip([before, *lengths], lengths, strict=False)]
        assert all(rises) if gradient == "semi" else not any(rises[:50])
        assert lengths[-1] > 3 * before if gradient == "semi" else lengths[-1] < 1e-4 * before
    assert steps["semi"] == pytest.approx((6 * gamma - 5) / 2, abs=1e-6)
    assert slopes["residual"] == pytest.approx(((2 * gamma - 1) ** 2 + 4 * (gamma - 1) ** 2) / 2, rel=1e-5)
    assert -steps["semi"] * slopes["semi"] < 0  # <semi-gradient, grad L>
    assert -steps["residual"] * slopes["residual"] > 0


def test_the_experiment_shows_it(tmp_path: Path) -> None:
    found = {}
    for gradient in ("semi", "residual"):
        options = (f"algo.gradient={gradient}", "total_env_steps=12_800")
        train(tmp_path / gradient, "experiment=residual_gradient", *options)
        rows = csv.DictReader((tmp_path / gradient / "metrics.csv").open())
        found[gradient] = [float(row["exact/squared_residual"]) for row in rows if row["exact/squared_residual"]]
    first = (2 * 0.99 - 1) ** 2 + (2 * 0.99 - 2) ** 2  # (49) at theta = 1
    assert first < 30 * found["semi"][0] and 30 * first < found["semi"][0] < found["semi"][1] / 30
    assert found["residual"][1] < found["residual"][0] / 30 < first / 900

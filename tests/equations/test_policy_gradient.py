"""(30)-(33) over episodes of many steps: REINFORCE's mean gradient against autograd through (I - gamma P)^-1 r."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.worlds import a_run, attach
from torch import Tensor

from downpour import dynamic_programming as dp
from downpour.algorithms.reinforce import Reinforce
from downpour.data import EpisodeData
from downpour.environments import MDPFile
from downpour.networks import Table
from downpour.networks.heads import Categorical

STATES, ACTIONS, EPISODES, GROUPS = 4, 3, 2000, 50
START = np.array([0.5, 0.3, 0.2, 0.0])


def process(seed: int) -> dp.MDP:
    """Each step ends the episode with a probability between 0.1 and 0.4."""
    rng = np.random.default_rng(seed)
    going_on = rng.uniform(0.6, 0.9, (STATES, ACTIONS, 1))
    transition = going_on * rng.dirichlet(np.ones(STATES), (STATES, ACTIONS))
    return dp.MDP(transition, rng.standard_normal((STATES, ACTIONS)))


def gradients(tmp_path: Path, mdp: dp.MDP, theta: Tensor, seed: int, gamma: float, limit: int | None) -> Tensor:
    """Minus the gradient of the loss of each of GROUPS groups of episodes, played and shaped as in a run [groups, ...].

    The mean over the groups is that of all episodes, and its standard error can be seen.
    """
    np.savez(tmp_path / "mdp.npz", transition=mdp.transition, reward=mdp.reward, start=START)
    environment = MDPFile(path=str(tmp_path / "mdp.npz"), max_episode_steps=limit)
    spaces = (environment.observation_space, environment.action_space)
    head = Categorical(spaces[1])
    options: Any = {"baseline": "none", "normalize_returns": False, "gradient_clip": None}  # (30)-(31) to the letter
    rule = Reinforce(spaces[0], Table, lambda p: torch.optim.SGD(p, 1.0), head=head, gamma=gamma, **options)
    weight: Any = rule.policy.weight
    weight.data.copy_(theta)
    data = EpisodeData(environment, a_run(tmp_path, seed=seed), num_envs=EPISODES)
    rows = next(iter(attach(data, rule)))
    found = []
    for part in rows.split(EPISODES // GROUPS, 1):
        (batch,) = rule.learn(part)
        assert batch["ends"].sum() == EPISODES // GROUPS
        found.append(-torch.autograd.grad(rule.loss(batch)[0], [weight])[0])
    return torch.stack(found).double()


def chain(mdp: dp.MDP, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """p(a | x), P and r under it, differentiable in theta."""
    p = theta.softmax(-1)
    transition, reward = torch.from_numpy(mdp.transition), torch.from_numpy(mdp.reward)
    return p, torch.einsum("xa,xay->xy", p, transition), (p * reward).sum(-1)


def to_the_end(mdp: dp.MDP, theta: Tensor, gamma: float) -> Tensor:
    """E sum gamma^t R_t from the start, by a linear solve."""
    _, transition, reward = chain(mdp, theta)
    return torch.from_numpy(START) @ torch.linalg.solve(torch.eye(STATES).double() - gamma * transition, reward)


def to_a_horizon(mdp: dp.MDP, theta: Tensor, steps: int) -> Tensor:
    """E of the sum of the first `steps` rewards, (5), by backward induction."""
    _, transition, reward = chain(mdp, theta)
    v = torch.zeros(STATES).double()
    for _ in range(steps):
        v = reward + transition @ v
    return torch.from_numpy(START) @ v


def as_32_has_it(mdp: dp.MDP, theta: Tensor, gamma: float) -> Tensor:
    """Something whose gradient is E sum_t R~_t grad log p(A_t, X_t), R~ discounted from t on but t itself not.

    sum_x d(x) sum_a grad p(a | x) q(x, a), d the undiscounted mean number of visits.
    """
    p, transition, reward = chain(mdp, theta)
    eye = torch.eye(STATES).double()
    visits = torch.linalg.solve(eye - transition.T, torch.from_numpy(START)).detach()
    v = torch.linalg.solve(eye - gamma * transition, reward).detach()
    q = torch.from_numpy(mdp.reward) + gamma * torch.from_numpy(mdp.transition) @ v
    return visits @ (p * q).sum(-1)


CASES: dict[str, tuple[float, int | None, Any]] = {
    "(30), to the end": (1.0, None, lambda mdp, theta: to_the_end(mdp, theta, 1.0)),
    "(30), horizon of 4": (1.0, 4, lambda mdp, theta: to_a_horizon(mdp, theta, 4)),
    "(32)": (0.7, None, lambda mdp, theta: as_32_has_it(mdp, theta, 0.7)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_mean_gradient_is_the_exact_one(tmp_path: Path, case: str) -> None:
    """Within four standard errors, at 20 random theta, each on a process of its own."""
    gamma, limit, objective = CASES[case]
    seen = beyond_discounted = 0
    for seed in range(20):
        mdp = process(seed)
        theta = torch.randn(STATES, ACTIONS, generator=torch.Generator().manual_seed(seed)).double().requires_grad_()
        each = gradients(tmp_path, mdp, theta.detach(), seed, gamma, limit)
        mean, error = each.mean(0), each.std(0) / GROUPS**0.5
        (exact,) = torch.autograd.grad(objective(mdp, theta), [theta])
        assert ((mean - exact).abs() <= 4 * error + 1e-5).all(), seed
        seen += int((exact.abs() / error).max() > 8)
        (discounted,) = torch.autograd.grad(to_the_end(mdp, theta, gamma), [theta])
        beyond_discounted += int(((mean - discounted).abs() > 4 * error + 1e-5).any())
    assert seen > 15  # there is a gradient to tell from noise
    if gamma < 1:  # and that is not the gradient of the discounted return, as the page says
        assert beyond_discounted > 10

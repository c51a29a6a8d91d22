"""Q-learning's switches: residual gradient (50)-(51), its difference from (53) and (57), and steps of 1 / n(x, a)."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tests.training import algorithm, resumes_exactly, train
from torch import nn

from downpour.algorithms.q_learning import QLearning
from downpour.config import ConfigError
from downpour.exploration import Linear as Schedule
from downpour.networks import Linear, Table


def make(space: Any, network: Any, **options: Any) -> QLearning:
    torch.manual_seed(0)
    epsilon = Schedule(start=0.0, end=0.0, steps=0)
    return QLearning(
        space, spaces.Discrete(2), network, lambda p: torch.optim.SGD(p, 1.0), gamma=0.9, epsilon=epsilon, **options
    )


def batch(observation: torch.Tensor, following: torch.Tensor, terminated: torch.Tensor) -> TensorDict:
    count = len(observation)
    generator = torch.Generator().manual_seed(2)
    return TensorDict(
        {
            "observation": observation,
            "action": torch.randint(2, (count,), generator=generator),
            "reward": torch.randn(count, generator=generator),
            "next_observation": following,
            "terminated": terminated,
            "discount": torch.full((count,), 0.9),
        },
        batch_size=[count],
    )


def test_only_the_residual_gradient_descends_on_the_loss() -> None:
    generator = torch.Generator().manual_seed(1)
    x, following = torch.randn(30, 3, generator=generator), torch.randn(30, 3, generator=generator)
    data = batch(x, following, torch.rand(30, generator=generator) < 0.2)
    space = spaces.Box(-1, 1, (3,))
    slopes = {}
    for gradient in ("semi", "residual"):
        rule = make(space, Linear, gradient=gradient)
        parameters = list(rule.q.parameters())
        gradients = torch.autograd.grad(rule.loss(data)[0], parameters)
        numeric = []
        for parameter in parameters:  # central differences of the loss (49) as a function of all of theta
            flat = parameter.data.view(-1)
            for i in range(len(flat)):
                at = flat[i].item()
                values = []
                for step in (1e-2, -1e-2):
                    flat[i] = at + step
                    values.append(rule.loss(data)[0].item())
                flat[i] = at
                numeric.append((values[0] - values[1]) / 2e-2)
        slopes[gradient] = (torch.cat([g.flatten() for g in gradients]), torch.tensor(numeric))
    torch.testing.assert_close(*slopes["residual"], atol=2e-3, rtol=2e-3)
    assert not torch.allclose(*slopes["semi"], atol=2e-2)


def test_steps_of_one_over_the_visits_average() -> None:
    """Where nothing follows, Q(x, a) becomes the plain mean of the rewards seen at (x, a)."""
    rule = make(spaces.Discrete(3, start=1), Table, step_size="visits")
    optimizer = torch.optim.SGD(rule.parameters(), 1.0)
    state = torch.randint(1, 4, (200,), generator=torch.Generator().manual_seed(0))
    data = batch(state, state, torch.ones(200, dtype=torch.bool))
    for row in data.split(1):
        optimizer.zero_grad()
        rule.loss(row)[0].backward()
        optimizer.step()
    for x in (1, 2, 3):
        for a in (0, 1):
            seen = data["reward"][(state == x) & (data["action"] == a)]
            assert rule.q.weight[x - 1, a].item() == pytest.approx(seen.mean().item(), abs=1e-5)
    assert rule.visits is not None and rule.visits.sum() == 200
    assert isinstance(rule.q, nn.Module)


LAKE = ("env=frozen_lake", "model=table", "optimizer=sgd", "data.num_envs=8", "callbacks=value_distance")


@pytest.mark.slow
def test_a_table_comes_close_to_value_iteration(tmp_path: Path) -> None:
    """(59), logged as it happens, on the slippery lake: V within 0.02, the greedy policy within 1 % of optimal."""
    train(tmp_path / "run", "experiment=tabular_frozen_lake", "total_env_steps=3_000_000")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    distances = [float(row["exact/value_distance"]) for row in rows if row["exact/value_distance"]]
    assert len(distances) == 6 and distances[-1] < 0.02
    last = [row for row in rows if row["exact/policy_value"]][-1]
    assert float(last["exact/policy_value"]) > 0.99 * float(last["exact/start_value"])


@pytest.mark.parametrize("algo", ["q_learning", "double_q_learning"])
def test_it_resumes_exactly(tmp_path: Path, algo: str) -> None:
    resumes_exactly(tmp_path, f"algo={algo}", "algo.step_size=visits", *LAKE)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algo=dqn", "algo.gradient=residual"), r"algo\.target_network=false"),
        (("algo=q_learning", "algo.gradient=residual", "algo.clip_td_error=1"), r"algo\.gradient=semi"),
        (("algo=q_learning", "algo.step_size=visits"), "env=frozen_lake"),
    ],
)
def test_switches_that_exclude_each_other(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm(tmp_path, *overrides)


def test_steps_by_visits_need_plain_steps(tmp_path: Path) -> None:
    """Adam divides by the size of the gradient: what scales it would have no effect."""
    options = ("algo=q_learning", "env=frozen_lake", "model=table", "algo.step_size=visits")
    rule = algorithm(tmp_path, *options, "optimizer=adam")
    with pytest.raises(ConfigError, match="Adam is invariant to the scale of the gradient; use optimizer=sgd"):
        rule.configure_optimizers()
    algorithm(tmp_path, *options, "optimizer=sgd").configure_optimizers()

"""SAC: losses against TorchRL's, the density of what it draws, exact resume."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from tests.algorithms.test_actor_critic import SMALL, Critic, make, theirs, transitions
from tests.training import algorithm, resumes_exactly
from torch import Tensor, nn
from torchrl.modules import TanhNormal, ValueOperator
from torchrl.objectives import SACLoss

from downpour.algorithms.sac import SAC
from downpour.config import ConfigError


class Parameters(nn.Module):
    def __init__(self, actor: nn.Module):
        super().__init__()
        self.actor = actor

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_deviation = self.actor(observation).chunk(2, -1)
        return mean, log_deviation.exp()


def test_the_losses_are_torchrls(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, batch = make(SAC, alpha=0.7), transitions()
    alpha = rule.log_alpha.exp().item()
    keys = {"low": -2.0, "high": 2.0, "tanh_loc": False}
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(Parameters(copy.deepcopy(rule.actor)), in_keys=["observation"], out_keys=["loc", "scale"]),
        ProbabilisticTensorDictModule(
            in_keys=["loc", "scale"], out_keys=["action"], distribution_class=TanhNormal, distribution_kwargs=keys
        ),
    )
    critics = [
        ValueOperator(Critic(copy.deepcopy(c)), in_keys=["observation", "action"], out_keys=["state_action_value"])
        for c in rule.critics
    ]
    target = -2.0 + 2 * math.log(2)  # minus the size in half widths, which are 2: in the actions' own unit
    oracle = SACLoss(actor, critics, alpha_init=alpha, loss_function="l2", target_entropy=target, delay_qvalue=True)
    oracle.make_value_estimator(gamma=0.9)
    for index, target in enumerate(rule.target_critics):
        for name, value in nn.ModuleDict({"module": Critic(target)}).named_parameters():
            oracle.target_qvalue_network_params.get(tuple(name.split("."))).data[index].copy_(value.data)
    drawn = torch.randn(50, 2, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: drawn)
    monkeypatch.setattr("torch.distributions.normal._standard_normal", lambda shape, dtype, device: drawn)
    expected = oracle(theirs(batch))
    assert rule.critic_loss(batch)[0].item() == pytest.approx(expected["loss_qvalue"].item(), rel=1e-6, abs=1e-6)
    loss, metrics = rule.actor_loss(batch)
    assert loss.item() == pytest.approx(expected["loss_actor"].item(), abs=1e-6)
    assert rule.alpha_loss(metrics["entropy"]).item() == pytest.approx(expected["loss_alpha"].item(), abs=1e-6)


def test_the_density_integrates_to_one_and_acting_follows_it() -> None:
    rule: Any = make(SAC)
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    with torch.no_grad():
        action, log_prob = rule.draw(x.repeat(40_000, 1))
    # E[1 / p] over the box is its area, 16.
    inverse = (-log_prob).exp().numpy()
    assert inverse.mean() == pytest.approx(16, abs=float(4 * inverse.std() / 200))
    acted = rule.act(x.repeat(40_000, 1), np.random.default_rng(0), env_steps=10**6, explore=True)
    np.testing.assert_allclose(acted.mean(0), action.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(acted.T), np.cov(action.T), atol=0.05)
    quiet = rule.act(x, np.random.default_rng(0), env_steps=0, explore=False)
    np.testing.assert_allclose(quiet, 2 * rule.actor(x).detach()[:, :2].tanh(), rtol=1e-6)


def test_it_resumes_exactly(tmp_path: Path) -> None:
    resumes_exactly(tmp_path, "algo=sac", "algo.random_steps=150", *SMALL)


@pytest.mark.parametrize("target", [None, -0.5])
def test_alpha_rises_below_the_target_and_falls_above(target: float | None) -> None:
    rule = make(SAC, target_entropy=target)
    wanted = (-2.0 if target is None else target) + 2 * math.log(2)
    for entropy, sign in ((wanted - 1, -1.0), (wanted + 1, 1.0)):
        (slope,) = torch.autograd.grad(rule.alpha_loss(torch.full((5,), entropy)), [rule.log_alpha])
        assert slope.item() == pytest.approx(sign, abs=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("algo/noise=gaussian",), "SAC already samples its actions; use algo/noise=null"),
        (("algo.target_entropy=-2", "algo.learn_alpha=false"), r"needs algo\.learn_alpha=true"),
    ],
)
def test_what_it_would_ignore_is_refused(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm(tmp_path, "algo=sac", "env=pendulum", *overrides)

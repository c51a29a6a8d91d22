"""Actor-critic and TD3: losses against TorchRL's, the noise, exact resume."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from tests.training import algorithm, resumes_exactly
from torch import Tensor, nn
from torchrl.modules import ValueOperator
from torchrl.objectives import DDPGLoss, TD3Loss

from downpour.algorithms.actor_critic import ActorCritic
from downpour.algorithms.noise import GaussianNoise, OrnsteinUhlenbeckNoise
from downpour.algorithms.td3 import TD3
from downpour.config import ConfigError
from downpour.networks import MLP

OBSERVATIONS, ACTIONS = spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-2.0, 2.0, (2,))


def make(kind: type[ActorCritic], **options: Any) -> Any:
    torch.manual_seed(0)
    network = lambda space, outputs: MLP(space, outputs, hidden=[16], activation="tanh")  # noqa: E731
    options = {"gamma": 0.9, "random_steps": 0, "target_every": 1, "policy_delay": 1, **options}
    rule = kind(OBSERVATIONS, ACTIONS, network, lambda p: torch.optim.Adam(p, 1e-3), **options)
    for parameter in rule.parameters():  # target networks unlike those being learned
        parameter.data += 0.1 * torch.randn_like(parameter)
    return rule


def transitions(count: int = 50) -> TensorDict:
    generator = torch.Generator().manual_seed(1)
    return TensorDict(
        {
            "observation": torch.randn(count, 3, generator=generator),
            "action": torch.rand(count, 2, generator=generator) * 4 - 2,
            "reward": torch.randn(count, generator=generator),
            "next_observation": torch.randn(count, 3, generator=generator),
            "terminated": torch.rand(count, generator=generator) < 0.3,
            "discount": torch.full((count,), 0.9),
            "weight": torch.ones(count),
        },
        batch_size=[count],
    )


def theirs(batch: TensorDict) -> TensorDict:
    """The same transitions as TorchRL names them."""
    done = batch["terminated"][:, None]
    following = {"observation": batch["next_observation"], "reward": batch["reward"][:, None]}
    following |= {"done": done, "terminated": done}
    return TensorDict(
        {"observation": batch["observation"], "action": batch["action"], "next": TensorDict(following, batch.shape)},
        batch.shape,
    )


class Actor(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor) -> Tensor:
        return 2 * self.network(observation).tanh()


class Critic(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        return self.network(torch.cat([observation, action], -1))


def set_targets(parameters: Any, module: nn.Module) -> None:
    for name, value in module.named_parameters():
        parameters.get(tuple(name.split("."))).data.copy_(value.data)


def test_ddpg_losses_are_torchrls() -> None:
    rule, batch = make(ActorCritic), transitions()
    actor = TensorDictModule(Actor(copy.deepcopy(rule.actor)), in_keys=["observation"], out_keys=["action"])
    critic = ValueOperator(Critic(copy.deepcopy(rule.critics[0])), in_keys=["observation", "action"])
    oracle = DDPGLoss(actor, critic, loss_function="l2", delay_actor=True, delay_value=True)
    oracle.make_value_estimator(gamma=0.9)
    set_targets(oracle.target_actor_network_params, nn.ModuleDict({"module": Actor(rule.target_actor)}))
    set_targets(oracle.target_value_network_params, nn.ModuleDict({"module": Critic(rule.target_critics[0])}))
    expected = oracle(theirs(batch))
    assert rule.critic_loss(batch)[0].item() == pytest.approx(expected["loss_value"].item(), abs=1e-6)
    assert rule.actor_loss(batch)[0].item() == pytest.approx(expected["loss_actor"].item(), abs=1e-6)


def test_td3_losses_are_torchrls(monkeypatch: pytest.MonkeyPatch) -> None:
    rule, batch = make(TD3, target_noise=0.3, target_noise_clip=0.4), transitions()
    rule.scale, rule.centre = torch.ones(2) * 2, torch.zeros(2)
    actor = TensorDictModule(Actor(copy.deepcopy(rule.actor)), in_keys=["observation"], out_keys=["action"])
    critics = [
        ValueOperator(Critic(copy.deepcopy(c)), in_keys=["observation", "action"], out_keys=["state_action_value"])
        for c in rule.critics
    ]
    # Theirs clips the noise in the unit of the action; ours in half widths, which are 2 here.
    noise, clip = 2 * 0.3, 2 * 0.4
    oracle = TD3Loss(actor, critics, bounds=(-2.0, 2.0), policy_noise=noise, noise_clip=clip, loss_function="l2")
    oracle.make_value_estimator(gamma=0.9)
    set_targets(oracle.target_actor_network_params, nn.ModuleDict({"module": Actor(rule.target_actor)}))
    for index, target in enumerate(rule.target_critics):
        stacked = oracle.target_qvalue_network_params
        for name, value in nn.ModuleDict({"module": Critic(target)}).named_parameters():
            stacked.get(tuple(name.split("."))).data[index].copy_(value.data)
    drawn = torch.randn(50, 2, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(torch, "randn_like", lambda x, **_: drawn)
    monkeypatch.setattr(torch, "normal", lambda mean, std, **_: mean + std * drawn)
    expected = oracle(theirs(batch))
    assert rule.critic_loss(batch)[0].item() == pytest.approx(expected["loss_qvalue"].item(), abs=1e-6)
    assert rule.actor_loss(batch)[0].item() == pytest.approx(expected["loss_actor"].item(), abs=1e-6)


def test_the_gradients_reach_the_right_network_only() -> None:
    """(62) moves the critic with Y_t constant; (63) the actor with the critic constant."""
    rule, batch = make(ActorCritic, target_network=False), transitions()
    rule.critic_loss(batch)[0].backward()
    assert all(p.grad is None for p in rule.actor.parameters())
    assert all(p.grad is not None for p in rule.critics.parameters())
    rule.zero_grad(set_to_none=True)
    rule.actor_loss(batch)[0].backward()
    assert all(p.grad is not None for p in rule.actor.parameters())
    assert all(p.grad is None for p in rule.critics.parameters())


def test_looking_at_a_critic_leaves_it_as_it_was() -> None:
    """Weights that learn go on learning, frozen ones stay frozen; the actor of TD3 asks one critic only."""
    rule, batch = make(TD3), transitions()
    frozen = next(rule.critics[0].parameters()).requires_grad_(False)
    for p in rule.critics[1].parameters():
        p.data.fill_(torch.nan)
    loss, _ = rule.actor_loss(batch)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in rule.actor.parameters())
    assert all(p.requires_grad == (p is not frozen) for p in rule.critics.parameters())
    assert all(p.grad is None for p in rule.critics.parameters())


def test_the_actors_gradient_by_finite_differences() -> None:
    """(63): along a random direction of theta^A, in float64."""
    rule, batch = make(ActorCritic).double(), transitions().double()
    batch["weight"] = batch["weight"].double()
    torch.set_default_dtype(torch.float64)
    try:
        direction = [torch.randn_like(p) for p in rule.actor.parameters()]
        gradient = torch.autograd.grad(rule.actor_loss(batch)[0], list(rule.actor.parameters()))
        slope = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True))
        values = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                for p, d in zip(rule.actor.parameters(), direction, strict=True):
                    p += step * d
            observation = batch["observation"]
            values.append(-rule.q(rule.critics, observation, rule.deterministic(rule.actor, observation))[0].mean())
    finally:
        torch.set_default_dtype(torch.float32)
    assert ((values[0] - values[1]) / 2e-5).item() == pytest.approx(slope.item(), rel=1e-5)


def test_exploration_stays_within_the_bounds() -> None:
    rule, rng = make(ActorCritic, noise=GaussianNoise(sigma=5.0), random_steps=10), np.random.default_rng(0)
    x = torch.randn(1000, 3)
    quiet = rule.act(x, rng, env_steps=100, explore=False)
    np.testing.assert_allclose(quiet, rule.deterministic(rule.actor, x).detach(), rtol=1e-6)
    noisy = rule.act(x, rng, env_steps=100, explore=True)
    assert np.abs(noisy).max() == 2.0 and (noisy == 2.0).mean() > 0.2
    uniform = rule.act(x, rng, env_steps=0, explore=True)
    assert np.abs(uniform).max() < 2.0 and uniform.std() == pytest.approx(4 / 12**0.5, rel=0.05)


def test_the_ornstein_uhlenbeck_path() -> None:
    """It settles at variance sigma^2 dt / (1 - (1 - theta dt)^2), with correlation 1 - theta dt from step to step."""
    noise, rng = OrnsteinUhlenbeckNoise(sigma=0.3, theta=0.2, dt=0.5), np.random.default_rng(0)
    path = np.array([noise.draw((500, 1), rng).copy() for _ in range(400)])[100:, :, 0]
    assert path.var() == pytest.approx(0.3**2 * 0.5 / (1 - 0.9**2), rel=0.05)
    assert np.corrcoef(path[:-1].ravel(), path[1:].ravel())[0, 1] == pytest.approx(0.9, abs=0.01)
    other = OrnsteinUhlenbeckNoise(sigma=0.3, theta=0.2, dt=0.5)
    other.restore(noise.capture())
    state = rng.bit_generator.state
    expected = noise.draw((500, 1), rng)
    rng.bit_generator.state = state
    np.testing.assert_array_equal(other.draw((500, 1), rng), expected)


SMALL = ("env=pendulum", "data.learning_starts=100", "data.batch_size=32", "data.updates=4", "model.hidden=[16]")
NOISE = ("algo/noise=ornstein_uhlenbeck", "algo.random_steps=150")


@pytest.mark.parametrize("rule", ["algo=actor_critic", "algo=td3"])
def test_it_resumes_exactly(tmp_path: Path, rule: str) -> None:
    resumes_exactly(tmp_path, rule, *NOISE, *SMALL)


def test_discrete_actions_are_answered_with_rules_for_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use algo=double_dqn or ppo"):
        algorithm(tmp_path, "algo=td3", "env=cartpole")

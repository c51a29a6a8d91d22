"""Actor-critic for continuous actions: (61)-(63) of the lecture; with target networks, DDPG (Lillicrap et al. 2016)."""

import copy
from collections.abc import Hashable
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from lightning.pytorch.strategies import DDPStrategy
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import Optimizer

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.algorithms.dqn import move_towards
from downpour.algorithms.noise import GaussianNoise
from downpour.algorithms.q_learning import td_target, weighted_mean
from downpour.config import ConfigError, Discount, Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from downpour.networks.features import Features


class ActorCritic(Algorithm):
    """The critic Q(x, a) learns by (62), the actor p(x) ascends on it by (63): no maximum over actions is computed."""

    learns_from: ClassVar[tuple[str, ...]] = ("replay",)
    static_shapes: ClassVar[bool] = True
    fills_in: ClassVar[tuple[str, ...]] = ("td_error",)
    num_critics: ClassVar[int] = 1
    outputs_per_action: ClassVar[int] = 1
    centre: Tensor
    scale: Tensor
    actor: nn.Module
    target_actor: nn.Module
    critics: nn.ModuleList
    target_critics: nn.ModuleList

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        *,
        gamma: Discount,
        noise: GaussianNoise | None = None,
        random_steps: NonNegativeInt = 1_000,
        target_network: bool = True,
        target_every: PositiveInt,
        target_tau: Fraction = 0.005,
        policy_delay: PositiveInt,
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            gamma: discount.
            noise: added to the actor's actions while exploring.
            random_steps: environment steps of uniform actions at the start.
            target_network: False bootstraps from the networks being learned, as (62) has it.
            target_every: critic steps between updates of the target networks.
            target_tau: they move this part of the way (1: a copy).
            policy_delay: critic steps for each step of the actor.

        Raises:
            ConfigError: the actions are not a bounded continuous vector.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        name = type(self).__name__
        if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
            advice = f"needs continuous actions, not {action_space}; use algo=double_dqn or ppo"
            raise ConfigError("algo", name, advice)
        if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
            raise ConfigError("algo", name, f"needs bounded actions, not {action_space}; use algo=ppo")
        self.gamma, self.noise, self.random_steps, self.policy_delay = gamma, noise, random_steps, policy_delay
        self.target_every, self.target_tau = target_every, target_tau
        self.size = action_space.shape[0]
        self.low, self.high = action_space.low, action_space.high
        self.register_buffer("centre", torch.as_tensor((self.high + self.low) / 2))
        self.register_buffer("scale", torch.as_tensor((self.high - self.low) / 2))
        self.features = Features(observation_space)
        pair = spaces.Box(-np.inf, np.inf, (self.features.size + self.size,))
        self.actor = network(observation_space, self.size * self.outputs_per_action)
        self.critics = nn.ModuleList(network(pair, 1) for _ in range(self.num_critics))
        self.target_actor, self.target_critics = self.actor, self.critics
        if target_network:
            self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
            self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)

    def configure_optimizers(self) -> list[Optimizer]:  # type: ignore[override]
        return [self.optimizer_factory(self.critics.parameters()), self.optimizer_factory(self.actor.parameters())]

    def setup(self, stage: str) -> None:
        if isinstance(self.trainer.strategy, DDPStrategy):  # each backward pass reaches only one of the networks
            self.trainer.strategy._ddp_kwargs["find_unused_parameters"] = True

    def deterministic(self, actor: nn.Module, observation: Tensor) -> Tensor:
        """p(x; theta^A), within the bounds: [batch, ...] -> [batch, size]."""
        return self.centre + self.scale * actor(observation).tanh()

    def q(self, critics: nn.ModuleList, observation: Tensor, action: Tensor) -> Tensor:
        """Q(x, a) by each critic: [critics, batch]."""
        pair = torch.cat([self.features(observation), action], -1)
        return torch.stack([critic(pair).squeeze(-1) for critic in critics])

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        shape = (len(observation), self.size)
        if explore and env_steps < self.random_steps:
            return rng.uniform(self.low, self.high, shape).astype(np.float32)
        action = self.deterministic(self.actor, observation).cpu().numpy()
        if explore and self.noise is not None:
            action = action + self.scale.cpu().numpy() * self.noise.draw(shape, rng)
        return np.clip(action, self.low, self.high)

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x) = Q(x, p(x)), by the critic that the actor ascends on: [batch, ...] -> [batch]."""
        return self.q(self.critics[:1], observation, self.deterministic(self.actor, observation))[0]

    def bootstrap(self, observation: Tensor) -> Tensor:
        """Q(x, p(x)) of the target networks, the minimum over critics: [batch, ...] -> [batch]."""
        action = self.deterministic(self.target_actor, observation)
        return self.q(self.target_critics, observation, action).amin(0)

    def critic_loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """J(theta^Q) of (62), summed over the critics."""
        with torch.no_grad():  # Y_t is treated as a constant
            following = self.bootstrap(batch["next_observation"])
            target = td_target(batch["reward"], batch["discount"], batch["terminated"], following)
        value = self.q(self.critics, batch["observation"], batch["action"])
        td_error = target - value
        if "td_error" in batch:  # prioritized replay reads it back
            batch["td_error"].copy_(td_error.detach().abs().mean(0))
        loss = weighted_mean(td_error.square().sum(0), batch.get("weight"))
        return loss, {"q_mean": value.detach(), "td_error": td_error.detach()}

    def actor_loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus G(theta^A) of (63); the critic gets no gradient."""
        observation = batch["observation"]
        action = self.deterministic(self.actor, observation)
        value = self.frozen_q(self.critics[:1], observation, action)[0]
        loss = -weighted_mean(value, batch.get("weight"))
        return loss, {"actor_loss": loss.detach()}

    def frozen_q(self, critics: nn.ModuleList, observation: Tensor, action: Tensor) -> Tensor:
        """`q` of critics being learned, whose weights take no gradient here: [critics, batch]."""
        learning = [p for p in critics.parameters() if p.requires_grad]
        for p in learning:
            p.requires_grad_(False)
        value = self.q(critics, observation, action)
        for p in learning:
            p.requires_grad_(True)
        return value

    def variant(self) -> Hashable:
        """Whether this step also updates the actor."""
        return (self.gradient_steps + 1) % self.policy_delay == 0

    def learn_from(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        loss, found = self.critic_loss(batch)
        critic_optimizer, actor_optimizer = self.optimizers()[:2]
        metrics = {**self.backward_and_step(loss, critic_optimizer), **found}
        if self.variant():
            actor_loss, found = self.actor_loss(batch)
            metrics |= {**self.backward_and_step(actor_loss, actor_optimizer), **found}
        return loss.detach(), metrics

    def advance(self) -> None:
        super().advance()
        if self.target_critics is not self.critics and self.gradient_steps % self.target_every == 0:
            move_towards(self.target_critics, self.critics, self.target_tau)
            if self.target_actor is not self.actor:
                move_towards(self.target_actor, self.actor, self.target_tau)

    def capture(self) -> dict[str, Any]:
        return {} if self.noise is None else self.noise.capture()

    def restore(self, state: dict[str, Any]) -> None:
        if self.noise is not None:
            self.noise.restore(state)

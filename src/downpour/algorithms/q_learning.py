"""Q-learning with function approximation: (50)-(55) of the lecture; on a table, (58)."""

from typing import ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.config import ConfigError, Fraction, PositiveFloat, Probability
from downpour.schedules import Linear


def td_target(reward: Tensor, discount: Tensor, terminated: Tensor, bootstrap: Tensor) -> Tensor:
    """Y_t = R_t + gamma max_a' Q(X_t+1, a'), (54); nothing follows a terminal state. All arguments [batch]."""
    return reward + discount * ~terminated * bootstrap


def squared(td_error: Tensor) -> Tensor:
    """(52), halved: its gradient is then the step (55) itself. [batch] -> [batch]."""
    return 0.5 * td_error.square()


def huber(td_error: Tensor) -> Tensor:
    """Squared within +-1, linear outside. [batch] -> [batch]."""
    return nn.functional.huber_loss(td_error, torch.zeros_like(td_error), reduction="none")


def weighted_mean(losses: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over the transitions of a batch [batch]; one of weight 0 is none."""
    if weight is None:
        return losses.mean()
    return (weight * losses).sum() / weight.count_nonzero().clamp(min=1)


LOSSES = {"squared": squared, "huber": huber}


class QLearning(Algorithm):
    """Act epsilon-greedily on Q(x, a; theta), move Q(X_t, A_t) towards Y_t."""

    learns_from: ClassVar[tuple[str, ...]] = ("replay",)

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        *,
        gamma: Fraction,
        epsilon: Linear,
        evaluation_epsilon: Probability = 0.0,
        loss: Literal["squared", "huber"] = "squared",
        clip_td_error: PositiveFloat | None = None,
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            gamma: discount.
            epsilon: chance of a uniform action, by environment step.
            evaluation_epsilon: the same when exploration is off.
            loss: of the TD error.
            clip_td_error: TD errors beyond this count as this (Mnih et al. 2015, Methods: 1).

        Raises:
            ConfigError: the actions are not discrete.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        if not isinstance(action_space, spaces.Discrete):
            advice = f"chooses among discrete actions, this environment's are {action_space}; use algo=actor_critic"
            raise ConfigError("algo", type(self).__name__, advice)
        self.gamma, self.epsilon, self.evaluation_epsilon = gamma, epsilon, evaluation_epsilon
        self.clip_td_error, self.loss_function = clip_td_error, LOSSES[loss]
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.q = network(observation_space, self.num_actions)

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        action = self.q(observation).argmax(-1).cpu().numpy()
        epsilon = self.epsilon(env_steps) if explore else self.evaluation_epsilon
        if epsilon > 0:
            uniform = rng.integers(self.num_actions, size=len(action))
            action = np.where(rng.random(len(action)) < epsilon, uniform, action)
        self.latest["epsilon"] = epsilon
        return action + self.first_action

    def bootstrap(self, observation: Tensor) -> Tensor:
        """max_a Q(x, a; theta): [batch, ...] -> [batch]."""
        return self.q(observation).amax(-1)

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        action = (batch["action"] - self.first_action).unsqueeze(-1)
        value = self.q(batch["observation"]).gather(-1, action).squeeze(-1)
        with torch.no_grad():  # Y_t is treated as a constant
            following = self.bootstrap(batch["next_observation"])
            target = td_target(batch["reward"], batch["discount"], batch["terminated"], following)
            if self.clip_td_error is not None:
                target = value + (target - value).clamp(-self.clip_td_error, self.clip_td_error)
        td_error = target - value
        if "td_error" in batch:  # prioritized replay reads it back
            batch["td_error"].copy_(td_error.detach())
        loss = weighted_mean(self.loss_function(td_error), batch.get("weight"))
        return loss, {"q_mean": value.detach(), "td_error": td_error.detach()}

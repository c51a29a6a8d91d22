"""Value prediction under a fixed policy: (60), with TD(0), TD(lambda), n-step and Monte Carlo targets."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.algorithms.fixed_policy import RunPolicy, fixed_policy
from downpour.algorithms.q_learning import squared, weighted_mean
from downpour.algorithms.returns import generalized_advantage, n_step_returns
from downpour.config import ConfigError, Discount, PositiveFloat, PositiveInt, Probability


class TDPrediction(Algorithm):
    """Learns V(x) of a fixed policy p(a | x)."""

    learns_from: ClassVar[tuple[str, ...]] = ("rollout", "episodes")

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        run_policy: RunPolicy | None = None,
        *,
        gamma: Discount,
        policy: str | list[float] = "uniform",
        trace_decay: Probability = 0.0,
        n_step: PositiveInt | None = None,
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            gamma: discount.
            policy: whose value it is; see `fixed_policy`.
            trace_decay: lambda: 0 is TD(0), (60); 1 sums rewards to the end (data=episodes: Monte Carlo).
            n_step: sum this many rewards, then bootstrap, instead of the lambda-return.

        Raises:
            ConfigError: no such policy, or it does not fit; or both a trace and a number of steps are given.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        if n_step is not None and trace_decay > 0:
            raise ConfigError("algo.n_step", n_step, "needs algo.trace_decay=0")
        self.gamma, self.trace_decay, self.n_step = gamma, trace_decay, n_step
        self.is_td0 = trace_decay == 0 and n_step in (None, 1)
        self.value = network(observation_space, 1)
        self.policy = fixed_policy(policy, observation_space, action_space, run_policy)

    def action_probabilities(self, observation: Tensor) -> np.ndarray:
        return self.policy.probabilities(observation)

    def valued_policy(self, observation: Tensor) -> np.ndarray:
        return self.policy.probabilities(observation)

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        return self.policy.act(observation, rng)

    def state_values(self, observation: Tensor) -> Tensor:
        """Q(x; theta) of (60): [batch, ...] -> [batch]."""
        return self.value(observation).squeeze(-1)

    @torch.no_grad()
    def batches(self, round: TensorDict) -> list[TensorDict]:
        """One batch of all transitions, with `target` Y_t, a constant as in (60)."""
        before, after = round[:-1], round[1:]
        value = self.state_values(round["observation"].flatten(0, 1)).view(round.shape)
        terminated, ended = after["terminated"], after["terminated"] | after["truncated"]
        if self.n_step is not None:
            target = n_step_returns(after["reward"], value, terminated, ended, self.gamma, self.n_step)
        else:
            advantage = generalized_advantage(after["reward"], value, terminated, ended, self.gamma, self.trace_decay)
            target = advantage + value[:-1]
        steps: dict[str, Any] = {"observation": before["observation"], "target": target, "weight": after["weight"]}
        return [TensorDict(steps, batch_size=after.shape).flatten()]

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        td_error = batch["target"] - self.state_values(batch["observation"])
        loss = weighted_mean(squared(td_error), batch["weight"])
        return loss, {"td_error": td_error.detach(), "value_mean": batch["target"] - td_error.detach()}

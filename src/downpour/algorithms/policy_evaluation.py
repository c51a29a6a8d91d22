"""Policy evaluation: V(x) and V(x, a) of a fixed policy, by one linear solve."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from downpour import dynamic_programming as dp
from downpour.algorithms.base import OptimizerFactory
from downpour.algorithms.fixed_policy import RunPolicy, fixed_policy
from downpour.algorithms.value_iteration import DynamicProgramming


class PolicyEvaluation(DynamicProgramming):
    """Solves (I - gamma P) V = r for a policy p(a | x); q is its action value."""

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        optimizer: OptimizerFactory,
        run_policy: RunPolicy | None = None,
        *,
        policy: str | list[float] = "uniform",
        **kwargs: Any,
    ):
        """
        Args:
            policy: see `fixed_policy`.

        Raises:
            ConfigError: no such policy, or it does not fit.
        """
        super().__init__(observation_space, action_space, optimizer, **kwargs)
        self.policy = fixed_policy(policy, observation_space, action_space, run_policy)

    def action_probabilities(self, observation: Tensor) -> np.ndarray:
        return self.policy.probabilities(observation)

    def valued_policy(self, observation: Tensor) -> np.ndarray:
        return self.policy.probabilities(observation)

    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        return self.policy.act(observation, rng)

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x) = sum_a p(a | x) V(x, a): [batch] -> [batch]."""
        p = torch.from_numpy(self.policy.probabilities(observation)).to(self.q)
        return (p * self.q[observation.long()]).sum(-1)

    def state_to_go(self, mdp: dp.MDP) -> dp.Floats:
        return dp.policy_evaluation(mdp, self.policy.probabilities(torch.arange(len(self.q))), self.gamma)

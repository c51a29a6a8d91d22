"""Value iteration: (39) applied as an update until the HJB equation (40) holds."""

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor

from downpour import dynamic_programming as dp
from downpour.algorithms.base import Algorithm, OptimizerFactory
from downpour.config import ConfigError, NonNegativeFloat, PositiveInt, Probability


class DynamicProgramming(Algorithm):
    """What algorithms share that know the model and need neither experience nor gradients nor a network.

    Attributes:
        q: V(x, a) of (34), [states, actions], float64.
    """

    learns_from: ClassVar[tuple[str, ...]] = ("model",)
    q: Tensor

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        optimizer: OptimizerFactory,
        *,
        gamma: Probability,
        tolerance: NonNegativeFloat = 1e-12,
    ):
        """
        Args:
            gamma: discount.
            tolerance: the run ends at the first evaluation after a sweep that changed no entry by more than this.

        Raises:
            ConfigError: states or actions are not discrete.
        """
        super().__init__(optimizer)
        if not (isinstance(observation_space, spaces.Discrete) and isinstance(action_space, spaces.Discrete)):
            advice = "needs discrete states and actions; use env=frozen_lake, cliff_walking, taxi, random_walk or mdp"
            raise ConfigError("algo", type(self).__name__, advice)
        self.gamma, self.tolerance = gamma, tolerance
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.register_buffer("q", torch.zeros(int(observation_space.n), self.num_actions, dtype=torch.float64))

    def configure_optimizers(self) -> None:  # type: ignore[override]
        """There is nothing to optimize."""

    def setup(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            raise ConfigError("trainer", f"{self.trainer.world_size} processes", "dynamic programming needs one")

    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        return self.q[observation.long()].argmax(-1).cpu().numpy() + self.first_action

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x), (36): [batch] -> [batch]."""
        return self.q[observation.long()].amax(-1)

    @torch.no_grad()
    def update(self, batch: TensorDict) -> Tensor:
        mdp = dp.MDP(batch["transition"].cpu().numpy(), batch["reward"].cpu().numpy())
        try:
            following = dp.action_values(mdp, self.state_to_go(mdp), self.gamma)
        except np.linalg.LinAlgError as error:
            raise ConfigError("algo.gamma", self.gamma, f"{error}; use one below 1 or algo=value_iteration") from None
        new = torch.from_numpy(following).to(self.q.device)
        residual = (new - self.q).abs().max()
        self.q.copy_(new)
        self.gradient_steps += 1
        self.latest |= {"bellman_residual": residual, "value_mean": self.q.amax(-1).mean()}
        return residual

    def state_to_go(self, mdp: dp.MDP) -> dp.Floats:
        """The value of the next state in (39), [states]."""
        raise NotImplementedError

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if float(self.latest["bellman_residual"]) <= self.tolerance:
            self.trainer.should_stop = True


class ValueIteration(DynamicProgramming):
    """Takes max_a V(x, a) as the value of the next state; from V = 0, n sweeps look n steps ahead."""

    plan: Tensor

    def __init__(self, *args: Any, horizon: PositiveInt | None = None, **kwargs: Any):
        """
        Args:
            horizon: number of sweeps, T + 1 of (5): the result is optimal over that many steps; null: infinite
                horizon.
        """
        super().__init__(*args, **kwargs)
        self.horizon = horizon
        self.register_buffer("plan", torch.zeros(horizon or 0, len(self.q), dtype=torch.long))

    def state_to_go(self, mdp: dp.MDP) -> dp.Floats:
        return self.q.amax(-1).cpu().numpy()

    def updates(self, round: TensorDict) -> Tensor:
        if self.horizon is None:
            return super().updates(round)
        if self.gradient_steps == self.horizon:  # nothing is left to look ahead to
            return torch.empty(0)
        loss = super().updates(round)
        self.plan[self.gradient_steps - 1] = self.q.argmax(-1)
        return loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.gradient_steps == self.horizon:
            self.trainer.should_stop = True

"""Q-learning with function approximation: (50)-(55) of the lecture; on a table, (58)."""

from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.algorithms.distributions import DistributionalQ, ReturnDistribution
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
    visits: Tensor | None

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
        distribution: ReturnDistribution | None = None,
        clip_td_error: PositiveFloat | None = None,
        gradient: Literal["semi", "residual"] = "semi",
        step_size: Literal["constant", "visits"] = "constant",
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            gamma: discount.
            epsilon: chance of a uniform action, by environment step.
            evaluation_epsilon: the same when exploration is off.
            loss: of the TD error.
            distribution: learn that of the return, with a loss of its own; None learns the mean.
            clip_td_error: TD errors beyond this count as this (Mnih et al. 2015, Methods: 1).
            gradient: `semi` treats Y_t as a constant, (53); `residual` descends on (50) itself, (51), Y_t included
                (Baird 1995).
            step_size: `visits` multiplies the optimizer's step by 1 / n(x, a), n the visits to this pair so far.

        Raises:
            ConfigError: the actions are not discrete, or switches that exclude each other.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        if not isinstance(action_space, spaces.Discrete):
            advice = f"chooses among discrete actions, this environment's are {action_space}"
            raise ConfigError("algo", type(self).__name__, f"{advice}; use algo=actor_critic, td3, sac or ppo")
        self.gamma, self.epsilon, self.evaluation_epsilon = gamma, epsilon, evaluation_epsilon
        self.clip_td_error, self.loss_function = clip_td_error, LOSSES[loss]
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.distribution = distribution
        if distribution is None:
            self.q = network(observation_space, self.num_actions)
        else:
            self._check_distribution(gradient, clip_td_error)
            outputs = self.num_actions * distribution.atoms
            q = network(observation_space, outputs, atoms=distribution.atoms)
            self.q = DistributionalQ(q, self.num_actions, distribution)
        if gradient == "residual" and clip_td_error is not None:
            raise ConfigError("algo.clip_td_error", clip_td_error, "needs algo.gradient=semi; use null")
        self.gradient = gradient
        visits = None
        if step_size == "visits":
            if not isinstance(observation_space, spaces.Discrete):
                advice = f"counts states, and observations are {observation_space}; use constant, or env=frozen_lake"
                raise ConfigError("algo.step_size", step_size, advice)
            self.first_state = int(observation_space.start)
            visits = torch.zeros(int(observation_space.n), self.num_actions)
        self.register_buffer("visits", visits)

    def _check_distribution(self, gradient: str, clip_td_error: float | None) -> None:
        """
        Raises:
            ConfigError: for what exists for the mean only.
        """
        own = type(self)
        if own.bootstrap is not QLearning.bootstrap and own.choose is QLearning.choose:
            raise ConfigError("algo/distribution", own.__name__, "bootstraps from no single action; use dqn")
        if gradient == "residual" or clip_td_error is not None:
            raise ConfigError(message="algo.distribution: needs algo.gradient=semi algo.clip_td_error=null")

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        action = self.q(observation).argmax(-1).cpu().numpy()
        epsilon = self.epsilon(env_steps) if explore else self.evaluation_epsilon
        if epsilon > 0:
            uniform = rng.integers(self.num_actions, size=len(action))
            action = np.where(rng.random(len(action)) < epsilon, uniform, action)
        self.latest["epsilon"] = epsilon
        return action + self.first_action

    def bootstrap(self, batch: TensorDict) -> Tensor:
        """max_a' Q(X_t+1, a') of each transition: [batch]."""
        return self.older_values(batch).amax(-1)

    def older_values(self, batch: TensorDict) -> Tensor:
        """Q(X_t+1, .) of each transition: [batch, actions]; where distributions are learned, their atoms in a third."""
        return self.outputs(self.q, batch["next_observation"])

    def choose(self, batch: TensorDict, values: Tensor) -> Tensor:
        """The action that is taken to follow each transition, of values [batch, actions]: [batch]."""
        return values.argmax(-1)

    def outputs(self, q: Any, observation: Tensor) -> Tensor:
        """[batch, ...] -> [batch, actions] or [batch, actions, atoms]."""
        return q(observation) if self.distribution is None else q.atoms(observation)

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x) = max_a Q(x, a; theta), (36): [batch, ...] -> [batch]."""
        return self.q(observation).amax(-1)

    @torch.no_grad()
    def visited(self, batch: TensorDict, action: Tensor) -> Tensor:
        """Count the pairs of a batch, those of all ranks together; returns 1 / n(x, a) of each [batch]."""
        assert self.visits is not None
        state = batch["observation"].long() - self.first_state
        new = torch.zeros_like(self.visits)
        counted = batch.get("weight")
        counted = torch.ones_like(batch["reward"]) if counted is None else (counted > 0).to(new)
        new.index_put_((state, action), counted, accumulate=True)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(new)
            new /= getattr(self.trainer.strategy, "ranks_per_replica", 1)
        self.visits += new
        return counted / self.visits[state, action].clamp(min=1)

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        action = batch["action"] - self.first_action
        judge = self.errors if self.distribution is None else self.distances
        value, td_error, losses = judge(batch, action)
        if "td_error" in batch:  # prioritized replay reads it back
            batch["td_error"].copy_(td_error.detach())
        if self.visits is not None:
            losses = losses * self.visited(batch, action)
        loss = weighted_mean(losses, batch.get("weight"))
        return loss, {"q_mean": value.detach(), "td_error": td_error.detach()}

    def errors(self, batch: TensorDict, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q(X_t, A_t), the TD error and the loss of each transition: [batch] each."""
        value = self.q(batch["observation"]).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        with torch.set_grad_enabled(self.gradient == "residual"):  # otherwise Y_t is treated as a constant
            following = self.bootstrap(batch)
            target = td_target(batch["reward"], batch["discount"], batch["terminated"], following)
            if self.clip_td_error is not None:
                target = value + (target - value).clamp(-self.clip_td_error, self.clip_td_error)
        td_error = target - value
        return value, td_error, self.loss_function(td_error)

    def distances(self, batch: TensorDict, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of distributions: the mean of that of (X_t, A_t), and twice the distance from what follows: [batch] each."""
        assert self.distribution is not None
        row = torch.arange(len(action), device=action.device)
        atoms = self.outputs(self.q, batch["observation"])[row, action]
        with torch.no_grad():
            following = self.older_values(batch)
            following = following[row, self.choose(batch, self.distribution.mean(following))]
        discount = batch["discount"] * ~batch["terminated"]
        losses = self.distribution.losses(atoms, following, batch["reward"], discount)
        return self.distribution.mean(atoms), losses, losses

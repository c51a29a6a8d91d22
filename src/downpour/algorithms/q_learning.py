"""Q-learning with function approximation: (50)-(55) of the lecture; on a table, (58)."""

from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.distributed as dist
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from downpour.algorithms.base import Algorithm, Network, OptimizerFactory
from downpour.algorithms.distributions import DistributionalQ, ReturnDistribution
from downpour.algorithms.tabular import learn_at_once
from downpour.config import ConfigError, Discount, Fraction, PositiveFloat, Probability
from downpour.environments.table_vector import Available
from downpour.exploration import Linear
from downpour.networks.linear import Table
from downpour.strategies import parallelism


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
    """Weighted mean over a batch [batch]; transitions of weight 0 do not count."""
    if weight is None:
        return losses.mean()
    return (weight * losses).sum() / weight.count_nonzero().clamp(min=1)


LOSSES = {"squared": squared, "huber": huber}


class QLearning(Algorithm):
    """Act epsilon-greedily on Q(x, a; theta), move Q(X_t, A_t) towards Y_t."""

    learns_from: ClassVar[tuple[str, ...]] = ("replay",)
    static_shapes: ClassVar[bool] = True
    fills_in: ClassVar[tuple[str, ...]] = ("td_error",)
    evaluation_epsilon: float
    visits: Tensor | None

    def __init__(
        self,
        observation_space: gym.Space,
        action_space: gym.Space,
        network: Network,
        optimizer: OptimizerFactory,
        *,
        gamma: Discount,
        epsilon: Linear,
        evaluation_epsilon: Probability = 0.0,
        loss: Literal["squared", "huber"] = "squared",
        distribution: ReturnDistribution | None = None,
        clip_td_error: PositiveFloat | None = None,
        gradient: Literal["semi", "residual"] = "semi",
        step_size: Literal["constant", "visits"] = "constant",
        visit_exponent: Fraction = 1.0,
        gradient_clip: PositiveFloat | None = None,
    ):
        """
        Args:
            gamma: discount.
            epsilon: probability of a uniform action, by environment step.
            evaluation_epsilon: the same when exploration is off.
            loss: of the TD error.
            distribution: learn the distribution of the return, with its own loss; None learns the mean.
            clip_td_error: clip TD errors to this magnitude (Mnih et al. 2015, Methods: 1).
            gradient: `semi` treats Y_t as a constant, (53); `residual` descends on (50) itself, (51), Y_t included
                (Baird 1995).
            step_size: `visits` multiplies the optimizer's step by n(x, a)^-w, n the visits to this pair so far.
            visit_exponent: w. Above 1/2 the conditions of (59) hold; 1 averages over all targets, the early ones too.

        Raises:
            ConfigError: the actions are not discrete, or the options exclude each other.
        """
        super().__init__(optimizer, gradient_clip=gradient_clip)
        if not isinstance(action_space, spaces.Discrete):
            advice = f"needs discrete actions, not {action_space}"
            raise ConfigError("algo", type(self).__name__, f"{advice}; use algo=actor_critic, td3, sac or ppo")
        self.gamma, self.epsilon, self.evaluation_epsilon = gamma, epsilon, evaluation_epsilon
        self.clip_td_error, self.loss_function = clip_td_error, LOSSES[loss]
        self.num_actions, self.first_action = int(action_space.n), int(action_space.start)
        self.distribution = distribution
        self.available = action_space.available if isinstance(action_space, Available) else None
        if distribution is not None:
            self._check_distribution(gradient, clip_td_error)
        self.q = self.make(network, observation_space)
        if gradient == "residual" and clip_td_error is not None:
            raise ConfigError("algo.clip_td_error", clip_td_error, "needs algo.gradient=semi; use null")
        self.gradient, self.visit_exponent = gradient, visit_exponent
        visits = None
        if step_size == "visits":
            if not isinstance(observation_space, spaces.Discrete):
                advice = f"needs discrete observations, not {observation_space}; use constant, or env=frozen_lake"
                raise ConfigError("algo.step_size", step_size, advice)
            self.first_state = int(observation_space.start)
            visits = torch.zeros(int(observation_space.n), self.num_actions)
        self.register_buffer("visits", visits)

    def _check_distribution(self, gradient: str, clip_td_error: float | None) -> None:
        """
        Raises:
            ConfigError: an option that is defined for the mean only.
        """
        own = type(self)
        if own.bootstrap is not QLearning.bootstrap and own.next_action is QLearning.next_action:
            raise ConfigError("algo/distribution", own.__name__, "does not bootstrap from a single action; use dqn")
        if gradient == "residual" or clip_td_error is not None:
            raise ConfigError(message="algo.distribution: needs algo.gradient=semi algo.clip_td_error=null")

    def make(self, network: Network, observation_space: gym.Space) -> nn.Module:
        """A network for Q(x, .); actions that a state lacks have the value minus infinity."""
        if self.distribution is not None:
            atoms = self.distribution.atoms
            made = network(observation_space, self.num_actions * atoms, atoms=atoms)
            return DistributionalQ(made, self.num_actions, self.distribution)
        made = network(observation_space, self.num_actions)
        if self.available is not None:
            if not isinstance(made, Table):
                advice = "cannot mask actions that some states lack; use model=table"
                raise ConfigError("model", type(made).__name__, advice)
            made.weight.data[~torch.from_numpy(self.available)] = -torch.inf
        return made

    def values(self, observation: Tensor) -> Tensor:
        """Q(x, .) that actions are selected by: [batch, ...] -> [batch, actions]."""
        return self.q(observation)

    @torch.no_grad()
    def act(self, observation: Tensor, rng: np.random.Generator, *, env_steps: int, explore: bool) -> np.ndarray:
        if self.captured is None:
            values = self.values(observation).cpu().numpy()
        else:
            values = self.captured.forward(self.values, observation, self.training).cpu().numpy()
        action = values.argmax(-1)
        epsilon = self.epsilon(env_steps) if explore else self.evaluation_epsilon
        if epsilon > 0:
            uniform, coin = self.uniform(values, rng), rng.random(len(action))
            best = values == values.max(-1, keepdims=True)
            if best.sum() > len(best):  # otherwise an untrained table would always take its first action
                action = (best * rng.random(best.shape)).argmax(-1)
            action = np.where(coin < epsilon, uniform, action)
        self.latest["epsilon"] = epsilon
        return action + self.first_action

    @torch.no_grad()
    def action_probabilities(self, observation: Tensor) -> np.ndarray:
        if self.evaluation_epsilon == 0:
            return super().action_probabilities(observation)
        values = self.values(observation).cpu().numpy()
        best, any_one = values == values.max(-1, keepdims=True), np.isfinite(values)
        parts = ((1 - self.evaluation_epsilon, best), (self.evaluation_epsilon, any_one))
        return sum(part * among / among.sum(-1, keepdims=True) for part, among in parts)

    def uniform(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Uniform among the available actions, [batch]."""
        if self.available is None:
            return rng.integers(self.num_actions, size=len(values))
        return (np.isfinite(values) * rng.random(values.shape)).argmax(-1)

    def online_values(self, observation: Tensor) -> Tensor:
        """Q(x, .; theta) that a step updates: [batch, ...] -> [batch, actions]."""
        return self.q(observation)

    def bootstrap(self, batch: TensorDict) -> Tensor:
        """max_a' Q(X_t+1, a') of each transition: [batch]."""
        return self.next_values(batch).amax(-1)

    def next_values(self, batch: TensorDict) -> Tensor:
        """Q(X_t+1, .) of each transition: [batch, actions] or [batch, actions, atoms]."""
        return self.outputs(self.q, batch["next_observation"])

    def next_action(self, batch: TensorDict, values: Tensor) -> Tensor:
        """The next action to bootstrap from, given values [batch, actions]: [batch]."""
        return values.argmax(-1)

    def outputs(self, q: Any, observation: Tensor) -> Tensor:
        """[batch, ...] -> [batch, actions] or [batch, actions, atoms]."""
        return q(observation) if self.distribution is None else q.atoms(observation)

    def state_values(self, observation: Tensor) -> Tensor:
        """V(x) = max_a Q(x, a; theta), (36): [batch, ...] -> [batch]."""
        return self.values(observation).amax(-1)

    def configure_optimizers(self) -> Optimizer:
        optimizer = super().configure_optimizers()
        if self.visits is not None and not isinstance(optimizer, SGD):
            advice = f"{type(optimizer).__name__} is invariant to the scale of the gradient; use optimizer=sgd"
            raise ConfigError("algo.step_size", "visits", advice)
        return optimizer

    @torch.no_grad()
    def visited(self, batch: TensorDict, action: Tensor) -> Tensor:
        """Count the visits of a batch, summed over ranks; returns n(x, a)^-w of each transition [batch]."""
        assert self.visits is not None
        state = self.counted_state(batch)
        new = torch.zeros_like(self.visits)
        counted = batch.get("weight")
        counted = torch.ones_like(batch["reward"]) if counted is None else (counted > 0).to(new)
        new.index_put_((state, action), counted, accumulate=True)
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(new)
            new /= parallelism(self.trainer.strategy).ranks_per_replica
        self.visits += new
        return counted / self.visits[state, action].clamp(min=1) ** self.visit_exponent

    def counted_state(self, batch: TensorDict) -> Tensor:
        """Row of `visits` of each transition: [batch]."""
        return batch["observation"].long() - self.first_state

    def tables(self, count: int) -> tuple[list[Table], list[int], list[float] | None] | None:
        """Arguments for `learn_in_order` (tables, turns, ties) for `count` transitions; None if it does not apply."""
        rule = ("bootstrap", "next_values", "next_action", "online_values", "td_losses", "loss", "batches")
        is_plain = all(getattr(type(self), name) is getattr(QLearning, name) for name in rule)
        return ([self.q], [0] * count, None) if is_plain and isinstance(self.q, Table) else None

    def updates(self, round: TensorDict) -> Tensor:
        """By autograd, or directly by (58) where autograd would compute that, transition by transition."""
        losses = learn_at_once(self, round) if self.loss_function is squared else None
        return super().updates(round) if losses is None else losses

    def loss(self, batch: TensorDict) -> tuple[Tensor, dict[str, Tensor]]:
        action = batch["action"] - self.first_action
        judge = self.td_losses if self.distribution is None else self.distributional_losses
        value, td_error, losses = judge(batch, action)
        if "td_error" in batch:  # prioritized replay reads it back
            batch["td_error"].copy_(td_error.detach())
        if self.visits is not None:
            losses = losses * self.visited(batch, action)
        loss = weighted_mean(losses, batch.get("weight"))
        return loss, {"q_mean": value.detach(), "td_error": td_error.detach()}

    def td_losses(self, batch: TensorDict, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Q(X_t, A_t), the TD error and the loss of each transition: [batch] each."""
        value = self.online_values(batch["observation"]).gather(-1, action.unsqueeze(-1)).squeeze(-1)
        with torch.set_grad_enabled(self.gradient == "residual"):  # otherwise Y_t is treated as a constant
            following = self.bootstrap(batch)
            target = td_target(batch["reward"], batch["discount"], batch["terminated"], following)
            if self.clip_td_error is not None:
                target = value + (target - value).clamp(-self.clip_td_error, self.clip_td_error)
        td_error = target - value
        return value, td_error, self.loss_function(td_error)

    def distributional_losses(self, batch: TensorDict, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For distributions: the mean of Q(X_t, A_t), and its loss twice (as TD error and as loss): [batch] each."""
        assert self.distribution is not None
        row = torch.arange(len(action), device=action.device)
        atoms = self.outputs(self.q, batch["observation"])[row, action]
        with torch.no_grad():
            following = self.next_values(batch)
            following = following[row, self.next_action(batch, self.distribution.mean(following))]
        discount = batch["discount"] * ~batch["terminated"]
        losses = self.distribution.losses(atoms, following, batch["reward"], discount)
        return self.distribution.mean(atoms), losses, losses

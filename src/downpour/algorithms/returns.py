"""Returns and advantages over rows [steps, num_envs] in chronological order."""

import numpy as np
import torch
from gymnasium import spaces
from tensordict import TensorDict
from torch import Tensor, nn

from downpour.networks.normalizer import RunningNormalizer


def discounted_sums(x: Tensor, decay: Tensor) -> Tensor:
    """y_t = x_t + decay_t y_t+1, computed backwards. All [steps, num_envs].

    With x the rewards and decay gamma (0 where an episode ends) this is the R~_t of (30) and (32).
    """
    values, factors = x.cpu().numpy(), decay.cpu().numpy()
    result = np.empty_like(values)
    following = np.zeros_like(values[0])
    for t in range(len(values) - 1, -1, -1):
        following = values[t] + factors[t] * following
        result[t] = following
    return torch.from_numpy(result).to(x.device)


def generalized_advantage(
    reward: Tensor, value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalized advantage estimate: the sum of (gamma lambda)^k delta_t+k (Schulman et al. 2016, eq. 16).

    Args:
        reward, terminated, ended: of the transition from row t to t + 1, [steps, num_envs].
        value: of every row, [steps + 1, num_envs]; the last row of an episode holds its true last observation, so a
            truncated episode bootstraps from there and a terminated one does not.
        gae_lambda: lambda; 0 is the one-step TD error, 1 the return minus the value.
    """
    delta = reward + gamma * ~terminated * value[1:] - value[:-1]
    return discounted_sums(delta, gamma * gae_lambda * ~ended)


def n_step_returns(
    reward: Tensor, value: Tensor, terminated: Tensor, ended: Tensor, gamma: float, steps: int
) -> Tensor:
    """`steps` rewards, then the value; fewer where the episode or the rows end. See `generalized_advantage`."""
    bootstrap = gamma * ~terminated * value[1:]
    result = reward + bootstrap
    for _ in range(1, steps):
        longer = torch.cat([gamma * result[1:], bootstrap[-1:]])
        result = reward + torch.where(ended, bootstrap, longer)
    return result


class RewardNormalizer(nn.Module):
    """Divides rewards by the running standard deviation of their discounted sums, and clips them to +-10.

    The sums are those up to each step, s_t = gamma s_t-1 + R_t, as in OpenAI's baselines (VecNormalize). Their
    statistics are buffers, shared by all ranks.

    Attributes:
        sums: s of each environment of this rank after the last round, [num_envs]; an episode may continue in the next.
    """

    def __init__(self, gamma: float):
        super().__init__()
        self.gamma = gamma
        self.statistics = RunningNormalizer(spaces.Box(-np.inf, np.inf, ()))
        self.sums: Tensor | None = None

    @torch.no_grad()
    def forward(self, round: TensorDict) -> TensorDict:
        """Rows [steps + 1, num_envs] with scaled rewards; the input is not modified."""
        reward, goes_on = round["reward"].clone(), ~round["first"]
        reward[0] = 0.0 if self.sums is None else self.sums
        reward[0] *= goes_on[0]
        sums = discounted_sums(reward.flip(0), self.gamma * goes_on.flip(0)).flip(0)
        self.sums = sums[-1].clone()
        self.statistics.update(sums[round["weight"].bool()])
        deviation = (self.statistics.squares / self.statistics.count).sqrt().clamp(min=1e-4)
        result = round.copy()
        result["reward"] = (round["reward"] / deviation).clamp(-10, 10).float()
        return result

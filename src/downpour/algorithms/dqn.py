"""DQN: Q-learning from replay, (64), with the target network of Mnih et al. (2015), Algorithm 1."""

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from downpour.algorithms.q_learning import QLearning
from downpour.config import ConfigError, Fraction, PositiveInt


class DQN(QLearning):
    """Q-learning that bootstraps from older weights theta^-. Replay belongs to the data module (`data.replay`)."""

    learns_from: ClassVar[tuple[str, ...]] = ("replay",)

    def __init__(
        self,
        *args: Any,
        target_network: bool = True,
        target_every: PositiveInt = 100,
        target_tau: Fraction = 1.0,
        **kwargs: Any,
    ):
        """
        Args:
            target_network: False bootstraps from theta itself, as (64) has it.
            target_every: gradient steps between updates of theta^-.
            target_tau: theta^- moves this part of the way to theta (1: a copy).
        """
        super().__init__(*args, **kwargs)
        if target_network and self.gradient == "residual":
            raise ConfigError("algo.gradient", "residual", "needs algo.target_network=false")
        self.target_every, self.target_tau = target_every, target_tau
        self.target_q = copy.deepcopy(self.q).requires_grad_(False) if target_network else None

    def batches(self, round: TensorDict) -> Iterator[TensorDict]:
        """Evaluate theta^- once for all gradient steps that share it: one large forward pass is cheaper than many."""
        while len(round):
            steps = self.target_every - self.gradient_steps % self.target_every
            block, round = round[:steps], round[steps:]
            if self.target_q is not None:
                with torch.no_grad():
                    rows = block["next_observation"].flatten(0, 1)
                    block["next_values"] = self.outputs(self.target_q, rows).unflatten(0, block.batch_size)
            yield from block.unbind(0)

    def next_values(self, batch: TensorDict) -> Tensor:
        """Q(X_t+1, .; theta^-) of each transition: [batch, actions] or [batch, actions, atoms]."""
        asked = batch.get("next_values", None)
        return self.outputs(self.bootstrap_network, batch["next_observation"]) if asked is None else asked

    @property
    def bootstrap_network(self) -> nn.Module:
        """The network to bootstrap from."""
        return self.q if self.target_q is None else self.target_q

    def advance(self) -> None:
        super().advance()
        if self.target_q is not None and self.gradient_steps % self.target_every == 0:
            move_towards(self.target_q, self.q, self.target_tau)


@torch.no_grad()
def move_towards(target: nn.Module, source: nn.Module, tau: float) -> None:
    """theta^- <- (1 - tau) theta^- + tau theta (Lillicrap et al. 2016, Algorithm 1); tau = 1 copies."""
    old, new = ([own_part(p) for p in network.parameters()] for network in (target, source))
    if tau == 1.0:
        torch._foreach_copy_(old, new)
    else:
        torch._foreach_lerp_(old, new, tau)
    for old_buffer, new_buffer in zip(target.buffers(), source.buffers(), strict=True):
        old_buffer.copy_(new_buffer)


def own_part(parameter: Tensor) -> Tensor:
    """This rank's shard of a parameter that a strategy may have sharded."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter

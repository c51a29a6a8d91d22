"""Which rows of a ring are drawn."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import RandomSampler, Sampler

if TYPE_CHECKING:
    from downpour.data.replay import Replay

EPSILON = 1e-8  # no priority is 0


class Uniform(RandomSampler):
    """TorchRL's draws, those of rows that end no transition made again."""

    def __init__(self, replay: "Replay"):
        super().__init__()
        self.replay = replay

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows [batch_size].

        Raises:
            LookupError: there is no transition.
        """
        kept: list[Tensor] = []
        missing = batch_size
        while missing > 0:
            index, _ = super().sample(storage, missing + missing // 8 + 4)
            index = index[self.replay.is_transition(index)]
            if not len(index) and not self.replay.has_transitions():
                raise LookupError("the ring holds no transition yet")
            kept.append(index[:missing])
            missing -= len(kept[-1])
        return torch.cat(kept), {}


class Prioritized(Sampler):
    """Row i with probability p_i^alpha / sum p^alpha, p = |delta| (Schaul et al. 2016, eq. 1 and section 3.3).

    A running sum over the ring is made for each draw, which serves a whole round: about 1 ms on 100 000 rows. TorchRL's
    own sampler keeps a tree in C++, in an extension that loads with one version of Torch only.

    Attributes:
        mass: p^alpha of the transition that ends at each row; 0 for the row of a reset.
        greatest: the greatest p so far; a new transition starts with it.
        beta: exponent of the importance weights.
    """

    def __init__(self, replay: "Replay", alpha: float):
        super().__init__()
        self.replay, self.alpha, self.beta = replay, alpha, 1.0
        self.mass = torch.zeros(replay.capacity, dtype=torch.float64)
        self.greatest = 1.0

    def extend(self, index: Tensor) -> None:
        is_step = ~self.replay.field("first")[index]
        self.mass[index] = (self.greatest + EPSILON) ** self.alpha * is_step.double()

    def update_priority(self, index: Tensor, priority: Tensor, *, storage: Any = None) -> None:
        """Of a row given twice the last counts."""
        # By way of NumPy, which promises that order.
        self.mass.numpy()[index.numpy()] = ((priority.double() + EPSILON) ** self.alpha).numpy()
        self.greatest = max(self.greatest, float(priority.max()))

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows [batch_size], and of each (N P(i))^-beta over the greatest such of all (section 3.4).

        Raises:
            LookupError: there is no transition.
        """
        mass = self.mass.clone()
        mass[self.replay.incomplete()] = 0
        total = mass.cumsum(0)
        if total[-1] == 0:
            raise LookupError("the ring holds no transition yet")
        drawn = torch.rand(batch_size, dtype=torch.float64, generator=self.replay.generator) * total[-1]
        index = torch.searchsorted(total, drawn, right=True).clamp_max(len(mass) - 1)
        least = torch.where(mass > 0, mass, torch.inf).min()
        weight = (mass[index] / least) ** -self.beta
        return index, {"priority_weight": weight.float()}

    def _empty(self) -> None:
        self.mass.zero_()

    def state_dict(self) -> dict[str, Any]:
        return {"mass": self.mass.clone(), "greatest": self.greatest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mass.copy_(state_dict["mass"])
        self.greatest = state_dict["greatest"]

    def dumps(self, path: Any) -> None:
        torch.save(self.state_dict(), path)

    def loads(self, path: Any) -> None:
        self.load_state_dict(torch.load(path, weights_only=True))

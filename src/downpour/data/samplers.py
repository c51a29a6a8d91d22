"""Samplers of the replay buffer."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchrl.data.replay_buffers.samplers import RandomSampler, Sampler

if TYPE_CHECKING:
    from downpour.data.replay import Replay

EPSILON = 1e-8  # keeps priorities positive
BLOCK = 256  # rows whose priorities are summed together


class Uniform(RandomSampler):
    """TorchRL's uniform sampling, repeated for rows that end no transition."""

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
                raise LookupError("the replay buffer contains no transition yet")
            kept.append(index[:missing])
            missing -= len(kept[-1])
        return torch.cat(kept), {}


class Prioritized(Sampler):
    """Row i with probability p_i^alpha / sum p^alpha, p = |delta| (Schaul et al. 2016, eq. 1 and section 3.3).

    Two-level sampling from sums over blocks of rows. TorchRL's own sampler is a C++ sum tree, in an extension that
    loads with one version of Torch only.

    Attributes:
        mass: p^alpha of the transition that ends at each row; 0 for the row of a reset.
        greatest: the largest p so far, given to new transitions.
        beta: exponent of the importance weights.
    """

    def __init__(self, replay: "Replay", alpha: float):
        super().__init__()
        self.replay, self.alpha, self.beta = replay, alpha, 1.0
        blocks = -(-replay.capacity // BLOCK)
        self._cells = torch.zeros(blocks, BLOCK, dtype=torch.float64)
        self.mass = self._cells.view(-1)[: replay.capacity]
        self._sum, self._least = torch.zeros(blocks).double(), torch.full((blocks,), torch.inf).double()
        self.greatest = 1.0

    def extend(self, index: Tensor) -> None:
        is_step = ~self.replay.field("first")[index]
        self._put(index, (self.greatest + EPSILON) ** self.alpha * is_step.double())

    def _put(self, index: Tensor, mass: Tensor) -> None:
        self.mass.numpy()[index.numpy()] = mass.numpy()  # NumPy guarantees that the last duplicate wins
        self._add_up((index // BLOCK).unique())

    def _add_up(self, block: Tensor) -> None:
        cells = self._cells[block]
        self._sum[block] = cells.cumsum(1)[:, -1]  # in the order of the rows, so that the sum is reproducible
        self._least[block] = torch.where(cells > 0, cells, torch.inf).amin(1)

    def update_priority(self, index: Tensor, priority: Tensor, *, storage: Any = None) -> None:
        """For duplicate rows the last one wins."""
        self._put(index, (priority.double() + EPSILON) ** self.alpha)
        self.greatest = max(self.greatest, float(priority.max()))

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Rows [batch_size], and of each (N P(i))^-beta over the largest such of all (section 3.4).

        Raises:
            LookupError: there is no transition.
        """
        hidden = self.replay.incomplete()
        known = self.mass[hidden]
        self._put(hidden, torch.zeros_like(known))
        try:
            index = self._draw(batch_size)
            weight = (self.mass[index] / self._least.min()) ** -self.beta
        finally:
            self._put(hidden, known)
        return index, {"priority_weight": weight.float()}

    def _draw(self, batch_size: int) -> Tensor:
        total = self._sum.cumsum(0)
        if total[-1] == 0:
            raise LookupError("the replay buffer contains no transition yet")
        drawn = torch.rand(batch_size, dtype=torch.float64, generator=self.replay.generator) * total[-1]
        block = torch.searchsorted(total, _below(drawn, total[-1]), right=True)
        rows = self._cells[block].cumsum(1)
        rest = _below((drawn - (total[block] - self._sum[block])).clamp(min=0), rows[:, -1])
        return block * BLOCK + torch.searchsorted(rows, rest.unsqueeze(1), right=True).squeeze(1)

    def _empty(self) -> None:
        self._cells.zero_()
        self._add_up(torch.arange(len(self._sum)))

    def state_dict(self) -> dict[str, Any]:
        return {"mass": self.mass.clone(), "greatest": self.greatest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.mass.copy_(state_dict["mass"])
        self._add_up(torch.arange(len(self._sum)))
        self.greatest = state_dict["greatest"]

    def dumps(self, path: Any) -> None:
        torch.save(self.state_dict(), path)

    def loads(self, path: Any) -> None:
        self.load_state_dict(torch.load(path, weights_only=True))


def _below(value: Tensor, bound: Tensor) -> Tensor:
    """Strictly less than the bound, so that rounding cannot select a row of zero mass."""
    return torch.minimum(value, torch.nextafter(bound, torch.zeros_like(bound)))

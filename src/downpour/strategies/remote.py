"""An optimizer whose steps are made elsewhere."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from downpour.strategies.link import Link


class Remote(Optimizer):
    """Pushes gradients to the parameter servers and fetches parameters (Dean et al. 2012, Algorithm 1.1).

    Zeroing and clipping gradients, and what reads `param_groups`, work as with any optimizer.
    """

    def __init__(self, local: Optimizer, number: int, link: Link, *, n_push: int, n_fetch: int, local_steps: bool):
        """
        Args:
            local: the optimizer that the rule would have, for steps between two fetches.
            number: of the rule's optimizers.
            n_push, n_fetch, local_steps: see `Downpour`.
        """
        super().__init__([p for group in local.param_groups for p in group["params"]], {})
        self.local, self.number, self.link = local, number, link
        self.n_push, self.n_fetch, self.local_steps = n_push, n_fetch, local_steps
        self.parameters: list[Tensor] = self.param_groups[0]["params"]
        self.param_groups = local.param_groups
        self.steps = 0
        self._accrued: list[Tensor | None] | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One gradient step; what it sends and fetches depends on how many there have been."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.steps += 1
        push, fetch = self.steps % self.n_push == 0, self.steps % self.n_fetch == 0
        gradients = [p.grad for p in self.parameters]
        if self._accrued is not None:
            gradients = [_sum(old, new) for old, new in zip(self._accrued, gradients, strict=True)]
        if push:
            self.link.push(self.number, gradients, self.parameters if fetch else None)
        elif fetch:
            self.link.fetch(self.number, self.parameters)
        self._accrued = None if push else [g if g is None else g.clone() for g in gradients]
        if not fetch and self.local_steps:
            self.local.step()
        return loss

    def flush(self) -> None:
        """Push what has been accrued; the next push is then `n_push` steps away again."""
        if self._accrued is not None:
            self.link.push(self.number, self._accrued, None)
        self._accrued, self.steps = None, 0


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None or new is None:
        return new if old is None else old
    return old + new

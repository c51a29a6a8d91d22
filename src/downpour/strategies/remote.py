"""An optimizer whose steps are made by parameter servers."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from downpour.strategies.link import Link


class Remote(Optimizer):
    """Pushes gradients to the parameter servers and fetches parameters (Dean et al. 2012, Algorithm 1.1).

    Zeroing and clipping gradients, and reading `param_groups`, work as with any optimizer.
    """

    def __init__(
        self,
        local: Optimizer,
        number: int,
        link: Link,
        *,
        n_push: int = 1,
        n_fetch: int = 1,
        local_steps: bool = True,
        pool: Executor | None = None,
    ):
        """
        Args:
            local: the optimizer of this worker, for steps between two fetches.
            number: of this optimizer among the algorithm's.
            n_push, n_fetch, local_steps: see `Downpour`.
            pool: of one thread, which pushes and fetches while the next gradient is computed; what it has fetched is
                used in the next step. Nothing else may use the link before `settle`.
        """
        super().__init__([p for group in local.param_groups for p in group["params"]], {})
        self.local, self.number, self.link = local, number, link
        self.n_push, self.n_fetch, self.local_steps = n_push, n_fetch, local_steps
        self.parameters: list[Tensor] = self.param_groups[0]["params"]
        self.param_groups = local.param_groups
        self.steps, self.pool = 0, pool
        self._accumulated: list[Tensor | None] | None = None
        self._job: Future[Any] | None = None  # the exchange in progress
        self._arriving = [torch.empty_like(p, device="cpu") for p in self.parameters] if pool else []
        self._fetches = False  # whether it fetches parameters
        self._at: list[int] | None = None  # versions of the parameters when it began

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One gradient step; every `n_push`-th pushes, every `n_fetch`-th fetches."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        at = self._at if self._job else None
        self.settle()
        self.steps += 1
        push, fetch = self.steps % self.n_push == 0, self.steps % self.n_fetch == 0
        gradients = [p.grad for p in self.parameters]
        if self._accumulated is not None:
            gradients = [_sum(old, new) for old, new in zip(self._accumulated, gradients, strict=True)]
        if self.pool and (push or fetch):
            self._begin(self.pool, gradients if push else None, fetch, at)
        elif push:
            self.link.push(self.number, gradients, self.parameters if fetch else None)
        elif fetch:
            self.link.fetch(self.number, self.parameters)
        self._accumulated = None if push else [g if g is None else g.clone() for g in gradients]
        if not fetch and self.local_steps:
            self.local.step()
        return loss

    def _begin(self, pool: Executor, gradients: list[Tensor | None] | None, fetch: bool, at: list[int] | None) -> None:
        """Start an exchange with copies of the gradients, computed at versions `at` (None: the newest received)."""
        self._at, self._fetches = self.link.versions(self.number), fetch
        if gradients is None:
            self._job = pool.submit(self.link.fetch, self.number, self._arriving)
            return
        copies = [g if g is None else g.clone() for g in gradients]
        self._job = pool.submit(self.link.push, self.number, copies, self._arriving if fetch else None, at)

    @torch.no_grad()
    def settle(self) -> None:
        """Wait for the exchange in progress, and use the parameters that it has fetched."""
        if self._job is None:
            return
        job, self._job = self._job, None
        job.result()
        if self._fetches:
            torch._foreach_copy_(self.parameters, self._arriving)

    def flush(self) -> None:
        """Push the gradients accumulated so far; the next push is then `n_push` steps away."""
        self.settle()
        if self._accumulated is not None:
            self.link.push(self.number, self._accumulated, None)
        self._accumulated, self.steps = None, 0


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None or new is None:
        return new if old is None else old
    return old + new

"""Updates that wait for several gradients, but not for the slowest (Chen et al. 2016)."""

import threading
from collections.abc import Sequence
from typing import Any

import torch

from downpour.strategies.blocks import Block, Shape
from downpour.strategies.board import Board
from downpour.strategies.messages import Kind
from downpour.strategies.parameter_server import OptimizerFactory, ParameterSet


class Gathering(ParameterSet):
    """Steps once on the mean of the first `needed` gradients of the current parameters; those that come later are
    dropped. Whoever has pushed one is answered when there are new parameters.

    The mean is taken in the order of the workers: it does not depend on who came first among those that count.
    """

    def __init__(self, shapes: Sequence[Shape], make_optimizer: OptimizerFactory, board: Board, needed: int):
        """
        Args:
            board: where it says who has gone.
            needed: gradients that make an update, N of Chen et al.
        """
        super().__init__(shapes, make_optimizer, bound=0)
        self.board, self.needed = board, needed
        self._come: dict[int, Block] = {}  # of the current version; each worker's own buffer, which waits with it
        self._mean = Block(shapes)
        self._changed = threading.Condition(self.lock)

    def apply(self, gradient: Block, fetched: int, worker: int) -> tuple[int, bool]:
        if self.board.over:
            return self.version - fetched, False
        if fetched < self.version:
            self.staleness[worker, self.version - fetched] += 1
            self.dropped += 1
            return self.version - fetched, False
        self._come[worker] = gradient
        if len(self._come) == self.needed:
            self._update()
        return 0, True

    @torch.no_grad()
    def _update(self) -> None:
        blocks = [block for _, block in sorted(self._come.items())]
        for index, total in enumerate(self._mean.tensors):
            some = [block.tensors[index] for block in blocks if block.mask[index]]
            self._mean.mask[index] = bool(some)
            if some:
                total.copy_(some[0])
                for gradient in some[1:]:
                    total.add_(gradient)
                total.div_(self.needed)
        for worker in self._come:
            self.staleness[worker, 0] += 1
        self._step(self._mean, 0)
        self._come.clear()
        self._changed.notify_all()

    def settle(self, fetched: int, worker: int) -> Kind:
        if fetched >= self.version and not self._hopeless():
            self.board.block(worker, True)
            self._changed.wait_for(lambda: self.version > fetched or self._hopeless(), self.board.seconds / 4)
            self.board.block(worker, False)
        if self.version > fetched or self.board.over:
            return Kind.DONE
        return Kind.SHORT if self._hopeless() else Kind.AWAIT

    def _hopeless(self) -> bool:
        return self.board.over or self.board.workers - len(self.board.gone) < self.needed

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._come.clear()

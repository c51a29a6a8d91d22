"""A parameter set whose updates wait for several gradients, but not for the slowest (Chen et al. 2016)."""

import threading
from collections.abc import Sequence
from typing import Any

import torch

from downpour.strategies.blocks import Block, Shape
from downpour.strategies.board import Board
from downpour.strategies.messages import Kind
from downpour.strategies.parameter_server import OptimizerFactory, ParameterSet


class Gathering(ParameterSet):
    """Makes one step on the mean of the first `needed` gradients of the current parameters; later ones are dropped.
    A worker that has pushed a gradient is answered once the parameters have been updated.

    The sum is taken in the order of the workers, so it does not depend on the order in which the gradients arrived.
    """

    def __init__(self, shapes: Sequence[Shape], make_optimizer: OptimizerFactory, board: Board, needed: int):
        """
        Args:
            board: knows which workers have left.
            needed: gradients per update, N of Chen et al.
        """
        super().__init__(shapes, make_optimizer, bound=0)
        self.board, self.needed = board, needed
        self._gradients: dict[int, Block] = {}  # by worker, whose buffer is not reused before the update
        self._mean = Block(shapes)
        self._changed = threading.Condition(self.lock)

    def apply(self, gradient: Block, fetched: int, worker: int) -> tuple[int, bool]:
        if self.board.over:
            return self.version - fetched, False
        if fetched < self.version:
            self.staleness[worker, self.version - fetched] += 1
            self.dropped += 1
            return self.version - fetched, False
        self._gradients[worker] = gradient
        if len(self._gradients) == self.needed:
            self._update()
        return 0, True

    @torch.no_grad()
    def _update(self) -> None:
        blocks = [block for _, block in sorted(self._gradients.items())]
        for index, total in enumerate(self._mean.tensors):
            pushed = [block.tensors[index] for block in blocks if block.mask[index]]
            self._mean.mask[index] = bool(pushed)
            if pushed:
                total.copy_(pushed[0])
                for gradient in pushed[1:]:
                    total.add_(gradient)
                total.div_(self.needed)
        for worker in self._gradients:
            self.staleness[worker, 0] += 1
        self._step(self._mean, 0)
        self._gradients.clear()
        self._changed.notify_all()

    def settle(self, fetched: int, worker: int) -> Kind:
        if fetched >= self.version and not self._too_few():
            self.board.block(worker, True)
            self._changed.wait_for(lambda: self.version > fetched or self._too_few(), self.board.seconds / 4)
            self.board.block(worker, False)
        if self.version > fetched or self.board.over:
            return Kind.DONE
        return Kind.SHORT if self._too_few() else Kind.AWAIT

    def _too_few(self) -> bool:
        """Whether there will be no further update: fewer workers are left than it needs."""
        return self.board.over or self.board.workers - len(self.board.gone) < self.needed

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        self._gradients.clear()

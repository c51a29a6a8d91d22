"""The coordinator of Sandblaster (Dean et al. 2012, section 4.2), which assigns portions of a batch to workers."""

import array
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from downpour.strategies.blocks import Block, Shape
from downpour.strategies.board import Board
from downpour.strategies.messages import Kind, pack, unpack
from downpour.strategies.transport import Channel, Frame

WORK, COMPLETE, OVER, WAIT = range(4)  # replies to a worker that requests a task


class Coordinator:
    """Assigns the portions of an evaluation of the loss to free workers, and sums the results.

    When all portions are assigned, a free worker gets a copy of the one that was assigned first (a backup task). The
    first result counts; results of an earlier evaluation are dropped. The sum is taken in the order of the portions, so
    it is bitwise independent of which worker computed which.

    Attributes:
        version: number of the evaluation under way, from 1 on.
        step: gradient step that the evaluation belongs to.
        finished: the last gradient step that is complete.
        evaluations, reissued: evaluations and backup tasks so far.
    """

    def __init__(self, board: Board, backups: int):
        """
        Args:
            backups: largest number of backup tasks for a portion at a time.
        """
        self.board, self.copies = board, 1 + backups
        self.version = self.portions = self.evaluations = self.reissued = 0
        self.step, self.finished = -1, -1
        self._shapes: list[Shape] = []
        self._point = memoryview(b"")
        self._loss = 0.0
        self._assigned: dict[int, list[int]] = {}  # portion -> workers, in the order of assignment
        self._results: dict[int, tuple[memoryview, float]] = {}
        self._versions: dict[int, int] = {}  # worker -> version of the parameters that it has
        self._changed = threading.Condition()

    def serve(self, channel: Channel) -> None:
        """Answer the messages of one worker until it leaves."""
        worker = channel.receive().a
        with self._released(worker):
            self.board.attend(channel, worker, lambda frame: self._answer(channel, worker, frame))

    @contextmanager
    def _released(self, worker: int) -> Iterator[None]:
        """On exit, free the portions that were assigned to a worker."""
        try:
            yield
        finally:
            with self._changed:
                for workers in self._assigned.values():
                    workers[:] = [other for other in workers if other != worker]
                self._changed.notify_all()

    def _answer(self, channel: Channel, worker: int, frame: Frame) -> bool:
        kind, version, step, portion, _, content = frame
        if kind == Kind.CREATE:
            self._shapes = [Shape(tuple(size), dtype) for size, dtype in unpack(content)]
            channel.send(Kind.DONE)
        elif kind == Kind.EVALUATE:
            with self._changed:
                self.version, self.step, self.portions, self._point = self.version + 1, step, portion, content
                self._assigned, self._results = {}, {}
                self._versions[worker] = self.version
                self.evaluations += 1
                self._changed.notify_all()
            channel.send(Kind.DONE, self.version)
        elif kind == Kind.RESULT:
            with self._changed:
                if version == self.version and portion not in self._results:  # otherwise it is obsolete
                    (loss,) = memoryview(content[-8:]).cast("d")
                    self._results[portion] = content[:-8], loss
                    self._changed.notify_all()
            self._assign(channel, worker, step)
        elif kind == Kind.TASK:
            self._assign(channel, worker, step)
        elif kind == Kind.FINISH:
            with self._changed:
                self.finished = step
                (self._loss,) = content.cast("d")
                self._changed.notify_all()
            channel.send(Kind.DONE)
        elif kind == Kind.STOP:
            with self._changed:
                self.board.stopping = True
                self._changed.notify_all()
            return False
        elif kind == Kind.STATISTICS:
            channel.send(Kind.DONE, parts=(pack({"evaluations": self.evaluations, "reissued": self.reissued}),))
        else:
            return False
        return True

    def _assign(self, channel: Channel, worker: int, step: int) -> None:
        """Reply to a free worker: a portion; the sum, to rank 0; that the gradient step is over; or to ask again."""
        with self._changed:
            reply = self._reply(worker, step)
            if reply is None:
                self._changed.wait(self.board.seconds / 4)
                reply = self._reply(worker, step) or (WAIT, 0, ())
            kind, portion, parts = reply
            version = self.version
        channel.send(Kind.DONE, kind, portion, version, parts=parts)

    def _reply(self, worker: int, step: int) -> tuple[int, int, tuple[Any, ...]] | None:
        """(kind of reply, portion, content); None if the worker has to wait."""
        complete = len(self._results) == self.portions > 0
        if worker == 0 and complete:
            return COMPLETE, 0, self._sum()
        if worker and (step <= self.finished or self.board.stopping):
            return OVER, 0, (_packed(self._loss if step == self.finished else 0.0),)
        if step != self.step or complete:
            return None
        portion = self._next(worker)
        if portion is None:
            return None
        self._assigned.setdefault(portion, []).append(worker)
        up_to_date = self._versions.get(worker) == self.version
        self._versions[worker] = self.version
        return WORK, portion, () if up_to_date else (self._point,)

    def _next(self, worker: int) -> int | None:
        """The portion to compute next, which may be a backup task; None if there is none."""
        for portion in range(self.portions):
            if portion not in self._results and not self._assigned.get(portion):
                return portion
        for portion, workers in self._assigned.items():  # the one assigned first comes first
            if portion not in self._results and len(workers) < self.copies and worker not in workers:
                self.reissued += 1
                return portion
        return None

    def _sum(self) -> tuple[Any, ...]:
        """(gradient, loss), as content of a message."""
        total, part = Block(self._shapes), Block(self._shapes)
        total.buffer[: total.size] = self._results[0][0]
        for portion in range(1, self.portions):
            part.buffer[: part.size] = self._results[portion][0]
            torch._foreach_add_(total.tensors, part.tensors)
        return total.buffer[: total.size], _packed(sum(self._results[p][1] for p in range(self.portions)))


def _packed(value: float) -> bytes:
    return array.array("d", [value]).tobytes()

"""The coordinator of Sandblaster (Dean et al. 2012, section 4.2): who computes which portion of a batch."""

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

WORK, COMPLETE, OVER, WAIT = range(4)  # answers to a worker that asks for work


class Coordinator:
    """Hands the portions of one evaluation to whichever worker is free, and adds up what comes back.

    When all portions are given out, a free worker gets a copy of the one that has been out longest (a backup task). The
    first result counts; one of an evaluation that is over does not. The sum is in the order of the portions, so it does
    not depend on who computed what, to the last bit.
    """

    def __init__(self, board: Board, backups: int):
        """
        Args:
            backups: most copies of a portion that are out beside the first.
        """
        self.board, self.copies = board, 1 + backups
        self.version = self.portions = self.evaluations = self.reissued = 0
        self.step, self.finished = -1, -1
        self._shapes: list[Shape] = []
        self._point = memoryview(b"")
        self._loss = 0.0
        self._out: dict[int, list[int]] = {}  # portion -> workers that have it, in the order of their going out
        self._results: dict[int, tuple[memoryview, float]] = {}
        self._known: dict[int, int] = {}  # worker -> version it has
        self._changed = threading.Condition()

    def serve(self, channel: Channel) -> None:
        """Answer one worker until it has gone."""
        worker = channel.receive().a
        with self._released(worker):
            self.board.attend(channel, worker, lambda frame: self._answer(channel, worker, frame))

    @contextmanager
    def _released(self, worker: int) -> Iterator[None]:
        """What a worker had that goes is for others."""
        try:
            yield
        finally:
            with self._changed:
                for workers in self._out.values():
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
                self._out, self._results = {}, {}
                self._known[worker] = self.version
                self.evaluations += 1
                self._changed.notify_all()
            channel.send(Kind.DONE, self.version)
        elif kind == Kind.RESULT:
            with self._changed:
                if version == self.version and portion not in self._results:  # else superseded
                    (loss,) = memoryview(content[-8:]).cast("d")
                    self._results[portion] = content[:-8], loss
                    self._changed.notify_all()
            self._give(channel, worker, step)
        elif kind == Kind.TASK:
            self._give(channel, worker, step)
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

    def _give(self, channel: Channel, worker: int, step: int) -> None:
        """The next portion for a free worker; or the sum, to rank 0; or that its gradient step is over."""
        with self._changed:
            answer = self._look(worker, step)
            if answer is None:
                self._changed.wait(self.board.seconds / 4)
                answer = self._look(worker, step) or (WAIT, 0, ())
            what, portion, parts = answer
            version = self.version
        channel.send(Kind.DONE, what, portion, version, parts=parts)

    def _look(self, worker: int, step: int) -> tuple[int, int, tuple[Any, ...]] | None:
        complete = len(self._results) == self.portions > 0
        if worker == 0 and complete:
            return COMPLETE, 0, self._sum()
        if worker and (step <= self.finished or self.board.stopping):
            return OVER, 0, (_number(self._loss if step == self.finished else 0.0),)
        if step != self.step or complete:
            return None
        portion = self._next(worker)
        if portion is None:
            return None
        self._out.setdefault(portion, []).append(worker)
        fresh = self._known.get(worker) == self.version
        self._known[worker] = self.version
        return WORK, portion, () if fresh else (self._point,)

    def _next(self, worker: int) -> int | None:
        for portion in range(self.portions):
            if portion not in self._results and not self._out.get(portion):
                return portion
        for portion, workers in self._out.items():  # the longest out comes first
            if portion not in self._results and len(workers) < self.copies and worker not in workers:
                self.reissued += 1
                return portion
        return None

    def _sum(self) -> tuple[Any, ...]:
        total, part = Block(self._shapes), Block(self._shapes)
        total.buffer[: total.size] = self._results[0][0]
        for portion in range(1, self.portions):
            part.buffer[: part.size] = self._results[portion][0]
            torch._foreach_add_(total.tensors, part.tensors)
        return total.buffer[: total.size], _number(sum(self._results[p][1] for p in range(self.portions)))


def _number(value: float) -> bytes:
    return array.array("d", [value]).tobytes()

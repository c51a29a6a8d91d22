"""The parameter server of Dean et al. (2012), which keeps parameters and applies gradients as they arrive."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from downpour.strategies.blocks import Block, Shape
from downpour.strategies.board import Board
from downpour.strategies.messages import Kind, pack, unpack
from downpour.strategies.transport import Channel, Frame

WANTS_PARAMETERS = 1
OptimizerFactory = Callable[[Sequence[nn.Parameter]], Optimizer]


class ParameterSet:
    """A server's part of the parameters of one optimizer.

    Attributes:
        version: updates so far.
        staleness: (worker, updates between its fetch and the arrival of its gradient) -> number of gradients.
        dropped: gradients that were too stale.
    """

    def __init__(
        self, shapes: Sequence[Shape], make_optimizer: OptimizerFactory, *, bound: int | None, aware: bool = False
    ):
        """
        Args:
            bound: drop gradients that are staler than this; None drops none.
            aware: divide the step size by the staleness (Zhang et al. 2016, eq. 6).
        """
        self.shapes, self.bound, self.aware = list(shapes), bound, aware
        self.block = Block(shapes)
        self.parameters = [nn.Parameter(tensor) for tensor in self.block.tensors]
        self.optimizer = make_optimizer(self.parameters)
        self.version = self.dropped = 0
        self.staleness: Counter[tuple[int, int]] = Counter()
        self.lock = threading.Lock()

    def apply(self, gradient: Block, fetched: int, worker: int) -> tuple[int, bool]:
        """Make one update, unless the gradient is too stale. The caller holds the lock.

        Args:
            gradient: of the same shapes; its mask tells which parameters have a gradient.
            fetched: the version at which it was computed.

        Returns:
            (staleness, whether it was applied).
        """
        staleness = self.version - fetched
        self.staleness[worker, staleness] += 1
        if self.bound is not None and staleness > self.bound:
            self.dropped += 1
            return staleness, False
        self._step(gradient, staleness)
        return staleness, True

    def _step(self, gradient: Block, staleness: int) -> None:
        for parameter, value, counts in zip(self.parameters, gradient.tensors, gradient.mask, strict=True):
            parameter.grad = value if counts else None
        if self.aware and staleness > 1:
            self._shorter_step(staleness)
        else:
            self.optimizer.step()
        self.version += 1

    def settle(self, fetched: int, worker: int) -> Kind:
        """Kind of the answer to a gradient of version `fetched`; may wait for updates. The caller holds the lock."""
        return Kind.DONE

    def wake(self) -> None:
        """Have those that wait in `settle` check again: a worker may have left."""

    def _shorter_step(self, staleness: int) -> None:
        full = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] / staleness
        self.optimizer.step()
        for group, lr in zip(self.optimizer.param_groups, full, strict=True):
            if "base_lr" not in group:  # otherwise the schedule has set that of the next step
                group["lr"] = lr

    def capture(self) -> dict[str, Any]:
        """The state, as plain data."""
        with self.lock:
            return {
                "parameters": [p.detach().clone() for p in self.parameters],
                "optimizer": self.optimizer.state_dict(),
                "version": self.version,
                "staleness": [[*key, count] for key, count in self.staleness.items()],
                "dropped": self.dropped,
            }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `capture` returned, or a part of it."""
        with self.lock, torch.no_grad():
            for parameter, value in zip(self.parameters, state.get("parameters", self.parameters), strict=True):
                parameter.copy_(value)
            if "optimizer" in state:
                self.optimizer.load_state_dict(state["optimizer"])
            self.version, self.dropped = state.get("version", 0), state.get("dropped", 0)
            self.staleness = Counter({(worker, s): count for worker, s, count in state.get("staleness", ())})


class ParameterServer:
    """One of the servers of a run. The board of server 0 is the one that the workers use; see `Board`."""

    def __init__(self, board: Board, make_set: Callable[[Sequence[Shape]], ParameterSet]):
        """
        Args:
            make_set: makes the set that keeps parameters of these shapes.
        """
        self.board, self.make_set = board, make_set
        self.sets: list[ParameterSet | None] = []

    def serve(self, channel: Channel) -> None:
        """Answer the messages of one worker until it leaves; each worker has its own thread."""
        worker = channel.receive().a
        blocks: dict[int, Block] = {}
        into: dict[tuple[int, int], memoryview] = {}
        replies: dict[int, memoryview] = {}

        def answer(frame: Frame) -> bool:
            if frame.kind == Kind.STOP:
                self.board.over = True
                self._wake()
            if frame.kind not in (Kind.PUSH, Kind.FETCH, Kind.AWAIT):
                return self._keep(channel, frame)
            number = frame.a
            if number not in blocks:
                shapes = self.set(number).shapes
                blocks[number] = Block(shapes)
                into[Kind.PUSH, number] = blocks[number].buffer
                replies[number] = memoryview(bytearray(blocks[number].size))
                if frame.kind == Kind.PUSH:  # it was received before there was a buffer
                    blocks[number].buffer[:] = frame.content
            self._exchange(channel, worker, frame, blocks[number], replies[number])
            return True

        self.board.attend(channel, worker, answer, into)
        self._wake()

    def _wake(self) -> None:
        for own in self.sets:
            if own is not None:
                own.wake()

    def set(self, number: int) -> ParameterSet:
        """The parameters of optimizer `number`."""
        found = self.sets[number]
        assert found is not None
        return found

    def _exchange(self, channel: Channel, worker: int, frame: Frame, block: Block, reply: memoryview) -> None:
        _, number, fetched, wants, _, _ = frame
        own = self.set(number)
        kind, staleness, applied = Kind.DONE, 0, True
        with own.lock:
            if frame.kind == Kind.PUSH:
                staleness, applied = own.apply(block, fetched, worker)
            if frame.kind != Kind.FETCH:
                kind = own.settle(fetched, worker)
            wants = wants and kind == Kind.DONE
            version = own.version
            if wants:  # other threads may update while it is sent
                reply[:] = own.block.buffer[: own.block.size]
        channel.send(kind, number, version, staleness, applied, (reply,) if wants else ())

    def _keep(self, channel: Channel, frame: Frame) -> bool:
        if frame.kind == Kind.CREATE:
            self.sets = []
            for shapes in unpack(frame.content):
                known = [Shape(tuple(size), dtype) for size, dtype in shapes]
                self.sets.append(self.make_set(known) if known else None)
            channel.send(Kind.DONE)
        elif frame.kind == Kind.CAPTURE:
            sets = [own and own.capture() for own in self.sets]
            channel.send(Kind.DONE, parts=(pack({"sets": sets, "steps": self.board.steps}),))
        elif frame.kind == Kind.RESTORE:
            state = unpack(frame.content)
            for own, part in zip(self.sets, state["sets"], strict=True):
                if own is not None:
                    own.restore(part)
            self.board.steps.update(state["steps"])
            channel.send(Kind.DONE)
        elif frame.kind == Kind.STATISTICS:
            channel.send(Kind.DONE, parts=(pack(self.statistics()),))
        else:
            return False
        return True

    def statistics(self) -> list[Any]:
        """For each set: updates, dropped gradients, staleness, step size; None for one without parameters here."""
        found: list[Any] = []
        for own in self.sets:
            if own is None:
                found.append(None)
                continue
            with own.lock:
                rows = [[*key, count] for key, count in own.staleness.items()]
                lr = float(own.optimizer.param_groups[0]["lr"])
                found.append({"updates": own.version, "dropped": own.dropped, "staleness": rows, "lr": lr})
        return found

"""A worker's connection to the servers of its run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from downpour.failures import Failed
from downpour.run import StepCounts
from downpour.strategies.blocks import Block, divide, shape_of
from downpour.strategies.messages import Kind, pack, unpack
from downpour.strategies.parameter_server import WANTS_PARAMETERS
from downpour.strategies.transport import Channel, Frame, Lost, Refused, connect

SMALL = 1 << 16  # bytes: below, copying into one buffer is faster than sending a list of buffers


class TooFew(Exception):
    """Fewer workers are left than an update needs."""


@dataclass
class Part:
    """The parameters of one optimizer that one server keeps.

    Attributes:
        server: number of the server.
        index: numbers of these parameters among the optimizer's.
        gradient, parameters: buffers to send from and to receive into.
        into: buffers for the content of answers; see `Channel.receive`.
        version: of the parameters that were received last.
    """

    server: int
    index: list[int]
    gradient: Block
    parameters: Block
    into: dict[tuple[int, int], memoryview]
    version: int = 0


class Link:
    """All servers of the run, as one of its workers sees them.

    Attributes:
        others: step counts of the other workers.
        asked: number of the newest request of rank 0 for checkpoints.
        stopping: rank 0 has requested the end of the run.
    """

    def __init__(self, addresses: Sequence[tuple[str, int]], token: bytes, rank: int, seconds: float):
        """
        Args:
            addresses: (host, port) of each server.
            token: the secret of the run.
            rank: of this worker.
            seconds: timeout for each answer.

        Raises:
            Failed: a server cannot be reached.
        """
        self.rank, self.addresses = rank, addresses
        self.channels: list[Channel] = []
        self.sets: list[list[Part]] = []
        self.others, self.asked, self.stopping, self._traffic = StepCounts(), 0, False, 0
        for number, address in enumerate(addresses):
            try:
                self.channels.append(connect(address, token, seconds))
            except (Lost, Refused) as error:
                wait = f" after {seconds:g} s" if isinstance(error, Lost) else ""
                raise self._lost(number, f"cannot be used{wait}: {error}", lost=False) from None
            self._send(number, Kind.HELLO, rank)

    def take_traffic(self) -> int:
        """Bytes sent and received since the last call."""
        total = sum(channel.sent + channel.received for channel in self.channels)
        before, self._traffic = self._traffic, total
        return total - before

    def divide(self, sets: Sequence[Sequence[Tensor]]) -> None:
        """Compute which server keeps which parameters of each optimizer; the same on all workers."""
        self.sets = []
        for number, tensors in enumerate(sets):
            shapes = [shape_of(tensor) for tensor in tensors]
            parts = []
            for server, index in enumerate(divide(shapes, len(self.channels))):
                if index:
                    own = [shapes[i] for i in index]
                    arriving = Block(own)
                    into: dict[tuple[int, int], memoryview] = {(Kind.DONE, number): arriving.buffer[: arriving.size]}
                    parts.append(Part(server, index, Block(own), arriving, into))
            self.sets.append(parts)

    def create(self, sets: Sequence[Sequence[Tensor]]) -> None:
        """Create the parameters on the servers, with the values that they have here."""
        for server in range(len(self.channels)):
            mine = [next((p for p in parts if p.server == server), None) for parts in self.sets]
            tensors = [
                [] if part is None else [values[i] for i in part.index] for values, part in zip(sets, mine, strict=True)
            ]
            self.ask(server, Kind.CREATE, content=pack([[tuple(shape_of(t)) for t in own] for own in tensors]))
            state = [{"parameters": [t.detach().cpu() for t in own]} if own else None for own in tensors]
            self.ask(server, Kind.RESTORE, content=pack({"sets": state, "steps": {}}))

    @torch.no_grad()
    def push(
        self,
        number: int,
        gradients: Sequence[Tensor | None],
        parameters: Sequence[Tensor] | None,
        versions: Sequence[int] | None = None,
    ) -> int:
        """Send the gradients of optimizer `number`, and wait for the update.

        Args:
            gradients: of each parameter; None for one without a gradient.
            parameters: replaced by their values after the update, if given.
            versions: of the parameters at which the gradients were computed, on each server; None: those received last.

        Returns:
            The gradient's staleness, the largest over the servers.

        Raises:
            TooFew: fewer workers are left than an update needs.
            Failed: a server is lost.
        """
        parts = self.sets[number]
        wants = WANTS_PARAMETERS if parameters is not None else 0
        for part, version in zip(parts, versions or self.versions(number), strict=True):
            own = [gradients[i] for i in part.index]
            self._send(part.server, Kind.PUSH, number, version, wants, parts=_staged(part.gradient, own))
        return max(self._receive_update(number, part, parameters) for part in parts)

    @torch.no_grad()
    def fetch(self, number: int, parameters: Sequence[Tensor]) -> None:
        """Replace the parameters of optimizer `number` by their values on the servers."""
        for part in self.sets[number]:
            self._send(part.server, Kind.FETCH, number, 0, WANTS_PARAMETERS)
        for part in self.sets[number]:
            self._receive_update(number, part, parameters)

    def _receive_update(self, number: int, part: Part, parameters: Sequence[Tensor] | None) -> int:
        answer = self._receive(part.server, part.into)
        while answer.kind == Kind.AWAIT:
            self._send(part.server, Kind.AWAIT, number, part.version, WANTS_PARAMETERS)
            answer = self._receive(part.server, part.into)
        if answer.kind == Kind.SHORT:
            raise TooFew
        if parameters is not None:
            part.version = answer.b
            torch._foreach_copy_([parameters[i] for i in part.index], part.parameters.tensors)
        return answer.c

    def versions(self, number: int) -> list[int]:
        """Versions of the parameters of optimizer `number` that were received last, one per server."""
        return [part.version for part in self.sets[number]]

    def capture(self) -> list[dict[str, Any]]:
        """The state of every server."""
        return [unpack(self.ask(server, Kind.CAPTURE).content) for server in range(len(self.channels))]

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Restore the state of every server."""
        for server, state in enumerate(states):
            self.ask(server, Kind.RESTORE, content=pack(state))

    def statistics(self) -> list[list[dict[str, Any]]]:
        """For each optimizer, the statistics of the servers that keep a part; see `ParameterServer.statistics`."""
        found = [unpack(self.ask(server, Kind.STATISTICS).content) for server in range(len(self.channels))]
        return [[each[number] for each in found if each[number]] for number in range(len(self.sets))]

    def report(self, steps: int, gradient_steps: int) -> list[tuple[int, str]]:
        """Report this worker's progress; receive that of the others and the requests of rank 0.

        Returns:
            On rank 0: (worker, reason) of those that have left since the last call.
        """
        answer = self.ask(0, Kind.REPORT, steps, gradient_steps)
        self.others.steps, self.others.gradient_steps = answer.a, answer.b
        self.asked, self.stopping = answer.c, bool(answer.d)
        return [(worker, reason) for worker, reason in unpack(answer.content)] if answer.content else []

    def post(self, box: int, value: Any) -> None:
        """Put a message for rank 0 into a box."""
        self.ask(0, Kind.POST, box, self.asked, content=pack(value))

    def collect(self, box: int, *, ask: bool = False) -> list[tuple[int, Any]]:
        """(worker, message) of all messages in a box; with `ask`, request them first, and wait."""
        count = self.ask(0, Kind.COLLECT, box, 0, ask).a
        frames = [self._receive(0) for _ in range(count)]
        return [(frame.a, unpack(frame.content)) for frame in frames]

    def publish(self, value: Any) -> None:
        """Publish the state from which the other workers start."""
        self.ask(0, Kind.PUBLISH, content=pack(value))

    def join(self) -> Any:
        """Wait for the state that rank 0 publishes, and return it; None if rank 0 has left."""
        while (answer := self.ask(0, Kind.JOIN)).a:
            pass
        return unpack(answer.content) if answer.content else None

    def stop(self, seconds: int = 0) -> None:
        """Request the end of the run; wait up to `seconds` for the others to leave."""
        for server in reversed(range(len(self.channels))):  # server 0 last: the workers get the request from it
            self.ask(server, Kind.STOP, 0 if server else seconds)

    def leave(self, reason: str = "") -> None:
        """Leave the run; a reason means that it was not over."""
        for server in range(len(self.channels)):
            self._send(server, Kind.LEAVE, parts=(reason.encode(),))
            self._receive(server)
            self.channels[server].close()

    def ask(self, server: int, kind: Kind, a: int = 0, b: int = 0, c: int = 0, content: Any = None) -> Frame:
        """Send a frame, with a buffer as its content, and wait for the answer."""
        self._send(server, kind, a, b, c, parts=() if content is None else (content,))
        return self._receive(server)

    def _send(self, server: int, kind: Kind, a: int = 0, b: int = 0, c: int = 0, parts: Sequence[Any] = ()) -> None:
        try:
            self.channels[server].send(kind, a, b, c, parts=parts)
        except Lost as error:
            raise self._lost(server, f"has gone ({error})") from None

    def _receive(self, server: int, into: dict[tuple[int, int], memoryview] | None = None) -> Frame:
        try:
            return self.channels[server].receive(into)
        except Lost as error:
            raise self._lost(server, f"has gone ({error})") from None

    def _lost(self, server: int, what: str, lost: bool = True) -> Failed:
        host, port = self.addresses[server]
        return Failed(1, f"strategy: server {server} at {host}:{port} {what}", lost=lost)


def _staged(block: Block, tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """The gradients as buffers to send: large ones without a copy, if their layout is that of the block."""
    if block.size < SMALL and not any([tensor is None for tensor in tensors]):
        torch._foreach_copy_(block.tensors, tensors)  # type: ignore[arg-type]
        block.mask[:] = b"\1" * len(tensors)
        return (block.buffer,)
    kinds = {(t.dtype, t.device.type, t.is_contiguous()) if t is not None else None for t in tensors}
    if kinds in ({(torch.float32, "cpu", True)}, {(torch.float64, "cpu", True)}):
        return (*(t.detach().numpy() for t in tensors if t is not None), b"\1" * len(tensors))
    present = [(to, tensor) for to, tensor in zip(block.tensors, tensors, strict=True) if tensor is not None]
    if present:
        torch._foreach_copy_([to for to, _ in present], [tensor for _, tensor in present])
    block.mask[:] = bytes(tensor is not None for tensor in tensors)
    return (block.buffer,)

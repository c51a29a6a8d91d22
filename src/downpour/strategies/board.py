"""State that the workers of a run share through server 0: progress, messages to rank 0, its requests, lost workers."""

import threading
import time
from collections.abc import Callable, Mapping

from downpour.strategies.messages import Kind, pack
from downpour.strategies.transport import Channel, Frame, Lost

EPISODES, STATE = 0, 1  # boxes


class Board:
    """The shared state, kept by one server, and the answers to messages about it.

    Attributes:
        steps: worker -> (stream steps, gradient steps).
        gone: worker -> the reason why it left; empty if it had finished.
        stopping: rank 0 has requested the end of the run.
        over: rank 0 has left, or a worker that had finished: no more updates are needed.
        blocked: workers that wait for a step of the others, and cannot answer requests meanwhile.
    """

    def __init__(self, workers: int, seconds: float):
        """
        Args:
            workers: number of workers of the run.
            seconds: timeout for what the workers are asked for.
        """
        self.workers, self.seconds = workers, seconds
        self.steps = {worker: (0, 0) for worker in range(workers)}
        self.gone: dict[int, str] = {}
        self._reported: set[int] = set()
        self._boxes: dict[int, dict[int, list[memoryview]]] = {EPISODES: {}, STATE: {}}
        self._answered = dict.fromkeys(range(workers), 0)
        self._asked, self.stopping, self.over = 0, False, False
        self.blocked: set[int] = set()
        self._present: set[int] = set()
        self._published: memoryview | None = None
        self._changed = threading.Condition()

    def leave(self, worker: int, reason: str) -> None:
        """Note that a worker has left; an empty reason means that it had finished."""
        with self._changed:
            self.gone.setdefault(worker, reason)
            self._present.discard(worker)
            self.over |= worker == 0 or not self.gone[worker]
            self._changed.notify_all()

    def block(self, worker: int, blocked: bool) -> None:
        """Note that a worker starts or stops waiting for the others."""
        with self._changed:
            (self.blocked.add if blocked else self.blocked.discard)(worker)
            self._changed.notify_all()

    def attend(
        self,
        channel: Channel,
        worker: int,
        answer: Callable[[Frame], bool],
        into: Mapping[tuple[int, int], memoryview] | None = None,
    ) -> None:
        """Answer the messages of a worker until it leaves or is lost.

        Args:
            answer: handles what is not about the board; returns whether it did.
            into: see `Channel.receive`.
        """
        self._present.add(worker)
        try:
            while True:
                frame = channel.receive(into)
                if frame.kind == Kind.LEAVE:
                    self.leave(worker, bytes(frame.content).decode())
                    channel.send(Kind.DONE)
                    return
                if not answer(frame):
                    self.answer(channel, worker, frame)
        except Lost as error:
            self.leave(worker, str(error))

    def answer(self, channel: Channel, worker: int, frame: Frame) -> None:
        """Answer a message about the board.

        Raises:
            ValueError: a kind of message that workers do not send.
        """
        kind, a, b, c, _, content = frame
        if kind == Kind.REPORT:
            self._report(channel, worker, a, b)
        elif kind == Kind.POST:
            self._post(worker, a, b, content)
            channel.send(Kind.DONE)
        elif kind == Kind.COLLECT:
            self._collect(channel, a, bool(c))
        elif kind == Kind.PUBLISH:
            with self._changed:
                self._published = content
                self._changed.notify_all()
            channel.send(Kind.DONE)
        elif kind == Kind.JOIN:
            self._join(channel)
        elif kind == Kind.STOP:
            with self._changed:
                self.stopping = self.over = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._present <= {0}, a)
            channel.send(Kind.DONE)
        else:
            raise ValueError(f"a frame of kind {kind}")

    def _report(self, channel: Channel, worker: int, steps: int, gradient_steps: int) -> None:
        """Note a worker's progress; reply with that of the others, the newest request and, to rank 0, lost workers."""
        news: list[list[object]] = []
        with self._changed:
            self.steps[worker] = (steps, gradient_steps)
            others = [counts for other, counts in self.steps.items() if other != worker]
            if worker == 0 and self.gone.keys() != self._reported:
                news = [[other, reason] for other, reason in self.gone.items() if other not in self._reported]
                self._reported |= self.gone.keys()
        totals = sum(counts[0] for counts in others), sum(counts[1] for counts in others)
        channel.send(Kind.DONE, *totals, self._asked, self.stopping, (pack(news),) if news else ())

    def _post(self, worker: int, box: int, number: int, content: memoryview) -> None:
        with self._changed:
            kept = self._boxes[box].setdefault(worker, [])
            if box == STATE:
                kept.clear()
                self._answered[worker] = max(number, self._answered[worker])
            kept.append(content)
            self._changed.notify_all()

    def _collect(self, channel: Channel, box: int, ask: bool) -> None:
        """Send the content of a box; if `ask`, request it from the workers first, and wait for them."""
        with self._changed:
            if ask:
                self._asked += 1
                end = time.monotonic() + self.seconds / 2  # before rank 0, which waits `seconds`, gives up
                while self._pending() and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
            found = [(worker, part) for worker, parts in sorted(self._boxes[box].items()) for part in parts]
            if box == EPISODES:
                self._boxes[box].clear()
        channel.send(Kind.DONE, len(found))
        for worker, part in found:
            channel.send(Kind.DONE, worker, parts=(part,))

    def _pending(self) -> list[int]:
        unavailable = self.gone.keys() | self.blocked
        return [w for w in range(1, self.workers) if w not in unavailable and self._answered[w] < self._asked]

    def _join(self, channel: Channel) -> None:
        with self._changed:
            if self._published is None and 0 not in self.gone:
                self._changed.wait(self.seconds / 4)
            published, again = self._published, self._published is None and 0 not in self.gone
        channel.send(Kind.DONE, again, parts=(published,) if published is not None else ())

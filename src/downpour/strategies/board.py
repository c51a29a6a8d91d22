"""Where the workers of a run leave word for each other: how far they are, what rank 0 wants, who has gone."""

import threading
import time
from collections.abc import Callable, Mapping

from downpour.strategies.messages import Kind, pack
from downpour.strategies.transport import Channel, Frame, Lost

EPISODES, STATE = 0, 1  # boxes


class Board:
    """Kept by one server; rank 0 speaks for the run.

    Attributes:
        steps: worker -> (steps of its stream, gradient steps).
        gone: worker -> why it went, empty if it was done.
        stopping: rank 0 has ended.
        over: rank 0 has gone, or a worker has because the run has had all its steps.
        blocked: workers that wait for a step of the others, and can say nothing meanwhile.
    """

    def __init__(self, workers: int, seconds: float):
        """
        Args:
            workers: of the run.
            seconds: longest wait for what a worker was asked for.
        """
        self.workers, self.seconds = workers, seconds
        self.steps = {worker: (0, 0) for worker in range(workers)}
        self.gone: dict[int, str] = {}
        self._told: set[int] = set()
        self._boxes: dict[int, dict[int, list[memoryview]]] = {EPISODES: {}, STATE: {}}
        self._answered = dict.fromkeys(range(workers), 0)
        self._asked, self.stopping, self.over = 0, False, False
        self.blocked: set[int] = set()
        self._present: set[int] = set()
        self._published: memoryview | None = None
        self._changed = threading.Condition()

    def leave(self, worker: int, reason: str) -> None:
        """A worker goes, and why; without a reason, because it is done."""
        with self._changed:
            self.gone.setdefault(worker, reason)
            self._present.discard(worker)
            self.over |= worker == 0 or not self.gone[worker]
            self._changed.notify_all()

    def block(self, worker: int, blocked: bool) -> None:
        """A worker begins, or ends, to wait for the others."""
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
        """Answer a worker until it goes; first whoever keeps the board may, and says whether it did.

        Args:
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
        """Whatever is not about parameters.

        Raises:
            ValueError: nothing that a worker may say.
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
        """A worker says how far it is; it is told how far the others are, what is asked for, and who has gone."""
        news: list[list[object]] = []
        with self._changed:
            self.steps[worker] = (steps, gradient_steps)
            others = [made for other, made in self.steps.items() if other != worker]
            if worker == 0 and self.gone.keys() != self._told:
                news = [[other, reason] for other, reason in self.gone.items() if other not in self._told]
                self._told |= self.gone.keys()
        totals = sum(made[0] for made in others), sum(made[1] for made in others)
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
        """Hand out what lies in a box, after asking for it (rank 0 excepted) and waiting, if so wished."""
        with self._changed:
            if ask:
                self._asked += 1
                end = time.monotonic() + self.seconds / 2  # whoever asks waits no longer than `seconds`
                while self._missing() and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
            found = [(worker, part) for worker, parts in sorted(self._boxes[box].items()) for part in parts]
            if box == EPISODES:
                self._boxes[box].clear()
        channel.send(Kind.DONE, len(found))
        for worker, part in found:
            channel.send(Kind.DONE, worker, parts=(part,))

    def _missing(self) -> list[int]:
        deaf = self.gone.keys() | self.blocked
        return [w for w in range(1, self.workers) if w not in deaf and self._answered[w] < self._asked]

    def _join(self, channel: Channel) -> None:
        with self._changed:
            if self._published is None and 0 not in self.gone:
                self._changed.wait(self.seconds / 4)
            published, again = self._published, self._published is None and 0 not in self.gone
        channel.send(Kind.DONE, again, parts=(published,) if published is not None else ())

"""Where the workers of a run leave word for each other: how far they are, what rank 0 wants, who has gone."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from downpour.strategies.messages import Kind, pack
from downpour.strategies.transport import Channel, Frame, Lost

EPISODES, STATE = 0, 1  # boxes
STOPPING = 1


class Board:
    """Kept by one server; rank 0 speaks for the run.

    Attributes:
        steps: worker -> (steps of its stream, gradient steps).
        gone: worker -> why it went, empty if it was done.
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
        self._asked, self._stopping = 0, False
        self._published: memoryview | None = None
        self._changed = threading.Condition()

    @contextmanager
    def presence(self, worker: int) -> Iterator[None]:
        """While a worker is connected; if it goes without a word, it is gone."""
        try:
            yield
        except Lost as error:
            self.leave(worker, f"{error}")

    def leave(self, worker: int, reason: str) -> None:
        """A worker goes, and why; without a reason, because it is done."""
        with self._changed:
            self.gone.setdefault(worker, reason)
            self._changed.notify_all()

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
            self._stopping = True
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
        channel.send(Kind.DONE, *totals, self._asked, self._stopping, (pack(news),) if news else ())

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
                end = time.monotonic() + self.seconds
                while self._missing() and (left := end - time.monotonic()) > 0:
                    self._changed.wait(left)
            found = [(worker, part) for worker, parts in sorted(self._boxes[box].items()) for part in parts]
            if box == EPISODES:
                self._boxes[box].clear()
        channel.send(Kind.DONE, len(found))
        for worker, part in found:
            channel.send(Kind.DONE, worker, parts=(part,))

    def _missing(self) -> list[int]:
        return [w for w in range(1, self.workers) if w not in self.gone and self._answered[w] < self._asked]

    def _join(self, channel: Channel) -> None:
        with self._changed:
            while self._published is None and 0 not in self.gone:
                self._changed.wait()
            published = self._published
        channel.send(Kind.DONE, parts=(published,) if published is not None else ())

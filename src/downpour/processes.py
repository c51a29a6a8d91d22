"""Signals that stop a run, and processes that end with the one that started them."""

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handle(handler: Callable[[int, FrameType | None], Any]) -> dict[int, Any]:
    """Have `handler` called on the signals that stop a run; returns the handlers before.

    Signals that are ignored (nohup, a background job of a shell) stay so; in a thread other than the main one, all do.
    """
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    return before


def restore(handlers: dict[int, Any]) -> None:
    """Put back the handlers that `handle` returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def end_with(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process receive a signal when its parent ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it has ended already
            os._exit(1)

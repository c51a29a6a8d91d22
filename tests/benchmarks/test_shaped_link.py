"""`benchmarks/shaped_link.py`: a link that is slow on purpose, and two ranks at its ends."""

import os
import socket
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def shaped_link(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("shaped_link")


def test_a_machine_that_allows_no_such_link_is_told_so(
    shaped_link: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: Any) -> None:
        raise shaped_link.NotAllowed("there is no command ip")

    monkeypatch.setattr(shaped_link, "measure", measure)
    assert shaped_link.main(1) == "skipped: this machine makes no shaped link: there is no command ip"


def test_the_relay_lets_no_packet_arrive_too_early(shaped_link: ModuleType) -> None:
    """Ten packets of 1 000 bytes at 1 Mbit/s leave 8 ms after one another, in order; each is 30 ms on its way."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
    ends = [inner.fileno() for _, inner in pairs]
    for end in ends:
        os.set_blocking(end, False)
    over = threading.Event()
    carrier = threading.Thread(target=shaped_link._carry, args=(ends, 0.03, 1e6, over))
    carrier.start()
    try:
        (left, _), (right, _) = pairs
        begin = time.perf_counter()
        for number in range(10):
            left.send(bytes([number]) * 1000)
        arrived = [(right.recv(2000)[0], time.perf_counter() - begin) for _ in range(10)]
        right.send(b"back")
        assert left.recv(10) == b"back"
    finally:
        over.set()
        carrier.join()
        for pair in pairs:
            for each in pair:
                each.close()
    assert [number for number, _ in arrived] == list(range(10))
    assert all(seconds >= 0.03 + 0.008 * (number + 1) for number, seconds in arrived)

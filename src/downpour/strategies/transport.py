"""Frames over authenticated sockets: what workers and servers of one run say to each other."""

import hashlib
import hmac
import logging
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

FRAME = struct.Struct("<5qQ")  # what it is, four numbers, bytes that follow
CHALLENGE = 32
MAC = hashlib.sha256().digest_size
HANDSHAKE_SECONDS = 10
TOKEN = "DOWNPOUR_TOKEN"  # the variable in which processes of a run find its secret


class Lost(ConnectionError):
    """The other side has gone, or does not answer."""


class Refused(ConnectionError):
    """The other side does not know this run's secret."""


class Frame(NamedTuple):
    """A message: what it is, numbers, and content."""

    kind: int
    a: int
    b: int
    c: int
    d: int
    content: memoryview


class Channel:
    """One connection whose two sides have proved to know the secret of the run; frames go both ways.

    Attributes:
        sent, received: bytes so far.
    """

    def __init__(self, connection: socket.socket, seconds: float | None = None):
        """
        Args:
            seconds: longest wait for the other side; None waits until it has gone.
        """
        self.socket = connection
        self.sent = self.received = 0
        self._head = memoryview(bytearray(FRAME.size))
        self._likely: memoryview | None = None  # where the content of the last frame went: the next is of that kind
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that is switched off says no goodbye
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if seconds:  # by the kernel: Python's own timeouts cost a call to poll each time
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", max(1, int(seconds)), 0))

    def send(self, kind: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, parts: Sequence[Any] = ()) -> None:
        """Send a frame; its content is that of the buffers `parts`, one after another.

        Raises:
            Lost: the other side has gone.
        """
        size = sum([memoryview(part).nbytes for part in parts])
        self.sent += FRAME.size + size
        try:
            done = self.socket.sendmsg([FRAME.pack(kind, a, b, c, d, size), *parts])
            if done < FRAME.size + size:
                rest = b"".join([FRAME.pack(kind, a, b, c, d, size), *(memoryview(p).cast("B") for p in parts)])
                self.socket.sendall(memoryview(rest)[done:])
        except OSError as error:
            raise Lost(str(error)) from None

    def receive(self, into: Mapping[tuple[int, int], memoryview] | None = None) -> Frame:
        """Wait for a frame.

        Args:
            into: (what it is, its first number) -> where its content goes, if that is of the right size; else into a
                new buffer. The other side must then wait for an answer to each of its frames: head and content are
                read in one call, as far as they are there.

        Raises:
            Lost: the other side has gone, was silent for too long, or has said more than one frame.
        """
        likely = self._likely if into else None
        early = self._begin(likely) if likely is not None else self._fill(self._head)
        kind, a, b, c, d, size = FRAME.unpack(self._head)
        content = into.get((kind, a)) if into and size else None
        if content is not None and content.nbytes == size:
            self._likely = content
        else:
            content = memoryview(bytearray(size))
        if early:
            if early > size:
                raise Lost("it spoke out of turn")
            if content is not likely:
                content[:early] = likely[:early]  # type: ignore[index]
        if size > early:
            self._fill(content[early:])
        self.received += FRAME.size + size
        return Frame(kind, a, b, c, d, content)

    def _begin(self, likely: memoryview) -> int:
        """Read the head, and what is there of the content to where that is likely to go; how much that is."""
        try:
            count = self.socket.recvmsg_into([self._head, likely])[0]
        except BlockingIOError:
            raise Lost("it does not answer") from None
        except OSError as error:
            raise Lost(error.strerror or str(error)) from None
        if count == 0:
            raise Lost("it has closed the connection")
        if count < FRAME.size:
            return self._fill(self._head[count:])
        return count - FRAME.size

    def _fill(self, buffer: memoryview) -> int:
        filled = 0
        while filled < buffer.nbytes:
            try:
                count = self.socket.recv_into(buffer[filled:], 0, socket.MSG_WAITALL)
            except BlockingIOError:
                raise Lost("it does not answer") from None
            except OSError as error:
                raise Lost(error.strerror or str(error)) from None
            if count == 0:
                raise Lost("it has closed the connection")
            filled += count
        return 0

    def close(self) -> None:
        """Hang up."""
        self.socket.close()


def listen(address: str, port: int | None) -> socket.socket:
    """A socket that others can connect to; no port takes a free one.

    Raises:
        OSError: the port is in use, or the address is not of this machine.
    """
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((address, port or 0), family=family, backlog=1024)


def welcome(connection: socket.socket, token: bytes) -> Channel:
    """The server's side of a new connection; each proves to the other that it knows the secret, which is never sent.

    Raises:
        Refused: the other side does not.
    """
    connection.settimeout(HANDSHAKE_SECONDS)
    mine = secrets.token_bytes(CHALLENGE)
    try:
        connection.sendall(mine)
        answer = _read(connection, MAC + CHALLENGE)
        theirs = answer[MAC:]
        if not hmac.compare_digest(answer[:MAC], _prove(token, b"worker", mine + theirs)):
            raise Refused("wrong secret")
        connection.sendall(_prove(token, b"server", theirs + mine))
    except OSError as error:
        connection.close()
        raise Refused(str(error)) from None
    return Channel(connection)


def connect(address: tuple[str, int], token: bytes, seconds: float) -> Channel:
    """Connect to a server, which may be about to start.

    Args:
        seconds: longest wait, now and for each answer.

    Raises:
        Lost: nobody answers.
        Refused: somebody does who does not know the secret, or says that we do not.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            connection = socket.create_connection(address, timeout=max(0.1, end - time.monotonic()))
            break
        except OSError as error:
            if time.monotonic() > end - 0.1:
                raise Lost(error.strerror or str(error)) from None
            time.sleep(0.1)
    connection.settimeout(max(HANDSHAKE_SECONDS, seconds))
    try:
        theirs = _read(connection, CHALLENGE)
        mine = secrets.token_bytes(CHALLENGE)
        connection.sendall(_prove(token, b"worker", theirs + mine) + mine)
        if not hmac.compare_digest(_read(connection, MAC), _prove(token, b"server", mine + theirs)):
            raise Refused("it does not know the secret of this run")
    except Refused:
        connection.close()
        raise
    except OSError:
        connection.close()
        raise Refused("it is no server of this run") from None
    return Channel(connection, seconds)


def token_of_this_run() -> bytes:
    """The secret that the launcher gave this process."""
    return bytes.fromhex(os.environ[TOKEN])


def _prove(token: bytes, who: bytes, challenge: bytes) -> bytes:
    return hmac.digest(token, who + challenge, "sha256")


def _read(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = connection.recv(size - len(found))
        if not part:
            raise Refused("it has closed the connection")
        found += part
    return found


def serve(listener: socket.socket, token: bytes, answer: Callable[[Channel], None]) -> None:
    """Answer whoever connects and knows the secret, each in a thread of its own; never returns."""

    def meet(connection: socket.socket) -> None:
        try:
            channel = welcome(connection, token)
        except Refused as error:
            log.info("a connection was refused: %s", error)
            return
        try:
            answer(channel)
        finally:
            channel.close()

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=meet, args=(connection,), daemon=True).start()

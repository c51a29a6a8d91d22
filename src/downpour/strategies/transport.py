"""Frames over authenticated sockets, between the workers and servers of a run."""

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

FRAME = struct.Struct("<5qQ")  # kind, four numbers, bytes of content that follow
CHALLENGE = 32
MAC = hashlib.sha256().digest_size
HANDSHAKE_SECONDS = 10
MOST_BUFFERS = 1000  # of one call; Linux takes 1024
TOKEN = "DOWNPOUR_TOKEN"  # environment variable with the secret of a run, 64 hexadecimal digits


class Lost(ConnectionError):
    """The peer has closed the connection, or does not answer."""


class Refused(ConnectionError):
    """The peer does not know the secret of this run."""


class Frame(NamedTuple):
    """A message: its kind (see `messages.Kind`), four numbers, and content."""

    kind: int
    a: int
    b: int
    c: int
    d: int
    content: memoryview


class Channel:
    """An authenticated connection that carries frames both ways.

    Attributes:
        sent, received: bytes so far.
    """

    def __init__(self, connection: socket.socket, seconds: float | None = None):
        """
        Args:
            seconds: timeout of sending and receiving; None waits as long as the peer is connected.
        """
        self.socket = connection
        self.sent = self.received = 0
        self._header = memoryview(bytearray(FRAME.size))
        self._likely: memoryview | None = None  # buffer of the last content: likely that of the next
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # detects a host that was switched off
        for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 6)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if seconds:  # in the kernel: Python's own timeouts cost a call of poll for each operation
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", max(1, int(seconds)), 0))

    def send(self, kind: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0, parts: Sequence[Any] = ()) -> None:
        """Send a frame, whose content is the concatenation of the buffers `parts`.

        Raises:
            Lost: the peer has closed the connection, or does not read.
        """
        size = sum([memoryview(part).nbytes for part in parts])
        if len(parts) >= MOST_BUFFERS:
            parts = [b"".join(memoryview(part).cast("B") for part in parts)]
        self.sent += FRAME.size + size
        try:
            sent = self.socket.sendmsg([FRAME.pack(kind, a, b, c, d, size), *parts])
            if sent < FRAME.size + size:
                rest = b"".join([FRAME.pack(kind, a, b, c, d, size), *(memoryview(p).cast("B") for p in parts)])
                self.socket.sendall(memoryview(rest)[sent:])
        except OSError as error:
            raise Lost(str(error)) from None

    def receive(self, into: Mapping[tuple[int, int], memoryview] | None = None) -> Frame:
        """Wait for a frame.

        Args:
            into: (kind, first number) -> buffer for the content, used if its size is right; otherwise a new one is.
                The peer must then wait for an answer to each of its frames: header and content are read in one call,
                which may not reach into the next frame.

        Raises:
            Lost: the peer has closed the connection, timed out, or sent a frame out of turn.
        """
        likely = self._likely if into else None
        content_read = 0
        if likely is None:
            self._fill(self._header)
        else:
            content_read = self._begin(likely)
        kind, a, b, c, d, size = FRAME.unpack(self._header)
        content = into.get((kind, a)) if into and size else None
        if content is not None and content.nbytes == size:
            self._likely = content
        else:
            content = memoryview(bytearray(size))
        if content_read:
            if content_read > size:
                raise Lost("it spoke out of turn")
            if content is not likely:
                content[:content_read] = likely[:content_read]  # type: ignore[index]
        if size > content_read:
            self._fill(content[content_read:])
        self.received += FRAME.size + size
        return Frame(kind, a, b, c, d, content)

    def _begin(self, likely: memoryview) -> int:
        """Read the header, and the available content into `likely`; returns the bytes of content."""
        try:
            count = self.socket.recvmsg_into([self._header, likely])[0]
        except BlockingIOError:
            raise Lost("it does not answer") from None
        except OSError as error:
            raise Lost(error.strerror or str(error)) from None
        if count == 0:
            raise Lost("it has closed the connection")
        if count < FRAME.size:
            self._fill(self._header[count:])
        return max(0, count - FRAME.size)

    def _fill(self, buffer: memoryview) -> None:
        """Read until the buffer is full."""
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

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def listen(address: str, port: int | None) -> socket.socket:
    """A listening socket; None picks a free port.

    Raises:
        OSError: the port is in use, or the address is not one of this machine.
    """
    family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((address, port or 0), family=family, backlog=1024)


def welcome(connection: socket.socket, token: bytes) -> Channel:
    """The server's side of the handshake: each proves to the other that it knows the secret, which is never sent.

    Raises:
        Refused: the peer does not know the secret, or does not answer.
    """
    connection.settimeout(HANDSHAKE_SECONDS)
    own_challenge = secrets.token_bytes(CHALLENGE)
    try:
        connection.sendall(own_challenge)
        answer = _read(connection, MAC + CHALLENGE)
        peer_challenge = answer[MAC:]
        if not hmac.compare_digest(answer[:MAC], _proof(token, b"worker", own_challenge + peer_challenge)):
            raise Refused("wrong secret")
        connection.sendall(_proof(token, b"server", peer_challenge + own_challenge))
    except OSError as error:
        connection.close()
        raise Refused(str(error)) from None
    return Channel(connection)


def connect(address: tuple[str, int], token: bytes, seconds: float) -> Channel:
    """Connect to a server, which may not have started yet.

    Args:
        seconds: timeout, of connecting and of each answer.

    Raises:
        Lost: no connection within `seconds`.
        Refused: the peer does not know the secret, or refuses ours.
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
        peer_challenge = _read(connection, CHALLENGE)
        own_challenge = secrets.token_bytes(CHALLENGE)
        connection.sendall(_proof(token, b"worker", peer_challenge + own_challenge) + own_challenge)
        if not hmac.compare_digest(_read(connection, MAC), _proof(token, b"server", own_challenge + peer_challenge)):
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


def _proof(token: bytes, role: bytes, challenge: bytes) -> bytes:
    return hmac.digest(token, role + challenge, "sha256")


def _read(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise Refused("it has closed the connection")
        received += part
    return received


def serve(listener: socket.socket, token: bytes, answer: Callable[[Channel], None]) -> None:
    """Accept authenticated connections, and call `answer` for each in its own thread; never returns."""

    def handle(connection: socket.socket) -> None:
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
        threading.Thread(target=handle, args=(connection,), daemon=True).start()

"""Open connections: who may keep one, and how long a client may take.

Reading a request and writing an answer have deadlines that a client cannot stretch by sending a
byte now and then, and when all places are taken, a new client gets the place of the one that has
kept the server waiting longest.
"""

import contextlib
import io
import socket
import threading
import time
from typing import Any

_SEND_BYTES = 2**18


class Connections:
    """The open connections: which of them wait for their client, and since when.

    Args:
        limit: How many there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting_since: dict[socket.socket, float | None] = {}  # None: at work
        self._idle: set[socket.socket] = set()  # wait for a new request, in no part of one
        self._changed = threading.Condition()
        self._is_closing = False

    def add(self, connection: socket.socket) -> bool:
        """Takes a new connection, if need be in place of another; False if there is no place."""
        with self._changed:
            if self._is_closing:
                return False
            if len(self._waiting_since) >= self._limit:
                waiting = [
                    (since_s, other)
                    for other, since_s in self._waiting_since.items()
                    if since_s is not None
                ]
                if not waiting:
                    return False
                _, oldest = min(waiting, key=lambda item: item[0])
                self._forget(oldest)
                hang_up(oldest)
            self._waiting_since[connection] = time.monotonic()
            self._idle.add(connection)
            return True

    def remove(self, connection: socket.socket) -> None:
        """Forgets a connection."""
        with self._changed:
            self._forget(connection)

    def wait_for_request(self, connection: socket.socket) -> bool:
        """Notes that a request was answered; False if there shall be no other."""
        return self._note(connection, time.monotonic(), is_idle=True)

    def receive(self, connection: socket.socket) -> bool:
        """Notes that a request has begun to come; False if the connection was given up."""
        return self._note(connection, time.monotonic(), is_idle=False)

    def work(self, connection: socket.socket) -> bool:
        """Notes that a request is complete; False if the connection was given up."""
        return self._note(connection, None, is_idle=False)

    @property
    def is_closing(self) -> bool:
        """Whether the server is stopping."""
        return self._is_closing

    def close(self, grace_s: float) -> None:
        """Hangs up on those without a request, and on the others when the time is over."""
        with self._changed:
            self._is_closing = True
            for connection in self._idle:
                hang_up(connection)
            self._changed.wait_for(lambda: not self._waiting_since, grace_s)
            for connection in self._waiting_since:
                hang_up(connection)
            # Their threads notice at once, unless the graph is at work for them.
            self._changed.wait_for(lambda: not self._waiting_since, 1.0)

    def _note(self, connection: socket.socket, since_s: float | None, *, is_idle: bool) -> bool:
        with self._changed:
            if connection not in self._waiting_since or (is_idle and self._is_closing):
                return False
            self._waiting_since[connection] = since_s
            (self._idle.add if is_idle else self._idle.discard)(connection)
            return True

    def _forget(self, connection: socket.socket) -> None:
        self._waiting_since.pop(connection, None)
        self._idle.discard(connection)
        self._changed.notify_all()


class Stream(io.RawIOBase):
    """A connection's bytes, with a deadline for whole messages rather than for each piece.

    Args:
        connection: The connection.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._deadline_s = 0.0

    def allow(self, seconds: float) -> None:
        """Sets the deadline: all that follows must be done in this time."""
        self._deadline_s = time.monotonic() + seconds

    def readable(self) -> bool:
        """Says that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads what is there, or waits for something.

        Raises:
            OSError: the connection is broken, or, TimeoutError, the deadline has passed.
        """
        self._set_timeout()
        return self._connection.recv_into(buffer)

    def send(self, data: bytes) -> None:
        """Writes all of the data.

        Raises:
            OSError: see `readinto`.
        """
        rest = memoryview(data)
        while rest:
            self._set_timeout()
            rest = rest[self._connection.send(rest[:_SEND_BYTES]) :]

    def _set_timeout(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("The client is too slow")
        self._connection.settimeout(left_s)


def hang_up(connection: socket.socket) -> None:
    """Ends a connection, and any wait for it in another thread."""
    with contextlib.suppress(OSError):  # closed already
        # Not SSLSocket's own method, which takes its state away under the other thread's hands.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)

"""What ``http.client`` takes for a socket, over a :class:`~streams.transports.sockets.Line`: every wait has
one way out, and a call has one deadline as a whole.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import Aborted, ConnectFailed, ConnectionLost
from .transports.proxies import Proxy
from .transports.sockets import Line
from .transports.tls import TlsCodec, tls_context

__all__ = ["Call", "Caller", "Wire"]

_BUFFER = 8192  # of an answer; what is in it when that ends is lost, so no more than is good for its head
_FOREVER = 1e9
_GRACE = 1.0    # seconds past its deadline in which a call takes what is here already


@dataclass
class Call:
    """One :meth:`streams.http.AbortableSession.fetch` under way."""

    deadline: float
    idle: Callable[[], float] | None
    end: float | None = None  # of its grace, once it is late

    def takes(self) -> bool:
        """Whether it takes what is here already. When late, too: this process may have been held up. But
        not for ever, as a peer could always have more."""
        now = time.monotonic()
        if now >= self.deadline and self.end is None:
            self.end = now + _GRACE
        return self.end is None or now < self.end


class Caller(Protocol):
    """Whose connections these are.

    Attributes:
        timeout: Seconds to connect, and to read.
        through: The proxy, or None.
        sslopt: TLS options.
    """

    timeout: tuple[float, float]
    through: Proxy | None
    sslopt: Mapping[str, Any] | None

    def call(self) -> Call | None:
        """The call under way in this thread."""

    def add(self, line: Line) -> None:
        """A line that is to be ended when all are."""

    def drop(self, line: Line) -> None:
        """It has ended."""


class Wire:
    """What ``http.client`` needs of a socket, over a line.

    Like a socket it stays open until the files made of it are closed, too: an answer that ends with
    its connection is read after ``http.client`` has closed the connection.
    """

    def __init__(self, session: Caller, host: str, port: int, timeout: float | None,
                 tls: bool) -> None:
        self._session = session
        self._line = Line()
        self._left = b""
        self._users = 1
        self._timeout = timeout
        session.add(self._line)
        call = session.call()
        deadline = math.inf if call is None else call.deadline
        try:
            self._line.open(host, port, self._at_most(session.timeout[0]), session.through, deadline)
            if tls:
                self._line.start_tls(_codec(session.sslopt, host), self._at_most(session.timeout[0]))
        except BaseException:
            self._release()
            raise

    def _at_most(self, default: float) -> float:
        """Seconds for the next step: its time-out, or what the call under way has left."""
        seconds = default if self._timeout is None else self._timeout
        call = self._session.call()
        return seconds if call is None else max(0.0, min(seconds, call.deadline - time.monotonic()))

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def quiet(self) -> bool:
        """Whether it is open and has nothing to say, as it should between two requests."""
        if self._left:
            return False        # more than one answer: it would be taken for the next one
        try:
            if not self._line.aborted:          # or the parent's, which has forked
                self._line.receive()
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def sendall(self, data: bytes) -> None:
        try:
            self._line.send(bytes(data), self._at_most(self._session.timeout[1]))
        except ConnectionLost as error:
            # http.client expects it: an early answer (413, 429) may be there to be read all the same.
            raise BrokenPipeError(32, str(error)) from None

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        self._users += 1
        return io.BufferedReader(_Reader(self), _BUFFER)

    def read(self, most: int) -> bytes:
        """At most ``most`` bytes, ``b""`` at the end."""
        if not self._left:
            self._left = self._receive()
        data, self._left = self._left[:most], self._left[most:]
        return data

    def _receive(self) -> bytes:
        line, call = self._line, self._session.call()
        until = time.monotonic() + self._at_most(_FOREVER)
        idle = call.idle if call is not None else None
        while True:
            line.attention = False
            pause = _FOREVER if idle is None else idle()
            try:
                data = line.receive()
            except BlockingIOError:
                data = None
            if line.aborted:
                raise Aborted("aborted")
            if data is not None and (call is None or call.takes()):
                return data
            left = until - time.monotonic()
            if left <= 0 or data is not None:
                raise TimeoutError("no answer in time")
            line.wait(max(0.0, min(left, pause)))

    def close(self) -> None:
        """One user less; the last one gives the line back."""
        self._users -= 1
        if self._users == 0:
            self._release()

    def _release(self) -> None:
        self._session.drop(self._line)
        self._line.close()


class _Reader(io.RawIOBase):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._wire.read(len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._wire.close()


def _codec(sslopt: Mapping[str, Any] | None, host: str) -> TlsCodec:
    try:
        context = tls_context(sslopt)
    except OSError as error:
        raise ConnectFailed(f"TLS options: {error.strerror or error}") from None
    return TlsCodec(context, (sslopt or {}).get("server_hostname") or host)

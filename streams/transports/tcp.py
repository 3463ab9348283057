"""Messages over plain TCP or TLS, cut from the stream by one of the framings of :mod:`.framing`.

The socket and its waits are :mod:`.sockets`'; the loop reads large blocks and hands over all whole
messages of a block in one call.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from ..errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from .base import Closed, Receiver, Target, Transport, receiver_raised
from .framing import FramingError, framing_from
from .proxies import parse_proxy
from .sockets import Line, peer_name
from .tls import TlsCodec, check_sslopt, tls_context

__all__ = ["TcpTransport"]

_CLOSE_GRACE = 0.5  # seconds for the peer's part of a polite close
_FAIL_GRACE = 0.2  # seconds for what the peer sent before we could send no more


class TcpTransport(Transport):
    """One conversation over TCP.

    Target: ``tcp://host:port`` or ``tls+tcp://host:port``; ``options`` as in :mod:`.framing`, for
    example ``{"framing": "length", "width": 2}``. What is sent is framed the same way; text is sent
    as UTF-8.

    Raises:
        ConfigurationError: The target can not work.
        MissingDependency: A SOCKS proxy without ``python-socks``.
    """

    def __init__(self, target: Target, receiver: Receiver) -> None:
        super().__init__(target, receiver)
        self._host, self._port, self._secure = _parse(target)
        self._framing = framing_from(target.options, target.max_message)
        self._proxy = parse_proxy(target.proxy) if target.proxy else None
        self._line = _TcpLine()
        self._opened = False
        self._over = False
        self._closing = False
        self._due = 0.0

    # -- the contract ----------------------------------------------------------------------------

    def run(self) -> Closed:
        error: TransportError | None = None
        try:
            self._connect()
            self._opened = True
            self._tell(self.receiver.opened)
            self._read()
            self._line.finish(_CLOSE_GRACE)
        except TransportError as failure:
            error = failure
        except OSError as failure:
            error = self._failed(failure)
        finally:
            self._over = True
            self._line.close()
        if self._line.aborted and error is not None:
            error = Aborted("aborted")
        return Closed(error, self._opened)

    def send(self, data: bytes | str) -> None:
        if not self._opened or self._over or self._closing:
            raise ConnectionLost(f"{self._name}: not connected")
        message = data.encode() if isinstance(data, str) else data
        try:
            self._line.send(self._framing.wrap(message), self.target.send_timeout)
        except ValueError as error:
            raise TransportError(f"{self._name}: {error}") from None

    def close(self) -> None:
        self._closing = True
        self._line.attention = True

    def take_leisure(self, leisure: bool) -> None:
        self._line.leisure = leisure

    def wake(self) -> None:
        self._line.wake()

    def abort(self) -> None:
        self._line.abort()

    # -- inside ----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return peer_name(self._host, self._port)

    def _connect(self) -> None:
        target, line = self.target, self._line
        if line.aborted:
            raise Aborted("aborted")
        line.open(self._host, self._port, target.connect_timeout, self._proxy)
        if self._secure:
            sslopt = target.sslopt or {}
            name = sslopt.get("server_hostname") or self._host
            line.start_tls(TlsCodec(tls_context(sslopt), name), target.connect_timeout)

    def _read(self) -> None:
        """Until our own ``close()``; every other end is an exception."""
        line, take, monotonic = self._line, self._take, time.monotonic
        while True:
            now = monotonic()
            if now >= self._due or line.attention:
                if self._look_around():
                    return
                continue
            block = line.read(now, self._due)
            if block is None:
                continue
            if not block:
                inside = " in the middle of a message" if self._framing.inside else ""
                raise ConnectionLost(f"{self._name} ended the connection{inside}")
            take(block)

    def _take(self, block: bytes) -> None:
        try:
            messages = self._framing.cut(block)
        except FramingError as broken:
            self._lose_frame(broken)
        else:
            if messages:
                try:  # what _tell does, one call less for each block
                    self.receiver.received(messages)
                except Exception as error:
                    receiver_raised(self._name, error)

    def _look_around(self) -> bool:
        """What is due, or what somebody has asked for. True when it was ``close()``."""
        line = self._line
        line.attention = False
        if line.aborted:
            raise Aborted("aborted")
        if line.failure is not None and not self._closing:
            self._hear_out()
            raise line.failure
        if not self._closing:
            self._due = time.monotonic() + max(0.0, self._tell(self.receiver.tick))
        return self._closing

    def _hear_out(self) -> None:
        """Take what a peer that takes nothing any more has sent before."""
        deadline = time.monotonic() + _FAIL_GRACE
        try:
            while not self._closing and time.monotonic() < deadline and (block := self._line.receive()):
                self._take(block)
        except (OSError, TransportError):
            pass  # that sending failed is the older error

    def _lose_frame(self, broken: FramingError) -> None:
        if broken.messages:
            self._tell(self.receiver.received, broken.messages)
        self._tell(self.receiver.malformed, broken.reason)
        raise ConnectionLost(f"{self._name} sent {broken.reason}")

    def _tell(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            receiver_raised(self._name, error)

    def _failed(self, failure: OSError) -> TransportError:
        text = f"{self._name}: {failure.strerror or failure}"
        return ConnectionLost(text) if self._opened else ConnectFailed(text)


class _TcpLine(Line):
    """A line that can end politely: all that was sent arrives before the end does."""

    def finish(self, grace: float) -> None:
        """Say that nothing more comes, and give the peer ``grace`` seconds to do the same."""
        deadline = time.monotonic() + grace
        try:
            if self._tls is not None:
                self.send_by(self._tls.goodbye(), deadline)
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_WR)
            # Closing with unread bytes would send a reset, which overtakes what was sent before it.
            while time.monotonic() < deadline and self.receive_by(deadline):
                pass
        except (OSError, TransportError):
            pass  # it is over anyway


def _parse(target: Target) -> tuple[str, int, bool]:
    """Host, port and whether it is TLS."""
    try:
        parts = urlsplit(target.url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("tcp", "tls+tcp"):
        raise ConfigurationError("the url must be tcp://host:port or tls+tcp://host:port")
    check_sslopt(target.sslopt)
    return host, port, parts.scheme == "tls+tcp"

"""Redis pub/sub: ``redis://`` and ``rediss://``.

redis-py logs in, chooses the database and writes commands, over our line, so nothing in it blocks or
retries; what the server then sends is cut from large blocks by :mod:`.resp`. The rest is as over any
TCP connection. This is the only transport that imports redis-py.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import ConfigurationError, ConnectFailed, ConnectionLost, MissingDependency
from ..pubsub import Kind, pack
from .base import Receiver, Target
from .resp import PING, PushFraming
from .sockets import Line, peer_name
from .tcp import TcpTransport

__all__ = ["RedisAddress", "RedisTransport", "parse_url"]


@dataclass(frozen=True)
class RedisAddress:
    """Where a Redis server is, and who we are there."""

    host: str
    port: int
    secure: bool
    database: int
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def public(self) -> str:
        """The URL without credentials."""
        return f"redis{'s' * self.secure}://{peer_name(self.host, self.port)}/{self.database}"


def parse_url(url: str) -> RedisAddress:
    """``redis://[[user]:password@]host[:port][/database]``, or ``rediss://`` for TLS.

    Raises:
        ConfigurationError: It is something else (its text is not repeated: it may hold a password).
    """
    host, port, database = None, 6379, 0
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or port
        database = int(parts.path.strip("/") or 0)
    except ValueError:
        host = None
    if not host or parts.scheme not in ("redis", "rediss") or parts.query or database < 0:
        raise ConfigurationError("the url must be redis[s]://[[user]:password@]host[:port][/database]")
    return RedisAddress(
        host, port, parts.scheme == "rediss", database, unquote(parts.username or "") or None,
        unquote(parts.password or "") or None)


class RedisTransport(TcpTransport):
    """One subscriber's conversation with a Redis server.

    Messages are those of :mod:`streams.pubsub`, both ways. The first is ``HELLO``; or ``DENIED``, and the
    end, when the server does not let us in: then the channel part is ``login`` or ``database``.

    Target: ``url`` as in :func:`parse_url`. Credentials may be given as ``username`` and ``password`` in
    ``headers`` instead; those win.

    Raises:
        ConfigurationError: The target can not work.
        MissingDependency: redis-py is not installed, or python-socks for a SOCKS proxy.
    """

    def __init__(self, target: Target, receiver: Receiver) -> None:
        address = parse_url(target.url)
        session = _session_class()
        carrier = "tls+tcp" if address.secure else "tcp"
        plain = f"{carrier}://{peer_name(address.host, address.port)}"
        super().__init__(replace(target, url=plain, options={"framing": "delimited"}), receiver)
        self.target = replace(target, url=address.public)
        self._session = session(
            self._plug, host=address.host, port=address.port, db=address.database,
            username=target.headers.get("username") or address.username,
            password=target.headers.get("password") or address.password)
        self._framing = PushFraming(target.max_message, self._encode, receiver.alive)
        self._greeting = pack(Kind.HELLO)

    def ping(self) -> bool:
        self.send(PING)
        return True

    def _encode(self, *words: str) -> bytes:
        return b"".join(self._session.pack_command(*words))

    def _plug(self) -> _Plug:
        return _Plug(self._line, self.target.connect_timeout)

    def _connect(self) -> None:
        super()._connect()
        from redis import exceptions as refusals

        try:
            self._session.connect()
            # Without a password redis-py asks nothing that a server must refuse to strangers.
            self._session.send_command("PING", check_health=False)
            self._session.read_response()
        except refusals.TimeoutError:
            raise ConnectFailed(f"{self._name} did not answer the log-in in time") from None
        except refusals.NoPermissionError:
            pass  # known, only not to ping
        except refusals.AuthenticationError as error:
            self._greeting = pack(Kind.DENIED, b"login", payload=str(error).encode())
        except refusals.ResponseError as error:
            self._greeting = pack(Kind.DENIED, b"database", payload=str(error).encode())
        except refusals.RedisError as error:
            raise ConnectFailed(f"{self._name}: {error}") from None

    def _read(self) -> None:
        self._tell(self.receiver.received, [self._greeting])
        if self._greeting[0] == Kind.DENIED:
            raise ConnectionLost(f"{self._name} did not let us in")
        super()._read()


class _Plug:
    """What redis-py needs of a socket while it logs in, over a line. All of it within ``timeout``."""

    def __init__(self, line: Line, timeout: float) -> None:
        self._line = line
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._left = b""

    def recv(self, most: int) -> bytes:
        if not self._left:
            self._left = self._line.receive_by(self._deadline)
        data, self._left = self._left[:most], self._left[most:]
        return data

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        self._line.send(data, self._timeout)

    def gettimeout(self) -> None:
        """No time-out of redis-py's: the deadline holds."""

    def _nothing(self, *_: Any) -> None:
        """The line is closed by its owner."""

    settimeout = shutdown = close = _nothing


@functools.lru_cache(maxsize=1)
def _session_class() -> Callable[..., Any]:
    try:
        from redis import Connection
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ImportError:
        raise MissingDependency("redis", extra="redis") from None

    class Session(Connection):
        """redis-py's connection, on a line of ours."""

        def __init__(self, plug: Callable[[], _Plug], **options: Any) -> None:
            # Two is the version of the protocol that :mod:`.resp` reads.
            super().__init__(  # type: ignore[no-untyped-call]
                protocol=2, retry=Retry(NoBackoff(), 0), **options)
            self._plug = plug

        def _connect(self) -> Any:
            return self._plug()

    return Session

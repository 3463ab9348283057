"""redis-py over lines: a Redis client whose every wait any thread can end at once.

redis-py writes and reads the protocol, logs in, pools connections and keeps locks; underneath are not
its own sockets but :class:`~streams.transports.sockets.Line` objects, as under the transports. So no call
outlives :meth:`RedisClient.abort`, whatever the server is doing, and proxies and TLS are the same
everywhere. redis-py's own retries are off.

This is the only module that imports redis-py.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from .checks import check_seconds
from .errors import Aborted, ConfigurationError, ConnectFailed, MissingDependency, TransportError
from .forking import tell_after_fork
from .transports.proxies import parse_proxy
from .transports.sockets import Line, peer_name
from .transports.tls import TlsCodec, check_sslopt, tls_context

__all__ = ["Plug", "RedisAddress", "RedisClient", "parse_url", "redis_py", "session_class"]


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
    except (ValueError, TypeError, AttributeError):
        host = None
    if not host or parts.scheme not in ("redis", "rediss") or parts.query or database < 0:
        raise ConfigurationError("the url must be redis[s]://[[user]:password@]host[:port][/database]")
    return RedisAddress(
        host, port, parts.scheme == "rediss", database, unquote(parts.username or "") or None,
        unquote(parts.password or "") or None)


def redis_py() -> Any:
    """redis-py.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        import redis
    except ImportError:
        raise MissingDependency("redis", extra="redis") from None
    return redis


class Plug:
    """What redis-py needs of a socket, over a line that is open.

    Args:
        timeout: Seconds for each wait, until redis-py says otherwise.
        within: Seconds for everything together; None: no such limit.
    """

    def __init__(self, line: Line, timeout: float, within: float | None = None) -> None:
        self._line = line
        self._timeout: float | None = timeout
        self._patience = timeout
        self._end = None if within is None else time.monotonic() + within
        self._left = b""

    def recv(self, most: int) -> bytes:
        if not self._left:
            timeout = self._patience if self._timeout is None else self._timeout
            deadline = time.monotonic() + timeout
            self._left = self._line.receive_by(deadline if self._end is None else min(deadline, self._end))
        data, self._left = self._left[:most], self._left[most:]
        return data

    def recv_into(self, buffer: Any) -> int:
        data = self.recv(len(buffer))
        buffer[:len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        self._line.send(data, self._patience)

    def settimeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def gettimeout(self) -> float | None:
        return self._timeout

    def shutdown(self, how: int) -> None:
        """The line is ended by its owner."""

    def close(self) -> None:
        """Likewise."""


@functools.lru_cache(maxsize=1)
def session_class() -> Callable[..., Any]:
    """redis-py's connection, on a plug of ours: ``session_class()(plug, host=..., ...)``, where ``plug()``
    opens one. It speaks version 2 of the protocol, which is what :mod:`streams.transports.resp` reads.

    Raises:
        MissingDependency: redis-py is not installed.
    """
    redis = redis_py()
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    class Session(redis.Connection):  # type: ignore[misc,name-defined]
        def __init__(self, plug: Callable[[], Plug], **options: Any) -> None:
            # hiredis, where it is installed, would poll a socket that is not there.
            super().__init__(**{
                **options, "protocol": 2, "retry": Retry(NoBackoff(), 0),
                "parser_class": redis.connection._RESP2Parser})
            self._plug = plug

        def _connect(self) -> Any:
            return self._plug()

    return Session


class _OwnLine(Plug):
    """A plug that ends its line with it."""

    def __init__(self, line: Line, timeout: float, done: Callable[[Line], None]) -> None:
        super().__init__(line, timeout)
        self._done = done

    def close(self) -> None:
        """Give the line back."""
        self._done(self._line)


class RedisClient:
    """A client with a pool of such connections.

    Args:
        url: See :func:`parse_url`.
        timeout: Seconds for each of: resolving, connecting, TLS, sending a command, its answer.
        proxy, sslopt: As in :class:`~streams.transports.base.Target`.

    Attributes:
        redis: The ``redis.Redis``. Calls of it raise ``redis.RedisError``, or our :class:`TransportError`
            where no connection could be made.
        errors: What to catch of both.
        public: The URL without credentials.

    Raises:
        ConfigurationError: The url, or an option, can not work.
        MissingDependency: redis-py is not installed.

    Threads: any, for everything.
    """

    def __init__(
        self, url: str, *, timeout: float = 2.0, proxy: str | None = None,
        sslopt: Mapping[str, Any] | None = None,
    ) -> None:
        redis = redis_py()
        address = self._address = parse_url(url)
        check_sslopt(sslopt)
        check_seconds("timeout", timeout)
        self.public = address.public
        self.aborted = False
        self.errors: tuple[type[BaseException], ...] = (redis.RedisError, TransportError)
        self._proxy = parse_proxy(proxy) if proxy else None
        self._sslopt = sslopt
        self._timeout = timeout
        self._guard = threading.RLock()
        self._lines: set[Line] = set()
        self._connect()
        tell_after_fork(self)

    def __repr__(self) -> str:
        return f"<RedisClient {self.public}>"

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Connections are the parent's."""
        self._guard = threading.RLock()
        self._lines = set()
        self._connect()

    def _connect(self) -> None:
        redis, address, timeout = redis_py(), self._address, self._timeout
        self._pool = redis.ConnectionPool(
            connection_class=session_class(), plug=self._open, host=address.host, port=address.port,
            db=address.database, username=address.username, password=address.password,
            socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2)
        self.redis: Any = redis.Redis(connection_pool=self._pool)

    def abort(self) -> None:
        """End every call under way, and refuse later ones. Never blocks."""
        self.aborted = True
        with self._guard:
            for line in self._lines:
                line.abort()

    def close(self) -> None:
        """Give all connections back."""
        self.abort()
        self._pool.disconnect()

    def _open(self) -> Plug:
        if self.aborted:
            raise Aborted("aborted")
        address, line, timeout = self._address, Line(), self._timeout
        with self._guard:
            self._lines.add(line)
        try:
            if self.aborted:
                raise Aborted("aborted")
            line.open(address.host, address.port, timeout, self._proxy)
            if address.secure:
                name = (self._sslopt or {}).get("server_hostname") or address.host
                line.start_tls(TlsCodec(tls_context(self._sslopt), name), timeout)
        except OSError as error:
            self._give_back(line)
            raise ConnectFailed(f"{self.public}: {error}") from None
        except BaseException:
            self._give_back(line)
            raise
        return _OwnLine(line, timeout, self._give_back)

    def _give_back(self, line: Line) -> None:
        with self._guard:
            self._lines.discard(line)
        line.close()

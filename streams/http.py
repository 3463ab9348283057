"""HTTP that can be abandoned: ``requests`` over connections whose every wait has one way out.

``requests`` blocks in a name look-up, a connect, a handshake, a held answer or a slow body, and
nothing ends that from outside but its read time-out, which a slow peer extends with every byte.
Here its connections are :class:`~streams.transports.sockets.Line` objects, which never block: so
:meth:`AbortableSession.abort` ends every request at once in whatever state it is, a request has one
deadline as a whole, and a held request (a long poll) can do other work while it waits. Proxies and
TLS are those of the other transports, too. This is the only module that imports ``requests``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .bells import Latch
from .errors import Aborted, ConfigurationError, ConnectionLost, StreamsError
from .httpwire import Call, Wire
from .transports.base import check_headers
from .transports.proxies import Proxy, parse_proxy
from .transports.retry import length_of, retry_after_of
from .transports.sockets import Line
from .transports.tls import check_sslopt

__all__ = ["AbortableSession", "Answer", "AnswerTooLong", "prepared"]

_CHUNK = 16384  # of a body as it comes; unpacked it may be a thousand times that


class AnswerTooLong(ConnectionLost):
    """The body of an answer is longer than was allowed; it was not read to its end."""


@dataclass(frozen=True)
class Answer:
    """What the server said.

    Attributes:
        status: HTTP status.
        headers: By name, in any case.
        body: Whole and unpacked (gzip, deflate).
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks us to wait; None when it does not."""
        return retry_after_of(self.headers.get("Retry-After", ""), self.headers.get("Date", ""))


class AbortableSession(requests.Session):
    """A ``requests.Session`` that any thread can end at once. One way: an aborted one stays aborted.

    It takes nothing from the environment (no proxies, no ``.netrc``), retries nothing and pools its
    connections like any session. Proxy and TLS are fixed for the session.

    Args:
        timeout: Seconds: ``(connect, read)``. The first for each of resolving, connecting, TLS; the
            second for each wait for bytes.
        proxy: As in :class:`~streams.transports.base.Target`.
        sslopt: As in :class:`~streams.transports.base.Target`.

    Raises:
        ConfigurationError: A proxy or a TLS option that can not work.
    """

    def __init__(
        self, *, timeout: tuple[float, float] = (3.05, 10.0), proxy: str | None = None,
        sslopt: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_sslopt(sslopt)
        self.trust_env = False
        self.timeout = timeout
        self.sslopt = sslopt
        self.ended = Latch()
        self.through: Proxy | None = parse_proxy(proxy) if proxy else None
        self._guard = threading.RLock()
        self._lines: set[Line] = set()
        self._calls = threading.local()
        self.mount("https://", _Adapter(self))
        self.mount("http://", _Adapter(self))

    @property
    def aborted(self) -> bool:
        """Whether :meth:`abort` was called."""
        return self.ended.is_set()

    def abort(self) -> None:
        """End every request under way: each raises :class:`Aborted`, and so does every later one.

        Threads: any; never blocks; harmless twice.
        """
        self.ended.set()
        with self._guard:
            for line in self._lines:
                line.abort()

    def wake(self) -> None:
        """Have the ``idle`` function of the requests under way called soon. Threads: any; never blocks."""
        with self._guard:
            for line in self._lines:
                line.wake()

    def forget(self) -> None:
        """Close the connections that are kept for later requests: they may be dead. Those in use stay.
        Threads: any; never blocks."""
        for adapter in self.adapters.values():
            assert isinstance(adapter, _Adapter)
            adapter.poolmanager.clear()

    def close(self) -> None:
        """End every request and give the connections back. Threads: any."""
        self.abort()
        super().close()

    def fetch(
        self, method: str, url: str, *, params: Any = None, data: bytes | None = None,
        headers: Mapping[str, str] | None = None, timeout: tuple[float, float] | None = None,
        deadline: float | None = None, max_body: int = 16 * 1024 * 1024,
        idle: Callable[[], float] | None = None,
    ) -> Answer:
        """One request and its whole answer, whatever its status. Redirects are not followed.

        Args:
            params: Query parameters, added to those of ``url``.
            data: Body of the request.
            timeout: Instead of the session's.
            deadline: Seconds for everything together, by default the sum of ``timeout``.
            max_body: Bytes; a longer body is not read on.
            idle: Called while the answer is awaited: at first, after :meth:`wake`, and when the seconds
                that it returned have passed. What it raises ends the request and is raised here.

        Raises:
            ConnectFailed: No connection.
            ConnectionLost: No whole answer: time-out, broken connection, bad HTTP.
            AnswerTooLong: The body is longer than ``max_body``.
            Aborted: :meth:`abort` was called.
            ConfigurationError: No URL that can be asked, or a header that can not be sent.

        Threads: any. No message of an error holds more of the URL than its host.
        """
        check_headers(headers or {})
        timeout = timeout or self.timeout
        seconds = sum(timeout) if deadline is None else deadline
        self._calls.now = Call(time.monotonic() + seconds, idle)
        try:
            with self.request(
                method, url, params=params, data=data, headers=dict(headers or {}), timeout=timeout,
                stream=True, allow_redirects=False,
            ) as response:
                return Answer(response.status_code, response.headers, _body(response, max_body))
        except StreamsError:
            if self.aborted:
                raise Aborted("aborted") from None
            raise
        except requests.exceptions.InvalidSchema:
            raise ConfigurationError("a URL must begin with http:// or https://") from None
        except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema):
            raise ConfigurationError("this is no complete http:// or https:// URL") from None
        except requests.RequestException as error:
            if self.aborted:
                raise Aborted("aborted") from None
            # Not its own text: that has the whole URL, and keys may be in it.
            raise ConnectionLost(_plain(error)) from None
        finally:
            self._calls.now = None

    def reach(self, url: str) -> None:
        """Connect to the server of ``url``, and keep the connection for the first request to it.

        Raises:
            ConnectFailed: No connection.
            Aborted: :meth:`abort` was called.
            ConfigurationError: No such URL.

        Threads: any.
        """
        if self.aborted:
            raise Aborted("aborted")
        try:
            adapter = self.get_adapter(url)
            assert isinstance(adapter, _Adapter)
            adapter.connect(url)
        except (requests.RequestException, urllib3.exceptions.LocationValueError):
            raise ConfigurationError("this is no complete http:// or https:// URL") from None
        except StreamsError:
            if self.aborted:
                raise Aborted("aborted") from None
            raise

    # -- for the connections ---------------------------------------------------------------------

    def call(self) -> Call | None:
        """The call of this thread that is under way."""
        now: Call | None = getattr(self._calls, "now", None)
        return now

    def add(self, line: Line) -> None:
        """``line`` is about to be used."""
        with self._guard:
            self._lines.add(line)
        if self.aborted:
            line.abort()

    def drop(self, line: Line) -> None:
        """``line`` is closed."""
        with self._guard:
            self._lines.discard(line)


def prepared(url: str) -> str:
    """What ``requests`` makes of a URL: elsewhere some are read differently. ValueError: it is none."""
    return requests.Request("GET", url).prepare().url or ""


def _body(response: requests.Response, limit: int) -> bytes:
    pieces = []
    size = length_of(response.headers.get("Content-Length", ""))
    if size <= limit:
        size = 0
        for piece in response.iter_content(_CHUNK):
            size += len(piece)
            if size > limit:
                break
            pieces.append(piece)
    if size > limit:
        raise AnswerTooLong(f"the answer is longer than {limit} bytes")
    return b"".join(pieces)


def _plain(error: BaseException) -> str:
    """What went wrong at the bottom of ``error``, without addresses."""
    seen = [error]
    while True:
        last = seen[-1]
        inner = [getattr(last, "reason", None), *last.args, last.__cause__, last.__context__]
        below = next((e for e in inner if isinstance(e, BaseException) and e not in seen), None)
        if below is None:
            break
        seen.append(below)
    if any(isinstance(e, requests.exceptions.Timeout | TimeoutError) for e in seen):
        return "no whole answer in time"
    if isinstance(last, OSError) and last.strerror:
        return last.strerror
    return f"no whole answer: {type(last).__name__}"


# -- under requests and urllib3 -------------------------------------------------------------------


class _Adapter(requests.adapters.HTTPAdapter):
    """Makes ``requests`` use our connections."""

    def __init__(self, session: AbortableSession) -> None:
        self._session = session
        super().__init__()

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **options)
        self.poolmanager.pool_classes_by_scheme = {
            "http": partial(_pool, HTTPConnectionPool, _Connection, self._session),
            "https": partial(_pool, HTTPSConnectionPool, _TlsConnection, self._session),
        }

    def connect(self, url: str) -> None:
        """Put an open connection to the server of ``url`` into its pool."""
        request = requests.Request("GET", url).prepare()
        pool: Any = self.get_connection_with_tls_context(request, True)
        connection = pool._get_conn()
        try:
            if connection.sock is None:
                connection.connect()
        finally:
            pool._put_conn(connection)

    def send(
        self, request: requests.PreparedRequest, stream: bool = False, timeout: Any = None,
        verify: Any = True, cert: Any = None, proxies: Any = None,
    ) -> requests.Response:
        if self._session.aborted:
            raise Aborted("aborted")
        if verify is not True or cert or proxies:
            raise ConfigurationError("give AbortableSession proxy= and sslopt=, not proxies, verify or cert")
        return super().send(request, stream, timeout or self._session.timeout)


def _pool(kind: Any, connection: Any, session: AbortableSession, *args: Any, **options: Any) -> Any:
    pool = kind(*args, **options)
    pool.ConnectionCls = partial(connection, session)
    return pool


class _Connection(HTTPConnection):
    _tls = False

    def __init__(self, session: AbortableSession, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._session = session

    def connect(self) -> None:
        self.sock: Any = Wire(self._session, self.host, self.port, self.timeout, self._tls)

    @property
    def is_connected(self) -> bool:
        return self.sock is not None and self.sock.quiet()


class _TlsConnection(_Connection, HTTPSConnection):
    _tls = True

    def connect(self) -> None:
        super().connect()
        self.is_verified = True  # as far as the user wants it: urllib3 would warn at every request

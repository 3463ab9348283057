"""HTTP that can be abandoned: ``requests`` over connections whose every wait has one way out.

``requests`` blocks in a name look-up, a connect, a handshake, a held answer or a slow body, and
nothing ends that from outside but its read time-out, which a slow peer extends with every byte.
Here its connections are :class:`~streams.transports.sockets.Line` objects, which never block: so
:meth:`AbortableSession.abort` ends every request at once in whatever state it is, a request has one
deadline as a whole, and a held request (a long poll) can do other work while it waits. Proxies and
TLS are those of the other transports, too. This is the only module that imports ``requests``.
"""

from __future__ import annotations

import io
import math
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
from .errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, StreamsError
from .transports.base import check_headers
from .transports.proxies import Proxy, parse_proxy
from .transports.retry import length_of, retry_after_of
from .transports.sockets import Line
from .transports.tls import TlsCodec, check_sslopt, tls_context

__all__ = ["AbortableSession", "Answer", "AnswerTooLong", "prepared"]

_CHUNK = 16384  # of a body as it comes; unpacked it may be a thousand times that
_BUFFER = 8192  # of an answer; what is in it when that ends is lost, so no more than is good for its head
_FOREVER = 1e9
_GRACE = 1.0    # seconds past its deadline in which a call takes what is here already


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
        self._calls.now = _Call(time.monotonic() + seconds, idle)
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

    def call(self) -> _Call | None:
        """The call of this thread that is under way."""
        now: _Call | None = getattr(self._calls, "now", None)
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


@dataclass
class _Call:
    """One :meth:`AbortableSession.fetch` under way."""

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
        self.sock: Any = _Wire(self._session, self.host, self.port, self.timeout, self._tls)

    @property
    def is_connected(self) -> bool:
        return self.sock is not None and self.sock.quiet()


class _TlsConnection(_Connection, HTTPSConnection):
    _tls = True

    def connect(self) -> None:
        super().connect()
        self.is_verified = True  # as far as the user wants it: urllib3 would warn at every request


class _Wire:
    """What ``http.client`` needs of a socket, over a line.

    Like a socket it stays open until the files made of it are closed, too: an answer that ends with
    its connection is read after ``http.client`` has closed the connection.
    """

    def __init__(self, session: AbortableSession, host: str, port: int, timeout: float | None,
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
    def __init__(self, wire: _Wire) -> None:
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

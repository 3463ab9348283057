"""REST beside the stream: snapshots for books, fallbacks, and ready sessions for users' own calls.

All calls of one exchange under one manager go through one :class:`Rest`: it keeps the venue's weight limit,
obeys Retry-After, and can be ended at once. It never blocks a network thread. What was spent of the limit
outlives it: the venue goes on counting, whoever of this process asks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .backoff import RollingWindow
from .credentials import scrubber, secret_headers, secrets_of
from .errors import StreamsError, TransportError
from .forking import tell_after_fork
from .metrics import Guarded, Metrics, NoMetrics
from .pool import Pool
from .venue import RestRequest

if TYPE_CHECKING:
    from .http import AbortableSession, Answer
    from .restsession import ExchangeSession

__all__ = ["Rest", "RestRefused"]

WORKERS = 4             # snapshots fetched at the same time, per exchange
DEFAULT_RETRY = 5.0     # seconds to stay away after a refusal without Retry-After


class RestRefused(TransportError):
    """The server answered, but not with what was asked for.

    Attributes:
        status: The HTTP status.
        retry_after: Seconds not to ask again, 0.0 when it did not say.
    """

    def __init__(self, message: str, status: int, retry_after: float) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class _Share:
    """What all who ask the same venue at the same address have in common, one after the other or at once.

    Attributes:
        turn: Held while any of this is looked at or changed.
        not_before: Monotonic seconds: the server asked us to stay away until then.
        windows: What was spent, by the limit that it is held against.
    """

    def __init__(self) -> None:
        self.turn = threading.Condition()
        self.not_before = 0.0
        self.windows: dict[tuple[int, float], RollingWindow] = {}

    def forked(self) -> None:
        """This is a child's copy: no answer to the parent's calls comes here. May be called again."""
        self.turn = threading.Condition()
        for window in self.windows.values():
            window.release(time.monotonic(), window.held)


_shares: dict[tuple[str, str, str | None], _Share] = {}     # (exchange, address, proxy): few, and for ever


class Rest:
    """The REST side of one exchange.

    Args:
        exchange: For messages and metrics; those of the same name and address share what they spend.
        base_url: Scheme, host, port.
        limit: ``(weight, seconds)``.
        headers: Of every call: credentials.
        proxy, sslopt: As for a stream.
        metrics: Where requests are counted.

    Threads: any, for everything.
    """

    def __init__(
        self, exchange: str, base_url: str, limit: tuple[int, float], *,
        headers: Mapping[str, str] | None = None, proxy: str | None = None,
        sslopt: Mapping[str, Any] | None = None, metrics: Metrics | None = None,
    ) -> None:
        self.exchange = exchange
        self.base_url = base_url.rstrip("/")
        self._headers = dict(headers or {})
        self._clean = scrubber(*secret_headers(self._headers), *secrets_of(base_url))
        self._proxy = proxy
        self._sslopt = sslopt
        self._metrics = Guarded(metrics or NoMetrics())
        self._share = _shares.setdefault((exchange, self.base_url, proxy), _Share())
        self._window = self._share.windows.setdefault((limit[0], limit[1]), RollingWindow(*limit))
        self._closed = ""                   # or why
        self._session: ExchangeSession | None = None
        self._fetcher: AbortableSession | None = None
        self._pool = Pool(WORKERS, f"streams-rest-{exchange}")
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Connections are the parent's: two on one would mix."""
        self._share.forked()
        self._session = self._fetcher = None

    def session(self) -> ExchangeSession:
        """A ``requests.Session`` for users' own calls. Made when first asked for: importing ``requests``
        takes longer than all the rest of this package."""
        with self._share.turn:
            self._check_open()
            if self._session is None or self._session.aborted:      # its user has closed the last one
                from .restsession import ExchangeSession
                self._session = ExchangeSession(
                    self.base_url, self._headers, lambda deadline: self.turn(1, deadline), self.hold_off,
                    proxy=self._proxy, sslopt=self._sslopt)
            return self._session

    def _own(self) -> AbortableSession:
        """The session of :meth:`get`."""
        with self._share.turn:
            self._check_open()
            if self._fetcher is None:
                from .http import AbortableSession
                self._fetcher = AbortableSession(proxy=self._proxy, sslopt=self._sslopt)
            return self._fetcher

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"{self.exchange}: {self._closed}")

    def fetch(self, request: RestRequest, done: Callable[[str, bytes | None, str, float], None],
              wanted: Callable[[], bool]) -> None:
        """Make a call beside the caller's thread; ``done(url, body, error, retry_after)`` is called
        from a worker, exactly once, unless this is closed before, or it is no longer ``wanted()`` when
        its turn comes. ``body`` is None on error."""
        def work() -> None:
            if not wanted():
                return
            url = self.base_url + request.path
            try:
                body = self.get(request)
            except Exception as error:
                # A mistake of ours is answered, too, or the book would wait for ever. Its own text may
                # have keys in it.
                said = str(error) if isinstance(error, StreamsError) else type(error).__name__
                if not self._closed:
                    done(url, None, said, getattr(error, "retry_after", 0.0) or 0.0)
            else:
                query = "&".join(f"{name}={value}" for name, value in request.params.items())
                done(f"{url}?{query}" if query else url, body, "", 0.0)
        if not self._closed:
            self._pool.submit(work)

    def get(self, request: RestRequest, timeout: float | None = None) -> bytes:
        """Make a call in this thread, when the limit allows it.

        Args:
            timeout: Seconds, waiting for the limit included; None: the session's.

        Raises:
            RestRefused: Any status but 200.
            TransportError: No answer; or this was closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.turn(request.weight, deadline):
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            result = "failed"
            try:
                answer = self._own().fetch(
                    "GET", self.base_url + request.path, params=dict(request.params),
                    headers=self._headers, deadline=left)
                result = str(answer.status)
            finally:
                self._metrics.inc("rest_requests", exchange=self.exchange, result=result)
        if answer.status == 200:
            return answer.body
        raise self._refused(request, answer)

    def suspect(self) -> None:
        """The network has gone silent: what was kept open for later calls is not used any more."""
        fetcher = self._fetcher
        if fetcher is not None:
            fetcher.forget()

    def close(self, why: str = "REST is closed") -> None:
        """End every call under way, at once; later ones raise, and say ``why``."""
        with self._share.turn:
            self._closed = why
            sessions = [session for session in (self._session, self._fetcher) if session is not None]
            self._share.turn.notify_all()
        for session in sessions:
            session.close()
        self._pool.close()

    @contextmanager
    def turn(self, weight: int, deadline: float | None = None) -> Iterator[None]:
        """For the time of one call: wait until the venue's limit has room for that weight, and take it.

        A call may reach the venue at any time until its answer is here, so it counts from its beginning
        until one window after its end: those sent well apart may arrive close together.

        Raises:
            TransportError: There is no room before ``deadline`` (monotonic seconds); or this was closed.
        """
        self._wait_turn(weight, deadline)
        try:
            yield
        finally:
            with self._share.turn:
                self._window.release(time.monotonic(), weight)

    def _wait_turn(self, weight: int, deadline: float | None) -> None:
        """Take part of the limit, when there is room. Nobody need be told when some is released: that
        makes no room before the time that was waited for anyway."""
        with self._share.turn:
            while not self._closed:
                now = time.monotonic()
                wait = max(self._share.not_before - now, self._window.wait(now, weight))
                if wait <= 0:
                    self._window.hold(weight)
                    return
                if deadline is not None and now + wait > deadline:
                    raise TransportError(f"{self.exchange}: the REST limit leaves no room for {wait:.1f} s")
                self._share.turn.wait(wait)
            self._check_open()

    def hold_off(self, seconds: float) -> None:
        """The server wants no calls for so long. Every further one would lengthen a ban, so all of them
        wait."""
        with self._share.turn:
            self._share.not_before = max(self._share.not_before, time.monotonic() + seconds)

    def _refused(self, request: RestRequest, answer: Answer) -> RestRefused:
        retry_after = answer.retry_after or 0.0
        if answer.status in (418, 429):
            retry_after = retry_after or DEFAULT_RETRY
            self.hold_off(retry_after)
        said = self._clean(answer.body[:300].decode("utf-8", "replace"))[:80]
        return RestRefused(f"{request.path}: HTTP {answer.status} {said!r}", answer.status, retry_after)

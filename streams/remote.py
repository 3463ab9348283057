"""``RemoteStore``: reads like a :class:`~streams.store.Store`, is filled from Redis.

On the other side is :meth:`StreamManager.publish`, in another process or on another machine. A thread
listens to all publishers, finds what it missed in their logs, and marks what it can not be sure of:
a ``live`` book here is one that is live there, with nothing missing in between.

Ages and stamps are by the collectors' clocks (or ours, whichever is behind), so the machines' clocks
should agree.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from .backoff import Backoff
from .bells import Latch
from .checks import check_seconds, check_timeout, names
from .errors import Aborted, ConfigurationError, NotReady, StopTimeout, TransportError
from .fanout import Batch, Keys, decode_batch, decode_kept
from .forking import tell_after_fork
from .pubsub import Kind, Message, command, unpack
from .redisclient import RedisClient, parse_url
from .replicas import Line, Replicas
from .store import Store
from .tables import Table
from .transports.base import Target
from .transports.redis import RedisTransport

__all__ = ["RemoteStore"]

log = logging.getLogger("streams.remote")

T = TypeVar("T")

LOOK = 0.25             # seconds between two looks at who has fallen silent
PAGE = 200              # entries of a log that are fetched at once
LARGEST = 256 * 1024 * 1024
GIVEN_UP = 60.0         # seconds of silence after which whoever else has the same is believed
FORGOTTEN = 3600.0      # seconds of silence after which nothing is remembered of a line
# What a log says is right, but nobody knows yet whether there is more, nor whether its line still lives.
_UNHEARD = "its collector has not been heard of yet"
_BEHIND = "what comes from its collector is old, or the clocks differ"


class RemoteStore(Store):
    """A store that follows publishers. A context manager, or ``start()`` and ``stop()``::

        with streams.RemoteStore("redis://localhost") as store:
            store.wait_ready(timeout=10, books=[("binance", "BTC-USDT")])
            print(store.orderbooks["binance"]["BTC-USDT"].best_bid)

    Args:
        url: ``redis://[[user]:password@]host[:port][/database]``, or ``rediss://`` for TLS.
        prefix: As the publishers have it.
        exchanges, symbols: Keep only these; None: everything.
        stale_after: Seconds without a sign of life after which a publisher's books are ``stale``; they are
            live again with one that is no older, by the clocks of both machines.
        timeout: Seconds for each step of connecting, and for each command.
        proxy, sslopt: See :class:`~streams.transports.base.Target`.

    Raises:
        ConfigurationError: Something that can not work.
        MissingDependency: redis-py is not installed.

    Threads: any, for everything public.
    """

    def __init__(
        self, url: str, *, prefix: str = "streams", exchanges: Collection[str] | None = None,
        symbols: Collection[str] | None = None, stale_after: float = 2.0, timeout: float = 2.0,
        proxy: str | None = None, sslopt: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_seconds("stale_after", stale_after)
        address = parse_url(url)
        given = {"username": address.username, "password": address.password}
        self._target = Target(
            address.public, {name: value for name, value in given.items() if value}, proxy=proxy,
            sslopt=sslopt, connect_timeout=timeout, max_message=LARGEST)
        self._url = url
        self._client_options: dict[str, Any] = {"timeout": timeout, "proxy": proxy, "sslopt": sslopt}
        self._client = self._new_client()
        self._public = self._client.public
        self._keys = Keys(prefix)
        self._stale_after = stale_after
        self._writer = self.writer()
        self._replicas = Replicas(
            self, self._writer, _chosen("exchanges", exchanges), _chosen("symbols", symbols))
        self._lines: dict[str, Line] = {}
        self._control = threading.RLock()
        self._transport: RedisTransport | None = None
        self._thread: threading.Thread | None = None
        self._ending = Latch()              # each run has one of its own
        self._followed = threading.Event()      # all that there was has been caught up with
        self.last_error: str | None = None
        self._connects = 0
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Nobody follows here, until it is started again."""
        self._control, self._ending, self._followed = threading.RLock(), Latch(), threading.Event()
        self._transport = self._thread = None
        with self._writer.lock:
            self._replicas.close("this is a forked child")

    def __repr__(self) -> str:
        return f"<RemoteStore from {self._public}>"

    def __enter__(self) -> RemoteStore:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if not self.stop() and error is None:
            raise StopTimeout("the thread of the RemoteStore still runs")

    # -- control ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to follow; again after :meth:`stop`.

        Raises:
            ConfigurationError: It runs.
        """
        with self._control:
            if self._thread is not None and self._thread.is_alive():
                raise ConfigurationError("this RemoteStore runs already; stop() it first")
            if self._client.aborted:
                self._client = self._new_client()
            self._ending = Latch()
            self._followed.clear()
            self._thread = threading.Thread(target=self._run, name="streams-remote", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Follow no more. Data stays readable, its books marked ``closed``.

        Returns:
            Whether the thread has ended within ``timeout`` seconds.
        """
        timeout = check_timeout(timeout)
        self._ending.set()
        with self._control:
            thread, transport = self._thread, self._transport
        self._client.abort()
        if transport is not None:
            transport.abort()
        if thread is not None and thread.is_alive():    # not if a signal handler finds it about to begin
            thread.join(timeout)
            if thread.is_alive():
                return False
        self._client.close()
        return True

    def status(self) -> dict[str, Any]:
        """How it is, a copy: ``connected last_error connects lines books`` (how many of each status), and
        counts."""
        books: dict[str, int] = {}
        for book in self._replicas.books():
            books[book.status] = books.get(book.status, 0) + 1
        return {
            "connected": self._transport is not None and self._followed.is_set(),
            "last_error": self.last_error, "connects": self._connects,
            "lines": [line.name for line in list(self._lines.values()) if not line.silent],
            "books": books, **vars(self._replicas.counts),
        }

    def wait_ready(self, timeout: float | None = None, books: Sequence[tuple[str, str]] = ()) -> None:
        """Wait until everything that there was has been caught up with, and these books are live.

        Args:
            books: ``(exchange, symbol)``.

        Raises:
            NotReady: Not in ``timeout`` seconds; the message says what is missing.
            ConfigurationError: It has not been started; or an argument is something else.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        _check_pairs(books)
        if self._thread is None:
            raise ConfigurationError("this RemoteStore has not been started; start() it, or use 'with'")
        deadline = None if timeout is None else time.monotonic() + timeout

        def left() -> float | None:
            return None if deadline is None else max(0.0, deadline - time.monotonic())

        if not self._followed.wait(left()):
            raise NotReady(f"nothing from {self._public} yet: {self.last_error or 'not connected'}")
        seen = self.last_update
        while missing := [key for key in books if not self._live(*key)]:
            if left() == 0.0:
                shown = ", ".join(" ".join(key) for key in missing[:5])
                raise NotReady(f"no live order book from {self._public} yet: {shown}")
            seen = self.wait(seen, 0.05)

    def _live(self, exchange: str, symbol: str) -> bool:
        book = self.orderbooks.get(exchange, Table()).get(symbol)
        return book is not None and book.status == "live"

    def _new_client(self) -> RedisClient:
        return RedisClient(self._url, **self._client_options)

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(base=0.2, cap=2.0, healthy_after=5.0)
        while not self._ending.is_set():
            begun = time.monotonic()
            follower = _Follower(self)
            transport = RedisTransport(self._target, follower)
            follower.transport = transport
            with self._control:
                self._transport = transport
            if self._ending.is_set():
                break
            closed = transport.run()
            with self._control:
                self._transport = None
            self._lost(str(follower.failure or closed.error or "closed"))
            if not self._ending.is_set():
                self._ending.wait(backoff.next(time.monotonic() - begun if closed.opened else 0.0))
        with self._writer.lock:
            self._replicas.close("stopped")
        self._followed.clear()
        self.notify()

    def _lost(self, reason: str) -> None:
        if not self._ending.is_set():
            level = logging.WARNING if self._followed.is_set() or not self.last_error else logging.DEBUG
            log.log(level, "%r: %s; connecting again", self, reason)
            self.last_error = reason
        self._followed.clear()
        with self._writer.lock:
            for line in self._lines.values():
                self._replicas.silent(line, "the connection to Redis is lost")
        self.notify()

    # -- for the follower, on the thread -----------------------------------------------------------------

    def _subscribed(self) -> None:
        """The connection listens: from here on nothing passes by. Catch up with what did before."""
        redis, keys = self._client.redis, self._keys
        self._connects += 1
        for raw in redis.hkeys(keys.lines):
            name = raw.decode()
            if redis.exists(keys.alive(name)):
                self._line(name)
            else:
                redis.hdel(keys.lines, name)
        for line in list(self._lines.values()):
            self._catch_up(line, None)
        self.last_error = None
        self._followed.set()
        self.notify()

    def _take(self, batch: Batch) -> None:
        line = self._line(batch.line, batch.number)
        if batch.number <= line.number:
            return      # sent twice, or found in the log before: no sign of life
        line.heard, line.given_up = time.monotonic(), False
        if batch.number > line.number + 1:
            self._catch_up(line, batch.number)
        with self._writer.lock:
            self._replicas.apply(line, batch)
            self._end_silence(line, time.time_ns() - batch.time)
        if batch.ending:
            self._lines.pop(line.name, None)

    def _end_silence(self, line: Line, age: int) -> None:
        """A batch has been taken. One that was long on its way (Redis was out of reach, or hung) does not
        tell what is now."""
        if age <= self._stale_after * 1e9:
            self._replicas.heard(line)
        elif line.silent and line.silent != _BEHIND:
            log.warning("%r: %s: %s (%.1f s)", self, line.name, _BEHIND, age / 1e9)
            self._replicas.silent(line, _BEHIND)

    def _line(self, name: str, number: int = 0) -> Line:
        """The line of that name; a new one begins with the whole books that it keeps."""
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = Line(name, time.monotonic(), _UNHEARD)
            if number != 1:
                self._begin(line)
        return line

    def _begin(self, line: Line) -> None:
        """Start in the middle of a line: from kept books, each with what happened to it since; or from
        its beginning, where we listened already and were only away when it began."""
        if self._connects > 1:
            first, batches = self._logged_from(line, 1)
            if first is not None and first.number == 1:
                self._replay(line, batches)
                return
        kept = self._readable(decode_kept, self._client.redis.hvals(self._keys.books(line.name)))
        if not kept:
            return
        numbers = [one.number for one in kept]
        first, batches = self._logged_from(line, min(numbers) + 1)
        complete_since = (max(numbers) + 1 if first is None else first.number) - 1
        line.number = max(numbers)
        with self._writer.lock:
            for one in kept:
                if one.number >= complete_since:    # else what happened to it since is not all there
                    self._replicas.keep(line, one)
        self._replay(line, batches)

    def _replay(self, line: Line, batches: Iterable[Batch]) -> None:
        for batch in batches:
            if self._ending.is_set():
                raise Aborted("stopped")
            with self._writer.lock:                 # one by one: readers need not wait for all
                self._skip(line, batch.number)
                self._replicas.apply(line, batch)
            self._replicas.counts.filled += 1

    def _catch_up(self, line: Line, number: int | None) -> None:
        """Take the batches after the last one, up to before ``number``, from the log."""
        if line.number == 0 and number is None:
            return
        self._replay(line, self._logged(line, line.number + 1, number))
        if number is not None:
            with self._writer.lock:
                self._skip(line, number)

    def _skip(self, line: Line, number: int) -> None:
        """The next batch is this one: what is before it, if anything, is missing for good."""
        if line.number and number > line.number + 1:
            self._replicas.broken(line, f"batches {line.number + 1} to {number - 1} are missing")
        line.number = max(line.number, number - 1)

    def _logged_from(self, line: Line, since: int) -> tuple[Batch | None, Iterable[Batch]]:
        """The first batch of a line's log from that number on, and all of them."""
        batches = self._logged(line, since, None)
        first = next(batches, None)
        return first, batches if first is None else itertools.chain([first], batches)

    def _logged(self, line: Line, since: int, before: int | None) -> Iterator[Batch]:
        """Batches of a line's log, in order, read as they are needed."""
        last = "+" if before is None else f"{before - 1}-0"
        while True:
            page = self._client.redis.xrange(self._keys.log(line.name), f"{since}-0", last, count=PAGE)
            yield from self._readable(decode_batch, [fields.get(b"b", b"") for _, fields in page])
            if len(page) < PAGE:
                return
            since = int(page[-1][0].partition(b"-")[0]) + 1

    def _readable(self, decode: Callable[[bytes], T], raws: Sequence[bytes]) -> list[T]:
        """Those that can be read."""
        good = []
        for raw in raws:
            try:
                good.append(decode(raw))
            except ValueError as error:
                self._replicas.counts.malformed += 1
                log.warning("%r: not of ours: %.200s", self, error)
        return good

    def _look(self) -> None:
        """Who has fallen silent?"""
        now = time.monotonic()
        for line in list(self._lines.values()):
            silence = now - line.heard
            if silence > self._stale_after and not line.silent:
                log.warning("%r: nothing from %s for %.1f s", self, line.name, silence)
                with self._writer.lock:
                    self._replicas.silent(line, f"nothing from its collector for {silence:.1f} s")
                self.notify()
            elif silence > FORGOTTEN:
                del self._lines[line.name]
            line.given_up = silence > GIVEN_UP


class _Follower:
    """One connection's receiver."""

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        self.transport: RedisTransport | None = None
        self.failure: BaseException | None = None

    def opened(self) -> None:
        """See Receiver."""

    def received(self, messages: Sequence[bytes]) -> None:
        """See Receiver."""
        store = self._store
        try:
            for raw in messages:
                if raw[0] == Kind.PMESSAGE:
                    self._batch(unpack(raw).payload)
                else:
                    self._control(unpack(raw))
        except store._client.errors as error:
            self._fail(error)
        if store.waiters:
            store.notify()

    def _batch(self, payload: bytes) -> None:
        for batch in self._store._readable(decode_batch, [payload]):
            self._store._take(batch)

    def _control(self, message: Message) -> None:
        assert self.transport is not None
        if message.kind == Kind.HELLO:
            self.transport.send(command("psubscribe", [self._store._keys.every_live]))
        elif message.kind == Kind.PSUBSCRIBE:
            self._store._subscribed()
        elif message.kind in (Kind.DENIED, Kind.ERROR):
            self._fail(TransportError(message.payload.decode("utf-8", "replace")))

    def _fail(self, error: BaseException) -> None:
        """End this connection, for a new one."""
        assert self.transport is not None
        self.failure = self.failure or error
        self.transport.abort()

    def alive(self) -> None:
        """See Receiver."""

    def malformed(self, reason: str) -> None:
        """See Receiver."""
        self._store._replicas.counts.malformed += 1

    def tick(self) -> float:
        """See Receiver."""
        self._store._look()
        return LOOK


def _chosen(what: str, given: Collection[str] | None) -> frozenset[str] | None:
    if isinstance(given, str):
        raise ConfigurationError(f"{what}={given!r}: give a list of names")
    return None if given is None else frozenset(names(what, given) if given else ())


def _check_pairs(books: Any) -> None:
    pairs = not isinstance(books, str) and isinstance(books, Collection)
    if not pairs or not all(isinstance(key, (tuple, list)) and len(key) == 2 for key in books):
        raise ConfigurationError(f"books={books!r}: give pairs, like [('binance', 'BTC-USDT')]")

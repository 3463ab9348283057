"""``StreamManager``: many venues, one store, one set of handlers, one way to stop it all."""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .book import BookView
from .checks import check_count, check_keywords, check_seconds, check_timeout, names
from .errors import ConfigurationError, NotReady, StopTimeout
from .events import Ticker
from .fallback import Fallback, Provider
from .forking import tell_after_fork
from .group import Group, check_own
from .handlers import Handlers, Hearing
from .lifecycle import ENDED
from .metrics import Metrics, NoMetrics
from .pool import Pool
from .rest import Rest
from .settings import check_options
from .store import Store
from .stream import OPTIONS, POLITE, Stream
from .venue import Venue

if TYPE_CHECKING:
    from .publisher import Publisher
    from .restsession import ExchangeSession

__all__ = ["StreamManager"]

log = logging.getLogger("streams.manager")

T = TypeVar("T")

AT_LEAST = 0.1      # seconds that idle threads have to end, whatever took the time before


def stream_class(exchange: str) -> type[Stream]:
    """The stream class of an exchange by its name or alias. Raises ConfigurationError."""
    from .exchanges import exchange as find         # all venues: imported when first needed
    return find(exchange)


def _check_spelling(options: Mapping[str, Any]) -> None:
    """Raises ConfigurationError for what looks like an option of some exchange, and is none. What else is
    unknown may be of a venue of the user's own."""
    if options:
        from .exchanges import EXCHANGES
        known = {*OPTIONS, *(name for kind in EXCHANGES.values() for name in kind.venue.options)}
        for name in sorted(set(options) - known):
            near = difflib.get_close_matches(name, known, 1, 0.75)
            if near:
                raise ConfigurationError(f"there is no option {name!r}; did you mean {near[0]!r}?")


def _check_runs(exchange: str, group: Group) -> None:
    if group.ended:
        raise ConfigurationError(f"{exchange} runs no more ({group.last_words}); start() it anew")


def _not_on_a_stream(what: str) -> None:
    if isinstance(threading.current_thread(), Stream):
        raise ConfigurationError(
            f"{what}() may wait for the network, and this is a stream's own thread: use submit(), or a"
            " handler with another policy than 'inline'")


class StreamManager(Hearing):
    """Owns the streams of any number of exchanges, and the store they write into.

    A context manager: leaving the block, by whatever way, stops the threads; so does the end of the
    interpreter. ::

        with StreamManager() as market:
            market.start("binance", ["BTC-USDT"], channels=["book", "trades"])
            market.wait_ready(timeout=10)
            print(market.store.orderbooks["binance"]["BTC-USDT"].best_bid)

    Args:
        store: Where data goes; a new one when None.
        metrics: See :mod:`streams.metrics`.
        workers: Threads for :meth:`submit`.
        providers, ttl, max_jump, window: Of :meth:`ticker` and :meth:`orderbook`, see
            :class:`streams.fallback.Fallback`.
        options: Options of every stream (``proxy``, ``number``, ``recorder``, ...).

    Threads: any, for everything.
    """

    def __init__(self, *, store: Store | None = None, metrics: Metrics | None = None, workers: int = 4,
                 providers: Sequence[str | Provider] = ("rest",), ttl: Mapping[str, float] | None = None,
                 max_jump: float = 20.0, window: float = 60.0, **options: Any) -> None:
        check_options({**options, "store": store, "metrics": metrics})
        _check_spelling(options)
        check_own(options)
        check_count("workers", workers, "threads")
        self.store = store if store is not None else Store()
        self.metrics = metrics or NoMetrics()
        self.handlers = Handlers(self.metrics)
        self.fallback = Fallback(self.store, self._rest_side, self.metrics, providers=providers, ttl=ttl,
                                 max_jump=max_jump, window=window)
        self._options = options
        self._last_options: dict[str, dict[str, Any]] = {}      # those of the last start
        self._sides: dict[str, tuple[Venue, Rest]] = {}         # of exchanges that do not run
        self._groups: dict[str, Group] = {}
        self._publishers: list[Publisher] = []
        # Whoever holds it waits for nothing of the store: others hold store.lock, and call anything.
        self._lock = threading.RLock()
        self._workers = workers
        self._pool = Pool(workers, "streams-worker")
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Nothing runs here until it is started."""
        self._lock = threading.RLock()
        self._groups, self._sides = {}, {}

    def __enter__(self) -> StreamManager:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            self.stop()
        except StopTimeout as late:
            if error is None:
                raise
            log.error("%s", late)           # the error under way matters more

    def __repr__(self) -> str:
        return f"<StreamManager of {', '.join(self._groups) or 'nothing yet'}>"

    # -- what runs --------------------------------------------------------------------------------

    def start(self, /, exchange: str, symbols: Collection[str] | str,
              channels: Collection[str] | str = ("book",), **options: Any) -> None:
        """Start streaming; called again for the same exchange it adds to what runs. Where all of it has
        failed or come to an end it is begun anew, with these symbols, as after :meth:`stop`. Where a signal
        handler strikes in the middle of it, and stops the exchange, it stays stopped.

        Args:
            exchange: Name or alias of an exchange: ``binance``, ``huobi``, ...
            options: Options of :class:`Stream` and of the venue; those of the last time, where it was not
                stopped since and none are given.

        Raises:
            ConfigurationError: Something that can not work; nothing has been started then.
        """
        kind = stream_class(exchange)
        wanted, over = names("symbols", symbols), names("channels", channels)
        fresh: Group | None = None
        try:
            with self._lock:
                before = group = self._groups.get(kind.venue.name)
                asked = {**self._options, **options} if options or group is None else group.options
                if group is None or group.ended:
                    group = fresh = Group(kind, asked, self._shared())
                elif asked != group.options:
                    _check_spelling(options)
                    raise ConfigurationError(
                        f"{exchange} runs already, with other options; stop it first, or use another manager")
                self.handlers.open()
                self._groups[kind.venue.name] = group       # before it runs: a signal handler may stop it
                try:
                    group.subscribe(wanted, over)
                    self._last_options[kind.venue.name], fresh = group.options, None
                except BaseException:
                    self._put_back(kind.venue.name, fresh, before)
                    raise
        except BaseException:
            if fresh is not None:
                fresh.close()
            raise
        if before is not None and before is not group:
            before.rest.close()
        group.follow()

    def _put_back(self, name: str, fresh: Group | None, before: Group | None) -> None:
        """A start has failed: what was there is there again, unless all has been stopped meanwhile."""
        if fresh is not None and self._groups.get(name) is fresh:
            del self._groups[name]
            if before is not None:
                self._groups[name] = before

    def check(self, /, exchange: str, symbols: Collection[str] | str,
              channels: Collection[str] | str = ("book",), **options: Any) -> str:
        """Whether :meth:`start` could work with these. Starts nothing, and looks at nothing that runs.

        Returns:
            The exchange's own name, where an alias of it was given.

        Raises:
            ConfigurationError: It could not.
        """
        group = Group(stream_class(exchange), {**self._options, **options}, self._shared())
        group.rest.close()
        group.check(names("symbols", symbols), names("channels", channels))
        return group.name

    def _shared(self) -> dict[str, Any]:
        """What all streams here have in common."""
        return {"store": self.store, "metrics": self.metrics, "handlers": self.handlers}

    def stop(self, exchange: str | None = None, timeout: float = 5.0) -> None:
        """Stop one exchange, or everything. Idempotent; what was stopped can be started anew. Where it can
        not wait for a thread (see :meth:`Stream.stop`) that ends right after the call.

        What is the library's has ended within a second. With everything, handlers are waited for, too:
        half of what is left of ``timeout`` is for finishing what waits for them, and is dropped then, the
        other half for the calls they are in; and a second, if there is one left, for calls given to
        :meth:`submit`. Those that wait are cancelled.

        Raises:
            StopTimeout: A thread has not ended in its time; the message names it. All else is stopped.
        """
        timeout = check_timeout(timeout)
        begun = time.monotonic()
        deadline = begun + timeout
        self.store.lock.let_go()
        groups = self._take(exchange, self._groups)
        asked = [pair for group in groups for pair in group.ask_to_stop()]
        polite = time.monotonic() + min(POLITE, timeout)        # for all of them together
        for stream, ended in asked:
            if not stream.waits_for_caller:
                ended.wait(max(polite - time.monotonic(), 0.0))
        for stream, _ in asked:
            stream.abort()
        late = [stream.name for stream, _ in asked if not stream.stop(max(deadline - time.monotonic(), 0.0))
                and not stream.waits_for_caller]
        for group in groups:
            group.rest.close()
        self._close_sides(exchange)
        if exchange is None:
            with self._lock:
                publishers, self._publishers = self._publishers, []
            late += [p.name for p in publishers if not p.stop(max(deadline - time.monotonic(), AT_LEAST))]
            late += self.handlers.end(max(deadline - time.monotonic(), AT_LEAST))
            with self._lock:
                if self._groups:            # another thread has started something meanwhile
                    self.handlers.open()
                pool, self._pool = self._pool, Pool(self._workers, "streams-worker")
            pool.cancel()
            self._close_sides(None)             # of what has begun since
            if not pool.close(min(max(deadline - time.monotonic(), AT_LEAST), 1.0)):
                late.append("a call given to submit()")
        if late:
            raise StopTimeout(f"still running after {time.monotonic() - begun:.1f} s: {', '.join(late)}")

    def _close_sides(self, exchange: str | None) -> None:
        """End the REST calls that are under way."""
        for _, rest in self._take(exchange, self._sides):
            rest.close()

    def pause(self, exchange: str | None = None) -> None:
        """Close the connections of one exchange, or all, until :meth:`resume`."""
        self._pause(exchange, True)

    def resume(self, exchange: str | None = None) -> None:
        """Connect again after :meth:`pause`.

        Raises:
            ConfigurationError: That exchange has not been started, or all of it has failed or ended.
        """
        self._pause(exchange, False)

    def subscribe(self, exchange: str, symbols: Collection[str] | str,
                  channels: Collection[str] | str | None = None) -> None:
        """Want more of an exchange that was started. Channels: those of its start, when None.

        Raises:
            ConfigurationError: Something that can not work; or that exchange has not been started, or all
                of it has failed or ended.
        """
        with self._lock:                    # held from here on: what is found must not be stopped meanwhile
            group = self._group(exchange)
            _check_runs(exchange, group)
            group.subscribe(names("symbols", symbols),
                            group.channels if channels is None else names("channels", channels))
        group.follow()

    def unsubscribe(self, exchange: str, symbols: Collection[str] | str,
                    channels: Collection[str] | str | None = None) -> None:
        """The opposite of :meth:`subscribe`. Channels: all that the symbols have, when None."""
        with self._lock:
            group = self._group(exchange)
            group.unsubscribe(names("symbols", symbols),
                              None if channels is None else names("channels", channels))
        group.follow()

    # -- looking ----------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """How everything is, for people and for polling: ``streams`` (each as :meth:`Stream.status`),
        ``handlers``, ``last_update``."""
        return {
            "last_update": self.store.last_update,
            "streams": [stream.status() for stream in self._streams(None)],
            "handlers": self.handlers.status(),
        }

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until every subscribed book, quote and ticker has data.

        Raises:
            NotReady: No stream runs; or the time ran out, or what is missing will not come (refused, failed,
                not in the recording); the message names what is missing and why.
        """
        if timeout is not None and timeout != 0:
            check_seconds("timeout", timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        seen = self.store.last_update
        while True:
            # The state is looked at first: one that ends between the two may have brought all that it had.
            waiting = [(stream.state in ENDED, stream.waiting_for()) for stream in self._streams(None)]
            if not waiting:
                raise NotReady("no stream runs: none was started, or all have been stopped")
            missing = {what: why for _, waited in waiting for what, why in waited.items()}
            if not missing:
                return
            hopeless = all(ended or why.startswith("refused")
                           for ended, waited in waiting for why in waited.values())
            left = None if deadline is None else deadline - time.monotonic()
            if hopeless or (left is not None and left <= 0):
                shown = "; ".join(f"{what} ({why})" for what, why in list(missing.items())[:5])
                more = f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
                raise NotReady(f"no data yet for {shown}{more}")
            # State changes wake no waiter, so look again after a moment in any case.
            seen = self.store.wait(seen, 0.1 if left is None else min(left, 0.1))

    def ticker(self, exchange: str, symbol: str, max_age: float | None = None) -> Ticker:
        """A fresh ticker: the stream's, else by REST, else from the next provider; ``.source`` says
        which, ``.age`` how old it is. May block on the network, so not from an ``inline`` handler.

        Args:
            max_age: Seconds; None: the ttl of tickers.

        Raises:
            StaleData: Nobody has a fresh and plausible one; the message says what each had.
            ConfigurationError: No such exchange, or what can be no symbol of it; or called on a stream's
                own thread.
        """
        _not_on_a_stream("ticker")
        return self.fallback.ticker(self._known(exchange), symbol, max_age)

    def orderbook(self, exchange: str, symbol: str, max_age: float | None = None) -> BookView:
        """A fresh order book, likewise."""
        _not_on_a_stream("orderbook")
        return self.fallback.orderbook(self._known(exchange), symbol, max_age)

    def rest(self, exchange: str) -> ExchangeSession:
        """A ready ``requests.Session`` for calls of your own to that exchange: its proxy and TLS, time-outs,
        rate limit and credentials; after :meth:`stop` those of the last start. Use it from :meth:`submit`,
        never from an ``inline`` handler.

        Raises:
            ConfigurationError: No such exchange, or it has no REST side, and no ``rest_url`` was given.
        """
        rest = self._rest_side(exchange)[1]
        if not rest.base_url:
            raise ConfigurationError(f"{exchange} has no REST side; if it has, give rest_url=...")
        return rest.session()

    def _known(self, exchange: str) -> str:
        """The name of an exchange in the store: its own, or that of a stream of the user's."""
        if isinstance(exchange, str) and any(
                exchange in table for table in (self.store.tickers, self.store.orderbooks)):
            return exchange
        return stream_class(exchange).venue.name

    def _rest_side(self, exchange: str) -> tuple[Venue, Rest]:
        """Venue and REST client of an exchange: those of its streams; where it does not run, as it was
        started last, lest anybody else be asked."""
        kind = stream_class(exchange)
        name = kind.venue.name
        with self._lock:
            if name in self._groups:
                return self._groups[name].facts, self._groups[name].rest
            if name not in self._sides:
                group = Group(kind, self._last_options.get(name, self._options), {"metrics": self.metrics})
                self._sides[name] = group.facts, group.rest
            return self._sides[name]

    # -- handlers and workers -----------------------------------------------------------------------

    def follow(self) -> None:
        """See :meth:`Stream.follow`."""
        for stream in self._streams(None):
            stream.follow()

    def publish(self, url: str, **options: Any) -> Publisher:
        """Send everything that is collected here to Redis, for :class:`streams.RemoteStore` in other
        processes and on other machines. Stopped with the manager, or by its own ``stop()``.

        Args:
            url: ``redis://[[user]:password@]host[:port][/database]``, or ``rediss://``.
            options: See :class:`streams.publisher.Publisher`.

        Raises:
            ConfigurationError: Something that can not work; or this manager publishes already.
            MissingDependency: redis-py is not installed.
        """
        from .publisher import Publisher

        check_keywords(Publisher, options, "publish()")
        publisher = Publisher(self.handlers, url, **options)
        publisher.start()
        with self._lock:
            self._publishers = [*(one for one in self._publishers if one.is_alive()), publisher]
        self.follow()
        return publisher

    def submit(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called in a small thread pool, beside the streams."""
        if not callable(fn):
            raise ConfigurationError(f"submit({fn!r}): give a function, and its arguments after it")
        return self._pool.submit(fn, *args, **kwargs)

    # -- inside -------------------------------------------------------------------------------------

    def _take(self, exchange: str | None, table: dict[str, T]) -> list[T]:
        """Remove what a table has of one exchange, or of all."""
        wanted = None if exchange is None else stream_class(exchange).venue.name
        with self._lock:        # a signal handler may still do the same in the middle of it
            taken = [table.pop(name, None) for name in list(table) if wanted in (None, name)]
        return [one for one in taken if one is not None]

    def _group(self, exchange: str) -> Group:
        name = stream_class(exchange).venue.name
        with self._lock:
            if name not in self._groups:
                running = ", ".join(self._groups) or "none"
                raise ConfigurationError(f"{exchange} has not been started; running: {running}")
            return self._groups[name]

    def _pause(self, exchange: str | None, paused: bool) -> None:
        with self._lock:
            for group in self._some(exchange):
                if exchange is not None and not paused:
                    _check_runs(exchange, group)
                group.paused = paused
                for _, stream in group.streams:
                    stream.pause() if paused else stream.resume()

    def _some(self, exchange: str | None) -> list[Group]:
        return list(self._groups.values()) if exchange is None else [self._group(exchange)]

    def _streams(self, exchange: str | None) -> list[Stream]:
        with self._lock:
            return [stream for group in self._some(exchange) for _, stream in group.streams]

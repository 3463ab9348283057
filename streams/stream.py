"""``Stream``: one exchange, one connection at a time, one thread; what users call.

What the thread does is in :mod:`streams.connector` (connection after connection) and
:mod:`streams.session` (one of them).
"""

from __future__ import annotations

import copy
import inspect
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from .backoff import Backoff
from .bells import Latch
from .checks import check_timeout, names
from .connector import Connector, Way
from .credentials import scrubber, secret_headers, secrets_of
from .errors import ConfigurationError
from .feed import Feed
from .forking import tell_after_fork
from .handlers import Handlers, Hearing
from .lifecycle import ENDED, Lifecycle, at_exit
from .locks import owns
from .metrics import Metrics, NoMetrics
from .refresh import RestSource
from .rest import Rest
from .settings import (
    check_encrypted, check_fits, check_known, check_options, complete_keys, rest_address, routes_of,
    stream_address,
)
from .store import Store
from .tables import listed
from .venue import Route, Venue

if TYPE_CHECKING:
    from .record import Recording
    from .schedule import Schedule

__all__ = ["Stream"]

log = logging.getLogger("streams.stream")

POLITE = 0.6        # seconds a polite close may take before stop() ends the conversation by force
ENDING = 1.0        # seconds between a run's last state and its end, at most: handlers hear of it


class Stream(Hearing, threading.Thread):
    """Background thread that keeps one venue's market data in a store.

    Use a subclass (:class:`streams.Binance`, ...) or, for a venue of your own, subclass this with
    ``venue = YourVenue``. Nothing touches the network before :meth:`start`. Unlike other threads, a
    stream may be started again after it was stopped.

    Args:
        symbols: Canonical (``BTC-USDT``) or in the venue's spelling; the keys in the store.
        channels: ``book``, ``quotes``, ``trades``, ``ticker``, ``bars:1m``, ... as the venue has them.
        store: Where data goes; a new :class:`Store` when None.
        url, rest_url: Scheme, host and port in place of the venue's; its paths stay.
        number: ``float``, or ``Decimal`` for exact decimals end to end.
        depth: Levels per side, None for the venue's default.
        stale_after: Seconds without data after which data counts as stale and the connection is
            replaced; None for the venue's default.
        proxy: ``http://[user:pass@]host:port`` or ``socks5[h]://...``.
        sslopt: TLS options, see :class:`streams.transports.Target`.
        headers: Extra headers of the handshake.
        connect_timeout: Seconds for each step of connecting.
        api_key, api_secret: Credentials; from the venue's environment variables when None.
        metrics: See :mod:`streams.metrics`.
        recorder: Keeps raw frames, see :mod:`streams.record`.
        schedule: Trading hours (:mod:`streams.schedule`): paused outside of them.
        handlers: Registry to use instead of one of its own.
        rest: REST client to use instead of one of its own.
        rest_limit: ``(weight, seconds)`` in place of the venue's REST limit.
        backoff: Delays between attempts to connect.
        options: The venue's own options.

    Raises:
        ConfigurationError: Something that can not work; the message says what would.
    """

    venue: ClassVar[type[Venue]] = Venue

    def __init__(
        self, symbols: Collection[str] | str, channels: Collection[str] | str = ("book",), *,
        store: Store | None = None, url: str | None = None, rest_url: str | None = None,
        number: type[float] | type[Decimal] = float, depth: int | None = None,
        stale_after: float | None = None, proxy: str | None = None,
        sslopt: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None,
        connect_timeout: float = 5.0, api_key: str | None = None, api_secret: str | None = None,
        metrics: Metrics | None = None, recorder: Recording | None = None,
        schedule: Schedule | None = None, handlers: Handlers | None = None, rest: Rest | None = None,
        rest_limit: tuple[int, float] | None = None, backoff: Backoff | None = None, **options: Any,
    ) -> None:
        kind = self.venue
        check_known(kind, options, _OF_STREAM | _OF_VENUE)
        check_options({
            "store": store, "url": url, "rest_url": rest_url, "number": number, "depth": depth,
            "stale_after": stale_after, "proxy": proxy, "headers": headers, "api_key": api_key,
            "api_secret": api_secret, "connect_timeout": connect_timeout, "schedule": schedule,
            "handlers": handlers, "rest_limit": rest_limit, "backoff": backoff, "sslopt": sslopt,
            "metrics": metrics, "recorder": recorder, "rest": rest})
        self._options = dict(options, number=number, depth=depth, api_key=api_key, api_secret=api_secret)
        complete_keys(kind, self._options)
        facts = self._facts = kind(**self._options)
        self._address = stream_address(facts, url)
        addresses = self._address, rest_address(facts, rest_url)
        check_encrypted(self._address, kind, self._options, proxy, headers)
        check_encrypted(addresses[1], kind, self._options, proxy)
        playback = None
        if self._address.startswith("replay:"):
            from .transports.replay import Playback
            playback = Playback(self._address, f"streams-{facts.name}-[0-9]*")      # as _title names them
        self._own_handlers = handlers is None
        self.metrics = metrics or NoMetrics()
        self.handlers = handlers if handlers is not None else Handlers(self.metrics)
        self.store = store if store is not None else Store()
        self._title = f"streams-{facts.name}-{next(_NUMBERS)}"
        self.feed = Feed(
            facts.name, self._title, facts, self.store, self.handlers, self.metrics,
            scrubber(self._options["api_key"], self._options["api_secret"],
                     *secrets_of(*addresses, proxy or ""), *secret_headers(headers or {})))
        self.lifecycle = Lifecycle(self._announce)
        self._way = Way(
            lambda: kind(**self._options), self._address, dict(headers or {}), proxy, sslopt, connect_timeout,
            facts.limits.stale_after if stale_after is None else stale_after, recorder, schedule,
            copy.copy(backoff or Backoff()), bool(self._options["api_key"] and kind.key_env), playback)
        self._connector = Connector(self.feed, self._way, self.lifecycle)
        self._renewal = threading.RLock()       # held while this thread is made anew, or looked at
        self._announce_start: Callable[[], None]
        self._given_rest = rest
        self._rest_address = addresses[1], rest_limit or facts.limits.rest
        super().__init__(name=self._title, daemon=True)
        self._channels = names("channels", channels)
        self.want(symbols, self._channels)
        self.feed.reconcile()
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Its thread is not here: if it ran, it is stopped."""
        self._renewal = threading.RLock()
        if not self._connector.ended.is_set():
            _RUNNING.discard(self)
            for keeper in self.feed.keepers.values():
                keeper.book.status = "closed"   # nobody is told: the handlers' threads are not here either
            self.feed.writer.thread = 0
            self.lifecycle = Lifecycle(self._announce, "stopped")
        self._connector = self._connector.anew(self.lifecycle)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._title} {self.state}>"

    @classmethod
    def facts(cls, options: Mapping[str, Any]) -> Venue:
        """A venue instance for questions, made from the keyword options of a stream.

        Raises:
            ConfigurationError: As the constructor would, but for the address and the way there.
        """
        check_options(options)
        settings = {name: value for name, value in options.items() if name not in _OF_STREAM}
        check_known(cls.venue, set(settings) - _OF_VENUE, _OF_STREAM | _OF_VENUE)
        complete_keys(cls.venue, settings)
        return cls.venue(**settings)

    @property
    def exchange(self) -> str:
        """First key in the store."""
        return self.feed.exchange

    @property
    def state(self) -> str:
        """``new connecting live stale backoff paused stopped failed``. Threads: any."""
        return self.lifecycle.state

    # -- control: any thread -----------------------------------------------------------------------

    def start(self) -> None:
        """Start, or start again after a stop.

        Raises:
            ConfigurationError: It is running.
        """
        if self.lifecycle.state in ENDED and threading.current_thread() is not self:
            ended = self._connector.ended
            if ended.wait(ENDING):                  # its thread has said so, and is about to end
                self._join_run(ended)
        with self._connector.control, self._renewal:
            if super().is_alive():
                raise ConfigurationError(f"{self._title} is running already; stop() it first")
            if self.lifecycle.state != "new":
                # A thread object runs once; made anew, the same object may run again.
                super().__init__(name=self._title, daemon=True)
            self._connector.begin()
            if self._own_handlers:
                self.handlers.open()
            self._announce_start = self.lifecycle.enter("connecting")
            _RUNNING.add(self)
            try:
                super().start()
            except BaseException as error:          # no more threads; or Ctrl-C
                self._not_started(error)
                raise

    def _not_started(self, error: BaseException) -> None:
        """The thread has not begun, and never will; or it has all the same, then it ends at once."""
        self._connector.end()
        if self.ident is None:
            _RUNNING.discard(self)
            self.lifecycle.last_error = f"no thread could be started: {error!r}"
            self.lifecycle.enter("failed")
            self._connector.cancel()

    def stop(self, timeout: float = 5.0) -> bool:
        """Stop the thread: politely for a moment, then by force. Data stays readable, marked ``closed``.

        Idempotent, any thread, any state; returns within a second, unless handlers of its own are slow:
        half of what is left of ``timeout`` is for finishing what waits for them, and is dropped then, the
        other half for the calls they are in. From one of the stream's own
        ``inline`` handlers it can not wait for itself: the thread ends when the handler returns. Nor can a
        signal handler that has struck in the middle of a read or a call: the thread ends after that.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether the thread has ended, and those of its own handlers.
        """
        timeout = check_timeout(timeout)
        deadline = time.monotonic() + timeout
        self.store.lock.let_go()
        ended = self.ask_to_stop()
        if self.waits_for_caller:
            self.abort()
            return False
        if not ended.wait(min(POLITE, timeout)):
            self.abort()
            if not ended.wait(max(deadline - time.monotonic(), 0.0)):
                return False
        self._join_run(ended)
        with self._connector.control:
            new = self.lifecycle.state == "new"
            announce = self.lifecycle.enter("stopped") if new else None
        if announce is not None:
            announce()
        return not self._own_handlers or self._close_handlers(ended, max(deadline - time.monotonic(), 0.1))

    @property
    def waits_for_caller(self) -> bool:
        """Whether this thread can not end before the calling one goes on: it is the same, or the caller, a
        signal handler, has interrupted somebody who holds what this thread needs."""
        locks = (self.feed.writer.lock, self.store.lock.gate, self.feed.subscriptions.lock,
                 self._connector.control)
        return threading.current_thread() is self or any(map(owns, locks))

    def _close_handlers(self, ended: Latch, timeout: float) -> bool:
        """Close the handlers, unless another thread has started the stream anew meanwhile. Whether they have
        closed."""
        if self._connector.ended is not ended:
            return True
        closed = self.handlers.close(timeout)
        with self._connector.control:
            if self._connector.ended is not ended:
                self.handlers.open()
        return closed

    def is_alive(self) -> bool:
        """See ``threading.Thread.is_alive``."""
        with self._renewal:
            return super().is_alive()

    def join(self, timeout: float | None = None) -> None:
        """See ``threading.Thread.join``: waits for the present run of the stream."""
        with self._renewal:
            never = self.ident is None
        if never or threading.current_thread() is self:
            super().join(timeout)               # which says that this can not be
        ended = self._connector.ended
        if ended.wait(timeout):
            self._join_run(ended)

    def _join_run(self, ended: Latch) -> None:
        """Wait for the thread of a run that has ended: a matter of microseconds."""
        # While another thread looks at it, this object must not be made anew.
        with self._renewal:
            if self._connector.ended is ended and self.ident is not None:
                super().join()

    def ask_to_stop(self) -> Latch:
        """The first half of :meth:`stop`: asks, and waits for nothing. The event is set when the run
        that was asked has ended."""
        return self._connector.end()

    def abort(self) -> None:
        """End the present connection by force, whatever it is doing. Never blocks."""
        ended, ident = self._connector.ended, self.ident
        if ident is not None and not ended.is_set():
            self.handlers.unblock(ident)
            if ended.is_set():                      # just now: a later thread may get its number
                self.handlers.reblock(ident)
        self._connector.abort()

    def pause(self) -> None:
        """Close the connection and stay away until :meth:`resume`. What is subscribed stays so; data
        stays readable, marked ``stale``."""
        self._connector.pause()

    def resume(self) -> None:
        """Connect again after :meth:`pause`."""
        self._connector.resume()

    def subscribe(self, symbols: Collection[str] | str,
                  channels: Collection[str] | str | None = None) -> None:
        """Want more: applied now when connected, at the next connect otherwise.

        Wishes are counted: what was subscribed twice must be unsubscribed twice.

        Args:
            channels: Those given at the construction when None.

        Raises:
            ConfigurationError: Unknown channel, impossible symbol, another endpoint, too many.
        """
        self.want(symbols, channels)
        self.follow()

    def unsubscribe(self, symbols: Collection[str] | str,
                    channels: Collection[str] | str | None = None) -> None:
        """The opposite of :meth:`subscribe`; of all channels that the symbols have, when None. What was not
        subscribed is ignored."""
        self.unwant(symbols, channels)
        self.follow()

    def want(self, symbols: Collection[str] | str, channels: Collection[str] | str | None = None) -> None:
        """The first half of :meth:`subscribe`, which waits for nothing; :meth:`follow` is the other."""
        for route in self._routes(symbols, channels):
            self.feed.subscriptions.want(route)

    def unwant(self, symbols: Collection[str] | str, channels: Collection[str] | str | None = None) -> None:
        """The first half of :meth:`unsubscribe`, likewise."""
        given = None if channels is None else names("channels", channels)
        for channel in given or ():
            self._facts.check_channel(channel)
        subscriptions = self.feed.subscriptions
        for symbol in names("symbols", symbols):
            for channel in subscriptions.channels_of(symbol) if given is None else given:
                subscriptions.unwant(symbol, channel)

    def follow(self) -> None:
        """What is wanted has changed, or who listens: have it acted on soon. Threads: any; of locks they may
        hold ``store.lock``."""
        self._connector.changed()

    def status(self) -> dict[str, Any]:
        """How it is: state, counters, subscriptions. For people and for polling; a copy. ``dropped`` is what
        the handlers have lost of this exchange."""
        return {
            "name": self._title,
            "exchange": self.exchange,
            "state": self.state,
            "reason": self.lifecycle.reason,
            "running": self.is_alive(),
            "since": self.lifecycle.since,
            "last_error": self.lifecycle.last_error,
            "last_message_age": self.feed.age(),
            **self.feed.counters.as_dict(),
            "dropped": self.handlers.dropped(self.exchange),
            "subscriptions": self.feed.subscriptions.status(),
        }

    def waiting_for(self) -> dict[str, str]:
        """What is subscribed and has no data yet: ``{"exchange channel of symbol": why}``. Channels that may
        be silent for long (trades, bars) are not waited for."""
        return self.feed.missing(self._how())

    def _how(self) -> str:
        """Why nothing comes: how it is by itself, or what went wrong last."""
        state, reason = self.state, self.lifecycle.reason
        how = f"{state}: {reason}" if reason else state
        return how if state in ("paused", "live") else self.lifecycle.last_error or how

    def _routes(self, symbols: Collection[str] | str, channels: Collection[str] | str | None) -> list[Route]:
        """Checked routes for all of these, known ones included."""
        wanted = self._channels if channels is None else names("channels", channels)
        known = self.feed.subscriptions.routes()
        routes = routes_of(self._facts, known, names("symbols", symbols), wanted)
        check_fits(self._facts, [*known, *routes])
        return routes

    def run(self) -> None:
        """The thread's work. Called by the thread itself."""
        failed, own = True, None
        try:
            self.store.join(self.feed.writer, threading.get_ident())
            self.feed.count("starts")
            self._announce_start()
            rest, own = self._rest_source()
            failed = not self._connector.run(rest)
        except Exception as error:                  # a mistake of ours: say so, do not vanish
            log.exception("%s: the stream ends", self._title)
            self.lifecycle.last_error = f"{type(error).__name__}: {error}"
        finally:
            try:
                self._wind_up(failed, own)
            finally:                                # or whoever waits for the end would do so for ever
                self.lifecycle.enter("failed" if failed else "stopped")
                _RUNNING.discard(self)
                self._connector.ended.set()
                self.handlers.reblock(threading.get_ident())    # not before: see abort()

    def _wind_up(self, failed: bool, own: Rest | None) -> None:
        """The run is over. Threads: its own."""
        self.feed.mark("closed", self.lifecycle.last_error or "failed" if failed else "stopped")
        if own is not None:
            own.close()
        self._connector.leave()
        self.lifecycle.set("failed" if failed else "stopped")
        self.feed.count("stops")
        self.store.notify()

    def _rest_source(self) -> tuple[RestSource, Rest | None]:
        """Where snapshots come from, and what of it has to be closed afterwards."""
        if self._way.playback is not None:
            from .transports.replay import PlaybackRest
            return PlaybackRest(self._way.playback), None
        if self._given_rest is not None:
            return self._given_rest, None
        address, limit = self._rest_address
        own = Rest(self.exchange, address, limit, headers=self._facts.rest_headers(), proxy=self._way.proxy,
                   sslopt=self._way.sslopt, metrics=self.metrics)
        return own, own

    def _announce(self, previous: str, state: str, reason: str) -> None:
        log.info("%s: %s%s", self._title, state, f" ({reason})" if reason else "")
        for name, value in ((previous, 0), (state, 1)):
            self.feed.metrics.set_gauge("state", value, exchange=self.exchange, stream=self._title,
                                        state=name)
        self.feed.status_change("stream", state, previous=previous, reason=reason)


_OF_VENUE = {"number", "depth", "api_key", "api_secret", "options"}
_OF_STREAM = set(inspect.signature(Stream.__init__).parameters) - _OF_VENUE - {"self", "symbols", "channels"}
OPTIONS = (_OF_STREAM | _OF_VENUE) - {"options"}
_NUMBERS = itertools.count(1)
_RUNNING: weakref.WeakSet[Stream] = weakref.WeakSet()


def _running() -> list[Stream]:
    return listed(_RUNNING)         # one may end at this very moment


at_exit(_running)

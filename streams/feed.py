"""What a stream keeps over all its connections: routes and their sinks, counters, who listens.

The :class:`~streams.session.Session` of each connection writes through it, and the thread
(:mod:`streams.stream`) and the user's calls meet it from the other side.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from .book import OrderBook
from .events import BookUpdate, Event, Gap, StatusChange
from .handlers import Handlers, Listener
from .metrics import Guarded, Metrics, NoMetrics
from .sequencing import RULES, BookKeeper
from .sinks import EventSink, Sink, sink_for
from .store import GONE, Store, Writer
from .subscriptions import Subscriptions
from .tables import Table
from .venue import BookDelta, BookSnapshot, Route, Venue

__all__ = ["Counters", "Feed"]

log = logging.getLogger("streams.feed")

Offer = Callable[[Event], None]

# Books in the store, of all exchanges, from which on they have no room in a processor's caches together: then
# it is much cheaper to write several changes of one at once, and below a little dearer (measured).
MANY = 200

_LIVE_AND = {"pending": "not confirmed by the venue yet", "live": "subscribed, no data yet"}


class Counters:
    """What happened since the stream was made. Threads: the network thread writes, any reads."""

    def __init__(self) -> None:
        self.messages = 0
        self.starts = 0
        self.stops = 0
        self.connects = 0
        self.reconnects = 0
        self.gaps = 0
        self.resyncs = 0
        self.checksum_failures = 0
        self.malformed = 0
        self.errors = 0
        self.notices = 0

    def as_dict(self) -> dict[str, int]:
        """All of them by name."""
        return dict(vars(self))


class Feed:
    """The part of a stream that outlives a connection.

    Args:
        exchange: First key in the store, first word of topics for handlers.
        name: Of the stream, for metrics.
        facts: A venue instance for questions that need no connection.
        store: What to write into.
        handlers: Who wants events.
        metrics: Where counts go.
        clean: Takes secrets out of what others say.

    Attributes:
        deferred: Calls put off while the writer's lock is held; :meth:`drain` makes them.
        noted: Events that handlers want, likewise; ``(offer, event)``.
        heard: Routes whose events go further than the store. Threads: the network thread's.
        troubles: Why a route has no data, where something is known.
        silences: Connections in a row that were replaced because they said nothing.
    """

    def __init__(self, exchange: str, name: str, facts: Venue, store: Store, handlers: Handlers,
                 metrics: Metrics, clean: Callable[[str], str] = str) -> None:
        self.exchange = exchange
        self.name = name
        self.facts = facts
        self.store = store
        self.handlers = handlers
        self.metrics = Guarded(metrics)
        self.measured = not isinstance(metrics, NoMetrics)
        self.bytes = 0                          # of messages; counted if somebody measures
        self.last_data: float | None = None     # monotonic seconds of the last message with data
        self.silences = 0
        self._reported = {"messages": 0, "bytes": 0}
        self.clean = clean
        self.writer = Writer()          # joins the store while there is a thread that writes
        self.subscriptions = subscriptions = Subscriptions()
        self.writer.serves = lambda of, symbol, channel: (
            of == exchange and subscriptions.serves(symbol, channel))
        self.counters = Counters()
        self.sinks: dict[Route, Sink] = {}
        self.keepers: dict[Route, BookKeeper] = {}
        self.deferred: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self.on_lost: Callable[[Route, str], None] = _ignore
        self.on_live: Callable[[Route], None] = _ignore
        self.noted: list[tuple[Offer, Event]] = []
        self.troubles: dict[Route, str] = {}
        self.heard: set[Route] = set()
        self._wired = -1                # version of the handlers that the routes were wired for ...
        self._many = False              # ... and whether there were many books

    def count(self, name: str, value: int = 1) -> None:
        """Add to a counter, here and in the metrics."""
        setattr(self.counters, name, getattr(self.counters, name) + value)
        self._measure(name, value)

    def count_later(self, name: str) -> None:
        """Count one, holding the writer's lock: the metrics, which are the user's code, hear of it later."""
        setattr(self.counters, name, getattr(self.counters, name) + 1)
        self.deferred.append((self._measure, (name, 1)))

    def _measure(self, name: str, value: int) -> None:
        self.metrics.inc(name, value, exchange=self.exchange, stream=self.name)

    def age(self) -> float | None:
        """Seconds since the last message with data; None before the first. Threads: any."""
        last = self.last_data
        return None if last is None else time.monotonic() - last

    def report(self) -> None:
        """Pass on what is only counted where it happens, and have the handlers do so. Threads: the
        stream's, several times a second while connected, now and then while not."""
        if not self.measured:
            return
        labels = {"exchange": self.exchange, "stream": self.name}
        for name, total in (("messages", self.counters.messages), ("bytes", self.bytes)):
            self.metrics.inc(name, total - self._reported[name], **labels)
            self._reported[name] = total
        age = self.age()
        if age is not None:
            self.metrics.set_gauge("last_message_age_seconds", age, **labels)
        self.handlers.report()

    # -- routes -----------------------------------------------------------------------------------

    def reconcile(self) -> None:
        """Give each wanted route its place in the store, and take away those of the others. To be followed
        by :meth:`announce`.

        Threads: the network thread, or, while none runs, one at a time.
        """
        wanted = dict.fromkeys(self.subscriptions.routes())
        for route in [route for route in self.sinks if route not in wanted]:
            self._detach(route)
        for route in wanted:
            if route not in self.sinks:
                self._attach(route)

    def _attach(self, route: Route) -> None:
        with self.writer.lock:
            if route.channel == "book":
                keeper = self._new_keeper(route)
                self.keepers[route] = keeper
                self.sinks[route] = keeper
            else:
                self.sinks[route] = sink_for(self.store, self.writer, self.exchange, route)
        self._wire(route)

    def _new_keeper(self, route: Route) -> BookKeeper:
        facts = self.facts
        book = OrderBook(
            self.exchange, route.symbol, self.writer.lock, time_unit=facts.time_unit,
            sequenced=RULES[facts.rule].sequenced, depth=facts.depth)
        return BookKeeper(book, route, facts.rule, self.writer.clock, self._book_changed, self._book_lost,
                          self.count_later)

    def _detach(self, route: Route) -> None:
        """Nobody wants it any more: what came by it leaves the store, a book closed, unless it may come by
        another route."""
        sink = self.sinks.pop(route)
        self.troubles.pop(route, None)
        self.heard.discard(route)
        with self.writer.lock:
            sink.disconnected("closed", GONE)
            keeper = self.keepers.pop(route, None)
            books = self.store.orderbooks.get(self.exchange, Table())
            if keeper is not None and books.get(route.symbol) is keeper.book:
                del books[route.symbol]
            if isinstance(sink, EventSink):
                sink.remove(route, lambda symbol: self.store.served(
                    self.writer, self.exchange, symbol, route.channel))
                tap, wanted = self.handlers.tap, self.subscriptions.get(route.symbol, route.channel)
                if tap is not None and wanted is None:      # else it is another's by now
                    tap.changed(self, route, "closed", GONE)

    def mark(self, status: str, reason: str) -> None:
        """The connection is gone: mark what depends on it (``stale``, ``closed``)."""
        with self.writer.lock:
            for sink in self.sinks.values():
                sink.disconnected(status, reason)
        self.drain()

    def connected(self) -> None:
        """A connection was made: books wait for their snapshots."""
        with self.writer.lock:
            for sink in self.sinks.values():
                sink.connected()
        self.drain()

    def missing(self, how: str) -> dict[str, str]:
        """What is subscribed and has no data yet: ``{"exchange channel of symbol": why}``; ``how`` it is with
        the stream, where nothing else is known. Threads: any."""
        missing = {}
        sinks = dict(self.sinks)
        for route in self.subscriptions.routes():
            sink = sinks.get(route)
            if route.channel.partition(":")[0] in self.facts.sparse or (sink is not None and sink.ready):
                continue
            state, reason = self.subscriptions.state(route)
            if state == "refused":
                why = f"refused: {reason}"
            else:                                       # that the stream is live says nothing of the route
                why = reason or self.troubles.get(route) or (_LIVE_AND[state] if how == "live" else how)
            missing[f"{self.exchange} {route.channel} of {route.symbol}"] = why
        return missing

    # -- handlers ---------------------------------------------------------------------------------

    def rewire(self) -> None:
        """Follow changes in the set of handlers, and in the number of books. Threads: network thread, or none
        running."""
        many = self.facts.packs and sum(map(len, self.store.orderbooks.values())) >= MANY
        if self._wired != self.handlers.version or self._many != many:
            self._wired, self._many = self.handlers.version, many
            for route in self.sinks:
                self._wire(route)

    def _wire(self, route: Route) -> None:
        """Lead a route's events to its sink, past the handlers if any wants them, and past a tap."""
        sink = self.sinks[route]
        if isinstance(sink, BookKeeper):
            with self.writer.lock:
                sink.settle()               # the next change may come decoded
        apply = self._way(route, sink)
        tap = self.handlers.tap
        route.apply = apply if tap is None else tap.wrap(self, route, apply)
        if route.apply == sink.apply:
            self.heard.discard(route)
        else:
            self.heard.add(route)
        route.packed = isinstance(sink, BookKeeper) and self._many and route not in self.heard
        if isinstance(sink, BookKeeper) and route.packed:
            route.apply = sink.put_off

    def _way(self, route: Route, sink: Sink) -> Callable[[Any], None]:
        if route.symbol.endswith("*"):
            return self._noting_any(sink, route)
        listeners = self.handlers.listeners(f"{self.exchange}.{route.channel}.{route.symbol}")
        if not listeners:
            return sink.apply
        if isinstance(sink, BookKeeper):
            return self._noting_book(sink, listeners)
        return self._noting(sink, listeners)

    def _noting(self, sink: Sink, listeners: tuple[Listener, ...]) -> Callable[[Event], None]:
        apply, note, offer = sink.apply, self.noted.append, _offering(listeners)

        def applied(event: Event) -> None:
            apply(event)
            note((offer, event))
        return applied

    def _noting_any(self, sink: Sink, route: Route) -> Callable[[Event], None]:
        """For a wildcard: who listens depends on each event's own symbol."""
        known: dict[str, Offer | None] = {}

        def applied(event: Event) -> None:
            sink.apply(event)
            symbol = event.symbol
            if symbol not in known:
                listeners = self.handlers.listeners(f"{self.exchange}.{route.channel}.{symbol}")
                known[symbol] = _offering(listeners) if listeners else None
            offer = known[symbol]
            if offer is not None:
                self.noted.append((offer, event))
        return applied

    def _noting_book(
        self, keeper: BookKeeper, listeners: tuple[Listener, ...]
    ) -> Callable[[BookDelta | BookSnapshot], None]:
        apply, book, clock = keeper.apply, keeper.book, keeper.clock
        note, offer = self.noted.append, _offering(listeners)
        exchange, symbol, unit = book.exchange, book.symbol, self.facts.time_unit
        sequenced = RULES[self.facts.rule].sequenced

        def applied(delta: BookDelta | BookSnapshot) -> None:
            before = book.stamp
            apply(delta)
            if book.stamp == before:
                return                          # held, dropped or refused
            if isinstance(delta, BookSnapshot):
                bids, asks, whole = book.bids.sorted(), book.asks.sorted(), True
            else:
                bids, asks, whole = tuple(delta.bids), tuple(delta.asks), False
            time = book.time
            note((offer, BookUpdate(
                exchange=exchange, symbol=symbol, timestamp=time * unit if time else None,
                received=clock.now, bids=bids, asks=asks, sequence=book.last if sequenced else None,
                snapshot=whole)))
        return applied

    def emit(self, channel: str, event: Event) -> None:
        """Offer a rare event (a status, a gap) to whoever listens; what concerns the whole stream has
        ``*`` for a symbol in its topic. Threads: any, holding no lock."""
        for listener in self.handlers.listeners(f"{self.exchange}.{channel}.{event.symbol or '*'}"):
            listener.offer(event)

    def status_change(self, subject: str, status: str, *, symbol: str = "", previous: str = "",
                      reason: str = "") -> None:
        """Announce a :class:`StatusChange`. Threads: any, holding no lock."""
        self.emit("status", StatusChange(
            exchange=self.exchange, symbol=symbol, received=time.time_ns(), subject=subject,
            status=status, previous=previous, reason=reason))

    def drain(self) -> None:
        """Do what was noted under the lock. Threads: network, holding no lock."""
        self.announce()
        if self.noted:
            self.deliver()

    def announce(self) -> None:
        """Make the calls that were put off. Threads: any, holding no lock."""
        while True:
            try:
                call, args = self.deferred.popleft()
            except IndexError:
                return
            call(*args)

    def deliver(self) -> None:
        """Offer what was noted to the handlers. Threads: network, holding no lock."""
        noted = self.noted
        for offer, event in noted:
            offer(event)
        noted.clear()

    # -- what keepers report, under the lock ----------------------------------------------------

    def _book_changed(self, keeper: BookKeeper, status: str, reason: str) -> None:
        book = keeper.book
        if self.handlers.tap is not None:
            self.handlers.tap.changed(self, keeper.route, status, reason)
        if status == "live":
            # Over that of another stream, perhaps: one that was stopped before this one was started.
            self.store.orderbooks.setdefault(self.exchange, Table())[book.symbol] = book
            self.on_live(keeper.route)
        self.deferred.append((self._announce_book, (book.symbol, status, reason)))

    def _announce_book(self, symbol: str, status: str, reason: str) -> None:
        log.info("%s %s: order book is %s%s", self.exchange, symbol, status, f" ({reason})" if reason else "")
        self.status_change("book", status, symbol=symbol, reason=reason)

    def _book_lost(self, keeper: BookKeeper, reason: str, expected: int | None, got: int | None) -> None:
        if expected is not None and got is not None:
            self.count_later("gaps")
            gap = Gap(exchange=self.exchange, symbol=keeper.route.symbol, received=keeper.clock.now,
                      channel=keeper.route.channel, expected=expected, got=got)
            self.deferred.append((self.emit, ("gaps", gap)))
        self.deferred.append((self._announce_loss, (keeper.route, reason)))

    def _announce_loss(self, route: Route, reason: str) -> None:
        log.warning("%s %s: order book has to be rebuilt: %s", self.exchange, route.symbol, reason)
        self.on_lost(route, reason)


def _offering(listeners: tuple[Listener, ...]) -> Offer:
    """One call that offers an event to all of them."""
    if len(listeners) == 1:
        return listeners[0].offer
    offers = [listener.offer for listener in listeners]

    def offer(event: Event) -> None:
        for one in offers:
            one(event)
    return offer


def _ignore(route: Route, reason: str = "") -> None:
    """No connection, nothing to ask for a snapshot."""

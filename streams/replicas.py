"""What a reader of :mod:`streams.publisher` makes of batches: lines, and copies in a store.

Pure bookkeeping: nothing here waits, or talks to anybody. The caller holds the writer's lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

from .book import OrderBook
from .events import Trade
from .fanout import Batch, Change, Group, Happened, Kept, Marked, Whole
from .mirror import Mirror
from .sinks import EventSink, sink_for
from .store import GONE, Store, Writer
from .symbols import among
from .tables import Table, listed
from .venue import Route

__all__ = ["Counts", "Line", "Replicas"]

log = logging.getLogger("streams.remote")


class Line:
    """One publisher, as far as it has been followed.

    Attributes:
        number: Of the last batch that was taken; 0 before the first.
        heard: When, in monotonic seconds.
        silent: Why nothing of it counts as live; "" while it is heard of.
        given_up: It has been silent for so long that it stands in nobody's way.
    """

    def __init__(self, name: str, heard: float, silent: str = "") -> None:
        self.name = name
        self.number = 0
        self.heard = heard
        self.silent = silent
        self.given_up = False


@dataclass
class Counts:
    """What happened since the reader was made."""

    batches: int = 0
    items: int = 0
    gaps: int = 0           # batches, or changes of a book, that are missing for good
    filled: int = 0         # batches that were missed, and found in the log
    fenced: int = 0         # groups of collectors that have been replaced
    malformed: int = 0
    takeovers: int = 0


class _Replica:
    """One subscription of somebody else's."""

    __slots__ = ("token", "line", "mirror", "sink", "since", "known")

    def __init__(self, token: int, line: Line, mirror: Mirror | None, sink: EventSink | None) -> None:
        self.token = token
        self.line = line
        self.mirror = mirror
        self.sink = sink
        self.since = 0          # batches of its line up to this one are in it already
        self.known: frozenset[tuple[str, str]] = frozenset()    # trades from before the last take-over

    def knows(self, event: Any) -> bool:
        """Whether it is a trade that the collector before has told already."""
        return bool(self.known) and event.__class__ is Trade and (event.market, event.id) in self.known


class Replicas:
    """All copies in one store.

    Args:
        store: Where they are.
        writer: The store's, for all of them.
        exchanges, symbols: Which are wanted; None: all.
    """

    def __init__(
        self, store: Store, writer: Writer, exchanges: Container[str] | None, symbols: Container[str] | None,
    ) -> None:
        self.counts = Counts()
        self._store = store
        self._writer = writer
        self._exchanges = exchanges
        self._symbols = symbols
        self._all: dict[tuple[str, str, str], _Replica] = {}
        writer.serves = self._serves

    # -- what lines say --------------------------------------------------------------------------------

    def apply(self, line: Line, batch: Batch) -> None:
        """Take the next batch of a line."""
        line.number = batch.number
        self._writer.clock.now = min(batch.time, time.time_ns())
        self.counts.batches += 1
        try:
            for group in batch.groups:
                replica = self._of(line, group)
                if replica is not None and replica.since < batch.number:
                    self._take(replica, group)
        except Exception:           # a mistake, theirs or ours: half a batch must not pass for a whole one
            self.counts.malformed += 1
            log.exception("%s: batch %d can not be taken", line.name, batch.number)
            self.broken(line, f"batch {batch.number} could not be taken")
        if batch.ending:
            self._ended(line)

    def _ended(self, line: Line) -> None:
        """A line says that it ends: it will do no harm, so whoever has these still is welcome."""
        for replica in self._all.values():
            if replica.line is line:
                replica.token = 0
                if replica.mirror is not None:
                    replica.mirror.lose("closed", "its publisher has ended")

    def keep(self, line: Line, kept: Kept) -> None:
        """Take a whole book that was kept for newcomers."""
        self._writer.clock.now = time.time_ns()
        replica = self._of(line, kept.group)
        if replica is not None:
            replica.since = kept.number
            self._take(replica, kept.group)

    def broken(self, line: Line, reason: str) -> None:
        """Batches of a line are missing for good: its books wait for whole ones."""
        self.counts.gaps += 1
        log.warning("%s: %s; its order books wait for whole ones", line.name, reason)
        self._mirrors(line, lambda mirror: mirror.lose("syncing", reason))

    def silent(self, line: Line, reason: str) -> None:
        """Nothing is heard of a line: what is known of it may be old."""
        line.silent = reason
        self._mirrors(line, lambda mirror: mirror.silent(reason))

    def heard(self, line: Line) -> None:
        """A line is heard of, and nothing of it was missed."""
        if line.silent:
            line.silent = ""
            self._mirrors(line, Mirror.heard)

    def close(self, reason: str) -> None:
        """Nobody follows any line any more."""
        for replica in self._all.values():
            if replica.mirror is not None:
                replica.mirror.lose("closed", reason)

    def books(self) -> list[OrderBook]:
        """All copies of order books."""
        return [replica.mirror.book for replica in list(self._all.values()) if replica.mirror is not None]

    # -- inside ----------------------------------------------------------------------------------------

    def _mirrors(self, line: Line, act: Callable[[Mirror], None]) -> None:
        for replica in self._all.values():
            if replica.line is line and replica.mirror is not None:
                act(replica.mirror)

    def _of(self, line: Line, group: Group) -> _Replica | None:
        """The copy that a group is for; None when it is not wanted, or not the group's any more."""
        key = group.exchange, group.symbol, group.channel
        replica = self._all.get(key)
        if replica is None:
            if ((self._exchanges is not None and group.exchange not in self._exchanges)
                    or (self._symbols is not None and group.symbol not in self._symbols)):
                return None
            replica = self._all[key] = self._new(line, group)
        elif group.token < replica.token and not replica.line.given_up:
            self.counts.fenced += 1
            return None
        elif group.token != replica.token or replica.line is not line:
            self._take_over(replica, line, group)
        return replica

    def _take_over(self, replica: _Replica, line: Line, group: Group) -> None:
        self.counts.takeovers += 1
        replica.token, replica.line, replica.since = group.token, line, 0
        if group.channel == "trades":       # for a moment both may have listened to the venue
            kept = self._store.trades.get(group.exchange, Table()).get(group.symbol)
            replica.known = frozenset((trade.market, trade.id) for trade in kept or () if trade.id)
        if replica.mirror is not None:
            replica.mirror.lose("stale", "taken over by another collector")
            _listen(replica.mirror, line)

    def _new(self, line: Line, group: Group) -> _Replica:
        if group.channel != "book":
            sink = sink_for(self._store, self._writer, group.exchange, _route(group))
            return _Replica(group.token, line, None, sink)
        book = OrderBook(
            group.exchange, group.symbol, self._writer.lock, time_unit=1, sequenced=group.sequenced,
            depth=group.depth or None)
        mirror = Mirror(book, self._writer.clock, _changed)
        _listen(mirror, line)
        return _Replica(group.token, line, mirror, None)

    def _take(self, replica: _Replica, group: Group) -> None:
        mirror, sink = replica.mirror, replica.sink
        self.counts.items += len(group.items)
        for item in group.items:
            kind = item.__class__
            if mirror is None:
                if isinstance(item, Happened) and sink is not None and not replica.knows(item.event):
                    sink.apply(item.event)
                elif kind is Marked and item.reason == GONE:        # type: ignore[union-attr]
                    self._forget(group, replica)
            elif kind is Change:
                if not mirror.change(item):         # type: ignore[arg-type]
                    self._misfit(mirror, item)
            elif kind is Whole:
                mirror.whole(item)                  # type: ignore[arg-type]
                self._store.orderbooks.setdefault(group.exchange, Table())[group.symbol] = mirror.book
            elif kind is Marked:
                mirror.mark(item.status, item.reason)       # type: ignore[union-attr]
                if item.reason == GONE:                     # type: ignore[union-attr]
                    self._forget(group, replica)

    def _forget(self, group: Group, replica: _Replica) -> None:
        """It has left its keeper's store, and so leaves ours."""
        self._all.pop((group.exchange, group.symbol, group.channel), None)
        if replica.sink is not None:
            replica.sink.remove(_route(group), lambda symbol: self._store.served(
                self._writer, group.exchange, symbol, group.channel))
        books = self._store.orderbooks.get(group.exchange, Table())
        if replica.mirror is not None and books.get(group.symbol) is replica.mirror.book:
            del books[group.symbol]

    def _serves(self, exchange: str, symbol: str, channel: str) -> bool:
        """Whether data may still come from others."""
        return (exchange, symbol, channel) in self._all or any(
            of == exchange and what == channel and "*" in pattern and among(pattern, symbol)
            for of, pattern, what in listed(self._all))

    def _misfit(self, mirror: Mirror, item: Any) -> None:
        self.counts.gaps += 1
        mirror.lose("syncing", f"gap: a change of what was {item.link} does not follow {mirror.book.last}")


def _route(group: Group) -> Route:
    return Route(group.symbol, group.channel, group.symbol, ())


def _changed(book: OrderBook, status: str, reason: str) -> None:
    log.debug("%s %s: order book is %s (%s)", book.exchange, book.symbol, status, reason)


def _listen(mirror: Mirror, line: Line) -> None:
    """From now on it depends on this line."""
    if line.silent:
        mirror.silent(line.silent)
    else:
        mirror.heard()

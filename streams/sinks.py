"""Where the events of a route end in the store: one small writer per kind of channel.

A sink is to a channel what a :class:`~streams.sequencing.BookKeeper` is to a book, and offers the
stream the same questions. Everything is called in the network thread, under the writer's lock.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from .events import Bar, Event, Trade, TradeCorrection
from .sequencing import Clock
from .store import KEPT_BARS, KEPT_TRADES, Store, Writer
from .symbols import among
from .tables import History, Table
from .venue import Route

__all__ = ["EventSink", "Sink", "sink_for"]

T = TypeVar("T")


class Sink(Protocol):
    """What a stream asks of the end of a route.

    Attributes:
        ready: There is data, and it is right.
        last: When data last came: stamp in ns, 0 before the first.
    """

    @property
    def ready(self) -> bool: ...
    @property
    def last(self) -> int: ...

    def apply(self, event: Any) -> None:
        """Put one event in its place."""

    def connected(self) -> None:
        """A new connection was made."""

    def disconnected(self, status: str, reason: str) -> None:
        """The connection is gone: ``stale`` for now, ``closed`` for good."""

    def silent(self, reason: str) -> None:
        """Nothing has come for too long on a live connection."""


class EventSink:
    """Base: events have their own time, so nothing needs to be marked when a connection goes."""

    def __init__(self, clock: Clock, table: Table[str, Any]) -> None:
        self.clock = clock
        self.last = 0
        self._table = table

    @property
    def ready(self) -> bool:
        return self.last > 0

    def connected(self) -> None:
        """See :class:`Sink`."""

    def disconnected(self, status: str, reason: str) -> None:
        """See :class:`Sink`."""

    def silent(self, reason: str) -> None:
        """See :class:`Sink`."""

    def apply(self, event: Any) -> None:
        """See :class:`Sink`."""
        raise NotImplementedError

    def remove(self, route: Route, served: Callable[[str], bool]) -> None:
        """Nobody wants the route any more: what has come by it leaves the store, but for symbols that are
        still ``served`` by others."""
        symbols = [route.symbol]
        if "*" in route.native:
            symbols = [symbol for symbol in self._table if among(route.native, symbol)]
        for symbol in symbols:
            if not served(symbol):
                self._drop(symbol)

    def _drop(self, symbol: str) -> None:
        self._table.pop(symbol, None)


class LatestSink(EventSink):
    """Keeps the latest event per symbol."""

    def apply(self, event: Event) -> None:
        """See :class:`Sink`."""
        self._table[event.symbol] = event
        self.last = self.clock.tick()


def _own(table: Table[str, History[T]], key: str, lock: threading.RLock, kept: int) -> History[T]:
    """The history that a table has under a key, as one that the holder of ``lock`` may write."""
    history = table.get(key)
    if history is None or history.lock is not lock:     # another stream's, that was stopped
        history = table[key] = History(lock, kept) if history is None else history.under(lock)
    return history


class TradeSink(EventSink):
    """Keeps the last trades per symbol, and applies corrections and cancellations to them."""

    def __init__(self, writer: Writer, table: Table[str, History[Trade]]) -> None:
        super().__init__(writer.clock, table)
        self._lock = writer.lock

    def apply(self, event: Trade | TradeCorrection) -> None:
        """See :class:`Sink`."""
        history = _own(self._table, event.symbol, self._lock, KEPT_TRADES)
        if isinstance(event, Trade):
            history.append(event)
        else:
            self._correct(history, event)
        self.last = self.clock.tick()

    def _correct(self, history: History[Trade], event: TradeCorrection) -> None:
        trades = list(history)
        for at in range(len(trades) - 1, -1, -1):
            trade = trades[at]
            if trade.id == event.id and trade.market == event.market:
                history.replace(at, _corrected(trade, event))
                return


def _corrected(trade: Trade, event: TradeCorrection) -> Trade:
    if event.price is None:
        return msgspec.structs.replace(trade, cancelled=True)
    return msgspec.structs.replace(
        trade, price=event.price, size=event.size, corrected=True, id=event.corrected_id or trade.id)


class BarSink(EventSink):
    """Keeps the last bars per symbol and interval; a newer version of a bar replaces the older."""

    def __init__(self, writer: Writer, table: Table[str, Table[str, History[Bar]]], interval: str) -> None:
        super().__init__(writer.clock, table)
        self._lock = writer.lock
        self._interval = interval

    def apply(self, event: Bar) -> None:
        """See :class:`Sink`."""
        by_interval = self._table.setdefault(event.symbol, Table())
        history = _own(by_interval, event.interval, self._lock, KEPT_BARS)
        if not len(history) or event.start > history[-1].start:
            history.append(event)
        else:
            self._revise(history, event)
        self.last = self.clock.tick()

    def _drop(self, symbol: str) -> None:
        by_interval = self._table.get(symbol, Table())
        by_interval.pop(self._interval, None)
        if not by_interval:
            self._table.pop(symbol, None)

    @staticmethod
    def _revise(history: History[Bar], event: Bar) -> None:
        """Put ``event`` in the place of the bar with its start: the newest, nearly always. There may be none,
        when all trades of its time were late. One older than all that are kept is not."""
        for at in range(len(history) - 1, -1, -1):
            start = history[at].start
            if start == event.start:
                history.replace(at, event)
            elif start < event.start:
                history.insert(at + 1, event)
            if start <= event.start:
                return


def sink_for(store: Store, writer: Writer, exchange: str, route: Route) -> EventSink:
    """The sink of any channel but ``book``."""
    kind, _, interval = route.channel.partition(":")
    if kind == "trades":
        return TradeSink(writer, store.trades.setdefault(exchange, Table()))
    if kind == "bars":
        return BarSink(writer, store.bars.setdefault(exchange, Table()), interval)
    table: Table[str, Any]
    if kind == "ticker":
        table = store.tickers.setdefault(exchange, Table())
    elif kind == "quotes":
        table = store.quotes.setdefault(exchange, Table())
    else:
        table = store.latest.setdefault(kind, Table()).setdefault(exchange, Table())
    return LatestSink(writer.clock, table)

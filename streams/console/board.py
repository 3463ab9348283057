"""Pictures of a market: what its books and streams are like at one moment. Nothing here draws."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar

from ..book import OrderBook
from ..events import Bar, Event, Level, Number, Quote, Ticker, Trade, Value
from ..manager import StreamManager
from ..store import Store
from ..tables import History
from . import figures

__all__ = ["Board", "Picture", "Row", "StreamRow"]

T = TypeVar("T")

_RATE_OVER = 2.0        # seconds that a message rate is averaged over
DEPTH = 20              # levels a side in a picture
TRADES = 10             # trades in a picture


def _exact(number: Number) -> Decimal:
    """What the digits say: 60000.01 - 60000.0 is 0.01, and not 0.010000000002037268."""
    return Decimal(str(number))


def _same(like: Number, number: Decimal) -> Number:
    return number if isinstance(like, Decimal) else float(number)


@dataclass(frozen=True)
class Row:
    """One symbol of one exchange.

    Attributes:
        status: The book's own (``live syncing stale closed``) where there is one. Else ``waiting`` before
            the first data, ``refused`` when the venue said no, and the state of the stream.
        detail: Why there is no data, for people.
        last_update: When data came last, ns since the epoch; ``timestamp`` the exchange's own time of it.
        bids, asks: Best levels, best first. Where there is no book: the best prices alone.
        last: The last trade, or the last price of the ticker.
        trades: The last trades, newest first.
        stream: Name of the stream that serves it.
    """

    exchange: str
    symbol: str
    status: str
    detail: str = ""
    last_update: int | None = None
    timestamp: int | None = None
    bids: tuple[Level, ...] = ()
    asks: tuple[Level, ...] = ()
    last: Number | None = None
    last_size: Number | None = None
    trades: tuple[Trade, ...] = ()
    stream: str = ""

    @property
    def bid(self) -> Level | None:
        """Best bid."""
        return self.bids[0] if self.bids else None

    @property
    def ask(self) -> Level | None:
        """Best ask."""
        return self.asks[0] if self.asks else None

    @property
    def spread(self) -> Number | None:
        """Best ask minus best bid."""
        if self.bid is None or self.ask is None:
            return None
        return _same(self.bid[0], _exact(self.ask[0]) - _exact(self.bid[0]))

    @property
    def mid(self) -> Number | None:
        """Half-way between them."""
        if self.bid is None or self.ask is None:
            return None
        return _same(self.bid[0], (_exact(self.bid[0]) + _exact(self.ask[0])) / 2)

    @property
    def prices(self) -> tuple[Number | None, ...]:
        """All prices of the row but those of deeper levels."""
        return self.bid and self.bid[0], self.ask and self.ask[0], self.spread, self.last

    def age(self, now: int) -> float | None:
        """Seconds since data came last; ``now`` in ns since the epoch."""
        return None if self.last_update is None else max((now - self.last_update) / 1e9, 0.0)

    @property
    def complete(self) -> bool:
        """Whether there is data, and it is right."""
        return self.last_update is not None and self.status == "live"


@dataclass(frozen=True)
class StreamRow:
    """One stream. ``rate`` is in messages per second, ``lasted`` and ``age`` in seconds; ``counts`` are
    its counters by name."""

    name: str
    exchange: str
    state: str
    lasted: float
    rate: float
    age: float | None
    error: str
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """Everything at one moment, ``now`` (ns since the epoch)."""

    now: int
    rows: Sequence[Row]
    streams: Sequence[StreamRow]

    def stream(self, name: str) -> StreamRow | None:
        """The stream of that name."""
        return next((stream for stream in self.streams if stream.name == name), None)

    @property
    def complete(self) -> bool:
        """Whether every row is."""
        return bool(self.rows) and all(row.complete for row in self.rows)

    @property
    def hopeless(self) -> bool:
        """Whether nothing more will come for any row that is not complete."""
        missing = [row for row in self.rows if not row.complete]
        return bool(missing) and all(row.status in ("refused", "failed") for row in missing)

    def record(self, row: Row) -> dict[str, Any]:
        """A row as a flat record, for programs. Times in ns since the epoch, ages in seconds."""
        stream = self.stream(row.stream)
        bid, ask = row.bid or (None, None), row.ask or (None, None)
        return {
            "exchange": row.exchange, "symbol": row.symbol, "status": row.status,
            "bid": bid[0], "bid_size": bid[1], "ask": ask[0], "ask_size": ask[1], "spread": row.spread,
            "last": row.last, "last_size": row.last_size, "last_update": row.last_update,
            "timestamp": row.timestamp, "age": row.age(self.now),
            "state": stream.state if stream else None, "rate": round(stream.rate, 3) if stream else None,
            **{name: stream.counts.get(name, 0) if stream else 0
               for name in ("gaps", "resyncs", "reconnects", "malformed")},
            **({"detail": row.detail} if row.detail else {}),
        }


class _Served(NamedTuple):
    """A subscription, and the stream that serves it."""

    stream: StreamRow
    subscription: Mapping[str, str]


class Board:
    """Takes pictures of a market.

    Args:
        market: Whose streams and store.
        targets: ``{exchange: symbols}``; a symbol with ``*`` in it stands for all there are.

    Threads: one.
    """

    def __init__(self, market: StreamManager, targets: Mapping[str, Sequence[str]]) -> None:
        self._market = market
        self._targets = targets
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def look(self) -> Picture:
        """A picture of this moment; prices and trades of all venues are of one moment."""
        statuses = self._market.status()["streams"]
        clock, now = time.monotonic(), time.time_ns()
        streams = [self._stream(status, clock, now) for status in statuses]
        serving: dict[tuple[str, str], dict[str, _Served]] = {}
        for status, stream in zip(statuses, streams):
            for topic, subscription in status["subscriptions"].items():
                channel, _, symbol = topic.partition(".")
                key = stream.exchange, "*" if symbol.endswith("*") else symbol
                serving.setdefault(key, {})[channel] = _Served(stream, subscription)
        with self._market.store.lock:
            now = time.time_ns()
            rows = [self._row(exchange, symbol, {**serving.get((exchange, "*"), {}),
                                                 **serving.get((exchange, symbol), {})})
                    for exchange, symbols in self._targets.items()
                    for symbol in self._symbols(exchange, symbols)]
        return Picture(now, rows, streams)

    def _symbols(self, exchange: str, wanted: Sequence[str]) -> list[str]:
        """The symbols themselves; those that there are in place of a wildcard."""
        plain = [symbol for symbol in wanted if "*" not in symbol]
        if len(plain) == len(wanted):
            return plain
        store = self._market.store
        tables: tuple[Mapping[str, Mapping[str, Any]], ...] = (
            store.orderbooks, store.quotes, store.tickers, store.trades, store.bars, *store.latest.values())
        there = {symbol for table in tables for symbol in table.get(exchange, _NOTHING)}
        return plain + sorted(there.difference(plain))

    def _stream(self, status: Mapping[str, Any], clock: float, now: int) -> StreamRow:
        name, messages = status["name"], status["messages"]
        seen = self._seen.setdefault(name, deque())
        seen.append((clock, messages))
        while len(seen) > 2 and seen[1][0] <= clock - _RATE_OVER:
            seen.popleft()
        before, elapsed = seen[0][1], clock - seen[0][0]
        return StreamRow(
            name, status["exchange"], status["state"], max((now - status["since"]) / 1e9, 0.0),
            (messages - before) / elapsed if elapsed > 0 else 0.0, status["last_message_age"],
            figures.line(status["last_error"] or ""),
            {key: value for key, value in status.items() if type(value) is int and key != "since"})

    def _row(self, exchange: str, symbol: str, served: Mapping[str, _Served]) -> Row:
        store = self._market.store
        book: OrderBook | None = _look_up(store.orderbooks, exchange, symbol)
        quote: Quote | None = _look_up(store.quotes, exchange, symbol)
        ticker: Ticker | None = _look_up(store.tickers, exchange, symbol)
        history: History[Trade] | None = _look_up(store.trades, exchange, symbol)
        trades = tuple(reversed(history[-TRADES:])) if history is not None else ()
        bids, asks = _sides(book, quote, ticker)
        others = {channel: event for channel in served
                  if (event := _latest(store, channel, exchange, symbol)) is not None}
        last, last_size = _last(trades, ticker, others.values())
        events = [event for event in (quote, ticker, *trades[:1], *others.values()) if event is not None]
        newest = max(events, key=lambda event: event.received, default=None)
        stamps = [event.received for event in events] + ([book.stamp] if book and book.stamp else [])
        # The row stands for the channel that gives its prices; another's data do not make it complete.
        there = {"book": book, "quotes": quote, "ticker": ticker, "trades": history, **others}
        channel = next((name for name in there if name in served), next(iter(served), ""))
        main = served.get(channel)
        status, detail = _status(book, bool(there.get(channel)), main)
        return Row(
            exchange, symbol, status, detail, max(stamps, default=None),
            book["timestamp"] if book else newest.timestamp if newest else None,
            bids, asks, last, last_size, trades, main.stream.name if main else "")


_NOTHING: Mapping[str, Any] = {}


def _look_up(table: Mapping[str, Mapping[str, T]], exchange: str, symbol: str) -> T | None:
    return table.get(exchange, _NOTHING).get(symbol)


def _latest(store: Store, channel: str, exchange: str, symbol: str) -> Event | None:
    """The newest event of a channel that has no table of its own in a picture: bars, halts, news, ..."""
    kind, _, interval = channel.partition(":")
    if kind != "bars":
        return _look_up(store.latest.get(kind, _NOTHING), exchange, symbol)
    bars: Mapping[str, History[Bar]] | None = _look_up(store.bars, exchange, symbol)
    history = bars.get(interval) if bars is not None else None
    return history[-1] if history else None


def _sides(book: OrderBook | None, quote: Quote | None, ticker: Ticker | None) -> tuple[
        tuple[Level, ...], tuple[Level, ...]]:
    if book is not None:
        return book.depth(DEPTH)
    best = quote or ticker
    if best is None:
        return (), ()
    return (((best.bid, best.bid_size or 0),) if best.bid is not None else (),
            ((best.ask, best.ask_size or 0),) if best.ask is not None else ())


def _last(trades: Sequence[Trade], ticker: Ticker | None, others: Iterable[Event]) -> tuple[
        Number | None, Number | None]:
    valid = next((trade for trade in trades if not trade.cancelled), None)
    if valid is not None:
        return valid.price, valid.size
    if ticker is not None:
        return ticker.last, ticker.last_size
    prices = [other.value if isinstance(other, Value) else other.close
              for other in others if isinstance(other, (Bar, Value))]
    return (prices[0] if prices else None), None


def _status(book: OrderBook | None, data: bool, main: _Served | None) -> tuple[str, str]:
    """``(status, detail)`` of a row: of its book, or of the subscription ``main`` and whether it has data."""
    if main is not None and main.subscription["state"] == "refused":
        return "refused", figures.line(main.subscription["reason"])
    if book is not None:
        return book.status, ""
    if main is None or (main.stream.state == "live" and not data):
        return "waiting", ""
    return main.stream.state, main.stream.error

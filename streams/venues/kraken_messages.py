"""Kraken's messages (WebSocket v2): their shapes, and how each becomes events.

All numbers are bare JSON numbers with their trailing zeros, times RFC 3339. ``data`` is a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any, Generic, Literal, Optional, TypeVar

import msgspec
from msgspec import field

from ..checksums import Digits, Formula, check_digits, digits
from ..events import Bar, Event, Level, Quote, Side, Ticker, Trade
from ..numbers import Count, check_levels, check_numbers, check_prices, number_types
from ..structs import own
from ..timestamps import Rfc3339
from ..venue import BookSnapshot, Route

__all__ = ["Book", "Changes", "FORMULA", "Messages", "Odd", "decode_odd", "decode_states"]

P = TypeVar("P")    # type of prices
S = TypeVar("S")    # type of sizes
T = TypeVar("T")    # type of the records

epoch = Rfc3339()


class Result(msgspec.Struct, gc=False):
    """What was subscribed, in an acknowledgement."""

    channel: str = ""
    symbol: str = ""
    interval: int = 0


class Odd(msgspec.Struct, gc=False):
    """Any message. Data carry ``channel``, answers ``method``; an error may stand alone."""

    channel: str = ""
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"[]")
    method: str = ""
    success: Optional[bool] = None
    error: str = ""
    symbol: str = ""
    req_id: Optional[int] = None
    result: Optional[Result] = None


decode_odd: Callable[[bytes], Odd] = msgspec.json.Decoder(Odd).decode


class State(msgspec.Struct, gc=False):
    """Of channel ``status``: online, maintenance, cancel_only, post_only or limit_only."""

    system: str


decode_states: Callable[[msgspec.Raw], list[State]] = msgspec.json.Decoder(list[State]).decode


class Exact(msgspec.Struct, gc=False):
    """A level; Decimal keeps the venue's digits."""

    price: Decimal
    size: Decimal = field(name="qty")


class Book(msgspec.Struct, gc=False):
    """A whole book, or its changes; ``checksum`` is that of the book afterwards."""

    symbol: str
    bids: list[Exact]
    asks: list[Exact]
    checksum: int
    timestamp: str = ""


class Books(msgspec.Struct, gc=False):
    """``{"channel":"book","type":"update","data":[{"symbol":"BTC/USD",...}]}``"""

    type: Literal["snapshot", "update"]
    data: list[Book]


class Checked(msgspec.Struct, gc=False):
    """One book of a message, its numbers known to be possible."""

    symbol: str
    whole: bool
    bids: list[Digits]
    asks: list[Digits]
    checksum: int
    time: int


def _text(price: Decimal, size: Decimal) -> str:
    return digits(price).replace(".", "").lstrip("0") + digits(size).replace(".", "").lstrip("0")


# Spot v2 guide "Book checksum": the ten best asks, then the ten best bids; of each price and
# quantity all digits without the point and leading zeros. Always ten, whatever the depth.
FORMULA = Formula(10, _text, lambda bids, asks: "".join(asks) + "".join(bids))


class Changes(msgspec.Struct, gc=False):
    """A :class:`streams.venue.BookDelta`."""

    bids: Sequence[Level]
    asks: Sequence[Level]
    time: int
    link: int = 0
    last: int = 0


class Deal(msgspec.Struct, Generic[P, S], gc=False):
    """Of channel ``trade``; ``side`` is the taker's."""

    symbol: str
    side: Side
    price: P
    size: S = field(name="qty")
    id: Count = field(name="trade_id")
    timestamp: str


class Summary(msgspec.Struct, Generic[S], gc=False):
    """Of channel ``ticker``: best prices, last trade, 24 hours."""

    symbol: str
    bid: S
    bid_size: S = field(name="bid_qty")
    ask: S
    ask_size: S = field(name="ask_qty")
    last: S
    volume: S
    low: S
    high: S
    timestamp: str = ""


class Candle(msgspec.Struct, Generic[P, S], gc=False):
    """Of channel ``ohlc``. Its deprecated ``timestamp`` is the end of the interval."""

    symbol: str
    interval: int
    start: str = field(name="interval_begin")
    open: P
    high: P
    low: P
    close: P
    volume: S
    trades: Count
    vwap: Optional[S] = None


class Day(msgspec.Struct, Generic[S], gc=False):
    """Of REST ``Ticker``: price, whole lots, lots; last trade; today and 24 hours."""

    ask: tuple[S, S, S] = field(name="a")
    bid: tuple[S, S, S] = field(name="b")
    last: tuple[S, S] = field(name="c")
    volume: tuple[S, S] = field(name="v")
    low: tuple[S, S] = field(name="l")
    high: tuple[S, S] = field(name="h")


class Depth(msgspec.Struct, Generic[P, S], gc=False):
    """Of REST ``Depth``: price, volume, time."""

    bids: list[tuple[P, S, float]]
    asks: list[tuple[P, S, float]]


class Answer(msgspec.Struct, Generic[T], gc=False):
    """Of any REST call. The key of the result is the venue's inner name of the pair."""

    error: list[str]
    result: dict[str, T] = {}

    def only(self) -> T:
        """The result for the one pair that was asked for."""
        if self.error or len(self.result) != 1:
            raise ValueError("; ".join(self.error) or f"{len(self.result)} pairs in the answer")
        return next(iter(self.result.values()))


class Messages:
    """Typed parsers of one connection, for one type of numbers."""

    def __init__(self, exchange: str, number: type[float] | type[Decimal]) -> None:
        self._exchange = exchange
        self._number = number
        price, size = number_types(number)
        deal: Any = Deal
        summary: Any = Summary
        candle: Any = Candle
        day: Any = Day
        depth: Any = Depth
        self._books = msgspec.json.Decoder(own(Books)).decode
        self._checked: type[Checked] = own(Checked)
        self._changes: type[Changes] = own(Changes)
        self.records: dict[str, Callable[[msgspec.Raw], Any]] = {
            "trade": msgspec.json.Decoder(own(list[deal[price, size]])).decode,
            "ticker": msgspec.json.Decoder(own(list[summary[size]])).decode,
            "ohlc": msgspec.json.Decoder(own(list[candle[price, size]])).decode}
        answer: Any = Answer
        self._day = msgspec.json.Decoder(answer[day[size]], strict=False).decode
        self._depth = msgspec.json.Decoder(answer[depth[price, size]], strict=False).decode

    # -- books --------------------------------------------------------------------------------------

    def books(self, raw: bytes) -> list[Checked]:
        """The books in a message: all, or it raises."""
        message = self._books(raw)
        return [self._check(book, message.type == "snapshot") for book in message.data]

    def _check(self, book: Book, whole: bool) -> Checked:
        bids, asks = [(m.price, m.size) for m in book.bids], [(m.price, m.size) for m in book.asks]
        check_digits(bids)
        check_digits(asks)
        time = epoch(book.timestamp) if book.timestamp else 0
        return self._checked(book.symbol, whole, bids, asks, book.checksum, time)

    def event(self, book: Checked, gone: tuple[Sequence[Decimal], Sequence[Decimal]]) -> (
            BookSnapshot | Changes):
        """A book, or its changes, for users; ``gone``: prices that were pushed beyond the depth."""
        bids, asks = self._levels(book.bids, gone[0]), self._levels(book.asks, gone[1])
        if not book.whole:
            return self._changes(bids, asks, book.time)
        return BookSnapshot(0, [level for level in bids if level[1]], [level for level in asks if level[1]],
                            book.time)

    def _levels(self, levels: Iterable[Digits], gone: Iterable[Decimal]) -> list[Level]:
        """One entry for each price, as after the last of its changes."""
        sizes: dict[Any, Any] = dict(levels)
        for price in gone:
            sizes[price] = 0
        number: Any = self._number
        if number is Decimal:
            return [(price, Decimal(size)) for price, size in sizes.items()]
        return [(float(price), float(size)) for price, size in sizes.items()]

    # -- the others ---------------------------------------------------------------------------------

    def parser(self, route: Route) -> Callable[[Any, int], Sequence[Event]]:
        """What a record means for one route: ``(record, now) -> events``. It raises for bad ones."""
        kind = route.channel.partition(":")[0]
        makers = {"quotes": self._quotes, "trades": self._trades, "bars": self._bars, "ticker": self._tickers}
        return makers[kind](route)

    def _quotes(self, route: Route) -> Callable[[Any, int], Sequence[Event]]:
        def parse(m: Any, now: int) -> Sequence[Event]:
            check_numbers(m.bid, m.bid_size, m.ask, m.ask_size)
            bid, ask = _sides(m)
            return (Quote(exchange=self._exchange, symbol=route.symbol, timestamp=_time(m), received=now,
                          bid=bid[0], bid_size=bid[1], ask=ask[0], ask_size=ask[1]),)
        return parse

    def _tickers(self, route: Route) -> Callable[[Any, int], Sequence[Event]]:
        def parse(m: Any, now: int) -> Sequence[Event]:
            check_numbers(m.bid, m.bid_size, m.ask, m.ask_size, m.last, m.volume, m.high, m.low)
            bid, ask = _sides(m)
            return (Ticker(exchange=self._exchange, symbol=route.symbol, timestamp=_time(m), received=now,
                           last=m.last, bid=bid[0], bid_size=bid[1], ask=ask[0], ask_size=ask[1],
                           high=m.high, low=m.low, volume=m.volume),)
        return parse

    def _trades(self, route: Route) -> Callable[[Any, int], Sequence[Event]]:
        def parse(m: Any, now: int) -> Sequence[Event]:
            check_prices(m.price)
            check_numbers(m.size)
            return (Trade(exchange=self._exchange, symbol=route.symbol, timestamp=_time(m),
                          received=now, price=m.price, size=m.size, side=m.side, id=str(m.id)),)
        return parse

    def _bars(self, route: Route) -> Callable[[Any, int], Sequence[Event]]:
        """There is no flag for a closed bar: one is final when the next one begins."""
        interval = route.channel.partition(":")[2]
        latest: Bar | None = None

        def parse(m: Any, now: int) -> Sequence[Event]:
            nonlocal latest
            check_prices(m.open, m.high, m.low, m.close)
            check_numbers(m.volume, m.vwap)
            bar = Bar(
                exchange=self._exchange, symbol=route.symbol, received=now, interval=interval,
                start=epoch(m.start), open=m.open, high=m.high, low=m.low, close=m.close, volume=m.volume,
                vwap=m.vwap, trades=m.trades)
            before, latest = latest, bar
            if before is not None and bar.start > before.start:
                return (msgspec.structs.replace(before, closed=True), bar)
            return (bar,)
        return parse

    # -- REST ---------------------------------------------------------------------------------------

    def rest_ticker(self, symbol: str, body: bytes, now: int) -> Ticker:
        """The answer of ``/0/public/Ticker``. Raises for a bad one."""
        m = self._day(body).only()
        check_numbers(*m.ask, *m.bid, *m.last, *m.volume, *m.low, *m.high)
        return Ticker(
            exchange=self._exchange, symbol=symbol, received=now, last=m.last[0], last_size=m.last[1],
            bid=m.bid[0] or None, bid_size=m.bid[2], ask=m.ask[0] or None, ask_size=m.ask[2],
            high=m.high[1], low=m.low[1], volume=m.volume[1], source="rest")

    def rest_book(self, body: bytes) -> BookSnapshot:
        """The answer of ``/0/public/Depth``. Raises for a bad one."""
        m = self._depth(body).only()
        bids, asks = ([(price, size) for price, size, _ in side] for side in (m.bids, m.asks))
        check_levels(bids)
        check_levels(asks)
        return BookSnapshot(0, bids, asks)


def _time(m: Any) -> int | None:
    return epoch(m.timestamp) or None if m.timestamp else None


def _sides(m: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Best bid and best ask; an empty side has no price."""
    return ((m.bid, m.bid_size) if m.bid else (None, None)), ((m.ask, m.ask_size) if m.ask else (None, None))

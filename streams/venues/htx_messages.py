"""Huobi's messages: their shapes, and how each becomes events.

All numbers are JSON numbers, often in scientific notation; times are milliseconds, a bar's ``id``
is its opening time in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Generic, Optional, TypeVar, Union

import msgspec
from msgspec import field

from ..events import Bar, Event, Quote, Side, Ticker, Trade
from ..numbers import Count, Millis, Seconds, check_levels, check_numbers, check_prices, number_types
from ..structs import own
from ..venue import BookSnapshot, Route

__all__ = ["Head", "Messages", "decode_head"]

MS = 1_000_000
SECOND = 1_000_000_000

P = TypeVar("P")    # type of prices
S = TypeVar("S")    # type of sizes
T = TypeVar("T")    # type of the tick
Parser = Callable[[bytes, int], Sequence[Any]]


class Head(msgspec.Struct, gc=False):
    """What tells messages apart: data carry ``ch``, answers ``subbed``, ``unsubbed`` or ``rep``, and
    ``{"ping":1618678073643}`` stands alone, and so does the ``pong`` to a ping of ours."""

    ch: str = ""
    ping: Optional[int] = None
    pong: Optional[int] = None
    id: Union[int, str, None] = None
    status: str = ""
    subbed: str = ""
    unsubbed: str = ""
    rep: str = ""
    time: Millis = field(name="ts", default=0)
    error_code: str = field(name="err-code", default="")
    error_text: str = field(name="err-msg", default="")

    @property
    def refusal(self) -> str:
        """The venue's words for an error."""
        return f"{self.error_text} ({self.error_code})"


decode_head: Callable[[bytes], Head] = msgspec.json.Decoder(Head).decode


class Push(msgspec.Struct, Generic[T], gc=False):
    """``{"ch":"market.btcusdt.bbo","ts":1654031600066,"tick":{...}}``"""

    tick: T
    time: Millis = field(name="ts", default=0)


class Levels(msgspec.Struct, Generic[P, S], gc=False):
    """Tick of ``depth.step0``. An empty side may be missing."""

    bids: list[tuple[P, S]] = []
    asks: list[tuple[P, S]] = []
    version: Count = 0
    time: Millis = field(name="ts", default=0)


class Changes(msgspec.Struct, Generic[P, S], gc=False):
    """Tick of ``mbp``: a side without changes is missing. A :class:`streams.venue.BookDelta` but for
    its time, which stands outside of the tick."""

    last: Count = field(name="seqNum")
    link: Count = field(name="prevSeqNum")
    bids: list[tuple[P, S]] = []
    asks: list[tuple[P, S]] = []
    time: int = 0


class Whole(msgspec.Struct, Generic[P, S], gc=False):
    """``data`` of the answer to ``req market.btcusdt.mbp.150``."""

    last: Count = field(name="seqNum")
    bids: list[tuple[P, S]] = []
    asks: list[tuple[P, S]] = []


class Refresh(msgspec.Struct, Generic[T], gc=False):
    """``{"id":"7","rep":"market.btcusdt.mbp.150","status":"ok","ts":1698359289261,"data":{...}}``"""

    data: T
    time: Millis = field(name="ts", default=0)


class Best(msgspec.Struct, Generic[S], gc=False):
    """Tick of ``bbo``."""

    sequence: Optional[Count] = field(name="seqId", default=None)
    time: Millis = field(name="quoteTime", default=0)
    bid: Optional[S] = None
    bid_size: Optional[S] = field(name="bidSize", default=None)
    ask: Optional[S] = None
    ask_size: Optional[S] = field(name="askSize", default=None)


class Deal(msgspec.Struct, Generic[P, S], gc=False):
    """One of the trades in a tick of ``trade.detail``. Its ``id`` exceeds 64 bits and is deprecated."""

    price: P
    size: S = field(name="amount")
    time: Millis = field(name="ts")
    side: Side = field(name="direction")
    id: Optional[Count] = field(name="tradeId", default=None)


class Deals(msgspec.Struct, Generic[T], gc=False):
    """Tick of ``trade.detail``; newest first."""

    data: list[T]


class Candle(msgspec.Struct, Generic[P, S], gc=False):
    """Tick of ``kline``."""

    start: Seconds = field(name="id")
    open: P
    close: P
    low: P
    high: P
    volume: S = field(name="amount")
    quote_volume: S = field(name="vol")
    trades: Count = field(name="count")


class Day(msgspec.Struct, Generic[S], gc=False):
    """Tick of ``ticker``."""

    open: S
    close: S
    low: S
    high: S
    volume: S = field(name="amount")
    quote_volume: S = field(name="vol")
    bid: Optional[S] = None
    bid_size: Optional[S] = field(name="bidSize", default=None)
    ask: Optional[S] = None
    ask_size: Optional[S] = field(name="askSize", default=None)
    last: Optional[S] = field(name="lastPrice", default=None)
    last_size: Optional[S] = field(name="lastSize", default=None)


class Merged(msgspec.Struct, Generic[S], gc=False):
    """Tick of the REST answer ``/market/detail/merged``: bid and ask are ``[price, size]``."""

    open: S
    close: S
    low: S
    high: S
    volume: S = field(name="amount")
    quote_volume: S = field(name="vol")
    bid: Optional[tuple[S, S]] = None
    ask: Optional[tuple[S, S]] = None


class Messages:
    """Typed parsers of one connection, for one type of numbers."""

    def __init__(self, exchange: str, number: type[float] | type[Decimal]) -> None:
        self._exchange = exchange
        self._exact = number is not float
        self._price, self._size = price, size = number_types(number)
        self._decoders: dict[Any, Callable[[bytes], Any]] = {}
        push: Any = Push
        refresh: Any = Refresh
        whole: Any = Whole
        merged: Any = Merged
        levels: Any = Levels
        self._refresh = msgspec.json.Decoder(refresh[whole[price, size]]).decode
        self._rest_ticker = msgspec.json.Decoder(push[merged[size]]).decode
        self._rest_book = msgspec.json.Decoder(push[levels[price, size]]).decode

    def _push(self, kind: Any, *types: Any) -> Callable[[bytes], Any]:
        """The decoder of one kind of messages, the same for all routes."""
        if kind not in self._decoders:
            push: Any = Push
            self._decoders[kind] = msgspec.json.Decoder(own(push[kind[types]])).decode
        return self._decoders[kind]

    def parser(self, route: Route) -> Parser:
        """The parser of one route's messages: ``(text, now) -> events``. It raises for bad ones."""
        kind = route.channel.partition(":")[0]
        if kind == "book":
            return self._changes() if ".mbp." in route.topics[0] else self._levels()
        return {"quotes": self._quotes, "trades": self._trades, "bars": self._bars,
                "ticker": self._tickers}[kind](route)

    def _levels(self) -> Parser:
        decode = self._push(Levels, self._price, self._size)

        def parse(text: bytes, now: int) -> Sequence[Any]:
            return (self._snapshot(decode(text)),)
        return parse

    def _snapshot(self, push: Any) -> BookSnapshot:
        tick = push.tick
        self._check(tick)
        return BookSnapshot(tick.version, tick.bids, tick.asks, tick.time or push.time)

    def _check(self, tick: Any) -> None:
        if self._exact:
            check_levels(tick.bids)
            check_levels(tick.asks)

    def _changes(self) -> Parser:
        decode = self._push(Changes, self._price, self._size)

        def parse(text: bytes, now: int) -> Sequence[Any]:
            push = decode(text)
            tick = push.tick
            self._check(tick)
            tick.time = push.time
            return (tick,)
        return parse

    def refresh(self, text: bytes) -> BookSnapshot:
        """The answer to ``req``. Raises for a bad one."""
        answer = self._refresh(text)
        self._check(answer.data)
        return BookSnapshot(answer.data.last, answer.data.bids, answer.data.asks, answer.time)

    def _quotes(self, route: Route) -> Parser:
        decode = self._push(Best, self._size)

        def parse(text: bytes, now: int) -> Sequence[Event]:
            push = decode(text)
            m = push.tick
            check_numbers(m.bid, m.bid_size, m.ask, m.ask_size)
            return (Quote(
                exchange=self._exchange, symbol=route.symbol, timestamp=(m.time or push.time) * MS or None,
                received=now, bid=m.bid, bid_size=m.bid_size, ask=m.ask, ask_size=m.ask_size,
                sequence=m.sequence),)
        return parse

    def _trades(self, route: Route) -> Parser:
        deal: Any = Deal
        decode = self._push(Deals, deal[self._price, self._size])

        def parse(text: bytes, now: int) -> Sequence[Event]:
            trades = decode(text).tick.data
            for m in trades:
                check_prices(m.price)
                check_numbers(m.size)
            return [
                Trade(exchange=self._exchange, symbol=route.symbol, timestamp=m.time * MS, received=now,
                      price=m.price, size=m.size, side=m.side, id="" if m.id is None else str(m.id))
                for m in reversed(trades)]
        return parse

    def _bars(self, route: Route) -> Parser:
        """There is no flag for a closed bar: one is final when the next one begins."""
        decode = self._push(Candle, self._price, self._size)
        interval = route.channel.partition(":")[2]
        latest: Bar | None = None

        def parse(text: bytes, now: int) -> Sequence[Event]:
            nonlocal latest
            push = decode(text)
            m = push.tick
            check_prices(m.open, m.high, m.low, m.close)
            check_numbers(m.volume, m.quote_volume)
            bar = Bar(
                exchange=self._exchange, symbol=route.symbol, timestamp=push.time * MS or None, received=now,
                interval=interval, start=m.start * SECOND, open=m.open, high=m.high, low=m.low,
                close=m.close, volume=m.volume, quote_volume=m.quote_volume, trades=m.trades)
            before, latest = latest, bar
            if before is not None and bar.start > before.start:
                return (msgspec.structs.replace(before, closed=True), bar)
            return (bar,)
        return parse

    def _tickers(self, route: Route) -> Parser:
        decode = self._push(Day, self._size)

        def parse(text: bytes, now: int) -> Sequence[Event]:
            push = decode(text)
            m = push.tick
            return (self._ticker(route.symbol, push.time, m, now, "stream", (m.bid, m.bid_size),
                                 (m.ask, m.ask_size), m.last or m.close, m.last_size),)
        return parse

    def _ticker(self, symbol: str, time: int, m: Any, now: int, source: str, bid: Any, ask: Any,
                last: Any, last_size: Any) -> Ticker:
        check_numbers(m.open, m.close, m.low, m.high, m.volume, m.quote_volume, *bid, *ask, last, last_size)
        return Ticker(
            exchange=self._exchange, symbol=symbol, timestamp=time * MS or None, received=now, last=last,
            last_size=last_size, bid=bid[0], bid_size=bid[1], ask=ask[0], ask_size=ask[1], open=m.open,
            high=m.high, low=m.low, volume=m.volume, quote_volume=m.quote_volume, source=source)

    def rest_ticker(self, symbol: str, body: bytes, now: int) -> Ticker:
        """The answer of ``/market/detail/merged``. Raises for a bad one."""
        push = self._rest_ticker(body)
        m = push.tick
        return self._ticker(symbol, push.time, m, now, "rest", m.bid or (None, None),
                            m.ask or (None, None), m.close, None)

    def rest_book(self, body: bytes) -> BookSnapshot:
        """The answer of ``/market/depth``. Raises for a bad one."""
        return self._snapshot(self._rest_book(body))

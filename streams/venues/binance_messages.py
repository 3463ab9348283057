"""Binance's messages: their shapes, and how each becomes an event.

Prices and sizes are JSON strings, times milliseconds. Fields that are not named here are skipped by
the decoder at C speed.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Generic, Optional, TypeVar, Union

import msgspec
from msgspec import field

from ..events import Bar, Event, Level, Quote, Ticker, Trade
from ..numbers import Count, Millis, check_levels, check_numbers, check_prices, number_types
from ..structs import own
from ..venue import BookSnapshot, FloatPrice, FloatSize, Route

__all__ = ["FuturesMessages", "Messages", "Odd", "decode_odd"]

MS = 1_000_000      # nanoseconds

L = TypeVar("L")    # type of one side's levels
P = TypeVar("P")    # type of prices
S = TypeVar("S")    # type of sizes
T = TypeVar("T")    # type of the payload
Parser = Callable[[bytes, int], Any]

_float_levels = msgspec.json.Decoder(list[tuple[FloatPrice, FloatSize]], strict=False).decode


class Envelope(msgspec.Struct, Generic[T], gc=False):
    """``{"stream":"btcusdt@depth@100ms","data":{...}}``; the name has been looked at before."""

    data: T


class _Changes(msgspec.Struct, Generic[L], gc=False):
    """Levels of both sides, decoded or left as they are."""

    bids: L = field(name="b")
    asks: L = field(name="a")

    def levels(self: _Changes[msgspec.Raw]) -> tuple[list[Level], list[Level]]:
        """See PackedDelta."""
        return _float_levels(self.bids), _float_levels(self.asks)


class Depth(_Changes[L], Generic[L], gc=False):
    """``{"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,"b":[["0.0024","10"]],"a":[]}``

    It is a :class:`streams.venue.BookDelta` as it stands, or, if it leaves the levels ``Raw``, a
    :class:`streams.venue.PackedDelta`: ``U`` is the first update id, so the rule is *dense*.
    """

    link: Count = field(name="U")
    last: Count = field(name="u")
    time: Millis = field(name="E", default=0)


class FuturesDepth(_Changes[L], Generic[L], gc=False):
    """The same of futures; ``pu``, the predecessor's last id, is the link, so the rule is *bridged*.
    ``T`` is the matching engine's time."""

    link: Annotated[int, msgspec.Meta(ge=-1, le=2 ** 63 - 1)] = field(name="pu")    # -1, seen: none before
    last: Count = field(name="u")
    time: Millis = field(name="T", default=0)


class Snapshot(msgspec.Struct, Generic[P, S], gc=False):
    """``{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}``; futures add ``T``."""

    last: Count = field(name="lastUpdateId")
    bids: list[tuple[P, S]]
    asks: list[tuple[P, S]]
    time: Millis = field(name="T", default=0)


class BookTicker(msgspec.Struct, Generic[P, S], gc=False):
    """``{"u":400900217,"s":"BNBUSDT","b":"25.35","B":"31.21","a":"25.36","A":"40.66"}``; futures add
    ``T``. An empty side has price 0."""

    update: Count = field(name="u")
    bid: S = field(name="b")
    bid_size: S = field(name="B")
    ask: S = field(name="a")
    ask_size: S = field(name="A")
    time: Millis = field(name="T", default=0)


class TradeMessage(msgspec.Struct, Generic[P, S], gc=False):
    """``{"e":"trade","E":..,"s":"BNBBTC","t":12345,"p":"0.001","q":"100","T":1672515782136,"m":true}``;
    aggregate trades have ``a`` for ``t``. ``m``: the buyer was the maker, so the seller the aggressor."""

    price: P = field(name="p")
    size: S = field(name="q")
    time: Millis = field(name="T")
    buyer_made: bool = field(name="m")
    id: Optional[Count] = field(name="t", default=None)
    aggregate: Optional[Count] = field(name="a", default=None)


class Candle(msgspec.Struct, Generic[P, S], gc=False):
    """The ``k`` of a kline."""

    start: Millis = field(name="t")
    interval: str = field(name="i")
    open: P = field(name="o")
    close: P = field(name="c")
    high: P = field(name="h")
    low: P = field(name="l")
    volume: S = field(name="v")
    trades: Count = field(name="n")
    closed: bool = field(name="x")
    quote_volume: S = field(name="q")


class Kline(msgspec.Struct, Generic[P, S], gc=False):
    """``{"e":"kline","E":1672515782136,"s":"BNBBTC","k":{...}}``"""

    time: Millis = field(name="E")
    candle: Candle[P, S] = field(name="k")


class DayTicker(msgspec.Struct, Generic[S], gc=False):
    """``24hrTicker``: rolling 24 hours. Futures have no bid and ask in it."""

    time: Millis = field(name="E")
    last: S = field(name="c")
    last_size: S = field(name="Q")
    open: S = field(name="o")
    high: S = field(name="h")
    low: S = field(name="l")
    volume: S = field(name="v")
    quote_volume: S = field(name="q")
    bid: Optional[S] = field(name="b", default=None)
    bid_size: Optional[S] = field(name="B", default=None)
    ask: Optional[S] = field(name="a", default=None)
    ask_size: Optional[S] = field(name="A", default=None)


class RestTicker(msgspec.Struct, Generic[S], gc=False):
    """Answer of ``ticker/24hr``."""

    time: Millis = field(name="closeTime")
    last: S = field(name="lastPrice")
    last_size: S = field(name="lastQty")
    open: S = field(name="openPrice")
    high: S = field(name="highPrice")
    low: S = field(name="lowPrice")
    volume: S
    quote_volume: S = field(name="quoteVolume")
    bid: Optional[S] = field(name="bidPrice", default=None)
    bid_size: Optional[S] = field(name="bidQty", default=None)
    ask: Optional[S] = field(name="askPrice", default=None)
    ask_size: Optional[S] = field(name="askQty", default=None)


class _Error(msgspec.Struct):
    code: int = 0
    msg: str = ""


class _Tagged(msgspec.Struct):
    event: str = field(name="e", default="")


class Odd(msgspec.Struct):
    """Whatever else may come: answers, errors in both of their forms, notices, foreign topics."""

    stream: str = ""
    event: str = field(name="e", default="")
    id: Union[int, str, None] = None
    error: Optional[_Error] = None
    code: Optional[int] = None
    msg: str = ""
    data: Optional[_Tagged] = None

    @property
    def number(self) -> int | None:
        """The venue's code, when it is an error."""
        return self.code if self.error is None else self.error.code

    @property
    def refusal(self) -> str | None:
        """The venue's words, when it is an error."""
        if self.error is not None:
            return f"{self.error.msg} (code {self.error.code})"
        return f"{self.msg} (code {self.code})" if self.code is not None else None


decode_odd: Callable[[bytes], Odd] = msgspec.json.Decoder(Odd).decode


class Messages:
    """Typed parsers of one connection, for one type of numbers.

    Args:
        exchange: For the events.
        number: ``float`` or ``Decimal``.
    """

    depth: Any = Depth

    def __init__(self, exchange: str, number: type[float] | type[Decimal]) -> None:
        self._exchange = exchange
        self._exact = number is not float
        self._price, self._size = price, size = number_types(number)
        self._decoders: dict[Any, Callable[[bytes], Any]] = {}
        levels: Any = list[tuple[price, size]]  # type: ignore[valid-type]
        #: One depth update in its envelope; what it gives has been checked only with ``float``.
        self.depth_update = self._enveloped(self.depth, levels)
        #: The same with its levels left as they are; of ``float`` only.
        self.packed_depth_update = self._enveloped(self.depth, msgspec.Raw)
        whole: Any = Snapshot
        ticker: Any = RestTicker
        self._snapshot = self._decoder(whole[price, size])
        self._rest_ticker = self._decoder(ticker[size])

    def _decoder(self, kind: Any) -> Callable[[bytes], Any]:
        # Not strict: numbers come as text. Decimals are taken from text as they are, exactly.
        return msgspec.json.Decoder(kind, strict=False).decode

    def _enveloped(self, kind: Any, *types: Any) -> Callable[[bytes], Any]:
        """The decoder of one kind of messages, the same for all routes."""
        whole = kind[types]
        if whole not in self._decoders:
            envelope: Any = Envelope
            self._decoders[whole] = self._decoder(own(envelope[whole]))
        return self._decoders[whole]

    def parser(self, route: Route) -> Parser:
        """The parser of one route's messages: ``(raw, now) -> event``. It raises for bad ones."""
        return _PARSERS[route.channel.partition(":")[0]](self, route)

    def _book(self, route: Route) -> Parser:
        def parse(raw: bytes, now: int) -> Any:
            if route.packed:
                return self.packed_depth_update(raw).data
            depth = self.depth_update(raw).data
            if self._exact:
                check_levels(depth.bids)
                check_levels(depth.asks)
            return depth
        return parse

    def _quotes(self, route: Route) -> Parser:
        decode = self._enveloped(BookTicker, self._price, self._size)
        exchange, symbol = self._exchange, route.symbol

        def parse(raw: bytes, now: int) -> Event:
            m = decode(raw).data
            check_numbers(m.bid, m.bid_size, m.ask, m.ask_size)
            return Quote(
                exchange=exchange, symbol=symbol, timestamp=m.time * MS or None, received=now,
                bid=m.bid or None, bid_size=m.bid_size if m.bid else None,
                ask=m.ask or None, ask_size=m.ask_size if m.ask else None, sequence=m.update)
        return parse

    def _trades(self, route: Route) -> Parser:
        decode = self._enveloped(TradeMessage, self._price, self._size)
        exchange, symbol = self._exchange, route.symbol

        def parse(raw: bytes, now: int) -> Event:
            m = decode(raw).data
            check_prices(m.price)
            check_numbers(m.size)
            number = m.id if m.id is not None else m.aggregate
            return Trade(
                exchange=exchange, symbol=symbol, timestamp=m.time * MS, received=now, price=m.price,
                size=m.size, side="sell" if m.buyer_made else "buy", id="" if number is None else str(number))
        return parse

    def _bars(self, route: Route) -> Parser:
        decode = self._enveloped(Kline, self._price, self._size)
        exchange, symbol = self._exchange, route.symbol

        def parse(raw: bytes, now: int) -> Event:
            m = decode(raw).data
            k = m.candle
            check_prices(k.open, k.high, k.low, k.close)
            check_numbers(k.volume, k.quote_volume)
            return Bar(
                exchange=exchange, symbol=symbol, timestamp=m.time * MS, received=now,
                interval=k.interval, start=k.start * MS, open=k.open, high=k.high, low=k.low,
                close=k.close, volume=k.volume, quote_volume=k.quote_volume, trades=k.trades,
                closed=k.closed)
        return parse

    def _tickers(self, route: Route) -> Parser:
        decode = self._enveloped(DayTicker, self._size)
        symbol = route.symbol

        def parse(raw: bytes, now: int) -> Event:
            return self._ticker(symbol, decode(raw).data, now, "stream")
        return parse

    def _ticker(self, symbol: str, m: Any, now: int, source: str) -> Ticker:
        check_numbers(m.last, m.last_size, m.bid, m.bid_size, m.ask, m.ask_size, m.open, m.high, m.low,
                      m.volume, m.quote_volume)
        return Ticker(
            exchange=self._exchange, symbol=symbol, timestamp=m.time * MS, received=now, last=m.last,
            last_size=m.last_size, bid=m.bid or None, bid_size=m.bid_size, ask=m.ask or None,
            ask_size=m.ask_size, open=m.open, high=m.high, low=m.low, volume=m.volume,
            quote_volume=m.quote_volume, source=source)

    def rest_ticker(self, symbol: str, body: bytes, now: int) -> Ticker:
        """The answer of ``ticker/24hr``. Raises for a bad one."""
        return self._ticker(symbol, self._rest_ticker(body), now, "rest")

    def snapshot(self, body: bytes, limit: int) -> BookSnapshot:
        """The answer of ``depth`` with that limit. Raises for a bad one."""
        book = self._snapshot(body)
        if self._exact:
            check_levels(book.bids)
            check_levels(book.asks)
        return BookSnapshot(book.last, book.bids, book.asks, book.time, limit)


class FuturesMessages(Messages):
    """Where futures differ: what links one depth update to the next."""

    depth = FuturesDepth


_PARSERS: dict[str, Callable[[Messages, Route], Parser]] = {
    "book": Messages._book, "quotes": Messages._quotes, "trades": Messages._trades,
    "bars": Messages._bars, "ticker": Messages._tickers,
}

"""Polygon's / Massive's REST answers: tickers from snapshots, crypto books.

https://massive.com/docs/rest: single-ticker snapshots (stocks, crypto, forex), the unified snapshot
(options, indices), the crypto book.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar, Generic, Optional, TypeVar

import msgspec

from ..events import Ticker
from ..numbers import number_types
from ..tagged import check_message
from ..timestamps import epoch_ns
from ..venue import BookSnapshot
from .polygon_messages import Time

__all__ = ["Answers"]

P = TypeVar("P")
S = TypeVar("S")


class _Trade(msgspec.Struct, Generic[S], frozen=True):
    price: Optional[S] = msgspec.field(name="p", default=None)
    size: Optional[S] = msgspec.field(name="s", default=None)
    time: Time = msgspec.field(name="t", default=0)


class _Quote(msgspec.Struct, Generic[S], frozen=True):
    """``p`` and ``s`` are the bid's, ``P`` and ``S`` the ask's; forex says ``b`` and ``a``."""

    bid: Optional[S] = msgspec.field(name="p", default=None)
    bid_size: Optional[S] = msgspec.field(name="s", default=None)
    ask: Optional[S] = msgspec.field(name="P", default=None)
    ask_size: Optional[S] = msgspec.field(name="S", default=None)
    b: Optional[S] = None
    a: Optional[S] = None
    time: Time = msgspec.field(name="t", default=0)


class _Day(msgspec.Struct, Generic[S], frozen=True):
    open: Optional[S] = msgspec.field(name="o", default=None)
    high: Optional[S] = msgspec.field(name="h", default=None)
    low: Optional[S] = msgspec.field(name="l", default=None)
    volume: Optional[S] = msgspec.field(name="v", default=None)


class _Single(msgspec.Struct, Generic[S], frozen=True, rename="camel"):
    last_trade: Optional[_Trade[S]] = None
    last_quote: Optional[_Quote[S]] = None
    day: Optional[_Day[S]] = None
    updated: Time = 0


class _Singles(msgspec.Struct, Generic[S], frozen=True):
    ticker: Optional[_Single[S]] = None


class _UnifiedTrade(msgspec.Struct, Generic[S], frozen=True):
    price: Optional[S] = None
    size: Optional[S] = None
    sip_timestamp: Time = 0
    last_updated: Time = 0


class _UnifiedQuote(msgspec.Struct, Generic[S], frozen=True):
    bid: Optional[S] = None
    bid_size: Optional[S] = None
    ask: Optional[S] = None
    ask_size: Optional[S] = None
    last_updated: Time = 0


class _Session(msgspec.Struct, Generic[S], frozen=True):
    open: Optional[S] = None
    high: Optional[S] = None
    low: Optional[S] = None
    volume: Optional[S] = None


class _Unified(msgspec.Struct, Generic[S], frozen=True):
    ticker: str
    last_trade: Optional[_UnifiedTrade[S]] = None
    last_quote: Optional[_UnifiedQuote[S]] = None
    session: Optional[_Session[S]] = None
    value: Optional[S] = None
    last_updated: Time = 0


class _Results(msgspec.Struct, Generic[S], frozen=True):
    results: list[_Unified[S]] = []


class _Level(msgspec.Struct, Generic[P, S], frozen=True):
    positive: ClassVar[tuple[str, ...]] = ("price",)

    price: P = msgspec.field(name="p")
    sizes: dict[str, S] = msgspec.field(name="x")


class _Book(msgspec.Struct, Generic[P, S], frozen=True):
    bids: list[_Level[P, S]]
    asks: list[_Level[P, S]]
    updated: Time = 0


class _Books(msgspec.Struct, Generic[P, S], frozen=True):
    data: Optional[_Book[P, S]] = None


class Answers:
    """Reads REST answers.

    Args:
        exchange: Name of the venue, for the events.
        number: ``float`` or ``Decimal``.
        lot: What the venue's quote sizes are multiplied with, a ``number``; None for nothing.
    """

    def __init__(self, exchange: str, number: type[float] | type[Decimal], lot: Any) -> None:
        p: Any
        s: Any
        p, s = number_types(number)
        self._exchange = exchange
        self._lot = lot
        self._singles: Any = msgspec.json.Decoder(_Singles[s])
        self._unified: Any = msgspec.json.Decoder(_Results[s])
        self._books: Any = msgspec.json.Decoder(_Books[p, s])

    def single(self, body: bytes, symbol: str, now: int) -> Ticker:
        """The ticker in a single-ticker snapshot.

        Raises:
            ValueError: There is none.
        """
        found: Any = self._singles.decode(body).ticker
        if found is None:
            raise ValueError(f"{self._exchange} has no ticker of {symbol}")
        check_message(found)
        trade, quote, day = found.last_trade or _Trade(), found.last_quote or _Quote(), found.day or _Day()
        return self._ticker(
            symbol, now, max(trade.time, quote.time) or found.updated, trade.price, trade.size,
            (quote.bid or quote.b, quote.bid_size, quote.ask or quote.a, quote.ask_size), day)

    def unified(self, body: bytes, native: str, symbol: str, now: int) -> Ticker:
        """The ticker of ``native`` in a unified snapshot.

        Raises:
            ValueError: There is none.
        """
        found: Any = next((r for r in self._unified.decode(body).results if r.ticker == native), None)
        if found is None:
            raise ValueError(f"{self._exchange} has no ticker of {symbol}")
        check_message(found)
        trade, quote = found.last_trade or _UnifiedTrade(), found.last_quote or _UnifiedQuote()
        time = max(trade.sip_timestamp, trade.last_updated, quote.last_updated) or found.last_updated
        return self._ticker(
            symbol, now, time, found.value if trade.price is None else trade.price, trade.size,
            (quote.bid, quote.bid_size, quote.ask, quote.ask_size), found.session or _Session())

    def _ticker(self, symbol: str, now: int, time: int, last: Any, last_size: Any,
                sides: tuple[Any, Any, Any, Any], day: Any) -> Ticker:
        bid, bid_size, ask, ask_size = sides
        if not last and not bid and not ask:
            raise ValueError(f"{self._exchange} has no prices of {symbol}")
        return Ticker(
            exchange=self._exchange, symbol=symbol, timestamp=epoch_ns(time), received=now,
            last=last or None, last_size=last_size if last else None,
            bid=bid or None, bid_size=self._size(bid_size) if bid else None,
            ask=ask or None, ask_size=self._size(ask_size) if ask else None,
            # Between two sessions the day is filled with zeros.
            open=day.open or None, high=day.high or None, low=day.low or None, volume=day.volume,
            source="rest")

    def book(self, body: bytes, market: str, symbol: str) -> BookSnapshot:
        """The book of exchange ``market`` in a crypto book; its time is in ns.

        Raises:
            ValueError: There is none.
        """
        book: Any = self._books.decode(body).data
        if book is None:
            raise ValueError(f"{self._exchange} has no order book of {symbol}")
        check_message(book)
        bids, asks = ([(level.price, level.sizes[market]) for level in side if market in level.sizes]
                      for side in (book.bids, book.asks))
        if not bids and not asks:
            raise ValueError(f"{self._exchange} has no order book of {symbol} at exchange {market}")
        return BookSnapshot(last=0, bids=bids, asks=asks, time=epoch_ns(book.updated) or 0)

    def _size(self, size: Any) -> Any:
        return size if size is None or self._lot is None else size * self._lot

"""Alpaca's REST answers: tickers from snapshots, order books.

https://docs.alpaca.markets/reference/stocksnapshots-1, .../reference/cryptosnapshots-1,
.../reference/optionsnapshots, .../reference/cryptolatestorderbooks-1. Type parameters as in
:mod:`streams.venues.alpaca_messages`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar, Generic, Optional, TypeVar

import msgspec

from ..events import Ticker
from ..numbers import number_types
from ..tagged import check_message
from ..timestamps import Rfc3339
from ..venue import BookSnapshot
from .alpaca_messages import Level

__all__ = ["Answers"]

P = TypeVar("P")
S = TypeVar("S")


class _Trade(msgspec.Struct, Generic[P, S], frozen=True):
    positive: ClassVar[tuple[str, ...]] = ("price",)

    price: P = msgspec.field(name="p")
    size: S = msgspec.field(name="s")
    time: str = msgspec.field(name="t")


class _Quote(msgspec.Struct, Generic[S], frozen=True):
    time: str = msgspec.field(name="t")
    bid: Optional[S] = msgspec.field(name="bp", default=None)
    bid_size: Optional[S] = msgspec.field(name="bs", default=None)
    ask: Optional[S] = msgspec.field(name="ap", default=None)
    ask_size: Optional[S] = msgspec.field(name="as", default=None)


class _Day(msgspec.Struct, Generic[S], frozen=True):
    open: Optional[S] = msgspec.field(name="o", default=None)
    high: Optional[S] = msgspec.field(name="h", default=None)
    low: Optional[S] = msgspec.field(name="l", default=None)
    volume: Optional[S] = msgspec.field(name="v", default=None)


class _Snapshot(msgspec.Struct, Generic[P, S], frozen=True, rename="camel"):
    latest_trade: Optional[_Trade[P, S]] = None
    latest_quote: Optional[_Quote[S]] = None
    daily_bar: Optional[_Day[S]] = None


class _Book(msgspec.Struct, Generic[P, S], frozen=True):
    time: str = msgspec.field(name="t")
    bids: list[Level[P, S]] = msgspec.field(name="b")
    asks: list[Level[P, S]] = msgspec.field(name="a")


class _Snapshots(msgspec.Struct, Generic[P, S], frozen=True):
    snapshots: dict[str, Optional[_Snapshot[P, S]]] = {}


class _Books(msgspec.Struct, Generic[P, S], frozen=True):
    orderbooks: dict[str, _Book[P, S]] = {}


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
        self._time = Rfc3339()
        self._bare: Any = msgspec.json.Decoder(dict[str, Optional[_Snapshot[p, s]]])
        self._enveloped: Any = msgspec.json.Decoder(_Snapshots[p, s])
        self._books: Any = msgspec.json.Decoder(_Books[p, s])

    def ticker(self, body: bytes, enveloped: bool, native: str, symbol: str, now: int) -> Ticker:
        """The ticker in an answer with snapshots.

        Args:
            enveloped: They are below ``snapshots`` (crypto, options), not bare (stocks).
            native, symbol: The venue's spelling and the user's.

        Raises:
            ValueError: There is none.
        """
        found = self._enveloped.decode(body).snapshots if enveloped else self._bare.decode(body)
        snapshot: Any = found.get(native)
        trade: Any = snapshot and snapshot.latest_trade
        quote: Any = snapshot and snapshot.latest_quote
        if not trade and not quote:
            raise ValueError(f"{self._exchange} has no ticker of {native}")
        day = snapshot.daily_bar or _Day()
        for part in (trade, quote, day):
            check_message(part)
        times = [self._time(part.time) for part in (trade, quote) if part]
        bid = (quote.bid or None) if quote else None
        ask = (quote.ask or None) if quote else None
        return Ticker(
            exchange=self._exchange, symbol=symbol, timestamp=max(times) or None, received=now,
            last=trade.price if trade else None, last_size=trade.size if trade else None,
            bid=bid, bid_size=self._size(quote.bid_size) if bid else None,
            ask=ask, ask_size=self._size(quote.ask_size) if ask else None,
            open=day.open, high=day.high, low=day.low, volume=day.volume, source="rest")

    def book(self, body: bytes, native: str) -> BookSnapshot:
        """The order book of ``native`` in an answer with books; its time is in ns.

        Raises:
            ValueError: There is none.
        """
        book = self._books.decode(body).orderbooks.get(native)
        if book is None:
            raise ValueError(f"{self._exchange} has no order book of {native}")
        check_message(book)
        return BookSnapshot(
            last=0, bids=[(level.price, level.size) for level in book.bids],
            asks=[(level.price, level.size) for level in book.asks], time=self._time(book.time))

    def _size(self, size: Any) -> Any:
        return size if size is None or self._lot is None else size * self._lot

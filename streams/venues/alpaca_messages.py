"""What Alpaca sends, as typed structs.

Field names from https://docs.alpaca.markets/docs/real-time-stock-pricing-data,
https://docs.alpaca.markets/docs/real-time-crypto-pricing-data and
https://docs.alpaca.markets/docs/real-time-option-data. Type parameters: ``P`` a price (not 0), ``S``
a size, or a price that is 0 where there is none; ``W`` a time: text in JSON, an extension in MessagePack.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Generic, Optional, TypeVar, Union

import msgspec

from ..numbers import Count, number_types

__all__ = [
    "Band", "Bar", "Book", "Cancel", "Correction", "DailyBar", "Error", "Head", "Imbalance", "KINDS", "Level",
    "NewsItem", "Quote", "Status", "Subscription", "Success", "Trade", "UpdatedBar", "json_messages",
    "msgpack_messages",
]

P = TypeVar("P")
S = TypeVar("S")
W = TypeVar("W")

# Lists on stocks, one text on options.
Conditions = Union[list[str], str, None]

# Tag of a message -> beginning of the topic that brings it.
KINDS: Mapping[str, str] = {
    "t": "trades", "c": "trades", "x": "trades", "q": "quotes", "b": "bars", "u": "updatedBars",
    "d": "dailyBars", "s": "statuses", "l": "lulds", "i": "imbalances", "o": "orderbooks", "n": "",
    "success": "", "error": "", "subscription": "",
}


class _Message(msgspec.Struct, frozen=True, gc=False, tag_field="T"):
    """Base: ``T`` says what it is."""


class Success(_Message, frozen=True, gc=False, tag="success"):
    """``connected``, then ``authenticated``."""

    text: str = msgspec.field(name="msg", default="")


class Error(_Message, frozen=True, gc=False, tag="error"):
    """A refusal; its codes are in :mod:`streams.venues.alpaca_session`."""

    code: int
    text: str = msgspec.field(name="msg", default="")


class Subscription(_Message, frozen=True, gc=False, tag="subscription"):
    """All that is subscribed on this connection. Corrections and cancels come with trades."""

    trades: Optional[list[str]] = None
    quotes: Optional[list[str]] = None
    bars: Optional[list[str]] = None
    updatedBars: Optional[list[str]] = None
    dailyBars: Optional[list[str]] = None
    statuses: Optional[list[str]] = None
    lulds: Optional[list[str]] = None
    imbalances: Optional[list[str]] = None
    orderbooks: Optional[list[str]] = None
    news: Optional[list[str]] = None

    def topics(self) -> set[str]:
        """The list as topics, ``trades:AAPL``."""
        return {f"{channel}:{symbol}" for channel in self.__struct_fields__
                for symbol in getattr(self, channel) or ()}


class Trade(_Message, Generic[P, S, W], frozen=True, gc=False, tag="t"):
    positive: ClassVar[tuple[str, ...]] = ("price",)

    symbol: str = msgspec.field(name="S")
    price: P = msgspec.field(name="p")
    size: S = msgspec.field(name="s")
    time: W = msgspec.field(name="t")
    id: Union[int, str] = msgspec.field(name="i", default="")
    market: str = msgspec.field(name="x", default="")
    conditions: Conditions = msgspec.field(name="c", default=None)
    taker: str = msgspec.field(name="tks", default="")


class Quote(_Message, Generic[S, W], frozen=True, gc=False, tag="q"):
    symbol: str = msgspec.field(name="S")
    time: W = msgspec.field(name="t")
    bid: Optional[S] = msgspec.field(name="bp", default=None)
    bid_size: Optional[S] = msgspec.field(name="bs", default=None)
    ask: Optional[S] = msgspec.field(name="ap", default=None)
    ask_size: Optional[S] = msgspec.field(name="as", default=None)
    bid_market: str = msgspec.field(name="bx", default="")
    ask_market: str = msgspec.field(name="ax", default="")
    conditions: Conditions = msgspec.field(name="c", default=None)


class _Bar(_Message, Generic[P, S, W], frozen=True, gc=False):
    positive: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")

    symbol: str = msgspec.field(name="S")
    open: P = msgspec.field(name="o")
    high: P = msgspec.field(name="h")
    low: P = msgspec.field(name="l")
    close: P = msgspec.field(name="c")
    time: W = msgspec.field(name="t")
    volume: Optional[S] = msgspec.field(name="v", default=None)
    trades: Optional[Count] = msgspec.field(name="n", default=None)
    vwap: Optional[S] = msgspec.field(name="vw", default=None)


class Bar(_Bar[P, S, W], Generic[P, S, W], frozen=True, gc=False, tag="b"):
    """A minute that is over."""


class UpdatedBar(_Bar[P, S, W], Generic[P, S, W], frozen=True, gc=False, tag="u"):
    """The same minute once more, because of a late trade."""


class DailyBar(_Bar[P, S, W], Generic[P, S, W], frozen=True, gc=False, tag="d"):
    """The day so far, every minute."""


class Correction(_Message, Generic[P, S, W], frozen=True, gc=False, tag="c"):
    positive: ClassVar[tuple[str, ...]] = ("price",)

    symbol: str = msgspec.field(name="S")
    original: Union[int, str] = msgspec.field(name="oi")
    price: P = msgspec.field(name="cp")
    size: S = msgspec.field(name="cs")
    time: W = msgspec.field(name="t")
    corrected: Union[int, str] = msgspec.field(name="ci", default="")
    market: str = msgspec.field(name="x", default="")
    conditions: Conditions = msgspec.field(name="cc", default=None)


class Cancel(_Message, Generic[W], frozen=True, gc=False, tag="x"):
    symbol: str = msgspec.field(name="S")
    id: Union[int, str] = msgspec.field(name="i")
    time: W = msgspec.field(name="t")
    market: str = msgspec.field(name="x", default="")


class Status(_Message, Generic[W], frozen=True, gc=False, tag="s"):
    symbol: str = msgspec.field(name="S")
    code: str = msgspec.field(name="sc")
    time: W = msgspec.field(name="t")
    text: str = msgspec.field(name="sm", default="")
    reason_code: str = msgspec.field(name="rc", default="")
    reason: str = msgspec.field(name="rm", default="")


class Band(_Message, Generic[S, W], frozen=True, gc=False, tag="l"):
    symbol: str = msgspec.field(name="S")
    up: S = msgspec.field(name="u")
    down: S = msgspec.field(name="d")
    time: W = msgspec.field(name="t")
    indicator: str = msgspec.field(name="i", default="")


class Imbalance(_Message, Generic[S, W], frozen=True, gc=False, tag="i"):
    symbol: str = msgspec.field(name="S")
    price: S = msgspec.field(name="p")
    time: W = msgspec.field(name="t")


class Level(msgspec.Struct, Generic[P, S], frozen=True, gc=False):
    positive: ClassVar[tuple[str, ...]] = ("price",)

    price: P = msgspec.field(name="p")
    size: S = msgspec.field(name="s")


class Book(_Message, Generic[P, S, W], frozen=True, gc=False, tag="o"):
    """Levels with absolute sizes; with ``r`` the whole book, else changes of it."""

    symbol: str = msgspec.field(name="S")
    time: W = msgspec.field(name="t")
    bids: list[Level[P, S]] = msgspec.field(name="b", default_factory=list)
    asks: list[Level[P, S]] = msgspec.field(name="a", default_factory=list)
    whole: bool = msgspec.field(name="r", default=False)


class NewsItem(_Message, Generic[W], frozen=True, gc=False, tag="n"):
    id: Union[int, str]
    headline: str
    created_at: W
    updated_at: Optional[W] = None
    summary: Optional[str] = None
    author: Optional[str] = None
    url: Optional[str] = None
    content: Optional[str] = None
    symbols: tuple[str, ...] = ()
    source: Optional[str] = None


class Head(msgspec.Struct, frozen=True):
    """As much as has to be known of a message that does not decode."""

    kind: str = msgspec.field(name="T", default="")
    symbol: str = msgspec.field(name="S", default="")


def json_messages(number: type[float] | type[Decimal]) -> Any:
    """Union of all that the JSON feeds (stocks, crypto, news) send.

    Args:
        number: ``Decimal``, with the digits of the wire, or ``float``, bounded by the decoder.
    """
    p: Any
    s: Any
    p, s = number_types(number)
    return Union[
        Success, Error, Subscription, Trade[p, s, str], Quote[s, str], Bar[p, s, str],
        UpdatedBar[p, s, str], DailyBar[p, s, str], Correction[p, s, str], Cancel[str], Status[str],
        Band[s, str], Imbalance[s, str], Book[p, s, str], NewsItem[str]]


def msgpack_messages(number: type[float] | type[Decimal]) -> Any:
    """Union of all that the option feed sends; see :func:`json_messages`."""
    w: Any = msgspec.msgpack.Ext
    p: Any
    s: Any
    p, s = number_types(number)
    return Union[Success, Error, Subscription, Trade[p, s, w], Quote[s, w]]

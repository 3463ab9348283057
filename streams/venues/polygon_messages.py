"""What Polygon / Massive sends, as typed structs.

Field names from https://massive.com/docs/websocket and the specification in the vendor's SDK. One tag
can mean different things in different clusters (``T``, ``Q``, ``A``): the structs are the union, with
nearly everything optional, as it is on the wire. Type parameters: ``P`` a price (not 0, except on futures,
where spreads may trade at anything), ``Q`` a price of a quote, ``S`` a size, ``D`` a size
that may be text.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, Optional, TypeVar, Union

import msgspec

from ..numbers import Count, number_types
from ..venue import FloatSize

__all__ = [
    "Band", "Book", "CryptoBar", "CryptoQuote", "CryptoSecond", "CryptoTrade", "FairValue", "ForexBar",
    "ForexQuote", "ForexSecond", "Head", "IndexValue", "KINDS", "LastValue", "Minute", "NetImbalance",
    "Quote", "Second", "Status", "Trade", "messages",
]

P = TypeVar("P")
Q = TypeVar("Q")
S = TypeVar("S")
D = TypeVar("D")

FiniteFloat = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
Time = Count        # of any unit
Code = Union[int, str]
Codes = Union[list[int], int, None]

# Tag of a message -> beginning of the topic that brings it.
KINDS: Mapping[str, str] = {
    tag: tag for tag in ("T", "Q", "A", "AM", "LULD", "NOI", "C", "CA", "CAS", "XT", "XQ", "XL2", "XA", "XAS",
                         "V", "LV", "FMV")
} | {"status": ""}


class _Message(msgspec.Struct, frozen=True, gc=False, tag_field="ev"):
    """Base: ``ev`` says what it is."""


class Status(_Message, frozen=True, gc=False, tag="status"):
    status: str
    text: str = msgspec.field(name="message", default="")


class Trade(_Message, Generic[P, S], frozen=True, gc=False, tag="T"):
    """``fractional`` is the exact size where it is no whole number of shares."""

    positive: ClassVar[tuple[str, ...]] = ("price",)

    symbol: str = msgspec.field(name="sym")
    price: P = msgspec.field(name="p")
    size: S = msgspec.field(name="s")
    time: Time = msgspec.field(name="t")
    fractional: Optional[str] = msgspec.field(name="ds", default=None)
    id: Code = msgspec.field(name="i", default="")
    market: Code = msgspec.field(name="x", default="")
    conditions: Codes = msgspec.field(name="c", default=None)


class CryptoTrade(_Message, Generic[P, S], frozen=True, gc=False, tag="XT"):
    positive: ClassVar[tuple[str, ...]] = ("price",)

    symbol: str = msgspec.field(name="pair")
    price: P = msgspec.field(name="p")
    size: S = msgspec.field(name="s")
    time: Time = msgspec.field(name="t")
    id: Code = msgspec.field(name="i", default="")
    market: Code = msgspec.field(name="x", default="")
    conditions: Codes = msgspec.field(name="c", default=None)


class Quote(_Message, Generic[Q, S], frozen=True, gc=False, tag="Q"):
    prices: ClassVar[tuple[str, ...]] = ("bid", "ask")

    symbol: str = msgspec.field(name="sym")
    time: Time = msgspec.field(name="t")
    bid: Optional[Q] = msgspec.field(name="bp", default=None)
    bid_size: Optional[S] = msgspec.field(name="bs", default=None)
    ask: Optional[Q] = msgspec.field(name="ap", default=None)
    ask_size: Optional[S] = msgspec.field(name="as", default=None)
    bid_market: Code = msgspec.field(name="bx", default="")
    ask_market: Code = msgspec.field(name="ax", default="")
    conditions: Codes = msgspec.field(name="c", default=None)
    sequence: Optional[Count] = msgspec.field(name="q", default=None)


class CryptoQuote(_Message, Generic[Q, S], frozen=True, gc=False, tag="XQ"):
    symbol: str = msgspec.field(name="pair")
    time: Time = msgspec.field(name="t")
    bid: Optional[Q] = msgspec.field(name="bp", default=None)
    bid_size: Optional[S] = msgspec.field(name="bs", default=None)
    ask: Optional[Q] = msgspec.field(name="ap", default=None)
    ask_size: Optional[S] = msgspec.field(name="as", default=None)
    market: Code = msgspec.field(name="x", default="")


class ForexQuote(_Message, Generic[Q], frozen=True, gc=False, tag="C"):
    """``p`` is the PAIR here."""

    symbol: str = msgspec.field(name="p")
    time: Time = msgspec.field(name="t")
    bid: Optional[Q] = msgspec.field(name="b", default=None)
    ask: Optional[Q] = msgspec.field(name="a", default=None)
    market: Code = msgspec.field(name="x", default="")


class _Bar(_Message, Generic[P, S, D], frozen=True, gc=False):
    positive: ClassVar[tuple[str, ...]] = ("open", "high", "low", "close")

    open: P = msgspec.field(name="o")
    high: P = msgspec.field(name="h")
    low: P = msgspec.field(name="l")
    close: P = msgspec.field(name="c")
    start: Time = msgspec.field(name="s")
    end: Time = msgspec.field(name="e", default=0)
    volume: Optional[S] = msgspec.field(name="v", default=None)
    vwap: Optional[S] = msgspec.field(name="vw", default=None)
    # Exact volume as text on stocks, the number of dollars traded on futures.
    detail: Optional[D] = msgspec.field(name="dv", default=None)
    trades: Optional[Count] = msgspec.field(name="n", default=None)


class Second(_Bar[P, S, D], Generic[P, S, D], frozen=True, gc=False, tag="A", kw_only=True):
    symbol: str = msgspec.field(name="sym")


class Minute(_Bar[P, S, D], Generic[P, S, D], frozen=True, gc=False, tag="AM", kw_only=True):
    symbol: str = msgspec.field(name="sym")


class _PairBar(_Bar[P, S, D], Generic[P, S, D], frozen=True, gc=False, kw_only=True):
    symbol: str = msgspec.field(name="pair")


class CryptoSecond(_PairBar[P, S, D], Generic[P, S, D], frozen=True, gc=False, tag="XAS"):
    """A second of a crypto pair."""


class CryptoBar(_PairBar[P, S, D], Generic[P, S, D], frozen=True, gc=False, tag="XA"):
    """A minute of a crypto pair."""


class ForexSecond(_PairBar[P, S, D], Generic[P, S, D], frozen=True, gc=False, tag="CAS"):
    """A second of a currency pair."""


class ForexBar(_PairBar[P, S, D], Generic[P, S, D], frozen=True, gc=False, tag="CA"):
    """A minute of a currency pair."""


class Book(_Message, Generic[P, S], frozen=True, gc=False, tag="XL2"):
    """The whole book of ONE exchange, up to 100 levels a side."""

    symbol: str = msgspec.field(name="pair")
    time: Time = msgspec.field(name="t")
    market: Code = msgspec.field(name="x")
    bids: list[tuple[P, S]] = msgspec.field(name="b", default_factory=list)
    asks: list[tuple[P, S]] = msgspec.field(name="a", default_factory=list)


class Band(_Message, Generic[S], frozen=True, gc=False, tag="LULD"):
    symbol: str = msgspec.field(name="T")
    high: S = msgspec.field(name="h")
    low: S = msgspec.field(name="l")
    time: Time = msgspec.field(name="t")
    indicators: Codes = msgspec.field(name="i", default=None)


class NetImbalance(_Message, Generic[S, Q], frozen=True, gc=False, tag="NOI"):
    either: ClassVar[tuple[str, ...]] = ("imbalance",)

    symbol: str = msgspec.field(name="T")
    time: Time = msgspec.field(name="t")
    auction: str = msgspec.field(name="a", default="")
    imbalance: Optional[Q] = msgspec.field(name="o", default=None)
    paired: Optional[S] = msgspec.field(name="p", default=None)
    price: Optional[S] = msgspec.field(name="b", default=None)


class IndexValue(_Message, Generic[Q], frozen=True, gc=False, tag="V"):
    either: ClassVar[tuple[str, ...]] = ("value",)

    symbol: str = msgspec.field(name="T")
    value: Q = msgspec.field(name="val")
    time: Time = msgspec.field(name="t")


class LastValue(_Message, Generic[Q], frozen=True, gc=False, tag="LV"):
    either: ClassVar[tuple[str, ...]] = ("value",)

    symbol: str = msgspec.field(name="sym")
    value: Q = msgspec.field(name="val")
    time: Time = msgspec.field(name="t")


class FairValue(_Message, Generic[Q], frozen=True, gc=False, tag="FMV"):
    symbol: str = msgspec.field(name="sym")
    value: Q = msgspec.field(name="fmv")
    time: Time = msgspec.field(name="t")


class Head(msgspec.Struct, frozen=True):
    """As much as has to be known of a message that does not decode."""

    kind: str = msgspec.field(name="ev", default="")
    sym: str = ""
    pair: str = ""

    @property
    def symbol(self) -> str:
        """Whose message it is; "" where that is not plain."""
        return self.sym or self.pair


def messages(number: type[float] | type[Decimal], signed: bool) -> Any:
    """Union of all that can come.

    Args:
        number: ``Decimal``, with the digits of the wire, or ``float``, bounded by the decoder.
        signed: Prices may be 0 and negative (futures).
    """
    p: Any
    s: Any
    p, s = number_types(number)
    f: Any = Decimal if number is Decimal else FiniteFloat
    q: Any = f if signed else s
    if signed:
        p = f
    d: Any = Decimal if number is Decimal else Union[str, FloatSize]    # a Decimal reads text by itself
    return Union[
        Status, Trade[p, s], CryptoTrade[p, s], Quote[q, s], CryptoQuote[q, s], ForexQuote[q],
        Second[p, s, d], Minute[p, s, d], CryptoSecond[p, s, d], CryptoBar[p, s, d],
        ForexSecond[p, s, d], ForexBar[p, s, d], Book[p, s],
        Band[s], NetImbalance[s, f], IndexValue[f], LastValue[f], FairValue[s]]

"""What a market says: the events that handlers receive and the store keeps.

Every event is frozen and carries ``exchange``, ``symbol`` (exactly as the user subscribed with it),
``timestamp`` (the exchange's own time, nanoseconds since the epoch UTC, None where it gives none)
and ``received`` (nanoseconds since the epoch, when the bytes were read from the socket).
Prices and sizes are ``float``, or ``Decimal`` where the stream was made with ``number=Decimal``.

An event can not be part of a reference cycle, so the cyclic garbage collector need not know it
(``gc=False``).
"""

from __future__ import annotations

import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Union

import msgspec

__all__ = [
    "AHEAD", "Bar", "BookUpdate", "Event", "Gap", "Imbalance", "Level", "MarketStatus", "News", "Number",
    "PriceBand", "Quote", "Side", "StatusChange", "Ticker", "Trade", "TradeCorrection", "Value",
]

if TYPE_CHECKING:
    # The user knows which of them it is, having chosen it; a type checker can not, and would refuse
    # ``price * size``, since a float times a Decimal is an error.
    Number = Any
else:
    Number = Union[float, Decimal]
Level = tuple[Number, Number]
Side = Literal["buy", "sell"]

AHEAD = 0.1     # seconds by which a stamp may be ahead of the clock and yet be believed: clocks are adjusted


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, gc=False):
    """What all events have in common."""

    exchange: str
    symbol: str
    timestamp: int | None = None
    received: int = 0

    @property
    def age(self) -> float:
        """Seconds since this event was received, by the wall clock; below 0 where that has been set back."""
        return (time.time_ns() - self.received) / 1e9


class Trade(Event, frozen=True, kw_only=True, gc=False):
    """One execution.

    Attributes:
        side: Side of the aggressor (taker), None where the venue does not say.
        id: The venue's id of the trade as text, "" where there is none.
        market: Code of the market centre, where a consolidated feed names one.
        conditions: The venue's condition codes.
        cancelled: The venue has withdrawn this trade since.
        corrected: The venue has corrected price or size since; the fields hold the corrected values.
    """

    price: Number
    size: Number
    side: Side | None = None
    id: str = ""
    market: str = ""
    conditions: tuple[str, ...] = ()
    cancelled: bool = False
    corrected: bool = False


class TradeCorrection(Event, frozen=True, kw_only=True, gc=False):
    """A correction or cancellation of an earlier trade; applied to the trades the store keeps.

    Attributes:
        id: Id of the original trade; ``market`` its market centre.
        price, size: Corrected values; None when the trade is cancelled.
        corrected_id: Id the trade bears from now on; "" when unchanged or cancelled.
    """

    id: str
    market: str = ""
    price: Number | None = None
    size: Number | None = None
    corrected_id: str = ""
    conditions: tuple[str, ...] = ()

    @property
    def cancelled(self) -> bool:
        """Whether the trade was withdrawn rather than corrected."""
        return self.price is None


class Quote(Event, frozen=True, kw_only=True, gc=False):
    """Best bid and best ask. A missing side is None.

    Attributes:
        sequence: The venue's sequence number of this quote, None where there is none.
    """

    bid: Number | None
    bid_size: Number | None
    ask: Number | None
    ask_size: Number | None
    sequence: int | None = None
    bid_market: str = ""
    ask_market: str = ""
    conditions: tuple[str, ...] = ()


class Ticker(Event, frozen=True, kw_only=True, gc=False):
    """A summary: last trade, best prices, and the running day or 24 hours where the venue gives them.

    Attributes:
        source: Where it came from: ``stream``, ``rest``, or the name of another provider.
    """

    last: Number | None = None
    last_size: Number | None = None
    bid: Number | None = None
    bid_size: Number | None = None
    ask: Number | None = None
    ask_size: Number | None = None
    open: Number | None = None
    high: Number | None = None
    low: Number | None = None
    volume: Number | None = None
    quote_volume: Number | None = None
    source: str = "stream"


class Bar(Event, frozen=True, kw_only=True, gc=False):
    """One candle.

    Attributes:
        interval: As subscribed: ``1s 1m 5m 1h 1d 1w 1M`` and so on.
        start: Opening time, ns since the epoch.
        closed: Whether it is final. An open bar is replaced by its next version.
        revised: A final bar sent again because of late trades.
    """

    interval: str
    start: int
    open: Number
    high: Number
    low: Number
    close: Number
    volume: Number | None = None
    quote_volume: Number | None = None
    vwap: Number | None = None
    trades: int | None = None
    closed: bool = False
    revised: bool = False


class BookUpdate(Event, frozen=True, kw_only=True, gc=False):
    """Levels that changed: ``(price, size)`` with absolute sizes, size 0 means the level is gone.

    Attributes:
        snapshot: The levels are the whole book, not changes.
        sequence: Sequence number of the book after this update, None where the venue has none.
    """

    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    sequence: int | None = None
    snapshot: bool = False


class StatusChange(Event, frozen=True, kw_only=True, gc=False):
    """A stream, a book or a subscription changed its state; or a handler lost events.

    Attributes:
        symbol: "" when it concerns the whole stream.
        subject: ``stream``, ``book``, ``subscription`` or ``handler``.
        status: The new state; ``previous`` the one before ("" when there was none).
        reason: For people.
    """

    subject: str
    status: str
    previous: str = ""
    reason: str = ""


class Gap(Event, frozen=True, kw_only=True, gc=False):
    """Updates are missing: the venue's sequence jumped. The book is rebuilt.

    Attributes:
        channel: The channel in which it was seen.
        expected: The sequence number that should have come; ``got`` the one that came.
    """

    channel: str
    expected: int
    got: int


class MarketStatus(Event, frozen=True, kw_only=True, gc=False):
    """Trading status of an instrument (halts, resumptions), as the venue codes it."""

    code: str
    message: str = ""
    reason_code: str = ""
    reason: str = ""


class PriceBand(Event, frozen=True, kw_only=True, gc=False):
    """Limit-up limit-down band of an instrument."""

    limit_up: Number
    limit_down: Number
    indicator: str = ""


class Imbalance(Event, frozen=True, kw_only=True, gc=False):
    """Order imbalance before an auction; fields a venue does not give are None or "".

    Attributes:
        price: Price at which ``paired`` and ``imbalance`` (shares) are calculated.
        near: Price at which the auction would clear with the orders of continuous trading.
        far: Price at which it would clear with the auction's own orders alone.
        side: ``buy``, ``sell``, ``none`` or the venue's own word.
        auction: Which auction, as the venue codes it.
    """

    price: Number | None = None
    near: Number | None = None
    far: Number | None = None
    paired: Number | None = None
    imbalance: Number | None = None
    side: str = ""
    auction: str = ""


class Value(Event, frozen=True, kw_only=True, gc=False):
    """A published value that is no trade: an index, a fair market value, a mark price."""

    value: Number
    kind: str = ""


class News(Event, frozen=True, kw_only=True, gc=False):
    """A headline. ``symbol`` is the first subscribed one it names, ``symbols`` all it names."""

    id: str
    headline: str
    summary: str = ""
    author: str = ""
    url: str = ""
    content: str = ""
    symbols: tuple[str, ...] = ()
    source: str = ""

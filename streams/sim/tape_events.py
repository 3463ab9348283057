"""What happens on a tape, in no venue's words; see `tape`.

Times are nanoseconds since the epoch, prices and sizes exact. Sizes of stocks are shares.
"""
from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

Levels = tuple[tuple[Decimal, Decimal], ...]        # (price, absolute size; 0: gone)


class Trade(NamedTuple):
    """One trade.

    Attributes:
        id: unique within symbol, exchange and day.
        exchange: one letter, as the tapes spell it.
        buyer: True when the buyer was the aggressor.
        conditions: names: ``odd_lot``, ``sweep``; empty for a regular trade.
    """

    symbol: str
    time: int
    id: int
    price: Decimal
    size: Decimal
    exchange: str
    buyer: bool
    conditions: tuple[str, ...]


class Quote(NamedTuple):
    """The best bid and ask."""

    symbol: str
    time: int
    bid: Decimal
    bid_size: Decimal
    bid_exchange: str
    ask: Decimal
    ask_size: Decimal
    ask_exchange: str


class Bar(NamedTuple):
    """One bar of ``1s``, ``1m`` or ``1d``.

    Attributes:
        time: its beginning.
        revised: it was sent before, and a late trade or a correction changed it.
        day: the bar of the day so far, at that moment; None in a day's bar.
    """

    symbol: str
    interval: str
    time: int
    end: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int
    vwap: Decimal
    revised: bool
    day: Bar | None


class BookChange(NamedTuple):
    """Levels of an order book; ``whole`` when they are all of it."""

    symbol: str
    time: int
    bids: Levels
    asks: Levels
    whole: bool


class Correction(NamedTuple):
    """``original`` never was; ``corrected`` takes its place."""

    symbol: str
    time: int
    original: Trade
    corrected: Trade


class Cancel(NamedTuple):
    """``trade`` never was; ``action`` is ``C`` (cancelled) or ``E`` (an error)."""

    symbol: str
    time: int
    trade: Trade
    action: str


class Status(NamedTuple):
    """A halt or a resumption."""

    symbol: str
    time: int
    code: str
    message: str
    reason_code: str
    reason: str


class Bands(NamedTuple):
    """Limit up, limit down."""

    symbol: str
    time: int
    up: Decimal
    down: Decimal
    indicator: str


class Imbalance(NamedTuple):
    """Orders of an auction that do not meet."""

    symbol: str
    time: int
    price: Decimal
    paired: int
    imbalance: int


class Value(NamedTuple):
    """The value of an index, or (``fair``) the fair market value of anything."""

    symbol: str
    time: int
    value: Decimal
    fair: bool


class Story(NamedTuple):
    """A news article about some symbols."""

    time: int
    id: int
    headline: str
    symbols: tuple[str, ...]


Event = (Trade | Quote | Bar | BookChange | Correction | Cancel | Status | Bands | Imbalance | Value
         | Story)

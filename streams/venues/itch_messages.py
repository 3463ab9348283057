"""Every message of Nasdaq TotalView-ITCH 5.0, field by field.

Source: "Nasdaq TotalView-ITCH 5.0" (NQTVITCHSpecification.pdf, as of 19 February 2026), section 4.
Integers are unsigned and big-endian, text is padded with spaces on the right, prices are integers of
1/10,000 dollar (the levels of the market-wide circuit breaker: of 1/100,000,000), ``time`` is
nanoseconds since midnight in New York. Every message begins with its type (1 byte), the stock's locate
code (2), a tracking number (2) and the time (6).

This is the complete decoder, for whoever wants every field. What happens thousands of times a second
(orders) has a faster one beside its use, in :mod:`.itch`.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple, Union

__all__ = ["LAYOUTS", "Layout", "Message", "decode", "name_of"]


class SystemEvent(NamedTuple):
    """4.1. ``event``: ``O`` start of messages, ``S`` of system hours, ``Q`` of market hours, ``M`` end of
    market hours, ``E`` of system hours, ``C`` of messages."""

    locate: int
    tracking: int
    time: int
    event: str


class StockDirectory(NamedTuple):
    """4.2.1."""

    locate: int
    tracking: int
    time: int
    stock: str
    market_category: str
    financial_status: str
    round_lot_size: int
    round_lots_only: str
    issue_classification: str
    issue_sub_type: str
    authenticity: str
    short_sale_threshold: str
    ipo_flag: str
    luld_tier: str
    etp_flag: str
    etp_leverage_factor: int
    inverse: str


class TradingAction(NamedTuple):
    """4.2.2. ``state``: ``H`` halted, ``P`` paused, ``Q`` quotation only, ``T`` trading."""

    locate: int
    tracking: int
    time: int
    stock: str
    state: str
    reserved: str
    reason: str


class RegSho(NamedTuple):
    """4.2.3. ``action``: ``0`` no price test, ``1`` restriction in effect, ``2`` it remains in effect."""

    locate: int
    tracking: int
    time: int
    stock: str
    action: str


class ParticipantPosition(NamedTuple):
    """4.2.4."""

    locate: int
    tracking: int
    time: int
    mpid: str
    stock: str
    primary: str
    mode: str
    state: str


class MwcbDecline(NamedTuple):
    """4.2.5.1. Levels in 1/100,000,000."""

    locate: int
    tracking: int
    time: int
    level1: int
    level2: int
    level3: int


class MwcbStatus(NamedTuple):
    """4.2.5.2. ``level``: ``1``, ``2`` or ``3``."""

    locate: int
    tracking: int
    time: int
    level: str


class IpoQuoting(NamedTuple):
    """4.2.6. ``release``: seconds since midnight; ``qualifier``: ``A`` anticipated, ``C`` cancelled."""

    locate: int
    tracking: int
    time: int
    stock: str
    release: int
    qualifier: str
    price: int


class LuldCollar(NamedTuple):
    """4.2.7."""

    locate: int
    tracking: int
    time: int
    stock: str
    reference: int
    upper: int
    lower: int
    extension: int


class OperationalHalt(NamedTuple):
    """4.2.8. ``market``: ``Q`` Nasdaq, ``B`` Texas, ``X`` PSX; ``action``: ``H`` halted, ``T`` resumed."""

    locate: int
    tracking: int
    time: int
    stock: str
    market: str
    action: str


class AddOrder(NamedTuple):
    """4.3.1. ``side``: ``B`` or ``S``."""

    locate: int
    tracking: int
    time: int
    order: int
    side: str
    shares: int
    stock: str
    price: int


class AddOrderMpid(NamedTuple):
    """4.3.2."""

    locate: int
    tracking: int
    time: int
    order: int
    side: str
    shares: int
    stock: str
    price: int
    attribution: str


class OrderExecuted(NamedTuple):
    """4.4.1."""

    locate: int
    tracking: int
    time: int
    order: int
    shares: int
    match: int


class OrderExecutedPrice(NamedTuple):
    """4.4.2. ``printable``: ``Y``, or ``N`` when the volume is in a later cross trade."""

    locate: int
    tracking: int
    time: int
    order: int
    shares: int
    match: int
    printable: str
    price: int


class OrderCancel(NamedTuple):
    """4.4.3. ``shares`` taken away; some are left."""

    locate: int
    tracking: int
    time: int
    order: int
    shares: int


class OrderDelete(NamedTuple):
    """4.4.4."""

    locate: int
    tracking: int
    time: int
    order: int


class OrderReplace(NamedTuple):
    """4.4.5. Side, stock and attribution stay."""

    locate: int
    tracking: int
    time: int
    order: int
    new_order: int
    shares: int
    price: int


class NonCrossTrade(NamedTuple):
    """4.5.1. Of an order that was not displayed; ``side`` is always ``B`` since July 2014."""

    locate: int
    tracking: int
    time: int
    order: int
    side: str
    shares: int
    stock: str
    price: int
    match: int


class CrossTrade(NamedTuple):
    """4.5.2. ``cross``: ``O`` opening, ``C`` closing, ``H`` halted or IPO, ``A`` extended close."""

    locate: int
    tracking: int
    time: int
    shares: int
    stock: str
    price: int
    match: int
    cross: str


class BrokenTrade(NamedTuple):
    """4.5.3."""

    locate: int
    tracking: int
    time: int
    match: int


class OrderImbalance(NamedTuple):
    """4.6. ``direction``: ``B``, ``S``, ``N`` none, ``O`` insufficient orders, ``P`` paused."""

    locate: int
    tracking: int
    time: int
    paired: int
    imbalance: int
    direction: str
    stock: str
    far: int
    near: int
    reference: int
    cross: str
    variation: str


class RetailInterest(NamedTuple):
    """4.7. ``interest``: ``B`` on the bid, ``S`` on the ask, ``A`` on both, ``N`` none."""

    locate: int
    tracking: int
    time: int
    stock: str
    interest: str


class DirectListing(NamedTuple):
    """4.8. Direct listing with capital raise; ``near_time``: ns since midnight."""

    locate: int
    tracking: int
    time: int
    stock: str
    eligible: str
    minimum: int
    maximum: int
    near: int
    near_time: int
    lower: int
    upper: int


Message = Union[
    SystemEvent, StockDirectory, TradingAction, RegSho, ParticipantPosition, MwcbDecline, MwcbStatus,
    IpoQuoting, LuldCollar, OperationalHalt, AddOrder, AddOrderMpid, OrderExecuted, OrderExecutedPrice,
    OrderCancel, OrderDelete, OrderReplace, NonCrossTrade, CrossTrade, BrokenTrade, OrderImbalance,
    RetailInterest, DirectListing,
]


class Layout:
    """How one type of message is laid out.

    Attributes:
        code: Its type byte.
        name: For people.
        size: Bytes, type included.
    """

    def __init__(self, code: str, name: str, message: type[Any], fields: str) -> None:
        self.code = ord(code)
        self.name = name
        self._message = message
        self._struct = struct.Struct(">xHHHI" + fields)     # the time is 2 + 4 bytes
        self.size = self._struct.size

    def decode(self, data: bytes) -> Message:
        """The message in ``data``. Raises ``ValueError`` when its length is wrong."""
        try:
            locate, tracking, high, low, *rest = self._struct.unpack(data)
        except struct.error:
            raise ValueError(f"{self.name}: {len(data)} bytes instead of {self.size}") from None
        values = [value.decode("latin-1").rstrip() if type(value) is bytes else value for value in rest]
        message: Message = self._message(locate, tracking, high << 32 | low, *values)
        return message


LAYOUTS: dict[int, Layout] = {layout.code: layout for layout in (
    Layout("S", "system event", SystemEvent, "c"),
    Layout("R", "stock directory", StockDirectory, "8sccIcc2scccccIc"),
    Layout("H", "stock trading action", TradingAction, "8scc4s"),
    Layout("Y", "Reg SHO restriction", RegSho, "8sc"),
    Layout("L", "market participant position", ParticipantPosition, "4s8sccc"),
    Layout("V", "MWCB decline level", MwcbDecline, "QQQ"),
    Layout("W", "MWCB status", MwcbStatus, "c"),
    Layout("K", "IPO quoting period update", IpoQuoting, "8sIcI"),
    Layout("J", "LULD auction collar", LuldCollar, "8sIIII"),
    Layout("h", "operational halt", OperationalHalt, "8scc"),
    Layout("A", "add order", AddOrder, "QcI8sI"),
    Layout("F", "add order with MPID", AddOrderMpid, "QcI8sI4s"),
    Layout("E", "order executed", OrderExecuted, "QIQ"),
    Layout("C", "order executed with price", OrderExecutedPrice, "QIQcI"),
    Layout("X", "order cancel", OrderCancel, "QI"),
    Layout("D", "order delete", OrderDelete, "Q"),
    Layout("U", "order replace", OrderReplace, "QQII"),
    Layout("P", "trade (non-cross)", NonCrossTrade, "QcI8sIQ"),
    Layout("Q", "cross trade", CrossTrade, "Q8sIQc"),
    Layout("B", "broken trade", BrokenTrade, "Q"),
    Layout("I", "net order imbalance", OrderImbalance, "QQc8sIIIcc"),
    Layout("N", "retail price improvement", RetailInterest, "8sc"),
    Layout("O", "direct listing with capital raise", DirectListing, "8scIIIQII"),
)}


def name_of(code: int) -> str:
    """What a type byte stands for, for people."""
    layout = LAYOUTS.get(code)
    return layout.name if layout is not None else f"unknown type {bytes((code,))!r}"


def decode(data: bytes) -> Message:
    """Any message of the feed, with all its fields.

    Raises:
        ValueError: Empty, of an unknown type, or of the wrong length.
    """
    if not data:
        raise ValueError("an empty message")
    layout = LAYOUTS.get(data[0])
    if layout is None:
        raise ValueError(name_of(data[0]))
    return layout.decode(data)

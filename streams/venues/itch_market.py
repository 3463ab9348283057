"""What the messages of TotalView-ITCH mean, all but the orders': public events out of decoded messages.

Codes and their meaning are those of the specification named in :mod:`.itch_messages`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Union

from ..events import Event, Imbalance, MarketStatus, Number, PriceBand, Trade, TradeCorrection
from .itch_messages import (
    BrokenTrade, CrossTrade, DirectListing, IpoQuoting, LuldCollar, MwcbDecline, MwcbStatus,
    NonCrossTrade, OperationalHalt, OrderImbalance, ParticipantPosition, RegSho, RetailInterest,
    StockDirectory, SystemEvent, TradingAction,
)

__all__ = ["CHANNEL_OF", "EVENT_OF", "MARKET_WIDE", "Numbers", "Wrap"]

Wrap = Callable[[Any, "Numbers", dict[str, Any]], Union[Event, None]]

_STATES = {
    "H": "halted across all US equity markets", "P": "paused across all US equity markets",
    "Q": "quotation only", "T": "trading on Nasdaq",
}
_SYSTEM = {
    "O": "start of messages", "S": "start of system hours", "Q": "start of market hours",
    "M": "end of market hours", "E": "end of system hours", "C": "end of messages",
}
_REG_SHO = {
    "0": "no price test in place", "1": "price test restriction in effect",
    "2": "price test restriction remains in effect",
}
_MARKETS = {"Q": "Nasdaq", "B": "Nasdaq Texas", "X": "Nasdaq PSX"}
_HALTS = {"H": "halted on", "T": "trading resumed on"}
_INTEREST = {
    "B": "retail interest on the bid", "S": "retail interest on the ask",
    "A": "retail interest on both sides", "N": "no retail interest",
}
_RELEASES = {"A": "anticipated quotation release", "C": "release cancelled or postponed"}
_POSITIONS = {"A": "active", "E": "excused", "W": "withdrawn", "S": "suspended", "D": "deleted"}
_SIDES = {"B": "buy", "S": "sell", "N": "none", "O": "insufficient orders", "P": "paused"}


class Numbers(dict[int, Number]):
    """Prices of the wire (1/10,000 dollar) in the user's number, each made once.

    So an order's price is one lookup, and orders of one price share one object.

    Args:
        number: ``float`` or ``Decimal``.
    """

    def __init__(self, number: type[float] | type[Decimal]) -> None:
        super().__init__()
        self.number = number

    def __missing__(self, wire: int) -> Number:
        if not wire:
            raise ValueError("a price of 0")
        price = self[wire] = self.number(wire) / 10_000     # exact, or the nearest float
        return price

    def price(self, wire: int) -> Number | None:
        """The price, None for 0, with which the venue says that there is none."""
        return self[wire] if wire else None


def _status(code: str, message: str, reason_code: str, reason: str, common: dict[str, Any]) -> MarketStatus:
    return MarketStatus(code=code, message=message, reason_code=reason_code, reason=reason, **common)


def _trading_action(m: TradingAction, numbers: Numbers, common: dict[str, Any]) -> Event:
    return _status(m.state, _STATES.get(m.state, ""), m.reason, "", common)


def _system_event(m: SystemEvent, numbers: Numbers, common: dict[str, Any]) -> Event:
    return _status("system-event", _SYSTEM.get(m.event, ""), m.event, "", common)


def _reg_sho(m: RegSho, numbers: Numbers, common: dict[str, Any]) -> Event:
    return _status("reg-sho", _REG_SHO.get(m.action, ""), m.action, "", common)


def _operational_halt(m: OperationalHalt, numbers: Numbers, common: dict[str, Any]) -> Event:
    text = f"{_HALTS.get(m.action, m.action)} {_MARKETS.get(m.market, m.market)}"
    return _status("operational-halt", text, m.action, m.market, common)


def _retail_interest(m: RetailInterest, numbers: Numbers, common: dict[str, Any]) -> Event:
    return _status("retail-interest", _INTEREST.get(m.interest, ""), m.interest, "", common)


def _participant(m: ParticipantPosition, numbers: Numbers, common: dict[str, Any]) -> Event:
    text = f"{m.mpid} is {_POSITIONS.get(m.state, m.state)}"
    return _status("market-participant", text, m.state, f"primary={m.primary} mode={m.mode}", common)


def _directory(m: StockDirectory, numbers: Numbers, common: dict[str, Any]) -> Event:
    text = (f"category={m.market_category} class={m.issue_classification} lot={m.round_lot_size} "
            f"authenticity={m.authenticity} tier={m.luld_tier} etp={m.etp_flag}")
    return _status("directory", text, m.financial_status, "", common)


def _ipo(m: IpoQuoting, numbers: Numbers, common: dict[str, Any]) -> Event:
    clock = f"{m.release // 3600:02}:{m.release // 60 % 60:02}:{m.release % 60:02}"
    text = f"{_RELEASES.get(m.qualifier, '')} at {clock}, price {numbers.price(m.price)}"
    return _status("ipo", text, m.qualifier, "", common)


def _mwcb_decline(m: MwcbDecline, numbers: Numbers, common: dict[str, Any]) -> Event:
    levels = ", ".join(f"{level / 1e8:g}" for level in (m.level1, m.level2, m.level3))
    return _status("circuit-breaker-levels", levels, "", "", common)


def _mwcb_status(m: MwcbStatus, numbers: Numbers, common: dict[str, Any]) -> Event:
    return _status("circuit-breaker", f"level {m.level} was breached", m.level, "", common)


def _collar(m: LuldCollar, numbers: Numbers, common: dict[str, Any]) -> Event:
    return PriceBand(
        limit_up=numbers[m.upper], limit_down=numbers[m.lower],
        indicator=f"extension {m.extension}", **common)


def _direct_listing(m: DirectListing, numbers: Numbers, common: dict[str, Any]) -> Event:
    return PriceBand(
        limit_up=numbers[m.upper], limit_down=numbers[m.lower],
        indicator=(f"direct listing: eligible {m.eligible}, near {numbers.price(m.near)}, "
                   f"allowed {numbers.price(m.minimum)} to {numbers.price(m.maximum)}"), **common)


def _imbalance(m: OrderImbalance, numbers: Numbers, common: dict[str, Any]) -> Event:
    return Imbalance(
        price=numbers.price(m.reference), near=numbers.price(m.near), far=numbers.price(m.far),
        paired=numbers.number(m.paired), imbalance=numbers.number(m.imbalance),
        side=_SIDES.get(m.direction, m.direction), auction=m.cross, **common)


def _hidden_trade(m: NonCrossTrade, numbers: Numbers, common: dict[str, Any]) -> Event:
    return Trade(price=numbers[m.price], size=numbers.number(m.shares), id=str(m.match), conditions=("P",),
                 **common)


def _cross(m: CrossTrade, numbers: Numbers, common: dict[str, Any]) -> Event | None:
    if not m.shares:            # nothing was matched
        return None
    return Trade(price=numbers[m.price], size=numbers.number(m.shares), id=str(m.match),
                 conditions=("Q", m.cross), **common)


def _broken(m: BrokenTrade, numbers: Numbers, common: dict[str, Any]) -> Event:
    return TradeCorrection(id=str(m.match), **common)


EVENT_OF: dict[type[Any], Wrap] = {
    TradingAction: _trading_action, SystemEvent: _system_event, RegSho: _reg_sho,
    OperationalHalt: _operational_halt, RetailInterest: _retail_interest,
    ParticipantPosition: _participant, StockDirectory: _directory, IpoQuoting: _ipo,
    MwcbDecline: _mwcb_decline, MwcbStatus: _mwcb_status, LuldCollar: _collar,
    DirectListing: _direct_listing, OrderImbalance: _imbalance, NonCrossTrade: _hidden_trade,
    CrossTrade: _cross, BrokenTrade: _broken,
}

# Statuses of no stock in particular: all who want statuses get them.
MARKET_WIDE = frozenset({SystemEvent, MwcbDecline, MwcbStatus})

# Which channel tells what; the rest is statuses.
CHANNEL_OF: dict[type[Any], str] = {
    LuldCollar: "lulds", DirectListing: "lulds", OrderImbalance: "imbalances",
    NonCrossTrade: "trades", CrossTrade: "trades", BrokenTrade: "trades",
}

"""Where pure venues meet the thread: one class per venue, and the table of names.

Venue modules are imported here only; adding a venue is three lines in this file.
"""

from __future__ import annotations

from typing import ClassVar

from .errors import ConfigurationError
from .stream import Stream
from .venue import Venue
from .venues.binance import BinanceFuturesVenue, BinanceVenue
from .venues.htx import HuobiVenue

__all__ = ["EXCHANGES", "Binance", "BinanceFutures", "Huobi", "exchange"]


class Binance(Stream):
    """Binance spot. See :class:`Stream`, and :class:`streams.venues.binance.BinanceVenue`."""

    venue: ClassVar[type[Venue]] = BinanceVenue


class BinanceFutures(Stream):
    """Binance USD-M futures. See :class:`Stream`."""

    venue: ClassVar[type[Venue]] = BinanceFuturesVenue


class Huobi(Stream):
    """Huobi (HTX) spot. See :class:`Stream`, and :class:`streams.venues.htx.HuobiVenue`."""

    venue: ClassVar[type[Venue]] = HuobiVenue


EXCHANGES: dict[str, type[Stream]] = {
    name: kind
    for kind in (Binance, BinanceFutures, Huobi)
    for name in (kind.venue.name, *kind.venue.aliases)
}


def exchange(name: str) -> type[Stream]:
    """The stream class of an exchange by its name or alias.

    Raises:
        ConfigurationError: There is none of that name; the message lists all.
    """
    if name not in EXCHANGES:
        raise ConfigurationError(f"no exchange is called {name!r}; known: {', '.join(EXCHANGES)}")
    return EXCHANGES[name]

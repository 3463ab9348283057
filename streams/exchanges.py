"""Where pure venues meet the thread: one class per venue, and the table of names.

Venue modules are imported here only; adding a venue is three lines in this file.
"""

from __future__ import annotations

from typing import ClassVar

from .errors import ConfigurationError
from .stream import Stream
from .venue import Venue
from .venues.alpaca import AlpacaCryptoVenue, AlpacaOptionsVenue, AlpacaVenue
from .venues.binance import BinanceFuturesVenue, BinanceVenue
from .venues.htx import HuobiVenue
from .venues.itch import NasdaqItch as NasdaqItchVenue
from .venues.kraken import KrakenVenue
from .venues.longpoll import LongPollJsonVenue, LongPollXmlVenue
from .venues.polygon import PolygonVenue
from .venues.redis import RedisVenue

__all__ = [
    "Alpaca", "AlpacaCrypto", "AlpacaOptions", "Binance", "BinanceFutures", "EXCHANGES", "Huobi",
    "Kraken", "LongPollJson", "LongPollXml", "NasdaqItch", "Polygon", "Redis", "exchange",
]


class Binance(Stream):
    """Binance spot. See :class:`Stream`, and :class:`streams.venues.binance.BinanceVenue`."""

    venue: ClassVar[type[Venue]] = BinanceVenue


class BinanceFutures(Stream):
    """Binance USD-M futures. See :class:`Stream`."""

    venue: ClassVar[type[Venue]] = BinanceFuturesVenue


class Huobi(Stream):
    """Huobi (HTX) spot. See :class:`Stream`, and :class:`streams.venues.htx.HuobiVenue`."""

    venue: ClassVar[type[Venue]] = HuobiVenue


class Kraken(Stream):
    """Kraken spot. See :class:`Stream`, and :class:`streams.venues.kraken.KrakenVenue`."""

    venue: ClassVar[type[Venue]] = KrakenVenue


class Alpaca(Stream):
    """Alpaca stocks and news. See :class:`Stream`, and :class:`streams.venues.alpaca.AlpacaVenue`."""

    venue: ClassVar[type[Venue]] = AlpacaVenue


class AlpacaCrypto(Stream):
    """Alpaca crypto. See :class:`Stream`."""

    venue: ClassVar[type[Venue]] = AlpacaCryptoVenue


class AlpacaOptions(Stream):
    """Alpaca options. See :class:`Stream`."""

    venue: ClassVar[type[Venue]] = AlpacaOptionsVenue


class Polygon(Stream):
    """Polygon (Massive). See :class:`Stream`, and :class:`streams.venues.polygon.PolygonVenue`."""

    venue: ClassVar[type[Venue]] = PolygonVenue


class NasdaqItch(Stream):
    """Nasdaq TotalView-ITCH 5.0 over SoupBinTCP. See :class:`Stream`, and :mod:`streams.venues.itch`."""

    venue: ClassVar[type[Venue]] = NasdaqItchVenue


class LongPollXml(Stream):
    """An XML feed by long-polled HTTP. See :class:`Stream`, and :mod:`streams.venues.longpoll`."""

    venue: ClassVar[type[Venue]] = LongPollXmlVenue


class LongPollJson(Stream):
    """A JSON feed by long-polled HTTP. See :class:`Stream`, and :mod:`streams.venues.longpoll`."""

    venue: ClassVar[type[Venue]] = LongPollJsonVenue


class Redis(Stream):
    """What somebody publishes on Redis channels. See :class:`Stream`, and :mod:`streams.venues.redis`."""

    venue: ClassVar[type[Venue]] = RedisVenue


EXCHANGES: dict[str, type[Stream]] = {
    name: kind
    for kind in (Binance, BinanceFutures, Huobi, Kraken, Alpaca, AlpacaCrypto, AlpacaOptions, Polygon,
                 NasdaqItch, LongPollXml, LongPollJson, Redis)
    for name in (kind.venue.name, *kind.venue.aliases)
}


def exchange(name: str) -> type[Stream]:
    """The stream class of an exchange by its name or alias.

    Raises:
        ConfigurationError: There is none of that name; the message lists all.
    """
    if not isinstance(name, str) or name not in EXCHANGES:
        raise ConfigurationError(f"no exchange is called {name!r}; known: {', '.join(EXCHANGES)}")
    return EXCHANGES[name]

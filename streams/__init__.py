"""Live market data for synchronous Python: every exchange a thread, every order book a dict.

::

    from streams import StreamManager

    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"])
        market.wait_ready(timeout=10)
        print(market.store.orderbooks["binance"]["BTC-USDT"].best_bid)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# what a market says
from .events import (
    Bar, BookUpdate, Event, Gap, Imbalance, MarketStatus, News, PriceBand, Quote, StatusChange, Ticker,
    Trade, TradeCorrection, Value,
)
# errors
from .errors import (
    AuthenticationFailed, ConfigurationError, MissingDependency, NoData, NotReady, StaleData, StopTimeout,
    StreamsError, SubscriptionRefused, TransportError,
)
# data
from .book import BookView, OrderBook
from .store import Store
# streams
from .manager import StreamManager
from .stream import Stream

# one class per exchange, imported when first used: importing all venues takes longer than the rest
if TYPE_CHECKING:
    from .exchanges import (
        EXCHANGES, Alpaca, AlpacaCrypto, AlpacaOptions, Binance, BinanceFutures, Huobi, Kraken,
        LongPollJson, LongPollXml, NasdaqItch, Polygon, Redis,
    )
    from .collector import Collector
    from .publisher import Publisher
    from .remote import RemoteStore

__all__ = [
    "Alpaca", "AlpacaCrypto", "AlpacaOptions", "AuthenticationFailed", "Bar", "Binance", "BinanceFutures",
    "BookUpdate", "BookView", "Collector", "ConfigurationError", "EXCHANGES", "Event", "Gap", "Huobi",
    "Imbalance", "Kraken", "LongPollJson", "LongPollXml", "MarketStatus", "MissingDependency",
    "NasdaqItch", "News", "NoData", "NotReady", "OrderBook", "Polygon", "PriceBand", "Publisher", "Quote",
    "Redis", "RemoteStore", "StaleData", "StatusChange", "StopTimeout", "Store", "Stream",
    "StreamManager", "StreamsError", "SubscriptionRefused", "Ticker", "Trade", "TradeCorrection",
    "TransportError", "Value",
]


# past one machine, likewise: needs redis-py
_FAN_OUT = {"Collector": "collector", "Publisher": "publisher", "RemoteStore": "remote"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_FAN_OUT.get(name, 'exchanges')}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

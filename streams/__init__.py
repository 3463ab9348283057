"""Live market data for synchronous Python: every exchange a thread, every order book a dict.

::

    from streams import StreamManager

    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"])
        market.wait_ready(timeout=10)
        print(market.store.orderbooks["binance"]["BTC-USDT"]["bids"][0])
"""

from __future__ import annotations

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
from .exchanges import EXCHANGES, Binance, BinanceFutures, Huobi
from .manager import StreamManager
from .stream import Stream

__all__ = [
    "AuthenticationFailed", "Bar", "Binance", "BinanceFutures", "BookUpdate", "BookView",
    "ConfigurationError", "EXCHANGES", "Event", "Gap", "Huobi", "Imbalance", "MarketStatus",
    "MissingDependency", "News", "NoData", "NotReady", "OrderBook", "PriceBand", "Quote", "StaleData",
    "StatusChange", "StopTimeout", "Store", "Stream", "StreamManager", "StreamsError",
    "SubscriptionRefused", "Ticker", "Trade", "TradeCorrection", "TransportError", "Value",
]

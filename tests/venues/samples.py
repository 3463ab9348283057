"""One table per venue for the conformance cases (``test_conformance.py``): how to make it, and messages.

A venue is added by one more entry in :data:`SAMPLES`: what to pass to its constructor, and for each
channel ``(symbol, channel, messages, what comes of the last one)``. Messages are from the venue's
documentation or from captured feeds.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streams.events import (
    Bar, Imbalance, MarketStatus, News, PriceBand, Quote, Ticker, Trade, TradeCorrection, Value,
)
from streams.venue import BookSnapshot, Venue
from streams.venues.alpaca import AlpacaCryptoVenue, AlpacaOptionsVenue, AlpacaVenue
from streams.venues.binance import BinanceFuturesVenue, BinanceVenue
from streams.venues.htx import HuobiVenue
from streams.venues.kraken import KrakenVenue
from streams.venues.polygon import PolygonVenue

from . import alpaca_frames as alpaca
from . import kraken_frames as kraken
from . import polygon_frames as polygon

__all__ = ["SAMPLES", "Sample"]

Case = tuple[str, str, tuple[bytes, ...], Any]
DELTA = "delta"     # a book delta: any object of that shape


@dataclass(frozen=True)
class Sample:
    """Attributes: see the module."""

    venue: type[Venue]
    cases: tuple[Case, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def make(self, **more: Any) -> Venue:
        return self.venue(**{**self.options, **more})


def stream(topic: str, data: str) -> bytes:
    return f'{{"stream":"{topic}","data":{data}}}'.encode()


def gzipped(text: str) -> bytes:
    return gzip.compress(text.encode())


BINANCE = (
    ("BNB-BTC", "book", (stream("bnbbtc@depth@100ms", '{"e":"depthUpdate","E":1672515782136,"s":"BNBBTC",'
                                '"U":157,'
                         '"u":160,"b":[["0.0024","10"]],"a":[["0.0026","100"]]}'),), DELTA),
    ("BNB-USDT", "quotes", (stream("bnbusdt@bookTicker", '{"u":400900217,"s":"BNBUSDT","b":"25.35190000",'
                            '"B":"31.21000000","a":"25.36520000","A":"40.66000000"}'),), Quote),
    ("BNB-BTC", "trades", (stream("bnbbtc@trade", '{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,'
                           '"p":"0.001","q":"100","T":1672515782136,"m":true,"M":true}'),), Trade),
    ("BNB-BTC", "bars:1m", (stream("bnbbtc@kline_1m", '{"e":"kline","E":1672515782136,"s":"BNBBTC","k":{'
                            '"t":1672515780000,"T":1672515839999,"s":"BNBBTC","i":"1m","f":100,"L":200,'
                                   '"o":"0.0010","c":"0.0020","h":"0.0025","l":"0.0015","v":"1000","n":100,'
                                   '"x":false,"q":"1.0000","V":"500","Q":"0.500","B":"123456"}}'),), Bar),
    ("BNB-BTC", "ticker", (stream("bnbbtc@ticker", '{"e":"24hrTicker","E":1672515782136,"s":"BNBBTC",'
                           '"p":"0.0015","P":"250.00","w":"0.0018","x":"0.0009","c":"0.0025","Q":"10",'
                                  '"b":"0.0024","B":"10","a":"0.0026","A":"100","o":"0.0010","h":"0.0025",'
                                  '"l":"0.0010","v":"10000","q":"18","O":0,"C":86400000,"F":0,"L":18150,'
                                  '"n":18151}'),), Ticker),
)
FUTURES = (
    ("SUSHI-USDT", "book", (stream("sushiusdt@depth@100ms", '{"e":"depthUpdate","E":1626992741037,'
                            '"T":1626992741024,"s":"SUSHIUSDT","U":600859599090,"u":600859600917,'
                                   '"pu":600859598061,"b":[["7.5040","813"],["7.6090","0"]],'
                                   '"a":[["7.6150","1563"]]}'),), DELTA),
    ("SUSHI-USDT", "quotes", (stream("sushiusdt@bookTicker", '{"e":"bookTicker","u":600859600576,'
                              '"s":"SUSHIUSDT","b":"7.6110","B":"2","a":"7.6120","A":"297",'
                                     '"T":1626992741012,"E":1626992741017}'),), Quote),
    ("SUSHI-USDT", "trades", (stream("sushiusdt@aggTrade", '{"e":"aggTrade","E":1626992744262,"a":87353230,'
                              '"s":"SUSHIUSDT","p":"7.6120","q":"297","f":126902924,"l":126902927,'
                                     '"T":1626992744108,"m":false}'),), Trade),
)
HUOBI = (
    ("BTC-USDT", "book", (gzipped('{"ch":"market.btcusdt.depth.step0","ts":1653985338657,"tick":{"bids":['
                                  '[31638.9,2.436837]],"asks":[[31639.0,1.0E-4]],"version":155386874272,'
                                  '"ts":1653985338000}}'),), BookSnapshot),
    ("BTC-USDT", "quotes", (gzipped('{"ch":"market.btcusdt.bbo","ts":1654031600066,"tick":{'
                                    '"seqId":155441231856,"ask":31764.09,"askSize":0.794873,"bid":31764.08,'
                                    '"bidSize":4.378544,"quoteTime":1654031600064,"symbol":"btcusdt"}}'),),
     Quote),
    ("BTC-USDT", "trades", (gzipped('{"ch":"market.btcusdt.trade.detail","ts":1616243199157,"tick":{'
                                    '"id":123140716701,"ts":1616243199156,"data":[{'
                                    '"id":123140716701236887569077664,"ts":1616243199156,'
                                    '"tradeId":102357140867,"amount":1.98E-4,"price":58911.07,'
                                    '"direction":"sell"}]}}'),) * 2, Trade),
    ("BTC-USDT", "bars:1m", (gzipped('{"ch":"market.btcusdt.kline.1min","ts":1654081322624,"tick":{'
                                     '"id":1654081320,"open":31545.71,"close":31545.72,"low":31545.71,'
                                     '"high":31545.72,"amount":0.015443758717188892,"vol":487.1844552,'
                                     '"count":4}}'),), Bar),
)
HUOBI_MBP = (
    ("BTC-USDT", "book", (gzipped('{"ch":"market.btcusdt.mbp.150","ts":1634601197516,"tick":{'
                                  '"seqNum":140059393690,"prevSeqNum":140059393689,'
                                  '"asks":[[61945.07,5.33E-4]]}}'),), DELTA),
)
ALPACA = (
    ("AAPL", "trades", (alpaca.array(alpaca.TRADE),), Trade),
    ("AMD", "quotes", (alpaca.array(alpaca.QUOTE),), Quote),
    ("SPY", "bars:1m", (alpaca.array(alpaca.BAR),), Bar),
    ("EEM", "trades", (alpaca.array(alpaca.CORRECTION),), TradeCorrection),
    ("IONM", "lulds", (alpaca.array(alpaca.BAND),), PriceBand),
    ("AAPL", "statuses", (alpaca.array(alpaca.STATUS),), MarketStatus),
    ("INAQU", "imbalances", (alpaca.array(alpaca.IMBALANCE),), Imbalance),
    ("AAPL", "news", (alpaca.array(alpaca.NEWS),), News),
)
KRAKEN = (
    ("BTC-USD", "book", (kraken.SNAPSHOT,), BookSnapshot),
    ("BTC-USD", "trades", (kraken.TRADE,), Trade),
    ("BTC-USD", "ticker", (kraken.TICKER,), Ticker),
)

SAMPLES: dict[str, Sample] = {
    "binance": Sample(BinanceVenue, BINANCE),
    "binance-futures": Sample(BinanceFuturesVenue, FUTURES),
    "huobi": Sample(HuobiVenue, HUOBI),
    "huobi-incremental": Sample(HuobiVenue, HUOBI_MBP, {"book_mode": "incremental"}),
    "alpaca": Sample(AlpacaVenue, ALPACA, alpaca.KEYS),
    "alpaca-crypto": Sample(AlpacaCryptoVenue, (
        ("BTC-USD", "book", (alpaca.array(alpaca.BOOK),), BookSnapshot),
        ("AVAX-USD", "trades", (alpaca.array(alpaca.CRYPTO_TRADE),), Trade)), alpaca.KEYS),
    "alpaca-options": Sample(AlpacaOptionsVenue, (
        (alpaca.OCC, "quotes", (alpaca.packed(alpaca.OPTION_QUOTE),), Quote),
        (alpaca.OCC, "trades", (alpaca.packed(alpaca.OPTION_TRADE),), Trade)), alpaca.KEYS),
    "polygon": Sample(PolygonVenue, (
        ("MSFT", "trades", (polygon.array(polygon.TRADE),), Trade),
        ("MSFT", "quotes", (polygon.array(polygon.QUOTE),), Quote),
        ("GTE", "bars:1m", (polygon.array(polygon.MINUTE),), Bar),
        ("MSFT", "lulds", (polygon.array(polygon.BAND),), PriceBand)), {"api_key": polygon.KEY}),
    "polygon-crypto": Sample(PolygonVenue, (
        ("BTC-USD", "book", (polygon.array(polygon.CRYPTO_BOOK),), BookSnapshot),
        ("BTC-USD", "trades", (polygon.array(polygon.CRYPTO_TRADE),), Trade)),
        {"api_key": polygon.KEY, "market": "crypto", "exchange_id": 1}),
    "polygon-indices": Sample(PolygonVenue, (
        ("I:SPX", "values", (polygon.array(polygon.INDEX_VALUE),), Value),),
        {"api_key": polygon.KEY, "market": "indices"}),
    "kraken": Sample(KrakenVenue, KRAKEN),
}

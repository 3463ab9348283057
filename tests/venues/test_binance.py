"""What is Binance's own: its messages, its numbers, its two ways to say no."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from streams.errors import ConfigurationError
from streams.events import Bar, Quote, Ticker, Trade
from streams.venue import Acked, Alive, BookSnapshot, Malformed, Notice, Reconnect, Refused, RestRequest
from streams.venues.binance import BinanceFuturesVenue, BinanceVenue

NOW = 1_700_000_000_000_000_000
MS = 1_000_000


def talk(kind: Any = BinanceVenue, *wanted: tuple[str, str], **options: Any) -> Any:
    venue = kind(**options)
    for symbol, channel in wanted or (("BNB-BTC", "book"),):
        venue.add(venue.route(symbol, channel))
    return venue


def one(venue: Any, message: Any) -> Any:
    raw = message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode()
    items = list(venue.receive(raw, NOW))
    assert len(items) == 1, items
    return items[0][1]


def data(topic: str, **fields: Any) -> dict[str, Any]:
    return {"stream": topic, "data": fields}


# -- questions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol, native", [
    ("BTC-USDT", "btcusdt"), ("BTCUSDT", "btcusdt"), ("btcusdt", "btcusdt"), ("1000SATS-USDT",
                                                                              "1000satsusdt"),
    ("BTCUSD_PERP", "btcusd_perp"), ("币安人生-USDT", "币安人生usdt")])
def test_symbols(symbol: str, native: str) -> None:
    assert BinanceVenue().native(symbol) == native
    assert BinanceVenue().topics("book", native) == (f"{native}@depth@100ms",)


@pytest.mark.parametrize("channel, spot, futures, path", [
    ("book", "depth@100ms", "depth@100ms", "/public/stream"),
    ("quotes", "bookTicker", "bookTicker", "/public/stream"),
    ("trades", "trade", "aggTrade", "/market/stream"), ("bars:1m", "kline_1m", "kline_1m", "/market/stream"),
    ("bars:1M", "kline_1M", "kline_1M", "/market/stream"), ("ticker", "ticker", "ticker", "/market/stream")])
def test_topics_and_endpoints(channel: str, spot: str, futures: str, path: str) -> None:
    assert BinanceVenue().route("BTC-USDT", channel).topics == (f"btcusdt@{spot}",)
    assert BinanceVenue().endpoint(channel) == "/stream"
    assert BinanceFuturesVenue().route("BTC-USDT", channel).topics == (f"btcusdt@{futures}",)
    assert BinanceFuturesVenue().endpoint(channel) == path


def test_every_documented_interval() -> None:
    spot = {"1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M"}
    assert set(BinanceVenue.intervals) == spot
    assert set(BinanceFuturesVenue.intervals) == spot - {"1s"}


@pytest.mark.parametrize("kind, depth, limit, weight", [
    (BinanceVenue, None, 1000, 50), (BinanceVenue, 5, 100, 5), (BinanceVenue, 101, 500, 25),
    (BinanceVenue, 5000, 5000, 250), (BinanceFuturesVenue, None, 1000, 20), (BinanceFuturesVenue, 1, 100, 5)])
def test_snapshots_are_as_large_as_needed(kind: Any, depth: int | None, limit: int, weight: int) -> None:
    venue = talk(kind, depth=depth)
    request = venue.refresh(venue.route("BNB-BTC", "book"))
    assert isinstance(request, RestRequest)
    assert request.params == {"symbol": "BNBBTC", "limit": limit} and request.weight == weight
    assert request.path == ("/api/v3/depth" if kind is BinanceVenue else "/fapi/v1/depth")


def test_more_levels_than_there_are() -> None:
    with pytest.raises(ConfigurationError, match="depth=1001 is more than the 1000 levels it gives"):
        BinanceFuturesVenue(depth=1001)


# -- control messages ---------------------------------------------------------------------------------------


def test_many_streams_in_one_message_and_each_message_with_its_own_number() -> None:
    venue = talk()
    frames = [json.loads(frame) for batch in (["a", "b"], ["c"]) for frame in venue.subscribe(batch)]
    frames += [json.loads(frame) for frame in venue.unsubscribe(["a"])]
    assert frames == [{"method": "SUBSCRIBE", "params": ["a", "b"], "id": 1},
                      {"method": "SUBSCRIBE", "params": ["c"], "id": 2},
                      {"method": "UNSUBSCRIBE", "params": ["a"], "id": 3}]
    assert one(venue, {"result": None, "id": 2}) == Acked(("c",))
    assert one(venue, {"result": None, "id": 1}) == Acked(("a", "b"))
    assert one(venue, {"result": None, "id": 3}) == Alive()
    assert isinstance(one(venue, {"result": None, "id": 1}), Malformed), "answered already"


@pytest.mark.parametrize("answer", [
    {"code": 2, "msg": "Invalid request: unknown", "id": 1},
    {"error": {"code": 2, "msg": "Invalid request: unknown"}, "id": 1}])
def test_both_forms_of_a_refusal(answer: Any) -> None:
    venue = talk()
    list(venue.subscribe(["x", "y"]))
    assert one(venue, answer) == Refused(("x", "y"), "Invalid request: unknown (code 2)")
    list(venue.subscribe(["z"]))
    assert one(venue, {"code": -1008, "msg": "Server overloaded", "id": 2}) == Refused(
        ("z",), "Server overloaded (code -1008)", transient=True)
    del answer["id"]
    assert one(venue, answer) == Notice("Invalid request: unknown (code 2)"), "nobody knows what it is about"


@pytest.mark.parametrize("raw", [
    b'{"e":"serverShutdown","E":1770123456789}',
    b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}'])
def test_an_announced_shutdown(raw: bytes) -> None:
    signal = one(talk(), raw)
    assert isinstance(signal, Reconnect) and signal.planned and signal.after == 0


def test_messages_of_what_was_unsubscribed_and_of_what_never_was() -> None:
    venue = talk()
    route = venue.routes["book", "bnbbtc"]
    venue.remove(route)
    update = data("bnbbtc@depth@100ms", e="depthUpdate", U=1, u=2, b=[], a=[])
    assert list(venue.receive(json.dumps(update).encode(), NOW)) == []
    stranger = one(venue, data("ethbtc@depth@100ms", e="depthUpdate", U=1, u=2, b=[], a=[]))
    assert isinstance(stranger, Malformed) and "ethbtc@depth@100ms" in stranger.reason


# -- data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float, Decimal])
def test_depth(number: Any) -> None:
    delta = one(talk(number=number), data(
        "bnbbtc@depth@100ms", e="depthUpdate", E=1672515782136, s="BNBBTC", U=157, u=160,
        b=[["0.0024", "10"], ["0.0023", "0.00000000"]], a=[["0.0026", "100"]], something="new"))
    assert (delta.link, delta.last, delta.time) == (157, 160, 1672515782136)
    assert delta.bids == [(number("0.0024"), number(10)), (number("0.0023"), number(0))]
    assert delta.asks == [(number("0.0026"), number(100))]


def test_depth_of_futures_links_to_its_predecessor() -> None:
    venue = talk(BinanceFuturesVenue)
    for before in (149, -1):                            # -1: it has none
        delta = one(venue, data("bnbbtc@depth@100ms", e="depthUpdate", E=5, T=4, s="BNBBTC", U=157, u=160,
                                pu=before, b=[["7", "1"]], a=[], st=1, ps="BNBBTC"))
        assert (delta.link, delta.last, delta.time) == (before, 160, 4)
    assert venue.rule == "bridged" and BinanceVenue.rule == "dense"


def test_the_envelopes_keys_may_come_in_another_order() -> None:
    raw = b'{"data":{"b":[],"a":[],"u":2,"U":1,"e":"depthUpdate"},"stream":"bnbbtc@depth@100ms"}'
    delta = one(talk(), raw)
    assert (delta.link, delta.last) == (1, 2)


@pytest.mark.parametrize("level", [
    ["NaN", "1"], ["1", "NaN"], ["Infinity", "1"], ["1", "-1"], ["-1", "1"], ["0", "1"], ["1e999", "1"],
    ["", "1"], ["x", "1"], [None, "1"], ["1"], ["1", "1", "1"], "11", {}, ["1", True]])
@pytest.mark.parametrize("number", [float, Decimal])
def test_impossible_levels_are_malformed_and_name_their_book(level: Any, number: Any) -> None:
    venue = talk(number=number)
    signal = one(venue, data("bnbbtc@depth@100ms", e="depthUpdate", E=1, s="BNBBTC", U=1, u=2, b=[level],
                             a=[]))
    assert isinstance(signal, Malformed) and signal.topic == "bnbbtc@depth@100ms", signal


def test_a_best_price_of_zero_means_that_there_is_none() -> None:
    venue = talk(BinanceVenue, ("BNB-USDT", "quotes"))
    quote = one(venue, data("bnbusdt@bookTicker", u=400900217, s="BNBUSDT", b="25.35190000", B="31.21",
                            a="0.0",
                            A="0.0"))
    assert quote == Quote(exchange="binance", symbol="BNB-USDT", received=NOW, bid=25.3519, bid_size=31.21,
                          ask=None, ask_size=None, sequence=400900217)


@pytest.mark.parametrize("made, side", [(True, "sell"), (False, "buy")])
def test_the_aggressor_of_a_trade(made: bool, side: str) -> None:
    venue = talk(BinanceVenue, ("BNB-BTC", "trades"))
    trade = one(venue, data("bnbbtc@trade", e="trade", E=2, s="BNBBTC", t=12345, p="0.001", q="100", T=1,
                            m=made,
                            M=True))
    assert trade == Trade(exchange="binance", symbol="BNB-BTC", timestamp=MS, received=NOW, price=0.001,
                          size=100.0, side=side, id="12345")


def test_futures_give_aggregate_trades() -> None:
    venue = talk(BinanceFuturesVenue, ("SUSHI-USDT", "trades"))
    trade = one(venue, data("sushiusdt@aggTrade", e="aggTrade", E=1626992744262, a=87353230, s="SUSHIUSDT",
                            p="7.6120", q="297", f=126902924, l=126902927, T=1626992744108, m=False))
    assert trade.id == "87353230" and trade.timestamp == 1626992744108 * MS and trade.side == "buy"


@pytest.mark.parametrize("closed", [True, False])
def test_bars(closed: bool) -> None:
    venue = talk(BinanceVenue, ("BNB-BTC", "bars:1m"), number=Decimal)
    bar = one(venue, data("bnbbtc@kline_1m", e="kline", E=7, s="BNBBTC", k={
        "t": 60000, "T": 119999, "s": "BNBBTC", "i": "1m", "f": -1, "L": -1, "o": "0.0010", "c": "0.0020",
        "h": "0.0025", "l": "0.0015", "v": "1000", "n": 100, "x": closed, "q": "1.0000", "V": "500"}))
    assert isinstance(bar, Bar)
    assert (bar.interval, bar.start, bar.closed, bar.trades) == ("1m", 60_000 * MS, closed, 100)
    assert str(bar.open) == "0.0010" and str(bar.quote_volume) == "1.0000"


def test_tickers_of_spot_and_of_futures() -> None:
    fields = {"e": "24hrTicker", "E": 9, "c": "0.0025", "Q": "10", "o": "0.0010", "h": "0.0025",
              "l": "0.0010",
              "v": "10000", "q": "18"}
    spot = one(talk(BinanceVenue, ("BNB-BTC", "ticker")), data(
        "bnbbtc@ticker", **fields, b="0.0024", B="10", a="0.0026", A="100"))
    futures = one(talk(BinanceFuturesVenue, ("BNB-BTC", "ticker")), data("bnbbtc@ticker", **fields))
    assert isinstance(spot, Ticker) and isinstance(futures, Ticker)
    assert (spot.last, spot.bid, spot.ask, spot.source) == (0.0025, 0.0024, 0.0026, "stream")
    assert (futures.last, futures.bid, futures.ask) == (0.0025, None, None)
    assert spot.timestamp == 9 * MS


# -- REST ---------------------------------------------------------------------------------------------------


def test_snapshots() -> None:
    venue = talk()
    route = venue.routes["book", "bnbbtc"]
    body = b'{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}'
    assert list(venue.snapshot(route, body, NOW)) == [(route, BookSnapshot(
        160, [(0.0024, 10.0)], [(0.0026, 100.0)], limit=1000))]
    for bad in (b"", b"{}", b'{"lastUpdateId":160,"bids":[["0.0024"', b"<html>", b"[" * 100_000,
                b'{"lastUpdateId":null,"bids":[],"asks":[]}', b'{"code":-1121,"msg":"Invalid symbol."}',
                b'{"lastUpdateId":160,"bids":[["NaN","10"]],"asks":[]}'):
        [(_, signal)] = venue.snapshot(route, bad, NOW)
        assert isinstance(signal, Malformed) and "BNB-BTC" in signal.reason


def test_tickers_by_rest() -> None:
    venue = BinanceVenue()
    request = venue.ticker_request("BNB-BTC")
    assert request is not None and request.params == {"symbol": "BNBBTC"}
    body = json.dumps({"symbol": "BNBBTC", "lastPrice": "4.00000200", "lastQty": "200.0", "bidPrice": "4.0",
                       "bidQty": "1.0", "askPrice": "4.00000200", "askQty": "2.0", "openPrice": "99.0",
                       "highPrice": "100.0", "lowPrice": "0.1", "volume": "8913.3", "quoteVolume": "15.3",
                       "openTime": 1499783499040, "closeTime": 1499869899040}).encode()
    ticker = venue.ticker_answer("BNB-BTC", body, NOW)
    assert (ticker.last, ticker.source, ticker.timestamp) == (4.000002, "rest", 1499869899040 * MS)
    with pytest.raises(ValueError):
        venue.ticker_answer("BNB-BTC", b'{"code":-1121,"msg":"Invalid symbol."}', NOW)

"""Alpaca and Polygon in a stream, against their simulators: real sockets, the simulator is the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, ClassVar

import pytest
import requests

from streams.sim.alpaca import AlpacaSim
from streams.sim.polygon import PolygonSim
from streams.stream import Stream
from streams.venue import RestRequest, Venue
from streams.venues.alpaca import AlpacaCryptoVenue, AlpacaOptionsVenue, AlpacaVenue
from streams.venues.polygon import PolygonVenue

from ..tools import exact, wait_until

CALL, PUT = "NVDA261218C00200000", "NVDA261218P00180000"
Make = Callable[..., Any]


class Stocks(Stream):
    venue: ClassVar[type[Venue]] = AlpacaVenue


class Crypto(Stream):
    venue: ClassVar[type[Venue]] = AlpacaCryptoVenue


class Options(Stream):
    venue: ClassVar[type[Venue]] = AlpacaOptionsVenue


class Poly(Stream):
    venue: ClassVar[type[Venue]] = PolygonVenue


@pytest.fixture
def alpaca(serve: Make, connect: Make) -> Make:
    """``alpaca(kind, symbols, channels, sim options...)`` -> simulator and stream."""
    def begin(kind: type[Stream], symbols: Any, channels: Any, sim: Any = None, **options: Any) -> Any:
        sim = sim or serve(AlpacaSim, rate=0, quote_lot=1)
        keys = {"api_key": "KEY", "api_secret": "SECRET"}
        return sim, connect(sim, symbols, channels, kind=kind, **{**keys, **options})
    return begin


@pytest.fixture
def polygon(serve: Make, connect: Make) -> Make:
    """The same for Polygon."""
    def begin(symbols: Any, channels: Any, sim: Any = None, **options: Any) -> Any:
        sim = sim or serve(PolygonSim, rate=0, quote_lot=1)
        return sim, connect(sim, symbols, channels, kind=Poly, **{"api_key": "KEY", **options})
    return begin


def subscribed(stream: Stream) -> None:
    """Wait until the venue has confirmed everything."""
    wait_until(lambda: all(s["state"] == "live" for s in stream.status()["subscriptions"].values()),
               what=f"{stream!r} subscribed: {stream.status()['subscriptions']}")


def same_book(stream: Stream, sim: Any, symbol: str, true_symbol: str) -> bool:
    book = stream.store.orderbooks.get(stream.exchange, {}).get(symbol)
    if book is None:
        return False
    view, true = book.view(), sim.market.book(true_symbol)
    return (exact(view["bids"]), exact(view["asks"])) == (true.bids, true.asks)


# -- Alpaca -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("auth", ["headers", "message"])
def test_stocks_to_the_nanosecond(alpaca: Make, auth: str) -> None:
    sim, stream = alpaca(Stocks, ["AAPL", "NVDA"], ["trades", "quotes", "ticker"], auth=auth, number=Decimal)
    subscribed(stream)
    sim.advance(200)
    store = stream.store
    for symbol in ("AAPL", "NVDA"):
        trade, quote = sim.tape.last_trade(symbol), sim.tape.last_quote(symbol)
        wait_until(lambda: symbol in store.quotes["alpaca"] and symbol in store.trades["alpaca"]
                   and store.quotes["alpaca"][symbol].timestamp == quote.time
                   and store.trades["alpaca"][symbol][-1].timestamp == trade.time, store=store)
        got = store.trades["alpaca"][symbol][-1]
        assert (got.id, got.price, got.size) == (str(trade.id), trade.price, trade.size)
        ticker = store.tickers["alpaca"][symbol]
        assert (ticker.last, ticker.bid, ticker.ask) == (trade.price, quote.bid, quote.ask)
        assert (ticker.bid_size, ticker.ask_size) == (quote.bid_size, quote.ask_size)
    assert stream.status()["malformed"] == 0


def test_corrections_and_cancels_reach_the_trades_kept(alpaca: Make) -> None:
    sim, stream = alpaca(Stocks, ["AAPL"], ["trades"])
    subscribed(stream)
    sim.trade("AAPL", "100.5", 10)
    sim.trade("AAPL", "101.5", 20)
    sim.cancel("AAPL")
    trades = stream.store.trades
    wait_until(lambda: [t.cancelled for t in trades["alpaca"].get("AAPL", ())] == [False, True],
               store=stream.store)
    sim.correct("AAPL", "99.25")
    wait_until(lambda: trades["alpaca"]["AAPL"][0].corrected, store=stream.store)
    assert trades["alpaca"]["AAPL"][0].price == 99.25


def test_crypto_book_equals_the_oracle_through_resets_and_drops(alpaca: Make) -> None:
    sim, stream = alpaca(Crypto, ["BTC-USD"], ["book", "trades"])
    subscribed(stream)
    for _ in range(3):
        sim.advance(300)
        wait_until(lambda: same_book(stream, sim, "BTC-USD", "BTC/USD"), store=stream.store)
        sim.reset_book("BTC/USD")
    for connection in list(sim.connections):
        connection.peer.end("finish")
    wait_until(lambda: stream.status()["reconnects"] == 1, what="reconnected")
    subscribed(stream)
    sim.advance(100)
    wait_until(lambda: same_book(stream, sim, "BTC-USD", "BTC/USD"), store=stream.store)
    assert stream.store.orderbooks["alpaca-crypto"]["BTC-USD"]["status"] == "live"


def test_option_frames(alpaca: Make) -> None:
    sim, stream = alpaca(Options, [CALL], ["trades", "quotes"], auth="message")
    subscribed(stream)
    sim.advance(50)
    trade = sim.tape.last_trade(CALL)
    wait_until(lambda: CALL in stream.store.trades["alpaca-options"]
               and stream.store.trades["alpaca-options"][CALL][-1].timestamp == trade.time,
               store=stream.store)
    assert stream.status()["malformed"] == 0


def test_wildcards_fill_the_store_by_actual_symbols(alpaca: Make) -> None:
    sim, stream = alpaca(Options, ["NVDA*"], ["trades"])
    subscribed(stream)
    sim.advance(50)
    wait_until(lambda: set(stream.store.trades["alpaca-options"]) == {CALL, PUT}, store=stream.store)


def test_a_symbol_limit_refuses_what_is_beyond_it(alpaca: Make, serve: Make) -> None:
    symbols = tuple(f"S{a}{b}" for a in "ABCDEFGH" for b in "ABCDE")
    sim, stream = alpaca(Stocks, symbols, ["trades"], serve(AlpacaSim, symbols, rate=0, symbol_limit=30))
    wait_until(lambda: "pending" not in {s["state"] for s in stream.status()["subscriptions"].values()})
    states = stream.status()["subscriptions"]
    refused = [name for name, state in states.items() if state["state"] == "refused"]
    assert len(refused) == 10 and all("405" in states[name]["reason"] for name in refused)
    assert stream.state == "live"


def test_a_wrong_key_fails_at_once_and_does_not_show(alpaca: Make) -> None:
    sim, stream = alpaca(Stocks, ["AAPL"], ["trades"], api_key="KEY", api_secret="wr0ng-secret")
    wait_until(lambda: stream.state == "failed")
    assert "402" in str(stream.status()["last_error"])
    assert "wr0ng-secret" not in json.dumps(stream.status(), default=str)


def test_a_slow_client_is_counted_and_comes_back(alpaca: Make) -> None:
    sim, stream = alpaca(Stocks, ["AAPL"], ["trades"])
    subscribed(stream)
    sim.send_error(407)
    wait_until(lambda: stream.status()["reconnects"] == 1)
    assert stream.status()["notices"] == 1


# -- Polygon ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market, symbol, true_symbol", [
    ("stocks", "AAPL", "AAPL"), ("options", "O:NVDA261218C00200000", "O:NVDA261218C00200000"),
    ("crypto", "BTC-USD", "BTC-USD"), ("futures", "ESZ6", "ESZ6")])
def test_trades_and_quotes_of_each_market(
        polygon: Make, market: str, symbol: str, true_symbol: str) -> None:
    sim, stream = polygon([symbol], ["trades", "quotes", "ticker"], market=market, number=Decimal)
    subscribed(stream)
    sim.advance(100)
    trade, quote = sim.tape.last_trade(true_symbol), sim.tape.last_quote(true_symbol)
    store = stream.store

    def told() -> bool:
        if symbol not in store.trades["polygon"] or symbol not in store.quotes["polygon"]:
            return False
        last, best = store.trades["polygon"][symbol][-1], store.quotes["polygon"][symbol]
        ticker = store.tickers["polygon"][symbol]
        return ((last.price, last.size) == (ticker.last, ticker.last_size) == (trade.price, trade.size)
                and (best.bid, best.ask, best.ask_size) == (quote.bid, quote.ask, quote.ask_size)
                and (best.bid, best.ask) == (ticker.bid, ticker.ask))
    wait_until(told, store=store)
    assert stream.status()["malformed"] == 0


@pytest.mark.parametrize("confirmations", ["each", "array", "joined"])
def test_confirmations_of_every_shape(polygon: Make, serve: Make, confirmations: str) -> None:
    sim = serve(PolygonSim, rate=0, confirmations=confirmations, denied=("stocks.Q",))
    sim, stream = polygon(["AAPL", "NVDA", "MSFT"], ["quotes", "trades", "bars:1m"], sim)
    wait_until(lambda: "pending" not in {s["state"] for s in stream.status()["subscriptions"].values()})
    states = {name: state["state"] for name, state in stream.status()["subscriptions"].items()}
    assert {name for name, state in states.items() if state == "refused"} == {
        "quotes.AAPL", "quotes.NVDA", "quotes.MSFT"}


def test_forex_and_indices(polygon: Make, serve: Make) -> None:
    sim = serve(PolygonSim, rate=0)
    _, forex = polygon(["EUR-USD"], ["ticker"], sim, market="forex")
    _, indices = polygon(["SPX"], ["values"], sim, market="indices")
    subscribed(forex)
    subscribed(indices)
    sim.advance(100)
    quote = sim.tape.last_quote("EUR/USD")
    wait_until(lambda: "EUR-USD" in forex.store.tickers["polygon"]
               and Decimal(str(forex.store.tickers["polygon"]["EUR-USD"].bid)) == quote.bid,
               store=forex.store)
    wait_until(lambda: indices.store.latest["values"]["polygon"], store=indices.store)
    assert list(indices.store.latest["values"]["polygon"]) == ["SPX"]


def test_crypto_book_of_one_exchange_equals_the_oracle(polygon: Make) -> None:
    sim, stream = polygon(["BTC-USD"], ["book"], market="crypto", exchange_id=1)
    subscribed(stream)
    sim.advance(300)
    wait_until(lambda: same_book(stream, sim, "BTC-USD", "BTC-USD"), store=stream.store)


def test_option_wildcard_is_filtered(polygon: Make) -> None:
    sim, stream = polygon(["O:NVDA261218C*"], ["trades"], market="options")
    subscribed(stream)
    sim.advance(50)
    wait_until(lambda: f"O:{CALL}" in stream.store.trades["polygon"], store=stream.store)
    assert set(stream.store.trades["polygon"]) == {f"O:{CALL}"}


def test_a_wrong_polygon_key_fails_at_once(polygon: Make) -> None:
    sim, stream = polygon(["AAPL"], ["trades"], api_key="wr0ng-key")
    wait_until(lambda: stream.state == "failed")
    assert "auth_failed" in str(stream.status()["last_error"])
    assert "wr0ng-key" not in json.dumps(stream.status(), default=str)


def test_an_evicted_connection_waits_before_it_comes_back(polygon: Make, serve: Make) -> None:
    sim = serve(PolygonSim, rate=0)
    _, first = polygon(["AAPL"], ["trades"], sim)
    subscribed(first)
    _, second = polygon(["AAPL"], ["trades"], sim)
    subscribed(second)
    wait_until(lambda: first.state == "backoff")
    assert "max_connections" in str(first.status()["last_error"])
    assert second.state == "live"


# -- REST -----------------------------------------------------------------------------------------------


def fetch(sim: Any, venue: Venue, request: RestRequest | None) -> bytes:
    assert request is not None
    answer = requests.get(sim.rest_url + request.path, params=dict(request.params),
                          headers=dict(venue.rest_headers()), timeout=5)
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize("kind, symbol, true_symbol", [
    (AlpacaVenue, "AAPL", "AAPL"), (AlpacaCryptoVenue, "BTC-USD", "BTC/USD"),
    (AlpacaOptionsVenue, CALL, CALL)])
def test_alpaca_rest(serve: Make, kind: Any, symbol: str, true_symbol: str) -> None:
    sim = serve(AlpacaSim, rate=0, quote_lot=1)
    sim.advance(50)
    venue = kind(api_key="KEY", api_secret="SECRET", number=Decimal)
    ticker = venue.ticker_answer(symbol, fetch(sim, venue, venue.ticker_request(symbol)), 1)
    trade, quote = sim.tape.last_trade(true_symbol), sim.tape.last_quote(true_symbol)
    assert (ticker.last, ticker.bid, ticker.ask) == (trade.price, quote.bid, quote.ask)
    assert ticker.timestamp == max(trade.time, quote.time)
    if kind is AlpacaCryptoVenue:
        book = venue.orderbook_answer(symbol, fetch(sim, venue, venue.orderbook_request(symbol)), 1)
        assert (book.bids, book.asks) == (sim.market.book("BTC/USD").bids, sim.market.book("BTC/USD").asks)


@pytest.mark.parametrize("market, symbol, true_symbol, has", [
    ("stocks", "AAPL", "AAPL", "both"), ("options", f"O:{CALL}", f"O:{CALL}", "both"),
    ("crypto", "BTC-USD", "BTC-USD", "trade"), ("forex", "EUR-USD", "EUR/USD", "quote")])
def test_polygon_rest(serve: Make, market: str, symbol: str, true_symbol: str, has: str) -> None:
    sim = serve(PolygonSim, rate=0, quote_lot=1)
    sim.advance(50)
    venue = PolygonVenue(api_key="KEY", market=market, exchange_id=1, number=Decimal)
    ticker = venue.ticker_answer(symbol, fetch(sim, venue, venue.ticker_request(symbol)), 1)
    quote = sim.tape.last_quote(true_symbol)
    if has != "quote":
        assert ticker.last == sim.tape.last_trade(true_symbol).price
    if has != "trade":
        assert (ticker.bid, ticker.ask) == (quote.bid, quote.ask)
    if market == "crypto":
        book = venue.orderbook_answer(symbol, fetch(sim, venue, venue.orderbook_request(symbol)), 1)
        true = sim.market.book("BTC-USD")
        assert (book.bids, book.asks) == (true.bids, true.asks)

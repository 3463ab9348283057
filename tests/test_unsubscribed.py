"""What nobody wants any more leaves the store, in every channel; what somebody else wants stays, and so does
everything when a stream stops."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

from streams import NoData, Store
from streams.events import Bar, Quote, Ticker, Trade
from streams.exchanges import Alpaca, Binance
from streams.sim import BinanceSim
from streams.stream import Stream

from .live import ALPACA_KEYS, quick
from .tools import wait_until

CHANNELS = ["trades", "quotes", "ticker", "bars:1m", "bars:1h"]
Stack = contextlib.ExitStack


def event(channel: str, exchange: str, symbol: str) -> Any:
    about = {"exchange": exchange, "symbol": symbol, "received": time.time_ns()}
    kind, _, interval = channel.partition(":")
    if kind == "trades":
        return Trade(**about, price=1.0, size=1.0)
    if kind == "quotes":
        return Quote(**about, bid=1.0, bid_size=1.0, ask=2.0, ask_size=1.0)
    if kind == "ticker":
        return Ticker(**about, last=1.0)
    return Bar(**about, interval=interval, start=1, open=1.0, high=1.0, low=1.0, close=1.0)


def come(stream: Stream, symbol: str, *channels: str, by: str = "") -> None:
    """An event of each of these channels has come, by the route of that name."""
    for channel in channels:
        route = stream.feed.subscriptions.get(by or symbol, channel)
        assert route is not None
        route.apply(event(channel, stream.exchange, symbol))


def kept(store: Store, exchange: str) -> dict[str, list[str]]:
    """The symbols there are, by channel."""
    tables = {"trades": store.trades, "quotes": store.quotes, "ticker": store.tickers, "bars": store.bars}
    return {name: sorted(table.get(exchange, ())) for name, table in tables.items()}


def test_all_that_there_is_of_a_symbol_leaves() -> None:
    stream = Binance(["A-USDT", "B-USDT"], CHANNELS)
    store = stream.store
    for symbol in ("A-USDT", "B-USDT"):
        come(stream, symbol, *CHANNELS)
    stream.unsubscribe("A-USDT")
    assert kept(store, "binance") == dict.fromkeys(("trades", "quotes", "ticker", "bars"), ["B-USDT"])
    with pytest.raises(NoData, match="no ticker of 'A-USDT'"):
        store.ticker("binance", "A-USDT")
    for number in range(50):                                # they come and go
        stream.subscribe(f"S{number}-USDT")
        come(stream, f"S{number}-USDT", *CHANNELS)
        stream.unsubscribe(f"S{number}-USDT")
    assert kept(store, "binance") == dict.fromkeys(("trades", "quotes", "ticker", "bars"), ["B-USDT"])


def test_the_channels_that_are_still_wanted_stay() -> None:
    stream = Binance(["A-USDT"], CHANNELS)
    come(stream, "A-USDT", *CHANNELS)
    stream.unsubscribe("A-USDT", ["trades", "bars:1m"])
    assert kept(stream.store, "binance") == {
        "trades": [], "quotes": ["A-USDT"], "ticker": ["A-USDT"], "bars": ["A-USDT"]}
    assert list(stream.store.bars["binance"]["A-USDT"]) == ["1h"]


def test_what_is_wanted_again_before_anybody_has_looked_stays() -> None:
    stream = Binance(["A-USDT"], CHANNELS)
    come(stream, "A-USDT", *CHANNELS)
    stream.unwant("A-USDT")
    stream.subscribe("A-USDT")
    history = stream.store.trades["binance"]["A-USDT"]
    come(stream, "A-USDT", "trades")
    assert len(history) == 2 and stream.store.trades["binance"]["A-USDT"] is history


def test_what_a_wildcard_serves_stays_until_that_goes() -> None:
    stream = Alpaca(["AAPL", "A*", "*"], ["trades", "quotes"], **ALPACA_KEYS)
    store = stream.store
    for symbol, by in (("AAPL", "AAPL"), ("AAPL", "A*"), ("ABC", "A*"), ("MSFT", "*")):
        come(stream, symbol, "trades", "quotes", by=by)
    stream.unsubscribe("A*")
    assert kept(store, "alpaca")["trades"] == ["AAPL", "ABC", "MSFT"], "of a wider one, too"
    stream.unsubscribe("*", ["trades"])
    assert kept(store, "alpaca") == {
        "trades": ["AAPL"], "quotes": ["AAPL", "ABC", "MSFT"], "ticker": [], "bars": []}
    stream.unsubscribe(["AAPL", "*"])
    assert kept(store, "alpaca") == {"trades": [], "quotes": [], "ticker": [], "bars": []}


def test_what_another_stream_serves_stays() -> None:
    store = Store()
    one, two, over = (Binance(["A-USDT"], CHANNELS, store=store) for _ in range(3))
    store.join(two.feed.writer)                             # as while it runs; the third has ended
    come(two, "A-USDT", *CHANNELS)
    come(one, "A-USDT", *CHANNELS)
    one.unsubscribe("A-USDT")
    assert set(map(tuple, kept(store, "binance").values())) == {("A-USDT",)}
    two.unsubscribe("A-USDT")
    assert set(map(tuple, kept(store, "binance").values())) == {()}
    assert over.feed.subscriptions.routes(), "it would have kept them while it ran"


def test_while_it_runs_and_after_it_has_stopped(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=0, slow_every=1))
    stream = Binance(["BTC-USDT", "ETH-USDT"], ["book", *CHANNELS[:3]], url=sim.url, rest_url=sim.rest_url,
                     backoff=quick())
    stack.callback(stream.stop)
    stream.start()

    def all_there() -> bool:
        sim.advance(1)
        return list(map(len, map(set, kept(stream.store, "binance").values()))) == [2, 2, 2, 0]
    wait_until(lambda: sim.connections and len(sim.connections[0].subscriptions) == 8)
    wait_until(all_there)
    stream.unsubscribe("BTC-USDT")
    wait_until(lambda: set(map(tuple, kept(stream.store, "binance").values())) == {("ETH-USDT",), ()})
    sim.advance(3)
    assert stream.stop()
    assert kept(stream.store, "binance") == {
        "trades": ["ETH-USDT"], "quotes": ["ETH-USDT"], "ticker": ["ETH-USDT"], "bars": []}

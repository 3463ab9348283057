"""Polygon (Massive) from end to end, against its simulator."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import streams.venues.polygon
from streams import ConfigurationError
from streams.exchanges import EXCHANGES, Polygon
from streams.sim import Fault
from streams.sim.polygon import PolygonSim
from streams.sim.tape_events import Bands, Bar, Imbalance, Status, Value
from streams.stream import Stream
from streams.subscriptions import UNANSWERED

from .live import POLYGON_KEY, listed, quick, settled, wait_listed, wait_subscribed, wait_wired
from .tools import exact, wait_until, with_limits

Stack = contextlib.ExitStack
CALL, PUT, OTHER = "O:NVDA261218C00200000", "O:NVDA261218P00180000", "O:AAPL261218C00300000"
DELAY = 15 * 60 * 10**9


@pytest.fixture
def serve_polygon(stack: Stack) -> Callable[..., PolygonSim]:
    return lambda *args, **options: stack.enter_context(
        PolygonSim(*args, **{"rate": 0, "quote_lot": 1, **options}))


@pytest.fixture
def connect_to(stack: Stack) -> Callable[..., Any]:
    """``connect_to(sim, ["AAPL"], ["trades"], market="stocks", ...)``: a running stream."""
    def make(sim: Any, symbols: Any, channels: Any, **options: Any) -> Stream:
        kind = options.pop("kind", Polygon)
        stream: Stream = kind(symbols, channels, **{
            "url": sim.url, "rest_url": sim.rest_url, "backoff": quick(), **POLYGON_KEY, **options})
        stack.callback(stream.stop)
        stream.start()
        return stream
    return make


def states(stream: Stream) -> dict[str, str]:
    return {name: entry["state"] for name, entry in stream.status()["subscriptions"].items()}


# -- logging in, and being thrown out ------------------------------------------------------------------


def test_the_login(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    assert [json.loads(text) for text in sim.connections[0].received] == [
        {"action": "auth", "params": "KEY"}, {"action": "subscribe", "params": "T.AAPL"}]
    assert sim.connections[0].path == "/stocks" and EXCHANGES["massive"] is Polygon
    wrong = connect_to(sim, ["AAPL"], ["trades"], api_key="wrong")
    wrong.join(5)
    assert wrong.state == "failed" and not wrong.is_alive()
    assert wrong.status()["last_error"] == "AuthenticationFailed: polygon auth_failed: authentication failed"
    assert stream.state == "live"


def test_a_login_that_is_not_heard(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon(auth_timeout=0.2)
    sim.plan(Fault.NO_ACK)
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_until(lambda: stream.state == "backoff")
    assert "auth_timeout" in stream.status()["last_error"]
    wait_subscribed(stream)


def test_max_connections_both_ways(
        serve_polygon: Any, connect_to: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert streams.venues.polygon.EVICTED >= 10
    monkeypatch.setattr(streams.venues.polygon, "EVICTED", 0.5)
    sim = serve_polygon()
    told: list[Any] = []
    first = connect_to(sim, ["AAPL"], ["trades"])
    first.on(r"polygon\.status\.\*", told.append, policy="inline")
    wait_subscribed(first)
    second = connect_to(sim, ["AAPL"], ["trades"])      # the newer one wins: the first is thrown out
    begun = time.monotonic()
    wait_until(lambda: first.state == "backoff")
    assert "max_connections" in first.status()["last_error"] and first.status()["errors"] == 1
    assert any("max_connections" in e.reason or e.status == "backoff" for e in told)
    wait_subscribed(second)
    assert second.stop()                                # and comes back after a while, not at once
    wait_subscribed(first)
    assert time.monotonic() - begun >= 0.5 and len(sim.connections) == 1
    other = connect_to(sim, ["BTC-USD"], ["trades"], market="crypto")       # another cluster is another place
    wait_subscribed(other)
    assert first.state == "live"


def test_two_programs_do_not_hammer_the_venue(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    first = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(first)
    second = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(second)
    wait_until(lambda: first.state == "backoff")
    assert not sim.wait_connections(3, 0.5) and second.state == "live"


def test_two_connections_where_the_plan_has_two(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon(connection_limit=2)
    both = [connect_to(sim, ["AAPL"], ["trades"]) for _ in range(2)]
    for stream in both:
        wait_subscribed(stream)
    sim.trade("AAPL", "7.25", 3)
    for stream in both:
        wait_until(lambda: stream.store.trades["polygon"].get("AAPL"), store=stream.store)
    assert sim.violations == 0


def test_a_slow_consumer_is_reported_and_comes_back(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    sim.wire.too_slow(sim.connections[0])
    wait_until(lambda: stream.status()["reconnects"] == 1)
    assert "slow consumer" in stream.status()["last_error"]
    wait_subscribed(stream)
    sim.send_status("force_disconnect", "go")
    wait_until(lambda: "force_disconnect: go" in stream.status()["last_error"] and stream.state == "backoff")


# -- subscriptions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("confirmations", ["each", "array", "joined", "mixed"])
def test_what_the_plan_lacks_is_refused(confirmations: str, serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon(denied=["stocks.Q", "LULD"], confirmations=confirmations)
    stream = connect_to(sim, ["AAPL", "NVDA", "MSFT"], ["trades", "quotes", "ticker", "bars:1m", "lulds"])
    wait_until(lambda: settled(stream))
    refused = {name for name, state in states(stream).items() if state == "refused"}
    assert {name.partition(".")[0] for name in refused} == {"quotes", "ticker", "lulds"} and len(refused) == 9
    assert "not authorized" in stream.status()["subscriptions"]["quotes.AAPL"]["reason"]
    assert listed(sim) == {f"{c}.{s}" for c in ("T", "AM") for s in ("AAPL", "NVDA", "MSFT")}
    assert stream.state == "live" and sim.accepted == 1


def test_a_confirmation_after_a_refusal_is_believed(serve_polygon: Any, connect_to: Any) -> None:
    """Refusals name nobody, and may be somebody else's."""
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    sim.inject(Fault.NO_ACK)
    heard = len(sim.connections[0].received)
    stream.subscribe("NVDA")
    wait_until(lambda: len(sim.connections[0].received) > heard)
    sim.send_status("error", "not authorized")
    wait_until(lambda: states(stream)["trades.NVDA"] == "refused")
    sim.send_status("success", "subscribed to: T.NVDA")
    wait_until(lambda: states(stream)["trades.NVDA"] == "live")


def test_a_cluster_that_the_plan_lacks(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon(denied=["options"])
    stream = connect_to(sim, [CALL, PUT], ["trades", "quotes"], market="options")
    wait_until(lambda: settled(stream))
    assert set(states(stream).values()) == {"refused"} and stream.state == "live"


@pytest.mark.parametrize("denied", [(), ("T",)])
def test_a_channel_that_a_cluster_does_not_publish_is_refused(denied: Any, serve_polygon: Any,
                                                              connect_to: Any) -> None:
    """The vendor says nothing at all about it. Whatever it says about the others shows that it listens."""
    sim = serve_polygon(denied=denied)
    stream = connect_to(sim, ["AAPL", "NVDA"], ["trades", "values"], kind=with_limits(Polygon, ack=0.1))
    silent = ("values.AAPL", "values.NVDA")
    wait_until(lambda: all(stream.status()["subscriptions"][name] == {
        "state": "pending", "reason": f"the venue did not answer {UNANSWERED} requests"} for name in silent))

    def asked() -> int:
        return sum("V.NVDA" in text for text in sim.connections[0].received)
    before = asked()
    wait_until(lambda: asked() > before, what="it is tried again")
    others = {states(stream)[name] for name in ("trades.AAPL", "trades.NVDA")}
    assert others == {"refused" if denied else "live"}
    assert stream.state == "live" and sim.accepted == 1 and stream.status()["errors"] == 0


def test_what_was_not_answered_comes_when_it_is(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL"], ["trades"], kind=with_limits(Polygon, ack=0.1))
    wait_subscribed(stream)
    sim.inject(Fault.NO_ACK)
    stream.subscribe("NVDA")
    wait_until(lambda: "did not answer" in stream.status()["subscriptions"]["trades.NVDA"]["reason"])
    assert states(stream) == {"trades.AAPL": "live", "trades.NVDA": "pending"}
    sim.clear_faults()
    wait_subscribed(stream)
    assert stream.status()["subscriptions"]["trades.NVDA"]["reason"] == "" and sim.accepted == 1


def test_what_is_not_served_is_not_missed(serve_polygon: Any, connect_to: Any) -> None:
    """No trades at night mean nothing; no quotes would, were they not refused."""
    sim = serve_polygon(denied=["Q"])
    stream = connect_to(sim, ["AAPL"], ["trades", "quotes"], stale_after=0.3)
    wait_until(lambda: settled(stream))
    assert not sim.wait_connections(2, 1.5) and sim.accepted == 1
    assert stream.state == "live" and states(stream) == {"trades.AAPL": "live", "quotes.AAPL": "refused"}


def test_unknown_symbols_are_silent_and_harm_nobody(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL", "NOSUCH"], ["trades"])
    wait_subscribed(stream)                             # confirmed all the same
    sim.trade("AAPL", "7.25", 3)
    wait_until(lambda: stream.store.trades["polygon"].get("AAPL"), store=stream.store)
    assert set(stream.store.trades["polygon"]) == {"AAPL"}


def test_again_and_again(serve_polygon: Any, connect_to: Any) -> None:
    """A repeated subscription gets no answer at the venue, so it has to be known whether it is one."""
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    for _ in range(30):
        stream.subscribe("NVDA")
        stream.unsubscribe("NVDA")
        stream.subscribe("NVDA")
        stream.unsubscribe("AAPL")
        stream.subscribe("AAPL")
        stream.unsubscribe("NVDA")
    stream.subscribe("NVDA")
    wait_listed(sim, {"T.AAPL", "T.NVDA"}, stream)
    assert sim.accepted == 1 and set(states(stream).values()) == {"live"}


def test_wildcards(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon([CALL, PUT, OTHER])
    stream = connect_to(sim, ["O:NVDA*"], ["trades"], market="options")
    heard: list[Any] = []
    stream.on(r"polygon\.trades\.O:NVDA\d+C.+", heard.append, policy="inline")
    wait_listed(sim, {"T.*"}, stream)
    wait_wired(stream)
    for symbol in (CALL, OTHER, PUT, CALL):
        sim.trade(symbol, "7.25", 3)
    trades = stream.store.trades["polygon"]
    wait_until(lambda: len(trades.get(CALL, ())) == 2 and trades.get(PUT), store=stream.store)
    assert set(trades) == {CALL, PUT} and [event.symbol for event in heard] == [CALL, CALL]
    stream.subscribe("*")                               # the same topic, more of it
    wait_until(lambda: set(states(stream)) == {"trades.O:NVDA*", "trades.*"} and settled(stream))
    wait_until(lambda: sim.trade(OTHER, "7.25", 3) and trades.get(OTHER))
    stream.unsubscribe("O:NVDA*")
    count = len(trades[CALL])
    wait_until(lambda: sim.trade(CALL, "7.25", 3) and len(trades[CALL]) > count + 1)
    stream.subscribe([OTHER])
    wait_listed(sim, {"T.*", f"T.{OTHER}"}, stream)
    stream.unsubscribe("*")
    wait_listed(sim, {f"T.{OTHER}"}, stream)
    with pytest.raises(ConfigurationError, match="'BTC[*]' is no symbol of channel 'book'; a wildcard is"):
        connect_to(sim, ["BTC*"], ["book"], market="crypto", exchange_id=1)
    with pytest.raises(ConfigurationError, match=re.escape("'*A' is no symbol")):
        connect_to(sim, ["*A"], ["trades"])


# -- clusters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("market, symbol, true, channels, topics", [
    ("stocks", "AAPL", "AAPL", ["trades", "quotes", "ticker"], {"T.AAPL", "Q.AAPL"}),
    ("options", CALL, CALL, ["trades", "quotes", "ticker"], {f"T.{CALL}", f"Q.{CALL}"}),
    ("options", CALL[2:], CALL, ["trades", "quotes", "ticker"], {f"T.{CALL}", f"Q.{CALL}"}),
    ("crypto", "BTC-USD", "BTC-USD", ["trades", "quotes", "ticker"], {"XT.BTC-USD", "XQ.BTC-USD"}),
    ("crypto", "X:BTC-USD", "BTC-USD", ["trades", "quotes", "ticker"], {"XT.BTC-USD", "XQ.BTC-USD"}),
    ("forex", "EUR-USD", "EUR/USD", ["quotes", "ticker"], {"C.EUR/USD"}),
    ("forex", "EUR/USD", "EUR/USD", ["quotes", "ticker"], {"C.EUR/USD"}),
    ("indices", "SPX", "I:SPX", ["values", "ticker"], {"V.I:SPX"}),
    ("futures", "ESZ6", "ESZ6", ["trades", "quotes", "ticker"], {"T.ESZ6", "Q.ESZ6"}),
    ("futures/cme", "ESZ6", "ESZ6", ["trades", "quotes", "ticker"], {"T.ESZ6", "Q.ESZ6"}),
])
def test_each_cluster(market: str, symbol: str, true: str, channels: list[str], topics: set[str],
                      serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    stream = connect_to(sim, [symbol], channels, market=market, number=Decimal)
    heard: dict[str, list[Any]] = {channel: [] for channel in channels}
    for channel, events in heard.items():
        stream.on(rf"polygon\.{channel}\..+", events.append, policy="inline")
    wait_listed(sim, topics, stream)
    wait_wired(stream)
    assert sim.connections[0].path == f"/{market}"
    sim.advance(300)
    store, quote = stream.store, sim.tape.last_quote(true)
    wait_until(lambda: heard["ticker"] and heard["ticker"][-1].timestamp is not None
               and heard["ticker"][-1].timestamp >= quote.time // 10**6 * 10**6 - 10**6, store=store)
    assert all(event.symbol == symbol and event.exchange == "polygon" for events in heard.values()
               for event in events)
    sent = sim.sent(sim.connections[0].id)
    for channel, kind in (("trades", ("T", "XT")), ("quotes", ("Q", "C", "XQ")), ("values", ("V",))):
        if channel not in channels:
            continue
        true_ones = [record for record in sent if record["ev"] in kind]
        wait_until(lambda: len(heard[channel]) == len(true_ones))
        assert len(true_ones) > 50
        for event, record in zip(heard[channel], true_ones):
            assert event.timestamp == record["t"] * 10**6
            if channel == "trades":
                assert (event.price, event.size) == (Decimal(str(record["p"])), Decimal(str(
                    record.get("ds", record["s"]))))
            elif channel == "quotes":
                bid, ask = (record.get(a, record.get(b)) for a, b in (("bp", "b"), ("ap", "a")))
                assert (event.bid, event.ask) == (Decimal(str(bid)), Decimal(str(ask)))
            else:
                assert event.value == Decimal(str(record["val"])) and event.kind == "index"
    ticker = store.tickers["polygon"][symbol]
    if market == "indices":
        assert ticker.last == heard["values"][-1].value
    else:
        assert (ticker.bid, ticker.ask) == (quote.bid, quote.ask)
    if "trades" in channels:
        last = sim.tape.last_trade(true)
        assert (ticker.last, ticker.last_size) == (last.price, last.size)
    assert stream.status()["malformed"] == stream.status()["notices"] == 0


def test_the_delayed_feed(serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon(delayed=True)
    stream = connect_to(sim, ["AAPL"], ["trades"], feed="delayed")
    wait_subscribed(stream)
    sim.trade("AAPL", "7.25", 3)
    trades = stream.store.trades["polygon"]
    wait_until(lambda: trades.get("AAPL"), store=stream.store)
    true = sim.tape.last_trade("AAPL")
    assert trades["AAPL"][-1].timestamp == (true.time - DELAY) // 10**6 * 10**6
    addresses = [Polygon(["AAPL"], ["trades"], feed=feed, **POLYGON_KEY)._address
                 for feed in ("delayed", "realtime")]
    assert addresses == ["wss://delayed.massive.com", "wss://socket.massive.com"]


@pytest.mark.parametrize("market, symbol, true, second, minute", [
    ("stocks", "AAPL", "AAPL", "A.AAPL", "AM.AAPL"), ("options", CALL, CALL, f"A.{CALL}", f"AM.{CALL}"),
    ("crypto", "BTC-USD", "BTC-USD", "XAS.BTC-USD", "XA.BTC-USD"),
    ("forex", "EUR-USD", "EUR/USD", "CAS.EUR/USD", "CA.EUR/USD"),
    ("indices", "I:SPX", "I:SPX", "A.I:SPX", "AM.I:SPX"), ("futures", "ESZ6", "ESZ6", "A.ESZ6", "AM.ESZ6")])
def test_bars_of_seconds_and_minutes(market: str, symbol: str, true: str, second: str, minute: str,
                                     serve_polygon: Any, connect_to: Any) -> None:
    sim = serve_polygon()
    stream = connect_to(sim, [symbol], ["bars:1s", "bars:1m"], market=market, number=Decimal)
    wait_listed(sim, {second, minute}, stream)
    sim.advance(40)
    sim.next_minute()
    last: Bar = sim.tape.last_bar(true)
    bars = stream.store.bars["polygon"]
    wait_until(lambda: bars.get(symbol, {}).get("1m") and bars[symbol].get("1s"), store=stream.store)
    bar = bars[symbol]["1m"][-1]
    assert (bar.start, bar.timestamp, bar.interval, bar.closed) == (last.time, last.end, "1m", True)
    assert (bar.open, bar.high, bar.low, bar.close) == (last.open, last.high, last.low, last.close)
    if market not in ("indices", "forex"):
        assert bar.volume == last.volume
    assert bars[symbol]["1s"][-1].start % 10**9 == 0


def test_units_of_bands_imbalances_and_fair_values(serve_polygon: Any, connect_to: Any) -> None:
    """Bands are in microseconds, imbalances in nanoseconds, fair values in milliseconds, of options in ns."""
    sim = serve_polygon()
    stream = connect_to(sim, ["AAPL"], ["lulds", "imbalances", "fmv"], number=Decimal)
    options = connect_to(sim, [CALL], ["fmv"], market="options", number=Decimal)
    wait_listed(sim, {"LULD.AAPL", "NOI.AAPL", "FMV.AAPL", f"FMV.{CALL}"})
    wait_subscribed(stream)
    wait_subscribed(options)
    latest = stream.store.latest
    bands, = (e for e in sim.bands("AAPL") if isinstance(e, Bands))
    wait_until(lambda: latest["lulds"]["polygon"].get("AAPL"), store=stream.store)
    band = latest["lulds"]["polygon"]["AAPL"]
    assert (band.limit_up, band.limit_down) == (bands.up, bands.down)
    assert band.timestamp == bands.time // 1000 * 1000
    halt, = (e for e in sim.halt("AAPL") if isinstance(e, Status))
    wait_until(lambda: latest["lulds"]["polygon"]["AAPL"].indicator == "17", store=stream.store)
    assert latest["lulds"]["polygon"]["AAPL"].timestamp == halt.time // 1000 * 1000
    sim.resume("AAPL")
    imbalance, = (e for e in sim.imbalance("AAPL") if isinstance(e, Imbalance))
    wait_until(lambda: latest["imbalances"]["polygon"].get("AAPL"), store=stream.store)
    event = latest["imbalances"]["polygon"]["AAPL"]
    assert (event.timestamp, event.price) == (imbalance.time, imbalance.price)
    assert (event.paired, event.imbalance) == (imbalance.paired, imbalance.imbalance)
    fair: dict[str, Value] = {}
    observe = sim.tape.take

    def note(update: Any) -> Any:
        events = observe(update)
        fair.update((e.symbol, e) for e in events if isinstance(e, Value) and e.fair)
        return events
    sim.tape.take = note                                # type: ignore[method-assign]
    wait_until(lambda: sim.advance(10) or {"AAPL", CALL} <= set(fair))
    for one, symbol, unit in ((stream, "AAPL", 10**6), (options, CALL, 1)):
        true = fair[symbol]
        wait_until(lambda: one.store.latest["fmv"]["polygon"].get(symbol)
                   and one.store.latest["fmv"]["polygon"][symbol].timestamp == true.time // unit * unit)
        value = one.store.latest["fmv"]["polygon"][symbol]
        assert (value.value, value.kind) == (Decimal(str(float(true.value))), "fair")


@pytest.mark.parametrize("exchange_id, true", [(1, "BTC-USD"), ("23", "BTC-USD@23")])
def test_the_crypto_book_of_one_exchange(exchange_id: Any, true: str, serve_polygon: Any,
                                         connect_to: Any) -> None:
    sim = serve_polygon(["BTC-USD", "BTC-USD@23", "ETH-USD"])
    stream = connect_to(sim, ["BTC-USD"], ["book"], market="crypto", exchange_id=exchange_id, number=Decimal)
    wrong, seen = [], [0]

    def compare(event: Any) -> None:
        book = stream.store.orderbooks["polygon"]["BTC-USD"]
        seen[0] += 1
        if book["status"] != "live" or book["bids"][0] >= book["asks"][0]:
            wrong.append(event)
    stream.on(r"polygon\.book\..+", compare, policy="inline")
    wait_listed(sim, {"XL2.BTC-USD"}, stream)
    for round_ in range(3):
        sim.advance(100)
        oracle = sim.market.book(true)

        def same() -> bool:
            book = stream.store.orderbooks["polygon"].get("BTC-USD")
            return book is not None and (exact(book["bids"]), exact(book["asks"])) == (
                oracle.bids[:100], oracle.asks[:100])
        wait_until(same, store=stream.store)
        sim.inject(Fault.DROP)
        wait_until(lambda: stream.status()["reconnects"] == round_ + 1)
        wait_subscribed(stream)
    assert wrong == [] and seen[0] > 100
    with pytest.raises(ConfigurationError, match="channel 'book' needs exchange_id="):
        connect_to(sim, ["BTC-USD"], ["book"], market="crypto")


@pytest.mark.parametrize("market, channel, have", [
    ("stocks", "book", "trades, quotes, ticker"), ("options", "lulds", "trades, quotes"),
    ("forex", "trades", "quotes, ticker"), ("indices", "quotes", "values"), ("futures", "fmv", "trades")])
def test_what_a_cluster_does_not_have(market: str, channel: str, have: str) -> None:
    with pytest.raises(ConfigurationError, match=f"market='{market}', has no channel '{channel}'.*{have}"):
        Polygon(["AAPL"], [channel], market=market, **POLYGON_KEY)
    with pytest.raises(ConfigurationError, match="has no market 'bonds'; its markets: stocks, options"):
        Polygon(["AAPL"], ["trades"], market="bonds", **POLYGON_KEY)

"""Venues' limits: messages and requests in strictly rolling windows, many symbols over connections."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

import streams.sequencing
from streams import StreamManager
from streams.backoff import Backoff
from streams.errors import ConfigurationError, TransportError
from streams.exchanges import Binance, BinanceFutures, Huobi
from streams.rest import WORKERS, Rest
from streams.sim import BinanceFuturesSim, BinanceSim, Fault, HuobiSim
from streams.stream import Stream
from streams.venue import RestRequest

from .tools import exact, live, wait_live, wait_until, with_limits

Serve = Callable[..., Any]
Connect = Callable[..., Stream]


def test_all_streams_share_the_limit_on_connections(serve: Serve, connect: Connect) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    sim.always(Fault.REJECT(status=503))
    kind = with_limits(Binance, connects=(5, 3600.0))
    streams = [connect(sim, kind=kind, backoff=Backoff(base=0.001)) for _ in range(3)]
    wait_until(lambda: all("limit on connections" in stream.status()["reason"] for stream in streams))
    assert sim.accepted == 5
    other = serve(BinanceSim, ["BTCUSDT"], rate=50.0)
    wait_live(connect(other, kind=kind))            # another place has its own
    assert all(stream.stop(1) for stream in streams) and sim.accepted == 5


def names(count: int) -> list[str]:
    """``AAA-USDT``, ``AAB-USDT``, ..."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [f"{letters[n // 676]}{letters[n // 26 % 26]}{letters[n % 26]}-USDT" for n in range(count)]


def native(symbols: list[str]) -> list[str]:
    return [symbol.replace("-", "") for symbol in symbols]


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have the manager use another stream class."""
    def patch(kind: type[Stream]) -> None:
        monkeypatch.setattr("streams.manager.stream_class", lambda name: kind)
    return patch


def test_500_symbols_come_and_go_within_the_message_limit(serve: Serve, connect: Connect) -> None:
    """The simulator closes a connection that sends more than 5 messages in any one second."""
    symbols = names(500)
    sim = serve(BinanceSim, native(symbols), rate=0, levels=5, history=10)
    stream = connect(sim, symbols[:250], ["quotes"], kind=with_limits(Binance, batch=50, probe_after=1e9))
    wait_until(lambda: sim.connections and len(sim.connections[0].subscriptions) == 250, 20)
    stream.subscribe(symbols[250:])
    stream.unsubscribe(symbols[:100])
    wait_until(lambda: sim.connections[0].subscriptions == {
        f"{name.lower()}@bookTicker" for name in native(symbols[100:])}, 20)

    def many(part: list[str]) -> None:
        for symbol in part:
            stream.unsubscribe(symbol)
            stream.subscribe(symbol)
            stream.unsubscribe(symbol)

    # one by one, from several threads, faster than anything may be said
    threads = [threading.Thread(target=many, args=(symbols[n:n + 40],)) for n in range(100, 300, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: sim.connections[0].subscriptions == {
        f"{name.lower()}@bookTicker" for name in native(symbols[300:])}, 30)
    assert sim.violations == 0 and sim.accepted == 1
    assert len(sim.connections[0].received) < 60


def test_the_limit_holds_over_a_reconnect_and_pings(serve: Serve, connect: Connect) -> None:
    symbols = names(36)
    sim = serve(BinanceSim, native(symbols), rate=0, levels=5, history=10, ping_interval=1.5)
    stream = connect(sim, symbols, ["quotes"], kind=with_limits(Binance, batch=6, probe_after=0.3))
    for accepted in (1, 2):
        wait_until(lambda: sim.accepted == accepted and sim.connections
                   and len(sim.connections[-1].subscriptions) == 36, 20)
        if accepted == 1:
            sim.inject(Fault.RESET)
    assert sim.violations == 0
    assert stream.status()["reconnects"] == 1


def test_silent_feeds_are_subscribed_anew_within_the_limit(serve: Serve, connect: Connect) -> None:
    """All of them fall silent at once, but one: a venue that forgot half of its clients."""
    symbols = names(24)
    sim = serve(BinanceSim, native(symbols), rate=0, levels=5, history=10)
    done = threading.Event()

    def one_goes_on() -> None:
        while not done.wait(0.02):
            sim.advance(1, native(symbols)[0])

    thread = threading.Thread(target=one_goes_on)
    thread.start()
    try:
        connect(sim, symbols, ["quotes"], kind=with_limits(Binance, batch=4), stale_after=0.5)

        def words(verb: str) -> int:
            return sum(f'"{verb}"' in str(message)
                       for conn in sim.connections for message in conn.received.copy())
        wait_until(lambda: words("UNSUBSCRIBE") >= 6, 20)
    finally:
        done.set()
        thread.join()
    assert sim.violations == 0 and sim.accepted == 1


def test_snapshots_are_staggered_within_the_weight(serve: Serve, connect: Connect,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.sim.binance_rest._MINUTE", 1.0)
    symbols = names(30)
    sim = serve(BinanceSim, native(symbols), rate=10.0, levels=5, history=1000, weight_limit=50)
    begun = time.monotonic()
    stream = connect(sim, symbols, depth=100, rest_limit=(45, 1.1))      # each weighs 5
    wait_live(stream, timeout=20)
    assert time.monotonic() - begun > 2.0
    assert len(sim.requests) == 30, "none was refused, so none was asked for twice"
    assert stream.status()["errors"] == 0


def test_snapshots_that_arrive_late_are_within_the_weight_too(serve: Serve, connect: Connect,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """The first requests take nearly a window's length to get there: those that follow must not catch up."""
    monkeypatch.setattr("streams.sim.binance_rest._MINUTE", 1.0)
    symbols = names(24)
    sim = serve(BinanceSim, native(symbols), rate=10.0, levels=5, history=1000, weight_limit=50)
    spend, slow, never = sim.weights.spend, [0.9] * WORKERS, threading.Event()

    def arrives(weight: int) -> Any:
        never.wait(slow.pop()) if slow else None
        return spend(weight)
    sim.weights.spend = arrives
    stream = connect(sim, symbols, depth=100, rest_limit=(50, 1.0))      # each weighs 5
    wait_live(stream, timeout=20)
    assert not slow
    assert len(sim.requests) == 24, "none was refused, so none was asked for twice"
    assert stream.status()["errors"] == 0


def test_books_that_wait_for_their_snapshot_hold_few_updates(serve: Serve, connect: Connect,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """With hundreds of symbols the last ones wait for minutes, and what they held would fill the memory."""
    monkeypatch.setattr(streams.sequencing, "FEW_HELD", 20)
    symbols = names(16)
    sim = serve(BinanceSim, native(symbols), rate=50.0, levels=20, history=1000)
    stream = connect(sim, symbols, depth=100, rest_limit=(5, 0.3))      # each weighs 5
    wait_until(lambda: len(stream.feed.keepers) == 16)
    keepers = list(stream.feed.keepers.values())
    most = 0

    def done() -> bool:
        nonlocal most
        most = max(most, sum(len(keeper._held) > 20 for keeper in keepers))
        return live(stream)
    wait_until(done, 30)
    assert 0 < most <= WORKERS + 2, "those that a worker has taken up, or has just finished"
    assert len(sim.requests) == 16 and stream.status()["errors"] == stream.status()["resyncs"] == 0
    for symbol in symbols:
        view = stream.store.orderbook("binance", symbol)
        truth = sim.market.book(symbol.replace("-", ""), view["sequence"])
        assert view["status"] == "live"
        assert (exact(view["bids"]), exact(view["asks"])) == (truth.bids, truth.asks)


def test_who_stops_and_starts_again_has_the_same_limit(serve: Serve, connect: Connect,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager, again, and beside it a stream of its own: the venue counts them together."""
    monkeypatch.setattr("streams.sim.binance_rest._MINUTE", 1.0)
    symbols = names(8)
    sim = serve(BinanceSim, native(symbols), rate=10.0, levels=5, history=1000, weight_limit=45)
    options: dict[str, Any] = {"depth": 100, "rest_limit": (45, 1.1)}    # each weighs 5
    beside = connect(sim, symbols, **options)
    with StreamManager(url=sim.url, rest_url=sim.rest_url, **options) as market:
        for _ in range(3):
            market.start("binance", symbols)
            market.wait_ready(10)
            assert market.status()["streams"][0]["errors"] == 0
            market.stop()
        market.orderbook("binance", symbols[0], max_age=0.001)      # neither runs: by REST, for a weight of 5
    wait_live(beside)
    assert beside.status()["errors"] == 0
    assert len(sim.requests) == 33, "none was refused, so none was asked for twice"


def test_calls_of_users_count_until_they_are_answered(serve: Serve, stack: contextlib.ExitStack) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=0)
    asked, answer, spend = threading.Event(), threading.Event(), sim.weights.spend

    def first_is_held(weight: int) -> Any:
        if not asked.is_set():
            asked.set()
            answer.wait(10)
        return spend(weight)
    sim.weights.spend = first_is_held
    rest = Rest("binance", sim.rest_url, (1, 0.05))
    stack.callback(rest.close)
    ping = RestRequest("/api/v3/ping")
    call = threading.Thread(target=rest.session().get, args=(ping.path,))
    call.start()
    stack.callback(call.join, 10)
    stack.callback(answer.set)
    assert asked.wait(10)
    with pytest.raises(TransportError, match="the REST limit leaves no room"):      # ten windows long
        rest.get(ping, timeout=0.5)
    answer.set()
    assert rest.get(ping) == b"{}"


def test_a_call_that_fails_or_was_the_parents_is_not_under_way_for_ever() -> None:
    rest = Rest("binance", "http://127.0.0.1:9", (1, 0.05))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), rest.turn(1):
            raise ZeroDivisionError
    rest.turn(1).__enter__()
    rest.forked()                           # the child gets no answer to what the parent has under way
    with rest.turn(1):
        pass
    rest.close()


def test_who_waits_for_calls_under_way_is_let_go_by_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = Rest("binance", "http://127.0.0.1:9", (1, 60.0))
    said: list[str] = []
    looks: list[float] = []
    room = rest._window.wait

    def look(now: float, units: int) -> float:
        looks.append(room(now, units))
        return looks[-1]
    monkeypatch.setattr(rest._window, "wait", look)

    def wait() -> None:
        try:
            rest.get(RestRequest("/api/v3/ping"))
        except TransportError as error:
            said.append(str(error))
    with rest.turn(1):
        waiting = [threading.Thread(target=wait) for _ in range(3)]
        for thread in waiting:
            thread.start()
        wait_until(lambda: len(looks) == 4)
        rest.close()
        for thread in waiting:
            thread.join(10)
    assert said == 3 * ["binance: REST is closed"]
    assert looks == [0.0, 60.0, 60.0, 60.0], "nobody looks again and again"


def test_a_mistake_in_a_rest_call_is_not_the_end_of_a_book(serve: Serve, connect: Connect,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    mistakes = [KeyError("secret"), None]
    get = Rest.get

    def wrong(self: Rest, *args: Any) -> bytes:
        if error := mistakes.pop(0) if mistakes else None:
            raise error
        return get(self, *args)
    monkeypatch.setattr(Rest, "get", wrong)
    stream = connect(serve(BinanceSim, ["BTCUSDT"], rate=50.0))
    wait_live(stream)
    assert not mistakes and stream.status()["errors"] == 1


def test_snapshots_that_nobody_waits_for_any_longer_take_nothing_of_the_limit(serve: Serve,
                                                                              connect: Connect) -> None:
    """Those of a connection that is gone are not asked for: the next one needs all of them, and soon."""
    symbols = names(40)
    sim = serve(BinanceSim, native(symbols), rate=10.0, levels=5, history=1000)
    stream = connect(sim, symbols, depth=100, rest_limit=(25, 0.5))      # each weighs 5: ten in a second
    spent = 0
    for accepted in (1, 2, 3):
        wait_until(lambda: sim.accepted == accepted and len(sim.requests) >= spent + 5, 20)
        spent = len(sim.requests)
        sim.inject(Fault.RESET)
    wait_live(stream, timeout=20)
    assert len(sim.requests) <= spent + 40 + 3 * WORKERS


# -- over connections ---------------------------------------------------------------------------------------


def test_symbols_are_spread_over_connections(serve: Serve, patched: Callable[..., None]) -> None:
    symbols = names(25)
    sim = serve(BinanceSim, native(symbols), rate=20.0, levels=5)
    patched(with_limits(Binance, topics=10))
    with StreamManager() as market:
        market.start("binance", symbols, url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(20)
        assert sorted(len(conn.subscriptions) for conn in sim.connections) == [5, 10, 10]
        assert set(market.store.orderbooks["binance"]) == set(symbols)
        market.subscribe("binance", ["ZZA-USDT", "ZZB-USDT"])
        wait_until(lambda: sorted(len(c.subscriptions) for c in sim.connections) == [7, 10, 10])
        market.unsubscribe("binance", symbols[:10])
        wait_until(lambda: sum(len(conn.subscriptions) for conn in sim.connections) == 17)
        market.start("binance", symbols[:12], ["quotes"])
        wait_until(lambda: sum(len(conn.subscriptions) for conn in sim.connections) == 29)
        assert max(len(conn.subscriptions) for conn in sim.connections) <= 10
        everything = [topic for conn in sim.connections for topic in conn.subscriptions]
        assert len(everything) == len(set(everything)), "nothing is served twice"
        assert len(market.status()["streams"]) == len(sim.connections) <= 4
    assert sim.violations == 0


def test_a_channel_with_several_symbols_and_channels_fits(serve: Serve, patched: Callable[..., None]) -> None:
    symbols = names(9)
    sim = serve(BinanceSim, native(symbols), rate=20.0, levels=5)
    patched(with_limits(Binance, topics=7))
    with StreamManager() as market:
        market.start("binance", symbols, ["book", "quotes", "trades"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(20)
        assert sum(len(conn.subscriptions) for conn in sim.connections) == 27
        assert max(len(conn.subscriptions) for conn in sim.connections) <= 7


def test_futures_are_split_over_endpoints(serve: Serve) -> None:
    sim = serve(BinanceFuturesSim, ["BTCUSDT", "ETHUSDT"], rate=100.0)
    with StreamManager() as market:
        market.start("binance-futures", ["BTC-USDT", "ETH-USDT"],
                     ["book", "quotes", "trades", "ticker", "bars:1m"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(10)
        wait_until(lambda: market.store.trades.get("binance-futures", {}).get("BTC-USDT"))
        wait_until(lambda: market.store.bars.get("binance-futures", {}).get("BTC-USDT"))
        paths = {conn.path: conn.subscriptions for conn in sim.connections}
    assert set(paths) == {"/public/stream", "/market/stream"}
    assert all("@depth" in topic or "@bookTicker" in topic for topic in paths["/public/stream"])
    assert not any("@depth" in topic or "@bookTicker" in topic for topic in paths["/market/stream"])
    assert len(paths["/public/stream"]) == 4 and len(paths["/market/stream"]) == 6


def test_huobis_incremental_books_have_an_endpoint_of_their_own(serve: Serve) -> None:
    sim = serve(HuobiSim, ["BTCUSDT"], rate=100.0)
    with StreamManager() as market:
        market.start("huobi", "BTC-USDT", ["book", "quotes", "trades"], book_mode="incremental",
                     url=sim.url, rest_url=sim.rest_url, number=Decimal)
        market.wait_ready(10)
        paths = {conn.path: conn.subscriptions for conn in sim.connections}
    assert set(paths) == {"/ws", "/feed"}
    assert paths["/feed"] == {"market.btcusdt.mbp.150"}


@pytest.mark.parametrize("kind, channels, options", [
    (BinanceFutures, ["book", "trades"], {}),
    (Huobi, ["book", "quotes"], {"book_mode": "incremental"})])
def test_a_single_stream_over_two_endpoints_is_refused(kind: Any, channels: Any, options: Any) -> None:
    advice = rf"different endpoints, .* use StreamManager.start\('{kind.venue.name}'"
    with pytest.raises(ConfigurationError, match=advice):
        kind("BTC-USDT", channels, **options)
    stream = kind("BTC-USDT", channels[:1], **options)
    with pytest.raises(ConfigurationError, match="different endpoints"):
        stream.subscribe("BTC-USDT", channels[1:])
    assert list(stream.status()["subscriptions"]) == [f"{channels[0]}.BTC-USDT"]


def test_a_single_stream_with_too_many_symbols_is_refused() -> None:
    kind = with_limits(Binance, topics=10)
    with pytest.raises(ConfigurationError, match=r"11 subscriptions, and binance allows 10 per connection"):
        kind(names(11))
    stream = kind(names(8))
    with pytest.raises(ConfigurationError, match="12 subscriptions"):
        stream.subscribe(names(12)[8:])
    assert len(stream.status()["subscriptions"]) == 8, "all or none"

"""What is subscribed changes while the stream runs, at every venue, and the connection stays."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from streams import ConfigurationError, StreamManager
from streams.exchanges import EXCHANGES, Alpaca, BinanceFutures, Huobi
from streams.sim import BinanceFuturesSim, Fault, HuobiSim
from streams.sim.alpaca import AlpacaSim
from streams.stream import Stream

from .live import (
    ALPACA_KEYS, PLACES, Place, at_once, listed, quick, settled, wait_listed, wait_subscribed,
)
from .tools import wait_until, with_limits

EACH = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
Stack = contextlib.ExitStack


def states(stream: Stream) -> dict[str, str]:
    return {name: entry["state"] for name, entry in stream.status()["subscriptions"].items()}


def running(place: Place, stack: Stack, *symbols: str, **options: Any) -> tuple[Any, Stream]:
    """A simulator and a stream that is live on it."""
    sim = place.serve(stack)
    stream = place.stream(sim, list(symbols), stack, **options)
    stream.start()
    wait_listed(sim, place.topics(*symbols), stream)
    return sim, stream


@EACH
def test_change_on_one_connection(place: Place, stack: Stack) -> None:
    a, b, c, d = place.symbols
    sim, stream = running(place, stack, a)
    stream.subscribe([b, c])
    wait_listed(sim, place.topics(a, b, c), stream)
    stream.unsubscribe(a)
    wait_listed(sim, place.topics(b, c), stream)
    at_once(lambda: stream.subscribe(a), lambda: stream.subscribe(d), lambda: stream.unsubscribe(b),
            lambda: stream.unsubscribe(c))
    wait_listed(sim, place.topics(a, d), stream)
    assert states(stream) == {f"{place.channel}.{a}": "live", f"{place.channel}.{d}": "live"}
    assert sim.accepted == 1 and stream.status()["connects"] == 1 and sim.violations == 0


@EACH
@pytest.mark.parametrize("policy", ["inline", "drop_oldest"])
def test_change_from_a_handler(place: Place, policy: str, stack: Stack) -> None:
    a, b, c, _ = place.symbols
    sim = place.serve(stack)
    stream = place.stream(sim, [a, c], stack)

    def swap(event: Any) -> None:
        if event.symbol == a:
            stream.unsubscribe(a)
            stream.subscribe(b)
            stream.off(swap)
    stream.on(rf".+\.{place.channel}\..+", swap, policy=policy)
    stream.start()          # some venues send a book at once: then ``a`` is gone already
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions)

    def swapped() -> bool:
        sim.advance(5)
        return listed(sim) == place.topics(b, c) and settled(stream)
    wait_until(swapped, what="the handler's change at the venue")
    assert sim.accepted == 1 and stream.handlers.status() == []


@EACH
def test_change_before_the_start(place: Place, stack: Stack) -> None:
    a, b, c, _ = place.symbols
    sim = place.serve(stack)
    stream = place.stream(sim, [a, b], stack)
    assert set(states(stream).values()) == {"pending"}
    stream.subscribe(c)
    stream.unsubscribe(a)
    stream.start()
    wait_listed(sim, place.topics(b, c), stream)
    assert sim.accepted == 1


@EACH
def test_change_while_backing_off(place: Place, stack: Stack) -> None:
    a, b, c, _ = place.symbols
    sim, stream = running(place, stack, a, b)
    sim.pause_listening()
    sim.inject(Fault.DROP)
    wait_until(lambda: stream.state == "backoff")
    stream.subscribe(c)
    stream.unsubscribe(a)
    assert set(states(stream).values()) == {"pending"}      # nothing is live without a connection
    sim.resume_listening()
    wait_listed(sim, place.topics(b, c), stream)


@EACH
def test_change_while_paused(place: Place, stack: Stack) -> None:
    a, b, c, _ = place.symbols
    sim, stream = running(place, stack, a, b)
    stream.pause()
    wait_until(lambda: stream.state == "paused" and not sim.connections)
    stream.subscribe(c)
    stream.unsubscribe(a)
    assert states(stream) == {f"{place.channel}.{b}": "pending", f"{place.channel}.{c}": "pending"}
    stream.resume()
    wait_listed(sim, place.topics(b, c), stream)
    assert sim.accepted == 2


@pytest.mark.parametrize("kind, sim_kind, before, after, options", [
    (BinanceFutures, BinanceFuturesSim, "book", "trades", {}),
    (BinanceFutures, BinanceFuturesSim, "trades", "quotes", {}),
    (Huobi, HuobiSim, "book", "quotes", {"book_mode": "incremental"})])
def test_another_endpoint(kind: type[Stream], sim_kind: Any, before: str, after: str, options: Any,
                          stack: Stack) -> None:
    """One connection serves one endpoint; what is wanted from another would be acknowledged, and silent."""
    sim = stack.enter_context(sim_kind(["BTCUSDT"], rate=50.0))
    stream = kind("BTC-USDT", [before], url=sim.url, rest_url=sim.rest_url, backoff=quick(), **options)
    stack.callback(stream.stop)
    heard = threading.Event()
    stream.on(rf".*\.{after}\..*", lambda event: heard.set(), policy="inline")
    stream.start()
    wait_subscribed(stream)
    stream.unsubscribe("BTC-USDT", [before])
    stream.subscribe("BTC-USDT", [after])
    assert heard.wait(10), stream.status()
    wait_subscribed(stream)
    assert (sim.accepted, stream.status()["errors"]) == (2, 0)


def test_without_channels_a_symbol_is_given_back_in_all_of_them() -> None:
    """On whatever streams they are, and whenever they were asked for."""
    nowhere = {"url": "ws://127.0.0.1:9", "rest_url": "http://127.0.0.1:9"}
    with StreamManager() as market:
        market.start("binance-futures", ["BTC-USDT", "ETH-USDT"], **nowhere)
        market.subscribe("binance-futures", ["BTC-USDT", "ETH-USDT"], ["trades", "quotes"])
        market.unsubscribe("binance-futures", "ETH-USDT", ["quotes"])
        market.unsubscribe("binance-futures", "BTC-USDT")
        left = [name for entry in market.status()["streams"] for name in entry["subscriptions"]]
    assert sorted(left) == ["book.ETH-USDT", "trades.ETH-USDT"]


@EACH
def test_wishes_are_counted(place: Place, stack: Stack) -> None:
    a, b, _, d = place.symbols
    sim, stream = running(place, stack, a, b)
    heard = len(sim.connections[0].received)
    stream.subscribe(a)
    stream.subscribe(a)
    stream.unsubscribe(a)
    stream.unsubscribe(a)
    stream.unsubscribe([b, d])          # what was not subscribed is ignored
    wait_listed(sim, place.topics(a), stream)
    assert len(sim.connections[0].received) == heard + 1       # nothing was said about ``a``
    stream.unsubscribe(a)
    wait_listed(sim, set(), stream)
    stream.unsubscribe(a)                              # once too often: not a debt
    stream.subscribe(a)
    wait_listed(sim, place.topics(a), stream)
    assert sim.accepted == 1


@EACH
def test_all_is_restored_after_a_reconnect(place: Place, stack: Stack) -> None:
    a, b, c, _ = place.symbols
    sim, stream = running(place, stack, a, b)
    stream.subscribe(c)
    stream.unsubscribe(a)
    wait_listed(sim, place.topics(b, c), stream)
    for count in range(1, 4):
        sim.inject(Fault.RESET)
        wait_until(lambda: stream.status()["reconnects"] == count)
        wait_listed(sim, place.topics(b, c), stream)


@EACH
def test_a_refusal_shows_the_venues_reason(place: Place, stack: Stack) -> None:
    a, b, _, _ = place.symbols
    sim, stream = running(place, stack, a)
    changes: list[Any] = []
    stream.on(r".+\.status\..+", changes.append, policy="inline")
    sim.inject(Fault.REFUSE_SUBSCRIPTION)
    stream.subscribe(b)
    name = f"{place.channel}.{b}"
    wait_until(lambda: stream.status()["subscriptions"][name]["reason"],
               what=f"a reason: {stream.status()['subscriptions']}")
    assert REASONS[place.kind.venue.name.partition("-")[0]] in (
        stream.status()["subscriptions"][name]["reason"])
    assert states(stream)[f"{place.channel}.{a}"] == "live" and stream.state == "live"
    wait_until(lambda: not stream.feed.subscriptions._waiting, what="each of its topics has its answer")
    sim.clear_faults()
    if states(stream)[name] == "refused":               # for good: until it is asked for anew
        wait_until(lambda: any(change.status == "refused" for change in changes))
        stream.subscribe(b)
    wait_listed(sim, place.topics(a, b), stream)
    refusals = [(c.subject, c.symbol) for c in changes if c.status == "refused"]
    assert sim.accepted == 1 and refusals in ([], [("subscription", b)])


REASONS = {"binance": "is not available", "huobi": "invalid", "kraken": "not supported", "alpaca": "405",
           "polygon": "not authorized"}


def test_alpaca_names_the_symbols_over_the_limit(stack: Stack) -> None:
    names = tuple(f"S{a}{b}" for a in "ABCD" for b in "ABCDEFGH")
    sim = stack.enter_context(AlpacaSim(names, rate=0, symbol_limit=30))
    stream = Alpaca(list(names[:28]), ["trades"], url=sim.url, rest_url=sim.rest_url, backoff=quick(),
                    **ALPACA_KEYS)
    stack.callback(stream.stop)
    stream.start()
    wait_subscribed(stream)
    stream.subscribe(list(names[28:]))
    wait_until(lambda: settled(stream))
    entries = stream.status()["subscriptions"]
    refused = {name for name, entry in entries.items() if entry["state"] == "refused"}
    assert len(refused) == 2 and len(listed(sim)) == 30
    for name in refused:
        assert "405" in entries[name]["reason"] and name.partition(".")[2] in entries[name]["reason"]
    stream.unsubscribe(list(names[:2]))                 # there is room now, for who asks again
    for name in refused:
        stream.subscribe(name.partition(".")[2])
    wait_subscribed(stream)
    assert listed(sim) == {f"trades:{name}" for name in names[2:]} and sim.accepted == 1


def test_channels_share_the_venues_topics(stack: Stack) -> None:
    place = PLACES["alpaca-ticker"]
    sim, stream = running(place, stack, "AAPL")
    heard = len(sim.connections[0].received)
    stream.subscribe("AAPL", ["trades", "quotes"])      # the ticker is made of both
    wait_until(lambda: settled(stream))
    stream.unsubscribe("AAPL", ["quotes", "ticker"])
    wait_listed(sim, {"trades:AAPL"}, stream)
    assert len(sim.connections[0].received) == heard + 1
    sim.trade("AAPL", "123.5", 10)
    wait_until(lambda: stream.store.trades["alpaca"].get("AAPL"), store=stream.store)
    assert states(stream) == {"trades.AAPL": "live"}


@EACH
def test_without_an_answer_it_stays_pending(place: Place, stack: Stack) -> None:
    a, b, _, _ = place.symbols
    sim, stream = running(place, stack, a)
    sim.inject(Fault.NO_ACK)
    sent = len(sim.connections[0].received)
    stream.subscribe(b)
    wait_until(lambda: len(sim.connections[0].received) > sent)
    assert states(stream)[f"{place.channel}.{b}"] == "pending"
    assert states(stream)[f"{place.channel}.{a}"] == "live"


def test_a_manager_places_nothing_twice(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    place = PLACES["binance"]
    monkeypatch.setitem(EXCHANGES, "binance", with_limits(place.kind, topics=2))
    a, b, c, d = place.symbols
    sim = place.serve(stack, message_limit=None)
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url))
    market.start("binance", [a, b, c], ["trades"])
    wait_listed(sim, place.topics(a, b, c))
    market.unsubscribe("binance", a)                    # there is room on the first, and ``c`` on the second
    market.subscribe("binance", [c, b])
    market.start("binance", [c, d], ["trades"])
    wait_listed(sim, place.topics(b, c, d))
    where = [name for connection in sim.connections for name in connection.subscriptions]
    assert len(where) == len(set(where)) == 3 and len(sim.connections) == 2
    market.unsubscribe("binance", [b, c, d])
    wait_listed(sim, place.topics(b, c))                # each once more than taken back
    market.unsubscribe("binance", [b, c])
    market.unsubscribe("binance", c)
    wait_listed(sim, set())
    market.pause("binance")
    wait_until(lambda: not sim.connections)
    market.subscribe("binance", [a, b, c, d])
    market.start("binance", a, ["quotes"])              # that needs a third stream, which stays away, too
    assert len(market.status()["streams"]) == 3
    wait_until(lambda: {stream["state"] for stream in market.status()["streams"]} == {"paused"})
    assert sim.accepted == 2
    market.resume()
    wait_listed(sim, place.topics(a, b, c, d) | {"btcusdt@bookTicker"})
    with pytest.raises(ConfigurationError, match="no channel 'trade'"):
        market.subscribe("binance", [a, b], ["book", "trade"])
    assert len(market.status()["streams"]) == 3         # all or nothing


def test_a_wish_while_the_exchange_is_stopped_starts_nothing(
        stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop comes just when the call has found what it concerns; a new symbol needs a new stream."""
    place = PLACES["binance"]
    monkeypatch.setitem(EXCHANGES, "binance", with_limits(place.kind, topics=1))
    sim = place.serve(stack)
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url))
    market.start("binance", place.symbols[0], ["trades"])
    stopping, found = threading.Thread(target=market.stop, args=("binance",), daemon=True), market._group

    def meanwhile(exchange: str) -> Any:
        group = found(exchange)
        stopping.start()
        stopping.join(0.5)                              # unless it has to wait for the change
        return group
    monkeypatch.setattr(market, "_group", meanwhile)
    market.subscribe("binance", place.symbols[1])
    stopping.join(10)
    assert not stopping.is_alive() and market.status()["streams"] == []
    assert not [thread for thread in threading.enumerate() if isinstance(thread, Stream)]

"""Paused, a stream stays away; outside the trading hours it does so by itself."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from streams import StaleData, StreamManager
from streams.errors import NotReady
from streams.exchanges import Binance
from streams.rest import WORKERS
from streams.schedule import TradingHours
from streams.sim import BinanceSim, Fault, HuobiSim
from streams.stream import Stream

from .live import PLACES, Place, at_once, quick, wait_listed, wait_subscribed
from .tools import live, wait_live, wait_until

EACH = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
Stack = contextlib.ExitStack
AWAY = 0.25         # seconds in which somebody who should stay away would have come back


class Hours:
    """A calendar whose market opens and closes at these moments, in turns (seconds from now)."""

    def __init__(self, *moments: float, opened: bool = True) -> None:
        now = time.time_ns()
        self.opened = opened
        self.moments = [now + int(moment * 1e9) for moment in moments]

    def is_open(self, at: int) -> bool:
        return self.opened is (sum(moment <= at for moment in self.moments) % 2 == 0)

    def next_change(self, at: int) -> int | None:
        return next((moment for moment in self.moments if moment > at), None)


def stays_away(sim: Any) -> bool:
    return not sim.connections and not sim.wait_connections(sim.accepted + 1, AWAY)


def wait_paused(stream: Stream, sim: Any, timeout: float = 5.0) -> None:
    wait_until(lambda: stream.state == "paused" and not sim.connections, timeout, what=f"{stream!r} paused")


@EACH
def test_the_connection_closes_and_comes_back_once(place: Place, stack: Stack) -> None:
    sim = place.serve(stack)
    stream = place.stream(sim, place.symbols[:2], stack)
    stream.start()
    wait_subscribed(stream)
    connection = sim.connections[0]
    stream.pause()
    stream.pause()
    wait_paused(stream, sim)
    assert connection.close_code == 1000                # politely
    stream.follow()
    stream.subscribe(place.symbols[2])                  # whatever wakes the thread does not bring it back
    assert stays_away(sim) and stream.is_alive()
    stream.resume()
    stream.resume()
    wait_listed(sim, place.topics(*place.symbols[:3]), stream)
    assert len(sim.connections) == 1 and sim.accepted == 2
    assert stream.status()["errors"] == 0


def test_data_stays_and_says_that_it_is_old(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=100))
    stream = Binance(["BTC-USDT"], ["book", "trades"], url=sim.url, rest_url=sim.rest_url)
    stack.callback(stream.stop)
    told: list[Any] = []
    stream.on(r"binance\.status\..+", told.append, policy="inline")
    stream.start()
    wait_live(stream)
    wait_until(lambda: stream.store.trades["binance"].get("BTC-USDT"), store=stream.store)
    stream.pause()
    wait_paused(stream, sim)
    book = stream.store.orderbooks["binance"]["BTC-USDT"]
    wait_until(lambda: book["status"] == "stale")
    assert book["bids"] and book["asks"] and stream.store.trades["binance"]["BTC-USDT"]
    stamp = stream.store.last_update
    with pytest.raises(StaleData, match="is stale"):
        stream.store.orderbook("binance", "BTC-USDT", max_age=60)
    assert stream.store.orderbook("binance", "BTC-USDT")["status"] == "stale"
    assert stream.store.wait(stamp, AWAY) == stamp
    assert [e.status for e in told if e.subject == "stream"][-1] == "paused"
    assert [e.status for e in told if e.subject == "book"][-1] == "stale"
    stream.resume()
    wait_live(stream)
    assert book["status"] == "live" and book is stream.store.orderbooks["binance"]["BTC-USDT"]


@pytest.mark.parametrize("end", [Stream.pause, Stream.stop], ids=["pause", "stop"])
def test_no_book_looks_live_while_the_connection_closes(end: Any, stack: Stack) -> None:
    """From our close frame on updates are dropped, for half a second if the venue does not answer it."""
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=100))
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    stack.callback(stream.stop)
    connected: list[bool] = []

    def told(event: Any) -> None:
        if (event.subject, event.status) == ("book", "stale"):
            connected.append(stream._connector.session is not None)
    stream.on(r"binance\.status\..+", told, policy="inline")
    stream.start()
    wait_live(stream)
    sim.connections[0].take_control = lambda message: True      # it goes on sending
    end(stream)
    wait_until(lambda: connected)
    assert connected == [True]


def test_pausing_in_the_middle_of_a_block_makes_no_gap(stack: Stack) -> None:
    """An inline handler pauses: the rest of the block is dropped, what follows a ping in it included."""
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=0))
    stream = Binance(["BTC-USDT", "ETH-USDT"], url=sim.url, rest_url=sim.rest_url)
    stack.callback(stream.stop)
    armed, entered, gate = (threading.Event() for _ in range(3))
    stack.callback(gate.set)
    gaps: list[Any] = []
    stream.on(r"binance\.gaps\..+", gaps.append, policy="inline")

    def handler(event: Any) -> None:
        if not armed.is_set():
            return
        if event.symbol == "ETH-USDT":
            stream.pause()
        entered.set()
        gate.wait(10)
    stream.on(r"binance\.book\..+", handler, policy="inline")
    stream.start()
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions)
    wait_until(lambda: sim.advance(1) or live(stream))
    wait_until(lambda: stream.store.orderbook("binance", "ETH-USDT")["sequence"]
               == sim.market.book("ETHUSDT").sequence)
    armed.set()
    sim.advance(1, "BTCUSDT")
    assert entered.wait(10)
    for _ in range(3):                      # they wait in the socket, and are read at once
        sim.advance(2, "ETHUSDT")
        sim.connections[0].ping()
    gate.set()
    wait_paused(stream, sim)
    assert stream.status()["gaps"] == stream.status()["resyncs"] == 0 and not gaps


def test_paused_before_the_start(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    with StreamManager(url=sim.url, rest_url=sim.rest_url) as market:
        stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        stack.callback(stream.stop)
        stream.pause()
        stream.start()
        wait_until(lambda: stream.state == "paused")
        assert stays_away(sim)
        stream.resume()
        wait_live(stream)
        market.start("binance", ["BTC-USDT"])
        market.wait_ready(5)
        market.pause()
        wait_until(lambda: market.status()["streams"][0]["state"] == "paused")
        with pytest.raises(NotReady, match="paused"):
            market.wait_ready(0.05)


def test_the_manager_pauses_one_exchange_or_all(stack: Stack) -> None:
    binance = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    huobi = stack.enter_context(HuobiSim(["btcusdt"], rate=50))
    market = stack.enter_context(StreamManager())
    market.start("binance", ["BTC-USDT"], url=binance.url, rest_url=binance.rest_url)
    market.start("huobi", ["BTC-USDT"], url=huobi.url, rest_url=huobi.rest_url)
    market.wait_ready(5)

    def state() -> list[str]:
        return [stream["state"] for stream in market.status()["streams"]]
    market.pause("htx")                                 # another name of Huobi
    wait_until(lambda: state() == ["live", "paused"])
    market.pause()
    wait_until(lambda: state() == ["paused", "paused"])
    market.resume("binance")
    wait_until(lambda: state() == ["live", "paused"])
    assert stays_away(huobi)
    market.resume()
    market.wait_ready(5)
    assert len(binance.connections) == len(huobi.connections) == 1


def test_pause_and_resume_at_random_from_many_threads(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=50))
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url, backoff=quick())
    stack.callback(stream.stop)
    stream.start()

    def toggle(seed: int) -> None:
        rand = random.Random(seed)
        for _ in range(100):
            rand.choice((stream.pause, stream.resume))()
            if rand.random() < 0.1:
                sim.inject(Fault.DROP)
    at_once(*(lambda seed=seed: toggle(seed) for seed in range(8)))     # type: ignore[misc]
    stream.pause()
    wait_paused(stream, sim)
    stream.resume()
    wait_listed(sim, {"btcusdt@depth@100ms"}, stream)
    wait_live(stream)
    assert len(sim.connections) == 1 and len(sim.peers()) <= 1 + WORKERS       # those that REST keeps


# -- schedules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binance-book", "alpaca"])
def test_the_schedule_opens_and_closes(name: str, stack: Stack) -> None:
    place = PLACES[name]
    sim = place.serve(stack)
    hours = Hours(1.0, 2.0, opened=False)
    stream = place.stream(sim, place.symbols[:2], stack, schedule=hours)
    stream.start()
    wait_until(lambda: stream.state == "paused")
    assert sim.accepted == 0
    wait_listed(sim, place.topics(*place.symbols[:2]))
    assert time.time_ns() >= hours.moments[0]
    connection = sim.connections[0]
    wait_paused(stream, sim)
    assert time.time_ns() >= hours.moments[1] and connection.close_code == 1000
    assert stays_away(sim) and sim.accepted == 1


def test_hours_of_the_day(stack: Stack) -> None:
    """The real thing: plain times with a time zone, in whole seconds."""
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    change = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(seconds=3)
    at, before, after = (f"{moment:%H:%M:%S}" for moment in (
        change, change - timedelta(hours=6), change + timedelta(hours=6)))
    options = {"url": sim.url, "rest_url": sim.rest_url}
    closing = Binance(["BTC-USDT"], schedule=TradingHours(before, at, tz="UTC", days="mon-sun"), **options)
    opening = Binance(["BTC-USDT"], schedule=TradingHours(at, after, tz="UTC", days="mon-sun"), **options)
    for stream in (closing, opening):
        stack.callback(stream.stop)
        stream.start()
    wait_live(closing)
    assert opening.state == "paused"
    wait_until(lambda: closing.state == "paused" and opening.state == "live", 5.0)
    assert datetime.now(timezone.utc) >= change
    assert len(sim.connections) == 1 and sim.accepted == 2


def test_it_says_when_the_market_opens(stack: Stack) -> None:
    hours = Hours(3600.0, opened=False)
    market = stack.enter_context(StreamManager())
    market.start("binance", ["BTC-USDT"], url="ws://127.0.0.1:9", schedule=hours)
    stream, = market._streams(None)
    opens = datetime.fromtimestamp(hours.moments[0] / 1e9, timezone.utc)
    why = f"outside trading hours until {opens:%Y-%m-%d %H:%M} UTC"
    wait_until(lambda: market.status()["streams"][0]["reason"] == why)
    with pytest.raises(NotReady, match=rf"book of BTC-USDT \(paused: {why}\)"):
        market.wait_ready(0)
    market.pause("binance")
    wait_until(lambda: stream.status()["reason"] == "")
    assert stream.state == "paused"
    market.resume("binance")
    wait_until(lambda: stream.status()["reason"] == why)


def test_pause_and_schedule_both_count(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    hours = Hours(0.3, opened=False)
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url, schedule=hours)
    stack.callback(stream.stop)
    stream.start()
    wait_until(lambda: stream.state == "paused")
    stream.resume()                                     # does not open the market
    assert sim.accepted == 0
    stream.pause()
    wait_until(lambda: time.time_ns() > hours.moments[0])
    assert stays_away(sim)                              # open, but the user says no
    stream.resume()
    wait_live(stream)
    begun = time.monotonic()
    stream.pause()
    assert stream.stop() and time.monotonic() - begun < 1.0


def test_closing_time_while_nothing_works(stack: Stack) -> None:
    """The market closes while the stream backs off, or hangs in a handshake: it stays away afterwards."""
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    sim.always(Fault.REJECT(status=503))
    for hours in 0.4, 2.0, 8.0:     # on a busy machine it may be closing time before anything has failed
        states: list[str] = []
        stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url, backoff=quick(),
                         schedule=Hours(hours))
        stream.on(r".*\.status\..*", lambda event: states.append(event.status), policy="inline")
        stack.callback(stream.stop)
        stream.start()
        wait_until(lambda: stream.state == "paused", 20)
        assert stays_away(sim)
        if "backoff" in states:
            break
    else:
        pytest.fail(f"it never backed off: {states}")
    hanging = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url, connect_timeout=1.0, backoff=quick(),
                      schedule=Hours(0.4))
    stack.callback(hanging.stop)
    sim.clear_faults()
    sim.always(Fault.NEVER_UPGRADE)
    hanging.start()
    wait_until(lambda: hanging.state == "paused")
    assert stays_away(sim)

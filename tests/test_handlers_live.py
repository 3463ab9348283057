"""Handlers of real streams: slow, wrong and meddling ones harm nobody but themselves."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from streams import Store, StreamManager
from streams.errors import ConfigurationError
from streams.events import BookUpdate, Gap, StatusChange, Ticker, Trade
from streams.exchanges import Alpaca, Binance
from streams.sim import BinanceSim, Fault
from streams.sim.alpaca import AlpacaSim
from streams.stream import Stream

from .live import ALPACA_KEYS, listed, quick, wait_listed, wait_subscribed
from .tools import exact, wait_live, wait_until

Stack = contextlib.ExitStack
BOTH = pytest.mark.parametrize("policy", ["inline", "drop_oldest"])


class Counting:
    """A handler that only counts, and notes what came."""

    def __init__(self) -> None:
        self.count = 0
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.count += 1


class Stuck:
    """A handler that takes as long as it likes over each event: until it is released."""

    def __init__(self) -> None:
        self.release, self.entered = threading.Event(), threading.Event()

    def __call__(self, event: Any) -> None:
        self.entered.set()
        self.release.wait(30)


@pytest.fixture
def stuck(stack: Stack) -> Iterator[Callable[[], Stuck]]:
    """Makes stuck handlers, released in the end at the latest."""
    made: list[Stuck] = []

    def make() -> Stuck:
        made.append(Stuck())
        return made[-1]
    yield make
    for handler in made:
        handler.release.set()


def entry(stream: Any, name: str) -> dict[str, Any]:
    return next(entry for entry in stream.handlers.status() if entry["name"] == name)


def binance(stack: Stack, symbols: Any = ("BTC-USDT", "ETH-USDT"), channels: Any = ("book", "trades"),
            rate: float = 0, **options: Any) -> tuple[BinanceSim, Stream]:
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=rate, history=2000, message_limit=None))
    stream = Binance(list(symbols), channels, **{
        "url": sim.url, "rest_url": sim.rest_url, "backoff": quick(), **options})
    stack.callback(lambda: stream.stop() or pytest.fail(f"{stream!r} did not stop"))
    return sim, stream


def same_books(stream: Stream, sim: BinanceSim) -> bool:
    for symbol, true in (("BTC-USDT", "BTCUSDT"), ("ETH-USDT", "ETHUSDT")):
        view = stream.store.orderbook("binance", symbol)
        book = sim.market.book(true)
        if view["status"] != "live" or (exact(view["bids"]), exact(view["asks"])) != (book.bids, book.asks):
            return False
    return True


# -- slow handlers ------------------------------------------------------------------------------------


def test_a_second_for_each_event_while_thousands_arrive(stack: Stack, stuck: Callable[[], Stuck]) -> None:
    sim, stream = binance(stack, channels=["book", "trades", "quotes"], rate=600)
    policies = {"drop_oldest": 100, "drop_newest": 100, "conflate": 100, "block": 100}
    slow = {}
    for policy, maxsize in policies.items():
        slow[policy] = stuck()
        stream.on(r"binance\.(book|trades|quotes)\..+", slow[policy], policy=policy, maxsize=maxsize,
                  name=policy, block_timeout=0.05)
    inline, queued = Counting(), Counting()
    stream.on(r"binance\.(book|trades|quotes)\..+", inline, policy="inline")
    stream.on(r"binance\.(book|trades|quotes)\..+", queued, name="good", maxsize=20_000)
    stream.start()
    wait_live(stream)
    wait_until(lambda: all(handler.entered.is_set() for handler in slow.values()))
    wait_until(lambda: inline.count > 2000)
    begun, count, blocks = time.monotonic(), inline.count, sys.getallocatedblocks()
    ages = []

    def much() -> bool:
        book = stream.store.orderbook("binance", "BTC-USDT", max_age=1.0)      # StaleData otherwise
        ages.append(book.age)
        for policy, maxsize in policies.items():
            assert entry(stream, policy)["queued"] <= maxsize + 1
        return inline.count > count + 4000
    wait_until(much, 30)
    rate = 4000 / (time.monotonic() - begun)
    assert rate > 1000, f"{rate:.0f} events a second: reception is held up"
    assert max(ages) < 0.5
    grown = sys.getallocatedblocks() - blocks
    assert grown < 20_000, f"{grown} blocks more for 4000 events"       # one event is some ten of them
    for handler in slow.values():
        handler.release.set()
    sim.stop()                                          # no event any more: the count can be balanced
    wait_until(lambda: stream.state == "backoff" and not any(
        e["queued"] or e["running"] for e in stream.handlers.status()))
    for policy in policies:
        numbers = entry(stream, policy)
        assert numbers["handled"] + numbers["dropped"] + numbers["conflated"] == inline.count, policy
        assert (numbers["conflated"] if policy == "conflate" else numbers["dropped"]) > 3000
    assert entry(stream, "good")["dropped"] == 0 and queued.count == inline.count
    assert stream.status()["gaps"] == stream.status()["malformed"] == 0


def test_a_stream_says_what_was_lost_of_its_exchange(stack: Stack, stuck: Callable[[], Stuck]) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=100))
    stocks = stack.enter_context(AlpacaSim(["AAPL"], rate=100))
    market, handler = stack.enter_context(StreamManager()), stuck()
    stack.callback(handler.release.set)
    market.on(r"binance\.trades\..+", handler, maxsize=1)
    market.start("alpaca", ["AAPL"], ["trades"], url=stocks.url, rest_url=stocks.rest_url, **ALPACA_KEYS)
    market.start("binance", ["BTC-USDT"], ["trades"], url=sim.url, rest_url=sim.rest_url)
    wait_until(lambda: market.status()["handlers"][0]["dropped"] > 10)
    lost = {stream["exchange"]: stream["dropped"] for stream in market.status()["streams"]}
    assert lost["alpaca"] == 0 and lost["binance"] > 10


def accounted(numbers: dict[str, Any]) -> int:
    """Events that a handler was offered, as far as its numbers tell."""
    return int(numbers["handled"] + bool(numbers["running"]) + numbers["dropped"] + numbers["queued"])


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "block"])
def test_drops_are_exact_while_it_is_stuck(policy: str, stack: Stack, stuck: Callable[[], Stuck]) -> None:
    sim, stream = binance(stack, ["BTC-USDT"], ["book"])
    offered, handler, told = Counting(), stuck(), []
    stream.on(r"binance\.book\.BTC-USDT", offered, policy="inline")
    stream.on(r"binance\.book\.BTC-USDT", handler, policy=policy, maxsize=10, name="laggard",
              block_timeout=0.01)
    stream.on(r"binance\.status\.\*", told.append, policy="inline")
    stream.start()
    wait_live(stream)
    begun = offered.count
    for total in (5, 300, 301, 900):
        sim.advance(begun + total - offered.count, "BTCUSDT")
        wait_until(lambda: offered.count >= begun + total, store=stream.store)
        # The last of them may not have been offered to the other handler yet.
        wait_until(lambda: accounted(entry(stream, "laggard")) == offered.count)
    numbers = entry(stream, "laggard")
    assert numbers["queued"] == 10 and numbers["dropped"] == stream.status()["dropped"] > 800
    drops = [e for e in told if e.subject == "handler"]
    assert drops and all("'laggard'" in e.reason and e.status == "dropping" for e in drops)
    wait_until(lambda: exact(stream.store.orderbook("binance", "BTC-USDT")["bids"])
               == sim.market.book("BTCUSDT").bids, store=stream.store)


def test_a_slow_inline_handler_is_named(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    sim, stream = binance(stack, ["BTC-USDT"], ["trades"])
    told: list[StatusChange] = []

    def dawdle(event: Any) -> None:
        threading.Event().wait(0.03)
    stream.on(r"binance\.trades\..+", dawdle, policy="inline")
    stream.on(r"binance\.status\..+", told.append, policy="inline")
    stream.start()
    wait_subscribed(stream)
    with caplog.at_level(logging.WARNING, "streams"):
        sim.advance(20)
        wait_until(lambda: any(e.subject == "handler" for e in told))
    slow = next(e for e in told if e.subject == "handler")
    assert slow.status == "slow" and "dawdle" in slow.reason and slow.exchange == "binance"
    assert "dawdle" in caplog.text and entry(stream, dawdle.__qualname__)["slowest"] >= 0.03


def test_exceptions_are_counted_and_the_handler_goes_on(
        stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    sim, stream = binance(stack, channels=["book", "trades"])
    raised, good = Counting(), Counting()

    def wrong(event: Any) -> None:
        raised.count += 1
        raise (SystemExit, ValueError, KeyboardInterrupt)[raised.count % 3]("mine")
    for policy in ("inline", "drop_newest", "conflate"):
        stream.on(r"binance\.trades\..+", wrong, policy=policy, name=f"wrong-{policy}")
    stream.on(r"binance\.trades\..+", good, policy="inline")
    stream.start()
    wait_live(stream)
    wait_subscribed(stream)
    for _ in range(3):
        before = good.count
        sim.advance(30)
        wait_until(lambda: good.count > before)
    wait_until(lambda: all(e["queued"] == 0 and not e["running"] for e in stream.handlers.status()))
    for policy in ("inline", "drop_newest", "conflate"):
        numbers = entry(stream, f"wrong-{policy}")
        assert numbers["errors"] == numbers["handled"] > 0
        assert f"'wrong-{policy}'" in caplog.text and "mine" in caplog.text
    wait_until(lambda: same_books(stream, sim))
    assert stream.status()["connects"] == 1 and stream.status()["malformed"] == 0


# -- meddling handlers --------------------------------------------------------------------------------


@BOTH
def test_a_handler_stops_its_own_stream(policy: str, stack: Stack) -> None:
    sim, stream = binance(stack, channels=["trades"], rate=100)
    results: list[Any] = []

    def end(event: Any) -> None:
        if not results:
            results.append(stream.stop())
    stream.on(r"binance\.trades\..+", end, policy=policy)
    stream.start()
    stream.join(5)
    assert not stream.is_alive() and stream.state == "stopped"
    wait_until(lambda: results)
    assert results == [policy != "inline"]
    results.append("no more")
    stream.start()                                      # and from elsewhere it starts again
    wait_subscribed(stream)
    handled = entry(stream, end.__qualname__)["handled"]
    wait_until(lambda: entry(stream, end.__qualname__)["handled"] > handled)


def test_an_inline_handler_can_not_wait_for_data(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=200.0))
    market = stack.enter_context(StreamManager())
    said: list[str] = []

    def hear(event: Any) -> None:
        for wait in (lambda: market.store.wait(market.store.last_update),
                     lambda: other.wait(other.last_update, 0)):
            try:
                wait()
            except ConfigurationError as error:
                said.append(str(error))

    other = Store()
    market.on(r"binance\.book\..+", hear, policy="inline")
    market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    wait_until(lambda: len(said) > 5)
    assert set(said) == {
        "store.wait() on a stream's own thread, which can not receive meanwhile: use submit(), or a"
        " handler with another policy than 'inline'"}
    market.wait_ready(10)
    market.stop()
    assert market.store.wait(market.store.last_update, 0.01)      # any other thread may


@BOTH
def test_a_handler_pauses_its_own_stream(policy: str, stack: Stack) -> None:
    sim, stream = binance(stack, channels=["trades"], rate=100)
    stream.on(r"binance\.trades\..+", lambda event: stream.pause(), policy=policy)
    stream.start()
    for _ in range(3):
        wait_until(lambda: stream.state == "paused" and not sim.connections)
        stream.resume()
    assert stream.stop()


@BOTH
def test_a_handler_stops_the_whole_manager(policy: str, stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=100))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url))
    done = threading.Event()

    def end(event: Any) -> None:
        market.stop()
        done.set()
    market.on(r"binance\.book\..+", end, policy=policy)
    market.start("binance", ["BTC-USDT"])
    market.start("binance", ["ETH-USDT"])
    assert done.wait(5)
    wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("streams-binance")])
    assert market.status()["streams"] == []


@BOTH
def test_off_in_every_situation(policy: str, stack: Stack, stuck: Callable[[], Stuck]) -> None:
    sim, stream = binance(stack, channels=["trades"], rate=200)
    once, others = Counting(), Counting()

    def first(event: Any) -> None:
        once.count += 1
        assert stream.off(first) is True
    held = stuck()
    stream.on(r"binance\.trades\..+", first, policy=policy)
    stream.on(r"binance\.trades\..+", held, name="held")
    stream.on(r"binance\.trades\..+", others, policy=policy)
    stream.start()
    wait_until(lambda: held.entered.is_set() and others.count > 20)
    assert once.count == 1
    assert stream.off(held) is True and stream.off(held) is False
    count = others.count
    wait_until(lambda: others.count > count + 20)
    held.release.set()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "streams-handler-held"])
    assert stream.off(others) is True
    assert stream.handlers.status() == []


def test_a_late_handler_hears_at_once(stack: Stack) -> None:
    sim, stream = binance(stack, channels=["trades"], rate=100)
    stream.start()
    wait_subscribed(stream)
    for _ in range(5):
        heard = Counting()
        stream.on(r"binance\.trades\.BTC-USDT", heard, policy="inline")
        wait_until(lambda: heard.count)
        stream.off(heard)
    assert sim.accepted == 1


def test_inline_handlers_of_status_may_do_anything(stack: Stack) -> None:
    """Announcements come from every thread and in every state; none may come under a lock."""
    sim, stream = binance(stack, ["BTC-USDT"], ["book"], rate=50)
    heard: list[str] = []
    extra = Counting()
    meddling = threading.Lock()

    def meddle(event: StatusChange) -> None:
        heard.append(f"{event.subject} {event.status}")
        if not meddling.acquire(blocking=False):
            return                                      # its own doings are announced, too
        try:
            stream.subscribe("ETH-USDT")
            stream.unsubscribe("ETH-USDT")
            stream.on(r"binance\.book\..+", extra, policy="inline")
            stream.off(extra)
            if event.status == "paused":
                stream.resume()
            stream.status()
            stream.waiting_for()
        finally:
            meddling.release()
    stream.on(r"binance\.status\..+", meddle, policy="inline")

    def all_of_it() -> None:
        stream.start()
        wait_live(stream)
        stream.pause()                                  # the meddler resumes
        wait_until(lambda: len(sim.connections) == 1 and sim.accepted > 1)
        wait_live(stream)
        sim.inject(Fault.RESET)
        wait_live(stream)
        assert stream.stop()
        stream.subscribe("ETH-USDT", ["book"])
        stream.unsubscribe("BTC-USDT", ["book"])        # nothing runs: the book leaves in this thread
        assert "BTC-USDT" not in stream.store.orderbooks["binance"]
        stream.start()
        wait_live(stream)
        assert stream.stop() and stream.stop()
    worker = threading.Thread(target=all_of_it, daemon=True)
    worker.start()
    worker.join(20)
    assert not worker.is_alive(), f"somebody waits for ever, after {heard[-5:]}"
    assert {"stream connecting", "stream live", "stream paused", "stream stopped", "book live", "book stale",
            "book closed"} <= set(heard)
    assert stream.state == "stopped" and entry(stream, meddle.__qualname__)["errors"] == 0


def test_a_handler_restarts_a_stream_that_has_ended(stack: Stack) -> None:
    sim, stream = binance(stack, ["BTC-USDT"], ["book"])
    failures: list[Exception] = []
    restarts = 0

    def restart(event: StatusChange) -> None:
        nonlocal restarts
        if event.subject == "stream" and event.status == "stopped" and restarts < 20:
            restarts += 1
            try:
                stream.start()
            except ConfigurationError as error:
                failures.append(error)

    def linger(event: StatusChange) -> None:
        if event.status == "stopped":                   # so the thread is there for a while yet
            threading.Event().wait(0.05)

    stream.on(r"binance\.status\.\*", restart, maxsize=100)
    stream.on(r"binance\.status\.\*", linger, policy="inline")
    stream.start()
    for count in range(1, 6):
        wait_live(stream)
        stream.ask_to_stop()
        wait_until(lambda: restarts == count or failures)
        assert failures == []
    wait_live(stream)
    stream.off(restart)


# -- what they hear -----------------------------------------------------------------------------------


def test_the_events_of_a_wildcard_are_told_apart(stack: Stack) -> None:
    sim = stack.enter_context(AlpacaSim(["AAPL", "NVDA", "NVAX"], rate=0))
    stream = Alpaca(["NV*"], ["trades"], url=sim.url, rest_url=sim.rest_url, **ALPACA_KEYS)
    stack.callback(stream.stop)
    heard: dict[str, list[Any]] = {"one": [], "all": [], "none": [], "star": []}
    stream.on(r"alpaca\.trades\.NVDA", heard["one"].append, policy="inline")
    stream.on(r"alpaca\.trades\..+", heard["all"].append, policy="inline")
    stream.on(r"alpaca\.trades\.AAPL", heard["none"].append, policy="inline")
    stream.on(r"alpaca\.quotes\..+", heard["star"].append, policy="inline")
    stream.start()
    wait_subscribed(stream)
    for symbol in ("NVDA", "AAPL", "NVAX", "NVDA"):
        sim.trade(symbol, "10", 1)
    wait_until(lambda: len(heard["all"]) == 3)
    assert [e.symbol for e in heard["all"]] == ["NVDA", "NVAX", "NVDA"]
    assert [e.symbol for e in heard["one"]] == ["NVDA", "NVDA"]
    assert heard["none"] == heard["star"] == []
    late: list[Any] = []
    stream.on(r"alpaca\.trades\.NVAX", late.append, policy="inline")
    stream.subscribe("AAPL")                            # a more exact one takes its symbol over
    wait_listed(sim, {"trades:*", "trades:AAPL"}, stream)
    for symbol in ("NVAX", "AAPL"):
        sim.trade(symbol, "10", 1)
    wait_until(lambda: late and heard["none"])
    assert len(late) == len(heard["none"]) == 1 and len(heard["all"]) == 5


def test_gaps_and_status_reach_handlers(stack: Stack) -> None:
    sim, stream = binance(stack, ["BTC-USDT"], ["book"])
    gaps: list[Gap] = []
    told: list[StatusChange] = []
    stream.on(r"binance\.gaps\.BTC-USDT", gaps.append)
    stream.on(r"binance\.status\..+", told.append)
    stream.start()
    wait_live(stream)
    sim.inject(Fault.SKIP)
    sim.advance(3)
    wait_until(lambda: gaps)
    assert isinstance(gaps[0], Gap) and gaps[0].got > gaps[0].expected and gaps[0].channel == "book"
    assert (gaps[0].exchange, gaps[0].symbol) == ("binance", "BTC-USDT")
    wait_live(stream)
    sim.pause_listening()
    sim.inject(Fault.DROP)
    wait_until(lambda: stream.state == "backoff")
    sim.resume_listening()
    wait_live(stream)
    wait_until(lambda: [e.status for e in told if e.subject == "book"][-1:] == ["live"])
    books = [e.status for e in told if e.subject == "book"]
    assert books[:3] == ["live", "syncing", "live"] and "stale" in books
    states = [e.status for e in told if e.subject == "stream"]
    assert states[:2] == ["connecting", "live"] and "backoff" in states and states[-1] == "live"
    chain = [(e.previous, e.status) for e in told if e.subject == "stream"]
    assert all(one[1] == other[0] for one, other in zip(chain, chain[1:]))
    assert all(type(e) is StatusChange and e.received > 0 for e in told)


def test_the_order_of_events_is_kept(stack: Stack) -> None:
    sim, stream = binance(stack, channels=["book", "trades", "ticker"], rate=300)
    seen: dict[str, list[Any]] = {"inline": [], "drop_oldest": [], "block": []}
    for policy, events in seen.items():
        stream.on(r"binance\.(book|trades|ticker)\..+", events.append, policy=policy, maxsize=100_000)
    stream.start()
    wait_live(stream)
    wait_until(lambda: len(seen["inline"]) > 1500, 30)
    sim.stop()
    wait_until(lambda: stream.state == "backoff" and not any(
        e["queued"] or e["running"] for e in stream.handlers.status()))
    assert seen["inline"] == seen["drop_oldest"] == seen["block"]
    for symbol in ("BTC-USDT", "ETH-USDT"):
        mine = [event for event in seen["inline"] if event.symbol == symbol]
        trades = [int(event.id) for event in mine if isinstance(event, Trade)]
        assert trades == list(range(trades[0], trades[0] + len(trades)))
        books = [event.sequence for event in mine if isinstance(event, BookUpdate)]
        assert books == sorted(set(books))
        assert any(isinstance(event, Ticker) for event in mine)
        received = [event.received for event in mine]
        assert received == sorted(received)


def test_what_a_handler_hears_is_in_the_store(stack: Stack) -> None:
    """And at that very moment: an inline handler sees the book as the update left it."""
    sim, stream = binance(stack, ["BTC-USDT"], ["book", "trades"], rate=300)
    wrong: list[Any] = []
    count = Counting()

    def check(event: Any) -> None:
        count.count += 1
        if isinstance(event, BookUpdate):
            if stream.store.orderbooks["binance"]["BTC-USDT"]["sequence"] != event.sequence:
                wrong.append(event)
        elif stream.store.trades["binance"]["BTC-USDT"][-1] != event:
            wrong.append(event)
    stream.on(r"binance\.(book|trades)\..+", check, policy="inline")
    stream.start()
    wait_live(stream)
    wait_until(lambda: count.count > 500)
    assert wrong == []


def test_a_manager_has_one_set_of_handlers(stack: Stack) -> None:
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=100))
    stocks = stack.enter_context(AlpacaSim(["AAPL"], rate=100))
    market = stack.enter_context(StreamManager())
    heard = Counting()
    names: set[str] = set()

    @market.on(r"(binance|alpaca)\.trades\..+")
    def note(event: Any) -> None:
        names.add(event.exchange)
        heard.count += 1
    for _ in range(2):                                  # and it lives on from one start to the next
        names.clear()
        market.start("binance", ["BTC-USDT"], ["trades"], url=sim.url, rest_url=sim.rest_url)
        market.start("alpaca", ["AAPL"], ["trades"], url=stocks.url, rest_url=stocks.rest_url, **ALPACA_KEYS)
        wait_until(lambda: names == {"binance", "alpaca"})
        market.stop()
        assert listed(sim) == set()
    assert market.status()["handlers"][0]["errors"] == 0

"""Races: many threads read, write, listen and rearrange at once; and without the GIL it stays off.

Every test is meaningful with the GIL as well: the switch interval is set so low that threads are
interrupted between almost any two steps. Without the GIL they run truly at once.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from streams import Store
from streams import feed as feeds
from streams.events import BookUpdate, Quote
from streams.feed import Feed
from streams.handlers import Handlers
from streams.metrics import NoMetrics
from streams.sequencing import BookKeeper
from streams.sim import BinanceSim
from streams.store import Writer
from streams.stream import Stream
from streams.venue import BookSnapshot, Route
from streams.venues.binance import BinanceVenue

from .live import quick
from .tools import Delta, Packed, wait_live, wait_until

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
SECONDS = 1.5

# What streams imports, and the optional packages of all its extras.
PACKAGES = ("streams", "streams.exchanges", "streams.cli", "streams.sim", "streams.transports.websocket",
            "streams.rest", "msgspec", "websocket", "requests", "redis", "prometheus_client", "rich",
            "defusedxml.ElementTree", "python_socks.sync.v2", "zstandard", "pandas", "exchange_calendars")


@pytest.fixture(autouse=True)
def often_interrupted() -> Iterator[None]:
    """With the GIL, threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Crowd:
    """Threads that repeat something until one of them has found something wrong, or the time is over."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.turns: dict[str, int] = {}

    def run(self, *works: Callable[[], object], beside: Sequence[Callable[[], object]] = ()) -> None:
        """Repeat ``works``; what they go on ``beside`` ends after them."""
        enough, over = threading.Event(), threading.Event()
        background = [threading.Thread(target=self._repeat, args=(work, over)) for work in beside]
        threads = [threading.Thread(target=self._repeat, args=(work, enough)) for work in works]
        for thread in (*background, *threads):
            thread.start()
        enough.wait(SECONDS)
        for stop, some in ((enough, threads), (over, background)):
            stop.set()
            for thread in some:
                thread.join()
        assert not self.wrong, self.wrong[:3]
        idle = [name for name, turns in self.turns.items() if not turns]
        assert not idle, f"never had a turn: {idle}"

    def _repeat(self, work: Callable[[], object], stop: threading.Event) -> None:
        turns = 0
        try:
            while not stop.is_set():
                work()
                turns += 1
        except BaseException as error:
            self.wrong.append(f"{work.__name__}: {error!r}")
            stop.set()
        finally:
            self.turns[work.__name__] = turns


class Writers:
    """Books of several feeds, each written by a thread of its own as a session does it.

    Whatever the state of a book, the sizes on both sides of it are its sequence number: a reader who sees
    two different ones has seen two moments.
    """

    def __init__(self, store: Store, count: int, handlers: Handlers | None = None) -> None:
        self.handlers = handlers or Handlers()
        self.feeds = [self._feed(store, n) for n in range(count)]
        self.keepers: list[BookKeeper] = [next(iter(feed.keepers.values())) for feed in self.feeds]
        self._numbers = [itertools.count(2) for _ in self.feeds]
        for feed, keeper in zip(self.feeds, self.keepers):
            with feed.writer.lock:
                feed.writer.clock.now = time.time_ns()
                keeper.snapshot(BookSnapshot(1, *self._levels(1)))
            feed.drain()

    def _feed(self, store: Store, number: int) -> Feed:
        venue = BinanceVenue()
        feed = Feed("binance", f"feed-{number}", venue, store, self.handlers, NoMetrics())
        store.join(feed.writer)
        feed.subscriptions.want(venue.route(f"C{number}-USDT", "book"))
        feed.reconcile()
        return feed

    @staticmethod
    def _levels(size: int) -> tuple[list[Any], list[Any]]:
        return ([(100.0 - n, float(size)) for n in range(8)], [(101.0 + n, float(size)) for n in range(8)])

    def write(self, at: int) -> None:
        """One batch of updates, then what follows it outside the lock."""
        feed = self.feeds[at]
        route: Route = next(iter(feed.sinks))
        feed.rewire()
        with feed.writer.lock:
            feed.writer.clock.now = time.time_ns()
            for number in itertools.islice(self._numbers[at], 3):
                delta = Packed if route.packed else Delta
                route.apply(delta(number, number, *self._levels(number)))
        feed.counters.messages += 3
        if feed.store.waiters:
            feed.store.notify()
        feed.drain()

    @property
    def works(self) -> list[Callable[[], object]]:
        """One for each feed, to be run by a thread of its own."""
        def work(at: int) -> Callable[[], object]:
            def write() -> None:
                self.write(at)
            write.__name__ = f"write {at}"
            return write
        return [work(at) for at in range(len(self.feeds))]


def of_one_moment(bids: Sequence[Any], asks: Sequence[Any], sequence: int | None = None) -> None:
    sizes = {size for _, size in (*bids, *asks)}
    if sequence is not None:
        sizes.add(float(sequence))
    assert len(sizes) == 1, f"torn: {sizes}"


@pytest.mark.parametrize("many", [feeds.MANY, 0], ids=["written", "unwritten"])
def test_reads_beside_writers_are_of_one_moment(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """``unwritten``: changes wait until somebody looks."""
    monkeypatch.setattr(feeds, "MANY", many)
    store = Store()
    writers = Writers(store, 3)
    books = [keeper.book for keeper in writers.keepers]
    seen: dict[str, float] = {}

    def touch() -> None:
        for book in books:
            bid, ask = book.touch
            assert bid is not None and ask is not None
            of_one_moment([bid], [ask])
            assert bid[1] >= seen.get(book.symbol, 0.0), "went back"
            seen[book.symbol] = float(bid[1])

    def depth() -> None:
        for book in books:
            for count in (3, 25):
                of_one_moment(*book.depth(count))

    def view() -> None:
        for book in books:
            whole = book.view()
            of_one_moment(whole["bids"], whole["asks"], whole["sequence"])

    def moment() -> None:
        with store.lock:
            stamp = store.last_update
            for book in books:
                of_one_moment(book["bids"], book["asks"], book["sequence"])
                assert book.touch[0] == book["bids"][0]
            assert store.last_update == stamp, "the store changed under its lock"

    Crowd().run(touch, depth, view, moment, beside=writers.works)


def test_stamps_rise_and_miss_nothing() -> None:
    store = Store()
    writers = Writers(store, 3)
    last: list[int] = [0]

    def stamps() -> None:
        before = [feed.writer.clock.stamp for feed in writers.feeds]
        stamp = store.last_update
        assert stamp is not None and stamp >= last[0], f"{last[0]}, then {stamp}"
        last[0] = stamp
        again = store.last_update
        after = [feed.writer.clock.stamp for feed in writers.feeds]
        assert again is not None
        if before == after:
            assert again == stamp, "another stamp, and nothing had changed"

    def waits() -> None:
        stamps = [feed.writer.clock.stamp for feed in writers.feeds]
        before = store.last_update
        after = store.wait(before, 5.0)
        assert after is not None and before is not None and after > before, f"{before}, then {after}"
        assert [feed.writer.clock.stamp for feed in writers.feeds] != stamps, "woken for nothing"

    Crowd().run(stamps, waits, beside=writers.works)


def test_a_waiter_is_woken_by_the_last_update() -> None:
    """One update at a time, and the next only when the last was seen: a lost wake-up would hang here."""
    store = Store()
    writers = Writers(store, 1)
    seen = threading.Semaphore(0)
    rounds, late = 3000, []

    def reader() -> None:
        stamp = store.last_update
        seen.release()
        for _ in range(rounds):
            new = store.wait(stamp, 10.0)
            if new == stamp:
                late.append(stamp)
            stamp = new
            seen.release()

    thread = threading.Thread(target=reader)
    thread.start()
    for _ in range(rounds):
        assert seen.acquire(timeout=20)
        writers.write(0)
    thread.join(20)
    assert not thread.is_alive() and not late


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest", "conflate", "block", "inline"])
def test_handlers_beside_writers_lose_nothing_uncounted(policy: str) -> None:
    store, handlers = Store(), Handlers()
    writers = Writers(store, 3, handlers)
    calls = itertools.count()
    newest: dict[str, float] = {}
    wrong: list[str] = []

    def handle(event: BookUpdate) -> None:
        next(calls)
        of_one_moment(event.bids, event.asks, event.sequence)
        size = float(event.bids[0][1])
        if size <= newest.get(event.symbol, 0.0):
            wrong.append(f"{event.symbol}: {newest[event.symbol]}, then {size}")
        newest[event.symbol] = size

    handlers.on(r"binance\.book\..*", handle, policy=policy, maxsize=50)
    begun = [feed.counters.messages for feed in writers.feeds]

    def status() -> None:
        (entry,) = handlers.status()
        assert entry["handled"] >= 0 and entry["errors"] == 0

    Crowd().run(status, beside=writers.works)
    assert handlers.close(10)
    (entry,) = handlers.status()
    written = sum(feed.counters.messages for feed in writers.feeds) - sum(begun)
    assert entry["handled"] + entry["dropped"] + entry["conflated"] == written
    assert entry["handled"] == next(calls) and entry["errors"] == 0 and not wrong


def test_writers_come_and_go_and_no_stamp_is_missed() -> None:
    store = Store()
    writers = [Writer() for _ in range(3)]
    last = [0]

    def work(writer: Writer) -> Callable[[], object]:
        def come_and_go() -> None:
            store.join(writer)
            for _ in range(3):
                before = store.last_update
                with writer.lock:
                    writer.clock.now = time.time_ns()
                    writer.clock.tick()
                assert store.last_update != before, "missed"
            store.leave(writer)
        come_and_go.__name__ = f"come and go {writers.index(writer)}"
        return come_and_go

    def stamps() -> None:
        stamp = store.last_update or 0
        assert stamp >= last[0], f"{last[0]}, then {stamp}"
        last[0] = stamp

    def moment() -> None:
        with store.lock:
            stamp = store.last_update
            assert store.last_update == stamp, "the store changed under its lock"

    Crowd().run(stamps, moment, *map(work, writers))
    stamp = store.last_update
    for writer in writers:
        store.leave(writer)
    assert store.last_update == stamp


def test_handlers_come_and_go_beside_writers() -> None:
    store, handlers = Store(), Handlers()
    writers = Writers(store, 2, handlers)

    def come_and_go() -> None:
        got = threading.Event()

        def handle(event: Any) -> None:
            got.set()

        handlers.on(r"binance\..*", handle, policy="inline")
        assert got.wait(20), "registered, and never called"
        assert handlers.off(handle)

    def queued() -> None:
        got = threading.Event()

        def handle(event: Any) -> None:
            got.set()

        handlers.on(r"binance\.book\.C1.*", handle)
        assert got.wait(20), "registered, and never called"
        assert handlers.off(handle)

    Crowd().run(come_and_go, queued, beside=writers.works)
    assert not handlers.status()
    assert handlers.close(10)


def test_tables_and_histories_beside_writers() -> None:
    store = Store()
    venue = BinanceVenue()
    feed = Feed("binance", "feed", venue, store, Handlers(), NoMetrics())
    store.join(feed.writer)
    names = [f"C{n}-USDT" for n in range(40)]
    numbers = itertools.count(1)

    def write() -> None:
        feed.subscriptions.want(venue.route(names[next(numbers) % 40], "quotes"))
        feed.reconcile()
        with feed.writer.lock:
            feed.writer.clock.now = time.time_ns()
            for route in feed.sinks:
                number = float(next(numbers))
                route.apply(Quote(exchange="binance", symbol=route.symbol, bid=number, bid_size=number,
                                  ask=number, ask_size=number))

    def read() -> None:
        for exchange, quotes in store.quotes.items():
            for symbol, quote in quotes.items():
                assert quotes[symbol].bid >= quote.bid == quote.ask_size and symbol in quotes

    Crowd().run(read, beside=[write])


def test_a_live_stream_is_rearranged_and_read_by_many(
        serve: Callable[..., Any], connect: Callable[..., Stream]) -> None:
    sim = serve(BinanceSim, ["BTCUSDT", "ETHUSDT", "LTCUSDT"], rate=300.0, levels=50)
    stream = connect(sim, ["BTC-USDT", "ETH-USDT"], ["book", "trades"], backoff=quick())
    wait_live(stream)
    store = stream.store
    heard = itertools.count()
    stream.on(r"binance\..*", lambda event: next(heard), policy="conflate")

    def subscribe() -> None:
        stream.subscribe("LTC-USDT", ["book"])
        stream.unsubscribe("LTC-USDT", ["book"])

    def listen() -> None:
        def handle(event: Any) -> None:
            pass
        stream.on(r"binance\.trades\..*", handle, policy="inline")
        assert stream.off(handle)

    def read() -> None:
        for symbol, book in store.orderbooks["binance"].items():
            view = book.view()
            if view["status"] == "live":
                assert view["bids"][0][0] < view["asks"][0][0], f"{symbol} is crossed"
            for trades in store.trades["binance"].values():
                numbers = [int(trade.id) for trade in trades]
                assert numbers == sorted(numbers), "trades out of order"

    def ask() -> None:
        status = stream.status()
        assert status["running"] and status["gaps"] == 0

    def wait() -> None:
        store.wait(store.last_update, 0.2)

    wait_until(lambda: len(store.trades["binance"].values()) == 2)
    Crowd().run(subscribe, listen, read, ask, wait)
    wait_live(stream)
    wait_until(lambda: "LTC-USDT" not in store.orderbooks["binance"])
    assert next(heard) > 0 and stream.status()["malformed"] == 0


# -- the GIL ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FREE_THREADED, reason="this interpreter always has the GIL")
@pytest.mark.parametrize("package", PACKAGES)
def test_importing_leaves_the_gil_off(package: str) -> None:
    code = (f"import sys\ntry:\n    import {package}\nexcept ModuleNotFoundError as error:\n"
            "    print('missing', error)\nprint(sys._is_gil_enabled())")
    done = subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", code], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    if "missing" in done.stdout:
        pytest.skip(done.stdout.splitlines()[0])
    assert done.stdout.split()[-1] == "False", f"{package} has switched the GIL on"


@pytest.mark.skipif(not FREE_THREADED, reason="this interpreter always has the GIL")
def test_the_gil_is_still_off() -> None:
    """After whatever tests came before this one."""
    assert not sys._is_gil_enabled()  # type: ignore[attr-defined]

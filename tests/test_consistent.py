"""Readers hammer the store while four streams write: nothing is torn, unsorted, crossed, or goes back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from streams import StreamManager, feed
from streams.backoff import Backoff
from streams.errors import ConfigurationError
from streams.exchanges import Binance
from streams.sim import BinanceFuturesSim, BinanceSim, HuobiSim
from streams.store import Store
from streams.stream import Stream

from .tools import wait_live, wait_until

SECONDS = 2.5


class Readers:
    """Threads that read in every way there is, and note what is not as it should be."""

    def __init__(self, store: Store, sims: dict[tuple[str, str], tuple[Any, str]]) -> None:
        self.store = store
        self.sims = sims
        self.wrong: list[str] = []
        self.reads = 0
        self._stop = threading.Event()

    def run(self) -> None:
        threads = [threading.Thread(target=self._guarded, args=(read,)) for read in (
            self.views, self.views, self.depths, self.moments, self.stamps, self.oracle)]
        for thread in threads:
            thread.start()
        self._stop.wait(SECONDS)
        self._stop.set()
        for thread in threads:
            thread.join()
        assert not self.wrong, self.wrong[:3]

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set() and not self.wrong:
                read()
                self.reads += 1
        except Exception as error:
            self.wrong.append(f"{read.__name__}: {error!r}")

    def books(self) -> list[Any]:
        return [book for books in self.store.orderbooks.values() for book in books.values()]

    def well_formed(self, what: str, bids: Any, asks: Any) -> None:
        prices = [price for price, _ in bids], [price for price, _ in asks]
        if prices[0] != sorted(set(prices[0]), reverse=True) or prices[1] != sorted(set(prices[1])):
            self.wrong.append(f"{what}: unsorted")
        elif not prices[0] or not prices[1] or prices[0][0] >= prices[1][0]:
            self.wrong.append(f"{what}: crossed: {bids[:1]} {asks[:1]}")
        elif any(size <= 0 for side in (bids, asks) for _, size in side):
            self.wrong.append(f"{what}: a level of nothing")

    def views(self) -> None:
        for book in self.books():
            first = book.view()
            self.well_formed(f"view {book}", first["bids"], first["asks"])
            second = book.view()
            if second["last_update"] < first["last_update"] or second["sequence"] < first["sequence"]:
                self.wrong.append(f"{book}: went back")
            if second["last_update"] == first["last_update"] and dict(second) != dict(first):
                self.wrong.append(f"{book}: one stamp, two books")

    def depths(self) -> None:
        for book in self.books():
            for count in (1, 5, 20):
                self.well_formed(f"depth {book}", *book.depth(count))
            bid, ask = book.touch
            if bid[0] >= ask[0] or book.spread <= 0:
                self.wrong.append(f"{book}: crossed")

    def moments(self) -> None:
        with self.store.lock:
            stamp = self.store.last_update
            books = self.books()
            first = [(book["bids"], book["asks"], book["sequence"], book["last_update"]) for book in books]
            for book, (bids, asks, sequence, updated) in zip(books, first):
                view = book.view()
                if (bids, asks, sequence) != (view["bids"], view["asks"], view["sequence"]):
                    self.wrong.append(f"{book}: changed under the lock")
                if (book.best_bid, book.best_ask) != (bids[0], asks[0]):
                    self.wrong.append(f"{book}: another best under the lock")
                if stamp is None or updated > stamp:
                    self.wrong.append(f"{book}: newer than the store")
            if stamp != self.store.last_update:
                self.wrong.append("the stamp changed under the lock")

    def stamps(self) -> None:
        before = self.store.last_update
        after = self.store.wait(before, 0.05)
        if before is not None and (after is None or after < before):
            self.wrong.append(f"stamps: {before} and then {after}")

    def oracle(self) -> None:
        """Both sides of the moment that the sequence number names."""
        for (exchange, symbol), (sim, native) in self.sims.items():
            view = self.store.orderbook(exchange, symbol)
            truth = sim.market.book(native, view["sequence"])
            for side, true in (("bids", truth.bids), ("asks", truth.asks)):
                if view[side][:25] != [(float(price), float(size)) for price, size in true[:25]]:
                    self.wrong.append(f"{exchange} {symbol}: {side} are not those of {view['sequence']}")


@pytest.mark.parametrize("many", [feed.MANY, 0], ids=["written", "unwritten"])
def test_readers_beside_four_writers(many: int, serve: Callable[..., Any], connect: Callable[..., Stream],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """``unwritten``: as if these few books were many, so that changes wait until somebody looks."""
    monkeypatch.setattr(feed, "MANY", many)
    store = Store()
    options: dict[str, Any] = {"rate": 400.0, "levels": 150}
    spot = serve(BinanceSim, ["BTCUSDT"], **options)
    futures = serve(BinanceFuturesSim, ["BTCUSDT"], **options)
    huobi = serve(HuobiSim, ["BTCUSDT", "ETHUSDT"], **options)
    streams = [connect(spot, "BTC-USDT", store=store), connect(futures, "BTC-USDT", store=store),
               connect(huobi, "BTC-USDT", store=store),
               connect(huobi, "ETH-USDT", store=store, book_mode="incremental")]
    wait_live(*streams)
    readers = Readers(store, {
        ("binance", "BTC-USDT"): (spot, "BTCUSDT"), ("binance-futures", "BTC-USDT"): (futures, "BTCUSDT"),
        ("huobi", "BTC-USDT"): (huobi, "BTCUSDT"), ("huobi", "ETH-USDT"): (huobi, "ETHUSDT")})
    before = sum(stream.feed.counters.messages for stream in streams)
    readers.run()
    assert sum(stream.feed.counters.messages for stream in streams) - before > 200
    assert readers.reads > 50
    assert all(stream.status()["gaps"] == stream.status()["errors"] == 0 for stream in streams)


# -- calls while store.lock is held ---------------------------------------------------------------------

NOWHERE = {"url": "ws://127.0.0.1:9", "rest_url": "http://127.0.0.1:9"}


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("state", ["new", "paused", "backoff", "stopped"])
def test_a_stream_is_rearranged_by_who_holds_the_lock(state: str, stack: Any) -> None:
    """Beside its own thread, which waits for the lock to act on the first of the calls."""
    stream = Binance(["BTC-USDT"], **NOWHERE, backoff=Backoff(base=60.0, rand=lambda: 1.0))
    stack.callback(stream.stop)
    if state == "paused":
        stream.pause()
    if state != "new":
        stream.start()
        wait_until(lambda: stream.state in (state, "backoff"))
    if state == "stopped":
        assert stream.stop()

    def work() -> None:
        with stream.store.lock:
            for n in range(50):
                stream.subscribe(f"C{n}-USDT")
                pause.wait(0.001)               # in which its thread may do what it can do
            stream.unsubscribe("BTC-USDT")
            stream.on(r"x\.y\.z", print)
            stream.status()

    pause = threading.Event()
    thread = in_thread(work)
    thread.join(10)
    assert not thread.is_alive(), "somebody waits for ever"
    wait_until(lambda: len(stream.feed.sinks) == 50)


CALLS: dict[str, Callable[[StreamManager], object]] = {
    "status": lambda market: market.status(),
    "subscribe": lambda market: market.subscribe("binance", ["ETH-USDT"]),
    "unsubscribe": lambda market: market.unsubscribe("binance", ["BTC-USDT"]),
    "pause": lambda market: market.pause("binance"),
    "on": lambda market: market.on(r"x\.y\.z", print),
    "rest": lambda market: market.rest("binance").close(),
    "start": lambda market: market.start("kraken", ["BTC-USD"], **NOWHERE),
    "stop": lambda market: market.stop("binance"),
}


@pytest.mark.parametrize("others", ["start", "add", "subscribe"])
@pytest.mark.parametrize("call", CALLS)
def test_a_manager_is_called_by_who_holds_the_lock(call: str, others: str, stack: Any) -> None:
    """Beside another thread that is in the middle of a call, and in want of the lock perhaps."""
    market = stack.enter_context(StreamManager())
    market.start("binance", ["BTC-USDT"], **NOWHERE)
    if others == "subscribe":                   # of a stream that has ended: the caller acts on it himself
        assert all(stream.stop() for stream in market._streams(None))

    def beside() -> None:
        with contextlib.suppress(ConfigurationError):       # stopped just now
            rearrange()

    def rearrange() -> None:
        if others == "start":
            market.start("huobi", ["BTC-USDT"], **NOWHERE)
        elif others == "add":
            market.start("binance", ["LTC-USDT"], ["trades"])
        else:
            market.subscribe("binance", ["LTC-USDT"])

    def work() -> None:
        with market.store.lock:
            inside.set()
            busy.wait(0.2)                      # in which the other does what it can do
            with contextlib.suppress(ConfigurationError):       # where all has ended
                CALLS[call](market)

    inside, busy = threading.Event(), threading.Event()
    threads = [in_thread(work)]
    assert inside.wait(5)
    threads.append(in_thread(beside))
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"


def test_what_is_started_while_the_lock_is_held_writes_afterwards(serve: Callable[..., Any],
                                                                  stack: Any) -> None:
    sim = serve(BinanceSim, ["BTCUSDT"], rate=500.0)
    market = stack.enter_context(StreamManager())
    started = threading.Event()
    with market.store.lock:
        in_thread(lambda: (market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url),
                           started.set()))
        assert started.wait(5)
        stamp = market.store.last_update
        assert not sim.wait_connections(1, 0.3), "it does not even connect"
        assert not market.store.orderbooks and market.store.last_update == stamp
    market.wait_ready(10)
    with market.store.lock:                     # and is in it
        view = market.store.orderbooks["binance"]["BTC-USDT"].view()
        stamp = market.store.last_update
        threading.Event().wait(0.05)
        assert market.store.orderbooks["binance"]["BTC-USDT"].view() == view
        assert market.store.last_update == stamp


def test_starts_and_stops_leave_nothing_in_the_lock(stack: Any) -> None:
    market = stack.enter_context(StreamManager())
    for _ in range(5):
        market.start("binance", ["BTC-USDT"], **NOWHERE)
        market.stop("binance")
    assert market.store._stamps.sources.writers == ()

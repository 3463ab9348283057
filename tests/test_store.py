"""The shared dicts: stamps, waiting, the lock over everything, freshness."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from streams import store as store_module
from streams.book import OrderBook
from streams.errors import ConfigurationError, NoData, StaleData
from streams.events import Bar, Quote, Ticker, Trade, TradeCorrection
from streams.sequencing import BookKeeper, Clock
from streams.sinks import sink_for
from streams.store import KEPT_TRADES, Store
from streams.tables import History, Table
from streams.venue import BookSnapshot, Route

from .tools import wait_until


def route(channel: str, symbol: str = "X-Y") -> Route:
    return Route(symbol, channel, symbol, (f"{symbol}.{channel}",))


def trade(price: float, symbol: str = "X-Y", **more: Any) -> Trade:
    return Trade(exchange="e", symbol=symbol, price=price, size=1.0, received=time.time_ns(), **more)


def quote(bid: float) -> Quote:
    return Quote(exchange="e", symbol="X-Y", bid=bid, bid_size=1.0, ask=bid + 1, ask_size=1.0)


# -- stamps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [[5, 5, 5], [5, 4, 3], [1, 100, 2], [7, 7, 9, 9]])
def test_a_stamp_rises_whatever_the_clock_does(times: list[int]) -> None:
    clock = Clock()
    seen = [0]
    for now in times:
        clock.now = now
        seen.append(clock.tick())
    assert seen == sorted(set(seen))


def test_a_stamp_is_the_time_where_that_rises() -> None:
    clock = Clock()
    clock.now = 1_700_000_000_000_000_000
    assert clock.tick() == 1_700_000_000_000_000_000


def test_last_update_is_none_before_the_first_and_rises_with_every_update() -> None:
    store = Store()
    assert store.last_update is None
    writers = [store.writer() for _ in range(3)]
    assert store.last_update is None
    seen = [0]
    for n in range(300):
        writer = writers[n * 7 % 3]
        writer.clock.now = 1000 - n         # a clock that goes back
        writer.clock.tick()
        stamp = store.last_update
        assert stamp == store.last_update   # reading changes nothing
        assert stamp is not None
        seen.append(stamp)
    assert seen == sorted(set(seen))


def test_a_new_writer_changes_no_stamp() -> None:
    store = Store()
    writer = store.writer()
    writer.clock.now = time.time_ns()
    writer.clock.tick()
    stamp = store.last_update
    store.writer()
    assert store.last_update == stamp


def test_a_stamp_counts_after_its_writer_has_left() -> None:
    store = Store()
    assert store.last_update is None
    writers = [store.writer() for _ in range(3)]
    for n, writer in enumerate(writers):
        writer.clock.now = 1000 - n
        writer.clock.tick()
    store.leave(writers[0])                 # nobody has looked since it wrote
    stamp = store.last_update
    assert stamp == 1000
    for writer in (*writers, *writers):     # twice is once
        store.leave(writer)
        assert store.last_update == stamp
    for writer in (*writers, *writers):
        store.join(writer)
        assert store.last_update == stamp
        writer.clock.tick()
        before, stamp = stamp, store.last_update
        assert stamp is not None and stamp > before


def test_ctrl_c_in_a_look_at_the_stamp_hides_no_update(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    writer = store.writer()
    writer.clock.tick()
    seen = store.last_update
    writer.clock.tick()

    def interrupted(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("streams.store.max", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        store.last_update
    assert store.last_update != seen


def test_last_update_never_misses_one_while_many_write() -> None:
    store = Store()
    writers = [store.writer() for _ in range(4)]
    go = threading.Barrier(5)
    count = 3000

    def write(writer: Any) -> None:
        go.wait()
        for _ in range(count):
            with writer.lock:
                writer.clock.now = time.time_ns()
                writer.clock.tick()

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    go.wait()
    last = 0
    while any(thread.is_alive() for thread in threads):
        stamp = store.last_update or 0
        assert stamp >= last
        last = stamp
    for thread in threads:
        thread.join()
    assert (store.last_update or 0) >= last


# -- waiting ------------------------------------------------------------------------------------------


def test_wait_returns_at_once_when_there_is_news() -> None:
    store = Store()
    writer = store.writer()
    writer.clock.now = 5
    writer.clock.tick()
    assert store.wait(None, 0) == 5
    assert store.wait(4, 0) == 5
    assert store.wait(None) == 5


def test_wait_returns_what_it_was_given_when_the_time_runs_out() -> None:
    store = Store()
    assert store.wait(None, 0) is None
    begun = time.monotonic()
    assert store.wait(None, 0.05) is None
    assert time.monotonic() - begun >= 0.045
    writer = store.writer()
    writer.clock.now = 5
    writer.clock.tick()
    assert store.wait(5, 0.01) == 5
    assert not store.waiters


def test_no_wake_up_is_lost() -> None:
    """A writer and a waiter in lock-step: whoever misses the other once hangs until the time-out."""
    store = Store()
    writer = store.writer()
    rounds = 2000
    taken = threading.Semaphore(0)

    def write() -> None:
        for n in range(rounds):
            with writer.lock:
                writer.clock.now = n + 1
                writer.clock.tick()
            if store.waiters:
                store.notify()
            assert taken.acquire(timeout=20)

    thread = threading.Thread(target=write)
    thread.start()
    seen = None
    for n in range(rounds):
        stamp = store.wait(seen, 10.0)
        assert stamp != seen, f"lost in round {n}"
        seen = stamp
        taken.release()
    thread.join()
    assert not store.waiters


def test_many_wait_and_all_are_woken() -> None:
    store = Store()
    writer = store.writer()
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(store.wait(None, 10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(store.waiters) == 8)
    with writer.lock:
        writer.clock.now = 3
        writer.clock.tick()
    store.notify()
    for thread in threads:
        thread.join()
    assert got == [3] * 8
    assert not store.waiters


# -- the lock over everything ---------------------------------------------------------------------------


def test_the_lock_keeps_all_writers_out_and_is_reentrant() -> None:
    store = Store()
    writers = [store.writer() for _ in range(3)]
    with store.lock:
        assert not any(free(writer.lock) for writer in writers)
        with store.lock:
            pass
        assert not any(free(writer.lock) for writer in writers)
    assert all(free(writer.lock) for writer in writers)
    with pytest.raises(RuntimeError), store.lock:
        raise RuntimeError
    assert all(free(writer.lock) for writer in writers)


def test_a_writer_that_comes_while_the_lock_is_held_is_not_in_it() -> None:
    store = Store()
    first = store.writer()
    made = threading.Event()
    with store.lock:
        thread = threading.Thread(target=lambda: (store.writer(), made.set()))
        thread.start()
        assert not made.wait(0.05)      # nothing begins to write while somebody reads everything
    assert made.wait(5)
    thread.join()
    with store.lock:
        assert first.lock.acquire(blocking=False)
        first.lock.release()


def test_a_writer_that_has_left_is_not_in_it() -> None:
    store = Store()
    staying, leaving = store.writer(), store.writer()
    store.leave(leaving)
    with store.lock:
        assert free(leaving.lock) and not free(staying.lock)
    assert free(staying.lock)


def test_threads_that_fork_at_once_leave_nothing_locked() -> None:
    """What happens around a fork, without the fork itself. One of them holds the lock of a store that the
    others want after another."""
    stores = [Store() for _ in range(4)]
    writers = [store.writer() for store in stores]
    wrong: list[BaseException] = []

    def fork(held: Any) -> None:
        try:
            for _ in range(300):
                with held:
                    store_module._freeze()
                    assert all(store.lock.mine for store in stores)
                    store_module._thaw()
        except BaseException as error:
            wrong.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=fork, args=(held,), daemon=True)
               for held in (contextlib.nullcontext(), contextlib.nullcontext(), stores[2].lock)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    finally:
        sys.setswitchinterval(interval)
    assert not wrong, wrong
    assert not any(thread.is_alive() for thread in threads)
    assert all(free(store.lock.gate) and free(writer.lock) for store, writer in zip(stores, writers))


def free(lock: Any) -> bool:
    """Whether another thread can take it."""
    got: list[bool] = []

    def take() -> None:
        got.append(lock.acquire(timeout=0.01))
        if got[0]:
            lock.release()
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return got[0]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals here")
@pytest.mark.parametrize("busy", [0, 1, 2, 3])
def test_ctrl_c_while_waiting_for_the_lock_leaves_nothing_locked(busy: int) -> None:
    """``busy``: which writer is in the middle of something; 3: another reader has it all."""
    store = Store()
    writers = [store.writer() for _ in range(3)]
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store.lock if busy == 3 else writers[busy].lock:
            held.set()
            release.wait(20)

    def interrupt(*_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            # Again and again: CPython may begin to wait just when the signal has come, and not hear of it.
            signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
            with store.lock:
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    release.set()
    thread.join()
    assert all(free(writer.lock) for writer in writers) and free(store.lock.gate)
    for _ in range(2):
        with store.lock, store.lock:
            assert not any(free(writer.lock) for writer in writers)
        assert all(free(writer.lock) for writer in writers)


@contextlib.contextmanager
def struck(handler: Callable[..., Any]) -> Iterator[Callable[[], None]]:
    """What sets a timer, for a moment that nobody knows, and calls ``handler`` there."""
    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield lambda: signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 5e-4))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Busy:
    """A store that is written to all the time, and ways to read it; a context manager."""

    def __init__(self) -> None:
        self.store = Store()
        self._writer = self.store.writer()
        self._book = OrderBook("x", "y", self._writer.lock)
        self._trades: History[int] = History(self._writer.lock, 10)
        self._others = ThreadPoolExecutor(2)
        self._ended = threading.Event()

    def _write(self) -> None:
        while not self._ended.wait(1e-5):           # leaving the lock to others, too
            with self._writer.lock:
                self._writer.clock.now += 1
                self._book.stamp = self._writer.clock.tick()
                self._trades.append(self._book.stamp)
            if self.store.waiters:
                self.store.notify()

    def read(self, how: str) -> None:
        if how == "wait":
            self.store.wait(self.store.last_update, 1)
        elif how == "lock":
            with self.store.lock:
                pass
        elif how == "trades":
            self._trades[-1:]
        elif how == "view":
            self._book.view()
        else:
            self._book.touch, self._book.depth(5), self.store.last_update

    def goes_on(self) -> bool:
        """Whether others write, and are woken."""
        seen = self.store.last_update
        return self._others.submit(self.store.wait, seen, 20).result(30) != seen

    def __enter__(self) -> Busy:
        self._others.submit(self._write)
        wait_until(lambda: self.store.last_update)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.store.lock.let_go()
        self._others.shutdown()


READS = ["wait", "lock", "trades", "view", "best and depth and stamp"]
timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals here")


@timers
@pytest.mark.parametrize("how", READS)
def test_ctrl_c_at_any_moment_of_a_read_stops_nobody_else(how: str) -> None:
    """It comes out as what it is, and others write, wait and are woken as before; where ``store.lock`` was
    taken, after the :meth:`let_go` that a stop begins with."""
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with Busy() as busy, struck(interrupt) as strike:
        for _ in range(50):
            with pytest.raises(KeyboardInterrupt):
                strike()
                while True:
                    busy.read(how)
            if how in ("wait", "lock"):
                busy.store.lock.let_go()
            assert busy.goes_on()
        assert not busy.store.waiters


@timers
@pytest.mark.parametrize("how", READS)
def test_a_signal_handler_that_stops_the_streams_does_not_disturb_a_read(how: str) -> None:
    """What is read is right, whether its lock can be let go of or not; and none stays held."""
    called = []
    with Busy() as busy, struck(lambda *_: called.append(busy.store.lock.let_go())) as strike:
        for count in range(1, 51):
            strike()
            while len(called) < count:
                busy.read(how)
        assert busy.goes_on()


def test_waiting_under_the_lock_is_refused() -> None:
    store = Store()
    store.writer()
    with store.lock:
        with pytest.raises(ConfigurationError, match=r"store.wait\(\) while holding store.lock: nothing can"):
            store.wait(None, 1)
        assert store.wait(None, 0) is None
    assert store.wait(None, 0.01) is None


def test_nothing_changes_while_the_lock_is_held() -> None:
    store = Store()
    sinks = []
    for name in ("a", "b", "c", "d"):
        writer = store.writer()
        sinks.append((writer, sink_for(store, writer, name, route("quotes"))))
    stop = threading.Event()

    def write(writer: Any, sink: Any) -> None:
        n = 0.0
        while not stop.wait(1e-6):          # without a pause, free-threaded, the reader hardly gets in
            n += 1
            with writer.lock:
                writer.clock.now = time.time_ns()
                sink.apply(quote(n))

    interval = sys.getswitchinterval()
    threads = [threading.Thread(target=write, args=pair) for pair in sinks]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(store.quotes) == 4 and all(store.quotes[x] for x in "abcd"))
        sys.setswitchinterval(1e-5)         # the writers change places often, and let the reader in
        for _ in range(300):
            with store.lock:
                stamp = store.last_update
                first = [store.quotes[name]["X-Y"] for name in "abcd"]
                again = [store.quotes[name]["X-Y"] for name in "abcd"]
                assert store.last_update == stamp
            assert all(one is other for one, other in zip(first, again))
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in threads:
            thread.join()


# -- tables and histories -----------------------------------------------------------------------------


def test_a_table_may_be_iterated_while_it_grows() -> None:
    table: Table[str, int] = Table()
    stop = threading.Event()

    def grow() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            table[f"k{n % 5000}"] = n
            if not n % 7:
                table.pop(f"k{n % 4999}", None)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            for _ in table:
                pass
            for _, _ in table.items():
                pass
            for _ in table.values():
                pass
            list(table.keys())
            sorted(table)
    finally:
        stop.set()
        thread.join()


def test_a_table_may_be_copied_while_it_shrinks() -> None:
    table: Table[int, int] = Table((n, n) for n in range(500))
    stop = threading.Event()

    def shrink_and_grow() -> None:
        while not stop.is_set():
            for n in range(500):
                del table[n]
            table.update((n, n) for n in range(500))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=shrink_and_grow)
    thread.start()
    try:
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            copy = table.copy()
            assert copy == {n: n for n in copy}
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        thread.join()
    assert type(table.copy()) is dict and table.copy() == table


def test_history() -> None:
    history: History[int] = History(threading.RLock(), 3)
    for n in range(5):
        history.append(n)
    assert list(history) == [2, 3, 4] and list(reversed(history)) == [4, 3, 2]
    assert history[-1] == 4 and history[0] == 2 and history[1:] == [3, 4]
    assert len(history) == history.maxlen == 3
    assert 3 in history and 0 not in history
    with pytest.raises(IndexError):
        history[3]


def test_a_stream_that_takes_over_a_store_goes_on_with_the_history_under_its_own_lock() -> None:
    store = Store()
    first, second = store.writer(), store.writer()
    one = sink_for(store, first, "e", route("trades"))
    for n in range(1, 4):
        one.apply(trade(float(n)))
    two = sink_for(store, second, "e", route("trades"))
    two.apply(trade(4.0))
    history = store.trades["e"]["X-Y"]
    assert [t.price for t in history] == [1.0, 2.0, 3.0, 4.0]
    assert history.lock is second.lock
    two.apply(trade(5.0))
    assert store.trades["e"]["X-Y"] is history and history.maxlen == KEPT_TRADES


# -- what sinks keep ----------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["trades", "bars:1m"])
def test_who_takes_over_a_history_waits_for_nobody(channel: str) -> None:
    """Two streams, each in the middle of a batch, write what the other has written before. Neither may wait
    for the other: it holds its own lock."""
    store = Store()
    writers = [store.writer(), store.writer()]
    both, written = threading.Barrier(2), []

    def event(symbol: str) -> Any:
        if channel == "trades":
            return trade(1.0, symbol)
        return Bar(exchange="ex", symbol=symbol, timestamp=None, received=0, interval="1m", start=1, open=1.0,
                   high=1.0, low=1.0, close=1.0)

    def write(writer: Any, first: str, second: str) -> None:
        sinks = {symbol: sink_for(store, writer, "ex", route(channel, symbol)) for symbol in (first, second)}
        with writer.lock:
            sinks[first].apply(event(first))
            both.wait(5)
            sinks[second].apply(event(second))
            written.append(second)

    threads = [threading.Thread(target=write, args=(writer, *symbols), daemon=True)
               for writer, symbols in zip(writers, ("XY", "YX"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(written) == ["X", "Y"], "they wait for each other"
    kept = store.trades["ex"]["X"] if channel == "trades" else store.bars["ex"]["X"]["1m"]
    assert kept.lock is writers[1].lock and len(kept) == (2 if channel == "trades" else 1)


def test_trades_are_kept_and_corrected() -> None:
    store = Store()
    sink = sink_for(store, store.writer(), "e", route("trades"))
    for n in range(KEPT_TRADES + 10):
        sink.apply(trade(float(n + 1), id=str(n)))
    history = store.trades["e"]["X-Y"]
    assert len(history) == KEPT_TRADES and history[0].id == "10"
    stamp = store.last_update
    sink.apply(TradeCorrection(exchange="e", symbol="X-Y", id="500", price=7.5, size=3.0))
    sink.apply(TradeCorrection(exchange="e", symbol="X-Y", id="501"))
    sink.apply(TradeCorrection(exchange="e", symbol="X-Y", id="unknown"))
    found = {t.id: t for t in history}
    assert (found["500"].price, found["500"].size, found["500"].corrected) == (7.5, 3.0, True)
    assert found["501"].cancelled and not found["502"].cancelled
    assert store.last_update != stamp


def test_an_open_bar_is_replaced_by_its_next_version() -> None:
    store = Store()
    sink = sink_for(store, store.writer(), "e", route("bars:1m"))

    def bar(start: int, close: float, closed: bool = False) -> Bar:
        return Bar(exchange="e", symbol="X-Y", interval="1m", start=start, open=1.0, high=9.0, low=1.0,
                   close=close, closed=closed)

    for one in (bar(60, 1.0), bar(60, 2.0), bar(120, 3.0), bar(60, 2.5, True), bar(0, 7.0)):
        sink.apply(one)
    assert [(b.start, b.close) for b in store.bars["e"]["X-Y"]["1m"]] == [(60, 2.5), (120, 3.0)]


def test_a_bar_whose_trades_were_all_late_finds_its_place() -> None:
    store = Store()
    sink = sink_for(store, store.writer(), "e", route("bars:1m"))

    def bar(start: int) -> None:
        sink.apply(Bar(exchange="e", symbol="X-Y", interval="1m", start=start, open=1.0, high=1.0, low=1.0,
                       close=1.0))
    for start in (60, 180, 120):
        bar(start)
    kept = store.bars["e"]["X-Y"]["1m"]
    assert [b.start for b in kept] == [60, 120, 180]
    for start in range(240, 240 + 120 * kept.maxlen, 120):
        bar(start)
    newest, oldest = kept[-1].start, kept[0].start
    bar(newest - 60)
    assert len(kept) == kept.maxlen and kept[0].start == oldest + 120
    assert [b.start for b in kept[-3:]] == [newest - 120, newest - 60, newest]


def test_other_channels_keep_their_latest() -> None:
    store = Store()
    writer = store.writer()
    sink = sink_for(store, writer, "e", route("ticker"))
    assert not sink.ready and sink.last == 0
    for last in (1.0, 2.0):
        sink.apply(Ticker(exchange="e", symbol="X-Y", last=last, received=time.time_ns()))
    assert sink.ready and sink.last == writer.clock.stamp
    assert store.tickers["e"]["X-Y"].last == 2.0
    other = sink_for(store, writer, "e", route("imbalances"))
    other.apply(quote(1.0))
    assert store.latest["imbalances"]["e"]["X-Y"].bid == 1.0


# -- reading ------------------------------------------------------------------------------------------


def book_in(store: Store, received: int) -> BookKeeper:
    writer = store.writer()
    writer.clock.now = received
    book = OrderBook("e", "X-Y", writer.lock)
    store.orderbooks.setdefault("e", Table())["X-Y"] = book
    return BookKeeper(book, route("book"), "dense", writer.clock, *[lambda *_: None] * 3)


def test_reading_what_is_not_there() -> None:
    store = Store()
    with pytest.raises(NoData, match=r"no order book of 'e' yet; there are some of: no exchange"):
        store.orderbook("e", "X-Y")
    keeper = book_in(store, time.time_ns())
    with pytest.raises(NoData, match=r"no order book of 'A-B' on e yet; there are: X-Y"):
        store.orderbook("e", "A-B")
    with pytest.raises(NoData, match=r"no ticker of 'e' yet"):
        store.ticker("e", "X-Y", max_age=1)
    assert store.orderbook("e", "X-Y")["status"] == "syncing"
    with pytest.raises(StaleData, match=r"e X-Y: the order book is syncing"):
        store.orderbook("e", "X-Y", max_age=1)
    keeper.snapshot(BookSnapshot(5, [(1.0, 2.0)], [(2.0, 1.0)]))
    view = store.orderbook("e", "X-Y", max_age=5)
    assert (view["bids"], view["asks"], view["sequence"]) == ([(1.0, 2.0)], [(2.0, 1.0)], 5)
    keeper.disconnected("stale", "gone")
    with pytest.raises(StaleData, match=r"the order book is stale"):
        store.orderbook("e", "X-Y", max_age=5)
    assert store.orderbook("e", "X-Y")["bids"] == [(1.0, 2.0)]


def test_age_counts_from_when_the_bytes_came() -> None:
    store = Store()
    keeper = book_in(store, time.time_ns() - 10_000_000_000)
    keeper.snapshot(BookSnapshot(5, [(Decimal(1), Decimal(2))], []))
    with pytest.raises(StaleData, match=r"its age is 10\.\d+ s, at most 5 s was asked for") as caught:
        store.orderbook("e", "X-Y", max_age=5)
    assert caught.value.age is not None and 10 <= caught.value.age < 20
    assert store.orderbook("e", "X-Y", max_age=60)["bids"] == [(Decimal(1), Decimal(2))]
    old = Ticker(exchange="e", symbol="X-Y", last=1.0, received=time.time_ns() - 3_000_000_000)
    store.tickers.setdefault("e", Table())["X-Y"] = old
    assert store.ticker("e", "X-Y") is store.ticker("e", "X-Y", max_age=60) is old
    with pytest.raises(StaleData, match=r"the ticker is too old"):
        store.ticker("e", "X-Y", max_age=2)


def test_what_came_before_the_clock_was_set_back_is_not_fresh() -> None:
    store = Store()
    later = time.time_ns() + 3_600_000_000_000
    keeper = book_in(store, later)
    keeper.snapshot(BookSnapshot(5, [(1.0, 2.0)], [(2.0, 1.0)]))
    ticker = Ticker(exchange="e", symbol="X-Y", last=1.0, received=later)
    store.tickers.setdefault("e", Table())["X-Y"] = ticker
    with pytest.raises(StaleData, match=r"its stamp is 3\d{3}\.\d+ s ahead of the clock") as caught:
        store.ticker("e", "X-Y", max_age=7200)
    assert caught.value.age is None and "\n" not in str(caught.value)
    assert store.ticker("e", "X-Y") is ticker and ticker.age < 0
    assert store.orderbook("e", "X-Y", max_age=1)["status"] == "live", "another clock watches that"
    keeper.disconnected("stale", "no data")
    with pytest.raises(StaleData, match="the order book is stale"):
        store.orderbook("e", "X-Y", max_age=1)

"""Changes that wait, packed as they came, until somebody looks at the book.

Whatever waits: a reader sees what they would have seen had each been written at once, or is told that the
book is not right.
"""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import pytest

from streams import feed as feeds
from streams.book import AGAIN, EACH, ROOM, SLACK, WATCHED, OrderBook
from streams.events import BookUpdate
from streams.exchanges import Binance, BinanceFutures
from streams.sequencing import BookKeeper, Clock
from streams.sim import BinanceFuturesSim, BinanceSim, Fault
from streams.stream import Stream
from streams.venue import BookBroken, BookSnapshot, Route

from .tools import NaiveBook, Packed, at_every_step, wait_live, wait_until

Levels = Sequence[tuple[float, float]]
BAD = '[[1, "many"]]'


class Kept:
    """A keeper that is given packed changes, and what it reported."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.changes: list[tuple[str, str]] = []
        self.losses: list[str] = []
        self.counts: list[str] = []
        self.book = OrderBook("e", "X-Y", threading.RLock())
        self.keeper = BookKeeper(
            self.book, Route("X-Y", "book", "XY", ("t",)), "dense", self.clock,
            lambda keeper, status, reason: self.changes.append((status, reason)),
            lambda keeper, reason, expected, got: self.losses.append(reason), self.counts.append)
        self.whole(9)
        self.keeper.put_off(Packed(10, 10, time=10_000))        # the first after a snapshot is looked at

    def whole(self, last: int, bids: Levels = ((99.0, 1.0), (98.0, 1.0)),
              asks: Levels = ((101.0, 1.0),)) -> None:
        self.clock.now += 1
        self.keeper.put_off(BookSnapshot(last, bids, asks, last * 1000))

    def step(self, bids: Levels | str = (), asks: Levels = ()) -> Packed:
        """The next change."""
        at = (self.book.last if self.keeper.ready else max(self.book.last, 10)) + 1
        delta = Packed(at, at, bids, asks, at * 1000)
        self.clock.now += 1
        self.keeper.put_off(delta)
        return delta

    @property
    def written(self) -> dict[Any, Any]:
        """The bids as they are written."""
        return dict(self.book.bids.levels)


READS: dict[str, Callable[[OrderBook], Any]] = {
    "touch": lambda book: book.touch[0],
    "best_bid": lambda book: book.best_bid,
    "depth": lambda book: book.depth(1)[0][0],
    "bids": lambda book: book["bids"][0],
    "view": lambda book: book.view().best_bid,
    "mid": lambda book: (book.mid * 2 - 101.0, 5.0),
    "repr": lambda book: (99.5, 5.0) if "99.5, 5.0" in repr(book) else None,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
def test_a_change_waits_until_somebody_looks(read: Callable[[OrderBook], Any]) -> None:
    kept = Kept()
    stamp = kept.book["last_update"]
    first, second = kept.step([(99.5, 4.0)]), kept.step([(99.5, 5.0)], [(101.5, 1.0)])
    assert (first.looked, second.looked) == (0, 0) and 99.5 not in kept.written
    assert kept.book["sequence"] == 12 and kept.book["timestamp"] == 12_000_000_000
    assert kept.book["last_update"] > stamp
    assert read(kept.book) == (99.5, 5.0)
    assert (first.looked, second.looked) == (1, 1) and not kept.book.unwritten
    assert read(kept.book) == (99.5, 5.0) and second.looked == 1


def test_what_is_said_of_a_book_needs_no_levels() -> None:
    kept = Kept()
    delta = kept.step([(99.5, 4.0)])
    for key in ("last_update", "sequence", "timestamp"):
        assert kept.book[key]
    assert kept.keeper.ready and kept.keeper.last and not delta.looked
    assert kept.book["status"] == "live" and delta.looked, "nobody may be told so of one that is malformed"


def test_what_waits_takes_little_memory() -> None:
    kept = Kept()
    most = 0
    for n in range(1000):
        kept.step([(50.0 + n % 40, 1.0)] * (n % 30))
        waiting: Any = kept.book.unwritten
        most = max(most, sum(len(one.bids) + len(one.asks) + EACH for one in waiting))
    assert ROOM * 0.8 < most <= ROOM
    long = kept.step([(50.0, 1.0 + n) for n in range(ROOM // 10)])
    assert long.looked == 1 and not kept.book.unwritten


def test_a_followed_book_is_written_at_once() -> None:
    kept = Kept()
    kept.step([(99.5, 1.0)])
    assert kept.book.best_bid == (99.5, 1.0)
    assert not any(kept.step().looked for _ in range(AGAIN)), "who has read once may have gone"
    assert kept.book.best_bid == (99.5, 1.0)
    assert not kept.step().looked
    for n in range(5):
        assert kept.book.best_bid == (99.5 + n, 1.0)
        assert kept.step([(99.5 + n, 0.0), (100.5 + n, 1.0)]).looked and not kept.book.unwritten
    looked = [kept.step([(105.5, n)]).looked for n in range(WATCHED + 3)]
    assert looked[0] == 1 and looked[-3:] == [0, 0, 0], "nobody has been here for long"
    assert kept.book.best_bid == (105.5, WATCHED + 2)


def test_removed_levels_leave_a_book_that_is_only_viewed() -> None:
    kept = Kept()
    for n in range(SLACK * 3):
        kept.step([(1.0 + n, 1.0)])
        kept.step([(1.0 + n, 0.0)])
        assert len(kept.book.view()["bids"]) <= 2
    assert len(kept.book.bids.levels) < SLACK * 2


def _changes(rnd: random.Random, start: int) -> Levels:
    return [(rnd.randrange(start, start + 20) * 1.0, rnd.randrange(3) * 1.0) for _ in range(rnd.randrange(4))]


def _reads(rnd: random.Random, book: OrderBook, truth: NaiveBook) -> tuple[Any, Any]:
    """What some way of reading says, and what is right."""
    whole, count = truth.sorted(), rnd.randrange(1, 8)
    return rnd.choice((
        lambda: ((book["bids"], book["asks"]), whole),
        lambda: (tuple(map(list, book.depth(count))), (whole[0][:count], whole[1][:count])),
        lambda: (book.touch, truth.touch()),
        lambda: ((book.view()["bids"], book.view()["asks"]), whole)))()


@pytest.mark.parametrize("seed", range(30))
def test_a_book_reads_as_if_all_had_been_written_at_once(seed: int) -> None:
    rnd = random.Random(seed)
    kept, truth, last = Kept(), NaiveBook(), 10
    truth.apply([(99.0, 1.0), (98.0, 1.0)], [(101.0, 1.0)], last, whole=True)
    for _ in range(600):
        dice = rnd.random()
        kept.clock.now += 1
        if dice < 0.01:
            kept.keeper.put_off(Packed(last + 5, last + 5))
            assert kept.book["status"] == "syncing", "some are missing"
        elif dice < 0.02 or not kept.keeper.ready and dice < 0.3:
            last += 10
            bids, asks = [(90.0 + n, 1.0) for n in range(5)], [(101.0 + n, 1.0) for n in range(5)]
            kept.keeper.lose("for the test")
            kept.whole(last, bids, asks)
            truth.apply(bids, asks, last, whole=True)
        elif dice < 0.03:
            kept.keeper.silent("for the test")
            assert kept.book["status"] != "live"
        elif kept.book.status != "syncing":
            last += 1
            bids, asks = _changes(rnd, 80), _changes(rnd, 101)
            kept.keeper.put_off(Packed(last, last, bids, asks, last))
            truth.apply(bids, asks, last)
        for _ in range(rnd.choice((0, 0, 0, 0, 0, 0, 0, 1, 1, 3))):     # some come back, and follow the book
            said, right = _reads(rnd, kept.book, truth)
            assert said == tuple(right) and kept.book["sequence"] == last
    assert not kept.counts


# -- malformed ones -----------------------------------------------------------------------------------------

SAYS: dict[str, Callable[[OrderBook], Any]] = {
    "status": lambda book: book["status"],
    "view": lambda book: book.view()["status"],
    "touch": lambda book: (book.touch, book["status"])[1],
    "depth": lambda book: (book.depth(3), book["status"])[1],
    "dict": lambda book: dict(book)["status"],
}


@pytest.mark.parametrize("says", SAYS.values(), ids=SAYS.keys())
def test_nobody_reads_a_book_with_a_malformed_change_as_live(says: Callable[[OrderBook], str]) -> None:
    kept = Kept()
    kept.step([(99.5, 4.0)])
    kept.step(BAD)
    kept.step([(99.7, 4.0)])
    assert says(kept.book) == "syncing"
    view = kept.book.view()
    assert view["bids"] == [(99.5, 4.0), (99.0, 1.0), (98.0, 1.0)], "the last right moment"
    assert view["sequence"] == kept.book["sequence"] == 11 and view["timestamp"] == 11_000_000_000
    assert kept.book.best_bid == (99.5, 4.0) and dict(kept.book) == dict(kept.book.view())
    assert not kept.losses, "that is the keeper's business, in its own thread"

    kept.keeper.put_off(Packed(14, 14, [(99.8, 1.0)]))
    assert kept.losses == ["a malformed update: no size"] and kept.counts == ["malformed"]
    assert kept.changes[-1] == ("syncing", "a malformed update: no size")
    assert kept.book["status"] == "syncing" and kept.book.best_bid == (99.5, 4.0)
    kept.keeper.look()
    kept.keeper.put_off(Packed(15, 15, [(99.9, 1.0)]))
    assert len(kept.losses) == len(kept.counts) == 1

    kept.whole(13)
    assert kept.book["status"] == "live" and kept.book["sequence"] == 15
    assert kept.book["bids"] == [(99.9, 1.0), (99.8, 1.0), (99.0, 1.0), (98.0, 1.0)]


def test_the_first_that_waits_may_be_malformed() -> None:
    kept = Kept()
    kept.step(BAD)
    assert kept.book["status"] == "syncing" and kept.book["sequence"] == 10
    assert kept.book["bids"] == [(99.0, 1.0), (98.0, 1.0)]


def test_a_malformed_change_is_found_when_nothing_more_comes() -> None:
    kept = Kept()
    kept.step(BAD)
    kept.keeper.look()
    assert kept.keeper.ready, "nobody has looked at it"
    assert kept.book["status"] == "syncing"
    kept.keeper.look()
    assert not kept.keeper.ready and kept.losses and kept.counts == ["malformed"]


def test_a_malformed_change_is_found_when_too_many_wait() -> None:
    kept = Kept()
    kept.step(BAD)
    for n in range(ROOM // EACH + 2):
        kept.keeper.put_off(Packed(12 + n, 12 + n, [(99.5, 1.0)]))
    assert not kept.keeper.ready and len(kept.losses) == 1 and kept.counts == ["malformed"]
    assert kept.book["sequence"] == 10 and kept.book.best_bid == (99.0, 1.0)


def test_one_that_is_looked_at_at_once() -> None:
    """Of a book that somebody follows, and of one that is being rebuilt."""
    kept = Kept()
    kept.book.touch
    kept.step([(99.5, 1.0)])
    assert kept.book.best_bid == (99.5, 1.0)
    kept.step(BAD)
    assert kept.losses == ["a malformed update: no size"] and kept.book["status"] == "syncing"
    kept.keeper.put_off(Packed(12, 12, BAD))
    assert len(kept.losses) == 1 and kept.counts == ["malformed"] * 2


@pytest.mark.parametrize("how", ["disconnected", "silent", "lose", "broken", "replaced"])
def test_a_malformed_change_in_a_book_that_stops(how: str) -> None:
    kept = Kept()
    kept.step([(99.5, 1.0)])
    kept.step(BAD)
    if how == "disconnected":
        kept.keeper.disconnected("stale", "gone")
        assert kept.book["status"] == "stale" and not kept.losses, "another snapshot will come anyway"
    elif how == "silent":
        kept.keeper.silent("nothing came")
        assert kept.book["status"] == "syncing", "it can not go on from here"
    elif how == "lose":
        kept.keeper.lose("for the test")
        assert kept.losses == ["for the test"]
    elif how == "broken":
        kept.keeper.put_off(BookBroken("checksum", checksum=True))
        assert kept.counts == ["malformed", "checksum_failures"]
    else:
        kept.whole(20)
        assert kept.book["status"] == "live" and kept.book["sequence"] == 20
    assert kept.counts.count("malformed") == 1
    kept.keeper.put_off(Packed(21, 21, [(99.6, 1.0)]))
    if how != "replaced":
        assert kept.book["bids"][0] == (99.5, 1.0) and not kept.keeper.ready
        kept.whole(20)
    assert kept.book["status"] == "live" and kept.book["bids"][0] == (99.6, 1.0)
    assert kept.counts.count("malformed") == 1


# -- signal handlers ----------------------------------------------------------------------------------------


def _full() -> Kept:
    kept = Kept()
    for n in range(4):
        kept.step([(99.5, 1.0 + n), (90.0 + n, 1.0)], [(101.0, 2.0 + n)])
    return kept


def _looks(book: OrderBook) -> tuple[Any, Any]:
    return book["bids"], book["asks"]


def test_a_signal_handler_may_read_a_book_that_is_being_read() -> None:
    right = _looks(_full().book)
    steps = 0

    def reads() -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            assert _looks(kept.book) == right

    at = 0
    kept = _full()
    at_every_step(lambda: kept.book.touch, reads)
    total = steps
    assert total > 100
    for at in range(1, total + 1):
        steps, kept = 0, _full()
        at_every_step(lambda: kept.book.touch, reads)
        assert _looks(kept.book) == right, at
        assert not kept.book.spoilt and kept.keeper.ready


class _Struck(Exception):
    """What a signal handler raises."""


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing of other tests is collected, so none of its own code runs, and is struck, in the middle."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("bad", [False, True], ids=["good", "malformed"])
def test_a_read_that_is_interrupted_is_done_by_the_next(bad: bool) -> None:
    def make() -> Kept:
        kept = _full()
        if bad:
            kept.step(BAD)
            kept.step([(99.9, 1.0)])
        return kept

    right = _looks(make().book)
    steps, at = 0, 0

    def strikes() -> None:
        nonlocal steps
        steps += 1
        if steps == at:
            raise _Struck

    kept = make()
    at_every_step(lambda: kept.book.view(), strikes)
    for at in range(1, steps + 1):
        steps, kept = 0, make()
        with contextlib.suppress(_Struck):
            at_every_step(lambda: kept.book.view(), strikes)
        kept.keeper.look()
        if not kept.keeper.ready:               # it had been found
            assert bad and kept.counts == ["malformed"]
        assert _looks(kept.book) == right, at
        assert kept.book["status"] == ("syncing" if bad else "live")
        assert kept.book["sequence"] == 14


# -- whole streams ------------------------------------------------------------------------------------------


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many books are many."""
    monkeypatch.setattr(feeds, "MANY", 3)
    return 3


NAMES = {"BTC-USDT": "BTCUSDT", "ETH-USDT": "ETHUSDT", "SOL-USDT": "SOLUSDT", "XRP-USDT": "XRPUSDT"}
KINDS = pytest.mark.parametrize(("sim", "kind"), [(BinanceSim, Binance), (BinanceFuturesSim, BinanceFutures)],
                                ids=["spot", "futures"])


def _packed(stream: Stream) -> set[str]:
    return {route.symbol for route in stream.feed.sinks if route.packed}


@KINDS
def test_from_many_books_on_changes_wait(sim: Any, kind: Any, many: int, serve: Any, connect: Any) -> None:
    venue = serve(sim, NAMES.values(), rate=0, levels=30)
    stream = connect(venue, ["BTC-USDT", "ETH-USDT"], kind=kind)
    wait_live(stream)
    venue.advance(5)
    assert not _packed(stream)
    stream.subscribe(["SOL-USDT", "XRP-USDT"], ["book"])
    wait_live(stream)
    wait_until(lambda: _packed(stream) == set(NAMES), what="four books are many")
    venue.advance(5)
    books = stream.store.orderbooks[stream.exchange]
    wait_until(lambda: all(book.unwritten for book in books.values()), store=stream.store)
    for symbol, native in NAMES.items():
        view = books[symbol].view()
        truth = venue.market.book(native, view["sequence"])
        assert view["bids"] == [(float(p), float(s)) for p, s in truth.bids]
    stream.unsubscribe(["SOL-USDT", "XRP-USDT"], ["book"])
    wait_until(lambda: not _packed(stream), what="two are not")
    assert stream.status()["malformed"] == 0 == stream.status()["gaps"]


def test_a_book_that_is_listened_to_is_decoded_at_once(many: int, serve: Any, connect: Any) -> None:
    venue = serve(BinanceSim, NAMES.values(), rate=0, levels=30)
    stream = connect(venue, list(NAMES))
    wait_live(stream)
    wait_until(lambda: _packed(stream) == set(NAMES))
    venue.advance(3)
    book = stream.store.orderbooks["binance"]["ETH-USDT"]
    wait_until(lambda: book.unwritten)
    heard: list[BookUpdate] = []
    stream.on(r"binance\.book\.ETH-USDT", heard.append, policy="inline")
    wait_until(lambda: _packed(stream) == set(NAMES) - {"ETH-USDT"})
    venue.advance(2)
    wait_until(lambda: len(heard) >= 2)
    assert all(isinstance(update.bids, tuple) and not update.snapshot for update in heard)
    truth = venue.market.book("ETHUSDT", book["sequence"])
    assert book["bids"] == [(float(p), float(s)) for p, s in truth.bids]
    stream.off(heard.append)
    wait_until(lambda: _packed(stream) == set(NAMES))


def test_exact_numbers_are_decoded_at_once(many: int, serve: Any, connect: Any) -> None:
    venue = serve(BinanceSim, NAMES.values(), rate=0, levels=30)
    stream = connect(venue, list(NAMES), number=Decimal)
    wait_live(stream)
    venue.advance(3)
    assert not _packed(stream)
    book = stream.store.orderbook("binance", "ETH-USDT")
    assert isinstance(book["bids"][0][0], Decimal)


@KINDS
@pytest.mark.parametrize("kind_of_garbage", ["types", "nan", "negative"])
def test_a_malformed_change_that_waits_is_counted_and_the_book_rebuilt(
        sim: Any, kind: Any, kind_of_garbage: str, many: int, serve: Any, connect: Any) -> None:
    venue = serve(sim, NAMES.values(), rate=0, levels=30)
    stream = connect(venue, list(NAMES), kind=kind)
    wait_live(stream)
    wait_until(lambda: _packed(stream) == set(NAMES))
    venue.inject(Fault.GARBAGE(kind=kind_of_garbage))
    venue.advance(3)
    books = stream.store.orderbooks[stream.exchange]

    def right() -> bool:
        for symbol, native in NAMES.items():
            view = books[symbol].view()
            if view["status"] == "live":
                truth = venue.market.book(native, view["sequence"])
                assert view["bids"] == [(float(p), float(s)) for p, s in truth.bids]
        if stream.feed.counters.malformed:
            return all(book["status"] == "live" for book in books.values())
        return False

    wait_until(lambda: right() or venue.advance(1))
    assert stream.status()["malformed"] == 1 and stream.status()["reconnects"] == 0

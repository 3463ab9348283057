"""Order books as readers see them, against a book that is as plain as can be."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import random
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from streams import levels
from streams.book import AGAIN, WATCHED, BookView, OrderBook
from streams.errors import ConfigurationError
from streams.levels import Side
from streams.sequencing import BookKeeper, Clock
from streams.venue import BookSnapshot, Route

from .tools import Delta, NaiveBook


def make(rule: str = "dense", depth: int | None = None) -> BookKeeper:
    book = OrderBook("e", "X-Y", threading.RLock(), sequenced=rule != "unsequenced", depth=depth)
    clock = Clock()
    clock.now = time.time_ns()
    return BookKeeper(book, Route("X-Y", "book", "XY", ("t",)), rule, clock, *[lambda *_: None] * 3)


def loaded(bids: Any, asks: Any, last: int = 10, **options: Any) -> BookKeeper:
    keeper = make(**options)
    keeper.snapshot(BookSnapshot(last, bids, asks, 1_700_000_000_000))
    return keeper


def step(keeper: BookKeeper, bids: Any = (), asks: Any = (), time: int = 0) -> None:
    """The next update."""
    at = keeper.book.last + 1
    keeper.apply(Delta(at, at, list(bids), list(asks), time))


# -- like a dict --------------------------------------------------------------------------------------


def test_a_book_reads_like_a_dict() -> None:
    book = loaded([(1.0, 2.0), (3.0, 4.0)], [(5.0, 6.0), (4.0, 1.0)]).book
    assert isinstance(book, Mapping)
    assert book["bids"] == [(3.0, 4.0), (1.0, 2.0)] and book["asks"] == [(4.0, 1.0), (5.0, 6.0)]
    assert book["status"] == "live" and book["sequence"] == 10
    assert book["timestamp"] == 1_700_000_000_000_000_000
    assert isinstance(book["last_update"], int)
    assert set(book) == {"bids", "asks", "last_update", "timestamp", "status", "sequence"}
    assert len(book) == 6 and "bids" in book and "nothing" not in book
    assert dict(book) == dict(book.view())
    assert book.get("nothing") is None
    with pytest.raises(KeyError):
        book["nothing"]
    assert (book.best_bid, book.best_ask, book.mid, book.spread) == ((3.0, 4.0), (4.0, 1.0), 3.5, 1.0)
    assert book.touch == ((3.0, 4.0), (4.0, 1.0))
    assert "e X-Y live" in repr(book) and "e X-Y live" in repr(book.view())
    assert len({book, book}) == 1


def test_an_empty_book_has_no_best() -> None:
    for book in (make().book, loaded([], []).book):
        assert book["bids"] == book["asks"] == []
        assert book.best_bid is book.best_ask is book.mid is book.spread is None
        assert book.depth(5) == ((), ()) == book.view().depth(5)
    assert make().book["last_update"] is make().book["sequence"] is make().book["timestamp"] is None


def test_one_side_may_be_empty() -> None:
    book = loaded([(1.0, 1.0)], []).book
    assert book.best_bid == (1.0, 1.0) and book.best_ask is None
    assert book.mid is None and book.spread is None and book.view().mid is None


def test_what_is_handed_out_can_not_change_the_book() -> None:
    book = loaded([(1.0, 1.0)], [(2.0, 1.0)]).book
    book["bids"].clear()
    book.view()["asks"].append("x")
    assert book["bids"] == [(1.0, 1.0)] and book["asks"] == [(2.0, 1.0)]
    with pytest.raises(TypeError):
        book["bids"] = []  # type: ignore[index]


def test_a_view_is_of_one_moment_and_stays_so() -> None:
    keeper = loaded([(1.0, 1.0)], [(2.0, 1.0)])
    view = keeper.book.view()
    step(keeper, [(1.0, 0.0), (1.5, 2.0)], [(2.0, 5.0)])
    assert (view["bids"], view["asks"], view["sequence"]) == ([(1.0, 1.0)], [(2.0, 1.0)], 10)
    now = keeper.book.view()
    assert (now["bids"], now["asks"], now["sequence"]) == ([(1.5, 2.0)], [(2.0, 5.0)], 11)
    assert now["last_update"] > view["last_update"]
    assert view.source == "stream" and view.age is not None and view.age >= 0
    again = pickle.loads(pickle.dumps({**view}))
    assert again == dict(view)


def test_what_was_worked_out_is_kept_until_the_next_change() -> None:
    keeper = loaded([(float(n), 1.0) for n in range(1, 50)], [(float(n), 1.0) for n in range(50, 90)])
    book = keeper.book
    view, depth, touch = book.view(), book.depth(5), book.touch
    assert book.view() is view and book.depth(5) is depth and book.touch is touch
    step(keeper, [(49.5, 1.0)])
    assert book.view() is not view and book.depth(5) is not depth and book.touch is not touch
    view = book.view()
    keeper.disconnected("stale", "gone")
    assert book.view() is not view and book.view()["status"] == "stale"
    assert book.view()["bids"] == view["bids"]


def test_depth_gives_the_best_levels_of_both_sides() -> None:
    keeper = loaded([(float(n), 1.0) for n in range(1, 50)], [(float(n), 1.0) for n in range(50, 90)])
    for source in (keeper.book, keeper.book.view()):
        bids, asks = source.depth(3)
        assert bids == ((49.0, 1.0), (48.0, 1.0), (47.0, 1.0))
        assert asks == ((50.0, 1.0), (51.0, 1.0), (52.0, 1.0))
        assert source.depth(0) == ((), ())
        assert [len(side) for side in source.depth(1000)] == [49, 40]
        for wrong in (-1, None, "3", 2.5):
            with pytest.raises(ConfigurationError, match=r"depth\(.*\): give a number of levels, 0 or more"):
                source.depth(wrong)  # type: ignore[arg-type]


def test_a_book_of_limited_depth_shows_no_more() -> None:
    bids, asks = [(float(n), 1.0) for n in range(1, 50)], [(float(n), 1.0) for n in range(50, 90)]
    book = loaded(bids, asks, depth=7).book
    assert [len(side) for side in book.depth(20)] == [7, 7]
    assert len(book["bids"]) == len(book["asks"]) == 7
    assert book["bids"][0] == (49.0, 1.0) == book.best_bid


def test_decimals_stay_what_they_are() -> None:
    book = loaded([(Decimal("0.10"), Decimal("1E-8"))], [(Decimal("0.30"), Decimal("2.50"))]).book
    assert str(book["bids"]) == "[(Decimal('0.10'), Decimal('1E-8'))]"
    assert book.mid == Decimal("0.20") and book.spread == Decimal("0.20")
    assert isinstance(book.mid, Decimal)


# -- against the naive model ----------------------------------------------------------------------------


def check(book: OrderBook, naive: NaiveBook, dice: random.Random, views: bool = True) -> None:
    bids, asks = naive.sorted()
    how = dice.randrange(6 if views else 4)
    if how == 0:
        assert book.touch == (bids[0] if bids else None, asks[0] if asks else None)
    elif how == 1:
        assert (book.best_bid, book.best_ask) == (bids[0] if bids else None, asks[0] if asks else None)
    elif how in (2, 3):
        count = dice.choice((1, 2, 5, 10, 40, 200))
        assert book.depth(count) == (tuple(bids[:count]), tuple(asks[:count]))
    elif how == 4:
        view = book.view()
        assert (view["bids"], view["asks"]) == (bids, asks)
        assert (view.best_bid, view.best_ask) == (bids[0] if bids else None, asks[0] if asks else None)
    else:
        assert (book["bids"], book["asks"]) == (bids, asks)


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("seed", range(12))
def test_random_updates(number: Any, seed: int) -> None:
    """Changes near the touch and far from it, sides emptied, long stretches without a reader."""
    dice = random.Random(seed)
    ticks = dice.choice((12, 60, 800))
    reads = dice.choice((0.02, 0.3, 1.0))
    naive = NaiveBook()
    keeper = make()

    def whole() -> None:
        levels = [[(number(tick) / 10, number(dice.randrange(0, 5))) for tick in
                   dice.sample(range(low, low + ticks), ticks // 2)] for low in (1, ticks + 1)]
        keeper.disconnected("stale", "again")
        keeper.snapshot(BookSnapshot(1, *levels))
        naive.apply(*levels, 1, True)

    whole()
    for _ in range(1500):
        action = dice.random()
        if action < 0.004:
            whole()
        elif action < 0.01:                             # a side is swept
            side = dice.randrange(2)
            gone = [[(price, number(0)) for price in (naive.bids, naive.asks)[side]], []]
            step(keeper, *(gone if not side else gone[::-1]))
            naive.apply(*(gone if not side else gone[::-1]), 1)
        else:
            changes = []
            for low in (1, ticks + 1):
                near = ticks + 1 if low == 1 else low
                spots = [low + dice.randrange(ticks) if dice.random() < 0.5 else
                         min(max(near + dice.randrange(-6, 6), low), low + ticks - 1)
                         for _ in range(dice.randrange(6))]
                changes.append([(number(tick) / 10, number(dice.choice((0, 0, 1, 2.5)))) for tick in spots])
            step(keeper, *changes)
            naive.apply(*changes, 1)
        if dice.random() < reads:
            for _ in range(dice.randrange(1, 4)):
                check(keeper.book, naive, dice)
    for _ in range(20):
        check(keeper.book, naive, dice)


@pytest.mark.parametrize("read", [lambda book: book.touch, lambda book: book.depth(3)])
def test_who_reads_now_and_then_costs_the_stream_nothing(read: Any) -> None:
    """The best prices are followed for those who come back within a few updates, and not for long."""
    keeper = loaded([(float(n), 1.0) for n in range(1, 50)], [(float(n), 1.0) for n in range(50, 90)])
    book = keeper.book
    for _ in range(3):
        read(book)
        read(book)                                  # of the same moment
        for _ in range(AGAIN):
            assert book.watched < 0
            step(keeper, [(49.0, 2.0)])
        assert book.watched == 0
    read(book)
    step(keeper, [(49.0, 3.0)])
    read(book)
    for _ in range(WATCHED):
        assert book.watched > 0
        step(keeper, [(49.0, 4.0)])
        read(book)
    for _ in range(WATCHED):
        assert book.watched > 0
        step(keeper, [(49.0, 5.0)])
    assert book.watched == 0
    assert book.best_bid == (49.0, 5.0)


def test_removed_levels_do_not_pile_up() -> None:
    keeper = loaded([(1.0, 1.0)], [(1e9, 1.0)])
    for n in range(50_000):
        step(keeper, [(2.0 + n, 1.0), (1.0 + n, 0.0)], [])
        assert len(keeper.book.bids.levels) < 200
    assert keeper.book["bids"] == [(50_001.0, 1.0)]


def test_a_side_alone() -> None:
    side = Side(bids=False)
    side.rebuild(1)
    assert side.best() is None and side.top(5) == () == side.sorted()
    side.replace([(2.0, 1.0), (1.0, 0.0), (3.0, 1.0)])
    side.rebuild(5)
    assert side.best() == (2.0, 1.0) and side.top(5) == ((2.0, 1.0), (3.0, 1.0)) == side.sorted()
    side.write([(2.0, 0.0), (3.0, 0.0)])
    assert side.best() is None and side.top(1) == ()
    side.write([(7.0, 1.0)])
    assert side.best() == (7.0, 1.0)


# -- while another thread writes ------------------------------------------------------------------------


def test_no_read_is_ever_torn() -> None:
    """Each update moves both sides together, so any mixture of two moments shows."""
    levels = 12
    stop = threading.Event()
    keeper = make()

    def at(n: int) -> tuple[list[Any], list[Any]]:
        base = float(n % 1000 * 10)
        return ([(base + k + 1, float(n)) for k in range(levels)],
                [(base + levels + 1 + k, float(n)) for k in range(levels)])

    keeper.snapshot(BookSnapshot(1, *at(1)))        # sizes of 0 would leave an empty book
    book = keeper.book
    wrong: list[str] = []
    written = 0

    def write() -> None:
        nonlocal written
        n = 1
        while not stop.is_set():
            old, new = at(n), at(n + 1)
            n += 1
            bids = [*((price, 0.0) for price, _ in old[0]), *new[0]]
            asks = [*((price, 0.0) for price, _ in old[1]), *new[1]]
            with book.lock:
                keeper.clock.now = time.time_ns()
                keeper.apply(Delta(n, n, bids, asks))
            written = n

    def whole(bids: Any, asks: Any, count: int) -> None:
        n = int(bids[0][1])
        expected = at(n)
        good = (list(bids) == expected[0][::-1][:count] and list(asks) == expected[1][:count])
        if not good:
            wrong.append(f"{bids} {asks}")

    def read(how: int) -> None:
        last = 0
        while not stop.is_set() and not wrong:
            if how == 0:
                view = book.view()
                whole(view["bids"], view["asks"], levels)
                if view["sequence"] != int(view["bids"][0][1]) or view["last_update"] < last:
                    wrong.append(f"{view}")
                last = view["last_update"]
            elif how == 1:
                whole(*book.depth(5), 5)
            elif how == 2:
                whole(*([level] for level in book.touch), 1)
            else:
                with book.lock:
                    whole(book["bids"], book["asks"], levels)
                    if book["sequence"] != int(book["bids"][0][1]):
                        wrong.append("sequence")
                spread, mid = book.spread, book.mid
                if spread != 1.0 or mid is None:
                    wrong.append(f"{spread}")

    threads = [threading.Thread(target=write)] + [
        threading.Thread(target=read, args=(how,)) for how in range(4)]
    for thread in threads:
        thread.start()
    stop.wait(1.5)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert written > 100


def test_a_view_that_was_made_is_a_view() -> None:
    view = BookView("e", "X", ((1.0, 2.0),), (), last_update=None, timestamp=None, status="live",
                    sequence=None, source="rest")
    assert view.age is None and view.source == "rest" and view.best_ask is None
    with pytest.raises(KeyError):
        view["nothing"]


@pytest.mark.parametrize("strike", range(12))
def test_ctrl_c_in_a_read_leaves_no_wrong_window(strike: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may strike at any call; the next reads are right all the same."""
    keeper = loaded([(float(n), 1.0) for n in range(1, 91)], [(float(n), 1.0) for n in range(101, 191)])
    book = keeper.book
    for size in (2.0, 3.0):
        step(keeper, [(90.0, size)])
        assert book.touch == ((90.0, size), (101.0, 1.0))
    step(keeper, [(90.0, 4.0)])
    assert book.watched > 0
    calls = itertools.count()

    def struck(function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(calls) == strike:
                raise KeyboardInterrupt
            return function(*args, **options)
        return call

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        for function in (len, max, set, sorted):
            patched.setattr(levels, function.__name__, struck(function), raising=False)
        book.depth(50)
    for _ in range(2):
        assert [price for price, _ in book.depth(50)[0]] == list(range(90, 40, -1))
        assert [price for price, _ in book.depth(50)[1]] == list(range(101, 151))
        step(keeper, [(90.0, 5.0)])

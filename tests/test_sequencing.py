"""Which update fits onto which book: every rule, every way in which updates go astray."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from streams.book import OrderBook
from streams.sequencing import FEW_HELD, MAX_HELD, MAX_REPEATS, RULES, BookKeeper, Clock
from streams.venue import BookSnapshot, Route

from .tools import Delta, NaiveBook


class Kept:
    """A keeper, and what it reported."""

    def __init__(self, rule: str) -> None:
        self.clock = Clock()
        self.changes: list[str] = []
        self.losses: list[tuple[int | None, int | None]] = []
        self.counts: list[str] = []
        self.book = OrderBook("e", "X", threading.RLock(), sequenced=RULES[rule].sequenced)
        self.keeper = BookKeeper(
            self.book, Route("X", "book", "X", ("t",)), rule, self.clock,
            lambda keeper, status, reason: self.changes.append(status),
            lambda keeper, reason, expected, got: self.losses.append((expected, got)), self.counts.append)

    def take(self, *deltas: Delta) -> Kept:
        for delta in deltas:
            self.clock.now += 1
            self.keeper.apply(delta)
        return self

    def whole(self, last: int, *bids: tuple[float, float]) -> Kept:
        self.clock.now += 1
        self.keeper.apply(BookSnapshot(last, bids or [(1.0, float(last))], []))
        return self

    @property
    def status(self) -> str:
        return str(self.book.status)

    @property
    def at(self) -> Any:
        """Status, sequence, bids."""
        return self.status, self.book["sequence"], dict(self.book["bids"])


def dense(first: int, last: int, *bids: tuple[float, float]) -> Delta:
    return Delta(first, last, bids or [(1.0, float(last))])


def chain(previous: int, last: int, *bids: tuple[float, float]) -> Delta:
    return Delta(previous, last, bids or [(1.0, float(last))])


# -- dense: first number = last + 1 ---------------------------------------------------------------------


def test_dense_updates_follow_each_other() -> None:
    kept = Kept("dense").whole(10).take(dense(11, 12), dense(13, 13), dense(14, 20))
    assert kept.at == ("live", 20, {1.0: 20.0}) and not kept.losses


@pytest.mark.parametrize("first, last, bridges", [
    (11, 11, True), (5, 11, True), (5, 15, True), (11, 30, True), (12, 12, False), (20, 30, False)])
def test_dense_bridging(first: int, last: int, bridges: bool) -> None:
    """Binance: the first update after the snapshot has U <= lastUpdateId + 1 <= u."""
    for held in (False, True):
        kept = Kept("dense")
        if held:
            kept.take(dense(first, last)).whole(10)
            assert (kept.status == "live") is bridges
            assert kept.losses == ([] if bridges else [(None, None)]), "too old: another one is asked for"
        else:
            kept.whole(10).take(dense(first, last))
            assert kept.losses == ([] if bridges else [(11, first)])
        if bridges:
            assert kept.at == ("live", last, {1.0: float(last)})
        else:
            assert kept.status == "syncing"


def test_dense_updates_from_before_the_snapshot_are_dropped() -> None:
    kept = Kept("dense").take(dense(5, 6), dense(7, 10), dense(11, 12)).whole(10)
    assert kept.at == ("live", 12, {1.0: 12.0})
    kept = Kept("dense").whole(10).take(dense(5, 6), dense(7, 10))
    assert kept.at == ("live", 10, {1.0: 10.0}) and not kept.losses
    assert kept.take(dense(11, 11)).at == ("live", 11, {1.0: 11.0})


def test_dense_duplicates_are_dropped_and_overlaps_taken() -> None:
    kept = Kept("dense").whole(10).take(dense(11, 12))
    stamp = kept.book.stamp
    kept.take(dense(11, 12), dense(12, 12))
    assert kept.at == ("live", 12, {1.0: 12.0}) and kept.book.stamp == stamp
    kept.take(dense(12, 14))
    assert kept.at == ("live", 14, {1.0: 14.0})
    kept.take(dense(15, 15))
    assert kept.at == ("live", 15, {1.0: 15.0}) and not kept.losses


def test_a_gap_is_noticed_and_bridged_by_the_next_snapshot() -> None:
    kept = Kept("dense").whole(10).take(dense(11, 12), dense(14, 15))
    assert kept.losses == [(13, 14)]
    assert kept.at == ("syncing", 12, {1.0: 12.0}), "the last right moment stays readable"
    kept.take(dense(16, 16), dense(17, 18)).whole(13)
    assert kept.at == ("live", 18, {1.0: 18.0})
    assert kept.changes == ["live", "syncing", "live"]


def test_a_second_gap_among_those_held_is_a_gap() -> None:
    kept = Kept("dense").whole(10).take(dense(14, 15), dense(17, 17)).whole(14)
    assert kept.status == "syncing" and kept.losses == [(11, 14), (16, 17)]
    assert kept.whole(17).status == "live"


def test_a_snapshot_too_old_changes_nothing() -> None:
    kept = Kept("dense").take(dense(20, 21))
    before = kept.at
    kept.whole(18)
    assert kept.at == before and kept.losses == [(None, None)]
    assert kept.whole(19).at == ("live", 21, {1.0: 21.0})


def test_an_overtaken_second_answer_does_not_throw_a_live_book_back() -> None:
    kept = Kept("dense").whole(10).take(dense(11, 15))
    stamp = kept.book.stamp
    kept.whole(12).whole(15)
    assert kept.at == ("live", 15, {1.0: 15.0}) and kept.book.stamp == stamp
    assert kept.take(dense(16, 16)).at == ("live", 16, {1.0: 16.0}) and not kept.losses
    kept.whole(20)
    assert kept.at == ("live", 20, {1.0: 20.0}), "one that is ahead is taken"
    assert kept.take(dense(17, 19), dense(20, 21)).at == ("live", 21, {1.0: 21.0}) and not kept.losses


def test_numbering_that_begins_anew_is_noticed() -> None:
    kept = Kept("dense").whole(1000).take(dense(1001, 1001))
    for n in range(1, MAX_REPEATS + 1):
        kept.take(dense(n, n))
        assert kept.status == "live"
    kept.take(dense(MAX_REPEATS + 1, MAX_REPEATS + 1))
    assert kept.status == "syncing" and kept.losses == [(None, None)]
    assert kept.whole(50).take(dense(51, 51)).at == ("live", 51, {1.0: 51.0})


def test_a_whole_book_in_its_place_counts_whatever_its_number() -> None:
    """Where whole books come among the updates, and the source has begun anew."""
    def begun_anew(last: int) -> BookSnapshot:
        return BookSnapshot(last, [(2.0, float(last))], [], in_order=True)

    kept = Kept("dense").whole(10).take(dense(11, 15))
    kept.keeper.apply(begun_anew(1))
    assert kept.take(dense(2, 2, (2.0, 2.0))).at == ("live", 2, {2.0: 2.0}) and not kept.losses
    kept.take(dense(14, 14)).keeper.apply(begun_anew(3))
    assert kept.at == ("live", 3, {2.0: 3.0}), "what was held came before it"
    assert kept.take(dense(4, 4, (2.0, 4.0))).at == ("live", 4, {2.0: 4.0})


def test_whole_books_whose_numbering_begins_anew() -> None:
    kept = Kept("snapshots").whole(1000)
    for n in range(1, MAX_REPEATS + 1):
        assert kept.whole(n).at == ("live", 1000, {1.0: 1000.0})
    assert kept.whole(MAX_REPEATS + 1).at == ("live", MAX_REPEATS + 1, {1.0: MAX_REPEATS + 1.0})
    kept.keeper.apply(BookSnapshot(1, [(1.0, 1.0)], [], in_order=True))
    assert kept.at == ("live", 1, {1.0: 1.0}) and not kept.losses


def test_repeats_in_between_are_no_new_numbering() -> None:
    kept = Kept("dense").whole(10)
    for n in range(11, 11 + 3 * MAX_REPEATS):
        kept.take(dense(n, n), dense(n, n))
    assert kept.status == "live" and not kept.losses


# -- bridged: link = last of the predecessor, first one straddles ---------------------------------------


@pytest.mark.parametrize("previous, last, bridges", [
    (8, 12, True), (10, 12, True), (8, 10, True), (10, 10, True), (11, 12, False), (3, 9, None)])
def test_bridged_bridging(previous: int, last: int, bridges: bool | None) -> None:
    """Binance futures: pu <= lastUpdateId <= u; what ends before is dropped."""
    for held in (False, True):
        kept = Kept("bridged")
        if held:
            kept.take(chain(previous, last)).whole(10)
        else:
            kept.whole(10).take(chain(previous, last))
        if bridges is None:
            assert kept.at == ("live", 10, {1.0: 10.0})
        elif bridges:
            assert kept.at == ("live", last, {1.0: float(last)}) and not kept.losses
        else:
            assert kept.status == "syncing" and len(kept.losses) == 1


def test_bridged_updates_are_a_chain() -> None:
    kept = Kept("bridged").whole(10).take(chain(5, 15), chain(15, 40), chain(40, 41))
    assert kept.at == ("live", 41, {1.0: 41.0})
    kept.take(chain(15, 40))
    assert kept.status == "live" and not kept.losses, "a duplicate"
    kept.take(chain(50, 60))
    assert kept.status == "syncing" and kept.losses == [(41, 50)]


# -- chained: link = last of the predecessor, from the snapshot on --------------------------------------


@pytest.mark.parametrize("previous, last, fits", [
    (10, 14, True), (9, 14, False), (11, 14, False), (3, 10, None)])
def test_chained_updates(previous: int, last: int, fits: bool | None) -> None:
    """Huobi: prevSeqNum equals the number of the refresh."""
    for held in (False, True):
        kept = Kept("chained")
        if held:
            kept.take(chain(previous, last)).whole(10)
        else:
            kept.whole(10).take(chain(previous, last))
        if fits is None:
            assert kept.at == ("live", 10, {1.0: 10.0})
        else:
            assert (kept.status == "live") is fits
            assert len(kept.losses) == (not fits)


# -- snapshots and unsequenced --------------------------------------------------------------------------


def test_whole_books_replace_each_other_and_older_ones_are_dropped() -> None:
    kept = Kept("snapshots").whole(10).whole(12)
    assert kept.at == ("live", 12, {1.0: 12.0})
    assert kept.whole(11).at == ("live", 12, {1.0: 12.0})
    stamp = kept.book.stamp
    kept.whole(12, (1.0, 77.0))
    assert kept.at == ("live", 12, {1.0: 77.0}) and kept.book.stamp != stamp
    kept.keeper.disconnected("stale", "gone")
    kept.keeper.connected()
    assert kept.status == "syncing"
    assert kept.whole(3).at == ("live", 3, {1.0: 3.0}), "a new connection may number anew"


def test_without_numbers_everything_is_taken() -> None:
    kept = Kept("unsequenced")
    kept.take(Delta(0, 0, [(9.0, 9.0)]))
    assert kept.status == "syncing"
    kept.whole(0, (1.0, 1.0)).take(Delta(0, 0, [(2.0, 2.0)]), Delta(0, 0, [(1.0, 0.0)]))
    assert kept.at == ("live", None, {2.0: 2.0})
    kept.whole(0, (5.0, 5.0))
    assert kept.at == ("live", None, {5.0: 5.0})


# -- connections ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["dense", "bridged", "chained", "unsequenced", "snapshots"])
def test_the_states_of_a_connection(rule: str) -> None:
    kept = Kept(rule).whole(10)
    numbers = {"dense": ((11, 11), (12, 12)), "unsequenced": ((0, 0), (0, 0))}.get(
        rule, ((10, 11), (11, 12)))
    if rule != "snapshots":
        kept.take(Delta(*numbers[0], [(1.0, 11.0)]))
    assert kept.status == "live" and kept.keeper.ready
    kept.keeper.disconnected("stale", "gone")
    assert kept.status == "stale" and not kept.keeper.ready
    before = dict(kept.book["bids"])
    assert before, "the last right moment stays readable"
    kept.keeper.connected()
    assert kept.status == "syncing" and dict(kept.book["bids"]) == before
    if rule != "snapshots":
        kept.take(Delta(*numbers[1], [(1.0, 12.0)]))
        assert kept.status == "syncing" and dict(kept.book["bids"]) == before, "nothing fits but a snapshot"
    kept.whole(12)
    assert kept.status == "live"
    kept.keeper.disconnected("closed", "stopped")
    assert kept.status == "closed"


def test_what_was_held_is_of_no_use_on_another_connection() -> None:
    kept = Kept("dense").take(dense(20, 21))
    kept.keeper.disconnected("stale", "gone")
    kept.keeper.connected()
    assert kept.whole(10).at == ("live", 10, {1.0: 10.0})


@pytest.mark.parametrize("rule, before, after", [
    ("dense", (10, 10), (11, 11)), ("bridged", (9, 10), (10, 11)), ("chained", (9, 10), (10, 11)),
    ("unsequenced", (0, 0), (0, 0))])
def test_silence_and_then_the_next_update(rule: str, before: Any, after: Any) -> None:
    kept = Kept(rule).whole(9).take(Delta(*before, [(1.0, 10.0)]))
    kept.keeper.silent("no data")
    assert kept.status == "stale"
    kept.keeper.silent("no data")
    kept.take(Delta(*after, [(1.0, 11.0)]))
    assert kept.status == "live" and dict(kept.book["bids"]) == {1.0: 11.0} and not kept.losses


def test_silence_and_then_something_is_missing() -> None:
    kept = Kept("dense").whole(9).take(dense(10, 10))
    kept.keeper.silent("no data")
    kept.take(dense(12, 12))
    assert kept.status == "syncing" and kept.losses == [(11, 12)]
    assert "live" not in kept.changes[kept.changes.index("stale"):]
    assert kept.whole(11).at == ("live", 12, {1.0: 12.0})


def test_silence_and_then_something_old() -> None:
    """The venue began to number anew while it was silent: never live with a book that stands still."""
    kept = Kept("dense").whole(900).take(dense(901, 901))
    kept.keeper.silent("no data")
    kept.take(dense(3, 4))
    assert kept.status == "syncing"
    assert kept.whole(3).at == ("live", 4, {1.0: 4.0})


def test_silence_right_after_a_snapshot() -> None:
    kept = Kept("dense").whole(10)
    kept.keeper.silent("no data")
    assert kept.status == "stale"
    assert kept.take(dense(8, 12)).at == ("live", 12, {1.0: 12.0})
    kept = Kept("dense").whole(10)
    kept.keeper.silent("no data")
    kept.take(dense(13, 14))
    assert kept.status == "syncing" and kept.losses == [(11, 13)]


def test_a_book_that_is_not_live_is_not_marked_stale_by_silence() -> None:
    kept = Kept("dense")
    kept.keeper.silent("no data")
    assert kept.status == "syncing"


def test_losing_it_for_another_reason() -> None:
    kept = Kept("dense").whole(10).take(dense(11, 11))
    kept.keeper.lose("a malformed update")
    assert kept.status == "syncing" and kept.losses == [(None, None)]
    kept.take(dense(12, 12), dense(13, 13))
    assert kept.book["sequence"] == 11
    assert kept.whole(12).at == ("live", 13, {1.0: 13.0})


@pytest.mark.parametrize("rule", ["dense", "bridged", "chained"])
@pytest.mark.parametrize("number", [-1, -2, -1 << 63, 0, 1 << 64])
def test_no_number_on_the_wire_opens_a_book_without_a_snapshot(rule: str, number: int) -> None:
    kept = Kept(rule).take(
        Delta(number, number + 1, [(1.0, 1.0)]), Delta(number + 1, number + 2, [(2.0, 2.0)]))
    assert kept.at == ("syncing", None, {})
    kept.whole(10).take(Delta(number, number, [(3.0, 3.0)]))
    assert 3.0 not in dict(kept.book["bids"]) or kept.status == "syncing"


def test_so_many_held_that_the_oldest_are_forgotten() -> None:
    kept = Kept("dense")
    kept.keeper.asked = True
    kept.take(*[dense(n, n) for n in range(1, MAX_HELD + 101)])
    kept.whole(50)
    assert kept.status == "syncing" and kept.losses == [(None, None)], "its successors are gone"
    assert kept.whole(100).at == ("live", MAX_HELD + 100, {1.0: float(MAX_HELD + 100)})


def test_few_are_held_until_a_snapshot_is_asked_for_and_all_from_then_on() -> None:
    kept = Kept("dense").take(*[dense(n, n) for n in range(1, 1001)])
    assert len(kept.keeper._held) == FEW_HELD < MAX_HELD
    kept.keeper.asked = True                        # now; it may be of a moment shortly before that
    kept.take(*[dense(n, n) for n in range(1001, 1001 + 2 * FEW_HELD)])
    assert len(kept.keeper._held) == 3 * FEW_HELD
    assert kept.whole(1000 - FEW_HELD).at == ("live", 1000 + 2 * FEW_HELD, {1.0: 1000.0 + 2 * FEW_HELD})
    assert not kept.losses and not kept.keeper._held


@pytest.mark.parametrize("end", ["taken", "too old", "never came", "connection"])
def test_few_are_held_again_when_no_snapshot_is_on_its_way_any_more(end: str) -> None:
    kept = Kept("dense")
    kept.keeper.asked = True
    kept.take(*[dense(n, n) for n in range(101, 101 + 2 * FEW_HELD)])
    if end == "taken":
        kept.whole(100)
        kept.keeper.lose("a malformed update")
    elif end == "too old":
        kept.whole(50)
    elif end == "never came":
        kept.keeper.asked = False                   # says who asked for it
    else:
        kept.keeper.disconnected("stale", "gone")
        kept.keeper.connected()
    assert kept.status == "syncing"
    kept.take(*[dense(n, n) for n in range(1001, 1001 + 2 * FEW_HELD)])
    assert len(kept.keeper._held) == FEW_HELD
    last = 1000 + 2 * FEW_HELD
    assert kept.whole(last - 5).at == ("live", last, {1.0: float(last)})


# -- anything at all ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["dense", "bridged", "chained"])
@pytest.mark.parametrize("seed", range(30))
def test_a_live_book_is_right_whatever_happens_to_the_updates(rule: str, seed: int) -> None:
    """Updates are lost, repeated and swapped, snapshots come late, old or twice: whenever the book says
    ``live`` it equals the true book at its number."""
    dice = random.Random(seed)
    truth: dict[int, dict[float, float]] = {0: {}}
    deltas: list[Delta] = []
    naive, at = NaiveBook(), 0
    for _ in range(800):
        link = at + 1 if rule == "dense" else at
        touched = set()
        for _ in range(dice.randrange(1, 4)):
            at += 1
            price = float(dice.randrange(12))
            touched.add(price)
            naive.apply([(price, float(dice.choice((0, 0, 1, 2, 3))))], [], at)
            truth[at] = dict(naive.bids)
        # every level that was touched is in it, even one that is as it was before
        deltas.append(Delta(link, at, [(price, truth[at].get(price, 0.0)) for price in touched]))
    numbers = {delta.last for delta in deltas}
    kept = Kept(rule)
    asked = 3
    delivered = 0
    while delivered < len(deltas):
        delta = deltas[delivered]
        delivered += 1
        fate = dice.random()
        if fate < 0.02:
            continue                                            # lost
        batch = [delta]
        if fate < 0.04:
            batch.append(delta)                                 # twice
        elif fate < 0.06 and delivered < len(deltas):
            batch.insert(0, deltas[delivered])                  # swapped
            delivered += 1
        elif fate < 0.07:
            kept.keeper.silent("quiet")
        elif fate < 0.08:
            batch = [*deltas[max(0, delivered - 9):delivered]]  # some of them again
        for one in batch:
            kept.take(one)
            if kept.status == "live":
                assert kept.book["sequence"] in truth
                assert dict(kept.book["bids"]) == truth[kept.book["sequence"]]
        if kept.status == "syncing" or dice.random() < 0.01:
            asked -= 1
            if asked <= 0:
                asked = dice.randrange(1, 12)
                last = max(0, delta.last - dice.choice((0, 0, 1, 3, 8, 30)) + dice.choice((0, 0, 2)))
                if rule == "chained":                           # a refresh is of a moment between updates
                    last = max((n for n in numbers if n <= last), default=0)
                last = min(last, at)
                kept.keeper.apply(BookSnapshot(last, list(truth[last].items()), []))
                if kept.status == "live":
                    assert dict(kept.book["bids"]) == truth[kept.book["sequence"]]
    kept.keeper.lose("in the end")
    kept.keeper.apply(BookSnapshot(at, list(truth[at].items()), []))
    assert kept.at == ("live", at, truth[at])


def test_a_crossed_book_without_numbers_has_lost_an_update() -> None:
    kept = Kept("unsequenced")
    kept.keeper.apply(BookSnapshot(0, [(100.0, 1.0)], [(101.0, 1.0)]))
    assert not kept.keeper.crossed()
    kept.take(Delta(0, 0, [(101.0, 1.0)], []))
    assert not kept.keeper.crossed() and not kept.keeper.crossed(), "locked, not crossed"
    kept.take(Delta(0, 0, [(102.0, 1.0)], []))
    assert not kept.keeper.crossed(), "the other side may be on its way"
    kept.take(Delta(0, 0, [(102.0, 0.0)], []))
    assert not kept.keeper.crossed()
    kept.take(Delta(0, 0, [(102.0, 1.0)], []))
    assert not kept.keeper.crossed()
    assert kept.keeper.crossed()
    kept.keeper.lose("crossed")
    assert not kept.keeper.crossed(), "it is known"
    kept.keeper.apply(BookSnapshot(0, [(102.0, 1.0)], [(101.0, 1.0)]))
    assert not kept.keeper.crossed() and not kept.keeper.crossed(), "the venue itself says so"


# -- snapshots that are not all there is ------------------------------------------------------------------


@pytest.mark.parametrize("bids", [True, False])
def test_a_price_that_leaves_its_snapshot_is_noticed(bids: bool) -> None:
    """Of what lies beyond the worst level of a limited snapshot the venue has never told."""
    prices = [float(100 - n if bids else 100 + n) for n in range(40)]

    def one(price: float, size: float) -> Delta:
        last = kept.book.last + 1
        return Delta(last, last, [(price, size)] if bids else [], [] if bids else [(price, size)])

    for limit, whole in ((40, False), (41, True), (0, True)):
        kept = Kept("dense")
        assert not kept.keeper.outrun()
        levels = [(price, 1.0) for price in prices]
        kept.keeper.apply(BookSnapshot(10, levels if bids else [], [] if bids else levels, limit=limit))
        for price in prices[:30]:
            kept.take(one(price, 0.0))
            assert not kept.keeper.outrun(), "three quarters of it, and the level at which it ends"
        kept.take(one(prices[30], 0.0))
        assert kept.keeper.outrun() is not whole
        kept.take(one(prices[30], 2.0))
        assert not kept.keeper.outrun()
        kept.take(one(prices[30], 0.0)).keeper.lose("the price has left")
        assert not kept.keeper.outrun(), "it is known"

"""Asking for snapshots: when, how often, and by which way, without a network."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable

import msgspec
import pytest

from streams import refresh
from streams.feed import Feed
from streams.handlers import Handlers
from streams.metrics import NoMetrics
from streams.refresh import ASKED, FIRST_PAUSE, FRAME_PATIENCE, LONGEST_PATIENCE, ROUND, Refresher
from streams.store import Store
from streams.venue import BookBroken, BookSnapshot, RestRequest, Route
from streams.venues.binance import BinanceVenue
from streams.venues.htx import HuobiVenue
from streams.venues.kraken import KrakenVenue

from .tools import Delta


class Talk:
    """A session that only notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes | str] = []

    def send(self, frames: Iterable[bytes | str]) -> None:
        self.sent.extend(frames)

    def may_send(self, now: float) -> bool:
        return True

    def post(self, call: Callable[[], None]) -> None:
        call()

    def wake(self) -> None:
        pass

    def answered(self, route: Route, body: bytes) -> None:
        assert body == b"garbage", "nothing else was asked by REST"

    def record_http(self, url: str, body: bytes) -> None:
        pass


class NoRest:
    def fetch(self, request: RestRequest, done: object, wanted: object) -> None:
        raise AssertionError("this venue's snapshots do not come by REST")


@pytest.fixture
def clock(monkeypatch):
    now = types.SimpleNamespace(at=1000.0)
    monkeypatch.setattr(refresh.time, "monotonic", lambda: now.at)
    return now


def kraken():
    """A feed whose snapshots come by themselves, and one book of it that is wanted."""
    venue = KrakenVenue()
    feed = Feed("kraken", "test", venue, Store(), Handlers(), NoMetrics())
    route = venue.route("BTC-USD", "book")
    feed.subscriptions.want(route)
    feed.reconcile()
    return feed, route, Refresher(feed, venue, NoRest(), Talk())


def test_a_snapshot_that_should_come_by_itself_is_missed_when_it_does_not(clock):
    feed, route, refresher = kraken()
    feed.subscriptions.sent(route.topics, clock.at + 10)
    feed.subscriptions.acked(route.topics)
    refresher.ask(route, clock.at)

    def renewals(seconds: float) -> int:
        """How often it is subscribed anew, when each time the venue acknowledges, and stays silent."""
        count, until = 0, clock.at + seconds
        while clock.at < until:
            clock.at += 0.25
            refresher.tick(clock.at)
            leave, _ = feed.subscriptions.due(clock.at)
            if leave:
                count += 1
                feed.subscriptions.left(leave)
                feed.subscriptions.sent(leave, clock.at + 10)
                feed.subscriptions.acked(leave)
                refresher.ask(route, clock.at)
        return count

    assert renewals(FRAME_PATIENCE - 0.5) == 0      # it has its time
    assert renewals(1.0) == 1
    assert 1 <= renewals(4 * FRAME_PATIENCE) <= 2   # pauses double ...
    renewals(600.0)
    assert renewals(5 * LONGEST_PATIENCE) in (4, 5, 6)      # ... up to a bound, and it never gives up
    feed.keepers[route].apply(BookSnapshot(1, [(1.0, 1.0)], [(2.0, 1.0)]))
    assert feed.keepers[route].ready
    assert renewals(10 * LONGEST_PATIENCE) == 0


def test_one_that_came_by_itself_and_was_of_no_use_is_not_waited_for(clock):
    feed, route, refresher = kraken()
    feed.subscriptions.sent(route.topics, clock.at + 10)
    feed.subscriptions.acked(route.topics)
    refresher.ask(route, clock.at)
    feed.keepers[route].apply(BookBroken("the first snapshot's checksum differs", checksum=True))
    feed.announce()
    assert refresher.pause(clock.at) <= FIRST_PAUSE
    clock.at += FIRST_PAUSE
    refresher.tick(clock.at)
    assert feed.subscriptions.due(clock.at)[0] == list(route.topics)


def test_one_that_comes_with_the_answer_and_is_lost_at_once_does_not_hurry(clock):
    """Answer, snapshot and a bad update in one piece: the book is lost before the answer is looked at."""
    feed, route, refresher = kraken()
    pauses = []
    for _ in range(6):
        feed.subscriptions.sent(route.topics, clock.at + 10)
        feed.keepers[route].apply(BookSnapshot(1, [(1.0, 1.0)], [(2.0, 1.0)]))
        feed.keepers[route].apply(BookBroken("the checksum differs", checksum=True))
        feed.subscriptions.acked(route.topics)
        refresher.ask(route, clock.at)
        feed.announce()
        pauses.append(0.0)
        while not feed.subscriptions.due(clock.at)[0]:
            refresher.tick(clock.at)
            clock.at += 0.01
            pauses[-1] += 0.01
        feed.subscriptions.left(route.topics)
    assert pauses[-1] > 8 * FIRST_PAUSE and pauses == sorted(pauses)


class Slow:
    """REST calls that wait for their turn."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, Callable[[], bool]]] = []

    def fetch(self, request: RestRequest, done: object, wanted: Callable[[], bool]) -> None:
        self.calls.append((done, wanted))


def test_a_snapshot_that_waits_for_its_turn_is_not_asked_for_twice(clock):
    """With hundreds of symbols, the venue's limit has the last of them wait for minutes."""
    venue, slow = BinanceVenue(), Slow()
    feed = Feed("binance", "test", venue, Store(), Handlers(), NoMetrics())
    route = venue.route("BTC-USDT", "book")
    feed.subscriptions.want(route)
    feed.reconcile()
    refresher = Refresher(feed, venue, slow, Talk())
    assert list(feed.missing("live").values()) == ["not confirmed by the venue yet"]
    feed.subscriptions.sent(route.topics, clock.at + 10)
    feed.subscriptions.acked(route.topics)
    assert list(feed.missing("live").values()) == ["subscribed, no data yet"]
    assert list(feed.missing("connecting").values()) == ["connecting"]
    refresher.ask(route, clock.at)
    for _ in range(600):
        clock.at += 1.0
        refresher.tick(clock.at)
    (done, wanted), = slow.calls
    assert wanted()
    assert list(feed.missing("live").values()) == [ASKED]
    done("", None, "HTTP 500", 0.0)
    assert refresher.pause(clock.at) < 1.0
    clock.at += 1.0
    refresher.tick(clock.at)
    assert list(feed.missing("live").values()) == ["no snapshot: HTTP 500"], "asked anew, which is no news"
    (_, wanted), = slow.calls[1:]
    assert wanted()
    refresher.forget(route)
    feed.troubles.clear()
    assert not wanted()
    refresher.ask(route, clock.at)
    refresher.tick(clock.at)
    (_, wanted), = slow.calls[2:]
    assert wanted()
    assert list(feed.missing("live").values()) == [ASKED]
    refresher.end()
    assert not wanted()
    assert list(feed.missing("backoff").values()) == ["backoff"], "nobody asks any more"


def test_a_book_is_told_when_its_snapshot_is_asked_for_and_when_none_comes(clock):
    """Until then, and after that, it need not keep all updates."""
    venue, slow = BinanceVenue(), Slow()
    feed = Feed("binance", "test", venue, Store(), Handlers(), NoMetrics())
    route = venue.route("BTC-USDT", "book")
    feed.subscriptions.want(route)
    feed.reconcile()
    keeper = feed.keepers[route]
    refresher = Refresher(feed, venue, slow, Talk())
    refresher.ask(route, clock.at)
    refresher.tick(clock.at)
    (done, wanted), = slow.calls
    assert not keeper.asked, "it waits for its turn"
    assert wanted() and keeper.asked
    for body in (None, b"garbage"):
        done("", body, "HTTP 500", 0.0)
        assert not keeper.asked
        clock.at += 1.0
        refresher.tick(clock.at)
        done, wanted = slow.calls[-1]
        assert wanted() and keeper.asked
    done("", None, "HTTP 500", 0.0)
    clock.at += 1.0
    refresher.tick(clock.at)
    _, wanted = slow.calls[-1]
    refresher.forget(route)
    assert not wanted() and not keeper.asked


@pytest.mark.parametrize("venue", [KrakenVenue(), HuobiVenue(book_mode="incremental")])
def test_what_the_venue_itself_is_asked_for_is_asked_for_at_once(clock, venue):
    feed = Feed(venue.name, "test", venue, Store(), Handlers(), NoMetrics())
    route = venue.route("BTC-USD", "book")
    feed.subscriptions.want(route)
    feed.reconcile()
    keeper = feed.keepers[route]
    refresher = Refresher(feed, venue, NoRest(), Talk())
    refresher.ask(route, clock.at)
    refresher.tick(clock.at)
    assert keeper.asked
    keeper.connected()
    refresher.lost(route, "it had come, and is of no use")
    clock.at += 1.0
    refresher.tick(clock.at)
    assert keeper.asked


def test_a_book_whose_price_has_left_its_snapshot_is_rebuilt(clock):
    venue, slow = BinanceVenue(depth=100), Slow()
    feed = Feed("binance", "test", venue, Store(), Handlers(), NoMetrics())
    routes = [venue.route(f"S{n}-USDT", "book") for n in range(20)]
    for route in routes:
        feed.subscriptions.want(route)
    feed.reconcile()
    refresher = Refresher(feed, venue, slow, Talk())
    levels = [[f"{200 - n}", "1"] for n in range(100)]
    body = msgspec.json.encode({"lastUpdateId": 10, "bids": levels, "asks": [["201", "1"]]})
    for route in routes:
        [(_, whole)] = venue.snapshot(route, body, 1)
        feed.keepers[route].apply(whole)
        feed.keepers[route].apply(Delta(11, 11, [(float(200 - n), 0.0) for n in range(75)]))

    def looks(count: int) -> list[str]:
        for _ in range(count):
            refresher.look()
        return [feed.keepers[route].book.status for route in routes]

    assert looks(2 * ROUND) == ["live"] * 20, "a quarter of it is left"
    feed.keepers[routes[7]].apply(Delta(12, 12, [(125.0, 0.0)]))
    assert looks(2 * ROUND) == ["live"] * 7 + ["syncing"] + ["live"] * 12
    feed.announce()
    refresher.tick(clock.at)
    assert len(slow.calls) == 1 and feed.counters.resyncs == 1
    [(_, whole)] = venue.snapshot(routes[7], body.replace(b"10", b"13", 1), 1)
    feed.keepers[routes[7]].apply(whole)
    feed.keepers[routes[7]].apply(Delta(14, 14, []))
    assert looks(2 * ROUND) == ["live"] * 20


def test_a_book_without_numbers_that_stays_crossed_is_rebuilt(clock):
    venue = KrakenVenue()
    feed = Feed("kraken", "test", venue, Store(), Handlers(), NoMetrics())
    routes = [venue.route(f"S{n}-USD", "book") for n in range(20)]
    for route in routes:
        feed.subscriptions.want(route)
    feed.reconcile()
    refresher = Refresher(feed, venue, NoRest(), Talk())
    for route in routes:
        feed.subscriptions.sent(route.topics, clock.at + 10)
        feed.subscriptions.acked(route.topics)
        feed.keepers[route].apply(BookSnapshot(0, [(1.0, 1.0)], [(2.0, 1.0)]))
    feed.keepers[routes[7]].apply(Delta(0, 0, [(3.0, 1.0)]))
    for _ in range(4 * ROUND):
        refresher.look()
    assert [feed.keepers[route].ready for route in routes] == [True] * 7 + [False] + [True] * 12
    feed.announce()
    refresher.tick(clock.at)
    assert feed.subscriptions.due(clock.at)[0] == list(routes[7].topics) and feed.counters.resyncs == 1

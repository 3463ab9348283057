"""The fan-out, without a server: batches, the journal, copies of books."""

from __future__ import annotations

import random
import sys
import threading
import time
from decimal import Decimal

import pytest

from streams.book import OrderBook
from streams.errors import ConfigurationError, MissingDependency
from streams.events import Bar, Quote, Ticker, Trade
from streams.fanout import (
    VERSION, Batch, Change, Group, Happened, Kept, Keys, Marked, Whole, decode_batch, decode_kept, encode,
)
from streams.manager import StreamManager
from streams.mirror import Mirror
from streams.publisher import Publisher
from streams.remote import RemoteStore
from streams.replicas import Line, Replicas
from streams.store import Store, Writer

from .fanout_tools import Source, image
from .raw_peer import PATIENCE
from .tools import wait_until

pytest.importorskip("redis", reason="redis-py is not installed")
NOWHERE = "redis://127.0.0.1:9"


# -- what travels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", [
    Change(1, 2, 3, [(1.5, 0.0)], []), Change(1, 2, 3, [(Decimal("1.50"), Decimal("0"))], []),
    Whole(1, 2, 0, [(1.5, 2.0)], [(2.5, 1e-9)], "live", True), Marked("stale", "why"),
    Happened(Trade(exchange="x", symbol="A", price=Decimal("0.10"), size=2.0, conditions=("a", "b"))),
    Happened(Quote(exchange="x", symbol="A", bid=None, bid_size=None, ask=1.0, ask_size=2.0)),
    Happened(Ticker(exchange="x", symbol="A", last=1.0, timestamp=2**62)),
    Happened(Bar(exchange="x", symbol="A", interval="1m", start=1, open=1.0, high=2.0, low=0.5,
                 close=1.0)),
], ids=lambda item: type(getattr(item, "event", item)).__name__)
def test_everything_comes_back_as_it_was(item):
    group = Group("x", "A", "book", 2**50, 10, True, [item])
    batch = Batch(VERSION, "line", 7, 2**60, False, [group])
    assert decode_batch(encode(batch)) == batch
    assert decode_kept(encode(Kept(7, group))) == Kept(7, group)


@pytest.mark.parametrize("raw", [b"", b"x", b"\x90", encode(Batch(VERSION + 1, "l", 1, 1, False, []))])
def test_what_is_none_is_refused(raw):
    with pytest.raises(ValueError):
        decode_batch(raw)


def test_names_share_their_prefix():
    keys = Keys("mine")
    assert (keys.live("a"), keys.every_live, keys.log("a")) == ("mine:live:a", "mine:live:*", "mine:log:a")


# -- one copy ----------------------------------------------------------------------------------------


class Copy:
    def __init__(self):
        self.said = []
        self.writer = Writer()
        self.book = OrderBook("x", "A", self.writer.lock, time_unit=1)
        self.mirror = Mirror(
            self.book, self.writer.clock, lambda book, status, reason: self.said.append(status))

    def levels(self):
        return self.book["bids"], self.book["asks"]


def test_a_copy_follows():
    copy = Copy()
    assert copy.book.status == "syncing"
    assert copy.mirror.change(Change(1, 2, 3, [(9.0, 1.0)], []))        # of no use before a whole book
    assert copy.book.stamp is None
    copy.mirror.whole(Whole(5, 50, 0, [(1.0, 1.0), (2.0, 1.0)], [(3.0, 1.0)], "live", False))
    assert copy.levels() == ([(2.0, 1.0), (1.0, 1.0)], [(3.0, 1.0)]) and copy.book.status == "live"
    assert copy.mirror.change(Change(5, 7, 70, [(2.0, 0.0)], [(3.0, 4.0)]))
    assert copy.levels() == ([(1.0, 1.0)], [(3.0, 4.0)])
    assert (copy.book["sequence"], copy.book["timestamp"]) == (7, 70)
    assert not copy.mirror.change(Change(8, 9, 0, [], []))
    assert copy.said == ["live"]


def test_a_repeated_book_changes_nothing_but_what_is_incomplete():
    copy = Copy()
    copy.mirror.whole(Whole(5, 0, 0, [(1.0, 1.0)], [], "live", True))
    stamp = copy.book.stamp
    copy.mirror.whole(Whole(5, 0, 0, [(7.0, 1.0)], [], "live", True))
    assert copy.book.stamp == stamp and copy.book["bids"] == [(1.0, 1.0)]
    copy.mirror.lose("syncing", "gap")
    copy.mirror.whole(Whole(6, 0, 0, [(7.0, 1.0)], [], "live", True))
    assert copy.book["bids"] == [(7.0, 1.0)] and copy.book.status == "live"
    copy.mirror.whole(Whole(3, 0, 0, [(8.0, 1.0)], [], "live", False))     # numbers may begin anew
    assert copy.book["bids"] == [(8.0, 1.0)] and copy.book["sequence"] == 3


def test_a_copy_is_what_its_keeper_says():
    copy = Copy()
    copy.mirror.mark("live", "")                # nothing is there yet
    assert copy.book.status == "syncing"
    copy.mirror.whole(Whole(5, 0, 0, [], [], "live", False))
    copy.mirror.mark("stale", "silent")
    assert copy.mirror.change(Change(5, 6, 0, [], [])) and copy.book.status == "live"
    copy.mirror.mark("stale", "disconnected")
    copy.mirror.mark("syncing", "connected")
    assert copy.mirror.change(Change(6, 7, 0, [(1.0, 1.0)], [])) and copy.book.status == "syncing"
    copy.mirror.mark("live", "")                # not without a whole book
    assert copy.book.status == "syncing"
    copy.mirror.whole(Whole(9, 0, 0, [], [], "live", False))
    copy.mirror.mark("closed", "unsubscribed")
    assert copy.said == ["live", "stale", "live", "stale", "syncing", "live", "closed"]


def test_silence_of_a_line_is_not_silence_of_a_book():
    copy = Copy()
    copy.mirror.whole(Whole(5, 0, 0, [], [], "live", False))
    copy.mirror.silent("line")
    assert copy.book.status == "stale"
    copy.mirror.heard()
    assert copy.book.status == "live"
    copy.mirror.mark("stale", "the venue is silent")
    copy.mirror.silent("line")
    copy.mirror.heard()
    assert copy.book.status == "stale"


# -- the journal: readers end up with exactly what was written --------------------------------------


class Copies:
    """A publisher and a reader without anything between them."""

    def __init__(self, source, **options):
        self.publisher = Publisher(source.handlers, NOWHERE, **options)
        self.publisher._token = 5
        self.publisher._send = self._sent
        self.source = source
        self.store = Store()
        self.line = Line("line", 0.0)
        self.replicas = Replicas(self.store, self.store.writer(), None, None)
        self.raw = []
        source.handlers.set_tap(self.publisher._tap)
        source.follow()

    def _sent(self, batch):
        self.batch = batch
        self.raw.append(batch.data)

    def pass_on(self):
        self.publisher._flush()
        for raw in self.raw:
            self.replicas.apply(self.line, decode_batch(raw))
        self.raw = []


@pytest.mark.parametrize("rule", ["dense", "unsequenced", "snapshots"])
@pytest.mark.parametrize("seed", range(5))
def test_copies_equal_the_original_after_anything(seed, rule):
    source = Source("A", "B", seed=seed, rule=rule, depth=10)
    if rule != "dense":         # these number nothing
        source.change = lambda symbol, skip=0: source.whole(symbol, 0, source.rng.randrange(1, 9))
        whole = source.whole
        source.whole = lambda symbol, last=0, levels=5: whole(symbol, 0, levels)
    for _ in range(50):         # some of it before anybody listens
        source.anything()
    copies = Copies(source)
    for _ in range(400):
        for _ in range(source.rng.randrange(1, 10)):
            source.anything()
        copies.pass_on()
        ours, theirs = image(source.store), image(copies.store)
        assert theirs["books"] == ours["books"]
        for symbol, ids in theirs["trades"].items():
            assert ours["trades"][symbol][-len(ids):] == ids
    assert copies.replicas.counts.gaps == 0


def test_a_whole_book_says_what_it_is_wherever_its_batch_ends(monkeypatch):
    monkeypatch.setattr("streams.publisher.FULL", 1)
    source = Source("A")
    source.whole("A")
    source.feed.mark("stale", "disconnected")
    copies = Copies(source)
    apply, seen = copies.replicas.apply, []

    def watched(line, batch):
        apply(line, batch)
        seen.append(copies.replicas.books()[0]["status"])

    monkeypatch.setattr(copies.replicas, "apply", watched)
    for status, mark in (("stale", list), ("syncing", source.feed.connected),
                         ("closed", lambda: source.feed.mark("closed", "stopped"))):
        mark()
        for journal in copies.publisher._tap.journals():
            journal.repeat_all()
        copies.pass_on()
        assert set(seen) == {status}
        seen.clear()


def test_what_is_subscribed_later_and_not_any_more():
    source = Source("A")
    copies = Copies(source)
    source.whole("A")
    source.want("B")
    source.whole("B")
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]
    source.unwant("A")
    book = copies.store.orderbooks["hand"]["A"]
    copies.pass_on()
    assert book["status"] == "closed" and list(copies.store.orderbooks["hand"]) == ["B"]
    assert copies.batch.gone == {"hand A"}, "nor is it kept for newcomers"
    source.want("A")
    source.whole("A", 100)
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]


def test_trades_of_what_is_not_subscribed_any_more_leave_the_copies():
    source = Source("A", "B")
    copies = Copies(source)
    for symbol in "AB":
        source.whole(symbol)
        source.trade(symbol, 1)
    copies.pass_on()
    source.feed.subscriptions.unwant("A", "trades")
    source.follow()
    copies.pass_on()
    assert image(copies.store)["trades"] == image(source.store)["trades"] == {"B": ["1"]}
    assert not copies.batch.gone, "its book is still kept for newcomers"
    assert len(copies.replicas._all) == 3
    source.want("A")
    source.trade("A", 2)
    copies.pass_on()
    assert image(copies.store)["trades"] == image(source.store)["trades"] == {"A": ["2"], "B": ["1"]}
    source.feed.subscriptions.unwant("A", "trades")         # and wanted again before anybody has looked
    source.want("A")
    copies.pass_on()
    assert image(copies.store)["trades"] == image(source.store)["trades"] == {"A": ["2"], "B": ["1"]}


def test_trades_that_are_not_wanted_any_more_leave_the_copies_after_an_outage():
    source = Source("A")
    copies = Copies(source, limit=10)
    source.trade("A", 1)
    copies.pass_on()
    [journal] = copies.publisher._tap.journals()
    journal.drop_books()
    for number in range(2, 12):                             # as many as there is room for
        source.trade("A", number)
    source.unwant("A")
    assert journal.waiting <= 10
    copies.pass_on()
    assert image(copies.store)["trades"] == image(source.store)["trades"] == {}


def test_a_wildcard_of_others_is_left_alone_in_the_copies():
    copies = Copies(Source())
    replicas, store = copies.replicas, copies.store
    for number, (name, symbol) in enumerate((("A*", "AB"), ("A", "A"), ("*", "B")), 1):
        event = Trade(exchange="hand", symbol=symbol, price=1.0, size=1.0)
        group = Group("hand", name, "trades", 5, 0, False, [Happened(event)])
        replicas.apply(copies.line, Batch(VERSION, "line", number, 1, False, [group]))
    left = []
    for number, name in enumerate(("A*", "A", "*"), 4):
        group = Group("hand", name, "trades", 5, 0, False, [Marked("closed", "unsubscribed")])
        replicas.apply(copies.line, Batch(VERSION, "line", number, 1, False, [group]))
        left.append(sorted(store.trades["hand"]))
    assert left == [["A", "AB", "B"], ["A", "AB", "B"], []] and not replicas._all


def test_handlers_get_their_events_all_the_same():
    source = Source("A")
    got = []
    source.handlers.on(r"hand\.book\.A", got.append, policy="inline")
    copies = Copies(source)
    source.whole("A")
    source.change("A")
    copies.pass_on()
    assert [event.snapshot for event in got] == [True, False]
    assert image(copies.store)["books"] == image(source.store)["books"]


def test_a_journal_that_is_full_begins_anew_with_whole_books():
    source = Source("A", "B")
    copies = Copies(source, limit=100)
    source.whole("A")
    source.whole("B")
    copies.pass_on()
    for number in range(1000):
        source.change("A")
        source.trade("B", number)
    assert copies.publisher.status()["waiting"] <= 101
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]
    assert image(copies.store)["trades"]["B"][-1] == "999"
    # Counted to the unit: what was noted (two whole books, 2000 events) is taken or dropped.
    assert copies.publisher.status()["dropped"] >= 1800 and copies.replicas.counts.gaps == 0


def test_without_a_connection_no_books_wait():
    source = Source("A", "B")
    publisher = Publisher(source.handlers, NOWHERE)
    publisher.start()
    try:
        source.follow()
        source.whole("A")
        outages = publisher.status()["outages"]
        wait_until(lambda: publisher.status()["outages"] > outages, PATIENCE)
        for number in range(1000):
            source.anything()
        source.trade("A", 7)
        notes = [what for journal in publisher._tap.journals() for _, what in journal._notes]
        assert notes and {type(what) for what in notes} == {Trade}
    finally:
        assert publisher.stop()


def test_after_an_outage_whole_books_come_and_all_trades():
    source = Source("A")
    copies = Copies(source)
    source.whole("A")
    copies.pass_on()
    source.change("A")
    source.trade("A", 1)
    copies.publisher._outage(ConnectionError("gone"))
    source.trade("A", 2)
    source.change("A")
    with source.feed.writer.lock:
        source.feed.keepers[source.routes["A", "book"]].silent("silent")
    assert copies.publisher.status()["waiting"] == 2
    copies.pass_on()
    source.change("A")
    copies.pass_on()
    assert image(copies.store) == image(source.store)
    assert copies.publisher.status()["dropped"] == 3 and copies.replicas.counts.gaps == 0


def test_after_an_outage_no_book_is_live_before_it_is_whole(monkeypatch):
    source = Source("A", "B")
    copies = Copies(source)
    publisher, apply, seen = copies.publisher, copies.replicas.apply, []
    source.whole("A")
    source.whole("B")
    copies.pass_on()

    def watched(line, batch):
        apply(line, batch)
        seen.append([(book["status"], book["sequence"]) for book in copies.replicas.books()])

    monkeypatch.setattr(copies.replicas, "apply", watched)
    monkeypatch.setattr("streams.publisher.FULL", 3)        # so that each of the two has its batch
    monkeypatch.setattr(publisher, "_greet", lambda: None)
    monkeypatch.setattr(publisher, "_say_goodbye", lambda: None)
    publisher._outage(ConnectionError("gone"))
    source.whole("A", 5)
    source.whole("B", 5)
    monkeypatch.setattr("streams.publisher.LEVELS", 1)
    publisher._hurry.set()              # it returns when there is no more
    publisher._publish()
    copies.pass_on()
    assert seen[0] == [("live", 5), ("stale", 1)] and seen[1] == [("live", 5), ("live", 5)]


def test_what_follows_a_hole_is_not_passed_on_before_whole_books():
    source = Source("A")
    copies = Copies(source, limit=10)
    source.whole("A")
    copies.pass_on()
    for _ in range(5):
        source.change("A")
    journal, = copies.publisher._tap.journals()
    notes = journal.take()
    next(notes)
    for number in range(12):            # it overflows while they are taken
        source.change("A")
        source.trade("A", number)
    assert {outlet.channel for outlet, _ in notes} <= {"trades"}
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]


def test_an_end_is_passed_on_whatever_is_lost():
    source = Source("A", "B")
    copies = Copies(source)
    source.whole("A")
    copies.pass_on()
    source.unwant("A")
    journal, = copies.publisher._tap.journals()
    journal.outlets()
    journal.repeat_all()                # as after an outage of Redis
    book = copies.store.orderbooks["hand"]["A"]
    copies.pass_on()
    assert book["status"] == "closed" and not copies.store.orderbooks["hand"]
    assert len(copies.replicas.books()) == 0 and not copies.batch.kept
    assert {outlet.symbol for outlet in journal.outlets()} == {"B"}


@pytest.mark.parametrize("lost", [False, True])
def test_a_stream_that_has_ended_does_not_speak_for_its_successor(lost):
    old, new = Source("A"), Source("A")
    copies = Copies(old, repeat_every=1e-9)
    old.whole("A")
    old.feed.mark("closed", "stopped")
    copies.pass_on()
    assert copies.store.orderbooks["hand"]["A"]["status"] == "closed"
    new.feed.handlers = old.handlers
    new.follow()
    new.whole("A", 7)
    copies.pass_on()
    for journal in copies.publisher._tap.journals()[:1]:
        if lost:
            journal.repeat_all()
        journal.repeat(*journal.outlets()[:1])
    copies.pass_on()
    assert image(copies.store)["books"] == image(new.store)["books"]
    old.feed.connected()                # it may be started again
    old.whole("A", 20)
    copies.pass_on()
    assert image(copies.store)["books"] == image(old.store)["books"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_symbol_that_changes_hands_is_stale_and_may_come_back_at_once(lost):
    source = Source("A")
    source.unwant("A")
    source.feed.subscriptions.want(source.feed.facts.route("A", "trades"))     # these before its book
    source.want("A")
    copies = Copies(source, picked=True, limit=5)
    copies.publisher.own({("hand", "A"): 1})
    source.whole("A")
    copies.pass_on()
    assert copies.store.orderbooks["hand"]["A"]["status"] == "live"
    copies.publisher.release({("hand", "A")})
    for number in range(20 if lost else 2):
        source.trade("A", number)
        source.change("A")
    copies.pass_on()
    assert copies.store.orderbooks["hand"]["A"]["status"] == "stale"
    copies.publisher.own({("hand", "A"): 2})
    copies.publisher.release({("hand", "A")})
    copies.publisher.own({("hand", "A"): 3})
    copies.pass_on()
    source.change("A")
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]


def test_batches_are_bounded_in_levels():
    symbols = [f"S{n}" for n in range(40)]
    source = Source(*symbols)
    copies = Copies(source)
    for symbol in symbols:
        source.whole(symbol, levels=5000)
    copies.publisher._flush()
    assert len(copies.raw) >= 20 and max(map(len, copies.raw)) < 500_000
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]


def test_what_can_not_be_packed_silences_nobody_else(caplog):
    source = Source("A", "B")
    copies = Copies(source)
    source.whole("A")
    copies.pass_on()
    source.whole("A", 2**70)
    source.whole("B")
    copies.pass_on()
    books = copies.store.orderbooks["hand"]
    assert books["A"]["status"] == "syncing" and books["B"]["status"] == "live"
    assert "hand book A can not be packed" in caplog.text
    assert copies.publisher.status()["dropped"] == 1
    source.feed.mark("stale", "disconnected")
    source.feed.connected()
    source.whole("A", 4)
    copies.pass_on()
    assert image(copies.store)["books"] == image(source.store)["books"]


def test_a_mistake_of_the_venue_leaves_the_copy_honest():
    source = Source("A")
    copies = Copies(source)
    source.whole("A")
    with pytest.raises(AttributeError):
        source.apply("A", object())
    with source.feed.writer.lock:
        source.feed.keepers[source.routes["A", "book"]].lose("a message could not be handled")
    copies.pass_on()
    assert copies.store.orderbooks["hand"]["A"]["status"] == "syncing"


def test_nothing_is_noted_once_nobody_listens():
    source = Source("A")
    copies = Copies(source)
    source.handlers.set_tap(None)
    source.follow()
    source.whole("A")
    assert copies.publisher.status()["waiting"] == 0


def test_a_status_may_be_interrupted_anywhere():
    """By a signal handler, say, that stops the publisher."""
    copies, late = Copies(Source("A")), []

    def interrupt(frame, event, _):
        if frame.f_code.co_filename.endswith("journal.py"):
            other = threading.Thread(target=copies.publisher.status)
            other.start()
            other.join(2.0)             # for it can not be ended until this has gone on
            late.append(other.is_alive())
            return interrupt
        return None

    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        copies.publisher.status()
    finally:
        sys.settrace(before)
    assert len(late) > 3 and not any(late)


def test_a_tap_costs_little():
    source = Source("A")
    source.whole("A")
    route = source.routes["A", "book"]

    def cost(times):
        best = 1.0
        for _ in range(times):
            number = source.book("A").last
            changes = [Change(number + n + 1, number + n + 1, 0, [(99.0, 1.0)], []) for n in range(1000)]
            begun = time.perf_counter()
            with source.feed.writer.lock:
                for change in changes:
                    route.apply(change)
            best = min(best, (time.perf_counter() - begun) / 1000)
        return best

    bare = cost(20)
    copies = Copies(source)
    for _ in range(20):
        tapped = cost(1)
        copies.pass_on()
        if tapped - bare < 2e-6:
            return
    raise AssertionError(f"{(tapped - bare) * 1e6:.2f} us per update")


# -- who is believed ---------------------------------------------------------------------------------


class Reader:
    def __init__(self, **options):
        self.store = Store()
        self.replicas = Replicas(
            self.store, self.store.writer(), options.get("exchanges"), options.get("symbols"))
        self.numbers = {}

    def say(self, line, token, *items, symbol="A", channel="book", ending=False):
        line_ = self.numbers.setdefault(line, Line(line, 0.0))
        self.replicas.apply(line_, Batch(VERSION, line, line_.number + 1, time.time_ns(), ending, [
            Group("x", symbol, channel, token, 0, True, list(items))]))

    @property
    def book(self):
        return self.store.orderbooks["x"]["A"]


def whole(last, price=1.0, again=False, stamp=0):
    return Whole(last, 0, stamp, [(price, 1.0)], [], "live", again)


def test_the_higher_token_is_believed():
    reader = Reader()
    reader.say("old", 5, whole(1, 1.0))
    reader.say("new", 6, whole(9, 2.0))
    reader.say("old", 5, Change(1, 2, 0, [(7.0, 1.0)], []), whole(3, 7.0), Marked("closed", "zombie"))
    assert reader.book["bids"] == [(2.0, 1.0)] and reader.book["status"] == "live"
    assert reader.replicas.counts.fenced == 1 and reader.replicas.counts.takeovers == 1


def test_a_successor_is_stale_until_its_whole_book():
    reader = Reader()
    reader.say("old", 5, whole(1, 1.0))
    reader.say("new", 6, Change(1, 2, 0, [(7.0, 1.0)], []))     # by chance with the right number
    assert reader.book["status"] == "stale" and reader.book["bids"] == [(1.0, 1.0)]
    reader.say("new", 6, whole(2, 2.0, again=True))
    assert reader.book["status"] == "live" and reader.book["bids"] == [(2.0, 1.0)]


def test_a_trade_that_two_collectors_have_heard_of_comes_once():
    def trades(*ids):
        return [Happened(Trade(exchange="x", symbol="A", price=1.0, size=1.0, id=id)) for id in ids]

    reader = Reader()
    reader.say("old", 5, *trades("1", "2", "", "3"), channel="trades")
    reader.say("new", 6, *trades("2", "3", "", "4"), channel="trades")
    reader.say("old", 5, *trades("4", "5"), channel="trades")
    assert [trade.id for trade in reader.store.trades["x"]["A"]] == ["1", "2", "", "3", "", "4"]


def test_who_ended_politely_stands_in_nobodys_way():
    reader = Reader()
    reader.say("new", 6, whole(1, 1.0))
    reader.say("new", 6, ending=True)
    assert reader.book["status"] == "closed"
    reader.say("old", 5, whole(9, 2.0, again=True))
    assert reader.book["status"] == "live" and reader.book["bids"] == [(2.0, 1.0)]


def test_who_has_been_silent_for_long_stands_in_nobodys_way():
    reader = Reader()
    reader.say("new", 6, whole(1, 1.0))
    reader.replicas.silent(reader.numbers["new"], "silent")
    reader.say("old", 5, whole(9, 2.0, again=True))
    assert reader.book["status"] == "stale" and reader.book["bids"] == [(1.0, 1.0)]
    reader.numbers["new"].given_up = True
    reader.say("old", 5, whole(9, 2.0, again=True))
    assert reader.book["status"] == "live" and reader.book["bids"] == [(2.0, 1.0)]
    reader.replicas.heard(reader.numbers["new"])        # it is back after all
    reader.numbers["new"].given_up = False
    reader.say("new", 6, whole(2, 3.0, again=True))
    reader.say("old", 5, whole(9, 2.0))
    assert reader.book["status"] == "live" and reader.book["bids"] == [(3.0, 1.0)]


def test_who_is_back_after_long_goes_on_where_nobody_came():
    reader = Reader()
    reader.say("one", 6, whole(1, 1.0))
    reader.replicas.silent(reader.numbers["one"], "silent")
    reader.numbers["one"].given_up = True
    reader.say("one", 6, Change(1, 2, 0, [(2.0, 1.0)], []))
    reader.replicas.heard(reader.numbers["one"])
    assert reader.book["status"] == "live" and reader.book.best_bid == (2.0, 1.0)
    assert reader.replicas.counts.takeovers == 0


def test_a_line_is_given_up_in_the_end(monkeypatch):
    remote = RemoteStore(NOWHERE)
    line = remote._lines["one"] = Line("one", time.monotonic())
    for silence, given_up in ((1.0, False), (61.0, True), (1.0, False)):
        line.heard = time.monotonic() - silence
        remote._look()
        assert line.given_up is given_up


def test_lines_do_not_touch_each_others_books():
    reader = Reader()
    reader.say("one", 5, whole(1), symbol="A")
    reader.say("two", 6, whole(1), symbol="B")
    reader.replicas.silent(reader.numbers["two"], "silent")
    reader.replicas.broken(reader.numbers["two"], "broken")
    assert reader.book["status"] == "live"
    assert reader.store.orderbooks["x"]["B"]["status"] == "syncing"


def test_a_change_that_does_not_follow_is_a_gap():
    reader = Reader()
    reader.say("one", 5, whole(1), Change(2, 3, 0, [], []))
    assert reader.book["status"] == "syncing" and reader.replicas.counts.gaps == 1


def test_only_what_is_wanted_is_kept():
    reader = Reader(symbols={"A"}, exchanges={"x"})
    reader.say("one", 5, whole(1), symbol="B")
    reader.say("one", 5, whole(1), symbol="A")
    assert list(reader.store.orderbooks["x"]) == ["A"]
    assert not Reader(exchanges={"y"}).say("one", 5, whole(1))


def test_times_are_the_collectors_but_never_ahead_of_ours():
    reader = Reader()
    line = Line("one", 0.0)
    now = time.time_ns()
    for item, at, expected in ((whole(1, stamp=900), 1_000, 900), (Change(1, 2, 0, [], []), 2_000, 2_000),
                               (whole(3, stamp=now), now + 5, now), (whole(4, stamp=2**62), 2**62, None)):
        reader.replicas.apply(line, Batch(VERSION, "one", line.number + 1, at, False, [
            Group("x", "A", "book", 5, 0, True, [item])]))
        stamp = reader.book["last_update"]
        assert stamp == expected if expected else stamp <= time.time_ns()


def test_a_book_that_is_sent_again_is_as_old_as_it_was():
    source = Source("A")
    copies = Copies(source)
    source.whole("A")
    copies.pass_on()
    newcomer = Replicas(Store(), copies.store.writer(), None, None)
    time.sleep(0.01)            # so that now is another time than then
    for journal in copies.publisher._tap.journals():
        journal.repeat_all()
    copies.publisher._flush()
    newcomer.apply(Line("line", 0.0), decode_batch(copies.raw[-1]))
    assert newcomer.books()[0]["last_update"] == source.book("A")["last_update"]


def test_what_a_silent_line_says_is_not_live_before_it_is_heard_of():
    reader = Reader()
    line = reader.numbers["one"] = Line("one", 0.0, silent="nobody knows")
    for item in (whole(1), Change(1, 2, 0, [], []), Marked("stale", ""), Marked("live", "")):
        reader.say("one", 5, item)
        assert reader.book["status"] == "stale"
    reader.replicas.heard(line)
    assert reader.book["status"] == "live"
    reader.say("two", 6, whole(1))
    reader.replicas.silent(line, "silent")
    assert reader.book["status"] == "live"      # it is another's now


def test_half_a_batch_does_not_pass_for_a_whole_one(monkeypatch, caplog):
    reader = Reader()
    reader.say("one", 5, whole(1))
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "change", lambda *_: 1 / 0)
        reader.say("one", 5, Change(1, 1, 0, [], []))
    assert reader.replicas.counts.malformed == 1 and "ZeroDivisionError" in caplog.text
    assert reader.book["status"] == "syncing"
    reader.say("one", 5, Change(1, 1, 0, [], []))
    assert reader.book["status"] == "syncing"
    reader.say("one", 5, whole(2, again=True))
    assert reader.book["status"] == "live"


def test_nothing_that_is_said_makes_it_raise():
    rng = random.Random(4)
    reader = Reader()
    items = [whole(1), whole(2, again=True), Change(1, 2, 0, [(1.0, 0.0)], []), Marked("live", ""),
             Marked("syncing", ""), Marked("odd", ""),
             Happened(Trade(exchange="x", symbol="A", price=1.0, size=1.0))]
    for _ in range(3000):
        reader.say(rng.choice("ab"), rng.randrange(4), *rng.choices(items, k=3),
                   channel=rng.choice(["book", "trades"]), ending=rng.random() < 0.01)


# -- mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, about", [
    ({"history": 0}, "history"), ({"limit": 1.5}, "limit"), ({"heartbeat": 0}, "heartbeat"),
    ({"repeat_every": -1}, "repeat_every"), ({"proxy": "x"}, "proxy"),
    ({"prefix": 5}, "prefix=5: give text, like 'streams'"), ({"prefix": ""}, "prefix='': give text"),
    ({"timeout": "1"}, "timeout='1': it must be more than 0 seconds"),
    ({"heartbeat": "1"}, "heartbeat='1': it must be more than 0 seconds"),
])
def test_bad_options_of_a_publisher(options, about):
    with pytest.raises(ConfigurationError, match=about):
        Publisher(Source("A").handlers, NOWHERE, **options)


def test_mistakes_of_who_publishes():
    with pytest.raises(ConfigurationError, match="handlers=5: give those of a manager, or use its publish"):
        Publisher(5, NOWHERE)
    with StreamManager() as market:
        with pytest.raises(ConfigurationError, match="no option 'prefx'; did you mean 'prefix'"):
            market.publish(NOWHERE, prefx="mine")
        with pytest.raises(ConfigurationError, match="no option 'x'; there are: prefix, history"):
            market.publish(NOWHERE, x=1)
    with pytest.raises(ConfigurationError, match="timeout='1': give a number of seconds"):
        Publisher(Source("A").handlers, NOWHERE).stop("1")


@pytest.mark.parametrize("options, about", [
    ({"stale_after": 0}, "stale_after"), ({"symbols": "A"}, "symbols"), ({"exchanges": "x"}, "exchanges"),
    ({"stale_after": "2"}, "stale_after='2': it must be more than 0 seconds"), ({"prefix": 5}, "prefix=5"),
    ({"symbols": [5]}, "symbols: 5 is no name"), ({"exchanges": 5}, "exchanges=5: give a list of names"),
])
def test_bad_options_of_a_reader(options, about):
    with pytest.raises(ConfigurationError, match=about):
        RemoteStore(NOWHERE, **options)


def test_mistakes_of_who_reads():
    store = RemoteStore(NOWHERE)
    with pytest.raises(ConfigurationError, match="has not been started; start"):
        store.wait_ready(1)
    with pytest.raises(ConfigurationError, match="timeout='1': give a number of seconds"):
        store.wait_ready("1")
    for books in ("binance", ("binance", "BTC-USDT"), 5):
        with pytest.raises(ConfigurationError, match=r"books=.*: give pairs, like \[\('binance', 'BTC-USDT'"):
            store.wait_ready(1, books=books)
    with pytest.raises(ConfigurationError, match="timeout='1': give a number of seconds"):
        store.stop("1")


def test_bad_addresses_keep_their_secrets():
    for kind in (RemoteStore, lambda url: Publisher(Source("A").handlers, url)):
        with pytest.raises(ConfigurationError) as caught:
            kind("redis://:secret@host:port")
        assert "secret" not in str(caught.value)
    assert "secret" not in repr(RemoteStore("redis://:secret@host")._target)


def test_one_publisher_at_a_time():
    source = Source("A")
    Copies(source)
    with pytest.raises(ConfigurationError, match="published already"):
        Publisher(source.handlers, NOWHERE).start()


def test_a_missing_client_names_the_extra(monkeypatch):
    import builtins
    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", lambda name, *args, **kwargs: (
        real(name, *args, **kwargs) if name != "redis" else (_ for _ in ()).throw(ImportError(name))))
    with pytest.raises(MissingDependency, match=r"\[redis\]"):
        RemoteStore(NOWHERE)

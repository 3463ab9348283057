"""Books with checksums: real feeds, and the whole client against a simulated Kraken.

The truth is rebuilt here with plain dictionaries from the recordings' text, without the product's code.
"""

from __future__ import annotations

import json
import time
import zlib
from decimal import Decimal

import pytest

from streams import Kraken, StreamManager, refresh
from streams.checksums import DigitBook, Formula, digits
from streams.events import BookUpdate
from streams.feed import Feed
from streams.handlers import Handlers
from streams.metrics import NoMetrics
from streams.sim import Fault, KrakenSim
from streams.store import Store
from streams.venue import BookBroken, BookSnapshot
from streams.venues.kraken_messages import FORMULA

from ..recorded import read, recordings
from ..tools import NaiveBook, wait_live, wait_until, with_limits
from . import kraken_frames as frames

V1 = "kraken/derived_book10/v1_from_20210417.jsonl.gz"
V2 = "kraken/derived_book10/v2_from_20210417.jsonl.gz"


class Truth:
    """One book by the venue's rules, in text."""

    def __init__(self, depth=10):
        self.sides = {"bids": {}, "asks": {}}
        self.depth = depth

    def apply(self, record, whole):
        for name, side in self.sides.items():
            if whole:
                side.clear()
            for level in record[name]:
                side[Decimal(level["price"])] = level["price"], level["qty"]
            for price in [price for price, (_, size) in side.items() if not Decimal(size)]:
                del side[price]
            for price in sorted(side, reverse=name == "bids")[self.depth:]:
                del side[price]

    def levels(self, name, number=Decimal):
        return [(number(price), number(size)) for _, (price, size) in
                sorted(self.sides[name].items(), reverse=name == "bids")]

    def checksum(self):
        text = "".join(part.replace(".", "").lstrip("0") for name in ("asks", "bids")
                       for price in sorted(self.sides[name], reverse=name == "bids")[:10]
                       for part in self.sides[name][price])
        return zlib.crc32(text.encode())

    def snapshot(self, symbol):
        bids, asks = ([level for _, level in sorted(self.sides[name].items(), reverse=name == "bids")]
                      for name in ("bids", "asks"))
        return frames.book("snapshot", bids, asks, self.checksum(), symbol)


class Talk:
    """A venue, and the feed that it writes into; no network, no thread."""

    def __init__(self, symbols, **options):
        self.venue = Kraken.venue(**options)
        self.store = Store()
        self.handlers = Handlers(NoMetrics())
        self.feed = Feed("kraken", "test", Kraken.venue(**options), self.store, self.handlers, NoMetrics())
        self.store.join(self.feed.writer)
        self.lost = []
        self.feed.on_lost = lambda route, reason: self.lost.append((route.native, reason))
        self.signals = []
        self.venue.session.apply = self.signals.append
        for symbol in symbols:
            route = self.venue.route(symbol, "book")
            self.feed.subscriptions.want(route)
            self.venue.add(route)
        self.feed.reconcile()
        self.feed.connected()
        self.books = {route.native: keeper.book for route, keeper in self.feed.keepers.items()}

    def listen(self, pattern):
        heard = []
        self.handlers.on(pattern, heard.append, policy="inline")
        self.feed.rewire()
        return heard

    def take(self, raw, now=1):
        self.feed.writer.clock.now = now
        kinds = []
        for route, event in self.venue.receive(raw, now):
            kinds.append(type(event))
            route.apply(event)
        self.feed.drain()
        return kinds


def _messages():
    """The recording: ``(raw, record, whole)``, one record a message."""
    for item in read(recordings(V2)):
        message = json.loads(item.data, parse_float=str, parse_int=str)
        assert message["channel"] == "book" and len(message["data"]) == 1
        yield item.data, message["data"][0], message["type"] == "snapshot"


# -- recordings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float, Decimal])
def test_every_checksum_of_the_recording_matches(number):
    rows = list(_messages())
    talk = Talk(sorted({record["symbol"] for _, record, _ in rows}), number=number)
    updates = talk.listen(r"kraken\.book\..*")
    truths, copies = {}, {}
    for now, (raw, record, whole) in enumerate(rows, 1):
        symbol = record["symbol"]
        truth = truths.setdefault(symbol, Truth())
        truth.apply(record, whole)
        assert truth.checksum() == int(record["checksum"])
        assert talk.take(raw, now)
        book = talk.books[symbol]
        assert (book["status"], book["last_update"], book["sequence"]) == ("live", now, None)
        view = book.view()
        assert view["bids"] == truth.levels("bids", number) and view["asks"] == truth.levels("asks", number)
        # who only follows the updates has the same book
        update = updates.pop()
        assert isinstance(update, BookUpdate) and not updates
        copy = copies.setdefault(symbol, NaiveBook())
        copy.apply(update.bids, update.asks, None, update.snapshot)
        assert copy.sorted() == (view["bids"], view["asks"])
    assert len(rows) == 3352 and len(truths) == 10
    assert talk.feed.counters.checksum_failures == 0 and not talk.signals and not talk.lost


@pytest.mark.parametrize("every", [7, 41])
def test_no_book_is_live_after_a_missing_update(every):
    """Every n-th update is left out: the book is live with the truth, or not live."""
    rows = list(_messages())
    talk = Talk(sorted({record["symbol"] for _, record, _ in rows}), number=Decimal)
    truths, failures, harmless = {}, 0, 0
    for now, (raw, record, whole) in enumerate(rows, 1):
        symbol = record["symbol"]
        truth, book = truths.setdefault(symbol, Truth()), talk.books[symbol]
        truth.apply(record, whole)
        if not whole and not now % every:
            continue
        before = book.view()
        kinds = talk.take(raw, now)
        if kinds == [BookBroken]:
            failures += 1
            after = book.view()
            assert book["status"] == "syncing"
            assert (after["bids"], after["asks"]) == (before["bids"], before["asks"])
            assert talk.lost[-1][0] == symbol and talk.lost[-1][1].startswith("checksum ")
            assert talk.take(raw, now) == []                    # it waits
            assert talk.take(truth.snapshot(symbol), now) == [BookSnapshot]
        else:
            harmless += 1
        assert book["status"] == "live"
        view = book.view()
        assert view["bids"] == truth.levels("bids") and view["asks"] == truth.levels("asks")
    assert failures == talk.feed.counters.checksum_failures == len(talk.lost)
    assert failures > 3352 / every / 2 and harmless
    assert talk.feed.counters.gaps == 0


def _v2_failures(depth, change=lambda text: text):
    books, failures = {}, 0
    for _, record, whole in _messages():
        book = books.setdefault(record["symbol"], DigitBook(FORMULA, depth))
        sides = ([(Decimal(change(level["price"])), Decimal(change(level["qty"]))) for level in record[name]]
                 for name in ("bids", "asks"))
        book.replace(*sides) if whole else book.update(*sides)
        failures += book.checksum() != int(record["checksum"])
    return failures


def test_the_recording_tells_who_does_not_truncate_or_uses_floats():
    assert _v2_failures(10) == 0
    assert _v2_failures(None) == 1467
    assert _v2_failures(10, lambda text: repr(float(text))) == 3352


def test_v1_has_the_same_formula():
    books, checked = {}, 0
    for item in read(recordings(V1)):
        message = json.loads(item.data)
        parts, pair = [part for part in message if isinstance(part, dict)], message[-1]
        book = books.setdefault(pair, DigitBook(FORMULA, 10))
        for part in parts:
            whole = "as" in part
            sides = ([(Decimal(price), Decimal(size)) for price, size, *_ in part.get(name, ())]
                     for name in (("bs", "as") if whole else ("b", "a")))
            book.replace(*sides) if whole else book.update(*sides)
        if "c" in parts[-1]:
            assert book.checksum() == int(parts[-1]["c"])
            checked += 1
    assert checked > 3000


def _interleaved(bids, asks):
    longest = max(len(bids), len(asks))
    return ":".join(side[at] for at in range(longest) for side in (bids, asks) if at < len(side))


COLONS = Formula(25, lambda price, size: f"{digits(price)}:{digits(size)}", _interleaved, signed=True)


def test_a_signed_formula_with_interleaved_sides():
    book = DigitBook(COLONS)
    book.replace([(Decimal("3366.1"), Decimal(7))],
                 [(Decimal("3366.8"), Decimal(9)), (Decimal("3368"), Decimal(8))])
    assert book.checksum() == -1471518219       # the example of OKX's documentation


@pytest.mark.parametrize("path, count", [
    ("okx/cf_v5_20220513.jsonl.gz", 290), ("extra/cf_BITGET.jsonl.gz", 637)])
def test_other_venues_with_other_formulas(path, count):
    """What is in checksums.py serves them, too."""
    books, checked = {}, 0
    for item in read(recordings(path)):
        message = json.loads(item.data) if item.url is None and b'"checksum"' in item.data else {}
        for record in message.get("data", ()):
            book = books.setdefault(json.dumps(message["arg"], sort_keys=True), DigitBook(COLONS))
            sides = ([(Decimal(level[0]), Decimal(level[1])) for level in record[name]]
                     for name in ("bids", "asks"))
            book.replace(*sides) if message["action"] == "snapshot" else book.update(*sides)
            assert book.checksum() == record["checksum"]
            checked += 1
    assert checked == count


# -- the feed -------------------------------------------------------------------------------------------


def test_a_mismatch_is_counted_announced_and_heals():
    talk = Talk(["BTC-USD", "ETH-USD"])
    changes = talk.listen(r"kraken\.status\..*")
    talk.take(frames.SNAPSHOT)
    talk.take(frames.SNAPSHOT.replace(b"BTC", b"ETH"))
    talk.take(frames.book("update", [("45283.5", "9.00000000")], [], 1))
    assert (talk.books["BTC/USD"].status, talk.books["ETH/USD"].status) == ("syncing", "live")
    assert talk.books["BTC/USD"].best_bid == (45283.5, 0.1)         # the last that was right
    assert talk.feed.counters.checksum_failures == len(talk.lost) == 1
    assert (changes[-1].symbol, changes[-1].status) == ("BTC-USD", "syncing")
    assert changes[-1].reason.endswith("the venue says 1")
    talk.take(frames.SNAPSHOT)
    assert talk.books["BTC/USD"].status == "live" and changes[-1].status == "live"


def test_a_wrong_snapshot_asks_for_another():
    talk = Talk(["BTC-USD"])
    for count in (1, 2):
        talk.take(frames.book("snapshot", frames.BIDS, frames.ASKS, 1))
        assert len(talk.lost) == talk.feed.counters.checksum_failures == count
    assert talk.books["BTC/USD"].status == "syncing" and talk.books["BTC/USD"].stamp is None


@pytest.mark.parametrize("raw, lost", [
    (b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[],"asks":[],"checksum":1},'
     b'{"symbol":"ETH/USD","bids":[{"price":1,"qty":null}],"asks":[],"checksum":1}]}', "BTC/USD ETH/USD"),
    (b'{"channel":"book","type":"update","data":[{"symbol":"ETH/USD","bids":[{"pri', "ETH/USD"),
    (b'{"channel":"book","type":"update","data":[{"bids":[{"pri', "BTC/USD ETH/USD XRP/USD"),
    (b'{"cha', "BTC/USD ETH/USD XRP/USD"), (b"\xff\xfe", "BTC/USD ETH/USD XRP/USD"),
    (b'{"channel":"trade","type":"update","data":[{"sym', ""), (b'{"method":5}', ""), (b"[]", "")])
def test_every_book_that_a_bad_message_may_be_about_is_lost(raw, lost):
    talk = Talk(["BTC-USD", "ETH-USD", "XRP-USD"], depth=100)      # of which the checksum covers ten levels
    for name in (b"BTC", b"ETH", b"XRP"):
        talk.take(frames.SNAPSHOT.replace(b"BTC", name))
    talk.take(raw)
    assert [symbol for symbol, book in talk.books.items() if book.status != "live"] == lost.split()


def test_a_stale_book_is_lost_all_the_same():
    talk = Talk(["BTC-USD"])
    talk.take(frames.SNAPSHOT)
    keeper = next(iter(talk.feed.keepers.values()))
    keeper.silent("quiet")
    talk.take(frames.book("update", [("45283.5", "9.00000000")], [], 1))
    assert talk.books["BTC/USD"].status == "syncing" and len(talk.lost) == 1


# -- over real sockets -------------------------------------------------------------------------------------


def _oracle(sim, symbol, depth, number=float):
    book = sim.market.book(symbol)
    return tuple([(number(price), number(size)) for price, size in side[:depth]]
                 for side in (book.bids, book.asks))


def _levels(stream, symbol):
    view = stream.store.orderbooks["kraken"][symbol].view()
    return view["bids"], view["asks"]


def _agrees(stream, sim, symbol="BTC-USD", depth=10, number=float):
    book = stream.store.orderbooks.get("kraken", {}).get(symbol)
    return book is not None and book.status == "live" and (
        _levels(stream, symbol) == _oracle(sim, symbol.replace("-", "/"), depth, number))


def _asked(sim, method="subscribe"):
    return [message for conn in sim.connections for message in map(json.loads, conn.received)
            if message["method"] == method]


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("depth", [10, 25, 100])
def test_the_book_is_the_venues(serve, connect, number, depth):
    sim = serve(KrakenSim, rate=0)
    stream = connect(sim, ["BTC-USD", "ETH-USD"], kind=Kraken, number=number, depth=depth)
    wait_live(stream)
    sim.advance(500)
    for symbol in ("BTC-USD", "ETH-USD"):
        wait_until(lambda: _agrees(stream, sim, symbol, depth, number), store=stream.store)
    status = stream.status()
    assert status["checksum_failures"] == status["malformed"] == status["resyncs"] == 0


def test_every_state_that_is_seen_live_was_true(serve, connect, monkeypatch):
    """Updates are left out again and again; whoever reads a live book reads a moment of the market."""
    monkeypatch.setattr(refresh, "STREAK", 0.0)                 # no pauses in between
    sim = serve(KrakenSim, rate=0)
    stream = connect(sim, ["BTC-USD"], kind=with_limits(Kraken, messages=(1000, 1.0)), begin=False)
    seen = []

    def look(update):
        book = stream.store.orderbooks["kraken"]["BTC-USD"]
        if book.status == "live":
            seen.append(tuple(map(tuple, _levels(stream, "BTC-USD"))))
    stream.on(r"kraken\.(book|status)\.BTC-USD", look, policy="inline")
    stream.start()
    wait_live(stream)
    true = {tuple(map(tuple, _oracle(sim, "BTC/USD", 10)))}

    def move(count):
        for _ in range(count):
            sim.advance(1)
            true.add(tuple(map(tuple, _oracle(sim, "BTC/USD", 10))))
    for count in range(1, 16):
        move(5)
        wait_until(lambda: _agrees(stream, sim), store=stream.store)
        sim.inject(Fault.SKIP)
        while sim.struck["skip"] < count:
            move(1)
        move(10)
        wait_until(lambda: _agrees(stream, sim), store=stream.store)
    assert len(set(seen)) > 50 and set(seen) <= true
    status = stream.status()
    assert 10 < status["checksum_failures"] <= 15       # one that changes nothing for us is no loss
    assert status["reconnects"] == status["malformed"] == 0


def test_a_wrong_checksum_costs_one_book_its_snapshot(serve, connect):
    sim = serve(KrakenSim, rate=0)
    stream = connect(sim, ["BTC-USD", "ETH-USD"], kind=Kraken, begin=False)
    changes = []
    stream.on(r"kraken\.status\..+-USD", changes.append, policy="inline")
    stream.start()
    wait_live(stream)
    del changes[:]
    sim.spoil("BTC/USD")
    sim.advance(20)
    wait_until(lambda: stream.status()["checksum_failures"] == 1, store=stream.store)
    wait_until(lambda: _agrees(stream, sim) and _agrees(stream, sim, "ETH-USD"), store=stream.store)
    wait_until(lambda: len(changes) == 2)
    assert [(change.symbol, change.status) for change in changes] == [
        ("BTC-USD", "syncing"), ("BTC-USD", "live")]
    assert changes[0].reason.startswith("checksum ")
    status = stream.status()
    assert (status["checksum_failures"], status["resyncs"], status["gaps"]) == (1, 1, 0)
    assert status["reconnects"] == 0 and status["connects"] == 1
    assert [message["params"]["symbol"] for message in _asked(sim, "unsubscribe")] == [["BTC/USD"]]
    sim.advance(20)
    wait_until(lambda: _agrees(stream, sim), store=stream.store)


def test_wrong_snapshots_are_asked_for_again(serve, connect):
    sim = serve(KrakenSim, rate=0)
    sim.spoil("BTC/USD", 3, "snapshot")
    stream = connect(sim, ["BTC-USD"], kind=Kraken)
    wait_live(stream)
    assert stream.status()["checksum_failures"] == 3
    assert _agrees(stream, sim)


def test_checksums_that_never_match_are_no_storm(serve, connect):
    """The pauses grow: it is not asked as fast as the venue answers."""
    sim = serve(KrakenSim, rate=200)
    sim.spoil("BTC/USD", 10 ** 9)
    begun = time.monotonic()
    stream = connect(sim, ["BTC-USD", "ETH-USD"], kind=with_limits(Kraken, messages=(1000, 1.0)))
    wait_until(lambda: stream.status()["checksum_failures"] >= 5)
    assert time.monotonic() - begun > 0.1 + 0.2 + 0.4
    wait_until(lambda: stream.store.orderbooks["kraken"]["ETH-USD"].status == "live")
    assert stream.status()["reconnects"] == 0


@pytest.mark.parametrize("fault", [
    Fault.SKIP, Fault.REORDER, Fault.DUPLICATE, Fault.FRAGMENT, Fault.DROP, Fault.CLOSE, Fault.RESET,
    *(Fault.GARBAGE(kind=kind) for kind in (
        "invalid", "truncated", "types", "nan", "negative", "unknown", "nested", "utf8"))], ids=repr)
def test_it_recovers(serve, connect, fault):
    sim = serve(KrakenSim, rate=0)
    stream = connect(sim, ["BTC-USD"], kind=Kraken)
    wait_live(stream)
    sim.inject(fault)
    sim.advance(10)
    wait_until(lambda: sim.struck[fault.name])
    wait_live(stream)
    sim.advance(10)
    wait_until(lambda: _agrees(stream, sim), store=stream.store)


def test_all_channels_and_a_refusal(serve, connect):
    sim = serve(KrakenSim, rate=200)
    stream = connect(sim, ["BTC-USD", "FOO-BAR"], ["book", "quotes", "trades", "ticker"], kind=Kraken)
    store = stream.store
    wait_until(lambda: all(state["state"] == ("live" if "BTC" in name else "refused")
                           for name, state in stream.status()["subscriptions"].items()))
    wait_until(lambda: len(store.trades["kraken"].get("BTC-USD", ())) > 3, store=store)
    wait_until(lambda: "BTC-USD" in store.quotes["kraken"] and "BTC-USD" in store.tickers["kraken"])
    assert stream.status()["subscriptions"]["book.FOO-BAR"]["reason"] == "Currency pair not supported FOO/BAR"
    ids = [int(trade.id) for trade in store.trades["kraken"]["BTC-USD"]]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert "FOO-BAR" not in store.orderbooks["kraken"]
    assert stream.status()["malformed"] == stream.status()["checksum_failures"] == 0
    stream.unsubscribe(["BTC-USD"], ["quotes"])                 # the ticker needs the same subscription
    stream.unsubscribe(["BTC-USD"], ["book"])
    wait_until(lambda: any("book" in message["params"]["channel"] for message in _asked(sim, "unsubscribe")))
    assert {message["params"]["channel"] for message in _asked(sim, "unsubscribe")} == {"book"}


def test_the_manager_gives_each_interval_a_connection(serve):
    sim = serve(KrakenSim, rate=200)
    with StreamManager() as market:
        market.start("kraken", ["BTC-USD"], ["book", "bars:1m", "bars:5m"], url=sim.url,
                     rest_url=sim.rest_url)
        market.wait_ready(timeout=10)
        wait_until(lambda: set(market.store.bars["kraken"].get("BTC-USD", ())) == {"1m", "5m"})
        assert len(sim.connections) == 3
        ticker = market.ticker("kraken", "ETH-USD")
        assert ticker.source == "rest" and ticker.bid < ticker.ask

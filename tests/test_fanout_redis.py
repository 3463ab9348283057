"""The fan-out over a real Redis server: readers equal the collector, through everything that fails."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from streams.fanout import VERSION, Batch, Change, Group, Happened, Kept, Keys, Marked, Whole, encode
from streams.errors import ConfigurationError, NotReady, StaleData
from streams.events import Trade
from streams.manager import StreamManager
from streams.publisher import Publisher, take_tokens
from streams.redisclient import RedisClient
from streams.remote import RemoteStore
from streams.replicas import Replicas
from streams.sim import BinanceSim

from .fanout_tools import Source, image, quiet, settled
from .raw_peer import PATIENCE, RawPeer
from .redis_server import redis_server
from .test_process import in_child
from .tools import exact, wait_until

pytest.importorskip("redis", reason="redis-py is not installed")

__all__ = ["redis_server"]


@pytest.fixture
def follow(stack):
    """``follow(server)``: a reader that is stopped in the end."""
    def begin(server, **options):
        remote = stack.enter_context(RemoteStore(server.url, **options))
        remote.wait_ready(PATIENCE)
        return remote
    return begin


@pytest.fixture
def publish(stack):
    """``publish(source, server)``: a publisher that is stopped in the end."""
    def begin(source, server, **options):
        publisher = Publisher(source.handlers, server.url, **{"heartbeat": 0.1, **options})
        publisher.start()
        source.follow()
        stack.callback(lambda: publisher.stop() or pytest.fail("the publisher did not stop"))
        wait_until(lambda: publisher.connected, PATIENCE)
        return publisher
    return begin


# -- readers equal the collector ---------------------------------------------------------------------


def test_a_reader_equals_the_collector(redis_server, publish, follow):
    source = Source("A", "B", "C", seed=3)
    remote = follow(redis_server)
    publisher = publish(source, redis_server, repeat_every=0.2)
    for _ in range(20):
        for _ in range(100):
            source.anything()
        settled(publisher, remote)
        assert image(remote)["books"] == image(source.store)["books"]
    assert image(remote) == image(source.store)
    status = remote.status()
    assert status["gaps"] == status["malformed"] == status["fenced"] == 0 and status["connects"] == 1


def test_a_newcomer_catches_up(redis_server, publish, follow):
    source = Source("A", "B", "quiet", seed=4)
    publisher = publish(source, redis_server, repeat_every=3600.0)
    source.whole("quiet", 7)
    source.whole("A")
    source.symbols.remove("quiet")
    for _ in range(500):
        source.anything()
    wait_until(lambda: not publisher.status()["waiting"], PATIENCE)
    remote = follow(redis_server)
    settled(publisher, remote)
    assert image(remote)["books"] == image(source.store)["books"]
    for _ in range(100):
        source.anything()
    settled(publisher, remote)
    assert image(remote)["books"] == image(source.store)["books"]


def test_a_newcomer_does_not_trust_what_has_a_hole(redis_server, publish, follow):
    source = Source("A", "B", seed=4)
    publisher = publish(source, redis_server, repeat_every=3600.0)
    source.whole("A")
    source.whole("B")
    quiet(publisher)        # a whole book that went out with the change, or after it, would have no hole
    with redis_server.client() as client:
        source.change("A")
        settled_at = publisher.status()["batches"]
        wait_until(lambda: publisher.status()["batches"] > settled_at + 1, PATIENCE)
        client.xtrim(Keys("streams").log(publisher.line), maxlen=0)
    remote = follow(redis_server)
    settled(publisher, remote)
    assert "A" not in remote.orderbooks.get("hand", {}) or remote.orderbooks["hand"]["A"]["status"] != "live"
    source.whole("A", 100)
    settled(publisher, remote)
    assert image(remote)["books"]["A"] == image(source.store)["books"]["A"]


def test_whole_books_are_repeated(redis_server, publish, follow):
    source = Source("A")
    publisher = publish(source, redis_server, repeat_every=0.2)
    source.whole("A")
    wait_until(lambda: not publisher.status()["waiting"], PATIENCE)
    with redis_server.client() as client:
        client.delete(Keys("streams").books(publisher.line), Keys("streams").log(publisher.line))
    remote = follow(redis_server)
    wait_until(lambda: image(remote)["books"] == image(source.store)["books"], PATIENCE)


def test_nothing_is_left_for_ever_whenever_a_publisher_is_killed(redis_server, publish, monkeypatch):
    source = Source("A")
    publisher = publish(source, redis_server)
    keys = Keys("streams")
    with redis_server.client() as client:
        def ends(*names):
            return [client.ttl(name) > 0 for name in names]

        wait_until(lambda: publisher.status()["batches"] > 2, PATIENCE)      # it has renewed what there was
        monkeypatch.setattr("streams.publisher.RENEW", 3600.0)
        source.whole("A")
        quiet(publisher)
        assert ends(keys.books(publisher.line), keys.log(publisher.line)) == [True, True]
        source.unwant("A")              # so that there is no whole book that would do it
        quiet(publisher)
        redis_server.stop()
        wait_until(lambda: publisher.status()["outages"], PATIENCE)
        redis_server.start()
        wait_until(lambda: publisher.connected and client.exists(keys.log(publisher.line)), PATIENCE)
        assert ends(keys.log(publisher.line)) == [True]


@pytest.mark.parametrize("history, size", [(20, 1 << 30), (5000, 20_000)])
def test_the_log_is_bounded_in_batches_and_in_bytes(redis_server, publish, monkeypatch, history, size):
    monkeypatch.setattr("streams.publisher.LOG_BYTES", size)
    source = Source("A")
    publisher = publish(source, redis_server, history=history, repeat_every=0.01)
    source.whole("A", 1, 50)
    wait_until(lambda: publisher.status()["bytes"] > 90_000, PATIENCE)
    with redis_server.client() as client:
        entries = client.xrange(Keys("streams").log(publisher.line))
    assert len(entries) < 2 * history and sum(len(fields[b"b"]) for _, fields in entries) < 2 * size
    assert len(entries) >= 5


def test_reads_like_a_local_store(redis_server, publish, follow):
    source = Source("A", depth=3)
    remote = follow(redis_server)
    publisher = publish(source, redis_server)
    assert remote.last_update is None
    woken = []
    waiter = threading.Thread(target=lambda: woken.append(remote.wait(None, PATIENCE)))
    waiter.start()
    source.whole("A")
    waiter.join(PATIENCE)
    assert woken and woken[0] == remote.last_update
    settled(publisher, remote)
    seen = remote.last_update
    source.change("A")
    assert remote.wait(seen, PATIENCE) > seen
    book = remote.orderbooks["hand"]["A"]
    with remote.lock:
        assert len(book["bids"]) == 3 and book.best_bid == book["bids"][0] and book.mid
    view = remote.orderbook("hand", "A", max_age=5.0)
    assert view["status"] == "live" and view.age < 5.0
    with source.feed.writer.lock:
        source.feed.keepers[source.routes["A", "book"]].silent("silent")
    source.feed.drain()
    settled(publisher, remote)
    with pytest.raises(StaleData):
        remote.orderbook("hand", "A", max_age=5.0)


def test_only_what_is_wanted_and_of_the_same_prefix(redis_server, publish, follow):
    source = Source("A", "B")
    some, none = follow(redis_server, symbols=["A"]), follow(redis_server, prefix="other")
    publisher = publish(source, redis_server)
    source.whole("A")
    source.whole("B")
    settled(publisher, some)
    assert list(some.orderbooks["hand"]) == ["A"] and not none.orderbooks


def test_the_managers_own_streams(redis_server, serve, follow):
    sim = serve(BinanceSim, symbols=("BTCUSDT", "ETHUSDT"), rate=100, levels=50)
    remote = follow(redis_server)
    with StreamManager() as market:
        publisher = market.publish(redis_server.url)
        market.start("binance", ["BTC-USDT", "ETH-USDT"], channels=["book", "trades"], url=sim.url,
                     rest_url=sim.rest_url)
        remote.wait_ready(PATIENCE, books=[("binance", "BTC-USDT"), ("binance", "ETH-USDT")])
        for _ in range(20):
            remote.wait(remote.last_update, 1.0)
            for symbol, book in remote.orderbooks["binance"].items():
                view = book.view()
                truth = sim.market.book(symbol.replace("-", ""), view["sequence"])
                assert view["status"] == "live" and exact(view["bids"]) == truth.bids
        with pytest.raises(ConfigurationError, match="published already"):
            market.publish(redis_server.url)
    assert not publisher.is_alive()
    wait_until(lambda: {b["status"] for b in remote.orderbooks["binance"].values()} == {"closed"}, PATIENCE)


# -- what fails ----------------------------------------------------------------------------------------


def test_redis_is_killed_and_comes_back_empty(redis_server, publish, follow):
    source = Source("A", "B", seed=6)
    remote = follow(redis_server)
    publisher = publish(source, redis_server)
    source.whole("A")
    source.whole("B")
    settled(publisher, remote)
    for _ in range(2):
        outages = publisher.status()["outages"]
        redis_server.stop()
        wait_until(lambda: {b["status"] for b in remote.orderbooks["hand"].values()} == {"stale"}, PATIENCE)
        begun = time.monotonic()
        for _ in range(300):
            source.anything()
            source.change("A")
        assert time.monotonic() - begun < 2.0           # nobody who writes waits for Redis
        before = image(source.store)
        wait_until(lambda: publisher.status()["outages"] > outages, PATIENCE)       # it has noticed
        redis_server.start()
        wait_until(lambda: publisher.connected and remote.status()["connected"], PATIENCE)
        settled(publisher, remote)
        assert image(source.store) == before            # the collector's own store is undisturbed
        assert image(remote)["books"] == before["books"]
        assert image(remote)["trades"]["B"][-5:] == before["trades"]["B"][-5:]
        source.whole("A", 10**6 + publisher._number)
        source.whole("B", 10**6 + publisher._number)
        settled(publisher, remote)


def test_redis_hangs(redis_server, publish, follow):
    source = Source("A", seed=7)
    remote = follow(redis_server, stale_after=0.5, timeout=0.5)
    publisher = publish(source, redis_server, timeout=0.5)
    source.whole("A")
    settled(publisher, remote)
    redis_server.suspend()
    try:
        source.change("A")
        wait_until(lambda: remote.orderbooks["hand"]["A"]["status"] == "stale", PATIENCE)
        wait_until(lambda: publisher.status()["outages"] >= 1, PATIENCE)
        for _ in range(100):
            source.change("A")
    finally:
        redis_server.resume()
    wait_until(lambda: publisher.connected and remote.status()["connected"], PATIENCE)
    settled(publisher, remote)
    assert image(remote)["books"] == image(source.store)["books"]
    assert remote.status()["gaps"] == 0


def test_a_reader_that_lost_its_connection_misses_nothing(redis_server, publish, follow):
    source = Source("A", "B", seed=8)
    remote = follow(redis_server)
    publisher = publish(source, redis_server)
    with redis_server.client() as client:
        for round in range(5):
            for _ in range(50):
                source.anything()
            client.client_kill_filter(_type="pubsub")
            for _ in range(50):
                source.anything()
            wait_until(lambda: remote.status()["connects"] == round + 2, PATIENCE)
        settled(publisher, remote)
    assert image(remote) == image(source.store)         # trades included: none is missing, none is double
    assert remote.status()["gaps"] == 0 and remote.status()["filled"] > 0


def test_a_publisher_that_lost_its_connection_says_nothing_twice(redis_server, publish, follow):
    source = Source("A", "B", seed=9)
    remote = follow(redis_server)
    publisher = publish(source, redis_server)
    with redis_server.client() as client:
        for _ in range(5):
            for _ in range(50):
                source.anything()
            outages = publisher.status()["outages"]
            client.client_kill_filter(_type="normal", skipme=True)
            source.trade("A", 1)
            wait_until(lambda: publisher.connected or publisher.status()["outages"] > outages, PATIENCE)
        wait_until(lambda: publisher.connected, PATIENCE)
        settled(publisher, remote)
    assert image(remote) == image(source.store)
    assert remote.status()["gaps"] == 0


def test_a_publisher_that_can_not_keep_up_loses_visibly_and_heals(redis_server, publish, follow):
    source = Source("A", "B", seed=10)
    remote = follow(redis_server)
    publisher = publish(source, redis_server, limit=50, timeout=0.5)
    source.whole("A")
    source.whole("B")
    settled(publisher, remote)
    redis_server.suspend()
    for _ in range(3000):
        source.anything()
    redis_server.resume()
    wait_until(lambda: publisher.connected, PATIENCE)
    settled(publisher, remote)
    assert publisher.status()["dropped"] > 1000
    assert image(remote)["books"] == image(source.store)["books"]


def test_a_batch_that_redis_does_not_take_keeps_nobody_back(tmp_path, publish, follow, caplog):
    from .redis_server import RedisServer, needs_redis
    needs_redis()
    server = RedisServer(tmp_path, "--proto-max-bulk-len", "1mb").start()
    try:
        source = Source("A", "B")
        remote = follow(server)
        publisher = publish(source, server)
        source.whole("A", levels=60_000)            # over 2 MB
        wait_until(lambda: publisher.status()["lost"], PATIENCE)
        source.whole("A", 2)
        source.whole("B", 2)
        wait_until(lambda: image(remote)["books"] == image(source.store)["books"], PATIENCE)
        assert "is lost, Redis does not take it" in caplog.text
        assert publisher.stop()
    finally:
        server.stop()


# -- lines played by hand ----------------------------------------------------------------------------


class HandLine:
    """A publisher played by hand."""

    def __init__(self, server, name="line", token=1):
        self.client = server.client()
        self.keys, self.name, self.token, self.number = Keys("streams"), name, token, 0
        self.client.hset(self.keys.lines, name, "1")
        self.client.set(self.keys.alive(name), "1")

    def say(self, *items, live=True, logged=True, ending=False, channel="book", age=0.0):
        self.number += 1
        groups = [Group("x", "A", channel, self.token, 0, True, list(items))] if items else []
        raw = encode(Batch(
            VERSION, self.name, self.number, time.time_ns() - int(age * 1e9), ending, groups))
        if logged:
            self.client.xadd(self.keys.log(self.name), {"b": raw}, id=f"{self.number}-0")
        if live:
            self.client.publish(self.keys.live(self.name), raw)


@pytest.fixture
def hand(redis_server):
    lines = []

    def begin(*args, **kwargs):
        lines.append(HandLine(redis_server, *args, **kwargs))
        return lines[-1]
    yield begin
    for line in lines:
        line.client.connection_pool.disconnect()


def whole(last, price=1.0, again=False):
    return Whole(last, 0, time.time_ns(), [(price, 1.0)], [], "live", again)


def book_of(remote):
    return remote.orderbooks["x"]["A"]


def speaks(line, remote):
    """Say something until the book is live: on a busy machine a batch may be too late to count."""
    wait_until(lambda: line.say() or remote.orderbooks and book_of(remote)["status"] == "live", PATIENCE)


def test_a_silent_line_is_stale_until_it_speaks(redis_server, hand, follow):
    remote = follow(redis_server, stale_after=0.3)
    line = hand()
    line.say(whole(1))
    speaks(line, remote)
    wait_until(lambda: book_of(remote)["status"] == "stale", PATIENCE)
    speaks(line, remote)


def test_what_was_long_on_its_way_ends_no_silence(redis_server, hand, follow, monkeypatch, caplog):
    remote = follow(redis_server, stale_after=0.3)
    line = hand()
    line.say(whole(1))
    speaks(line, remote)
    wait_until(lambda: book_of(remote)["status"] == "stale", PATIENCE)
    monkeypatch.setattr(remote, "_stale_after", 60.0)       # so that no late batch of this test is too late
    for last in range(2, 5):
        line.say(Change(last - 1, last, 0, [], []), age=90.0)
    wait_until(lambda: book_of(remote)["sequence"] == 4, PATIENCE)
    assert book_of(remote)["status"] == "stale" and caplog.text.count("is old, or the clocks differ") == 1
    line.say(Change(4, 5, 0, [], []))
    wait_until(lambda: book_of(remote)["status"] == "live", PATIENCE)


def test_a_line_that_only_says_the_same_again_is_silent(redis_server, hand, follow):
    remote = follow(redis_server, stale_after=0.3)
    line = hand()
    line.say(whole(1))

    def says_it_again():
        line.number -= 1
        line.say(whole(1), logged=False)
        return remote.orderbooks and book_of(remote)["status"] == "stale"

    speaks(line, remote)
    wait_until(says_it_again, PATIENCE)


def test_batches_that_did_not_arrive_are_found_in_the_log(redis_server, hand, follow):
    remote = follow(redis_server)
    line = hand()
    line.say(whole(1))
    line.say(Change(1, 2, 0, [(2.0, 1.0)], []), live=False)
    line.say(Change(2, 3, 0, [(3.0, 1.0)], []))
    wait_until(lambda: remote.status()["batches"] == 3, PATIENCE)
    assert [price for price, _ in book_of(remote)["bids"]] == [3.0, 2.0, 1.0]
    assert remote.status()["gaps"] == 0 and remote.status()["filled"] == 1


def test_batches_that_are_nowhere_are_a_gap_and_a_whole_book_heals(redis_server, hand, follow):
    remote = follow(redis_server)
    line = hand()
    line.say(whole(1))
    line.say(Change(1, 2, 0, [(2.0, 1.0)], []), live=False, logged=False)
    line.say(Change(2, 3, 0, [(3.0, 1.0)], []))
    wait_until(lambda: remote.status()["batches"] == 2, PATIENCE)
    assert book_of(remote)["status"] == "syncing" and remote.status()["gaps"] == 1
    assert [price for price, _ in book_of(remote)["bids"]] == [1.0]     # the last that was right
    line.say(whole(4, 4.0, again=True))
    wait_until(lambda: book_of(remote)["status"] == "live", PATIENCE)
    assert [price for price, _ in book_of(remote)["bids"]] == [4.0]


def test_repeated_batches_are_taken_once(redis_server, hand, follow):
    remote = follow(redis_server)
    line = hand()
    trade = Happened(Trade(exchange="x", symbol="A", price=1.0, size=1.0, id="1"))
    line.say(trade, channel="trades")
    line.number -= 1
    line.say(trade, channel="trades", logged=False)
    line.say(Happened(Trade(exchange="x", symbol="A", price=1.0, size=1.0, id="2")), channel="trades")
    wait_until(lambda: remote.status()["batches"] == 2, PATIENCE)
    assert [trade.id for trade in remote.trades["x"]["A"]] == ["1", "2"]


def test_nonsense_is_counted_and_harmless(redis_server, hand, follow):
    remote = follow(redis_server)
    line = hand()
    line.say(whole(1))
    for raw in (b"", b"nonsense", b"\x93\1\2\3", encode(Batch(99, "l", 1, 1, False, []))):
        line.client.publish(line.keys.live("line"), raw)
        line.client.xadd(line.keys.log("other"), {"b": raw})
    line.client.hset(line.keys.books("other"), "x A", b"nonsense")
    line.client.hset(line.keys.lines, "other", "1")
    line.client.set(line.keys.alive("other"), "1")
    line.say(Change(1, 2, 0, [(2.0, 1.0)], []))
    wait_until(lambda: remote.status()["batches"] == 2, PATIENCE)
    assert remote.status()["malformed"] == 4 and book_of(remote)["status"] == "live"
    another = follow(redis_server)
    assert another.status()["malformed"] == 1


def test_what_a_dead_line_left_behind_is_not_live(redis_server, hand, follow):
    line = hand()
    line.say(whole(1))
    kept = Kept(1, Group("x", "A", "book", 1, 0, True, [whole(1)]))
    line.client.hset(line.keys.books("line"), "x A", encode(kept))
    seen = set()
    remote = follow(redis_server)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        seen.add(book_of(remote)["status"])
        remote.wait(remote.last_update, 0.05)
    assert seen == {"stale"}
    line.say(Change(1, 2, 0, [], []))
    wait_until(lambda: book_of(remote)["status"] == "live", PATIENCE)


def test_nothing_is_live_while_the_past_of_a_line_is_read(redis_server, hand, follow, monkeypatch):
    line = hand()
    line.say(whole(1))
    kept = Kept(1, Group("x", "A", "book", 1, 0, True, [whole(1)]))
    line.client.hset(line.keys.books("line"), "x A", encode(kept))
    for number in range(1, 50):
        line.say(Change(number, number + 1, 0, [(float(number), 1.0)], []))
    seen = set()
    apply = Replicas.apply

    def watched(self, *what):
        apply(self, *what)
        seen.update(book.status for book in self.books())

    monkeypatch.setattr(Replicas, "apply", watched)
    remote = follow(redis_server)
    assert remote.status()["filled"] == 49 and seen == {"stale"}
    assert book_of(remote)["sequence"] == 50


def test_of_kept_books_only_those_count_that_are_complete(redis_server, hand, follow):
    line = hand()
    line.say(whole(1), logged=False)
    for number, symbol in ((1, "A"), (3, "B")):         # batch 2 is nowhere, and may have been about A
        kept = Kept(number, Group("x", symbol, "book", 1, 0, True, [whole(1)]))
        line.client.hset(line.keys.books("line"), f"x {symbol}", encode(kept))
    line.number = 3
    remote = follow(redis_server)
    line.say()
    wait_until(lambda: remote.orderbooks["x"]["B"]["status"] == "live", PATIENCE)
    assert "A" not in remote.orderbooks["x"] and remote.status()["gaps"] == 0


def test_dead_lines_are_forgotten(redis_server, hand, follow):
    line = hand("dead")
    line.client.delete(line.keys.alive("dead"))
    assert follow(redis_server).status()["lines"] == []
    assert line.client.hkeys(line.keys.lines) == []


def test_a_zombie_is_not_believed(redis_server, hand, follow):
    remote = follow(redis_server)
    old, new = hand("old", token=1), hand("new", token=2)
    old.say(whole(1, 1.0))
    new.say(whole(5, 5.0))
    old.say(Change(1, 2, 0, [(9.0, 1.0)], []))
    old.say(whole(3, 9.0), Marked("closed", "zombie"))
    new.say(Change(5, 6, 0, [(6.0, 1.0)], []))
    wait_until(lambda: remote.status()["batches"] == 5, PATIENCE)
    assert [price for price, _ in book_of(remote)["bids"]] == [6.0, 5.0]
    assert book_of(remote)["status"] == "live" and remote.status()["fenced"] == 2


def test_tokens_rise_even_when_redis_has_forgotten(redis_server):
    client = RedisClient(redis_server.url)
    keys = Keys("streams")
    try:
        first = take_tokens(client, keys, 10)
        second = take_tokens(client, keys)
        assert second >= first + 10
        client.redis.flushall()
        third = take_tokens(client, keys)
        assert third > second
        ahead = third + 10**12          # taken before the server's clock was set back
        assert take_tokens(client, keys, 2, ahead) == ahead + 1
        assert take_tokens(client, keys) == ahead + 3
    finally:
        client.close()


# -- stop, in every state --------------------------------------------------------------------------


def quickly(stop):
    begun = time.monotonic()
    assert stop()
    assert time.monotonic() - begun < 1.0


def test_stop_and_start_again(redis_server, publish):
    source = Source("A")
    publisher = publish(source, redis_server)
    remote = RemoteStore(redis_server.url)
    quickly(remote.stop)
    for _ in range(2):
        remote.start()
        with pytest.raises(ConfigurationError, match="runs already"):
            remote.start()
        source.whole("A", 1 + source.book("A").last)
        remote.wait_ready(PATIENCE, books=[("hand", "A")])
        quickly(remote.stop)
        quickly(remote.stop)
        assert remote.orderbooks["hand"]["A"]["status"] == "closed"
    quickly(publisher.stop)
    quickly(publisher.stop)


def test_stop_while_redis_hangs(redis_server, publish):
    source = Source("A")
    publisher = publish(source, redis_server, timeout=5.0)
    remote = RemoteStore(redis_server.url, timeout=5.0)
    remote.start()
    source.whole("A")
    remote.wait_ready(PATIENCE, books=[("hand", "A")])
    late = RemoteStore(redis_server.url, timeout=5.0)
    redis_server.suspend()
    try:
        source.change("A")
        late.start()
        wait_until(lambda: late._transport is not None, PATIENCE)
        for one in (publisher, remote, late):
            quickly(one.stop)
    finally:
        redis_server.resume()


def test_stop_while_a_long_log_is_read(redis_server, hand, monkeypatch):
    line = hand()
    line.say(whole(1))
    kept = Kept(1, Group("x", "A", "book", 1, 0, True, [whole(1)]))
    line.client.hset(line.keys.books("line"), "x A", encode(kept))
    for number in range(1, 100):
        line.say(Change(number, number + 1, 0, [(float(number), 1.0)], []))
    apply, reading = Replicas.apply, threading.Event()

    def slowly(self, *what):
        reading.set()
        time.sleep(0.05)        # as with thousands of changes in each
        apply(self, *what)

    monkeypatch.setattr(Replicas, "apply", slowly)
    remote = RemoteStore(redis_server.url)
    remote.start()
    assert reading.wait(PATIENCE)
    quickly(remote.stop)
    assert remote.status()["malformed"] == 0


def test_stop_while_nobody_is_there():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"redis://127.0.0.1:{unused.getsockname()[1]}"
    publisher, remote = Publisher(Source("A").handlers, url), RemoteStore(url)
    publisher.start()
    remote.start()
    wait_until(lambda: publisher.last_error and remote.last_error, PATIENCE)
    with pytest.raises(NotReady, match="could not connect"):
        remote.wait_ready(0.01)
    quickly(publisher.stop)
    quickly(remote.stop)


def test_stop_while_connecting():
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        url = f"redis://127.0.0.1:{peer.port}"
        publisher, remote = Publisher(Source("A").handlers, url, timeout=9.0), RemoteStore(url, timeout=9.0)
        publisher.start()
        remote.start()
        quickly(publisher.stop)
        quickly(remote.stop)


def test_a_wrong_password_is_told(tmp_path):
    from .redis_server import RedisServer, needs_redis
    needs_redis()
    server = RedisServer(tmp_path, "--requirepass", "right").start()
    try:
        remote = RemoteStore(server.url.replace("//", "//:wr0ng@"))
        remote.start()
        with pytest.raises(NotReady, match="(?i)password|authentication") as caught:
            wait_until(lambda: remote.last_error, PATIENCE)
            remote.wait_ready(0.1)
        assert "wr0ng" not in str(caught.value)
        quickly(remote.stop)
        with RemoteStore(server.url.replace("//", "//:right@")) as remote:
            remote.wait_ready(PATIENCE)
    finally:
        server.stop()


# -- forks -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_closed_books_and_leaves_the_parents_connections_alone(
        redis_server, publish, follow):
    source = Source("A")
    publisher = publish(source, redis_server)
    remote = follow(redis_server)
    source.whole("A")
    remote.wait_ready(PATIENCE, books=[("hand", "A")])

    def child():
        book = remote.orderbooks["hand"]["A"]
        assert book["status"] == "closed" and book["bids"] == source.book("A")["bids"]
        assert not remote.status()["connected"]
        assert remote.stop() and publisher.stop()
        remote.start()
        remote.wait_ready(PATIENCE)
        assert remote.stop()

    for _ in range(10):
        source.change("A")
        settled(publisher, remote)
        in_child(child)
    source.change("A")
    settled(publisher, remote)
    assert image(remote)["books"] == image(source.store)["books"]
    assert remote.status()["connects"] == 1 and publisher.status()["outages"] == 0


# -- how much --------------------------------------------------------------------------------------


def test_nothing_is_lost_at_a_high_rate(redis_server, publish, follow):
    source = Source(*"ABCDEFGH", seed=11)
    remote = follow(redis_server)
    publisher = publish(source, redis_server)
    for symbol in source.symbols:
        source.whole(symbol)
    for _ in range(300):                # 100 at a time, as a stream does; 30,000 in all
        for number in range(100):
            source.change(source.symbols[number % 8])
    settled(publisher, remote)
    assert image(remote)["books"] == image(source.store)["books"]
    assert publisher.status()["dropped"] == 0 and remote.status()["gaps"] == 0

"""Collectors that share the work, and take over from each other."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from streams.collector import Collector, Membership, owner
from streams.errors import ConfigurationError, StreamsError
from streams.fanout import Keys
from streams.redisclient import RedisClient
from streams.remote import RemoteStore
from streams.sim import BinanceSim
from streams.store import Store

from .raw_peer import PATIENCE
from .redis_server import redis_server
from .tools import exact, wait_until

pytest.importorskip("redis", reason="redis-py is not installed")

__all__ = ["redis_server"]

ROOT = Path(__file__).resolve().parent.parent
LEASE = 2.0


# -- who collects what -------------------------------------------------------------------------------


def test_all_come_to_the_same_answer_and_only_what_must_moves():
    symbols = [f"S{n}" for n in range(3000)]
    three, two = ["a", "b", "c"], ["a", "c"]
    before = {symbol: owner(three, "x", symbol) for symbol in symbols}
    assert before == {symbol: owner(three[::-1], "x", symbol) for symbol in symbols}
    shares = [list(before.values()).count(name) for name in three]
    assert min(shares) > 850 and max(shares) < 1150
    after = {symbol: owner(two, "x", symbol) for symbol in symbols}
    assert all(after[symbol] == who for symbol, who in before.items() if who != "b")
    assert len({owner(three, f"x{n}", "S1") for n in range(50)}) == 3       # the exchange counts, too


def test_leases(redis_server):
    clients = [RedisClient(redis_server.url) for _ in range(3)]
    try:
        keys = Keys("streams")
        one, two = (Membership(client, keys, name, 0.6) for client, name in zip(clients, ("one", "two")))
        assert not one.renew() and one.renew()      # it was not held before; then it was
        assert one.members() == ["one"]
        assert not two.renew()
        assert one.members() == two.members() == ["one", "two"]
        with pytest.raises(StreamsError, match="called 'one' already"):
            Membership(clients[2], keys, "one", 0.6).renew()
        two.leave()
        two.leave()
        assert one.renew() and one.members() == ["one"]
        assert not two.renew()
        wait_until(lambda: one.renew() and one.members() == ["one"], PATIENCE)      # two falls silent
        assert not two.renew()                                                      # and knows it
        clients[0].redis.flushall()
        assert not one.renew() and one.members() == ["one"]
    finally:
        for client in clients:
            client.close()


def test_who_was_struck_off_by_mistake_is_back_with_the_next_renewal(redis_server):
    clients = [RedisClient(redis_server.url) for _ in range(2)]
    try:
        keys = Keys("streams")
        one, two = (Membership(client, keys, name, 5.0) for client, name in zip(clients, ("one", "two")))
        one.renew()
        two.renew()
        clients[1].redis.srem(keys.members, "one")      # two had looked before one held its lease
        assert two.members() == ["two"]
        assert one.renew() and two.members() == ["one", "two"]
    finally:
        for client in clients:
            client.close()


def test_higher_tokens_are_asked_for_until_there_are_some(monkeypatch):
    """After a lost lease: without them, readers would believe nobody, once the others have let go."""
    collector = Collector("redis://127.0.0.1:9", {"binance": {"symbols": ["BTC-USDT"]}}, name="me")
    owned, held, tokens = [], iter([False, True, True]), iter([ConnectionError("gone"), 7])

    def take(*_):
        token = next(tokens)
        if isinstance(token, Exception):
            raise token
        return token

    class Published:
        def own(self, tokens):
            owned.append(tokens)

    monkeypatch.setattr("streams.collector.take_tokens", take)
    monkeypatch.setattr(collector._membership, "renew", lambda: next(held))
    monkeypatch.setattr(collector._membership, "members", lambda: ["me"])
    collector._publisher = Published()
    collector._mine = {("binance", "BTC-USDT")}
    with pytest.raises(ConnectionError):
        collector._look()
    collector._look()
    collector._look()
    assert owned == [{("binance", "BTC-USDT"): 7}]


def test_an_exchange_that_can_not_be_started_keeps_no_other_from_it(monkeypatch):
    collector = Collector("redis://127.0.0.1:9", {
        "binance": {"symbols": ["BTC-USDT"]}, "huobi": {"symbols": ["BTC-USDT"]}}, name="me")
    started, given_back, tokens, broken = [], [], itertools.count(), {"binance"}

    def start(exchange, symbols, channels, **options):
        if exchange in broken:
            raise ConfigurationError("this one can not be started")
        started.append(exchange)

    class Published:
        own = release = staticmethod(lambda symbols: None)

    monkeypatch.setattr(collector.manager, "start", start)
    monkeypatch.setattr(collector.manager, "unsubscribe", lambda exchange, *_: given_back.append(exchange))
    monkeypatch.setattr("streams.collector.take_tokens", lambda *_: next(tokens))
    monkeypatch.setattr(collector._membership, "renew", lambda: True)
    monkeypatch.setattr(collector._membership, "leave", lambda: None)
    monkeypatch.setattr(collector._membership, "members", lambda: ["me"])
    collector._publisher = Published()
    for _ in range(3):
        with pytest.raises(ConfigurationError, match="this one"):
            collector._look()
        assert started == ["huobi"] and len(collector._mine) == 2
        assert collector._mine - collector._waiting == {("huobi", "BTC-USDT")}
    assert next(tokens) == 1            # they were taken once
    collector._leave()
    assert given_back == ["huobi"] and not collector._mine
    broken.clear()
    collector._look()
    assert started == ["huobi", "binance", "huobi"] and not collector._waiting


@pytest.mark.parametrize("wanted, about", [
    ({"nowhere": {"symbols": ["A"]}}, "no exchange is called 'nowhere'"), ({"binance": {}}, "symbols"),
    ({"binance": ["BTC-USDT"]}, "binance: .*; give a dict, like {'symbols': "),
    ({"binance": {"symbols": ["BTC-USDT"], "channels": ["boook"]}}, "boook"),
    ({"binance": {"symbols": ["BTC USDT"]}}, "no symbol"),
    ({"binance": {"symbols": ["BTC-USDT"], "depth": "abc"}}, "depth='abc'"),
    ({"binance": {"symbols": ["BTC-USDT"], "proxy": "ftp://x:1"}}, "proxy must be"),
    ({"binance": {"symbols": ["BTC-USDT"], "self": 1}}, "no option 'self'"),
    ({"binance": {"symbols": ["BTC-USDT"], "store": Store()}}, "store is one for all streams of a manager"),
    ({"huobi": {"symbols": ["BTC-USDT"]}, "htx": {"symbols": ["ETH-USDT"]}}, "htx is huobi, which is there"),
    ({}, "wanted={}: give a dict, like"), (["binance"], r"wanted=\['binance'\]: give a dict, like"),
])
def test_mistakes_are_named_at_once(wanted, about):
    with pytest.raises(ConfigurationError, match=about):
        Collector("redis://127.0.0.1:9", wanted)
    with pytest.raises(ConfigurationError, match="lease"):
        Collector("redis://127.0.0.1:9", {}, lease=0)


@pytest.mark.parametrize("options, about", [
    ({"lease": "3"}, "lease='3': it must be more than 0 seconds"), ({"name": 5}, "name=5: give text"),
    ({"prefix": ""}, "prefix='': give text"), ({"publishing": 5}, "publishing: 5; give a dict of: prefix"),
    ({"publishing": {"histry": 1}}, "publishing has no option 'histry'; did you mean 'history'"),
])
def test_options_that_can_not_work(options, about):
    with pytest.raises(ConfigurationError, match=about):
        Collector("redis://127.0.0.1:9", {"binance": {"symbols": ["BTC-USDT"]}}, **options)


def test_a_collector_is_started_once():
    pytest.importorskip("redis")
    collector = Collector("redis://127.0.0.1:9", {"binance": {"symbols": ["BTC-USDT"]}})
    for stop in (False, True):
        collector.stop() if stop else collector.start()
        with pytest.raises(ConfigurationError, match="this Collector was started before; make a new one"):
            collector.start()
        assert stop is not any(thread.name == "streams-publisher" for thread in threading.enumerate())


def test_a_collector_hands_its_own_options_on_when_it_checks():
    with pytest.raises(ConfigurationError, match="alpaca needs"):
        Collector("redis://127.0.0.1:9", {"alpaca": {"symbols": ["AAPL"], "channels": ["trades"]}})
    Collector("redis://127.0.0.1:9", {"alpaca": {"symbols": ["AAPL"], "channels": ["trades"]}},
              api_key="a", api_secret="b")


# -- several of them ---------------------------------------------------------------------------------


SYMBOLS = [f"C{n:02d}-USDT" for n in range(60)]
KEYS = [("binance", symbol) for symbol in SYMBOLS]


@pytest.fixture
def sim(serve):
    return serve(BinanceSim, symbols=tuple(s.replace("-", "") for s in SYMBOLS), rate=5, levels=20)


def wanted(sim):
    return {"binance": {
        "symbols": SYMBOLS, "channels": ["book"], "url": sim.url, "rest_url": sim.rest_url}}


class Watch:
    """Looks at all books again and again: every live one must be true; when was each live last?"""

    def __init__(self, remote, sim):
        self.remote, self.sim = remote, sim
        self.wrong = []
        self.looks = 0
        self.unserved = dict.fromkeys(SYMBOLS, 0.0)     # the longest time that each was not live, seconds
        self.seen = {symbol: set() for symbol in SYMBOLS}
        self._live = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            self.remote.wait(self.remote.last_update, 0.02)
            for symbol in SYMBOLS:
                view = self.remote.orderbook("binance", symbol)
                self.looks += 1
                now = time.monotonic()
                self.seen[symbol].add(view["status"])
                if view["status"] == "live":
                    self._live[symbol] = now
                    truth = self.sim.market.book(symbol.replace("-", ""), view["sequence"])
                    if exact(view["bids"]) != truth.bids or exact(view["asks"]) != truth.asks:
                        self.wrong.append((symbol, view["sequence"]))
                since = now - self._live.setdefault(symbol, now)
                self.unserved[symbol] = max(self.unserved[symbol], since)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(PATIENCE)


PROGRAM = """
import json, sys, threading
from streams.collector import Collector
url, name, lease, wanted = sys.argv[1:]
collector = Collector(url, json.loads(wanted), name=name, lease=float(lease))
collector.start()
print("started", flush=True)
sys.stdin.read()
collector.stop()
"""


class Processes:
    def __init__(self, server, sim, *names):
        self._arguments = server.url, str(LEASE), json.dumps(wanted(sim))
        self.running = {}
        for name in names:
            self.start(name)

    def start(self, name):
        url, lease, what = self._arguments
        self.running[name] = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url, name, lease, what], cwd=ROOT, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait(PATIENCE)
            process.stdin.close()
            process.stdout.close()


def following(server):
    """A reader that notices a silent collector well before the others take over."""
    return RemoteStore(server.url, stale_after=1.0)


def serving(remote):
    return sum(book["status"] == "live" for book in remote.orderbooks.get("binance", {}).values())


def members(server, count):
    with server.client() as client:
        return len([name for name in client.smembers("streams:members")
                    if client.exists(f"streams:member:{name.decode()}")]) == count


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills processes by signal")
@pytest.mark.parametrize("victim", "abc")
def test_a_killed_collector_is_taken_over_from(redis_server, sim, victim):
    with following(redis_server) as remote, Processes(redis_server, sim, "a", "b", "c") as processes:
        remote.wait_ready(30, books=KEYS)
        wait_until(lambda: members(redis_server, 3), 30)
        wait_until(lambda: len(remote.status()["lines"]) == 3 and serving(remote) == 60, 30)
        with Watch(remote, sim) as watch:
            processes.running[victim].send_signal(signal.SIGKILL)
            killed = time.monotonic()
            wait_until(lambda: serving(remote) < 60, PATIENCE)
            wait_until(lambda: serving(remote) == 60, PATIENCE)
            took = time.monotonic() - killed
        assert watch.wrong == [] and watch.looks > 1000
        assert took < LEASE + 2.0 and max(watch.unserved.values()) < LEASE + 2.0
        lost = {symbol for symbol, statuses in watch.seen.items() if statuses != {"live"}}
        mine = {symbol for symbol in SYMBOLS if owner(["a", "b", "c"], "binance", symbol) == victim}
        assert lost == mine                     # the others' symbols were not touched
        assert all(watch.seen[symbol] <= {"live", "stale", "syncing"} for symbol in mine)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="suspends processes by signal")
def test_a_collector_that_was_only_asleep_does_no_harm(redis_server, sim):
    with following(redis_server) as remote, Processes(redis_server, sim, "a", "b") as processes:
        remote.wait_ready(30, books=KEYS)
        wait_until(lambda: len(remote.status()["lines"]) == 2 and serving(remote) == 60, 30)
        with Watch(remote, sim) as watch:
            processes.running["b"].send_signal(signal.SIGSTOP)
            wait_until(lambda: serving(remote) < 60, PATIENCE)
            wait_until(lambda: serving(remote) == 60, PATIENCE)
            processes.running["b"].send_signal(signal.SIGCONT)
            wait_until(lambda: members(redis_server, 2) and len(remote.status()["lines"]) == 2, PATIENCE)
            time.sleep(1.5)     # whatever harm it can do, it does now
            wait_until(lambda: serving(remote) == 60, PATIENCE)
        assert watch.wrong == []


def test_coming_and_going_politely(redis_server, sim):
    with following(redis_server) as remote:
        one = Collector(redis_server.url, wanted(sim), name="one", lease=LEASE)
        two = Collector(redis_server.url, wanted(sim), name="two", lease=LEASE)
        try:
            one.start()
            remote.wait_ready(30, books=KEYS)
            assert len(one.status()["symbols"]) == 60
            with Watch(remote, sim) as watch:
                two.start()
                shares = [lambda c=c: len(c.status()["symbols"]) for c in (one, two)]
                wait_until(lambda: shares[1]() and shares[0]() + shares[1]() == 60, 30)
                assert 15 < len(two.status()["symbols"]) < 45
                wait_until(lambda: serving(remote) == 60, PATIENCE)
                assert one.stop()
                wait_until(lambda: len(two.status()["symbols"]) == 60 and serving(remote) == 60, PATIENCE)
            assert watch.wrong == [] and max(watch.unserved.values()) < LEASE + 2.0
        finally:
            begun = time.monotonic()
            assert two.stop() and one.stop()
            assert time.monotonic() - begun < 1.0
        assert members(redis_server, 0)


def test_redis_forgets_everything(redis_server, sim):
    with following(redis_server) as remote:
        collectors = [Collector(redis_server.url, wanted(sim), name=name, lease=LEASE) for name in "ab"]
        try:
            for collector in collectors:
                collector.start()
            remote.wait_ready(30, books=KEYS)
            wait_until(lambda: sum(len(c.status()["symbols"]) for c in collectors) == 60, PATIENCE)
            with Watch(remote, sim) as watch:
                redis_server.stop()
                wait_until(lambda: serving(remote) == 0, PATIENCE)
                wait_until(lambda: all(collector.last_error for collector in collectors), PATIENCE)
                for collector in collectors:    # their own books go on without Redis
                    assert all(book["status"] == "live"
                               for book in collector.manager.store.orderbooks["binance"].values())
                redis_server.start()
                wait_until(lambda: serving(remote) == 60, 2 * PATIENCE)
            assert watch.wrong == []
        finally:
            for collector in collectors:
                assert collector.stop()


@pytest.mark.parametrize("state", ["nobody", "hanging"])
def test_stop_without_redis(redis_server, sim, state):
    collector = Collector(redis_server.url, wanted(sim), lease=LEASE, timeout=9.0)
    if state == "nobody":
        redis_server.stop()
    collector.start()
    if state == "hanging":
        wait_until(lambda: len(collector.status()["symbols"]) == 60, PATIENCE)
        redis_server.suspend()
    else:
        wait_until(lambda: collector.last_error, PATIENCE)
    begun = time.monotonic()
    try:
        assert collector.stop()
        assert time.monotonic() - begun < 1.0
    finally:
        if state == "hanging":
            redis_server.resume()

"""stop() ends the thread within a second, whatever the stream is doing; and start() works again."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from streams import StreamManager
from streams.backoff import Backoff
from streams.connector import Connector
from streams.errors import ConfigurationError, StopTimeout
from streams.exchanges import Binance
from streams.group import Group
from streams.lifecycle import at_exit
from streams.sim import BinanceFuturesSim, BinanceSim, Fault, HuobiSim
from streams.sim.alpaca import AlpacaSim
from streams.stream import _RUNNING, Stream, _running

from .live import ALPACA_KEYS, at_once
from .raw_peer import RawPeer
from .tools import at_every_step, wait_live, wait_until, with_limits

LIMIT = 1.0     # seconds

Make = Callable[..., Stream]
Prepare = Callable[["Room"], Stream]


class Room:
    """Where the states are made."""

    def __init__(self, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack = stack
        self.monkeypatch = monkeypatch
        self.market: StreamManager | None = None

    def stream(self, url: str, rest_url: str = "http://127.0.0.1:9", **options: Any) -> Stream:
        """A running stream; its manager's, if there is one."""
        options = {"connect_timeout": 30.0, "backoff": Backoff(base=60.0, rand=lambda: 1.0), **options}
        if self.market is not None:
            self.market.start("binance", ["BTC-USDT"], url=url, rest_url=rest_url, **options)
            return self.market._streams(None)[0]
        stream = Binance(["BTC-USDT"], url=url, rest_url=rest_url, **options)
        self.stack.callback(stream.stop)
        stream.start()
        return stream

    def sim(self, **options: Any) -> BinanceSim:
        return self.stack.enter_context(BinanceSim(["BTCUSDT"], **options))

    def live(self, **options: Any) -> tuple[Stream, BinanceSim]:
        sim = self.sim(**options)
        stream = self.stream(sim.url, sim.rest_url)
        wait_live(stream)
        return stream, sim


def resolving(room: Room) -> Stream:
    release, asked = threading.Event(), threading.Event()

    def stuck(*_: Any, **__: Any) -> Any:
        asked.set()
        release.wait(30)
        raise socket.gaierror("gone")

    def let_go() -> None:
        release.set()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("streams-resolver-")])

    room.stack.callback(let_go)
    room.monkeypatch.setattr("socket.getaddrinfo", stuck)
    stream = room.stream("ws://never.example:1")
    assert asked.wait(5)
    return stream


def connecting(room: Room) -> Stream:
    peer = room.stack.enter_context(RawPeer(backlog=0))
    peer.fill_backlog()
    stream = room.stream(f"ws://127.0.0.1:{peer.port}")
    wait_until(lambda: getattr(getattr(stream._connector._transport, "_line", None), "_sock", None))
    return stream


def tls_stalled(room: Room) -> Stream:
    peer = room.stack.enter_context(RawPeer())
    stream = room.stream(f"wss://127.0.0.1:{peer.port}", sslopt={"cert_reqs": ssl.CERT_NONE})
    assert peer.accept().exactly(5)         # the beginning of the client's hello
    return stream


def upgrade_unanswered(room: Room) -> Stream:
    sim = room.sim(rate=0)
    sim.plan(Fault.NEVER_UPGRADE)
    stream = room.stream(sim.url, sim.rest_url)
    assert sim.wait_connections(1, 5)
    wait_until(lambda: sim.struck["never_upgrade"])
    return stream


def upgrade_slowly(room: Room) -> Stream:
    sim = room.sim(rate=0)
    sim.plan(Fault.SLOW_UPGRADE(seconds=30.0))
    stream = room.stream(sim.url, sim.rest_url)
    wait_until(lambda: sim.struck["slow_upgrade"])
    return stream


def idle(room: Room) -> Stream:
    return room.live(rate=0)[0]


def busy(room: Room) -> Stream:
    stream, _ = room.live(rate=3000.0)
    wait_until(lambda: stream.feed.counters.messages > 100)
    return stream


def mute(room: Room) -> Stream:
    stream, sim = room.live(rate=50.0)
    sim.inject(Fault.MUTE)
    return stream


def deaf(room: Room) -> Stream:
    stream, sim = room.live(rate=50.0)
    sim.inject(Fault.MUTE(read=False))
    return stream


def in_mid_frame(room: Room) -> Stream:
    stream, sim = room.live(rate=50.0)
    sim.inject(Fault.STALL)
    return stream


def waiting_for_a_snapshot(room: Room) -> Stream:
    sim = room.sim(rate=50.0)
    sim.plan_rest(*[Fault.SNAPSHOT_HANG] * 5)
    stream = room.stream(sim.url, sim.rest_url)
    wait_until(lambda: sim.struck["snapshot_hang"])
    return stream


def snapshot_resolving(room: Room) -> Stream:
    release, asked = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def stuck(host: Any, *args: Any, **options: Any) -> Any:
        if host != "never.example":
            return real(host, *args, **options)
        asked.set()
        release.wait(30)
        raise socket.gaierror("gone")

    def let_go() -> None:
        release.set()
        wait_until(lambda: not [t for t in threading.enumerate() if t.name.startswith("streams-resolver-")])

    room.stack.callback(let_go)
    room.monkeypatch.setattr("socket.getaddrinfo", stuck)
    stream = room.stream(room.sim(rate=50.0).url, "http://never.example:1")
    assert asked.wait(5)
    return stream


def snapshot_in_tls(room: Room) -> Stream:
    peer = room.stack.enter_context(RawPeer())
    stream = room.stream(room.sim(rate=50.0).url, f"https://127.0.0.1:{peer.port}")
    assert peer.accept().exactly(5)
    return stream


def proxy_unanswered(room: Room) -> Stream:
    peer = room.stack.enter_context(RawPeer())
    stream = room.stream("ws://127.0.0.1:9", proxy=f"http://127.0.0.1:{peer.port}")
    assert peer.accept().head().startswith("CONNECT 127.0.0.1:9 ")
    return stream


def backing_off(room: Room) -> Stream:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    stream = room.stream(f"ws://127.0.0.1:{port}")
    wait_until(lambda: stream.state == "backoff")
    return stream


def paused(room: Room) -> Stream:
    stream, _ = room.live(rate=50.0)
    stream.pause()
    wait_until(lambda: stream.state == "paused")
    return stream


def just_started(room: Room) -> Stream:
    sim = room.sim(rate=50.0)
    return room.stream(sim.url, sim.rest_url)


STATES = [resolving, connecting, tls_stalled, upgrade_unanswered, upgrade_slowly, idle, busy, mute, deaf,
          in_mid_frame, waiting_for_a_snapshot, snapshot_resolving, snapshot_in_tls, proxy_unanswered,
          backing_off, paused, just_started]


@pytest.fixture
def room(stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> Room:
    return Room(stack, monkeypatch)


def names() -> list[str]:
    """Threads of ours that run; helpers that nothing can interrupt excepted."""
    return [t.name for t in threading.enumerate()
            if t.name.startswith("streams-") and not t.name.startswith("streams-resolver-")]


@pytest.mark.parametrize("prepare", STATES)
def test_stop_in_any_state(prepare: Prepare, room: Room) -> None:
    stream = prepare(room)
    begun = time.monotonic()
    assert stream.stop() is True
    assert time.monotonic() - begun < LIMIT
    assert not stream.is_alive() and names() == []
    assert stream.state == "stopped"
    assert stream.status()["running"] is False
    for book in stream.store.orderbooks.get("binance", {}).values():
        assert book["status"] == "closed"


@pytest.mark.parametrize("prepare", STATES)
def test_leaving_the_manager_in_any_state(prepare: Prepare, room: Room) -> None:
    with StreamManager() as market:
        room.market = market
        stream = prepare(room)
        begun = time.monotonic()
    assert time.monotonic() - begun < LIMIT
    assert not stream.is_alive() and names() == []


@pytest.mark.parametrize("prepare", [mute, resolving, upgrade_unanswered, backing_off])
def test_pause_in_any_state_and_resume(prepare: Prepare, room: Room) -> None:
    stream = prepare(room)
    stream.pause()
    wait_until(lambda: stream.state == "paused", 2.0)
    stream.resume()
    wait_until(lambda: stream.state != "paused", 1.0)


def one_symbol_each(room: Room) -> None:
    """From now on each symbol of a manager has a stream of its own."""
    kind = with_limits(Binance, topics=1)
    room.monkeypatch.setattr("streams.manager.stream_class", lambda name: kind)


def test_a_manager_with_many_stuck_streams_stops_as_fast(room: Room) -> None:
    sim = room.sim(rate=0)
    sim.plan(*[Fault.NEVER_UPGRADE] * 10)
    one_symbol_each(room)
    with StreamManager() as market:
        market.start("binance", [f"A{n}-USDT" for n in range(10)], url=sim.url, rest_url=sim.rest_url,
                     connect_timeout=30.0)
        wait_until(lambda: sim.struck["never_upgrade"] == 10)
        begun = time.monotonic()
    assert time.monotonic() - begun < LIMIT
    assert names() == []


@pytest.mark.parametrize("prepare", [idle, busy, mute, upgrade_unanswered, backing_off, paused])
def test_stop_twice_and_from_two_threads(prepare: Prepare, room: Room) -> None:
    stream = prepare(room)
    results: list[bool] = []
    barrier = threading.Barrier(2)

    def stop() -> None:
        barrier.wait()
        results.append(stream.stop())

    threads = [threading.Thread(target=stop) for _ in range(2)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begun < LIMIT
    assert results == [True, True]
    assert stream.stop() is True
    assert time.monotonic() - begun < LIMIT
    assert names() == []


def test_stop_before_start() -> None:
    stream = Binance(["BTC-USDT"])
    assert stream.state == "new"
    assert stream.stop() is True
    assert stream.state == "stopped"


@pytest.mark.parametrize("policy", ["inline", "drop_oldest", "block", "conflate"])
def test_stop_from_within_a_handler(policy: str, room: Room) -> None:
    sim = room.sim(rate=200.0)
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    room.stack.callback(stream.stop)
    took: list[Any] = []
    done = threading.Event()

    def handler(event: Any) -> None:
        if not took:
            begun = time.monotonic()
            stopped = stream.stop()
            took.append((stopped, time.monotonic() - begun))
            done.set()

    stream.on(r"binance\.book\..*", handler, policy=policy)
    stream.start()
    assert done.wait(10)
    begun = time.monotonic()
    stream.join(5)
    assert time.monotonic() - begun < LIMIT
    assert not stream.is_alive()
    assert took[0][1] < LIMIT
    # a thread can not wait for itself
    assert took[0][0] is (policy != "inline")
    assert stream.state == "stopped"
    wait_until(lambda: names() == [], 2.0, what=f"{names()}")


@pytest.mark.parametrize("policy", ["inline", "drop_oldest"])
def test_stop_the_manager_from_within_a_handler(policy: str, room: Room) -> None:
    sim = room.sim(rate=200.0)
    market = StreamManager()
    room.stack.callback(market.stop)
    took: list[float] = []
    done = threading.Event()

    @market.on(r"binance\.book\..*", policy=policy)
    def handler(event: Any) -> None:
        if not took:
            begun = time.monotonic()
            market.stop()
            took.append(time.monotonic() - begun)
            done.set()

    market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    stream = market._streams(None)[0]
    assert done.wait(10)
    assert took[0] < LIMIT
    stream.join(LIMIT)
    assert not stream.is_alive()
    wait_until(lambda: names() == [], 2.0, what=f"{names()}")


def test_a_handler_that_hangs_does_not_keep_stop_from_returning(room: Room) -> None:
    sim = room.sim(rate=200.0)
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    release, entered = threading.Event(), threading.Event()
    room.stack.callback(stream.stop)
    room.stack.callback(release.set)

    def handler(event: Any) -> None:
        entered.set()
        release.wait(30)

    stream.on(r"binance\.book\..*", handler, policy="block", maxsize=1, block_timeout=30.0)
    stream.start()
    assert entered.wait(10)
    wait_until(lambda: stream.handlers.status()[0]["queued"] == 1)
    begun = time.monotonic()
    assert stream.stop(timeout=1.0) is False
    assert time.monotonic() - begun < LIMIT + 0.2
    assert not stream.is_alive()
    release.set()
    assert stream.stop() is True


def test_a_handler_that_hangs_is_named_by_the_manager(room: Room) -> None:
    sim = room.sim(rate=200.0)
    release, entered = threading.Event(), threading.Event()

    def stuck(event: Any) -> None:
        entered.set()
        release.wait(30)

    with StreamManager() as market:
        market.on(r"binance\.book\..*", stuck, name="stuck")
        market.on(r"binance\.book\..*", lambda event: None, name="well")
        market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        assert entered.wait(10)
        begun = time.monotonic()
        for timeout in (1.0, 0.0):              # once more: what is idle by now is not blamed
            with pytest.raises(StopTimeout, match=r"still running after [\d.]+ s: streams-handler-stuck$"):
                market.stop(timeout=timeout)
        assert time.monotonic() - begun < LIMIT + 0.5
        assert market.status()["streams"] == []
        release.set()


@pytest.mark.parametrize("timeout", [float("inf"), 10**30])
@pytest.mark.parametrize("managed", [True, False])
def test_a_handler_may_be_given_all_the_time_it_takes(managed: bool, timeout: float, room: Room) -> None:
    sim = room.sim(rate=200.0)
    release, entered = threading.Event(), threading.Event()
    options = {"url": sim.url, "rest_url": sim.rest_url}
    market: Any = StreamManager(**options) if managed else Binance(["BTC-USDT"], **options)
    room.stack.callback(market.stop)
    room.stack.callback(release.set)

    @market.on(r"binance\.book\..*")
    def slow(event: Any) -> None:
        entered.set()
        release.wait(30)

    market.start("binance", ["BTC-USDT"]) if managed else market.start()
    assert entered.wait(10)

    def let_go() -> None:
        wait_until(lambda: market.handlers._closers)        # it is waited for
        release.set()

    at_once(lambda: market.stop(timeout=timeout), let_go)
    assert names() == []


@pytest.mark.parametrize("prepare", [idle, busy, mute, backing_off, paused, upgrade_unanswered])
def test_start_again_after_stop(prepare: Prepare, room: Room) -> None:
    stream = prepare(room)
    assert stream.stop()
    if prepare in (backing_off,):
        stream.start()
        wait_until(lambda: stream.state == "backoff")
        return
    if prepare is paused:
        stream.resume()
    for _ in range(3):
        stream.start()
        wait_live(stream)
        assert stream.store.orderbook("binance", "BTC-USDT")["status"] == "live"
        before = stream.store.last_update
        assert stream.stop()
        assert stream.store.last_update >= before
    assert stream.store.orderbook("binance", "BTC-USDT")["status"] == "closed"


@pytest.mark.parametrize("prepare", [idle, busy])
def test_stop_while_holding_the_lock_of_the_store(prepare: Prepare, room: Room) -> None:
    """Ctrl-C may strike within ``with store.lock``, and whoever handles it stops the stream there."""
    stream = prepare(room)
    begun = time.monotonic()
    with stream.store.lock:
        with stream.store.lock:
            assert stream.stop() is True
    assert time.monotonic() - begun < LIMIT
    assert names() == [] and not stream.store.lock.mine


@pytest.mark.parametrize("how", ["from outside", "from the handler", "while nothing can be sent"])
def test_stop_while_a_slow_inline_handler_has_a_whole_block_to_go(how: str, room: Room) -> None:
    """Hundreds of messages are read at once; the thread does not hand out all of them before it ends."""
    sim = room.sim(rate=0)
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    room.stack.callback(stream.stop)
    gate, entered, amid, never = (threading.Event() for _ in range(4))
    calls: list[Any] = []

    def handler(event: Any) -> None:
        entered.set()
        gate.wait(10)
        calls.append(event)
        if len(calls) == 5:                 # the first calls may have had blocks of their own
            if how == "from the handler":
                stream.stop()
            amid.set()
        never.wait(0.02)                    # that is how slow it is

    stream.on(r"binance\.book\..*", handler, policy="inline")
    stream.start()
    wait_until(lambda: sim.connections and sim.connections[0].subscriptions)
    wait_until(lambda: sim.advance(1) or entered.is_set())
    sim.advance(400)                        # they wait in the socket
    if how == "while nothing can be sent":
        def fail(data: Any, deadline: float) -> None:
            raise ConnectionResetError("by the test")
        stream._connector._transport._line.send_by = fail       # type: ignore[union-attr]
        stream.subscribe("ETH-USDT")        # what has come is still heard
    gate.set()
    assert amid.wait(10)
    begun = time.monotonic()
    stream.stop()
    stream.join(10)
    assert time.monotonic() - begun < LIMIT and not stream.is_alive()
    assert len(calls) < 60


def test_start_twice_is_refused(room: Room) -> None:
    stream, _ = room.live(rate=0)
    with pytest.raises(ConfigurationError, match="is running already; stop.. it first"):
        stream.start()
    assert stream.is_alive()


def test_a_manager_can_stop_and_start_an_exchange(room: Room) -> None:
    sim = room.sim(rate=100.0)
    huobi = room.stack.enter_context(HuobiSim(["BTCUSDT"], rate=100.0))
    with StreamManager() as market:
        market.start("huobi", ["BTC-USDT"], url=huobi.url, rest_url=huobi.rest_url)
        for _ in range(3):
            market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
            market.wait_ready(10)
            book = market.store.orderbooks["binance"]["BTC-USDT"]
            assert book["status"] == "live"
            assert market.store.orderbook("binance", "BTC-USDT", max_age=5)["status"] == "live"
            market.stop("binance")
            assert book["status"] == "closed"
            assert market.store.orderbook("huobi", "BTC-USDT", max_age=5)["status"] == "live"
        market.stop()
        market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(10)
    market.stop()


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_a_thread_that_can_not_be_started(error: BaseException, room: Room) -> None:
    sim = room.sim(rate=0)
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)

    def refuse(thread: threading.Thread) -> None:
        raise error

    with room.monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(threading.Thread, "start", refuse)
        stream.start()
    assert stream.state == "failed" and "no thread" in str(stream.status()["last_error"])
    begun = time.monotonic()
    assert stream.stop()
    stream.subscribe("ETH-USDT")
    assert time.monotonic() - begun < 1.0, "stop() has waited for it"
    assert stream not in _RUNNING, "the end of the interpreter would wait for it"
    stream.start()
    wait_until(lambda: stream.state == "live")
    assert stream.stop()


def test_a_manager_stops_all_else_after_a_thread_that_could_not_be_started(room: Room) -> None:
    sim = room.sim(rate=50.0)
    one_symbol_each(room)
    real = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("streams-binance-"):
            raise RuntimeError("can't start new thread")
        real(thread)

    market = StreamManager()
    room.stack.callback(market.stop)
    market.on(r".+", lambda event: None)
    market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    market.wait_ready(10)
    market.submit(int).result(10)
    with room.monkeypatch.context() as patch, pytest.raises(RuntimeError, match="can't start new thread"):
        patch.setattr(threading.Thread, "start", refuse)
        market.start("binance", ["ETH-USDT"])
    assert [stream.state for stream in market._streams(None)] == ["live", "failed"]
    market.stop()
    assert names() == []


def test_a_signal_handler_stops_what_is_just_being_stopped() -> None:
    when, done = 0, False
    while not done:
        market, steps = StreamManager(), itertools.count(1)
        market._groups.update({"binance": 1, "huobi": 2})       # type: ignore[dict-item]
        left: list[Any] = []
        when, done = when + 1, True

        def strike() -> None:
            nonlocal done
            if next(steps) == when:
                done = False
                left.extend(market._take(None, market._groups))

        at_every_step(lambda: left.extend(market._take(None, market._groups)), strike)
        assert sorted(left) == [1, 2]
    assert when > 20


STRIKES = {"in the middle of placing": (Group, "_weight"), "before the stream": (Stream, "start"),
           "when the stream begins": (Connector, "begin"), "before the thread": (threading.Thread, "start")}


@pytest.mark.parametrize("where", STRIKES)
@pytest.mark.parametrize("running", [True, False])
def test_a_signal_handler_stops_what_is_just_being_started(running: bool, where: str, room: Room) -> None:
    """It runs on the same thread, in the middle of start()."""
    sim = room.sim(rate=0)
    one_symbol_each(room)
    kind, name = STRIKES[where]
    real, struck = getattr(kind, name), []

    def strike(*args: Any) -> Any:
        if not struck and threading.current_thread() is threading.main_thread():
            struck.append(True)
            market.stop()
        return real(*args)

    market = StreamManager()
    room.stack.callback(market.stop)
    options = {"url": sim.url, "rest_url": sim.rest_url}
    if running:
        market.start("binance", ["BTC-USDT"], **options)
        market.wait_ready(10)
    with room.monkeypatch.context() as patch:
        patch.setattr(kind, name, strike)
        market.start("binance", ["BTC-USDT", "ETH-USDT", "LTC-USDT"], **options)
    assert struck and market.status()["streams"] == []
    wait_until(lambda: names() == [], what=f"{names()}")


def test_a_start_that_fails_leaves_what_has_ended_and_not_what_was_stopped(room: Room) -> None:
    sim = room.sim(rate=0)
    options = {"url": sim.url, "rest_url": sim.rest_url}
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"], **options)
        before, = market._streams(None)
        before.stop()
        for meanwhile, left in ((lambda: None, [before]), (market.stop, [])):

            def fail(*_: Any) -> None:
                meanwhile()
                raise KeyboardInterrupt

            with room.monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Group, "_open", fail)
                market.start("binance", ["BTC-USDT"], **options)
            assert market._streams(None) == left


def test_the_end_of_the_interpreter_does_not_wait_for_what_never_began(room: Room) -> None:
    ends: list[Callable[[], None]] = []
    stream = Binance(["BTC-USDT"])
    room.monkeypatch.setattr("atexit.register", ends.append)
    at_exit(lambda: [stream, room.live(rate=0)[0]])
    ends[0]()
    assert names() == []


@pytest.mark.parametrize("where", ["_rest_source", "_wind_up"])
def test_a_mistake_of_ours_at_either_end_of_a_run_is_its_end(where: str, room: Room) -> None:
    sim = room.sim(rate=0)
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)

    def wrong(*_: Any) -> Any:
        raise ValueError("wrong")

    room.monkeypatch.setattr(threading, "excepthook", lambda _: None)
    room.monkeypatch.setattr(stream, where, wrong)
    stream.start()
    begun = time.monotonic()
    assert stream.stop(20.0)
    assert time.monotonic() - begun < 2.0
    assert stream.state == ("failed" if where == "_rest_source" else "stopped")


def test_the_end_of_the_interpreter_finds_all_that_run_while_others_end() -> None:
    streams = [Binance(["BTC-USDT"], url="ws://127.0.0.1:1") for _ in range(4)]
    when, found = 0, []
    try:
        while len(found) < len(streams):
            _RUNNING.update(streams)
            when, steps = when + 1, itertools.count(1)
            at_every_step(lambda: found.__setitem__(slice(None), _running()),
                          lambda: _RUNNING.discard(streams[0]) if next(steps) == when else None)
            assert set(streams[1:]) <= set(found)
        assert when > 20
    finally:
        for stream in streams:
            _RUNNING.discard(stream)


def test_what_was_stopped_hurries_nobody_who_comes_after_it(room: Room) -> None:
    """A later thread may get the number of one that was stopped: handlers with ``block`` are waited for."""
    sim = room.sim(rate=0)
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(10)
        stream, = market._streams(None)
        market.stop("binance")
        assert not market.handlers.hurried
        stream.abort()
        assert not market.handlers.hurried


def test_what_has_failed_is_begun_anew(room: Room) -> None:
    sim = room.stack.enter_context(AlpacaSim(["AAPL", "NVDA"], rate=50.0))
    where = {"url": sim.url, "rest_url": sim.rest_url}
    with StreamManager() as market:
        market.start("alpaca", ["AAPL"], ["quotes"], **where, **ALPACA_KEYS | {"api_secret": "wrong"})
        wait_until(lambda: market.status()["streams"][0]["state"] == "failed")
        for call in (market.resume, lambda exchange: market.subscribe(exchange, ["NVDA"])):
            with pytest.raises(ConfigurationError, match=r"alpaca runs no more \(failed: Auth.*; start.. it"):
                call("alpaca")
        market.resume()                         # of all there are: whatever runs
        with pytest.raises(ConfigurationError, match="no channel 'quote'"):
            market.start("alpaca", ["AAPL"], ["quote"], **where, **ALPACA_KEYS)
        assert market.status()["streams"][0]["state"] == "failed", "a start that is refused changes nothing"
        market.start("alpaca", ["AAPL"], ["quotes"], **where, **ALPACA_KEYS)
        market.wait_ready(10)
        market.start("alpaca", ["NVDA"], ["quotes"])
        market.wait_ready(10)
        assert [stream["state"] for stream in market.status()["streams"]] == ["live"]


def test_what_has_failed_takes_no_more_wishes(room: Room) -> None:
    """One of two streams has failed: what is wanted from then on goes to another one."""
    sim = room.stack.enter_context(BinanceFuturesSim(["BTCUSDT", "ETHUSDT"], rate=50.0))
    sim.plan(Fault.REJECT(status=401))
    with StreamManager() as market:
        market.start("binance-futures", ["BTC-USDT"], ["quotes"], url=sim.url, rest_url=sim.rest_url)
        first, = market._streams(None)
        market.start("binance-futures", ["BTC-USDT"], ["ticker"])
        wait_until(lambda: {stream.state for stream in market._streams(None)} == {"failed", "live"})
        failed, = (stream for stream in market._streams(None) if stream.state == "failed")
        channel = "quotes" if failed is first else "ticker"
        market.start("binance-futures", ["ETH-USDT"], [channel])
        added = market._streams(None)[-1]
        wait_live(added)
        assert set(added.status()["subscriptions"]) == {f"{channel}.ETH-USDT"}
        assert set(failed.status()["subscriptions"]) == {f"{channel}.BTC-USDT"}


def test_another_stream_may_take_over_a_store(room: Room) -> None:
    sim = room.sim(rate=100.0)
    first = room.stream(sim.url, sim.rest_url)
    wait_live(first)
    first.stop()
    second = room.stream(sim.url, sim.rest_url, store=first.store)
    wait_live(second)
    assert first.store.orderbook("binance", "BTC-USDT", max_age=5)["status"] == "live"

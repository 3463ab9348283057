"""Ctrl-C, SIGTERM, the end of the interpreter, forks; and nothing that piles up over 1,000 reconnects."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streams import StreamManager
from streams.backoff import Backoff
from streams.exchanges import Binance
from streams.record import Recorder, read_recording
from streams.sim import BinanceSim, Fault, HuobiSim
from streams.stream import Stream

from .raw_peer import RawPeer
from .tools import wait_live, wait_until, with_limits

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 2.0         # seconds from the signal, or the last line of the script, to the end of the process

HEAD = """
import signal, socket, sys, threading, time
from streams import StreamManager, Binance, Huobi, Store
URLS = dict(url=sys.argv[1], rest_url=sys.argv[2])
def ready():
    print("READY", time.time(), flush=True)
"""
LIVE = HEAD + """
market = StreamManager()
market.start("binance", ["BTC-USDT"], **URLS)
market.wait_ready(20)
"""


class Script:
    """A script in a process of its own."""

    def __init__(self, text: str, *args: str) -> None:
        # -X faulthandler and -W error: whatever goes wrong at the end shows
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-c", text, *args], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.since = 0.0

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("READY"):
            out, err = self.process.communicate(timeout=20)
            pytest.fail(f"no READY: {line}{out}{err}")
        self.since = float(line.split()[1])

    def send(self, number: int) -> None:
        self.since = time.time()
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Exit code and what was on stderr; the process must end in time."""
        out, err = self.process.communicate(timeout=20)
        took = time.time() - self.since
        assert took < LIMIT, f"{took:.2f} s\n{out}{err}"
        return self.process.returncode, err

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: Any) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def sim() -> Iterator[BinanceSim]:
    with BinanceSim(["BTCUSDT"], rate=200.0) as running:
        yield running


def clients(sim: Any) -> int:
    return len(sim.connections)


WITH = HEAD + """
try:
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"], **URLS)
        market.wait_ready(20)
        market.submit(int).result()         # its thread runs: Ctrl-C inside Thread.start() is Python's own
        ready()
        seen = None
        while True:
            %s
except KeyboardInterrupt:
    assert not [t for t in threading.enumerate() if t is not threading.main_thread()], threading.enumerate()
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
@pytest.mark.parametrize("waiting", [
    "seen = market.store.wait(seen, timeout=1)", "time.sleep(0.1)", "market.store.orderbooks['binance']",
    "market.submit(time.sleep, 0.3).result()",
    "\n            with market.store.lock: market.store.orderbooks['binance']['BTC-USDT'].view()"])
def test_ctrl_c(waiting: str, sim: BinanceSim) -> None:
    with Script(WITH % waiting, sim.url, sim.rest_url) as script:
        script.wait_ready()
        script.send(signal.SIGINT)
        code, error = script.end()
        assert not error, error
        assert code == 0
    wait_until(lambda: clients(sim) == 0)


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_ctrl_c_that_nobody_catches_shows_one_traceback(sim: BinanceSim) -> None:
    with Script(LIVE + "ready()\nwhile True: time.sleep(1)", sim.url, sim.rest_url) as script:
        script.wait_ready()
        script.send(signal.SIGINT)
        code, error = script.end()
    assert code in (-signal.SIGINT, 130)
    assert error.count("Traceback") == 1 and error.strip().endswith("KeyboardInterrupt")


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_sigterm(sim: BinanceSim) -> None:
    text = WITH % "seen = market.store.wait(seen, timeout=1)"
    with Script("import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n" + text,
                sim.url, sim.rest_url) as script:
        script.wait_ready()
        script.send(signal.SIGTERM)
        assert script.end() == (3, "")


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_a_signal_handler_may_stop_the_streams(sim: BinanceSim) -> None:
    # No wait without an end: CPython may begin one just when the signal has come, and then never hear of it.
    text = LIVE + """
done = []
signal.signal(signal.SIGTERM, lambda *_: (market.stop(), done.append(True)))
ready()
while not done:
    time.sleep(0.05)
assert not [t for t in threading.enumerate() if t is not threading.main_thread()], threading.enumerate()
"""
    with Script(text, sim.url, sim.rest_url) as script:
        script.wait_ready()
        script.send(signal.SIGTERM)
        assert script.end() == (0, "")


IN_THE_MIDDLE = HEAD + """
import faulthandler, random
faulthandler.dump_traceback_later(60, exit=True)
rand, market, stopped, took = random.Random(7), StreamManager(), [], []

def stop(*_):
    begun = time.monotonic()
    market.stop()
    took.append(time.monotonic() - begun)
    stopped.append(True)

def actions(store, book):
    return [lambda: book["bids"], lambda: book.depth(20), lambda: book.touch, lambda: store.last_update,
            lambda: store.wait(store.last_update, 0.002), lambda: store.orderbook("binance", "BTC-USDT"),
            market.status, lambda: market.subscribe("binance", "ETH-USDT"),
            lambda: market.unsubscribe("binance", "ETH-USDT")]

def with_lock():
    with market.store.lock:
        market.store.last_update

signal.signal(signal.SIGALRM, stop)
for turn in range(60):
    stopped.clear()
    market.start("binance", ["BTC-USDT"], **URLS)
    market.wait_ready(20)
    action = rand.choice(actions(market.store, market.store.orderbooks["binance"]["BTC-USDT"]) + [with_lock])
    signal.setitimer(signal.ITIMER_REAL, rand.uniform(0.001, 0.02))
    while not stopped:
        try:
            action()
        except ValueError:                  # it has been stopped: nothing to subscribe to
            pass
    deadline = time.monotonic() + 1.0
    while any(t.name.startswith("streams-") for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not [t for t in threading.enumerate() if t is not threading.main_thread()], threading.enumerate()
assert max(took) < 1.0, took
ready()
"""


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_a_signal_handler_may_stop_them_in_the_middle_of_anything() -> None:
    """The main thread holds some lock then, which a stream may need in order to end."""
    with BinanceSim(["BTCUSDT", "ETHUSDT"], rate=2000.0, levels=1000, message_limit=None) as sim:
        with Script(IN_THE_MIDDLE, sim.url, sim.rest_url) as script:
            script.wait_ready()
            assert script.end() == (0, "")


ENDS = {
    "busy": LIVE + "ready()",
    "without a reference": LIVE + "del market\nready()",
    "sys.exit": LIVE + "ready()\nsys.exit(0)",
    "streams alone": HEAD + """
streams = [Binance(["BTC-USDT"], **URLS) for _ in range(5)]
for stream in streams: stream.start()
while any(stream.waiting_for() for stream in streams): time.sleep(0.01)
ready()
""",
    "just started": HEAD + "Binance(['BTC-USDT'], **URLS).start()\nready()",
    "never started": HEAD + "stream = Binance(['BTC-USDT'], **URLS)\nready()",
    "in back-off": HEAD + """
stream = Binance(["BTC-USDT"], url="ws://127.0.0.1:9")
stream.start()
while stream.state != "backoff": time.sleep(0.01)
ready()
""",
    "paused": LIVE + "market.pause()\nready()",
    "resolving": HEAD + """
socket.getaddrinfo = lambda *a, **k: time.sleep(60)
stream = Binance(["BTC-USDT"], url="ws://never.example:1")
stream.start()
while not any("resolver" in t.name for t in threading.enumerate()): time.sleep(0.01)
ready()
""",
    "a handler that hangs": LIVE + """
entered = threading.Event()
market.on(r"binance.*", lambda event: (entered.set(), time.sleep(60)))
entered.wait(20)
ready()
""",
    "an inline handler that hangs": LIVE + """
entered = threading.Event()
market.on(r"binance\\.book.*", lambda event: (entered.set(), time.sleep(60)), policy="inline")
entered.wait(20)
ready()
""",
    "a submitted call that hangs": LIVE + "market.submit(time.sleep, 60)\nready()",
    "a thread that reads": LIVE + """
def read():
    seen = None
    while True:
        seen = market.store.wait(seen, 1)
        market.store.orderbooks["binance"]["BTC-USDT"].view()
threading.Thread(target=read, daemon=True).start()
ready()
""",
}


@pytest.mark.parametrize("name", ENDS)
def test_the_interpreter_ends_without_stop(name: str, sim: BinanceSim) -> None:
    with Script(ENDS[name], sim.url, sim.rest_url) as script:
        script.wait_ready()
        code, error = script.end()
        assert code == 0
        assert [line for line in error.splitlines() if "could not connect" not in line] == []
    wait_until(lambda: clients(sim) == 0)


def test_an_upgrade_that_hangs_does_not_hold_up_the_end(sim: BinanceSim) -> None:
    sim.plan(Fault.NEVER_UPGRADE)
    text = HEAD + "Binance(['BTC-USDT'], **URLS).start()\nsys.stdin.readline()\nready()"
    with Script(text, sim.url, sim.rest_url) as script:
        wait_until(lambda: sim.struck["never_upgrade"], 20)
        assert script.process.stdin is not None
        script.process.stdin.write("\n")
        script.process.stdin.flush()
        script.wait_ready()
        assert script.end() == (0, "")


def test_an_exception_in_the_block_is_shown_alone(sim: BinanceSim) -> None:
    text = HEAD + """
with StreamManager() as market:
    market.start("binance", ["BTC-USDT"], **URLS)
    market.wait_ready(20)
    ready()
    raise ValueError("of the user")
"""
    with Script(text, sim.url, sim.rest_url) as script:
        script.wait_ready()
        code, error = script.end()
    assert code == 1 and error.count("Traceback") == 1
    assert error.strip().endswith("ValueError: of the user")


# -- forks ----------------------------------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> None:
    """Fork, and do ``work`` in the child; it must end well, and soon."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # of forking with threads: that is the point
        pid = os.fork()
    if not pid:
        code = 1
        try:
            signal.alarm(10)
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "hung" if status == signal.SIGALRM else f"status {status}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_reads_what_was_there_and_its_streams_are_stopped(sim: BinanceSim) -> None:
    stream = Binance(["BTC-USDT"], ["book", "trades", "quotes"], url=sim.url, rest_url=sim.rest_url)
    stream.on(r".*", lambda event: None)
    stream.start()
    try:
        wait_live(stream)
        wait_until(lambda: len(stream.store.trades.get("binance", {}).get("BTC-USDT", ())) > 0)

        def child() -> None:
            assert not stream.is_alive() and stream.state == "stopped"
            book = stream.store.orderbooks["binance"]["BTC-USDT"]
            assert book["status"] == book.view()["status"] == "closed", "nobody keeps it here"
            with stream.store.lock:
                assert book.view()["bids"] == book["bids"]
            assert book.depth(5)[0] and book.spread > 0
            assert stream.store.last_update and len(stream.store.trades["binance"]["BTC-USDT"]) > 0
            assert stream.status()["running"] is False
            stream.store.wait(stream.store.last_update, 0.01)
            stream.subscribe("ETH-USDT", ["trades"])
            stream.on(r"x\.y\.z", lambda event: None)
            assert stream.stop() is True

        for _ in range(25):
            in_child(child)
        assert stream.is_alive()
        seen = stream.store.last_update
        assert stream.store.wait(seen, 5) != seen
        assert stream.status()["errors"] == 0, "the child has not touched the parent's connection"
    finally:
        assert stream.stop()


def sockets_to(port: int) -> int:
    """How many of this process lead there."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as copy:
                found += copy.family == socket.AF_INET and copy.getpeername()[1] == port
        except OSError:
            pass                                # no socket, or one that is not connected
    return found


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="nobody says here what is open")
def test_a_forked_child_keeps_no_connection_open(sim: BinanceSim) -> None:
    port = int(sim.url.rpartition(":")[2])
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(10)
        session = market.rest("binance")
        assert session.get("/api/v3/depth", params={"symbol": "BTCUSDT"}).status_code == 200
        assert sockets_to(port) >= 2

        def child() -> None:
            assert sockets_to(port) == 0
            assert session.get("/api/v3/depth", params={"symbol": "BTCUSDT"}).status_code == 200    # anew

        in_child(child)
        assert session.get("/api/v3/depth", params={"symbol": "BTCUSDT"}).status_code == 200
        assert market.status()["streams"][0]["errors"] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_start_its_copy(sim: BinanceSim) -> None:
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    stream.start()
    try:
        wait_live(stream)

        def child() -> None:
            stream.start()
            wait_live(stream)
            assert stream.stop() is True

        for _ in range(5):
            in_child(child)
        assert stream.status()["errors"] == 0 and stream.is_alive()
    finally:
        assert stream.stop()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_may_start_what_ran_in_the_parent(sim: BinanceSim) -> None:
    def serve() -> None:
        market.start("binance", ["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        market.wait_ready(10)

    with StreamManager() as market:
        serve()

        def child() -> None:
            serve()
            assert market.store.orderbook("binance", "BTC-USDT", max_age=5)["status"] == "live"
            market.stop()

        for _ in range(5):
            in_child(child)
        assert [stream["errors"] for stream in market.status()["streams"]] == [0]


@contextlib.contextmanager
def held_elsewhere(*locks: Any) -> Iterator[None]:
    """Another thread is in the middle of something."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            done.wait(60)
    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(5)
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_manager_of_its_own(sim: BinanceSim) -> None:
    """Whatever other threads are doing to the parent's."""
    options = {"url": sim.url, "rest_url": sim.rest_url}
    with StreamManager() as market:
        market.start("binance", ["BTC-USDT"], ["book", "ticker"], **options)
        market.wait_ready(10)
        (stream,) = market._streams(None)

        def child() -> None:
            assert market.status()["streams"] == [] and stream.state == "stopped"
            assert market.store.orderbooks["binance"]["BTC-USDT"]["status"] == "closed"
            stream.subscribe("BTC-USDT")
            assert stream.stop()
            market.start("binance", ["BTC-USDT"], ["book", "ticker"], **options)
            market.wait_ready(5)
            assert market.store.orderbooks["binance"]["BTC-USDT"]["status"] == "live"
            assert market.ticker("binance", "BTC-USDT", 5).source == "stream"
            market.stop()

        for locks in ([market._lock], [market.fallback._lock], [stream._connector.control, stream._renewal]):
            with held_elsewhere(*locks):
                in_child(child)
        assert market.status()["streams"][0]["errors"] == 0 and stream.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_reads_what_has_ended(sim: BinanceSim) -> None:
    """Also if another thread was just reading it."""
    stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
    stream.start()
    try:
        wait_live(stream)
    finally:
        assert stream.stop()
    book = stream.store.orderbooks["binance"]["BTC-USDT"]
    ended, reading = threading.Event(), threading.Event()

    def read() -> None:
        while not ended.is_set():
            with book.lock:
                reading.set()
                ended.wait(1e-4)
    thread = threading.Thread(target=read)
    thread.start()
    try:
        assert reading.wait(5)
        for _ in range(5):
            in_child(lambda: book.depth(3)[0] and book.view()["bids"])
    finally:
        ended.set()
        thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_leaves_the_file_of_a_recorder_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with Recorder(path, max_pending=1 << 20) as recorder:
        recorder.received("s", [b"of the parent"], 1)
        recorder.received("s", [b"x" * (2 << 20)], 1)       # too much: that will be written as a gap

        def child() -> None:
            recorder.received("s", [b"of the child"], 1)
            recorder.opened("s", "wss://venue/ws")
            assert recorder.close() and recorder.status()["lost"] == 1 + 2

        with held_elsewhere(recorder._work):
            in_child(child)
    assert [(record.kind, record.data) for record in read_recording(path)][1:] == [
        ("recv", b"of the parent"), ("gap", b"")]


# -- nothing piles up -------------------------------------------------------------------------------------


@pytest.fixture
def unlogged() -> Iterator[None]:
    """Without log records: the test runner keeps them all."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def footprint() -> dict[str, int]:
    looks = []
    for _ in range(4):      # the simulator may be packing something; free-threaded, what one round of
        gc.collect()        # collecting frees is given back in the next
        looks.append(tracemalloc.get_traced_memory()[0])
    return {"threads": threading.active_count(), "descriptors": descriptors(),
            "objects": len(gc.get_objects()), "bytes": min(looks)}


def assert_no_growth(rounds: list[dict[str, int]]) -> None:
    """After equal rounds of work. The first fills caches and bounded histories; the room is for what comes
    and goes: the simulator's connections, and those for REST."""
    first, last = rounds[0], rounds[-1]
    assert last["threads"] <= first["threads"] + 3
    assert last["descriptors"] <= first["descriptors"] + 6
    assert last["objects"] <= first["objects"] * 1.05 + 1000
    # What leaks does so in every round. In one of them the interpreter may enlarge a table of its own: that
    # of interned strings takes 1.9 MB more when there are 43,690, which is the whole suite's doing.
    grown = [after["bytes"] - before["bytes"] for before, after in zip(rounds, rounds[1:])]
    assert statistics.median(grown) <= 120_000, grown


@pytest.mark.parametrize("kind", [BinanceSim, HuobiSim])
def test_1000_reconnects_leave_nothing_behind(kind: Any, connect: Callable[..., Stream],
                                              unlogged: None) -> None:
    count = 1000 if kind is BinanceSim else 200
    with kind(["BTCUSDT"], rate=50.0, levels=20) as sim:
        faults = [Fault.RESET, Fault.DROP, Fault.CLOSE, Fault.REFUSE, Fault.REJECT(status=503)]
        from .conftest import KINDS
        stream = connect(sim, kind=with_limits(KINDS[kind], connects=(10 ** 6, 1.0)),
                         backoff=Backoff(base=0.0005, cap=0.001, healthy_after=0.0))
        wait_live(stream)
        tracemalloc.start()
        try:
            rounds = []
            for done in range(0, count + 1, count // 5):
                sim.plan(*faults * (count // 5 // len(faults)))
                target = sim.accepted + count // 5
                sim.inject(Fault.RESET)
                wait_until(lambda: sim.accepted >= target, 60)
                wait_until(lambda: not stream.waiting_for() and stream.state == "live", 20)
                wait_until(lambda: len(sim.peers()) <= 3, 20)
                sim.requests.clear()
                rounds.append(footprint())
            assert_no_growth(rounds)
            assert stream.feed.counters.errors >= count
        finally:
            tracemalloc.stop()
        assert stream.stop()


def test_starting_and_stopping_leaves_nothing_behind(unlogged: None) -> None:
    with BinanceSim(["BTCUSDT"], rate=50.0, levels=20) as sim, RawPeer():
        stream = Binance(["BTC-USDT"], url=sim.url, rest_url=sim.rest_url)
        threads = threading.active_count()
        sizes = []
        for n in range(1, 61):
            stream.start()
            wait_live(stream)
            assert stream.stop()
            wait_until(lambda: not sim.peers())
            sim.requests.clear()
            if not n % 20:
                gc.collect()
                sizes.append((threading.active_count(), descriptors(), len(gc.get_objects())))
        assert max(size[0] for size in sizes) <= threads + 2
        assert sizes[-1][1] <= sizes[0][1]
        assert sizes[-1][2] <= sizes[0][2] + 300

"""The fan-out: one collector, a Redis server, one reader process; ``python -m tests.benchmarks.fanout``.

The collector's books and trades are written by hand (no network before Redis), 100,000 events a second
of 60 symbols, four book changes to each trade. What it costs the collector is told as the difference to
the same without a publisher. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from typing import Any

from streams.events import Trade
from streams.publisher import Publisher
from streams.remote import RemoteStore

from ..fanout_tools import Delta, Source

SYMBOLS = [f"S{number}" for number in range(60)]
CHUNK = 0.002           # seconds between two bursts, as reads of a busy socket


def generate(source: Source, rate: float, seconds: float) -> tuple[int, float]:
    """Write events at that rate. (How many, CPU seconds of this thread.)"""
    books = [source.routes[symbol, "book"] for symbol in SYMBOLS]
    trades = [source.routes[symbol, "trades"] for symbol in SYMBOLS]
    changes = [([(100.0 - n % 100, float(n % 7))], [(101.0 + n % 90, float(n % 5))]) for n in range(600)]
    last = [1] * len(SYMBOLS)
    writer, done, begun = source.feed.writer, 0, time.monotonic()
    cpu = time.thread_time()
    while (now := time.monotonic()) < begun + seconds:
        due = int((now - begun) * rate)
        writer.clock.now = time.time_ns()
        with writer.lock:
            for done in range(done, due):
                at = done % 60
                if done % 5 == 4:
                    trades[at].apply(Trade(
                        exchange="hand", symbol=SYMBOLS[at], price=1.5, size=2.0, side="buy", id=str(done)))
                else:
                    last[at] += 1
                    books[at].apply(Delta(last[at], last[at], *changes[done % 600]))
            done = max(done, due)
        time.sleep(CHUNK)
    return done, time.thread_time() - cpu


def begin() -> Source:
    source = Source(*SYMBOLS)
    for symbol in SYMBOLS:
        source.whole(symbol, 1, 100)
    return source


def collect(url: str, rate: float, seconds: float) -> dict[str, Any]:
    """The collector's process."""
    count, bare = generate(begin(), rate, 2.0)
    bare /= count
    source = begin()
    publisher = Publisher(source.handlers, url)
    publisher.start()
    source.follow()
    time.sleep(2.0)         # the reader finds it
    cpu = time.process_time()
    count, tapped = generate(source, rate, seconds)
    waiting = publisher.status()["waiting"]
    time.sleep(1.0)
    cpu = time.process_time() - cpu
    status = publisher.status()
    publisher.stop()
    return {
        "events": count, "per_second": count / seconds, "dropped": status["dropped"], "waiting": waiting,
        "batches": status["batches"], "bytes_per_event": status["bytes"] / status["items"],
        "network_thread_us": (tapped / count - bare) * 1e6, "publisher_us": (cpu - tapped) / count * 1e6,
        "last": {symbol: source.book(symbol).last for symbol in SYMBOLS}}


def read(url: str, seconds: float) -> dict[str, Any]:
    """The reader's process."""
    with RemoteStore(url) as store:
        deadline = time.monotonic() + seconds
        delays: list[float] = []
        cpu = None
        while time.monotonic() < deadline:
            seen = store.last_update
            if store.wait(seen, 0.2) != seen:
                stamp = store.last_update
                assert stamp is not None
                delays.append((time.time_ns() - stamp) / 1e6)
            if cpu is None and store.status()["items"] > 1000:
                cpu = time.process_time(), store.status()["items"]
            time.sleep(0.01)
        status = store.status()
        used = time.process_time() - cpu[0] if cpu else 0.0
        delays.sort()
        return {
            "items": status["items"], "gaps": status["gaps"], "filled": status["filled"],
            "reader_us": used / max(status["items"] - (cpu[1] if cpu else 0), 1) * 1e6,
            "delay_ms": {"50%": delays[len(delays) // 2], "99%": delays[len(delays) * 99 // 100]},
            "last": {symbol: book["sequence"] for symbol, book in store.orderbooks["hand"].items()}}


def main() -> None:
    """Both, and the server; or one of them, for the other processes."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rate", type=float, default=100_000.0)
    options.add_argument("--seconds", type=float, default=10.0)
    options.add_argument("--part", choices=("collect", "read"))
    options.add_argument("--url")
    given = options.parse_args()
    if given.part == "collect":
        print(json.dumps(collect(given.url, given.rate, given.seconds)))
    elif given.part == "read":
        print(json.dumps(read(given.url, given.seconds)))
    else:
        print(json.dumps(together(given.rate, given.seconds), indent=1))


def together(rate: float, seconds: float) -> dict[str, Any]:
    """Run all three, and compare what arrived with what was sent."""
    program = shutil.which("redis-server")
    if program is None:
        return {"skipped": "no redis-server on PATH"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL)
    try:
        threading.Event().wait(0.5)
        parts = {}
        for part, time_ in (("read", seconds + 6.0), ("collect", seconds)):
            parts[part] = subprocess.Popen(
                [sys.executable, "-m", "tests.benchmarks.fanout", "--part", part, "--rate", str(rate),
                 "--seconds", str(time_), "--url", f"redis://127.0.0.1:{port}"], stdout=subprocess.PIPE)
        said = {part: json.loads(process.communicate(timeout=seconds + 60)[0])
                for part, process in parts.items()}
    finally:
        server.kill()
        server.wait()
    sent, got = said["collect"].pop("last"), said["read"].pop("last")
    said["equal"] = sent == got
    return said


if __name__ == "__main__":
    main()

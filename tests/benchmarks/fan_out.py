"""From one process to another through Redis: how many events a second, how late, at what cost.

``python fan_out.py read URL`` follows until its standard input ends; beside it ``fan_out.py collect URL
EVENTS RATE`` writes so many events at that rate (0: as fast as they are taken). Each prints one JSON object.

The collector's books and trades are written by hand (no network before Redis): 60 symbols, four book changes
to each trade, in bursts like reads of a busy socket. What publishing costs the thread that writes is told as
the difference to the same without a publisher.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from streams.events import Trade
from streams.publisher import Publisher
from streams.remote import RemoteStore
from tests.fanout_tools import Delta, Source

SYMBOLS = [f"S{number}" for number in range(60)]
BURST = 0.002           # seconds between two bursts
MOST = 500              # events of one, when there is no rate
BACKLOG = 20_000        # notes that may wait before a writer without a rate pauses
PATIENCE = 30.0         # seconds
CHANGES = [([(100.0 - n % 100, float(n % 7))], [(101.0 + n % 90, float(n % 5))]) for n in range(600)]


class Writer:
    """Writes events into a store, which a publisher may pass on."""

    def __init__(self) -> None:
        self.source = Source(*SYMBOLS)
        for symbol in SYMBOLS:
            self.source.whole(symbol, 1, 100)
        self.cpu = 0.0              # seconds of this thread so far
        self._done = 0
        self._last = [1] * len(SYMBOLS)

    def write(self, events: int, rate: float, publisher: Publisher | None = None) -> None:
        """So many at that rate; 0: as fast as the publisher takes them."""
        first, begun, cpu = self._done, time.monotonic(), time.thread_time()
        while (done := self._done - first) < events:
            due = int((time.monotonic() - begun) * rate) if rate else done + MOST
            self._burst(min(due, events) - done)
            if rate:
                time.sleep(BURST)
            while publisher is not None and not rate and publisher.status()["waiting"] > BACKLOG:
                time.sleep(BURST)
        self.cpu += time.thread_time() - cpu

    def _burst(self, count: int) -> None:
        source, last = self.source, self._last
        books = [source.routes[symbol, "book"] for symbol in SYMBOLS]
        trades = [source.routes[symbol, "trades"] for symbol in SYMBOLS]
        now = source.feed.writer.clock.now = time.time_ns()
        with source.feed.writer.lock:
            for number in range(self._done, self._done + count):
                at = number % 60
                if number % 5 == 4:
                    trades[at].apply(Trade(
                        exchange="hand", symbol=SYMBOLS[at], price=1.5, size=2.0, side="buy", id=str(number),
                        received=now))
                else:
                    last[at] += 1
                    books[at].apply(Delta(last[at], last[at], *CHANGES[number % 600]))
        self._done += count


def collect(url: str, events: int, rate: float) -> dict[str, Any]:
    """Write, and pass on."""
    alone = Writer()
    alone.write(min(events, 100_000), rate)
    writer = Writer()
    publisher = Publisher(writer.source.handlers, url)
    publisher.start()
    writer.source.follow()
    _until(lambda: publisher.connected and not publisher.status()["waiting"])
    cpu = time.process_time()
    writer.write(events, rate, publisher)
    _until(lambda: not publisher.status()["waiting"])
    cpu = time.process_time() - cpu
    status = publisher.status()
    writer.source.feed.mark("closed", "stopped")
    publisher.stop(PATIENCE)
    return {
        "dropped": status["dropped"], "outages": status["outages"],
        "writer_us": (writer.cpu / events - alone.cpu / min(events, 100_000)) * 1e6,
        "publisher_us": (cpu - writer.cpu) / events * 1e6,
        "bytes_per_event": status["bytes"] / status["items"],
        "last": {symbol: writer.source.book(symbol).last for symbol in SYMBOLS}}


def read(url: str) -> dict[str, Any]:
    """Follow, and look at the newest trade now and then, as a program would."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    with RemoteStore(url) as store:
        store.wait_ready(PATIENCE)
        print("ready", flush=True)
        delays: list[float] = []
        looks: list[tuple[float, float, int]] = []
        while not ended.is_set():
            store.wait(store.last_update, 0.1)
            items = store.status()["items"]
            if not looks or items > looks[-1][2] + len(SYMBOLS):        # more than words about each book
                looks.append((time.perf_counter(), time.process_time(), items))
                newest = store.trades.get("hand", {}).get("S4")
                if newest:
                    delays.append((time.time_ns() - newest[-1].received) / 1e6)
            time.sleep(0.01)
        # All has been sent by now, last of all that the books are closed.
        _until(lambda: {book["status"] for book in store.orderbooks["hand"].values()} == {"closed"})
        # The first of it were whole books.
        (begun, cpu_begun, first), (end, cpu, last) = looks[1], looks[-1]
        return {
            "per_second": (last - first) / (end - begun),
            "reader_us": (cpu - cpu_begun) / (last - first) * 1e6,
            "p50": _at(delays, 0.5), "p99": _at(delays, 0.99), "gaps": store.status()["gaps"],
            "last": {symbol: book["sequence"] for symbol, book in store.orderbooks["hand"].items()}}


def _at(values: list[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)]


def _until(met: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > deadline:
            raise SystemExit("it takes too long")
        time.sleep(0.005)


if __name__ == "__main__":
    role, url, *numbers = sys.argv[1:]
    print(json.dumps(collect(url, int(numbers[0]), float(numbers[1])) if role == "collect" else read(url)))

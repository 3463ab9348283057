"""Millions of messages through four streams with accidents: does anything grow?

    python -m tests.benchmarks.soak [--messages 20000000] [--rate 50000] [--json FILE]

Prints a line every ten seconds: what came, memory, threads, file descriptors, latency from the venue's
write to an inline handler, and what went wrong and was mended. At the end it compares the last third
with the first, and every book with the true one.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from streams import Store
from streams.backoff import Backoff
from streams.exchanges import Binance

from .harness import venue
from .many import resident
from .server import Market

WRAP = 10**12
UNSTAMPED = 1672515782136
SYMBOLS, STORY, LEVELS = 4, 100_000, 2
EVERY = 10.0


class Watch:
    """What one symbol's updates took to come."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def __call__(self, event: Any) -> None:
        if event.timestamp is not None and (written := event.timestamp // 1_000_000) != UNSTAMPED:
            self.taken.append((time.time_ns() - written) % WRAP)


class Soak:
    """Four streams into one store, a reader, and a queued handler."""

    def __init__(self, port: int) -> None:
        self.store = Store()
        self.watches = [Watch() for _ in range(SYMBOLS)]
        self.queued = 0
        self.streams = []
        for i, watch in enumerate(self.watches):
            stream = Binance(
                [f"S{i}-USDT"], store=self.store, url=f"ws://127.0.0.1:{port}", rest_limit=(10**9, 60),
                rest_url=f"http://127.0.0.1:{port}", stale_after=1.2, backoff=Backoff(0.1, 1.0, 5.0))
            stream.on(r"binance\.book\..*", watch, policy="inline")
            stream.on(r"binance\.book\..*", self._count, policy="conflate")
            self.streams.append(stream)
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def _count(self, event: Any) -> None:
        self.queued += 1

    def _read(self) -> None:
        """Somebody who looks at everything, ten times a second."""
        while not self._over.wait(0.1):
            with self.store.lock:
                for books in self.store.orderbooks.values():
                    for book in books.values():
                        book.touch, book.depth(10)
            for books in self.store.orderbooks.values():
                for book in books.values():
                    book.view()

    def start(self) -> None:
        """Begin."""
        for stream in self.streams:
            stream.start()
        self._reader.start()

    def stop(self) -> bool:
        """End; whether all threads did."""
        self._over.set()
        self._reader.join()
        return all([stream.stop() for stream in self.streams])

    def messages(self) -> int:
        """How many have come."""
        return sum(stream.feed.counters.messages for stream in self.streams)

    def row(self, begun: float) -> dict[str, Any]:
        """How it is, and how late what came since the last row was."""
        taken: list[int] = []
        for watch in self.watches:
            new, watch.taken = watch.taken, []
            taken += new
        taken.sort()
        counters: dict[str, int] = {}
        for stream in self.streams:
            for name, value in stream.feed.counters.as_dict().items():
                counters[name] = counters.get(name, 0) + value
        return {
            "seconds": time.monotonic() - begun, "messages": self.messages(), "resident_mb": resident(),
            "threads": threading.active_count(), "fds": len(os.listdir("/proc/self/fd")),
            "p50_us": taken[len(taken) // 2] / 1e3 if taken else 0.0,
            "p99_us": taken[len(taken) * 99 // 100] / 1e3 if taken else 0.0,
            **{name: counters[name] for name in ("reconnects", "gaps", "resyncs", "malformed")}}

    def wrong_books(self, ends: dict[str, int]) -> list[str]:
        """Books whose best 100 levels are not the true ones where their stories have ended."""
        wrong = []
        for i in range(SYMBOLS):
            market = Market("btcusdt", i, LEVELS, 1000)
            for _ in range(ends[f"S{i}USDT"]):
                market.update()
            book = self.store.orderbooks["binance"][f"S{i}-USDT"]
            deadline = time.monotonic() + 10
            while book["sequence"] != market.sequence and time.monotonic() < deadline:
                time.sleep(0.01)
            truth = json.loads(market.snapshot())
            for side in ("bids", "asks"):
                if book[side][:100] != [(float(p), float(s)) for p, s in truth[side][:100]]:
                    wrong.append(f"{book.symbol} {side}, at {book['sequence']} of {market.sequence}")
        return wrong


def run(messages: int, rate: float) -> dict[str, Any]:
    """The whole of it."""
    rows: list[dict[str, Any]] = []
    settings = {"symbols": SYMBOLS, "messages": STORY, "levels": LEVELS, "rate": rate / SYMBOLS}
    with venue("faulty.py", **settings) as port:
        soak = Soak(port)
        soak.start()
        begun = time.monotonic()
        while not rows or rows[-1]["messages"] < messages:
            time.sleep(EVERY)
            rows.append(soak.row(begun))
            _show(rows[-1], len(rows) == 1)
        told = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/finish").read())
        wrong = soak.wrong_books(told["ends"])
        ended = soak.stop()
    return {"rows": rows, "faults": told["faults"], "wrong_books": wrong, "ended": ended,
            "threads_left": threading.active_count() - 1, "change": _change(rows)}


def _show(row: dict[str, Any], head: bool) -> None:
    if head:
        print("".join(f"{name:>13}" for name in row))
    cells = [f"{value:13,.1f}" if isinstance(value, float) else f"{value:13,}" for value in row.values()]
    print("".join(cells), flush=True)


def _change(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The last third against the first: 1.0 is flat."""
    third = max(len(rows) // 3, 1)
    return {name: statistics.median(row[name] for row in rows[-third:])
            / (statistics.median(row[name] for row in rows[:third]) or 1.0)
            for name in ("resident_mb", "threads", "fds", "p50_us", "p99_us")}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak")
    parser.add_argument("--messages", type=int, default=20_000_000)
    parser.add_argument("--rate", type=float, default=50_000, help="messages a second, of all four streams")
    parser.add_argument("--json", type=Path, help="write everything there")
    options = parser.parse_args()
    logging.getLogger("streams").setLevel(logging.CRITICAL)     # thousands of accidents are no news here
    results = run(options.messages, options.rate)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    last = results["rows"][-1]
    print(f"{last['messages']:,} messages in {last['seconds']:,.0f} s; accidents: {results['faults']}")
    change = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in results["change"].items())
    print(f"last third against first: {change}")
    wrong = ", ".join(results["wrong_books"]) or "none"
    print(f"wrong books: {wrong}; all streams ended: {results['ended']},"
          f" threads left: {results['threads_left']}")


if __name__ == "__main__":
    main()

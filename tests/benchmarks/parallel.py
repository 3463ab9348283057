"""Several streams in one process, and what readers beside them cost.

Run as ``python parallel.py PORT STREAMS MESSAGES READER``; prints one JSON object. All streams begin at
once, flat out, each with a book of its own. ``READER`` says what the main thread does meanwhile, in a
tight loop: ``none`` (it sleeps), ``spin`` (it computes and reads nothing: with the GIL that alone costs the
streams half of the processor), or what it reads: ``touch``, ``depth``, ``view``, ``lock``. ``floor``: nothing
of this library, but as many threads that do the least that the work costs.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from streams import Binance, Store


class Runner:
    """One stream, and the processor time of its thread."""

    def __init__(self, store: Store, port: int, symbol: str) -> None:
        here = f"127.0.0.1:{port}"
        self.stream = Binance([symbol], store=store, url=f"ws://{here}", rest_url=f"http://{here}")
        self.symbol = symbol
        self.ended = threading.Event()
        self.at = 0.0               # when the last message was handled
        self.stream.on(r"binance\.trades\..*", self._end, policy="inline")
        self.stream.start()

    def ready(self) -> None:
        """Wait until the book is there."""
        while self.stream.waiting_for():
            self.stream.store.wait(self.stream.store.last_update, 0.05)
        self.stream.subscribe("END-USDT", ["trades"])
        while self.stream.status()["subscriptions"]["trades.END-USDT"]["state"] != "live":
            time.sleep(0.01)

    def cpu(self) -> float:
        """Seconds of processor time that the stream's thread has used."""
        assert self.stream.ident is not None
        return time.clock_gettime(time.pthread_getcpuclockid(self.stream.ident))

    def _end(self, event: Any) -> None:
        self.at = time.perf_counter()
        self.ended.set()


def readers(store: Store, symbol: str) -> dict[str, Callable[[], object]]:
    """What a reader may do, one turn of it."""
    book = store.orderbooks["binance"][symbol]

    def lock() -> None:
        with store.lock:
            pass

    return {"touch": lambda: book.touch, "depth": lambda: book.depth(25), "view": lambda: book["bids"],
            "lock": lock, "spin": lambda: symbol}


def measure(port: int, streams: int, messages: int, reader: str) -> dict[str, Any]:
    """One run."""
    store = Store()
    names = [f"S{i}-USDT" for i in range(streams)] if streams > 1 else ["BTC-USDT"]
    runners = [Runner(store, port, name) for name in names]
    for runner in runners:
        runner.ready()
    turn = readers(store, names[0]).get(reader)
    cpu = sum(runner.cpu() for runner in runners)
    begun, turns = time.perf_counter(), 0
    urllib.request.urlopen(f"http://127.0.0.1:{port}/go").read()
    while not all(runner.ended.is_set() for runner in runners):
        if turn is None:
            runners[0].ended.wait(0.5)
            runners[-1].ended.wait(0.5)
            continue
        for _ in range(100):
            turn()
        turns += 100
    seconds = max(runner.at for runner in runners) - begun
    cpu = sum(runner.cpu() for runner in runners) - cpu
    total = messages * streams
    wrong = [r.symbol for r in runners if r.stream.feed.counters.gaps or r.stream.feed.counters.malformed]
    for runner in runners:
        runner.stream.stop()
    if wrong:
        raise SystemExit(f"not every update was applied: {wrong}")
    return {"per_second": total / seconds, "cpu_us": cpu / total * 1e6, "turns_per_second": turns / seconds}


def measure_floor(port: int, streams: int, messages: int) -> dict[str, Any]:
    """One run of threads that share nothing but the interpreter."""
    import msgspec
    from clients import floor

    assert msgspec                              # imported before the time is taken
    threads = [threading.Thread(target=floor, args=(port, messages, "book")) for _ in range(streams)]
    begun, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = messages * streams
    return {"per_second": total / (time.perf_counter() - begun),
            "cpu_us": (time.process_time() - cpu) / total * 1e6}


if __name__ == "__main__":
    port, streams, messages = map(int, sys.argv[1:4])
    reader = sys.argv[4]
    print(json.dumps(measure_floor(port, streams, messages) if reader == "floor"
                     else measure(port, streams, messages, reader)))

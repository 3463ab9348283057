"""Many books in one process, at a rate: processor share and memory.

Run as ``python many.py CLIENT PORT SYMBOLS MESSAGES``; prints one JSON object. ``CLIENT``: ``streams``,
``polled`` (the same, and best bid and ask of every book read each second), or ``floor``, the least that the
work costs. The server was started with as many symbols, and with the rate per symbol; each sends
``MESSAGES`` updates.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
PER_CONNECTION = 1000       # symbols of the floor; Binance allows 1,024


def resident() -> float:
    """Megabytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE / 1e6


def measured(port: int, symbols: int, messages: int, count: Callable[[], int], pause: float = 0.25,
             look: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Have the venue begin; processor time from a second later to nearly the end. ``look`` is called every
    ``pause`` seconds."""
    before = count()
    urllib.request.urlopen(f"http://127.0.0.1:{port}/go").read()
    time.sleep(1.0)
    cpu, wall, seen = time.process_time(), time.perf_counter(), count()
    while count() - before < symbols * messages * 0.95:
        look()
        time.sleep(pause)
    cpu, wall, seen = time.process_time() - cpu, time.perf_counter() - wall, count() - seen
    return {"share": cpu / wall, "per_second": seen / wall, "cpu_us": cpu / seen * 1e6,
            "resident": resident()}


def streams(port: int, symbols: int, messages: int, polled: bool = False) -> dict[str, Any]:
    """One run of this library."""
    from streams import StreamManager

    names = [f"S{i}-USDT" for i in range(symbols)]
    here = f"127.0.0.1:{port}"
    empty = resident()
    with StreamManager() as market:
        # The simulated venue has no limit on requests; the real one's would have 1,500 snapshots of
        # 1,000 levels take a quarter of an hour.
        market.start("binance", names, url=f"ws://{here}", rest_url=f"http://{here}", rest_limit=(10**9, 60))
        market.wait_ready(timeout=240)
        full = resident()
        feeds = [stream.feed for _, stream in market._groups["binance"].streams]
        books = list(market.store.orderbooks["binance"].values())
        reading: dict[str, Any] = {
            "pause": 1.0, "look": lambda: [book.touch for book in books]} if polled else {}
        figures = measured(
            port, symbols, messages, lambda: sum(feed.counters.messages for feed in feeds), **reading)
        for feed in feeds:
            if feed.counters.gaps or feed.counters.malformed or feed.counters.reconnects:
                raise SystemExit(f"not every update was applied: {feed.counters.as_dict()}")
    return {**figures, "book_kb": (full - empty) / symbols * 1e3}


class Floor:
    """Blocking reads in a thread for each connection, frames cut by hand, typed decoding, two dicts a book;
    no safety of any kind."""

    def __init__(self, port: int, symbols: int) -> None:
        import msgspec

        levels = list[tuple[float, float]]
        depth = msgspec.defstruct("Depth", [("s", str), ("b", levels), ("a", levels)], gc=False)
        envelope = msgspec.defstruct("Envelope", [("data", depth)])
        self.decode = msgspec.json.Decoder(envelope, strict=False).decode
        snapshot = msgspec.json.Decoder(
            msgspec.defstruct("Snapshot", [("bids", levels), ("asks", levels)]), strict=False).decode
        body = urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v3/depth").read()
        self.port = port
        self.books: dict[str, tuple[dict[float, float], dict[float, float]]] = {}
        for i in range(symbols):
            whole: Any = snapshot(body)
            self.books[f"S{i}USDT"] = dict(whole.bids), dict(whole.asks)
        names = list(self.books)
        self.counts = []
        for at in range(0, symbols, PER_CONNECTION):
            connection = self._connect(names[at:at + PER_CONNECTION])
            self.counts.append(0)
            threading.Thread(target=self._read, args=(connection, len(self.counts) - 1), daemon=True).start()

    def _connect(self, names: Sequence[str]) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: eA==\r\n\r\n")
        while not connection.recv(4096).endswith(b"\r\n\r\n"):
            pass
        for at in range(0, len(names), 100):
            wanted = [f"{name.lower()}@depth" for name in names[at:at + 100]]
            request = json.dumps({"method": "SUBSCRIBE", "params": wanted, "id": at}).encode()
            connection.sendall(b"\x81\xfe" + len(request).to_bytes(2, "big") + bytes(4) + request)
            connection.recv(4096)
        return connection

    def _read(self, connection: socket.socket, which: int) -> None:
        decode, books, data = self.decode, self.books, b""
        while block := connection.recv(65536):
            data += block
            while len(data) > 4:
                size, start = data[1], 2
                if size == 126:
                    size, start = data[2] << 8 | data[3], 4
                if start + size > len(data):
                    break
                update: Any = decode(data[start:start + size]).data
                data = data[start + size:]
                for changes, side in zip((update.b, update.a), books[update.s]):
                    for price, amount in changes:
                        if amount:
                            side[price] = amount
                        else:
                            side.pop(price, None)
                self.counts[which] += 1


def floor(port: int, symbols: int, messages: int) -> dict[str, Any]:
    """One run of the least."""
    empty = resident()
    client = Floor(port, symbols)
    full = resident()
    return {**measured(port, symbols, messages, lambda: sum(client.counts)),
            "book_kb": (full - empty) / symbols * 1e3}


CLIENTS = {"streams": streams, "polled": functools.partial(streams, polled=True), "floor": floor}

if __name__ == "__main__":
    print(json.dumps(CLIENTS[sys.argv[1]](*map(int, sys.argv[2:5]))))

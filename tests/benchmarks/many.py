"""Many books in one process, at a rate: processor share and memory.

Run as ``python many.py PORT SYMBOLS MESSAGES``; prints one JSON object. The server was started with as many
symbols, and with the rate per symbol; each sends ``MESSAGES`` updates.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from typing import Any

from streams import StreamManager

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    """Megabytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE / 1e6


def measure(port: int, symbols: int, messages: int) -> dict[str, Any]:
    """One run."""
    names = [f"S{i}-USDT" for i in range(symbols)] if symbols > 1 else ["BTC-USDT"]
    here = f"127.0.0.1:{port}"
    empty = resident()
    begun = time.perf_counter()
    with StreamManager() as market:
        # The simulated venue has no limit on requests; the real one's would have 1,500 snapshots of
        # 1,000 levels take a quarter of an hour.
        market.start("binance", names, url=f"ws://{here}", rest_url=f"http://{here}", rest_limit=(10**9, 60))
        market.wait_ready(timeout=240)
        ready = time.perf_counter() - begun
        full = resident()
        feeds = [stream.feed for _, stream in market._groups["binance"].streams]

        def count() -> int:
            return sum(feed.counters.messages for feed in feeds)

        before = count()
        urllib.request.urlopen(f"http://{here}/go").read()
        time.sleep(1.0)
        cpu, wall, seen = time.process_time(), time.perf_counter(), count()
        while count() - before < symbols * messages * 0.95:
            time.sleep(0.25)
        cpu, wall, seen = time.process_time() - cpu, time.perf_counter() - wall, count() - seen
        peak = resident()
        for feed in feeds:
            if feed.counters.gaps or feed.counters.malformed or feed.counters.reconnects:
                raise SystemExit(f"not every update was applied: {feed.counters.as_dict()}")
    return {"share": cpu / wall, "per_second": seen / wall, "cpu_us": cpu / seen * 1e6, "ready": ready,
            "resident": peak, "book_kb": (full - empty) / symbols * 1e3, "streams": len(feeds)}


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:4]))))

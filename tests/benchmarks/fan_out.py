"""From one process to another through Redis: how many book updates a second.

Run as ``python fan_out.py publish PORT URL MESSAGES``, which goes on until its standard input ends, and
beside it ``python fan_out.py read PORT URL MESSAGES``; each prints one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from typing import Any

from streams import RemoteStore, StreamManager
from streams.publisher import Publisher

BOOK = "binance", "BTC-USDT"


def publish(port: int, url: str, messages: int) -> dict[str, Any]:
    """Collect and pass on."""
    here = f"127.0.0.1:{port}"
    with StreamManager() as market:
        publisher = Publisher(market.handlers, url)
        publisher.start()
        market.start("binance", ["BTC-USDT"], url=f"ws://{here}", rest_url=f"http://{here}")
        market.wait_ready(timeout=30)
        cpu = time.process_time()
        print("ready", flush=True)
        sys.stdin.read()
        cpu = time.process_time() - cpu
        publisher.stop()
    return {"cpu_us": cpu / messages * 1e6}


def read(port: int, url: str, messages: int) -> dict[str, Any]:
    """Follow, and take the time."""
    with RemoteStore(url) as store:
        store.wait_ready(timeout=30, books=[BOOK])
        book = store.orderbooks[BOOK[0]][BOOK[1]]
        last = book["sequence"] + 3 * messages
        cpu, begun = time.process_time(), time.perf_counter()
        urllib.request.urlopen(f"http://127.0.0.1:{port}/go").read()
        stamp = store.last_update
        while book["sequence"] < last:
            new = store.wait(stamp, 30)
            if new == stamp:
                raise SystemExit(f"nothing comes any more: {book['sequence']} of {last}")
            stamp = new
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    return {"per_second": messages / seconds, "cpu_us": cpu / messages * 1e6}


if __name__ == "__main__":
    role, port, url, messages = sys.argv[1:5]
    print(json.dumps({"publish": publish, "read": read}[role](int(port), url, int(messages))))

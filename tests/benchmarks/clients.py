"""The contenders: each connects, says ``go``, keeps one order book, and reports what it cost.

Run as ``python clients.py NAME PORT MESSAGES MODE``; prints one JSON object. ``MODE`` is ``book`` (keep
the book), or ``best`` (and look at best bid and ask after every update).
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


class Cost:
    """CPU and wall time from the moment the frames start."""

    def __init__(self) -> None:
        self.cpu = time.process_time()
        self.wall = time.perf_counter()

    def report(self, messages: int, **more: Any) -> dict[str, Any]:
        """Per message."""
        cpu, wall = time.process_time() - self.cpu, time.perf_counter() - self.wall
        return {"cpu_us": cpu / messages * 1e6, "per_second": messages / wall, **more}


# -- the floor: what the work itself costs in Python ---------------------------------------------------


def floor(port: int, messages: int, mode: str) -> dict[str, Any]:
    """A raw socket, frames cut by hand, typed decoding, two dicts. No safety of any kind."""
    import socket

    import msgspec

    levels = list[tuple[float, float]]
    depth = msgspec.defstruct("Depth", [("u", int), ("b", levels), ("a", levels)], gc=False)
    envelope = msgspec.defstruct("Envelope", [("data", depth)], gc=False)
    decode = msgspec.json.Decoder(envelope, strict=False).decode
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: eA==\r\n\r\n")
    while not connection.recv(4096).endswith(b"\r\n\r\n"):
        pass
    bids: dict[float, float] = {}
    asks: dict[float, float] = {}
    best_bid, best_ask = 0.0, 1e300
    connection.sendall(b"\x81\x82\0\0\0\0go")
    cost = Cost()
    rest, count, looked = b"", 0, 0
    while count < messages:
        block = connection.recv(65536)
        data = rest + block if rest else block
        at, end = 0, len(data)
        while end - at >= 4:
            size = data[at + 1]
            if size == 126:
                size, start = data[at + 2] << 8 | data[at + 3], at + 4
            else:
                start = at + 2
            stop = start + size
            if stop > end or count == messages:
                break
            update = decode(data[start:stop]).data
            at = stop
            count += 1
            if mode == "book":
                for price, amount in update.b:
                    if amount:
                        bids[price] = amount
                    else:
                        bids.pop(price, None)
                for price, amount in update.a:
                    if amount:
                        asks[price] = amount
                    else:
                        asks.pop(price, None)
                continue
            for price, amount in update.b:
                if amount:
                    bids[price] = amount
                    if price > best_bid:
                        best_bid = price
                else:
                    bids.pop(price, None)
                    if price == best_bid:
                        best_bid = max(bids)
            for price, amount in update.a:
                if amount:
                    asks[price] = amount
                    if price < best_ask:
                        best_ask = price
                else:
                    asks.pop(price, None)
                    if price == best_ask:
                        best_ask = min(asks)
            looked += best_ask > best_bid
        rest = data[at:]
    return cost.report(count, looked=looked)


# -- this library ----------------------------------------------------------------------------------------


def streams(port: int, messages: int, mode: str) -> dict[str, Any]:
    """The real thing: a Stream, its store, sequencing, health, everything on."""
    import threading

    from streams import Binance

    stream = Binance(["BTC-USDT"], url=f"ws://127.0.0.1:{port}", rest_url=f"http://127.0.0.1:{port}")
    done = threading.Event()
    looked = 0
    stream.on(r"binance\.trades\..*", lambda event: done.set(), policy="inline")
    stream.start()
    deadline = time.monotonic() + 20
    while stream.waiting_for() and time.monotonic() < deadline:
        stream.store.wait(stream.store.last_update, 0.05)
    book = stream.store.orderbooks["binance"]["BTC-USDT"]

    def look(event: Any) -> None:
        nonlocal looked
        bid, ask = book.touch
        looked += bid is not None and ask is not None and ask[0] > bid[0]

    if mode == "best":
        stream.on(r"binance\.book\..*", look, policy="inline")
    cost = Cost()
    stream.subscribe("END-USDT", ["trades"])
    stream.subscribe("GO-USDT", ["trades"])
    if not done.wait(60):
        raise SystemExit(f"no end: {stream.status()}")
    result = cost.report(messages, looked=looked, received=stream.feed.counters.messages,
                         gaps=stream.feed.counters.gaps, live=book["status"] == "live")
    stream.stop()
    return result


# -- the others: the same JSON, the usual decoder, two dicts ---------------------------------------------


class DictBook:
    """What users of the other clients write."""

    def __init__(self, mode: str) -> None:
        self.bids: dict[float, float] = {}
        self.asks: dict[float, float] = {}
        self.mode = mode
        self.count = self.looked = 0
        import orjson
        self.loads = orjson.loads

    def message(self, raw: bytes | str) -> None:
        """Apply one depth update."""
        data = self.loads(raw)["data"]
        for levels, side in ((data["b"], self.bids), (data["a"], self.asks)):
            for price, size in levels:
                amount = float(size)
                if amount:
                    side[float(price)] = amount
                else:
                    side.pop(float(price), None)
        self.count += 1
        if self.mode == "best":
            self.looked += min(self.asks) > max(self.bids)


def picows(port: int, messages: int, mode: str) -> dict[str, Any]:
    """picows (Cython) on asyncio."""
    import asyncio

    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    book = DictBook(mode)
    cost = Cost()

    class Listener(WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: WSTransport) -> None:
            nonlocal cost
            transport.send(WSMsgType.TEXT, b"go")
            cost = Cost()

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if book.count < messages:
                book.message(frame.get_payload_as_bytes())
            else:                               # the message that says that it was the last
                transport.disconnect()

    async def main() -> None:
        transport, _ = await ws_connect(Listener, f"ws://127.0.0.1:{port}/")
        await transport.wait_disconnected()

    asyncio.run(main())
    return cost.report(book.count, looked=book.looked)


def aiohttp(port: int, messages: int, mode: str) -> dict[str, Any]:
    """aiohttp."""
    import asyncio

    import aiohttp as lib

    async def main() -> dict[str, Any]:
        book = DictBook(mode)
        async with lib.ClientSession() as session, session.ws_connect(
                f"ws://127.0.0.1:{port}/", compress=0) as connection:
            await connection.send_str("go")
            cost = Cost()
            async for message in connection:
                book.message(message.data)
                if book.count == messages:
                    return cost.report(book.count, looked=book.looked)
        raise SystemExit("closed early")

    return asyncio.run(main())


def websockets(port: int, messages: int, mode: str) -> dict[str, Any]:
    """websockets, its asyncio client."""
    import asyncio

    import websockets as lib

    async def main() -> dict[str, Any]:
        book = DictBook(mode)
        async with lib.connect(f"ws://127.0.0.1:{port}/", compression=None) as connection:
            await connection.send("go")
            cost = Cost()
            async for message in connection:
                book.message(message)
                if book.count == messages:
                    return cost.report(book.count, looked=book.looked)
        raise SystemExit("closed early")

    return asyncio.run(main())


def websocket_client(port: int, messages: int, mode: str, **options: Any) -> dict[str, Any]:
    """websocket-client as it comes."""
    import websocket

    book = DictBook(mode)
    cost = Cost()
    result: dict[str, Any] = {}

    def opened(app: Any) -> None:
        nonlocal cost
        app.send("go")
        cost = Cost()

    def message(app: Any, raw: Any) -> None:
        book.message(raw)
        if book.count == messages:
            result.update(cost.report(book.count, looked=book.looked))
            app.sock.sock.shutdown(2)

    app = websocket.WebSocketApp(f"ws://127.0.0.1:{port}/", on_open=opened, on_message=message)
    app.run_forever(**options)
    return result


def websocket_client_bytes(port: int, messages: int, mode: str) -> dict[str, Any]:
    """websocket-client without its UTF-8 check."""
    return websocket_client(port, messages, mode, skip_utf8_validation=True)


CLIENTS = {
    "floor": floor, "streams": streams, "picows": picows, "aiohttp": aiohttp, "websockets": websockets,
    "websocket-client": websocket_client, "websocket-client, bytes": websocket_client_bytes,
}

if __name__ == "__main__":
    name, port, messages, mode = sys.argv[1:5]
    print(json.dumps(CLIENTS[name](int(port), int(messages), mode)))

"""From the venue's write to the reader: how long a book update takes, and what a busy thread does to it.

Run as ``python latency.py NAME PORT MESSAGES BUSY SWITCH``; prints one JSON object. ``BUSY`` is ``idle``, or
``busy``: the main thread computes all the time, in pure Python, and the client works in another.
``SWITCH`` is the switch interval in seconds (``sys.setswitchinterval``), 0 for the interpreter's own.

Each message bears the moment it was written in its ``E``: a 1 and the last 12 digits of the nanoseconds.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

WRAP = 10**12
Seen = Callable[[int], None]        # is told the E of each message when its book can be read


def floor(port: int, messages: int, seen: Seen) -> None:
    """Blocking reads, frames cut by hand, typed decoding, two dicts."""
    import socket

    import msgspec

    levels = list[tuple[float, float]]
    depth = msgspec.defstruct("Depth", [("E", int), ("b", levels), ("a", levels)], gc=False)
    decode = msgspec.json.Decoder(msgspec.defstruct("Envelope", [("data", depth)]), strict=False).decode
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Key: eA==\r\n\r\n")
    while not connection.recv(4096).endswith(b"\r\n\r\n"):
        pass
    bids: dict[float, float] = {}
    asks: dict[float, float] = {}
    connection.sendall(b"\x81\x82\0\0\0\0go")
    data, count = b"", 0
    while count < messages:
        data += connection.recv(65536)
        while len(data) > 4 and count < messages:
            size, start = data[1], 2
            if size == 126:
                size, start = data[2] << 8 | data[3], 4
            if start + size > len(data):
                break
            update = decode(data[start:start + size]).data
            data = data[start + size:]
            for changes, side in ((update.b, bids), (update.a, asks)):
                for price, amount in changes:
                    if amount:
                        side[price] = amount
                    else:
                        side.pop(price, None)
            count += 1
            seen(update.E)


class Streams:
    """This library, ready to start: the stream, its book, and how it is told to begin and to end."""

    def __init__(self, port: int) -> None:
        from streams import Binance

        self.stream = Binance(["BTC-USDT"], url=f"ws://127.0.0.1:{port}", rest_url=f"http://127.0.0.1:{port}")
        self.ended = threading.Event()
        self.stream.on(r"binance\.trades\..*", lambda event: self.ended.set(), policy="inline")
        self.stream.start()
        while self.stream.waiting_for():
            self.stream.store.wait(self.stream.store.last_update, 0.05)
        self.book = self.stream.store.orderbooks["binance"]["BTC-USDT"]

    def go(self) -> None:
        """Have the venue begin."""
        self.stream.subscribe("END-USDT", ["trades"])
        self.stream.subscribe("GO-USDT", ["trades"])

    def handled(self, seen: Seen, policy: str) -> None:
        """Let a handler see the updates, to the end."""
        self.stream.on(r"binance\.book\..*", lambda event: seen(event.timestamp // 1_000_000), policy=policy)
        self.go()
        self.ended.wait()
        self.stream.stop()


def streams_inline(port: int, messages: int, seen: Seen) -> None:
    """A handler on the network thread."""
    Streams(port).handled(seen, "inline")


def streams_queue(port: int, messages: int, seen: Seen) -> None:
    """A handler on its own thread, behind a queue."""
    Streams(port).handled(seen, "drop_oldest")


def streams_wait(port: int, messages: int, seen: Seen) -> None:
    """The calling thread waits in ``store.wait`` and reads the book."""
    it = Streams(port)
    store, book = it.stream.store, it.book
    stamp = store.last_update
    it.go()
    while not it.ended.is_set():
        new = store.wait(stamp, 1.0)
        if new != stamp:
            stamp = new
            seen(book["timestamp"] // 1_000_000)
    it.stream.stop()


class DictBook:
    """What users of the other clients write."""

    def __init__(self, seen: Seen) -> None:
        import orjson
        self.loads = orjson.loads
        self.bids: dict[float, float] = {}
        self.asks: dict[float, float] = {}
        self.seen = seen
        self.count = 0

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
        self.seen(data["E"])


def picows(port: int, messages: int, seen: Seen) -> None:
    """picows (Cython) on asyncio."""
    import asyncio

    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

    book = DictBook(seen)

    class Listener(WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: WSTransport) -> None:
            transport.send(WSMsgType.TEXT, b"go")

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if book.count < messages:
                book.message(frame.get_payload_as_bytes())
            else:
                transport.disconnect()

    async def main() -> None:
        transport, _ = await ws_connect(Listener, f"ws://127.0.0.1:{port}/")
        await transport.wait_disconnected()

    asyncio.run(main())


def aiohttp(port: int, messages: int, seen: Seen) -> None:
    """aiohttp."""
    import asyncio

    import aiohttp as lib

    async def main() -> None:
        book = DictBook(seen)
        async with lib.ClientSession() as session, session.ws_connect(
                f"ws://127.0.0.1:{port}/", compress=0) as connection:
            await connection.send_str("go")
            async for message in connection:
                book.message(message.data)
                if book.count == messages:
                    return

    asyncio.run(main())


def websockets(port: int, messages: int, seen: Seen) -> None:
    """websockets, its asyncio client."""
    import asyncio

    import websockets as lib

    async def main() -> None:
        book = DictBook(seen)
        async with lib.connect(f"ws://127.0.0.1:{port}/", compression=None) as connection:
            await connection.send("go")
            async for message in connection:
                book.message(message)
                if book.count == messages:
                    return

    asyncio.run(main())


def websocket_client(port: int, messages: int, seen: Seen) -> None:
    """websocket-client without its UTF-8 check, in a thread."""
    import websocket

    book = DictBook(seen)

    def message(app: Any, raw: Any) -> None:
        book.message(raw)
        if book.count == messages:
            app.sock.sock.shutdown(2)

    app = websocket.WebSocketApp(
        f"ws://127.0.0.1:{port}/", on_open=lambda app: app.send("go"), on_message=message)
    _in_thread(lambda: app.run_forever(skip_utf8_validation=True)).join()


CLIENTS: dict[str, Callable[[int, int, Seen], None]] = {
    "floor": floor, "streams, inline handler": streams_inline, "streams, store.wait": streams_wait,
    "streams, queued handler": streams_queue, "picows": picows, "aiohttp": aiohttp,
    "websockets": websockets, "websocket-client": websocket_client,
}


def _in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def spin(thread: threading.Thread) -> int:
    """Compute until the thread has ended; how far that came."""
    turns, value = 0, 1
    while thread.is_alive():
        for _ in range(1000):
            value = value * 48271 % 2147483647
        turns += 1000
    return turns


def measure(name: str, port: int, messages: int, busy: bool) -> dict[str, Any]:
    """Run one client; the figures of its latencies in microseconds."""
    taken: list[int] = []
    clock = time.time_ns

    def seen(written: int) -> None:
        taken.append((clock() - written) % WRAP)

    begun = time.perf_counter()
    turns = 0
    if busy:
        turns = spin(_in_thread(lambda: CLIENTS[name](port, messages, seen)))
    else:
        CLIENTS[name](port, messages, seen)
    seconds = time.perf_counter() - begun
    return {**_figures(taken[len(taken) // 20:]), "seen": len(taken), "turns_per_second": turns / seconds}


def _figures(taken: Sequence[int]) -> dict[str, float]:
    """The first part is left out: caches and the processor's clock warm up."""
    ranked = sorted(taken)
    return {"p50": ranked[len(ranked) // 2] / 1e3, "p99": ranked[len(ranked) * 99 // 100] / 1e3,
            "max": ranked[-1] / 1e3}


if __name__ == "__main__":
    name, port, messages, busy, switch = sys.argv[1:6]
    if float(switch):
        sys.setswitchinterval(float(switch))
    print(json.dumps(measure(name, int(port), int(messages), busy == "busy")))

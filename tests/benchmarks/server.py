"""The venue of the benchmark: a loopback server in a process of its own that sends prepared frames.

It speaks just enough of Binance's protocol for the real client: a SUBSCRIBE is acknowledged, and
``GET /api/v3/depth`` answers a snapshot that the frames continue. The frames start when a client
sends anything that contains ``go``. Standard library only, so that it runs under any Python.

Run as ``python server.py SETTINGS_JSON``; prints its port on one line, then serves until killed.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SCALE = 100         # ticks of a price unit

# Where a real feed's updates fall (Binance spot ETHUSDT, depth@100ms): the deciles of the rank, counted
# from the best price, are 3 7 14 27 47 86 161 257 392; a quarter of the levels are removals, a quarter
# are new, the best price moves with 9 % of the updates.
REACH = math.log(500)
REMOVED = 0.33


def frame(payload: bytes) -> bytes:
    """One unmasked text frame."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + struct.pack("!H", size) + payload
    return b"\x81\x7f" + struct.pack("!Q", size) + payload


class Market:
    """Seeded book updates of one symbol: sizes change, levels come and go, the best price moves."""

    def __init__(self, symbol: str, seed: int, levels: int, depth: int) -> None:
        self.symbol = symbol
        self.levels = levels
        self.random = random.Random(seed)
        self.mid = 3_000_000
        self.sequence = 1000
        self.sides: tuple[dict[int, float], dict[int, float]] = ({}, {})
        for i in range(1, depth + 1):
            self.sides[0][self.mid - i] = 1.0
            self.sides[1][self.mid + i] = 1.0

    def snapshot(self) -> bytes:
        """The REST answer at this moment."""
        bids, asks = ([[f"{p / SCALE:.8f}", f"{s:.8f}"] for p, s in sorted(side.items(), reverse=not i)]
                      for i, side in enumerate(self.sides))
        return json.dumps({"lastUpdateId": self.sequence, "bids": bids, "asks": asks}).encode()

    def update(self) -> bytes:
        """The next depth update, as a combined-stream message."""
        rnd = self.random
        if rnd.random() < 0.1:
            self.mid += rnd.choice((-1, 1))
        changes = []
        for i, side in enumerate(self.sides):
            sign = 1 if i else -1
            picked = {self.mid + sign * int(math.exp(rnd.random() ** 0.7 * REACH)) for _ in range(self.levels * 2)}
            rows = []
            for price in sorted(picked, key=lambda p: p * sign)[:self.levels]:
                size = 0.0 if price in side and rnd.random() < REMOVED else round(rnd.random() * 5 + 0.001, 5)
                if size:
                    side[price] = size
                else:
                    del side[price]
                rows.append([price, size])
            for price in [p for p in side if (p - self.mid) * sign <= 0]:
                del side[price]                 # the other side has moved over it
                rows.append([price, 0.0])
            changes.append(json.dumps([[f"{p / SCALE:.8f}", f"{s:.8f}"] for p, s in rows],
                                      separators=(",", ":")))
        first, self.sequence = self.sequence + 1, self.sequence + 3
        return (
            f'{{"stream":"{self.symbol}@depth@100ms","data":{{"e":"depthUpdate","E":1672515782136,'
            f'"s":"{self.symbol.upper()}","U":{first},"u":{self.sequence},"b":{changes[0]},"a":{changes[1]}}}}}'
        ).encode()


class Server:
    """Prepared frames, and a socket to send them from."""

    def __init__(self, messages: int, levels: int, depth: int, symbols: int, rate: float) -> None:
        self.rate = rate
        names = [f"s{i}usdt" for i in range(symbols)] if symbols > 1 else ["btcusdt"]
        markets = [Market(name, i, levels, depth) for i, name in enumerate(names)]
        self.snapshots = {market.symbol.upper(): market.snapshot() for market in markets}
        self.frames = [frame(markets[i % symbols].update()) for i in range(messages)]
        self.end = frame(b'{"stream":"endusdt@trade","data":{"e":"trade","E":1,"s":"END","t":1,"p":"1",'
                         b'"q":"1","T":1,"m":true}}')
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def serve(self) -> None:
        """Until killed."""
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        try:
            while True:
                path, headers = self._request(stream)
                if "sec-websocket-key" in headers:
                    break
                self._answer(connection, path)
            key = hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()
            connection.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + base64.b64encode(key) + b"\r\n\r\n")
            for message in self._messages(stream):
                if b"SUBSCRIBE" in message:
                    number = json.loads(message)["id"]
                    connection.sendall(frame(b'{"result":null,"id":%d}' % number))
                if b"go" in message:
                    self._blast(connection)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            connection.close()

    @staticmethod
    def _request(stream) -> tuple[str, dict[str, str]]:  # type: ignore[no-untyped-def]
        first = stream.readline()
        if not first:
            raise EOFError
        headers = {}
        while (line := stream.readline().strip()):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return first.split()[1].decode(), headers

    def _answer(self, connection: socket.socket, path: str) -> None:
        symbol = path.partition("symbol=")[2].partition("&")[0]
        body = self.snapshots.get(symbol, b"{}")
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    @staticmethod
    def _messages(stream) -> Iterator[bytes]:  # type: ignore[no-untyped-def]
        while True:
            head = stream.read(2)
            if len(head) < 2:
                return
            size = head[1] & 127
            if size == 126:
                size = struct.unpack("!H", stream.read(2))[0]
            mask = stream.read(4)
            data = stream.read(size)
            if head[0] & 15 < 3:
                yield bytes(c ^ mask[i & 3] for i, c in enumerate(data))

    def _blast(self, connection: socket.socket) -> None:
        if not self.rate:
            for start in range(0, len(self.frames), 256):
                connection.sendall(b"".join(self.frames[start:start + 256]))
        else:
            self._paced(connection)
        connection.sendall(self.end)

    def _paced(self, connection: socket.socket) -> None:
        """At the rate, each frame on its own, with the moment of writing in its ``E`` (ns)."""
        begin = time.monotonic()
        for number, data in enumerate(self.frames):
            while (left := begin + number / self.rate - time.monotonic()) > 0:
                if left > 0.0005:
                    time.sleep(left - 0.0004)
            connection.sendall(data.replace(b"1672515782136", b"%013d" % (time.time_ns() % 10**13)))


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    server = Server(**settings)
    print(server.listener.getsockname()[1], flush=True)
    server.serve()

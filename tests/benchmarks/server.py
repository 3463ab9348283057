"""The venue of the benchmark: a loopback server in a process of its own that sends prepared frames.

It speaks just enough of Binance's protocol for the real client: a SUBSCRIBE is acknowledged, and
``GET /api/v3/depth`` answers a snapshot that the frames continue. The frames start when a client
sends anything that contains ``go``, or, on all connections at once, with ``GET /go``: those of the
symbols that the connection has subscribed, or of the first one when it has subscribed none. Standard
library only, so that it runs under any Python.

All symbols tell the same story under different names, so 1,500 of them cost no more memory than one.

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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SCALE = 100         # ticks of a price unit
PING, PONG = 9, 10
END = "endusdt"     # who subscribes it gets one message of it at the end

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
            picked = {self.mid + sign * int(math.exp(rnd.random() ** 0.7 * REACH))
                      for _ in range(self.levels * 2)}
            rows = []
            for price in sorted(picked, key=lambda p: p * sign)[:self.levels]:
                gone = price in side and rnd.random() < REMOVED
                size = 0.0 if gone else round(rnd.random() * 5 + 0.001, 5)
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
            f'"s":"{self.symbol.upper()}","U":{first},"u":{self.sequence},'
            f'"b":{changes[0]},"a":{changes[1]}}}}}'
        ).encode()


def symbol_names(symbols: int) -> list[str]:
    """What the symbols are called, as the venue writes them."""
    return [f"s{i}usdt" for i in range(symbols)] if symbols > 1 else ["btcusdt"]


class Connection:
    """A WebSocket that several threads write to, whole frames each."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, frames: bytes) -> None:
        """All of them, before anybody else's."""
        with self._lock:
            self._sock.sendall(frames)

    def send_file(self, frames: BinaryIO) -> None:
        """The same with what a file holds."""
        with self._lock:
            self._sock.sendfile(frames)


class Server:
    """Prepared messages, and a socket to send them from.

    Args:
        messages: Updates per symbol.
        levels: Levels per update and side; ``depth``: levels per side of the book.
        symbols: How many there are.
        rate: Messages a second and symbol, each sent on its own with the moment of sending in its ``E``
            (see :func:`stamped`); 0: as fast as they are taken.
    """

    def __init__(self, messages: int, levels: int, depth: int = 1000, symbols: int = 1, rate: float = 0,
                 ) -> None:
        self.rate = rate
        self.names = dict.fromkeys(symbol_names(symbols))
        market = Market("btcusdt", 1, levels, depth)
        self.snapshot = market.snapshot()
        self.updates = [market.update() for _ in range(messages)]
        self.end = frame(b'{"stream":"endusdt@trade","data":{"e":"trade","E":1,"s":"END","t":1,"p":"1",'
                         b'"q":"1","T":1,"m":true}}')
        self._files = {name: self._file(name) for name in (self.names if not rate else ())}
        self._waiting: dict[Connection, list[str]] = {}     # what each connection has subscribed
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def _file(self, name: str) -> BinaryIO:
        """All frames of a symbol: the kernel sends them alone. The less this process has to do, the better,
        for client and server share the processors."""
        file = cast(BinaryIO, tempfile.TemporaryFile())
        for update in self.updates:
            file.write(frame(named(update, name)))
        file.flush()
        return file

    def serve(self) -> None:
        """Until killed."""
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = sock.makefile("rb")
        connection = Connection(sock)
        try:
            while upgrade(sock, stream, self._answer):
                pass
            self._converse(connection, stream)
        except (OSError, EOFError, ValueError):
            pass
        finally:
            self._waiting.pop(connection, None)
            sock.close()

    def _answer(self, path: str) -> bytes:
        if path == "/go":
            self._start_all()
        return self.snapshot

    def _converse(self, connection: Connection, stream: BinaryIO) -> None:
        wanted = self._waiting[connection] = []
        for opcode, message in incoming(stream):
            if opcode == PING:
                connection.send(bytes((0x80 | PONG, len(message))) + message)
            if opcode >= 3:
                continue
            if b"SUBSCRIBE" in message:
                request = json.loads(message)
                wanted += [topic.split("@")[0] for topic in request["params"]]
                connection.send(frame(b'{"result":null,"id":%d}' % request["id"]))
            if b"go" in message:
                self._send_all(connection, wanted or [*list(self.names)[:1], END])

    def _start_all(self) -> None:
        for connection, wanted in list(self._waiting.items()):
            threading.Thread(target=self._send_all, args=(connection, wanted), daemon=True).start()

    def _send_all(self, connection: Connection, wanted: list[str]) -> None:
        names = [name for name in wanted if name in self.names]
        try:
            if self.rate:
                self._send_paced(connection, names)
            else:
                for name in names:
                    connection.send_file(self._files[name])
            if END in wanted:
                connection.send(self.end)
        except OSError:
            pass                                # it has seen enough

    def _send_paced(self, connection: Connection, names: list[str]) -> None:
        rate = self.rate * len(names)
        count = 0
        begin = time.monotonic()
        for update in self.updates:
            for name in names:
                while (left := begin + count / rate - time.monotonic()) > 0:
                    time.sleep(left)
                count += 1
                message = named(update, name) if len(self.names) > 1 else update
                connection.send(frame(stamped(message)))


def stamped(update: bytes) -> bytes:
    """With the present moment in its ``E``: a 1, and the last 12 digits of the nanoseconds."""
    return update.replace(b"1672515782136", b"1%012d" % (time.time_ns() % 10**12), 1)


def named(update: bytes, name: str) -> bytes:
    """The same update of another symbol."""
    return update.replace(b"btcusdt", name.encode(), 1).replace(b"BTCUSDT", name.upper().encode(), 1)


def upgrade(connection: socket.socket, stream: BinaryIO, answer: Callable[[str], bytes]) -> bool:
    """Deal with one HTTP request: True when it got what ``answer`` gives for its path, False when it was
    the switch to WebSocket."""
    first = stream.readline().decode().split()
    if not first:
        raise EOFError
    headers = {}
    while (line := stream.readline().strip()):
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    if "sec-websocket-key" not in headers:
        body = answer(first[1])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        return True
    key = hashlib.sha1(headers["sec-websocket-key"].encode() + GUID).digest()
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(key) + b"\r\n\r\n")
    return False


def incoming(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The frames of a client: opcode and payload."""
    while True:
        head = stream.read(2)
        if len(head) < 2:
            return
        size = head[1] & 127
        if size == 126:
            size = struct.unpack("!H", stream.read(2))[0]
        mask = stream.read(4)
        data = stream.read(size)
        yield head[0] & 15, bytes(c ^ mask[i & 3] for i, c in enumerate(data))


if __name__ == "__main__":
    server = Server(**json.loads(sys.argv[1]))
    print(server.listener.getsockname()[1], flush=True)
    server.serve()

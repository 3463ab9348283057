"""A tiny WebSocket and HTTP client for the tests of the simulated venues: standard library only.

It is strict where a server could be wrong: every frame is taken apart by hand.
"""
from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import socket
import ssl
import struct
import time
from typing import Any, NamedTuple
from urllib.parse import urlsplit

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENCE = 10.0


class Frame(NamedTuple):
    """A frame from the server; ``fin`` and ``opcode`` as on the wire."""

    fin: bool
    opcode: int
    payload: bytes


class Refused(Exception):
    """The handshake was answered with another status."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers


class Client:
    """One WebSocket connection; ``recv`` answers pings unless told otherwise."""

    def __init__(self, url: str, path: str = "/ws", *, tls: ssl.SSLContext | None = None,
                 headers: str = "", answer_pings: bool = True, timeout: float = PATIENCE) -> None:
        parts = urlsplit(url)
        self.answer_pings = answer_pings
        self.pings: list[bytes] = []
        self.fragments = 0
        self._buffer = b""
        assert parts.hostname and parts.port
        self.sock = socket.create_connection((parts.hostname, parts.port), timeout=timeout)
        try:
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname="localhost")
            key = base64.b64encode(os.urandom(16)).decode()
            self.sock.sendall((f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket"
                               f"\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
                               f"Sec-WebSocket-Version: 13\r\n{headers}\r\n").encode())
            head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            if status != 101:
                raise Refused(status, dict(line.lower().split(": ", 1) for line in head[1:]
                                           if line))
        except BaseException:
            self.sock.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def _more(self) -> None:
        data = self.sock.recv(1 << 16)
        if not data:
            raise EOFError("the server has closed")
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        data, _, self._buffer = self._buffer.partition(mark)
        return data

    def frame(self) -> Frame:
        """The next frame as it is; raises EOFError, ConnectionResetError or TimeoutError."""
        first, second = self._take(2)
        assert not first & 0x70, "reserved bits"
        assert not second & 0x80, "a server must not mask"
        length = second & 0x7F
        if length == 126:
            length = struct.unpack("!H", self._take(2))[0]
            assert length > 125
        elif length == 127:
            length = struct.unpack("!Q", self._take(8))[0]
            assert length > 65535
        return Frame(bool(first & 0x80), first & 0x0F, self._take(length))

    def message(self) -> Frame:
        """The next data message or close frame, fragments joined, pings answered."""
        opcode, parts = 0, []
        while True:
            frame = self.frame()
            if frame.opcode == PING:
                self.pings.append(frame.payload)
                if self.answer_pings:
                    self.send(frame.payload, PONG)
            elif frame.opcode in (PONG, CLOSE):
                if frame.opcode == CLOSE:
                    return frame
            else:
                self.fragments += not frame.fin
                opcode = opcode or frame.opcode
                parts.append(frame.payload)
                if frame.fin:
                    return Frame(True, opcode, b"".join(parts))

    def json(self) -> Any:
        """The next message, inflated if it is binary."""
        message = self.message()
        assert message.opcode in (TEXT, BINARY), message
        if message.opcode == BINARY:
            return json.loads(gzip.decompress(message.payload))
        return json.loads(message.payload)

    def until(self, **wanted: Any) -> Any:
        """The next message that has these fields (or the fields at all, if ...)."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            value = self.json()
            if all(name in value and want in (..., value[name])
                   for name, want in wanted.items()):
                return value
        raise AssertionError(f"no message with {wanted}")

    def send(self, data: str | bytes | dict[str, Any], opcode: int | None = None,
             fin: bool = True, masked: bool = True, rsv: int = 0) -> None:
        """Send one frame; a dict as JSON text."""
        if isinstance(data, dict):
            data = json.dumps(data)
        if isinstance(data, str):
            data, opcode = data.encode(), TEXT if opcode is None else opcode
        opcode = BINARY if opcode is None else opcode
        bit = 0x80 if masked else 0
        head = bytes([(0x80 if fin else 0) | rsv | opcode])
        if len(data) < 126:
            head += bytes([bit | len(data)])
        elif len(data) < 65536:
            head += struct.pack("!BH", bit | 126, len(data))
        else:
            head += struct.pack("!BQ", bit | 127, len(data))
        mask = os.urandom(4) if masked else b""
        if masked:
            data = bytes(value ^ mask[index % 4] for index, value in enumerate(data))
        self.sock.sendall(head + mask + data)

    def has_data(self) -> bool:
        """True when something was received that was not looked at."""
        return bool(self._buffer)

    def silent(self, seconds: float) -> bool:
        """True when nothing at all comes in for so long."""
        if self._buffer:
            return False
        self.sock.settimeout(seconds)
        try:
            self._more()
            return False
        except TimeoutError:
            return True
        except (EOFError, OSError):
            return False
        finally:
            self.sock.settimeout(PATIENCE)


class Answer(NamedTuple):
    """An HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        """The JSON body."""
        return json.loads(self.body)


def get(url: str, target: str, timeout: float = PATIENCE) -> Answer:
    """One GET request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value
                                        in response.getheaders()}, response.read())
    finally:
        connection.close()


def levels(pairs: Any) -> dict[Any, Any]:
    """Levels of a message as price -> size, exact."""
    from decimal import Decimal
    return {Decimal(str(price)): Decimal(str(size)) for price, size in pairs}

"""A WebSocket client of a few lines, and an HTTP one: nothing of them comes from streams."""
from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENCE = 10.0


class Gone(Exception):
    """The server ended the connection; ``code`` is of its close frame, None without one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the server has gone, close code {code}")
        self.code = code


class Refused(Exception):
    """The handshake was answered with another status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


class Client:
    """One WebSocket connection. ``decode`` turns a payload into a list of messages."""

    def __init__(self, port: int, path: str, headers: dict[str, str] | None = None,
                 decode: Callable[[bytes], Any] = json.loads) -> None:
        self.decode = decode
        self.arrays: list[list[dict[str, Any]]] = []
        self._buffer = b""
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", "Upgrade: websocket",
                 "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self._sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 101:
            self._sock.close()
            raise Refused(status)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def close(self, code: int = 1000) -> None:
        """A polite end: close frame, answer, gone."""
        self.send_frame(CLOSE, struct.pack("!H", code))
        try:
            while True:
                self.frame()
        except Gone:
            self._sock.close()

    def vanish(self) -> None:
        """Go without a word."""
        self._sock.close()

    def send_frame(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        size = len(payload)
        head = bytes((0x80 | opcode, 0x80 | (size if size < 126 else 126 if size < 65536 else 127)))
        head += b"" if size < 126 else struct.pack("!H" if size < 65536 else "!Q", size)
        self._sock.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def send(self, message: object) -> None:
        self.send_frame(TEXT, message.encode() if isinstance(message, str)
                        else json.dumps(message).encode())

    def _more(self) -> None:
        try:
            data = self._sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            raise Gone(None) from None
        if not data:
            raise Gone(None)
        self._buffer += data

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        piece, self._buffer = self._buffer[:size], self._buffer[size:]
        return piece

    def frame(self, timeout: float = PATIENCE) -> tuple[int, bytes]:
        """The next frame but pings (they are answered). TimeoutError when none comes."""
        self._sock.settimeout(timeout)
        while True:
            first, size = self._take(2)
            if size >= 126:
                size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
            payload = self._take(size)
            opcode = first & 0x0F
            if opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.send_frame(CLOSE, payload[:2])
                raise Gone(code)
            if opcode == PING:
                self.send_frame(PONG, payload)
                continue
            return opcode, payload

    def array(self, timeout: float = PATIENCE) -> list[dict[str, Any]]:
        """The next message: an array."""
        found = self.decode(self.frame(timeout)[1])
        assert isinstance(found, list)
        self.arrays.append(found)
        return found

    def one(self) -> dict[str, Any]:
        """The next array, which has one message."""
        array = self.array()
        assert len(array) == 1, array
        return array[0]

    def until(self, enough: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """Messages until ``enough`` of them is true."""
        seen: list[dict[str, Any]] = []
        deadline = time.monotonic() + PATIENCE
        while not enough(seen):
            assert time.monotonic() < deadline, seen[-5:]
            seen += self.array()
        return seen

    def drain(self, quiet: float = 0.2) -> list[dict[str, Any]]:
        """All that comes until nothing does for ``quiet`` seconds, or the server has gone."""
        seen: list[dict[str, Any]] = []
        try:
            while True:
                seen += self.array(quiet)
        except (TimeoutError, Gone):
            return seen

    def expect_end(self) -> int | None:
        """Read on until the server ends the connection; its close code."""
        try:
            while True:
                self.frame()
        except Gone as gone:
            return gone.code


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON body and headers of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(body), names
    finally:
        connection.close()

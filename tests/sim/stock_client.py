"""What the tests of the stock venues need on top of the tiny client: arrays, keys, endings."""
from __future__ import annotations

import http.client
import json
import struct
import time
from collections.abc import Callable
from typing import Any

from . import client as tiny
from .client import BINARY, CLOSE, PATIENCE, TEXT, Refused

__all__ = ["BINARY", "TEXT", "Client", "Gone", "Refused", "get"]


class Gone(Exception):
    """The server ended the connection; ``code`` is of its close frame, None without one."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"the server has gone, close code {code}")
        self.code = code


class Client:
    """One connection to a venue that sends arrays; ``decode`` turns a payload into one.

    Attributes:
        arrays: all that came, as it came.
    """

    def __init__(self, port: int, path: str, headers: dict[str, str] | None = None,
                 decode: Callable[[bytes], Any] = json.loads) -> None:
        self.decode = decode
        self.arrays: list[list[dict[str, Any]]] = []
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.raw = tiny.Client(f"ws://127.0.0.1:{port}", path, headers=lines)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.sock.close()

    def close(self) -> None:
        """A polite end: close frame, answer, gone."""
        self.raw.send(struct.pack("!H", 1000), CLOSE)
        self.expect_end()
        self.raw.sock.close()

    def vanish(self) -> None:
        """Go without a word."""
        self.raw.sock.close()

    def send(self, message: object) -> None:
        """Send text, or anything else as JSON text."""
        self.raw.send(message if isinstance(message, str) else json.dumps(message))

    def send_binary(self, payload: bytes) -> None:
        self.raw.send(payload)

    def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next message."""
        try:
            message = self.raw.message()
            if message.opcode == CLOSE:
                self.raw.send(message.payload[:2], CLOSE)
        except (EOFError, ConnectionError):
            raise Gone(None) from None
        if message.opcode == CLOSE:
            raise Gone(int.from_bytes(message.payload[:2], "big") if message.payload else 1005)
        return message.opcode, message.payload

    def array(self) -> list[dict[str, Any]]:
        """The next message: an array."""
        found = self.decode(self.frame()[1])
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
            while not self.raw.silent(quiet):
                seen += self.array()
        except Gone:
            pass
        return seen

    def expect_end(self) -> int | None:
        """Read on until the server ends the connection; its close code."""
        try:
            while True:
                self.frame()
        except Gone as gone:
            return gone.code


def get(port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, dict[str, str]]:
    """Status, JSON body and headers of one request that may carry a key."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        body = answer.read()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(body), names
    finally:
        connection.close()

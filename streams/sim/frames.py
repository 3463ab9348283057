"""RFC 6455 frames as a server reads and writes them.

The wire format is implemented here a second time, on purpose: a simulated venue must not
share its reading of the protocol with the client it is used to test.
"""
from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

CONTINUATION = 0x0
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"     # RFC 6455, section 1.3
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class FrameError(Exception):
    """The client broke the protocol; ``code`` is the close code that the server answers."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Message(NamedTuple):
    """One message from the client: a control frame, or data with its fragments joined."""

    opcode: int
    payload: bytes


def accept_key(key: str) -> str:
    """The ``Sec-WebSocket-Accept`` value that belongs to a ``Sec-WebSocket-Key``.

    Threads: any.
    """
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID).digest()).decode("ascii")


def header(opcode: int, length: int, fin: bool = True) -> bytes:
    """The first 2, 4 or 10 bytes of an unmasked frame (RFC 6455, section 5.2).

    Threads: any.
    """
    first = (0x80 if fin else 0) | opcode
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def build(opcode: int, payload: bytes) -> bytes:
    """One whole, unmasked frame.

    Threads: any.
    """
    return header(opcode, len(payload)) + payload


def build_fragments(opcode: int, payload: bytes, size: int) -> Iterator[bytes]:
    """The same message as frames of at most ``size`` bytes of payload each.

    Threads: any.
    """
    last = max(0, (len(payload) - 1) // size)
    for index in range(last + 1):
        piece = payload[index * size:(index + 1) * size]
        yield header(opcode if index == 0 else CONTINUATION, len(piece), index == last) + piece


def build_close(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to the 123 bytes that a control frame has room for.

    Threads: any.
    """
    return build(CLOSE, struct.pack("!H", code) + reason.encode("utf-8")[:123])


def parse_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame; 1005 when it carries none.

    Threads: any.

    Raises:
        FrameError: a one-byte payload, a code nobody may send, or a reason that is no UTF-8.
    """
    if not payload:
        return 1005, ""
    if len(payload) == 1:
        raise FrameError(1002, "close frame with one byte of payload")
    code = int.from_bytes(payload[:2], "big")
    if code not in _CLOSE_CODES and not 3000 <= code <= 4999:
        raise FrameError(1002, f"close code {code} must not be sent")
    try:
        return code, payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise FrameError(1007, "close reason is not UTF-8") from None


class FrameReader:
    """Bytes of one client in, messages out.

    Threads: the connection's own thread only.
    """

    def __init__(self, max_message: int = 1 << 20) -> None:
        self._max_message = max_message
        self._buffer = bytearray()
        self._opcode = CONTINUATION
        self._fragments: list[bytes] = []
        self._fragments_size = 0

    def feed(self, data: bytes) -> None:
        """Add bytes that came from the socket."""
        self._buffer += data

    def messages(self) -> Iterator[Message]:
        """Every message that is complete by now.

        Raises:
            FrameError: the client sent what RFC 6455 forbids.
        """
        while True:
            frame = self._next_frame()
            if frame is None:
                return
            message = self._join(*frame)
            if message is not None:
                yield message

    def _next_frame(self) -> tuple[bool, int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        fin, opcode, length = bool(first & 0x80), first & 0x0F, second & 0x7F
        self._check_head(first, fin, opcode, length, bool(second & 0x80))
        start = 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if length > self._max_message:
            raise FrameError(1009, f"frame of {length} bytes")
        end = start + 4 + length
        if len(buffer) < end:
            return None
        mask = bytes(buffer[start:start + 4])
        payload = _unmask(bytes(buffer[start + 4:end]), mask)
        del buffer[:end]
        return fin, opcode, payload

    @staticmethod
    def _check_head(first: int, fin: bool, opcode: int, length: int, masked: bool) -> None:
        if first & 0x70:
            raise FrameError(1002, "reserved bits are set")
        if not masked:
            raise FrameError(1002, "a client must mask its frames")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise FrameError(1002, f"unknown opcode {opcode}")
            if not fin:
                raise FrameError(1002, "fragmented control frame")
            if length > 125:
                raise FrameError(1002, "control frame of more than 125 bytes")
        elif opcode > BINARY:
            raise FrameError(1002, f"unknown opcode {opcode}")

    def _join(self, fin: bool, opcode: int, payload: bytes) -> Message | None:
        if opcode >= CLOSE:
            return Message(opcode, payload)
        if opcode == CONTINUATION:
            if self._opcode == CONTINUATION:
                raise FrameError(1002, "continuation of nothing")
        elif self._opcode != CONTINUATION:
            raise FrameError(1002, "a new message began inside another")
        else:
            self._opcode = opcode
        self._fragments.append(payload)
        self._fragments_size += len(payload)
        if self._fragments_size > self._max_message:
            raise FrameError(1009, f"message of more than {self._max_message} bytes")
        if not fin:
            return None
        whole = Message(self._opcode, b"".join(self._fragments))
        self._opcode, self._fragments, self._fragments_size = CONTINUATION, [], 0
        if whole.opcode == TEXT:
            try:
                whole.payload.decode("utf-8")
            except UnicodeDecodeError:
                raise FrameError(1007, "text is not UTF-8") from None
        return whole


def _unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return mixed.to_bytes(size, "big")

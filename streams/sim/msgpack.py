"""As much of MessagePack as a simulated venue needs, written from the specification.

Numbers take the smallest form that holds them, as encoders do; floats are always 64 bits. A time is a
`Timestamp`: extension -1, in the shortest of its three encodings, to the nanosecond.
"""
from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

_EXT_TIMESTAMP = 0xFF       # -1, as the unsigned byte it is on the wire
_BILLION = 1_000_000_000
_MAX_DEPTH = 32


class Timestamp(NamedTuple):
    """A moment, as nanoseconds since the epoch."""

    ns: int


class Extension(NamedTuple):
    """An extension that is not a timestamp: its code and its bytes, as they came."""

    code: int
    data: bytes


def pack(value: object) -> bytes:
    """One value as MessagePack: None, bool, int, float, str, bytes, `Timestamp`, list, tuple, dict.

    Threads: any.

    Raises:
        TypeError: another kind of value.
        OverflowError: an integer that needs more than 64 bits.
    """
    out = bytearray()
    _pack(value, out)
    return bytes(out)


def array_header(length: int) -> bytes:
    """What comes before the ``length`` packed values of an array. Threads: any."""
    out = bytearray()
    _pack_length(length, out, (0x90, 15), (None, 0xDC, 0xDD))
    return bytes(out)


def _pack(value: object, out: bytearray) -> None:
    if value is None:
        out.append(0xC0)
    elif isinstance(value, bool):
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, Timestamp):
        _pack_timestamp(value.ns, out)
    elif isinstance(value, int):
        _pack_int(value, out)
    elif isinstance(value, float):
        out += struct.pack(">Bd", 0xCB, value)
    elif isinstance(value, str):
        data = value.encode("utf-8")
        _pack_length(len(data), out, (0xA0, 31), (0xD9, 0xDA, 0xDB))
        out += data
    elif isinstance(value, bytes):
        _pack_length(len(value), out, None, (0xC4, 0xC5, 0xC6))
        out += value
    elif isinstance(value, (list, tuple)):
        _pack_length(len(value), out, (0x90, 15), (None, 0xDC, 0xDD))
        for item in value:
            _pack(item, out)
    elif isinstance(value, dict):
        _pack_length(len(value), out, (0x80, 15), (None, 0xDE, 0xDF))
        for key, item in value.items():
            _pack(key, out)
            _pack(item, out)
    else:
        raise TypeError(f"MessagePack has no form for {type(value).__name__}")


def _pack_int(value: int, out: bytearray) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
        return
    for size in range(4):
        bits = 8 << size
        if 0 <= value < 1 << bits:
            out.append(0xCC + size)
            out += value.to_bytes(bits // 8, "big")
            return
        if -(1 << bits - 1) <= value < 0:
            out.append(0xD0 + size)
            out += value.to_bytes(bits // 8, "big", signed=True)
            return
    raise OverflowError(f"{value} needs more than 64 bits")


def _pack_length(length: int, out: bytearray, fixed: tuple[int, int] | None,
                 codes: tuple[int | None, int, int]) -> None:
    if fixed is not None and length <= fixed[1]:
        out.append(fixed[0] | length)
    elif codes[0] is not None and length < 1 << 8:
        out += struct.pack(">BB", codes[0], length)
    elif length < 1 << 16:
        out += struct.pack(">BH", codes[1], length)
    else:
        out += struct.pack(">BI", codes[2], length)


def _pack_timestamp(ns: int, out: bytearray) -> None:
    seconds, rest = divmod(ns, _BILLION)
    if rest == 0 and 0 <= seconds < 1 << 32:
        out += struct.pack(">BBI", 0xD6, _EXT_TIMESTAMP, seconds)
    elif 0 <= seconds < 1 << 34:
        out += struct.pack(">BBQ", 0xD7, _EXT_TIMESTAMP, rest << 34 | seconds)
    else:
        out += struct.pack(">BBBIq", 0xC7, 12, _EXT_TIMESTAMP, rest, seconds)


def unpack(data: bytes) -> object:
    """The one value that ``data`` is. Arrays are lists, maps are dicts, times `Timestamp`.

    Threads: any.

    Raises:
        ValueError: it is not exactly one well-formed value.
    """
    reader = _Reader(data)
    try:
        value = reader.value(0)
    except (struct.error, IndexError):
        raise ValueError("MessagePack ends too early") from None
    except TypeError as error:              # a map key that can not be hashed
        raise ValueError(str(error)) from None
    if reader.at != len(data):
        raise ValueError("bytes behind the MessagePack value")
    return value


class _Reader:
    """Reads one value after the other from a block of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def value(self, depth: int) -> object:
        if depth > _MAX_DEPTH:
            raise ValueError("MessagePack is nested too deeply")
        code = self._number(">B")
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code < 0x90:
            return self._map(code & 0x0F, depth)
        if code < 0xA0:
            return self._array(code & 0x0F, depth)
        if code < 0xC0:
            return self._take(code & 0x1F).decode("utf-8")
        return self._coded(code, depth)

    def _coded(self, code: int, depth: int) -> object:
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in (0xCA, 0xCB):
            return struct.unpack(*((">f", self._take(4)) if code == 0xCA else (">d", self._take(8))))[0]
        if 0xCC <= code <= 0xD3:
            return self._number(_INTEGERS[code - 0xCC])
        if 0xD4 <= code <= 0xD8:
            return self._extension(1 << code - 0xD4)
        if code not in _SIZED:
            raise ValueError(f"byte {code:#x} begins no MessagePack value")
        kind, length = _SIZED[code]
        return kind(self, self._number(length), depth)

    def _number(self, form: str) -> int:
        size = struct.calcsize(form)
        value: int = struct.unpack(form, self._take(size))[0]
        return value

    def _take(self, size: int) -> bytes:
        piece = self._data[self.at:self.at + size]
        if len(piece) != size:
            raise IndexError
        self.at += size
        return piece

    def _text(self, length: int, depth: int) -> str:
        return self._take(length).decode("utf-8")

    def _bytes(self, length: int, depth: int) -> bytes:
        return self._take(length)

    def _array(self, length: int, depth: int) -> list[object]:
        return [self.value(depth + 1) for _ in range(length)]

    def _map(self, length: int, depth: int) -> dict[object, object]:
        found: dict[object, object] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            found[key] = self.value(depth + 1)
        return found

    def _extension(self, length: int, depth: int = 0) -> Timestamp | Extension:
        code = self._number(">b")
        data = self._take(length)
        if code != -1:
            return Extension(code, data)
        if length == 4:
            return Timestamp(struct.unpack(">I", data)[0] * _BILLION)
        if length == 8:
            both: int = struct.unpack(">Q", data)[0]
            return Timestamp((both & (1 << 34) - 1) * _BILLION + (both >> 34))
        if length == 12:
            rest, seconds = struct.unpack(">Iq", data)
            return Timestamp(seconds * _BILLION + rest)
        raise ValueError(f"a MessagePack timestamp of {length} bytes")


_CONSTANTS: dict[int, bool | None] = {0xC0: None, 0xC2: False, 0xC3: True}
_INTEGERS = (">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q")
_SIZED: dict[int, tuple[Callable[[_Reader, int, int], object], str]] = {
    0xC4: (_Reader._bytes, ">B"), 0xC5: (_Reader._bytes, ">H"), 0xC6: (_Reader._bytes, ">I"),
    0xC7: (_Reader._extension, ">B"), 0xC8: (_Reader._extension, ">H"),
    0xC9: (_Reader._extension, ">I"),
    0xD9: (_Reader._text, ">B"), 0xDA: (_Reader._text, ">H"), 0xDB: (_Reader._text, ">I"),
    0xDC: (_Reader._array, ">H"), 0xDD: (_Reader._array, ">I"),
    0xDE: (_Reader._map, ">H"), 0xDF: (_Reader._map, ">I"),
}

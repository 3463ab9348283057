"""Reading recordings: those of :class:`streams.record.Recorder`, and two formats of others.

All of them are lines, plain or compressed: the JSON objects described in :mod:`streams.record`; the
same from other tools, with times in fractions of a second; or ``<receive time in ns> <json>``, as
hftbacktest collects them (a JSON that begins with ``lastUpdateId`` is a REST snapshot there).
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Iterator
from typing import Any

import msgspec

from .compression import Damaged, decompressor, expand
from .errors import ConfigurationError

__all__ = ["Record", "read_recording"]

_log = logging.getLogger("streams.record")


class Record(msgspec.Struct, frozen=True):
    """One thing that was recorded.

    Attributes:
        kind: ``header connect send recv http gap close``.
        stream: The connection it belongs to; "" where the format names none.
        time: ns since the epoch, None where there is none.
        data: The bytes of a message or a REST answer; of a header the line itself.
        url: Of a ``connect`` or ``http`` record; "" where the format gives none.
        reason: Of a ``close`` or ``gap`` record.
        secret: A ``send`` whose content was not kept.
        frames: Of a ``gap``: how many are missing.
        text: A message that was delivered as ``str``.
    """

    kind: str
    stream: str = ""
    time: int | None = None
    data: bytes = msgspec.field(default=b"")
    url: str = ""
    reason: str = ""
    secret: bool = False
    frames: int = 0
    text: bool = False


class _Line(msgspec.Struct):
    t: str
    conn: str = ""
    ts: msgspec.Raw = msgspec.Raw(b"null")
    data: str = ""
    b64: str = ""
    addr: str = ""
    url: str = ""
    reason: str = ""
    secret: bool = False
    frames: int = 0
    text: bool = False


_decode = msgspec.json.Decoder(_Line).decode
_KINDS = frozenset(("header", "connect", "send", "recv", "http", "gap", "close"))


def read_recording(path: str | os.PathLike[str]) -> Iterator[Record]:
    """What a recording holds, in order; compression and format are found out.

    A file that is cut off (its recorder crashed, or is still at work) is read as far as it goes.
    That, and lines that can not be understood, are counted and logged.

    Raises:
        ConfigurationError: No such file, or no recording.
        MissingDependency: The file is compressed with zstd, and ``zstandard`` is not installed.
    """
    try:
        with open(path, "rb") as file:
            make = decompressor(file.read(4))
    except OSError as error:
        raise ConfigurationError(f"can not read {os.fspath(path)!r}: {error.strerror}") from None
    return _records(path, make)


def _records(path: str | os.PathLike[str], make: Any) -> Iterator[Record]:
    name = os.fspath(path)
    good = bad = 0
    end = ""
    with open(path, "rb") as file:
        lines = _lines(expand(file, make))
        while True:
            try:
                line = next(lines, None)
            except Damaged as damage:
                end = str(damage)
                break
            if line is None:
                break
            record = _record(line)
            if record is not None:
                good += 1
                yield record
            elif not good:
                raise ConfigurationError(f"{name!r} is no recording: it begins with {line[:40]!r}")
            elif line.endswith(b"\n"):
                bad += 1
            else:
                end = "it is cut off"
    if bad:
        _log.warning("%s: %d lines could not be understood", name, bad)
    if end:
        _log.warning("%s: %s after %d records", name, end, good)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Lines with their ends; the last one may have none. Damaged comes after the last whole line."""
    rest: list[bytes] = []  # of a line longer than a piece; joined once, not per piece
    for piece in pieces:
        if b"\n" not in piece:
            rest.append(piece)
            continue
        rest.append(piece)
        *whole, last = b"".join(rest).splitlines(keepends=True)
        rest = []
        yield from whole
        if last.endswith(b"\n"):
            yield last
        else:
            rest.append(last)
    if rest:
        yield b"".join(rest)


def _record(line: bytes) -> Record | None:
    """The record in a line, or None."""
    first = line[:1]
    if first == b"{":
        return _of_object(line)
    if not first.isdigit():
        return None
    stamp, _, message = line.rstrip().partition(b" ")
    if not stamp.isdigit() or message[:1] not in (b"{", b"["):
        return None
    kind = "http" if message.startswith(b'{"lastUpdateId"') else "recv"
    return Record(kind, time=int(stamp), data=message)


def _of_object(line: bytes) -> Record | None:
    if line.startswith(b'{"lastUpdateId"'):
        return Record("http", data=line.rstrip())
    try:
        parsed = _decode(line)
        if parsed.t not in _KINDS:
            return None
        if parsed.t == "header":
            return Record("header", time=_nanoseconds(bytes(parsed.ts)), data=line.rstrip())
        data = base64.b64decode(parsed.b64, validate=True) if parsed.b64 else parsed.data.encode()
        return Record(parsed.t, parsed.conn, _nanoseconds(bytes(parsed.ts)), data, parsed.url or parsed.addr,
                      parsed.reason, parsed.secret, parsed.frames, parsed.text)
    except ValueError:  # msgspec's and base64's errors are of this kind
        return None


def _nanoseconds(seconds: bytes) -> int | None:
    """Exactly what the digits say: a float keeps but a quarter of a microsecond of today's time."""
    if seconds == b"null":
        return None
    whole, _, part = seconds.partition(b".")
    return int(whole) * 1_000_000_000 + int(part[:9].ljust(9, b"0"))

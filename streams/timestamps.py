"""Times as venues write them, to nanoseconds since the epoch without losing a digit.

``datetime`` ends at microseconds, and so does everything that decodes into one.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone

import msgspec

__all__ = ["Rfc3339", "epoch_ns", "msgpack_ns"]

_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SCALE = tuple(int(10 ** (9 - digits)) for digits in range(10))     # by number of fraction digits
_LAST = 2 ** 63 // 1_000_000_000                               # second whose ns 64 bits hold
_YEAR_1 = -62_135_596_800                                      # its first second
_REMEMBERED = 4096                                             # seconds; then it starts anew


class Rfc3339:
    """Reads RFC 3339 times (``2021-02-22T15:51:45.335689322Z``). Threads: any.

    A feed says the same second again and again: its start is remembered, and what is left per message
    is one look-up and one small integer.
    """

    __slots__ = ("_seconds",)

    def __init__(self) -> None:
        self._seconds: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        """Nanoseconds since the epoch; digits beyond the ninth are cut off. 0 for the year 1, which
        programs in Go write for "no time".

        Raises:
            ValueError: Not such a time, or one whose nanoseconds 64 bits do not hold.
        """
        start = self._seconds.get(text[:19])
        if start is not None and text[-1] == "Z":
            if len(text) == 20:
                return start
            digits = text[20:-1]
            if text[19] == "." and len(digits) < 10 and digits.isdecimal() and digits.isascii():
                return start + int(digits) * _SCALE[len(digits)]
        return self._slowly(text)

    def _slowly(self, text: str) -> int:
        found = _RFC3339.fullmatch(text)
        if found is None:
            raise ValueError(f"not a time: {text[:40]!r}")
        *date, second, fraction, zone = found.groups()
        if int(second) > 60:                                   # 60: a leap second
            raise ValueError(f"not a time: {text[:40]!r}")
        year, month, day, hour, minute = map(int, date)
        since = datetime(year, month, day, hour, minute, tzinfo=timezone.utc) - _EPOCH
        seconds = since.days * 86400 + since.seconds + int(second)
        if zone not in "Zz":
            offset = int(zone[1:3]) * 3600 + int(zone[4:]) * 60
            seconds += offset if zone[0] == "-" else -offset
        moment = _nanoseconds(seconds, int((fraction or "0")[:9].ljust(9, "0")))
        if zone in "Zz" and moment:
            if len(self._seconds) >= _REMEMBERED:
                self._seconds.clear()
            self._seconds[text[:19]] = seconds * 1_000_000_000
        return moment


def msgpack_ns(value: msgspec.msgpack.Ext) -> int:
    """Nanoseconds since the epoch of a MessagePack timestamp (extension -1, any of its three forms:
    https://github.com/msgpack/msgpack/blob/master/spec.md).

    A field typed ``Ext`` keeps the bytes; typed ``datetime``, the decoder would round them to
    microseconds. 0 for the year 1, see :class:`Rfc3339`.

    Raises:
        ValueError: Not a timestamp, or one whose nanoseconds 64 bits do not hold.
    """
    data = bytes(value.data)
    if value.code == -1 and len(data) == 4:
        return int.from_bytes(data, "big") * 1_000_000_000
    if value.code == -1 and len(data) == 8:
        both = int.from_bytes(data, "big")
        nanoseconds, seconds = both >> 34, both & 0x3_FFFF_FFFF
    elif value.code == -1 and len(data) == 12:
        nanoseconds = int.from_bytes(data[:4], "big")
        seconds = int.from_bytes(data[4:], "big", signed=True)
    else:
        raise ValueError(f"not a timestamp: extension {value.code} of {len(data)} bytes")
    if nanoseconds > 999_999_999:
        raise ValueError(f"not a timestamp: {nanoseconds} nanoseconds")
    return _nanoseconds(seconds, nanoseconds)


def epoch_ns(value: int) -> int | None:
    """Nanoseconds since the epoch of an integer that counts s, ms, us or ns since then, whichever
    makes it a date between April 1970 and 2262, where 64 bits end; None for 0, which venues send for
    "no time"."""
    if value < _LAST:
        return value * 1_000_000_000 or None
    if value < _LAST * 1_000:
        return value * 1_000_000
    if value < _LAST * 1_000_000:
        return value * 1_000
    return value


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    if not -_LAST < seconds < _LAST:
        if seconds == _YEAR_1:
            return 0
        raise ValueError(f"not a time of a market: {seconds} seconds from 1970")
    return seconds * 1_000_000_000 + nanoseconds

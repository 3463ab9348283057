"""Times to the nanosecond: RFC 3339, MessagePack, integers of any unit."""

from __future__ import annotations

import random
from datetime import datetime, timezone

import msgspec
import pytest

from streams.timestamps import Rfc3339, epoch_ns, msgpack_ns

SECOND = 1_614_009_105 * 1_000_000_000  # 2021-02-22T15:51:45Z


@pytest.mark.parametrize(
    "text, ns",
    [
        ("2021-02-22T15:51:45Z", SECOND),
        ("2021-02-22T15:51:45.3Z", SECOND + 300_000_000),
        ("2021-02-22T15:51:45.208Z", SECOND + 208_000_000),
        ("2021-02-22T15:51:45.83540958Z", SECOND + 835_409_580),
        ("2021-02-22T15:51:45.335689322Z", SECOND + 335_689_322),
        ("2021-02-22T15:51:45.000000001Z", SECOND + 1),
        ("2021-02-22T15:51:45.0000000019Z", SECOND + 1),
        ("2021-02-22T15:51:45+00:00", SECOND),
        ("2021-02-22T10:51:45.335689322-05:00", SECOND + 335_689_322),
        ("2021-02-22T21:21:45.5+05:30", SECOND + 500_000_000),
        ("2021-02-22t15:51:45z", SECOND),
        ("1970-01-01T00:00:00Z", 0),
        ("2016-12-31T23:59:60Z", 1_483_228_800 * 1_000_000_000),
        ("0001-01-01T00:00:00Z", 0),
        ("0001-01-01T00:00:00.000Z", 0),
        ("0001-01-01T02:00:00+02:00", 0),
        ("2262-04-11T23:47:15.999999999Z", 9_223_372_035_999_999_999),
    ],
)
def test_rfc3339(text: str, ns: int) -> None:
    read = Rfc3339()
    assert read(text) == ns
    assert read(text) == ns  # and once more, from what it remembers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "2021-02-22",
        "2021-02-22T15:51:45",
        "2021-02-22T15:51:45.Z",
        "2021-02-22T15:51:45.1_0Z",
        "2021-02-22T15:51:45.+1Z",
        "2021-02-22T15:51:45.\u0661Z",
        "2021-02-22T15:51:45. 1Z",
        "2021-13-22T15:51:45Z",
        "2021-02-30T15:51:45Z",
        "2021-02-22T24:51:45Z",
        "2021-02-22T15:61:45Z",
        "2021-02-22T15:51:61Z",
        "2021-02-22T15:51:45.5",
        "2021-02-22T15:51:45,5Z",
        "0000-02-22T15:51:45Z",
        "0001-01-01T00:00:01Z",
        "1677-01-01T00:00:00Z",
        "2262-04-12T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2021-02-22T15:51:45Z\n",
    ],
)
def test_what_is_no_time(text: str) -> None:
    read = Rfc3339()
    read("2021-02-22T15:51:45Z")  # the second is known: the fast path must be as strict
    with pytest.raises(ValueError):
        read(text)


def test_rfc3339_agrees_with_datetime_on_microseconds_and_stays_small() -> None:
    read, rng = Rfc3339(), random.Random(7)
    for _ in range(6000):
        micros = rng.randrange(0, 4_000_000_000_000_000)
        when = datetime.fromtimestamp(micros // 1_000_000, timezone.utc)
        assert read(f"{when:%Y-%m-%dT%H:%M:%S}.{micros % 1_000_000:06d}Z") == micros * 1000
    assert len(read._seconds) <= 4096


def ext(data: str, code: int = -1) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(code, bytes.fromhex(data))


def test_msgpack_timestamps() -> None:
    assert msgpack_ns(ext("66040a2a")) == 1_711_540_778 * 10**9
    both = (897_261_568 << 34) | 1_711_540_778
    assert msgpack_ns(ext(f"{both:016x}")) == 1_711_540_778_897_261_568
    assert msgpack_ns(ext(f"{7:08x}{1_711_540_778:016x}")) == 1_711_540_778_000_000_007
    assert msgpack_ns(ext("00000000ffffffffffffffff")) == -(10**9)
    assert msgpack_ns(ext(f"00000000{-62_135_596_800 % 2**64:016x}")) == 0


@pytest.mark.parametrize(
    "bad",
    [
        ext("66040a2a", 1),
        ext(""),
        ext("6604"),
        ext("ff" * 8),
        ext("ffffffff" + "00" * 8),
        ext("00" * 13),
        ext("00000000" + "7f" + "ff" * 7),
        ext("00000000" + "80" + "00" * 7),
    ],
)
def test_what_is_no_msgpack_timestamp(bad: msgspec.msgpack.Ext) -> None:
    with pytest.raises(ValueError):
        msgpack_ns(bad)


def test_integers_of_any_unit() -> None:
    assert epoch_ns(1_601_318_039) == 1_601_318_039_000_000_000
    assert epoch_ns(1_601_318_039_223) == 1_601_318_039_223_000_000
    assert epoch_ns(1_601_316_752_683_746) == 1_601_316_752_683_746_000
    assert epoch_ns(1_601_318_039_223_013_600) == 1_601_318_039_223_013_600
    assert epoch_ns(0) is None


@pytest.mark.parametrize("value", [10**n + more for n in range(19) for more in (-1, 0)] + [2**63 - 1])
def test_no_time_is_too_large_for_msgpack(value: int) -> None:
    when = epoch_ns(value)
    assert when is None or 0 < when < 2**63

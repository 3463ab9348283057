"""MessagePack as the simulator writes it: held against the specification, byte by byte."""
from __future__ import annotations

import random
import struct

import pytest

from streams.sim.msgpack import Extension, Timestamp, pack, unpack

NS = 1_000_000_000


@pytest.mark.parametrize("value, wire", [
    (None, "c0"), (False, "c2"), (True, "c3"),
    (0, "00"), (127, "7f"), (128, "cc80"), (255, "ccff"), (256, "cd0100"), (65535, "cdffff"),
    (65536, "ce00010000"), (2**32, "cf0000000100000000"), (2**64 - 1, "cf" + "ff" * 8),
    (-1, "ff"), (-32, "e0"), (-33, "d0df"), (-128, "d080"), (-129, "d1ff7f"),
    (-32769, "d2ffff7fff"), (-2**63, "d38000000000000000"),
    (1.5, "cb3ff8000000000000"),
    ("", "a0"), ("T", "a154"), ("x" * 31, "bf" + "78" * 31), ("x" * 32, "d920" + "78" * 32),
    (b"\x01", "c40101"),
    ([], "90"), ([1, [2]], "92019102"), ({}, "80"), ({"a": 1}, "81a16101"),
    (Timestamp(0), "d6ff00000000"),
    (Timestamp(1_711_540_778 * NS), "d6ff" + struct.pack(">I", 1_711_540_778).hex()),
    (Timestamp(1_711_540_778_897_261_568),
     "d7ff" + struct.pack(">Q", 897_261_568 << 34 | 1_711_540_778).hex()),
    (Timestamp(-1), "c70cff" + struct.pack(">Iq", 999_999_999, -1).hex()),
    (Timestamp((1 << 34) * NS), "c70cff" + struct.pack(">Iq", 0, 1 << 34).hex()),
])
def test_the_bytes_are_those_of_the_specification(value: object, wire: str) -> None:
    assert pack(value).hex() == wire
    assert unpack(bytes.fromhex(wire)) == value


@pytest.mark.parametrize("size, code", [(200, 0xD9), (300, 0xDA), (70_000, 0xDB)])
def test_long_strings(size: int, code: int) -> None:
    assert pack("y" * size)[0] == code
    assert unpack(pack("y" * size)) == "y" * size


@pytest.mark.parametrize("size, array, mapping", [(16, 0xDC, 0xDE), (70_000, 0xDD, 0xDF)])
def test_long_containers(size: int, array: int, mapping: int) -> None:
    assert pack(list(range(size)))[0] == array
    assert pack({i: i for i in range(size)})[0] == mapping
    assert unpack(pack(list(range(size)))) == list(range(size))
    assert unpack(pack({i: i for i in range(size)})) == {i: i for i in range(size)}


def test_every_nanosecond_survives() -> None:
    chance = random.Random(7)
    for _ in range(500):
        moment = Timestamp(chance.randrange(2**63))
        assert unpack(pack(moment)) == moment


def test_what_others_may_send_is_read() -> None:
    assert unpack(bytes.fromhex("ca3fc00000")) == 1.5
    assert unpack(bytes.fromhex("d40541")) == Extension(5, b"A")
    assert unpack(bytes.fromhex("c70305414243")) == Extension(5, b"ABC")
    assert unpack(bytes.fromhex("c50001ff")) == b"\xff"


@pytest.mark.parametrize("wire", [
    "", "92", "9201", "a261", "d7ff00", "c1", "0101", "a1ff", "d5ff0102", "8190c0", "91" * 50 + "01",
])
def test_malformed_bytes_are_a_value_error(wire: str) -> None:
    with pytest.raises(ValueError):
        unpack(bytes.fromhex(wire))


def test_random_bytes_raise_nothing_else() -> None:
    chance = random.Random(3)
    for _ in range(3000):
        try:
            unpack(chance.randbytes(chance.randrange(40)))
        except ValueError:
            pass


def test_what_has_no_form_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        pack({1, 2})
    with pytest.raises(OverflowError):
        pack(2**64)

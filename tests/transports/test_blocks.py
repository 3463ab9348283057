"""Cutting frames from blocks: the same bytes mean the same, however they are cut up."""

from __future__ import annotations

import random

import pytest

from streams.transports.blocks import BlockReader, ProtocolError

from .websocket_peer import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame


class Script:
    """Notes messages, and frames that are unusual; fragments are put together without the library."""

    def __init__(self, limit: int = 1 << 20, as_text: bool = False) -> None:
        self.seen: list[object] = []
        self.calls = 0
        self.kept: list[bytes] = []
        self.reader = BlockReader(self.deliver, self.unusual, limit, as_text)

    def deliver(self, messages):
        assert messages
        self.calls += 1
        self.seen.extend(messages)

    def unusual(self, whole):
        opcode, payload = whole[0] & 0xF, whole[2:] if whole[1] < 126 else whole[4:]
        if opcode >= CLOSE:
            self.seen.append((opcode, payload))
            return None
        self.kept.append(payload)
        if not whole[0] & 0x80:
            return None
        done, self.kept = b"".join(self.kept), []
        return TEXT, done


STREAM = [
    (frame(TEXT, b"one"), b"one"),
    (frame(BINARY, b""), b""),
    (frame(TEXT, b"x" * 125), b"x" * 125),
    (frame(TEXT, b"y" * 126), b"y" * 126),
    (frame(PING, b"?"), (PING, b"?")),
    (frame(TEXT, b"a", fin=False), None),
    (frame(PONG, b"!"), (PONG, b"!")),
    (frame(CONT, b"b" * 300, fin=False), None),
    (frame(CONT, b"", fin=False), None),
    (frame(CONT, b"c"), b"a" + b"b" * 300 + b"c"),
    (frame(BINARY, bytes(range(256)), form=64), bytes(range(256))),
    (frame(TEXT, b"short in a long form", form=16), b"short in a long form"),
    (frame(PING), (PING, b"")),
    (frame(TEXT, b""), b""),
    (frame(TEXT, b"last"), b"last"),
]
WIRE = b"".join(piece for piece, _ in STREAM)
MEANING = [meaning for _, meaning in STREAM if meaning is not None]


def test_one_block_gives_everything_in_order_and_plain_frames_in_one_call():
    script = Script()
    script.reader.feed(WIRE)
    assert script.seen == MEANING
    many = Script()
    many.reader.feed(frame(TEXT, b"much") * 500)
    assert many.seen == [b"much"] * 500 and many.calls == 1
    assert all(type(message) is bytes for message in many.seen)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_blocks_of_a_few_bytes(step):
    script = Script()
    for at in range(0, len(WIRE), step):
        script.reader.feed(WIRE[at:at + step])
    assert script.seen == MEANING


def test_a_cut_at_every_byte():
    for cut in range(1, len(WIRE)):
        script = Script()
        script.reader.feed(WIRE[:cut])
        script.reader.feed(WIRE[cut:])
        assert script.seen == MEANING, f"cut at {cut}"


def test_two_cuts_at_random_and_many_at_random():
    chance = random.Random(6455)
    for _ in range(1000):
        cuts = sorted(chance.sample(range(1, len(WIRE)), chance.choice([2, 3, 10, 100])))
        script = Script()
        for start, stop in zip([0, *cuts], [*cuts, len(WIRE)]):
            script.reader.feed(WIRE[start:stop])
        assert script.seen == MEANING, cuts


def test_a_message_is_delivered_with_the_block_that_completes_it():
    script = Script()
    script.reader.feed(frame(TEXT, b"now") + frame(TEXT, b"later")[:-1])
    assert script.seen == [b"now"]
    script.reader.feed(b"r")
    assert script.seen == [b"now", b"later"]


def test_a_long_message_in_many_blocks():
    payload = random.Random(1).randbytes(3_000_000)
    wire = frame(TEXT, b"before") + frame(BINARY, payload) + frame(TEXT, b"behind")
    script = Script(limit=1 << 22)
    for at in range(0, len(wire), 65536):
        script.reader.feed(wire[at:at + 65536])
    assert script.seen == [b"before", payload, b"behind"]
    assert type(script.seen[1]) is bytes


FORBIDDEN = [
    pytest.param(frame(TEXT, b"x", rsv=4), 1002, id="RSV1"),
    pytest.param(frame(BINARY, b"x", rsv=1), 1002, id="RSV3"),
    pytest.param(frame(TEXT, b"x", mask=b"abcd"), 1002, id="masked"),
    pytest.param(frame(TEXT, b"x" * 200, mask=b"abcd"), 1002, id="masked-16"),
    pytest.param(frame(3, b"x"), 1002, id="opcode-3"),
    pytest.param(frame(15, b"x"), 1002, id="opcode-15"),
    pytest.param(frame(PING, b"x", fin=False), 1002, id="fragmented-ping"),
    pytest.param(frame(PONG, b"x", fin=False), 1002, id="fragmented-pong"),
    pytest.param(frame(CLOSE, b"\x03\xe8", fin=False), 1002, id="fragmented-close"),
    pytest.param(frame(PING, b"x" * 126), 1002, id="long-ping"),
    pytest.param(frame(PONG, b"x" * 70000), 1002, id="long-pong"),
]


@pytest.mark.parametrize("bad, code", FORBIDDEN)
def test_what_is_forbidden_ends_it_at_its_header_and_after_what_came_before(bad, code):
    for step in (1, len(bad) + 100):
        script = Script()
        with pytest.raises(ProtocolError) as caught:
            wire = frame(TEXT, b"good") + bad[:4]  # its payload is not waited for
            for at in range(0, len(wire), step):
                script.reader.feed(wire[at:at + step])
        assert caught.value.code == code
        assert script.seen == [b"good"]


@pytest.mark.parametrize("head", [
    pytest.param(frame(TEXT, b"x" * 101), id="7-bit"),
    pytest.param(frame(BINARY, b"x" * 5000)[:4], id="16-bit"),
    pytest.param(b"\x82\x7f" + (100_000_000).to_bytes(8, "big"), id="100 MB"),
    pytest.param(b"\x82\x7f" + b"\xff" * 8, id="sign bit"),
    pytest.param(b"\x01\x7f" + (100_000_000).to_bytes(8, "big"), id="a fragment"),
])
def test_a_message_above_the_limit_ends_it_before_it_comes(head):
    script = Script(limit=100)
    script.reader.feed(frame(TEXT, b"x" * 100))
    with pytest.raises(ProtocolError) as caught:
        script.reader.feed(head)
    assert caught.value.code == 1009
    assert script.seen == [b"x" * 100]


def test_fragments_count_together_towards_the_limit():
    script = Script(limit=100)
    script.reader.feed(frame(TEXT, b"x" * 60, fin=False) + frame(PING, b"p" * 100))
    with pytest.raises(ProtocolError) as caught:
        script.reader.feed(frame(CONT, b"x" * 41)[:2])
    assert caught.value.code == 1009
    again = Script(limit=100)
    for _ in range(3):
        again.reader.feed(frame(TEXT, b"x" * 60, fin=False) + frame(CONT, b"x" * 40))
    assert again.seen == [b"x" * 100] * 3


def test_as_text_checks_and_decodes_text_alone():
    script = Script(as_text=True)
    script.reader.feed(frame(TEXT, "µ€".encode()) + frame(BINARY, b"\xff") + frame(TEXT, b"x" * 200))
    assert script.seen == ["µ€", b"\xff", "x" * 200]
    for bad in (frame(TEXT, b"\xff"), frame(TEXT, b"\xff" * 300), frame(TEXT, b"\xff" * 70000),
                frame(TEXT, b"\xff", fin=False) + frame(CONT, b"a")):
        script = Script(as_text=True)
        with pytest.raises(ProtocolError) as caught:
            script.reader.feed(frame(TEXT, b"good") + bad)
        assert caught.value.code == 1007
        assert script.seen == ["good"]

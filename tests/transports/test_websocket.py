"""The WebSocket conversation: messages, control frames, sending, ticks, ends. Both ways of reading."""

from __future__ import annotations

import errno
import logging
import random
import socket
import struct
import threading
import time

import pytest

from streams.errors import Aborted, ConfigurationError, ConnectionLost, TransportError
from streams.transports import websocket as module
from streams.transports.base import Target
from streams.transports.websocket import WebSocketTransport

from .websocket_peer import (
    BINARY, CLOSE, CONT, PING, PONG, TEXT, Listener, Talk, WebSocketPeer, frame,
)


@pytest.fixture(params=["blocks", "plainly", "tls"])
def peer(request, monkeypatch):
    """A peer, for the block reader, for the library's own reading, and over TLS."""
    if request.param == "plainly":
        monkeypatch.setattr(module, "MISFIT", "the test wants it so")
    with WebSocketPeer(tls=request.param == "tls") as peer:
        yield peer


def talk(peer, **target):
    target.setdefault("sslopt", {"cert_reqs": 0})
    return Talk(peer.url, **target)


# -- receiving -----------------------------------------------------------------------------------


def test_opened_then_messages_in_order_with_what_came_behind_the_upgrade(peer):
    with talk(peer) as client:
        wire = peer.meet(behind=frame(TEXT, b"early") + frame(BINARY, b"bi")[:2])
        wire.send(frame(BINARY, b"bi")[2:], frame(TEXT, b"t" * 5000), frame(TEXT, b""))
        client.listener.wait("message", 4)
        assert client.listener.messages == [b"early", b"bi", b"t" * 5000, b""]
        assert all(type(message) is bytes for message in client.listener.messages)
        assert client.listener.events[0] == ("opened", None)
        client.listener.wait("tick")


def test_control_frames_between_fragments_are_answered_and_keep_their_place(peer):
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"a"), frame(TEXT, b"b", fin=False), frame(PING, b"payload"),
                  frame(CONT, b"c" * 500, fin=False), frame(PONG, b"unasked"), frame(CONT, b"d"),
                  frame(TEXT, b"e"))
        assert wire.read() == (PONG, b"payload")
        client.listener.wait("message", 3)
        assert [event for event in client.listener.events if event[0] in ("message", "alive")] == [
            ("message", b"a"), ("alive", None), ("alive", None),
            ("message", b"b" + b"c" * 500 + b"d"), ("message", b"e"),
        ]
        assert all(type(message) is bytes for message in client.listener.messages)


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 3_000_000])
def test_every_length(peer, size):
    payload = random.Random(size).randbytes(size)
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(BINARY, payload), frame(TEXT, b"next"))
        client.listener.wait("message", 2)
        assert client.listener.messages == [payload, b"next"]


def test_many_small_fragments_make_one_message(peer):
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"0123", fin=False), frame(CONT, b"4567", fin=False) * 20_000,
                  frame(CONT, b"89"))
        client.listener.wait("message")
        assert client.listener.messages == [b"0123" + b"4567" * 20_000 + b"89"]


def test_random_cuts_of_the_same_bytes(peer):
    chance = random.Random(13)
    expected = [chance.randbytes(chance.choice([0, 3, 120, 130, 700, 66_000])) for _ in range(40)]
    wire_bytes = b"".join(
        frame(BINARY, message) if chance.random() < 0.8 else
        frame(BINARY, message[:50], fin=False) + frame(PING, b"!") + frame(CONT, message[50:])
        for message in expected
    )
    with talk(peer) as client:
        wire = peer.meet()
        at = 0
        while at < len(wire_bytes):
            size = chance.choice([1, 2, 5, 100, 3000, 60_000])
            wire.sock.sendall(wire_bytes[at:at + size])
            at += size
        client.listener.wait("message", len(expected))
        assert client.listener.messages == expected


def test_messages_of_one_block_come_in_one_call(monkeypatch):
    with WebSocketPeer() as peer, talk(peer) as client:
        peer.meet(behind=frame(TEXT, b"m" * 50) * 100)
        client.listener.wait("message", 100)
        assert client.listener.batches == [100]


def test_utf8_option(peer):
    with talk(peer, options={"utf8": True}) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, "µ".encode()), frame(BINARY, b"\xff"), frame(TEXT, "€".encode()[:1], fin=False),
                  frame(CONT, "€".encode()[1:]))
        client.listener.wait("message", 3)
        assert client.listener.messages == ["µ", b"\xff", "€"]
        wire.send(frame(TEXT, b"\xc3"))
        assert wire.read_until(CLOSE) == struct.pack("!H", 1007)
        assert "UTF-8" in str(client.closed().error)


def test_text_is_not_checked_by_default(peer):
    with talk(peer) as client:
        peer.meet().send(frame(TEXT, b"\xff\xfe"), frame(TEXT, b"\xff", fin=False), frame(CONT, b"\xff"))
        client.listener.wait("message", 2)
        assert client.listener.messages == [b"\xff\xfe", b"\xff\xff"]


# -- the protocol, broken ------------------------------------------------------------------------

BROKEN = [
    pytest.param(frame(TEXT, b"x", rsv=4), id="rsv"),
    pytest.param(frame(11, b"x"), id="opcode"),
    pytest.param(frame(PING, b"x", fin=False), id="fragmented-ping"),
    pytest.param(frame(PING, b"x" * 126), id="long-ping"),
    pytest.param(frame(CONT, b"x"), id="continues-nothing"),
    pytest.param(frame(TEXT, b"a", fin=False) + frame(TEXT, b"x"), id="text-inside-fragments"),
    pytest.param(frame(CLOSE, b"\x03"), id="close-of-one-byte"),
    pytest.param(frame(CLOSE, struct.pack("!H", 1005)), id="close-with-1005"),
    pytest.param(frame(CLOSE, struct.pack("!H", 5000)), id="close-with-5000"),
]


@pytest.mark.parametrize("bad", BROKEN)
def test_a_broken_protocol_is_told_to_both_sides(peer, bad):
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"good"), bad)
        assert wire.read_until(CLOSE) == struct.pack("!H", 1002)
        wire.sock.close()
        closed = client.closed()
        assert isinstance(closed.error, ConnectionLost) and closed.opened
        assert client.listener.messages == [b"good"]
        assert client.listener.count("malformed") == 1


def test_a_masked_frame_is_refused():
    with WebSocketPeer() as peer, talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"good"), frame(TEXT, b"bad", mask=b"1234"))
        assert wire.read_until(CLOSE) == struct.pack("!H", 1002)
        assert client.listener.messages == [b"good"]
        assert "masked" in str(client.closed().error)


def test_a_close_reason_that_is_not_utf8(peer):
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(CLOSE, struct.pack("!H", 1000) + b"\xff"))
        wire.read_until(CLOSE)
        assert "UTF-8" in str(client.closed().error)


def test_an_announced_100_mb_is_never_buffered():
    with WebSocketPeer() as peer, talk(peer, max_message=1000) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"x" * 1000), b"\x82\x7f" + (100_000_000).to_bytes(8, "big"))
        assert wire.read_until(CLOSE) == struct.pack("!H", 1009)
        assert client.closed().error is not None
        assert client.listener.messages == [b"x" * 1000]
        assert "100000000" in client.listener.events[-1][1]


# Nothing is sent after the client has refused, and one thread talks: data sent to a closed connection would
# have its kernel throw the close frame away, and one TLS session must not be used by two threads.


def _too_much():
    """How many bytes more make a message too long that has 100,000, or a header that says so. The library,
    where it reads plainly, has no limit of its own: what it has pulled is looked at before each block."""
    return 170_000 if module.MISFIT else 100


def test_a_message_that_is_too_long(peer):
    with talk(peer, max_message=100_000) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"x" * 100_000))
        client.listener.wait("message")
        wire.send(frame(BINARY, b"y" * 1_000_000)[:_too_much()])
        assert wire.read_until(CLOSE) == struct.pack("!H", 1009)
        closed = client.closed()
        assert isinstance(closed.error, ConnectionLost) and "1009" in str(closed.error)
        assert client.listener.count("message") == 1 and client.listener.count("malformed") == 1


def test_endless_fragments_are_too_long(peer):
    with talk(peer, max_message=100_000) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"x" * 1000, fin=False), frame(CONT, b"x" * 1000, fin=False) * 99)
        wire.send(frame(PING, b"still there?"))
        assert wire.read() == (PONG, b"still there?")
        wire.send(frame(CONT, b"x" * _too_much(), fin=False))
        assert wire.read_until(CLOSE) == struct.pack("!H", 1009)
        assert client.closed().error is not None
        assert client.listener.count("message") == 0


# -- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload, code, text", [
    (struct.pack("!H", 1001) + b"going away", 1001, "with code 1001: going away"),
    (struct.pack("!H", 4999), 4999, "with code 4999"),
    (b"", None, "without a code"),
])
def test_the_peers_close_is_answered_and_reported(peer, payload, code, text):
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"last"), frame(CLOSE, payload), frame(TEXT, b"after"))
        wire.read_until(CLOSE)
        closed = client.closed()
        assert isinstance(closed.error, ConnectionLost)
        assert closed.error.code == code and text in str(closed.error)
        assert client.listener.messages == [b"last"]


def test_the_end_of_the_stream(peer):
    with talk(peer) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"whole"), frame(TEXT, b"not whole")[:5])
        client.listener.wait("message")
        wire.sock.close()
        closed = client.closed()
        assert isinstance(closed.error, ConnectionLost) and closed.error.code is None
        assert "without a close frame" in str(closed.error)


def test_a_reset(peer):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.sock.close()
        assert isinstance(client.closed().error, ConnectionLost)


def test_our_polite_close(peer):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        client.call(client.transport.close)
        assert wire.read() == (CLOSE, struct.pack("!H", 1000))
        wire.send(frame(TEXT, b"too late"), frame(CLOSE, struct.pack("!H", 1000)))
        closed = client.closed()
        assert closed.error is None and closed.opened
        assert client.listener.messages == []


@pytest.mark.parametrize("flood", [b"", frame(TEXT, b"x" * 100) * 100], ids=["silent", "flooding"])
def test_a_peer_that_does_not_play_along_is_not_waited_for(peer, flood):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        stop = threading.Event()
        sender = threading.Thread(target=_flood, args=(wire, flood, stop))
        sender.start()
        began = time.monotonic()
        client.call(client.transport.close)
        assert client.closed().error is None
        assert time.monotonic() - began < 1.5
        stop.set()
        sender.join()


def _flood(wire, piece, stop):
    while piece and not stop.is_set():
        try:
            wire.sock.sendall(piece)
        except OSError:
            return


def test_the_peers_close_is_found_when_sending_fails(peer):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")

        def job():
            # All in one tick, so that nothing of it can have been read before sending fails.
            wire.send(frame(TEXT, b"last"), frame(CLOSE, struct.pack("!H", 1008) + b"no such key"))
            wire.sock.close()
            with pytest.raises(ConnectionLost):
                for _ in range(1000):
                    client.transport.send(b"x" * 1000)

        client.call(job)
        closed = client.closed()
        assert isinstance(closed.error, ConnectionLost)
        # The kernel may throw away what was not read when the reset comes; TCP allows it.
        assert closed.error.code in (1008, None)


@pytest.mark.parametrize("what", ["message", "pong"])
def test_all_that_came_is_heard_when_sending_fails(peer, what):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        last = (frame(TEXT, b"la", fin=False), frame(PING), frame(CONT, b"st"), frame(TEXT, b"words"),
                frame(CLOSE, struct.pack("!H", 1008) + b"no such key"))

        def job():
            # All in one tick, so that nothing of it can have been read before sending fails.
            client.transport._line.send_by = _fail_to_send
            wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.send(b"".join(last))
            if what == "message":
                for _ in range(2):
                    with pytest.raises(ConnectionLost, match="no luck"):
                        client.transport.send("x")

        client.call(job)
        closed = client.closed()
        assert isinstance(closed.error, ConnectionLost) and closed.error.code == 1008
        assert client.listener.messages == [b"last", b"words"]


def _fail_to_send(data, deadline):
    raise ConnectionResetError(errno.ECONNRESET, "no luck")


def test_a_failing_receiver_ends_it_and_is_logged(peer, caplog):
    with talk(peer) as client:
        wire = peer.meet()

        def fail(message):
            raise OSError("disk full")

        client.listener.on_message = fail
        wire.send(frame(TEXT, b"x"))
        closed = client.closed()
        assert isinstance(closed.error, TransportError) and "disk full" in str(closed.error)
        assert "disk full" in caplog.text


# -- sending -------------------------------------------------------------------------------------


def test_text_and_binary_are_sent_as_such(peer):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        client.call(lambda: client.transport.send("µ"))
        client.call(lambda: client.transport.send(b"\x00\xff"))
        assert wire.read() == (TEXT, "µ".encode())
        assert wire.read() == (BINARY, b"\x00\xff")


def test_a_ping_has_a_payload_of_its_own_and_its_pong_is_a_sign_of_life(peer):
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        assert client.call(client.transport.ping) is True
        assert client.call(client.transport.ping) is True
        one, two = wire.read_until(PING), wire.read_until(PING)
        assert one != two
        wire.send(frame(PONG, one))
        client.listener.wait("alive")


def test_a_large_message_leaves_in_parts(peer):
    payload = random.Random(5).randbytes(20_000_000)
    with talk(peer) as client:
        wire = peer.meet()
        client.listener.wait("opened")
        reader = threading.Thread(target=lambda: got.append(wire.read()))
        got: list = []
        reader.start()
        client.call(lambda: client.transport.send(payload))
        reader.join()
        assert got == [(BINARY, payload)]


def test_sending_to_a_peer_that_takes_nothing_times_out(peer):
    with talk(peer, send_timeout=0.2) as client:
        peer.meet()
        client.listener.wait("opened")
        with pytest.raises(ConnectionLost, match=r"0\.2 s"):
            client.call(lambda: client.transport.send(bytes(30_000_000)))
        assert isinstance(client.closed().error, ConnectionLost)


def test_sending_without_a_connection():
    transport = WebSocketTransport(Target("ws://127.0.0.1:1/"), Listener())
    with pytest.raises(ConnectionLost, match="not connected"):
        transport.send("x")
    with pytest.raises(ConnectionLost, match="not connected"):
        transport.ping()
    transport.close()


def test_sending_after_our_close(peer):
    with talk(peer) as client:
        peer.meet()
        client.listener.wait("opened")

        def job():
            client.transport.close()
            client.transport.close()
            with pytest.raises(ConnectionLost):
                client.transport.send("x")

        client.call(job)
        assert client.closed().error is None


# -- ticks, wake-ups -----------------------------------------------------------------------------


def test_wake_brings_a_tick_and_waking_costs_nothing_when_nobody_listens(peer):
    with talk(peer) as client:
        client.transport.wake()
        peer.meet()
        client.listener.wait("opened")
        for number in range(2, 50):
            client.transport.wake()
            client.listener.wait("tick", number)
        client.transport.abort()
        client.closed()
        client.transport.wake()


def test_ticks_come_when_they_are_due_though_nothing_else_happens(peer):
    with talk(peer) as client:
        client.listener.every = 0.01
        peer.meet()
        client.listener.wait("tick", 20)


def test_a_tick_that_is_always_due_starves_nothing(peer):
    with talk(peer) as client:
        client.listener.every = 0.0
        wire = peer.meet()
        client.listener.wait("tick", 100)
        wire.send(frame(TEXT, b"x") * 10)
        client.listener.wait("message", 10)


def test_a_flood_starves_neither_ticks_nor_wakeups_nor_the_end(peer):
    with talk(peer) as client:
        client.listener.every = 0.005
        wire = peer.meet()
        stop = threading.Event()
        sender = threading.Thread(target=_flood, args=(wire, frame(TEXT, b"x" * 250) * 2000, stop))
        sender.start()
        try:
            client.listener.wait("message", 20_000)
            ticks = client.listener.count("tick")
            client.listener.wait("tick", ticks + 10)
            client.listener.every = 60.0
            assert client.call(lambda: "done") == "done"
            client.transport.abort()
            assert isinstance(client.closed(1.0).error, Aborted)
        finally:
            stop.set()
            wire.sock.close()
            sender.join()


def test_a_failing_tick_and_a_failing_alive_end_it(peer, caplog):
    for event in ("tick", "alive", "opened"):
        with talk(peer) as client:
            setattr(client.listener, event, lambda: 1 // 0)
            wire = peer.meet()
            wire.send(frame(PING))
            assert "ZeroDivisionError" in str(client.closed().error)


# -- configuration, hooks ------------------------------------------------------------------------


@pytest.mark.parametrize("target, hint", [
    (dict(url="http://127.0.0.1/"), "ws://host"),
    (dict(url="ws://"), "ws://host"),
    (dict(url="ws://host:port/"), "ws://host"),
    (dict(url="ws://me:secret@127.0.0.1/"), "headers"),
    (dict(url="ws://h/", options={"subprotocol": ["x"]}), "subprotocols"),
    (dict(url="ws://h/", headers={"X": "a\r\nB: c"}), "line break"),
    (dict(url="wss://h/", sslopt={"ca_cert": "x"}), "ca_certs"),
    (dict(url="ws://h/", proxy="ftp://user:secret@host:1"), "socks5"),
    (dict(url="ws://h/", proxy="http://host"), "host:port"),
])
def test_a_target_that_can_not_work_is_refused_at_once(target, hint):
    with pytest.raises(ConfigurationError, match=hint) as caught:
        WebSocketTransport(Target(**target), Listener())
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_headers_and_options_reach_the_peer_and_secrets_no_repr(peer):
    options = {"subprotocols": ["v1.json", "v2.json"], "origin": "https://example.org", "cookie": "a=b"}
    with talk(peer, headers={"X-Key": "secret"}, options=options) as client:
        request = peer.meet("Sec-WebSocket-Protocol: v2.json").request
        client.listener.wait("opened")
        assert request.startswith("GET /feed HTTP/1.1\r\n")
        for line in ("X-Key: secret", "Origin: https://example.org", "Cookie: a=b",
                     "Sec-WebSocket-Protocol: v1.json,v2.json", f"Host: 127.0.0.1:{peer.port}"):
            assert f"\r\n{line}\r\n" in request
        assert "secret" not in repr(client.transport.target)
    with talk(peer, options={"origin": None}) as client:
        assert "Origin" not in peer.meet().request


def test_the_installed_library_fits():
    assert module.MISFIT == ""


def test_another_shape_of_the_library_is_noticed(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module.websocket.WebSocketApp, "create_dispatcher", lambda self, anything: None)
        assert "create_dispatcher" in module._misfit()
    with monkeypatch.context() as patch:
        patch.setattr(module.websocket.WebSocket, "recv_data_frame", lambda self, control_frame: (1, None))
        assert module._misfit()
    with monkeypatch.context() as patch:
        patch.delattr(module.websocket.WebSocket, "recv_data_frame")
        assert "recv_data_frame" in module._misfit()


def test_the_slow_way_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(module, "MISFIT", "it has changed")
    monkeypatch.setattr(module, "_warned", False)
    with WebSocketPeer() as peer, caplog.at_level(logging.WARNING):
        for _ in range(2):
            with talk(peer) as client:
                peer.meet()
                client.listener.wait("opened")
    assert caplog.text.count("it has changed") == 1


def test_ctrl_c_in_the_network_thread_is_not_swallowed(peer):
    """The library would make an error of it, and go on."""
    def interrupted(*_):
        raise KeyboardInterrupt

    client = talk(peer)
    client.listener.on_message = interrupted
    client.start()
    peer.meet(behind=frame(TEXT, b"x"))
    with pytest.raises(KeyboardInterrupt):
        client.closed()
    client = talk(peer)
    client.transport._line.receive_by = interrupted  # type: ignore[method-assign]
    client.start()
    wire = peer._listener.accept()[0]
    with pytest.raises(KeyboardInterrupt):
        client.closed()
    wire.close()

"""TCP: its framings byte by byte, and what is its own beside the contract of all transports."""

from __future__ import annotations

import random
import ssl
import time

import pytest

from streams.errors import ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from streams.transports.base import Target
from streams.transports.framing import (
    Delimited, FixedSize, FramingError, LengthPrefixed, framing_from,
)
from streams.transports.tcp import TcpTransport

from ..raw_peer import PATIENCE, RawPeer, beside
from .contract import Speech, TcpHarness, TlsHarness
from .websocket_peer import CERT, KEY, Listener

LIMIT = 1000


class TlsByHand:
    """The server's side of a TLS session whose every byte is sent by the test."""

    def __init__(self, sock, newest=ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = newest
        context.load_cert_chain(CERT, KEY)
        self.incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, outgoing, server_side=True)
        self.outgoing = outgoing.read
        while True:
            try:
                self.session.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self.outgoing())
                self.incoming.write(sock.recv(65536))


def test_what_comes_with_the_end_of_the_tls_handshake_is_heard():
    """TLS 1.2: a server that speaks first may do so in one segment with its "finished"."""
    harness = TlsHarness()
    with RawPeer() as peer, Speech(harness, peer.port) as speech:
        sock = peer.accept().sock
        tls = TlsByHand(sock, ssl.TLSVersion.TLSv1_2)
        tls.session.write(harness.encode(b"welcome"))
        sock.sendall(tls.outgoing())
        speech.listener.wait("message")
        assert speech.payloads == [b"welcome"]


NO_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.mark.parametrize("how", ["no record", "an alert"])
def test_what_comes_in_one_read_with_the_end_of_tls_is_heard(how):
    harness = TlsHarness()
    with RawPeer() as peer, Speech(harness, peer.port) as speech:
        sock = peer.accept().sock
        tls = TlsByHand(sock)
        sock.sendall(tls.outgoing())
        speech.listener.wait("opened")
        tls.session.write(harness.encode(b"the last") + harness.encode(b"words"))
        end = NO_RECORD
        if how == "an alert":               # of a server that has got nonsense
            tls.incoming.write(NO_RECORD)
            with pytest.raises(ssl.SSLError):
                tls.session.read()
            end = b""
        sock.sendall(tls.outgoing() + end)
        closed = speech.closed()
        assert speech.payloads == [b"the last", b"words"]
        assert isinstance(closed.error, ConnectionLost) and "bad" in str(closed.error).lower()


def framings():
    """Every framing that there is, with its name."""
    return [
        *(pytest.param(lambda w=width, o=order, i=inclusive: LengthPrefixed(LIMIT, w, o, i),
                       id=f"length-{width}-{order}-{inclusive}")
          for width in (1, 2, 4) for order in ("big", "little") for inclusive in (False, True)),
        pytest.param(lambda: Delimited(LIMIT), id="lines"),
        pytest.param(lambda: Delimited(LIMIT, b"\r\n\r\n"), id="four bytes"),
        pytest.param(lambda: Delimited(LIMIT, b"aab"), id="aab"),
        pytest.param(lambda: FixedSize(LIMIT, 5), id="fixed"),
    ]


def some_messages(framing, count, seed):
    chance = random.Random(seed)
    if isinstance(framing, FixedSize):
        return [chance.randbytes(5) for _ in range(count)]
    alphabet = b"acd\r\n" if isinstance(framing, Delimited) else bytes(range(256))
    messages = []
    while len(messages) < count:
        message = bytes(chance.choices(alphabet, k=chance.choice((0, 1, 3, 100, 200))))
        if not isinstance(framing, Delimited) or framing._delimiter not in message + framing._delimiter[:-1]:
            messages.append(message)
    return messages


@pytest.mark.parametrize("make", framings())
def test_the_same_messages_wherever_the_stream_is_cut(make):
    messages = some_messages(make(), 6, seed=1)
    stream = b"".join(make().wrap(message) for message in messages)
    for at in range(len(stream) + 1):
        framing = make()
        got = framing.cut(stream[:at])
        assert framing.inside is _is_inside(make(), messages, at)
        if at < len(stream):
            got = got + framing.cut(stream[at:])
        assert got == messages, at
        assert not framing.inside


def _is_inside(framing, messages, at):
    ends = {0}
    end = 0
    for message in messages:
        end += len(framing.wrap(message))
        ends.add(end)
    return at not in ends


@pytest.mark.parametrize("make", framings())
def test_the_same_messages_byte_by_byte_and_in_random_pieces(make):
    messages = some_messages(make(), 300, seed=2)
    stream = b"".join(make().wrap(message) for message in messages)
    framing = make()
    assert [m for at in range(len(stream)) for m in framing.cut(stream[at:at + 1])] == messages
    chance = random.Random(3)
    framing, got, at = make(), [], 0
    while at < len(stream):
        size = chance.choice((1, 2, 3, 10, 100, 1000))
        got += framing.cut(stream[at:at + size])
        at += size
    assert got == messages


@pytest.mark.parametrize("make", [
    lambda: LengthPrefixed(20_000_000, 4), lambda: Delimited(20_000_000),
    lambda: FixedSize(20_000_000, 10_000_000),
], ids=["length", "lines", "fixed"])
def test_a_long_message_in_small_blocks_is_not_copied_for_each(make):
    message = b"x" * 10_000_000
    stream = make().wrap(message)
    framing = make()
    began = time.process_time()
    got = [m for at in range(0, len(stream), 1000) for m in framing.cut(stream[at:at + 1000])]
    assert got == [message]
    assert time.process_time() - began < 2.0    # a copy per block would be 50 gigabytes


@pytest.mark.parametrize(("framing", "stream", "says"), [
    (LengthPrefixed(10), b"\0\2ok\0\x0b", "a message of 11 bytes; the limit is 10"),
    (LengthPrefixed(10, 4), b"\0\0\0\2ok\xff\xff\xff\xff", "a message of 4294967295 bytes; the limit is 10"),
    (LengthPrefixed(10, 2, inclusive=True), b"\0\4ok\0\1", "a length of 1, less than its own field"),
    (Delimited(10), b"ok\n12345678901\nrest", "a message of 11 bytes; the limit is 10"),
    (Delimited(10), b"ok\n12345678901", "a message without an end; the limit is 10"),
], ids=["length", "huge", "impossible", "line", "endless"])
def test_what_can_not_be_cut_is_refused_after_what_came_before_it(framing, stream, says):
    with pytest.raises(FramingError, match=says) as caught:
        framing.cut(stream)
    assert caught.value.messages == [b"ok"]


def test_a_delimiter_that_begins_at_the_limit_is_waited_for():
    framing = Delimited(10, b"\r\n")
    assert framing.cut(b"1234567890\r") == []
    assert framing.cut(b"\n") == [b"1234567890"]
    with pytest.raises(FramingError):
        framing.cut(b"1234567890\rx")


@pytest.mark.parametrize(("delimiter", "parts", "messages"), [
    (b"\r\n\r\n", [b"\r\n", b"\r\n"], [b""]),
    (b"END!!", [b"aEN", b"D!!"], [b"a"]),
    (b"END!!", [b"E", b"N", b"D", b"!", b"!bE", b"ND!!c"], [b"", b"b"]),
])
def test_a_delimiter_that_is_cut_behind_less_than_its_own_length_is_seen(delimiter, parts, messages):
    framing = Delimited(LIMIT, delimiter)
    assert [message for part in parts for message in framing.cut(part)] == messages


def test_endless_input_without_a_delimiter_is_bounded():
    framing = Delimited(100_000)
    with pytest.raises(FramingError):
        for _ in range(1000):
            framing.cut(b"x" * 1000)
    assert framing._size < 102_000


@pytest.mark.parametrize(("framing", "message", "says"), [
    (LengthPrefixed(LIMIT, 1), bytes(256), "256 bytes do not fit a length of 1"),
    (LengthPrefixed(LIMIT, 1, inclusive=True), bytes(255), "255 bytes do not fit"),
    (Delimited(LIMIT), b"a\nb", "holds the delimiter"),
    (FixedSize(LIMIT, 5), b"1234", "4 bytes where every one has 5"),
])
def test_what_can_not_be_framed_is_refused(framing, message, says):
    with pytest.raises(ValueError, match=says):
        framing.wrap(message)


@pytest.mark.parametrize(("options", "says"), [
    ({}, "framing must be one of length, delimited, fixed"),
    ({"framing": "lines"}, "not 'lines'"),
    ({"framing": "length", "size": 3}, "'length' has no option 'size'; it has: byteorder, inclusive, width"),
    ({"framing": "length", "width": 3}, "width must be 1, 2 or 4"),
    ({"framing": "length", "byteorder": "middle"}, "'big' or 'little'"),
    ({"framing": "delimited", "delimiter": "\n"}, "delimiter must be bytes"),
    ({"framing": "delimited", "delimiter": b""}, "delimiter must be bytes"),
    ({"framing": "fixed"}, "size must be 1 to 1000"),
    ({"framing": "fixed", "size": 1001}, "size must be 1 to 1000"),
])
def test_mistakes_in_the_options_fail_at_the_call(options, says):
    with pytest.raises(ConfigurationError, match=says):
        framing_from(options, LIMIT)


@pytest.mark.parametrize("target", [
    Target("http://127.0.0.1:5", options={"framing": "delimited"}),
    Target("tcp://127.0.0.1", options={"framing": "delimited"}),
    Target("tcp://:5", options={"framing": "delimited"}),
    Target("tcp://127.0.0.1:99999", options={"framing": "delimited"}),
    Target("tcp://127.0.0.1:5", options={"framing": "delimited"}, proxy="ftp://x:1"),
    Target("tls+tcp://127.0.0.1:5", options={"framing": "delimited"}, sslopt={"cafile": "x"}),
])
def test_impossible_targets_fail_at_the_call(target):
    with pytest.raises(ConfigurationError):
        TcpTransport(target, Listener())


@pytest.mark.parametrize("host", ["a..b", ".a.example"])
def test_a_host_that_can_not_be_one(peer, host):
    """The proxy, which would resolve it, has said yes."""
    target = Target(f"tls+tcp://{host}:5", options={"framing": "delimited"},
                    proxy=f"http://127.0.0.1:{peer.port}")
    run = beside(TcpTransport(target, Listener()).run)
    wire = peer.accept()
    wire.head()
    wire.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    error = run.result(PATIENCE).error
    assert isinstance(error, ConnectFailed) and "can not be a host's name" in str(error)


def test_a_secret_in_an_impossible_url_is_not_repeated():
    with pytest.raises(ConfigurationError) as caught:
        TcpTransport(Target("tcp://me:hunter2@", options={"framing": "delimited"}), Listener())
    assert "hunter2" not in str(caught.value)


# -- over the wire -----------------------------------------------------------------------------------


@pytest.fixture
def peer():
    with RawPeer() as peer:
        yield peer


def test_a_broken_frame_is_told_after_what_came_before_it(peer):
    with Speech(TcpHarness(), peer.port) as speech:
        wire = peer.accept()
        wire.sock.sendall(b"\6\0\0\0ok" + b"\1\0\0\0")
        closed = speech.closed()
        assert isinstance(closed.error, ConnectionLost) and "less than its own field" in str(closed.error)
        assert speech.listener.messages == [b"ok"]
        assert [kind for kind, _ in speech.listener.events if kind != "tick"] == [
            "opened", "message", "malformed"]


@pytest.mark.parametrize(("end", "says"), [
    (b"", "ended the connection"), (b"\x09", "in the middle of a message"),
])
def test_the_end_says_whether_it_cut_a_message(peer, end, says):
    with Speech(TcpHarness(), peer.port) as speech:
        wire = peer.accept()
        wire.sock.sendall(b"\6\0\0\0ok" + end)
        speech.listener.wait("message")
        wire.sock.close()
        assert says in str(speech.closed().error)


def test_what_can_not_be_framed_is_an_error_of_the_sender_and_does_not_end_it(peer):
    with Speech(TcpHarness(), peer.port, options={"framing": "fixed", "size": 4}) as speech:
        wire = peer.accept()
        speech.listener.wait("opened")

        def send():
            with pytest.raises(TransportError, match="3 bytes where every one has 4"):
                speech.transport.send(b"123")
            speech.transport.send(b"1234")

        speech.call(send)
        assert wire.exactly(4) == b"1234"
        assert not speech._run.done()


def test_what_was_sent_before_a_polite_close_arrives_though_the_peer_kept_sending(peer):
    with Speech(TcpHarness(), peer.port) as speech:
        wire = peer.accept()
        speech.listener.wait("opened")

        def leave():
            speech.transport.send(b"goodbye")
            speech.transport.close()

        wire.sock.sendall(b"\6\0\0\0ok" * 10_000)
        speech.call(leave)
        wire.sock.sendall(b"\6\0\0\0ok" * 1000)
        assert TcpHarness().read(wire) == b"goodbye"
        assert wire.ended()
        wire.sock.close()
        assert speech.closed().error is None


def test_a_certificate_that_is_not_trusted(peer):
    with Speech(TlsHarness(), peer.port, sslopt=None) as speech:
        with pytest.raises(OSError):
            TlsHarness().accept(peer)
        closed = speech.closed()
        assert isinstance(closed.error, ConnectFailed) and "certificate" in str(closed.error)


def test_a_certificate_that_is_trusted(peer):
    with Speech(TlsHarness(), peer.port, sslopt={"ca_certs": CERT}) as speech:
        other = TlsHarness().meet(peer)
        other.deliver(b"over TLS")
        speech.listener.wait("message")
        assert speech.payloads == [b"over TLS"]

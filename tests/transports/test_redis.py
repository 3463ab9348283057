"""The Redis transport: against a peer played by hand, and against a real server."""

from __future__ import annotations

import builtins
import random
import socket
import threading
import time

import pytest

from streams import pubsub
from streams.errors import (
    Aborted, ConfigurationError, ConnectFailed, ConnectionLost, MissingDependency, TransportError,
)
from streams.pubsub import Kind, Message, command, pack, unpack
from streams.transports.base import Target
from streams.transports.framing import FramingError
from streams.transports.resp import PushFraming

from ..raw_peer import PATIENCE, RawPeer
from ..redis_server import RedisServer, needs_redis, redis_server
from .websocket_peer import CERT, KEY, Listener, Talk

redis = pytest.importorskip("redis", reason="redis-py is not installed")
RedisTransport = pytest.importorskip("streams.transports.redis").RedisTransport

__all__ = ["redis_server"]


class RedisTalk(Talk):
    def __init__(self, url, **target):
        self.listener = Listener()
        self.transport = RedisTransport(Target(url, **target), self.listener)
        self._run = None

    def messages(self):
        return [unpack(raw) for raw in self.listener.messages]


class Peer(RawPeer):
    """A server played by hand."""

    def __init__(self, backlog=8):
        super().__init__(backlog)
        self.url = f"redis://127.0.0.1:{self.port}"

    def meet(self):
        """A connection, logged in: whatever redis-py says first is answered with OK, up to its ping."""
        wire = self.accept()
        while self.next_command(wire) != ["PING"]:
            wire.sock.sendall(b"+OK\r\n")
        wire.sock.sendall(b"+PONG\r\n")
        return wire

    @staticmethod
    def next_command(wire):
        size = int(wire.until(b"\r\n")[1:])
        words = []
        for _ in range(size):
            length = int(wire.until(b"\r\n")[1:])
            words.append(wire.exactly(length + 2)[:-2].decode())
        return words


@pytest.fixture
def peer():
    with Peer() as peer:
        yield peer


def bulk(*words):
    return b"*%d\r\n" % len(words) + b"".join(
        b":%d\r\n" % w if isinstance(w, int) else b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def framing(limit=1_000_000, alive=lambda: None):
    return PushFraming(limit, lambda *words: bulk(*(w.encode() for w in words)), alive)


WIRE = [
    (bulk(b"subscribe", b"a", 1), Message(Kind.SUBSCRIBE, b"a", b"", b"1")),
    (bulk(b"psubscribe", b"b*", 2), Message(Kind.PSUBSCRIBE, b"", b"b*", b"2")),
    (bulk(b"message", b"a", b"hello"), Message(Kind.MESSAGE, b"a", b"", b"hello")),
    (bulk(b"message", b"a", b""), Message(Kind.MESSAGE, b"a", b"", b"")),
    (bulk(b"message", b"\xc3\xbc", b"\r\n$3\r\n*3\r\n"),
     Message(Kind.MESSAGE, b"\xc3\xbc", b"", b"\r\n$3\r\n*3\r\n")),
    (bulk(b"pmessage", b"b*", b"bc", b"\0\xff" * 300), Message(Kind.PMESSAGE, b"bc", b"b*", b"\0\xff" * 300)),
    (b"-NOPERM no access\r\n", Message(Kind.ERROR, b"", b"", b"NOPERM no access")),
    (bulk(b"unsubscribe", b"a", 1), Message(Kind.UNSUBSCRIBE, b"a", b"", b"1")),
    (bulk(b"punsubscribe", b"b*", 0), Message(Kind.PUNSUBSCRIBE, b"", b"b*", b"0")),
]


# -- cutting messages ------------------------------------------------------------------------------


def test_messages_are_the_same_wherever_the_stream_is_cut():
    stream = b"".join(wire for wire, _ in WIRE)
    expected = [message for _, message in WIRE]
    for at in range(len(stream) + 1):
        cutter = framing()
        got = cutter.cut(stream[:at]) + (cutter.cut(stream[at:]) if at < len(stream) else [])
        assert [unpack(raw) for raw in got] == expected, at
        assert not cutter.inside


def test_random_cuts():
    rng = random.Random(5)
    wires = [rng.choice(WIRE) for _ in range(500)]
    stream = b"".join(wire for wire, _ in wires)
    cutter, got, at = framing(), [], 0
    while at < len(stream):
        size = rng.choice((1, 3, 50, 1000))
        got += cutter.cut(stream[at:at + size])
        at += size
    assert [unpack(raw) for raw in got] == [message for _, message in wires]


def test_a_large_message_in_small_blocks_is_not_copied_for_each():
    payload = bytes(4_000_000)
    stream = bulk(b"message", b"a", payload)
    cutter = framing(limit=5_000_000)
    start = time.process_time()
    got = [raw for at in range(0, len(stream), 1000) for raw in cutter.cut(stream[at:at + 1000])]
    assert unpack(got[0]).payload == payload
    assert time.process_time() - start < 1.0  # a copy per block would be eight gigabytes


@pytest.mark.parametrize("whole", [True, False])
def test_a_message_over_the_limit_is_refused_unread(whole):
    stream = bulk(b"message", b"a", b"ok") + bulk(b"message", b"a", b"x" * 101)
    with pytest.raises(FramingError, match="more than 100 bytes") as caught:
        framing(limit=100).cut(stream if whole else stream[:-60])
    assert [unpack(raw).payload for raw in caught.value.messages] == [b"ok"]


def test_the_limit_is_one_for_all_parts_of_a_message():
    part = b"$1000000\r\n" + b"x" * 1_000_000 + b"\r\n"
    cutter = framing()
    sent = 0
    with pytest.raises(FramingError, match="more than 1000000 bytes"):
        for piece in (b"*16\r\n", *[part[:500_000], part[500_000:]] * 16):
            sent += len(piece)
            cutter.cut(piece)
    assert sent < 2_000_000
    names = bulk(b"pmessage", b"p" * 10_000, b"c" * 10_000, b"x" * 1_000_000)     # but names do not count
    cutter = framing()
    got = cutter.cut(names[:7]) + cutter.cut(names[7:])
    assert [len(unpack(raw).payload) for raw in got] == [1_000_000]


@pytest.mark.parametrize("wire", [
    b"hello\r\n", b"$x\r\n", b"*99\r\n", b"*-1\r\n", b"$-1\r\n", b"*2\r\n*1\r\n:1\r\n:1\r\n",
    bulk(b"message", b"a"), bulk(b"subscribe", b"a"), b"*1\r\n$1\r\nabc\r\n",
    b"*3\r\n$7\r\nmessage\r\n$1\r\naXX$1\r\nb\r\n", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nbXX",
    b"+" + b"x" * 70_000,
], ids=range(12))
def test_what_is_not_the_protocol_is_named(wire):
    cutter = framing()
    with pytest.raises(FramingError):
        cutter.cut(wire)
        cutter.cut(b"*3\r\n")  # at the latest when the next message begins


def test_pongs_are_signs_of_life_and_no_messages():
    lives = []
    cutter = framing(alive=lambda: lives.append(1))
    assert cutter.cut(bulk(b"pong", b"") + b"+PONG\r\n") == []
    assert len(lives) == 2


@pytest.mark.parametrize("text", [
    "", "[]", '{"op":"get","channels":["a"]}', '{"op":"subscribe","channels":[]}', '{"op":"subscribe"}',
    '{"op":"subscribe","channels":"a"}', '{"op":"subscribe","channels":["a"],"more":1}',
])
def test_bad_commands_are_refused(text):
    with pytest.raises(ValueError, match="no pub/sub command"):
        pubsub.parse_command(text)


@pytest.mark.parametrize("raw", [b"", b"\1\0\0\0\1", pack(1, b"channel")[:-1]])
def test_bad_messages_are_refused(raw):
    with pytest.raises(ValueError):
        unpack(raw)


# -- addresses and secrets -------------------------------------------------------------------------


@pytest.mark.parametrize("url", [
    "http://host", "redis://", "redis://host:port", "redis://:secret@host/x", "redis://host?db=1",
    "redis://host:99999", "redis://:secret@host/-1",
])
def test_a_bad_address_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigurationError, match="redis") as caught:
        RedisTransport(Target(url), Listener())
    assert "secret" not in str(caught.value)


def test_credentials_are_nowhere_to_be_seen():
    transport = RedisTransport(Target("rediss://me:s%33cret@host:7000/2"), Listener())
    assert transport.target.url == "rediss://host:7000/2"
    assert "s3cret" not in repr(transport.target) and "s%33cret" not in repr(transport.target)
    assert "s3cret" not in repr(transport._session)


def test_a_missing_client_names_the_extra(monkeypatch):
    from streams.redisclient import session_class
    session_class.cache_clear()
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "redis":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=r"market-streams\[redis\]"):
        RedisTransport(Target("redis://host"), Listener())


# -- the conversation, with a peer played by hand ------------------------------------------------


def test_log_in_database_and_hello(peer):
    with RedisTalk(f"redis://ann:pw@127.0.0.1:{peer.port}/3") as talk:
        wire = peer.accept()
        assert peer.next_command(wire) == ["AUTH", "ann", "pw"]
        wire.sock.sendall(b"+OK\r\n")
        commands = []
        while (words := peer.next_command(wire)) != ["SELECT", "3"]:
            commands.append(words[0])
            wire.sock.sendall(b"-ERR unknown command\r\n")  # old servers do not know them
        assert set(commands) <= {"CLIENT"}
        assert talk.listener.count("opened") == 0
        wire.sock.sendall(b"+OK\r\n")
        assert peer.next_command(wire) == ["PING"]
        wire.sock.sendall(b"+PONG\r\n")
        talk.listener.wait("message")
        assert [kind for kind, _ in talk.listener.events[:2]] == ["opened", "message"]
        assert talk.messages() == [Message(Kind.HELLO, b"", b"", b"")]


@pytest.mark.parametrize("answers, about", [
    ([b"-WRONGPASS invalid username-password pair\r\n"], b"login"),
    ([b"-NOAUTH Authentication required.\r\n"], b"login"),
    ([b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", b"-ERR DB index is out of range\r\n"], b"database"),
])
def test_a_refusal_is_told_and_ends(peer, answers, about):
    with RedisTalk(f"redis://ann:pw@127.0.0.1:{peer.port}/3") as talk:
        wire = peer.accept()
        for answer in answers:
            peer.next_command(wire)
            wire.sock.sendall(answer)
        closed = talk.closed()
        assert closed.opened and isinstance(closed.error, ConnectionLost)
        (denied,) = talk.messages()
        assert (denied.kind, denied.channel) == (Kind.DENIED, about)


@pytest.mark.parametrize("answer", [
    b"-LOADING Redis is loading the dataset in memory\r\n", b"-ERR max number of clients reached\r\n", b"",
])
def test_a_server_that_is_not_ready_is_no_connection(peer, answer):
    with RedisTalk(f"redis://:pw@127.0.0.1:{peer.port}") as talk:
        wire = peer.accept()
        peer.next_command(wire)
        wire.sock.sendall(answer)
        wire.close()
        closed = talk.closed()
        assert not closed.opened and isinstance(closed.error, ConnectFailed)


def test_an_unanswered_log_in_ends_in_time(peer):
    with RedisTalk(peer.url, connect_timeout=0.2) as talk:
        peer.accept()
        closed = talk.closed()
        assert not closed.opened and isinstance(closed.error, ConnectFailed)
        assert "in time" in str(closed.error)


def test_commands_pings_and_batches(peer):
    with RedisTalk(peer.url) as talk:
        wire = peer.meet()
        talk.call(lambda: talk.transport.send(command("subscribe", ["a", "b"])))
        assert peer.next_command(wire) == ["SUBSCRIBE", "a", "b"]
        assert talk.call(talk.transport.ping) is True
        assert peer.next_command(wire) == ["PING"]
        wire.sock.sendall(bulk(b"pong", b""))
        talk.listener.wait("alive")
        wire.sock.sendall(b"".join(bulk(b"message", b"a", b"%d" % n) for n in range(1000)))
        talk.listener.wait("message", 1001)
        assert [m.payload for m in talk.messages()[1:]] == [b"%d" % n for n in range(1000)]
        assert len(talk.listener.batches) < 100
        with pytest.raises(TransportError, match="no pub/sub command"):
            talk.call(lambda: talk.transport.send("nonsense"))


def test_the_end_of_the_stream_and_nonsense_are_told(peer):
    with RedisTalk(peer.url) as talk:
        peer.meet().close()
        assert isinstance(talk.closed().error, ConnectionLost)
    with RedisTalk(peer.url) as talk:
        peer.meet().sock.sendall(b"HTTP/1.1 400 Bad Request\r\n")
        assert isinstance(talk.closed().error, ConnectionLost)
        assert talk.listener.count("malformed") == 1


def test_a_message_over_the_limit_ends_the_conversation(peer):
    with RedisTalk(peer.url, max_message=1000) as talk:
        peer.meet().sock.sendall(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1001\r\n")
        assert isinstance(talk.closed().error, ConnectionLost)
        assert talk.listener.count("malformed") == 1


def test_close_is_polite(peer):
    with RedisTalk(peer.url) as talk:
        wire = peer.meet()
        talk.call(talk.transport.close)
        assert wire.ended()
        wire.close()
        closed = talk.closed()
        assert closed.opened and closed.error is None


# -- abort in every state --------------------------------------------------------------------------


def aborted_in_time(talk):
    start = time.monotonic()
    talk.transport.abort()
    assert isinstance(talk.closed().error, Aborted)
    assert time.monotonic() - start < 1.0


def test_abort_while_resolving(monkeypatch):
    asking, release = threading.Event(), threading.Event()

    def stuck(*_, **__):
        asking.set()
        release.wait(PATIENCE)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    with RedisTalk("redis://stuck.invalid") as talk:
        assert asking.wait(PATIENCE)
        aborted_in_time(talk)
    release.set()


def test_abort_while_connecting():
    with Peer(backlog=0) as peer:
        peer.fill_backlog()
        with RedisTalk(peer.url) as talk:
            assert not talk.listener.events  # nothing tells that it connects; too early is right, too
            aborted_in_time(talk)


def test_abort_while_logging_in(peer):
    with RedisTalk(peer.url) as talk:
        wire = peer.accept()
        peer.next_command(wire)
        aborted_in_time(talk)


@pytest.mark.parametrize("said", [
    b"", b"*3\r\n$7\r\nmess", b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$100\r\n12345"])
def test_abort_while_waiting_and_in_the_middle_of_a_message(peer, said):
    with RedisTalk(peer.url) as talk:
        wire = peer.meet()
        talk.listener.wait("message")
        wire.sock.sendall(said)
        aborted_in_time(talk)
        assert wire.ended()


def test_abort_under_a_flood(peer):
    with RedisTalk(peer.url) as talk:
        wire = peer.meet()
        talk.listener.wait("opened")
        stop = threading.Event()

        def flood():
            block = bulk(b"message", b"a", b"x" * 500) * 100
            try:
                while not stop.is_set():
                    wire.sock.sendall(block)
            except OSError:
                pass

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            talk.listener.wait("message", 1000)
            aborted_in_time(talk)
        finally:
            stop.set()
            wire.close()
            flooding.join(PATIENCE)


def test_abort_before_the_start(peer):
    talk = RedisTalk(peer.url)
    talk.transport.abort()
    with talk:
        assert isinstance(talk.closed(1.0).error, Aborted)


# -- a real server ---------------------------------------------------------------------------------


def subscribed(talk, op, *channels):
    before = talk.listener.count("message")
    talk.call(lambda: talk.transport.send(command(op, channels)))
    talk.listener.wait("message", before + len(channels))


def test_channels_and_patterns_of_a_real_server(redis_server):
    with RedisTalk(redis_server.url) as talk, redis_server.client() as client:
        talk.listener.wait("message")
        subscribed(talk, "subscribe", "plain", "ünï code")
        subscribed(talk, "psubscribe", "md.*")
        client.publish("plain", b"one")
        client.publish("ünï code", b"\0two")
        client.publish("md.trades", b"three")
        client.publish("other", b"nobody listens")
        talk.listener.wait("message", 7)
        subscribed(talk, "unsubscribe", "plain")
        assert client.publish("plain", b"four") == 0
        assert talk.messages() == [
            Message(Kind.HELLO, b"", b"", b""),
            Message(Kind.SUBSCRIBE, b"plain", b"", b"1"),
            Message(Kind.SUBSCRIBE, "ünï code".encode(), b"", b"2"),
            Message(Kind.PSUBSCRIBE, b"", b"md.*", b"3"),
            Message(Kind.MESSAGE, b"plain", b"", b"one"),
            Message(Kind.MESSAGE, "ünï code".encode(), b"", b"\0two"),
            Message(Kind.PMESSAGE, b"md.trades", b"md.*", b"three"),
            Message(Kind.UNSUBSCRIBE, b"plain", b"", b"2"),
        ]
        talk.call(talk.transport.ping)
        talk.listener.wait("alive")


def test_every_message_of_a_real_server_arrives_in_order(redis_server):
    with RedisTalk(redis_server.url) as talk, redis_server.client() as client:
        talk.listener.wait("message")
        subscribed(talk, "subscribe", "a")
        for start in range(0, 20_000, 1000):
            with client.pipeline(transaction=False) as pipe:
                for number in range(start, start + 1000):
                    pipe.publish("a", b"%d %s" % (number, b"x" * (number % 700)))
                pipe.execute()
        talk.listener.wait("message", 20_002)
        assert [int(m.payload.split()[0]) for m in talk.messages()[2:]] == list(range(20_000))


def test_a_large_message_of_a_real_server(redis_server):
    with RedisTalk(redis_server.url) as talk, redis_server.client() as client:
        talk.listener.wait("message")
        subscribed(talk, "subscribe", "a")
        client.publish("a", bytes(range(256)) * 20_000)
        talk.listener.wait("message", 3)
        assert talk.messages()[-1].payload == bytes(range(256)) * 20_000


def test_a_killed_server_is_noticed(redis_server):
    with RedisTalk(redis_server.url) as talk:
        talk.listener.wait("message")
        redis_server.stop()
        assert isinstance(talk.closed().error, ConnectionLost)


def test_abort_while_a_real_server_hangs(redis_server):
    with RedisTalk(redis_server.url) as talk:
        talk.listener.wait("message")
        redis_server.suspend()
        try:
            aborted_in_time(talk)
        finally:
            redis_server.resume()


def test_passwords_of_a_real_server(tmp_path):
    needs_redis()
    server = RedisServer(tmp_path, "--requirepass", "s3cret").start()
    try:
        with RedisTalk(server.url.replace("//", "//:s3cret@")) as talk:
            talk.listener.wait("message")
            assert talk.messages()[0].kind == Kind.HELLO
        with RedisTalk(server.url, headers={"password": "s3cret"}) as talk:
            talk.listener.wait("message")
            assert talk.messages()[0].kind == Kind.HELLO
        for url in (server.url, server.url.replace("//", "//:wr0ng@")):
            with RedisTalk(url) as talk:
                talk.closed()
                assert talk.messages()[0][:2] == (Kind.DENIED, b"login")
    finally:
        server.stop()


def test_tls_to_a_real_server(tmp_path):
    needs_redis()
    server = RedisServer(tmp_path, tls=(CERT, KEY)).start()
    try:
        with RedisTalk(server.url, sslopt={"ca_certs": CERT}) as talk:
            talk.listener.wait("message")
            subscribed(talk, "subscribe", "a")
        with RedisTalk(server.url) as talk:
            assert isinstance(talk.closed().error, ConnectFailed)
    finally:
        server.stop()

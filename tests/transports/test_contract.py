"""The contract of :mod:`streams.transports.base`, one suite over every transport."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
import threading
import time

import pytest

from streams.errors import Aborted, ConnectFailed, ConnectionLost, TransportError
from streams.transports import sockets

from ..raw_peer import PATIENCE, RawPeer
from .contract import HARNESSES, Speech, flooding
from .websocket_peer import descriptors

flooded = contextlib.contextmanager(flooding)


@pytest.fixture(params=HARNESSES, ids=str)
def harness(request):
    if request.param.name == "redis":
        pytest.importorskip("redis", reason="redis-py is not installed")
    return request.param


@pytest.fixture
def peer():
    with RawPeer() as peer:
        yield peer


@contextlib.contextmanager
def conversation(harness, peer, **target):
    """``(speech, conversation)`` with both ends ready."""
    with Speech(harness, peer.port, **target) as speech:
        other = harness.meet(peer)
        speech.listener.wait("opened")
        try:
            yield speech, other
        finally:
            other.wire.sock.close()


def arrived(speech, count, timeout=PATIENCE):
    """Wait until so many payloads are there; they."""
    deadline = time.monotonic() + timeout
    with speech.listener._changed:
        while len(speech.payloads) < count:
            left = deadline - time.monotonic()
            assert left > 0, f"{len(speech.payloads)} of {count} messages came"
            speech.listener._changed.wait(left)
    return speech.payloads


# -- receiving -------------------------------------------------------------------------------------


def test_opened_comes_first_then_a_tick_then_messages_in_order(harness, peer):
    with conversation(harness, peer) as (speech, other):
        speech.listener.wait("tick")
        sent = [b"%d" % n for n in range(500)]
        for at in range(0, 500, 100):
            other.deliver(*sent[at:at + 100])
        assert arrived(speech, 500) == sent
        kinds = [kind for kind, _ in speech.listener.events]
        assert kinds[0] == "opened" and kinds.count("opened") == 1


def test_all_messages_of_one_read_come_in_one_call(harness, peer):
    with conversation(harness, peer) as (speech, other):
        before = len(speech.listener.batches)
        other.deliver(*[b"x" * 20] * 200)
        arrived(speech, 200)
        # The kernel decides what one read is; on loopback it is nearly always all of it.
        assert len(speech.listener.batches) - before <= 5


def test_the_stream_may_be_cut_anywhere(harness, peer):
    payloads = [b"a", b"bb" * 40, b"ccc"]
    with conversation(harness, peer) as (speech, other):
        speech.listener.wait("tick")
        size = len(other.pieces(payloads)[1])
        step = max(1, size // 60)           # every cut of a short stream takes its round trip
        for at in range(1, size, step):
            ready, data = other.pieces(payloads)
            ready()
            other.wire.sock.sendall(data[:at])
            speech.call(lambda: None)       # so that the first part has been read, or soon is
            other.wire.sock.sendall(data[at:])
        rounds = len(range(1, size, step))
        assert arrived(speech, 3 * rounds) == payloads * rounds


def test_random_cuts(harness, peer):
    chance = random.Random(17)
    with conversation(harness, peer) as (speech, other):
        expected = []
        for _ in range(5):
            payloads = [b"%d" % n * chance.choice((0, 1, 30, 400, 20_000)) + b"." for n in range(40)]
            expected += payloads
            ready, data = other.pieces(payloads)
            ready()
            at = 0
            while at < len(data):
                size = chance.choice((1, 2, 7, 100, 5000, 70_000))
                other.wire.sock.sendall(data[at:at + size])
                at += size
        assert arrived(speech, len(expected)) == expected


def test_a_long_message_is_whole(harness, peer):
    payload = random.Random(3).randbytes(1_500_000).hex().encode()
    with conversation(harness, peer) as (speech, other):
        other.deliver(payload, b"next")
        assert arrived(speech, 2) == [payload, b"next"]


def test_a_message_above_the_limit_ends_it_unbuffered(harness, peer):
    with conversation(harness, peer, max_message=10_000) as (speech, other):
        other.deliver(b"x" * 5000)
        arrived(speech, 1)
        with flooded(other, b"y" * 100_000):
            closed = speech.closed()
        assert isinstance(closed.error, TransportError) and closed.opened
        assert speech.payloads == [b"x" * 5000]
        assert speech.listener.count("malformed") == 1


def test_a_slow_receiver_slows_the_peer(harness, peer):
    hold, held = threading.Event(), threading.Event()

    def slowly(message):
        if len(message) > 40_000:
            held.set()
            assert hold.wait(PATIENCE)

    with Speech(harness, peer.port) as speech:
        speech.listener.on_message = slowly
        other = harness.meet(peer)
        speech.listener.wait("opened")
        sent, done = [0], threading.Event()

        def deliver():
            with contextlib.suppress(OSError, AssertionError):
                for _ in range(1500):
                    other.deliver(b"z" * 50_000)
                    sent[0] += 1
            done.set()

        thread = threading.Thread(target=deliver)
        thread.start()
        assert held.wait(PATIENCE)
        assert not done.wait(0.5)
        assert sent[0] < 1000, "50 MB went into a transport whose receiver took one message"
        hold.set()
        arrived(speech, sent[0] // 2)
        other.wire.sock.shutdown(socket.SHUT_RDWR)
        thread.join()
        other.wire.sock.close()


# -- ticks -----------------------------------------------------------------------------------------


def test_ticks_come_when_they_are_due(harness, peer):
    with conversation(harness, peer) as (speech, other):
        speech.listener.every = 0.05
        speech.transport.wake()
        speech.listener.wait("tick", 10)
        assert speech.listener.count("tick") < 200, "as often as asked for, not all the time"


def test_ticks_and_calls_are_not_starved_by_a_flood(harness, peer):
    with conversation(harness, peer) as (speech, other):
        with flooded(other, b"f" * 200):
            arrived(speech, 1)
            speech.listener.every = 0.05
            speech.transport.wake()
            seen = speech.listener.count("tick")
            speech.listener.wait("tick", seen + 5)
            began = time.monotonic()
            assert speech.call(lambda: "done") == "done"
            assert time.monotonic() - began < 1.0


def test_wake_has_tick_called_soon(harness, peer):
    with conversation(harness, peer) as (speech, other):
        speech.listener.wait("tick")
        for _ in range(20):
            began = time.monotonic()
            assert speech.call(lambda: 1) == 1
            assert time.monotonic() - began < 0.5


def test_at_leisure_it_still_acts_when_poked(harness, peer, monkeypatch):
    """As if a moment of leisure were half a minute, and every block came close upon another."""
    monkeypatch.setattr(sockets, "LEISURE", 30.0)
    monkeypatch.setattr(sockets, "QUICK", float("inf"))
    with conversation(harness, peer) as (speech, other):
        speech.call(lambda: speech.transport.take_leisure(True))
        other.deliver(b"one")
        for number in range(5):             # what has gathered is read when somebody wants something
            began = time.monotonic()
            assert speech.call(lambda: number) == number
            assert time.monotonic() - began < 1.0
        speech.call(lambda: speech.transport.take_leisure(False))
        assert arrived(speech, 1) == [b"one"]
        other.deliver(b"two", b"three")
        assert arrived(speech, 3) == [b"one", b"two", b"three"]
        speech.call(lambda: speech.transport.take_leisure(True))
        began = time.monotonic()
        speech.transport.abort()
        assert isinstance(speech.closed(1.0).error, Aborted)
        assert time.monotonic() - began < 1.0


def test_a_wake_before_the_start_and_after_the_end_is_harmless(harness, peer):
    speech = Speech(harness, peer.port)
    speech.transport.wake()
    with speech:
        other = harness.meet(peer)
        speech.listener.wait("opened")
        other.wire.sock.close()
        if harness.name != "longpoll":      # which may try the server once more
            speech.closed()
    speech.transport.wake()
    speech.transport.abort()


# -- abort -----------------------------------------------------------------------------------------

STATES = (
    "resolving", "connecting", "handshake", "idle", "busy", "in a message", "sending", "closing", "failing",
)


@pytest.mark.parametrize("state", STATES)
def test_abort_ends_it_within_a_second(harness, state, monkeypatch):
    if state == "handshake" and not harness.handshakes or state == "sending" and not harness.sends:
        pytest.skip("there is no such state")
    with contextlib.ExitStack() as stack:
        peer = stack.enter_context(RawPeer(backlog=0 if state == "connecting" else 8))
        host = "127.0.0.1"
        if state == "resolving":
            host = "stuck.invalid"
            release, asked = threading.Event(), threading.Event()

            def stuck(*args, **kwargs):
                asked.set()
                release.wait(PATIENCE)
                raise socket.gaierror("never")

            monkeypatch.setattr(socket, "getaddrinfo", stuck)
            stack.callback(release.set)
        if state == "connecting":
            peer.fill_backlog()
        speech = stack.enter_context(Speech(harness, peer.port, host))
        if state == "resolving":
            assert asked.wait(PATIENCE)
        elif state == "connecting":
            assert not speech._run.done()
        elif state == "handshake":
            peer.accept()
        else:
            other = harness.meet(peer)
            stack.callback(other.wire.sock.close)
            speech.listener.wait("opened")
            _enter(state, speech, other, stack)
        began = time.monotonic()
        for _ in range(3):
            speech.transport.abort()
        closed = speech.closed(timeout=5.0)
        assert time.monotonic() - began < 1.0
        assert isinstance(closed.error, Aborted) or state in ("closing", "failing")
        assert closed.opened is (state not in STATES[:3])


def _enter(state, speech, other, stack):
    """Bring an open conversation into a state."""
    if state == "busy":
        stack.enter_context(flooded(other, b"f" * 100))
        arrived(speech, 100)
    elif state == "in a message":
        other.begin(b"m" * 100_000)
        speech.call(lambda: None)
    elif state == "sending":
        inside = threading.Event()

        def send():
            inside.set()
            with contextlib.suppress(TransportError):
                for _ in range(100):
                    speech.transport.send(b"s" * 1_000_000)

        speech.listener._jobs.append((send, _Ignored()))
        speech.transport.wake()
        assert inside.wait(PATIENCE)
    elif state == "closing":
        speech.call(speech.transport.close)
    elif state == "failing":
        other.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.wire.sock.close()


class _Ignored:
    def set_result(self, result):
        pass

    def set_exception(self, error):
        pass


def test_abort_before_the_start(harness, peer):
    speech = Speech(harness, peer.port)
    speech.transport.abort()
    with speech:
        closed = speech.closed(timeout=5.0)
    assert isinstance(closed.error, Aborted) and not closed.opened
    assert speech.listener.events == []


def test_aborts_from_many_threads_at_once(harness, peer):
    with conversation(harness, peer) as (speech, other):
        threads = [threading.Thread(target=speech.transport.abort) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert isinstance(speech.closed(timeout=5.0).error, Aborted)


# -- other ends ------------------------------------------------------------------------------------


def test_our_polite_close(harness, peer):
    with conversation(harness, peer) as (speech, other):
        began = time.monotonic()
        speech.call(speech.transport.close)
        closed = speech.closed(timeout=5.0)     # the peer does not play along
        assert time.monotonic() - began < 1.5
        assert closed.error is None and closed.opened
        assert other.wire.ended()


def test_a_polite_close_under_a_flood(harness, peer):
    with conversation(harness, peer) as (speech, other):
        with flooded(other, b"f" * 100):
            arrived(speech, 100)
            began = time.monotonic()
            speech.call(speech.transport.close)
            assert speech.closed(timeout=5.0).error is None
            assert time.monotonic() - began < 1.5


def test_a_refused_connection(harness):
    with RawPeer() as peer:
        port = peer.port
    with Speech(harness, port) as speech:
        closed = speech.closed()
    assert isinstance(closed.error, ConnectFailed) and not closed.opened
    assert speech.listener.events == []


def test_a_connection_that_is_never_answered(harness):
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        began = time.monotonic()
        with Speech(harness, peer.port, connect_timeout=0.3) as speech:
            closed = speech.closed()
        assert isinstance(closed.error, ConnectFailed) and not closed.opened
        assert 0.2 < time.monotonic() - began < 5.0


def test_a_handshake_that_is_never_answered(harness, peer):
    if not harness.handshakes:
        pytest.skip("there is no handshake")
    with Speech(harness, peer.port, connect_timeout=0.3) as speech:
        wire = peer.accept()
        closed = speech.closed()
        assert isinstance(closed.error, ConnectFailed) and not closed.opened
        wire.sock.close()


@pytest.mark.parametrize("how", ["politely", "reset", "in a message"])
def test_the_peers_end(harness, peer, how):
    if harness.name == "longpoll":
        peer._listener.close()              # a new connection for the next request is refused
    with _peers_end(harness, peer, how) as speech:
        closed = speech.closed()
        assert isinstance(closed.error, (ConnectionLost, ConnectFailed)) and closed.opened
        assert speech.payloads == [b"last"]


@contextlib.contextmanager
def _peers_end(harness, peer, how):
    if harness.name == "longpoll":
        # The listener must be there for the meeting.
        peer._listener = socket.create_server(("127.0.0.1", 0))
        peer._listener.settimeout(PATIENCE)
        peer.port = peer._listener.getsockname()[1]
    with conversation(harness, peer) as (speech, other):
        other.deliver(b"last")
        arrived(speech, 1)
        if harness.name == "longpoll":
            peer._listener.close()
        if how == "in a message":
            other.begin(b"m" * 10_000)
        if how == "reset":
            other.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.wire.sock.close()
        yield speech


def test_a_half_open_peer_is_the_watchdogs_business_and_ticks_go_on(harness, peer):
    with conversation(harness, peer) as (speech, other):
        # A peer that is gone without a word looks like this one, which says and reads nothing any more.
        speech.listener.every = 0.05
        speech.transport.wake()
        seen = speech.listener.count("tick")
        speech.listener.wait("tick", seen + 10)
        assert not speech._run.done()


def test_a_receiver_that_raises_ends_it_loudly(harness, peer, caplog):
    with conversation(harness, peer) as (speech, other):
        def fail(message):
            raise RuntimeError("no such luck")

        speech.listener.on_message = fail
        other.deliver(b"x")
        closed = speech.closed()
        assert isinstance(closed.error, TransportError) and "no such luck" in str(closed.error)
        assert "no such luck" in caplog.text


def test_many_conversations_leave_nothing(harness, peer):
    def once(n):
        with conversation(harness, peer) as (speech, other):
            other.deliver(b"hello")
            arrived(speech, 1)
            if n % 2:
                speech.transport.abort()
            else:
                speech.call(speech.transport.close)
                other.wire.sock.close()
            speech.closed()

    for n in range(3):
        once(n)
    files, threads = descriptors(), threading.active_count()
    kept = len(peer._open)
    for n in range(20 if harness.tls else 100):
        once(n)
        while len(peer._open) > kept:
            peer._open.pop().close()
    assert descriptors() <= files + 1
    assert threading.active_count() <= threads


# -- sending ---------------------------------------------------------------------------------------


def sending(harness):
    if not harness.sends:
        pytest.skip("what it sends is its own business, and tested there")


def test_sent_messages_arrive_in_order(harness, peer):
    sending(harness)
    with conversation(harness, peer) as (speech, other):
        sent = [b"%d" % n * 10 for n in range(50)]

        def send():
            for payload in sent:
                speech.transport.send(harness.outgoing(payload))

        speech.call(send)
        assert [other.read() for _ in sent] == sent


def test_text_is_utf8(harness, peer):
    sending(harness)
    with conversation(harness, peer) as (speech, other):
        speech.call(lambda: speech.transport.send("Grüße"))
        assert other.read() == "Grüße".encode()


def test_a_long_message_goes_out_in_parts(harness, peer):
    sending(harness)
    payload = random.Random(9).randbytes(12_000_000).replace(b"\r", b"-")     # more than the kernel takes
    with conversation(harness, peer, send_timeout=20.0) as (speech, other):
        done = []
        speech.listener._jobs.append((lambda: done.append(speech.transport.send(payload)), _Ignored()))
        speech.transport.wake()
        assert other.read() == payload
        assert speech.call(lambda: len(done)) == 1


def test_a_peer_that_does_not_read_is_given_up(harness, peer):
    sending(harness)
    with conversation(harness, peer, send_timeout=0.3) as (speech, other):
        def send():
            with pytest.raises(ConnectionLost):
                for _ in range(100):
                    speech.transport.send(b"s" * 1_000_000)

        speech.call(send)
        closed = speech.closed()
        assert isinstance(closed.error, ConnectionLost) and closed.opened


def test_what_came_before_sending_failed_is_delivered(harness, peer):
    sending(harness)
    with conversation(harness, peer) as (speech, other):
        def send():
            def fail(data, deadline):
                raise ConnectionResetError(errno.ECONNRESET, "no luck")

            # All in one tick, so that nothing can have been read before sending fails.
            speech.transport._line.send_by = fail
            other.wire.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            other.deliver(b"last", b"words")
            with pytest.raises(ConnectionLost, match="no luck"):
                speech.transport.send(b"x")

        speech.call(send)
        closed = speech.closed()
        assert isinstance(closed.error, ConnectionLost) and "no luck" in str(closed.error)
        assert speech.payloads == [b"last", b"words"]


def test_sending_after_the_end_is_an_error_not_a_surprise(harness, peer):
    sending(harness)
    with conversation(harness, peer) as (speech, other):
        speech.transport.abort()
        speech.closed()
        with pytest.raises(TransportError):
            speech.transport.send(b"late")


def test_ping_says_whether_there_is_one(harness, peer):
    with conversation(harness, peer) as (speech, other):
        assert speech.call(speech.transport.ping) is (harness.name in ("ws", "wss", "redis"))

"""The long-poll transport: the loop, its states, and what HTTP itself says."""

from __future__ import annotations

import gzip
import socket
import threading
import time

import pytest

from streams.errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from streams.polling import ANEW, Ask, frame_of, parse_frame
from streams.transports.base import Target
from streams.transports.longpoll import LongPollTransport

from ..raw_peer import PATIENCE, RawPeer, beside
from .websocket_peer import CERT, KEY, Listener, Talk, descriptors


class Cursor:
    """The venue's half: asks for what comes after the last number that it was told."""

    def __init__(self):
        self.wanted = True
        self.after = "0"
        self.statuses = []

    def poll(self):
        return Ask("/feed", (("after", self.after),)) if self.wanted else None

    def polled(self, status, headers, body):
        self.statuses.append(status)
        self.after = headers.get("X-Next", self.after)
        return [part for part in body.split(b"|") if part], "X-New" in headers


class PollTalk(Talk):
    def __init__(self, url, hold=20.0, interval=0.05, **target):
        self.listener = Listener()
        self.cursor = Cursor()
        options = {"poll": self.cursor.poll, "polled": self.cursor.polled, "hold": hold, "interval": interval}
        self.transport = LongPollTransport(Target(url, options=options, **target), self.listener)
        self._run = None

    def frame(self, frame):
        self.call(lambda: self.transport.send(frame))


@pytest.fixture
def peer():
    with RawPeer() as peer:
        yield peer


def asked(wire):
    return wire.head().split("\r\n")[0]


def test_answers_are_messages_and_the_cursor_goes_on(peer):
    with PollTalk(peer.url, headers={"X-Key": "k"}) as talk:
        wire = peer.accept()
        head = wire.head()
        assert head.startswith("GET /feed?after=0 HTTP/1.1\r\n") and "X-Key: k\r\n" in head
        talk.listener.wait("opened")
        wire.answer(b"one|two", X_Next="2", X_New="yes")
        assert asked(wire) == "GET /feed?after=2 HTTP/1.1"      # the same connection
        wire.answer(b"", "204 No Content")
        assert asked(wire) == "GET /feed?after=2 HTTP/1.1"
        wire.answer(gzip.compress(b"three"), X_Next="3", Content_Encoding="gzip")
        assert asked(wire) == "GET /feed?after=3 HTTP/1.1"
        assert talk.listener.messages == [b"one", b"two", b"three"]
        assert talk.listener.batches == [2, 1] and talk.listener.count("alive") == 1
        assert talk.cursor.statuses == [200, 200]


def test_reached_but_nothing_to_ask(peer):
    talk = PollTalk(peer.url)
    talk.cursor.wanted = False
    with talk:
        wire = peer.accept()
        talk.listener.wait("opened")
        talk.listener.wait("tick")
        talk.cursor.wanted = True
        talk.frame(ANEW)
        assert asked(wire) == "GET /feed?after=0 HTTP/1.1"


def test_another_question_interrupts_the_held_one_and_the_same_does_not(peer):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()
        asked(wire)
        talk.frame(ANEW)
        talk.transport.wake()
        talk.listener.wait("tick", 3)

        def change():
            talk.cursor.after = "7"
            talk.transport.send(ANEW)

        talk.call(change)
        assert wire.ended()
        second = peer.accept()
        assert asked(second) == "GET /feed?after=7 HTTP/1.1"


def test_a_request_of_its_own_goes_first(peer):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()
        asked(wire)
        ask = Ask("/subscribe", (("a", "b"),), (("X-Once", "1"),), "POST", '{"symbols":["ü"]}')
        talk.frame(frame_of(ask))
        wire = peer.accept()
        head = wire.head()
        assert head.startswith("POST /subscribe?a=b HTTP/1.1\r\n") and "X-Once: 1\r\n" in head
        assert wire.exactly(18) == '{"symbols":["ü"]}'.encode()
        wire.answer(b"subscribed")
        assert asked(wire) == "GET /feed?after=0 HTTP/1.1"
        talk.listener.wait("message")
        assert talk.listener.messages == [b"subscribed"]


def test_ticks_are_called_while_a_request_is_held(peer):
    talk = PollTalk(peer.url)
    talk.listener.every = 0.02
    with talk:
        wire = peer.accept()
        asked(wire)
        talk.listener.wait("tick", 10)
        talk.listener.every = 60.0
        woken = time.monotonic()
        talk.call(lambda: None)
        assert time.monotonic() - woken < 1.0
        wire.answer(b"still there", X_Next="1")
        talk.listener.wait("message")


@pytest.mark.parametrize("moves", [False, True])
def test_a_server_that_says_nothing_new_at_once_is_not_hammered(peer, moves):
    """Whether its cursor moves or not."""
    with PollTalk(peer.url, interval=0.2) as talk:
        wire = peer.accept()
        start = time.monotonic()
        for number in range(4):
            asked(wire)
            wire.answer(b"same" if number % 2 else b"", **{"X_Next": str(number)} if moves else {})
        asked(wire)
        assert time.monotonic() - start > 0.75
        wire.answer(b"new", X_Next="7", X_New="yes")
        start = time.monotonic()
        asked(wire)
        assert time.monotonic() - start < 0.15
        assert talk.listener.count("alive") == 2


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_later_is_waited_for(peer, status):
    talk = PollTalk(peer.url)
    talk.listener.every = 0.05
    with talk:
        wire = peer.accept()
        asked(wire)
        wire.answer(b"", status, Retry_After="1")
        start = time.monotonic()
        talk.listener.wait("alive")
        ticks = talk.listener.count("tick")
        asked(wire)
        assert 0.9 < time.monotonic() - start < 5.0
        assert talk.listener.count("tick") > ticks + 3       # work goes on meanwhile


def test_later_at_once_is_not_taken_at_its_word(peer):
    with PollTalk(peer.url, interval=0.2):
        wire = peer.accept()
        start = time.monotonic()
        for _ in range(4):
            asked(wire)
            wire.answer(b"", "503 Service Unavailable", Retry_After="0")
        asked(wire)
        assert time.monotonic() - start > 0.75


@pytest.mark.parametrize("status, headers, after", [
    ("401 Unauthorized", {}, None), ("404 Not Found", {}, None), ("500 Internal Server Error", {}, None),
    ("302 Found", {"Location": "http://elsewhere.invalid/"}, None), ("503 Service Unavailable", {}, None),
    ("429 Too Many Requests", {"Retry_After": "3600"}, 3600.0),
])
def test_a_status_that_is_no_answer_ends_it(peer, status, headers, after):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()
        asked(wire)
        wire.answer(b"not for you", status, Content_Type="text/plain", **headers)
        error = talk.closed().error
        assert isinstance(error, ConnectFailed)
        assert (error.status, error.retry_after) == (int(status[:3]), after)
        assert "not for you" in str(error)


def test_a_server_that_goes_away(peer):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()
        asked(wire)
        wire.close()
        closed = talk.closed()
        assert closed.opened and isinstance(closed.error, ConnectionLost)


def test_nobody_is_there():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with PollTalk(f"http://127.0.0.1:{port}") as talk:
        closed = talk.closed()
        assert not closed.opened and isinstance(closed.error, ConnectFailed)
        assert talk.listener.events == []


def test_half_open_peers_are_noticed(peer, monkeypatch):
    monkeypatch.setattr("streams.transports.longpoll._GRACE", 0.2)
    with PollTalk(peer.url, hold=0.1) as talk:
        asked(peer.accept())
        assert isinstance(talk.closed().error, ConnectionLost)


def test_a_body_over_the_limit_is_malformed(peer):
    with PollTalk(peer.url, max_message=1000) as talk:
        wire = peer.accept()
        asked(wire)
        wire.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        assert isinstance(talk.closed().error, ConnectionLost)
        assert talk.listener.count("malformed") == 1


def test_close_is_polite(peer):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()
        asked(wire)
        talk.call(talk.transport.close)
        closed = talk.closed(1.0)
        assert closed.opened and closed.error is None
        with pytest.raises(ConnectionLost):
            talk.transport.send(ANEW)


def test_what_the_receiver_or_the_venue_raises_is_not_swallowed(peer, caplog):
    def fails(message):
        raise KeyError("mistake")

    with PollTalk(peer.url) as talk:
        talk.listener.on_message = fails
        wire = peer.accept()
        asked(wire)
        wire.answer(b"x")
        assert "mistake" in str(talk.closed().error)
    assert "the receiver failed" in caplog.text


def test_sending_nonsense_fails(peer):
    with PollTalk(peer.url) as talk:
        talk.listener.wait("opened")
        with pytest.raises(TransportError, match="neither"):
            talk.frame("hello")
    assert parse_frame(ANEW) is None and parse_frame(frame_of(Ask("/x"))) == Ask("/x")


@pytest.mark.parametrize("options, url", [
    ({}, "http://host"), ({"poll": None, "polled": None, "more": 1}, "http://host"),
    ({"poll": None, "polled": None}, "ftp://host"),
])
def test_bad_targets_are_refused(options, url):
    with pytest.raises(ConfigurationError):
        LongPollTransport(Target(url, options=options), Listener())


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
    with PollTalk("http://stuck.invalid") as talk:
        assert asking.wait(PATIENCE)
        aborted_in_time(talk)
    release.set()


def test_abort_while_connecting_and_before():
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        with PollTalk(peer.url) as talk:
            assert not talk.listener.events
            aborted_in_time(talk)
        talk = PollTalk(peer.url)
        talk.transport.abort()
        with talk:
            assert isinstance(talk.closed(1.0).error, Aborted)


def test_abort_in_the_tls_handshake(peer):
    with PollTalk(peer.url.replace("http", "https")) as talk:
        assert peer.accept().exactly(1) == b"\x16"
        aborted_in_time(talk)


@pytest.mark.parametrize("said", [
    b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n123",
    b"HTTP/1.1 503 Later\r\nRetry-After: 9\r\nContent-Length: 0\r\n\r\n",
], ids=["held", "head", "body", "waiting"])
def test_abort_while_held_reading_and_waiting(peer, said):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()
        asked(wire)
        wire.sock.sendall(said)
        if b"503" in said:
            talk.listener.wait("alive")
        aborted_in_time(talk)
        assert wire.ended()


def test_abort_with_nothing_to_ask(peer):
    talk = PollTalk(peer.url)
    talk.cursor.wanted = False
    with talk:
        talk.listener.wait("tick")
        aborted_in_time(talk)


def test_abort_under_a_flood(peer):
    with PollTalk(peer.url) as talk:
        wire = peer.accept()

        def flood():
            number = 0
            try:
                while True:
                    wire.head()
                    number += 1
                    wire.answer(b"x" * 1000, X_Next=str(number), X_New="yes")
            except (OSError, AssertionError):
                return number

        flooding = beside(flood)
        talk.listener.wait("message", 100)
        aborted_in_time(talk)
        assert flooding.result(PATIENCE) >= 100


def test_tls_and_nothing_left_open(peer):
    import ssl
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERT, KEY)

    def once():
        with PollTalk(f"https://localhost:{peer.port}", sslopt={"ca_certs": CERT}) as talk:
            wire = peer.accept()
            wire.sock = context.wrap_socket(wire.sock, server_side=True)
            asked(wire)
            wire.answer(b"hello", X_Next="1")
            asked(wire)
            assert talk.listener.messages == [b"hello"]
        wire.close()

    once()
    before = descriptors()
    for _ in range(10):
        once()
    assert descriptors() <= before

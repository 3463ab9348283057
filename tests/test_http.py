"""The session that can be abandoned: in every state, at once, and telling no secrets."""

from __future__ import annotations

import concurrent.futures
import email.utils
import gzip
import os
import select
import socket
import ssl
import threading
import time
import types
from pathlib import Path

import pytest

from streams.errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost
from streams.http import AbortableSession, Answer, AnswerTooLong

from .raw_peer import PATIENCE, RawPeer, beside


@pytest.fixture
def peer():
    with RawPeer() as peer:
        yield peer


@pytest.fixture
def tls_pair():
    """Files: a certificate for localhost, and its key."""
    data = Path(__file__).resolve().parent / "data"
    return str(data / "loopback.crt"), str(data / "loopback.key")


@pytest.fixture
def session():
    with AbortableSession(timeout=(5.0, 30.0)) as session:
        yield session


# -- whole answers ---------------------------------------------------------------------------------


def test_an_answer_is_whole_and_the_connection_is_kept(peer, session):
    for number in (b"one", b"two"):
        asked = beside(session.fetch, "GET", peer.url + "/path", params={"a": "b c"}, headers={"X-Key": "k"})
        if number == b"one":
            wire = peer.accept()
        head = wire.head()
        assert head.startswith("GET /path?a=b+c HTTP/1.1\r\n") and "X-Key: k\r\n" in head
        wire.answer(number, ETag='"7"')
        answer = asked.result(PATIENCE)
        assert (answer.status, answer.body, answer.headers["etag"]) == (200, number, '"7"')


def test_a_body_is_posted(peer, session):
    asked = beside(session.fetch, "POST", peer.url, data=b"x" * 100_000)
    wire = peer.accept()
    assert "Content-Length: 100000" in wire.head()
    assert wire.exactly(100_000) == b"x" * 100_000
    wire.answer(status="201 Created")
    assert asked.result(PATIENCE).status == 201


def test_gzip_is_unpacked_and_chunks_are_joined(peer, session):
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    assert "gzip" in wire.head()
    packed = gzip.compress(b"hello " * 1000)
    wire.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (packed[:7], packed[7:]):
        wire.sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
    wire.sock.sendall(b"0\r\n\r\n")
    assert asked.result(PATIENCE).body == b"hello " * 1000


def test_a_body_that_ends_with_the_connection(peer, session):
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nuntil the ")
    wire.sock.sendall(b"end")
    wire.close()
    assert asked.result(PATIENCE).body == b"until the end"


def test_every_status_is_an_answer_and_redirects_are_not_followed(peer, session):
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.answer(b"", "302 Found", Location="http://elsewhere.invalid/")
    assert asked.result(PATIENCE).status == 302
    asked = beside(session.fetch, "GET", peer.url)
    wire.head()
    wire.answer(b"slow down", "429 Too Many Requests", Retry_After="7")
    answer = asked.result(PATIENCE)
    assert (answer.status, answer.retry_after, answer.body) == (429, 7.0, b"slow down")


def test_a_server_can_be_reached_ahead_of_the_first_request(peer, session):
    session.reach(peer.url)
    wire = peer.accept()
    asked = beside(session.fetch, "GET", peer.url + "/path")
    assert wire.head().startswith("GET /path ")
    wire.answer(b"x")
    assert asked.result(PATIENCE).body == b"x"
    for url in ("ftp://host", "nothing"):
        with pytest.raises(ConfigurationError, match="http://"):
            session.reach(url)
    session.abort()
    with pytest.raises(Aborted):
        session.reach(peer.url)


def test_a_kept_connection_that_the_server_closed_is_replaced(peer, session):
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.answer(b"1")
    assert asked.result(PATIENCE).body == b"1"
    wire.close()
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.answer(b"2")
    assert asked.result(PATIENCE).body == b"2"


def test_what_comes_behind_an_answer_is_not_the_next_one(peer, session):
    """What http.client reads from is filled by 8192 bytes: the first answer has just as many."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
    body = b"x" * (8192 - len(head % 8000))
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.sock.sendall(head % len(body) + body + head % 5 + b"stale")
    assert asked.result(PATIENCE).body == body
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.answer(b"fresh")
    assert asked.result(PATIENCE).body == b"fresh"


@pytest.mark.parametrize("value, seconds", [
    ("120", 120.0), ("0", 0.0), ("", None), ("soon", None), ("-5", None), ("9" * 9, 3600.0),
    ("9" * 400, None), ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0)])
def test_retry_after_in_seconds(value, seconds):
    assert Answer(429, {"Retry-After": value}, b"").retry_after == seconds


def test_retry_after_as_a_date_is_read_by_the_servers_clock():
    slow = time.time() - 3600
    headers = {"Date": email.utils.formatdate(slow, usegmt=True),
               "Retry-After": email.utils.formatdate(slow + 90, usegmt=True)}
    assert Answer(503, headers, b"").retry_after == 90.0
    assert Answer(503, {"Retry-After": email.utils.formatdate(1, usegmt=True)}, b"").retry_after == 0.0


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["announced", "chunked", "packed"])
def test_a_body_over_the_limit_is_not_read_on(peer, session, kind):
    asked = beside(session.fetch, "GET", peer.url, max_body=1000)
    wire = peer.accept()
    wire.head()
    if kind == "announced":
        wire.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
    elif kind == "chunked":
        wire.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1003)
    else:
        bomb = gzip.compress(b"\0" * 1_000_000)
        wire.answer(bomb, Content_Encoding="gzip")
    with pytest.raises(AnswerTooLong, match="1000 bytes"):
        asked.result(PATIENCE)
    assert wire.ended()


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX-Head: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_the_deadline_holds_however_slowly_bytes_drip(peer, session, start):
    asked = beside(session.fetch, "GET", peer.url, timeout=(5.0, 5.0), deadline=0.5)
    wire = peer.accept()
    wire.head()
    wire.sock.sendall(start)
    stop = threading.Event()
    try:
        while not asked.done() and not stop.wait(0.02):
            wire.sock.sendall(b"x")
    except OSError:
        pass  # the client has gone
    with pytest.raises(ConnectionLost, match="in time"):
        asked.result(PATIENCE)


def test_the_deadline_holds_on_the_way_to_the_answer(session):
    """Connecting, TLS, sending: whatever a time-out allows each of them."""
    def late(url, **options):
        start = time.monotonic()
        with pytest.raises((ConnectFailed, ConnectionLost)):
            session.fetch("POST", url, deadline=0.3, **options)
        assert 0.29 < time.monotonic() - start < 2.0

    with RawPeer() as peer:
        late(peer.url.replace("http", "https"))
        late(peer.url, data=b"x" * 50_000_000)
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        late(peer.url)


def test_the_deadline_holds_for_all_steps_to_a_connection_together(peer, monkeypatch):
    """A name that takes long, and then a proxy that says nothing."""
    real = socket.getaddrinfo

    def slow(host, *args, **options):
        threading.Event().wait(1.5)     # what is tested is a name server that is slow
        return real("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with AbortableSession(timeout=(5.0, 5.0), proxy=f"http://slow.invalid:{peer.port}") as session:
        start = time.monotonic()
        with pytest.raises(ConnectFailed, match="gave no answer"):
            session.fetch("GET", "http://far.invalid/", deadline=2.0)
        assert time.monotonic() - start < 3.2


def test_an_answer_that_is_here_is_taken_though_it_is_late(peer, session, monkeypatch):
    """As after this process was stopped for a while."""
    held_up = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + held_up)
    monkeypatch.setattr("streams.http.time", clock)

    def idle():
        nonlocal held_up
        if not held_up:
            wire = peer.accept()
            wire.head()
            wire.answer(b"x" * 30_000)
            (line,) = session._lines
            assert select.select([line._sock], [], [], PATIENCE)[0]
            held_up = 1000.0
        return 1000.0

    asked = beside(session.fetch, "GET", peer.url, timeout=(5.0, 60.0), deadline=100.0, idle=idle)
    assert asked.result(PATIENCE).body == b"x" * 30_000


def test_the_deadline_holds_though_there_is_always_more(peer, session):
    asked = beside(session.fetch, "GET", peer.url, deadline=0.5, max_body=10 ** 10)
    wire = peer.accept()
    start = time.monotonic()
    wire.head()
    try:
        wire.sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not asked.done():
            wire.sock.sendall(b"1\r\nx\r\n" * 1000)
    except OSError:
        pass  # the client has gone
    with pytest.raises(ConnectionLost, match="in time"):
        asked.result(PATIENCE)
    assert time.monotonic() - start < 5.0


def test_silence_ends_with_the_read_time_out(peer, session):
    asked = beside(session.fetch, "GET", peer.url, timeout=(5.0, 0.2), deadline=60.0)
    wire = peer.accept()
    wire.head()
    with pytest.raises(ConnectionLost, match="in time"):
        asked.result(PATIENCE)
    assert wire.ended()


def test_a_peer_that_takes_no_data_is_given_up(peer, session):
    asked = beside(session.fetch, "POST", peer.url, data=b"x" * 50_000_000, timeout=(0.3, 0.3), deadline=1.0)
    peer.accept()
    with pytest.raises(ConnectionLost):
        asked.result(PATIENCE)


# -- abort in every state --------------------------------------------------------------------------


def aborted_in_time(session, asked):
    start = time.monotonic()
    session.abort()
    with pytest.raises(Aborted):
        asked.result(PATIENCE)
    assert time.monotonic() - start < 1.0


def test_abort_while_resolving(session, monkeypatch):
    asking, release = threading.Event(), threading.Event()

    def stuck(*_, **__):
        asking.set()
        release.wait(PATIENCE)
        raise socket.gaierror("too late")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    asked = beside(session.fetch, "GET", "http://stuck.invalid/")
    assert asking.wait(PATIENCE)
    aborted_in_time(session, asked)
    release.set()


def test_abort_while_connecting(session):
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        asked = beside(session.fetch, "GET", peer.url)
        with pytest.raises(concurrent.futures.TimeoutError):
            asked.result(0.2)  # nobody answers, so it is connecting still
        aborted_in_time(session, asked)


def test_abort_in_the_tls_handshake(peer, session):
    asked = beside(session.fetch, "GET", f"https://127.0.0.1:{peer.port}/")
    wire = peer.accept()
    assert wire.exactly(1) == b"\x16"  # the client's hello
    aborted_in_time(session, asked)


@pytest.mark.parametrize("said", [
    b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n123", b"HTTP/1.0 200 OK\r\n\r\nall until",
], ids=["held", "head", "before-body", "body", "chunk", "to-the-end"])
def test_abort_while_awaiting_or_reading(peer, session, said):
    asked = beside(session.fetch, "GET", peer.url)
    wire = peer.accept()
    wire.head()
    wire.sock.sendall(said)
    aborted_in_time(session, asked)
    assert wire.ended()


def test_abort_while_sending(peer, session):
    asked = beside(session.fetch, "POST", peer.url, data=b"x" * 50_000_000)
    wire = peer.accept()
    wire.head()
    aborted_in_time(session, asked)


def test_abort_before_and_after(peer, session):
    session.abort()
    session.abort()
    with pytest.raises(Aborted):
        session.fetch("GET", peer.url)
    with pytest.raises(Aborted):
        session.get(peer.url)


def test_abort_ends_every_request_of_the_session(peer, session):
    asked = [beside(session.fetch, "GET", peer.url) for _ in range(5)]
    for _ in asked:
        peer.accept().head()
    aborted_in_time(session, asked[0])
    for each in asked[1:]:
        with pytest.raises(Aborted):
            each.result(1.0)


# -- work while waiting ----------------------------------------------------------------------------


def test_idle_is_called_at_first_when_due_and_when_woken(peer, session):
    calls: list[float] = []
    third, fourth = threading.Event(), threading.Event()

    def idle():
        calls.append(time.monotonic())
        if len(calls) == 3:
            third.set()
        if len(calls) == 4:
            fourth.set()
        return 0.05 if len(calls) < 3 else 1000.0

    asked = beside(session.fetch, "GET", peer.url, idle=idle)
    wire = peer.accept()
    wire.head()
    assert third.wait(PATIENCE) and calls[2] - calls[0] >= 0.09
    woken = time.monotonic()
    session.wake()
    assert fourth.wait(PATIENCE) and calls[3] - woken < 1.0
    wire.answer(b"done")
    assert asked.result(PATIENCE).body == b"done"


def test_what_idle_raises_ends_the_request(peer, session):
    class Enough(Exception):
        pass

    def idle():
        raise Enough

    asked = beside(session.fetch, "GET", peer.url, idle=idle)
    wire = peer.accept()
    with pytest.raises(Enough):
        asked.result(PATIENCE)
    assert wire.ended()
    asked = beside(session.fetch, "GET", peer.url)  # and the session goes on
    wire = peer.accept()
    wire.head()
    wire.answer(b"next")
    assert asked.result(PATIENCE).body == b"next"


# -- errors, secrets, surroundings -----------------------------------------------------------------


def test_nobody_listens_or_no_such_name(session, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}"):
        session.fetch("GET", f"http://127.0.0.1:{port}/")

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectFailed, match="no.such.invalid"):
        session.fetch("GET", "http://no.such.invalid/")


@pytest.mark.parametrize("said", [
    b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123", b"no http at all\r\n\r\n"])
def test_a_broken_answer_names_no_secret(peer, session, said):
    asked = beside(session.fetch, "GET", peer.url + "/secret-path", params={"apikey": "hush"},
                   headers={"Authorization": "hush"})
    wire = peer.accept()
    wire.head()
    wire.sock.sendall(said)
    wire.close()
    with pytest.raises(ConnectionLost) as caught:
        asked.result(PATIENCE)
    error = caught.value
    assert "hush" not in str(error) and "secret" not in str(error)
    assert error.__suppress_context__


def test_the_environment_is_left_alone(peer, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with AbortableSession() as session:
        asked = beside(session.fetch, "GET", peer.url)
        wire = peer.accept()
        wire.head()
        wire.answer(b"direct")
        assert asked.result(PATIENCE).body == b"direct"


def test_through_a_proxy(peer):
    with AbortableSession(proxy=f"http://user:pass@127.0.0.1:{peer.port}") as session:
        asked = beside(session.fetch, "GET", "http://far.invalid/x")
        wire = peer.accept()
        assert wire.head().startswith("CONNECT far.invalid:80 ")
        wire.sock.sendall(b"HTTP/1.1 200 go on\r\n\r\n")
        assert wire.head().startswith("GET /x HTTP/1.1\r\n")
        wire.answer(b"from afar")
        assert asked.result(PATIENCE).body == b"from afar"


@pytest.mark.parametrize("call, match", [
    (lambda s: s.fetch("GET", "ftp://host/"), "http://"),
    (lambda s: s.fetch("GET", "host/path"), "http://"),
    (lambda s: s.fetch("GET", "http://127.0.0.1:9/", headers={"X-A": "\u20ac"}), "'X-A' has a letter"),
    (lambda s: s.fetch("GET", "http://127.0.0.1:9/", headers={"X-\xe9": "a"}), "has a letter outside"),
    (lambda s: s.get("http://127.0.0.1:9/", proxies={"http": "http://127.0.0.1:9"}), "proxy="),
    (lambda s: s.get("http://127.0.0.1:9/", verify=False), "sslopt="),
])
def test_mistakes_are_named(session, call, match):
    with pytest.raises(ConfigurationError, match=match):
        call(session)


def test_bad_options_fail_at_once():
    with pytest.raises(ConfigurationError, match="proxy must be"):
        AbortableSession(proxy="ftp://x:1")
    with pytest.raises(ConfigurationError, match="unknown sslopt"):
        AbortableSession(sslopt={"verify": False})


def tls_answers(peer, pair, times=1):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    wire = peer.accept()
    wire.sock = context.wrap_socket(wire.sock, server_side=True)
    for number in range(times):
        wire.head()
        wire.answer(str(number).encode() * 100_000)
    wire.close()


def test_tls_answers_and_the_connection_is_kept(peer, tls_pair):
    served = beside(tls_answers, peer, tls_pair, times=2)
    with AbortableSession(sslopt={"ca_certs": tls_pair[0]}) as session:
        for number in range(2):
            body = session.fetch("GET", f"https://localhost:{peer.port}/").body
            assert body == str(number).encode() * 100_000
        served.result(PATIENCE)


def test_a_strangers_certificate_is_refused(peer, tls_pair):
    served = beside(tls_answers, peer, tls_pair)
    with AbortableSession() as session, pytest.raises(ConnectFailed, match="(?i)certificate"):
        session.fetch("GET", f"https://localhost:{peer.port}/")
    with pytest.raises(OSError):
        served.result(PATIENCE)


def test_a_certificate_is_accepted_when_the_user_says_so(peer, tls_pair):
    served = beside(tls_answers, peer, tls_pair)
    with AbortableSession(sslopt={"cert_reqs": ssl.CERT_NONE}) as session:
        assert session.fetch("GET", f"https://127.0.0.1:{peer.port}/").status == 200
    served.result(PATIENCE)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_nothing_is_left_open(peer):
    def once(end):
        with AbortableSession() as session:
            asked = beside(session.fetch, "GET", peer.url)
            wire = peer.accept()
            wire.head()
            if end == "abort":
                session.abort()
            elif end == "answer":
                wire.answer(b"x")
            wire.close()
            asked.exception(PATIENCE)
            asked.thread.join(PATIENCE)

    once("answer")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        for end in ("answer", "abort", "close"):
            once(end)
    assert len(os.listdir("/proc/self/fd")) <= before

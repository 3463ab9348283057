"""Every phase of connecting: its faults, its time-out, and abort() in it. Proxies, TLS, leaks."""

from __future__ import annotations

import email.utils
import errno
import gc
import socket
import ssl
import struct
import sys
import threading
import time

import pytest

from streams.errors import Aborted, ConfigurationError, ConnectFailed, MissingDependency
from streams.transports import names, sockets
from streams.transports import websocket as module
from streams.transports.base import Target
from streams.transports.proxies import Proxy, parse_proxy
from streams.transports.sockets import Line
from streams.transports.waiting import SelectWaiter
from streams.transports.websocket import WebSocketTransport

from ..raw_peer import PATIENCE, RawPeer, beside
from .websocket_peer import (
    CERT, CLOSE, KEY, LOCKED, PASSWORD, PING, TEXT, Listener, Talk, WebSocketPeer, WebSocketWire, accept_key,
    descriptors, frame,
)

AT_ONCE = 1.0  # seconds: what abort() promises


@pytest.fixture
def peer():
    with WebSocketPeer() as peer:
        yield peer


@pytest.fixture
def silent_names(monkeypatch):
    """A resolver that answers nothing until the test is over; counts who asks."""
    release = threading.Event()
    asked: list[str] = []
    entered = threading.Semaphore(0)

    def never(host, *args, **kwargs):
        asked.append(host)
        entered.release()
        release.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "released by the test")

    monkeypatch.setattr(socket, "getaddrinfo", never)
    asked_and_entered = (asked, entered)
    yield asked_and_entered
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith("streams-resolver"):
            thread.join(PATIENCE)


def failed(client: Talk) -> ConnectFailed:
    closed = client.closed()
    assert isinstance(closed.error, ConnectFailed), closed
    assert not closed.opened and client.listener.events == []
    return closed.error


def say_and_end(wire, data):
    """To a client that may hang up in the middle of it."""
    try:
        wire.sock.sendall(data)
        wire.sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass


# -- names ---------------------------------------------------------------------------------------


def test_a_pending_name_times_out(silent_names):
    with Talk("ws://venue.test/", connect_timeout=0.1) as client:
        assert "venue.test was not resolved within 0.1 s" in str(failed(client))


def test_a_name_that_does_not_exist(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with Talk("ws://venue.test/") as client:
        assert "venue.test could not be resolved" in str(failed(client))


def test_a_name_that_is_no_name():
    with Talk("ws://" + "a" * 70 + ".test/") as client:
        failed(client)


def test_lookups_of_one_name_are_shared_while_young_and_bounded_when_old(silent_names, monkeypatch):
    asked, entered = silent_names
    clock = [100.0]
    monkeypatch.setattr(names.time, "monotonic", lambda: clock[0])
    pokes = []
    first = names.join("a.test", 1, lambda: pokes.append(1))
    assert names.join("a.test", 1, lambda: pokes.append(2)) is first
    assert names.join("b.test", 1, lambda: None) is not first
    lookups = set()
    for _ in range(10):
        clock[0] += 5.0
        lookups.add(names.join("a.test", 1, lambda: pokes.append(3)))
    assert len(lookups) == 3  # beside the first: four threads at most for one name
    for _ in range(5):
        assert entered.acquire(timeout=PATIENCE)
    assert asked.count("a.test") == 4


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), KeyboardInterrupt()])
def test_lookups_that_got_no_thread_stand_in_nobodys_way(error, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: ["an address"])
    clock = [100.0]
    monkeypatch.setattr(names.time, "monotonic", lambda: clock[0])

    def refused(thread):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        for _ in range(5):
            clock[0] += 10.0
            poked = threading.Event()
            if isinstance(error, RuntimeError):
                lookup = names.join("a.test", 1, poked.set)
                assert lookup.done and "can't start" in str(lookup.error)
            else:
                with pytest.raises(KeyboardInterrupt):
                    names.join("a.test", 1, poked.set)
            assert poked.is_set()
    poked = threading.Event()
    lookup = names.join("a.test", 1, poked.set)
    assert poked.wait(PATIENCE)
    assert lookup.addresses == ["an address"]


def test_a_lookup_that_ends_after_its_asker_pokes_nobody(silent_names):
    line = Line()
    done = beside(line.open, "late.test", 80, 0.05)
    assert isinstance(done.exception(PATIENCE), ConnectFailed)
    line.close()
    line.wake()
    line.abort()


# -- TCP -----------------------------------------------------------------------------------------


def test_nobody_listens():
    with RawPeer() as peer:
        port = peer.port
    with Talk(f"ws://127.0.0.1:{port}/") as client:
        assert f"127.0.0.1:{port}" in str(failed(client))


def test_an_unanswered_connect_times_out():
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        with Talk(f"ws://127.0.0.1:{peer.port}/", connect_timeout=0.2) as client:
            assert "no answer within 0.2 s" in str(failed(client))


def test_every_address_is_tried(peer, monkeypatch):
    with RawPeer() as gone:
        port = gone.port
    real = socket.getaddrinfo

    def several(host, *args, **kwargs):
        if host != "venue.test":
            return real(host, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", to))
                for to in (port, port, peer.port)]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    with Talk("ws://venue.test:1234/") as client:
        request = peer.meet().request
        client.listener.wait("opened")
        assert "Host: venue.test:1234\r\n" in request
    with Talk("ws://venue.test/", proxy=None) as client:
        peer.meet()
        client.listener.wait("opened")


@pytest.mark.parametrize("last", [False, True])
def test_addresses_that_do_not_answer_share_one_time_out(peer, monkeypatch, last):
    with RawPeer(backlog=0) as full:
        full.fill_backlog()
        ports = [full.port, full.port, full.port, peer.port if last else full.port]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", to)) for to in ports])
        began = time.monotonic()
        with Talk("ws://venue.test/", connect_timeout=1.0) as client:
            if last:
                peer.meet()
                client.listener.wait("opened")
            else:
                assert str(failed(client)).count("no answer within") == 4
        assert time.monotonic() - began < 2.5


def test_the_socket_is_prepared(peer):
    line = Line()
    line.open("127.0.0.1", peer.port, 5.0)
    sock = line._sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    with pytest.raises(BlockingIOError):
        line.receive()
    line.close()
    line.close()


# -- waiting by reading, while data come in quick succession ---------------------------------------


class Quick:
    """A line on which something has come a moment ago; says when it waits by reading."""

    def __init__(self, peer):
        self.line = Line()
        self.line.open("127.0.0.1", peer.port, 5.0)
        self.wire = peer.accept().sock
        self.entered = threading.Event()
        for byte in (b"a", b"b"):
            self.wire.sendall(byte)
            now = time.monotonic()
            while (block := self.line.read(now, now + 60.0)) is None:
                now = time.monotonic()
            assert block == byte
        receive = self.line._receive_soon

        def entering():
            self.entered.set()
            return receive()
        self.line._receive_soon = entering

    def read(self):
        now = time.monotonic()
        self.line._since = now
        return self.line.read(now, now + 60.0)


@pytest.fixture
def quick(peer):
    quick = Quick(peer)
    yield quick
    quick.line.close()


def test_a_patient_read_is_over_soon(quick):
    began = time.monotonic()
    assert quick.read() is None                     # and not in a minute, when something would be due
    assert time.monotonic() - began < AT_ONCE
    assert quick.entered.is_set() == (sys.platform == "linux")
    quick.wire.sendall(b"c")
    now = time.monotonic()
    assert quick.line.read(now, now + 60.0) == b"c"


@pytest.mark.skipif(sys.platform != "linux", reason="it polls first elsewhere")
@pytest.mark.parametrize("end, gives", [
    pytest.param(lambda quick: quick.wire.sendall(b"c"), b"c", id="data"),
    pytest.param(lambda quick: quick.line.abort(), b"", id="abort")])
def test_what_ends_a_patient_read(monkeypatch, peer, end, gives):
    monkeypatch.setattr(sockets, "SOON", 30.0)
    quick = Quick(peer)
    reading = beside(quick.read)
    assert quick.entered.wait(PATIENCE)
    end(quick)
    assert reading.result(AT_ONCE) == gives
    quick.line.close()


def test_where_reads_can_not_wait_it_polls(monkeypatch):
    def refuse(self, level, name, value):
        if name == socket.SO_RCVTIMEO:
            raise OSError(errno.ENOPROTOOPT, "refused by the test")
        return set_option(self, level, name, value)
    set_option = socket.socket.setsockopt
    monkeypatch.setattr(socket.socket, "setsockopt", refuse)
    with WebSocketPeer() as peer, Talk(peer.url) as client:
        wire = peer.meet()
        for number in range(3):
            wire.send(frame(TEXT, b"%d" % number))
            client.listener.wait("message")
        assert client.call(lambda: client.transport._line._sock.gettimeout()) == 0.0


# -- the upgrade ---------------------------------------------------------------------------------


def test_an_unanswered_upgrade_times_out(peer):
    with Talk(peer.url, connect_timeout=0.1) as client:
        assert "did not answer the upgrade" in str(failed(client))


@pytest.mark.parametrize("plainly", [False, True])
def test_a_slow_upgrade_is_one_upgrade(peer, monkeypatch, plainly):
    if plainly:
        monkeypatch.setattr(module, "MISFIT", "the test wants it so")
    began = time.monotonic()
    with Talk(peer.url, connect_timeout=0.4) as client:
        wire = peer.accept()
        wire.head()
        future = beside(_drip, wire.sock, b"HTTP/1.1 101 Switching Protocols\r\nX-Pad: " + b"x" * 10_000)
        assert "in time" in str(failed(client))
        assert time.monotonic() - began < 3.0
        future.result(PATIENCE)


def _drip(sock, data):
    for byte in data:
        try:
            sock.sendall(bytes([byte]))
        except OSError:
            return
        threading.Event().wait(0.005)  # what is tested is a peer that is slow


@pytest.mark.parametrize("answer, status, retry, text", [
    (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 9\r\n\r\nslow down",
     429, 7.0, "slow down"),
    (b"HTTP/1.1 503 Unavailable\r\nretry-after:   1.5\r\n\r\n", 503, 1.5, "503 Unavailable"),
    (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4000\r\n\r\nnever all of it", 403, None, "never all"),
    (b"HTTP/1.1 301 Moved\r\nLocation: wss://new.test/ws?token=secret\r\n\r\n",
     301, None, "wss://new.test/ws"),
    (b"HTTP/1.1 200 OK\r\n\r\n", 200, None, "200 OK"),
    (b"HTTP/1.1 429 No\r\nRetry-After: soon\r\n\r\n", 429, None, "429"),
    (b"SSH-2.0-OpenSSH\r\n\r\n", None, None, "not HTTP"),
    (b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
     None, None, "handshake"),
    (b"HTTP/1.1 101 Yes\r\nno colon\r\n\r\n", None, None, "handshake"),
    (b"HTTP/1.1 101 Yes\r\nX: " + b"x" * 100_000, None, None, "more than"),
    (b"", None, None, "closed the connection"),
])
def test_a_refused_upgrade(peer, answer, status, retry, text):
    with Talk(peer.url) as client:
        wire = peer.accept()
        wire.head()
        say_and_end(wire, answer)
        error = failed(client)
        assert (error.status, error.retry_after) == (status, retry)
        assert text in str(error) and "secret" not in str(error)


def unusual(peer, *lines, **target):
    """The client's answer to an upgrade with such lines in it, and its request."""
    with Talk(peer.url.replace("127.0.0.1", "localhost"), **target) as client:
        wire = WebSocketWire(peer.accept())
        request = wire.wire.head()
        head = b"\r\n".join([
            b"HTTP/1.1 101 Switching", b"Upgrade: websocket", b"Connection: Upgrade",
            b"Sec-WebSocket-Accept: " + accept_key(request).encode(), *lines, b"", b""])
        say_and_end(wire, head + frame(TEXT, b"x") + frame(CLOSE, b"\x03\xe8"))
        closed = client.closed()
        assert closed.opened == (client.listener.messages == [b"x"])
        return closed, request


@pytest.fixture(params=["blocks", "plainly"])
def both_ways(request, monkeypatch):
    if request.param == "plainly":
        monkeypatch.setattr(module, "MISFIT", "the test wants it so")


def test_cookies_are_kept_for_nobody(peer, both_ways):
    cookies = (b"Set-Cookie: session=OF-ACCOUNT-A; Domain=localhost", b"set-cookie: lb/pool:1=x; Path=/")
    for _ in range(2):
        closed, request = unusual(peer, *cookies)
        assert closed.opened and "Cookie" not in request


def test_odd_header_lines_are_nobodys_business(peer, both_ways):
    assert unusual(peer, b"Server: caf\xe9", b"X-Folded: a", b"  b", b"Sec-WebSocket-Extensions:")[0].opened


@pytest.mark.parametrize("line, target, reason", [
    (b"Sec-WebSocket-Extensions: permessage-deflate", {}, "nobody offered: 'permessage-deflate'"),
    (b"Sec-WebSocket-Protocol: soap", {}, "a subprotocol that nobody offered: 'soap'"),
    (b"sec-websocket-protocol: soap", {"options": {"subprotocols": ["json"]}}, "nobody offered: 'soap'"),
    (b"Sec-WebSocket-Protocol: json", {"options": {"subprotocols": ["v1", "JSON"]}}, ""),
    (b"Sec-WebSocket-Protocol: json", {"headers": {"sec-websocket-protocol": "v1, json"}}, ""),
])
def test_what_nobody_offered_is_refused(peer, both_ways, line, target, reason):
    closed, _ = unusual(peer, line, **target)
    assert closed.opened == (not reason) and reason in str(closed.error)


def test_retry_after_as_a_date(peer):
    with Talk(peer.url) as client:
        wire = peer.accept()
        wire.head()
        date = email.utils.formatdate(time.time() + 100, usegmt=True)
        wire.sock.sendall(f"HTTP/1.1 429 No\r\nRetry-After: {date}\r\n\r\n".encode())
        wire.sock.close()
        assert 90 < failed(client).retry_after <= 100


# -- TLS -----------------------------------------------------------------------------------------


def test_a_certificate_is_checked_and_its_name_too():
    with WebSocketPeer(tls=True) as peer:
        for url, sslopt, works in (
            (peer.url, None, False),
            (peer.url, {"ca_certs": CERT}, True),
            (peer.url, {"ca_certs": CERT, "server_hostname": "localhost"}, True),
            (peer.url, {"ca_certs": CERT, "server_hostname": "venue.test"}, False),
            (peer.url, {"ca_certs": CERT, "server_hostname": "venue.test", "check_hostname": False}, True),
            (peer.url, {"cert_reqs": ssl.CERT_NONE}, True),
            (peer.url, {"context": ssl.create_default_context(cafile=CERT)}, True),
        ):
            with Talk(url, sslopt=sslopt) as client:
                if works:
                    peer.meet()
                    client.listener.wait("opened")
                else:
                    with pytest.raises(ssl.SSLError, match="(?i)alert"):     # it is told why
                        peer.accept()
                    assert "certificate" in str(failed(client))


@pytest.mark.parametrize("key", [
    {"keyfile": KEY}, {"keyfile": LOCKED, "password": PASSWORD},
    {"keyfile": LOCKED, "password": lambda: PASSWORD.encode()}], ids=["plain", "encrypted", "asks"])
def test_a_certificate_of_ours_is_shown(key):
    with WebSocketPeer(tls=True) as peer:
        peer.context.load_verify_locations(CERT)
        peer.context.verify_mode = ssl.CERT_REQUIRED
        with Talk(peer.url, sslopt={"ca_certs": CERT, "certfile": CERT, **key}) as client:
            wire = peer.meet()
            client.listener.wait("opened")
            assert wire.sock.getpeercert()["subject"]


def test_files_that_are_not_there():
    with RawPeer() as peer, Talk(f"wss://127.0.0.1:{peer.port}/", sslopt={"ca_certs": "/no/such"}) as client:
        assert "No such file" in str(failed(client))


def test_nobody_is_asked_for_the_password_of_a_key():
    sslopt = {"certfile": CERT, "keyfile": LOCKED}
    with RawPeer() as peer, Talk(f"wss://127.0.0.1:{peer.port}/", sslopt=sslopt) as client:
        assert "give its password" in str(failed(client))


def test_a_stalled_tls_handshake_times_out():
    with RawPeer() as peer, Talk(f"wss://127.0.0.1:{peer.port}/", connect_timeout=0.1) as client:
        peer.accept()
        assert "not ready within 0.1 s" in str(failed(client))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_peer_that_speaks_no_tls(answer):
    with RawPeer() as peer, Talk(f"wss://127.0.0.1:{peer.port}/") as client:
        wire = peer.accept()
        wire.sock.recv(65536)
        say_and_end(wire, answer)
        assert "TLS with" in str(failed(client))


def test_records_of_any_size_and_the_polite_end():
    with WebSocketPeer(tls=True) as peer, Talk(peer.url, sslopt={"ca_certs": CERT}) as client:
        wire = peer.meet()
        for _ in range(300):
            wire.send(frame(TEXT, b"small"))
        wire.send(frame(TEXT, b"l" * 60_000) * 10)
        client.listener.wait("message", 310)
        assert client.listener.messages == [b"small"] * 300 + [b"l" * 60_000] * 10
        wire.send(frame(TEXT, b"last"))
        with pytest.raises((ssl.SSLError, OSError)):
            wire.sock.settimeout(0.5)
            wire.sock.unwrap()  # says the end of the session, and leaves the socket open
            raise OSError
        assert "ended the connection" in str(client.closed().error)
        assert client.listener.messages[-1] == b"last"


# -- proxies -------------------------------------------------------------------------------------


def test_what_comes_with_a_key_update_that_can_not_be_answered_is_not_lost(monkeypatch):
    class Codec:
        ended, failure = False, None
        decrypt = staticmethod(lambda data: data)
        outgoing = staticmethod(lambda: b"an answer")

    def no_room(data, deadline):
        raise TimeoutError

    line = Line()
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)
        monkeypatch.setattr(line, "_sock", here)
        monkeypatch.setattr(line, "_tls", Codec)
        monkeypatch.setattr(line, "send_by", no_room)
        there.send(b"prices")
        assert line._receive_tls(0) == b"prices"
        assert line.attention and line.failure is not None


def pipe(one, two):
    """Carry bytes both ways until either side ends."""

    def carry(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    return [beside(carry, one, two), beside(carry, two, one)]


def be_http_proxy(proxy, answer=b"HTTP/1.1 200 Connection established\r\n\r\n"):
    wire = proxy.accept()
    head = wire.head()
    host, _, port = head.split(" ")[1].rpartition(":")
    if b" 200 " in answer:
        onward = socket.create_connection((host, int(port)))
        proxy._open.append(onward)
        pipe(wire.sock, onward)
    wire.sock.sendall(answer)
    return head


def be_socks_proxy(proxy, user=b"", port=None):
    """RFC 1928, and RFC 1929 when a user is wanted. Returns what was asked for: type and address."""
    wire = proxy.accept()
    methods = wire.exactly(2)[1]
    offered = wire.exactly(methods)
    wire.sock.sendall(b"\x05" + (b"\x02" if user else b"\x00"))
    if user:
        assert 2 in offered
        size = wire.exactly(2)[1]
        name = wire.exactly(size)
        secret = wire.exactly(wire.exactly(1)[0])
        wire.sock.sendall(b"\x01" + (b"\x00" if name == user and secret == b"p w" else b"\x01"))
        if name != user:
            return None
    kind = wire.exactly(4)[3]
    address = wire.exactly(wire.exactly(1)[0]) if kind == 3 else wire.exactly(4)
    asked = int.from_bytes(wire.exactly(2), "big")
    onward = socket.create_connection(("127.0.0.1", port or asked))
    proxy._open.append(onward)
    wire.sock.sendall(b"\x05\x00\x00\x01" + bytes(4) + bytes(2))
    pipe(wire.sock, onward)
    return kind, address


@pytest.mark.parametrize("tls", [False, True])
def test_http_proxy(tls):
    with WebSocketPeer(tls=tls) as peer, RawPeer() as proxy:
        proxied = f"http://me:p%20w@127.0.0.1:{proxy.port}"
        with Talk(peer.url, proxy=proxied, sslopt={"ca_certs": CERT}) as client:
            asked = beside(be_http_proxy, proxy)
            peer.meet().send(frame(TEXT, b"through"))
            client.listener.wait("message")
            head = asked.result(PATIENCE)
            assert head.startswith(f"CONNECT 127.0.0.1:{peer.port} HTTP/1.1\r\n")
            assert "Proxy-Authorization: Basic bWU6cCB3\r\n" in head


def test_what_comes_right_behind_the_proxys_answer_is_not_lost():
    with RawPeer() as proxy:
        line = Line()
        opening = beside(line.open, "venue.test", 99, 5.0, Proxy("http", "127.0.0.1", proxy.port))
        wire = proxy.accept()
        assert wire.head().startswith("CONNECT venue.test:99 ")  # and is resolved by the proxy
        wire.sock.sendall(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nhello")
        opening.result(PATIENCE)
        assert line.receive_by(time.monotonic() + PATIENCE) == b"hello"
        line.close()


@pytest.mark.parametrize("answer, text", [
    (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication"),
    (b"nonsense\r\n\r\n", "nonsense"),
    (b"", "closed"),
    (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "too long"),
])
def test_http_proxy_refuses(answer, text):
    with RawPeer() as proxy:
        proxied = f"http://me:secret@127.0.0.1:{proxy.port}"
        with Talk("ws://venue.test/", proxy=proxied) as client:
            wire = proxy.accept()
            wire.head()
            say_and_end(wire, answer)
            error = str(failed(client))
        assert text in error and f"127.0.0.1:{proxy.port}" in error and "secret" not in error


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("user", [b"", b"me"])
def test_socks5_proxy(tls, user):
    pytest.importorskip("python_socks")
    with WebSocketPeer(tls=tls) as peer, RawPeer() as proxy:
        login = "me:p%20w@" if user else ""
        url = peer.url.replace("127.0.0.1", "localhost")
        sslopt = {"ca_certs": CERT}
        with Talk(url, proxy=f"socks5://{login}127.0.0.1:{proxy.port}", sslopt=sslopt) as client:
            asked = beside(be_socks_proxy, proxy, user)
            _meet_resolved(peer, asked, client, kind={1, 4})
        with Talk(url, proxy=f"socks5h://{login}127.0.0.1:{proxy.port}", sslopt=sslopt) as client:
            asked = beside(be_socks_proxy, proxy, user)
            _meet_resolved(peer, asked, client, kind={3})
            assert asked.result(PATIENCE)[1] == b"localhost"


def _meet_resolved(peer, asked, client, kind):
    peer.meet().send(frame(TEXT, b"through"))
    client.listener.wait("message")
    assert asked.result(PATIENCE)[0] in kind


def test_socks5_proxy_refuses():
    pytest.importorskip("python_socks")
    with RawPeer() as proxy:
        with Talk("ws://venue.test/", proxy=f"socks5h://you:secret@127.0.0.1:{proxy.port}") as client:
            be_socks_proxy(proxy, b"me")
            error = str(failed(client))
            assert "refused" in error and "secret" not in error


@pytest.mark.parametrize("kind", ["http", "socks5h"])
def test_an_unanswering_proxy_times_out_and_can_be_left(kind):
    if kind != "http":
        pytest.importorskip("python_socks")
    with RawPeer() as proxy:
        proxied = f"{kind}://127.0.0.1:{proxy.port}"
        with Talk("ws://venue.test/", proxy=proxied, connect_timeout=0.1) as client:
            proxy.accept()
            assert "no answer within 0.1 s" in str(failed(client))
        with Talk("ws://venue.test/", proxy=proxied) as client:
            proxy.accept().sock.recv(1)
            client.transport.abort()
            assert isinstance(client.closed(AT_ONCE).error, Aborted)


def test_a_missing_extra_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(MissingDependency, match=r"market-streams\[socks\]"):
        WebSocketTransport(Target("ws://h/", proxy="socks5://127.0.0.1:1080"), Listener())


def test_a_python_socks_that_is_too_old_is_named(monkeypatch):
    python_socks = pytest.importorskip("python_socks.sync")
    monkeypatch.setattr(python_socks, "Proxy", lambda kind, host, port: None)
    with pytest.raises(MissingDependency, match=r"python-socks>=3\.0"):
        parse_proxy("socks5://127.0.0.1:1080")


def test_proxy_addresses():
    assert parse_proxy("http://a%40b:c%3Ad@proxy:3128") == Proxy("http", "proxy", 3128, "a@b", "c:d")
    assert "c:d" not in repr(parse_proxy("http://a:c%3Ad@proxy:3128"))
    for bad in ("proxy:3128", "https://proxy:1", "http://proxy", "http://:3128", "http://proxy:x", ""):
        with pytest.raises(ConfigurationError):
            parse_proxy(bad)


# -- abort, everywhere ---------------------------------------------------------------------------


class Stage:
    """Where to abort: brings a client there, over whatever peer that takes."""

    def __init__(self, peer: WebSocketPeer) -> None:
        self.peer = peer

    def upgrade(self, client: Talk) -> None:
        self.peer.accept().head()

    def half_an_upgrade(self, client: Talk) -> None:
        wire = self.peer.accept()
        wire.head()
        wire.sock.sendall(b"HTTP/1.1 101 Swit")

    def idle(self, client: Talk) -> None:
        self.peer.meet()
        client.listener.wait("tick")

    def mid_frame(self, client: Talk) -> None:
        self.peer.meet().send(frame(TEXT, b"x"), frame(TEXT, b"y" * 1000)[:500])
        client.listener.wait("message")

    def mid_message(self, client: Talk) -> None:
        self.peer.meet().send(frame(TEXT, b"x"), frame(TEXT, b"y" * 1000, fin=False), frame(PING))
        client.listener.wait("alive")

    def sending(self, client: Talk) -> None:
        wire = self.peer.meet()
        client.listener.wait("opened")
        client.listener._jobs.append((lambda: client.transport.send(bytes(30_000_000)), beside(int)))
        client.transport.wake()
        wire.sock.recv(1)

    def closing(self, client: Talk) -> None:
        wire = self.peer.meet()
        client.listener.wait("opened")
        client.call(client.transport.close)
        assert wire.read()[0] == CLOSE


STAGES = ["upgrade", "half_an_upgrade", "idle", "mid_frame", "mid_message", "sending", "closing"]


@pytest.mark.parametrize("plainly", [False, True], ids=["blocks", "plainly"])
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("stage", STAGES)
def test_abort(stage, tls, plainly, monkeypatch):
    if plainly:
        monkeypatch.setattr(module, "MISFIT", "the test wants it so")
    with WebSocketPeer(tls=tls) as peer:
        with Talk(peer.url, sslopt={"ca_certs": CERT}, send_timeout=30.0) as client:
            getattr(Stage(peer), stage)(client)
            client.transport.abort()
            closed = client.closed(AT_ONCE)
            assert isinstance(closed.error, Aborted) or stage == "closing" and closed.error is None
            assert closed.opened == (stage not in ("upgrade", "half_an_upgrade"))


def test_abort_while_a_name_is_pending(silent_names):
    _, entered = silent_names
    with Talk("ws://venue.test/") as client:
        assert entered.acquire(timeout=PATIENCE)
        client.transport.abort()
        assert isinstance(client.closed(AT_ONCE).error, Aborted)


def test_abort_while_connecting():
    with RawPeer(backlog=0) as peer:
        peer.fill_backlog()
        with Talk(f"ws://127.0.0.1:{peer.port}/") as client:
            _until(lambda: client.transport._line._sock is not None)
            client.transport.abort()
            assert isinstance(client.closed(AT_ONCE).error, Aborted)


def test_abort_while_tls_is_stalled():
    with RawPeer() as peer, Talk(f"wss://127.0.0.1:{peer.port}/") as client:
        peer.accept().sock.recv(1)
        client.transport.abort()
        assert isinstance(client.closed(AT_ONCE).error, Aborted)


def _until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def test_abort_before_and_after(peer):
    talk = Talk(peer.url)
    talk.transport.abort()
    talk.transport.wake()
    closed = talk.start().closed(AT_ONCE)
    assert isinstance(closed.error, Aborted) and not closed.opened
    talk.transport.abort()
    talk.transport.wake()


def test_abort_from_many_threads_at_once_and_from_a_handler(peer):
    with Talk(peer.url) as client:
        peer.meet()
        client.listener.wait("opened")
        for done in [beside(client.transport.abort) for _ in range(8)]:
            done.result(AT_ONCE)
        assert isinstance(client.closed(AT_ONCE).error, Aborted)
    with Talk(peer.url) as client:
        client.listener.on_message = lambda message: client.transport.abort()
        peer.meet().send(frame(TEXT, b"x"))
        assert isinstance(client.closed().error, Aborted)


def test_a_wake_while_connecting_neither_ends_nor_delays_it(peer):
    with Talk(peer.url) as client:
        wire = peer.accept()
        for _ in range(100):
            client.transport.wake()
        WebSocketWire(wire).upgrade().send(frame(TEXT, b"x"))
        client.listener.wait("message")


# -- the other way of waiting, and leaks ---------------------------------------------------------


def test_without_poll(monkeypatch):
    monkeypatch.setattr(sockets, "best_waiter", SelectWaiter)
    with WebSocketPeer() as peer, Talk(peer.url) as client:
        wire = peer.meet()
        wire.send(frame(TEXT, b"x"))
        client.listener.wait("message")
        client.call(lambda: client.transport.send("out"))
        assert wire.read() == (TEXT, b"out")
        reading = beside(wire.read)
        client.call(lambda: client.transport.send(bytes(20_000_000)))
        assert reading.result(PATIENCE)[1] == bytes(20_000_000)
        client.transport.abort()
        assert isinstance(client.closed(AT_ONCE).error, Aborted)
    with RawPeer() as gone:
        port = gone.port
    with Talk(f"ws://127.0.0.1:{port}/") as client:
        failed(client)


@pytest.mark.parametrize("tls, times", [(False, 1000), (True, 100)])
def test_reconnects_leave_nothing_behind(tls, times):
    with WebSocketPeer(tls=tls) as peer:
        ends = beside(_serve_and_end, peer, times)
        gc.collect()
        before, threads = descriptors(), threading.active_count()
        for _ in range(times):
            listener = Listener()
            transport = WebSocketTransport(Target(peer.url, sslopt={"ca_certs": CERT}), listener)
            closed = transport.run()
            assert closed.opened and listener.messages == [b"hi"], closed
        ends.result(PATIENCE)
        assert threading.active_count() <= threads
        assert descriptors() <= before + 2  # the peer's own, between accept and close


def _serve_and_end(peer, times):
    for number in range(times):
        wire = peer.meet(behind=frame(TEXT, b"hi") + (frame(CLOSE) if number % 2 else b""))
        if number % 3 == 0:
            wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        wire.sock.shutdown(socket.SHUT_WR)
        wire.wire.ended()
        wire.sock.close()
        peer._open.clear()

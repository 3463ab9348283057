"""The generic server: life and death of connections, TLS, HTTP, RFC 6455."""
from __future__ import annotations

import gc
import http.client
import socket
import ssl
import struct
import threading
import time
import weakref
from pathlib import Path

import pytest

from streams.sim import BinanceSim, Response, WebServer
from streams.sim.connection import Connection
from streams.sim.peer import Peer
from streams.sim.server import LoopbackServer
from streams.sim.web import Request

from ..tools import wait_until
from .client import BINARY, CLOSE, PING, PONG, TEXT, Client, get

DATA = Path(__file__).parents[1] / "data"


class Echo(WebServer):
    """Echoes messages; remembers what happened."""

    def respond(self, request: Request) -> Response:
        if request.path == "/hang":
            request.peer.wait_gone()
        return Response.json({"path": request.path, "query": request.query,
                              "body": request.body.decode()})

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        if message == "fail":
            raise RuntimeError("on purpose")
        conn.send(message)


class Lines(LoopbackServer):
    """Plain TCP: what a venue without HTTP derives from."""

    def handle(self, peer: Peer) -> None:
        while (data := peer.recv()) not in (b"", b"bye"):
            if data:
                peer.send(data.upper())


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "loopback.crt", DATA / "loopback.key")
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(DATA / "loopback.crt"))


def closes_with(client: Client, code: int) -> None:
    message = client.message()
    assert message.opcode == CLOSE
    assert struct.unpack("!H", message.payload[:2])[0] == code


# -- HTTP and plain TCP --------------------------------------------------------------------------


def test_plain_tcp_is_straight_code() -> None:
    with Lines() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"hello")
        assert sock.recv(100) == b"HELLO"
        sock.sendall(b"bye")
        assert sock.recv(100) == b""


def test_http_keeps_a_connection_for_several_requests() -> None:
    with Echo() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        for number in range(3):
            connection.request("POST", f"/a%20b?x={number}&y=%2F", body=b"data")
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.read() == (b'{"path":"/a b","query":{"y":"/","x":"%d"},"body":"data"}'
                                     % number)
        assert len(server.peers()) == 1
        connection.close()


@pytest.mark.parametrize("request_line", [b"NONSENSE\r\n\r\n", b"GET / SPDY/9\r\n\r\n"])
def test_what_is_no_http_is_refused(request_line: bytes) -> None:
    with Echo() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(request_line)
        assert sock.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_a_head_without_end_is_not_collected_for_ever() -> None:
    with Echo() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(10)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                sock.sendall(b"x" * 65536)


@pytest.mark.parametrize("headers, status", [
    ("Sec-WebSocket-Version: 8\r\n", 426), ("", 426)])
def test_a_wrong_handshake_is_refused(headers: str, status: int) -> None:
    with Echo() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Key: abc\r\n" + headers.encode() + b"\r\n")
        assert sock.recv(1000).startswith(f"HTTP/1.1 {status} ".encode())


def test_the_accept_key_is_that_of_the_rfc() -> None:
    with Echo() as server, socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                     b"Sec-WebSocket-Version: 13\r\n\r\n")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in sock.recv(1000)


# -- RFC 6455 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_any_length_come_back(size: int, opcode: int) -> None:
    with Echo() as server, Client(server.url) as client:
        client.send(b"x" * size, opcode)
        assert client.message() == (True, opcode, b"x" * size)


def test_fragments_are_joined_with_a_ping_in_between() -> None:
    with Echo() as server, Client(server.url) as client:
        client.send("hel", fin=False)
        client.send(b"now", PING)
        client.send(b"lo", 0)
        assert client.frame() == (True, PONG, b"now")
        assert client.message() == (True, TEXT, b"hello")
        assert server.connections[0].received[0] == "hello"


@pytest.mark.parametrize("send, code", [
    (lambda c: c.send("x", masked=False), 1002),
    (lambda c: c.send("x", rsv=0x40), 1002),
    (lambda c: c.send(b"x", 3), 1002),
    (lambda c: c.send(b"x", 11), 1002),
    (lambda c: c.send(b"x", PING, fin=False), 1002),
    (lambda c: c.send(b"x" * 126, PING), 1002),
    (lambda c: c.send(b"x", 0), 1002),
    (lambda c: (c.send("a", fin=False), c.send("b")), 1002),
    (lambda c: c.send(b"\xff\xfe", TEXT), 1007),
    (lambda c: c.send(b"x" * (1 << 20) + b"x", BINARY), 1009),
    (lambda c: c.send(b"\x03", CLOSE), 1002),
    (lambda c: c.send(struct.pack("!H", 1005), CLOSE), 1002),
    (lambda c: c.send(struct.pack("!H", 1000) + b"\xff", CLOSE), 1007),
])
def test_what_the_rfc_forbids_ends_the_connection(send, code: int) -> None:  # type: ignore
    with Echo() as server, Client(server.url) as client:
        try:
            send(client)
        except OSError:
            pass                # the server was faster
        closes_with(client, code)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_clients_close_is_answered_with_its_code(code: int) -> None:
    with Echo() as server, Client(server.url) as client:
        conn = wait_conn(server)
        client.send(struct.pack("!H", code) + b"bye", CLOSE)
        closes_with(client, code)
        with pytest.raises(EOFError):
            client.frame()
        assert server.wait_for(lambda: conn.closed, 5) and conn.close_code == code


def test_the_servers_close_waits_for_the_clients_and_then_ends() -> None:
    with Echo() as server, Client(server.url) as client:
        conn = wait_conn(server)
        conn.close(4001, "enough")
        message = client.message()
        assert message.payload == struct.pack("!H", 4001) + b"enough"
        client.send(message.payload[:2], CLOSE)
        with pytest.raises(EOFError):
            client.frame()


def test_a_client_that_does_not_answer_a_close_is_left() -> None:
    with Echo() as server, Client(server.url) as client:
        wait_conn(server).close(1001)
        assert client.message().opcode == CLOSE
        with pytest.raises(EOFError):
            client.frame()


def test_timers_run_in_the_connections_thread() -> None:
    with Echo() as server, Client(server.url) as client:
        conn, names = wait_conn(server), []
        conn.every(0.01, lambda: (names.append(threading.current_thread().name),
                                  server.notify()))
        conn.after(0.01, lambda: conn.send("once"))
        assert client.message().payload == b"once"
        assert server.wait_for(lambda: len(names) >= 3, 5)
        assert set(names) == {"sim-web-1"}


def test_an_error_in_a_handler_ends_only_that_connection(caplog: pytest.LogCaptureFixture) -> None:
    with Echo() as server, Client(server.url) as one, Client(server.url) as two:
        one.send("fail")
        with pytest.raises(EOFError):
            one.frame()
        two.send("still there")
        assert two.message().payload == b"still there"
    assert "on purpose" in caplog.text


def wait_conn(server: WebServer, count: int = 1) -> Connection:
    """The newest connection, once there are so many."""
    assert server.wait_for(lambda: len(server.connections) >= count, 10)
    return server.connections[-1]


# -- start and stop ------------------------------------------------------------------------------


def test_stop_is_quick_whatever_the_clients_do() -> None:
    server = Echo()
    server.start()
    idle = socket.create_connection(("127.0.0.1", server.port))
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(b"GET /half HTTP/1.1\r\n")
    hanging = socket.create_connection(("127.0.0.1", server.port))
    hanging.sendall(b"GET /hang HTTP/1.1\r\n\r\n")
    client = Client(server.url)
    silent = Client(server.url)
    conn = wait_conn(server, 2)
    conn.send_oversized(BINARY, 50_000_000)
    server.connections[0].close(1000)
    try:
        assert server.wait_for(lambda: len(server.peers()) == 5, 10)
        begun = time.monotonic()
        assert server.stop()
        assert time.monotonic() - begun < 1
        assert server.peers() == [] and server.connections == []
        assert server.stop()
    finally:
        for sock in (idle, half, hanging, client.sock, silent.sock):
            sock.close()


def test_the_port_stays_over_a_restart() -> None:
    server = Echo()
    with server:
        port = server.port
        assert get(server.rest_url, "/one").status == 200
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    with server:
        assert server.port == port
        assert get(server.rest_url, "/two").status == 200


def test_a_taken_port_fails_at_start() -> None:
    with Echo() as one, pytest.raises(OSError):
        Echo(port=one.port).start()


def test_listening_can_be_paused() -> None:
    with Echo() as server, Client(server.url) as client:
        server.pause_listening()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5)
        client.send("live connections go on")
        assert client.message().payload == b"live connections go on"
        server.resume_listening()
        assert get(server.rest_url, "/again").status == 200


def test_a_request_that_is_kept_keeps_no_connection() -> None:
    peers: list[weakref.ref[Peer]] = []

    class Keeping(BinanceSim):
        def accepted_peer(self, peer: Peer) -> None:
            peers.append(weakref.ref(peer))
            super().accepted_peer(peer)

    def gone() -> bool:
        gc.collect()
        return not any(peer() for peer in peers)

    with Keeping(["BTCUSDT"], rate=0) as server:
        for _ in range(3):
            assert get(server.rest_url, "/api/v3/ping").status == 200
    assert [request.path for request in server.requests] == ["/api/v3/ping"] * len(peers)
    wait_until(gone)


def test_wait_for_sees_events_and_gives_up_in_time() -> None:
    with Echo() as server:
        begun = time.monotonic()
        assert not server.wait_for(lambda: server.accepted, 0.05)
        assert time.monotonic() - begun >= 0.05
        with Client(server.url):
            assert server.wait_connections(1, 10)
        assert server.wait_for(lambda: not server.connections, 10)
        assert server.accepted == 1


@pytest.mark.parametrize("options", [{"port": -1}, {"port": 65536}, {"send_limit": 0}])
def test_mistakes_fail_at_the_call(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Echo(**options)


# -- slow clients --------------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_dropped_and_blocks_nobody() -> None:
    with Echo(send_limit=1 << 20) as server, Client(server.url) as slow:
        conn = wait_conn(server)
        with Client(server.url) as quick:
            other = wait_conn(server, 2)
            while not conn.peer.overflowed:
                conn.send(b"x" * 100_000)
                other.send("tick")
                assert quick.message().payload == b"tick"
            assert server.wait_for(lambda: server.slow_clients == 1, 10)
            assert server.connections == [other]
        with pytest.raises((ConnectionResetError, EOFError)):
            while True:
                slow.frame()


def test_a_slow_but_reading_client_gets_everything() -> None:
    with Echo() as server, Client(server.url) as client:
        conn = wait_conn(server)
        for number in range(100):
            conn.send(number.to_bytes(4, "big") * 25_000)      # ten megabytes wait
        for number in range(100):
            assert client.message().payload == number.to_bytes(4, "big") * 25_000
        assert server.slow_clients == 0


def test_systems_without_poll_use_select(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.sim.peer._HAS_POLL", False)
    with Echo() as server, Client(server.url) as client:
        conn = wait_conn(server)
        for number in range(30):
            conn.send(bytes([number]) * 200_000)
        client.send("back")
        for number in range(30):
            assert client.message().payload == bytes([number]) * 200_000
        assert client.message().payload == b"back"
        conn.close(1000)
        assert client.message().opcode == CLOSE


# -- TLS -----------------------------------------------------------------------------------------


def test_tls_carries_both() -> None:
    with Echo(ssl_context=server_context()) as server:
        assert server.url.startswith("wss://") and server.rest_url.startswith("https://")
        with Client(server.url, tls=client_context()) as client:
            conn = wait_conn(server)
            for number in range(50):
                conn.send(bytes([number]) * 100_000)
            client.send("and back")
            for number in range(50):
                assert client.message().payload == bytes([number]) * 100_000
            assert client.message().payload == b"and back"
        connection = http.client.HTTPSConnection(
            "127.0.0.1", server.port, timeout=10, context=_unnamed(client_context()))
        connection.request("GET", "/secure")
        assert b"/secure" in connection.getresponse().read()
        connection.close()


def _unnamed(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    return context


def test_stop_is_quick_in_the_middle_of_a_tls_handshake() -> None:
    server = Echo(ssl_context=server_context())
    server.start()
    with socket.create_connection(("127.0.0.1", server.port)):
        assert server.wait_for(server.peers, 10)
        begun = time.monotonic()
        assert server.stop()
        assert time.monotonic() - begun < 1


def test_who_speaks_no_tls_is_let_go() -> None:
    with Echo(ssl_context=server_context()) as server, \
            socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.settimeout(10)
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        try:
            while sock.recv(1000):
                pass
        except ConnectionResetError:
            pass
        assert server.wait_for(lambda: not server.peers(), 10)

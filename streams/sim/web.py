"""HTTP and WebSockets on one port: what every venue with a web interface is made of.

Derive from `WebServer` and write `respond` for requests and `on_open`, `on_message`, `on_close`
for WebSocket clients. All of them run in the thread of their connection and may block.
"""
from __future__ import annotations

import http
import json
import logging
import ssl
import time
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

from . import frames
from .connection import Connection
from .frames import FrameError, FrameReader
from .peer import Peer, PeerGone
from .server import LoopbackServer

logger = logging.getLogger("streams.sim")

_MAX_HEAD = 1 << 16
_MAX_BODY = 1 << 22


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        query: the parameters, decoded; the first value of each.
        raw_query: the query string as it came.
        headers: names in lower case.
        time: seconds since the epoch.
    """

    method: str
    path: str
    query: dict[str, str]
    raw_query: str
    headers: dict[str, str]
    body: bytes
    time: float
    _peer: weakref.ref[Peer] = field(repr=False, compare=False)     # who keeps requests keeps no sockets

    @property
    def peer(self) -> Peer:
        """The connection it came by, while that is there. Threads: the connection's own."""
        peer = self._peer()
        assert peer is not None, "the connection is over"
        return peer

    @property
    def upgrades(self) -> bool:
        """True for a WebSocket handshake. Threads: any."""
        return self.headers.get("upgrade", "").lower() == "websocket"


@dataclass(frozen=True)
class Response:
    """One HTTP answer."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"

    @classmethod
    def json(cls, value: object, status: int = 200,
             headers: Iterable[tuple[str, str]] = ()) -> Response:
        """An answer with a JSON body. Threads: any."""
        body = json.dumps(value, separators=(",", ":")).encode("utf-8")
        return cls(status, body, tuple(headers))

    def encode(self, method: str = "GET") -> bytes:
        """The bytes on the wire. Threads: any."""
        try:
            phrase = http.HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}", f"Content-Type: {self.content_type}",
                 f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return head if method == "HEAD" else head + self.body


class WebServer(LoopbackServer):
    """HTTP/1.1 with keep-alive, and WebSocket upgrades, on one port.

    Attributes:
        accepted: how many WebSocket handshakes were begun, answered or not.
    """

    name = "web"

    def __init__(self, *, port: int = 0, ssl_context: ssl.SSLContext | None = None,
                 send_limit: int = 16 << 20) -> None:
        super().__init__(port=port, ssl_context=ssl_context, send_limit=send_limit)
        self.accepted = 0
        self._live: dict[int, Connection] = {}

    # -- to be written by servers ---------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Answer an HTTP request; raise `PeerGone` to end the connection without an answer.

        Threads: the connection's own.
        """
        return Response.json({"error": "not found"}, 404)

    def admit(self, request: Request, conn: Connection) -> Response | None:
        """None lets a WebSocket handshake go on, a response refuses it, `PeerGone` leaves it
        unanswered.

        Threads: the connection's own.
        """
        return None

    def on_open(self, conn: Connection) -> None:
        """The handshake is done. Threads: the connection's own."""

    def on_frame(self, conn: Connection, opcode: int, payload: bytes) -> None:
        """Any frame came in, control frames included. Threads: the connection's own."""

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        """A data message came in. Threads: the connection's own."""

    def on_close(self, conn: Connection) -> None:
        """The connection is over, for whatever reason. Threads: the connection's own."""

    # -- what the outside sees ------------------------------------------------------------------

    @property
    def url(self) -> str:
        """``ws://127.0.0.1:PORT`` (``wss`` with TLS). Threads: any."""
        return f"{'wss' if self.ssl_context else 'ws'}://{self.address}"

    @property
    def rest_url(self) -> str:
        """``http://127.0.0.1:PORT`` (``https`` with TLS). Threads: any."""
        return f"{'https' if self.ssl_context else 'http'}://{self.address}"

    @property
    def connections(self) -> list[Connection]:
        """The WebSocket connections that are open now, oldest first. Threads: any."""
        return list(self._live.copy().values())

    def wait_connections(self, count: int, timeout: float) -> bool:
        """Wait until ``count`` WebSocket handshakes were ever begun (see ``accepted``).

        Threads: any but this server's own.
        """
        return self.wait_for(lambda: self.accepted >= count, timeout)

    # -- inside ---------------------------------------------------------------------------------

    def handle(self, peer: Peer) -> None:
        """Serve requests until the client goes, or upgrades."""
        buffer = bytearray()
        while True:
            request = self._read_request(peer, buffer)
            if request is None:
                return
            if request.upgrades:
                self._upgrade(request, bytes(buffer))
                return
            peer.send(self.respond(request).encode(request.method))
            if request.headers.get("connection", "").lower() == "close":
                return

    def _read_request(self, peer: Peer, buffer: bytearray) -> Request | None:
        while b"\r\n\r\n" not in buffer:
            if len(buffer) > _MAX_HEAD or not _read_more(peer, buffer):
                return None
        end = buffer.index(b"\r\n\r\n")
        lines = bytes(buffer[:end]).decode("latin-1").split("\r\n")
        del buffer[:end + 4]
        parts = lines[0].split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
            peer.send(Response.json({"error": "bad request"}, 400).encode())
            return None
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _MAX_BODY:
            peer.send(Response.json({"error": "bad content length"}, 413).encode())
            return None
        while len(buffer) < int(length):
            if not _read_more(peer, buffer):
                return None
        body = bytes(buffer[:int(length)])
        del buffer[:int(length)]
        target, _, raw_query = parts[1].partition("?")
        return Request(parts[0], unquote(target), dict(reversed(parse_qsl(raw_query, True))),
                       raw_query, headers, body, time.time(), weakref.ref(peer))

    def _upgrade(self, request: Request, rest: bytes) -> None:
        with self._peers_lock:
            self.accepted += 1
            number = self.accepted
        self.notify()
        conn = Connection(number, request.peer, request.path, request.raw_query, request.headers)
        refusal = _check_handshake(request) or self.admit(request, conn)
        if refusal is not None:
            request.peer.send(refusal.encode())
            return
        self.send_handshake(conn, (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {frames.accept_key(request.headers['sec-websocket-key'])}"
            "\r\n\r\n").encode("ascii"))
        self._live[number] = conn
        try:
            self._converse(conn, rest)
        finally:
            conn.closed = True
            self._live.pop(number, None)
            self.on_close(conn)
            self.notify()

    def send_handshake(self, conn: Connection, answer: bytes) -> None:
        """Send the answer to the upgrade request. Threads: the connection's own."""
        conn.peer.send(answer)

    def _converse(self, conn: Connection, data: bytes | None) -> None:
        reader = FrameReader()
        self.on_open(conn)
        self.notify()
        while True:
            if data:
                reader.feed(data)
                try:
                    for message in reader.messages():
                        if not self._take(conn, message.opcode, message.payload):
                            return
                except FrameError as error:
                    conn.fail(error)
                    return
            if not conn.run_timers():
                return
            data = conn.peer.recv(conn.next_timeout(), read=not conn.deaf)
            if data == b"":
                return

    def _take(self, conn: Connection, opcode: int, payload: bytes) -> bool:
        self.on_frame(conn, opcode, payload)
        if opcode >= frames.CLOSE:
            going_on = conn.take_control(frames.Message(opcode, payload))
            self.notify()
            return going_on
        message = payload.decode("utf-8") if opcode == frames.TEXT else payload
        conn.received.append(message)
        self.on_message(conn, message)
        self.notify()
        return True


def _read_more(peer: Peer, buffer: bytearray) -> bool:
    data = peer.recv()
    if data:
        buffer += data
    return data != b""


def _check_handshake(request: Request) -> Response | None:
    """RFC 6455, section 4.2.1."""
    if (request.method != "GET" or not request.headers.get("sec-websocket-key")
            or "upgrade" not in request.headers.get("connection", "").lower()):
        return Response.json({"error": "not a WebSocket handshake"}, 400)
    if request.headers.get("sec-websocket-version") != "13":
        return Response(426, b"", (("Sec-WebSocket-Version", "13"),))
    return None


__all__ = ["PeerGone", "Request", "Response", "WebServer"]

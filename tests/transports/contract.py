"""What the contract suite needs to know of each kind of transport: a *harness*, a fake peer played by hand.

To plug in another transport, write a :class:`Harness` and its :class:`Conversation`; add it to ``HARNESSES``.
A payload is bytes without line feeds; how it becomes a message on the wire, and what the receiver gets of it,
is the harness's business.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from streams.polling import Ask
from streams.transports.base import Receiver, Target, Transport
from streams.transports.longpoll import LongPollTransport
from streams.transports.tcp import TcpTransport
from streams.transports.websocket import WebSocketTransport

from ..raw_peer import RawPeer, Wire
from .websocket_peer import BINARY, CERT, CLOSE, KEY, PING, Listener, Talk, WebSocketWire, frame


class Conversation:
    """The peer's end of one established conversation.

    Attributes:
        wire: The accepted connection; after TLS, where there is any.
    """

    def __init__(self, harness: Harness, wire: Wire) -> None:
        self.harness = harness
        self.wire = wire

    def deliver(self, *payloads: bytes) -> None:
        """Have these arrive as messages, in as few pieces as may be."""
        self.wire.sock.sendall(b"".join(self.harness.encode(payload) for payload in payloads))

    def pieces(self, payloads: Sequence[bytes]) -> tuple[Callable[[], None], bytes]:
        """What must happen before bytes can be sent (a request read, say), and the bytes that make these
        messages arrive, to be cut at will."""
        return (lambda: None), b"".join(self.harness.encode(payload) for payload in payloads)

    def begin(self, payload: bytes) -> None:
        """Send the first half of a message."""
        ready, data = self.pieces([payload])
        ready()
        self.wire.sock.sendall(data[:len(data) // 2])

    def read(self) -> bytes:
        """The payload of the next message that the transport sends."""
        raise NotImplementedError

    def end(self) -> None:
        """End it without a word."""
        self.wire.close()


class Harness:
    """One kind of transport.

    Attributes:
        name: In the names of the tests.
        tls: The peer speaks TLS.
        sends: ``Transport.send`` takes any payload.
        handshakes: There is something between TCP and an established conversation.
    """

    name = ""
    scheme = ""
    tls = False
    sends = True
    handshakes = False

    def make(self, target: Target, receiver: Receiver) -> Transport:
        """A transport of this kind."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """``Target.options``."""
        return {}

    def url(self, port: int, host: str = "127.0.0.1") -> str:
        """An address of this kind."""
        return f"{self.scheme}://{host}:{port}"

    def encode(self, payload: bytes) -> bytes:
        """A message on the wire."""
        raise NotImplementedError

    def outgoing(self, payload: bytes) -> bytes | str:
        """What to give to ``Transport.send`` so that the peer reads ``payload``."""
        return payload

    def payloads(self, messages: Sequence[Any]) -> list[bytes]:
        """The payloads in what the receiver got."""
        return list(messages)

    def accept(self, peer: RawPeer) -> Wire:
        """The next connection, after TLS where there is any."""
        wire = peer.accept()
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERT, KEY)
            wire.sock = context.wrap_socket(wire.sock, server_side=True)
            peer._open.append(wire.sock)        # to be closed with it
        return wire

    def meet(self, peer: RawPeer) -> Conversation:
        """Accept the transport and do all that makes the conversation stand."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.name


class Speech(Talk):
    """A transport of a harness, running beside the test; see ``Talk``."""

    def __init__(self, harness: Harness, port: int, host: str = "127.0.0.1", **target: Any) -> None:
        self.listener = Listener()
        self.harness = harness
        target.setdefault("sslopt", {"cert_reqs": 0})
        target.setdefault("options", harness.options())
        self.transport = harness.make(Target(harness.url(port, host), **target), self.listener)
        self._run = None

    @property
    def payloads(self) -> list[bytes]:
        """What has arrived so far."""
        return self.harness.payloads(self.listener.messages)


def flooding(conversation: Conversation, payload: bytes) -> Iterator[None]:
    """Deliver without end in a thread, until the generator is closed (use ``contextlib.contextmanager``)."""
    stop = threading.Event()

    def flood() -> None:
        try:
            while not stop.is_set():
                conversation.deliver(*([payload] * 50))
        except (OSError, AssertionError):
            pass            # the transport is gone

    thread = threading.Thread(target=flood, name="flood")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        conversation.wire.close()
        thread.join()


# -- TCP -------------------------------------------------------------------------------------------


class TcpConversation(Conversation):
    """Whatever the framing."""

    harness: TcpHarness

    def read(self) -> bytes:
        """See Conversation."""
        return self.harness.read(self.wire)


class TcpHarness(Harness):
    """Plain TCP; before each message its length: four bytes, little-endian, counting itself."""

    name = "tcp"
    scheme = "tcp"

    def make(self, target: Target, receiver: Receiver) -> Transport:
        """See Harness."""
        return TcpTransport(target, receiver)

    def options(self) -> dict[str, Any]:
        """See Harness."""
        return {"framing": "length", "width": 4, "byteorder": "little", "inclusive": True}

    def encode(self, payload: bytes) -> bytes:
        """See Harness."""
        return (len(payload) + 4).to_bytes(4, "little") + payload

    def read(self, wire: Wire) -> bytes:
        """A message from the wire."""
        return wire.exactly(int.from_bytes(wire.exactly(4), "little") - 4)

    def meet(self, peer: RawPeer) -> Conversation:
        """See Harness."""
        return TcpConversation(self, self.accept(peer))


class TlsHarness(TcpHarness):
    """The same over TLS, and with short lengths."""

    name = "tls+tcp"
    scheme = "tls+tcp"
    tls = handshakes = True


class LinesHarness(TcpHarness):
    """Messages that end with CR LF."""

    name = "tcp-lines"

    def options(self) -> dict[str, Any]:
        """See Harness."""
        return {"framing": "delimited", "delimiter": b"\r\n"}

    def encode(self, payload: bytes) -> bytes:
        """See Harness."""
        return payload + b"\r\n"

    def read(self, wire: Wire) -> bytes:
        """See TcpHarness."""
        return wire.until(b"\r\n")[:-2]


# -- WebSocket ---------------------------------------------------------------------------------------


class WebSocketConversation(Conversation):
    """After the upgrade."""

    def read(self) -> bytes:
        """See Conversation."""
        while True:
            opcode, payload = WebSocketWire(self.wire).read()
            if opcode not in (PING, CLOSE):
                return payload


class WebSocketHarness(Harness):
    """A WebSocket."""

    name = scheme = "ws"
    handshakes = True

    def make(self, target: Target, receiver: Receiver) -> Transport:
        """See Harness."""
        return WebSocketTransport(target, receiver)

    def encode(self, payload: bytes) -> bytes:
        """See Harness."""
        return frame(BINARY, payload)

    def meet(self, peer: RawPeer) -> Conversation:
        """See Harness."""
        wire = self.accept(peer)
        WebSocketWire(wire).upgrade()
        return WebSocketConversation(self, wire)


class SecureWebSocketHarness(WebSocketHarness):
    """The same over TLS."""

    name = scheme = "wss"
    tls = True


# -- long-polled HTTP ----------------------------------------------------------------------------------


class LongPollConversation(Conversation):
    """Every delivery answers one held request with a body of lines."""

    def pieces(self, payloads: Sequence[bytes]) -> tuple[Callable[[], None], bytes]:
        """See Conversation."""
        body = b"".join(payload + b"\n" for payload in payloads)
        return self._await_request, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def deliver(self, *payloads: bytes) -> None:
        """See Conversation."""
        ready, data = self.pieces(payloads)
        ready()
        self.wire.sock.sendall(data)

    def _await_request(self) -> None:
        self.wire.head()


class LongPollHarness(Harness):
    """Held requests; the cursor is a count, so no two requests are the same."""

    name = "longpoll"
    scheme = "http"
    sends = False

    def make(self, target: Target, receiver: Receiver) -> Transport:
        """See Harness."""
        return LongPollTransport(target, receiver)

    def options(self) -> dict[str, Any]:
        """See Harness."""
        seen = [0]

        def polled(status: int, headers: Any, body: bytes) -> tuple[list[bytes], bool]:
            seen[0] += 1
            return body.split(b"\n")[:-1], True

        return {"poll": lambda: Ask(params=(("after", str(seen[0])),)), "polled": polled}

    def meet(self, peer: RawPeer) -> Conversation:
        """See Harness."""
        return LongPollConversation(self, peer.accept())


# -- Redis -----------------------------------------------------------------------------------------------


class RedisConversation(Conversation):
    """After the log-in."""

    def read(self) -> bytes:
        """See Conversation: the channels of a command."""
        return b" ".join(word.encode() for word in _words(self.wire)[1:])


class RedisHarness(Harness):
    """A Redis server as far as pub/sub needs it."""

    name = scheme = "redis"
    sends = False               # commands only
    handshakes = True

    def make(self, target: Target, receiver: Receiver) -> Transport:
        """See Harness."""
        from streams.transports.redis import RedisTransport
        return RedisTransport(target, receiver)

    def encode(self, payload: bytes) -> bytes:
        """See Harness."""
        words = b"message", b"channel", payload
        return b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def payloads(self, messages: Sequence[Any]) -> list[bytes]:
        """See Harness."""
        from streams.pubsub import Kind, unpack
        parts = [unpack(message) for message in messages]
        return [part.payload for part in parts if part.kind == Kind.MESSAGE]

    def meet(self, peer: RawPeer) -> Conversation:
        """See Harness."""
        wire = peer.accept()
        while _words(wire) != ["PING"]:
            wire.sock.sendall(b"+OK\r\n")
        wire.sock.sendall(b"+PONG\r\n")
        return RedisConversation(self, wire)


def _words(wire: Wire) -> list[str]:
    """One command of a client."""
    words = []
    for _ in range(int(wire.until(b"\r\n")[1:])):
        size = int(wire.until(b"\r\n")[1:])
        words.append(wire.exactly(size + 2)[:-2].decode())
    return words


HARNESSES: tuple[Harness, ...] = (
    TcpHarness(), TlsHarness(), LinesHarness(), WebSocketHarness(), SecureWebSocketHarness(),
    LongPollHarness(), RedisHarness(),
)

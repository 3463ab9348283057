"""The server's side of a WebSocket, played by hand, and a listener that notes what arrives."""

from __future__ import annotations

import base64
import collections
import concurrent.futures
import hashlib
import os
import re
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streams.transports.base import Closed, Target
from streams.transports.websocket import WebSocketTransport

from ..raw_peer import PATIENCE, RawPeer, Wire, beside

DATA = Path(__file__).resolve().parent.parent / "data"
CERT, KEY = str(DATA / "loopback.crt"), str(DATA / "loopback.key")
LOCKED, PASSWORD = str(DATA / "encrypted.key"), "tulip"  # the same key, encrypted

Job = tuple[Callable[[], Any], concurrent.futures.Future[Any]]

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(
    opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, mask: bytes = b"",
    form: int | None = None,
) -> bytes:
    """One frame of RFC 6455 section 5.2; ``form`` forces a length of 7, 16 or 64 bits."""
    size = len(payload)
    if form is None:
        form = 7 if size < 126 else 16 if size < 65536 else 64
    if form == 7:
        length = bytes([size])
    else:
        length = bytes([126 if form == 16 else 127]) + size.to_bytes(form // 8, "big")
    head = bytes([fin << 7 | rsv << 4 | opcode, length[0] | (0x80 if mask else 0)]) + length[1:]
    return head + mask + masked(payload, mask or bytes(4))


def masked(payload: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def accept_key(request: str) -> str:
    found = re.search(r"(?i)^Sec-WebSocket-Key: (\S+)", request, re.M)
    assert found, request
    digest = hashlib.sha1((found[1] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    return base64.b64encode(digest).decode()


class WebSocketWire:
    """One connection, after ``upgrade()`` a WebSocket."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.sock = wire.sock
        self.request = ""

    def upgrade(self, *extra: str, behind: bytes = b"") -> WebSocketWire:
        self.request = self.wire.head()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
                 f"Sec-WebSocket-Accept: {accept_key(self.request)}", *extra, "", ""]
        self.sock.sendall("\r\n".join(lines).encode() + behind)
        return self

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(frames))

    def read(self) -> tuple[int, bytes]:
        """The client's next frame: opcode and payload. It must be whole and masked."""
        first, second = self.wire.exactly(2)
        assert first & 0x80 and not first & 0x70, "the client sends whole frames without extensions"
        assert second & 0x80, "the client must mask"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(self.wire.exactly(2), "big")
        elif size == 127:
            size = int.from_bytes(self.wire.exactly(8), "big")
        mask = self.wire.exactly(4)
        data = self.wire.exactly(size)
        if size > 1000:
            whole = int.from_bytes(data, "big") ^ int.from_bytes((mask * (size // 4 + 1))[:size], "big")
            return first & 0xF, whole.to_bytes(size, "big")
        return first & 0xF, masked(data, mask)

    def read_until(self, opcode: int) -> bytes:
        while True:
            got, payload = self.read()
            if got == opcode:
                return payload


class WebSocketPeer(RawPeer):
    """A listener for WebSocket clients, plain or TLS."""

    def __init__(self, backlog: int = 8, tls: bool = False) -> None:
        super().__init__(backlog)
        self.url = f"{'wss' if tls else 'ws'}://127.0.0.1:{self.port}/feed"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self.context is not None:
            self.context.load_cert_chain(CERT, KEY)

    def accept(self) -> Wire:
        wire = super().accept()
        if self.context is not None:
            wire.sock = self.context.wrap_socket(wire.sock, server_side=True)
            self._open.append(wire.sock)
        return wire

    def meet(self, *extra: str, behind: bytes = b"") -> WebSocketWire:
        return WebSocketWire(self.accept()).upgrade(*extra, behind=behind)


class Listener:
    """A receiver that notes everything, and runs what a test wants run on the network thread."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.batches: list[int] = []
        self.every = 60.0  # seconds between ticks
        self.on_message: Callable[[Any], None] | None = None
        self._changed = threading.Condition()
        self._jobs: collections.deque[Job] = collections.deque()

    def _note(self, *events: tuple[str, Any]) -> None:
        with self._changed:
            self.events.extend(events)
            self._changed.notify_all()

    def opened(self) -> None:
        self._note(("opened", None))

    def received(self, messages: Any) -> None:
        self.batches.append(len(messages))
        self._note(*(("message", message) for message in messages))
        heard = self.on_message  # a test may take it away at any moment
        if heard is not None:
            for message in messages:
                heard(message)

    def alive(self) -> None:
        self._note(("alive", None))

    def malformed(self, reason: str) -> None:
        self._note(("malformed", reason))

    def tick(self) -> float:
        self._note(("tick", None))
        while self._jobs:
            job, future = self._jobs.popleft()
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
        return self.every

    @property
    def messages(self) -> list[Any]:
        return [what for kind, what in list(self.events) if kind == "message"]

    def count(self, kind: str) -> int:
        return sum(1 for name, _ in list(self.events) if name == kind)

    def wait(self, kind: str, number: int = 1) -> None:
        """Until ``kind`` has happened ``number`` times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count(kind) >= number, PATIENCE), (
                f"{number} x {kind} did not happen; {collections.Counter(k for k, _ in self.events)}"
            )


class Talk:
    """A transport running beside the test.

    Leaving the ``with`` block aborts it, and makes sure that its thread is gone.
    """

    def __init__(self, url: str, **target: Any) -> None:
        self.listener = Listener()
        self.transport = WebSocketTransport(Target(url, **target), self.listener)
        self._run: concurrent.futures.Future[Closed] | None = None

    def start(self) -> Talk:
        self._run = beside(self.transport.run)
        return self

    def call(self, job: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        """Run ``job`` on the network thread, in a tick."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.listener._jobs.append((job, future))
        self.transport.wake()
        return future.result(timeout)

    def closed(self, timeout: float = PATIENCE) -> Closed:
        assert self._run is not None
        return self._run.result(timeout)

    def __enter__(self) -> Talk:
        return self.start()

    def __exit__(self, *_: Any) -> None:
        self.transport.abort()
        assert self._run is not None
        self._run.thread.join(PATIENCE)  # type: ignore[attr-defined]
        assert not self._run.thread.is_alive()  # type: ignore[attr-defined]


def descriptors() -> int:
    """Open descriptors of this process, where the system tells; else 0."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0

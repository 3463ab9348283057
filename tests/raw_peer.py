"""A TCP peer that a test plays by hand, and how to run the other side beside it."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from collections.abc import Callable
from typing import Any

PATIENCE = 10.0  # seconds: what should happen does so much earlier; reached only when it does not


class RawPeer:
    """A listener on loopback; ``accept()`` gives the connections, all closed at the end."""

    def __init__(self, backlog: int = 8) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self._listener.settimeout(PATIENCE)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []

    def accept(self) -> Wire:
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE)
        self._open.append(sock)
        return Wire(sock)

    def fill_backlog(self) -> None:
        """Have the kernel leave further connects unanswered. The listener was made with backlog 0."""
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self._open.append(sock)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: Any) -> None:
        for sock in (self._listener, *self._open):
            sock.close()


class Wire:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def head(self) -> str:
        """The next request without a body, up to the empty line."""
        return self.until(b"\r\n\r\n").decode()

    def until(self, end: bytes) -> bytes:
        while end not in self._rest:
            self._more()
        cut = self._rest.index(end) + len(end)
        data, self._rest = self._rest[:cut], self._rest[cut:]
        return data

    def exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._more()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _more(self) -> None:
        data = self.sock.recv(65536)
        assert data, f"the client closed after {self._rest!r}"
        self._rest += data

    def answer(self, body: bytes = b"", status: str = "200 OK", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def ended(self) -> bool:
        """Whether the client closes (or resets) the connection, waited for."""
        try:
            while self.sock.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()


def beside(function: Callable[..., Any], *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
    """``function`` in a thread of its own; a daemon, so that a hanging one can not hang the tests."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def work() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=work, name="beside", daemon=True)
    thread.start()
    future.thread = thread  # type: ignore[attr-defined]
    return future

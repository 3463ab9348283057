"""A stretch of network between client and server that can go silent: nothing passes any more through the
connections there are, and nobody is told; new ones work."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Any


class Relay:
    """Passes bytes between its own port and another one, both on loopback."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._poked, self._poker = socket.socketpair()
        self._selector.register(self._poked, selectors.EVENT_READ)
        self._others: dict[socket.socket, socket.socket] = {}
        self._silent: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="relay", daemon=True)

    def go_silent(self) -> int:
        """Let nothing pass any more through the connections of now; how many there are."""
        with self._lock:
            self._silent.update(self._others)
            return len(self._others) // 2

    def _work(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._poked:
                    return
                with self._lock:
                    self._accept() if key.fileobj is self._listener else self._pass(key.fileobj)

    def _accept(self) -> None:
        here, _ = self._listener.accept()
        there = socket.create_connection(("127.0.0.1", self._target))
        for one, other in ((here, there), (there, here)):
            self._others[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass(self, source: Any) -> None:
        other = self._others.get(source)
        if other is None:
            return
        data = b""
        with contextlib.suppress(OSError):
            data = source.recv(65536)
            if data and source not in self._silent:
                other.sendall(data)
        if not data:
            self._selector.unregister(source)
            if source not in self._silent:
                for sock in (source, other):
                    self._others.pop(sock, None)
                with contextlib.suppress(KeyError):
                    self._selector.unregister(other)
                source.close()
                other.close()

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._poker.send(b"!")
        self._thread.join()
        self._selector.close()
        for sock in (self._listener, self._poked, self._poker, *self._others):
            sock.close()

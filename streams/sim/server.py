"""A TCP server on loopback: one listening socket, one thread per connection.

It knows nothing of HTTP, WebSockets or venues. A venue that speaks plain TCP derives from
`LoopbackServer` and writes its conversation as straight code in `handle`; see `web` for HTTP and
WebSockets on the same port.
"""
from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from .peer import Peer, PeerGone

logger = logging.getLogger("streams.sim")

_HOST = "127.0.0.1"
_S = TypeVar("_S", bound="LoopbackServer")


class LoopbackServer:
    """Accepts connections on 127.0.0.1 and runs `handle` for each in a thread of its own.

    Args:
        port: 0 picks a free one; it stays the same over ``stop`` and ``start``.
        ssl_context: a server-side context makes every connection TLS.
        send_limit: bytes that may wait for a client that does not read; beyond, it is dropped.

    Attributes:
        name: used in the names of the threads.
        slow_clients: how many clients were dropped because they did not read.
    """

    name = "loopback"

    def __init__(self, *, port: int = 0, ssl_context: ssl.SSLContext | None = None,
                 send_limit: int = 16 << 20) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port {port}: expected 0 (any free port) to 65535")
        if send_limit < 1:
            raise ValueError(f"send_limit {send_limit}: expected a number of bytes above 0")
        self.ssl_context = ssl_context
        self.send_limit = send_limit
        self.slow_clients = 0
        self.stopping = threading.Event()
        self.stopping.set()
        self._port = port
        self._changed = threading.Condition()
        self._changes = 0
        self._state_lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._peers: dict[Peer, threading.Thread] = {}
        self._peers_lock = threading.Lock()
        self._count = 0

    # -- to be written by servers ---------------------------------------------------------------

    def handle(self, peer: Peer) -> None:
        """The whole conversation with one client; returning ends the connection politely.

        Threads: runs in the connection's own thread. It may block in ``peer.recv`` for as long
        as it likes: `stop` ends that with `PeerGone`, which needs no handling.
        """
        raise NotImplementedError

    def accepted_peer(self, peer: Peer) -> None:
        """Called before the TLS handshake, in the connection's own thread."""

    def forget_peer(self, peer: Peer) -> None:
        """Called when a connection is over, in its own thread."""

    # -- life -----------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The TCP port; 0 before the first start. Threads: any."""
        return self._port

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``. Threads: any."""
        return f"{_HOST}:{self._port}"

    def start(self) -> None:
        """Listen; a second call is ignored.

        Threads: any.

        Raises:
            OSError: the port is taken.
        """
        with self._state_lock:
            if not self.stopping.is_set():
                return
            self._listen()
            self.stopping.clear()
            self._start_acceptor()

    def stop(self, timeout: float = 1.0) -> bool:
        """Close everything and wait for the threads; safe in any state, any number of times.

        Threads: any.

        Returns:
            True when no thread of this server is left.
        """
        deadline = time.monotonic() + timeout
        with self._state_lock:
            self.stopping.set()
            self._stop_acceptor()
            with self._peers_lock:
                threads = dict(self._peers)
            for peer in threads:
                peer.end("abort")
            self.notify()
            for thread in threads.values():
                if thread is not threading.current_thread():
                    thread.join(max(0.0, deadline - time.monotonic()))
        alive = [thread.name for thread in threads.values() if thread.is_alive()]
        if alive:
            logger.warning("%s: still running after %.1f s: %s", self.name, timeout, alive)
        return not alive

    def __enter__(self: _S) -> _S:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    def pause_listening(self) -> None:
        """Close the listening socket: new connections are refused by the system itself.

        Threads: any.
        """
        with self._state_lock:
            self._stop_acceptor()

    def resume_listening(self) -> None:
        """Listen again, on the same port.

        Threads: any.
        """
        with self._state_lock:
            if self._listener is None and not self.stopping.is_set():
                self._listen()
                self._start_acceptor()

    # -- events ---------------------------------------------------------------------------------

    def notify(self) -> None:
        """Something happened that a waiter may be interested in. Threads: any."""
        with self._changed:
            self._changes += 1
            self._changed.notify_all()

    def wait_for(self, predicate: Callable[[], object], timeout: float) -> bool:
        """Wait until ``predicate()`` is true; it is asked again after every event (connection,
        subscription, client message, REST request, fault). No lock is held while it runs.

        Threads: any but those of this server.

        Returns:
            True, or False when ``timeout`` seconds have passed.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                seen = self._changes
            if predicate():
                return True
            with self._changed:
                left = deadline - time.monotonic()
                if not self._changed.wait_for(lambda: self._changes != seen, max(0.0, left)):
                    return bool(predicate())

    def peers(self) -> list[Peer]:
        """The TCP connections that are open now. Threads: any."""
        with self._peers_lock:
            return list(self._peers)

    # -- inside ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):      # Windows: SO_REUSEADDR would share
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, self._port))
            listener.listen(128)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        self._listener = listener

    def _start_acceptor(self) -> None:
        assert self._listener is not None
        self._wake = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, args=(self._listener, self._wake[0]),
            name=f"sim-{self.name}-accept", daemon=True)
        self._acceptor.start()

    def _stop_acceptor(self) -> None:
        if self._acceptor is not None and self._wake is not None:
            self._wake[1].send(b"\0")
            self._acceptor.join()
            for end in self._wake:
                end.close()
        if self._listener is not None:
            self._listener.close()
        self._acceptor = self._wake = self._listener = None

    def _accept(self, listener: socket.socket, wake: socket.socket) -> None:
        while True:
            _wait_readable(listener, wake)
            if _is_readable(wake):
                return
            try:
                sock, address = listener.accept()
            except OSError:                 # gone again between the poll and here
                continue
            self._count += 1
            peer = Peer(sock, address, self._count, self.send_limit, self.stopping)
            thread = threading.Thread(target=self._serve, args=(peer,), daemon=True,
                                      name=f"sim-{self.name}-{self._count}")
            with self._peers_lock:
                self._peers[peer] = thread
            thread.start()
            self.notify()

    def _serve(self, peer: Peer) -> None:
        try:
            self.accepted_peer(peer)
            if self.ssl_context is not None:
                peer.start_tls(self.ssl_context)
            self.handle(peer)
        except PeerGone:
            pass
        except Exception:
            logger.exception("%s: connection %d failed", self.name, peer.number)
        finally:
            with contextlib.suppress(OSError):
                peer.terminate()
            with self._peers_lock:
                self._peers.pop(peer, None)
                self.slow_clients += peer.overflowed
            self.forget_peer(peer)
            self.notify()


def _wait_readable(first: socket.socket, second: socket.socket) -> None:
    if hasattr(select, "poll"):             # select() cannot watch descriptors above 1023
        poller = select.poll()
        poller.register(first.fileno(), select.POLLIN)
        poller.register(second.fileno(), select.POLLIN)
        poller.poll()
    else:
        select.select([first, second], [], [])


def _is_readable(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False

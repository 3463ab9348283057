"""One accepted TCP connection: written from any thread, read and ended by its own.

The socket never blocks. What it does not take at once waits in an outbox that is bounded: a
client that does not read is dropped, as a venue would, and holds up nobody else. Whoever wants
the connection gone says how (`Peer.end`); the connection's own thread does it, so that no file
descriptor is ever closed under a thread that is polling it.
"""
from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal

Ending = Literal["finish", "drop", "reset", "abort"]

_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_READ_SIZE = 65536
_LINGER = 1.0       # seconds that a polite ending waits for the client


class PeerGone(Exception):
    """The connection is over: by the client, by a fault, or because the server stops."""


class Peer:
    """One TCP (or TLS) connection of a client.

    Attributes:
        number: 1, 2, 3, ... in the order of acceptance.
        address: the client's address.
        overflowed: True once the client was dropped for not reading.
    """

    def __init__(self, sock: socket.socket, address: object, number: int, limit: int,
                 stopping: threading.Event) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = number
        self.address = address
        self.overflowed = False
        self._sock = sock
        self._limit = limit
        self._stopping = stopping
        self._lock = threading.Lock()
        self._outbox: deque[bytes | Iterator[bytes]] = deque()
        self._head = memoryview(b"")
        self._size = 0
        self._blocked = False
        self._ending: Ending | None = None
        self._closed = False
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)

    # -- writing -------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """Bytes that wait for the client to read. Threads: any."""
        return self._size

    def queue(self, data: bytes) -> None:
        """Add bytes to the outbox without touching the socket; `flush` sends them.

        Threads: any.
        """
        with self._lock:
            if self._ending is not None or self._closed:
                return
            self._outbox.append(data)
            self._size += len(data)
            if self._size > self._limit:
                self.overflowed = True
        if self.overflowed:
            self.end("reset")

    def queue_lazily(self, chunks: Iterator[bytes]) -> None:
        """Add bytes that are made only when the socket takes them, for very large answers.

        Threads: any; ``chunks`` is run by whoever flushes.
        """
        with self._lock:
            if self._ending is None:
                self._outbox.append(chunks)

    def send(self, data: bytes) -> None:
        """`queue` and `flush`. Threads: any."""
        self.queue(data)
        self.flush()

    def flush(self) -> None:
        """Give the socket as much of the outbox as it takes now.

        Threads: any.
        """
        with self._lock:
            was_blocked = self._blocked
            self._flush_locked()
            wake = self._blocked and not was_blocked
        if wake:                # the connection's thread sends the rest when there is room
            self.wake()

    def _flush_locked(self) -> None:
        self._blocked = False
        while not self._closed and self._next_head():
            try:
                sent = self._sock.send(self._head)
            except _BLOCKED:
                self._blocked = True
                return
            except OSError:     # the reading side will notice and end the connection
                self._discard()
                return
            self._head = self._head[sent:]
            self._size = max(0, self._size - sent)

    def _next_head(self) -> bool:
        if self._head:
            return True
        whole: list[bytes] = []
        size = 0
        while self._outbox and size < 4 * _READ_SIZE:
            item = self._outbox[0]
            if isinstance(item, bytes):
                whole.append(item)
                size += len(item)
                self._outbox.popleft()
            elif whole:
                break
            else:
                chunk = next(item, None)
                if chunk is None:
                    self._outbox.popleft()
                    continue
                self._size += len(chunk)
                whole.append(chunk)
                break
        self._head = memoryview(b"".join(whole))
        return bool(self._head)

    def _discard(self) -> None:
        self._outbox.clear()
        self._head = memoryview(b"")
        self._size = 0
        self._blocked = False

    # -- reading -------------------------------------------------------------------------------

    def recv(self, timeout: float | None = None, read: bool = True) -> bytes | None:
        """Bytes from the client; ``b""`` at its end; None when ``timeout`` seconds have passed
        or another thread woke the connection. With ``read=False`` the client's bytes are left
        in the socket, and only its disappearance is noticed where the system can tell.

        Threads: the connection's own thread only.

        Raises:
            PeerGone: somebody asked for the end of this connection.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._ending is not None or self._stopping.is_set():
                raise PeerGone(self._ending or "abort")
            if read:
                with self._lock:
                    try:
                        return self._sock.recv(_READ_SIZE)
                    except _BLOCKED:
                        pass
                    except OSError:
                        return b""
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            ready, writable, woken = self._poll(read, self._blocked, left)
            if writable:
                self.flush()
            if woken:
                return None
            if ready and not read:
                return b""

    def wait_gone(self, read: bool = True) -> None:
        """Stay until the client or somebody here ends the connection; its bytes are ignored.

        Threads: the connection's own thread only.
        """
        with contextlib.suppress(PeerGone):
            while self.recv(None, read) != b"":
                pass

    def start_tls(self, context: ssl.SSLContext) -> None:
        """The server's half of a TLS handshake.

        Threads: the connection's own thread only.

        Raises:
            PeerGone: the handshake failed, or somebody asked for the end.
        """
        try:
            wrapped = context.wrap_socket(self._sock, server_side=True,
                                          do_handshake_on_connect=False)
        except (OSError, ValueError) as error:
            raise PeerGone(str(error)) from None
        self._sock = wrapped
        while self._ending is None and not self._stopping.is_set():
            try:
                wrapped.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._poll(True, False, None)
            except ssl.SSLWantWriteError:
                self._poll(False, True, None)
            except (OSError, ValueError) as error:
                raise PeerGone(str(error)) from None
        raise PeerGone(self._ending or "abort")

    # -- ending --------------------------------------------------------------------------------

    def end(self, how: Ending) -> None:
        """Ask for the end: ``finish`` (all that was queued, then FIN), ``drop`` (FIN at once),
        ``reset`` (RST) or ``abort`` (close, whatever follows). The first to ask wins.

        Threads: any.
        """
        with self._lock:
            if self._ending is not None:
                return
            self._ending = how
            if how != "finish":
                self._discard()
        self.wake()

    def terminate(self) -> None:
        """Carry out the end that was asked for (``finish`` if none was) and close.

        Threads: the connection's own thread only, as its last act.
        """
        how = "abort" if self._stopping.is_set() else self._ending or "finish"
        try:
            if how == "finish":
                self._flush_out()
            if how == "reset":
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                      struct.pack("hh" if _WINDOWS else "ii", 1, 0))
            elif how != "abort":
                self._say_end(how)
                self._linger()
        except OSError:
            pass                # the client was faster
        finally:
            with self._lock:
                self._closed = True
                self._discard()
                self._sock.close()
            self._wake_r.close()
            with self._lock:
                self._wake_w.close()

    def _flush_out(self) -> None:
        deadline = time.monotonic() + _LINGER
        self.flush()
        while self._blocked and not self._stopping.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                return
            self._poll(False, True, left)
            self.flush()

    def _say_end(self, how: str) -> None:
        if how == "finish" and isinstance(self._sock, ssl.SSLSocket):
            with contextlib.suppress(OSError, ValueError):
                self._sock.unwrap()             # sends close_notify; its answer is not awaited
        self._sock.shutdown(socket.SHUT_WR)

    def _linger(self) -> None:
        """Read until the client's own FIN: closing with unread bytes would send a RST."""
        deadline = time.monotonic() + _LINGER
        while not self._stopping.is_set():
            try:
                if not self._sock.recv(_READ_SIZE):
                    return
            except _BLOCKED:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._poll(True, False, left)

    # -- waiting -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let the connection's own thread look around: its `recv` returns None. Threads: any."""
        with self._lock:
            if self._closed:
                return
            with contextlib.suppress(OSError):      # full: it is awake already
                self._wake_w.send(b"\0")

    def _poll(self, read: bool, write: bool,
              timeout: float | None) -> tuple[bool, bool, bool]:
        """Wait; answers (readable or gone, writable, woken)."""
        if _HAS_POLL:
            ready, writable, woken = self._poll_poll(read, write, timeout)
        else:
            ready, writable, woken = self._poll_select(read, write, timeout)
        if woken:
            with contextlib.suppress(OSError):
                while self._wake_r.recv(4096):
                    pass
        return ready, writable, woken

    def _poll_poll(self, read: bool, write: bool,
                   timeout: float | None) -> tuple[bool, bool, bool]:
        poller = select.poll()
        number = self._sock.fileno()
        wanted = (select.POLLIN if read else _GONE) | (select.POLLOUT if write else 0)
        poller.register(number, wanted)
        poller.register(self._wake_r.fileno(), select.POLLIN)
        found = dict(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))
        seen = found.pop(number, 0)
        failed = seen & (select.POLLHUP | select.POLLERR | select.POLLNVAL)
        ready = bool(seen & wanted & ~select.POLLOUT or failed)
        return ready, bool(seen & select.POLLOUT), bool(found)

    def _poll_select(self, read: bool, write: bool,
                     timeout: float | None) -> tuple[bool, bool, bool]:
        readers: list[socket.socket] = [self._wake_r] + ([self._sock] if read else [])
        writers = [self._sock] if write else []
        r, w, x = select.select(readers, writers, [self._sock], timeout)
        return self._sock in r or self._sock in x, bool(w), self._wake_r in r


_HAS_POLL = hasattr(select, "poll")
_GONE: int = getattr(select, "POLLRDHUP", 0)    # Linux only: the client's FIN, without reading
_WINDOWS = not hasattr(socket, "AF_UNIX")

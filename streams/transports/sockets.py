"""One TCP connection, plain or TLS, direct or through a proxy, whose every wait can be cut short.

Waits are polls of the socket and of a wake-up pair, so ``wake()`` and ``abort()`` of another thread act
at once in any phase (resolving, connecting, proxy, TLS, reading, sending), and every phase has its own
time-out. One wait is not: while data come in quick succession, Linux may wait in a read, for ``SOON``
at the longest. ``abort()`` ends that at once, too; a ``wake()`` is noticed after it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..errors import Aborted, ConnectFailed, ConnectionLost
from ..forking import tell_after_fork
from . import names
from .proxies import Proxy, pass_through
from .tls import TlsCodec
from .waiting import Waiter, best_waiter

__all__ = ["BLOCK", "Line", "peer_name"]

BLOCK = 65536  # bytes of one read; a larger one costs 15 us more, for the memory
MUCH = 131072  # bytes of one read while more is there: without the GIL two streams gain a tenth
_PATIENCE = 0.1  # seconds for which the lock of a line, held for microseconds, is waited for
LEISURE = 0.002  # seconds for which data gather while nobody waits for them ...
QUICK = 0.004  # ... if blocks come closer together than that
SOON = 0.01  # seconds for which one blocking read waits, if the last one waited no longer than that
_FULL = 16384  # a block this long means that more is there: read on before waiting
# Where the kernel lets one read of a blocking socket be immediate, and another wait for so long: to wait by
# reading is 4 us quicker than to poll first, and nobody who pokes has to wait longer than SOON.
_AT_ONCE = socket.MSG_DONTWAIT if sys.platform == "linux" else 0
# 10035 is WSAEWOULDBLOCK.
_IN_PROGRESS = {errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY, errno.EINTR, 10035}

# Half-open connections are the watchdog's business (it knows how long silence is normal); the kernel's
# keep-alive only makes sure that a forgotten one ends at all. Not every system has every option.
_SOCKET_OPTIONS = [
    (getattr(socket, level), getattr(socket, name), value)
    for level, name, value in (
        ("IPPROTO_TCP", "TCP_NODELAY", 1),
        ("SOL_SOCKET", "SO_KEEPALIVE", 1),
        ("IPPROTO_TCP", "TCP_KEEPIDLE", 30),
        ("IPPROTO_TCP", "TCP_KEEPALIVE", 30),  # what macOS calls TCP_KEEPIDLE
        ("IPPROTO_TCP", "TCP_KEEPINTVL", 10),
        ("IPPROTO_TCP", "TCP_KEEPCNT", 3),
    )
    if hasattr(socket, name)
]


def peer_name(host: str, port: int) -> str:
    """``host:port`` as people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Line:
    """One connection. Threads: one owner; ``wake()`` and ``abort()`` from any.

    Attributes:
        attention: Somebody wants the owner to look around (``wake()``, ``abort()``); the owner
            clears it before it looks.
        aborted: ``abort()`` was called; never cleared.
        failure: Why nothing can be sent any more; what has arrived can still be read.
        leisure: Nobody waits for each single message: ``read()`` may let data gather first.
        receive: Next block of bytes without waiting: ``b""`` at the end of the stream.
            Raises ``BlockingIOError`` when there is nothing yet, ``OSError`` when the connection broke.
        wait: ``wait(seconds)`` until there is something to receive, or a poke, or the time is over.
    """

    receive: Callable[[], bytes]
    wait: Callable[[float], object]
    _receive_much: Callable[[], bytes]  # a larger block, for when more is known to be there
    _receive_soon: Callable[[], bytes]  # the same as receive, waiting for SOON
    _pause: Callable[[float], object]

    def __init__(self) -> None:
        self.attention = False
        self.aborted = False
        self.leisure = False
        self.failure: ConnectionLost | None = None
        # Re-entrant: a signal handler may call abort() while the same thread is inside wake().
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._poker: socket.socket | None = None
        self._poked: socket.socket | None = None
        self._tls: TlsCodec | None = None
        self._patient = False   # a read may wait
        self._more = False      # the last block was so long that there must be more
        self._since = -1.0      # when the last wait for a block began
        self._early = b""       # what came in one piece with the end of the TLS handshake
        self._writing: Waiter | None = None
        self._peer = ""
        tell_after_fork(self)

    # -- any thread ------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the owner look around. Threads: any; never blocks."""
        self.attention = True
        self._poke()

    def abort(self) -> None:
        """End whatever the owner is doing here. Threads: any; never blocks."""
        self.aborted = True
        self.attention = True
        with self._hold():
            if self._sock is not None:
                _shut(self._sock)
            self._poke()

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. The connection is the parent's: nobody here says anything on
        it, and no copy of its socket keeps it open when the parent closes it."""
        self._lock = threading.RLock()
        self.aborted = True
        self.close()

    def _poke(self) -> None:
        with self._hold():
            if self._poker is not None:
                try:
                    self._poker.send(b"!")
                except OSError:
                    pass  # full: the owner will wake up anyway

    @contextlib.contextmanager
    def _hold(self) -> Iterator[None]:
        """Hold the lock; or go on without it, if somebody keeps it whom a signal handler has interrupted that
        waits for this thread: what that one does next fails on closed sockets, and that is all."""
        held = self._lock.acquire(timeout=_PATIENCE)
        try:
            yield
        finally:
            if held:
                self._lock.release()

    # -- opening ---------------------------------------------------------------------------------

    def open(self, host: str, port: int, timeout: float, proxy: Proxy | None = None,
             deadline: float = math.inf) -> None:
        """Resolve, connect, and have the proxy connect, each within ``timeout`` seconds, and all of it by
        ``deadline`` (of ``time.monotonic()``).

        Raises:
            ConnectFailed: No connection.
            Aborted: ``abort()`` was called.
        """
        def step() -> float:
            return max(0.0, min(timeout, deadline - time.monotonic()))
        self._peer = peer_name(host, port)
        poked, poker = socket.socketpair()
        poked.setblocking(False)
        poker.setblocking(False)
        with self._lock:
            self._poked, self._poker = poked, poker
        if proxy is None:
            self._connect(self._resolve(host, port, step()), step())
            return
        self._connect(self._resolve(proxy.host, proxy.port, step()), step())
        if proxy.kind == "socks5":
            host = str(self._resolve(host, port, step())[0][4][0])
        seconds = step()
        try:
            pass_through(self, proxy, host, port, time.monotonic() + seconds)
        except TimeoutError:
            raise ConnectFailed(f"the {proxy.name} gave no answer within {seconds:.3g} s") from None
        except OSError as error:
            raise ConnectFailed(f"the {proxy.name}: {error.strerror or error}") from None

    def _resolve(self, host: str, port: int, timeout: float) -> list[names.Address]:
        if names.is_numeric(host):
            return names.numeric(host, port)
        poke = self._poke
        lookup = names.join(host, port, poke)
        assert self._poked is not None
        try:
            waiter = best_waiter(None, self._poked)
            deadline = time.monotonic() + timeout
            while not lookup.done:
                left = deadline - time.monotonic()
                self._check()
                if left <= 0:
                    raise ConnectFailed(f"the name {host} was not resolved within {timeout:.3g} s")
                waiter.wait(left)
        finally:
            lookup.leave(poke)
        self._check()
        if not lookup.addresses:
            raise ConnectFailed(f"the name {host} could not be resolved: {lookup.error or 'no address'}")
        return lookup.addresses

    def _connect(self, addresses: list[names.Address], timeout: float) -> None:
        """To the first that answers; those that are left share what is left of ``timeout`` seconds."""
        failures = []
        deadline = time.monotonic() + timeout
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            name = peer_name(str(address[0]), int(address[1]))
            share = max(0.0, deadline - time.monotonic()) / (len(addresses) - number)
            try:
                self._connect_one(socket.socket(family, kind, protocol), address, share)
                return
            except TimeoutError:
                failures.append(f"{name}: no answer within {share:.3g} s")
            except OSError as error:
                failures.append(f"{name}: {error.strerror or error}")
        raise ConnectFailed("could not connect to " + "; ".join(failures))

    def _connect_one(self, sock: socket.socket, address: Any, timeout: float) -> None:
        assert self._poked is not None
        try:
            sock.setblocking(False)
            _prepare(sock)
            with self._lock:
                self._sock = sock
            self._check()
            code = sock.connect_ex(address)
            if code in _IN_PROGRESS:
                self._await(best_waiter(sock, self._poked, True), time.monotonic() + timeout)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:
            with self._lock:
                self._sock = None
                sock.close()
            raise
        self._writing = None
        self._patient = _be_patient(sock)
        self.receive = functools.partial(sock.recv, BLOCK, _AT_ONCE)
        self._receive_soon = functools.partial(sock.recv, BLOCK)
        self._receive_much = _receiving(sock)
        self.wait = best_waiter(sock, self._poked).wait
        self._pause = best_waiter(None, self._poked).wait

    def start_tls(self, codec: TlsCodec, timeout: float) -> None:
        """Have the rest of the conversation encrypted, the handshake within ``timeout`` seconds.

        Raises:
            ConnectFailed: The peer, its certificate or its name was not accepted, or it stalled.
            Aborted: ``abort()`` was called.
        """
        self._tls = codec       # if the peer is refused, close() tells it why
        deadline = time.monotonic() + timeout
        data = b""
        try:
            while not codec.handshake(data):
                self.send_by(codec.outgoing(), deadline)
                data = self.receive_by(deadline)
                if not data:
                    raise ConnectFailed(f"TLS with {self._peer}: the peer closed the connection")
            self.send_by(codec.outgoing(), deadline)
        except TimeoutError:
            raise ConnectFailed(f"TLS with {self._peer} was not ready within {timeout:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"TLS with {self._peer}: {error.strerror or error}") from None
        self._early = codec.decrypt(b"")
        self.receive = self._receive_much = functools.partial(self._receive_tls, _AT_ONCE)
        self._receive_soon = functools.partial(self._receive_tls, 0)
        wait = self.wait
        # A session that ended with data before it: the end is known, no socket will tell it again.
        self.wait = lambda seconds: codec.ended or bool(self._early) or wait(seconds)

    # -- talking ---------------------------------------------------------------------------------

    def read(self, now: float, due: float) -> bytes | None:
        """The next block, waited for from ``now`` until ``due`` (of ``time.monotonic()``) at the longest:
        ``b""`` at the end; None when none has come, because of the time, a poke, or nothing at all.

        Raises:
            OSError: The connection broke.
        """
        if self._more:
            receive = self._receive_much
        else:
            waited, self._since = now - self._since, now
            if self.leisure and waited < QUICK:
                self._pause(LEISURE)            # a poke ends it, and is used up
                if self.attention:
                    return None
            if self._patient and waited < SOON < due - now:
                receive = self._receive_soon
            else:
                self.wait(max(0.0, due - now))
                receive = self.receive
        try:
            block = receive()
        except BlockingIOError:
            self._more = False
            return None
        self._more = len(block) >= _FULL
        return block

    def receive_by(self, deadline: float) -> bytes:
        """Next block, waited for until ``deadline`` (of ``time.monotonic()``); ``b""`` at the end.

        Raises:
            TimeoutError: Nothing came.
            OSError: The connection broke.
            Aborted: ``abort()`` was called.
        """
        while True:
            self._check()
            try:
                return self.receive()
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None
                self.wait(left)

    def send(self, data: bytes, timeout: float) -> None:
        """Send all of it.

        Raises:
            ConnectionLost: It did not all leave within ``timeout`` seconds, or the connection broke: now, or
                earlier, perhaps in the middle of a message. The owner should look around.
            Aborted: ``abort()`` was called meanwhile.
        """
        if self._sock is None:
            raise ConnectionLost("not connected")
        if self.failure is None:
            try:
                if self._tls is not None:
                    data = self._tls.encrypt(data)
                self.send_by(data, time.monotonic() + timeout)
                return
            except TimeoutError:
                self.failure = ConnectionLost(f"{self._peer} took no data for {timeout:g} s")
            except OSError as error:
                self._check()
                self.failure = ConnectionLost(f"sending to {self._peer}: {error.strerror or error}")
        self.attention = True
        raise self.failure

    def close(self) -> None:
        """Give everything back. Threads: the owner; harmless twice."""
        if self._tls is not None and self._sock is not None and not self.aborted:
            with contextlib.suppress(OSError):
                self._sock.send(self._tls.goodbye(), _AT_ONCE)
        with self._hold():
            for sock in (self._sock, self._poked, self._poker):
                if sock is not None:
                    sock.close()
            self._sock = self._poked = self._poker = None
        for name in ("receive", "_receive_much", "_receive_soon", "wait", "_pause"):
            self.__dict__.pop(name, None)       # they hold the sockets
        self._writing = None

    def _receive_tls(self, flags: int) -> bytes:
        codec, sock = self._tls, self._sock
        assert codec is not None and sock is not None
        if self._early:
            early, self._early = self._early, b""
            return early
        if codec.ended:
            if codec.failure is not None:
                raise codec.failure
            return b""
        data = sock.recv(BLOCK, flags)
        if not data:
            return b""
        plain = codec.decrypt(data)
        if codec.ended:
            return plain  # what there is to answer, close() sends
        answer = codec.outgoing()
        if answer:
            try:
                self.send_by(answer, time.monotonic() + 1.0)  # a key update: a few bytes
            except OSError as error:  # what came with it has come all the same
                self.failure = ConnectionLost(f"sending to {self._peer}: {error.strerror or 'no room'}")
                self.attention = True
        if not plain:
            raise BlockingIOError  # part of a record, or none of the application's
        return plain

    def send_by(self, data: bytes, deadline: float) -> None:
        """Send raw bytes (after TLS). Raises as ``receive_by``."""
        sock = self._sock
        assert sock is not None
        view = memoryview(data)
        while view:
            try:
                view = view[sock.send(view, _AT_ONCE):]
            except BlockingIOError:
                if self._writing is None:
                    assert self._poked is not None
                    self._writing = best_waiter(sock, self._poked, True)
                self._await(self._writing, deadline)

    def _await(self, waiter: Waiter, deadline: float) -> None:
        while True:
            self._check()
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if waiter.wait(left):
                return

    def _check(self) -> None:
        if self.aborted:
            raise Aborted("aborted")

    def receive_exactly(self, most: int, deadline: float, flags: int = 0) -> bytes:
        """At most ``most`` raw bytes (before TLS). Raises as ``receive_by``; the end is an ``OSError``."""
        assert self._sock is not None
        while True:
            self._check()
            try:
                data = self._sock.recv(most, flags | _AT_ONCE)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError from None
                self.wait(left)
                continue
            if not data:
                self._check()
                raise OSError("the connection was closed")
            return data


def _receiving(sock: socket.socket) -> Callable[[], bytes]:
    """``Line._receive_much`` of a plain socket. It has a buffer of its own, since to make one of that size
    takes 15 us; few connections ever need it."""
    buffer: memoryview | None = None
    receive = sock.recv_into

    def much() -> bytes:
        nonlocal buffer
        if buffer is None:
            buffer = memoryview(bytearray(MUCH))
        return buffer[:receive(buffer, MUCH, _AT_ONCE)].tobytes()
    return much


def _be_patient(sock: socket.socket) -> bool:
    """Have a read without ``_AT_ONCE`` wait for SOON, where that can be had."""
    if not _AT_ONCE:
        return False
    try:
        limit = struct.pack("@ll", *divmod(int(SOON * 1e6), 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    except OSError:
        return False
    sock.setblocking(True)
    return True


def _prepare(sock: socket.socket) -> None:
    for option in _SOCKET_OPTIONS:
        with contextlib.suppress(OSError):  # known by name only: some systems do that
            sock.setsockopt(*option)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # not connected yet, or no longer
        sock.shutdown(socket.SHUT_RDWR)

"""Name resolution that somebody can walk away from.

Nothing interrupts ``getaddrinfo``: it may sit for half a minute over a dead name server. So it runs
in a daemon thread of its own, and whoever asked waits for a poke, a time-out or an abort. A lookup
that nobody waits for any longer is left to end by itself.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Address", "Lookup", "is_numeric", "join", "numeric"]

Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]

# A young lookup of the same name is shared; an old one may be stuck on a network that has come
# back since, so a new one is tried beside it, up to a number that bounds the threads.
_SHARED_FOR = 1.0
_MOST_PER_NAME = 4

_lock = threading.Lock()
_pending: dict[tuple[str, int], list[Lookup]] = {}


def _forked() -> None:
    """In the child nobody is looking up anything, whoever held the lock."""
    global _lock
    _lock = threading.Lock()
    _pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Lookup:
    """One name being resolved. Threads: any.

    Attributes:
        addresses: What ``getaddrinfo`` gave; None while pending or failed.
        error: Why there are none; None while pending or found.
    """

    def __init__(self, host: str, port: int) -> None:
        self.addresses: list[Address] | None = None
        self.error: Exception | None = None
        self._key = (host, port)
        self._born = time.monotonic()
        self._pokes: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        return self.addresses is not None or self.error is not None

    @property
    def young(self) -> bool:
        return time.monotonic() - self._born < _SHARED_FOR

    def leave(self, poke: Callable[[], None]) -> None:
        """Stop waiting; ``poke`` will not be called any more (but for a call under way)."""
        with _lock:
            if poke in self._pokes:
                self._pokes.remove(poke)

    def _work(self) -> None:
        host, port = self._key
        try:
            self.addresses = list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP))
        except Exception as error:  # mostly OSError or UnicodeError; whatever it was, no waiter may hang
            self.error = error
        self._end()

    def _end(self) -> None:
        """There is an answer: have others that ask look anew, and those that wait take this one."""
        with _lock:
            mine = _pending.get(self._key, [])
            if self in mine:
                mine.remove(self)
            if not mine:
                _pending.pop(self._key, None)
            pokes, self._pokes = self._pokes, []
        for poke in pokes:
            poke()


def join(host: str, port: int, poke: Callable[[], None]) -> Lookup:
    """Start resolving ``host``, or join a lookup of it; ``poke`` is called once it is done.

    ``poke`` must not block: it is called in the helper's thread. Threads: any.
    """
    with _lock:
        same = _pending.setdefault((host, port), [])
        if same and (same[-1].young or len(same) >= _MOST_PER_NAME):
            same[-1]._pokes.append(poke)
            return same[-1]
        fresh = Lookup(host, port)
        fresh._pokes.append(poke)
        same.append(fresh)
    try:
        threading.Thread(target=fresh._work, name=f"streams-resolver-{host}", daemon=True).start()
    except BaseException as error:  # no more threads; or Ctrl-C
        fresh.error = OSError(f"no thread to ask in: {error}")
        fresh._end()
        if not isinstance(error, (RuntimeError, MemoryError)):
            raise
    return fresh


def is_numeric(host: str) -> bool:
    """Whether ``host`` is an IP address already, so that nothing has to be asked."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def numeric(host: str, port: int) -> list[Address]:
    """The socket address of an IP address; asks no name server, so it never blocks."""
    flags = socket.AI_NUMERICHOST
    return list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, socket.IPPROTO_TCP, flags))

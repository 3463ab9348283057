"""Waiting until a socket is ready, or somebody pokes: by ``poll``, or by ``select`` where there is none."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Protocol

__all__ = ["PollWaiter", "SelectWaiter", "Waiter", "best_waiter"]

_LONGEST_WAIT = 3600.0  # a poll's milliseconds must fit a C int


class Waiter(Protocol):
    """Waits until a socket is ready or the wake-up pair is poked."""

    def wait(self, seconds: float) -> bool:
        """True when the socket is ready; False after the time, or after a poke."""


class PollWaiter:
    """By ``select.poll``: registered once, no limit on descriptors.

    Args:
        sock: What to wait for; None: only for a poke.
        poked: The reading end of the wake-up pair; emptied when it is poked.
        writing: Wait until the socket takes data instead of until it gives some.
    """

    def __init__(self, sock: socket.socket | None, poked: socket.socket, writing: bool = False) -> None:
        self._poked = poked
        self._poked_fd = poked.fileno()
        poller = select.poll()
        poller.register(poked, select.POLLIN)
        if sock is not None:
            poller.register(sock, select.POLLOUT if writing else select.POLLIN)
        self._poll = poller.poll

    def wait(self, seconds: float) -> bool:
        ready = False
        for fd, _ in self._poll(min(seconds, _LONGEST_WAIT) * 1000.0):
            if fd == self._poked_fd:
                _empty(self._poked)
            else:
                ready = True
        return ready


class SelectWaiter:
    """By ``select.select``, where there is no ``poll`` (Windows)."""

    def __init__(self, sock: socket.socket | None, poked: socket.socket, writing: bool = False) -> None:
        self._poked = poked
        self._sock = sock
        self._read = [poked] if sock is None or writing else [poked, sock]
        self._write = [sock] if sock is not None and writing else []

    def wait(self, seconds: float) -> bool:
        # Windows reports a refused connection as an exceptional state, not as writable.
        read, write, failed = select.select(self._read, self._write, self._write, min(seconds, _LONGEST_WAIT))
        if self._poked in read:
            _empty(self._poked)
        return bool(write or failed or (self._sock is not None and self._sock in read))


def _empty(poked: socket.socket) -> None:
    try:
        poked.recv(4096)
    except OSError:
        pass


best_waiter: Callable[..., Waiter] = PollWaiter if hasattr(select, "poll") else SelectWaiter

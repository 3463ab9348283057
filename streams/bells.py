"""What threads wait for. Unlike a ``threading.Event``, which has a lock inside, each may be rung and waited
for by a signal handler that has interrupted somebody who does."""

from __future__ import annotations

import threading
from contextlib import suppress
from queue import Empty, SimpleQueue

from .locks import release

__all__ = ["Doorbell", "Latch"]


class Doorbell:
    """Wakes the one thread that waits for it, again and again."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()      # its put() is re-entrant

    def ring(self) -> None:
        """Threads: any."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float | None) -> bool:
        """Wait for a ring, at most so long; whether there was one since the last :meth:`clear`."""
        try:
            self._rings.get(timeout=seconds)
        except Empty:
            return False
        self.ring()
        return True

    def clear(self) -> None:
        """Forget that it was rung."""
        with suppress(Empty):
            while True:
                self._rings.get_nowait()


class Latch:
    """Something that happens once. Threads: any, for everything."""

    def __init__(self) -> None:
        self._happened = False
        self._lock = threading.Lock()       # nobody's, and held until then
        self._lock.acquire()

    def set(self) -> None:
        """It happens; idempotent."""
        self._happened = True
        release(self._lock)

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._happened

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for it, ``timeout`` seconds at most; whether it has happened."""
        if not self._happened:
            try:
                self._lock.acquire(
                    timeout=-1 if timeout is None else min(max(timeout, 0), threading.TIMEOUT_MAX))
            finally:
                if self._happened:
                    release(self._lock)     # the next one waits for it as well
        return self._happened

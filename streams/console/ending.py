"""When a command ends: Ctrl-C, SIGTERM, a number of seconds, a reader that has gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Ending", "let_go_of"]

_LOOK = 0.05        # seconds between two looks for a signal


class Ending:
    """Whether it is time to end; a context manager that listens to SIGINT and SIGTERM meanwhile.

    A handler of a signal only notes it: it may run in the middle of anything, so that setting an event
    there could wait for a lock which the very thread holds that it interrupts. A second Ctrl-C is for
    those who can not wait: it raises KeyboardInterrupt.

    Args:
        seconds: When to end without a signal; None: never.

    Attributes:
        signalled: The signal that came, 0 before.

    Threads: the main thread, for the sake of signals; elsewhere none is listened to.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.signalled = 0
        self.began = time.monotonic()
        self._until = None if seconds is None else self.began + seconds
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Ending:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signalled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signalled = number

    @property
    def now(self) -> bool:
        """Whether it is time."""
        return bool(self.signalled) or (self._until is not None and time.monotonic() >= self._until)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def left(self) -> float | None:
        """Seconds until the end; None without one."""
        return None if self._until is None else max(self._until - time.monotonic(), 0.0)

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until it is time to end; whether it is."""
        until = time.monotonic() + seconds
        while not self.now:
            left = until - time.monotonic()
            if left <= 0:
                return False
            if self._until is not None:
                left = min(left, max(self._until - time.monotonic(), 0.0))
            time.sleep(min(left, _LOOK))
        return True


def let_go_of(out: Any) -> None:
    """Have the interpreter write nothing more to an output whose reader has gone: what is still in its
    buffer would be complained about at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):       # an output that is no file
        if out is sys.stdout:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")

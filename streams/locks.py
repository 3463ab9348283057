"""Reading under a lock, in a thread that a signal may strike at any moment."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["owns", "release", "under_lock"]

P = ParamSpec("P")
T = TypeVar("T")


class _Locked(Protocol):
    @property
    def lock(self) -> threading.RLock: ...


S = TypeVar("S", bound=_Locked)


def under_lock(read: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """Make a method hold ``self.lock`` while it runs.

    ``with self.lock`` does it, too, but CPython 3.14 may leave that lock held when Ctrl-C comes just as it
    has been taken (https://github.com/python/cpython/issues/148874).
    """
    @functools.wraps(read)
    def locked(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        lock = self.lock
        try:
            lock.acquire()
            return read(self, *args, **kwargs)
        finally:
            try:                        # here and now: even the call of a function may be struck
                lock.release()
            except RuntimeError:        # Ctrl-C while waiting for it
                pass
    return locked


def release(lock: threading.Lock | threading.RLock) -> None:
    """Release it, unless it is not held (any more)."""
    with contextlib.suppress(RuntimeError):
        lock.release()


def owns(lock: threading.RLock) -> bool:
    """Whether the calling thread holds it."""
    owned: bool = lock._is_owned()  # type: ignore[attr-defined]    # as threading.Condition asks it
    return owned

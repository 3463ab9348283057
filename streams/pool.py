"""A small pool of daemon threads that hands out ``concurrent.futures.Future`` objects.

The pool of the standard library joins its threads at interpreter exit, so one call that hangs would
keep a script from ending; here nothing does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from .errors import ConfigurationError
from .forking import tell_after_fork

__all__ = ["Pool"]

T = TypeVar("T")


class Pool:
    """At most ``workers`` calls at a time, in the order given; threads are made when first needed and
    end when idle.

    Args:
        workers: Threads at most.
        name: Of the threads.
        idle: Seconds after which an idle thread ends.
        maxsize: Calls that may wait; one more is refused.

    Threads: any, for everything.
    """

    def __init__(self, workers: int, name: str, idle: float = 5.0, maxsize: int = 10_000) -> None:
        self._name = name
        self._workers = workers
        self._idle = idle
        self._maxsize = maxsize
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._waiting = 0
        self._made = 0
        self._closed = False
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Calls that wait are the parent's to make."""
        self._changed = threading.Condition()
        self._jobs = deque()
        self._threads = set()
        self._waiting = 0

    def submit(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called by a worker.

        Raises:
            ConfigurationError: The pool is closed, or too many calls wait already.
            RuntimeError: There is no thread, and the system gives none.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise ConfigurationError(f"{self._name} is closed; nothing can be submitted any more")
            if len(self._jobs) >= self._maxsize:
                raise ConfigurationError(f"{self._name}: {self._maxsize} calls wait already")
            if self._waiting > len(self._jobs):
                self._changed.notify()
            elif len(self._threads) < self._workers:
                self._start()
            self._jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def cancel(self) -> None:
        """Take nothing more, and begin nothing that waits."""
        with self._changed:
            self._closed = True
            jobs = list(self._jobs)
            self._jobs.clear()
            self._changed.notify_all()
        for future, _ in jobs:
            future.cancel()

    def close(self, timeout: float = 1.0) -> bool:
        """Cancel what waits, and give what runs so many seconds. True when every thread has ended."""
        self.cancel()
        with self._changed:
            mine = threading.current_thread()
            threads = [thread for thread in self._threads if thread is not mine]
        deadline = time.monotonic() + timeout
        for thread in threads:
            if thread.is_alive():               # not if a signal handler finds it about to begin
                thread.join(max(deadline - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in threads)

    def _start(self) -> None:
        self._made += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._made}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except BaseException as error:          # no more threads; or Ctrl-C, and it may run all the same
            self._threads.discard(thread)
            if not isinstance(error, (RuntimeError, MemoryError)) or not self._threads:
                raise

    def _work(self) -> None:
        while True:
            with self._changed:
                self._waiting += 1
                self._changed.wait_for(lambda: self._jobs or self._closed, self._idle)
                self._waiting -= 1
                if not self._jobs:
                    self._threads.discard(threading.current_thread())
                    return
                future, call = self._jobs.popleft()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:
                    future.set_exception(error)
            del future, call                # nothing of a finished call is kept while idle

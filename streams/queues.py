"""The queues between the network and the handlers: one class per policy of :mod:`streams.handlers`.

Every event that was offered is, in the end, exactly one of *handled*, *dropped* (there was no room,
or the handler was removed) or *conflated* (a newer one took its place, which is what the policy
``conflate`` is for).

An offer must be cheap with several streams offering to one handler at once. ``drop_oldest`` and
``drop_newest`` therefore take no lock as long as there is room: a deque's ``append`` and ``popleft``
are atomic, with the GIL and without it, and a lock here cost nine times as much under contention.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Any

from .events import Bar, Event, Gap, StatusChange, Value
from .listeners import ENDING, OPEN, REPORT_EVERY, Inline, Listener
from .locks import release

__all__ = ["KINDS", "Block", "Conflate", "DropNewest", "DropOldest", "Queued"]

_log = logging.getLogger("streams.handlers")


class Queued(Listener):
    """A bounded queue and a worker thread, which is started by the first event.

    The worker sleeps on ``_bell``, a lock used as a binary semaphore. ``_idle`` says that it sleeps
    or is about to (or does not run); whoever turns it off under ``_lock`` owes the bell one ring. A
    worker that has set it looks into the queue once more before it sleeps: the deque orders an
    append and that look, so either the worker sees the event or the offer sees the flag.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._queue: deque[Any] = deque()
        self._mode = OPEN
        self._idle = True
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread: threading.Thread | None = None
        self._begun = 0.0  # when the call in progress began
        self._due = math.inf  # when the worker has to keep house
        self._dropping = False
        self._exchange = ""  # whose events were dropped last

    def forked(self) -> None:
        super().forked()
        self._queue.clear()
        self._idle = True
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread = None
        self._begun, self._due = 0.0, math.inf

    def queued(self) -> int:
        return len(self._queue)

    def running(self) -> float:
        begun = self._begun
        return time.perf_counter() - begun if begun else 0.0

    def worker(self) -> threading.Thread | None:
        return self._thread

    def set_mode(self, mode: int) -> threading.Thread | None:
        with self._lock:
            self._mode = mode
            if self._thread is None:
                if mode != OPEN:
                    self._discard()
            elif self._idle:
                self._idle = False
                release(self._bell)         # unless a signal handler has, in between
            return self._thread

    # -- the side of the network thread

    def _wake(self) -> None:
        """Wake the worker, or start it. Called by an offer that found the worker idle."""
        with self._lock:
            if not self._idle:
                return
            if self._mode != OPEN:
                self._discard()  # `_idle` stays set after the end: every late offer comes here
                return
            self._idle = False
            if self._thread is not None:
                release(self._bell)
                return
            self._thread = threading.Thread(
                target=self._work, name=f"streams-handler-{self.name}", daemon=True)
            try:
                self._thread.start()
                return
            except (RuntimeError, MemoryError) as error:  # no more threads, or the interpreter is ending
                self._thread = None
                self._idle = True
                failure = error
        self._failed(failure)

    def _lost(self, event: Event) -> None:
        """Announce that events are dropped (they are counted already)."""
        if not self._may_announce(event):
            return
        with self._lock:
            previous = "dropping" if self._dropping else ""
            self._dropping = True
            self._exchange = event.exchange
            dropped = self.dropped
        reason = f"handler {self.name!r} is too slow: {dropped} events dropped so far ({self.policy})"
        if not previous:
            _log.warning("%s", reason)
        self.report()
        self.host.announce(event.exchange, "dropping", previous, reason)

    def _discard(self) -> None:
        """Drop and count what waits. Called with the lock held."""
        while True:
            try:
                event = self._queue.popleft()
            except IndexError:
                return
            self._drop(event)

    # -- the side of the worker

    def _take(self) -> Any:
        """The next event, or IndexError."""
        return self._queue.popleft()

    def _work(self) -> None:
        handler, clock = self.handler, time.perf_counter
        while (event := self._next()) is not None:
            begun = self._begun = clock()
            try:
                handler(event)
            except BaseException as error:  # a handler that calls sys.exit() goes on as well
                self._failed(error)
            ended = clock()
            self._begun = 0.0
            took = ended - begun
            self.handled += 1
            self.seconds += took
            if took > self.slowest:
                self.slowest = took
            if ended >= self._due:
                self._keep_house()
            elif self._due == math.inf:
                self._due = ended + REPORT_EVERY
        self.report()
        self.host.worker_ended()

    def _next(self) -> Any:
        """The next event, waited for; None when the thread has to end."""
        while True:
            if self._mode != ENDING:
                try:
                    return self._take()
                except IndexError:
                    pass
            with self._lock:
                self._idle = True
                if self._mode != OPEN:
                    self._discard()
                    self._thread = None
                    return None
            try:
                event = self._take()
            except IndexError:
                self._sleep()
            else:
                self._stay_awake()
                return event

    def _sleep(self) -> None:
        if self._due == math.inf:
            self._bell.acquire()
        elif not self._bell.acquire(timeout=max(0.0, self._due - time.perf_counter())):
            self._stay_awake()
            self._keep_house()

    def _stay_awake(self) -> None:
        """Take back ``_idle``; where an offer was faster, its ring is here already."""
        with self._lock:
            if self._idle:
                self._idle = False
            else:
                self._bell.acquire()

    def _keep_house(self) -> None:
        """Report to the metrics, and that a handler which lost events keeps up again."""
        self._due = math.inf
        self.report()
        if not self._dropping:
            return
        now = time.monotonic()
        with self._lock:
            if self._queue or now < self._announce_after:
                self._due = time.perf_counter() + REPORT_EVERY
                return
            self._dropping = False
            self._announce_after = now + REPORT_EVERY
            dropped = self.dropped
        reason = f"handler {self.name!r} keeps up again: {dropped} events dropped in all"
        _log.info("%s", reason)
        self.host.announce(self._exchange, "recovered", "dropping", reason)


class DropOldest(Queued):
    """A full queue loses its oldest event."""

    policy = "drop_oldest"

    def offer(self, event: Event) -> None:
        queue = self._queue
        queue.append(event)
        if len(queue) > self.maxsize:
            self._overflow(event)
        if self._idle:
            self._wake()

    def _overflow(self, event: Event) -> None:
        with self._lock:
            if len(self._queue) <= self.maxsize:
                return
            try:
                evicted = self._evict()
            except IndexError:  # the worker has taken them all meanwhile
                return
            self._drop(evicted)
        self._lost(event)

    def _evict(self) -> Any:
        return self._queue.popleft()


class DropNewest(DropOldest):
    """A full queue takes no more."""

    policy = "drop_newest"

    def _evict(self) -> Any:
        return self._queue.pop()


# What tells two events of one type and symbol apart, besides their content.
_DETAIL: dict[type, Callable[[Any], Hashable]] = {
    Bar: attrgetter("interval"), Gap: attrgetter("channel"), StatusChange: attrgetter("subject"),
    Value: attrgetter("kind"),
}


class Conflate(Queued):
    """The latest event per exchange, kind and symbol, in the order in which they began to wait."""

    policy = "conflate"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._latest: dict[Hashable, Event] = {}  # its keys are those in the queue

    def forked(self) -> None:
        super().forked()
        self._latest.clear()

    def offer(self, event: Event) -> None:
        kind = type(event)
        detail = _DETAIL.get(kind)
        key = (event.symbol, event.exchange, kind, detail(event) if detail else None)
        latest, full = self._latest, False
        with self._lock:
            if key in latest:
                latest[key] = event
                self.conflated += 1
                return
            latest[key] = event
            self._queue.append(key)
            if len(self._queue) > self.maxsize:
                self._drop(latest.pop(self._queue.popleft()))
                full = True
        if full:
            self._lost(event)
        if self._idle:
            self._wake()

    def _take(self) -> Any:
        with self._lock:
            return self._latest.pop(self._queue.popleft())

    def _discard(self) -> None:
        for event in self._latest.values():
            self._drop(event)
        self._queue.clear()
        self._latest.clear()


class Block(Queued):
    """A full queue makes the offering thread wait, for a bounded time; then the event is dropped.

    A handler that has let one offer run out of time is not waited for again before it has taken an
    event: one that hangs costs its stream one time-out, not one per event.
    """

    policy = "block"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._room = threading.Condition(self._lock)
        self._waiting = 0
        self._given_up = False

    def forked(self) -> None:
        super().forked()
        self._room = threading.Condition(self._lock)
        self._waiting = 0

    def offer(self, event: Event) -> None:
        with self._lock:
            taken = len(self._queue) < self.maxsize or self._wait()
            if taken:
                self._queue.append(event)
            else:
                self._drop(event)
        if not taken:
            self._lost(event)
        if self._idle:
            self._wake()

    def _wait(self) -> bool:
        """Wait for room, with the lock held; whether there is some."""
        if self._given_up or self._hurried():
            return False
        self._waiting += 1
        try:
            self._room.wait_for(
                lambda: len(self._queue) < self.maxsize or self._hurried(), self.block_timeout)
        finally:
            self._waiting -= 1
        if len(self._queue) < self.maxsize:
            return True
        self._given_up = not self._hurried()
        return False

    def _hurried(self) -> bool:
        """Whether this thread must not wait: the end has come, or it is itself the worker."""
        ident = threading.get_ident()
        return (self._mode != OPEN or ident in self.host.hurried
                or (self._thread is not None and self._thread.ident == ident))

    def look_again(self) -> None:
        """Have waiting offers find out whether they may still wait."""
        with self._lock:
            self._room.notify_all()

    def set_mode(self, mode: int) -> threading.Thread | None:
        thread = super().set_mode(mode)
        self.look_again()
        return thread

    def _take(self) -> Any:
        with self._lock:
            event = self._queue.popleft()
            self._given_up = False
            if self._waiting:
                self._room.notify()
        return event


KINDS: dict[str, type[Listener]] = {
    kind.policy: kind for kind in (DropOldest, DropNewest, Conflate, Block, Inline)}

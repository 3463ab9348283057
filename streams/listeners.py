"""What a stream offers its events to: one listener per registered handler."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from .events import Event, StatusChange
from .metrics import Guarded

__all__ = ["ENDING", "FINISHING", "OPEN", "REPORT_EVERY", "Handler", "Host", "Inline", "Listener"]

_log = logging.getLogger("streams.handlers")

Handler = Callable[[Any], object]

# How a listener lives.
OPEN = 0  # events are taken in and handled
FINISHING = 1  # the worker ends as soon as its queue is empty
ENDING = 2  # the worker ends after the call it is in; what still waits is dropped

REPORT_EVERY = 1.0  # seconds between two announcements or metric reports of one handler
LOG_EVERY = 10.0  # seconds between two tracebacks of one handler
SLOW_INLINE = 0.010  # seconds; an inline call that takes longer is reported


class Host(Protocol):
    """What listeners need of their registry."""

    metrics: Guarded
    hurried: set[int]  # threads that must not be made to wait

    def announce(self, exchange: str, status: str, previous: str, reason: str) -> None:
        """Publish something about a handler."""

    def worker_ended(self) -> None:
        """A worker is about to end."""


class Listener:
    """One registration: a handler, what it listens to, and what became of its events.

    Streams call :meth:`offer`; everything else is the registry's.

    Attributes:
        name: Unique in its registry.
        handled, dropped, conflated, errors: Events, counted to the unit.
        lost: Of those dropped, how many were of which exchange.
        seconds: Time spent in the handler; ``slowest``: its longest call.
    """

    policy = ""

    def __init__(self, host: Host, handler: Handler, pattern: re.Pattern[str], name: str,
                 maxsize: int, block_timeout: float) -> None:
        self.host = host
        self.handler = handler
        self.pattern = pattern
        self.name = name
        self.maxsize = maxsize
        self.block_timeout = block_timeout
        self.handled = self.dropped = self.conflated = self.errors = 0
        self.lost: dict[str, int] = {}
        self.seconds = self.slowest = 0.0
        self._lock = threading.RLock()      # a signal handler may close what it has interrupted
        self._log_after = -math.inf
        self._announce_after = -math.inf
        self._reported: dict[str, float] = {"drops": 0, "handler_errors": 0, "handler_seconds": 0}

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`."""
        self._lock = threading.RLock()

    def offer(self, event: Event) -> None:
        """Hand over an event; never raises. Threads: any, outside all locks."""
        raise NotImplementedError

    def status(self) -> dict[str, Any]:
        """The numbers of this handler. Threads: any."""
        return {
            "name": self.name, "pattern": self.pattern.pattern, "policy": self.policy,
            "queued": self.queued(), "handled": self.handled, "dropped": self.dropped,
            "conflated": self.conflated, "errors": self.errors, "seconds": self.seconds,
            "slowest": self.slowest, "running": self.running(),
        }

    def queued(self) -> int:
        """Events waiting now."""
        return 0

    def running(self) -> float:
        """Seconds that the call in progress has taken so far; 0.0 when there is none."""
        return 0.0

    def set_mode(self, mode: int) -> threading.Thread | None:
        """Open, finish or end this listener; its thread, if it has one at this moment."""
        raise NotImplementedError

    def worker(self) -> threading.Thread | None:
        """The thread that has to end before this listener has ended, if any; may just be starting."""
        return None

    def report(self) -> None:
        """Tell the metrics what has happened since the last report. Threads: any, outside all locks."""
        with self._lock:
            totals = {"drops": self.dropped, "handler_errors": self.errors, "handler_seconds": self.seconds}
            rises = {name: total - self._reported[name] for name, total in totals.items()}
            self._reported.update(totals)
        for name, rise in rises.items():
            if rise > 0:
                self.host.metrics.inc(name, rise, handler=self.name)
        self.host.metrics.set_gauge("queue_depth", self.queued(), handler=self.name)

    def _drop(self, event: Event) -> None:
        """Count an event that will not be handled. Holding the lock."""
        self.dropped += 1
        self.lost[event.exchange] = self.lost.get(event.exchange, 0) + 1

    def _failed(self, error: BaseException) -> None:
        """Count an exception of the handler; log it with its traceback unless that was done just now."""
        now = time.monotonic()
        with self._lock:
            self.errors += 1
            if now < self._log_after:
                return
            self._log_after = now + LOG_EVERY
            count = self.errors
        _log.error("handler %r raised %s (%d exceptions so far; it goes on)",
                   self.name, type(error).__name__, count, exc_info=error)

    def _may_announce(self, event: Event) -> bool:
        """Whether it is time for another announcement; there is never one about an announcement."""
        if type(event) is StatusChange and event.subject == "handler":
            return False
        now = time.monotonic()
        if now < self._announce_after:  # under load this is asked for every event: no lock for a "no"
            return False
        with self._lock:
            if now < self._announce_after:
                return False
            self._announce_after = now + REPORT_EVERY
        return True


class Inline(Listener):
    """No queue: the handler runs in the thread that offers, several at once if several streams do."""

    policy = "inline"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._gone = False
        self._report_after = 0.0

    def offer(self, event: Event) -> None:
        if self._gone:
            return
        begun = time.perf_counter()
        try:
            self.handler(event)
        except BaseException as error:  # not even SystemExit may end the network thread
            self._failed(error)
        ended = time.perf_counter()
        took = ended - begun
        lock = self._lock
        lock.acquire()  # ``with`` costs a tenth of a microsecond more
        try:
            self.handled += 1
            self.seconds += took
            if took > self.slowest:
                self.slowest = took
        finally:
            lock.release()
        if ended > self._report_after:
            self._report_after = ended + REPORT_EVERY
            self.report()
        if took > SLOW_INLINE and self._may_announce(event):
            reason = (f"handler {self.name!r} held up its stream for {took * 1e3:.0f} ms; any policy "
                      "but 'inline' gives it a thread of its own")
            _log.warning("%s", reason)
            self.host.announce(event.exchange, "slow", "", reason)

    def set_mode(self, mode: int) -> threading.Thread | None:
        self._gone = mode != OPEN
        return None

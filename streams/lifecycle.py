"""The public state of a stream, why it ended a connection, and what happens to it at interpreter exit."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from .bells import Latch
from .errors import StreamsError

__all__ = ["ENDED", "Lifecycle", "STATES", "Stoppable", "Verdict", "at_exit"]

# What each permits:
#   new         made, never started; start() is next
#   connecting  on the way: resolving, connecting, logging in
#   live        connected and served; books may still be syncing, each says so itself
#   stale       connected, but no data for too long; about to be replaced
#   backoff     waiting before the next attempt
#   paused      staying away until resume(), or until the market opens
#   stopped     the thread has ended because it was asked to; start() is allowed
#   failed      the thread has ended because going on was pointless; last_error says why
STATES = ("new", "connecting", "live", "stale", "backoff", "paused", "stopped", "failed")
ENDED = ("stopped", "failed")


class Lifecycle:
    """State, why and since when, and the last error. Threads: the stream's writes, any reads.

    Args:
        announce: Called as ``announce(previous, state, reason)`` after each change.
    """

    def __init__(self, announce: Callable[[str, str, str], None], state: str = "new") -> None:
        self.state = state
        self.reason = ""
        self.since = time.time_ns()
        self.last_error: str | None = None
        self._announce = announce

    def set(self, state: str, reason: str = "") -> None:
        """Enter a state, and announce it. Holding no lock: handlers may be called."""
        self.enter(state, reason)()

    def enter(self, state: str, reason: str = "") -> Callable[[], None]:
        """Enter a state; what announces it is returned, to be called when no lock is held."""
        previous = self.state
        self.reason = reason
        if state == previous:
            return _nothing
        self.state = state
        self.since = time.time_ns()
        return lambda: self._announce(previous, state, reason)


def _nothing() -> None:
    """Nothing has changed, so there is nothing to announce."""


class Verdict:
    """Why the session ended itself. ``after``: seconds not to reconnect; ``planned``: nobody's fault;
    ``fatal``: going on is pointless."""

    def __init__(self, error: StreamsError, *, after: float = 0.0, planned: bool = False,
                 fatal: bool = False) -> None:
        self.error = error
        self.after = after
        self.planned = planned
        self.fatal = fatal


class Stoppable(Protocol):
    """What :func:`at_exit` needs of a stream."""

    def ask_to_stop(self) -> Latch: ...
    def abort(self) -> None: ...


def at_exit(running: Callable[[], Iterable[Stoppable]]) -> None:
    """End the threads that still run when the interpreter exits: they are daemons, and would be
    frozen in the middle of whatever they do."""
    def end() -> None:
        streams = list(running())
        latches = [stream.ask_to_stop() for stream in streams]
        for stream in streams:
            stream.abort()
        deadline = time.monotonic() + 1.0
        for ended in latches:       # not join(): a thread may be about to begin, and can not be joined
            ended.wait(max(deadline - time.monotonic(), 0.0))
    atexit.register(end)

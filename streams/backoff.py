"""When to try again, and how often one may speak: pure values, time is passed in (seconds, monotonic)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from .checks import check_seconds, check_timeout

__all__ = ["Backoff", "RollingWindow"]


class Backoff:
    """Delays between attempts: exponential, full jitter, capped, for ever.

    The first retry after a connection was lost is immediate. A connection that opens and dies soon
    was not healthy: it does not reset the count, so a peer that kicks us at once is not hammered.

    Args:
        base: Upper bound of the first jittered delay, seconds.
        cap: Upper bound of all of them.
        healthy_after: Seconds a connection must have lived for the count to start anew.
        rand: Source of jitter in [0, 1).

    Raises:
        ConfigurationError: One of them is no number of seconds.
    """

    def __init__(self, base: float = 0.5, cap: float = 30.0, healthy_after: float = 20.0,
                 rand: Callable[[], float] = random.random) -> None:
        check_seconds("base", base)
        check_seconds("cap", cap)
        check_timeout(healthy_after, "healthy_after")
        self.base = base
        self.cap = cap
        self.healthy_after = healthy_after
        self.failures = 0
        self._rand = rand

    def next(self, lived: float) -> float:
        """Seconds to wait after a connection that lived ``lived`` seconds (0: never opened)."""
        if lived >= self.healthy_after:
            self.failures = 0
        self.failures += 1
        if self.failures == 1 and lived > 0:
            return 0.0
        # 2 ** 20 is beyond any cap; the exponent must not grow for ever.
        return self._rand() * min(self.cap, self.base * 2.0 ** min(self.failures - 1, 20))


class RollingWindow:
    """At most ``limit`` units in ANY window of ``seconds``: no bursts beyond it, unlike a token bucket,
    which lets up to twice the limit through in its first window.

    What is spent at one moment is :meth:`spend`; what reaches the peer nobody knows when, :meth:`hold`
    until it surely has, and :meth:`release` then.

    Threads: one at a time.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.limit = limit
        self.seconds = seconds
        self.held = 0               # units under way
        self._spent: deque[tuple[float, int]] = deque()
        self._sum = 0

    def wait(self, now: float, units: int = 1) -> float:
        """Seconds until ``units`` may be spent, at the earliest; 0.0 when they may now. Spends nothing."""
        self._forget(now)
        over = self._sum + self.held + min(units, self.limit) - self.limit
        if over <= 0:
            return 0.0
        for when, amount in self._spent:
            over -= amount
            if over <= 0:
                return max(when + self.seconds - now, 0.001)
        return self.seconds         # what is held must be released first, and counts for so long after

    def spend(self, now: float, units: int = 1) -> None:
        """Note that ``units`` were spent; whether they were allowed is the caller's business."""
        self._forget(now)
        self._spent.append((now, units))
        self._sum += units

    def hold(self, units: int) -> None:
        """``units`` are under way: they count until so long after their :meth:`release`."""
        self.held += units

    def release(self, now: float, units: int) -> None:
        """``units`` that were held have arrived, at ``now`` at the latest."""
        self.held -= units
        self.spend(now, units)

    def fill(self, now: float) -> None:
        """Note that the peer says the limit is used up."""
        self._forget(now)
        self.spend(now, max(0, self.limit - self._sum))

    def _forget(self, now: float) -> None:
        """Drop what is older than the window."""
        spent = self._spent
        while spent and spent[0][0] <= now - self.seconds:
            self._sum -= spent.popleft()[1]

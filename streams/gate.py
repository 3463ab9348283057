"""How often a venue may be connected to. It counts the attempts of one address, whoever makes them: so all
streams of this process that go to the same place share one :class:`Gate`.
"""

from __future__ import annotations

import threading

from .backoff import RollingWindow
from .forking import tell_after_fork

__all__ = ["Gate", "gate_to"]


class Gate:
    """A limit on attempts. Threads: any, for everything; nothing blocks.

    Args:
        limit, seconds: At most so many attempts in any window of that length.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self._window = RollingWindow(limit, seconds)
        self._turn = threading.Lock()
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`."""
        self._turn = threading.Lock()

    def enter(self, now: float) -> float:
        """Count one attempt, if it may be made at ``now`` (of ``time.monotonic()``).

        Returns:
            0.0 when it may; else the seconds until it is worth asking again.
        """
        with self._turn:
            wait = self._window.wait(now)
            if not wait:
                self._window.spend(now)
            return wait


_gates: dict[tuple[str, str, str | None, tuple[int, float]], Gate] = {}     # few, and for ever


def gate_to(exchange: str, address: str, proxy: str | None, limit: tuple[int, float]) -> Gate:
    """The one for all who go to an address of an exchange by the same way."""
    return _gates.setdefault((exchange, address, proxy, limit), Gate(*limit))

"""What a user may say about an ITCH session, checked."""

from __future__ import annotations

import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..errors import ConfigurationError

__all__ = ["SessionDay", "keeps_all", "lag_limit"]


class SessionDay:
    """Which day a session is of; times in its messages count from that day's midnight in New York.

    Args:
        day: ``datetime.date``, ``"YYYY-MM-DD"``, or None for the day on which the connection is made.

    Attributes:
        past: A day was given, so it may be any.

    Raises:
        ConfigurationError: It is no day, or this system knows nothing of New York's time.
    """

    def __init__(self, day: datetime.date | str | None) -> None:
        self.past = day is not None
        self._day = day if type(day) is datetime.date else None
        if self.past and self._day is None:
            try:
                self._day = datetime.date.fromisoformat(day)    # type: ignore[arg-type]
            except (TypeError, ValueError):
                raise ConfigurationError(
                    f"date must be a datetime.date or 'YYYY-MM-DD', not {day!r}") from None
        try:
            self._zone = ZoneInfo("America/New_York")
        except ZoneInfoNotFoundError:
            raise ConfigurationError(
                "nasdaq-itch needs the time zone database, which this system has not: pip install tzdata"
            ) from None

    def midnight(self, now: int) -> int:
        """The beginning of the day, ns since the epoch; ``now``, likewise, says which if none was given."""
        day = self._day or datetime.datetime.fromtimestamp(now // 10**9, self._zone).date()
        return int(datetime.datetime.combine(day, datetime.time(), self._zone).timestamp()) * 10**9


def keeps_all(keep: Any) -> bool:
    """Whether the orders of all stocks are to be kept."""
    if keep not in ("all", "subscribed"):
        raise ConfigurationError(f"keep must be 'all' or 'subscribed', not {keep!r}")
    return bool(keep == "all")


def lag_limit(seconds: Any) -> int:
    """``max_lag`` in ns; 0 for None, no limit."""
    if seconds is None:
        return 0
    if not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not 0 < seconds < 1e6:
        raise ConfigurationError(f"max_lag must be seconds above 0, or None, not {seconds!r}")
    return int(seconds * 1e9)

"""Trading hours: when a stream should be connected at all.

Pure: the time is passed in. All instants are nanoseconds since the epoch (UTC); where a time of day
is meant, it is one on the clock of the market's time zone, daylight saving included.
"""

from __future__ import annotations

import difflib
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Protocol
from zoneinfo import ZoneInfo, available_timezones

from .errors import ConfigurationError, MissingDependency
from .forking import tell_after_fork

__all__ = ["Calendar", "Schedule", "TradingHours"]

Session = tuple[int, int]  # opening and closing instant, ns; closed again at the closing instant

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HORIZON = 400  # days that next_change looks ahead
_NS = 1_000_000_000
_DAY_NS = 86_400 * _NS
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Calendar(Protocol):
    """What a stream asks; :class:`Schedule` answers it, and so may any object of the user's."""

    def is_open(self, at: int) -> bool:
        """Whether there is trading at that instant (ns since the epoch)."""

    def next_change(self, at: int) -> int | None:
        """The first instant after ``at`` at which that changes, or None when none is known."""


class Schedule:
    """When a market trades. Make one with :class:`TradingHours` or :meth:`exchange`.

    Threads: any.
    """

    @staticmethod
    def exchange(code: str) -> Schedule:
        """The trading hours of an exchange, with its holidays and short days.

        From the package ``exchange_calendars`` (the extra ``hours``); regular sessions only.

        Args:
            code: Market identifier code: ``XNYS``, ``XLON``, ``XTKS``, ``CMES``, ...

        Raises:
            MissingDependency: ``exchange_calendars`` is not installed.
            ConfigurationError: It knows no such exchange.
        """
        return _ExchangeHours(code)

    def is_open(self, at: datetime | int) -> bool:
        """Whether there is trading at ``at``: ns since the epoch, or a datetime with a time zone.

        Raises:
            ConfigurationError: A datetime without time zone, or something else.
        """
        moment = _instant(at)
        return any(opens <= moment < closes for opens, closes in self._sessions(moment, moment))

    def next_change(self, at: datetime | int) -> int | None:
        """The first instant after ``at`` (exclusive) at which the market opens or closes, in ns since
        the epoch; None when there is none within about a year.

        Raises:
            ConfigurationError: As for :meth:`is_open`.
        """
        moment = _instant(at)
        # By far most answers lie within days: look a week ahead before looking further.
        for days in (7, _HORIZON):
            end = moment + days * _DAY_NS
            for opens, closes in _joined(self._sessions(moment, end)):
                for change in (opens, closes):
                    if moment < change <= end:
                        return change
        return None

    def _sessions(self, start: int, end: int) -> Iterable[Session]:
        """The sessions that touch the time from ``start`` to ``end`` (others may be among them), in
        order."""
        raise NotImplementedError


class TradingHours(Schedule):
    """The same hours on certain days of the week.

    Args:
        opens, closes: Times of day such as ``"09:30"`` or :class:`datetime.time`; ``"24:00"`` is
            allowed as closing time. A closing time that is not after the opening time is one of the
            next day; the session belongs to the day on which it opens.
        tz: Name of a time zone such as ``"America/New_York"``, or a :class:`datetime.tzinfo`.
        days: ``"mon-fri"``, ``"sun-thu"``, ``"mon,wed,fri"``, ...
        holidays: Days without trading: dates, or texts such as ``"2026-12-25"``.

    Raises:
        ConfigurationError: One of them makes no sense; the message says what would.
    """

    def __init__(self, opens: str | time, closes: str | time, *, tz: str | tzinfo,
                 days: str = "mon-fri", holidays: Iterable[date | str] = ()) -> None:
        self._opens, start_day = _time_of_day("opens", opens)
        self._closes, end_day = _time_of_day("closes", closes)
        if start_day:
            raise ConfigurationError("opens can not be '24:00': write '00:00' and the next day")
        self._nights = 1 if end_day or self._closes <= self._opens else 0
        self._zone = _zone(tz)
        self._days = _weekdays(days)
        self._holidays = frozenset([_day(holiday) for holiday in _dates(holidays)])
        self._text = f"TradingHours({opens!s:.5}-{closes!s:.5}, {tz}, {days})"

    def __repr__(self) -> str:
        return self._text

    def _sessions(self, start: int, end: int) -> Iterable[Session]:
        # A session that is still going on may have opened the day before; one more day is for zones
        # whose offset changes.
        day = self._local_day(start) - timedelta(days=2)
        last = self._local_day(end) + timedelta(days=1)
        while day <= last:
            if day.weekday() in self._days and day not in self._holidays:
                opens = self._at(day, self._opens)
                closes = self._at(day + timedelta(days=self._nights), self._closes)
                if opens < closes:  # else a change of the clocks has swallowed it
                    yield opens, closes
            day += timedelta(days=1)

    def _local_day(self, moment: int) -> date:
        return (_EPOCH + timedelta(seconds=moment // _NS)).astimezone(self._zone).date()

    def _at(self, day: date, clock: time) -> int:
        """The instant of a local time: of one that comes twice the first, and one that is skipped is
        as much after the change as it would have been after it with the old offset."""
        return _instant(datetime.combine(day, clock, self._zone))


class _ExchangeHours(Schedule):
    """Sessions from ``exchange_calendars``, loaded for the time that is asked about."""

    def __init__(self, code: str) -> None:
        try:
            import exchange_calendars
        except ImportError:
            raise MissingDependency("exchange_calendars", extra="hours") from None
        names = exchange_calendars.get_calendar_names()
        if code not in names:
            near = difflib.get_close_matches(str(code).upper(), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else "use a market identifier code such as 'XNYS'"
            raise ConfigurationError(f"no exchange is called {code!r}: {hint}")
        self._code = code
        self._lock = threading.Lock()
        self._loaded: tuple[int, int, list[Session]] = (0, 0, [])
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. Whoever was loading does so in the parent."""
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Schedule.exchange({self._code!r})"

    def _sessions(self, start: int, end: int) -> Iterable[Session]:
        with self._lock:
            known_from, known_to, sessions = self._loaded
            if not known_from <= start <= end <= known_to:
                known_from, known_to = start - 30 * _DAY_NS, end + (_HORIZON + 30) * _DAY_NS
                sessions = self._load(_date(known_from), _date(known_to))
                self._loaded = known_from, known_to, sessions
        first = bisect_right(sessions, (start, start)) - 1
        return sessions[max(first, 0):bisect_right(sessions, (end, end)) + 1]

    def _load(self, start: date, end: date) -> list[Session]:
        import exchange_calendars

        kind = type(exchange_calendars.get_calendar(self._code))
        bounds = kind.bound_min(), kind.bound_max()  # some calendars know nothing before or after
        if bounds[0] is not None:
            start = max(start, bounds[0].date())
        if bounds[1] is not None:
            end = min(end, bounds[1].date())
        if end - start < timedelta(days=7):
            return []
        return _exchange_sessions(kind(start=start.isoformat(), end=end.isoformat()))


def _exchange_sessions(calendar: Any) -> list[Session]:
    """The sessions of a calendar object; a lunch break makes two of one day."""
    sessions: list[Session] = []
    for opens, pause, again, closes in zip(
            calendar.opens, calendar.break_starts, calendar.break_ends, calendar.closes):
        if pause == pause:  # else it is NaT: no break
            sessions += [(opens.value, pause.value), (again.value, closes.value)]
        else:
            sessions.append((opens.value, closes.value))
    return sessions


def _joined(sessions: Iterable[Session]) -> Iterable[Session]:
    """The same hours, with sessions that follow each other without a pause made one."""
    current: Session | None = None
    for opens, closes in sessions:
        if current is not None and opens <= current[1]:
            current = current[0], max(current[1], closes)
            continue
        if current is not None:
            yield current
        current = opens, closes
    if current is not None:
        yield current


def _instant(at: datetime | int) -> int:
    if isinstance(at, datetime):
        if at.utcoffset() is None:
            raise ConfigurationError(f"{at!r} has no time zone: give it one, or pass ns since the epoch")
        since = at - _EPOCH
        return (since.days * 86_400 + since.seconds) * _NS + since.microseconds * 1000
    if isinstance(at, bool) or not isinstance(at, int):
        raise ConfigurationError(f"a time is ns since the epoch or a datetime with time zone, not {at!r}")
    return at


def _date(moment: int) -> date:
    return (_EPOCH + timedelta(seconds=moment // _NS)).date()


def _time_of_day(what: str, text: str | time) -> tuple[time, bool]:
    """A time of day, and whether it is the end of the day (24:00)."""
    if isinstance(text, time) and text.tzinfo is None:
        return text, False
    found = re.fullmatch(r"(\d{1,2}):(\d\d)(?::(\d\d))?", text) if isinstance(text, str) else None
    if found:
        hour, minute, second = (int(part or 0) for part in found.groups())
        if (hour, minute, second) == (24, 0, 0):
            return time(0), True
        if hour < 24 and minute < 60 and second < 60:
            return time(hour, minute, second), False
    raise ConfigurationError(f"{what} must be a time of day such as '09:30', not {text!r}")


def _zone(tz: str | tzinfo) -> tzinfo:
    if isinstance(tz, tzinfo):
        return tz
    try:
        return ZoneInfo(tz)
    except Exception:  # several kinds, by what is wrong with the name
        near = difflib.get_close_matches(str(tz), available_timezones(), 1)
        hint = (f"did you mean {near[0]!r}?" if near
                else "use a name such as 'America/New_York' (on Windows: pip install tzdata)")
        raise ConfigurationError(f"no time zone is called {tz!r}: {hint}") from None


def _weekdays(text: str) -> frozenset[int]:
    """The numbers of the days (Monday is 0) in ``mon-fri`` or ``sun,tue-thu``."""
    days: set[int] = set()
    for part in text.lower().split(",") if isinstance(text, str) else [""]:
        ends = [name.strip()[:3] for name in part.split("-")]
        if len(ends) > 2 or any(name not in _DAYS for name in ends):
            raise ConfigurationError(f"days must be such as 'mon-fri' or 'mon,wed,sun', not {text!r}")
        first, last = _DAYS.index(ends[0]), _DAYS.index(ends[-1])
        days.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    return frozenset(days)


def _dates(holidays: Iterable[date | str]) -> Iterable[date | str]:
    if isinstance(holidays, (str, date)) or not isinstance(holidays, Iterable):
        raise ConfigurationError(f"holidays must be a list of dates, not {holidays!r}")
    return holidays


def _day(value: date | str) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"holidays are dates such as '2026-12-25', not {value!r}") from None

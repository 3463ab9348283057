from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import types
import warnings
from datetime import date, datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from streams.errors import ConfigurationError, MissingDependency
from streams.schedule import Schedule, TradingHours

NEW_YORK = ZoneInfo("America/New_York")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def local(text: str, zone: ZoneInfo = NEW_YORK) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone)


def ns(moment: datetime) -> int:
    return round(moment.timestamp()) * 10**9


def changes(schedule: Schedule, start: datetime, count: int) -> list[datetime]:
    """The next ``count`` changes; is_open must turn at each of them, to the nanosecond."""
    found, at = [], ns(start)
    for _ in range(count):
        change = schedule.next_change(at)
        assert change is not None and change > at
        assert schedule.is_open(change) is not schedule.is_open(change - 1)
        found.append(datetime.fromtimestamp(change // 10**9, timezone.utc))
        at = change
    return found


class TestPlainTimes:
    hours = TradingHours("09:30", "16:00", tz="America/New_York", holidays=["2026-12-25"])

    def test_half_open(self):
        assert not self.hours.is_open(local("2026-11-18T09:29:59.999999"))
        assert self.hours.is_open(local("2026-11-18T09:30"))
        assert self.hours.is_open(ns(local("2026-11-18T16:00")) - 1)
        assert not self.hours.is_open(ns(local("2026-11-18T16:00")))

    def test_any_zone_may_ask(self):
        assert self.hours.is_open(local("2026-11-18T23:30", ZoneInfo("Asia/Tokyo")))
        assert not self.hours.is_open(local("2026-11-18T10:00", ZoneInfo("Asia/Tokyo")))

    def test_next_change_is_exclusive(self):
        opening = ns(local("2026-11-18T09:30"))
        assert self.hours.next_change(opening - 1) == opening
        assert self.hours.next_change(opening) == ns(local("2026-11-18T16:00"))

    def test_over_the_weekend_and_a_holiday(self):
        assert changes(self.hours, local("2026-12-24T12:00"), 3) == [
            local("2026-12-24T16:00"), local("2026-12-28T09:30"), local("2026-12-28T16:00")]
        assert not self.hours.is_open(local("2026-12-25T12:00"))
        assert not self.hours.is_open(local("2026-12-26T12:00"))

    @pytest.mark.parametrize("day, before, after", [
        ("2026-03-08", "14:30", "13:30"),  # clocks go forward: an hour earlier in UTC from then on
        ("2026-11-01", "13:30", "14:30"),
    ])
    def test_opening_follows_the_clock_over_daylight_saving(self, day, before, after):
        sunday = date.fromisoformat(day)
        friday, monday = sunday - timedelta(days=2), sunday + timedelta(days=1)
        found = changes(self.hours, utc(f"{friday}T00:00"), 3)
        assert found[0] == utc(f"{friday}T{before}")
        assert found[2] == utc(f"{monday}T{after}")

    def test_times_and_zone_as_objects(self):
        hours = TradingHours(time(9, 30), time(16), tz=NEW_YORK, holidays=[date(2026, 12, 25)])
        for hour in range(24 * 14):
            at = utc("2026-12-18T00:15") + timedelta(hours=hour)
            assert hours.is_open(at) is self.hours.is_open(at)


class TestOverMidnight:
    futures = TradingHours("17:00", "16:00", tz="America/Chicago", days="sun-thu")

    def test_a_session_belongs_to_the_day_on_which_it_opens(self):
        chicago = ZoneInfo("America/Chicago")
        assert not self.futures.is_open(local("2026-11-15T16:59", chicago))  # Sunday
        assert self.futures.is_open(local("2026-11-15T17:00", chicago))
        assert self.futures.is_open(local("2026-11-16T03:00", chicago))
        assert not self.futures.is_open(local("2026-11-16T16:30", chicago))
        assert self.futures.is_open(local("2026-11-20T15:59", chicago))  # Friday, from Thursday
        assert not self.futures.is_open(local("2026-11-20T17:00", chicago))
        assert changes(self.futures, local("2026-11-20T15:00", chicago), 2) == [
            local("2026-11-20T16:00", chicago), local("2026-11-22T17:00", chicago)]

    @pytest.mark.parametrize("evening, hours", [("2026-03-07", 7), ("2026-10-31", 9), ("2026-06-06", 8)])
    def test_nights_in_which_the_clocks_change(self, evening, hours):
        night = TradingHours("22:00", "06:00", tz="America/New_York", days="mon-sun")
        opens, closes = changes(night, local(f"{evening}T12:00"), 2)
        assert opens == local(f"{evening}T22:00")
        assert closes - opens == timedelta(hours=hours)

    def test_a_holiday_takes_away_the_session_that_opens_on_it(self):
        night = TradingHours("22:00", "06:00", tz="UTC", days="mon-sun", holidays=["2026-12-31"])
        assert night.is_open(utc("2026-12-31T05:00"))
        assert not night.is_open(utc("2026-12-31T23:00"))
        assert not night.is_open(utc("2027-01-01T03:00"))
        assert night.is_open(utc("2027-01-01T23:00"))


class TestAroundTheClock:
    def test_sessions_without_a_pause_are_one(self):
        week = TradingHours("00:00", "24:00", tz="UTC", days="mon-fri")
        assert changes(week, utc("2026-11-16T12:00"), 3) == [
            utc("2026-11-21T00:00"), utc("2026-11-23T00:00"), utc("2026-11-28T00:00")]

    @pytest.mark.parametrize("opens, closes", [("00:00", "24:00"), ("08:00", "08:00")])
    def test_always_open_never_changes(self, opens, closes):
        always = TradingHours(opens, closes, tz="America/New_York", days="mon-sun")
        assert always.next_change(utc("2026-03-01T00:00")) is None
        assert all(always.is_open(utc("2026-03-07T00:30") + timedelta(hours=hour)) for hour in range(72))

    def test_a_whole_year_of_holidays(self):
        first = date(2026, 1, 1)
        never = TradingHours("09:00", "10:00", tz="UTC", days="mon-sun",
                             holidays=[first + timedelta(days=day) for day in range(800)])
        assert never.next_change(utc("2026-02-01T00:00")) is None

    def test_the_first_opening_after_months(self):
        first = date(2026, 1, 1)
        seldom = TradingHours("09:00", "10:00", tz="UTC", days="mon-sun",
                              holidays=[first + timedelta(days=day) for day in range(100)])
        assert changes(seldom, utc("2026-01-05T00:00"), 1) == [utc("2026-04-11T09:00")]

    def test_a_session_that_the_clocks_swallow(self):
        brief = TradingHours("02:30", "03:00", tz="America/New_York", days="mon-sun")
        found = changes(brief, local("2026-03-07T12:00"), 2)
        assert found == [local("2026-03-09T02:30"), local("2026-03-09T03:00")]


class TestDays:
    @pytest.mark.parametrize("days, open_on", [
        ("mon-fri", "01234"), ("sun-thu", "60123"), ("mon,wed,fri", "024"), ("Sat-Mon", "560"),
        ("wed", "2"), ("monday - tuesday, sun", "016"),
    ])
    def test_understood(self, days, open_on):
        hours = TradingHours("09:00", "10:00", tz="UTC", days=days)
        monday = utc("2026-11-16T09:30")
        found = {str(day) for day in range(7) if hours.is_open(monday + timedelta(days=day))}
        assert found == set(open_on)


class TestMistakes:
    @pytest.mark.parametrize("arguments, message", [
        (dict(opens="9.30"), "opens must be a time of day such as '09:30', not '9.30'"),
        (dict(opens="24:00"), "opens can not be '24:00'"),
        (dict(closes="25:00"), "closes must be a time of day"),
        (dict(closes=1600), "closes must be a time of day"),
        (dict(tz="America/NewYork"), "did you mean 'America/New_York'"),
        (dict(tz="???"), "use a name such as 'America/New_York'"),
        (dict(tz=None), "no time zone is called None"),
        (dict(days="weekdays"), "days must be such as 'mon-fri'"),
        (dict(days=["mon"]), "days must be such as 'mon-fri'"),
        (dict(days="mon-wed-fri"), "days must be such as 'mon-fri'"),
        (dict(holidays="2026-12-25"), "holidays must be a list"),
        (dict(holidays=["25.12.2026"]), "holidays are dates such as '2026-12-25', not '25.12.2026'"),
    ])
    def test_fail_at_the_call(self, arguments, message):
        with pytest.raises(ConfigurationError, match=message.replace("?", r"\?").replace("(", r"\(")):
            TradingHours(**{"opens": "09:30", "closes": "16:00", "tz": "UTC", **arguments})

    @pytest.mark.parametrize("at", [datetime(2026, 1, 1), 1.5, "now", True, date(2026, 1, 1)])
    def test_times_that_are_none(self, at):
        hours = TradingHours("09:30", "16:00", tz="UTC")
        with pytest.raises(ConfigurationError):
            hours.is_open(at)
        with pytest.raises(ConfigurationError):
            hours.next_change(at)


def test_exchange_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    with pytest.raises(MissingDependency, match=r"market-streams\[hours\]"):
        Schedule.exchange("XNYS")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_while_a_calendar_is_loaded(monkeypatch):
    package = types.ModuleType("exchange_calendars")
    monkeypatch.setattr(package, "get_calendar_names", lambda: ["XNYS"], raising=False)
    monkeypatch.setitem(sys.modules, "exchange_calendars", package)
    schedule = Schedule.exchange("XNYS")
    loading, go = threading.Event(), threading.Event()
    monkeypatch.setattr(schedule, "_load", lambda *_: (loading.set(), go.wait(20), [])[2])
    thread = threading.Thread(target=schedule.is_open, args=(10**18,))
    thread.start()
    assert loading.wait(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # Python's own about forks and threads
        child = os.fork()
    if not child:
        signal.alarm(5)
        schedule._load = lambda *_: []
        os._exit(schedule.is_open(10**18))
    status = os.waitpid(child, 0)[1]
    go.set()
    thread.join(5)
    assert status == 0


@pytest.mark.skipif(importlib.util.find_spec("exchange_calendars") is None,
                    reason="exchange_calendars (the extra 'hours') is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # pandas announces changes of its own
class TestExchange:
    def test_new_york(self):
        schedule = Schedule.exchange("XNYS")
        assert schedule.is_open(local("2025-11-26T12:00"))
        assert not schedule.is_open(local("2025-11-27T12:00")), "Thanksgiving"
        assert changes(schedule, local("2025-11-26T12:00"), 4) == [
            local("2025-11-26T16:00"), local("2025-11-28T09:30"),
            local("2025-11-28T13:00"), local("2025-12-01T09:30")]

    def test_a_lunch_break(self):
        tokyo = ZoneInfo("Asia/Tokyo")
        schedule = Schedule.exchange("XTKS")
        assert changes(schedule, local("2025-06-02T08:00", tokyo), 4) == [
            local("2025-06-02T09:00", tokyo), local("2025-06-02T11:30", tokyo),
            local("2025-06-02T12:30", tokyo), local("2025-06-02T15:30", tokyo)]

    def test_sessions_over_midnight(self):
        chicago = ZoneInfo("America/Chicago")
        schedule = Schedule.exchange("CMES")
        assert schedule.is_open(local("2025-06-03T02:00", chicago))
        assert not schedule.is_open(local("2025-06-07T12:00", chicago))

    def test_years_apart(self):
        schedule = Schedule.exchange("XNYS")
        for year in (2031, 1999, 2025):
            assert schedule.is_open(local(f"{year}-06-04T12:00")) is (date(year, 6, 4).weekday() < 5)

    @pytest.mark.parametrize("year", [1900, 2100])
    def test_beyond_what_the_package_knows(self, year):
        schedule = Schedule.exchange("XHKG")
        assert schedule.is_open(utc(f"{year}-06-04T03:00")) is False
        assert schedule.next_change(utc(f"{year}-06-04T03:00")) is None

    def test_mistakes(self):
        with pytest.raises(ConfigurationError, match="did you mean 'XNYS'"):
            Schedule.exchange("xnys")
        with pytest.raises(ConfigurationError, match="market identifier code"):
            Schedule.exchange("the big board")

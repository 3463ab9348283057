"""Bars and 24-hour totals of a simulated market, in whole ticks and lots."""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone

from .market import Trade

_MINUTE = 60_000
_DAY = 1440 * _MINUTE
_MONDAY = 4 * _DAY              # the epoch began on a Thursday

#: milliseconds of the bars that are whole numbers of them
INTERVALS = {
    "1s": 1000, "1m": _MINUTE, "3m": 3 * _MINUTE, "5m": 5 * _MINUTE, "15m": 15 * _MINUTE,
    "30m": 30 * _MINUTE, "1h": 60 * _MINUTE, "2h": 120 * _MINUTE, "4h": 240 * _MINUTE,
    "6h": 360 * _MINUTE, "8h": 480 * _MINUTE, "12h": 720 * _MINUTE, "1d": _DAY, "3d": 3 * _DAY,
}
CALENDAR = ("1w", "1M", "1y")


def bucket(moment: int, interval: str, offset: int = 0) -> tuple[int, int]:
    """First and last millisecond of the bar that a moment (ms) falls into.

    ``offset`` moves midnight, in ms: 8 hours for venues that count days in UTC+8.

    Threads: any.
    """
    local = moment + offset
    if interval in INTERVALS:
        size = INTERVALS[interval]
        start = local // size * size
        return start - offset, start - offset + size - 1
    if interval == "1w":
        start = (local - _MONDAY) // (7 * _DAY) * 7 * _DAY + _MONDAY
        return start - offset, start - offset + 7 * _DAY - 1
    day = datetime.fromtimestamp(local / 1000, timezone.utc)
    first = day.replace(month=1 if interval == "1y" else day.month, day=1, hour=0, minute=0,
                        second=0, microsecond=0)
    if interval == "1y" or first.month == 12:
        following = first.replace(year=first.year + 1, month=1)
    else:
        following = first.replace(month=first.month + 1)
    return (int(first.timestamp()) * 1000 - offset, int(following.timestamp()) * 1000 - offset - 1)


@dataclass
class Bar:
    """One bar; times in ms, prices in ticks, volumes in lots, values in ticks * lots."""

    interval: str
    start: int
    end: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    value: int = 0
    bought_volume: int = 0
    bought_value: int = 0
    count: int = 0
    first_id: int = -1
    last_id: int = -1

    @classmethod
    def begin(cls, interval: str, moment: int, price: int, offset: int = 0) -> Bar:
        """An empty bar around a moment (ms). Threads: any."""
        start, end = bucket(moment, interval, offset)
        return cls(interval, start, end, price, price, price, price)

    def add(self, trade: Trade) -> None:
        """Count a trade. Threads: one at a time."""
        if not self.count:
            self.open = self.high = self.low = trade.tick
            self.first_id = trade.id
        self.high = max(self.high, trade.tick)
        self.low = min(self.low, trade.tick)
        self.close = trade.tick
        self.volume += trade.lots
        self.value += trade.tick * trade.lots
        if not trade.seller_aggressed:
            self.bought_volume += trade.lots
            self.bought_value += trade.tick * trade.lots
        self.count += 1
        self.last_id = trade.id


class Totals:
    """What a symbol has traded since the simulation began (which stands for 24 hours).

    Attributes:
        day: the totals as one bar.
        recent: the last 1000 trades.
        bars: the current bar of each interval that somebody asked for.
    """

    def __init__(self, moment: int, price: int, offset: int = 0) -> None:
        self.day = Bar("24h", moment, moment, price, price, price, price)
        self.recent: deque[Trade] = deque(maxlen=1000)
        self.bars: dict[str, Bar] = {}
        self._offset = offset

    def watch(self, interval: str, moment: int) -> None:
        """Keep bars of this interval from now (ms) on. Threads: one at a time."""
        if interval not in self.bars:
            self.bars[interval] = Bar.begin(interval, moment, self.day.close, self._offset)

    def observe(self, trades: list[Trade], moment: int) -> list[Bar]:
        """Count trades; answers the bars that have ended by ``moment`` (ms).

        Threads: one at a time.
        """
        ended = [bar for bar in self.bars.values() if bar.end < moment]
        for bar in ended:
            self.bars[bar.interval] = Bar.begin(bar.interval, moment, bar.close, self._offset)
        for trade in trades:
            self.day.add(trade)
            self.recent.append(trade)
            for bar in self.bars.values():
                bar.add(trade)
        self.day.end = moment
        return ended

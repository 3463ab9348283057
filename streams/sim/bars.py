"""Bars of a second, a minute and a day, made from the points of a tape.

A second's and a minute's bar is computed from its points when it is over, so that a late trade, a
correction or a cancellation can change the minute that was sent last. The day's high and low keep
what corrections take back; its volume does not.
"""
from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from .tape_events import Bar, Trade

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE

_CENT_OF_CENT = Decimal("0.000001")


class _Point(NamedTuple):
    time: int
    price: Decimal
    size: Decimal
    trades: int
    trade: Trade | None


class _Day:
    """The day so far."""

    def __init__(self, start: int, price: Decimal) -> None:
        self.start = start
        self.open = self.high = self.low = self.close = price
        self.volume = self.value = Decimal(0)
        self.trades = 0

    def add(self, point: _Point, late: bool) -> None:
        self.high = max(self.high, point.price)
        self.low = min(self.low, point.price)
        if not late:
            self.close = point.price
        self.move(point, 1)

    def move(self, point: _Point, sign: int) -> None:
        self.volume += sign * point.size
        self.value += sign * point.size * point.price
        self.trades += sign * point.trades

    def bar(self, symbol: str) -> Bar:
        return Bar(symbol, "1d", self.start, self.start + DAY, self.open, self.high, self.low,
                   self.close, self.volume, self.trades, _mean(self.value, self.volume), False, None)


class Bars:
    """The bars of one symbol.

    Attributes:
        day_before: the last whole day, if there was one.

    Threads: one at a time; the tape has the lock.
    """

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self._second: list[_Point] = []
        self._minute: list[_Point] = []
        self._minute_before: list[_Point] = []
        self._day: _Day | None = None
        self.day_before: Bar | None = None

    def roll(self, now: int) -> list[Bar]:
        """The bars that are over at ``now``; a day's bar comes with every minute."""
        done: list[Bar] = []
        if self._second and now // SECOND > self._second[0].time // SECOND:
            done.append(self._bar("1s", SECOND, self._second, False))
            self._second = []
        if self._minute and now // MINUTE > self._minute[0].time // MINUTE:
            done.append(self._bar("1m", MINUTE, self._minute, False))
            if self._day is not None:
                done.append(self._day.bar(self._symbol))
            self._minute_before, self._minute = self._minute, []
        if self._day is not None and now // DAY > self._day.start // DAY:
            self.day_before, self._day = self._day.bar(self._symbol), None
        return done

    def day_bar(self) -> Bar | None:
        """The day so far, or None before its first point."""
        return None if self._day is None else self._day.bar(self._symbol)

    def add(self, moment: int, price: Decimal, size: Decimal, trades: int,
            trade: Trade | None = None) -> list[Bar]:
        """Add a point; answers with the minute that it changed, if it came late."""
        point = _Point(moment, price, size, trades, trade)
        if self._day is None:
            self._day = _Day(moment // DAY * DAY, price)
        before = self._minute_before
        late = bool(before) and moment // MINUTE <= before[0].time // MINUTE
        self._day.add(point, late)
        if late:
            before.append(point)
            return [self._bar("1m", MINUTE, before, True)]
        self._second.append(point)
        self._minute.append(point)
        return []

    def replace(self, trade: Trade, by: Trade | None) -> list[Bar]:
        """A trade was corrected or (None) cancelled; answers as `add` does."""
        revised: list[Bar] = []
        for points in (self._second, self._minute, self._minute_before):
            for index, point in enumerate(points):
                if point.trade == trade:
                    self._exchange(points, index, by, points is not self._second)
                    if points is self._minute_before and points:
                        revised.append(self._bar("1m", MINUTE, points, True))
                    break
        return revised

    def _exchange(self, points: list[_Point], index: int, by: Trade | None, counts: bool) -> None:
        old = points.pop(index)
        new = None if by is None else _Point(old.time, by.price, by.size, old.trades, by)
        if new is not None:
            points.insert(index, new)
        if counts and self._day is not None and old.time >= self._day.start:
            self._day.move(old, -1)
            if new is not None:
                self._day.move(new, 1)

    def _bar(self, interval: str, length: int, points: Sequence[_Point], revised: bool) -> Bar:
        prices = [point.price for point in points]
        volume = sum((point.size for point in points), Decimal(0))
        value = sum((point.size * point.price for point in points), Decimal(0))
        start = points[0].time // length * length
        return Bar(self._symbol, interval, start, start + length, prices[0], max(prices), min(prices),
                   prices[-1], volume, sum(point.trades for point in points), _mean(value, volume),
                   revised, self.day_bar())


def _mean(value: Decimal, volume: Decimal) -> Decimal:
    return (value / volume).quantize(_CENT_OF_CENT) if volume else Decimal(0)

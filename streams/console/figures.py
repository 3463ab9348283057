"""Figures as people read them: prices of one width, ages, counts, a line of little bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from ..events import Number

__all__ = ["Digits", "age", "ascii_bar", "bar", "clock", "count", "lasted", "line", "plain", "rate", "trend"]

_MOST_PLACES = 10
_BARS = "▁▂▃▄▅▆▇█"
_BLOCKS = " ▏▎▍▌▋▊▉█"


def plain(number: Number) -> str:
    """A number without exponent, as short as it can be."""
    text = format(Decimal(str(number)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


class Digits:
    """Shows the numbers of one kind with the same number of decimal places: the most there have been,
    since a price that ends in 0 has lost that digit on its way through ``float``."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, ...], int] = {}

    def learn(self, numbers: Iterable[Number | None], *kind: str) -> None:
        """Look at all of them first, so that the first is shown like the last."""
        for number in numbers:
            self.show(number, *kind)

    def show(self, number: Number | None, *kind: str) -> str:
        """``number`` as text, "" for None; ``kind`` says what it belongs to."""
        if number is None:
            return ""
        text = plain(number)
        places = len(text.partition(".")[2])
        most = self._places[kind] = min(max(places, self._places.get(kind, 0)), _MOST_PLACES)
        return f"{Decimal(text):.{most}f}"


def line(text: str) -> str:
    """Somebody else's words as one line of what can be printed: no venue moves the cursor here."""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in text).split())


def age(seconds: float | None) -> str:
    """``7 ms``, ``1.2 s``, ``5 min``; "" for None."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def lasted(seconds: float) -> str:
    """``0:07``, ``12:34``, ``1:02:03``."""
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clock(nanoseconds: int) -> str:
    """Time of day (UTC), with milliseconds."""
    milliseconds = nanoseconds // 1_000_000 % 86_400_000
    seconds, part = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{part:03}"


def count(number: int) -> str:
    """With groups of digits: ``12,345``."""
    return f"{number:,}"


def rate(per_second: float) -> str:
    """``0``, ``0.3``, ``12``, ``1,234``: messages per second."""
    return f"{per_second:.1f}" if 0 < per_second < 9.95 else f"{per_second:,.0f}"


def trend(values: Sequence[float], width: int) -> str:
    """The last ``width`` values as little bars between their lowest and highest."""
    shown = values[-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    if low == high:
        return _BARS[3] * len(shown)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in shown)


def bar(part: float, width: int) -> str:
    """``part`` (0 to 1) of ``width`` characters, to an eighth of one; never nothing."""
    eighths = max(round(part * width * 8), 1)
    return _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()


def ascii_bar(part: float, width: int) -> str:
    """The same in whole characters."""
    return "=" * max(round(part * width), 1)

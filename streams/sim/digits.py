"""How venues write numbers: fixed places, or the way Java prints a double."""
from __future__ import annotations

_MAX_KEPT = 100_000


class Fixed(dict[int, str]):
    """Whole steps -> text with a fixed number of places; what was asked for once is kept.

    ``Fixed(decimals=2, places=8)[6000050]`` is ``"60000.50000000"``; the sign is dropped, so a
    key of the bid side can be given as it is.

    Threads: any.
    """

    def __init__(self, decimals: int, places: int) -> None:
        super().__init__()
        self._factor = 10 ** (places - decimals)
        self._places = places

    def __missing__(self, steps: int) -> str:
        text = fixed(abs(steps) * self._factor, self._places)
        if len(self) >= _MAX_KEPT:
            self.clear()
        self[steps] = text
        return text


class JavaDouble(dict[int, str]):
    """Whole steps -> text as Java's ``Double.toString`` writes it; what was asked for is kept.

    ``JavaDouble(decimals=4)[2]`` is ``"2.0E-4"``. The sign is dropped, as in `Fixed`.

    Threads: any.
    """

    def __init__(self, decimals: int) -> None:
        super().__init__()
        self._decimals = decimals

    def __missing__(self, steps: int) -> str:
        text = java_double(abs(steps), self._decimals)
        if len(self) >= _MAX_KEPT:
            self.clear()
        self[steps] = text
        return text


def fixed(value: int, places: int) -> str:
    """``value`` / 10**``places`` with all its places. Threads: any."""
    if places <= 0:
        return str(value)
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value), 10 ** places)
    return f"{sign}{whole}.{part:0{places}d}"


def java_double(value: int, decimals: int) -> str:
    """``value`` / 10**``decimals`` in Java's way: plain from 0.001 up to ten million, else in
    scientific notation; always with a digit after the point.

    Threads: any.
    """
    if value == 0:
        return "0.0"
    digits = str(abs(value))
    exponent = len(digits) - 1 - decimals           # of the first digit
    digits = digits.rstrip("0") or "0"
    sign = "-" if value < 0 else ""
    if not -3 <= exponent < 7:
        return f"{sign}{digits[0]}.{digits[1:] or '0'}E{exponent}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    digits = digits.ljust(exponent + 1, "0")
    return f"{sign}{digits[:exponent + 1]}.{digits[exponent + 1:] or '0'}"

"""Checksums of order books: is the book that we keep the one that the venue keeps?

Some venues send, with every change, a CRC32 over the best levels of the book as it is afterwards. It
is made of the digits that stand in the venue's messages, trailing zeros included, so the venue's half
keeps a :class:`DigitBook` beside the book that users read, whatever type of numbers they chose. How
the digits are put together differs by venue, and is a :class:`Formula`.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

__all__ = ["DigitBook", "Formula", "check_digits", "digits"]

Digits = tuple[Decimal, Decimal]
_SMALLEST, _LARGEST = Decimal("1e-40"), Decimal("1e40")


class Formula(NamedTuple):
    """How a venue makes its checksum.

    Attributes:
        levels: Best levels of each side that it covers.
        text: What a level ``(price, size)`` contributes.
        join: Puts the contributions of the best bids and the best asks together, best first in.
        signed: The CRC is sent as a signed 32-bit number.
    """

    levels: int
    text: Callable[[Decimal, Decimal], str]
    join: Callable[[Sequence[str], Sequence[str]], str]
    signed: bool = False


def digits(number: Decimal) -> str:
    """A number as venues write it: all of its digits, never an exponent."""
    return f"{number:f}"


class _Side:
    """One side: prices in rising order, and what each level contributes."""

    __slots__ = ("prices", "texts", "_text", "_depth", "_worst")

    def __init__(self, text: Callable[[Decimal, Decimal], str], depth: int | None, bids: bool) -> None:
        self.prices: list[Decimal] = []
        self.texts: dict[Decimal, str] = {}
        self._text = text
        self._depth = depth
        self._worst = 0 if bids else -1

    def clear(self) -> None:
        self.prices.clear()
        self.texts.clear()

    def update(self, changes: Iterable[Digits]) -> Sequence[Decimal]:
        """Apply all changes, then cut to the depth. Returns the prices that were cut off."""
        prices, texts = self.prices, self.texts
        for price, size in changes:
            if size:
                if price not in texts:
                    insort(prices, price)
                texts[price] = self._text(price, size)
            elif texts.pop(price, None) is not None:
                del prices[bisect_left(prices, price)]
        if self._depth is None or len(prices) <= self._depth:
            return ()
        gone = [prices.pop(self._worst) for _ in range(len(prices) - self._depth)]
        for price in gone:
            del texts[price]
        return gone


class DigitBook:
    """A book in the venue's digits, cut to the depth that is subscribed. Threads: one.

    Args:
        formula: How its checksum is made.
        depth: Levels per side that the venue keeps us informed of: beyond, it does not tell when one
            goes, so they must not stay. None: the venue removes every level itself.
    """

    def __init__(self, formula: Formula, depth: int | None = None) -> None:
        self._formula = formula
        self._bids = _Side(formula.text, depth, True)
        self._asks = _Side(formula.text, depth, False)

    def replace(self, bids: Iterable[Digits], asks: Iterable[Digits]) -> tuple[
            Sequence[Decimal], Sequence[Decimal]]:
        """Forget everything; these are all levels now. Returns what :meth:`update` does."""
        self._bids.clear()
        self._asks.clear()
        return self.update(bids, asks)

    def update(self, bids: Iterable[Digits], asks: Iterable[Digits]) -> tuple[
            Sequence[Decimal], Sequence[Decimal]]:
        """Apply one message: absolute sizes, 0 removes the level.

        Returns:
            Prices of the bids and of the asks that were pushed beyond the depth.
        """
        return self._bids.update(bids), self._asks.update(asks)

    def checksum(self) -> int:
        """The checksum of the book as it is now."""
        count, bids, asks = self._formula.levels, self._bids, self._asks
        text = self._formula.join(
            [bids.texts[price] for price in bids.prices[:-count - 1:-1]],
            [asks.texts[price] for price in asks.prices[:count]])
        crc = zlib.crc32(text.encode())
        return crc - (1 << 32) if self._formula.signed and crc >> 31 else crc


def check_digits(levels: Iterable[Digits]) -> None:
    """Raises ValueError (or ArithmeticError) unless all are prices and sizes that a venue can mean.
    Narrower than :func:`streams.numbers.check_levels`: these are written out digit by digit."""
    for price, size in levels:
        if not (_SMALLEST < price < _LARGEST and (size == 0 or _SMALLEST < size < _LARGEST)):
            raise ValueError(f"impossible level: {price} {size}")

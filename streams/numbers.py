"""Numbers from the wire: ``float`` checked inside the C decoder, or exact ``Decimal`` checked here."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Annotated, Any

import msgspec

from .events import Level, Number
from .venue import FloatPrice, FloatSize

__all__ = ["Count", "Millis", "Seconds", "check_levels", "check_numbers", "check_prices", "number_types"]

# Whole numbers of the wire: of messages, of trades; times whose nanoseconds 64 bits hold. No machine packs
# more, and the decoder would take thousands of digits. (The bounds cost 0.02 us a message.)
Count = Annotated[int, msgspec.Meta(ge=0, le=2 ** 63 - 1)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=(2 ** 63 - 1) // 1_000_000)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=(2 ** 63 - 1) // 1_000_000_000)]

_SMALLEST, _LARGEST = Decimal("1e-300"), Decimal("1e300")


def number_types(number: type[float] | type[Decimal]) -> tuple[Any, Any]:
    """``(price, size)`` types for a decoder. The float ones refuse NaN, infinities, negative sizes
    and prices that are not positive; Decimals are for the checks below, which say the same."""
    return (FloatPrice, FloatSize) if number is float else (Decimal, Decimal)


def check_levels(levels: Iterable[Level]) -> None:
    """Raises ValueError (or ArithmeticError) unless all are real prices and sizes."""
    for price, size in levels:
        if not (_SMALLEST < price < _LARGEST and 0 <= size < _LARGEST):
            raise ValueError(f"impossible level: {price} {size}")


def check_prices(*prices: Number | None) -> None:
    """Raises ValueError (or ArithmeticError) unless all Decimals among them are finite and more than 0."""
    for price in prices:
        if isinstance(price, Decimal) and not _SMALLEST < price < _LARGEST:
            raise ValueError(f"impossible price: {price}")


def check_numbers(*numbers: Number | None) -> None:
    """Raises ValueError (or ArithmeticError) unless all Decimals among them are finite and not negative."""
    for number in numbers:
        if isinstance(number, Decimal) and not 0 <= number < _LARGEST:
            raise ValueError(f"impossible number: {number}")

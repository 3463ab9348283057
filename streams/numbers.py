"""Numbers from the wire: ``float`` checked inside the C decoder, or exact ``Decimal`` checked here."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from .events import Level, Number
from .venue import FloatPrice, FloatSize

__all__ = ["check_levels", "check_numbers", "number_types"]

_LIMIT = Decimal("1e300")


def number_types(number: type[float] | type[Decimal]) -> tuple[Any, Any]:
    """``(price, size)`` types for a decoder. The float ones refuse NaN, infinities, negative sizes
    and prices that are not positive; for Decimal use :func:`check_levels`."""
    return (FloatPrice, FloatSize) if number is float else (Decimal, Decimal)


def check_levels(levels: Iterable[Level]) -> None:
    """Raises ValueError (or ArithmeticError) unless all are real prices and sizes."""
    for price, size in levels:
        if not (0 < price < _LIMIT and 0 <= size < _LIMIT):
            raise ValueError(f"impossible level: {price} {size}")


def check_numbers(*numbers: Number | None) -> None:
    """Raises ValueError (or ArithmeticError) unless all that are there are finite and not negative."""
    for number in numbers:
        if number is not None and not 0 <= number < _LIMIT:
            raise ValueError(f"impossible number: {number}")

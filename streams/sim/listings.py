"""What a symbol of a stock venue is, by its spelling, and in which steps it is traded."""
from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from decimal import Decimal

from .tape import Listing

_OPTION = re.compile(r"[A-Z]{1,6}\d?\d{6}[CP]\d{8}")
_FUTURE = re.compile(r"[A-Z0-9]{1,3}[FGHJKMNQUVXZ]\d{1,2}")
_COINS = {       # price, tick, lot
    "BTC": ("60000", "0.01", "1E-9"),
    "ETH": ("2500", "0.01", "1E-8"),
    "DOGE": ("0.1", "0.00001", "0.01"),
    "SHIB": ("0.0000245", "1E-9", "1"),
}
_STEPS = {       # lowest and highest price at the start, tick, lot
    "stock": (20, 500, "0.01", "1"),
    "option": (1, 30, "0.01", "1"),
    "crypto": (10, 200, "0.0001", "1E-6"),
    "forex": (1, 2, "0.00001", "1"),
    "index": (1000, 6000, "0.01", "1"),
    "future": (1000, 6000, "0.01", "1"),
}


def alpaca_kind(symbol: str) -> str:
    """``BTC/USD`` is crypto, ``NVDA261218C00200000`` an option, the rest are stocks. Threads: any."""
    if "/" in symbol:
        return "crypto"
    return "option" if _OPTION.fullmatch(symbol) else "stock"


def polygon_kind(symbol: str) -> str:
    """``O:NVDA261218C00200000`` is an option, ``I:SPX`` an index, ``EUR/USD`` forex, ``BTC-USD``
    crypto, ``ESZ6`` a future, the rest are stocks. Threads: any."""
    if symbol.startswith("O:"):
        return "option"
    if symbol.startswith("I:"):
        return "index"
    if "/" in symbol:
        return "forex"
    if re.fullmatch(r"[A-Z0-9]{2,}-[A-Z]{3,4}(@\d+)?", symbol):
        return "crypto"
    return "future" if _FUTURE.fullmatch(symbol) else "stock"


def listings(symbols: Iterable[str], kind_of: Callable[[str], str]) -> list[Listing]:
    """The symbols with their kinds and steps; prices at the start depend on the name only.

    Threads: any.

    Raises:
        ValueError: a string instead of a list, or an empty symbol.
    """
    if isinstance(symbols, str):
        raise ValueError(f"symbols={symbols!r}: expected a list such as [{symbols!r}]")
    return [_listing(symbol.upper(), kind_of(symbol.upper())) for symbol in symbols]


def _listing(symbol: str, kind: str) -> Listing:
    if not symbol:
        raise ValueError("symbols: one of them is empty")
    low, high, tick, lot = _STEPS[kind]
    start = str(round(random.Random(symbol).uniform(low, high), 2))
    base = re.split(r"[-/]", symbol)[0]
    if kind == "crypto" and base in _COINS:
        start, tick, lot = _COINS[base]
    return Listing(symbol, base, "USD", Decimal(start), Decimal(tick), Decimal(lot), kind)

"""What is traded on a simulated market."""
from __future__ import annotations

import zlib
from dataclasses import dataclass
from decimal import Decimal

_QUOTES = ("USDT", "USDC", "FDUSD", "BUSD", "TUSD", "HUSD", "BTC", "ETH", "BNB", "EUR", "TRY",
           "BRL", "USD")
_KNOWN = {       # middle price, tick, lot
    "BTC": ("60000", "0.01", "0.00001"),
    "ETH": ("2500", "0.01", "0.0001"),
    "SOL": ("150", "0.01", "0.001"),
    "XRP": ("0.6", "0.0001", "0.1"),
    "DOGE": ("0.1", "0.00001", "1"),
}


@dataclass(frozen=True)
class Instrument:
    """What is traded, and in which steps.

    Attributes:
        symbol: upper case, without a separator.
        tick: the step of prices; a power of ten.
        lot: the step of sizes; a power of ten.
        start: the middle price at the beginning.
    """

    symbol: str
    base: str
    quote: str
    start: Decimal
    tick: Decimal
    lot: Decimal

    @classmethod
    def named(cls, symbol: str) -> Instrument:
        """The usual steps for a symbol such as ``BTCUSDT``; unknown coins get a price that
        depends on their name only.

        Threads: any.

        Raises:
            ValueError: a symbol that is not letters and digits ending in a known quote coin.
        """
        name = symbol.upper()
        quote = next((q for q in _QUOTES if name.endswith(q) and name != q), None)
        if quote is None or not name.isalnum():
            raise ValueError(f"symbol {symbol!r}: expected something like 'BTCUSDT', ending in "
                             f"one of {', '.join(_QUOTES)}")
        base = name[:-len(quote)]
        if quote in ("BTC", "ETH", "BNB"):
            start, tick, lot = f"0.000{20000 + zlib.crc32(name.encode()) % 60000}", "1E-8", "0.1"
        elif base in _KNOWN:
            start, tick, lot = _KNOWN[base]
        else:
            start = str(Decimal(20000 + zlib.crc32(name.encode()) % 60000).scaleb(-4))
            tick, lot = "0.0001", "0.01"
        return cls(name, base, quote, Decimal(start), Decimal(tick), Decimal(lot))

    @property
    def price_decimals(self) -> int:
        """Digits after the point in a price. Threads: any."""
        return -int(self.tick.adjusted())

    @property
    def size_decimals(self) -> int:
        """Digits after the point in a size. Threads: any."""
        return -int(self.lot.adjusted())

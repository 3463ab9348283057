"""Symbols: canonical ``BASE-QUOTE`` and what each venue writes.

The key in the store is always the user's own spelling; this module only finds the venue's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import ConfigurationError

__all__ = ["SymbolStyle", "among", "check_pair", "native_symbol"]

# What a symbol may be made of: letters of any script (some venues list non-ASCII names), digits and
# the punctuation venues use. No white space and nothing that means something in a URL or a topic.
_SYMBOL = re.compile(r"[\w.\-:/^*]+")
_COMPACT = re.compile(r"[\w\-]+")      # of venues that write BTCUSDT


class SymbolStyle(NamedTuple):
    """How a venue writes ``BTC-USDT``: what stands for the hyphen, and in which case.

    Attributes:
        separator: ``""`` for ``BTCUSDT``, ``"/"`` for ``BTC/USDT``, ``"-"`` to keep it.
        lower: Write it in lower case (else in upper case).
        verbatim: Pass every symbol on exactly as it is.
    """

    separator: str = ""
    lower: bool = False
    verbatim: bool = False


def native_symbol(symbol: str, style: SymbolStyle, venue: str) -> str:
    """The spelling of ``symbol`` in ``style``: canonical or native in, native out.

    Raises:
        ConfigurationError: Not a text, empty, or with characters no symbol has.
    """
    if not isinstance(symbol, str) or not _SYMBOL.fullmatch(symbol):
        raise ConfigurationError(
            f"{symbol!r} is no symbol of {venue}; write it like 'BTC-USDT' or as the venue does")
    if style.verbatim:
        return symbol
    native = symbol.replace("-", style.separator)
    if not style.separator and not (_COMPACT.fullmatch(symbol) and native):
        raise ConfigurationError(
            f"{symbol!r} is no symbol of {venue}; write it like 'BTC-USDT' or as the venue does")
    return native.lower() if style.lower else native.upper()


def among(pattern: str, symbol: str) -> bool:
    """Whether a symbol is one of those that a wildcard stands for."""
    start, _, rest = pattern.partition("*")
    return symbol.startswith(start) and (
        not rest or re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), symbol) is not None)


def check_pair(native: str, symbol: str, venue: str) -> None:
    """For venues that answer a misspelt pair with silence.

    Raises:
        ConfigurationError: ``native``, made of the user's ``symbol``, is not of the form ``BASE/QUOTE``.
    """
    parts = native.replace("-", "/").split("/")
    if len(parts) != 2 or not all(parts):
        raise ConfigurationError(
            f"{symbol!r} is no symbol of {venue}; write it like 'BTC-USD' or 'BTC/USD'")

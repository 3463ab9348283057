"""From words on a command line to what is to be started."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import ConfigurationError
from ..exchanges import EXCHANGES
from ..stream import Stream

__all__ = ["channels_of", "names_of_exchanges", "read_options", "read_targets", "split_names"]

_FIRST = ("book", "quotes", "ticker", "values")     # the first of these that a venue has gives the prices
_BESIDE = ("trades",)
_KEYS = ("api_key", "api_secret")


def names_of_exchanges() -> list[str]:
    """Names and aliases of all exchanges."""
    return list(EXCHANGES)


def read_targets(words: Sequence[str]) -> dict[str, list[str]]:
    """``{exchange: symbols}`` of words such as ``binance BTC-USDT ETH-USDT huobi:BTC-USDT``.

    The name of an exchange, alone or before a colon, says whose the symbols are from there on.
    Symbols may be joined by commas. Aliases become names, and each pair is there once.

    Raises:
        ConfigurationError: A symbol without an exchange, or an exchange without symbols.
    """
    found: dict[str, list[str]] = {}
    exchange = ""
    for word in words:
        before, colon, after = word.partition(":")
        if before in EXCHANGES:
            exchange, symbols = EXCHANGES[before].venue.name, after if colon else ""
            found.setdefault(exchange, [])
        else:
            symbols = word
        if symbols and not exchange:
            raise ConfigurationError(f"{word!r} is no exchange{_like(before)}; name one before its symbols, "
                                     f"like 'binance BTC-USDT'; known: {', '.join(EXCHANGES)}")
        if symbols:
            found[exchange] += split_names([symbols])
    if words and not found:
        raise ConfigurationError("nothing is named; write for example 'binance BTC-USDT'")
    for name, symbols_of in found.items():
        if not symbols_of:
            raise ConfigurationError(f"{name}: name its symbols too, like '{name} {_example(name)}'")
        found[name] = list(dict.fromkeys(symbols_of))
    return found


def _like(word: str) -> str:
    close = difflib.get_close_matches(word.lower(), EXCHANGES, 1)
    return f" (is {close[0]!r} meant?)" if close else ""


def _example(exchange: str) -> str:
    return "AAPL" if EXCHANGES[exchange].venue.name in ("alpaca", "polygon", "nasdaq-itch") else "BTC-USDT"


def split_names(words: Iterable[str]) -> list[str]:
    """Names in several words, some of them joined by commas."""
    return [name for word in words for name in word.split(",") if name]


def read_options(words: Iterable[str], exchanges: Sequence[str]) -> dict[str, dict[str, Any]]:
    """``{exchange: options}`` of words such as ``feed=iex``, ``polygon.market=options``, ``depth=20``.

    Without an exchange before it an option is for all. Values are numbers or other JSON where they
    look like it, else text; keys are text whatever they look like.

    Raises:
        ConfigurationError: No ``=``, or another exchange than those named.
    """
    options: dict[str, dict[str, Any]] = {exchange: {} for exchange in exchanges}
    for word in words:
        name, equals, text = word.partition("=")
        exchange, dot, rest = name.rpartition(".")
        if dot and exchange in EXCHANGES:
            exchange = EXCHANGES[exchange].venue.name
        if not equals or not rest or (dot and exchange not in options):
            raise ConfigurationError(
                f"--option {word!r}: write it like depth=20, or {next(iter(options))}.depth=20")
        for one in [exchange] if dot else list(options):
            options[one][rest] = text if rest in _KEYS else _value(text)
    return options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def channels_of(kind: type[Stream], options: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """What to subscribe: ``wanted``, or, when that is empty, what gives prices and trades there.

    Raises:
        ConfigurationError: Options that can not work (a missing key), or an unknown channel.
    """
    facts = kind.facts(options)
    if wanted:
        for channel in wanted:
            facts.check_channel(channel)
        return list(wanted)
    return [channel for channel in _FIRST if _has(facts, channel)][:1] + [
        channel for channel in _BESIDE if _has(facts, channel)]


def _has(facts: Any, channel: str) -> bool:
    try:
        facts.check_channel(channel)
    except ConfigurationError:
        return False
    return True

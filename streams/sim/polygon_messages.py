"""How Polygon (Massive) writes events down.

Source: massive.com/docs/websocket, one page for each channel. Where the text and the sample of a page
differ about a unit, the sample is followed: LULD is in microseconds, NOI in nanoseconds, FMV of options
in nanoseconds and of everything else in milliseconds.
"""
from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from .tape import Tape
from .tape_events import (Bands, Bar, BookChange, Event, Imbalance, Quote, Status, Trade, Value)
from .tape_sim import Record

_DAY = 86_400_000_000_000
_CONDITIONS = {"odd_lot": 37, "sweep": 14}
_STOCK_EXCHANGES = {"Q": 12, "V": 15, "P": 11, "Z": 19, "D": 4}
_OPTION_EXCHANGES = {"Q": 316, "V": 301, "P": 302, "Z": 312, "D": 309}
_FAIR_PREFIX = {"forex": "C:", "crypto": "X:"}
_HALTED, _RESUMED = 17, 18


def split_exchange(symbol: str) -> tuple[str, int]:
    """A crypto symbol's pair and exchange: ``BTC-USD@23`` is that pair on exchange 23. Threads: any."""
    pair, _, exchange = symbol.partition("@")
    return pair, int(exchange or 1)


def number(value: Decimal) -> float | int:
    """A JSON number without a needless ``.0``. Threads: any."""
    return int(value) if value == value.to_integral_value() else float(value)


def sequence(ns: int) -> int:
    """The sequence number of an event: it grows during the day, but not by one. Threads: any."""
    return ns % _DAY


def tape_of(symbol: str) -> int:
    """1 NYSE, 3 Nasdaq. Threads: any."""
    return 3 if len(symbol) > 3 else 1


def exchange_id(kind: str, letter: str) -> int:
    """Polygon's number of an exchange. Threads: any."""
    return (_OPTION_EXCHANGES if kind == "option" else _STOCK_EXCHANGES)[letter]


def conditions(trade: Trade) -> list[int]:
    """A trade's conditions as numbers. Threads: any."""
    return [_CONDITIONS[name] for name in trade.conditions]


class Writer:
    """Writes events as records.

    Args:
        tape: says what kind a symbol is.
        delay: ns that the feed is behind.
        quote_lot: shares in one unit of a stock quote's size.
    """

    def __init__(self, tape: Tape, delay: int, quote_lot: int) -> None:
        self._tape = tape
        self._delay = delay
        self._quote_lot = quote_lot
        self._writers: dict[type, Callable[..., Record]] = {
            Trade: self._trade, Quote: self._quote, Bar: self._bar, BookChange: self._book,
            Status: self._status, Bands: self._bands, Imbalance: self._imbalance, Value: self._value}

    def record(self, event: Event) -> Record:
        """One message. Threads: any."""
        return self._writers[type(event)](event)

    def _ms(self, ns: int) -> int:
        return (ns - self._delay) // 1_000_000

    def _trade(self, trade: Trade) -> Record:
        kind, moment = self._tape.kind(trade.symbol), self._ms(trade.time)
        price, size = number(trade.price), number(trade.size)
        if kind == "crypto":
            pair, exchange = split_exchange(trade.symbol)
            return {"ev": "XT", "pair": pair, "p": price, "t": moment, "s": size,
                    "c": [2 if trade.buyer else 1], "i": trade.id, "x": exchange, "r": moment + 3}
        if kind == "future":
            return {"ev": "T", "sym": trade.symbol, "p": price, "s": int(size), "t": moment,
                    "q": sequence(trade.time)}
        record: Record = {"ev": "T", "sym": trade.symbol, "x": exchange_id(kind, trade.exchange),
                          "p": price, "s": int(size), "t": moment, "q": sequence(trade.time)}
        if kind == "option":
            return {**record, "c": [233 if "sweep" in trade.conditions else 209]}
        record |= {"i": str(trade.id), "z": tape_of(trade.symbol), "ds": str(trade.size)}
        if trade.conditions:
            record["c"] = conditions(trade)
        if trade.exchange == "D":
            record |= {"trfi": 202, "trft": moment - 1}
        return record

    def _quote(self, quote: Quote) -> Record:
        kind, moment = self._tape.kind(quote.symbol), self._ms(quote.time)
        bid, ask = number(quote.bid), number(quote.ask)
        bid_size, ask_size = number(quote.bid_size), number(quote.ask_size)
        if kind == "crypto":
            pair, exchange = split_exchange(quote.symbol)
            return {"ev": "XQ", "pair": pair, "bp": bid, "bs": bid_size, "ap": ask, "as": ask_size,
                    "t": moment, "x": exchange, "r": moment + 3}
        if kind == "forex":
            return {"ev": "C", "p": quote.symbol, "x": "44", "a": ask, "b": bid, "t": moment}
        if kind == "future":
            return {"ev": "Q", "sym": quote.symbol, "bp": bid, "bs": int(bid_size), "bt": moment - 2,
                    "ap": ask, "as": int(ask_size), "at": moment - 1, "t": moment}
        record: Record = {"ev": "Q", "sym": quote.symbol,
                          "bx": exchange_id(kind, quote.bid_exchange), "bp": bid, "bs": int(bid_size),
                          "ax": exchange_id(kind, quote.ask_exchange), "ap": ask, "as": int(ask_size),
                          "t": moment, "q": sequence(quote.time)}
        if kind == "option":
            return record
        lots = {"bs": int(bid_size) // self._quote_lot, "as": int(ask_size) // self._quote_lot}
        return {**record, **lots, "c": 0, "i": [604], "z": tape_of(quote.symbol)}

    def _bar(self, bar: Bar) -> Record:
        kind = self._tape.kind(bar.symbol)
        second = bar.interval == "1s"
        prices = {"o": number(bar.open), "c": number(bar.close), "h": number(bar.high),
                  "l": number(bar.low)}
        times = {"s": self._ms(bar.time), "e": self._ms(bar.end)}
        size = _mean_size(bar)
        if kind == "crypto":
            pair = split_exchange(bar.symbol)[0]
            return {"ev": "XAS" if second else "XA", "pair": pair, "v": number(bar.volume),
                    "vw": number(bar.vwap), "z": size, **prices, **times}
        if kind == "forex":
            return {"ev": "CAS" if second else "CA", "pair": bar.symbol, **prices,
                    "v": int(bar.volume), **times}
        head: Record = {"ev": "A" if second else "AM", "sym": bar.symbol}
        if kind == "future":
            return {**head, "v": int(bar.volume), "dv": str(bar.volume), **prices, "n": bar.trades,
                    **times}
        day = bar.day or bar
        if kind == "index":
            return {**head, "op": number(day.open), **prices, **times}
        record = {**head, "v": int(bar.volume), "av": int(day.volume), "op": number(day.open),
                  "vw": number(bar.vwap), **prices, "a": number(day.vwap), "z": size, **times}
        if kind == "stock":
            record |= {"dv": str(bar.volume), "dav": str(day.volume)}
        return record

    def _book(self, book: BookChange) -> Record:
        pair, exchange = split_exchange(book.symbol)
        moment = self._ms(book.time)
        sides = ([[number(price), number(size)] for price, size in side]
                 for side in (book.bids, book.asks))
        bids, asks = sides
        return {"ev": "XL2", "pair": pair, "t": moment, "r": moment + 3, "x": exchange, "b": bids,
                "a": asks}

    def _luld(self, symbol: str, time: int, up: Decimal, down: Decimal, indicator: int) -> Record:
        return {"ev": "LULD", "T": symbol, "h": number(up), "l": number(down), "i": [indicator],
                "z": tape_of(symbol), "t": (time - self._delay) // 1000, "q": sequence(time)}

    def _bands(self, event: Bands) -> Record:
        return self._luld(event.symbol, event.time, event.up, event.down, 21)

    def _status(self, event: Status) -> Record:
        quote = self._tape.last_quote(event.symbol)
        return self._luld(event.symbol, event.time, quote.ask, quote.bid,
                          _HALTED if event.code == "H" else _RESUMED)

    def _imbalance(self, event: Imbalance) -> Record:
        return {"ev": "NOI", "T": event.symbol, "t": event.time - self._delay, "at": 930, "a": "M",
                "i": sequence(event.time) % 1000, "x": 10, "o": event.imbalance, "p": event.paired,
                "b": number(event.price)}

    def _value(self, event: Value) -> Record:
        if not event.fair:
            return {"ev": "V", "val": number(event.value), "T": event.symbol, "t": self._ms(event.time)}
        kind = self._tape.kind(event.symbol)
        symbol = split_exchange(event.symbol)[0]
        if kind == "forex":
            symbol = symbol.replace("/", "")
        moment = event.time - self._delay if kind == "option" else self._ms(event.time)
        return {"ev": "FMV", "fmv": number(event.value), "sym": _FAIR_PREFIX.get(kind, "") + symbol,
                "t": moment}


def _mean_size(bar: Bar) -> int:
    return int(bar.volume / bar.trades) if bar.trades else 0

"""How Alpaca writes events down.

Source: docs.alpaca.markets, the pages on real-time stock, option and crypto pricing data and on
news. ``T`` comes first in every message. JSON numbers have no needless ``.0``; in MessagePack prices
are doubles and times are timestamps.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache

from . import msgpack
from .tape import Tape
from .tape_events import (Bands, Bar, BookChange, Cancel, Correction, Event, Imbalance, Quote, Status,
                          Story, Trade)
from .tape_sim import Record

_SECOND = 1_000_000_000
_CONDITIONS = {"odd_lot": "I", "sweep": "F"}


@lru_cache(maxsize=4096)
def _whole_seconds(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def rfc3339(ns: int) -> str:
    """A moment with as many digits of a second as it needs: none to nine. Threads: any."""
    seconds, rest = divmod(ns, _SECOND)
    if not rest:
        return _whole_seconds(seconds) + "Z"
    return f"{_whole_seconds(seconds)}.{rest:09d}".rstrip("0") + "Z"


def _tape_of(symbol: str) -> str:
    return "C" if len(symbol) > 3 else "A"


class Writer:
    """Writes events as records.

    Args:
        tape: says what kind a symbol is.
        binary: for MessagePack.
        delay: ns that the feed is behind.
        quote_lot: shares in one unit of a stock quote's size.
    """

    def __init__(self, tape: Tape, binary: bool, delay: int, quote_lot: int) -> None:
        self._tape = tape
        self._binary = binary
        self._delay = delay
        self._quote_lot = quote_lot
        self._writers: dict[type, Callable[..., Record]] = {
            Trade: self._trade, Quote: self._quote, Bar: self._bar, BookChange: self._book,
            Correction: self._correction, Cancel: self._cancel, Status: self._status,
            Bands: self._bands, Imbalance: self._imbalance, Story: self._story}

    def record(self, event: Event) -> Record:
        """One message. Threads: any."""
        return self._writers[type(event)](event)

    def encode(self, record: Record) -> bytes:
        """Its bytes. Threads: any."""
        if self._binary:
            return msgpack.pack(record)
        return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode("utf-8")

    # -- values ------------------------------------------------------------------------------------

    def time(self, ns: int) -> object:
        """A moment, as this client gets it. Threads: any."""
        shown = ns - self._delay
        return msgpack.Timestamp(shown) if self._binary else rfc3339(shown)

    def number(self, value: Decimal) -> float | int:
        """A price, or a size that may have a fraction. Threads: any."""
        if not self._binary and value == value.to_integral_value():
            return int(value)
        return float(value)

    def _size(self, kind: str, size: Decimal) -> float | int:
        return self.number(size) if kind == "crypto" else int(size)

    # -- messages ----------------------------------------------------------------------------------

    def _trade(self, trade: Trade) -> Record:
        kind = self._tape.kind(trade.symbol)
        price, moment = self.number(trade.price), self.time(trade.time)
        if kind == "crypto":
            return {"T": "t", "S": trade.symbol, "p": price, "s": self.number(trade.size),
                    "t": moment, "i": trade.id, "tks": "B" if trade.buyer else "S"}
        if kind == "option":
            return {"T": "t", "S": trade.symbol, "p": price, "s": int(trade.size), "x": trade.exchange,
                    "t": moment, "c": "a" if "sweep" in trade.conditions else "I"}
        return {"T": "t", "S": trade.symbol, "i": trade.id, "x": trade.exchange, "p": price,
                "s": int(trade.size), "c": _conditions(trade), "z": _tape_of(trade.symbol), "t": moment}

    def _quote(self, quote: Quote) -> Record:
        kind = self._tape.kind(quote.symbol)
        moment, bid, ask = self.time(quote.time), self.number(quote.bid), self.number(quote.ask)
        if kind == "crypto":
            return {"T": "q", "S": quote.symbol, "bp": bid, "bs": self.number(quote.bid_size),
                    "ap": ask, "as": self.number(quote.ask_size), "t": moment}
        lot = self._quote_lot if kind == "stock" else 1
        record = {"T": "q", "S": quote.symbol, "bx": quote.bid_exchange, "bp": bid,
                  "bs": int(quote.bid_size) // lot, "ax": quote.ask_exchange, "ap": ask,
                  "as": int(quote.ask_size) // lot}
        if kind == "option":
            return {**record, "t": moment, "c": "A"}
        return {**record, "c": ["R"], "z": _tape_of(quote.symbol), "t": moment}

    def _bar(self, bar: Bar) -> Record:
        letter = "d" if bar.interval == "1d" else "u" if bar.revised else "b"
        return {"T": letter, "S": bar.symbol, "o": self.number(bar.open), "h": self.number(bar.high),
                "l": self.number(bar.low), "c": self.number(bar.close),
                "v": self._size(self._tape.kind(bar.symbol), bar.volume), "t": self.time(bar.time),
                "n": bar.trades, "vw": self.number(bar.vwap)}

    def _book(self, change: BookChange) -> Record:
        record: Record = {"T": "o", "S": change.symbol, "t": self.time(change.time)}
        for key, side in (("b", change.bids), ("a", change.asks)):
            record[key] = [{"p": self.number(price), "s": self.number(size)} for price, size in side]
        if change.whole:
            record["r"] = True
        return record

    def _correction(self, event: Correction) -> Record:
        old, new = event.original, event.corrected
        return {"T": "c", "S": event.symbol, "x": old.exchange, "oi": old.id,
                "op": self.number(old.price), "os": int(old.size), "oc": _conditions(old),
                "ci": new.id, "cp": self.number(new.price), "cs": int(new.size),
                "cc": _conditions(new), "z": _tape_of(event.symbol), "t": self.time(event.time)}

    def _cancel(self, event: Cancel) -> Record:
        trade = event.trade
        return {"T": "x", "S": event.symbol, "i": trade.id, "x": trade.exchange,
                "p": self.number(trade.price), "s": int(trade.size), "a": event.action,
                "z": _tape_of(event.symbol), "t": self.time(event.time)}

    def _status(self, event: Status) -> Record:
        return {"T": "s", "S": event.symbol, "sc": event.code, "sm": event.message,
                "rc": event.reason_code, "rm": event.reason, "t": self.time(event.time),
                "z": _tape_of(event.symbol)}

    def _bands(self, event: Bands) -> Record:
        return {"T": "l", "S": event.symbol, "u": self.number(event.up), "d": self.number(event.down),
                "i": event.indicator, "t": self.time(event.time), "z": _tape_of(event.symbol)}

    def _imbalance(self, event: Imbalance) -> Record:
        return {"T": "i", "S": event.symbol, "p": self.number(event.price), "z": _tape_of(event.symbol),
                "t": self.time(event.time)}

    def _story(self, story: Story) -> Record:
        moment = self.time(story.time)
        return {"T": "n", "id": story.id, "headline": story.headline, "summary": "",
                "author": "A. Simulator", "created_at": moment, "updated_at": moment,
                "url": f"https://example.com/news/{story.id}", "content": "",
                "symbols": list(story.symbols), "source": "simulated"}


def _conditions(trade: Trade) -> list[str]:
    return ["@", *(_CONDITIONS[name] for name in trade.conditions)]

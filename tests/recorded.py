"""The recordings of real feeds, and an oracle made from each without any code of the product.

Recordings are not part of this repository; tests that need them skip where they are not there.
"""

from __future__ import annotations

import base64
import bisect
import gzip
import json
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2] / "shared" / "recordings"


def recordings(*names: str) -> list[pathlib.Path]:
    """Paths of recordings; skips the test when one of them is not there."""
    paths = [ROOT / name for name in names]
    for path in paths:
        if not path.exists():
            pytest.skip(f"the recordings are not here (../shared/recordings/{path.name})")
    return paths


class Item(NamedTuple):
    """A frame, or the answer to a REST request (its URL is "" where it was not kept)."""

    url: str | None
    data: bytes


def read(paths: list[pathlib.Path]) -> Iterator[Item]:
    """What came in, in its order."""
    for path in paths:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("{"):
                    entry = json.loads(line)
                    if entry["t"] == "recv":
                        yield Item(None, base64.b64decode(entry["b64"]) if "b64" in entry
                                   else entry["data"].encode())
                    elif entry["t"] == "http":
                        yield Item(entry["url"], entry["data"].encode())
                else:
                    text = line.partition(" ")[2].strip()
                    yield Item("" if text.startswith('{"lastUpdateId"') else None, text.encode())


class Moment(NamedTuple):
    """The true best levels after one update."""

    bids: list[Any]
    asks: list[Any]


class BinanceOracle:
    """The true books of a Binance recording, by update id, and what bookTicker says beside them.

    Attributes:
        moments: symbol (lower case) -> update id -> the best levels; twice where the update that
            bridges a snapshot ends with the snapshot's own id.
        pairs: how many updates there are with a bookTicker of the same or an earlier id.
        agreeing: in how many of them the top of the true book is that bookTicker.
    """

    DEPTH = 10

    def __init__(self, paths: list[pathlib.Path], futures: bool) -> None:
        self.items = list(read(paths))
        self.moments: dict[str, dict[int, list[Moment]]] = defaultdict(dict)
        self.snapshots: dict[str, bytes] = {}
        self.pairs = self.agreeing = 0
        self._futures = futures
        self._tickers: dict[str, list[tuple[int, Any, Any]]] = defaultdict(list)
        self._books: dict[str, Sides] = {}
        for item in self.items:
            if item.url is None and b"bookTicker" in item.data[:80]:
                m = json.loads(item.data)["data"]
                self._tickers[m["s"].lower()].append(
                    (m["u"], (Decimal(m["b"]), Decimal(m["B"])), (Decimal(m["a"]), Decimal(m["A"]))))
        for known in self._tickers.values():
            known.sort()
        self._rebuild()

    def ticker_at(self, symbol: str, sequence: int) -> tuple[Any, Any] | None:
        """Best bid and ask by the last bookTicker up to that update id."""
        known = self._tickers[symbol]
        at = bisect.bisect_right(known, sequence, key=lambda entry: entry[0]) - 1
        return known[at][1:] if at >= 0 else None

    def _rebuild(self) -> None:
        early: dict[str, list[Any]] = defaultdict(list)
        for item in self.items:
            if item.url is not None and (item.url == "" or "/depth" in item.url):
                asked = re.search(r"symbol=(\w+)", item.url)
                symbol = asked[1].lower() if asked else next(iter(early))
                body = json.loads(item.data)
                book = self._books[symbol] = Sides()
                self.snapshots[symbol] = item.data
                book.apply(body["bids"], body["asks"], body["lastUpdateId"])
                self._note(symbol, book, False)
                for update in early.pop(symbol, []):
                    self._update(symbol, update)
            elif item.url is None and b"@depth" in item.data[:60]:
                m = json.loads(item.data)["data"]
                symbol = m["s"].lower()
                if symbol in self._books:
                    self._update(symbol, m)
                else:
                    early[symbol].append(m)

    def _update(self, symbol: str, m: Any) -> None:
        book = self._books[symbol]
        if m["u"] < book.sequence or (m["u"] == book.sequence and not self._futures):
            return
        book.apply(m["b"], m["a"], m["u"])
        self._note(symbol, book, True)

    def _note(self, symbol: str, book: Sides, counts: bool) -> None:
        bids, asks = book.best(self.DEPTH)
        self.moments[symbol].setdefault(book.sequence, []).append(Moment(bids, asks))
        ticker = self.ticker_at(symbol, book.sequence)
        if ticker is not None and counts:
            self.pairs += 1
            self.agreeing += ticker == (bids[0], asks[0])


class Sides:
    """Both sides of a book, their prices kept in order."""

    def __init__(self) -> None:
        self.sequence = 0
        self._sizes: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = {}, {}
        self._prices: tuple[list[Decimal], list[Decimal]] = [], []

    def apply(self, bids: Any, asks: Any, sequence: int) -> None:
        """Absolute sizes; 0 removes the level."""
        self.sequence = sequence
        for sizes, prices, changes in zip(self._sizes, self._prices, (bids, asks)):
            for price, size in _exact(changes):
                if size:
                    if price not in sizes:
                        bisect.insort(prices, price)
                    sizes[price] = size
                elif sizes.pop(price, None) is not None:
                    del prices[bisect.bisect_left(prices, price)]

    def best(self, count: int) -> tuple[list[Any], list[Any]]:
        """The best levels of both sides."""
        (bid_sizes, ask_sizes), (bids, asks) = self._sizes, self._prices
        return ([(price, bid_sizes[price]) for price in bids[:-count - 1:-1]],
                [(price, ask_sizes[price]) for price in asks[:count]])


def _exact(levels: Any) -> list[tuple[Decimal, Decimal]]:
    return [(Decimal(price), Decimal(size)) for price, size in levels]

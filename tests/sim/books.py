"""Order books as the venues' documents tell a client to keep them, for comparison with the oracle.

Written for these tests only: nothing here comes from the clients of this project.
"""
from __future__ import annotations

from decimal import Decimal
from typing import Any

from streams.sim import Book

Side = dict[Decimal, Decimal]


def change(side: Side, levels: Any) -> None:
    """Absolute sizes; zero deletes."""
    for price, size in levels:
        if Decimal(str(size)):
            side[Decimal(str(price))] = Decimal(str(size))
        else:
            side.pop(Decimal(str(price)), None)


class LocalBook:
    """A book with its sequence number."""

    def __init__(self, sequence: int, bids: Any, asks: Any) -> None:
        self.sequence = sequence
        self.bids: Side = {}
        self.asks: Side = {}
        change(self.bids, bids)
        change(self.asks, asks)

    def equals(self, book: Book, depth: int | None = None) -> bool:
        """Level by level, in order."""
        return (sorted(self.bids.items(), reverse=True)[:depth] == book.bids[:depth]
                and sorted(self.asks.items())[:depth] == book.asks[:depth])


class BinanceBook(LocalBook):
    """Diff depth on a REST snapshot."""

    def __init__(self, snapshot: Any, futures: bool = False) -> None:
        super().__init__(snapshot["lastUpdateId"], snapshot["bids"], snapshot["asks"])
        self.futures = futures
        self.linked = False

    def apply(self, event: Any) -> bool:
        """False when this event does not follow; older ones are ignored."""
        if event["u"] <= self.sequence and (not self.futures or event["u"] < self.sequence):
            return True
        if not self.futures:
            follows = event["U"] <= self.sequence + 1
        elif not self.linked:
            follows = event["U"] <= self.sequence <= event["u"] or event["pu"] == self.sequence
        else:
            follows = event["pu"] == self.sequence
        if follows:
            change(self.bids, event["b"])
            change(self.asks, event["a"])
            self.sequence = event["u"]
            self.linked = True
        return bool(follows)


class HuobiBook(LocalBook):
    """``mbp`` on its refresh."""

    def __init__(self, refresh: Any) -> None:
        super().__init__(refresh["seqNum"], refresh["bids"], refresh["asks"])

    def apply(self, tick: Any) -> bool:
        """False when this update does not follow; older ones are ignored."""
        if tick["seqNum"] <= self.sequence:
            return True
        if tick["prevSeqNum"] != self.sequence:
            return False
        change(self.bids, tick.get("bids", ()))
        change(self.asks, tick.get("asks", ()))
        self.sequence = tick["seqNum"]
        return True

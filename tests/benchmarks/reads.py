"""What a read costs, and what a book weighs. No network: one thread, a book of 1,000 levels a side.

Run as ``python reads.py``; prints one JSON object. Costs are microseconds per call, the call of a
function included, loop overhead taken off. ``changed``: an update of 10+10 levels has come since the last
read; ``rare``: ``RARE`` of them, so that nobody followed the best prices.
"""

from __future__ import annotations

import gc
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from many import resident
from server import Market
from streams import Store
from streams.exchanges import Binance
from streams.sequencing import BookKeeper

UPDATES = 5000
ROUNDS = 7
RARE = 20


class Case:
    """One live book, and updates for it."""

    def __init__(self) -> None:
        market = Market("btcusdt", 1, 10, 1000)
        self.snapshot = market.snapshot()
        self.updates = [market.update() for _ in range(UPDATES)]
        self.store = Store()
        self._stream = Binance(["BTC-USDT"], store=self.store)
        self.store.join(self._stream.feed.writer)
        self.venue = self._stream.venue()
        (self.route,) = self._stream.feed.subscriptions.routes()
        self._stream.feed.reconcile()
        self.venue.add(self.route)
        self.keeper: BookKeeper = self._stream.feed.keepers[self.route]
        self.book = self.keeper.book

    def restart(self) -> None:
        """Take the snapshot that the updates follow."""
        self.keeper.disconnected("stale", "")
        self.keeper.connected()
        for _, snapshot in self.venue.snapshot(self.route, self.snapshot, 1):
            self.keeper.apply(snapshot)


def cost(call: Callable[[], object]) -> float:
    """Of one call, nothing having changed."""
    turns = 20_000
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(turns):
            pass
        empty = time.process_time() - begun
        begun = time.process_time()
        for _ in range(turns):
            call()
        best = min(best, time.process_time() - begun - empty)
    return best / turns * 1e6


def cost_after_change(case: Case, updates: int) -> dict[str, float]:
    """Of the first call after so many updates: the median over many."""
    book, store = case.book, case.store
    empty = _first_calls(case, updates, lambda: None)
    return {name: _first_calls(case, updates, call) - empty for name, call in {
        "book.touch": lambda: book.touch, "book.depth(25)": lambda: book.depth(25),
        'book["bids"]': lambda: book["bids"],
        "store.orderbook(...)": lambda: store.orderbook("binance", "BTC-USDT")}.items()}


def _first_calls(case: Case, updates: int, call: Callable[[], object]) -> float:
    case.restart()
    taken, clock = [], time.perf_counter_ns
    for number, raw in enumerate(case.updates, 1):
        for _, delta in case.venue.receive(raw, 1):
            case.keeper.apply(delta)
        if number % updates == 0:
            begun = clock()
            call()
            taken.append(clock() - begun)
    return statistics.median(taken) / 1e3


def weight(books: int = 200) -> float:
    """Kilobytes of a book of 1,000 levels a side."""
    case = Case()
    kept = []
    gc.collect()
    before = resident()
    for _ in range(books):
        stream = Binance(["BTC-USDT"], store=case.store)
        stream.feed.reconcile()
        (keeper,) = stream.feed.keepers.values()
        for _, snapshot in case.venue.snapshot(case.route, case.snapshot, 1):
            keeper.apply(snapshot)
        kept.append(stream)
    gc.collect()
    return (resident() - before) / books * 1e3


def measure() -> dict[str, Any]:
    """Everything."""
    case = Case()
    case.restart()
    book, store = case.book, case.store
    store.orderbooks.setdefault("binance", type(store.orderbooks)())["BTC-USDT"] = book

    def lock() -> None:
        with store.lock:
            pass

    reads: dict[str, Callable[[], object]] = {
        "book.touch": lambda: book.touch, "book.best_bid": lambda: book.best_bid,
        "book.depth(25)": lambda: book.depth(25), 'book["bids"]': lambda: book["bids"],
        "store.orderbook(...)": lambda: store.orderbook("binance", "BTC-USDT"),
        "store.last_update": lambda: store.last_update, "store.lock": lock,
    }
    return {
        "unchanged": {name: cost(call) for name, call in reads.items()},
        "changed": cost_after_change(case, 1),
        "rare": cost_after_change(case, RARE),
        "book_kb": weight(),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))

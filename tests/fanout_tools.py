"""For tests of the fan-out: a source of books that a test writes by hand, through a real feed."""

from __future__ import annotations

import random
import time
from typing import Any, ClassVar

from streams.events import Trade
from streams.feed import Feed
from streams.handlers import Handlers
from streams.metrics import NoMetrics
from streams.publisher import Publisher
from streams.remote import RemoteStore
from streams.store import Store
from streams.venue import BookSnapshot, Venue

from .raw_peer import PATIENCE
from .tools import wait_until


class HandVenue(Venue):
    """Facts of a venue that nobody connects to."""

    name: ClassVar[str] = "hand"
    channels: ClassVar[tuple[str, ...]] = ("book", "trades")
    rule: str = "dense"
    time_unit: ClassVar[int] = 1_000

    def native(self, symbol: str) -> str:
        return symbol

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        return (f"{channel}.{native}",)


class Delta:
    """A change of a book."""

    def __init__(self, link: int, last: int, bids: Any, asks: Any, time: int = 7) -> None:
        self.link, self.last, self.bids, self.asks, self.time = link, last, bids, asks, time


class Source:
    """A store that is written by hand. ``handlers`` is what a publisher taps."""

    def __init__(self, *symbols: str, seed: int = 1, rule: str = "dense", depth: int | None = None) -> None:
        self.handlers = Handlers()
        self.store = Store()
        facts = HandVenue(depth=depth)
        facts.rule = rule
        self.feed = Feed("hand", "hand", facts, self.store, self.handlers, NoMetrics())
        self.store.join(self.feed.writer)
        self.rng = random.Random(seed)
        self.symbols = list(symbols)
        self.routes: dict[tuple[str, str], Any] = {}
        self.want(*symbols)

    def want(self, *symbols: str) -> None:
        for symbol in symbols:
            for channel in ("book", "trades"):
                self.feed.subscriptions.want(self.feed.facts.route(symbol, channel))
        self.follow()

    def unwant(self, symbol: str) -> None:
        for channel in ("book", "trades"):
            self.feed.subscriptions.unwant(symbol, channel)
        self.follow()

    def follow(self) -> None:
        """What a stream does now and then: follow its subscriptions and handlers."""
        self.feed.reconcile()
        self.feed.rewire()
        self.routes = {(r.symbol, r.channel): r for r in self.feed.sinks}

    def book(self, symbol: str) -> Any:
        return self.feed.keepers[self.routes[symbol, "book"]].book

    def apply(self, symbol: str, what: Any, channel: str = "book") -> None:
        self.feed.writer.clock.now = time.time_ns()
        with self.feed.writer.lock:
            self.routes[symbol, channel].apply(what)
        self.feed.drain()

    def whole(self, symbol: str, last: int = 1, levels: int = 5) -> None:
        self.apply(symbol, BookSnapshot(
            last, [(100.0 - n, 1.0) for n in range(levels)], [(101.0 + n, 1.0) for n in range(levels)], 5))

    def change(self, symbol: str, skip: int = 0) -> None:
        last = self.book(symbol).last + 1 + skip
        levels = [[(base + self.rng.randrange(20) * sign, float(self.rng.randrange(4)))
                   for _ in range(self.rng.randrange(3))] for base, sign in ((100.0, -1), (101.0, 1))]
        self.apply(symbol, Delta(last, last, *levels))

    def trade(self, symbol: str, number: int) -> None:
        self.apply(symbol, Trade(
            exchange="hand", symbol=symbol, price=1.5, size=2.0, side="buy", id=str(number),
            received=time.time_ns()), "trades")

    def anything(self) -> None:
        """Something random, of all that can happen to a stream."""
        symbol, roll = self.rng.choice(self.symbols), self.rng.random()
        if roll < 0.75:
            self.change(symbol)
        elif roll < 0.85:
            self.trade(symbol, self.rng.randrange(10**9))
        elif roll < 0.90:
            self.whole(symbol, self.book(symbol).last + self.rng.randrange(3), self.rng.randrange(1, 30))
        elif roll < 0.93:
            self.change(symbol, skip=1)         # a gap
        elif roll < 0.96:
            with self.feed.writer.lock:
                self.feed.sinks[self.routes[symbol, "book"]].silent("silent")
            self.feed.drain()
        elif roll < 0.97:
            self.feed.mark("stale", "disconnected")
        elif roll < 0.98:
            self.feed.mark("stale", "disconnected")
            self.feed.connected()
        else:
            for name in self.symbols:
                self.whole(name, self.book(name).last + 1)


def image(store: Any) -> dict[str, Any]:
    """What readers can see of the hand-written books and trades."""
    books = {}
    for symbol, book in store.orderbooks.get("hand", {}).items():
        view = book.view()
        books[symbol] = tuple(view[key] for key in ("status", "bids", "asks", "sequence", "timestamp"))
    trades = store.trades.get("hand", {}).items()
    return {"books": books, "trades": {symbol: [trade.id for trade in kept] for symbol, kept in trades}}


def settled(publisher: Publisher, remote: RemoteStore) -> None:
    """Wait until the reader has taken all that was written before this call."""
    def there() -> bool:
        if publisher.status()["waiting"] or publisher._unsent:
            return False
        line = remote._lines.get(publisher.line)
        return line is not None and line.number >= publisher._number

    for _ in range(2):
        before = publisher.status()["batches"]
        # One may be on its way already, with less in it; the next one is made after this call. (And
        # twice that: much at once makes two batches.)
        wait_until(lambda: publisher.status()["batches"] >= before + 2 and there(), PATIENCE,
                   what=f"{publisher.status()} {remote.status()}")


def quiet(publisher: Publisher) -> None:
    """Wait until there is nothing more to send than heartbeats."""
    items = None
    while items != publisher.status()["items"]:
        items, before = publisher.status()["items"], publisher.status()["batches"]
        wait_until(lambda: publisher.status()["batches"] >= before + 3, PATIENCE)

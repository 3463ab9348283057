"""Readers hammer the store while four streams write: nothing is torn, unsorted, crossed, or goes back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from streams.sim import BinanceFuturesSim, BinanceSim, HuobiSim
from streams.store import Store
from streams.stream import Stream

from .tools import wait_live

SECONDS = 2.5


class Readers:
    """Threads that read in every way there is, and note what is not as it should be."""

    def __init__(self, store: Store, sims: dict[tuple[str, str], tuple[Any, str]]) -> None:
        self.store = store
        self.sims = sims
        self.wrong: list[str] = []
        self.reads = 0
        self._stop = threading.Event()

    def run(self) -> None:
        threads = [threading.Thread(target=self._guarded, args=(read,)) for read in (
            self.views, self.views, self.depths, self.moments, self.stamps, self.oracle)]
        for thread in threads:
            thread.start()
        self._stop.wait(SECONDS)
        self._stop.set()
        for thread in threads:
            thread.join()
        assert not self.wrong, self.wrong[:3]

    def _guarded(self, read: Callable[[], None]) -> None:
        try:
            while not self._stop.is_set() and not self.wrong:
                read()
                self.reads += 1
        except Exception as error:
            self.wrong.append(f"{read.__name__}: {error!r}")

    def books(self) -> list[Any]:
        return [book for books in self.store.orderbooks.values() for book in books.values()]

    def well_formed(self, what: str, bids: Any, asks: Any) -> None:
        prices = [price for price, _ in bids], [price for price, _ in asks]
        if prices[0] != sorted(set(prices[0]), reverse=True) or prices[1] != sorted(set(prices[1])):
            self.wrong.append(f"{what}: unsorted")
        elif not prices[0] or not prices[1] or prices[0][0] >= prices[1][0]:
            self.wrong.append(f"{what}: crossed: {bids[:1]} {asks[:1]}")
        elif any(size <= 0 for side in (bids, asks) for _, size in side):
            self.wrong.append(f"{what}: a level of nothing")

    def views(self) -> None:
        for book in self.books():
            first = book.view()
            self.well_formed(f"view {book}", first["bids"], first["asks"])
            second = book.view()
            if second["last_update"] < first["last_update"] or second["sequence"] < first["sequence"]:
                self.wrong.append(f"{book}: went back")
            if second["last_update"] == first["last_update"] and dict(second) != dict(first):
                self.wrong.append(f"{book}: one stamp, two books")

    def depths(self) -> None:
        for book in self.books():
            for count in (1, 5, 20):
                self.well_formed(f"depth {book}", *book.depth(count))
            bid, ask = book.touch
            if bid[0] >= ask[0] or book.spread <= 0:
                self.wrong.append(f"{book}: crossed")

    def moments(self) -> None:
        with self.store.lock:
            stamp = self.store.last_update
            books = self.books()
            first = [(book["bids"], book["asks"], book["sequence"], book["last_update"]) for book in books]
            for book, (bids, asks, sequence, updated) in zip(books, first):
                view = book.view()
                if (bids, asks, sequence) != (view["bids"], view["asks"], view["sequence"]):
                    self.wrong.append(f"{book}: changed under the lock")
                if (book.best_bid, book.best_ask) != (bids[0], asks[0]):
                    self.wrong.append(f"{book}: another best under the lock")
                if stamp is None or updated > stamp:
                    self.wrong.append(f"{book}: newer than the store")
            if stamp != self.store.last_update:
                self.wrong.append("the stamp changed under the lock")

    def stamps(self) -> None:
        before = self.store.last_update
        after = self.store.wait(before, 0.05)
        if before is not None and (after is None or after < before):
            self.wrong.append(f"stamps: {before} and then {after}")

    def oracle(self) -> None:
        """Both sides of the moment that the sequence number names."""
        for (exchange, symbol), (sim, native) in self.sims.items():
            view = self.store.orderbook(exchange, symbol)
            truth = sim.market.book(native, view["sequence"])
            for side, true in (("bids", truth.bids), ("asks", truth.asks)):
                if view[side][:25] != [(float(price), float(size)) for price, size in true[:25]]:
                    self.wrong.append(f"{exchange} {symbol}: {side} are not those of {view['sequence']}")


def test_readers_beside_four_writers(serve: Callable[..., Any], connect: Callable[..., Stream]) -> None:
    store = Store()
    options: dict[str, Any] = {"rate": 400.0, "levels": 150}
    spot = serve(BinanceSim, ["BTCUSDT"], **options)
    futures = serve(BinanceFuturesSim, ["BTCUSDT"], **options)
    huobi = serve(HuobiSim, ["BTCUSDT", "ETHUSDT"], **options)
    streams = [connect(spot, "BTC-USDT", store=store), connect(futures, "BTC-USDT", store=store),
               connect(huobi, "BTC-USDT", store=store),
               connect(huobi, "ETH-USDT", store=store, book_mode="incremental")]
    wait_live(*streams)
    readers = Readers(store, {
        ("binance", "BTC-USDT"): (spot, "BTCUSDT"), ("binance-futures", "BTC-USDT"): (futures, "BTCUSDT"),
        ("huobi", "BTC-USDT"): (huobi, "BTCUSDT"), ("huobi", "ETH-USDT"): (huobi, "ETHUSDT")})
    before = sum(stream.feed.counters.messages for stream in streams)
    readers.run()
    assert sum(stream.feed.counters.messages for stream in streams) - before > 200
    assert readers.reads > 50
    assert all(stream.status()["gaps"] == stream.status()["errors"] == 0 for stream in streams)

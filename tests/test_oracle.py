"""100,000 updates with random faults: every live book is the true one, and all are live in the end.

``STREAMS_ORACLE_UPDATES`` sets another number of updates (in all), ``STREAMS_ORACLE_SEED`` another seed.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from streams import feed
from streams.backoff import Backoff
from streams.sim import BinanceFuturesSim, BinanceSim, Fault, HuobiSim
from streams.stream import Stream

from .tools import live, wait_until, with_limits

UPDATES = int(os.environ.get("STREAMS_ORACLE_UPDATES", 100_000))
SEED = int(os.environ.get("STREAMS_ORACLE_SEED", 1))
SYMBOLS = {"BTC-USDT": "BTCUSDT", "ETH-USDT": "ETHUSDT"}
GARBAGE = ("invalid", "truncated", "types", "nan", "inf", "negative", "unknown")
FAULTS = [Fault.SKIP, Fault.DUPLICATE, Fault.REORDER, Fault.DROP, Fault.RESET, Fault.CLOSE, Fault.SKIP,
          *(Fault.GARBAGE(kind=kind) for kind in GARBAGE),
          Fault.SNAPSHOT_STALE(updates=20), Fault.SNAPSHOT_500, Fault.SNAPSHOT_GARBAGE]
ROUND = 100     # updates of each symbol between two looks at whether everybody is still there


class Reader(threading.Thread):
    """Compares live books with the oracle, over and over, while they change."""

    def __init__(self, pairs: list[tuple[Any, Stream]], number: type[float] | type[Decimal]) -> None:
        super().__init__(name="oracle-reader", daemon=True)
        self.pairs = pairs
        self.number = number
        self.done = threading.Event()
        self.compared: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.done.is_set() and not self.wrong:
            for sim, stream in self.pairs:
                for symbol, native in SYMBOLS.items():
                    book = stream.store.orderbooks.get(stream.exchange, {}).get(symbol)
                    if book is not None:
                        self.compare(sim, stream.name, native, book.view())
            self.done.wait(0.001)

    def compare(self, sim: Any, name: str, native: str, view: Any) -> None:
        self.statuses[view["status"]] += 1
        if view["status"] != "live":
            return
        truth = sim.market.book(native, view["sequence"])
        bids, asks = of(truth.bids, self.number), of(truth.asks, self.number)
        if view["bids"] != bids or view["asks"] != asks:
            lost = [level for level in bids + asks if level not in view["bids"] + view["asks"]]
            more = [level for level in view["bids"] + view["asks"] if level not in bids + asks]
            self.wrong.append(f"{name} {native} at {view['sequence']}: not {lost[:3]} but {more[:3]}")
        if truth.sequence != view["sequence"]:
            self.wrong.append(f"{name} {native}: {view['sequence']} is no number of an update")
        self.compared[name] += 1


def of(levels: Any, number: type[float] | type[Decimal]) -> list[Any]:
    """The oracle's levels, which are exact, as such numbers."""
    return [(number(price), number(size)) for price, size in levels]


@pytest.mark.parametrize(("number", "updates_due"), [(Decimal, UPDATES), (float, UPDATES // 2)],
                         ids=["exact", "packed"])
def test_live_books_are_the_true_ones(
        number: type[float] | type[Decimal], updates_due: int, serve: Callable[..., Any],
        connect: Callable[..., Stream], monkeypatch: pytest.MonkeyPatch) -> None:
    """``packed``: as if these few books were many, so that changes wait until somebody looks."""
    monkeypatch.setattr(feed, "MANY", 0)
    options: dict[str, Any] = {"rate": 0, "levels": 60, "seed": SEED, "history": 20_000}
    rest = {"snapshot_lag": 8, "weight_limit": 10 ** 9}
    sims = [serve(BinanceSim, SYMBOLS.values(), **rest, **options),
            serve(BinanceFuturesSim, SYMBOLS.values(), **rest, **options),
            serve(HuobiSim, SYMBOLS.values(), **options),
            serve(HuobiSim, SYMBOLS.values(), stale_refresh=1, **options)]
    kinds = [None, None, None, {"book_mode": "incremental"}]
    streams = [
        connect(sim, list(SYMBOLS), number=number, rest_limit=(1_000_000, 60.0),
                backoff=Backoff(base=0.01, cap=0.1, healthy_after=0.05), **(kind or {}),
                kind=with_limits(_kind(sim), connects=(1_000_000, 300.0), messages=(1000, 0.1)))
        for sim, kind in zip(sims, kinds)]
    for sim in sims:
        wait_until(lambda: sim.connections and len(sim.connections[-1].subscriptions) == len(SYMBOLS))
    for sim, stream in zip(sims, streams):
        wait_until(lambda: sim.advance(1) or live(stream))      # a snapshot may lag, and needs what follows
    reader = Reader(list(zip(sims, streams)), number)
    reader.start()
    try:
        for n, sim in enumerate(sims):
            sim.random_faults(SEED + n, probability=0.004, kinds=FAULTS, snapshot_probability=0.2)
        updates = 0
        while updates < updates_due:
            for sim in sims:
                sim.advance(ROUND)
                updates += ROUND * len(SYMBOLS)
            assert not reader.wrong, reader.wrong
            wait_until(lambda: sum(s.feed.subscriptions.on_server() for s in streams) >= 4, 5)
        for sim in sims:
            sim.clear_faults()
            sim.advance(5)
        for sim, stream in zip(sims, streams):
            for symbol, native in SYMBOLS.items():
                wait_until(lambda: _right(sim, stream, symbol, native, number), 20,
                           what=f"{stream!r}, {symbol}: {stream.store.orderbooks[stream.exchange][symbol]!r}")
    finally:
        reader.done.set()
        reader.join()
    assert not reader.wrong, reader.wrong
    assert all(reader.compared[stream.name] > 50 for stream in streams), reader.compared
    assert all(stream.is_alive() for stream in streams)
    struck = sum((sim.struck for sim in sims), Counter())
    for name in ("skip", "duplicate", "reorder", "drop", "reset", "close", "garbage", "snapshot_stale"):
        assert struck[name] >= 3, struck
    assert sum(stream.feed.counters.gaps for stream in streams) >= 10
    assert sum(stream.feed.counters.malformed for stream in streams) >= 10


def _kind(sim: Any) -> type[Stream]:
    from .conftest import KINDS
    return KINDS[type(sim)]


def _right(sim: Any, stream: Stream, symbol: str, native: str, number: type[float] | type[Decimal]) -> bool:
    """Whether the book is live and where the market is."""
    view = stream.store.orderbook(stream.exchange, symbol)
    truth = sim.market.book(native)
    if (view["status"] == "live" and view["bids"] == of(truth.bids, number)
            and view["asks"] == of(truth.asks, number)):
        return not stream.waiting_for()
    sim.advance(1)          # nothing comes by itself here; the last update may have met its fault
    return False

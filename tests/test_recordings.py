"""Real feeds: the rebuilt books are right, and every missing update is noticed.

Once through venue and keeper alone, once through the unmodified clients over real sockets.
"""

from __future__ import annotations

import functools
import json
import zlib
from decimal import Decimal
from typing import Any

import pytest

from streams.errors import NoData
from streams.events import BookUpdate, Gap
from streams.exchanges import Binance, BinanceFutures, Huobi
from streams.feed import Feed
from streams.handlers import Handlers
from streams.metrics import NoMetrics
from streams.sim import ReplaySim
from streams.store import Store
from streams.stream import Stream
from streams.venue import Malformed

from .recorded import BinanceOracle, Sides, read, recordings
from .tools import wait_until, with_venue

CoinM = with_venue(BinanceFutures, _depth_path="/dapi/v1/depth")

# files, stream class, how many updates have a bookTicker to compare with, in how many it agrees
# (three tickers of COIN-M are from before the capture's first)
BINANCE: dict[str, tuple[tuple[str, ...], type[Stream], int, int]] = {
    "spot-2024": (("binance/hftbacktest/spot_ethusdt_20240808.gz",
                   "binance/hftbacktest/spot_ethusdt_20240809.gz"), Binance, 6468, 6468),
    "usdm-2024": (("binance/hftbacktest/usdm_ethusdt_20240808.gz",), BinanceFutures, 6581, 6581),
    "spot": (("binance/cf_spot_20211012.jsonl.gz",), Binance, 159, 159),
    "us": (("binance/cf_us_20211012.jsonl.gz",), Binance, 316, 316),
    "tr": (("binance/cf_tr_20230410.jsonl.gz",), Binance, 78, 78),
    "usdm": (("binance/cf_usdm_20210722.jsonl.gz",), BinanceFutures, 744, 744),
    "coinm": (("binance/cf_coinm_20210722.jsonl.gz",), CoinM, 1788, 1785),
}
HTX = {"spot": "htx/cf_spot_gzip_20210417.jsonl.gz", "swap": "htx/cf_swap_gzip_20220219.jsonl.gz"}


@functools.lru_cache(maxsize=2)
def _oracle(name: str) -> BinanceOracle:
    files, kind, pairs, agreeing = BINANCE[name]
    oracle = BinanceOracle(recordings(*files), "Futures" in kind.__name__)
    assert (oracle.pairs, oracle.agreeing) == (pairs, agreeing)
    return oracle


class Conversation:
    """A venue, and the feed it writes into; no network, no thread."""

    def __init__(self, kind: type[Stream], symbols: Any, channels: Any = ("book",), **options: Any) -> None:
        self.venue = kind.venue(**options)
        self.store = Store()
        metrics = NoMetrics()
        self.handlers = Handlers(metrics)
        self.feed = Feed(self.venue.name, "test", kind.venue(**options), self.store, self.handlers, metrics)
        self.store.join(self.feed.writer)
        self.signals: list[Any] = []
        self.venue.session.apply = self.signals.append
        for symbol in symbols:
            for channel in channels:
                route = self.venue.route(symbol, channel)
                self.feed.subscriptions.want(route)
                self.venue.add(route)
        self.feed.reconcile()
        self.feed.connected()

    def take(self, items: Any) -> None:
        for route, event in items:
            route.apply(event)
        self.feed.drain()


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("name", BINANCE)
def test_every_update_of_the_recording_agrees_with_book_ticker(name: str, number: Any) -> None:
    oracle = _oracle(name)
    _, kind, pairs, agreeing = BINANCE[name]
    talk = Conversation(kind, oracle.moments, number=number)
    keepers = {route.native: keeper for route, keeper in talk.feed.keepers.items()}
    routes = {route.native: route for route in talk.feed.keepers}
    compared = agreed = 0
    for now, item in enumerate(oracle.items, 1_000_000):
        talk.feed.writer.clock.now = now
        if item.url is not None:
            for symbol in [s for s, body in oracle.snapshots.items() if body is item.data]:
                talk.take(talk.venue.snapshot(routes[symbol], item.data, now))
            continue
        # recordings of another speed are the same messages under another name
        raw = item.data.replace(b"@depth@0ms", b"@depth@100ms", 1)
        symbol = raw[11:raw.find(b"@")].decode()
        if symbol not in keepers or b"@depth" not in raw[:60]:
            continue
        book = keepers[symbol].book
        before = book.stamp
        talk.take(talk.venue.receive(raw, now))
        if book.stamp == before:
            continue
        assert book["status"] == "live"
        truth = oracle.moments[symbol][book["sequence"]][-1]
        bids, asks = book.depth(oracle.DEPTH)
        assert list(bids) == _as(number, truth.bids)
        assert list(asks) == _as(number, truth.asks)
        ticker = oracle.ticker_at(symbol, book["sequence"])
        if ticker is not None:
            compared += 1
            agreed += (book.best_bid, book.best_ask) == tuple(_as(number, ticker))
    early = sum(len(keeper._held) for keeper in keepers.values())
    assert not early
    assert talk.feed.counters.gaps == talk.feed.counters.malformed == 0
    assert not [signal for signal in talk.signals if isinstance(signal, Malformed)]
    assert pairs - 10 <= compared <= pairs      # those held until the snapshot came are not seen one by one
    assert compared - agreed == pairs - agreeing


def _as(number: Any, levels: Any) -> list[Any]:
    return [(number(price), number(size)) for price, size in levels]


class Watcher:
    """An inline handler that checks every update, and the book itself after every batch."""

    def __init__(self, oracle: BinanceOracle, stream: Stream) -> None:
        self.oracle = oracle
        self.store = stream.store
        self.exchange = stream.exchange
        self.books: dict[str, Sides] = {}
        self.views = 0
        self.seen: dict[str, list[int]] = {}
        self.wrong: list[str] = []
        self.gaps: list[Gap] = []

    def update(self, event: BookUpdate) -> None:
        assert event.sequence is not None
        if event.snapshot:
            self.books[event.symbol] = Sides()
        book = self.books[event.symbol]
        book.apply(event.bids, event.asks, event.sequence)
        self.seen.setdefault(event.symbol, []).append(event.sequence)
        self._compare("update", event.symbol, event.sequence, book.best(self.oracle.DEPTH))
        live = self.store.orderbooks[self.exchange][event.symbol]
        if live["status"] == "live":        # nobody else writes: this is the stream's own thread
            self.views += 1
            self._compare("book", event.symbol, live["sequence"], live.depth(self.oracle.DEPTH))
            if not self.views % 50:
                view = live.view()
                self._compare("view", event.symbol, view["sequence"], view.depth(self.oracle.DEPTH))

    def _compare(self, what: str, symbol: str, sequence: int, levels: Any) -> None:
        truths = self.oracle.moments[symbol].get(sequence, [])
        if not any(list(levels[0]) == truth.bids and list(levels[1]) == truth.asks for truth in truths):
            self.wrong.append(f"{what} {symbol} {sequence}: {levels[0][0]} {levels[1][0]} {truths}")


def _play(name: str, skip_every: int = 0) -> tuple[Watcher, Stream, ReplaySim]:
    oracle = _oracle(name)
    files, kind, _, _ = BINANCE[name]
    exchange = "binance-futures" if "Futures" in kind.__name__ else "binance"
    with ReplaySim(recordings(*files), exchange=exchange, skip_every=skip_every) as sim:
        stream = kind(list(oracle.moments), ["book"], url=sim.url, rest_url=sim.rest_url, number=Decimal)
        watcher = Watcher(oracle, stream)
        stream.on(r".*\.book\..*", watcher.update, policy="inline")
        stream.on(r".*\.gaps\..*", watcher.gaps.append, policy="inline")
        stream.start()
        try:
            assert sim.done.wait(60), f"{sim.sent_frames} of {sim.total_frames} frames sent"
            for symbol, moments in oracle.moments.items():
                wait_until(lambda: _state(stream, symbol) == ("live", max(moments)), store=stream.store,
                           what=f"{symbol} at {max(moments)}")
        finally:
            assert stream.stop()
    assert not watcher.wrong, watcher.wrong[:3]
    assert stream.feed.counters.malformed == 0
    assert sim.violations == 0
    return watcher, stream, sim


def _state(stream: Stream, symbol: str) -> tuple[str, int]:
    try:
        view = stream.store.orderbook(stream.exchange, symbol)
    except NoData:
        return "", 0
    return view["status"], view["sequence"]


@pytest.mark.parametrize("name", BINANCE)
def test_the_client_rebuilds_the_recording(name: str) -> None:
    watcher, stream, sim = _play(name)
    assert stream.feed.counters.gaps == 0 and not watcher.gaps
    for symbol, moments in _oracle(name).moments.items():
        seen = watcher.seen[symbol]
        assert list(dict.fromkeys(seen)) == [sequence for sequence in moments if sequence >= seen[0]]
    assert watcher.views


@pytest.mark.parametrize("name", ["spot-2024", "usdm-2024", "usdm", "coinm"])
def test_every_left_out_update_is_noticed(name: str) -> None:
    watcher, stream, sim = _play(name, skip_every=97)
    assert len(sim.gaps) >= len(_oracle(name).moments)
    assert len(watcher.gaps) == stream.feed.counters.gaps == len(sim.gaps)
    # got: the update after the missing one links behind it
    assert sorted(gap.symbol for gap in watcher.gaps) == sorted(gap.symbol for gap in sim.gaps)
    assert stream.feed.counters.resyncs >= len(sim.gaps)


@pytest.mark.parametrize("name", HTX)
def test_the_client_serves_every_whole_book_of_htx(name: str) -> None:
    paths = recordings(HTX[name])
    expected: dict[str, list[Any]] = {}
    for item in read(paths):
        message = json.loads(zlib.decompress(item.data, 47), parse_float=Decimal) if item.url is None else {}
        if ".depth.step0" in message.get("ch", ""):
            expected.setdefault(message["ch"].split(".")[1], []).append(tuple(
                tuple((Decimal(price), Decimal(size)) for price, size in message["tick"].get(side, ()))
                for side in ("bids", "asks")))
    # the recorded swaps have names of their own style, and the same protocol
    kind = Huobi if name == "spot" else with_venue(Huobi, native=lambda self, symbol: symbol)
    got: dict[str, list[Any]] = {symbol: [] for symbol in expected}
    with ReplaySim(paths, exchange="huobi") as sim:
        stream = kind(list(expected), ["book"], url=sim.url, rest_url=sim.rest_url, number=Decimal)
        stream.on(r"huobi\.book\..*", lambda event: got[event.symbol].append((event.bids, event.asks)),
                  policy="inline")
        stream.start()
        try:
            assert sim.done.wait(30)
            wait_until(lambda: all(len(got[s]) == len(expected[s]) for s in expected), store=stream.store)
        finally:
            assert stream.stop()
    assert got == expected
    for symbol in expected:
        view = stream.store.orderbook("huobi", symbol)
        assert (tuple(view["bids"]), tuple(view["asks"])) == expected[symbol][-1]
        assert view["status"] == "closed"
    assert stream.feed.counters.malformed == 0

"""The venues that speak WebSocket, each with its simulator, as tests of live streams need them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from streams.backoff import Backoff
from streams.exchanges import (
    Alpaca, AlpacaCrypto, AlpacaOptions, Binance, BinanceFutures, Huobi, Kraken, Polygon,
)
from streams.sim import BinanceFuturesSim, BinanceSim, HuobiSim
from streams.sim.alpaca import AlpacaSim
from streams.sim.kraken import KrakenSim
from streams.sim.polygon import PolygonSim
from streams.stream import Stream

from .tools import wait_until

ALPACA_KEYS = {"api_key": "KEY", "api_secret": "SECRET"}
POLYGON_KEY = {"api_key": "KEY"}
COINS = ["BTCUSDT", "ETHUSDT", "LTCUSDT", "XRPUSDT"]
CALLS = ["NVDA261218C00200000", "NVDA261218P00180000", "AAPL261218C00300000", "AAPL261218P00250000"]


def quick(**options: Any) -> Backoff:
    """Attempts follow each other fast."""
    return Backoff(**{"base": 0.02, "cap": 0.05, **options})


@dataclass(frozen=True)
class Place:
    """A channel of a venue, and what four symbols of it are called on the wire."""

    kind: type[Stream]
    sim: Callable[..., Any]
    simulated: Mapping[str, Any]
    symbols: Sequence[str]
    wire: Callable[[str], set[str]]         # the venue's own subscriptions, written by hand
    channel: str = "trades"
    options: Mapping[str, Any] = field(default_factory=dict)

    def topics(self, *symbols: str) -> set[str]:
        """What the venue's list holds when just these are subscribed."""
        return set().union(*(self.wire(symbol) for symbol in symbols))

    def serve(self, stack: contextlib.ExitStack, **options: Any) -> Any:
        """Its simulator, running."""
        return stack.enter_context(self.sim(**{"rate": 0, **self.simulated, **options}))

    def stream(self, sim: Any, symbols: Sequence[str] | str, stack: contextlib.ExitStack,
               **options: Any) -> Stream:
        """A stream, stopped in the end."""
        made = self.kind(symbols, [self.channel], **{
            "url": sim.url, "rest_url": sim.rest_url, "backoff": quick(), **self.options, **options})
        stack.callback(made.stop)
        return made


def _coin(suffix: str) -> Callable[[str], set[str]]:
    return lambda symbol: {f"{symbol.replace('-', '').lower()}@{suffix}"}


def _market(suffix: str) -> Callable[[str], set[str]]:
    return lambda symbol: {f"market.{symbol.replace('-', '').lower()}.{suffix}"}


def _slashed(prefix: str) -> Callable[[str], set[str]]:
    return lambda symbol: {prefix + symbol.replace("-", "/")}


_COINS = ["BTC-USDT", "ETH-USDT", "LTC-USDT", "XRP-USDT"]
_STOCKS = ["AAPL", "NVDA", "MSFT", "TSLA"]
_PAIRS = ["BTC-USD", "ETH-USD", "LTC-USD", "SOL-USD"]
_SLASHED = [pair.replace("-", "/") for pair in _PAIRS]

PLACES: dict[str, Place] = {
    "binance": Place(Binance, BinanceSim, {"symbols": COINS}, _COINS, _coin("trade")),
    "binance-book": Place(Binance, BinanceSim, {"symbols": COINS}, _COINS, _coin("depth@100ms"), "book"),
    "binance-futures": Place(BinanceFutures, BinanceFuturesSim, {"symbols": COINS}, _COINS,
                             _coin("depth@100ms"), "book"),
    "huobi": Place(Huobi, HuobiSim, {"symbols": [c.lower() for c in COINS]}, _COINS,
                   _market("trade.detail")),
    "huobi-book": Place(Huobi, HuobiSim, {"symbols": [c.lower() for c in COINS]}, _COINS,
                        _market("depth.step0"), "book"),
    "kraken": Place(Kraken, KrakenSim, {"symbols": _SLASHED}, _PAIRS, _slashed("trade-:")),
    "kraken-book": Place(Kraken, KrakenSim, {"symbols": _SLASHED}, _PAIRS, _slashed("book-10:"), "book"),
    "alpaca": Place(Alpaca, AlpacaSim, {"symbols": _STOCKS}, _STOCKS, lambda s: {f"trades:{s}"},
                    options=ALPACA_KEYS),
    "alpaca-ticker": Place(Alpaca, AlpacaSim, {"symbols": _STOCKS}, _STOCKS,
                           lambda s: {f"trades:{s}", f"quotes:{s}"}, "ticker", ALPACA_KEYS),
    "alpaca-crypto": Place(AlpacaCrypto, AlpacaSim, {"symbols": _SLASHED},
                           _PAIRS, _slashed("orderbooks:"), "book", ALPACA_KEYS),
    "alpaca-options": Place(AlpacaOptions, AlpacaSim, {"symbols": CALLS}, CALLS,
                            lambda s: {f"trades:{s}"}, options=ALPACA_KEYS),
    "polygon": Place(Polygon, PolygonSim, {"symbols": _STOCKS}, _STOCKS, lambda s: {f"T.{s}"},
                     options=POLYGON_KEY),
    "polygon-crypto": Place(Polygon, PolygonSim, {"symbols": _PAIRS}, _PAIRS, lambda s: {f"XL2.{s}"}, "book",
                            {**POLYGON_KEY, "market": "crypto", "exchange_id": 1}),
}


def listed(sim: Any) -> set[str]:
    """What is subscribed, by the venue's own lists, over all connections."""
    return set().union(*(connection.subscriptions for connection in sim.connections))


def wait_listed(sim: Any, topics: set[str], stream: Stream | None = None, timeout: float = 10.0) -> None:
    """Wait until the venue's list is just that, and, if there is a ``stream``, until it knows so."""
    def told() -> bool:
        return listed(sim) == topics and (stream is None or settled(stream))
    try:
        wait_until(told, timeout)
    except AssertionError:
        states = None if stream is None else stream.status()
        raise AssertionError(f"listed: {sorted(listed(sim))}; wanted: {sorted(topics)}; {states}") from None


def settled(stream: Stream) -> bool:
    """Whether nothing is pending any more."""
    return stream.state == "live" and all(
        entry["state"] != "pending" for entry in stream.status()["subscriptions"].values())


def wait_subscribed(stream: Stream, timeout: float = 10.0) -> None:
    """Wait until the venue has confirmed everything."""
    wait_until(lambda: stream.state == "live" and all(
        entry["state"] == "live" for entry in stream.status()["subscriptions"].values()), timeout,
        what=f"{stream!r} subscribed: {stream.status()['subscriptions']}; {stream.status()['last_error']}")


def wait_wired(stream: Stream) -> None:
    """Wait until the stream follows its handlers: those given while it runs hear what comes after that."""
    wait_until(lambda: stream.feed._wired == stream.handlers.version, what="the handlers are followed")


def at_once(*calls: Callable[[], object], timeout: float = 20.0) -> None:
    """Make all calls at the same time, each in a thread; raise what the first of them raised."""
    barrier, failures = threading.Barrier(len(calls)), []

    def work(call: Callable[[], object]) -> None:
        try:
            barrier.wait()
            call()
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=work, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads), "somebody waits for ever"
    if failures:
        raise failures[0]

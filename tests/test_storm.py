"""Thousands of random calls from many threads and from handlers, while connections break: nothing hangs,
nothing is lost, and in the end the venue's own list is the desired one."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from streams import ConfigurationError, StreamManager
from streams.exchanges import EXCHANGES, Alpaca, Binance, Huobi
from streams.sim import BinanceSim, Fault, HuobiSim
from streams.sim.alpaca import AlpacaSim
from streams.stream import Stream

from .live import ALPACA_KEYS, PLACES, at_once, quick, wait_listed
from .tools import wait_until, with_limits

CALLS = int(os.environ.get("STREAMS_STORM", "10000"))
FEWER = CALLS // 5
THREADS = 8
DEADLINE = 25.0
PAUSE = 0.004       # seconds between two calls of one caller, at most: connections have to live meanwhile
COINS = [f"C{a}{b}-USDT" for a in "ABCDE" for b in "ABCD"]
STOCKS = [f"S{a}{b}" for a in "ABCDE" for b in "ABCD"]
# What is subscribed, and what the simulator calls it.
SYMBOLS = {
    "binance": (COINS, [coin.replace("-", "") for coin in COINS]),
    "huobi": (COINS, [coin.replace("-", "").lower() for coin in COINS]),
    "kraken": (COINS, [coin.replace("-", "/") for coin in COINS]),
    "alpaca": (STOCKS, STOCKS), "polygon": (STOCKS, STOCKS),
}
# As fast as it goes: the venues' limits on connections and messages would only make it wait.
FREE = {"connects": (1_000_000, 1.0), "messages": (1000, 1.0), "batch": 50}
FAULTS = [Fault.DROP, Fault.RESET, Fault.CLOSE]
Stack = contextlib.ExitStack


class Wishes:
    """What all callers together have asked for: nobody takes back another's wish."""

    def __init__(self) -> None:
        self.all: Counter[str] = Counter()
        self._lock = threading.Lock()

    def note(self, own: Counter[str], symbol: str, count: int) -> None:
        own[symbol] += count
        with self._lock:
            self.all[symbol] += count

    def left(self) -> set[str]:
        return {symbol for symbol, count in self.all.items() if count > 0}


class Caller:
    """Somebody who calls at random; one thread at a time."""

    def __init__(self, seed: int, symbols: list[str], wishes: Wishes) -> None:
        self.random = random.Random(seed)
        self.own: Counter[str] = Counter()
        self._symbols = symbols
        self._wishes = wishes

    def change(self, subscribe: Callable[[str], object], unsubscribe: Callable[[str], object]) -> None:
        """Want something more, or something less."""
        held = [symbol for symbol, count in self.own.items() if count]
        if held and self.random.random() < 0.5:
            symbol = self.random.choice(held)
            unsubscribe(symbol)
            self._wishes.note(self.own, symbol, -1)
        else:
            symbol = self.random.choice(self._symbols)
            subscribe(symbol)
            self._wishes.note(self.own, symbol, 1)


def trouble(sim: Any, over: threading.Event, seed: int) -> None:
    """Break connections until it is over."""
    rand = random.Random(seed)
    while not over.wait(0.02):
        sim.inject(rand.choice(FAULTS))
        if rand.random() < 0.2:
            sim.plan(rand.choice((Fault.REFUSE, Fault.REJECT(status=503), None)))


def calls_on(stream: Stream, caller: Caller) -> None:
    """One random call on a stream."""
    chance = caller.random.random()
    if chance < 0.80:
        caller.change(stream.subscribe, stream.unsubscribe)
    elif chance < 0.86:
        stream.pause()
    elif chance < 0.93:
        stream.resume()
    elif chance < 0.95:
        stream.stop(5.0)
    elif chance < 0.99:
        with contextlib.suppress(ConfigurationError):       # it runs already
            stream.start()
    else:
        stream.status()
        stream.waiting_for()


@pytest.mark.parametrize("name, calls, simulated", [
    ("binance", CALLS, {"message_limit": None}),
    ("alpaca", FEWER, {}),
    ("huobi", FEWER, {}),
    ("kraken", FEWER, {}),
    ("polygon", FEWER, {}),
    ("polygon", FEWER, {"confirmations": "mixed"}),     # which tell less about who is meant
], ids=["binance", "alpaca", "huobi", "kraken", "polygon", "polygon-mixed"])
def test_one_stream(name: str, calls: int, simulated: Any, stack: Stack) -> None:
    symbols, traded = SYMBOLS[name]
    place = replace(PLACES[name], kind=with_limits(PLACES[name].kind, **FREE))
    sim = place.serve(stack, symbols=traded, rate=100, **simulated)
    wishes = Wishes()
    keeper = symbols[0]                                     # somebody has to make events for the handlers
    stream = place.stream(sim, keeper, stack)
    wishes.note(Counter(), keeper, 1)
    over, busy = threading.Event(), threading.Lock()
    handlers = [Caller(100 + index, symbols, wishes) for index in range(2)]

    def handler(caller: Caller) -> Callable[[Any], None]:
        def handle(_: Any) -> None:
            if not over.is_set() and busy.acquire(blocking=False):
                try:
                    calls_on(stream, caller)
                finally:
                    busy.release()
        return handle
    stream.on(r".+\.trades\..+", handler(handlers[0]), policy="inline", name="inline")
    stream.on(r".+\.trades\..+", handler(handlers[1]), policy="conflate", name="queued")

    def enough() -> bool:
        """Whether there was trouble of every kind."""
        return (sim.accepted > calls / 200 and sum(sim.struck.values()) > calls / 500
                and len(sim.struck) > len(FAULTS))

    def call(seed: int) -> None:
        caller, left, until = Caller(seed, symbols, wishes), calls // THREADS, time.monotonic() + DEADLINE / 2
        while left > 0 or (not enough() and time.monotonic() < until):
            calls_on(stream, caller)
            over.wait(caller.random.random() * PAUSE)
            left -= 1
    breaker = threading.Thread(target=trouble, args=(sim, over, 7), daemon=True)
    breaker.start()
    stream.start()
    try:
        at_once(*(lambda seed=seed: call(seed) for seed in range(THREADS)),     # type: ignore[misc]
                timeout=DEADLINE)
    finally:
        over.set()
        breaker.join(5)
    assert busy.acquire(timeout=10)                         # no handler is at it any more
    assert enough(), (sim.accepted, sim.struck)
    sim.clear_faults()
    stream.resume()
    assert stream.stop()
    assert stream.state == "stopped" and not stream.is_alive()
    wait_until(lambda: not sim.connections)
    stream.start()
    wait_listed(sim, place.topics(*wishes.left()), stream)
    assert {f"trades.{symbol}" for symbol in wishes.left()} == set(stream.status()["subscriptions"])
    assert len(sim.connections) == 1
    # And the handlers are alive.
    handled = sum(entry["handled"] for entry in stream.handlers.status())
    wait_until(lambda: sum(e["handled"] for e in stream.handlers.status()) > handled)
    assert all(entry["errors"] == 0 for entry in stream.handlers.status()), stream.handlers.status()


def test_a_manager(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    small = with_limits(Binance, **FREE, topics=4)          # several streams for one exchange
    monkeypatch.setitem(EXCHANGES, "binance", small)
    monkeypatch.setitem(EXCHANGES, "alpaca", with_limits(Alpaca, **FREE))
    monkeypatch.setitem(EXCHANGES, "huobi", with_limits(Huobi, **FREE))
    sims = {"binance": stack.enter_context(BinanceSim([c.replace("-", "") for c in COINS], rate=20,
                                                      message_limit=None)),
            "alpaca": stack.enter_context(AlpacaSim(STOCKS, rate=20))}
    symbols = {"binance": COINS, "alpaca": STOCKS}
    coming = stack.enter_context(HuobiSim(["btcusdt", "ethusdt"], rate=20))
    market = stack.enter_context(StreamManager(backoff=quick()))
    wishes = {name: Wishes() for name in sims}
    over, busy = threading.Event(), threading.Lock()

    def start(name: str, symbol: str) -> None:
        keys = ALPACA_KEYS if name == "alpaca" else {}
        market.start(name, symbol, ["trades"], url=sims[name].url, rest_url=sims[name].rest_url, **keys)

    def calls(caller: dict[str, Caller], rand: random.Random) -> None:
        name, chance = rand.choice(("binance", "alpaca")), rand.random()
        if chance < 0.75:
            more = start if rand.random() < 0.3 else market.subscribe
            caller[name].change(lambda symbol: more(name, symbol),
                                lambda symbol: market.unsubscribe(name, symbol))
        elif chance < 0.80:
            market.pause(rand.choice((name, None)))
        elif chance < 0.88:
            market.resume(rand.choice((name, None)))
        elif chance < 0.93:
            market.stop("huobi")
        elif chance < 0.98:
            market.start("huobi", rand.choice(("BTC-USDT", "ETH-USDT")), ["trades"], url=coming.url,
                         rest_url=coming.rest_url)
        else:
            market.status()

    def callers(seed: int) -> dict[str, Caller]:
        return {name: Caller(seed, symbols[name], wishes[name]) for name in sims}
    meddlers = callers(99), random.Random(99)

    @market.on(r".+\.trades\..+", policy="inline")
    def inline(_: Any) -> None:
        if not over.is_set() and busy.acquire(blocking=False):
            try:
                calls(*meddlers)
            finally:
                busy.release()

    def call(seed: int) -> None:
        mine, rand = callers(seed), random.Random(seed)
        for _ in range(CALLS // THREADS):
            calls(mine, rand)
            over.wait(rand.random() * PAUSE)
    for name in sims:
        start(name, symbols[name][0])
        wishes[name].note(Counter(), symbols[name][0], 1)
    breakers = [threading.Thread(target=trouble, args=(sim, over, 7), daemon=True)
                for sim in (*sims.values(), coming)]
    for breaker in breakers:
        breaker.start()
    try:
        at_once(*(lambda seed=seed: call(seed) for seed in range(THREADS)), timeout=DEADLINE)   # type: ignore
    finally:
        over.set()
        for breaker in breakers:
            breaker.join(5)
    assert busy.acquire(timeout=10)
    for sim in (*sims.values(), coming):
        sim.clear_faults()
    market.stop("huobi")
    market.resume()
    wait_listed(sims["binance"], {f"{s.replace('-', '').lower()}@trade" for s in wishes["binance"].left()})
    wait_listed(sims["alpaca"], {f"trades:{symbol}" for symbol in wishes["alpaca"].left()})
    wait_until(lambda: not coming.connections)
    market.start("huobi", "BTC-USDT", ["trades"], url=coming.url, rest_url=coming.rest_url)
    wait_listed(coming, {"market.btcusdt.trade.detail"})
    assert len(coming.connections) == len(sims["alpaca"].connections) == 1
    for entry in market.status()["handlers"]:
        assert entry["errors"] == 0


def test_stops_and_starts_of_a_manager_from_many_threads(stack: Stack) -> None:
    """Whoever comes last wins, and handlers are at work whenever something runs."""
    sim = stack.enter_context(BinanceSim(["BTCUSDT"], rate=100))
    market = stack.enter_context(StreamManager(url=sim.url, rest_url=sim.rest_url, backoff=quick()))
    heard = threading.Event()
    market.on(r"binance\.trades\..+", lambda _: heard.set())

    def call(seed: int) -> None:
        rand = random.Random(seed)
        for _ in range(30):
            if rand.random() < 0.5:
                market.stop(rand.choice(("binance", None)))
            else:
                market.start("binance", "BTC-USDT", ["trades"])
            market.status()
    for seed in range(3):
        at_once(*(lambda n=n: call(n) for n in range(seed * 8, seed * 8 + 7)),     # type: ignore[misc]
                lambda: market.start("binance", "BTC-USDT", ["trades"]), timeout=DEADLINE)
        at_once(market.stop, lambda: market.start("binance", "BTC-USDT", ["trades"]))
        if not market.status()["streams"]:
            market.start("binance", "BTC-USDT", ["trades"])
        heard.clear()
        wait_until(heard.is_set, what="the handler hears")
        wait_listed(sim, {"btcusdt@trade"})

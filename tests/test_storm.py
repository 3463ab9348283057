"""Thousands of random calls from many threads and from handlers, while connections break: nothing hangs,
nothing is lost, and in the end the venue's own list is the desired one."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from streams import ConfigurationError
from streams.exchanges import Alpaca, Binance
from streams.sim import BinanceSim, Fault
from streams.sim.alpaca import AlpacaSim
from streams.stream import Stream

from .live import ALPACA_KEYS, at_once, quick, wait_listed
from .tools import wait_until, with_limits

CALLS = int(os.environ.get("STREAMS_STORM", "10000"))
THREADS = 8
DEADLINE = 25.0
PAUSE = 0.006       # seconds between two calls of one caller, at most: connections have to live meanwhile
COINS = [f"C{a}{b}-USDT" for a in "ABCDE" for b in "ABCD"]
STOCKS = [f"S{a}{b}" for a in "ABCDE" for b in "ABCD"]
# As fast as it goes: the venues' limits on connections and messages would only make it wait.
FREE = {"connects": (1_000_000, 1.0), "messages": (1000, 1.0), "batch": 50}
Fast = with_limits(Binance, **FREE)
FastAlpaca = with_limits(Alpaca, **FREE)
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


@pytest.mark.parametrize("kind, sim, symbols, options", [
    (Fast, lambda: BinanceSim([c.replace("-", "") for c in COINS], rate=100, message_limit=None), COINS, {}),
    (FastAlpaca, lambda: AlpacaSim(STOCKS, rate=100), STOCKS, ALPACA_KEYS),
], ids=["binance", "alpaca"])
def test_one_stream(kind: type[Stream], sim: Callable[[], Any], symbols: list[str], options: Any,
                    stack: Stack) -> None:
    sim = stack.enter_context(sim())
    wishes = Wishes()
    keeper = symbols[0]                                     # somebody has to make events for the handlers
    stream = kind(keeper, ["trades"], url=sim.url, rest_url=sim.rest_url, backoff=quick(), **options)
    stack.callback(stream.stop)
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

    def call(seed: int) -> None:
        caller = Caller(seed, symbols, wishes)
        for _ in range(CALLS // THREADS):
            calls_on(stream, caller)
            over.wait(caller.random.random() * PAUSE)
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
    assert sim.accepted > 50 and sum(sim.struck.values()) > 20 and len(sim.struck) > 3
    sim.clear_faults()
    stream.resume()
    assert stream.stop()
    assert stream.state == "stopped" and not stream.is_alive()
    wait_until(lambda: not sim.connections)
    stream.start()
    prefix = "trades:{}" if kind is FastAlpaca else "{}@trade"
    wait_listed(sim, {prefix.format(s if kind is FastAlpaca else s.replace("-", "").lower())
                      for s in wishes.left()}, stream)
    assert {f"trades.{symbol}" for symbol in wishes.left()} == set(stream.status()["subscriptions"])
    assert len(sim.connections) == 1
    # And the handlers are alive.
    handled = sum(entry["handled"] for entry in stream.handlers.status())
    wait_until(lambda: sum(e["handled"] for e in stream.handlers.status()) > handled)
    assert all(entry["errors"] == 0 for entry in stream.handlers.status()), stream.handlers.status()

"""Fresh data or none: from the stream, else by REST, else from the next provider; never a stale one."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
import types
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import streams.fallback
from streams import NoData, StaleData, StreamManager
from streams.book import BookView
from streams.errors import ConfigurationError, StreamsError
from streams.events import Ticker
from streams.metrics import InMemoryMetrics
from streams.sim import BinanceSim, Fault, HuobiSim
from streams.sim.alpaca import AlpacaSim
from streams.sim.polygon import PolygonSim

from .live import ALPACA_KEYS, POLYGON_KEY, at_once, quick
from .tools import exact, wait_until

Stack = contextlib.ExitStack
Market = Callable[..., StreamManager]
CALL = "NVDA261218C00200000"

# exchange, its simulator, options of the manager, symbol, the simulator's symbol
TICKERS: dict[str, tuple[str, Callable[..., Any], dict[str, Any], str, str]] = {
    "binance": ("binance", lambda: BinanceSim(["BTCUSDT"], rate=0), {}, "BTC-USDT", "BTCUSDT"),
    "huobi": ("huobi", lambda: HuobiSim(["btcusdt"], rate=0), {}, "BTC-USDT", "btcusdt"),
    "alpaca": ("alpaca", lambda: AlpacaSim(rate=0), ALPACA_KEYS, "AAPL", "AAPL"),
    "alpaca-crypto": ("alpaca-crypto", lambda: AlpacaSim(rate=0), ALPACA_KEYS, "BTC-USD", "BTC/USD"),
    "alpaca-options": ("alpaca-options", lambda: AlpacaSim(rate=0), ALPACA_KEYS, CALL, CALL),
    "polygon": ("polygon", lambda: PolygonSim(rate=0), POLYGON_KEY, "AAPL", "AAPL"),
    "massive": ("massive", lambda: PolygonSim(rate=0), {**POLYGON_KEY, "market": "options"}, f"O:{CALL}",
                f"O:{CALL}"),
}
BOOKS = {name: TICKERS[name] for name in ("binance", "huobi", "alpaca-crypto")}
BOOKS["polygon"] = ("polygon", lambda: PolygonSim(rate=0),
                    {**POLYGON_KEY, "market": "crypto", "exchange_id": 1}, "BTC-USD", "BTC-USD")


@pytest.fixture
def manager(stack: Stack) -> Market:
    def make(sim: Any = None, **options: Any) -> StreamManager:
        where = {} if sim is None else {"url": sim.url, "rest_url": sim.rest_url}
        return stack.enter_context(StreamManager(**{"backoff": quick(), **where, **options}))
    return make


def asked(sim: Any, part: str = "") -> int:
    """How many REST requests there were."""
    return sum(part in request.path for request in sim.requests)


@pytest.fixture
def sim(stack: Stack) -> BinanceSim:
    return stack.enter_context(BinanceSim(["BTCUSDT", "ETHUSDT"], rate=0, slow_every=1))


def provider(value: Any, calls: list[Any] | None = None) -> Callable[[str, str], Any]:
    def backup(exchange: str, symbol: str) -> Any:
        if calls is not None:
            calls.append((exchange, symbol))
        if isinstance(value, BaseException):
            raise value
        return value
    return backup


# -- REST where there is no stream --------------------------------------------------------------------


@pytest.mark.parametrize("case", TICKERS.values(), ids=TICKERS)
def test_a_ticker_by_rest_of_an_exchange_that_was_not_started(
        case: Any, manager: Market, stack: Stack) -> None:
    exchange, make, options, symbol, true = case
    sim = stack.enter_context(make())
    market = manager(sim, **options)
    ticker = market.ticker(exchange, symbol)
    assert ticker.source == "rest" and 0 <= ticker.age < 5 and ticker.symbol == symbol
    if exchange in ("binance", "huobi"):
        book = sim.market.book(true)
        assert ticker.bid == float(book.bids[0][0]) and ticker.ask == float(book.asks[0][0])
    else:
        quote = sim.tape.last_quote(true)
        assert (ticker.bid, ticker.ask) == (float(quote.bid), float(quote.ask)) or ticker.last == float(
            sim.tape.last_trade(true).price)
    assert asked(sim) == 1 and sim.accepted == 0


@pytest.mark.parametrize("case", BOOKS.values(), ids=BOOKS)
def test_an_order_book_by_rest(case: Any, manager: Market, stack: Stack) -> None:
    exchange, make, options, symbol, true = case
    sim = stack.enter_context(make())
    book = manager(sim, **options).orderbook(exchange, symbol)
    oracle = sim.market.book(true)
    assert book.source == "rest" and book["status"] == "live" and 0 <= book.age < 5
    for side, true_side in (("bids", oracle.bids), ("asks", oracle.asks)):
        levels = exact(book[side])
        assert len(levels) >= 10 and levels == true_side[:len(levels)]
    assert sim.accepted == 0


def test_what_no_rest_gives(manager: Market, stack: Stack) -> None:
    sim = stack.enter_context(PolygonSim(rate=0))
    market = manager(sim, market="futures", **POLYGON_KEY)
    with pytest.raises(StaleData, match=r"no fresh ticker; stream: no ticker .*; rest: .* no ticker by REST"):
        market.ticker("polygon", "ESZ6")
    with pytest.raises(StaleData, match="no order book by REST"):
        market.orderbook("polygon", "ESZ6")
    with pytest.raises(NoData):                         # the store asks nobody
        market.store.ticker("polygon", "ESZ6")
    with pytest.raises(ConfigurationError, match="no exchange is called 'polygone'; known: "):
        market.ticker("polygone", "ESZ6")
    with pytest.raises(ConfigurationError, match=r"max_age=0: it must be more than 0 seconds"):
        market.ticker("polygon", "ESZ6", max_age=0)


# -- the stream while it is fresh ---------------------------------------------------------------------


def test_from_the_stream_then_by_rest_then_from_the_stream(
        sim: BinanceSim, manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.fallback, "SETTLED", 0.5)
    market = manager(sim)
    market.start("binance", ["BTC-USDT"], ["ticker", "book"])
    wait_until(lambda: sim.connections and len(sim.connections[0].subscriptions) == 2)

    def fresh() -> bool:
        sim.advance(1)
        return bool(market.store.tickers["binance"].get("BTC-USDT"))
    wait_until(fresh)
    market.wait_ready(5)
    before = asked(sim, "ticker")
    for _ in range(50):
        sim.advance(1)
        ticker = market.ticker("binance", "BTC-USDT", max_age=5.0)
        assert ticker.source == "stream" and ticker.age < 5.0
        assert market.orderbook("binance", "BTC-USDT").source == "stream"
    assert asked(sim, "ticker") == before
    # Silence: REST. What is in the store is refused by the store, and never handed out.
    wait_until(lambda: market.store.tickers["binance"]["BTC-USDT"].age > 0.15)
    with pytest.raises(StaleData, match="too old"):
        market.store.ticker("binance", "BTC-USDT", max_age=0.1)
    begun, sources, steps = time.monotonic(), [], threading.Event()
    assert market.ticker("binance", "BTC-USDT", max_age=0.1).source == "rest"
    # Data again: not relied on at once, and not only once.
    while "stream" not in sources:
        sim.advance(1)
        sources.append(market.ticker("binance", "BTC-USDT", max_age=0.1).source)
        assert time.monotonic() - begun < 10
        steps.wait(0.02)
    assert time.monotonic() - begun >= 0.5 and sources[:-1] == ["rest"] * (len(sources) - 1)
    # Who is content with older data was never turned away from the stream.
    assert market.ticker("binance", "BTC-USDT", max_age=60).source == "stream"


def test_who_asks_for_much_turns_nobody_else_away(sim: BinanceSim, manager: Market) -> None:
    market = manager(sim)
    market.start("binance", ["BTC-USDT"], ["ticker"])
    wait_until(lambda: sim.advance(1) or market.store.tickers["binance"].get("BTC-USDT"))
    for _ in range(5):
        assert market.ticker("binance", "BTC-USDT", max_age=1e-6).source == "rest"
        assert market.ticker("binance", "BTC-USDT", max_age=60).source == "stream"


@pytest.mark.parametrize("trouble", ["paused", "mute", "dropped", "stopped"])
def test_a_stale_book_is_never_fresh(trouble: str, sim: BinanceSim, manager: Market) -> None:
    market = manager(sim)
    market.start("binance", ["BTC-USDT"])
    market.wait_ready(5)
    assert market.orderbook("binance", "BTC-USDT", max_age=60).source == "stream"
    if trouble == "paused":
        market.pause()
        wait_until(lambda: not sim.connections)
    elif trouble == "mute":
        sim.inject(Fault.MUTE)
        wait_until(lambda: market.store.orderbook("binance", "BTC-USDT").age > 0.3)
    elif trouble == "dropped":
        sim.always(Fault.REJECT(status=503))        # of who connects anew
        sim.inject(Fault.RESET)
    else:
        market.stop("binance")
    book = market.store.orderbooks["binance"]["BTC-USDT"]
    wait_until(lambda: trouble == "mute" or book["status"] != "live")
    age = 0.2 if trouble == "mute" else 60
    with pytest.raises(StaleData):
        market.store.orderbook("binance", "BTC-USDT", max_age=age)
    sim.clear_faults() if trouble == "mute" else None
    if trouble == "stopped":                            # its address went with it
        market.start("binance", ["ETH-USDT"])
    asked = time.time_ns()
    view = market.orderbook("binance", "BTC-USDT", max_age=age)
    assert (view.source, view["status"]) == ("rest", "live") and view["last_update"] >= asked


def test_old_by_the_time_that_others_have_failed(manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream is fresh again but not relied on yet; when the others have taken their time to fail, it
    may be fresh no more."""
    release, entered = threading.Event(), threading.Event()

    def slow(exchange: str, symbol: str) -> Any:
        entered.set()
        release.wait(10)
        raise OSError("nothing")
    market = manager(providers=[slow])
    table = market.store.tickers.setdefault("mine", type(market.store.tickers)())
    table["X"] = Ticker(exchange="mine", symbol="X", received=time.time_ns(), last=1.0)
    assert market.ticker("mine", "X", max_age=60).source == "stream"
    del table["X"]
    release.set()
    with pytest.raises(StaleData):
        market.ticker("mine", "X", max_age=0.2)         # fell back
    release.clear()
    entered.clear()
    table["X"] = Ticker(exchange="mine", symbol="X", received=time.time_ns(), last=1.0)
    results: list[Any] = []

    def ask() -> None:
        try:
            results.append(market.ticker("mine", "X", max_age=0.2))
        except StaleData as error:
            results.append(error)
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    assert entered.wait(5)
    wait_until(lambda: table["X"].age > 0.25)
    release.set()
    thread.join(5)
    assert isinstance(results[0], StaleData) and "too old" in str(results[0])


# -- providers ----------------------------------------------------------------------------------------


def test_providers_in_their_order(sim: BinanceSim, manager: Market) -> None:
    calls: list[Any] = []
    first = manager(sim, providers=[provider(50_000, calls), "rest"])
    ticker = first.ticker("binance", "BTC-USDT")
    assert (ticker.last, ticker.source, ticker.symbol) == (50_000, "backup", "BTC-USDT") and ticker.age < 5
    assert calls == [("binance", "BTC-USDT")] and asked(sim) == 0
    then = manager(sim, providers=["rest", provider(Decimal("1.5"), calls)])
    assert then.ticker("binance", "BTC-USDT").source == "rest" and len(calls) == 1
    assert then.ticker("binance", "NO-SUCH").source == "backup"     # REST does not know it
    assert calls[1:] == [("binance", "NO-SUCH")]
    assert manager(sim, providers=[]).fallback is not None
    with pytest.raises(StaleData, match="stream: no ticker"):
        manager(sim, providers=[]).ticker("binance", "BTC-USDT")


@pytest.mark.parametrize("value, reason", [
    (None, "backup: nothing"), (OSError("line cut"), "backup: line cut"), (ValueError("odd"), "backup: odd"),
    (0, "a price of 0"), (-1.5, "a price of -1.5"), (float("nan"), "a price of nan"),
    (float("inf"), "a price of inf"), (Decimal("NaN"), "a price of NaN"), (True, "not bool"),
    ("50000", "not str"),
    (Ticker(exchange="b", symbol="X", received=1, last=5.0), "s old"),
    (Ticker(exchange="b", symbol="X"), "no price at all"),
    (Ticker(exchange="b", symbol="X", bid=2.0, ask=1.0), "crossed: bid 2.0 above ask 1.0"),
    (Ticker(exchange="b", symbol="X", bid=2.0, ask=-1.0), "a price of -1.0"),
    (BookView("b", "X", ((1.0, 1.0),), ((2.0, 1.0),), last_update=1, timestamp=None, status="live",
              sequence=None), "not BookView"),
])
def test_what_a_provider_gives_is_looked_at(
        value: Any, reason: str, sim: BinanceSim, manager: Market) -> None:
    metrics = InMemoryMetrics()
    market = manager(sim, providers=[provider(value), "rest"], metrics=metrics)
    assert market.ticker("binance", "BTC-USDT").source == "rest"
    alone = manager(sim, providers=[provider(value)], metrics=metrics)
    with pytest.raises(StaleData) as error:
        alone.ticker("binance", "BTC-USDT")
    assert reason in str(error.value) and "\n" not in str(error.value)
    implausible = any(word in reason for word in ("a price of", "crossed", "no price"))
    assert alone.fallback.refused == implausible
    assert metrics.get("implausible", exchange="binance") == 2 * implausible


def test_books_of_providers(manager: Market) -> None:
    def view(bids: Any, asks: Any, **rest: Any) -> BookView:
        rest = {"last_update": time.time_ns(), "timestamp": None, "status": "live", "sequence": None, **rest}
        return BookView("mine", "X", bids, asks, **rest)
    good = view(((1.0, 1.0),), ((2.0, 1.0),))
    book = manager(providers=[provider(good)]).orderbook("binance", "X")
    assert book.source == "backup" and book["bids"] == [(1.0, 1.0)] and good.source == "stream"
    for wrong, reason in ((view(((3.0, 1.0),), ((2.0, 1.0),)), "crossed"), (view((), ()), "no price"),
                          (view(((0.0, 1.0),), ()), "a price of 0.0"),
                          (view(((1.0, 1.0),), (), last_update=time.time_ns() - 10**10), r"1\d\.\d s old"),
                          (view(((1.0, 1.0),), (), last_update=None), "does not say how old"),
                          (7, "not int")):
        with pytest.raises(StaleData, match=reason):
            manager(providers=[provider(wrong)]).orderbook("binance", "X")


def test_an_outlier_within_the_window_is_refused(manager: Market) -> None:
    value = [100.0]

    def feed(exchange: str, symbol: str) -> float:
        return value[0]
    market = manager(providers=[feed], ttl={"ticker": 1e-9}, max_jump=10.0, window=0.5)
    for value[0] in (100.0, 104.0, 95.0, 101.0):
        assert market.ticker("binance", "X").last == value[0]
    for value[0] in (120.0, 80.0, 1.0, 1e9):
        with pytest.raises(StaleData, match=r"% away from the 10\d(\.\d)? of the last"):
            market.ticker("binance", "X")
    assert market.fallback.refused == 4
    assert market.ticker("binance", "Y").last == 1e9    # of another symbol nothing is known
    value[0] = 120.0                                    # it stays there: after the window it is believed
    begun = time.monotonic()

    def believed() -> bool:
        try:
            return market.ticker("binance", "X").last == 120.0
        except StaleData:
            return False
    wait_until(believed)
    assert time.monotonic() - begun > 0.3


def test_a_first_trade_is_no_outlier_of_a_wide_market(manager: Market) -> None:
    """Like is compared with like: trades with trades, the middle of a market with its middle."""
    sides = {"bid": 1.0, "ask": 5.0}
    answers: list[dict[str, float]] = []

    def option(exchange: str, symbol: str) -> Ticker:
        return Ticker(exchange=exchange, symbol=symbol, received=time.time_ns(), **answers[-1])
    market = manager(providers=[option], ttl={"ticker": 1e-9})
    for answer in (sides, {**sides, "last": 1.2}, sides, {"bid": 1.0}, {"bid": 1.1, "last": 1.25}):
        answers.append(answer)
        assert market.ticker("polygon", "O:X").bid == answer["bid"]
    for answer in ({**sides, "last": 3.0}, {"bid": 2.0, "ask": 20.0}, {"bid": 4.0}):
        answers.append(answer)
        with pytest.raises(StaleData, match="% away from the"):
            market.ticker("polygon", "O:X")


def streamed(market: StreamManager, price: float) -> None:
    """As if a stream had just written this."""
    table = market.store.tickers.setdefault("binance", type(market.store.tickers)())
    table["X"] = Ticker(exchange="binance", symbol="X", received=time.time_ns(), last=price)


def test_a_stream_is_relied_on_a_while_after_a_fall_back_however_seldom_it_is_asked(
        manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(streams.fallback, "time", types.SimpleNamespace(
        monotonic=lambda: now, time_ns=time.time_ns))
    calls: list[Any] = []
    market = manager(providers=[provider(NoData("it hangs"), calls)])

    def ask() -> int:
        """How often somebody else was asked."""
        before = len(calls)
        assert market.ticker("binance", "X", max_age=10).source == "stream"
        return len(calls) - before
    streamed(market, 100.0)
    assert ask() == 0
    del market.store.tickers["binance"]["X"]
    with pytest.raises(StaleData, match="it hangs"):
        market.ticker("binance", "X", max_age=10)
    streamed(market, 100.0)
    now += streams.fallback.SETTLED / 2
    assert ask() == ask() == 1, "it may go again at once"
    now += streams.fallback.SETTLED / 2
    assert ask() == ask() == 0
    del market.store.tickers["binance"]["X"]
    with pytest.raises(StaleData, match="it hangs"):        # and from the beginning
        market.ticker("binance", "X", max_age=10)
    streamed(market, 100.0)
    assert ask() == 1
    now += 100.0
    assert ask() == 0


def test_what_stands_in_does_not_judge_what_it_stands_in_for(
        manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.fallback, "SETTLED", 0)
    calls: list[Any] = []
    market = manager(providers=[provider(47_000.0, calls)])
    assert market.ticker("binance", "X", max_age=10).source == "backup"
    streamed(market, 60_000.0)
    assert market.ticker("binance", "X", max_age=10).last == 60_000.0
    del market.store.tickers["binance"]["X"]            # the other way round it does
    with pytest.raises(StaleData, match="backup: not plausible: 47000 is 22 % away from the 60000 of"):
        market.ticker("binance", "X", max_age=1e-9)
    assert len(calls) == 2 and market.fallback.refused == 1


def test_a_stream_that_has_jumped_is_believed_after_the_window_whoever_stands_in_meanwhile(
        manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.fallback, "SETTLED", 0)
    market = manager(providers=[provider(100.0)], window=0.5)

    def ask(price: float) -> str:
        streamed(market, price)
        for key in market.fallback._keys.values():
            key.cached = None                           # so that it is asked anew each time
        return market.ticker("binance", "X", max_age=10).source
    assert ask(100.0) == "stream"
    assert ask(300.0) == "backup" and ask(1.0) == "backup" and ask(101.0) == "stream"
    begun = time.monotonic()
    wait_until(lambda: ask(300.0) == "stream")
    assert time.monotonic() - begun > 0.3 and ask(300.0) == "stream"


@pytest.mark.parametrize("bid, ask", [("200", "100"), ("-5", "10"), ("1", "2")])
def test_the_streams_own_nonsense_is_refused(bid: str, ask: str, manager: Market, stack: Stack) -> None:
    sim = stack.enter_context(AlpacaSim(["AAPL"], rate=0))
    metrics = InMemoryMetrics()
    market = manager(sim, metrics=metrics, **ALPACA_KEYS)
    market.start("alpaca", ["AAPL"], ["ticker"])
    wait_until(lambda: sim.connections and len(sim.connections[0].subscriptions) == 2)
    sim.advance(20)
    sim.quote("AAPL", "99.5", "100.5")
    sim.trade("AAPL", "100", 1)
    table = market.store.tickers
    wait_until(lambda: "AAPL" in table["alpaca"] and table["alpaca"]["AAPL"].last == 100.0,
               store=market.store)
    assert market.ticker("alpaca", "AAPL").source == "stream"
    sim.quote("AAPL", bid, ask)
    if bid == "1":                                      # neither crossed nor negative, just far away
        sim.trade("AAPL", "1.5", 1)
    backup = provider(101)
    market.fallback._providers = (backup,)
    if bid == "-5":
        wait_until(lambda: market.status()["streams"][0]["malformed"], what="a negative price is no message")
        return
    wait_until(lambda: table["alpaca"]["AAPL"].bid == float(bid) and (bid != "1" or
               table["alpaca"]["AAPL"].last == 1.5), store=market.store)
    ticker = market.ticker("alpaca", "AAPL")
    assert (ticker.source, ticker.last) == ("backup", 101)
    assert market.fallback.refused == metrics.get("implausible", exchange="alpaca") == 1


# -- calls --------------------------------------------------------------------------------------------


def test_many_misses_are_one_call(manager: Market, stack: Stack) -> None:
    sim = stack.enter_context(AlpacaSim(rate=0, rest_delay=0.3))
    market = manager(sim, **ALPACA_KEYS)
    answers: list[Ticker] = []
    for round_ in range(1, 3):
        at_once(*[lambda: answers.append(market.ticker("alpaca", "AAPL", max_age=0.2))] * 20)
        assert asked(sim) == round_ and len(answers) == 20 * round_
        assert len({id(answer) for answer in answers}) == round_
        wait_until(lambda: answers[-1].age > 0.25)
    at_once(*[lambda symbol=symbol: market.ticker("alpaca", symbol)         # type: ignore[misc]
              for symbol in ("AAPL", "NVDA", "AAPL", "NVDA")])
    assert asked(sim) == 3                              # for the other symbol; the ttl is ten seconds


def test_racing_misses_are_one_call(manager: Market) -> None:
    """The answer may come between a caller's look at what is kept and its own call."""
    for _ in range(30):
        calls: list[Any] = []
        market = manager(providers=[provider(5.0, calls)])
        at_once(*[lambda: market.ticker("binance", "X")] * 8)
        assert len(calls) == 1


def test_a_symbol_that_can_be_none_is_refused_at_the_call(manager: Market) -> None:
    calls: list[Any] = []
    market = manager(providers=[provider(5.0, calls)])
    for ask in (market.ticker, market.orderbook):
        with pytest.raises(ConfigurationError, match="'no symbol!' is no symbol of binance; write it like"):
            ask("binance", "no symbol!", max_age=10)
    assert not calls and not market.fallback._keys
    # Of a stream of the user's own there may be any, and where there are no keys nobody knows.
    streamed(market, 1.0)
    market.store.tickers["binance"]["own thing"] = market.store.tickers["binance"]["X"]
    assert market.ticker("binance", "own thing", max_age=10).source == "stream"
    market.store.tickers["mine"] = type(market.store.tickers["binance"])()
    assert market.ticker("mine", "own thing", max_age=10).source == "backup"


def test_of_what_nobody_has_nothing_is_kept(manager: Market) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def nobody(exchange: str, symbol: str) -> None:
        asked.set()
        assert symbol != "LAST" or go_on.wait(10)
    market = manager(providers=[nobody])
    for number in range(20):
        with pytest.raises(StaleData):
            market.ticker("binance", f"X{number}", max_age=10)
    assert not market.fallback._keys
    asked.clear()

    def ask() -> None:
        with pytest.raises(StaleData):
            market.ticker("binance", "LAST", max_age=10)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert asked.wait(10) and len(market.fallback._keys) == 1
    [key] = market.fallback._keys.values()
    wait_until(lambda: key.users == 3)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert not market.fallback._keys and key.users == 0


def test_a_failure_is_shared_and_not_kept(manager: Market) -> None:
    entered, release, calls = threading.Event(), threading.Event(), []

    def feed(exchange: str, symbol: str) -> float:
        calls.append(symbol)
        entered.set()
        release.wait(10)
        if len(calls) == 1:
            raise OSError("line cut")
        return 5.0
    market = manager(providers=[feed])
    failures: list[StaleData] = []

    def ask() -> None:
        with pytest.raises(StaleData, match="feed: line cut") as error:
            market.ticker("binance", "X")
        failures.append(error.value)
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert entered.wait(5)
    key = next(iter(market.fallback._keys.values()))
    wait_until(lambda: key.pending is not None and len(key.pending._condition._waiters) == 4)
    release.set()
    for thread in threads:
        thread.join(5)
    assert len(failures) == 5 and len(calls) == 1
    assert market.ticker("binance", "X").last == 5.0


def test_a_provider_may_ask_for_another_symbol_but_not_for_its_own(manager: Market) -> None:
    made: list[StreamManager] = []

    def elsewhere(exchange: str, symbol: str) -> Ticker:
        return made[0].ticker("huobi", symbol)

    def known(exchange: str, symbol: str) -> float | None:
        return 5.0 if (exchange, symbol) == ("huobi", "X") else None
    made.append(manager(providers=[known, elsewhere]))
    at_once(lambda: made[0].ticker("binance", "X"), timeout=5)
    assert made[0].ticker("binance", "X").last == 5.0
    failures: list[str] = []

    def ask() -> None:                                  # nobody has it, huobi's own providers included
        with pytest.raises(StaleData) as error:
            made[0].ticker("binance", "Y")
        failures.append(str(error.value))
    at_once(ask, timeout=5)
    assert "huobi Y: " in failures[0] and "it is asked for in order to answer itself" in failures[0]
    assert made[0].ticker("huobi", "X").last == 5.0     # and nobody waits for what has ended


def test_ctrl_c_anywhere_in_a_question_leaves_nobody_waiting(
        manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in range(1, 20):
        market = manager(providers=[lambda exchange, symbol: 5.0])
        taken, lock = itertools.count(1), market.fallback._lock

        class Struck:
            """A lock; the signal is noticed when it has been released for the so-manieth time."""

            def __enter__(self) -> None:
                lock.acquire()

            def __exit__(self, *_: Any) -> None:
                lock.release()
                if next(taken) == step:
                    raise KeyboardInterrupt

        monkeypatch.setattr(market.fallback, "_lock", Struck())
        try:
            market.ticker("binance", "X")
        except KeyboardInterrupt:
            pass
        else:
            break
        monkeypatch.setattr(market.fallback, "_lock", lock)
        assert market.ticker("binance", "X").last == 5.0
        at_once(lambda: market.ticker("binance", "X"), timeout=5)
        assert not market.fallback._waits
    assert step > 4


def test_nobody_who_holds_the_store_waits_for_one_who_may_read_it(manager: Market) -> None:
    asked = threading.Event()

    def reading(exchange: str, symbol: str) -> float:
        asked.set()
        with market.store.lock:
            return 5.0
    market = manager(providers=[reading])
    other = threading.Thread(target=market.ticker, args=("binance", "X"), daemon=True)
    refused: list[str] = []

    def holding() -> None:
        with market.store.lock:
            other.start()
            assert asked.wait(5)
            with pytest.raises(StaleData) as error:
                market.ticker("binance", "X")
            refused.append(str(error.value))
    at_once(holding, timeout=5)
    assert "another thread is getting it, and store.lock is held here" in refused[0]
    other.join(5)
    assert market.ticker("binance", "X").last == 5.0


def test_providers_that_ask_each_other_do_not_wait_for_each_other(manager: Market) -> None:
    made: list[StreamManager] = []
    meeting = threading.Barrier(2)
    other = {"binance": "huobi", "huobi": "binance"}

    def elsewhere(exchange: str, symbol: str) -> Ticker:
        with contextlib.suppress(threading.BrokenBarrierError):
            meeting.wait(1)                             # each is asked, and asks the other now
        return made[0].ticker(other[exchange], symbol)
    made.append(manager(providers=[elsewhere]))

    def ask(exchange: str) -> None:
        with pytest.raises(StaleData, match="elsewhere: "):
            made[0].ticker(exchange, "X")
    at_once(lambda: ask("binance"), lambda: ask("huobi"), timeout=10)


def test_who_waits_for_anothers_answer_gets_it_only_if_it_is_fresh_for_him(manager: Market) -> None:
    entered, release, calls = threading.Event(), threading.Event(), []

    def feed(exchange: str, symbol: str) -> Ticker:
        calls.append(symbol)
        age = 5 if len(calls) == 1 else 0
        entered.set()
        release.wait(10)
        return Ticker(exchange=exchange, symbol=symbol, last=5.0, received=time.time_ns() - age * 10**9)
    market = manager(providers=[feed])
    ages: list[float] = []
    lax = threading.Thread(target=lambda: market.ticker("binance", "X", max_age=60), daemon=True)
    strict = threading.Thread(target=lambda: ages.append(market.ticker("binance", "X", max_age=1).age),
                              daemon=True)
    lax.start()
    assert entered.wait(5)
    strict.start()
    key = next(iter(market.fallback._keys.values()))
    wait_until(lambda: key.pending is not None and key.pending._condition._waiters)
    release.set()
    lax.join(5)
    strict.join(5)
    assert len(calls) == 2 and ages[0] < 1


def test_a_time_to_live_for_each_channel(sim: BinanceSim, manager: Market) -> None:
    market = manager(sim, ttl={"ticker": 60.0, "book": 1e-9})
    tickers = [market.ticker("binance", "BTC-USDT") for _ in range(5)]
    assert asked(sim, "ticker") == 1 and len({id(ticker) for ticker in tickers}) == 1
    books = [market.orderbook("binance", "BTC-USDT") for _ in range(3)]
    assert asked(sim, "depth") == 3 and all(book.source == "rest" for book in books)
    wait_until(lambda: tickers[0].age > 0.1)
    assert market.ticker("binance", "BTC-USDT", max_age=0.05) is not tickers[0]
    for options, message in (({"ttl": {"trades": 1}}, "ttl has no 'trades'; it has: ticker, book"),
                             ({"providers": ["rests"]}, "provider 'rests': give 'rest' or a callable"),
                             ({"max_jump": 0}, "max_jump"), ({"window": -1}, "window")):
        with pytest.raises(ConfigurationError, match=message):
            StreamManager(**options)                    # type: ignore[arg-type]


def test_what_was_kept_before_the_clock_was_set_back_is_not_fresh(
        manager: Market, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    market = manager(providers=[provider(5.0, calls)])
    streamed(market, 5.0)
    assert market.ticker("binance", "X").source == "stream"
    del market.store.tickers["binance"]["X"]
    before, real = market.ticker("binance", "X"), time.time_ns
    streamed(market, 5.0)
    monkeypatch.setattr(time, "time_ns", lambda: real() - 3_600_000_000_000)
    after = market.ticker("binance", "X")
    assert (before.source, after.source) == ("backup", "backup") and after is not before and after.age >= 0
    market.fallback._providers = (provider(before),)
    with pytest.raises(StaleData, match=r"backup: its stamp is 3\d{3}\.\d+ s ahead of the clock"):
        market.ticker("binance", "X", max_age=1e-9)
    assert len(calls) == 2


def test_not_from_a_streams_own_thread(sim: BinanceSim, manager: Market) -> None:
    market = manager(sim)
    said: dict[str, Any] = {}
    done = threading.Event()

    @market.on(r"binance\.book\..+", policy="inline")
    def inline(event: Any) -> None:
        for name, call in (("ticker", market.ticker), ("orderbook", market.orderbook)):
            try:
                said[name] = call("binance", "ETH-USDT")
            except ConfigurationError as error:
                said[name] = error

    @market.on(r"binance\.book\..+", maxsize=1)
    def queued(event: Any) -> None:
        said["queued"] = market.ticker("binance", "ETH-USDT").source
        said["submitted"] = market.submit(market.ticker, "binance", "ETH-USDT").result(5).source
        done.set()
    market.start("binance", ["BTC-USDT"])
    assert done.wait(5)
    for name in ("ticker", "orderbook"):
        text = str(said[name])
        assert isinstance(said[name], ConfigurationError) and "\n" not in text
        assert text.startswith(f"{name}() may wait for the network") and "submit()" in text
    assert said["queued"] == said["submitted"] == "rest"


@pytest.mark.parametrize("fault, reason", [
    (Fault.SNAPSHOT_500, "HTTP 500"), (Fault.SNAPSHOT_429(retry_after=30), "HTTP 429"),
    (Fault.SNAPSHOT_GARBAGE, "rest: ")])
def test_when_rest_fails(fault: Fault, reason: str, sim: BinanceSim, manager: Market) -> None:
    market = manager(sim)
    sim.always(fault)
    with pytest.raises(StaleData, match=reason):
        market.orderbook("binance", "BTC-USDT")
    if fault.name == "snapshot_429":                    # nobody asks again meanwhile, not for a ticker either
        begun = time.monotonic()
        with pytest.raises(StaleData, match="leaves no room"):
            market.ticker("binance", "BTC-USDT")
        assert time.monotonic() - begun < 1 and asked(sim, "ticker") == 0
    else:
        sim.clear_faults()
        assert market.orderbook("binance", "BTC-USDT").source == "rest"


def test_no_venue_is_asked_beside_a_replay(sim: BinanceSim, manager: Market, tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_text('{"t": "header"}\n')
    url = path.as_uri().replace("file:", "replay:")
    market = manager()
    market.start("binance", ["BTC-USDT"], url=url)
    for ask in (market.ticker, market.orderbook):
        with pytest.raises(StaleData, match=r"rest: binance: this is a replay, .*; give rest_url=\.\.\."):
            ask("binance", "BTC-USDT")
    with pytest.raises(StreamsError, match="this is a replay"):
        market.rest("binance")
    market.stop()
    market.start("binance", ["BTC-USDT"], url=url, rest_url=sim.rest_url)
    assert market.orderbook("binance", "BTC-USDT").source == "rest"


def test_after_a_stop_nobody_else_is_asked(sim: BinanceSim, manager: Market, stack: Stack) -> None:
    """What was given to the last start holds; that of the manager, or of an earlier start, does not."""
    elsewhere = stack.enter_context(BinanceSim(["BTCUSDT"], rate=0))
    market = manager(elsewhere)
    where = {"url": sim.url, "rest_url": sim.rest_url}

    def here() -> bool:
        return sim.rest_url in repr(market.rest("binance"))

    assert not here()
    with pytest.raises(ConfigurationError, match="no channel"):
        market.start("binance", ["BTC-USDT"], ["nothing"], **where)
    assert not here()
    for exchange in ("binance", None):
        market.start("binance", ["BTC-USDT"], ["trades"], **where)
        assert here()
        market.stop(exchange)
        assert here()
    assert market.orderbook("binance", "BTC-USDT").source == "rest" and asked(sim, "depth") == 1
    market.start("binance", ["BTC-USDT"], ["trades"])
    market.stop("binance")
    assert not here()


def test_stop_ends_a_call_that_hangs(sim: BinanceSim, manager: Market) -> None:
    market = manager(sim)
    sim.always(Fault.SNAPSHOT_HANG)
    failures: list[StreamsError] = []

    def ask() -> None:
        with pytest.raises(StreamsError) as error:
            market.orderbook("binance", "BTC-USDT")
        failures.append(error.value)
    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: sim.struck["snapshot_hang"])
    begun = time.monotonic()
    market.stop()
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - begun < 1.5 and len(failures) == 3
    sim.clear_faults()
    assert market.orderbook("binance", "BTC-USDT").source == "rest"         # and anew

"""Alpaca from end to end, against its simulator: every error code a decision, every number exact."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from streams import ConfigurationError, StreamManager
from streams.events import StatusChange
from streams.exchanges import Alpaca, AlpacaCrypto, AlpacaOptions
from streams.sim import Fault
from streams.sim.alpaca import AlpacaSim
from streams.sim.tape_events import Bands, Bar, BookChange, Imbalance, Status
from streams.stream import Stream

from .live import ALPACA_KEYS, at_once, listed, quick, settled, wait_listed, wait_subscribed, wait_wired
from .tools import exact, wait_until, with_limits

Stack = contextlib.ExitStack
CALL, PUT = "NVDA261218C00200000", "NVDA261218P00180000"


@pytest.fixture
def serve_alpaca(stack: Stack) -> Callable[..., AlpacaSim]:
    return lambda **options: stack.enter_context(AlpacaSim(**{"rate": 0, "quote_lot": 1, **options}))


@pytest.fixture
def connect_to(stack: Stack) -> Callable[..., Any]:
    """``connect_to(sim, ["AAPL"], ["trades"], kind=..., ...)``: a running stream."""
    def make(sim: Any, symbols: Any, channels: Any, kind: type[Stream] = Alpaca, **options: Any) -> Stream:
        stream = kind(symbols, channels, **{"url": sim.url, "rest_url": sim.rest_url, "backoff": quick(),
                                            **ALPACA_KEYS, **options})
        stack.callback(stream.stop)
        stream.start()
        return stream
    return make


def entries(stream: Stream) -> dict[str, dict[str, str]]:
    return stream.status()["subscriptions"]             # type: ignore[no-any-return]


# -- error codes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("code, sim_options, options, error", [
    (402, {}, {"api_secret": "wrong"}, "AuthenticationFailed"),
    (402, {}, {"api_secret": "wrong", "auth": "message"}, "AuthenticationFailed"),
    (402, {"keys": {}}, {}, "AuthenticationFailed"),
    (409, {"denied": ["sip"]}, {"feed": "sip"}, "SubscriptionRefused"),
    (411, {"tokens": {"tok": False}}, {"api_key": "oauth", "api_secret": "tok", "auth": "message"},
     "AuthenticationFailed"),
])
def test_codes_that_make_going_on_pointless(
        code: int, sim_options: Any, options: Any, error: str, serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca(**sim_options)
    stream = connect_to(sim, ["AAPL"], ["trades"], **options)
    stream.join(5)
    assert not stream.is_alive() and stream.state == "failed" and stream.status()["running"] is False
    assert stream.status()["last_error"].startswith(f"{error}: alpaca {code}: ")
    assert sim.accepted == 1


def test_408_is_final_too(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    sim.send_error(408)
    wait_until(lambda: stream.state == "failed")
    assert "alpaca 408: v2 not enabled" in stream.status()["last_error"]


def test_wait_ready_says_why_it_failed(serve_alpaca: Any, stack: Stack) -> None:
    sim = serve_alpaca()
    market = stack.enter_context(StreamManager())
    market.start("alpaca", ["AAPL"], ["ticker"], url=sim.url, api_key="KEY", api_secret="wrong")
    begun = time.monotonic()
    with pytest.raises(Exception, match=r"alpaca ticker of AAPL \(AuthenticationFailed: alpaca 402"):
        market.wait_ready(30)
    assert time.monotonic() - begun < 5                 # hopeless, so at once
    market.stop("alpaca")
    market.start("alpaca", ["AAPL"], ["ticker"], url=sim.url, **ALPACA_KEYS)
    wait_listed(sim, {"trades:AAPL", "quotes:AAPL"})


def test_405_refuses_just_what_is_too_much(serve_alpaca: Any, connect_to: Any) -> None:
    names = [f"S{a}{b}" for a in "ABCDE" for b in "ABCD"]
    sim = serve_alpaca(symbols=names, symbol_limit=7)
    stream = connect_to(sim, names, ["trades"])
    wait_until(lambda: settled(stream))
    refused = {name for name, entry in entries(stream).items() if entry["state"] == "refused"}
    assert len(refused) == 13 and len(listed(sim)) == 7 and stream.state == "live"
    for name in refused:
        reason = entries(stream)[name]["reason"]
        assert reason.startswith("alpaca 405: symbol limit exceeded (") and "\n" not in reason
    said = " ".join(entries(stream)[name]["reason"] for name in refused)
    assert sum(name.partition(".")[2] in said for name in refused) >= 5     # and how many more
    wait_until(lambda: sim.advance(5) or len(stream.store.trades["alpaca"]) == 7)
    sim.inject(Fault.DROP)                              # a reconnect asks for what was granted, and no more
    wait_until(lambda: stream.status()["reconnects"] == 1)
    wait_until(lambda: settled(stream) and len(listed(sim)) == 7)
    assert {name for name, entry in entries(stream).items() if entry["state"] == "refused"} == refused


def test_400_finds_the_culprit(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL", "B:AD", "NVDA"], ["trades", "quotes"])
    wait_until(lambda: settled(stream))
    assert {name: entry["state"] for name, entry in entries(stream).items()} == {
        "trades.AAPL": "live", "trades.NVDA": "live", "quotes.AAPL": "live", "quotes.NVDA": "live",
        "trades.B:AD": "refused", "quotes.B:AD": "refused"}
    assert entries(stream)["trades.B:AD"]["reason"] == "alpaca 400: invalid syntax (trades:B:AD)"
    assert sim.accepted == 1


@pytest.mark.parametrize("code", [410, 412, 413])
def test_codes_that_refuse_a_subscription(code: int, serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    sim.inject(Fault.NO_ACK)
    heard = len(sim.connections[0].received)
    stream.subscribe("NVDA")
    wait_until(lambda: len(sim.connections[0].received) > heard)
    sim.send_error(code)
    wait_until(lambda: entries(stream)["trades.NVDA"]["state"] == "refused")
    assert entries(stream)["trades.NVDA"]["reason"].startswith(f"alpaca {code}: ")
    assert stream.state == "live" and entries(stream)["trades.AAPL"]["state"] == "live"
    assert sim.accepted == 1


def test_413_is_known_before(connect_to: Any) -> None:
    with pytest.raises(ConfigurationError, match="the venue allows wildcards like '[*]' for trades only"):
        AlpacaOptions("*", ["quotes"], **ALPACA_KEYS)
    AlpacaOptions("*", ["trades"], **ALPACA_KEYS)


def test_406_waits_out_the_old_session(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca(slot_hold=0.6)
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    told: list[StatusChange] = []
    stream.on(r"alpaca\.status\.\*", told.append, policy="inline")
    begun = time.monotonic()
    sim.inject(Fault.RESET)                             # the venue thinks that the old one is still there
    wait_until(lambda: stream.status()["last_error"] and "406" in stream.status()["last_error"])
    wait_until(lambda: stream.status()["reconnects"] == 1)
    wait_subscribed(stream)
    assert 0.9 < time.monotonic() - begun < 5
    assert [e.status for e in told if e.subject == "stream"][:2] == ["connecting", "backoff"]
    assert sim.accepted == 3 and len(sim.connections) == 1
    # Closed properly it has no old session to wait for.
    stream.pause()
    wait_until(lambda: stream.state == "paused" and not sim.connections)
    stream.resume()
    wait_subscribed(stream)
    assert sim.accepted == 4


def test_406_leaves_the_first_program_alone(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    first = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(first)
    second = connect_to(sim, ["NVDA"], ["trades"])
    wait_until(lambda: second.state == "backoff")
    assert "alpaca 406: connection limit exceeded" in second.status()["last_error"]
    assert first.state == "live" and first.status()["reconnects"] == 0
    crypto = connect_to(sim, ["BTC-USD"], ["trades"], AlpacaCrypto)         # another endpoint, another place
    wait_subscribed(crypto)
    assert first.stop()
    wait_until(lambda: second.state == "live", 5)


def test_407_is_counted(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    for count in (1, 2):
        sim.send_error(407)
        wait_until(lambda: stream.status()["reconnects"] == count)
        wait_subscribed(stream)
        assert stream.status()["notices"] == count


def test_a_client_that_really_is_slow(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca(slow_limit=10_000)
    sim.patience = 0.1
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    held, entered, once = threading.Event(), threading.Event(), threading.Lock()

    def hold(event: Any) -> None:
        if once.acquire(blocking=False):
            entered.set()
            held.wait(20)                               # an inline handler holds up its stream
    stream.on(r"alpaca\.trades\..+", hold, policy="inline")
    wait_until(lambda: sim.advance(5) or entered.is_set())

    def thrown_out() -> bool:
        sim.burst("AAPL", 5000)
        return bool(sim.violations)
    wait_until(thrown_out, 20)
    held.set()
    wait_until(lambda: stream.status()["reconnects"] == 1)
    wait_subscribed(stream)
    assert stream.status()["gaps"] == 0 and stream.status()["errors"] >= 1


@pytest.mark.parametrize("code, pause", [(401, 1), (404, 1), (500, 5)])
def test_codes_that_ask_for_patience(code: int, pause: int, serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_subscribed(stream)
    told: list[StatusChange] = []
    stream.on(r"alpaca\.status\.\*", told.append, policy="inline")
    sim.send_error(code)
    wait_until(lambda: stream.state == "backoff")
    assert f"alpaca {code}: " in stream.status()["last_error"]
    assert f"next attempt in {pause}.00 s" in [e.reason for e in told if e.status == "backoff"][-1]
    if code != 500:
        wait_subscribed(stream)


def test_404_when_the_login_is_not_heard(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca(auth_timeout=0.2)
    sim.plan(Fault.NO_ACK)
    stream = connect_to(sim, ["AAPL"], ["trades"], auth="message")
    wait_until(lambda: stream.state == "backoff")
    assert "alpaca 404: auth timeout" in stream.status()["last_error"]
    wait_subscribed(stream)
    assert sim.accepted == 2


def test_429_on_the_handshake_is_obeyed(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    sim.plan(Fault.REJECT(status=429, retry_after=1))
    begun = time.monotonic()
    stream = connect_to(sim, ["AAPL"], ["trades"])
    wait_until(lambda: stream.state == "backoff")
    assert "429" in stream.status()["last_error"]
    wait_subscribed(stream)
    assert time.monotonic() - begun >= 1.0 and sim.accepted == 2


def test_handshakes_too_fast_are_not_answered_with_more(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca(handshake_limit=(3, 0.5))
    kind = with_limits(Alpaca, stay_away={429: 0.5})
    streams = [
        connect_to(sim, ["AAPL"], ["trades"], kind, feed=feed, backoff=None) for feed in ("iex", "sip")]
    for stream in streams:
        wait_subscribed(stream)
    for _ in range(2):
        sim.inject(Fault.RESET)
    for stream in streams:                              # refused for a while, and then not any more
        wait_until(lambda: stream.status()["reconnects"] >= 1, 20)
        wait_subscribed(stream)
    assert sim.accepted < 12


# -- feeds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, feed, path, symbol", [
    (Alpaca, None, "/v2/iex", "AAPL"), (Alpaca, "sip", "/v2/sip", "AAPL"),
    (Alpaca, "delayed_sip", "/v2/delayed_sip", "AAPL"), (Alpaca, "test", "/v2/test", "FAKEPACA"),
    (Alpaca, "overnight", "/v1beta1/overnight", "AAPL"), (Alpaca, "boats", "/v1beta1/boats", "AAPL"),
    (AlpacaCrypto, None, "/v1beta3/crypto/us", "BTC-USD"),
    (AlpacaCrypto, "us-1", "/v1beta3/crypto/us-1", "BTC-USD"),
    (AlpacaCrypto, "eu-1", "/v1beta3/crypto/eu-1", "BTC-USD"),
    (AlpacaOptions, None, "/v1beta1/indicative", CALL), (AlpacaOptions, "opra", "/v1beta1/opra", CALL)])
def test_each_feed_has_its_path(kind: Any, feed: Any, path: str, symbol: str, serve_alpaca: Any,
                                connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, [symbol], ["trades"], kind, **({} if feed is None else {"feed": feed}))
    wait_subscribed(stream)
    assert sim.connections[0].path == path
    true = symbol.replace("-", "/")
    sim.trade(true, "7.25", 3)
    trades = stream.store.trades[stream.exchange]
    wait_until(lambda: trades.get(symbol), store=stream.store)
    event, last = trades[symbol][-1], sim.tape.last_trade(true)
    assert (event.price, event.size) == (7.25, 3)
    assert event.timestamp == last.time - (900 * 10**9 if feed == "delayed_sip" else 0)
    with pytest.raises(ConfigurationError, match=f"{stream.exchange} has no feed 'nope'; its feeds: "):
        kind([symbol], ["trades"], feed="nope", **ALPACA_KEYS)


def test_news_have_an_endpoint_of_their_own(serve_alpaca: Any, stack: Stack) -> None:
    sim = serve_alpaca()
    with pytest.raises(ConfigurationError, match="different endpoints.*use StreamManager.start"):
        Alpaca(["AAPL"], ["trades", "news"], url=sim.url, **ALPACA_KEYS)
    market = stack.enter_context(StreamManager())
    heard: list[Any] = []
    market.on(r"alpaca\.news\..+", heard.append)
    market.start("alpaca", ["AAPL", "NVDA"], ["trades", "news"], url=sim.url, **ALPACA_KEYS)
    wait_listed(sim, {"trades:AAPL", "trades:NVDA", "news:AAPL", "news:NVDA"})
    assert sorted(connection.path for connection in sim.connections) == ["/v1beta1/news", "/v2/iex"]
    sim.news("Nothing happened", ["MSFT"])
    sim.news("Much happened", ["MSFT", "NVDA", "AAPL"])
    wait_until(lambda: heard)
    assert (heard[0].headline, heard[0].symbol, heard[0].symbols) == (
        "Much happened", "NVDA", ("MSFT", "NVDA", "AAPL"))
    story = sim.tape.stories()[-1]
    assert (heard[0].timestamp, heard[0].id) == (story.time, str(story.id))
    assert market.store.latest["news"]["alpaca"]["NVDA"] == heard[0] and len(heard) == 1


# -- numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, symbols", [(Alpaca, ["AAPL", "NVDA"]), (AlpacaCrypto, ["BTC-USD", "ETH-USD"]),
                                           (AlpacaOptions, [CALL, PUT])])
def test_every_trade_and_quote_to_the_nanosecond(kind: Any, symbols: list[str], serve_alpaca: Any,
                                                 connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, symbols, ["trades", "quotes"], kind, number=Decimal)
    got: dict[str, list[Any]] = {"trades": [], "quotes": []}
    for channel, events in got.items():
        stream.on(rf".+\.{channel}\..+", events.append, policy="inline")
    wait_subscribed(stream)
    wait_wired(stream)
    since = {symbol: sim.tape.last_trade(symbol.replace("-", "/")).time for symbol in symbols}
    sim.advance(400)
    for symbol in symbols:
        true = symbol.replace("-", "/")
        last = sim.tape.last_quote(true)
        wait_until(lambda: any(e.symbol == symbol and e.timestamp == last.time for e in got["quotes"]))
        mine = {e.timestamp: e for e in got["trades"] if e.symbol == symbol and hasattr(e, "side")}
        trades = [t for t in sim.tape.trades(true) if t.time > since[symbol]]
        assert len(trades) > 50 and any(t.time % 1000 for t in trades)      # nanoseconds that matter
        for trade in trades:
            if trade.time in mine:                      # corrected ones have another id by now
                event = mine[trade.time]
                assert (event.price, event.size) == (trade.price, trade.size) or kind is Alpaca
        assert sum(trade.time in mine for trade in trades) == len(trades)
        quote = next(e for e in got["quotes"] if e.symbol == symbol and e.timestamp == last.time)
        assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (
            last.bid, last.bid_size, last.ask, last.ask_size)
        assert all(type(quote.bid) is Decimal for quote in got["quotes"])
    if kind is AlpacaOptions:
        assert sim.connections[0].variant[0] is True    # MessagePack on the wire
    assert stream.status()["malformed"] == 0


def test_the_trades_kept_are_corrected_as_the_tape_is(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL", "NVDA"], ["trades"], number=Decimal)
    wait_subscribed(stream)
    since = {symbol: sim.tape.last_trade(symbol).time for symbol in ("AAPL", "NVDA")}
    for _ in range(6):
        sim.advance(50)
        for symbol in since:
            sim.trade(symbol, "101.5", 10)
            sim.correct(symbol, "99.25")
            sim.trade(symbol)
            sim.cancel(symbol)
            sim.correct(symbol)                         # once more, the one before
    for symbol, begun in since.items():
        true = [(str(t.id), t.exchange, t.price, t.size) for t in sim.tape.trades(symbol) if t.time > begun]

        def kept() -> list[Any]:
            history = list(stream.store.trades["alpaca"].get(symbol, ()))
            return [(t.id, t.market, t.price, t.size) for t in history if not t.cancelled]
        wait_until(lambda: kept() == true, what=f"{kept()[-5:]} is {true[-5:]}", store=stream.store)
        history = list(stream.store.trades["alpaca"][symbol])
        assert sum(t.cancelled for t in history) >= 6 and sum(t.corrected for t in history) >= 6
    assert stream.status()["malformed"] == 0


def test_bars_and_their_updates(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL"], ["bars:1m", "bars:1d"], number=Decimal)
    wait_subscribed(stream)
    assert listed(sim) == {"bars:AAPL", "updatedBars:AAPL", "dailyBars:AAPL"}
    heard: list[Any] = []
    stream.on(r"alpaca\.bars:1m\.AAPL", heard.append, policy="inline")
    wait_wired(stream)
    bars = stream.store.bars["alpaca"]

    def is_last(bar: Bar, interval: str) -> bool:
        history = bars.get("AAPL", {}).get(interval)
        if not history:
            return False
        mine = history[-1]
        return (mine.start, mine.open, mine.high, mine.low, mine.close, mine.volume, mine.trades) == (
            bar.time, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.trades)
    for count in range(1, 4):
        sim.advance(30, "AAPL")
        sim.next_minute()
        wait_until(lambda: is_last(sim.tape.last_bar("AAPL"), "1m"), store=stream.store)
        assert len(bars["AAPL"]["1m"]) == count
    wait_until(lambda: is_last(sim.tape.last_bar("AAPL", "1d"), "1d"), store=stream.store)
    assert not heard[-1].revised and heard[-1].closed
    late = sim.trade("AAPL", "500", 10, late=30.0)      # into the minute before
    assert any(isinstance(event, Bar) and event.revised for event in late)
    wait_until(lambda: heard[-1].revised)
    assert bars["AAPL"]["1m"][-1].high == 500 and is_last(sim.tape.last_bar("AAPL"), "1m")
    assert len(bars["AAPL"]["1m"]) == 3 and len(bars["AAPL"]["1d"]) == 1


def test_halts_bands_and_imbalances(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca()
    stream = connect_to(sim, ["AAPL"], ["statuses", "lulds", "imbalances"], number=Decimal)
    wait_subscribed(stream)
    latest = stream.store.latest
    halt, = (e for e in sim.halt("AAPL") if isinstance(e, Status))
    wait_until(lambda: latest["statuses"]["alpaca"].get("AAPL"), store=stream.store)
    status = latest["statuses"]["alpaca"]["AAPL"]
    assert (status.code, status.message, status.reason_code, status.timestamp) == (
        halt.code, halt.message, halt.reason_code, halt.time)
    bands, = (e for e in sim.bands("AAPL") if isinstance(e, Bands))
    wait_until(lambda: latest["lulds"]["alpaca"].get("AAPL"), store=stream.store)
    band = latest["lulds"]["alpaca"]["AAPL"]
    assert (band.limit_up, band.limit_down, band.indicator, band.timestamp) == (
        bands.up, bands.down, "B", bands.time)
    imbalance, = (e for e in sim.imbalance("AAPL") if isinstance(e, Imbalance))
    wait_until(lambda: latest["imbalances"]["alpaca"].get("AAPL"), store=stream.store)
    event = latest["imbalances"]["alpaca"]["AAPL"]
    assert (event.price, event.timestamp) == (imbalance.price, imbalance.time)


def test_the_crypto_book_is_the_oracles_at_every_moment(serve_alpaca: Any, connect_to: Any) -> None:
    """Every state that a handler sees is one that the venue's book was in; through resets and accidents."""
    sim = serve_alpaca(batch=3)
    truth: dict[tuple[str, int], Any] = {}
    render = sim.wire.render

    def note(variant: Any, event: Any) -> Any:
        if isinstance(event, BookChange):
            replay(event)
        return render(variant, event)
    books: dict[str, tuple[dict[Any, Any], dict[Any, Any]]] = {}

    def replay(event: BookChange) -> None:
        if event.whole:
            books[event.symbol] = {}, {}
        if event.symbol not in books:
            return
        for side, changes in zip(books[event.symbol], (event.bids, event.asks)):
            for price, size in changes:
                side[price] = size
                if not size:
                    del side[price]
        bids, asks = books[event.symbol]
        truth[event.symbol, event.time] = sorted(bids.items(), reverse=True), sorted(asks.items())
    sim.wire.render = note                              # type: ignore[method-assign]
    stream = connect_to(sim, ["BTC-USD", "ETH-USD"], ["book"], AlpacaCrypto, number=Decimal)
    compared, wrong = [0], []

    def compare(event: Any) -> None:
        book = stream.store.orderbooks["alpaca-crypto"][event.symbol]
        if book["status"] == "live":
            # Of all that came in one message, a handler sees the end.
            true = truth.get((event.symbol.replace("-", "/"), book["timestamp"]))
            compared[0] += 1
            if true is None or (exact(book["bids"]), exact(book["asks"])) != true:
                wrong.append(event)
    stream.on(r"alpaca-crypto\.book\..+", compare, policy="inline")
    wait_subscribed(stream)
    for round_ in range(8):
        sim.advance(60)
        sim.reset_book("BTC/USD")
        sim.advance(20)
        if round_ % 3 == 2:
            sim.inject(Fault.RESET)
            wait_until(lambda: stream.status()["reconnects"] == (round_ + 1) // 3)
            wait_subscribed(stream)
    for symbol, true_symbol in (("BTC-USD", "BTC/USD"), ("ETH-USD", "ETH/USD")):
        def same() -> bool:
            book = stream.store.orderbook("alpaca-crypto", symbol)
            oracle = sim.market.book(true_symbol)
            return book["status"] == "live" and (exact(book["bids"]), exact(book["asks"])) == (
                oracle.bids, oracle.asks)
        wait_until(same, store=stream.store)
    assert wrong == [] and compared[0] > 800


def test_ticker_is_derived_from_trades_and_quotes(serve_alpaca: Any, connect_to: Any) -> None:
    sim = serve_alpaca(quote_lot=100)
    stream = connect_to(sim, ["AAPL"], ["ticker"], number=Decimal, quote_lot=100)
    wait_subscribed(stream)
    tickers = stream.store.tickers["alpaca"]
    sim.advance(20)
    sim.trade("AAPL", "101.25", 7)
    quote = sim.tape.last_quote("AAPL")
    wait_until(lambda: "AAPL" in tickers and tickers["AAPL"].last == Decimal("101.25"), store=stream.store)
    ticker = tickers["AAPL"]
    assert (ticker.last_size, ticker.bid, ticker.ask) == (7, quote.bid, quote.ask)
    assert (ticker.bid_size, ticker.ask_size) == (quote.bid_size, quote.ask_size)   # in shares


def test_many_changes_at_once_are_all_answered(serve_alpaca: Any, connect_to: Any) -> None:
    """Answers bear no number, and are the full list each time."""
    names = [f"S{a}{b}" for a in "ABCDEFGH" for b in "ABCDEFGH"]
    sim = serve_alpaca(symbols=names)
    stream = connect_to(sim, names[:1], ["trades"])
    wait_subscribed(stream)
    at_once(*(lambda part=names[n::8]: [stream.subscribe(name) for name in part]  # type: ignore[misc]
              for n in range(8)))
    at_once(*(lambda part=names[n::8]: [stream.unsubscribe(name) for name in part[::2]]  # type: ignore[misc]
              for n in range(8)))
    keep = {name for n in range(8) for name in names[n::8][1::2]} | {names[0]}
    wait_listed(sim, {f"trades:{name}" for name in keep}, stream)
    assert sim.accepted == 1 and stream.status()["notices"] == 0

"""Simulated Polygon, held against the documentation by a client that knows nothing of streams."""
from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest

from streams.sim.faults import Fault
from streams.sim.polygon import PolygonSim

from .stock_client import BINARY, Client, Gone, Refused, get

CONNECTED = {"ev": "status", "status": "connected", "message": "Connected Successfully"}
AUTHENTICATED = {"ev": "status", "status": "auth_success", "message": "authenticated"}
CALL, PUT = "O:NVDA261218C00200000", "O:NVDA261218P00180000"
NOT_AUTHORIZED = {"ev": "status", "status": "error", "message": "not authorized"}

Start = Callable[..., PolygonSim]
Message = dict[str, Any]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        def make(**options: Any) -> PolygonSim:
            sim = PolygonSim(**{"rate": 0, **options})
            stack.enter_context(sim)
            return sim
        yield make


@pytest.fixture
def sim(start: Start) -> PolygonSim:
    return start()


def connect(sim: PolygonSim, cluster: str = "stocks", key: str = "KEY") -> Client:
    client = Client(sim.port, "/" + cluster)
    assert client.one() == CONNECTED
    client.send({"action": "auth", "params": key})
    assert client.one() == AUTHENTICATED
    return client


def confirmed(*names: str, verb: str = "subscribed") -> list[Message]:
    return [{"ev": "status", "status": "success", "message": f"{verb} to: {name}"} for name in names]


def subscribe(client: Client, *names: str) -> None:
    client.send({"action": "subscribe", "params": ",".join(names)})
    assert [client.one() for _ in names] == confirmed(*names)


def data(sim: PolygonSim, conn: int = 1) -> list[Message]:
    return [message for message in sim.sent(conn) if message["ev"] != "status"]


# -- sessions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", [
    "stocks", "options", "indices", "forex", "crypto", "futures", "futures/cme", "futures/comex"])
def test_every_cluster_welcomes_and_authenticates(sim: PolygonSim, cluster: str) -> None:
    connect(sim, cluster).close()


@pytest.mark.parametrize("path", ["/", "/bonds", "/stocks/cme"])
def test_other_clusters_do_not_exist(sim: PolygonSim, path: str) -> None:
    with pytest.raises(Refused) as refused:
        Client(sim.port, path)
    assert refused.value.status == 404


def test_a_wrong_key_fails_and_is_dropped_without_a_close_frame(sim: PolygonSim) -> None:
    with Client(sim.port, "/stocks") as client:
        client.one()
        client.send({"action": "auth", "params": "WRONG"})
        assert client.one() == {"ev": "status", "status": "auth_failed",
                                "message": "authentication failed"}
        assert client.expect_end() is None


def test_who_does_not_authenticate_is_dropped(start: Start) -> None:
    with Client(start(auth_timeout=0.1).port, "/stocks") as client:
        client.one()
        assert client.one()["status"] == "auth_timeout"
        assert client.expect_end() is None


@pytest.mark.parametrize("message", [
    {"action": "subscribe", "params": "T.AAPL"}, "no json", [1], {"action": "auth"},
    {"action": "auth", "params": 7}])
def test_messages_out_of_place_are_errors(sim: PolygonSim, message: object) -> None:
    with Client(sim.port, "/stocks") as client:
        client.one()
        client.send(message)
        assert client.one()["status"] == "error"
        assert not sim.connections[0].subscriptions


def test_a_new_connection_ends_the_older_one(start: Start) -> None:
    sim = start(keys=("KEY", "OTHER"))
    with connect(sim) as old, connect(sim, "crypto"), connect(sim, key="OTHER") as other:
        subscribe(old, "T.AAPL")
        with connect(sim) as new:
            assert old.one() == {"ev": "status", "status": "max_connections",
                                 "message": "Maximum number of websocket connections exceeded."}
            assert old.expect_end() == 1008
            subscribe(new, "T.AAPL")
            subscribe(other, "T.AAPL")
            sim.trade("AAPL", 100)
            assert new.one()["p"] == other.one()["p"] == 100
        assert sim.violations == 1


def test_a_connection_that_has_ended_evicts_nobody(start: Start) -> None:
    sim = start(connection_limit=2)
    with connect(sim) as first:
        connect(sim).close()
        assert sim.wait_for(lambda: len(sim.connections) == 1, 5)
        with connect(sim):
            subscribe(first, "T.AAPL")
    assert sim.violations == 0


# -- subscriptions ---------------------------------------------------------------------------------


def test_each_subscription_is_confirmed_by_itself(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "T.AAPL", "Q.BRK.B", "AM.*", "T.UNKNOWN")
        assert sim.connections[0].subscriptions == {"T.AAPL", "Q.BRK.B", "AM.*", "T.UNKNOWN"}
        client.send({"action": "unsubscribe", "params": "T.AAPL, AM.*,T.NEVER"})
        assert [client.one(), client.one()] == confirmed("T.AAPL", "AM.*", verb="unsubscribed")
        assert sim.connections[0].subscriptions == {"Q.BRK.B", "T.UNKNOWN"}
        sim.advance(50)
        assert client.drain() == []             # nobody trades those


def test_duplicates_and_foreign_channels_are_not_answered(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "T.AAPL")
        client.send({"action": "subscribe", "params": "T.AAPL,XT.BTC-USD,V.I:SPX,T.NVDA,T.NVDA"})
        assert client.one() == confirmed("T.NVDA")[0]
        assert client.drain() == []


@pytest.mark.parametrize("denied, refused, allowed", [
    ({"Q"}, "Q.AAPL", "T.AAPL"), ({"stocks.LULD"}, "LULD.*", "T.*"), ({"stocks"}, "T.AAPL", None)])
def test_what_is_not_in_the_plan(start: Start, denied: set[str], refused: str,
                                 allowed: str | None) -> None:
    sim = start(denied=denied)
    with connect(sim) as client:
        client.send({"action": "subscribe", "params": refused})
        assert client.one() == NOT_AUTHORIZED
        assert not sim.connections[0].subscriptions
        if allowed is not None:
            subscribe(client, allowed)


@pytest.mark.parametrize("how, arrays", [
    ("array", [confirmed("T.AAPL", "Q.AAPL")]), ("joined", [confirmed("T.AAPL,Q.AAPL")])])
def test_other_ways_to_confirm(start: Start, how: str, arrays: list[list[Message]]) -> None:
    with connect(start(confirmations=how)) as client:
        client.send({"action": "subscribe", "params": "T.AAPL,Q.AAPL"})
        assert [client.array() for _ in arrays] == arrays


def test_confirmations_among_data(start: Start) -> None:
    sim = start(confirmations="mixed", rate=300.0)
    with connect(sim) as client:
        client.send({"action": "subscribe", "params": "Q.*"})
        client.until(lambda seen: len(seen) > 20)
        deadline = time.monotonic() + 10
        while not any({"Q", "status"} <= {m["ev"] for m in array} for array in client.arrays):
            assert time.monotonic() < deadline
            client.send({"action": "subscribe", "params": "T.AAPL"})
            client.until(lambda seen: confirmed("T.AAPL")[0] in seen)
            client.send({"action": "unsubscribe", "params": "T.AAPL"})
            client.until(lambda seen: confirmed("T.AAPL", verb="unsubscribed")[0] in seen)
        client.send({"action": "unsubscribe", "params": "Q.*"})
        client.until(lambda seen: confirmed("Q.*", verb="unsubscribed")[0] in seen)


# -- data ----------------------------------------------------------------------------------------------


def test_what_comes_is_what_was_sent_and_the_last_of_it_is_true(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "T.AAPL", "T.NVDA", "Q.AAPL")
        sim.advance(200)
        expected = data(sim)
        seen = client.until(lambda seen: len(seen) >= len(expected))
        assert seen == expected
        trade = [m for m in seen if m["ev"] == "T" and m["sym"] == "NVDA"][-1]
        made = {str(t.id): t for t in sim.tape.trades("NVDA")}
        if trade["i"] in made:                  # unless it was corrected or cancelled since
            assert (plain(trade["p"]), trade["t"]) == (
                made[trade["i"]].price, made[trade["i"]].time // 1_000_000)
        quote = [m for m in seen if m["ev"] == "Q"][-1]
        true = sim.tape.last_quote("AAPL")
        assert (plain(quote["bp"]), plain(quote["ap"]), quote["bs"] * 100, quote["t"]) == (
            true.bid, true.ask, true.bid_size, true.time // 1_000_000)


def plain(value: float) -> Decimal:
    return Decimal(str(value))


def test_a_wildcard_and_a_ticker_bring_a_message_once(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "T.*", "T.AAPL")
        sim.trade("AAPL", 100)
        sim.trade("MSFT", 200)
        seen = client.until(lambda seen: any(m["sym"] == "MSFT" for m in seen))
        assert [(m["sym"], m["p"]) for m in seen] == [("AAPL", 100), ("MSFT", 200)]


def test_arrays_mix_channels_and_symbols(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "T.*", "Q.*", "FMV.*")
        sim.advance(100)
        client.until(lambda seen: len(seen) >= len(data(sim)))
        arrays = client.arrays[5:]
        assert len({len(array) for array in arrays}) > 5
        assert any(len({(m["ev"], m["sym"]) for m in array}) > 3 for array in arrays)


def test_sequence_numbers_grow_with_gaps_and_times_are_milliseconds(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "Q.AAPL")
        sim.advance(100)
        seen = client.until(lambda seen: len(seen) >= len(data(sim)))
        numbers = [m["q"] for m in seen]
        assert numbers == sorted(set(numbers))
        assert any(b - a > 1 for a, b in zip(numbers, numbers[1:]))
        assert abs(seen[-1]["t"] - time.time() * 1000) < 60_000


@pytest.mark.parametrize("cluster, channels, keys", [
    ("stocks", ("T", "Q", "A", "AM", "LULD", "NOI", "FMV"), {
        "T": {"sym", "x", "i", "z", "p", "s", "t", "q", "ds"},
        "Q": {"sym", "bx", "bp", "bs", "ax", "ap", "as", "c", "i", "t", "q", "z"},
        "A": {"sym", "v", "av", "op", "vw", "o", "c", "h", "l", "a", "z", "s", "e", "dv", "dav"},
        "AM": {"sym", "v", "av", "op", "vw", "o", "c", "h", "l", "a", "z", "s", "e", "dv", "dav"},
        "LULD": {"T", "h", "l", "i", "z", "t", "q"},
        "NOI": {"T", "t", "at", "a", "i", "x", "o", "p", "b"}, "FMV": {"fmv", "sym", "t"}}),
    ("options", ("T", "Q", "A", "AM", "FMV"), {
        "T": {"sym", "x", "p", "s", "c", "t", "q"},
        "Q": {"sym", "bx", "ax", "bp", "ap", "bs", "as", "t", "q"},
        "A": {"sym", "v", "av", "op", "vw", "o", "c", "h", "l", "a", "z", "s", "e"},
        "AM": {"sym", "v", "av", "op", "vw", "o", "c", "h", "l", "a", "z", "s", "e"},
        "FMV": {"fmv", "sym", "t"}}),
    ("crypto", ("XT", "XQ", "XL2", "XA", "XAS", "FMV"), {
        "XT": {"pair", "p", "t", "s", "c", "i", "x", "r"},
        "XQ": {"pair", "bp", "bs", "ap", "as", "t", "x", "r"}, "XL2": {"pair", "b", "a", "t", "x", "r"},
        "XA": {"pair", "v", "vw", "z", "o", "c", "h", "l", "s", "e"},
        "XAS": {"pair", "v", "vw", "z", "o", "c", "h", "l", "s", "e"}, "FMV": {"fmv", "sym", "t"}}),
    ("forex", ("C", "CA", "CAS", "FMV"), {
        "C": {"p", "x", "a", "b", "t"}, "CA": {"pair", "o", "c", "h", "l", "v", "s", "e"},
        "CAS": {"pair", "o", "c", "h", "l", "v", "s", "e"}, "FMV": {"fmv", "sym", "t"}}),
    ("indices", ("V", "A", "AM"), {
        "V": {"val", "T", "t"}, "A": {"sym", "op", "o", "c", "h", "l", "s", "e"},
        "AM": {"sym", "op", "o", "c", "h", "l", "s", "e"}}),
    ("futures", ("T", "Q", "A", "AM"), {
        "T": {"sym", "p", "s", "t", "q"}, "Q": {"sym", "bp", "bs", "bt", "ap", "as", "at", "t"},
        "A": {"sym", "v", "dv", "o", "c", "h", "l", "n", "s", "e"},
        "AM": {"sym", "v", "dv", "o", "c", "h", "l", "n", "s", "e"}}),
])
def test_the_fields_of_every_channel(sim: PolygonSim, cluster: str, channels: tuple[str, ...],
                                     keys: dict[str, set[str]]) -> None:
    with connect(sim, cluster) as client:
        subscribe(client, *(f"{channel}.*" for channel in channels))
        sim.advance(300)
        if cluster == "stocks":
            sim.bands("AAPL")
            sim.imbalance("AAPL")
        sim.next_minute()
        seen = client.until(lambda seen: {m["ev"] for m in seen} == set(channels)
                            and len(seen) >= len(data(sim)))
        optional = {"c", "trfi", "trft"} if cluster == "stocks" else set()
        for message in seen:
            assert set(message) - {"ev"} - (optional if message["ev"] == "T" else set()) == (
                keys[message["ev"]]), message


def test_units_of_time(sim: PolygonSim) -> None:
    now = time.time()
    with connect(sim) as client, connect(sim, "options") as options:
        subscribe(client, "LULD.*", "NOI.*", "FMV.*")
        subscribe(options, "FMV.*")
        sim.bands("AAPL")
        sim.imbalance("AAPL")
        sim.advance(200)
        seen = client.until(lambda seen: {m["ev"] for m in seen} == {"LULD", "NOI", "FMV"})
        scale = {"LULD": 1e6, "NOI": 1e9, "FMV": 1e3}
        for message in seen:
            assert abs(message["t"] / scale[message["ev"]] - now) < 60
        assert abs(options.array()[0]["t"] / 1e9 - now) < 60


def test_halts_are_indicators_of_luld(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "LULD.AAPL", "T.AAPL")
        sim.halt("AAPL")
        sim.advance(20)
        sim.resume("AAPL")
        seen = client.until(lambda seen: len(seen) >= 2)
        assert [m["i"] for m in seen[:2]] == [[17], [18]]


def test_bars_of_seconds_and_minutes(sim: PolygonSim) -> None:
    sim.next_minute()
    with connect(sim) as client:
        subscribe(client, "A.NVDA", "AM.NVDA")
        for price, size in ((100, 10), (103, 20), (99, 30), (101, 40)):
            sim.trade("NVDA", price, size)
        sim.next_minute()
        seen = client.until(lambda seen: any(m["ev"] == "AM" for m in seen))
        bar = seen[-1]
        assert (bar["o"], bar["h"], bar["l"], bar["c"], bar["v"]) == (100, 103, 99, 101, 100)
        assert bar["e"] - bar["s"] == 60_000 and bar["s"] % 60_000 == 0
        assert bar["av"] >= bar["v"] and bar["z"] == 25
        seconds = [m for m in seen if m["ev"] == "A"]
        assert sum(m["v"] for m in seconds) == 100
        assert all(m["e"] - m["s"] == 1000 for m in seconds)


def test_no_bar_without_trades(start: Start) -> None:
    sim = start(symbols=("AAPL",))
    with connect(sim) as client:
        sim.next_minute()
        subscribe(client, "AM.*")
        sim.next_minute()
        assert client.drain() == []


def test_a_crypto_book_is_whole_in_every_message(start: Start) -> None:
    sim = start(symbols=("BTC-USD", "BTC-USD@23"))
    with connect(sim, "crypto") as client:
        subscribe(client, "XL2.BTC-USD")
        sim.advance(50)
        seen = client.until(lambda seen: len(seen) >= 100)
        for symbol, exchange in (("BTC-USD", 1), ("BTC-USD@23", 23)):
            last = [m for m in seen if m["x"] == exchange][-1]
            true = sim.market.book(symbol)
            assert last["pair"] == "BTC-USD"
            for key, side in (("b", true.bids), ("a", true.asks)):
                assert [(plain(price), plain(size)) for price, size in last[key]] == side


def test_clusters_have_their_own_symbols(sim: PolygonSim) -> None:
    with connect(sim, "options") as options, connect(sim, "futures") as futures:
        subscribe(options, "Q.*")
        subscribe(futures, "Q.*")
        sim.advance(30)
        assert {m["sym"] for m in options.drain()} == {CALL, PUT}
        assert {m["sym"] for m in futures.drain()} == {"ESZ6"}


def test_the_delayed_feed_is_fifteen_minutes_behind(start: Start) -> None:
    sim = start(delayed=True)
    with connect(sim) as client:
        subscribe(client, "T.AAPL")
        made = sim.trade("AAPL", 100)[-1]
        assert client.one()["t"] == (made.time - 900 * 10 ** 9) // 1_000_000


def test_a_burst_of_option_trades(sim: PolygonSim) -> None:
    with connect(sim, "options") as client:
        subscribe(client, "T.*")
        assert sim.burst(CALL, 100) == 100
        assert sim.burst("O:NVDA*", 1900) == 1900
        seen = client.until(lambda seen: len(seen) >= 2000)
        assert {m["sym"] for m in seen[:100]} == {CALL}
        assert sum(m["sym"] == PUT for m in seen) == 950


def test_a_client_that_does_not_read_is_ended(start: Start) -> None:
    sim = start(slow_limit=1 << 16)
    with connect(sim) as client:
        subscribe(client, "T.*")
        deadline = time.monotonic() + 30
        while not sim.violations:
            assert time.monotonic() < deadline
            sim.burst("NVDA", 5000)
        assert sim.wait_for(lambda: not sim.connections, 10)
        try:
            while True:
                client.frame()
        except Gone as gone:
            assert gone.code in (1008, None)


# -- faults --------------------------------------------------------------------------------------------


def test_a_refused_subscription(sim: PolygonSim) -> None:
    with connect(sim) as client:
        sim.inject(Fault.REFUSE_SUBSCRIPTION)
        client.send({"action": "subscribe", "params": "T.AAPL,T.NVDA"})
        assert [client.one(), client.one()] == [NOT_AUTHORIZED] * 2
        sim.clear_faults()
        subscribe(client, "T.AAPL")


def test_acknowledged_and_silent(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "Q.NVDA")
        sim.inject(Fault.ACK_SILENCE)
        subscribe(client, "Q.AAPL")
        sim.advance(50)
        assert {m["sym"] for m in client.drain()} == {"NVDA"}


@pytest.mark.parametrize("kind", [
    "invalid", "truncated", "types", "nan", "inf", "negative", "unknown", "nested", "utf8", "empty",
    "object", "time", "mixed", "binary"])
def test_garbage(sim: PolygonSim, kind: str) -> None:
    with connect(sim) as client:
        subscribe(client, "T.AAPL")
        sim.trade("AAPL", 100)
        good = client.one()
        sim.inject(Fault.GARBAGE(kind=kind))
        opcode, payload = client.frame()
        assert (opcode == BINARY) == (kind == "binary")
        decoded: Any = None
        try:
            decoded = json.loads(payload)
        except (ValueError, RecursionError):
            pass
        broken = {"invalid", "truncated", "nested", "utf8", "empty", "binary"}
        assert (decoded is None) == (kind in broken)
        if kind == "mixed":
            assert decoded[1] == good and len(decoded) == 3
        elif decoded is not None:
            assert decoded != [good]
        sim.inject(Fault.STALL)
        sim.clear_faults()
        assert client.one()["status"] == "info"


def test_skip_duplicate_and_reorder_strike_single_messages(sim: PolygonSim) -> None:
    with connect(sim) as client:
        subscribe(client, "T.AAPL")
        sim.inject(Fault.SKIP)
        prices = [sim.trade("AAPL", price)[-1].price for price in (101, 102)]
        sim.inject(Fault.DUPLICATE)
        sim.trade("AAPL", 103)
        sim.inject(Fault.REORDER)
        sim.trade("AAPL", 104)
        sim.trade("AAPL", 105)
        assert len(prices) == 2
        seen = client.until(lambda seen: len(seen) >= 5)
        assert [m["p"] for m in seen] == [102, 103, 103, 105, 104]


def test_a_status_on_demand(sim: PolygonSim) -> None:
    with connect(sim) as client:
        sim.send_status("force_disconnect", "go away")
        assert client.one() == {"ev": "status", "status": "force_disconnect", "message": "go away"}


# -- REST ----------------------------------------------------------------------------------------------

KEY = {"Authorization": "Bearer KEY"}


def test_option_contracts(sim: PolygonSim) -> None:
    status, body, _ = get(sim.port, f"/v3/reference/options/contracts/{CALL}?apiKey=KEY")
    assert status == 200 and body["status"] == "OK" and body["request_id"]
    assert body["results"] == {
        "ticker": CALL, "underlying_ticker": "NVDA", "contract_type": "call",
        "exercise_style": "american", "expiration_date": "2026-12-18", "shares_per_contract": 100,
        "strike_price": 200, "cfi": "OCASPS", "primary_exchange": "BATO"}
    listed = get(sim.port, "/v3/reference/options/contracts?underlying_ticker=NVDA", KEY)[1]["results"]
    assert [item["ticker"] for item in listed] == [CALL, PUT]


def test_last_trades_and_quotes(sim: PolygonSim) -> None:
    sim.advance(30)
    trade, quote = sim.tape.last_trade("AAPL"), sim.tape.last_quote("AAPL")
    found = get(sim.port, "/v2/last/trade/AAPL", KEY)[1]["results"]
    assert (found["T"], plain(found["p"]), found["s"], found["i"], found["t"]) == (
        "AAPL", trade.price, trade.size, str(trade.id), trade.time)
    found = get(sim.port, "/v2/last/nbbo/AAPL", KEY)[1]["results"]
    assert (plain(found["p"]), plain(found["P"]), found["t"]) == (quote.bid, quote.ask, quote.time)
    found = get(sim.port, "/v3/quotes/AAPL?limit=1&order=desc", KEY)[1]["results"]
    assert [(plain(item["bid_price"]), item["sip_timestamp"]) for item in found] == [
        (quote.bid, quote.time)]
    found = get(sim.port, "/v3/trades/AAPL?limit=2", KEY)[1]["results"]
    assert [item["sip_timestamp"] for item in found] == [
        t.time for t in reversed(sim.tape.trades("AAPL"))][:2]
    found = get(sim.port, f"/v2/last/trade/{CALL}", KEY)[1]["results"]
    assert plain(found["p"]) == sim.tape.last_trade(CALL).price
    found = get(sim.port, "/v1/last/crypto/BTC/USD", KEY)[1]
    assert plain(found["last"]["price"]) == sim.tape.last_trade("BTC-USD").price
    found = get(sim.port, "/v1/last_quote/currencies/EUR/USD", KEY)[1]
    assert plain(found["last"]["bid"]) == sim.tape.last_quote("EUR/USD").bid


def test_snapshots(sim: PolygonSim) -> None:
    sim.advance(30)
    sim.next_minute()
    base = "/v2/snapshot/locale/us/markets/stocks/tickers"
    one = get(sim.port, base + "/AAPL", KEY)[1]["ticker"]
    assert set(one) == {"ticker", "day", "min", "prevDay", "todaysChange", "todaysChangePerc", "updated",
                        "lastTrade", "lastQuote"}
    assert plain(one["lastTrade"]["p"]) == sim.tape.last_trade("AAPL").price
    many = get(sim.port, base + "?tickers=AAPL,NVDA", KEY)[1]
    assert [item["ticker"] for item in many["tickers"]] == ["AAPL", "NVDA"]
    base = "/v2/snapshot/locale/global/markets/"
    crypto = get(sim.port, base + "crypto/tickers/X:BTCUSD", KEY)[1]["ticker"]
    assert plain(crypto["lastTrade"]["p"]) == sim.tape.last_trade("BTC-USD").price
    forex = get(sim.port, base + "forex/tickers/C:EURUSD", KEY)[1]["ticker"]
    assert plain(forex["lastQuote"]["a"]) == sim.tape.last_quote("EUR/USD").ask
    book = get(sim.port, base + "crypto/tickers/X:BTCUSD/book", KEY)[1]["data"]
    true = sim.market.book("BTC-USD")
    assert [(plain(level["p"]), plain(level["x"]["1"])) for level in book["bids"]] == true.bids
    found = get(sim.port, f"/v3/snapshot?ticker.any_of=AAPL,{CALL},I:SPX,NONE", KEY)[1]["results"]
    assert {item["ticker"]: item.get("error") for item in found} == {
        "AAPL": None, CALL: None, "I:SPX": None, "NONE": "NOT_FOUND"}
    index = get(sim.port, "/v3/snapshot/indices?ticker.any_of=I:SPX", KEY)[1]["results"][0]
    assert index["ticker"] == "I:SPX" and index["value"] > 0
    chain = get(sim.port, "/v3/snapshot/options/NVDA", KEY)[1]["results"]
    assert [item["details"]["ticker"] for item in chain] == [CALL, PUT]
    option = get(sim.port, f"/v3/snapshot/options/NVDA/{PUT}", KEY)[1]["results"]
    assert plain(option["last_quote"]["bid"]) == sim.tape.last_quote(PUT).bid


@pytest.mark.parametrize("path, headers, status, word", [
    ("/v2/last/trade/AAPL", {}, 401, "ERROR"),
    ("/v2/last/trade/AAPL?apiKey=WRONG", {}, 401, "ERROR"),
    ("/v2/last/trade/AAPL", {"Authorization": "Bearer WRONG"}, 401, "ERROR"),
    ("/v2/last/trade/XYZ", KEY, 404, "NOT_FOUND"),
    ("/v3/reference/options/contracts/O:XYZ", KEY, 404, "NOT_FOUND"),
    ("/v2/last/trade/I:SPX", KEY, 404, "NOT_FOUND"),
    ("/v9/nothing", KEY, 404, "NOT_FOUND"),
    ("/v3/snapshot/options/NVDA", KEY, 403, "NOT_AUTHORIZED"),
])
def test_rest_errors(start: Start, path: str, headers: dict[str, str], status: int, word: str) -> None:
    found, body, _ = get(start(denied={"options"}).port, path, headers) if status == 403 else get(
        start().port, path, headers)
    assert (found, body["status"]) == (status, word)


def test_slow_look_ups_a_limit_and_planned_faults(start: Start) -> None:
    sim = start(rest_delay=1.0, rest_limit=(3, 60.0))
    path = f"/v3/reference/options/contracts/{CALL}"
    threads = [threading.Thread(target=get, args=(sim.port, path, KEY)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert (sim.max_in_flight, sim.in_flight, len(sim.requests)) == (3, 0, 3)
    status, body, headers = get(sim.port, path, KEY)
    assert (status, body["status"]) == (429, "ERROR") and int(headers["retry-after"]) <= 60
    sim.rest_delay, sim.rest_limit = 0.0, None
    sim.plan_rest(Fault.SNAPSHOT_500, Fault.SNAPSHOT_STALE(updates=3), Fault.SNAPSHOT_GARBAGE)
    assert get(sim.port, path, KEY)[0] == 500
    old = sim.tape.last_trade("AAPL", 3) if len(sim.tape.trades("AAPL")) > 3 else None
    status, body, _ = get(sim.port, "/v2/last/trade/AAPL", KEY)
    assert status == (200 if old else 404)
    if old:
        assert body["results"]["t"] == old.time
    with pytest.raises(ValueError):
        get(sim.port, path, KEY)


# -- life ----------------------------------------------------------------------------------------------


def test_the_same_seed_and_clock_make_the_same_bytes() -> None:
    runs = []
    for _ in range(2):
        ticks = iter(range(1_700_000_000_000_000_000, 2 ** 63, 1_234_567))
        with PolygonSim(rate=0, seed=9, clock=ticks.__next__) as sim, connect(sim) as client:
            subscribe(client, "T.*", "Q.*", "LULD.*")
            sim.advance(100)
            client.until(lambda seen: len(seen) >= len(data(sim)))
            runs.append(client.arrays)
    assert runs[0] == runs[1]


def test_stop_is_quick_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    sim = PolygonSim(rate=200.0)
    sim.start()
    with connect(sim) as client:
        subscribe(client, "Q.*")
        client.until(lambda seen: len(seen) > 20)
        begun = time.monotonic()
        assert sim.stop()
        assert time.monotonic() - begun < 1.0
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("options, text", [
    ({"symbols": "AAPL"}, "list"), ({"keys": "KEY"}, "list"), ({"confirmations": "never"}, "joined"),
    ({"denied": "options"}, "list")])
def test_mistakes_of_the_user(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PolygonSim(**options)

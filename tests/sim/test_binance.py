"""Simulated Binance: each rule of the documents, from a client's point of view."""
from __future__ import annotations

import json
import re
import struct
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from streams.sim import BinanceFuturesSim, BinanceSim, WebServer
from streams.sim.binance_wire import category_of
from streams.sim.connection import Connection

from .books import BinanceBook
from .client import CLOSE, PING, PONG, Client, Refused, get

DEPTH = "btcusdt@depth@100ms"


def opened(sim: WebServer, topics: int = 1, count: int = 1) -> Connection:
    """The newest of so many connections, once it has so many subscriptions."""
    assert sim.wait_for(lambda: len(sim.connections) >= count
                        and len(sim.connections[-1].subscriptions) >= topics, 10)
    return sim.connections[-1]


def closing(client: Client) -> tuple[int, str]:
    """Code and reason of the close frame that comes."""
    while (message := client.message()).opcode != CLOSE:
        pass
    return struct.unpack("!H", message.payload[:2])[0], message.payload[2:].decode()


class Clock:
    """A clock that tests move, in ms."""

    def __init__(self, now: int) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now * 1_000_000


# -- paths and envelopes -------------------------------------------------------------------------


@pytest.mark.parametrize("path, combined", [
    (f"/ws/{DEPTH}", False), (f"/stream?streams={DEPTH}", True)])
def test_streams_can_be_named_in_the_url(path: str, combined: bool) -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url, path) as client:
        opened(sim)
        sim.advance()
        event = client.json()
        if combined:
            assert set(event) == {"stream", "data"} and event["stream"] == DEPTH
            event = event["data"]
        assert event["e"] == "depthUpdate" and event["s"] == "BTCUSDT"


@pytest.mark.parametrize("path", ["/", "/nothing", "/stream/x", "/public/ws"])
def test_other_paths_are_not_found(path: str) -> None:
    with BinanceSim(rate=0) as sim, pytest.raises(Refused) as refused:
        Client(sim.url, path)
    assert refused.value.status == 404


def test_microseconds_where_asked_for() -> None:
    with BinanceSim(rate=0, clock=Clock(1_700_000_000_123)) as sim, \
            Client(sim.url, f"/stream?streams={DEPTH}&timeUnit=MICROSECOND") as micro, \
            Client(sim.url, f"/ws/{DEPTH}") as milli:
        opened(sim, count=2)
        sim.advance()
        assert micro.json()["data"]["E"] == 1_700_000_000_123_000
        assert milli.json()["E"] == 1_700_000_000_123


# -- control messages ----------------------------------------------------------------------------


def test_subscribe_list_and_unsubscribe() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url) as client:
        client.send({"method": "SUBSCRIBE", "params": [DEPTH, "ethusdt@trade"], "id": 1})
        assert client.json() == {"result": None, "id": 1}
        client.send({"method": "LIST_SUBSCRIPTIONS", "id": "abc"})
        assert client.json() == {"result": [DEPTH, "ethusdt@trade"], "id": "abc"}
        sim.advance()
        assert client.json()["e"] == "depthUpdate"
        client.send({"method": "UNSUBSCRIBE", "params": [DEPTH], "id": None})
        assert client.until(result=None, id=None)
        sim.advance(5, "BTCUSDT")
        assert client.silent(0.05)
        assert sim.connections[0].subscriptions == {"ethusdt@trade"}
        assert json.loads(sim.connections[0].received[0])["id"] == 1


def test_the_combined_property() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url, f"/ws/{DEPTH}") as client:
        client.send({"method": "GET_PROPERTY", "params": ["combined"], "id": 1})
        assert client.json() == {"result": False, "id": 1}
        client.send({"method": "SET_PROPERTY", "params": ["combined", True], "id": 2})
        assert client.json() == {"result": None, "id": 2}
        sim.advance(1, "BTCUSDT")
        assert client.json()["stream"] == DEPTH


@pytest.mark.parametrize("message, code", [
    ("{nonsense", 3), ("[]", 2), ({"method": "SHOUT", "id": 1}, 2),
    ({"method": "SUBSCRIBE", "params": "x", "id": 1}, 2),
    ({"method": "SUBSCRIBE", "params": [1], "id": 1}, 2),
    ({"method": "SUBSCRIBE", "params": ["x"], "id": 1.5}, 2),
    ({"method": "SUBSCRIBE", "params": ["x"], "id": "x" * 37}, 2),
    ({"method": "SET_PROPERTY", "params": ["colour", True], "id": 1}, 0),
    ({"method": "SET_PROPERTY", "params": ["combined", "yes"], "id": 1}, 1),
])
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_errors_have_the_codes_of_the_documents(message: Any, code: int, form: str) -> None:
    with BinanceSim(rate=0, error_form=form) as sim, Client(sim.url) as client:
        client.send(message)
        answer = client.json()
        error = answer["error"] if form == "nested" else answer
        assert error["code"] == code and error["msg"]
        assert sim.connections[0].subscriptions == set()


def test_no_more_than_1024_streams() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url) as client:
        client.send({"method": "SUBSCRIBE", "params": [f"x{n}@trade" for n in range(1024)],
                     "id": 1})
        assert client.json() == {"result": None, "id": 1}
        client.send({"method": "SUBSCRIBE", "params": ["y@trade"], "id": 2})
        assert client.json()["code"] == 4
        assert sim.violations == 1


@pytest.mark.parametrize("stream", ["nosuch@depth", "BTCUSDT@depth@100ms", "btcusdt@nonsense",
                                    "btcusdt@depth@5ms", "btcusdt@kline_7m", "btcusdt@depth7"])
def test_what_does_not_exist_is_acknowledged_and_silent(stream: str) -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url) as client:
        client.send({"method": "SUBSCRIBE", "params": [stream], "id": 1})
        assert client.json() == {"result": None, "id": 1}
        sim.advance(20)
        assert client.silent(0.05)


# -- limits and heart-beats ----------------------------------------------------------------------


@pytest.mark.parametrize("send", [
    lambda c: c.send({"method": "LIST_SUBSCRIPTIONS", "id": 1}),
    lambda c: c.send(b"", PING), lambda c: c.send(b"", PONG)])
def test_the_sixth_message_in_a_second_is_one_too_many(send: Callable[[Client], None]) -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url) as client:
        for _ in range(6):
            send(client)
        assert closing(client) == (1008, "Too many requests")
        assert sim.violations == 1


def test_five_messages_are_fine_and_the_limit_can_be_off() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url) as client:
        for number in range(5):
            client.send({"method": "LIST_SUBSCRIPTIONS", "id": number})
            client.until(id=number)
        assert sim.violations == 0
    with BinanceSim(rate=0, message_limit=None) as sim, Client(sim.url) as client:
        for number in range(50):
            client.send({"method": "LIST_SUBSCRIPTIONS", "id": number})
            client.until(id=number)


def test_a_pong_must_carry_the_pings_payload() -> None:
    options: dict[str, Any] = {"rate": 0, "ping_interval": 0.02, "pong_timeout": 0.2,
                               "message_limit": None}
    with BinanceSim(**options) as sim, Client(sim.url, answer_pings=False) as client:
        client.send(b"something else", PONG)
        assert closing(client) == (1008, "Pong timeout")
        assert client.pings and client.pings[0].isdigit()
    with BinanceSim(**options) as sim, Client(sim.url) as client:
        conn = opened(sim, 0)
        client.send({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        reader = threading.Thread(target=closing, args=(client,))
        reader.start()
        assert sim.wait_for(lambda: conn.pongs >= 20, 10)      # twice the time-out
        conn.close(1000)
        reader.join(10)


def test_a_connection_has_a_lifetime() -> None:
    with BinanceSim(rate=0, lifetime=0.05) as sim, Client(sim.url) as client:
        assert closing(client)[0] == 1001


def test_the_shutdown_notice() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url) as raw, Client(sim.url, "/stream") as wrapped:
        opened(sim, 0, 2)
        sim.shutdown_notice(close_after=0.05)
        assert raw.json()["e"] == "serverShutdown"
        notice = wrapped.json()
        assert notice["stream"] == "!serverShutdown" and notice["data"]["e"] == "serverShutdown"
        assert closing(raw)[0] == closing(wrapped)[0] == 1001


# -- the book ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sim_type", [BinanceSim, BinanceFuturesSim])
@pytest.mark.parametrize("lags", [{}, {"snapshot_lag": 8}, {"stream_lag": 5}])
@pytest.mark.parametrize("speed", ["@100ms", ""])
def test_snapshot_and_stream_lead_to_the_true_book(
        sim_type: type[BinanceSim], lags: dict[str, int], speed: str) -> None:
    futures = sim_type is BinanceFuturesSim
    path = "/public/ws/" if futures else "/ws/"
    with sim_type(rate=0, levels=100, **lags) as sim, \
            Client(sim.url, f"{path}ethusdt@depth{speed}") as client:
        opened(sim)
        sim.advance(40)
        events: list[Any] = []                  # a client keeps some, for snapshots that are old
        for round_ in range(2, 6):
            snapshot = get(sim.rest_url, f"{sim.api.prefix}/depth?symbol=ETHUSDT&limit=1000")
            book = BinanceBook(snapshot.value, futures)
            assert book.equals(sim.market.book("ETHUSDT", book.sequence))
            sim.advance(40)
            sent = 40 * round_ - sim.stream_lag
            unsent = sim.stream_lag + (0 if speed else sent % 10)
            end = sim.market["ETHUSDT"].ids_ago(unsent)[0]
            while not events or events[-1]["u"] < end:
                events.append(client.json())
            for event in events:
                assert book.apply(event)
                assert book.equals(sim.market.book("ETHUSDT", book.sequence))
            assert book.linked and book.sequence == end


def test_spot_events_follow_each_other_by_one() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url, f"/ws/{DEPTH}") as client:
        opened(sim)
        sim.advance(200)
        events = [client.json() for _ in range(200)]
        assert all(b["U"] == a["u"] + 1 for a, b in zip(events, events[1:]))
        assert any(event["u"] > event["U"] for event in events)     # several ids in one event
        assert all(re.fullmatch(r"\d+\.\d{8}", text) for event in events
                   for level in event["b"] + event["a"] for text in level)
        assert "pu" not in events[0] and "T" not in events[0]


def test_futures_events_follow_by_pu_only() -> None:
    with BinanceFuturesSim(rate=0) as sim, Client(sim.url, f"/public/ws/{DEPTH}") as client:
        opened(sim)
        sim.advance(200)
        events = [client.json() for _ in range(200)]
        assert all(b["pu"] == a["u"] for a, b in zip(events, events[1:]))
        assert not any(b["U"] == a["u"] + 1 for a, b in zip(events, events[1:]))
        assert {"T", "E", "s"} <= set(events[0])


def test_the_slow_stream_joins_ten_updates() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url, "/ws/btcusdt@depth") as client:
        opened(sim)
        sim.advance(50)
        events = [client.json() for _ in range(5)]
        assert all(b["U"] == a["u"] + 1 for a, b in zip(events, events[1:]))
        assert client.silent(0.05)


def test_a_lagging_snapshot_can_fall_into_an_event() -> None:
    with BinanceSim(rate=0, snapshot_lag=6, weight_limit=100_000) as sim, \
            Client(sim.url, f"/ws/{DEPTH}") as client:
        opened(sim)
        sim.advance(30)
        events = [client.json() for _ in range(30)]
        ids = {get(sim.rest_url, "/api/v3/depth?symbol=BTCUSDT").value["lastUpdateId"]
               for _ in range(60)}
        assert any(event["U"] <= ident < event["u"] for ident in ids for event in events)
        assert min(ids) >= events[-7]["u"] and max(ids) <= events[-1]["u"]


def test_a_snapshot_can_be_ahead_of_the_stream() -> None:
    with BinanceSim(rate=0, stream_lag=4) as sim, Client(sim.url, f"/ws/{DEPTH}") as client:
        opened(sim)
        sim.advance(10, "BTCUSDT")
        events = [client.json() for _ in range(6)]
        assert client.silent(0.05)
        ident = get(sim.rest_url, "/api/v3/depth?symbol=BTCUSDT").value["lastUpdateId"]
        assert ident > events[-1]["u"]


@pytest.mark.parametrize("sim_type, path", [
    (BinanceSim, "/ws/btcusdt@bookTicker"), (BinanceFuturesSim, "/public/ws/btcusdt@bookTicker")])
def test_book_tickers_are_the_true_top_at_their_id(sim_type: type[BinanceSim], path: str) -> None:
    with sim_type(rate=0) as sim, Client(sim.url, path) as client:
        opened(sim)
        sim.advance(100)
        for _ in range(20):
            tick = client.json()
            book = sim.market.book("BTCUSDT", tick["u"])
            assert (Decimal(tick["b"]), Decimal(tick["B"])) == book.bids[0]
            assert (Decimal(tick["a"]), Decimal(tick["A"])) == book.asks[0]
            assert ("e" in tick) == (sim_type is BinanceFuturesSim)


@pytest.mark.parametrize("count", [5, 10, 20])
def test_partial_books_are_the_top(count: int) -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url, f"/ws/btcusdt@depth{count}@100ms") as client:
        opened(sim)
        for _ in range(10):
            sim.advance()
            event = client.json()
            book = sim.market.book("BTCUSDT")
            assert event["lastUpdateId"] == book.sequence and set(event) == {
                "lastUpdateId", "bids", "asks"}
            assert [tuple(map(Decimal, level)) for level in event["bids"]] == book.bids[:count]
            assert [tuple(map(Decimal, level)) for level in event["asks"]] == book.asks[:count]


def test_partial_books_of_futures_are_depth_updates() -> None:
    with BinanceFuturesSim(rate=0) as sim, \
            Client(sim.url, "/public/ws/btcusdt@depth5@100ms") as client:
        opened(sim)
        sim.advance()
        event = client.json()
        assert event["e"] == "depthUpdate" and {"U", "u", "pu", "T"} <= set(event)
        assert len(event["b"]) == len(event["a"]) == 5


# -- trades, bars, tickers -----------------------------------------------------------------------


def test_trades_and_their_aggregates() -> None:
    with BinanceSim(rate=0) as sim, \
            Client(sim.url, "/stream?streams=btcusdt@trade/btcusdt@aggTrade") as client:
        opened(sim, 2)
        sim.advance(300)
        seen: dict[str, list[Any]] = {"trade": [], "aggTrade": []}
        while min(map(len, seen.values())) < 10:
            event = client.json()["data"]
            seen[event["e"]].append(event)
        trades, joined = seen["trade"], seen["aggTrade"]
        assert all(b["t"] == a["t"] + 1 for a, b in zip(trades, trades[1:]))
        assert all(b["a"] == a["a"] + 1 for a, b in zip(joined, joined[1:]))
        assert set(trades[0]) == {"e", "E", "s", "t", "p", "q", "T", "m", "M"}
        assert set(joined[0]) == {"e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M"}
        assert {trade["m"] for trade in trades} <= {True, False}
        recent = get(sim.rest_url, "/api/v3/trades?symbol=BTCUSDT&limit=1000").value
        known = {trade["id"]: trade for trade in recent}
        for trade in trades:
            rest = known[trade["t"]]
            assert (rest["price"], rest["qty"], rest["isBuyerMaker"]) == (
                trade["p"], trade["q"], trade["m"])


def test_bars_close_and_add_up() -> None:
    clock = Clock(1_700_000_000_000 // 60_000 * 60_000 + 1000)
    with BinanceSim(("BTCUSDT",), rate=0, clock=clock, slow_every=1) as sim, \
            Client(sim.url, "/stream?streams=btcusdt@kline_1m/btcusdt@trade") as client:
        opened(sim, 2)
        bars, trades = [], []
        for _ in range(3):
            sim.advance(60)
            clock.now += 60_000
        sim.advance()
        while len(bars) < 3:
            event = client.json()["data"]
            if event["e"] == "trade":
                trades.append(event)
            elif event["k"]["x"]:
                bars.append(event["k"])
        for bar in bars:
            assert bar["T"] == bar["t"] + 59_999 and bar["i"] == "1m" and bar["t"] % 60_000 == 0
            own = [trade for trade in trades if bar["t"] <= trade["T"] <= bar["T"]]
            prices = [Decimal(trade["p"]) for trade in own]
            assert bar["n"] == len(own) > 0
            assert (bar["f"], bar["L"]) == (own[0]["t"], own[-1]["t"])
            assert list(map(Decimal, (bar["o"], bar["h"], bar["l"], bar["c"]))) == [
                prices[0], max(prices), min(prices), prices[-1]]
            assert Decimal(bar["v"]) == sum(Decimal(trade["q"]) for trade in own)
            assert Decimal(bar["q"]) == sum(Decimal(trade["q"]) * Decimal(trade["p"])
                                            for trade in own)
            assert Decimal(bar["V"]) == sum(Decimal(trade["q"]) for trade in own if not trade["m"])


def test_a_bar_without_trades_has_no_ids() -> None:
    clock = Clock(1_700_000_000_000)
    with BinanceSim(("BTCUSDT",), rate=0, clock=clock, slow_every=1) as sim, \
            Client(sim.url, "/ws/btcusdt@kline_1s") as client:
        opened(sim)
        while True:
            clock.now += 1000
            sim.advance()
            bar = client.json()["k"]
            if not bar["n"]:
                break
        assert bar["f"] == bar["L"] == -1 and bar["o"] == bar["c"] and Decimal(bar["v"]) == 0


@pytest.mark.parametrize("sim_type, path", [
    (BinanceSim, "/ws/btcusdt@ticker"), (BinanceFuturesSim, "/market/ws/btcusdt@ticker")])
def test_tickers_agree_with_rest(sim_type: type[BinanceSim], path: str) -> None:
    futures = sim_type is BinanceFuturesSim
    with sim_type(rate=0, slow_every=1) as sim, Client(sim.url, path) as client:
        opened(sim)
        sim.advance(30)
        event = [client.json() for _ in range(30)][-1]
        rest = get(sim.rest_url, f"{sim.api.prefix}/ticker/24hr?symbol=BTCUSDT").value
        assert event["e"] == "24hrTicker"
        for short, long in (("c", "lastPrice"), ("h", "highPrice"), ("l", "lowPrice"),
                            ("v", "volume"), ("q", "quoteVolume"), ("n", "count"),
                            ("F", "firstId"), ("w", "weightedAvgPrice")):
            assert event[short] == rest[long]
        assert ("b" in event) == ("bidPrice" in rest) == (not futures)
        if not futures:
            assert Decimal(event["b"]) == sim.market.book("BTCUSDT").bids[0][0]


# -- futures' categories -------------------------------------------------------------------------


@pytest.mark.parametrize("stream, category", [
    ("btcusdt@depth@100ms", "public"), ("btcusdt@depth5", "public"),
    ("btcusdt@bookTicker", "public"), ("!bookTicker", "public"), ("btcusdt@aggTrade", "market"),
    ("btcusdt@kline_1m", "market"), ("btcusdt@ticker", "market"),
    ("!markPrice@arr@1s", "market")])
def test_each_stream_belongs_to_one_endpoint(stream: str, category: str) -> None:
    assert category_of(stream) == category


@pytest.mark.parametrize("path, delivered", [
    ("/public/stream", {"depth@100ms"}), ("/market/stream", {"aggTrade", "kline_1m"}),
    ("/stream", {"depth@100ms"}), ("/private/stream", set())])
def test_streams_of_another_category_are_acknowledged_and_silent(
        path: str, delivered: set[str]) -> None:
    names = ["btcusdt@depth@100ms", "btcusdt@aggTrade", "btcusdt@kline_1m"]
    with BinanceFuturesSim(rate=0) as sim, Client(sim.url, path) as client:
        client.send({"method": "SUBSCRIBE", "params": names, "id": 1})
        assert client.json() == {"result": None, "id": 1}
        assert sim.connections[0].subscriptions == set(names)
        sim.advance(50, "BTCUSDT")
        client.send({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        seen = set()
        while "id" not in (event := client.json()):
            seen.add(event["stream"].partition("@")[2])
        assert seen == delivered


# -- REST ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit, levels, weight", [(5, 5, 5), (100, 100, 5), (500, 500, 25),
                                                   (1000, 600, 50), (5000, 600, 250)])
def test_the_order_book_and_its_weight(limit: int, levels: int, weight: int) -> None:
    with BinanceSim(rate=0, levels=600) as sim:
        answer = get(sim.rest_url, f"/api/v3/depth?symbol=BTCUSDT&limit={limit}")
        true = sim.market.book("BTCUSDT")
        book = BinanceBook(answer.value)
        assert book.sequence == true.sequence and book.equals(true, limit)
        assert len(answer.value["bids"]) == min(levels, len(true.bids))
        assert answer.headers["x-mbx-used-weight-1m"] == str(weight) == str(sim.used_weight)
        assert [(r.path, r.query["limit"]) for r in sim.requests] == [
            ("/api/v3/depth", str(limit))]


@pytest.mark.parametrize("target, code", [
    ("/api/v3/depth", -1102), ("/api/v3/depth?symbol=NOSUCH", -1121),
    ("/api/v3/depth?symbol=btcusdt", -1121), ("/api/v3/depth?symbol=BTCUSDT&limit=x", -1130),
    ("/api/v3/trades?symbol=BTCUSDT&limit=0", -1130),
    ("/api/v3/exchangeInfo?symbol=NOSUCH", -1121),
    ("/api/v3/ticker/24hr?symbols=nonsense", -1101)])
def test_bad_requests_are_named(target: str, code: int) -> None:
    with BinanceSim(rate=0) as sim:
        answer = get(sim.rest_url, target)
        assert answer.status == 400 and answer.value["code"] == code


def test_futures_take_only_their_limits() -> None:
    with BinanceFuturesSim(rate=0) as sim:
        assert get(sim.rest_url, "/fapi/v1/depth?symbol=BTCUSDT&limit=7").status == 400
        book = get(sim.rest_url, "/fapi/v1/depth?symbol=BTCUSDT&limit=1000").value
        assert {"lastUpdateId", "E", "T", "bids", "asks"} == set(book)
        assert sim.used_weight == 20
        assert get(sim.rest_url, "/api/v3/depth?symbol=BTCUSDT").status == 404


def test_too_much_weight_is_refused_and_then_banned() -> None:
    with BinanceSim(rate=0, weight_limit=60) as sim:
        target = "/api/v3/depth?symbol=BTCUSDT&limit=1000"
        assert get(sim.rest_url, target).status == 200
        answer = get(sim.rest_url, target)
        assert answer.status == 429 and 1 <= int(answer.headers["retry-after"]) <= 61
        statuses = [get(sim.rest_url, target).status for _ in range(12)]
        assert statuses[-1] == 418 and set(statuses) == {429, 418}


def test_exchange_info_and_the_small_endpoints() -> None:
    with BinanceSim(("BTCUSDT", "ETHBTC"), rate=0) as sim:
        info = get(sim.rest_url, "/api/v3/exchangeInfo").value
        assert [(s["symbol"], s["baseAsset"], s["quoteAsset"], s["status"])
                for s in info["symbols"]] == [("BTCUSDT", "BTC", "USDT", "TRADING"),
                                              ("ETHBTC", "ETH", "BTC", "TRADING")]
        assert info["rateLimits"][0]["limit"] == 6000
        filters = {f["filterType"]: f for f in info["symbols"][1]["filters"]}
        assert filters["PRICE_FILTER"]["tickSize"] == "0.00000001"
        one = get(sim.rest_url, '/api/v3/exchangeInfo?symbols=["ETHBTC"]').value
        assert [s["symbol"] for s in one["symbols"]] == ["ETHBTC"]
        assert get(sim.rest_url, "/api/v3/ping").value == {}
        assert get(sim.rest_url, "/api/v3/time").value["serverTime"] > 1_600_000_000_000
        tops = get(sim.rest_url, "/api/v3/ticker/bookTicker").value
        assert [top["symbol"] for top in tops] == ["BTCUSDT", "ETHBTC"]
        assert Decimal(tops[1]["bidPrice"]) == sim.market.book("ETHBTC").bids[0][0]
        assert len(get(sim.rest_url, "/api/v3/ticker/24hr").value) == 2
        assert get(sim.rest_url, "/api/v3/nothing").status == 404


# -- the market's time ---------------------------------------------------------------------------


def test_a_rate_makes_updates_by_itself() -> None:
    with BinanceSim(rate=500) as sim, Client(sim.url, f"/ws/{DEPTH}") as client:
        events = [client.json() for _ in range(100)]
        assert all(b["U"] == a["u"] + 1 for a, b in zip(events, events[1:]))


def test_without_a_rate_nothing_happens_by_itself() -> None:
    with BinanceSim(rate=0) as sim, Client(sim.url, f"/ws/{DEPTH}") as client:
        opened(sim)
        before = sim.market.book("BTCUSDT").sequence
        assert client.silent(0.1)
        assert sim.market.book("BTCUSDT").sequence == before
        sim.advance(3, "btcusdt")
        assert sim.market.book("BTCUSDT").sequence > before
        with pytest.raises(LookupError, match="no symbol"):
            sim.advance(1, "NOSUCH")


def test_advance_waits_for_clients_that_read() -> None:
    with BinanceSim(("BTCUSDT",), rate=0) as sim, Client(sim.url, f"/ws/{DEPTH}") as client:
        opened(sim)
        mover = threading.Thread(target=sim.advance, args=(20_000,))
        mover.start()
        last = client.json()["u"]
        for _ in range(19_999):
            event = client.json()
            assert event["U"] == last + 1
            last = event["u"]
        mover.join(10)
        assert last == sim.market.book("BTCUSDT").sequence and sim.slow_clients == 0


def test_snapshots_are_answered_while_the_market_runs_at_full_speed() -> None:
    with BinanceSim(("BTCUSDT",), rate=0, weight_limit=10 ** 6) as sim:
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                sim.advance(100)
        mover = threading.Thread(target=run)
        mover.start()
        try:
            for _ in range(20):
                book = BinanceBook(get(sim.rest_url,
                                       "/api/v3/depth?symbol=BTCUSDT&limit=1000").value)
                assert book.equals(sim.market.book("BTCUSDT", book.sequence))
        finally:
            stop.set()
            mover.join(10)


@pytest.mark.parametrize("wrong", [{"rate": -1}, {"snapshot_lag": -1}, {"stream_lag": -1},
                                   {"error_form": "round"}, {"slow_every": 0}, {"levels": 1},
                                   {"symbols": "BTCUSDT"}])
def test_mistakes_fail_at_the_call(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        BinanceSim(**wrong)

"""Polygon's conversation: login, subscriptions, statuses, wrong options, secrets, REST."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from streams.errors import AuthenticationFailed, ConfigurationError
from streams.events import Ticker
from streams.venue import (
    Acked, BookSnapshot, Failed, Notice, Ready, Reconnect, Refused, Reply, Unsubscribed,
)
from streams.venues.polygon import MARKETS, PolygonVenue

from .polygon_frames import KEY, array, polygon
from .stock_tools import NOW, listen, one, signals


def status(name: str, text: str) -> bytes:
    return json.dumps([{"ev": "status", "status": name, "message": text}]).encode()


def admitted(**options: Any) -> PolygonVenue:
    """A venue whose login was answered."""
    venue = polygon(**options)
    assert signals(venue, status("auth_success", "authenticated")) == [Ready()]
    return venue


def confirmed(*topics: str) -> bytes:
    return array(*[status("success", f"subscribed to: {topic}")[1:-1] for topic in topics])


def asked(venue: PolygonVenue, *topics: str) -> list[str]:
    """The parameters of the subscribe frames."""
    frames = [json.loads(frame) for frame in venue.subscribe(topics)]
    assert all(frame["action"] == "subscribe" for frame in frames)
    return [frame["params"] for frame in frames]


def test_login() -> None:
    venue = polygon()
    assert list(venue.opened(NOW)) == [] and venue.headers() == {}
    login = one(signals(venue, status("connected", "Connected Successfully")))
    assert isinstance(login, Reply) and login.secret and KEY not in repr(login)
    assert json.loads(login.frame) == {"action": "auth", "params": KEY}
    assert signals(venue, status("auth_success", "authenticated")) == [Ready()]
    assert signals(venue, status("auth_success", "authenticated")) == []


def test_a_wrong_key_ends_it() -> None:
    failed = one(signals(polygon(), status("auth_failed", f"authentication failed for {KEY}")))
    assert isinstance(failed, Failed) and isinstance(failed.error, AuthenticationFailed)
    assert KEY not in str(failed.error) and "authentication failed" in str(failed.error)


@pytest.mark.parametrize("name, text", [("error", "not authorized"), ("not_authorized", "no such plan")])
def test_a_key_that_may_not_come_in_ends_it(name: str, text: str) -> None:
    venue = polygon()
    signals(venue, status("connected", "Connected Successfully"))
    failed = one(signals(venue, status(name, text)))
    assert isinstance(failed, Failed) and isinstance(failed.error, AuthenticationFailed)
    assert text in str(failed.error)


@pytest.mark.parametrize("name, pause", [
    ("max_connections", 10.0), ("force_disconnect", 10.0), ("auth_timeout", 1.0)])
def test_what_wants_a_new_connection(name: str, pause: float) -> None:
    text = "Maximum number of websocket connections exceeded."
    reconnect = one(signals(polygon(), status(name, text)))
    assert isinstance(reconnect, Reconnect) and not reconnect.planned and reconnect.after >= pause
    assert text in reconnect.reason


def test_two_programs_with_one_key_evict_each_other_less_and_less() -> None:
    second = 10 ** 9
    now, venue, pauses = second, polygon(), []
    for lasted in (10, 10, 10, 10, 599, 601, 10):
        venue.opened(now)
        now += lasted * second
        [(_, reconnect)] = venue.receive(status("max_connections", "too many"), now)
        pauses.append(reconnect.after)
        venue, previous = polygon(), venue
        venue.inherit(previous)
    assert pauses == [15, 60, 240, 240, 240, 15, 60]
    assert "another program" in reconnect.reason


@pytest.mark.parametrize("name, text", [
    ("whatever", "new"), ("error", "something else"), ("success", "fine"), ("error", "not authorized"),
    ("not_authorized", "")])
def test_other_statuses_are_counted(name: str, text: str) -> None:
    assert signals(admitted(), status(name, text)) == [Notice(f"polygon {name}: {text}")]


def test_subscribe_and_unsubscribe() -> None:
    venue = polygon()
    # The first of each kind goes alone, the others follow when it is confirmed.
    assert asked(venue, "T.AAPL", "Q.AAPL", "T.BRK.B", "T.MSFT", "T.*") == ["T.AAPL", "Q.AAPL", "T.*"]
    acked, reply = signals(venue, confirmed("T.AAPL"))
    assert acked == Acked(["T.AAPL"])
    assert json.loads(reply.frame) == {"action": "subscribe", "params": "T.BRK.B,T.MSFT"}
    assert signals(venue, confirmed("T.BRK.B", "T.MSFT")) == [Acked(["T.BRK.B"]), Acked(["T.MSFT"])]
    assert signals(venue, confirmed("Q.AAPL,T.*")) == [Acked(["Q.AAPL", "T.*"])]
    assert asked(venue, "T.A", "T.B", "Q.A", "Q.B") == ["T.A,T.B", "Q.A,Q.B"]
    frame = json.loads(one(venue.unsubscribe(["T.AAPL", "Q.AAPL"])))
    assert frame == {"action": "unsubscribe", "params": "T.AAPL,Q.AAPL"}
    assert signals(venue, status("success", "unsubscribed to: T.AAPL")) == [Unsubscribed(["T.AAPL"])]


def test_confirmations_may_come_with_data() -> None:
    venue = polygon()
    route, = listen(venue, ("AAPL", "trades"))
    asked(venue, "T.AAPL")
    trade = b'{"ev":"T","sym":"AAPL","p":1,"s":1,"t":1536036818784}'
    items = list(venue.receive(array(trade, confirmed("T.AAPL")[1:-1], trade), NOW))
    assert [who for who, _ in items] == [route, venue.session, route]


class Cluster:
    """Answers like the vendor, in each of the ways that are imaginable.

    Args:
        denied: Channels, or topics, that are not in the plan.
        per: ``request`` or ``subscription``: how often "not authorized" is said.
        late: Confirmations come after the refusals of the same request, not in order.
    """

    def __init__(self, denied: set[str], per: str, late: bool) -> None:
        self.denied, self.per, self.late = denied, per, late
        self.have: set[str] = set()
        self.requests = 0

    def answer(self, frame: bytes | str) -> list[bytes]:
        self.requests += 1
        no, yes, order = status("error", "not authorized"), [], []
        for topic in json.loads(frame)["params"].split(","):
            if topic in self.have:
                continue
            if {topic, topic.partition(".")[0]} & self.denied:
                order += [no] if self.per == "subscription" or no not in order else []
            else:
                self.have.add(topic)
                yes.append(confirmed(topic))
                order.append(yes[-1])
        return [a for a in order if a is no] + yes if self.late else order


def batches(venue: PolygonVenue, topics: list[str]) -> list[list[str]]:
    """What a stream asks for in one go."""
    size = venue.limits.batch
    return [topics[start:start + size] for start in range(0, len(topics), size)]


def converse(venue: PolygonVenue, cluster: Cluster, *calls: list[str]) -> tuple[set[str], set[str]]:
    """What ends up confirmed and refused. Calls are made without waiting for answers, and what stays
    unanswered is asked for again, as a stream does."""
    live: set[str] = set()
    refused: set[str] = set()
    wanted = [topic for call in calls for topic in call]
    frames = [frame for call in calls for frame in venue.subscribe(call)]
    for _ in range(6):
        while frames:
            for raw in cluster.answer(frames.pop(0)):
                for signal in signals(venue, raw):
                    if isinstance(signal, Reply):
                        frames.append(signal.frame)
                    elif isinstance(signal, Acked):
                        live.update(signal.topics)
                    elif isinstance(signal, Refused):
                        assert not signal.transient
                        refused.update(signal.topics)
        open_ = [topic for topic in wanted if topic not in live and topic not in refused]
        frames = list(venue.subscribe(open_))
    return live, refused


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("per", ["request", "subscription"])
@pytest.mark.parametrize("denied", [set(), {"T"}, {"Q"}, {"A", "T"}, {"T", "Q", "A"}])
def test_a_channel_outside_the_plan_is_refused_and_no_other(denied: set[str], per: str, late: bool) -> None:
    venue, cluster = admitted(), Cluster(denied, per, late)
    topics = [f"{channel}.S{n}" for n in range(40) for channel in ("T", "Q", "A")]
    live, refused = converse(venue, cluster, topics[:50], topics[50:])
    assert refused == {topic for topic in topics if topic.partition(".")[0] in denied}
    assert live == set(topics) - refused


def test_a_channel_outside_the_plan_costs_one_request() -> None:
    venue, cluster = admitted(), Cluster({"Q"}, "request", False)
    converse(venue, cluster, [f"{channel}.S{n}" for n in range(40) for channel in ("T", "Q")])
    assert cluster.requests == 3


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("per", ["request", "subscription"])
@pytest.mark.parametrize("market", ["stocks", "indices"])
def test_single_symbols_outside_the_plan(market: str, per: str, late: bool) -> None:
    venue = admitted(market=market)
    topics = [f"AM.I:S{n}" for n in range(20)]
    denied = {"AM.I:S3", "AM.I:S4", "AM.I:S19"}
    live, refused = converse(venue, Cluster(denied, per, late), *batches(venue, topics))
    assert (live, refused) == (set(topics) - denied, denied)


def test_each_index_is_asked_for_alone_and_counts_for_the_message_limit() -> None:
    venue = admitted(market="indices")
    topics = [f"V.I:A{n}" for n in range(40)]
    for topic, batch in zip(topics, batches(venue, topics)):
        assert [json.loads(frame)["params"] for frame in venue.subscribe(batch)] == [topic]
    assert admitted().limits.batch > 1


def test_what_is_asked_for_alone_counts_for_the_message_limit() -> None:
    """After a refusal without a name, each of what stayed unanswered is a message of its own."""
    topics = [f"T.A{number}" for number in range(300)]
    venue = admitted()
    venue.subscribe(topics[:1])
    signals(venue, confirmed(topics[0]))
    venue.subscribe(topics[1:])
    signals(venue, status("error", "not authorized"))
    runs = list(venue.batches([*topics[1:], "T.B", "Q.B"]))
    assert sorted(topic for run in runs for topic in run) == sorted([*topics[1:], "T.B", "Q.B"])
    assert all(len(venue.subscribe(run)) <= 2 for run in runs)


def test_a_wildcard_may_be_refused_where_symbols_are_not() -> None:
    venue = admitted()
    cluster = Cluster({"T.*"}, "request", False)
    assert converse(venue, cluster, ["T.*", "T.A", "T.B"]) == ({"T.A", "T.B"}, {"T.*"})


def test_a_refusal_that_belongs_to_nothing_is_counted() -> None:
    venue = admitted()
    asked(venue, "T.AAPL")
    signals(venue, confirmed("T.AAPL"))
    assert isinstance(one(signals(venue, status("error", "not authorized"))), Notice)


def test_what_gets_no_answer_is_not_blamed() -> None:
    venue = admitted()
    asked(venue, "T.AAPL")              # repeated, say: never answered
    asked(venue, "A.AAPL")
    asked(venue, "Q.AAPL")
    assert signals(venue, confirmed("A.AAPL")) == [Acked(["A.AAPL"])]
    assert one(signals(venue, status("error", "Not authorized."))).topics == ["Q.AAPL"]


def test_what_was_unsubscribed_meanwhile_is_not_asked_for() -> None:
    venue = admitted()
    assert asked(venue, "T.A", "T.B", "T.C") == ["T.A"]
    venue.unsubscribe(["T.A", "T.B"])
    acked, reply = signals(venue, confirmed("T.A"))
    assert acked == Acked(["T.A"]) and json.loads(reply.frame)["params"] == "T.C"


def test_confirmations_in_another_spelling() -> None:
    venue = admitted(market="forex")
    route = venue.route("EUR-USD", "quotes")
    asked(venue, *route.topics)
    for spelling in ("C.EUR/USD", "C.EUR-USD", "C.C:EURUSD"):
        assert signals(venue, confirmed(spelling)) == [Acked(["C.EUR/USD"])]


def test_large_requests_are_cut() -> None:
    venue = admitted(market="options")
    topics = [f"T.O:{'X' * 60}{n:08d}" for n in range(venue.limits.batch)]
    assert asked(venue, *topics) == topics[:1]
    acked, *replies = signals(venue, confirmed(topics[0]))
    params = [topics[0], *[json.loads(reply.frame)["params"] for reply in replies]]
    assert len(params) > 2 and all(len(text) < 16 * 1024 for text in params)
    assert [topic for text in params for topic in text.split(",")] == topics


# -- secrets and mistakes -----------------------------------------------------------------------------


def test_missing_key() -> None:
    with pytest.raises(ConfigurationError, match="api_key=.*POLYGON_API_KEY or MASSIVE_API_KEY$"):
        PolygonVenue()
    assert PolygonVenue.secret_env == ()


def test_the_key_never_shows() -> None:
    venue = polygon(market="crypto", exchange_id=1)
    found = signals(venue, status("error", f"{KEY} is odd"))
    for thing in (venue, found, venue.ticker_request("BTC-USD"), venue.orderbook_request("BTC-USD")):
        assert thing is not None and KEY not in repr(thing)


def test_hosts_and_clusters() -> None:
    assert polygon().url == "wss://socket.massive.com" == PolygonVenue.url
    assert polygon(feed="delayed").url == "wss://delayed.massive.com"
    assert [polygon(market=market).endpoint("trades") for market in MARKETS] == [
        "/stocks", "/options", "/crypto", "/forex", "/indices", "/futures"]
    exchange = polygon(market="futures/cme")
    assert exchange.endpoint("trades") == "/futures/cme" and exchange.market == "futures" and exchange.signed


@pytest.mark.parametrize("wrong, says", [
    ({"market": "bonds"}, "stocks, options, crypto, forex, indices, futures, futures/cme, "),
    ({"market": "stocks/cme"}, "has no market 'stocks/cme'"), ({"market": "futures/"}, "has no market"),
    ({"feed": "slow"}, "realtime, delayed"), ({"quote_lot": -1}, "quote_lot"),
    ({"exchange": 1}, "market, feed, exchange_id, quote_lot"), ({"api_key": "a b"}, "white space")])
def test_wrong_options(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        polygon(**wrong)


@pytest.mark.parametrize("market, symbol, channel, says", [
    ("stocks", "AAPL", "book", "trades, quotes, ticker, bars:1s, bars:1m, fmv, values, lulds, imbalances"),
    ("forex", "EUR-USD", "trades", "quotes, ticker, bars:1s, bars:1m"),
    ("stocks", "AAPL", "bars:5m", "bars:1s"),
    ("crypto", "BTC-USD", "book", "exchange_id"), ("options", "O:*X", "trades", "wildcard"),
    ("stocks", "A L", "trades", "no symbol"),
    ("crypto", "BTCUSD", "trades", "'BTCUSD' is no symbol of polygon, market='crypto'; .* like 'BTC-USD'"),
    ("crypto", "X:BTCUSD", "trades", "'X:BTCUSD' .* 'BTC-USD'"), ("crypto", "BTC-", "trades", "'BTC-USD'"),
    ("forex", "EURUSDT", "quotes", "'BTC/USD'"), ("indices", "I:SPX", "lulds", "values")])
def test_wrong_routes(market: str, symbol: str, channel: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        polygon(market=market).route(symbol, channel)


def test_no_wildcard_for_books() -> None:
    with pytest.raises(ConfigurationError, match="wildcard"):
        polygon(market="crypto", exchange_id=1).route("*", "book")


# -- REST -----------------------------------------------------------------------------------------------


def test_rest_ticker_of_a_stock() -> None:
    venue = polygon(quote_lot=100)
    request = venue.ticker_request("AAPL")
    assert request is not None and venue.rest_headers() == {"Authorization": f"Bearer {KEY}"}
    assert request.path == "/v2/snapshot/locale/us/markets/stocks/tickers/AAPL"
    body = {"status": "OK", "ticker": {
        "day": {"c": 160.315, "h": 166.2, "l": 159.8, "o": 161.84, "v": 68840127, "vw": 162.7124},
        "lastQuote": {"P": 159.99, "S": 5, "p": 159.98, "s": 3, "t": 1651251948407646487},
        "lastTrade": {"c": None, "i": "121351", "p": 159.99, "s": 200, "t": 1651251948294080343, "x": 12},
        "min": {"av": 1}, "ticker": "AAPL", "todaysChange": -3.65, "updated": 1651251948294080343}}
    assert venue.ticker_answer("AAPL", json.dumps(body).encode(), NOW) == Ticker(
        exchange="polygon", symbol="AAPL", timestamp=1_651_251_948_407_646_487, received=NOW, last=159.99,
        last_size=200.0, bid=159.98, bid_size=300.0, ask=159.99, ask_size=500.0, open=161.84, high=166.2,
        low=159.8, volume=68840127.0, source="rest")


@pytest.mark.parametrize("number", [float, Decimal])
def test_rest_ticker_between_two_sessions(number: Any) -> None:
    zeros = b'{"o":0,"h":0,"l":0,"c":0,"v":0,"vw":0}'
    body = (b'{"status":"OK","ticker":{"ticker":"CHKP","day":%b,"lastTrade":{"p":200.15,"s":5,'
            b'"t":1786362120000000000},"min":%b,"updated":0}}' % (zeros, zeros))
    ticker = polygon(number=number).ticker_answer("CHKP", body, NOW)
    assert (ticker.open, ticker.high, ticker.low, ticker.volume) == (None, None, None, 0)
    body = b'{"results":[{"ticker":"I:SPX","value":3822.5,"session":{"open":0,"high":0,"low":0}}]}'
    ticker = polygon(market="indices", number=number).ticker_answer("I:SPX", body, NOW)
    assert (ticker.last, ticker.open, ticker.high, ticker.low) == (3822.5, None, None, None)


def test_rest_ticker_of_a_currency_pair() -> None:
    venue = polygon(market="forex", number=Decimal)
    request = venue.ticker_request("EUR-USD")
    assert request is not None
    assert request.path == "/v2/snapshot/locale/global/markets/forex/tickers/C:EURUSD"
    body = (b'{"status":"OK","ticker":{"ticker":"C:EURUSD","lastQuote":{"a":0.11870,'
            b'"b":0.11868,"t":1651251948407,"x":48},"updated":1651251948407,"todaysChange":-0.5}}')
    ticker = venue.ticker_answer("EUR-USD", body, NOW)
    assert (str(ticker.bid), str(ticker.ask), ticker.last) == ("0.11868", "0.11870", None)


@pytest.mark.parametrize("market, symbol, native, result, last", [
    ("options", "NCLH221014C00005000", "O:NCLH221014C00005000", {
        "last_quote": {"ask": 21.25, "ask_size": 110, "bid": 20.9, "bid_size": 172,
                       "last_updated": 1636573458756383500, "midpoint": 21.075},
        "last_trade": {"price": 0.05, "sip_timestamp": 1675280958783136800, "size": 2},
        "session": {"change": -1, "high": 7.01, "low": 5.42, "open": 6.7, "volume": 67}}, 0.05),
    ("indices", "I:SPX", "I:SPX", {"value": 3822.39, "session": {"open": 3827.38}}, 3822.39)])
def test_rest_ticker_from_the_unified_snapshot(
        market: str, symbol: str, native: str, result: dict[str, Any], last: float) -> None:
    venue = polygon(market=market)
    request = venue.ticker_request(symbol)
    assert request is not None
    assert (request.path, request.params) == ("/v3/snapshot", {"ticker.any_of": native})
    missing = {"error": "NOT_FOUND", "message": "Ticker not found.", "ticker": "TSLAAPL"}
    body = json.dumps({"results": [missing, {"ticker": native, **result}], "status": "OK"}).encode()
    ticker = venue.ticker_answer(symbol, body, NOW)
    assert (ticker.symbol, ticker.last, ticker.source) == (symbol, last, "rest")
    if market == "options":
        assert (ticker.bid, ticker.ask_size, ticker.open, ticker.timestamp) == (
            20.9, 110.0, 6.7, 1_675_280_958_783_136_800)


def test_rest_book_of_one_exchange() -> None:
    venue = polygon(market="crypto", exchange_id=1)
    request = venue.orderbook_request("BTC-USD")
    assert request is not None
    assert request.path == "/v2/snapshot/locale/global/markets/crypto/tickers/X:BTCUSD/book"
    body = json.dumps({"status": "OK", "data": {
        "askCount": 593.1, "asks": [{"p": 16304.5, "x": {"2": 1}}, {"p": 16305, "x": {"1": 3, "2": 1}}],
        "bids": [{"p": 16303.17, "x": {"1": 2}}, {"p": 16302.94, "x": {"1": 0.02859424, "6": 0.023455}}],
        "spread": -4849.17, "ticker": "X:BTCUSD", "updated": 1605295074162}}).encode()
    assert venue.orderbook_answer("BTC-USD", body, NOW) == BookSnapshot(
        0, [(16303.17, 2.0), (16302.94, 0.02859424)], [(16305.0, 3.0)], 1_605_295_074_162_000_000)
    with pytest.raises(ValueError):
        polygon(market="crypto", exchange_id=9).orderbook_answer("BTC-USD", body, NOW)


def test_where_there_is_no_rest() -> None:
    assert polygon(market="futures").ticker_request("ESZ6") is None
    assert polygon().ticker_request("*") is None
    assert polygon().orderbook_request("AAPL") is None
    assert polygon(market="crypto").orderbook_request("BTC-USD") is None


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", b'{"ticker":null}', b'{"ticker":{}}', b'{"ticker":{"lastTrade":{"p":-1}}}',
    b'{"results":[]}', b'{"status":"NOT_FOUND","message":"Ticker not found."}',
    b'{"data":{"bids":[],"asks":[]}}'])
def test_rest_answers_without_an_answer(body: bytes) -> None:
    for market in ("stocks", "options", "crypto"):
        with pytest.raises(ValueError):
            polygon(market=market).ticker_answer("A", body, NOW)
    with pytest.raises(ValueError):
        polygon(market="crypto", exchange_id=1).orderbook_answer("A-USD", body, NOW)

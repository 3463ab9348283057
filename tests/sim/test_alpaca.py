"""Simulated Alpaca, held against the documentation by a client that knows nothing of streams."""
from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest

from streams.sim import msgpack
from streams.sim.alpaca import AlpacaSim
from streams.sim.alpaca_messages import rfc3339
from streams.sim.faults import Fault

from .stock_client import BINARY, TEXT, Client, Refused, get

CONNECTED = {"T": "success", "msg": "connected"}
AUTHENTICATED = {"T": "success", "msg": "authenticated"}
HEADERS = {"APCA-API-KEY-ID": "KEY", "APCA-API-SECRET-KEY": "SECRET"}
AUTH = {"action": "auth", "key": "KEY", "secret": "SECRET"}
CALL, PUT = "NVDA261218C00200000", "NVDA261218P00180000"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")

Start = Callable[..., AlpacaSim]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:
        def make(**options: Any) -> AlpacaSim:
            sim = AlpacaSim(**{"rate": 0, **options})
            stack.enter_context(sim)
            return sim
        yield make


@pytest.fixture
def sim(start: Start) -> AlpacaSim:
    return start()


def connect(sim: AlpacaSim, path: str = "/v2/iex", **headers: str) -> Client:
    """A client that is authenticated by headers."""
    client = Client(sim.port, path, {**HEADERS, **headers})
    assert client.one() == CONNECTED
    assert client.one() == AUTHENTICATED
    return client


def unpack(payload: bytes) -> Any:
    return msgpack.unpack(payload)


def subscribe(client: Client, **channels: list[str]) -> dict[str, Any]:
    client.send({"action": "subscribe", **channels})
    return client.one()


def error(code: int, text: str) -> dict[str, Any]:
    return {"T": "error", "code": code, "msg": text}


# -- authentication ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [
    "/v2/iex", "/v2/sip", "/v2/delayed_sip", "/v2/test", "/v1beta1/boats", "/v1beta1/overnight",
    "/v1beta3/crypto/us", "/v1beta3/crypto/us-1", "/v1beta3/crypto/eu-1", "/v1beta1/news",
    "/v1beta1/opra", "/v1beta1/indicative"])
def test_every_endpoint_welcomes_and_authenticates(sim: AlpacaSim, path: str) -> None:
    with Client(sim.port, path) as client:
        assert client.one() == CONNECTED
        client.send(AUTH)
        assert client.one() == AUTHENTICATED


def test_other_paths_do_not_exist(sim: AlpacaSim) -> None:
    with pytest.raises(Refused) as refused:
        Client(sim.port, "/v2/nasdaq")
    assert refused.value.status == 404


@pytest.mark.parametrize("headers", [
    HEADERS,
    {"Authorization": "Basic " + base64.b64encode(b"KEY:SECRET").decode()},
    {"Authorization": "Bearer TOKEN"}])
def test_authentication_by_headers(start: Start, headers: dict[str, str]) -> None:
    with Client(start(tokens={"TOKEN": True}).port, "/v2/iex", headers) as client:
        assert client.one() == CONNECTED
        assert client.one() == AUTHENTICATED


def test_a_wrong_key_in_headers_is_402_and_a_message_may_still_follow(sim: AlpacaSim) -> None:
    with Client(sim.port, "/v2/iex", {**HEADERS, "APCA-API-SECRET-KEY": "WRONG"}) as client:
        assert client.one() == CONNECTED
        assert client.one() == error(402, "auth failed")
        client.send(AUTH)
        assert client.one() == AUTHENTICATED


@pytest.mark.parametrize("request_, code", [
    ({"action": "auth", "key": "KEY", "secret": "WRONG"}, 402),
    ({"action": "auth", "key": "NOBODY", "secret": "SECRET"}, 402),
    ({"action": "auth", "key": "KEY", "secret": ""}, 402),
    ({"action": "auth", "key": "oauth", "secret": "UNKNOWN"}, 402),
    ({"action": "auth", "key": "oauth", "secret": "NARROW"}, 411),
    ({"action": "auth", "key": "KEY"}, 400),
    ({"action": "subscribe", "trades": ["AAPL"]}, 401),
    ({"action": "unsubscribe", "trades": ["AAPL"]}, 401),
    ({"action": "sing"}, 400),
    ([1, 2], 400),
    ("no json", 400),
])
def test_errors_before_authentication(start: Start, request_: object, code: int) -> None:
    sim = start(tokens={"TOKEN": True, "NARROW": False})
    with Client(sim.port, "/v2/iex") as client:
        assert client.one() == CONNECTED
        client.send(request_)
        assert client.one()["code"] == code


def test_oauth_and_access_tokens_by_message(start: Start) -> None:
    sim = start(tokens={"TOKEN": True}, connection_limit=2)
    for key in ("oauth", "access_token"):
        with Client(sim.port, "/v2/iex") as client:
            client.one()
            client.send({"action": "auth", "key": key, "secret": "TOKEN"})
            assert client.one() == AUTHENTICATED


def test_authenticating_twice_is_403(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        client.send(AUTH)
        assert client.one() == error(403, "already authenticated")
        assert subscribe(client, trades=["AAPL"])["trades"] == ["AAPL"]


def test_who_does_not_authenticate_gets_404_and_is_dropped(start: Start) -> None:
    with Client(start(auth_timeout=0.1).port, "/v2/iex") as client:
        assert client.one() == CONNECTED
        assert client.one() == error(404, "auth timeout")
        assert client.expect_end() == 1000


def test_a_feed_outside_the_plan_is_409(start: Start) -> None:
    sim = start(denied={"sip", "opra"})
    with Client(sim.port, "/v2/sip", HEADERS) as client:
        assert client.one() == CONNECTED
        assert client.one() == error(409, "insufficient subscription")
    connect(sim, "/v2/iex").close()
    assert get(sim.port, "/v2/stocks/snapshots?symbols=AAPL&feed=sip", HEADERS)[0] == 403


# -- the connection limit --------------------------------------------------------------------------


def test_a_second_connection_is_406_until_the_first_has_closed(sim: AlpacaSim) -> None:
    first = connect(sim)
    with Client(sim.port, "/v2/iex", HEADERS) as second:
        assert second.one() == CONNECTED
        assert second.one() == error(406, "connection limit exceeded")
        assert sim.violations == 1
        connect(sim, "/v1beta3/crypto/us").close()          # another endpoint has its own
        first.close()
        assert sim.wait_for(lambda: len(sim.connections) == 1, 5)
        second.send(AUTH)
        assert second.one() == AUTHENTICATED


def test_an_unclean_end_keeps_the_slot_for_a_while(start: Start) -> None:
    sim = start(slot_hold=0.3)
    client = connect(sim)
    vanished = time.monotonic()
    client.vanish()
    assert sim.wait_for(lambda: not sim.connections, 5)
    with Client(sim.port, "/v2/iex") as client:
        client.one()
        client.send(AUTH)
        answer = client.one()
        while answer != AUTHENTICATED:
            assert answer["code"] == 406
            assert time.monotonic() < vanished + 10
            client.send(AUTH)
            answer = client.one()
        assert time.monotonic() >= vanished + 0.3


def test_handshakes_that_come_too_fast_are_429(start: Start) -> None:
    sim = start(handshake_limit=(2, 60.0))
    for _ in range(2):
        Client(sim.port, "/v2/iex").vanish()
    with pytest.raises(Refused) as refused:
        Client(sim.port, "/v2/iex")
    assert refused.value.status == 429
    assert sim.violations == 1


# -- subscriptions ---------------------------------------------------------------------------------


def test_subscriptions_add_up_and_answers_are_the_full_list(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        assert subscribe(client, trades=["AAPL"], quotes=["AMD", "CLDR"], bars=["*"]) == {
            "T": "subscription", "trades": ["AAPL"], "quotes": ["AMD", "CLDR"], "bars": ["*"],
            "updatedBars": [], "dailyBars": [], "statuses": [], "lulds": [], "imbalances": [],
            "corrections": ["AAPL"], "cancelErrors": ["AAPL"]}
        answer = subscribe(client, trades=["NVDA", "AAPL"], statuses=["*"], lulds=["NVDA"])
        assert answer["trades"] == answer["corrections"] == answer["cancelErrors"] == ["AAPL", "NVDA"]
        assert (answer["quotes"], answer["statuses"], answer["lulds"]) == (["AMD", "CLDR"], ["*"], ["NVDA"])
        client.send({"action": "unsubscribe", "bars": ["*"], "trades": ["AAPL", "XYZ"]})
        answer = client.one()
        assert (answer["trades"], answer["bars"], answer["quotes"]) == (["NVDA"], [], ["AMD", "CLDR"])
        assert sim.connections[0].subscriptions == {
            "trades:NVDA", "quotes:AMD", "quotes:CLDR", "statuses:*", "lulds:NVDA"}


@pytest.mark.parametrize("path, channels, code", [
    ("/v2/iex", {"trades": ["aapl"]}, 400),
    ("/v2/iex", {"trades": ["BTC/USD"]}, 400),
    ("/v2/iex", {"trades": "AAPL"}, 400),
    ("/v2/iex", {"trades": [7]}, 400),
    ("/v2/iex", {"corrections": ["AAPL"]}, 400),
    ("/v2/iex", {"songs": ["AAPL"]}, 400),
    ("/v2/iex", {}, 400),
    ("/v2/iex", {"orderbooks": ["AAPL"]}, 410),
    ("/v2/iex", {"news": ["*"]}, 410),
    ("/v1beta3/crypto/us", {"trades": ["AAPL"]}, 400),
    ("/v1beta3/crypto/us", {"statuses": ["BTC/USD"]}, 410),
    ("/v1beta1/news", {"trades": ["AAPL"]}, 410),
])
def test_what_can_not_be_subscribed(sim: AlpacaSim, path: str, channels: dict[str, Any],
                                    code: int) -> None:
    with connect(sim, path) as client:
        client.send({"action": "subscribe", **channels})
        assert client.one()["code"] == code
        assert sim.connections[0].subscriptions == set()


def test_beyond_the_symbol_limit_nothing_changes(start: Start) -> None:
    sim = start(symbol_limit=3)
    with connect(sim) as client:
        assert subscribe(client, trades=["AAPL", "NVDA"], quotes=["AAPL"])["quotes"] == ["AAPL"]
        assert subscribe(client, quotes=["NVDA"]) == error(405, "symbol limit exceeded")
        assert subscribe(client, trades=["*"])["code"] == 405
        assert sim.violations == 2
        answer = subscribe(client, bars=["*", "NVDA", "AMD"])        # bars are not counted
        assert (answer["trades"], answer["quotes"]) == (["AAPL", "NVDA"], ["AAPL"])
        client.send({"action": "unsubscribe", "trades": ["NVDA"]})
        client.one()
        assert subscribe(client, quotes=["NVDA"])["quotes"] == ["AAPL", "NVDA"]


def test_control_messages_come_alone_even_while_data_flows(start: Start) -> None:
    sim = start(rate=500.0)
    with connect(sim) as client:
        client.send({"action": "subscribe", "quotes": ["*"]})
        for name in ("AAPL", "NVDA", "AMD"):
            client.send({"action": "subscribe", "trades": [name]})
        client.until(lambda seen: len(seen) > 200 and sum(m["T"] == "subscription" for m in seen) == 4)
        for array in client.arrays:
            if any(message["T"] in ("subscription", "success", "error") for message in array):
                assert len(array) == 1


# -- data ----------------------------------------------------------------------------------------------


def only(sim: AlpacaSim, conn: int = 1) -> list[dict[str, Any]]:
    """The data that was sent to a connection."""
    return [message for message in sim.sent(conn) if "S" in message]


def test_what_comes_is_what_was_sent_and_the_last_of_it_is_true(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, trades=["AAPL", "NVDA"], quotes=["AAPL"])
        sim.advance(200)
        expected = only(sim)
        seen = client.until(lambda seen: len(seen) >= len(expected))
        assert seen == expected
        assert {message["S"] for message in seen if message["T"] == "q"} == {"AAPL"}
        quote = [message for message in seen if message["T"] == "q"][-1]
        true = sim.tape.last_quote("AAPL")
        assert (Decimal(str(quote["bp"])), Decimal(str(quote["ap"])), quote["t"]) == (
            true.bid, true.ask, rfc3339(true.time))
        assert (quote["bs"] * 100, quote["as"] * 100) == (true.bid_size, true.ask_size)
        stands = apply_trades(seen, "NVDA")
        assert stands == [(t.exchange, t.id, t.price, int(t.size))
                          for t in sim.tape.trades("NVDA")][-len(stands):]


def apply_trades(messages: list[dict[str, Any]], symbol: str) -> list[tuple[Any, ...]]:
    """Trades with their corrections and cancellations applied, as the documentation says."""
    kept: list[tuple[Any, ...]] = []
    for m in messages:
        if m["S"] != symbol:
            continue
        if m["T"] == "t":
            kept.append((m["x"], m["i"], Decimal(str(m["p"])), m["s"]))
        elif m["T"] == "c":
            old = (m["x"], m["oi"], Decimal(str(m["op"])), m["os"])
            if old in kept:
                kept[kept.index(old)] = (m["x"], m["ci"], Decimal(str(m["cp"])), m["cs"])
        elif m["T"] == "x":
            gone = (m["x"], m["i"], Decimal(str(m["p"])), m["s"])
            if gone in kept:
                kept.remove(gone)
    return kept


def test_arrays_mix_types_and_symbols_and_sizes_differ(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, trades=["*"], quotes=["*"])
        sim.advance(100)
        client.until(lambda seen: len(seen) >= len(only(sim)))
        arrays = client.arrays[3:]
        assert len({len(array) for array in arrays}) > 5
        assert any(len({(m["T"], m["S"]) for m in array}) > 3 for array in arrays)
        assert {m["S"] for array in arrays for m in array} == {"AAPL", "NVDA"}


def test_the_fields_of_stock_messages_are_those_of_the_documentation(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, trades=["AAPL"], quotes=["AAPL"], bars=["AAPL"], updatedBars=["AAPL"],
                  dailyBars=["AAPL"], statuses=["AAPL"], lulds=["AAPL"], imbalances=["AAPL"])
        sim.trade("AAPL", "126.55", 1)
        sim.quote("AAPL", "87.66", "87.68", 400)
        sim.correct("AAPL", "126.5")
        sim.cancel("AAPL", "E")
        sim.trade("AAPL", "127")
        sim.halt("AAPL")
        sim.resume("AAPL")
        sim.bands("AAPL")
        sim.imbalance("AAPL")
        sim.next_minute()
        sim.trade("AAPL", 200, 50, late=61.0)
        seen = client.until(lambda seen: any(m["T"] == "u" for m in seen))
        keys = {m["T"]: set(m) - {"T", "S"} for m in seen}
        assert keys == {
            "t": set("ixpsczt"), "q": {"bx", "bp", "bs", "ax", "ap", "as", "c", "z", "t"},
            "b": {"o", "h", "l", "c", "v", "n", "vw", "t"}, "u": {"o", "h", "l", "c", "v", "n", "vw", "t"},
            "d": {"o", "h", "l", "c", "v", "n", "vw", "t"},
            "c": {"x", "oi", "op", "os", "oc", "ci", "cp", "cs", "cc", "z", "t"}, "x": set("ixpsazt"),
            "s": {"sc", "sm", "rc", "rm", "z", "t"}, "l": set("udizt"), "i": set("pzt")}
        trade = seen[0]
        assert (trade["p"], trade["s"], trade["S"]) == (126.55, 1, "AAPL")
        assert trade["c"][0] == "@" and "I" in trade["c"]           # an odd lot
        assert (seen[1]["bp"], seen[1]["ap"], seen[1]["bs"]) == (87.66, 87.68, 4)
        assert (seen[2]["oi"], seen[2]["op"], seen[2]["cp"]) == (trade["i"], 126.55, 126.5)
        assert (seen[3]["i"], seen[3]["p"], seen[3]["a"]) == (seen[2]["ci"], 126.5, "E")
        assert [m["sc"] for m in seen if m["T"] == "s"] == ["H", "T"]
        assert all(list(m)[0] == "T" for m in seen)
        assert all(RFC3339.fullmatch(m["t"]) for m in seen)


def test_timestamps_have_up_to_nine_digits_and_no_needless_ones(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, quotes=["*"])
        sim.advance(300)
        client.until(lambda seen: len(seen) >= len(only(sim)))
        digits = {len(m["t"].partition(".")[2]) for array in client.arrays for m in array if "t" in m}
        assert {4, 7, 10} <= digits             # three, six and nine, and the Z
        assert not any(re.search(r"\.\d*0Z", m["t"]) for a in client.arrays for m in a if "t" in m)
    assert rfc3339(1_614_008_744_000_000_000) == "2021-02-22T15:45:44Z"
    assert rfc3339(1_614_008_744_208_000_000) == "2021-02-22T15:45:44.208Z"
    assert rfc3339(1_614_008_744_000_000_001) == "2021-02-22T15:45:44.000000001Z"


def test_events_of_one_symbol_have_times_of_their_own(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta3/crypto/us") as client:
        subscribe(client, trades=["BTC/USD"], quotes=["BTC/USD"], orderbooks=["BTC/USD"])
        sim.advance(200)
        seen = client.until(lambda seen: len(seen) >= len(only(sim)))
        times = [m["t"] for m in seen[1:]]
        assert len(set(times)) == len(times)


def test_bars_are_made_of_the_trades(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        sim.next_minute()
        subscribe(client, trades=["NVDA"], bars=["NVDA"], updatedBars=["NVDA"], dailyBars=["NVDA"])
        for price, size in ((100, 10), (103, 20), (99, 30), (101, 40)):
            sim.trade("NVDA", price, size)
        sim.next_minute()
        sim.trade("NVDA", 110, 100, late=10.0)     # belongs to the minute before
        sim.cancel("NVDA")
        sim.next_minute()
        seen = client.until(lambda seen: [m["T"] for m in seen].count("u") == 2)
        bar = next(m for m in seen if m["T"] == "b")
        assert (bar["o"], bar["h"], bar["l"], bar["c"], bar["v"], bar["n"]) == (100, 103, 99, 101, 100, 4)
        assert bar["vw"] == pytest.approx((1000 + 2060 + 2970 + 4040) / 100)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00Z", bar["t"])
        late, back = (m for m in seen if m["T"] == "u")
        assert late["t"] == back["t"] == bar["t"]
        assert (late["h"], late["v"], late["n"]) == (110, 200, 5)
        assert (back["h"], back["v"], back["n"]) == (103, 100, 4)
        day = next(m for m in seen if m["T"] == "d")
        assert day["t"].endswith("T00:00:00Z") and day["v"] >= 100


def test_nothing_is_traded_during_a_halt(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, trades=["AAPL"], quotes=["AAPL"], statuses=["AAPL"])
        sim.halt("AAPL")
        sim.advance(50)
        assert [m["T"] for m in client.drain()] == ["s"]
        assert sim.tape.halted("AAPL")
        sim.resume("AAPL")
        sim.advance(50)
        assert {m["T"] for m in client.drain()} >= {"s", "q"}


def test_the_test_feed_has_its_own_symbol(sim: AlpacaSim) -> None:
    with connect(sim, "/v2/test") as client:
        subscribe(client, trades=["*"], quotes=["*"])
        sim.advance(50)
        assert {m["S"] for m in client.drain()} == {"FAKEPACA"}


def test_the_delayed_feed_is_fifteen_minutes_behind(sim: AlpacaSim) -> None:
    with connect(sim) as now, connect(sim, "/v2/delayed_sip") as delayed:
        for client in (now, delayed):
            subscribe(client, trades=["AAPL"])
        made = sim.trade("AAPL", 100)[-1]
        assert now.one()["t"] == rfc3339(made.time)
        assert delayed.one()["t"] == rfc3339(made.time - 900 * 10 ** 9)


def test_news(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta1/news") as client:
        assert subscribe(client, news=["AAPL"]) == {"T": "subscription", "news": ["AAPL"]}
        sim.news("Only about NVDA", ["NVDA"])
        sim.news("Broad news", ["NVDA", "AAPL"])
        story = client.one()
        assert (story["T"], story["headline"], story["symbols"]) == ("n", "Broad news", ["NVDA", "AAPL"])
        assert set(story) == {"T", "id", "headline", "summary", "author", "created_at", "updated_at", "url",
                              "content", "symbols", "source"}
        subscribe(client, news=["*"])
        sim.news("Of no symbol", [])
        assert client.one()["headline"] == "Of no symbol"
        found = get(sim.port, "/v1beta1/news?symbols=AAPL", HEADERS)[1]["news"]
        assert [item["headline"] for item in found] == ["Broad news"]


# -- crypto --------------------------------------------------------------------------------------------


class Rebuilt:
    """A book made of messages, by the rules of the documentation."""

    def __init__(self) -> None:
        self.sides: dict[str, dict[Decimal, Decimal]] | None = None

    def apply(self, message: dict[str, Any]) -> None:
        if message.get("r"):
            self.sides = {"b": {}, "a": {}}
        assert self.sides is not None, "a change before the whole book"
        for key, side in self.sides.items():
            for level in message[key]:
                price, size = Decimal(str(level["p"])), Decimal(str(level["s"]))
                side[price] = size
                if not size:
                    del side[price]

    def levels(self) -> tuple[list[tuple[Decimal, Decimal]], list[tuple[Decimal, Decimal]]]:
        assert self.sides is not None
        return (sorted(self.sides["b"].items(), reverse=True), sorted(self.sides["a"].items()))


def test_a_book_begins_whole_and_its_changes_lead_to_the_true_one(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta3/crypto/us") as client:
        sim.advance(10)
        answer = subscribe(client, orderbooks=["BTC/USD", "ETH/USD"])
        assert answer["orderbooks"] == ["BTC/USD", "ETH/USD"] and "statuses" not in answer
        books = {"BTC/USD": Rebuilt(), "ETH/USD": Rebuilt()}
        for _ in range(3):
            sim.advance(100)
            for message in client.drain():
                books[message["S"]].apply(message)
            for symbol, book in books.items():
                true = sim.market.book(symbol)
                assert book.levels() == (true.bids, true.asks)
        assert sum("r" in m for m in only(sim)) == 2
        assert any(level["s"] == 0 for m in only(sim) for level in m["b"])


def test_a_reset_book_is_whole_again(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta3/crypto/us") as client:
        subscribe(client, orderbooks=["BTC/USD"])
        client.one()
        sim.advance(20)
        client.drain()
        sim.reset_book("BTC/USD")
        book = Rebuilt()
        message = client.one()
        assert message["r"] is True
        book.apply(message)
        true = sim.market.book("BTC/USD")
        assert book.levels() == (true.bids, true.asks)


def test_only_a_new_subscription_brings_the_whole_book(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta3/crypto/us") as client:
        subscribe(client, orderbooks=["BTC/USD"])
        assert client.one()["r"] is True
        subscribe(client, orderbooks=["BTC/USD"])
        assert client.drain() == []
        client.send({"action": "unsubscribe", "orderbooks": ["BTC/USD"]})
        assert client.one()["orderbooks"] == []
        subscribe(client, orderbooks=["*"])
        assert {(m["S"], m["r"]) for m in (client.one(), client.one())} == {
            ("BTC/USD", True), ("ETH/USD", True)}


def test_crypto_trades_and_quotes(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta3/crypto/us") as client:
        subscribe(client, trades=["BTC/USD"], quotes=["BTC/USD"], bars=["BTC/USD"])
        sim.advance(200)
        sim.next_minute()
        seen = client.until(lambda seen: any(m["T"] == "b" for m in seen))
        keys = {m["T"]: set(m) - {"T", "S"} for m in seen}
        assert keys["t"] == {"p", "s", "t", "i", "tks"}
        assert keys["q"] == {"bp", "bs", "ap", "as", "t"}
        assert {m["tks"] for m in seen if m["T"] == "t"} == {"B", "S"}
        assert all(m["i"] > 2 ** 53 for m in seen if m["T"] == "t")
        last = [m for m in seen if m["T"] == "t"][-1]
        true = sim.tape.last_trade("BTC/USD")
        assert (Decimal(str(last["p"])), Decimal(str(last["s"])), last["i"]) == (
            true.price, true.size, true.id)


# -- options -------------------------------------------------------------------------------------------


def options_client(sim: AlpacaSim, path: str = "/v1beta1/indicative") -> Client:
    client = Client(sim.port, path, {**HEADERS, "Content-Type": "application/msgpack"}, unpack)
    assert client.one() == CONNECTED
    assert client.one() == AUTHENTICATED
    return client


def test_options_are_messagepack_with_times_to_the_nanosecond(sim: AlpacaSim) -> None:
    with options_client(sim) as client:
        client.send_binary(msgpack.pack({"action": "subscribe", "trades": [CALL], "quotes": [CALL]}))
        opcode, payload = client.frame()
        assert opcode == BINARY
        assert unpack(payload) == [{"T": "subscription", "trades": [CALL], "quotes": [CALL]}]
        sim.advance(200)
        seen = client.until(lambda seen: len(seen) >= len(only(sim)))
        assert seen == only(sim)
        quote = [m for m in seen if m["T"] == "q"][-1]
        true = sim.tape.last_quote(CALL)
        assert quote == {
            "T": "q", "S": CALL, "bx": true.bid_exchange, "bp": float(true.bid), "bs": int(true.bid_size),
            "ax": true.ask_exchange, "ap": float(true.ask), "as": int(true.ask_size),
            "t": msgpack.Timestamp(true.time), "c": "A"}
        trade = [m for m in seen if m["T"] == "t"][-1]
        assert set(trade) == set("TSpsxtc") and isinstance(trade["c"], str)
        assert isinstance(trade["p"], float)
        assert any(m["t"].ns % 1000 for m in seen)


def test_messagepack_on_any_endpoint(sim: AlpacaSim) -> None:
    client = Client(sim.port, "/v2/iex", {"Content-Type": "application/msgpack"}, unpack)
    with client:
        assert client.one() == CONNECTED
        client.send(AUTH)                               # JSON where MessagePack is spoken
        assert client.one()["code"] == 400
        client.send_binary(msgpack.pack(AUTH))
        assert client.one() == AUTHENTICATED
        client.send_binary(b"\xc1\x00")
        assert client.one()["code"] == 400
    with connect(sim, "/v2/sip") as plain:
        plain.send_binary(msgpack.pack({"action": "subscribe", "trades": ["AAPL"]}))
        assert plain.one()["code"] == 400


def test_options_as_json_are_412(sim: AlpacaSim) -> None:
    with connect(sim, "/v1beta1/opra") as client:
        assert subscribe(client, trades=[CALL]) == error(
            412, "option messages are only available in MsgPack format")


@pytest.mark.parametrize("channels, code", [
    ({"quotes": ["*"]}, 413), ({"bars": [CALL]}, 410), ({"trades": ["AAPL"]}, 400)])
def test_what_options_do_not_have(sim: AlpacaSim, channels: dict[str, Any], code: int) -> None:
    with options_client(sim) as client:
        client.send_binary(msgpack.pack({"action": "subscribe", **channels}))
        assert client.one()["code"] == code


def test_a_burst_of_option_trades(sim: AlpacaSim) -> None:
    with options_client(sim) as client:
        client.send_binary(msgpack.pack({"action": "subscribe", "trades": ["*"]}))
        client.one()
        assert sim.burst("NVDA*C*", 10) == 10
        assert sim.burst("NVDA26*", 1500) == 1500
        seen = client.until(lambda seen: len(seen) >= 1510)
        assert [m["S"] for m in seen[:10]] == [CALL] * 10
        assert sum(m["S"] == PUT for m in seen) == 750
    with pytest.raises(LookupError, match="AAPL"):
        sim.burst("TSLA*", 1)


# -- errors on demand, slow clients -------------------------------------------------------------------


@pytest.mark.parametrize("code, text, ends", [
    (400, "invalid syntax", False), (401, "not authenticated", False), (402, "auth failed", False),
    (403, "already authenticated", False), (404, "auth timeout", True),
    (405, "symbol limit exceeded", False), (406, "connection limit exceeded", False),
    (407, "slow client", True), (408, "v2 not enabled", False),
    (409, "insufficient subscription", False), (410, "invalid subscribe action for this feed", False),
    (411, "insufficient scope", False),
    (412, "option messages are only available in MsgPack format", False),
    (413, "star subscription is not allowed for option quotes", False), (500, "internal error", False)])
def test_every_documented_error_on_demand(sim: AlpacaSim, code: int, text: str, ends: bool) -> None:
    with connect(sim) as client:
        sim.send_error(code)
        assert client.one() == error(code, text)
        if ends:
            assert client.expect_end() == 1000
        else:
            assert subscribe(client, trades=["AAPL"])["T"] == "subscription"


def test_a_client_that_does_not_read_is_slow(start: Start) -> None:
    sim = start(slow_limit=1 << 16)
    with connect(sim) as slow, connect(sim, "/v2/sip") as fine:
        subscribe(slow, trades=["*"])
        subscribe(fine, trades=["AAPL"])
        deadline = time.monotonic() + 30
        while not sim.violations:
            assert time.monotonic() < deadline
            sim.burst("NVDA", 5000)
        assert sim.wait_for(lambda: len(sim.connections) == 1, 10)
        sim.burst("NVDA", 1000)
        assert sim.violations == 1
        # what it had not read comes first; the error may or may not come at all
        last = [m for m in slow.drain(1.0) if m["T"] == "error"]
        assert last in ([], [error(407, "slow client")])
        made = sim.trade("AAPL", 1)[-1]
        assert fine.until(lambda seen: any(m.get("i") == made.id and m["p"] == 1 for m in seen))


# -- faults --------------------------------------------------------------------------------------------


def test_a_refused_subscription(sim: AlpacaSim) -> None:
    sim.plan(Fault.REFUSE_SUBSCRIPTION)
    with connect(sim) as client:
        assert subscribe(client, trades=["AAPL"])["code"] == 405
        sim.clear_faults()
        assert subscribe(client, trades=["AAPL"])["trades"] == ["AAPL"]


def test_no_answer_at_all(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        sim.inject(Fault.NO_ACK)
        client.send({"action": "subscribe", "trades": ["AAPL"]})
        sim.wait_for(lambda: len(sim.connections[0].received) == 1, 5)
        sim.advance(50)
        assert client.drain() == []


def test_acknowledged_and_silent(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, quotes=["NVDA"])
        sim.inject(Fault.ACK_SILENCE)
        assert subscribe(client, quotes=["AAPL"])["quotes"] == ["NVDA", "AAPL"]
        sim.advance(50)
        assert {m["S"] for m in client.drain()} == {"NVDA"}


def test_data_stops_and_pings_go_on(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, quotes=["AAPL"])
        sim.inject(Fault.NO_DATA)
        sim.advance(50)
        assert client.drain() == []
        assert subscribe(client, quotes=["NVDA"])["quotes"] == ["AAPL", "NVDA"]


def test_skip_duplicate_and_reorder_strike_single_messages(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, trades=["AAPL", "NVDA"])
        trades = []

        def trade(symbol: str) -> None:
            trades.append(sim.trade(symbol, 100)[-1].time)
        sim.inject(Fault.SKIP(symbol="AAPL"))
        for symbol in ("NVDA", "AAPL", "AAPL"):
            trade(symbol)
        sim.inject(Fault.DUPLICATE)
        trade("AAPL")
        sim.inject(Fault.REORDER)
        trade("AAPL")
        trade("AAPL")
        order = [0, 2, 3, 3, 5, 4]
        seen = client.until(lambda seen: len(seen) >= len(order))
        assert [m["t"] for m in seen] == [rfc3339(trades[i]) for i in order]
        assert sim.struck == {"skip": 1, "duplicate": 1, "reorder": 1}


@pytest.mark.parametrize("kind", [
    "invalid", "truncated", "types", "nan", "inf", "negative", "unknown", "nested", "utf8", "empty",
    "object", "time", "mixed", "binary"])
@pytest.mark.parametrize("path", ["/v2/iex", "/v1beta1/opra"])
def test_garbage(sim: AlpacaSim, kind: str, path: str) -> None:
    binary = path.endswith("opra")
    with (options_client(sim, path) if binary else connect(sim, path)) as client:
        sim.inject(Fault.GARBAGE(kind=kind))
        opcode, payload = client.frame()
        assert (opcode == BINARY) == (binary != (kind == "binary"))
        decoded: Any = None
        try:
            decoded = unpack(payload) if opcode == BINARY else json.loads(payload)
        except (ValueError, RecursionError):
            pass
        broken = {"invalid", "truncated", "nested", "utf8", "empty", "binary"}
        assert (decoded is None) == (kind in broken)
        sim.inject(Fault.STALL)             # half a frame
        sim.clear_faults()                  # ... and the other half
        assert client.one()["T"] == "subscription"


def test_no_such_garbage(sim: AlpacaSim) -> None:
    with pytest.raises(ValueError, match="truncated"):
        sim.inject(Fault.GARBAGE(kind="gzip"))


def test_a_dropped_client_gets_no_close_frame(start: Start) -> None:
    sim = start(slot_hold=30.0)
    with connect(sim) as client:
        sim.inject(Fault.DROP)
        assert client.expect_end() is None
    assert sim.wait_for(lambda: not sim.connections, 5)
    with Client(sim.port, "/v2/iex", HEADERS) as client:
        client.one()
        assert client.one()["code"] == 406


def test_random_faults_and_the_feed_goes_on(start: Start) -> None:
    sim = start(rate=200.0)
    sim.random_faults(seed=5, probability=0.01)
    ended = 0
    deadline = time.monotonic() + 20
    while len(sim.struck) < 5 or not ended:
        assert time.monotonic() < deadline, sim.struck
        with Client(sim.port, "/v2/iex", HEADERS, decode=lambda payload: [{"raw": payload}]) as client:
            client.send({"action": "subscribe", "quotes": ["*"], "trades": ["*"]})
            client.drain(0.5)
            ended += 1
    sim.clear_faults()
    assert sim.wait_for(lambda: not sim.connections, 5)
    with connect(sim) as client:
        subscribe(client, quotes=["*"])
        client.until(lambda seen: len(seen) > 100)


# -- REST ----------------------------------------------------------------------------------------------


def plain(value: float) -> Decimal:
    return Decimal(str(value))


def test_latest_trades_quotes_and_snapshots_of_stocks(sim: AlpacaSim) -> None:
    sim.advance(50)
    trade, quote = sim.tape.last_trade("AAPL"), sim.tape.last_quote("AAPL")
    _, body, headers = get(sim.port, "/v2/stocks/trades/latest?symbols=AAPL,XYZ", HEADERS)
    assert set(body["trades"]) == {"AAPL"} and "x-ratelimit-limit" not in headers
    found = body["trades"]["AAPL"]
    assert set(found) == set("txpscizt") and (plain(found["p"]), found["i"]) == (trade.price, trade.id)
    found = get(sim.port, "/v2/stocks/quotes/latest?symbols=AAPL", HEADERS)[1]["quotes"]["AAPL"]
    assert (plain(found["bp"]), found["t"]) == (quote.bid, rfc3339(quote.time))
    sim.next_minute()
    found = get(sim.port, "/v2/stocks/snapshots?symbols=AAPL,NVDA", HEADERS)[1]
    assert set(found) == {"AAPL", "NVDA"}
    assert set(found["AAPL"]) == {"latestTrade", "latestQuote", "minuteBar", "dailyBar"}
    assert plain(found["AAPL"]["latestTrade"]["p"]) == trade.price
    single = get(sim.port, "/v2/stocks/AAPL/snapshot", HEADERS)[1]
    assert single == {"symbol": "AAPL", **found["AAPL"]}
    single = get(sim.port, "/v2/stocks/AAPL/trades/latest", HEADERS)[1]
    assert single == {"symbol": "AAPL", "trade": found["AAPL"]["latestTrade"]}


def test_latest_of_crypto(sim: AlpacaSim) -> None:
    sim.advance(20)
    base = "/v1beta3/crypto/us/latest/"
    book = get(sim.port, base + "orderbooks?symbols=BTC%2FUSD", HEADERS)[1]["orderbooks"]["BTC/USD"]
    true = sim.market.book("BTC/USD")
    assert [(plain(level["p"]), plain(level["s"])) for level in book["b"]] == true.bids
    assert [(plain(level["p"]), plain(level["s"])) for level in book["a"]] == true.asks
    quote = get(sim.port, base + "quotes?symbols=BTC/USD", HEADERS)[1]["quotes"]["BTC/USD"]
    assert plain(quote["bp"]) == true.bids[0][0]
    trade = get(sim.port, base + "trades?symbols=BTC/USD", HEADERS)[1]["trades"]["BTC/USD"]
    assert trade["i"] == sim.tape.last_trade("BTC/USD").id
    found = get(sim.port, "/v1beta3/crypto/us/snapshots?symbols=BTC/USD,ETH/USD", HEADERS)[1]["snapshots"]
    assert set(found) == {"BTC/USD", "ETH/USD"}


def test_options_by_rest(sim: AlpacaSim) -> None:
    found = get(sim.port, f"/v1beta1/options/snapshots?symbols={CALL}", HEADERS)[1]["snapshots"]
    assert set(found[CALL]) == {"latestTrade", "latestQuote"} and found[CALL]["latestQuote"]["c"] == "A"
    chain = get(sim.port, "/v1beta1/options/snapshots/NVDA", HEADERS)[1]
    assert set(chain["snapshots"]) == {CALL, PUT} and chain["next_page_token"] is None
    contract = get(sim.port, f"/v2/options/contracts/{CALL}", HEADERS)[1]
    assert (contract["underlying_symbol"], contract["type"], contract["strike_price"],
            contract["expiration_date"], contract["name"]) == (
        "NVDA", "call", "200", "2026-12-18", "NVDA Dec 18 2026 200 Call")
    listed = get(sim.port, "/v2/options/contracts?underlying_symbols=NVDA", HEADERS)[1]
    assert [item["symbol"] for item in listed["option_contracts"]] == [CALL, PUT]


@pytest.mark.parametrize("path, headers, status", [
    ("/v2/stocks/snapshots?symbols=AAPL", {}, 401),
    ("/v2/stocks/snapshots?symbols=AAPL", {**HEADERS, "APCA-API-SECRET-KEY": "WRONG"}, 401),
    ("/v2/stocks/snapshots", HEADERS, 400),
    ("/v2/stocks/snapshots?symbols=a%20b", HEADERS, 400),
    ("/v2/stocks/XYZ/snapshot", HEADERS, 404),
    ("/v2/options/contracts/XYZ", HEADERS, 404),
    ("/v9/nothing", HEADERS, 404),
])
def test_rest_errors(sim: AlpacaSim, path: str, headers: dict[str, str], status: int) -> None:
    found, body, _ = get(sim.port, path, headers)
    assert found == status and isinstance(body["message"], str)
    assert sim.requests[-1].path == path.partition("?")[0]


def test_the_rest_limit(start: Start) -> None:
    sim = start(rest_limit=(2, 60.0))
    path = "/v2/stocks/trades/latest?symbols=AAPL"
    answers = [get(sim.port, path, HEADERS) for _ in range(3)]
    assert [status for status, _, _ in answers] == [200, 200, 429]
    assert [headers["x-ratelimit-remaining"] for _, _, headers in answers] == ["1", "0", "0"]
    assert get(sim.port, path, HEADERS)[2]["x-ratelimit-remaining"] == "0"
    assert sim.violations == 2


def test_slow_answers_and_how_many_at_once(start: Start) -> None:
    sim = start(rest_delay=1.0)
    path = "/v2/stocks/trades/latest?symbols=AAPL"
    begun = time.monotonic()
    threads = [threading.Thread(target=get, args=(sim.port, path, HEADERS)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert sim.wait_for(lambda: sim.in_flight == 3, 5)
    for thread in threads:
        thread.join(5)
    assert time.monotonic() - begun >= 1.0
    assert (sim.in_flight, sim.max_in_flight) == (0, 3)
    assert len(sim.requests) == 3


def test_planned_rest_faults(sim: AlpacaSim) -> None:
    path = "/v2/stocks/quotes/latest?symbols=AAPL"
    sim.plan_rest(Fault.SNAPSHOT_429(retry_after=7), Fault.SNAPSHOT_500, Fault.SNAPSHOT_GARBAGE,
                  Fault.SNAPSHOT_STALE(updates=5))
    status, _, headers = get(sim.port, path, HEADERS)
    assert (status, headers["retry-after"]) == (429, "7")
    assert get(sim.port, path, HEADERS)[0] == 500
    with pytest.raises(ValueError):
        get(sim.port, path, HEADERS)
    old = sim.tape.last_quote("AAPL", 5)
    assert get(sim.port, path, HEADERS)[1]["quotes"]["AAPL"]["t"] == rfc3339(old.time)


# -- the market ---------------------------------------------------------------------------------------


def test_the_same_seed_and_clock_make_the_same_bytes() -> None:
    runs = []
    for _ in range(2):
        ticks = iter(range(1_700_000_000_000_000_000, 2 ** 63, 1_234_567))
        with AlpacaSim(rate=0, seed=9, clock=ticks.__next__) as sim, connect(sim) as client:
            subscribe(client, trades=["*"], quotes=["*"])
            sim.advance(100)
            client.until(lambda seen: len(seen) >= len(only(sim)))
            runs.append(client.arrays)
    assert runs[0] == runs[1]
    with AlpacaSim(rate=0, seed=10) as other:
        assert other.tape.last_trade("AAPL").price != Decimal(0)


def test_absurd_values_can_be_made(sim: AlpacaSim) -> None:
    with connect(sim) as client:
        subscribe(client, quotes=["AAPL"], trades=["AAPL"])
        sim.quote("AAPL", 200, 100)
        sim.quote("AAPL", 0, -1)
        sim.trade("AAPL", "0.0001")
        seen = client.until(lambda seen: len(seen) == 3)
        assert [(m.get("bp"), m.get("ap"), m.get("p")) for m in seen] == [
            (200, 100, None), (0, -1, None), (None, None, 0.0001)]


def test_the_market_moves_by_itself_at_its_rate(start: Start) -> None:
    sim = start(rate=100.0)
    with connect(sim) as client:
        subscribe(client, quotes=["AAPL"])
        begun = time.monotonic()
        client.until(lambda seen: len(seen) > 50)
        assert time.monotonic() - begun < 5


def test_stop_is_quick_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    sim = AlpacaSim(rate=200.0, rest_delay=30.0)
    sim.start()
    with connect(sim) as client:
        subscribe(client, quotes=["*"])
        pending = threading.Thread(target=_ignore_errors, args=(sim.port,))
        pending.start()
        assert sim.wait_for(lambda: sim.in_flight == 1, 5)
        begun = time.monotonic()
        assert sim.stop()
        assert time.monotonic() - begun < 1.0
        pending.join(5)
    assert set(threading.enumerate()) <= before


def _ignore_errors(port: int) -> None:
    try:
        get(port, "/v2/stocks/trades/latest?symbols=AAPL", HEADERS)
    except (OSError, ValueError, EOFError):
        pass
    except Exception as error:          # http.client's own family
        assert "RemoteDisconnected" in type(error).__name__


@pytest.mark.parametrize("options, text", [
    ({"symbols": "AAPL"}, "list"), ({"symbols": ("AAPL", "AAPL")}, "once"), ({"batch": 0}, "batch"),
    ({"rate": -1}, "rate"), ({"symbols": ("",)}, "empty"),
    ({"denied": "sip"}, "list")])
def test_mistakes_of_the_user(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        AlpacaSim(**options)


def test_text_frames_are_text(sim: AlpacaSim) -> None:
    with Client(sim.port, "/v2/iex") as client:
        assert client.frame() == (TEXT, b'[{"T":"success","msg":"connected"}]')

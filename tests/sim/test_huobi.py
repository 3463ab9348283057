"""Simulated Huobi/HTX: each rule of the documents, from a client's point of view."""
from __future__ import annotations

import gzip
import json
import re
import struct
from decimal import Decimal
from typing import Any

import pytest

from streams.sim import HuobiSim
from streams.sim.connection import Connection

from .books import HuobiBook
from .client import BINARY, CLOSE, Client, Refused, get

_EXACT: dict[str, Any] = {"parse_float": Decimal, "parse_int": int}


def subscribed(sim: HuobiSim, client: Client, *names: str, symbol: str = "btcusdt") -> Connection:
    """Subscribe and take the acks; the stale first trades are left."""
    for name in names:
        client.send({"sub": f"market.{symbol}.{name}", "id": name})
        ack = client.until(id=name)
        assert ack["status"] == "ok" and ack["subbed"] == f"market.{symbol}.{name}"
    return sim.connections[-1]


def exact(client: Client) -> Any:
    """The next message, numbers exact."""
    return json.loads(gzip.decompress(client.message().payload), **_EXACT)


def tick(client: Client) -> Any:
    """The ``tick`` of the next push, numbers exact."""
    while "tick" not in (message := exact(client)):
        pass
    return message["tick"]


def request(client: Client, topic: str) -> Any:
    """Ask; the pushes that come before the answer, and the answer."""
    client.send({"req": topic, "id": 7})
    pushes = []
    while (message := exact(client)).get("id") != 7:
        pushes.append(message["tick"])
    return pushes, message


# -- frames, acks, errors ------------------------------------------------------------------------


def test_every_frame_is_binary_with_one_gzip_member() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        client.send({"sub": "market.btcusdt.bbo", "id": 1})
        frame = client.message()
        assert frame.opcode == BINARY and frame.payload[:2] == b"\x1f\x8b"
        assert json.loads(gzip.decompress(frame.payload)).keys() == {
            "id", "status", "subbed", "ts"}


def test_sub_and_unsub() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        subscribed(sim, client, "mbp.refresh.5")
        sim.advance(1, "BTCUSDT")
        assert client.json()["ch"] == "market.btcusdt.mbp.refresh.5"
        client.send({"unsub": "market.btcusdt.mbp.refresh.5", "id": 9})
        answer = client.json()
        assert (answer["id"], answer["unsubbed"]) == (9, "market.btcusdt.mbp.refresh.5")
        sim.advance(5)
        assert client.silent(0.05)
        client.send({"unsub": "market.btcusdt.mbp.refresh.5", "id": 9})
        assert client.json()["status"] == "error"


@pytest.mark.parametrize("path, topic, text", [
    ("/ws", "market.btcusdt.mbp.150", "invalid topic market.btcusdt.mbp.150"),
    ("/feed", "market.btcusdt.bbo", "invalid topic market.btcusdt.bbo"),
    ("/ws", "market.nosuch.bbo", "invalid topic market.nosuch.bbo"),
    ("/ws", "market.BTCUSDT.bbo", "invalid topic market.BTCUSDT.bbo"),
    ("/ws", "market.btcusdt.depth.step6", "invalid topic market.btcusdt.depth.step6"),
    ("/ws", "market.btcusdt.kline.7min", "invalid topic market.btcusdt.kline.7min"),
    ("/feed", "market.btcusdt.mbp.20", "invalid mbp.20.symbol btcusdt"),
])
def test_topics_that_do_not_exist_are_refused(path: str, topic: str, text: str) -> None:
    with HuobiSim(rate=0, fast_symbols=["ethusdt"]) as sim, Client(sim.url, path) as client:
        client.send({"sub": topic, "id": "2"})
        answer = client.json()
        assert (answer["status"], answer["id"], answer["err-code"], answer["err-msg"]) == (
            "error", "2", "bad-request", text)
        client.send({"sub": f"market.ethusdt.{'mbp.20' if path == '/feed' else 'bbo'}"})
        assert client.json()["status"] == "ok"


@pytest.mark.parametrize("message", ["{nonsense", "[]", "{}", '{"sub":["a","b"]}',
                                     '{"req":"market.btcusdt.bbo"}'])
def test_bad_messages_are_answered_with_an_error(message: str) -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        client.send(message)
        answer = client.json()
        assert answer["status"] == "error" and answer["err-msg"]


def test_other_paths_are_not_found() -> None:
    with HuobiSim(rate=0) as sim, pytest.raises(Refused):
        Client(sim.url, "/nothing")


# -- heart-beat ----------------------------------------------------------------------------------


def test_pings_that_are_answered_keep_the_connection() -> None:
    with HuobiSim(rate=0, ping_interval=0.03) as sim, Client(sim.url) as client:
        for _ in range(8):
            ping = client.until(ping=...)
            client.send({"pong": ping["ping"]})
        assert len(sim.connections) == 1 and sim.violations == 0


@pytest.mark.parametrize("answer", [None, {"pong": 1}])
def test_two_pings_without_their_own_number_end_it(answer: dict[str, int] | None) -> None:
    with HuobiSim(rate=0, ping_interval=0.05) as sim, Client(sim.url) as client:
        pings = 0
        while (message := client.message()).opcode != CLOSE:
            pings += b"ping" in gzip.decompress(message.payload)
            if answer:
                client.send(answer)
        assert pings == 2
        assert struct.unpack("!H", message.payload[:2])[0] == 1003
        assert sim.violations == (2 if answer else 0)


def test_the_clients_ping_is_answered() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        client.send({"ping": 1234})
        assert client.json() == {"pong": 1234}


# -- books ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [5, 20, 150, 400])
def test_refresh_and_updates_lead_to_the_true_book(count: int) -> None:
    with HuobiSim(rate=0, levels=500) as sim, Client(sim.url, "/feed") as client:
        subscribed(sim, client, f"mbp.{count}")
        sim.advance(30, "BTCUSDT")
        buffered, answer = request(client, f"market.btcusdt.mbp.{count}")
        assert answer["rep"] == f"market.btcusdt.mbp.{count}" and answer["status"] == "ok"
        assert len(answer["data"]["bids"]) == len(answer["data"]["asks"]) == count
        book = HuobiBook(answer["data"])
        assert all(book.apply(update) for update in buffered)
        one_sided = 0
        for _ in range(60):
            sim.advance(1, "BTCUSDT")
            pushes, again = request(client, f"market.btcusdt.mbp.{count}")
            for update in pushes:
                assert update["prevSeqNum"] == book.sequence < update["seqNum"]
                assert book.apply(update)
                assert update.get("bids", 1) and update.get("asks", 1)      # absent, not empty
                one_sided += ("bids" in update) != ("asks" in update)
                assert book.equals(sim.market.book("BTCUSDT", book.sequence), count)
                assert len(book.bids) == len(book.asks) == count
            assert again["data"]["seqNum"] == book.sequence
        assert one_sided


def test_sequence_numbers_jump_and_chain() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url, "/feed") as client:
        subscribed(sim, client, "mbp.150")
        sim.advance(300, "BTCUSDT")
        pushes, _ = request(client, "market.btcusdt.mbp.150")
        assert all(b["prevSeqNum"] == a["seqNum"] for a, b in zip(pushes, pushes[1:]))
        assert len({b["seqNum"] - a["seqNum"] for a, b in zip(pushes, pushes[1:])}) > 5


def test_the_first_refreshes_can_be_too_old() -> None:
    with HuobiSim(rate=0, stale_refresh=2) as sim, Client(sim.url, "/feed") as client:
        subscribed(sim, client, "mbp.150")
        sim.advance(50, "BTCUSDT")
        pushes, answer = request(client, "market.btcusdt.mbp.150")
        assert answer["data"]["seqNum"] < pushes[0]["prevSeqNum"]
        old = HuobiBook(answer["data"])
        assert old.equals(sim.market.book("BTCUSDT", old.sequence), 150)
        assert request(client, "market.btcusdt.mbp.150")[1]["data"]["seqNum"] == old.sequence
        _, answer = request(client, "market.btcusdt.mbp.150")
        assert answer["data"]["seqNum"] == pushes[-1]["seqNum"]


def test_a_refresh_on_another_connection_meets_the_stream_too() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url, "/feed") as one, \
            Client(sim.url, "/feed") as two:
        subscribed(sim, one, "mbp.20")
        sim.advance(20, "BTCUSDT")
        assert request(one, "market.btcusdt.mbp.20")[1]["data"] == request(
            two, "market.btcusdt.mbp.20")[1]["data"]
        one.send({"unsub": "market.btcusdt.mbp.20"})
        sim.wait_for(lambda: not sim.subscribers("market.btcusdt.mbp.20"), 10)
        sim.advance(20, "BTCUSDT")
        subscribed(sim, two, "mbp.20")
        sim.advance(20, "BTCUSDT")
        buffered, answer = request(two, "market.btcusdt.mbp.20")
        book = HuobiBook(answer["data"])
        assert book.equals(sim.market.book("BTCUSDT", book.sequence), 20)
        assert all(b["prevSeqNum"] == a["seqNum"] for a, b in zip(buffered, buffered[1:]))


def test_step0_is_the_whole_truth_each_time() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        subscribed(sim, client, "depth.step0")
        for _ in range(10):
            sim.advance(1, "BTCUSDT")
            book = tick(client)
            true = sim.market.book("BTCUSDT")
            assert book["version"] == true.sequence
            assert [tuple(level) for level in book["bids"]] == true.bids[:150]
            assert [tuple(level) for level in book["asks"]] == true.asks[:150]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_the_other_steps_add_levels_up(step: int) -> None:
    with HuobiSim(rate=0, levels=400) as sim, Client(sim.url) as client:
        subscribed(sim, client, f"depth.step{step}")
        sim.advance(1, "BTCUSDT")
        book, true = tick(client), sim.market.book("BTCUSDT")
        unit = Decimal("0.01") * 10 ** step
        assert len(book["bids"]) <= 20
        for (price, size), sign in ((book["bids"][0], 1), (book["asks"][0], -1)):
            side = true.bids if sign == 1 else true.asks
            assert price % unit == 0
            own = [lots for at, lots in side
                   if (price <= at < price + unit if sign == 1 else price - unit < at <= price)]
            assert size == sum(own)


def test_mbp_refresh_is_the_top() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        subscribed(sim, client, "mbp.refresh.10")
        sim.advance(1, "BTCUSDT")
        book, true = tick(client), sim.market.book("BTCUSDT")
        assert book["seqNum"] == true.sequence and "prevSeqNum" not in book
        assert [tuple(level) for level in book["bids"]] == true.bids[:10]


def test_bbo_is_the_true_top_at_its_number() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        subscribed(sim, client, "bbo")
        sim.advance(200, "BTCUSDT")
        for _ in range(20):
            top = tick(client)
            book = sim.market.book("BTCUSDT", top["seqId"])
            assert (top["bid"], top["bidSize"]) == book.bids[0]
            assert (top["ask"], top["askSize"]) == book.asks[0]
            assert top["symbol"] == "btcusdt"


def test_numbers_are_json_numbers_in_javas_spelling() -> None:
    with HuobiSim(["ABCBTC"], rate=0) as sim, Client(sim.url) as client:
        subscribed(sim, client, "depth.step0", symbol="abcbtc")
        sim.advance()
        text = gzip.decompress(client.message().payload).decode()
        assert re.search(r'"bids":\[\[\d\.\d+E-4,\d+\.\d+\]', text)


# -- trades and totals ---------------------------------------------------------------------------


def test_the_first_trade_is_stale_and_ids_are_long() -> None:
    with HuobiSim(rate=0) as sim, Client(sim.url) as client:
        sim.advance(100)
        subscribed(sim, client, "trade.detail")
        stale = tick(client)["data"]
        assert client.silent(0.05)
        assert len(stale) == 1 and len(str(stale[0]["id"])) == 27
        sim.advance(100, "BTCUSDT")
        fresh = [trade for _ in range(5) for trade in tick(client)["data"]]
        assert [trade["tradeId"] for trade in fresh] == list(
            range(stale[0]["tradeId"] + 1, stale[0]["tradeId"] + 1 + len(fresh)))
        assert set(fresh[0]) == {"id", "ts", "tradeId", "amount", "price", "direction"}
        assert {trade["direction"] for trade in fresh} <= {"buy", "sell"}


def test_bars_have_no_closing_flag_and_count_seconds() -> None:
    now = 1_700_000_000 // 60 * 60
    with HuobiSim(["BTCUSDT"], rate=0, slow_every=1, clock=lambda: now * 10 ** 9) as sim, \
            Client(sim.url) as client:
        subscribed(sim, client, "kline.1min", "kline.1day")
        sim.advance(50)
        minute = tick(client)
        assert minute["id"] == now and set(minute) == {
            "id", "open", "close", "low", "high", "amount", "vol", "count"}
        day = tick(client)
        assert (day["id"] + 8 * 3600) % 86400 == 0          # midnight in UTC+8
        now += 60
        sim.advance()
        while (later := tick(client))["id"] != now:
            pass
        assert later["count"] <= 5


def test_detail_and_ticker_agree_with_rest() -> None:
    with HuobiSim(rate=0, slow_every=1) as sim, Client(sim.url) as client:
        subscribed(sim, client, "detail", "ticker")
        sim.advance(50, "BTCUSDT")
        ticks = [tick(client) for _ in range(100)]
        detail, ticker = ticks[-2:]
        merged = json.loads(get(sim.rest_url, "/market/detail/merged?symbol=btcusdt").body,
                            **_EXACT)
        assert merged["status"] == "ok"
        for name in ("open", "close", "low", "high", "amount", "vol", "count"):
            assert detail[name] == ticker[name] == merged["tick"][name]
        true = sim.market.book("BTCUSDT")
        assert [ticker["bid"], ticker["bidSize"]] == merged["tick"]["bid"] == list(true.bids[0])
        assert [ticker["ask"], ticker["askSize"]] == merged["tick"]["ask"] == list(true.asks[0])


# -- REST ----------------------------------------------------------------------------------------


def test_rest_depth_and_symbols() -> None:
    with HuobiSim(rate=0) as sim:
        answer = json.loads(get(sim.rest_url, "/market/depth?symbol=btcusdt&type=step0").body,
                            **_EXACT)
        true = sim.market.book("BTCUSDT")
        assert (answer["status"], answer["ch"]) == ("ok", "market.btcusdt.depth.step0")
        assert [tuple(level) for level in answer["tick"]["bids"]] == true.bids[:150]
        assert answer["tick"]["version"] == true.sequence
        symbols = get(sim.rest_url, "/v1/common/symbols").value["data"]
        assert [(s["symbol"], s["base-currency"], s["quote-currency"], s["state"])
                for s in symbols] == [("btcusdt", "btc", "usdt", "online"),
                                      ("ethusdt", "eth", "usdt", "online")]
        for wrong in ("/market/depth?symbol=nosuch", "/market/detail/merged",
                      "/market/depth?symbol=btcusdt&type=step9"):
            assert get(sim.rest_url, wrong).value["status"] == "error"
        assert get(sim.rest_url, "/nothing").status == 404


def test_mistakes_fail_at_the_call() -> None:
    with pytest.raises(ValueError, match="missed_pongs"):
        HuobiSim(missed_pongs=0)

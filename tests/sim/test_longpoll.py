"""The made-up long-polled feed, seen through the standard library only."""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from decimal import Decimal
from xml.etree import ElementTree

import pytest

from streams.sim.longpoll import LongPollSim, PollFault

from ..raw_peer import PATIENCE, beside

BTC, ETH = "BTC-USDT", "ETH-USDT"


@pytest.fixture(params=["xml", "json"])
def sim(request):
    with LongPollSim((BTC, ETH), rate=0, format=request.param, levels=20) as sim:
        yield sim


class Client:
    def __init__(self, sim, timeout=PATIENCE):
        self.sim = sim
        self.connection = http.client.HTTPConnection("127.0.0.1", sim.port, timeout=timeout)

    def get(self, path, **headers):
        self.connection.request("GET", path, headers=headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return answer.status, answer.headers, body

    def feed(self, cursor="", symbols=BTC, **more):
        asked = {"symbols": symbols, "cursor": cursor, **more}
        query = "&".join(f"{key}={value}" for key, value in asked.items())
        status, _, body = self.get(f"/feed?{query}")
        assert status == 200, body
        return read(body)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()


@pytest.fixture
def client(sim):
    with Client(sim) as client:
        yield client


def read(body):
    """(cursor, reset, [records]) of either format; a record is (kind, fields, bids, asks)."""
    if body.startswith(b"<"):
        root = ElementTree.fromstring(body)
        records = [
            (r.tag, dict(r.attrib), [tuple(e.attrib.values()) for e in r.findall("bid")],
             [tuple(e.attrib.values()) for e in r.findall("ask")]) for r in root]
        return root.get("cursor"), root.get("reset") == "true", records
    message = json.loads(body)
    records = []
    for kind in ("book", "update", "trade"):
        for r in message[kind]:
            bids, asks = r.pop("bids", []), r.pop("asks", [])
            records.append((kind, r, [tuple(pair) for pair in bids], [tuple(pair) for pair in asks]))
    return message["cursor"], message.get("reset", False), records


def levels(pairs):
    return [(Decimal(price), Decimal(size)) for price, size in pairs]


def rebuilt(records, start=None):
    """The book that the records make, as sorted lists, and its sequence number."""
    bids, asks, last = start or ({}, {}, 0)
    for kind, fields, new_bids, new_asks in records:
        if kind == "trade":
            continue
        if kind == "book":
            bids, asks, last = {}, {}, int(fields["sequence"])
        elif int(fields["last"]) <= last:
            continue
        else:
            assert int(fields["first"]) == last + 1
            last = int(fields["last"])
        for side, changes in ((bids, new_bids), (asks, new_asks)):
            for price, size in levels(changes):
                side.pop(price, None)
                if size:
                    side[price] = size
    return bids, asks, last


def test_a_feed_begins_with_whole_books_and_goes_on_with_updates(sim, client):
    cursor, reset, records = client.feed()
    assert not reset and [kind for kind, *_ in records] == ["book"]
    state = rebuilt(records)
    for _ in range(20):
        sim.advance(5)
        cursor, reset, records = client.feed(cursor)
        assert records and not reset
        state = rebuilt(records, state)
        truth = sim.book(BTC)
        assert state[2] == truth.sequence
        assert sorted(state[0].items(), reverse=True) == truth.bids
        assert sorted(state[1].items()) == truth.asks
    assert sim.accepted == 0 and len(sim.requests) == 21


def test_trades_and_symbols_are_chosen(sim, client):
    cursor, _, records = client.feed(symbols=f"{BTC},{ETH}", channels="trades")
    assert records == []
    sim.advance(200)
    _, _, records = client.feed(cursor, symbols=f"{BTC},{ETH}", channels="trades")
    assert {kind for kind, *_ in records} == {"trade"}
    assert {fields["symbol"] for _, fields, *_ in records} == {BTC, ETH}
    _, _, only = client.feed(cursor, symbols=ETH, channels="trades")
    assert [r for r in records if r[1]["symbol"] == ETH] == only


def test_a_request_is_held_until_something_happens(sim, client):
    cursor, _, _ = client.feed()
    asked = beside(client.feed, cursor, hold="10")
    assert sim.wait_for(lambda: sim.held == 1, PATIENCE)
    assert not asked.done()
    sim.advance(1, ETH)             # not what it is held for
    sim.advance(1, BTC)
    assert [fields["symbol"] for _, fields, *_ in asked.result(PATIENCE)[2]][-1] == BTC


def test_a_held_request_ends_with_nothing(sim, client):
    cursor, _, _ = client.feed()
    start = time.monotonic()
    assert client.get(f"/feed?symbols={BTC}&cursor={cursor}&hold=0.2")[0] == 204
    assert 0.15 < time.monotonic() - start < 5.0


def test_a_fresh_book_is_given_when_asked_for(sim, client):
    cursor, _, _ = client.feed()
    sim.advance(3)
    _, _, records = client.feed(cursor, symbols=f"{BTC},{ETH}", fresh=ETH)
    assert records[0][0] == "book" and records[0][1]["symbol"] == ETH
    assert sum(kind == "book" for kind, *_ in records) == 1


def test_cursors_survive_a_restart_and_unknown_ones_begin_anew(sim, client):
    cursor, _, _ = client.feed()
    sim.advance(2)
    sim.restart()
    with Client(sim) as again:
        sim.advance(2)
        _, reset, records = again.feed(cursor)
        assert not reset and records[0][0] != "book"
    sim.restart(forget=True)
    with Client(sim) as again:
        for unknown in (cursor, "junk", "2.99999"):
            _, reset, records = again.feed(unknown)
            assert reset and records[0][0] == "book"


def test_what_is_forgotten_is_said():
    with LongPollSim((BTC,), rate=0, memory=10, levels=20) as sim, Client(sim) as client:
        cursor, _, _ = client.feed()
        sim.advance(5)
        assert not client.feed(cursor)[1]
        sim.advance(50)
        assert client.feed(cursor)[1]


def test_the_state_has_a_tag(sim, client):
    status, headers, body = client.get(f"/state?symbols={BTC}&hold=0")
    assert status == 200 and read(body)[2][0][0] == "book"
    tag = headers["ETag"]
    assert client.get(f"/state?symbols={BTC}&hold=0", **{"If-None-Match": tag})[0] == 304
    sim.advance()
    status, headers, _ = client.get(f"/state?symbols={BTC}&hold=0", **{"If-None-Match": tag})
    assert status == 200 and headers["ETag"] != tag


def test_long_answers_are_packed_for_those_who_can(sim, client):
    _, headers, body = client.get(f"/feed?symbols={BTC}", **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip" and read(body)[2]
    assert client.get(f"/feed?symbols={BTC}")[1].get("Content-Encoding") is None


@pytest.mark.parametrize("path, status", [
    ("/feed", 404), ("/feed?symbols=NO-USDT", 404), ("/elsewhere?symbols=BTC-USDT", 404),
    ("/feed?symbols=BTC-USDT&hold=long", 400),
])
def test_bad_requests_are_refused(client, path, status):
    assert client.get(path)[0] == status


def test_a_key_is_asked_for():
    with LongPollSim((BTC,), rate=0, key="k", levels=20) as sim, Client(sim) as client:
        assert client.get(f"/feed?symbols={BTC}")[0] == 401
        assert client.get(f"/feed?symbols={BTC}", Authorization="Bearer k")[0] == 200


def test_the_market_moves_by_itself():
    with LongPollSim((BTC,), rate=200, levels=20) as sim, Client(sim) as client:
        cursor, _, records = client.feed()
        state = rebuilt(records)
        for _ in range(10):
            cursor, _, records = client.feed(cursor)
            state = rebuilt(records, state)
        assert state[2] > 1_000_000_010
    assert not any(thread.name.startswith("sim-longpoll") for thread in threading.enumerate())


# -- faults ----------------------------------------------------------------------------------------


def test_answers_of_failing_servers(sim, client):
    sim.plan(PollFault.LATER(status=429, retry_after=3), PollFault.LATER(retry_after=None), PollFault.STATUS,
             PollFault.STATUS(status=302), None)
    status, headers, _ = client.get(f"/feed?symbols={BTC}")
    assert (status, headers["Retry-After"]) == (429, "3")
    status, headers, _ = client.get(f"/feed?symbols={BTC}")
    assert (status, headers.get("Retry-After")) == (503, None)
    assert client.get(f"/feed?symbols={BTC}")[0] == 500
    assert client.get(f"/feed?symbols={BTC}")[0] == 302
    assert client.get(f"/feed?symbols={BTC}")[0] == 200
    assert sim.struck == {"later": 2, "status": 2}


@pytest.mark.parametrize("fault", [PollFault.DROP, PollFault.RESET, PollFault.HALF], ids=lambda f: f.name)
def test_connections_that_end(sim, client, fault):
    sim.plan(fault)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        client.get(f"/feed?symbols={BTC}")


@pytest.mark.parametrize("fault", [PollFault.HANG, PollFault.STALL], ids=lambda f: f.name)
def test_servers_that_fall_silent(sim, fault):
    sim.plan(fault)
    with Client(sim, timeout=0.3) as client, pytest.raises(TimeoutError):
        client.get(f"/feed?symbols={BTC}")


def test_a_slow_server(sim, client):
    sim.plan(PollFault.DRIP(seconds=0.3))
    start = time.monotonic()
    assert client.get(f"/feed?symbols={BTC}")[0] == 200
    assert time.monotonic() - start > 0.2


def test_bodies_that_are_wrong(sim, client):
    sim.plan(PollFault.GARBAGE, PollFault.NONSENSE, PollFault.BOMB(size=50_000),
             PollFault.OVERSIZED(size=50_000))
    with pytest.raises((ValueError, SyntaxError)):
        read(client.get(f"/feed?symbols={BTC}")[2])
    body = client.get(f"/feed?symbols={BTC}")[2]
    assert b"NaN" in body and b"yesterday" in body
    status, headers, body = client.get(f"/feed?symbols={BTC}")
    assert headers["Content-Encoding"] == "gzip" and len(body) == 50_000
    assert len(client.get(f"/feed?symbols={BTC}")[2]) == 50_000


def test_documents_that_attack(sim, client):
    sim.plan(PollFault.ENTITIES, PollFault.OUTSIDE)
    body = client.get(f"/feed?symbols={BTC}")[2]
    assert body.count(b"<!ENTITY") == 11 and b"&k;" in body
    assert b"file:///" in client.get(f"/feed?symbols={BTC}")[2]


def test_an_update_is_left_out(sim, client):
    cursor, _, records = client.feed()
    state = rebuilt(records)
    sim.plan(PollFault.SKIP)
    sim.advance(2, BTC)
    with pytest.raises(AssertionError):
        rebuilt(client.feed(cursor)[2], state)


def test_stop_is_quick_whatever_is_held(sim):
    clients = [Client(sim) for _ in range(3)]
    sim.plan(PollFault.HANG, None, PollFault.STALL)
    asked = []
    for number, client in enumerate(clients):
        asked.append(beside(client.get, f"/feed?symbols={BTC}&cursor=1.0&hold=30"))
        assert sim.wait_for(lambda: len(sim.requests) > number, PATIENCE)
    start = time.monotonic()
    assert sim.stop()
    assert time.monotonic() - start < 1.0
    for one, client in zip(asked, clients):
        one.exception(PATIENCE)
        client.connection.close()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="format"):
        LongPollSim(format="yaml")
    with pytest.raises(ValueError, match="rate"):
        LongPollSim(rate=-1)

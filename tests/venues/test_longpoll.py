"""Feeds over long-polled HTTP: the pure venues, and streams on the simulated feed."""

from __future__ import annotations

import json
import random
import time
from decimal import Decimal

import pytest

from streams.errors import ConfigurationError
from streams.exchanges import LongPollJson, LongPollXml
from streams.manager import StreamManager
from streams.mapping import Change
from streams.polling import ANEW, Ask
from streams.sim.longpoll import LongPollSim, PollFault
from streams.venue import Alive, BookBroken, BookSnapshot, Malformed, Notice, Ready
from streams.venues.longpoll import LongPollJsonVenue, LongPollXmlVenue

from ..tools import exact, wait_live, wait_until

NOW = 1_700_000_000_000_000_000
BTC, ETH = "BTC-USDT", "ETH-USDT"
DEALS = {"deal": {"channel": "trades", "symbol": "@s", "price": "px", "size": "qty", "time": "@t"}}


def with_routes(venue, *wanted):
    routes = [venue.route(symbol, channel) for symbol, channel in wanted]
    for route in routes:
        venue.add(route)
        assert venue.subscribe(route.topics) == (ANEW,)
    return routes


def answered(venue, body, **headers):
    """What the transport does with an answer."""
    return [item for message in venue.polled(200, headers, body)[0] for item in venue.receive(message, NOW)]


# -- what is asked -----------------------------------------------------------------------------------


def test_nothing_is_asked_before_something_is_subscribed():
    venue = LongPollXmlVenue()
    assert [event for _, event in venue.opened(NOW)] == [Ready()]
    assert venue.poll() is None
    route, = with_routes(venue, (BTC, "trades"))
    assert venue.poll() == Ask("/feed", (("symbols", BTC), ("channels", "trades"), ("hold", "20")))
    assert venue.unsubscribe(route.topics) == (ANEW,)
    assert venue.poll() is None


def test_the_cursor_and_fresh_books():
    venue = LongPollXmlVenue(hold=5)
    btc, eth = with_routes(venue, (BTC, "book"), (ETH, "trades"))
    assert dict(venue.poll().params) == {
        "symbols": f"{BTC},{ETH}", "channels": "book,trades", "hold": "5", "fresh": BTC}
    body = f'<feed cursor="1.7"><book symbol="{BTC}" sequence="3" time="1"/></feed>'
    items = answered(venue, body.encode())
    assert items == [(btc, BookSnapshot(3, [], [], 1_000_000, in_order=True))]
    assert dict(venue.poll().params) == {
        "symbols": f"{BTC},{ETH}", "channels": "book,trades", "cursor": "1.7", "hold": "5"}
    assert venue.refresh(btc) == (ANEW,)
    assert dict(venue.poll().params)["fresh"] == BTC and dict(venue.poll().params)["cursor"] == "1.7"
    answered(venue, b"<feed ")              # cut off: neither moves
    assert dict(venue.poll().params)["fresh"] == BTC and venue.cursor == "1.7"
    venue.remove(btc)
    assert "fresh" not in dict(venue.poll().params)


def test_a_feed_without_fresh_begins_anew_for_a_whole_book():
    venue = LongPollXmlVenue(query={"since": "{cursor}"}, path="/my feed")
    btc, = with_routes(venue, (BTC, "book"))
    answered(venue, f'<feed cursor="7"><book symbol="{BTC}" sequence="3"/></feed>'.encode())
    assert venue.poll() == Ask("/my%20feed", (("since", "7"),))
    venue.refresh(btc)
    assert venue.poll() == Ask("/my%20feed")


@pytest.mark.parametrize("cursor, headers, body, expected", [
    ("@next", {}, b'{"next":12}', "12"), ("page/next", {}, b'{"page":{"next":"x"}}', "x"),
    ("header:X-Next", {"X-Next": "9"}, b"{}", "9"), ("etag", {"ETag": '"t"'}, b"{}", '"t"'),
    (None, {}, b"{}", ""),
])
def test_where_the_cursor_may_be(cursor, headers, body, expected):
    venue = LongPollJsonVenue(cursor=cursor)
    with_routes(venue, (BTC, "trades"))
    venue.polled(200, headers, body)
    assert venue.cursor == expected
    ask = venue.poll()
    if cursor == "etag":
        assert ask.headers == (("If-None-Match", expected),) and "cursor" not in dict(ask.params)
    else:
        assert dict(ask.params).get("cursor", "") == expected and ask.headers == ()


def test_what_outlives_a_connection():
    old = LongPollXmlVenue()
    with_routes(old, (BTC, "book"))
    answered(old, f'<feed cursor="1.7"><book symbol="{BTC}" sequence="3"/></feed>'.encode())
    new = LongPollXmlVenue()
    new.inherit(old)
    with_routes(new, (BTC, "book"))
    assert dict(new.poll().params)["cursor"] == "1.7" and dict(new.poll().params)["fresh"] == BTC


@pytest.mark.parametrize("venue, body", [
    (LongPollXmlVenue, b'<feed cursor="8"/>'), (LongPollJsonVenue, b'{"cursor":8,"trade":[]}')])
def test_an_answer_without_news_is_no_data(venue, body):
    made = venue()
    with_routes(made, (BTC, "trades"))
    assert [event for _, event in answered(made, body)] == [Alive()] and made.cursor == "8"


def test_what_is_new():
    """Only then is the next request made at once."""
    venue = LongPollJsonVenue(cursor="next")
    with_routes(venue, (BTC, "trades"))

    def new(body):
        messages, new = venue.polled(200, {}, body)
        assert messages == (body,)
        return new

    assert new(b'{"next":1,"trade":[{"price":1}]}')
    assert not new(b'{"next":2,"trade":[]}') and not new(b'{"next":3}')     # the cursor of a clock
    assert not new(b'{"next":3,"trade":[{"price":1}]}')                     # the same once more
    assert not new(b"{") and venue.cursor == "3"
    assert new(b'{"next":4,"trade":{"price":1}}')
    venue = LongPollXmlVenue(cursor=None)
    with_routes(venue, (BTC, "trades"))
    assert not venue.polled(200, {}, b'<feed><trade price="1"/></feed>')[1], "nothing says so"


# -- what is said ------------------------------------------------------------------------------------


def test_a_feed_of_ones_own():
    venue = LongPollXmlVenue(elements=DEALS, query={"sym": "{symbols}"}, cursor="page/@next")
    route, = with_routes(venue, ("ACME", "trades"))
    (heard, trade), = answered(
        venue, b'<x><page next="5"/><deal s="ACME" t="3"><px>1.5</px><qty>2</qty></deal><deal s="B"/></x>')
    assert heard is route and venue.cursor == "5" and venue.rule == "snapshots"
    assert (trade.exchange, trade.symbol, trade.price, trade.size, trade.timestamp, trade.received) == (
        "longpoll-xml", "ACME", 1.5, 2.0, 3_000_000, NOW)
    with pytest.raises(ConfigurationError, match="no element gives channel 'book'; there are: trades"):
        venue.route("ACME", "book")


def test_a_feed_of_one_symbol_need_not_name_it():
    fields = {name: place for name, place in DEALS["deal"].items() if name != "symbol"}
    venue = LongPollXmlVenue(elements={"deal": fields})
    one, = with_routes(venue, ("ACME", "trades"))
    body = b'<x><deal><px>1.5</px><qty>2</qty></deal></x>'
    assert [route for route, _ in venue.receive(body, NOW)] == [one]
    with_routes(venue, ("OTHER", "trades"))
    assert [event for _, event in venue.receive(body, NOW)] == [Alive()]        # nobody can tell whose it is


def test_exact_numbers_survive():
    body = b'{"trade":[{"symbol":"A","price":0.10,"size":"1.50","side":"buy","id":1,"time":1}]}'
    for venue in (LongPollJsonVenue(number=Decimal), LongPollJsonVenue()):
        with_routes(venue, ("A", "trades"))
        (_, trade), = venue.receive(body, NOW)
        assert (trade.price, trade.size) == (venue.number("0.10"), venue.number("1.50"))


def test_a_new_beginning_is_told():
    venue = LongPollXmlVenue()
    (route, notice), = answered(venue, b'<feed cursor="2.1" reset="true"/>')
    assert route is venue.session and isinstance(notice, Notice)


ATTACKS = {
    "entities": b'<!DOCTYPE f [<!ENTITY a "x"><!ENTITY b "&a;&a;">]><f>&b;</f>',
    "external": b'<!DOCTYPE f [<!ENTITY a SYSTEM "file:///etc/hostname">]><f>&a;</f>',
    "parameter": b'<!DOCTYPE f [<!ENTITY % a SYSTEM "http://127.0.0.1:9/x"> %a;]><f/>',
    "encoding": b'<?xml version="1.0" encoding="foo"?><f/>',
    "codec": b'<?xml version="1.0" encoding="rot13"?><f/>',
    "doctype": b'<!DOCTYPE f SYSTEM "http://127.0.0.1:9/x"><f/>',
}


@pytest.mark.parametrize("body", ATTACKS.values(), ids=ATTACKS)
def test_documents_that_attack_are_refused(body):
    venue = LongPollXmlVenue()
    (route, bad), = answered(venue, body)
    assert route is venue.session and isinstance(bad, Malformed) and bad.reason.startswith("not XML")


@pytest.mark.parametrize("venue, body", [
    (LongPollXmlVenue(), b""), (LongPollXmlVenue(), b"\xff\xfe"), (LongPollXmlVenue(), b"<a><b></a>"),
    (LongPollJsonVenue(), b""), (LongPollJsonVenue(), b"{"), (LongPollJsonVenue(), b"\xff"),
    (LongPollJsonVenue(), b"[" * 100_000),
])
def test_bodies_that_can_not_be_read(venue, body):
    (_, bad), = answered(venue, body)
    assert isinstance(bad, Malformed) and venue.cursor == ""


def test_bad_records_spoil_only_themselves():
    venue = LongPollJsonVenue()
    trades, book = with_routes(venue, ("A", "trades"), ("A", "book"))
    good = {"symbol": "A", "price": 1, "size": 1, "side": "buy", "id": 1, "time": 1}
    body = json.dumps({"cursor": 1, "trade": [good, {**good, "price": "NaN"}, 7, {}, good],
                       "update": [{"symbol": "A", "first": 1, "bids": 7}]}).encode()
    items = answered(venue, body)
    assert [route for route, _ in items].count(trades) == 2
    bad = [event for _, event in items if isinstance(event, Malformed)]
    assert [one.topic for one in bad] == ["book.A", "trades.A", "", ""]
    many = answered(venue, json.dumps({"trade": [7] * 1000}).encode())
    assert len(many) == 21 and "980 more" in many[-1][1].reason


@pytest.mark.parametrize("kind, seed", [
    (LongPollXmlVenue,
     b'<feed cursor="1"><book symbol="A" sequence="1" time="1"><bid price="1" size="2"/></book>'
     b'<trade symbol="A" price="1" size="1" side="buy" id="1" time="1"/></feed>'),
    (LongPollJsonVenue, b'{"cursor":1,"book":[{"symbol":"A","bids":[[1,2]],"asks":[],"sequence":1,"time":1}],'
                        b'"trade":[{"symbol":"A","price":1,"size":1,"side":"buy","id":1,"time":1}]}'),
])
def test_nothing_makes_it_raise(kind, seed):
    rng = random.Random(7)
    venue = kind()
    with_routes(venue, ("A", "trades"), ("A", "book"))
    assert len(answered(venue, seed)) == 2
    for _ in range(3000):
        raw = bytearray(seed)
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        answered(venue, bytes(raw[:rng.randrange(len(raw) + 1)]))


def test_books_that_a_new_beginning_leaves_out_are_rebuilt():
    table = {"up": {"channel": "book", "symbol": "s", "bids": "b", "asks": "a", "whole": "w"}}
    venue = LongPollJsonVenue(elements=table)
    given, left_out = with_routes(venue, ("A", "book"), ("B", "book"))
    records = [{"s": "A", "b": [], "a": [], "w": True}, {"s": "B", "b": [[1, 1]], "a": []}]
    items = answered(venue, json.dumps({"reset": True, "up": records}).encode())
    assert [type(event) for route, event in items if route is given] == [BookSnapshot]
    assert [type(event) for route, event in items if route is left_out] == [BookBroken, Change]


def test_every_book_of_a_bad_change_is_rebuilt():
    """However many there are: without numbers nothing else tells that a change is missing."""
    table = {"up": {"channel": "book", "symbol": "s", "bids": "b", "asks": "a", "whole": "w"}}
    venue = LongPollJsonVenue(elements=table)
    routes = with_routes(venue, *((f"S{number}", "book") for number in range(50)))
    bad = [{"s": route.native, "b": [[1, None]], "a": []} for route in routes for _ in range(2)]
    said = [event for _, event in answered(venue, json.dumps({"up": bad}).encode())]
    assert {event.topic for event in said} - {""} == {route.topics[0] for route in routes}
    assert sum(isinstance(event, Malformed) for event in said) == 21


def test_what_is_nested_nearly_too_deeply_is_survived():
    """It can be decoded, but not be shown."""
    table = {"t": {"channel": "trades", "symbol": "s", "price": "p", "size": "q"}}
    for depth in range(800, 1000):
        venue = LongPollJsonVenue(elements=table)
        with_routes(venue, ("A", "trades"))
        (_, said), = answered(venue, b'{"t":[{"s":"A","q":1,"p":%s}]}' % (b"[" * depth + b"]" * depth))
        assert isinstance(said, Malformed)


@pytest.mark.parametrize("options, about", [
    ({"path": "feed"}, "path"), ({"path": "/feed?x=1"}, "path"), ({"query": {"a": "{b}"}}, "query"),
    ({"query": {"a": 1}}, "query"), ({"hold": -1}, "hold"), ({"elements": {}}, "elements"),
    ({"colour": 1}, "option"),
])
def test_mistakes_are_named(options, about):
    with pytest.raises(ConfigurationError, match=about):
        LongPollXmlVenue(**options)


# -- streams, on the simulated feed ------------------------------------------------------------------


@pytest.fixture(params=["xml", "json"])
def feed(request, serve):
    sim = serve(LongPollSim, (BTC, ETH), rate=0, format=request.param, levels=20)
    sim.kind = {"xml": LongPollXml, "json": LongPollJson}[request.param]
    return sim


def follow(connect, sim, symbols=(BTC,), channels=("book", "trades"), **options):
    return connect(sim, list(symbols), list(channels), kind=sim.kind, interval=0.05, **options)


def equals_truth(stream, sim, name=BTC):
    truth = sim.book(name)
    book = stream.store.orderbooks.get(stream.exchange, {}).get(name)
    return (book is not None and book["sequence"] == truth.sequence and book["status"] == "live"
            and exact(book["bids"]) == truth.bids and exact(book["asks"]) == truth.asks)


def caught_up(stream, sim, name=BTC):
    wait_until(lambda: equals_truth(stream, sim, name), what=f"the true book; {stream.status()}")


def test_books_are_true_and_trades_complete(feed, connect):
    stream = follow(connect, feed, (BTC, ETH))
    wait_live(stream)
    for _ in range(30):
        feed.advance(3)
        caught_up(stream, feed)
        caught_up(stream, feed, ETH)
    said = [entry.what.id for entry in feed._log if entry.channel == "trades" and entry.symbol == BTC]
    heard = [int(trade.id) for trade in stream.store.trades[stream.exchange][BTC]]
    assert heard == said[-len(heard):] and len(heard) == len(said)
    status = stream.status()
    assert status["gaps"] == status["malformed"] == status["reconnects"] == 0
    assert len({request.peer for request in feed.requests}) <= 2      # kept alive; subscribing may interrupt


def test_symbols_come_and_go_while_it_runs(feed, connect):
    stream = follow(connect, feed)
    wait_live(stream)
    stream.subscribe(ETH)
    wait_until(lambda: equals_truth(stream, feed, ETH))
    feed.advance(5)
    caught_up(stream, feed, BTC)
    caught_up(stream, feed, ETH)
    asked = len(feed.requests)
    stream.unsubscribe(BTC)
    # The server may come to note the request that was given up after the one that took its place.
    wait_until(lambda: any(request.query["symbols"] == ETH for request in list(feed.requests)[asked:]))
    assert BTC not in stream.store.orderbooks[stream.exchange]


@pytest.mark.parametrize("forget", [False, True])
def test_a_subscription_survives_a_restart_of_the_server(feed, connect, forget):
    stream = follow(connect, feed)
    wait_live(stream)
    feed.advance(3)
    caught_up(stream, feed)
    trades = len(stream.store.trades.get(stream.exchange, {}).get(BTC, ()))
    feed.stop()
    wait_until(lambda: stream.state == "backoff")
    assert stream.store.orderbooks[stream.exchange][BTC]["status"] == "stale"
    feed.advance(40)
    made = sum(entry.channel == "trades" and entry.symbol == BTC for entry in feed._log)
    feed.restart(forget=forget)
    caught_up(stream, feed)
    if forget:
        assert stream.status()["notices"] == 1          # what is missing is said
    else:                                               # and with a cursor that is known nothing is
        assert len(stream.store.trades[stream.exchange][BTC]) == made > trades
        assert stream.status()["notices"] == 0
    assert stream.status()["gaps"] == 0


def test_a_gap_is_noticed_and_healed_on_the_same_connection(feed, connect):
    stream = follow(connect, feed)
    wait_live(stream)
    feed.plan(PollFault.SKIP)
    feed.advance(2, BTC)
    wait_until(lambda: stream.status()["gaps"] == 1)
    caught_up(stream, feed)
    assert stream.status()["resyncs"] == 1 and stream.status()["reconnects"] == 0


@pytest.mark.parametrize("fault", [
    PollFault.DROP, PollFault.RESET, PollFault.HALF, PollFault.STATUS, PollFault.LATER(retry_after=0),
    PollFault.LATER(retry_after=None), PollFault.GARBAGE, PollFault.NONSENSE, PollFault.ENTITIES,
    PollFault.OUTSIDE, PollFault.BOMB(size=30_000_000), PollFault.OVERSIZED(size=30_000_000),
    PollFault.STATUS(status=302),
], ids=repr)
def test_every_fault_is_survived(feed, connect, fault):
    stream = follow(connect, feed)
    wait_live(stream)
    feed.plan(fault)
    feed.advance(3)                 # ends the held request; the next one meets the fault
    wait_until(lambda: feed.struck[fault.name] == 1)
    feed.advance(3)
    caught_up(stream, feed)


@pytest.mark.parametrize("fault", [PollFault.HANG, PollFault.STALL], ids=repr)
def test_silent_servers_are_given_up(feed, connect, fault, monkeypatch):
    monkeypatch.setattr("streams.transports.longpoll._GRACE", 0.3)
    stream = follow(connect, feed, hold=0.2)
    wait_live(stream)
    feed.plan(fault)
    feed.advance(3)                 # ends the held request; the next one meets the fault
    wait_until(lambda: stream.status()["reconnects"] >= 1)
    caught_up(stream, feed)


@pytest.mark.parametrize("fault", [None, PollFault.HANG, PollFault.STALL, PollFault.DRIP,
                                   PollFault.LATER(retry_after=9)], ids=repr)
def test_stop_takes_less_than_a_second_in_every_state(feed, connect, fault):
    stream = follow(connect, feed)
    wait_live(stream)
    if fault is not None:
        feed.plan(fault)
        feed.advance(3)
        wait_until(lambda: feed.struck[fault.name] == 1)
    start = time.monotonic()
    assert stream.stop()
    assert time.monotonic() - start < 1.0


def test_a_wrong_key_ends_the_stream(serve, connect):
    sim = serve(LongPollSim, (BTC,), rate=0, key="right", levels=20)
    stream = connect(sim, [BTC], kind=LongPollXml, api_key="wrong")
    wait_until(lambda: stream.state == "failed")
    assert "credentials" in stream.status()["last_error"] and "wrong" not in stream.status()["last_error"]
    stream = connect(sim, [BTC], kind=LongPollXml, api_key="right")
    wait_live(stream)


def test_etags(serve, connect):
    elements = {"book": {"channel": "book", "symbol": "symbol", "bids": "bids", "asks": "asks",
                         "last": "sequence", "whole": True}}
    sim = serve(LongPollSim, (BTC,), rate=0, format="json", levels=20)
    stream = connect(sim, [BTC], kind=LongPollJson, path="/state", cursor="etag", elements=elements, hold=5,
                     query={"symbols": "{symbols}", "hold": "{hold}"})
    wait_live(stream)
    for _ in range(5):
        sim.advance()
        caught_up(stream, sim)
    assert "if-none-match" in sim.requests[-1].headers


def test_the_manager_knows_it_by_name(serve):
    sim = serve(LongPollSim, (BTC,), rate=100, levels=20)
    with StreamManager() as market:
        market.start("longpoll-xml", [BTC], channels=["book", "trades"], url=sim.url)
        market.wait_ready(timeout=10)
        assert market.store.orderbooks["longpoll-xml"][BTC]["bids"]

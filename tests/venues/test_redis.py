"""Market data on Redis channels: the pure venue, and a stream on a real server."""

from __future__ import annotations

import random
import threading
import time
from decimal import Decimal

import msgspec
import pytest

from streams.backoff import Backoff
from streams.errors import AuthenticationFailed, ConfigurationError
from streams.events import Bar, BookUpdate, Quote, Ticker, Trade
from streams.exchanges import Redis
from streams.pubsub import Kind, pack, parse_command
from streams.venue import (
    Acked, BookSnapshot, Failed, Malformed, Notice, Ready, Refused, Unsubscribed,
)
from streams.venues.redis import RedisVenue

from ..raw_peer import PATIENCE
from ..redis_server import redis_server
from ..tools import wait_until, with_limits

__all__ = ["redis_server"]

NOW = 1_700_000_000_000_000_000


def with_routes(venue, *wanted):
    routes = [venue.route(symbol, channel) for symbol, channel in wanted]
    for route in routes:
        venue.add(route)
    return routes


def published(channel, event, pattern=b"", codec=msgspec.json):
    kind = Kind.PMESSAGE if pattern else Kind.MESSAGE
    return pack(kind, channel.encode(), pattern, event if isinstance(event, bytes) else codec.encode(event))


def signals(venue, raw):
    return [event for route, event in venue.receive(raw, NOW) if route is venue.session]


EVENTS = [
    ("trades.A-B", "trades",
     Trade(exchange="x", symbol="A-B", timestamp=5, price=1.5, size=2.0, side="buy", id="7", market="Q",
           conditions=("C", "7"), cancelled=True, corrected=True)),
    ("trades.A-B", "trades", Trade(exchange="x", symbol="A-B", price=1.5, size=2.0)),
    ("quotes.A-B", "quotes",
     Quote(exchange="x", symbol="A-B", bid=1.0, bid_size=2.0, ask=1.5, ask_size=3.0, sequence=77,
           bid_market="Q", ask_market="P", conditions=("R",))),
    ("quotes.A-B", "quotes",
     Quote(exchange="x", symbol="A-B", bid=1.0, bid_size=2.0, ask=None, ask_size=None)),
    ("quotes.A-B", "quotes",
     Quote(exchange="x", symbol="A-B", bid=None, bid_size=None, ask=None, ask_size=None)),
    ("ticker.A-B", "ticker",
     Ticker(exchange="x", symbol="A-B", last=1.0, last_size=2.0, bid=3.0, bid_size=4.0, ask=5.0, ask_size=6.0,
            open=7.0, high=8.0, low=9.0, volume=10.0, quote_volume=11.0, source="rest")),
    ("ticker.A-B", "ticker", Ticker(exchange="x", symbol="A-B", last=1.0, volume=7.0)),
    ("bars:1m.A-B", "bars:1m",
     Bar(exchange="x", symbol="A-B", interval="1m", start=60, open=1.0, high=2.0, low=1.0, close=2.0,
         volume=3.0, quote_volume=4.5, vwap=1.5, trades=9, closed=True, revised=True)),
    ("bars:1m.A-B", "bars:1m",
     Bar(exchange="x", symbol="A-B", interval="1m", start=60, open=1.0, high=2.0, low=1.0, close=2.0)),
]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
@pytest.mark.parametrize("topic, channel, event", EVENTS)
def test_our_own_events_come_back(topic, channel, event, codec):
    venue = RedisVenue(codec=codec)
    route, = with_routes(venue, ("A-B", channel))
    assert route.topics == (topic,)
    expected = msgspec.structs.replace(event, exchange="redis", received=NOW)
    wire = getattr(msgspec, codec)
    assert list(venue.receive(published(topic, event, codec=wire), NOW)) == [(route, expected)]
    assert list(venue.receive(published(topic, [event, event], codec=wire), NOW)) == [(route, expected)] * 2


@pytest.mark.parametrize("channel", ["trades", "quotes", "ticker", "bars:1m"])
def test_records_of_something_else_are_malformed(channel):
    venue = RedisVenue()
    with_routes(venue, ("A-B", channel))
    signal, = signals(venue, published(f"{channel}.A-B", b'{"symbol":"A-B","timestamp":5,"hello":1}'))
    assert isinstance(signal, Malformed)


def test_books_are_whole_or_changed():
    venue = RedisVenue()
    route, = with_routes(venue, ("A-B", "book"))
    assert venue.rule == "dense" and venue.refresh(route) == ()
    update = BookUpdate(exchange="x", symbol="A-B", bids=[(1.0, 2.0)], asks=[(2.0, 0.0)], sequence=4)
    (_, change), = venue.receive(published("book.A-B", update), NOW)
    assert (change.link, change.last, change.bids, change.asks) == (4, 4, [(1.0, 2.0)], [(2.0, 0.0)])
    whole = msgspec.structs.replace(update, snapshot=True, timestamp=9)
    (_, snapshot), = venue.receive(published("book.A-B", whole), NOW)
    assert snapshot == BookSnapshot(4, [(1.0, 2.0)], [(2.0, 0.0)], 9, in_order=True)


def test_exact_numbers_survive():
    venue = RedisVenue(number=Decimal)
    route, = with_routes(venue, ("A-B", "trades"))
    for body in (b'{"price":0.10,"size":"1.50"}', b'{"price":"0.10","size":1.50}'):
        (_, trade), = venue.receive(published("trades.A-B", body), NOW)
        assert (str(trade.price), str(trade.size)) == ("0.10", "1.50")


def test_somebody_elses_records():
    venue = RedisVenue(topic="ticks:{symbol}", elements={
        "trades": {"at": "data/deals", "price": "p", "size": "q", "side": "s", "time": "T", "unit": "s"}})
    route, = with_routes(venue, ("A-B", "trades"))
    assert route.topics == ("ticks:A-B",)
    body = b'{"data":{"deals":[{"p":"1","q":2,"s":"B","T":1.5},{"p":3,"q":4}]}}'
    one, two = (event for _, event in venue.receive(published("ticks:A-B", body), NOW))
    assert (one.price, one.size, one.side, one.timestamp) == (1.0, 2.0, "buy", 1_500_000_000)
    assert (two.price, two.symbol, two.timestamp) == (3.0, "A-B", None)
    with pytest.raises(ConfigurationError, match="trades only"):
        venue.route("A-B", "quotes")


def test_one_channel_for_all_symbols():
    venue = RedisVenue(topic="all.{channel}")
    a, c = with_routes(venue, ("A-B", "trades"), ("C-D", "trades"))
    trades = [{"symbol": name, "price": 1, "size": 1} for name in ("C-D", "E-F", "A-B")]
    assert [route for route, _ in venue.receive(published("all.trades", trades), NOW)] == [c, a]
    venue.remove(a)
    assert [route for route, _ in venue.receive(published("all.trades", trades), NOW)] == [c]


@pytest.mark.parametrize("symbol", ["A-B", "A-*"])
def test_one_channel_for_all_intervals(symbol):
    fields = {"interval": "i", "start": "s", "open": "o", "high": "h", "low": "l", "close": "c"}
    venue = RedisVenue(topic="candles.{symbol}", elements={"bars": fields})
    routes = with_routes(venue, (symbol, "bars:1m"), (symbol, "bars:5m"))
    pattern = routes[0].topics[0].encode() if "*" in symbol else b""
    bars = [{"i": interval, "s": 1, "o": 1, "h": 1, "l": 1, "c": 1} for interval in ("5m", "1h", "1m")]
    heard = list(venue.receive(published("candles.A-B", bars, pattern), NOW))
    assert [(route, bar.interval) for route, bar in heard] == [(routes[1], "5m"), (routes[0], "1m")]


def test_patterns():
    venue = RedisVenue(topic="md[1].{channel}.{symbol}.x")
    route, = with_routes(venue, ("*-USDT", "trades"))
    assert route.topics == (r"md\[1\].trades.*-USDT.x",)
    record = {"symbol": "other", "price": 1, "size": 1}
    raw = published("md[1].trades.A-USDT.x", record, route.topics[0].encode())
    (heard, trade), = venue.receive(raw, NOW)
    assert heard is route and trade.symbol == "A-USDT"
    for channel, settings in (("book", {}), ("trades", {"topic": "all.{channel}"})):
        with pytest.raises(ConfigurationError, match="no symbol of channel"):
            RedisVenue(**settings).route("*", channel)


def test_subscribing_and_answers():
    venue = RedisVenue()
    with_routes(venue, ("A", "trades"), ("B*", "trades"), ("C", "trades"))
    frames = venue.subscribe(["trades.A", "trades.B*", "trades.C"])
    assert [parse_command(frame) for frame in frames] == [
        ("subscribe", ["trades.A", "trades.C"]), ("psubscribe", ["trades.B*"])]
    assert signals(venue, pack(Kind.SUBSCRIBE, b"trades.A", payload=b"1")) == [Acked(("trades.A",))]
    assert signals(venue, pack(Kind.SUBSCRIBE, b"trades.C", payload=b"2")) == [Acked(("trades.C",))]
    assert signals(venue, pack(Kind.PSUBSCRIBE, b"", b"trades.B*", b"3")) == [Acked(("trades.B*",))]
    frames = venue.unsubscribe(["trades.A", "trades.B*"])
    assert [parse_command(frame)[0] for frame in frames] == ["unsubscribe", "punsubscribe"]
    assert signals(venue, pack(Kind.UNSUBSCRIBE, b"trades.A", payload=b"2")) == [Unsubscribed(("trades.A",))]
    assert signals(venue, pack(Kind.PUNSUBSCRIBE, b"", b"trades.B*", b"1")) == [Unsubscribed(("trades.B*",))]


def test_refusals_belong_to_the_command_that_was_refused():
    venue = RedisVenue()
    with_routes(venue, ("A", "trades"), ("B", "trades"), ("C*", "trades"))
    venue.subscribe(["trades.A"])
    venue.subscribe(["trades.B", "trades.C*"])
    signals(venue, pack(Kind.SUBSCRIBE, b"trades.A", payload=b"1"))
    assert signals(venue, pack(Kind.ERROR, payload=b"NOPERM no such luck")) == [
        Refused(("trades.B",), "NOPERM no such luck")]
    assert signals(venue, pack(Kind.ERROR, payload=b"OOM later")) == [
        Refused(("trades.C*",), "OOM later", transient=True)]
    assert signals(venue, pack(Kind.ERROR, payload=b"ERR out of the blue")) == [Notice("ERR out of the blue")]


def test_the_beginning_of_a_session():
    venue = RedisVenue(api_key="me", api_secret="s3cret")
    assert list(venue.opened(NOW)) == []
    assert signals(venue, pack(Kind.HELLO)) == [Ready()]
    assert dict(venue.headers()) == {"username": "me", "password": "s3cret"}
    assert dict(RedisVenue(api_key="s3cret").headers()) == {"password": "s3cret"}
    for raw, kind in ((pack(Kind.DENIED, b"login", payload=b"WRONGPASS"), AuthenticationFailed),
                      (pack(Kind.ERROR, payload=b"NOAUTH Authentication required"), AuthenticationFailed),
                      (pack(Kind.DENIED, b"database", payload=b"out of range"), ConfigurationError)):
        failed, = signals(venue, raw)
        assert isinstance(failed, Failed) and isinstance(failed.error, kind)


def test_bad_messages_are_counted_and_spoil_nothing_else():
    venue = RedisVenue()
    trades, book = with_routes(venue, ("A", "trades"), ("A", "book"))
    good = {"symbol": "A", "price": 1, "size": 1}
    mixed = [good, {"price": "x"}, 7, None, good]
    items = list(venue.receive(published("trades.A", mixed), NOW))
    assert [isinstance(event, Malformed) for _, event in items] == [False, True, True, True, False]
    for raw, topic in ((published("trades.A", b"{not json"), ""),
                       (published("book.A", b'{"bids":[[1]]}'), "book.A"),
                       (published("book.A", b"\xff"), "book.A"), (b"junk", ""), (b"", ""), (pack(99), ""),
                       (published("trades.A", b"[" * 100_000), "")):
        bad, = signals(venue, raw)
        assert isinstance(bad, Malformed) and bad.topic == topic
    assert list(venue.receive(published("unknown", good), NOW)) == []
    many = list(venue.receive(published("trades.A", [7] * 1000), NOW))
    assert len(many) == 21 and "980 more" in many[-1][1].reason


def test_a_bad_change_of_a_shared_channel_is_anybodys():
    """Without numbers nothing else tells whose change is missing."""
    fields = {"symbol": "s", "bids": "b", "asks": "a", "whole": "w"}
    for more, topic in (({}, "book"), ({"last": "n"}, "")):
        venue = RedisVenue(topic="{channel}", elements={"book": {**fields, **more}})
        with_routes(venue, ("A", "book"), ("B", "book"))
        for record in ({"s": "A", "n": 1, "b": [[1, None]], "a": []}, b"{"):
            said, = signals(venue, published("book", record))
            assert isinstance(said, Malformed) and said.topic == topic


def test_nothing_makes_it_raise():
    rng = random.Random(3)
    venue = RedisVenue()
    with_routes(venue, ("A", "trades"), ("A", "book"), ("A*", "quotes"))
    seeds = [published("trades.A", [{"price": 1, "size": 1}]), published("book.A", {"bids": [], "asks": []}),
             published("quotes.A", {"bid": 1, "ask": 2}, b"quotes.A*"), pack(Kind.HELLO), pack(Kind.ERROR)]
    for _ in range(5000):
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
        list(venue.receive(bytes(raw[:rng.randrange(len(raw) + 1)]), NOW))


@pytest.mark.parametrize("options, about", [
    ({"codec": "xml"}, "codec"), ({"topic": "{nothing}"}, "topic"), ({"topic": "fixed"}, "topic"),
    ({"topic": "{channel}*"}, "topic"), ({"elements": {"deals": {}}}, "channel"), ({"colour": 1}, "option"),
])
def test_mistakes_are_named(options, about):
    with pytest.raises(ConfigurationError, match=about):
        RedisVenue(**options)


# -- a stream, on a real server --------------------------------------------------------------------


def book_message(sequence, bids, asks, snapshot=False):
    return msgspec.json.encode(BookUpdate(
        exchange="x", symbol="A-B", bids=bids, asks=asks, sequence=sequence, snapshot=snapshot))


def subscribers(client, name):
    return client.pubsub_numsub(name)[0][1]


def test_a_stream_follows_a_publisher_through_a_restart_of_the_server(redis_server):
    stream = Redis(["A-B"], ["book", "trades"], url=redis_server.url)
    stream.start()
    try:
        for life in range(2):
            with redis_server.client() as client:
                wait_until(lambda: subscribers(client, "book.A-B") == 1, PATIENCE)
                client.publish("book.A-B", book_message(1, [(1.0, 1.0)], [(2.0, 1.0)], snapshot=True))
                client.publish("book.A-B", book_message(2, [(1.0, 0.0), (1.5, 3.0)], []))
                client.publish("trades.A-B", msgspec.json.encode(
                    Trade(exchange="x", symbol="A-B", price=1.5, size=float(life + 1))))
                trades = stream.store.trades
                wait_until(lambda: len(trades.get("redis", {}).get("A-B", ())) == life + 1, PATIENCE)
                book = stream.store.orderbooks["redis"]["A-B"]
                assert book["status"] == "live" and book["bids"] == [(1.5, 3.0)]
                client.publish("book.A-B", book_message(4, [(1.6, 3.0)], []))       # 3 is missing
                wait_until(lambda: book["status"] == "syncing", PATIENCE)
                client.publish("book.A-B", book_message(5, [(1.7, 3.0)], [(2.0, 1.0)], snapshot=True))
                wait_until(lambda: book["status"] == "live", PATIENCE)
                assert book["bids"] == [(1.7, 3.0)]
            if life == 0:
                redis_server.stop()
                wait_until(lambda: book["status"] == "stale", PATIENCE)
                redis_server.start()
        status = stream.status()
        assert status["gaps"] == 2 and status["reconnects"] == 1 and status["malformed"] == 0
    finally:
        assert stream.stop()


@pytest.fixture
def follow(redis_server):
    """A stream of trades on the server, which it pings after 0.3 s of silence; stopped in the end."""
    kind = with_limits(Redis, probe_after=0.3)
    stream = kind(["A-B"], ["trades"], url=redis_server.url, backoff=Backoff(0.05, 0.1), connect_timeout=0.5)
    stream.start()
    wait_live_connection(stream)
    yield stream
    assert stream.stop()


def wait_live_connection(stream):
    wait_until(lambda: all(one["state"] == "live" for one in stream.status()["subscriptions"].values()),
               PATIENCE, what=f"{stream.status()}")


def test_a_server_that_hangs_is_noticed_and_everything_restored(redis_server, follow):
    redis_server.suspend()
    try:
        wait_until(lambda: follow.state in ("backoff", "connecting"), PATIENCE)
        assert follow.status()["last_error"]
    finally:
        redis_server.resume()
    wait_until(lambda: follow.status()["reconnects"] >= 1, PATIENCE)
    wait_live_connection(follow)
    with redis_server.client() as client:
        wait_until(lambda: subscribers(client, "trades.A-B") >= 1, PATIENCE)
        client.publish("trades.A-B", msgspec.json.encode(
            Trade(exchange="x", symbol="A-B", price=1.5, size=1.0)))
    wait_until(lambda: follow.store.trades.get("redis"), PATIENCE)


def test_a_quiet_server_that_answers_is_left_alone(redis_server, follow):
    with redis_server.client() as client:
        def pings():
            return client.info("commandstats")["cmdstat_ping"]["calls"]     # there is one at the log-in

        before = pings()
        wait_until(lambda: pings() >= before + 3, PATIENCE)
    assert follow.status()["reconnects"] == 0 and follow.state == "live"


@pytest.mark.parametrize("state", ["idle", "hanging", "flood", "gone"])
def test_stop_takes_less_than_a_second_in_every_state(redis_server, follow, state):
    ended = threading.Event()

    def publish():
        with redis_server.client() as client:
            while not ended.is_set():
                client.publish("trades.A-B", b"[" + b",".join([TRADE] * 200) + b"]")

    thread = threading.Thread(target=publish)
    if state == "flood":
        thread.start()
        wait_until(lambda: follow.status()["messages"] > 50, PATIENCE)
    elif state == "hanging":
        redis_server.suspend()
    elif state == "gone":
        redis_server.stop()
        wait_until(lambda: follow.state in ("backoff", "connecting"), PATIENCE)
    began = time.monotonic()
    try:
        assert follow.stop()
        assert time.monotonic() - began < 1.0
    finally:
        ended.set()
        if state == "flood":
            thread.join(PATIENCE)
        elif state == "hanging":
            redis_server.resume()


TRADE = msgspec.json.encode(Trade(exchange="x", symbol="A-B", price=1.5, size=1.0))

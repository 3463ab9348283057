"""Kraken's pure half: what it says, what it understands, and what it answers to bad input."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from streams.checksums import check_digits
from streams.errors import ConfigurationError
from streams.exchanges import Kraken
from streams.venue import Acked, Alive, BookBroken, BookSnapshot, Malformed, Notice, Refused
from streams.venues import kraken_messages as wire

from . import kraken_frames as frames
from .stock_tools import NOW, events, heard, listen, mangled, one, signals, survives

WHEN = 1_696_613_755_440_295_000        # 2023-10-06T17:35:55.440295Z


def venue(*wanted, **options):
    made = Kraken.venue(**options)
    listen(made, *wanted)
    return made


# -- questions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbol, native", [
    ("BTC-USD", "BTC/USD"), ("btc-usd", "BTC/USD"), ("BTC/USD", "BTC/USD"), ("XBT-EUR", "BTC/EUR"),
    ("ETH/XBT", "ETH/BTC"), ("xdg-usd", "DOGE/USD"), ("AAPLx-USD", "AAPLx/USD"), ("1INCH-USD", "1INCH/USD")])
def test_symbols(symbol, native):
    assert Kraken.venue().native(symbol) == native


@pytest.mark.parametrize("symbol", ["BTCUSD", "BTC-", "/USD", "BTC-USD-X", "*", "", "BTC USD", None])
def test_what_is_no_symbol(symbol):
    with pytest.raises(ConfigurationError, match="write it like 'BTC-USD"):
        Kraken.venue().native(symbol)


@pytest.mark.parametrize("depth, asked", [(None, 10), (1, 10), (10, 10), (11, 25), (100, 100), (1000, 1000)])
def test_the_next_depth_that_exists_is_asked_for(depth, asked):
    frame = one(Kraken.venue(depth=depth).subscribe(["book:BTC/USD"]))
    assert json.loads(frame)["params"]["depth"] == asked


def test_mistakes_are_one_line():
    with pytest.raises(ConfigurationError, match="1001 is more than the 1000"):
        Kraken(["BTC-USD"], depth=1001)
    with pytest.raises(ConfigurationError, match="bars:15d"):
        Kraken(["BTC-USD"], ["bars:2m"])
    with pytest.raises(ConfigurationError, match="has no option 'book_mode'"):
        Kraken(["BTC-USD"], book_mode="x")


def test_each_interval_has_a_connection_of_its_own():
    made = Kraken.venue()
    assert made.endpoint("book") == made.endpoint("trades") == made.endpoint("quotes")
    assert made.endpoint("bars:1m") != made.endpoint("book")
    assert made.endpoint("bars:5m") != made.endpoint("bars:1m")
    for channel in ("book", "bars:5m"):
        assert made.address(made.url, made.endpoint(channel)) == "wss://ws.kraken.com/v2"
    with pytest.raises(ConfigurationError, match="StreamManager"):
        Kraken(["BTC-USD"], ["bars:1m", "bars:5m"])


# -- the conversation ----------------------------------------------------------------------------------


def test_one_message_for_each_channel():
    made = Kraken.venue(depth=25)
    said = [json.loads(frame) for frame in made.subscribe(
        ["book:BTC/USD", "trade:BTC/USD", "book:ETH/USD", "ticker:ETH/USD", "ohlc.5:BTC/USD"])]
    assert said == [
        {"method": "subscribe", "req_id": 1, "params": {
            "channel": "book", "symbol": ["BTC/USD", "ETH/USD"], "depth": 25, "snapshot": True}},
        {"method": "subscribe", "req_id": 2, "params": {
            "channel": "trade", "symbol": ["BTC/USD"], "snapshot": False}},
        {"method": "subscribe", "req_id": 3, "params": {
            "channel": "ticker", "symbol": ["ETH/USD"], "event_trigger": "bbo", "snapshot": True}},
        {"method": "subscribe", "req_id": 4, "params": {
            "channel": "ohlc", "symbol": ["BTC/USD"], "interval": 5, "snapshot": False}}]
    assert [json.loads(frame) for frame in made.unsubscribe(["book:BTC/USD", "ohlc.5:BTC/USD"])] == [
        {"method": "unsubscribe", "req_id": 5,
         "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 25}},
        {"method": "unsubscribe", "req_id": 6,
         "params": {"channel": "ohlc", "symbol": ["BTC/USD"], "interval": 5}}]


def test_quotes_and_ticker_share_a_subscription():
    made = Kraken.venue()
    assert made.topics("quotes", "BTC/USD") == made.topics("ticker", "BTC/USD") == ("ticker:BTC/USD",)


def test_answers():
    made = Kraken.venue()
    made.subscribe(["book:BTC/USD", "ohlc.5:BTC/USD"])
    assert signals(made, frames.acked("book", 1, '"depth":10,')) == [Acked(("book:BTC/USD",))]
    assert signals(made, frames.acked("ohlc", 2, '"interval":5,')) == [Acked(("ohlc.5:BTC/USD",))]
    made.unsubscribe(["book:BTC/USD"])
    assert signals(made, frames.acked("book", 3, method="unsubscribe")) == [Alive()]


@pytest.mark.parametrize("text, symbol, topics, transient", [
    ("Currency pair not supported FOO/BAR", "FOO/BAR", ("book:FOO/BAR",), False),
    ("Subscription depth not supported", "", ("book:BTC/USD", "book:FOO/BAR"), False),
    ("Exceeded msg rate", "", ("book:BTC/USD", "book:FOO/BAR"), True)])
def test_refusals(text, symbol, topics, transient):
    made = Kraken.venue()
    made.subscribe(["book:BTC/USD", "book:FOO/BAR"])
    assert signals(made, frames.refused(text, 1, symbol)) == [Refused(topics, text, transient)]


def test_each_symbol_of_a_request_is_answered_alone():
    made = Kraken.venue()
    made.subscribe(["book:FOO/BAR", "book:BTC/USD"])
    assert signals(made, frames.acked("book", 1)) == [Acked(("book:BTC/USD",))]
    assert signals(made, frames.refused("Something", 1)) == [Refused(("book:FOO/BAR",), "Something")]
    assert signals(made, frames.refused("Something", 1)) == [Notice("Something")]       # all is answered


def test_what_is_subscribed_already_counts_as_confirmed():
    made = Kraken.venue()
    made.subscribe(["ohlc.5:BTC/USD"])
    text = "Already subscribed to one ohlc interval on this symbol"
    assert signals(made, frames.refused(text, 1, "BTC/USD")) == [Acked(("ohlc.5:BTC/USD",))]


@pytest.mark.parametrize("raw, said", [
    (frames.MAINTENANCE, "system is maintenance"), (b'{"error":"Exceeded msg rate"}', "Exceeded msg rate"),
    (frames.refused("Subscription Not Found", 7, "BTC/USD", "unsubscribe"), "Subscription Not Found")])
def test_what_only_needs_to_be_noted(raw, said):
    assert signals(Kraken.venue(), raw) == [Notice(said)]


@pytest.mark.parametrize("raw", [frames.STATUS, frames.HEARTBEAT, frames.PONG])
def test_what_is_only_a_sign_of_life(raw):
    assert signals(Kraken.venue(), raw) == [Alive()]


@pytest.mark.parametrize("raw", [frames.TRADE, frames.TICKER, frames.SNAPSHOT,
                                 frames.candle("2023-10-04T16:25:00.000000000Z")])
def test_what_nobody_waits_for_is_ignored(raw):
    assert heard(Kraken.venue(), raw) == []


# -- books ---------------------------------------------------------------------------------------------


def _exact(levels):
    return [(Decimal(price), Decimal(size)) for price, size in levels]


def test_the_example_of_the_documentation():
    assert "".join(wire.FORMULA.text(*level) for level in _exact(frames.ASKS)) == frames.ASKS_TEXT
    assert "".join(wire.FORMULA.text(*level) for level in _exact(frames.BIDS)) == frames.BIDS_TEXT
    found = one(events(venue(("BTC-USD", "book"), number=Decimal), frames.SNAPSHOT))
    assert found == BookSnapshot(0, _exact(frames.BIDS), _exact(frames.ASKS), WHEN)
    assert str(found.bids[0][1]) == "0.10000000"


def test_floats_are_for_the_user_only():
    found = one(events(venue(("BTC-USD", "book")), frames.SNAPSHOT))
    assert found.bids == [(float(price), float(size)) for price, size in frames.BIDS]
    assert type(found.bids[0][0]) is float


@pytest.mark.parametrize("digit", range(0, 8, 3))
def test_one_wrong_digit_is_noticed(digit):
    size = "1.5458201" + "5"
    wrong = size[:-1 - digit] + ("3" if size[-1 - digit] != "3" else "4") + size[len(size) - digit:]
    bids = [*frames.BIDS[:1], ("45283.4", wrong), *frames.BIDS[2:]]
    raw = frames.book("snapshot", bids, frames.ASKS, frames.CHECKSUM)
    broken = one(events(venue(("BTC-USD", "book")), raw))
    assert isinstance(broken, BookBroken) and broken.checksum
    assert broken.reason.endswith("the venue says 3310070434")


def test_a_lost_trailing_zero_is_noticed():
    raw = frames.SNAPSHOT.replace(b"0.10000000", b"0.1")
    assert one(events(venue(("BTC-USD", "book")), raw)).checksum


def _checksum(bids, asks):
    import zlib
    text = "".join((price + size.lstrip("0.") if size.startswith("0") else price + size).replace(".", "")
                   for price, size in [*asks[:10], *bids[:10]])
    return zlib.crc32(text.encode())


def test_levels_beyond_the_depth_are_removed_for_the_user_too():
    made = venue(("BTC-USD", "book"))
    heard(made, frames.SNAPSHOT)
    better = ("45284.0", "2.00000000")
    bids = [better, *frames.BIDS[:9]]
    assert _checksum(frames.BIDS, frames.ASKS) == frames.CHECKSUM
    change = one(events(made, frames.book("update", [better], [], _checksum(bids, frames.ASKS))))
    assert change.bids == [(45284.0, 2.0), (45276.6, 0.0)] and change.asks == []
    assert (change.link, change.last, change.time) == (0, 0, WHEN)
    # and it comes back when there is room again
    back = one(events(made, frames.book("update", [("45284.0", "0.00000000"), frames.BIDS[9]], [],
                                        frames.CHECKSUM)))
    assert back.bids == [(45284.0, 0.0), (45276.6, 0.15445238)]


def test_a_price_that_is_named_twice_has_its_last_size():
    made = venue(("BTC-USD", "book"))
    heard(made, frames.SNAPSHOT)
    change = one(events(made, frames.book(
        "update", [("45283.5", "9.00000000"), ("45283.5", "0.10000000")], [], frames.CHECKSUM)))
    assert change.bids == [(45283.5, 0.1)]


def test_after_a_mismatch_nothing_counts_but_a_snapshot():
    made = venue(("BTC-USD", "book"), ("ETH-USD", "book"))
    heard(made, frames.SNAPSHOT)
    heard(made, frames.SNAPSHOT.replace(b"BTC", b"ETH"))
    assert one(events(made, frames.book("update", [("45283.5", "9.00000000")], [], 1))).checksum
    assert heard(made, frames.book("update", [], [], frames.CHECKSUM)) == []
    assert one(events(made, frames.book("update", [], [], frames.CHECKSUM, "ETH/USD"))).bids == []
    assert isinstance(one(events(made, frames.SNAPSHOT)), BookSnapshot)
    assert one(events(made, frames.book("update", [], [], frames.CHECKSUM))).bids == []


def test_updates_before_the_snapshot_are_of_no_use():
    made = venue(("BTC-USD", "book"))
    assert heard(made, frames.book("update", [frames.BIDS[0]], [], 5)) == []


def test_a_route_that_was_away_needs_a_new_snapshot():
    made = venue(("BTC-USD", "book"))
    heard(made, frames.SNAPSHOT)
    route = made.routes["book", "BTC/USD"]
    made.remove(route)
    assert heard(made, frames.book("update", [], [], frames.CHECKSUM)) == []
    made.add(route)
    assert heard(made, frames.book("update", [], [], frames.CHECKSUM)) == []


@pytest.mark.parametrize("old, new", [
    (b'"qty":0.10000000', b'"qty":-0.1'), (b'"price":45283.5', b'"price":"NaN"'), (b"45283.5", b"1e999999"),
    (b"45283.5", b"1e-999999"), (b"45283.5", b"0"), (b"3310070434", b"null"), (b'"asks"', b'"esks"'),
    (b"snapshot", b"snapshat"), (b"2023-10-06T", b"yesterday "), (b"}]}", b"}]")])
def test_a_malformed_book_is_counted_and_rebuilt(old, new):
    made = venue(("BTC-USD", "book"), ("ETH-USD", "book"))
    heard(made, frames.SNAPSHOT)
    (_, first), (route, second) = heard(made, frames.SNAPSHOT.replace(old, new))
    assert isinstance(first, Malformed) and route.native == "BTC/USD"
    assert second == BookBroken("a malformed update")
    assert heard(made, frames.book("update", [], [], frames.CHECKSUM)) == []


def test_keys_may_come_in_another_order():
    made = venue(("BTC-USD", "book"))
    message = json.loads(frames.SNAPSHOT)
    data = frames.SNAPSHOT.partition(b'"data":')[2][:-1].decode()
    assert list(message) == ["channel", "type", "data"]
    raw = f'{{"data":{data},"type":"snapshot","channel":"book"}}'.encode()
    assert isinstance(one(events(made, raw)), BookSnapshot)


def test_impossible_digits():
    check_digits([(Decimal("1e-8"), Decimal("0"))])
    for level in ((Decimal("NaN"), Decimal(1)), (Decimal(1), Decimal("sNaN")), (Decimal(1), Decimal("-1")),
                  (Decimal("inf"), Decimal(1)), (Decimal(1), Decimal("1e-9999")), (Decimal(0), Decimal(1))):
        with pytest.raises((ValueError, ArithmeticError)):
            check_digits([level])


# -- the other channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [float, Decimal])
def test_trades(number):
    first, second = events(venue(("XBT-USD", "trades"), number=number), frames.TRADE)
    assert (first.price, first.size, first.side, first.id) == (
        number("105944.20"), number("0.00027625"), "sell", "10218208")
    assert (second.side, first.symbol, first.timestamp, first.received) == ("buy", "XBT-USD", WHEN, NOW)


def test_trades_of_the_past_are_no_events():
    assert heard(venue(("BTC-USD", "trades")), frames.TRADE.replace(b"update", b"snapshot")) == []


@pytest.mark.parametrize("number", [float, Decimal])
def test_one_message_is_quote_and_ticker(number):
    quote, ticker = events(venue(("BTC-USD", "quotes"), ("BTC-USD", "ticker"), number=number), frames.TICKER)
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == tuple(
        map(number, ("105944.20", "2.5", "105944.30", "3.2")))
    assert (ticker.last, ticker.high, ticker.low, ticker.volume) == tuple(
        map(number, ("105899.40", "106613.10", "104711.00", "163.28908096")))
    assert (ticker.bid, ticker.ask, ticker.source, ticker.timestamp) == (
        quote.bid, quote.ask, "stream", None)


def test_an_empty_side_has_no_price():
    raw = frames.TICKER.replace(b'"bid":105944.20,"bid_qty":2.5', b'"bid":0.00,"bid_qty":0.0')
    quote = one(events(venue(("BTC-USD", "quotes")), raw))
    assert (quote.bid, quote.bid_size, quote.ask) == (None, None, 105944.3)


def test_a_route_that_is_gone_hears_nothing():
    made = venue(("BTC-USD", "quotes"), ("BTC-USD", "ticker"))
    made.remove(made.routes["quotes", "BTC/USD"])
    assert type(one(events(made, frames.TICKER))).__name__ == "Ticker"


def test_a_bar_is_closed_when_the_next_begins():
    made = venue(("BTC-USD", "bars:5m"))
    first = one(events(made, frames.candle("2023-10-04T16:25:00.000000000Z")))
    assert (first.start, first.interval, first.closed) == (1_696_436_700_000_000_000, "5m", False)
    assert (first.open, first.close, first.trades, first.vwap) == (106038.2, 106040.1, 12, 106039.6)
    again = one(events(made, frames.candle("2023-10-04T16:25:00.000000000Z", "106041.0")))
    closed, following = events(made, frames.candle("2023-10-04T16:30:00.000000000Z"))
    assert (again.close, closed.close, closed.closed, closed.start) == (106041.0, 106041.0, True, first.start)
    assert not following.closed and following.start > first.start


@pytest.mark.parametrize("raw", [
    frames.TRADE.replace(b"105944.20", b"-1"), frames.TRADE.replace(b'"sell"', b'"up"'),
    frames.TICKER.replace(b"2.5", b"-2.5"), frames.TICKER.replace(b'"last"', b'"lost"'),
    frames.TRADE.replace(b'"trade"', b'"martian"'), b"", b"null", b"[]", b"\xff", b'{"channel":7}',
    b'{"method":"subscribe","success":true}', b"{}"])
@pytest.mark.parametrize("number", [float, Decimal])
def test_what_can_not_be_understood_is_malformed(raw, number):
    made = venue(("BTC-USD", "trades"), ("BTC-USD", "quotes"), number=number)
    assert isinstance(one(signals(made, raw)), Malformed)


def test_nothing_makes_it_raise():
    made = venue(("BTC-USD", "book"), ("BTC-USD", "trades"), ("BTC-USD", "ticker"), ("BTC-USD", "bars:5m"))
    made.subscribe(["book:BTC/USD"])
    seeds = [frames.SNAPSHOT, frames.TRADE, frames.TICKER, frames.STATUS, frames.PONG,
             frames.acked("book", 1), frames.refused("x", 1), frames.candle("2023-10-04T16:25:00.000000000Z"),
             frames.book("update", [], frames.ASKS[:2], frames.CHECKSUM)]
    assert survives(made, mangled(seeds, 3000)) > 1000


# -- REST --------------------------------------------------------------------------------------------------


def test_rest():
    made = Kraken.venue(number=Decimal)
    request = made.ticker_request("XBT-USD")
    assert (request.path, request.params) == ("/0/public/Ticker", {"pair": "BTCUSD"})
    body = (b'{"error":[],"result":{"XXBTZUSD":{"a":["52609.60000","1","1.000"],'
            b'"b":["52609.50000","1","2.500"],"c":["52641.10000","0.00080000"],'
            b'"v":["1920.83610601","7954.00219674"],"p":["52389.9","54022.9"],'
            b'"t":[23329,80463],"l":["51513.9","51513.9"],"h":["53219.9","57200.0"],"o":"52280.40000"}}}')
    ticker = made.ticker_answer("XBT-USD", body, NOW)
    assert (ticker.bid, ticker.ask, ticker.last, ticker.source) == (
        Decimal("52609.5"), Decimal("52609.6"), Decimal("52641.1"), "rest")
    assert (ticker.volume, ticker.high, ticker.bid_size) == (
        Decimal("7954.00219674"), Decimal("57200.0"), Decimal("2.500"))
    book = made.orderbook_answer("XBT-USD", (
        b'{"error":[],"result":{"XXBTZUSD":{"asks":[["52523.0","1.199",1616663113]],'
        b'"bids":[["52522.9","0.753",1616663112]]}}}'), NOW)
    assert book == BookSnapshot(0, _exact([("52522.9", "0.753")]), _exact([("52523", "1.199")]))
    assert made.orderbook_request("BTC-USD").params == {"pair": "BTCUSD", "count": 10}
    with pytest.raises(ValueError, match="Unknown asset pair"):
        made.ticker_answer("X-Y", b'{"error":["EQuery:Unknown asset pair"]}', NOW)

"""Tables that say which field is where."""

from __future__ import annotations

from decimal import Decimal
from xml.etree import ElementTree

import pytest

from streams.errors import ConfigurationError
from streams.events import Bar, Quote, Ticker, Trade
from streams.mapping import Change, JsonReader, XmlReader, compile_elements, rule_of
from streams.venue import BookSnapshot


def element(path, fields, reader=None, number=float):
    return compile_elements({path: fields}, reader or JsonReader(), number, "mine")[0]


def event(fields, record, number=float):
    return element(".", fields, number=number).event(record, "mine", "A-B", 9)


def test_trades_from_xml_attributes_texts_and_children():
    fields = {"channel": "trades", "symbol": "@s", "price": "px", "size": "deep/@q", "side": ".",
              "id": "@n", "time": "@t", "unit": "s"}
    one = element("deals/deal", fields, XmlReader())
    root = ElementTree.fromstring(
        '<x><deals><deal s="A-B" n="7" t="1.5">sell<px>2.50</px><deep q="3"/></deal><deal/></deals>'
        '<deal/></x>')
    records = list(one._reader.records(root, one.path))
    assert len(records) == 2 and one.symbol_of(records[0]) == "A-B" and one.channel_of(records[0]) == "trades"
    assert one.event(records[0], "mine", "A-B", 9) == Trade(
        exchange="mine", symbol="A-B", timestamp=1_500_000_000, received=9, price=2.5, size=3.0,
        side="sell", id="7")
    for bad in (one.symbol_of, lambda record: one.event(record, "mine", "A-B", 9)):
        with pytest.raises(ValueError):
            bad(records[1])


def test_every_channel_from_json():
    quotes = {"channel": "quotes", "bid": "b/p", "ask": "a/p", "bid_size": "b/q", "sequence": "n"}
    assert event(quotes, {"b": {"p": "1.5", "q": 2}, "a": {"p": 1.6}, "n": 4}) == Quote(
        exchange="mine", symbol="A-B", received=9, bid=1.5, bid_size=2.0, ask=1.6, ask_size=None,
        sequence=4)
    assert event({"channel": "ticker", "last": "@l", "volume": "v", "time": "t", "unit": "iso"},
                 {"l": 3, "t": "2024-01-02T03:04:05.678901234Z"}) == Ticker(
        exchange="mine", symbol="A-B", received=9, timestamp=1704164645678901234, last=3.0)
    bars = {"channel": "bars", "interval": "i", "start": "s", "open": "o", "high": "h", "low": "l",
            "close": "c", "trades": "n", "closed": "x"}
    record = {"i": "1m", "s": 60_000, "o": 1, "h": 2, "l": 1, "c": 2, "n": 5, "x": True}
    assert event(bars, record) == Bar(
        exchange="mine", symbol="A-B", received=9, interval="1m", start=60_000_000_000, open=1.0,
        high=2.0, low=1.0, close=2.0, trades=5, closed=True)
    assert element(".", bars).channel_of(record) == "bars:1m"


def test_books_whole_and_changed():
    fields = {"channel": "book", "bids": "b", "asks": "a", "first": "f", "last": "l", "whole": "w",
              "time": "t"}
    record = {"b": [["1", "2"], [0.5, 0]], "a": [[2, 3, "extra"]], "f": 4, "l": 6, "t": 1}
    assert event(fields, record) == Change(4, 6, [(1.0, 2.0), (0.5, 0.0)], [(2.0, 3.0)], 1_000_000)
    assert event(fields, {**record, "w": "true"}) == BookSnapshot(
        6, [(1.0, 2.0), (0.5, 0.0)], [(2.0, 3.0)], 1_000_000, in_order=True)
    chained = {"channel": "book", "bids": "b", "asks": "a", "previous": "f", "last": "l", "whole": "w"}
    assert event(chained, record)[:2] == (4, 6)
    counted = {"channel": "book", "bids": "b", "asks": "a", "last": "l", "whole": "w"}
    assert event(counted, {"l": 6, "a": []}) == Change(6, 6, [], [], 0)
    xml = element("book", {"channel": "book", "bids": "bid", "asks": "ask", "price": "@p", "size": "@q",
                           "whole": True}, XmlReader())
    root = ElementTree.fromstring('<book><bid p="1" q="2"/><ask p="2" q="1"/><ask p="3" q="4"/></book>')
    assert xml.event(root, "mine", "A-B", 9) == BookSnapshot(
        0, [(1.0, 2.0)], [(2.0, 1.0), (3.0, 4.0)], 0, in_order=True)


def test_exact_numbers():
    trade = event({"channel": "trades", "price": "p", "size": "q"}, {"p": "0.10", "q": 0.1}, number=Decimal)
    assert str(trade.price) == "0.10" and trade.size == Decimal("0.1")


@pytest.mark.parametrize("fields, rule", [
    ({"whole": True}, "snapshots"), ({"whole": "w"}, "unsequenced"), ({"whole": "w", "last": "l"}, "dense"),
    ({"whole": "w", "last": "l", "first": "f"}, "dense"),
    ({"whole": "w", "last": "l", "previous": "p"}, "chained"),
])
def test_how_books_are_numbered_follows_from_the_fields(fields, rule):
    assert rule_of([element(".", {"channel": "book", "bids": "b", "asks": "a", **fields})]) == rule


TRADE = {"channel": "trades", "price": "p", "size": "q", "side": "s", "time": "t"}
BOOK = {"channel": "book", "bids": "b", "asks": "a", "last": "l", "whole": "w"}


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("fields, record, about", [
    (TRADE, {}, "price"), ({"channel": "quotes", "bid": "b", "ask": "a"}, {"c": 1}, "nothing in it"),
    ({"channel": "bars", "interval": "i", "start": "s", "open": "o", "high": "h", "low": "l", "close": "c"},
     {"i": "1m", "s": 1, "o": 1, "h": 1, "l": 0, "c": 1}, "low: 0 is impossible"), (TRADE, {"p": 1}, "size"),
    (TRADE, {"p": "x", "q": 1}, "price: 'x' is no number"),
    (TRADE, {"p": 0, "q": 1}, "impossible"), (TRADE, {"p": -1, "q": 1}, "impossible"),
    (TRADE, {"p": "nan", "q": 1}, "impossible"), (TRADE, {"p": "1e999999", "q": 1}, "impossible"),
    (TRADE, {"p": 1, "q": "inf"}, "impossible"), (TRADE, {"p": [1], "q": 1}, "no number"),
    (TRADE, {"p": True, "q": 1}, "no number"), (TRADE, {"p": [0, [1], 0], "q": 1}, "no number"),
    (TRADE, {"p": 1, "q": 1, "s": "up"}, "neither buy nor sell"),
    (TRADE, {"p": 1, "q": 1, "t": "soon"}, "time"), (TRADE, {"p": 1, "q": 1, "t": "inf"}, "time"),
    (TRADE, ["p"], "price"), (BOOK, {"b": 7, "l": 1}, "not a list"),
    (BOOK, {"b": [[1]], "l": 1}, "not a list"),
    (BOOK, {"b": [[1, -1]], "l": 1}, "impossible"), (BOOK, {"b": []}, "last"), (BOOK, {"l": -1}, "last"),
    (BOOK, {"l": 1.5}, "last"), (BOOK, {"l": "9" * 5000}, "last"), (BOOK, {"l": "9" * 19}, "last"),
    (BOOK, {"l": Decimal("1e999990")}, "last"), (BOOK, {"l": Decimal("nan")}, "last"),
    (TRADE, {"p": 1, "q": 1, "t": "1e999990"}, "time"), (TRADE, {"p": 1, "q": 1, "t": 10**40}, "time"),
    (TRADE, {"p": 1, "q": 1, "t": Decimal("1e999990")}, "time"), (TRADE, {"p": 1, "q": 1, "t": -1}, "time"),
])
def test_what_can_not_be_is_named(fields, record, about, number):
    with pytest.raises(ValueError, match=about):
        event(fields, record, number)


@pytest.mark.parametrize("table, about", [
    ({}, "elements must be a table"), ("x", "elements must be a table"),
    ({"a": {}}, "needs a channel, one of"),
    ({"a": {"channel": "trade"}}, "needs a channel, one of"), ({"a": 7}, "needs a channel"),
    ({"a": {"channel": "trades", "price": "p"}}, "must say where its size is"),
    ({"a": {"channel": "quotes", "bid": "b", "ask": "a", "price": "p"}}, "has no field 'price'"),
    ({"a": {"channel": "trades", "price": "", "size": "q"}}, "must be a place"),
    ({"a": {"channel": "trades", "price": 7, "size": "q"}}, "must be a place"),
    ({"a": {"channel": "trades", "price": "p", "size": "q", "unit": "min"}}, "unit"),
    ({"a": {"channel": "book", "bids": "b", "asks": "a", "price": "p", "whole": True}}, "price and size"),
    ({"a": {"channel": "book", "bids": "b", "asks": "a"}}, "a record with all of it"),
])
def test_tables_that_can_not_work(table, about):
    with pytest.raises(ConfigurationError, match=about):
        compile_elements(table, JsonReader(), float, "mine")

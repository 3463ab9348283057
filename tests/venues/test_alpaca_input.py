"""Alpaca with bad input, and its REST answers."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from streams.events import Ticker
from streams.venue import BookBroken, BookSnapshot, Malformed, RestRequest

from .alpaca_frames import (
    array,
    BAND,
    BAR,
    BOOK,
    CANCEL,
    CONNECTED,
    CORRECTION,
    crypto,
    CRYPTO_TRADE,
    DELTA,
    error,
    IMBALANCE,
    listing,
    NEWS,
    OCC,
    OPTION_QUOTE,
    OPTION_TRADE,
    options,
    packed,
    QUOTE,
    STATUS,
    stocks,
    TRADE,
)
from .stock_tools import events, heard, listen, mangled, NOW, one, signals, survives


def test_one_bad_message_spoils_only_itself() -> None:
    venue = stocks()
    listen(venue, ("AAPL", "trades"), ("AMD", "quotes"))
    items = heard(
        venue,
        array(
            TRADE.replace(b"126.55", b"-1"),
            TRADE,
            b'{"T":"future","S":"AAPL"}',
            b"7",
            TRADE.replace(b'"AAPL"', b"7"),
            TRADE.replace(b"2021-02-22", b"2021-99-22"),
            b"{}",
            b'{"T":5}',
            b'{"T":"future"}',
            QUOTE,
        ),
    )
    assert [type(event).__name__ for _, event in items] == [
        "Malformed",
        "Trade",
        "Notice",
        "Malformed",
        "Malformed",
        "Malformed",
        "Malformed",
        "Malformed",
        "Quote",
    ]
    assert items[0][1].topic == "trades:AAPL" and "price" not in items[2][1].text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"{}",
        b"[",
        b"[{",
        array(TRADE)[:-30],
        b"\xff\xfe",
        b'["\xff"]',
        b'{"T":"t"}',
        b"[" * 100_000,
        b'[{"T":"t","zz":' + b"[" * 100_000,
        array(TRADE.replace(b"126.55", b"NaN")),
        b'[{"T":"t","S":"AAPL"}] x',
    ],
)
def test_nonsense(raw: bytes) -> None:
    venue = stocks()
    listen(venue, ("AAPL", "trades"))
    assert isinstance(one(signals(venue, raw)), Malformed)


@pytest.mark.parametrize("price", [b"null", b'"126.55"', b"1e999", b"-0.1", b"0", b"true", b"[]", b"{}"])
@pytest.mark.parametrize("number", [float, Decimal])
def test_impossible_prices(price: bytes, number: Any) -> None:
    venue = stocks(number=number)
    listen(venue, ("AAPL", "trades"))
    found = heard(venue, array(TRADE.replace(b"126.55", price)))
    if number is Decimal and price == b'"126.55"':  # digits in quotes are digits
        assert found[0][1].price == Decimal("126.55")
    else:
        assert isinstance(one(found)[1], Malformed)


def test_a_flood_of_nonsense_is_bounded() -> None:
    venue = stocks()
    assert len(signals(venue, array(*[b"7"] * 5000))) == 101
    assert len(signals(venue, array(*[b"7"] * 1_000_000))) == 1
    unknown = array(*[b'{"T":"u%d"}' % n for n in range(500)])
    assert len(signals(venue, unknown)) == 16


@pytest.mark.parametrize("raw, lost", [
    (array(DELTA)[:-1], True), (b"[7]", True), (b'[{"S":"CRV/USD"}]', True), (b'[{"T":"o","S":7}]', True),
    (array(*[b"{}"] * 101), True), (array(CRYPTO_TRADE.replace(b"47.299", b"-1")), False),
    (b'[{"T":"success","msg":7}]', False), (b'[{"T":"future"}]', False)])
def test_no_book_outlives_what_may_have_changed_it(raw: bytes, lost: bool) -> None:
    """Changes have no numbers, so nothing else would ever tell."""
    venue = crypto()
    books = listen(venue, ("BTC-USD", "book"), ("CRV-USD", "book"), ("AVAX-USD", "trades"))[:2]
    items = list(venue.receive(raw, NOW))
    broken = [route for route, event in items if isinstance(event, BookBroken)]
    assert set(broken) == (set(books) if lost else set())


def test_unknown_fields_are_ignored() -> None:
    venue = stocks()
    listen(venue, ("AAPL", "trades"))
    assert len(events(venue, array(TRADE[:-1] + b',"zz":{"a":[1,2]},"new":null}'))) == 1


@pytest.mark.parametrize("number", [float, Decimal])
def test_fuzz(number: Any) -> None:
    venue = stocks(number=number)
    listen(
        venue,
        ("*", "trades"),
        ("AMD", "quotes"),
        ("AMD", "ticker"),
        ("SPY", "bars:1m"),
        ("*", "news"),
        ("AAPL", "statuses"),
        ("IONM", "lulds"),
        ("INAQU", "imbalances"),
    )
    seeds = [
        array(TRADE, QUOTE, BAR),
        array(CORRECTION, CANCEL),
        array(BAND, STATUS, IMBALANCE, NEWS),
        listing(trades=["A"]),
        CONNECTED,
        error(405),
    ]
    venue.subscribe(["trades:A", "trades:B"])
    assert survives(venue, mangled(seeds, 3000)) > 500
    assert len(events(venue, array(TRADE))) == 1
    book = crypto(number=number)
    listen(book, ("BTC-USD", "book"), ("AVAX-USD", "trades"))
    assert survives(book, mangled([array(BOOK, DELTA), array(DELTA, CRYPTO_TRADE)], 2000)) > 500
    binary = options(number=number)
    listen(binary, (OCC, "quotes"), ("*", "trades"))
    assert (
        survives(
            binary, mangled([packed(OPTION_QUOTE, OPTION_TRADE), packed({"T": "subscription"})], 2000)
        )
        > 500
    )
    assert len(events(binary, packed(OPTION_QUOTE, OPTION_TRADE))) == 2


# -- REST -------------------------------------------------------------------------------------------


SNAPSHOT = {
    "latestTrade": {
        "t": "2022-03-18T14:33:58.448432206Z",
        "x": "D",
        "p": 161.1998,
        "s": 200,
        "c": ["@"],
        "i": 39884,
        "z": "C",
    },
    "latestQuote": {
        "t": "2022-03-18T14:33:58.547942Z",
        "ax": "K",
        "ap": 161.2,
        "as": 2,
        "bx": "K",
        "bp": 161.19,
        "bs": 5,
        "c": ["R"],
        "z": "C",
    },
    "minuteBar": None,
    "dailyBar": {
        "t": "2022-03-18T04:00:00Z",
        "o": 160.59,
        "h": 161.91,
        "l": 159.76,
        "c": 161.2,
        "v": 1500,
        "n": 3,
        "vw": 1.0,
    },
}


def test_rest_ticker_of_stocks() -> None:
    venue = stocks(feed="sip", quote_lot=100)
    request = venue.ticker_request("aapl")
    assert request == RestRequest(
        "/v2/stocks/snapshots",
        {"symbols": "AAPL", "feed": "sip"},
    )
    assert venue.rest_headers() == {"APCA-API-KEY-ID": "PK123", "APCA-API-SECRET-KEY": "shhh456"}
    body = json.dumps({"AAPL": SNAPSHOT}).encode()
    assert venue.ticker_answer("aapl", body, NOW) == Ticker(
        exchange="alpaca",
        symbol="aapl",
        timestamp=1_647_614_038_547_942_000,
        received=NOW,
        last=161.1998,
        last_size=200.0,
        bid=161.19,
        bid_size=500.0,
        ask=161.2,
        ask_size=200.0,
        open=160.59,
        high=161.91,
        low=159.76,
        volume=1500.0,
        source="rest",
    )
    assert stocks(feed="test").ticker_request("FAKEPACA") is None
    assert venue.ticker_request("*") is None


def test_rest_ticker_of_crypto_and_options() -> None:
    venue = crypto(number=Decimal)
    request = venue.ticker_request("BTC-USD")
    assert request is not None
    assert (request.path, request.params) == ("/v1beta3/crypto/us/snapshots", {"symbols": "BTC/USD"})
    body = json.dumps(
        {"snapshots": {"BTC/USD": {k: v for k, v in SNAPSHOT.items() if k != "dailyBar"}}}
    ).encode()
    ticker = venue.ticker_answer("BTC-USD", body, NOW)
    assert (ticker.last, ticker.open) == (Decimal("161.1998"), None)
    contract = options()
    request = contract.ticker_request(OCC)
    assert request is not None
    assert (request.path, request.params) == (
        "/v1beta1/options/snapshots",
        {"symbols": OCC, "feed": "indicative"},
    )
    body = json.dumps(
        {
            "next_page_token": None,
            "snapshots": {
                OCC: {
                    "latestQuote": {
                        "ap": 0.59,
                        "as": 458,
                        "ax": "X",
                        "bp": 0,
                        "bs": 0,
                        "bx": "X",
                        "c": " ",
                        "t": "2024-02-02T20:59:59.731674112Z",
                    }
                }
            }
        }
    ).encode()
    ticker = contract.ticker_answer(OCC, body, NOW)
    assert (ticker.last, ticker.bid, ticker.ask, ticker.timestamp) == (
        None,
        None,
        0.59,
        1_706_907_599_731_674_112,
    )


def test_rest_order_book() -> None:
    venue = crypto(feed="us-1")
    request = venue.orderbook_request("BTC-USD")
    assert request is not None
    assert (request.path, request.params) == (
        "/v1beta3/crypto/us-1/latest/orderbooks",
        {"symbols": "BTC/USD"},
    )
    body = (
        b'{"orderbooks":{"BTC/USD":{"a":[{"p":27539.494,"s":0.2632141}],'
        b'"b":[{"p":27511.78083,"s":0.26265668}],'
        b'"t":"2023-03-18T13:31:44.932988033Z"}}}'
    )
    assert venue.orderbook_answer("BTC-USD", body, NOW) == BookSnapshot(
        0, [(27511.78083, 0.26265668)], [(27539.494, 0.2632141)], 1_679_146_304_932_988_033
    )
    assert stocks().orderbook_request("AAPL") is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'{"AAPL":null}',
        b'{"AAPL":{}}',
        b'{"AAPL":{"latestTrade":{"p":-1,"s":1,"t":"x"}}}',
        b'{"AAPL":{"latestTrade":{"p":1,"s":1,"t":"yesterday"}}}',
        b'{"message":"forbidden."}',
    ],
)
def test_rest_answers_without_an_answer(body: bytes) -> None:
    with pytest.raises(ValueError):
        stocks().ticker_answer("AAPL", body, NOW)
    with pytest.raises(ValueError):
        crypto().orderbook_answer("AAPL", body, NOW)
    with pytest.raises(ValueError):
        crypto().ticker_answer("AAPL", body, NOW)

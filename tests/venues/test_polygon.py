"""Polygon's data, from the messages of the vendor's specification (see the module for the pages)."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from streams.events import Bar, Imbalance, PriceBand, Quote, Ticker, Trade, Value
from streams.venue import BookSnapshot, Malformed, Notice
from streams.venues.polygon import MARKETS

from .polygon_frames import (
    AGGREGATE, BAND, CRYPTO_BAR, CRYPTO_BOOK, CRYPTO_QUOTE, CRYPTO_TRADE, FOREX_BAR, FOREX_QUOTE,
    IMBALANCE, INDEX_BAR, INDEX_VALUE, MINUTE, OPTION_QUOTE, OPTION_TRADE, QUOTE, TRADE, array, polygon,
)
from .stock_tools import NOW, events, heard, listen, mangled, one, signals, survives

CONTRACT = "O:NVDA251219C00650000"


def test_trade() -> None:
    venue = polygon()
    route, = listen(venue, ("MSFT", "trades"))
    (hearer, trade), = heard(venue, array(TRADE))
    assert hearer is route and route.topics == ("T.MSFT",)
    assert trade == Trade(
        exchange="polygon", symbol="MSFT", timestamp=1_536_036_818_784_000_000, received=NOW,
        price=114.125, size=100.0, id="12345", market="4", conditions=("0", "12"))


def test_fractional_sizes_are_text() -> None:
    fractional = TRADE.replace(b'"s":100', b'"s":0,"ds":"0.123456789012345678"')
    for number, size in ((float, 0.12345678901234568), (Decimal, Decimal("0.123456789012345678"))):
        venue = polygon(number=number)
        listen(venue, ("MSFT", "trades"), ("MSFT", "ticker"))
        trade, ticker = events(venue, array(fractional))
        assert trade.size == ticker.last_size == size and type(trade.size) is number
        for bad in (b"nan", b"-1", b"inf", b"1e999", b"", b"x", b"sNaN"):
            found = signals(venue, array(fractional.replace(b"0.123456789012345678", bad)))
            assert isinstance(one(found), Malformed), bad


def test_quote() -> None:
    venue = polygon()
    listen(venue, ("MSFT", "quotes"))
    assert one(events(venue, array(QUOTE))) == Quote(
        exchange="polygon", symbol="MSFT", timestamp=1_536_036_818_784_000_000, received=NOW,
        bid=114.125, bid_size=100.0, ask=114.128, ask_size=160.0, sequence=50385480, bid_market="4",
        ask_market="7", conditions=("0",))


def test_missing_sides_and_lots() -> None:
    venue = polygon(quote_lot=100)
    listen(venue, ("MSFT", "quotes"))
    quote = one(events(venue, array(QUOTE.replace(b'"bp":114.125', b'"bp":0'))))
    assert (quote.bid, quote.bid_size, quote.ask_size) == (None, None, 16000.0)
    quote = one(events(venue, array(b'{"ev":"Q","sym":"MSFT","t":1536036818784,"ap":3}')))
    assert (quote.bid, quote.bid_size, quote.ask, quote.ask_size) == (None, None, 3.0, None)


def test_bars() -> None:
    venue = polygon()
    second, minute = listen(venue, ("SPCE", "bars:1s"), ("GTE", "bars:1m"))
    assert (second.topics, minute.topics) == (("A.SPCE",), ("AM.GTE",))
    assert events(venue, array(AGGREGATE, MINUTE)) == [
        Bar(exchange="polygon", symbol="SPCE", timestamp=1_610_144_869_000_000_000, received=NOW,
            interval="1s", start=1_610_144_868_000_000_000, open=25.39, high=25.39, low=25.39, close=25.39,
            volume=200.0, vwap=25.3981, closed=True),
        Bar(exchange="polygon", symbol="GTE", timestamp=1_610_144_700_000_000_000, received=NOW,
            interval="1m", start=1_610_144_640_000_000_000, open=0.4488, high=0.4489, low=0.4486,
            close=0.4486, volume=4110.0, vwap=0.4488, closed=True)]
    exact = MINUTE.replace(b'"v":4110', b'"v":4110,"dv":"4110.25"')
    assert one(events(venue, array(exact))).volume == 4110.25


def test_band_in_microseconds_and_imbalance_in_nanoseconds() -> None:
    venue = polygon()
    listen(venue, ("MSFT", "lulds"), ("NTEST.Q", "imbalances"))
    negative = IMBALANCE.replace(b'"o":480', b'"o":-480')
    band, imbalance, other_side = events(venue, array(BAND, IMBALANCE, negative))
    assert band == PriceBand(
        exchange="polygon", symbol="MSFT", timestamp=1_601_316_752_683_746_000, received=NOW,
        limit_up=218.96, limit_down=198.11, indicator="21")
    assert imbalance == Imbalance(
        exchange="polygon", symbol="NTEST.Q", timestamp=1_601_318_039_223_013_600, received=NOW,
        price=25.03, paired=440.0, imbalance=480.0, auction="M")
    assert other_side.imbalance == -480.0


def test_fair_values() -> None:
    fair = b'{"ev":"FMV","fmv":189.22,"sym":"AAPL","t":1678220098130}'
    last = b'{"ev":"LV","val":189.25,"sym":"AAPL","t":1401715883806000000}'
    venue = polygon()
    listen(venue, ("AAPL", "fmv"), ("AAPL", "values"))
    assert events(venue, array(fair, last)) == [
        Value(exchange="polygon", symbol="AAPL", timestamp=1_678_220_098_130_000_000, received=NOW,
              value=189.22, kind="fair"),
        Value(exchange="polygon", symbol="AAPL", timestamp=1_401_715_883_806_000_000, received=NOW,
              value=189.25, kind="last")]


@pytest.mark.parametrize("market, wanted, says", [
    ("forex", "EUR-USD", "C:EURUSD"), ("crypto", "BTC-USD", "X:BTC-USD"),
    ("options", "O:TSLA210903C00700000", "O:TSLA210903C00700000")])
def test_fair_values_with_prefixed_symbols(market: str, wanted: str, says: str) -> None:
    venue = polygon(market=market)
    listen(venue, (wanted, "fmv"))
    raw = b'{"ev":"FMV","fmv":1.0631,"sym":"%s","t":1678220098130}' % says.encode()
    value = one(events(venue, array(raw)))
    assert (value.symbol, value.value) == (wanted, 1.0631)


def test_ticker_is_put_together() -> None:
    venue = polygon()
    route, = listen(venue, ("MSFT", "ticker"))
    assert route.topics == ("T.MSFT", "Q.MSFT")
    first, second = events(venue, array(QUOTE, TRADE))
    assert (first.last, first.bid) == (None, 114.125)
    assert second == Ticker(
        exchange="polygon", symbol="MSFT", timestamp=1_536_036_818_784_000_000, received=NOW,
        last=114.125, last_size=100.0, bid=114.125, bid_size=100.0, ask=114.128, ask_size=160.0)


# -- the other markets ------------------------------------------------------------------------------


def test_crypto() -> None:
    venue = polygon(market="crypto")
    routes = listen(venue, ("BTC-USD", "trades"), ("X:BTC-USD", "quotes"), ("BCD-USD", "bars:1m"),
                    ("BCD-USD", "bars:1s"))
    assert [route.topics for route in routes] == [
        ("XT.BTC-USD",), ("XQ.BTC-USD",), ("XA.BCD-USD",), ("XAS.BCD-USD",)]
    second = CRYPTO_BAR.replace(b'"XA"', b'"XAS"')
    trade, quote, minute, short = events(venue, array(CRYPTO_TRADE, CRYPTO_QUOTE, CRYPTO_BAR, second))
    assert trade == Trade(
        exchange="polygon", symbol="BTC-USD", timestamp=1_610_462_007_425_000_000, received=NOW,
        price=33021.9, size=0.01616617, side="buy", id="14272084", market="3", conditions=("2",))
    assert quote == Quote(
        exchange="polygon", symbol="X:BTC-USD", timestamp=1_610_462_411_115_000_000, received=NOW,
        bid=33052.79, bid_size=0.48, ask=33073.19, ask_size=0.601, bid_market="1", ask_market="1")
    assert (minute.volume, minute.interval, short.interval) == (951.6112, "1m", "1s")
    assert one(events(venue, array(CRYPTO_TRADE.replace(b"[2]", b"[1]")))).side == "sell"
    assert one(events(venue, array(CRYPTO_TRADE.replace(b"[2]", b"[]")))).side is None


def test_book_of_one_exchange() -> None:
    venue = polygon(market="crypto", exchange_id=1)
    route, = listen(venue, ("BTC-USD", "book"))
    assert (venue.rule, venue.time_unit, route.topics) == ("snapshots", 1, ("XL2.BTC-USD",))
    elsewhere = CRYPTO_BOOK.replace(b'"x":1', b'"x":2')
    assert events(venue, array(elsewhere, CRYPTO_BOOK)) == [BookSnapshot(
        0, [(33712.71, 0.18635), (33712.7, 0.134)], [(33718.23, 3.5527483), (33718.24, 0.1)],
        1_610_462_411_115_000_000)]
    for bad in (b"[33712.71]", b"[0,1]", b"[-1,1]", b"[1,-1]", b"[1,null]", b'["x",1]', b"7"):
        found = one(signals(venue, array(CRYPTO_BOOK.replace(b"[33712.71,0.18635]", bad))))
        assert isinstance(found, Malformed) and found.topic == "XL2.BTC-USD", bad


def test_exact_book() -> None:
    venue = polygon(market="crypto", exchange_id="1", number=Decimal)
    listen(venue, ("BTC-USD", "book"))
    book = one(events(venue, array(CRYPTO_BOOK.replace(b"33712.71", b"33712.7100"))))
    assert str(book.bids[0][0]) == "33712.7100"
    for bad in (b"-1", b'"NaN"', b"1e400"):
        found = one(signals(venue, array(CRYPTO_BOOK.replace(b"33712.71", bad))))
        assert isinstance(found, Malformed) and found.topic == "XL2.BTC-USD"


@pytest.mark.parametrize("spelling", ["USD-CNH", "USD/CNH", "C:USD/CNH", "C:USDCNH", "usd-cnh", "USDCNH"])
def test_forex_where_p_is_the_pair(spelling: str) -> None:
    venue = polygon(market="forex")
    route, ticker = listen(venue, (spelling, "quotes"), (spelling, "ticker"))
    assert route.topics == ticker.topics == ("C.USD/CNH",)
    for pair in (b"USD/CNH", b"USD-CNH"):
        quote, summary = events(venue, array(FOREX_QUOTE.replace(b"USD/CNH", pair)))
        assert quote == Quote(
            exchange="polygon", symbol=spelling, timestamp=1_536_036_818_784_000_000, received=NOW,
            bid=6.83363, bid_size=None, ask=6.83366, ask_size=None, bid_market="44", ask_market="44")
        assert (summary.bid, summary.ask) == (6.83363, 6.83366)


def test_forex_bars_without_an_end() -> None:
    venue = polygon(market="forex")
    listen(venue, ("USD-EUR", "bars:1m"), ("USD-EUR", "bars:1s"))
    minute, second = events(venue, array(FOREX_BAR, FOREX_BAR.replace(b'"CA"', b'"CAS"')))
    assert (minute.interval, second.interval) == ("1m", "1s")
    assert minute.timestamp == minute.start == 1_539_145_740_000_000_000


@pytest.mark.parametrize("spelling", ["I:SPX", "SPX"])
def test_indices(spelling: str) -> None:
    venue = polygon(market="indices")
    listen(venue, (spelling, "values"), (spelling, "ticker"), (spelling, "bars:1m"))
    value, ticker, bar = events(venue, array(INDEX_VALUE, INDEX_BAR))
    assert value == Value(
        exchange="polygon", symbol=spelling, timestamp=1_678_220_098_130_000_000, received=NOW,
        value=3988.5, kind="index")
    assert (ticker.last, bar.close, bar.volume) == (3988.5, 3985.67, None)


def test_options() -> None:
    venue = polygon(market="options")
    listen(venue, ("O:AMC210827C00037000", "trades"), ("SPY241220P00720000", "quotes"))
    trade, quote = events(venue, array(OPTION_TRADE, OPTION_QUOTE))
    assert (trade.symbol, trade.price, trade.market, trade.conditions) == (
        "O:AMC210827C00037000", 1.54, "65", ("233",))
    assert (quote.symbol, quote.bid, quote.ask_size, quote.sequence) == (
        "SPY241220P00720000", 9.71, 24.0, 844090872)


@pytest.mark.parametrize("number", [float, Decimal])
def test_futures_may_trade_below_zero(number: Any) -> None:
    venue = polygon(market="futures", number=number)
    listen(venue, ("CLK0", "trades"), ("CLK0", "quotes"), ("CLK0", "bars:1m"))
    trade, quote, bar = events(venue, array(
        b'{"ev":"T","sym":"CLK0","p":-37.63,"s":2,"t":1587412800000,"q":5}',
        b'{"ev":"Q","sym":"CLK0","bp":-38,"bs":1,"bt":1587412800000,"ap":0,"as":3,"at":1,"t":1587412800001}',
        b'{"ev":"AM","sym":"CLK0","v":7,"dv":1500.5,"o":-1,"c":-2,"h":0,"l":-3,"n":4,"s":1587412800000,'
        b'"e":1587412860000}'))
    assert float(trade.price) == -37.63
    assert (quote.bid, quote.ask, quote.ask_size) == (-38, 0, 3)
    assert (bar.high, bar.low, bar.volume, float(bar.quote_volume), bar.trades) == (0, -3, 7, 1500.5, 4)
    nan = b'{"ev":"T","sym":"CLK0","p":"NaN","s":2,"t":1587412800000}'
    assert isinstance(one(signals(venue, array(nan))), Malformed)


@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("message", [
    b'{"ev":"T","sym":"CLK0","p":1,"s":-2,"t":1587412800000}',
    b'{"ev":"Q","sym":"CLK0","bp":1,"bs":-1,"ap":2,"as":3,"t":1587412800001}',
    b'{"ev":"AM","sym":"CLK0","v":-7,"o":1,"c":1,"h":1,"l":1,"s":1587412800000}'])
def test_sizes_of_futures_may_not(message: bytes, number: Any) -> None:
    venue = polygon(market="futures", number=number)
    listen(venue, ("CLK0", "trades"), ("CLK0", "quotes"), ("CLK0", "bars:1m"))
    assert isinstance(one(signals(venue, array(message))), Malformed)


# -- wildcards ----------------------------------------------------------------------------------------


def option(symbol: str) -> bytes:
    return OPTION_TRADE.replace(b"O:AMC210827C00037000", symbol.encode())


def test_wildcards_are_filtered_here() -> None:
    venue = polygon(market="options")
    exact, nvidia, calls, tesla = listen(
        venue, (CONTRACT, "trades"), ("O:NVDA*", "trades"), ("NVDA25*", "trades"), ("O:TSLA*", "trades"))
    assert nvidia.topics == calls.topics == tesla.topics == ("T.*",)
    found = heard(venue, array(
        option(CONTRACT), option("O:NVDA251219P00650000"), option("O:NVDA260116P00100000"),
        option("O:TSLA251219C00300000"), option("O:AMC251219C00300000")))
    assert [(route, trade.symbol) for route, trade in found] == [
        (exact, CONTRACT), (calls, "O:NVDA251219P00650000"), (nvidia, "O:NVDA260116P00100000"),
        (tesla, "O:TSLA251219C00300000")]
    venue.remove(tesla)
    every, = listen(venue, ("*", "trades"))
    assert [route for route, _ in heard(venue, array(option("O:TSLA251219C00300000")))] == [every]


def test_a_wildcard_ticker_keeps_symbols_apart() -> None:
    venue = polygon()
    listen(venue, ("*", "ticker"))
    one_trade, other = TRADE, TRADE.replace(b"MSFT", b"AAPL").replace(b"114.125", b"7")
    first, second, third = events(venue, array(one_trade, other, QUOTE))
    assert (first.symbol, second.symbol, third.symbol) == ("MSFT", "AAPL", "MSFT")
    assert (third.last, second.bid) == (114.125, None)


def test_a_ticker_begins_anew_after_it_was_unsubscribed() -> None:
    venue = polygon()
    other_quote, other_trade = (raw.replace(b"MSFT", b"AAPL") for raw in (QUOTE, TRADE))
    for symbol in ("MSFT", "*", "MS*"):
        route, exact = listen(venue, (symbol, "ticker"), ("AAPL", "ticker"))
        events(venue, array(QUOTE, other_quote))
        venue.remove(route)
        route, = listen(venue, (symbol, "ticker"))
        first, second = events(venue, array(TRADE, other_trade))
        assert (first.last, first.bid) == (114.125, None), symbol       # the bid may be hours old by now
        assert second.bid is not None, "AAPL was subscribed all the time"
        venue.remove(route)
        venue.remove(exact)


# -- bad input ------------------------------------------------------------------------------------------


def test_one_bad_message_spoils_only_itself() -> None:
    venue = polygon()
    listen(venue, ("MSFT", "trades"), ("MSFT", "quotes"))
    items = heard(venue, array(
        TRADE.replace(b"114.125", b"-1"), TRADE, b'{"ev":"NEW","sym":"MSFT"}', b"7", b"{}", b'{"ev":"NEW"}',
        TRADE.replace(b'"t":1536036818784', b'"t":-5'), TRADE.replace(b'"c":[0,12]', b'"c":["x"]'), QUOTE))
    assert [type(event).__name__ for _, event in items] == [
        "Malformed", "Trade", "Notice", "Malformed", "Malformed", "Malformed", "Malformed", "Quote"]
    assert items[0][1].topic == "T.MSFT" and isinstance(items[2][1], Notice)


@pytest.mark.parametrize("raw", [
    b"", b"null", b"{}", b"[", array(TRADE)[:-20], b"\xff\xfe", b"[" * 100_000,
    array(TRADE.replace(b"114.125", b"NaN")), TRADE])
def test_nonsense(raw: bytes) -> None:
    venue = polygon()
    listen(venue, ("MSFT", "trades"))
    assert isinstance(one(signals(venue, raw)), Malformed)


@pytest.mark.parametrize("market, seeds", [
    ("stocks", [array(TRADE, QUOTE), array(AGGREGATE, MINUTE), array(BAND, IMBALANCE)]),
    ("crypto", [array(CRYPTO_TRADE, CRYPTO_QUOTE), array(CRYPTO_BOOK, CRYPTO_BAR)]),
    ("forex", [array(FOREX_QUOTE, FOREX_BAR)]),
    ("indices", [array(INDEX_VALUE, INDEX_BAR)]),
    ("options", [array(OPTION_TRADE, OPTION_QUOTE)]),
    ("futures", [array(TRADE, QUOTE, MINUTE)]),
])
@pytest.mark.parametrize("number", [float, Decimal])
def test_fuzz(market: str, seeds: list[bytes], number: Any) -> None:
    venue = polygon(market=market, number=number, exchange_id=1)
    listen(venue, *[("*", channel) for channel in MARKETS[market] if channel != "book"])
    if market == "crypto":
        listen(venue, ("BTC-USD", "book"))
    venue.subscribe(["T.A", "Q.A"])
    status = b'[{"ev":"status","status":"success","message":"subscribed to: T.A"}]'
    assert survives(venue, mangled([*seeds, status], 1000)) > 200
    assert len(events(venue, seeds[0])) >= 2

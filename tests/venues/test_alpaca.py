"""Alpaca's data, from the messages of the vendor's documentation (see the module for the pages)."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from streams.events import (
    Bar,
    Imbalance,
    MarketStatus,
    News,
    PriceBand,
    Quote,
    Ticker,
    Trade,
    TradeCorrection,
)
from streams.venue import Acked, BookSnapshot, Malformed, Ready

from .alpaca_frames import (
    array,
    BAND,
    BAR,
    BOOK,
    CANCEL,
    CORRECTION,
    crypto,
    CRYPTO_TRADE,
    DELTA,
    IMBALANCE,
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
    WHEN,
)
from .stock_tools import events, heard, listen, NOW, one, signals


def test_trade() -> None:
    venue = stocks()
    (route,) = listen(venue, ("aapl", "trades"))
    ((heard_by, trade),) = heard(venue, array(TRADE))
    assert heard_by is route and route.topics == ("trades:AAPL",)
    assert trade == Trade(
        exchange="alpaca",
        symbol="aapl",
        timestamp=1_614_009_104_208_000_000,
        received=NOW,
        price=126.55,
        size=1.0,
        id="96921",
        market="D",
        conditions=("@", "I"),
    )


def test_quote_to_the_nanosecond() -> None:
    venue = stocks()
    listen(venue, ("AMD", "quotes"))
    assert one(events(venue, array(QUOTE))) == Quote(
        exchange="alpaca",
        symbol="AMD",
        timestamp=1_614_009_105_335_689_322,
        received=NOW,
        bid=87.66,
        bid_size=1.0,
        ask=87.68,
        ask_size=4.0,
        bid_market="U",
        ask_market="Q",
        conditions=("R",),
    )


def test_a_price_of_0_is_a_missing_side() -> None:
    venue = stocks()
    listen(venue, ("AMD", "quotes"), ("AMD", "ticker"))
    quote, ticker = events(venue, array(QUOTE.replace(b"87.66", b"0").replace(b'"bs":1', b'"bs":0')))
    assert (quote.bid, quote.bid_size, quote.ask) == (None, None, 87.68)
    assert (ticker.bid, ticker.bid_size, ticker.ask) == (None, None, 87.68)


def test_the_year_1_means_that_there_is_no_time() -> None:
    venue = stocks()
    listen(venue, ("AAPL", "trades"), ("AMD", "quotes"))
    for message, time in ((TRADE, b"2021-02-22T15:51:44.208Z"), (QUOTE, b"2021-02-22T15:51:45.335689322Z")):
        event = one(events(venue, array(message.replace(time, b"0001-01-01T00:00:00Z"))))
        assert event.timestamp is None
    body = b'{"AAPL":{"latestQuote":{"t":"0001-01-01T00:00:00Z","ap":1.5,"as":1,"bp":1.4,"bs":1}}}'
    assert venue.ticker_answer("AAPL", body, NOW).timestamp is None


def test_sizes_of_quotes_in_lots() -> None:
    venue = stocks(quote_lot=100)
    listen(venue, ("AMD", "quotes"))
    quote = one(events(venue, array(QUOTE)))
    assert (quote.bid_size, quote.ask_size) == (100.0, 400.0)
    venue = stocks(quote_lot=0.1, number=Decimal)
    listen(venue, ("AMD", "quotes"))
    assert one(events(venue, array(QUOTE))).ask_size == Decimal("0.4")


def test_bars() -> None:
    venue = stocks()
    minute, day = listen(venue, ("SPY", "bars:1m"), ("SPY", "bars:1d"))
    assert minute.topics == ("bars:SPY", "updatedBars:SPY") and day.topics == ("dailyBars:SPY",)
    final, revised, running = events(
        venue, array(BAR, BAR.replace(b'"T":"b"', b'"T":"u"'), BAR.replace(b'"T":"b"', b'"T":"d"'))
    )
    start = 1_614_021_300_000_000_000
    assert final == Bar(
        exchange="alpaca",
        symbol="SPY",
        timestamp=start,
        received=NOW,
        interval="1m",
        start=start,
        open=388.985,
        high=389.13,
        low=388.975,
        close=389.12,
        volume=49378.0,
        vwap=389.062639,
        trades=461,
        closed=True,
    )
    assert revised == msgspec.structs.replace(final, revised=True)
    assert running == msgspec.structs.replace(final, interval="1d", closed=False)


def test_corrections_and_cancels_belong_to_the_trades() -> None:
    venue = stocks()
    listen(venue, ("EEM", "trades"), ("GOOGL", "trades"), ("EEM", "ticker"))
    corrected, cancelled = events(venue, array(CORRECTION, CANCEL))
    assert corrected == TradeCorrection(
        exchange="alpaca",
        symbol="EEM",
        timestamp=1_680_791_106_542_305_024,
        received=NOW,
        id="52983525033527",
        market="M",
        price=39.1809,
        size=440000.0,
        corrected_id="52983525034326",
        conditions=(" ", "7"),
    )
    assert not corrected.cancelled
    assert cancelled == TradeCorrection(
        exchange="alpaca",
        symbol="GOOGL",
        timestamp=1_680_786_942_835_409_580,
        received=NOW,
        id="465",
        market="D",
    )
    assert cancelled.cancelled


def test_status_band_imbalance() -> None:
    venue = stocks()
    listen(venue, ("AAPL", "statuses"), ("IONM", "lulds"), ("INAQU", "imbalances"))
    assert events(venue, array(STATUS, BAND, IMBALANCE)) == [
        MarketStatus(
            exchange="alpaca",
            symbol="AAPL",
            timestamp=1_614_021_300_000_000_000,
            received=NOW,
            code="H",
            message="Trading Halt",
            reason_code="T12",
            reason="Trading Halted; for information",
        ),
        PriceBand(
            exchange="alpaca",
            symbol="IONM",
            timestamp=1_680_788_085_565_004_401,
            received=NOW,
            limit_up=3.24,
            limit_down=2.65,
            indicator="B",
        ),
        Imbalance(
            exchange="alpaca",
            symbol="INAQU",
            timestamp=1_734_119_889_242_138_635,
            received=NOW,
            price=9.12,
        ),
    ]


def test_ticker_is_put_together_from_trades_and_quotes() -> None:
    venue = stocks()
    (route,) = listen(venue, ("AMD", "ticker"))
    assert route.topics == ("trades:AMD", "quotes:AMD")
    first, second, third = events(
        venue, array(QUOTE, TRADE.replace(b"AAPL", b"AMD"), QUOTE.replace(b"87.66", b"87.67"))
    )
    assert (first.last, first.bid, first.ask_size) == (None, 87.66, 4.0)
    assert (second.last, second.last_size, second.bid, second.bid_size) == (126.55, 1.0, 87.66, 1.0)
    assert third == Ticker(
        exchange="alpaca",
        symbol="AMD",
        timestamp=1_614_009_105_335_689_322,
        received=NOW,
        last=126.55,
        last_size=1.0,
        bid=87.67,
        bid_size=1.0,
        ask=87.68,
        ask_size=4.0,
    )
    venue.remove(route)
    listen(venue, ("AMD", "ticker"))
    assert one(events(venue, array(QUOTE))).last is None


def test_one_message_for_several_routes() -> None:
    venue = stocks()
    trades, ticker = listen(venue, ("AAPL", "trades"), ("AAPL", "ticker"))
    assert [route for route, _ in heard(venue, array(TRADE))] == [trades, ticker]
    venue.remove(trades)
    assert [route for route, _ in heard(venue, array(TRADE))] == [ticker]
    venue.remove(ticker)
    assert heard(venue, array(TRADE)) == []


def test_wildcards_hear_what_nobody_else_of_their_channel_does() -> None:
    venue = stocks()
    every, some, exact, ticker = listen(
        venue, ("*", "trades"), ("NV*", "trades"), ("AAPL", "trades"), ("NVDA", "ticker")
    )
    assert every.topics == some.topics == ("trades:*",)
    assert [
        (route, event.symbol)
        for route, event in heard(
            venue, array(TRADE, TRADE.replace(b"AAPL", b"NVDA"), TRADE.replace(b"AAPL", b"TSLA"))
        )
    ] == [(exact, "AAPL"), (ticker, "NVDA"), (some, "NVDA"), (every, "TSLA")]
    venue.remove(exact)
    assert [route for route, _ in heard(venue, array(TRADE))] == [every]


def test_numbers_keep_their_digits() -> None:
    venue = stocks(number=Decimal)
    listen(venue, ("AAPL", "trades"))
    trade = one(events(venue, array(TRADE.replace(b"126.55", b"0.12345678901234567890"))))
    assert str(trade.price) == "0.12345678901234567890" and trade.size == 1
    assert isinstance(trade.size, Decimal)


def test_news_is_for_the_first_subscribed_symbol() -> None:
    venue = stocks()
    every, apple = listen(venue, ("*", "news"), ("AAPL", "news"))
    ((route, news),) = heard(venue, array(NEWS))
    assert route is apple and news == News(
        exchange="alpaca",
        symbol="AAPL",
        timestamp=1_641_420_038_000_000_000,
        received=NOW,
        id="24918784",
        headline="Corsair Reports Purchase",
        summary="Its",
        author="Benzinga Newsdesk",
        url="https://www.benzinga.com/m/a",
        content="<p>Corsair</p>",
        symbols=("CRSR", "AAPL"),
        source="benzinga",
    )
    venue.remove(apple)
    assert [(route, event.symbol) for route, event in heard(venue, array(NEWS))] == [(every, "CRSR")]
    assert [event.symbol for event in events(venue, array(NEWS.replace(b'"CRSR","AAPL"', b"")))] == ["*"]
    assert (venue.endpoint("news"), venue.endpoint("trades")) == ("/v1beta1/news", "/v2/iex")


# -- crypto -----------------------------------------------------------------------------------------


def test_crypto_trade_says_the_taker() -> None:
    venue = crypto()
    listen(venue, ("AVAX-USD", "trades"))
    trade = one(events(venue, array(CRYPTO_TRADE)))
    assert (trade.exchange, trade.symbol, trade.side, trade.id, trade.timestamp) == (
        "alpaca-crypto",
        "AVAX-USD",
        "sell",
        "3447222699101865076",
        1_710_239_268_858_228_144,
    )


def test_book_begins_with_a_reset_and_honours_later_ones() -> None:
    venue = crypto()
    (route,) = listen(venue, ("BTC-USD", "book"))
    assert (
        venue.rule == "unsequenced" and venue.time_unit == 1 and route.topics == ("orderbooks:BTC/USD",)
    )
    assert heard(venue, array(DELTA)) == []  # changes of what nobody knows
    whole, delta, again = events(venue, array(BOOK, DELTA, BOOK))
    assert (
        whole
        == again
        == BookSnapshot(
            0,
            [(71859.53, 0.27994), (71849.4, 0.553986)],
            [(71939.7, 0.83953)],
            1_710_239_930_796_132_210,
        )
    )
    assert (delta.bids, delta.asks, delta.time) == (
        [(71859.53, 0.0)],
        [(71940.1, 2.0)],
        1_710_239_930_800_000_000,
    )
    assert (delta.link, delta.last) == (0, 0)


def test_a_book_subscribed_anew_waits_for_its_reset() -> None:
    venue = crypto()
    (route,) = listen(venue, ("BTC-USD", "book"))
    events(venue, array(BOOK))
    assert len(events(venue, array(DELTA))) == 1
    assert venue.refresh(route) is None  # that is: subscribe it anew
    venue.unsubscribe(route.topics)
    venue.subscribe(route.topics)
    assert heard(venue, array(DELTA)) == []
    assert len(events(venue, array(BOOK, DELTA))) == 2


def test_a_book_removed_and_added_waits_for_its_reset() -> None:
    venue = crypto()
    (route,) = listen(venue, ("BTC-USD", "book"))
    events(venue, array(BOOK))
    venue.remove(route)
    assert heard(venue, array(DELTA)) == []
    listen(venue, ("BTC-USD", "book"))
    venue.subscribe(route.topics)
    assert heard(venue, array(DELTA)) == []


def test_a_bad_change_of_a_book_names_its_topic() -> None:
    venue = crypto()
    listen(venue, ("BTC-USD", "book"))
    events(venue, array(BOOK))
    for bad in (b'"p":-1', b'"p":0', b'"p":"x"', b'"p":null', b'"p":1e999'):
        found = signals(venue, array(DELTA.replace(b'"p":71859.53', bad)))
        assert one(found).topic == "orderbooks:BTC/USD", bad
    assert one(signals(venue, array(DELTA.replace(b".8Z", b".8")))).topic == "orderbooks:BTC/USD"


def test_exact_books_refuse_what_float_books_refuse() -> None:
    venue = crypto(number=Decimal)
    listen(venue, ("BTC-USD", "book"))
    whole = one(events(venue, array(BOOK)))
    assert whole.bids[0] == (Decimal("71859.53"), Decimal("0.27994"))
    for bad in (b'"p":-1', b'"p":0', b'"p":"NaN"', b'"p":"sNaN"', b'"p":"-Infinity"', b'"p":1e999999'):
        assert isinstance(
            one(signals(venue, array(DELTA.replace(b'"p":71859.53', bad)))), Malformed
        ), bad
    assert isinstance(one(signals(venue, array(DELTA.replace(b'"s":2', b'"s":-2')))), Malformed)


# -- options: MessagePack ---------------------------------------------------------------------------


def test_option_frames_keep_their_nanoseconds() -> None:
    venue = options()
    listen(venue, (OCC, "quotes"), (OCC, "trades"))
    quote, trade = events(venue, packed(OPTION_QUOTE, OPTION_TRADE))
    assert quote == Quote(
        exchange="alpaca-options",
        symbol=OCC,
        timestamp=WHEN,
        received=NOW,
        bid=9.46,
        bid_size=53.0,
        ask=9.66,
        ask_size=38.0,
        bid_market="C",
        ask_market="C",
        conditions=("A",),
    )
    assert trade == Trade(
        exchange="alpaca-options",
        symbol=OCC,
        timestamp=WHEN + 1,
        received=NOW,
        price=0.1,
        size=7.0,
        market="N",
        conditions=("S",),
    )


def test_option_numbers_are_the_shortest_decimals_of_their_floats() -> None:
    venue = options(number=Decimal)
    listen(venue, (OCC, "trades"))
    assert str(one(events(venue, packed(OPTION_TRADE))).price) == "0.1"


def test_option_session_is_binary() -> None:
    venue = options(auth="message")
    assert venue.headers() == {"Content-Type": "application/msgpack"}
    login = one(signals(venue, packed({"T": "success", "msg": "connected"})))
    assert login.secret and msgspec.msgpack.decode(login.frame) == {
        "action": "auth",
        "key": "PK123",
        "secret": "shhh456",
    }
    assert signals(venue, packed({"T": "success", "msg": "authenticated"})) == [Ready()]
    frame = one(venue.subscribe([f"trades:{OCC}"]))
    assert msgspec.msgpack.decode(frame) == {"action": "subscribe", "trades": [OCC]}
    assert signals(venue, packed({"T": "subscription", "trades": [OCC], "quotes": []})) == [
        Acked([f"trades:{OCC}"])
    ]


def test_bad_option_frames() -> None:
    venue = options()
    listen(venue, (OCC, "quotes"), (OCC, "trades"))
    text = {**OPTION_TRADE, "t": "2024-03-27T11:59:38Z"}
    wrong = {**OPTION_TRADE, "t": msgspec.msgpack.Ext(5, b"1234")}
    nan = {**OPTION_TRADE, "p": float("nan")}
    items = heard(venue, packed(text, OPTION_TRADE, wrong, nan, 5, {"T": "zz"}, OPTION_QUOTE))
    assert [type(event).__name__ for _, event in items] == [
        "Malformed",
        "Trade",
        "Malformed",
        "Malformed",
        "Malformed",
        "Notice",
        "Quote",
    ]
    assert isinstance(one(signals(venue, array(TRADE))), Malformed)

"""What is Huobi's own: gzip, its heart-beat, numbers in scientific notation, sides that are missing."""

from __future__ import annotations

import gzip
import json
from decimal import Decimal
from typing import Any

import pytest

from streams.errors import ConfigurationError
from streams.events import Bar, Quote, Ticker, Trade
from streams.venue import Acked, Alive, BookSnapshot, Malformed, Notice, Refused, Reply
from streams.venues.htx import HuobiVenue

NOW = 1_700_000_000_000_000_000
MS = 1_000_000


def talk(channel: str = "book", symbol: str = "BTC-USDT", **options: Any) -> Any:
    venue = HuobiVenue(**options)
    venue.add(venue.route(symbol, channel))
    return venue


def heard(venue: Any, message: Any) -> list[Any]:
    text = message if isinstance(message, str) else json.dumps(message)
    return [event for _, event in venue.receive(gzip.compress(text.encode()), NOW)]


def one(venue: Any, message: Any) -> Any:
    events = heard(venue, message)
    assert len(events) == 1, events
    return events[0]


# -- the conversation ---------------------------------------------------------------------------------


def test_topics_and_endpoints() -> None:
    venue, incremental = HuobiVenue(), HuobiVenue(book_mode="incremental")
    expected = {"book": "depth.step0", "quotes": "bbo", "trades": "trade.detail", "ticker": "ticker",
                "bars:1m": "kline.1min", "bars:1h": "kline.60min", "bars:4h": "kline.4hour",
                "bars:1M": "kline.1mon"}
    for channel, name in expected.items():
        assert venue.route("BTC-USDT", channel).topics == (f"market.btcusdt.{name}",)
        assert venue.endpoint(channel) == "/ws"
        assert incremental.endpoint(channel) == ("/feed" if channel == "book" else "/ws")
    assert incremental.route("btcusdt", "book").topics == ("market.btcusdt.mbp.150",)
    assert (venue.rule, incremental.rule) == ("snapshots", "chained")


@pytest.mark.parametrize("depth, levels", [(None, 150), (5, 150), (20, 150), (150, 150), (151, 400)])
def test_levels_of_incremental_books(depth: int | None, levels: int) -> None:
    venue = HuobiVenue(book_mode="incremental", depth=depth)
    assert venue.topics("book", "btcusdt") == (f"market.btcusdt.mbp.{levels}",)


@pytest.mark.parametrize("mode, most", [("snapshots", 150), ("incremental", 400)])
def test_more_depth_than_there_is(mode: str, most: int) -> None:
    HuobiVenue(book_mode=mode, depth=most)
    with pytest.raises(ConfigurationError, match=f"depth={most + 1} is more than the {most} levels"):
        HuobiVenue(book_mode=mode, depth=most + 1)


def test_an_unknown_mode() -> None:
    with pytest.raises(ConfigurationError, match="book_mode='both': 'snapshots' or 'incremental'"):
        HuobiVenue(book_mode="both")


@pytest.mark.parametrize("number", [1618678073643, 0, 99])
def test_a_ping_is_answered_with_its_own_number(number: int) -> None:
    assert one(talk(), {"ping": number}) == Reply(f'{{"pong":{number}}}')


def test_a_ping_of_ours_and_its_answer() -> None:
    venue = talk()
    assert venue.ping(NOW) == ('{"ping":1700000000000}',)
    assert one(venue, {"pong": 1700000000000}) == Alive()


def test_answers() -> None:
    venue = talk()
    asked = [json.loads(frame) for frame in (*venue.subscribe(["a", "b"]), *venue.unsubscribe(["a"]))]
    assert asked == [{"sub": "a", "id": "1"}, {"sub": "b", "id": "2"}, {"unsub": "a", "id": "3"}]
    assert one(venue, {"id": "1", "status": "ok", "subbed": "a", "ts": 5}) == Acked(("a",))
    assert one(venue, {"status": "error", "ts": 1, "id": "2", "err-code": "bad-request",
                       "err-msg": "invalid"}) \
        == Refused(("b",), "invalid (bad-request)")
    assert one(venue, {"id": "3", "status": "ok", "unsubbed": "a", "ts": 5}) == Alive()
    list(venue.subscribe(["c"]))
    assert one(venue, {"status": "error", "ts": 1, "id": "4", "err-code": "system-error",
                       "err-msg": "busy"}) == Refused(("c",), "busy (system-error)", transient=True)
    assert one(venue, {"status": "error", "ts": 1, "err-code": "bad-request", "err-msg": "invalid json"}) \
        == Notice("invalid json (bad-request)")
    assert isinstance(one(venue, {"nothing": 1}), Malformed)


def test_topics_of_the_past_and_of_nobody() -> None:
    venue = talk()
    push = {"ch": "market.btcusdt.depth.step0", "ts": 1, "tick": {"bids": [], "asks": []}}
    venue.remove(venue.routes["book", "btcusdt"])
    assert heard(venue, push) == []
    stranger = one(venue, {**push, "ch": "market.martian.bbo"})
    assert isinstance(stranger, Malformed) and "market.martian.bbo" in stranger.reason


@pytest.mark.parametrize("raw", [
    b"", b"{}", b'{"ping":1}', b"\x1f\x8b\x08\x00" + b"x" * 50, gzip.compress(b'{"ping":1}')[:-6],
    gzip.compress(b" " * 9_000_000), gzip.compress(b"[" * 100_000), gzip.compress(b'{"ch":"\xff\xfe"}')],
    ids=["nothing", "no-gzip", "plain", "no-deflate", "cut", "bomb", "nested", "no-utf8"])
def test_frames_that_do_not_unpack(raw: bytes) -> None:
    [(route, signal)] = talk().receive(raw, NOW)
    assert isinstance(signal, Malformed) and len(signal.reason) < 500


# -- books -----------------------------------------------------------------------------------------


def test_whole_books() -> None:
    book = one(talk(), {"ch": "market.btcusdt.depth.step0", "ts": 1653985338657, "tick": {
        "bids": [[31638.9, 2.436837]], "asks": [[31639.0, 1.062193]], "version": 155386874272,
        "ts": 1653985338000}})
    assert book == BookSnapshot(155386874272, [(31638.9, 2.436837)], [(31639.0, 1.062193)], 1653985338000)


def test_a_side_may_be_missing() -> None:
    assert one(talk(), {"ch": "market.btcusdt.depth.step0", "ts": 5, "tick": {"asks": [[1, 1]],
                                                                              "version": 3}}) \
        == BookSnapshot(3, [], [(1.0, 1.0)], 5)
    delta = one(talk(book_mode="incremental"), '{"ch":"market.btcusdt.mbp.150","ts":1634601197516,"tick":'
                '{"seqNum":140059393690,"prevSeqNum":140059393689,"asks":[[61945.07,5.33E-4]]}}')
    assert (delta.link, delta.last, delta.time) == (140059393689, 140059393690, 1634601197516)
    assert delta.bids == [] and delta.asks == [(61945.07, 0.000533)]


def test_numbers_are_exact_whatever_their_notation() -> None:
    delta = one(talk(book_mode="incremental", number=Decimal),
                '{"ch":"market.btcusdt.mbp.150","ts":1,"tick":{'
                '"seqNum":2,"prevSeqNum":1,"bids":[[9.486E-11,5.4329174972728E12],[38765.39,0.0]]}}')
    assert delta.bids == [
        (Decimal("9.486E-11"), Decimal("5432917497272.8")), (Decimal("38765.39"), Decimal(0))]


def test_the_refresh() -> None:
    venue = talk(book_mode="incremental")
    route = venue.routes["book", "btcusdt"]
    [frame] = venue.refresh(route)
    assert json.loads(frame) == {"req": "market.btcusdt.mbp.150", "id": "1"}
    book = one(venue, {"id": "1", "rep": "market.btcusdt.mbp.150", "status": "ok", "ts": 1698359289261,
                       "data": {"seqNum": 7, "bids": [[1, 2]], "asks": [[3, 4]]}})
    assert book == BookSnapshot(7, [(1.0, 2.0)], [(3.0, 4.0)], 1698359289261)
    refused = one(venue, {"id": "1", "status": "error", "err-code": "too-many-request", "err-msg": "x"})
    assert isinstance(refused, Notice)
    assert talk().refresh(route) is None


@pytest.mark.parametrize("level", [
    "[NaN,1]", "[1,-1]", "[-1,1]", "[0,1]", "[1e999,1]", "[1]", '["x",1]', "{}"])
@pytest.mark.parametrize("number", [float, Decimal])
@pytest.mark.parametrize("mode, topic", [("snapshots", "depth.step0"), ("incremental", "mbp.150")])
def test_impossible_levels_are_malformed_and_name_their_book(level: str, number: Any, mode: str,
                                                             topic: str) -> None:
    venue = talk(number=number, book_mode=mode)
    signal = one(venue, f'{{"ch":"market.btcusdt.{topic}","ts":1,"tick":{{"seqNum":2,"prevSeqNum":1,'
                        f'"version":2,"bids":[{level}],"asks":[]}}}}')
    assert isinstance(signal, Malformed)
    assert signal.topic == f"market.btcusdt.{topic}" or "NaN" in level, "what is no JSON has no owner"


# -- everything else -------------------------------------------------------------------------------


def test_the_first_trades_after_subscribing_are_old_and_dropped() -> None:
    venue = talk("trades")
    venue.subscribe(venue.routes["trades", "btcusdt"].topics)

    def push(*trades: str) -> str:
        return ('{"ch":"market.btcusdt.trade.detail","ts":1616243199157,"tick":{"id":1,"ts":1,"data":['
                + ",".join(trades) + "]}}")

    def deal(number: int, side: str) -> str:
        return (f'{{"id":123140716701236887569077664,"ts":1616243199156,"tradeId":{number},"amount":1.98E-4,'
                f'"price":58911.07,"direction":"{side}"}}')

    assert heard(venue, push(deal(1, "sell"))) == []
    newest_first = heard(venue, push(deal(3, "buy"), deal(2, "sell")))
    assert [(t.id, t.side) for t in newest_first] == [("2", "sell"), ("3", "buy")]
    assert newest_first[0] == Trade(exchange="huobi", symbol="BTC-USDT", timestamp=1616243199156 * MS,
                                    received=NOW,
                                    price=58911.07, size=0.000198, side="sell", id="2")


TRADES = "market.btcusdt.trade.detail"


def subscribed(at: int, previous: Any = None) -> Any:
    """A connection whose subscription to trades was confirmed then, ms."""
    venue = HuobiVenue()
    if previous is not None:
        venue.inherit(previous)
    venue.add(venue.route("BTC-USDT", "trades"))
    venue.subscribe([TRADES])
    assert one(venue, {"id": "1", "status": "ok", "subbed": TRADES, "ts": at}) == Acked((TRADES,))
    return venue


def traded(venue: Any, *deals: tuple[int, int]) -> list[str]:
    """The trades that are handed on of a push of these ``(id, time)``, newest first."""
    data = [{"id": 1, "ts": when, "tradeId": number, "amount": 1, "price": 1, "direction": "buy"}
            for number, when in deals]
    tick = {"id": 1, "ts": 1, "data": data}
    return [trade.id for trade in heard(venue, {"ch": TRADES, "ts": 1, "tick": tick})]


def test_only_trades_from_before_the_subscription_are_old() -> None:
    assert traded(subscribed(1000), (1, 1000)) == ["1"], "the first trade of a new pair"
    venue = subscribed(1000)
    assert traded(venue, (6, 999), (5, 999)) == []
    assert traded(venue, (7, 999)) == ["7"], "the venue's clocks differ a little"
    assert traded(venue, (9, 1001), (8, 1001)) == ["8", "9"]
    assert traded(venue, (10, 1000)) == ["10"], "a late one"


def test_a_trade_made_while_the_connection_was_away_is_handed_on() -> None:
    first = subscribed(1000)
    assert traded(first, (6, 1100)) == ["6"]
    second = subscribed(1300, first)
    assert traded(second, (8, 1200), (7, 1200), (6, 1100)) == ["7", "8"]
    third = subscribed(1400, second)
    assert traded(third, (8, 1200)) == [], "it has been handed on"
    third.unsubscribe([TRADES])
    third.subscribe([TRADES])
    assert one(third, {"id": "3", "status": "ok", "subbed": TRADES, "ts": 1600}) == Acked((TRADES,))
    assert traded(third, (9, 1500)) == [], "nobody wanted it then"
    assert traded(third, (10, 1700)) == ["10"]


def test_after_a_change_of_mind_no_trade_is_taken_for_an_old_one() -> None:
    """Unsubscribed and subscribed again before anything was sent: the venue begins nothing anew."""
    venue = talk("trades")
    route = venue.routes["trades", "btcusdt"]
    assert venue.subscribe(route.topics)
    push = ('{"ch":"market.btcusdt.trade.detail","ts":5,"tick":{"id":1,"ts":1,"data":[{"id":1,"ts":1,'
            '"tradeId":%d,"amount":1,"price":1,"direction":"buy"}]}}')
    assert heard(venue, push % 1) == []
    assert [trade.id for trade in heard(venue, push % 2)] == ["2"]
    venue.remove(route)
    venue.add(venue.route("BTC-USDT", "trades"))
    assert [trade.id for trade in heard(venue, push % 3)] == ["3"]
    venue.subscribe(route.topics)
    assert heard(venue, push % 3) == []
    assert [trade.id for trade in heard(venue, push % 4)] == ["4"]


def test_quotes() -> None:
    quote = one(talk("quotes"), {"ch": "market.btcusdt.bbo", "ts": 1654031600066, "tick": {
        "seqId": 155441231856, "ask": 31764.09, "askSize": 0.794873, "bid": 31764.08, "bidSize": 4.378544,
        "quoteTime": 1654031600064, "symbol": "btcusdt"}})
    assert quote == Quote(exchange="huobi", symbol="BTC-USDT", timestamp=1654031600064 * MS, received=NOW,
                          bid=31764.08, bid_size=4.378544, ask=31764.09, ask_size=0.794873,
                          sequence=155441231856)
    empty = one(talk("quotes"), {"ch": "market.btcusdt.bbo", "ts": 3, "tick": {"seqId": 1}})
    assert empty.bid is empty.ask is None and empty.timestamp == 3 * MS


def test_a_bar_is_closed_by_its_successor() -> None:
    venue = talk("bars:1m")

    def push(start: int, close: float) -> dict[str, Any]:
        return {"ch": "market.btcusdt.kline.1min", "ts": start * 1000 + 5, "tick": {
            "id": start, "open": 1.0, "close": close, "low": 1.0, "high": 9.0, "amount": 0.5, "vol": 487.2,
            "count": 4}}

    [first] = heard(venue, push(1654081320, 2.0))
    [second] = heard(venue, push(1654081320, 3.0))
    final, opened = heard(venue, push(1654081380, 4.0))
    assert isinstance(first, Bar) and first.start == 1654081320 * 10 ** 9
    assert not first.closed and not second.closed and not opened.closed
    assert final.closed and (final.start, final.close) == (first.start, 3.0)
    assert opened.start == 1654081380 * 10 ** 9


def test_tickers() -> None:
    tick = {"open": 1.0, "close": 2.0, "low": 0.5, "high": 3.0, "amount": 10.0, "vol": 20.0, "count": 5,
            "bid": 1.9,
            "bidSize": 1.0, "ask": 2.1, "askSize": 2.0, "lastPrice": 2.0, "lastSize": 0.1}
    ticker = one(talk("ticker"), {"ch": "market.btcusdt.ticker", "ts": 4, "tick": tick})
    assert isinstance(ticker, Ticker) and (ticker.last, ticker.bid, ticker.ask) == (2.0, 1.9, 2.1)
    body = json.dumps({"ch": "x", "status": "ok", "ts": 4, "tick": {
        **tick, "bid": [1.9, 1.0], "ask": [2.1, 2.0]}}).encode()
    rest = HuobiVenue().ticker_answer("BTC-USDT", body, NOW)
    assert (rest.last, rest.bid, rest.ask_size, rest.source) == (2.0, 1.9, 2.0, "rest")
    with pytest.raises(ValueError):
        HuobiVenue().ticker_answer("BTC-USDT", b'{"status":"error","err-code":"x","err-msg":"y"}', NOW)


def test_the_same_messages_give_the_same_events() -> None:
    """Nothing but the messages and ``now`` decides: no clock, no chance."""
    messages = [{"ch": "market.btcusdt.kline.1min", "ts": n, "tick": {
        "id": n // 3, "open": 1, "close": 1 + n, "low": 1, "high": 9, "amount": 1, "vol": 2, "count": 4}}
        for n in range(1, 40)]
    first, second = talk("bars:1m"), talk("bars:1m")
    assert [heard(first, m) for m in messages] == [heard(second, m) for m in messages]

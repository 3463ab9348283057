"""Nasdaq ITCH over SoupBinTCP, without any socket: packets in, events and packets out."""

from __future__ import annotations

import datetime
import random
from decimal import Decimal
from typing import Any

import pytest
from streams.errors import AuthenticationFailed, ConfigurationError
from streams.events import Imbalance, MarketStatus, PriceBand, TradeCorrection
from streams.sim.itch import _garbage
from streams.sim.itch_market import ItchMarket
from streams.venue import Alive, Failed, Malformed, Notice, Ready, Reconnect, Refused, Reply
from streams.venues import itch_messages as messages
from streams.venues.itch import NasdaqItch

from .itch_lockstep import START, Client, accepted, compare, run

KEYS = {"api_key": "user", "api_secret": "password"}
MIDNIGHT = int(datetime.datetime(2026, 2, 19, 5, tzinfo=datetime.timezone.utc).timestamp()) * 10**9
CLOCK = 0x1F1A_0A1B_2C3D        # a time of day whose six bytes all differ
BUY, SELL = b"B", b"S"


def field(value: int | str, size: int) -> bytes:
    """One field as the specification writes it."""
    if isinstance(value, str):
        return value.encode().ljust(size)
    return value.to_bytes(size, "big")


def message(code: str, locate: int, *fields: tuple[int | str, int], clock: int = CLOCK) -> bytes:
    """One ITCH message out of ``(value, length)`` pairs."""
    head = code.encode() + field(locate, 2) + field(7, 2) + field(clock, 6)
    return head + b"".join(field(*pair) for pair in fields)


def directory(locate: int, stock: str) -> bytes:
    return message("R", locate, (stock, 8), ("Q", 1), ("N", 1), (100, 4), ("N", 1), ("C", 1), ("Z", 2),
                   ("P", 1), ("N", 1), (" ", 1), ("1", 1), ("N", 1), (0, 4), ("N", 1))


def add(locate: int, ref: int, side: str, shares: int, stock: str, price: int) -> bytes:
    return message("A", locate, (ref, 8), (side, 1), (shares, 4), (stock, 8), (price, 4))


# Section 4 of the specification, field by field: (length of the message, fields behind the time).
VECTORS: list[tuple[str, int, list[tuple[int | str, int]]]] = [
    ("S", 12, [("Q", 1)]),
    ("R", 39, [("BRK.B", 8), ("N", 1), ("D", 1), (100, 4), ("Y", 1), ("C", 1), ("Z", 2), ("T", 1), ("Y", 1),
               ("Z", 1), ("2", 1), ("Y", 1), (3, 4), ("Y", 1)]),
    ("H", 25, [("AAPL", 8), ("P", 1), ("", 1), ("LUDP", 4)]),
    ("Y", 20, [("AAPL", 8), ("1", 1)]),
    ("L", 26, [("GSCO", 4), ("AAPL", 8), ("Y", 1), ("S", 1), ("W", 1)]),
    ("V", 35, [(500012345678, 8), (400012345678, 8), (300012345678, 8)]),
    ("W", 12, [("2", 1)]),
    ("K", 28, [("AAPL", 8), (37800, 4), ("C", 1), (123456, 4)]),
    ("J", 35, [("AAPL", 8), (1000001, 4), (1100002, 4), (900003, 4), (2, 4)]),
    ("h", 21, [("AAPL", 8), ("X", 1), ("T", 1)]),
    ("A", 36, [(2**63 + 5, 8), ("S", 1), (300, 4), ("AAPL", 8), (1505000, 4)]),
    ("F", 40, [(77, 8), ("B", 1), (300, 4), ("AAPL", 8), (1505000, 4), ("NITE", 4)]),
    ("E", 31, [(77, 8), (40, 4), (2**40, 8)]),
    ("C", 36, [(77, 8), (40, 4), (2**40, 8), ("N", 1), (1504900, 4)]),
    ("X", 23, [(77, 8), (41, 4)]),
    ("D", 19, [(77, 8)]),
    ("U", 35, [(77, 8), (78, 8), (500, 4), (1505100, 4)]),
    ("P", 44, [(0, 8), ("B", 1), (300, 4), ("AAPL", 8), (1505000, 4), (99, 8)]),
    ("Q", 40, [(2**33, 8), ("AAPL", 8), (1505000, 4), (99, 8), ("C", 1)]),
    ("B", 19, [(99, 8)]),
    ("I", 50, [(2**34, 8), (2**35, 8), ("S", 1), ("AAPL", 8), (1, 4), (2, 4), (3, 4), ("O", 1), ("A", 1)]),
    ("N", 20, [("AAPL", 8), ("A", 1)]),
    ("O", 48, [("AAPL", 8), ("Y", 1), (8, 4), (18, 4), (10, 4), (2**41, 8), (9, 4), (11, 4)]),
]


class TestMessages:
    @pytest.mark.parametrize(("code", "size", "fields"), VECTORS, ids=[code for code, _, _ in VECTORS])
    def test_every_field_of_every_type(self, code: str, size: int, fields: list[Any]) -> None:
        data = message(code, 0x0102, *fields)
        assert len(data) == size == messages.LAYOUTS[ord(code)].size
        decoded = messages.decode(data)
        assert decoded[:3] == (0x0102, 7, CLOCK)
        assert decoded[3:] == tuple(value for value, _ in fields)

    def test_these_are_all_types(self) -> None:
        assert {chr(code) for code in messages.LAYOUTS} == {code for code, _, _ in VECTORS}

    def test_a_wrong_length_names_the_message(self) -> None:
        for code, size, fields in VECTORS:
            data = message(code, 1, *fields)
            for wrong in (data[:-1], data + b"\0", data[:1]):
                with pytest.raises(ValueError, match="bytes instead of") as caught:
                    messages.decode(wrong)
                assert messages.LAYOUTS[ord(code)].name in str(caught.value)

    def test_unknown_and_empty(self) -> None:
        with pytest.raises(ValueError, match="unknown type b'z'"):
            messages.decode(b"z" + bytes(30))
        with pytest.raises(ValueError, match="empty"):
            messages.decode(b"")


class Feed(Client):
    """A client that is logged in to a session written by hand."""

    def __init__(self, *symbols: str, channels: tuple[str, ...] = ("book",), **options: Any) -> None:
        super().__init__(symbols, channels=channels, **options)
        self.login()

    def say(self, data: bytes, now: int = 1) -> list[Any]:
        """One message; the events it caused."""
        return [event for _, event in self.feed(b"S" + data, now)]


class TestLogin:
    def test_the_request_is_laid_out_as_specified(self) -> None:
        client = Client(["AAPL"])
        assert client.connect() == ("", 1)
        assert client.request == b"Luser  password  " + b" " * 10 + b" " * 19 + b"1"
        client = Client(["AAPL"], soup="4.1")
        client.connect()
        assert client.request == b"Luser  password  " + b" " * 10 + b" " * 19 + b"1" + b"15000"

    def test_it_is_secret(self) -> None:
        venue = NasdaqItch(**KEYS)
        (route, reply), = venue.opened(1)
        assert isinstance(reply, Reply) and reply.secret
        assert "password" not in repr(reply) + repr(vars(venue)) + repr(venue)

    @pytest.mark.parametrize(("options", "says"), [
        ({"api_secret": "x"}, "api_key"),
        ({"api_key": "x"}, "api_secret"),
        ({"api_key": "toolong", "api_secret": "x"}, "at most 6"),
        ({"api_key": "user", "api_secret": "hunter2-hunter2"}, "at most 10"),
        ({**KEYS, "date": "19.2.2026"}, "YYYY-MM-DD"),
        ({**KEYS, "keep": "none"}, "all, subscribed|'all' or 'subscribed'"),
        ({**KEYS, "max_lag": -1}, "max_lag"),
        ({**KEYS, "soup": "2"}, "3.00, 4.1"),
        ({**KEYS, "depht": 5}, "no option 'depht'"),
    ])
    def test_mistakes_fail_at_the_call(self, options: dict[str, Any], says: str) -> None:
        with pytest.raises(ConfigurationError, match=says) as caught:
            NasdaqItch(**options)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("symbol", ["", "TOOLONGNAME", "A B", "*", "ÄPL", 5])
    def test_no_symbol(self, symbol: Any) -> None:
        with pytest.raises(ConfigurationError, match="no symbol of nasdaq-itch"):
            NasdaqItch(**KEYS).route(symbol, "book")

    def test_nasdaqs_symbols(self) -> None:
        venue = NasdaqItch(**KEYS)
        assert [venue.native(s) for s in ("aapl", "BRK.B", "AAC+", "BC-A", "ACP#")] == [
            "AAPL", "BRK.B", "AAC+", "BC-A", "ACP#"]

    def test_accepted_then_ready(self) -> None:
        assert Feed("AAPL").taken(Ready) == [Ready()]

    def test_not_authorized_is_final(self) -> None:
        client = Client(["AAPL"])
        client.connect()
        client.feed(b"JA")
        (failed,) = client.taken(Failed)
        assert isinstance(failed.error, AuthenticationFailed)
        assert "password" not in str(failed.error).replace("user name and password", "")

    def test_no_session_is_tried_again_later(self) -> None:
        client = Client(["AAPL"])
        client.connect()
        client.feed(b"JS")
        (again,) = client.taken(Reconnect)
        assert again.after > 0 and not again.planned

    def test_a_session_that_is_gone_is_left_for_the_current_one(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        assert feed.connect() == ("SIM0000001", 2)
        feed.feed(b"JS")
        (again,) = feed.taken(Reconnect)
        assert again.planned and not again.after
        assert feed.connect() == ("", 1)

    def test_end_of_session_begins_anew(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        feed.say(add(1, 5, "B", 100, "AAPL", 10000))
        feed.feed(b"Z")
        (again,) = feed.taken(Reconnect)
        assert again.planned and again.after > 0
        assert feed.say(add(1, 6, "B", 100, "AAPL", 10000)) == [], "nothing is taken after the end"
        assert feed.connect() == ("", 1)
        feed.feed(accepted("SIM0000002", 1))
        feed.say(directory(3, "AAPL"))
        assert feed.books["AAPL"] == ({}, {}), "yesterday's orders are gone"

    def test_heartbeat_logout_and_debug(self) -> None:
        feed = Feed("AAPL")
        assert feed.venue is not None
        assert feed.venue.heartbeat(1) == (1.0, (b"R",))
        assert list(feed.venue.goodbye()) == [b"O"]
        feed.feed(b"+maintenance tonight ")
        assert feed.taken(Notice) == [Notice("maintenance tonight")]
        feed.feed(b"H")
        assert feed.taken(Alive) == [Alive()] and feed.feed(b"Uwhatever") == []

    def test_transport_options_are_the_packets_framing(self) -> None:
        assert NasdaqItch(**KEYS).transport_options() == {"framing": "length", "width": 2, "byteorder": "big"}


class TestBooks:
    def test_equal_to_the_true_book_at_every_number(self) -> None:
        run(70_000, reconnect=0.002)

    def test_so_with_decimals_and_only_the_orders_of_subscribed_stocks(self) -> None:
        run(30_000, seed=3, number=Decimal, reconnect=0.002, keep="subscribed", watched=2)

    @pytest.mark.parametrize("seed", [1, 2])
    def test_so_after_every_read_of_many_messages(self, seed: int) -> None:
        market = ItchMarket(("AAPL", "MSFT", "NVDA"), seed=seed, start=START)
        dice = random.Random(seed)
        client = Client(("AAPL", "MSFT"), channels=("book", "trades"))
        sent = client.login() - 1
        deltas = 0
        for _ in range(1500):
            for _ in range(dice.choice((1, 2, 5, 50))):
                market.step()
            items = client.feed_many([packet[2:] for packet in market.packets[sent:]])
            sent = len(market.packets)
            books = [route.symbol for route, event in items if type(event).__name__ == "Delta"]
            assert len(books) == len(set(books)), "at most one delta a book"
            deltas += len(books)
            for symbol in ("AAPL", "MSFT"):
                compare(client, market, symbol)
            if dice.random() < 0.01:
                assert client.login() - 1 == sent
        assert 1500 < deltas < sent / 3
        ids = [trade.id for symbol in ("AAPL", "MSFT") for trade in client.trades[symbol]]
        assert len(ids) == len(set(ids)) > 500
        assert not client.taken(Malformed)

    def test_a_bad_message_among_many_ends_it_there(self) -> None:
        feed = Feed("AAPL")
        items = feed.feed_many([b"S" + data for data in (
            directory(1, "AAPL"), add(1, 1, "B", 100, "AAPL", 10000), message("D", 1, (9, 8)),
            add(1, 2, "B", 100, "AAPL", 20000))])
        assert [type(event).__name__ for _, event in items] == [
            "BookSnapshot", "Malformed", "Reconnect", "Delta"]
        assert feed.books["AAPL"] == ({1.0: 100.0}, {}), "what came before it is told"
        assert feed.login() == 3

    def test_the_life_of_an_order(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(9, "AAPL"))
        bids, asks = feed.books["AAPL"]
        feed.say(add(9, 1, "B", 300, "AAPL", 1505000))
        feed.say(message("F", 9, (2, 8), ("B", 1), (50, 4), ("AAPL", 8), (1505000, 4), ("NITE", 4)))
        feed.say(add(9, 3, "S", 70, "AAPL", 1505001))
        assert (bids, asks) == ({150.5: 350.0}, {150.5001: 70.0})
        feed.say(message("E", 9, (1, 8), (100, 4), (1, 8)))
        feed.say(message("X", 9, (1, 8), (150, 4)))
        assert bids == {150.5: 100.0}
        feed.say(message("C", 9, (2, 8), (50, 4), (2, 8), ("Y", 1), (1504000, 4)))
        assert bids == {150.5: 50.0}, "executed at another price, taken from its own level"
        feed.say(message("U", 9, (1, 8), (4, 8), (500, 4), (1504000, 4)))
        assert bids == {150.4: 500.0}
        feed.say(message("U", 9, (4, 8), (5, 8), (600, 4), (1504000, 4)))
        assert bids == {150.4: 600.0}
        feed.say(message("D", 9, (5, 8)))
        assert (bids, asks) == ({}, {150.5001: 70.0})
        assert feed.last["AAPL"] == 10 and not feed.taken(Malformed)

    def test_numbers_are_exact_decimals_where_asked_for(self) -> None:
        feed = Feed("AAPL", number=Decimal)
        feed.say(directory(1, "AAPL"))
        (delta,) = feed.say(add(1, 1, "B", 3, "AAPL", 1999999999))
        ((price, size),) = delta.bids
        assert (price, size) == (Decimal("199999.9999"), Decimal(3))
        assert type(price) is Decimal and type(size) is Decimal

    def test_times_are_new_yorks_and_absolute(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        (delta,) = feed.say(add(1, 1, "B", 3, "AAPL", 10000))
        assert delta.time == MIDNIGHT + CLOCK
        summer = Feed("AAPL", date=datetime.date(2026, 7, 1))
        summer.say(directory(1, "AAPL"))
        (delta,) = summer.say(add(1, 1, "B", 3, "AAPL", 10000))
        four = datetime.datetime(2026, 7, 1, 4, tzinfo=datetime.timezone.utc)
        assert delta.time == int(four.timestamp()) * 10**9 + CLOCK

    def test_the_day_is_that_of_new_york_when_none_is_given(self) -> None:
        venue = NasdaqItch(**KEYS, max_lag=None)
        route = venue.route("AAPL", "book")
        venue.add(route)
        now = MIDNIGHT + 23 * 3600 * 10**9          # 4 in the morning of the 20th, UTC
        list(venue.opened(now))
        list(venue.receive(accepted("S", 1), now))
        list(venue.receive(b"S" + directory(1, "AAPL"), now))
        ((_, delta),) = venue.receive(b"S" + add(1, 1, "B", 3, "AAPL", 10000), now)
        assert delta.time == MIDNIGHT + CLOCK       # type: ignore[union-attr]

    def test_a_late_subscription_gets_the_whole_book(self) -> None:
        market = ItchMarket(("AAPL", "MSFT"), seed=5, start=START)
        client = Client(["AAPL"])
        client.login()
        for _ in range(5000):
            market.step()
        sent = len(market.packets)
        for packet in market.packets:
            client.feed(packet[2:])
        client.symbols.append("MSFT")
        client.books["MSFT"] = {}, {}
        assert client.venue is not None
        client.venue.add(client.venue.route("MSFT", "book"))
        client.feed(b"H")
        compare(client, market, "MSFT")
        for _ in range(2000):
            symbol = market.step()
            for packet in market.packets[sent:]:
                client.feed(packet[2:])
            sent = len(market.packets)
            compare(client, market, symbol)

    def test_a_late_subscription_without_the_orders_has_the_session_repeated(self) -> None:
        market = ItchMarket(("AAPL", "MSFT"), seed=5, start=START)
        client = Client(["AAPL"], keep="subscribed")
        client.login()
        for _ in range(3000):
            market.step()
        for packet in market.packets:
            client.feed(packet[2:])
        assert client.venue is not None
        client.symbols.append("MSFT")
        client.books["MSFT"] = {}, {}
        client.venue.add(client.venue.route("MSFT", "book"))
        client.feed(b"H")
        (again,) = client.taken(Reconnect)
        assert again.planned
        assert client.login() == 1
        for packet in market.packets:
            client.feed(packet[2:])
        compare(client, market, "MSFT")
        compare(client, market, "AAPL")

    def test_refresh_gives_the_whole_book_with_the_next_packet(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        feed.say(add(1, 1, "B", 3, "AAPL", 10000))
        assert feed.venue is not None
        route = feed.venue.routes["book", "AAPL"]
        assert feed.venue.refresh(route) == ()
        _, (same, snapshot) = feed.feed(b"H")
        assert same is route and snapshot.bids == [(1.0, 3.0)] and snapshot.last == 2

    def test_removed_routes_get_nothing_and_can_come_back(self) -> None:
        feed = Feed("AAPL", channels=("book", "trades"))
        feed.say(directory(1, "AAPL"))
        assert feed.venue is not None
        routes = list(feed.venue.routes.values())
        for route in routes:
            feed.venue.remove(route)
        assert feed.say(add(1, 1, "B", 3, "AAPL", 10000)) == []
        assert feed.say(message("E", 1, (1, 8), (1, 4), (2, 8))) == []
        for route in routes:
            feed.venue.add(route)
        _, snapshot = [event for _, event in feed.feed(b"H")]
        assert snapshot.bids == [(1.0, 2.0)]

    def test_a_stock_that_is_not_in_the_directory_is_refused(self) -> None:
        feed = Feed("AAPL", "WRONG", channels=("book", "trades"))
        feed.say(directory(1, "AAPL"))
        assert not feed.taken(Refused)
        feed.say(message("S", 0, ("S", 1)))
        refused = feed.taken(Refused)
        assert {topic for r in refused for topic in r.topics} == {"book:WRONG", "trades:WRONG"}
        assert all("not in the stock directory" in r.reason and not r.transient for r in refused)
        assert feed.venue is not None
        feed.venue.add(feed.venue.route("LATE", "book"))
        feed.feed(b"H")
        assert [r.topics for r in feed.taken(Refused)] == [("book:LATE",)]


class TestBehind:
    NOW = MIDNIGHT + START + 3600 * 10**9           # an hour after the session's first message

    def client(self) -> tuple[Client, ItchMarket]:
        market = ItchMarket(("AAPL",), seed=2, start=START)
        for _ in range(2000):
            market.step()
        client = Client(["AAPL"], date=None, max_lag=30.0)
        client.connect()
        assert client.venue is not None
        list(client.venue.opened(self.NOW))
        client.feed(accepted("SIM0000001", 1), self.NOW)
        return client, market

    def test_books_are_held_back_until_the_session_is_nearly_there(self) -> None:
        client, market = self.client()
        for packet in market.packets[:-1]:
            client.feed(packet[2:], self.NOW)
        assert not client.last
        client.feed(market.packets[-1][2:], MIDNIGHT + START + 20 * 10**9)
        compare(client, market, "AAPL")
        assert client.last["AAPL"] == len(market.packets)

    def test_a_heartbeat_says_that_there_is_no_more(self) -> None:
        client, market = self.client()
        for packet in market.packets:
            client.feed(packet[2:], self.NOW)
        assert not client.last
        client.feed(b"H", self.NOW)
        compare(client, market, "AAPL")

    def test_a_session_of_a_given_day_is_never_behind(self) -> None:
        feed = Feed("AAPL")
        assert [type(e).__name__ for e in feed.say(directory(1, "AAPL"), MIDNIGHT * 2)] == ["BookSnapshot"]


class TestEvents:
    COMMON = {"exchange": "nasdaq-itch", "symbol": "AAPL", "timestamp": MIDNIGHT + CLOCK, "received": 55}

    def feed(self, **options: Any) -> Feed:
        feed = Feed("AAPL", channels=("trades", "statuses", "imbalances", "lulds"), **options)
        feed.say(directory(1, "AAPL"))
        feed.say(add(1, 1, "B", 300, "AAPL", 1505000))
        feed.say(add(1, 2, "S", 300, "AAPL", 1505100))
        return feed

    def test_executions(self) -> None:
        feed = self.feed()
        (trade,) = feed.say(message("E", 1, (1, 8), (100, 4), (9, 8)), 55)
        assert {f: getattr(trade, f) for f in self.COMMON} == self.COMMON
        assert (trade.price, trade.size, trade.side) == (150.5, 100.0, "sell")
        assert (trade.id, trade.conditions) == ("9", ())
        (trade,) = feed.say(message("E", 1, (2, 8), (100, 4), (10, 8)))
        assert (trade.price, trade.side) == (150.51, "buy")
        (trade,) = feed.say(message("C", 1, (2, 8), (100, 4), (11, 8), ("Y", 1), (1506000, 4)))
        assert (trade.price, trade.side, trade.conditions) == (150.6, "buy", ("C",))
        assert feed.say(message("C", 1, (2, 8), (100, 4), (12, 8), ("N", 1), (1506000, 4))) == [], \
            "not printable: it is in a cross trade"

    def test_other_trades_and_their_breaking(self) -> None:
        feed = self.feed(number=Decimal)
        (trade,) = feed.say(message(
            "P", 1, (0, 8), ("B", 1), (7, 4), ("AAPL", 8), (1505050, 4), (20, 8)))
        assert (trade.price, trade.size, trade.side, trade.conditions) == (
            Decimal("150.505"), Decimal(7), None, ("P",))
        (trade,) = feed.say(message("Q", 1, (2**33, 8), ("AAPL", 8), (1505000, 4), (21, 8), ("O", 1)))
        assert (trade.size, trade.id, trade.conditions) == (Decimal(2**33), "21", ("Q", "O"))
        assert feed.say(message("Q", 1, (0, 8), ("AAPL", 8), (0, 4), (22, 8), ("O", 1))) == []
        (broken,) = feed.say(message("B", 1, (21, 8)), 55)
        assert broken == TradeCorrection(id="21", **self.COMMON) and broken.cancelled

    def test_imbalance(self) -> None:
        (event,) = self.feed().say(message(
            "I", 1, (1000, 8), (200, 8), ("S", 1), ("AAPL", 8), (0, 4), (1505000, 4), (1504000, 4),
            ("C", 1), ("L", 1)), 55)
        assert event == Imbalance(price=150.4, near=150.5, far=None, paired=1000.0, imbalance=200.0,
                                  side="sell", auction="C", **self.COMMON)

    def test_collars(self) -> None:
        (band,) = self.feed().say(message(
            "J", 1, ("AAPL", 8), (1500000, 4), (1600000, 4), (1400000, 4), (1, 4)), 55)
        assert band == PriceBand(limit_up=160.0, limit_down=140.0, indicator="extension 1", **self.COMMON)
        (band,) = self.feed().say(message(
            "O", 1, ("AAPL", 8), ("Y", 1), (8000, 4), (18000, 4), (10000, 4), (5, 8), (9000, 4), (11000, 4)))
        assert (band.limit_up, band.limit_down) == (1.1, 0.9) and "direct listing" in band.indicator

    @pytest.mark.parametrize(("code", "fields", "status"), [
        ("H", [("AAPL", 8), ("H", 1), ("", 1), ("T12", 4)],
         ("H", "halted across all US equity markets", "T12", "")),
        ("Y", [("AAPL", 8), ("1", 1)], ("reg-sho", "price test restriction in effect", "1", "")),
        ("h", [("AAPL", 8), ("X", 1), ("H", 1)], ("operational-halt", "halted on Nasdaq PSX", "H", "X")),
        ("N", [("AAPL", 8), ("B", 1)], ("retail-interest", "retail interest on the bid", "B", "")),
        ("L", [("GSCO", 4), ("AAPL", 8), ("Y", 1), ("N", 1), ("A", 1)],
         ("market-participant", "GSCO is active", "A", "primary=Y mode=N")),
        ("K", [("AAPL", 8), (37845, 4), ("A", 1), (240000, 4)],
         ("ipo", "anticipated quotation release at 10:30:45, price 24.0", "A", "")),
    ])
    def test_statuses_of_a_stock(self, code: str, fields: list[Any], status: tuple[str, ...]) -> None:
        (event,) = self.feed().say(message(code, 1, *fields), 55)
        code_, text, reason_code, reason = status
        assert event == MarketStatus(code=code_, message=text, reason_code=reason_code, reason=reason,
                                     **self.COMMON)

    @pytest.mark.parametrize(("code", "fields", "status", "text"), [
        ("S", [("Q", 1)], "system-event", "start of market hours"),
        ("V", [(500000000000, 8), (400000000000, 8), (300000000000, 8)], "circuit-breaker-levels",
         "5000, 4000, 3000"),
        ("W", [("2", 1)], "circuit-breaker", "level 2 was breached"),
    ])
    def test_statuses_of_the_market_go_to_all(
        self, code: str, fields: list[Any], status: str, text: str
    ) -> None:
        feed = Feed("AAPL", "MSFT", channels=("statuses",))
        feed.say(directory(1, "AAPL"))
        feed.say(directory(2, "MSFT"))
        events = feed.say(message(code, 0, *fields))
        assert [(e.symbol, e.code, e.message) for e in events] == [
            ("AAPL", status, text), ("MSFT", status, text)]

    def test_the_directory_itself_is_a_status(self) -> None:
        feed = Feed("AAPL", channels=("statuses",))
        (event,) = feed.say(directory(1, "AAPL"))
        assert event.code == "directory" and "lot=100" in event.message

    def test_other_stocks_are_skipped(self) -> None:
        feed = self.feed()
        feed.say(directory(2, "MSFT"))
        for code, _, fields in VECTORS:
            if code not in "SVWR" and code not in "ECXDU":
                assert feed.say(message(code, 2, *fields)) == [], code
        assert feed.say(message("E", 2, (77, 8), (40, 4), (5, 8))) == []


class TestImpossible:
    """Whatever can not be right is named, changes nothing, and is asked for again."""

    BAD = {
        "truncated": (add(1, 9, "B", 100, "AAPL", 10000)[:-3], "add order: 33 bytes instead of 36"),
        "long": (message("D", 1, (1, 8)) + b"!", "order delete: 20 bytes instead of 19"),
        "short with mpid": (message("F", 1, (9, 8), ("B", 1), (5, 4), ("AAPL", 8), (7, 4)),
                            "add order with MPID: 36 bytes instead of 40"),
        "same reference": (add(1, 1, "B", 100, "AAPL", 10000), "add order: order 1 is there already"),
        "no shares": (add(1, 9, "B", 0, "AAPL", 10000), "add order: order 9 of no shares"),
        "no price": (add(1, 9, "B", 5, "AAPL", 0), "add order: a price of 0"),
        "no side": (add(1, 9, "?", 5, "AAPL", 5), "add order"),
        "unknown stock": (add(99, 9, "B", 5, "AAPL", 5), "locate code 99 is not in the stock directory"),
        "execution of nothing": (message("E", 1, (8, 8), (1, 4), (5, 8)), "order executed: 8 is not known"),
        "execution of too much": (message("E", 1, (1, 8), (301, 4), (5, 8)),
                                  "order executed: 301 shares of order 1, which has 300"),
        "execution at no price": (message("C", 1, (1, 8), (1, 4), (5, 8), ("Y", 1), (0, 4)),
                                  "order executed with price: a price of 0"),
        "cancel of too much": (message("X", 1, (1, 8), (301, 4)), "order cancel: 301 shares of order 1"),
        "delete of nothing": (message("D", 1, (8, 8)), "order delete: 8 is not known"),
        "replace of nothing": (message("U", 1, (8, 8), (9, 8), (5, 4), (5, 4)),
                               "order replace: 8 is not known"),
        "replace by one there": (message("U", 1, (1, 8), (2, 8), (5, 4), (5, 4)),
                                 "order replace: order 2 is there already"),
        "replace at no price": (message("U", 1, (1, 8), (9, 8), (5, 4), (0, 4)),
                                "order replace: a price of 0"),
    }

    def feed(self) -> Feed:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        feed.say(add(1, 1, "B", 300, "AAPL", 1505000))
        feed.say(add(1, 2, "S", 300, "AAPL", 1505100))
        return feed

    @pytest.mark.parametrize("kind", BAD)
    def test_is_named_and_asked_for_again(self, kind: str) -> None:
        data, says = self.BAD[kind]
        feed = self.feed()
        assert [type(event) for event in feed.say(data)] == [Malformed, Reconnect]
        (malformed,), (again,) = feed.taken(Malformed), feed.taken(Reconnect)
        assert says in malformed.reason and malformed.reason.startswith("message 4, ")
        assert not again.planned
        assert feed.say(message("D", 1, (1, 8))) == [], "what still comes is not ours"
        assert feed.login() == 4, "resumed at the message itself"
        assert feed.books["AAPL"] == ({150.5: 300.0}, {150.51: 300.0}), "it left no trace"
        feed.say(message("D", 1, (1, 8)))
        assert feed.books["AAPL"] == ({}, {150.51: 300.0})
        assert not feed.taken(Malformed)

    def test_wrong_again_is_orders_before_it_wrong_then_passed_over(self) -> None:
        feed = self.feed()
        bad = message("D", 1, (8, 8))
        feed.say(bad)
        assert feed.login() == 4
        assert [type(event) for event in feed.say(bad)] == [Malformed, Reconnect]
        assert feed.connect() == ("", 1), "now from the beginning"
        feed.feed(accepted("SIM0000001", 1))
        for data in (directory(1, "AAPL"), add(1, 1, "B", 300, "AAPL", 1505000),
                     add(1, 2, "S", 300, "AAPL", 1505100)):
            feed.say(data)
        assert [type(event) for event in feed.say(bad)] == [Malformed], "for good"
        feed.say(message("D", 1, (2, 8)))
        assert feed.books["AAPL"] == ({150.5: 300.0}, {}) and feed.last["AAPL"] == 5

    def test_numbers_of_another_session_are_not_suspect(self) -> None:
        feed = self.feed()
        bad = message("D", 1, (8, 8))
        feed.say(bad)
        feed.login()
        feed.feed(b"Z")
        assert feed.connect() == ("", 1)
        feed.feed(accepted("SIM0000002", 1))
        for data in (directory(1, "AAPL"), add(1, 1, "B", 300, "AAPL", 1505000),
                     add(1, 2, "S", 300, "AAPL", 1505100)):
            feed.say(data)
        feed.say(bad)
        assert feed.connect() == ("SIM0000002", 4)

    def test_a_lost_message_is_found_and_healed(self) -> None:
        self.accident(lambda packets, at: packets[:at] + packets[at + 1:])

    def test_a_repeated_message_is_found_and_healed(self) -> None:
        self.accident(lambda packets, at: packets[:at] + [packets[at]] + packets[at:])

    def accident(self, spoil: Any) -> None:
        """One message of the first connection is missing, or there twice; afterwards the server is right.
        It is found out as soon as some later message does not fit (which may never happen)."""
        market = ItchMarket(("AAPL",), seed=4, depth=20, start=START)
        for _ in range(4000):
            market.step()
        healed = 0
        for at in range(100, 2000, 190):
            client = Client(["AAPL"])
            number = client.login()
            packets = spoil(list(market.packets), at)
            connections = 1
            while packets:
                for packet in packets:
                    client.feed(packet[2:])
                    if client.taken(Reconnect):
                        break
                else:
                    break
                number = client.login()
                connections += 1
                assert connections < 20
                packets = market.packets[number - 1:]
            if client.taken(Malformed):
                healed += 1
                compare(client, market, "AAPL")
        assert healed >= 5

    def test_an_unknown_type_is_asked_for_once(self) -> None:
        feed = self.feed()
        assert [type(event) for event in feed.say(b"z" + bytes(20))] == [Malformed, Reconnect]
        assert "unknown type b'z'" in feed.taken(Malformed)[0].reason
        assert feed.login() == 4
        for _ in range(3):
            assert [type(event) for event in feed.say(b"z" + bytes(20))] == [Malformed]
        feed.say(message("D", 1, (1, 8)))
        assert feed.last["AAPL"] == 7

    def test_other_bad_messages_only_count(self) -> None:
        feed = self.feed()
        for data in (directory(1, "AAPL")[:-1], message("S", 0, ("QQ", 2)), b"I"):
            assert [type(event) for event in feed.say(data)] == [Malformed]
        for packet in (b"", b"?", b"A", b"A" + b"x" * 30, b"J?", b"A" + b" " * 10 + b"%20d" % 0):
            assert [type(event) for _, event in feed.feed(packet)] == [Malformed], packet
        assert not feed.taken(Reconnect)

    def test_an_empty_data_packet_is_asked_for_once(self) -> None:
        feed = self.feed()
        assert [type(event) for _, event in feed.feed(b"S")] == [Malformed, Reconnect]
        assert feed.login() == 4
        assert [type(event) for _, event in feed.feed(b"S")] == [Malformed]

    def test_nothing_makes_it_raise(self) -> None:
        market = ItchMarket(("AAPL", "MSFT"), seed=6, start=START)
        for _ in range(3000):
            market.step()
        dice = random.Random(7)
        client = Client(["AAPL"], channels=("book", "trades", "statuses", "imbalances", "lulds"))
        client.login()
        for packet in market.packets:
            raw = bytearray(packet[2:])
            if dice.random() < 0.2:
                for _ in range(dice.randint(1, 4)):
                    raw[dice.randrange(len(raw))] = dice.randrange(256)
            if dice.random() < 0.05:
                del raw[dice.randrange(len(raw)):]
            if dice.random() < 0.05:
                raw += dice.randbytes(3)
            assert client.venue is not None
            for _, event in client.venue.receive(bytes(raw), 1):
                if type(event) is Reconnect:
                    client.venue, previous = NasdaqItch(**client.options), client.venue
                    client.venue.inherit(previous)
                    client.venue.add(client.venue.route("AAPL", "book"))
                    session, number = client.venue._session_id, client.venue._flow.sequence + 1
                    list(client.venue.receive(accepted(session or "SIM0000001", number), 1))
                    break

    @pytest.mark.parametrize("kind", ["truncated", "long", "type", "unknown_order", "too_many", "locate"])
    def test_garbage_in_place_of_a_message_is_healed(self, kind: str) -> None:
        market = ItchMarket(("AAPL",), seed=8, start=START)
        for _ in range(300):
            market.step()
        client = Client(["AAPL"])
        client.login()
        at = next(n for n in range(150, 300) if market.packets[n][3:4] == b"X")
        for packet in market.packets[:at]:
            client.feed(packet[2:])
        client.feed(_garbage(kind, market.packets[at])[2:])
        assert client.taken(Malformed) and client.taken(Reconnect)
        assert client.login() == at + 1
        for packet in market.packets[at:]:
            client.feed(packet[2:])
        compare(client, market, "AAPL")


class TestResuming:
    def test_another_number_than_asked_for_is_a_gap(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        assert feed.connect() == ("SIM0000001", 2)
        feed.feed(accepted("SIM0000001", 5))
        (again,) = feed.taken(Reconnect)
        assert "sequence gap: asked for message 2" in again.reason and not again.planned
        assert feed.connect() == ("", 1)

    def test_another_session_than_asked_for_begins_anew(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        feed.connect()
        feed.feed(accepted("OTHER", 2))
        assert feed.taken(Reconnect) and feed.connect() == ("", 1)

    def test_a_session_joined_late_has_no_books_but_trades(self) -> None:
        client = Client(["AAPL"], channels=("book", "trades"))
        client.connect()
        client.feed(accepted("SIM0000001", 1000))
        (refused,) = client.taken(Refused)
        assert refused.topics == ("book:AAPL",) and "joined after its beginning" in refused.reason
        assert client.taken(Notice) and client.taken(Ready)
        client.feed(b"S" + directory(1, "AAPL"))
        client.feed(b"S" + message("E", 1, (1, 8), (1, 4), (5, 8)))
        client.feed(b"S" + message("D", 1, (1, 8)))
        client.feed(b"S" + message("P", 1, (0, 8), ("B", 1), (7, 4), ("AAPL", 8), (1505050, 4), (20, 8)))
        assert [t.id for t in client.trades["AAPL"]] == ["20"]
        assert not client.taken(Malformed) and not client.last

    def test_a_connection_that_never_logs_in_loses_nothing(self) -> None:
        feed = Feed("AAPL")
        feed.say(directory(1, "AAPL"))
        feed.say(add(1, 1, "B", 300, "AAPL", 1505000))
        for _ in range(3):
            assert feed.connect() == ("SIM0000001", 3)
        feed.feed(accepted("SIM0000001", 3))
        assert feed.books["AAPL"][0] == {150.5: 300.0}

    def test_trades_come_once(self) -> None:
        market = ItchMarket(("AAPL",), seed=9, start=START)
        client = Client(["AAPL"], channels=("book", "trades"))
        sent = client.login() - 1
        for n in range(20_000):
            market.step()
            for packet in market.packets[sent:]:
                client.feed(packet[2:])
            sent = len(market.packets)
            if n % 997 == 0:
                sent = client.login() - 1
        ids = [trade.id for trade in client.trades["AAPL"]]
        assert len(ids) == len(set(ids)) > 1000
        truth = [str(int.from_bytes(p[26 if p[3:4] in b"EC" else 39:][:8], "big")) for p in market.packets
                 if p[3:4] in (b"E", b"P") or p[3:4] == b"C" and p[34:35] == b"Y"]
        crosses = {t.id for t in client.trades["AAPL"] if t.conditions[:1] == ("Q",)}
        assert [i for i in ids if i not in crosses] == truth

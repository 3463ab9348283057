"""Kraken spot, WebSocket API v2.

Sources: docs.kraken.com (Spot WebSocket v2: introduction, book, ticker, trade, ohlc, status, ping;
the guide "Book checksum"), and recorded feeds.

A book has no sequence numbers: each message carries a checksum of the ten best levels of the book
after it, in the venue's own digits. It is compared before anything reaches the book that users read.
One that differs costs that book, and no other, its snapshot; what comes until the new one is of no use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ..checksums import DigitBook
from ..errors import ConfigurationError
from ..events import Ticker
from ..symbols import SymbolStyle, check_pair, native_symbol
from ..venue import (
    Acked, Alive, BookBroken, BookSnapshot, Item, Limits, Malformed, Notice, Refused, RestRequest, Route,
    Venue,
)
from . import kraken_messages as wire

__all__ = ["KrakenVenue"]

_BOOK = b'{"channel":"book"'
_CHANNEL = re.compile(rb'"channel"\s*:\s*"(\w+)"')
_SYMBOL = re.compile(rb'"symbol"\s*:\s*"([^"\\]{1,40})"')
_DEPTHS = (10, 25, 100, 500, 1000)
_ALIASES = {"XBT": "BTC", "XDG": "DOGE"}        # names of REST and v1, unknown to v2
_TRANSIENT = re.compile(r"\b(rate|busy|unavailable|timeout)\b", re.IGNORECASE)


class KrakenVenue(Venue):
    """Kraken spot.

    Channels: ``book`` (``depth`` 10, 25, 100, 500 or 1000, else the next larger; 10 by default, all of
    which the checksum covers), ``quotes`` and ``ticker`` (one subscription, sent when the best prices
    change), ``trades``, ``bars:<interval>`` (ohlc).

    It allows one interval of bars per symbol and connection, so each interval has a stream of its own
    (the manager makes them).
    """

    name: ClassVar[str] = "kraken"
    channels: ClassVar[tuple[str, ...]] = ("book", "quotes", "trades", "bars", "ticker")
    intervals: ClassVar[Mapping[str, str]] = {
        "1m": "1", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "4h": "240", "1d": "1440",
        "1w": "10080", "15d": "21600"}
    url: ClassVar[str] = "wss://ws.kraken.com"
    rest_url: ClassVar[str] = "https://api.kraken.com"
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle(separator="/")
    time_unit: ClassVar[int] = 1
    # A heartbeat a second where nothing else is said: they tell that the connection lives, not that it
    # brings what was asked for. Books of quiet pairs say nothing for half a minute (seen), so silence of
    # all of them is believed for four times that, and costs one connect then. About 150 connects in ten
    # minutes are let through; messages are limited, too, but not documented.
    limits: ClassVar[Limits] = Limits(
        topics=200, batch=50, messages=(5, 1.0), connects=(140, 600.0), rest=(1, 1.0), stale_after=120.0,
        heartbeat=10.0)
    rule: str = "unsequenced"

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        wanted = _DEPTHS[0] if self.depth is None else self.depth
        if wanted > _DEPTHS[-1]:
            raise ConfigurationError(
                f"{self.name}: depth={self.depth} is more than the {_DEPTHS[-1]} levels it gives")
        self._levels = next(depth for depth in _DEPTHS if depth >= wanted)
        self._wire = wire.Messages(self.name, self.number)
        self._by_topic: dict[str, list[Route]] = {}
        self._books: dict[str, Route] = {}              # by the venue's symbol
        self._right: dict[str, DigitBook] = {}          # those that had a snapshot and no mistake since
        self._asked: dict[int, dict[str, None]] = {}    # topics of a request that are not answered
        self._next_id = 1
        self._no_data: Sequence[Item] = ((self.session, Alive()),)

    # -- questions ----------------------------------------------------------------------------------

    def native(self, symbol: str) -> str:
        """See Venue. Upper and lower case are kept where both occur: tokenized stocks need both."""
        pair = native_symbol(symbol, SymbolStyle(verbatim=True), self.name).replace("-", "/")
        check_pair(pair, symbol, self.name)
        names = (pair.upper() if pair.islower() else pair).split("/")
        return "/".join([_ALIASES.get(name, name) for name in names])

    def endpoint(self, channel: str) -> str:
        """See Venue. A second interval of bars is refused on the same connection, so each has its own."""
        kind, _, interval = channel.partition(":")
        return f"/v2#{interval}" if kind == "bars" else "/v2"

    def address(self, base: str, endpoint: str) -> str:
        """See Venue."""
        return base + endpoint.partition("#")[0]

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See Venue. The venue has no names for topics: ``ohlc.5:BTC/USD`` is ours."""
        kind, _, interval = channel.partition(":")
        name = {"book": "book", "quotes": "ticker", "ticker": "ticker", "trades": "trade",
                "bars": f"ohlc.{self.intervals.get(interval)}"}[kind]
        return (f"{name}:{native}",)

    # -- the conversation -----------------------------------------------------------------------------

    def add(self, route: Route) -> None:
        """See Venue."""
        super().add(route)
        if route.channel == "book":
            self._books[route.native] = route
            return
        route.parse = self._wire.parser(route)
        self._by_topic.setdefault(route.topics[0], []).append(route)

    def remove(self, route: Route) -> None:
        """See Venue."""
        super().remove(route)
        if route.channel == "book":
            self._books.pop(route.native, None)
            self._right.pop(route.native, None)
        elif route in self._by_topic.get(route.topics[0], ()):
            self._by_topic[route.topics[0]].remove(route)

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue. One message a channel; each of its symbols is answered alone."""
        return [self._request("subscribe", name, symbols) for name, symbols in _grouped(topics)]

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue. It must name the same depth or interval."""
        return [self._request("unsubscribe", name, symbols) for name, symbols in _grouped(topics)]

    def _request(self, method: str, name: str, symbols: list[str]) -> str:
        number = self._next_id
        self._next_id += 1
        channel, _, interval = name.partition(".")
        params: dict[str, Any] = {"channel": channel, "symbol": symbols}
        if channel == "book":
            params["depth"] = self._levels
        elif channel == "ticker":
            params["event_trigger"] = "bbo"
        elif channel == "ohlc":
            params["interval"] = int(interval)
        if method == "subscribe":
            params["snapshot"] = channel in ("book", "ticker")      # not trades and bars of the past
            self._asked[number] = dict.fromkeys(f"{name}:{symbol}" for symbol in symbols)
        return msgspec.json.encode({"method": method, "params": params, "req_id": number}).decode()

    def heartbeat(self, now: int) -> tuple[float, Sequence[bytes | str]] | None:
        """See Venue. A connection that says nothing is closed after a minute."""
        return 30.0, ('{"method":"ping"}',)

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """See Venue."""
        try:
            if raw.startswith(_BOOK):
                return self._book(raw)
            message = wire.decode_odd(raw)
            if message.channel == "book":                       # its keys came in another order
                return self._book(raw)
            return self._data(message, now) if message.channel else self._answer(message, raw)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as error:
            return self._malformed(raw, error)

    def _malformed(self, raw: bytes, error: Exception) -> Iterable[Item]:
        """A message that says nothing. Books that it may have been about are wrong from now on."""
        items: list[Item] = [(self.session, Malformed(str(error)))]
        for symbol in self._concerned(raw, error):
            self._right.pop(symbol, None)
            items.append((self._books[symbol], BookBroken("a malformed update")))
        return items

    def _concerned(self, raw: bytes, error: Exception) -> Sequence[str]:
        """The symbols of these books: those that it names, or all where it does not even say what it is."""
        channel = _CHANNEL.search(raw)
        whole = not isinstance(error, msgspec.DecodeError) or isinstance(error, msgspec.ValidationError)
        if whole if channel is None else channel[1] != b"book":
            return ()
        named = {symbol.decode("utf-8", "replace") for symbol in _SYMBOL.findall(raw)}
        return [symbol for symbol in self._books if symbol in named or not named]

    # -- books ----------------------------------------------------------------------------------------

    def _book(self, raw: bytes) -> Iterable[Item]:
        items: list[Item] = []
        for book in self._wire.books(raw):
            route = self._books.get(book.symbol)
            if route is None:
                continue                                        # unsubscribed a moment ago
            if book.whole:
                held = self._right[book.symbol] = DigitBook(wire.FORMULA, self._levels)
                gone = held.replace(book.bids, book.asks)
            elif book.symbol in self._right:
                held = self._right[book.symbol]
                gone = held.update(book.bids, book.asks)
            else:
                continue                                        # it waits for its snapshot
            checksum = held.checksum()
            if checksum == book.checksum:
                items.append((route, self._wire.event(book, gone)))
            else:
                del self._right[book.symbol]
                items.append((route, BookBroken(
                    f"checksum {checksum}, the venue says {book.checksum}", checksum=True)))
        return items

    # -- everything else ------------------------------------------------------------------------------

    def _data(self, message: wire.Odd, now: int) -> Iterable[Item]:
        channel = message.channel
        if channel == "heartbeat":
            return self._no_data
        if channel == "status":
            states = [state.system for state in wire.decode_states(message.data)]
            notices = [(self.session, Notice(f"system is {s}")) for s in states if s != "online"]
            return notices or self._no_data
        if channel not in self._wire.records:
            return ((self.session, Malformed(f"data of an unknown channel: {channel[:40]!r}")),)
        if message.type == "snapshot" and channel != "ticker":
            return ()                                           # of the past, and not asked for
        items: list[Item] = []
        for record in self._wire.records[channel](message.data):
            name = f"ohlc.{record.interval}" if channel == "ohlc" else channel
            for route in self._by_topic.get(f"{name}:{record.symbol}", ()):
                items += [(route, event) for event in route.parse(record, now)]
        return items

    def _answer(self, message: wire.Odd, raw: bytes) -> Iterable[Item]:
        """To a request; or an error that belongs to none."""
        if message.method == "pong":
            return self._no_data
        result = message.result
        if message.success and result is not None and message.method in ("subscribe", "unsubscribe"):
            if message.method == "unsubscribe":
                return self._no_data
            name = f"ohlc.{result.interval}" if result.channel == "ohlc" else result.channel
            topic = f"{name}:{result.symbol}"
            self._settle(message.req_id, (topic,))
            return ((self.session, Acked((topic,))),)
        if not message.error:
            return ((self.session, Malformed(f"neither data nor answer: {raw[:80]!r}")),)
        asked = self._asked.get(message.req_id or 0, {})
        topics = tuple(topic for topic in asked
                       if not message.symbol or topic.partition(":")[2] == message.symbol)
        self._settle(message.req_id, topics)
        if not topics:
            return ((self.session, Notice(message.error)),)
        if message.error.startswith("Already subscribed"):
            return ((self.session, Acked(topics)),)
        transient = _TRANSIENT.search(message.error) is not None
        return ((self.session, Refused(topics, message.error, transient)),)

    def _settle(self, number: int | None, topics: Iterable[str]) -> None:
        """These topics of a request are answered."""
        asked = self._asked.get(number or 0)
        if asked is not None:
            for topic in topics:
                asked.pop(topic, None)
            if not asked:
                del self._asked[number or 0]

    # -- REST beside the stream -----------------------------------------------------------------------

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See Venue."""
        return RestRequest("/0/public/Ticker", {"pair": self.native(symbol).replace("/", "")})

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See Venue."""
        return self._wire.rest_ticker(symbol, body, now)

    def orderbook_request(self, symbol: str) -> RestRequest | None:
        """See Venue. REST gives 500 levels at most."""
        pair = self.native(symbol).replace("/", "")
        return RestRequest("/0/public/Depth", {"pair": pair, "count": min(self._levels, 500)})

    def orderbook_answer(self, symbol: str, body: bytes, now: int) -> BookSnapshot:
        """See Venue."""
        return self._wire.rest_book(body)


def _grouped(topics: Iterable[str]) -> list[tuple[str, list[str]]]:
    """``(channel, symbols)`` of topics, in their order."""
    groups: dict[str, list[str]] = {}
    for topic in topics:
        name, _, symbol = topic.partition(":")
        groups.setdefault(name, []).append(symbol)
    return list(groups.items())

"""Binance: spot and USD-M futures.

Sources: the exchange's own documentation (binance-spot-api-docs: web-socket-streams.md, rest-api.md;
developers.binance.com: USD-M "WebSocket Market Streams" and "How to manage a local order book
correctly"), and recorded feeds.

A combined stream wraps every message: ``{"stream":"btcusdt@depth@100ms","data":{...}}``. The name in
front says whose message it is and how to decode it, so each topic has its own typed decoder and
nothing is decoded twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ..errors import ConfigurationError
from ..events import Ticker
from ..symbols import SymbolStyle
from ..venue import (
    Acked, Alive, BookSnapshot, Item, Limits, Malformed, Notice, Reconnect, Refused, RestRequest, Route,
    Venue,
)
from . import binance_messages as wire

__all__ = ["BinanceFuturesVenue", "BinanceVenue"]

_PREFIX = b'{"stream":"'
_NAME_AT = len(_PREFIX)

# Weight of GET /api/v3/depth by limit (rest-api.md, "Order book"), and of /fapi/v1/depth.
_SPOT_WEIGHTS = ((100, 5), (500, 25), (1000, 50), (5000, 250))
_FUTURES_WEIGHTS = ((5, 2), (10, 2), (20, 2), (50, 2), (100, 5), (500, 10), (1000, 20))

# Codes of requests that are wrong, and will be (web-socket-streams.md, "Error messages"; 4, too many
# streams, was seen). All else is the venue's own trouble, and passes.
_WRONG = range(5)

# 418 bans an address that went on after 429, for two minutes at least (rest-api.md, "IP Limits").
_STAY_AWAY = {**Limits().stay_away, 418: 120.0}

_INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")


def _head(topic: str) -> bytes:
    return _PREFIX + topic.encode()


class BinanceVenue(Venue):
    """Binance spot.

    Channels: ``book`` (diff depth every 100 ms, with a REST snapshot), ``quotes`` (bookTicker),
    ``trades``, ``bars:<interval>`` (kline), ``ticker`` (rolling 24 h).

    A subscription to a symbol that does not exist is acknowledged and then silent (documented
    behaviour of the venue): its book never becomes live, and ``wait_ready`` names it.
    """

    name: ClassVar[str] = "binance"
    channels: ClassVar[tuple[str, ...]] = ("book", "quotes", "trades", "bars", "ticker")
    intervals: ClassVar[Mapping[str, str]] = {i: i for i in ("1s", *_INTERVALS)}
    url: ClassVar[str] = "wss://stream.binance.com:9443"
    rest_url: ClassVar[str] = "https://api.binance.com"
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle(lower=True)
    # 5 incoming messages a second, of which the server's pings take our pongs: 4 are left to use.
    # 24 h lifetime, replaced half an hour before.
    limits: ClassVar[Limits] = Limits(
        topics=1024, batch=100, messages=(4, 1.0), connects=(250, 300.0), rest=(6000, 60.0),
        stay_away=_STAY_AWAY, lifetime=23.5 * 3600)
    rule: str = "dense"

    _trade_topic: ClassVar[str] = "trade"
    _depth_path: ClassVar[str] = "/api/v3/depth"
    _ticker_path: ClassVar[str] = "/api/v3/ticker/24hr"
    _weights: ClassVar[Sequence[tuple[int, int]]] = _SPOT_WEIGHTS
    _messages: ClassVar[type[wire.Messages]] = wire.Messages

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.packs = self.number is float
        self._wire = self._messages(self.name, self.number)
        # Keyed by all of a message up to the end of its topic.
        self._by_head: dict[bytes, Route] = {}
        self._books: dict[bytes, Route] = {}    # the busiest of them
        self._decode_book = self._wire.depth_update
        self._decode_packed = self._wire.packed_depth_update
        self._ever: set[str] = set()            # topics that were asked for on this connection
        self._asked: dict[int, tuple[str, ...]] = {}
        self._next_id = 1
        self._limit, self._weight = self._snapshot_size()

    def _snapshot_size(self) -> tuple[int, int]:
        """Levels to ask for in a snapshot, and the weight of that: 1000, or what ``depth`` needs.

        Never less than 100: levels beyond the snapshot are unknown until they change, so a book with a small
        one has to be rebuilt as soon as the price moves.
        """
        wanted = 1000 if self.depth is None else max(self.depth, 100)
        for limit, weight in self._weights:
            if limit >= wanted:
                return limit, weight
        most = self._weights[-1][0]
        raise ConfigurationError(f"{self.name}: depth={self.depth} is more than the {most} levels it gives")

    # -- questions ----------------------------------------------------------------------------------

    def endpoint(self, channel: str) -> str:
        """See Venue."""
        return "/stream"

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See Venue."""
        kind, _, interval = channel.partition(":")
        suffix = {"book": "depth@100ms", "quotes": "bookTicker", "trades": self._trade_topic,
                  "bars": f"kline_{interval}", "ticker": "ticker"}[kind]
        return (f"{native}@{suffix}",)

    # -- the conversation -----------------------------------------------------------------------------

    def add(self, route: Route) -> None:
        """See Venue."""
        super().add(route)
        route.parse = self._wire.parser(route)
        head = _head(route.topics[0])
        self._by_head[head] = route
        self._ever.add(route.topics[0])
        if route.channel == "book" and self.number is float:
            self._books[head] = route

    def remove(self, route: Route) -> None:
        """See Venue."""
        super().remove(route)
        head = _head(route.topics[0])
        self._by_head.pop(head, None)
        self._books.pop(head, None)

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue. Many streams go in one message, and it is messages that are limited."""
        return (self._request("SUBSCRIBE", topics),)

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        return (self._request("UNSUBSCRIBE", topics),)

    def _request(self, method: str, topics: Sequence[str]) -> str:
        number = self._next_id
        self._next_id += 1
        self._asked[number] = tuple(topics) if method == "SUBSCRIBE" else ()
        request = {"method": method, "params": list(topics), "id": number}
        return msgspec.json.encode(request).decode()

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """See Venue."""
        try:
            head = raw[:raw.find(b'"', _NAME_AT)]
            book = self._books.get(head)
            if book is not None:                # nearly always; a depth update is an event as it stands
                decode = self._decode_packed if book.packed else self._decode_book
                return ((book, decode(raw).data),)
            route = self._by_head.get(head)
            if route is not None:
                return ((route, route.parse(raw, now)),)
            return self._unusual(raw, now)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as error:
            return ((self.session, Malformed(str(error), self._topic_of(raw))),)

    def _topic_of(self, raw: bytes) -> str:
        """Whose message it is, as far as its beginning tells."""
        route = self._by_head.get(raw[:raw.find(b'"', _NAME_AT)])
        return route.topics[0] if route is not None else ""

    def _unusual(self, raw: bytes, now: int) -> Iterable[Item]:
        """Everything that is not a plain message of a known topic."""
        message = wire.decode_odd(raw)
        if "serverShutdown" in (message.event, message.data.event if message.data else ""):
            return ((self.session, Reconnect("the venue announces a shutdown")),)
        if message.stream:
            route = self._by_head.get(_head(message.stream))
            if route is not None:                       # its keys came in another order
                return ((route, route.parse(raw, now)),)
            if message.stream in self._ever:            # unsubscribed a moment ago
                return ()
            reason = f"of a stream nobody asked for: {message.stream:.80}"
            return ((self.session, Malformed(reason, unasked=True)),)
        if isinstance(message.id, int) and message.id in self._asked:
            return self._answer(message, self._asked.pop(message.id))
        if message.refusal is not None:
            return ((self.session, Notice(message.refusal)),)
        return ((self.session, Malformed(f"neither data nor answer: {raw[:80]!r}")),)

    def _answer(self, message: wire.Odd, topics: Sequence[str]) -> Iterable[Item]:
        if not topics:
            return ((self.session, Alive()),)           # of an UNSUBSCRIBE
        if message.refusal is None:
            return ((self.session, Acked(topics)),)
        return ((self.session, Refused(topics, message.refusal, message.number not in _WRONG)),)

    # -- whole books ----------------------------------------------------------------------------------

    def refresh(self, route: Route) -> RestRequest | Sequence[bytes | str] | None:
        """See Venue."""
        return RestRequest(
            self._depth_path, {"symbol": route.native.upper(), "limit": self._limit}, self._weight)

    def snapshot(self, route: Route, body: bytes, now: int) -> Iterable[Item]:
        """See Venue."""
        try:
            return ((route, self._wire.snapshot(body, self._limit)),)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError) as error:
            return ((self.session, Malformed(f"snapshot of {route.symbol}: {error}")),)

    # -- REST beside the stream -----------------------------------------------------------------------

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See Venue."""
        return RestRequest(self._ticker_path, {"symbol": self.native(symbol).upper()}, 2)

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See Venue."""
        return self._wire.rest_ticker(symbol, body, now)

    def orderbook_request(self, symbol: str) -> RestRequest | None:
        """See Venue."""
        return RestRequest(
            self._depth_path, {"symbol": self.native(symbol).upper(), "limit": self._limit}, self._weight)

    def orderbook_answer(self, symbol: str, body: bytes, now: int) -> BookSnapshot:
        """See Venue."""
        return self._wire.snapshot(body, self._limit)


class BinanceFuturesVenue(BinanceVenue):
    """Binance USD-M futures.

    Since 2026 its streams are split by category: books and quotes on ``/public``, everything else on
    ``/market``; a stream on the wrong one is acknowledged and silent. ``trades`` are aggregate trades:
    the plain ones are not documented.
    """

    name: ClassVar[str] = "binance-futures"
    intervals: ClassVar[Mapping[str, str]] = {i: i for i in _INTERVALS}
    url: ClassVar[str] = "wss://fstream.binance.com"
    rest_url: ClassVar[str] = "https://fapi.binance.com"
    # 10 messages a second are documented; a strict 5 was measured, so 4 here, too. Clients cap
    # streams at 200 per connection.
    limits: ClassVar[Limits] = Limits(
        topics=200, batch=100, messages=(4, 1.0), connects=(250, 300.0), rest=(2400, 60.0),
        stay_away=_STAY_AWAY, lifetime=23.5 * 3600)
    rule: str = "bridged"

    _trade_topic: ClassVar[str] = "aggTrade"
    _depth_path: ClassVar[str] = "/fapi/v1/depth"
    _ticker_path: ClassVar[str] = "/fapi/v1/ticker/24hr"
    _weights: ClassVar[Sequence[tuple[int, int]]] = _FUTURES_WEIGHTS
    _messages: ClassVar[type[wire.Messages]] = wire.FuturesMessages

    def endpoint(self, channel: str) -> str:
        """See Venue."""
        return "/public/stream" if channel in ("book", "quotes") else "/market/stream"

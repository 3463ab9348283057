"""Huobi / HTX spot: the v1 "market" protocol.

Sources: the exchange's own client (huobi_Python), its support notices on ``mbp`` alignment, and
recorded feeds. Every frame from the server is one complete gzip member; frames to it are text. It
pings with a JSON message that must be answered with its own number, and answers ours likewise.

Topic names are the venue's (``market.btcusdt.depth.step0``); they come back in every message as ``ch``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from ..errors import ConfigurationError
from ..events import Ticker, Trade
from ..symbols import SymbolStyle
from ..venue import (
    Acked, Alive, BookSnapshot, Item, Limits, Malformed, Notice, Refused, Reply, RestRequest, Route, Venue,
)
from . import htx_messages as wire

__all__ = ["HuobiVenue"]

_GZIP = 16 + zlib.MAX_WBITS
_UNCONFIRMED = 1 << 63          # ns: later than any trade
_LARGEST = 8 * 1024 * 1024      # bytes unpacked; the largest real message is about 40 kB


class HuobiVenue(Venue):
    """Huobi (HTX) spot.

    Channels: ``book``, ``quotes`` (bbo), ``trades``, ``bars:<interval>``, ``ticker``.

    Options:
        book_mode: ``"snapshots"`` (default): ``depth.step0``, 150 levels, each message a whole book.
            ``"incremental"``: ``mbp`` with its refresh, 100 ms; served on an endpoint of its own, so
            it can not share a stream with other channels (the manager makes two).

    The first push of ``trades`` after subscribing is the last trade, whenever that was. One from before the
    subscription is handed on only if it was made while the connection was away.
    """

    name: ClassVar[str] = "huobi"
    aliases: ClassVar[tuple[str, ...]] = ("htx",)
    channels: ClassVar[tuple[str, ...]] = ("book", "quotes", "trades", "bars", "ticker")
    intervals: ClassVar[Mapping[str, str]] = {
        "1m": "1min", "5m": "5min", "15m": "15min", "30m": "30min", "1h": "60min", "4h": "4hour",
        "1d": "1day", "1w": "1week", "1M": "1mon", "1y": "1year"}
    url: ClassVar[str] = "wss://api.huobi.pro"
    rest_url: ClassVar[str] = "https://api.huobi.pro"
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle(lower=True)
    # It pings every 5 s. Ten messages a second, 100 topics a connection: conservative, undocumented.
    limits: ClassVar[Limits] = Limits(
        topics=100, batch=1, messages=(10, 1.0), rest=(100, 10.0), heartbeat=15.0)
    options: ClassVar[tuple[str, ...]] = ("book_mode",)

    def __init__(self, *, book_mode: str = "snapshots", **settings: Any) -> None:
        super().__init__(**settings)
        if book_mode not in ("snapshots", "incremental"):
            raise ConfigurationError(f"huobi: book_mode={book_mode!r}: 'snapshots' or 'incremental'")
        self._incremental = book_mode == "incremental"
        self.rule = "chained" if self._incremental else "snapshots"
        most = 400 if self._incremental else 150
        if self.depth is not None and self.depth > most:
            raise ConfigurationError(
                f"huobi: depth={self.depth} is more than the {most} levels of book_mode={book_mode!r}")
        # Of mbp; there are 5 and 20, too, and 400, but not for every symbol.
        self._levels = 150 if (self.depth or 0) <= 150 else 400
        self._wire = wire.Messages(self.name, self.number)
        self._by_topic: dict[str, Route] = {}
        self._ever: set[str] = set()                        # topics that were asked for on this connection
        self._asked: dict[str, tuple[str, str]] = {}        # id -> (what was asked, topic)
        # Trades: when the venue confirmed the subscription, and the last trade known of, by topic.
        self._since: dict[str, int] = {}
        self._newest: dict[str, tuple[int, int]] = {}
        self._next_id = 1

    # -- questions ----------------------------------------------------------------------------------

    def endpoint(self, channel: str) -> str:
        """See Venue. Incremental books are only served on ``/feed``, everything else only on ``/ws``."""
        return "/feed" if channel == "book" and self._incremental else "/ws"

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See Venue."""
        kind, _, interval = channel.partition(":")
        if kind == "book":
            suffix = f"mbp.{self._levels}" if self._incremental else "depth.step0"
        elif kind == "bars":
            suffix = f"kline.{self.intervals[interval]}"
        else:
            suffix = {"quotes": "bbo", "trades": "trade.detail", "ticker": "ticker"}[kind]
        return (f"market.{native}.{suffix}",)

    # -- the conversation -----------------------------------------------------------------------------

    def inherit(self, previous: Venue) -> None:
        """See Venue. What trades were handed on."""
        assert isinstance(previous, HuobiVenue)
        self._newest = previous._newest

    def add(self, route: Route) -> None:
        """See Venue."""
        super().add(route)
        route.parse = self._wire.parser(route)
        self._by_topic[route.topics[0]] = route
        self._ever.add(route.topics[0])

    def remove(self, route: Route) -> None:
        """See Venue."""
        super().remove(route)
        self._by_topic.pop(route.topics[0], None)

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue. One topic a message."""
        self._since.update((topic, _UNCONFIRMED) for topic in topics if topic.endswith(".trade.detail"))
        return [self._request("sub", topic) for topic in topics]

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        for topic in topics:
            self._newest.pop(topic, None)
        return [self._request("unsub", topic) for topic in topics]

    def _request(self, verb: str, topic: str) -> str:
        number = str(self._next_id)
        self._next_id += 1
        self._asked[number] = verb, topic
        return msgspec.json.encode({verb: topic, "id": number}).decode()

    def ping(self, now: int) -> Sequence[bytes | str]:
        """See Venue. The heart-beat is two-way; ping frames are said to stay unanswered."""
        return (f'{{"ping":{now // wire.MS}}}',)

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """See Venue."""
        route = None
        try:
            text = _unpack(raw)
            head = wire.decode_head(text)
            if head.ch:
                route = self._by_topic.get(head.ch)
                if route is None:
                    return self._of_nobody(head.ch)
                events = route.parse(text, now)
                if head.ch in self._since:
                    events = self._unseen(head.ch, events)
                return [(route, event) for event in events]
            if head.ping is not None:
                # The venue wants its own number back.
                return ((self.session, Reply(f'{{"pong":{head.ping}}}')),)
            if head.pong is not None:
                return ((self.session, Alive()),)
            return self._answer(head, text)
        except (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError, zlib.error) as error:
            return ((self.session, Malformed(str(error), route.topics[0] if route else "")),)

    def _of_nobody(self, topic: str) -> Iterable[Item]:
        if topic in self._ever:                             # unsubscribed a moment ago
            return ()
        return ((self.session, Malformed(f"of a topic nobody asked for: {topic:.80}", unasked=True)),)

    def _unseen(self, topic: str, trades: Sequence[Trade]) -> Sequence[Trade]:
        """Those since the subscription was confirmed, or since the last that is known."""
        since, last = self._since[topic], self._newest.get(topic)
        fresh = [trade for trade in trades if (trade.timestamp or 0) >= since
                 or (last is not None and _place(trade) > last)]
        if trades:
            self._newest[topic] = max(last or (0, 0), _place(trades[-1]))
        return fresh

    def _answer(self, head: wire.Head, text: bytes) -> Iterable[Item]:
        verb, topic = self._asked.pop(str(head.id), ("", ""))
        if head.status == "error":
            if verb == "sub":
                # Any other code is the venue's own trouble, and passes.
                wrong = head.error_code.startswith(("bad-", "invalid-", "base-"))
                return ((self.session, Refused((topic,), head.refusal, not wrong)),)
            return ((self.session, Notice(head.refusal)),)
        if head.subbed:
            if head.subbed in self._since:
                self._since[head.subbed] = head.time * wire.MS or _UNCONFIRMED
            return ((self.session, Acked((head.subbed,))),)
        if head.rep:
            route = self._by_topic.get(head.rep)
            return ((route, self._wire.refresh(text)),) if route is not None else ()
        if head.unsubbed:
            return ((self.session, Alive()),)
        return ((self.session, Malformed(f"neither data nor answer: {text[:80]!r}")),)

    # -- whole books ----------------------------------------------------------------------------------

    def refresh(self, route: Route) -> RestRequest | Sequence[bytes | str] | None:
        """See Venue. A ``req`` on the same connection gives an incremental book whole."""
        return (self._request("req", route.topics[0]),) if self._incremental else None

    # -- REST beside the stream -----------------------------------------------------------------------

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """See Venue."""
        return RestRequest("/market/detail/merged", {"symbol": self.native(symbol)})

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """See Venue."""
        return self._wire.rest_ticker(symbol, body, now)

    def orderbook_request(self, symbol: str) -> RestRequest | None:
        """See Venue."""
        return RestRequest("/market/depth", {"symbol": self.native(symbol), "type": "step0"})

    def orderbook_answer(self, symbol: str, body: bytes, now: int) -> BookSnapshot:
        """See Venue."""
        return self._wire.rest_book(body)


def _place(trade: Trade) -> tuple[int, int]:
    """Where a trade stands among those of its symbol."""
    return trade.timestamp or 0, int(trade.id or 0)


def _unpack(raw: bytes) -> bytes:
    """The text in a frame; never more than a bound, so a small frame can not fill the memory."""
    machine = zlib.decompressobj(_GZIP)
    text = machine.decompress(raw, _LARGEST)
    if machine.unconsumed_tail:
        raise ValueError(f"a frame of {len(raw)} bytes unpacks to more than {_LARGEST}")
    if not machine.eof:
        raise ValueError("a frame's gzip data is cut off")
    return text

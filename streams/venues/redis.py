"""Market data that somebody publishes on Redis channels.

Every channel of every symbol has a Redis channel of its own, ``{channel}.{symbol}`` unless said otherwise:
``trades.BTC-USDT``, ``book.BTC-USDT``, ``bars:1m.BTC-USDT``. What is published there is one record or a list
of records, in JSON or MessagePack. A publisher of one's own writes what msgspec makes of the events
of :mod:`streams.events`::

    trade = Trade(exchange="x", symbol="BTC-USDT", price=1.5, size=2)
    redis.publish("trades.BTC-USDT", msgspec.json.encode(trade))

Books are published as ``BookUpdate``: the whole book with ``snapshot`` set, else changes, each with a
``sequence`` one above that of the one before. There must be a whole book from time to time, since
nobody can ask for one. Other publishers' records are read with a table of one's own::

    elements={"trades": {"price": "p", "size": "q", "time": "T"},
              "book": {"bids": "b", "asks": "a", "whole": True}}

(:mod:`streams.mapping`; ``at`` is the place of the records in a message when they are not all of it). A
symbol may have ``*`` in it, for any channel but ``book``: ``*-USDT``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from ..errors import AuthenticationFailed, ConfigurationError
from ..mapping import FIELDS, Element, JsonReader, compile_elements, rule_of
from ..pubsub import Kind, Message, command, unpack
from ..symbols import SymbolStyle
from ..venue import (
    Acked, Failed, Item, Limits, Malformed, Notice, Ready, Refused, Route, Signal, Unsubscribed, Venue,
)

__all__ = ["RedisVenue"]

_NORMAL: Mapping[str, Mapping[str, Any]] = {
    "book": {"bids": "bids", "asks": "asks", "last": "sequence", "whole": "snapshot", "time": "timestamp",
             "unit": "ns"},
    **{channel: {"symbol": "symbol", "time": "timestamp", "unit": "ns",
                 **{name: name for name in FIELDS[channel]}}
       for channel in ("trades", "quotes", "ticker", "bars")},
}
_CODECS = ("json", "msgpack")
_GLOB = re.compile(r"([\\*?\[\]])")
_BAD_SHOWN = 20     # bad records of one message that are named one by one


class RedisVenue(Venue):
    """``redis``: see the module's text.

    Args:
        codec: ``json`` or ``msgpack``.
        topic: Name of the Redis channel, with ``{channel}`` and ``{symbol}`` in it. Without ``{symbol}`` all
            symbols share it, and records must name theirs; without ``{channel}`` there must be one
            table in ``elements``, and that is what there is.
        elements: Tables of records that are not ours, by channel.
        api_key, api_secret: User and password. One alone is the password. They may be part of the url
            instead.
    """

    name: ClassVar[str] = "redis"
    channels: ClassVar[tuple[str, ...]] = tuple(_NORMAL)
    intervals: ClassVar[Mapping[str, str]] = {
        i: i for i in ("1s", "5s", "10s", "15s", "30s", "1m", "3m", "5m", "10m", "15m", "30m", "1h", "2h",
                       "4h", "6h", "8h", "12h", "1d", "1w", "1M")}
    url: ClassVar[str] = "redis://127.0.0.1:6379"
    carrier: ClassVar[str] = "redis"
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle(verbatim=True)
    time_unit: ClassVar[int] = 1
    # A local server limits nothing; a batch is what fits one command comfortably.
    limits: ClassVar[Limits] = Limits(topics=100_000, batch=500, messages=(10_000, 1.0))
    options: ClassVar[tuple[str, ...]] = ("codec", "topic", "elements")

    def __init__(
        self, *, codec: str = "json", topic: str = "{channel}.{symbol}",
        elements: Mapping[str, Mapping[str, Any]] | None = None, api_key: str | None = None,
        api_secret: str | None = None, **settings: Any,
    ) -> None:
        super().__init__(api_key=api_key, api_secret=api_secret, **settings)
        if codec not in _CODECS:
            raise ConfigurationError(f"redis: codec={codec!r} must be one of {', '.join(_CODECS)}")
        self._decode = self._decoder(codec)
        self._topic = _checked_topic(topic, elements)
        self._shared = "{symbol}" not in topic
        self._only = next(iter(elements)) if elements and "{channel}" not in topic else ""
        self._elements = self._compiled(elements)
        self.rule = rule_of(self._elements.values())
        self._user = api_key if api_secret else None
        self._password = api_secret or api_key
        self._exact: dict[bytes, list[Route]] = {}      # by Redis channel
        self._patterns: dict[bytes, list[Route]] = {}   # by pattern
        self._asked: deque[tuple[str, list[str]]] = deque()

    def _decoder(self, codec: str) -> Callable[[bytes], Any]:
        if codec == "msgpack":
            return msgspec.msgpack.Decoder().decode
        return msgspec.json.Decoder(float_hook=Decimal if self.number is Decimal else None).decode

    def _compiled(self, elements: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Element]:
        compiled = {}
        for channel, fields in {**_NORMAL, **(elements or {})}.items():
            table = {"channel": channel, **fields}
            place = table.pop("at", ".")
            compiled[channel], = compile_elements({place: table}, _READER, self.number, self.name)
        return compiled

    # -- questions ---------------------------------------------------------------------------------

    def check_channel(self, channel: str) -> None:
        """See Venue."""
        super().check_channel(channel)
        if self._only and channel.partition(":")[0] != self._only:
            raise ConfigurationError(
                f"redis: topic={self._topic!r} has {self._only} only; put {{channel}} in it for more")

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See Venue: the Redis channel, or a pattern of them."""
        if "*" not in native:
            return (self._topic.format(channel=channel, symbol=native),)
        if channel == "book" or self._shared:
            raise ConfigurationError(
                f"redis: {native!r} is no symbol of channel {channel!r}: '*' can be used for any channel but "
                "book, where each symbol has a Redis channel of its own")
        before, after = self._around(channel)
        return (_GLOB.sub(r"\\\1", before) + native + _GLOB.sub(r"\\\1", after),)

    def _around(self, channel: str) -> tuple[str, str]:
        """What stands before and behind the symbol in the names of Redis channels."""
        before, _, after = self._topic.format(channel=channel, symbol="\0").partition("\0")
        return before, after

    def headers(self) -> Mapping[str, str]:
        """See Venue: the credentials."""
        given = {"username": self._user, "password": self._password}
        return {name: value for name, value in given.items() if value}

    # -- the conversation ----------------------------------------------------------------------------

    def opened(self, now: int) -> Iterable[Item]:
        """See Venue. The server's HELLO makes it ready."""
        return ()

    def add(self, route: Route) -> None:
        """See Venue."""
        super().add(route)
        self._table(route).setdefault(route.topics[0].encode(), []).append(route)

    def remove(self, route: Route) -> None:
        """See Venue."""
        super().remove(route)
        table, name = self._table(route), route.topics[0].encode()
        left = [other for other in table.pop(name, ()) if other is not route]
        if left:
            table[name] = left

    def _table(self, route: Route) -> dict[bytes, list[Route]]:
        return self._patterns if "*" in route.native else self._exact

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        return self._commands("subscribe", topics)

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        return self._commands("unsubscribe", topics)

    def _commands(self, op: str, topics: Sequence[str]) -> list[str]:
        patterns = [topic for topic in topics if "*" in topic]
        exact = [topic for topic in topics if "*" not in topic]
        frames = []
        for prefix, names in (("", exact), ("p", patterns)):
            if names:
                self._asked.append((op, list(names)))
                frames.append(command(prefix + op, names))
        return frames

    def refresh(self, route: Route) -> Sequence[bytes | str] | None:
        """See Venue: nothing can be asked; the next whole book that is published will do."""
        return ()

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """See Venue, and :mod:`streams.pubsub`."""
        try:
            message = unpack(raw)
            if message.kind == Kind.MESSAGE:
                return self._published(message, self._exact.get(message.channel, ()), now)
            if message.kind == Kind.PMESSAGE:
                return self._published(message, self._patterns.get(message.pattern, ()), now)
            return ((self.session, self._control(message)),)
        except (ValueError, RecursionError) as error:
            return ((self.session, Malformed(f"no message: {error}")),)

    # -- data ------------------------------------------------------------------------------------------

    def _published(self, message: Message, routes: Sequence[Route], now: int) -> Iterable[Item]:
        if not routes:
            return ()
        first = routes[0]
        # A gap in the numbers tells whose change is missing; without numbers it may have been anybody's.
        plain = len(routes) == 1 or self.rule == "unsequenced"
        topic = first.topics[0] if first.channel == "book" and plain else ""
        try:
            root = self._decode(message.payload)
        except (ValueError, RecursionError) as error:
            shown = message.channel.decode("utf-8", "replace")
            return ((self.session, Malformed(f"{shown}: {error}", topic)),)
        element = self._elements[first.channel.partition(":")[0]]
        items: list[Item] = []
        bad = 0
        for record in _READER.records(root, element.path):
            try:
                self._take(element, record, message, routes, now, items)
            except (ValueError, ArithmeticError, TypeError, RecursionError) as error:
                bad += 1
                if bad <= _BAD_SHOWN:
                    items.append((self.session, Malformed(str(error), topic)))
        if bad > _BAD_SHOWN:
            items.append((self.session, Malformed(f"{bad - _BAD_SHOWN} more bad records in one message")))
        return items

    def _take(self, element: Element, record: Any, message: Message, routes: Sequence[Route], now: int,
              items: list[Item]) -> None:
        channel = element.channel_of(record) if self._only else ""
        for route in routes:
            symbol = route.symbol
            if channel not in ("", route.channel):
                continue                            # bars of another interval, on the same Redis channel
            if message.pattern:
                before, after = self._around(route.channel)
                name = message.channel.decode()
                symbol = name[len(before):len(name) - len(after)]
            elif self._shared and element.symbol_of(record) != route.native:
                continue
            items.append((route, element.event(record, self.name, symbol, now)))

    # -- control ---------------------------------------------------------------------------------------

    def _control(self, message: Message) -> Signal:
        kind = message.kind
        text = message.payload.decode("utf-8", "replace")
        if kind in (Kind.SUBSCRIBE, Kind.PSUBSCRIBE, Kind.UNSUBSCRIBE, Kind.PUNSUBSCRIBE):
            name = (message.channel or message.pattern).decode()
            self._answered(name)
            return Acked((name,)) if kind in (Kind.SUBSCRIBE, Kind.PSUBSCRIBE) else Unsubscribed((name,))
        if kind == Kind.HELLO:
            return Ready()
        if kind == Kind.DENIED:
            if message.channel == b"login":
                return Failed(AuthenticationFailed(f"redis refused the credentials: {text}"))
            return Failed(ConfigurationError(f"redis refused the database: {text}"))
        if kind == Kind.ERROR:
            return self._refused(text)
        raise ValueError(f"unknown kind {kind}")

    def _answered(self, name: str) -> None:
        """The server answers commands in order, name by name."""
        if self._asked and name in self._asked[0][1]:
            self._asked[0][1].remove(name)
            if not self._asked[0][1]:
                self._asked.popleft()

    def _refused(self, text: str) -> Signal:
        if text.startswith("NOAUTH"):
            return Failed(AuthenticationFailed(f"redis refused the credentials: {text}"))
        op, names = self._asked.popleft() if self._asked else ("", [])
        if op != "subscribe":
            return Notice(text)
        return Refused(tuple(names), text, transient=not text.startswith(("NOPERM", "ERR")))


_READER = JsonReader()


def _checked_topic(topic: str, elements: Mapping[str, Any] | None) -> str:
    try:
        made = topic.format(channel="\0c", symbol="\0s")
    except (KeyError, ValueError, IndexError, AttributeError):
        made = "*"
    if "*" in made or ("\0c" not in made and len(elements or ()) != 1):
        raise ConfigurationError(f"redis: topic={topic!r} must be a name with {{channel}} and {{symbol}}")
    return topic

"""A feed of one's own over long-polled HTTP, in XML or JSON.

The user says how the feed is asked and where its fields are; nothing has to be programmed::

    market.start("longpoll-xml", ["ACME"], channels=["trades"], url="https://feed.example", path="/v1/poll",
                 query={"sym": "{symbols}", "since": "{cursor}"}, cursor="@next",
                 elements={"deal": {"channel": "trades", "symbol": "@s", "price": "px", "size": "qty"}})

What a feed says by default, and what is asked of it, is what :mod:`streams.sim.longpoll` speaks:

 * Asked is ``GET /feed?symbols=BTC-USDT,ETH-USDT&channels=book,trades&cursor=17&hold=20&fresh=ETH-USDT``:
   everything after cursor 17, held for 20 seconds while there is nothing, and first of all the whole
   books of the ``fresh`` symbols.
 * The answer has its own cursor, and ``book`` (whole), ``update`` and ``trade`` records; 204 when there
   was nothing. A server that does not know the cursor begins anew, with whole books of all symbols.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from ..errors import ConfigurationError, MissingDependency
from ..mapping import Element, JsonReader, Reader, XmlReader, compile_elements, is_true, rule_of
from ..polling import ANEW, Ask
from ..symbols import SymbolStyle
from ..venue import Alive, BookBroken, BookSnapshot, Item, Limits, Malformed, Notice, Resync, Route, Venue

__all__ = ["LongPollJsonVenue", "LongPollXmlVenue"]

_QUERY = {"symbols": "{symbols}", "channels": "{channels}", "cursor": "{cursor}", "hold": "{hold}",
          "fresh": "{fresh}"}
_PLACES = frozenset({"symbols", "channels", "cursor", "hold", "fresh"})
_ETAG = "etag"
_HEADER = "header:"
_MISSING = "what came in between is missing"
_BAD_SHOWN = 20     # bad records of one answer that are named one by one
# RecursionError: what is nested nearly too deeply to be decoded can be too deep to be shown.
_BAD = (ValueError, ArithmeticError, TypeError, RecursionError)


class _LongPollVenue(Venue):
    """What XML and JSON have in common.

    Args:
        path: Added to the address.
        query: Query parameters; ``{symbols}``, ``{channels}``, ``{cursor}``, ``{hold}`` and ``{fresh}``
            (symbols whose whole book is needed) stand for what is asked. One that comes out empty is
            left out.
        cursor: Where the next cursor is: a place in the answer, ``header:Name``, ``etag`` (asked again with
            If-None-Match), or None where the feed has none.
        reset: Place of a flag: the server does not know our cursor and has begun anew. None: no such flag.
        elements: Which records mean what, see :mod:`streams.mapping`. None: those of the module's text.
        hold: Seconds that the server is asked to hold a request.
        interval: Seconds from one request to the next while answers bring nothing new.
        api_key: Sent as ``Authorization: Bearer``.
    """

    channels: ClassVar[tuple[str, ...]] = ("book", "trades", "quotes", "ticker", "bars")
    intervals: ClassVar[Mapping[str, str]] = {
        i: i for i in ("1s", "5s", "10s", "15s", "30s", "1m", "3m", "5m", "10m", "15m", "30m", "1h", "2h",
                       "4h", "6h", "8h", "12h", "1d", "1w", "1M")}
    carrier: ClassVar[str] = "longpoll"
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle(verbatim=True)
    time_unit: ClassVar[int] = 1
    limits: ClassVar[Limits] = Limits(
        topics=1000, batch=1000, messages=(1000, 1.0), ack=None, stale_after=60.0)
    options: ClassVar[tuple[str, ...]] = ("path", "query", "cursor", "reset", "elements", "hold", "interval")

    _default_elements: ClassVar[Mapping[str, Mapping[str, Any]]]
    _reader: ClassVar[Reader]

    def __init__(
        self, *, path: str = "/feed", query: Mapping[str, str] | None = None,
        cursor: str | None = "@cursor", reset: str | None = "@reset",
        elements: Mapping[str, Mapping[str, Any]] | None = None, hold: float = 20.0,
        interval: float = 1.0, api_key: str | None = None, **settings: Any,
    ) -> None:
        super().__init__(api_key=api_key, **settings)
        self._path = _checked_path(path, self.name)
        self._query = _checked_query(_QUERY if query is None else query, self.name)
        if not all(isinstance(seconds, (int, float)) and seconds >= 0 for seconds in (hold, interval)):
            raise ConfigurationError(f"{self.name}: hold and interval are seconds, 0 or more")
        for name, place in (("cursor", cursor), ("reset", reset)):
            if not isinstance(place, (str, type(None))):
                raise ConfigurationError(
                    f"{self.name}: {name}={place!r}: give the place of it, like '@{name}'")
        self._hold, self._interval = hold, interval
        table = self._default_elements if elements is None else elements
        self._elements = compile_elements(table, self._reader, self.number, self.name)
        self._bearer = api_key
        self.rule = rule_of(self._elements)
        self._cursor_place = cursor
        self._find_cursor = self._cursor_finder(cursor)
        self._reset = None if reset is None else self._reader.get(reset)
        self.cursor = ""
        self._whole = any("fresh" in place for place in self._query.values())
        self._wanted: dict[str, Route] = {}         # by topic
        self._fresh: dict[str, Route] = {}          # those that need a whole book, by topic
        self._parsed: tuple[bytes, Any] | None = None

    # -- questions ---------------------------------------------------------------------------------

    def check_channel(self, channel: str) -> None:
        """See Venue. What there is depends on the elements."""
        super().check_channel(channel)
        kind = channel.partition(":")[0]
        if all(element.channel != kind for element in self._elements):
            have = ", ".join(sorted({element.channel for element in self._elements}))
            raise ConfigurationError(f"{self.name}: no element gives channel {channel!r}; there are: {have}")

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See Venue."""
        return (f"{channel}.{native}",)

    def headers(self) -> Mapping[str, str]:
        """See Venue."""
        return {"Authorization": f"Bearer {self._bearer}"} if self._bearer else {}

    def transport_options(self) -> Mapping[str, Any]:
        """See Venue, and :mod:`streams.polling`."""
        return {"poll": self.poll, "polled": self.polled, "hold": self._hold, "interval": self._interval}

    # -- the conversation ----------------------------------------------------------------------------

    def inherit(self, previous: Venue) -> None:
        """Go on from the cursor of the connection before: nothing is missed, a restart of the server
        included, as long as it knows the cursor still."""
        assert isinstance(previous, _LongPollVenue)
        self.cursor = previous.cursor

    def remove(self, route: Route) -> None:
        """See Venue."""
        super().remove(route)
        for topic in route.topics:
            self._wanted.pop(topic, None)
            self._fresh.pop(topic, None)

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        by_topic = {topic: route for route in self.routes.values() for topic in route.topics}
        for topic in topics:
            route = by_topic.get(topic)
            if route is not None:
                self._wanted[topic] = route
                if route.channel == "book":
                    self._fresh[topic] = route
        return (ANEW,)

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        for topic in topics:
            self._wanted.pop(topic, None)
            self._fresh.pop(topic, None)
        return (ANEW,)

    def refresh(self, route: Route) -> Sequence[bytes | str] | None:
        """See Venue: the next request asks for the whole book."""
        for topic in route.topics:
            if topic in self._wanted:
                self._fresh[topic] = route
        return (ANEW,)

    def poll(self) -> Ask | None:
        """See :mod:`streams.polling`."""
        if not self._wanted:
            return None
        routes = self._wanted.values()
        # A feed that can not be asked for whole books gives them at its beginning.
        cursor = "" if self._fresh and not self._whole else self.cursor
        values = {
            "symbols": ",".join(sorted({route.native for route in routes})),
            "channels": ",".join(sorted({route.channel for route in routes})),
            "fresh": ",".join(sorted({route.native for route in self._fresh.values()})),
            "cursor": "" if self._cursor_place == _ETAG else cursor,
            "hold": f"{self._hold:g}" if self._hold else "",
        }
        params = tuple(
            (name, filled) for name, place in self._query.items() if (filled := place.format_map(values)))
        headers = (("If-None-Match", cursor),) if self._cursor_place == _ETAG and cursor else ()
        return Ask(self._path, params, headers)

    def polled(self, status: int, headers: Mapping[str, str], body: bytes) -> tuple[Sequence[bytes], bool]:
        """See :mod:`streams.polling`. Records are new if the cursor has moved, too."""
        try:
            self._parsed = body, self._parse(body)
        except ValueError:
            return (body,), False           # receive() says what is wrong with it; the cursor stays
        root = self._parsed[1]
        cursor, before = self._find_cursor(headers, root), self.cursor
        if cursor:
            self.cursor = cursor
        found = (self._reader.records(root, element.path) for element in self._elements)
        return (body,), self.cursor != before and any(True for records in found for _ in records)

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """See Venue."""
        parsed, self._parsed = self._parsed, None
        try:
            root = parsed[1] if parsed is not None and parsed[0] is raw else self._parse(raw)
        except ValueError as error:
            return [(self.session, Malformed(f"not {self._format}: {error}"))]
        items: list[Item] = []
        anew = self._reset is not None and is_true(self._reset(root))
        if anew:
            items.append((self.session, Notice(f"the feed has begun anew: {_MISSING}")))
        bad = 0
        others: dict[str, None] = {}            # topics of those bad ones that are not shown
        for element in self._elements:
            for record in self._reader.records(root, element.path):
                try:
                    self._take(element, record, now, items)
                except _BAD as error:
                    bad += 1
                    topic = self._topic_of(element, record)
                    if bad <= _BAD_SHOWN:
                        items.append((self.session, Malformed(str(error), topic)))
                    else:
                        others[topic] = None
        if bad > _BAD_SHOWN:
            items.append((self.session, Malformed(f"{bad - _BAD_SHOWN} more bad records in one answer")))
            items += [(self.session, Resync(topic, "a bad record")) for topic in others if topic]
        if anew:
            whole = {route for route, event in items if isinstance(event, BookSnapshot)}
            items[:0] = [(route, BookBroken(_MISSING)) for route in self.routes.values()
                         if route.channel == "book" and route not in whole]
        return items or ((self.session, Alive()),)      # nothing new, as a 204 says it, too

    # -- inside ----------------------------------------------------------------------------------------

    _format: ClassVar[str]

    def _parse(self, raw: bytes) -> Any:
        """The root of a message. Raises ValueError."""
        raise NotImplementedError

    def _route_of(self, element: Element, record: Any) -> Route | None:
        channel, symbol = element.channel_of(record), element.symbol_of(record)
        if symbol is not None:
            return self.routes.get((channel, symbol))
        # A feed of one symbol need not name it.
        mine = [route for route in self.routes.values() if route.channel == channel]
        return mine[0] if len(mine) == 1 else None

    def _take(self, element: Element, record: Any, now: int, items: list[Item]) -> None:
        route = self._route_of(element, record)
        if route is None:
            return
        event = element.event(record, self.name, route.symbol, now)
        if isinstance(event, BookSnapshot):
            for topic in route.topics:
                self._fresh.pop(topic, None)
        items.append((route, event))

    def _topic_of(self, element: Element, record: Any) -> str:
        try:
            route = self._route_of(element, record)
        except _BAD:
            return ""
        return route.topics[0] if route is not None else ""

    def _cursor_finder(self, cursor: str | None) -> Callable[[Mapping[str, str], Any], str]:
        if cursor is None:
            return lambda headers, root: ""
        if cursor == _ETAG:
            return lambda headers, root: headers.get("ETag", "")
        if cursor.startswith(_HEADER):
            name = cursor[len(_HEADER):].strip()
            return lambda headers, root: headers.get(name, "")
        get = self._reader.get(cursor)

        def find(headers: Mapping[str, str], root: Any) -> str:
            value = get(root)
            return "" if value is None else str(value)
        return find


class LongPollXmlVenue(_LongPollVenue):
    """``longpoll-xml``: see the module's text. Document types, entities and external references are
    refused (defusedxml, extra ``xml``)."""

    name: ClassVar[str] = "longpoll-xml"
    _format: ClassVar[str] = "XML"
    _reader: ClassVar[Reader] = XmlReader()
    _default_elements: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "book": {"channel": "book", "symbol": "@symbol", "bids": "bid", "asks": "ask", "price": "@price",
                 "size": "@size", "last": "@sequence", "time": "@time", "whole": True},
        "update": {"channel": "book", "symbol": "@symbol", "bids": "bid", "asks": "ask", "price": "@price",
                   "size": "@size", "first": "@first", "last": "@last", "time": "@time"},
        "trade": {"channel": "trades", "symbol": "@symbol", "price": "@price", "size": "@size",
                  "side": "@side", "id": "@id", "time": "@time"},
    }

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        try:
            from defusedxml import ElementTree
        except ImportError:
            raise MissingDependency("defusedxml", extra="xml") from None
        self._tree = ElementTree

    def _parse(self, raw: bytes) -> Any:
        try:
            return self._tree.fromstring(raw, forbid_dtd=True)
        except (SyntaxError, LookupError) as error:     # ElementTree's ParseError; an unknown encoding
            raise ValueError(str(error)) from None


class LongPollJsonVenue(_LongPollVenue):
    """``longpoll-json``: see the module's text. Levels are pairs ``[price, size]``."""

    name: ClassVar[str] = "longpoll-json"
    _format: ClassVar[str] = "JSON"
    _reader: ClassVar[Reader] = JsonReader()
    _default_elements: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "book": {"channel": "book", "symbol": "symbol", "bids": "bids", "asks": "asks", "last": "sequence",
                 "time": "time", "whole": True},
        "update": {"channel": "book", "symbol": "symbol", "bids": "bids", "asks": "asks", "first": "first",
                   "last": "last", "time": "time"},
        "trade": {"channel": "trades", "symbol": "symbol", "price": "price", "size": "size", "side": "side",
                  "id": "id", "time": "time"},
    }

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        decoder = msgspec.json.Decoder(float_hook=Decimal if self.number is Decimal else None)
        self._decode: Callable[[bytes], Any] = decoder.decode

    def _parse(self, raw: bytes) -> Any:
        try:
            return self._decode(raw)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _checked_path(path: str, owner: str) -> str:
    if not isinstance(path, str) or (path and not path.startswith("/")) or "?" in path:
        raise ConfigurationError(f"{owner}: path={path!r} must be like '/feed'; parameters go into query")
    return quote(path, safe="/%:@!$&'()*+,;=~-._")


def _checked_query(query: Mapping[str, str], owner: str) -> Mapping[str, str]:
    try:
        for place in query.values():
            place.format_map({name: "" for name in _PLACES})
    except (KeyError, ValueError, IndexError, AttributeError):
        places = ", ".join("{%s}" % place for place in sorted(_PLACES))
        raise ConfigurationError(f"{owner}: values of query are texts that may hold {places}") from None
    return dict(query)

"""What the made-up long-polled feed writes, the wrong things included; see `longpoll`."""
from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple
from xml.sax.saxutils import quoteattr

from .faults import Fault
from .market import Book, Instrument, Trade, Update
from .web import Response

_LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE feed [<!ENTITY a "ha">%s]><feed cursor="9.9">&k;</feed>"""
_OUTSIDE = b"""<?xml version="1.0"?><!DOCTYPE feed [<!ENTITY a SYSTEM "file:///etc/hostname">]>
<feed cursor="9.9"><trade symbol="&a;" price="1" size="1"/></feed>"""
_NONSENSE: tuple[dict[str, str], ...] = (
    {"price": "NaN"}, {"price": "-1"}, {"price": "0"}, {"size": "inf"}, {"size": "-0.5"},
    {"price": "x"}, {"side": "up"}, {"time": "yesterday"},
)


class PollFault:
    """What can go wrong with a request; each may be given other options, like any `Fault`.

    ============ ======================================================================
    HANG         never answered
    DROP         closed without an answer
    RESET        likewise, with RST
    HALF         closed in the middle of the body
    STALL        silent from the middle of the body on
    DRIP         answered byte by byte over ``seconds``
    LATER        ``status`` (429, 503) with ``retry_after`` seconds, or without when None
    STATUS       any other ``status``: 401, 404, 500, 302
    GARBAGE      200, and a body that is cut off
    NONSENSE     200, and records that can not be
    ENTITIES     200, and an XML document that grows to gigabytes when it is read
    OUTSIDE      200, and an XML document that refers to a file of the reader's
    BOMB         200, packed, and ``size`` bytes when it is unpacked
    OVERSIZED    200, and a body of ``size`` bytes
    SKIP         the next update of a book is left out of the feed
    ============ ======================================================================
    """

    HANG: ClassVar[Fault] = Fault("hang", "snapshot", {})
    DROP: ClassVar[Fault] = Fault("drop", "snapshot", {})
    RESET: ClassVar[Fault] = Fault("reset", "snapshot", {})
    HALF: ClassVar[Fault] = Fault("half", "snapshot", {})
    STALL: ClassVar[Fault] = Fault("stall", "snapshot", {})
    DRIP: ClassVar[Fault] = Fault("drip", "snapshot", {"seconds": 5.0})
    LATER: ClassVar[Fault] = Fault("later", "snapshot", {"status": 503, "retry_after": 1})
    STATUS: ClassVar[Fault] = Fault("status", "snapshot", {"status": 500})
    GARBAGE: ClassVar[Fault] = Fault("garbage", "snapshot", {})
    NONSENSE: ClassVar[Fault] = Fault("nonsense", "snapshot", {})
    ENTITIES: ClassVar[Fault] = Fault("entities", "snapshot", {})
    OUTSIDE: ClassVar[Fault] = Fault("outside", "snapshot", {})
    BOMB: ClassVar[Fault] = Fault("bomb", "snapshot", {"size": 100_000_000})
    OVERSIZED: ClassVar[Fault] = Fault("oversized", "snapshot", {"size": 100_000_000})
    SKIP: ClassVar[Fault] = Fault("skip", "connection", {})


class Told(NamedTuple):
    """One answer's content.

    Attributes:
        books: whole ones, by the name of their symbol.
        events: what happened, with the instrument it happened to.
    """

    cursor: str
    reset: bool
    moment: int
    books: list[tuple[str, Book]]
    events: list[tuple[str, Instrument, Update | Trade]]


def render(told: Told, format: str) -> Response:
    """The answer. Threads: any."""
    return _json(told) if format == "json" else _xml(told)


def _xml(told: Told) -> Response:
    reset = ' reset="true"' if told.reset else ""
    lines = [f"<feed cursor={quoteattr(told.cursor)}{reset}>"]
    for name, book in told.books:
        lines.append(f'<book symbol={quoteattr(name)} sequence="{book.sequence}" time="{told.moment}">')
        lines += _levels("bid", _exact(book.bids))
        lines += _levels("ask", _exact(book.asks))
        lines.append("</book>")
    for name, instrument, what in told.events:
        fields = _fields(name, instrument, what)
        sides = fields.pop("bids", None), fields.pop("asks", None)
        attributes = " ".join(f"{key}={quoteattr(str(value))}" for key, value in fields.items())
        if isinstance(what, Trade):
            lines.append(f"<trade {attributes}/>")
        else:
            lines.append(f"<update {attributes}>")
            lines += _levels("bid", sides[0])
            lines += _levels("ask", sides[1])
            lines.append("</update>")
    lines.append("</feed>")
    return Response(200, "\n".join(lines).encode(), (), "application/xml")


def _json(told: Told) -> Response:
    message: dict[str, Any] = {"cursor": told.cursor, "book": [], "update": [], "trade": []}
    if told.reset:
        message["reset"] = True
    for name, book in told.books:
        message["book"].append({
            "symbol": name, "sequence": book.sequence, "time": told.moment,
            "bids": _exact(book.bids), "asks": _exact(book.asks)})
    for name, instrument, what in told.events:
        kind = "trade" if isinstance(what, Trade) else "update"
        message[kind].append(_fields(name, instrument, what))
    return Response.json(message)


def _fields(name: str, instrument: Instrument, what: Update | Trade) -> dict[str, Any]:
    moment = what.time // 1_000_000
    if isinstance(what, Trade):
        return {"symbol": name, "id": str(what.id), "price": str(what.tick * instrument.tick),
                "size": str(what.lots * instrument.lot),
                "side": "sell" if what.seller_aggressed else "buy", "time": moment}
    return {"symbol": name, "first": what.first, "last": what.last, "time": moment,
            "bids": _changed(instrument, what.bids), "asks": _changed(instrument, what.asks)}


def _changed(instrument: Instrument, changes: dict[int, int]) -> list[tuple[str, str]]:
    return [(str(abs(key) * instrument.tick), str(lots * instrument.lot)) for key, lots in changes.items()]


def _exact(levels: Iterable[tuple[object, object]]) -> list[tuple[str, str]]:
    return [(str(price), str(size)) for price, size in levels]


def _levels(side: str, levels: Iterable[tuple[str, str]]) -> Iterator[str]:
    for price, size in levels:
        yield f'<{side} price="{price}" size="{size}"/>'


# -- the wrong things --------------------------------------------------------------------------


def spoilt(fault: Fault, format: str, name: str, cursor: str) -> Response:
    """An answer of status 200 with what a fault puts into it. Threads: any."""
    headers: tuple[tuple[str, str], ...] = ()
    if fault.name == "garbage":
        body = b'{"cursor":"9.9","trade":[{' if format == "json" else b'<feed cursor="9.9"><trade '
    elif fault.name == "nonsense":
        body = _nonsense(format, name, cursor)
    elif fault.name == "entities":
        body = _LAUGHS % b"".join(_entity(at) for at in range(10))
    elif fault.name == "outside":
        body = _OUTSIDE
    else:
        body = b" " * int(fault.number("size"))
        if fault.name == "bomb":
            body, headers = gzip.compress(body, 9), (("Content-Encoding", "gzip"),)
    return Response(200, body, headers, f"application/{format}")


def _entity(at: int) -> bytes:
    names = b"abcdefghijk"
    return b'<!ENTITY %c "%s">' % (names[at + 1], b"&%c;" % names[at] * 20)


def _nonsense(format: str, name: str, cursor: str) -> bytes:
    good = {"symbol": name, "price": "1", "size": "1", "side": "buy", "time": "1"}
    records = [{**good, **wrong} for wrong in _NONSENSE] + [{"symbol": name}, {}]
    if format == "json":
        return json.dumps({"cursor": cursor, "trade": records}).encode()
    lines = ["<trade %s/>" % " ".join(f'{key}="{value}"' for key, value in r.items()) for r in records]
    return f'<feed cursor="{cursor}">{"".join(lines)}</feed>'.encode()

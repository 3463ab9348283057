"""From somebody's own messages to ours: which field is where, written as a table.

A feed of one's own needs no parser, only a table of its *elements*::

    elements = {
        "deal": {"channel": "trades", "symbol": "@s", "price": "px", "size": "qty", "time": "@t"},
        "top": {"channel": "quotes", "symbol": "@s", "bid": "b/px", "ask": "a/px"},
    }

The keys say where the records are in a message, the values what they mean and where their fields are:

========== ========================================== ===============================================
channel    fields that must be there                  further fields
========== ========================================== ===============================================
book       ``bids asks`` (lists of levels)            ``price size`` (of a level) ``first last previous``
                                                      ``whole``
trades     ``price size``                             all that :class:`streams.events.Trade` has
quotes     ``bid ask`` (a record may lack either)     all that :class:`streams.events.Quote` has
ticker     --                                         all that :class:`streams.events.Ticker` has
bars       ``interval start open high low close``     all that :class:`streams.events.Bar` has
========== ========================================== ===============================================

All may have ``symbol`` and ``time``; ``unit`` says what times count: ``s``, ``ms`` (unless said otherwise),
``us``, ``ns``, or ``iso`` for RFC 3339 texts. ``whole`` says that a record is a whole book and not a
change of one: True, False, or the place of a flag. Levels are pairs ``[price, size]`` unless places of
``price`` and ``size`` are given.

A place is a path: ``name``, ``name/name``; in XML a last part ``@name`` is an attribute, and ``.`` the
element's own text.

How books are numbered follows from the fields: ``first`` and ``last`` (the numbers that a change covers),
``previous`` and ``last``, ``last`` alone (each change counts one), or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple, get_args

from msgspec import structs

from .errors import ConfigurationError
from .events import Bar, Event, Level, Quote, Ticker, Trade
from .timestamps import Rfc3339
from .venue import BookSnapshot

__all__ = [
    "FIELDS", "Change", "Element", "JsonReader", "Reader", "XmlReader", "compile_elements", "is_true",
    "rule_of",
]

Get = Callable[[Any], Any]

_EVENTS: dict[str, type[Event]] = {"trades": Trade, "quotes": Quote, "ticker": Ticker, "bars": Bar}
_NEEDED: dict[str, tuple[str, ...]] = {
    "book": ("bids", "asks"), "trades": ("price", "size"), "quotes": ("bid", "ask"), "ticker": (),
    "bars": ("interval", "start", "open", "high", "low", "close"),
}
# What is 0 in the others has no price.
_PRICES = {"trades": ("price",), "quotes": ("bid", "ask"), "bars": ("open", "high", "low", "close")}

FIELDS: dict[str, tuple[str, ...]] = {
    "book": ("bids", "asks", "price", "size", "first", "last", "previous", "whole"),
    **{channel: tuple(name for name in kind.__struct_fields__ if name not in Event.__struct_fields__)
       for channel, kind in _EVENTS.items()},
}
"""What elements may say of each channel: of events all that is their own."""

_COMMON = ("channel", "symbol", "time", "unit")
_FLAGS = ("whole", "closed", "revised", "cancelled", "corrected")
_UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_SIDES: dict[str, Any] = {"buy": "buy", "b": "buy", "bid": "buy", "sell": "sell", "s": "sell", "ask": "sell"}
_MOST = 2 ** 63         # numbers of messages, and ns since the epoch, stay below: no machine packs more
_TRUE = frozenset({"true", "1", "yes", "y", "t"})


class Change(NamedTuple):
    """A change of a book, see :class:`streams.venue.BookDelta`."""

    link: int
    last: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    time: int


class Reader:
    """How fields are found in decoded messages."""

    def get(self, path: str) -> Get:
        """What takes the value at ``path`` from a record: None where there is none."""
        raise NotImplementedError

    def records(self, root: Any, path: str) -> Iterable[Any]:
        """The records at ``path`` of a message."""
        raise NotImplementedError


class JsonReader(Reader):
    """Of dicts and lists (JSON, MessagePack). ``@name`` means the same as ``name``."""

    def get(self, path: str) -> Get:
        """See :class:`Reader`."""
        names = [name.removeprefix("@") for name in path.split("/")]
        if len(names) == 1:
            name = names[0]
            return lambda record: record.get(name) if isinstance(record, dict) else None

        def nested(record: Any) -> Any:
            for name in names:
                record = record.get(name) if isinstance(record, dict) else None
            return record
        return nested

    def records(self, root: Any, path: str) -> Iterable[Any]:
        """See :class:`Reader`. A single record stands for a list of one."""
        found = root if path == "." else self.get(path)(root)
        return found if isinstance(found, list) else () if found is None else (found,)


class XmlReader(Reader):
    """Of ``ElementTree`` elements."""

    def get(self, path: str) -> Get:
        """See :class:`Reader`. Of several children of one name it is the first."""
        way, _, name = path.rpartition("/")
        if not name.startswith("@"):
            return lambda record: record.text if path == "." else record.findtext(path)
        name = name[1:]
        if not way:
            return lambda record: record.get(name)

        def nested(record: Any) -> Any:
            inner = record.find(way)
            return None if inner is None else inner.get(name)
        return nested

    def records(self, root: Any, path: str) -> Iterator[Any]:
        """See :class:`Reader`."""
        found: Iterator[Any] = root.iterfind(path)
        return found


class Element:
    """One kind of record, compiled. Threads: one.

    Args:
        path: Where such records are.
        fields: As in the table above.
        reader: How fields are found.
        number: ``float`` or ``Decimal``.
        owner: Whose elements they are, for messages.

    Raises:
        ConfigurationError: A table that can not work.
    """

    def __init__(
        self, path: str, fields: Mapping[str, Any], reader: Reader,
        number: type[float] | type[Decimal], owner: str,
    ) -> None:
        self.path = path
        self.fields = _checked(path, fields, owner)
        self.channel: str = fields["channel"]
        self._reader = reader
        self._number = _float if number is float else _decimal
        self._symbol = self._optional("symbol")
        self._interval = self._optional("interval")
        self._time = self._optional("time")
        self._unit = _unit_reader(fields.get("unit", "ms"))
        self._build: Callable[[Any, dict[str, Any]], Any] = (
            self._book() if self.channel == "book" else self._event())

    def symbol_of(self, record: Any) -> str | None:
        """The symbol as the feed writes it, None where records do not name it."""
        if self._symbol is None:
            return None
        symbol = self._symbol(record)
        if symbol is None:
            raise ValueError(f"{self.path}: no symbol")
        return str(symbol)

    def channel_of(self, record: Any) -> str:
        """The channel with its interval."""
        return self.channel if self._interval is None else f"{self.channel}:{self._interval(record)}"

    def event(self, record: Any, exchange: str, symbol: str, now: int) -> Event | BookSnapshot | Change:
        """What a record says.

        Raises:
            ValueError: A field is missing, or can not be what it should be.
        """
        head = {"exchange": exchange, "symbol": symbol, "received": now, "timestamp": self._when(record)}
        result: Event | BookSnapshot | Change = self._build(record, head)
        return result

    def _when(self, record: Any) -> int | None:
        value = None if self._time is None else self._time(record)
        return None if value is None else self._unit(value) or None

    # -- fields --------------------------------------------------------------------------------------

    def _optional(self, name: str) -> Get | None:
        path = self.fields.get(name)
        return None if path is None else self._reader.get(path)

    def _integer(self, name: str) -> Callable[[Any], int]:
        get = self._optional(name)
        if get is None:
            return lambda record: 0
        take, where = get, f"{self.path}: {name}"
        return lambda record: _int(take(record), where)

    def _flag(self, name: str) -> Callable[[Any], bool]:
        value = self.fields.get(name, False)
        if isinstance(value, bool):
            return lambda record: value
        get = self._reader.get(value)
        return lambda record: is_true(get(record))

    def _levels(self, name: str) -> Callable[[Any], list[Level]]:
        fields, reader, number, where = self.fields, self._reader, self._number, f"{self.path}: {name}"
        path = fields[name]
        if "price" in fields:
            price, size = reader.get(fields["price"]), reader.get(fields["size"])
            return lambda record: [
                (number(price(level), where, True), number(size(level), where, False))
                for level in reader.records(record, path)]
        get = reader.get(path)
        return lambda record: [
            (number(price, where, True), number(size, where, False))
            for price, size, *_ in _pairs(get(record), where)]

    # -- what records become ------------------------------------------------------------------------

    def _book(self) -> Callable[[Any, dict[str, Any]], BookSnapshot | Change]:
        bids, asks, whole = self._levels("bids"), self._levels("asks"), self._flag("whole")
        first, last, previous = self._integer("first"), self._integer("last"), self._integer("previous")
        link = previous if "previous" in self.fields else first if "first" in self.fields else last

        def build(record: Any, head: dict[str, Any]) -> BookSnapshot | Change:
            time = head["timestamp"] or 0
            if whole(record):
                return BookSnapshot(last(record), bids(record), asks(record), time, in_order=True)
            return Change(link(record), last(record), bids(record), asks(record), time)
        return build

    def _event(self) -> Callable[[Any, dict[str, Any]], Event]:
        kind = _EVENTS[self.channel]
        fields = [field for field in structs.fields(kind) if field.name in FIELDS[self.channel]]
        readers = [(field.name, self._field(field)) for field in fields if field.name in self.fields]
        unsaid = {field.name: None for field in fields if field.required and _may_lack(field)}
        path = self.path

        def build(record: Any, head: dict[str, Any]) -> Event:
            said = {name: value for name, read in readers if (value := read(record)) is not None}
            if not said:
                raise ValueError(f"{path}: nothing in it")
            event: Event = kind(**{**unsaid, **said}, **head)
            return event
        return build

    def _field(self, field: structs.FieldInfo) -> Get:
        """What reads a field of an event: None where it is missing, and may be."""
        place, where, needed = self.fields[field.name], f"{self.path}: {field.name}", not _may_lack(field)
        get = self._reader.get(place) if isinstance(place, str) else lambda record: place
        convert = self._converter(field, where)

        def read(record: Any) -> Any:
            value = get(record)
            if value is not None:
                return convert(value)
            if needed:
                raise ValueError(f"{where} is missing")
            return None
        return read

    def _converter(self, field: structs.FieldInfo, where: str) -> Get:
        name, number, kinds = field.name, self._number, get_args(field.type)
        if name == "start":
            return self._unit
        if name == "side":
            return lambda value: _side(value, where)
        if float in kinds:
            positive = name in _PRICES.get(self.channel, ())
            return lambda value: number(value, where, positive)
        if int in kinds:
            return lambda value: _int(value, where)
        if field.type is bool:
            return is_true
        return str if field.type is str else _texts


def _may_lack(field: structs.FieldInfo) -> bool:
    """Whether an event may be without it."""
    return not field.required or type(None) in get_args(field.type)


def compile_elements(
    elements: Mapping[str, Mapping[str, Any]], reader: Reader,
    number: type[float] | type[Decimal], owner: str,
) -> list[Element]:
    """All elements of a table.

    Raises:
        ConfigurationError: A table that can not work; the message says what would be right.
    """
    if not isinstance(elements, Mapping) or not elements:
        raise ConfigurationError(
            f"{owner}: elements must be a table like "
            "{'trade': {'channel': 'trades', 'symbol': '@s', 'price': 'px', 'size': 'qty'}}")
    compiled = [Element(path, fields, reader, number, owner) for path, fields in elements.items()]
    books = [element for element in compiled if element.channel == "book"]
    if books and not any(element.fields.get("whole") for element in books):
        raise ConfigurationError(
            f"{owner}: a book needs a record with all of it: 'whole': True, or the place of a flag")
    return compiled


def rule_of(elements: Iterable[Element]) -> str:
    """The sequencing rule (:mod:`streams.sequencing`) of the books of these elements."""
    changes = [e.fields for e in elements if e.channel == "book" and e.fields.get("whole") is not True]
    if not changes:
        return "snapshots"
    if all("previous" in fields and "last" in fields for fields in changes):
        return "chained"
    return "dense" if all("last" in fields for fields in changes) else "unsequenced"


def _checked(path: str, fields: Mapping[str, Any], owner: str) -> Mapping[str, Any]:
    channel = fields.get("channel") if isinstance(fields, Mapping) else None
    if channel not in FIELDS:
        raise ConfigurationError(f"{owner}: element {path!r} needs a channel, one of {', '.join(FIELDS)}")
    for name in _NEEDED[channel]:
        if name not in fields:
            raise ConfigurationError(f"{owner}: element {path!r} must say where its {name} is")
    for name, place in fields.items():
        if name not in _COMMON + FIELDS[channel]:
            known = ", ".join(_COMMON + FIELDS[channel])
            raise ConfigurationError(f"{owner}: element {path!r} has no field {name!r}; known: {known}")
        flag = name in _FLAGS and isinstance(place, bool)
        if not flag and not (isinstance(place, str) and place):
            raise ConfigurationError(
                f"{owner}: {name} of element {path!r} must be a place, like '@name' or 'a/b'")
    if channel == "book" and ("price" in fields) != ("size" in fields):
        raise ConfigurationError(f"{owner}: element {path!r} must say where price and size of a level are")
    if fields.get("unit", "ms") not in (*_UNITS, "iso"):
        raise ConfigurationError(f"{owner}: unit of element {path!r} must be one of {', '.join(_UNITS)}, iso")
    return fields


# -- values ------------------------------------------------------------------------------------------


def is_true(value: Any) -> bool:
    """Whether a flag is set: true, 1, yes, as text or not."""
    return str(value).lower() in _TRUE


def _float(value: Any, where: str, positive: bool) -> float:
    try:
        number = float(_plain(value))
    except (TypeError, ValueError):
        raise ValueError(f"{where}: {_shown(value)} is no number") from None
    if not (number > 0 if positive else number >= 0) or number == math.inf:
        raise ValueError(f"{where}: {_shown(value)} is impossible")
    return number


def _decimal(value: Any, where: str, positive: bool) -> Decimal:
    try:
        number = Decimal(repr(value) if isinstance(value, float) else _plain(value))
    except (TypeError, ValueError, InvalidOperation):
        raise ValueError(f"{where}: {_shown(value)} is no number") from None
    if not number.is_finite() or number < 0 or (positive and not number) or abs(number.adjusted()) > 300:
        raise ValueError(f"{where}: {_shown(value)} is impossible")
    return number


def _plain(value: Any) -> Any:
    """``value``, unless it is something that Python takes for a number, but nobody else."""
    if isinstance(value, (bool, list)):
        raise TypeError
    return value


def _int(value: Any, where: str) -> int:
    try:
        # Looked at before it is made: 1e999999 is a short text, and a whole number that takes minutes.
        number = -1 if isinstance(value, Decimal) and not 0 <= value < _MOST else int(value)
    except (TypeError, ValueError, ArithmeticError):
        raise ValueError(f"{where}: {_shown(value)} is no whole number") from None
    if not 0 <= number < _MOST or number != (number if isinstance(value, str) else value):
        raise ValueError(f"{where}: {_shown(value)} is no number of that kind")
    return number


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value if isinstance(value, list) else (value,)))


def _side(value: Any, where: str) -> Any:
    side = _SIDES.get(str(value).lower())
    if side is None:
        raise ValueError(f"{where}: {_shown(value)} is neither buy nor sell")
    return side


def _pairs(levels: Any, where: str) -> Iterable[Any]:
    if levels is None:
        return ()
    if not isinstance(levels, list) or not all(isinstance(pair, list) and len(pair) >= 2 for pair in levels):
        raise ValueError(f"{where}: not a list of [price, size]")
    return levels


def _unit_reader(unit: str) -> Callable[[Any], int]:
    if unit == "iso":
        read = Rfc3339()
        return lambda value: read(str(value))
    scale = _UNITS[unit]

    def read_number(value: Any) -> int:
        try:
            number = Decimal(repr(value) if isinstance(value, float) else _plain(value)) * scale
            if 0 <= number < _MOST:         # before it becomes an int, see _int
                return int(number)
        except (TypeError, ValueError, ArithmeticError):
            raise ValueError(f"time: {_shown(value)} is no number") from None
        raise ValueError(f"time: {_shown(value)} is impossible")
    return read_number


def _shown(value: Any) -> str:
    return f"{value!r:.40}"

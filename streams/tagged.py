"""Base of venues whose messages are arrays of tagged objects: ``[{"T": "t", ...}, {"T": "q", ...}]``.

A whole array is decoded at once into typed structs. If that fails it is decoded piece by piece,
so that one bad object spoils only itself, and a kind of message that the venue has invented since
spoils nothing.

A symbol may end in ``*``: such a route hears every symbol with that beginning which no more exact
route of the same channel hears. Its items belong to the wildcard's route; the ``symbol`` of their
events is the actual one, as the venue writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, NamedTuple, Protocol

import msgspec

from .credentials import scrubbed
from .errors import ConfigurationError
from .events import Ticker
from .venue import BookBroken, Item, Malformed, Notice, Route, Venue

__all__ = ["Audience", "Build", "Hearer", "TaggedVenue", "check_message"]

Build = Callable[[Any, str, int], Any]      # (message, symbol of the event, now) -> event or None

# RecursionError: objects nested beyond any sense. All others of msgspec's are ValueErrors.
_BAD = (ValueError, RecursionError)
# What a message that is well formed can still do wrong: a time that is none, a number out of range.
_ODD = (ValueError, ArithmeticError, TypeError)

_SALVAGED = 1 << 20     # bytes; a longer message that does not decode is not taken to pieces
_SPOILT = 100           # bad objects of one message that are told apart
_KINDS = 16             # unknown kinds of messages that are reported by name
_MEMO = 100_000         # symbols whose hearers are remembered


class _Unread(Malformed):
    """Something that could not be read at all: it may have been about anything."""


class Hearer(NamedTuple):
    """Who hears a message: the route, what makes its event, and the symbol of the event."""

    route: Route
    build: Build
    symbol: str


class Audience:
    """Who hears one kind of message, by symbol.

    Args:
        spelling: Turns the symbol in a message into the spelling that routes use. Asked once per symbol.
    """

    __slots__ = ("_spelling", "_exact", "_patterns", "_memo")

    def __init__(self, spelling: Callable[[str], str]) -> None:
        self._spelling = spelling
        self._exact: dict[str, list[tuple[Route, Build]]] = {}
        self._patterns: list[tuple[str, Route, Build]] = []     # longest beginning first
        self._memo: dict[str, tuple[Hearer, ...]] = {}

    def add(self, route: Route, build: Build) -> None:
        """``route`` hears from now on."""
        if route.native.endswith("*"):
            self._patterns.append((route.native[:-1], route, build))
            self._patterns.sort(key=lambda entry: -len(entry[0]))
        else:
            self._exact.setdefault(route.native, []).append((route, build))
        self._memo.clear()

    def remove(self, route: Route) -> None:
        """``route`` hears nothing any more."""
        self._patterns = [entry for entry in self._patterns if entry[1] is not route]
        left = [entry for entry in self._exact.pop(route.native, ()) if entry[0] is not route]
        if left:
            self._exact[route.native] = left
        self._memo.clear()

    def of(self, symbol: str) -> tuple[Hearer, ...]:
        """Who hears a message about ``symbol``."""
        hearers = self._memo.get(symbol)
        return self._find(symbol) if hearers is None else hearers

    def _find(self, symbol: str) -> tuple[Hearer, ...]:
        name = self._spelling(symbol)
        hearers = [Hearer(route, build, route.symbol) for route, build in self._exact.get(name, ())]
        widths = {hearer.route.channel: len(name) + 1 for hearer in hearers}
        for beginning, route, build in self._patterns:
            width = len(beginning)
            if name.startswith(beginning) and widths.setdefault(route.channel, width) == width:
                hearers.append(Hearer(route, build, name))
        if len(self._memo) >= _MEMO:
            self._memo.clear()
        self._memo[symbol] = found = tuple(hearers)
        return found


class Head(Protocol):
    """As much as has to be known of a message that does not decode."""

    @property
    def kind(self) -> str: ...
    @property
    def symbol(self) -> str: ...


class TaggedVenue(Venue):
    """Receives arrays of tagged objects. A subclass calls :meth:`speak` and :meth:`answer` once, and
    says in :meth:`builds` what each channel makes of which messages."""

    kinds: ClassVar[Mapping[str, str]] = {}
    """Tags that the venue is known to send, and the beginning of the topic they belong to ("" none)."""

    signed = False
    """Whether prices may be negative (futures spreads)."""

    def speak(self, messages: Any, head: type[Any], binary: bool = False) -> None:
        """Prepare the decoders.

        Args:
            messages: Union of the message structs, tagged.
            head: A struct of the shape of :class:`Head`.
            binary: MessagePack instead of JSON.
        """
        decoder: Any = msgspec.msgpack.Decoder if binary else msgspec.json.Decoder
        self._decode: Callable[[bytes], list[Any]] = decoder(list[messages]).decode
        self._decode_one: Callable[[Any], Any] = decoder(messages).decode
        self._decode_head: Callable[[Any], Head] = decoder(head).decode
        self._split: Callable[[bytes], list[msgspec.Raw]] = decoder(list[msgspec.Raw]).decode
        self._exact = self.number is Decimal
        self._audiences: dict[type, Audience] = {}
        self._unknown: set[str] = set()
        self.tickers: dict[str, Ticker] = {}        # put together from several messages, by symbol
        self._on: dict[type, Callable[[Any, int, list[Item]], None]] = {
            Malformed: self._signal, Notice: self._signal, _Unread: self._unread}

    def answer(self, kind: type, handler: Callable[[Any, int, list[Item]], None]) -> None:
        """Messages of that type go to ``handler``, not by their symbol to routes."""
        self._on[kind] = handler

    def audience(self, kind: type) -> Audience:
        """Who hears messages of that type."""
        return self._audiences.setdefault(kind, Audience(self.spelling))

    def builds(self, route: Route) -> Mapping[type, Build]:
        """What makes events for ``route``, by the type of message."""
        raise NotImplementedError

    def spelling(self, symbol: str) -> str:
        """The symbol in a message, as routes spell it."""
        return symbol

    def wire_symbol(self, channel: str, native: str) -> str:
        """What is subscribed for ``native``: itself, or ``*`` for a wildcard, filtered on this side.

        Raises:
            ConfigurationError: A wildcard that makes no sense.
        """
        if "*" not in native:
            return native
        if channel == "book" or native.index("*") != len(native) - 1:
            raise ConfigurationError(
                f"{self.name}: {native!r} is no symbol of channel {channel!r}; a wildcard is '*' or "
                "a beginning like 'AB*', for any channel but book")
        return "*"

    # -- the conversation -------------------------------------------------------------------------

    def add(self, route: Route) -> None:
        """See :meth:`Venue.add`."""
        super().add(route)
        for kind, build in self.builds(route).items():
            audience = self.audience(kind)
            audience.add(route, build)
            self._on.setdefault(kind, self._delivery(audience))

    def remove(self, route: Route) -> None:
        """See :meth:`Venue.remove`."""
        super().remove(route)
        for kind in self.builds(route):
            self.audience(kind).remove(route)
        if route.channel == "ticker":
            self._forget_tickers(route)

    def _forget_tickers(self, route: Route) -> None:
        """What is known of these will be old when somebody asks for them again."""
        beginning = route.native[:-1] if route.native.endswith("*") else None
        others = {other.symbol for other in self.routes.values() if other.channel == "ticker"}
        for symbol in [symbol for symbol in self.tickers if symbol not in others]:
            if symbol == route.symbol or (beginning is not None and symbol.startswith(beginning)):
                del self.tickers[symbol]

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """See :meth:`Venue.receive`."""
        messages: Iterable[Any]
        try:
            messages = self._decode(raw)
        except _BAD as error:
            messages = self._pieces(raw, error)
        items: list[Item] = []
        on = self._on
        for message in messages:
            handler = on.get(type(message))
            if handler is None:                 # nobody listens to this kind
                continue
            try:
                if self._exact:
                    check_message(message, self.signed)
                handler(message, now, items)
            except _ODD as error:
                items.append((self.session, self._malformed(message, error)))
        return items

    @staticmethod
    def _delivery(audience: Audience) -> Callable[[Any, int, list[Item]], None]:
        of = audience.of

        def deliver(message: Any, now: int, items: list[Item]) -> None:
            for route, build, symbol in of(message.symbol):
                event = build(message, symbol, now)
                if event is not None:
                    items.append((route, event))
        return deliver

    def _signal(self, signal: Malformed | Notice, now: int, items: list[Item]) -> None:
        items.append((self.session, signal))

    def _unread(self, signal: _Unread, now: int, items: list[Item]) -> None:
        items.append((self.session, Malformed(signal.reason)))
        if self.rule == "unsequenced":          # nothing else will tell that a change is missing
            items += [(route, BookBroken("what could not be read may have been a change of it"))
                      for route in self.routes.values() if route.channel == "book"]

    # -- what does not decode -----------------------------------------------------------------------

    def _pieces(self, raw: bytes, error: Exception) -> Iterator[Any]:
        """The messages of an array that does not decode as a whole; what stands for bad ones."""
        try:
            parts = self._split(raw) if len(raw) <= _SALVAGED else None
        except _BAD as deeper:
            error, parts = deeper, None
        if parts is None:
            yield _Unread(scrubbed(f"no message: {error}"))
            return
        bad = 0
        for at, part in enumerate(parts):
            try:
                yield self._decode_one(part)
            except _BAD as wrong:
                stand_in = self._stand_in(part, wrong)
                yield stand_in
                bad += isinstance(stand_in, Malformed)
            if bad >= _SPOILT and at + 1 < len(parts):
                yield _Unread(f"{bad} bad objects in one message; its last {len(parts) - at - 1} left out")
                return

    def _stand_in(self, part: Any, error: Exception) -> Malformed | Notice | None:
        head: Head | None
        try:
            head = self._decode_head(part)
        except _BAD:
            head = None
        if head is None or not head.kind:
            return _Unread(scrubbed(f"no message: {error}"))
        if head.kind in self.kinds:
            return self._malformed(head, error)
        if head.kind in self._unknown or len(self._unknown) >= _KINDS:
            return None
        self._unknown.add(head.kind)
        return Notice(scrubbed(f"{self.name} sends messages of an unknown kind {head.kind!r}; ignored"))

    def _malformed(self, message: Any, error: Exception) -> Malformed:
        """``message`` is a struct of this venue's, or its head."""
        kind = getattr(message, "kind", None) or getattr(message.__struct_config__, "tag", "") or "message"
        channel, symbol = self.kinds.get(kind, ""), getattr(message, "symbol", "")
        topic = self.topic(channel, self.spelling(symbol)) if channel and symbol else ""
        return Malformed(scrubbed(f"{kind}: {error}"), topic)

    def topic(self, channel: str, symbol: str) -> str:
        """The topic of the venue's channel and symbol."""
        return f"{channel}:{symbol}"


def check_message(value: Any, signed: bool = False, below: bool = False) -> None:
    """Refuse Decimals that are not finite, absurd, or negative where nothing can be; the bounds of
    :data:`~streams.venue.FloatSize` and its like say the same to the float decoder.

    Args:
        value: A message struct, or what is in it. Fields named in its ``positive`` can not be 0, those
            in its ``either`` may be negative.
        signed: Prices, the fields named in ``positive`` or ``prices``, may be anything.
        below: This one may be negative.

    Raises:
        ValueError: Such a number.
    """
    if isinstance(value, Decimal):
        if not value.is_finite() or (value < 0 and not below) or abs(value.adjusted()) > 300:
            raise ValueError(f"no number of a market: {value:.6e}")
    elif isinstance(value, (list, tuple)):
        for part in value:
            check_message(part, signed, below)
    elif isinstance(value, msgspec.Struct):
        positive: Sequence[str] = getattr(value, "positive", ())
        prices = (*positive, *getattr(value, "prices", ())) if signed else ()
        either = getattr(value, "either", ())
        for name in value.__struct_fields__:
            number = getattr(value, name)
            check_message(number, signed, name in either or name in prices)
            if name in positive and not (number or signed):
                raise ValueError(f"{name} is 0")

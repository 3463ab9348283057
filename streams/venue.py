"""The pure half of a venue: bytes in, events out, frames to send out.

A venue is a table of facts plus pure functions. It holds no socket, clock, thread or log: ``now`` is
passed in, what is to be sent is returned, and :meth:`Venue.receive` never raises. One instance
serves ONE connection (a reconnect makes a new one), and is called from one thread.

``receive`` answers with *items*, pairs ``(route, event)``: what happened, and to which
subscription. What concerns the whole conversation (a pong to send, an acknowledgement, an error
of the venue's) is an item whose route is :attr:`Venue.session` and whose event is one of the
*signals* below. Data items carry a public event of :mod:`streams.events`, or, for books, a
:class:`BookDelta`, a :class:`BookSnapshot`, or, in the place of one that can not be used, a
:class:`BookBroken`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Protocol, Union

import msgspec

from .errors import ConfigurationError, StreamsError
from .events import Event, Level, Ticker
from .symbols import SymbolStyle, native_symbol

__all__ = [
    "Acked", "BookBroken", "BookDelta", "BookSnapshot", "Failed", "FloatPrice", "FloatSize", "Item", "Limits",
    "Malformed", "Notice", "Ready", "Reconnect", "Refused", "Reply", "RestRequest", "Resync",
    "Route", "Signal", "Unsubscribed", "Venue",
]

# Wire floats. The bounds refuse NaN, infinities and negative sizes inside the C decoder, at 3 % of
# its time (measured); the same checks in Python would cost as much as the decoding.
FloatPrice = Annotated[float, msgspec.Meta(gt=0, le=1e300)]
FloatSize = Annotated[float, msgspec.Meta(ge=0, le=1e300)]


class Route:
    """One subscription: what it is for, and where its events go.

    Attributes:
        symbol: The user's spelling, the key in the store.
        channel: Channel as the user wrote it: ``book``, ``trades``, ``bars:1m``.
        native: The venue's spelling of the symbol.
        topics: The venue's names of what has to be subscribed for it. Several routes may share one.
        apply: Called with each event of this subscription. Set by the stream.
        parse: Free for the venue: its parser for this route's messages.
    """

    __slots__ = ("symbol", "channel", "native", "topics", "apply", "parse")

    def __init__(self, symbol: str, channel: str, native: str, topics: tuple[str, ...]) -> None:
        self.symbol = symbol
        self.channel = channel
        self.native = native
        self.topics = topics
        self.apply: Callable[[Any], None] = _nowhere
        self.parse: Callable[..., Any] = _nowhere

    def __repr__(self) -> str:
        return f"<Route {self.channel} of {self.symbol}: {', '.join(self.topics)}>"


def _nowhere(*_: Any) -> None:
    """Where events go before the stream has connected a route."""


class BookDelta(Protocol):
    """Changes of a book, as the book's rule wants to see them; decoded wire structs have this shape.

    Attributes:
        link: What ties it to its predecessor: its first sequence number under a *dense* rule, the
            predecessor's last under a *chained* one, 0 where there is no sequence.
        last: Sequence number of the book after it (0 where there is none).
        bids, asks: ``(price, absolute size)``; size 0 removes the level.
        time: The venue's time, in units of the venue's ``time_unit`` ns; 0 when there is none.
    """

    @property
    def link(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def bids(self) -> Sequence[Level]: ...
    @property
    def asks(self) -> Sequence[Level]: ...
    @property
    def time(self) -> int: ...


class BookSnapshot(msgspec.Struct, frozen=True):
    """A whole book. ``last`` is its sequence number (0: none), ``time`` as in :class:`BookDelta`."""

    link: ClassVar[int] = -2 << 80      # no delta is expected to link to this: the keeper looks closer

    last: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    time: int = 0


class BookBroken(msgspec.Struct, frozen=True):
    """In the place of a delta or a snapshot: what came does not fit, and the book has to be rebuilt.

    An item of the book's own route and no signal, because signals are looked at after the batch: this
    way nobody ever sees the book ``live`` in a state that the venue has disproved. To its rule it is an
    empty delta that fits nowhere.

    Attributes:
        reason: For people.
        checksum: It was the venue's checksum that differed; counted as ``checksum_failures``.
    """

    link: ClassVar[int] = -2

    reason: str
    checksum: bool = False
    last: int = 0
    bids: Sequence[Level] = ()
    asks: Sequence[Level] = ()
    time: int = 0


# -- signals: what concerns the conversation, not the market ------------------------------------


@dataclass(frozen=True)
class Ready:
    """The session is established (authenticated where needed): subscriptions may be sent."""


@dataclass(frozen=True)
class Reply:
    """A frame to send now, ahead of all pacing: a pong, a login.

    Attributes:
        secret: It holds credentials: never recorded, logged or shown.
    """

    frame: bytes | str = field(repr=False)
    secret: bool = False


@dataclass(frozen=True)
class Acked:
    """The venue confirmed these subscriptions, by topic."""

    topics: Sequence[str]


@dataclass(frozen=True)
class Unsubscribed:
    """The venue confirmed that these are no longer sent, by topic."""

    topics: Sequence[str]


@dataclass(frozen=True)
class Refused:
    """The venue refused these subscriptions.

    Attributes:
        transient: Worth trying again after a pause; else it stays refused until asked for anew.
    """

    topics: Sequence[str]
    reason: str
    transient: bool = False


@dataclass(frozen=True)
class Malformed:
    """A message that can not be understood; counted, sampled in the log, otherwise ignored.

    Attributes:
        topic: Whose message it was, when that much is known; a book it belongs to is rebuilt.
    """

    reason: str
    topic: str = ""


@dataclass(frozen=True)
class Resync:
    """The venue itself says that this subscription's book has to be rebuilt."""

    topic: str
    reason: str


@dataclass(frozen=True)
class Reconnect:
    """The venue asks for a new connection, ``after`` seconds; no fault of either side when
    ``planned``, else counted as an error and backed off."""

    reason: str
    after: float = 0.0
    planned: bool = True


@dataclass(frozen=True)
class Notice:
    """Something the venue says that is worth a count and a log line, and nothing else."""

    text: str


@dataclass(frozen=True)
class Failed:
    """Going on is pointless (wrong key, no such plan): the stream fails with this error."""

    error: StreamsError


Signal = Union[
    Ready, Reply, Acked, Unsubscribed, Refused, Malformed, Resync, Reconnect, Notice, Failed
]
Item = tuple[Route, Union[Event, BookDelta, BookSnapshot, Signal]]


# -- facts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What a venue allows, and when its silence means something.

    Attributes:
        topics: Subscriptions per connection.
        batch: Topics in one subscribe message.
        messages: ``(n, seconds)``: at most n outgoing messages in any window of that length.
        connects: ``(n, seconds)`` connection attempts, likewise.
        rest: ``(weight, seconds)`` of REST requests, likewise.
        lifetime: Seconds after which the venue ends a connection; it is replaced before that.
        ack: Seconds a subscription may stay unanswered; None where the venue does not answer.
        stale_after: Default seconds without data after which a feed counts as stale.
        heartbeat: Seconds within which the venue always says something; None where it need not.
        probe_after: Seconds of silence after which the peer is probed with a ping, and seconds it is
            given to answer.
    """

    topics: int = 100
    batch: int = 1
    messages: tuple[int, float] = (5, 1.0)
    connects: tuple[int, float] = (60, 60.0)
    rest: tuple[int, float] = (600, 60.0)
    lifetime: float | None = None
    ack: float | None = 10.0
    stale_after: float = 30.0
    heartbeat: float | None = None
    probe_after: float = 1.4


@dataclass(frozen=True)
class RestRequest:
    """A REST call: path and parameters below the venue's ``rest_url``, and its weight."""

    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    weight: int = 1


class Venue:
    """Base of every venue's pure half. A subclass is a table of facts plus the functions below.

    Class attributes (facts):
        name: The manager's name of it; ``aliases`` further ones.
        channels: Channels it has (``bars`` stands for every ``bars:<interval>``).
        intervals: Bar intervals, ours -> the venue's spelling.
        url, rest_url: Where it lives: scheme, host, port.
        carrier: Which transport: ``websocket``, ``tcp``, ``redis``, ``longpoll``.
        limits: See :class:`Limits`.
        symbol_style: How it writes symbols (:mod:`streams.symbols`).
        time_unit: Nanoseconds per unit of the times in its book messages.
        sparse: Channels whose silence means nothing (few trades is not a dead feed).
        options: Names of its own keyword options.
        joins: It has :meth:`receive_many`.
        key_env, secret_env: Environment variables that may hold the credentials; the stream reads them.

    Attributes:
        rule: Sequencing rule of its books, see :mod:`streams.book`: ``dense``, ``bridged``,
            ``chained``, ``snapshots`` or ``unsequenced``; an option may change it.
        session: The pseudo-route that signals belong to.
        routes: Routes of this connection by (channel, native symbol).

    Args:
        number: ``float`` or ``Decimal``.
        depth: Levels per side to ask for, None for the venue's default.
        api_key, api_secret: Credentials; a subclass refuses missing ones with one line.
        options: The venue's own options.

    Raises:
        ConfigurationError: An unknown option, or a value it can not take.
    """

    name: ClassVar[str] = ""
    aliases: ClassVar[tuple[str, ...]] = ()
    channels: ClassVar[tuple[str, ...]] = ("book",)
    intervals: ClassVar[Mapping[str, str]] = {}
    url: ClassVar[str] = ""
    rest_url: ClassVar[str] = ""
    carrier: ClassVar[str] = "websocket"
    limits: ClassVar[Limits] = Limits()
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle()
    time_unit: ClassVar[int] = 1_000_000
    sparse: ClassVar[frozenset[str]] = frozenset({"trades", "bars"})
    options: ClassVar[tuple[str, ...]] = ()
    joins: ClassVar[bool] = False
    key_env: ClassVar[tuple[str, ...]] = ()
    secret_env: ClassVar[tuple[str, ...]] = ()
    rule: str = "unsequenced"

    def __init__(
        self, *, number: type[float] | type[Decimal] = float, depth: int | None = None,
        api_key: str | None = None, api_secret: str | None = None, **options: Any,
    ) -> None:
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            known = ", ".join(self.options) or "none"
            raise ConfigurationError(
                f"{self.name} has no option {unknown[0]!r}; its own options are: {known}")
        self.number = number
        self.depth = depth
        self.session = Route("", "", "", ())
        self.routes: dict[tuple[str, str], Route] = {}

    # -- questions that need no connection (any thread) ----------------------------------------

    def native(self, symbol: str) -> str:
        """The venue's spelling of ``symbol`` (canonical ``BASE-QUOTE`` or already its own).

        Raises:
            ConfigurationError: It can not be a symbol of this venue.
        """
        return native_symbol(symbol, self.symbol_style, self.name)

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """The venue's names of what has to be subscribed for ``channel`` of ``native``."""
        raise NotImplementedError

    def route(self, symbol: str, channel: str) -> Route:
        """A new route for one symbol and channel, checked.

        Raises:
            ConfigurationError: No such channel, interval or symbol; the message lists what there is.
        """
        self.check_channel(channel)
        native = self.native(symbol)
        return Route(symbol, channel, native, self.topics(channel, native))

    def check_channel(self, channel: str) -> None:
        """Raises ConfigurationError unless ``channel`` is one this venue has."""
        kind, _, interval = channel.partition(":")
        if kind not in self.channels:
            have = ", ".join("bars:<interval>" if c == "bars" else c for c in self.channels)
            raise ConfigurationError(f"{self.name} has no channel {channel!r}; its channels: {have}")
        if kind == "bars" and interval not in self.intervals:
            have = ", ".join(f"bars:{i}" for i in self.intervals)
            raise ConfigurationError(f"{self.name} has no channel {channel!r}; its bars: {have}")
        if kind != "bars" and interval:
            raise ConfigurationError(f"{self.name}: channel {kind!r} takes no interval")

    def endpoint(self, channel: str) -> str:
        """Path of the endpoint that serves ``channel``; one connection serves one endpoint."""
        return ""

    def address(self, base: str, endpoint: str) -> str:
        """The complete address of an endpoint; ``base`` is :attr:`url`, or what the user put in its
        place."""
        return base + endpoint

    def headers(self) -> Mapping[str, str]:
        """Extra headers of the handshake (credentials among them)."""
        return {}

    def transport_options(self) -> Mapping[str, Any]:
        """What the transport needs to know besides the address (framing, subprotocols, ...)."""
        return {}

    # -- the conversation (network thread) ------------------------------------------------------

    def inherit(self, previous: Venue) -> None:
        """Take over what outlives a connection from the instance that served the one before: where a
        session is to be resumed, a cursor, state that can not be asked for again.

        Called once, before the first :meth:`add` and :meth:`opened`; ``previous`` is not used afterwards.
        """

    def add(self, route: Route) -> None:
        """Messages of this route may come from now on: prepare tables and ``route.parse``."""
        self.routes[route.channel, route.native] = route

    def remove(self, route: Route) -> None:
        """The opposite of :meth:`add`."""
        self.routes.pop((route.channel, route.native), None)

    def opened(self, now: int) -> Iterable[Item]:
        """The connection is up: what to say first. Ends with :class:`Ready` unless a login must
        be answered before (then ``receive`` yields it)."""
        return [(self.session, Ready())]

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """Frames that subscribe ``topics`` (at most ``limits.batch`` of them per call)."""
        raise NotImplementedError

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """Frames that unsubscribe them."""
        raise NotImplementedError

    def receive(self, raw: bytes, now: int) -> Iterable[Item]:
        """What one message says. Never raises: what can not be understood is :class:`Malformed`.

        Args:
            raw: One whole message as it came from the wire.
            now: When it was read, ns since the epoch; the ``received`` of events.
        """
        raise NotImplementedError

    def receive_many(self, messages: Sequence[bytes], now: int) -> Iterable[Item]:
        """What several messages, read at once, say together; moments between them may be left out.

        Asked of a venue that :attr:`joins`, instead of :meth:`receive`, while nobody but the store
        listens: its readers can not see those moments anyway. Never raises.
        """
        raise NotImplementedError

    def ping(self, now: int) -> Sequence[bytes | str]:
        """Frames that make a live peer answer, where the carrier has no ping of its own."""
        return ()

    def heartbeat(self, now: int) -> tuple[float, Sequence[bytes | str]] | None:
        """``(interval in seconds, frames)`` to be sent whenever nothing else was sent for that
        long; None where the venue asks for none."""
        return None

    def goodbye(self) -> Sequence[bytes | str]:
        """Frames to send before our own polite close, where the venue wants to be told."""
        return ()

    # -- whole books -----------------------------------------------------------------------------

    def refresh(self, route: Route) -> RestRequest | Sequence[bytes | str] | None:
        """How to get a whole book for ``route``: a REST call (answered through :meth:`snapshot`),
        frames to send (answered through :meth:`receive`), or None: subscribe it anew."""
        return None

    def snapshot(self, route: Route, body: bytes, now: int) -> Iterable[Item]:
        """What the REST answer to :meth:`refresh` says. Never raises, like :meth:`receive`."""
        raise NotImplementedError

    # -- REST beside the stream -----------------------------------------------------------------

    def rest_headers(self) -> Mapping[str, str]:
        """Headers of every REST call: the credentials, where there are any."""
        return {}

    def ticker_request(self, symbol: str) -> RestRequest | None:
        """The REST call that gives a ticker of ``symbol``, or None where there is none."""
        return None

    def ticker_answer(self, symbol: str, body: bytes, now: int) -> Ticker:
        """The ticker in that answer, with ``source="rest"``. Raises ValueError when there is none."""
        raise NotImplementedError

    def orderbook_request(self, symbol: str) -> RestRequest | None:
        """The REST call that gives an order book of ``symbol``, or None where there is none."""
        return None

    def orderbook_answer(self, symbol: str, body: bytes, now: int) -> BookSnapshot:
        """The book in that answer. Raises ValueError when there is none."""
        raise NotImplementedError

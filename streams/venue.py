"""The pure half of a venue: bytes in, events out, frames to send out.

A venue is a table of facts plus pure functions. It holds no socket, clock, thread or log: ``now`` is
passed in, what is to be sent is returned, and :meth:`Venue.receive` never raises. One instance
serves ONE connection (a reconnect makes a new one), and is called from one thread.

``receive`` answers with *items*, pairs ``(route, event)``: what happened, and to which
subscription. What concerns the whole conversation (a pong to send, an acknowledgement, an error
of the venue's) is an item whose route is :attr:`Venue.session` and whose event is one of the
*signals* of :mod:`streams.signals`. Data items carry a public event, or, for books, a
:class:`BookDelta` (a :class:`PackedDelta` where it is wanted), a :class:`BookSnapshot`, or, in the
place of one that can not be used, a :class:`BookBroken`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

from .errors import ConfigurationError
from .events import Ticker
from .signals import (
    Acked, Alive, BookBroken, BookDelta, BookSnapshot, Failed, FloatPrice, FloatSize, Item, Malformed,
    Notice, PackedDelta, Ready, Reconnect, Refused, Reply, Resync, Route, Signal, Unsubscribed,
)
from .symbols import SymbolStyle, native_symbol

__all__ = [
    "Acked", "Alive", "BookBroken", "BookDelta", "BookSnapshot", "Failed", "FloatPrice", "FloatSize",
    "Item", "Limits", "Malformed", "Notice", "PackedDelta", "Ready", "Reconnect", "Refused", "Reply",
    "RestRequest", "Resync", "Route", "Signal", "Unsubscribed", "Venue",
]


@dataclass(frozen=True)
class Limits:
    """What a venue allows, and when its silence means something.

    Attributes:
        topics: Subscriptions per connection.
        batch: Topics in one subscribe message.
        messages: ``(n, seconds)``: at most n outgoing messages in any window of that length.
        connects: ``(n, seconds)`` connection attempts, likewise.
        rest: ``(weight, seconds)`` of REST requests, likewise.
        stay_away: HTTP status of a refused connection -> seconds to wait, where the venue does not say it.
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
    stay_away: Mapping[int, float] = field(default_factory=lambda: {429: 30.0})
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
        rule: Sequencing rule of its books, see :mod:`streams.sequencing`: ``dense``, ``bridged``,
            ``chained``, ``snapshots`` or ``unsequenced``; an option may change it.
        packs: It can give changes of books as :class:`PackedDelta`, and does for routes that are ``packed``.
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
    packs: bool = False

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

    def batches(self, topics: Sequence[str]) -> Iterator[Sequence[str]]:
        """The same topics in runs of at most ``limits.batch``. Between two runs the venue's limit on messages
        is looked at, so one that needs many frames is to be several."""
        for start in range(0, len(topics), self.limits.batch):
            yield topics[start:start + self.limits.batch]

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """Frames that subscribe ``topics``, one of the :meth:`batches`."""
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
        """Frames that make a live peer answer, where the carrier has no ping of its own, or the venue may
        leave it unanswered."""
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

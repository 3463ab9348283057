"""What passes between a venue and the stream that drives it: routes, data, signals.

:mod:`streams.venue` says how they are used, and offers them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol, Union

import msgspec

from .errors import StreamsError
from .events import Event, Level

__all__ = [
    "Acked", "Alive", "BookBroken", "BookDelta", "BookSnapshot", "Failed", "FloatPrice", "FloatSize",
    "Item", "Malformed", "Notice", "PackedDelta", "Ready", "Reconnect", "Refused", "Reply", "Resync", "Route",
    "Signal", "Unsubscribed",
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
        packed: Its changes are to be :class:`PackedDelta`. Set by the stream, if the venue ``packs``.
        parse: Free for the venue: its parser for this route's messages.
    """

    __slots__ = ("symbol", "channel", "native", "topics", "apply", "packed", "parse")

    def __init__(self, symbol: str, channel: str, native: str, topics: tuple[str, ...]) -> None:
        self.symbol = symbol
        self.channel = channel
        self.native = native
        self.topics = topics
        self.apply: Callable[[Any], None] = _nowhere
        self.packed = False
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


class PackedDelta(Protocol):
    """A :class:`BookDelta` whose levels still stand in its message as they came: to decode and write them is
    most of what a change costs, and can wait until somebody looks.

    Attributes:
        bids, asks: The levels, packed; their size is what keeping them takes.
    """

    @property
    def link(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def bids(self) -> Sized: ...
    @property
    def asks(self) -> Sized: ...
    @property
    def time(self) -> int: ...

    def levels(self) -> tuple[Sequence[Level], Sequence[Level]]:
        """Bids and asks. Raises ValueError if they are malformed. Threads: any, holding the book's lock."""


class BookSnapshot(msgspec.Struct, frozen=True):
    """A whole book.

    Attributes:
        last: Its sequence number; 0 where there is none.
        bids, asks: ``(price, size)``.
        time: As in :class:`BookDelta`.
        limit: Levels a side that the venue gives at most, best first; of what lies beyond, it only tells
            the changes. 0: these are all there are.
        in_order: It stands in its place among the updates, so whatever came before is in it, even if its
            number is lower (the numbering has begun anew). An answer to a question may have been overtaken.
    """

    link: ClassVar[int] = -2 << 80      # no delta is expected to link to this: the keeper looks closer

    last: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    time: int = 0
    limit: int = 0
    in_order: bool = False


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
class Alive:
    """A heartbeat, a pong, an answer that nothing follows from: life, and no data."""


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
        unasked: Nothing is wrong with it but that nobody asked for it. A recording may well hold more than
            what is to be rebuilt from it.
    """

    reason: str
    topic: str = ""
    unasked: bool = False


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
    Ready, Reply, Alive, Acked, Unsubscribed, Refused, Malformed, Resync, Reconnect, Notice, Failed
]
Item = tuple[Route, Union[Event, BookDelta, PackedDelta, BookSnapshot, Signal]]

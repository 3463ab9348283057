"""What travels through Redis between a publisher and its readers: names of keys, and batches.

A *line* is one publisher from its start to its end. It numbers its *batches* 1, 2, 3, ... and sends each
twice: on the channel ``<prefix>:live:<line>`` to those who listen, and into the Redis stream
``<prefix>:log:<line>`` (entry id ``<number>-0``, bounded length), where who missed some finds them. With
nothing to say it sends an empty batch now and then, so that its silence means something.

A batch holds *groups*: what happened to one subscription, in the order in which it happened. Each
group carries a *token*, a number that rises whenever a subscription is taken over by another collector:
a reader that has seen a higher one ignores it, so that whoever was thought dead and is not does no harm.

Order books travel as whole books, and as changes that name their predecessor. Whole books are sent at
first, when anything was lost, and every few seconds; the last of each is kept in the hash
``<prefix>:books:<line>``, with the number of the batch up to which it is complete, for readers who come
later.

Everything is MessagePack; numbers are floats, or texts where the publisher has Decimals.
"""

from __future__ import annotations

from typing import Union

import msgspec

from .checks import check_name
from .events import (
    Bar, Imbalance, MarketStatus, News, Number, PriceBand, Quote, Ticker, Trade, TradeCorrection, Value,
)

__all__ = ["Batch", "Change", "Group", "Happened", "Item", "Kept", "Keys", "Marked", "Whole", "decode_batch",
           "decode_kept", "encode"]

VERSION = 2

AnyEvent = Union[Trade, TradeCorrection, Quote, Ticker, Bar, MarketStatus, PriceBand, Imbalance, Value, News]
Levels = list[tuple[Number, Number]]


class Change(msgspec.Struct, array_like=True, tag=0):
    """Changed levels of a book, see :class:`streams.venue.BookDelta`; ``time`` is in ns."""

    link: int
    last: int
    time: int
    bids: Levels
    asks: Levels


class Whole(msgspec.Struct, array_like=True, tag=1):
    """A whole book. ``stamp``: when it was updated last, ns by the collector's clock; ``status``: as in
    :class:`Marked`; ``again``: nothing has changed, it is only said once more."""

    last: int
    time: int
    stamp: int
    bids: Levels
    asks: Levels
    status: str
    again: bool


class Marked(msgspec.Struct, array_like=True, tag=2):
    """A book's status has changed: ``live``, ``syncing``, ``stale`` or ``closed``. One that is closed because
    it was unsubscribed (:data:`streams.store.GONE`) leaves the readers' stores, and is kept no longer; so do
    events of another channel, of which only that is said."""

    status: str
    reason: str


class Happened(msgspec.Struct, array_like=True, tag=3):
    """Any event that is not of a book."""

    event: AnyEvent


Item = Union[Change, Whole, Marked, Happened]


class Group(msgspec.Struct, array_like=True):
    """What happened to one subscription.

    Attributes:
        token: Who collects it: the highest is right.
        depth: Levels a side that readers shall show, 0 for all.
        sequenced: Its books have sequence numbers.
    """

    exchange: str
    symbol: str
    channel: str
    token: int
    depth: int
    sequenced: bool
    items: list[Item]


class Batch(msgspec.Struct, array_like=True):
    """One message of a line.

    Attributes:
        number: One more than that of the batch before.
        time: When it was made, ns since the epoch by the collector's clock.
        ending: The line ends here.
    """

    version: int
    line: str
    number: int
    time: int
    ending: bool
    groups: list[Group]


class Kept(msgspec.Struct, array_like=True):
    """A whole book as it is kept for newcomers: right after the batch ``number``."""

    number: int
    group: Group


class Keys:
    """Names in Redis, all of one ``prefix``."""

    def __init__(self, prefix: str) -> None:
        check_name("prefix", prefix, "streams")
        self.prefix = prefix
        self.lines = f"{prefix}:lines"              # hash: line -> who that is
        self.token = f"{prefix}:token"              # the last token given out
        self.members = f"{prefix}:members"          # set: collectors that share the work
        self.every_live = f"{prefix}:live:*"

    def live(self, line: str) -> str:
        """The channel of a line."""
        return f"{self.prefix}:live:{line}"

    def log(self, line: str) -> str:
        """The Redis stream of a line."""
        return f"{self.prefix}:log:{line}"

    def books(self, line: str) -> str:
        """The hash of a line's whole books."""
        return f"{self.prefix}:books:{line}"

    def alive(self, line: str) -> str:
        """There while the line lives."""
        return f"{self.prefix}:line:{line}"

    def member(self, name: str) -> str:
        """The lease of a collector."""
        return f"{self.prefix}:member:{name}"


def encode(what: Batch | Kept) -> bytes:
    """The bytes of a batch or a kept book. Threads: any."""
    return msgspec.msgpack.encode(what)


def decode_batch(raw: bytes) -> Batch:
    """The opposite. Threads: any.

    Raises:
        ValueError: It is no batch, or one of another version.
    """
    batch = msgspec.msgpack.decode(raw, type=Batch)
    if batch.version != VERSION:
        raise ValueError(f"a batch of version {batch.version}; this is version {VERSION}")
    return batch


def decode_kept(raw: bytes) -> Kept:
    """Likewise for a kept book."""
    return msgspec.msgpack.decode(raw, type=Kept)

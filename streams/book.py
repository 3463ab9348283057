"""Order books as users read them: like a dict, never torn, and honest about their state.

:class:`OrderBook` is the live book in ``store.orderbooks``; :class:`BookView` an immutable copy of
one moment. What writes an OrderBook, and decides whether an update fits, is in
:mod:`streams.sequencing`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .errors import ConfigurationError
from .events import Level, Number
from .levels import Side
from .locks import under_lock
from .signals import PackedDelta

__all__ = ["BookView", "OrderBook"]

FIELDS = ("bids", "asks", "last_update", "timestamp", "status", "sequence")
AGAIN = 8       # updates within which another read shows that somebody follows the book ...
WATCHED = 16    # ... and for which the best prices are followed then; beyond, looking anew is cheaper
SLACK = 128     # removed levels that may stay behind in any book, however small
ROOM = 16384    # bytes of changes that may wait to be written ...
EACH = 400      # ... of which this is what one takes besides its levels
Levels = dict[Number, Number]
Tops = tuple[tuple[Level, ...], tuple[Level, ...]]


class _Reading(Mapping[str, Any]):
    """What live books and views have in common: the derived values and the dict's manners."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return iter(FIELDS)

    def __len__(self) -> int:
        return len(FIELDS)

    @property
    def touch(self) -> tuple[Level | None, Level | None]:
        """``(best bid, best ask)`` of one moment, each ``(price, size)`` or None. Threads: any."""
        raise NotImplementedError

    @property
    def best_bid(self) -> Level | None:
        """``(price, size)`` of the best bid, None when there is none. Threads: any."""
        return self.touch[0]

    @property
    def best_ask(self) -> Level | None:
        """``(price, size)`` of the best ask, None when there is none. Threads: any."""
        return self.touch[1]

    @property
    def mid(self) -> Number | None:
        """Half-way between best bid and best ask; None unless both sides have a level."""
        bid, ask = self.touch
        return None if bid is None or ask is None else (bid[0] + ask[0]) / 2

    @property
    def spread(self) -> Number | None:
        """Best ask minus best bid; None unless both sides have a level."""
        bid, ask = self.touch
        return None if bid is None or ask is None else ask[0] - bid[0]


class BookView(_Reading):
    """An order book at one moment. Immutable, and valid without any lock. Threads: any.

    Attributes:
        exchange, symbol: Whose book it is.
        source: ``stream``, ``rest``, or the name of another provider.
    """

    __slots__ = ("exchange", "symbol", "source", "_bids", "_asks", "_rest")

    def __init__(
        self, exchange: str, symbol: str, bids: tuple[Level, ...], asks: tuple[Level, ...], *,
        last_update: int | None, timestamp: int | None, status: str, sequence: int | None,
        source: str = "stream",
    ) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.source = source
        self._bids = bids
        self._asks = asks
        self._rest = {"last_update": last_update, "timestamp": timestamp, "status": status,
                      "sequence": sequence}

    def __getitem__(self, key: str) -> Any:
        if key == "bids":
            return list(self._bids)
        if key == "asks":
            return list(self._asks)
        return self._rest[key]

    def __repr__(self) -> str:
        return f"<BookView {self.exchange} {self.symbol} {self._rest['status']} {self.touch}>"

    @property
    def touch(self) -> tuple[Level | None, Level | None]:
        return (self._bids[0] if self._bids else None), (self._asks[0] if self._asks else None)

    @property
    def age(self) -> float | None:
        """Seconds since the last update of this moment was received."""
        stamp = self._rest["last_update"]
        return None if stamp is None else (time.time_ns() - stamp) / 1e9  # type: ignore[operator]

    def depth(self, count: int) -> Tops:
        """``(bids, asks)``: the best ``count`` levels of each side, best first."""
        _check_depth(count)
        return self._bids[:count], self._asks[:count]


def _check_depth(count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ConfigurationError(f"depth({count!r}): give a number of levels, 0 or more")


class _Memo:
    """What has been worked out for the state with one stamp. Only ever filled in, never changed."""

    __slots__ = ("stamp", "depths", "view")

    def __init__(self, stamp: int | None) -> None:
        self.stamp = stamp
        self.depths: dict[int, Tops] = {}
        self.view: BookView | None = None


class OrderBook(_Reading):
    """A live order book. It reads like a dict::

        book["bids"], book["asks"]   lists of (price, size), best first
        book["last_update"]          ns since the epoch, rises with every applied update; None before
        book["timestamp"]            the exchange's own time of it, ns; None where it gives none
        book["status"]               "live", "syncing", "stale" or "closed"
        book["sequence"]             the venue's sequence number; None where it has none

    Every single read is of one moment and needs no lock. Two reads may see two moments: for both
    sides of one moment take :meth:`view`, :meth:`depth`, or hold ``store.lock``. Only a ``live``
    book is right; in every other state it is the last that was right, and may be old.

    Prices are sorted when somebody looks, and what was worked out is kept until the next
    change. For the best prices alone, ``best_bid``, ``best_ask`` and ``depth(n)`` are much cheaper than
    ``book["bids"][0]``, which sorts the whole side.

    Threads: any may read. Writing is for :class:`streams.sequencing.BookKeeper`, under ``lock``.

    Attributes:
        exchange, symbol: Whose book it is, in the user's spelling.
        stamp: Same as ``book["last_update"]``.
        limit: Number of levels, removed ones included, beyond which :meth:`purge` is due.
        status: What its keeper says of it; ``book["status"]`` knows more.
        unwritten: Changes that belong to the book, and are in ``stamp``, ``last`` and ``time``, but not
            yet in the levels: :meth:`settle` is to be called before those are looked at.
        spoilt: Why the levels are not what they should be, if one of those changes could not be written. The
            keeper will rebuild the book.
    """

    __slots__ = ("exchange", "symbol", "stamp", "status", "bids", "asks", "lock", "last", "time",
                 "watched", "limit", "unwritten", "spoilt", "_room", "_written", "_best", "_memo",
                 "_time_unit", "_sequenced", "_depth")

    def __init__(
        self, exchange: str, symbol: str, lock: threading.RLock, *,
        time_unit: int = 1_000_000, sequenced: bool = True, depth: int | None = None,
    ) -> None:
        self.exchange = exchange
        self.symbol = symbol
        self.stamp: int | None = None
        self.status = "syncing"
        self.bids = Side(bids=True)
        self.asks = Side(bids=False)
        self.lock = lock
        self.last = 0                               # of the last update applied: its number ...
        self.time = 0                               # ... and its time, both as the venue counts them
        # For so many more updates the windows are kept right. Below 0: somebody has read, and is not followed
        # yet; they are made when it happens again within so many.
        self.watched = 0
        self.limit = SLACK
        self.unwritten: list[PackedDelta] = []
        self.spoilt = ""
        self._room = ROOM
        self._written = 0, 0                        # ``last`` and ``time`` of what the levels are
        self._best: tuple[int | None, tuple[Level | None, Level | None]] = None, (None, None)
        self._memo = _Memo(None)
        self._time_unit = time_unit
        self._sequenced = sequenced
        self._depth = depth

    def __getitem__(self, key: str) -> Any:
        if key == "bids":
            return self.view()["bids"]
        if key == "asks":
            return self.view()["asks"]
        if key == "status":
            return self._status()
        if key == "last_update":
            return self.stamp
        if key == "timestamp":
            return self._timestamp()
        if key == "sequence":
            return self._sequence()
        raise KeyError(key)

    def __repr__(self) -> str:
        return f"<OrderBook {self.exchange} {self.symbol} {self._status()} {self.touch}>"

    # A view, unlike the live book, can be pickled and compared; both are Mappings, so equality with
    # a plain dict of the same six keys holds. Identity is what a live book is hashed by.
    __hash__ = object.__hash__

    def depth(self, count: int) -> Tops:
        """``(bids, asks)`` of one moment: the best ``count`` levels a side, best first. Threads: any."""
        memo = self._memo
        if memo.stamp == self.stamp:
            known = memo.depths.get(count)
            if known is not None:
                return known
        _check_depth(count)
        return self._top(count)

    def _top(self, count: int) -> Tops:
        most = count if self._depth is None else min(count, self._depth)
        memo, both, copies = self._top_or_copies(most)
        if copies is not None:
            both = self.bids.top_of(copies[0], most), self.asks.top_of(copies[1], most)
        memo.depths[count] = both
        return both

    @under_lock
    def _top_or_copies(self, count: int) -> tuple[_Memo, Tops, tuple[Levels, Levels] | None]:
        self.settle()
        if self._followed(count):
            return self._current(), (self.bids.top(count), self.asks.top(count)), None
        return self._current(), ((), ()), (self.bids.levels.copy(), self.asks.levels.copy())

    def view(self) -> BookView:
        """The whole book at this moment, immutable. Threads: any."""
        memo = self._memo
        if memo.stamp == self.stamp and memo.view is not None and memo.view["status"] == self._status():
            return memo.view
        # Sorting takes five times as long as copying, and the stream need not wait for it.
        memo, bids, asks, rest = self._copy()
        memo.view = view = BookView(
            self.exchange, self.symbol, self.bids.order(bids)[:self._depth],
            self.asks.order(asks)[:self._depth], **rest)
        return view

    @under_lock
    def _copy(self) -> tuple[_Memo, list[Level], list[Level], dict[str, Any]]:
        """All there is at this moment, the levels as they come."""
        self.settle()
        rest = {"last_update": self.stamp, "timestamp": self._timestamp(), "status": self._status(),
                "sequence": self._sequence()}
        return self._current(), list(self.bids.levels.items()), list(self.asks.levels.items()), rest

    @property
    def touch(self) -> tuple[Level | None, Level | None]:
        known = self._best
        if known[0] != self.stamp:
            lock = self.lock                        # as under_lock does, a quarter of a microsecond faster
            copies = None
            try:
                lock.acquire()
                if self.unwritten:
                    self.settle()
                stamp = self.stamp
                if self._followed(1):
                    known = self._best = stamp, (self.bids.best(), self.asks.best())
                else:
                    copies = self.bids.levels.copy(), self.asks.levels.copy()
            finally:
                try:
                    lock.release()
                except RuntimeError:
                    pass
            if copies is not None:
                known = self._best = stamp, (self.bids.best_of(copies[0]), self.asks.best_of(copies[1]))
        return known[1]

    def _current(self) -> _Memo:
        """The memo of the present state. Caller holds the lock."""
        memo = self._memo
        if memo.stamp != self.stamp:
            memo = self._memo = _Memo(self.stamp)
        return memo

    def _followed(self, count: int) -> bool:
        """Somebody reads ``count`` levels: whether the windows are right, which they are if reads come close
        upon each other. Caller holds the lock."""
        if self.watched <= 0:
            if self.watched in (0, -AGAIN):         # long ago, or at this very moment
                self.watched = -AGAIN
                return False
            self.bids.rebuild(count)
            self.asks.rebuild(count)
        self.watched = WATCHED
        return True

    def _status(self) -> str:
        """What the keeper says, if it is still true when all is written."""
        if self.unwritten:
            self._settle_alone()
        return "syncing" if self.spoilt and self.status == "live" else self.status

    def _timestamp(self) -> int | None:
        return self.time * self._time_unit if self.time else None

    def _sequence(self) -> int | None:
        return self.last if self.stamp is not None and self._sequenced else None

    def settle(self) -> None:
        """Write the changes that have waited. Threads: any, holding the lock.

        A signal handler that reads the book may do it all in the middle of this: then it is done once more,
        for the sizes are absolute. What was interrupted for good is begun anew by the next.
        """
        if not self.unwritten:
            return
        unwritten = tuple(self.unwritten)
        last, time_ = self._written
        try:
            for delta in unwritten:
                bids, asks = delta.levels()
                self.bids.levels.update(bids)
                self.asks.levels.update(asks)
                last, time_ = delta.last, delta.time
        except ValueError as error:
            self.last, self.time = last, time_
            self.spoilt = f"a malformed update: {error}"
        self.unwritten.clear()
        self._room = ROOM
        if len(self.bids.levels) + len(self.asks.levels) > self.limit:
            self.purge()

    @under_lock
    def _settle_alone(self) -> None:
        self.settle()

    # -- for the writer, which holds the lock ------------------------------------------------------

    def put_off(self, delta: PackedDelta) -> None:
        """Write a change some time; at the latest when they begin to take too much memory. Nobody follows the
        book."""
        if self.watched:
            self.watched += 1
        if not self.unwritten:
            self._written = self.last, self.time
        self.unwritten.append(delta)
        self._room -= len(delta.bids) + len(delta.asks) + EACH
        if self._room < 0:
            self.settle()

    def replace(self, bids: Iterable[Level], asks: Iterable[Level]) -> None:
        """Forget all levels; these are the whole book now."""
        self.unwritten.clear()
        self._room = ROOM
        self.spoilt = ""
        self.bids.replace(bids)
        self.asks.replace(asks)
        self.watched = 0
        self.purge()

    def purge(self) -> None:
        """Drop the removed levels that stayed behind."""
        self.bids.purge()
        self.asks.purge()
        self.limit = (len(self.bids.levels) + len(self.asks.levels)) * 3 // 2 + SLACK

    def follow(self, bids: Sequence[Level], asks: Sequence[Level]) -> None:
        """Write changes while somebody reads (``watched``)."""
        if self.watched > 0:
            self.watched -= 1
            self.bids.write(bids)
            self.asks.write(asks)
        else:
            self.watched += 1
            self.bids.levels.update(bids)
            self.asks.levels.update(asks)

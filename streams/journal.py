"""What was applied to a store, in order, for somebody who passes it on (:mod:`streams.publisher`).

A :class:`Tap` sits between routes and their sinks. Everything that a stream writes, and every change of
a book's status, is noted under the stream's own lock, at the moment when it happens: so the notes are
in exactly the order of the store, and a whole book that is noted belongs exactly between its neighbours.
The network thread only appends; the notes are taken by another thread.

Memory is bounded: a journal that is full drops what it has. From then on, and while nobody can pass
anything on, it notes no books; it begins anew with whole ones.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .bells import Doorbell
from .events import Event
from .fanout import Marked
from .sequencing import RULES, BookKeeper
from .venue import BookSnapshot, Route

if TYPE_CHECKING:
    from .book import OrderBook
    from .feed import Feed

__all__ = ["Bell", "Captured", "Journal", "Note", "Outlet", "Tap"]

Apply = Callable[[Any], None]


class Bell:
    """Wakes the one who takes the notes. Threads: any.

    Attributes:
        wanted: It sleeps, or is about to: who notes something has to ring. Who sets it looks for notes
            once more before sleeping.
    """

    __slots__ = ("wanted", "_rung")

    def __init__(self) -> None:
        self.wanted = False
        self._rung = Doorbell()

    def forked(self) -> None:
        """In a child nobody sleeps."""
        self.wanted = False
        self._rung = Doorbell()

    def ring(self) -> None:
        """Wake it."""
        self.wanted = False
        self._rung.ring()

    def sleep(self, seconds: float, awake: Callable[[], bool]) -> None:
        """Until it rings, or the time is over; not at all when ``awake()``."""
        self._rung.clear()
        self.wanted = True
        if not awake():
            self._rung.wait(max(0.0, seconds))
        self.wanted = False


class Captured(NamedTuple):
    """A whole book at its place in the order. ``again``: nothing has changed, it is only repeated."""

    last: int
    time: int
    stamp: int
    bids: list[Any]
    asks: list[Any]
    status: str
    again: bool


class Outlet:
    """Where the notes of one route go.

    Attributes:
        unit: Nanoseconds per unit of its books' times.
        book: Its order book, None for other channels.
        status: The last that was noted.
        inside: The route's apply is under way: what changes now is noted when it returns.
        closed: For the one who passes it on: the last status that it has taken is ``closed``.
        linked: For the one who passes it on: sequence number of the last change or whole book.
        repeated: Likewise: when the whole book was noted last, in monotonic seconds.
    """

    __slots__ = ("exchange", "symbol", "channel", "depth", "sequenced", "unit", "book", "status", "reason",
                 "inside", "closed", "linked", "repeated")

    def __init__(self, feed: Feed, route: Route, book: OrderBook | None) -> None:
        facts = feed.facts
        self.exchange = feed.exchange
        self.symbol = route.symbol
        self.channel = route.channel
        self.depth = facts.depth or 0
        self.sequenced = RULES[facts.rule].sequenced
        self.unit = facts.time_unit
        self.book = book
        self.status = "syncing"
        self.reason = ""
        self.inside = False
        self.closed = False
        self.linked = 0
        self.repeated = 0.0


# What: an event, a book's change as the venue decoded it, Captured, or Marked.
Note = tuple[Outlet, Any]


class Journal:
    """The notes of one stream. Threads: written under the stream's lock; taken by one other thread.

    Attributes:
        dropped: Notes that were lost for want of room, or, of books, because nobody could pass them on.
    """

    def __init__(self, feed: Feed, limit: int, bell: Bell) -> None:
        self.dropped = 0
        self._feed = weakref.ref(feed)
        self._lock = feed.writer.lock
        self._limit = limit
        self._bell = bell
        self._notes: deque[Note] = deque()
        self._outlets: dict[Route, Outlet] = {}
        self._broken = False        # of books nothing is noted until all are noted whole

    # -- the stream's side, under its lock ---------------------------------------------------------

    def wrap(self, route: Route, keeper: BookKeeper | None, apply: Apply) -> Apply:
        """What notes everything that goes through ``apply``."""
        with self._lock:
            outlet = self._outlets.get(route)
            book = None if keeper is None else keeper.book
            if outlet is None or outlet.book is not book:
                outlet = self._outlets[route] = Outlet(self._alive(), route, book)
                self._repeat(outlet, again=False)
        return self._of_events(outlet, apply) if book is None else self._of_book(outlet, book, apply)

    # The two functions below run for every message of every stream: no call that is not needed.

    def _of_events(self, outlet: Outlet, apply: Apply) -> Apply:
        notes, append, limit, bell = self._notes, self._notes.append, self._limit, self._bell

        def applied(event: Event) -> None:
            apply(event)
            if len(notes) >= limit:
                self._overflow()
            append((outlet, event))
            if bell.wanted:
                bell.ring()
        return applied

    def _of_book(self, outlet: Outlet, book: OrderBook, apply: Apply) -> Apply:
        notes, append, limit, bell = self._notes, self._notes.append, self._limit, self._bell

        def applied(delta: Any) -> None:
            before = book.stamp
            outlet.inside = True
            try:
                apply(delta)
            finally:
                outlet.inside = False
            if book.stamp != before:            # else it was held, dropped or refused
                if self._broken or len(notes) >= limit:
                    self._miss()
                elif delta.__class__ is BookSnapshot:
                    append((outlet, _capture(book)))
                    outlet.status = book.status
                else:
                    append((outlet, delta))
                    outlet.status = "live"      # which is what a change means to a reader
                if bell.wanted:
                    bell.ring()
            if book.status != outlet.status:
                self.mark(outlet, book.status, outlet.reason)
        return applied

    def changed(self, route: Route, status: str, reason: str) -> None:
        """A book's status has changed; or, of another channel, nobody wants it any more."""
        outlet = self._outlets.get(route)
        if outlet is None:
            return
        outlet.reason = reason
        if outlet.book is None:
            if len(self._notes) >= self._limit:
                self._overflow()
            self._note(outlet, Marked(status, reason))
        elif not outlet.inside:
            self.mark(outlet, status, reason)

    def mark(self, outlet: Outlet, status: str, reason: str) -> None:
        """Note a status."""
        if status != outlet.status:
            outlet.status = status
            if self._broken or len(self._notes) >= self._limit:
                self._miss()
            else:
                self._note(outlet, Marked(status, reason))

    def _note(self, outlet: Outlet, what: Any) -> None:
        self._notes.append((outlet, what))
        if self._bell.wanted:
            self._bell.ring()

    def _miss(self) -> None:
        """Something of a book that is not noted."""
        if not self._broken:
            self._overflow()
        self.dropped += 1

    def _overflow(self) -> None:
        self.dropped += len(self._notes)
        self._notes.clear()
        self._broken = True

    def _repeat(self, outlet: Outlet, again: bool) -> None:
        """Note the whole book, if there is any. One that has ended says nothing more: another stream may have
        the symbol by now."""
        book = outlet.book
        if book is not None and book.stamp is not None and not (outlet.closed or self._broken):
            self._note(outlet, _capture(book, again))
            outlet.status = book.status
            if book.status == "closed":
                self._note(outlet, Marked("closed", outlet.reason))     # and why

    # -- the other thread's side ---------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """The stream is gone, and everything has been taken."""
        return self._feed() is None and not (self._notes or self._broken)

    def take(self) -> Iterator[Note]:
        """What has been noted so far, oldest first."""
        if self._broken:
            self.repeat_all()
        notes = self._notes
        try:
            for _ in range(len(notes)):
                yield notes.popleft()
        except IndexError:
            pass    # it has overflown meanwhile

    def outlets(self) -> list[Outlet]:
        """The routes that there are now, and those whose end has not been passed on yet."""
        feed = self._feed()
        with self._lock:
            if feed is not None:
                self._outlets = {
                    route: outlet for route, outlet in self._outlets.items()
                    if route in feed.sinks or not (outlet.book is None or outlet.closed)}
            return list(self._outlets.values())

    @property
    def waiting(self) -> int:
        """How many notes there are to take."""
        return len(self._notes)

    def repeat(self, outlet: Outlet, again: bool = True) -> None:
        """Note the whole book, as it is now."""
        with self._lock:
            self._repeat(outlet, again)

    def drop_books(self) -> None:
        """Nobody can pass anything on: drop what is noted of books, and note no more of them. The next
        :meth:`take` begins with whole ones."""
        with self._lock:
            self._broken = True
            others = [note for note in self._notes if note[0].book is None]
            self.dropped += len(self._notes) - len(others)
            self._notes.clear()
            self._notes.extend(others)

    def repeat_all(self) -> None:
        """Note all books as they are now."""
        with self._lock:
            self._broken = False
            for outlet in self._outlets.values():
                self._repeat(outlet, again=False)

    def _alive(self) -> Feed:
        feed = self._feed()
        assert feed is not None
        return feed


class Tap:
    """The journals of all streams of a manager. Threads: any.

    Args:
        limit: Notes of one stream that may wait.
    """

    def __init__(self, limit: int) -> None:
        self.bell = Bell()
        self._limit = limit
        # No lock: each step below is one of the dict's own. A signal handler may stop everything, and so
        # come here, while the thread that it has interrupted is here.
        self._journals: dict[weakref.ref[Feed], Journal] = {}

    def wrap(self, feed: Feed, route: Route, apply: Apply) -> Apply:
        """What notes everything that goes through ``apply``. Threads: the feed's."""
        key = weakref.ref(feed)
        journal = self._journals.get(key)
        if journal is None:
            journal = self._journals[key] = Journal(feed, self._limit, self.bell)
        return journal.wrap(route, feed.keepers.get(route), apply)

    def changed(self, feed: Feed, route: Route, status: str, reason: str) -> None:
        """See :meth:`Journal.changed`. Threads: the feed's, holding its lock."""
        journal = self._journals.get(weakref.ref(feed))
        if journal is not None:
            journal.changed(route, status, reason)

    def journals(self) -> list[Journal]:
        """All that may have something to take."""
        for key, journal in list(self._journals.items()):
            if journal.over:
                self._journals.pop(key, None)
        return list(self._journals.values())


def _capture(book: OrderBook, again: bool = False) -> Captured:
    """The levels of a book. The caller holds its lock."""
    return Captured(
        book.last, book.time, book.stamp or 0, [level for level in book.bids.levels.items() if level[1]],
        [level for level in book.asks.levels.items() if level[1]], book.status, again)

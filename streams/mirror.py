"""Copies of order books that somebody else keeps (:mod:`streams.publisher`).

The sequencing rules of venues were applied where the book is kept; a copy has only to be sure that it
misses nothing: each change names the number of its predecessor.
"""

from __future__ import annotations

from collections.abc import Callable

from .book import OrderBook
from .fanout import Change, Whole
from .sequencing import Clock

__all__ = ["Mirror"]


class Mirror:
    """Writes one copy. Threads: one, holding the book's lock.

    Args:
        book: The copy.
        clock: Of its writer.
        changed: Called as ``changed(book, status, reason)`` after each change of status.
    """

    __slots__ = ("book", "_clock", "_changed", "_linked", "_complete", "_said", "_unheard")

    def __init__(self, book: OrderBook, clock: Clock, changed: Callable[[OrderBook, str, str], None]) -> None:
        self.book = book
        self._clock = clock
        self._changed = changed
        self._linked = 0            # number of the last change, or of the whole book
        self._complete = False      # nothing is missing: the next change may follow
        self._said = book.status    # what its keeper says
        self._unheard = ""          # why nothing is heard of its keeper: what it calls live is stale

    def whole(self, whole: Whole) -> None:
        """Take a whole book. It is as old as its keeper says, at most as young as the clock."""
        book, clock = self.book, self._clock
        if whole.again and self._complete:
            return
        book.replace(whole.bids, whole.asks)
        book.last, book.time = whole.last, whole.time
        self._linked, self._complete = whole.last, whole.status in ("live", "stale")
        clock.tick()
        book.stamp = max(min(whole.stamp, clock.now), (book.stamp or 0) + 1)
        self._say(whole.status, "as its keeper says")

    def change(self, change: Change) -> bool:
        """Take a change. False when it does not follow the one before; one that comes while a whole
        book is awaited is of no use."""
        if change.link != self._linked and self._complete:
            return False
        if not self._complete:
            return True
        book = self.book
        bids, asks = book.bids.levels, book.asks.levels
        if book.watched:
            book.follow(change.bids, change.asks)
        else:
            bids.update(change.bids)
            asks.update(change.asks)
        if len(bids) + len(asks) > book.limit:
            book.purge()
        book.last = self._linked = change.last
        book.time = change.time
        book.stamp = self._clock.tick()
        if self._said != "live":
            self._say("live", "data again")
        return True

    def mark(self, status: str, reason: str) -> None:
        """The one who keeps the book says what it is."""
        if status in ("syncing", "closed"):
            self._complete = False
        if status != "live" or self._complete:
            self._say(status, reason)

    def lose(self, status: str, reason: str) -> None:
        """Nothing can follow but a whole book."""
        self._complete = False
        self._say(status, reason)

    def silent(self, reason: str) -> None:
        """Nothing is heard of the one who keeps it: it is not live, whatever comes, until that ends."""
        self._unheard = reason
        self._show(reason)

    def heard(self) -> None:
        """Its keeper is heard of, and nothing was missed."""
        self._unheard = ""
        self._show("heard of again")

    def _say(self, status: str, reason: str) -> None:
        self._said = status
        self._show(reason)

    def _show(self, reason: str) -> None:
        status = self._said
        if status == "live" and self._unheard:
            status, reason = "stale", self._unheard
        if status != self.book.status:
            self.book.status = status
            self._changed(self.book, status, reason)

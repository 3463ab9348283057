"""Which update fits onto which book: the sequencing rules of all venues, once.

A :class:`BookKeeper` writes one :class:`~streams.book.OrderBook`. House rules:
 * A book is ``live`` only while every update since its snapshot has been applied, in order.
 * Anything else makes it ``syncing``, with the levels of the last right moment still readable, until
   a snapshot and the updates kept since bridge the hole.
 * Everything here happens in the network thread, under the book's lock; nothing blocks.
 * Where there are many books, a delta may come packed (:class:`~streams.venue.PackedDelta`): whether it
   fits is decided at once, and its levels are written when somebody looks. Nothing waits in a book that is
   not live.
 * Updates from long before a snapshot is asked for are in it: they are not kept, for the venue's limit
   may have hundreds of books wait for minutes until they may ask.

The rules differ in what a delta's ``link`` is and in how a snapshot is bridged:

============== ============================== ==============================================
rule           ``link`` of a delta            first delta after a snapshot with number S
============== ============================== ==============================================
dense          its own first number           link <= S + 1 <= last   (Binance spot)
bridged        last number of predecessor     link <= S <= last       (Binance futures)
chained        last number of predecessor     link == S               (Huobi mbp)
unsequenced    0                              any
snapshots      (there are no deltas)          --
============== ============================== ==============================================
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .book import OrderBook
from .events import Level, Number
from .venue import BookBroken, BookDelta, BookSnapshot, PackedDelta, Route

__all__ = ["BookKeeper", "Clock", "RULES", "Rule"]

FEW_HELD = 200      # deltas kept until a snapshot is asked for: it may be a little older than the question
MAX_HELD = 5000     # deltas kept from then on, until it comes
_NEVER = -1 << 80    # no delta links to this: sends every delta down the slow path
MAX_REPEATS = 32    # updates in a row that a live book knows already: more, and the numbering began anew


class Rule(NamedTuple):
    """One way of numbering updates.

    Attributes:
        step: What to add to a delta's ``last`` to get the ``link`` of its successor.
        bridges: Whether a delta ``(link, last)`` may be the first after a snapshot with number S.
        sequenced: Whether there are numbers at all.
    """

    step: int
    bridges: Callable[[int, int, int], bool]
    sequenced: bool = True


RULES: dict[str, Rule] = {
    "dense": Rule(1, lambda link, last, s: link <= s + 1 <= last),
    "bridged": Rule(0, lambda link, last, s: link <= s <= last),
    "chained": Rule(0, lambda link, last, s: link == s),
    "snapshots": Rule(0, lambda link, last, s: False),
    "unsequenced": Rule(0, lambda link, last, s: True, sequenced=False),
}


class _Unpacked(NamedTuple):
    """A :class:`BookDelta` that came packed."""

    link: int
    last: int
    bids: Sequence[Level]
    asks: Sequence[Level]
    time: int


class Clock:
    """The time of one writer: ``now`` is set once per read of the socket, ``stamp`` rises with every
    applied update. Threads: one writer; reading ``stamp`` is safe from any."""

    __slots__ = ("now", "stamp")

    def __init__(self) -> None:
        self.now = 0
        self.stamp = 0

    def tick(self) -> int:
        """The stamp of the next applied update: the time, or one more than the last."""
        self.stamp = stamp = max(self.now, self.stamp + 1)
        return stamp


class BookKeeper:
    """Writes one book, and knows whether it is right.

    Args:
        book: The book to write.
        route: The subscription it belongs to.
        rule: Name of a rule above.
        clock: Of the stream that feeds it.
        changed: Called as ``changed(keeper, status, reason)`` after each change of status.
        lost: Called as ``lost(keeper, reason, expected, got)`` when a new snapshot is needed; the numbers are
            None unless it was a gap in the sequence.
        count: Called with the name of a counter: ``checksum_failures``, ``malformed``.

    Attributes:
        asked: A snapshot has been asked for, and every update may be needed until it comes. Set by who
            asks; threads: any.
    """

    __slots__ = ("book", "route", "clock", "expect", "sends_deltas", "asked", "_rule", "_step", "_bid_levels",
                 "_ask_levels", "_held", "_last", "_resume", "_bridging",
                 "_repeats", "_changed", "_lost", "_count", "_marks", "_born_crossed", "_suspect")

    def __init__(
        self, book: OrderBook, route: Route, rule: str, clock: Clock,
        changed: Callable[[BookKeeper, str, str], None],
        lost: Callable[[BookKeeper, str, int | None, int | None], None],
        count: Callable[[str], None],
    ) -> None:
        self.book = book
        self.route = route
        self.clock = clock
        self.expect = _NEVER            # link of the delta that fits; _NEVER unless live
        self.sends_deltas = rule != "snapshots"
        self.asked = False
        self._rule = RULES[rule]
        self._step = self._rule.step
        self._bid_levels = book.bids.levels
        self._ask_levels = book.asks.levels
        self._held: deque[BookDelta] = deque()
        self._last = 0                  # sequence number of the last snapshot
        self._resume = _NEVER           # what ``expect`` was before the book was marked stale
        self._bridging = False          # a snapshot is in, its first delta is not
        self._repeats = (_NEVER, 0)     # how many old updates in a row, and what was expected instead
        self._marks: tuple[Number | None, Number | None] = None, None   # see outrun
        self._born_crossed = False      # the venue's own book is: that of several markets may be
        self._suspect = False           # it was crossed at the last look
        self._changed = changed
        self._lost = lost
        self._count = count

    @property
    def ready(self) -> bool:
        """Whether the book is live."""
        return self.book.status == "live"

    @property
    def last(self) -> int:
        """Stamp of the last update, 0 before the first."""
        return self.book.stamp or 0

    def apply(self, delta: BookDelta | BookSnapshot) -> None:
        """Apply one delta or snapshot, or hold, drop or refuse it. The hot path: design section 4."""
        if delta.link != self.expect:
            self._irregular(delta)
            return
        book = self.book
        bids, asks = self._bid_levels, self._ask_levels
        if book.watched:
            book.follow(delta.bids, delta.asks)
        else:
            bids.update(delta.bids)
            asks.update(delta.asks)
        if len(bids) + len(asks) > book.limit:
            book.purge()
        book.last = last = delta.last
        book.time = delta.time
        self.expect = last + self._step
        clock = self.clock
        now = clock.now
        # The stamp is written last: a reader who sees the old one without the lock gets the memo of
        # the old state, which is whole.
        stamp = clock.stamp
        clock.stamp = book.stamp = now if now > stamp else stamp + 1

    def put_off(self, delta: PackedDelta | BookSnapshot | BookBroken) -> None:
        """Take one whose levels are packed. If it fits, and nobody follows the book, it is applied but for
        writing the levels, which waits until somebody looks."""
        book = self.book
        if delta.link != self.expect or book.watched > 0 or book.spoilt:
            self._unpack(delta)
            return
        book.put_off(delta)             # type: ignore[arg-type]    # what fits is a delta
        if book.spoilt:                 # there were too many, and one of them can not be written
            self.settle()
            return
        # As in apply, where the call of a function would cost more than this.
        book.last = last = delta.last
        book.time = delta.time
        self.expect = last + self._step
        clock = self.clock
        now = clock.now
        stamp = clock.stamp
        clock.stamp = book.stamp = now if now > stamp else stamp + 1

    def _unpack(self, delta: PackedDelta | BookSnapshot | BookBroken) -> None:
        """Take it as if it had come decoded, which it is now."""
        self.settle()
        if isinstance(delta, (BookSnapshot, BookBroken)):
            self.apply(delta)
            return
        try:
            bids, asks = delta.levels()
        except ValueError as error:
            self._count("malformed")
            if self.ready:
                self.lose(f"a malformed update: {error}")
        else:
            self.apply(_Unpacked(delta.link, delta.last, bids, asks, delta.time))

    def settle(self) -> None:
        """Have all levels written. If that is not possible, the book is lost."""
        self.book.settle()
        if self.book.spoilt:
            self.lose(self.book.spoilt)

    def _irregular(self, delta: BookDelta | BookSnapshot) -> None:
        """Not the delta that is expected next: decide what it means."""
        status = self.book.status
        if isinstance(delta, BookSnapshot):
            self.snapshot(delta) if self.sends_deltas else self._whole(delta)
        elif isinstance(delta, BookBroken):
            self._held.clear()
            if delta.checksum:
                self._count("checksum_failures")
            self.lose(delta.reason)
        elif status == "stale" and self._resume != _NEVER:
            self._go_on(delta)
        elif self._bridging:
            self._bridge(delta)
        elif status != "live":
            self._hold(delta)
        elif delta.last <= self.expect - self._step:
            self._repeated()
        elif self._step and delta.link < self.expect:
            self.expect = delta.link                # dense: overlaps what is known; sizes are absolute
            self.apply(delta)
        else:
            expected, got = self.expect, delta.link
            self._held.clear()
            self._held.append(delta)
            self.lose(f"gap: expected {expected}, got {got}", expected, got)

    def _hold(self, delta: BookDelta) -> None:
        """Keep it for the snapshot that is to come."""
        held = self._held
        held.append(delta)
        bound = MAX_HELD if self.asked else FEW_HELD
        while len(held) > bound:
            held.popleft()

    def _repeated(self) -> None:
        """An update that is in the book already."""
        if self._anew(self.expect):
            self.lose(f"{MAX_REPEATS} updates older than the book: their numbering has begun anew")

    def _anew(self, known: int) -> bool:
        """One more that is older than what is ``known``: whether there were too many in a row."""
        count = self._repeats[1] if self._repeats[0] == known else 0
        self._repeats = known, count + 1
        return count >= MAX_REPEATS

    def _go_on(self, delta: BookDelta) -> None:
        """Data again, after a silence: the book goes on if nothing is missing."""
        expect, self._resume = self._resume, _NEVER
        if delta.link == expect:
            self._set("live", "data again")
            self.expect = expect
            self.apply(delta)
        else:
            self._held.clear()
            self._held.append(delta)
            self.lose(f"gap: expected {expect}, got {delta.link}", expect, delta.link)

    def _bridge(self, delta: BookDelta) -> None:
        """The first delta that may follow the snapshot."""
        if self._rule.bridges(delta.link, delta.last, self._last):
            self._bridging = False
            self._set("live", "data again")         # it may have been marked stale meanwhile
            self.expect = delta.link
            self.apply(delta)
        elif delta.last > self._last:
            self._bridging = False
            self._held.append(delta)
            expected = self._last + self._step
            self.lose(f"gap after snapshot {self._last}: got {delta.link}", expected, delta.link)

    def snapshot(self, snapshot: BookSnapshot) -> None:
        """Take a whole book. One that is older than the updates held is refused, and another asked
        for; otherwise the book is live, with all updates held since applied."""
        self.asked = False
        if snapshot.in_order:
            self._held.clear()
        elif self.book.status == "live" and self._rule.sequenced and snapshot.last <= self.book.last:
            return                              # a second answer, overtaken: the book is further on
        first = next((d for d in self._held if d.last > snapshot.last), None)
        if (first is not None and self._rule.sequenced
                and not self._rule.bridges(first.link, first.last, snapshot.last)):
            self._lost(self, f"snapshot {snapshot.last} is too old for update {first.link}", None, None)
            return
        self._write_whole(snapshot)
        self._last = snapshot.last
        held, self._held = self._held, deque()
        if self._rule.sequenced:
            self._bridging, self.expect = True, _NEVER
        else:
            self.expect = 0
            held.clear()                        # without numbers nothing tells which of them are newer
        self._resume = _NEVER
        self._set("live", "")
        for delta in held:
            self.apply(delta)

    def _whole(self, snapshot: BookSnapshot) -> None:
        """Take a whole book of a feed that sends nothing else; older ones are dropped."""
        live = self.book.status == "live"
        older = snapshot.last and snapshot.last < self._last and not snapshot.in_order
        if live and older and not self._anew(self._last):
            return
        self._write_whole(snapshot)
        self._last = snapshot.last
        if not live:
            self._set("live", "")

    def _write_whole(self, snapshot: BookSnapshot) -> None:
        self.book.replace(snapshot.bids, snapshot.asks)
        self.book.last = snapshot.last
        self.book.time = snapshot.time
        self.book.stamp = self.clock.tick()
        self._marks = _mark(snapshot.bids, snapshot.limit), _mark(snapshot.asks, snapshot.limit)
        self._suspect = False
        self._born_crossed = not self._rule.sequenced and self._is_crossed()

    def look(self) -> None:
        """Lose the book if it shows that it is wrong."""
        if self.book.spoilt:
            self.settle()
        elif self.outrun():
            self.lose("the price has left what the snapshot told of")
        elif self.crossed():
            self.lose("it is crossed, so an update was lost")

    def outrun(self) -> bool:
        """Whether the price has left what the last snapshot told of: on one side, the better three quarters
        of it are gone. What lies beyond its last level the venue has never told."""
        bid, ask = self._marks
        return self.ready and not (
            (bid is None or self.book.bids.reaches(bid)) and (ask is None or self.book.asks.reaches(ask)))

    def crossed(self) -> bool:
        """Whether the best bid is above the best ask for the second look running, in a book that did not
        begin so. Where updates have no numbers, that is how a lost one shows."""
        if not self.ready or self._rule.sequenced or self._born_crossed:
            return False
        before, self._suspect = self._suspect, self._is_crossed()
        return before and self._suspect

    def _is_crossed(self) -> bool:
        bid, ask = self.book.bids.best_of(self._bid_levels), self.book.asks.best_of(self._ask_levels)
        return bid is not None and ask is not None and bid[0] > ask[0]

    def lose(self, reason: str, expected: int | None = None, got: int | None = None) -> None:
        """The book can not be trusted any more: ``syncing`` until a snapshot comes."""
        self._halt("syncing", reason)
        self._lost(self, reason, expected, got)

    def disconnected(self, status: str, reason: str) -> None:
        """The connection is gone (``stale``), or will not come back (``closed``): nothing that was
        held is of use, and nothing can follow but a snapshot."""
        self._held.clear()
        self._halt(status, reason)

    def _halt(self, status: str, reason: str) -> None:
        """Nothing fits any more; what has fitted is written."""
        book = self.book
        self.expect = self._resume = _NEVER
        self._bridging = False
        book.settle()
        self._set(status, reason)
        if book.spoilt:
            book.spoilt = ""
            self._count("malformed")

    def connected(self) -> None:
        """A new connection: updates may come, and are held until the snapshot does."""
        self.asked = False
        self._set("syncing", "connected")

    def silent(self, reason: str) -> None:
        """Connected, but nothing has come for too long: ``stale`` until the next update."""
        self.settle()
        if self.ready:
            self._resume, self.expect = self.expect, _NEVER
            self._set("stale", reason)

    def _set(self, status: str, reason: str) -> None:
        if status != self.book.status:
            self.book.status = status
            self._changed(self, status, reason)


def _mark(levels: Sequence[Level], limit: int) -> Number | None:
    """The price after three quarters of a side; None if the side is whole."""
    return levels[len(levels) * 3 // 4][0] if limit and len(levels) >= limit else None

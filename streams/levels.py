"""The price levels of one side of a book: cheap to write, sorted when somebody looks.

Writing is ``levels.update(changes)`` and nothing else: one C call for all levels of a message (half
the cost of a Python loop, measured). A removed level stays behind with size 0 until the next
:meth:`Side.purge`. The best levels are known as a *window*: a set of all prices better than its edge,
followed only while somebody reads. A change outside costs one comparison, one inside an ``add`` or a
``discard``; the best price is the ``max`` of a dozen. (A sorted list of them cost three times that.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .events import Level, Number

__all__ = ["Side"]

_EVERYTHING = float("inf")
NARROW = 6      # best prices kept in order after a rebuild, at least
SLACK = 64      # removed levels that may stay behind in any book, however small


class Side:
    """One side of one book. Threads: the caller holds the book's lock.

    Attributes:
        levels: price -> size, removed levels included (size 0).
        limit: Number of entries in ``levels`` beyond which :meth:`purge` is due.
    """

    __slots__ = ("levels", "limit", "_bids", "_window", "_edge", "_whole", "_width",
                 "_widest")

    def __init__(self, bids: bool) -> None:
        self.levels: dict[Number, Number] = {}
        self.limit = SLACK
        self._bids = bids
        self._window: set[Number] = set()
        self._edge: Number = 0.0                # the worst price the window speaks of
        self._whole = False                     # the window holds every level there is
        self._width = NARROW                    # after a rebuild: as wide as readers need it
        self._widest = 3 * NARROW               # a wider one is not worth following

    def replace(self, levels: Iterable[Level]) -> None:
        """Forget everything; ``levels`` is the whole side now."""
        self.levels.clear()
        self.levels.update(levels)
        self.purge()

    def purge(self) -> None:
        """Drop the removed levels that stayed behind."""
        levels = self.levels
        for price in [price for price, size in levels.items() if not size]:
            del levels[price]
        self.limit = len(levels) + len(levels) // 2 + SLACK

    def rebuild(self) -> None:
        """Sort anew, and let the window be as many of the best prices as readers need."""
        prices = sorted([price for price, size in self.levels.items() if size], reverse=self._bids)
        self._whole = len(prices) <= self._width
        del prices[self._width:]
        self._window = set(prices)
        if self._whole:
            self._edge = -_EVERYTHING if self._bids else _EVERYTHING
        else:
            self._edge = prices[-1]

    def follow(self, changes: Sequence[Level]) -> None:
        """Take note of changes that were written to ``levels`` since the window was last right."""
        window, edge = self._window, self._edge
        if self._bids:
            for price, size in changes:
                if price >= edge:
                    if size:
                        window.add(price)
                    else:
                        window.discard(price)
        else:
            for price, size in changes:
                if price <= edge:
                    if size:
                        window.add(price)
                    else:
                        window.discard(price)

    def best(self) -> Level | None:
        """The best level, None when the side is empty. The window must be up to date."""
        window = self._window
        if not window or len(window) > self._widest:
            self.rebuild()
            window = self._window
            if not window:
                return None
        price = max(window) if self._bids else min(window)
        return price, self.levels[price]

    def top(self, count: int) -> tuple[Level, ...]:
        """The best ``count`` levels, best first. The window must be up to date."""
        if len(self._window) < count and not self._whole:
            self._width = max(self._width, 2 * count)
            self._widest = 3 * self._width
            self.rebuild()
        levels = self.levels
        return tuple([(price, levels[price]) for price in sorted(self._window, reverse=self._bids)[:count]])

    def sorted(self) -> tuple[Level, ...]:
        """Every level, best first."""
        return tuple(sorted([level for level in self.levels.items() if level[1]], reverse=self._bids))

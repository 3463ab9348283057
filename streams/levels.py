"""The price levels of one side of a book: cheap to write, sorted when somebody looks.

Writing is ``levels.update(changes)`` and nothing else: one C call for all levels of a message (half
the cost of a Python loop, measured). A removed level stays behind with size 0 until the next
:meth:`Side.purge`. Order is kept for a *window* of the best levels only, and only while
somebody reads: changes worse than the window's edge cost one comparison.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from .events import Level, Number

__all__ = ["Side"]

WINDOW = 32     # best prices kept in order after a rebuild
WIDEST = 128    # a window grown beyond this is cut back
SLACK = 64      # removed levels that may stay behind in any book, however small


class Side:
    """One side of one book. Threads: the caller holds the book's lock.

    Attributes:
        levels: price -> size, removed levels included (size 0).
        limit: Number of entries in ``levels`` beyond which :meth:`purge` is due.
    """

    __slots__ = ("levels", "limit", "_bids", "_window", "_edge", "_whole")

    def __init__(self, bids: bool) -> None:
        self.levels: dict[Number, Number] = {}
        self.limit = SLACK
        self._bids = bids
        self._window: list[Number] = []      # ascending, whichever side it is
        self._edge: Number = 0.0             # the worst price the window speaks of
        self._whole = False                  # the window holds every level there is

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
        self.limit = len(levels) + len(levels) // 4 + SLACK

    def rebuild(self, size: int = WINDOW) -> None:
        """Sort anew, and keep the best ``size`` prices in order."""
        prices = sorted(price for price, amount in self.levels.items() if amount)
        self._whole = len(prices) <= size
        self._window = prices if self._whole else prices[-size:] if self._bids else prices[:size]
        self._set_edge()

    def replay(self, changes: Sequence[Level]) -> None:
        """Follow changes that were written to ``levels`` since the window was last right."""
        window, edge = self._window, self._edge
        for price, size in changes:
            if (price < edge if self._bids else price > edge) and not self._whole:
                continue
            at = bisect_left(window, price)
            if at < len(window) and window[at] == price:
                if not size:
                    del window[at]
            elif size:
                window.insert(at, price)
        if len(window) > WIDEST:
            self._whole = False
            self._window = window[-WINDOW:] if self._bids else window[:WINDOW]
            self._set_edge()

    def _set_edge(self) -> None:
        if self._window:
            self._edge = self._window[0] if self._bids else self._window[-1]

    def best(self) -> Level | None:
        """The best level, None when the side is empty. The window must be up to date."""
        if not self._window and not self._whole:
            self.rebuild()
        if not self._window:
            return None
        price = self._window[-1 if self._bids else 0]
        return price, self.levels[price]

    def top(self, count: int) -> tuple[Level, ...]:
        """The best ``count`` levels, best first. The window must be up to date."""
        if len(self._window) < count and not self._whole:
            self.rebuild(max(count + count // 2, WINDOW))
        levels = self.levels
        prices = self._window[:-count - 1:-1] if self._bids else self._window[:count]
        return tuple([(price, levels[price]) for price in prices])

    def sorted(self) -> tuple[Level, ...]:
        """Every level, best first."""
        return tuple(sorted([level for level in self.levels.items() if level[1]], reverse=self._bids))

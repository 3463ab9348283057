"""The price levels of one side of a book: cheap to write, sorted when somebody looks.

While nobody reads, writing is ``levels.update(changes)`` and nothing else: one C call for all levels
of a message (half the cost of a Python loop, measured). A removed level stays behind with size 0
until the next :meth:`Side.purge`. While somebody reads, :meth:`Side.write` keeps up a *window* too: a set
of all prices better than its edge, and the best of them. A change outside costs one comparison, one
inside an ``add`` or a ``discard``; when the best level goes, the next is the ``max`` of a dozen. (Measured
beside it, per message of 10+10 levels: a sorted list of the best three times that; noting the changes
and following them at the next read 0.4 us more; a ``max`` at each read 0.3 us more.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress

from .events import Level, Number

__all__ = ["Side"]

_EVERYTHING = float("inf")
NARROW = 6      # best prices in a window that was built anew, at least


class Side:
    """One side of one book. Threads: the caller holds the book's lock.

    Attributes:
        levels: price -> size, removed levels included (size 0).
    """

    __slots__ = ("levels", "_bids", "_window", "_edge", "_whole", "_width", "_best",
                 "_unknown")

    def __init__(self, bids: bool) -> None:
        self.levels: dict[Number, Number] = {}
        self._bids = bids
        self._window: set[Number] = set()
        self._edge: Number = 0.0                # the worst price the window speaks of
        self._whole = False                     # the window holds every level there is
        self._width = NARROW                    # of the window when it was built: as readers need it
        self._unknown = _EVERYTHING if bids else -_EVERYTHING       # no price is better than that
        self._best: Number = self._unknown      # the best price; unknown after its level has gone

    def replace(self, levels: Iterable[Level]) -> None:
        """Forget everything; ``levels`` is the whole side now."""
        self.levels.clear()
        self.levels.update(levels)

    def purge(self) -> None:
        """Drop the removed levels that stayed behind."""
        levels = self.levels
        for price in [price for price, size in levels.items() if not size]:
            levels.pop(price, None)         # a signal handler that reads may have been here meanwhile

    def reaches(self, price: Number) -> bool:
        """Whether there is a level of that price, or a better one."""
        if self._bids:
            return any(size and at >= price for at, size in self.levels.items())
        return any(size and at <= price for at, size in self.levels.items())

    def rebuild(self, count: int) -> None:
        """Sort anew; the window is twice as wide as the ``count`` levels that somebody wants."""
        width = max(NARROW, 2 * count)
        prices = sorted([price for price, size in self.levels.items() if size], reverse=self._bids)
        self._frame(prices[:width], width, len(prices) <= width)

    def _narrow(self) -> None:
        """Make a window smaller that has grown; smaller than it was built, for readers may be gone."""
        width = max(NARROW, self._width // 2)
        self._frame(sorted(self._window, reverse=self._bids)[:width], width, False)

    def _frame(self, prices: list[Number], width: int, whole: bool) -> None:
        """The window is these prices now, best first."""
        window = set(prices)
        edge = -self._unknown if whole else prices[-1]
        best = prices[0] if prices else self._unknown
        # A signal handler may raise wherever something is called: between these, nothing is.
        self._window, self._edge, self._best, self._width, self._whole = window, edge, best, width, whole

    def write(self, changes: Sequence[Level]) -> None:
        """Write changes to ``levels``, and keep the window right. It must have been."""
        levels, window, edge, best = self.levels, self._window, self._edge, self._best
        if self._bids:
            for price, size in changes:
                levels[price] = size
                if price >= edge:
                    if size:
                        window.add(price)
                        if price > best:
                            best = price
                    else:
                        window.discard(price)
                        if price == best:
                            best = self._unknown
        else:
            for price, size in changes:
                levels[price] = size
                if price <= edge:
                    if size:
                        window.add(price)
                        if price < best:
                            best = price
                    else:
                        window.discard(price)
                        if price == best:
                            best = self._unknown
        self._best = best

    def best(self) -> Level | None:
        """The best level, None when the side is empty. The window must be right."""
        price = self._best
        if price == self._unknown:
            if len(self._window) > 3 * self._width:
                self._narrow()
            elif not self._window:
                self.rebuild(1)
                if not self._window:
                    return None
            price = self._best = max(self._window) if self._bids else min(self._window)
        return price, self.levels[price]

    def top(self, count: int) -> tuple[Level, ...]:
        """The best ``count`` levels, best first. The window must be right."""
        if len(self._window) > 3 * self._width:
            self._narrow()
        if len(self._window) < count and not self._whole:
            self.rebuild(count)
        levels = self.levels
        return tuple([(price, levels[price]) for price in sorted(self._window, reverse=self._bids)[:count]])

    def sorted(self) -> tuple[Level, ...]:
        """Every level, best first."""
        return self.order(self.levels.items())

    # What follows needs no lock: it is asked about copies, removed levels included.

    def order(self, entries: Iterable[Level]) -> tuple[Level, ...]:
        """Every level, best first."""
        return tuple(sorted([level for level in entries if level[1]], reverse=self._bids))

    def top_of(self, levels: Mapping[Number, Number], count: int) -> tuple[Level, ...]:
        """The best ``count`` levels, best first."""
        prices = sorted(compress(levels, levels.values()), reverse=self._bids)[:count]
        return tuple([(price, levels[price]) for price in prices])

    def best_of(self, levels: Mapping[Number, Number]) -> Level | None:
        """The best level, None when there is none."""
        prices = compress(levels, levels.values())
        price = max(prices, default=None) if self._bids else min(prices, default=None)
        return None if price is None else (price, levels[price])

"""What the store's dicts and histories are: containers that may be read while another thread writes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .locks import under_lock

__all__ = ["History", "Table", "listed"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


class Table(dict[K, V]):
    """A dict that may be iterated while another thread adds to it: iteration runs over a copy. To copy it,
    use ``copy()``: ``dict(table)`` first takes the keys and then looks each of them up, so it fails when one
    is unsubscribed in between."""

    if TYPE_CHECKING:       # of a dict, ``orderbooks.get("binance", {}).get("BTC-USDT")`` would be refused
        @overload  # type: ignore[override]
        def get(self, key: K, default: None = None, /) -> V | None: ...
        @overload
        def get(self, key: K, default: Mapping[Any, Any], /) -> V: ...
        @overload
        def get(self, key: K, default: T, /) -> V | T: ...
        def get(self, key: K, default: Any = None, /) -> Any: ...

    def __iter__(self) -> Iterator[K]:
        return iter(self.keys())

    def keys(self) -> list[K]:  # type: ignore[override]
        return listed(super().keys())

    def values(self) -> list[V]:  # type: ignore[override]
        return listed(super().values())

    def items(self) -> list[tuple[K, V]]:  # type: ignore[override]
        return listed(super().items())

    def copy(self) -> dict[K, V]:
        return dict(self.items())


def listed(view: Iterable[T]) -> list[T]:
    """A copy of a dict's keys, values or items, of a deque or a set. Making it is hardly ever interrupted,
    but may be: each pair is a new object, for which the interpreter may stop to collect garbage, and let
    others run."""
    while True:
        try:
            return list(view)
        except RuntimeError:            # it was changed in the middle
            continue


class History(Sequence[V]):
    """The last so many events, oldest first. Reads are of one moment. Threads: any may read."""

    __slots__ = ("lock", "_items")

    def __init__(self, lock: threading.RLock, maxlen: int, items: Iterable[V] = ()) -> None:
        self.lock = lock
        self._items: deque[V] = deque(items, maxlen)

    @property
    def maxlen(self) -> int:
        """How many are kept."""
        return self._items.maxlen or 0

    def __len__(self) -> int:
        return len(self._items)

    @under_lock
    def __iter__(self) -> Iterator[V]:
        return iter(list(self._items))

    @under_lock
    def __reversed__(self) -> Iterator[V]:
        return iter(list(reversed(self._items)))

    @overload
    def __getitem__(self, index: int) -> V: ...
    @overload
    def __getitem__(self, index: slice) -> list[V]: ...

    @under_lock
    def __getitem__(self, index: int | slice) -> V | list[V]:
        return list(self._items)[index] if isinstance(index, slice) else self._items[index]

    def __repr__(self) -> str:
        return f"<History of {len(self)}>"

    def under(self, lock: threading.RLock) -> History[V]:
        """The same for another writer, which goes on with it. Waits for no lock: its caller holds one."""
        return History(lock, self.maxlen, listed(self._items))

    def append(self, item: V) -> None:
        """Add the newest. Threads: the writer, holding the lock."""
        self._items.append(item)

    def replace(self, index: int, item: V) -> None:
        """Put another in its place. Threads: the writer, holding the lock."""
        self._items[index] = item

    def insert(self, index: int, item: V) -> None:
        """Put one before that index, of 1 at least where it is full: then the oldest goes. Threads: the
        writer, holding the lock."""
        if len(self._items) == self._items.maxlen:
            self._items.popleft()
            index -= 1
        self._items.insert(index, item)

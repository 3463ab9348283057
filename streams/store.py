"""The shared dicts: what every stream writes and every reader reads.

Each stream writes under a lock of its own (a :class:`Writer`), so streams never wait for each
other. ``store.lock`` takes all of them, for a reader who wants one moment over all venues.

``last_update`` needs no lock among writers either. Every writer has a stamp that rises with each
update it applies; the reader adds the stamps up, and when the sum is not the one it saw last it
makes a new, higher value. A sum of numbers that only rise changes if and only if one of them
did, so no update is missed, whatever the clocks do. The stamp of a writer that has left stays in
the sum, as part of one number.

The order of locks: whoever waits for ``store.lock`` or for a writer's lock holds no other lock of
this package. So the user may hold ``store.lock`` and call anything.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from .book import BookView, OrderBook
from .checks import check_name, check_seconds, check_timeout
from .errors import ConfigurationError, NoData, StaleData
from .events import AHEAD, Bar, Event, Quote, Ticker, Trade
from .locks import owns, release, under_lock
from .sequencing import Clock
from .tables import History, Table, listed

__all__ = ["Store", "Writer"]

KEPT_TRADES = 1000      # per symbol
KEPT_BARS = 1000        # per symbol and interval
GONE = "unsubscribed"   # why a book is closed that leaves the store; others stay, to be read


class Writer:
    """One stream's way into a store, while it has joined that: its lock and its clock; ``thread``: see
    :meth:`Store.join`; ``serves``: whether data may come by it, given exchange, symbol and channel."""

    __slots__ = ("lock", "clock", "thread", "serves")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clock = Clock()
        self.thread = 0
        self.serves: Callable[[str, str, str], bool] = _never


def _never(exchange: str, symbol: str, channel: str) -> bool:
    """Nothing comes."""
    return False


class _AllLocks:
    """``store.lock``: every writer's lock, in the order the writers joined. Re-entrant.

    Attributes:
        gate: Who holds it has the lock, or keeps others from it: no writer comes or goes meanwhile.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.gate = threading.RLock()

    @property
    def mine(self) -> bool:
        """Whether the calling thread holds it."""
        return owns(self.gate)

    def __enter__(self) -> None:
        try:
            self.gate.acquire()
            for writer in self._store._stamps.sources.writers:
                writer.lock.acquire()
        except BaseException:               # Ctrl-C while waiting for one of them
            self.__exit__(None, None, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        # There may be some that this thread does not hold: let go of since, or made by itself since.
        for writer in reversed(self._store._stamps.sources.writers):
            try:                            # the shorter all of them are held, the better
                writer.lock.release()
            except RuntimeError:
                pass
        release(self.gate)

    def let_go(self) -> None:
        """Release all that this thread still holds of the store: Ctrl-C may have struck at the very
        beginning of ``__exit__`` or, in CPython 3.14, at the very end of ``__enter__``; whoever stops the
        streams then must not make them wait for it. But a read that a signal handler has interrupted goes on
        after it, and keeps its lock. Threads: any."""
        if _reads():
            return
        stamps = self._store._stamps
        for lock in (*(writer.lock for writer in stamps.sources.writers), self.gate, stamps.lock):
            while owns(lock):
                lock.release()


def _reads() -> bool:
    """Whether the calling thread is in the middle of a read, further up its stack."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename not in _READING:
        frame = frame.f_back
    return frame is not None


class _Sources(NamedTuple):
    """What the stamps come from: the writers, and of those that have left the sum and the newest."""

    writers: tuple[Writer, ...] = ()
    left: int = 0
    newest: int = 0

    def add(self, writer: Writer) -> _Sources:
        """With a writer whose stamp rises from now on."""
        if writer in self.writers:
            return self
        return self._replace(writers=(*self.writers, writer), left=self.left - writer.clock.stamp)

    def remove(self, writer: Writer) -> _Sources:
        """Without a writer whose stamp rises no more."""
        if writer not in self.writers:
            return self
        stamp = writer.clock.stamp
        return _Sources(tuple([one for one in self.writers if one is not writer]), self.left + stamp,
                        max(self.newest, stamp))


class _Stamps:
    """The sum of the writers' stamps made one, as the head of this file says.

    Attributes:
        sources: Replaced as a whole, by who holds the gate of ``store.lock``: whoever looks has the old
            ones or the new ones, and their sum is the same.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.sources = _Sources()
        self._known: tuple[int, int | None] = 0, None       # the sum, and what was made of it

    @under_lock
    def __call__(self) -> int | None:
        writers, left, newest = self.sources
        stamps = [writer.clock.stamp for writer in writers]
        total = left + sum(stamps)
        if total != self._known[0]:
            # In one go: if Ctrl-C came in between, the next look would miss the change.
            self._known = total, max(newest, *stamps, (self._known[1] or 0) + 1)
        return self._known[1]


class Store:
    """Order books, tickers, quotes, trades and bars of all streams that write into it.

    Attributes:
        orderbooks: ``[exchange][symbol]`` -> :class:`~streams.book.OrderBook`, there from its first
            snapshot on until it is unsubscribed, as everything below.
        tickers, quotes: ``[exchange][symbol]`` -> the latest :class:`Ticker`, :class:`Quote`.
        trades: ``[exchange][symbol]`` -> :class:`History` of :class:`Trade`, oldest first.
        bars: ``[exchange][symbol][interval]`` -> :class:`History` of :class:`Bar`.
        latest: ``[channel][exchange][symbol]`` -> the latest event of every other channel.
        lock: Context manager: while it is held nothing in the store changes. Hold it briefly; all
            streams wait meanwhile.

    Threads: any, for everything public.
    """

    def __init__(self) -> None:
        self.orderbooks: Table[str, Table[str, OrderBook]] = Table()
        self.tickers: Table[str, Table[str, Ticker]] = Table()
        self.quotes: Table[str, Table[str, Quote]] = Table()
        self.trades: Table[str, Table[str, History[Trade]]] = Table()
        self.bars: Table[str, Table[str, Table[str, History[Bar]]]] = Table()
        self.latest: Table[str, Table[str, Table[str, Event]]] = Table()
        # Whoever waits has a lock of its own here, and waits until it is released. Writers look at this, and
        # do nothing more while it is empty. No lock guards it, so Ctrl-C can not leave one held.
        self.waiters: set[threading.Lock] = set()
        self._stamps = _Stamps()
        self._guards: weakref.WeakSet[threading.RLock] = weakref.WeakSet()    # of all that can be read here
        self.lock = _AllLocks(self)
        _STORES.add(self)

    def __repr__(self) -> str:
        counts = {exchange: len(books) for exchange, books in self.orderbooks.items()}
        return f"<Store of order books {counts}>"

    # -- stamps ---------------------------------------------------------------------------------

    @property
    def last_update(self) -> int | None:
        """Stamp of the newest update: ns since the epoch, higher after every applied update, so
        that ``!=`` never misses one. None before the first."""
        return self._stamps()

    def wait(self, since: int | None = None, timeout: float | None = None) -> int | None:
        """Wait until ``last_update`` differs from ``since``.

        Args:
            since: The stamp last seen, None for "nothing seen yet".
            timeout: Seconds, None for ever.

        Returns:
            The new stamp, or ``since`` when the time ran out.

        Raises:
            ConfigurationError: An argument is something else. Or nothing could ever come: the caller holds
                ``lock``, or is a stream's thread.
        """
        if since is not None and type(since) is not int:
            raise ConfigurationError(f"since={since!r}: give the last_update that was seen last, or None")
        if timeout is not None:
            check_timeout(timeout)
        stamp = self.last_update
        if stamp != since:
            return stamp
        if timeout != 0:
            self._check_may_wait()
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = threading.Lock()
        waiter.acquire()
        try:
            while True:
                self.waiters.add(waiter)
                # A writer that missed our being here still holds its lock, or has released it: taking all
                # of them once makes what it wrote visible below. After that, every writer sees us.
                with self.lock:
                    pass
                if (stamp := self.last_update) != since:
                    return stamp
                left = -1 if deadline is None else deadline - time.monotonic()
                if deadline is not None and left <= 0:
                    return since
                waiter.acquire(timeout=min(left, threading.TIMEOUT_MAX))
        finally:
            self.waiters.discard(waiter)

    def _check_may_wait(self) -> None:
        if self.lock.mine:
            raise ConfigurationError("store.wait() while holding store.lock: nothing can change meanwhile")
        me = threading.get_ident()
        if any(writer.thread == me for writer in self._stamps.sources.writers):
            raise ConfigurationError(
                "store.wait() on a stream's own thread, which can not receive meanwhile: use submit(), or a"
                " handler with another policy than 'inline'")

    def notify(self) -> None:
        """Wake those in :meth:`wait`. Threads: a writer, holding no lock."""
        for waiter in self.waiters.copy():
            self.waiters.discard(waiter)        # it comes again if it has to wait for more
            release(waiter)                     # or another writer was quicker

    # -- reading --------------------------------------------------------------------------------

    def orderbook(self, exchange: str, symbol: str, max_age: float | None = None) -> BookView:
        """An immutable copy of one book.

        Args:
            max_age: Seconds. When given, the book must be ``live`` and its last update no older. While the
                clock is behind that update (it has been set back), ``live`` is enough, since that is
                watched by another clock.

        Raises:
            NoData: There is none (yet).
            StaleData: It is not live, or too old; only with ``max_age``.
            ConfigurationError: An argument can not be what it stands for.
        """
        if max_age is not None:
            check_seconds("max_age", max_age)
        book: OrderBook | None = _found(self.orderbooks, exchange, symbol)
        if book is None:
            raise NoData(_missing("order book", self.orderbooks, exchange, symbol))
        view = book.view()
        if max_age is not None:
            if view["status"] != "live":
                raise StaleData(f"{exchange} {symbol}: the order book is {view['status']}", view.age)
            _check_age(f"{exchange} {symbol}: the order book", view.age, max_age)
        return view

    def ticker(self, exchange: str, symbol: str, max_age: float | None = None) -> Ticker:
        """The latest ticker. Arguments and errors as for :meth:`orderbook`, but one from ahead of the clock
        is refused: how old it is nobody can say."""
        if max_age is not None:
            check_seconds("max_age", max_age)
        ticker: Ticker | None = _found(self.tickers, exchange, symbol)
        if ticker is None:
            raise NoData(_missing("ticker", self.tickers, exchange, symbol))
        if max_age is not None:
            if ticker.age < -AHEAD:
                raise StaleData(f"{exchange} {symbol}: the ticker may be old: its stamp is"
                                f" {-ticker.age:.3f} s ahead of the clock, which has been set back")
            _check_age(f"{exchange} {symbol}: the ticker", ticker.age, max_age)
        return ticker

    # -- writing --------------------------------------------------------------------------------

    def writer(self) -> Writer:
        """A new writer that has joined. Threads: as for :meth:`join`."""
        writer = Writer()
        self.join(writer)
        return writer

    def join(self, writer: Writer, thread: int = 0) -> None:
        """Let a writer write until it leaves; idempotent. Waits while somebody holds :attr:`lock`.

        Args:
            thread: Identifier of the only one that writes, if that is so: it can not wait for data.

        Threads: any, holding no other lock.
        """
        def join() -> None:
            writer.thread = thread
            self._guards.add(writer.lock)
            self._stamps.sources = self._stamps.sources.add(writer)
        self.apart(join)

    def leave(self, writer: Writer) -> None:
        """It writes no more, unless it joins again; idempotent. Threads: as for :meth:`join`."""
        def leave() -> None:
            writer.thread = 0
            self._stamps.sources = self._stamps.sources.remove(writer)
        self.apart(leave)

    def apart(self, change: Callable[[], None]) -> None:
        """Call ``change()`` while nobody (else) holds :attr:`lock`: for changes by others than writers. Waits
        as :meth:`join` does. Threads: as for that."""
        gate = self.lock.gate
        try:
            gate.acquire()
            change()
        finally:
            release(gate)

    def served(self, by: Writer, exchange: str, symbol: str, channel: str) -> bool:
        """Whether data may still come: ``by`` one writer, joined or not, or by another that has. Waits for
        none. Threads: any."""
        return any(writer.serves(exchange, symbol, channel)
                   for writer in (by, *self._stamps.sources.writers))


_READING = {read.__code__.co_filename       # the files where that is
            for read in (OrderBook.view, Store.wait, History.append)}
_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


class _Frozen(threading.local):
    """What the calling thread has locked in order to fork. Others may be about to fork as well."""

    def __init__(self) -> None:
        self.locks: list[threading.RLock] = []


_frozen = _Frozen()


def _freeze() -> None:
    """Before a fork: no writer and no reader is in the middle of anything, so the child's copy is whole."""
    stores, gates = listed(_STORES), _frozen.locks
    left = deque(store.lock.gate for store in stores)
    while left:                             # held by one who waits for another, perhaps: so wait for none
        gate = left.popleft()               # while holding some
        if gate.acquire(blocking=not gates):
            gates.append(gate)
        else:
            left.extend(gates)
            left.appendleft(gate)
            _thaw()
    for store in stores:
        for lock in (*store._guards, store._stamps.lock):
            lock.acquire()
            _frozen.locks.append(lock)


def _thaw() -> None:
    """After it, in parent and child: this thread holds these locks in both."""
    while _frozen.locks:
        _frozen.locks.pop().release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_freeze, after_in_parent=_thaw, after_in_child=_thaw)

_NOTHING: Mapping[str, Any] = {}


def _found(table: Mapping[str, Mapping[str, Any]], exchange: str, symbol: str) -> Any:
    """What is there under these names, or None. Names that are none are refused when nothing is found."""
    try:
        found = table.get(exchange, _NOTHING).get(symbol)
    except TypeError:                           # a list, perhaps
        found = None
    if found is None:
        check_name("exchange", exchange, "binance")
        check_name("symbol", symbol, "BTC-USDT")
    return found


def _check_age(what: str, age: float | None, max_age: float) -> None:
    if age is None or age > max_age:
        shown = "unknown" if age is None else f"{age:.3f} s"
        raise StaleData(f"{what} is too old: its age is {shown}, at most {max_age} s was asked for", age)


def _missing(what: str, table: Mapping[str, Mapping[str, Any]], exchange: str, symbol: str) -> str:
    if exchange not in table:
        return f"no {what} of {exchange!r} yet; there are some of: {', '.join(table) or 'no exchange'}"
    return f"no {what} of {symbol!r} on {exchange} yet; there are: {', '.join(table[exchange]) or 'none'}"

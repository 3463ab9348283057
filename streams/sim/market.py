"""A seeded market: it makes the order books of simulated venues, and is their oracle.

Every change of one level, and nothing else, takes an update id. A venue sends some of these
changes together, but the true book at *any* id can be asked for afterwards, because changes are
kept with a full copy of the book from time to time.

Prices are counted in ticks and sizes in lots. A side's levels are kept under keys that sort best
first: the tick for asks, the negative tick for bids. There is no Decimal on the way.
"""
from __future__ import annotations

import random
import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from .instruments import Instrument as Instrument

_SEGMENT = 500          # updates between two full copies of a book
_POOL = 1024            # different sizes that levels are given

Levels = list[tuple[int, int]]      # (key, lots), best first


class Book:
    """The true book at one moment.

    Attributes:
        symbol: upper case.
        sequence: the update id of the last change that is in it.
        bid_levels, ask_levels: (key, lots), best first.
    """

    def __init__(self, instrument: Instrument, sequence: int, bids: dict[int, int],
                 asks: dict[int, int]) -> None:
        self.symbol = instrument.symbol
        self.sequence = sequence
        self.bid_levels: Levels = sorted(bids.items())
        self.ask_levels: Levels = sorted(asks.items())
        self._instrument = instrument

    @cached_property
    def bids(self) -> list[tuple[Decimal, Decimal]]:
        """(price, size), best first. Threads: any."""
        return self._exact(self.bid_levels)

    @cached_property
    def asks(self) -> list[tuple[Decimal, Decimal]]:
        """(price, size), best first. Threads: any."""
        return self._exact(self.ask_levels)

    def _exact(self, levels: Levels) -> list[tuple[Decimal, Decimal]]:
        tick, lot = self._instrument.tick, self._instrument.lot
        return [(abs(key) * tick, lots * lot) for key, lots in levels]

    def __repr__(self) -> str:
        return (f"<Book {self.symbol} {self.sequence} {len(self.bid_levels)} bids "
                f"{len(self.ask_levels)} asks>")


@dataclass(frozen=True)
class Trade:
    """One trade; ``seller_aggressed`` means that it took a bid."""

    id: int
    tick: int
    lots: int
    seller_aggressed: bool
    time: int


@dataclass(frozen=True)
class Touch:
    """Best bid and ask (ticks and lots) right after the change ``sequence``."""

    sequence: int
    bid: int
    bid_lots: int
    ask: int
    ask_lots: int


class Update:
    """The changes ``first`` to ``last`` of one symbol, one entry for each level that changed.

    Attributes:
        previous: ``last`` of the update before.
        bids, asks: key -> absolute lots; 0 where the level is gone.
        time: nanoseconds since the epoch.
    """

    __slots__ = ("symbol", "previous", "first", "last", "bids", "asks", "trades", "touches",
                 "time")

    def __init__(self, symbol: str, previous: int, moment: int) -> None:
        self.symbol = symbol
        self.previous = previous
        self.first = 0
        self.last = 0
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.trades: list[Trade] = []
        self.touches: list[Touch] = []
        self.time = moment

    def merge(self, later: Update) -> None:
        """Add what happened next: one update over both ranges of ids."""
        self.last = later.last
        self.bids.update(later.bids)
        self.asks.update(later.asks)
        self.time = later.time


class _Side:
    """One side of the book: key -> lots, and the keys in order."""

    __slots__ = ("lots", "keys")

    def __init__(self) -> None:
        self.lots: dict[int, int] = {}
        self.keys: list[int] = []


class _Segment:
    """A full copy of the book, and the changes that followed it."""

    __slots__ = ("start", "bids", "asks", "ids", "levels", "lots", "ends")

    def __init__(self, start: int, bids: dict[int, int], asks: dict[int, int]) -> None:
        self.start = start
        self.bids = bids
        self.asks = asks
        self.ids = array("q")
        self.levels = array("q")        # key * 2 + (1 for asks)
        self.lots = array("q")
        self.ends = array("q")          # the last id of each update


class SymbolMarket:
    """The book of one symbol and its history.

    Threads: one at a time; `Market` has the lock.
    """

    def __init__(self, instrument: Instrument, seed: int, levels: int, history: int,
                 next_id: Callable[[], int]) -> None:
        self.instrument = instrument
        self.sequence = 0
        self.trade_id = 1000
        self.last_tick = int(instrument.start / instrument.tick)
        self._levels = levels
        self._next_id = next_id
        self._random = random.Random(f"{seed}/{instrument.symbol}")
        self._pressure = 0.5        # how likely a buyer is the aggressor
        self._bids = _Side()
        self._asks = _Side()
        scale = 10 ** max(0, instrument.size_decimals - 2)
        self._sizes = [1 + int(self._random.random() ** 3 * 500 * scale) for _ in range(_POOL)]
        self._segments: deque[_Segment] = deque()
        self._starts: deque[int] = deque()
        self._max_segments = max(2, history // _SEGMENT + 1)
        self._populate()

    # -- asking -------------------------------------------------------------------------------

    def book(self, sequence: int | None) -> Book:
        """The true book at an update id; see `Market.book`."""
        if sequence is None or sequence == self.sequence:
            return Book(self.instrument, self.sequence, self._bids.lots, self._asks.lots)
        if not self._starts[0] <= sequence < self.sequence:
            raise LookupError(f"{self.instrument.symbol}: the history has update ids "
                              f"{self._starts[0]} to {self.sequence}, not {sequence}")
        segment = self._segments[bisect_right(self._starts, sequence) - 1]
        bids, asks = dict(segment.bids), dict(segment.asks)
        count = bisect_right(segment.ids, sequence)
        for index in range(count):
            key, is_ask = divmod(segment.levels[index], 2)
            side = asks if is_ask else bids
            if segment.lots[index]:
                side[key] = segment.lots[index]
            else:
                side.pop(key, None)
        reached = segment.ids[count - 1] if count else segment.start
        return Book(self.instrument, reached, bids, asks)

    def ids_ago(self, updates: int) -> tuple[int, int]:
        """First and last update id of the last ``updates`` updates (as far as is known);
        with 0, the present id twice."""
        if updates <= 0:
            return self.sequence, self.sequence
        for segment in reversed(self._segments):
            if len(segment.ends) > updates:
                return segment.ends[-updates - 1], self.sequence
            updates -= len(segment.ends)
            if updates <= 0:
                break
        return segment.start, self.sequence

    def top(self, count: int) -> tuple[Levels, Levels]:
        """The best ``count`` levels of both sides."""
        bids, asks = self._bids.lots, self._asks.lots
        return ([(key, bids[key]) for key in self._bids.keys[:count]],
                [(key, asks[key]) for key in self._asks.keys[:count]])

    # -- moving -------------------------------------------------------------------------------

    def step(self, moment: int) -> Update:
        """The next update: a handful of changes."""
        update = Update(self.instrument.symbol, self.sequence, moment)
        roll = self._random.random
        self._pressure += (roll() - 0.5) * 0.1 + (0.5 - self._pressure) * 0.01
        bids, asks = self._bids, self._asks
        for _ in range(1 + int(roll() * roll() * 8)):
            ahead, other = (bids, asks) if roll() < 0.5 else (asks, bids)
            choice = roll()
            if len(ahead.keys) < max(2, self._levels * 4 // 5):
                self._extend(update, ahead)
            elif choice < 0.5:
                key = ahead.keys[int(roll() ** 3 * len(ahead.keys))]
                self._change(update, ahead, key, self._size())
            elif choice < 0.65 and len(ahead.keys) > 2:
                key = ahead.keys[int(roll() ** 3 * len(ahead.keys))]
                self._change(update, ahead, key, 0)
            elif choice < 0.9:
                self._insert(update, ahead, other)
            else:
                self._trade(update)
        segment = self._segments[-1]
        segment.ends.append(self.sequence)
        update.last = self.sequence
        if len(segment.ends) >= _SEGMENT:
            self._new_segment()
        return update

    def _size(self) -> int:
        return self._sizes[int(self._random.random() * _POOL)]

    def _populate(self) -> None:
        roll = self._random.random
        for side, best in ((self._bids, 1 - self.last_tick), (self._asks, self.last_tick + 1)):
            key = best
            for _ in range(self._levels):
                if side is self._bids and key >= 0:
                    break
                side.keys.append(key)
                side.lots[key] = self._size()
                key += 1 + int(roll() ** 2 * 4)
        self.sequence = self._next_id()
        self._new_segment()

    def _new_segment(self) -> None:
        self._segments.append(_Segment(self.sequence, dict(self._bids.lots),
                                       dict(self._asks.lots)))
        self._starts.append(self.sequence)
        if len(self._segments) > self._max_segments:
            self._segments.popleft()
            self._starts.popleft()

    def _change(self, update: Update, side: _Side, key: int, lots: int) -> None:
        keys = side.keys
        touched = not keys or key <= keys[0]
        is_ask = side is self._asks
        if lots:
            if key not in side.lots:
                keys.insert(bisect_left(keys, key), key)
            side.lots[key] = lots
        else:
            del side.lots[key]
            del keys[bisect_left(keys, key)]
        self.sequence = sequence = self._next_id()
        if not update.first:
            update.first = sequence
        (update.asks if is_ask else update.bids)[key] = lots
        segment = self._segments[-1]
        segment.ids.append(sequence)
        segment.levels.append(key * 2 + is_ask)
        segment.lots.append(lots)
        if touched:
            bid, ask = self._bids.keys[0], self._asks.keys[0]
            update.touches.append(Touch(sequence, -bid, self._bids.lots[bid], ask,
                                        self._asks.lots[ask]))

    def _insert(self, update: Update, ahead: _Side, other: _Side) -> None:
        roll = self._random.random
        gap = ahead.keys[0] + other.keys[0] - 1         # free ticks inside the spread
        if gap > 0 and (gap > 20 or roll() < 0.4):
            key = ahead.keys[0] - 1 - int(roll() * min(gap, 3))
        else:
            key = ahead.keys[int(roll() ** 3 * len(ahead.keys))] + 1
        if ahead is self._bids and key >= 0:
            return self._change(update, ahead, ahead.keys[0], self._size())
        if key not in ahead.lots and len(ahead.keys) >= self._levels:
            self._change(update, ahead, ahead.keys[-1], 0)
        self._change(update, ahead, key, self._size())

    def _extend(self, update: Update, side: _Side) -> None:
        key = side.keys[-1] + 1 + int(self._random.random() * 3)
        if side is self._bids and key >= 0:             # there is no price below one tick
            key = side.keys[0]
        self._change(update, side, key, self._size())

    def _trade(self, update: Update) -> None:
        buys = self._random.random() < self._pressure
        side = self._asks if buys else self._bids
        key = side.keys[0]
        have = side.lots[key]
        lots = have if len(side.keys) > 2 and self._random.random() < 0.4 \
            else min(self._size(), have - 1)
        if lots <= 0:
            return self._change(update, side, key, self._size())
        self.trade_id += 1
        self.last_tick = abs(key)
        update.trades.append(Trade(self.trade_id, self.last_tick, lots, not buys, update.time))
        self._change(update, side, key, have - lots)


class Market:
    """The books of all symbols of a venue.

    Args:
        symbols: upper or lower case names, or `Instrument` values.
        seed: the same seed makes the same market.
        levels: how many levels a side has at most.
        history: how many updates of each symbol can be asked for afterwards, at least.
        id_step: how update ids go on: ``"one"`` by one, within each symbol; ``"shared"`` in
            jumps, in one space for all symbols; ``"jumps"`` in jumps, within each symbol.
        clock: nanoseconds since the epoch.

    Attributes:
        symbols: the names, upper case.
        lock: held while the market moves; it stands still for who holds it.

    Raises:
        ValueError: no symbols, the same twice, or a number out of range.
    """

    def __init__(self, symbols: Iterable[str | Instrument], seed: int = 1, levels: int = 1000,
                 history: int = 100_000, id_step: str = "one",
                 clock: Callable[[], int] = time.time_ns) -> None:
        if isinstance(symbols, str):
            raise ValueError(f"symbols={symbols!r}: expected a list such as [{symbols!r}]")
        instruments = [item if isinstance(item, Instrument) else Instrument.named(item)
                       for item in symbols]
        self.symbols = tuple(item.symbol for item in instruments)
        if not self.symbols or len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"symbols {list(self.symbols)}: expected one or more, each once")
        if levels < 5:
            raise ValueError(f"levels {levels}: expected 5 or more")
        if history < 1:
            raise ValueError(f"history {history}: expected a number of updates above 0")
        self.lock = threading.RLock()
        self.clock = clock
        steps = _id_steps(id_step, seed, len(instruments))
        self._markets = {
            item.symbol: SymbolMarket(item, seed, levels, history, next_id)
            for item, next_id in zip(instruments, steps)}

    def __getitem__(self, symbol: str) -> SymbolMarket:
        return self._markets[self.known(symbol)]

    def known(self, symbol: str) -> str:
        """The symbol's name as the market has it.

        Threads: any.

        Raises:
            LookupError: it is not traded here.
        """
        if symbol.upper() not in self._markets:
            raise LookupError(f"no symbol {symbol!r}; there are: {', '.join(self.symbols)}")
        return symbol.upper()

    def book(self, symbol: str, sequence: int | None = None) -> Book:
        """The true book: now, or right after the change with the update id ``sequence`` (with
        shared ids: the last change of this symbol up to it).

        Threads: any.

        Raises:
            LookupError: an unknown symbol, or an id that is not in the history.
        """
        with self.lock:
            return self[symbol].book(sequence)

    def step(self, symbol: str) -> Update:
        """Let one symbol make its next update. Threads: any."""
        with self.lock:
            return self._markets[symbol].step(self.clock())


def _id_steps(kind: str, seed: int, count: int) -> Iterator[Callable[[], int]]:
    """One function per symbol that makes the next update id."""
    if kind not in ("one", "shared", "jumps"):
        raise ValueError(f"id_step {kind!r}: expected 'one', 'shared' or 'jumps'")
    jumps: Sequence[int] = [1 + int(random.Random(seed + n).random() ** 4 * 300)
                            for n in range(997)]
    shared = _counter(10_000_000_000, jumps)
    for index in range(count):
        first = (index + 1) * 1_000_000_000
        if kind == "one":
            yield _counter(first, (1,))
        else:
            yield shared if kind == "shared" else _counter(first, jumps)


def _counter(value: int, steps: Sequence[int]) -> Callable[[], int]:
    size = len(steps)
    turn = 0

    def next_id() -> int:
        nonlocal value, turn
        turn += 1
        value += steps[turn % size]
        return value
    return next_id

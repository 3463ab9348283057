"""A made-up Nasdaq: seeded order flow, written as TotalView-ITCH 5.0 messages, and the true books.

Written from "Nasdaq TotalView-ITCH 5.0" (NQTVITCHSpecification.pdf, section 4), and from nothing else.
The market remembers every message and every change of a level, so it can say what any book was at
any sequence number.
"""
from __future__ import annotations

import bisect
import datetime
import random
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple
from zoneinfo import ZoneInfo

_CHECKPOINT = 4096      # changes of a stock between two whole copies of its book
_TICK = 100             # one cent, in the wire's 1/10,000 dollar
_MPIDS = (b"GSCO", b"MSCO", b"NITE", b"JPMS")
_VARIATIONS = b"L123456789ABC "


class TrueBook(NamedTuple):
    """A book at one moment. Levels are ``(price, size)``, best first."""

    sequence: int
    bids: list[tuple[Decimal, Decimal]]
    asks: list[tuple[Decimal, Decimal]]


class _Order:
    __slots__ = ("ref", "buy", "price", "shares", "index")

    def __init__(self, ref: int, buy: bool, price: int, shares: int, index: int) -> None:
        self.ref = ref
        self.buy = buy
        self.price = price
        self.shares = shares
        self.index = index


class _Stock:
    """One stock: its orders, its levels, and how they changed."""

    def __init__(self, symbol: str, locate: int, middle: int) -> None:
        self.symbol = symbol
        self.wire = symbol.encode("ascii").ljust(8)
        self.locate = locate
        self.middle = middle
        self.orders: list[_Order] = []
        self.levels: tuple[dict[int, int], dict[int, int]] = ({}, {})     # asks, bids
        self.queues: tuple[dict[int, dict[int, _Order]], dict[int, dict[int, _Order]]] = ({}, {})
        self.matches: list[int] = []
        self.halted = False
        self._changes = (array("Q"), array("b"), array("I"), array("Q"))
        self._checkpoints: list[tuple[int, dict[int, int], dict[int, int]]] = []

    def change(self, sequence: int, buy: bool, price: int, by: int) -> None:
        levels = self.levels[buy]
        size = levels.get(price, 0) + by
        if size:
            levels[price] = size
        else:
            del levels[price]
        sequences, sides, prices, sizes = self._changes
        sides.append(buy)
        prices.append(price)
        sizes.append(size)
        sequences.append(sequence)      # last: a reader in another thread counts these
        if not len(sequences) % _CHECKPOINT:
            self._checkpoints.append((len(sequences), self.levels[0].copy(), self.levels[1].copy()))

    def at(self, sequence: int) -> tuple[dict[int, int], dict[int, int]]:
        """The levels (asks, bids) after that message."""
        sequences, sides, prices, sizes = self._changes
        end = bisect.bisect_right(sequences, sequence)
        begin = 0
        both: tuple[dict[int, int], dict[int, int]] = {}, {}
        for count, asks, bids in reversed(self._checkpoints):
            if count <= end:
                begin, both = count, (asks.copy(), bids.copy())
                break
        for i in range(begin, end):
            if sizes[i]:
                both[sides[i]][prices[i]] = sizes[i]
            else:
                both[sides[i]].pop(prices[i], None)
        return both


class ItchMarket:
    """The order flow and its truth.

    Args:
        symbols: Stocks, at most 8 characters each.
        seed: Equal seeds give equal flows (equal to the byte when ``start`` is given).
        depth: About how many open orders a stock has.
        start: Nanoseconds since midnight of the first message, 10 us between messages from there on;
            None: the real time in New York.

    Attributes:
        packets: The messages so far as SoupBinTCP sequenced data packets: number n is ``packets[n - 1]``.

    Threads: one writes (`step`), any may read what has been written.
    """

    def __init__(self, symbols: tuple[str, ...] = ("AAPL", "MSFT", "NVDA"), seed: int = 1, *,
                 depth: int = 200, start: int | None = None) -> None:
        if not symbols or any(not 0 < len(symbol) <= 8 for symbol in symbols):
            raise ValueError(f"symbols {symbols!r}: expected stocks of 1 to 8 characters")
        self.packets: list[bytes] = []
        self._unheard: list[bytes] = []         # of the step under way
        self._random = random.Random(seed)
        self._depth = depth
        self._clock = _real_time() if start is None else _counted(start)
        self._time = 0
        self._ref = 0
        self._match = 0
        self._stocks = [_Stock(symbol, n + 1, self._random.randrange(20, 900) * 10_000)
                        for n, symbol in enumerate(symbols)]
        self._by_symbol = {stock.symbol: stock for stock in self._stocks}
        rare: list[Callable[[_Stock], None]] = [
            self._imbalance, self._trading_action, self._reg_sho, self._participant, self._ipo,
            self._collar, self._halt, self._retail, self._listing, self._breaker_levels, self._breaker,
            self._cross, self._broken, self._imbalance]
        self._rare = rare
        self._open()

    # -- truth ----------------------------------------------------------------------------------

    @property
    def symbols(self) -> tuple[str, ...]:
        """All stocks. Threads: any."""
        return tuple(self._by_symbol)

    @property
    def sequence(self) -> int:
        """The number of the last message. Threads: any."""
        return len(self.packets)

    def book(self, symbol: str, sequence: int | None = None) -> TrueBook:
        """The true book now, or right after message number ``sequence``. Threads: any."""
        number = self.sequence if sequence is None else sequence
        asks, bids = self._by_symbol[symbol].at(number)
        return TrueBook(number, _sorted(bids, True), _sorted(asks, False))

    def levels(self, symbol: str) -> tuple[dict[int, int], dict[int, int]]:
        """The live levels, bids and asks, wire price -> shares: not to be changed. Threads: the writer's."""
        asks, bids = self._by_symbol[symbol].levels
        return bids, asks

    # -- flow -----------------------------------------------------------------------------------

    def step(self) -> str:
        """One more message; the symbol it is about, "" for the whole market. Threads: the writer's."""
        rand = self._random
        stock = self._stocks[int(rand.random() * len(self._stocks))]
        count = len(stock.orders)
        dice = rand.random()
        if count < 10 or dice < 0.45:
            if count > 2 * self._depth:
                self._delete(stock, self._any(stock))
            else:
                self._add(stock)
        elif dice < 0.65 - 0.1 * (count < self._depth):
            self._delete(stock, self._any(stock))
        elif dice < 0.80:
            self._replace(stock, self._any(stock))
        elif dice < 0.87:
            self._cancel(stock, self._any(stock))
        elif dice < 0.97:
            self._execute(stock, rand.random() < 0.5)
        elif dice < 0.985:
            self._hidden_trade(stock)
        else:
            self._rare[int(rand.random() * len(self._rare))](stock)
        self._publish()
        return stock.symbol

    def close(self) -> None:
        """The end of the day: its last system events. Threads: the writer's."""
        for event in b"MEC":
            self._event(event)
        self._publish()

    def _open(self) -> None:
        self._event(ord("O"))
        self._breaker_levels(self._stocks[0])
        for stock in self._stocks:
            self._emit(b"R", stock.locate, struct.pack(
                ">8sccIcc2scccccIc", stock.wire, b"Q", b"N", 100, b"N", b"C", b"Z ", b"P", b"N", b" ",
                b"1", b"N", 0, b"N"))
            self._emit(b"H", stock.locate, struct.pack(">8scc4s", stock.wire, b"T", b" ", b"    "))
            self._emit(b"Y", stock.locate, struct.pack(">8sc", stock.wire, b"0"))
        self._event(ord("S"))
        self._event(ord("Q"))
        self._publish()

    def _emit(self, code: bytes, locate: int, rest: bytes) -> int:
        self._time = now = max(self._time, next(self._clock))
        self._unheard.append(struct.pack(
            ">HccHHHI", len(rest) + 12, b"S", code, locate, 0, now >> 32, now & 0xFFFFFFFF) + rest)
        return len(self.packets) + len(self._unheard)

    def _publish(self) -> None:
        """Let others see the new messages, now that the books of truth have them."""
        self.packets += self._unheard
        self._unheard.clear()

    def _any(self, stock: _Stock) -> _Order:
        return stock.orders[int(self._random.random() * len(stock.orders))]

    def _best(self, stock: _Stock, buy: bool) -> int:
        """The best price of a side; far away when it is empty."""
        levels = stock.levels[buy]
        if levels:
            return max(levels) if buy else min(levels)
        return stock.middle + (-50 if buy else 50) * _TICK

    def _price(self, stock: _Stock, buy: bool) -> int:
        """A price that does not meet the other side."""
        away = min(int(self._random.expovariate(0.15)), 150) * _TICK
        if buy:
            return max(self._best(stock, False) - _TICK - away, _TICK)
        return self._best(stock, True) + _TICK + away

    def _shares(self) -> int:
        return 100 if self._random.random() < 0.4 else 1 + int(self._random.random() * 900)

    # -- orders ---------------------------------------------------------------------------------

    def _add(self, stock: _Stock) -> None:
        rand = self._random
        buy = rand.random() < 0.5
        self._ref += 1 + int(rand.random() * 3)
        price, shares = self._price(stock, buy), self._shares()
        body = struct.pack(">QcI8sI", self._ref, b"B" if buy else b"S", shares, stock.wire, price)
        if rand.random() < 0.1:
            number = self._emit(b"F", stock.locate, body + rand.choice(_MPIDS))
        else:
            number = self._emit(b"A", stock.locate, body)
        self._enter(stock, number, self._ref, buy, price, shares)

    def _enter(self, stock: _Stock, number: int, ref: int, buy: bool, price: int, shares: int) -> None:
        order = _Order(ref, buy, price, shares, len(stock.orders))
        stock.orders.append(order)
        stock.queues[buy].setdefault(price, {})[ref] = order
        stock.change(number, buy, price, shares)

    def _leave(self, stock: _Stock, number: int, order: _Order) -> None:
        last = stock.orders.pop()
        if last is not order:
            stock.orders[order.index] = last
            last.index = order.index
        queue = stock.queues[order.buy][order.price]
        del queue[order.ref]
        if not queue:
            del stock.queues[order.buy][order.price]
        stock.change(number, order.buy, order.price, -order.shares)

    def _take(self, stock: _Stock, number: int, order: _Order, shares: int) -> None:
        if shares == order.shares:
            self._leave(stock, number, order)
        else:
            order.shares -= shares
            stock.change(number, order.buy, order.price, -shares)

    def _delete(self, stock: _Stock, order: _Order) -> None:
        self._leave(stock, self._emit(b"D", stock.locate, struct.pack(">Q", order.ref)), order)

    def _cancel(self, stock: _Stock, order: _Order) -> None:
        if order.shares == 1:
            self._delete(stock, order)
            return
        shares = 1 + int(self._random.random() * (order.shares - 1))
        number = self._emit(b"X", stock.locate, struct.pack(">QI", order.ref, shares))
        self._take(stock, number, order, shares)

    def _replace(self, stock: _Stock, order: _Order) -> None:
        rand = self._random
        self._ref += 1
        price = order.price if rand.random() < 0.3 else self._price(stock, order.buy)
        shares = self._shares()
        number = self._emit(b"U", stock.locate, struct.pack(">QQII", order.ref, self._ref, shares, price))
        self._leave(stock, number, order)
        self._enter(stock, number, self._ref, order.buy, price, shares)

    def _execute(self, stock: _Stock, buy: bool) -> None:
        if not stock.levels[buy]:
            self._add(stock)
            return
        rand = self._random
        price = self._best(stock, buy)
        order = next(iter(stock.queues[buy][price].values()))
        whole = rand.random() < 0.5
        shares = order.shares if whole else 1 + int(rand.random() * order.shares)
        self._match += 1
        stock.matches.append(self._match)
        stock.middle = price
        body = struct.pack(">QIQ", order.ref, shares, self._match)
        if rand.random() < 0.15:
            body += struct.pack(">cI", b"N" if rand.random() < 0.2 else b"Y", price + rand.choice((-50, 50)))
            number = self._emit(b"C", stock.locate, body)
        else:
            number = self._emit(b"E", stock.locate, body)
        self._take(stock, number, order, shares)

    # -- everything else ------------------------------------------------------------------------

    def _hidden_trade(self, stock: _Stock) -> None:
        self._match += 1
        stock.matches.append(self._match)
        self._emit(b"P", stock.locate, struct.pack(
            ">QcI8sIQ", 0, b"B", self._shares(), stock.wire, stock.middle, self._match))

    def _cross(self, stock: _Stock) -> None:
        self._match += 1
        shares = 0 if self._random.random() < 0.2 else self._shares() * 10
        self._emit(b"Q", stock.locate, struct.pack(
            ">Q8sIQc", shares, stock.wire, stock.middle, self._match, self._letter(b"OCHA")))

    def _broken(self, stock: _Stock) -> None:
        if stock.matches:
            match = self._random.choice(stock.matches[-50:])
            self._emit(b"B", stock.locate, struct.pack(">Q", match))
        else:
            self._hidden_trade(stock)

    def _imbalance(self, stock: _Stock) -> None:
        far = 0 if self._random.random() < 0.3 else stock.middle - _TICK
        self._emit(b"I", stock.locate, struct.pack(
            ">QQc8sIIIcc", self._shares() * 10, self._shares(), self._letter(b"BSNOP"), stock.wire, far,
            stock.middle, stock.middle, self._letter(b"OCHA"), self._letter(_VARIATIONS)))

    def _trading_action(self, stock: _Stock) -> None:
        stock.halted = not stock.halted
        state, reason = (b"H", b"T1  ") if stock.halted else (b"T", b"T3  ")
        self._emit(b"H", stock.locate, struct.pack(">8scc4s", stock.wire, state, b" ", reason))

    def _reg_sho(self, stock: _Stock) -> None:
        self._emit(b"Y", stock.locate, struct.pack(">8sc", stock.wire, self._letter(b"012")))

    def _participant(self, stock: _Stock) -> None:
        self._emit(b"L", stock.locate, struct.pack(
            ">4s8sccc", self._random.choice(_MPIDS), stock.wire, self._letter(b"YN"),
            self._letter(b"NPSRL"), self._letter(b"AEWSD")))

    def _ipo(self, stock: _Stock) -> None:
        self._emit(b"K", stock.locate, struct.pack(
            ">8sIcI", stock.wire, 36_000, self._letter(b"AC"), stock.middle))

    def _collar(self, stock: _Stock) -> None:
        self._emit(b"J", stock.locate, struct.pack(
            ">8sIIII", stock.wire, stock.middle, stock.middle + 5 * _TICK, stock.middle - 5 * _TICK, 1))

    def _halt(self, stock: _Stock) -> None:
        self._emit(b"h", stock.locate, struct.pack(
            ">8scc", stock.wire, self._letter(b"QBX"), self._letter(b"HT")))

    def _retail(self, stock: _Stock) -> None:
        self._emit(b"N", stock.locate, struct.pack(">8sc", stock.wire, self._letter(b"BSAN")))

    def _listing(self, stock: _Stock) -> None:
        p = stock.middle
        self._emit(b"O", stock.locate, struct.pack(
            ">8scIIIQII", stock.wire, self._letter(b"YN"), p * 8 // 10, p * 18 // 10, p, self._time,
            p * 9 // 10, p * 11 // 10))

    def _breaker_levels(self, stock: _Stock) -> None:
        self._emit(b"V", 0, struct.pack(">QQQ", 5000 * 10**8, 4700 * 10**8, 4300 * 10**8))

    def _breaker(self, stock: _Stock) -> None:
        self._emit(b"W", 0, self._letter(b"123"))

    def _event(self, code: int) -> None:
        self._emit(b"S", 0, bytes((code,)))

    def _letter(self, choices: bytes) -> bytes:
        return bytes((self._random.choice(choices),))


def _sorted(levels: dict[int, int], best_is_high: bool) -> list[tuple[Decimal, Decimal]]:
    return [(Decimal(price) / 10_000, Decimal(size))
            for price, size in sorted(levels.items(), reverse=best_is_high)]


def _counted(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 10_000


def _real_time() -> Iterator[int]:
    zone = ZoneInfo("America/New_York")
    day = datetime.datetime.now(zone).date()
    midnight = int(datetime.datetime.combine(day, datetime.time(), zone).timestamp()) * 10**9
    while True:
        yield time.time_ns() - midnight

"""The orders of an ITCH session, and the price levels they make: what happens thousands of times a second.

A book that nobody watches keeps its orders only; its levels are summed up when somebody does
(:meth:`Book.watch`), and kept from then on.

Measured (CPython 3.11, CPU us per message, flat out): see ``tests/venues/itch_cost.py``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from ..events import Level, Number, Trade
from ..venue import Item, Route
from .itch_market import Numbers

__all__ = ["Book", "Delta", "Items", "Order", "OrderFlow"]

Items = Sequence[Item]

# The messages behind the packet's type byte. Tracking number (2 bytes) and time (6) are read as one
# number, of which the time is the lower part: two fields less to unpack.
_ADD = struct.Struct(">xxHQQBI8xI").unpack
_EXECUTED = struct.Struct(">xxHQQIQ").unpack
_EXECUTED_AT = struct.Struct(">xxHQQIQsI").unpack
_CANCEL = struct.Struct(">xxHQQI").unpack
_DELETE = struct.Struct(">xxHQQ").unpack
_REPLACE = struct.Struct(">xxHQQQII").unpack
_TIME = (1 << 48) - 1

_BUY, _SELL = b"BS"
_NOTHING: Items = ()
_NONE: tuple[Level, ...] = ()


class Order(msgspec.Struct, gc=False):
    """One open order. ``levels`` is its side of the book.

    Untracked by the garbage collector: there are millions of them on a busy day, and each points at
    nothing but its book's dict.
    """

    levels: dict[Number, Number]
    price: Number
    shares: int


class Delta(msgspec.Struct, gc=False):
    """What one message changed in one book; a :class:`streams.venue.BookDelta`.

    Attributes:
        clock: Tracking number and time as they came.
        midnight: Beginning of the session's day.
    """

    link: int
    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    clock: int
    midnight: int

    @property
    def time(self) -> int:
        """ns since the epoch; worked out when somebody asks, which is rarely."""
        return self.midnight + (self.clock & _TIME)


class Book:
    """One stock.

    Attributes:
        stock: Its symbol.
        orders: Open orders by reference number.
        bids, asks: Price -> shares; right while ``route`` is set.
        sides: The same by the wire's code of the side.
        route: Who watches the book, None while nobody does.
        trades: Who wants the trades, or None.
        routes: Who wants what else, by channel.
        last: Sequence number of the last change of the levels.
    """

    __slots__ = ("stock", "orders", "bids", "asks", "sides", "route", "trades", "routes", "last")

    def __init__(self, stock: str) -> None:
        self.stock = stock
        self.orders: dict[int, Order] = {}
        self.bids: dict[Number, Number] = {}
        self.asks: dict[Number, Number] = {}
        self.sides = {_BUY: self.bids, _SELL: self.asks}
        self.route: Route | None = None
        self.trades: Route | None = None
        self.routes: dict[str, Route] = {}
        self.last = 0

    def watch(self, route: Route, last: int, zero: float | Decimal) -> None:
        """Sum up the levels; from now on they are kept, and changes go to ``route``."""
        self.bids.clear()
        self.asks.clear()
        for order in self.orders.values():
            levels = order.levels
            levels[order.price] = levels.get(order.price, zero) + order.shares
        self.route = route
        self.last = last

    def connect(self, route: Route) -> None:
        """Something of this stock, its book excepted, is wanted."""
        if route.channel == "trades":
            self.trades = route
        else:
            self.routes[route.channel] = route

    def disconnect(self, route: Route) -> None:
        """It is wanted no longer."""
        if self.route is route:
            self.route = None
        elif self.trades is route:
            self.trades = None
        elif self.routes.get(route.channel) is route:
            del self.routes[route.channel]

    def forsake(self) -> None:
        """Nobody wants anything of this stock any more."""
        self.route = self.trades = None
        self.routes = {}
        self.bids.clear()
        self.asks.clear()


class OrderFlow:
    """All orders of a session. A message is checked before anything is changed: an impossible one
    raises ``LookupError``, ``ValueError`` or ``struct.error``, and leaves no trace.

    Args:
        exchange: For the events.
        numbers: Prices in the user's number.

    Attributes:
        sequence: Number of the last message taken.
        midnight: ns since the epoch at which the session's day began in New York.
        books: By locate code; None where nobody wanted the stock.
        methods: What to do with a message, by its type byte: ``method(packet, now)``, the packet with
            its own type byte before the message.
    """

    def __init__(self, exchange: str, numbers: Numbers) -> None:
        self.sequence = 0
        self.midnight = 0
        self.books: dict[int, Book | None] = {}
        self._exchange = exchange
        self._numbers = numbers
        self._number = numbers.number
        self.zero: Number = numbers.number(0)
        self.methods: dict[int, Callable[[bytes, int], Items]] = dict(zip(b"AFECXDU", (
            self._add, self._add_attributed, self._execute, self._execute_at, self._cancel, self._delete,
            self._replace)))

    def _add(self, raw: bytes, now: int) -> Items:
        locate, clock, ref, code, shares, wire = _ADD(raw)
        book = self.books[locate]
        if book is None:
            return _NOTHING
        orders = book.orders
        if ref in orders or not shares:
            raise ValueError(f"order {ref} is there already" if shares else f"order {ref} of no shares")
        levels = book.sides[code]
        price = self._numbers[wire]
        orders[ref] = Order(levels, price, shares)
        route = book.route
        if route is None:
            return _NOTHING
        size = levels[price] = levels.get(price, self.zero) + shares
        link = book.last
        book.last = last = self.sequence
        if code == _BUY:
            return ((route, Delta(link, last, ((price, size),), _NONE, clock, self.midnight)),)
        return ((route, Delta(link, last, _NONE, ((price, size),), clock, self.midnight)),)

    def _add_attributed(self, raw: bytes, now: int) -> Items:
        if len(raw) != 41:
            raise ValueError
        return self._add(raw[:37], now)             # the same, and then who: 4 bytes

    def _delete(self, raw: bytes, now: int) -> Items:
        locate, clock, ref = _DELETE(raw)
        book = self.books[locate]
        if book is None:
            return _NOTHING
        order = book.orders.pop(ref)
        route = book.route
        if route is None:
            return _NOTHING
        levels, price = order.levels, order.price
        size = levels[price] - order.shares
        if size:
            levels[price] = size
        else:
            del levels[price]
        link = book.last
        book.last = last = self.sequence
        if levels is book.bids:
            return ((route, Delta(link, last, ((price, size),), _NONE, clock, self.midnight)),)
        return ((route, Delta(link, last, _NONE, ((price, size),), clock, self.midnight)),)

    def _execute(self, raw: bytes, now: int) -> Items:
        locate, clock, ref, shares, match = _EXECUTED(raw)
        book = self.books[locate]
        if book is None:
            return _NOTHING
        order = book.orders[ref]
        items = self._reduce(book, ref, order, shares, clock)
        if book.trades is None:
            return items
        return (*items, self._execution(book, order, order.price, shares, match, clock, now, ()))

    def _execute_at(self, raw: bytes, now: int) -> Items:
        locate, clock, ref, shares, match, printable, wire = _EXECUTED_AT(raw)
        book = self.books[locate]
        if book is None:
            return _NOTHING
        order = book.orders[ref]
        price = self._numbers[wire]
        items = self._reduce(book, ref, order, shares, clock)
        if book.trades is None or printable == b"N":    # not printable: a cross trade will tell of it
            return items
        return (*items, self._execution(book, order, price, shares, match, clock, now, ("C",)))

    def _cancel(self, raw: bytes, now: int) -> Items:
        locate, clock, ref, shares = _CANCEL(raw)
        book = self.books[locate]
        if book is None:
            return _NOTHING
        return self._reduce(book, ref, book.orders[ref], shares, clock)

    def _reduce(self, book: Book, ref: int, order: Order, shares: int, clock: int) -> Items:
        """``shares`` of an order are gone."""
        left = order.shares - shares
        if left > 0:
            order.shares = left
        elif left == 0:
            del book.orders[ref]
        else:
            raise ValueError(f"{shares} shares of order {ref}, which has {order.shares}")
        return _NOTHING if book.route is None else self._shrunk(book, order, shares, clock)

    def _shrunk(self, book: Book, order: Order, shares: int, clock: int) -> Items:
        """``shares`` have left the order's level of a watched book."""
        levels, price = order.levels, order.price
        size = levels[price] - shares
        if size:
            levels[price] = size
        else:
            del levels[price]
        link = book.last
        book.last = last = self.sequence
        route: Route = book.route  # type: ignore[assignment]
        if levels is book.bids:
            return ((route, Delta(link, last, ((price, size),), _NONE, clock, self.midnight)),)
        return ((route, Delta(link, last, _NONE, ((price, size),), clock, self.midnight)),)

    def _replace(self, raw: bytes, now: int) -> Items:
        locate, clock, ref, new, shares, wire = _REPLACE(raw)
        book = self.books[locate]
        if book is None:
            return _NOTHING
        orders = book.orders
        order = orders[ref]
        if new in orders or not shares:
            raise ValueError(f"order {new} is there already" if shares else f"order {new} of no shares")
        price = self._numbers[wire]
        levels, old = order.levels, order.price
        del orders[ref]
        orders[new] = Order(levels, price, shares)
        route = book.route
        if route is None:
            return _NOTHING
        size = levels[old] - order.shares
        if price == old:
            size = levels[price] = size + shares
            changes: tuple[Level, ...] = ((price, size),)
        else:
            if size:
                levels[old] = size
            else:
                del levels[old]
            more = levels[price] = levels.get(price, self.zero) + shares
            changes = (old, size), (price, more)
        link = book.last
        book.last = last = self.sequence
        if levels is book.bids:
            return ((route, Delta(link, last, changes, _NONE, clock, self.midnight)),)
        return ((route, Delta(link, last, _NONE, changes, clock, self.midnight)),)

    def _execution(self, book: Book, order: Order, price: Number, shares: int, match: int, clock: int,
                   now: int, conditions: tuple[str, ...]) -> Item:
        route: Route = book.trades  # type: ignore[assignment]
        return route, Trade(
            exchange=self._exchange, symbol=route.symbol, timestamp=self.midnight + (clock & _TIME),
            received=now, price=price, size=self._number(shares),
            side="sell" if order.levels is book.bids else "buy", id=str(match), conditions=conditions)

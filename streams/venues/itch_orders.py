"""The orders of an ITCH session, and the price levels they make: what happens thousands of times a second.

A book that nobody watches keeps its orders only; its levels are summed up when somebody does
(:meth:`Book.watch`), and kept from then on.

What changes in a watched book is gathered, and told after a message, or after all messages of one read
of the socket when nobody listens in between.

Measured (``tests/venues/itch_cost.py``, CPython 3.11, CPU us per message, flat out): ``struct.unpack`` and
dicts alone 0.46; this with nothing watched 0.51, with every book watched 0.82, into the store's books 0.90;
told message by message, as while handlers listen, 2.0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec

from ..events import Level, Number, Trade
from ..venue import Item, Route
from .itch_market import Numbers

__all__ = ["Book", "Delta", "Order", "OrderFlow"]

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
    """What one message, or several together, changed in one book; a :class:`streams.venue.BookDelta`."""

    link: int
    last: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    time: int


class Book:
    """One stock.

    Attributes:
        stock: Its symbol.
        orders: Open orders by reference number.
        bids, asks: Price -> shares; right while ``route`` is set.
        sides: The same by the wire's code of the side.
        new_bids, new_asks: What of it has changed since that was last told.
        route: Who watches the book, None while nobody does.
        trades: Who wants the trades, or None.
        routes: Who wants what else, by channel.
        told: Number of the last message whose change was told.
        last: Number of the last message that changed it, ``clock`` its time; untold if ``fresh``.
    """

    __slots__ = ("stock", "orders", "bids", "asks", "sides", "new_bids", "new_asks", "route", "trades",
                 "routes", "told", "last", "clock", "fresh")

    def __init__(self, stock: str) -> None:
        self.stock = stock
        self.orders: dict[int, Order] = {}
        self.bids: dict[Number, Number] = {}
        self.asks: dict[Number, Number] = {}
        self.sides = {_BUY: self.bids, _SELL: self.asks}
        self.new_bids: dict[Number, Number] = {}
        self.new_asks: dict[Number, Number] = {}
        self.route: Route | None = None
        self.trades: Route | None = None
        self.routes: dict[str, Route] = {}
        self.told = self.last = self.clock = 0
        self.fresh = False

    def watch(self, route: Route, last: int, zero: float | Decimal) -> None:
        """Sum up the levels; from now on they are kept, and changes go to ``route``."""
        self._rest()
        for order in self.orders.values():
            levels = order.levels
            levels[order.price] = levels.get(order.price, zero) + order.shares
        self.route = route
        self.told = last

    def tell(self, midnight: int) -> Delta:
        """What has changed since the last time."""
        bids = asks = _NONE
        if self.new_bids:
            bids = tuple(self.new_bids.items())
            self.new_bids.clear()
        if self.new_asks:
            asks = tuple(self.new_asks.items())
            self.new_asks.clear()
        link = self.told
        self.told = last = self.last
        self.fresh = False
        return Delta(link, last, bids, asks, midnight + (self.clock & _TIME))

    def _rest(self) -> None:
        self.route = None
        self.fresh = False
        for levels in (self.bids, self.asks, self.new_bids, self.new_asks):
            levels.clear()

    def connect(self, route: Route) -> None:
        """Something of this stock, its book excepted, is wanted."""
        self.routes[route.channel] = route
        if route.channel == "trades":
            self.trades = route

    def disconnect(self, route: Route) -> None:
        """It is wanted no longer."""
        if self.route is route:
            self._rest()
        elif self.routes.pop(route.channel, None) is self.trades:
            self.trades = None

    def forsake(self) -> None:
        """Nobody wants anything of this stock any more."""
        self._rest()
        self.trades = None
        self.routes = {}


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
            its own type byte before the message. What it says is in ``out`` and ``touched``.
        out: Items to be told, in order.
        touched: Watched books that have changed, to be told after those.
    """

    def __init__(self, exchange: str, numbers: Numbers) -> None:
        self.sequence = 0
        self.midnight = 0
        self.books: dict[int, Book | None] = {}
        self.out: list[Item] = []
        self.touched: list[Book] = []
        self.zero: Number = numbers.number(0)
        self._exchange = exchange
        self._numbers = numbers
        self._number = numbers.number
        self.methods: dict[int, Callable[[bytes, int], None]] = dict(zip(b"AFECXDU", (
            self._add, self._add_attributed, self._execute, self._execute_at, self._cancel, self._delete,
            self._replace)))

    def forsake(self) -> None:
        """The connection is over: nobody wants anything, and nothing is left to tell."""
        self.tell()
        for book in self.books.values():
            if book is not None:
                book.forsake()

    def tell(self) -> Sequence[Item]:
        """All that there is to tell."""
        out = self.out
        if out:
            self.out = []
        elif self.touched:
            out = []
        else:
            return ()
        for book in self.touched:
            if book.fresh:                          # neither told nor forsaken since
                out.append((book.route, book.tell(self.midnight)))  # type: ignore[arg-type]
        self.touched.clear()
        return out

    def _add(self, raw: bytes, now: int) -> None:
        locate, clock, ref, code, shares, wire = _ADD(raw)
        book = self.books[locate]
        if book is None:
            return
        orders = book.orders
        if ref in orders or not shares:
            raise ValueError(f"order {ref} is there already" if shares else f"order {ref} of no shares")
        levels = book.sides[code]
        price = self._numbers[wire]
        orders[ref] = Order(levels, price, shares)
        if book.route is None:
            return
        size = levels[price] = levels.get(price, self.zero) + shares
        if code == _BUY:
            book.new_bids[price] = size
        else:
            book.new_asks[price] = size
        book.last = self.sequence
        book.clock = clock
        if not book.fresh:
            book.fresh = True
            self.touched.append(book)

    def _add_attributed(self, raw: bytes, now: int) -> None:
        if len(raw) != 41:
            raise ValueError
        self._add(raw[:37], now)                    # the same, and then who: 4 bytes

    def _delete(self, raw: bytes, now: int) -> None:
        locate, clock, ref = _DELETE(raw)
        book = self.books[locate]
        if book is None:
            return
        order = book.orders.pop(ref)
        if book.route is not None:
            self._shrink(book, order, order.shares, clock)

    def _execute(self, raw: bytes, now: int) -> None:
        locate, clock, ref, shares, match = _EXECUTED(raw)
        book = self.books[locate]
        if book is None:
            return
        order = book.orders[ref]
        self._reduce(book, ref, order, shares, clock)
        if book.trades is not None:
            self._trade(book, order, order.price, shares, match, clock, now, ())

    def _execute_at(self, raw: bytes, now: int) -> None:
        locate, clock, ref, shares, match, printable, wire = _EXECUTED_AT(raw)
        book = self.books[locate]
        if book is None:
            return
        order = book.orders[ref]
        price = self._numbers[wire]
        self._reduce(book, ref, order, shares, clock)
        if book.trades is not None and printable != b"N":   # not printable: a cross trade will tell of it
            self._trade(book, order, price, shares, match, clock, now, ("C",))

    def _cancel(self, raw: bytes, now: int) -> None:
        locate, clock, ref, shares = _CANCEL(raw)
        book = self.books[locate]
        if book is not None:
            self._reduce(book, ref, book.orders[ref], shares, clock)

    def _reduce(self, book: Book, ref: int, order: Order, shares: int, clock: int) -> None:
        """``shares`` of an order are gone."""
        left = order.shares - shares
        if left > 0:
            order.shares = left
        elif left == 0:
            del book.orders[ref]
        else:
            raise ValueError(f"{shares} shares of order {ref}, which has {order.shares}")
        if book.route is not None:
            self._shrink(book, order, shares, clock)

    def _shrink(self, book: Book, order: Order, shares: int, clock: int) -> None:
        """``shares`` have left the order's level of a watched book."""
        levels, price = order.levels, order.price
        size = levels[price] - shares
        if size:
            levels[price] = size
        else:
            del levels[price]
        if levels is book.bids:
            book.new_bids[price] = size
        else:
            book.new_asks[price] = size
        book.last = self.sequence
        book.clock = clock
        if not book.fresh:
            book.fresh = True
            self.touched.append(book)

    def _replace(self, raw: bytes, now: int) -> None:
        locate, clock, ref, new, shares, wire = _REPLACE(raw)
        book = self.books[locate]
        if book is None:
            return
        orders = book.orders
        order = orders[ref]
        if new in orders or not shares:
            raise ValueError(f"order {new} is there already" if shares else f"order {new} of no shares")
        price = self._numbers[wire]
        levels = order.levels
        del orders[ref]
        orders[new] = Order(levels, price, shares)
        if book.route is None:
            return
        self._shrink(book, order, order.shares, clock)
        size = levels[price] = levels.get(price, self.zero) + shares
        if levels is book.bids:
            book.new_bids[price] = size
        else:
            book.new_asks[price] = size

    def _trade(self, book: Book, order: Order, price: Number, shares: int, match: int, clock: int,
               now: int, conditions: tuple[str, ...]) -> None:
        route: Route = book.trades  # type: ignore[assignment]
        self.out.append((route, Trade(
            exchange=self._exchange, symbol=route.symbol, timestamp=self.midnight + (clock & _TIME),
            received=now, price=price, size=self._number(shares),
            side="sell" if order.levels is book.bids else "buy", id=str(match), conditions=conditions)))

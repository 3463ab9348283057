"""Nasdaq TotalView-ITCH 5.0 over SoupBinTCP: every order of the day, and the books they make.

Sources: "Nasdaq TotalView-ITCH 5.0" (NQTVITCHSpecification.pdf, as of 19 February 2026) and
"SoupBinTCP, Version 3.00"; the tables are in :mod:`.itch_messages` and :mod:`.soup`.

There is nothing to subscribe: a session carries every order of every stock, from its first
message on. So this venue keeps the open orders of all stocks (some 120 bytes each; ``keep="subscribed"``
keeps those of subscribed stocks only), and a book that is subscribed late is whole at once. A late
subscription with ``keep="subscribed"`` has the session sent again from its beginning.

A connection that ends is resumed at the next message (:meth:`NasdaqItch.inherit`): nothing is lost,
nothing comes twice. While a session is far behind (just logged in to in the middle of the day, or
resumed after long), its books are not shown (``syncing``), and appear whole once it has caught up:
``max_lag`` seconds between a message's own time and ours, or a heartbeat.

A message that can not be right (an execution of an order that is not there, a wrong length) changes
nothing and is named. If it concerns orders it is asked for again, by resuming the session at it; if it
is still wrong, orders before it must be, and the session is asked for from its beginning; if it is
wrong even then, it is passed over for good. A message of an unknown type is asked for again once per
type. SoupBinTCP counts messages without numbering them, so this is also what finds a lost one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar

from ..errors import AuthenticationFailed, ConfigurationError
from ..symbols import SymbolStyle
from ..venue import (
    Alive, BookSnapshot, Failed, Item, Limits, Malformed, Notice, Ready, Reconnect, Refused, Reply,
    RestRequest, Route, Signal, Venue,
)
from . import soup
from .itch_market import CHANNEL_OF, EVENT_OF, MARKET_WIDE, Numbers
from .itch_messages import LAYOUTS, StockDirectory, SystemEvent, decode, name_of
from .itch_options import SessionDay, keeps_all, lag_limit
from .itch_orders import Book, OrderFlow

__all__ = ["NasdaqItch"]

_SEQUENCED = soup.SEQUENCED
_ORDER_CODES = frozenset(b"AFECXDU")
_SYMBOL_LENGTH = 8
_NO_SESSION_PAUSE = 5.0     # seconds before asking again for a session that is not there (yet)


class NasdaqItch(Venue):
    """See the module's docstring.

    Options:
        date: Day of the session (``datetime.date`` or ``"2026-02-19"``), for the absolute time of its
            messages; default: today in New York, when the connection is made.
        keep: ``all`` (default) or ``subscribed``: whose orders are kept.
        max_lag: Seconds a session may be behind before its books are held back; None: never held
            back. Default: 30, or None when a ``date`` is given (a session of the past is always behind).
        soup: Version of SoupBinTCP: ``3.00`` (default) or ``4.1``.

    Trades have ``conditions``: none for an execution at the order's price, ``("C",)`` at another
    price, ``("P",)`` of an order that was not displayed, ``("Q", type of cross)`` in a cross.
    """

    name: ClassVar[str] = "nasdaq-itch"
    aliases: ClassVar[tuple[str, ...]] = ("itch", "totalview")
    channels: ClassVar[tuple[str, ...]] = ("book", "trades", "statuses", "imbalances", "lulds")
    carrier: ClassVar[str] = "tcp"
    # The server says something at least every second (SoupBinTCP 1.3): its silence means that it is gone,
    # and that of a stock that nothing happens there, be it for a day.
    limits: ClassVar[Limits] = Limits(
        topics=100_000, batch=1000, messages=(1000, 1.0), connects=(30, 60.0), ack=None, heartbeat=4.0,
        stale_after=86_400.0)
    symbol_style: ClassVar[SymbolStyle] = SymbolStyle("-")
    time_unit: ClassVar[int] = 1
    sparse: ClassVar[frozenset[str]] = frozenset({"trades", "statuses", "imbalances", "lulds"})
    key_env: ClassVar[tuple[str, ...]] = ("NASDAQ_ITCH_USER",)
    secret_env: ClassVar[tuple[str, ...]] = ("NASDAQ_ITCH_PASSWORD",)
    joins: ClassVar[bool] = True
    options: ClassVar[tuple[str, ...]] = ("date", "keep", "max_lag", "soup")
    rule = "chained"    # each delta links to the number of the message that changed the book before

    def __init__(
        self, *, number: type[float] | type[Decimal] = float, depth: int | None = None,
        api_key: str | None = None, api_secret: str | None = None, **options: Any,
    ) -> None:
        super().__init__(number=number, depth=depth, **options)
        self._login = soup.Login(api_key, api_secret, options.get("soup", "3.00"))
        self._day = SessionDay(options.get("date"))
        self._keep_all = keeps_all(options.get("keep", "all"))
        self._max_lag = lag_limit(options.get("max_lag", None if self._day.past else 30.0))
        self._numbers = Numbers(number)
        # The session, and what it has said so far; handed on to the next connection.
        self._session_id = ""
        self._flow = OrderFlow(self.name, self._numbers)
        self._stocks: dict[str, int] = {}           # symbol -> locate code
        self._complete = False                      # the stock directory is
        self._partial = False                       # the session was not joined at its beginning
        self._suspects: dict[int, int] = {}         # number of an impossible message -> times met
        self._strange: set[int] = set()             # unknown types met before
        # This connection only.
        self._resume = 0                            # not 0: it is to end, and the next one goes on here
        self._behind = False
        self._attend = False                        # receive() has more to do than the message
        self._unplaced: dict[Route, None] = {}      # routes whose stock is not known (yet)
        self._pending: dict[Route, None] = {}       # book routes that need the whole book
        self._wanted: dict[str, list[Route]] = {}   # symbol -> routes
        self._packets: dict[int, Callable[[bytes, int], None]] = {
            soup.ACCEPTED: self._accepted, soup.REJECTED: self._rejected,
            soup.UNSEQUENCED: self._ignore, soup.SERVER_HEARTBEAT: self._beats,
            soup.END_OF_SESSION: self._ended, soup.DEBUG: self._debug,
        }
        self._messages: dict[int, Callable[[bytes, int], None]] = {}
        self._use(self._flow)

    def _use(self, flow: OrderFlow) -> None:
        self._flow = flow
        self._messages = {**dict.fromkeys(LAYOUTS, self._other), **flow.methods}

    # -- questions that need no connection -------------------------------------------------------

    def native(self, symbol: str) -> str:
        """Nasdaq's own spelling, in upper case: at most 8 printable characters (``BRK.B``, ``AAC+``)."""
        ok = isinstance(symbol, str) and 0 < len(symbol) <= _SYMBOL_LENGTH
        if not ok or not all("!" <= c <= "~" and c != "*" for c in symbol):
            raise ConfigurationError(
                f"{symbol!r} is no symbol of {self.name}; write it as Nasdaq does, like 'AAPL' or 'BRK.B'")
        return symbol.upper()

    def topics(self, channel: str, native: str) -> tuple[str, ...]:
        """See Venue; nothing is sent, so these are names for our own use."""
        return (f"{channel}:{native}",)

    def transport_options(self) -> Mapping[str, Any]:
        """SoupBinTCP's packets: a length of two bytes before each."""
        return soup.FRAMING

    # -- the conversation ------------------------------------------------------------------------

    def inherit(self, previous: Venue) -> None:
        """Go on where ``previous`` stopped: its session, the next number, and all orders so far."""
        if not isinstance(previous, NasdaqItch):
            return
        self._suspects, self._strange = previous._suspects, previous._strange
        if previous._resume == 1:
            return
        self._use(previous._flow)
        if previous._resume:
            self._flow.sequence = previous._resume - 1
        self._session_id = previous._session_id
        self._stocks = previous._stocks
        self._complete, self._partial = previous._complete, previous._partial
        self._flow.forsake()

    def add(self, route: Route) -> None:
        """See Venue."""
        super().add(route)
        self._wanted.setdefault(route.native, []).append(route)
        self._place(route)

    def remove(self, route: Route) -> None:
        """See Venue."""
        super().remove(route)
        self._pending.pop(route, None)
        self._unplaced.pop(route, None)
        routes = self._wanted.get(route.native, [])
        if route in routes:
            routes.remove(route)
        book = self._flow.books.get(self._stocks.get(route.native, -1))
        if book is not None:
            book.disconnect(route)

    def opened(self, now: int) -> Sequence[Item]:
        """See Venue: log in, to the session and the number inherited if there are any."""
        flow = self._flow
        if not self._session_id:
            flow.midnight = self._day.midnight(now)
        request = self._login.request(self._session_id, flow.sequence + 1)
        return [(self.session, Reply(request, secret=True))]

    def subscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue: everything is sent anyway."""
        return ()

    def unsubscribe(self, topics: Sequence[str]) -> Sequence[bytes | str]:
        """See Venue."""
        return ()

    def heartbeat(self, now: int) -> tuple[float, Sequence[bytes | str]]:
        """See Venue: SoupBinTCP 1.3."""
        return 1.0, (soup.HEARTBEAT,)

    def goodbye(self) -> Sequence[bytes | str]:
        """See Venue."""
        return (soup.LOGOUT,)

    def refresh(self, route: Route) -> RestRequest | Sequence[bytes | str] | None:
        """See Venue: the whole book comes with the next packet, out of the orders kept."""
        if route.native in self._stocks and not self._partial:
            self._pending[route] = None
            self._attend = True
        return ()

    def receive(self, raw: bytes, now: int) -> Sequence[Item]:
        """See Venue. ``raw`` is one SoupBinTCP packet without its length."""
        flow = self._flow
        try:
            if raw[0] == _SEQUENCED:
                flow.sequence += 1
                self._messages[raw[1]](raw, now)
            else:
                self._packets[raw[0]](raw, now)
        except (LookupError, ValueError, struct.error) as error:
            self._bad(raw, error)
        if self._attend:
            self._look_around(raw, now)
        return flow.tell() if flow.touched or flow.out else ()

    def receive_many(self, messages: Sequence[bytes], now: int) -> Sequence[Item]:
        """See Venue: all that these changed in a book is one delta."""
        flow, methods = self._flow, self._messages
        for raw in messages:                        # receive(), written out: a call less for each
            try:
                if raw[0] == _SEQUENCED:
                    flow.sequence += 1
                    methods[raw[1]](raw, now)
                else:
                    self._packets[raw[0]](raw, now)
            except (LookupError, ValueError, struct.error) as error:
                self._bad(raw, error)
            if self._attend:
                self._look_around(raw, now)
        return flow.tell()

    # -- the session -----------------------------------------------------------------------------

    def _accepted(self, raw: bytes, now: int) -> None:
        session, number = soup.read_accepted(raw)
        asked = self._flow.sequence + 1
        if number != asked or self._session_id not in ("", session):
            said = f"asked for message {asked} of session {self._session_id or '(current)'}, " \
                   f"was given {number} of {session}"
            if asked > 1:
                self._end(1, f"sequence gap: {said}", planned=False)
                return
            self._partial = True
            self._say(Notice(f"{said}: there will be no books"))
        self._session_id = session
        self._flow.sequence = number - 1
        self._behind = self._max_lag > 0
        self._attend = True
        for routes in self._wanted.values():
            for route in routes:
                self._place(route)
        self._say(Ready())

    def _rejected(self, raw: bytes, now: int) -> None:
        code = raw[1:]
        if code == b"A":
            error = AuthenticationFailed(f"{self.name}: the server did not accept user name and password")
            self._say(Failed(error))
        elif code != b"S":
            raise ValueError(f"login rejected with {code!r}")
        elif self._session_id:
            self._suspects = {}
            self._end(1, f"session {self._session_id} is not available any more", planned=True)
        else:
            self._end(1, "no session is available", planned=False, after=_NO_SESSION_PAUSE)

    def _ended(self, raw: bytes, now: int) -> None:
        self._suspects = {}                         # the next session counts from 1
        self._end(1, "the session has ended", planned=True, after=_NO_SESSION_PAUSE)

    def _debug(self, raw: bytes, now: int) -> None:
        self._say(Notice(raw[1:].decode("latin-1").strip()))

    def _ignore(self, raw: bytes, now: int) -> None:
        """There is nothing to do."""

    def _beats(self, raw: bytes, now: int) -> None:
        self._say(Alive())

    def _say(self, signal: Signal) -> None:
        """Have a signal told with the next packet, or with this one."""
        self._flow.out.append((self.session, signal))

    def _end(self, resume: int, reason: str, *, planned: bool, after: float = 0.0) -> None:
        """This connection is to end; the next one goes on at message ``resume``, 1 meaning all anew."""
        self._resume = resume
        self._attend = False
        self._packets.clear()                       # what still comes is not ours any more
        self._messages.clear()
        self._say(Reconnect(reason, after, planned))

    def _bad(self, raw: bytes, error: Exception) -> None:
        """A packet that can not be right; see the module's docstring."""
        if self._resume:
            return
        if raw[:1] != b"S":
            self._say(Malformed(f"packet {raw[:1]!r}: {error}" if raw else "an empty packet"))
            return
        number = self._flow.sequence
        code = raw[1] if len(raw) > 1 else -1
        if self._partial and code in _ORDER_CODES and isinstance(error, LookupError):
            return                                  # of an order from before we came
        reason = f"message {number}, {self._explain(code, raw, error)}"
        self._say(Malformed(reason))
        if code in _ORDER_CODES:
            met = self._suspects[number] = self._suspects.get(number, 0) + 1
            if met <= 2:
                self._end(number if met == 1 else 1, reason, planned=False)
        elif code not in LAYOUTS and code not in self._strange:
            self._strange.add(code)
            self._end(number, reason, planned=False)

    def _explain(self, code: int, raw: bytes, error: Exception) -> str:
        layout = LAYOUTS.get(code)
        if layout is None:
            return name_of(code) if code >= 0 else "no type"
        if len(raw) != layout.size + 1:
            return f"{layout.name}: {len(raw) - 1} bytes instead of {layout.size}"
        if not isinstance(error, KeyError):
            return f"{layout.name}: {error}"
        if int.from_bytes(raw[2:4], "big") not in self._flow.books:
            return f"{layout.name}: locate code {error} is not in the stock directory"
        return f"{layout.name}: {error} is not known"

    # -- which book is whose ---------------------------------------------------------------------

    def _place(self, route: Route) -> None:
        """Connect a route to its stock, if that is known already."""
        if self._partial and route.channel == "book":
            reason = "the session was joined after its beginning: its books can not be known"
            self._say(Refused(route.topics, reason))
            return
        locate = self._stocks.get(route.native)
        if locate is None:
            self._unplaced[route] = None
            self._attend |= self._complete
            return
        self._unplaced.pop(route, None)
        book = self._flow.books[locate]
        if book is None:
            reason = f"the orders of {route.native} were not kept: the session is needed from its beginning"
            self._end(1, reason, planned=True)
        elif route.channel == "book":
            self._pending[route] = None
            self._attend = True
        else:
            book.connect(route)

    def _look_around(self, raw: bytes, now: int) -> None:
        """What else is to be told with this packet."""
        self._attend = False
        if self._behind:
            self._behind = self._attend = self._lags(raw, now)
        if self._complete and self._unplaced:
            gone, self._unplaced = self._unplaced, {}
            for route in gone:
                reason = f"{route.native} is not in the stock directory of this session"
                self._say(Refused(route.topics, reason))
        if self._behind:
            return
        for route in self._pending:
            book = self._flow.books.get(self._stocks[route.native])
            if book is not None:
                self._flow.out.append((route, self._whole(book, route, raw)))
        self._pending.clear()

    def _lags(self, raw: bytes, now: int) -> bool:
        """Whether the session is behind; a heartbeat says that it has nothing more to tell."""
        if raw[:1] != b"S":
            return raw[:1] != b"H"
        return now - self._flow.midnight - int.from_bytes(raw[6:12], "big") > self._max_lag

    def _whole(self, book: Book, route: Route, raw: bytes) -> BookSnapshot:
        flow = self._flow
        book.watch(route, flow.sequence, flow.zero)
        timed = raw[:1] == b"S" and len(raw) > 12
        time = flow.midnight + int.from_bytes(raw[6:12], "big") if timed else 0
        return BookSnapshot(flow.sequence, list(book.bids.items()), list(book.asks.items()), time)

    # -- all messages but the orders' ------------------------------------------------------------

    def _other(self, raw: bytes, now: int) -> None:
        message: Any = decode(raw[1:])
        kind = type(message)
        if kind is StockDirectory:
            self._learn(message)
        elif kind is SystemEvent and message.event in "SQ":
            self._complete = True                   # the directory is sent before system hours
            self._attend |= bool(self._unplaced)
        book = self._flow.books.get(message.locate)
        routes: Iterable[Route | None]
        if kind in MARKET_WIDE:
            routes = [route for (channel, _), route in self.routes.items() if channel == "statuses"]
        else:
            routes = (None if book is None else book.routes.get(CHANNEL_OF.get(kind, "statuses")),)
        for route in routes:
            if route is not None:
                common = {"exchange": self.name, "symbol": route.symbol, "received": now,
                          "timestamp": self._flow.midnight + message.time}
                event = EVENT_OF[kind](message, self._numbers, common)
                if event is not None:
                    self._flow.out.append((route, event))

    def _learn(self, message: StockDirectory) -> None:
        """A stock and its locate code."""
        stock, books = message.stock, self._flow.books
        wanted = self._wanted.get(stock, ())
        known = books.get(message.locate)
        self._stocks[stock] = message.locate
        if known is None or known.stock != stock:
            books[message.locate] = Book(stock) if self._keep_all or wanted else None
        for route in wanted:
            if route in self._unplaced:
                self._place(route)

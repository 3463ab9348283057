"""What the simulated stock venues share: arrays of mixed messages, made events, slow look-ups."""
from __future__ import annotations

import fnmatch
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from .connection import Connection
from .market import Update
from .simulation import MarketSim
from .tape import Listing, Tape
from .tape_events import BookChange, Event
from .trouble import Outgoing
from .venue import Wire
from .web import PeerGone, Request, Response

_KEPT_LOGS = 200            # connections whose log of sent messages is kept
_BURST = 500                # events between two flushes
_MINUTE = 60_000_000_000

Record = dict[str, Any]


class Rendered(NamedTuple):
    """One message of an array: as a record, and as the bytes that stand for it."""

    record: Record
    payload: bytes


class _Item(NamedTuple):
    topic: str
    symbol: str
    whole_book: bool
    message: Rendered


class TapeWire(Wire):
    """The control language of a venue that sends arrays of messages."""

    def wanted(self, conn: Connection, event: Event) -> str | None:
        """The topic by which this client gets an event; None when it does not. Threads: any."""
        raise NotImplementedError

    def render(self, variant: tuple[object, ...], event: Event) -> Rendered:
        """An event as a message. Threads: any."""
        raise NotImplementedError

    def join(self, variant: tuple[object, ...], payloads: list[bytes]) -> Outgoing:
        """Messages as one array. Threads: any."""
        raise NotImplementedError

    def before_data(self, conn: Connection) -> list[Rendered]:
        """Control messages that were held back to share an array with data. Threads: any."""
        return []

    def too_slow(self, conn: Connection) -> None:
        """A client does not read: tell it, and end it. Threads: any."""
        raise NotImplementedError


class Clock:
    """The time of the market, which may be put forward.

    Attributes:
        ahead: ns that it is ahead of its source.
    """

    def __init__(self, source: Callable[[], int]) -> None:
        self.ahead = 0
        self._source = source

    def __call__(self) -> int:
        return self._source() + self.ahead


class TapeSim(MarketSim):
    """A simulated venue of stocks and whatever else has trades and quotes.

    Args:
        listings: what is traded.
        batch: most messages in one array; how many there are is a seeded choice.
        slow_limit: bytes that may wait for a client before it counts as slow and is ended.
        sent_history: messages of each connection that `sent` keeps.
        rest_delay: seconds that every REST answer takes; may be changed at any time.
        rest_limit: ``(requests, seconds)``; more are answered with 429. None: no limit.
        midpoints: see `Tape`.
        seed, rate, port, levels, ssl_context, clock: see `MarketSim`.

    Attributes:
        market: the oracle of books.
        tape: the oracle of trades, quotes and bars.
        in_flight: REST requests that are being answered now.
        max_in_flight: the most there were at once.
    """

    wire: TapeWire

    def __init__(self, listings: Iterable[Listing], *, seed: int, rate: float, port: int,
                 levels: int, ssl_context: ssl.SSLContext | None, clock: Callable[[], int],
                 batch: int, slow_limit: int, sent_history: int, rest_delay: float,
                 rest_limit: tuple[int, float] | None, midpoints: bool = False) -> None:
        if batch < 1:
            raise ValueError(f"batch {batch}: expected 1 or more messages")
        listings = list(listings)
        self.batch = batch
        self.slow_limit = slow_limit
        self.sent_history = sent_history
        self.rest_delay = rest_delay
        self.rest_limit = rest_limit
        self._sent: dict[int, deque[Record]] = {}
        self.in_flight = 0
        self.max_in_flight = 0
        self.tape = Tape(listings, seed, midpoints=midpoints)
        self._clock = Clock(clock)
        self._observed: list[Event] = []
        self._pending: list[Event] = []
        self._sizes = random.Random(f"{seed}/arrays")
        self._rest_times: deque[float] = deque()
        self._rest_lock = threading.Lock()
        super().__init__(listings, seed=seed, rate=rate, port=port, levels=levels,
                         ssl_context=ssl_context, clock=self._clock)
        for symbol in self.market.symbols:      # so that there is a last trade from the start
            while not self._has_begun(symbol):
                self.observe(self.market.step(symbol))

    def _has_begun(self, symbol: str) -> bool:
        try:
            self.tape.last_quote(symbol)
            return self.tape.kind(symbol) in ("index", "forex") or bool(self.tape.last_trade(symbol))
        except IndexError:
            return False

    # -- the market moves -------------------------------------------------------------------------

    def observe(self, update: Update) -> None:
        """Let the tape make events of an update."""
        self._observed = self.tape.take(update)

    def emit(self, update: Update) -> None:
        """Keep them until the next array is sent."""
        self._pending += self._observed

    def flush(self) -> None:
        """Send what has happened, as arrays."""
        with self.publishing:
            events, self._pending = self._pending, []
            if events:
                self._publish(events)
        super().flush()

    def _publish(self, events: list[Event]) -> None:
        known: dict[tuple[tuple[object, ...], int], Rendered] = {}
        for conn in self.connections:
            if conn.session is None:            # its handshake is not done yet
                continue
            items: list[_Item] = []
            for index, event in enumerate(events):
                topic = self.wire.wanted(conn, event)
                if topic is None:
                    continue
                key = conn.variant, index
                if key not in known:
                    known[key] = self.wire.render(conn.variant, event)
                items.append(_Item(topic, getattr(event, "symbol", ""),
                                   isinstance(event, BookChange) and event.whole, known[key]))
            if items and conn.peer.pending > self.slow_limit:
                self.wire.too_slow(conn)
            elif items:
                self._deliver(conn, items)

    def _deliver(self, conn: Connection, items: list[_Item]) -> None:
        self.log(conn, [item.message.record for item in items])
        start = 0
        while start < len(items):
            size = self._sizes.randint(1, self.batch)
            self._send_array(conn, items[start:start + size])
            start += size

    def _send_array(self, conn: Connection, items: list[_Item]) -> None:
        if conn.trouble is not None:            # faults strike single messages
            self._send_singly(conn, items)
            return
        for index in range(len(items)):
            fault = self.plans.draw()
            if fault is not None:
                self._send_together(conn, items[:index])
                self._trouble(conn).strike(fault)
                self._send_singly(conn, items[index:])
                return
        self._send_together(conn, items)

    def _send_singly(self, conn: Connection, items: list[_Item]) -> None:
        trouble = self._trouble(conn)
        for item in items:
            message = self.wire.join(conn.variant, [item.message.payload])
            trouble.deliver(item.topic, item.symbol, message, not item.whole_book)

    def _send_together(self, conn: Connection, items: list[_Item]) -> None:
        if items:
            first = [message.payload for message in self.wire.before_data(conn)]
            payloads = first + [item.message.payload for item in items]
            conn.queue_message(*self.wire.join(conn.variant, payloads))

    def log(self, conn: Connection, records: Iterable[Record]) -> None:
        """Add to what `sent` remembers of a client. Threads: any."""
        with self.publishing:
            if conn.id not in self._sent:
                self._sent[conn.id] = deque(maxlen=self.sent_history)
                while len(self._sent) > _KEPT_LOGS:
                    del self._sent[min(self._sent)]
            self._sent[conn.id].extend(records)

    def sent(self, connection: int) -> list[Record]:
        """The last messages to a connection (by its id, which outlives it), control messages
        included, as they were before any fault struck.

        Threads: any.
        """
        with self.publishing:
            return list(self._sent.get(connection, ()))

    # -- what a test makes happen -----------------------------------------------------------------

    def _happen(self, make: Callable[[int], list[Event]]) -> list[Event]:
        with self.publishing:
            with self.market.lock:
                events = make(self._clock())
            self._pending += events
            self.flush()
        return events

    def trade(self, symbol: str, price: object = None, size: object = None,
              late: float = 0.0) -> list[Event]:
        """Make a trade now, at any price (None: at the ask), or ``late`` seconds ago.

        Threads: any. Raises LookupError for an unknown symbol.
        """
        return self._happen(lambda now: self.tape.trade(
            symbol, now, _decimal(price), _decimal(size), int(late * 1e9)))

    def quote(self, symbol: str, bid: object, ask: object, size: object = None) -> list[Event]:
        """Make a quote now, at any prices, crossed or absurd. Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.quote(
            symbol, now, Decimal(str(bid)), Decimal(str(ask)), _decimal(size)))

    def correct(self, symbol: str, price: object = None) -> list[Event]:
        """Correct the last trade. Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.correct(symbol, now, _decimal(price)))

    def cancel(self, symbol: str, action: str = "C") -> list[Event]:
        """Cancel the last trade (``C``), or call it an error (``E``). Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.cancel(symbol, now, action))

    def halt(self, symbol: str) -> list[Event]:
        """Halt trading: no trades and quotes until `resume`. Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.halt(symbol, now))

    def resume(self, symbol: str) -> list[Event]:
        """End a halt. Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.halt(symbol, now, False))

    def bands(self, symbol: str) -> list[Event]:
        """Publish new limits up and down. Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.bands(symbol, now))

    def imbalance(self, symbol: str) -> list[Event]:
        """Publish an imbalance of orders. Threads, errors: as `trade`."""
        return self._happen(lambda now: self.tape.imbalance(symbol, now))

    def news(self, headline: str, symbols: Iterable[str]) -> list[Event]:
        """Publish a news article about ``symbols``. Threads: any."""
        return self._happen(lambda now: self.tape.story(now, headline, symbols))

    def reset_book(self, symbol: str) -> list[Event]:
        """Send the whole book of a crypto pair again. Threads, errors: as `trade`."""
        return self._happen(lambda now: [self.whole_book(symbol)])

    def next_minute(self) -> list[Event]:
        """Put the market's clock forward to the next full minute: bars are over.

        Threads: any.
        """
        now = self._clock()
        self._clock.ahead += _MINUTE - now % _MINUTE
        return self._happen(self.tape.roll)

    def burst(self, symbol: str, n: int) -> int:
        """Make ``n`` trades at once, in turns of all symbols that match (``O:NVDA*``).

        Threads: any.

        Returns:
            How many there were.

        Raises:
            LookupError: no symbol matches.
        """
        names = [name for name in self.market.symbols if fnmatch.fnmatchcase(name, symbol.upper())]
        if not names:
            raise LookupError(f"no symbol like {symbol!r}; there are: {', '.join(self.market.symbols)}")
        done = 0
        while done < n:
            with self.publishing:
                for _ in range(min(_BURST, n - done)):
                    self._pending += self.tape.trade(names[done % len(names)], self._clock())
                    done += 1
                self.flush()
            self._give_way()
        return done

    def whole_book(self, symbol: str) -> BookChange:
        """The book of a symbol as an event. Threads: any, while `publishing`."""
        book = self.market.book(symbol)
        return BookChange(book.symbol, self._clock(), tuple(book.bids), tuple(book.asks), True)

    # -- REST ----------------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Answer a request, counting how many are answered at once."""
        with self._rest_lock:
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            return super().respond(request)
        finally:
            with self._rest_lock:
                self.in_flight -= 1

    def wants_snapshot(self, request: Request) -> bool:
        """Every request asks for data that planned faults may spoil."""
        return True

    def snapshot(self, request: Request, updates_ago: int) -> Response:
        """Check the key and the limit, take the time it takes, answer."""
        refusal = self.rest_refusal(request) or self._over_limit()
        if self.rest_delay and self.stopping.wait(self.rest_delay):
            raise PeerGone("the server stops")
        return refusal or self.look_up(request, updates_ago)

    def rest_refusal(self, request: Request) -> Response | None:
        """The answer to a wrong key. Threads: the connection's own."""
        raise NotImplementedError

    def look_up(self, request: Request, updates_ago: int) -> Response:
        """The answer, as it was some updates ago. Threads: the connection's own."""
        raise NotImplementedError

    def too_many_requests(self, retry_after: int) -> Response:
        """The venue's 429. Threads: any."""
        raise NotImplementedError

    def rest_left(self) -> tuple[int, int] | None:
        """How many requests the limit allows, and how many of them are left; None without one.

        Threads: any.
        """
        if self.rest_limit is None:
            return None
        with self._rest_lock:
            return self.rest_limit[0], self.rest_limit[0] - len(self._rest_times)

    def _over_limit(self) -> Response | None:
        if self.rest_limit is None:
            return None
        count, seconds = self.rest_limit
        now = time.monotonic()
        with self._rest_lock:
            while self._rest_times and self._rest_times[0] <= now - seconds:
                self._rest_times.popleft()
            if len(self._rest_times) < count:
                self._rest_times.append(now)
                return None
            self.violations += 1
            return self.too_many_requests(int(self._rest_times[0] + seconds - now) + 1)

    def list_topic(self, conn: Connection, topic: str) -> None:
        """Add a topic to a client's list. Threads: any, while `publishing`."""
        self.subscribe(conn, topic, routed=False)
        if conn.trouble is not None and conn.trouble.has("ack_silence"):
            conn.trouble.silenced.add(topic)


def _decimal(value: object) -> Decimal | None:
    return None if value is None else Decimal(str(value))

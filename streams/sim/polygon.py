"""Simulated Polygon (Massive): stocks, options, crypto, forex, indices, futures.

Written from massive.com/docs; see `polygon_wire`, `polygon_messages` and `polygon_rest` for the pages.
"""
from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Collection, Iterable

from .connection import Connection
from .faults import Fault
from .listings import listings, polygon_kind
from .market import Update
from .polygon_rest import PolygonRest
from .polygon_wire import CONFIRMATIONS, PolygonWire
from .tape_events import BookChange, Event
from .tape_sim import TapeSim
from .web import Request, Response

#: What is traded unless told otherwise.
SYMBOLS = ("AAPL", "NVDA", "MSFT", "O:NVDA261218C00200000", "O:NVDA261218P00180000", "BTC-USD",
           "ETH-USD", "EUR/USD", "I:SPX", "ESZ6")
_BOOK_LEVELS = 100      # of an XL2 message


class PolygonSim(TapeSim):
    """Simulated Polygon.

    Args:
        symbols: stocks (``AAPL``), options (``O:NVDA261218C00200000``), crypto pairs (``BTC-USD``; on
            exchange 23 instead of 1: ``BTC-USD@23``), currencies (``EUR/USD``), indices (``I:SPX``),
            futures (``ESZ6``).
        keys: the API keys that are accepted.
        denied: what is not in the plan: clusters (``options``), channels (``Q``) or channels of a
            cluster (``stocks.Q``): "not authorized", and 403 by REST for clusters.
        auth_timeout: seconds to authenticate.
        connection_limit: connections of one key at one cluster; one more ends the oldest.
        confirmations: how subscriptions are confirmed: ``each`` in an array of its own, all in one
            ``array``, ``joined`` in one message, or ``mixed`` into an array of data.
        delayed: messages are 15 minutes old, as at the delayed address.
        quote_lot: shares in one unit of a stock quote's size.
        rate: updates of each symbol per second, 0: only `advance` moves the market.
        seed, port, levels, ssl_context, clock, batch, slow_limit, sent_history, rest_delay,
            rest_limit: see `TapeSim`.
    """

    name = "polygon"
    wire: PolygonWire

    def __init__(self, symbols: Iterable[str] = SYMBOLS, *, keys: Collection[str] = ("KEY",),
                 denied: Collection[str] = (), auth_timeout: float = 10.0, connection_limit: int = 1,
                 confirmations: str = "each", delayed: bool = False, quote_lot: int = 100,
                 rate: float = 20.0, seed: int = 1, port: int = 0, levels: int = 20,
                 ssl_context: ssl.SSLContext | None = None, clock: Callable[[], int] = time.time_ns,
                 batch: int = 20, slow_limit: int = 4 << 20, sent_history: int = 50_000,
                 rest_delay: float = 0.0, rest_limit: tuple[int, float] | None = None) -> None:
        if confirmations not in CONFIRMATIONS:
            raise ValueError(f"confirmations {confirmations!r}: expected one of "
                             f"{', '.join(CONFIRMATIONS)}")
        if isinstance(keys, str):
            raise ValueError("keys: expected a list of API keys")
        if isinstance(denied, str):
            raise ValueError(f"denied={denied!r}: expected a list such as [{denied!r}]")
        self.keys = keys
        self.denied = frozenset(denied)
        self.auth_timeout = auth_timeout
        self.connection_limit = connection_limit
        self.confirmations = confirmations
        self.delayed = delayed
        self.quote_lot = quote_lot
        super().__init__(listings(symbols, polygon_kind), seed=seed, rate=rate, port=port, levels=levels,
                         ssl_context=ssl_context, clock=clock, batch=batch, slow_limit=slow_limit,
                         sent_history=sent_history, rest_delay=rest_delay, rest_limit=rest_limit)
        self._rest = PolygonRest(self)

    def make_wire(self) -> PolygonWire:
        """Polygon's control language."""
        return PolygonWire(self)

    def observe(self, update: Update) -> None:
        """Let the tape make events; a change of a book becomes the book as it is then."""
        super().observe(update)
        self._observed = [self._whole(event) if isinstance(event, BookChange) else event
                          for event in self._observed]

    def _whole(self, change: BookChange) -> Event:
        market = self.market[change.symbol]
        tick, lot = market.instrument.tick, market.instrument.lot
        bids, asks = (tuple((abs(key) * tick, lots * lot) for key, lots in side)
                      for side in market.top(_BOOK_LEVELS))
        return change._replace(bids=bids, asks=asks)

    def on_close(self, conn: Connection) -> None:
        """Forget whose connection it was."""
        self.wire.closed(conn)
        super().on_close(conn)

    # -- what a test makes happen ------------------------------------------------------------------------

    def send_status(self, status: str, message: str, connection: Connection | None = None) -> None:
        """Send a status message to one client or to all. Threads: any."""
        with self.publishing:
            for conn in [connection] if connection is not None else self.connections:
                self.wire.status(conn, status, message)

    # -- REST ----------------------------------------------------------------------------------------------

    def rest_refusal(self, request: Request) -> Response | None:
        """401 without a key that is known, 403 for what is not in the plan."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = token.strip() if scheme.lower() == "bearer" else request.query.get("apiKey", "")
        if key not in self.keys:
            return Response.json({"status": "ERROR", "request_id": "0", "error": "Unknown API Key"}, 401)
        if any(f"/{cluster}" in request.path for cluster in self.denied):
            return Response.json({"status": "NOT_AUTHORIZED", "request_id": "0",
                                  "message": "You are not entitled to this data."}, 403)
        return None

    def look_up(self, request: Request, updates_ago: int) -> Response:
        """Answer from the tape and the market."""
        return self._rest.answer(request, updates_ago)

    def too_many_requests(self, retry_after: int) -> Response:
        """Polygon's words for it."""
        return Response.json(
            {"status": "ERROR", "request_id": "0",
             "error": "You've exceeded the maximum requests per minute, please wait or upgrade your "
                      "subscription to continue."}, 429, (("Retry-After", str(retry_after)),))

    def broken_snapshot(self, fault: Fault) -> Response:
        """The answers of planned REST faults, as Polygon spells them."""
        if fault.name == "snapshot_garbage":
            return Response(200, b'{"status":"OK","results":{"T":"AAPL","p":1')
        if fault.name == "snapshot_500":
            return Response.json({"status": "ERROR", "request_id": "0", "error": "internal error"}, 500)
        if fault.name == "snapshot_418":
            return Response.json({"status": "NOT_AUTHORIZED", "request_id": "0",
                                  "message": "You are not entitled to this data."}, 403)
        return self.too_many_requests(int(fault.number("retry_after")))

"""Simulated Alpaca: stocks, crypto, options and news, with accounts and their limits.

Written from docs.alpaca.markets; see `alpaca_wire`, `alpaca_messages` and `alpaca_rest` for the pages.
"""
from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping

from .alpaca_rest import AlpacaRest
from .alpaca_wire import AlpacaWire, credentials_of
from .connection import Connection
from .faults import Fault
from .listings import alpaca_kind, listings
from .tape_sim import TapeSim
from .web import Request, Response

#: What is traded unless told otherwise.
SYMBOLS = ("AAPL", "NVDA", "FAKEPACA", "BTC/USD", "ETH/USD", "NVDA261218C00200000",
           "NVDA261218P00180000")
_ENDING = (404, 407)            # errors that end the connection


class AlpacaSim(TapeSim):
    """Simulated Alpaca.

    Args:
        symbols: stocks (``AAPL``), crypto pairs (``BTC/USD``), options (``NVDA261218C00200000``).
            The test feed has ``FAKEPACA`` only, the other feeds of stocks have all but that.
        keys: secret by key.
        tokens: accepted with ``"key": "oauth"`` or ``Authorization: Bearer``; token -> whether it may
            have data (411 otherwise).
        denied: feeds (``sip``, ``opra``, ...) that are not in the plan: 409, and 403 by REST.
        auth_timeout: seconds to authenticate (404 after that).
        symbol_limit: trades plus quotes that one connection may have (405 beyond), None: no limit.
        connection_limit: connections of one account at one endpoint (406 beyond).
        slot_hold: seconds that the place of a client that went without a close frame stays taken
            (some 90 at the real venue).
        handshake_limit: ``(handshakes, seconds)``; faster ones are refused with HTTP 429.
        quote_lot: shares in one unit of a stock quote's size.
        ping_interval: seconds between the server's ping frames, None for none.
        rate: updates of each symbol per second, 0: only `advance` moves the market.
        seed, port, levels, ssl_context, clock, batch, slow_limit, sent_history, rest_delay,
            rest_limit: see `TapeSim`.
    """

    name = "alpaca"
    wire: AlpacaWire

    def __init__(self, symbols: Iterable[str] = SYMBOLS, *, keys: Mapping[str, str] | None = None,
                 tokens: Mapping[str, bool] | None = None, denied: Collection[str] = (),
                 auth_timeout: float = 10.0, symbol_limit: int | None = None,
                 connection_limit: int = 1, slot_hold: float = 0.0,
                 handshake_limit: tuple[int, float] | None = None, quote_lot: int = 100,
                 ping_interval: float | None = 10.0, rate: float = 20.0, seed: int = 1, port: int = 0,
                 levels: int = 20, ssl_context: ssl.SSLContext | None = None,
                 clock: Callable[[], int] = time.time_ns, batch: int = 20, slow_limit: int = 4 << 20,
                 sent_history: int = 50_000, rest_delay: float = 0.0,
                 rest_limit: tuple[int, float] | None = None) -> None:
        if isinstance(denied, str):
            raise ValueError(f"denied={denied!r}: expected a list such as [{denied!r}]")
        self.keys = {"KEY": "SECRET"} if keys is None else dict(keys)
        self.tokens = dict(tokens or {})
        self.denied = frozenset(denied)
        self.auth_timeout = auth_timeout
        self.symbol_limit = symbol_limit
        self.connection_limit = connection_limit
        self.slot_hold = slot_hold
        self.handshake_limit = handshake_limit
        self.quote_lot = quote_lot
        self.ping_interval = ping_interval
        self._handshakes: deque[float] = deque()
        self._handshake_lock = threading.Lock()
        super().__init__(listings(symbols, alpaca_kind), seed=seed, rate=rate, port=port, levels=levels,
                         ssl_context=ssl_context, clock=clock, batch=batch, slow_limit=slow_limit,
                         sent_history=sent_history, rest_delay=rest_delay, rest_limit=rest_limit,
                         midpoints=True)
        self._rest = AlpacaRest(self)

    def make_wire(self) -> AlpacaWire:
        """Alpaca's control language."""
        return AlpacaWire(self)

    # -- accounts --------------------------------------------------------------------------------------

    def account(self, key: str, secret: str) -> str | None:
        """Whose credentials these are; None when they are wrong. Threads: any."""
        if key in ("oauth", "access_token"):
            return f"token {secret}" if secret in self.tokens else None
        return f"key {key}" if secret and self.keys.get(key) == secret else None

    def may_stream(self, account: str) -> bool:
        """Whether the account's token has the scope for data. Threads: any."""
        kind, _, token = account.partition(" ")
        return kind == "key" or self.tokens.get(token, False)

    def admit(self, request: Request, conn: Connection) -> Response | None:
        """Refuse handshakes that come too fast."""
        if self.handshake_limit is not None:
            count, seconds = self.handshake_limit
            now = time.monotonic()
            with self._handshake_lock:
                while self._handshakes and self._handshakes[0] <= now - seconds:
                    self._handshakes.popleft()
                self._handshakes.append(now)
                too_fast = len(self._handshakes) > count
            if too_fast:
                self.violated(conn, None, "")
                return Response.json({"message": "too many requests."}, 429)
        return super().admit(request, conn)

    def on_close(self, conn: Connection) -> None:
        """Give the account's slot back."""
        self.wire.closed(conn)
        super().on_close(conn)

    # -- what a test makes happen ------------------------------------------------------------------------

    def send_error(self, code: int, connection: Connection | None = None,
                   text: str | None = None) -> None:
        """Send an error to one client or to all; 404 and 407 end the connection, too.

        Args:
            text: instead of the documented message.

        Threads: any.
        """
        with self.publishing:
            for conn in [connection] if connection is not None else self.connections:
                self.wire.error(conn, code, text)
                if code in _ENDING:
                    conn.close(1000)

    # -- REST ----------------------------------------------------------------------------------------------

    def rest_refusal(self, request: Request) -> Response | None:
        """401 without the right key."""
        credentials = credentials_of(request.headers)
        if credentials is None or self.account(*credentials) is None:
            return Response.json({"message": "unauthorized."}, 401)
        return None

    def look_up(self, request: Request, updates_ago: int) -> Response:
        """Answer from the tape and the market."""
        return self._rest.answer(request, updates_ago)

    def too_many_requests(self, retry_after: int) -> Response:
        """Alpaca tells in headers when the limit is reset."""
        return Response.json({"message": "too many requests."}, 429, (
            ("X-RateLimit-Limit", str(self.rest_limit[0] if self.rest_limit else 0)),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reset", str(int(time.time()) + retry_after)),
            ("Retry-After", str(retry_after))))

    def broken_snapshot(self, fault: Fault) -> Response:
        """The answers of planned REST faults, as Alpaca spells them."""
        if fault.name == "snapshot_garbage":
            return Response(200, b'{"trades":{"AAPL":{"t":"2026-01')
        if fault.name == "snapshot_500":
            return Response.json({"message": "internal server error occurred"}, 500)
        if fault.name == "snapshot_418":
            return Response.json({"message": "forbidden."}, 403)
        return self.too_many_requests(int(fault.number("retry_after")))

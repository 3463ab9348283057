"""Binance's control language: paths, SUBSCRIBE and its kin, pings, limits.

Source: binance-spot-api-docs ``web-socket-streams.md``; for futures the notice on the split of
streams by category (legacy addresses retired 2026-04-23).
"""
from __future__ import annotations

import json
import time
from collections import deque
from urllib.parse import parse_qsl

from . import frames
from .connection import Connection
from .trouble import Outgoing
from .venue import VenueServer, Wire

_MAX_STREAMS = 1024
_PUBLIC = frozenset(("depth", "bookTicker", "rpiDepth", "!bookTicker"))


class _Session:
    """What Binance remembers of one client."""

    def __init__(self, category: str) -> None:
        self.category = category
        self.combined = False
        self.micro = False
        self.arrivals: deque[float] = deque()
        self.awaited: tuple[bytes, float] | None = None


class _Refusal(Exception):
    """A control message is answered with this code and text."""

    def __init__(self, code: int, text: str, ident: object = None) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.ident = ident


def category_of(stream: str) -> str:
    """``public`` or ``market``: the futures endpoint that serves a stream. Threads: any."""
    kind = stream.partition("@")[2].partition("@")[0] if "@" in stream else stream
    return "public" if kind.rstrip("0123456789") in _PUBLIC else "market"


class BinanceWire(Wire):
    """The control language; a client's variant is ``(combined, microseconds)``.

    Args:
        futures: split endpoints by category, as USD-M futures do.
        error_form: ``"flat"`` as documented, ``"nested"`` as observed.
        message_limit: client messages allowed in any one second, control frames included;
            None: no limit.
        ping_interval: seconds between the server's ping frames.
        pong_timeout: seconds within which a ping must be answered with its own payload.
        lifetime: seconds after which a connection is closed, None: never.
    """

    garbage_kinds = ("invalid", "truncated", "types", "nan", "inf", "negative", "unknown",
                     "nested", "utf8", "binary")

    def __init__(self, server: VenueServer, *, futures: bool, error_form: str,
                 message_limit: int | None, ping_interval: float, pong_timeout: float,
                 lifetime: float | None) -> None:
        super().__init__(server)
        if error_form not in ("flat", "nested"):
            raise ValueError(f"error_form {error_form!r}: expected 'flat' or 'nested'")
        self.futures = futures
        self.error_form = error_form
        self.message_limit = message_limit
        self.ping_interval = ping_interval
        self.pong_timeout = pong_timeout
        self.lifetime = lifetime

    # -- connecting -----------------------------------------------------------------------------

    def admits(self, path: str) -> bool:
        """``/ws``, ``/ws/<stream>``, ``/stream``; on futures also below a category."""
        return self._split(path) is not None

    def _split(self, path: str) -> tuple[str, str, str] | None:
        """Category, ``ws`` or ``stream``, and the rest of a path."""
        parts = path.strip("/").split("/")
        category = ""
        if self.futures and parts[0] in ("public", "market", "private"):
            category = parts.pop(0)
        if not parts or parts[0] not in ("ws", "stream"):
            return None
        if parts[0] == "stream" and len(parts) > 1:
            return None
        return category, parts[0], "/".join(parts[1:])

    def opened(self, conn: Connection) -> None:
        """Subscribe what the URL names, start pinging."""
        split = self._split(conn.path)
        assert split is not None
        category, kind, rest = split
        session = conn.session = _Session(category)
        query = dict(parse_qsl(conn.query))
        session.combined = kind == "stream"
        session.micro = query.get("timeUnit", "").upper() == "MICROSECOND"
        conn.variant = (session.combined, session.micro)
        names = query.get("streams", "") if kind == "stream" else rest
        with self.server.publishing:
            for name in filter(None, names.split("/")[:_MAX_STREAMS]):
                self._subscribe(conn, name)
        conn.every(self.ping_interval, lambda: self._ping(conn))
        if self.lifetime is not None:
            conn.after(self.lifetime, lambda: conn.close(1001, "lifetime is over"))

    def _subscribe(self, conn: Connection, stream: str) -> None:
        category = conn.session.category or "public"    # the retired addresses are public
        serves = not self.futures or category == category_of(stream)
        self.server.subscribe(conn, stream, routed=serves)

    def _ping(self, conn: Connection) -> None:
        session: _Session = conn.session
        if conn.silent or session.awaited is not None:
            return
        payload = str(time.time_ns() // 1_000_000).encode("ascii")
        session.awaited = payload, time.monotonic()
        conn.ping(payload)
        conn.after(self.pong_timeout, lambda: self._check_pong(conn, payload))

    def _check_pong(self, conn: Connection, payload: bytes) -> None:
        awaited = conn.session.awaited
        if awaited is not None and awaited[0] == payload and not conn.silent:
            conn.close(1008, "Pong timeout")

    # -- client messages ------------------------------------------------------------------------

    def frame(self, conn: Connection, opcode: int, payload: bytes) -> None:
        """Count the client's messages in a strict rolling second; note pongs."""
        session: _Session = conn.session
        if opcode == frames.PONG and session.awaited and session.awaited[0] == payload:
            session.awaited = None
        if self.message_limit is None or opcode == frames.CLOSE:
            return
        now = time.monotonic()
        session.arrivals.append(now)
        while session.arrivals[0] <= now - 1.0:
            session.arrivals.popleft()
        if len(session.arrivals) > self.message_limit:
            self.server.violated(conn, 1008, "Too many requests")

    def message(self, conn: Connection, message: str | bytes) -> None:
        """Obey a control message and answer it."""
        try:
            with self.server.publishing:
                result, ident = self._obey(conn, message)
                conn.send(json.dumps({"result": result, "id": ident}, separators=(",", ":")))
        except _Refusal as refusal:
            conn.send(self._error(refusal))

    def _error(self, refusal: _Refusal) -> str:
        error: dict[str, object] = {"code": refusal.code, "msg": refusal.text}
        if self.error_form == "nested":
            return json.dumps({"error": error, "id": refusal.ident}, separators=(",", ":"))
        if refusal.ident is not None:
            error["id"] = refusal.ident
        return json.dumps(error, separators=(",", ":"))

    def _obey(self, conn: Connection, message: str | bytes) -> tuple[object, object]:
        try:
            request = json.loads(message)
        except ValueError as error:
            raise _Refusal(3, f"Invalid JSON: {error}") from None
        if not isinstance(request, dict):
            raise _Refusal(2, "Invalid request: expected an object")
        ident = request.get("id")
        if not _is_ident(ident):
            raise _Refusal(2, "Invalid request: request ID must be an int64, a string of up to "
                              "36 characters, or null")
        method, params = request.get("method"), request.get("params")
        if method in ("SUBSCRIBE", "UNSUBSCRIBE"):
            self._change_streams(conn, method, params, ident)
            return None, ident
        if method == "LIST_SUBSCRIPTIONS":
            return sorted(conn.subscriptions), ident
        if method in ("SET_PROPERTY", "GET_PROPERTY"):
            return self._property(conn, method, params, ident), ident
        raise _Refusal(2, f"Invalid request: unknown variant `{method}`, expected one of "
                          "`SUBSCRIBE`, `UNSUBSCRIBE`, `LIST_SUBSCRIPTIONS`, `SET_PROPERTY`, "
                          "`GET_PROPERTY`", ident)

    def _change_streams(self, conn: Connection, method: str, params: object,
                        ident: object) -> None:
        if not isinstance(params, list) or not all(isinstance(name, str) for name in params):
            raise _Refusal(2, "Invalid request: params must be a list of strings", ident)
        if method == "UNSUBSCRIBE":
            for name in params:
                self.server.unsubscribe(conn, name)
            return
        if self.server.refuses(conn):
            raise _Refusal(2, f"Invalid request: stream {params[0] if params else ''} is not "
                              "available", ident)
        if len(conn.subscriptions | set(params)) > _MAX_STREAMS:
            self.server.violated(conn, None, "")
            raise _Refusal(4, "Too many subscriptions", ident)
        for name in params:
            self._subscribe(conn, name)

    def _property(self, conn: Connection, method: str, params: object, ident: object) -> object:
        session: _Session = conn.session
        if not isinstance(params, list) or not params or params[0] != "combined":
            raise _Refusal(0, "Unknown property", ident)
        if method == "GET_PROPERTY":
            return session.combined
        if len(params) != 2 or not isinstance(params[1], bool):
            raise _Refusal(1, "Invalid value type: expected Boolean", ident)
        session.combined = params[1]
        conn.variant = (session.combined, session.micro)
        return None

    # -- what faults send -----------------------------------------------------------------------

    def idle(self, conn: Connection) -> Outgoing:
        """The answer to a request nobody made."""
        return frames.TEXT, b'{"result":null,"id":0}' + b" " * 200

    def garbage(self, conn: Connection, kind: str) -> list[Outgoing]:
        """Nonsense in the place of the next depth event of a subscribed symbol."""
        depth = sorted(name for name in conn.subscriptions if "@depth" in name)
        stream = depth[0] if depth else min(conn.subscriptions, default="btcusdt@depth@100ms")
        symbol = stream.partition("@")[0].upper()
        if kind == "invalid":
            return [(frames.TEXT, b'{"stream":"' + stream.encode() + b'",,"data":{]}')]
        if kind == "nested":
            return [(frames.TEXT, b'{"data":' + b"[" * 100_000)]
        if kind == "utf8":
            return [(frames.TEXT, b'{"e":"depthUpdate","s":"\xff\xfe\xc0"}')]
        if kind == "binary":
            return [(frames.BINARY, bytes(range(256)))]
        last = self.server.position(stream)
        price = b"1.00000000"
        levels = {b"nan": b'["NaN","1.0"],["%b","NaN"]', b"inf": b'["%b","Infinity"],["%b",1e999]',
                  b"negative": b'["%b","-5.00000000"]'}.get(kind.encode(), b'["%b","1.00000000"]')
        levels = levels.replace(b"%b", price)
        event = (b'{"e":"depthUpdate","E":%d,"s":"%b","U":%d,"u":%d,"pu":%d,"b":[%b],"a":[]}' % (
            time.time_ns() // 1_000_000, symbol.encode(), last + 1, last + 1, last, levels))
        if kind == "types":
            event = (b'{"e":"depthUpdate","E":"now","s":"%b","U":"first","u":null,"pu":[],'
                     b'"b":{"1":[]},"a":7}' % symbol.encode())
        elif kind == "unknown":
            event = event.replace(b"depthUpdate", b"martianUpdate")
            stream = stream.partition("@")[0] + "@martian"
        if conn.session.combined:
            event = b'{"stream":"%b","data":%b}' % (stream.encode(), event)
        return [(frames.TEXT, event[:len(event) // 2] if kind == "truncated" else event)]


def _is_ident(value: object) -> bool:
    if value is None:
        return True
    if isinstance(value, bool):
        return False
    if isinstance(value, int):
        return -2 ** 63 <= value < 2 ** 63
    return isinstance(value, str) and len(value) <= 36

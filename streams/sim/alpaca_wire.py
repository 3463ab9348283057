"""Alpaca's control language: authentication, subscriptions, its error codes.

Source: docs.alpaca.markets, "WebSocket Stream". Every message of the server is an array; control
messages come in arrays of one.

What the documentation leaves open is done like this: after 402, 406 and 409 the connection stays
open for another attempt, until the time to authenticate is over (Alpaca's own Go client tries again
on the same connection); the content type of the handshake is the language of both directions.
"""
from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from . import frames, msgpack, nonsense
from .alpaca_messages import Writer
from .connection import Connection
from .tape_events import (Bands, Bar, BookChange, Cancel, Correction, Event, Imbalance, Quote, Status,
                          Story, Trade, Value)
from .tape_sim import Record, Rendered, TapeWire
from .trouble import Outgoing

if TYPE_CHECKING:
    from .alpaca import AlpacaSim

_DELAY = 15 * 60 * 1_000_000_000        # of the feed delayed_sip

#: message by code
ERRORS = {
    400: "invalid syntax", 401: "not authenticated", 402: "auth failed", 403: "already authenticated",
    404: "auth timeout", 405: "symbol limit exceeded", 406: "connection limit exceeded",
    407: "slow client", 408: "v2 not enabled", 409: "insufficient subscription",
    410: "invalid subscribe action for this feed", 411: "insufficient scope",
    412: "option messages are only available in MsgPack format",
    413: "star subscription is not allowed for option quotes", 500: "internal error",
}

_STOCKS = ("trades", "quotes", "bars", "updatedBars", "dailyBars", "statuses", "lulds", "imbalances")
_CHANNELS = {
    "stock": _STOCKS,
    "crypto": ("trades", "quotes", "orderbooks", "bars", "updatedBars", "dailyBars"),
    "option": ("trades", "quotes"),
    "news": ("news",),
}
_ALL_CHANNELS = frozenset(name for names in _CHANNELS.values() for name in names)
_IMPLIED = ("corrections", "cancelErrors")          # by trades of stocks
_SYMBOLS = {
    "stock": re.compile(r"[A-Z][A-Z0-9]{0,9}([.-][A-Z0-9]{1,5})?"),
    "crypto": re.compile(r"[A-Z0-9]{2,12}/[A-Z]{2,6}"),
    "option": re.compile(r"[A-Z]{1,6}\d?\d{6}[CP]\d{8}"),
    "news": re.compile(r"[A-Z0-9./]{1,21}"),
}
_PATHS = {f"/v2/{feed}": ("stock", feed) for feed in ("iex", "sip", "delayed_sip", "test")}
_PATHS |= {f"/v1beta1/{feed}": ("stock", feed) for feed in ("boats", "overnight")}
_PATHS |= {f"/v1beta1/{feed}": ("option", feed) for feed in ("opra", "indicative")}
_PATHS |= {f"/v1beta3/crypto/{place}": ("crypto", place) for place in ("us", "us-1", "eu-1")}
_PATHS["/v1beta1/news"] = ("news", "news")
_CHANNEL_OF: dict[type, str] = {
    Trade: "trades", Quote: "quotes", BookChange: "orderbooks", Correction: "trades",
    Cancel: "trades", Status: "statuses", Bands: "lulds", Imbalance: "imbalances"}
_TEST_SYMBOL = "FAKEPACA"


class Failure(Exception):
    """A client message is answered with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(ERRORS[code])
        self.code = code


class Variant(NamedTuple):
    """How a client wants its messages."""

    binary: bool
    delayed: bool


@dataclass
class Session:
    """What Alpaca remembers of one client."""

    kind: str
    feed: str
    deadline: float
    account: str | None = None
    channels: dict[str, dict[str, None]] = field(default_factory=dict)


class Slots:
    """Which account has how many connections at an endpoint.

    Args:
        limit: connections of one account at one endpoint.
        hold: seconds that a slot stays taken when a client went without a close frame.
    """

    def __init__(self, limit: int, hold: float) -> None:
        self.limit = limit
        self.hold = hold
        self._taken: dict[tuple[str, str], dict[int, float | None]] = {}
        self._lock = threading.Lock()

    def take(self, account: str, path: str, number: int) -> bool:
        """Take a slot for a connection; False when there is none. Threads: any."""
        with self._lock:
            slots = self._taken.setdefault((account, path), {})
            now = time.monotonic()
            for other, until in list(slots.items()):
                if until is not None and until <= now:
                    del slots[other]
            if len(slots) >= self.limit:
                return False
            slots[number] = None
            return True

    def release(self, account: str, path: str, number: int, clean: bool) -> None:
        """The connection is gone. Threads: any."""
        with self._lock:
            slots = self._taken.get((account, path), {})
            if clean:
                slots.pop(number, None)
            elif number in slots:
                slots[number] = time.monotonic() + self.hold


class AlpacaWire(TapeWire):
    """The control language; a client's variant is a `Variant`."""

    garbage_kinds = nonsense.KINDS

    server: AlpacaSim

    def __init__(self, server: AlpacaSim) -> None:
        super().__init__(server)
        self.slots = Slots(server.connection_limit, server.slot_hold)
        self._writers = {
            Variant(binary, delayed): Writer(server.tape, binary, _DELAY if delayed else 0,
                                             server.quote_lot)
            for binary in (False, True) for delayed in (False, True)}

    def writer(self, variant: tuple[object, ...]) -> Writer:
        """Who writes messages for such clients. Threads: any."""
        assert isinstance(variant, Variant)
        return self._writers[variant]

    # -- connecting --------------------------------------------------------------------------------

    def admits(self, path: str) -> bool:
        """The endpoints of the documentation."""
        return path.rstrip("/") in _PATHS

    def opened(self, conn: Connection) -> None:
        """Welcome; authenticate by the headers if there are any."""
        kind, feed = _PATHS[conn.path.rstrip("/")]
        binary = "msgpack" in conn.headers.get("content-type", "")
        conn.variant = Variant(binary, feed == "delayed_sip")
        conn.session = Session(kind, feed, time.monotonic() + self.server.auth_timeout)
        self.say(conn, {"T": "success", "msg": "connected"})
        credentials = credentials_of(conn.headers)
        if credentials is not None:
            try:
                self._authenticate(conn, *credentials)
            except Failure as failure:
                self.error(conn, failure.code)
        conn.after(self.server.auth_timeout, lambda: self._check_authenticated(conn))
        if self.server.ping_interval is not None:
            conn.every(self.server.ping_interval, conn.ping)

    def _check_authenticated(self, conn: Connection) -> None:
        session: Session = conn.session
        if session.account is not None:
            return
        left = session.deadline - time.monotonic()
        if left > 0:                    # an attempt has failed since: another one is allowed
            conn.after(left, lambda: self._check_authenticated(conn))
            return
        self.error(conn, 404)
        conn.close(1000)

    def closed(self, conn: Connection) -> None:
        """Give the slot back, at once or after a while. Threads: the connection's own."""
        session: Session | None = conn.session
        if session is not None and session.account is not None:
            self.slots.release(session.account, conn.path, conn.id, conn.close_code is not None)

    # -- saying --------------------------------------------------------------------------------------

    def say(self, conn: Connection, record: Record) -> None:
        """Send one control message. Threads: any."""
        self.server.log(conn, [record])
        opcode, payload = self.join(conn.variant, [self.writer(conn.variant).encode(record)])
        conn.queue_message(opcode, payload)
        conn.peer.flush()

    def error(self, conn: Connection, code: int, text: str | None = None) -> None:
        """Send an error. Threads: any."""
        self.say(conn, {"T": "error", "code": code, "msg": text or ERRORS.get(code, "error")})

    def too_slow(self, conn: Connection) -> None:
        """407 and a close frame behind whatever still waits; neither may ever arrive."""
        self.error(conn, 407)
        self.server.violated(conn, 1008, "slow client")
        with self.server.publishing:
            conn.subscriptions = set()

    # -- client messages -------------------------------------------------------------------------------

    def message(self, conn: Connection, message: str | bytes) -> None:
        """Obey a control message and answer it."""
        with self.server.publishing:
            try:
                self._obey(conn, self._read(conn, message))
            except Failure as failure:
                self.error(conn, failure.code)

    def _read(self, conn: Connection, message: str | bytes) -> dict[str, object]:
        binary = isinstance(message, bytes)
        if binary != conn.variant[0]:
            raise Failure(400)
        try:
            request = msgpack.unpack(message) if isinstance(message, bytes) else json.loads(message)
        except (ValueError, RecursionError):
            raise Failure(400) from None
        if not isinstance(request, dict):
            raise Failure(400)
        return request

    def _obey(self, conn: Connection, request: dict[str, object]) -> None:
        session: Session = conn.session
        action = request.get("action")
        if action == "auth":
            key, secret = request.get("key"), request.get("secret")
            if not isinstance(key, str) or not isinstance(secret, str):
                raise Failure(400)
            self._authenticate(conn, key, secret)
            return
        if action not in ("subscribe", "unsubscribe"):
            raise Failure(400)
        if session.account is None:
            raise Failure(401)
        wanted = self._channels(conn, request)
        if action == "subscribe":
            self._subscribe(conn, wanted)
        else:
            self._unsubscribe(conn, wanted)

    def _authenticate(self, conn: Connection, key: str, secret: str) -> None:
        session: Session = conn.session
        if session.account is not None:
            raise Failure(403)
        session.deadline = time.monotonic() + self.server.auth_timeout
        account = self.server.account(key, secret)
        if account is None:
            raise Failure(402)
        if not self.server.may_stream(account):
            raise Failure(411)
        if session.feed in self.server.denied:
            raise Failure(409)
        if not self.slots.take(account, conn.path, conn.id):
            self.server.violated(conn, None, "")
            raise Failure(406)
        session.account = account
        self.say(conn, {"T": "success", "msg": "authenticated"})

    # -- subscriptions -----------------------------------------------------------------------------------

    def _channels(self, conn: Connection, request: dict[str, object]) -> dict[str, list[str]]:
        """The request's lists, checked."""
        kind = conn.session.kind
        wanted: dict[str, list[str]] = {}
        for channel, symbols in request.items():
            if channel == "action":
                continue
            if channel in _IMPLIED or channel not in _ALL_CHANNELS:
                raise Failure(400)
            if channel not in _CHANNELS[kind]:
                raise Failure(410)
            if not isinstance(symbols, list):
                raise Failure(400)
            for symbol in symbols:
                if not isinstance(symbol, str) or not (
                        symbol == "*" or _SYMBOLS[kind].fullmatch(symbol)):
                    raise Failure(400)
            wanted[channel] = symbols
        if not wanted:
            raise Failure(400)
        return wanted

    def _subscribe(self, conn: Connection, wanted: dict[str, list[str]]) -> None:
        session: Session = conn.session
        if session.kind == "option":
            if not conn.variant[0]:
                raise Failure(412)
            if "*" in wanted.get("quotes", ()):
                raise Failure(413)
        if self.server.refuses(conn):
            raise Failure(405)
        after = {channel: {**session.channels.get(channel, {}), **dict.fromkeys(wanted.get(channel, ()))}
                 for channel in _CHANNELS[session.kind]}
        self._check_limit(conn, after)
        new_books = [symbol for symbol in after.get("orderbooks", ())
                     if symbol not in session.channels.get("orderbooks", {})]
        session.channels = after
        self._list_topics(conn)
        self.say(conn, self.subscription(conn))
        self._send_books(conn, new_books)

    def _check_limit(self, conn: Connection, after: dict[str, dict[str, None]]) -> None:
        limit = self.server.symbol_limit
        if limit is None:
            return
        counted = [symbol for channel in ("trades", "quotes") for symbol in after.get(channel, ())]
        if len(counted) > limit or "*" in counted:
            self.server.violated(conn, None, "")
            raise Failure(405)

    def _unsubscribe(self, conn: Connection, wanted: dict[str, list[str]]) -> None:
        session: Session = conn.session
        for channel, symbols in wanted.items():
            for symbol in symbols:
                session.channels.get(channel, {}).pop(symbol, None)
        self._list_topics(conn)
        self.say(conn, self.subscription(conn))

    def _list_topics(self, conn: Connection) -> None:
        topics = {f"{channel}:{symbol}" for channel, symbols in conn.session.channels.items()
                  for symbol in symbols}
        for gone in conn.subscriptions - topics:
            self.server.unsubscribe(conn, gone)
        for new in topics - conn.subscriptions:
            self.server.list_topic(conn, new)

    def subscription(self, conn: Connection) -> Record:
        """The full list of a client's subscriptions, as a message. Threads: any."""
        session: Session = conn.session
        record: Record = {"T": "subscription"}
        for channel in _CHANNELS[session.kind]:
            record[channel] = list(session.channels.get(channel, ()))
        if session.kind == "stock":
            record.update((channel, record["trades"]) for channel in _IMPLIED)
        return record

    def _send_books(self, conn: Connection, symbols: list[str]) -> None:
        """A new subscription of a book begins with all of it."""
        traded = [name for name in self.server.market.symbols if self.server.tape.kind(name) == "crypto"]
        for symbol in traded if "*" in symbols else [name for name in symbols if name in traded]:
            if conn.trouble is not None and (
                    conn.trouble.has("no_data") or conn.trouble.has("ack_silence")):
                return
            message = self.render(conn.variant, self.server.whole_book(symbol))
            self.server.log(conn, [message.record])
            conn.queue_message(*self.join(conn.variant, [message.payload]))
        conn.peer.flush()

    # -- data ----------------------------------------------------------------------------------------------

    def wanted(self, conn: Connection, event: Event) -> str | None:
        """The topic by which a client gets an event."""
        session: Session = conn.session
        topics = conn.subscriptions
        if not topics or isinstance(event, Value):
            return None
        if isinstance(event, Story):
            if session.kind != "news":
                return None
            names = (f"news:{symbol}" for symbol in (*event.symbols, "*"))
            return next((name for name in names if name in topics), None)
        if session.kind != self.server.tape.kind(event.symbol):
            return None
        if session.kind == "stock" and (event.symbol == _TEST_SYMBOL) != (session.feed == "test"):
            return None
        channel = _channel_of(event)
        name = f"{channel}:{event.symbol}"
        if name in topics:
            return name
        name = f"{channel}:*"
        return name if name in topics else None

    def render(self, variant: tuple[object, ...], event: Event) -> Rendered:
        """An event as a message."""
        writer = self.writer(variant)
        record = writer.record(event)
        return Rendered(record, writer.encode(record))

    def join(self, variant: tuple[object, ...], payloads: list[bytes]) -> Outgoing:
        """Messages as one array."""
        if not variant[0]:
            return frames.TEXT, b"[" + b",".join(payloads) + b"]"
        head = msgpack.array_header(len(payloads))
        return frames.BINARY, head + b"".join(payloads)

    # -- what faults send ----------------------------------------------------------------------------------

    def idle(self, conn: Connection) -> Outgoing:
        """The list of subscriptions once more, which says nothing new."""
        record = self.subscription(conn) if conn.session is not None else {"T": "subscription"}
        return self.join(conn.variant, [self.writer(conn.variant).encode(record)])

    def garbage(self, conn: Connection, kind: str) -> list[Outgoing]:
        """Nonsense in the place of the next message of this client."""
        session: Session = conn.session
        symbol = next((name for name in self.server.market.symbols
                       if self.server.tape.kind(name) == session.kind), self.server.market.symbols[0])
        sent = self.server.sent(conn.id)
        record = next((found for found in reversed(sent) if "S" in found), None)
        if record is None:
            record = self.writer(conn.variant).record(self.server.tape.last_trade(symbol))
        return [nonsense.spoiled(kind, record, "T", bool(conn.variant[0]))]


def _channel_of(event: Event) -> str | None:
    if isinstance(event, Bar):
        if event.interval == "1m":
            return "updatedBars" if event.revised else "bars"
        return "dailyBars" if event.interval == "1d" else None
    return _CHANNEL_OF.get(type(event))


def credentials_of(headers: dict[str, str]) -> tuple[str, str] | None:
    """Key and secret in the headers of a request, if there are any. Threads: any."""
    if "apca-api-key-id" in headers or "apca-api-secret-key" in headers:
        return headers.get("apca-api-key-id", ""), headers.get("apca-api-secret-key", "")
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return "oauth", rest.strip()
    if scheme.lower() == "basic":
        try:
            key, _, secret = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return key, secret
    return None

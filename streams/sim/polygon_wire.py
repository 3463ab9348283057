"""Polygon's (Massive's) control language: status messages, subscriptions, one connection each.

Source: massive.com/docs/websocket/quickstart and the knowledge base on connections; what happens to
duplicates, unknown tickers and second connections is as measured and published by clients.
"""
from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from . import frames, nonsense
from .connection import Connection
from .polygon_messages import Writer, split_exchange
from .tape_events import (Bands, Bar, BookChange, Event, Imbalance, Quote, Status, Story, Trade, Value)
from .tape_sim import Record, Rendered, TapeWire
from .trouble import Outgoing

if TYPE_CHECKING:
    from .polygon import PolygonSim

_MINUTE = 60 * 1_000_000_000
_HELD_BACK = 0.05       # seconds that a confirmation waits for data to share an array with
CONFIRMATIONS = ("each", "array", "joined", "mixed")

_KINDS = {"stocks": "stock", "options": "option", "indices": "index", "forex": "forex",
          "crypto": "crypto", "futures": "future"}
_CHANNELS = {
    "stock": {"T", "Q", "A", "AM", "LULD", "NOI", "FMV"},
    "option": {"T", "Q", "A", "AM", "FMV"},
    "index": {"V", "A", "AM"},
    "forex": {"C", "CA", "CAS", "FMV"},
    "crypto": {"XT", "XQ", "XL2", "XA", "XAS", "FMV"},
    "future": {"T", "Q", "A", "AM"},
}
_MARKETS = ("cme", "cbot", "nymex", "comex")
_NAMES: dict[str, dict[type, str]] = {       # channels that are not spelled as those of stocks
    "crypto": {Trade: "XT", Quote: "XQ"},
    "forex": {Quote: "C"},
}
_PLAIN: dict[type, str] = {Trade: "T", Quote: "Q", BookChange: "XL2", Bands: "LULD", Status: "LULD",
                           Imbalance: "NOI"}
_BARS = {"crypto": ("XAS", "XA"), "forex": ("CAS", "CA")}


@dataclass
class Session:
    """What Polygon remembers of one client."""

    cluster: str
    kind: str
    key: str | None = None
    held_back: list[Record] = field(default_factory=list)


class PolygonWire(TapeWire):
    """The control language."""

    garbage_kinds = nonsense.KINDS

    server: PolygonSim

    def __init__(self, server: PolygonSim) -> None:
        super().__init__(server)
        self.writer = Writer(server.tape, 15 * _MINUTE if server.delayed else 0, server.quote_lot)
        self._online: dict[tuple[str, str], list[Connection]] = {}
        self._online_lock = threading.Lock()

    # -- connecting --------------------------------------------------------------------------------

    def admits(self, path: str) -> bool:
        """``/stocks`` and so on; ``/futures/cme``, ``cbot``, ``nymex``, ``comex``."""
        cluster, _, market = path.strip("/").partition("/")
        return cluster in _KINDS and (not market or cluster == "futures" and market in _MARKETS)

    def opened(self, conn: Connection) -> None:
        """Welcome, and wait for the key."""
        cluster = conn.path.strip("/")
        conn.session = Session(cluster, _KINDS[cluster.partition("/")[0]])
        self.status(conn, "connected", "Connected Successfully")
        conn.after(self.server.auth_timeout, lambda: self._check_authenticated(conn))

    def _check_authenticated(self, conn: Connection) -> None:
        if conn.session.key is None:
            self.status(conn, "auth_timeout", "No authentication request received.")
            conn.peer.end("finish")

    def closed(self, conn: Connection) -> None:
        """Forget the connection. Threads: the connection's own."""
        session: Session | None = conn.session
        if session is None or session.key is None:
            return
        with self._online_lock:
            online = self._online.get((session.key, session.cluster), [])
            if conn in online:
                online.remove(conn)

    # -- saying --------------------------------------------------------------------------------------

    def status(self, conn: Connection, status: str, message: str) -> None:
        """Send one status message. Threads: any."""
        self.say(conn, [{"ev": "status", "status": status, "message": message}])

    def say(self, conn: Connection, records: list[Record]) -> None:
        """Send control messages as one array. Threads: any."""
        self.server.log(conn, records)
        conn.queue_message(*self.join((), [_encode(record) for record in records]))
        conn.peer.flush()

    def too_slow(self, conn: Connection) -> None:
        """A close frame behind whatever still waits."""
        self.server.violated(conn, 1008, "slow consumer")
        with self.server.publishing:
            conn.subscriptions = set()

    # -- client messages -------------------------------------------------------------------------------

    def message(self, conn: Connection, message: str | bytes) -> None:
        """Obey a control message."""
        try:
            request = json.loads(message)
        except (ValueError, RecursionError):
            request = None
        if not isinstance(request, dict) or not isinstance(request.get("params"), str):
            self.status(conn, "error", "invalid message")
            return
        action, params = request.get("action"), request["params"]
        with self.server.publishing:
            if action == "auth":
                self._authenticate(conn, params)
            elif conn.session.key is None:
                self.status(conn, "error", "not authenticated")
            elif action == "subscribe":
                self._subscribe(conn, _names(params))
            elif action == "unsubscribe":
                self._unsubscribe(conn, _names(params))
            else:
                self.status(conn, "error", "unknown action")

    def _authenticate(self, conn: Connection, key: str) -> None:
        session: Session = conn.session
        if key not in self.server.keys:
            self.status(conn, "auth_failed", "authentication failed")
            conn.peer.end("finish")         # as observed: no close frame
            return
        if session.key is None:
            session.key = key
            self._evict(conn, session)
        self.status(conn, "auth_success", "authenticated")

    def _evict(self, conn: Connection, session: Session) -> None:
        """A connection too many ends the oldest, not the newest."""
        assert session.key is not None
        with self._online_lock:
            online = self._online.setdefault((session.key, session.cluster), [])
            online.append(conn)
            evicted = online[:-self.server.connection_limit]
            del online[:len(evicted)]
        for old in evicted:
            self.status(old, "max_connections", "Maximum number of websocket connections exceeded.")
            self.server.violated(old, 1008, "max_connections")
            old.subscriptions = set()

    def _subscribe(self, conn: Connection, names: list[str]) -> None:
        session: Session = conn.session
        confirmed: list[str] = []
        for name in names:
            channel = name.partition(".")[0]
            if channel not in _CHANNELS[session.kind] or name in conn.subscriptions:
                continue                    # neither is answered
            if self.server.refuses(conn) or self._is_denied(session, channel):
                self._refuse(conn)
                continue
            self.server.list_topic(conn, name)
            confirmed.append(name)
        self._confirm(conn, "subscribed to: ", confirmed)

    def _refuse(self, conn: Connection) -> None:
        if self.server.confirmations == "mixed":        # answers keep their order
            conn.session.held_back.append({"ev": "status", "status": "error", "message": "not authorized"})
        else:
            self.status(conn, "error", "not authorized")

    def _is_denied(self, session: Session, channel: str) -> bool:
        cluster = session.cluster.partition("/")[0]
        return bool({cluster, channel, f"{cluster}.{channel}"} & self.server.denied)

    def _unsubscribe(self, conn: Connection, names: list[str]) -> None:
        known = [name for name in names if name in conn.subscriptions]
        for name in known:
            self.server.unsubscribe(conn, name)
        self._confirm(conn, "unsubscribed to: ", known)

    def _confirm(self, conn: Connection, text: str, names: list[str]) -> None:
        if self.server.confirmations == "joined" and names:
            names = [",".join(names)]
        records: list[Record] = [
            {"ev": "status", "status": "success", "message": text + name} for name in names]
        if self.server.confirmations == "mixed":
            conn.session.held_back += records
            conn.after(_HELD_BACK, lambda: self._say_held_back(conn))
        elif self.server.confirmations == "array" and records:
            self.say(conn, records)
        else:
            for record in records:
                self.say(conn, [record])

    def _say_held_back(self, conn: Connection) -> None:
        with self.server.publishing:
            records, conn.session.held_back = conn.session.held_back, []
            if records:
                self.say(conn, records)

    def before_data(self, conn: Connection) -> list[Rendered]:
        """Confirmations that were held back."""
        records, conn.session.held_back = conn.session.held_back, []
        self.server.log(conn, records)
        return [Rendered(record, _encode(record)) for record in records]

    # -- data ----------------------------------------------------------------------------------------------

    def wanted(self, conn: Connection, event: Event) -> str | None:
        """The topic by which a client gets an event."""
        topics = conn.subscriptions
        if not topics or isinstance(event, Story):
            return None
        kind = self.server.tape.kind(event.symbol)
        if conn.session.kind != kind:
            return None
        channel = _channel_of(kind, event)
        if channel is None or channel not in _CHANNELS[kind]:
            return None
        symbol = split_exchange(event.symbol)[0] if kind == "crypto" else event.symbol
        names = [f"{channel}.{symbol}", f"{channel}.*"]
        if channel == "FMV" and kind in ("forex", "crypto"):
            names.append("FMV." + self.writer.record(event)["sym"])
        return next((name for name in names if name in topics), None)

    def render(self, variant: tuple[object, ...], event: Event) -> Rendered:
        """An event as a message."""
        record = self.writer.record(event)
        return Rendered(record, _encode(record))

    def join(self, variant: tuple[object, ...], payloads: list[bytes]) -> Outgoing:
        """Messages as one array."""
        return frames.TEXT, b"[" + b",".join(payloads) + b"]"

    # -- what faults send ----------------------------------------------------------------------------------

    def idle(self, conn: Connection) -> Outgoing:
        """A status that means nothing to a client."""
        return self.join((), [_encode({"ev": "status", "status": "info", "message": f"time {time.time()}"})])

    def garbage(self, conn: Connection, kind: str) -> list[Outgoing]:
        """Nonsense in the place of the next message of this client."""
        sent = self.server.sent(conn.id)
        record = next((found for found in reversed(sent) if found["ev"] != "status"), None)
        if record is None:
            names = [name for name in self.server.market.symbols
                     if self.server.tape.kind(name) == conn.session.kind]
            symbol = (names or self.server.market.symbols)[0]
            record = self.writer.record(self.server.tape.last_quote(symbol))
        return [nonsense.spoiled(kind, record, "ev", False)]


def _channel_of(kind: str, event: Event) -> str | None:
    if isinstance(event, Value):
        return "FMV" if event.fair else "V"
    if isinstance(event, Bar):
        if event.interval == "1d":
            return None
        return _BARS.get(kind, ("A", "AM"))[event.interval == "1m"]
    return _NAMES.get(kind, {}).get(type(event)) or _PLAIN.get(type(event))


def _names(params: str) -> list[str]:
    """``T.AAPL,Q.BRK.B`` in parts, each once."""
    parts: Iterable[str] = (part.strip() for part in params.split(","))
    return list(dict.fromkeys(part for part in parts if part))


def _encode(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("utf-8")

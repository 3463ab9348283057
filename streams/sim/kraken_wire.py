"""Kraken's control language, v2: subscribe and unsubscribe per symbol, ping, status, heartbeats.

Source: docs.kraken.com, Spot WebSocket v2.
"""
from __future__ import annotations

import json
import time
from collections.abc import Callable

from . import frames
from .connection import Connection
from .trouble import Outgoing
from .venue import VenueServer, Wire

_ARGUMENTS = {"book": ("depth", 10), "ohlc": ("interval", 1), "ticker": ("event_trigger", "trades"),
              "trade": ("", "")}
_STATUS = {"channel": "status", "type": "update", "data": [
    {"version": "2.0.10", "system": "online", "api_version": "v2", "connection_id": 15113583034416118705}]}


class Refused(Exception):
    """A subscription is answered with an error; ``symbol`` stands beside it, if it is about one."""

    def __init__(self, text: str, symbol: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.symbol = symbol


class KrakenWire(Wire):
    """The control language.

    Args:
        check: raises `Refused` for a channel, argument and symbol that do not exist.
        subscribed: called after a topic was acknowledged, while `publishing` is held.
        heartbeat: seconds between heartbeats.
    """

    garbage_kinds = ("invalid", "truncated", "types", "nan", "negative", "unknown", "nested", "utf8")

    def __init__(self, server: VenueServer, *, check: Callable[[str, object, str], None],
                 subscribed: Callable[[Connection, str, bool], None], heartbeat: float) -> None:
        super().__init__(server)
        self.check = check
        self.subscribed = subscribed
        self.heartbeat = heartbeat

    def admits(self, path: str) -> bool:
        """One path."""
        return path.rstrip("/") == "/v2"

    def opened(self, conn: Connection) -> None:
        """Say how the system is, start the heartbeat."""
        conn.send(json.dumps(_STATUS))
        conn.every(self.heartbeat, lambda: self._beat(conn))

    @staticmethod
    def _beat(conn: Connection) -> None:
        if conn.subscriptions:
            conn.send('{"channel":"heartbeat"}')

    def message(self, conn: Connection, message: str | bytes) -> None:
        """Obey a message and answer it."""
        begun = time.time_ns()
        try:
            request = json.loads(message)
            method, params = request["method"], request.get("params", {})
            symbols, channel = params.get("symbol", []), params.get("channel")
        except (ValueError, TypeError, KeyError, AttributeError):
            conn.send('{"error":"Malformed request","method":"error","success":false}')
            return
        if method == "ping":
            self._answer(conn, request, begun, {"method": "pong"})
        elif method not in ("subscribe", "unsubscribe") or channel not in _ARGUMENTS:
            self._answer(conn, request, begun,
                         {"error": "Channel or method not supported", "method": method, "success": False})
        else:
            for symbol in symbols:
                self._one(conn, request, begun, str(symbol))

    def _one(self, conn: Connection, request: dict[str, object], begun: int, symbol: str) -> None:
        params, method = request["params"], request["method"]
        assert isinstance(params, dict)
        channel = params["channel"]
        name, default = _ARGUMENTS[channel]
        argument = params.get(name, default)
        topic = f"{channel}-{argument}:{symbol}"
        result = {"channel": channel, "symbol": symbol, **({name: argument} if name else {})}
        snapshot = bool(params.get("snapshot", True))
        if method == "subscribe":
            result["snapshot"] = snapshot
        try:
            self._judge(conn, str(method), channel, argument, symbol, topic)
        except Refused as refusal:
            about: dict[str, object] = {"symbol": refusal.symbol} if refusal.symbol else {}
            self._answer(conn, request, begun,
                         {"error": refusal.text, "method": method, "success": False, **about})
            return
        with self.server.publishing:
            self._answer(conn, request, begun, {"method": method, "result": result, "success": True})
            if method == "unsubscribe":
                self.server.unsubscribe(conn, topic)
            else:
                self.server.subscribe(conn, topic)
                self.subscribed(conn, topic, snapshot)

    def _judge(self, conn: Connection, method: str, channel: str, argument: object, symbol: str,
               topic: str) -> None:
        """Raises `Refused` for what the venue would not do."""
        if method == "unsubscribe":
            if topic not in conn.subscriptions:
                raise Refused("Subscription Not Found", symbol)
            return
        self.check(channel, argument, symbol)
        if self.server.refuses(conn):
            raise Refused(f"Currency pair not supported {symbol}", symbol)
        others = [other for other in conn.subscriptions
                  if other.startswith(f"{channel}-") and other.endswith(f":{symbol}")]
        if others and channel == "ohlc":
            raise Refused("Already subscribed to one ohlc interval on this symbol", symbol)
        if others:
            raise Refused("Already subscribed", symbol)

    @staticmethod
    def _answer(conn: Connection, request: dict[str, object], begun: int, answer: dict[str, object]) -> None:
        if isinstance(request.get("req_id"), int):
            answer["req_id"] = request["req_id"]
        conn.send(json.dumps({**answer, "time_in": rfc3339(begun), "time_out": rfc3339(time.time_ns())}))

    # -- what faults send -----------------------------------------------------------------------

    def idle(self, conn: Connection) -> Outgoing:
        """A heartbeat, of some length."""
        return frames.TEXT, b'{"channel":"heartbeat"' + b" " * 100 + b"}"

    def garbage(self, conn: Connection, kind: str) -> list[Outgoing]:
        """Nonsense in the place of the next message of a subscribed book."""
        topic = min((name for name in conn.subscriptions if name.startswith("book")), default=":BTC/USD")
        symbol = topic.partition(":")[2]
        bids = {"nan": '[{"price":"NaN","qty":1.0}]', "negative": '[{"price":1.0,"qty":-5.0}]',
                "types": '{"1":2}'}.get(kind, '[{"price":1.0,"qty":1.0}]')
        text = (f'{{"channel":"book","type":"update","data":[{{"symbol":"{symbol}","bids":{bids},"asks":[],'
                f'"checksum":1,"timestamp":"{rfc3339(time.time_ns())}"}}]}}').encode("ascii")
        return [(frames.TEXT, {
            "invalid": b'{"channel":"book",,"data":[}', "truncated": text[:len(text) * 2 // 3],
            "unknown": text.replace(b'"book"', b'"martian"'), "nested": b'{"channel":' + b"[" * 100_000,
            "utf8": b'{"channel":"book","type":"\xff\xfe"}'}.get(kind, text))]


def rfc3339(nanoseconds: int, places: int = 6) -> str:
    """A time as the venue writes it. Threads: any."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{f'{rest:09d}'[:places]}Z"

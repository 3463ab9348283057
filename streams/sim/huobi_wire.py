"""Huobi/HTX's control language: gzip frames, JSON pings, sub, unsub and req.

Source: HTX spot API, "websocket market data" (v1 protocol), and the support notices on ``mbp``.
"""
from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from functools import cache

from . import frames
from .connection import Connection
from .trouble import Outgoing
from .venue import VenueServer, Wire

_BOMB_SIZE = 100_000_000
_PING_EXPIRED = 1003


class Refused(Exception):
    """A request is answered with the venue's error form; the text is its ``err-msg``."""

    def __init__(self, text: str, code: str = "bad-request") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


class _Session:
    """What the venue remembers of one client."""

    def __init__(self) -> None:
        self.ping: int | None = None
        self.missed = 0


def pack(text: str | bytes) -> Outgoing:
    """A binary frame's payload with one gzip member. Threads: any."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    return frames.BINARY, gzip.compress(data, 1, mtime=0)


@cache
def _bomb() -> bytes:
    """A small frame that is very large when unpacked; making it takes most of a second."""
    return gzip.compress(b" " * _BOMB_SIZE, 9, mtime=0)


class HuobiWire(Wire):
    """The control language.

    Args:
        paths: where WebSockets may be opened.
        check: raises `Refused` for a topic that does not exist on a path.
        request: answers a ``req`` with the value of ``data`` as JSON text, or None to stay
            silent; raises `Refused`.
        subscribed: called after a topic was acknowledged, while `publishing` is held.
        ping_interval: seconds between JSON pings.
        missed_pongs: pings in a row that may stay unanswered; with the last one the venue
            disconnects.
        answers_frames: whether ping frames are answered, too; some report that they are not
            (huobiapi/API_Docs, issue 43). JSON pings always are: the heart-beat is two-way.
    """

    garbage_kinds = ("invalid", "truncated", "types", "nan", "inf", "negative", "unknown",
                     "nested", "utf8", "binary", "gzip", "bomb")

    def __init__(self, server: VenueServer, *, paths: tuple[str, ...],
                 check: Callable[[str, str], None],
                 request: Callable[[Connection, str], str | None],
                 subscribed: Callable[[Connection, str], None],
                 ping_interval: float, missed_pongs: int, answers_frames: bool = True) -> None:
        super().__init__(server)
        if missed_pongs < 1:
            raise ValueError(f"missed_pongs {missed_pongs}: expected 1 or more")
        self.paths = paths
        self.check = check
        self.request = request
        self.subscribed = subscribed
        self.ping_interval = ping_interval
        self.missed_pongs = missed_pongs
        self.answers_frames = answers_frames

    def admits(self, path: str) -> bool:
        """The paths that were given, with or without a slash at the end."""
        return path.rstrip("/") in self.paths

    def opened(self, conn: Connection) -> None:
        """Start the heart-beat."""
        conn.session = _Session()
        conn.pongless = not self.answers_frames
        conn.every(self.ping_interval, lambda: self._ping(conn))

    def _ping(self, conn: Connection) -> None:
        session: _Session = conn.session
        if conn.silent:
            return
        session.missed = session.missed + 1 if session.ping is not None else 0
        if session.missed >= self.missed_pongs:
            conn.close(_PING_EXPIRED, "ping check expired")
            return
        session.ping = time.time_ns() // 1_000_000
        self._send(conn, {"ping": session.ping})

    def message(self, conn: Connection, message: str | bytes) -> None:
        """Obey a message and answer it."""
        try:
            request = json.loads(message)
        except ValueError:
            self._refuse(conn, None, Refused("invalid json"))
            return
        if not isinstance(request, dict):
            self._refuse(conn, None, Refused("invalid request"))
            return
        session: _Session = conn.session
        if "pong" in request:
            if request["pong"] == session.ping:
                session.ping, session.missed = None, 0
            else:
                self.server.violated(conn, None, "")
        elif "ping" in request:
            self._send(conn, {"pong": request["ping"]})
        else:
            try:
                self._obey(conn, request)
            except Refused as refusal:
                self._refuse(conn, request.get("id"), refusal)

    def _obey(self, conn: Connection, request: dict[str, object]) -> None:
        verb = next((name for name in ("sub", "unsub", "req") if name in request), None)
        if verb is None:
            raise Refused("invalid request: expected sub, unsub or req")
        topic, ident = request[verb], request.get("id")
        if not isinstance(topic, str):
            raise Refused(f"invalid {verb}: expected one topic")
        path = conn.path.rstrip("/")
        now = time.time_ns() // 1_000_000
        if verb == "req":
            self.check(topic, path)
            data = self.request(conn, topic)
            if data is not None:
                head = json.dumps({"id": ident, "rep": topic, "status": "ok", "ts": now},
                                  separators=(",", ":"))
                conn.queue_message(*pack(f'{head[:-1]},"data":{data}}}'))
                conn.peer.flush()
            return
        if verb == "sub":
            self.check(topic, path)
            if self.server.refuses(conn):
                raise Refused(f"invalid topic {topic}")
        elif topic not in conn.subscriptions:
            raise Refused(f"unsub with not subbed topic {topic}")
        with self.server.publishing:
            self._queue(conn, {"id": ident, "status": "ok", f"{verb}bed": topic, "ts": now})
            if verb == "unsub":
                self.server.unsubscribe(conn, topic)
            elif topic not in conn.subscriptions:
                self.server.subscribe(conn, topic)
                self.subscribed(conn, topic)
        conn.peer.flush()       # so that who has the ack finds the subscription made

    @staticmethod
    def _queue(conn: Connection, value: dict[str, object]) -> None:
        conn.queue_message(*pack(json.dumps(value, separators=(",", ":"))))

    def _send(self, conn: Connection, value: dict[str, object]) -> None:
        self._queue(conn, value)
        conn.peer.flush()

    def _refuse(self, conn: Connection, ident: object, refusal: Refused) -> None:
        answer: dict[str, object] = {"status": "error", "ts": time.time_ns() // 1_000_000}
        if ident is not None:
            answer["id"] = ident
        self._send(conn, answer | {"err-code": refusal.code, "err-msg": refusal.text})

    # -- what faults send -----------------------------------------------------------------------

    def idle(self, conn: Connection) -> Outgoing:
        """An answer to nobody's request, not worth compressing so that it has some length."""
        text = json.dumps({"id": "0", "status": "ok", "unsubbed": "market.none.bbo",
                           "ts": time.time_ns() // 1_000_000})
        return frames.BINARY, gzip.compress(text.encode("ascii") + b" " * 100, 0, mtime=0)

    def garbage(self, conn: Connection, kind: str) -> list[Outgoing]:
        """Nonsense in the place of the next message of a subscribed topic."""
        books = sorted(name for name in conn.subscriptions if ".mbp." in name or ".depth." in name)
        topic = books[0] if books else min(conn.subscriptions, default="market.btcusdt.mbp.150")
        last = self.server.position(topic)
        now = time.time_ns() // 1_000_000
        if kind == "gzip":
            return [(frames.BINARY, b"\x1f\x8b\x08\x00" + bytes(range(200)))]
        if kind == "binary":
            return [(frames.BINARY, bytes(range(256)))]
        if kind == "bomb":
            return [(frames.BINARY, _bomb())]
        if kind == "invalid":
            return [pack(f'{{"ch":"{topic}",,"tick":{{]}}')]
        if kind == "nested":
            return [pack('{"ch":' + "[" * 100_000)]
        if kind == "utf8":
            return [pack(b'{"ch":"market.\xff\xfe\xc0"}')]
        bids = {"nan": "[[1.0,NaN],[NaN,1.0]]", "inf": "[[1.0,1e999],[1.0,Infinity]]",
                "negative": "[[1.0,-5.0]]"}.get(kind, "[[1.0,1.0]]")
        text = (f'{{"ch":"{topic}","ts":{now},"tick":{{"seqNum":{last + 1},"prevSeqNum":{last},'
                f'"version":{last + 1},"bids":{bids},"asks":[]}}}}')
        if kind == "types":
            text = (f'{{"ch":"{topic}","ts":"now","tick":{{"seqNum":"next","prevSeqNum":null,'
                    f'"version":[],"bids":{{"1":2}},"asks":7}}}}')
        elif kind == "unknown":
            text = text.replace(topic, "market.martian.channel")
        return [pack(text[:len(text) // 2] if kind == "truncated" else text)]

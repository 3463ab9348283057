"""A SoupBinTCP server that carries TotalView-ITCH: a made-up Nasdaq on loopback.

Written from "SoupBinTCP, Version 3.00" (22 February 2017). A client logs in, gets the session from the
number it asks for, and may come back to it after any accident; see `ItchMarket` for what is said.
"""
from __future__ import annotations

import ssl
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping

from .faults import Fault, FaultPlan
from .itch_market import ItchMarket
from .peer import Peer, PeerGone
from .server import LoopbackServer

_HIGH_WATER = 1 << 20       # bytes that may wait for a client before more of the session is queued
_CHUNK = 2000               # messages queued at once
_SLICE = 0.005              # seconds between two portions of a steady flow
_CLIENT_PATIENCE = 15.0     # seconds without a word of the client (specification, 1.3)


def _fault(name: str, where: str, **options: str | int | float | bool | None) -> Fault:
    return Fault(name, "handshake" if where == "login" else "connection", options)


FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in (
    _fault("refuse", "login"), _fault("never_answer", "login"), _fault("tls_stall", "login"),
    _fault("reject", "login", code="S"), _fault("wrong_number", "login", offset=3),
    _fault("mute", "connection"), _fault("stall", "connection"), _fault("no_data", "connection"),
    _fault("no_heartbeats", "connection"), _fault("drop", "connection"), _fault("reset", "connection"),
    _fault("skip", "connection", code=""), _fault("duplicate", "connection", code=""),
    _fault("garbage", "connection", kind="truncated"), _fault("debug", "connection", text="hello"),
)}
"""By name. ``plan``: refuse, never_answer (the login), tls_stall, reject (``code`` A or S), wrong_number
(the session goes on ``offset`` messages later than asked). ``plan`` and ``inject``: mute (nothing goes
out any more), stall (half a packet, then nothing), no_data (heartbeats only), no_heartbeats (data only),
drop, reset, skip or duplicate the next message (of a type in ``code``, if that is given), garbage (``kind``,
see `GARBAGE`), debug (a debug packet)."""

GARBAGE = ("truncated", "type", "long", "unknown_order", "too_many", "locate", "empty", "packet",
           "extra_type")
"""truncated: half of the next message; long: it has a byte more; type: it has an unknown type;
unknown_order, too_many, locate: instead of it, an execution of an order that is not there, of more shares
than there are, a deletion in an unknown stock; empty: a sequenced packet without a message; packet: a
packet of unknown type before it; extra_type: a message of unknown type before it, which counts."""

_LASTING = frozenset(("mute", "no_data", "no_heartbeats", "skip", "duplicate", "garbage"))


class ItchConnection:
    """One client.

    Attributes:
        id: 1, 2, 3, ... in the order of acceptance.
        user: who logged in; "" before.
        requests: ``(session, number)`` of its login request; None before.
        position: the number of the next message for it; 0 before the login.
        heartbeats: how many heartbeats came in.
        logged_out: it said goodbye.
        closed: the connection is over.
    """

    def __init__(self, peer: Peer) -> None:
        self.id = peer.number
        self.peer = peer
        self.user = ""
        self.request: tuple[str, int] | None = None
        self.position = 0
        self.heartbeats = 0
        self.logged_out = False
        self.closed = False
        self.active: dict[str, Fault] = {}
        self.pending: deque[Fault] = deque()    # faults that strike once, with the next look around
        self.planned: Fault | None = None
        self.last_sent = self.last_heard = time.monotonic()
        self.silent = False


class ItchSim(LoopbackServer):
    """The server, with its market, its faults and its books of truth.

    Args:
        symbols, seed, depth, start: see `ItchMarket`.
        rate: messages per second from a thread of its own; 0: only what `advance` makes.
        user, password: who may log in; case does not matter.
        session: name of the session.
        heartbeat: seconds of silence after which the server sends a heartbeat.
        port, ssl_context: see `LoopbackServer`.

    Attributes:
        market: the order flow.
        accepted: how many connections there have ever been.
        logins: every accepted login, as ``(session, number)``.

    Threads: every method, any thread.
    """

    name = "itch"

    def __init__(self, symbols: tuple[str, ...] = ("AAPL", "MSFT", "NVDA"), seed: int = 1, *,
                 rate: float = 0.0, depth: int = 200, start: int | None = None, user: str = "user",
                 password: str = "password", session: str = "SIM0000001", heartbeat: float = 1.0,
                 port: int = 0, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(port=port, ssl_context=ssl_context)
        if rate < 0:
            raise ValueError(f"rate {rate}: expected messages per second, 0 or more")
        self._symbols, self._seed, self._depth, self._start = tuple(symbols), seed, depth, start
        self.market = self._new_market()
        self.session = session
        self.accepted = 0
        self.logins: list[tuple[str, int]] = []
        self.plans = FaultPlan()
        self._rate = rate
        self._heartbeat = heartbeat
        self._user, self._password = user.lower(), password.lower()
        self._ended = False
        self._writing = threading.Lock()
        self._connections: list[ItchConnection] = []
        self._connections_lock = threading.Lock()
        self._generator: threading.Thread | None = None

    def _new_market(self) -> ItchMarket:
        return ItchMarket(self._symbols, self._seed, depth=self._depth, start=self._start)

    # -- what it offers -------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """``tcp://127.0.0.1:PORT``, or ``tls+tcp://``."""
        return f"{'tls+tcp' if self.ssl_context else 'tcp'}://{self.address}"

    @property
    def connections(self) -> list[ItchConnection]:
        """The clients that are there now."""
        with self._connections_lock:
            return list(self._connections)

    @property
    def struck(self) -> Counter[str]:
        """How often each kind of fault has struck, by name."""
        return self.plans.struck

    def wait_connections(self, count: int, timeout: float) -> bool:
        """True once ``count`` connections have ever been accepted."""
        return self.wait_for(lambda: self.accepted >= count, timeout)

    def start(self) -> None:
        """See `LoopbackServer`; the steady flow begins, if one was asked for."""
        super().start()
        if self._rate and self._generator is None:
            self._generator = threading.Thread(target=self._generate, name="sim-itch-flow", daemon=True)
            self._generator.start()

    def stop(self, timeout: float = 1.0) -> bool:
        """See `LoopbackServer`."""
        ended = super().stop(timeout)
        thread, self._generator = self._generator, None
        if thread is not None:
            thread.join(timeout)
            ended = ended and not thread.is_alive()
        return ended

    def advance(self, n: int = 1) -> int:
        """Make ``n`` messages and send them; the number of the last one."""
        with self._writing:
            for _ in range(n):
                self.market.step()
            number = self.market.sequence
        for conn in self.connections:
            conn.peer.wake()
        return number

    def end_session(self, session: str | None = None) -> None:
        """The day is over: every client is told so and dropped. With ``session`` another day begins,
        with a new market; without, logins find no session from now on."""
        with self._writing:
            self._ended = True
            for conn in self.connections:
                self._send(conn, _packet(b"Z"))
                conn.silent = True
                conn.peer.end("finish")
            if session is not None:
                self._seed += 1
                self.market = self._new_market()
                self.session = session
                self._ended = False

    # -- faults ---------------------------------------------------------------------------------

    def plan(self, *faults: Fault | None) -> None:
        """One entry for each of the next connections, in order; None is a healthy one."""
        for fault in faults:
            self._check(fault)
        self.plans.add("connection", faults)

    def inject(self, fault: Fault, connection: ItchConnection | None = None) -> None:
        """Switch a fault on, now, in one live connection or in all of them.

        Raises:
            ValueError: a fault that can not strike a live connection.
        """
        self._check(fault)
        if fault.where != "connection":
            raise ValueError(f"{fault.name!r} strikes at a login: use plan(...)")
        for conn in [connection] if connection is not None else self.connections:
            self._strike(conn, fault)
        self.notify()

    def clear_faults(self) -> None:
        """Forget all plans and switch off what can be switched off."""
        self.plans.clear()
        for conn in self.connections:
            conn.active.clear()
            conn.silent = False
            conn.peer.wake()

    def _check(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.name not in FAULTS:
            raise ValueError(f"no fault {fault.name!r} here; there are: {', '.join(FAULTS)}")
        if fault.name == "garbage" and fault.options["kind"] not in GARBAGE:
            raise ValueError(f"no garbage {fault.options['kind']!r}; there is: {', '.join(GARBAGE)}")

    def _strike(self, conn: ItchConnection, fault: Fault) -> None:
        if fault.name in _LASTING:
            conn.active[fault.name] = fault
            conn.silent = conn.silent or fault.name == "mute"
        else:
            conn.pending.append(fault)
        if fault.name not in ("skip", "duplicate", "garbage"):      # those strike with a message
            self.plans.count(fault)
        conn.peer.wake()

    # -- one client -----------------------------------------------------------------------------

    def accepted_peer(self, peer: Peer) -> None:
        """See `LoopbackServer`."""
        self.accepted += 1
        self.notify()
        if self.ssl_context is not None and self.plans.take_if(FAULTS["tls_stall"]):
            self.plans.count(FAULTS["tls_stall"])
            peer.wait_gone(read=False)
            raise PeerGone("TLS stalled")

    def handle(self, peer: Peer) -> None:
        """See `LoopbackServer`."""
        conn = ItchConnection(peer)
        conn.planned = self.plans.take("connection")
        if conn.planned is not None and conn.planned.name == "refuse":
            self.plans.count(conn.planned)
            return
        with self._connections_lock:
            self._connections.append(conn)
        self.notify()
        try:
            self._converse(conn)
        finally:
            conn.closed = True
            with self._connections_lock:
                self._connections.remove(conn)

    def _converse(self, conn: ItchConnection) -> None:
        data = b""
        while True:
            more = conn.peer.recv(self._pause(conn))
            if more == b"":
                return
            if more:
                conn.last_heard = time.monotonic()
                data = self._take(conn, data + more)
            elif time.monotonic() - conn.last_heard > _CLIENT_PATIENCE:
                return
            if conn.logged_out:
                return
            self._look_around(conn)

    def _pause(self, conn: ItchConnection) -> float:
        if conn.peer.pending:
            return _SLICE
        return max(0.0, min(self._heartbeat, conn.last_sent + self._heartbeat - time.monotonic())) or _SLICE

    def _take(self, conn: ItchConnection, data: bytes) -> bytes:
        while len(data) >= 2:
            end = 2 + int.from_bytes(data[:2], "big")
            if len(data) < end:
                break
            packet, data = data[2:end], data[end:]
            if packet[:1] == b"L":
                self._login(conn, packet)
            elif packet == b"R":
                conn.heartbeats += 1
            elif packet == b"O":
                conn.logged_out = True
            self.notify()
        return data

    def _login(self, conn: ItchConnection, packet: bytes) -> None:
        if len(packet) not in (47, 52):         # 4.x: five bytes more, a heartbeat time-out
            conn.peer.end("drop")
            return
        user, password = packet[1:7].decode().strip(), packet[7:17].decode().strip()
        session, number = packet[17:27].decode().strip(), int(packet[27:47])
        conn.request = session, number
        fault = conn.planned
        if fault is not None and fault.name in ("never_answer", "reject", "wrong_number"):
            self.plans.count(fault)
            if fault.name == "never_answer":
                conn.silent = True
            elif fault.name == "reject":
                self._reject(conn, fault.text("code"))
                return
            else:
                number += int(fault.number("offset"))
        if (user.lower(), password.lower()) != (self._user, self._password):
            self._reject(conn, "A")
            return
        with self._writing:
            if self._ended or session not in ("", self.session):
                self._reject(conn, "S")
                return
            number = min(number or self.market.sequence, self.market.sequence + 1)
            conn.user, conn.position = user, number
            self.logins.append((self.session, number))
        self._send(conn, _packet(b"A" + f"{self.session:>10}{number:>20}".encode()))
        if fault is not None and fault.where == "connection":
            self._strike(conn, fault)

    def _reject(self, conn: ItchConnection, code: str) -> None:
        self._send(conn, _packet(b"J" + code.encode()))
        conn.peer.end("finish")

    def _send(self, conn: ItchConnection, data: bytes) -> None:
        if not conn.silent:
            conn.peer.send(data)
            conn.last_sent = time.monotonic()

    def _look_around(self, conn: ItchConnection) -> None:
        """Faults that are due, messages that are due, a heartbeat if none was."""
        if not conn.position:
            return
        while conn.pending:
            self._once(conn, conn.pending.popleft())
        if "no_data" not in conn.active:
            self._pump(conn)
        silence = time.monotonic() - conn.last_sent
        if silence >= self._heartbeat and "no_heartbeats" not in conn.active:
            self._send(conn, _packet(b"H"))

    def _pump(self, conn: ItchConnection) -> None:
        packets = self.market.packets
        while conn.position <= len(packets) and conn.peer.pending < _HIGH_WATER and not conn.silent:
            begin = conn.position - 1
            if conn.active:
                self._send(conn, self._spoil(conn, packets[begin]))
                conn.position += 1
                continue
            chunk = packets[begin:begin + _CHUNK]
            self._send(conn, b"".join(chunk))
            conn.position += len(chunk)

    def _once(self, conn: ItchConnection, fault: Fault) -> None:
        if fault.name in ("drop", "reset"):
            conn.peer.end("drop" if fault.name == "drop" else "reset")
        elif fault.name == "debug":
            self._send(conn, _packet(b"+" + fault.text("text").encode()))
        elif fault.name == "stall":
            packet = self.market.packets[min(conn.position, self.market.sequence) - 1]
            self._send(conn, packet[:len(packet) // 2])
            conn.silent = True

    def _spoil(self, conn: ItchConnection, packet: bytes) -> bytes:
        """The next message as the faults would have it."""
        for name in ("skip", "duplicate", "garbage"):
            fault = conn.active.get(name)
            if fault is None or not _concerns(fault, packet):
                continue
            del conn.active[name]
            self.plans.count(fault)
            self.notify()
            if name == "skip":
                return b""
            return packet * 2 if name == "duplicate" else _garbage(fault.text("kind"), packet)
        return packet

    # -- steady flow ----------------------------------------------------------------------------

    def _generate(self) -> None:
        due = time.monotonic()
        owed = 0.0
        while not self.stopping.wait(max(0.0, due - time.monotonic())):
            owed += self._rate * _SLICE
            if owed >= 1:
                self.advance(int(owed))
                owed -= int(owed)
            due = max(due + _SLICE, time.monotonic() - 0.1)     # after a long stop: no burst


def _concerns(fault: Fault, packet: bytes) -> bool:
    codes = fault.options.get("code")
    return not codes or chr(packet[3]) in str(codes)


def _packet(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def _garbage(kind: str, packet: bytes) -> bytes:
    """What goes out instead of a healthy sequenced data packet."""
    message = packet[3:]
    head = message[1:11]
    if kind == "truncated":
        return _packet(b"S" + message[:len(message) // 2])
    if kind == "long":
        return _packet(b"S" + message + b"\0")
    if kind == "type":
        return _packet(b"Sz" + message[1:])
    if kind == "unknown_order":
        return _packet(b"SE" + head + struct.pack(">QIQ", 2**63, 100, 1))
    if kind == "too_many":
        ref = message[11:19] if message[:1] in b"EXDU" else struct.pack(">Q", 2**63)
        return _packet(b"SE" + head + ref + struct.pack(">IQ", 2**31, 1))
    if kind == "locate":
        return _packet(b"SD" + b"\xff\xff" + head[2:] + struct.pack(">Q", 1))
    if kind == "empty":
        return _packet(b"S")
    if kind == "packet":
        return _packet(b"?what") + packet
    return _packet(b"Sz" + head) + packet

"""What all simulated venues with a web interface share: topics, faults, REST bookkeeping.

A venue is a `Wire` (its control language: paths, subscribe messages, heart-beats, limits) on a
`VenueServer` (who gets what, and what goes wrong on the way). Where the data comes from, a seeded
market or a recording, is the business of the server's subclass.
"""
from __future__ import annotations

import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import ClassVar

from . import frames
from .connection import Connection
from .faults import RANDOM_KINDS, Fault, FaultPlan
from .peer import Peer, PeerGone
from .trouble import LASTING, Outgoing, Trouble
from .web import Request, Response, WebServer


class Wire:
    """One venue's control language on WebSocket connections.

    Attributes:
        garbage_kinds: what `garbage` understands.
    """

    garbage_kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, server: VenueServer) -> None:
        self.server = server

    def admits(self, path: str) -> bool:
        """Whether a WebSocket may be opened on this path. Threads: any."""
        raise NotImplementedError

    def opened(self, conn: Connection) -> None:
        """A client is there: set ``conn.variant``, start heart-beats, subscribe what its URL
        names. Threads: the connection's own."""
        raise NotImplementedError

    def frame(self, conn: Connection, opcode: int, payload: bytes) -> None:
        """Any frame came in: the place to enforce limits. Threads: the connection's own."""

    def message(self, conn: Connection, message: str | bytes) -> None:
        """A data message came in. Threads: the connection's own."""
        raise NotImplementedError

    def idle(self, conn: Connection) -> Outgoing:
        """A message that every client must be able to ignore. Threads: any."""
        raise NotImplementedError

    def garbage(self, conn: Connection, kind: str) -> list[Outgoing]:
        """Messages of nonsense that look like data of a topic of this client. Threads: any."""
        raise NotImplementedError


class Turn:
    """A re-entrant lock that knows whether somebody waits for it, so that who takes it again
    and again can let others in between.

    Threads: any.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        self.waiting = 0

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            with self._counting:
                self.waiting += 1
            self._lock.acquire()
            with self._counting:
                self.waiting -= 1

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


class VenueServer(WebServer):
    """A web server with topics and faults.

    Attributes:
        requests: the last 10,000 REST requests (see `web.Request`).
        violations: how often a client broke one of the venue's limits.
        struck: how often each kind of fault has struck, by name.
        publishing: held while data is published, and while a subscription is acknowledged.
    """

    def __init__(self, *, port: int = 0, ssl_context: ssl.SSLContext | None = None,
                 send_limit: int = 16 << 20) -> None:
        super().__init__(port=port, ssl_context=ssl_context, send_limit=send_limit)
        self.requests: deque[Request] = deque(maxlen=10_000)
        self.violations = 0
        self.publishing = Turn()
        self.plans = FaultPlan()
        self._routes: dict[str, tuple[Connection, ...]] = {}
        self._routes_lock = threading.Lock()
        self.wire = self.make_wire()

    # -- to be written by venues ----------------------------------------------------------------

    def make_wire(self) -> Wire:
        """The venue's control language."""
        raise NotImplementedError

    def rest(self, request: Request) -> Response:
        """Answer a REST request that is no snapshot. Threads: the connection's own."""
        return Response.json({"error": "not found"}, 404)

    def wants_snapshot(self, request: Request) -> bool:
        """Whether this request asks for an order book. Threads: the connection's own."""
        return False

    def snapshot(self, request: Request, updates_ago: int) -> Response:
        """The order book that a request asks for. Threads: the connection's own."""
        raise NotImplementedError

    def position(self, topic: str) -> int:
        """The sequence number of the last update of a topic's book; 0 if there is none.

        Threads: any.
        """
        return 0

    def topic_added(self, topic: str) -> None:
        """A topic has its first subscriber. Called while `publishing` is held."""

    # -- faults ---------------------------------------------------------------------------------

    @property
    def struck(self) -> Counter[str]:
        """How often each kind of fault has struck, by name. Threads: any."""
        return self.plans.struck

    def plan(self, *faults: Fault | None) -> None:
        """One entry for each of the next WebSocket connections, in order; None is a healthy one.

        REST requests do not use entries up; only `Fault.TLS_STALL` strikes any connection.

        Threads: any.

        Raises:
            ValueError: a fault of snapshots, or TLS_STALL without an ``ssl_context``.
        """
        for fault in faults:
            self._check(fault)
        self.plans.add("connection", faults)

    def plan_rest(self, *faults: Fault | None) -> None:
        """The same for the next requests of an order book.

        Threads: any.

        Raises:
            ValueError: a fault that does not strike at snapshots.
        """
        self.plans.add("snapshot", faults)

    def always(self, fault: Fault) -> None:
        """This fault for every connection or snapshot to come, until `clear_faults`; several
        of them take turns.

        Threads: any.

        Raises:
            ValueError: TLS_STALL without an ``ssl_context``, or unknown garbage.
        """
        self._check(fault)
        self.plans.always(fault)

    def inject(self, fault: Fault, connection: Connection | None = None) -> None:
        """Switch a fault on, now, in one live WebSocket connection or in all of them.

        Threads: any.

        Raises:
            ValueError: a fault that cannot strike a live connection.
        """
        if fault.where != "connection":
            right = "plan_rest" if fault.where == "snapshot" else "plan"
            raise ValueError(f"{fault!r} strikes at a {fault.where}: use {right}(...)")
        self._check(fault)
        for conn in [connection] if connection is not None else self.connections:
            self._trouble(conn).strike(fault)
        self.notify()

    def clear_faults(self) -> None:
        """Forget all plans and switch off what can be switched off in live connections.

        Threads: any.
        """
        self.plans.clear()
        for conn in self.connections:
            trouble, conn.trouble = conn.trouble, None
            if trouble is not None:
                trouble.lift()
        self.notify()

    def random_faults(self, seed: int = 0, probability: float = 0.001,
                      kinds: Iterable[Fault] = RANDOM_KINDS,
                      snapshot_probability: float = 0.1) -> None:
        """From now on every book update triggers one of ``kinds`` with this probability (on the
        connection it goes to), and every snapshot one of its snapshot faults; until
        `clear_faults`.

        Threads: any.

        Raises:
            ValueError: a probability outside 0..1, or a fault of handshakes.
        """
        kinds = list(kinds)
        for fault in kinds:
            self._check(fault)
        self.plans.randomize(seed, probability, kinds, snapshot_probability)

    def _check(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.name == "tls_stall" and self.ssl_context is None:
            raise ValueError("Fault.TLS_STALL needs a server with an ssl_context")
        if fault.name == "garbage" and fault.options["kind"] not in self.wire.garbage_kinds:
            raise ValueError(f"no garbage {fault.options['kind']!r} at {self.name}; there is: "
                             f"{', '.join(self.wire.garbage_kinds)}")

    def _trouble(self, conn: Connection) -> Trouble:
        with self._routes_lock:
            if conn.trouble is None:
                conn.trouble = Trouble(conn, self.plans, self.wire.idle, self.wire.garbage)
            return conn.trouble

    def accepted_peer(self, peer: Peer) -> None:
        """A TCP connection is there, before TLS."""
        if self.ssl_context is not None and self.plans.take_if(Fault.TLS_STALL):
            with self._peers_lock:
                self.accepted += 1
            self.plans.count(Fault.TLS_STALL)
            self.notify()
            peer.wait_gone(read=False)
            raise PeerGone("TLS stalled")

    def admit(self, request: Request, conn: Connection) -> Response | None:
        """Let the planned fault of this connection strike."""
        if not self.wire.admits(request.path):
            return Response.json({"error": f"no stream at {request.path}"}, 404)
        fault = self.plans.take("connection")
        if fault is None:
            return None
        if fault.where == "connection":
            conn.planned = fault
            return None
        self.plans.count(fault)
        self.notify()
        if fault.name == "reject":
            after = fault.text("retry_after")
            return Response.json({"error": "refused by plan"}, int(fault.number("status")),
                                 (("Retry-After", after),) if after else ())
        if fault.name == "slow_upgrade":
            conn.handshake_seconds = fault.number("seconds")
            return None
        if fault.name == "refuse":
            conn.peer.end("drop")
        else:
            conn.peer.wait_gone()
        raise PeerGone(fault.name)

    def send_handshake(self, conn: Connection, answer: bytes) -> None:
        """Answer the upgrade, byte by byte if that was planned."""
        if not conn.handshake_seconds:
            conn.peer.send(answer)
            return
        pause = conn.handshake_seconds / len(answer)
        for value in answer:
            conn.peer.send(bytes((value,)))
            if conn.peer.recv(pause, read=False) == b"":
                raise PeerGone("the client did not wait")

    # -- topics ---------------------------------------------------------------------------------

    def subscribe(self, conn: Connection, topic: str, routed: bool = True) -> None:
        """From now on this client gets this topic; with ``routed=False`` the venue only says
        so. Call it while `publishing` is held.

        Threads: any.
        """
        with self._routes_lock:
            if topic in conn.subscriptions or conn.closed:
                return
            conn.subscriptions = conn.subscriptions | {topic}
            if not routed:
                return
            before = self._routes.get(topic, ())
            self._routes[topic] = (*before, conn)
            if conn.trouble is not None and conn.trouble.has("ack_silence"):
                conn.trouble.silenced.add(topic)
        if not before:
            self.topic_added(topic)
        self.notify()

    def unsubscribe(self, conn: Connection, topic: str) -> None:
        """The opposite of `subscribe`. Threads: any."""
        with self._routes_lock:
            conn.subscriptions = conn.subscriptions - {topic}
            self._remove_route(conn, topic)
        self.notify()

    def _remove_route(self, conn: Connection, topic: str) -> None:
        left = tuple(other for other in self._routes.get(topic, ()) if other is not conn)
        if left:
            self._routes[topic] = left
        else:
            self._routes.pop(topic, None)

    def subscribers(self, topic: str) -> tuple[Connection, ...]:
        """The clients that get this topic. Threads: any."""
        return self._routes.get(topic, ())

    def topics(self) -> list[str]:
        """The topics that have subscribers. Threads: any."""
        return list(self._routes.copy())

    def publish(self, topic: str, symbol: str,
                render: Callable[[tuple[object, ...]], Outgoing], book: bool = False) -> None:
        """Queue one message for all subscribers of a topic; `flush` sends it.

        Call it while `publishing` is held. ``render(variant)`` is asked once for each variant
        that is connected; ``book`` marks the updates that skip, duplicate and reorder act on.

        Threads: any.
        """
        conns = self._routes.get(topic)
        if not conns:
            return
        rendered: dict[tuple[object, ...], tuple[Outgoing, bytes]] = {}
        chance = self.plans.is_random
        for conn in conns:
            known = rendered.get(conn.variant)
            if known is None:
                message = render(conn.variant)
                known = rendered[conn.variant] = message, frames.build(*message)
            if conn.trouble is None and not chance:
                conn.queue(known[1])
            else:
                self._trouble(conn).deliver(topic, symbol, known[0], book)

    def tell(self, conn: Connection, topic: str, symbol: str, message: Outgoing) -> None:
        """Send one client a message of a topic, as its faults will have it. Threads: any."""
        if conn.trouble is None:
            conn.queue_message(*message)
        else:
            conn.trouble.deliver(topic, symbol, message, False)
        conn.peer.flush()

    def flush(self) -> None:
        """Send what was published. Threads: any."""
        for conn in self.connections:
            if conn.peer.pending:
                conn.peer.flush()

    def obeys(self, conn: Connection) -> bool:
        """False when control messages of this client are to be ignored. Threads: any."""
        return conn.trouble is None or not conn.trouble.has("no_ack")

    def refuses(self, conn: Connection) -> bool:
        """True when subscriptions of this client are to be refused. Threads: any."""
        return conn.trouble is not None and conn.trouble.has("refuse_subscription")

    def violated(self, conn: Connection, code: int | None, reason: str) -> None:
        """A client broke a limit: count it, and close with ``code`` if there is one.

        Threads: any.
        """
        with self._routes_lock:
            self.violations += 1
        if code is not None:
            conn.close(code, reason)
        self.notify()

    # -- inside ---------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Answer a REST request; the planned fault strikes if it asks for an order book."""
        self.requests.append(request)
        self.notify()
        if not self.wants_snapshot(request):
            return self.rest(request)
        fault = self.plans.take("snapshot")
        if fault is None:
            return self.snapshot(request, 0)
        self.plans.count(fault)
        if fault.name == "snapshot_stale":
            return self.snapshot(request, int(fault.number("updates")))
        if fault.name == "snapshot_hang":
            request.peer.wait_gone()
            raise PeerGone("never answered")
        return self.broken_snapshot(fault)

    def broken_snapshot(self, fault: Fault) -> Response:
        """The answer that a snapshot fault asks for. Threads: any."""
        if fault.name == "snapshot_garbage":
            return Response(200, b'{"lastUpdateId":12,"bids":[["1.0"')
        if fault.name == "snapshot_500":
            return Response.json({"code": -1000, "msg": "An unknown error occurred."}, 500)
        status = 418 if fault.name == "snapshot_418" else 429
        return Response.json({"code": -1003, "msg": "Too many requests."}, status,
                             (("Retry-After", fault.text("retry_after")),))

    def on_open(self, conn: Connection) -> None:
        """Hand a new client to the wire; the fault that was planned for it strikes."""
        fault = conn.planned
        lasting = fault is not None and fault.name in LASTING
        if fault is not None and lasting:       # before the wire may answer or subscribe
            self._trouble(conn).strike(fault)
        self.wire.opened(conn)
        if fault is not None and not lasting:
            self._trouble(conn).strike(fault)

    def on_frame(self, conn: Connection, opcode: int, payload: bytes) -> None:
        """Let the wire count."""
        self.wire.frame(conn, opcode, payload)

    def on_message(self, conn: Connection, message: str | bytes) -> None:
        """Hand a message to the wire, unless a fault makes the venue ignore it."""
        if self.obeys(conn) and not conn.silent:
            self.wire.message(conn, message)

    def on_close(self, conn: Connection) -> None:
        """Forget the client's subscriptions; its own list stays as it was."""
        with self._routes_lock:
            for topic in conn.subscriptions:
                self._remove_route(conn, topic)

"""How faults strike one live connection."""
from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from . import frames
from .connection import Connection
from .faults import Fault, FaultPlan

Outgoing = tuple[int, bytes]        # opcode and payload of one message

#: Faults that stay on, or wait for the next update; the others happen once.
LASTING = frozenset(("mute", "no_data", "ack_silence", "no_ack", "refuse_subscription",
                     "skip", "duplicate", "reorder", "fragment"))


class Trouble:
    """The faults of one connection, and what they have to remember.

    Attributes:
        silenced: topics that are acknowledged but get no data.

    Threads: any; the data of one connection is published by one thread at a time.
    """

    def __init__(self, conn: Connection, plan: FaultPlan,
                 idle: Callable[[Connection], Outgoing],
                 garbage: Callable[[Connection, str], list[Outgoing]]) -> None:
        self.silenced: set[str] = set()
        self._conn = conn
        self._plan = plan
        self._idle = idle
        self._garbage = garbage
        self._active: dict[str, Fault] = {}
        self._held: dict[str, Outgoing] = {}
        self._updates: Counter[str] = Counter()
        self._rest_of_frame = b""
        self._lock = threading.RLock()

    def has(self, name: str) -> bool:
        """Whether this fault is switched on. Threads: any."""
        return name in self._active

    def strike(self, fault: Fault) -> None:
        """Switch a fault on, or let it happen at once. Threads: any."""
        conn = self._conn
        with self._lock:
            if fault.name in LASTING:
                self._active[fault.name] = fault
            if fault.name not in ("skip", "duplicate", "reorder"):
                self._plan.count(fault)         # those three strike with an update
            if fault.name == "mute":
                conn.silent = True
                conn.deaf = not fault.options["read"]
                conn.peer.wake()
            elif fault.name == "stall":
                self._stall()
            elif fault.name == "fragment":
                conn.fragment = max(1, int(fault.number("size")))
            elif fault.name == "garbage":
                for opcode, payload in self._garbage(conn, fault.text("kind")):
                    conn.queue_message(opcode, payload)
                conn.peer.flush()
            elif fault.name == "oversized":
                opcode = self._idle(conn)[0]
                conn.send_oversized(opcode, int(fault.number("size")))
            elif fault.name == "close":
                conn.close(int(fault.number("code")), fault.text("reason"))
            elif fault.name == "drop":
                conn.peer.end("drop")
            elif fault.name == "reset":
                conn.peer.end("reset")

    def _stall(self) -> None:
        opcode, payload = self._idle(self._conn)
        frame = frames.build(opcode, payload)
        half = len(frame) - len(payload) // 2
        self._conn.queue(frame[:half])
        self._conn.peer.flush()
        self._conn.silent = True
        self._rest_of_frame = frame[half:]

    def lift(self) -> None:
        """Switch everything off that can be; what was held back goes out. Threads: any."""
        conn = self._conn
        with self._lock:
            self._active.clear()
            self.silenced.clear()
            self._updates.clear()
            conn.silent = conn.deaf = False
            conn.fragment = 0
            if self._rest_of_frame:
                conn.queue(self._rest_of_frame)
                self._rest_of_frame = b""
            for message in self._held.values():
                conn.queue_message(*message)
            self._held.clear()
            conn.peer.flush()
            conn.peer.wake()

    def deliver(self, topic: str, symbol: str, message: Outgoing, book: bool) -> None:
        """Queue one message of data, as the faults that are on will have it. Threads: any."""
        with self._lock:
            if book and self._plan.is_random:
                fault = self._plan.draw()
                if fault is not None:
                    self.strike(fault)
            if "no_data" in self._active or topic in self.silenced:
                return
            if not book:
                self._conn.queue_message(*message)
                return
            for outgoing in self._rearrange(topic, symbol, message):
                self._conn.queue_message(*outgoing)

    def _rearrange(self, topic: str, symbol: str, message: Outgoing) -> list[Outgoing]:
        if self._skips(topic, symbol):
            return []
        held = self._held.pop(topic, None)
        if held is not None:
            return [message, held]
        if self._once("reorder", symbol):
            self._held[topic] = message
            return []
        if self._once("duplicate", symbol):
            return [message, message]
        return [message]

    def _skips(self, topic: str, symbol: str) -> bool:
        fault = self._active.get("skip")
        if fault is None:
            return False
        every = int(fault.number("every"))
        if not every:
            return self._once("skip", symbol)
        if fault.options["symbol"] not in (None, symbol):
            return False
        self._updates[topic] += 1
        if self._updates[topic] % every:
            return False
        self._plan.count(fault)
        return True

    def _once(self, name: str, symbol: str) -> bool:
        fault = self._active.get(name)
        if fault is None or fault.options["symbol"] not in (None, symbol):
            return False
        del self._active[name]
        self._plan.count(fault)
        return True

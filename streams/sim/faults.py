"""What can go wrong at a venue, as values: `Fault.MUTE`, `Fault.SKIP(every=97)`.

``sim.plan(...)`` gives one fault to each of the next connections, ``sim.inject(...)`` switches a
fault on in live ones, ``sim.plan_rest(...)`` is for the next snapshot requests, and
``sim.random_faults(...)`` leaves it to a seeded generator.
"""
from __future__ import annotations

import random
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

Where = Literal["handshake", "connection", "snapshot"]
Option = str | int | float | bool | None


class Fault:
    """One kind of trouble and its options; calling it gives the same kind with other options.

    ==================== ==================================================================
    handshake            (only for `plan`)
    REFUSE               close the TCP connection when the upgrade request is there, unanswered
    NEVER_UPGRADE        accept, and never answer the upgrade
    SLOW_UPGRADE         answer it byte by byte over ``seconds``
    REJECT               answer it with HTTP ``status`` and perhaps ``retry_after`` seconds
    TLS_STALL            accept TCP, never begin TLS (next TCP connection; needs ssl_context)
    connection           (`plan` and `inject`)
    MUTE                 no data, no pongs, no close: nothing goes out any more;
                         ``read=False`` leaves the client's bytes unread in the socket, too
    STALL                a frame's header and half of its payload, then nothing
    NO_DATA              pings, pongs and acks go on, data stops
    ACK_SILENCE          new subscriptions are acknowledged and get no data
    NO_ACK               control messages are neither answered nor obeyed
    REFUSE_SUBSCRIPTION  subscriptions are refused with the venue's error
    DROP                 FIN without a close frame
    RESET                RST
    CLOSE                close frame with ``code`` and ``reason``
    SKIP                 leave out the next book update (of ``symbol``), or ``every`` n-th
    DUPLICATE            send the next book update twice
    REORDER              send the next book update after the one that follows it
    GARBAGE              one frame of nonsense; ``kind``: one of the venue's `garbage_kinds`
    OVERSIZED            announce one frame of ``size`` bytes and stream it
    FRAGMENT             send data messages in fragments of ``size`` bytes, pings in between
    snapshot             (only for `plan_rest`)
    SNAPSHOT_STALE       answer with the book as it was ``updates`` updates ago
    SNAPSHOT_429         too many requests, with ``retry_after`` seconds
    SNAPSHOT_418         banned, with ``retry_after`` seconds
    SNAPSHOT_500         the venue's own error
    SNAPSHOT_HANG        never answered
    SNAPSHOT_GARBAGE     200 and a body that is no JSON
    ==================== ==================================================================

    Attributes:
        name: lower case, as used on the command line.
        where: at which point it strikes.
        options: its options with their values.
    """

    KINDS: ClassVar[dict[str, Fault]] = {}

    REFUSE: ClassVar[Fault]
    NEVER_UPGRADE: ClassVar[Fault]
    SLOW_UPGRADE: ClassVar[Fault]
    REJECT: ClassVar[Fault]
    TLS_STALL: ClassVar[Fault]
    MUTE: ClassVar[Fault]
    STALL: ClassVar[Fault]
    NO_DATA: ClassVar[Fault]
    ACK_SILENCE: ClassVar[Fault]
    NO_ACK: ClassVar[Fault]
    REFUSE_SUBSCRIPTION: ClassVar[Fault]
    DROP: ClassVar[Fault]
    RESET: ClassVar[Fault]
    CLOSE: ClassVar[Fault]
    SKIP: ClassVar[Fault]
    DUPLICATE: ClassVar[Fault]
    REORDER: ClassVar[Fault]
    GARBAGE: ClassVar[Fault]
    OVERSIZED: ClassVar[Fault]
    FRAGMENT: ClassVar[Fault]
    SNAPSHOT_STALE: ClassVar[Fault]
    SNAPSHOT_429: ClassVar[Fault]
    SNAPSHOT_418: ClassVar[Fault]
    SNAPSHOT_500: ClassVar[Fault]
    SNAPSHOT_HANG: ClassVar[Fault]
    SNAPSHOT_GARBAGE: ClassVar[Fault]

    __slots__ = ("name", "where", "options")

    def __init__(self, name: str, where: Where, options: Mapping[str, Option]) -> None:
        self.name = name
        self.where: Where = where
        self.options = dict(options)

    def __call__(self, **options: Option) -> Fault:
        """The same kind with other options.

        Raises:
            TypeError: an option that this kind does not have.
        """
        unknown = sorted(set(options) - set(self.options))
        if unknown:
            raise TypeError(f"fault {self.name!r} has no option {unknown[0]!r}; "
                            f"it has: {', '.join(self.options) or 'none'}")
        return Fault(self.name, self.where, {**self.options, **options})

    def __eq__(self, other: object) -> bool:
        return (isinstance(other, Fault) and self.name == other.name
                and self.options == other.options)

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.options.items())))

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"Fault.{self.name.upper()}({inside})"

    def number(self, option: str) -> float:
        """A numeric option's value; 0 when it is not set. Threads: any."""
        value = self.options[option]
        return float(value) if isinstance(value, (int, float)) else 0.0

    def text(self, option: str) -> str:
        """A textual option's value; empty when it is not set. Threads: any."""
        value = self.options[option]
        return "" if value is None else str(value)

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``name`` or ``name:option=value,option=value``, as the command line has it.

        Threads: any.

        Raises:
            ValueError: no such fault or option, with what there is.
        """
        name, _, rest = text.partition(":")
        kind = cls.KINDS.get(name.strip().lower().replace("-", "_"))
        if kind is None:
            raise ValueError(f"no fault {name!r}; there are: {', '.join(sorted(cls.KINDS))}")
        options: dict[str, Option] = {}
        for item in filter(None, rest.split(",")):
            option, _, value = item.partition("=")
            options[option.strip()] = _value(value.strip())
        try:
            return kind(**options)
        except TypeError as error:
            raise ValueError(str(error)) from None


def _value(text: str) -> Option:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _declare(where: Where, **kinds: Mapping[str, Option]) -> None:
    for name, options in kinds.items():
        fault = Fault(name, where, options)
        Fault.KINDS[name] = fault
        setattr(Fault, name.upper(), fault)


_declare("handshake", refuse={}, never_upgrade={}, slow_upgrade={"seconds": 2.0},
         reject={"status": 429, "retry_after": None}, tls_stall={})
_declare("connection", mute={"read": True}, stall={}, no_data={}, ack_silence={}, no_ack={},
         refuse_subscription={}, drop={}, reset={}, close={"code": 1001, "reason": ""},
         skip={"every": 0, "symbol": None}, duplicate={"symbol": None},
         reorder={"symbol": None}, garbage={"kind": "invalid"},
         oversized={"size": 100_000_000}, fragment={"size": 64})
_declare("snapshot", snapshot_stale={"updates": 50}, snapshot_429={"retry_after": 1},
         snapshot_418={"retry_after": 2}, snapshot_500={}, snapshot_hang={},
         snapshot_garbage={})

#: What `random_faults` uses unless told otherwise: each can be recovered from at once.
RANDOM_KINDS = (Fault.SKIP, Fault.DUPLICATE, Fault.REORDER, Fault.GARBAGE, Fault.DROP,
                Fault.RESET, Fault.CLOSE)


class FaultPlan:
    """Which fault comes next, and what has struck so far.

    Attributes:
        struck: how often each kind has struck, by name.
    """

    def __init__(self) -> None:
        self.struck: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._always: dict[str, list[Fault]] = {"connection": [], "snapshot": []}
        self._next: dict[str, deque[Fault | None]] = {"connection": deque(), "snapshot": deque()}
        self._random: random.Random | None = None
        self._update_kinds: list[Fault] = []
        self._snapshot_kinds: list[Fault] = []
        self._probability = 0.0
        self._snapshot_probability = 0.0

    def count(self, fault: Fault) -> None:
        """A fault has struck. Threads: any."""
        with self._lock:
            self.struck[fault.name] += 1

    def add(self, queue: Literal["connection", "snapshot"],
            faults: Iterable[Fault | None]) -> None:
        """Plan one entry for each of the next connections or snapshots. Threads: any.

        Raises:
            ValueError: a fault that cannot strike there.
        """
        faults = list(faults)
        for fault in faults:
            if fault is not None and (fault.where == "snapshot") != (queue == "snapshot"):
                right = "plan_rest" if fault.where == "snapshot" else "plan"
                raise ValueError(f"{fault!r} strikes at a {fault.where}: use {right}(...)")
        with self._lock:
            self._next[queue].extend(faults)

    def always(self, fault: Fault) -> None:
        """From now on, wherever no plan says otherwise; several take turns. Threads: any."""
        with self._lock:
            self._always["snapshot" if fault.where == "snapshot" else "connection"].append(fault)

    def take(self, queue: Literal["connection", "snapshot"]) -> Fault | None:
        """The entry for the connection or snapshot that comes now. Threads: any."""
        with self._lock:
            if self._next[queue]:
                return self._next[queue].popleft()
            standing = self._always[queue]
            if standing:
                standing.append(standing.pop(0))
                return standing[-1]
            if queue == "snapshot" and self._random is not None and self._snapshot_kinds:
                if self._random.random() < self._snapshot_probability:
                    return self._random.choice(self._snapshot_kinds)
        return None

    def take_if(self, fault: Fault) -> bool:
        """Take the next connection's entry if it is of this kind. Threads: any."""
        with self._lock:
            waiting = self._next["connection"]
            if waiting and waiting[0] is not None and waiting[0].name == fault.name:
                waiting.popleft()
                return True
            return not waiting and any(
                known.name == fault.name for known in self._always["connection"])

    def clear(self) -> None:
        """Forget every plan, and the random faults. Threads: any."""
        with self._lock:
            for waiting in self._next.values():
                waiting.clear()
            for standing in self._always.values():
                standing.clear()
            self._random = None

    def randomize(self, seed: int, probability: float, kinds: Iterable[Fault],
                  snapshot_probability: float) -> None:
        """See `VenueServer.random_faults`. Threads: any."""
        chosen = list(kinds)
        for value in (probability, snapshot_probability):
            if not 0 <= value <= 1:
                raise ValueError(f"probability {value}: expected 0 to 1")
        wrong = [fault for fault in chosen if fault.where == "handshake"]
        if wrong:
            raise ValueError(f"{wrong[0]!r} strikes at a handshake: it cannot be random")
        with self._lock:
            self._update_kinds = [fault for fault in chosen if fault.where == "connection"]
            self._snapshot_kinds = [fault for fault in chosen if fault.where == "snapshot"]
            self._probability = probability
            self._snapshot_probability = snapshot_probability
            self._random = random.Random(seed)

    @property
    def is_random(self) -> bool:
        """True while random faults are switched on. Threads: any."""
        return self._random is not None

    def draw(self) -> Fault | None:
        """Perhaps a fault for the update that comes now. Threads: any."""
        with self._lock:
            if self._random is None or not self._update_kinds:
                return None
            if self._random.random() >= self._probability:
                return None
            return self._random.choice(self._update_kinds)

"""What the user wants, what the venue has been asked for, and what it said.

A *route* is one channel of one symbol, wanted by the user any number of times (it is counted). It
needs one or more *topics*, the venue's own subscriptions; routes may share a topic. The user's
side (`want`, `unwant`) only changes what is wanted; the network thread asks what is due and
reports what was sent and answered. So both sides may act in any order, in any state.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from .forking import tell_after_fork
from .symbols import among
from .tables import listed
from .venue import Route

__all__ = ["Subscriptions", "Topic", "UNANSWERED"]

UNANSWERED = 3          # times in a row that a topic is asked for, until no answer is one
RETRY_BASE = 1.0        # seconds before the first retry of a transiently refused topic; doubles
LONGEST_RETRY = 60.0    # up to that; only a refusal for good ends it


class Topic:
    """One of the venue's subscriptions.

    Attributes:
        users: Routes that need it.
        state: ``pending`` (to be asked for), ``sent`` (asked for), ``live`` or ``refused``.
        reason: Why it was refused, the venue's own words.
        due: Monotonic seconds: pending ones are not sent before, sent ones should be answered by then.
        attempts: How often it was refused in a row.
        unanswered: How often it was asked for in a row, on this connection, and not answered.
        renewing: It is to be unsubscribed, and subscribed again.
    """

    __slots__ = ("name", "users", "state", "reason", "due", "attempts", "unanswered",
                 "renewing")

    def __init__(self, name: str) -> None:
        self.name = name
        self.users = 0
        self.state = "pending"
        self.reason = ""
        self.due = 0.0
        self.attempts = 0
        self.unanswered = 0
        self.renewing = False

    @property
    def on_server(self) -> bool:
        """Whether the venue has been asked for it on this connection."""
        return self.state in ("sent", "live")

    @property
    def to_leave(self) -> bool:
        """Whether the venue is to be told that it is not wanted."""
        return self.on_server and (self.renewing or not self.users)

    @property
    def to_enter(self) -> bool:
        """Whether the venue is to be asked for it, when it is due."""
        return self.state == "pending" and self.users > 0


class Subscriptions:
    """The bookkeeping of one stream. Threads: any method, any thread.

    Attributes:
        lock: Held while something is looked up or changed, never for long.
        changes: Rises when the set of routes changes.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._routes: dict[tuple[str, str], Route] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._wide: dict[tuple[str, str], Route] = {}   # of the routes those of many symbols
        self._topics: dict[str, Topic] = {}
        self._open: dict[str, None] = {}        # names of topics that need something done, in order
        self._waiting: dict[str, None] = {}     # names of topics sent and not answered, in order
        self.changes = 0
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`."""
        self.lock = threading.RLock()

    # -- the user's side ------------------------------------------------------------------------

    def get(self, symbol: str, channel: str) -> Route | None:
        """The route wanted under that name."""
        return self._routes.get((symbol, channel))

    def serves(self, symbol: str, channel: str) -> bool:
        """Whether events of that symbol may come by anything that is wanted. Waits for no lock."""
        return (symbol, channel) in self._routes or any(
            of == channel and among(route.native, symbol) for (_, of), route in listed(self._wide.items()))

    def routes(self) -> list[Route]:
        """All that is wanted, in the order it was asked for."""
        with self.lock:
            return list(self._routes.values())

    def want(self, route: Route) -> None:
        """Count one wish for it. A refused topic is tried once more."""
        key = route.symbol, route.channel
        with self.lock:
            self._counts[key] = self._counts.get(key, 0) + 1
            new = key not in self._routes
            if new:
                self._routes[key] = route
                if "*" in route.native:
                    self._wide[key] = route
                self.changes += 1
            for name in self._routes[key].topics:
                topic = self._topics.setdefault(name, Topic(name))
                topic.users += new
                if topic.state == "refused":
                    topic.state, topic.reason, topic.attempts, topic.due = "pending", "", 0, 0.0
                self._open[name] = None

    def channels_of(self, symbol: str) -> list[str]:
        """All channels that are wanted of a symbol. Threads: any."""
        with self.lock:
            return [channel for name, channel in self._routes if name == symbol]

    def unwant(self, symbol: str, channel: str) -> None:
        """Take one wish back; with the last one, the route is gone. What is not wanted is ignored."""
        key = symbol, channel
        with self.lock:
            if key not in self._routes:
                return
            self._counts[key] -= 1
            if self._counts[key]:
                return
            del self._counts[key]
            route = self._routes.pop(key)
            self._wide.pop(key, None)
            self.changes += 1
            for name in route.topics:
                topic = self._topics[name]
                topic.users -= 1
                if topic.users or topic.on_server:
                    self._open[name] = None
                else:
                    self._forget(name)

    def state(self, route: Route) -> tuple[str, str]:
        """``(pending | live | refused, reason)`` of a route: that of its worst topic."""
        with self.lock:
            topics = [self._topics[name] for name in route.topics if name in self._topics]
        for topic in topics:
            if topic.state == "refused":
                return "refused", topic.reason
        live = len(topics) == len(route.topics) and all(t.state == "live" for t in topics)
        return ("live", "") if live else ("pending", next((t.reason for t in topics if t.reason), ""))

    def status(self) -> dict[str, dict[str, str]]:
        """``{"channel.symbol": {"state": ..., "reason": ...}}`` of all that is wanted."""
        states = {f"{r.channel}.{r.symbol}": self.state(r) for r in self.routes()}
        return {name: {"state": state, "reason": why} for name, (state, why) in states.items()}

    # -- the connection's side --------------------------------------------------------------------

    def reset(self) -> None:
        """A new connection knows nothing: all that is wanted is pending again, refused ones excepted."""
        with self.lock:
            self._open.clear()
            self._waiting.clear()
            for name in list(self._topics):
                topic = self._topics[name]
                topic.renewing = False
                topic.unanswered = 0
                if not topic.users:
                    self._forget(name)
                elif topic.state != "refused":
                    topic.state, topic.due = "pending", 0.0
                    self._open[name] = None

    def due(self, now: float) -> tuple[list[str], list[str]]:
        """``(to unsubscribe, to subscribe)``: names of topics to send something about now."""
        if not self._open:
            return [], []
        leave, enter = [], []
        with self.lock:
            for name in list(self._open):
                topic = self._topics[name]
                if topic.to_leave:
                    leave.append(name)
                elif not topic.to_enter:
                    del self._open[name]        # wanted anew before anything was said about it
                elif topic.due <= now:
                    enter.append(name)
        return leave, enter

    def sent(self, names: Iterable[str], deadline: float) -> list[str]:
        """These are about to be asked for; an answer is expected by ``deadline``. Returns those that
        are still wanted."""
        wanted = []
        with self.lock:
            for name in names:
                topic = self._topics.get(name)
                if topic is not None and topic.to_enter:
                    topic.state, topic.due = "sent", deadline
                    self._open.pop(name, None)
                    self._waiting[name] = None
                    wanted.append(name)
        return wanted

    def left(self, names: Iterable[str]) -> None:
        """The venue has been told that these are no longer wanted."""
        with self.lock:
            for name in names:
                self._open.pop(name, None)
                self._waiting.pop(name, None)
                topic = self._topics.get(name)
                if topic is None:
                    continue
                topic.renewing = False
                if topic.users:                 # to be renewed, or wanted anew in the meantime
                    topic.state, topic.due = "pending", 0.0
                    self._open[name] = None
                else:
                    self._forget(name)

    def again(self, names: Iterable[str], due: float) -> list[str]:
        """No answer came: ask for these anew, not before ``due``. Returns those that have been asked for so
        often now that there will be none."""
        hopeless = []
        with self.lock:
            for name in names:
                self._waiting.pop(name, None)
                topic = self._topics.get(name)
                if topic is not None and topic.users and topic.state != "refused":
                    topic.state, topic.due = "pending", due
                    self._open[name] = None
                    topic.unanswered += 1
                    if topic.unanswered >= UNANSWERED:
                        hopeless.append(name)
        return hopeless

    def renew(self, names: Iterable[str]) -> None:
        """Have these unsubscribed and subscribed again: the venue starts them from the beginning."""
        with self.lock:
            for name in names:
                topic = self._topics.get(name)
                if topic is not None and topic.on_server:
                    topic.renewing = True
                    self._open[name] = None

    def acked(self, names: Iterable[str]) -> list[str]:
        """The venue confirmed these. Returns those that were not confirmed before."""
        fresh = []
        with self.lock:
            for name in names:
                self._waiting.pop(name, None)
                topic = self._topics.get(name)
                # A refused one, too: the refusal named nobody, perhaps, and was another's.
                if topic is not None and topic.state in ("sent", "refused"):
                    topic.state, topic.attempts, topic.unanswered, topic.reason = "live", 0, 0, ""
                    fresh.append(name)
        return fresh

    def refused(self, names: Iterable[str], reason: str, transient: bool, now: float) -> list[str]:
        """The venue refused these. Returns those refused for good; the others are tried again, with
        doubling pauses."""
        final = []
        with self.lock:
            for name in names:
                self._waiting.pop(name, None)
                topic = self._topics.get(name)
                if topic is None:
                    continue
                if not topic.users:             # so much the better
                    self._forget(name)
                    continue
                topic.reason = reason
                topic.attempts += 1
                topic.unanswered = 0
                if transient:
                    topic.state = "pending"
                    topic.due = now + min(RETRY_BASE * 2.0 ** min(topic.attempts - 1, 10), LONGEST_RETRY)
                    self._open[name] = None
                else:
                    topic.state = "refused"
                    self._open.pop(name, None)
                    final.append(name)
        return final

    def overdue(self, now: float) -> list[str]:
        """Topics whose answer should have come by now."""
        if not self._waiting:
            return []
        with self.lock:
            return [name for name in self._waiting if self._topics[name].due <= now]

    def size(self) -> int:
        """How many topics there are, whatever their state."""
        return len(self._topics)

    def on_server(self) -> int:
        """How many topics the venue has been asked for on this connection."""
        with self.lock:
            return sum(topic.on_server for topic in self._topics.values())

    def next_due(self) -> float | None:
        """The earliest monotonic time at which something has to be sent, or an answer is overdue."""
        with self.lock:
            times = [0.0 if topic.to_leave else topic.due
                     for topic in map(self._topics.__getitem__, self._open)]
            times += [self._topics[name].due for name in self._waiting]
            return min(times, default=None)

    def _forget(self, name: str) -> None:
        self._topics.pop(name, None)
        self._open.pop(name, None)
        self._waiting.pop(name, None)

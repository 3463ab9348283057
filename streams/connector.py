"""Connecting, again and again: the loop inside a stream's thread.

It connects, lets a :class:`~streams.session.Session` run until its connection ends, marks what
depended on it, waits as long as it should, and connects again; for ever, until it is stopped or the
venue says that it is pointless. What users ask for from outside (stop, pause, resume) are flags here,
and a poke.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .backoff import Backoff
from .bells import Doorbell, Latch
from .errors import Aborted, AuthenticationFailed, ConnectFailed, ConnectionLost, TransportError
from .feed import Feed
from .gate import gate_to
from .lifecycle import Lifecycle, Verdict
from .refresh import RestSource
from .session import Session
from .transports import Closed, Target, Transport, open_transport
from .venue import Venue

if TYPE_CHECKING:
    from .record import Recording
    from .schedule import Schedule
    from .transports.replay import Playback

__all__ = ["Connector", "Way"]

log = logging.getLogger("streams.stream")

REPORT = 0.5            # seconds between two reports to the metrics while there is no connection
OFFENCES = (1008, 1013)     # close codes of those who came too often: policy violation, try again later
LONGEST_LOOK = 60.0     # seconds between two looks at a schedule: the wall clock may be set meanwhile


@dataclass(repr=False)
class Way:
    """How to reach a venue; see the arguments of :class:`streams.Stream`. Much of it is secret.

    Attributes:
        make_venue: A fresh venue instance.
        has_keys: Whether there are credentials that could be wrong: a venue without any may still answer 403.
        playback: The recording to play instead of connecting anywhere, or None.
    """

    make_venue: Callable[[], Venue]
    address: str
    headers: Mapping[str, str]
    proxy: str | None
    sslopt: Mapping[str, Any] | None
    connect_timeout: float
    stale_after: float
    recorder: Recording | None
    schedule: Schedule | None
    backoff: Backoff
    has_keys: bool
    playback: Playback | None


class Connector:
    """One stream's connections, one after the other.

    Args:
        feed: What outlives them.
        way: Where to, and how.
        lifecycle: The public state.

    Attributes:
        control: Held while session, transport and flags change, never for long: no handler is called under
            it, and nothing of the store is waited for.
        ended: Set when the present run has ended; each run has one of its own.
    """

    def __init__(self, feed: Feed, way: Way, lifecycle: Lifecycle) -> None:
        self.feed = feed
        self.way = way
        self.lifecycle = lifecycle
        self.control = threading.RLock()        # a signal handler may stop what it has interrupted
        self.session: Session | None = None
        self._transport: Transport | None = None
        self._previous: Venue | None = None
        self._gate = gate_to(feed.exchange, way.address, way.proxy, feed.facts.limits.connects)
        self._bell = Doorbell()                     # the thread should look again at what is wanted of it
        self._ending = False
        self._pausing = False
        self._running = False
        self.ended = Latch()
        self.ended.set()

    # -- from outside: any thread -------------------------------------------------------------------

    def begin(self) -> None:
        """A new run is about to start. Threads: the one that starts it, holding ``control``."""
        self._ending = False
        self._running = True
        self.ended = Latch()
        self._bell.clear()

    def cancel(self) -> None:
        """The run that was about to start never will. Threads: as for :meth:`begin`."""
        self._running = False
        self.ended.set()

    def anew(self, lifecycle: Lifecycle) -> Connector:
        """The same for a forked child, where nobody runs or holds it."""
        made = Connector(self.feed, self.way, lifecycle)
        made._pausing = self._pausing
        return made

    def leave(self) -> None:
        """The run is over; from now on those who change something act on it themselves."""
        with self.control:
            self._running = False
        self._follow_idle()
        self.feed.store.leave(self.feed.writer)

    def end(self) -> Latch:
        """Have :meth:`run` return soon. Returns :attr:`ended` of the run that was asked."""
        with self.control:
            self._ending = True
            ended = self.ended
        self._finish()
        return ended

    def pause(self) -> None:
        """Close the connection, and stay away until :meth:`resume`."""
        with self.control:
            self._pausing = True
        self._finish()

    def resume(self) -> None:
        """The opposite of :meth:`pause`."""
        with self.control:
            self._pausing = False
        self._bell.ring()

    def _finish(self) -> None:
        self._bell.ring()
        session = self.session
        if session is not None:
            session.finish()
            if not session.opened_at:           # there is nobody yet to be polite to
                self.abort()

    def abort(self) -> None:
        """End the present connection by force, whatever it is doing. Never blocks."""
        with self.control:
            transport = self._transport
        if transport is not None:
            transport.abort()

    def changed(self) -> None:
        """Routes or handlers have changed: have somebody act on it, the caller if nothing runs."""
        with self.control:
            session, running = self.session, self._running
        if not running:
            self._follow_idle()
        self._bell.ring()
        if session is not None:
            session.wake()

    def _follow_idle(self) -> None:
        """Act on changes of routes and handlers while nothing runs: one at a time, and a thread that is
        about to run must join the store first."""
        def follow() -> None:
            if not self._running:
                self._follow()
        self.feed.store.apart(follow)
        self.feed.announce()

    def _follow(self) -> None:
        self.feed.rewire()
        self.feed.reconcile()

    # -- the stream's thread ------------------------------------------------------------------------

    def run(self, rest: RestSource) -> bool:
        """Connect, converse, wait, until :meth:`end`. False when it gave up."""
        while not self._ending:
            if self._stay_away() or self._queue():
                continue
            delay = self._converse(rest)
            if delay is None:
                return False
            if self._played_out:
                return True
            self._back_off(delay)
        return True

    def _stay_away(self) -> bool:
        """Whether it is paused, by the user or the schedule; waits while it is."""
        schedule, now = self.way.schedule, time.time_ns()
        if self._pausing:
            self.lifecycle.set("paused")
            self._wait(None)
            return True
        if schedule is None or schedule.is_open(now):
            return False
        opens = schedule.next_change(now)
        reason = "outside trading hours"
        if opens is not None:
            reason += f" until {datetime.fromtimestamp(opens / 1e9, timezone.utc):%Y-%m-%d %H:%M} UTC"
        self.lifecycle.set("paused", reason)
        wait = LONGEST_LOOK if opens is None else min((opens - now) / 1e9, LONGEST_LOOK)
        self._wait(max(wait, 0.0))
        return True

    def _queue(self) -> bool:
        """Whether the venue has been connected to so often that this has to wait; waits while it has."""
        if self.way.playback is not None:
            return False
        wait = self._gate.enter(time.monotonic())
        if wait:
            self.lifecycle.set("backoff", f"the venue's limit on connections: next attempt in {wait:.2f} s")
            self._wait(wait)
        return wait > 0

    def _wait(self, seconds: float | None) -> None:
        """Wait, but not when somebody wants something."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if until is None else max(until - time.monotonic(), 0.0)
            slices = self.feed.measured and (left is None or left > REPORT)
            if self._bell.wait(REPORT if slices else left) or not slices:
                break
            self.feed.report()
        self._bell.clear()
        self._follow()
        self.feed.announce()

    def _back_off(self, delay: float) -> None:
        if delay <= 0 or self._ending or self._pausing:
            return
        self.lifecycle.set("backoff", f"next attempt in {delay:.2f} s")
        until = time.monotonic() + delay
        while not self._ending and not self._pausing and (left := until - time.monotonic()) > 0:
            self._wait(left)

    def _converse(self, rest: RestSource) -> float | None:
        """One connection, from connecting to its end. Seconds to wait before the next; None: give up."""
        way = self.way
        venue = way.make_venue()
        if self._previous is not None:
            venue.inherit(self._previous)
        self._previous = venue
        until = None if way.schedule is None else way.schedule.next_change(time.time_ns())
        routes = self.feed.subscriptions.routes()
        endpoint = venue.endpoint(routes[0].channel if routes else venue.channels[0])
        session = Session(
            self.feed, venue, self.feed.name, rest, endpoint=endpoint, stale_after=way.stale_after,
            until=until, recorder=way.recorder, on_state=self._on_state)
        transport = open_transport(self._target(venue, endpoint), session)
        session.use(transport)
        with self.control:
            if self._ending or self._pausing:
                return 0.0
            self.session, self._transport = session, transport
        self.lifecycle.set("connecting")
        closed = self._run(transport, session)
        session.ended()
        with self.control:
            self.session = self._transport = None
        return self._judge(session, closed)

    def _run(self, transport: Transport, session: Session) -> Closed:
        """Run it to its end; a mistake of ours in there is one more connection that went wrong."""
        try:
            return transport.run()
        except Exception as error:
            log.exception("%s: the transport failed", self.feed.name)
            return Closed(TransportError(f"{type(error).__name__}: {error}"), session.opened_at > 0)

    def _target(self, venue: Venue, endpoint: str) -> Target:
        way = self.way
        if way.playback is not None:
            return Target(url=way.address, options={"playback": way.playback})
        return Target(
            url=venue.address(way.address, endpoint), headers={**way.headers, **venue.headers()},
            options=venue.transport_options(), proxy=way.proxy, sslopt=way.sslopt,
            connect_timeout=way.connect_timeout)

    def _on_state(self, state: str, reason: str) -> None:
        """The session has something to say about itself."""
        fresh = self.lifecycle.state == "connecting"
        self.lifecycle.set(state, reason)
        if state == "live" and fresh and self.feed.counters.connects > 1:
            self.feed.count("reconnects")

    def _judge(self, session: Session, closed: Closed) -> float | None:
        """What the end of a connection means: seconds to wait, or None to give up."""
        self.feed.report()
        self.feed.subscriptions.reset()
        verdict = session.verdict or self._verdict(closed)
        reason = self.feed.clean(str(verdict.error)) if verdict is not None else "closed"
        self.feed.mark("stale", reason)
        if self.way.recorder is not None and closed.opened:
            self.way.recorder.closed(self.feed.name, reason)
        if verdict is None or self._ending or self._pausing:
            return 0.0
        if self._played_out and not verdict.fatal:
            self.lifecycle.last_error = "the recording has ended"
            return 0.0
        lived = time.monotonic() - session.opened_at if closed.opened else 0.0
        if isinstance(verdict.error, ConnectionLost) and verdict.error.code in OFFENCES:
            lived /= 10         # what lives long otherwise may have been far from healthy
        if verdict.planned:
            log.info("%s: replacing the connection: %s", self.feed.name, reason)
            backoff = self.way.backoff          # a venue that sends everybody away at once is not hammered
            return max(verdict.after, 0.0 if lived >= backoff.healthy_after else backoff.next(lived))
        self.feed.count("errors")
        if verdict.fatal:
            reason = f"{type(verdict.error).__name__}: {reason}"
        self.lifecycle.last_error = reason
        if verdict.fatal:
            log.error("%s: gives up: %s", self.feed.name, reason)
            return None
        delay = max(self.way.backoff.next(lived), verdict.after)
        log.log(logging.WARNING if self.way.backoff.failures <= 1 else logging.INFO,
                "%s: %s; next attempt in %.2f s", self.feed.name, reason, delay)
        return delay

    @property
    def _played_out(self) -> bool:
        """Whether it was a recording, which has nothing more."""
        return self.way.playback is not None and self.way.playback.finished

    def _verdict(self, closed: Closed) -> Verdict | None:
        """What the transport's own account of the end means."""
        error = closed.error
        if error is None or isinstance(error, Aborted):     # we did it; for a reason, the session has it
            return None
        if isinstance(error, ConnectFailed):
            if error.status == 401 or (error.status == 403 and self.way.has_keys):
                refused = AuthenticationFailed(f"{self.feed.exchange} refused the credentials: {error}")
                return Verdict(refused, fatal=True)
            away = self.feed.facts.limits.stay_away
            return Verdict(error, after=error.retry_after or away.get(error.status or 0, 0.0))
        return Verdict(error)

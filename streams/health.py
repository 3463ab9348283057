"""Is the peer alive, and its data fresh? Judged several times a second, for one connection.

House rules:
 * Silence is probed with a ping before it is judged, and only a probe without an answer is final.
 * A connection that answers and has no data is replaced, for it may have been forgotten. If that does not
   help, the market is quiet: the next one is given twice the time, and so on.
 * A look that comes late judges nothing. If this thread did not get to run (a busy interpreter, a
   sleeping laptop), what has arrived meanwhile has not been read yet: the silence was ours.

Threads: the network thread.
"""

from __future__ import annotations

import time
from typing import Protocol

from .errors import StreamsError, TransportError
from .feed import Feed
from .refresh import Refresher
from .transports.base import Transport
from .venue import Route, Venue

__all__ = ["Health", "Patient"]

LOGIN = 10.0        # seconds a venue may take to let us in
LATE = 1.0          # seconds between two looks that mean that we were held up
DOUBLINGS = 4       # of the silence that a connection is given when those before were silent, too; at most
LIVELY = 4          # times the usual silence without half of one, after which none is expected any more
LOOKS = 3           # that an unanswered probe must have seen, so that what came has been read


class Patient(Protocol):
    """What this needs of the session."""

    @property
    def transport(self) -> Transport: ...
    def send(self, frames: tuple[bytes | str, ...]) -> None: ...
    def note_sent(self, now: float) -> None: ...
    def may_send(self, now: float) -> bool: ...
    def on_state(self, state: str, reason: str) -> None: ...
    def end(self, error: StreamsError, *, planned: bool = False) -> None: ...


class Health:
    """The signs of life of one connection. All times are monotonic seconds.

    Args:
        session: Whose health it is.
        venue: Its limits say what silence means.
        feed: Whose data it is.
        refresher: Told of single feeds that fell silent.
        stale_after: Seconds without data after which data counts as stale.

    Attributes:
        last_data: When the last message came that was more than a ping or an answer.
        last_life: When the peer last showed life in any way.
        last_sent: When something was last sent.
    """

    def __init__(self, session: Patient, venue: Venue, feed: Feed, refresher: Refresher,
                 stale_after: float) -> None:
        self.last_data = 0.0
        self.last_life = 0.0
        self.last_sent = 0.0
        self._session = session
        self._venue = venue
        self._feed = feed
        self._refresher = refresher
        self._stale_after = stale_after
        self._opened = 0.0
        self._last_look = 0.0
        self._lively_since = 0.0
        self._quiet = False                 # it is stale, and kept for now
        self._probed: float | None = None
        self._looks = 0                     # since the probe
        self._news: dict[Route, tuple[int, float]] = {}     # (stamp of the last data, when it was new)

    def opened(self, now: float) -> None:
        """The connection is established."""
        self.last_data = self.last_life = self.last_sent = self._opened = self._last_look = now
        self._lively_since = now

    def look(self, now: float, ready: bool) -> None:
        """Do and judge what is due; ``ready``: the venue has let us in."""
        late = now - self._last_look > LATE
        self._last_look = now
        if ready:
            self._beat(now)
            self._refresher.look()
        if late:
            return
        lifetime = self._venue.limits.lifetime
        if not ready and now - self._opened > LOGIN:
            self._session.end(TransportError(f"no answer to the login within {LOGIN:g} s"))
        elif lifetime is not None and now - self._opened > lifetime:
            self._session.end(TransportError("the venue ends connections of this age"), planned=True)
        else:
            self._probe_silence(now)
            if ready:
                self._look_for_stale(now)

    def _beat(self, now: float) -> None:
        """Send what the venue wants to hear when nothing else is sent."""
        beat = self._venue.heartbeat(time.time_ns())
        if beat is not None and now - self.last_sent >= beat[0]:
            self._session.send(tuple(beat[1]))

    def _probe_silence(self, now: float) -> None:
        """Probe a silent peer; give up on a mute one."""
        limits, session = self._venue.limits, self._session
        silence = now - self.last_life
        if limits.heartbeat is not None and silence > limits.heartbeat:
            self._mute(f"nothing heard for {silence:.1f} s")
        elif self._probed is None:
            if silence >= limits.probe_after and session.may_send(now):
                self._probe(now)
        elif self.last_life >= self._probed:
            self._probed = None
        else:
            self._looks += 1
            if now - self._probed >= limits.probe_after and self._looks >= LOOKS:
                self._mute(f"no answer to a ping; nothing heard for {silence:.1f} s")

    def _mute(self, reason: str) -> None:
        self._refresher.suspect()
        self._session.end(TransportError(reason))

    def _probe(self, now: float) -> None:
        """Ask for a sign of life, in every way the venue may answer."""
        session, probed = self._session, False
        frames = tuple(self._venue.ping(time.time_ns()))
        session.send(frames)
        if not frames or session.may_send(now):
            try:
                probed = session.transport.ping()
            except TransportError as error:
                session.end(error)
                return
        if probed:
            session.note_sent(now)
        if probed or frames:
            self._probed, self._looks = now, 0

    def _look_for_stale(self, now: float) -> None:
        """Look for feeds that are connected but say nothing."""
        feed, sparse = self._feed, self._venue.sparse
        before, self._news = self._news, {}
        for route, sink in feed.sinks.items():
            if route.channel.partition(":")[0] not in sparse:
                stamp, known = sink.last, before.get(route)
                self._news[route] = known if known is not None and known[0] == stamp else (stamp, now)
        # What the venue has not confirmed, it need not send.
        silent = [route for route, (_, when) in self._news.items() if now - when > self._stale_after
                  and feed.subscriptions.state(route)[0] == "live"]
        reason = f"no data for {self._stale_after:g} s"
        if self._judge_silence(now, bool(silent), reason):
            return
        for route in silent:
            keeper = feed.keepers.get(route)
            rebuilding = keeper is not None and keeper.sends_deltas and keeper.book.status == "syncing"
            if not rebuilding:
                self._refresher.silent(route, now, reason)

    def _judge_silence(self, now: float, silent: bool, reason: str) -> bool:
        """Whether nothing at all has come for so long that the connection was ended; ``silent``: something
        should have come."""
        feed, usual, silence = self._feed, self._stale_after, now - self.last_data
        if silence > usual / 2:
            self._lively_since = now
        elif now - self._lively_since > LIVELY * usual:
            feed.silences = 0
        if not silent or silence <= usual:
            if self._quiet:
                self._quiet = False
                self._session.on_state("live", "data again")
            return False
        if not self._quiet:
            self._quiet = True
            self._session.on_state("stale", reason)
        if silence <= usual * 2 ** min(feed.silences, DOUBLINGS):
            return False
        feed.silences += 1
        feed.mark("stale", reason)
        self._session.end(TransportError(f"connected, but {reason}"))
        return True

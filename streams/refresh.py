"""Getting whole books: asking for snapshots, paced, again when they fail or come too old.

A venue says how (:meth:`streams.venue.Venue.refresh`): by REST, by a frame of its own, or by
subscribing anew. When to ask, and how long to wait before asking again, is decided here for all.
Threads: the network thread, except where said.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Protocol

from .feed import Feed
from .sequencing import BookKeeper
from .venue import RestRequest, Route, Venue

__all__ = ["Conversation", "Refresher", "RestSource"]

log = logging.getLogger("streams.refresh")

FIRST_PAUSE = 0.1       # seconds between the first and the second attempt; doubles
LONGEST_PAUSE = 10.0
SHORTEST_PAUSE = 0.02   # seconds between two looks at what may not be sent yet
SUSPICION = 60.0        # seconds until a silent feed is subscribed anew once more; doubles
LONGEST_SUSPICION = 3600.0
STREAK = 2.0            # seconds: a book that is lost again so soon was not helped by subscribing it anew
FRAME_PATIENCE = 5.0    # seconds an answer to a frame of the venue's own may take
ROUND = 8               # looks in which every book has its turn
LONGEST_PATIENCE = 60.0  # seconds between two attempts where a snapshot comes by itself, or never
ASKED = "its snapshot is asked for by REST, as the venue's limit allows"    # why there is no data yet


class RestSource(Protocol):
    """Who fetches (:mod:`streams.rest`)."""

    def fetch(self, request: RestRequest, done: Callable[[str, bytes | None, str, float], None],
              wanted: Callable[[], bool]) -> None:
        """Call ``done(url, body, error, retry_after)`` from some thread, once, unless it is no longer
        ``wanted()`` when it is its turn; body is None on error."""

    def suspect(self) -> None:
        """The network has gone silent: open connections are not to be trusted. Threads: any."""


class Conversation(Protocol):
    """What this needs of the session."""

    def send(self, frames: Iterable[bytes | str]) -> None: ...
    def may_send(self, now: float) -> bool: ...
    def post(self, call: Callable[[], None]) -> None: ...
    def wake(self) -> None: ...
    def answered(self, route: Route, body: bytes) -> None: ...
    def record_http(self, url: str, body: bytes) -> None: ...


class _Wish:
    """One book that needs a snapshot."""

    __slots__ = ("due", "attempts", "asked")

    def __init__(self, due: float) -> None:
        self.due = due              # monotonic seconds: ask then; for one asked: ask again then
        self.attempts = 0
        self.asked = False


class Refresher:
    """The wishes of one connection."""

    def __init__(self, feed: Feed, venue: Venue, rest: RestSource, session: Conversation) -> None:
        self._feed = feed
        self._venue = venue
        self._rest = rest
        self._session = session
        self._wishes: dict[Route, _Wish] = {}
        # Those that are silent: when to ask again, and the pause after that.
        self._checked: dict[Route, tuple[float, float]] = {}
        # Those that were subscribed anew for their snapshot: when it came, and how often in a streak.
        self._renewed: dict[Route, tuple[float, int]] = {}
        self._round: Iterator[BookKeeper] = iter(())    # the books that are still to be looked at
        feed.on_lost = self.lost
        feed.on_live = self.live

    def ask(self, route: Route, now: float) -> None:
        """``route`` was (re)subscribed: its book needs a snapshot. It is asked for at once; where it comes
        by itself, it is missed only when it does not."""
        keeper = self._feed.keepers.get(route)
        if keeper is None or keeper.ready or not keeper.sends_deltas or route in self._wishes:
            return
        wish = self._wishes[route] = _Wish(now)
        wish.attempts = self._streak(route, now)    # it may have come with the answer, and be lost again
        if self._venue.refresh(route) is None:      # subscribing was the asking
            keeper.asked = wish.asked = True
            wish.due = now + FRAME_PATIENCE
        self._session.wake()

    def adopt(self, route: Route, now: float) -> None:
        """``route`` is new here, but the venue has been asked for its topics before: no answer will come."""
        if route in self._feed.keepers and self._venue.refresh(route) is None:
            self._feed.subscriptions.renew(route.topics)
        else:
            self.ask(route, now)

    def lost(self, route: Route, reason: str) -> None:
        """A book can not go on, or the snapshot that came was of no use: a new one is needed."""
        now = time.monotonic()
        wish = self._wishes.get(route)
        if wish is None:
            wish = self._wishes[route] = _Wish(now)
            wish.attempts = self._streak(route, now)
            if wish.attempts:
                self._later(wish, now)
            self._feed.count("resyncs")
            self._session.wake()
        elif wish.asked:
            self._later(wish, now)

    def _streak(self, route: Route, now: float) -> int:
        """How often in a row subscribing it anew has not helped."""
        renewed, attempts = self._renewed.get(route, (0.0, 0))
        return attempts if now - renewed < STREAK else 0

    def live(self, route: Route) -> None:
        """The wish has come true; if the book is lost again, in the same breath even, that is a new one."""
        self._wishes.pop(route, None)
        self._feed.troubles.pop(route, None)
        if route in self._renewed:
            self._renewed[route] = time.monotonic(), self._renewed[route][1]

    def silent(self, route: Route, now: float, reason: str) -> None:
        """A feed has said nothing for long. It may be quiet, or forgotten by the venue: mark it, and
        subscribe it anew; as long as it stays silent, again after pauses that double."""
        due, pause = self._checked.get(route, (now, SUSPICION))
        with self._feed.writer.lock:
            self._feed.sinks[route].silent(reason)
        if now < due:
            return
        if now > due + pause:                       # it has spoken since
            pause = SUSPICION
        self._checked[route] = now + pause, min(2.0 * pause, LONGEST_SUSPICION)
        log.warning("%s %s of %s: %s, subscribing anew", self._feed.exchange, route.channel, route.symbol,
                    reason)
        self._feed.subscriptions.renew(route.topics)

    def look(self) -> None:
        """Rebuild books of which it can be seen that they are wrong."""
        keepers = self._feed.keepers
        due = list(islice(self._round, len(keepers) // ROUND + 1))
        if not due:
            self._round = iter(list(keepers.values()))
        for keeper in due:
            with self._feed.writer.lock:        # of each: a reader need not wait for all of them
                keeper.look()

    def suspect(self) -> None:
        """The connection has died in silence; those that were kept to ask for snapshots may have, too."""
        self._rest.suspect()

    def forget(self, route: Route) -> None:
        """Nobody wants it any more."""
        self._wishes.pop(route, None)
        self._checked.pop(route, None)
        self._renewed.pop(route, None)

    def end(self) -> None:
        """The connection is gone, and nothing is wanted for it any more."""
        for route in self._wishes:
            if self._feed.troubles.get(route) == ASKED:
                del self._feed.troubles[route]
        self._wishes.clear()

    def tick(self, now: float) -> None:
        """Ask for what is due."""
        for route, wish in list(self._wishes.items()):
            if wish.due <= now:
                self._ask_now(route, wish, now)

    def pause(self, now: float) -> float:
        """Seconds until something is due."""
        first = min((wish.due for wish in self._wishes.values()), default=now + 60.0)
        return max(first - now, SHORTEST_PAUSE)

    def _ask_now(self, route: Route, wish: _Wish, now: float) -> None:
        how = self._venue.refresh(route)
        if not isinstance(how, RestRequest) and not self._session.may_send(now):
            return                                  # the venue's limit: soon
        wish.attempts += 1
        wish.asked = True
        wish.due = now + FRAME_PATIENCE
        if isinstance(how, RestRequest):
            wish.due = math.inf             # the answer moves it, and may have to wait long for its turn
            self._feed.troubles.setdefault(route, ASKED)        # what went wrong before says more
            self._rest.fetch(how, self._door(route, wish), lambda: self._goes_out(route, wish))
            return
        self._mark(route, True)
        if how is not None:
            self._session.send(how)
        else:
            wish.due = now + min(FRAME_PATIENCE * 2.0 ** min(wish.attempts - 1, 10), LONGEST_PATIENCE)
            self._renewed[route] = now, wish.attempts
            self._feed.subscriptions.renew(route.topics)

    def _mark(self, route: Route, asked: bool) -> None:
        """Tell the book whether a snapshot is on its way. Threads: any."""
        keeper = self._feed.keepers.get(route)
        if keeper is not None:
            keeper.asked = asked

    def _goes_out(self, route: Route, wish: _Wish) -> bool:
        """A REST call has come to its turn, perhaps minutes after it was made: whether it is still wanted.
        Threads: a worker's."""
        wanted = self._wishes.get(route) is wish
        if wanted:
            self._mark(route, True)
        return wanted

    def _door(self, route: Route, wish: _Wish) -> Callable[[str, bytes | None, str, float], None]:
        """Where a REST answer comes in. Threads: a worker's; the rest happens in the network thread."""
        def done(url: str, body: bytes | None, error: str, retry_after: float) -> None:
            if body is not None:
                self._session.record_http(url, body)
            self._session.post(lambda: self._answer(route, wish, body, error, retry_after))
        return done

    def _answer(self, route: Route, wish: _Wish, body: bytes | None, error: str,
                retry_after: float) -> None:
        if self._wishes.get(route) is not wish:
            return                                  # unsubscribed, or asked for anew, meanwhile
        self._mark(route, False)
        now = time.monotonic()
        if body is None:
            log.warning("%s %s: no snapshot: %s", self._feed.exchange, route.symbol, error)
            self._feed.count("errors")
            self._feed.troubles[route] = f"no snapshot: {error}"
            self._later(wish, now, retry_after)
            return
        self._later(wish, now)                      # unless it makes the book live, ask again then
        self._session.answered(route, body)

    def _later(self, wish: _Wish, now: float, at_least: float = 0.0) -> None:
        wish.asked = False
        wish.due = now + max(at_least, min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(wish.attempts - 1, 10)))

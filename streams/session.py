"""One connection of a stream: drives one venue over one transport into the feed.

Everything here runs in the network thread, as the transport's :class:`~streams.transports.base.Receiver`,
except :meth:`Session.wake` and what puts something into the inbox. The session ends by ending its
transport; why, it leaves in :attr:`Session.verdict`. The thread decides what comes next.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .backoff import RollingWindow
from .errors import ConnectionLost, StreamsError, TransportError
from .feed import Feed
from .health import Health
from .lifecycle import Verdict
from .refresh import Refresher, RestSource
from .subscriptions import UNANSWERED
from .transports.base import Transport
from .venue import (
    Acked, Alive, Failed, Item, Malformed, Notice, Ready, Reconnect, Refused, Reply, Resync, Route, Signal,
    Unsubscribed, Venue,
)

if TYPE_CHECKING:
    from .record import Recording

__all__ = ["Session"]

log = logging.getLogger("streams.session")

JITTER = 0.25           # seconds by which messages may be closer together on arrival than when sent
TICK = 0.25             # longest pause between two looks at what is due, seconds
ALONE = 250             # reads that nobody was waiting for, after which nobody will wait for the next one
SAMPLES = 5             # malformed messages shown in the log, per connection


class Session:
    """One connection's conversation.

    Args:
        feed: What outlives the connection.
        venue: A fresh venue instance.
        name: The stream's, for the log and the recording.
        rest: Fetches snapshots.
        endpoint: The venue's that this connection leads to.
        stale_after: Seconds without data after which the feed counts as stale.
        until: When to end politely, ns since the epoch (the market closes), or None.
        recorder: Keeps raw frames, or None.
        on_state: Called with ``live`` or ``stale`` and a reason.
    """

    def __init__(
        self, feed: Feed, venue: Venue, name: str, rest: RestSource, *, endpoint: str, stale_after: float,
        until: int | None = None, recorder: Recording | None = None,
        on_state: Callable[[str, str], None],
    ) -> None:
        self.feed = feed
        self.venue = venue
        self.name = name
        self.verdict: Verdict | None = None
        self.opened_at = 0.0            # monotonic seconds; 0.0: it never opened
        self._opened_ns = 0
        self._transport: Transport | None = None
        self._endpoint = endpoint
        self._until = until
        self._recorder = recorder
        self.on_state = on_state
        count, seconds = venue.limits.messages
        self._pace = RollingWindow(count, seconds + JITTER)
        self._refresher = Refresher(feed, venue, rest, self)
        self._signals: deque[Signal] = deque()
        self._inbox: deque[Callable[[], None]] = deque()
        # What every message needs, at hand: after a wait each look-up is a miss of the processor's caches.
        self._hot = feed, feed.writer.clock, feed.writer.lock, feed.noted
        self._joins = venue.joins
        self._alone = 0                 # reads in a row that nobody was waiting for
        self._leisure = False           # what the transport was told
        self._seen = -1                 # version of the wanted routes that the venue knows
        self._known: dict[Route, None] = {}     # routes the venue has been told of
        self._ready = False
        self._finishing = False         # somebody asked for a polite end
        self._closed = False            # and the transport has been told
        self._health = Health(self, venue, feed, self._refresher, stale_after)
        self._answered = False          # the venue has said yes or no to a subscription
        self._malformed_shown = 0
        self._next_look = 0.0
        venue.session.apply = self._signals.append

    # -- other threads ---------------------------------------------------------------------------

    def use(self, transport: Transport) -> None:
        """The transport this session speaks through. Threads: the stream's, before it runs."""
        self._transport = transport

    def wake(self) -> None:
        """Have the network thread look at what is due. Threads: any."""
        if self._transport is not None:
            self._transport.wake()

    def post(self, call: Callable[[], None]) -> None:
        """Have ``call`` made in the network thread. Threads: any."""
        self._inbox.append(call)
        self.wake()

    def finish(self) -> None:
        """End politely and soon, without a verdict. Threads: any."""
        self._finishing = True
        self.wake()

    def ended(self) -> None:
        """Its connection is gone. Threads: the stream's, after it."""
        self._refresher.end()

    # -- the transport's receiver ----------------------------------------------------------------

    def opened(self) -> None:
        """See Receiver."""
        now = time.monotonic()
        self.opened_at = now
        self._health.opened(now)
        self.feed.count("connects")
        self._opened_ns = time.time_ns()
        self.feed.subscriptions.reset()
        self._follow_routes()
        self.feed.connected()
        if self._recorder is not None:
            self._recorder.opened(self.name, self.transport.target.url)
        self._take(self.venue.opened(time.time_ns()))

    def received(self, messages: Sequence[bytes]) -> None:
        """See Receiver. The hot path: everything per message is in the inner loop."""
        feed, clock, lock, noted = self._hot
        clock.now = now = time.time_ns()
        if self._recorder is not None:
            self._recorder.received(self.name, messages, now)
        receive: Callable[[Any, int], Iterable[Item]] = self.venue.receive
        left: Iterator[Any] = iter(messages)
        if self._joins and not feed.heard:
            receive, left = self.venue.receive_many, iter((messages,))
        signals = len(self._signals)
        lock.acquire()
        try:
            while True:
                try:
                    for raw in left:
                        for route, event in receive(raw, now):
                            apply = route.apply     # called as a method it costs 3.11 a look-up by name
                            apply(event)
                        if noted:               # handlers see the store as this message left it
                            lock.release()
                            try:
                                feed.deliver()
                            finally:
                                lock.acquire()
                            if self._finishing:     # a slow handler would hold up the end: drop the rest,
                                feed.deferred.append((self._leave, ()))     # and all that comes after it
                                break
                    break
                except Exception as error:
                    self._survive(error)
        finally:
            lock.release()
        feed.counters.messages += len(messages)
        if feed.measured:
            feed.bytes += sum(map(len, messages))
        health = self._health
        health.last_life = time.monotonic()
        if len(messages) > len(self._signals) - signals:        # not only pings and answers
            feed.last_data = health.last_data = health.last_life
        if feed.store.waiters:
            self._alone = 0
            feed.store.notify()
        else:
            self._alone = 0 if feed.heard else self._alone + 1
        leisure = self._alone > ALONE
        if leisure is not self._leisure:
            self._leisure = leisure
            self.transport.take_leisure(leisure)
        if self._signals or feed.deferred:
            self._after()

    def _survive(self, error: Exception) -> None:
        """A mistake of ours in the middle of a batch: count it, distrust every book (whose message it
        was is unknown), and go on with the next message."""
        self.feed.deferred.append((self._log_survived, (error,)))
        self.feed.count_later("malformed")
        for keeper in self.feed.keepers.values():
            if keeper.ready:
                keeper.lose("a message could not be handled")

    def _log_survived(self, error: Exception) -> None:
        log.error("%s: a message could not be handled", self.name, exc_info=error)

    def alive(self) -> None:
        """See Receiver."""
        self._health.last_life = time.monotonic()

    def malformed(self, reason: str) -> None:
        """See Receiver."""
        self._signals.append(Malformed(reason))
        self._after()

    def tick(self) -> float:
        """See Receiver."""
        now = time.monotonic()
        if self._finishing:
            self._leave()
            return TICK
        while self._inbox:
            self._inbox.popleft()()
        self.feed.rewire()
        self._follow_routes()
        if self._ready:
            self._send_due(now)
            self._check_answers(now)
            self._refresher.tick(now)
        if now >= self._next_look:
            self._next_look = now + TICK
            self.feed.report()
            self._health.look(now, self._ready)
            if self._until is not None and time.time_ns() >= self._until:
                self.finish()
        self._after()
        return self._pause(now)

    def _leave(self) -> None:
        """End politely. What comes from now on is dropped, so no book may go on looking live."""
        if not self._closed:
            self._closed = True
            self.feed.mark("stale", "closed")
            if self._ready:
                self.send(self.venue.goodbye())
            self.transport.close()

    # -- sending ---------------------------------------------------------------------------------

    @property
    def transport(self) -> Transport:
        """The transport of this session."""
        assert self._transport is not None
        return self._transport

    def send(self, frames: Iterable[bytes | str], secret: bool = False) -> None:
        """Send frames now; one that can not be sent ends the conversation."""
        for frame in frames:
            now = time.monotonic()
            self.note_sent(now)
            try:
                self.transport.send(frame)
            except TransportError as error:
                self.end(error)
                return
            if self._recorder is not None:
                self._recorder.sent(self.name, frame, secret)

    def note_sent(self, now: float) -> None:
        """A message is being sent: it counts for the venue's limit."""
        self._pace.spend(now)
        self._health.last_sent = now

    def may_send(self, now: float) -> bool:
        """Whether the venue's limit allows one more message now."""
        return self._pace.wait(now) == 0.0

    def end(self, error: StreamsError, *, after: float = 0.0, planned: bool = False,
            fatal: bool = False) -> None:
        """End this connection, and say why. The first reason counts. One that is lost ends by itself: the
        transport knows best why, and what the peer said last is still to be heard."""
        if self.verdict is None and not isinstance(error, ConnectionLost):
            self.verdict = Verdict(error, after=after, planned=planned, fatal=fatal)
            self.transport.abort()

    def _send_due(self, now: float) -> None:
        subscriptions, venue = self.feed.subscriptions, self.venue
        leave, enter = subscriptions.due(now)
        deadline = now + (venue.limits.ack if venue.limits.ack is not None else 10.0)
        for batch in venue.batches(leave):
            if not self.may_send(now):
                return
            self.send(venue.unsubscribe(batch))
            subscriptions.left(batch)
        # An unsubscribed topic may be wanted again since: it is due at the next look.
        room = venue.limits.topics - subscriptions.on_server()
        for batch in venue.batches(enter[:max(room, 0)]):
            if not self.may_send(now):
                return
            batch = subscriptions.sent(batch, deadline)
            self.send(venue.subscribe(batch) if batch else ())
            if venue.limits.ack is None:
                self._acked(batch)

    def _follow_routes(self) -> None:
        """Tell the venue which routes have come and gone."""
        feed = self.feed
        if self._seen == feed.subscriptions.changes:
            return
        self._seen = feed.subscriptions.changes
        feed.reconcile()
        if any(self.venue.endpoint(route.channel) != self._endpoint for route in feed.sinks):
            # Of the wrong one, a venue may acknowledge it and send nothing.
            self.end(TransportError("what is subscribed is served on another endpoint"), planned=True)
            return
        for route in [route for route in self._known if route not in feed.sinks]:
            del self._known[route]
            self.venue.remove(route)
            self._refresher.forget(route)
        for route in feed.sinks:
            if route not in self._known:
                self._known[route] = None
                self.venue.add(route)
                if feed.subscriptions.state(route)[0] == "live":
                    self._refresher.adopt(route, time.monotonic())

    # -- what is due -------------------------------------------------------------------------------

    def _check_answers(self, now: float) -> None:
        subscriptions = self.feed.subscriptions
        overdue = set(subscriptions.overdue(now))
        if not overdue:
            return
        # Data is as good as an answer.
        heard = {t for route, sink in self.feed.sinks.items()
                 if sink.last > self._opened_ns for t in route.topics}
        self._acked(sorted(overdue & heard))
        silent = sorted(overdue - heard)
        hopeless = subscriptions.again(silent, now)
        if hopeless and not (self._answered or heard):
            self.end(TransportError(f"subscriptions stay unanswered: {', '.join(hopeless[:3])}"))
        elif hopeless:                  # it speaks to us, but has nothing to say about these
            log.warning("%s: no answer to %s", self.name, ", ".join(hopeless[:3]))
            subscriptions.refused(hopeless, f"the venue did not answer {UNANSWERED} requests", True, now)
        elif silent:
            log.warning("%s: no answer to %d subscriptions, asking again", self.name, len(silent))

    def _pause(self, now: float) -> float:
        """Seconds until something is due."""
        if self._inbox:
            return 0.0
        pause = TICK
        if self._ready:
            due = self.feed.subscriptions.next_due()
            if due is not None:
                pause = min(pause, max(due - now, self._pace.wait(now), 0.005))
        return min(pause, self._refresher.pause(now))

    # -- what was received ---------------------------------------------------------------------------

    def _take(self, items: Iterable[Item]) -> None:
        """Apply items that did not come through :meth:`received`."""
        writer = self.feed.writer
        writer.clock.now = time.time_ns()
        with writer.lock:
            for route, event in items:
                route.apply(event)
        if self.feed.store.waiters:
            self.feed.store.notify()
        self._after()

    def answered(self, route: Route, body: bytes) -> None:
        """A snapshot came by REST. Threads: network."""
        self._take(self.venue.snapshot(route, body, time.time_ns()))

    def record_http(self, url: str, body: bytes) -> None:
        """Keep a REST answer in the recording, if there is one. Threads: any."""
        if self._recorder is not None:
            self._recorder.http(self.name, url, body)

    def _after(self) -> None:
        """What follows from a batch, with no lock held: signals first, then handlers."""
        while self._signals:
            signal = self._signals.popleft()
            self._ACTIONS[type(signal)](self, signal)
        self.feed.drain()

    def _on_ready(self, signal: Ready) -> None:
        self._ready = True
        self.on_state("live", "")
        self.wake()

    def _on_reply(self, signal: Reply) -> None:
        self.send((signal.frame,), signal.secret)

    def _on_word(self, signal: Alive | Unsubscribed) -> None:
        """That it came is all there is to it. What is wanted may differ by now from what is unsubscribed."""

    def _on_acked(self, signal: Acked) -> None:
        self._acked(signal.topics)

    def _acked(self, topics: Sequence[str]) -> None:
        self._answered = self._answered or bool(topics)
        fresh = set(self.feed.subscriptions.acked(topics))
        if fresh:
            now = time.monotonic()
            for route in self._known:
                if route.channel == "book" and fresh.intersection(route.topics):
                    self._refresher.ask(route, now)

    def _on_refused(self, signal: Refused) -> None:
        self._answered = True
        subscriptions, concerned = self.feed.subscriptions, set(signal.topics)
        routes = [route for route in self._known if not concerned.isdisjoint(route.topics)
                  and subscriptions.state(route)[0] != "refused"]     # once, however many topics it has
        reason = self.feed.clean(signal.reason)
        final = subscriptions.refused(signal.topics, reason, signal.transient, time.monotonic())
        for route in routes:
            if not set(final).isdisjoint(route.topics):
                log.warning("%s: %s of %s was refused: %s", self.name, route.channel, route.symbol, reason)
                self.feed.status_change("subscription", "refused", symbol=route.symbol, reason=reason)

    def _on_malformed(self, signal: Malformed) -> None:
        feed = self.feed
        if signal.unasked and not self.transport.selective:
            return
        feed.count("malformed")
        if self._malformed_shown < SAMPLES:
            self._malformed_shown += 1
            log.warning("%s: malformed message: %.200s", self.name, feed.clean(signal.reason))
        if signal.topic:
            self._distrust(signal.topic, "a malformed update")

    def _on_resync(self, signal: Resync) -> None:
        self._distrust(signal.topic, self.feed.clean(signal.reason))

    def _distrust(self, topic: str, reason: str) -> None:
        """Rebuild the books of a topic."""
        with self.feed.writer.lock:
            for route, keeper in self.feed.keepers.items():
                if topic in route.topics and keeper.ready:
                    keeper.lose(reason)

    def _on_reconnect(self, signal: Reconnect) -> None:
        self.end(TransportError(signal.reason), after=signal.after, planned=signal.planned)

    def _on_notice(self, signal: Notice) -> None:
        self.feed.count("notices")
        log.warning("%s: the venue says: %.200s", self.name, self.feed.clean(signal.text))

    def _on_failed(self, signal: Failed) -> None:
        self.end(signal.error, fatal=True)

    _ACTIONS: dict[type[Any], Callable[[Session, Any], None]] = {
        Ready: _on_ready, Reply: _on_reply, Alive: _on_word, Acked: _on_acked,
        Unsubscribed: _on_word, Refused: _on_refused, Malformed: _on_malformed,
        Resync: _on_resync, Reconnect: _on_reconnect, Notice: _on_notice, Failed: _on_failed,
    }

"""Passing on what a manager collects, through Redis; :mod:`streams.remote` reads it.

A thread of its own takes the notes of :mod:`streams.journal`, packs many into each message
(:mod:`streams.fanout`) and sends them. Neither a slow Redis nor a dead one holds up a stream: notes wait,
up to a limit, and after a loss or an outage whole books are sent.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import msgspec

from .backoff import Backoff
from .bells import Latch
from .checks import check_count, check_seconds, check_timeout
from .errors import ConfigurationError
from .fanout import VERSION, Batch, Change, Group, Happened, Item, Kept, Keys, Marked, Whole, encode
from .forking import tell_after_fork
from .handlers import Handlers
from .journal import Captured, Journal, Outlet, Tap
from .redisclient import RedisClient
from .store import GONE

__all__ = ["Publisher", "take_tokens"]

log = logging.getLogger("streams.publisher")

FULL = 2000             # items of one batch, about: some 300 kB. A book's levels count, too:
LEVELS = 10             # so many as one item
TRIES = 3               # times that a batch is sent again to a server that answers, and does not take it
PAUSE = 0.002           # seconds between two batches that are not full: what comes meanwhile shares one
REPEAT_LOOK = 0.05      # seconds between two looks at which whole books are to be repeated ...
REPEATED = 20           # ... and how many are, at most, so that they do not come all at once
POLITE = 0.3            # seconds that the end may take when Redis answers
KEPT_FOR = 60           # seconds that a line's keys outlive it, and how often that is renewed
RENEW = 5.0
LOG_BYTES = 64 << 20    # of a line's log, about; whole books may make batches long

# Microseconds since the epoch, by the server's clock: they go on rising when a server has lost its memory.
_TAKE_TOKENS = """
local now = redis.call('TIME')
local token = math.max(
    now[1] * 1000000 + now[2], (tonumber(redis.call('GET', KEYS[1])) or 0) + 1, ARGV[2] + 1)
redis.call('SET', KEYS[1], string.format('%.0f', token + ARGV[1] - 1))
return string.format('%.0f', token)
"""


def take_tokens(client: RedisClient, keys: Keys, count: int = 1, above: int = 0) -> int:
    """The first of ``count`` tokens, each higher than all that were taken before.

    Args:
        above: A token that is known to have been taken: the server may have forgotten it, and its clock
            may have been set back.
    """
    return int(client.redis.eval(_TAKE_TOKENS, 1, keys.token, count, above))


class Publisher(threading.Thread):
    """Sends what the streams of one registry of handlers (that of a manager) write.

    Args:
        handlers: The registry.
        url: ``redis://[[user]:password@]host[:port][/database]``, or ``rediss://``.
        prefix: Of all names in Redis. Publishers and readers that belong together have the same.
        history: Batches kept in Redis for readers that missed some, as far as 64 MiB hold them.
        repeat_every: Seconds between two whole books of one symbol.
        heartbeat: Seconds without anything to say after which an empty batch says that all is well.
        limit: Notes of one stream that may wait, at most.
        picked: Send only subscriptions that were given to :meth:`own`.
        timeout, proxy, sslopt: See :class:`~streams.redisclient.RedisClient`.

    Attributes:
        line: Its name in Redis.

    Raises:
        ConfigurationError: Something that can not work.
        MissingDependency: redis-py is not installed.

    Threads: any, for everything public.
    """

    def __init__(
        self, handlers: Handlers, url: str, *, prefix: str = "streams", history: int = 5000,
        repeat_every: float = 5.0, heartbeat: float = 0.5, limit: int = 200_000, picked: bool = False,
        timeout: float = 2.0, proxy: str | None = None, sslopt: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(handlers, Handlers):
            raise ConfigurationError(f"handlers={handlers!r}: give those of a manager, or use its publish()")
        check_count("history", history, "batches")
        check_count("limit", limit, "notes")
        check_seconds("repeat_every", repeat_every)
        check_seconds("heartbeat", heartbeat)
        self.line = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._keys = Keys(prefix)
        self._handlers = handlers
        self._client = RedisClient(url, timeout=timeout, proxy=proxy, sslopt=sslopt)
        self._history, self._repeat_every, self._heartbeat = history, repeat_every, heartbeat
        self._picked = picked
        self._tap = Tap(limit)
        self._hurry = Latch()                   # set once it is ending
        self._tapping = False
        self._guard = threading.Lock()
        self._tokens: dict[tuple[str, str], int] = {}
        self._doubts: list[Group] = []
        self._token = 0
        self._number = 0
        self._unsent: _Sealed | None = None     # sent, and not answered
        self._tries = 0                         # how often it was sent again
        self._log: deque[int] = deque()     # lengths of the batches that the log is to keep
        self._log_bytes = 0
        self._sent_at = 0.0
        self._repeats_at = 0.0
        self._renewed_at = -RENEW
        self.connected = False
        self.last_error: str | None = None
        self._counts = {"batches": 0, "items": 0, "bytes": 0, "outages": 0, "lost": 0}
        self._unfit = 0                         # items that could not be packed
        super().__init__(name="streams-publisher", daemon=True)
        tell_after_fork(self)

    def __repr__(self) -> str:
        return f"<Publisher {self.line} to {self._client.public}>"

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. It is the parent that publishes."""
        self._guard, self._hurry, self.connected = threading.Lock(), Latch(), False
        self._tap.bell.forked()

    # -- control -------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. Streams that run already are joined within a quarter of a second."""
        self._handlers.set_tap(self._tap)
        self._tapping = True
        super().start()

    def stop(self, timeout: float = 1.0) -> bool:
        """Send what waits, say good-bye, and end. Stop the streams first, so that readers hear of it.

        Returns:
            Whether the thread has ended within ``timeout`` seconds.
        """
        timeout = check_timeout(timeout)
        deadline = time.monotonic() + timeout
        self._hurry.set()
        self._tap.bell.ring()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(min(POLITE, timeout / 2))
            self._client.abort()
            self.join(max(0.0, deadline - time.monotonic()))
        if self._tapping:
            self._tapping = False
            self._handlers.set_tap(None)
        if not self.is_alive():
            self._client.close()
        return not self.is_alive()

    def status(self) -> dict[str, Any]:
        """How it is, a copy: ``line connected last_error batches items bytes outages lost waiting dropped``
        (``lost``: batches that Redis does not take; ``dropped``: what was not put into any)."""
        journals = self._tap.journals()
        return {
            "line": self.line, "connected": self.connected, "last_error": self.last_error, **self._counts,
            "waiting": sum(journal.waiting for journal in journals),
            "dropped": self._unfit + sum(journal.dropped for journal in journals),
        }

    def own(self, tokens: Mapping[tuple[str, str], int]) -> None:
        """From now on send these symbols, ``(exchange, symbol)``, with these tokens; whole books first."""
        with self._guard:
            self._tokens.update(tokens)
        for journal, outlet in self._outlets(tokens):
            journal.repeat(outlet, again=False)

    def release(self, symbols: Container[tuple[str, str]], reason: str = "changes hands") -> None:
        """Send no more of these symbols, and tell readers that they are not collected here any more."""
        self._doubt(self._outlets(symbols), reason)
        with self._guard:
            for key in [key for key in self._tokens if key in symbols]:
                del self._tokens[key]

    def _outlets(self, symbols: Container[tuple[str, str]] | None = None) -> list[tuple[Journal, Outlet]]:
        return [(journal, outlet) for journal in self._tap.journals() for outlet in journal.outlets()
                if symbols is None or (outlet.exchange, outlet.symbol) in symbols]

    def _doubt(self, outlets: list[tuple[Journal, Outlet]], reason: str) -> None:
        """Say first of all that these books are stale. Not by way of the journals, which may drop what they
        have: this must arrive."""
        with self._guard:
            self._doubts += [
                _group(outlet, token, [Marked("stale", reason)]) for _, outlet in outlets
                if outlet.book is not None and not outlet.closed and (token := self._token_of(outlet))]

    # -- the thread ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Send until it is stopped, through all outages. Called by the thread itself."""
        backoff = Backoff(base=0.2, cap=2.0, healthy_after=5.0)
        while not self._hurry.is_set():
            begun = time.monotonic()
            try:
                self._publish()
                return
            except self._client.errors as error:
                if self._hurry.is_set():
                    return
                self._outage(error)
            except Exception as error:      # a mistake of ours: say so, and go on
                log.exception("%r: publishing failed", self)
                self._outage(error)
            pause = backoff.next(time.monotonic() - begun if self.connected else 0.0)
            self.connected = False
            self._hurry.wait(max(pause, 0.05))

    def _outage(self, error: BaseException) -> None:
        level = logging.WARNING if self.connected or not self._counts["outages"] else logging.DEBUG
        self._counts["outages"] += 1
        self.last_error = f"{type(error).__name__}: {error}"
        for journal in self._tap.journals():
            journal.drop_books()        # readers may have missed anything: they are sent whole ones
        log.log(level, "%r: %s; trying again", self, self.last_error)

    def _publish(self) -> None:
        """From a connection to its end; returns when it was stopped."""
        self._greet()
        self._send_again()
        if self._number:        # after an outage: whole books come one after another, none is live before
            self._doubt(self._outlets(), "Redis was out of reach")
        self.connected = True
        self.last_error = None
        log.info("%r: publishing", self)
        while True:
            self._await_notes()
            ending = self._hurry.is_set()
            much = self._flush()
            if ending and not much:
                self._say_goodbye()
                return
            if not much:
                self._hurry.wait(PAUSE)

    def _await_notes(self) -> None:
        """Until there is something to send, or it is time to say that there is nothing."""
        due = min(self._sent_at + self._heartbeat, self._repeats_at)
        self._tap.bell.sleep(due - time.monotonic(), self._has_work)

    def _has_work(self) -> bool:
        return self._hurry.is_set() or any(journal.waiting for journal in self._tap.journals())

    def _greet(self) -> None:
        redis, keys, line = self._client.redis, self._keys, self.line
        if not self._token:
            self._token = take_tokens(self._client, keys)
        redis.hset(keys.lines, line, str(self._token))
        redis.set(keys.alive(line), "1", ex=KEPT_FOR)
        self._renewed_at = -RENEW       # the server may have forgotten how long the rest is kept

    def _say_goodbye(self) -> None:
        self._send(self._sealed([], ending=True))
        self._client.redis.hdel(self._keys.lines, self.line)
        self._client.redis.delete(self._keys.alive(self.line), self._keys.books(self.line))

    # -- batches -----------------------------------------------------------------------------------

    def _flush(self) -> bool:
        """Send what has been noted; an empty batch when it is time for one. Whether there was much."""
        self._repeat_some()
        with self._guard:
            groups, self._doubts = self._doubts, []
        open_groups: dict[Outlet, Group] = {}
        size, much = 0, False
        for journal in self._tap.journals():
            for outlet, what in journal.take():
                if what.__class__ in (Marked, Captured):
                    outlet.closed = what.status == "closed"
                token = self._token_of(outlet)
                if token is None:
                    continue
                group = open_groups.get(outlet)
                if group is None or group.token != token:
                    group = open_groups[outlet] = _group(outlet, token, [])
                    groups.append(group)
                item = self._item(outlet, what)
                group.items.append(item)
                size += 1
                if isinstance(item, (Change, Whole)):
                    size += (len(item.bids) + len(item.asks)) // LEVELS
                if size >= FULL:        # sent before more is taken: so readers keep up, and nothing is lost
                    self._send(self._sealed(groups))
                    groups, open_groups, size, much = [], {}, 0, True
        if groups or (not much and time.monotonic() >= self._sent_at + self._heartbeat):
            self._send(self._sealed(groups))
        return much

    def _token_of(self, outlet: Outlet) -> int | None:
        if not self._picked:
            return self._token
        return self._tokens.get((outlet.exchange, outlet.symbol))

    def _item(self, outlet: Outlet, what: Any) -> Item:
        kind = what.__class__
        if kind is Marked:
            return what     # type: ignore[no-any-return]
        if outlet.book is None:
            return Happened(what)
        time_ns = what.time * outlet.unit
        if kind is Captured:
            outlet.linked = what.last
            return Whole(what.last, time_ns, what.stamp, what.bids, what.asks, what.status, what.again)
        link, outlet.linked = outlet.linked, what.last
        return Change(link, what.last, time_ns, _plain(what.bids), _plain(what.asks))

    def _sealed(self, groups: list[Group], ending: bool = False) -> _Sealed:
        """A batch with its number, and what of it is kept for newcomers."""
        self._number = number = self._number + 1
        batch = Batch(VERSION, self.line, number, time.time_ns(), ending, groups)
        try:
            data = encode(batch)
        except (ValueError, TypeError, OverflowError):
            groups = batch.groups = [self._fit(group) for group in groups]
            data = encode(batch)
        kept: dict[str, bytes] = {}
        gone: set[str] = set()
        for group in groups:
            name = f"{group.exchange} {group.symbol}"
            wholes = [at for at, item in enumerate(group.items) if item.__class__ is Whole]
            if group.channel == "book" and Marked("closed", GONE) in group.items[-1:]:
                kept.pop(name, None)
                gone.add(name)
            elif wholes:
                since = msgspec.structs.replace(group, items=group.items[wholes[-1]:])
                kept[name] = encode(Kept(number, since))
                gone.discard(name)
        return _Sealed(number, data, kept, gone, sum(len(group.items) for group in groups))

    def _fit(self, group: Group) -> Group:
        """The group, if it can be packed; else what stands for it: one bad number must not silence all."""
        try:
            encode(Kept(0, group))
            return group
        except (ValueError, TypeError, OverflowError) as error:
            log.error("%r: %s %s %s can not be packed: %s", self, group.exchange, group.channel, group.symbol,
                      error)
            self._unfit += len(group.items)
            return msgspec.structs.replace(group, items=[Marked("syncing", f"can not be packed: {error}")])

    def _send(self, batch: _Sealed) -> None:
        """Hand a batch to Redis, and keep it until that has answered: what was sent and not answered is
        sent again after an outage, under the same number, by which readers know it."""
        self._unsent = batch
        keys, line = self._keys, self.line
        log_key, live, books = keys.log(line), keys.live(line), keys.books(line)
        with self._client.redis.pipeline(transaction=False) as pipe:
            pipe.xadd(log_key, {"b": batch.data}, id=f"{batch.number}-0",
                      maxlen=self._history_with(len(batch.data)), approximate=True)
            if batch.kept:
                pipe.hset(books, mapping=batch.kept)
            if batch.gone:
                pipe.hdel(books, *batch.gone)
            pipe.publish(live, batch.data)
            # What was only just made must not wait for the next renewal: who is killed never sees it.
            if batch.kept or self._sent_at >= self._renewed_at + RENEW:
                self._renewed_at = self._sent_at
                pipe.hset(keys.lines, line, str(self._token))
                pipe.set(keys.alive(line), "1", ex=KEPT_FOR)
                pipe.expire(log_key, KEPT_FOR)
                pipe.expire(books, KEPT_FOR)
            for answer in pipe.execute(raise_on_error=False):
                # An entry that is there already was sent before an outage.
                if isinstance(answer, Exception) and "equal or smaller" not in str(answer):
                    raise answer
        self._unsent, self._tries = None, 0
        self._sent_at = time.monotonic()
        self._counts["batches"] += 1
        self._counts["items"] += batch.items
        self._counts["bytes"] += len(batch.data)

    def _send_again(self) -> None:
        """Send what was not answered. When Redis answers everything but this, it is lost (and seen by readers
        to be missing): it must not keep all others back."""
        batch = self._unsent
        if batch is None:
            return
        if self._tries < TRIES:
            self._tries += 1
            self._send(batch)
        else:
            log.error("%r: batch %d (%d bytes) is lost, Redis does not take it: %s", self, batch.number,
                      len(batch.data), self.last_error)
            self._counts["lost"] += 1
            self._unsent, self._tries = None, 0

    def _history_with(self, length: int) -> int:
        """How many batches to keep, the next one of that length included."""
        log = self._log
        if len(log) == self._history:
            self._log_bytes -= log.popleft()
        log.append(length)
        self._log_bytes += length
        while self._log_bytes > LOG_BYTES and len(log) > 1:
            self._log_bytes -= log.popleft()
        return len(log)

    def _repeat_some(self) -> None:
        """Note some of the whole books that have not been sent for long."""
        now = time.monotonic()
        if now < self._repeats_at:
            return
        self._repeats_at = now + REPEAT_LOOK
        due = [(outlet.repeated, at, journal, outlet) for journal in self._tap.journals()
               for at, outlet in enumerate(journal.outlets())
               if outlet.book is not None and now - outlet.repeated > self._repeat_every]
        for _, _, journal, outlet in sorted(due, key=lambda one: one[:2])[:REPEATED]:
            outlet.repeated = now
            journal.repeat(outlet)


class _Sealed(NamedTuple):
    number: int
    data: bytes
    kept: dict[str, bytes]
    gone: set[str]
    items: int


def _group(outlet: Outlet, token: int, items: list[Item]) -> Group:
    return Group(outlet.exchange, outlet.symbol, outlet.channel, token, outlet.depth, outlet.sequenced, items)


def _plain(levels: Any) -> list[Any]:
    """Levels as something that can be packed."""
    return levels if isinstance(levels, list) else list(levels)

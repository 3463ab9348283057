"""Several collectors that share the work: each symbol is collected by one of them, and by another when
that one dies.

Every collector holds a lease in Redis (redis-py's own lock, with an expiry) and renews it several times in
its length. Who collects which symbol follows from the set of those who hold one, by rendezvous hashing:
all come to the same answer without talking, and when one comes or goes only its own symbols move.
While two disagree for a moment, the token of :mod:`streams.fanout` decides whom readers believe.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from types import TracebackType
from typing import Any

from .bells import Latch
from .checks import check_keywords, check_name, check_seconds, check_timeout, names
from .errors import ConfigurationError, StopTimeout, StreamsError
from .fanout import Keys
from .forking import tell_after_fork
from .manager import StreamManager
from .publisher import POLITE, Publisher, take_tokens
from .redisclient import RedisClient, redis_py

__all__ = ["Collector", "Membership", "owner"]

log = logging.getLogger("streams.collector")

BEATS = 6               # renewals in the length of a lease
LONGEST_BEAT = 0.5      # seconds between two of them, at most

Symbol = tuple[str, str]    # exchange, symbol


def owner(members: Collection[str], exchange: str, symbol: str) -> str:
    """Who of ``members`` (at least one) collects a symbol: rendezvous hashing."""
    def weight(member: str) -> bytes:
        return hashlib.blake2b("\0".join((member, exchange, symbol)).encode(), digest_size=16).digest()
    return max(members, key=weight)


class Membership:
    """One collector's place among the others. Threads: one.

    Args:
        client: Redis.
        keys: Names there.
        name: Of this one; different for each.
        lease: Seconds after which a member that is not heard of is none any more.
    """

    def __init__(self, client: RedisClient, keys: Keys, name: str, lease: float) -> None:
        self.name = name
        self._redis = client.redis
        self._keys = keys
        self._lock = self._redis.lock(keys.member(name), timeout=lease, thread_local=False)
        self._refused = redis_py().exceptions.LockError

    def renew(self) -> bool:
        """Hold the lease for its whole length from now on. False when it was not held before: the
        others may have divided our work among them."""
        try:
            held = self._lock.owned() and self._lock.reacquire()
        except self._refused:
            held = False
        if not held and not self._lock.acquire(blocking=False):
            raise StreamsError(f"there is a collector called {self.name!r} already")
        # Every time: another may have thought us dead just now, and struck us off.
        self._redis.sadd(self._keys.members, self.name)
        return bool(held)

    def members(self) -> list[str]:
        """All who hold a lease, this one included."""
        known = [raw.decode() for raw in self._redis.smembers(self._keys.members)]
        with self._redis.pipeline(transaction=False) as pipe:
            for name in known:
                pipe.exists(self._keys.member(name))
            alive = dict(zip(known, pipe.execute()))
        dead = [name for name in known if not alive[name]]
        if dead:
            self._redis.srem(self._keys.members, *dead)
        return sorted({self.name, *(name for name in known if alive[name])})

    def leave(self) -> None:
        """Give the lease back: the others need not wait for its end."""
        self._redis.srem(self._keys.members, self.name)
        try:
            self._lock.release()
        except self._refused:
            pass


class Collector:
    """Collects its share of what is wanted, and publishes it. A context manager, or ``start()``/``stop()``::

        with Collector("redis://localhost", {"binance": {"symbols": ["BTC-USDT", "ETH-USDT"]}}):
            ...

    All collectors that belong together are given the same ``wanted`` and ``prefix``, and a store that
    follows them (:class:`streams.RemoteStore`) sees all of it.

    Args:
        url: ``redis://[[user]:password@]host[:port][/database]``, or ``rediss://``.
        wanted: By exchange: ``symbols``, ``channels`` (``["book"]`` unless given), options of its streams.
        prefix: Of all names in Redis.
        name: Of this collector; host, process and chance make one unless given.
        lease: Seconds after which the others take over from a dead collector.
        timeout, proxy, sslopt: See :class:`~streams.redisclient.RedisClient`.
        publishing: Further options of the :class:`~streams.publisher.Publisher`.
        options: Options of the :class:`~streams.manager.StreamManager`.

    Attributes:
        manager: What collects.

    Raises:
        ConfigurationError: Something that can not work.
        MissingDependency: redis-py is not installed.

    Threads: any, for everything public.
    """

    def __init__(
        self, url: str, wanted: Mapping[str, Mapping[str, Any]], *, prefix: str = "streams",
        name: str | None = None, lease: float = 3.0, timeout: float = 1.0, proxy: str | None = None,
        sslopt: Mapping[str, Any] | None = None, publishing: Mapping[str, Any] | None = None, **options: Any,
    ) -> None:
        check_seconds("lease", lease)
        if not isinstance(wanted, Mapping) or not wanted:
            raise ConfigurationError(
                f"wanted={wanted!r}: give a dict, like {{'binance': {{'symbols': ['BTC-USDT']}}}}")
        if name is not None:
            check_name("name", name, "collector-1")
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.manager = StreamManager(**options)
        self._wanted: dict[str, dict[str, Any]] = {}
        for exchange, given in wanted.items():
            own, checked = self._checked(exchange, given)
            if own in self._wanted:
                raise ConfigurationError(f"{exchange} is {own}, which is there already: name it once")
            self._wanted[own] = checked
        self._keys = Keys(prefix)
        way = {"timeout": timeout, "proxy": proxy, "sslopt": sslopt}
        self._client = RedisClient(url, **way)  # type: ignore[arg-type]
        self._membership = Membership(self._client, self._keys, self.name, lease)
        self._beat = min(lease / BEATS, LONGEST_BEAT)
        check_keywords(Publisher, publishing or {}, "publishing")
        self._publishing = {**way, **(publishing or {}), "prefix": prefix, "picked": True}
        self._url = url
        self._publisher: Publisher | None = None
        self._mine: set[Symbol] = set()         # by the division of the work ...
        self._waiting: set[Symbol] = set()      # ... and those of them that have not been started yet
        self._members: list[str] = []
        self._settled = 0.0             # monotonic: do not judge who is there before
        self._token = 0                 # the last that was taken
        self._outdated = False          # others may have higher tokens for what is ours
        self._ending = Latch()
        self._thread = threading.Thread(target=self._run, name="streams-collector", daemon=True)
        self.last_error: str | None = None
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. It is the parent that collects."""
        self._ending = Latch()

    def __repr__(self) -> str:
        return f"<Collector {self.name}: {len(self._mine - self._waiting)} symbols>"

    def __enter__(self) -> Collector:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if not self.stop() and error is None:
            raise StopTimeout(f"{self!r} still runs")

    def start(self) -> None:
        """Join the others.

        Raises:
            ConfigurationError: It was started before: once only.
        """
        if self._publisher is not None:
            raise ConfigurationError("this Collector was started before; make a new one")
        self._publisher = self.manager.publish(self._url, **self._publishing)
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """Leave the others to it, and stop everything.

        Returns:
            Whether everything has ended within ``timeout`` seconds.
        """
        timeout = check_timeout(timeout)
        deadline = time.monotonic() + timeout
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(min(POLITE, timeout / 2))
        self._client.abort()
        try:
            self.manager.stop(timeout=max(0.1, deadline - time.monotonic()))
        except StopTimeout as late:
            log.error("%r: %s", self, late)
            return False
        if self._thread.is_alive():
            self._thread.join(max(0.0, deadline - time.monotonic()))
        self._client.close()
        return not self._thread.is_alive()

    def status(self) -> dict[str, Any]:
        """How it is, a copy: ``name members symbols last_error publisher``."""
        return {
            "name": self.name, "members": list(self._members), "last_error": self.last_error,
            "symbols": sorted(self._mine - self._waiting),
            "publisher": None if self._publisher is None else self._publisher.status(),
        }

    # -- the thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._look()
                self.last_error = None
            except Exception as error:
                if not isinstance(error, (*self._client.errors, StreamsError)):
                    log.exception("%r failed", self)    # a mistake of ours: say so, and go on
                self._failed(error)
            self._ending.wait(self._beat)
        try:
            self._leave()
        except self._client.errors as error:
            log.warning("%r could not say that it leaves: %s", self, error)

    def _failed(self, error: BaseException) -> None:
        """Without Redis nobody can tell us to stop, nor take over: go on with what there is."""
        text = f"{type(error).__name__}: {error}"
        if text != self.last_error:
            log.warning("%r: %s", self, text)
        self.last_error = text

    def _look(self) -> None:
        """Renew the lease, see who is there, and take what is ours."""
        now = time.monotonic()
        if not self._membership.renew():
            # Others may have joined, or come back, at the same time: see all of them before judging.
            self._settled = now + 1.5 * self._beat
            self._outdated = True
        if self._outdated:
            self._own(self._mine)
            self._outdated = False
        if now < self._settled:
            return
        self._members = self._membership.members()
        mine = {
            (exchange, symbol) for exchange, given in self._wanted.items() for symbol in given["symbols"]
            if owner(self._members, exchange, symbol) == self.name}
        gone, new = self._mine - mine, mine - self._mine
        if gone or new:
            log.info("%r of %d: %d symbols go, %d come", self, len(self._members), len(gone), len(new))
        self._release(gone)
        self._own(new)
        self._mine |= new
        self._waiting |= new
        self._start()

    def _start(self) -> None:
        """Start what waits for it. An exchange that can not be started keeps no other from it."""
        failure: StreamsError | None = None
        for exchange, symbols in _by_exchange(self._waiting):
            given = self._wanted[exchange]
            try:
                self.manager.start(exchange, symbols, given["channels"], **given["options"])
                self._waiting.difference_update((exchange, symbol) for symbol in symbols)
            except StreamsError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _own(self, symbols: Iterable[Symbol]) -> None:
        assert self._publisher is not None
        ordered = sorted(symbols)
        if ordered:
            first = take_tokens(self._client, self._keys, len(ordered), self._token)
            self._token = first + len(ordered) - 1
            self._publisher.own(dict(zip(ordered, itertools.count(first))))

    def _release(self, symbols: set[Symbol]) -> None:
        assert self._publisher is not None
        self._publisher.release(symbols)
        for exchange, gone in _by_exchange(symbols - self._waiting):
            self.manager.unsubscribe(exchange, gone, self._wanted[exchange]["channels"])
        self._mine = self._mine - symbols
        self._waiting = self._waiting - symbols

    def _leave(self) -> None:
        self._membership.leave()
        self._release(self._mine)

    def _checked(self, exchange: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """An exchange's own name, and its ``symbols``, ``channels``, ``options``, all of which can work."""
        if not isinstance(given, Mapping):
            raise ConfigurationError(f"{exchange}: {given!r}; give a dict, like {{'symbols': ['BTC-USDT']}}")
        options = dict(given)
        symbols = names("symbols", options.pop("symbols", ()))
        channels = names("channels", options.pop("channels", ("book",)))
        own = self.manager.check(exchange, symbols, channels, **options)
        return own, {"symbols": symbols, "channels": channels, "options": options}


def _by_exchange(symbols: Iterable[Symbol]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for exchange, symbol in sorted(symbols):
        groups.setdefault(exchange, []).append(symbol)
    return list(groups.items())

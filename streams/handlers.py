"""User callbacks on bounded queues, off the network thread.

A :class:`Handlers` registry knows which callback wants which topics; what it hands to a stream are
*listeners*, one per registration, to which the network thread offers events. House rules:

 * An offer costs the network thread a fraction of a microsecond and never raises. It never waits,
   except under the policy ``block``, and then for a bounded time.
 * No user code runs under a lock, and no thread ever joins itself.
 * Memory is bounded: at most ``maxsize`` events wait for a handler. What is lost is counted to the
   unit, and announced as a :class:`~streams.events.StatusChange`.
"""

from __future__ import annotations

import difflib
import inspect
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from .checks import check_keywords
from .errors import ConfigurationError
from .events import StatusChange
from .forking import tell_after_fork
from .listeners import ENDING, FINISHING, OPEN, REPORT_EVERY, Handler, Listener
from .metrics import Guarded, Metrics, NoMetrics
from .queues import KINDS, Block

__all__ = ["POLICIES", "Handlers", "Hearing", "Listener"]

_log = logging.getLogger("streams.handlers")

_H = TypeVar("_H", bound=Handler)

POLICIES = tuple(KINDS)


class Handlers:
    """The callbacks of one manager, or of one stream without a manager.

    Args:
        metrics: Where drops, errors, times and queue lengths are counted.
    """

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = Guarded(NoMetrics() if metrics is None else metrics)
        self.hurried: set[int] = set()
        self._version = 0
        self._lock = threading.RLock()
        self._quiet = threading.Condition()
        self._listeners: tuple[Listener, ...] = ()
        self._leaving: list[tuple[Listener, threading.Thread]] = []
        self._closers: list[int] = []
        self._report_after = 0.0
        self._mode = OPEN
        self._tap: Any = None
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. What waits for a worker is the parent's to handle."""
        self._lock = threading.RLock()
        self._quiet = threading.Condition()
        self._leaving, self._closers, self.hurried = [], [], set()
        for listener in self._listeners:
            listener.forked()

    @property
    def tap(self) -> Any:
        """Who notes all that streams write (:class:`streams.journal.Tap`), or None. Threads: any."""
        return self._tap

    def set_tap(self, tap: Any) -> None:
        """Set or remove it. Threads: any.

        Raises:
            ConfigurationError: There is one already.
        """
        with self._lock:
            if tap is not None and self._tap is not None:
                raise ConfigurationError("what these streams write is published already; stop that first")
            self._tap = tap
            self._version += 1

    @property
    def version(self) -> int:
        """Rises with every change of the registrations. Threads: any."""
        return self._version

    @overload
    def on(self, pattern: str | re.Pattern[str], handler: _H, *, policy: str = ..., maxsize: int = ...,
           name: str | None = ..., block_timeout: float = ...) -> _H: ...

    @overload
    def on(self, pattern: str | re.Pattern[str], handler: None = None, *, policy: str = ...,
           maxsize: int = ..., name: str | None = ...,
           block_timeout: float = ...) -> Callable[[_H], _H]: ...

    def on(self, pattern: str | re.Pattern[str], handler: Any = None, *, policy: str = "drop_oldest",
           maxsize: int = 1000, name: str | None = None, block_timeout: float = 1.0) -> Any:
        """Have ``handler(event)`` called for every event whose topic matches; also as a decorator.

        Args:
            pattern: A regular expression for the whole of ``exchange.channel.symbol``.
            handler: Any callable that takes one event.
            policy: What happens when events come faster than the handler takes them:
                ``drop_oldest``; ``drop_newest``; ``conflate`` (the latest per exchange, kind and
                symbol waits; of order books only the last change, so take the levels from the
                store); ``block`` (the stream waits, at most ``block_timeout``); ``inline`` (no queue
                and no thread: runs on the network thread, for handlers that only note a number).
            maxsize: Events that may wait, at most (under ``conflate``: symbols).
            name: For logs, metrics and ``status()``; the handler's own name unless given.
            block_timeout: Seconds, for the policy ``block``.

        Returns:
            The handler, or a decorator when none was given.

        Raises:
            ConfigurationError: One of the arguments can not work.

        Threads: any, a handler's included.
        """
        compiled = _compile(pattern)
        _check_options(policy, maxsize, name, block_timeout)

        def register(function: _H) -> _H:
            _check_handler(function)
            label = name or getattr(function, "__qualname__", None) or type(function).__name__
            with self._lock:
                listener = KINDS[policy](
                    self, function, compiled, self._unique(label), maxsize, block_timeout)
                listener.set_mode(self._mode)
                self._listeners += (listener,)
                self._version += 1
            return function

        return register if handler is None else register(handler)

    def off(self, handler: Handler) -> bool:
        """Remove all registrations of ``handler``; whether there were any.

        What waits for it is dropped; a call that has begun goes on, and its thread ends with it.
        Threads: any, the handler's own included.
        """
        with self._lock:
            gone = [listener for listener in self._listeners if listener.handler == handler]
            if not gone:
                return False
            self._listeners = tuple([one for one in self._listeners if one not in gone])
            self._version += 1
            self._leaving = [pair for pair in self._leaving if pair[1].is_alive()]
            self._leaving += _set_mode(gone, ENDING)
        for listener in gone:
            listener.report()
        return True

    def listeners(self, topic: str) -> tuple[Listener, ...]:
        """Who listens to ``exchange.channel.symbol``; to be asked again when :attr:`version` has risen.

        Threads: any.
        """
        return tuple([one for one in self._listeners if one.pattern.fullmatch(topic)])

    def status(self) -> list[dict[str, Any]]:
        """One dict per registration: ``name pattern policy queued handled dropped conflated errors
        seconds slowest running`` (times in seconds). Threads: any."""
        return [listener.status() for listener in self._listeners]

    def dropped(self, exchange: str) -> int:
        """How many events of that exchange these handlers have lost. Threads: any."""
        return sum(listener.lost.get(exchange, 0) for listener in self._listeners)

    def report(self) -> None:
        """Tell the metrics how the handlers are, about once a second: one that is stuck does not tell it
        itself. Threads: any."""
        now = time.monotonic()
        if now >= self._report_after:
            self._report_after = now + REPORT_EVERY
            for listener in self._listeners:
                listener.report()

    def unblock(self, thread_id: int) -> None:
        """From now on, no offer of that thread waits under the policy ``block``, and one that waits
        returns; what does not fit is dropped. For a stream that is being stopped. Threads: any."""
        self.hurried.add(thread_id)
        for listener in self._listeners:
            if isinstance(listener, Block):
                listener.look_again()

    def reblock(self, thread_id: int) -> None:
        """Undo :meth:`unblock`, at the latest when that thread ends: a later one may get its number.
        Threads: any."""
        self.hurried.discard(thread_id)

    def close(self, timeout: float) -> bool:
        """End the worker threads: whether they have all ended in ``timeout`` seconds. See :meth:`end`."""
        return not self.end(timeout)

    def end(self, timeout: float) -> list[str]:
        """End the worker threads. Returns the names of those that have not ended in ``timeout`` seconds.

        Half of the time is for finishing what waits, the other half for calls in progress; what has
        not been handled by then is dropped. A handler may call it: its own thread, and those of
        other handlers that are in ``close`` too, are not waited for. The registrations stay, and
        :meth:`open` puts them back to work. Stop the streams first.

        Threads: any.
        """
        begun, me = time.monotonic(), threading.get_ident()
        with self._lock:
            self._mode = FINISHING
            workers = _set_mode(self._listeners, FINISHING) + self._leaving
        with self._quiet:
            self._closers.append(me)
            self._quiet.notify_all()
        try:
            self._wait_ended(workers, begun + timeout / 2)
            with self._lock:
                if self._mode == FINISHING:  # else a handler has opened it again
                    self._mode = ENDING
                    _set_mode(self._listeners, ENDING)
            self._wait_ended(workers, begun + timeout)
            return self._join(workers, begun + timeout)
        finally:
            with self._quiet:
                self._closers.remove(me)
            for listener in self._listeners:
                listener.report()

    def open(self) -> None:
        """Take in events again after :meth:`close`; does nothing when not closed. Threads: any."""
        with self._lock:
            if self._mode != OPEN:
                self._mode = OPEN
                _set_mode(self._listeners, OPEN)

    # -- for the listeners

    def announce(self, exchange: str, status: str, previous: str, reason: str) -> None:
        """Tell those who listen to the status of that exchange something about a handler (``dropping``,
        ``recovered``, ``slow``) that concerns its events. Threads: any, outside all locks."""
        change = StatusChange(exchange=exchange, symbol="", received=time.time_ns(), subject="handler",
                              status=status, previous=previous, reason=reason)
        for listener in self.listeners(f"{exchange}.status.*"):
            listener.offer(change)

    def worker_ended(self) -> None:
        """A worker is about to end: have ``close`` look again."""
        with self._quiet:
            self._quiet.notify_all()

    # -- helpers

    def _unique(self, label: str) -> str:
        taken = {listener.name for listener in self._listeners}
        name, count = label, 1
        while name in taken:
            count += 1
            name = f"{label}-{count}"
        return name

    def _waited_for(self, thread: threading.Thread | None) -> bool:
        # One without a number is about to be started by whom the caller, a signal handler, has interrupted.
        return thread is not None and thread.ident is not None and thread.ident not in self._closers

    def _wait_ended(self, workers: list[tuple[Listener, threading.Thread]], deadline: float) -> None:
        with self._quiet:
            self._quiet.wait_for(
                lambda: not any(self._waited_for(listener.worker()) for listener, _ in workers),
                max(0.0, deadline - time.monotonic()))

    def _join(self, workers: list[tuple[Listener, threading.Thread]], deadline: float) -> list[str]:
        late = []
        for _, thread in workers:
            if self._waited_for(thread) and thread.is_alive():      # it has a number before it is alive
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    late.append(thread.name)
                    _log.warning("%s is still in its handler", thread.name)
        return late


class Hearing:
    """What has handlers: a manager, or a stream.

    Attributes:
        handlers: The registry.
    """

    handlers: Handlers

    def follow(self) -> None:
        """Follow a change in the registry of handlers soon. Threads: any."""
        raise NotImplementedError

    @overload
    def on(self, pattern: str | re.Pattern[str], handler: _H, *, policy: str = ..., maxsize: int = ...,
           name: str | None = ..., block_timeout: float = ...) -> _H: ...

    @overload
    def on(self, pattern: str | re.Pattern[str], handler: None = None, *, policy: str = ...,
           maxsize: int = ..., name: str | None = ...,
           block_timeout: float = ...) -> Callable[[_H], _H]: ...

    def on(self, pattern: Any, handler: Any = None, **options: Any) -> Any:
        """Have ``handler`` called with events whose ``exchange.channel.symbol`` matches ``pattern``.
        Also a decorator. See :meth:`streams.handlers.Handlers.on`."""
        check_keywords(Handlers.on, options, "on()")
        register = self.handlers.on(pattern, **options)

        def follow(function: _H) -> _H:
            register(function)
            self.follow()
            return function
        return follow if handler is None else follow(handler)

    def off(self, handler: Handler) -> bool:
        """Remove a handler. True when there was one."""
        found = self.handlers.off(handler)
        self.follow()
        return found


def _set_mode(listeners: Iterable[Listener], mode: int) -> list[tuple[Listener, threading.Thread]]:
    """Set the mode of all; those that have a thread, each with it."""
    return [(one, thread) for one in listeners if (thread := one.set_mode(mode)) is not None]


def _compile(pattern: str | re.Pattern[str]) -> re.Pattern[str]:
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    if not isinstance(text, str):
        raise ConfigurationError(
            f"pattern must be a regular expression for 'exchange.channel.symbol', not {pattern!r}")
    if _PLAIN.fullmatch(text) and text.count(".") < 2:      # a name, where all three belong
        raise ConfigurationError(
            f"pattern {text!r} never matches the whole of 'exchange.channel.symbol'; write for example "
            r"r'binance\.trades\..+'")
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(
            f"pattern {pattern!r} is no regular expression ({error}); write for example "
            r"r'binance\.trades\..+'") from None


_PLAIN = re.compile(r"(?:[\w:-]|\\?\.)*")        # characters that stand for themselves, and dots


def _check_options(policy: str, maxsize: int, name: str | None, block_timeout: float) -> None:
    if not isinstance(policy, str) or policy not in KINDS:
        near = difflib.get_close_matches(str(policy), POLICIES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(POLICIES)}"
        raise ConfigurationError(f"no policy is called {policy!r}: {hint}")
    if isinstance(maxsize, bool) or not isinstance(maxsize, int) or maxsize < 1:
        raise ConfigurationError(f"maxsize must be a number of events, 1 or more, not {maxsize!r}")
    if name is not None and (not isinstance(name, str) or not name):
        raise ConfigurationError(f"name must be a text that is not empty, not {name!r}")
    if (isinstance(block_timeout, bool) or not isinstance(block_timeout, (int, float))
            or not 0 <= block_timeout < threading.TIMEOUT_MAX):
        raise ConfigurationError(f"block_timeout must be seconds, 0 or more, not {block_timeout!r}")


def _check_handler(function: object) -> None:
    if not callable(function):
        raise ConfigurationError(f"handler must be a function that takes an event, not {function!r}")
    for kind, is_one in _NOT_PLAIN.items():
        if is_one(function) or is_one(getattr(function, "__call__", None)):
            raise ConfigurationError(
                f"handler {function!r} is {kind} function: handlers are plain functions here")
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):     # some of those in C do not tell
        return
    try:
        signature.bind(None)
    except TypeError:
        raise ConfigurationError(
            f"handler {function!r} can not be called with one event: it takes {signature}") from None


# Called, they only make something that would have to be run.
_NOT_PLAIN: dict[str, Callable[[Any], bool]] = {
    "a coroutine": inspect.iscoroutinefunction, "a generator": inspect.isgeneratorfunction,
    "an asynchronous generator": inspect.isasyncgenfunction}

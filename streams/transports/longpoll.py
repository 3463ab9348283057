"""Long-polled HTTP: requests that the server holds until it has something to say.

What is asked, and what an answer means, is the venue's business (:mod:`streams.polling`). Here are the
loop, its time-outs, and what HTTP itself says: nothing new, later, no.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..bells import Doorbell
from ..errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from ..http import AbortableSession, Answer, AnswerTooLong
from ..polling import Ask, parse_frame
from .base import Closed, Receiver, Target, Transport, receiver_raised

__all__ = ["LongPollTransport"]

_OPTIONS = frozenset({"poll", "polled", "hold", "interval"})
_GRACE = 5.0        # seconds that a held answer may come too late
_BODY = 10.0        # seconds more that its body may take
_PATIENCE = 10.0    # a Retry-After up to this is waited for here; a longer one ends the conversation
_NOTHING_NEW = (204, 304, 408)
_LATER = (429, 503)


class _Interrupted(Exception):
    """The request under way is no longer the right one."""


class LongPollTransport(Transport):
    """One conversation of held requests. ``opened()`` means that the server has been reached.

    Target: ``http://`` or ``https://``; ``options`` as in :mod:`streams.polling`; ``headers`` go with every
    request. 401, 403 and other statuses that are no answer end it with ``ConnectFailed(status=...)``.

    Raises:
        ConfigurationError: The target can not work.
    """

    def __init__(self, target: Target, receiver: Receiver) -> None:
        super().__init__(target, receiver)
        options = _checked(target)
        self._poll: Callable[[], Ask | None] = options["poll"]
        self._polled: Callable[[int, Mapping[str, str], bytes], tuple[Sequence[bytes], bool]] = (
            options["polled"])
        self._hold = float(options.get("hold", 30.0))
        self._interval = float(options.get("interval", 1.0))
        self._session = AbortableSession(
            timeout=(target.connect_timeout, self._hold + _GRACE), proxy=target.proxy, sslopt=target.sslopt)
        self._poked = Doorbell()
        self._opened = False
        self._over = False
        self._closing = False
        self._due = 0.0                     # monotonic: the receiver's next tick
        self._not_before = 0.0              # monotonic: the next poll
        self._errands: deque[Ask] = deque()
        self._asked: Ask | None = None      # what is being polled

    # -- the contract ----------------------------------------------------------------------------

    def run(self) -> Closed:
        error: TransportError | None = None
        try:
            self._session.reach(self.target.url)
            self._opened = True
            self._converse()
        except TransportError as failure:
            error = failure
        finally:
            self._over = True
            aborted = self._session.aborted
            self._session.close()
        if aborted and error is not None:
            error = Aborted("aborted")
        return Closed(error, self._opened)

    def send(self, data: bytes | str) -> None:
        if not self._opened or self._over or self._closing:
            raise ConnectionLost("not connected")
        try:
            ask = parse_frame(data)
        except ValueError as error:
            raise TransportError(f"long poll: {error}") from None
        if ask is not None:
            self._errands.append(ask)

    def close(self) -> None:
        self._closing = True
        self.wake()

    def wake(self) -> None:
        self._poked.ring()
        self._session.wake()

    def abort(self) -> None:
        self._session.abort()
        self._poked.ring()

    # -- the loop --------------------------------------------------------------------------------

    def _converse(self) -> None:
        """Until our own ``close()``; every other end is an exception."""
        self._tell(self.receiver.opened)
        while True:
            pause = self._look_around()
            if self._closing:
                return
            if self._errands:
                self._run_errand()
            else:
                self._ask_or_wait(pause)

    def _look_around(self) -> float:
        """Do what is due; seconds until something is."""
        if self._session.aborted:
            raise Aborted("aborted")
        now = time.monotonic()
        if self._poked.wait(0.0) or now >= self._due:
            self._poked.clear()
            if not self._closing:
                pause = self._tell(self.receiver.tick)
                now = time.monotonic()
                self._due = now + max(0.0, pause)
        return max(0.0, self._due - now)

    def _ask_or_wait(self, pause: float) -> None:
        now = time.monotonic()
        ask = self._tell(self._poll)
        if ask is None or now < self._not_before:
            self._poked.wait(pause if ask is None else min(pause, self._not_before - now))
            return
        self._asked = ask
        try:
            answer = self._fetch(ask, self._idle)
        except _Interrupted:
            return
        finally:
            self._asked = None
        if not self._take(answer):
            # However the questions differ: a cursor may move, as a clock does, with nothing behind it.
            self._not_before = max(self._not_before, now + self._interval)

    def _idle(self) -> float:
        """While a request is held: what is due, unless that makes another one the right one."""
        pause = self._look_around()
        if self._closing or self._errands or self._tell(self._poll) != self._asked:
            raise _Interrupted
        return pause

    def _run_errand(self) -> None:
        errand = self._errands[0]
        now = time.monotonic()
        if now < self._not_before:
            self._poked.wait(min(self._not_before - now, max(0.0, self._due - now)))
            return
        try:
            answer = self._fetch(errand, self._idle_on_errand)
        except _Interrupted:
            return
        if answer.status not in _LATER:
            self._errands.popleft()
        self._take(answer)

    def _idle_on_errand(self) -> float:
        pause = self._look_around()
        if self._closing:
            raise _Interrupted
        return pause

    def _fetch(self, ask: Ask, idle: Callable[[], float]) -> Answer:
        target = self.target
        try:
            return self._session.fetch(
                ask.method, target.url + ask.path, params=ask.params,
                data=None if ask.body is None else ask.body.encode(),
                headers={**target.headers, **dict(ask.headers)},
                deadline=self._hold + _GRACE + _BODY, max_body=target.max_message, idle=idle)
        except AnswerTooLong as error:
            self._tell(self.receiver.malformed, str(error))
            raise
        except ConfigurationError as error:
            raise ConnectFailed(str(error)) from None

    # -- answers ---------------------------------------------------------------------------------

    def _take(self, answer: Answer) -> bool:
        """What an answer means; whether it has brought anything new."""
        new = False
        status = answer.status
        if status in _LATER and answer.retry_after is not None and answer.retry_after <= _PATIENCE:
            # At once is too soon: it would say the same, as fast as it can.
            self._not_before = time.monotonic() + max(answer.retry_after, self._interval)
            self._tell(self.receiver.alive)
        elif status in _NOTHING_NEW or (200 <= status < 300 and not answer.body):
            self._tell(self.receiver.alive)
        elif 200 <= status < 300:
            messages, new = self._tell(self._polled, status, answer.headers, answer.body)
            if messages:
                self._tell(self.receiver.received, messages)
            else:
                self._tell(self.receiver.alive)
        else:
            raise ConnectFailed(f"HTTP {status}{_said(answer)}", status, answer.retry_after)
        return new

    def _tell(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            receiver_raised(urlsplit(self.target.url).hostname or "", error)


def _checked(target: Target) -> Mapping[str, Any]:
    options = target.options
    unknown = sorted(set(options) - _OPTIONS)
    if unknown or "poll" not in options or "polled" not in options:
        raise ConfigurationError(
            f"a long poll needs the options poll and polled, and knows hold and interval; not {unknown}")
    if not target.url.startswith(("http://", "https://")):
        raise ConfigurationError("the url must be http://host:port or https://host:port")
    return options


def _said(answer: Answer) -> str:
    """The beginning of a refusal's text, if it is one."""
    kind = answer.headers.get("Content-Type", "")
    if not kind.startswith(("text/plain", "application/json")):
        return ""
    return f": {answer.body[:200].decode('utf-8', 'replace')!r}"

"""A ``requests.Session`` for users' own calls to one exchange: it knows the way, the limit and the key.

Imported when first asked for: it needs ``requests``, which takes longer to import than all the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import urljoin, urlsplit

from .credentials import public_url
from .errors import TransportError
from .http import AbortableSession, prepared
from .transports.retry import retry_after_of

__all__ = ["ExchangeSession"]

ATTEMPTS = 3
PAUSE = 0.25                    # seconds before the second attempt; doubles
LONGEST_RETRY_AFTER = 30.0      # seconds; a server that wants more gets its answer shown instead
_PORTS = {"http": 80, "https": 443}
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_PASSING = frozenset({429, 500, 502, 503, 504})


class ExchangeSession(AbortableSession):
    """What :meth:`streams.StreamManager.rest` gives. Everything of a ``requests.Session`` works as ever;
    besides,

     * a URL may be a path: it is asked of the exchange;
     * a call to the exchange carries the credentials, and waits for room in the venue's limit, but no
       longer than its time-out: it raises ``TransportError`` then;
     * calls that may be repeated are, up to three times in all, after a broken connection, a 5xx or a
       429 (whose Retry-After is obeyed, unless it is longer than the time-out);
     * every call has time-outs, and ends when the manager stops.

    Credentials go to the exchange only, whatever other addresses the session is used for, or sent to by
    a redirect.

    Args:
        base_url: Scheme, host, port of the exchange.
        headers: Credentials.
        turn: Called for each call to the exchange: waits for room in the limit until a deadline (monotonic
            seconds), and holds it meanwhile.
        hold_off: Told how many seconds the exchange wants to hear nothing from us.
        options: As for :class:`AbortableSession`.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str],
                 turn: Callable[[float], AbstractContextManager[None]],
                 hold_off: Callable[[float], None], **options: Any) -> None:
        super().__init__(**options)
        self._base = base_url
        self._origin = _origin(base_url)
        self._credentials = dict(headers)
        self._turn = turn
        self._hold_off = hold_off

    def __repr__(self) -> str:
        return f"<ExchangeSession of {public_url(self._base)}>"

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """See ``requests.Session.request``."""
        url = urljoin(self._base + "/", url)
        patience = self._patience(kwargs.setdefault("timeout", self.timeout))
        ours = _origin(url) == self._origin
        if ours:
            kwargs["headers"] = {**self._credentials, **(kwargs.get("headers") or {})}
        attempts = ATTEMPTS if method.upper() in _REPEATABLE else 1
        for attempt in range(1, attempts + 1):
            pause = PAUSE * 2.0 ** (attempt - 1)
            with self._turn(time.monotonic() + patience) if ours else nullcontext():
                try:
                    response = super().request(method, url, *args, **kwargs)
                except (OSError, TransportError) as error:
                    if attempt == attempts or self.aborted or isinstance(error, ValueError):
                        raise           # a ValueError: no URL that can be asked
                    response = None
            if response is not None:
                asked = retry_after_of(
                    response.headers.get("Retry-After", ""), response.headers.get("Date", ""))
                if asked and ours and response.status_code in (418, 429):
                    self._hold_off(asked)
                if (response.status_code not in _PASSING or attempt == attempts
                        or (asked or 0.0) > min(LONGEST_RETRY_AFTER, patience)):
                    return response
                response.close()
                pause = asked or pause
            self._sleep(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        """See ``requests.Session.rebuild_auth``: what becomes of credentials when a redirect is followed."""
        super().rebuild_auth(prepared_request, response)  # type: ignore[no-untyped-call]
        if _origin(prepared_request.url) != self._origin:
            for name in self._credentials:
                prepared_request.headers.pop(name, None)

    def _patience(self, timeout: Any) -> float:
        """Seconds that a call may wait for its turn: what its time-outs come to."""
        parts = zip(timeout if isinstance(timeout, tuple) else (timeout,), self.timeout)
        return sum(given if isinstance(given, int | float) else usual for given, usual in parts)

    def _sleep(self, seconds: float) -> None:
        """Wait, but not once the session is aborted."""
        self.ended.wait(seconds)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port that a URL leads to. One that is none has none, and requests will say so."""
    try:
        parts = urlsplit(prepared(url))
        return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return "", None, None

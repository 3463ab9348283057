"""A ``requests.Session`` for users' own calls to one exchange: it knows the way, the limit and the key.

Imported when first asked for: it needs ``requests``, which takes longer to import than all the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from .credentials import public_url
from .errors import TransportError
from .http import AbortableSession, retry_after_of

__all__ = ["ExchangeSession"]

ATTEMPTS = 3
PAUSE = 0.25                    # seconds before the second attempt; doubles
LONGEST_RETRY_AFTER = 30.0      # seconds; a server that wants more gets its answer shown instead
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_PASSING = frozenset({429, 500, 502, 503, 504})


class ExchangeSession(AbortableSession):
    """What :meth:`streams.StreamManager.rest` gives. Everything of a ``requests.Session`` works as ever;
    besides,

     * a URL may be a path: it is asked of the exchange;
     * a call to the exchange carries the credentials, and waits for room in the venue's limit;
     * calls that may be repeated are, up to three times in all, after a broken connection, a 5xx or a
       429 (whose Retry-After is obeyed);
     * every call has time-outs, and ends when the manager stops.

    Credentials go to the exchange only, whatever other addresses the session is used for.

    Args:
        base_url: Scheme, host, port of the exchange.
        headers: Credentials.
        turn: Called before each call to the exchange; waits for room in the limit.
        options: As for :class:`AbortableSession`.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], turn: Callable[[], None],
                 **options: Any) -> None:
        super().__init__(**options)
        self._base = base_url
        self._origin = _origin(base_url)
        self._credentials = dict(headers)
        self._turn = turn

    def __repr__(self) -> str:
        return f"<ExchangeSession of {public_url(self._base)}>"

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """See ``requests.Session.request``."""
        url = urljoin(self._base + "/", url)
        kwargs.setdefault("timeout", self.timeout)
        ours = _origin(url) == self._origin
        if ours:
            kwargs["headers"] = {**self._credentials, **(kwargs.get("headers") or {})}
            # A redirect could carry them elsewhere, so it is the caller's to follow.
            kwargs.setdefault("allow_redirects", not self._credentials)
        attempts = ATTEMPTS if method.upper() in _REPEATABLE else 1
        for attempt in range(1, attempts + 1):
            if ours:
                self._turn()
            try:
                response = super().request(method, url, *args, **kwargs)
            except (OSError, TransportError):
                if attempt == attempts or self.aborted:
                    raise
                pause = PAUSE * 2.0 ** (attempt - 1)
            else:
                pause = retry_after_of(response.headers) or PAUSE * 2.0 ** (attempt - 1)
                if (response.status_code not in _PASSING or attempt == attempts
                        or pause > LONGEST_RETRY_AFTER):
                    return response
                response.close()
            self._sleep(pause)
        raise AssertionError("unreachable")  # pragma: no cover

    def _sleep(self, seconds: float) -> None:
        """Wait, but not once the session is aborted."""
        self.ended.wait(seconds)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc

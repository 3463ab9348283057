"""The errors of this library: one tree, so that one ``except StreamsError`` catches them all.

::

    StreamsError
    +-- ConfigurationError          a call that can not work, refused at the call (also a ValueError)
    |   +-- MissingDependency       an optional package is needed; names the extra (also an ImportError)
    +-- NotReady                    ``wait_ready`` ran out of time (also a TimeoutError)
    +-- NoData                      nothing has been received yet (also a LookupError)
    |   +-- StaleData               there is data, but it is older than asked for
    +-- SubscriptionRefused         the venue said no to a symbol or a channel
    +-- AuthenticationFailed        the venue said no to the credentials
    +-- StopTimeout                 a thread outlived the time given to stop it (also a TimeoutError)
    +-- TransportError              the network, or the peer's end of it
        +-- ConnectFailed           no connection could be made; may carry the HTTP status and Retry-After
        +-- ConnectionLost          an open connection ended
        +-- Aborted                 ended by our own ``abort()``
"""

from __future__ import annotations

__all__ = [
    "Aborted", "AuthenticationFailed", "ConfigurationError", "ConnectFailed", "ConnectionLost",
    "MissingDependency", "NoData", "NotReady", "StaleData", "StopTimeout", "StreamsError",
    "SubscriptionRefused", "TransportError",
]


class StreamsError(Exception):
    """Root of every error this library raises on purpose."""


class ConfigurationError(StreamsError, ValueError):
    """A call that can not work as written; the message says what would have been right."""


class MissingDependency(ConfigurationError, ImportError):
    """An optional package is not installed.

    Args:
        package: The name to import.
        extra: The extra of this distribution that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'market-streams[{extra}]'")
        self.package = package
        self.extra = extra


class NotReady(StreamsError, TimeoutError):
    """Some subscription had no data in the time given; the message names which."""


class NoData(StreamsError, LookupError):
    """Nothing has been received yet for that exchange and symbol."""


class StaleData(NoData):
    """The data is older than the caller accepts, or its stream is not live.

    Attributes:
        age: Seconds since the data was last known to be right; None when unknown.
    """

    def __init__(self, message: str, age: float | None = None) -> None:
        super().__init__(message)
        self.age = age


class SubscriptionRefused(StreamsError):
    """The venue refused a subscription; the message carries its reason."""


class AuthenticationFailed(StreamsError):
    """The venue refused the credentials. They are never part of the message."""


class StopTimeout(StreamsError, TimeoutError):
    """A thread was still running when the time given to stop it had passed."""


class TransportError(StreamsError):
    """The network, or the peer, ended or prevented a conversation."""


class ConnectFailed(TransportError):
    """No connection could be made.

    Attributes:
        status: HTTP status of a refused upgrade, or None.
        retry_after: Seconds the peer asked us to wait, or None.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class ConnectionLost(TransportError):
    """An open connection ended.

    Attributes:
        code: The peer's close code (RFC 6455 section 7.4), or None when there was none.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Aborted(TransportError):
    """The conversation was ended by our own ``abort()``."""

"""What every transport promises, whatever carries the bytes.

A transport makes ONE conversation: it connects, hands over messages until the conversation ends,
and is thrown away. Reconnecting, heartbeats, subscriptions and back-off belong to the stream.

House rules:
 * ``run()`` blocks in the stream's own thread and never raises for what the network or the peer
   does: it returns a :class:`Closed`. The receiver's methods are called in that thread only.
 * ``abort()`` and ``wake()`` may be called by any thread, in any state, any number of times, and
   never block. After ``abort()``, ``run()`` returns within a second whatever it was doing.
 * Transports know bytes. They know no venue, event or book.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn, Protocol

from ..credentials import public_url
from ..errors import ConfigurationError, TransportError

__all__ = ["Closed", "Receiver", "Target", "Transport"]

log = logging.getLogger("streams.transports")


@dataclass(frozen=True, repr=False)
class Target:
    """Where to connect, and how.

    Attributes:
        url: Complete address; its scheme says which transport understands it.
        headers: Extra headers of the handshake; may hold credentials.
        options: What only one kind of transport understands (framing, subprotocols, ...).
        proxy: ``http://[user:pass@]host:port`` or ``socks5://...`` (``socks5h``: it resolves), or None.
        sslopt: TLS options: ``ca_certs``, ``cert_reqs``, ``check_hostname``, ``certfile``, ``keyfile``,
            ``password`` (of an encrypted key; text, bytes, or a function that gives it), ``context`` (a ready
            ``ssl.SSLContext``), ``server_hostname``.
        connect_timeout: Seconds for each of: resolving, connecting (to all of a name's addresses), TLS,
            handshake.
        send_timeout: Seconds one outgoing message may take.
        max_message: Bytes; a longer incoming message ends the conversation before it is buffered.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    proxy: str | None = None
    sslopt: Mapping[str, Any] | None = None
    connect_timeout: float = 5.0
    send_timeout: float = 5.0
    max_message: int = 16 * 1024 * 1024

    def __repr__(self) -> str:
        return f"<Target {public_url(self.url)}>"


@dataclass(frozen=True)
class Closed:
    """How a conversation ended.

    Attributes:
        error: What ended it: ``ConnectFailed``, ``ConnectionLost``, ``Aborted``, another
            ``TransportError``; None after our own polite ``close()``.
        opened: Whether the conversation had been established (``opened()`` was called).
    """

    error: TransportError | None
    opened: bool


class Receiver(Protocol):
    """Who listens to a transport. Threads: every method is called in the thread that runs ``run()``.

    None of these methods raises.
    """

    def opened(self) -> None:
        """The conversation is established; sending is possible from now on."""

    def received(self, messages: Sequence[bytes]) -> None:
        """Whole messages, in order, one or many at once (all that one read of the socket gave)."""

    def alive(self) -> None:
        """The peer showed life without a message (a ping, a pong, a held request that ended)."""

    def malformed(self, reason: str) -> None:
        """The peer sent something that is no message; the conversation goes on or ends by itself."""

    def tick(self) -> float:
        """Do what is due. Called soon after ``opened``, after ``wake()``, and when the seconds that
        the last call returned have passed (at the latest; an earlier call is harmless)."""


class Transport:
    """One conversation over one kind of carrier. Subclasses implement every method.

    Args:
        target: Where to connect.
        receiver: Who gets what arrives.

    Attributes:
        selective: Only what was asked for arrives; anything else is a mistake of the peer.
    """

    selective: ClassVar[bool] = True

    def __init__(self, target: Target, receiver: Receiver) -> None:
        self.target = target
        self.receiver = receiver

    def run(self) -> Closed:
        """Connect, deliver until the end, say how it ended. Threads: one caller, once."""
        raise NotImplementedError

    def send(self, data: bytes | str) -> None:
        """Send one message: ``str`` as text, ``bytes`` as binary where the carrier has both.

        Threads: the thread inside ``run()`` only (that is, from the receiver's methods).

        Raises:
            ConnectionLost: The conversation is ending; what has arrived until now is delivered before.
            TransportError: It could not be sent.
        """
        raise NotImplementedError

    def ping(self) -> bool:
        """Probe the peer at the carrier's own level; answers arrive as ``receiver.alive()``.

        Returns False where the carrier has no such probe. Threads: as ``send``. Raises: as ``send``.
        """
        return False

    def take_leisure(self, leisure: bool) -> None:
        """Say whether nobody waits for each single message. Then messages that come in quick succession may
        gather for two milliseconds before they are read: each waking up costs more than most messages.

        Threads: as ``send``.
        """

    def close(self) -> None:
        """Ask for a polite end; ``run()`` returns soon, with ``Closed(error=None)``. A peer that does
        not play along is given at most half a second. Threads: as ``send``."""
        raise NotImplementedError

    def wake(self) -> None:
        """Have ``receiver.tick()`` called soon. Threads: any."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the conversation now, in whatever state it is. Threads: any; never blocks."""
        raise NotImplementedError


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises ConfigurationError for a header that HTTP can not carry. Never shows its value."""
    for name, value in headers.items():
        if any(mark in name + value for mark in "\r\n\0"):
            raise ConfigurationError(f"the header {name.strip()!r} has a line break in it")
        if not name.isascii() or any(letter > "\xff" for letter in value):
            raise ConfigurationError(f"the header {name.strip()!r} has a letter outside latin-1 in it")


def receiver_raised(peer: str, error: Exception) -> NoReturn:
    """A method of the receiver raised, as none should: that is the end, and not a silent one.

    Raises:
        TransportError: ``error`` itself when it is one, from a ``send()`` of theirs; else one that names it.
    """
    if isinstance(error, TransportError):
        raise error
    log.error("%s: the receiver failed, so the conversation ends", peer, exc_info=error)
    raise TransportError(f"the receiver failed: {error!r}") from error


def as_transport_error(error: BaseException, kind: type[TransportError]) -> TransportError:
    """``error`` itself when it is ours, else wrapped in ``kind`` with its name and text."""
    if isinstance(error, TransportError):
        return error
    text = str(error) or type(error).__name__
    return kind(f"{type(error).__name__}: {text}" if str(error) else text)

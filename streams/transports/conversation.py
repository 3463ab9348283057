"""A WebSocket conversation, from the end of its handshake to how it ended.

The loop that reads blocks, waits, ticks and notices ``wake()`` and ``abort()``; control frames; every
way to end. It knows no WebSocket library: one stands behind the few methods of :class:`Library`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from ..errors import Aborted, ConnectionLost, TransportError
from .base import Receiver, Target, receiver_raised
from .blocks import BINARY, CLOSE, PING, PONG, TEXT, BlockReader, PeerClosed, ProtocolError
from .carrier import Carrier
from .sockets import BLOCK, Line

__all__ = ["Conversation", "Library"]

_CLOSE_GRACE = 0.5  # seconds for the peer's part of a polite close
_FAIL_GRACE = 0.2  # seconds in which our reason for hanging up may reach the peer


class Library(Protocol):
    """What a conversation needs of a WebSocket library that reads from a :class:`Carrier`."""

    def read(self) -> tuple[int, bytes]:
        """Opcode and payload of the next message or control frame; answers pings, not close frames.

        Raises:
            ProtocolError: RFC 6455 is broken.
            TransportError, OSError: The connection is, or what the carrier raised.
        """

    def read_frame(self) -> tuple[int, bytes] | None:
        """The same after exactly one frame was put into the carrier; None: a message goes on."""

    def send(self, opcode: int, data: bytes | str) -> None:
        """Frame, mask and send one message."""

    def send_close(self, code: int) -> None:
        """Send a close frame."""


class _Done(Exception):
    """Our own polite close is complete."""


class Conversation:
    """What is said after a handshake.

    Args:
        target: For its limits and options.
        receiver: Who gets what arrives.
        line: The connection.
        carrier: What the library reads from, and sends through.
        name: Of the peer, for messages.

    Attributes:
        opened: Whether it has begun.

    Threads: the network thread.
    """

    def __init__(self, target: Target, receiver: Receiver, line: Line, carrier: Carrier, name: str) -> None:
        self.opened = False
        self._target = target
        self._receiver = receiver
        self._line = line
        self._carrier = carrier
        self._name = name
        self._library: Library | None = None
        self._over = True  # nothing may be sent, any more or yet
        self._closing: float | None = None  # when our polite close stops waiting for the peer's
        self._due = 0.0
        self._payloads = itertools.count(1)

    def serve(self, library: Library, plainly: bool) -> TransportError | None:
        """Talk until the end, and say how it ended (None: by our own ``close()``).

        Args:
            plainly: Have the library read everything, instead of cutting plain frames from blocks.
        """
        self._library = library
        self.opened = True
        self._over = False
        utf8 = bool(self._target.options.get("utf8"))
        reader = BlockReader(self._deliver, self._unusual, self._target.max_message, utf8)
        try:
            error = self._talk(reader, plainly)
        finally:
            self._over = True
        return None if self._closing is not None else error

    def send(self, data: bytes | str) -> None:
        """As :meth:`.base.Transport.send`."""
        self._send(TEXT if isinstance(data, str) else BINARY, data)

    def ping(self) -> None:
        """As :meth:`.base.Transport.ping`."""
        self._send(PING, b"streams-%d" % next(self._payloads))

    def close(self) -> None:
        """As :meth:`.base.Transport.close`."""
        if self._over or self._closing is not None:
            return
        self._closing = time.monotonic() + _CLOSE_GRACE
        self._line.attention = True
        self._say_goodbye(1000)

    # -- reading ---------------------------------------------------------------------------------

    def _talk(self, reader: BlockReader, plainly: bool) -> TransportError | None:
        try:
            self._tell(self._receiver.opened)
            if plainly:
                self._read_plainly(reader)
            self._read(reader)
        except _Done:
            return None
        except PeerClosed as closed:
            return self._closed(closed)
        except ProtocolError as broken:
            return self._hang_up(broken.code, broken.reason)
        except TransportError as error:
            return (error is self._line.failure and self._last_words(reader, plainly)) or error
        except OSError as error:
            return ConnectionLost(f"{self._name}: {error.strerror or error}")

    def _read(self, reader: BlockReader) -> NoReturn:
        """The loop; it ends by what is raised."""
        line, feed, monotonic = self._line, reader.feed, time.monotonic
        read = line.read
        early = self._carrier.leave()
        if early:
            feed(early)
        self._due = 0.0
        while True:
            now = monotonic()
            if now >= self._due or line.attention:
                self._look_around()
                if line.attention:
                    continue
                now = monotonic()
            block = read(now, self._due)
            if block:
                feed(block)
            elif block is not None:
                raise self._eof()

    def _look_around(self) -> None:
        """The end, if somebody wants it; else what is due."""
        line = self._line
        line.attention = False
        if line.aborted:
            raise Aborted("aborted")
        if line.failure is not None:
            raise line.failure
        now = time.monotonic()
        if self._closing is None:
            self._due = now + self._tell(self._receiver.tick)
        elif now < self._closing:
            self._due = self._closing
        else:
            raise _Done

    def _unusual(self, frame: bytes) -> tuple[int, bytes] | None:
        """One whole control frame or fragment, through the library."""
        if self._closing is not None and frame[0] & 0xF != CLOSE:
            return None  # after our close frame only the peer's is of interest
        assert self._library is not None
        self._carrier.put(frame)
        done = self._library.read_frame()
        if done is None or done[0] not in (CLOSE, PING, PONG):
            return done
        self._control(*done)
        return None

    def _control(self, opcode: int, payload: bytes) -> None:
        """A control frame that the library has checked; it has answered a ping, but no close frame."""
        if opcode != CLOSE:
            self._tell(self._receiver.alive)
            return
        if self._closing is not None:
            raise _Done
        try:
            reason = payload[2:].decode()
        except UnicodeDecodeError:
            raise ProtocolError(1007, "a close reason that is not UTF-8") from None
        code = int.from_bytes(payload[:2], "big") if payload else None
        self._say_goodbye(1000 if code is None else code)
        raise PeerClosed(code, reason)

    def _read_plainly(self, reader: BlockReader) -> NoReturn:
        """The loop without hooks: the library pulls its bytes from us, we wait while it does."""
        self._carrier.pull = self._pull
        self._due = 0.0
        while True:
            self._take_plainly(reader)

    def _take_plainly(self, reader: BlockReader) -> None:
        """One message or control frame."""
        assert self._library is not None
        opcode, payload = self._library.read()
        if opcode in (CLOSE, PING, PONG):
            self._control(opcode, payload)
        else:
            self._carrier.pulled = 0
            self._deliver([reader.message(opcode, payload)])

    def _pull(self) -> bytes:
        """The next block, however long it takes; what is due meanwhile is done."""
        line, limit = self._line, self._target.max_message
        if self._carrier.pulled > limit + BLOCK:
            raise ProtocolError(1009, f"a message of more than {limit} bytes, the limit")
        while True:
            now = time.monotonic()
            if now >= self._due or line.attention:
                self._look_around()
                if line.attention:
                    continue
                now = time.monotonic()
            block = line.read(now, self._due)
            if block:
                return block
            if block is not None:
                raise self._eof()

    # -- the receiver ----------------------------------------------------------------------------

    def _deliver(self, messages: Sequence[Any]) -> None:
        if self._closing is None:
            try:  # what _tell does, one call less for each block
                self._receiver.received(messages)
            except Exception as error:
                receiver_raised(self._name, error)

    def _tell(self, method: Callable[..., Any], *args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            receiver_raised(self._name, error)

    # -- sending and ending ----------------------------------------------------------------------

    def _send(self, opcode: int, data: bytes | str) -> None:
        if self._library is None or self._over or self._closing is not None:
            raise ConnectionLost(f"{self._name}: not connected")
        self._library.send(opcode, data)
        if self._line.failure is not None:
            raise self._line.failure

    def _say_goodbye(self, code: int) -> None:
        if self._library is None:
            return
        self._carrier.send_timeout = min(_FAIL_GRACE, self._target.send_timeout)
        try:
            self._library.send_close(code)
        except TransportError:
            pass  # it is over anyway

    def _closed(self, closed: PeerClosed) -> TransportError:
        code = "without a code" if closed.code is None else f"with code {closed.code}"
        reason = f": {closed.reason}" if closed.reason else ""
        return ConnectionLost(f"{self._name} closed the connection {code}{reason}", closed.code)

    def _eof(self) -> TransportError:
        return ConnectionLost(f"{self._name} ended the connection without a close frame")

    def _last_words(self, reader: BlockReader, plainly: bool) -> TransportError | None:
        """What a peer that takes nothing any more sent before: messages, and perhaps a close frame."""
        deadline = time.monotonic() + _FAIL_GRACE
        limit = self._target.max_message + BLOCK

        def pull() -> bytes:
            if time.monotonic() > deadline or self._carrier.pulled > limit:
                raise BlockingIOError
            return self._line.receive()
        try:
            if plainly:
                self._carrier.pull = pull
                while True:
                    self._take_plainly(reader)
            while block := pull():
                reader.feed(block)
        except PeerClosed as closed:
            return self._closed(closed)
        except (OSError, TransportError, ProtocolError):
            pass  # that sending failed is the older error
        return None

    def _hang_up(self, code: int, reason: str) -> TransportError:
        """On a peer that broke the rules; it gets a moment to hear why."""
        try:
            self._tell(self._receiver.malformed, reason)
        except TransportError:
            pass  # logged; the end is the same
        self._over = True
        self._say_goodbye(code)
        deadline = time.monotonic() + _FAIL_GRACE
        try:
            while self._line.receive_by(deadline) and time.monotonic() < deadline:
                pass  # closing with data unread would reset the connection, and lose our close frame
        except (OSError, TransportError):
            pass
        return ConnectionLost(f"{self._name} sent {reason}; closed with {code}")

"""One WebSocket client of a simulated venue, seen from the server."""
from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from . import frames
from .frames import FrameError, Message
from .peer import Peer

if TYPE_CHECKING:
    from .faults import Fault
    from .trouble import Trouble

_CLOSE_PATIENCE = 1.0       # seconds for the client to answer a close frame


class Connection:
    """A WebSocket connection after its handshake.

    Attributes:
        id: 1, 2, 3, ... in the order of the upgrade requests.
        path: the path that was asked for, without the query.
        query: the raw query string.
        headers: the request's headers, names in lower case.
        subscriptions: the venue's own names of the topics that are subscribed.
        received: the last messages of the client (text as str, binary as bytes).
        pongs: how many pong frames came in.
        pings: how many ping frames came in.
        close_code: the code of the client's close frame, once there was one.
        closed: True when the connection is over.
        session: free for the venue's protocol.
        variant: which rendering of a message this client wants; equal variants share bytes.
        pongless: ping frames are not answered.
        silent: nothing goes out any more, not even a pong.
        deaf: nothing is read any more.
        fragment: 0, or the size of the fragments that data messages are sent in.
        trouble: the faults that are switched on; None on a healthy connection.
        planned: the fault that strikes when the connection is open.
        handshake_seconds: how long the answer to the upgrade takes.
    """

    def __init__(self, number: int, peer: Peer, path: str, query: str,
                 headers: dict[str, str]) -> None:
        self.id = number
        self.peer = peer
        self.path = path
        self.query = query
        self.headers = headers
        self.subscriptions: set[str] = set()
        self.received: deque[str | bytes] = deque(maxlen=1000)
        self.pongs = 0
        self.pings = 0
        self.close_code: int | None = None
        self.closed = False
        self.opened_at = time.monotonic()
        self.session: Any = None
        self.variant: tuple[object, ...] = ()
        self.pongless = False
        self.silent = False
        self.deaf = False
        self.fragment = 0
        self.trouble: Trouble | None = None
        self.planned: Fault | None = None
        self.handshake_seconds = 0.0
        self._pinged_between = False
        self._closing_since: float | None = None
        self._lock = threading.Lock()
        self._timers: list[tuple[float, float | None, Callable[[], None]]] = []

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<{type(self).__name__} {self.id} {self.path} {state}>"

    # -- out -------------------------------------------------------------------------------------

    def queue(self, frame: bytes) -> None:
        """Queue bytes that are a whole frame already; nothing happens once silent or closing.

        Threads: any.
        """
        if not self.silent and self._closing_since is None:
            self.peer.queue(frame)

    def queue_message(self, opcode: int, payload: bytes) -> None:
        """Queue one message; in fragments, with a control frame between them, if so asked.

        Threads: any.
        """
        if not self.fragment or opcode >= frames.CLOSE:
            self.queue(frames.build(opcode, payload))
            return
        pieces = list(frames.build_fragments(opcode, payload, self.fragment))
        if len(pieces) > 1:     # control frames may come in between; one ping to answer will do
            control = frames.PONG if self._pinged_between else frames.PING
            self._pinged_between = True
            pieces.insert(1, frames.build(control, b"between"))
        self.queue(b"".join(pieces))    # at once: no other message may come in between

    def send(self, message: str | bytes) -> None:
        """Send one message now: str as text, bytes as binary.

        Threads: any.
        """
        if isinstance(message, str):
            self.queue_message(frames.TEXT, message.encode("utf-8"))
        else:
            self.queue_message(frames.BINARY, message)
        self.peer.flush()

    def ping(self, payload: bytes = b"") -> None:
        """Send a ping frame. Threads: any."""
        self.queue(frames.build(frames.PING, payload))
        self.peer.flush()

    def send_oversized(self, opcode: int, size: int) -> None:
        """Announce one frame of ``size`` bytes and stream it as fast as the client reads.

        Threads: any.
        """
        if not self.silent and self._closing_since is None:
            self.peer.queue(frames.header(opcode, size))
            self.peer.queue_lazily(_filler(size))
            self.peer.flush()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Start the closing handshake; the client has a second to answer.

        Threads: any.
        """
        with self._lock:
            if self._closing_since is not None:
                return
            if not self.silent:
                self.peer.queue(frames.build_close(code, reason))
            self._closing_since = time.monotonic()
        self.peer.flush()
        self.peer.wake()

    # -- timers ----------------------------------------------------------------------------------

    def every(self, interval: float, callback: Callable[[], None]) -> None:
        """Call back every ``interval`` seconds for as long as the connection lives.

        Threads: any; the callback runs in the connection's own.
        """
        self._add_timer(interval, interval, callback)

    def after(self, delay: float, callback: Callable[[], None]) -> None:
        """Call back once, ``delay`` seconds from now. Threads: as `every`."""
        self._add_timer(delay, None, callback)

    def _add_timer(self, delay: float, interval: float | None,
                   callback: Callable[[], None]) -> None:
        with self._lock:
            self._timers.append((time.monotonic() + delay, interval, callback))
        self.peer.wake()

    def next_timeout(self) -> float | None:
        """Seconds until something is due, or None. Threads: the connection's own thread only."""
        with self._lock:
            due = [timer[0] for timer in self._timers]
        if self._closing_since is not None:
            due.append(self._closing_since + _CLOSE_PATIENCE)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def run_timers(self) -> bool:
        """Run what is due; False when the client has had its time to answer a close frame.

        Threads: the connection's own thread only.
        """
        now = time.monotonic()
        if self._closing_since is not None and now >= self._closing_since + _CLOSE_PATIENCE:
            return False
        with self._lock:
            due = [timer for timer in self._timers if timer[0] <= now]
            self._timers = [timer for timer in self._timers if timer[0] > now]
            self._timers += [(now + timer[1], timer[1], timer[2]) for timer in due
                             if timer[1] is not None]
        for _, _, callback in due:
            callback()
        return True

    # -- in --------------------------------------------------------------------------------------

    def take_control(self, message: Message) -> bool:
        """Answer a ping, pong or close frame.

        Threads: the connection's own thread only.

        Returns:
            False when this was the end of the conversation.

        Raises:
            FrameError: a malformed close frame.
        """
        if message.opcode == frames.PING:
            self.pings += 1
            if not self.pongless:
                self.queue(frames.build(frames.PONG, message.payload))
                self.peer.flush()
        elif message.opcode == frames.PONG:
            self.pongs += 1
        else:
            self.close_code, _ = frames.parse_close(message.payload)
            if self.silent:             # a mute venue does not notice
                return True
            if self._closing_since is None:
                self.peer.queue(frames.build(frames.CLOSE, message.payload[:2]))
            return False
        return True

    def fail(self, error: FrameError) -> None:
        """The client broke the protocol: say so and end. Threads: own thread only."""
        if not self.silent and self._closing_since is None:
            self.peer.queue(frames.build_close(error.code, error.reason))


def _filler(size: int) -> Iterator[bytes]:
    chunk = random.Random(size).randbytes(1 << 15).hex().encode("ascii")
    while size > 0:
        yield chunk[:size]
        size -= len(chunk)

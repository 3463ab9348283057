"""What websocket-client holds for a socket, and the peer's answer to the upgrade.

The library asks for a few bytes at a time and would wait in the socket for them. Here it gets
them from what has been read already; when there is nothing, it is left by an exception, or the line
waits (with its own deadline, and ended by an abort).

The answer to the upgrade is read whole before the library judges it: one deadline covers all of it
(a peer that sends a byte a second extends nothing), its size is bounded, and a refusal keeps what the
stream needs, the status and ``Retry-After``. A redirect counts as a refusal: the library would follow
it with a socket of its own, and the user should know of the change anyway. Of an accepted upgrade it sees
only what it judges: it would keep cookies for the whole process, and give them to the next conversation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection

from ..errors import ConnectFailed
from .retry import length_of, retry_after_of
from .sockets import Line

__all__ = ["Carrier", "Dry", "Over"]

_LIMIT = 65536
_BODY_LIMIT = 4096
_BODY_GRACE = 0.5  # seconds; a refusal's text is worth no longer
_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/1\.[01] +(\d{3})([^\r\n]*)")
_JUDGED = re.compile(rb"(?im)^(upgrade|connection|sec-websocket-[a-z]+):[ \t]*([^\r\n]*)")


class Dry(Exception):
    """The frame at hand is used up; the library keeps its state until the next one."""


class Over(BaseException):
    """Carries our own verdict (its cause) out through the library, which handles every Exception."""


class Carrier:
    """What the library holds for a socket: the line, without any waiting of the library's own.

    Args:
        offered: Subprotocols, in lower case: the peer may choose no other.

    Attributes:
        deadline: Of the handshake (a moment of ``time.monotonic()``); None outside it.
        pull: Where the next bytes come from when those at hand are used up.
        pulled: Bytes pulled; whoever limits a message's length sets it back.
        send_timeout: Seconds for each outgoing frame.

    Threads: the line's owner.
    """

    _closed = False  # the library looks at it

    def __init__(self, line: Line, name: str, send_timeout: float, offered: Collection[str] = ()) -> None:
        self._line = line
        self._name = name
        self._offered = offered
        self._data = b""
        self._at = 0
        self.deadline: float | None = None
        self.pull: Callable[[], bytes] = self._pull_answer
        self.pulled = 0
        self.send_timeout = send_timeout

    def put(self, frame: bytes) -> None:
        """Have ``frame`` read next, and nothing after it."""
        self._data, self._at = frame, 0

    def leave(self) -> bytes:
        """What came behind the handshake; from now on only ``put`` gives anything to read."""
        data = self._data[self._at:]
        self._data, self._at = b"", 0
        self.pull = self._pull_nothing
        return data

    def recv(self, most: int) -> bytes:
        if self._at >= len(self._data):
            self._data, self._at = self.pull(), 0
            self.pulled += len(self._data)
        piece = self._data[self._at:self._at + most]
        self._at += len(piece)
        return piece

    def send(self, data: bytes | str) -> int:
        raw = data.encode() if isinstance(data, str) else data
        try:
            self._line.send(raw, self.send_timeout)
        except Exception as error:
            if self.deadline is not None:
                raise Over from error
            if error is not self._line.failure:
                raise
            # Not the library's business: it may be answering a ping, and what comes behind that is read on.
        return len(data)

    def _pull_answer(self) -> bytes:
        assert self.deadline is not None
        try:
            data, end = _read_answer(self._line, self.deadline, self._name)
            answer = _judged(data[:end], self._offered, self._name) + data[end:]
        except Exception as error:
            raise Over from error
        self.deadline = None
        return answer

    def _pull_nothing(self) -> bytes:
        raise Dry

    def gettimeout(self) -> float:
        return 0.0  # so the library calls recv() and send() and never waits itself

    def settimeout(self, _: float | None) -> None:
        """Time-outs are the line's."""

    def shutdown(self, _: int) -> None:
        """The line belongs to the transport."""

    def close(self) -> None:
        """The line belongs to the transport."""


def _judged(head: bytes, offered: Collection[str], name: str) -> bytes:
    """What the library gets to see of the head of an accepted upgrade.

    Raises:
        ConnectFailed: The peer has chosen what nobody offered; RFC 6455 section 4.1 wants it so.
    """
    lines = [b"HTTP/1.1 101 Switching Protocols"]
    for found in _JUDGED.finditer(head):
        field, value = found[1].lower(), found[2].decode("latin-1").strip()
        if field == b"sec-websocket-extensions" and value:
            raise ConnectFailed(f"{name} wants to use extensions that nobody offered: {value[:80]!r}")
        if field == b"sec-websocket-protocol" and value and value.lower() not in offered:
            raise ConnectFailed(f"{name} has chosen a subprotocol that nobody offered: {value[:80]!r}")
        lines.append(found[0])
    return b"\r\n".join([*lines, b"", b""])


def _read_answer(line: Line, deadline: float, name: str) -> tuple[bytes, int]:
    """The whole head of an accepted upgrade, with whatever came right behind it, and where that begins.

    Raises:
        ConnectFailed: Refused (with ``status`` and ``retry_after``), no answer in time, or no HTTP.
        Aborted: The line was aborted.
    """
    data = b""
    seen = 0  # looked through already; the end may straddle two blocks
    try:
        while (end := _END.search(data, max(0, seen - 3))) is None:
            seen = len(data)
            if seen > _LIMIT:
                raise ConnectFailed(f"{name} answered the upgrade with more than {_LIMIT} bytes of header")
            block = line.receive_by(deadline)
            if not block:
                raise ConnectFailed(f"{name} closed the connection instead of answering the upgrade")
            data += block
    except TimeoutError:
        raise ConnectFailed(f"{name} did not answer the upgrade in time") from None
    except OSError as error:
        raise ConnectFailed(f"{name}: {error.strerror or error} while waiting for the upgrade") from None
    status = _STATUS.match(data)
    if status is None:
        raise ConnectFailed(f"{name} answered the upgrade with something that is not HTTP: {data[:40]!r}")
    if status[1] != b"101":
        text = f"{name} refused the upgrade with HTTP " + (status[1] + status[2]).decode("latin-1").strip()
        raise _refusal(line, data, end.end(), deadline, text, int(status[1]))
    return data, end.end()


def _refusal(
    line: Line, data: bytes, head: int, deadline: float, text: str, status: int
) -> ConnectFailed:
    wanted = head + min(length_of(_header(data[:head], "content-length")), _BODY_LIMIT)
    deadline = min(deadline, time.monotonic() + _BODY_GRACE)
    try:
        while len(data) < wanted and (block := line.receive_by(deadline)):
            data += block
    except OSError:
        pass  # the status says enough
    location = _header(data[:head], "location").partition("?")[0]
    body = " ".join(data[head:wanted].decode("utf-8", "replace").split())[:200]
    for part in (location, body):
        if part:
            text += f": {part}"
    seconds = retry_after_of(_header(data[:head], "retry-after"), _header(data[:head], "date"))
    return ConnectFailed(text, status, seconds)


def _header(head: bytes, name: str) -> str:
    found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*([^\r\n]*)", head)
    return found[1].decode("latin-1").strip() if found else ""

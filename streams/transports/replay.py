"""A recording instead of a network: ``replay:///path/to/file.jsonl.gz?speed=0``.

Parameters of the address:

``speed``
    1 (as recorded) unless given; 10 is ten times as fast, 0 as fast as possible.
``conn``
    Plays one of the connections in the file, or those that match, where it has ``*`` or ``[0-9]``
    in it. Unless given: those that streams of the same exchange have recorded, or all of them together
    where there are none of these.

What a stream sends is swallowed. What it asks by REST, :meth:`ReplayTransport.http` answers from the
recording: at the place of an answer in the recording, the frames wait until it has been asked for,
for a moment, so that books come together as they did. Times of receipt are those of the replay.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import url2pathname

from ..bells import Doorbell
from ..errors import Aborted, ConfigurationError, ConnectFailed, ConnectionLost, TransportError
from ..playback import Record, read_recording
from ..venue import RestRequest
from .base import Closed, Receiver, Target, Transport, as_transport_error

__all__ = ["Playback", "PlaybackRest", "ReplayTransport"]

_log = logging.getLogger("streams.transports")

BATCH = 64  # messages handed over at once when there is no hurry to be kept
PATIENCE = 1.0  # seconds the frames wait for somebody to ask for a REST answer
KEPT = 1000  # sent messages that are kept
_FREE = frozenset(("limit",))  # parameters of a REST call that may differ from the recorded one


class Step(NamedTuple):
    """What comes next in a conversation: messages, a REST answer, or its end."""

    time: int | None
    messages: list[Any]  # bytes; or str, where it was delivered so
    answer: int = -1  # number of the record with a REST answer
    end: str = ""  # why the conversation ends


class Playback:
    """A recording, and how far it has been played.

    One that is passed to several transports (as ``Target.options["playback"]``) lets the second
    conversation begin where the first one ended: a recorded reconnect is played as a reconnect.

    Args:
        url: See the module.
        own: Which connections to play, if there are any such in the file and the address says nothing.

    Raises:
        ConfigurationError: No such file, no recording, or an unknown parameter.

    Attributes:
        speed: See the module.
        finished: There is no further conversation: that which is under way, or was played last, is the last.
    """

    def __init__(self, url: str, own: str = "") -> None:
        self._path, self.speed, self._conn = _parse(url)
        self._own = "" if self._conn else own   # until it is known whether there are any
        self.finished = False
        self._records = enumerate(read_recording(self._path))
        self._next: tuple[int, Record] | None = None
        self._lock = threading.Lock()
        self._position = 0
        self._passed: dict[str, tuple[int, bytes]] = {}  # newest REST answer by address, not asked for
        self._served: set[int] = set()
        self._missing: set[tuple[str, frozenset[tuple[str, str]]]] = set()  # calls: no more answers ahead
        self._impatient: set[str] = set()  # paths of answers nobody asked for
        self._open: set[str] = set()
        self._interrupted: Callable[[], bool] = bool

    def begin(self, interrupted: Callable[[], bool] = bool) -> bool:
        """Go to where the next conversation begins; False when there is none. Threads: one at a time.

        Args:
            interrupted: Asked for each record, here and until the next conversation: they may be millions.

        Raises:
            Aborted: ``interrupted`` said so; likewise in :meth:`steps`.
        """
        self._interrupted = interrupted
        if self._own:
            self._conn, self._own = self._own if self._names(self._own) else "", ""
        self._open.clear()
        while (found := self._peek()) is not None:
            number, record = found
            if record.kind in ("connect", "recv") and self._follows(record):
                return True
            if record.kind == "http" and self._follows(record):
                self._pass(number, record)
            self._next = None
        return False

    def steps(self) -> Iterator[Step]:
        """One conversation; the last step says how it ended. Threads: as :meth:`begin`."""
        while (found := self._peek()) is not None:
            number, record = found
            if record.kind == "http" and self._follows(record):
                self._next = None
                self._pass(number, record)
                yield Step(record.time, [], answer=number)
            elif record.kind == "recv" and self._follows(record):
                yield self._batch(record)
            else:
                self._next = None
                end = self._boundary(record) if self._follows(record) else ""
                if end:
                    self.begin(self._interrupted)   # so that it is known whether this was the last one
                    yield Step(record.time, [], end=end)
        yield Step(None, [], end="the recording has ended")

    def wanted(self, number: int) -> bool:
        """Whether it is worth while to wait for somebody to ask for this REST answer."""
        with self._lock:
            return any(passed == number and _path(url) not in self._impatient
                       for url, (passed, _) in self._passed.items())

    def give_up(self, number: int) -> None:
        """Nobody has asked for this REST answer: do not wait for others like it."""
        with self._lock:
            self._impatient.update(
                _path(url) for url, (passed, _) in self._passed.items() if passed == number)

    def http(self, url: str) -> bytes | None:
        """The recorded answer to a REST call: the newest one that has been passed, else the next one.

        Each is given once; None when there are no more. Threads: any; may read the file to its end, which
        it does once at most for answers that are not there.
        """
        call = _path(url), frozenset(_parameters(url).items())
        with self._lock:
            matching = [key for key in self._passed if _same_call(key, url)]
            if matching:
                number, body = max(self._passed.pop(key) for key in matching)
                self._served.add(number)
                return body
            if call in self._missing:
                return None
            position = self._position
        for number, record in enumerate(read_recording(self._path)):
            if self._interrupted():
                return None
            if (number >= position and record.kind == "http" and self._follows(record)
                    and _same_call(record.url, url)):
                with self._lock:
                    if number not in self._served:
                        self._served.add(number)
                        self._passed.pop(record.url, None)
                        return record.data
        with self._lock:
            self._missing.add(call)
        return None

    def close(self) -> None:
        """Let go of the file. Threads: as :meth:`begin`."""
        self._records = enumerate(iter(()))
        self._next = None

    def _peek(self) -> tuple[int, Record] | None:
        if self._next is None:
            if self._interrupted():
                raise Aborted("aborted")
            self._next = next(self._records, None)
            if self._next is None:
                self.finished = True
            else:
                with self._lock:
                    self._position = self._next[0]
        return self._next

    def _names(self, wanted: str) -> bool:
        """Whether the recording has such connections."""
        for record in read_recording(self._path):
            if self._interrupted():
                raise Aborted("aborted")
            if fnmatchcase(record.stream, wanted):
                return True
            if record.kind == "recv" and not record.stream:
                break                           # where one has no name none has
        return False

    def _follows(self, record: Record) -> bool:
        return not self._conn or fnmatchcase(record.stream, self._conn)

    def _batch(self, record: Record) -> Step:
        """Messages that were received at once, or simply a number of them when speed does not matter."""
        messages: list[Any] = []
        following: Record | None = record
        while (following is not None and following.kind == "recv" and self._follows(following)
               and len(messages) < BATCH and (not self.speed or following.time == record.time)):
            messages.append(following.data.decode() if following.text else following.data)
            self._next = None
            found = self._peek()
            following = found[1] if found else None
        return Step(record.time, messages)

    def _boundary(self, record: Record) -> str:
        """Why the conversation ends with this record; "" when it goes on."""
        if record.kind == "connect":
            self._open.add(record.stream)
        elif record.kind == "gap":
            return f"{record.frames} frames are missing in the recording ({record.reason})"
        elif record.kind == "close":
            self._open.discard(record.stream)
            if not self._open:
                return record.reason or "closed"
        return ""

    def _pass(self, number: int, record: Record) -> None:
        with self._lock:
            if number not in self._served:
                self._passed[record.url] = number, record.data


class PlaybackRest:
    """REST out of a recording: what :class:`streams.rest.Rest` is to a live stream."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

    def fetch(self, request: RestRequest, done: Callable[[str, bytes | None, str, float], None],
              wanted: Callable[[], bool]) -> None:
        """See :class:`streams.refresh.RestSource`; answers at once, in the caller's thread."""
        url = f"{request.path}?{urlencode(request.params)}"
        body = self._playback.http(url)
        done(url, body, "" if body is not None else "the recording has no such answer", 0.0)

    def suspect(self) -> None:
        """See :class:`streams.refresh.RestSource`; a recording has no connections."""


class ReplayTransport(Transport):
    """Plays one conversation of a recording.

    ``Target.options["playback"]`` may hold a :class:`Playback` to go on with; without one, every
    conversation is the first one in the file.

    Attributes:
        sent: The last messages that were sent.
    """

    selective: ClassVar[bool] = False       # a recording holds what its maker asked for

    def __init__(self, target: Target, receiver: Receiver) -> None:
        super().__init__(target, receiver)
        playback = target.options.get("playback")
        if playback is not None and not isinstance(playback, Playback):
            raise ConfigurationError(f"options['playback'] must be a Playback, not {playback!r}")
        self._own = playback is None
        self._playback = Playback(target.url) if playback is None else playback
        self.sent: deque[bytes | str] = deque(maxlen=KEPT)
        self._poke = Doorbell()
        self._aborted = self._closing = self._woken = self._pinged = False
        self._due = 0.0  # monotonic seconds of the next tick

    def run(self) -> Closed:
        """See Transport."""
        opened = False
        error: TransportError | None
        try:
            if self._aborted:
                raise Aborted("aborted")
            if not self._playback.begin(lambda: self._aborted):
                return Closed(ConnectFailed("the recording has ended"), opened)
            opened = True
            self.receiver.opened()
            error = self._play()
        except (TransportError, ConfigurationError, OSError) as failure:
            error = as_transport_error(failure, ConnectionLost if opened else ConnectFailed)
        except Exception as failure:  # a receiver must not raise: a mistake of ours, shown and survived
            _log.exception("replay: the receiver failed")
            error = as_transport_error(failure, ConnectionLost)
        finally:
            if self._own:
                self._playback.close()
        return Closed(error, opened)

    def send(self, data: bytes | str) -> None:
        """See Transport. Kept in :attr:`sent`, and otherwise ignored."""
        self.sent.append(data)

    def ping(self) -> bool:
        """See Transport. Always answered."""
        self._pinged = True
        self._poke.ring()
        return True

    def close(self) -> None:
        """See Transport."""
        self._closing = True
        self._poke.ring()

    def wake(self) -> None:
        """See Transport."""
        self._woken = True
        self._poke.ring()

    def abort(self) -> None:
        """See Transport."""
        self._aborted = True
        self._poke.ring()

    def http(self, url: str) -> bytes | None:
        """The recorded answer to a REST call, None when there is none. Threads: any."""
        body = self._playback.http(url)
        self._poke.ring()
        return body

    def _play(self) -> TransportError | None:
        """Play until the end of the conversation; None after our own close."""
        playback, speed = self._playback, self._playback.speed
        begun, first = time.monotonic(), None
        for step in playback.steps():
            until = 0.0
            if speed and step.time is not None:
                first = step.time if first is None else first
                until = begun + (step.time - first) / 1e9 / speed
            if not self._attend(until):
                return None
            if step.end:
                return ConnectionLost(step.end)
            if step.answer >= 0:
                if not self._hold(step.answer):
                    return None
            elif max(map(len, step.messages)) > self.target.max_message:
                self.receiver.malformed(f"a message is longer than {self.target.max_message} bytes")
                return ConnectionLost("a message was too long")
            else:
                self.receiver.received(step.messages)
        return None

    def _hold(self, answer: int) -> bool:
        """Wait a moment for a REST answer to be asked for; False when close() was called."""
        until = time.monotonic() + PATIENCE
        while self._playback.wanted(answer):
            now = time.monotonic()
            if now >= until:
                self._playback.give_up(answer)
            elif not self._attend(until, briefly=True):
                return False
        return True

    def _attend(self, until: float, briefly: bool = False) -> bool:
        """Do what is due until that time, or only until somebody pokes; False when close() was called.

        Raises:
            Aborted: abort() was called.
        """
        while True:
            now = time.monotonic()
            if self._pinged:
                self._pinged = False
                self.receiver.alive()
            if self._woken or now >= self._due:
                self._woken = False
                self._due = now + max(self.receiver.tick(), 0.001)
            if self._aborted:
                raise Aborted("aborted")
            if self._closing:
                return False
            if now >= until:
                return True
            poked = self._poke.wait(max(min(until, self._due) - now, 0.0))
            self._poke.clear()
            if poked and briefly:
                return not self._closing


def _parse(url: str) -> tuple[str, float, str]:
    """File, speed and connection of an address."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    speed, conn = options.pop("speed", "1"), options.pop("conn", "")
    try:
        factor = float(speed)
    except ValueError:
        factor = math.nan
    if parts.scheme != "replay" or parts.netloc or not parts.path.strip("/"):
        raise ConfigurationError(f"{url!r} is no recording: write replay:///path/to/file.jsonl.gz?speed=1")
    if options:
        raise ConfigurationError(f"a replay has no parameter {next(iter(options))!r}: it has speed and conn")
    if not 0 <= factor < math.inf:
        raise ConfigurationError(f"speed must be 0 (as fast as possible) or more, not {speed!r}")
    return url2pathname(parts.path), factor, conn


def _same_call(recorded: str, asked: str) -> bool:
    """Whether a recorded REST call is the one that is asked for; hosts and limits may differ."""
    asked_path = _path(asked)
    if not recorded:  # a format that names no addresses has snapshots of one book
        return "depth" in asked_path
    return _path(recorded) == asked_path and _parameters(recorded) == _parameters(asked)


def _path(url: str) -> str:
    return urlsplit(url).path


def _parameters(url: str) -> dict[str, str]:
    return {name: value for name, value in parse_qsl(urlsplit(url).query) if name not in _FREE}

"""Raw frames to disk and back: what came over the wire, with the time it came, and no interpretation.

The format, one JSON object a line, in the order in which things happened::

    {"t":"header","source":"market-streams","version":1,"ts":1763690000.000000000}
    {"t":"connect","conn":"binance-1","ts":1763690000.1,"addr":"wss://..."}     credentials removed
    {"t":"send","conn":"binance-1","ts":...,"addr":"wss://...","data":"{...}"}  or "secret":true, no data
    {"t":"recv","conn":"binance-1","ts":...,"data":"{...}"}                     or "b64" for other bytes;
                                                  "text":true where a message was delivered as str
    {"t":"http","conn":"binance-1","ts":...,"url":"https://...","data":"{...}"}
    {"t":"gap","conn":"binance-1","ts":...,"until":...,"frames":12,"bytes":3456,"reason":"..."}
    {"t":"close","conn":"binance-1","ts":...,"reason":"..."}

``ts`` is in seconds since the epoch, with nine decimals: nanoseconds survive where it is read as
text. A file is a sequence of compressed units that are complete in themselves, one every second: a
crash costs the last second, and every ordinary tool can read what is there.
"""

from __future__ import annotations

import atexit
import base64
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from .compression import compressor
from .credentials import public_url
from .errors import ConfigurationError
from .forking import tell_after_fork
from .locks import under_lock
from .playback import Record, read_recording

__all__ = ["Record", "Recorder", "Recording", "public_url", "read_recording"]

_log = logging.getLogger("streams.record")

FLUSH_EVERY = 1.0  # seconds
UNIT = 1 << 20  # bytes of lines that are compressed and written at once, about
LOG_EVERY = 60.0  # seconds between two log records about a disk that does not work
_OVERHEAD = 120  # bytes of a line besides its data, about

_encode = msgspec.json.Encoder().encode


class Recording(Protocol):
    """What streams tell a recorder."""

    def opened(self, stream: str, url: str) -> None: ...
    def received(self, stream: str, messages: Sequence[bytes], now: int) -> None: ...
    def sent(self, stream: str, data: bytes | str, secret: bool) -> None: ...
    def http(self, stream: str, url: str, body: bytes) -> None: ...
    def closed(self, stream: str, reason: str) -> None: ...


class _Entry(NamedTuple):
    """Something to be written."""

    kind: str
    stream: str
    time: int
    size: int
    messages: Sequence[bytes | str] = ()
    extra: dict[str, Any] = {}


class _Loss:
    """What a stream has lost since the last gap was written."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.frames = self.bytes = self.until = 0
        self.since: int | None = None

    def add(self, entry: _Entry) -> None:
        """Count an entry that will not be written; another gap counts for all that it stands for."""
        lost = entry.extra if entry.kind == "gap" else {}
        self.frames += lost.get("frames", len(entry.messages) or 1)
        self.bytes += lost.get("bytes", sum(map(len, entry.messages)))
        self.since = entry.time if self.since is None else min(self.since, entry.time)
        self.until = max(self.until, lost.get("until", entry.time))

    def entry(self, stream: str) -> _Entry:
        """The gap, as something to be written."""
        return _Entry("gap", stream, self.since or 0, _OVERHEAD, extra={
            "until": self.until, "frames": self.frames, "bytes": self.bytes, "reason": self.reason})


class Recorder:
    """Keeps the raw frames of any number of streams in one file; give it to them as ``recorder=``.

    The network threads only append to a bounded queue; a thread of its own encodes, compresses and
    writes. When the disk is too slow, or fails, frames are lost, counted, and marked in the file by
    a ``gap``; the streams go on. Also a context manager. In a forked child it is closed: the file is the
    parent's.

    Args:
        path: A new file. ``strftime`` fields in its name are filled in: ``feed-%Y%m%d-%H%M%S.jsonl.gz``.
        compress: ``"gzip"``, ``"zstd"`` (the extra ``record``), ``"none"``; None goes by the name
            (``.gz``, ``.zst``).
        max_pending: Bytes that may wait to be written.

    Raises:
        ConfigurationError: The file exists or can not be made, or another argument makes no sense.
        MissingDependency: ``zstandard`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], compress: str | None = None, *,
                 max_pending: int = 64 << 20) -> None:
        if isinstance(max_pending, bool) or not isinstance(max_pending, int) or max_pending < UNIT:
            raise ConfigurationError(f"max_pending must be bytes, {UNIT} or more, not {max_pending!r}")
        self.path = _filled_in(path)
        self._compress = compressor(_by_name(self.path) if compress is None else compress)
        self._limit = max_pending
        self.lock = threading.RLock()
        self._work = threading.Condition(self.lock)
        self._queue: list[_Entry] = []
        self._pending = 0  # bytes, those being written included
        self._losses: dict[str, _Loss] = {}  # not queued yet: the queue was full
        self._owed: dict[str, _Loss] = {}  # the writer's: what the disk refused
        self._addresses: dict[str, str] = {}
        self._closing = False
        self._thread: threading.Thread | None = None
        self._frames = self._lost = self._errors = 0
        self._log_after = 0.0
        self._good = 0  # length of the file up to the last complete unit
        self._file = self._begin()
        atexit.register(self._at_exit)
        tell_after_fork(self)

    def forked(self) -> None:
        """See :class:`streams.forking.Forked`. The file, and what waits to be written, is the parent's."""
        self.lock = threading.RLock()
        self._work = threading.Condition(self.lock)
        self._queue, self._pending = [], 0
        self._losses, self._closing, self._thread = {}, True, None
        self._file.close()
        atexit.unregister(self._at_exit)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Recorder({self.path!r})"

    # -- what streams say; any thread, costs an append

    def opened(self, stream: str, url: str) -> None:
        """A connection was made. Credentials in the address are left out. Threads: any."""
        address = self._addresses[stream] = public_url(url)
        self._put(_Entry("connect", stream, time.time_ns(), _OVERHEAD, extra={"addr": address}))

    def received(self, stream: str, messages: Sequence[bytes | str], now_ns: int) -> None:
        """Messages came, as ``str`` where the venue has it so; the sequence is kept and must not be changed
        afterwards. Threads: any."""
        size = sum(map(len, messages)) + _OVERHEAD * len(messages)
        self._put(_Entry("recv", stream, now_ns, size, messages))

    def sent(self, stream: str, data: bytes | str, secret: bool) -> None:
        """A message was sent; of a secret one only that it was. Threads: any."""
        content = data.encode() if isinstance(data, str) else data
        extra: dict[str, Any] = {"addr": self._addresses.get(stream, "")}
        if secret:
            extra["secret"], content = True, b""
        self._put(_Entry("send", stream, time.time_ns(), len(content) + _OVERHEAD,
                         () if secret else (content,), extra))

    def http(self, stream: str, url: str, body: bytes) -> None:
        """A REST answer came. Credentials in the address are left out. Threads: any."""
        self._put(_Entry("http", stream, time.time_ns(), len(body) + _OVERHEAD, (body,),
                         {"url": public_url(url)}))

    def closed(self, stream: str, reason: str) -> None:
        """A connection ended. Threads: any."""
        self._put(_Entry("close", stream, time.time_ns(), _OVERHEAD, extra={"reason": reason}))

    # -- for the user

    @property
    def writable(self) -> bool:
        """Whether it has not been closed. Threads: any."""
        return not self._closing

    def status(self) -> dict[str, Any]:
        """``path``, ``frames`` and ``bytes`` written, bytes ``pending``, frames ``lost``, disk
        ``errors``. Threads: any."""
        # Without the lock: a signal handler that stops the streams would find it held. What is being
        # written meanwhile may be in both numbers, never in none.
        pending = self._pending
        return {"path": self.path, "frames": self._frames, "bytes": self._good, "pending": pending,
                "lost": self._lost, "errors": self._errors}

    def close(self, timeout: float = 5.0) -> bool:
        """Write what waits and close the file: whether that was done in ``timeout`` seconds. What
        is recorded later is only counted as lost. Threads: any, any number of times."""
        thread = self._end()
        if thread is not None:
            thread.join(timeout)
            if thread.is_alive():
                _log.warning("%s: the disk is too slow, still writing", self.path)
                return False
        atexit.unregister(self._at_exit)
        return True

    @under_lock
    def _end(self) -> threading.Thread | None:
        """Take nothing more. The writer, if there is one, which writes the rest."""
        if not self._closing:
            losses, self._losses = self._losses, {}
            self._queue.extend(loss.entry(stream) for stream, loss in losses.items())
            if self._thread is None and not (self._queue and self._start()):
                self._file.close()
            self._closing = True        # last: whoever was interrupted here may call close() again
        self._work.notify()
        return self._thread

    # -- the network threads' side

    def _put(self, entry: _Entry) -> None:
        with self.lock:
            if self._closing or self._pending + entry.size > self._limit:
                self._lose(entry)
                return
            if self._losses and entry.stream in self._losses:
                self._queue.append(self._losses.pop(entry.stream).entry(entry.stream))
            idle = not self._queue
            self._queue.append(entry)
            self._pending += entry.size
            if self._thread is None:
                self._start()
            elif idle or self._pending >= UNIT:
                self._work.notify()

    def _lose(self, entry: _Entry) -> None:
        """Count what can not be queued. Called with the lock held."""
        self._lost += len(entry.messages) or 1
        if self._closing:
            return
        if entry.stream not in self._losses:
            self._losses[entry.stream] = _Loss("the disk is too slow")
            self._complain("the disk is too slow, frames are being lost")
        self._losses[entry.stream].add(entry)

    def _start(self) -> bool:
        """Start the writer. Called with the lock held."""
        self._thread = threading.Thread(
            target=self._write_all, name=f"streams-record-{os.path.basename(self.path)}", daemon=True)
        try:
            self._thread.start()
        except (RuntimeError, MemoryError) as error:  # no more threads, or the interpreter is ending
            self._thread = None
            self._errors += 1
            self._complain(f"no thread to write it ({error})")
            return False
        return True

    def _complain(self, what: str) -> None:
        now = time.monotonic()
        if now >= self._log_after:
            self._log_after = now + LOG_EVERY
            _log.error("recording %s: %s", self.path, what)

    def _at_exit(self) -> None:
        self.close(2.0)

    # -- the writer's side

    def _write_all(self) -> None:
        while True:
            with self._work:
                self._work.wait_for(lambda: self._queue or self._closing)
                self._work.wait_for(lambda: self._pending >= UNIT or self._closing, FLUSH_EVERY)
                entries, self._queue = self._queue, []
                last = self._closing
            self._write(entries)
            if last:
                break
        if self._owed:
            self._write_unit([])
        self._file.close()

    def _write(self, entries: list[_Entry]) -> None:
        """Write entries, in units of bounded size, letting go of each that is written."""
        unit: list[_Entry] = []
        size = 0
        entries.reverse()
        while entries:
            entry = entries.pop()
            unit.append(entry)
            size += entry.size
            if size >= UNIT:
                self._write_unit(unit)
                unit, size = [], 0
        if unit:
            self._write_unit(unit)

    def _write_unit(self, entries: list[_Entry]) -> None:
        gaps = [loss.entry(stream) for stream, loss in self._owed.items()]
        lines, unfit, failure = _encoded([*gaps, *entries])
        try:
            self._append(lines)
        except Exception as error:  # a full or broken disk; or a mistake of ours: never the stream's end
            for entry in entries:
                self._owed.setdefault(entry.stream, _Loss("the disk failed")).add(entry)
            written, lost = 0, sum(len(entry.messages) or 1 for entry in entries if entry.kind != "gap")
            failure = f"{type(error).__name__}: {error}"
        else:
            self._owed.clear()
            lost = sum(len(entry.messages) or 1 for entry in unfit)
            written = (sum(len(entry.messages) for entry in entries if entry.kind == "recv")
                       - sum(len(entry.messages) for entry in unfit if entry.kind == "recv"))
        with self._work:
            self._frames += written
            self._lost += lost
            self._pending -= sum(entry.size for entry in entries if entry.kind != "gap")
            if failure:
                self._errors += 1
                self._complain(failure)

    def _begin(self) -> Any:
        """Make the file, with its header in it."""
        try:
            self._file = open(self.path, "xb", buffering=0)
        except FileExistsError:
            raise ConfigurationError(
                f"{self.path} exists: record to a new file, for example one with %Y%m%d-%H%M%S in its "
                "name") from None
        except OSError as error:
            raise ConfigurationError(f"can not record to {self.path}: {error.strerror}") from None
        try:
            self._append(b'{"t":"header","source":"market-streams","version":1,"ts":%s}\n'
                         % _seconds(time.time_ns()))
        except OSError as error:
            self._file.close()
            raise ConfigurationError(f"can not record to {self.path}: {error.strerror}") from None
        return self._file

    def _append(self, lines: bytes) -> None:
        """Add a unit to the file: the whole of it, or nothing and OSError."""
        rest = memoryview(self._compress(lines))
        size = len(rest)
        try:
            while rest:
                rest = rest[self._file.write(rest):]
        except BaseException:
            self._file.truncate(self._good)
            self._file.seek(self._good)
            raise
        self._good += size


def _encoded(entries: list[_Entry]) -> tuple[bytes, list[_Entry], str]:
    """The lines of entries, with a gap in place of each that can not be encoded; those; what is wrong."""
    lines: list[bytes] = []
    unfit: list[_Entry] = []
    failure = ""
    for entry in entries:
        try:
            lines.append(_lines(entry))
        except Exception as error:  # a mistake of ours, or of a transport of the user's own
            failure = f"{type(error).__name__}: {error}"
            unfit.append(entry)
            loss = _Loss("it could not be encoded")
            loss.add(entry)
            lines.append(_lines(loss.entry(entry.stream)))
    return b"".join(lines), unfit, failure


def _lines(entry: _Entry) -> bytes:
    """The lines that an entry makes in the file."""
    start = b'{"t":"%s","conn":%s,"ts":%s' % (
        entry.kind.encode(), _encode(entry.stream), _seconds(entry.time))
    for name, value in entry.extra.items():
        start += b',"%s":%s' % (name.encode(), _seconds(value) if name == "until" else _encode(value))
    if not entry.messages:
        return start + b"}\n"
    return b"".join([b"%s,%s}\n" % (start, _content(message)) for message in entry.messages])


def _content(message: bytes | str) -> bytes:
    if isinstance(message, str):
        return b'"text":true,"data":' + _encode(message)
    try:
        return b'"data":' + _encode(str(message, "utf-8"))
    except UnicodeDecodeError:
        return b'"b64":"' + base64.b64encode(message) + b'"'


def _seconds(ns: int) -> bytes:
    return b"%d.%09d" % divmod(ns, 1_000_000_000)


def _filled_in(path: str | os.PathLike[str]) -> str:
    """``path`` as text, with today in its last part."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ConfigurationError(f"path must be the name of a new file, not {path!r}")
    folder, name = os.path.split(os.fspath(path))
    try:
        return os.path.join(folder, time.strftime(name) if "%" in name else name)
    except ValueError:
        raise ConfigurationError(f"the name {name!r} has a '%' that is no strftime field") from None


def _by_name(path: str) -> str:
    """The compression that the name of a file asks for."""
    return {".gz": "gzip", ".zst": "zstd"}.get(os.path.splitext(path)[1], "none")

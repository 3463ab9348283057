"""What the library logs, where the user of the command can see it: on stderr, or below the tables."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from . import figures

__all__ = ["Notes", "logging_to_notes", "logging_to_stderr"]

_KEPT = 100
_TELLING = ("streams.stream", "streams.console")


class Notes(logging.Handler):
    """Keeps the last records, as ``(ns since the epoch, text)``: warnings, and what streams say about
    themselves; that each of many books is live again would push out all else."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: deque[tuple[int, str]] = deque(maxlen=_KEPT)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        if record.levelno < logging.WARNING and record.name not in _TELLING:
            return
        try:
            text = record.getMessage()
        except Exception:           # a broken format must not end the thread that logs
            text = str(record.msg)
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self.kept.append((time.time_ns(), figures.line(text)))


@contextmanager
def logging_to_notes() -> Iterator[Notes]:
    """While entered, what is logged is kept and written nowhere: the screen is a table's."""
    notes = Notes()
    with _handled_by(notes, logging.INFO):
        yield notes


@contextmanager
def logging_to_stderr(verbose: bool) -> Iterator[None]:
    """While entered, warnings go to stderr; when ``verbose``, information too."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with _handled_by(handler, logging.INFO if verbose else logging.WARNING):
        yield


@contextmanager
def _handled_by(handler: logging.Handler, level: int) -> Iterator[None]:
    log = logging.getLogger("streams")
    before = log.level, log.propagate
    log.setLevel(level)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]

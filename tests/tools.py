"""What tests of the core share: waiting with a deadline, venues with other limits, oracles."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from types import FrameType
from typing import Any

from streams.store import Store
from streams.stream import Stream

_never = threading.Event()


def wait_until(predicate: Callable[[], object], timeout: float = 10.0, *, store: Store | None = None,
               what: str = "") -> None:
    """Wait until ``predicate()`` is true, or fail after ``timeout`` seconds.

    With a ``store`` it is asked after every update, else every few milliseconds.
    """
    deadline = time.monotonic() + timeout
    seen = None
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or predicate}")
        if store is None:
            _never.wait(0.003)
        else:
            seen = store.wait(seen, 0.02)


def at_every_step(call: Callable[[], object], do: Callable[[], object]) -> None:
    """Call ``call``, and ``do`` in the middle of it, at every place where a signal handler may run."""
    def trace(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = True
        if event in ("line", "opcode"):
            do()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)


def live(stream: Stream) -> bool:
    """Whether everything that is subscribed has data."""
    return stream.state == "live" and not stream.waiting_for()


def wait_live(*streams: Stream, timeout: float = 10.0) -> None:
    """Wait until everything that these streams subscribe has data."""
    for stream in streams:
        wait_until(lambda: live(stream), timeout, store=stream.store,
                   what=f"{stream!r} live; last error: {stream.lifecycle.last_error}; "
                        f"waiting for {stream.waiting_for()}")


def with_limits(kind: type[Stream], **limits: Any) -> type[Stream]:
    """A stream class like ``kind`` whose venue has some other limits."""
    venue: Any = type(kind.venue.__name__, (kind.venue,),
                      {"limits": dataclasses.replace(kind.venue.limits, **limits)})
    made: type[Stream] = type(kind.__name__, (kind,), {"venue": venue})
    return made


def with_venue(kind: type[Stream], **facts: Any) -> type[Stream]:
    """A stream class like ``kind`` whose venue has some other class attributes."""
    venue: Any = type(kind.venue.__name__, (kind.venue,), facts)
    made: type[Stream] = type(kind.__name__, (kind,), {"venue": venue})
    return made


class NaiveBook:
    """An order book as slow and plain as can be."""

    def __init__(self) -> None:
        self.bids: dict[Any, Any] = {}
        self.asks: dict[Any, Any] = {}
        self.sequence: int | None = None

    def apply(self, bids: Any, asks: Any, sequence: int | None, whole: bool = False) -> None:
        """Absolute sizes; 0 removes the level."""
        if whole:
            self.bids.clear()
            self.asks.clear()
        for side, changes in ((self.bids, bids), (self.asks, asks)):
            for price, size in changes:
                if size:
                    side[price] = size
                else:
                    side.pop(price, None)
        self.sequence = sequence

    def sorted(self) -> tuple[list[Any], list[Any]]:
        """Both sides, best first."""
        return sorted(self.bids.items(), reverse=True), sorted(self.asks.items())

    def touch(self) -> tuple[Any, Any]:
        """Best bid and best ask."""
        return (max(self.bids.items(), default=None),
                min(self.asks.items(), default=None))


def exact(levels: Any) -> list[tuple[Decimal, Decimal]]:
    """Levels as Decimals: float levels by their shortest digits."""
    return [(Decimal(str(price)), Decimal(str(size))) for price, size in levels]


class Delta:
    """A change of a book, as :class:`streams.venue.BookDelta` describes it."""

    def __init__(self, link: int, last: int, bids: Any = (), asks: Any = (), time: int = 0) -> None:
        self.link = link
        self.last = last
        self.bids = bids
        self.asks = asks
        self.time = time

    def __repr__(self) -> str:
        return f"<Delta {self.link}..{self.last}>"


class Packed:
    """The same with its levels still packed, as :class:`streams.venue.PackedDelta` describes it.

    Bids may be given as text; ``looked``: how often somebody wanted to have them.
    """

    def __init__(self, link: int, last: int, bids: Any = (), asks: Any = (), time: int = 0) -> None:
        self.link, self.last, self.time = link, last, time
        self.bids = bids if isinstance(bids, str) else json.dumps(bids)
        self.asks = json.dumps(asks)
        self.looked = 0

    def levels(self) -> tuple[Any, Any]:
        self.looked += 1
        bids, asks = json.loads(self.bids), json.loads(self.asks)
        if [size for _, size in bids if isinstance(size, str)]:
            raise ValueError("no size")
        return [(p, s) for p, s in bids], [(p, s) for p, s in asks]

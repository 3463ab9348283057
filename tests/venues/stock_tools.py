"""What the tests of Alpaca and Polygon share: shapes of items, and noise."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from streams.venue import Item, Malformed, Route, Venue

NOW = 1_800_000_000_000_000_000


def heard(venue: Venue, raw: bytes) -> list[Item]:
    return list(venue.receive(raw, NOW))


def events(venue: Venue, raw: bytes) -> list[Any]:
    """What routes hear; there must be no signal."""
    items = heard(venue, raw)
    assert all(route is not venue.session for route, _ in items), items
    return [event for _, event in items]


def signals(venue: Venue, raw: bytes) -> list[Any]:
    """What the session hears; there must be no event."""
    items = heard(venue, raw)
    assert all(route is venue.session for route, _ in items), items
    return [event for _, event in items]


def one(found: Sequence[Any]) -> Any:
    assert len(found) == 1, found
    return found[0]


def listen(venue: Venue, *wanted: tuple[str, str]) -> list[Route]:
    """Routes for (symbol, channel), added to the venue."""
    routes = [venue.route(symbol, channel) for symbol, channel in wanted]
    for route in routes:
        venue.add(route)
    return routes


def mangled(seeds: Iterable[bytes], count: int) -> Iterable[bytes]:
    """Frames that are cut, spliced, flipped and invented."""
    rng = random.Random(20260827)
    frames = list(seeds)
    for _ in range(count):
        frame = bytearray(rng.choice(frames))
        for _ in range(rng.randrange(1, 6)):
            kind, at = rng.randrange(6), rng.randrange(len(frame) + 1)
            if kind == 0:
                del frame[at:]
            elif kind == 1 and at < len(frame):
                frame[at] = rng.randrange(256)
            elif kind == 2:
                frame[at:at] = rng.choice(
                    [b"null", b"NaN", b"-1", b"1e999", b"{}", b"[", b'"', b"\\u0000", b"\xff"]
                )
            elif kind == 3:
                frame[at:at + rng.randrange(12)] = b""
            elif kind == 4:
                frame[at:at] = rng.choice(frames)[rng.randrange(40):][: rng.randrange(60)]
            else:
                frame[at:at] = rng.randbytes(rng.randrange(8))
        yield bytes(frame)
    for length in range(300):
        yield rng.randbytes(length)


def survives(venue: Venue, frames: Iterable[bytes]) -> int:
    """Feeds all frames; every answer must be made of items. Returns how many were malformed."""
    bad = 0
    for raw in frames:
        for route, event in venue.receive(raw, NOW):
            assert isinstance(route, Route)
            if isinstance(event, Malformed):
                assert len(event.reason) < 300
                bad += 1
    return bad

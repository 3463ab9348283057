"""What the replay server has to know of a venue."""
from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from .trouble import Outgoing
from .web import Request, Response

if TYPE_CHECKING:
    from .venue import VenueServer, Wire


class Frame(NamedTuple):
    """One data message of a recording.

    Attributes:
        lane: names symbol and kind of data, without what differs between clients.
        symbol: lower case, as in streams.
        is_book: part of an order book.
        payload: as it was on the wire, without the envelope that is some clients' choice.
    """

    lane: str
    symbol: str
    is_book: bool
    payload: bytes


class Truth:
    """The true book of one symbol, rebuilt from the recording's own snapshot and updates."""

    is_known = False
    sequence = 0

    def begin(self, snapshot: bytes) -> None:
        """Take a recorded snapshot as the beginning."""
        raise NotImplementedError

    def apply(self, payload: bytes) -> None:
        """Apply a recorded update; one that the book already has changes nothing."""
        raise NotImplementedError

    def last_id(self, payload: bytes) -> int:
        """The last update id of a recorded update."""
        raise NotImplementedError

    def body(self, limit: int | None) -> bytes:
        """The book as the venue's REST interface answers it."""
        raise NotImplementedError


class Dialect:
    """One venue's way with recorded frames. Threads: one at a time, except `rest`."""

    exchange = ""

    def wire(self, server: VenueServer) -> Wire:
        """The control language."""
        raise NotImplementedError

    def parse(self, data: bytes) -> Frame | None:
        """A recorded frame; None for what is no data (acks, pings)."""
        raise NotImplementedError

    def lane_of(self, topic: str) -> str:
        """The lane that a client's topic is served from."""
        raise NotImplementedError

    def message(self, topic: str, payload: bytes, variant: tuple[object, ...]) -> Outgoing:
        """A payload as a client of this variant gets it."""
        raise NotImplementedError

    def truth(self) -> Truth | None:
        """A book to rebuild, or None where books come whole."""
        return None

    def no_symbol(self) -> Response:
        """The answer to a request for a book that is not in the recording."""
        raise NotImplementedError

    def rest(self, request: Request, symbols: Iterable[str]) -> Response:
        """The answer to a request that was not recorded."""
        return Response.json({"error": "not in the recording"}, 404)

"""What a long-polling venue and its transport say to each other.

The venue gives the transport two functions, through ``Venue.transport_options()``:

 * ``poll() -> Ask | None``: the request to make next, from what is subscribed and the cursor so far;
   None while there is nothing to ask for.
 * ``polled(status, headers, body) -> (messages, new)``: an answer of status 2xx that is not empty. The
   venue keeps the cursor that is in it, and gives back the messages (bytes) that ``receive`` shall get, and
   whether anything new is in them: only then the next request is made at once.

and, where it wants others than the defaults, ``hold``: seconds that the server may hold a request, and
``interval``: seconds from one request to the next when nothing new comes of them.

What a venue *sends* (``subscribe`` and others return such frames) is :data:`ANEW`: what ``poll()`` says
has changed, ask anew if it has; or the frame of an :class:`Ask` of its own, made at once.
"""

from __future__ import annotations

import msgspec

__all__ = ["ANEW", "Ask", "frame_of", "parse_frame"]

ANEW = "anew"


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request.

    Attributes:
        path: Added to the address of the stream.
        params: Query parameters, ``(name, value)``.
        headers: Likewise.
        method: Of HTTP.
        body: Sent as UTF-8; None sends none.
    """

    path: str = ""
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "GET"
    body: str | None = None


def frame_of(ask: Ask) -> str:
    """The frame that has the transport make this request."""
    return msgspec.json.encode(ask).decode()


def parse_frame(frame: bytes | str) -> Ask | None:
    """The request in a frame; None for :data:`ANEW`.

    Raises:
        ValueError: It is neither.
    """
    if frame in (ANEW, ANEW.encode()):
        return None
    try:
        return msgspec.json.decode(frame, type=Ask)
    except msgspec.DecodeError as error:
        raise ValueError(f"neither {ANEW!r} nor a request: {error}") from None

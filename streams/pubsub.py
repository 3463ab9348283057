"""What one Redis pub/sub message looks like between its transport and its venue.

Transports hand bytes to venues, but a pub/sub message has parts: what kind it is, the channel it was
published to, the pattern that matched it, and the payload. They travel in one block of bytes: a
head of nine bytes (kind, length of the channel, length of the pattern; big-endian), then channel,
pattern and payload one after the other. Recordings of Redis streams hold these blocks.

The other way go *commands*: JSON texts ``{"op": "subscribe", "channels": ["a", "b"]}``, where ``op`` is
``subscribe``, ``unsubscribe``, ``psubscribe`` or ``punsubscribe``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

__all__ = ["HEAD", "Kind", "Message", "OPERATIONS", "command", "pack", "parse_command", "unpack"]

HEAD = struct.Struct(">BII")
OPERATIONS = ("subscribe", "unsubscribe", "psubscribe", "punsubscribe")


class Kind(enum.IntEnum):
    """What a message is. ``payload`` below is the last part of it."""

    MESSAGE = 1         # payload: what was published to the channel
    PMESSAGE = 2        # likewise; the pattern is the one that matched
    SUBSCRIBE = 3       # the server has done that; payload: subscriptions it counts, as decimal text
    UNSUBSCRIBE = 4
    PSUBSCRIBE = 5      # likewise, with the pattern instead of a channel
    PUNSUBSCRIBE = 6
    ERROR = 7           # the server refused a command; payload: its text
    HELLO = 8           # the session is established (logged in, database chosen)
    DENIED = 9          # the server refused the log-in or the database; payload: its text


class Message(NamedTuple):
    """The parts of a message."""

    kind: int
    channel: bytes
    pattern: bytes
    payload: bytes


def pack(kind: int, channel: bytes = b"", pattern: bytes = b"", payload: bytes = b"") -> bytes:
    """The message with these parts."""
    return HEAD.pack(kind, len(channel), len(pattern)) + channel + pattern + payload


def unpack(raw: bytes) -> Message:
    """The parts of ``raw``.

    Raises:
        ValueError: It is no such message.
    """
    if len(raw) < HEAD.size:
        raise ValueError("no pub/sub message: too short for its head")
    kind, channel, pattern = HEAD.unpack_from(raw)
    middle = HEAD.size + channel
    end = middle + pattern
    if end > len(raw):
        raise ValueError("no pub/sub message: its names are cut off")
    return Message(kind, raw[HEAD.size:middle], raw[middle:end], raw[end:])


class _Command(msgspec.Struct, forbid_unknown_fields=True):
    op: str
    channels: list[str]


def command(op: str, channels: Sequence[str]) -> str:
    """The command that does ``op`` for ``channels``."""
    return msgspec.json.encode(_Command(op, list(channels))).decode()


def parse_command(text: bytes | str) -> tuple[str, list[str]]:
    """``(op, channels)`` of a command.

    Raises:
        ValueError: It is no such command.
    """
    try:
        parsed = msgspec.json.decode(text, type=_Command)
    except msgspec.DecodeError as error:
        raise ValueError(f"no pub/sub command: {error}") from None
    if parsed.op not in OPERATIONS or not parsed.channels:
        raise ValueError(f"no pub/sub command: op must be one of {', '.join(OPERATIONS)}, with channels")
    return parsed.op, parsed.channels

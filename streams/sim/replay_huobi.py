"""Replaying Huobi/HTX: spot and swaps, gzip frames exactly as they were recorded."""
from __future__ import annotations

import gzip
import re
import zlib
from typing import TYPE_CHECKING

from . import frames
from .connection import Connection
from .huobi_wire import HuobiWire, Refused
from .replay_dialect import Dialect, Frame
from .trouble import Outgoing
from .web import Response

if TYPE_CHECKING:
    from .venue import VenueServer

_TOPIC = re.compile(rb'"ch"\s*:\s*"(market\.([^".]+)\.[^"]+)"')
_PATHS = ("/ws", "/feed", "/swap-ws", "/linear-swap-ws")


class HuobiDialect(Dialect):
    """Recorded pushes by topic; acks and pings are made afresh."""

    exchange = "huobi"

    def wire(self, server: VenueServer) -> HuobiWire:
        """Huobi's control language; every topic is acknowledged, recorded or not."""
        return HuobiWire(server, paths=_PATHS, check=lambda topic, path: None,
                         request=_no_request, subscribed=lambda conn, topic: None,
                         ping_interval=5.0, missed_pongs=2)

    def parse(self, data: bytes) -> Frame | None:
        """One gzip frame with a ``ch``."""
        try:
            text = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return None
        match = _TOPIC.search(text[:200])
        if match is None:
            return None
        topic, symbol = match[1].decode("ascii"), match[2].decode("ascii")
        return Frame(topic, symbol.lower(), ".depth." in topic or ".mbp." in topic, data)

    def lane_of(self, topic: str) -> str:
        """Each topic is its own lane."""
        return topic

    def message(self, topic: str, payload: bytes, variant: tuple[object, ...]) -> Outgoing:
        """The recorded bytes."""
        return frames.BINARY, payload

    def no_symbol(self) -> Response:
        """As the venue says it."""
        return Response.json({"status": "error", "err-code": "invalid-parameter",
                              "err-msg": "invalid symbol"})


def _no_request(conn: Connection, topic: str) -> str | None:
    raise Refused(f"{topic} is not in the recording")

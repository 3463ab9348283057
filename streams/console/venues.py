"""``streams venues``: what can be streamed, over what, and what it needs."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from ..exchanges import EXCHANGES
from .lines import columns, encoded

__all__ = ["known_venues", "venues"]

_CARRIERS = {"websocket": "WebSocket", "tcp": "TCP", "redis": "Redis", "longpoll": "long-polled HTTP"}
_CHANNELS_WIDTH = 44


def venues(options: argparse.Namespace) -> int:
    """Print the table. Returns the exit code 0."""
    known = known_venues()
    if options.json:
        for venue in known:
            sys.stdout.write(encoded(venue) + "\n")
        return 0
    table = [["name", "transport", "channels", "keys from the environment"]]
    for venue in known:
        name = " ".join([venue["name"], *(f"({alias})" for alias in venue["aliases"])])
        channels = textwrap.wrap(", ".join(map(_spelled, venue["channels"], repeat(venue["bars"]))),
                                 _CHANNELS_WIDTH)
        rows = max(len(channels), len(venue["keys"]), 1)
        for at in range(rows):
            first = [name, venue["transport"]] if at == 0 else ["", ""]
            table.append([*first, channels[at] if at < len(channels) else "",
                          venue["keys"][at] if at < len(venue["keys"]) else "none" if at == 0 else ""])
    print(columns(table))
    return 0


def _spelled(channel: str, bars: Sequence[str]) -> str:
    return f"bars:{bars[0]}..{bars[-1]}" if channel == "bars" else channel


def known_venues() -> list[dict[str, Any]]:
    """The facts about every venue, one record each."""
    found = []
    for name, kind in EXCHANGES.items():
        venue = kind.venue
        if name != venue.name:
            continue
        found.append({
            "name": name, "aliases": list(venue.aliases), "transport": _CARRIERS[venue.carrier],
            "channels": list(venue.channels), "bars": list(venue.intervals), "url": venue.url,
            "keys": [" or ".join(names) for names in (venue.key_env, venue.secret_env) if names]})
    return found

"""``streams collect``: stream, and publish to Redis for other processes and machines."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from typing import Any

from ..collector import Collector
from ..exchanges import EXCHANGES
from .ending import Ending
from .start import from_network
from .targets import channels_of, read_options, read_targets, split_names

__all__ = ["collect"]

_PROGRESS_EVERY = 5.0       # seconds between two lines


def collect(options: argparse.Namespace) -> int:
    """Run it. Returns the exit code: 0, or 1 when nothing could be published, or it did not stop in time."""
    with Ending(options.seconds) as ending, ExitStack() as stack:
        settings = from_network(stack, options)
        targets = read_targets(options.targets)
        by_exchange = read_options(options.option, list(targets))
        wanted = {}
        for exchange, symbols in targets.items():
            chosen = {**settings(exchange, symbols), **by_exchange[exchange]}
            channels = channels_of(EXCHANGES[exchange], chosen, split_names(options.channels))
            wanted[exchange] = {**chosen, "symbols": symbols, "channels": channels}
        collector = Collector(options.publish, wanted, prefix=options.prefix, name=options.name,
                              lease=options.lease)
        collector.start()
        try:
            while not ending.wait(options.interval or _PROGRESS_EVERY):
                print(_line(collector.status()), flush=True)
        finally:
            stopped = collector.stop()
        status = collector.status()
        print(_line(status))
    vain = _in_vain(status)
    if vain:
        print(f"nothing was published: {vain}", file=sys.stderr)
    return 0 if stopped and not vain else 1


def _in_vain(status: dict[str, Any]) -> str:
    """Why nothing could be published; "" where something was, or others publish it all."""
    publisher = status["publisher"]
    if publisher["items"]:
        return ""
    never = "" if status["members"] else "Redis was not reached in time"
    return status["last_error"] or publisher["last_error"] or never


def _line(status: dict[str, Any]) -> str:
    published = status["publisher"] or {}
    trouble = f", {status['last_error']}" if status["last_error"] else ""
    return (f"{status['name']}: {len(status['symbols'])} symbols, {len(status['members'])} collectors, "
            f"{published.get('items', 0):,} items published{trouble}")
